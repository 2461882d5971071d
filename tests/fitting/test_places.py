"""Models with a memory bank for each place: what is learnt where, what is left out, when they are better."""

import functools

import numpy as np
import pytest

from flawscope.errors import InputError
from flawscope.fitting.fitting import fit
from flawscope.fitting.training_pictures import Reader
from flawscope.fitting.training_views import TrainingViews
from flawscope.views.preprocess import Preprocess
from small_network import SMALL_NETWORK

# pictures of one ground, of which each counts as a part
SMALL = {"group": r"\d+", "samples": 1, "check": False, "device": "cpu", **SMALL_NETWORK}
SMALL |= {"count": 100, "tile": 64, "positions": "each"}
RNG = np.random.default_rng(5)
GROUND = RNG.integers(60, 200, (144, 144, 3))


@functools.cache
def still(count=6, seed=0):
    """Pictures of one ground that lies still, with noise."""
    rng = np.random.default_rng([seed, 1])
    return tuple(
        (GROUND + rng.normal(0, 3, GROUND.shape)).clip(0, 255).astype(np.uint8) for _ in range(count)
    )


@pytest.fixture(scope="module")
def each():
    return fit(list(still()), **SMALL)


def test_each_place_has_a_bank_of_what_was_seen_there(each):
    grid = each.manifest.preprocess.grid((144, 144))
    assert each.manifest.preprocess.positions == grid.shape == (3, 3)
    assert each.artefact.tensors["views.0.bank"].shape[:2] == (10, 100)
    assert each.artefact.tensors["bank_groups.0"].shape == (10, 100)
    assert (each.manifest.facts["bank"], each.manifest.config["positions"]) == (1000, "each")
    assert {int(g) for g in np.unique(each.artefact.tensors["bank_groups.0"])} == set(range(6))


def test_what_goes_with_them_and_what_does_not():
    mixed = [*still(3), *(picture[:100] for picture in still(6)[3:])]
    for pictures, options, text in (
        (still(), {**SMALL, "tile": None}, "--tile or --min-defect, or"),
        (still(), {**SMALL, "score": "reweighted"}, "positions goes with score: map"),
        (still(), {**SMALL, "augment": "all"}, "positions and augment: all"),
        (still(), {**SMALL, "tile": 144}, "at least two, and these have 144x144 pixels"),
        (mixed, SMALL, "these have 144x100 and 144x144 pixels"),
        (still(1), SMALL, "at least two parts"),
        (still(), {"method": "efficientad", "tile": 64, "positions": "each"}, "positions"),
    ):
        with pytest.raises(InputError, match=text):
            fit(list(pictures), **options)


def test_of_very_many_pictures_every_place_is_seen_about_as_often(monkeypatch):
    monkeypatch.setattr("flawscope.fitting.training_views.MAX_VIEW_PIXELS", 64 * 64 * 4 * 30)
    how = Preprocess((64, 64), tile=(64, 64), positions=(3, 3))
    windows = TrainingViews(Reader([still()[0]] * 30, how, set()), [1] * 30, [(144, 144)] * 30, 0)
    assert len(windows) == 30 * 5
    seen = np.bincount([at for one in windows.frames for at in one.positions], minlength=10)
    assert seen[0] == 30
    assert seen[1:].min() >= 12
    assert seen[1:].max() <= 14
    first = windows.by_place(range(len(windows)))
    assert len(first) == len(windows)
