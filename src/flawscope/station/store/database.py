"""The data base: SQLite in a file, or PostgreSQL by URL, with the tables of this version."""

from __future__ import annotations

import select as sockets
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, Select, create_engine, event, select, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, InvalidatePoolError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import QueuePool

from flawscope.errors import FlawscopeError, InputError, one_line
from flawscope.station.settings.station import NAME
from flawscope.station.settings.values import shown
from flawscope.station.store import migrations
from flawscope.station.store.schema import products, stations

PATIENCE = 10.0  # seconds that a writer waits for another one
CONNECTIONS = 20  # at once
_LOCK = 718_281_828  # of PostgreSQL: stations that start together change the tables one after another
# Of libpq: a server that is unplugged is given up after so many seconds, not after a quarter of an hour
_HEARD = {
    "connect_timeout": int(PATIENCE),
    **{"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 2},
    "tcp_user_timeout": 20_000,  # ms
}


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

    Args:
        station: which of the stations that share it is this one.

    Attributes:
        full: why there was no room for the last write; "" where there was.

    Raises:
        InputError: it cannot be opened, or belongs to a newer version.
    """

    def __init__(self, url: str, station: str = NAME):
        self.url, self.station, self.full = url, station, ""
        try:
            self.engine = _engine(url)
        except (ArgumentError, ValueError):  # their texts hold the URL
            raise InputError(f"{shown(url)} is no address of a data base: check host and port") from None
        self.name = url if self.is_sqlite else shown(url)
        self._writer = self.engine.execution_options(writes=True)
        snapshot = {} if self.is_sqlite else {"isolation_level": "REPEATABLE READ"}
        self._reader = self.engine.execution_options(**snapshot)
        self._single = self.engine.execution_options(isolation_level="AUTOCOMMIT")

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
        self.full = ""

    @contextmanager
    def single(self) -> Iterator[Connection]:
        """Of PostgreSQL, where each statement is a transaction: no BEGIN and no COMMIT to wait for."""
        with self._named(), self._single.connect() as connection:
            yield connection
        self.full = ""

    def own(self) -> Select[Any]:
        """Numbers of the products of this station. A SQLite is one station's, whatever it is called."""
        every = select(products.c.id)
        return every if self.is_sqlite else every.join(stations).where(stations.c.name == self.station)

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except (DBAPIError, PoolTimeoutError) as error:
            raise self._said(error) from None

    def _said(self, error: SQLAlchemyError) -> Exception:
        reason = one_line(getattr(error, "orig", None) or error)
        full = "disk is full" in reason or getattr(getattr(error, "orig", None), "sqlstate", "") == "53100"
        if full:
            self.full = f"the disk of {self.name} is full; free some space"
            return StoreError(self.full, "disk_full")
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
        """Make the tables, or bring them to this version. InputError where that cannot be done."""
        try:
            with self.reading() as connection:
                self._check_letters(connection)
                if migrations.version_of(connection) == migrations.HEAD:
                    return
            with self.writing() as connection:
                self.alone(connection)
                migrations.upgrade(connection)
        except migrations.UnknownVersionError:
            raise InputError(
                f"{self.name} was made by a newer flawscope: use that one, or restore a backup"
            ) from None
        except StoreError as error:
            raise InputError(f"{error}; check `database` and that it is running") from None
        except SQLAlchemyError as error:
            raise InputError(f"{self.name} is no store of flawscope: {one_line(error)}") from None

    def _check_letters(self, connection: Connection) -> None:
        """Names of pictures come in all letters. InputError where the data base has not all of them."""
        if self.is_sqlite:
            return
        letters = connection.execute(text("SHOW server_encoding")).scalar_one()
        if letters != "UTF8":
            raise InputError(
                f"{self.name} has the encoding {letters}: make a data base with UTF8, "
                "`createdb --encoding UTF8 --template template0`"
            )

    def check_current(self) -> None:
        """InputError where the tables are of another version."""
        with self.reading() as connection:
            there = migrations.version_of(connection)
        if there != migrations.HEAD:
            raise InputError(
                f"the tables of {self.name} are of another version: use the flawscope that made them, or "
                "start the station with this one first"
            )

    def alone(self, connection: Connection) -> None:
        """Others that want the same wait until the transaction ends. In SQLite every writer is alone."""
        if not self.is_sqlite:
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})


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
            pool_use_lifo=True,  # each holds some pages: those in use are few
            connect_args={"timeout": PATIENCE, "check_same_thread": False},
        )
        event.listen(engine, "connect", _as_wanted)
        event.listen(engine, "begin", _begin)
        return engine
    engine = create_engine(
        url,
        pool_size=CONNECTIONS,
        max_overflow=CONNECTIONS,
        # whatever the server's setting: what is acknowledged is on the disk
        connect_args={**_HEARD, "options": "-c synchronous_commit=on", "client_encoding": "utf8"},
    )
    event.listen(engine, "checkout", _still_there)
    return engine


def _as_wanted(connection: Any, record: object) -> None:
    """Of SQLite: readers do not wait for writers, and what is committed survives a power cut."""
    connection.isolation_level = None  # transactions are begun below
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "cache_size=-8192"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _still_there(connection: Any, record: object, proxy: object) -> None:
    """Of PostgreSQL: a server that ended has closed its connections, which can be seen without asking it, for
    asking takes as long as a short statement."""
    if not connection.closed and not _has_news(connection.fileno()):
        return
    try:  # it may be a word about the server's settings
        connection.execute("SELECT 1")
        connection.rollback()
    except connection.OperationalError:
        raise InvalidatePoolError from None


def _has_news(socket: int) -> bool:
    if sys.platform == "win32":
        return bool(sockets.select([socket], [], [], 0)[0])
    watched = sockets.poll()
    watched.register(socket, sockets.POLLIN)
    return bool(watched.poll(0))


def _begin(connection: Connection) -> None:
    """Readers take no lock; who wants to write says so, and then need not fear another one."""
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
