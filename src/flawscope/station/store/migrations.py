"""Migration of the tables to this version.

Whoever changes `schema` adds a step with the tables' next version to the end of `STEPS`; a test compares the
migrated tables with `schema`.
"""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Column, Connection, Table, inspect, select, text, update
from sqlalchemy.schema import CreateColumn

from flawscope.station.store.schema import (
    HOUR,
    deliveries,
    events,
    inspections,
    marks,
    metadata,
    parts,
    products,
    revision,
    stations,
    tokens,
    users,
    view_of,
)

DAY = 24 * HOUR  # of a pause that counts, at most
PAUSE = 21 * DAY  # a longer pause looks like a wrong clock, and does not count
_IN_ORDER = text("""
SELECT products.station_id, inspections.id, inspections.at FROM inspections
JOIN products ON products.id = inspections.product_id ORDER BY products.station_id, inspections.id
""").execution_options(yield_per=10_000)


class UnknownVersionError(Exception):
    """The tables were made by a newer flawscope, or by one that is too old."""


def is_current(connection: Connection) -> bool:
    """Whether the tables are there and of this version."""
    return _version(connection) == HEAD


def migrate(connection: Connection) -> None:
    """Make the tables, or migrate them to this version. UnknownVersionError."""
    there = _version(connection)
    if there is None:
        metadata.create_all(connection, checkfirst=False)
        _report(connection)
        connection.execute(revision.insert().values(version_num=HEAD))
        return
    if there not in STEPS:
        raise UnknownVersionError
    order = list(STEPS)
    for version in order[order.index(there) + 1 :]:
        STEPS[version](connection)
    connection.execute(update(revision).values(version_num=HEAD))


def _version(connection: Connection) -> str | None:
    """Version of the tables; None where there are none."""
    if not inspect(connection).has_table(revision.name):
        return None
    return connection.scalar(select(revision.c.version_num))


def _add(connection: Connection, table: Table, *names: str) -> None:
    """Add columns of the schema to a table."""
    for name in names:
        column: Column[object] = table.c[name]
        made = str(CreateColumn(column).compile(dialect=connection.dialect))
        for key in column.foreign_keys:
            made += f" CONSTRAINT {table.name}_{name}_of REFERENCES {key.column.table.name} (id)"
        connection.execute(text(f"ALTER TABLE {table.name} ADD COLUMN {made}"))


def _index(connection: Connection, *names: str) -> None:
    """Make indexes of inspections as the schema has them."""
    for index in sorted(inspections.indexes, key=lambda index: str(index.name)):
        if index.name in names:
            index.create(connection)


def _first(connection: Connection) -> None:
    """Do nothing: earlier tables were never released."""


def _audit(connection: Connection) -> None:
    """Add the expiry of tokens, the address of events, and the settings of stations."""
    _add(connection, tokens, "expires_at")
    _add(connection, events, "address")
    _add(connection, stations, "settings")


def _marks(connection: Connection) -> None:
    """Add marks, which date records by their order, not by their times; index inspections in that order."""
    marks.create(connection)
    made: dict[tuple[int, int], dict[str, int]] = {}
    station, age, before = 0, 0, 0
    for station_id, number, at in connection.execute(_IN_ORDER):
        if station_id != station:
            station, age, before = station_id, 0, at
        passed = at - before
        age += min(passed, DAY) if 0 <= passed <= PAUSE else 0
        before = at
        place = {"station_id": station, "hour": age // HOUR}
        made[station, age // HOUR] = place | {"age": age, "at": at, "inspection_id": number}
    if made:
        connection.execute(marks.insert(), list(made.values()))
    for name in ("inspections_search", "inspections_product"):
        connection.execute(text(f"DROP INDEX {name}"))
    _index(connection, "inspections_search", "inspections_at")


def _parts(connection: Connection) -> None:
    """Add part, batch, the hash of the request and the number of triggers to inspections."""
    _add(connection, inspections, "part", "batch", "request_hash", "triggers")
    _index(connection, "inspections_part", "inspections_batch")


def _sessions(connection: Connection) -> None:
    """Drop the secrets of sessions: browsers say themselves when another site sends a request."""
    connection.execute(text("ALTER TABLE sessions DROP COLUMN csrf"))


def _recognised(connection: Connection) -> None:
    """Add the entries of products, and what the pictures of inspections were recognised as."""
    _add(connection, products, "entry_id")
    _add(connection, inspections, "shows", "product_p_value", "part_found")


def _views(connection: Connection) -> None:
    """Add parts that are seen in several views, and their place in the deliveries."""
    parts.create(connection)
    _add(connection, inspections, "view", "part_id")
    _index(connection, "inspections_part_id")
    _add(connection, deliveries, "part_number")


def _posed(connection: Connection) -> None:
    """Add the poses of the parts that inspections show."""
    _add(connection, inspections, "part_pose")


def _several(connection: Connection) -> None:
    """Add the parts that inspections show several of."""
    _add(connection, inspections, "found_parts")


def _report(connection: Connection) -> None:
    """Make the view for other programs."""
    connection.execute(text(view_of(connection.dialect.name)))


def _made(connection: Connection) -> None:
    """Add the settings of products that were made on the pages."""
    _add(connection, products, "made")


def _company(connection: Connection) -> None:
    """Add the company's accounts of users."""
    _add(connection, users, "subject")
    next(iter(users.indexes)).create(connection)


def _made_of_station(connection: Connection) -> None:
    """Add the settings of stations that were made on the pages."""
    _add(connection, stations, "made")


# Versions of the tables in order, each with the step that migrates from the version before
STEPS: dict[str, Callable[[Connection], None]] = {
    "0006": _first,
    "0009": _audit,
    "0008": _marks,
    "0007": _parts,
    "0010": _sessions,
    "0011": _views,
    "0012": _recognised,
    "0013": _posed,
    "0014": _several,
    "0015": _report,
    "0016": _made,
    "0017": _company,
    "0018": _made_of_station,
}
HEAD = list(STEPS)[-1]
