"""Conditions of queries: the pictures and records that may be removed."""

from __future__ import annotations

from sqlalchemy import ColumnElement, Connection, and_, delete, exists, func, or_, select, tuple_

from flawscope_station.store.schema import (
    deliveries,
    inspections,
    learnt,
    learnt_pixels,
    parts,
    pictures,
    verdicts,
)

GOOD, ANOMALOUS, REVIEWED = KINDS = "good", "anomalous", "reviewed"  # in the order of removal for space
RECORDS = "records"
KEY = pictures.c.product_id, pictures.c.hash
Condition = ColumnElement[bool]
PICTURE = tuple_(*KEY)
SAME_PICTURE = and_(
    inspections.c.product_id == pictures.c.product_id, inspections.c.picture == pictures.c.hash
)
# also as a copy of the file, perhaps encoded otherwise: a model may have been fitted elsewhere
IS_LEARNT = or_(
    exists().where(learnt.c.picture == pictures.c.hash, learnt.c.product_id == pictures.c.product_id),
    exists().where(learnt_pixels.c.pixels == pictures.c.pixels),
)
# A sink that is away gets what it waits for when it is back
_NEW_VERDICT = verdicts.c.inspection_id == inspections.c.id, verdicts.c.id > deliveries.c.verdict_id
_NEW_DECISION = parts.c.id == inspections.c.part_id, parts.c.id > deliveries.c.part_number
IS_UNDELIVERED = exists().where(
    deliveries.c.product_id == inspections.c.product_id,
    or_(
        inspections.c.id > deliveries.c.inspection_id,
        *(exists().where(*one).correlate(inspections, deliveries) for one in (_NEW_VERDICT, _NEW_DECISION)),
    ),
)
HAS_MASK = exists().where(
    SAME_PICTURE,
    inspections.c.verdict.is_not(None),
    exists().where(verdicts.c.inspection_id == inspections.c.id, verdicts.c.mask.is_not(None)),
)


def delete_parts(connection: Connection, numbers: set[int]) -> None:
    """Delete parts without inspections; the newest stays, so that numbers are unique."""
    newest = select(func.max(parts.alias().c.id)).scalar_subquery()
    is_named = exists().where(inspections.c.part_id == parts.c.id)
    gone = parts.c.id.in_(numbers), parts.c.id < newest, ~is_named
    connection.execute(delete(parts).where(*gone))


def last_with_verdict() -> ColumnElement[int]:
    """Number of the inspection that has the last verdict; 0 where there is none."""
    last = select(verdicts.c.inspection_id).order_by(verdicts.c.id.desc()).limit(1)
    return func.coalesce(last.scalar_subquery(), 0)


def is_of_kind(kind: str) -> Condition:
    if kind == RECORDS:
        return inspections.c.id.is_not(None)
    if kind == REVIEWED:
        return inspections.c.verdict.is_not(None)
    return and_(inspections.c.verdict.is_(None), inspections.c.anomalous.is_(kind == ANOMALOUS))


def removable_keys(
    connection: Connection, keys: list[tuple[int, str]], stays: Condition
) -> list[tuple[int, str]]:
    """Keys of the pictures that are there and need not stay."""
    there = PICTURE.in_(keys), pictures.c.removed_at.is_(None)
    return [tuple(row) for row in connection.execute(select(*KEY).where(*there, ~stays))]
