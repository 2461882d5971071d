"""Finds pictures of one and the same part: re-encoded, a touch brighter, shifted, turned a little, mirrored.

Parts of one make resemble each other so much that the likeness of two pictures says little. The structure
that a part alone has says more. Therefore the others of the set are registered to each picture (shift by the
highest correlation, then an affine pose and an uneven light by Gauss-Newton, after Lucas and Kanade 1981),
and their shared structure is taken away: their mean, its light and its slopes, since nothing is registered
exactly. Two pictures are copies where the remaining fine structure correlates, seen from both, by at least
`MIN_SURE`, or by `MIN_CLEAR` and well beyond the chance pairs of the set, or above a wide gap. A copy that
was cropped, scaled or softened has lost some of it, and is recognised by all of its fine structure, too.

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
# number of a picture to compare with, and how it is shown: 0 as it is, 1 and 2 mirrored
Version = tuple[int, int]

SIDE = 64  # of a thumbnail
MARGIN = 6  # thumbnail pixels left out at each edge, where a shift brings in something new
MAX_SHIFT = 8  # thumbnail pixels that pictures of one part may lie aside
ALL_COMPARED = 32  # pictures up to which each is compared with all others, also mirrored
# of more pictures: likest ones in each sense, mirrored, and others
NOMINATED = 4
MIRRORED = 1
CHANCE = 2
MIN_SURE = 0.9  # correlation of two pictures' own structure, from which they show one part
MIN_SURE_OF_ALIKE = 0.97  # likewise where chance pairs resemble each other, as gears that lie alike
# correlation above which this quantile of pairs shows that they do
ALIKE = 0.3
ALIKE_PART = 0.85
MIN_CLEAR = 0.6  # likewise where it lies clearly above the set's chance pairs
CLEAR = 12.0  # times the upper part of chance pairs, by Fisher's z
# Likewise for pictures whose whole fine structure is the same, too, among more than `ALL_COMPARED`
CLEAR_OF_SAME = 6.0
CHANCE_PART = 0.75  # quantile of chance pairs, of which a fifth may be copies
MIN_FOR_GAP = 6  # pictures: of fewer a single pair stands apart by chance
MIN_Z_GAP = 0.8  # between Fisher's z of copies and of all other pairs, where each is compared with each
# correlation of the whole fine structure; distance in units of noise
MIN_UNSURE = 0.994
MAX_NOISE = 3.0
# or Fisher's z of their own structure; times closer than other pairs
MIN_OWN = 0.3
MIN_GAP = 1.75
# Correlation of pairs that resemble each other by degrees, and their share from which parts lie at any angle.
# Two that lie alike then share more than others do: copies must reach this correlation, or differ by noise
GRADED = (0.3, 0.9)
MIN_GRADED = 0.1
MIN_ALIKE_OF_GRADED = 0.997
MIN_FIRST_FIT = 0.6  # correlation below which pictures lie otherwise, and say nothing of the usual distance
MIN_OTHERS = 3  # pictures that show a set's shared structure
STEPS = 3  # of registration
BLOCK = 64  # pictures whose spectra, or likeness to all others, are computed together
ROUNDING = 0.29  # standard deviation of rounding to grey levels
SMOOTHED = 0.61  # of a thumbnail's noise that is left after smoothing
NORMAL_MEDIAN = 0.6745  # of the size of normal values, in their standard deviations
MIN_STRUCTURE = 0.05  # grey levels of fine structure below which nothing can be said


class Compared(NamedTuple):
    """Pairs (i, j, correlation), i < j: of pictures that show one part, and of those that may."""

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
    # Pillow, not matrix products: several threads come here at once, and BLAS would start its own in each
    if picture.dtype == np.uint8:
        is_grey = picture.shape[2] < 3 or picture.strides[2] == 0  # stride 0: grey, seen as three channels
        pixels = picture[:, :, 0] if is_grey else picture[:, :, :3]
        image = Image.fromarray(np.ascontiguousarray(pixels)).convert("L")
        if min(image.size) > 16 * SIDE:
            image = image.resize((8 * SIDE, 8 * SIDE), Image.Resampling.BILINEAR)
        image = image.convert("F")
    else:
        deep = np.nan_to_num(picture.mean(axis=2, dtype=np.float32))
        black, white = own_levels(deep[:, :, None])  # 12 bits in 16, ...
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
        return Look.of(first_group(source)[0])
    except (InputError, MemoryError):
        return None


def noise_level(picture: NDArray[np.number]) -> float:
    """Return the standard deviation of the noise in a picture's thumbnail, in grey levels 0..255.

    It is the median of a filter that answers to neither edges nor slopes (after Immerkaer, Fast noise
    variance estimation, 1996), scaled as white noise is averaged to the thumbnail. It is at least the noise
    of rounding. The picture is a decoded one, [H, W, C].
    """
    height, width = picture.shape[:2]
    rows, columns = (slice(max(0, side // 2 - 512), side // 2 + 512) for side in (height, width))
    grey = picture[rows, columns].mean(axis=2, dtype=np.float32)
    if picture.dtype != np.uint8:
        black, white = own_levels(np.nan_to_num(picture))
        grey *= 255.0 / (white - black)
    along = grey[:, :-2] - 2 * grey[:, 1:-1] + grey[:, 2:]
    answer = np.abs(along[:-2] - 2 * along[1:-1] + along[2:])
    deviation = float(np.median(answer)) / (6 * NORMAL_MEDIAN) if answer.size else 0.0
    averaged = 2 / 3 * SIDE / math.sqrt(height * width)  # by Pillow's triangle along each side
    return max(deviation, ROUNDING) * min(1.0, averaged)


def near_duplicates(looks: Sequence[Look], bank: Ints) -> list[Pair]:
    """Return pairs (i, j, correlation), i < j, of pictures that show one part.

    At least one of the two is in `bank` (indices). Memory grows with the pictures' number alone, not with its
    square.
    """
    return compare_pictures(looks, bank).copies


def compare_pictures(looks: Sequence[Look], bank: Ints) -> Compared:
    """Return the pairs of pictures that show one part (`near_duplicates`), and those that may."""
    if len(looks) < 2 or not len(bank):
        return Compared([], [])
    noise = np.array([look.noise for look in looks], np.float32)
    smooth = _smoothed(np.stack([look.thumbnail for look in looks]).astype(np.float32), 1)
    spectra = _spectra(smooth)
    wanted = _nominate(smooth, spectra, np.isin(np.arange(len(looks)), bank))
    correlations: dict[PairNumbers, list[float]] = {}
    whole: dict[PairNumbers, Resemblance] = {}
    for i, others in enumerate(wanted):
        if not others:
            continue
        numbers, seen, of_seen = _versions(others, smooth, spectra)
        target = smooth[i][_INNER]
        warped = _register(smooth[i], seen, _shifts(spectra[i], of_seen))
        fine = _fine(np.concatenate([target[None], warped]))
        alike = _correlation(fine[:1], fine[1:])
        far = np.sqrt(np.mean((warped - target) ** 2, axis=(1, 2))) / SMOOTHED
        best: dict[int, float] = {}
        for k, value in enumerate(_own_correlation(target, warped, numbers)):
            j = int(numbers[k])
            best[j] = max(best.get(j, -1.0), float(value))
            pair = (min(i, j), max(i, j))
            differs = float(far[k] / np.hypot(noise[i], noise[j]))
            whole[pair] = max(whole.get(pair, Resemblance(-1.0, 0.0)), Resemblance(float(alike[k]), -differs))
        for j, value in best.items():
            correlations.setdefault((min(i, j), max(i, j)), []).append(value)
    asked = {*bank.tolist()}
    for pair in [*correlations]:
        if asked.isdisjoint(pair):  # it is known already
            del correlations[pair], whole[pair]
    return _decide(correlations, whole, len(looks))


def _versions(
    others: Sequence[Version], smooth: Floats, spectra: NDArray[np.complex64]
) -> tuple[Ints, Floats, NDArray[np.complex64]]:
    """Return the pictures that one picture is compared with.

    Mirrored versions are made here: of all pictures they would be large.

    Args:
        others: Numbers and versions of these pictures.
        smooth: Smoothed thumbnails of all pictures.
        spectra: Spectra of all pictures.

    Returns:
        Their numbers, their thumbnails in these versions, and the spectra of these.
    """
    numbers = np.array([j for j, _ in others])
    seen = smooth[numbers]
    of_seen = spectra[numbers]
    for version, way in ((1, np.s_[:, :, ::-1]), (2, np.s_[:, ::-1])):
        mirrored = np.array([kind == version for _, kind in others])
        seen[mirrored] = seen[mirrored][way]
        of_seen[mirrored] = _spectra(seen[mirrored])
    return numbers, seen, of_seen


def _decide(
    correlations: dict[PairNumbers, list[float]], whole: dict[PairNumbers, Resemblance], count: int
) -> Compared:
    z = {
        pair: math.atanh(float(np.clip(min(values), -0.9999, 0.9999)))
        for pair, values in correlations.items()
    }
    bars = _Bars.of([*z.values()], whole.values(), count)
    copies = []
    unsure = []
    for pair in sorted(z):
        found = whole[pair]
        if bars.show_one_part(z[pair], found, count):
            copies.append((*pair, math.tanh(z[pair]) if count > MIN_OTHERS else found.alike))
        elif bars.may_show_one_part(z[pair], found):
            unsure.append((*pair, found.alike))
    return Compared(_without_bridges(copies), unsure)


class _Bars(NamedTuple):
    """Bars that two pictures of a set must reach to show one part.

    Attributes:
        own: Fisher's z of the structure that only they have.
        own_of_same: The same bar where their whole fine structure is the same.
        closer: Distance of pictures that are much closer than others.
        graded: Whether pairs resemble each other by degrees.
    """

    own: float
    own_of_same: float
    closer: float
    graded: bool

    @classmethod
    def of(cls, z: list[float], whole: Collection[Resemblance], count: int) -> _Bars:
        """Return the bars of a set of `count` pictures, by Fisher's z and the resemblance of its pairs."""
        chance = max(0.0, float(np.quantile(z, CHANCE_PART)))
        are_alike = math.tanh(float(np.quantile(z, ALIKE_PART))) > ALIKE
        sure = math.atanh(MIN_SURE_OF_ALIKE if are_alike else MIN_SURE)
        limit = sure if are_alike else min(sure, max(math.atanh(MIN_CLEAR), CLEAR * chance))
        if MIN_FOR_GAP <= count <= ALL_COMPARED:
            limit = min(limit, _above_gap(z))
        own_of_same = limit
        if count > ALL_COMPARED and not are_alike:
            own_of_same = min(limit, max(math.atanh(MIN_CLEAR), CLEAR_OF_SAME * chance))
        gaps = [fit.distance for fit in whole if fit.alike > MIN_FIRST_FIT]
        closer = float(np.quantile(gaps, 0.25)) / MIN_GAP if gaps else 0.0
        graded = np.mean([GRADED[0] < fit.alike < GRADED[1] for fit in whole]) >= MIN_GRADED
        return cls(limit, own_of_same, closer, bool(graded))

    def show_one_part(self, z: float, found: Resemblance, count: int) -> bool:
        """Whether two pictures of a set of `count` surely show one part."""
        if count <= MIN_OTHERS:  # too few to show a shared structure
            return found.is_same_but_for_noise
        if z < (self.own_of_same if found.is_same else self.own):
            return False
        return not self.graded or found.alike >= MIN_ALIKE_OF_GRADED or found.distance <= MAX_NOISE

    def may_show_one_part(self, z: float, found: Resemblance) -> bool:
        if found.is_same_but_for_noise:
            return True
        return found.is_same and found.distance <= self.closer and z >= MIN_OWN


def _above_gap(values: Iterable[float]) -> float:
    """Return the lowest of the values that stand apart from all others; inf: none do. Many may be copies."""
    ordered = np.sort([0.0, *(value for value in values if value > 0)])
    gaps = np.where(np.tanh(ordered[1:]) >= MIN_CLEAR, np.diff(ordered), 0)
    return float(ordered[1 + gaps.argmax()]) if gaps.max(initial=0) >= MIN_Z_GAP else math.inf


def _without_bridges(pairs: list[Pair]) -> list[Pair]:
    """Return pairs whose partners are each other's: a single likeness joins no two groups."""
    partners: dict[int, set[int]] = {}
    for i, j, _ in pairs:
        partners.setdefault(i, set()).add(j)
        partners.setdefault(j, set()).add(i)
    return [
        (i, j, much)
        for i, j, much in pairs
        if 2 * len(partners[i] & partners[j]) >= min(len(partners[i]), len(partners[j])) - 1
    ]


def _nominate(smooth: Floats, spectra: NDArray[np.complex64], bank: NDArray[np.bool_]) -> list[list[Version]]:
    """Return the pictures to compare each picture with.

    Of few pictures these are all others; else the likest by thumbnail, by spectrum and by mirrored spectrum,
    and a few at random.
    """
    count = len(smooth)
    if count <= ALL_COMPARED:
        return _all_others(count)
    small = smooth.reshape(count, 16, 4, 16, 4).mean(axis=(2, 4)).reshape(count, -1)
    strength = np.log1p(np.abs(spectra[:, np.r_[-12:12], :13]))  # a shift does not change it
    mirrored = strength[:, np.r_[0, 23:0:-1]]  # rows -12..11, those of the opposite sign
    by_thumbnail = _unit(small)
    by_spectrum = _unit(strength.reshape(count, -1))
    by_mirrored_spectrum = _unit(mirrored.reshape(count, -1))
    found: list[set[Version]] = [set() for _ in range(count)]
    rng = np.random.default_rng(0)
    searches = (
        (by_thumbnail, by_thumbnail, NOMINATED, (0,)),
        (by_spectrum, by_spectrum, NOMINATED, (0,)),
        (by_spectrum, by_mirrored_spectrum, MIRRORED, (1, 2)),
    )
    in_bank = np.flatnonzero(bank)
    for queries, keys, most, versions in searches:
        for pair, other in _likest(queries, keys, in_bank, most):
            for version in versions:
                found[pair].add((other, version))
                found[other].add((pair, version))
    # those outside the bank need their likest pictures, to find their own structure; others are not needed
    outside = np.array([i for i, nominated in enumerate(found) if nominated and not bank[i]], np.intp)
    for pair, other in _likest(by_thumbnail, by_thumbnail, outside, NOMINATED):
        found[pair].add((other, 0))
    for i in in_bank.tolist():
        by_chance = set(rng.choice(count, CHANCE, replace=False).tolist())
        found[i].update((j, 0) for j in by_chance - {i})
    return [sorted(nominated) for nominated in found]


def _all_others(count: int) -> list[list[Version]]:
    """Return for each of `count` pictures all others, as they are and mirrored."""
    each = []
    for i in range(count):
        others = [j for j in range(count) if j != i]
        each.append([(j, version) for version in range(3) for j in others])
    return each


def _likest(queries: Floats, keys: Floats, asking: Ints, most: int) -> Iterator[tuple[int, int]]:
    """Yield each asking picture with those, other than itself, that are likest to it."""
    count = len(keys)
    for rows in np.array_split(asking, -(-len(asking) // BLOCK) or 1):
        similar = queries[rows] @ keys.T
        similar[rows[:, None] == np.arange(count)] = -np.inf
        nearest = np.argpartition(-similar, min(most, count - 2), axis=1)[:, :most]
        for row, others in zip(rows.tolist(), nearest.tolist(), strict=True):
            for other in others:
                yield row, other


def _unit(values: Floats) -> Floats:
    centred = values - values.mean(axis=0)
    return np.asarray(centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-6), np.float32)


def _spectra(pictures: Floats) -> NDArray[np.complex64]:
    """Return spectra [N, 64, 33] of pictures without their coarse structure and their edges."""
    found = np.empty((len(pictures), SIDE, SIDE // 2 + 1), np.complex64)
    for start in range(0, len(pictures), BLOCK):  # in blocks, since numpy's own are twice as large
        some = pictures[start : start + BLOCK]
        found[start : start + BLOCK] = np.fft.rfft2((some - _smoothed(some, 6)) * _WINDOW)
    return found


def _shifts(spectrum: NDArray[np.complex64], spectra: NDArray[np.complex64]) -> Floats:
    """Return shifts [P, 2] (down, right, in half widths) at which pictures correlate most with the one."""
    reach = np.r_[-MAX_SHIFT : MAX_SHIFT + 1]
    similar = np.fft.irfft2(spectrum * spectra.conj(), (SIDE, SIDE))[:, reach][:, :, reach]
    place = similar.reshape(len(similar), -1).argmax(axis=1)
    return np.asarray(
        -2 / SIDE * np.stack([reach[place // len(reach)], reach[place % len(reach)]], 1), np.float32
    )


def _register(a: Floats, pictures: Floats, shifts: Floats) -> Floats:
    """Return inner parts [P, n, n] of pictures [P, 64, 64], in the pose and the light of `a` [64, 64]."""
    pose = np.zeros((len(pictures), 6), np.float32)  # of x: along x, along y, shift; the same of y
    pose[:, 2], pose[:, 5] = shifts[:, 1], shifts[:, 0]
    values = np.repeat(a[_INNER].reshape(1, -1), len(pictures), axis=0)
    for step in range(STEPS + 1):
        warped = np.stack([_warp(picture, where) for picture, where in zip(pictures, pose, strict=True)])
        inner = warped[_INNER]
        columns = [inner, inner * _X, inner * _Y, np.ones_like(inner)]
        if step < STEPS:
            down, right = (
                np.asarray(d, np.float32)[_INNER] for d in np.gradient(warped, 2 / SIDE, axis=(1, 2))
            )
            columns += [right * _X, right * _Y, right, down * _X, down * _Y, down]
        design = np.stack([c.reshape(len(c), -1) for c in columns], axis=1)
        solution = _least_squares(design, values)
        if step < STEPS:
            gain = np.where(np.abs(solution[:, :1]) < 0.3, 1.0, solution[:, :1])
            pose += np.clip(solution[:, 4:] / gain, -0.03, 0.03)
            pose[:, [0, 1, 3, 4]] = np.clip(pose[:, [0, 1, 3, 4]], -0.07, 0.07)
            pose[:, [2, 5]] = np.clip(pose[:, [2, 5]], -0.3, 0.3)
    return np.asarray((solution[:, None].astype(np.float32) @ design)[:, 0].reshape(inner.shape))


def _warp(picture: Floats, pose: Floats) -> Floats:
    xx, xy, x, yx, yy, y = map(float, pose)
    half = SIDE / 2
    affine = (1 + xx, xy, half * (x - xx - xy), yx, 1 + yy, half * (y - yx - yy))
    image = Image.fromarray(picture)
    return np.asarray(image.transform(image.size, Image.Transform.AFFINE, affine, Image.Resampling.BICUBIC))


def _least_squares(design: Floats, values: Floats) -> NDArray[np.float64]:
    """Return coefficients [P, C] of the columns [P, C, pixels] that fit pictures [P, pixels]."""
    gram = (design @ design.transpose(0, 2, 1)).astype(np.float64)
    right = (design @ values[:, :, None]).astype(np.float64)
    ridge = 1e-6 * np.einsum("pii->p", gram) / gram.shape[1] + 1e-6
    return np.asarray(np.linalg.solve(gram + ridge[:, None, None] * np.eye(gram.shape[1]), right)[:, :, 0])


def _own_correlation(target: Floats, warped: Floats, numbers: Ints) -> Floats:
    """Return the correlation [P] of the structure that registered pictures and their target alone have.

    The structure that the nearest half of the others share is taken away from both.

    Args:
        target: The picture [n, n] that the others are registered to.
        warped: Registered pictures [P, n, n].
        numbers: Number [P] of each one's picture.
    """
    order = np.argsort(np.mean((warped - target) ** 2, axis=(1, 2)))
    _, firsts = np.unique(numbers[order], return_index=True)
    nearest = order[np.sort(firsts)]  # each in its best version
    if len(nearest) < MIN_OTHERS:
        return np.full(len(warped), -1, np.float32)
    nearest = nearest[: max(MIN_OTHERS, len(nearest) // 2 + 1)]
    place = {int(numbers[k]): k for k in nearest}
    total = warped[nearest].sum(axis=0)
    mean = total / len(nearest)
    without = [
        (total - warped[place[j]]) / (len(nearest) - 1) if j in place else mean for j in numbers.tolist()
    ]
    down, right = np.gradient(mean)
    shared = [mean, mean * _X, mean * _Y, np.ones_like(mean)]
    shared += [slope * part for slope in (right, down) for part in (np.float32(1), _X, _Y)]
    basis = np.linalg.qr(_fine(np.stack(shared)).T)[0]
    first, second = (_fine(values - np.stack(without)) for values in (target[None], warped))
    first, second = (values - (values @ basis) @ basis.T for values in (first, second))
    return _correlation(first, second)


def _fine(values: Floats) -> Floats:
    """Return the fine structure [P, pixels] of inner parts [P, n, n], mean zero."""
    fine = (values - _INNER_KERNEL @ values @ _INNER_KERNEL.T).reshape(len(values), -1)
    return np.asarray(fine - fine.mean(axis=1, keepdims=True), np.float32)


def _correlation(first: Floats, second: Floats) -> Floats:
    scale = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    floor = MIN_STRUCTURE**2 * first.shape[1]
    return np.asarray(np.where(scale > floor, (first * second).sum(axis=1) / np.maximum(scale, floor), 0))


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
    kernel = _smoothing(times)
    return np.asarray(kernel @ values @ kernel.T, np.float32)


_INNER = np.s_[..., MARGIN:-MARGIN, MARGIN:-MARGIN]
_INNER_KERNEL = _smoothing(6)[MARGIN:-MARGIN, MARGIN:-MARGIN]
_INNER_KERNEL = _INNER_KERNEL / _INNER_KERNEL.sum(axis=1, keepdims=True)
_X = np.linspace(-1, 1, SIDE, dtype=np.float32)[None, MARGIN:-MARGIN]
_Y = _X.T
_WINDOW = np.outer(np.hanning(SIDE), np.hanning(SIDE)).astype(np.float32)


def clusters(pairs: list[tuple[int, int, float]]) -> Iterator[list[int]]:
    """Yield groups of connected pictures, each sorted, groups by their first member."""
    group_of: dict[int, list[int]] = {}
    for i, j, _ in pairs:
        first, other = (group_of.setdefault(k, [k]) for k in (i, j))
        if first is not other:
            first += other
            group_of |= dict.fromkeys(other, first)
    yield from sorted({id(group): sorted(group) for group in group_of.values()}.values())
