"""Advice: each step where something is to be gained, at most three, and none elsewhere."""

import pytest

from flawscope.results.advice import ACCURATE, MAX_STEPS, SEARCH, advice, looser_rate, remedies

SMALL = {"pictures": [(2000, 3000)], "network": (416, 624)}
MISSED = {"defects": 30, "missed": 5}
ELSEWHERE = {"lies_elsewhere": lambda: True, "remedies": [SEARCH]}


@pytest.mark.parametrize(
    ("facts", "steps"),
    [
        ({"defects": 30, "missed": 0, "marks": [60.0] * 30, **SMALL, "network": (512, 512)}, []),
        ({"rate": 0.05, "missing": 0}, []),
        ({"lies": "turn"}, ["--align turn"]),
        ({"lies": "shift"}, ["--align shift"]),
        ({"marks": [20.0] + [300.0] * 30, **SMALL}, []),  # one small defect among many large ones
        ({**MISSED, **ELSEWHERE}, [SEARCH]),
        ({**MISSED, "pictures": [(640, 640)], "network": (512, 512), "remedies": [SEARCH]}, [SEARCH]),
        ({**MISSED, **ELSEWHERE, "remedies": []}, []),
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
    assert (len(found), found[0].step) == (MAX_STEPS, "--align turn")


def test_a_model_that_misses_many_is_told_what_may_help_without_a_search_where_it_tries_nothing():
    four = remedies(learnt=4, pictures=[(256, 256)], network=(512, 512), accurate=True, tried=False)
    (one,) = advice(defects=20, missed=20, remedies=four)
    assert one.line() == (
        "20 of 20 defects are missed: what may help: --preset accurate or a region where the defects are "
        "(--roi)"
    )
    many = remedies(learnt=24, pictures=[(2000, 2000)], network=(512, 512), accurate=False, tried=False)
    assert [one.partition(" ")[0] for one in many] == ["larger", "a", "fit"]
    assert SEARCH not in remedies(learnt=24, pictures=[], network=None, accurate=True, tried=True)
    assert advice(defects=20, missed=3, remedies=four) == []  # fewer than a quarter
    (one,) = advice(remedies=four, blind="it hardly sees defects")
    assert one.line().startswith("it hardly sees defects: what may help: --preset accurate or")


def test_a_higher_rate_is_advised_where_scores_tell_and_decisions_do_not():
    """29 of 75 are found; at 20 % it would be 66, with 2 of 21 good ones flagged."""
    bad = [(True, k < 29, 0.04 if k < 29 else 0.15 if k < 66 else 0.6) for k in range(75)]
    good = [(False, False, 0.18 if k < 2 else 0.5) for k in range(21)]
    step = looser_rate([*bad, *good], (0.1, 0.2, 0.3), 0.937)
    assert step.line() == (
        "46 of 75 defects are missed, though scores tell them from good ones (AUROC 0.94): calibrate "
        "--false-alarm-rate 20%, which finds 66 and calls 2 of 21 good ones anomalous, as read from this "
        "test set: others tell whether it holds"
    )
    both = advice(
        defects=75, missed=46, looser=step, remedies=[SEARCH], pictures=[(640, 640)], network=(512, 512)
    )
    assert [one.step for one in both] == [step.step, SEARCH]
    assert advice(defects=75, missed=46, looser=step, remedies=["--preset accurate"]) == [step]
    nothing = [(True, False, 0.5)] * 20 + [(False, False, 0.5)] * 20
    assert looser_rate(nothing, (0.1, 0.3), 0.5) is None
    alike = [(True, False, 0.15)] * 20 + [(False, False, 0.15)] * 20  # it costs as many false alarms
    assert looser_rate(alike, (0.1, 0.3), 0.5) is None
    assert looser_rate(bad, (0.2,), None) is None
