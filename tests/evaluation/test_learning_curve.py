"""What more pictures bring is measured by units: near-duplicates of a picture say nothing new."""

import numpy as np

from flawscope.evaluation.learning_curve import Scored, enough
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
    """Good and defective pictures; a model scores the latter so much higher."""
    rng = np.random.default_rng(seed)
    return Scored(rng.normal(0, 1, count), rng.normal(reach, 1, 2 * count))


def test_as_many_pictures_are_enough_as_no_larger_number_is_surely_better_than():
    assert enough({8: scored(0.0, 1), 16: scored(3.0, 2), 32: scored(3.0, 3)}) == 16
    assert enough({8: scored(3.0, 1), 16: scored(3.0, 2), 32: scored(3.1, 3)}) == 8
    assert enough({8: scored(0.0, 1), 16: scored(1.0, 2), 32: scored(4.0, 3)}) is None
    assert enough({8: scored(3.0, 1), 16: scored(0.5, 2), 32: scored(3.0, 3)}) == 8  # a bad draw between
    assert enough({8: scored(3.0, 1)}) is None
    assert enough({}) is None


def test_the_interval_of_a_gain_is_paired():
    """Equal models gain nothing in any resample, though each alone is uncertain."""
    rng = np.random.default_rng(1)
    one = Scored(rng.normal(0, 1, 12), rng.normal(1, 1, 30))
    assert one.gain_over(one, 0) == (0, 0, 0)
    other = one._replace(defective=one.defective + 2)
    gain, low, high = other.gain_over(one, 0)
    assert 0 < low < gain < high
    assert other.gain_over(one, 0) == (gain, low, high)


def test_chance_gains_lie_in_their_interval_as_often_as_promised():
    """Two models of the same quality differ by chance alone: the interval leaves 0 out in few draws."""
    rng, beyond = np.random.default_rng(2), 0
    for draw in range(100):
        pair = [Scored(rng.normal(0, 1, 20), rng.normal(1.2, 1, 48)) for _ in range(2)]
        _, low, _ = pair[0].gain_over(pair[1], draw)
        beyond += low > 0
    assert beyond <= 6  # 2.5 % of 100 are 2.5
