"""What the tests of cameras share: videos that they draw, a camera on the network to cut, and what a station
says of its sources."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from station_helpers import free_port

from flawscope.station.settings.sources import CameraSourceSettings, FolderSourceSettings
from flawscope.station.settings.station import ProductSettings, Settings

av = pytest.importorskip("av")

PASSWORD = "s3cr/et @x"  # of the camera


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


def problems(url: str) -> dict[str, str]:
    found = httpx.get(f"{url}/api/v1/status", timeout=30).json()["problems"]
    return {one["code"]: one["text"] for one in found}


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
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            assert self.process.stderr is not None
            said = self.process.stderr.read().decode().strip().splitlines()[-1:]
            pytest.skip(
                f"GStreamer's RTSP server does not run ({said}): apt-get install python3-gi "
                "gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-good gstreamer1.0-plugins-ugly"
            )

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(20)
            for pipe in (self.process.stdout, self.process.stderr):
                if pipe is not None:
                    pipe.close()
            self.process = None


@pytest.fixture(name="rtsp")
def rtsp_fixture() -> Iterator[Rtsp]:
    if sys.platform != "linux" or not Path("/usr/bin/python3").exists():
        pytest.skip("the RTSP server is taken from a Linux distribution")
    made = Rtsp("ball", "anna", PASSWORD)
    made.start()
    yield made
    made.kill()
