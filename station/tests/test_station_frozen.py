"""A frame counts once: from the first repeat a camera is frozen, until a new frame comes."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import httpx
import numpy as np
import pytest

from camera_helpers import DelayedCamera, source_context, sources, with_sources, write_video
from flawscope_station.settings.sources import CameraSourceSettings
from flawscope_station.sources.camera import FfmpegCamera
from flawscope_station.sources.frames import pixel_hash
from flawscope_station.sources.source import FROZEN, RUNNING, CameraFrozenError
from frozen_ways import WAYS, frame_of, shown
from station_helpers import PATIENCE, everything, problems, until

TRIGGER = "/api/v1/products/plate/trigger"
SIZES = [(64, 48), (61, 47), (8, 6)]  # rows of the second are filled up


@pytest.mark.parametrize("kind", ["rgb24", "gray", "gray16le", "yuv420p", "yuyv422", "nv12"])
@pytest.mark.parametrize("size", SIZES)
def test_frames_have_the_same_pixels_or_not(kind, size):
    """Each pixel counts, however large the frame is."""
    width, height = (
        size if kind not in ("yuyv422", "nv12", "yuv420p") else (size[0] // 2 * 2, size[1] // 2 * 2)
    )
    picture = np.random.default_rng(0).integers(0, 200, (height, width, 3), dtype=np.uint8)
    other = picture.copy()
    other[-1, -1] = 255
    assert pixel_hash(frame_of(picture, kind)) == pixel_hash(frame_of(picture, kind))
    assert pixel_hash(frame_of(picture, kind)) != pixel_hash(frame_of(other, kind))


@pytest.mark.parametrize(("way", "first_refused"), WAYS)
def test_no_frame_that_came_before_is_new(way, first_refused):
    """From its first repeat on, whichever of the last ones comes again."""
    source = FfmpegCamera(source_context(), CameraSourceSettings("rtsp://h/s", "trigger"), 1)
    refused = [number for number in range(600) if not source._remember_if_new(shown(way, number))]
    assert refused == ([] if first_refused is None else [*range(first_refused, 600)])


@pytest.fixture(name="camera")
def camera_fixture() -> Iterator[DelayedCamera]:
    made = DelayedCamera(0.0)
    yield made
    made.close()


@pytest.fixture(name="opened")
def opened_fixture(camera) -> Iterator[Callable[..., FfmpegCamera]]:
    made: list[FfmpegCamera] = []

    def open_one(address: str = "", every: str = "trigger") -> FfmpegCamera:
        settings = CameraSourceSettings(address or camera.address, every, latency="1 ms")
        made.append(FfmpegCamera(source_context(), settings, 1))
        made[-1].start()
        return made[-1]

    yield open_one
    for source in made:
        source.stop(2.0)


def test_no_trigger_is_answered_from_a_frame_that_came_before(camera, opened):
    """A camera gives its last one, two or three frames for a moment, again and again: each trigger gets a
    frame of its own, or is refused."""
    source, random, seen, refused = opened(), Random(0), set[bytes](), 0
    until(lambda: source.state.state == RUNNING)
    end = time.monotonic() + PATIENCE
    while len(seen) < 12 or refused < 3:
        assert time.monotonic() < end, (len(seen), refused)
        camera.is_frozen, camera.turns = random.random() < 0.4, random.randint(1, 3)
        time.sleep(random.uniform(0.0, 0.1))
        try:
            frame = source.next_shot().result(PATIENCE).frame
        except CameraFrozenError:
            refused += 1
            continue
        pixels = bytes(frame.planes[0])
        assert pixels not in seen
        seen.add(pixels)


def test_a_camera_that_is_opened_anew_and_sends_its_last_frame_is_frozen(camera, opened):
    source = opened()
    until(lambda: source.state.state == RUNNING)
    camera.is_frozen = True
    until(lambda: source.state.state == FROZEN)
    again = opened()  # knows no frame of before: the second one is the repeat
    until(lambda: again.state.state == FROZEN)
    camera.is_frozen = False
    until(lambda: (source.state.state, again.state.state) == (RUNNING, RUNNING))


def test_a_video_that_shows_a_still_picture_is_not_frozen(opened, tmp_path, monkeypatch):
    """A file is no camera: its pictures may be drawn, or stand still for a while."""
    path = write_video(tmp_path / "still.mp4", 10)
    monkeypatch.setattr(
        "flawscope_station.sources.frames.ffmpeg_input", lambda address, timeout: (f"file:{path}", None, {})
    )
    monkeypatch.setattr("flawscope_station.sources.camera.pixel_hash", lambda frame: 1)
    taken: list[Any] = []
    monkeypatch.setattr(FfmpegCamera, "_handle_repeat", lambda *given: taken.append(given))
    source = opened("rtsp://h/s", "frame")
    until(lambda: source.state.taken >= 5)
    assert taken == []


def test_a_frozen_camera_is_an_interlock_until_a_new_frame_comes(camera, open_station, settings):
    """It gives its last three frames in turn. 503 from the first repeat, a problem that stops the product,
    and nothing recorded meanwhile; then all is well by itself. A client's pictures are no camera's: the same
    one is inspected again."""
    source = CameraSourceSettings(camera.address, "trigger", latency="1 ms")
    running = open_station(products=with_sources(settings, source))
    url = running.url
    until(lambda: sources(url)[0]["state"] == "running")
    assert httpx.post(f"{url}{TRIGGER}", timeout=60).status_code == 201
    assert httpx.get(f"{url}/readyz").status_code == 200
    camera.is_frozen, camera.turns = True, 3
    until(lambda: sources(url)[0]["state"] == "frozen")
    for _ in range(3):
        answer = httpx.post(f"{url}{TRIGGER}", timeout=60)
        assert (answer.status_code, answer.json()["code"]) == (503, "camera_frozen")
    until(lambda: "camera_frozen_1_1" in problems(url))
    ready = httpx.get(f"{url}/readyz")
    assert (ready.status_code, [one["kind"] for one in ready.json()["problems"]]) == (503, ["camera_frozen"])
    (first,) = everything(url)
    picture = httpx.get(f"{url}/api/v1/products/plate/inspections/{first['id']}/picture").content
    for _ in range(2):
        sent = httpx.post(f"{url}/api/v1/products/plate/inspections", content=picture, timeout=60)
        assert sent.status_code == 201
    camera.is_frozen = False
    until(lambda: sources(url)[0]["state"] == "running")
    assert httpx.get(f"{url}/readyz").status_code == 200
    assert {*problems(url)} <= {"other_form_1"}  # the camera's pictures are no squares
    assert httpx.post(f"{url}{TRIGGER}", timeout=60).status_code == 201


def test_frames_that_are_taken_by_themselves_count_once(camera, open_station, settings, tmp_path: Path):
    running = open_station(products=with_sources(settings, CameraSourceSettings(camera.address, "frame")))
    url = running.url
    until(lambda: sources(url)[0]["taken"] >= 2)
    camera.is_frozen = True
    until(lambda: "camera_frozen_1_1" in problems(url))
    until(lambda: running.station.inspector.backlog() == 0)
    before = len(everything(url))
    time.sleep(0.3)
    found = everything(url)
    assert len(found) == before == len({one["picture"] for one in found})
