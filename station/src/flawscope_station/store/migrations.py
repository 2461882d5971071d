"""Migration of the tables to this version, by Alembic.

A change of `schema` needs a step in the folder `steps`: a file with the next version. A step never imports
`schema`, which goes on changing. A test migrates a store of each earlier version, and compares the migrated
tables with `schema`. Alembic records the version in the table `alembic_version`. `Database.migrate` copies
the tables first.
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
_migration_lock = threading.Lock()  # Alembic's operations, which the steps call, are global to the process


class UnknownVersionError(Exception):
    """The tables have a version that this flawscope does not know, or none.

    Attributes:
        reason: Predicate of a sentence about the store, as "was made by another flawscope".
    """

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


def table_version(connection: Connection) -> str | None:
    """Return the version of the tables; None: the database has no tables.

    Raises:
        UnknownVersionError: this flawscope does not know the version, or there are tables without a version.
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
    """Raise UnknownVersionError if a database without a version has tables named like the station's."""
    existing_names = sorted(set(inspect(connection).get_table_names()) & set(metadata.tables))
    if existing_names:
        raise UnknownVersionError(f"has tables that say no version ({', '.join(existing_names[:3])})")


def is_current(connection: Connection) -> bool:
    """Return whether the database has tables, and these are of this version.

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

    def steps_to_newest(version: str, context: MigrationContext) -> object:
        return steps._upgrade_revs("head", version)  # as Alembic's command `upgrade` does

    context = MigrationContext.configure(connection, opts={"fn": steps_to_newest, "script": steps})
    with _migration_lock, Operations.context(context):
        context.run_migrations()


def make_tables(connection: Connection) -> None:
    """Make the tables of this version in an empty database."""
    _copied(metadata).create_all(connection, checkfirst=False)
    connection.execute(text(create_view_sql(connection.dialect.name)))
    MigrationContext.configure(connection).stamp(_steps(STEPS), newest_version())


def _copied(tables: MetaData) -> MetaData:
    """Return a copy of the tables for one call of `create_all`, which marks the tables that it creates.

    Two tables have foreign keys to each other. In PostgreSQL, SQLAlchemy creates both tables first, then adds
    the second key, and marks that key permanently as one to add later. SQLite cannot add keys later: tables
    created there from the same objects would lack the key.
    """
    copy = MetaData(naming_convention=tables.naming_convention)
    for table in tables.tables.values():
        table.to_metadata(copy)
    return copy


@cache
def _steps(folders: tuple[Path, ...]) -> ScriptDirectory:
    """Return the steps in these folders; they are read only at the first call."""
    return ScriptDirectory(str(folders[0]), version_locations=[str(folder) for folder in folders])
