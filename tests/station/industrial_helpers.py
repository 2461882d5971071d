"""What the tests of industrial cameras share: an emulated Basler camera that gives its frames late or not at
all, and a caller that triggers and knows which exposure is the right one."""

from __future__ import annotations

import os
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future
from random import Random
from typing import Any

from flawscope.station.industrial import CameraSettings
from flawscope.station.industrial.camera import IndustrialCamera, Numbered
from flawscope.station.settings.station import Limits
from flawscope.station.sources.source import AwayError, Line, NoFrameError, Share

os.environ.setdefault("PYLON_CAMEMU", "2")  # read when pylon is loaded

TIMEOUT = 0.06
LATE, LOST, DAMAGED = 0.06, 0.02, 0.01  # shares of the frames


class Jitter:
    """The emulated camera behind a bad wire. exposures: since it was opened; the emulator draws this number
    into the first pixel."""

    def __init__(self, settings: CameraSettings, random: Random, fates: Counter[str]):
        from flawscope.station.industrial.pylon import Pylon

        self._inner, self._random, self._fates = Pylon(settings), random, fates
        self._held: deque[tuple[float, Numbered]] = deque()
        self.exposures = 0

    def trigger(self) -> None:
        self._inner.trigger()
        self.exposures += 1

    def next(self, seconds: float) -> Numbered | None:
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

    def _hold(self, frame: Numbered) -> None:
        draw, delay, fate = self._random.random(), self._random.uniform(0, 0.005), "in time"
        if self.exposures > 1 and draw < LATE:
            fate, delay = "late", self._random.uniform(1.0, 2.0) * TIMEOUT
        elif self.exposures > 1 and draw < LATE + LOST:
            fate = "lost"
        elif self.exposures > 1 and draw < LATE + LOST + DAMAGED:
            fate, frame = "damaged", Numbered(frame.number, None)
        self._fates[fate] += 1
        if fate != "lost":
            due = max(time.monotonic() + delay, self._held[-1][0] if self._held else 0.0)
            self._held.append((due, frame))

    def close(self) -> None:
        self._inner.close()


def camera(settings: CameraSettings, opening: Callable[[CameraSettings], Any]) -> IndustrialCamera:
    """A started camera that belongs to no station: what it hands in is taken at once."""
    taken: Future[Any] = Future()
    taken.set_result(None)
    line: Any = Line(1, lambda _: [taken], lambda *_: None, None, Share(Limits()))  # type: ignore[arg-type]
    made = IndustrialCamera(line, settings, 1, opening)
    made.start()
    return made


def first_pixel(shot: Any) -> int:
    return int(shot.frame.to_ndarray().flat[0])


def triggered(count: int, seed: int = 0) -> dict[str, int]:
    """Trigger until so many were answered; return how many got the frame that was exposed for them, and what
    happened to all."""
    random, fates, opened = Random(seed), Counter[str](), list[Jitter]()

    def opening(settings: CameraSettings) -> Jitter:
        opened.append(Jitter(settings, random, fates))
        return opened[-1]

    settings = CameraSettings("0815-0000", timeout=f"{TIMEOUT * 1000:.0f} ms", format="Mono8")
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
