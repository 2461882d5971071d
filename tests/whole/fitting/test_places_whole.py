"""Models with a memory bank for each place: what is learnt where, what is left out, when they are better."""

import functools

import numpy as np
import pytest

from flawscope.errors import InputError
from flawscope.fitting.fitting import fit, partial_fit
from flawscope.fitting.training_views import TrainingViews
from flawscope.methods.patchcore import places
from flawscope.predictor import load
from small_network import SMALL_NETWORK

# pictures of one ground, of which each counts as a part
SMALL = {"group": r"\d+", "samples": 1, "check": False, "device": "cpu", **SMALL_NETWORK}
SMALL |= {"count": 100, "tile": 64, "positions": "each"}
REAL = {name: value for name, value in SMALL.items() if name not in SMALL_NETWORK}
RNG = np.random.default_rng(5)
GROUND = RNG.integers(60, 200, (144, 144, 3))


@functools.cache
def still(count=6, seed=0):
    """Pictures of one ground that lies still, with noise."""
    rng = np.random.default_rng([seed, 1])
    return tuple(
        (GROUND + rng.normal(0, 3, GROUND.shape)).clip(0, 255).astype(np.uint8) for _ in range(count)
    )


@functools.cache
def moving(count=6):
    """The same ground, anywhere."""
    rng = np.random.default_rng(2)
    return tuple(
        np.roll(picture, rng.integers(0, 144, 2), axis=(0, 1)) for picture in still(count, seed=count)
    )


@pytest.fixture(scope="module")
def each():
    return fit(list(still()), **SMALL)


def striped(count, seed):
    """Stripes that stand on the left and lie on the right."""
    rng = np.random.default_rng([seed, 3])
    waves = 128 + 60 * np.sin(np.arange(144) * 2 * np.pi / 8)
    ground = np.where(np.arange(144) < 72, waves[None, :], waves[:, None])[..., None]
    noise = rng.normal(0, 3, (count, 144, 144, 3))
    return [(ground + one).clip(0, 255).astype(np.uint8) for one in noise]


def test_what_lies_in_another_place_is_odd():
    """The first tile, of standing stripes, at the place of the last, of lying ones."""
    model, new = fit(striped(6, 0), **SMALL), striped(1, 9)[0]
    images = model.manifest.preprocess.views(new).images([1, 9])
    own, _ = model.session.run(images, np.array([1, 9]))
    swapped, _ = model.session.run(images, np.array([9, 1]))
    assert (swapped > 5 * own).all()
    odd = new.copy()
    odd[:64, :64], odd[80:, 80:] = new[80:, 80:], new[:64, :64]
    assert model.predict(odd).is_anomalous
    assert not model.predict(new).severity > 1


def test_left_out_pictures_score_as_unseen_ones():
    model = fit(list(still(12)), **SMALL)
    new = [model.predict(picture).score for picture in still(12, seed=3)]
    learnt = [model.predict(picture).score for picture in still(12)]
    found = np.median(model.calibration.scores)
    assert abs(found - np.median(new)) < 0.5 * (np.median(new) - np.median(learnt))
    assert 0.2 < np.mean(model.calibration.p_values(np.array(new))) < 0.8


def test_a_calibration_score_is_that_of_a_fit_without_the_picture():
    """With all patches in the banks nothing is selected, so that leaving out is exact."""
    whole = {**SMALL, "count": 10_000}
    pictures = list(still())
    model = fit(pictures, **whole)
    for left in (0, 3):
        refit = fit(pictures[:left] + pictures[left + 1 :], **whole)
        artefact = refit.artefact
        refit.artefact = type(artefact)(
            type(artefact.manifest)(**{**vars(artefact.manifest), "fusion": model.manifest.fusion}),
            artefact.tensors,
        )
        expected = refit.predict(pictures[left]).score
        assert model.calibration.scores[left] == pytest.approx(expected, rel=1e-3)


def test_blocks_of_places_change_nothing(each, monkeypatch):
    other = places.fill_position_banks
    monkeypatch.setattr(places, "fill_position_banks", lambda job, blocks: other(job, 4))
    again = fit([*still(), still()[0]], **SMALL)
    for name in ("views.0.bank", "views.0.centre", "bank_groups.0"):
        np.testing.assert_array_equal(again.artefact.tensors[name], each.artefact.tensors[name])
    assert again.calibration.scores == pytest.approx(each.calibration.scores, rel=1e-5)
    assert not again.failures
    assert sorted(p.role for p in again.manifest.pictures) == ["duplicate", *["train"] * 6]


def test_places_that_nothing_counts_in_are_not_learnt(tmp_path):
    roi = np.zeros((144, 144), np.uint8)
    roi[:60, :60] = 255
    model = fit(list(still()), roi=roi, **SMALL)
    bank = model.artefact.tensors["views.0.bank"]
    learnt = np.abs(bank).sum((1, 2)) > 0
    region = model.artefact.tensors["region"]
    counted = model.manifest.preprocess.views(still()[0]).with_roi(region).view_numbers()
    assert np.flatnonzero(learnt).tolist() == counted
    assert len(counted) < 10
    model.save(tmp_path / "m.safetensors")
    assert load(tmp_path / "m.safetensors").predict(still()[0]).score == model.predict(still()[0]).score


def test_an_extended_model_knows_the_new_pictures_at_their_places(each):
    changed = [picture.copy() for picture in still(3, seed=8)]
    for picture in changed:
        picture[20:40, 20:40] = (200, 30, 30)
    model = partial_fit(each.artefact, changed[:2], check=False)
    assert model.predict(changed[2]).score < 0.7 * each.predict(changed[2]).score
    elsewhere = still(1, seed=8)[0].copy()
    elsewhere[100:120, 100:120] = (200, 30, 30)
    assert model.predict(elsewhere).is_anomalous
    assert model.calibration.count == 8
    groups = model.artefact.tensors["bank_groups.0"]
    assert groups.shape == model.artefact.tensors["views.0.bank"].shape[:2]
    assert {6, 7} & {int(g) for g in np.unique(groups)}


def test_auto_takes_what_left_out_pictures_say():
    said = []
    settings = {**REAL, "positions": "auto", "say": said.append}
    assert fit(list(still()), **settings).manifest.config["positions"] == "each"
    assert fit(list(moving()), **settings).manifest.config["positions"] == "shared"
    lines = [line for line in said if line.startswith("positions: ")]
    assert [line.split(",")[0] for line in lines] == ["positions: each", "positions: shared"]
    mixed = [*still(3), *(picture[:100] for picture in still(6)[3:])]
    assert fit(mixed, **settings).manifest.preprocess.positions is None
    assert said[-2:] != lines


@pytest.mark.parametrize("kept", [places.MAX_KEPT_BYTES, 0])  # patches stay, or are found once more
def test_simulated_defects_are_found_at_their_places(kept, monkeypatch):
    monkeypatch.setattr(places, "MAX_KEPT_BYTES", kept)
    model = fit(list(still()), **{**SMALL, "check": True})
    found = model.manifest.facts["simulated_defects"]
    assert sum(size["defects"] for size in found["sizes"].values()) >= 3
    assert found["sizes"]["large"]["found"] >= 1


def test_pictures_that_show_some_places_only_are_calibrated_as_a_whole(monkeypatch):
    monkeypatch.setattr("flawscope.fitting.training_views.MAX_VIEW_PIXELS", 64 * 64 * 4 * 12)
    model = fit(list(still(12)), **SMALL)
    groups = model.artefact.tensors["bank_groups.0"]
    # of twelve pictures four tiles of nine each
    assert {len(set(row.tolist())) for row in groups[1:]} <= {5, 6}
    assert model.calibration.count == 12
    new = np.array([model.predict(picture).score for picture in still(12, seed=3)])
    assert 0.2 < np.mean(model.calibration.p_values(new)) < 0.8


@pytest.mark.parametrize("seen_in", [1, 0])
def test_a_place_that_one_part_shows_has_the_bank_of_all_other_tiles(seen_in, monkeypatch):
    """As a corner beside an aligned part may be: what lies there is judged by what other tiles show."""
    load = TrainingViews.load

    def seen(self, number):
        picture = self.picture_of(number)
        hidden = self.by_place([number]) == {(picture, 1): number} and picture >= seen_in
        return None if hidden else load(self, number)

    monkeypatch.setattr(TrainingViews, "load", seen)
    model = fit(list(still()), **SMALL)
    groups = model.artefact.tensors["bank_groups.0"]
    assert {len(np.unique(row)) for row in groups} == {6}
    good = [model.predict(picture).score for picture in still(4, seed=3)]
    assert max(good) < 1.3 * model.calibration.score_threshold
    spoilt = still(1, seed=4)[0].copy()
    spoilt[8:20, 8:20] = 255  # in that tile alone
    assert model.predict(spoilt).score > 1.5 * max(good)


def test_a_picture_is_as_suspicious_as_its_worst_tile():
    bad = still(12)[7].copy()
    bad[100:112, 100:112] = (255, 0, 255)
    pictures = [*still(12)[:7], bad, *still(12)[8:]]
    names = [f"{k:02}" for k in range(12)]
    model = fit(pictures, **REAL | {"positions": "auto", "drop_suspects": True, "names": names})
    assert model.manifest.preprocess.positions is None
    assert [p.name for p in model.manifest.pictures if p.role == "dropped"] == ["07"]
    assert {name for name, _ in model.suspects} == {"07"}
    with pytest.raises(InputError, match="does not go with --positions"):
        fit(list(still()), **SMALL, drop_suspects=True)
