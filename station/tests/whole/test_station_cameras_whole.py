"""Cameras: real streams, and what happens when they are cut."""

import signal
import time
from typing import Any

import httpx
import pytest

from camera_helpers import PASSWORD, sources, with_sources
from camera_helpers import rtsp_fixture as rtsp_fixture
from flawscope.errors import FlawscopeError
from flawscope_station.client import Client
from flawscope_station.settings.sources import (
    CameraSourceSettings,
)
from flawscope_station.sources import camera as camera_module
from flawscope_station.store.database import StoreError
from station_helpers import everything, failing, problems, until

DRAWN = "lavfi:testsrc2=size=96x64:rate=25,realtime"  # an input device as a local camera is one


def names(url: str) -> list[str]:
    """In their order. Frames that wait at the same moment may be judged in another one."""
    return sorted(one["name"] for one in everything(url))


def test_a_frame_that_is_not_recorded_is_told(open_station, settings, monkeypatch):
    """Of a live camera it is lost, and the next ones are taken when it is over."""
    running = open_station(products=with_sources(settings, CameraSourceSettings(DRAWN, "100 ms")))
    until(lambda: sources(running.url)[0]["taken"] > 1)

    full = failing(StoreError("the disk is full; free some space", "disk_full"))
    with monkeypatch.context() as patch:
        patch.setattr(running.station.store, "record", full)
        text = until(lambda: problems(running.url).get("camera_refused_1_1"))
        assert text.endswith("are not inspected: the disk is full; free some space")
        assert sources(running.url)[0]["state"] == "running"
    until(lambda: "camera_refused_1_1" not in problems(running.url))


def test_frames_that_come_too_fast_are_left_out_and_counted(open_station, settings, monkeypatch):
    """What is inspected is fresh however long the model takes, and others find room."""
    running = open_station(products=with_sources(settings, CameraSourceSettings(DRAWN)))
    session = running.station.versions.active(1)[1].session
    run = session.run

    def slow(images: Any) -> Any:
        time.sleep(0.15 * len(images))
        return run(images)

    monkeypatch.setattr(session, "run", slow)
    until(lambda: sources(running.url)[0]["dropped"] > 20)
    assert running.station.inspector.backlog() <= camera_module.MAX_IN_FLIGHT
    ages: list[float] = []
    (camera,) = running.station.sources["plate"]
    submit = camera.line.submit

    def aged(part: Any) -> Any:
        ages.append(time.time() - int(part.key.rpartition(":")[2]) / 1e6)
        return submit(part)

    object.__setattr__(camera.line, "submit", aged)
    until(lambda: len(ages) >= 3)
    assert max(ages) < 2.0
    metrics = httpx.get(f"{running.url}/metrics").text
    assert 'flawscope_frames_dropped{product="plate"}' in metrics
    assert 'flawscope_sources_away{product="plate"} 0.0' in metrics
    found = everything(running.url)
    assert len({one["name"] for one in found}) == len(found)
    assert (found[0]["source"], found[0]["width"], found[0]["height"]) == ("camera", 96, 64)


def test_a_stream_is_cut_and_back(rtsp, open_station, settings, tmp_path):
    """The server is killed: a problem within seconds, and inspections go on when it is there again."""
    (tmp_path / "secret").write_text(f"{PASSWORD}\n")
    address = f"rtsp://anna@{rtsp.host}/stream"
    camera = CameraSourceSettings(address, "200 ms", str(tmp_path / "secret"), "2 s", latency="50 ms")
    running = open_station(products=with_sources(settings, camera))
    url = running.url
    until(lambda: sources(url)[0]["taken"] >= 3)
    assert sources(url)[0]["place"] == f"rtsp://{rtsp.host}/…"
    with Client(url) as client:
        begun = time.time()
        found = client.trigger()
        assert found.name.startswith("camera1-")
        assert found.at.timestamp() > begun - 0.1
        rtsp.kill()
        cut = time.monotonic()
        text = until(lambda: problems(url).get("camera_away_1_1"))
        assert time.monotonic() - cut < 10
        assert text.startswith(f"camera 1 (rtsp://{rtsp.host}/…) is away: ")
        assert "s3cr" not in text
        assert "anna" not in text
        answer = httpx.post(f"{url}/api/v1/products/plate/trigger")
        assert (answer.status_code, answer.json()["code"]) == (503, "camera_away")
        assert int(answer.headers["retry-after"]) > 0
        before = sources(url)[0]
        assert before["state"] == "away"
        assert before["last"] is not None
        rtsp.start()
        until(lambda: sources(url)[0]["taken"] > before["taken"] + 2)
        until(lambda: "camera_away_1_1" not in problems(url))
    until(lambda: running.station.inspector.backlog() == 0)
    found_names = names(url)
    assert len(found_names) == len(set(found_names))
    page = httpx.get(f"{url}/plate/live").text
    assert "s3cr" not in page
    assert "anna@" not in page


def test_a_stream_that_says_nothing_any_more(rtsp, open_station, settings):
    """A camera that hangs: its connection stays, and no frame comes. A trigger gives up in its time."""
    address = f"rtsp://anna:s3cr%2Fet%20%40x@{rtsp.host}/stream"
    running = open_station(
        products=with_sources(
            settings, CameraSourceSettings(address, "trigger", None, "1500 ms", latency="50 ms")
        )
    )
    url = running.url
    until(lambda: sources(url)[0]["state"] == "running")
    rtsp.signal(signal.SIGSTOP)
    try:
        time.sleep(0.3)
        answer = httpx.post(f"{url}/api/v1/products/plate/trigger", params={"seconds": 0.5}, timeout=30)
        assert (answer.status_code, answer.json()["code"]) == (504, "no_frame")
        assert "gave no frame in 0.5 s" in answer.json()["error"]
        assert "sends nothing for 1.5 s" in until(lambda: problems(url).get("camera_away_1_1"))
    finally:
        rtsp.signal(signal.SIGCONT)
    until(lambda: "camera_away_1_1" not in problems(url))
    assert names(url) == [], "none was triggered"


def test_a_trigger_while_the_station_ends(open_station, settings):
    """Whoever waits is told."""
    silent = CameraSourceSettings("lavfi:testsrc2=size=96x64:rate=1/50,realtime", "trigger", None, "60 s")
    running = open_station(products=with_sources(settings, silent))
    (camera,) = running.station.sources["plate"]
    waiting = camera.next_shot()
    camera.stop(1.0)
    with pytest.raises(FlawscopeError, match="the station ends"):
        waiting.result(5)


def test_a_wrong_password_is_said_and_not_shown(rtsp, open_station, settings):
    said: list[str] = []
    camera = CameraSourceSettings(f"rtsp://anna:wr0ng@{rtsp.host}/stream")
    running = open_station(products=with_sources(settings, camera))
    running.station.say = said.append
    text = until(lambda: problems(running.url).get("camera_away_1_1"))
    assert "401 Unauthorized" in text
    everywhere = [text, *said, str(sources(running.url)), httpx.get(f"{running.url}/plate/live").text]
    everywhere += [httpx.get(f"{running.url}/metrics").text, repr(running.station.settings)]
    assert not any("wr0ng" in one for one in everywhere)
