"""Times at which challenge parts are due."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, time, timedelta, tzinfo


def next_moment(times: Sequence[time], zone: tzinfo | None, after: int) -> int | None:
    """Return the first of these times of day that comes later than `after`, both in microseconds since 1970;
    None where there are no times. A time that the clocks skip counts, one that comes twice counts once.

    Args:
        zone: whose clocks count; None: this machine's.
    """
    first = datetime.fromtimestamp(after / 1e6, UTC).astimezone(zone).date()
    days = [first + timedelta(days=days) for days in range(-1, 3)]
    moments = (datetime.combine(day, at, tzinfo=zone).timestamp() for day in days for at in times)
    return min((moment for each in moments if (moment := round(each * 1e6)) > after), default=None)
