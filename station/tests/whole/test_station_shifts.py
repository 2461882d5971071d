"""Shifts, their counts, and reports of them."""

import csv
import io
from datetime import datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

import httpx
import pytest
from openpyxl import load_workbook
from sqlalchemy import text

from flawscope_station.client import Client
from flawscope_station.settings.shifts import ShiftSettings
from flawscope_station.shifts.shift import ended_shifts
from flawscope_station.store.database import now
from flawscope_station.store.records import iso, parse_time
from flawscope_station.store.schema import REPORT_VIEW
from flawscope_station.store.search import COUNT_NAMES
from flawscope_station.web import shifts_api
from station_helpers import NAME

DAY = {"early": "06:00", "late": "14:00", "night": "22:00"}


def test_shifts_end_by_the_clocks_of_their_zone():
    """Also in the nights in which the clocks are changed: one has seven hours, one nine."""
    shifts = ShiftSettings(DAY, zone="Europe/Berlin")
    for last, hours, begins in (("2026-03-29", 7, "21:00"), ("2026-10-25", 9, "20:00")):
        found = ended_shifts(shifts, parse_time(f"{last}T05:00:00Z"), days=1)
        assert [one.name for one in found] == ["early", "late", "night"]
        night = found[-1]
        assert (night.until - night.since) / 3.6e9 == hours
        assert iso(night.since)[11:16] == begins
        assert all(one.until == other.since for one, other in pairwise(found))


@pytest.mark.both_databases
def test_shifts_are_listed_with_their_counts(open_station, parts, monkeypatch):
    """By the clocks of their zone, as JSON and as CSV: what a program of the plant fetches once a shift."""
    shifts = ShiftSettings({"all": "00:00"}, zone="Asia/Kolkata")
    running = open_station(shifts=shifts)
    with Client(running.url) as client:
        sent = [client.inspect(data, NAME, name=f"{k}.png") for k, data in enumerate([*parts[:3], parts[-1]])]
        bad = [one for one in sent if one.is_anomalous]
        client.verdict(bad[0].id, "good", product=NAME)
    monkeypatch.setattr(shifts_api, "now", lambda: now() + 86_400_000_000)
    url = f"{running.url}/api/v1/products/{NAME}/shifts"
    latest = httpx.get(url).json()[0]
    assert (latest["name"], latest["inspected"], latest["false_alarms"]) == ("all", len(sent), 1)
    day = datetime.now(ZoneInfo("Asia/Kolkata")).date()
    assert latest["since"] == f"{day}T00:00:00+05:30"
    rows = [*csv.DictReader(io.StringIO(httpx.get(url, params={"format": "csv"}).text))]
    assert [*rows[0]] == ["name", "since", "until", *COUNT_NAMES]
    assert (rows[0]["since"], rows[0]["inspected"]) == (latest["since"], str(len(sent)))
    times = {"since": latest["since"], "until": latest["until"]}
    report = f"{running.url}/api/v1/products/{NAME}/shift-report"
    (hour, *_) = csv.DictReader(io.StringIO(httpx.get(report, params={**times, "format": "csv"}).text))
    assert hour["hour"].endswith(":30:00+05:30")
    counts = httpx.get(report, params={**times, "format": "json"}).json()
    assert (counts["shift"], counts["since"], counts["inspected"]) == ("all", latest["since"], len(sent))
    with running.station.database.reading() as connection:
        rows = connection.execute(text(f"SELECT * FROM {REPORT_VIEW} ORDER BY inspection")).mappings().all()
    assert [(row["picture"], row["decision"]) for row in rows] == [(one.name, one.decision) for one in sent]


def test_a_report_of_any_time_is_fetched(running, parts):
    with Client(running.url) as client:
        sent = [client.inspect(data, NAME) for data in (parts[0], parts[-1])]
    (bad,) = [one for one in sent if one.is_anomalous]
    with httpx.Client(base_url=f"{running.url}/api/v1/products/{NAME}/", timeout=60) as http:
        times = {"since": "2026-01-01", "until": iso(parse_time("2027-01-01"))}
        page = http.get("shift-report", params=times)
        assert page.headers["content-type"].startswith("text/html")
        assert "http://" not in page.text
        assert "https://" not in page.text
        assert page.text.count("data:image/webp") == 2, "where defects lie, and the worst picture"
        assert f">{bad.id} ·" in page.text
        table = http.get("shift-report", params={**times, "format": "csv"}).text
        assert sum(int(row["inspected"]) for row in csv.DictReader(io.StringIO(table))) == 2
        book = http.get("shift-report", params={**times, "format": "xlsx"}).content
        rows = [*load_workbook(io.BytesIO(book)).active.iter_rows(values_only=True)]
        assert rows[0] == ("hour", *COUNT_NAMES)
        assert sum(row[1] for row in rows[1:]) == 2
        counts = http.get("shift-report", params={**times, "format": "json"}).json()
        assert (counts["inspected"], counts["anomalous"]) == (2, 1)
        assert http.get("shift-report", params={**times, "until": "2020-01-01"}).status_code == 422
        assert http.get("shifts").json() == []
        page = httpx.get(f"{running.url}/{NAME}/trends", timeout=60).text
        assert "shift-report?since=" in page
