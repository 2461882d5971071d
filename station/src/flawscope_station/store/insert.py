"""Writing of new inspections to the data base."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, fields
from functools import cache, cached_property
from typing import Any

from sqlalchemy import ColumnElement, Connection, or_, select, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.dml import ReturningInsert

from flawscope_station.store.database import now, upsert
from flawscope_station.store.filters import further_facts
from flawscope_station.store.inspection import Finding, RegionFacts
from flawscope_station.store.purposes import PRODUCTION
from flawscope_station.store.rows import DecisionRow, InspectionRow
from flawscope_station.store.schema import (
    ANOMALOUS,
    GOOD,
    HOUR,
    WITHIN,
    inspections,
    pictures,
    products,
    views,
)
from flawscope_station.store.station_identity import get_or_add_station

# states of a review without a verdict
NO_REVIEW = "none"
WAITING = "waiting"
MAX_NAME_LENGTH = 300  # characters


@dataclass(frozen=True, kw_only=True)
class SeenPicture:
    """Judged picture of a part.

    Attributes:
        picture: SHA-256 of the file; "" while the file is being written.
        suffix: End of the file's name.
        bytes: Size of the file.
        width: Columns of the picture.
        height: Rows of the picture.
        name: Name from the sender.
        tolerated: Whether it is anomalous by its score, and within tolerance.
        record: Fields of `Inspection` that no filter searches, beginning with the library's answer.
        key: Key of a folder's file, or of the part.
        brightness: 0 to 1; None: unknown.
        view: View of the part; None: the part has a single picture.
        pixels: `pixel_hash` of the picture, by which copies of it are known.
    """

    picture: str
    suffix: str
    bytes: int
    width: int
    height: int
    name: str
    score: float
    p_value: float
    severity: float
    score_threshold: float
    anomalous: bool
    tolerated: bool = False
    record: dict[str, Any] = field(default_factory=dict)
    key: str | None = None
    brightness: float | None = None
    view: str | None = None
    pixels: str | None = None

    @cached_property
    def decision(self) -> str:
        """Decision on the picture: good, anomalous or within tolerance."""
        return decision_of(self)

    @property
    def regions(self) -> list[RegionFacts]:
        """Anomalous regions, the strongest first."""
        return list(self.record.get("regions", ()))

    @cached_property
    def findings(self) -> tuple[Finding, ...]:
        """Findings about the picture beside its score."""
        return tuple(Finding(**finding) for finding in self.record.get("findings", ()))


@dataclass(frozen=True, kw_only=True)
class NewInspection(SeenPicture):
    """Judged part to be recorded, with its picture.

    Of a part in several views it has the most unusual picture, and the decision and p-value of the part.

    Attributes:
        at: Time, microseconds since 1970.
        source: Where the part came from.
        near: Whether it is good, but near the threshold.
        part: Number of the part.
        batch: Batch of the part.
        request_hash: SHA-256 of all that came under the sender's `key`, which is recorded once.
        address: Number of the product or entry in the request, where that is not the product.
        views: All pictures of the part, where there are several.
        unanswered: Why its sender did not get the answer (`schema.UNANSWERED`); None: it did.
        purpose: Purpose, as in `schema`.
        challenge_id: Number of the challenge that it belongs to.
        challenge_part_id: Number of the challenge part that it shows.
    """

    product_id: int
    version_id: int
    at: int
    source: str
    near: bool
    part: str | None = None
    batch: str | None = None
    request_hash: str | None = None
    address: int | None = None
    views: tuple[SeenPicture, ...] = ()
    unanswered: str | None = None
    purpose: str = PRODUCTION
    challenge_id: int | None = None
    challenge_part_id: int | None = None

    @cached_property
    def pictures(self) -> tuple[SeenPicture, ...]:
        """All pictures of the part."""
        return self.views or (self,)


_FIELDS = tuple(field.name for field in fields(NewInspection) if field.name != "views")
_PICTURE_FIELDS, _INSPECTION_FIELDS = ([x for x in _FIELDS if x in t.c] for t in (pictures, inspections))
_VIEW_FIELDS = [field.name for field in fields(SeenPicture) if field.name in views.c]
# columns that are searched, of what the library alone says
_RECORD_FIELDS = [name for name in further_facts() if name in inspections.c and name not in _FIELDS]
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
    """Lock these products: until the transaction ends, no other adds or removes their inspections."""
    where = select(products.c.id).where(products.c.id.in_(product_ids)).order_by(products.c.id)
    connection.execute(where.with_for_update(key_share=True)).all()


def insert_inspections(connection: Connection, several: Sequence[NewInspection]) -> list[tuple[int, bool]]:
    """Record inspections as `Store.record` does, in a transaction."""
    lock_products(connection, {inspection.product_id for inspection in several})
    keep_picture, insert = _build_statements(connection.dialect.name)
    results: list[tuple[int, bool]] = []
    added: list[NewInspection] = []
    for inspection in several:
        number = (
            None
            if inspection.key is None
            else _find_by_key(connection, inspection.address or inspection.product_id, inspection.key)
        )
        is_new = number is None
        if number is None:
            connection.execute(
                keep_picture, [_picture_columns(inspection, seen) for seen in inspection.pictures]
            )
            number = int(connection.execute(insert, inspection_columns(inspection)).scalar_one())
            if inspection.views:
                connection.execute(views.insert(), _view_columns(number, inspection))
            added.append(inspection)
        results.append((number, is_new))
    _add_to_hours(connection, [inspection for inspection in added if inspection.purpose == PRODUCTION])
    return results


@cache
def _build_statements(dialect: str) -> tuple[sqlite.Insert | postgresql.Insert, ReturningInsert[Any]]:
    """Return statements that keep a picture and add an inspection; building them is slower than running."""
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
    values = {"station_id": get_or_add_station(connection), "name": name}
    new = upsert(connection.dialect.name, products).values(**values, created_at=now(), entry_id=entry_id)
    other = products.c.entry_id.is_distinct_from(entry_id)  # else nothing is locked
    again = new.on_conflict_do_update(index_elements=[*values], set_={"entry_id": entry_id}, where=other)
    connection.execute(again)
    return int(connection.execute(select(products.c.id).filter_by(**values)).scalar_one())


def is_at_address(address: int, column: ColumnElement[int] = inspections.c.product_id) -> ColumnElement[bool]:
    """Return the condition that a row is of a product, or of a product that an entry finds.

    Args:
        address: Number of the product or entry.
        column: Column with the number of the row's product.
    """
    where = or_(products.c.id == address, products.c.entry_id == address)
    return column.in_(select(products.c.id).where(where))


def _find_by_key(connection: Connection, address: int, key: str) -> int | None:
    """Return the number of the inspection under a key; None: there is none."""
    return connection.scalar(select(inspections.c.id).where(is_at_address(address), inspections.c.key == key))


def review_state(inspection: NewInspection | InspectionRow) -> str:
    """Return the state of the review of an inspection without a verdict.

    An inspection within tolerance needs none: a person's rules have decided on it.
    """
    is_doubtful = decision_of(inspection) == ANOMALOUS or inspection.near
    return WAITING if is_doubtful and inspection.purpose == PRODUCTION else NO_REVIEW


def decision_of(row: DecisionRow) -> str:
    """Return the decision on an inspection, recorded or to be recorded."""
    if row.tolerated:
        return WITHIN
    return ANOMALOUS if row.anomalous else GOOD


def _picture_columns(inspection: NewInspection, seen: SeenPicture) -> dict[str, object]:
    values = {name: getattr(seen, name, None) for name in _PICTURE_FIELDS}
    return values | {"product_id": inspection.product_id, "hash": seen.picture, "created_at": inspection.at}


def inspection_columns(inspection: NewInspection) -> dict[str, object]:
    """Return the columns of a new inspection."""
    values = {name: getattr(inspection, name) for name in _INSPECTION_FIELDS}
    values |= {name: inspection.record.get(name) for name in _RECORD_FIELDS}
    return values | {
        "name": inspection.name[:MAX_NAME_LENGTH],
        "record": json.dumps(inspection.record),
        "review": review_state(inspection),
    }


def _view_columns(number: int, inspection: NewInspection) -> list[dict[str, object]]:
    """Return the columns of the views of a new inspection."""
    rows = []
    for place, seen in enumerate(inspection.views):
        row = {name: getattr(seen, name) for name in _VIEW_FIELDS}
        row |= {"name": seen.name[:MAX_NAME_LENGTH], "record": json.dumps(seen.record)}
        row |= {"inspection_id": number, "product_id": inspection.product_id, "place": place}
        rows.append(row)
    return rows
