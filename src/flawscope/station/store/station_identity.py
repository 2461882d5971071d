"""Identity of a station in its data base, which stations may share; its clock, and the age of records."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from sqlalchemy import Connection, func, insert, select, update

from flawscope.errors import InputError
from flawscope.station.settings.station import Settings
from flawscope.station.store.database import Database, now, upsert
from flawscope.station.store.files import PICTURES, Files
from flawscope.station.store.migrations import DAY, LONGEST_PAUSE
from flawscope.station.store.schema import HOUR, inspections, marks, products, stations

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def claim_identity(database: Database, files: Files, address: str | None = None) -> None:
    """Claim the station's name and this folder in the data base.

    Args:
        address: of the station's pages, where others can reach them.

    Raises:
        InputError: the name is another station's, or the folder is another data base's.
    """
    folder, name = files.identity(), database.station
    values = {"name": name, "folder": folder, "address": address, "started_at": now()}
    with database.writing() as connection:
        database.lock_exclusively(connection)
        rows = connection.execute(select(stations).order_by(stations.c.id)).all()
        own_row = next((row for row in rows if row.folder == folder), None)
        if own_row is None and not files.has_files(PICTURES):  # never started: no folder yet
            own_row = next((row for row in rows if (row.folder, row.name) == (None, name)), None)
        if own_row is None and database.is_sqlite:  # the file is in the folder, and one station's
            own_row = next(iter(rows), None)
        other = next((row for row in rows if row.name == name and row is not own_row), None)
        if other is not None:
            lost = f"; or, where that one is lost, write {other.folder} into {files.identity_path}"
            raise InputError(
                f"the station {name} of {database.name} has another folder than {files.folder}: choose "
                f"another `name`{lost if other.folder and own_row is None else ''}"
            )
        if own_row is not None:
            connection.execute(update(stations).where(stations.c.id == own_row.id).values(**values))
            return
        if files.has_files(PICTURES):
            raise InputError(
                f"{files.folder} has pictures that {database.name} does not know: choose an empty `store`, "
                "or the `database` that they belong to"
            )
        connection.execute(insert(stations).values(**values))


def adopt_identity(database: Database, files: Files) -> None:
    """Give the folder and the data base, after a restore, the identity of the station that was backed up.

    Raises:
        InputError: the backup has several stations, and none has the name.
    """
    with database.reading() as connection:
        rows = connection.execute(select(stations).order_by(stations.c.name)).all()
    row = next((row for row in rows if row.name == database.station), rows[0] if len(rows) == 1 else None)
    if row is None and rows:
        raise InputError(
            f"this backup has the stations {', '.join(row.name for row in rows)}: give one of these as `name`"
            " in a file for --settings"
        )
    if row is not None and row.folder is not None:
        files.write(files.identity_path, f"{row.folder}\n".encode())
        database.station = row.name


def check_station_exists(database: Database) -> None:
    """Raise InputError where no station of this name was ever started."""
    with database.reading() as connection:
        names = list(connection.execute(select(stations.c.name).order_by(stations.c.name)).scalars())
    if names and not database.is_sqlite and database.station not in names:
        raise InputError(
            f"{database.name} has no station {database.station}: set `name` to one of {', '.join(names)}"
        )


def get_or_add_station(connection: Connection, name: str) -> int:
    """Number of the station of this name, which is added if it is new."""
    new = upsert(connection.dialect.name, stations).values(name=name)
    connection.execute(new.on_conflict_do_nothing())
    return int(connection.execute(select(stations.c.id).where(stations.c.name == name)).scalar_one())


def find_other_station(database: Database, number: int) -> str | None:
    """Name of the other station that has an inspection, with its address where known; None: none has it."""
    if database.is_sqlite:
        return None
    query = (
        select(stations.c.name, stations.c.address)
        .join_from(inspections, products, products.c.id == inspections.c.product_id)
        .join(stations)
        .where(inspections.c.id == number, stations.c.name != database.station)
    )
    with database.reading() as connection:
        row = connection.execute(query).one_or_none()
    if row is None:
        return None
    return f"{row.name} ({row.address})" if row.address else str(row.name)


def products_elsewhere(database: Database) -> list[dict[str, str]]:
    """Products of the other stations whose address is known: name, station, address."""
    if database.is_sqlite:
        return []
    entries = select(products.c.entry_id).where(products.c.entry_id.is_not(None))  # they have no pages
    query = (
        select(products.c.name, stations.c.name.label("station"), stations.c.address)
        .join(stations)
        .where(products.c.id.not_in(entries))
        .where(stations.c.name != database.station, stations.c.address.is_not(None))
        .order_by(stations.c.name, products.c.name)
    )
    with database.reading() as connection:
        return [dict(row._mapping) for row in connection.execute(query)]


def public_address(settings: Settings) -> str | None:
    """Address at which others reach the pages; None: there is none."""
    bound = settings.host not in ("", "0.0.0.0", "::", *LOOPBACK) and settings.port
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    name = next(iter(settings.public), f"{host}:{settings.port}" if bound else None)
    if name is None:
        return None
    has_scheme = name.startswith(("http://", "https://"))
    return name.rstrip("/") if has_scheme else f"{'https' if settings.proxy else 'http'}://{name}"


CLOCK_CONFIRMED = "clock_confirmed"  # event
CLOCK_TOLERANCE = HOUR  # by which a clock may be set while the station runs
SETTLING_TIME = HOUR // 6  # time after the start in which a time server may correct the clock


def uptime() -> int:
    """Microseconds since the computer was started, with the time that it slept."""
    boot = getattr(time, "CLOCK_BOOTTIME", None)
    return (time.monotonic_ns() if boot is None else time.clock_gettime_ns(boot)) // 1000


class Clock:
    """Clock of a station: checks the computer's clock, and knows the age of records.

    Args:
        wall: the computer's clock, microseconds since 1970.
        counter: microseconds that nobody sets.

    Attributes:
        age: microseconds for which the station ran, with pauses.
        jump: microseconds by which the computer's clock is ahead of the expected time, below 0 where it is
            behind, 0 where it can be right.

    Raises:
        StoreError: the data base cannot be used; methods raise it, too.
    """

    def __init__(
        self, database: Database, wall: Callable[[], int] = now, counter: Callable[[], int] = uptime
    ):
        self.database, self._wall, self._counter = database, wall, counter
        self._lock = threading.Lock()
        with database.writing() as connection:
            self._station = get_or_add_station(connection, database.station)
        query = select(marks).where(marks.c.station_id == self._station).order_by(marks.c.hour.desc())
        with database.reading() as connection:
            last = connection.execute(query.limit(1)).one_or_none()
        self._started_at = self._last_counter = counter()
        self.age = 0 if last is None else last.age
        self.jump = 0
        self._expected = wall() if last is None else last.at
        # nobody knows how long the pause was
        self._max_ahead = CLOCK_TOLERANCE if last is None else LONGEST_PAUSE

    def check(self) -> None:
        """Advance the age and check the computer's clock; to be called every minute."""
        with self._lock:
            counter, wall = self._counter(), self._wall()
            passed = counter - self._last_counter
            if not 0 <= passed <= LONGEST_PAUSE:  # a counter that jumps cannot be trusted either
                passed = 0
            self._last_counter = counter
            self._expected += passed
            self.age += min(passed, HOUR)
            off = wall - self._expected
            self.jump = 0 if -CLOCK_TOLERANCE <= off <= self._max_ahead else off
            if not self.jump and counter - self._started_at >= SETTLING_TIME:
                self._settle(wall)
            self._save()

    def close(self) -> None:
        """Save the time at the station's end, for the next run."""
        self._started_at -= SETTLING_TIME
        self.check()

    def confirm(self) -> None:
        """Accept the computer's clock as right. The time by which it jumped does not count."""
        with self._lock:
            self._expected, self._max_ahead, self.jump = self._wall(), CLOCK_TOLERANCE, 0
            self._save()

    def newest_older_than(self, age: int) -> int:
        """Number of the newest inspection that is at least `age` microseconds old; 0: none is."""
        query = (
            select(marks.c.inspection_id)
            .where(marks.c.station_id == self._station, marks.c.age <= self.age - age)
            .order_by(marks.c.hour.desc())
            .limit(1)
        )
        with self.database.reading() as connection:
            return int(connection.execute(query).scalar_one_or_none() or 0)

    @property
    def problem(self) -> str:
        """Reason why the computer's clock cannot be right; "" where it can."""
        if not self.jump:
            return ""
        hours = abs(self.jump) / HOUR
        far = f"{hours:.0f} hours" if hours < 48 else f"{hours / 24:.0f} days"
        return (
            f"the computer's clock is {far} {'ahead of' if self.jump > 0 else 'behind'} the newest records: "
            "set it, or confirm that it is right; until then nothing is removed for its age"
        )

    def _settle(self, wall: int) -> None:
        if self._max_ahead == LONGEST_PAUSE:
            self.age += min(max(0, wall - self._expected), DAY)
        self._expected, self._max_ahead = wall, CLOCK_TOLERANCE

    def _save(self) -> None:
        newest = select(func.coalesce(func.max(inspections.c.id), 0)).scalar_subquery()
        values = {"age": self.age, "at": self._expected, "inspection_id": newest}
        with self.database.writing() as connection:
            new = upsert(connection.dialect.name, marks)
            new = new.values(station_id=self._station, hour=self.age // HOUR, **values)
            keys = ["station_id", "hour"]
            connection.execute(new.on_conflict_do_update(index_elements=keys, set_=values))
