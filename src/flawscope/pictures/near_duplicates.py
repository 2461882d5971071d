"""Finds nearly equal pictures: re-encoded, a touch brighter, shifted, resized or cropped a little.

Pictures of aligned products resemble each other so much that the usual perceptual hashes call half of them
duplicates. So similarity only *nominates* pairs here (16 × 16 grey levels, matrix products in blocks), and
each nominated pair is then *verified* at 64 × 64: one picture is fitted to the other with shift, scale, gain
and offset (Lucas and Kanade 1981, by Gauss–Newton), and what counts is the correlation of the fine structure,
which different parts do not share however well they are aligned.

Measured on MVTec AD transistor and toothbrush at 512 px: copies (JPEG quality 60, 2 % brighter, one pixel
aside, resized by 3 %, cropped by 3 %, all together) .999 and above; the most alike different parts .987 and
.990. On photographs and textures of 256 px: copies .989 and above, others below .7. On drawn plates
(`flawscope.synthesis.demo`) at 320 px: copies .998 and above, other plates up to .9955.

A texture that repeats fits itself a period aside, and another picture of it as well as itself. So a pair of
those must also be `MIN_SEPARATION` times closer than a picture is to itself, shifted (`_self_similarity`).

Limit: parts whose pictures correlate above .998 (a print seen with hardly any noise, shift or wear)
cannot be distinguished from copies; they come out as one large group.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.float32]
Ints = NDArray[np.intp]

SIDE = 64  # of a thumbnail
DESCRIPTOR_SIDE = 16  # of a descriptor
MARGIN = 4  # thumbnail pixels left out at each edge, where a shift brings in something new
ZOOM = 1.03  # the crop that the search also tries
MAX_NEIGHBOURS = 4  # nominated per picture and search
MIN_DESCRIPTOR_CORRELATION = 0.7  # descriptors that correlate less are not verified
MIN_THRESHOLD = 0.994  # correlation of fine structure from which two pictures are one
MAX_THRESHOLD = 0.998  # the same in a product so uniform that different parts come near `MIN_THRESHOLD`
MIN_SEPARATION = 3  # a copy is this many times closer to 1 than the closest other picture usually is
MIN_REVERSE_FIT = 0.98  # a pair above this and below the threshold is fitted the other way round, too
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
        image = Image.fromarray(deep * np.float32(255.0 / max(float(deep.max()), 1e-6)))  # 12 bits in 16, ...
    small = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR), np.float32)
    return np.asarray(np.clip(small, 0, 255), np.float16)


def near_duplicates(thumbnails: NDArray[np.float16], bank: Ints) -> list[tuple[int, int, float]]:
    """Pairs (i, j, correlation), i < j, of thumbnails [N, 64, 64] that show nearly the same picture, where
    at least one of the two is in `bank` (indices). Memory grows with N alone, not with its square."""
    if len(thumbnails) < 2 or not len(bank):
        return []
    pairs = _candidate_pairs(thumbnails, bank)
    correlation = np.zeros(len(pairs), np.float32)
    for start in range(0, len(pairs), CHUNK):
        part = slice(start, start + CHUNK)
        one, other = thumbnails[pairs[part, 0]], thumbnails[pairs[part, 1]]
        correlation[part] = correlate(one, other)
        close = np.flatnonzero((correlation[part] > MIN_REVERSE_FIT) & (correlation[part] < MIN_THRESHOLD))
        if len(close):  # a crop fits in one direction better than in the other
            back = correlate(other[close], one[close])
            correlation[start + close] = np.maximum(correlation[start + close], back)
    threshold = _correlation_threshold(len(thumbnails), pairs, correlation)
    chosen = np.flatnonzero(correlation >= threshold)
    repeated = np.array([_self_similarity(thumbnails[i]) for i in pairs[chosen, 0]], np.float32)
    chosen = chosen[correlation[chosen] >= 1 - (1 - repeated) / MIN_SEPARATION]
    return [(int(pairs[k, 0]), int(pairs[k, 1]), float(correlation[k])) for k in chosen]


def _correlation_threshold(count: int, pairs: NDArray[np.intp], correlation: Floats) -> float:
    """Correlation of copies: `MIN_THRESHOLD`, or more where the product is uniform (a printed plate, say)."""
    best = np.zeros(count, np.float32)
    np.maximum.at(best, pairs.ravel(), correlation.repeat(2))
    usual = 1 - float(np.median(best))
    return 1 - min(max(usual / MIN_SEPARATION, 1 - MAX_THRESHOLD), 1 - MIN_THRESHOLD)


def correlate(first: NDArray[np.float16], second: NDArray[np.float16]) -> Floats:
    """Correlation of the fine structure [P] of two lists [P, 64, 64], after fitting `second` to `first`."""
    a, b = _smooth(first.astype(np.float32)), _smooth(second.astype(np.float32))
    result = np.zeros(len(a), np.float32)
    pose = np.zeros((4, len(a)), np.float32)  # scale and shift, horizontal then vertical, in half widths
    active = np.arange(len(a))
    for step in range(4):
        scale_x, shift_x, scale_y, shift_y = pose[:, active]
        warped = _resample(b, _resampling_matrices(scale_y, shift_y), _resampling_matrices(scale_x, shift_x))
        result[active] = _fine_correlation(a, warped)
        if step == 3:
            break
        if step == 1:
            keep = result[active] > MIN_FIRST_FIT
            active, a, b, warped = active[keep], a[keep], b[keep], warped[keep]
        if not len(active):
            break
        pose[:, active] = np.clip(pose[:, active] + _gauss_newton(a, warped), -0.06, 0.06)
    return result


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
    pairs: list[NDArray[np.intp]] = []
    for queries, keys in ((plain, plain[bank]), (zoomed, plain[bank]), (plain, zoomed[bank])):
        for start in range(0, len(queries), BLOCK):
            similarity = queries[start : start + BLOCK] @ keys.T
            rows = np.arange(len(similarity))
            own = place[start : start + len(similarity)]
            similarity[rows[own >= 0], own[own >= 0]] = -1.0  # not itself
            best = np.argpartition(similarity, -count, axis=1)[:, -count:]
            likely = np.take_along_axis(similarity, best, axis=1) > MIN_DESCRIPTOR_CORRELATION
            row, column = np.nonzero(likely)
            pairs.append(np.stack([row + start, bank[best[row, column]]], axis=1))
    both = np.concatenate(pairs)
    return np.unique(np.sort(both, axis=1), axis=0)


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
    """Does one step of the fit a ≈ gain · warp(b) + offset -> change of the pose [4, P]."""
    n = a.shape[-1]
    across = np.linspace(-1, 1, n, dtype=np.float32)
    d_row, d_column = (np.asarray(d, np.float32) for d in np.gradient(warped, 2 / (n - 1), axis=(1, 2)))
    down = across[:, None]
    columns = (warped, np.ones_like(warped), d_column * across, d_column, d_row * down, d_row)
    design = np.stack([_flatten_inner(c) for c in columns], axis=1)  # [P, 6, pixels]
    gram = (design @ design.transpose(0, 2, 1)).astype(np.float64)
    right = (design @ _flatten_inner(a)[:, :, None]).astype(np.float64)
    gram += 1e-7 * np.einsum("pii->pi", gram)[:, :, None] * np.eye(6) + 1e-6 * np.eye(6)
    solution = np.linalg.solve(gram, right)[:, :, 0]
    gain = np.where(np.abs(solution[:, :1]) < 0.1, 1.0, solution[:, :1])
    return np.clip(solution[:, 2:] / gain, -0.03, 0.03).T.astype(np.float32)


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


def _fine_correlation(a: Floats, b: Floats) -> Floats:
    fine_a, fine_b = _flatten_inner(a - _smooth(a, 3)), _flatten_inner(b - _smooth(b, 3))
    fine_a = fine_a - fine_a.mean(axis=1, keepdims=True)
    fine_b = fine_b - fine_b.mean(axis=1, keepdims=True)
    scale = np.linalg.norm(fine_a, axis=1) * np.linalg.norm(fine_b, axis=1)
    floor = MIN_STRUCTURE**2 * fine_a.shape[1]
    product = np.einsum("pn,pn->p", fine_a, fine_b)
    return np.asarray(np.where(scale > floor, product / np.maximum(scale, floor), 0), np.float32)


def _flatten_inner(values: Floats) -> Floats:
    return values[:, MARGIN:-MARGIN, MARGIN:-MARGIN].reshape(len(values), -1)


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
