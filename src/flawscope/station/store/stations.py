"""A station in its data base: which of several it is, and how old its records are."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from sqlalchemy import Connection, func, insert, select, update

from flawscope.errors import InputError
from flawscope.station.settings.station import Settings
from flawscope.station.store.database import Database, now, upsert
from flawscope.station.store.files import PICTURES, Files
from flawscope.station.store.schema import HOUR, inspections, marks, products, stations

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def claim(database: Database, files: Files, address: str | None = None) -> None:
    """Be the station of this name: the one whose pictures are in this folder.

    Args:
        address: of its pages, where others can reach them.

    Raises:
        InputError: the name is another station's, or the folder is another data base's.
    """
    folder, name = files.identity(), database.station
    values = {"name": name, "folder": folder, "address": address, "started_at": now()}
    with database.writing() as connection:
        database.alone(connection)
        rows = connection.execute(select(stations).order_by(stations.c.id)).all()
        here = next((row for row in rows if row.folder == folder), None)
        if here is None and not files.has(PICTURES):  # one that was never started has no folder yet
            here = next((row for row in rows if (row.folder, row.name) == (None, name)), None)
        if here is None and database.is_sqlite:  # it is in the folder, and one station's
            here = next(iter(rows), None)
        other = next((row for row in rows if row.name == name and row is not here), None)
        if other is not None:
            lost = f"; or, where that one is lost, write {other.folder} into {files.identity_path}"
            raise InputError(
                f"the station {name} of {database.name} has another folder than {files.folder}: choose "
                f"another `name`{lost if other.folder and here is None else ''}"
            )
        if here is not None:
            connection.execute(update(stations).where(stations.c.id == here.id).values(**values))
            return
        if files.has(PICTURES):
            raise InputError(
                f"{files.folder} has pictures that {database.name} does not know: choose an empty `store`, "
                "or the `database` that they belong to"
            )
        connection.execute(insert(stations).values(**values))


def taken_over(database: Database, files: Files) -> None:
    """After a restore, the folder is that of the station whose backup it was, and the data base's, too.

    Raises:
        InputError: there are several, and none has the name.
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


def check_there(database: Database) -> None:
    """InputError where no station of this name was ever started."""
    with database.reading() as connection:
        names = list(connection.execute(select(stations.c.name).order_by(stations.c.name)).scalars())
    if names and not database.is_sqlite and database.station not in names:
        raise InputError(
            f"{database.name} has no station {database.station}: set `name` to one of {', '.join(names)}"
        )


def station_id(connection: Connection, name: str) -> int:
    """Of the station of this name, which is there from now on."""
    new = upsert(connection.dialect.name, stations).values(name=name)
    connection.execute(new.on_conflict_do_nothing())
    return int(connection.execute(select(stations.c.id).where(stations.c.name == name)).scalar_one())


def place_of(database: Database, number: int) -> str | None:
    """Name, and address where it is known, of the other station that has an inspection; None: none has it."""
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


def others(database: Database) -> list[dict[str, str]]:
    """Products of the other stations: name, station, and address where it is known."""
    if database.is_sqlite:
        return []
    query = (
        select(products.c.name, stations.c.name.label("station"), stations.c.address)
        .join(stations)
        .where(stations.c.name != database.station, stations.c.address.is_not(None))
        .order_by(stations.c.name, products.c.name)
    )
    with database.reading() as connection:
        return [dict(row._mapping) for row in connection.execute(query)]


def address_of(settings: Settings) -> str | None:
    """Where others reach the pages; None: nobody does."""
    bound = settings.host not in ("", "0.0.0.0", "::", *LOOPBACK) and settings.port
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    name = next(iter(settings.public), f"{host}:{settings.port}" if bound else None)
    if name is None:
        return None
    has_scheme = name.startswith(("http://", "https://"))
    return name.rstrip("/") if has_scheme else f"{'https' if settings.proxy else 'http'}://{name}"


CONFIRMED = "clock_confirmed"  # event
DAY = 24 * HOUR  # of a pause that counts, at most
PAUSE = 21 * DAY  # beyond it a pause looks like a wrong clock
TOLERANCE = HOUR  # by which a clock may be set while the station runs
SETTLING = HOUR // 6  # after the start, in which a time server may set a clock right


def uptime() -> int:
    """Microseconds since the computer was started, also those for which it slept."""
    boot = getattr(time, "CLOCK_BOOTTIME", None)
    return (time.monotonic_ns() if boot is None else time.clock_gettime_ns(boot)) // 1000


class Clock:
    """The clock of a station, beside what its store knows of time.

    Args:
        wall: the computer's clock, microseconds since 1970.
        counter: microseconds that nobody sets.

    Attributes:
        age: microseconds for which the station ran, with pauses.
        jump: microseconds by which the computer's clock is ahead of what it should be, below 0 where it is
            behind, 0 where it can be right.

    Raises:
        StoreError: as do the methods.
    """

    def __init__(
        self, database: Database, wall: Callable[[], int] = now, counter: Callable[[], int] = uptime
    ):
        self.database, self._wall, self._counter = database, wall, counter
        self._lock = threading.Lock()
        with database.writing() as connection:
            self._station = station_id(connection, database.station)
        query = select(marks).where(marks.c.station_id == self._station).order_by(marks.c.hour.desc())
        with database.reading() as connection:
            last = connection.execute(query.limit(1)).one_or_none()
        self._begun = self._counted = counter()
        self.age = 0 if last is None else last.age
        self.jump = 0
        self._expected = wall() if last is None else last.at
        self._ahead = TOLERANCE if last is None else PAUSE  # nobody knows how long the pause was

    def look(self) -> None:
        """Count on, and compare the clock; to be called every minute."""
        with self._lock:
            counter, wall = self._counter(), self._wall()
            passed = counter - self._counted
            if not 0 <= passed <= PAUSE:  # a counter that jumps is as little to be believed
                passed = 0
            self._counted = counter
            self._expected += passed
            self.age += min(passed, HOUR)
            off = wall - self._expected
            self.jump = 0 if -TOLERANCE <= off <= self._ahead else off
            if not self.jump and counter - self._begun >= SETTLING:
                self._settle(wall)
            self._save()

    def close(self) -> None:
        """The station ends: the next run begins from here."""
        self._begun -= SETTLING
        self.look()

    def confirm(self) -> None:
        """A person says that the clock is right. The time by which it jumped does not count."""
        with self._lock:
            self._expected, self._ahead, self.jump = self._wall(), TOLERANCE, 0
            self._save()

    def newest_before(self, age: int) -> int:
        """Number of the newest inspection that is at least so many microseconds old; 0: none is."""
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
        """Why the clock cannot be right; "" where it can."""
        if not self.jump:
            return ""
        hours = abs(self.jump) / HOUR
        far = f"{hours:.0f} hours" if hours < 48 else f"{hours / 24:.0f} days"
        return (
            f"the computer's clock is {far} {'ahead of' if self.jump > 0 else 'behind'} the newest records: "
            "set it, or confirm that it is right; until then nothing is removed for its age"
        )

    def _settle(self, wall: int) -> None:
        if self._ahead == PAUSE:
            self.age += min(max(0, wall - self._expected), DAY)
        self._expected, self._ahead = wall, TOLERANCE

    def _save(self) -> None:
        newest = select(func.coalesce(func.max(inspections.c.id), 0)).scalar_subquery()
        values = {"age": self.age, "at": self._expected, "inspection_id": newest}
        with self.database.writing() as connection:
            new = upsert(connection.dialect.name, marks)
            new = new.values(station_id=self._station, hour=self.age // HOUR, **values)
            keys = ["station_id", "hour"]
            connection.execute(new.on_conflict_do_update(index_elements=keys, set_=values))
