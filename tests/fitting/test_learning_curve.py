"""What more pictures bring is measured by units: near-copies of a picture say nothing new."""

import numpy as np
import pytest

from flawscope.artefact.tried import Scored, enough
from flawscope.fitting import fewer_pictures
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

    monkeypatch.setattr(fewer_pictures, "MIN_SUBSET", 1)
    monkeypatch.setattr(fewer_pictures, "fit", fit)
    for stride in fewer_pictures.SUBSET_STEPS:
        monkeypatch.setattr(fewer_pictures, "SUBSET_STEPS", (stride,))
        with pytest.raises(InterruptedError):
            fewer_pictures.learning_curve(folder, {}, "cpu", lambda *_: None)
        tried.append(stride)
    assert learnt == [{"00"}, {"00", "04"}, {"00", "02", "04", "06"}]


def scored(reach, seed, count=24):
    """Good pictures and simulated defects on them, which a model scores so much higher."""
    rng = np.random.default_rng(seed)
    return Scored(rng.normal(0, 1, count), rng.normal(reach, 1, 2 * count), np.arange(2 * count) % count)


def test_as_many_pictures_are_enough_as_no_larger_number_is_surely_better_than():
    assert enough({8: scored(0.0, 1), 16: scored(3.0, 2), 32: scored(3.0, 3)}) == 16
    assert enough({8: scored(3.0, 1), 16: scored(3.0, 2), 32: scored(3.1, 3)}) == 8
    assert enough({8: scored(0.0, 1), 16: scored(1.0, 2), 32: scored(4.0, 3)}) is None
    assert enough({8: scored(3.0, 1), 16: scored(0.5, 2), 32: scored(3.0, 3)}) == 8  # a bad draw between
    assert enough({8: scored(3.0, 1)}) is None
    assert enough({}) is None
