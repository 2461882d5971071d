"""Advice: each step where something is to be gained, at most three, and none elsewhere."""

import pytest

from flawscope.results.advice import MOST, Facts, advice

LARGE = [(2000, 3000)]


def steps(**facts):
    return [one.step for one in advice(Facts(**facts))]


def test_nothing_is_advised_where_nothing_is_to_be_gained():
    assert steps(defects=30, missed=0, marks=[60.0] * 30, pictures=LARGE, network=(512, 512)) == []
    assert steps(rate=0.05, missing=0) == []


@pytest.mark.parametrize(("lies", "step"), [("turn", "--align turn"), ("shift", "--align shift")])
def test_parts_that_lie_elsewhere(lies, step):
    assert steps(lies=lies) == [step]


def test_marked_defects_that_vanish_at_the_network_need_tiles():
    (one,) = advice(Facts(marks=[20.0, 22.0, 300.0], pictures=LARGE, network=(416, 624)))
    assert one.step.startswith("--min-defect 20px")
    assert one.reason == "a quarter of the marked defects are up to 20 px long, 4 px at the network"
    assert "times as long a picture" in one.step


def test_one_small_defect_among_many_large_ones_needs_none():
    assert steps(marks=[20.0] + [300.0] * 30, pictures=LARGE, network=(416, 624)) == []


SEARCH = "fit --auto, which tries how the pictures are best seen"


@pytest.mark.parametrize(
    "shown", [{"lies_elsewhere": lambda: True}, {"pictures": [(640, 640)], "network": (512, 512)}]
)
def test_missed_defects_call_for_other_settings_once(shown):
    assert steps(defects=30, missed=5, **shown) == [SEARCH]
    assert steps(defects=30, missed=5, tried=True, **shown) == []
    assert steps(defects=30, missed=2, **shown) == []  # fewer than a tenth


@pytest.mark.parametrize(
    ("pictures", "network"),
    [
        ([(512, 512)], (512, 512)),
        ([(256, 256)], (512, 512)),
        ([(640, 640)], (128, 128)),
        ([(640, 640)], None),
        ([(816, 323)], (816, 320)),
        ([(512, 512)] * 5 + [(640, 640)], (512, 512)),
    ],
    ids=["as it is", "enlarged", "a size of its own", "tiles", "rounded to the network's step", "one larger"],
)
def test_no_search_is_advised_that_could_show_no_more(pictures, network):
    assert steps(defects=30, missed=5, pictures=pictures, network=network) == []


def test_a_picture_that_alone_sets_the_threshold_comes_before_other_settings():
    (one,) = advice(Facts(defects=30, missed=20, sole="a.png", hidden=15))
    assert (
        one.line()
        == "20 of 30 defects are missed, 15 for one picture: look whether a.png is good, else "
        + ("fit without it")
    )
    assert steps(defects=30, missed=20, sole="a.png", hidden=5, lies_elsewhere=lambda: True) == [SEARCH]


def test_more_good_pictures_where_the_rate_cannot_be_promised():
    (one,) = advice(Facts(rate=0.05, missing=12))
    assert one.line() == "a false-alarm rate of 5.0% cannot be promised yet: add 12 more good pictures"


def test_at_most_three_and_what_is_worth_most_first():
    every = {"marks": [5.0], "pictures": LARGE, "network": (416, 624), "rate": 0.05, "missing": 3}
    found = steps(lies="turn", defects=10, missed=5, **every)
    assert len(found) == MOST
    assert found[0] == "--align turn"
