"""What was tried before a fit: AUROC, which setting is taken, and what is stored and told."""

import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from flawscope.artefact.tried import (
    TRIED,
    Choice,
    Trial,
    auroc,
    auroc_on_carriers,
    tried_lines,
)


def test_auroc_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    good, bad = rng.integers(0, 6, 20), rng.integers(2, 9, 31)
    assert auroc(good, bad) == pytest.approx(roc_auc_score([0] * 20 + [1] * 31, [*good, *bad]))
    assert auroc(np.array([1, np.inf]), np.array([np.inf])) == pytest.approx(0.75)


def test_a_defect_counts_as_if_it_had_been_on_every_good_picture():
    """The literal definition, and what it is for: which picture carries a defect tells nothing."""
    good, carriers = np.array([1.0, 2.0, 3.0]), np.array([0, 1, 2, 0])
    defective = np.array([2.5, 2.0, 9.0, 1.0])  # the second and the last are hidden
    pairs = []
    for defect, hidden in zip(defective, (False, True, False, True), strict=True):
        for carrier in good:
            score = carrier if hidden else max(carrier, defect)
            pairs += [1.0 if score > one else 0.5 if score == one else 0.0 for one in good]
    assert auroc_on_carriers(good, defective, carriers) == pytest.approx(np.mean(pairs))
    hidden = [auroc_on_carriers(good, good[[k, k]], np.array([k, k])) for k in range(3)]
    assert hidden == [0.5] * 3, "what is hidden tells nothing, wherever it lies"
    assert auroc(good, good[[2, 2]]) > 0.8


def test_it_varies_less_than_what_is_counted_plainly():
    """Among many rounds of few good pictures, whose scores differ more than faint defects add."""
    rng = np.random.default_rng(3)
    found = []
    for _ in range(200):
        good, carriers = rng.normal(5, 1, 12), np.arange(32) % 12
        defects = rng.normal(5, 1.5, 32)
        defective = np.maximum(good[carriers], defects)
        found.append((auroc(good, defective), auroc_on_carriers(good, defective, carriers)))
    plain, own = np.std(found, axis=0)
    assert own < plain
    lower = np.mean(found, axis=0)[0] - np.mean(found, axis=0)[1]
    assert 0 <= lower < 0.05, "what its carrier hides might be seen on another"


def stored():
    trials = (
        Trial("", (), (0.8,), (1, 10), (0, 0), (15, 24), 0.1),
        Trial("--align turn", (), (0.9,), (0, 10), (0, 0), (20, 24), 0.2),
        Trial("--size 256+768", note="no time", minutes=4),
    )
    return Choice("--align turn", "it tells most", trials, 10, 0, 24, 12.5, enough=7)


def test_a_choice_is_stored_and_told():
    choice = stored()
    facts = json.loads(json.dumps({TRIED: choice.to_dict()}))
    assert Choice.from_facts(facts) == choice
    lines = tried_lines(facts)
    assert lines[-2] == "chosen: --align turn, since it tells most"
    assert "about 7 minutes would do" in lines[-1]
    assert "--resume" in lines[-1]
    assert any("0 of 10" in line and "20 of 24" in line and "90.0%" in line for line in lines)
    assert any("no time: about 4 minutes in all" in line for line in lines), "what had no time is advised"
    assert "judged by 10 good pictures left out, 24 simulated" in lines
    assert any(line.startswith("apart: of pairs") for line in lines), "the numbers are explained"
    assert [one.flags for one in choice.shown()] == ["--align turn", "", "--size 256+768"]
    assert all(len(line) <= 110 for line in lines)


def test_defects_of_a_person_have_columns_of_their_own():
    one = Trial("", (0.75,), (0.8,), (1, 10), (2, 6), (15, 24), 0.1)
    header, row = Choice("", "", (one,), 10, 6, 24).lines()[:2]
    assert "yours found" in header
    assert "2 of 6" in row
    assert "15 of 24" in row
    assert row.index("75.0%") == header.index("yours apart")
    assert one.separation() == "your defects (75.0%) and simulated ones (80.0%)"
    told = Choice("", "", (one,), 10, 6, 24).lines()
    assert "judged by 10 good pictures left out, 6 defects of yours, 24 simulated" in told
    again = replace(one, given=(0.75, 0.8), simulated=(0.8, 0.8))
    assert any(
        line.endswith("in up to 2 rounds, each with defects of yours")
        for line in Choice("", "", (again,), 20, 6, 48).lines()
    )


def test_settings_of_fewer_rounds_are_told_by_what_they_differ_from_the_chosen_one():
    """In a hard second round all would have been worse: the table shows the order of the choice."""
    chosen = Trial("", (), (0.727, 0.663))
    again = Trial("--preset small", (), (0.7, 0.65))
    once = Trial("--preset accurate", (), (0.724,))
    assert once.beside(chosen) == pytest.approx((0.695 - 0.003,))
    assert again.beside(chosen) == pytest.approx((0.675,))
    assert chosen.beside(chosen) == chosen.figures()
    choice = Choice("", "", (once, again, chosen), 24, 0, 64)
    assert [one.flags for one in choice.shown()] == ["", "--preset accurate", "--preset small"]
    assert [line.split("%")[0][-4:] for line in choice.lines()[1:4]] == ["69.5", "69.2", "67.5"]
    assert "of settings of fewer rounds: by what they differ from the chosen one in these" in choice.lines()


def test_a_search_of_an_earlier_version_is_told():
    """It had stages, and one AUROC for all kinds of defects."""
    old = {
        "flags": "",
        "stage": 1,
        "auroc": 0.8,
        "gain": None,
        "judged": [[1.0], [2.0], [0]],
        "found": [3, 4],
    }
    again = old | {"stage": 2, "auroc": 0.7}
    facts = {TRIED: {"flags": "", "reason": "nothing better", "trials": [old, again], "first": 1}}
    assert [one.simulated for one in Choice.from_facts(facts).trials] == [(0.7,)]
    assert any("70.0%" in line for line in tried_lines(facts))


@pytest.mark.parametrize("damaged", [{}, {TRIED: 3}, {TRIED: {"trials": [{}]}}, {TRIED: {"trials": 1}}])
def test_damaged_facts_tell_nothing(damaged):
    assert tried_lines(damaged) == []
