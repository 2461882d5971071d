"""Which pictures belong together, by their names."""

from __future__ import annotations

import pytest

from flawscope.datasets import group_numbers
from flawscope.errors import InputError


def same(numbers: list[int]) -> set[frozenset[int]]:
    """The grouping, whatever the numbers are."""
    return {frozenset(i for i, n in enumerate(numbers) if n == value) for value in numbers}


def test_without_a_pattern_every_picture_stands_alone() -> None:
    assert group_numbers(["a", "a", "b"], None) == [0, 1, 2]
    assert group_numbers([], None) == group_numbers([], "x") == []


@pytest.mark.parametrize(
    ("pattern", "groups"),
    [
        (r"part(\d+)", [{0, 1}, {2}, {3}]),  # the group's text, not the whole match
        (r"part\d+", [{0, 1}, {2}, {3}]),
        (r"_(top|side)", [{0, 2}, {1}, {3}]),
        (r"part(\d)\d*_(\w)", [{0, 2}, {1}, {3}]),  # several groups count together
        (r"part", [{0, 1, 2}, {3}]),
        (r"^", [{0, 1, 2, 3}]),
    ],
)
def test_the_same_text_is_the_same_group_and_no_match_stands_alone(pattern: str, groups: list) -> None:
    names = ["part1_top.png", "part1_side.png", "part12_top.png", "other.png"]
    assert same(group_numbers(names, pattern)) == {frozenset(g) for g in groups}


def test_names_without_a_match_are_not_one_group() -> None:
    assert same(group_numbers(["a1", "x", "y"], r"a(\d)")) == {frozenset({0}), frozenset({1}), frozenset({2})}


def test_a_group_called_like_an_index_is_not_mixed_up_with_it() -> None:
    assert same(group_numbers(["x", "0", "y", "0b"], r"0")) == {
        frozenset({0}),
        frozenset({1, 3}),
        frozenset({2}),
    }


def test_groups_that_take_no_part_in_the_match_are_allowed() -> None:
    assert same(group_numbers(["a1", "b1", "a2"], r"a(\d)|b(\d)")) == {
        frozenset({0}),
        frozenset({1}),
        frozenset({2}),
    }


@pytest.mark.parametrize("pattern", ["(", "[a", "*", "(?P<a"])
def test_a_bad_pattern_is_one_line(pattern: str) -> None:
    with pytest.raises(InputError, match="--group") as caught:
        group_numbers(["a"], pattern)
    assert "\n" not in str(caught.value)


def test_a_pattern_that_matches_nothing_shows_a_name() -> None:
    with pytest.raises(InputError, match=r"matches no file name such as part1\.png"):
        group_numbers(["part1.png", "part2.png"], "piece")
