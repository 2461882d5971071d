"""Queries of parts with several views; `insert` writes them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, Select, select

from flawscope_station.store.database import Database
from flawscope_station.store.inspection import label_text
from flawscope_station.store.records import NotFoundError, describe_inspections, inspection_query, iso
from flawscope_station.store.schema import inspections, on_line, parts, products
from flawscope_station.store.search import decode_cursor, encode_cursor


def last_part(database: Database, product_id: int) -> dict[str, Any] | None:
    """The last part, as the API shows it; None where there is none."""
    found, _ = search_parts(database, product_id, limit=1)
    return next(iter(found), None)


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
    query = part_query().where(on_line(product_id, parts))
    query = query.order_by(parts.c.id.desc())
    if part:
        query = query.where(parts.c.part == label_text(part))
    if decision:
        query = query.where(parts.c.decision == decision)
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
    same = "id", "product", "part", "batch", "decision", "score", "p_value", "worst"
    return [
        {
            **{name: getattr(row, name) for name in same},
            "version": row.version_id,
            "decided_at": iso(row.decided_at),
            "views": views[row.id],
        }
        for row in rows
    ]
