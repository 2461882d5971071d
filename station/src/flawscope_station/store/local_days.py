"""Days of a time zone in SQL statements, which know UTC alone."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta, tzinfo

from sqlalchemy import BigInteger, ColumnElement, case, literal

from flawscope_station.store.schema import HOUR

DAY = 24 * HOUR
_FIRST_DAY = date(1970, 1, 1)


def local_day(at: ColumnElement[int], zone: tzinfo | None, since: int, until: int) -> ColumnElement[int]:
    """Return the SQL expression of a time's day, counted from 1970-01-01.

    Args:
        at: Microseconds since 1970, from `since` to below `until`.
        zone: Zone of the days; None: this machine's.
        since: First possible value of `at`.
        until: End of the possible values of `at`.
    """
    *earlier, (_, last) = offsets(zone, since, until)
    local = at + literal(last, BigInteger)
    if earlier:
        steps = [(at < end, at + literal(offset, BigInteger)) for end, offset in earlier]
        local = case(*steps, else_=local)
    return local // DAY


def date_of(day: int) -> date:
    """Return the date of a day number from `local_day`."""
    return _FIRST_DAY + timedelta(days=day)


def midnight(day: date, zone: tzinfo | None) -> float:
    """Return a day's beginning in a zone, seconds since 1970; where clocks skip midnight, the next moment."""
    return datetime.combine(day, time(), zone).timestamp()


def offsets(zone: tzinfo | None, since: int, until: int) -> list[tuple[int, int]]:
    """Return a zone's offsets from UTC between two times, in order.

    Args:
        zone: Zone; None: this machine's.
        since: Begin, microseconds since 1970.
        until: End, microseconds since 1970.

    Returns:
        The end of each offset, on a whole hour except the last, and the offset itself, both in microseconds.
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
    """Return a zone's offset from UTC at a time; both in microseconds."""
    ahead = datetime.fromtimestamp(at / 1e6, UTC).astimezone(zone).utcoffset()
    return 0 if ahead is None else round(ahead.total_seconds() * 1e6)
