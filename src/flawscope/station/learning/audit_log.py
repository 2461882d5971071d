"""Who did what to a product's models, and said what of its pictures."""

from __future__ import annotations

import heapq
from itertools import islice
from typing import Any

from sqlalchemy import select

from flawscope.station.store.database import Database
from flawscope.station.store.records import VERDICT, iso
from flawscope.station.store.schema import events, inspections, verdicts


def trail(database: Database, product_id: int, limit: int) -> list[dict[str, Any]]:
    """Events and verdicts, the latest first."""
    own = events.c.product_id == product_id, events.c.kind != VERDICT  # which are below, with more
    happened = select(events).where(*own).order_by(events.c.id.desc())
    said = (
        select(verdicts, inspections.c.name)
        .select_from(verdicts.join(inspections))
        .where(inspections.c.product_id == product_id)
        .order_by(verdicts.c.id.desc())
    )
    with database.reading() as connection:
        changes = [
            (row.at, {"kind": row.kind, "by": row.who, "text": row.text, "inspection": None})
            for row in connection.execute(happened.limit(limit))
        ]
        words = [
            (
                row.at,
                {"kind": "verdict", "by": row.who, "text": row.verdict, "inspection": row.inspection_id},
            )
            for row in connection.execute(said.limit(limit))
        ]
    # each kind stays in its order, whatever clocks did
    entries = heapq.merge(changes, words, key=lambda entry: entry[0], reverse=True)
    return [{"at": iso(at), **one} for at, one in islice(entries, limit)]
