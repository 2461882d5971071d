"""What the next model takes over from the one that it is made from: its networks, what people set, what
cannot be used; and refusals that are known before the work."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from brightness import model as brightness_model
from flawscope.artefact import model_file
from flawscope.artefact.carried import MEASURED_FACTS, carried_facts
from flawscope.artefact.expected import SCALE
from flawscope.artefact.tried import TRIED
from flawscope.calibration.size_bounds import SIZE_BOUNDS
from flawscope.errors import InputError
from flawscope.fitting import candidate
from flawscope.fitting.fitting import partial_fit
from flawscope.fitting.preparation import create_detector
from flawscope.fitting.stored_options import stored_settings
from flawscope.methods import registry
from flawscope.methods.training.efficientad import model as efficientad
from small_fits import fit_small, fitted_one, good, parts, sparse_banks  # noqa: F401

SAMPLES = Path(__file__).parents[1] / "fixtures/models"


# ------------------------------------------------------------------------------------------------- networks


@pytest.mark.parametrize("name", ["patchcore", "patchcore-two-sizes"])
def test_networks_are_those_of_the_model_whatever_its_weights_are_called(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    old = model_file.read(SAMPLES / f"{name}.safetensors")
    (tmp_path / "own.safetensors").write_bytes(b"another network of that name")
    config = replace(stored_settings(old), weights="own.safetensors")
    made, origin = create_detector(registry.method(old.manifest.method), config, None, old)
    for key, value in made.state_dict().items():
        if key.startswith("backbone."):
            torch.testing.assert_close(value, torch.from_numpy(old.tensors[key]), rtol=0, atol=0)
    assert origin == old.manifest.backbone
    assert made.config.weights == "own.safetensors"


def test_efficientad_takes_the_teacher_of_the_model():
    config = efficientad.METHOD.configure(values={"network": "xs", "teacher": "own.pth"})
    first = efficientad.Model(config, "xs", 40)
    made = efficientad.create_like(config, None, first.state_dict())
    for key, value in first.teacher.state_dict().items():
        torch.testing.assert_close(made.teacher.state_dict()[key], value, rtol=0, atol=0)
    assert made.channels == 40


@pytest.mark.parametrize(
    ("method", "changed", "said"),
    [
        ("efficientad", {"natural": "photographs"}, "--set natural=PATH"),
        ("efficientad", {"teacher": "own.pth", "weighed": True}, "--set teacher=PATH"),
        ("prnet", {"textures": "textures"}, "--set textures=PATH"),
    ],
)
def test_what_a_model_file_does_not_hold_is_refused_with_the_way_to_name_it(
    method, changed, said, tmp_path, monkeypatch
):
    (tmp_path / "photographs").mkdir()  # a folder of that name is not taken unseen
    (tmp_path / "textures").mkdir()
    monkeypatch.chdir(tmp_path)
    asked = registry.method(method)
    config = asked.configure(values=changed)
    old = SimpleNamespace(tensors={}, manifest=SimpleNamespace(is_exported=False, backbone={}))
    with pytest.raises(InputError, match=said):
        create_detector(asked, config, None, old)


def test_a_method_that_cannot_take_networks_from_a_model_seeks_no_file_by_its_name():
    method = replace(registry.method("patchcore"), create_like=None)
    old = SimpleNamespace(tensors={}, manifest=SimpleNamespace(is_exported=False, backbone={}))
    with pytest.raises(InputError, match=r"learnt with own\.pth \(weights\)"):
        create_detector(method, method.configure(values={"weights": "own.pth"}), None, old)


# ------------------------------------------------------------------------------------------ what people set


def test_an_update_keeps_what_people_set(fitted):
    bounds = {"length": 1.5, "width": 1.4, "area": 2.0, "count": 99}
    own = {TRIED: {"flags": "--align turn"}, SIZE_BOUNDS: bounds, SCALE: 0.1, "of a plug-in": 7}
    manifest = replace(
        fitted.manifest,
        facts={**fitted.manifest.facts, **own},
        calibration=fitted.calibration.with_outline(0.0).with_rate(0.2),
    )
    made = partial_fit(fitted.with_manifest(manifest), parts(2, seed=8), device="cpu", check=False)
    assert {name: made.manifest.facts.get(name) for name in own} == own
    assert made.calibration.chosen == {"rate": 0.2, "outline": 0.0}


def test_what_was_measured_of_a_model_is_not_told_of_the_next():
    facts = dict.fromkeys(MEASURED_FACTS, "of the first")
    assert carried_facts(replace(brightness_model().manifest, facts={**facts, "group": "x"})) == {
        "group": "x"
    }


# ------------------------------------------------------------------------------------------------- failures


@pytest.mark.parametrize(
    "change",
    [
        lambda one: one.with_rate(0.1),
        lambda one: one.with_scale(0.1),
        lambda one: one.with_calibration(one.calibration, "a note"),
        lambda one: one.asking("is it good?"),
        lambda one: one.accept(),
    ],
)
def test_pictures_that_could_not_be_used_stay_told(change):
    assert change(brightness_model().with_failures(["a.png is no picture"])).failures == [
        "a.png is no picture"
    ]


# ------------------------------------------------------------------------------------------ before the work


@pytest.mark.parametrize(
    ("how", "file", "precision", "is_refused"),
    [
        ("retrained", "next.onnx", "bf16", True),
        ("extended", "next.onnx", "bf16", True),
        ("recalibrated", "next.onnx", "bf16", False),
        ("retrained", "next.onnx", "fp32", False),
        ("retrained", "next.safetensors", "bf16", False),
    ],
)
def test_a_candidate_that_cannot_be_exported_is_refused_before_it_is_trained(
    how, file, precision, is_refused, monkeypatch, tmp_path
):
    model = brightness_model()
    exported = replace(model.calibration, precision=precision)
    monkeypatch.setattr(type(model.session), "suffix", ".onnx", raising=False)
    in_use = model.with_manifest(replace(model.manifest, calibration=exported))
    monkeypatch.setattr(candidate.router, "load", lambda *_, **__: in_use)

    class TrainedError(Exception):
        pass

    def train(*_, **__):
        raise TrainedError

    monkeypatch.setattr(candidate, "update_models", train)
    with pytest.raises(InputError if is_refused else TrainedError):
        candidate.make_candidate(
            "now.onnx",
            None,
            str(tmp_path / file),
            how=how,
            pictures=[],
            good=None,
            engine=None,
            device="cpu",
            threads=1,
        )


@pytest.mark.parametrize("names", [["a", "b"], [f"{k}.png" for k in range(13)]])
def test_names_are_as_many_as_pictures(names, fitted):
    for call in (
        lambda: fit_small(names=names),
        lambda: partial_fit(fitted.artefact, list(good()), names=names, device="cpu", check=False),
    ):
        with pytest.raises(InputError, match=f"{len(names)} names for 12 pictures: give one name for each"):
            call()
