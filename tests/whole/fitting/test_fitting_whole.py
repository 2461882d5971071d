"""From pictures to a model: what is used, what is left out, and what the calibration means."""

import json

import numpy as np
import pytest
import torch

from flawscope.errors import InputError
from small_fits import (  # noqa: F401
    FINE,
    PER_PICTURE,
    TWO,
    WIDTH,
    bank_of,
    features_of,
    fit_small,
    fitted_one,
    fitted_sizes,
    good,
    parts,
    roles,
    sparse_banks,
    views_of,
)

REAL, REAL_FINE = {"backbone": "tf_efficientnet_lite0"}, 40


def test_two_sizes_have_the_same_bytes_with_any_number_of_threads():
    before, models_ = torch.get_num_threads(), []
    try:
        for threads in (2, 1, 3):
            torch.set_num_threads(threads)
            models_.append(fit_small(size=TWO, ratio=0.5, fine_ratio=0.2, group=r"[0-9]$"))
    finally:
        torch.set_num_threads(before)
    first = models_[0].artefact.tensors
    shapes = [first[f"views.{v}.bank"].shape for v in range(3)]
    assert shapes == [(216, WIDTH), (154, FINE), (38, WIDTH - FINE)]
    for other in models_[1:]:
        for name, tensor in first.items():
            assert tensor.tobytes() == other.artefact.tensors[name].tobytes(), name
        assert other.calibration == models_[0].calibration


def refitted(images, groups, **options):
    """Every third picture's score by a model that is fitted without its group."""
    scores = []
    for i in range(0, len(images), 3):
        model = fit_small([x for x, g in zip(images, groups, strict=True) if g != groups[i]], **options)
        scores.append(model.predict(images[i]).score)
    return np.array(scores)


def removed(predictor, images, groups):
    """Every third picture's score if its group's elements alone are taken out of the bank."""
    features, detector = features_of(predictor, images), predictor.session.model
    owners = {"bank_groups.0": torch.from_numpy(predictor.artefact.tensors["bank_groups.0"])}
    return np.array(
        [float(detector.left_out(features[i][None], groups[i], owners)[0]) for i in range(0, len(images), 3)]
    )


@pytest.mark.parametrize(
    ("options", "group"),
    [({}, None), ({"score": "reweighted"}, None), ({"memory": 9, **REAL}, r"([0-4])$")],
    ids=str,
)
def test_a_picture_is_left_out_as_if_it_had_never_been_there(options, group):
    options = {k: v * PER_PICTURE if k == "memory" else v for k, v in options.items()}
    images = [*good()[:10], *parts(3, seed=5)]
    predictor = fit_small(images, group=group, **options)
    assert predictor.calibration.method == f"leave-one-{'group' if group else 'picture'}-out"
    groups = [row.unit for row in predictor.manifest.pictures]
    wanted = [k % 5 if group and k % 10 < 5 else k for k in range(13)]
    assert len(set(groups)) == len(set(wanted))
    real, found = refitted(images, groups, **options), np.array(predictor.calibration.scores)[::3]
    assert found.mean() == pytest.approx(real.mean(), rel=0.08)
    np.testing.assert_allclose(found, real, rtol=0.3)
    assert removed(predictor, images, groups).mean() > 1.1 * real.mean()  # what it would be otherwise


def test_p_values_of_new_good_pictures_are_spread_evenly():
    """With elements removed alone, their mean is .7 and more."""
    found = []
    for draw in range(2):
        shown = parts(50, seed=40 + draw)
        model = fit_small(shown[:20])
        found.append(model.calibration.p_values(np.array([p.score for p in model.predict(shown[20:])])))
    assert 0.4 < np.mean(found) < 0.6
    assert np.mean(np.array(found) <= 0.2) > 0.08


@pytest.mark.parametrize("size", [64, "48+64"])
def test_dropping_a_planted_defect_is_as_if_it_had_never_been_there(size):
    fine, settings = parts(12, seed=3), {"size": size, "fine_ratio": 0.2}
    spoilt = 255 - fine[0]
    kept = fit_small([*fine, spoilt], **settings)
    assert [one.name for one in kept.suspects] == ["picture 12"]
    assert roles(kept) == ["train"] * 13
    few = fit_small([*fine, spoilt], **settings, calibration_pictures=6)
    assert few.calibration.count == 6
    assert few.suspects[0][0] == "picture 12"  # six say little of what is suspicious: there may be others
    dropped = fit_small([*fine, spoilt], **settings, drop_suspects=True)
    assert [one.name for one in dropped.suspects] == ["picture 12"]
    assert roles(dropped) == ["train"] * 12 + ["dropped"]
    assert any("left out before calibrating" in note for note in dropped.manifest.notes)
    clean = fit_small(fine, **settings)
    assert clean.suspects == ()
    for name in clean.artefact.tensors:
        if name.startswith(("views.", "bank_groups", "normal")):
            assert np.array_equal(dropped.artefact.tensors[name], clean.artefact.tensors[name]), name
    assert dropped.calibration == clean.calibration


def test_maps_of_good_pictures_have_one_scale_at_every_size():
    fitted_two = fit_small(size=TWO, fine_ratio=0.2, **REAL)
    model, other = fitted_two.session.model, parts(12, seed=21)
    for v, (view, part) in enumerate(
        zip(model.views, views_of(features_of(fitted_two, other), REAL_FINE), strict=True)
    ):
        values = view.anomaly_map(view.search(part - view.centre, view.inside)).double()
        mean, spread = fitted_two.artefact.tensors["normal"][v, :2]
        assert mean == pytest.approx(float(values.mean()), rel=0.1)
        above = values.flatten().quantile(0.99) - values.mean()
        assert spread == pytest.approx(float(above), rel=0.2)


def test_a_transformer_of_one_size_with_two_is_one_line(tmp_path):
    from safetensors.torch import save_file

    from flawscope.methods.features.backbone import import_timm

    name = "swin_tiny_patch4_window7_224"
    save_file(import_timm().create_model(name, pretrained=False).state_dict(), tmp_path / "vit.safetensors")
    options = {"backbone": name, "stages": (1,), "weights": str(tmp_path / "vit.safetensors")}
    with pytest.raises(InputError, match="takes one picture size only: give one --size") as caught:
        fit_small(size=TWO, **options)
    assert "\n" not in str(caught.value)
    one = fit_small(list(good()[:4]), size=64, ratio=0.5, **options)
    assert np.isfinite(one.calibration.scores).all()
    assert one.manifest.config["weights"] == "vit.safetensors"  # not where it lay
    assert str(tmp_path) not in json.dumps(one.manifest.to_dict())


def test_paper_preset_end_to_end():
    predictor = fit_small(preset="paper", **REAL, size=64, crop=56, dimensions=64, samples=2)
    assert bank_of(predictor).shape == (round(0.1 * 12 * 49), 64)
    assert predictor.manifest.preprocess.network_size == (56, 56)
    assert predictor.self_test().passed
    assert predictor.predict(good()[0]).map.shape == (56, 56)
    defective = [p.score for p in predictor.predict(parts(3, seed=3, defect="stain"))]
    assert min(defective) > max(p.score for p in predictor.predict(parts(3, seed=3)))
