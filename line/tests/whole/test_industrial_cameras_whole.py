"""Industrial cameras: pylon's emulated ones, and Aravis' fake one over GigE Vision, in another process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter, deque
from contextlib import suppress
from dataclasses import replace
from random import Random

from flawscope_line.industrial_cameras.camera import NumberedFrame
from flawscope_line.industrial_cameras.settings import IndustrialCameraSettings
from flawscope_station.sources.frames import CameraLostError
from flawscope_station.sources.source import RUNNING, AwayError, NoFrameError
from industrial_cameras_helpers import SERIAL, camera, first_pixel
from station_helpers import until

os.environ.setdefault("PYLON_CAMEMU", "2")  # read when pylon is loaded

from industrial_cameras_helpers import (
    basler_fixture,  # noqa: F401
    fake_fixture,  # noqa: F401
    opening_fixture,  # noqa: F401
)

TIMEOUT = 0.06
LATE, LOST, DAMAGED = 0.06, 0.02, 0.01  # shares of the frames


class Jitter:
    """The emulated camera behind a bad wire. exposures: since it was opened; the emulator draws this number
    into the first pixel."""

    def __init__(self, settings: IndustrialCameraSettings, random: Random, fates: Counter[str]):
        from flawscope_line.industrial_cameras.pylon import PylonDevice

        self._inner, self._random, self._fates = PylonDevice(settings), random, fates
        self._held: deque[tuple[float, NumberedFrame]] = deque()
        self.exposures = 0

    def trigger(self) -> None:
        self._inner.trigger()
        self.exposures += 1

    def next(self, seconds: float) -> NumberedFrame | None:
        ends = time.monotonic() + seconds
        while True:
            if self._held and self._held[0][0] <= time.monotonic():
                return self._held.popleft()[1]
            first = min(ends, self._held[0][0]) if self._held else ends
            frame = self._inner.next(max(0.001, first - time.monotonic()))
            if frame is not None:
                self._hold(frame)
            elif time.monotonic() >= ends:
                return None

    def _hold(self, frame: NumberedFrame) -> None:
        draw, delay, fate = self._random.random(), self._random.uniform(0, 0.005), "in time"
        if self.exposures > 1 and draw < LATE:
            fate, delay = "late", self._random.uniform(1.0, 2.0) * TIMEOUT
        elif self.exposures > 1 and draw < LATE + LOST:
            fate = "lost"
        elif self.exposures > 1 and draw < LATE + LOST + DAMAGED:
            fate, frame = "damaged", NumberedFrame(frame.number, None)
        self._fates[fate] += 1
        if fate != "lost":
            due = max(time.monotonic() + delay, self._held[-1][0] if self._held else 0.0)
            self._held.append((due, frame))

    def close(self) -> None:
        self._inner.close()


def triggered(count: int, seed: int = 0) -> dict[str, int]:
    """Trigger until so many were answered; return how many got the frame that was exposed for them, and what
    happened to all."""
    random, fates, opened = Random(seed), Counter[str](), list[Jitter]()

    def opening(settings: IndustrialCameraSettings) -> Jitter:
        opened.append(Jitter(settings, random, fates))
        return opened[-1]

    settings = IndustrialCameraSettings("0815-0000", timeout=f"{TIMEOUT * 1000:.0f} ms", format="Mono8")
    there, found = camera(settings, opening), Counter[str]()
    try:
        while found["right"] + found["wrong"] < count:
            try:
                shot = there.next_shot().result(20)
            except AwayError:
                time.sleep(0.02)
            except NoFrameError:
                found["refused"] += 1
            else:
                right = first_pixel(shot) == opened[-1].exposures % 256
                found["right" if right else "wrong"] += 1
    finally:
        there.stop()
    names = ("right", "wrong", "refused")
    return {**{name: found[name] for name in names}, **dict(sorted(fates.items())), "opened": len(opened)}


def test_a_trigger_gets_the_frame_that_was_exposed_for_it(basler):
    found = triggered(150)
    assert (found["right"], found["wrong"]) == (150, 0)
    assert min(found[fate] for fate in ("late", "lost", "damaged")) > 0


def test_frames_of_a_signal_that_do_not_arrive_are_counted(basler):
    """The emulator has no signal at its line: this test triggers in its place."""
    made, fates = list[Jitter](), Counter[str]()

    def opening(settings: IndustrialCameraSettings) -> Jitter:
        made.append(Jitter(replace(settings, trigger="software"), Random(1), fates))
        return made[-1]

    def signal() -> None:
        """A busy camera does not see a signal."""
        with suppress(CameraLostError):
            made[0].trigger()

    there = camera(IndustrialCameraSettings(SERIAL["basler"], trigger="hardware line 1"), opening)
    try:
        until(lambda: there.state.state == RUNNING)
        until(lambda: signal() or (fates["lost"] > 0 and fates["damaged"] > 0))
        waiting = there.next_shot()
        until(lambda: signal() or waiting.done())
        # the last ones may be lost: the next frame that arrives tells it
        until(lambda: signal() or there.state.broken == fates["lost"] + fates["damaged"])
    finally:
        there.stop()


def test_a_camera_that_another_program_uses_says_so(fake):
    from flawscope_line.industrial_cameras.aravis import AravisDevice

    first = camera(IndustrialCameraSettings(SERIAL["genicam"]), AravisDevice)
    until(lambda: first.state.state == RUNNING)
    code = (
        "from flawscope_line.industrial_cameras.aravis import AravisDevice; "
        "from flawscope_line.industrial_cameras.settings import IndustrialCameraSettings as Settings; "
        "AravisDevice(Settings('FV01'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "another program uses it: end that one" in done.stderr
    first.stop()
