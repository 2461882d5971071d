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

    serial: number on the camera; None: the only one there is.
    trigger: `software`, by the station, or `hardware line 1`, by a signal at that input.
    exposure: such as `5 ms`; None: as the camera is set. gain: as the camera counts it.
    timeout: time from a trigger in which the frame must be there.
    format: of pixels, as the camera names it, such as Mono12; None: as the camera is set.
    view: of a part, which all frames show.
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
        _ = self.frame_timeout, self.exposure_microseconds

    @property
    def every(self) -> str:
        """Frames that are taken without a request: all of a signal at the camera, or none."""
        return ON_TRIGGER if self.trigger == SOFTWARE_TRIGGER else EVERY_FRAME

    frame_interval = None  # every frame is taken

    @property
    def frame_timeout(self) -> float:
        return time_of(self.timeout, "timeout", "a time such as 1 s")

    @property
    def exposure_microseconds(self) -> float | None:
        example = "a time such as 5 ms"
        return None if self.exposure is None else 1e6 * time_of(self.exposure, "exposure", example)

    @property
    def trigger_source(self) -> str:
        """Source of the trigger, as GenICam names it."""
        return "Software" if self.trigger == SOFTWARE_TRIGGER else f"Line{self.trigger[-1]}"

    @property
    def display_name(self) -> str:
        return self.serial or "the only one"
