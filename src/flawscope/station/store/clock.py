"""How old records are, whatever the computer's clock says: it may be wrong, and be set at any time.

Ages are counted in the time for which the station ran, by a counter of the system that nobody sets. A pause
between two runs counts as well, a day at most: there the clock alone knows how long it was. The table `marks`
holds, for each hour of that time, which inspection was the newest.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from sqlalchemy import func, select

from flawscope.station.store.database import Database, now, upsert
from flawscope.station.store.schema import HOUR, inspections, marks
from flawscope.station.store.stations import station_id

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
