"""Way of the pictures through the files of a fit, as `docs/follow_pictures.py` prints it."""

import sys
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
MOST_RETURNS = 60


def test_pictures_return_to_few_files(monkeypatch, tmp_path):
    """A function that gets pictures, calls away and is called back shows here."""
    monkeypatch.syspath_prepend(DOCS)
    profile = sys.getprofile()
    import follow_pictures

    monkeypatch.setattr(follow_pictures.simulated_defects, "MIN_SECONDS", 60.0)
    follow_pictures.draw_pictures(tmp_path)
    try:
        for kind in follow_pictures.KINDS:
            found = follow_pictures.follow(tmp_path, kind, files=True)
            assert found.returns() <= MOST_RETURNS, found.report()
    finally:
        sys.setprofile(profile)
