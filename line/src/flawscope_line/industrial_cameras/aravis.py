"""GigE Vision and USB3 Vision cameras of any maker, by Aravis of the system."""

from __future__ import annotations

from contextlib import suppress
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from av import VideoFrame

from flawscope.errors import FlawscopeError, InputError
from flawscope_line.industrial_cameras.camera import NumberedFrame, check_pixel_format, select_camera
from flawscope_line.industrial_cameras.settings import IndustrialCameraSettings
from flawscope_station.plugins import CameraLostError

if TYPE_CHECKING:
    from numpy.typing import NDArray

BUFFERS = 8  # frames that may wait to be fetched
GREY_FORMATS = {"Mono8": "gray", "Mono10": "gray10le", "Mono12": "gray12le", "Mono16": "gray16le"}
COLOUR_FORMATS = {"RGB8": "rgb24", "RGB8Packed": "rgb24", "BGR8": "bgr24", "BGR8Packed": "bgr24"}
# colours of the first two rows of a sensor: FFmpeg's names by GenICam's
BAYER_PATTERNS = {"BayerRG": "rggb", "BayerBG": "bggr", "BayerGR": "grbg", "BayerGB": "gbrg"}


class Buffer(Protocol):
    """Frame of Aravis."""

    def get_image_height(self) -> int:
        """Return the height in pixels."""

    def get_image_width(self) -> int:
        """Return the width in pixels."""

    def get_data(self) -> bytes:
        """Return the bytes of the frame, row by row in the camera's pixel format."""


class Bounds(Protocol):
    """Smallest and largest value of a feature in Aravis."""

    min: float
    max: float


class LibraryError(Protocol):
    """Error of GLib."""

    message: str


def load_aravis() -> ModuleType:
    """Return the library Aravis.

    Raises:
        InputError: Aravis is not installed.
    """
    import gi

    try:
        gi.require_version("Aravis", "0.8")
    except ValueError:
        raise InputError(
            "a GenICam camera needs Aravis 0.8: apt-get install gir1.2-aravis-0.8, or your system's package"
        ) from None
    from gi.repository import Aravis

    library: ModuleType = Aravis
    return library


class AravisDevice:
    """Camera that is open and waits for triggers.

    Args:
        settings: Settings of the camera.

    Raises:
        CameraLostError: The camera cannot be opened.
        InputError: The camera does not have or take a setting.
    """

    def __init__(self, settings: IndustrialCameraSettings):
        self._library = load_aravis()
        from gi.repository import GLib

        self._error_type = GLib.Error
        self._is_gone = False
        self._library.update_device_list()
        serials = [
            str(self._library.get_device_serial_nbr(device_index))
            for device_index in range(self._library.get_n_devices())
        ]
        index = select_camera(settings, serials)
        try:
            self._camera = self._library.Camera.new(self._library.get_device_id(index))
        except self._error_type as error:
            raise CameraLostError(f"it cannot be opened: {_error_text(error)}") from None
        try:
            self._start_acquisition(settings)
        except self._error_type as error:
            self.close()
            raise CameraLostError(_error_text(error)) from None
        except FlawscopeError:
            self.close()
            raise

    def _start_acquisition(self, settings: IndustrialCameraSettings) -> None:
        """Apply the settings, and let the camera wait for triggers."""
        device = self._camera.get_device()
        if isinstance(device, self._library.GvDevice) and not device.is_controller():
            raise CameraLostError("another program uses it: end that one")
        device.connect("control-lost", self._on_control_lost)
        self._apply_settings(settings)
        name = self._camera.get_pixel_format_as_string()
        available_formats = self._camera.dup_available_pixel_formats_as_strings()
        self._pixel_format = _ffmpeg_format(name, available_formats)
        self._stream = self._camera.create_stream(None, None)
        for _ in range(BUFFERS):
            self._stream.push_buffer(self._library.Buffer.new_allocate(self._camera.get_payload()))
        self._camera.start_acquisition()

    def _on_control_lost(self, device: object) -> None:
        """Note that the camera is gone; Aravis calls this."""
        self._is_gone = True

    def _apply_settings(self, settings: IndustrialCameraSettings) -> None:
        """Set pixel format, trigger, exposure and gain; raise InputError where the camera lacks one."""
        camera = self._camera
        if settings.format is not None:
            check_pixel_format(settings.format, camera.dup_available_pixel_formats_as_strings())
            camera.set_pixel_format_from_string(settings.format)
        sources = camera.dup_available_trigger_sources()
        if settings.trigger_source not in sources:
            source_names = ", ".join(sources)
            raise InputError(f"trigger: the camera has no {settings.trigger_source}, only {source_names}")
        camera.set_acquisition_mode(self._library.AcquisitionMode.CONTINUOUS)
        camera.set_trigger(settings.trigger_source)
        if (exposure := settings.exposure_microseconds) is not None:
            if not camera.is_exposure_time_available():
                raise InputError("exposure: the camera has none that can be set: leave it out")
            _check_bounds("exposure", exposure, camera.get_exposure_time_bounds(), " us")
            if camera.is_exposure_auto_available():
                camera.set_exposure_time_auto(self._library.Auto.OFF)
            camera.set_exposure_time(exposure)
        if settings.gain is not None:
            if not camera.is_gain_available():
                raise InputError("gain: the camera has none that can be set: leave it out")
            _check_bounds("gain", settings.gain, camera.get_gain_bounds())
            if camera.is_gain_auto_available():
                camera.set_gain_auto(self._library.Auto.OFF)
            camera.set_gain(settings.gain)

    def trigger(self) -> None:
        """Trigger an exposure by software.

        Raises:
            CameraLostError: The camera fails.
        """
        try:
            self._camera.software_trigger()
        except self._error_type as error:
            raise CameraLostError(_error_text(error)) from None

    def next(self, seconds: float) -> NumberedFrame | None:
        """Return the oldest frame that waits; None: none comes within `seconds`.

        Raises:
            CameraLostError: The camera is gone.
        """
        buffer = self._stream.timeout_pop_buffer(int(seconds * 1e6))
        if buffer is None:
            if self._is_gone:
                raise CameraLostError("it is gone from its cable or network")
            return None
        try:
            is_whole = buffer.get_status() == self._library.BufferStatus.SUCCESS
            frame = self._to_frame(buffer) if is_whole else None
            return NumberedFrame(
                number=buffer.get_frame_id(),
                picture=frame,
                clock=buffer.get_timestamp() or None,  # 0: the camera has no clock
            )
        finally:
            self._stream.push_buffer(buffer)

    def _to_frame(self, buffer: Buffer) -> VideoFrame:
        """Convert a frame of Aravis to one of FFmpeg; values of 10 and 12 bits move to the high bits."""
        pixel_format, shift = self._pixel_format
        size = buffer.get_image_height(), buffer.get_image_width()
        dtype = np.uint16 if pixel_format.endswith("le") else np.uint8
        array: NDArray[Any] = np.frombuffer(buffer.get_data(), dtype)
        shape = (*size, 3) if pixel_format in COLOUR_FORMATS.values() else size
        array = array[: int(np.prod(shape))].reshape(shape)
        return VideoFrame.from_ndarray(np.left_shift(array, shift, dtype=array.dtype), format=pixel_format)

    def close(self) -> None:
        """Stop the camera, and drop the references to it: Aravis frees a camera with the last one."""
        if not self._is_gone:
            with suppress(self._error_type):  # the camera is gone meanwhile
                self._camera.stop_acquisition()
                if isinstance(device := self._camera.get_device(), self._library.GvDevice):
                    device.leave_control()
        self._stream = self._camera = None


def _ffmpeg_format(name: str, available_formats: list[str]) -> tuple[str, int]:
    """Return FFmpeg's name of a pixel format, and the left shift of its values in bits.

    Args:
        name: GenICam's name of the format.
        available_formats: GenICam's names of the camera's formats, for the error.

    Raises:
        InputError: The format cannot be read.
    """
    # by GenICam's name: FFmpeg's name, and the left shift of the values in bits
    formats = {
        pixel_format: (ffmpeg_format, 0)
        for pixel_format, ffmpeg_format in (GREY_FORMATS | COLOUR_FORMATS).items()
    }
    for genicam_pattern, ffmpeg_format in BAYER_PATTERNS.items():
        formats[f"{genicam_pattern}8"] = f"bayer_{ffmpeg_format}8", 0
        for bits in (10, 12, 16):
            formats[f"{genicam_pattern}{bits}"] = f"bayer_{ffmpeg_format}16le", 16 - bits
    if name not in formats:
        readable_formats = [pixel_format for pixel_format in available_formats if pixel_format in formats]
        readable = ", ".join(readable_formats) or "none"
        raise InputError(f"format: {name} is not read; of those that the camera has, these are: {readable}")
    return formats[name]


def _check_bounds(name: str, value: float, bounds: Bounds, unit: str = "") -> None:
    """Raise InputError where a setting's value is out of the camera's bounds."""
    if not bounds.min <= value <= bounds.max:
        raise InputError(f"{name}: the camera has {bounds.min:g} to {bounds.max:g}{unit}, not {value:g}")


def _error_text(error: LibraryError) -> str:
    """Return the message of an error in one line."""
    return " ".join(str(error.message).split())
