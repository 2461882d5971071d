"""Threads of cameras that end while frames wait: the frames after that are inspected."""

from __future__ import annotations

import time
from concurrent.futures import Future
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from flawscope_station.settings.sources import CameraSourceSettings
from flawscope_station.settings.station import Limits
from flawscope_station.sources import camera as camera_module
from flawscope_station.sources.camera import MAX_IN_FLIGHT, LiveCamera
from flawscope_station.sources.source import QueueShare, SourceContext
from station_helpers import until


@dataclass
class Frame:
    """Stands for a decoded frame."""

    width: int = 8
    height: int = 8


class FakeCamera(LiveCamera):
    """Camera that sends a frame every few milliseconds."""

    def _run_session(self, backoff: Any) -> str:
        while not self._ended.wait(0.005):
            self._handle_frame(Frame(), {})  # type: ignore[arg-type]
        return "the stream ended"


def submit(pictures: Any) -> list[Future[Any]]:
    answer: Future[Any] = Future()
    answer.set_result(None)
    return [answer]


@pytest.mark.parametrize("step", ["_check_silence", "_tell_missed", "picture"])
def test_a_thread_that_ends_again_and_again_takes_no_place_for_ever(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flawscope_station.background.MAX_RESTART_DELAY", 0.05)
    share = QueueShare(Limits())
    line: Any = SourceContext(1, submit, lambda code, why: None, SimpleNamespace(note_event=print), share)  # type: ignore[arg-type]
    camera = FakeCamera(line, CameraSourceSettings("rtsp://192.0.2.20/stream"), 1)
    monkeypatch.setattr(camera_module, "encode_png", lambda frame, pixels: b"")
    camera.start()
    try:
        until(lambda: camera.state.taken > 1)
        ended = list[float]()

        def end(*given: Any) -> Any:
            ended.append(time.monotonic())
            raise SystemExit(3)

        with monkeypatch.context() as patch:
            patch.setattr(camera, step, end)
            until(lambda: len(ended) > 2 * MAX_IN_FLIGHT)
        count = camera.state.taken
        until(lambda: camera.state.taken > count + MAX_IN_FLIGHT)
    finally:
        camera.stop(5)
    assert camera._in_flight == share._count == 0
