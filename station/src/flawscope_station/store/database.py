"""Database of a station: SQLite in a file, or PostgreSQL by URL."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import groupby
from pathlib import Path
from typing import Any, cast

from sqlalchemy import Connection, Engine, Executable, Row, Table, create_engine, event, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import QueuePool

from flawscope.artefact import files
from flawscope.errors import InputError, one_line_message
from flawscope_station.settings.values import redact_address
from flawscope_station.store.inspection import RefusalError
from flawscope_station.store.migrations import (
    UnknownVersionError,
    is_current,
    make_tables,
    migrate,
    table_version,
)

LOCK_TIMEOUT = 10.0  # seconds that a writer waits for another one
STATEMENT_TIMEOUT = 10.0  # seconds after which PostgreSQL gives up a statement, such as one that waits
ANSWER_TIMEOUT = 12.0  # seconds for which a statement's answer is waited for, whatever the server does
PROBE_TIMEOUT = 2.0  # seconds in which the data base must answer whoever watches it
SILENT = "store_silent"  # code of an error: the disk or the data base says nothing
POOL_SIZE = 20  # open connections, at most twice as many at once
INCREMENTAL = 2  # SQLite's `auto_vacuum`: its file can be made smaller
# Of an index; with fewer, SQLite no longer tells indexes of a few rows from those of all
ROWS_ANALYSED = 2000
GROWTH = 1.1  # of a table, after which its statistics are updated
PAGES_AT_ONCE = 256  # pages of SQLite's file that are given back at once
_LOCK_ID = 718_281_828  # advisory lock of PostgreSQL: programs that start together migrate one after another
# Options of libpq: give up an unplugged server after seconds, not after a quarter of an hour
_TIMEOUTS = {
    **{"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 2},
    "tcp_user_timeout": 20_000,  # ms
}


class StoreError(RefusalError):
    """The store cannot be read or written now; the request had no effect.

    Args:
        text: Text for the log and for engineers.
        code: disk_full, store_unreachable, store_silent or file_missing.
        sender_text: Text for senders of parts, without names of this machine; "": `text`.

    Attributes:
        code: Reason, for programs.
        is_in_doubt: Whether it came while a transaction was being committed, so that the transaction may have
            had its effect all the same.
    """

    is_in_doubt = False

    def __init__(self, text: str, code: str, sender_text: str = ""):
        super().__init__(text)
        self.status = {"disk_full": 507, "file_missing": 404}.get(code, 503)
        self.code = code
        self.sender_text = sender_text or text


def now() -> int:
    """Return the present time, microseconds since 1970."""
    return time.time_ns() // 1000


class Database:
    """Connections and transactions of a database.

    Attributes:
        full: Why there was no room for the last write; "" where there was.
        failure: Why the last write failed; "" where it did not.
        is_doubted: Whether a probe is waiting for the database's answer, or has waited in vain.
        silence: Returns, while `is_doubted`, the error for everybody who would ask a database that is known
            not to answer; None: it may answer.

    Raises:
        InputError: the URL is not the address of a database.
    """

    def __init__(self, url: str):
        self.url = url
        self.full = ""
        self.failure = ""
        self.is_doubted = False
        self.silence: Callable[[], StoreError | None] = lambda: None
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
        # of its own: it knows whether the data base answers while all other connections wait
        self._prober = _create_engine(url, is_probe=True)

    @property
    def is_sqlite(self) -> bool:
        """Whether the database is SQLite, else PostgreSQL."""
        return self.engine.dialect.name == "sqlite"

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Open a connection whose reads all see the database at one moment."""
        self._check_silence()
        with self._translated_errors(), self._reader.connect() as connection:
            self._set_patience(connection, ANSWER_TIMEOUT)
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Open a transaction: on the disk when the block has ended, undone if the block fails."""
        is_committing = False
        try:
            self._check_silence()
            with self._translated_errors(), self._turn(), self._writer.begin() as connection:
                self._set_patience(connection, ANSWER_TIMEOUT)
                yield connection
                is_committing = True
        except StoreError as error:
            error.is_in_doubt = is_committing
            self.failure = str(error)
            raise
        self.full = self.failure = ""

    @contextmanager
    def writing_unchecked(self) -> Iterator[Connection]:
        """Open a transaction in which SQLite does not look for rows that refer to a removed row.

        Tables may be made anew in it. And where no index finds such rows, a table of millions is not read
        from end to end.
        """
        with self._translated_errors(), self._turn(), self._writer.connect() as connection:
            self._set_patience(connection, None)  # a table of millions takes its time
            checks = self._sqlite_connection(connection) if self.is_sqlite else None
            if checks is not None:
                checks.execute("PRAGMA foreign_keys = OFF")
            try:
                with connection.begin():
                    if not self.is_sqlite:
                        connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
                    yield connection
            finally:
                if checks is not None:
                    checks.execute("PRAGMA foreign_keys = ON")

    def _sqlite_connection(self, connection: Connection) -> sqlite3.Connection:
        """Return the connection of Python's own SQLite, which runs statements outside of transactions."""
        return cast(sqlite3.Connection, connection.connection.driver_connection)

    def _check_silence(self) -> None:
        """Raise StoreError where the database is known not to answer: nobody else waits for it."""
        if self.is_doubted and (error := self.silence()) is not None:
            raise error

    def _set_patience(self, connection: Connection, seconds: float | None) -> None:
        """Set how long to wait for the answers to a connection's statements.

        SQLite needs no limit.

        Args:
            connection: Connection to PostgreSQL or SQLite.
            seconds: Limit; None: no limit.
        """
        if not self.is_sqlite:
            driver_connection: Any = connection.connection.driver_connection
            driver_connection.patience = seconds

    @contextmanager
    def _turn(self, seconds: float | None = None) -> Iterator[None]:
        """Wait until no other thread writes to SQLite, which has one writer at a time.

        SQLite itself would retry at growing intervals, without regard to who came first.

        Args:
            seconds: Limit; None: `LOCK_TIMEOUT`.

        Raises:
            StoreError: another write took longer.
        """
        seconds = LOCK_TIMEOUT if seconds is None else seconds
        if not self.is_sqlite:
            yield
        elif not self._writes.acquire(timeout=seconds):
            why = f"another write takes more than {seconds:.0f} s"
            raise self._unusable_error(why, "store_unreachable")
        else:
            try:
                yield
            finally:
                self._writes.release()

    def rows(self, query: Executable) -> list[Row[Any]]:
        """Return all rows of a query.

        Raises:
            StoreError: the database cannot be used.
        """
        with self.reading() as connection:
            return list(connection.execute(query))

    def row(self, query: Executable) -> Row[Any] | None:
        """Return the only row of a query; None: there is none.

        Raises:
            StoreError: the database cannot be used.
        """
        with self.reading() as connection:
            return connection.execute(query).one_or_none()

    def change(self, statement: Executable) -> None:
        """Carry out a statement in a transaction of its own.

        Raises:
            StoreError: the database cannot be used.
        """
        with self.writing() as connection:
            connection.execute(statement)

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        """Convert errors that an operator can remedy to StoreError."""
        try:
            yield
        except (DBAPIError, PoolTimeoutError) as error:
            origin = getattr(error, "orig", None)
            reason = one_line_message(origin or error)
            state = str(getattr(origin, "sqlstate", None) or "")
            if "disk is full" in reason or state == "53100":
                self.full = f"the disk of {self.name} is full; free some space"
                sender_text = "the disk of the data base is full; free some space"
                raise StoreError(self.full, "disk_full", sender_text) from None
            if self._is_silent(origin):
                raise self._unusable_error(reason, SILENT) from None
            lost = isinstance(error, DBAPIError) and error.connection_invalidated
            is_state = isinstance(error, OperationalError | PoolTimeoutError) or self._is_of_server(origin)
            if lost or is_state:
                raise self._unusable_error(reason, "store_unreachable") from None
            raise

    def _unusable_error(self, reason: str, code: str) -> StoreError:
        remedy = "check `database` and that it is running"
        if "read-only" in reason or "readonly" in reason:
            remedy = "it can be read only: see its rights, and where it is a standby name the primary server"
        text = f"{self.name} cannot be used: {reason}"
        sender_text = f"the data base cannot be used: {reason}"
        return StoreError(f"{text}; {remedy}", code, f"{sender_text}; {remedy}")

    def _is_silent(self, origin: BaseException | None) -> bool:
        """Return whether the error says that the server did not answer in time."""
        if self.is_sqlite:
            return False
        from flawscope_station.store import postgres

        return postgres.is_silent(origin)

    def _is_of_server(self, origin: BaseException | None) -> bool:
        """Return whether the error is about the database, and not about the statement."""
        if self.is_sqlite:  # its file is damaged
            return type(origin) is sqlite3.DatabaseError and "malformed" in str(origin)
        from flawscope_station.store import postgres

        return postgres.is_of_server(str(getattr(origin, "sqlstate", None) or ""))

    # ---- whoever watches it

    def check_answers(self) -> None:
        """Ask the database a question on a connection of its own, to see whether it answers.

        SQLite may hang with its disk.

        Raises:
            StoreError: it cannot be used; with the code `store_silent` where it does not answer within
                `PROBE_TIMEOUT`.
        """
        with self._translated_errors(), self._prober.connect() as connection:
            if self.is_sqlite:
                connection.exec_driver_sql("SELECT COUNT(*) FROM sqlite_master")
                return
            self._set_patience(connection, PROBE_TIMEOUT)
            query = text("SELECT current_setting('transaction_read_only')")
            is_read_only = connection.execute(query).scalar_one() == "on"
        if is_read_only:
            raise self._unusable_error("it is read-only", "store_unreachable")

    def try_write(self) -> None:
        """Try to write after a write that failed; clear `full` and `failure` where it works."""
        prober = self._prober.execution_options(writes=True)
        try:
            with self._translated_errors(), self._turn(PROBE_TIMEOUT), prober.begin() as connection:
                self._set_patience(connection, PROBE_TIMEOUT)
                connection.exec_driver_sql("UPDATE stations SET clock_at = clock_at")
        except StoreError as error:
            self.failure = str(error)
        else:
            self.full = self.failure = ""

    def tune(self) -> None:
        """Update the statistics by which SQLite chooses an index, of tables that grew by a tenth.

        The first call updates all tables. New connections use the statistics; the open ones are closed for
        it. PostgreSQL does this by itself.
        """
        if not self.is_sqlite:
            return
        indexes = text("SELECT tbl_name, name FROM sqlite_master WHERE type = 'index' ORDER BY tbl_name")
        before = dict(self._last_rows)
        for table, table_indexes in groupby(self.rows(indexes), lambda index: index.tbl_name):
            ((last,),) = self.rows(text(f'SELECT COALESCE(MAX(rowid), 0) FROM "{table}"'))
            if last > GROWTH * before.get(table, -1):
                for index in table_indexes:  # a transaction each: parts wait for no longer one
                    with self.writing() as connection:
                        connection.exec_driver_sql(f"PRAGMA analysis_limit = {ROWS_ANALYSED}")
                        connection.exec_driver_sql(f'ANALYZE "{index.name}"')
                self._last_rows[table] = last
        if self._last_rows != before:
            self.engine.dispose()

    def give_space_back(self) -> bool:
        """Give some pages that SQLite does not use any more back to the disk; return whether there are more.

        PostgreSQL uses such pages again by itself.
        """
        if not self.is_sqlite:
            return False
        with self.writing() as connection:
            for _ in range(PAGES_AT_ONCE):  # Python steps each once, which frees one page
                connection.exec_driver_sql("PRAGMA incremental_vacuum")
            free = connection.exec_driver_sql("PRAGMA freelist_count").scalar_one()
            is_on = connection.exec_driver_sql("PRAGMA auto_vacuum").scalar_one() == INCREMENTAL
        return bool(is_on and free)

    def size(self) -> int:
        """Return the bytes of the database."""
        with self.reading() as connection:
            if self.is_sqlite:
                pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
                return int(pages * connection.exec_driver_sql("PRAGMA page_size").scalar_one())
            return int(connection.execute(text("SELECT pg_database_size(current_database())")).scalar_one())

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()
        self._prober.dispose()

    # ---- versions of the tables

    def migrate(self) -> None:
        """Make the tables, or migrate them to this version, for a station that starts.

        No other station may run on them. SQLite's tables, whose folder the station has locked, are first
        copied beside the file, with their version in the name: `station.sqlite.0001`. Copies of PostgreSQL
        need pg_dump; an advisory lock lets one program at a time migrate.

        Raises:
            InputError: the tables cannot be made or migrated.
        """
        with self._table_errors():
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

    def make_tables(self) -> None:
        """Make the tables where there are none; existing tables stay as they are.

        Raises:
            InputError: the tables cannot be made.
        """
        with self._table_errors():
            with self.reading() as connection:
                if table_version(connection) is not None:
                    return
                if not self.is_sqlite:
                    self._check_encoding(connection)
            self._let_shrink()
            with self.writing_unchecked() as connection:
                self.lock_exclusively(connection)
                if table_version(connection) is None:
                    make_tables(connection)

    @contextmanager
    def _table_errors(self) -> Iterator[None]:
        """Convert errors while tables are made or migrated to InputError."""
        try:
            yield
        except UnknownVersionError as error:
            raise InputError(
                f"{self.name} {error.reason}: use the flawscope that made it, restore a backup, or begin "
                "anew with an empty store"
            ) from None
        except StoreError as error:
            raise InputError(str(error)) from None
        except SQLAlchemyError as error:
            raise InputError(f"{self.name} is no store of flawscope: {one_line_message(error)}") from None

    def check_tables(self) -> bool:
        """Return whether there are tables, and change nothing.

        Raises:
            InputError: they are of another version.
        """
        try:
            with self.reading() as connection:
                is_right = is_current(connection)
                version = table_version(connection)
        except UnknownVersionError as error:
            raise InputError(
                f"{self.name} {error.reason}: use here the flawscope that made it, which may be running on "
                "it, or restore a backup"
            ) from None
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
        """Let SQLite's file become smaller when records are removed.

        An older file is written anew for it, where there is room.
        """
        if not self.is_sqlite:
            return
        with self._translated_errors(), self.engine.connect() as connection:
            raw = self._sqlite_connection(connection)
            if raw.execute("PRAGMA auto_vacuum").fetchone()[0] != INCREMENTAL:
                raw.execute(f"PRAGMA auto_vacuum = {INCREMENTAL}")
                with suppress(sqlite3.Error):  # the disk is too full: it goes on as it is
                    raw.execute("VACUUM")

    def _copy_before(self, version: str) -> None:
        """Copy the tables to a file of their own before a migration, once for each version.

        Raises:
            StoreError: the copy cannot be written.
        """
        path = Path(f"{self.engine.url.database}.{version}")
        if not path.exists():
            partial = path.with_name(path.name + files.PARTIAL_SUFFIX)
            partial.unlink(missing_ok=True)
            with self._translated_errors(), self.engine.connect() as connection:
                connection.connection.driver_connection.execute("VACUUM INTO ?", [str(partial)])  # type: ignore[union-attr]
            partial.replace(path)

    def _check_encoding(self, connection: Connection) -> None:
        """Raise InputError unless the database stores all letters: names of pictures may have any."""
        letters = connection.execute(text("SHOW server_encoding")).scalar_one()
        if letters != "UTF8":
            raise InputError(
                f"{self.name} has the encoding {letters}: make a data base with UTF8, "
                "`createdb --encoding UTF8 --template template0`"
            )

    def lock_exclusively(self, connection: Connection) -> None:
        """Hold a lock until the transaction ends; other programs wait for it. SQLite needs none."""
        if not self.is_sqlite:
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK_ID})


def upsert(dialect: str, table: Table) -> sqlite.Insert | postgresql.Insert:
    """Return the dialect's INSERT, which has ON CONFLICT."""
    return sqlite.insert(table) if dialect == "sqlite" else postgresql.insert(table)


def _create_engine(url: str, *, is_probe: bool = False) -> Engine:
    """Make the connections of a database.

    Args:
        url: URL of the database.
        is_probe: Make a single connection with short limits.
    """
    size = 1 if is_probe else POOL_SIZE
    more = 0 if is_probe else POOL_SIZE
    if url.startswith("sqlite"):
        engine = create_engine(
            url,
            poolclass=QueuePool,
            pool_size=size,
            max_overflow=more,
            pool_timeout=LOCK_TIMEOUT,
            pool_use_lifo=True,  # each connection caches pages: keep few in use
            connect_args={
                "timeout": PROBE_TIMEOUT if is_probe else LOCK_TIMEOUT,
                "check_same_thread": False,
            },
        )
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    from flawscope_station.store import postgres

    # a commit is on the disk, whatever the server's setting
    seconds = PROBE_TIMEOUT if is_probe else STATEMENT_TIMEOUT
    options = f"-c synchronous_commit=on -c statement_timeout={1000 * seconds:.0f}"
    connect_timeout = int(PROBE_TIMEOUT if is_probe else LOCK_TIMEOUT)
    engine = create_engine(
        url,
        pool_size=size,
        max_overflow=more,
        pool_timeout=LOCK_TIMEOUT,
        pool_pre_ping=not is_probe,  # the server may have been started anew
        connect_args={
            **_TIMEOUTS,
            "connect_timeout": connect_timeout,
            "options": options,
            "client_encoding": "utf8",
        },
    )
    postgres.use_patient_connections(engine)
    return engine


def _configure_sqlite(connection: sqlite3.Connection, record: object) -> None:
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
