"""Advice: each step where something is to be gained, at most three, and none elsewhere."""

import pytest

from flawscope.results.advice import ACCURATE, MOST, advice

SMALL = {"pictures": [(2000, 3000)], "network": (416, 624)}
MISSED = {"defects": 30, "missed": 5}
ELSEWHERE = {"lies_elsewhere": lambda: True}
SEARCH = "fit --auto, which tries how the pictures are best seen"


@pytest.mark.parametrize(
    ("facts", "steps"),
    [
        ({"defects": 30, "missed": 0, "marks": [60.0] * 30, **SMALL, "network": (512, 512)}, []),
        ({"rate": 0.05, "missing": 0}, []),
        ({"lies": "turn"}, ["--align turn"]),
        ({"lies": "shift"}, ["--align shift"]),
        ({"marks": [20.0] + [300.0] * 30, **SMALL}, []),  # one small defect among many large ones
        ({**MISSED, **ELSEWHERE}, [SEARCH]),
        ({**MISSED, "pictures": [(640, 640)], "network": (512, 512)}, [SEARCH]),
        ({**MISSED, **ELSEWHERE, "tried": True}, []),
        ({**ELSEWHERE, "defects": 30, "missed": 2}, []),  # fewer than a tenth
        ({"learnt": 10}, [ACCURATE]),
        ({**ELSEWHERE, "defects": 30, "missed": 20, "sole": "a.png", "hidden": 5}, [SEARCH]),
        # a search could show no more: as it is, enlarged, a size of its own, tiles, sides rounded to the
        # network's step, one larger picture of many
        *(
            ({**MISSED, "pictures": pictures, "network": network}, [])
            for pictures, network in (
                ([(512, 512)], (512, 512)),
                ([(256, 256)], (512, 512)),
                ([(640, 640)], (128, 128)),
                ([(640, 640)], None),
                ([(816, 323)], (816, 320)),
                ([(512, 512)] * 5 + [(640, 640)], (512, 512)),
            )
        ),
    ],
)
def test_a_step_is_advised_where_something_is_to_be_gained(facts, steps):
    assert [one.step for one in advice(**facts)] == steps


def test_missed_defects_that_vanish_at_the_network_need_tiles():
    (one,) = advice(marks=[20.0, 22.0, 300.0], **SMALL)
    assert one.step.startswith("--min-defect 20px")
    assert one.reason == "a quarter of the missed defects are up to 20 px long, 4 px at the network"
    assert "times as long a picture" in one.step


@pytest.mark.parametrize(
    ("facts", "line"),
    [
        (
            {"defects": 30, "missed": 20, "sole": "a.png", "hidden": 15},
            "20 of 30 defects are missed, 15 for one picture: look whether a.png is good, "
            "else fit without it",
        ),
        (
            {"rate": 0.05, "missing": "12 more good pictures"},
            "a false-alarm rate of 5.0% cannot be promised yet: add 12 more good pictures",
        ),
        ({"learnt": 4}, f"4 good pictures to learn from: {ACCURATE}"),
    ],
)
def test_a_step_has_its_reason(facts, line):
    (one,) = advice(**facts)
    assert one.line() == line


def test_at_most_three_and_what_is_worth_most_first():
    every = {
        "marks": [5.0],
        **SMALL,
        "rate": 0.05,
        "missing": "3 more good pictures",
        "defects": 10,
        "missed": 5,
    }
    found = advice(lies="turn", **every)
    assert (len(found), found[0].step) == (MOST, "--align turn")
