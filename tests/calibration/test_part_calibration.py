"""Parts seen in several views: names, the p-value of a part, and its rate."""

import numpy as np
import pytest

from flawscope.calibration.parts import PartCalibration, PartPattern, View
from flawscope.errors import InputError

NAMES = ("a", "b", "c")


@pytest.mark.parametrize(
    ("part", "view", "name", "expected"),
    [
        (r"p\d+", None, "good/p07_top.png", ("p07", "top")),
        (r"S\d+", r"C\d", "OK/S0012/nut_0012_OK_C3_20231021.jpg", ("S0012", "C3")),
        (r"S\d+", None, "S0012/left.png", ("S0012", "left")),
        (r"(\w+)/(\d+)_", "top|side", "line2/004_side.png", ("line2/004", "side")),
        (r"\d+", r"cam\d", "cam1/04.png", ("04", "cam1")),  # the file's name comes first
        (r"\d+", None, "04.png", ("04", "view")),
        (r"_(\d+)$", r"Kamera\d", "Kamera1_20261130_0001.png", ("0001", "Kamera1")),  # `$` ends the name ...
        (r"_(\d+)\.png$", r"Kamera\d", "Kamera1_20261130_0001.png", ("0001", "Kamera1")),  # ... or the file
        (r"\d+$", None, "top/0007.jp2", ("0007", "view")),  # and not the suffix alone
        (r"[\d.]+", None, "7.1_top", ("7.1", "top")),  # a number is no suffix
    ],
)
def test_names_tell_part_and_view(part, view, name, expected):
    assert PartPattern(part, view).parse(name) == expected


def test_names_that_do_not_tell_are_named():
    with pytest.raises(InputError, match=r"--view '\(' is not a regular expression"):
        PartPattern("p", "(")
    with pytest.raises(InputError, match=r"x\.png: --part 'p\\d' matches nothing"):
        PartPattern(r"p\d").parse_all(["x.png", "y.png"])
    with pytest.raises(
        InputError,
        match=r"--part 'p\\d' matches 2 of 4 names, such as p1\.png, and nothing in x\.png, y\.png: ",
    ):
        PartPattern(r"p\d").parse_all(["p1.png", "x.png", "p2.png", "y.png"])
    with pytest.raises(InputError, match=r"p1_a\.png and q/p1_a\.png both show view a of part p1"):
        PartPattern(r"p\d").parse_all(["p1_a.png", "q/p1_a.png"])
    PartPattern(r"p\d").check_parts(["p1_a.png", "p2_a.png", "p1_b.png"])
    with pytest.raises(InputError, match="matches another text in each name"):
        PartPattern(r"p\d").check_parts(["p1_a.png", "p2_a.png"])
    with pytest.raises(InputError, match=r"matches the same text in each name, 1 as in cam1_07\.png: "):
        PartPattern(r"\d").check_parts(["cam1_07.png", "cam1_08.png"])
    with pytest.raises(InputError, match=r"4701 in cam1/IMG_4701\.png and 231 in .*rename the files"):
        PartPattern(r"\d+$", r"cam\d").check_parts(["cam1/IMG_4701.png", "cam2/IMG_231.png"])


def drawn(rng, count, views):
    """Scores whose views depend on each other and have scales of their own."""
    common = rng.normal(size=(count, 1))
    return np.exp(0.2 * (common + rng.normal(size=(count, views)))) * 3.0 ** np.arange(views)


@pytest.mark.parametrize(("views", "count"), [(3, 20), (5, 20), (3, 60)])
def test_the_rate_is_that_of_parts(views, count):
    rng = np.random.default_rng([views, count])
    p_values, alarms = [], []
    for _ in range(1500):
        scores = drawn(rng, count + 1, views)
        known = PartCalibration(("",) * count, (*NAMES, "d", "e")[:views], scores[:-1], 0.05)
        found = known.decide(dict(zip(known.views, scores[-1], strict=True)))
        p_values.append(found.p_value)
        alarms.append(found.is_anomalous)
    expected = (count + 2) / (2 * (count + 1))  # of values k / (n + 1)
    assert abs(np.mean(p_values) - expected) < 4 * 0.29 / 1500**0.5
    rank = int(0.05 * (count + 1) + 1e-9)
    assert abs(np.mean(alarms) - rank / (count + 1)) < 4 * (0.05 / 1500) ** 0.5


def test_a_defect_in_any_view_is_found_whatever_the_scale_of_its_scores():
    scores = drawn(np.random.default_rng(1), 30, 3)
    known = PartCalibration(("",) * 30, NAMES, scores, 0.05)
    for k, view in enumerate(NAMES):
        part = np.median(scores, axis=0)
        part[k] = 3 * scores[:, k].max()
        found = known.decide(dict(zip(NAMES, part, strict=True)))
        assert (found.is_anomalous, found.worst, found.p_value) == (True, view, 1 / 31)


def test_missing_views_are_compared_with_the_same_views_of_good_parts():
    views = [View(f"p{k}", view) for k in range(20) for view in NAMES][:-1]  # one picture is missing
    known = PartCalibration.from_views(views, np.arange(59.0) % 7, 0.05)
    assert np.isnan(known.scores).sum() == 1
    assert known.count(NAMES) == 19
    assert known.count(["a", "b"]) == 20
    assert known.decide({"a": 9.0, "b": 1.0}).p_value == 1 / 21
    assert "4.8%" not in known.promise()
    assert "about 1 of 20 good parts" in known.promise()
    with pytest.raises(InputError, match="no view x: name one of a, b, c"):
        known.decide({"x": 1.0})
    with pytest.raises(InputError, match="no good part"):
        known.decide({})
    few = PartCalibration.from_views(views[:9], np.arange(9.0), 0.05)
    assert "good pictures of 16 more parts would do" in few.promise()
    assert few.decide({"a": 99.0, "b": 0.0, "c": 0.0}).is_anomalous  # at 1 / (n + 1)
    assert "no promise" in PartCalibration.from_views(views[:3], np.arange(3.0), 0.05).promise()
    equal = PartCalibration.from_views(views, np.ones(59), 0.05)
    assert equal.decide(dict.fromkeys(NAMES, 1.0)).p_value == 1.0


def test_a_part_with_a_lost_view_ranks_above_all():
    scores = np.random.default_rng(0).normal(10, 1, (20, 2))
    scores[[3, 9, 14], 1] = np.inf
    known = PartCalibration(tuple(map(str, range(20))), ("left", "right"), scores, 0.05)
    assert (known.complete_count, known.lost_count) == (20, 3)
    assert known.expected_rate == pytest.approx(4 / 21)
    assert "from 20 good parts; 3 of them for views that are not found" in known.promise()
    far = known.decide({"left": 99.0, "right": 99.0})
    assert (far.p_value, far.is_anomalous) == (pytest.approx(4 / 21), True)
    highest = known.decide({"left": scores[0, 0], "right": scores[0, 1]})
    assert highest.p_value > 4 / 21
    assert known.count(["left"]) == 20
    with pytest.raises(InputError, match="no good part"):
        PartCalibration(("a",), ("left",), np.array([[np.inf]]), 0.05).decide({"left": 1.0})


@pytest.mark.parametrize(
    ("views", "count", "rate"), [(1, 1, 0.05), (1, 20, 0.05), (3, 20, 0.05), (3, 39, 0.1), (5, 60, 0.3)]
)
def test_a_part_is_anomalous_exactly_where_its_severity_is_above_zero(views, count, rate):
    rng = np.random.default_rng([views, count])
    names = (*NAMES, "d", "e")[:views]
    found = []
    for k in range(200):
        scores = drawn(rng, count + 1, views)
        scores[-1, 0] *= 1 + (k % 4) / 4
        known = PartCalibration(("",) * count, names, scores[:-1], rate)
        found.append(known.decide(dict(zip(names, scores[-1], strict=True))))
    for one in found:
        assert one.is_anomalous == (one.severity > 0) == (one.p_value <= max(rate, 1 / (count + 1)) + 1e-9)
        assert np.isfinite([one.score, one.severity]).all()
    assert 0 < sum(one.is_anomalous for one in found) < 200


def test_the_score_of_a_part_counts_good_ones_alone_and_has_no_upper_limit():
    scores = drawn(np.random.default_rng(3), 20, 2)
    known = PartCalibration(("",) * 20, NAMES[:2], scores, 0.05)
    mean, std = scores.mean(axis=0), scores.std(axis=0)
    for deviation in (0.5, 3.0, 40.0):  # z-scores that count the part itself end at 4.5
        found = known.decide({"a": float(mean[0] + deviation * std[0]), "b": float(mean[1])})
        assert found.score == pytest.approx(deviation, rel=1e-6)
        assert found.worst == "a"


def test_known_parts_tell_what_they_are():
    views = [View(f"p{k}", view) for k in range(4) for view in NAMES][:-1]
    known = PartCalibration.from_views(views, np.arange(11.0), 0.05)
    assert known.known_scores("p1") == {"a": 3.0, "b": 4.0, "c": 5.0}
    assert known.known_scores("p3") == {"a": 9.0, "b": 10.0}
    assert known.known_scores("other") == {}
    assert known.without("p1").parts == ("p0", "p2", "p3")
    assert known.without("p1").count(["a", "b"]) == 3


def test_parts_of_the_line_tell_how_many_of_its_parts_are_lost():
    """A fit whose parts all are found says nothing of a line that loses a fifth of them."""
    scores = np.random.default_rng(5).normal(10, 1, (70, 2))
    scores[[40, 45, 50, 55, 60, 65], 1] = np.inf  # of the last 30
    names = tuple(map(str, range(70)))
    pooled = PartCalibration(names, ("left", "right"), scores, 0.05)
    known = PartCalibration(names, ("left", "right"), scores, 0.05, frozenset(names[40:]))
    assert pooled.expected_rate == pytest.approx(7 / 71)
    assert known.expected_rate == pytest.approx((1 + 70 * 6 / 30) / 71)
    assert (known.complete_count, known.lost_count) == (70, 6)
    highest = known.decide({"left": 99.0, "right": 99.0})
    assert (highest.p_value, highest.is_anomalous) == (pytest.approx(15 / 71), True)
    lowest = known.decide({"left": 0.0, "right": 0.0})
    assert (lowest.p_value, lowest.is_anomalous) == (pytest.approx(1.0), False)
    assert known.without("40").expected_rate == pytest.approx((1 + 69 * 5 / 29) / 70)
    all_lost = PartCalibration(names, ("left", "right"), scores, 0.05, frozenset(names[40::5]))
    assert all_lost.expected_rate == pytest.approx(1.0)
    assert all_lost.decide({"left": 99.0, "right": 99.0}).is_anomalous


def test_a_part_that_was_pictured_again_counts_once_by_its_largest_score():
    views = [View(f"p{k}", view) for k in range(20) for view in "ab"]
    scores = np.arange(40.0)
    again = PartCalibration.from_views([*views, View("p3", "a")], [*scores, np.inf], 0.05)
    assert (again.complete_count, again.lost_count) == (20, 1)
    once = PartCalibration.from_views([View("p3", "a"), *views], [-1.0, *scores], 0.05)
    np.testing.assert_array_equal(once.scores, PartCalibration.from_views(views, scores, 0.05).scores)
