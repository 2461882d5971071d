"""Latency of a camera, from the exposure of a frame until it is decoded, measured with a screen that it sees.

A browser under the camera, on a telephone for instance, shows a page that turns black and white as it is
told. What the network and the screen add is measured, too: the latency is never taken for too short.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from flawscope.errors import FlawscopeError, InputError
from flawscope_station.settings.sources import CameraSourceSettings
from flawscope_station.sources.frames import FrameReader

CHANGES = 12  # changes between black and white
SECONDS_APART = (3.0, 4.0)  # between two of them, drawn at random: a latency must be shorter
MIN_CONTRAST = 4.0  # between black and white, of 255 and in standard deviations of the frames' brightness
SIDE = 64  # pixels to which a frame is reduced for its brightness
POLL_SECONDS = 20.0  # seconds for which a browser's question stays open
PAGE = b"""<!doctype html><title>Light</title><meta name="viewport" content="width=device-width"><body>
<script>
async function follow(state) {
  for (;;) {
    try {
      state = await (await fetch("/light?" + state)).text();
      document.body.style.background = state === "1" ? "white" : "black";
    } catch (error) { await new Promise((go) => setTimeout(go, 500)); }
  }
}
follow("");
</script></body>"""


@dataclass(frozen=True)
class Latency:
    """Latency of a camera.

    shortest, longest: seconds from a change of the light to the first frame that shows it, of all changes.
    interval: median seconds between two frames.
    """

    shortest: float
    longest: float
    interval: float

    @property
    def setting(self) -> float:
        """Seconds to write as `latency`: the longest, and as much more as it varies beyond the time between
        two frames, within which a change falls at random."""
        jitter = max(0.0, self.longest - self.shortest - self.interval)
        return math.ceil(100 * (self.longest + jitter)) / 100


def latency_of(frames: Sequence[tuple[float, float]], changes: Sequence[tuple[float, bool]]) -> Latency:
    """Return the latency of a camera.

    Args:
        frames: when each was there, in seconds, and its brightness from 0 to 255.
        changes: when the light was told to go on (True) or off, by the same clock.

    Raises:
        InputError: the frames do not follow the light.
    """
    times, values = (np.array(column) for column in zip(*frames, strict=True))
    ends = [at for at, _ in changes[1:]] + [float(times[-1])]
    windows = [(times > at) & (times <= end) for (at, _), end in zip(changes, ends, strict=True)]
    settled: dict[bool, list[float]] = {True: [], False: []}
    for window, (_, is_on) in zip(windows, changes, strict=True):
        settled[is_on].extend(values[window][-max(1, window.sum() // 4) :])
    dark, bright = (float(np.median(settled[is_on])) for is_on in (False, True))
    noise = max(float(np.std(settled[is_on])) for is_on in (False, True))
    if bright - dark < MIN_CONTRAST * max(1.0, noise):
        raise InputError(
            f"the camera does not follow the light: {bright:.0f} of 255 where it is white, {dark:.0f} where "
            "it is black; fill its view with the page, darken the room, and set its exposure fixed"
        )
    delays = []
    for window, (at, is_on) in zip(windows, changes, strict=True):
        differs = (values[window] > (dark + bright) / 2) != is_on
        if not len(differs) or differs[-1]:
            raise InputError(
                "the camera is seconds behind, or frames were lost: see to its network, and measure again"
            )
        first = np.flatnonzero(differs)[-1] + 1 if differs.any() else 0
        delays.append(float(times[window][first]) - at)
    return Latency(min(delays), max(delays), float(np.median(np.diff(times))))


def measure_latency(
    camera: CameraSourceSettings,
    pixels: int,
    set_light: Callable[[bool], float],
    changes: int = CHANGES,
    seconds_apart: tuple[float, float] = SECONDS_APART,
) -> Latency:
    """Change the light at random moments while a camera is read, and return its latency.

    Args:
        pixels: of a frame, at most.
        set_light: turns the light on or off, and returns when, as `time.monotonic` counts.

    Raises:
        InputError: the camera gives too few frames, or does not follow the light. CameraLostError.
    """
    seen: list[tuple[float, float]] = []
    errors: list[Exception] = []
    ended, rng = threading.Event(), random.Random()

    def read() -> None:
        try:
            with closing(FrameReader(camera, pixels)) as frames:
                for frame in frames:
                    if ended.is_set():
                        return
                    if frame is not None and frames.arrived > 0:
                        at = time.monotonic()  # `arrived` may be before: the latency would be too short
                        small = frame.reformat(SIDE, SIDE, "gray").to_ndarray()
                        seen.append((at, float(small.mean())))
        except Exception as error:
            errors.append(error)
        finally:
            ended.set()

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    told: list[tuple[float, bool]] = []
    set_light(False)
    ended.wait(seconds_apart[1])
    for number in range(changes):
        if not ended.is_set():
            told.append((set_light(number % 2 == 0), number % 2 == 0))
            ended.wait(rng.uniform(*seconds_apart))
    was_cut = ended.is_set()
    ended.set()
    thread.join(camera.frame_timeout + 1)
    if errors and isinstance(errors[0], FlawscopeError):
        raise errors[0]
    if was_cut or len(seen) < changes:
        raise InputError("the camera sent too few frames: see that it is on, and measure again")
    return latency_of(seen, told)


class LightPage:
    """Server of a page that is black or white as it is told.

    Attributes:
        opened: set when a browser shows the page.
    """

    def __init__(self, host: str, port: int):
        self.opened = threading.Event()
        self._changed, self._is_on = threading.Condition(), False
        page = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                kind = "text/html" if self.path == "/" else "text/plain"
                data = PAGE if self.path == "/" else page._wait_for_change(self.path.partition("?")[2])
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                self.send_header("Cache-Control", "no-store")
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: Any) -> None:
                pass

        try:
            self._server = ThreadingHTTPServer((host, port), Handler)
        except OSError as error:
            raise InputError(
                f"{host}:{port} cannot be used: {error.strerror}; choose another --port"
            ) from None
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def set_light(self, is_on: bool) -> float:
        """Turn the page white or black; return when, as `time.monotonic` counts."""
        with self._changed:
            self._is_on, at = is_on, time.monotonic()
            self._changed.notify_all()
        return at

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _wait_for_change(self, state: str) -> bytes:
        """Return the light when it is another than a browser shows."""
        self.opened.set()
        with self._changed:
            self._changed.wait_for(lambda: str(int(self._is_on)) != state, POLL_SECONDS)
            return str(int(self._is_on)).encode()
