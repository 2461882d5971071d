"""Drift in a station: from what is recorded to what a person sees, over restarts, and what drift and a person
do to each other."""

from datetime import UTC, datetime, timedelta

import httpx
import numpy as np
import pytest

from drift_helpers import API, drift
from flawscope_station.core.station import Station
from flawscope_station.drift import monitor as drifts
from flawscope_station.drift.assembly import Drift
from flawscope_station.settings.station import ProductSettings
from station_helpers import taken, until

# When the first of the recorded pictures came: not long ago, or `keep` asks about their age and removes them.
# At noon, so that all are of one day
BEGUN = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0) - timedelta(days=1)
START = round(1e6 * BEGUN.timestamp())  # microseconds
DAY = BEGUN.date().isoformat()


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
            at=START + 1_000_000 * (first + k),
            score=float(score),
            anomalous=bool(bad),
        )
        for k, (score, bad) in enumerate(zip(scores, flags, strict=True))
    ]
    for start in range(0, len(made), 64):
        station.store.record(made[start : start + 64])
    station.components[Drift].monitor.mark_new(number)


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
    assert alarm["since"].startswith(f"{DAY}T")
    assert facts["points"][-1][1] > facts["limit"]
    until(lambda: codes(station) == {"drift_1"})
    text = next(one.text for one in station.problems() if one.code == "drift_1")
    assert text.startswith(f"plate: scores of good parts are higher since about {DAY} ")
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
    with httpx.Client(base_url=first.url, timeout=30) as http:
        drift(http, 0)  # it has begun: else it would read the newest alone, as after a restart
        record(first.station, shifted(1200, 500))
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
        station.components[Drift].monitor.mark_new(number)
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
