"""Basler cameras, by pypylon, which brings pylon's runtime. `PYLON_CAMEMU=2` gives two emulated ones."""

from __future__ import annotations

import re
from typing import Any

from av import VideoFrame
from pypylon import genicam, pylon

from flawscope.errors import InputError, one_line
from flawscope.station.industrial_cameras import CameraSettings
from flawscope.station.industrial_cameras.camera import Numbered, check_format, chosen
from flawscope.station.sources.frames import CameraLostError

EXPOSURE, GAIN = ("ExposureTime", "ExposureTimeAbs"), ("Gain", "GainRaw")  # newer and older cameras' names
READY = 1000  # milliseconds in which a camera must take a trigger
FORMATS = {8: "gray", 10: "gray10le", 12: "gray12le", 16: "gray16le"}  # by bits of a grey pixel


class Pylon:
    """Camera that is open and waits for triggers."""

    def __init__(self, settings: CameraSettings):
        factory = pylon.TlFactory.GetInstance()
        found = factory.EnumerateDevices()
        one = found[chosen(settings, [str(each.GetSerialNumber()) for each in found])]
        try:
            self._camera = pylon.InstantCamera(factory.CreateDevice(one))
            self._camera.Open()
        except genicam.GenericException as error:
            is_used = "another" in str(error)  # application controls it, or client has opened it
            why = "another program uses it: end that one" if is_used else _said(error)
            raise CameraLostError(f"it cannot be opened: {why}") from None
        try:
            self._set(settings)
            self._camera.StartGrabbing(pylon.GrabStrategy_OneByOne)
        except genicam.GenericException as error:
            self.close()
            raise CameraLostError(_said(error)) from None
        except InputError:
            self.close()
            raise
        self._colour, self._grey = pylon.ImageFormatConverter(), pylon.ImageFormatConverter()
        self._colour.OutputPixelFormat = pylon.PixelType_RGB8packed
        self._grey.OutputPixelFormat = pylon.PixelType_Mono16
        self._grey.OutputBitAlignment.Value = "LsbAligned"

    def _set(self, given: CameraSettings) -> None:
        camera = self._camera
        if given.format is not None:
            check_format(given.format, list(camera.PixelFormat.Symbolics))
            self._write(("PixelFormat",), given.format)
        self._write(("AcquisitionMode",), "Continuous")
        self._write(("TriggerSelector",), "FrameStart")
        self._write(("TriggerMode",), "On")
        self._write(("TriggerSource",), given.signal)
        if given.microseconds is not None:
            self._write(("ExposureAuto",), "Off", is_needed=False)
            self._write(EXPOSURE, given.microseconds)
        if given.gain is not None:
            self._write(("GainAuto",), "Off", is_needed=False)
            self._write(GAIN, given.gain)

    def _write(self, names: tuple[str, ...], value: Any, is_needed: bool = True) -> None:
        """Set the first feature of these that the camera has. InputError."""
        nodes = (self._camera.GetNodeMap().GetNode(name) for name in names)
        node = next((one for one in nodes if one is not None and genicam.IsWritable(one)), None)
        if node is None:
            if is_needed:
                raise InputError(f"the camera has no {' or '.join(names)} that can be set: leave it out")
            return
        try:
            node.SetValue(int(value) if isinstance(node, genicam.IInteger) else value)
        except genicam.GenericException as error:
            raise InputError(f"{names[0]} cannot be {value}: {_said(error)}") from None

    def trigger(self) -> None:
        try:
            if self._camera.CanWaitForFrameTriggerReady():
                self._camera.WaitForFrameTriggerReady(READY, pylon.TimeoutHandling_ThrowException)
            self._camera.ExecuteSoftwareTrigger()
        except genicam.GenericException as error:
            raise CameraLostError(_said(error)) from None

    def next(self, seconds: float) -> Numbered | None:
        try:
            result = self._camera.RetrieveResult(int(seconds * 1000), pylon.TimeoutHandling_Return)
            if not result.IsValid():
                if self._camera.IsCameraDeviceRemoved():
                    raise CameraLostError("it is gone from its cable or network")
                return None
            with result:
                return Numbered(result.BlockID, self._picture(result) if result.GrabSucceeded() else None)
        except genicam.GenericException as error:
            raise CameraLostError(_said(error)) from None

    def _picture(self, result: Any) -> VideoFrame:
        if not pylon.IsMonoImage(result.PixelType):
            return VideoFrame.from_ndarray(self._colour.Convert(result).GetArray(), format="rgb24")
        bits = pylon.BitDepth(result.PixelType)
        array = result.Array if bits == 8 else self._grey.Convert(result).GetArray()
        return VideoFrame.from_ndarray(array, format=FORMATS[bits])

    def close(self) -> None:
        self._camera.Close()


def _said(error: Exception) -> str:
    """Return what pylon says, without its place in pylon's own files."""
    said = one_line(error)
    return re.sub(r" : \w+ thrown .*", "", said)
