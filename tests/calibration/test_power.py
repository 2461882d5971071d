"""What a model says about simulated defects: counts, intervals, words; damaged files."""

import json

import numpy as np
import pytest
from scipy import stats

from flawscope.calibration.power import SIMULATED_DEFECTS as KEY
from flawscope.calibration.power import DefectScores, wilson_interval
from flawscope.calibration.threshold import Calibration

SCORES = {"small": (0.2, 0.4, 1.2, float("nan")), "large": (1.0, 1.1, 2.0, 3.0)}
CONTRASTS = {"small": (5.0, 20.0, 12.0, 60.0), "large": (8.0, 18.0, 30.0, 50.0)}
GOOD = Calibration(tuple(np.linspace(0.05, 1.0, 20)), tuple(np.linspace(0.05, 1.0, 20)), 0.1, rate=0.05)


@pytest.fixture
def found():
    return DefectScores(SCORES, CONTRASTS, pictures=3, seconds=1.0, rate=0.05, threshold=GOOD.score_threshold)


def test_intervals_are_wilsons():
    for count in (1, 2, 7, 40):
        for k in range(count + 1):
            oracle = stats.binomtest(k, count).proportion_ci(method="wilson")
            found = wilson_interval(k, count)
            assert found == pytest.approx((oracle.low, oracle.high), abs=1e-12), (k, count)
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_what_is_above_the_threshold_is_found_as_predictions_decide(found):
    for size, scores in SCORES.items():
        assert found.count_found(size) == (int(GOOD.is_anomalous(np.array(scores)).sum()), 4)
    assert found.count_found("small")[0] == 2  # NaN is anomalous
    assert found.count_found("small", 16) == (1, 2)
    assert found.count_found("small", 0, 16) == (1, 2)
    said = found.describe()
    assert "small 1 of 2 faint and 1 of 2 (9% to 91%) clear ones, large 0 of 1 faint and 3 of 3" in said
    assert "on 3 good pictures" in said
    assert "false-alarm rate of 5.0%" in said
    assert said.endswith("only labelled ones tell")


def test_a_number_is_told_over_all_sizes_and_of_enough_defects_alone():
    def said(*counts):
        scores = {f"size {k}": (2.0,) * found + (0.0,) * (n - found) for k, (found, n) in enumerate(counts)}
        return DefectScores(scores, {}, 1, 1.0, 0.05, 1.0).describe_total()

    for few in (((0, 1), (0, 1), (1, 1)), ((1, 2), (2, 2), (2, 2)), ((3, 7),)):
        assert said(*few) is None, few
    for counts, words in (
        (((1, 3), (3, 3), (3, 3)), "7 of 9, faint ones too (95 %: 45% to 94%)"),
        (((0, 8), (0, 8), (0, 8)), "0 of 24, faint ones too (95 %: 0% to 14%)"),
        (((8, 8),), "8 of 8, faint ones too (95 %: 68% to 100%)"),
    ):
        assert said(*counts) == words, counts


def test_contrasts_that_were_not_drawn_are_not_told():
    scores, contrasts = {"small": (0.0,), "large": (1e9,)}, {"small": (8.0,), "large": (40.0,)}
    said = DefectScores(scores, contrasts, 1, 1.0, 0.05, GOOD.score_threshold).describe()
    assert "small 0 of 1 faint ones, large 1 of 1 (21% to 100%) clear ones;" in said


def test_a_model_of_an_earlier_version_says_nothing_of_contrasts():
    found = DefectScores(SCORES, {}, 3, 1.0, 0.05, GOOD.score_threshold)
    assert "small 2 of 4 (15% to 85%), large 3 of 4 (30% to 95%); on 3 good pictures" in found.describe()
    assert found.describe().endswith("only labelled ones tell")
    assert found.limit("small", 0.5) is None
    assert "contrasts" not in found.to_dict()["sizes"]["small"]
    assert DefectScores.from_facts({KEY: DefectScores({"a": (1.0,)}, {}, 3, 1.0, 0.05, 1.0).to_dict()})


@pytest.mark.parametrize("middle", [8.0, 16.0, 30.0])
def test_the_contrast_from_which_on_half_are_found_is_where_they_begin_to_be(middle):
    """Simulated answers, whose curve is known."""
    rng = np.random.default_rng(3)
    limits = []
    for _ in range(20):
        contrasts = 4 * 16 ** rng.random(40)
        chance = 1 / (1 + (middle / contrasts) ** 4)  # 2.8 logits an octave
        scores = (rng.random(40) < chance) * 2.0
        found = DefectScores({"small": tuple(scores)}, {"small": tuple(contrasts)}, 3, 1.0, 0.05, 1.0)
        half, most = found.limit("small", 0.5), found.limit("small", 0.9)
        assert half <= most
        limits.append(half)
    assert np.median(limits) == pytest.approx(middle, rel=0.15)
    assert np.quantile(limits, [0.05, 0.95]) == pytest.approx([middle, middle], rel=0.45)


def test_no_limit_is_made_up():
    contrasts = tuple(4 * 16 ** np.linspace(0, 1, 12))
    every, nothing = ((score,) * 12 for score in (2.0, 0.0))
    found = DefectScores({"a": every, "b": nothing}, {"a": contrasts, "b": contrasts}, 3, 1.0, 0.05, 1.0)
    assert (found.limit("a", 0.5), found.limit("b", 0.5)) == (0.0, np.inf)
    assert "half are found from these contrasts on: a below 4, b above 64;" in found.describe()
    assert json.dumps(found.to_dict(), allow_nan=False)
    few = DefectScores({"a": every[:7]}, {"a": contrasts[:7]}, 3, 1.0, 0.05, 1.0)
    assert few.limit("a", 0.5) is None
    assert "half" not in few.describe()


def test_facts_keep_it_through_json(found):
    scores, contrasts = (
        {"small": (0.2, 1.2), "large": (2.0, 3.0)},
        {"small": (8.0, 9.5), "large": (4.0, 64.0)},
    )
    finite = DefectScores(scores, contrasts, 2, 0.5, 0.05, 1.0, "bf16")
    facts = json.loads(json.dumps({KEY: finite.to_dict()}, allow_nan=False))
    again = DefectScores.from_facts(facts)
    assert again == finite
    one = facts[KEY]["sizes"]["small"]
    assert (one["defects"], one["found"]) == (2, 1)
    assert one["interval"] == pytest.approx(wilson_interval(1, 2))


def test_damaged_facts_are_as_none(found):
    good = {KEY: DefectScores({"small": (1.0,)}, {"small": (9.0,)}, 1, 0.5, 0.05, 1.0).to_dict()}
    assert DefectScores.from_facts(good) is not None
    without = [{k: v for k, v in good[KEY].items() if k != key} for key in good[KEY] if key != "seconds"]
    scores = [good[KEY] | {"sizes": {"small": {"scores": value}}} for value in ("x", [], ["x"], None)]
    for contrasts in ([], [1.0, 2.0], ["x"], None):
        scores.append(good[KEY] | {"sizes": {"small": {"scores": [1.0], "contrasts": contrasts}}})
    for wrong in ({}, *({KEY: one} for one in (None, [], {"sizes": {}}, *without, *scores))):
        assert DefectScores.from_facts(wrong) is None


@pytest.mark.parametrize(
    ("medium", "large", "count", "warned"),
    [
        (0, 0, 1, False),
        (0, 1, 1, False),  # of two, one may be bad luck
        (1, 1, 1, False),
        (5, 5, 10, True),
        (0, 10, 10, True),
        (0, 0, 3, False),
        (8, 9, 10, False),
        (26, 30, 40, False),
        (13, 29, 40, True),
    ],
)
def test_who_surely_misses_too_many_is_warned_of(medium, large, count, warned):
    """By what is not small, where so many defects tell; and never of two or three."""
    scores = {"small": [0.0] * count}
    for size, found in (("medium", medium), ("large", large)):
        scores[size] = [2.0] * found + [0.0] * (count - found)
    told = (
        f"of {2 * count} clear simulated defects of medium and large size it finds {medium + large} (95 %: "
    )
    faint = {size: [0.0] * 50 for size in scores}  # nobody has to find these
    for more, contrasts in ((scores, {}), ({k: [*v, *faint[k]] for k, v in scores.items()}, None)):
        if contrasts is None:
            contrasts = {size: [16.0] * count + [15.9] * 50 for size in scores}
        contrasts |= {"small": [3.0] * len(more["small"])}
        said = DefectScores(more, contrasts, 5, 1.0, 0.05, 1.0).remark()
        assert (said is not None) is warned
        assert said is None or (said.startswith(told) and "`evaluate` tells by real ones" in said)
    assert DefectScores({"small": (0.1,)}, {}, 1, 1.0, 0.05, 1.0).remark() is None


@pytest.mark.parametrize("found", [0, 3, 9])
def test_small_ones_that_are_surely_missed_are_warned_of_apart(found):
    scores = {"small": [2.0] * found + [0.0] * (9 - found), "medium": [2.0] * 9}
    said = DefectScores(scores, {}, 3, 1.0, 0.05, 1.0)
    told = said.remark()
    assert (told is not None) is (found < 4)
    assert told is None or told.startswith(f"of 9 clear simulated defects of small size it finds {found} ")


@pytest.mark.parametrize(
    ("found", "count", "is_blind"),
    [(0, 7, False), (0, 8, True), (0, 9, True), (1, 12, True), (4, 24, True), (6, 24, False), (5, 9, False)],
)
def test_a_model_that_hardly_sees_defects_says_so(found, count, is_blind):
    scores = {"small": (2.0,) * found + (0.0,) * (count - found)}
    said = DefectScores(scores, {}, 1, 1.0, 0.05, 1.0).describe_blindness()
    assert bool(said) == is_blind
    assert not said or said.startswith(
        f"it hardly sees such defects as simulated ones: found {found} of {count}"
    )
