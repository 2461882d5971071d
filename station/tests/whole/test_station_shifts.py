"""Shifts, and reports of them: on a page, in a folder and to a webhook."""

import csv
import io
from datetime import UTC, datetime
from itertools import pairwise

import httpx
import pytest
from openpyxl import load_workbook
from sqlalchemy import text

from flawscope_station.client import Client
from flawscope_station.settings.shifts import ShiftSettings
from flawscope_station.settings.station import ProductSettings
from flawscope_station.shifts import Shift, ended_shifts
from flawscope_station.shifts.reports import ShiftReporter
from flawscope_station.store.records import iso, parse_time
from flawscope_station.store.schema import REPORT_VIEW
from flawscope_station.store.search import COUNT_NAMES
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
def test_a_shift_is_reported_once_everywhere(open_station, receive, parts, tmp_path):
    receiver, folder = receive(500), str(tmp_path / "reports")  # at first it fails
    shifts = ShiftSettings({"all": "00:00"}, zone="UTC", folder=folder, webhook=receiver.url)
    running = open_station(shifts=shifts)
    with Client(running.url) as client:
        sent = [client.inspect(data, NAME, name=f"{k}.png") for k, data in enumerate([*parts[:3], parts[-1]])]
        bad = [one for one in sent if one.is_anomalous]
        assert bad
        client.verdict(bad[0].id, "good", product=NAME)
    day = datetime.now(UTC).date()
    tomorrow = parse_time(f"{day}T00:00:00Z") + 86_400_000_000
    reports = running.station.components[ShiftReporter]
    assert not reports.report_ended(tomorrow), "the webhook failed"
    assert any("shift" in one.code for one in running.station.problems())
    assert reports.report_ended(tomorrow)
    assert reports.report_ended(tomorrow)
    assert not running.station.problems()
    (told,) = [one.json for one in receiver.taken]
    assert told["type"] == "shift.ended"
    expected = {"shift": "all", "inspected": len(sent), "false_alarms": 1}
    assert {name: told["data"][name] for name in expected} == expected
    name = f"{day}-all-{NAME}"
    (hour, *_) = csv.DictReader((tmp_path / f"reports/{name}.csv").open())
    assert int(hour["inspected"]) <= len(sent)
    page = (tmp_path / f"reports/{name}.html").read_text()
    assert page.count("data:image/webp") >= len(bad) - 1
    with running.station.database.reading() as connection:
        rows = connection.execute(text(f"SELECT * FROM {REPORT_VIEW} ORDER BY inspection")).mappings().all()
    assert [(row["picture"], row["decision"]) for row in rows] == [(one.name, one.decision) for one in sent]
    assert str(rows[0]["at"])[:10] in (str(day), str(datetime.now(UTC).date()))


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


def test_a_report_that_cannot_be_made_holds_up_no_other(open_station, settings, parts, tmp_path, monkeypatch):
    """Whatever its error is; shifts that ended before the product had a model have no report at all."""
    model, folder = settings.products[NAME].model, tmp_path / "reports"
    shifts = ShiftSettings({"all": "00:00"}, zone="UTC", folder=str(folder))
    running = open_station(products={name: ProductSettings(model) for name in ("lid", NAME)}, shifts=shifts)
    with Client(running.url) as client:
        client.inspect(parts[0], NAME)
    report, reports = ShiftReporter._report, running.station.components[ShiftReporter]

    def fail_for_lid(self: ShiftReporter, product: str, number: int, shift: Shift) -> bool:
        if product == "lid":
            raise KeyError("damaged")
        return report(self, product, number, shift)

    monkeypatch.setattr(ShiftReporter, "_report", fail_for_lid)
    day = datetime.now(UTC).date()
    tomorrow = parse_time(f"{day}T00:00:00Z") + 86_400_000_000
    assert not reports.report_ended(tomorrow)
    assert (folder / f"{day}-all-{NAME}.html").exists()
    texts = [one.text for one in running.station.problems() if one.kind == "shifts"]
    assert texts == ["lid: the report of a shift waits: KeyError: 'damaged'"]
    page = httpx.get(f"{running.url}/{NAME}/trends", timeout=60).text
    assert "Last day" in page
    assert page.count("shift-report?") == 3, "the range alone, in three forms: no shift has ended since"
