"""Conditions of queries for the pictures and records that may be removed."""

from __future__ import annotations

from sqlalchemy import ColumnElement, Connection, and_, exists, func, or_, select, tuple_

from flawscope_station.store.schema import (
    deliveries,
    inspections,
    learnt,
    learnt_pixels,
    pictures,
    verdicts,
    views,
)

GOOD = "good"
ANOMALOUS = "anomalous"
REVIEWED = "reviewed"
KINDS = (GOOD, ANOMALOUS, REVIEWED)  # kinds of inspections, in the order of removal for space
RECORDS = "records"
KEY = pictures.c.product_id, pictures.c.hash
Condition = ColumnElement[bool]
PICTURE = tuple_(*KEY)


def is_shown(*inspection_conditions: Condition) -> Condition:
    """Return the SQL condition that an inspection shows a picture, as its own or in one of its views.

    Args:
        inspection_conditions: Further SQL conditions that the inspection must meet.
    """
    is_own_picture = and_(
        inspections.c.product_id == pictures.c.product_id,
        inspections.c.picture == pictures.c.hash,
    )
    is_picture_of_view = and_(views.c.product_id == pictures.c.product_id, views.c.picture == pictures.c.hash)
    shown_as_view = select(views.c.place).join_from(views, inspections)
    shown_as_view = shown_as_view.where(is_picture_of_view, *inspection_conditions)
    return or_(
        exists().where(is_own_picture, *inspection_conditions), shown_as_view.correlate(pictures).exists()
    )


# A model of the station was learnt from the picture, or any model from a picture with the same pixels
IS_LEARNT = or_(
    exists().where(learnt.c.picture == pictures.c.hash, learnt.c.product_id == pictures.c.product_id),
    exists().where(learnt_pixels.c.pixels == pictures.c.pixels),
)
_IS_NEW_VERDICT = and_(verdicts.c.inspection_id == inspections.c.id, verdicts.c.id > deliveries.c.verdict_id)
_HAS_NEW_VERDICT = exists().where(_IS_NEW_VERDICT).correlate(inspections, deliveries)
# A sink still has to get the inspection, or a verdict on it
IS_UNDELIVERED = exists().where(
    deliveries.c.product_id == inspections.c.product_id,
    or_(inspections.c.id > deliveries.c.inspection_id, _HAS_NEW_VERDICT),
)
# A reviewed inspection with a drawn mask shows the picture
HAS_MASK = is_shown(
    inspections.c.verdict.is_not(None),
    exists()
    .where(verdicts.c.inspection_id == inspections.c.id, verdicts.c.mask.is_not(None))
    .correlate(inspections),
)
_present = pictures.alias("there")
_is_picture_of_view = and_(_present.c.product_id == views.c.product_id, _present.c.hash == views.c.picture)
# The inspection has a view whose picture was not removed
HAS_VIEW = (
    select(views.c.place)
    .join_from(views, _present, _is_picture_of_view)
    .where(views.c.inspection_id == inspections.c.id, _present.c.removed_at.is_(None))
    .correlate(inspections)
    .exists()
)


def last_with_verdict() -> ColumnElement[int]:
    """Return an SQL expression: the number of the inspection that got the last verdict; 0: no verdict."""
    last = select(verdicts.c.inspection_id).order_by(verdicts.c.id.desc()).limit(1)
    return func.coalesce(last.scalar_subquery(), 0)


def is_of_kind(kind: str) -> Condition:
    """Return the SQL condition that an inspection is of a kind of `KINDS`; `RECORDS` has all of them."""
    if kind == RECORDS:
        return inspections.c.id.is_not(None)  # always true
    if kind == REVIEWED:
        return inspections.c.verdict.is_not(None)
    return and_(inspections.c.verdict.is_(None), inspections.c.anomalous.is_(kind == ANOMALOUS))


def removable_keys(
    connection: Connection, keys: list[tuple[int, str]], is_protected: Condition
) -> list[tuple[int, str]]:
    """Return the keys of those pictures that may be removed, and have not been removed yet.

    Args:
        connection: Connection to the database.
        keys: Product and hash of each picture.
        is_protected: SQL condition of the pictures to keep.
    """
    query = select(*KEY).where(PICTURE.in_(keys), pictures.c.removed_at.is_(None), ~is_protected)
    return [(row.product_id, row.hash) for row in connection.execute(query)]
