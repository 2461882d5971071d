"""Drift in a station: from what is recorded to what a person sees, over restarts, and what drift and a person
do to each other."""

import threading
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest

from flawscope_station.drift import monitor as drifts
from flawscope_station.drift.drift import Drift
from flawscope_station.drift.monitor import DriftMonitor
from flawscope_station.drift.sequential_tests import Change, ScoreTest
from flawscope_station.settings.station import ProductSettings
from flawscope_station.station import Station
from flawscope_station.store.database import StoreError
from station_helpers import PATIENCE, taken, until

API = "/api/v1/products/plate"
PASSWORD = "correct horse battery"


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """As often as a test looks."""
    monkeypatch.setattr(drifts, "ROUND_INTERVAL", 0.02)
    monkeypatch.setattr(drifts, "IDLE_INTERVAL", 0.2)


def record(
    station: Station,
    scores: np.ndarray,
    flagged: np.ndarray | None = None,
    first: int = 0,
) -> None:
    """As if so many pictures had been judged; nothing but the drift looks at them."""
    number = station.products["plate"]
    version = station.versions.active(number)[0]
    flags = np.zeros(len(scores), bool) if flagged is None else flagged
    made = [
        taken(
            number,
            version,
            picture=f"{first + k:064x}",
            at=1_790_000_000_000_000 + 1_000_000 * (first + k),
            score=float(score),
            anomalous=bool(bad),
        )
        for k, (score, bad) in enumerate(zip(scores, flags, strict=True))
    ]
    for start in range(0, len(made), 64):
        station.store.record(made[start : start + 64])
    station.parts[Drift].monitor.mark_new(number)


def drift(http: httpx.Client, pictures: int) -> dict[str, Any]:
    """What the API says once so many are counted."""

    def found() -> dict[str, Any] | None:
        answer = http.get(f"{API}/drift")
        assert answer.status_code == 200, answer.text
        facts: dict[str, Any] = answer.json()
        return facts if facts["ready"] and facts["pictures"] >= pictures else None

    return dict(until(found))


def shifted(count: int = 900, at: int = 600, by: float = 1.5) -> np.ndarray:
    scores = np.random.default_rng(5).standard_normal(count)
    scores[at:] += by
    return scores


def codes(station: Station) -> set[str]:
    return {one.code for one in station.problems()} - {"disk_full"}


def test_drift_is_reported_counted_and_acknowledged(running, http):
    station = running.station
    record(station, shifted()[:600])
    calm = drift(http, 600)
    assert (calm["alarm"], calm["good"], calm["flagged"]) == (None, 600, 0)
    assert calm["limit"] == pytest.approx(2)
    assert codes(station) == set()
    record(station, shifted()[600:], first=600)
    facts = drift(http, 900)
    alarm = facts["alarm"]
    assert alarm["how"] == "higher"
    assert 600 < alarm["inspection"] <= 660
    assert abs(alarm["first"] - 600) <= 10
    assert alarm["since"].startswith("2026-09-21T")
    assert facts["points"][-1][1] > facts["limit"]
    until(lambda: codes(station) == {"drift_1"})
    text = next(one.text for one in station.problems() if one.code == "drift_1")
    assert text.startswith("plate: scores of good parts are higher since about 2026-09-21 ")
    metrics = http.get("/metrics").text
    assert 'flawscope_drift_alarm{product="plate"} 1.0' in metrics
    gauge = float(metrics.split('flawscope_drift{product="plate"} ')[1].split()[0])
    assert gauge == pytest.approx(facts["value"] / facts["limit"])
    said = until(lambda: station.store.events("drift", 1))
    assert [row.text.split(":")[0] for row in said] == [f"at inspection {alarm['inspection']}"]

    answer = http.post(f"{API}/drift/acknowledge")
    assert answer.status_code == 200
    assert answer.json()["alarm"] is None
    anew = drift(http, 0)
    assert (anew["pictures"], anew["alarm"], codes(station)) == (0, None, set())
    assert [(row.who, row.text) for row in station.store.events("drift acknowledged", 1)] == [
        ("local", "after inspection 900")
    ]
    record(station, np.random.default_rng(6).standard_normal(300) + 1.5, first=900)
    assert drift(http, 300)["alarm"] is None


def test_an_alarm_stays_over_a_restart_that_reads_the_newest_alone(open_station, monkeypatch):
    monkeypatch.setattr(drifts, "HISTORY", 300)
    first = open_station()
    record(first.station, shifted(1200, 500))
    with httpx.Client(base_url=first.url, timeout=30) as http:
        before = drift(http, 1200)["alarm"]
    first.close()
    second = open_station()
    with httpx.Client(base_url=second.url, timeout=30) as http:
        facts = drift(http, 300)
        assert facts["pictures"] == 300
        kept = {**before, "since": f"{before['since'][:16]}:00.000Z", "now": None}
        assert facts["alarm"] == kept
        until(lambda: codes(second.station) == {"drift_1"})
        assert len(second.station.store.events("drift", 1)) == 1
        assert 'flawscope_drift_alarm{product="plate"} 1.0' in http.get("/metrics").text
        http.post(f"{API}/drift/acknowledge")
        record(second.station, shifted()[:200], first=2000)
        before = drift(http, 200)
        assert before["alarm"] is None
    second.close()
    third = open_station()
    with httpx.Client(base_url=third.url, timeout=30) as http:
        assert drift(http, 200) == before
        assert codes(third.station) == set()


def test_another_version_begins_anew(open_station, other_model):
    running = open_station()
    station = running.station
    number = station.products["plate"]
    with httpx.Client(base_url=running.url, timeout=30) as http:
        record(station, shifted())
        assert drift(http, 900)["alarm"] is not None
        until(lambda: codes(station) == {"drift_1"})
        other = station.versions.add(number, other_model, "test", "test")
        station.versions.activate(number, other, "test")
        station.parts[Drift].monitor.mark_new(number)
        until(lambda: codes(station) == set())
        record(station, shifted()[:100], first=900)
        facts = drift(http, 100)
        assert (facts["version"], facts["pictures"]) == (other, 100)
        station.versions.activate(number, 1, "test")  # and what it saw before does not count
        record(station, shifted()[:50], first=1000)
        facts = until(lambda: (one := drift(http, 50))["version"] == 1 and one)
        assert facts["pictures"] == 50
    running.close()
    again = open_station()
    with httpx.Client(base_url=again.url, timeout=30) as http:
        assert drift(http, 50)["pictures"] == 50


def test_null_means_that_nobody_looks(open_station, settings):
    model = settings.products["plate"].model
    running = open_station(products={"plate": ProductSettings(model, drift=None, camera_checks=False)})
    with httpx.Client(base_url=running.url, timeout=30) as http:
        record(running.station, shifted())
        facts = http.get(f"{API}/drift").json()
        assert (facts["watched"], facts["bound"], facts["alarm"]) == (False, None, None)
        assert facts["camera"] == {"watched": False, "problems": []}
        answer = http.post(f"{API}/drift/acknowledge")
        assert answer.status_code == 422
        assert "drift of plate is not watched" in answer.json()["error"]
        assert "flawscope_drift{" not in http.get("/metrics").text


Told = list[tuple[str, str | None]]


def drifts_of(bounds: dict[int, float], told: Told) -> DriftMonitor:
    """Whose store is empty."""
    store: Any = SimpleNamespace(database=None, events=lambda *asked: [], note_event=lambda *event: None)
    versions: Any = SimpleNamespace(active=lambda product_id: (1, None))
    names = {number: f"product {number}" for number in bounds}
    made = DriftMonitor(store, versions, names, lambda *report: told.append(report))
    for number, bound in bounds.items():
        made.add_product(number, bound)
    made._begin = lambda product_id, version: ScoreTest(version, 0, bounds[product_id])
    made._read_rows = lambda product_id, run: []
    return made


def test_an_alarm_that_is_acknowledged_while_it_is_told_does_not_come_again():
    told: Told = []
    drifts = drifts_of({1: 0.01}, told)
    run = drifts._tests[1] = ScoreTest(1, 0, 0.01)
    run.alarm = Change(5, 0, 1, "higher", 0.9)
    tell, person = drifts._report_alarm, threading.Thread(target=drifts.acknowledge, args=(1, "anna"))

    def meanwhile(product_id: int, alarm: Change | None) -> None:
        if not person.is_alive() and person.ident is None:
            person.start()
            person.join(0.2)  # a person does not get in between; where one does, it is over by now
        tell(product_id, alarm)

    drifts._report_alarm = meanwhile
    drifts.update(1)
    person.join(PATIENCE)
    alarms = [why for code, why in told if code == "drift_1"]
    assert alarms[0] is not None
    assert alarms[1:] == [None]


def test_an_alarm_that_was_acknowledged_before_it_is_told_is_not_told():
    told: Told = []
    drifts = drifts_of({1: 0.01}, told)
    run = drifts._tests[1] = ScoreTest(1, 0, 0.01)
    run.alarm = Change(5, 0, 1, "higher", 0.9)
    free, events = drifts._lock, []

    class Lock:
        """A person is quicker."""

        def __enter__(self) -> None:
            drifts._lock = free
            drifts.acknowledge(1, "anna")
            events.append("acknowledged")
            free.acquire()

        def __exit__(self, *error: Any) -> None:
            free.release()

    drifts._lock = Lock()
    drifts.update(1)
    drifts._lock = free
    assert [why for code, why in told if code == "drift_1"] == [None]
    assert events == ["acknowledged"]
    assert 1 in drifts._dirty, "what came since is counted at the next look"


def test_the_trouble_of_one_product_is_not_the_others():
    told: Told = []
    drifts = drifts_of({1: 0.01, 2: 0.01}, told)

    def follow(product_id: int) -> None:
        drifts._dirty.discard(product_id)
        if product_id == 1:
            raise StoreError("it is away", "store_unreachable")

    drifts.update = follow
    waits = iter([False])
    drifts._wait = lambda seconds=None: next(waits, True)
    drifts.pause = 0.0
    drifts._work()
    assert drifts._dirty == {1}
    assert told == [("drift_unknown", "drift is not followed: it is away")]
