"""Beginning and end of shifts."""

from __future__ import annotations

from datetime import UTC, datetime, tzinfo
from itertools import pairwise
from typing import NamedTuple

from flawscope_station.settings.shifts import REPORT_DAYS, ShiftSettings, moments
from flawscope_station.store.local_days import DAY


class Shift(NamedTuple):
    """Shift that has a beginning and an end, microseconds since 1970."""

    name: str
    since: int
    until: int

    def to_dict(self, zone: tzinfo | None) -> dict[str, str]:
        """Return the shift for JSON, with its times by the clocks of a zone; None: this machine's."""
        return {
            "name": self.name,
            "since": local_time(self.since, zone),
            "until": local_time(self.until, zone),
        }


def local_time(at: int, zone: tzinfo | None) -> str:
    """Return a time as 2026-11-22T06:00:00+01:00.

    Args:
        at: microseconds since 1970.
        zone: whose clocks show it; None: this machine's.
    """
    return datetime.fromtimestamp(at / 1e6, UTC).astimezone(zone).isoformat(timespec="seconds")


def shift_begin(shifts: ShiftSettings | None, at: int) -> int:
    """Return when the shift of a time began, microseconds since 1970; without shifts, the day."""
    if ended := ended_shifts(shifts, at, days=2):
        return ended[-1].until
    local = datetime.fromtimestamp(at / 1e6, UTC).astimezone()
    return int(local.replace(hour=0, minute=0, second=0, microsecond=0).timestamp()) * 1_000_000


def ended_shifts(shifts: ShiftSettings | None, at: int, days: int = REPORT_DAYS) -> list[Shift]:
    """Return the shifts that ended in the last days before `at`, microseconds since 1970, oldest first."""
    if shifts is None:
        return []
    names = {begin: name for name, begin in shifts.times.items()}
    begun = sorted(moments(names, shifts.tz, at, range(-days - 1, 2)))
    each = [Shift(names[begin], since, until) for (since, begin), (until, _) in pairwise(begun)]
    return [shift for shift in each if at - days * DAY < shift.until <= at]
