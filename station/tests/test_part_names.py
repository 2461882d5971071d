import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flawscope.calibration.parts import PartPattern, View
from flawscope_station.setup.part_names import describe_parts, marked_in, pattern_of, split_name

# a name, what is marked in it as part and as view, another name, and what that shows
NAMES = [
    ("part07_top.png", ["07"], ["top"], "part123_left.png", ("123", "left")),
    ("part07_top.png", ["part", "07"], ["top"], "A_left2.png", ("A", "left2")),
    ("top-part07.png", ["07"], ["top"], "left-part8.jpg", ("8", "left")),
    ("A123L.bmp", ["123"], ["L"], "B9R.bmp", ("9", "R")),
    ("2024-11-26_Los4711_0007_oben.jpg", ["0007"], ["oben"], "2025-1-2_Los1_12_links.jpg", ("12", "links")),
    ("links 3 – Teil 12.png", ["12"], ["links"], "rechts 3 – Teil 13.png", ("13", "rechts")),
    ("Los7.Nest3.Bild2.tif", ["7", "3"], ["2"], "Los8.Nest1.Bild1.tif", ("8/1", "1")),
    ("pièce12_côté.png", ["12"], ["côté"], "pièce7_haut.png", ("7", "haut")),
    ("Los7 v. 2.png", ["2"], ["v"], "Los7 w. 3.png", ("3", "w")),
    ("IMG_0007_B.png", ["0007"], ["B"], "IMG_0010_A.png", ("0010", "A")),
]


def places(name, words):
    pieces = split_name(name)
    return [pieces.index(word) for word in words]


@pytest.mark.parametrize(("name", "part", "view", "other", "shows"), NAMES)
def test_marks_on_one_name_read_another(name, part, view, other, shows):
    patterns = [pattern_of(name, places(name, words)) for words in (part, view)]
    assert PartPattern(str(patterns[0]), patterns[1]).parse(other) == View(*shows)
    assert marked_in(name, patterns[0]) == places(name, part)
    assert marked_in(name, patterns[1]) == places(name, view)


@settings(deadline=None)
@given(st.text(st.characters(exclude_characters="/\\", exclude_categories=["C", "Z"]), min_size=1), st.data())
def test_any_name_is_read_back_by_its_own_pattern(stem, data):
    name = f"{stem}.png"
    pieces = split_name(name)
    assert "".join(pieces) == stem
    marks = data.draw(st.sets(st.integers(0, len(pieces))))
    pattern = pattern_of(name, marks)
    if pattern is not None:
        assert re.search(pattern, name)
        assert set(marked_in(name, pattern)) <= marks


def test_nothing_that_is_marked_is_no_pattern():
    assert pattern_of("part07_top.png", []) is None
    assert pattern_of("part07_top.png", [2]) is None, "a separator tells nothing"
    assert marked_in("part07_top.png", None) == marked_in("", "x") == []


def test_what_one_cannot_learn_from_is_named_with_pictures():
    names = [f"{side}_{k}.png" for k in range(3) for side in ("a", "b")]
    number, side = str(pattern_of("a_0.png", [2])), str(pattern_of("a_0.png", [0]))
    right = describe_parts(names, number, side)
    assert (right["problem"], right["count"], right["views"]) == (None, 3, ["a", "b"])
    assert right["parts"][0] == {"part": "0", "pictures": {"a": "a_0.png", "b": "b_0.png"}}
    odd = describe_parts([*names, "whole.png"], number, side)
    assert (odd["problem"], odd["pictures"]) == ("unmatched", ["whole.png"])
    twice = describe_parts([*names, "a-2.png"], number, side)
    assert (twice["problem"], twice["pictures"]) == ("twice", ["a_2.png", "a-2.png"])
    assert describe_parts(names, "^()", r"^(.*)\.")["problem"] == "one_part"
    assert describe_parts(names, r"^(.*)\.", side)["problem"] == "all_alone"
