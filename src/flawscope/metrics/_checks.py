"""Checks of what the metrics are given. Errors say which argument, what it was and what it should be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flawscope.errors import InputError

# A sequence of [H, W] arrays, of different sizes if need be, or one [N, H, W] array.
Pictures = Sequence[NDArray[Any]] | NDArray[Any]
# Per picture the pixels that count, [H, W] bool; None: all of them.
Valid = Sequence[NDArray[np.bool_] | None] | NDArray[np.bool_]


def check_flags(flags: ArrayLike, name: str) -> NDArray[np.bool_]:
    """`flags` as [N] bool; integers must be 0 or 1."""
    array = np.asarray(flags)
    if array.ndim != 1:
        raise InputError(f"{name} has shape {array.shape}, expected [N]")
    if array.dtype == np.bool_:
        return array
    if array.size == 0:
        return array.astype(np.bool_)
    if not np.issubdtype(array.dtype, np.integer):
        raise InputError(f"{name} has dtype {array.dtype}, expected bool or integers 0 and 1")
    if array.min() < 0 or array.max() > 1:
        raise InputError(f"{name} runs from {array.min()} to {array.max()}, expected only 0 and 1")
    return array.astype(np.bool_)


def check_scores(scores: ArrayLike, labels: NDArray[np.bool_]) -> NDArray[np.float64]:
    """`scores` as [N] float64 without NaN, as many as there are labels. The values are never changed."""
    array = np.asarray(scores)
    if np.iscomplexobj(array):
        raise InputError(f"scores has dtype {array.dtype}, expected real numbers")
    array = array.astype(np.float64, copy=False)
    if array.shape != labels.shape:
        raise InputError(f"scores has shape {array.shape}, expected {labels.shape} as labels has")
    if np.isnan(array).any():
        where = int(np.flatnonzero(np.isnan(array))[0])
        raise InputError(f"scores[{where}] is NaN (of {np.isnan(array).sum()}); a metric cannot rank it")
    return array


def check_limit(limit: float) -> float:
    """`limit` as a false-positive rate above 0 and up to 1."""
    if not 0 < limit <= 1:
        raise InputError(f"the limit of the false-positive rate is {limit}, expected above 0 and up to 1")
    return float(limit)


def checked(
    maps: Pictures, truths: Sequence[Any] | NDArray[Any], valid: Valid | None, name: str
) -> Iterator[tuple[int, NDArray[Any], Any, NDArray[np.bool_] | None]]:
    """Index, map [H, W], truth and valid pixels of every picture with a ground truth: maps are real, without
    NaN where they count. Every element is asked for once."""
    if len(maps) != len(truths):
        raise InputError(f"{len(maps)} maps and {len(truths)} {name}, expected as many of each")
    if valid is not None and len(valid) != len(maps):
        raise InputError(f"{len(maps)} maps and {len(valid)} masks of valid pixels, expected as many of each")
    for i in range(len(maps)):
        truth = truths[i]
        if truth is None:
            continue
        values = np.asarray(maps[i])
        if values.ndim != 2:
            raise InputError(f"maps[{i}] has shape {values.shape}, expected [H, W]")
        if values.dtype.kind not in "fiub":
            raise InputError(f"maps[{i}] has dtype {values.dtype}, expected real numbers")
        keep = None if valid is None else valid[i]
        if keep is not None:
            keep = check_mask(keep, values.shape, f"valid[{i}]")
        if np.isnan(values if keep is None else values[keep]).any():
            raise InputError(f"maps[{i}] contains NaN; a metric cannot rank it")
        yield i, values, truth, keep


def check_mask(mask: ArrayLike, shape: tuple[int, ...], name: str) -> NDArray[np.bool_]:
    """`mask` as bool of the shape of its map. Which grey value is a defect is not ours to say."""
    array = np.asarray(mask)
    if array.dtype != np.bool_:
        raise InputError(f"{name} has dtype {array.dtype}, expected bool; pass mask > 0")
    if array.shape != shape:
        raise InputError(f"{name} has shape {array.shape}, its map has {shape}; resize it to nearest first")
    return array
