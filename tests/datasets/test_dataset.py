"""Splits by seeded hashes of names, in whole parts, and which pictures belong together by their names."""

import pytest

from flawscope.calibration.parts import PartPattern
from flawscope.datasets import group_numbers, open_dataset
from flawscope.datasets.dataset import held_out
from flawscope.errors import InputError


def test_more_pictures_move_few_one_part_cannot_be_split_and_something_is_left_to_train_on():
    before = [f"{k}.png" for k in range(100)]
    after = [f"new{k}.png" for k in range(5)] + before
    held = {before[k] for k in held_out(before, 0.2, 0)}
    later = {after[k] for k in held_out(after, 0.2, 0)}
    assert (len(held), len(later)) == (20, 21)
    assert len(held - later) <= 5
    assert held_out(["a", "b", "c"], 0.2, 0, [("x",)] * 3) == set()
    for count, share, expected in ((1, 0.9, 0), (2, 0.01, 1), (2, 0.99, 1), (10, 0.99, 9), (10, 0, 0)):
        assert len(held_out([str(k) for k in range(count)], share, 0)) == expected


GROUP = r"part(\d+)"


def test_a_camera_s_folder_does_not_tell_the_part(tmp_path):
    """`\\d+` is looked for in the file's name first: else the split would part the cameras, not the parts."""
    for camera in ("Kamera 1", "Kamera 2"):
        for part in range(20):
            path = tmp_path / "thing" / "good" / camera / f"{part:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    (tmp_path / "thing" / "bad").mkdir()
    (tmp_path / "thing" / "bad" / "x.png").touch()
    pattern = PartPattern(r"\d+", r"Kamera \d")
    dataset = open_dataset(tmp_path / "thing", group=pattern.part_key)
    learnt = {item.path.name for item in dataset.train}
    tested = {item.path.name for item in dataset.test if not item.anomalous}
    assert (len(learnt), len(tested), learnt & tested) == (16, 4, set())


def names(parts, each):
    return [f"part{p:02d}_{view}.png" for p in range(parts) for view in range(each)]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("layout", ["folder", "visa"])
def test_pictures_of_one_part_stay_in_one_split(tmp_path, layout, seed):
    """20 parts of 5 pictures each: drawn one by one, nearly all parts of the test would have been learnt."""
    good, bad = ("good", "bad") if layout == "folder" else ("Data/Images/Normal", "Data/Images/Anomaly")
    for name in [*(f"{good}/{n}" for n in names(20, 5)), f"{bad}/x.png"]:
        path = tmp_path / "thing" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    dataset = open_dataset(tmp_path / "thing", seed=seed, group=GROUP)
    assert dataset.layout == layout
    learnt, tested = (
        {item.path.name[:6] for item in items if not item.anomalous}
        for items in (dataset.train, dataset.test)
    )
    assert not learnt & tested
    assert (len(learnt), len(tested)) == (16, 4)
    alone = open_dataset(tmp_path / "thing", seed=seed)
    assert {i.path.name[:6] for i in alone.train} & {i.path.name[:6] for i in alone.test}


@pytest.mark.parametrize(
    ("sizes", "most"), [((50, 5, 5, 40), 40), ((90, 5, 5), 10), ((99, 1), 1), ((30, 70), 30)]
)
def test_a_large_part_is_not_spent_on_a_small_test(sizes, most):
    parts = [(str(part),) for part, size in enumerate(sizes) for _ in range(size)]
    for seed in range(10):
        out = held_out([str(k) for k in range(len(parts))], 0.2, seed, parts)
        assert 0 < len(out) <= most
        assert all({k for k, p in enumerate(parts) if p == parts[j]} <= out for j in out)


def test_a_pattern_of_other_pictures_splits_one_by_one_and_a_bad_one_is_refused(tmp_path):
    for name in [*(f"good/{k}.png" for k in range(10)), "bad/x.png"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert open_dataset(tmp_path, group=GROUP) == open_dataset(tmp_path)
    with pytest.raises(InputError, match="not a regular expression"):
        open_dataset(tmp_path, group="(")


def same(numbers):
    """The grouping, whatever the numbers are."""
    return {frozenset(i for i, n in enumerate(numbers) if n == value) for value in numbers}


NAMES = ["part1_top.png", "part1_side.png", "part12_top.png", "other.png"]


@pytest.mark.parametrize(
    ("names", "pattern", "groups"),
    [
        (NAMES, r"part(\d+)", [{0, 1}, {2}, {3}]),  # the group's text, not the whole match
        (NAMES, r"part\d+", [{0, 1}, {2}, {3}]),
        (NAMES, r"_(top|side)", [{0, 2}, {1}, {3}]),
        (NAMES, r"part(\d)\d*_(\w)", [{0, 2}, {1}, {3}]),  # several groups count together
        (NAMES, r"part", [{0, 1, 2}, {3}]),
        (NAMES, r"^", [{0, 1, 2, 3}]),
        (["a1", "x", "y"], r"a(\d)", [{0}, {1}, {2}]),  # no match is no group
        (["x", "0", "y", "0b"], r"0", [{0}, {1, 3}, {2}]),  # a group called like an index
        (["a1", "b1", "a2"], r"a(\d)|b(\d)", [{0}, {1}, {2}]),  # one takes no part in the match
        (["a", "a", "b"], None, [{0}, {1}, {2}]),
        ([], "x", []),
    ],
)
def test_the_same_text_is_the_same_group_and_no_match_stands_alone(names, pattern, groups):
    assert same(group_numbers(names, pattern)) == {frozenset(g) for g in groups}


@pytest.mark.parametrize("pattern", ["(", "[a", "*", "(?P<a", "piece"])
def test_a_bad_pattern_and_one_that_matches_nothing_are_one_line(pattern):
    with pytest.raises(InputError, match="--group") as caught:
        group_numbers(["part1.png"], pattern)
    assert "\n" not in str(caught.value)
