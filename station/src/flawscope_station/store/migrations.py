"""Migration of the tables to this version, by Alembic.

A change of `schema` needs a step in the folder `steps`: a file with the next version that contains all it
needs. No step reads `schema`, which goes on changing; a test compares the migrated tables with `schema`, and
migrates a store of each version before. Alembic keeps the version in the table `alembic_version`. The tables
are copied before (`Database.migrate`).
"""

from __future__ import annotations

import threading
from functools import cache
from pathlib import Path

from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.script.revision import RevisionError
from alembic.util import CommandError
from sqlalchemy import Connection, MetaData, inspect, text

from flawscope_station.store.schema import create_view_sql, metadata

STEPS = (Path(__file__).with_name("steps"),)  # folders of the steps
_one_at_once = threading.Lock()  # Alembic's operations, which the steps call, are those of the process


class UnknownVersionError(Exception):
    """The tables are of no version that this flawscope knows.

    Attributes:
        reason: Predicate of a sentence about the store, as "was made by another flawscope".
    """

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


def table_version(connection: Connection) -> str | None:
    """Return the version of the tables; None where there are none.

    Raises:
        UnknownVersionError: this flawscope does not know it, or there are tables and no version.
    """
    version = MigrationContext.configure(connection).get_current_revision()
    if version is None:
        _refuse_tables(connection)
        return None
    try:
        _steps(STEPS).get_revision(version)
    except (CommandError, RevisionError):
        raise UnknownVersionError("was made by another flawscope") from None
    return version


def _refuse_tables(connection: Connection) -> None:
    """Raise UnknownVersionError where tables of these names are there already, which say no version."""
    there = sorted(set(inspect(connection).get_table_names()) & set(metadata.tables))
    if there:
        raise UnknownVersionError(f"has tables that say no version ({', '.join(there[:3])})")


def is_current(connection: Connection) -> bool:
    """Return whether the tables are there and of this version.

    Raises:
        UnknownVersionError: this flawscope does not know their version.
    """
    return table_version(connection) == newest_version()


def newest_version() -> str:
    """Return the version of the tables that `schema` describes."""
    version = _steps(STEPS).get_current_head()
    assert version is not None
    return version


def migrate(connection: Connection) -> None:
    """Make the tables, or migrate them to this version.

    Raises:
        UnknownVersionError: this flawscope does not know their version; nothing has changed.
    """
    if table_version(connection) is None:
        make_tables(connection)
        return
    steps = _steps(STEPS)

    def ahead(version: str, context: MigrationContext) -> object:
        return steps._upgrade_revs("head", version)  # as Alembic's own command `upgrade`

    context = MigrationContext.configure(connection, opts={"fn": ahead, "script": steps})
    with _one_at_once, Operations.context(context):
        context.run_migrations()


def make_tables(connection: Connection) -> None:
    """Make the tables of this version in an empty database."""
    _copied(metadata).create_all(connection, checkfirst=False)
    connection.execute(text(create_view_sql(connection.dialect.name)))
    MigrationContext.configure(connection).stamp(_steps(STEPS), newest_version())


def _copied(tables: MetaData) -> MetaData:
    """Return a copy of the tables.

    In PostgreSQL a key between two tables that name each other is added when both are there, and SQLAlchemy
    makes no table with it any more, which SQLite needs.
    """
    copy = MetaData(naming_convention=tables.naming_convention)
    for table in tables.tables.values():
        table.to_metadata(copy)
    return copy


@cache
def _steps(folders: tuple[Path, ...]) -> ScriptDirectory:
    """Read the steps of these folders."""
    return ScriptDirectory(str(folders[0]), version_locations=[str(folder) for folder in folders])
