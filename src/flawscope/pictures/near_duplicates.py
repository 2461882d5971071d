"""Finds nearly equal pictures: re-encoded, a touch brighter, shifted, resized or cropped a little.

Pictures of aligned products resemble each other so much that the usual perceptual hashes call half of them
duplicates. So similarity only *nominates* pairs here (16 × 16 grey levels, matrix products in blocks), and
each nominated pair is then *verified* at 64 × 64: one picture is fitted to the other with shift, scale, and a
light that is uneven (Lucas and Kanade 1981, by Gauss–Newton). What counts is the correlation of the fine
structure, and that what still differs is no more than noise, or far less than between other pictures.

Measured at 256 px on drawn plates, fabric, bottles, brackets and a printed face, aligned and seen by one
camera (`flawscope.synthesis.demo.scene`): pictures of one part differ by .7 to 1.2 times their noise, by up
to 4 when they are shifted by a pixel; other parts by 3.6 (a bracket with a weak surface) to 80. On MVTec AD
transistor and toothbrush other parts differ by 100 to 900, a copy in toothbrush by 34; there copies' fine
structure correlates above .998 and that of other parts up to .990.

A texture that repeats fits itself a period aside, and another picture of it as well as itself. So a pair of
those must also be `MIN_SEPARATION` times closer than a picture is to itself, shifted (`_self_similarity`).

On a surface whose structure is different on each part but hardly stronger than the noise (brushed metal,
rubber), pictures of one part correlate by .6 to .98, and those of others by up to .15. There, what noise and
the difference explain may be missing in the correlation.

Limit: parts that differ by less than the camera's noise at 64 px cannot be distinguished from copies; they
come out as one large group. A surface without structure above that noise has no copies, nor
has a faint one of which nearly all pictures show one part.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flawscope.pictures.levels import own_levels

Floats = NDArray[np.float32]
Ints = NDArray[np.intp]

SIDE = 64  # of a thumbnail
DESCRIPTOR_SIDE = 16  # of a descriptor
MARGIN = 4  # thumbnail pixels left out at each edge, where a shift brings in something new
ZOOM = 1.03  # the crop that the search also tries
MAX_NEIGHBOURS = 8  # nominated per picture and search
MAX_VERIFIED = 1000  # pairs up to which all are nominated
MIN_DESCRIPTOR_CORRELATION = 0.7  # descriptors that correlate less are not verified
MIN_THRESHOLD = 0.994  # correlation of fine structure from which two pictures are one
MIN_THRESHOLD_BEYOND_NOISE = 0.996  # and where more than noise differs: parts that lie alike reach .9955
MAX_UNLIKE = 0.3  # middle correlation of pictures of a surface that is different on each part
MIN_FAINT = 0.5  # the least correlation of two pictures of such a surface that are one
FAINT_LOSS = (2.0, 1.5)  # of their correlation: factor, and least difference in units of noise
MIN_SEPARATION = 3  # a copy is this many times closer to 1 than a texture is to itself, a period aside
MIN_FAINT_SEPARATION = 1.5  # the same for a faint surface, whose noise takes copies apart
MAX_NOISE = 3.0  # times their noise, up to which two pictures differ by nothing else
MIN_GAP = 2.5  # or they are so many times closer than three of four pairs of the set
MAX_DRAWN = 400  # pairs drawn by chance, that say how far apart pictures usually are
ROUNDING = 0.29  # standard deviation of what rounding to grey levels takes away
SMOOTHED = 0.61  # of a thumbnail's noise that is left after `_smooth`
FINE_NOISE = 0.3  # of a thumbnail's noise that is left in its fine structure
NORMAL_MEDIAN = 0.6745  # of the size of normal values, in their standard deviations
STEPS = 4  # of fitting
MIN_FIRST_FIT = 0.6  # the same before the last two fitting steps; below it the pair is dropped
MAX_SHIFT = 4  # thumbnail pixels: a shift that no copy has
MIN_STRUCTURE = 0.05  # grey levels of fine structure below which nothing can be said
BLOCK = 256  # rows of similarity at a time
CHUNK = 128  # pairs verified at a time


def thumbnail(picture: NDArray[Any]) -> NDArray[np.float16]:
    """Grey levels 0..255 of a decoded picture [H, W, C], averaged to [64, 64]."""
    # Pillow, not matrix products: several threads come here at once, and BLAS would start its own in each
    if picture.dtype == np.uint8:
        pixels = picture[:, :, :3] if picture.shape[2] >= 3 and picture.strides[2] else picture[:, :, 0]
        image = Image.fromarray(np.ascontiguousarray(pixels)).convert("L")
        if min(image.size) > 16 * SIDE:
            image = image.resize((8 * SIDE, 8 * SIDE), Image.Resampling.BILINEAR)
        image = image.convert("F")
    else:
        deep = np.nan_to_num(picture.mean(axis=2, dtype=np.float32))
        black, white = own_levels(deep[:, :, None])  # 12 bits in 16, ...
        image = Image.fromarray((deep - np.float32(black)) * np.float32(255.0 / max(white - black, 1e-6)))
    small = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR), np.float32)
    return np.asarray(np.clip(small, 0, 255), np.float16)


class Look(NamedTuple):
    """Look of a picture, by which it is compared: its thumbnail, and the noise in it."""

    thumbnail: NDArray[np.float16]
    noise: float

    @classmethod
    def of(cls, picture: NDArray[Any]) -> Look:
        return cls(thumbnail(picture), noise_level(picture))

    @property
    def spread(self) -> float:
        """Standard deviation of the grey levels."""
        return float(self.thumbnail.astype(np.float32).std())


def noise_level(picture: NDArray[Any]) -> float:
    """Standard deviation of the noise in the thumbnail of a decoded picture [H, W, C], in grey levels 0..255.

    By the median of a filter that answers to neither edges nor slopes (after Immerkaer, Fast noise variance
    estimation, 1996), as white noise is averaged to the thumbnail. At least that of rounding.
    """
    height, width = picture.shape[:2]
    rows, columns = (slice(max(0, side // 2 - 512), side // 2 + 512) for side in (height, width))
    grey = picture[rows, columns].mean(axis=2, dtype=np.float32)
    if picture.dtype != np.uint8:
        black, white = own_levels(np.nan_to_num(picture))
        grey *= 255.0 / max(white - black, 1e-6)
    along = grey[:, :-2] - 2 * grey[:, 1:-1] + grey[:, 2:]
    answer = np.abs(along[:-2] - 2 * along[1:-1] + along[2:])
    deviation = float(np.median(answer)) / (6 * NORMAL_MEDIAN) if answer.size else 0.0
    averaged = 2 / 3 * SIDE / math.sqrt(height * width)  # by Pillow's triangle along each side
    return max(deviation, ROUNDING) * min(1.0, averaged)


def near_duplicates(looks: Sequence[Look], bank: Ints) -> list[tuple[int, int, float]]:
    """Pairs (i, j, correlation), i < j, of pictures that are nearly the same, where at least one of the two
    is in `bank` (indices). Memory grows with their number alone, not with its square."""
    if len(looks) < 2 or not len(bank):
        return []
    thumbnails = np.stack([look.thumbnail for look in looks])
    level = np.array([look.noise for look in looks], np.float32)
    pairs, drawn = _candidate_pairs(thumbnails, bank), _drawn_pairs(len(looks), bank)
    every, places = np.unique(np.concatenate([pairs, drawn]), axis=0, return_inverse=True)
    correlation, difference = _compare(thumbnails, every, level)  # of few pictures most are in both
    candidates, by_chance = np.split(places.ravel(), [len(pairs)])
    alike, usual = _usual_pairs(correlation[by_chance], difference[by_chance])
    correlation, difference = correlation[candidates], difference[candidates]
    copies = (correlation >= MIN_THRESHOLD) & (difference <= MAX_NOISE)
    # where pictures are unlike, none resemble each other so much by chance
    beyond = usual / MIN_GAP if alike > MAX_UNLIKE else np.inf
    copies |= (correlation >= MIN_THRESHOLD_BEYOND_NOISE) & (difference <= beyond)
    separation = np.full(len(pairs), MIN_SEPARATION, np.float32)
    if alike <= MAX_UNLIKE:
        noise = _fine_noise(thumbnails, level)[pairs].max(axis=1)
        faint = ~copies & _are_faint_copies(correlation, difference, noise)
        copies, separation[faint] = copies | faint, MIN_FAINT_SEPARATION
    chosen = np.flatnonzero(copies)
    repeated = np.array([_self_similarity(thumbnails[i]) for i in pairs[chosen, 0]], np.float32)
    chosen = chosen[correlation[chosen] >= 1 - (1 - repeated) / separation[chosen]]
    return [(int(pairs[k, 0]), int(pairs[k, 1]), float(correlation[k])) for k in chosen]


def _are_faint_copies(correlation: Floats, difference: Floats, noise: Floats) -> NDArray[np.bool_]:
    """Whether pairs are copies of a faint surface, where noise alone takes copies below `MIN_THRESHOLD`.
    noise: its share of their fine structure."""
    factor, least = FAINT_LOSS
    loss = factor * np.maximum(difference, least) ** 2 * noise
    bar = np.maximum(MIN_THRESHOLD - loss, MIN_FAINT)
    return np.asarray((correlation >= bar) & (difference <= MAX_NOISE))


def _fine_noise(thumbnails: NDArray[np.float16], noise: Floats) -> Floats:
    """Share of the noise in the variance of the fine structure [N], 0..1."""
    variance = np.empty(len(thumbnails), np.float32)
    for start in range(0, len(thumbnails), BLOCK):
        smooth = _smooth(thumbnails[start : start + BLOCK].astype(np.float32))
        variance[start : start + BLOCK] = _flatten_inner(smooth - _smooth(smooth, 3)).var(axis=1)
    return np.asarray(np.minimum((FINE_NOISE * noise) ** 2 / np.maximum(variance, MIN_STRUCTURE**2), 1))


def _drawn_pairs(count: int, bank: Ints) -> Ints:
    """Unique pairs [P, 2] of `count` pictures, drawn by chance, one of each in the bank."""
    rng = np.random.default_rng(0)
    pairs = np.stack([rng.choice(bank, MAX_DRAWN), rng.integers(count, size=MAX_DRAWN)], axis=1)
    return np.unique(np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1), axis=0)


def _usual_pairs(correlation: Floats, difference: Floats) -> tuple[float, float]:
    """Estimates how alike and how far apart pictures are that are not copies, from pairs drawn by chance: the
    middle correlation, and the lower quartile of the difference; fewer of them may be copies."""
    alike = difference[correlation > MIN_FIRST_FIT]  # others lie elsewhere, and say nothing
    return float(np.median(correlation)), float(np.quantile(alike, 0.25)) if len(alike) else 0.0


def _compare(thumbnails: NDArray[np.float16], pairs: Ints, noise: Floats) -> tuple[Floats, Floats]:
    """Correlation of the fine structure of pairs [P, 2], and their difference in units of its noise, each
    the better of both directions: a crop fits in one better than in the other."""
    result = np.zeros((2, len(pairs)), np.float32)
    for start in range(0, len(pairs), CHUNK):
        part = pairs[start : start + CHUNK]
        one, other = thumbnails[part[:, 0]], thumbnails[part[:, 1]]
        of_both = np.hypot(noise[part[:, 0]], noise[part[:, 1]])
        (there, far), (back, away) = correlate(one, other), correlate(other, one)
        result[:, start : start + len(part)] = np.maximum(there, back), np.minimum(far, away) / of_both
    return result[0], result[1]


def correlate(first: NDArray[np.float16], second: NDArray[np.float16]) -> tuple[Floats, Floats]:
    """Correlation of the fine structure [P] of two lists [P, 64, 64], after fitting `second` to `first`, and
    what differs of the whole [P] beyond another light, in grey levels."""
    a, b = _smooth(first.astype(np.float32)), _smooth(second.astype(np.float32))
    result, difference = np.zeros((2, len(a)), np.float32)
    pose = np.zeros((4, len(a)), np.float32)  # scale and shift, horizontal then vertical, in half widths
    active, fine = np.arange(len(a)), _fine(a)
    for step in range(STEPS + 1):
        scale_x, shift_x, scale_y, shift_y = pose[:, active]
        warped = _resample(b, _resampling_matrices(scale_y, shift_y), _resampling_matrices(scale_x, shift_x))
        result[active] = _fine_correlation(fine, _fine(warped))
        if step in (1, STEPS):
            difference[active] = _differ_beyond_light(a, warped)
        if step == STEPS:
            break
        if step == 1:
            keep = result[active] > MIN_FIRST_FIT
            active, a, b, warped, fine = active[keep], a[keep], b[keep], warped[keep], fine[keep]
        if not len(active):
            break
        pose[:, active] = np.clip(pose[:, active] + _gauss_newton(a, warped), -0.06, 0.06)
    return result, difference


def _differ_beyond_light(a: Floats, warped: Floats) -> Floats:
    """Root mean square [P] of what a light that is offset, brighter and uneven does not explain."""
    design, values = _as_rows(_light_columns(warped[_INNER], _INNER_ACROSS)), _flatten_inner(a)
    left = values.astype(np.float64) - (_least_squares(design, values)[:, None] @ design)[:, 0]
    return np.asarray(np.sqrt(np.mean(left * left, axis=1)) / SMOOTHED, np.float32)


def _light_columns(warped: Floats, across: Floats) -> list[Floats]:
    """Changes of pictures [P, n, n] by a light that is brighter, uneven, or offset. across: places of their
    columns, -1..1 in the whole picture."""
    x, y = across[None, :], across[:, None]
    return [*(warped * part for part in (1, x, y, x * x, x * y, y * y)), np.ones_like(warped)]


def _least_squares(design: Floats, values: Floats) -> NDArray[np.float64]:
    """Coefficients [P, C] of the columns [P, C, pixels] that fit pictures [P, pixels]."""
    gram = (design @ design.transpose(0, 2, 1)).astype(np.float64)
    right = (design @ values[:, :, None]).astype(np.float64)
    size = design.shape[1]
    gram += (1e-7 * np.einsum("pii->pi", gram)[:, :, None] + 1e-6) * np.eye(size)
    return np.asarray(np.linalg.solve(gram, right)[:, :, 0], np.float64)


def _self_similarity(thumbnail: NDArray[np.float16]) -> float:
    """Correlation of the fine structure [64, 64] with itself, shifted by more than `MAX_SHIFT` and at most
    half its side: near 1 only where it repeats. FFTs sum over the overlap."""
    smooth = _smooth(thumbnail.astype(np.float32))
    fine = _flatten_inner((smooth - _smooth(smooth, 3))[None]).reshape(SIDE - 2 * MARGIN, -1)
    fine = fine.astype(np.float64)
    side = len(fine)
    fine, ones = fine - fine.mean(), np.ones_like(fine)
    size = (2 * side, 2 * side)
    of, squares, there = (np.fft.rfft2(values, size) for values in (fine, fine**2, ones))
    product, first, second = (
        np.fft.irfft2(a * b.conj(), size) for a, b in ((of, of), (squares, there), (there, squares))
    )
    similar = product / np.maximum(np.sqrt(np.maximum(first * second, 0)), MIN_STRUCTURE**2)
    shift = np.minimum(np.arange(2 * side), 2 * side - np.arange(2 * side))  # of rows and of columns
    far = np.maximum(shift[:, None], shift)
    return float(similar[(far > MAX_SHIFT) & (far <= side // 2)].max())


def _candidate_pairs(thumbnails: NDArray[np.float16], bank: Ints) -> NDArray[np.intp]:
    """Unique pairs [P, 2]: every picture's nearest ones in the bank, also with either cropped by 3 %."""
    plain = _descriptors(thumbnails, 1.0)
    zoomed = _descriptors(thumbnails, ZOOM)
    place = np.full(len(thumbnails), -1)
    place[bank] = np.arange(len(bank))
    count = min(MAX_NEIGHBOURS, len(bank))
    own = _own_descriptors(thumbnails, bank)
    pairs: list[NDArray[np.intp]] = []
    sought = ((plain, plain[bank]), (zoomed, plain[bank]), (plain, zoomed[bank]), (own, own[bank]))
    for queries, keys in sought:
        for start in range(0, len(queries), BLOCK):
            similarity = queries[start : start + BLOCK] @ keys.T
            if queries is own:  # it says little of a surface that is fine: of few pictures all are verified
                count = min(max(MAX_NEIGHBOURS, MAX_VERIFIED // len(bank)), len(bank))
            rows = np.arange(len(similarity))
            itself = place[start : start + len(similarity)]
            similarity[rows[itself >= 0], itself[itself >= 0]] = -1.0
            best = np.argpartition(similarity, -count, axis=1)[:, -count:]
            least = -1.0 if queries is own else MIN_DESCRIPTOR_CORRELATION
            likely = np.take_along_axis(similarity, best, axis=1) > least
            row, column = np.nonzero(likely)
            pairs.append(np.stack([row + start, bank[best[row, column]]], axis=1))
    both = np.concatenate(pairs)
    return np.unique(np.sort(both, axis=1), axis=0)


def _own_descriptors(thumbnails: NDArray[np.float16], bank: Ints) -> Floats:
    """Descriptors of what is a picture's own: without what those of the bank share, as others see it in
    another light. Parts that lie alike resemble each other more than two lights do."""
    plain = _descriptors(thumbnails, 1.0)
    mean = plain[bank].mean(axis=0).reshape(1, DESCRIPTOR_SIDE, DESCRIPTOR_SIDE)
    across = np.linspace(-1, 1, DESCRIPTOR_SIDE, dtype=np.float32)
    shared = np.stack([column.ravel() for column in _light_columns(mean, across)])  # [7, 256]
    basis = np.linalg.qr(shared.T.astype(np.float64))[0]
    own = plain - (plain @ basis) @ basis.T
    return np.asarray(own / np.maximum(np.linalg.norm(own, axis=1, keepdims=True), 1e-6), np.float32)


def _descriptors(thumbnails: NDArray[np.float16], zoom: float) -> Floats:
    """Descriptors [N, 256]: 16 × 16 grey levels, mean zero, unit length; products are correlations."""
    edges = SIDE * (0.5 + np.linspace(-0.5, 0.5, DESCRIPTOR_SIDE + 1) / zoom)
    cell = np.arange(SIDE)
    overlap = np.minimum(edges[1:, None], cell + 1) - np.maximum(edges[:-1, None], cell)
    mean = np.clip(overlap, 0, None)
    mean = (mean / mean.sum(axis=1, keepdims=True)).astype(np.float32)  # [16, 64]
    result = np.empty((len(thumbnails), DESCRIPTOR_SIDE * DESCRIPTOR_SIDE), np.float32)
    for start in range(0, len(thumbnails), BLOCK):
        block = mean @ thumbnails[start : start + BLOCK].astype(np.float32) @ mean.T
        flat = block.reshape(len(block), -1)
        flat = flat - flat.mean(axis=1, keepdims=True)
        result[start : start + BLOCK] = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-3)
    return result


def _gauss_newton(a: Floats, warped: Floats) -> Floats:
    """Does one step of the fit a ≈ light · warp(b) + offset -> change of the pose [4, P]."""
    gradients = np.gradient(warped, 2 / (a.shape[-1] - 1), axis=(1, 2))
    d_row, d_column = (np.asarray(d, np.float32)[_INNER] for d in gradients)
    moved = d_column * _INNER_ACROSS, d_column, d_row * _INNER_ACROSS[:, None], d_row
    columns = _as_rows([*_light_columns(warped[_INNER], _INNER_ACROSS), *moved])
    solution = _least_squares(columns, _flatten_inner(a))
    gain = np.where(np.abs(solution[:, :1]) < 0.1, 1.0, solution[:, :1])
    return np.clip(solution[:, -4:] / gain, -0.03, 0.03).T.astype(np.float32)


def _resample(b: Floats, rows: Floats, columns: Floats) -> Floats:
    return np.asarray(rows @ b @ columns.transpose(0, 2, 1), np.float32)


def _resampling_matrices(scale: Floats, shift: Floats) -> Floats:
    """Matrices [P, n, n]: cubic (Catmull–Rom) interpolation at (1 + scale) · x + shift, x in -1..1."""
    across = np.linspace(-1, 1, SIDE, dtype=np.float32)
    at = (across * (1 + scale[:, None]) + shift[:, None] + 1) * ((SIDE - 1) / 2)
    away = np.abs(np.clip(at, 0, SIDE - 1)[:, :, None] - np.arange(SIDE, dtype=np.float32))
    near = (1.5 * away - 2.5) * away * away + 1
    far = ((-0.5 * away + 2.5) * away - 4) * away + 2
    weights = np.where(away < 1, near, np.where(away < 2, far, 0))
    return np.asarray(weights / weights.sum(axis=2, keepdims=True), np.float32)


def _fine(values: Floats) -> Floats:
    """Fine structure [P, pixels] of pictures [P, n, n], mean zero."""
    fine = _flatten_inner(values - _smooth(values, 3))
    return np.asarray(fine - fine.mean(axis=1, keepdims=True))


def _fine_correlation(fine_a: Floats, fine_b: Floats) -> Floats:
    scale = np.linalg.norm(fine_a, axis=1) * np.linalg.norm(fine_b, axis=1)
    floor = MIN_STRUCTURE**2 * fine_a.shape[1]
    product = np.einsum("pn,pn->p", fine_a, fine_b)
    return np.asarray(np.where(scale > floor, product / np.maximum(scale, floor), 0), np.float32)


_INNER = np.s_[:, MARGIN:-MARGIN, MARGIN:-MARGIN]
_INNER_ACROSS = np.linspace(-1, 1, SIDE, dtype=np.float32)[MARGIN:-MARGIN]


def _flatten_inner(values: Floats) -> Floats:
    return values[_INNER].reshape(len(values), -1)


def _as_rows(columns: Sequence[Floats]) -> Floats:
    return np.stack([column.reshape(len(column), -1) for column in columns], axis=1)


def _binomial_matrix(times: int) -> Floats:
    """Matrix [n, n] that smooths by (1, 2, 1) / 4 along one axis, `times` times, edges repeated."""
    single = np.eye(SIDE) / 2 + np.eye(SIDE, k=1) / 4 + np.eye(SIDE, k=-1) / 4
    single[0, 0] += 0.25
    single[-1, -1] += 0.25
    return np.linalg.matrix_power(single, times).astype(np.float32)


_SMOOTHING = {times: _binomial_matrix(times) for times in (1, 3)}


def _smooth(values: Floats, times: int = 1) -> Floats:
    kernel = _SMOOTHING[times]
    return np.asarray(kernel @ values @ kernel.T, np.float32)


def clusters(pairs: list[tuple[int, int, float]]) -> Iterator[list[int]]:
    """Groups of connected pictures, each sorted, groups by their first member."""
    group_of: dict[int, list[int]] = {}
    for i, j, _ in pairs:
        one, other = (group_of.setdefault(k, [k]) for k in (i, j))
        if one is not other:
            one += other
            group_of |= dict.fromkeys(other, one)
    yield from sorted({id(group): sorted(group) for group in group_of.values()}.values())
