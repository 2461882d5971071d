"""When the present shift began: what *Live* counts from."""

import sys
import zoneinfo
from datetime import UTC, datetime

import pytest

from flawscope_station.settings.shifts import ShiftSettings
from flawscope_station.shifts.shift import shift_begin

SHIFTS = ShiftSettings({"early": "06:00", "late": "14:00", "night": "22:00"}, zone="Europe/Berlin")


@pytest.mark.parametrize(
    ("at", "begin"),
    [
        ("2026-11-22T05:30Z", "2026-11-22T05:00Z"),  # 6:30 there
        ("2026-11-22T04:59Z", "2026-11-21T21:00Z"),  # before six: the night's, from the day before
        ("2026-11-22T13:00Z", "2026-11-22T13:00Z"),
    ],
)
def test_the_present_shift_began(at, begin):
    moments = [int(datetime.fromisoformat(text).timestamp() * 1e6) for text in (at, begin)]
    assert shift_begin(SHIFTS, moments[0]) == moments[1]


def test_without_shifts_it_is_the_day():
    at = int(datetime(2026, 11, 22, 15, 4, tzinfo=UTC).timestamp() * 1e6)
    begin = datetime.fromtimestamp(shift_begin(None, at) / 1e6).astimezone()
    assert (begin.hour, begin.minute) == (0, 0)
    assert 0 <= at / 1e6 - begin.timestamp() < 86400


def test_a_machine_without_time_zones_says_what_to_install(monkeypatch):
    """As slim images and Windows come."""
    for name in {"tzdata", *(one for one in sys.modules if one.startswith("tzdata."))}:
        monkeypatch.setitem(sys.modules, name, None)
    zoneinfo.ZoneInfo.clear_cache()
    zoneinfo.reset_tzpath(to=())
    try:
        with pytest.raises(ValueError, match="this machine has no zones: pip install tzdata"):
            ShiftSettings({"early": "06:00"}, zone="Europe/Berlin")
        assert ShiftSettings({"early": "06:00"}).tz is None, "its own clock needs none"
    finally:
        zoneinfo.reset_tzpath()
