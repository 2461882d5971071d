"""What the tests of cameras share: videos that they draw, a camera on the network to cut, and what a station
says of its sources."""

import io
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import suppress
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import httpx
import numpy as np
import pytest
from PIL import Image

from flawscope_station.settings.sources import CameraSourceSettings, FolderSourceSettings
from flawscope_station.settings.station import Limits, ProductSettings, Settings
from flawscope_station.sources.source import QueueShare, SourceContext
from station_helpers import free_port

PASSWORD = "s3cr/et @x"  # of the camera


def source_context() -> SourceContext:
    """Of a camera that belongs to no station: what it hands in is taken at once."""
    taken: Future[Any] = Future()
    taken.set_result(None)
    store: Any = SimpleNamespace(note_event=lambda *event: None)
    return SourceContext(1, lambda _: taken, lambda *_, **__: None, store, QueueShare(Limits()))


def shade(number: int) -> tuple[int, int, int]:
    return (40 + 37 * number % 200, 30 + 91 * number % 200, 50 + 11 * number % 190)


def write_video(
    path: Path,
    count: int = 40,
    size: tuple[int, int] = (96, 64),
    first: int = 0,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    **options: str,
) -> Path:
    """Frames of one colour each, 25 a second, with a red corner at the top left."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = *size, pixels
        for number in range(count):
            array = np.empty((size[1], size[0], 3), np.uint8)
            array[:] = shade(first + number)
            array[:8, :16] = (255, 0, 0)
            frame = av.VideoFrame.from_ndarray(array, format="rgb24").reformat(format=pixels)
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def with_sources(
    settings: Settings, *sources: FolderSourceSettings | CameraSourceSettings
) -> dict[str, ProductSettings]:
    return {"plate": ProductSettings(settings.products["plate"].model, sources=sources)}


def sources(url: str) -> list[dict[str, Any]]:
    return list(httpx.get(f"{url}/api/v1/products/plate", timeout=30).json()["sources"])


class Rtsp:
    """A camera on the network, to cut."""

    def __init__(self, *words: str):
        self.port, self.words = free_port(), words
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        program = Path(__file__).with_name("rtsp_server.py")
        command = ["/usr/bin/python3", str(program), str(self.port), *(self.words or ("ball",))]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe)
        line = self.process.stdout.readline()
        if not line:
            pytest.skip(
                "no RTSP server: apt-get install python3-gi gir1.2-gst-rtsp-server-1.0 "
                "gstreamer1.0-plugins-good gstreamer1.0-plugins-ugly"
            )

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def say(self, word: str) -> None:
        """One of the words that the pattern `clock` knows."""
        self.process.stdin.write(f"{word}\n".encode())
        self.process.stdin.flush()

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(20)
            for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
                if pipe is not None:
                    pipe.close()
            self.process = None


@pytest.fixture(name="rtsp")
def rtsp_fixture():
    if sys.platform != "linux" or not Path("/usr/bin/python3").exists():
        pytest.skip("the RTSP server is a Linux distribution's: nothing to install")
    made = Rtsp("ball", "anna", PASSWORD)
    made.start()
    yield made
    made.kill()


CELL, BITS = 16, 32  # pixels of a square, and squares of the number that a frame shows


class DelayedCamera:
    """MJPEG over HTTP, as a camera that is behind sends it: each frame shows when it was exposed, and what
    the light was then. It is sent `behind` seconds later.

    light: 0 to 255, below the number.
    is_frozen: it sends its last frames again and again, `turns` of them in turn, also to those that open it
    anew.
    is_silent: it sends nothing. is_away: nor does it stay connected.
    repeated_at: when it began to send a frame again, as `time.monotonic` counts.
    sent: by `exposed_at`, seconds from exposure until the frame was sent: a busy computer adds to `behind`.
    """

    def __init__(self, behind: float, rate: float = 25.0):
        self.behind, self.rate, self.light = behind, rate, 0
        self.is_frozen, self.turns, self._last = False, 1, deque[bytes](maxlen=3)
        self.is_silent = self.is_away = False
        self.repeated_at: list[float] = []
        self.sent: dict[float, float] = {}
        self._ended = threading.Event()
        camera = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                with suppress(OSError):
                    for data in camera._frames():
                        head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                        self.wfile.write(head.encode() + data + b"\r\n")

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/"

    def close(self) -> None:
        self._ended.set()
        self._server.shutdown()
        self._server.server_close()

    def _frames(self) -> Iterator[bytes]:
        """Expose a frame at each beat, and yield it when it is due, whatever became late meanwhile."""
        exposed: deque[tuple[float, bytes]] = deque()
        beat, was_repeat = time.monotonic(), False
        while not self._ended.is_set():
            beat = max(beat + 1 / self.rate, time.monotonic() - 0.2)
            while exposed and exposed[0][0] + self.behind <= beat:
                self._ended.wait(exposed[0][0] + self.behind - time.monotonic())
                at, data = exposed.popleft()
                if self.is_away:
                    return
                if self.is_silent:
                    continue
                is_repeat = self.is_frozen and bool(self._last)
                if is_repeat and not was_repeat:
                    self.repeated_at.append(time.monotonic())
                was_repeat = is_repeat
                self._last.append(self._last[-min(self.turns, len(self._last))] if is_repeat else data)
                yield self._last[-1]  # the next one is asked for when it is sent
                self.sent[_shown_time(at) / 1e4] = time.monotonic() - at
            self._ended.wait(beat - time.monotonic())
            exposed.append((at := time.monotonic(), self._draw(at)))

    def _draw(self, at: float) -> bytes:
        number = _shown_time(at)
        picture = np.zeros((2 * CELL, BITS * CELL), np.uint8)
        for bit in range(BITS):
            picture[:CELL, bit * CELL : (bit + 1) * CELL] = 255 * (number >> bit & 1)
        picture[CELL:] = self.light
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "JPEG", quality=90)
        return buffer.getvalue()


def _shown_time(at: float) -> int:
    return int(at * 1e4) % 2**BITS


def exposed_at(frame: Any) -> float:
    """When a frame of a `DelayedCamera` was exposed, as `time.monotonic` counts."""
    return time_in(frame.to_ndarray(format="gray"))


def time_in(picture: np.ndarray[Any, Any]) -> float:
    """The same of its grey values."""
    row = picture[CELL // 2, CELL // 2 :: CELL]
    return sum(1 << bit for bit in range(BITS) if row[bit] > 127) / 1e4
