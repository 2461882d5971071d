"""Finds pictures of one and the same part: re-encoded, a touch brighter, shifted, turned a little, mirrored.

Parts of the same product resemble each other, so that the likeness of two pictures shows little. The
structure that only one part has shows more. So the other pictures of a set are registered to each picture: by
the shift with the highest correlation, then by an affine pose and an uneven light (Gauss-Newton, after Lucas
and Kanade, 1981). The structure that they share is subtracted: their mean, its light and its slopes, since no
picture is registered exactly. Two pictures are copies where the remaining fine structure correlates, in both
directions, by at least `MIN_SURE`, or by `MIN_CLEAR` and well beyond the chance pairs of the set, or above a
wide gap. A copy that was cropped, scaled or softened has lost some of this structure, and is also recognised
by its whole fine structure.

Limit: parts that differ by less than the camera's noise at 64 px have no structure of their own. Pairs that
resemble each other but for noise, without a decision by the rest, are unsure.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flawscope.errors import InputError
from flawscope.pictures.channels import first_group
from flawscope.pictures.decoding import PictureSource
from flawscope.pictures.levels import own_levels

Floats = NDArray[np.float32]
Ints = NDArray[np.intp]
Pair = tuple[int, int, float]
PairNumbers = tuple[int, int]
# Number of a picture to compare with, and its version: `AS_IS`, or a key of `FLIPS`
Version = tuple[int, int]
AS_IS = 0
MIRRORED_SIDEWAYS = 1
MIRRORED_UPSIDE_DOWN = 2
FLIPS = {
    MIRRORED_SIDEWAYS: np.s_[:, :, ::-1],
    MIRRORED_UPSIDE_DOWN: np.s_[:, ::-1],
}  # of thumbnails [N, H, W]

SIDE = 64  # side of a thumbnail
MARGIN = 6  # thumbnail pixels left out at each edge, where a shift brings in something new
MAX_SHIFT = 8  # largest shift between pictures of one part, in thumbnail pixels
ALL_COMPARED = 32  # pictures up to which each is compared with all others, also mirrored
# In larger sets, number of pictures that a picture is compared with: the most similar by each measure, the
# most similar mirrored, and random ones
NOMINATED = 4
NOMINATED_MIRRORED = 1
CHANCE = 2
MIN_SURE = 0.9  # correlation of the structure that only two pictures have, from which on they show one part
MIN_SURE_OF_ALIKE = 0.97  # the same where chance pairs resemble each other, such as gears in the same pose
# Chance pairs resemble each other where the quantile `ALIKE_PART` of all correlations is above `ALIKE`
ALIKE = 0.3
ALIKE_PART = 0.85
MIN_CLEAR = 0.6  # the correlation where it lies clearly above the set's chance pairs
CLEAR = 12.0  # multiple of the chance pairs' Fisher z that is clearly above them
# The same multiple for pictures with the same whole fine structure, among more than `ALL_COMPARED`
CLEAR_OF_SAME = 6.0
CHANCE_PART = 0.75  # quantile of all pairs that counts as that of chance pairs; a fifth may be copies
MIN_FOR_GAP = 6  # fewest pictures: among fewer a single pair stands apart by chance
MIN_Z_GAP = 0.8  # gap in Fisher's z between copies and all other pairs, where each is compared with each
MIN_UNSURE = 0.994  # correlation of the whole fine structure, from which on it is the same
MAX_NOISE = 3.0  # largest distance, in units of noise, that noise explains
MIN_OWN = 0.3  # Fisher's z of the structure that only two pictures have, from which on they may show one part
MIN_GAP = 1.75  # ratio of the other pairs' distance to that of pictures that may show one part
# Correlations of pairs that resemble each other by degrees, and the share of such pairs from which on parts
# lie at any angle. Then two parts in the same pose resemble each other more than others, so that copies must
# reach a higher correlation, or differ by noise alone.
GRADED = (0.3, 0.9)
MIN_GRADED = 0.1
MIN_ALIKE_OF_GRADED = 0.997
MIN_FIRST_FIT = 0.6  # pairs of a lower correlation have another pose, and do not count for the usual distance
MIN_OTHERS = 3  # fewest pictures that show the structure that a set shares
STEPS = 3  # number of steps of registration
BLOCK = 64  # number of pictures whose spectra, or likeness to all others, are computed together
ROUNDING = 0.29  # standard deviation of rounding to grey levels
SMOOTHED = 0.61  # share of a thumbnail's noise that is left after smoothing
NORMAL_MEDIAN = 0.6745  # median of absolute normal values, in standard deviations
MIN_STRUCTURE = 0.05  # grey levels of fine structure, below which correlations count as 0


class Compared(NamedTuple):
    """Pairs of pictures (i, j, correlation), i < j.

    Attributes:
        copies: Pairs that show one part.
        unsure: Other pairs, which may show one part.
    """

    copies: list[Pair]
    unsure: list[Pair]


class Resemblance(NamedTuple):
    """Likeness of two registered pictures, ordered as it is compared.

    Attributes:
        alike: Correlation of their fine structure.
        nearness: Their distance in units of noise, negated: 0 or below.
    """

    alike: float
    nearness: float

    @property
    def distance(self) -> float:
        """Distance of the registered pictures, in units of noise."""
        return -self.nearness

    @property
    def is_same(self) -> bool:
        """Whether the whole fine structure is the same."""
        return self.alike >= MIN_UNSURE

    @property
    def is_same_but_for_noise(self) -> bool:
        """Whether the whole fine structure is the same, and the distance no more than noise explains."""
        return self.is_same and self.distance <= MAX_NOISE


def thumbnail(picture: NDArray[np.number]) -> NDArray[np.float16]:
    """Return grey levels 0..255 of a decoded picture [H, W, C], averaged to [64, 64]."""
    # Pillow, not matrix products: several threads come here at once, and BLAS would start more from each
    if picture.dtype == np.uint8:
        is_grey = picture.shape[2] < 3 or picture.strides[2] == 0  # stride 0: grey, seen as three channels
        pixels = picture[:, :, 0] if is_grey else picture[:, :, :3]
        image = Image.fromarray(np.ascontiguousarray(pixels)).convert("L")
        if min(image.size) > 16 * SIDE:
            image = image.resize((8 * SIDE, 8 * SIDE), Image.Resampling.BILINEAR)
        image = image.convert("F")
    else:
        deep = np.nan_to_num(picture.mean(axis=2, dtype=np.float32))
        black, white = own_levels(deep[:, :, None])  # since a picture may have 12 bits in 16
        image = Image.fromarray((deep - np.float32(black)) * np.float32(255.0 / (white - black)))
    small = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR), np.float32)
    return np.asarray(np.clip(small, 0, 255), np.float16)


class Look(NamedTuple):
    """Look of a picture, by which it is compared: its thumbnail, and the noise in it."""

    thumbnail: NDArray[np.float16]
    noise: float

    @classmethod
    def of(cls, picture: NDArray[np.number]) -> Look:
        """Measure thumbnail and noise of a decoded picture [H, W, C]."""
        return cls(thumbnail(picture), noise_level(picture))


def read_look(source: PictureSource) -> Look | None:
    """Return the look of a picture by its first group of channels; None where it cannot be read."""
    try:
        picture, _ = first_group(source)
        return Look.of(picture)
    except (InputError, MemoryError):
        return None


def noise_level(picture: NDArray[np.number]) -> float:
    """Estimate the standard deviation of the noise in a picture's thumbnail, in grey levels 0..255.

    The noise of the picture is measured by the median answer of a filter that ignores edges and slopes (after
    Immerkaer, Fast noise variance estimation, 1996), and is at least the noise of rounding. The result is the
    part of this noise that is left when the picture is averaged to the thumbnail.

    Args:
        picture: Decoded picture [H, W, C].
    """
    height, width = picture.shape[:2]
    rows, columns = (slice(max(0, side // 2 - 512), side // 2 + 512) for side in (height, width))
    grey = picture[rows, columns].mean(axis=2, dtype=np.float32)
    if picture.dtype != np.uint8:
        black, white = own_levels(np.nan_to_num(picture))
        grey *= 255.0 / (white - black)
    row_filtered = grey[:, :-2] - 2 * grey[:, 1:-1] + grey[:, 2:]
    filtered = np.abs(row_filtered[:-2] - 2 * row_filtered[1:-1] + row_filtered[2:])
    # 6: the filter's weights (1, -2, 1) on both axes have this length
    deviation = float(np.median(filtered)) / (6 * NORMAL_MEDIAN) if filtered.size else 0.0
    # share of the noise that is left by the averaging: Pillow's triangle filter along both axes
    noise_share = 2 / 3 * SIDE / math.sqrt(height * width)
    return max(deviation, ROUNDING) * min(1.0, noise_share)


def near_duplicates(looks: Sequence[Look], bank: Ints) -> list[Pair]:
    """Return pairs (i, j, correlation), i < j, of pictures that show one part.

    Memory grows with the number of pictures, not with its square.

    Args:
        looks: Looks of the pictures.
        bank: Indices of the pictures of interest. Pairs without any of these are left out.
    """
    return compare_pictures(looks, bank).copies


def compare_pictures(looks: Sequence[Look], bank: Ints) -> Compared:
    """Return the pairs of pictures that show one part, and those that may.

    The arguments are those of `near_duplicates`.
    """
    if len(looks) < 2 or not len(bank):
        return Compared([], [])
    noise = np.array([look.noise for look in looks], np.float32)
    smooth = _smoothed(np.stack([look.thumbnail for look in looks]).astype(np.float32), times=1)
    spectra = _spectra(smooth)
    is_in_bank = np.isin(np.arange(len(looks)), bank)
    nominated = _nominate(smooth, spectra, is_in_bank)
    correlations_by_pair: dict[PairNumbers, list[float]] = {}
    resemblance_by_pair: dict[PairNumbers, Resemblance] = {}
    for i, others in enumerate(nominated):
        if not others:
            continue
        numbers, versions, version_spectra = _versions(others, smooth, spectra)
        target = smooth[i][_INNER]
        warped = _register(smooth[i], versions, _shifts(spectra[i], version_spectra))
        fine_structure = _fine(np.concatenate([target[None], warped]))
        similarities = _correlation(fine_structure[:1], fine_structure[1:])
        distances = np.sqrt(np.mean((warped - target) ** 2, axis=(1, 2))) / SMOOTHED
        # of several versions of a picture, the one that is most like this picture counts
        best_correlation_by_number: dict[int, float] = {}  # number of the other picture
        for k, correlation in enumerate(_own_correlation(target, warped, numbers)):
            j = int(numbers[k])
            best_correlation_by_number[j] = max(best_correlation_by_number.get(j, -1.0), float(correlation))
            distance = float(distances[k] / np.hypot(noise[i], noise[j]))
            resemblance = Resemblance(alike=float(similarities[k]), nearness=-distance)
            pair = (min(i, j), max(i, j))
            previous_best = resemblance_by_pair.get(pair, Resemblance(alike=-1.0, nearness=0.0))
            resemblance_by_pair[pair] = max(previous_best, resemblance)
        for j, best_correlation in best_correlation_by_number.items():
            correlations_by_pair.setdefault((min(i, j), max(i, j)), []).append(best_correlation)
    bank_numbers = {*bank.tolist()}
    for pair in [*correlations_by_pair]:
        # pairs outside the bank were compared only to find the structure that the set shares
        if bank_numbers.isdisjoint(pair):
            del correlations_by_pair[pair], resemblance_by_pair[pair]
    return _decide(correlations_by_pair, resemblance_by_pair, len(looks))


def _versions(
    others: Sequence[Version], smooth: Floats, spectra: NDArray[np.complex64]
) -> tuple[Ints, Floats, NDArray[np.complex64]]:
    """Return the versions, as they are or mirrored, of the pictures that one picture is compared with.

    Mirrored versions are made only here, since those of all pictures at once would take much memory.

    Args:
        others: Number and version of each picture to compare with.
        smooth: Smoothed thumbnails of all pictures, not mirrored.
        spectra: Spectra of all pictures, not mirrored.

    Returns:
        For each version the number of the picture, the thumbnail, and the spectrum of the thumbnail.
    """
    numbers = np.array([j for j, _ in others])
    thumbnails = smooth[numbers]
    version_spectra = spectra[numbers]
    versions = np.array([version for _, version in others])
    for mirrored_version, flip in FLIPS.items():
        is_mirrored = versions == mirrored_version
        thumbnails[is_mirrored] = thumbnails[is_mirrored][flip]
        version_spectra[is_mirrored] = _spectra(thumbnails[is_mirrored])
    return numbers, thumbnails, version_spectra


def _decide(
    correlations: dict[PairNumbers, list[float]], resemblances: dict[PairNumbers, Resemblance], count: int
) -> Compared:
    """Return the pairs of a set that show one part, and those that may.

    Args:
        correlations: For each pair, the correlation of the structure that only the two pictures have. There
            are two if either picture was registered to the other; the lower counts.
        resemblances: For each pair, the resemblance of the whole fine structure.
        count: Number of pictures of the set.
    """
    z_by_pair = {  # Fisher's z
        pair: math.atanh(float(np.clip(min(values), -0.9999, 0.9999)))
        for pair, values in correlations.items()
    }
    limits = _Bars.of([*z_by_pair.values()], resemblances.values(), count)
    copies = []
    unsure = []
    for pair in sorted(z_by_pair):
        i, j = pair
        resemblance = resemblances[pair]
        if limits.show_one_part(z_by_pair[pair], resemblance, count):
            # in a smaller set, the structure that all pictures share is not known, and is not left out
            correlation = math.tanh(z_by_pair[pair]) if count > MIN_OTHERS else resemblance.alike
            copies.append((i, j, correlation))
        elif limits.may_show_one_part(z_by_pair[pair], resemblance):
            unsure.append((i, j, resemblance.alike))
    return Compared(_without_bridges(copies), unsure)


class _Bars(NamedTuple):
    """Limits for a set, by which two of its pictures are taken to show one part.

    Attributes:
        min_z: Lowest Fisher's z of the structure that only the two have.
        min_z_of_same: The same limit for two pictures whose whole fine structure is the same.
        max_close: Largest distance of two pictures that are much closer than the others.
        is_graded: Whether pairs resemble each other by degrees (`GRADED`).
    """

    min_z: float
    min_z_of_same: float
    max_close: float
    is_graded: bool

    @classmethod
    def of(cls, z: list[float], resemblances: Collection[Resemblance], count: int) -> _Bars:
        """Return the limits for a set.

        Args:
            z: Fisher's z of each pair.
            resemblances: Resemblance of each pair.
            count: Number of pictures.
        """
        chance_z = max(0.0, float(np.quantile(z, CHANCE_PART)))
        are_alike = math.tanh(float(np.quantile(z, ALIKE_PART))) > ALIKE
        sure_z = math.atanh(MIN_SURE_OF_ALIKE if are_alike else MIN_SURE)
        min_clear_z = math.atanh(MIN_CLEAR)
        min_z = sure_z if are_alike else min(sure_z, max(min_clear_z, CLEAR * chance_z))
        if MIN_FOR_GAP <= count <= ALL_COMPARED:
            min_z = min(min_z, _above_gap(z))
        min_z_of_same = min_z
        if count > ALL_COMPARED and not are_alike:
            min_z_of_same = min(min_z, max(min_clear_z, CLEAR_OF_SAME * chance_z))
        distances = [pair.distance for pair in resemblances if pair.alike > MIN_FIRST_FIT]
        max_close = float(np.quantile(distances, 0.25)) / MIN_GAP if distances else 0.0
        graded_share = np.mean([GRADED[0] < pair.alike < GRADED[1] for pair in resemblances])
        return cls(min_z, min_z_of_same, max_close, is_graded=bool(graded_share >= MIN_GRADED))

    def show_one_part(self, z: float, resemblance: Resemblance, count: int) -> bool:
        """Whether two pictures of a set of `count` surely show one part.

        Args:
            z: Fisher's z of the structure that only the two have.
            resemblance: Likeness of the two.
            count: Number of pictures in the set.
        """
        if count <= MIN_OTHERS:  # too few to show a shared structure
            return resemblance.is_same_but_for_noise
        min_z = self.min_z_of_same if resemblance.is_same else self.min_z
        if z < min_z:
            return False
        if not self.is_graded:
            return True
        return resemblance.alike >= MIN_ALIKE_OF_GRADED or resemblance.distance <= MAX_NOISE

    def may_show_one_part(self, z: float, resemblance: Resemblance) -> bool:
        """Whether two pictures may show one part."""
        if resemblance.is_same_but_for_noise:
            return True
        return resemblance.is_same and resemblance.distance <= self.max_close and z >= MIN_OWN


def _above_gap(values: Iterable[float]) -> float:
    """Return the lowest of the values above the widest gap; inf where no gap is wide enough.

    Args:
        values: Fisher's z of all pairs.
    """
    ascending = np.sort([0.0, *(value for value in values if value > 0)])
    is_clear = np.tanh(ascending[1:]) >= MIN_CLEAR  # whether the value above each gap is high enough
    gaps = np.where(is_clear, np.diff(ascending), 0)
    if gaps.max(initial=0) < MIN_Z_GAP:
        return math.inf
    upper_end = gaps.argmax() + 1  # gap k lies between the values k and k + 1
    return float(ascending[upper_end])


def _without_bridges(pairs: list[Pair]) -> list[Pair]:
    """Leave out pairs each of which would be the only one that joins two groups of pictures.

    A pair stays if, of its two pictures, the one with fewer partners has at least half of its other partners
    in common with the other picture.
    """
    partners_by_picture: dict[int, set[int]] = {}
    for i, j, _ in pairs:
        partners_by_picture.setdefault(i, set()).add(j)
        partners_by_picture.setdefault(j, set()).add(i)
    supported = []
    for i, j, correlation in pairs:
        shared_count = len(partners_by_picture[i] & partners_by_picture[j])
        fewer_partners = min(partners_by_picture[i], partners_by_picture[j], key=len)
        other_count = len(fewer_partners) - 1  # without the other picture of the pair
        if 2 * shared_count >= other_count:
            supported.append((i, j, correlation))
    return supported


def _nominate(smooth: Floats, spectra: NDArray[np.complex64], bank: NDArray[np.bool_]) -> list[list[Version]]:
    """Choose the pictures to compare each picture with.

    In a small set these are all others. In a larger set they are the most similar by thumbnail, by spectrum
    and by mirrored spectrum, and a few at random.

    Args:
        smooth: Smoothed thumbnails of all pictures.
        spectra: Spectra of all pictures.
        bank: Mask of the pictures of interest (`near_duplicates`).

    Returns:
        For each picture, number and version of the pictures to compare it with.
    """
    count = len(smooth)
    if count <= ALL_COMPARED:
        return _all_others(count)
    coarse = smooth.reshape(count, 16, 4, 16, 4).mean(axis=(2, 4)).reshape(count, -1)
    amplitudes = np.log1p(np.abs(spectra[:, np.r_[-12:12], :13]))  # a shift does not change them
    # rows are the frequencies -12..11; in a mirrored picture, frequencies have the opposite sign
    mirrored_amplitudes = amplitudes[:, np.r_[0, 23:0:-1]]
    by_thumbnail = _unit(coarse)
    by_spectrum = _unit(amplitudes.reshape(count, -1))
    by_mirrored_spectrum = _unit(mirrored_amplitudes.reshape(count, -1))
    nominated: list[set[Version]] = [set() for _ in range(count)]
    rng = np.random.default_rng(0)
    # descriptors, those that they are compared with, number of the most similar pictures, their versions
    searches = (
        (by_thumbnail, by_thumbnail, NOMINATED, (AS_IS,)),
        (by_spectrum, by_spectrum, NOMINATED, (AS_IS,)),
        (by_spectrum, by_mirrored_spectrum, NOMINATED_MIRRORED, tuple(FLIPS)),
    )
    bank_numbers = np.flatnonzero(bank)
    for descriptors, other_descriptors, similar_count, versions in searches:
        for picture, other in _likest(descriptors, other_descriptors, bank_numbers, similar_count):
            for version in versions:
                nominated[picture].add((other, version))
                nominated[other].add((picture, version))
    # pictures outside the bank are compared with the most similar pictures, to find the structure they share
    outside = np.array([i for i in range(count) if nominated[i] and not bank[i]], np.intp)
    for picture, other in _likest(by_thumbnail, by_thumbnail, outside, NOMINATED):
        nominated[picture].add((other, AS_IS))
    for i in bank_numbers.tolist():
        random_numbers = set(rng.choice(count, CHANCE, replace=False).tolist())
        nominated[i].update((j, AS_IS) for j in random_numbers - {i})
    return [sorted(versions) for versions in nominated]


def _all_others(count: int) -> list[list[Version]]:
    """Return for each of `count` pictures all others, as they are and mirrored."""
    versions_by_picture = []
    for i in range(count):
        others = [j for j in range(count) if j != i]
        versions_by_picture.append([(j, version) for version in (AS_IS, *FLIPS) for j in others])
    return versions_by_picture


def _likest(
    descriptors: Floats, other_descriptors: Floats, numbers: Ints, similar_count: int
) -> Iterator[tuple[int, int]]:
    """Yield pairs of numbers: a picture, and one of the other pictures that are most similar to it.

    Args:
        descriptors: Descriptors of length 1 of all pictures, not mirrored.
        other_descriptors: Descriptors of length 1 of all pictures, which the first are compared with.
        numbers: Numbers of the pictures for which similar pictures are searched.
        similar_count: Number of similar pictures for each of these.
    """
    count = len(other_descriptors)
    for block in np.array_split(numbers, max(1, math.ceil(len(numbers) / BLOCK))):
        similarities = descriptors[block] @ other_descriptors.T
        is_itself = block[:, None] == np.arange(count)
        similarities[is_itself] = -np.inf
        most_similar_first = np.argpartition(-similarities, min(similar_count, count - 2), axis=1)
        most_similar = most_similar_first[:, :similar_count]
        for number, similar_numbers in zip(block.tolist(), most_similar.tolist(), strict=True):
            for other in similar_numbers:
                yield number, other


def _unit(values: Floats) -> Floats:
    """Subtract the mean of all rows from each row, and scale each row to length 1."""
    centred = values - values.mean(axis=0)
    return np.asarray(centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-6), np.float32)


def _spectra(pictures: Floats) -> NDArray[np.complex64]:
    """Return spectra [N, 64, 33] of pictures, without coarse structure, and faded out towards the borders."""
    spectra = np.empty((len(pictures), SIDE, SIDE // 2 + 1), np.complex64)
    for start in range(0, len(pictures), BLOCK):  # in blocks, since numpy's spectra take twice the memory
        block = pictures[start : start + BLOCK]
        fine = block - _smoothed(block, times=6)
        spectra[start : start + BLOCK] = np.fft.rfft2(fine * _WINDOW)
    return spectra


def _shifts(spectrum: NDArray[np.complex64], spectra: NDArray[np.complex64]) -> Floats:
    """Return the shifts (down, right) at which pictures correlate most with another picture.

    Args:
        spectrum: Spectrum of the other picture.
        spectra: Spectra of the P pictures.

    Returns:
        [P, 2], in half sides of a thumbnail.
    """
    offsets = np.r_[-MAX_SHIFT : MAX_SHIFT + 1]
    correlations = np.fft.irfft2(spectrum * spectra.conj(), (SIDE, SIDE))[:, offsets][:, :, offsets]
    best = correlations.reshape(len(correlations), -1).argmax(axis=1)
    down = offsets[best // len(offsets)]
    right = offsets[best % len(offsets)]
    # negative, since a pose states where the pixels of a registered picture come from
    return np.asarray(-2 / SIDE * np.stack([down, right], 1), np.float32)


def _register(target: Floats, pictures: Floats, shifts: Floats) -> Floats:
    """Register pictures to a target by an affine pose, and change their light to that of the target.

    Args:
        target: The target [64, 64].
        pictures: The pictures [P, 64, 64].
        shifts: First estimate [P, 2] of the shifts (down, right), in half sides of a thumbnail.

    Returns:
        The registered pictures [P, n, n] without their margins.
    """
    # what is added to x: a share of x, a share of y, a shift; then the same three for y
    pose = np.zeros((len(pictures), 6), np.float32)
    factors = [0, 1, 3, 4]
    x_shift = 2
    y_shift = 5
    pose[:, x_shift] = shifts[:, 1]
    pose[:, y_shift] = shifts[:, 0]
    target_values = np.repeat(target[_INNER].reshape(1, -1), len(pictures), axis=0)
    for step in range(STEPS + 1):
        warped = np.stack(
            [_warp(picture, picture_pose) for picture, picture_pose in zip(pictures, pose, strict=True)]
        )
        inner = warped[_INNER]
        columns = [inner, inner * _X, inner * _Y, np.ones_like(inner)]  # columns for the light
        light_count = len(columns)
        if step < STEPS:  # the last round only fits the light
            slopes = np.gradient(warped, 2 / SIDE, axis=(1, 2))
            down, right = (np.asarray(slope, np.float32)[_INNER] for slope in slopes)
            columns += [right * _X, right * _Y, right, down * _X, down * _Y, down]  # for the pose
        design = np.stack([column.reshape(len(column), -1) for column in columns], axis=1)
        solution = _least_squares(design, target_values)
        if step < STEPS:
            contrast = solution[:, :1]
            # a contrast near 0 would make the change of the pose too large
            gain = np.where(np.abs(contrast) < 0.3, 1.0, contrast)
            pose += np.clip(solution[:, light_count:] / gain, -0.03, 0.03)
            pose[:, factors] = np.clip(pose[:, factors], -0.07, 0.07)
            pose[:, [x_shift, y_shift]] = np.clip(pose[:, [x_shift, y_shift]], -0.3, 0.3)
    fitted = (solution[:, None].astype(np.float32) @ design)[:, 0]
    return np.asarray(fitted.reshape(inner.shape))


def _warp(picture: Floats, pose: Floats) -> Floats:
    """Return a picture [64, 64] warped by a pose [6] of `_register`."""
    xx, xy, x, yx, yy, y = map(float, pose)
    half = SIDE / 2
    affine = (1 + xx, xy, half * (x - xx - xy), yx, 1 + yy, half * (y - yx - yy))
    image = Image.fromarray(picture)
    return np.asarray(image.transform(image.size, Image.Transform.AFFINE, affine, Image.Resampling.BICUBIC))


def _least_squares(design: Floats, values: Floats) -> NDArray[np.float64]:
    """Return the coefficients [P, C] with which the columns of each picture add up best to its values.

    Args:
        design: C columns for each picture, [P, C, pixels].
        values: Values to fit, [P, pixels].
    """
    gram = (design @ design.transpose(0, 2, 1)).astype(np.float64)
    right_sides = (design @ values[:, :, None]).astype(np.float64)
    traces = np.einsum("pii->p", gram)
    ridge = 1e-6 * traces / gram.shape[1] + 1e-6  # keeps the matrices from being singular
    regular_gram = gram + ridge[:, None, None] * np.eye(gram.shape[1])
    return np.asarray(np.linalg.solve(regular_gram, right_sides)[:, :, 0])


def _own_correlation(target: Floats, warped: Floats, numbers: Ints) -> Floats:
    """Return the correlation [P] of each registered picture with the target, without shared structure.

    The structure that the target's nearest pictures (about half of all) share is removed from both.

    Args:
        target: The picture [n, n] that the others are registered to.
        warped: Registered pictures [P, n, n].
        numbers: Number [P] of the picture that each registered picture is a version of.
    """
    nearest_first = np.argsort(np.mean((warped - target) ** 2, axis=(1, 2)))
    _, first_places = np.unique(numbers[nearest_first], return_index=True)
    best_versions = nearest_first[np.sort(first_places)]  # the nearest version of each picture
    if len(best_versions) < MIN_OTHERS:
        return np.full(len(warped), -1, np.float32)
    nearest = best_versions[: max(MIN_OTHERS, len(best_versions) // 2 + 1)]
    nearest_by_number = {int(numbers[k]): k for k in nearest}  # number of a picture -> its place in `warped`
    sum_of_nearest = warped[nearest].sum(axis=0)
    mean_of_nearest = sum_of_nearest / len(nearest)
    shared_structure = []  # for each registered picture the mean of the nearest pictures without itself
    for j in numbers.tolist():
        if j in nearest_by_number:
            sum_of_others = sum_of_nearest - warped[nearest_by_number[j]]
            shared_structure.append(sum_of_others / (len(nearest) - 1))
        else:
            shared_structure.append(mean_of_nearest)
    down, right = np.gradient(mean_of_nearest)
    shared_columns = [
        mean_of_nearest,
        mean_of_nearest * _X,
        mean_of_nearest * _Y,
        np.ones_like(mean_of_nearest),
    ]
    for slope in (right, down):
        shared_columns += [slope, slope * _X, slope * _Y]
    basis, _ = np.linalg.qr(_fine(np.stack(shared_columns)).T)

    def remove_shared(values: Floats) -> Floats:
        """Return the fine structure of pictures without the shared structure, its light and its slopes."""
        fine = _fine(values - np.stack(shared_structure))
        return np.asarray(fine - (fine @ basis) @ basis.T)

    return _correlation(remove_shared(target[None]), remove_shared(warped))


def _fine(values: Floats) -> Floats:
    """Return the fine structure [P, pixels], with mean zero, of pictures without margins [P, n, n]."""
    fine = (values - _INNER_KERNEL @ values @ _INNER_KERNEL.T).reshape(len(values), -1)
    return np.asarray(fine - fine.mean(axis=1, keepdims=True), np.float32)


def _correlation(first: Floats, second: Floats) -> Floats:
    """Return the correlation [P] of each row of `first` with its row of `second`.

    It is 0 where a row has hardly any structure.

    Args:
        first: Rows [P, pixels], or a single row [1, pixels] for all, with mean zero.
        second: Rows [P, pixels] with mean zero.
    """
    scale = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    min_scale = MIN_STRUCTURE**2 * first.shape[1]
    correlations = (first * second).sum(axis=1) / np.maximum(scale, min_scale)
    return np.asarray(np.where(scale > min_scale, correlations, 0))


@cache
def _smoothing(times: int) -> Floats:
    """Return the matrix [64, 64] that smooths by (1, 2, 1) / 4 along one axis, `times` times.

    Edges are repeated.
    """
    single = np.eye(SIDE) / 2 + np.eye(SIDE, k=1) / 4 + np.eye(SIDE, k=-1) / 4
    single[0, 0] += 0.25
    single[-1, -1] += 0.25
    return np.linalg.matrix_power(single, times).astype(np.float32)


def _smoothed(values: Floats, times: int) -> Floats:
    """Return thumbnails [P, 64, 64] smoothed by `_smoothing` along both axes."""
    kernel = _smoothing(times)
    return np.asarray(kernel @ values @ kernel.T, np.float32)


_INNER = np.s_[..., MARGIN:-MARGIN, MARGIN:-MARGIN]
_INNER_KERNEL = _smoothing(6)[MARGIN:-MARGIN, MARGIN:-MARGIN]
_INNER_KERNEL = _INNER_KERNEL / _INNER_KERNEL.sum(axis=1, keepdims=True)
_X = np.linspace(-1, 1, SIDE, dtype=np.float32)[None, MARGIN:-MARGIN]
_Y = _X.T
_WINDOW = np.outer(np.hanning(SIDE), np.hanning(SIDE)).astype(np.float32)


def clusters(pairs: list[tuple[int, int, float]]) -> Iterator[list[int]]:
    """Yield the groups of pictures that pairs connect.

    Each group is sorted, and the groups are in the order of their lowest members.

    Args:
        pairs: Two pictures and their correlation, which does not matter here.
    """
    group_by_picture: dict[int, list[int]] = {}  # pictures of one group have the same list object
    for i, j, _ in pairs:
        group = group_by_picture.setdefault(i, [i])
        other_group = group_by_picture.setdefault(j, [j])
        if group is not other_group:
            group += other_group
            group_by_picture.update(dict.fromkeys(other_group, group))
    distinct_groups = {id(group): sorted(group) for group in group_by_picture.values()}
    yield from sorted(distinct_groups.values())
