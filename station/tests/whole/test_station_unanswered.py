"""Parts whose sender did not get the answer: late, withdrawn by the line, abandoned by a client that left.

They are told apart in records, pages, exports, counts, metrics, shift reports, sinks and SQL.
"""

import asyncio
import csv
import io
import json
import socket
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest
from openpyxl import load_workbook
from sqlalchemy import text

from flawscope_station.inspecting.ticket import LateError
from flawscope_station.settings.station import ProductSettings
from flawscope_station.shifts.reports import hourly_rows, shift_data
from flawscope_station.shifts.shift import Shift
from flawscope_station.sources.trigger import wait_for_inspection
from flawscope_station.store.database import now
from flawscope_station.store.schema import ABANDONED, LATE, REPORT_VIEW, WITHDRAWN
from flawscope_station.store.search import summarize_period
from sink_helpers import make_sink
from station_helpers import PATIENCE, everything, one_part, until

API = "/api/v1/products/plate"
OF_EACH = 20


class Gate:
    """Holds the recorder while it is shut: pictures are judged, and not recorded yet. judged: their parts."""

    def __init__(self, station: Any, patch: pytest.MonkeyPatch):
        self._opened, self.judged = threading.Event(), set[str | None]()
        self._opened.set()
        record, add = station.recorder._record, station.recorder.add

        def held(group: Any) -> None:
            self._opened.wait(PATIENCE)
            record(group)

        def noted(judged: Any) -> None:
            self.judged.add(judged.record.part)
            add(judged)

        patch.setattr(station.recorder, "_record", held)
        patch.setattr(station.recorder, "add", noted)

    def __enter__(self) -> None:
        self._opened.clear()

    def __exit__(self, *_: object) -> None:
        self._opened.set()


def abandoned(running: Any, data: bytes, part: str, key: str = "") -> socket.socket:
    """A client that has sent all of it, and will go away."""
    host, port = running.url.removeprefix("http://").split(":")
    line = socket.create_connection((host, int(port)), 30)
    head = f"POST {API}/inspections?part={part} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(data)}\r\n"
    line.sendall((head + (f"Idempotency-Key: {key}\r\n" if key else "") + "\r\n").encode() + data)
    return line


async def given_up(running: Any, gate: Gate, data: bytes, part: str, why: str) -> None:
    """As a deadline passes, and as the line of a PLC withdraws a part: what waits for it is cancelled."""
    station = running.station
    number = station.products["plate"]
    sent = one_part(number, data, f"{part}.png", source="camera", number=part)
    waiter = station.inspector.submit(sent)
    while part not in gate.judged:
        await asyncio.sleep(0.01)
    waiter.due_at = time.monotonic() + (0.01 if why == LATE else PATIENCE)
    waiting = asyncio.create_task(wait_for_inspection(station, waiter))
    await asyncio.sleep(0.01)
    if why == WITHDRAWN:
        waiting.cancel(WITHDRAWN)
    with pytest.raises(asyncio.CancelledError if why == WITHDRAWN else LateError):
        await waiting


@pytest.mark.listens
def test_unanswered_parts_are_told_apart_in_each_place(
    open_station, model_file, parts, tmp_path, monkeypatch
):
    sink = tmp_path / "sink"
    product = ProductSettings(str(model_file), sinks=(make_sink(folder=str(sink), picture="none"),))
    running = open_station(products={"plate": product})
    station, begun = running.station, now()
    gate = Gate(station, monkeypatch)
    station.inspector.submit(one_part(station.products["plate"], parts[0], "good.png")).result(60)
    with gate:
        for number in range(OF_EACH):
            data = parts[number % len(parts)]
            client = abandoned(running, data, f"A{number}")
            until(lambda part=f"A{number}": part in gate.judged)
            client.close()
            asyncio.run(given_up(running, gate, data, f"L{number}", LATE))
            asyncio.run(given_up(running, gate, data, f"W{number}", WITHDRAWN))
        time.sleep(0.5)  # the last client's end arrives
    until(lambda: station.inspector.backlog() == 0)
    expected = {LATE: OF_EACH, WITHDRAWN: OF_EACH, ABANDONED: OF_EACH, None: 1}
    reasons = {"L": LATE, "W": WITHDRAWN, "A": ABANDONED, "": None}

    # records, and their filter
    found = everything(running.url)
    assert Counter(one["unanswered"] for one in found) == expected
    assert all(one["unanswered"] == reasons[(one["part"] or "")[:1]] for one in found)
    with httpx.Client(base_url=f"{running.url}{API}", timeout=60) as http:
        for why, count in (*expected.items(), ("any", 3 * OF_EACH)):
            page = http.get("/inspections", params={"limit": 100, "unanswered": why or "none"}).json()
            assert len(page["inspections"]) == count
        # counts
        assert http.get("/trends").json()["totals"]["unanswered"] == 3 * OF_EACH
        # exports
        table = list(csv.DictReader(io.StringIO(http.get("/export", params={"format": "csv"}).text)))
        assert Counter(row["unanswered"] or None for row in table) == expected
        sheet = load_workbook(io.BytesIO(http.get("/export", params={"format": "xlsx"}).content)).active
        header, *rows = sheet.iter_rows(values_only=True)
        assert Counter(row[header.index("No answer")] for row in rows) == expected
    # pages
    page = httpx.get(f"{running.url}/plate/history?unanswered=late", timeout=60).text
    assert page.count("Not answered: not in time") == OF_EACH
    # metrics
    metrics = httpx.get(f"{running.url}/metrics", timeout=60).text
    for why in (LATE, WITHDRAWN, ABANDONED):
        assert f'flawscope_unanswered_total{{product="plate",reason="{why}"}} {OF_EACH}.0' in metrics
    # a shift's report
    summary = summarize_period(station.database, station.products["plate"], begun - 1, now() + 1)
    assert shift_data("plate", Shift("", begun, now()), summary, None)["unanswered"] == 3 * OF_EACH
    (header, *hours) = hourly_rows(summary, None)
    assert sum(row[header.index("unanswered")] for row in hours) == 3 * OF_EACH
    # sinks
    until(lambda: len(list(sink.rglob("*.json"))) == len(found))
    told = [json.loads(Path(one).read_text()) for one in sink.rglob("*.json")]
    assert Counter(_unanswered(one) for one in told) == expected
    # SQL of others
    with station.database.reading() as connection:
        rows = connection.execute(text(f"SELECT unanswered, count(*) FROM {REPORT_VIEW} GROUP BY unanswered"))
        assert dict(map(tuple, rows)) == expected


def _unanswered(message: dict[str, Any]) -> str | None:
    found: str | None = message.get("data", message)["unanswered"]
    return found


@pytest.mark.listens
def test_a_client_that_asks_again_under_its_key_was_answered(open_station, model_file, parts, monkeypatch):
    running = open_station(products={"plate": ProductSettings(str(model_file))})
    gate = Gate(running.station, monkeypatch)
    with gate:
        client = abandoned(running, parts[0], "A", "k")
        until(lambda: "A" in gate.judged)
        client.close()
        time.sleep(0.5)
    until(lambda: [one["unanswered"] for one in everything(running.url)] == [ABANDONED])
    headers = {"Idempotency-Key": "k"}
    again = httpx.post(
        f"{running.url}{API}/inspections?part=A", content=parts[0], headers=headers, timeout=60
    )
    assert (again.status_code, again.json()["unanswered"]) == (200, None)
    assert [one["unanswered"] for one in everything(running.url)] == [None]
    assert httpx.get(f"{running.url}{API}/trends", timeout=60).json()["totals"]["unanswered"] == 0


class Decided:
    """Holds the recorder while it is shut, where nobody may leave any more and nobody is told yet. parts:
    those that it holds or held."""

    def __init__(self, station: Any, patch: pytest.MonkeyPatch):
        self._opened, self.parts = threading.Event(), set[str | None]()
        self._opened.set()
        decide = station.recorder._with_unanswered_reason

        def held(ticket: Any, number: int) -> Any:
            inspection = decide(ticket, number)
            self.parts.add(inspection.part)
            self._opened.wait(PATIENCE)
            return inspection

        patch.setattr(station.recorder, "_with_unanswered_reason", held)

    def __enter__(self) -> None:
        self._opened.clear()

    def __exit__(self, *_: object) -> None:
        self._opened.set()


@pytest.mark.listens
@pytest.mark.parametrize("key", ["", "k"])
def test_a_client_that_leaves_when_all_is_decided_is_no_answer(
    open_station, model_file, parts, monkeypatch, key
):
    running = open_station(products={"plate": ProductSettings(str(model_file))})
    decided = Decided(running.station, monkeypatch)
    with decided:
        client = abandoned(running, parts[0], "A", key)
        until(lambda: "A" in decided.parts)
        client.close()
        time.sleep(0.5)
    until(lambda: [one["unanswered"] for one in everything(running.url)] == [ABANDONED])


@pytest.mark.listens
def test_a_client_that_leaves_when_another_has_the_answer_changes_nothing(
    open_station, model_file, parts, monkeypatch
):
    running = open_station(products={"plate": ProductSettings(str(model_file))})
    gate, decided = Gate(running.station, monkeypatch), Decided(running.station, monkeypatch)
    headers = {"Idempotency-Key": "k"}
    answers: list[httpx.Response] = []

    def ask_again() -> None:
        url = f"{running.url}{API}/inspections?part=A"
        answers.append(httpx.post(url, content=parts[0], headers=headers, timeout=60))

    with decided:
        with gate:
            client = abandoned(running, parts[0], "A", "k")
            until(lambda: "A" in gate.judged)
            asking = threading.Thread(target=ask_again)
            asking.start()
            [ticket] = running.station.inspector.intake.tickets()
            until(lambda: len(ticket._waiters) == 2)
        until(lambda: "A" in decided.parts)
        client.close()
        time.sleep(0.5)
    asking.join(60)
    assert [one.status_code for one in answers] == [201]
    assert [one["unanswered"] for one in everything(running.url)] == [None]


@pytest.mark.listens
def test_what_a_line_withdraws_when_all_is_decided_is_no_answer(open_station, model_file, parts, monkeypatch):
    running = open_station(products={"plate": ProductSettings(str(model_file))})
    station = running.station
    decided = Decided(station, monkeypatch)

    async def withdraw() -> None:
        sent = one_part(station.products["plate"], parts[0], "W.png", source="camera", number="W")
        waiter = station.inspector.submit(sent)
        waiting = asyncio.create_task(wait_for_inspection(station, waiter))
        with decided:
            while "W" not in decided.parts:
                await asyncio.sleep(0.01)
            waiting.cancel(WITHDRAWN)
            await asyncio.sleep(0.1)
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(withdraw())
    assert [one["unanswered"] for one in everything(running.url)] == [WITHDRAWN]
