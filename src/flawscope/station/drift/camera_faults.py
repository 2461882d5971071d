"""Camera faults that pictures show: off, covered, out of focus, moved, frozen.

Needs no station: it takes pictures and returns words. Pictures are compared with the first `REFERENCE` good
ones of a version, and a fault is reported after `ROW` pictures in a row beyond their range. While pictures
are exchangeable with the reference, the probability that m in a row all lie beyond the most extreme of r is
m! r! / (m + r)!, here 3 in 10 million; the margins below make false alarms rarer still.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Sequence
from typing import NamedTuple

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


class Look(NamedTuple):
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
    small: Grey


def look(image: Image.Image, white_level: float | None = None) -> Look:
    """Measure a picture, decoded at a reduced size where its format allows that.

    Args:
        white_level: the model's `Preprocess.white_level`, by which deep pictures are as bright as the model
            sees them.
    """
    image.draft("L", (SIDE, SIDE))
    image = _grey(image, white_level)  # before `reduce`: Pillow reduces neither palettes, nor 1 bit, nor 16
    factor = max(1, max(image.size) // (2 * SIDE))
    grey: Grey = np.asarray(image.reduce(factor), np.float32) / np.float32(255)
    picture = Image.fromarray(grey)
    fine, coarse = _strongest(grey), _strongest(np.asarray(picture.reduce(4)))
    brightness = float(grey.mean(dtype=np.float64))
    scale = min(1.0, GRID / max(picture.size))
    width, height = (max(2, round(side * scale)) for side in picture.size)
    small = np.asarray(picture.resize((width, height), Image.Resampling.BOX), np.float32)
    return Look(
        brightness,
        float(grey.std(dtype=np.float64)),
        float((grey >= 0.995).mean()),
        float(np.mean([np.abs(np.diff(small, axis=axis)).mean() for axis in (0, 1)])),
        math.log2((fine + 1e-3) / (coarse + 1e-3)),
        math.log2((fine + 1e-3) / (brightness + 1e-3)),
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
    found = np.fft.fftshift(np.maximum(found, 0))  # no shift is in the middle
    peak = np.unravel_index(int(np.argmax(found)), found.shape)
    top, left = (max(0, int(at) - 1) for at in peak)
    near = found[top : top + 3, left : left + 3]
    clear = float(near.sum())
    rows, columns = np.indices(near.shape)
    down = float((near * rows).sum()) / (clear or 1) + top - found.shape[0] // 2
    right = float((near * columns).sum()) / (clear or 1) + left - found.shape[1] // 2
    return down, right, min(clear, 1.0)


def _edges(grey: Grey) -> Grey:
    steps = np.hypot(np.gradient(grey, axis=0), np.gradient(grey, axis=1))
    return np.asarray((steps - steps.mean()) * np.outer(*map(_taper, grey.shape)), np.float32)


def _taper(size: int) -> NDArray[np.float64]:
    """Return a window that is 1 except in an eighth at both ends, which often show only background."""
    place = np.arange(size) + 0.5
    inside = np.minimum(place, size - place) / max(1, size // 8)
    return np.asarray(np.sin(np.pi / 2 * np.minimum(inside, 1)) ** 2)


class Reference:
    """Range of the first good pictures of a version.

    Attributes:
        least: lowest measurements. sharpness, fine: borders of a blurred picture.
        still: whether they show the same content in the same place, so that a moved camera can be detected.
    """

    def __init__(self, looks: Sequence[Look]):
        self.looks = tuple(looks)
        numbers = np.array([one[:-1] for one in looks])
        self.least = Look._make([*numbers.min(0).tolist(), looks[0].small])
        self.white = float(numbers[:, 2].max())
        sharp, fine = np.ptp(numbers[:, 4:], axis=0).tolist()
        self.sharpness = self.least.sharpness - max(sharp, SOFT)
        self.fine = self.least.fine - max(fine, LOST)
        self.still = all(one.small.shape == looks[0].small.shape for one in looks)
        if self.still:
            self._find_places(np.array([one.small for one in looks]))

    def _find_places(self, smalls: Grey) -> None:
        """Measure the shifts of groups of `ROW` pictures against the others."""
        self.mean: Grey = smalls.mean(0)
        whole, starts = smalls.sum(0), range(0, len(smalls) - ROW + 1, ROW // 2)
        groups = [smalls[first : first + ROW].sum(0) for first in starts]
        down, right, clear = np.array([shift_of(group, whole - group) for group in groups]).T
        self.far = float(np.hypot(down, right).max()) / max(self.mean.shape)
        self.clear = max(CLEAR, HAZY * float(clear.min()))
        self.still = self.far <= STILL and bool(clear.min() >= CLEAR)

    def moved(self, looks: Sequence[Look]) -> float:
        """Return the shift of the mean of pictures, as a share of the longer side; 0 where it is no larger
        than within the reference, or cannot be measured."""
        if not self.still or any(one.small.shape != self.mean.shape for one in looks):
            return 0.0
        down, right, clear = shift_of(np.mean([one.small for one in looks], axis=0), self.mean)
        by = math.hypot(down, right) / max(self.mean.shape)
        return by if clear >= self.clear and by > self.far + FARTHER else 0.0


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
        self._found: deque[str | None] = deque(maxlen=ROW)  # fault of each of these
        self._same, self._same_since = 0, 0.0

    def add(self, one: Look, at: float, good: bool, shifts: Sequence[float] = ()) -> None:
        """Check the next picture.

        Args:
            at: seconds since 1970.
            good: whether the model passed it; only such pictures become the reference.
            shifts: distance from the training pictures (`Prediction.shifts`).
        """
        if not self._last or not np.array_equal(one.small, self._last[-1].small):
            self._same, self._same_since = 0, at
        self._same += 1
        is_frozen = self._same >= SAME and at - self._same_since >= SAME_SECONDS
        self._last.append(one)
        fault = self._fault_of(one, shifts)
        self._found.append(fault)
        faults = Counter(filter(None, self._found))
        self.wrong.pop(FROZEN, None)
        if faults.total() == ROW:  # of several kinds near the border between two: the first one stays
            kind = next((kind for kind in self.wrong if kind in faults), faults.most_common(1)[0][0])
            self.wrong = {kind: self._moved_by() if kind == MOVED else 0.0}
        elif not faults:
            self.wrong = {}
        if is_frozen:
            self.wrong[FROZEN] = 0.0
        if self.reference is None and good and fault is None and not is_frozen:
            self.first.append(one)
            if len(self.first) >= REFERENCE:
                self.reference, self.first = Reference(self.first), []

    def _moved_by(self) -> float:
        known = self.reference
        return known.moved(self._last) if known is not None and len(self._last) == ROW else 0.0

    def _fault_of(self, one: Look, shifts: Sequence[float]) -> str | None:
        known = self.reference
        usual = 2 * BLACK if known is None else known.least.brightness
        if one.brightness < max(FAINT * usual, min(BLACK, usual / 2)):
            return DARK
        if one.white > WHITE and (known is None or known.white < WHITE / 2):
            return COVERED
        if known is None:
            unlike = len(shifts) == 6 and shifts[3] < UNLIKE / 2 and shifts[5] < UNLIKE
            return COVERED if unlike else None
        if one.detail < FAINT * known.least.detail and one.contrast < FLAT * known.least.contrast:
            return COVERED
        if one.sharpness < known.sharpness or one.fine < known.fine:
            return BLURRED
        return MOVED if self._moved_by() else None


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
