"""The data base: SQLite in a file or PostgreSQL by URL."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import groupby
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Executable, Row, create_engine, event, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import QueuePool

from flawscope.artefact import files
from flawscope.errors import InputError, one_line_message
from flawscope_station.settings.values import redact_address
from flawscope_station.store.inspection import RefusalError
from flawscope_station.store.migrations import UnknownVersionError, is_current, migrate, table_version

LOCK_TIMEOUT = 10.0  # seconds that a writer waits for another one
POOL_SIZE = 20  # open connections, at most twice as many at once
INCREMENTAL = 2  # SQLite's `auto_vacuum`: its file can be made smaller
# Of an index; with fewer, SQLite no longer tells indexes of a few rows from those of all
ROWS_ANALYSED = 2000
GROWTH = 1.1  # of a table, after which its statistics are updated
PAGES_AT_ONCE = 256  # pages of SQLite's file that are given back at once
_LOCK_ID = 718_281_828  # advisory lock of PostgreSQL: programs that start together migrate one after another
# Options of libpq: give up an unplugged server after seconds, not after a quarter of an hour
_TIMEOUTS = {
    "connect_timeout": int(LOCK_TIMEOUT),
    **{"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 2},
    "tcp_user_timeout": 20_000,  # ms
}


class StoreError(RefusalError):
    """The store cannot be read or written now; the request had no effect.

    Attributes:
        code: disk_full, store_unreachable or file_missing.
    """

    def __init__(self, text: str, code: str):
        super().__init__(text)
        self.status, self.code = {"disk_full": 507, "file_missing": 404}.get(code, 503), code


def now() -> int:
    """Return the present time, microseconds since 1970."""
    return time.time_ns() // 1000


class Database:
    """Connections and transactions of a data base.

    Attributes:
        full: why there was no room for the last write; "" where there was.
        failure: why the last write failed; "" where it did not.

    Raises:
        InputError: the URL is not the address of a data base.
    """

    def __init__(self, url: str):
        self.url, self.full, self.failure = url, "", ""
        try:
            self.engine = _create_engine(url)
        except (ArgumentError, ValueError):  # the errors' texts hold the URL
            raise InputError(
                f"{redact_address(url)} is no address of a data base: check host and port"
            ) from None
        self.name = url if self.is_sqlite else redact_address(url)
        self._writer = self.engine.execution_options(writes=True)
        self._writes = threading.Lock()
        self._last_rows: dict[str, int] = {}  # by table, when its statistics were updated
        snapshot = {} if self.is_sqlite else {"isolation_level": "REPEATABLE READ"}
        self._reader = self.engine.execution_options(**snapshot)

    @property
    def is_sqlite(self) -> bool:
        return self.engine.dialect.name == "sqlite"

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Open a connection whose reads all see the data base at one moment."""
        with self._translated_errors(), self._reader.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Open a transaction: on the disk when the block has ended, undone if the block fails."""
        try:
            with self._translated_errors(), self._turn(), self._writer.begin() as connection:
                yield connection
        except StoreError as error:
            self.failure = str(error)
            raise
        self.full = self.failure = ""

    @contextmanager
    def writing_unchecked(self) -> Iterator[Connection]:
        """Open a transaction in which SQLite does not look for rows that name one that goes: tables may be
        made anew, and where no index tells who names it, a table of millions is not read from end to end."""
        with self._translated_errors(), self._turn(), self._writer.connect() as connection:
            checks: Any = connection.connection.driver_connection if self.is_sqlite else None
            if checks is not None:
                checks.execute("PRAGMA foreign_keys = OFF")
            try:
                with connection.begin():
                    yield connection
            finally:
                if checks is not None:
                    checks.execute("PRAGMA foreign_keys = ON")

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Wait until no other thread writes to SQLite, which has one writer at a time: left to itself it asks
        whether it may at growing intervals, whoever came first. StoreError."""
        if not self.is_sqlite:
            yield
        elif not self._writes.acquire(timeout=LOCK_TIMEOUT):
            text = f"{self.name} cannot be used: another write takes more than {LOCK_TIMEOUT:.0f} s"
            raise StoreError(text, "store_unreachable")
        else:
            try:
                yield
            finally:
                self._writes.release()

    def rows(self, query: Executable) -> list[Row[Any]]:
        """Return all rows of a query. StoreError."""
        with self.reading() as connection:
            return list(connection.execute(query))

    def row(self, query: Executable) -> Row[Any] | None:
        """Return the one row of a query; None: there is none. StoreError."""
        with self.reading() as connection:
            return connection.execute(query).one_or_none()

    def change(self, statement: Executable) -> None:
        """Carry out a statement in a transaction of its own. StoreError."""
        with self.writing() as connection:
            connection.execute(statement)

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        """Turn errors that an operator can remedy into StoreError."""
        try:
            yield
        except (DBAPIError, PoolTimeoutError) as error:
            origin = getattr(error, "orig", None)
            reason = one_line_message(origin or error)
            if "disk is full" in reason or getattr(origin, "sqlstate", "") == "53100":
                self.full = f"the disk of {self.name} is full; free some space"
                raise StoreError(self.full, "disk_full") from None
            lost = isinstance(error, DBAPIError) and error.connection_invalidated
            if lost or isinstance(error, OperationalError | PoolTimeoutError):
                text = f"{self.name} cannot be used: {reason}; check `database` and that it is running"
                raise StoreError(text, "store_unreachable") from None
            raise

    def tune(self) -> None:
        """Update the statistics by which SQLite chooses an index, of tables that grew by a tenth since; the
        first time of all. They hold for the connections that are opened from now on: the open ones go.
        PostgreSQL does so by itself."""
        if not self.is_sqlite:
            return
        indexes = text("SELECT tbl_name, name FROM sqlite_master WHERE type = 'index' ORDER BY tbl_name")
        before = dict(self._last_rows)
        for table, own in groupby(self.rows(indexes), lambda index: index.tbl_name):
            ((last,),) = self.rows(text(f'SELECT COALESCE(MAX(rowid), 0) FROM "{table}"'))
            if last > GROWTH * before.get(table, -1):
                for index in own:  # a transaction each: parts wait for no longer one
                    with self.writing() as connection:
                        connection.exec_driver_sql(f"PRAGMA analysis_limit = {ROWS_ANALYSED}")
                        connection.exec_driver_sql(f'ANALYZE "{index.name}"')
                self._last_rows[table] = last
        if self._last_rows != before:
            self.engine.dispose()

    def give_space_back(self) -> bool:
        """Give some of the pages that SQLite does not use any more back to the disk; return whether there are
        more. PostgreSQL uses them again by itself."""
        if not self.is_sqlite:
            return False
        with self.writing() as connection:
            for _ in range(PAGES_AT_ONCE):  # Python steps each once, which frees one page
                connection.exec_driver_sql("PRAGMA incremental_vacuum")
            free = connection.exec_driver_sql("PRAGMA freelist_count").scalar_one()
            is_on = connection.exec_driver_sql("PRAGMA auto_vacuum").scalar_one() == INCREMENTAL
        return bool(is_on and free)

    def size(self) -> int:
        """Bytes of the data base."""
        with self.reading() as connection:
            if self.is_sqlite:
                pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
                return int(pages * connection.exec_driver_sql("PRAGMA page_size").scalar_one())
            return int(connection.execute(text("SELECT pg_database_size(current_database())")).scalar_one())

    def close(self) -> None:
        self.engine.dispose()

    # ---- versions of the tables

    def migrate(self) -> None:
        """Make the tables, or migrate them to this version. SQLite's are copied beside the file before, as
        `station.sqlite.0001` with their version; those of PostgreSQL are for pg_dump.

        Raises:
            InputError: that fails.
        """
        try:
            with self.reading() as connection:
                if not self.is_sqlite:
                    self._check_encoding(connection)
                if is_current(connection):
                    return
                version = table_version(connection)
            if version is not None and self.is_sqlite:
                self._copy_before(version)
            self._let_shrink()
            with self.writing_unchecked() as connection:
                self.lock_exclusively(connection)
                migrate(connection)
        except UnknownVersionError:
            raise InputError(
                f"{self.name} was made by another flawscope: use that one, restore a backup, or begin anew "
                "with an empty store"
            ) from None
        except StoreError as error:
            raise InputError(str(error)) from None
        except SQLAlchemyError as error:
            raise InputError(f"{self.name} is no store of flawscope: {one_line_message(error)}") from None

    def check_tables(self) -> bool:
        """Return whether there are tables, unchanged. InputError where they are of another version."""
        try:
            with self.reading() as connection:
                is_right, version = is_current(connection), table_version(connection)
        except UnknownVersionError:
            is_right, version = False, "unknown"
        except StoreError as error:
            raise InputError(str(error)) from None
        except SQLAlchemyError as error:
            raise InputError(f"{self.name} is no store of flawscope: {one_line_message(error)}") from None
        if version is not None and not is_right:
            raise InputError(
                f"{self.name} is a store of another version of flawscope, which may be running on it: use "
                "that one here; `flawscope serve` of this one, started in its place, takes the store over"
            )
        return version is not None

    def _let_shrink(self) -> None:
        """Let SQLite's file become smaller when records are removed. One with tables is written anew for it,
        where there is room."""
        if not self.is_sqlite:
            return
        with self._translated_errors(), self.engine.connect() as connection:
            raw: Any = connection.connection.driver_connection
            if raw.execute("PRAGMA auto_vacuum").fetchone()[0] != INCREMENTAL:
                raw.execute(f"PRAGMA auto_vacuum = {INCREMENTAL}")
                with suppress(sqlite3.Error):  # the disk is too full: it goes on as it is
                    raw.execute("VACUUM")

    def _copy_before(self, version: str) -> None:
        """Copy the tables to a file of their own before they are migrated, once a version. StoreError."""
        path = Path(f"{self.engine.url.database}.{version}")
        if not path.exists():
            partial = path.with_name(path.name + files.PARTIAL_SUFFIX)
            partial.unlink(missing_ok=True)
            with self._translated_errors(), self.engine.connect() as connection:
                connection.connection.driver_connection.execute("VACUUM INTO ?", [str(partial)])  # type: ignore[union-attr]
            partial.replace(path)

    def _check_encoding(self, connection: Connection) -> None:
        """Raise InputError unless the data base stores all letters: names of pictures may have any."""
        letters = connection.execute(text("SHOW server_encoding")).scalar_one()
        if letters != "UTF8":
            raise InputError(
                f"{self.name} has the encoding {letters}: make a data base with UTF8, "
                "`createdb --encoding UTF8 --template template0`"
            )

    def lock_exclusively(self, connection: Connection) -> None:
        """Hold a lock until the transaction ends; others wait for it. SQLite has one writer at a time."""
        if not self.is_sqlite:
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK_ID})


def upsert(dialect: str, table: Any) -> Any:
    """Return the dialect's INSERT, which has ON CONFLICT."""
    insert: Callable[[Any], Any] = sqlite.insert if dialect == "sqlite" else postgresql.insert
    return insert(table)


def _create_engine(url: str) -> Engine:
    if url.startswith("sqlite"):
        engine = create_engine(
            url,
            poolclass=QueuePool,
            pool_size=POOL_SIZE,
            max_overflow=POOL_SIZE,
            pool_use_lifo=True,  # each connection caches pages: keep few in use
            connect_args={"timeout": LOCK_TIMEOUT, "check_same_thread": False},
        )
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    return create_engine(
        url,
        pool_size=POOL_SIZE,
        max_overflow=POOL_SIZE,
        pool_pre_ping=True,  # the server may have been started anew
        # a commit is on the disk, whatever the server's setting
        connect_args={**_TIMEOUTS, "options": "-c synchronous_commit=on", "client_encoding": "utf8"},
    )


def _configure_sqlite(connection: Any, record: object) -> None:
    """Set up an SQLite connection: readers do not wait for writers, and commits survive a power cut."""
    connection.isolation_level = None  # `_begin_sqlite` begins transactions
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "cache_size=-8192"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    """Begin an SQLite transaction. Readers take no lock; writers lock at the beginning."""
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
