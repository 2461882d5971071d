"""Days of a zone in statements that know UTC alone."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta, tzinfo

from sqlalchemy import BigInteger, ColumnElement, case, literal

from flawscope_station.store.schema import HOUR

DAY = 24 * HOUR
_FIRST_DAY = date(1970, 1, 1)


def local_day(at: ColumnElement[int], zone: tzinfo | None, since: int, until: int) -> ColumnElement[int]:
    """Return the expression of the day that a time lies in, counted from 1970-01-01.

    Args:
        at: microseconds since 1970, from `since` to below `until`.
        zone: whose clocks count; None: this machine's.
    """
    *earlier, (_, last) = offsets(zone, since, until)
    local = at + literal(last, BigInteger)
    if earlier:
        steps = [(at < end, at + literal(offset, BigInteger)) for end, offset in earlier]
        local = case(*steps, else_=local)
    return local // DAY


def date_of(day: int) -> date:
    """Return the date of a day that `local_day` counts."""
    return _FIRST_DAY + timedelta(days=day)


def midnight(day: date, zone: tzinfo | None) -> float:
    """Return when a day begins in a zone, seconds since 1970; where clocks skip midnight, what follows."""
    return datetime.combine(day, time(), zone).timestamp()


def offsets(zone: tzinfo | None, since: int, until: int) -> list[tuple[int, int]]:
    """Return how far a zone is ahead of UTC, in the order of time: the hour up to which it is, and how far;
    both in microseconds.
    """
    found = list[tuple[int, int]]()
    begin = since // HOUR * HOUR
    for day in range(begin, until, DAY):
        if offset_at(zone, day) == offset_at(zone, day + DAY):
            continue
        for hour in range(day, day + DAY, HOUR):
            if offset_at(zone, hour) != offset_at(zone, hour + HOUR):
                found.append((hour + HOUR, offset_at(zone, hour)))
    return [*found, (until, offset_at(zone, max(begin, until - 1)))]


def offset_at(zone: tzinfo | None, at: int) -> int:
    """Return how far a zone is ahead of UTC at a time, both in microseconds."""
    ahead = datetime.fromtimestamp(at / 1e6, UTC).astimezone(zone).utcoffset()
    return 0 if ahead is None else round(ahead.total_seconds() * 1e6)
