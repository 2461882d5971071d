"""Writing of new inspections to the data base."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, func, or_, select, text, update

from flawscope.errors import InputError
from flawscope.predictor import PartCollector
from flawscope_station.store.database import now, upsert
from flawscope_station.store.inspection import Finding, findings_of
from flawscope_station.store.schema import (
    ANOMALOUS,
    GOOD,
    HOUR,
    INCOMPLETE,
    WITHIN,
    inspections,
    parts,
    pictures,
    products,
)
from flawscope_station.store.station_identity import get_or_add_station

NO_REVIEW, WAITING = "none", "waiting"  # states of a review without a verdict
COMPLETE, DEADLINE, REPEATED = "complete", "deadline", "repeated"  # reasons why a part is decided on
IS_OPEN = parts.c.decision.is_(None)
MAX_NAME_LENGTH = 300  # characters


@dataclass(frozen=True)
class NewInspection:
    """Judged picture, to be recorded.

    picture: hash of the file, "" while the file is being written. at: microseconds since 1970. key: the
    sender's, which is recorded once. brightness: 0..1; None: unknown. request_hash: hash of all that came
    under the key. triggers: number of triggers that the frame answers; None: no trigger.
    shows: recognised product, or "none of these"; None, as product_p_value: the sender named the product.
    address: number of the product or entry in the request, where that is not the product. parts: decides on
    the part that the picture shows a view of; None: the picture is judged alone. pixels: `pixel_hash` of the
    picture, by which copies of it are known. tolerated: it is anomalous by its
    score, and within tolerance. tolerances: version and sha256 of the rules in force; None: none were.
    unanswered: why its sender did not get the answer (`schema.UNANSWERED`); None: it did.
    """

    product_id: int
    version_id: int
    picture: str
    suffix: str
    bytes: int
    width: int
    height: int
    at: int
    name: str
    source: str
    score: float
    p_value: float
    severity: float
    score_threshold: float
    anomalous: bool
    near: bool
    regions: list[dict[str, Any]] = field(default_factory=list)
    key: str | None = None
    brightness: float | None = None
    part: str | None = None
    batch: str | None = None
    request_hash: str | None = None
    triggers: int | None = None
    shows: str | None = None
    product_p_value: float | None = None
    part_found: bool | None = None
    part_pose: dict[str, Any] | None = None
    found_parts: dict[str, Any] | None = None
    findings: tuple[Finding, ...] = ()
    address: int | None = None
    view: str | None = None
    pixels: str | None = None
    tolerated: bool = False
    tolerances: dict[str, str] | None = None
    unanswered: str | None = None
    parts: PartCollector | None = field(default=None, repr=False, compare=False)

    @property
    def decision(self) -> str:
        return decision_of(self)


_FIELDS = tuple(field.name for field in fields(NewInspection))
_PICTURE_FIELDS, _INSPECTION_FIELDS = ([x for x in _FIELDS if x in t.c] for t in (pictures, inspections))
_ADD_TO_HOUR = text("""
INSERT INTO hours (product_id, version_id, hour, inspected, anomalous, within_tolerance, unanswered,
    score_sum, score_min, score_max, reviewed, defects, false_alarms, misses)
VALUES (:product_id, :version_id, :hour, :inspected, :anomalous, :within_tolerance, :unanswered,
    :score_sum, :score_min, :score_max, 0, 0, 0, 0)
ON CONFLICT (product_id, version_id, hour) DO UPDATE SET
    inspected = hours.inspected + excluded.inspected, anomalous = hours.anomalous + excluded.anomalous,
    within_tolerance = hours.within_tolerance + excluded.within_tolerance,
    unanswered = hours.unanswered + excluded.unanswered,
    score_sum = hours.score_sum + excluded.score_sum,
    score_min = CASE WHEN excluded.score_min < hours.score_min
        THEN excluded.score_min ELSE hours.score_min END,
    score_max = CASE WHEN excluded.score_max > hours.score_max
        THEN excluded.score_max ELSE hours.score_max END
""")


def lock_products(connection: Connection, product_ids: Collection[int]) -> None:
    """Lock these products: until the transaction ends, no other one adds or removes their inspections."""
    where = select(products.c.id).where(products.c.id.in_(product_ids)).order_by(products.c.id)
    connection.execute(where.with_for_update(key_share=True)).all()


def insert_inspections(connection: Connection, several: Sequence[NewInspection]) -> list[tuple[int, bool]]:
    """Record inspections as `Store.record` does, in a transaction."""
    lock_products(connection, {one.product_id for one in several})
    keep_picture, insert = _build_statements(connection.dialect.name)
    results: list[tuple[int, bool]] = []
    added: list[NewInspection] = []
    for one in several:
        number = None if one.key is None else _find_by_key(connection, one.address or one.product_id, one.key)
        is_new = number is None
        if number is None:
            connection.execute(keep_picture, _picture_columns(one))
            number = int(connection.execute(insert, inspection_columns(one)).scalar_one())
            added.append(one)
            if one.parts is not None:
                _add_view(connection, one, number, one.parts)
        results.append((number, is_new))
    _add_to_hours(connection, added)
    return results


@cache
def _build_statements(dialect: str) -> tuple[Any, Any]:
    """Statements that keep a picture and add an inspection; building them costs more than running them."""
    new = upsert(dialect, pictures)
    keep = new.on_conflict_do_update(index_elements=["product_id", "hash"], set_={"removed_at": None})
    return keep, inspections.insert().returning(inspections.c.id)


def _add_to_hours(connection: Connection, new: Sequence[NewInspection]) -> None:
    """Add inspections to the sums of their hours."""
    groups: dict[tuple[int, int, int], list[NewInspection]] = defaultdict(list)
    for inspection in new:
        groups[inspection.product_id, inspection.version_id, inspection.at // HOUR].append(inspection)
    for key, group in sorted(groups.items()):
        scores = [inspection.score for inspection in group]
        decisions = Counter(inspection.decision for inspection in group)
        row = {
            **dict(zip(("product_id", "version_id", "hour"), key, strict=True)),
            **{"inspected": len(group), "anomalous": decisions[ANOMALOUS]},
            "within_tolerance": decisions[WITHIN],
            "unanswered": sum(inspection.unanswered is not None for inspection in group),
            **{"score_sum": sum(scores), "score_min": min(scores), "score_max": max(scores)},
        }
        connection.execute(_ADD_TO_HOUR, row)


def add_product(connection: Connection, name: str, entry_id: int | None) -> int:
    """Add a product as `Store.add_product` does, in a transaction."""
    own = {"station_id": get_or_add_station(connection), "name": name}
    new = upsert(connection.dialect.name, products).values(**own, created_at=now(), entry_id=entry_id)
    other = products.c.entry_id.is_distinct_from(entry_id)  # else nothing is locked
    again = new.on_conflict_do_update(index_elements=[*own], set_={"entry_id": entry_id}, where=other)
    connection.execute(again)
    return int(connection.execute(select(products.c.id).filter_by(**own)).scalar_one())


def is_at_address(address: int) -> ColumnElement[bool]:
    """Condition that an inspection is of the product with this number, or of one that this entry finds."""
    where = or_(products.c.id == address, products.c.entry_id == address)
    return inspections.c.product_id.in_(select(products.c.id).where(where))


def _find_by_key(connection: Connection, address: int, key: str) -> int | None:
    """Number of the inspection under a key; None where there is none."""
    return connection.scalar(select(inspections.c.id).where(is_at_address(address), inspections.c.key == key))


def review_state(one: NewInspection | Row[Any], is_worst: bool = False) -> str:
    """State of the review of an inspection without a verdict; a person's rules have decided on one within
    tolerance."""
    return WAITING if decision_of(one) == ANOMALOUS or one.near or is_worst else NO_REVIEW


def decision_of(row: Any) -> str:
    """Decision on a recorded inspection, or one to be recorded."""
    return WITHIN if row.tolerated else ANOMALOUS if row.anomalous else GOOD


def _picture_columns(one: NewInspection) -> dict[str, Any]:
    values = {name: getattr(one, name) for name in _PICTURE_FIELDS}
    return values | {"hash": one.picture, "created_at": one.at}


def inspection_columns(one: NewInspection) -> dict[str, Any]:
    """Columns of a new inspection."""
    values = {name: getattr(one, name) for name in _INSPECTION_FIELDS}
    return values | {
        "name": one.name[:MAX_NAME_LENGTH],
        "regions": json.dumps(one.regions),
        "part_pose": one.part_pose and json.dumps(one.part_pose),
        "found_parts": one.found_parts and json.dumps(one.found_parts),
        "findings": json.dumps([finding.to_dict() for finding in one.findings]),
        "tolerances": one.tolerances and json.dumps(one.tolerances),
        "review": review_state(one),
    }


# ------------------------------------------------------------------------------------------------------ parts


def _add_view(connection: Connection, inspection: NewInspection, number: int, judge: PartCollector) -> None:
    """Let a view join the open round of its part; decide on the part where it is complete. A view that is
    there already closes the round as it is, and opens the next."""
    place = {name: getattr(inspection, name) for name in ("product_id", "version_id", "part", "batch")}
    where = *(parts.c[name] == value for name, value in place.items()), IS_OPEN
    row = connection.execute(select(parts.c.id, parts.c.missing).where(*where)).one_or_none()
    missing: list[str] = [] if row is None else json.loads(row.missing)
    if row is not None and inspection.view not in missing:
        decide_part(connection, row.id, judge, REPEATED)
        row = None
    if row is None:
        missing = [*judge.calibration.views]
        new = parts.insert().values(**place, opened_at=inspection.at, missing="").returning(parts.c.id)
        row = connection.execute(new).one()
    missing = [view for view in missing if view != inspection.view]
    connection.execute(update(inspections).where(inspections.c.id == number).values(part_id=row.id))
    connection.execute(update(parts).where(parts.c.id == row.id).values(missing=json.dumps(missing)))
    if not missing:
        decide_part(connection, row.id, judge, COMPLETE)


def decide_part(connection: Connection, number: int, judge: PartCollector | None, reason: str) -> None:
    """Decide on a part by the views that are there, in a transaction after `lock_products`. Does nothing
    where it is decided already. The worst view of an anomalous part waits for a review.
    judge: None: the version's model is lost, and the part is incomplete."""
    row = connection.execute(select(parts).where(parts.c.id == number, IS_OPEN)).one_or_none()
    if row is None:
        return
    where = inspections.c.part_id == number
    seen = connection.execute(select(inspections).where(where).order_by(inspections.c.id)).all()
    missing: list[str] = json.loads(row.missing)
    scores = {one.view: one.score for one in seen}
    all_found = not any(finding.decides for one in seen for finding in findings_of(one))
    values: dict[str, Any] = {"decision": INCOMPLETE, "decided_at": now(), "reason": reason}
    with suppress(InputError):  # no good part with these views is known: no decision
        if judge is not None:
            part = judge.decide_by_scores(row.part, scores, all_found=all_found)
            missing = [*part.missing]  # a view's inspection may be removed
            values |= {name: getattr(part, name) for name in ("decision", "score", "p_value", "worst")}
    last = select(func.max(parts.c.number)).where(parts.c.product_id == row.product_id)
    values["missing"] = json.dumps(missing)
    values["number"] = 1 + (connection.scalar(last) or 0)
    connection.execute(update(parts).where(parts.c.id == number).values(values))
    if values["decision"] == ANOMALOUS:
        alone = where, inspections.c.view == values["worst"], inspections.c.review == NO_REVIEW
        connection.execute(update(inspections).where(*alone).values(review=WAITING))


def is_worst_view(connection: Connection, row: Row[Any]) -> bool:
    """Whether an inspection shows the worst view of an anomalous part."""
    where = parts.c.id == row.part_id, parts.c.decision == ANOMALOUS, parts.c.worst == row.view
    return connection.execute(select(parts.c.id).where(*where)).first() is not None
