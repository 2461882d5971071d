"""Which good pictures are held out, for every method that learns in steps."""

import pytest

from flawscope.calibration.holding_out import hold_out, min_calibration_size
from flawscope.errors import InputError


def held(total, groups=None, **changes):
    options = {"share": 0.1, "rate": 0.05, "seed": 0, "method": "prnet", **changes}
    return hold_out(range(total), groups or list(range(total)), **options)


@pytest.mark.parametrize(
    ("rate", "scores"), [(0.05, 19), (0.1, 9), (0.01, 99), (0.5, 1), (0.03, 33), (1 / 3, 2)]
)
def test_as_many_scores_as_the_smallest_p_value_needs(rate, scores):
    assert min_calibration_size(rate) == scores
    assert 1 / (scores + 1) <= rate + 1e-12 < 1 / scores


FEW = (2, 1), (7, 1), (8, 2), (39, 9), (40, 10), (100, 10), (119, 12), (120, 19), (190, 19), (300, 30)


@pytest.mark.parametrize(
    ("total", "count", "how"),
    [
        *[(*pair, {}) for pair in FEW],
        *[(60, 30, {"share": 0.5}), (600, 99, {"rate": 0.01}), (200, 24, {"more": 5})],
        (400, 80, {"rate": 0.01}),  # a fifth at most
        (119, 12, {"more": 5}),  # too few for pictures of their own
    ],
)
def test_how_many(total, count, how):
    assert len(held(total, **how)) == count


@pytest.mark.parametrize("total", [30, 150])
def test_whole_groups(total):
    groups = [i // 3 for i in range(total)]
    taken = held(total, groups)
    assert all(len({groups[i] for i in part}) == 1 and len(part) == 3 for part in taken)
    assert len({groups[part[0]] for part in taken}) == len(taken)
    assert taken == held(total, groups) != held(total, groups, seed=1)


def test_a_large_part_is_not_spent_for_a_few_pictures():
    for seed in range(20):
        taken = held(41, [0] * 30 + list(range(1, 12)), seed=seed)
        assert [0] * 30 not in taken
        assert len(taken) == 3  # of 12 parts, which are what is counted


def test_parts_are_counted_however_many_pictures_they_have():
    """Views of a picture of a part, tiles say, are of one group: four parts of 25 tiles are four."""
    taken = held(40 * 25, [i // 25 for i in range(40 * 25)])
    assert len(taken) == len(held(40)) == 10
    assert {len(part) for part in taken} == {25}


def test_what_the_data_set_keeps_apart_is_held_out_with_its_parts_other_pictures():
    taken = held(60, [i // 2 for i in range(60)], reserved=range(50, 53))
    assert sorted(map(sorted, taken)) == [[50, 51], [52, 53]]
    assert sorted(held(60, reserved=[58, 99])) == [[58]]  # 99 could not be read
    assert len(held(10, reserved=range(10))) == 2  # nothing else to learn from: as if none were kept apart
    taken = held(10, [0] * 3 + [1] * 2 + [2] * 5, reserved=[0, 1, 2, 3, 4])
    assert sorted(map(sorted, taken)) == [[0, 1, 2], [3, 4]]


def test_too_few_pictures_and_one_part_are_refused():
    for total in (0, 1):
        with pytest.raises(InputError, match=rf"too few usable pictures for prnet \({total}\)"):
            held(total)
    with pytest.raises(InputError, match=r"show one part \(--group\), and efficientad holds out"):
        held(6, [4] * 6, method="efficientad")
