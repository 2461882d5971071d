"""The test of the promise: its probabilities are those of scipy.stats."""

from __future__ import annotations

import pytest
from scipy.stats import betabinom, binom

from flawscope.evaluation import promise


@pytest.mark.parametrize("count", [1, 15, 60])
def test_probabilities_are_those_of_a_trusted_library(count: int) -> None:
    for successes in range(count + 1):
        expected = binom(count, 0.044).sf(successes - 1), betabinom(count, 1.5, 32.5).sf(successes - 1)
        assert promise._binomial_tail(successes, count, 0.044) == pytest.approx(expected[0], abs=1e-12)
        assert promise._beta_binomial_tail(successes, count, 1.5, 32.5) == pytest.approx(
            expected[1], abs=1e-9
        )
