"""Bounds of sizes: how often a new defect is larger, in draws of any size."""

import numpy as np
import pytest

from flawscope.calibration.size_bounds import RESERVE, SHARE, SizeBounds


@pytest.mark.parametrize("count", [1, 9, 99, 199])
def test_no_more_defects_are_larger_than_stated(count):
    rng, larger, tried = np.random.default_rng(count), 0, 500
    for _ in range(tried):
        known, new = rng.lognormal(1, 0.5, (count, 3)), rng.lognormal(1, 0.5, 3)
        larger += new[0] > SizeBounds.of_ratios(known).length
    stated = max(SHARE, 1 / (count + 1))
    assert larger / tried <= stated + 3 * np.sqrt(stated / tried)


def test_each_size_has_its_factor_and_none_is_below_the_reserve():
    bounds = SizeBounds.of_ratios([(0.5, 1.5, 3.0), (0.9, 1.2, 1.0)])
    assert bounds == SizeBounds(RESERVE, 1.5, 3.0, 2)
    assert SizeBounds.of_ratios([]) == SizeBounds(RESERVE, RESERVE, RESERVE, 0)
    assert SizeBounds.from_facts({"size_bounds": bounds.to_dict()}) == bounds
