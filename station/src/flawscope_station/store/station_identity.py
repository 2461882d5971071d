"""Identity of a station in its data base; its clock, and the age of records."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from sqlalchemy import Connection, func, insert, select, update

from flawscope.errors import InputError
from flawscope_station.settings.station import DEFAULT_NAME, Settings
from flawscope_station.store.database import Database, now, upsert
from flawscope_station.store.files import PICTURES, Files
from flawscope_station.store.schema import HOUR, inspections, marks, stations

DAY = 24 * HOUR  # of a pause that counts, at most
LONGEST_PAUSE = 21 * DAY  # a longer pause looks like a wrong clock, and does not count
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def claim_identity(database: Database, files: Files, name: str) -> None:
    """Claim the data base for the station of this folder, which is called so from now on.

    Raises:
        InputError: the data base is another station's, or the folder is another data base's.
    """
    folder, has_pictures = files.identity(), files.has_files(PICTURES)
    values = {"name": name, "folder": folder, "started_at": now()}
    with database.writing() as connection:
        database.lock_exclusively(connection)
        row = connection.execute(select(stations)).one_or_none()
        known = None if row is None else row.folder
        if known not in (None, folder) and not database.is_sqlite:  # SQLite's file is in the folder
            raise InputError(
                f"{database.name} is the data base of another station, whose folder is not {files.folder}: "
                f"make one for this station; or, where that folder is lost, write {known} into "
                f"{files.identity_path}"
            )
        if has_pictures and (row is None or (known is None and not database.is_sqlite)):
            raise InputError(
                f"{files.folder} has pictures that {database.name} does not know: choose an empty `store`, "
                "or the `database` that they belong to"
            )
        change = insert(stations) if row is None else update(stations)
        connection.execute(change.values(**values))


def get_or_add_station(connection: Connection) -> int:
    """Number of the station, which is added where it was never started."""
    query = select(stations.c.id)
    if connection.execute(query).first() is None:
        new = upsert(connection.dialect.name, stations).values(name=DEFAULT_NAME)
        connection.execute(new.on_conflict_do_nothing())
    return int(connection.execute(query).scalar_one())


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
            self._station = get_or_add_station(connection)
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
