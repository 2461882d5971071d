"""Quantiles in bounded memory are the quantiles."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from flawscope.methods.efficientad.quantiles import quantiles

SHARES = (0.0, 0.1, 0.5, 0.9, 0.995, 1.0)
RNG = np.random.default_rng(0)
VALUES = {
    "normal": RNG.standard_normal(10_001),
    "of all sizes": RNG.standard_normal(5000) * 10.0 ** RNG.integers(-40, 38, 5000),
    "positive": RNG.exponential(size=999) + 1e-3,
    "close together": 1 + RNG.standard_normal(3000) * 1e-6,
    "all negative": -RNG.exponential(size=1000),
    "many equal": RNG.integers(-3, 4, 5000),
    "zeros of both signs": np.array([0.0, -0.0, 0.0, -0.0, -0.0]),
    "around zero": np.array([-1e-45, -0.0, 0.0, 1e-45, 1.0]),
    "extremes": np.array([np.finfo(np.float32).max, np.finfo(np.float32).min, 0.0]),
    "two": np.array([3.0, -1.0]),
    "one": np.array([-2.5]),
}


def assert_quantiles(found: list[float], values: NDArray[np.float32]) -> None:
    exact = np.quantile(values.astype(np.float64), SHARES)
    unit = np.spacing(np.minimum(np.abs(exact), 1e38).astype(np.float32))
    np.testing.assert_array_less(np.abs(found - exact), unit)


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("parts", [1, 2, 37])
def test_numpys_quantiles(name: str, parts: int) -> None:
    values = VALUES[name].astype(np.float32)
    chunks = np.array_split(values, parts)  # some of them empty
    assert_quantiles(quantiles(lambda: chunks, SHARES), values)


def test_values_of_any_shape_and_order() -> None:
    values = RNG.standard_normal((7, 11, 13)).astype(np.float32)
    parts = [values[:3, ::2].transpose(1, 0, 2), values[:3, 1::2], values[3:]]
    assert_quantiles(quantiles(lambda: parts, SHARES), values)


def test_infinities_lie_at_the_ends() -> None:
    values = np.array([-np.inf, 1.0, 2.0, 3.0, np.inf], np.float32)
    assert quantiles(lambda: [values], (0.25, 0.5, 0.625)) == [1.0, 2.0, 2.5]


def test_more_values_than_torch_takes_in_little_memory() -> None:
    """73 MB of values, of which 1 MB is there at a time."""
    chunk, times = np.random.default_rng(1).standard_normal(2**18).astype(np.float32), 70
    assert chunk.size * times > 2**24

    def chunks() -> Iterator[NDArray[np.float32]]:
        return (chunk for _ in range(times))

    tracemalloc.start()
    try:
        found = quantiles(chunks, SHARES)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 24e6
    in_order = np.sort(chunk.astype(np.float64))
    for share, value in zip(SHARES, found, strict=True):
        place = share * (chunk.size * times - 1)
        low, high = (in_order[min(int(place) + k, chunk.size * times - 1) // times] for k in (0, 1))
        assert value == pytest.approx(low + (high - low) * (place % 1), rel=1e-12)


def test_nothing_and_no_number_are_errors() -> None:
    for nothing in ([], [np.zeros((0, 3), np.float32)]):
        with pytest.raises(ValueError, match="no values"):
            quantiles(lambda nothing=nothing: nothing, (0.5,))
    with pytest.raises(ValueError, match="NaN among the values"):
        quantiles(lambda: [np.ones(3, np.float32), np.array([1.0, np.nan], np.float32)], (0.5,))
