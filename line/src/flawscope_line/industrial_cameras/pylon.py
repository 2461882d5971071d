"""Basler cameras, by pypylon with pylon's runtime. `PYLON_CAMEMU=2` gives two emulated cameras."""

from __future__ import annotations

import re
from typing import Protocol

import numpy as np
from av import VideoFrame
from numpy.typing import NDArray
from pypylon import genicam, pylon

from flawscope.errors import FlawscopeError, InputError, one_line_message
from flawscope_line.industrial_cameras.camera import NumberedFrame, check_pixel_format, select_camera
from flawscope_line.industrial_cameras.settings import IndustrialCameraSettings
from flawscope_station.plugins import CameraLostError

EXPOSURE_FEATURES = ("ExposureTime", "ExposureTimeAbs")  # names of newer and of older cameras
GAIN_FEATURES = ("Gain", "GainRaw")
READY_TIMEOUT_MS = 1000  # milliseconds in which a camera must become ready for a trigger
GREY_FORMATS = {8: "gray", 10: "gray10le", 12: "gray12le", 16: "gray16le"}  # by bits of a grey pixel


class GrabResult(Protocol):
    """Frame of pylon.

    Attributes:
        PixelType: Number of the pixel format.
        Array: Pixels of the frame.
    """

    PixelType: int
    Array: NDArray[np.uint8]


class PylonDevice:
    """Camera that is open and waits for triggers.

    Args:
        settings: Settings of the camera.

    Raises:
        CameraLostError: The camera cannot be opened.
        InputError: The camera does not have or take a setting.
    """

    def __init__(self, settings: IndustrialCameraSettings):
        factory = pylon.TlFactory.GetInstance()
        devices = factory.EnumerateDevices()
        serials = [str(listed_device.GetSerialNumber()) for listed_device in devices]
        device = devices[select_camera(settings, serials)]
        try:
            self._camera = pylon.InstantCamera(factory.CreateDevice(device))
            self._camera.Open()
        except genicam.GenericException as error:
            # "another application controls it", or "another client has opened it"
            is_in_use = "another" in str(error)
            reason = "another program uses it: end that one" if is_in_use else _error_text(error)
            raise CameraLostError(f"it cannot be opened: {reason}") from None
        try:
            self._apply_settings(settings)
            self._camera.StartGrabbing(pylon.GrabStrategy_OneByOne)
        except genicam.GenericException as error:
            self.close()
            raise CameraLostError(_error_text(error)) from None
        except FlawscopeError:
            self.close()
            raise
        self._colour = pylon.ImageFormatConverter()
        self._colour.OutputPixelFormat = pylon.PixelType_RGB8packed
        self._grey = pylon.ImageFormatConverter()
        self._grey.OutputPixelFormat = pylon.PixelType_Mono16
        self._grey.OutputBitAlignment.Value = "LsbAligned"

    def _apply_settings(self, settings: IndustrialCameraSettings) -> None:
        """Set pixel format, trigger, exposure and gain; raise InputError where the camera lacks one."""
        camera = self._camera
        if settings.format is not None:
            check_pixel_format(settings.format, list(camera.PixelFormat.Symbolics))
            self._write_feature(("PixelFormat",), settings.format)
        self._write_feature(("AcquisitionMode",), "Continuous")
        self._write_feature(("TriggerSelector",), "FrameStart")
        self._write_feature(("TriggerMode",), "On")
        self._write_feature(("TriggerSource",), settings.trigger_source)
        if settings.exposure_microseconds is not None:
            self._write_feature(("ExposureAuto",), "Off", is_needed=False)
            self._write_feature(EXPOSURE_FEATURES, settings.exposure_microseconds)
        if settings.gain is not None:
            self._write_feature(("GainAuto",), "Off", is_needed=False)
            self._write_feature(GAIN_FEATURES, settings.gain)

    def _write_feature(self, names: tuple[str, ...], value: str | float, is_needed: bool = True) -> None:
        """Set the first feature in `names` that the camera has.

        Args:
            names: Names of the feature in different cameras.
            value: Value to set.
            is_needed: Whether it is an error if the camera has none of the features.

        Raises:
            InputError: The camera has none of the features, or refuses the value.
        """
        nodes = (self._camera.GetNodeMap().GetNode(name) for name in names)
        node = next(
            (candidate for candidate in nodes if candidate is not None and genicam.IsWritable(candidate)),
            None,
        )
        if node is None:
            if is_needed:
                raise InputError(f"the camera has no {' or '.join(names)} that can be set: leave it out")
            return
        try:
            node.SetValue(int(value) if isinstance(node, genicam.IInteger) else value)
        except genicam.GenericException as error:
            raise InputError(f"{names[0]} cannot be {value}: {_error_text(error)}") from None

    def trigger(self) -> None:
        """Trigger an exposure by software, as soon as the camera is ready; waits up to `READY_TIMEOUT_MS`.

        Raises:
            CameraLostError: The camera fails, or does not become ready.
        """
        try:
            if self._camera.CanWaitForFrameTriggerReady():
                self._camera.WaitForFrameTriggerReady(READY_TIMEOUT_MS, pylon.TimeoutHandling_ThrowException)
            self._camera.ExecuteSoftwareTrigger()
        except genicam.GenericException as error:
            raise CameraLostError(_error_text(error)) from None

    def next(self, seconds: float) -> NumberedFrame | None:
        """Return the oldest frame that waits; None: none comes within `seconds`.

        Raises:
            CameraLostError: The camera fails, or is gone.
        """
        try:
            result = self._camera.RetrieveResult(int(seconds * 1000), pylon.TimeoutHandling_Return)
            if not result.IsValid():
                if self._camera.IsCameraDeviceRemoved():
                    raise CameraLostError("it is gone from its cable or network")
                return None
            with result:
                frame = self._to_frame(result) if result.GrabSucceeded() else None
                return NumberedFrame(
                    number=result.BlockID,
                    picture=frame,
                    clock=result.TimeStamp or None,  # 0: the camera has no clock
                )
        except genicam.GenericException as error:
            raise CameraLostError(_error_text(error)) from None

    def _to_frame(self, result: GrabResult) -> VideoFrame:
        """Return a frame of pylon as a frame of FFmpeg: RGB, or grey with the camera's bits."""
        if not pylon.IsMonoImage(result.PixelType):
            return VideoFrame.from_ndarray(self._colour.Convert(result).GetArray(), format="rgb24")
        bits = pylon.BitDepth(result.PixelType)
        array = result.Array if bits == 8 else self._grey.Convert(result).GetArray()
        return VideoFrame.from_ndarray(array, format=GREY_FORMATS[bits])

    def close(self) -> None:
        """Close the camera, so that another program can open it."""
        self._camera.Close()


def _error_text(error: Exception) -> str:
    """Return the text of an error, without the place in pylon's own files."""
    text = one_line_message(error)
    return re.sub(r" : \w+ thrown .*", "", text)
