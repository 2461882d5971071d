"""Tolerances on a model's stream: its region of interest counts, and what decides otherwise is refused."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

import flawscope
import matrix
from flawscope.predictor.tolerating import tolerator
from flawscope.results.tolerance import Rule, Tolerances
from flawscope.views.undistort import Undistortion
from lens_helpers import fit_with_lens
from small_network import SMALL_NETWORK

LENS = Undistortion(80, 80, 80, 40, k1=-0.05)


@pytest.mark.parametrize(
    ("fit", "how"),
    [
        (flawscope.fit, {}),
        (flawscope.fit, {"roi": (20, 20, 60, 60)}),
        (partial(fit_with_lens, lens=LENS), {}),
    ],
    ids=["plain", "region", "lens"],
)
def test_each_of_several_parts_is_tolerated_by_itself(fit, how):
    good = [matrix.draw(seed, "top", True, "one", False) for seed in range(8)]
    quick = {
        "size": "64",
        "cap": 60,
        "device": "cpu",
        "check": False,
        "samples": 0,
        "force": True,
        **SMALL_NETWORK,
    }
    several = fit(good, align="turn", several=True, **quick, **how).with_scale(1.0)
    found = several.predict(matrix.draw(110, "top", True, "one", True))
    numbers, parts = found.parts.numbers, found.found_parts
    assert numbers is not None
    assert parts is not None
    assert [part.is_anomalous for part in parts.parts] == [True, False]
    middles = [(round(part.part_pose.y), round(part.part_pose.x)) for part in parts.parts]
    for number, at in enumerate(middles, 1):
        assert numbers[at] == number
    area = (numbers == 1).sum() / parts.parts[0].part_pose.side ** 2
    assert 0.55 < area < 0.75 if "roi" in how else 0.9 < area < 1.2

    def tolerated(*spots, **limits):
        """Whether a picture is that has squares of 3 pixels so far below and right of a part's middle."""
        marked = np.full_like(found.map, float(found.map.min()))
        for part, down, right in spots:
            y, x = middles[part - 1][0] + down, middles[part - 1][1] + right
            marked[y - 1 : y + 2, x - 1 : x + 2] = found.map.max()
        rules = Tolerances("1", "0" * 64, good[0].shape[:2], (Rule("any", **{"length": 6, **limits}),))
        answer = tolerator(several, rules)(replace(found, map=marked))
        assert answer.is_anomalous
        return answer.decision == "within tolerance"

    assert tolerated((1, 0, 0))
    assert not tolerated((1, 0, 0), length=2)
    assert not tolerated((2, 0, 0)), "the anomalous part has nothing marked"
    assert tolerated((1, 0, 0), (2, 0, 0), number=1), "a number is a part's"
    assert not tolerated((1, -8, 0), (1, 8, 0), number=1)
    assert tolerated((1, -8, 0), (1, 8, 0), number=2)
    assert not tolerated((1, 0, 0), (1, 0, (middles[1][1] - middles[0][1]) // 2)), "between the parts"
