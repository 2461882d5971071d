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
MAX_WAIT_RATIO = 1.5  # ratio of a wait to the usual interval; in a longer wait, something was held up
REMEMBERED_FRAMES = 25  # packets whose median interval is the usual interval
MAX_BROKEN_PACKETS = 250  # packets in a row that cannot be decoded, after which the stream is opened again


class CameraLostError(RefusalError):
    """The camera cannot be reached, or sends nothing any more; the text says why."""

    code = "camera_away"


# remedies by error number, for a camera of this machine
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
        broken: Number of packets and frames that could not be decoded.
        is_recording: Whether the stream has a length, as a video file has, which may show a still picture for
            long.
        arrived: When the last frame came, as `time.monotonic` counts, or a moment before that.

    Raises:
        CameraLostError: The camera cannot be opened.
        InputError: A password cannot be read, or PyAV is not installed.
    """

    def __init__(self, settings: CameraSourceSettings, pixels: int):
        import av

        self.settings = settings
        self.pixels = pixels
        self.broken = 0
        self.arrived = -math.inf
        self._lock_delay = 0.0  # seconds that the thread waited for Python's lock after the last packet
        self._core_delay = _waited_for_core()  # seconds that the thread has waited for a core since its start
        self._read_times: deque[float] = deque(maxlen=REMEMBERED_FRAMES)  # when the last packets were read
        self._library_errors: tuple[type[Exception], ...] = (av.FFmpegError, OSError)
        timeout = settings.frame_timeout
        url, format_name, options = ffmpeg_input(settings.url, timeout)
        try:
            self._container = av.open(
                url, "r", format_name, {**options, **dict(settings.options)}, timeout=(OPEN_TIMEOUT, timeout)
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
        # All decoding threads work on the same frame. If each had a frame of its own, a frame would come out
        # only after the next ones have come in.
        context.thread_type = "SLICE"

    def close(self) -> None:
        """Close the stream."""
        self._container.close()

    def __iter__(self) -> Iterator[VideoFrame | None]:
        """Yield each frame; None for a damaged one.

        Raises:
            CameraLostError: The camera sends nothing more.
        """
        broken_in_row = 0
        packets = self._container.demux(self._stream)
        while True:
            asked_at = time.monotonic()
            try:
                packet = next(packets)
            except StopIteration:
                return
            except self._library_errors as error:
                raise CameraLostError(self._describe_error(error)) from None
            self._note_arrival(asked_at, time.monotonic())
            try:
                frames = packet.decode()
                if frames:
                    broken_in_row = 0
            except self._library_errors as error:
                if type(error).__name__ == "EOFError":  # PyAV's: the stream ended
                    return
                self.broken += 1
                broken_in_row += 1
                if broken_in_row > MAX_BROKEN_PACKETS:
                    raise CameraLostError("what it sends cannot be decoded") from None
                continue
            for frame in frames:
                self.broken += frame.is_corrupt
                yield None if frame.is_corrupt else frame

    def _note_arrival(self, asked_at: float, read_at: float) -> None:
        """Set `arrived` to the time at which a packet came, or to an earlier time if that is not certain.

        The wait is the time from `asked_at` to `read_at`. The delay is the part of it in which the packet may
        have been there already, while the reader waited for Python's lock or for a core.

        - If the wait, without the delay, was very short, the packet may have lain in a buffer: `arrived`
          stays as it is.
        - After a wait of the usual length the packet came when it was read, or earlier by the delay at most:
          the delay is subtracted.
        - After a longer wait it is only certain that the packet came after it was asked for.

        Args:
            asked_at: Time at which the packet was asked for, as `time.monotonic` counts.
            read_at: Time at which the reader had it.
        """
        usual_interval = np.median(np.diff(self._read_times)) if len(self._read_times) > 1 else 0.0
        self._read_times.append(read_at)
        previous_lock_delay = self._lock_delay
        previous_core_delay = self._core_delay
        time.sleep(0)  # gives the lock away, and waits for it
        self._lock_delay = time.monotonic() - read_at
        self._core_delay = _waited_for_core()
        # the wait for the lock when this packet came is not measured: the longer of the waits before and
        # after it stands for it
        delay = max(previous_lock_delay, self._lock_delay) + self._core_delay - previous_core_delay
        wait = read_at - asked_at
        if wait - delay < MIN_WAIT:
            return
        is_usual_wait = wait <= MAX_WAIT_RATIO * usual_interval
        self.arrived = read_at - delay if is_usual_wait else asked_at

    def _describe_error(self, error: Exception) -> str:
        """Return the text of an error without the address, which may hold a password."""
        name = type(error).__name__
        if name == "EOFError":
            return "the stream ended"
        if name in ("ExitError", "TimeoutError", "BlockingIOError"):
            return f"it sends nothing for {self.settings.frame_timeout:g} s"
        error_number = getattr(error, "errno", None)
        text = str(getattr(error, "strerror", "") or name)
        return f"{text}: {LOCAL_REMEDIES[error_number]}" if error_number in LOCAL_REMEDIES else text


def _waited_for_core() -> float:
    """Return the seconds that this thread has waited for a core; 0 where the system does not count them.

    The second field of Linux's `schedstat` has them in nanoseconds.
    """
    try:
        with open("/proc/thread-self/schedstat", "rb") as file:
            _, waited_ns, *_ = file.read().split()
            return int(waited_ns) / 1e9
    except (OSError, ValueError):
        return 0.0


def too_large_error(width: int, height: int, pixels: int) -> TooLargeError:
    """Return the error of a camera whose frames have more than `pixels` pixels."""
    return TooLargeError(
        f"its frames have {height * width / 1e6:.0f} megapixels, {pixels / 1e6:.0f} are accepted: let it "
        "send smaller ones, or raise `limits: pixels`"
    )


# ----------------------------------------------------------------------------------------------------- pixels

HASHED_AT_ONCE = 2**18  # bytes that are hashed at once: they stay in the CPU's cache


def pixel_hash(frame: VideoFrame) -> int:
    """Return a hash of a frame's pixels, without the padding of its rows.

    Two exposures of a sensor have different hashes, as its noise differs. Hashes of two processes cannot be
    compared.
    """
    frame_format = frame.format.name, frame.width, frame.height
    # Python's own hash takes a third of the time of a checksum
    hashes: list[Any] = [frame_format]
    for plane in _rows(frame):
        _, row_bytes = plane.shape
        step = max(1, HASHED_AT_ONCE // max(1, row_bytes))  # rows that are hashed at once
        hashes += [hash(plane[top : top + step].tobytes()) for top in range(0, len(plane), step)]
    return hash(tuple(hashes))


def _rows(frame: VideoFrame) -> list[NDArray[np.uint8]]:
    """Return the pixels of each plane as bytes [H, bytes of a row], without the padding of the rows."""
    planes: list[Any] = list(frame.planes)
    row_bits = [0.0] * len(planes)
    for component in frame.format.components:
        bits = component.bits
        if bits >= 8:  # such values take whole bytes
            bits = 8 * math.ceil(bits / 8)
        row_bits[component.plane] += component.width * bits
    if len(planes) == 1:  # a pixel may have bytes that belong to no component
        row_bits = [frame.width * frame.format.padded_bits_per_pixel]
    padded_planes = [np.frombuffer(plane, np.uint8).reshape(plane.height, -1) for plane in planes]
    # a plane of which no component is known has 0 bits here: None takes all bytes of its rows
    row_bytes = [math.ceil(bit_count / 8) or None for bit_count in row_bits]
    return [plane[:, :count] for plane, count in zip(padded_planes, row_bytes, strict=True)]


# --------------------------------------------------------------------------------------------------- pictures


def encode_png(frame: VideoFrame, pixels: int) -> bytes:
    """Encode a frame as PNG, upright: colours with 8 bits each, grey with 8 or 16 bits.

    FFmpeg's encoder stores each row as its difference to the row above, with the least compression. It takes
    half the time of Pillow's. BMP and plain TIFF take less time, but up to eleven times the space, and
    pictures are kept (bench/NOTES.md).

    Args:
        frame: Decoded frame.
        pixels: Pixels that a frame may have.

    Raises:
        TooLargeError: The frame has more pixels.
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
        frame = frame.reformat(format="gray16be")  # the byte order of PNG
    return _run_png_encoder(frame)


def _pixel_format(frame: VideoFrame) -> str:
    """Return the pixel format of a frame's picture: grey of 8 or 16 bits, or RGB."""
    name = frame.format.name
    components = frame.format.components
    is_black_and_white = name in ("monow", "monob")
    # palettes and Bayer patterns have colours in a single component
    is_grey = len(components) == 1 and not name.startswith(("pal", "bayer"))
    if is_black_and_white or is_grey:
        return "gray16le" if components[0].bits > 8 else "gray"
    return "rgb24"


def _run_png_encoder(frame: VideoFrame) -> bytes:
    """Encode a frame in one of PNG's pixel formats."""
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
    packets = [*encoder.encode(frame), *encoder.encode(None)]  # None: nothing more comes
    return b"".join(bytes(packet) for packet in packets)


def _deinterlace(frame: VideoFrame) -> VideoFrame:
    """Keep every other line of an interlaced frame, and interpolate the lines between.

    Even and odd lines of such a frame come from two moments. Deinterlacers that use neighbouring frames would
    hold each frame back until the next has come.
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
