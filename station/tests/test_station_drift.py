"""Drift in a station: from what is recorded to what a person sees, over restarts, on both data bases."""

from __future__ import annotations

import io
import time
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from sqlalchemy import select

from flawscope_station.drift import camera_faults as camera
from flawscope_station.drift import camera_monitor
from flawscope_station.drift import monitor as drifts
from flawscope_station.drift.drift import Drift
from flawscope_station.settings.station import ProductSettings
from flawscope_station.station import Station
from flawscope_station.store.schema import inspections
from station_helpers import png, recorded, taken, until

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
    brightness: np.ndarray | None = None,
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
            brightness=None if brightness is None else float(brightness[k]),
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
    assert (calm["alarm"], calm["notice"], calm["good"], calm["flagged"]) == (None, None, 600, 0)
    assert calm["limit"] == pytest.approx(np.log10(300))
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
    assert 'flawscope_share_notice{product="plate"} 0.0' in metrics
    assert 'flawscope_light_alarm{product="plate"} 0.0' in metrics
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


def test_a_judged_picture_is_recorded_with_its_brightness(running, http, judged_parts):
    found = {}
    for name, factor in (("as it is", 1.0), ("darker", 0.95)):
        with Image.open(io.BytesIO(judged_parts[0])) as image:
            lit = image.convert("RGB").point(lambda v, f=factor: round(v * f))
        answer = http.post(f"{API}/inspections", params={"name": name}, content=png(lit))
        assert answer.status_code == 201, answer.text
        number = answer.json()["id"]
        with running.station.database.reading() as connection:
            query = select(inspections.c.brightness).where(inspections.c.id == number)
            found[name] = connection.execute(query).scalar_one()
        assert found[name] == pytest.approx(np.asarray(lit).mean() / 255, abs=0.02)
    assert found["darker"] / found["as it is"] == pytest.approx(0.95, abs=0.005)


def test_a_restart_computes_the_same_again(open_station):
    first = open_station()
    scores = shifted(1200, 1000)
    flagged = np.random.default_rng(1).random(1200) < 0.03
    brightness = np.where(np.arange(1200) < 900, 0.4, 0.3)
    with httpx.Client(base_url=first.url, timeout=30) as http:
        for start in range(0, 1200, 300):  # as they come, and later all at once
            part = slice(start, start + 300)
            record(first.station, scores[part], flagged[part], start, brightness[part])
            before = drift(http, start + 300)
    events = len(until(lambda: first.station.store.events("drift", 1)))
    first.close()
    second = open_station()
    with httpx.Client(base_url=second.url, timeout=30) as http:
        after = drift(http, 1200)
        until(lambda: codes(second.station) == {"drift_1", "light_1"})
        assert after == before
        assert None not in (before["alarm"], before["light"]["alarm"])
        assert before["light"]["alarm"]["how"] == "darker"
        text = next(one.text for one in second.station.problems() if one.code == "light_1")
        assert text.startswith("plate: pictures of good parts are 25 % darker since about 2026-09-21 ")
        assert 'flawscope_light_alarm{product="plate"} 1.0' in http.get("/metrics").text
        assert len(second.station.store.events("light changed", 1)) == 1
        assert len(second.station.store.events("drift", 1)) == events == 1
        http.post(f"{API}/drift/acknowledge")
        record(second.station, scores[:200], first=2000)
        before = drift(http, 200)
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
        assert (facts["light"]["watched"], facts["camera"]["watched"]) == (False, False)
        answer = http.post(f"{API}/drift/acknowledge")
        assert answer.status_code == 422
        assert "neither drift nor the camera of plate is watched" in answer.json()["error"]
        assert "flawscope_drift{" not in http.get("/metrics").text


def test_a_camera_that_goes_dark_is_a_problem_until_it_is_back(
    open_station, settings, judged_parts, monkeypatch
):
    """Also where nobody looks for drift."""
    monkeypatch.setattr(camera, "REFERENCE", 12)
    monkeypatch.setattr(camera_monitor, "REFERENCE", 12)
    monkeypatch.setattr(camera_monitor, "MIN_INTERVAL", 0.0)
    monkeypatch.setattr(camera_monitor, "MAX_CPU_SHARE", 1.0)
    products = {"plate": replace(settings.products["plate"], drift=None)}
    running = open_station(products=products)
    with Image.open(io.BytesIO(judged_parts[0])) as image:
        black = png(Image.new("RGB", image.size, (1, 1, 1)))
    with httpx.Client(base_url=running.url, timeout=30) as http:

        def post(data: bytes, k: int) -> None:
            headers = {"Content-Type": "image/png"}
            answer = http.post(f"{API}/inspections", content=data + b"%d" % k, headers=headers)
            assert answer.status_code == 201, answer.text
            time.sleep(0.02)

        def seen() -> dict[str, Any]:
            return dict(http.get(f"{API}/drift").json()["camera"])

        until(lambda: http.get(f"{API}/drift").json()["ready"])
        for k in range(200):
            post(judged_parts[k % len(judged_parts)], k)
            if seen()["still"] is not None:
                break
        first = {"watched": True, "first_pictures": 12, "wanted_pictures": 12, "still": True}
        assert seen() == {**first, "problems": []}
        for k in range(60):
            post(black, k)
            if seen()["problems"]:
                break
        assert seen()["problems"] == ["dark"]
        assert "camera_dark_1" in codes(running.station)
        text = next(one.text for one in running.station.problems() if one.code == "camera_dark_1")
        assert text == "plate: pictures are black: is the camera off, or the light out?"
        running.close()  # what first pictures were like is known after a restart, too
        again = open_station(products=products)
        http.base_url = again.url
        until(lambda: http.get(f"{API}/drift").json()["ready"])
        for k in range(60):
            post(black, 100 + k)
            if seen()["problems"]:
                break
        assert seen() == {**first, "problems": ["dark"]}
        for k in range(60):
            post(judged_parts[k % len(judged_parts)], 1000 + k)
            if not seen()["problems"]:
                break
        until(lambda: "camera_dark_1" not in codes(again.station))
        facts = http.get(f"{API}/drift").json()
        assert (facts["watched"], facts["alarm"]) == (False, None)
        newest = recorded(again.station)[0]["id"]
        assert http.post(f"{API}/drift/acknowledge").json()["camera"]["first_pictures"] == 0
        assert again.station.store.events("drift acknowledged", 1)[0].text == f"after inspection {newest}"


@pytest.fixture(scope="session")
def judged_parts(parts, model_file):
    """Pictures that the model calls good."""
    import flawscope

    found = flawscope.load(model_file).predict(parts)
    return [part for part, one in zip(parts, found, strict=True) if not one.is_anomalous]
