"""Cursors of sinks across changes of the settings: what waits for a sink waits also when its address changed.

A cursor's key has the sink's kind, a hash of its name or address, and its place among the product's sinks. A
sink is found again by its name or address; without a name also by its place, and at last by its kind.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from sqlalchemy import ColumnElement, delete, select, update

from flawscope_station.settings.sinks import SinkSettings
from flawscope_station.store.database import Database
from flawscope_station.store.rows import DeliveryRow
from flawscope_station.store.schema import deliveries, undelivered


@dataclass(frozen=True)
class StoredCursor:
    """Cursor in the store.

    Attributes:
        row: As it is stored.
        kind: Of its sink, such as webhook.
        hash: Of its sink's name or address.
        place: Of its sink among the product's, from 1; 0 of the broker.
    """

    row: DeliveryRow
    kind: str
    hash: str
    place: int

    @staticmethod
    def of(row: DeliveryRow) -> StoredCursor:
        """Return the cursor of a row, whose key is taken apart."""
        kind, digest, place = row.sink.split(":")
        return StoredCursor(row, kind, digest, int(place))


def cursor_key(sink: SinkSettings, place: int) -> str:
    """Return the key under which a sink's cursor is stored."""
    return f"{sink.kind}:{_digest(sink.cursor_name)}:{place}"


def cursor_conditions(product_id: int, key: str) -> Sequence[ColumnElement[bool]]:
    """Return the conditions of the row of a cursor, by product and key."""
    return deliveries.c.product_id == product_id, deliveries.c.sink == key


def hand_on_cursors(
    database: Database, sinks: Mapping[int, Mapping[int, SinkSettings]]
) -> list[StoredCursor]:
    """Store each cursor under the key that its sink has now; return the cursors whose sinks are gone.

    Args:
        database: of the station.
        sinks: by product, then by place.

    Raises:
        StoreError: the data base cannot be used.
    """
    left: list[StoredCursor] = []
    with database.writing() as connection:
        stored = [StoredCursor.of(row) for row in connection.execute(select(deliveries)).all()]
        for product_id in {one.row.product_id for one in stored}:
            own = [one for one in stored if one.row.product_id == product_id]
            wanted = sinks.get(product_id, {})
            found, unused = _match(own, wanted)
            for place, (one, positions) in found.items():
                row = cursor_conditions(product_id, one.row.sink)
                key = cursor_key(wanted[place], place)
                values = {"sink": key, **positions}
                if one.hash not in key:  # nothing was delivered there
                    values |= {"delivered": 0, "refused": 0}
                connection.execute(update(deliveries).where(*row).values(values))
                refused = undelivered.c.product_id == product_id, undelivered.c.sink == one.row.sink
                connection.execute(update(undelivered).where(*refused).values(sink=key))
            left += unused
    return left


def delete_cursors(database: Database, cursors: Sequence[StoredCursor]) -> None:
    """Delete cursors: a sink that comes back begins anew. StoreError."""
    with database.writing() as connection:
        for one in cursors:
            row = cursor_conditions(one.row.product_id, one.row.sink)
            connection.execute(delete(deliveries).where(*row))
            refused = undelivered.c.product_id == one.row.product_id, undelivered.c.sink == one.row.sink
            connection.execute(delete(undelivered).where(*refused))


def _match(
    stored: Sequence[StoredCursor], sinks: Mapping[int, SinkSettings]
) -> tuple[dict[int, tuple[StoredCursor, dict[str, int]]], list[StoredCursor]]:
    """Return the cursor of each place that has one, with the positions from which it goes on, and the others.

    Where it is not sure which of several changed sinks had which cursor, each goes on from the position that
    is furthest behind: a message may be sent again, and none is lost.
    """
    left, found = list(stored), dict[int, StoredCursor]()

    def take(place: int, fits: Callable[[StoredCursor], bool]) -> bool:
        """Give a place without a cursor the first of its kind that fits; return whether it got one."""
        kind = sinks[place].kind
        fitting = [cursor for cursor in left if cursor.kind == kind and fits(cursor)]
        if place in found or not fitting:
            return False
        found[place] = fitting[0]
        left.remove(fitting[0])
        return True

    for name in ("cursor_name", "address"):  # it may have got a name since
        for place, sink in sinks.items():
            take(place, partial(_has_hash, _digest(getattr(sink, name))))
    unnamed = [place for place, sink in sinks.items() if sink.name is None]
    by_place = [place for place in unnamed if take(place, partial(_is_at_place, place))]
    by_kind = [place for place in unnamed if take(place, lambda cursor: True)]
    unsure_kinds = {cursor.kind for cursor in left} | {found[place].kind for place in by_kind}
    guessed = by_place + by_kind
    placed: dict[int, tuple[StoredCursor, dict[str, int]]] = {}
    for place, cursor in found.items():
        candidates = [cursor]
        if place in guessed and cursor.kind in unsure_kinds:
            candidates = [found[other] for other in guessed] + left
            candidates = [candidate for candidate in candidates if candidate.kind == cursor.kind]
        placed[place] = cursor, _furthest_behind(candidates)
    return placed, left


def _has_hash(digest: str, cursor: StoredCursor) -> bool:
    return cursor.hash == digest


def _is_at_place(place: int, cursor: StoredCursor) -> bool:
    return cursor.place == place


def _furthest_behind(cursors: Sequence[StoredCursor]) -> dict[str, int]:
    """Return the positions, by column, of what none of the cursors has passed."""
    return {
        "inspection_id": min(cursor.row.inspection_id for cursor in cursors),
        "verdict_id": min(cursor.row.verdict_id for cursor in cursors),
    }


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:32]
