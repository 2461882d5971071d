"""Frames of a camera, decoded by FFmpeg and encoded as pictures."""

from __future__ import annotations

import errno
import math
import time
from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from flawscope_station.inspecting.picture import TooLargeError
from flawscope_station.settings.sources import CameraSourceSettings, ffmpeg_input
from flawscope_station.store.inspection import RefusalError

if TYPE_CHECKING:
    from av import VideoFrame
    from numpy.typing import NDArray

OPEN_TIMEOUT = 10.0  # seconds in which a camera must have answered
MIN_WAIT = 0.002  # seconds; a packet that comes sooner may have lain in a buffer
MAX_WAIT_RATIO = 1.5  # of a wait to the time between two packets; in a longer one, something was held up
REMEMBERED_FRAMES = 25  # packets whose median time apart is the usual one
MAX_BROKEN_PACKETS = 250  # packets, one after another, that cannot be decoded; then the stream is opened anew


class CameraLostError(RefusalError):
    """The camera cannot be reached, or sends nothing any more; the text says why."""

    code = "camera_away"


# By error number, of a camera of this machine: a process that crashed may hold it still
LOCAL_REMEDIES = {
    errno.EBUSY: "another program uses it, end that one (`fuser -v` names it)",
    errno.EACCES: "the station's user may not read it, add it to the group video",
    errno.ENOENT: "there is no such device, see its cable",
}


class FrameReader:
    """Iterator over the frames of a camera, from its opening to its end or loss.

    Args:
        settings: Settings of the camera.
        pixels: Pixels that a frame may have.

    Attributes:
        broken: Packets and frames that could not be decoded.
        is_recording: Whether the stream has a length, like a video file, which may show a still picture for
            long.
        arrived: When the last frame came, as `time.monotonic` counts, or a moment before that.

    Raises:
        CameraLostError: it cannot be opened.
        InputError: a password cannot be read, or PyAV is not installed.
    """

    def __init__(self, settings: CameraSourceSettings, pixels: int):
        import av

        self.settings = settings
        self.pixels = pixels
        self.broken = 0
        self.arrived = -math.inf
        self._lock_delay, self._core_delay = 0.0, _waited_for_core()  # of the last packet; of all together
        self._read_at: deque[float] = deque(maxlen=REMEMBERED_FRAMES)  # when the last packets were there
        self._library_errors: tuple[type[Exception], ...] = (av.FFmpegError, OSError)
        timeout = settings.frame_timeout
        url, kind, options = ffmpeg_input(settings.url, timeout)
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
        self.is_recording = (self._container.duration or 0) > 0
        context = self._stream.codec_context
        if context.height * context.width > pixels:
            self.close()
            raise too_large_error(context.width, context.height, pixels)
        context.options = {"max_pixels": str(pixels)}
        # threads that decode several frames at once hold each back until the next ones have come
        context.thread_type = "SLICE"

    def close(self) -> None:
        """Close the stream."""
        self._container.close()

    def __iter__(self) -> Iterator[VideoFrame | None]:
        """Yield each frame; None for a damaged one.

        Raises:
            CameraLostError: the camera sends no more.
        """
        broken_in_row = 0
        packets = self._container.demux(self._stream)
        while True:
            asked = time.monotonic()
            try:
                packet = next(packets)
            except StopIteration:
                return
            except self._library_errors as error:
                raise CameraLostError(self._describe_error(error)) from None
            self._note_arrival(asked, time.monotonic())
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

    def _note_arrival(self, asked: float, read: float) -> None:
        """Note when a packet arrived.

        A packet that the reader did not have to wait for may have lain in a buffer since the last one that it
        waited for. While other threads or processes keep the reader waiting, for Python's lock or for a core,
        that part of its wait is no evidence, and the packet may have come that much earlier. After a wait
        that is longer than usual it is only known that the packet had not come when it was asked for.

        Args:
            asked: Time at which it was asked for, as `time.monotonic` counts.
            read: Time at which it was there.
        """
        usual = np.median(np.diff(self._read_at)) if len(self._read_at) > 1 else 0.0
        self._read_at.append(read)
        before = self._lock_delay, self._core_delay
        time.sleep(0)  # gives the lock away, and waits for it
        self._lock_delay, self._core_delay = time.monotonic() - read, _waited_for_core()
        held_up = max(before[0], self._lock_delay) + self._core_delay - before[1]
        if read - asked - held_up >= MIN_WAIT:
            self.arrived = read - held_up if read - asked <= MAX_WAIT_RATIO * usual else asked

    def _describe_error(self, error: Exception) -> str:
        """Return a reason without the address, which may hold a password."""
        name = type(error).__name__
        if name == "EOFError":
            return "the stream ended"
        if name in ("ExitError", "TimeoutError", "BlockingIOError"):
            return f"it sends nothing for {self.settings.frame_timeout:g} s"
        number = getattr(error, "errno", None)
        text = str(getattr(error, "strerror", "") or name)
        return f"{text}: {LOCAL_REMEDIES[number]}" if number in LOCAL_REMEDIES else text


def _waited_for_core() -> float:
    """Return the seconds for which this thread could run, but others did; 0 where nobody counts them."""
    try:
        with open("/proc/thread-self/schedstat", "rb") as file:
            return int(file.read().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


def too_large_error(width: int, height: int, pixels: int) -> TooLargeError:
    """Return the error of a camera whose frames have more than `pixels` pixels."""
    return TooLargeError(
        f"its frames have {height * width / 1e6:.0f} megapixels, {pixels / 1e6:.0f} are accepted: let it "
        "send smaller ones, or raise `limits: pixels`"
    )


# ----------------------------------------------------------------------------------------------------- pixels

HASHED_AT_ONCE = 2**18  # bytes: they stay in the processor's cache


def pixel_hash(frame: VideoFrame) -> int:
    """Return a hash of a frame's pixels, without the padding of its rows.

    Two exposures of a sensor never share it. Other processes have other hashes.
    """
    form = frame.format.name, frame.width, frame.height
    # Python's own hash takes a third of a checksum's time
    found: list[Any] = [form]
    for plane in _rows(frame):
        step = max(1, HASHED_AT_ONCE // max(1, plane.shape[1]))
        found += [hash(plane[top : top + step].tobytes()) for top in range(0, len(plane), step)]
    return hash(tuple(found))


def _rows(frame: VideoFrame) -> list[NDArray[np.uint8]]:
    """Return the bytes of the pixels of each plane [H, bytes of a row], without the padding of the rows."""
    planes: list[Any] = list(frame.planes)
    bits = [0.0] * len(planes)
    for component in frame.format.components:  # more than 8 bits lie in whole bytes
        bits[component.plane] += component.width * (
            component.bits if component.bits < 8 else -(-component.bits // 8) * 8
        )
    if len(planes) == 1:  # some bytes of a pixel may be of no component
        bits = [frame.width * frame.format.padded_bits_per_pixel]
    rows = [np.frombuffer(plane, np.uint8).reshape(plane.height, -1) for plane in planes]
    return [row[:, : math.ceil(n / 8) or None] for row, n in zip(rows, bits, strict=True)]


# --------------------------------------------------------------------------------------------------- pictures


def encode_png(frame: VideoFrame, pixels: int) -> bytes:
    """Encode a frame as PNG, upright, without loss beyond 8 bits of each colour (grey keeps 16).

    FFmpeg's encoder stores rows as differences to those above, with the least compression, in half the time
    of Pillow's. BMP and plain TIFF take less time, but up to eleven times the space, and pictures are kept
    (bench/NOTES.md).

    Args:
        frame: Decoded frame.
        pixels: Pixels that it may have.

    Raises:
        TooLargeError: it has more.
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
    name = frame.format.name
    components = frame.format.components
    if name in ("monow", "monob") or (len(components) == 1 and not name.startswith(("pal", "bayer"))):
        return "gray16le" if components[0].bits > 8 else "gray"
    return "rgb24"


def _run_png_encoder(frame: VideoFrame) -> bytes:
    import av

    encoder = av.CodecContext.create("png", "w")
    encoder.width = frame.width
    encoder.height = frame.height
    encoder.pix_fmt = frame.format.name
    encoder.time_base = Fraction(1, 25)
    encoder.thread_count = 1
    encoder.options = {"pred": "up", "compression_level": "1"}
    frame.pts = 0
    frame.time_base = encoder.time_base
    return b"".join(bytes(packet) for packet in (*encoder.encode(frame), *encoder.encode(None)))


def _deinterlace(frame: VideoFrame) -> VideoFrame:
    """Keep every other line of an interlaced frame, and interpolate the lines between.

    Its lines come from two moments. Deinterlacers that use neighbouring frames would hold each frame back
    until the next has come.
    """
    import av

    graph: Any = av.filter.Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format.name, time_base=Fraction(1, 25)
    )
    field = graph.add("field", "type=top")
    scale = graph.add("scale", "w=iw:h=2*ih")
    graph.link_nodes(source, field, scale, graph.add("buffersink")).configure()
    graph.push(frame)
    deinterlaced: VideoFrame = graph.pull()
    return deinterlaced
