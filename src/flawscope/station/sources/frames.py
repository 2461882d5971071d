"""Frames of a camera or a video file, decoded by FFmpeg and encoded as pictures."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flawscope.errors import InputError, missing_library_error
from flawscope.station.inspecting.picture import TooLargeError
from flawscope.station.settings.sources import CameraSourceSettings, ffmpeg_input

if TYPE_CHECKING:
    from av import VideoFrame

OPEN_TIMEOUT = 10.0  # seconds in which a camera must have answered
MAX_BROKEN_PACKETS = 250  # packets, one after another, that cannot be decoded; then the stream is opened anew


class CameraLostError(InputError):
    """The camera cannot be reached, or sends nothing any more; the text says why."""


class FrameReader:
    """Iterator over the frames of a camera or a file, from its opening to its end or loss.

    Args:
        pixels: of a frame, at most.

    Attributes:
        broken: packets and frames that could not be decoded.

    Raises:
        CameraLostError: it cannot be opened.
        InputError: a password cannot be read, or PyAV is not installed.
    """

    def __init__(self, settings: CameraSourceSettings, pixels: int):
        try:
            import av
        except ImportError:
            raise missing_library_error("a camera or a video file", "av", extras="station") from None
        self.settings, self.pixels, self.broken = settings, pixels, 0
        self._library_errors: tuple[type[Exception], ...] = (av.FFmpegError, OSError)
        timeout = settings.frame_timeout
        url, kind, options = ffmpeg_input(settings.url, timeout)
        if settings.is_video:
            _check_file(settings.camera)
        try:
            self._container = av.open(
                url, "r", kind, {**options, **dict(settings.options)}, timeout=(OPEN_TIMEOUT, timeout)
            )
        except self._library_errors as error:
            raise CameraLostError(self._describe_error(error)) from None
        if not self._container.streams.video:
            self.close()
            raise CameraLostError("it has no picture, only other streams")
        self._stream = self._container.streams.video[0]
        context = self._stream.codec_context
        if context.height * context.width > pixels:
            self.close()
            raise too_large_error(context.width, context.height, pixels)
        context.options = {"max_pixels": str(pixels)}
        # threads that decode several frames at once hold each back until the next ones have come
        context.thread_type = "AUTO" if settings.is_video else "SLICE"

    def close(self) -> None:
        self._container.close()

    def __iter__(self) -> Iterator[VideoFrame | None]:
        """Yield each frame; None for a damaged one. CameraLostError where a camera sends no more."""
        broken_in_row = 0
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except self._library_errors as error:
                raise CameraLostError(self._describe_error(error)) from None
            try:
                frames = packet.decode()
                broken_in_row = broken_in_row if not frames else 0
            except self._library_errors as error:
                if type(error).__name__ == "EOFError":
                    return
                self.broken += 1
                broken_in_row += 1
                if broken_in_row > MAX_BROKEN_PACKETS:
                    raise CameraLostError("what it sends cannot be decoded") from None
                continue
            for frame in frames:
                self.broken += frame.is_corrupt
                yield None if frame.is_corrupt else frame

    def timestamp(self, frame: VideoFrame, number: int) -> float:
        """Return the seconds of a frame on the file's clock. number: from the beginning."""
        if frame.time is not None:
            return float(frame.time)
        return number / float(self._stream.average_rate or self._stream.guessed_rate or 25)

    def _describe_error(self, error: Exception) -> str:
        """Return a reason without the address: a password may be in it."""
        name = type(error).__name__
        if name == "EOFError":
            return "the stream ended"
        if name in ("ExitError", "TimeoutError", "BlockingIOError"):
            return f"it sends nothing for {self.settings.frame_timeout:g} s"
        if name == "ArgumentError" and self.settings.is_video:
            return "it is no video of a kind that is read"
        return str(getattr(error, "strerror", "") or name)


def _check_file(path: str) -> None:
    """Raise CameraLostError where FFmpeg's own error would be less clear."""
    if Path(path).is_dir():
        raise CameraLostError("it is a folder: write `folder:` instead of `camera:`")
    if not Path(path).exists():
        raise CameraLostError("there is no such file")


def too_large_error(width: int, height: int, pixels: int) -> TooLargeError:
    return TooLargeError(
        f"its frames have {height * width / 1e6:.0f} megapixels, {pixels / 1e6:.0f} are accepted: let it "
        "send smaller ones, or raise `limits: pixels`"
    )


# --------------------------------------------------------------------------------------------------- pictures


def encode_png(frame: VideoFrame, pixels: int) -> bytes:
    """Encode a frame as PNG, upright, without loss beyond 8 bits of each colour (grey keeps 16).

    FFmpeg's encoder stores rows as differences to those above, with the least compression, in half the time
    of Pillow's. BMP and plain TIFF take less time, but up to eleven times the space, and pictures are kept
    (docs/measurements.md).

    Raises:
        TooLargeError: the frame has more pixels than are accepted.
    """
    import av

    if frame.width * frame.height > pixels:
        raise too_large_error(frame.width, frame.height, pixels)
    rotation = frame.rotation
    pixel_format = _pixel_format(frame)
    if frame.interlaced_frame:
        frame = _deinterlace(frame)
    if rotation:
        array: Any = np.rot90(frame.to_ndarray(format=pixel_format), round(rotation / 90))
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(array), format=pixel_format)
    else:
        frame = frame.reformat(format=pixel_format)
    if pixel_format == "gray16le":
        frame = frame.reformat(format="gray16be")
    return _run_png_encoder(frame)


def _pixel_format(frame: VideoFrame) -> str:
    """Return the pixel format of a frame's picture: grey of 8 or 16 bits, or RGB."""
    name, components = frame.format.name, frame.format.components
    if name in ("monow", "monob") or (len(components) == 1 and not name.startswith(("pal", "bayer"))):
        return "gray16le" if components[0].bits > 8 else "gray"
    return "rgb24"


def _run_png_encoder(frame: VideoFrame) -> bytes:
    import av

    encoder = av.CodecContext.create("png", "w")
    encoder.width, encoder.height, encoder.pix_fmt = frame.width, frame.height, frame.format.name
    encoder.time_base = Fraction(1, 25)
    encoder.thread_count = 1
    encoder.options = {"pred": "up", "compression_level": "1"}
    frame.pts, frame.time_base = 0, encoder.time_base
    return b"".join(bytes(packet) for packet in (*encoder.encode(frame), *encoder.encode(None)))


def _deinterlace(frame: VideoFrame) -> VideoFrame:
    """Keep every other line and interpolate those between: the lines of an interlaced frame are of two
    moments. Deinterlacers that use neighbouring frames would hold each back until the next has come."""
    import av

    graph: Any = av.filter.Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format.name, time_base=Fraction(1, 25)
    )
    field, scale = graph.add("field", "type=top"), graph.add("scale", "w=iw:h=2*ih")
    graph.link_nodes(source, field, scale, graph.add("buffersink")).configure()
    graph.push(frame)
    deinterlaced: VideoFrame = graph.pull()
    return deinterlaced
