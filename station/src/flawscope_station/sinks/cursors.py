"""Cursors of sinks across changes of the settings: what waits for a sink waits also when its address changed.

A cursor's key has the sink's kind, a hash of its name or address, and its place among the product's sinks. A
sink is found again by its name or address; without a name also by its place, and at last by its kind.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Row, delete, select, update

from flawscope_station.settings.sinks import SinkSettings
from flawscope_station.store.database import Database
from flawscope_station.store.schema import deliveries, undelivered

POSITIONS = ("inspection_id", "verdict_id")  # columns


@dataclass(frozen=True)
class StoredCursor:
    """Cursor in the store. place: of its sink among the product's, from 1, 0 of the broker."""

    row: Row[Any]
    kind: str
    hash: str
    place: int

    @staticmethod
    def of(row: Row[Any]) -> StoredCursor:
        kind, digest, place = row.sink.split(":")
        return StoredCursor(row, kind, digest, int(place))


def cursor_key(sink: SinkSettings, place: int) -> str:
    """Return the key under which a sink's cursor is stored."""
    return f"{sink.kind}:{_digest(sink.cursor_name)}:{place}"


def cursor_conditions(product_id: int, key: str) -> Sequence[ColumnElement[bool]]:
    return deliveries.c.product_id == product_id, deliveries.c.sink == key


def hand_on_cursors(
    database: Database, sinks: Mapping[int, Mapping[int, SinkSettings]]
) -> list[StoredCursor]:
    """Store each cursor under the key that its sink has now; return those of which no sink is left.

    Args:
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
                row, key = cursor_conditions(product_id, one.row.sink), cursor_key(wanted[place], place)
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
    left, found, guessed = list(stored), dict[int, StoredCursor](), dict[int, bool]()  # whether by its place

    def take(place: int, fits: Any) -> bool:
        kind = sinks[place].kind
        one = next((one for one in left if one.kind == kind and fits(one)), None)
        if place in found or one is None:
            return False
        found[place] = one
        left.remove(one)
        return True

    for name in ("cursor_name", "address"):  # it may have got a name since
        for place, sink in sinks.items():
            digest = _digest(getattr(sink, name))
            take(place, lambda one, digest=digest: one.hash == digest)
    unnamed = [place for place, sink in sinks.items() if sink.name is None]
    guessed |= {place: True for place in unnamed if take(place, lambda one, at=place: one.place == at)}
    guessed |= {place: False for place in unnamed if take(place, lambda one: True)}
    rest = {one.kind for one in left} | {found[place].kind for place, sure in guessed.items() if not sure}
    positions = {place: {name: getattr(one.row, name) for name in POSITIONS} for place, one in found.items()}
    for place in guessed:
        if (kind := found[place].kind) in rest:
            several = [found[other] for other in guessed if found[other].kind == kind]
            several += [one for one in left if one.kind == kind]
            positions[place] = {name: min(getattr(one.row, name) for one in several) for name in POSITIONS}
    return {place: (one, positions[place]) for place, one in found.items()}, left


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:32]
