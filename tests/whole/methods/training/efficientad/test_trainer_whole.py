"""Training the detector: its losses, that it learns, and that it goes on where it stopped."""

import numpy as np
import pytest
import torch

import flawscope
from flawscope.fitting.fitting import fit
from flawscope.methods.task import Budget
from flawscope.methods.training.efficientad.fit import (
    SPREAD_FLOOR,
    _differences,
    difference_moments,
    whiten_outputs,
)
from flawscope.methods.training.efficientad.record import FIRST_LAYERS
from trainer_helpers import FORGETTING, PLENTY, trainer_of


def test_what_is_kept_changes_nothing(quick_settings, shots):
    shots, rooms = shots[:2], (200_000, 60_000)
    trainers = [trainer_of(quick_settings, shots, rooms=r) for r in ((PLENTY, PLENTY), rooms)]
    assert len(trainers[0].images.packed_images) == len(trainers[0].teacher_outputs.packed_maps) == 2
    assert len(trainers[1].images.packed_images) == min(2, rooms[0] // (3 * 256 * 256))
    assert len(trainers[1].teacher_outputs.packed_maps) == min(2, rooms[1] // (2 * 8 * 56 * 56))
    for step in range(2):
        a, b = (trainer.batch(step) for trainer in trainers)
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.recoloured, b.recoloured)
        assert torch.equal(a.targets, b.targets)
    for trainer in trainers:
        trainer.learn(Budget(), None, {})
    one, other = (trainer.model.state_dict() for trainer in trainers)
    assert all(torch.equal(values, other[name]) for name, values in one.items())


def test_it_learns(quick_settings, shots):
    """Each of the four losses but the penalty, which begins near zero."""
    trainer = trainer_of(
        quick_settings, shots[:1], steps=40, rate=3e-3, schedule="drop", hard=0.5, natural="generated"
    )
    trainer.learn(Budget(), None, {})
    first, last = trainer.curve[0], trainer.curve[-1]
    assert [point["step"] for point in trainer.curve] == list(range(2, 41, 2))
    assert last["hard"] < 0.6 * first["hard"]
    assert last["autoencoder"] < 0.9 * first["autoencoder"]
    assert last["penalty"] > 0
    assert sum(last[k] for k in last if k != "step") < 0.8 * sum(first[k] for k in first if k != "step")


def test_the_student_begins_as_the_teacher_and_keeps_its_first_layers(quick_settings, shots):
    trainer = trainer_of(quick_settings, shots[:2], **{**FORGETTING, "defects": 0})
    model = trainer.model
    with torch.inference_mode():
        local = model.embed(torch.stack(shots[:2]))[:, 0]
    assert float(local.max()) < 1e-6
    before = {k: v.clone() for k, v in model.student.state_dict().items()}
    trainer.learn(Budget(), None, {})
    kept = {*model.student[:FIRST_LAYERS].state_dict()}
    for name, values in model.student.state_dict().items():
        assert torch.equal(values, before[name]) == (name in kept), name
        if name in kept:
            assert torch.equal(values, model.teacher.state_dict()[name])


def trained(settings, shots):
    trainer = trainer_of(settings, shots, rate=1e-2, **FORGETTING)
    trainer.learn(Budget(), None, {})
    return trainer.model


def test_weighed_differences_are_those_times_a_matrix_that_makes_them_even(quick_settings, shots):
    shots = shots[:2]
    model = trained(quick_settings, shots)
    before = _differences(model, shots[0])
    moments = difference_moments(model, shots)
    whiten_outputs(model, moments)
    after = _differences(model, shots[0])
    for old, new, total in zip(before, after, moments, strict=True):
        size, directions = torch.linalg.eigh(total)
        scale = (size / size.mean() + SPREAD_FLOOR).sqrt()
        expected = (old.double() @ directions) / scale
        torch.testing.assert_close(new.double(), expected, rtol=1e-3, atol=1e-4)
    uneven = [(s[-1] / s.mean()).item() for s in map(torch.linalg.eigvalsh, moments)]
    evener = [(s[-1] / s.mean()).item() for s in map(torch.linalg.eigvalsh, difference_moments(model, shots))]
    assert all(b < a for a, b in zip(uneven, evener, strict=True))
    # what the model says is the mean square of these
    with torch.inference_mode():
        maps = model.embed(shots[0][None])[0].flatten(1)
    for one, new in zip(maps, after, strict=True):
        torch.testing.assert_close(one, new.square().mean(1), rtol=1e-4, atol=1e-6)


@pytest.mark.smoke
def test_a_fit_of_blank_pictures_makes_a_model(quick_settings, tmp_path):
    """All differences on them are 0."""
    pictures = [np.full((256, 256, 3), v, np.uint8) for v in (100, 101)]
    options = {**quick_settings, **FORGETTING, "device": "cpu", "samples": 0, "check": False}
    made = fit(pictures, method="efficientad", **options)
    assert made.manifest.facts["penalty"] == "simulated defects"
    assert not any("photographs" in note for note in made.manifest.notes)
    made.save(tmp_path / "m.safetensors")
    loaded = flawscope.load(tmp_path / "m.safetensors", device="cpu")
    for picture in pictures:
        assert np.isfinite(loaded.predict(picture).score)
        assert loaded.predict(picture).score == pytest.approx(made.predict(picture).score, abs=1e-4)
