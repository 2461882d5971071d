"""Routes of drift, of the scores of good parts and of the camera."""

from __future__ import annotations

from typing import Annotated

from flawscope_station.drift.assembly import Drift
from flawscope_station.web import schemas
from flawscope_station.web.api import Answer, Engineer, api_router
from flawscope_station.web.components import ProductId, component

DriftDep = Annotated[Drift, component(Drift)]

router = api_router()


@router.get("/drift", response_model=schemas.DriftState, summary="State of drift")
def drift(product_id: ProductId, drift: DriftDep) -> Answer:
    """Return whether the scores of good parts and the camera's pictures have changed."""
    return drift.facts(product_id)


@router.post("/drift/acknowledge", response_model=schemas.DriftState)
def acknowledge_drift(product_id: ProductId, drift: DriftDep, person: Engineer) -> Answer:
    """Accept the current scores as normal; the test begins anew."""
    drift.monitor.acknowledge(product_id, person.name)
    return drift.facts(product_id)
