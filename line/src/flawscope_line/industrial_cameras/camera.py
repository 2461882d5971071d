"""Triggers, frame numbers and reconnecting of industrial cameras, for any camera library.

A camera numbers its exposures. With a software trigger the station alone orders them, one at a time, and
knows the number of the frame that a trigger exposes: the number after the last. No other frame answers it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from typing_extensions import override

from flawscope.errors import InputError, join_names, suggest_name
from flawscope_line.industrial_cameras.settings import IndustrialCameraSettings
from flawscope_station.plugins import (
    CHECK_INTERVAL,
    FROZEN,
    Backoff,
    CameraLostError,
    LiveCamera,
    NoFrameError,
    Shot,
    SourceContext,
    Trigger,
)

if TYPE_CHECKING:
    from av import VideoFrame

MAX_FRAME_NUMBER = 65535  # number after which GigE Vision begins again at 1
MAX_MISSED_FRAMES = 2  # triggers in a row without a frame; then the camera is opened anew


@dataclass(frozen=True)
class NumberedFrame:
    """Frame with its number from the camera.

    Attributes:
        number: The frame's number.
        picture: The frame; None where parts of it did not arrive.
        clock: Ticks of the camera's clock at the exposure; None: the camera has no clock.
    """

    number: int
    picture: VideoFrame | None
    clock: int | None = None


class Device(Protocol):
    """Open camera that waits for triggers, for one thread. Methods raise CameraLostError where it fails."""

    def trigger(self) -> None:
        """Trigger an exposure, as soon as the camera is ready."""

    def next(self, seconds: float) -> NumberedFrame | None:
        """Return the oldest frame that was not returned yet; None: there is none within `seconds`."""

    def close(self) -> None:
        """Close the camera, so that others can open it."""


DeviceFactory = Callable[[IndustrialCameraSettings], Device]


def frames_after(last: int, number: int) -> int:
    """Return the number of frames from frame `last` to frame `number`; 0 or less: it is not newer."""
    step = number - last
    return step + MAX_FRAME_NUMBER if step < -MAX_FRAME_NUMBER // 2 else step


def select_camera(settings: IndustrialCameraSettings, serials: list[str]) -> int:
    """Return the index of the camera that the settings name. CameraLostError where it is not there."""
    found = join_names(serials) or "none"
    if settings.serial is not None:
        if settings.serial not in serials:
            raise CameraLostError(f"there is no such camera: {found} found; see its cable, power and network")
        return serials.index(settings.serial)
    if len(serials) != 1:
        why = "name one by its `serial`" if serials else "see its cable, power and network"
        raise CameraLostError(f"it is not the only camera: {found} found; {why}")
    return 0


def check_pixel_format(name: str, known: list[str]) -> None:
    """Raise an InputError for a pixel format that the camera does not have."""
    if name not in known:
        raise InputError(f"format: the camera has no {name:.60}: {suggest_name(name, known)}")


class TriggeredCamera(LiveCamera):
    """Source of a frame for each trigger of the station."""

    def __init__(
        self, line: SourceContext, settings: IndustrialCameraSettings, number: int, opener: DeviceFactory
    ):
        super().__init__(line, settings, number)
        self.state.takes = settings.trigger
        self._settings = settings
        self._open_device = opener

    @override
    def _run_session(self, backoff: Backoff) -> str:
        with closing(self._open_device(self._settings)) as device:
            self._answer_triggers(device, backoff)
        return "the station ends"

    @override
    def _check_silence(self) -> None:
        """Do nothing: parts may stand still for hours, and the device says by itself that it is gone."""

    def _answer_triggers(self, device: Device, backoff: Backoff) -> None:
        """Trigger an exposure for waiting triggers, repeatedly until the station ends."""
        # the first frame shows that the camera answers, and its number; it answers no trigger
        first = self._take_first(device)
        # ordered: exposures after the last frame
        last = first.number
        ordered = 0
        missed_in_row = 0
        backoff.reset()
        self._mark_running()
        if not self._is_new_frame(first) and first.picture is not None:
            self._handle_repeat({})
        while not self._ended.is_set():
            self._go_on()
            with self._changed:
                self._changed.wait_for(lambda: self._triggers or self._ended.is_set(), CHECK_INTERVAL)
            while late := device.next(0):
                last, ordered = late.number, max(0, ordered - frames_after(last, late.number))
                self._is_new_frame(late)
            triggers = self._take_triggers()
            if not triggers and self.state.state != FROZEN:  # a frozen one shows by a frame that it is back
                continue
            try:
                device.trigger()
                ordered += 1
                frame = self._wait_for_frame(device, last, ordered)
            except Exception as error:
                self._fail_triggers(triggers, str(error))
                raise
            if frame is None:
                missed_in_row += 1
                self._fail_triggers(triggers, self._no_frame_text)
                if missed_in_row >= MAX_MISSED_FRAMES:
                    raise CameraLostError(self._no_frame_text)
                continue
            self._answer_with(frame, triggers, frames_after(last, frame.number) == ordered)
            last = frame.number
            ordered = 0
            missed_in_row = 0

    def _answer_with(
        self, frame: NumberedFrame, triggers: dict[Future[Shot], Trigger], is_awaited: bool
    ) -> None:
        """Answer triggers with a frame; `is_awaited`: whether the frame is of the last exposure."""
        is_new = self._is_new_frame(frame)
        if frame.picture is None or not is_awaited:
            self._fail_triggers(triggers, "it did not arrive whole")
        elif is_new:
            self._handle_frame(frame.picture, triggers)
        else:
            self._handle_repeat(triggers)

    def _take_first(self, device: Device) -> NumberedFrame:
        """Return the first frame of a device. CameraLostError where none comes."""
        device.trigger()
        first = device.next(self.settings.frame_timeout)
        if first is None:
            raise CameraLostError(self._no_frame_text)
        return first

    def _wait_for_frame(self, device: Device, last: int, ordered: int) -> NumberedFrame | None:
        """Return the frame of the newest exposure, or a later one; None: there is none in time."""
        deadline = time.monotonic() + self.settings.frame_timeout
        while frame := device.next(max(0.0, deadline - time.monotonic())):
            if frames_after(last, frame.number) >= ordered:
                return frame
            self._is_new_frame(frame)
        return None

    def _is_new_frame(self, frame: NumberedFrame) -> bool:
        """Whether a frame is whole and differs from the frame before.

        Every frame is remembered, also one that came too late to answer a trigger: the camera may send it
        again.
        """
        return frame.picture is not None and self._is_new(frame.picture, frame.clock)

    def _fail_triggers(self, triggers: Iterable[Future[Shot]], why: str) -> None:
        self.state.broken += 1
        for trigger in triggers:
            trigger.set_exception(NoFrameError(f"the frame of {self._label} is lost: {why}; trigger again"))

    @property
    def _no_frame_text(self) -> str:
        return f"none came within {self.settings.frame_timeout:g} s after a trigger"
