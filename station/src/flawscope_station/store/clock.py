"""The computer's clock, and whether it can be right."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import BigInteger, func, literal_column, select, update

from flawscope_station.store.database import Database, now
from flawscope_station.store.schema import HOUR, inspections, products, stations
from flawscope_station.store.station_identity import get_or_add_station

CLOCK_CONFIRMED = "clock_confirmed"  # kind of an event
CLOCK_TOLERANCE = HOUR  # microseconds by which a clock may be set back
LONGEST_PAUSE = 21 * 24 * HOUR  # microseconds; a longer pause between two checks looks like a wrong clock


class Clock:
    """The computer's clock, and whether it can be right.

    The clock is wrong if it is more than an hour behind the last time at which it was right, or more than
    three weeks ahead of that time.

    Args:
        database: Database of the station.
        wall: Function that returns the computer's time, microseconds since 1970.

    Attributes:
        at: Last time at which the clock was right, microseconds since 1970.
        jump: Microseconds by which the clock is ahead of `at`, below 0 where it is behind; 0: it can be
            right.

    Raises:
        StoreError: the database cannot be used; methods raise it, too.
    """

    def __init__(self, database: Database, wall: Callable[[], int] = now):
        self.database = database
        self._wall = wall
        self.jump = 0
        # cache by age: number of the oldest inspection younger than this age, as last looked up
        self._first_younger: dict[int, int] = {}
        with database.writing() as connection:
            get_or_add_station(connection)
            self.at: int = connection.scalar(select(stations.c.clock_at)) or wall()

    def check(self) -> None:
        """Compare the computer's time with `at`, and update `jump` and `at`; to be called once a minute."""
        offset = self._wall() - self.at
        is_plausible = -CLOCK_TOLERANCE <= offset <= LONGEST_PAUSE
        self.jump = 0 if is_plausible else offset
        if is_plausible:
            self._save(self.at + max(0, offset))  # `at` never goes back

    def confirm(self) -> None:
        """Accept the computer's time as right, because a person confirmed it."""
        self._save(self._wall())
        self._first_younger.clear()
        self.jump = 0

    def newest_older_than(self, age: int) -> int:
        """Return the number of the newest inspection that is at least `age` microseconds old; 0: none is.

        Inspections are searched in the order of their numbers, up to the first younger one. Therefore a later
        one, which a wrong clock has recorded as old, is left out.
        """
        time_limit = self.at - age
        inspection = inspections.c
        # a search for this or a longer age found all inspections before its end old enough: begin at its end
        earlier_ends = [number for cached_age, number in self._first_younger.items() if cached_age >= age]
        start = max(earlier_ends, default=0)
        # the plus keeps SQLite from using the index of times: it shall read the rows in the order of numbers
        at = literal_column("+inspections.at", BigInteger)
        # a time ahead of the clock was recorded by a wrong clock: it does not end the search
        younger = select(inspection.id).where(
            inspection.id >= start, at > time_limit, at <= self.at + CLOCK_TOLERANCE
        )
        first_younger = younger.order_by(inspection.id).limit(1)
        with self.database.reading() as connection:
            first_younger_numbers = []
            for product_id in connection.scalars(select(products.c.id)).all():
                number = connection.scalar(first_younger.where(inspections.c.product_id == product_id))
                if number is not None:
                    first_younger_numbers.append(number)
            newest_older = select(func.max(inspection.id)).where(inspection.at <= time_limit)
            if first_younger_numbers:
                first_younger_number = min(first_younger_numbers)
                self._first_younger[age] = first_younger_number
                newest_older = newest_older.where(inspection.id < first_younger_number)
            return connection.scalar(newest_older) or 0

    @property
    def problem(self) -> str:
        """Reason why the computer's clock cannot be right; "": it can be right."""
        if not self.jump:
            return ""
        hours = abs(self.jump) / HOUR
        distance = f"{hours:.0f} hours" if hours < 48 else f"{hours / 24:.0f} days"
        direction = "ahead of" if self.jump > 0 else "behind"
        return (
            f"the computer's clock is {distance} {direction} the newest records: "
            "set it, or confirm that it is right; until then nothing is removed for its age"
        )

    def _save(self, at: int) -> None:
        """Record a time at which the clock was right."""
        self.database.change(update(stations).values(clock_at=at))
        self.at = at
