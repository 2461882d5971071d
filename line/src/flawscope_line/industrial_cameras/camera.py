"""Triggers, frame numbers and reconnecting of industrial cameras, for any camera library.

A camera numbers its exposures. With a software trigger the station alone orders them, one at a time, and
knows the number of the frame that a trigger exposes: the number after the last. No other frame answers the
trigger.
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
MAX_MISSED_FRAMES = 2  # triggers in a row without a frame, after which the camera is opened again


@dataclass(frozen=True)
class NumberedFrame:
    """Frame with its number from the camera.

    Attributes:
        number: Number of the frame.
        picture: The frame; None: parts of it did not arrive.
        clock: Ticks of the camera's clock at the exposure; None: the camera has no clock.
    """

    number: int
    picture: VideoFrame | None
    clock: int | None = None


class Device(Protocol):
    """Open camera that waits for triggers, used by one thread.

    Its methods raise CameraLostError where the camera fails.
    """

    def trigger(self) -> None:
        """Trigger an exposure, as soon as the camera is ready."""

    def next(self, seconds: float) -> NumberedFrame | None:
        """Return the oldest frame that was not returned yet; None: none comes within `seconds`."""

    def close(self) -> None:
        """Close the camera, so that another program can open it."""


DeviceFactory = Callable[[IndustrialCameraSettings], Device]


def frames_after(last: int, number: int) -> int:
    """Return the number of frames from frame `last` to frame `number`; 0 or less: `number` is not newer."""
    step = number - last
    has_begun_again = step < -MAX_FRAME_NUMBER // 2  # the camera counts from 1 again
    return step + MAX_FRAME_NUMBER if has_begun_again else step


def select_camera(settings: IndustrialCameraSettings, serials: list[str]) -> int:
    """Return the index of the camera that the settings select.

    Args:
        settings: Settings of the camera.
        serials: Serial numbers of the cameras that are connected.

    Raises:
        CameraLostError: The camera is not connected; or no `serial` is set, and there is not exactly one
            camera.
    """
    found_serials = join_names(serials) or "none"
    if settings.serial is not None:
        if settings.serial not in serials:
            raise CameraLostError(
                f"there is no such camera: {found_serials} found; see its cable, power and network"
            )
        return serials.index(settings.serial)
    if len(serials) != 1:
        remedy = "name one by its `serial`" if serials else "see its cable, power and network"
        raise CameraLostError(f"it is not the only camera: {found_serials} found; {remedy}")
    return 0


def check_pixel_format(name: str, available_formats: list[str]) -> None:
    """Raise an InputError for a pixel format that the camera does not have."""
    if name not in available_formats:
        raise InputError(f"format: the camera has no {name:.60}: {suggest_name(name, available_formats)}")


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
        """Trigger an exposure when triggers wait, and answer them with its frame, until the station ends."""
        # the first frame shows that the camera works, and where its numbers begin; it answers no trigger
        first_frame = self._take_first_frame(device)
        last_number = first_frame.number
        exposure_count = 0  # exposures that were ordered since the frame `last_number`
        missed_in_row = 0
        backoff.reset()
        self._mark_running()
        is_new = self._remember_frame(first_frame)
        if not is_new and first_frame.picture is not None:
            self._handle_repeat({})
        while not self._ended.is_set():
            self._note_progress()
            with self._changed:
                self._changed.wait_for(lambda: self._triggers or self._ended.is_set(), CHECK_INTERVAL)
            # frames that came too late for their triggers: their exposures are not awaited any more
            while late_frame := device.next(0):
                exposure_count = max(0, exposure_count - frames_after(last_number, late_frame.number))
                last_number = late_frame.number
                self._remember_frame(late_frame)
            triggers = self._take_triggers()
            # a frozen camera is triggered without a request, too: a new frame shows that it is back
            if not triggers and self.state.state != FROZEN:
                continue
            try:
                device.trigger()
                exposure_count += 1
                frame = self._wait_for_frame(device, last_number, exposure_count)
            except Exception as error:
                self._fail_triggers(triggers, str(error))
                raise
            if frame is None:
                missed_in_row += 1
                self._fail_triggers(triggers, self._no_frame_text)
                if missed_in_row >= MAX_MISSED_FRAMES:
                    raise CameraLostError(self._no_frame_text)
                continue
            is_awaited = frames_after(last_number, frame.number) == exposure_count
            self._answer_with(frame, triggers, is_awaited=is_awaited)
            last_number = frame.number
            exposure_count = 0
            missed_in_row = 0

    def _answer_with(
        self, frame: NumberedFrame, triggers: dict[Future[Shot], Trigger], *, is_awaited: bool
    ) -> None:
        """Answer triggers with a frame; `is_awaited`: whether the frame is of the last exposure."""
        is_new = self._remember_frame(frame)
        if frame.picture is None or not is_awaited:
            self._fail_triggers(triggers, "it did not arrive whole")
        elif is_new:
            self._handle_frame(frame.picture, triggers)
        else:
            self._handle_repeat(triggers)

    def _take_first_frame(self, device: Device) -> NumberedFrame:
        """Trigger the first exposure of a device, and return its frame.

        Raises:
            CameraLostError: No frame comes.
        """
        device.trigger()
        frame = device.next(self.settings.frame_timeout)
        if frame is None:
            raise CameraLostError(self._no_frame_text)
        return frame

    def _wait_for_frame(self, device: Device, last_number: int, exposure_count: int) -> NumberedFrame | None:
        """Return the frame of the newest exposure, or a later frame; None: none comes in time.

        Args:
            device: Camera that was triggered.
            last_number: Number of the last frame.
            exposure_count: Exposures that were ordered since that frame.
        """
        deadline = time.monotonic() + self.settings.frame_timeout
        while frame := device.next(max(0.0, deadline - time.monotonic())):
            if frames_after(last_number, frame.number) >= exposure_count:
                return frame
            self._remember_frame(frame)
        return None

    def _remember_frame(self, frame: NumberedFrame) -> bool:
        """Remember a frame; return whether it is whole and differs from the recent frames.

        A frame that came too late to answer a trigger is remembered, too: the camera may send it again.
        """
        return frame.picture is not None and self._remember_if_new(frame.picture, frame.clock)

    def _fail_triggers(self, triggers: Iterable[Future[Shot]], reason: str) -> None:
        self.state.broken += 1
        for future in triggers:
            future.set_exception(NoFrameError(f"the frame of {self._label} is lost: {reason}; trigger again"))

    @property
    def _no_frame_text(self) -> str:
        return f"none came within {self.settings.frame_timeout:g} s after a trigger"
