"""What a search expects that fits and judging take."""

import pytest

from flawscope.fitting.proposals import Recipe
from flawscope.fitting.search_time import CHECKED, LearningClock, SearchTime, Taken
from flawscope.progress import FEATURES


class Fit:
    """A fit that reads its network in 30 seconds, computes features in 2 and joins them in 1 for each
    picture; four are seen at once."""

    def __init__(self, pictures):
        self.now = 0.0
        self.clock = LearningClock(lambda: self.now, pictures)
        self.pictures = pictures
        self.clock.see("near-duplicates", pictures, pictures)
        self.now += 30.0

    def compute(self, until):
        for done in range(4, until + 1, 4):
            self.now += 8.0
            self.clock.see(FEATURES, done, self.pictures)

    def end(self):
        self.compute(self.pictures)
        for done in range(1, self.pictures + 1):
            self.now += 1.0
            self.clock.see("leave-one-out", done, self.pictures)


def test_reading_the_network_does_not_count_for_each_picture():
    fit = Fit(24)
    fit.end()
    assert fit.now == 102.0
    assert fit.clock.each() == pytest.approx((102.0 - 38.0) / 20)


def test_while_features_are_computed_these_count_alone():
    """So a fit that cannot end in time is seen after a few pictures."""
    fit = Fit(24)
    fit.compute(12)
    assert fit.clock.each() == pytest.approx(2.0)


def test_a_fit_that_reports_no_features_counts_as_a_whole():
    fit = Fit(10)
    assert fit.clock.each() == pytest.approx(3.0)
    fit.clock.see(FEATURES, 10, 10)  # all at once
    assert fit.clock.each() == pytest.approx(3.0)


def test_other_settings_are_expected_to_take_what_their_network_takes_longer():
    """Commutators, one thread, seconds: the default's fit .25 for each of 150 pictures, judging .092; those
    of `accurate` .67 and .51."""
    time = SearchTime(600)
    time.note("", Taken(0.25, 0.092))
    accurate = Recipe({"preset": "accurate"})
    assert time.final_seconds(accurate, 150) == pytest.approx(CHECKED * 150 * 0.67, rel=0.03)
    time.note(accurate.flags, Taken(0.7, 0.5))
    assert time.final_seconds(accurate, 150) == pytest.approx(CHECKED * 150 * 0.7)
