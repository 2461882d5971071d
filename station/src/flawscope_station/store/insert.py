"""Writing of new inspections to the database."""

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

# States of the review of an inspection without a verdict
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
        score: Score, as in `Prediction`.
        p_value: P-value of the score, 0 to 1.
        severity: Severity, as in `Prediction`.
        score_threshold: Threshold of the score.
        anomalous: Whether it is anomalous by its score, also where it is within tolerance.
        tolerated: Whether it is anomalous by its score, and within tolerance.
        record: Fields of `Inspection` that no filter searches, and further facts of the library's answer.
        key: Key of a folder's file, or of the part; None: the sender gave none.
        brightness: Mean brightness, 0 to 1; None: unknown.
        view: View of the part; None: the part has a single picture.
        pixels: Value of `pixel_hash` for the picture, by which copies of it are recognised; None: unknown.
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

    For a part in several views, the picture is the most unusual one; decision and p-value are the part's.

    Attributes:
        product_id: Number of the product.
        version_id: Number of the model version that judged.
        at: Time, microseconds since 1970.
        source: Where the part came from.
        near: Whether it is good, but near the threshold.
        part: Number of the part.
        batch: Batch of the part.
        request_hash: SHA-256 of all that came under the sender's `key`, under which a single request is
            recorded; None: it has no key of a sender.
        address: Number of the product or entry that the request named; None: the product.
        views: All pictures of a part in several views; empty: the part has a single picture.
        unanswered: Why its sender did not get the answer (`schema.UNANSWERED`); None: the sender got it.
        purpose: Purpose, as in the module `purposes`.
        challenge_id: Number of its challenge; None: it belongs to none.
        challenge_part_id: Number of the challenge part that was shown; None: it is no challenge part.
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
_PICTURE_FIELDS = [name for name in _FIELDS if name in pictures.c]
_INSPECTION_FIELDS = [name for name in _FIELDS if name in inspections.c]
_VIEW_FIELDS = [field.name for field in fields(SeenPicture) if field.name in views.c]
# searched facts that only the library's answer has, not `NewInspection`
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
    """Lock products: no other transaction can add or remove their inspections until this one ends."""
    query = select(products.c.id).where(products.c.id.in_(product_ids)).order_by(products.c.id)
    connection.execute(query.with_for_update(key_share=True)).all()


def insert_inspections(
    connection: Connection, new_inspections: Sequence[NewInspection]
) -> list[tuple[int, bool]]:
    """Record inspections as `Store.record` does, in a transaction that the caller has opened.

    Returns:
        For each inspection, its number and whether it is new. If its key was recorded already, it is not new,
        and the number is that of the earlier inspection.
    """
    lock_products(connection, {inspection.product_id for inspection in new_inspections})
    insert_picture, insert_inspection = _build_statements(connection.dialect.name)
    results: list[tuple[int, bool]] = []
    added_inspections: list[NewInspection] = []
    for inspection in new_inspections:
        number = None
        if inspection.key is not None:
            address = inspection.address or inspection.product_id  # product or entry of the request
            number = _find_by_key(connection, address, inspection.key)
        is_new = number is None
        if number is None:
            picture_rows = [_picture_columns(inspection, picture) for picture in inspection.pictures]
            connection.execute(insert_picture, picture_rows)
            number = int(connection.execute(insert_inspection, inspection_columns(inspection)).scalar_one())
            if inspection.views:
                connection.execute(views.insert(), _view_columns(number, inspection))
            added_inspections.append(inspection)
        results.append((number, is_new))
    counted_inspections = [added for added in added_inspections if added.purpose == PRODUCTION]
    _add_to_hours(connection, counted_inspections)
    return results


@cache
def _build_statements(dialect: str) -> tuple[sqlite.Insert | postgresql.Insert, ReturningInsert[Any]]:
    """Return the statement that inserts a picture, and the one that inserts an inspection.

    If the picture is recorded already, its statement only marks it as not removed. The statements are built
    once for each dialect.
    """
    insert_picture = upsert(dialect, pictures).on_conflict_do_update(
        index_elements=["product_id", "hash"], set_={"removed_at": None}
    )
    insert_inspection = inspections.insert().returning(inspections.c.id)
    return insert_picture, insert_inspection


def _add_to_hours(connection: Connection, new_inspections: Sequence[NewInspection]) -> None:
    """Add inspections to the counts in `hours`, each in the row of its product, version and hour."""
    # number of the product, number of the version, and hours since 1970 -> inspections
    groups: dict[tuple[int, int, int], list[NewInspection]] = defaultdict(list)
    for inspection in new_inspections:
        groups[inspection.product_id, inspection.version_id, inspection.at // HOUR].append(inspection)
    for (product_id, version_id, hour), group in sorted(groups.items()):
        scores = [inspection.score for inspection in group]
        count_by_decision = Counter(inspection.decision for inspection in group)
        row = {
            "product_id": product_id,
            "version_id": version_id,
            "hour": hour,
            "inspected": len(group),
            "anomalous": count_by_decision[ANOMALOUS],
            "within_tolerance": count_by_decision[WITHIN],
            "unanswered": sum(inspection.unanswered is not None for inspection in group),
            "score_sum": sum(scores),
            "score_min": min(scores),
            "score_max": max(scores),
        }
        connection.execute(_ADD_TO_HOUR, row)


def add_product(connection: Connection, name: str, entry_id: int | None) -> int:
    """Add a product as `Store.add_product` does, in a transaction that the caller has opened."""
    identifying_columns = {"station_id": get_or_add_station(connection), "name": name}
    insert = upsert(connection.dialect.name, products).values(
        **identifying_columns, created_at=now(), entry_id=entry_id
    )
    # an existing row is updated, and thereby locked, only if it has another entry
    has_other_entry = products.c.entry_id.is_distinct_from(entry_id)
    statement = insert.on_conflict_do_update(
        index_elements=[*identifying_columns], set_={"entry_id": entry_id}, where=has_other_entry
    )
    connection.execute(statement)
    return int(connection.execute(select(products.c.id).filter_by(**identifying_columns)).scalar_one())


def is_at_address(address: int, column: ColumnElement[int] = inspections.c.product_id) -> ColumnElement[bool]:
    """Return the SQL condition that a row belongs to a product, or to any product of an entry.

    An entry is the address of a joint model, which finds the product that a picture shows.

    Args:
        address: Number of the product or entry.
        column: Column of the row that has the number of its product.
    """
    is_of_address = or_(products.c.id == address, products.c.entry_id == address)
    return column.in_(select(products.c.id).where(is_of_address))


def _find_by_key(connection: Connection, address: int, key: str) -> int | None:
    """Return the number of the inspection under a key of a product or entry; None: there is none."""
    query = select(inspections.c.id).where(is_at_address(address), inspections.c.key == key)
    return connection.scalar(query)


def review_state(inspection: NewInspection | InspectionRow) -> str:
    """Return whether an inspection without a verdict waits for a review: `WAITING` or `NO_REVIEW`.

    An inspection within tolerance needs no review: a person's rules have decided on it.
    """
    is_doubtful = decision_of(inspection) == ANOMALOUS or inspection.near
    needs_review = is_doubtful and inspection.purpose == PRODUCTION
    return WAITING if needs_review else NO_REVIEW


def decision_of(row: DecisionRow) -> str:
    """Return the decision on an inspection, recorded or to be recorded."""
    if row.tolerated:
        return WITHIN
    return ANOMALOUS if row.anomalous else GOOD


def _picture_columns(inspection: NewInspection, picture: SeenPicture) -> dict[str, object]:
    """Return the columns in `pictures` of a picture of a new inspection."""
    columns = {name: getattr(picture, name, None) for name in _PICTURE_FIELDS}
    columns["product_id"] = inspection.product_id
    columns["hash"] = picture.picture
    columns["created_at"] = inspection.at
    return columns


def inspection_columns(inspection: NewInspection) -> dict[str, object]:
    """Return a new inspection's columns in the table `inspections`."""
    columns = {name: getattr(inspection, name) for name in _INSPECTION_FIELDS}
    columns |= {name: inspection.record.get(name) for name in _RECORD_FIELDS}
    columns["name"] = inspection.name[:MAX_NAME_LENGTH]
    columns["record"] = json.dumps(inspection.record)
    columns["review"] = review_state(inspection)
    return columns


def _view_columns(number: int, inspection: NewInspection) -> list[dict[str, object]]:
    """Return the rows of `views` for a new inspection, whose number in the database is `number`."""
    rows = []
    for place, view in enumerate(inspection.views):
        row = {name: getattr(view, name) for name in _VIEW_FIELDS}
        row["name"] = view.name[:MAX_NAME_LENGTH]
        row["record"] = json.dumps(view.record)
        row["inspection_id"] = number
        row["product_id"] = inspection.product_id
        row["place"] = place
        rows.append(row)
    return rows
