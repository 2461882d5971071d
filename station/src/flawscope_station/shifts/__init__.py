"""Shifts: when each begins and ends, and what was inspected in it. Reports of them: `reports`."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import NamedTuple

from flawscope_station.settings.shifts import REPORT_DAYS, ShiftSettings
from flawscope_station.store.records import iso
from flawscope_station.store.schema import HOUR

DAY = 24 * HOUR


class Shift(NamedTuple):
    """Shift that has a beginning and an end, microseconds since 1970."""

    name: str
    since: int
    until: int

    def to_dict(self) -> dict[str, str]:
        """Returns values that JSON knows, times in UTC."""
        return {"name": self.name, "since": iso(self.since), "until": iso(self.until)}


def ended_shifts(shifts: ShiftSettings | None, at: int, days: int = REPORT_DAYS) -> list[Shift]:
    """Return the shifts that ended in the last days before `at`, microseconds since 1970, oldest first."""
    if shifts is None:
        return []
    last = datetime.fromtimestamp(at / 1e6, UTC).astimezone(shifts.tz)
    begun = sorted(_shift_starts(shifts, last, days))
    each = [Shift(name, since, until) for (since, name), (until, _) in pairwise(begun)]
    return [one for one in each if at - days * DAY < one.until <= at]


def _shift_starts(shifts: ShiftSettings, last: datetime, days: int) -> Iterator[tuple[int, str]]:
    """Beginnings of the shifts of these days, by the clocks of the zone."""
    for back in range(-1, days + 2):
        day = (last - timedelta(days=back)).date()
        for name, time in shifts.times.items():
            moment = datetime.combine(day, time, tzinfo=shifts.tz)
            yield round(moment.timestamp() * 1e6), name
