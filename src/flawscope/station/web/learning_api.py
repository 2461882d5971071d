"""How corrections become versions, for programs and for the page Models."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query

from flawscope.station.learning.audit_log import trail
from flawscope.station.learning.candidates import shown
from flawscope.station.store.records import holdable
from flawscope.station.web import schemas
from flawscope.station.web.api import Engineer, Here, routes

router = routes()


@router.get("/learning", response_model=schemas.Learning)
def learning(name: str, station: Here) -> Any:
    """What was corrected, and the candidates that were made of it, the newest first."""
    return station.learning.facts(station.product_id(name))


@router.post("/learning", status_code=201, response_model=schemas.Candidate)
def learn(name: str, station: Here, person: Engineer, wanted: schemas.Learn | None = None) -> Any:
    """Make a candidate of what people said, or say which one waits already."""
    how = "" if wanted is None else wanted.how
    return station.learning.ask(station.product_id(name), person.name, how)


@router.get("/candidates/{number}", response_model=schemas.Candidate)
def candidate(name: str, number: int, station: Here) -> Any:
    return shown(station.learning.candidates.row(station.product_id(name), holdable(number)))


@router.post("/candidates/{number}/reject", response_model=schemas.Candidate)
def reject(name: str, number: int, station: Here, person: Engineer) -> Any:
    """It is not used. Its version can still be activated."""
    return station.learning.reject(station.product_id(name), holdable(number), person.name)


@router.get("/trail", response_model=schemas.Trail)
def audit_trail(name: str, station: Here, limit: Annotated[int, Query(ge=1, le=500)] = 100) -> Any:
    """Who did what: versions, switches, candidates, verdicts; the latest first."""
    return {"entries": trail(station.database, station.product_id(name), limit)}
