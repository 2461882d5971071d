"""Industrial cameras: pylon's emulated ones, and Aravis' fake one over GigE Vision, in another process."""

from __future__ import annotations

import io
import os
from collections import deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from av import VideoFrame
from PIL import Image

from flawscope.errors import InputError
from flawscope_line.industrial_cameras import BASLER, GENICAM
from flawscope_line.industrial_cameras.camera import NumberedFrame, frames_after
from flawscope_line.industrial_cameras.settings import IndustrialCameraSettings
from flawscope_station.sources.frames import CameraLostError
from flawscope_station.sources.source import RUNNING, CameraFrozenError, NoFrameError
from flawscope_station.testing import check_source
from industrial_cameras_helpers import SERIAL, camera, first_pixel
from station_helpers import until

os.environ.setdefault("PYLON_CAMEMU", "2")  # read when pylon is loaded

from industrial_cameras_helpers import (
    basler_fixture,  # noqa: F401
    fake_fixture,  # noqa: F401
    opening_fixture,  # noqa: F401
)


def test_a_frame_that_came_too_late_and_comes_again_is_frozen():
    """It answered no trigger, and was exposed before the next one all the same."""
    frames, number = deque[NumberedFrame](), 0
    shades: deque[tuple[int, bool]] = deque([(1, False), (2, True), (2, False)])  # and whether it is late
    late: list[NumberedFrame] = []

    def trigger() -> None:
        nonlocal number
        number += 1
        frames.extend(late)
        late.clear()
        if shades:
            shade, is_late = shades.popleft()
            picture = VideoFrame.from_ndarray(np.full((4, 4), shade, np.uint8), format="gray")
            (late if is_late else frames).append(NumberedFrame(number, picture))

    device = SimpleNamespace(
        trigger=trigger, next=lambda seconds: frames.popleft() if frames else None, close=lambda: None
    )
    there = camera(IndustrialCameraSettings(timeout="1 ms"), lambda settings: device)
    try:
        until(lambda: there.state.state == RUNNING)
        with pytest.raises(NoFrameError):
            there.next_shot().result(20)
        with pytest.raises(CameraFrozenError):
            there.next_shot().result(20)
    finally:
        there.stop()


@pytest.mark.parametrize(
    ("last", "number", "step"), [(4, 5, 1), (65535, 1, 1), (65533, 2, 4), (9, 7, -2), (65600, 65601, 1)]
)
def test_frame_numbers_begin_again_where_they_end(last, number, step):
    assert frames_after(last, number) == step


@pytest.mark.parametrize("name", ["basler", "genicam"])
def test_they_keep_the_sources_contract(name, request, model_file):
    given: dict[str, Any] = {"serial": SERIAL[name]}
    if name == "basler":
        request.getfixturevalue("basler")
        check_source(BASLER, given, model_file)
    else:
        fake = request.getfixturevalue("fake")
        check_source(GENICAM, given, model_file, away=fake.off, back=fake.on)


def test_two_cameras_at_once(basler):
    from flawscope_line.industrial_cameras.pylon import PylonDevice

    both = [camera(IndustrialCameraSettings(serial), PylonDevice) for serial in ("0815-0000", "0815-0001")]
    try:
        until(lambda: all(one.state.state == RUNNING for one in both))
        for number in range(2, 6):  # the first frame was nobody's
            assert [first_pixel(one.next_shot().result(20)) for one in both] == [number] * 2
    finally:
        for one in both:
            one.stop()


def test_pixel_formats_become_pictures(opening, request):
    """Grey keeps its depth, at full scale; Bayer and colour become RGB."""
    from flawscope_station.sources.frames import encode_png

    rgb = "RGB8" if "genicam" in request.node.name else "RGB8Packed"
    deep = ("Mono16",) if "genicam" in request.node.name else ("Mono10", "Mono12", "Mono16")
    for name in ("Mono8", *deep, "BayerRG8", rgb):
        device = opening(format=name, exposure="5 ms", gain=1)
        device.trigger()
        frame = device.next(5)
        device.close()
        array = np.asarray(Image.open(io.BytesIO(encode_png(frame.picture, 10**8))))
        assert array.ndim == (2 if name.startswith("Mono") else 3), name
        assert array.dtype == (np.uint16 if name in deep else np.uint8), name
        if name in deep and "genicam" not in request.node.name:
            assert array.max() > 0.99 * 65535, name


WRONG: tuple[tuple[dict[str, Any], str], ...] = (
    ({"serial": "4711"}, "there is no such camera: .* found"),
    ({"format": "Mono9"}, "format: the camera has no Mono9: did you mean Mono8"),
    ({"exposure": "10 h"}, "xposure"),
    ({"gain": 1e9}, "ain"),
    ({"trigger": "hardware line 9"}, "Line9"),
)


@pytest.mark.parametrize(("given", "said"), WRONG)
def test_what_a_camera_lacks_is_one_line(opening, given, said):
    with pytest.raises((InputError, CameraLostError), match=said) as caught:
        opening(**given)
    assert "\n" not in str(caught.value)
    opening().close()  # it was let go of


@pytest.mark.parametrize(
    "given", [{"trigger": "line"}, {"exposure": "5"}, {"timeout": "soon"}, {"shutter": "5 ms"}]
)
def test_a_wrong_setting_is_refused(given):
    with pytest.raises(InputError, match=next(iter(given))):
        BASLER.read(given, Path())
