"""What unit and end-to-end tests need: test_industrial_cameras.py, whole/test_industrial_cameras_whole.py."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest

from camera_helpers import source_context
from flawscope_line.industrial_cameras import make_camera
from flawscope_line.industrial_cameras.settings import IndustrialCameraSettings
from flawscope_station.sources.camera import LiveCamera
from flawscope_station.sources.frames import CameraLostError

SERIAL = {"basler": "0815-0001", "genicam": "FV01"}
FAKE = "arv-fake-gv-camera-0.8"


def camera(
    settings: IndustrialCameraSettings, opening: Callable[[IndustrialCameraSettings], Any]
) -> LiveCamera:
    """A started camera that belongs to no station."""
    made = make_camera(source_context(), settings, 1, opening)
    made.start()
    return made


def first_pixel(shot: Any) -> int:
    return int(shot.frame.to_ndarray().flat[0])


class Fake:
    """Aravis' fake camera, to switch off."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None

    def on(self) -> None:
        try:
            self.process = subprocess.Popen([FAKE, "-i", "127.0.0.1", "-s", SERIAL["genicam"]])
        except FileNotFoundError:
            pytest.skip("no Aravis: apt-get install aravis-tools gir1.2-aravis-0.8")

    def off(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(20)


@pytest.fixture(name="fake")
def fake_fixture():
    pytest.importorskip("gi", reason="no GObject for this Python: pip install PyGObject")
    made = Fake()
    made.on()
    yield made
    made.off()


@pytest.fixture(name="basler")
def basler_fixture():
    pytest.importorskip("pypylon", reason='no pypylon: pip install "flawscope-line[basler]"')


@pytest.fixture(name="opening", params=["basler", "genicam"])
def opening_fixture(request):
    """Opens a camera with these settings, as soon as it answers."""
    name = request.param
    request.getfixturevalue("fake" if name == "genicam" else "basler")
    if name == "genicam":
        from flawscope_line.industrial_cameras.aravis import AravisDevice as Kind
    else:
        from flawscope_line.industrial_cameras.pylon import PylonDevice as Kind

    def opened(**given: Any) -> Any:
        settings, end = IndustrialCameraSettings(**{"serial": SERIAL[name], **given}), time.monotonic() + 20
        while True:
            try:
                return Kind(settings)
            except CameraLostError:
                if time.monotonic() > end or "serial" in given:
                    raise

    return opened
