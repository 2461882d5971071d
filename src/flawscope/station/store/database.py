"""The data base: SQLite in a file or PostgreSQL by URL, and the migration of its tables.

Whoever changes `schema` adds a step with the tables' next version to the end of `STEPS`; a test compares the
migrated tables with `schema`.
"""

from __future__ import annotations

import select as sockets
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import Connection, Engine, Select, create_engine, event, select, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, InvalidatePoolError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import QueuePool

from flawscope.errors import FlawscopeError, InputError, one_line
from flawscope.station.settings.station import NAME
from flawscope.station.settings.values import shown
from flawscope.station.store.schema import HOUR, metadata, products, revision, stations

PATIENCE = 10.0  # seconds that a writer waits for another
CONNECTIONS = 20  # at once
_LOCK = 718_281_828  # advisory lock of PostgreSQL: stations that start together migrate one after another
# Options of libpq: give up an unplugged server after seconds, not after a quarter of an hour
_HEARD = {
    "connect_timeout": int(PATIENCE),
    **{"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 2},
    "tcp_user_timeout": 20_000,  # ms
}


class StoreError(FlawscopeError):
    """The store cannot be read or written now; the request had no effect.

    Attributes:
        code: disk_full, store_unreachable or file_missing.
    """

    def __init__(self, text: str, code: str):
        super().__init__(text)
        self.code = code


def now() -> int:
    """Microseconds since 1970."""
    return time.time_ns() // 1000


class Database:
    """Connections and transactions of a data base.

    Args:
        station: name of this station; several may share a data base.

    Attributes:
        full: why there was no room for the last write; "" where there was.

    Raises:
        InputError: the URL is not the address of a data base.
    """

    def __init__(self, url: str, station: str = NAME):
        self.url, self.station, self.full = url, station, ""
        try:
            self.engine = _engine(url)
        except (ArgumentError, ValueError):  # the errors' texts hold the URL
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
        """Open a connection whose reads all see the data base at one moment."""
        with self._named(), self._reader.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Open a transaction: on the disk when the block has ended, undone if the block fails."""
        with self._named(), self._writer.begin() as connection:
            yield connection
        self.full = ""

    @contextmanager
    def single(self) -> Iterator[Connection]:
        """Open a PostgreSQL connection without transactions: no BEGIN and no COMMIT to wait for."""
        with self._named(), self._single.connect() as connection:
            yield connection
        self.full = ""

    def own(self) -> Select[Any]:
        """Query of this station's product numbers. An SQLite file has one station, whatever its name."""
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
        """Update the statistics by which SQLite chooses an index; to be called now and then. PostgreSQL does
        so by itself."""
        if self.is_sqlite:
            with self.writing() as connection:
                connection.exec_driver_sql("PRAGMA analysis_limit = 1000")
                connection.exec_driver_sql("ANALYZE")

    def close(self) -> None:
        self.engine.dispose()

    # ---- versions of the tables

    def migrate(self) -> None:
        """Make the tables, or migrate them to this version. InputError where that fails."""
        try:
            with self.reading() as connection:
                self._check_letters(connection)
                if version_of(connection) == HEAD:
                    return
            with self.writing() as connection:
                self.alone(connection)
                upgrade(connection)
        except UnknownVersionError:
            raise InputError(
                f"{self.name} was made by a newer flawscope: use that one, or restore a backup"
            ) from None
        except StoreError as error:
            raise InputError(f"{error}; check `database` and that it is running") from None
        except SQLAlchemyError as error:
            raise InputError(f"{self.name} is no store of flawscope: {one_line(error)}") from None

    def _check_letters(self, connection: Connection) -> None:
        """Raise InputError unless the data base stores all letters: names of pictures may have any."""
        if self.is_sqlite:
            return
        letters = connection.execute(text("SHOW server_encoding")).scalar_one()
        if letters != "UTF8":
            raise InputError(
                f"{self.name} has the encoding {letters}: make a data base with UTF8, "
                "`createdb --encoding UTF8 --template template0`"
            )

    def check_current(self) -> None:
        """Raise InputError where the tables are of another version."""
        with self.reading() as connection:
            there = version_of(connection)
        if there != HEAD:
            raise InputError(
                f"the tables of {self.name} are of another version: use the flawscope that made them, or "
                "start the station with this one first"
            )

    def alone(self, connection: Connection) -> None:
        """Hold a lock until the transaction ends; others wait for it. SQLite has one writer at a time."""
        if not self.is_sqlite:
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})


def upsert(dialect: str, table: Any) -> Any:
    """INSERT of the dialect, which has ON CONFLICT."""
    insert: Callable[[Any], Any] = sqlite.insert if dialect == "sqlite" else postgresql.insert
    return insert(table)


def _engine(url: str) -> Engine:
    if url.startswith("sqlite"):
        engine = create_engine(
            url,
            poolclass=QueuePool,
            pool_size=CONNECTIONS,
            max_overflow=CONNECTIONS,
            pool_use_lifo=True,  # each connection caches pages: keep few in use
            connect_args={"timeout": PATIENCE, "check_same_thread": False},
        )
        event.listen(engine, "connect", _as_wanted)
        event.listen(engine, "begin", _begin)
        return engine
    engine = create_engine(
        url,
        pool_size=CONNECTIONS,
        max_overflow=CONNECTIONS,
        # a commit is on the disk, whatever the server's setting
        connect_args={**_HEARD, "options": "-c synchronous_commit=on", "client_encoding": "utf8"},
    )
    event.listen(engine, "checkout", _still_there)
    return engine


def _as_wanted(connection: Any, record: object) -> None:
    """Set up an SQLite connection: readers do not wait for writers, and commits survive a power cut."""
    connection.isolation_level = None  # `_begin` begins transactions
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "cache_size=-8192"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _still_there(connection: Any, record: object, proxy: object) -> None:
    """Invalidate the pool where PostgreSQL has closed a connection. Its socket shows that; a query would take
    as long as a short statement."""
    if not connection.closed and not _has_news(connection.fileno()):
        return
    try:  # the news may be a change of the server's settings
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
    """Begin an SQLite transaction. Readers take no lock; writers lock at the beginning."""
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


# ------------------------------------------------------------------------------------- versions of the tables

_DAY = 24 * HOUR  # of a pause between two records that counts, at most
_PAUSE = 21 * _DAY  # a longer pause may be a jump of the clock, and does not count
GIVEN = """
SELECT products.station_id, inspections.id, inspections.at FROM inspections
JOIN products ON products.id = inspections.product_id ORDER BY products.station_id, inspections.id
"""


class UnknownVersionError(Exception):
    """The tables were made by a newer flawscope, or by one that is too old."""


def version_of(connection: sa.Connection) -> str | None:
    """Version of the tables; None where there are none."""
    if not sa.inspect(connection).has_table(revision.name):
        return None
    return connection.scalar(sa.select(revision.c.version_num))


def upgrade(connection: sa.Connection) -> None:
    """Make the tables, or migrate them to this version. UnknownVersionError."""
    there = version_of(connection)
    if there is None:
        metadata.create_all(connection, checkfirst=False)
        connection.execute(revision.insert().values(version_num=HEAD))
        return
    if there not in STEPS:
        raise UnknownVersionError
    operations = Operations(MigrationContext.configure(connection))
    order = list(STEPS)
    for version in order[order.index(there) + 1 :]:
        STEPS[version](operations)
    connection.execute(sa.update(revision).values(version_num=HEAD))


def _first(op: Operations) -> None:
    """Do nothing: earlier tables were never released."""


def _audit(op: Operations) -> None:
    """Add the expiry of tokens, the address of events, and the settings of stations."""
    op.add_column("tokens", sa.Column("expires_at", sa.BigInteger()))
    op.add_column("events", sa.Column("address", sa.String(64)))
    op.add_column("stations", sa.Column("settings", sa.Text()))


def _marks(op: Operations) -> None:
    """Add marks, which date records by their order, not by their times; index inspections in that order."""
    marks = op.create_table(
        "marks",
        sa.Column("station_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=False),
        sa.Column("hour", sa.BigInteger(), autoincrement=False),
        sa.Column("age", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("inspection_id", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["station_id"], ["stations.id"], name="marks_station_id_of"),
        sa.PrimaryKeyConstraint("station_id", "hour", name="marks_key"),
    )
    connection = op.get_bind()
    made: dict[tuple[int, int], dict[str, int]] = {}
    station, age, before = 0, 0, 0
    for station_id, number, at in connection.execute(sa.text(GIVEN).execution_options(yield_per=10_000)):
        if station_id != station:
            station, age, before = station_id, 0, at
        passed = at - before
        age += min(passed, _DAY) if 0 <= passed <= _PAUSE else 0
        before = at
        place = {"station_id": station, "hour": age // HOUR}
        made[station, age // HOUR] = place | {"age": age, "at": at, "inspection_id": number}
    if made:
        connection.execute(marks.insert(), list(made.values()))
    op.drop_index("inspections_search", "inspections")
    op.drop_index("inspections_product", "inspections")
    columns = ["product_id", "id", "at", "anomalous", "verdict", "review", "score", "version_id"]
    op.create_index("inspections_search", "inspections", columns)
    op.create_index("inspections_at", "inspections", ["product_id", "at"])


def _parts(op: Operations) -> None:
    """Add part, batch, the hash of the request and the number of triggers to inspections."""
    name = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
    for column in ("part", "batch"):
        op.add_column("inspections", sa.Column(column, name))
        given = sa.text(f"{column} IS NOT NULL")
        op.create_index(
            f"inspections_{column}",
            "inspections",
            ["product_id", column, "id"],
            sqlite_where=given,
            postgresql_where=given,
        )
    op.add_column("inspections", sa.Column("request_hash", sa.String(64)))
    op.add_column("inspections", sa.Column("triggers", sa.Integer()))


def _sessions(op: Operations) -> None:
    """Drop the secrets of sessions: browsers say themselves when another site sends a request."""
    op.drop_column("sessions", "csrf")


# Versions of the tables in order, each with the step that migrates from the version before
STEPS: dict[str, Callable[[Operations], None]] = {
    "0006": _first,
    "0009": _audit,
    "0008": _marks,
    "0007": _parts,
    "0010": _sessions,
}
HEAD = list(STEPS)[-1]
