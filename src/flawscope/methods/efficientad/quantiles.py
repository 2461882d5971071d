"""Exact quantiles of any number of values in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

Chunks = Callable[[], Iterable[NDArray[np.float32]]]
HALF = 2**16


def quantiles(chunks: Chunks, shares: Sequence[float]) -> list[float]:
    """The quantiles of all values together, as `numpy.quantile` interpolates them, linearly.

    The bits of a float32 sort as the number does, once the sign is taken care of. So an order statistic is
    found in two passes: one counts the upper 16 bits, the other the lower ones of the values that share the
    wanted upper half. Only counts are kept, and every value counts (torch.quantile ends at 2^24).

    Args:
        chunks: gives the values, in parts of any shape, each time it is called; they must be the same.
        shares: 0..1.

    Raises:
        ValueError: no values, or NaN among them.
    """
    upper = np.zeros(HALF, np.int64)
    for values in chunks():
        keys = _keys(values)
        upper += np.bincount(keys >> 16, minlength=HALF)
    count = int(upper.sum())
    if not count:
        raise ValueError("no values")
    places = [share * (count - 1) for share in shares]
    wanted = sorted({rank for place in places for rank in (int(place), min(int(place) + 1, count - 1))})
    ends = np.cumsum(upper)
    halves = {rank: int(np.searchsorted(ends, rank, side="right")) for rank in wanted}
    lower = {half: np.zeros(HALF, np.int64) for half in halves.values()}
    for values in chunks():
        keys = _keys(values)
        high = keys >> 16
        for half, counts in lower.items():
            counts += np.bincount(keys[high == half] & (HALF - 1), minlength=HALF)
    found = {}
    for rank, half in halves.items():
        before = int(ends[half] - upper[half])
        low = int(np.searchsorted(np.cumsum(lower[half]), rank - before, side="right"))
        found[rank] = _value(half << 16 | low)
    result = []
    for place in places:
        rank = int(place)
        a, b = found[rank], found[min(rank + 1, count - 1)]
        result.append(a + (b - a) * (place - rank))
    return result


def _keys(values: NDArray[np.float32]) -> NDArray[np.int64]:
    """Whole numbers in 0..2^32 - 1 that sort as the values do."""
    flat = np.ascontiguousarray(values, np.float32).ravel()
    if np.isnan(flat).any():
        raise ValueError("NaN among the values")
    bits = flat.view(np.uint32).astype(np.int64)
    return np.where(bits >> 31, 2**32 - 1 - bits, bits + 2**31)


def _value(key: int) -> float:
    bits = key - 2**31 if key >= 2**31 else 2**32 - 1 - key
    return float(np.array(bits, np.uint32).view(np.float32))
