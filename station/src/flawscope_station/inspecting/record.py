"""Record of a judged part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Protocol

from flawscope import Prediction
from flawscope.calibration import near_threshold
from flawscope_station.inspecting.ticket import Ticket, View
from flawscope_station.store.insert import NewInspection, SeenPicture
from flawscope_station.store.inspection import Finding
from flawscope_station.store.open_models import ProductModel

_SEEN = {field.name for field in fields(SeenPicture)}
# of the library's answer: columns, and words that a station uses otherwise
_SAID_OTHERWISE = {field.name for field in fields(NewInspection)} | {
    "path",
    "product",
    "decision",
    "is_anomalous",
}


class DecidedPart(Protocol):
    """Decision of the library on a part in several views."""

    @property
    def is_anomalous(self) -> bool:
        """Whether the part is anomalous."""

    @property
    def score(self) -> float:
        """Score of the part."""

    @property
    def p_value(self) -> float:
        """p-value of the part."""

    @property
    def worst(self) -> str:
        """Most unusual view of the part."""

    @property
    def findings(self) -> Sequence[Finding]:
        """Findings about the part, beside those of its views."""


def new_inspection(
    ticket: Ticket,
    views: Sequence[View],
    product: ProductModel,
    found: Sequence[Prediction],
    near: float,
    decided: DecidedPart | None = None,
    rate: float = 0.0,
    tolerances: dict[str, str] | None = None,
) -> NewInspection:
    """Return the record of a judged part whose files are still being written.

    Args:
        ticket: Ticket of the part.
        views: Pictures of the part, in the order in which they are recorded.
        product: Product and version that judged.
        found: Prediction of each picture.
        near: Multiple of the false-alarm rate up to which a good part's p-value is near the threshold.
        decided: Decision of the library on a part in views; None: the part's only picture decides.
        rate: False-alarm rate of the decision.
        tolerances: Version and SHA-256 of the rules in force; None: there are none.
    """
    part = ticket.part
    facts: dict[str, object] = {"triggers": part.triggers, "tolerances": tolerances}
    seen = [
        _seen_picture(view, prediction, {**facts, "shows": _shown_product(product, prediction)})
        for view, prediction in zip(views, found, strict=True)
    ]
    shown = seen[0] if decided is None else _shown_picture(seen, decided)
    columns = {name: getattr(shown, name) for name in _SEEN}
    columns["key"] = part.key
    return NewInspection(
        **columns,
        product_id=product.product_id,
        version_id=product.number,
        at=ticket.taken_at_us,
        source=part.source,
        near=not shown.anomalous and near_threshold.is_near(shown.p_value, rate, near),
        part=part.number,
        batch=part.batch,
        request_hash=None if part.request is None else part.request.hash,
        address=part.product_id,
        views=() if decided is None else tuple(seen),
        purpose=part.purpose,
    )


def _seen_picture(view: View, found: Prediction, facts: Mapping[str, object]) -> SeenPicture:
    height, width = found.geometry.picture_size
    record = {name: value for name, value in found.to_dict().items() if name not in _SAID_OTHERWISE}
    return SeenPicture(
        picture="",
        suffix=view.suffix,
        bytes=len(view.picture.data),
        width=width,
        height=height,
        name=view.picture.name,
        score=found.score,
        p_value=found.p_value,
        severity=found.severity,
        score_threshold=found.score_threshold,
        anomalous=found.is_anomalous,
        tolerated=found.is_tolerated,
        record=record | {name: value for name, value in facts.items() if value},
        key=view.picture.key,
        brightness=found.brightness,
        view=view.picture.view,
        pixels=view.source.pixels,
    )


def _shown_product(product: ProductModel, found: Prediction) -> str | None:
    return product.name and (product.name if found.product else found.NO_PRODUCT_NAME)


def _shown_picture(seen: Sequence[SeenPicture], decided: DecidedPart) -> SeenPicture:
    """Return the most unusual picture of a part, with the part's decision and the findings about all views.

    The part is within tolerance where every picture that makes it anomalous is.
    """
    worst = next(picture for picture in seen if picture.view == decided.worst)
    flagged = [picture for picture in seen if picture.anomalous or picture is worst]
    tolerated = decided.is_anomalous and all(picture.tolerated for picture in flagged)
    noticed = [*worst.record.get("findings", ()), *(finding.to_dict() for finding in decided.findings)]
    return replace(
        worst,
        anomalous=decided.is_anomalous,
        tolerated=tolerated,
        p_value=decided.p_value,
        record={**worst.record, "findings": noticed, "part_score": decided.score},
    )
