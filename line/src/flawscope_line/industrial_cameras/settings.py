"""Settings of an industrial camera."""

from __future__ import annotations

import re
from dataclasses import dataclass

from flawscope.errors import InputError
from flawscope_station.plugins import EVERY_FRAME, ON_TRIGGER, time_of

SOFTWARE_TRIGGER = "software"


@dataclass(frozen=True)
class IndustrialCameraSettings:
    """Settings of an industrial camera, the same for every library.

    Attributes:
        serial: Serial number of the camera; None: the only camera that is connected.
        trigger: `software`, by the station, or `hardware line 1`, by a signal at that input.
        exposure: Time such as `5 ms`; None: the camera's present setting.
        gain: Gain in the camera's own unit; None: the camera's present setting.
        timeout: Time from a trigger within which the frame must arrive.
        format: Camera's name of the pixel format, such as Mono12; None: the camera's present setting.
        view: View of a part that all frames show.
    """

    serial: str | None = None
    trigger: str = SOFTWARE_TRIGGER
    exposure: str | None = None
    gain: float | None = None
    timeout: str = "1 s"
    format: str | None = None
    view: str | None = None

    def __post_init__(self) -> None:
        if self.trigger != SOFTWARE_TRIGGER and not re.fullmatch(r"hardware line \d", self.trigger):
            raise InputError(f"trigger: {self.trigger!r:.60} is not software, or hardware line 1")
        _ = self.frame_timeout, self.exposure_microseconds  # they raise InputError for a bad setting

    @property
    def every(self) -> str:
        """Frames that are taken without a request: all if a signal triggers the camera, else none."""
        return ON_TRIGGER if self.trigger == SOFTWARE_TRIGGER else EVERY_FRAME

    frame_interval = None  # every frame is taken

    @property
    def frame_timeout(self) -> float:
        """Time `timeout` in seconds.

        Raises:
            InputError: The setting is not a time.
        """
        return time_of(self.timeout, "timeout", "a time such as 1 s")

    @property
    def exposure_microseconds(self) -> float | None:
        """Exposure in microseconds; None: the camera's present setting.

        Raises:
            InputError: The setting is not a time.
        """
        if self.exposure is None:
            return None
        return 1e6 * time_of(self.exposure, "exposure", "a time such as 5 ms")

    @property
    def trigger_source(self) -> str:
        """GenICam's name of the trigger's source: Software, or Line1."""
        return "Software" if self.trigger == SOFTWARE_TRIGGER else f"Line{self.trigger[-1]}"

    @property
    def display_name(self) -> str:
        """Name of the camera for a person: its serial number, or "the only one"."""
        return self.serial or "the only one"
