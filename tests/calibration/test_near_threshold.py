"""Which good pictures and parts are near the threshold."""

import numpy as np
import pytest

from flawscope.calibration.near_threshold import NEAR, is_near, near_share
from flawscope.calibration.parts import PartCalibration
from flawscope.calibration.threshold import Calibration


@pytest.mark.parametrize(
    ("count", "rate", "marked"), [(39, 0.05, 2), (19, 0.05, 1), (31, 0.05, 1), (399, 0.05, 20)]
)
def test_of_good_ones_as_many_as_false_alarms_are_near(count, rate, marked):
    known = Calibration(tuple(np.arange(1.0, count + 1)), (1.0,) * count, 0.0, rate)
    new = np.arange(count + 1) + 0.5  # one in each gap of the scores
    p_values, alarms = known.p_values(new), known.is_anomalous(new)
    near = [is_near(p, known.expected_rate) for p in p_values[~alarms]]
    assert sum(near) == marked
    assert near == sorted(near)  # the highest
    assert sum(near) <= near_share() * rate * (count + 1)


def test_the_share_is_told_in_times_of_the_false_alarms():
    assert (near_share(NEAR), near_share(3.0), near_share(0.0)) == (1.0, 2.0, 0.0)


def test_a_part_that_is_good_is_near_by_its_p_value():
    known = PartCalibration(("",) * 39, ("a",), np.arange(1.0, 40.0)[:, None], 0.05)
    found = [known.decide({"a": score}) for score in (20.0, 36.5, 38.5, 50.0)]
    assert [one.near for one in found] == [False, True, False, False]
    assert [one.is_anomalous for one in found] == [False, False, True, True]
