"""What more pictures bring is measured by units: near-copies of a picture say nothing new."""

import pytest

from flawscope.fitting import trials
from near_duplicates_helpers import product

PARTS, COPIES = 8, 2


@pytest.fixture
def folder(tmp_path):
    """Photographs of each part, one after another, as a person takes them."""
    for part in range(PARTS):
        for copy in range(COPIES):
            product(part, 128).save(tmp_path / f"{part:02}_{copy}.jpg", quality=95 - 5 * copy)
    (tmp_path / "broken.png").write_bytes(b"")
    return tmp_path


@pytest.mark.copies
def test_near_copies_of_a_part_are_on_one_side_and_count_once(folder, monkeypatch):
    learnt, tried = [], []

    def fit(paths, **_):
        learnt.append({path.name[:2] for path in paths})
        assert len(paths) == COPIES * len(learnt[-1])
        raise InterruptedError

    monkeypatch.setattr(trials, "MIN_SUBSET", 2)
    monkeypatch.setattr(trials, "fit", fit)
    for stride in trials.SUBSET_STEPS:
        monkeypatch.setattr(trials, "SUBSET_STEPS", (stride,))
        with pytest.raises(InterruptedError):
            trials.learning_curve(folder, {}, "cpu", lambda *_: None)
        tried.append(stride)
    assert learnt == [{"00", "04"}, {"00", "02", "04", "06"}]
