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

GOOD, ANOMALOUS, REVIEWED = KINDS = "good", "anomalous", "reviewed"  # in the order of removal for space
RECORDS = "records"
KEY = pictures.c.product_id, pictures.c.hash
Condition = ColumnElement[bool]
PICTURE = tuple_(*KEY)


def is_shown(*of_inspection: Condition) -> Condition:
    """Return the condition that a picture is shown by an inspection, or its view, that meets conditions."""
    is_same_picture = (
        inspections.c.product_id == pictures.c.product_id,
        inspections.c.picture == pictures.c.hash,
    )
    seen = views.c.product_id == pictures.c.product_id, views.c.picture == pictures.c.hash
    as_view = select(views.c.place).join_from(views, inspections).where(*seen, *of_inspection)
    return or_(exists().where(*is_same_picture, *of_inspection), as_view.correlate(pictures).exists())


# also as a copy of the file, perhaps encoded otherwise: a model may have been fitted elsewhere
IS_LEARNT = or_(
    exists().where(learnt.c.picture == pictures.c.hash, learnt.c.product_id == pictures.c.product_id),
    exists().where(learnt_pixels.c.pixels == pictures.c.pixels),
)
# A sink that is away gets what it waits for when it is back
_NEW_VERDICT = verdicts.c.inspection_id == inspections.c.id, verdicts.c.id > deliveries.c.verdict_id
_HAS_NEW_VERDICT = exists().where(*_NEW_VERDICT).correlate(inspections, deliveries)
IS_UNDELIVERED = exists().where(
    deliveries.c.product_id == inspections.c.product_id,
    or_(inspections.c.id > deliveries.c.inspection_id, _HAS_NEW_VERDICT),
)
HAS_MASK = is_shown(
    inspections.c.verdict.is_not(None),
    exists()
    .where(verdicts.c.inspection_id == inspections.c.id, verdicts.c.mask.is_not(None))
    .correlate(inspections),
)
_there = pictures.alias("there")
_is_there = and_(_there.c.product_id == views.c.product_id, _there.c.hash == views.c.picture)
HAS_VIEW = (  # of which the picture is there
    select(views.c.place)
    .join_from(views, _there, _is_there)
    .where(views.c.inspection_id == inspections.c.id, _there.c.removed_at.is_(None))
    .correlate(inspections)
    .exists()
)


def last_with_verdict() -> ColumnElement[int]:
    """Return the number of the inspection with the last verdict, as an SQL expression; 0: there is none."""
    last = select(verdicts.c.inspection_id).order_by(verdicts.c.id.desc()).limit(1)
    return func.coalesce(last.scalar_subquery(), 0)


def is_of_kind(kind: str) -> Condition:
    """Return the condition of inspections of a kind of `KINDS`; all inspections are of the kind `RECORDS`."""
    if kind == RECORDS:
        return inspections.c.id.is_not(None)
    if kind == REVIEWED:
        return inspections.c.verdict.is_not(None)
    return and_(inspections.c.verdict.is_(None), inspections.c.anomalous.is_(kind == ANOMALOUS))


def removable_keys(
    connection: Connection, keys: list[tuple[int, str]], stays: Condition
) -> list[tuple[int, str]]:
    """Return the keys among `keys` of pictures that are there and for which `stays` does not hold."""
    query = select(*KEY).where(PICTURE.in_(keys), pictures.c.removed_at.is_(None), ~stays)
    return [(row.product_id, row.hash) for row in connection.execute(query)]
