"""The data base: SQLite in a file, or PostgreSQL by URL, with the tables of this version."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import QueuePool

from flawscope.errors import FlawscopeError, InputError
from flawscope.station.settings import without_password

MIGRATIONS = Path(__file__).with_name("migrations")
PATIENCE = 10.0  # seconds that a writer waits for another one
CONNECTIONS = 20  # at once
_LOCK = 718_281_828  # of PostgreSQL: stations that start together change the tables one after another


class StoreError(FlawscopeError):
    """The store cannot be read or written now: what was asked for did not happen.

    Attributes:
        code: disk_full or store_unreachable.
    """

    def __init__(self, text: str, code: str):
        super().__init__(text)
        self.code = code


def now() -> int:
    """Microseconds since 1970."""
    return time.time_ns() // 1000


class Database:
    """Connections and transactions.

    Raises:
        InputError: it cannot be opened, or belongs to a newer version.
    """

    def __init__(self, url: str):
        self.url = url
        self.name = without_password(url)
        self.engine = _engine(url)
        self._writer = self.engine.execution_options(writes=True)
        snapshot = {} if self.is_sqlite else {"isolation_level": "REPEATABLE READ"}
        self._reader = self.engine.execution_options(**snapshot)

    @property
    def is_sqlite(self) -> bool:
        return self.engine.dialect.name == "sqlite"

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection of its own; what is read is of one moment."""
        with self._named(), self._reader.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction: on the disk when the block has ended, undone if it fails."""
        with self._named(), self._writer.begin() as connection:
            yield connection

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except (DBAPIError, PoolTimeoutError) as error:
            raise self._said(error) from None

    def _said(self, error: SQLAlchemyError) -> Exception:
        reason = " ".join(str(getattr(error, "orig", error)).split())[:200]
        full = "disk is full" in reason or getattr(getattr(error, "orig", None), "sqlstate", "") == "53100"
        if full:
            return StoreError(f"the disk of {self.name} is full; free some space", "disk_full")
        away = isinstance(error, OperationalError | PoolTimeoutError)
        if away or getattr(error, "connection_invalidated", False):
            return StoreError(f"{self.name} cannot be used: {reason}", "store_unreachable")
        return error

    def tune(self) -> None:
        """Now and then: SQLite counts what its tables hold, so that a search takes the right index.
        PostgreSQL does so by itself."""
        if self.is_sqlite:
            with self.writing() as connection:
                connection.exec_driver_sql("PRAGMA analysis_limit = 1000")
                connection.exec_driver_sql("ANALYZE")

    def close(self) -> None:
        self.engine.dispose()

    # ---- versions of the tables

    def migrate(self) -> None:
        """Bring the tables to this version. InputError where that cannot be done."""
        from alembic import command
        from alembic.config import Config
        from alembic.runtime.migration import MigrationContext
        from alembic.script import ScriptDirectory
        from alembic.util import CommandError

        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
        try:
            with self.writing() as connection:
                if not self.is_sqlite:
                    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
                there = MigrationContext.configure(connection).get_current_revision()
                if there is not None and there not in known:
                    raise InputError(
                        f"{self.name} was made by a newer flawscope: use that one, or restore a backup"
                    )
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
        except StoreError as error:
            raise InputError(f"{error}; check `database` and that it is running") from None
        except (CommandError, SQLAlchemyError) as error:
            why = " ".join(str(error).split())[:200]
            raise InputError(f"{self.name} is no store of flawscope: {why}") from None


def upsert(dialect: str, table: Any) -> Any:
    """INSERT that can say ON CONFLICT, in the data base's own words."""
    insert: Callable[[Any], Any] = sqlite.insert if dialect == "sqlite" else postgresql.insert
    return insert(table)


def _engine(url: str) -> Engine:
    if url.startswith("sqlite"):
        engine = create_engine(
            url,
            poolclass=QueuePool,
            pool_size=CONNECTIONS,
            max_overflow=CONNECTIONS,
            connect_args={"timeout": PATIENCE, "check_same_thread": False},
        )
        event.listen(engine, "connect", _as_wanted)
        event.listen(engine, "begin", _begin)
        return engine
    return create_engine(
        url,
        pool_size=CONNECTIONS,
        max_overflow=CONNECTIONS,
        pool_pre_ping=True,
        # whatever the server's setting: what is acknowledged is on the disk
        connect_args={"connect_timeout": int(PATIENCE), "options": "-c synchronous_commit=on"},
    )


def _as_wanted(connection: Any, record: object) -> None:
    """Of SQLite: readers do not wait for writers, and what is committed survives a power cut."""
    connection.isolation_level = None  # transactions are begun below
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "cache_size=-8192"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin(connection: Connection) -> None:
    """Readers take no lock; who wants to write says so, and then need not fear another one."""
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
