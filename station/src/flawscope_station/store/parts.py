"""Queries of parts with several views; `insert` writes them and decides on them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, Select, and_, false, func, or_, select

from flawscope_station.store.database import Database
from flawscope_station.store.insert import IS_OPEN
from flawscope_station.store.records import NotFoundError, describe_inspections, inspection_query, iso
from flawscope_station.store.schema import inspections, parts, products
from flawscope_station.store.search import decode_cursor, encode_cursor

OPEN = "open"  # no decision yet


def open_rounds(database: Database, product_ids: Collection[int]) -> Sequence[Row[Any]]:
    """Rounds of these products that are not decided yet: id, product_id, version_id."""
    query = select(*(parts.c[name] for name in ("id", "product_id", "version_id")))
    with database.reading() as connection:
        return connection.execute(query.where(parts.c.product_id.in_(product_ids), IS_OPEN)).all()


def last_decision_numbers(database: Database, product_ids: Collection[int]) -> dict[int, int]:
    """Numbers of the last decisions, by product; products without one are left out."""
    query = select(parts.c.product_id, func.max(parts.c.number).label("last")).group_by(parts.c.product_id)
    where = parts.c.product_id.in_(product_ids), parts.c.number.is_not(None)
    with database.reading() as connection:
        return {row.product_id: row.last for row in connection.execute(query.where(*where))}


def decisions(database: Database, after: Mapping[int, int]) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Yield product, number and part, as the API shows it, of each product's decisions after a number."""
    later = (
        and_(parts.c.product_id == product, parts.c.number > number) for product, number in after.items()
    )
    query = part_query().where(or_(false(), *later)).order_by(parts.c.product_id, parts.c.number)
    with database.reading() as connection:
        rows = connection.execute(query).all()
        found = describe_parts(connection, rows)
    yield from ((row.product_id, row.number, part) for row, part in zip(rows, found, strict=True))


def last_decided_part(database: Database, product_id: int) -> dict[str, Any] | None:
    """The part that was decided on last, as the API shows it; None where there is none."""
    last = last_decision_numbers(database, [product_id]).get(product_id, 0)
    return next((part for *_, part in decisions(database, {product_id: last - 1})), None)


def find_part(database: Database, product_id: int, number: int) -> dict[str, Any]:
    """A part as the API shows it, with its views' inspections. NotFoundError."""
    query = part_query().where(parts.c.product_id == product_id, parts.c.id == number)
    views = inspection_query().where(inspections.c.part_id == number).order_by(inspections.c.id)
    with database.reading() as connection:
        found = describe_parts(connection, connection.execute(query).all())
        if not found:
            raise NotFoundError(f"there is no part {number}: it is the `part_id` of an inspection")
        return {**found[0], "inspections": describe_inspections(connection, connection.execute(views).all())}


def search_parts(
    database: Database,
    product_id: int,
    *,
    part: str = "",
    decision: str = "",
    cursor: str = "",
    limit: int = 50,
) -> tuple[list[dict[str, Any]], str | None]:
    """Return parts as the API shows them, the newest first, and the next cursor. InputError: the cursor."""
    query = part_query().where(parts.c.product_id == product_id).order_by(parts.c.id.desc())
    if part:
        query = query.where(parts.c.part == part)
    if decision:
        query = query.where(IS_OPEN if decision == OPEN else parts.c.decision == decision)
    if cursor:
        query = query.where(parts.c.id < decode_cursor(cursor))
    with database.reading() as connection:
        rows = connection.execute(query.limit(limit + 1)).all()
        found = describe_parts(connection, rows[:limit])
    return found, encode_cursor(rows[limit - 1].id) if len(rows) > limit else None


def part_query() -> Select[Any]:
    """Query of the columns that `describe_parts` needs."""
    return select(parts, products.c.name.label("product")).join_from(parts, products)


def describe_parts(connection: Connection, rows: Sequence[Row[Any]]) -> list[dict[str, Any]]:
    """Parts as the API shows them."""
    views: dict[int, dict[str, int]] = defaultdict(dict)
    query = select(inspections.c.part_id, inspections.c.view, inspections.c.id).order_by(inspections.c.id)
    for row in connection.execute(query.where(inspections.c.part_id.in_([row.id for row in rows]))):
        views[row.part_id][row.view] = row.id
    same = "id", "product", "part", "batch", "decision", "reason", "score", "p_value", "worst"
    return [
        {
            **{name: getattr(row, name) for name in same},
            "version": row.version_id,
            "opened_at": iso(row.opened_at),
            "decided_at": None if row.decided_at is None else iso(row.decided_at),
            "missing": json.loads(row.missing),
            "views": views[row.id],
        }
        for row in rows
    ]
