"""Beginning and end of shifts."""

from __future__ import annotations

from datetime import UTC, datetime, tzinfo
from itertools import pairwise
from typing import NamedTuple

from flawscope_station.settings.shifts import REPORT_DAYS, ShiftSettings, moments
from flawscope_station.store.local_days import DAY


class Shift(NamedTuple):
    """Shift of a day, with beginning and end in microseconds since 1970."""

    name: str
    since: int
    until: int

    def to_dict(self, zone: tzinfo | None) -> dict[str, str]:
        """Return the shift as JSON has it, with times in a zone; None: this machine's zone."""
        return {
            "name": self.name,
            "since": local_time(self.since, zone),
            "until": local_time(self.until, zone),
        }


def local_time(at: int, zone: tzinfo | None) -> str:
    """Return a time as text, such as 2026-11-22T06:00:00+01:00.

    Args:
        at: Time, microseconds since 1970.
        zone: Zone of the text; None: this machine's.
    """
    return datetime.fromtimestamp(at / 1e6, UTC).astimezone(zone).isoformat(timespec="seconds")


def shift_begin(shifts: ShiftSettings | None, at: int) -> int:
    """Return the beginning of the shift that is under way at a time.

    If there are no shifts, it is the midnight before that time in this machine's zone.

    Args:
        shifts: Settings of shifts; None: there are no shifts.
        at: Time; like the result, in microseconds since 1970.
    """
    earlier_shifts = ended_shifts(shifts, at, days=2)
    if earlier_shifts:
        return earlier_shifts[-1].until  # the present shift begins when the one before it ends
    local = datetime.fromtimestamp(at / 1e6, UTC).astimezone()
    midnight = local.replace(hour=0, minute=0, second=0, microsecond=0)
    return int(midnight.timestamp()) * 1_000_000


def ended_shifts(shifts: ShiftSettings | None, at: int, days: int = REPORT_DAYS) -> list[Shift]:
    """Return the shifts that ended in the last days before a time, the oldest first.

    Args:
        shifts: Settings of shifts; None: there are no shifts.
        at: Time, microseconds since 1970.
        days: Number of days.
    """
    if shifts is None:
        return []
    name_by_time_of_day = {time_of_day: name for name, time_of_day in shifts.times.items()}
    # a day more at either end, because a shift may begin on another day than it ends
    searched_days = range(-days - 1, 2)
    # pairs of moment and time of day
    begins = sorted(moments(name_by_time_of_day, shifts.tz, at, searched_days))
    all_shifts = [
        Shift(name_by_time_of_day[time_of_day], since, until)
        for (since, time_of_day), (until, _) in pairwise(begins)
    ]
    return [shift for shift in all_shifts if at - days * DAY < shift.until <= at]
