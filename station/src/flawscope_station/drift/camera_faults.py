"""Camera faults that pictures show: off, covered, out of focus, moved, frozen.

Needs no station: it takes pictures and returns kinds of faults. Pictures are compared with the first
`REFERENCE` good ones of a version; a fault is `PICTURES_IN_ROW` pictures in a row beyond their range. While
pictures are exchangeable with the reference, the probability that m in a row all lie beyond the most extreme
of r is m! r! / (m + r)!, here 3 in 10 million; the margins below make false alarms rarer still.
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
PICTURES_IN_ROW = 5  # pictures in a row that show a fault; as many are averaged to measure a shift
EDGE_SIDE = 512  # pixels of the longer side at which edges are measured, at least, where the picture has them
SHIFT_SIDE = 128  # pixels of the longer side at which shifts are measured
FROZEN_PICTURES = 10  # equal pictures in a row are a frozen camera
FROZEN_SECONDS = 30.0  # least time from the first to the last of them
DARK, COVERED, BLURRED, MOVED, FROZEN = "dark", "covered", "blurred", "moved", "frozen"
FAULT_KINDS = (DARK, COVERED, BLURRED, MOVED, FROZEN)
MIN_BRIGHTNESS = 0.02  # brightness, 0..1, below which a picture shows nothing
MAX_CLIPPED_SHARE = 0.98  # share of clipped pixels above which it shows nothing either
MIN_SHARE = 0.25  # share of the least brightness or detail of the reference
MIN_CONTRAST_SHARE = 0.5  # share of the least contrast of the reference
BLUR_OCTAVES = 0.45  # octaves of sharpness that a blurred picture loses, at least
FINE_EDGE_OCTAVES = 1.0  # or octaves of fine edges: a fine texture has no coarse edges that would stay
MIN_TRAINING_SHIFT = -2.0  # widths below the range of the training pictures, for models that know it
MIN_CLARITY = 0.15  # least clarity of a shift that is believed; equal pictures have 1
MIN_CLARITY_SHARE = 0.6  # share of the least clarity within the reference
MAX_STILL_SHIFT = 0.03  # share of the longer side: reference pictures that lie farther apart are not still
MIN_MOVE = 0.012  # share of the longer side beyond the reference's own shifts
GreyPicture = NDArray[np.float32]


class PictureMeasurements(NamedTuple):
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
    small: GreyPicture


def measure_picture(image: Image.Image, levels: tuple[float, float] | None = None) -> PictureMeasurements:
    """Measure a picture, decoded at a reduced size where its format allows that.

    Args:
        levels: black and white, the model's `Preprocess.levels`, by which deep pictures are as bright as the
            model sees them.
    """
    image.draft("L", (EDGE_SIDE, EDGE_SIDE))
    image = _grey(image, levels)  # before `reduce`: Pillow reduces neither palettes, nor 1 bit, nor 16
    factor = max(1, max(image.size) // (2 * EDGE_SIDE))
    grey: GreyPicture = np.asarray(image.reduce(factor), np.float32) / np.float32(255)
    picture = Image.fromarray(grey)
    fine, coarse = _strong_step(grey), _strong_step(np.asarray(picture.reduce(4)))
    brightness = float(grey.mean(dtype=np.float64))
    scale = min(1.0, SHIFT_SIDE / max(picture.size))
    width, height = (max(2, round(side * scale)) for side in picture.size)
    small = np.asarray(picture.resize((width, height), Image.Resampling.BOX), np.float32)
    return PictureMeasurements(
        brightness,
        float(grey.std(dtype=np.float64)),
        float((grey >= 0.995).mean()),
        float(np.mean([np.abs(np.diff(small, axis=axis)).mean() for axis in (0, 1)])),
        math.log2((fine + 1e-3) / (coarse + 1e-3)),
        math.log2((fine + 1e-3) / (brightness + 1e-3)),
        small,
    )


def _grey(image: Image.Image, levels: tuple[float, float] | None) -> Image.Image:
    """Convert any mode to 8 bits; deep pictures are clipped at their levels."""
    if image.mode != "F" and not image.mode.startswith("I"):
        return image.convert("L")
    values = np.array(image, np.float32)
    black, white = levels or (0.0, 1.0 if image.mode == "F" else 65535.0)
    values = (values - np.float32(black)) * np.float32(255 / (white - black))
    return Image.fromarray(np.clip(values, 0, 255, out=values).astype(np.uint8))


def _strong_step(grey: GreyPicture) -> float:
    """Return the step between neighbours that 2 % of all exceed: of edges, not of the noise between them."""
    if min(grey.shape) < 2:
        return 0.0
    steps = np.maximum(np.abs(np.diff(grey, axis=1))[:-1], np.abs(np.diff(grey, axis=0))[:, :-1])
    return float(np.quantile(steps, 0.98))


def measure_shift(grey: GreyPicture, other: GreyPicture) -> tuple[float, float, float]:
    """Return how far `grey` lies below and to the right of `other`, in pixels, and how clearly, 0..1.

    Phase correlation (Kuglin and Hines 1975) of the windowed gradients, which does not depend on the light.
    The height of the peak includes its neighbours, over which a shift by half a pixel spreads it.
    """
    if grey.shape != other.shape or min(grey.shape) < 8:
        return 0.0, 0.0, 0.0
    spectra = [np.fft.rfft2(_gradient_magnitude(picture)) for picture in (grey, other)]
    cross = spectra[0] * np.conj(spectra[1])
    correlation = np.fft.irfft2(cross / (np.abs(cross) + 1e-6 * (np.abs(cross).max() + 1e-12)), s=grey.shape)
    correlation = np.fft.fftshift(np.maximum(correlation, 0))  # no shift is in the middle
    peak = np.unravel_index(int(np.argmax(correlation)), correlation.shape)
    top, left = (max(0, int(at) - 1) for at in peak)
    near = correlation[top : top + 3, left : left + 3]
    clarity = float(near.sum())
    rows, columns = np.indices(near.shape)
    down = float((near * rows).sum()) / (clarity or 1) + top - correlation.shape[0] // 2
    right = float((near * columns).sum()) / (clarity or 1) + left - correlation.shape[1] // 2
    return down, right, min(clarity, 1.0)


def _gradient_magnitude(grey: GreyPicture) -> GreyPicture:
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
        least: lowest measured. sharpness, fine: borders of a blurred picture.
        is_still: whether they show the same content in the same place: a moved camera can be detected.
    """

    def __init__(self, looks: Sequence[PictureMeasurements]):
        self.looks = tuple(looks)
        numbers = np.array([one[:-1] for one in looks])
        self.least = PictureMeasurements._make([*numbers.min(0).tolist(), looks[0].small])
        self.white = float(numbers[:, 2].max())
        sharp, fine = np.ptp(numbers[:, 4:], axis=0).tolist()
        self.sharpness = self.least.sharpness - max(sharp, BLUR_OCTAVES)
        self.fine = self.least.fine - max(fine, FINE_EDGE_OCTAVES)
        self.is_still = all(one.small.shape == looks[0].small.shape for one in looks)
        if self.is_still:
            self._measure_shifts(np.array([one.small for one in looks]))

    def _measure_shifts(self, smalls: GreyPicture) -> None:
        """Measure the shifts of groups of `PICTURES_IN_ROW` pictures against the others."""
        self.mean: GreyPicture = smalls.mean(0)
        whole, starts = smalls.sum(0), range(0, len(smalls) - PICTURES_IN_ROW + 1, PICTURES_IN_ROW // 2)
        groups = [smalls[first : first + PICTURES_IN_ROW].sum(0) for first in starts]
        down, right, clarity = np.array([measure_shift(group, whole - group) for group in groups]).T
        self.max_shift = float(np.hypot(down, right).max()) / max(self.mean.shape)
        self.min_clarity = max(MIN_CLARITY, MIN_CLARITY_SHARE * float(clarity.min()))
        self.is_still = self.max_shift <= MAX_STILL_SHIFT and bool(clarity.min() >= MIN_CLARITY)

    def camera_shift(self, looks: Sequence[PictureMeasurements]) -> float:
        """Return the shift of the mean of pictures, as a share of the longer side; 0 where it is no larger
        than within the reference, or cannot be measured."""
        if not self.is_still or any(one.small.shape != self.mean.shape for one in looks):
            return 0.0
        down, right, clear = measure_shift(np.mean([one.small for one in looks], axis=0), self.mean)
        shift = math.hypot(down, right) / max(self.mean.shape)
        return shift if clear >= self.min_clarity and shift > self.max_shift + MIN_MOVE else 0.0


class CameraCheck:
    """Checks one product's pictures, one after another.

    Args:
        reference: of earlier pictures, where it was kept.

    Attributes:
        faults: present ones; the value of `MOVED` is the shift as a share of the longer side, of others 0.
    """

    def __init__(self, reference: Reference | None = None):
        self.reference = reference
        self.first_pictures: list[
            PictureMeasurements
        ] = []  # pictures of the reference, while it is not complete
        self.faults: dict[str, float] = {}
        self._last_pictures: deque[PictureMeasurements] = deque(maxlen=PICTURES_IN_ROW)
        self._last_faults: deque[str | None] = deque(maxlen=PICTURES_IN_ROW)  # by picture
        self._equal_count, self._equal_since = 0, 0.0

    def add(self, measured: PictureMeasurements, at: float, good: bool, shifts: Sequence[float] = ()) -> None:
        """Check the next picture.

        Args:
            at: seconds since 1970.
            good: whether the model passed it; only such pictures become the reference.
            shifts: distance from the training pictures (`Prediction.shifts`).
        """
        if not self._last_pictures or not np.array_equal(measured.small, self._last_pictures[-1].small):
            self._equal_count, self._equal_since = 0, at
        self._equal_count += 1
        is_frozen = self._equal_count >= FROZEN_PICTURES and at - self._equal_since >= FROZEN_SECONDS
        self._last_pictures.append(measured)
        fault = self._fault_of(measured, shifts)
        self._last_faults.append(fault)
        faults = Counter(filter(None, self._last_faults))
        self.faults.pop(FROZEN, None)
        if faults.total() == PICTURES_IN_ROW:  # of two kinds near the border between them, the first stays
            kind = next((kind for kind in self.faults if kind in faults), faults.most_common(1)[0][0])
            self.faults = {kind: self._camera_shift() if kind == MOVED else 0.0}
        elif not faults:
            self.faults = {}
        if is_frozen:
            self.faults[FROZEN] = 0.0
        if self.reference is None and good and fault is None and not is_frozen:
            self.first_pictures.append(measured)
            if len(self.first_pictures) >= REFERENCE:
                self.reference, self.first_pictures = Reference(self.first_pictures), []

    def _camera_shift(self) -> float:
        if self.reference is None or len(self._last_pictures) < PICTURES_IN_ROW:
            return 0.0
        return self.reference.camera_shift(self._last_pictures)

    def _fault_of(self, measured: PictureMeasurements, shifts: Sequence[float]) -> str | None:
        reference = self.reference
        usual = 2 * MIN_BRIGHTNESS if reference is None else reference.least.brightness
        if measured.brightness < max(MIN_SHARE * usual, min(MIN_BRIGHTNESS, usual / 2)):
            return DARK
        usual_white = 0.0 if reference is None else reference.white
        if measured.white > MAX_CLIPPED_SHARE and usual_white < MAX_CLIPPED_SHARE / 2:
            return COVERED
        if reference is None:
            low = MIN_TRAINING_SHIFT
            return COVERED if len(shifts) == 6 and shifts[3] < low / 2 and shifts[5] < low else None
        least = reference.least
        is_flat = measured.contrast < MIN_CONTRAST_SHARE * least.contrast
        if is_flat and measured.detail < MIN_SHARE * least.detail:
            return COVERED
        if measured.sharpness < reference.sharpness or measured.fine < reference.fine:
            return BLURRED
        return MOVED if self._camera_shift() else None


def describe_fault(kind: str, shift: float = 0.0) -> str:
    """Return one line: the fault of the camera, and what to check."""
    return {
        DARK: "pictures are black: is the camera off, or the light out?",
        COVERED: "pictures show nearly nothing: is the lens covered, blinded, or far out of focus?",
        BLURRED: "pictures are softer than the first ones of this model: look at focus, dirt and vibration",
        MOVED: f"the camera lies {100 * shift:.0f} % of the picture beside its first place: put it back, or "
        "take it as the new normal (page Trends)",
        FROZEN: "the same picture comes again and again: start the camera or its program anew",
    }[kind]
