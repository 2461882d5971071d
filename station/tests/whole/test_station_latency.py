"""Cameras that are behind: a trigger takes a frame that was exposed after it, or none."""

import time
from collections import deque
from random import Random
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from camera_helpers import DelayedCamera, exposed_at, source_context, with_sources
from flawscope.errors import InputError
from flawscope_line.plc.line import PlcLine
from flawscope_line.plc.settings import ModbusSettings
from flawscope_station.settings.sources import CameraSourceSettings, read_source
from flawscope_station.sources import frames as frames_module
from flawscope_station.sources.camera import FfmpegCamera
from flawscope_station.sources.frames import FrameReader
from flawscope_station.sources.source import RUNNING
from station_helpers import PATIENCE, until

DECODING = 0.1  # seconds on a busy machine


@pytest.fixture(name="opened")
def opened_fixture():
    """`opened(behind)`: a camera that is so far behind, and the source that reads it."""
    made: list[tuple[DelayedCamera, FfmpegCamera]] = []

    def open_one(behind: float, latency: float | None = None) -> tuple[DelayedCamera, FfmpegCamera]:
        camera = DelayedCamera(behind, rate=50.0)
        stated = behind + DECODING if latency is None else latency
        settings = CameraSourceSettings(camera.address, "trigger", latency=f"{1000 * stated:.0f} ms")
        made.append((camera, FfmpegCamera(source_context(), settings, 1)))
        made[-1][1].start()
        until(lambda: made[-1][1].state.state == RUNNING)
        return made[-1]

    yield open_one
    for camera, source in made:
        source.stop(2.0)
        camera.close()


def earliest(camera: DelayedCamera, source: FfmpegCamera, triggers: int, seed: int = 0) -> float:
    """The least time from a trigger to the exposure of its frame, of so many triggers. A frame that a busy
    computer's camera sent later than it says does not count."""
    rng, found, ends = Random(seed), list[float](), time.monotonic() + PATIENCE
    while len(found) < triggers:
        assert time.monotonic() < ends, f"{len(found)} of {triggers} triggers had a frame in time"
        time.sleep(rng.uniform(0.0, 0.1))
        at = time.monotonic()
        exposed = exposed_at(source.next_shot().result(PATIENCE).frame)
        until(lambda exposed=exposed: exposed in camera.sent)
        if camera.sent[exposed] <= camera.behind + DECODING:
            found.append(exposed - at)
    return min(found)


@pytest.mark.parametrize("behind", [0.0, 0.1, 0.4, 1.0])
def test_no_trigger_gets_a_frame_that_was_exposed_before_it(opened, behind):
    assert earliest(*opened(behind), 6) >= 0.0


def test_a_wait_in_which_others_kept_the_reader_waiting_counts_less(monkeypatch):
    """For Python's lock or for a core: the frame may have come so much earlier, or have lain in a buffer."""
    clock, lock, core = [100.0], [0.0], [0.0]

    def give_lock_away(seconds: float) -> None:
        clock[0] += lock[0]

    fake = SimpleNamespace(monotonic=lambda: clock[0], sleep=give_lock_away)
    monkeypatch.setattr(frames_module, "time", fake)
    monkeypatch.setattr(frames_module, "_waited_for_core", lambda: core[0])
    reader = object.__new__(FrameReader)
    reader.arrived, reader._read_times, reader._lock_delay, reader._core_delay = 0.0, deque(), 0.0, 0.0
    for locked, others, earlier in (
        (0.0, 0.0, None),  # the first two: nobody knows how long one waits usually
        (0.0, 0.0, None),
        (0.0, 0.0, 0.0),
        (0.005, 0.0, 0.005),
        (0.0, 0.0, 0.005),  # it was before, and may have been again
        (0.0, 0.0, 0.0),
        (0.0, 0.01, 0.01),
        (0.0, 0.039, None),  # all of the wait
        (0.04, 0.0, None),
        (0.0, 0.0, None),
        (0.0, 0.0, 0.0),
    ):
        asked, before = clock[0], reader.arrived
        lock[0], clock[0], core[0] = locked, asked + 0.04, core[0] + others
        read = clock[0]
        reader._note_arrival(asked, read)
        if earlier is None:
            assert reader.arrived in (before, asked)
        else:
            assert reader.arrived == pytest.approx(read - earlier)


def test_a_camera_that_says_too_little_is_found_out_by_the_test(opened):
    """What the station did before: it took the next frame that was decoded."""
    assert earliest(*opened(0.4, latency=0.001), 6) < -0.2


def test_frames_that_lay_in_a_buffer_answer_no_trigger(opened):
    """The reader was held up for longer than the latency, and then reads what came meanwhile."""
    _, source = opened(0.0)
    handle, held, at = source._handle_frame, [0.0], [0.0]

    def hold(frame: Any, triggers: Any, exposed_at: float | None = None) -> None:
        if held[0]:
            at[0], held[0] = time.monotonic(), 0.0
            time.sleep(0.6)
        handle(frame, triggers, exposed_at)

    source._handle_frame = hold
    for _ in range(3):
        held[0] = 1.0
        until(lambda: not held[0])
        time.sleep(0.3)  # frames come meanwhile, and are read in 0.3 s
        trigger = time.monotonic()
        assert exposed_at(source.next_shot().result(PATIENCE).frame) >= trigger


def test_a_part_that_lies_there_for_a_tenth_of_a_second_is_on_its_frame(opened):
    """Not what lay there before. A busy computer may take a frame of what comes after it: try again."""
    camera, source = opened(0.4, latency=0.42)

    def is_on_its_frame() -> bool:
        time.sleep(0.3)
        camera.light = 255
        at, waiting = time.monotonic(), source.next_shot()
        time.sleep(0.1)
        camera.light = 0
        frame = waiting.result(PATIENCE).frame
        until(lambda: exposed_at(frame) in camera.sent)
        assert exposed_at(frame) >= at or camera.sent[exposed_at(frame)] > 0.42
        return bool(frame.to_ndarray(format="gray")[-4:].mean() > 200)

    for _ in range(3):
        until(is_on_its_frame)


def test_triggers_at_different_moments_get_different_frames(opened):
    camera, source = opened(0.4)

    def differ() -> bool:
        """Not where a busy computer took a later frame, which answers both."""
        first = source.next_shot()
        time.sleep(0.2)
        at, second = time.monotonic(), source.next_shot()
        shots = [first.result(PATIENCE), second.result(PATIENCE)]
        exposed = [exposed_at(shot.frame) for shot in shots]
        until(lambda: exposed[1] in camera.sent)
        assert exposed[1] >= at or camera.sent[exposed[1]] > camera.behind + DECODING
        return exposed[0] < at and [shot.triggers for shot in shots] == [1, 1]

    until(differ)


def test_a_camera_without_a_latency_is_refused_for_triggers(tmp_path):
    for address in ("rtsp://192.0.2.1/s", "http://192.0.2.1/", "udp://192.0.2.1:5000", "/dev/video0"):
        with pytest.raises(InputError, match=r"exposed after it: write `latency: 500 ms`"):
            read_source({"camera": address, "every": "trigger"}, tmp_path)
        given = {"camera": address, "every": "trigger", "latency": "0.4 s"}
        found = read_source(given, tmp_path)
        assert isinstance(found, CameraSourceSettings)
        assert found.latency == pytest.approx(0.4)
        read_source({"camera": address, "every": "1 s"}, tmp_path)
    for wrong in ("soon", "-1 s", 400, "0 s"):
        with pytest.raises(InputError, match="latency"):
            read_source({"camera": "/dev/video0", "latency": wrong}, tmp_path)


def test_a_stream_without_a_latency_answers_no_api_and_no_plc(open_station, settings):
    """One that was not given one for triggers: it has frames of its own."""
    camera = DelayedCamera(0.0)
    try:
        running = open_station(products=with_sources(settings, CameraSourceSettings(camera.address, "1 s")))
        until(lambda: running.station.sources["plate"][0].state.state == RUNNING)
        answer = httpx.post(f"{running.url}/api/v1/products/plate/trigger", timeout=30)
        assert answer.status_code == 422
        assert "camera 1" in answer.json()["error"]
        assert "write `latency: 500 ms` below it" in answer.json()["error"]
        given = ModbusSettings({1: "plate"}, listen="127.0.0.1:1502")
        with pytest.raises(InputError, match="has no `latency`"):
            PlcLine("modbus", running.station.context, given, lambda handle: None)
        running.close()
    finally:
        camera.close()
