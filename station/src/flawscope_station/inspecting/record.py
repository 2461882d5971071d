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

_PICTURE_COLUMNS = {field.name for field in fields(SeenPicture)}
# keys of the library's answer that the record has as columns, or that mean something else in a station
_OMITTED_KEYS = {field.name for field in fields(NewInspection)} | {
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
        """Findings about the whole part; each view has its own beside them."""


def new_inspection(
    ticket: Ticket,
    views: Sequence[View],
    product: ProductModel,
    predictions: Sequence[Prediction],
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
        predictions: Prediction of each picture.
        near: A good part is near the threshold if its p-value is at most `near` times the false-alarm rate.
        decided: Decision of the library on a part in views; None: the part's only picture decides.
        rate: False-alarm rate of the decision.
        tolerances: Version and SHA-256 of the rules in force; None: there are none.
    """
    part = ticket.part
    facts: dict[str, object] = {"triggers": part.triggers, "tolerances": tolerances}
    pictures = [
        _seen_picture(view, prediction, {**facts, "shows": _shown_product(product, prediction)})
        for view, prediction in zip(views, predictions, strict=True)
    ]
    main_picture = pictures[0] if decided is None else _shown_picture(pictures, decided)
    columns = {name: getattr(main_picture, name) for name in _PICTURE_COLUMNS}
    columns["key"] = part.key
    return NewInspection(
        **columns,
        product_id=product.product_id,
        version_id=product.number,
        at=ticket.taken_at_us,
        source=part.source,
        near=not main_picture.anomalous and near_threshold.is_near(main_picture.p_value, rate, near),
        part=part.number,
        batch=part.batch,
        request_hash=None if part.request is None else part.request.hash,
        address=part.product_id,
        views=() if decided is None else tuple(pictures),
        purpose=part.purpose,
    )


def _seen_picture(view: View, prediction: Prediction, facts: Mapping[str, object]) -> SeenPicture:
    """Return the part of a record that is about one picture.

    Args:
        view: The picture, with its file.
        prediction: Prediction of the picture.
        facts: Further entries of the record by name; those without a value are left out.
    """
    height, width = prediction.geometry.picture_size
    record = {name: value for name, value in prediction.to_dict().items() if name not in _OMITTED_KEYS}
    return SeenPicture(
        picture="",  # the hash is set when the file is written
        suffix=view.suffix,
        bytes=len(view.picture.data),
        width=width,
        height=height,
        name=view.picture.name,
        score=prediction.score,
        p_value=prediction.p_value,
        severity=prediction.severity,
        score_threshold=prediction.score_threshold,
        anomalous=prediction.is_anomalous,
        tolerated=prediction.is_tolerated,
        record=record | {name: value for name, value in facts.items() if value},
        key=view.picture.key,
        brightness=prediction.brightness,
        view=view.picture.view,
        pixels=view.source.pixels,
    )


def _shown_product(product: ProductModel, prediction: Prediction) -> str | None:
    """Return the name of the product that a picture shows; a product without a name has none to show."""
    if not product.name:
        return product.name
    return product.name if prediction.product else prediction.NO_PRODUCT_NAME


def _shown_picture(pictures: Sequence[SeenPicture], decided: DecidedPart) -> SeenPicture:
    """Return a part's most unusual picture, with the part's decision and findings.

    The part is within tolerance if its most unusual picture and all its anomalous pictures are.
    """
    worst_picture = next(picture for picture in pictures if picture.view == decided.worst)
    deciding_pictures = [picture for picture in pictures if picture.anomalous or picture is worst_picture]
    tolerated = decided.is_anomalous and all(picture.tolerated for picture in deciding_pictures)
    findings = [
        *worst_picture.record.get("findings", ()),
        *(finding.to_dict() for finding in decided.findings),
    ]
    return replace(
        worst_picture,
        anomalous=decided.is_anomalous,
        tolerated=tolerated,
        p_value=decided.p_value,
        record={**worst_picture.record, "findings": findings, "part_score": decided.score},
    )
