"""Two models on the same pictures, each of which sees one channel."""

from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

from brightness import GREEN, RED, draw, draw_mask, model
from flawscope.datasets import open_dataset
from flawscope.errors import InputError
from flawscope.evaluation.comparison import Difference, Pair, _differences, _pairs, compare
from flawscope.evaluation.decided import Decided
from flawscope.views.preprocess import Preprocess

GOOD = [(0.1, 0.1), (0.2, 0.6), (0.6, 0.7), (0.7, 0.2), (0.3, 0.3)]  # red calls two anomalous, green two
BAD = [(0.9, 0.9), (0.8, 0.4), (0.4, 0.8), (0.45, 0.7), (0.2, 0.95)]  # red finds two, green four


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "thing"
    draw(root / "train/good/0.png", 0.2, 0.2)
    for k, levels in enumerate(GOOD):
        draw(root / f"test/good/g{k}.png", *levels)
    for k, levels in enumerate(BAD):
        draw(root / f"test/dent/d{k}.png", *levels)
        draw_mask(root / f"ground_truth/dent/d{k}_mask.png")
    return root


def of(found, name):
    return next(one for one in found.differences if one.name == name)


def test_differences_and_changed_decisions_are_those_one_counts_by_hand(root):
    found = compare(model(RED), model(GREEN, preprocess=Preprocess((8, 8))), open_dataset(root))
    alarms, defects = of(found, "false_alarms"), of(found, "defects_found")
    assert (alarms.a, alarms.b, alarms.difference) == (0.4, 0.4, 0.0)
    assert (defects.a, defects.b) == (0.4, 0.8)
    assert defects.difference == pytest.approx(0.4)
    area = of(found, "image_auroc")
    for value, channel in ((area.a, RED), (area.b, GREEN)):
        pairs = [np.sign(b[channel] - g[channel]) / 2 + 0.5 for b in BAD for g in GOOD]
        assert value == pytest.approx(sum(pairs) / len(pairs))
    # of good ones g1 (green is wrong) and g3 (red is); of defective ones d1 (green misses), d2, d3 and d4
    names = [Path(one.name).stem for one in found.changed]
    assert sorted(names) == ["d1", "d2", "d3", "d4", "g1", "g3"]
    assert set(names[:2]) == {"d1", "g1"}  # where b is wrong comes first
    assert "6 of 10" in found.sentence()
    assert "A is right on 2 of these, B on 4" in found.sentence()
    for one, a, b in zip(found.pairs, *(result.pictures for result in found.evaluations), strict=True):
        assert one.name == str(a.item.path) == str(b.item.path)
        assert (a.prediction.score, b.prediction.score) == (one.a.score, one.b.score)


def test_a_model_against_itself_differs_nowhere_and_swapped_ones_swap_everything(root):
    found = compare(model(RED), model(RED), open_dataset(root), resamples=50)
    assert not found.changed
    assert all(one.difference == 0 for one in found.differences)
    assert all(one.interval is None and not one.better for one in found.differences)
    one = compare(model(RED), model(GREEN), open_dataset(root), resamples=200)
    other = compare(model(GREEN), model(RED), open_dataset(root), resamples=200)
    for mine, theirs in zip(one.differences, other.differences, strict=True):
        assert mine.difference == pytest.approx(-theirs.difference)
        if mine.interval is not None:
            assert mine.interval == pytest.approx((-theirs.interval[1], -theirs.interval[0]))
        assert {mine.better, theirs.better} in ({""}, {"a", "b"})


def test_without_masks_there_are_no_rows_of_pixel_metrics(root):
    data = open_dataset(root)
    data = replace(data, test=tuple(replace(item, masks=()) for item in data.test))
    names = [one.name for one in compare(model(RED), model(GREEN), data, resamples=10).differences]
    assert names[:3] == ["defects_found", "false_alarms", "image_auroc"]
    assert not [name for name in names if "pixel" in name or "au_pro" in name]


def test_the_interval_is_that_of_pairs_drawn_by_hand(root):
    """Which defective picture is drawn decides for both models at once: three gained and one lost of five."""
    found = of(compare(model(RED), model(GREEN), open_dataset(root), resamples=1000), "defects_found")
    gained = np.array([0, -1, 1, 1, 1])
    drawn = np.random.default_rng(5).choice(gained, (20_000, 5)).mean(1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert found.interval == pytest.approx((low, high), abs=0.01)
    assert "paired" in found.note


def test_a_higher_rate_of_false_alarms_is_worse():
    assert Difference("false_alarms", 0.1, 0.3, (0.1, 0.3)).better == "a"
    assert Difference("defects_found", 0.1, 0.3, (0.1, 0.3)).better == "b"
    assert Difference("image_auroc", 0.1, 0.3, (-0.1, 0.3)).better == ""
    assert Difference("image_auroc", 0.3, 0.1, (-0.3, -0.1)).better == "a"


def test_what_one_of_them_has_seen_counts_for_neither(root):
    a = model(RED, seen={"train": [root / "test/good/g0.png"]})
    b = model(GREEN, seen={"train": [root / "test/dent/d0.png"]})
    found = compare(a, b, open_dataset(root), resamples=10)
    names = {Path(one.name).stem for one in found.pairs}
    assert names == {f"{kind}{k}" for kind in "gd" for k in range(1, 5)}
    assert found.to_dict()["left_out"] == {"good": 1, "dent": 1}
    for models in ((model(RED), model(GREEN, limit=0.92)), (model(GREEN, limit=0.92), model(RED))):
        found = compare(*models, open_dataset(root), resamples=10)  # what one of them cannot score, likewise
        assert [len(found.pairs), *(result.images for result in found.evaluations)] == [9, 9, 9]
        assert any("d4" in line for line in found.to_dict()["failures"])


def test_the_f1_of_parts_compares_parts_with_parts(root):
    """One model decides on parts, the other on pictures, whose own figures are of ten pictures."""
    found = compare(model(RED), model(GREEN), open_dataset(root), resamples=10)
    evaluations = tuple(replace(one, parts={"good": 2}) for one in found.evaluations)
    truth = [False, False, True, True]

    def parts(called):
        both = zip(truth, called, strict=True)
        return [Decided(str(k), "hole", bad, 1.0, 0.0, 0.5, one) for k, (bad, one) in enumerate(both)]

    pairs = [Pair(*both) for both in zip(parts(truth), parts([True, False, True, False]), strict=True)]
    (calibrated,) = (
        one for one in _differences(evaluations, pairs, 10, 0) if one.name == "image_f1_calibrated"
    )
    assert (calibrated.a, calibrated.b) == (1.0, 0.5)


def test_models_that_name_no_part_alike_are_not_compared():
    def decided(name):
        return Decided(name, "good", False, 0.0, -1.0, 0.5, False)

    first, second = (Mock(parts={"x": 1}, decided=[decided(name)]) for name in ("part1", "1"))
    with pytest.raises(InputError, match=r"no part in common: .* the same --part and --view"):
        _pairs(first, second)
