"""Database of a station: SQLite in a file, or PostgreSQL by URL."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import groupby
from operator import attrgetter
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
PROBE_TIMEOUT = 2.0  # seconds in which the database must answer a probe
SILENT = "store_silent"  # code of an error: the disk or the database does not answer
POOL_SIZE = 20  # connections that stay open; as many again may be opened for a while
INCREMENTAL = 2  # value of SQLite's `auto_vacuum` with which its file can be made smaller
# Rows of an index that ANALYZE reads; with fewer, SQLite does not see whether an index finds few rows or many
ROWS_ANALYSED = 2000
GROWTH = 1.1  # factor by which a table must have grown before its statistics are updated
PAGES_AT_ONCE = 256  # pages of SQLite's file that are freed in one transaction
POSTGRES_DISK_FULL = "53100"  # SQLSTATE
_LOCK_ID = 718_281_828  # advisory lock of PostgreSQL: programs that start together migrate one after another
# Options of libpq: give up an unplugged server after seconds, not after a quarter of an hour
_TIMEOUTS = {
    "keepalives_idle": 10,  # seconds
    "keepalives_interval": 5,  # seconds
    "keepalives_count": 2,
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
        is_in_doubt: Whether it was raised while a transaction was being committed: the transaction may have
            taken effect.
    """

    is_in_doubt = False

    def __init__(self, text: str, code: str, sender_text: str = ""):
        super().__init__(text)
        self.status = {"disk_full": 507, "file_missing": 404}.get(code, 503)
        self.code = code
        # what a sender of parts may read: without names of this machine, if `text` has any
        self.sender_text = sender_text or text


def now() -> int:
    """Return the present time, microseconds since 1970."""
    return time.time_ns() // 1000


class Database:
    """Connections and transactions of a database.

    Attributes:
        full: Why the disk had no room for the last write; "": it had room.
        failure: Why the last write failed; "": it succeeded.
        is_doubted: Whether a probe is waiting for the database's answer, or has waited in vain.
        silence: Function that is called before each use while `is_doubted`. It returns the error to raise
            instead of waiting for a database that does not answer; None: the database may answer.

    Raises:
        InputError: the URL is not the address of a database.
    """

    def __init__(self, url: str):
        self.url = url
        self.full = ""  # a text: why the disk had no room for the last write; "": it had room
        self.failure = ""  # a text: why the last write failed; "": it succeeded
        self.is_doubted = False
        # called before each use while `is_doubted`: returns the error to raise instead of waiting, or None
        self.silence: Callable[[], StoreError | None] = lambda: None
        try:
            self.engine = _create_engine(url)
        except (ArgumentError, ValueError):  # the errors' texts hold the URL
            raise InputError(
                f"{redact_address(url)} is no address of a database: check host and port"
            ) from None
        self.name = url if self.is_sqlite else redact_address(url)
        self._writer = self.engine.execution_options(writes=True)
        self._write_lock = threading.Lock()
        # table -> its largest row id when its statistics were updated
        self._last_row_ids: dict[str, int] = {}
        reader_options = {} if self.is_sqlite else {"isolation_level": "REPEATABLE READ"}
        self._reader = self.engine.execution_options(**reader_options)
        # a probe has its own connection: it reaches the database even while all other connections wait
        self._prober = _create_engine(url, is_probe=True)

    @property
    def is_sqlite(self) -> bool:
        """Whether the database is SQLite, else PostgreSQL."""
        return self.engine.dialect.name == "sqlite"

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Open a connection whose queries all see the database as it was at one moment."""
        self._check_silence()
        with self._translated_errors(), self._reader.connect() as connection:
            self._set_patience(connection, ANSWER_TIMEOUT)
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Open a transaction: it is committed to the disk after the block, or undone if the block fails."""
        is_committing = False
        try:
            self._check_silence()
            with self._translated_errors(), self._write_turn(), self._writer.begin() as connection:
                self._set_patience(connection, ANSWER_TIMEOUT)
                yield connection
                is_committing = True  # an error from here on is one of the commit
        except StoreError as error:
            error.is_in_doubt = is_committing
            self.failure = str(error)
            raise
        self.full = self.failure = ""  # the write succeeded: no reason is left

    @contextmanager
    def writing_unchecked(self) -> Iterator[Connection]:
        """Open a transaction in which SQLite does not check foreign keys.

        Without the check, a migration can replace tables, and can remove rows fast. Where no index finds the
        rows that refer to a removed row, the check would read millions of rows from end to end.
        """
        with self._translated_errors(), self._write_turn(), self._writer.connect() as connection:
            self._set_patience(connection, None)  # no limit: a table with millions of rows takes long
            sqlite_connection = self._sqlite_connection(connection) if self.is_sqlite else None
            if sqlite_connection is not None:
                sqlite_connection.execute("PRAGMA foreign_keys = OFF")
            try:
                with connection.begin():
                    if not self.is_sqlite:
                        connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
                    yield connection
            finally:
                if sqlite_connection is not None:
                    sqlite_connection.execute("PRAGMA foreign_keys = ON")

    def _sqlite_connection(self, connection: Connection) -> sqlite3.Connection:
        """Return the connection of Python's `sqlite3`, which can run statements outside of transactions."""
        return cast(sqlite3.Connection, connection.connection.driver_connection)

    def _check_silence(self) -> None:
        """Raise StoreError if the database is known not to answer, so that nobody waits for it."""
        if not self.is_doubted:
            return
        error = self.silence()  # None: the database may answer
        if error is not None:
            raise error

    def _set_patience(self, connection: Connection, seconds: float | None) -> None:
        """Set how long a connection to PostgreSQL waits for the answer to a statement.

        For SQLite nothing is done.

        Args:
            connection: Connection to PostgreSQL or SQLite.
            seconds: Longest time to wait; None: no limit.
        """
        if not self.is_sqlite:
            driver_connection: Any = connection.connection.driver_connection
            driver_connection.patience = seconds

    @contextmanager
    def _write_turn(self, seconds: float | None = None) -> Iterator[None]:
        """Hold the lock for writing to SQLite during the block, because SQLite has one writer at a time.

        SQLite's own lock does not keep the order of the writers, because each one tries it again at growing
        intervals. For PostgreSQL nothing is done.

        Args:
            seconds: Longest time to wait; None: `LOCK_TIMEOUT`.

        Raises:
            StoreError: another write has held the lock for the whole time.
        """
        if not self.is_sqlite:
            yield
            return
        timeout = LOCK_TIMEOUT if seconds is None else seconds
        if not self._write_lock.acquire(timeout=timeout):
            reason = f"another write takes more than {timeout:.0f} s"
            raise self._unusable_error(reason, "store_unreachable")
        try:
            yield
        finally:
            self._write_lock.release()

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
        """Convert an error of the block to StoreError if an operator can remedy it; else re-raise it."""
        try:
            yield
        except (DBAPIError, PoolTimeoutError) as error:
            driver_error = getattr(error, "orig", None)
            reason = one_line_message(driver_error or error)
            error_code = str(getattr(driver_error, "sqlstate", None) or "")
            if "disk is full" in reason or error_code == POSTGRES_DISK_FULL:
                self.full = f"the disk of {self.name} is full; free some space"
                # a sender of parts reads `sender_text`, which does not name the database
                sender_text = "the disk of the database is full; free some space"
                raise StoreError(self.full, "disk_full", sender_text) from None
            if self._is_silent(driver_error):
                raise self._unusable_error(reason, SILENT) from None
            is_lost = isinstance(error, DBAPIError) and error.connection_invalidated
            is_operational = isinstance(error, OperationalError | PoolTimeoutError)
            if is_lost or is_operational or self._is_of_server(driver_error):
                raise self._unusable_error(reason, "store_unreachable") from None
            raise

    def _unusable_error(self, reason: str, code: str) -> StoreError:
        """Return the StoreError that says why the database cannot be used, and what to do.

        Args:
            reason: Why it cannot be used.
            code: Code of the error, for programs.
        """
        remedy = "check `database` and that it is running"
        if "read-only" in reason or "readonly" in reason:
            remedy = "it can be read only: see its rights, and where it is a standby name the primary server"
        text = f"{self.name} cannot be used: {reason}"
        # senders of parts get a text without the name of the database, which may have addresses and paths
        sender_text = f"the database cannot be used: {reason}"
        return StoreError(f"{text}; {remedy}", code, f"{sender_text}; {remedy}")

    def _is_silent(self, driver_error: BaseException | None) -> bool:
        """Return whether the error says that the server did not answer in time."""
        if self.is_sqlite:
            return False
        from flawscope_station.store import postgres

        return postgres.is_silent(driver_error)

    def _is_of_server(self, driver_error: BaseException | None) -> bool:
        """Return whether the error is about the database, and not about the statement."""
        if self.is_sqlite:  # a file that is damaged: SQLite calls it malformed
            return type(driver_error) is sqlite3.DatabaseError and "malformed" in str(driver_error)
        from flawscope_station.store import postgres

        return postgres.is_of_server(str(getattr(driver_error, "sqlstate", None) or ""))

    # ---- probes and upkeep

    def check_answers(self) -> None:
        """Send a query on the probe's connection, to see whether the database answers.

        For SQLite there is no time limit: if the disk hangs, the call hangs, too.

        Raises:
            StoreError: the database cannot be used. The code is `store_silent` if PostgreSQL does not answer
                within `PROBE_TIMEOUT`.
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
        """Write as a trial after a failed write; if it succeeds, clear `full` and `failure`."""
        prober = self._prober.execution_options(writes=True)
        try:
            with self._translated_errors(), self._write_turn(PROBE_TIMEOUT), prober.begin() as connection:
                self._set_patience(connection, PROBE_TIMEOUT)
                connection.exec_driver_sql("UPDATE stations SET clock_at = clock_at")
        except StoreError as error:
            self.failure = str(error)
        else:
            self.full = self.failure = ""

    def tune(self) -> None:
        """Update SQLite's statistics of tables that have grown by a tenth; SQLite chooses indexes by them.

        The first call updates all tables. Open connections are closed, because only new connections use the
        new statistics. PostgreSQL does all this by itself.
        """
        if not self.is_sqlite:
            return
        indexes = text("SELECT tbl_name, name FROM sqlite_master WHERE type = 'index' ORDER BY tbl_name")
        earlier_row_ids = dict(self._last_row_ids)
        for table, table_indexes in groupby(self.rows(indexes), attrgetter("tbl_name")):
            # one row with one column
            ((last_row_id,),) = self.rows(text(f'SELECT COALESCE(MAX(rowid), 0) FROM "{table}"'))
            # -1: the first call updates a table even if it is empty
            if last_row_id <= GROWTH * earlier_row_ids.get(table, -1):
                continue
            for index in table_indexes:  # one short transaction each: inspections have to wait meanwhile
                with self.writing() as connection:
                    connection.exec_driver_sql(f"PRAGMA analysis_limit = {ROWS_ANALYSED}")
                    connection.exec_driver_sql(f'ANALYZE "{index.name}"')
            self._last_row_ids[table] = last_row_id
        if self._last_row_ids != earlier_row_ids:
            self.engine.dispose()

    def give_space_back(self) -> bool:
        """Shrink SQLite's file by up to `PAGES_AT_ONCE` unused pages.

        For PostgreSQL nothing is done: it reuses such pages by itself.

        Returns:
            Whether more unused pages are left that can be given back.
        """
        if not self.is_sqlite:
            return False
        with self.writing() as connection:
            # each call frees one page, because Python's `sqlite3` takes only the first step of the statement
            for _ in range(PAGES_AT_ONCE):
                connection.exec_driver_sql("PRAGMA incremental_vacuum")
            free_pages = connection.exec_driver_sql("PRAGMA freelist_count").scalar_one()
            can_shrink = connection.exec_driver_sql("PRAGMA auto_vacuum").scalar_one() == INCREMENTAL
        return bool(can_shrink and free_pages)

    def size(self) -> int:
        """Return the size of the database in bytes."""
        with self.reading() as connection:
            if self.is_sqlite:
                page_count = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
                page_bytes = connection.exec_driver_sql("PRAGMA page_size").scalar_one()
                return int(page_count * page_bytes)
            return int(connection.execute(text("SELECT pg_database_size(current_database())")).scalar_one())

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()
        self._prober.dispose()

    # ---- versions of the tables

    def migrate(self) -> None:
        """Make the tables, or migrate them to this version, for a station that starts.

        No other program may migrate the tables meanwhile. For SQLite, the station has locked the folder of
        the file; for PostgreSQL, this method takes an advisory lock. Before a migration, SQLite's tables are
        copied to a file with the version in its name, such as `station.sqlite.0001`; PostgreSQL's are not.

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
                self._copy_tables(version)
            self._enable_shrinking()
            with self.writing_unchecked() as connection:
                self.lock_exclusively(connection)
                migrate(connection)

    def make_tables(self) -> None:
        """Make the tables if there are none; existing tables are not changed.

        Raises:
            InputError: the tables cannot be made.
        """
        with self._table_errors():
            with self.reading() as connection:
                if table_version(connection) is not None:
                    return
                if not self.is_sqlite:
                    self._check_encoding(connection)
            self._enable_shrinking()
            with self.writing_unchecked() as connection:
                self.lock_exclusively(connection)
                if table_version(connection) is None:
                    make_tables(connection)

    @contextmanager
    def _table_errors(self) -> Iterator[None]:
        """Convert the errors of a block that makes or migrates tables to InputError."""
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
        """Return whether the database has tables; nothing is changed.

        Raises:
            InputError: the tables are of another version of flawscope, or the database cannot be used.
        """
        try:
            with self.reading() as connection:
                has_this_version = is_current(connection)
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
        if version is not None and not has_this_version:
            raise InputError(
                f"{self.name} is a store of another version of flawscope, which may be running on it: use "
                "that one here; `flawscope serve` of this one, started in its place, takes the store over"
            )
        return version is not None

    def _enable_shrinking(self) -> None:
        """Set SQLite so that its file can be shrunk when records were removed.

        A file that was made without this setting is written anew, if the disk has enough free space.
        """
        if not self.is_sqlite:
            return
        with self._translated_errors(), self.engine.connect() as connection:
            sqlite_connection = self._sqlite_connection(connection)
            (auto_vacuum,) = sqlite_connection.execute("PRAGMA auto_vacuum").fetchone()
            if auto_vacuum != INCREMENTAL:
                sqlite_connection.execute(f"PRAGMA auto_vacuum = {INCREMENTAL}")
                with suppress(sqlite3.Error):  # the disk is too full: the file stays as it is
                    sqlite_connection.execute("VACUUM")

    def _copy_tables(self, version: str) -> None:
        """Copy SQLite's tables to a second file before a migration, unless that file exists already.

        Args:
            version: Version of the tables, which the name of the file ends with.

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
        """Raise InputError unless PostgreSQL's encoding is UTF8: names of pictures may have any letters."""
        encoding = connection.execute(text("SHOW server_encoding")).scalar_one()
        if encoding != "UTF8":
            raise InputError(
                f"{self.name} has the encoding {encoding}: make a database with UTF8, "
                "`createdb --encoding UTF8 --template template0`"
            )

    def lock_exclusively(self, connection: Connection) -> None:
        """Take PostgreSQL's advisory lock until the transaction ends; for SQLite nothing is done."""
        if not self.is_sqlite:
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK_ID})


def upsert(dialect: str, table: Table) -> sqlite.Insert | postgresql.Insert:
    """Return the dialect's own INSERT into a table, because SQLAlchemy's common one has no ON CONFLICT."""
    return sqlite.insert(table) if dialect == "sqlite" else postgresql.insert(table)


def _create_engine(url: str, *, is_probe: bool = False) -> Engine:
    """Make an SQLAlchemy engine for a database.

    Args:
        url: URL of the database.
        is_probe: Whether the engine has only one connection, with short time limits.
    """
    pool_size = 1 if is_probe else POOL_SIZE
    max_overflow = 0 if is_probe else POOL_SIZE
    if url.startswith("sqlite"):
        engine = create_engine(
            url,
            poolclass=QueuePool,
            pool_size=pool_size,
            max_overflow=max_overflow,
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

    seconds = PROBE_TIMEOUT if is_probe else STATEMENT_TIMEOUT
    # whatever the server's own setting, a commit returns when it is on the disk
    options = f"-c synchronous_commit=on -c statement_timeout={1000 * seconds:.0f}"
    connect_timeout = int(PROBE_TIMEOUT if is_probe else LOCK_TIMEOUT)
    engine = create_engine(
        url,
        pool_size=pool_size,
        max_overflow=max_overflow,
        pool_timeout=LOCK_TIMEOUT,
        pool_pre_ping=not is_probe,  # replaces connections that a restart of the server has cut
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
    connection.isolation_level = None  # Python begins no transactions: `_begin_sqlite` does
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "cache_size=-8192"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    """Begin an SQLite transaction; a writer takes its lock at once, and a reader takes none."""
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
