"""Industrial cameras: pylon's emulated ones, and Aravis' fake one over GigE Vision, in another process."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from av import VideoFrame
from PIL import Image

from camera_helpers import source_context
from flawscope.errors import InputError
from flawscope_line.industrial_cameras import BASLER, GENICAM, IndustrialCameraSettings
from flawscope_line.industrial_cameras.camera import IndustrialCamera, NumberedFrame, frames_after
from flawscope_station.sources.frames import CameraLostError
from flawscope_station.sources.source import RUNNING, AwayError, CameraFrozenError, NoFrameError
from flawscope_station.testing import check_source
from station_helpers import until

os.environ.setdefault("PYLON_CAMEMU", "2")  # read when pylon is loaded

SERIAL = {"basler": "0815-0001", "genicam": "FV01"}
FAKE = "arv-fake-gv-camera-0.8"
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


def camera(
    settings: IndustrialCameraSettings, opening: Callable[[IndustrialCameraSettings], Any]
) -> IndustrialCamera:
    """A started camera that belongs to no station."""
    made = IndustrialCamera(source_context(), settings, 1, opening)
    made.start()
    return made


def first_pixel(shot: Any) -> int:
    return int(shot.frame.to_ndarray().flat[0])


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


class Fake:
    """Aravis' fake camera, to switch off."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None

    def on(self) -> None:
        try:
            self.process = subprocess.Popen([FAKE, "-i", "127.0.0.1", "-s", SERIAL["genicam"]])
        except FileNotFoundError:
            pytest.skip(f"{FAKE} is not installed: apt-get install aravis-tools gir1.2-aravis-0.8")

    def off(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(20)


@pytest.fixture(name="fake")
def fake_fixture():
    pytest.importorskip("gi")
    made = Fake()
    made.on()
    yield made
    made.off()


@pytest.fixture(name="basler")
def basler_fixture():
    pytest.importorskip("pypylon")


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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_camera_that_another_program_uses_says_so(fake):
    from flawscope_line.industrial_cameras.aravis import AravisDevice

    first = camera(IndustrialCameraSettings(SERIAL["genicam"]), AravisDevice)
    until(lambda: first.state.state == RUNNING)
    code = (
        "from flawscope_line.industrial_cameras.aravis import AravisDevice; "
        "from flawscope_line.industrial_cameras import IndustrialCameraSettings as Settings; "
        "AravisDevice(Settings('FV01'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "another program uses it: end that one" in done.stderr
    first.stop()
