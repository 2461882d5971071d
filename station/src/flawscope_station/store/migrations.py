"""Migration of the tables to this version.

Whoever changes `schema` adds a step with the tables' next version to the end of `STEPS`; a test compares the
migrated tables with `schema`. The tables are copied before (`Database.migrate`).
"""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection, inspect, select, text, update

from flawscope_station.store.schema import create_view_sql, metadata, revision

# Versions of the tables in order, each with the step that migrates from the version before
STEPS: dict[str, Callable[[Connection], None]] = {"0002": lambda connection: None}


class UnknownVersionError(Exception):
    """The tables were made by another flawscope."""


def table_version(connection: Connection) -> str | None:
    """Version of the tables; None where there are none.

    Raises:
        UnknownVersionError: this flawscope does not know it.
    """
    if not inspect(connection).has_table(revision.name):
        return None
    version: str | None = connection.scalar(select(revision.c.version_num))
    if version not in STEPS:
        raise UnknownVersionError
    return version


def is_current(connection: Connection) -> bool:
    """Whether the tables are there and of this version. UnknownVersionError."""
    return table_version(connection) == list(STEPS)[-1]


def migrate(connection: Connection) -> None:
    """Make the tables, or migrate them to this version. UnknownVersionError: nothing has changed."""
    current, order = table_version(connection), list(STEPS)
    if current is None:
        metadata.create_all(connection, checkfirst=False)
        connection.execute(text(create_view_sql(connection.dialect.name)))
        connection.execute(revision.insert().values(version_num=order[-1]))
        return
    for version in order[order.index(current) + 1 :]:
        STEPS[version](connection)
    connection.execute(update(revision).values(version_num=order[-1]))
