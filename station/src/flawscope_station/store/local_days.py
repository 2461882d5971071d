"""Days of a time zone in SQL statements, which know UTC alone."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta, tzinfo

from sqlalchemy import BigInteger, ColumnElement, case, literal

from flawscope_station.store.schema import HOUR

DAY = 24 * HOUR
_FIRST_DAY = date(1970, 1, 1)


def local_day(at: ColumnElement[int], zone: tzinfo | None, since: int, until: int) -> ColumnElement[int]:
    """Return an SQL expression: the number of the day of a time in a zone; 1970-01-01 has the number 0.

    Args:
        at: Microseconds since 1970, from `since` to below `until`.
        zone: Zone of the days; None: this machine's.
        since: Least possible value of `at`.
        until: Exclusive end of the possible values of `at`.
    """
    zone_offsets = offsets(zone, since, until)
    _, last_offset = zone_offsets[-1]
    local_time = at + literal(last_offset, BigInteger)
    if len(zone_offsets) > 1:
        # each offset holds before its end, and the last offset for all later times
        cases = [(at < end, at + literal(offset, BigInteger)) for end, offset in zone_offsets[:-1]]
        local_time = case(*cases, else_=local_time)
    return local_time // DAY


def date_of(day: int) -> date:
    """Return the date of a day number from `local_day`."""
    return _FIRST_DAY + timedelta(days=day)


def midnight(day: date, zone: tzinfo | None) -> float:
    """Return the beginning of a day in a zone, seconds since 1970.

    If clocks are put forward at midnight, the day begins at that moment.

    Args:
        day: Day.
        zone: Zone; None: this machine's.
    """
    return datetime.combine(day, time(), zone).timestamp()


def offsets(zone: tzinfo | None, since: int, until: int) -> list[tuple[int, int]]:
    """Return a zone's offsets from UTC between two times, in the order of time.

    Args:
        zone: Zone; None: this machine's.
        since: Begin, microseconds since 1970.
        until: End, microseconds since 1970.

    Returns:
        Pairs of the time at which an offset ends and the offset itself, both in microseconds. The last
        offset ends at `until`, all others end on a whole hour.
    """
    zone_offsets = list[tuple[int, int]]()
    first_hour = since // HOUR * HOUR
    for day_begin in range(first_hour, until, DAY):
        has_same_offset = offset_at(zone, day_begin) == offset_at(zone, day_begin + DAY)
        if has_same_offset:  # no change of clocks within the day
            continue
        for hour_begin in range(day_begin, day_begin + DAY, HOUR):
            if offset_at(zone, hour_begin) != offset_at(zone, hour_begin + HOUR):
                zone_offsets.append((hour_begin + HOUR, offset_at(zone, hour_begin)))
    last_moment = max(first_hour, until - 1)  # the microsecond before `until`
    zone_offsets.append((until, offset_at(zone, last_moment)))
    return zone_offsets


def offset_at(zone: tzinfo | None, at: int) -> int:
    """Return a zone's offset from UTC at a time; both in microseconds."""
    offset = datetime.fromtimestamp(at / 1e6, UTC).astimezone(zone).utcoffset()
    return 0 if offset is None else round(offset.total_seconds() * 1e6)
