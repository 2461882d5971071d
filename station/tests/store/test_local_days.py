"""Days of a zone in the trends, on both databases, against a loop over the hours."""

import time
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import insert

from flawscope_station.store.local_days import DAY, offset_at, offsets
from flawscope_station.store.schema import HOUR, hours
from flawscope_station.store.search import trends
from station_helpers import add_version

pytestmark = pytest.mark.both_databases
PER_HOUR = 3  # inspections: more in all than are shown one by one
SPRING, AUTUMN = datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 9, 20, tzinfo=UTC)
ZONES = {
    "Europe/Berlin": (23, 25),  # hours of the day on which the clocks change in spring, in autumn
    "America/Los_Angeles": (23, 25),
    "Pacific/Auckland": (25, 23),
    "America/Havana": (23, 25),  # at midnight
    "Asia/Kolkata": (24, 24),  # half an hour beside the hours of UTC
    "UTC": (24, 24),
}


def fill_hours(database, begin: datetime, days: int) -> tuple[int, range]:
    """A product of which as many are inspected in each hour; its number, and the hours since 1970."""
    product, version = add_version(database, f"plate {begin:%m}")
    first = int(begin.timestamp()) // 3600
    counts = dict.fromkeys(("anomalous", "within_tolerance", "unanswered", "reviewed", "defects"), 0)
    scores = {"score_sum": PER_HOUR * 0.5, "score_min": 0.25, "score_max": 0.75}
    same = {
        "product_id": product,
        "version_id": version,
        "inspected": PER_HOUR,
        "misses": 1,
        "false_alarms": 0,
    }
    rows = [{**same, **counts, **scores, "hour": first + k} for k in range(24 * days)]
    with database.writing() as connection:
        connection.execute(insert(hours), rows)
    return product, range(first, first + 24 * days)


def counted_by_day(every: range, zone: ZoneInfo | None) -> dict[str, int]:
    """Inspections of each day, in the order of time: an hour is of the day in which it begins."""
    days = Counter[str]()
    for hour in every:
        days[datetime.fromtimestamp(3600 * hour, UTC).astimezone(zone).date().isoformat()] += PER_HOUR
    return dict(days)


def midnight_by_minutes(day: date, zone: ZoneInfo) -> float:
    """When a day begins: the first minute that the zone's clocks call so."""
    minute = datetime.combine(day, datetime.min.time(), UTC) - timedelta(hours=15)
    while minute.astimezone(zone).date() != day:
        minute += timedelta(minutes=1)
    return minute.timestamp()


@pytest.mark.parametrize("name", ZONES)
def test_days_are_those_of_the_zone_when_the_clocks_change_too(database, name):
    zone = ZoneInfo(name)
    for begin, changed in zip((SPRING, AUTUMN), ZONES[name], strict=True):
        product, every = fill_hours(database, begin, 45)
        found = trends(database, product, every[0] * HOUR, (every[-1] + 1) * HOUR, zone)
        assert found["unit"] == "day"
        wanted = counted_by_day(every, zone)
        assert dict(zip(found["days"], [bucket[1] for bucket in found["buckets"]], strict=True)) == wanted
        assert found["days"] == list(wanted)
        assert PER_HOUR * changed in wanted.values()
        for day, bucket in list(zip(found["days"], found["buckets"], strict=True))[1:-1:6]:
            assert bucket[0] == midnight_by_minutes(date.fromisoformat(day), zone)
            assert bucket[2:6] == [0, 0.25, 0.5, 0.75]
            assert bucket[7] == bucket[1] / PER_HOUR, "misses"


def test_days_without_a_zone_are_those_of_the_machine(database, monkeypatch):
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    time.tzset()
    try:
        product, every = fill_hours(database, AUTUMN, 30)
        found = trends(database, product, every[0] * HOUR, (every[-1] + 1) * HOUR, None)
        assert found["days"] == list(counted_by_day(every, ZoneInfo("Pacific/Auckland")))
    finally:
        monkeypatch.undo()
        time.tzset()


def test_hours_and_minutes_have_no_days(database):
    product, every = fill_hours(database, AUTUMN, 14)
    assert trends(database, product, every[0] * HOUR, every[700 % len(every)] * HOUR)["days"] == []


@pytest.mark.parametrize("name", ZONES)
def test_offsets_are_those_of_each_hour(name):
    zone, since = ZoneInfo(name), round(SPRING.timestamp() * 1e6)
    steps = offsets(zone, since, since + 300 * DAY)
    for at in range(since, since + 300 * DAY, HOUR):
        ahead = next(offset for until, offset in steps if at < until)
        assert ahead == offset_at(zone, at)
