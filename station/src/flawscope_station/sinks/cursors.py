"""Cursors of sinks across changes of the settings: messages wait for a sink even if its address changes.

A cursor's key has the sink's kind, a hash of its name or address, and its place among the product's sinks. A
sink's cursor is found again by name or address; for a sink without a name also by place, and last by kind.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from sqlalchemy import ColumnElement, delete, select, update

from flawscope_station.settings.sinks import SinkSettings
from flawscope_station.store.database import Database
from flawscope_station.store.rows import DeliveryRow
from flawscope_station.store.schema import deliveries, undelivered


@dataclass(frozen=True)
class StoredCursor:
    """Cursor in the store.

    Attributes:
        row: Row of the cursor.
        kind: Kind of the sink, such as webhook.
        hash: Hash of the sink's name or address.
        place: Place of the sink among the product's, from 1; 0 for the broker.
    """

    row: DeliveryRow
    kind: str
    hash: str
    place: int

    @staticmethod
    def of(row: DeliveryRow) -> StoredCursor:
        """Return the cursor of a row; kind, hash and place are the parts of the row's key."""
        kind, digest, place = row.sink.split(":")
        return StoredCursor(row, kind, digest, int(place))


class AssignedCursor(NamedTuple):
    """Stored cursor that a sink continues with.

    Attributes:
        cursor: Stored cursor.
        positions: Positions from which the sink continues, by column.
    """

    cursor: StoredCursor
    positions: dict[str, int]


class CursorMatch(NamedTuple):
    """Stored cursors of a product and the sinks that continue with them.

    Attributes:
        by_place: Cursors by the sink's place among the product's.
        unmatched: Cursors whose sinks are gone.
    """

    by_place: dict[int, AssignedCursor]
    unmatched: list[StoredCursor]


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

    A cursor says how far a sink has got.

    Args:
        database: Database of the station.
        sinks: Settings of the sinks by product, then by place.

    Raises:
        StoreError: The database cannot be used.
    """
    unmatched: list[StoredCursor] = []
    with database.writing() as connection:
        stored = [StoredCursor.of(cursor_row) for cursor_row in connection.execute(select(deliveries)).all()]
        for product_id in {cursor.row.product_id for cursor in stored}:
            product_cursors = [cursor for cursor in stored if cursor.row.product_id == product_id]
            sinks_by_place = sinks.get(product_id, {})
            match = _match(product_cursors, sinks_by_place)
            for place, (cursor, positions) in match.by_place.items():
                row_conditions = cursor_conditions(product_id, cursor.row.sink)
                key = cursor_key(sinks_by_place[place], place)
                values = {"sink": key, **positions}
                # another hash: the sink has a new address, to which nothing was delivered yet
                if cursor.hash not in key:
                    values |= {"delivered": 0, "refused": 0}
                connection.execute(update(deliveries).where(*row_conditions).values(values))
                refused_conditions = (
                    undelivered.c.product_id == product_id,
                    undelivered.c.sink == cursor.row.sink,
                )
                connection.execute(update(undelivered).where(*refused_conditions).values(sink=key))
            unmatched += match.unmatched
    return unmatched


def delete_cursors(database: Database, cursors: Sequence[StoredCursor]) -> None:
    """Delete cursors; a sink that comes back later begins with new records.

    Raises:
        StoreError: The database cannot be used.
    """
    with database.writing() as connection:
        for cursor in cursors:
            row_conditions = cursor_conditions(cursor.row.product_id, cursor.row.sink)
            connection.execute(delete(deliveries).where(*row_conditions))
            refused_conditions = (
                undelivered.c.product_id == cursor.row.product_id,
                undelivered.c.sink == cursor.row.sink,
            )
            connection.execute(delete(undelivered).where(*refused_conditions))


def _match(stored: Sequence[StoredCursor], sinks_by_place: Mapping[int, SinkSettings]) -> CursorMatch:
    """Find the cursor of each sink of a product: by name, by address, by place, and last by kind alone.

    If it is not certain which of several sinks had which cursor, each of these sinks continues from the
    position that is furthest behind. Then a message may be sent again, but none is lost.
    """
    unmatched = list(stored)
    cursor_by_place = dict[int, StoredCursor]()

    def assign_cursor(place: int, is_suitable: Callable[[StoredCursor], bool]) -> bool:
        """Give the sink at a place the first suitable cursor of its kind, unless the sink has a cursor.

        Returns:
            Whether a cursor was assigned.
        """
        kind = sinks_by_place[place].kind
        suitable_cursors = [cursor for cursor in _of_kind(kind, unmatched) if is_suitable(cursor)]
        if place in cursor_by_place or not suitable_cursors:
            return False
        cursor_by_place[place] = suitable_cursors[0]
        unmatched.remove(suitable_cursors[0])
        return True

    for place, sink in sinks_by_place.items():
        assign_cursor(place, partial(_has_hash, _digest(sink.cursor_name)))
    # the cursor of a sink that has a name only since this start still has the hash of the address
    for place, sink in sinks_by_place.items():
        assign_cursor(place, partial(_has_hash, _digest(sink.address)))
    unnamed_places = [place for place, sink in sinks_by_place.items() if sink.name is None]
    guessed_cursors: list[StoredCursor] = []  # assigned by place or kind, perhaps of another sink
    ambiguous_kinds: set[str] = set()  # kinds with a cursor that was assigned only by kind, or to no sink
    for place in unnamed_places:
        if assign_cursor(place, partial(_is_at_place, place)):
            guessed_cursors.append(cursor_by_place[place])
    for place in unnamed_places:
        if assign_cursor(place, lambda cursor: True):  # any cursor of the sink's kind
            guessed_cursors.append(cursor_by_place[place])
            ambiguous_kinds.add(cursor_by_place[place].kind)
    ambiguous_kinds.update(cursor.kind for cursor in unmatched)
    doubtful_cursors = [cursor for cursor in guessed_cursors + unmatched if cursor.kind in ambiguous_kinds]
    by_place: dict[int, AssignedCursor] = {}
    for place, cursor in cursor_by_place.items():
        possible_cursors = _possible_cursors(cursor, doubtful_cursors)
        by_place[place] = AssignedCursor(cursor, _furthest_behind(possible_cursors))
    return CursorMatch(by_place, unmatched)


def _possible_cursors(cursor: StoredCursor, doubtful_cursors: Sequence[StoredCursor]) -> list[StoredCursor]:
    """Return all cursors that the sink with the cursor `cursor` may have had before."""
    if cursor not in doubtful_cursors:
        return [cursor]
    return _of_kind(cursor.kind, doubtful_cursors)


def _of_kind(kind: str, cursors: Sequence[StoredCursor]) -> list[StoredCursor]:
    return [cursor for cursor in cursors if cursor.kind == kind]


def _has_hash(digest: str, cursor: StoredCursor) -> bool:
    return cursor.hash == digest


def _is_at_place(place: int, cursor: StoredCursor) -> bool:
    return cursor.place == place


def _furthest_behind(cursors: Sequence[StoredCursor]) -> dict[str, int]:
    """Return for each column the lowest position of the cursors."""
    return {
        "inspection_id": min(cursor.row.inspection_id for cursor in cursors),
        "verdict_id": min(cursor.row.verdict_id for cursor in cursors),
    }


def _digest(name: str) -> str:
    """Return the hash of a name or address in a cursor's key, 32 hexadecimal digits."""
    return hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:32]
