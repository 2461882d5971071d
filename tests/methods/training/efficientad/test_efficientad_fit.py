"""From pictures to an EfficientAD model: what is held out, what the manifest says, what comes back."""

import functools
import json

import numpy as np
import pytest
import torch

import flawscope
from flawscope.calibration.holding_out import hold_out
from flawscope.calibration.rows import scored
from flawscope.errors import InputError
from flawscope.fitting.fitting import fit
from flawscope.methods.task import Budget
from flawscope.methods.training.efficientad.fit import MIN_QUANTILE_PICTURES, split_held_out
from flawscope.methods.training.efficientad.networks import read_teacher, write_teacher
from flawscope.methods.training.efficientad.record import Config
from flawscope.pictures.decoding import pixel_hash
from flawscope.synthesis.demo.dataset import draw_picture


@pytest.fixture(scope="module")
def few():
    """Four parts at the network's size: three are learnt, one is held out."""
    return [draw_picture("plate", np.random.default_rng([9, k]), size=256)[0] for k in range(4)]


@pytest.fixture(scope="module")
def model(efficientad_path):
    return flawscope.load(efficientad_path, device="cpu")


def fit_small(images, settings, **options):
    """A border of 0 is quicker."""
    options = {"method": "efficientad", "device": "cpu", "samples": 0, "check": False, "border": 0, **options}
    return fit(images, **{**settings, **options})


def held_pictures(total, size=1, reserved=(), seed=0):
    """Of so many pictures, `size` of each part, at a rate of 5 %."""
    groups, how = [i // size for i in range(total)], {"share": Config().held_out, "rate": 0.05, "seed": seed}
    how |= {"method": "efficientad", "reserved": reserved, "more": MIN_QUANTILE_PICTURES}
    return split_held_out(hold_out(range(total), groups, **how), len({*groups}), 0.05, reserved)


@pytest.mark.parametrize(
    ("total", "size", "kept_apart", "for_quantiles", "for_threshold"),
    [
        (2, 1, 0, 1, 1),
        (12, 1, 0, 3, 3),
        (40, 1, 0, 10, 10),
        (48, 1, 0, 10, 10),  # 10 at least, where a quarter of all are as many
        (119, 1, 0, 12, 12),  # a tenth
        (120, 1, 0, 5, 19),  # as many as a rate of 5 % needs, and others for the quantiles
        (213, 1, 0, 5, 19),
        (1000, 1, 0, 20, 80),
        (101, 1, 1, 1, 1),  # what the data set keeps apart, and nothing else
        (123, 1, 23, 23, 23),
        (124, 1, 24, 5, 19),  # enough are left for the threshold
        (130, 1, 30, 6, 24),
        (30, 3, 0, 6, 6),  # whole parts, which are what is counted
        (150, 3, 0, 30, 30),
        (600, 3, 0, 15, 57),
    ],
)
def test_how_many_are_held_out(total, size, kept_apart, for_quantiles, for_threshold):
    reserved = range(total - kept_apart, total)
    held = held_pictures(total, size, reserved)
    assert (len(held.quantiles), len(held.threshold)) == (for_quantiles, for_threshold)
    both = {*held.quantiles, *held.threshold}
    assert held.all == sorted(both)
    assert held.shared == (len(both) == for_quantiles)
    assert not kept_apart or both == set(reserved)
    of = [{i // size for i in part} for part in (held.quantiles, held.threshold, set(range(total)) - both)]
    assert not of[2] & (of[0] | of[1])
    assert held.shared or not of[0] & of[1]


@pytest.mark.parametrize(("total", "size"), [(150, 15), (200, 15), (2400, 15)])
def test_the_threshold_has_the_parts_that_its_rate_needs(total, size):
    for seed in range(5):
        held = held_pictures(total, size, seed=seed)
        parts = {i // size for i in held.threshold}
        assert held.shared or len(parts) >= 19


def test_the_manifest_tells_how_it_was_trained(model, teacher_path):
    manifest = model.manifest
    facts = manifest.facts
    assert (facts["steps"], facts["training_precision"]) == (3, "fp32")
    assert facts["penalty"] == "generated textures, no photographs"
    assert [point["step"] for point in facts["curve"]] == [1, 2, 3]
    assert set(facts["curve"][0]) == {"step", "hard", "penalty", "autoencoder", "student_autoencoder"}
    assert facts["seconds"]["training"] > 0
    assert facts["summary"][0].startswith("trained 3 steps in ")
    assert manifest.backbone["name"] == "PDN-S teacher from none"
    notes = " | ".join(manifest.notes)
    assert "quantiles and the threshold come from the same 3 held-out pictures" in notes
    assert "no photographs were given for the penalty" in notes
    assert manifest.config["teacher"] == "drawn.safetensors"
    assert (manifest.config["network"], manifest.config["steps"]) == ("s", 3)
    assert str(teacher_path.parent) not in json.dumps(manifest.to_dict())


def test_a_region_of_interest_limits_quantiles(quick_settings, few):
    half = fit_small(few[:2], quick_settings, steps=1, roi="0,0,0.5,1")
    held = [row.hash for row in scored(half.manifest.pictures)]
    picture = next(p for p in few[:2] if pixel_hash(p) in held)
    detector = half.session.model
    with torch.inference_mode():
        image = torch.from_numpy(half.manifest.preprocess(picture)[0])
        maps = detector.enlarge(detector.embed(image))[0, :, :, :128]
    exact = np.quantile(maps.double().numpy(), [0.9, 0.995], axis=(1, 2)).T
    np.testing.assert_allclose(half.artefact.tensors["quantiles"], exact, rtol=1e-5)


def test_photographs_are_named_by_their_folder_and_number(quick_settings, few, photographs):
    made = fit_small(few[:2], quick_settings, steps=1, natural=str(photographs))
    assert made.manifest.facts["penalty"].startswith(f"24 pictures of folder {photographs.name} (")
    assert made.manifest.config["natural"] == photographs.name
    assert str(photographs.parent) not in json.dumps(made.manifest.to_dict())
    assert not any("photographs were given" in note for note in made.manifest.notes)
    assert all(point["penalty"] > 0 for point in made.manifest.facts["curve"])


def test_another_teacher_does_not_go_on(quick_settings, few, tmp_path, monkeypatch):
    def stop(stage, done, total):
        if stage.startswith("training") and done == 2:
            raise KeyboardInterrupt

    path = tmp_path / "c.safetensors"
    monkeypatch.setattr(
        "flawscope.fitting.fitting.Budget", functools.partial(Budget, checkpoint_interval=0.0)
    )
    with pytest.raises(KeyboardInterrupt):
        fit_small(few[:2], quick_settings, checkpoint=path, step=stop)
    state, facts = read_teacher(quick_settings["teacher"])
    state["conv1.bias"] += 1e-2
    write_teacher(tmp_path / "other.safetensors", state, facts)
    other = {**quick_settings, "teacher": str(tmp_path / "other.safetensors")}
    with pytest.raises(InputError, match="another teacher"):
        fit_small(few[:2], other, checkpoint=path, resume=True)
