"""Finds faults of a camera, its light and its mount in frames of one part that lies still. Torch-free.

Nothing changes in such frames but what the camera and the light do by themselves. A model learns these
changes as good, or calls them defects; most false alarms in plants begin here. All brightness is in grey
levels, 0 to 255, whatever the depth of the pictures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flawscope.errors import InputError, pluralize
from flawscope.pictures.apart import NORMAL_MAD
from flawscope.pictures.decoding import decode, pixel_hash
from flawscope.pictures.levels import white_of

Floats = NDArray[np.float32]
Frame = Path | bytes | NDArray[np.generic]  # a file, its content, or pixels

MIN_FRAMES = 10
MAX_FRAMES = 60  # number of frames, from the first, that are measured: more show nothing new
CROP_SIDE = 768  # side in pixels of a frame's middle, in which noise, edges and movement are measured
BLOCKS = 16  # number of blocks along each side of a frame, in which brightness is measured
MIN_BRIGHTNESS = 8.0  # smallest grey level of a block whose brightness shows the light
# A sudden change is larger than these grey levels, and this multiple of the usual change
STEP_LEVELS = 2.0
STEP_RATIO = 6.0
MAX_STEPS = 3  # more sudden changes are flicker
SPOT_SIDE = 3  # side in pixels of the defect by which costs are described
STANDS_OUT = 5.0  # contrast in standard deviations of noise, from which on a spot stands out
BAND_STANDS_OUT = 3.0  # the same for a change of light over the whole picture
EDGE_CONTRAST = 25.0  # smallest contrast in grey levels of an edge by which focus is measured
EDGE_WINDOW = 21  # side in pixels of the area in which an edge begins and ends
EDGE_BLOCK = 32  # side in pixels of a block, whose steepest edge counts
WIDTH_OF_BLUR = math.sqrt(2 * math.pi)  # width of a step that is blurred with standard deviation 1
MIN_EDGES = 8
SHARPEST = 20  # percentile of the edges' widths: some edges of a part are round
TRIMMED = 90  # percentile up to which squares of differences count
TRIMMED_VARIANCE = 0.623  # mean of the squares of a standard normal variable up to this percentile
MAX_POSITION_ERROR = 0.1  # pixels; a movement known less precisely is left out
# A pixel that blinks changes by these grey levels, and by this multiple of the noise
BLINK_LEVELS = 30.0
BLINK_NOISE = 10.0
WHITE_LEVEL = 254.0  # grey level above which a pixel counts as saturated
BACKLIGHT_SHARE = 0.3  # with a larger share of white pixels there is a light behind the part


class Sample(NamedTuple):
    """Measurements of a frame.

    Attributes:
        middle: Grey levels [H, W] of the frame's middle.
        blocks: Means [BLOCKS, BLOCKS] of its blocks.
        colours: Means of red, green and blue.
        white: Share of the pixels that are white.
    """

    middle: Floats
    blocks: Floats
    colours: Floats
    white: float


@dataclass(frozen=True)
class Frames:
    """Measurements of N frames. Frames that are equal to the frame before are counted, but not measured.

    Attributes:
        middles: Grey levels [N, H, W] of the frames' middles.
        blocks: Means [N, BLOCKS, BLOCKS] of their blocks.
        colours: Means [N, 3] of red, green and blue.
        white: Share of the pixels that are white.
        size: (H, W) of a frame.
        count: Number of all frames, including those that were not measured.
    """

    middles: Floats
    blocks: Floats
    colours: Floats
    white: float
    size: tuple[int, int]
    count: int

    @property
    def repeated(self) -> int:
        """Number of frames that are equal to the frame before, pixel by pixel."""
        return self.count - len(self.middles)


@dataclass(frozen=True)
class Measurement:
    """Measured property of the frames.

    Attributes:
        name: Name of the property.
        value: Value in `unit`; None where the frames do not show it.
        unit: Unit of the value.
        limit: Value from which on it is a fault.
        cost: Words for the harm that it does.
        remedy: Words for the remedy of a fault.
    """

    name: str
    value: float | None
    unit: str
    limit: float
    cost: str
    remedy: str

    @property
    def code(self) -> str:
        """Name for a program."""
        return self.name.replace(" ", "_")

    @property
    def is_fault(self) -> bool:
        """Whether the value is known and reaches the limit."""
        return self.value is not None and self.value >= self.limit

    def line(self) -> str:
        """Return the measurement as one line for people."""
        if self.value is None:
            return f"  {self.name:<18} {'not known':<20} {self.cost}"
        value = f"{self.value:.2g} {self.unit}"
        if not self.is_fault:
            return f"  {self.name:<18} {value:<20} {self.cost}".rstrip()
        return f"! {self.name:<18} {value:<20} {self.cost}: {self.remedy}"


@dataclass(frozen=True)
class StillReport:
    """Measurements of frames of one part that lies still.

    Attributes:
        count: Number of frames.
        size: (H, W) of each frame.
        measurements: The measurements.
    """

    count: int
    size: tuple[int, int]
    measurements: tuple[Measurement, ...]

    @property
    def faults(self) -> list[Measurement]:
        """Measurements that reach their limit."""
        return [measurement for measurement in self.measurements if measurement.is_fault]

    @property
    def is_fault(self) -> bool:
        """Whether any measurement is a fault."""
        return bool(self.faults)

    def lines(self) -> list[str]:
        """Return lines for people: one for each measurement, faults marked by "!"."""
        height, width = self.size
        head = f"{pluralize(self.count, 'frame')} of {width} x {height} pixels, in grey levels of 0 to 255"
        result = pluralize(len(self.faults), "fault") if self.faults else "nothing found"
        return [head, *(measurement.line() for measurement in self.measurements), result]

    def to_dict(self) -> dict[str, object]:
        """Return the report as values that JSON can hold."""
        rows = [
            {"code": measurement.code, **asdict(measurement), "fault": measurement.is_fault}
            for measurement in self.measurements
        ]
        return {"frames": self.count, "size": [*self.size], "measurements": rows}


def check_still_frames(
    sources: Sequence[Frame], progress: Callable[[int, int], None] | None = None
) -> StillReport:
    """Measure noise, light, movement, focus and saturation in frames of one part that lies still.

    Args:
        sources: At least `MIN_FRAMES` pictures of one size, in the order in which a running camera took them.
            Nothing may have been moved or switched meanwhile. Only the first `MAX_FRAMES` are measured.
        progress: Is called with the number of frames that were read, and the number of all frames.

    Raises:
        InputError: The frames are too few, cannot be read, or differ in size.
    """
    frames = _read_frames(sources[:MAX_FRAMES], progress)
    return StillReport(frames.count, frames.size, tuple(_measure(frames)))


# ---------------------------------------------------------------------------------------------------- reading


def _other_size_error(
    source: Frame, number: int, size: tuple[int, int], first_size: tuple[int, int]
) -> InputError:
    """Return the error of a frame that has another size than the first frame.

    Args:
        source: The frame.
        number: Number of the frame.
        size: (H, W) of the frame.
        first_size: (H, W) of the first frame.
    """
    name = str(source) if isinstance(source, Path) else f"frame {number}"
    height, width = size
    first_height, first_width = first_size
    return InputError(
        f"{name}: {width} x {height} pixels, the frames before {first_width} x {first_height}: give "
        "frames of one camera at one setting"
    )


def _read_frames(sources: Sequence[Frame], progress: Callable[[int, int], None] | None) -> Frames:
    """Read frames, and measure those that differ from the frame before.

    The arguments and errors are those of `check_still_frames`.
    """
    if len(sources) < MIN_FRAMES:
        frames = pluralize(len(sources), "frame")
        raise InputError(
            f"{frames} of the still part: give {MIN_FRAMES} or more, about 30, one after another"
        )
    samples = list[Sample]()
    first_size = None
    white = None
    previous_hash = ""
    for number, source in enumerate(sources):
        picture = decode(source)
        size = (picture.shape[0], picture.shape[1])
        first_size = first_size or size
        white = white or _white_level(picture)
        if size != first_size:
            raise _other_size_error(source, number, size, first_size)
        frame_hash = pixel_hash(picture)
        if frame_hash != previous_hash:
            samples.append(_sample(picture, white))
        previous_hash = frame_hash
        if progress is not None:
            progress(number + 1, len(sources))
    assert first_size is not None  # there are frames
    return _stack_samples(samples, first_size, len(sources))


def _stack_samples(samples: Sequence[Sample], size: tuple[int, int], count: int) -> Frames:
    """Stack the measurements of frames.

    Args:
        samples: Measurements of each frame that differs from the frame before.
        size: (H, W) of a frame.
        count: Number of frames that were read.
    """
    middles = np.stack([sample.middle for sample in samples])
    blocks = np.stack([sample.blocks for sample in samples])
    colours = np.stack([sample.colours for sample in samples])
    mean_white = float(np.mean([sample.white for sample in samples]))
    return Frames(middles, blocks, colours, mean_white, size, count)


def _white_level(picture: NDArray[np.generic]) -> float:
    """Return the value of white: 255; for a deep picture the largest value with the bits that it uses."""
    return 255.0 if picture.dtype == np.uint8 else white_of(float(picture.max()), picture.dtype.kind)


def _sample(picture: NDArray[np.generic], white: float) -> Sample:
    """Measure a decoded picture.

    Args:
        picture: The picture [H, W, C].
        white: Value of white in the picture.
    """
    height, width = picture.shape[:2]
    levels = np.asarray(picture, np.float32) * np.float32(255 / white)
    grey = levels.mean(axis=2)
    top = max(0, (height - CROP_SIDE) // 2)
    left = max(0, (width - CROP_SIDE) // 2)
    middle = grey[top : top + CROP_SIDE, left : left + CROP_SIDE]
    colours = levels.mean(axis=(0, 1)) if levels.shape[2] == 3 else np.full(3, grey.mean(), np.float32)
    return Sample(
        middle=np.ascontiguousarray(middle),
        blocks=_block_means(grey),
        colours=colours,
        white=float((grey > WHITE_LEVEL).mean()),
    )


def _block_means(grey: Floats) -> Floats:
    """Return the means of `BLOCKS` x `BLOCKS` blocks of a frame; of fewer if it has fewer rows or columns."""
    height, width = grey.shape
    row_count = min(BLOCKS, height)
    column_count = min(BLOCKS, width)
    block_height = height // row_count
    block_width = width // column_count
    covered = grey[: block_height * row_count, : block_width * column_count]
    blocks = covered.reshape(row_count, block_height, column_count, block_width)
    return np.asarray(blocks.mean(axis=(1, 3)), np.float32)


# -------------------------------------------------------------------------------------------------- measuring


def _measure(frames: Frames) -> Iterator[Measurement]:
    """Yield the measurements; if too few frames differ, only the number of repeated frames."""
    yield Measurement(
        name="repeated frames",
        value=float(frames.repeated),
        unit="frames",
        limit=1.0,
        cost="each is one picture again",
        remedy="the camera or its driver is frozen, or slower than it is asked: lower the rate",
    )
    if len(frames.middles) < MIN_FRAMES:
        return
    light = _measure_light(frames)
    yield from light.measurements()
    evenly_lit = frames.middles / light.gains[:, None, None]  # all as bright as the usual frame
    reference = np.median(evenly_lit, axis=0).astype(np.float32)
    movement = _measure_movement(evenly_lit, reference)
    still = _undo_movement(evenly_lit, reference, movement)
    noise = _noise(still)
    yield _noise_measurement(noise)
    yield _band_measurement(still, noise)
    yield from _movement_measurements(movement, reference)
    yield from _focus_measurements(evenly_lit, noise)
    yield _white_measurement(frames.white)
    yield _change_measurement(still)
    yield _blink_measurement(still, noise)


class Light(NamedTuple):
    """Brightness of the frames.

    Attributes:
        gains: Brightness [N] of each frame as a factor of the usual frame's.
        level: Grey levels of the usual frame.
        flicker: Change from frame to frame, in grey levels.
        drift: Change from the first frame to the last, in grey levels.
        step: Sudden change, in grey levels.
        colour: Change of colour, in grey levels.
    """

    gains: Floats
    level: float
    flicker: float
    drift: float
    step: float
    colour: float

    def measurements(self) -> Iterator[Measurement]:
        """Yield flicker, drift, sudden change and change of colour, each with its limit and remedy."""
        yield Measurement(
            name="flicker",
            value=self.flicker,
            unit="grey levels",
            limit=0.7,
            cost=f"a change of light below {3 * self.flicker:.1f} does not stand out",
            remedy="drive the lamps with direct current or at some kHz, expose for a multiple of 10 ms "
            "(8.33 ms), keep daylight out",
        )
        yield Measurement(
            name="drift",
            value=self.drift,
            unit="grey levels",
            limit=2.0,
            cost="brightness from the first frame to the last",
            remedy="let lamps and camera warm up, or regulate the lamp; calibrate when it is warm",
        )
        yield Measurement(
            name="sudden change",
            value=self.step,
            unit="grey levels",
            limit=STEP_LEVELS,
            cost="brightness from one frame to the next",
            remedy="switch off automatic exposure and gain; keep other lights out",
        )
        yield Measurement(
            name="colour",
            value=self.colour,
            unit="grey levels",
            limit=2.0,
            cost="red or blue beside green",
            remedy="switch off automatic white balance",
        )


def _measure_light(frames: Frames) -> Light:
    """Measure the brightness of the frames, without the blocks that are dark in most frames."""
    usual_blocks = np.median(frames.blocks, axis=0)
    is_lit = usual_blocks > MIN_BRIGHTNESS
    if not is_lit.any():
        is_lit = np.ones_like(usual_blocks, bool)
    ratios = frames.blocks[:, is_lit] / np.maximum(usual_blocks[is_lit], 1e-3)
    gains = np.median(ratios, axis=1).astype(np.float32)
    gains = np.clip(gains, 0.1, 10.0)
    level = float(usual_blocks[is_lit].mean())
    brightness = level * gains.astype(np.float64)
    changes = np.diff(brightness)
    max_change = max(STEP_LEVELS, STEP_RATIO * _spread(changes))
    is_sudden = np.abs(changes - np.median(changes)) > max_change
    largest_step = 0.0
    if 0 < is_sudden.sum() <= MAX_STEPS:
        largest_step = float(np.abs(changes[is_sudden]).max())
        changes = np.where(is_sudden, np.median(changes[~is_sudden]), changes)
    brightness_without_steps = np.concatenate([[0.0], np.cumsum(changes)])
    times = np.arange(len(brightness_without_steps))
    slope, start = np.polyfit(times, brightness_without_steps, 1)
    flicker = float(np.std(brightness_without_steps - slope * times - start))
    drift = float(abs(slope) * (len(brightness_without_steps) - 1))
    if drift < 3 * flicker:  # a slope that flicker explains is no drift
        drift = 0.0
    return Light(
        gains=gains,
        level=level,
        flicker=flicker,
        drift=drift,
        step=largest_step,
        colour=_colour_change(frames.colours),
    )


def _spread(values: NDArray[np.float64]) -> float:
    """Estimate the standard deviation of normally distributed values, some of which may be outliers."""
    return NORMAL_MAD * float(np.median(np.abs(values - np.median(values))))


def _colour_change(colours: Floats) -> float:
    """Return the largest change of red or blue in relation to green, in grey levels.

    The frames are divided into about five sections, and the means of the sections are compared.

    Args:
        colours: Means [N, 3] of red, green and blue of each frame.
    """
    red_and_blue = colours[:, [0, 2]]
    green = colours[:, 1:2]
    ratios = (red_and_blue / np.maximum(green, 1e-3)).astype(np.float64)
    section_length = max(2, len(ratios) // 5)
    starts = range(0, len(ratios) - section_length + 1, section_length)
    means = np.stack([ratios[start : start + section_length].mean(axis=0) for start in starts])
    largest_change = (means.max(axis=0) - means.min(axis=0)).max()
    return float(largest_change * colours[:, 1].mean())  # from a ratio to grey levels


def _noise(still: Floats) -> float:
    """Return the standard deviation of a pixel from frame to frame, in grey levels."""
    is_usable = (still.min(axis=0) > 1.0) & (still.max(axis=0) < 254.0)  # neither black nor saturated
    if is_usable.mean() < 0.01:
        is_usable[:] = True
    squares = np.concatenate([(after - before)[is_usable] ** 2 for before, after in pairwise(still)])
    limit = np.percentile(squares, TRIMMED)
    small_squares = squares[squares <= limit]
    # a difference of two frames has twice the variance of a frame
    return float(np.sqrt(small_squares.mean() / TRIMMED_VARIANCE / 2))


def _noise_measurement(noise: float) -> Measurement:
    """Return the measurement of noise, given its standard deviation."""
    min_contrast = STANDS_OUT * noise / SPOT_SIDE
    return Measurement(
        name="noise",
        value=noise,
        unit="grey levels",
        limit=3.0,
        cost=f"a spot of {SPOT_SIDE} x {SPOT_SIDE} pixels stands out from {min_contrast:.1f} on",
        remedy="more light and less gain; a longer exposure, or the mean of several frames",
    )


def _band_measurement(still: Floats, noise: float) -> Measurement:
    """Measure bands of brightness in the frames, as lamps cause them with a rolling shutter."""
    bands = max(_bands(still, axis, noise) for axis in (1, 2))
    return Measurement(
        name="bands",
        value=bands,
        unit="grey levels",
        limit=0.7,
        cost=f"a change of light below {BAND_STANDS_OUT * bands:.1f} does not stand out",
        remedy="drive the lamps with direct current, or expose for a multiple of 10 ms (8.33 ms)",
    )


def _bands(still: Floats, axis: int, noise: float) -> float:
    """Return how much the brightness of bands varies between frames: its standard deviation in grey levels.

    Args:
        still: Frames [N, H, W] without movement.
        axis: 1: bands of neighbouring rows; 2: bands of neighbouring columns.
        noise: Standard deviation of a pixel from frame to frame.
    """
    other_axis = 3 - axis
    lines = still.mean(axis=other_axis)  # [N, lines]
    lines = lines - lines.mean(axis=1, keepdims=True)
    changes = lines - np.median(lines, axis=0)
    line_count = lines.shape[1]
    width = max(1, line_count // 48)  # neighbouring lines belong to the same band
    covered = changes[:, : line_count // width * width]
    bands = covered.reshape(len(lines), -1, width).mean(axis=2)
    variance_of_noise = noise**2 / (still.shape[other_axis] * width)
    variance = float(np.median(bands.var(axis=0)))
    return float(np.sqrt(max(0.0, variance - variance_of_noise)))


# --------------------------------------------------------------------------------------------------- movement


class Movement(NamedTuple):
    """Movement of the part in the frames.

    Attributes:
        shifts: Shift [N, 2] of the part in each frame against the reference, in rows and columns.
        error: Standard deviation of the shifts that is due to noise, in pixels.
    """

    shifts: NDArray[np.float64]
    error: float


def _slopes(reference: Floats) -> tuple[Floats, Floats]:
    """Return the change of brightness from row to row, and from column to column."""
    down, right = np.gradient(reference)
    return np.asarray(down, np.float32), np.asarray(right, np.float32)


def _measure_movement(frames: Floats, reference: Floats) -> Movement:
    """Measure the shift of the part in each frame against the reference.

    Whole pixels are found by correlation, and fractions of a pixel by the slopes of brightness (Lucas and
    Kanade, 1981).
    """
    from scipy import ndimage

    smooth = ndimage.gaussian_filter(reference, 1.0)
    down, right = _slopes(smooth)
    shifts = np.zeros((len(frames), 2))
    for number, frame in enumerate(frames):
        shift = _pixel_shift(frame, reference)
        for _ in range(3):
            moved = ndimage.shift(frame, -shift, order=1, mode="nearest")
            difference = ndimage.gaussian_filter(moved, 1.0) - smooth
            shift = shift + _solve_shift(difference, down, right)
        shifts[number] = shift
    median_change = np.median(np.abs(np.diff(frames, axis=0)))
    energy = float(min((down**2).sum(), (right**2).sum()))
    # 1.05 times the median absolute difference of two frames is the standard deviation of a frame's noise
    error = float(1.05 * median_change / np.sqrt(energy)) if energy else np.inf
    return Movement(shifts, error)


def _pixel_shift(frame: Floats, reference: Floats) -> NDArray[np.float64]:
    """Return the shift [2] of a frame against the reference in whole pixels, found by correlation.

    0 where the shift is one pixel or less (`_solve_shift` finds it), or too large to be likely.
    """
    from scipy import fft

    frame_spectrum = fft.rfft2(frame - frame.mean())
    reference_spectrum = fft.rfft2(reference - reference.mean())
    cross_spectrum = frame_spectrum * np.conj(reference_spectrum)
    amplitudes = np.abs(cross_spectrum)
    whitened = cross_spectrum / np.maximum(amplitudes, np.percentile(amplitudes, 90))
    correlation = fft.irfft2(whitened, s=frame.shape)
    peak = np.array(np.unravel_index(int(correlation.argmax()), frame.shape))
    sides = np.array(frame.shape)
    # shifts up or to the left have their peak at the other end
    shift = np.where(peak > sides // 2, peak - sides, peak)
    length = np.abs(shift).max()
    if length <= 1 or length > sides.min() // 4:
        return np.zeros(2)
    return shift.astype(np.float64)


def _solve_shift(difference: Floats, down: Floats, right: Floats) -> NDArray[np.float64]:
    """Return the small shift [2] that best explains the difference of a frame from the reference.

    The largest differences are left out, since something else may cause them. If the slopes have a single
    direction, the shift is not known, and the result is 0.

    Args:
        difference: The frame less the reference.
        down: Change of the reference's brightness from row to row.
        right: Change of the reference's brightness from column to column.
    """
    border = 4
    inner = (slice(border, -border), slice(border, -border))
    changes, down_slopes, right_slopes = (
        image[inner].ravel().astype(np.float64) for image in (difference, down, right)
    )
    max_change = max(3.0, float(np.percentile(np.abs(changes), 95)))
    is_usable = np.abs(changes) <= max_change
    slopes = np.stack([down_slopes[is_usable], right_slopes[is_usable]], axis=1)
    normal_matrix = slopes.T @ slopes
    if np.linalg.cond(normal_matrix) > 1e8:
        return np.zeros(2)
    return np.asarray(-np.linalg.solve(normal_matrix, slopes.T @ changes[is_usable]), np.float64)


def _undo_movement(frames: Floats, reference: Floats, movement: Movement) -> Floats:
    """Return the frames moved back onto the reference; unchanged where no movement is known.

    Args:
        frames: Frames [N, H, W].
        reference: The reference [H, W].
        movement: Movement of the frames, of some pixels at most.
    """
    from scipy import ndimage

    if movement.error > MAX_POSITION_ERROR or np.abs(movement.shifts).max() < 0.02:
        return frames
    down, right = _slopes(reference)
    moved_back = np.empty_like(frames)
    for number, (frame, shift) in enumerate(zip(frames, movement.shifts, strict=True)):
        pixel_shift = np.round(shift)
        moved = ndimage.shift(frame, -pixel_shift, order=0, mode="nearest") if pixel_shift.any() else frame
        # the rest of the shift is below a pixel: it changes the brightness by slope times rest
        rest_down, rest_right = (shift - pixel_shift).astype(np.float32)
        moved_back[number] = moved + rest_down * down + rest_right * right
    return moved_back


def _movement_measurements(movement: Movement, reference: Floats) -> Iterator[Measurement]:
    """Yield the slow movement, along a straight line fitted to the shifts, and the shake around this line.

    Args:
        movement: Movement of the frames.
        reference: The reference [H, W].
    """
    shifts = movement.shifts
    times = np.arange(len(shifts))
    fitted_columns = [np.polyval(np.polyfit(times, column, 1), times) for column in shifts.T]
    line_shifts = np.stack(fitted_columns, axis=1)
    shake = float(np.sqrt(((shifts - line_shifts) ** 2).sum(axis=1).mean()))
    creep = float(np.linalg.norm(line_shifts[-1] - line_shifts[0]))
    if creep < 3 * shake:  # a line that shaking explains is no slow movement
        creep = 0.0
    is_known = movement.error <= MAX_POSITION_ERROR
    down, right = _slopes(reference)
    steepest = float(np.percentile(np.hypot(down, right), 99))
    at_edges = f"edges change by {3 * shake * steepest:.0f} grey levels"
    unknown = "the part shows no edges that tell it"
    yield Measurement(
        name="shake",
        value=shake if is_known else None,
        unit="pixels",
        limit=0.25,
        cost=at_edges if is_known else unknown,
        remedy="mount camera and light on one stiff frame, away from machines that shake; expose for a "
        "shorter time",
    )
    yield Measurement(
        name="slow movement",
        value=creep if is_known else None,
        unit="pixels",
        limit=0.7,
        cost="from the first frame to the last" if is_known else unknown,
        remedy="fix the part and the camera; let the mount reach its temperature",
    )


# ------------------------------------------------------------------------------------------------------ focus


def _focus_measurements(frames: Floats, noise: float) -> Iterator[Measurement]:
    """Yield the width of edges in the first frame, and the change of focus among the frames."""
    from scipy import ndimage

    width = _edge_width(frames[0], noise)
    if width is None:
        cost = "the part shows no edges that tell it"
    else:
        contrast = _kept_contrast(blur=width / WIDTH_OF_BLUR)
        cost = f"a spot of {SPOT_SIDE} x {SPOT_SIDE} pixels keeps {100 * contrast:.0f} % of its contrast"
    yield Measurement(
        name="edges",
        value=width,
        unit="pixels wide",
        limit=6.0,
        cost=cost,
        remedy="focus on the part, close the aperture, or take a smaller picture: its pixels hold no more "
        "detail",
    )
    details = []
    for frame in frames:
        down, right = _slopes(ndimage.gaussian_filter(frame, 1.0))
        details.append(float(np.sqrt((down**2 + right**2).mean())))
    change = (max(details) - min(details)) / max(np.median(details), 1e-6)
    yield Measurement(
        name="change of focus",
        value=100.0 * float(change),
        unit="% of detail",
        limit=10.0,
        cost="between the sharpest and the least sharp frame",
        remedy="switch off automatic focus, and fix the ring of the lens",
    )


def _edge_width(frame: Floats, noise: float) -> float | None:
    """Return the width in pixels of the sharpest edges, from dark to bright; None where edges are too few.

    The width of an edge is its contrast divided by its steepest slope. For a step that is blurred with a
    standard deviation sigma, the width is 2.5 sigma. The frame is blurred here because of its noise, and this
    blur is subtracted from the width.
    """
    from scipy import ndimage

    down, right = _slopes(ndimage.gaussian_filter(frame, 1.0))
    slope = np.hypot(down, right)
    contrast = ndimage.maximum_filter(frame, EDGE_WINDOW) - ndimage.minimum_filter(frame, EDGE_WINDOW)
    contrast = contrast - 5.0 * noise  # noise makes the extremes of many pixels larger
    widths = list[float]()
    for top in range(0, frame.shape[0], EDGE_BLOCK):
        for left in range(0, frame.shape[1], EDGE_BLOCK):
            block = (slice(top, top + EDGE_BLOCK), slice(left, left + EDGE_BLOCK))
            place = np.unravel_index(int(slope[block].argmax()), slope[block].shape)
            edge_contrast = float(contrast[block][place])
            edge_slope = float(slope[block][place])
            if edge_contrast >= max(EDGE_CONTRAST, 12.0 * noise) and edge_slope > 0:
                widths.append(edge_contrast / edge_slope)
    if len(widths) < MIN_EDGES:
        return None
    blurred_width = float(np.percentile(widths, SHARPEST))
    return math.sqrt(max(1.0, blurred_width**2 - WIDTH_OF_BLUR**2))


def _kept_contrast(blur: float) -> float:
    """Return the share of its contrast that a spot of `SPOT_SIDE` pixels keeps in its middle.

    Args:
        blur: Standard deviation of the blur in pixels.
    """
    return 1.0 if blur <= 0 else math.erf(SPOT_SIDE / 2 / (math.sqrt(2) * blur)) ** 2


# ------------------------------------------------------------------------------------- white, changes, blinks


def _white_measurement(share: float) -> Measurement:
    """Return the measurement of white pixels.

    Args:
        share: Share of the pixels that are white. A large share means a backlight, which is no fault.
    """
    is_backlight = share > BACKLIGHT_SHARE
    cost = "there a defect is seen only where it is dark"
    return Measurement(
        name="white pixels",
        value=100.0 * share,
        unit="%",
        limit=100.1 if is_backlight else 1.0,  # more than 100 %: never reached
        cost=f"{cost}; right for a light behind the part" if is_backlight else cost,
        remedy="expose for a shorter time, close the aperture, or turn the light so that it does not shine "
        "back",
    )


def _change_measurement(still: Floats) -> Measurement:
    """Measure the share of blocks that change more than the others, because of shadows, belts or hands."""
    blocks = np.stack([_block_means(frame) for frame in still])
    deviations = blocks.std(axis=0)
    is_changing = deviations > max(1.5, 5 * float(np.median(deviations)))
    return Measurement(
        name="changing places",
        value=100.0 * float(is_changing.mean()),
        unit="% of the area",
        limit=1.0,
        cost="there something moves or the light changes",
        remedy="keep shadows and moving parts out of the picture, or leave them out by a region (--roi)",
    )


def _blink_measurement(still: Floats, noise: float) -> Measurement:
    """Count pixels that change by many grey levels, and more than their neighbours."""
    from scipy import ndimage

    usual_frame = np.median(still, axis=0)
    neighbourhood = np.ones((3, 3), bool)
    neighbourhood[1, 1] = False
    is_blinking = np.zeros(usual_frame.shape, bool)
    min_change = max(BLINK_LEVELS, BLINK_NOISE * noise)
    for frame in still:
        changes = np.abs(frame - usual_frame)
        changes_beside = ndimage.maximum_filter(changes, footprint=neighbourhood)
        is_blinking |= (changes > min_change) & (changes > 3 * changes_beside)
    return Measurement(
        name="blinking pixels",
        value=float(is_blinking.sum()),
        unit="pixels",
        limit=3.0,
        cost=f"each is a spot of {BLINK_LEVELS:.0f} grey levels or more now and then",
        remedy="correct them in the camera (defect pixel correction), and cool it",
    )
