"""What more pictures bring is measured by units: near-duplicates of a picture say nothing new."""

import numpy as np

from flawscope.artefact.tried import Scored, enough
from flawscope.fitting.fewer_pictures import MIN_SUBSET, _fit_fewer


def test_pictures_of_a_part_are_learnt_together_and_count_once():
    units = [[f"{part}-top", f"{part}-side"] for part in range(4 * MIN_SUBSET)]
    models = _fit_fewer(units, list)
    assert list(models) == [MIN_SUBSET, 2 * MIN_SUBSET], "an eighth of the parts is too few"
    for number, learnt in models.items():
        parts = {name.partition("-")[0] for name in learnt}
        assert len(parts) == number
        assert len(learnt) == 2 * number


def scored(reach, seed, count=24):
    """Good pictures and simulated defects on them, which a model scores so much higher."""
    rng = np.random.default_rng(seed)
    return Scored(rng.normal(0, 1, count), rng.normal(reach, 1, 2 * count), np.arange(2 * count) % count)


def test_as_many_pictures_are_enough_as_no_larger_number_is_surely_better_than():
    assert enough({8: scored(0.0, 1), 16: scored(3.0, 2), 32: scored(3.0, 3)}) == 16
    assert enough({8: scored(3.0, 1), 16: scored(3.0, 2), 32: scored(3.1, 3)}) == 8
    assert enough({8: scored(0.0, 1), 16: scored(1.0, 2), 32: scored(4.0, 3)}) is None
    assert enough({8: scored(3.0, 1), 16: scored(0.5, 2), 32: scored(3.0, 3)}) == 8  # a bad draw between
    assert enough({8: scored(3.0, 1)}) is None
    assert enough({}) is None
