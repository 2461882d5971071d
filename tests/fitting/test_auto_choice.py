"""Which of the tried settings wins."""

from flawscope.artefact.tried import Trial
from flawscope.fitting.auto_choice import best_of, nearly_best


def trial(flags, simulated, given=(), seconds=1.0):
    return Trial(flags, tuple(given), tuple(simulated), seconds=seconds)


def chosen(*trials):
    return best_of(trials).flags


def test_the_best_in_the_mean_is_taken_and_the_settings_as_given_have_no_right_of_their_own():
    assert chosen(trial("", [0.90]), trial("a", [0.915], seconds=5.0)) == "a"
    assert chosen(trial("", [0.90, 0.90]), trial("a", [0.99, 0.80], seconds=5.0)) == ""
    assert best_of([Trial("", note="no time")]) is None


def test_what_costs_less_is_taken_of_settings_that_differ_by_less_than_a_hundredth():
    slow, quick = trial("a", [0.909], seconds=5.0), trial("", [0.90], seconds=1.0)
    assert chosen(slow, quick) == ""
    assert chosen(slow, quick, trial("b", [0.905], seconds=0.5)) == "b"


def test_defects_of_a_person_decide_before_simulated_ones():
    """Where these tell them apart by less than a hundredth, simulated ones do."""
    assert chosen(trial("", [0.99], [0.80]), trial("a", [0.70], [0.95], 5.0)) == "a"
    assert chosen(trial("", [0.80], [0.95]), trial("a", [0.90], [0.95], 5.0)) == "a"


def test_settings_are_compared_by_the_rounds_that_two_of_them_have():
    """A first round that one setting alone went beyond is no reason to prefer it."""
    one, two = trial("a", [0.90, 0.99], seconds=5.0), trial("", [0.95])
    assert chosen(one, two) == ""
    again = trial("b", [0.85, 0.90], seconds=2.0)
    assert nearly_best([one, two, again], 0.03) == [one], "what was not tried again is out"
