"""Camera faults that pictures show: off, covered, out of focus, moved, frozen.

Needs no station: it takes pictures and returns words. Pictures are compared with the first `REFERENCE` good
ones of a version, and a fault is reported after `ROW` pictures in a row beyond their range. While pictures
are exchangeable with the reference, the probability that m in a row all lie beyond the most extreme of r is
m! r! / (m + r)!, here 3 in 10 million; the margins below make false alarms rarer still.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

REFERENCE = 50  # pictures
ROW = 5  # pictures in a row that show a fault; as many are averaged to measure a shift
SIDE = 512  # pixels of the longer side at which edges are measured, at least, where the picture has them
GRID = 128  # pixels of the longer side at which shifts are measured
SAME = 10  # equal pictures in a row are a frozen camera
SAME_SECONDS = 30.0  # from the first to the last of them
DARK, COVERED, BLURRED, MOVED, FROZEN = "dark", "covered", "blurred", "moved", "frozen"
KINDS = (DARK, COVERED, BLURRED, MOVED, FROZEN)
BLACK = 0.02  # brightness, 0..1, below which a picture shows nothing
WHITE = 0.98  # share of clipped pixels above which it shows nothing either
FAINT = 0.25  # share of the least brightness or detail of the reference
FLAT = 0.5  # share of its least contrast
SOFT = 0.45  # octaves of sharpness lost by a blurred picture, at least,
LOST = 1.0  # or octaves of fine edges: a fine texture has no coarse ones that would stay
UNLIKE = -2.0  # widths below the range of the training pictures, for models that know it
CLEAR = 0.15  # least clarity of a shift that is believed; equal pictures have 1
HAZY = 0.6  # share of the least clarity within the reference
STILL = 0.03  # share of the longer side: reference pictures that lie farther apart are not still
FARTHER = 0.012  # share of the longer side beyond the reference's own shifts
Grey = NDArray[np.float32]


@dataclass(frozen=True)
class Look:
    """Measurements of a picture.

    brightness, contrast: mean and standard deviation of the grey values, 0..1. white: share of clipped
    pixels.
    detail: mean step from one of about 128 points a side to the next.
    sharpness: log2 of the strongest fine edges against the strongest coarse ones, nearly whatever is shown.
    fine: log2 of the strongest fine edges against the brightness.
    small: grey values [GRID or less, GRID or less], 0..1.
    """

    brightness: float
    contrast: float
    white: float
    detail: float
    sharpness: float
    fine: float
    small: Grey = field(repr=False)


def look(image: Image.Image, white_level: float | None = None) -> Look:
    """Measure a picture, decoded at a reduced size where its format allows that.

    Args:
        white_level: the model's `Preprocess.white_level`, by which deep pictures are as bright as the model
            sees them.
    """
    image.draft("L", (SIDE, SIDE))
    image = _grey(image, white_level)  # before `reduce`: Pillow reduces neither palettes, nor 1 bit, nor 16
    factor = max(1, max(image.size) // (2 * SIDE))
    if factor > 1:
        image = image.reduce(factor)
    grey: Grey = np.asarray(image, np.float32) / np.float32(255)
    picture = Image.fromarray(grey)
    fine, coarse = _strongest(grey), _strongest(np.asarray(picture.reduce(4)))
    scale = min(1.0, GRID / max(picture.size))
    width, height = (max(2, round(side * scale)) for side in picture.size)
    small = np.asarray(picture.resize((width, height), Image.Resampling.BOX), np.float32)
    steps = [float(np.abs(np.diff(small, axis=axis)).mean()) for axis in (0, 1) if small.shape[axis] > 1]
    return Look(
        float(grey.mean(dtype=np.float64)),
        float(grey.std(dtype=np.float64)),
        float((grey >= 0.995).mean()),
        float(np.mean(steps)) if steps else 0.0,
        math.log2((fine + 1e-3) / (coarse + 1e-3)),
        math.log2((fine + 1e-3) / (float(grey.mean()) + 1e-3)),
        small,
    )


def _grey(image: Image.Image, white_level: float | None) -> Image.Image:
    """Convert any mode to 8 bits; deep pictures are clipped at the white level."""
    if image.mode != "F" and not image.mode.startswith("I"):
        return image.convert("L")
    values = np.array(image, np.float32)
    values *= 255 / (white_level or (1.0 if image.mode == "F" else 65535.0))
    return Image.fromarray(np.clip(values, 0, 255, out=values).astype(np.uint8))


def _strongest(grey: Grey) -> float:
    """Return the step between neighbours that 2 % of all exceed: of edges, not of the noise between them."""
    if min(grey.shape) < 2:
        return 0.0
    steps = np.maximum(np.abs(np.diff(grey, axis=1))[:-1], np.abs(np.diff(grey, axis=0))[:, :-1])
    return float(np.quantile(steps, 0.98))


# --------------------------------------------------------------------------------------------------- shifts


def shift_of(one: Grey, other: Grey) -> tuple[float, float, float]:
    """Return how far `one` lies below and to the right of `other`, in pixels, and how clearly, 0..1.

    Phase correlation (Kuglin and Hines 1975) of the windowed gradients, which does not depend on the light.
    The height of the peak includes its neighbours, over which a shift by half a pixel spreads it.
    """
    if one.shape != other.shape or min(one.shape) < 8:
        return 0.0, 0.0, 0.0
    spectra = [np.fft.rfft2(_edges(grey)) for grey in (one, other)]
    cross = spectra[0] * np.conj(spectra[1])
    found = np.fft.irfft2(cross / (np.abs(cross) + 1e-6 * (np.abs(cross).max() + 1e-12)), s=one.shape)
    row, column = np.unravel_index(int(np.argmax(found)), found.shape)
    near = [(np.arange(-1, 2) + at) % n for at, n in zip((row, column), found.shape, strict=True)]
    around = found[np.ix_(*near)]
    weight = np.maximum(around, 0)
    clear = float(weight.sum())
    down = float((weight.sum(1) * (-1, 0, 1)).sum()) / (clear or 1) + float(row)
    right = float((weight.sum(0) * (-1, 0, 1)).sum()) / (clear or 1) + float(column)
    height, width = one.shape
    return _signed(down, height), _signed(right, width), min(clear, 1.0)


def _edges(grey: Grey) -> Grey:
    steps = np.hypot(np.gradient(grey, axis=0), np.gradient(grey, axis=1))
    window = np.outer(*(_taper(n) for n in grey.shape))
    return np.asarray((steps - steps.mean()) * window, np.float32)


def _taper(size: int) -> NDArray[np.float64]:
    """Return a window that is 1 except in an eighth at both ends, which often show only background."""
    edge = max(1, size // 8)
    rise = np.sin(np.pi / 2 * (np.arange(edge) + 0.5) / edge) ** 2
    return np.concatenate([rise, np.ones(size - 2 * edge), rise[::-1]])


def _signed(at: float, size: int) -> float:
    return (at + size / 2) % size - size / 2


# -------------------------------------------------------------------------------------------- the reference


class Reference:
    """Range of the first good pictures of a version.

    Attributes:
        still: whether they show the same content in the same place, so that a moved camera can be detected.
    """

    def __init__(self, looks: Sequence[Look]):
        self.looks = tuple(looks)
        self.brightness = min(one.brightness for one in looks)
        self.contrast = min(one.contrast for one in looks)
        self.detail = min(one.detail for one in looks)
        self.sharpness = _below([one.sharpness for one in looks], SOFT)
        self.fine = _below([one.fine for one in looks], LOST)
        self.white = max(one.white for one in looks)
        self.shape = looks[0].small.shape
        alike = [one.small for one in looks if one.small.shape == self.shape]
        self.mean: Grey = np.mean(alike, axis=0, dtype=np.float32)
        self.still = len(alike) == len(looks) and self._find_places(alike)

    def _find_places(self, smalls: list[Grey]) -> bool:
        """Measure the shifts of groups of `ROW` pictures; return whether they are small and clear."""
        whole: Grey = np.sum(smalls, axis=0, dtype=np.float32)
        found = []
        for first in range(0, len(smalls) - ROW + 1, ROW // 2):
            group: Grey = np.sum(smalls[first : first + ROW], axis=0, dtype=np.float32)
            found.append(shift_of(group, whole - group))
        down, right, clear = np.array(found).T
        self.places = (down.min(), down.max(), right.min(), right.max())
        side = max(self.shape)
        near = max(np.ptp(down), np.ptp(right), abs(np.median(down)), abs(np.median(right))) <= STILL * side
        self.clear = max(CLEAR, HAZY * float(clear.min()))
        return bool(near and clear.min() >= CLEAR)

    def moved(self, looks: Sequence[Look]) -> float:
        """Return the shift of the mean of pictures, as a share of the longer side; 0 where it is no larger
        than within the reference, or cannot be measured."""
        if not self.still or any(one.small.shape != self.shape for one in looks):
            return 0.0
        down, right, clear = shift_of(np.mean([one.small for one in looks], axis=0), self.mean)
        top, bottom, left, far = self.places
        beyond = max(top - down, down - bottom, left - right, right - far) / max(self.shape)
        return math.hypot(down, right) / max(self.shape) if clear >= self.clear and beyond > FARTHER else 0.0

    # ---- kept over a restart

    def to_arrays(self) -> tuple[NDArray[np.float64], Grey]:
        """Return arrays for `from_arrays`. ValueError where the pictures differ in shape."""
        numbers = [(o.brightness, o.contrast, o.white, o.detail, o.sharpness, o.fine) for o in self.looks]
        return np.array(numbers), np.stack([one.small for one in self.looks])

    @classmethod
    def from_arrays(cls, numbers: NDArray[np.float64], smalls: NDArray[np.float32]) -> Reference:
        rows: list[tuple[float, float, float, float, float, float]] = numbers.tolist()
        return cls([Look(*row, small) for row, small in zip(rows, smalls, strict=True)])


def _below(values: Sequence[float], least: float) -> float:
    """Return the lowest value, less the width of the range or `least`, whichever is more."""
    return min(values) - max(max(values) - min(values), least)


class Watch:
    """Checks one product's pictures, one after another.

    Args:
        reference: of earlier pictures, where it was kept.

    Attributes:
        wrong: present faults; the value of `MOVED` is the shift as a share of the longer side, of others 0.
    """

    def __init__(self, reference: Reference | None = None):
        self.reference = reference
        self.first: list[Look] = []  # pictures of the reference, while it is not complete
        self.wrong: dict[str, float] = {}
        self._last: deque[Look] = deque(maxlen=ROW)
        self._found: deque[dict[str, float]] = deque(maxlen=ROW)  # faults of these
        self._same = 0
        self._same_since = 0.0
        self._before: bytes | None = None

    def add(self, one: Look, at: float, good: bool, shifts: Sequence[float] = ()) -> None:
        """Check the next picture.

        Args:
            at: seconds since 1970.
            good: whether the model passed it; only such pictures become the reference.
            shifts: distance from the training pictures (`Prediction.shifts`).
        """
        self._last.append(one)
        found, is_same = self._looks_like(one, shifts), self._is_same(one, at)
        self._found.append(found)
        for kind in (DARK, COVERED, BLURRED, MOVED):
            many = sum(kind in last for last in self._found)
            if many == ROW:
                self.wrong[kind] = found[kind]
            elif not many:
                self.wrong.pop(kind, None)
        if COVERED in self.wrong:
            self.wrong.pop(BLURRED, None)
        if is_same:
            self.wrong[FROZEN] = 0.0
        else:
            self.wrong.pop(FROZEN, None)
        if self.reference is None and good and not found and not is_same:
            self.first.append(one)
            if len(self.first) >= REFERENCE:
                self.reference, self.first = Reference(self.first), []

    def _looks_like(self, one: Look, shifts: Sequence[float]) -> dict[str, float]:
        known = self.reference
        usual = 2 * BLACK if known is None else known.brightness
        if one.brightness < max(FAINT * usual, min(BLACK, usual / 2)):
            return {DARK: 0.0}
        if one.white > WHITE and (known is None or known.white < WHITE / 2):
            return {COVERED: 0.0}
        if known is None:
            unlike = len(shifts) == 6 and shifts[3] < UNLIKE / 2 and shifts[5] < UNLIKE
            return {COVERED: 0.0} if unlike else {}
        if one.detail < FAINT * known.detail and one.contrast < FLAT * known.contrast:
            return {COVERED: 0.0, BLURRED: 0.0}  # near the border between both faults
        if one.sharpness < known.sharpness or one.fine < known.fine:
            return {BLURRED: 0.0}
        if len(self._last) == ROW and (by := known.moved(self._last)):
            return {MOVED: by}
        return {}

    def _is_same(self, one: Look, at: float) -> bool:
        small = one.small.tobytes()
        if small != self._before:
            self._before, self._same, self._same_since = small, 0, at
        self._same += 1
        return self._same >= SAME and at - self._same_since >= SAME_SECONDS


def described(kind: str, by: float = 0.0) -> str:
    """Return one line: the fault of the camera, and what to check."""
    return {
        DARK: "pictures are black: is the camera off, or the light out?",
        COVERED: "pictures show nearly nothing: is the lens covered, blinded, or far out of focus?",
        BLURRED: "pictures are softer than the first ones of this model: look at focus, dirt and vibration",
        MOVED: f"the camera lies {100 * by:.0f} % of the picture beside its first place: put it back, or "
        "take it as the new normal (page Trends)",
        FROZEN: "the same picture comes again and again: start the camera or its program anew",
    }[kind]
