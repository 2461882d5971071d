"""Industrial cameras as sources: docs/station-cameras.md.

There are two plugins of the group `flawscope.sources`: Basler's cameras (extra `basler`), and all GigE Vision
and USB3 Vision cameras, by Aravis (extra `genicam`). They share all code but that for the library. Importing
this package loads neither library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flawscope.errors import require_installed
from flawscope_line.industrial_cameras.settings import SOFTWARE_TRIGGER, IndustrialCameraSettings
from flawscope_station.plugins import Plugin

if TYPE_CHECKING:
    from flawscope_line.industrial_cameras.camera import DeviceFactory
    from flawscope_station.plugins import LiveCamera, SourceContext


def make_camera(
    line: SourceContext, settings: IndustrialCameraSettings, number: int, opener: DeviceFactory
) -> LiveCamera:
    """Return a camera, triggered by the station or by a signal.

    Args:
        line: Access to the station.
        settings: Settings of the camera.
        number: Number among the product's cameras, from 1.
        opener: Function that opens the device.
    """
    from flawscope_line.industrial_cameras.camera import TriggeredCamera
    from flawscope_line.industrial_cameras.signalled import SignalledCamera

    camera_class = TriggeredCamera if settings.trigger == SOFTWARE_TRIGGER else SignalledCamera
    return camera_class(line, settings, number, opener)


def _open_basler(line: SourceContext, settings: IndustrialCameraSettings, number: int) -> LiveCamera:
    """Make the source of a Basler camera; raise InputError where pypylon is not installed."""
    require_installed("a Basler camera", "pypylon", extras="basler", package="flawscope-line")
    from flawscope_line.industrial_cameras.pylon import PylonDevice

    return make_camera(line, settings, number, PylonDevice)


def _open_genicam(line: SourceContext, settings: IndustrialCameraSettings, number: int) -> LiveCamera:
    """Make the source of a GenICam camera; raise InputError where Aravis is not installed."""
    require_installed("a GenICam camera", "gi", extras="genicam", package="flawscope-line")
    from flawscope_line.industrial_cameras.aravis import AravisDevice, load_aravis

    load_aravis()
    return make_camera(line, settings, number, AravisDevice)


BASLER = Plugin("basler", IndustrialCameraSettings, _open_basler)
GENICAM = Plugin("genicam", IndustrialCameraSettings, _open_genicam)
