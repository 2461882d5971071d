"""The default recipe: a student that starts as the teacher and forgets, and differences in units of their
spread."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import flawscope
from flawscope.fitting.fitting import fit
from flawscope.methods.efficientad import FIRST_LAYERS, PRESETS, RECEPTIVE_FIELD, STRIDE, Config
from flawscope.methods.efficientad.fit import EVEN, _differences, spread, weigh
from flawscope.methods.efficientad.model import Model, create
from flawscope.methods.efficientad.trainer import Trainer
from flawscope.methods.efficientad.training_pictures import (
    MIDDLE,
    Spoiler,
    Spoilt,
    TeacherOutputs,
    outputs_on,
)
from flawscope.methods.good_pictures import GoodPictures
from flawscope.methods.task import Budget, Task
from flawscope.progress import silent
from flawscope.synthesis.demo.dataset import draw_picture

FORGETTING = {**PRESETS["quick"], "border": 0}


@pytest.fixture(scope="module")
def shots() -> list[torch.Tensor]:
    drawn = [draw_picture("plate", np.random.default_rng([17, k]), size=256)[0] for k in range(2)]
    return [torch.from_numpy(p).permute(2, 0, 1).float() / 255 for p in drawn]


def trainer_of(settings: dict[str, Any], shots: list[torch.Tensor], **changes: Any) -> Trainer:
    config = Config(**{**settings, **FORGETTING, **changes})
    model, _ = create(config)
    images = GoodPictures(shots.__getitem__, len(shots), 2**30)
    taught = TeacherOutputs(model, images, images.read(silent), 0)
    taught.measure(silent)
    return Trainer(model, images, taught, None, Task(images.load, len(shots), rate=0.05))


def test_the_student_begins_as_the_teacher_and_keeps_its_first_layers(
    quick_settings: dict[str, Any], shots: list[torch.Tensor]
) -> None:
    trainer = trainer_of(quick_settings, shots, defects=0)
    model = trainer.model
    with torch.inference_mode():
        local = model.embed(torch.stack(shots))[:, 0]
    assert float(local.max()) < 1e-6
    before = {k: v.clone() for k, v in model.student.state_dict().items()}
    trainer.learn(Budget(), None, {})
    kept = {*model.student[:FIRST_LAYERS].state_dict()}
    for name, values in model.student.state_dict().items():
        assert torch.equal(values, before[name]) == (name in kept), name
        if name in kept:
            assert torch.equal(values, model.teacher.state_dict()[name])


def test_defects_are_unlearnt_and_the_rest_is_learnt(
    quick_settings: dict[str, Any], shots: list[torch.Tensor]
) -> None:
    trainer = trainer_of(quick_settings, shots)
    learnt, taught = torch.full((1, 2, 3, 3), 3.0), torch.full((1, 2, 3, 3), 5.0)
    anywhere, within = torch.zeros(2, 1, 3, 3, dtype=torch.bool)
    anywhere[0, :, :2], within[0, :, 0] = True, True
    learnt[0, :, :, 0], taught[0, :, :, 1] = 7.0, 99.0  # a defect; one is near
    hard, penalty = trainer._of_student(learnt, taught, None, Spoilt(anywhere, within))
    assert (float(hard), float(penalty)) == (4.0, 49.0)
    everywhere = Spoilt(torch.ones_like(anywhere), within)
    assert float(trainer._of_student(learnt, taught, None, everywhere)[0]) == 0
    nothing_counts = trainer._of_student(learnt, taught, torch.zeros_like(within), Spoilt(anywhere, within))
    assert [float(v) for v in nothing_counts] == [0, 0]


@pytest.mark.parametrize("border", [0, 8])
def test_an_output_is_on_a_defect_that_it_sees(border: int) -> None:
    rng = np.random.default_rng(border)
    defects = torch.from_numpy(rng.random((61, 73)) < 0.0006)
    found = outputs_on(defects, border)
    seen = np.pad(defects.numpy(), border, mode="reflect")
    edge = (RECEPTIVE_FIELD - MIDDLE) // 2
    for (i, j), anywhere in np.ndenumerate(found.anywhere.numpy()):
        field = seen[STRIDE * i :, STRIDE * j :][:RECEPTIVE_FIELD, :RECEPTIVE_FIELD]
        assert field.shape == (RECEPTIVE_FIELD, RECEPTIVE_FIELD)
        assert anywhere == field.any()
        assert bool(found.within[i, j]) == field[edge:-edge, edge:-edge].any()
    assert found.anywhere.any()
    assert not found.anywhere.all()


def test_defects_lie_where_anything_counts_and_nothing_else_changes(shots: list[torch.Tensor]) -> None:
    """Also in a padded picture of 16 bits."""
    image = shots[0] * 0.9987
    image[:, :, :40] = -1 - image[:, :, :40]
    region = np.zeros((256, 256), np.bool_)
    region[:128] = True
    images = GoodPictures([image].__getitem__, 1, 2**30)
    spoiler = Spoiler(images, images.read(silent), region, 2)
    places = np.zeros((256, 256), int)
    for k in range(12):
        spoilt, mask = spoiler(0, np.random.default_rng(k))
        again = spoiler(0, np.random.default_rng(k))[0]
        plain = torch.where(image < 0, -1 - image, image)
        assert torch.equal(spoilt, again)
        assert torch.equal(spoilt[:, ~mask], plain[:, ~mask])
        assert bool((spoilt != plain).any(0)[mask].all())
        places += mask.numpy()
    assert places[:128, 40:].any()
    assert not places[128:].any()
    assert not places[:, :40].any()


def trained(settings: dict[str, Any], shots: list[torch.Tensor]) -> Model:
    trainer = trainer_of(settings, shots, rate=1e-2)
    trainer.learn(Budget(), None, {})
    return trainer.model


def test_weighed_differences_are_those_times_a_matrix_that_makes_them_even(
    quick_settings: dict[str, Any], shots: list[torch.Tensor]
) -> None:
    model = trained(quick_settings, shots)
    before = _differences(model, shots[0])
    moments = spread(model, shots)
    weigh(model, moments)
    after = _differences(model, shots[0])
    for old, new, total in zip(before, after, moments, strict=True):
        size, directions = torch.linalg.eigh(total)
        scale = (size / size.mean() + EVEN).sqrt()
        expected = (old.double() @ directions) / scale
        torch.testing.assert_close(new.double(), expected, rtol=1e-3, atol=1e-4)
    uneven = [(s[-1] / s.mean()).item() for s in map(torch.linalg.eigvalsh, moments)]
    evener = [(s[-1] / s.mean()).item() for s in map(torch.linalg.eigvalsh, spread(model, shots))]
    assert all(b < a for a, b in zip(uneven, evener, strict=True))
    # what the model says is the mean square of these
    with torch.inference_mode():
        maps = model.embed(shots[0][None])[0].flatten(1)
    for one, new in zip(maps, after, strict=True):
        torch.testing.assert_close(one, new.square().mean(1), rtol=1e-4, atol=1e-6)


def test_a_fit_of_blank_pictures_makes_a_model(quick_settings: dict[str, Any], tmp_path: Path) -> None:
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
