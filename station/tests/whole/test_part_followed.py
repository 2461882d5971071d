"""Way of a part through the packages of a station, as `docs/follow_part.py` prints it."""

from pathlib import Path

import pytest

DOCS = Path(__file__).parents[3] / "docs"
MOST_STAYS, MOST_RETURNS = 60, 40


@pytest.mark.listens
def test_a_part_enters_few_packages_and_returns_to_few(monkeypatch):
    """What is looked up for each part, though it is known of its product or of the second, shows here."""
    monkeypatch.syspath_prepend(DOCS)
    import follow_part

    way, report = follow_part.shortest(follow_part.Follower())
    assert way.stays <= MOST_STAYS, report
    assert way.returns <= MOST_RETURNS, report
