"""Industrial cameras as sources: Basler's (extra `basler`), and GigE Vision and USB3 Vision at large, by
Aravis (extra `genicam`): docs/station-cameras.md.

Two plugins of the group `flawscope.sources`, which share all but the library. Importing this loads neither.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flawscope.errors import InputError, require_installed
from flawscope_station.plugins import EVERY_FRAME, ON_TRIGGER, Plugin, time_of

if TYPE_CHECKING:
    from flawscope_line.industrial_cameras.camera import DeviceFactory
    from flawscope_station.plugins import LiveCamera, SourceContext

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


def make_camera(
    line: SourceContext, settings: IndustrialCameraSettings, number: int, opener: DeviceFactory
) -> LiveCamera:
    """Return a camera that the station triggers, or a signal. opener: opens the device."""
    from flawscope_line.industrial_cameras.camera import TriggeredCamera
    from flawscope_line.industrial_cameras.signalled import SignalledCamera

    kind = TriggeredCamera if settings.trigger == SOFTWARE_TRIGGER else SignalledCamera
    return kind(line, settings, number, opener)


def _open_basler(line: SourceContext, settings: IndustrialCameraSettings, number: int) -> LiveCamera:
    require_installed("a Basler camera", "pypylon", extras="basler", package="flawscope-line")
    from flawscope_line.industrial_cameras.pylon import PylonDevice

    return make_camera(line, settings, number, PylonDevice)


def _open_genicam(line: SourceContext, settings: IndustrialCameraSettings, number: int) -> LiveCamera:
    require_installed("a GenICam camera", "gi", extras="genicam", package="flawscope-line")
    from flawscope_line.industrial_cameras.aravis import AravisDevice, load_aravis

    load_aravis()
    return make_camera(line, settings, number, AravisDevice)


BASLER = Plugin("basler", IndustrialCameraSettings, _open_basler)
GENICAM = Plugin("genicam", IndustrialCameraSettings, _open_genicam)
