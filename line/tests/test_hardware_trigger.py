"""Cameras that a signal at the part triggers: each frame is a part, which is inspected or told."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from av import VideoFrame

from flawscope.errors import InputError
from flawscope_line.industrial_cameras import signalled as signalled_module
from flawscope_line.industrial_cameras.camera import NumberedFrame, TriggeredCamera
from flawscope_line.industrial_cameras.settings import IndustrialCameraSettings
from flawscope_line.industrial_cameras.signalled import MAX_PARTS_WAITING, SignalledCamera
from flawscope_station.inspecting.interlock import NotReadyError
from flawscope_station.inspecting.memory import BusyError
from flawscope_station.inspecting.ticket import ModelError
from flawscope_station.settings.station import Limits
from flawscope_station.sources import camera as camera_module
from flawscope_station.sources.source import FROZEN, RUNNING, CameraFrozenError, QueueShare, SourceContext
from flawscope_station.sources.trigger import check_triggers
from station_helpers import PATIENCE, until

HARDWARE = IndustrialCameraSettings("1", trigger="hardware line 1")


def picture_of(number: int) -> VideoFrame:
    return VideoFrame.from_ndarray(np.full((16, 16), number % 256, np.uint8), format="gray")


class Signals:
    """A camera that a signal triggers."""

    def __init__(self) -> None:
        self.frames: deque[NumberedFrame] = deque()
        self.number = 0

    def pass_parts(self, count: int = 1, *, lost: bool = False, damaged: bool = False) -> None:
        for _ in range(count):
            self.number += 1
            if not lost:
                self.frames.append(NumberedFrame(self.number, None if damaged else picture_of(self.number)))

    def trigger(self) -> None:
        raise AssertionError("a signal triggers it")

    def next(self, seconds: float) -> NumberedFrame | None:
        end = time.monotonic() + seconds
        while not self.frames and time.monotonic() < end:
            time.sleep(0.002)
        return self.frames.popleft() if self.frames else None

    def close(self) -> None:
        pass


class Taken:
    """What a station takes of a camera. answer: of each picture; None: it waits until `release`."""

    def __init__(self, queue: int = 64) -> None:
        self.pictures: list[Any] = []
        self.keys = set[str | None]()
        self.waiting: deque[Future[Any]] = deque()
        self.problems: dict[str, str | None] = {}
        self.shown: list[str] = []  # all problems, also those that are over
        self.events: list[str] = []
        self.refusal: Callable[[], None] = lambda: None
        self.error: Exception | None = None
        self.is_held = False
        store: Any = SimpleNamespace(note_event=lambda kind, who, text, product: self.events.append(text))
        self.line = SourceContext(1, self._submit, self._report, store, QueueShare(Limits(queue=queue)))
        self._lock = threading.Lock()

    def _submit(self, part: Any) -> Future[Any]:
        self.refusal()
        answer: Future[Any] = Future()
        with self._lock:
            self.pictures += part.pictures
            self.keys.add(part.key)
            if self.is_held:
                self.waiting.append(answer)
                return answer
        answer.set_exception(self.error) if self.error else answer.set_result(None)
        return answer

    def _report(self, code: str, why: str | None, *, stops: bool = False) -> None:
        self.problems[code] = why
        self.shown.append(f"{code}: {why}")

    def release(self) -> None:
        with self._lock:
            self.is_held = False
            for answer in self.waiting:
                answer.set_result(None)

    @property
    def told(self) -> int:
        """Parts that events say were not inspected."""
        return sum(int(text.split()[0]) for text in list(self.events))


@pytest.fixture(name="play")
def play_fixture(monkeypatch):
    monkeypatch.setattr(camera_module, "CHECK_INTERVAL", 0.01)
    made: list[SignalledCamera] = []

    def open_one(**given: Any) -> tuple[Signals, Taken, SignalledCamera]:
        signals, taken = Signals(), Taken(**given)
        made.append(SignalledCamera(taken.line, HARDWARE, 1, lambda settings: signals))
        made[-1].start()
        until(lambda: made[-1].state.state == RUNNING)
        return signals, taken, made[-1]

    yield open_one
    for each in made:
        each.stop(1.0)


def test_parts_that_come_at_once_are_all_inspected(play):
    """As many as may wait; the newest frame is not all that counts."""
    signals, taken, _ = play()
    signals.pass_parts(MAX_PARTS_WAITING)
    until(lambda: len(taken.pictures) == MAX_PARTS_WAITING)
    for _ in range(34):
        signals.pass_parts()
        time.sleep(0.005)
    until(lambda: len(taken.pictures) == 50)
    assert len(taken.keys) == 50
    assert (taken.told, taken.problems.get("camera_missed_1_1")) == (0, None)


def test_parts_for_which_there_is_no_room_are_told(play, monkeypatch):
    """Each once, as an event and as a problem, which ends."""
    signals, taken, source = play(queue=8)
    taken.is_held = True
    signals.pass_parts(100)
    until(lambda: not signals.frames and source.state.dropped)
    until(lambda: any("come faster than they are inspected" in one for one in taken.shown))
    taken.release()
    until(lambda: len(taken.pictures) + source.state.dropped == 100)
    until(lambda: taken.told == source.state.dropped > 0)
    monkeypatch.setattr(signalled_module, "MISSED_SECONDS", 0.0)  # the hour is over
    until(lambda: taken.problems["camera_missed_1_1"] is None)


def test_a_queue_that_is_full_makes_parts_wait(play):
    signals, taken, source = play()
    left = [7]

    def busy() -> None:
        left[0] -= 1
        if left[0] > 0:
            raise BusyError(1.0)

    taken.refusal = busy
    signals.pass_parts(10)
    until(lambda: len(taken.pictures) == 10)
    assert (source.state.dropped, taken.told) == (0, 0)


@pytest.mark.parametrize(
    "error", [ModelError("the model failed"), RuntimeError("a bug"), OSError(28, "full"), NotReadyError("x")]
)
def test_parts_that_could_not_be_inspected_are_told(play, error):
    """After the next one was inspected, too: then the frames are not refused any more."""
    signals, taken, _ = play()
    taken.error = error
    signals.pass_parts(3)
    until(lambda: taken.told == 3)
    taken.error = None
    signals.pass_parts()
    until(lambda: taken.problems.get("camera_refused_1_1", "") is None)
    assert "3 parts" in str(taken.problems["camera_missed_1_1"])


def test_frames_that_did_not_arrive_are_parts_that_were_missed(play):
    signals, taken, source = play()
    signals.pass_parts()
    signals.pass_parts(2, lost=True)
    signals.pass_parts(damaged=True)
    signals.pass_parts()
    until(lambda: len(taken.pictures) == 2 and taken.told == 3)
    assert source.state.broken == 3


def test_a_look_through_the_camera_takes_no_part_away(play):
    signals, taken, source = play()
    look = source.next_shot()
    signals.pass_parts()
    assert look.result(PATIENCE).frame is not None
    until(lambda: len(taken.pictures) == 1)


def test_a_camera_with_a_signal_of_its_own_answers_no_trigger(play):
    _, _, source = play()
    with pytest.raises(InputError, match="write `trigger: software`"):
        check_triggers(source)


def test_parts_that_wait_when_the_station_ends_are_told(play):
    signals, taken, source = play(queue=2)
    taken.is_held = True
    signals.pass_parts(5)
    until(lambda: len(taken.pictures) == 1 and len(source._pending) >= 2 and not signals.frames)
    source.stop(0.1)
    assert len(taken.pictures) + taken.told == 5
    assert "the station ended" in taken.events[-1]
    taken.release()


def test_parts_are_told_though_the_store_is_away(play):
    signals, taken, _ = play()

    def away(*given: Any) -> None:
        raise RuntimeError("away")

    taken.line.store.note_event = away
    taken.error = ModelError("the model failed")
    signals.pass_parts()
    until(lambda: taken.problems.get("camera_missed_1_1"))


def test_a_part_whose_frame_came_before_is_told(play):
    """By its number, by the camera's clock, by its pixels: a frame counts once."""
    signals, taken, camera = play()
    signals.pass_parts()
    until(lambda: len(taken.pictures) == 1)
    for frame, state in (
        (NumberedFrame(1, picture_of(9)), FROZEN),  # its number came before
        (NumberedFrame(2, picture_of(10)), RUNNING),
        (NumberedFrame(3, picture_of(10)), FROZEN),  # its pixels
        (NumberedFrame(4, picture_of(11), 5), RUNNING),
        (NumberedFrame(5, picture_of(12), 5), FROZEN),  # its time
    ):
        signals.frames.append(frame)
        until(lambda state=state: camera.state.state == state)
    until(lambda: taken.problems.get("camera_frozen_1_1"))
    camera.stop(1.0)
    assert (len(taken.pictures), taken.told) == (3, 3)


class Repeating:
    """A camera that the station triggers. exposed: what it shows, which stays while it is frozen."""

    def __init__(self) -> None:
        self.number, self.exposed, self.is_frozen = 0, 0, False

    def trigger(self) -> None:
        self.number += 1
        self.exposed += not self.is_frozen

    def next(self, seconds: float) -> NumberedFrame | None:
        if not seconds:
            return None
        return NumberedFrame(self.number, picture_of(self.exposed))

    def close(self) -> None:
        pass


def test_a_triggered_camera_that_repeats_a_frame_shows_by_itself_that_it_is_back(monkeypatch):
    monkeypatch.setattr("flawscope_line.industrial_cameras.camera.CHECK_INTERVAL", 0.01)
    device, taken = Repeating(), Taken()
    camera = TriggeredCamera(taken.line, IndustrialCameraSettings("1"), 1, lambda settings: device)
    camera.start()
    try:
        until(lambda: camera.state.state == RUNNING)
        assert camera.next_shot().result(PATIENCE)
        device.is_frozen = True
        with pytest.raises(CameraFrozenError, match="frozen"):
            camera.next_shot().result(PATIENCE)
        with pytest.raises(CameraFrozenError, match="frozen"):
            camera.next_shot()
        assert taken.problems["camera_frozen_1_1"]
        device.is_frozen = False
        until(lambda: camera.state.state == RUNNING)  # no trigger is needed
        assert taken.problems["camera_frozen_1_1"] is None
        shot = camera.next_shot().result(PATIENCE)
        assert int(shot.frame.to_ndarray().flat[0]) == device.exposed % 256
    finally:
        camera.stop(1.0)
