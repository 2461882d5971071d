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
MAX_FRAMES = 60  # the first ones: more show nothing new
CROP_SIDE = 768  # pixels of the middle, in which noise, edges and movement are measured
BLOCKS = 16  # along each side of a frame, in which brightness is measured
MIN_BRIGHTNESS = 8.0  # grey levels of a block whose brightness shows the light
# grey levels of a sudden change, and times the usual change
STEP_LEVELS = 2.0
STEP_RATIO = 6.0
MAX_STEPS = 3  # more sudden changes are flicker
SPOT_SIDE = 3  # pixels of the defect by which costs are described
STANDS_OUT = 5.0  # standard deviations: a spot
BAND_STANDS_OUT = 3.0  # standard deviations: a change of light over the whole picture
EDGE_CONTRAST = 25.0  # grey levels of an edge by which focus is measured
EDGE_WINDOW = 21  # pixels in which an edge begins and ends
EDGE_BLOCK = 32  # pixels: the steepest edge of each block counts
WIDTH_OF_BLUR = math.sqrt(2 * math.pi)  # of a step that is blurred with standard deviation 1
MIN_EDGES = 8
SHARPEST = 20  # percentile of the edges' widths: some edges of a part are round
# percentile of squares; mean of those below, of a normal variable
TRIMMED = 90
TRIMMED_VARIANCE = 0.623
MAX_POSITION_ERROR = 0.1  # pixels: a movement known less precisely is left out
# grey levels, and standard deviations, by which a pixel blinks
BLINK_LEVELS = 30.0
BLINK_NOISE = 10.0
WHITE_LEVEL = 254.0  # grey levels: of brighter light no more is seen
BACKLIGHT_SHARE = 0.3  # of the pixels: more white is a light behind the part


class Sample(NamedTuple):
    """Measurements of one frame.

    Attributes:
        middle: Grey levels [H, W] of its middle.
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
    """Frames that differ from the one before, and the number of all.

    Attributes:
        middles: Grey levels [N, H, W] of their middles.
        blocks: Means [N, BLOCKS, BLOCKS] of their blocks.
        colours: Means [N, 3] of red, green and blue.
        white: Share of the pixels that are white.
        size: (H, W) of a frame.
        count: Number of all frames.
    """

    middles: Floats
    blocks: Floats
    colours: Floats
    white: float
    size: tuple[int, int]
    count: int

    @property
    def repeated(self) -> int:
        """Number of frames that are equal to the one before, pixel by pixel."""
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
        found = pluralize(len(self.faults), "fault") if self.faults else "nothing found"
        return [head, *(measurement.line() for measurement in self.measurements), found]

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
        sources: At least `MIN_FRAMES` pictures of one size, in their order; of more than `MAX_FRAMES` the
            first ones are measured. From a running camera, with nothing moved or switched meanwhile.
        progress: Called with the number of frames that are read, and of all.

    Raises:
        InputError: They are too few, cannot be read, or differ in size.
    """
    frames = _read(sources[:MAX_FRAMES], progress or (lambda done, total: None))
    return StillReport(frames.count, frames.size, tuple(_measure(frames)))


# ---------------------------------------------------------------------------------------------------- reading


def _other_size(source: Frame, number: int, shape: tuple[int, int], size: tuple[int, int]) -> InputError:
    name = str(source) if isinstance(source, Path) else f"frame {number}"
    return InputError(
        f"{name}: {shape[1]} x {shape[0]} pixels, the frames before {size[1]} x {size[0]}: give "
        "frames of one camera at one setting"
    )


def _read(sources: Sequence[Frame], progress: Callable[[int, int], None]) -> Frames:
    if len(sources) < MIN_FRAMES:
        given = pluralize(len(sources), "frame")
        raise InputError(f"{given} of the still part: give {MIN_FRAMES} or more, about 30, one after another")
    samples = list[Sample]()
    size = None
    white = None
    before = ""
    for number, source in enumerate(sources):
        picture = decode(source)
        shape = (picture.shape[0], picture.shape[1])
        size = size or shape
        white = white or _white_level(picture)
        if shape != size:
            raise _other_size(source, number, shape, size)
        now = pixel_hash(picture)
        if now != before:
            samples.append(_sample(picture, white))
        before = now
        progress(number + 1, len(sources))
    assert size is not None  # there are frames
    return _stack_samples(samples, size, len(sources))


def _stack_samples(samples: Sequence[Sample], size: tuple[int, int], count: int) -> Frames:
    """Stack the measurements of frames of this size; `count` is the number of frames that were read."""
    middle = np.stack([sample.middle for sample in samples])
    blocks = np.stack([sample.blocks for sample in samples])
    colours = np.stack([sample.colours for sample in samples])
    mean_white = float(np.mean([sample.white for sample in samples]))
    return Frames(middle, blocks, colours, mean_white, size, count)


def _white_level(picture: NDArray[np.generic]) -> float:
    """Return the white value; of deep pictures the largest with as many bits as the first picture uses."""
    return 255.0 if picture.dtype == np.uint8 else white_of(float(picture.max()), picture.dtype.kind)


def _sample(picture: NDArray[np.generic], white: float) -> Sample:
    height, width = picture.shape[:2]
    levels = np.asarray(picture, np.float32) * np.float32(255 / white)
    grey = levels.mean(axis=2)
    top = max(0, (height - CROP_SIDE) // 2)
    left = max(0, (width - CROP_SIDE) // 2)
    middle = grey[top : top + CROP_SIDE, left : left + CROP_SIDE]
    colours = levels.mean(axis=(0, 1)) if levels.shape[2] == 3 else np.full(3, grey.mean(), np.float32)
    return Sample(
        np.ascontiguousarray(middle), _block_means(grey), colours, float((grey > WHITE_LEVEL).mean())
    )


def _block_means(grey: Floats) -> Floats:
    """Return the means of `BLOCKS` x `BLOCKS` blocks, or of fewer where a frame has fewer pixels."""
    height, width = grey.shape
    rows, columns = min(BLOCKS, height), min(BLOCKS, width)
    cut = grey[: height // rows * rows, : width // columns * columns]
    tiles = cut.reshape(rows, cut.shape[0] // rows, columns, cut.shape[1] // columns)
    return np.asarray(tiles.mean(axis=(1, 3)), np.float32)


# -------------------------------------------------------------------------------------------------- measuring


def _measure(frames: Frames) -> Iterator[Measurement]:
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
    evenly_lit = frames.middles / light.gains[:, None, None]
    reference = np.median(evenly_lit, axis=0).astype(np.float32)
    movement = _measure_movement(evenly_lit, reference)
    still = _undo_movement(evenly_lit, reference, movement)
    noise = _noise(still)
    yield _noise_measurement(noise)
    yield _band_measurement(still, noise)
    yield from _movement_measurements(movement, reference, noise)
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
    usual = np.median(frames.blocks, axis=0)
    lit = usual > MIN_BRIGHTNESS
    if not lit.any():
        lit = np.ones_like(usual, bool)
    ratios = frames.blocks[:, lit] / np.maximum(usual[lit], 1e-3)
    gains = np.median(ratios, axis=1).astype(np.float32)
    gains = np.clip(gains, 0.1, 10.0)
    level = float(usual[lit].mean())
    brightness = level * gains.astype(np.float64)
    changes = np.diff(brightness)
    sudden = np.abs(changes - np.median(changes)) > max(STEP_LEVELS, STEP_RATIO * _spread(changes))
    step = 0.0
    if 0 < sudden.sum() <= MAX_STEPS:
        step = float(np.abs(changes[sudden]).max())
        changes = np.where(sudden, np.median(changes[~sudden]), changes)
    smooth = np.concatenate([[0.0], np.cumsum(changes)])
    times = np.arange(len(smooth))
    slope, start = np.polyfit(times, smooth, 1)
    flicker = float(np.std(smooth - slope * times - start))
    drift = float(abs(slope) * (len(smooth) - 1))
    if drift < 3 * flicker:  # the line through a flicker is no drift
        drift = 0.0
    return Light(gains, level, flicker, drift, step, _colour_change(frames.colours))


def _spread(values: NDArray[np.float64]) -> float:
    """Return the standard deviation of normal values among which are some outliers."""
    return NORMAL_MAD * float(np.median(np.abs(values - np.median(values))))


def _colour_change(colours: Floats) -> float:
    """Return how far red or blue goes beside green between the first and the last frames, or within them."""
    beside = (colours[:, [0, 2]] / np.maximum(colours[:, 1:2], 1e-3)).astype(np.float64)
    count = max(2, len(beside) // 5)
    means = np.stack([beside[k : k + count].mean(axis=0) for k in range(0, len(beside) - count + 1, count)])
    return float((means.max(axis=0) - means.min(axis=0)).max() * colours[:, 1].mean())


def _noise(still: Floats) -> float:
    """Return the standard deviation of a pixel from frame to frame, in grey levels."""
    usable = (still.min(axis=0) > 1.0) & (still.max(axis=0) < 254.0)
    if usable.mean() < 0.01:
        usable[:] = True
    squares = np.concatenate([(b - a)[usable] ** 2 for a, b in pairwise(still)])
    limit = np.percentile(squares, TRIMMED)
    small = squares[squares <= limit]
    return float(np.sqrt(small.mean() / TRIMMED_VARIANCE / 2))


def _noise_measurement(noise: float) -> Measurement:
    least = STANDS_OUT * noise / SPOT_SIDE
    return Measurement(
        name="noise",
        value=noise,
        unit="grey levels",
        limit=3.0,
        cost=f"a spot of {SPOT_SIDE} x {SPOT_SIDE} pixels stands out from {least:.1f} on",
        remedy="more light and less gain; a longer exposure, or the mean of several frames",
    )


def _band_measurement(still: Floats, noise: float) -> Measurement:
    """Measure brightness that runs through the frames in bands, as lamps do with a rolling shutter."""
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
    lines = still.mean(axis=3 - axis)  # [N, lines]
    lines = lines - lines.mean(axis=1, keepdims=True)
    changes = lines - np.median(lines, axis=0)
    width = max(1, lines.shape[1] // 48)  # neighbouring lines are alike in a band
    usable = changes[:, : lines.shape[1] // width * width]
    smooth = usable.reshape(len(lines), -1, width).mean(axis=2)
    expected = noise**2 / (still.shape[3 - axis] * width)
    variance = float(np.median(smooth.var(axis=0)))
    return float(np.sqrt(max(0.0, variance - expected)))


# --------------------------------------------------------------------------------------------------- movement


class Movement(NamedTuple):
    """Movement of the frames beside the reference.

    Attributes:
        shifts: Rows and columns [N, 2] that each frame's part lies from the reference's, in pixels.
        error: Standard deviation of a shift because of noise.
    """

    shifts: NDArray[np.float64]
    error: float


def _slopes(reference: Floats) -> tuple[Floats, Floats]:
    down, right = np.gradient(reference)
    return np.asarray(down, np.float32), np.asarray(right, np.float32)


def _measure_movement(frames: Floats, reference: Floats) -> Movement:
    """Return how far the part of each frame lies from that of the reference.

    Whole pixels are found by correlation, the rest by the slopes of brightness (Lucas and Kanade, 1981).
    """
    from scipy import ndimage

    smooth = ndimage.gaussian_filter(reference, 1.0)
    down, right = _slopes(smooth)
    shifts = np.zeros((len(frames), 2))
    for number, frame in enumerate(frames):
        shift = _whole_shift(frame, reference)
        for _ in range(3):
            moved = ndimage.shift(frame, -shift, order=1, mode="nearest")
            difference = ndimage.gaussian_filter(moved, 1.0) - smooth
            shift = shift + _solve_shift(difference, down, right)
        shifts[number] = shift
    changes = np.median(np.abs(np.diff(frames, axis=0)))
    energy = float(min((down**2).sum(), (right**2).sum()))
    error = float(1.05 * changes / np.sqrt(energy)) if energy else np.inf
    return Movement(shifts, error)


def _whole_shift(frame: Floats, reference: Floats) -> NDArray[np.float64]:
    from scipy import fft

    spectrum, other = (fft.rfft2(image - image.mean()) for image in (frame, reference))
    cross = spectrum * np.conj(other)
    weights = np.abs(cross)
    correlation = fft.irfft2(cross / np.maximum(weights, np.percentile(weights, 90)), s=frame.shape)
    peak = np.array(np.unravel_index(int(correlation.argmax()), frame.shape))
    sides = np.array(frame.shape)
    shift = np.where(peak > sides // 2, peak - sides, peak)
    is_still = np.abs(shift).max() <= 1 or np.abs(shift).max() > sides.min() // 4  # far: no part, a chance
    return np.zeros(2) if is_still else shift.astype(np.float64)


def _solve_shift(difference: Floats, down: Floats, right: Floats) -> NDArray[np.float64]:
    """Return the shift that explains a difference by slopes, leaving out places that changed otherwise."""
    border = 4
    inner = (slice(border, -border), slice(border, -border))
    values = [image[inner].ravel().astype(np.float64) for image in (difference, down, right)]
    changed, first, other = values
    usable = np.abs(changed) <= max(3.0, float(np.percentile(np.abs(changed), 95)))
    matrix = np.stack([first[usable], other[usable]], axis=1)
    normal = matrix.T @ matrix
    if np.linalg.cond(normal) > 1e8:
        return np.zeros(2)
    return np.asarray(-np.linalg.solve(normal, matrix.T @ changed[usable]), np.float64)


def _undo_movement(frames: Floats, reference: Floats, movement: Movement) -> Floats:
    """Return frames moved back onto the reference, for movements of some pixels.

    They stay as they are where the movement is not known or is none.
    """
    from scipy import ndimage

    if movement.error > MAX_POSITION_ERROR or np.abs(movement.shifts).max() < 0.02:
        return frames
    down, right = _slopes(reference)
    still = np.empty_like(frames)
    for number, (frame, shift) in enumerate(zip(frames, movement.shifts, strict=True)):
        whole = np.round(shift)
        moved = ndimage.shift(frame, -whole, order=0, mode="nearest") if whole.any() else frame
        rest = (shift - whole).astype(np.float32)
        still[number] = moved + rest[0] * down + rest[1] * right
    return still


def _movement_measurements(movement: Movement, reference: Floats, noise: float) -> Iterator[Measurement]:
    shifts = movement.shifts
    times = np.arange(len(shifts))
    lines = [np.polyval(np.polyfit(times, column, 1), times) for column in shifts.T]
    way = np.stack(lines, axis=1)
    shake = float(np.sqrt(((shifts - way) ** 2).sum(axis=1).mean()))
    creep = float(np.linalg.norm(way[-1] - way[0]))
    if creep < 3 * shake:  # the line through a shake is no way
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
    from scipy import ndimage

    width = _edge_width(frames[0], noise)
    blur = 0.0 if width is None else width / WIDTH_OF_BLUR  # standard deviation of a blur of such edges
    kept = _kept_contrast(blur)
    yield Measurement(
        name="edges",
        value=width,
        unit="pixels wide",
        limit=6.0,
        cost=f"a spot of {SPOT_SIDE} x {SPOT_SIDE} pixels keeps {100 * kept:.0f} % of its contrast"
        if width is not None
        else "the part shows no edges that tell it",
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
    """Return how many pixels the sharpest edges take from dark to bright; None where there are too few.

    A step that is blurred with standard deviation s is 2.5 s wide, as its steepest slope shows. Slopes are
    those of a picture that is blurred against its noise; this blur is taken off again.
    """
    from scipy import ndimage

    down, right = _slopes(ndimage.gaussian_filter(frame, 1.0))
    slope = np.hypot(down, right)
    contrast = ndimage.maximum_filter(frame, EDGE_WINDOW) - ndimage.minimum_filter(frame, EDGE_WINDOW)
    contrast = contrast - 5.0 * noise  # the extremes of many pixels are noise, too
    widths = list[float]()
    for top in range(0, frame.shape[0], EDGE_BLOCK):
        for left in range(0, frame.shape[1], EDGE_BLOCK):
            block = (slice(top, top + EDGE_BLOCK), slice(left, left + EDGE_BLOCK))
            place = np.unravel_index(int(slope[block].argmax()), slope[block].shape)
            height = float(contrast[block][place])
            steepest = float(slope[block][place])
            if height >= max(EDGE_CONTRAST, 12.0 * noise) and steepest > 0:
                widths.append(height / steepest)
    if len(widths) < MIN_EDGES:
        return None
    measured = float(np.percentile(widths, SHARPEST))
    return math.sqrt(max(1.0, measured**2 - WIDTH_OF_BLUR**2))


def _kept_contrast(blur: float) -> float:
    """Return the share of its contrast that a spot of `SPOT_SIDE` pixels keeps in the middle."""
    return 1.0 if blur <= 0 else math.erf(SPOT_SIDE / 2 / (math.sqrt(2) * blur)) ** 2


# ------------------------------------------------------------------------------------- white, changes, blinks


def _white_measurement(share: float) -> Measurement:
    is_backlight = share > BACKLIGHT_SHARE
    cost = "there a defect is seen only where it is dark"
    return Measurement(
        name="white pixels",
        value=100.0 * share,
        unit="%",
        limit=100.1 if is_backlight else 1.0,
        cost=f"{cost}; right for a light behind the part" if is_backlight else cost,
        remedy="expose for a shorter time, close the aperture, or turn the light so that it does not shine "
        "back",
    )


def _change_measurement(still: Floats) -> Measurement:
    """Measure the share of the middle that changes otherwise than the rest: shadows, belts, hands."""
    blocks = np.stack([_block_means(frame) for frame in still])
    spread = blocks.std(axis=0)
    changing = spread > max(1.5, 5 * float(np.median(spread)))
    return Measurement(
        name="changing places",
        value=100.0 * float(changing.mean()),
        unit="% of the area",
        limit=1.0,
        cost="there something moves or the light changes",
        remedy="keep shadows and moving parts out of the picture, or leave them out by a region (--roi)",
    )


def _blink_measurement(still: Floats, noise: float) -> Measurement:
    """Count pixels that change alone, and far."""
    from scipy import ndimage

    usual = np.median(still, axis=0)
    around = np.ones((3, 3), bool)
    around[1, 1] = False
    blinks = np.zeros(usual.shape, bool)
    for frame in still:
        far = np.abs(frame - usual)
        neighbours = ndimage.maximum_filter(far, footprint=around)
        blinks |= (far > max(BLINK_LEVELS, BLINK_NOISE * noise)) & (far > 3 * neighbours)
    return Measurement(
        name="blinking pixels",
        value=float(blinks.sum()),
        unit="pixels",
        limit=3.0,
        cost=f"each is a spot of {BLINK_LEVELS:.0f} grey levels or more now and then",
        remedy="correct them in the camera (defect pixel correction), and cool it",
    )
