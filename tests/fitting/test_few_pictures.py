"""PatchCore from few good pictures: one part alone, and turned and mirrored copies."""

import numpy as np
import pytest
import torch

from flawscope import load
from flawscope.errors import InputError
from flawscope.fitting.fitting import fit, partial_fit
from flawscope.methods.patchcore import patches
from flawscope.methods.patchcore.leave_one_out import distances_elsewhere
from flawscope.methods.patchcore.patches import orient
from flawscope.synthesis.demo.dataset import draw_picture
from small_network import SMALL_NETWORK


def parts(count, seed=0, size=64):
    rng = np.random.default_rng(seed)
    return [draw_picture("plate", rng, size=size)[0] for _ in range(count)]


def patterned(count):
    """Parts that differ in the way they lie alone: a bright corner, a dark one and stripes."""
    rng = np.random.default_rng(5)
    base = np.full((64, 64, 3), 120, np.uint8)
    base[:32, :32], base[40:, 8:24], base[::4, 40:] = 230, 20, 60
    ways = rng.permutation(8)[:count]
    return [orient(torch.from_numpy(base).permute(2, 0, 1), int(w)).permute(1, 2, 0).numpy() for w in ways]


def fitted(images, **options):
    quick = {"size": "64", "device": "cpu", "samples": 1, "check": False, **SMALL_NETWORK}
    return fit(images, **quick | options)


def bank(predictor):
    tensors = predictor.artefact.tensors
    return tensors["views.0.bank"] + tensors["views.0.centre"]


@pytest.mark.parametrize("count", [5, 14])
def test_a_region_in_the_padding_of_a_picture_is_refused(count):
    images = [*parts(count), parts(1, seed=1)[0][:12]]
    region = np.zeros((64, 64), np.uint8)
    region[:8] = 255
    with pytest.raises(InputError, match="lies in the padding"):
        fitted(images, keep_aspect=True, roi=region)


def test_a_copy_keeps_the_size_and_the_region():
    square, wide = torch.ones(4, 4, dtype=torch.bool), torch.ones(4, 6, dtype=torch.bool)
    left = square & (torch.arange(4) < 2)
    part = left & (torch.arange(4)[:, None] > 0)
    for shape, ways in ((square, range(1, 8)), (wide, (1, 2, 3)), (left, (1,)), (part, ())):
        assert patches.possible_orientations("all", shape) == tuple(ways)
    region = np.zeros((64, 64), np.uint8)
    region[1:, :32] = 255
    with pytest.raises(InputError, match="augment: mirror is not possible"):
        fitted(parts(2), augment="mirror", roi=region)
    assert fitted(parts(2), augment="none", roi=region).manifest.facts["augment"] == "none"


@pytest.mark.parametrize(("augment", "times"), [("none", 1), ("mirror", 3), ("turn", 4), ("all", 8)])
def test_asked_for_copies_are_in_the_bank_and_leave_with_their_picture(augment, times):
    images = parts(3)
    made = fitted(images, augment=augment, ratio=1.0)
    assert made.manifest.facts["patches"] == len(bank(made)) == 3 * times * 64
    assert made.calibration.count == len(made.manifest.pictures) == 3
    # with whole banks leaving out is exact: the others and their copies make a model that scores the same
    pixels = [torch.from_numpy(i).permute(2, 0, 1) for i in images[1:]]
    ways = (0, *patches.ORIENTATIONS[augment])
    rest = [orient(p, w).permute(1, 2, 0).contiguous().numpy() for p in pixels for w in ways]
    other = fitted(rest, augment="none", ratio=1.0)
    assert other.predict(images[0]).score == pytest.approx(made.calibration.scores[0], rel=1e-3)


def test_auto_takes_copies_where_parts_lie_any_way_round_and_are_few():
    told = []
    made = fitted(patterned(4), say=told.append)
    assert made.manifest.facts["augment"] == "all"
    assert any("copies are in the bank" in line for line in told)
    images = parts(2)
    same = fitted([images[0], np.clip(images[0].astype(int) + 1, 0, 255).astype(np.uint8)], group=r"\d+")
    assert (same.manifest.facts["augment"], same.manifest.facts["patches"]) == ("none", 2 * 64)
    images = patterned(4) * 3
    images = [np.roll(image, k, axis=0) for k, image in enumerate(images)]
    auto, none = fitted(images), fitted(images, augment="none")
    assert len(images) > patches.FEW_PICTURES
    assert auto.manifest.facts["augment"] == "none"
    assert np.array_equal(bank(auto), bank(none))
    assert auto.calibration == none.calibration


@pytest.fixture(scope="module")
def one():
    return fitted(parts(1), size="48+64")


def test_one_picture_makes_a_model_without_a_promise(one, tmp_path):
    calibration = one.calibration
    assert (calibration.promised, calibration.count) == (False, 1)
    threshold = f"score threshold {calibration.score_threshold:.4g}"
    assert calibration.promise().startswith(f"{threshold}; no promise: one")
    one.save(tmp_path / "m.safetensors")
    loaded = load(tmp_path / "m.safetensors", device="cpu")
    assert loaded.calibration == calibration
    assert loaded.self_test().passed
    good, (spoilt,) = parts(1)[0], parts(1)
    spoilt = spoilt.copy()
    spoilt[20:44, 20:44] = (255, 0, 255)
    known = loaded.predict(good).score
    assert known <= calibration.score_threshold + 1e-4 < loaded.predict(spoilt).score
    assert loaded.predict(spoilt).p_value == 0.5


@pytest.mark.parametrize("score", ["reweighted", "map"])
def test_scores_of_one_picture_have_no_spread_and_yet_a_threshold_that_defects_exceed(score):
    (good,) = parts(1, seed=1, size=96)
    model = fitted([good], size="48+96", score=score, samples=0)
    assert model.calibration.spread > 0.01 * model.calibration.score_threshold > 0
    bad = good.copy()
    bad[30:60, 30:60] = (255, 0, 255)
    assert model.predict(bad).is_anomalous
    assert model.predict(bad).severity < 1000, "on the scale of good pictures"
    assert not model.predict(good).is_anomalous


def test_pictures_of_one_part_promise_nothing_and_those_of_two_do(one):
    images = parts(3)
    alone = fitted(images, group="picture", augment="none")
    assert (alone.calibration.promised, alone.calibration.count) == (False, 3)
    assert "3 good pictures of one part" in alone.calibration.promise()
    assert fitted(images[:2]).calibration.promised
    more = partial_fit(one.artefact, parts(2, seed=8), device="cpu", check=False)
    assert (more.calibration.count, more.calibration.promised) == (3, False)


def test_the_threshold_of_one_part_is_not_below_what_its_pictures_have_without_each_other():
    rng, (part,) = np.random.default_rng(2), parts(1)
    noisy = [np.clip(part + rng.normal(0, 6, part.shape), 0, 255).astype(np.uint8) for _ in range(8)]
    alone, each = (fitted(noisy, group=group, augment="none").calibration for group in ("picture", None))
    assert (alone.promised, each.promised) == (False, True)
    assert alone.score_threshold >= each.score_threshold - 1e-4


def test_elsewhere_is_the_nearest_chosen_patch_not_around():
    rng = np.random.default_rng(1)
    own, chosen = torch.from_numpy(rng.normal(size=(64, 5))).float(), torch.arange(0, 64, 3)
    found = distances_elsewhere(own, chosen, (8, 8), torch.ones(64, dtype=torch.bool))
    for p in range(64):
        away = [q for q in chosen.tolist() if max(abs(p // 8 - q // 8), abs(p % 8 - q % 8)) > 1]
        nearest = min(float((own[p] - own[q]).norm()) for q in away)
        assert float(found[p]) == pytest.approx(nearest, rel=1e-5)
