"""Cursors of sinks across changes of the settings: what waits for a sink waits also when its address changed.

A cursor's key has the sink's kind, a hash of its name or address, and its place among the product's sinks. A
sink is found again by its name or address; without a name also by its place, and at last by its kind.
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


class GivenCursor(NamedTuple):
    """Cursor that a sink goes on with.

    Attributes:
        cursor: As it is stored.
        positions: Positions from which the sink goes on, by their columns.
    """

    cursor: StoredCursor
    positions: dict[str, int]


class CursorMatch(NamedTuple):
    """Stored cursors of a product and the sinks that go on with them.

    Attributes:
        by_place: By the sink's place among the product's.
        unmatched: Cursors whose sinks are gone.
    """

    by_place: dict[int, GivenCursor]
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

    Args:
        database: of the station.
        sinks: by product, then by place.

    Raises:
        StoreError: the data base cannot be used.
    """
    unmatched: list[StoredCursor] = []
    with database.writing() as connection:
        stored = [StoredCursor.of(row) for row in connection.execute(select(deliveries)).all()]
        for product_id in {cursor.row.product_id for cursor in stored}:
            own = [cursor for cursor in stored if cursor.row.product_id == product_id]
            wanted = sinks.get(product_id, {})
            match = _match(own, wanted)
            for place, (cursor, positions) in match.by_place.items():
                row = cursor_conditions(product_id, cursor.row.sink)
                key = cursor_key(wanted[place], place)
                values = {"sink": key, **positions}
                if cursor.hash not in key:  # nothing was delivered there
                    values |= {"delivered": 0, "refused": 0}
                connection.execute(update(deliveries).where(*row).values(values))
                refused = undelivered.c.product_id == product_id, undelivered.c.sink == cursor.row.sink
                connection.execute(update(undelivered).where(*refused).values(sink=key))
            unmatched += match.unmatched
    return unmatched


def delete_cursors(database: Database, cursors: Sequence[StoredCursor]) -> None:
    """Delete cursors: a sink that comes back begins anew. StoreError."""
    with database.writing() as connection:
        for cursor in cursors:
            row = cursor_conditions(cursor.row.product_id, cursor.row.sink)
            connection.execute(delete(deliveries).where(*row))
            refused = undelivered.c.product_id == cursor.row.product_id, undelivered.c.sink == cursor.row.sink
            connection.execute(delete(undelivered).where(*refused))


def _match(stored: Sequence[StoredCursor], sinks_by_place: Mapping[int, SinkSettings]) -> CursorMatch:
    """Find the cursor of each sink of a product.

    Where it is not sure which of several changed sinks had which cursor, each goes on from the position that
    is furthest behind: a message may be sent again, and none is lost.
    """
    unmatched = list(stored)
    found = dict[int, StoredCursor]()

    def take(place: int, fits: Callable[[StoredCursor], bool]) -> bool:
        """Give the sink at a place, if it has none, the first cursor of its kind that fits.

        Returns:
            Whether the sink got a cursor.
        """
        kind = sinks_by_place[place].kind
        fitting = [cursor for cursor in _of_kind(kind, unmatched) if fits(cursor)]
        if place in found or not fitting:
            return False
        found[place] = fitting[0]
        unmatched.remove(fitting[0])
        return True

    for place, sink in sinks_by_place.items():
        take(place, partial(_has_hash, _digest(sink.cursor_name)))
    # the cursor of a sink that was named only now still has the hash of its address
    for place, sink in sinks_by_place.items():
        take(place, partial(_has_hash, _digest(sink.address)))
    unnamed = [place for place, sink in sinks_by_place.items() if sink.name is None]
    guessed: list[StoredCursor] = []  # given without knowing that the sink had them
    ambiguous_kinds: set[str] = set()
    for place in unnamed:
        if take(place, partial(_is_at_place, place)):
            guessed.append(found[place])
    for place in unnamed:
        if take(place, lambda cursor: True):
            guessed.append(found[place])
            ambiguous_kinds.add(found[place].kind)
    ambiguous_kinds.update(cursor.kind for cursor in unmatched)
    doubtful = [cursor for cursor in guessed + unmatched if cursor.kind in ambiguous_kinds]
    by_place = {
        place: GivenCursor(cursor, _furthest_behind(_possible_cursors(cursor, doubtful)))
        for place, cursor in found.items()
    }
    return CursorMatch(by_place, unmatched)


def _possible_cursors(given: StoredCursor, doubtful: Sequence[StoredCursor]) -> list[StoredCursor]:
    """Return all cursors that a sink may have had which was given one of them."""
    return _of_kind(given.kind, doubtful) if given in doubtful else [given]


def _of_kind(kind: str, cursors: Sequence[StoredCursor]) -> list[StoredCursor]:
    return [cursor for cursor in cursors if cursor.kind == kind]


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
