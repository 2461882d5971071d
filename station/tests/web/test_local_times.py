"""Times that people write, by the clocks of the station's zone: in searches, exports, trends, the history."""

import csv
import io
from datetime import timedelta, timezone
from zoneinfo import ZoneInfo

import httpx
import pytest

from flawscope_station.settings.shifts import ShiftSettings
from flawscope_station.web.local_times import query_in_utc, to_local_input, to_utc
from station_helpers import inspected
from tablet import API

BERLIN, EAST, WEST = ZoneInfo("Europe/Berlin"), "Pacific/Kiritimati", "Pacific/Pago_Pago"  # UTC+14, UTC-11


@pytest.mark.parametrize(
    ("text", "zone", "utc"),
    [
        ("2026-11-22", BERLIN, "2026-11-21T23:00:00+00:00"),
        ("2026-07-22T14:30", BERLIN, "2026-07-22T12:30:00+00:00"),
        ("2026-03-29T02:30", BERLIN, "2026-03-29T01:30:00+00:00"),  # which the clocks skip
        ("2026-10-25T02:30", BERLIN, "2026-10-25T00:30:00+00:00"),  # which comes twice: the first
        ("2026-11-22", ZoneInfo(WEST), "2026-11-22T11:00:00+00:00"),
        ("2026-11-22", timezone(timedelta(hours=14)), "2026-11-21T10:00:00+00:00"),
        ("2026-11-22T14:30:00Z", BERLIN, "2026-11-22T14:30:00+00:00"),
        ("2026-11-22T14:30:00+05:30", BERLIN, "2026-11-22T09:00:00+00:00"),
        ("soon", BERLIN, "soon"),
        ("0001-01-01", BERLIN, "0001-01-01"),  # no calendar has it in UTC
    ],
)
def test_a_time_without_an_offset_is_the_stations(text, zone, utc):
    assert to_utc(text, zone) == utc
    assert query_in_utc({"since": text, "part": text}, zone) == {"since": utc, "part": text}


def test_a_form_shows_the_stations_clock():
    assert to_local_input("2026-11-22T23:30:00Z", BERLIN) == "2026-11-23T00:30"
    assert to_local_input("2026-11-22", BERLIN) == "2026-11-22T00:00"
    assert to_local_input("soon", BERLIN) == ""


@pytest.mark.parametrize("zone", [EAST, WEST])
def test_a_day_of_a_search_is_that_of_the_stations_zone(open_station, judged, zone):
    """Whatever the clock says in UTC, the part is of today there, not of yesterday nor of tomorrow."""
    running = open_station(shifts=ShiftSettings({"day": "06:00"}, zone=zone))
    with httpx.Client(base_url=running.url, timeout=60) as http:
        inspected(http, judged[0], "one.png")
        at = http.get(f"{API}/inspections").json()["inspections"][0]["at"]
        today = to_local_input(at, ZoneInfo(zone))[:10]
        day = {"since": f"{today}T00:00", "until": f"{today}T23:59:59.999999"}
        for query, count in (({"since": today}, 1), ({"until": today}, 0), (day, 1)):
            found = http.get(f"{API}/inspections", params=query).json()["inspections"]
            assert len(found) == count, query
            rows = csv.DictReader(io.StringIO(http.get(f"{API}/export", params=query).text.lstrip("\ufeff")))
            assert len(list(rows)) == count
            assert http.get(f"{API}/trends", params=query).json()["totals"]["inspections"] == count
            assert ("one.png" in http.get("/plate/history", params=query).text) is bool(count)
        report = http.get(f"{API}/shift-report", params={**day, "format": "json"}).json()
        assert report["since"].startswith(f"{today}T00:00:00")
        for query, is_there in (({"since": today}, True), ({"until": today}, False)):
            entries = http.get("/api/v1/audit", params=query).json()["entries"]
            assert bool(entries) is is_there
