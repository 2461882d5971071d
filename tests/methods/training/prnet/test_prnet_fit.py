"""From pictures to a PRN model: who is held out, what the manifest says, stopping, resuming, prototypes."""

import functools
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

import flawscope
from flawscope.datasets import list_pictures
from flawscope.errors import InputError
from flawscope.methods.task import Budget
from flawscope.methods.training.state_file import read_checkpoint
from flawscope.pictures.decoding import decode, pixel_hash


@pytest.fixture(scope="module")
def model(prnet_path):
    return flawscope.load(prnet_path, device="cpu")


@pytest.fixture(scope="module")
def whole(fit_small, defects):
    """Of six pictures and two seen defects, three steps, nobody stopped it."""
    return fit_small(seen=defects[:2])


def roles(predictor):
    return Counter(p.role for p in predictor.manifest.pictures)


def test_the_manifest_tells_how_it_was_trained(model, drawn):
    facts = model.manifest.facts
    assert (facts["steps"], facts["seen_defects"], facts["training_precision"]) == (3, 2, "fp32")
    assert facts["textures"] == "generated textures"
    assert [point["step"] for point in facts["curve"]] == [1, 2, 3]
    assert set(facts["curve"][0]) == {"step", "loss"}
    assert [one["count"] for one in facts["prototypes"]] == [1, 1, 1]
    assert all(one["objective"] > 0 and one["iterations"] >= 1 for one in facts["prototypes"])
    assert [model.artefact.tensors[f"scales.{k}.prototypes"].shape for k in range(3)] == [
        (1, 24, 16, 16),
        (1, 40, 8, 8),
        (1, 112, 4, 4),
    ]
    (line,) = facts["summary"]
    assert line.startswith("trained 3 steps in ")
    assert line.endswith(" on 9 good pictures and 2 seen defects")
    assert not any("no seen defects" in note for note in model.manifest.notes)
    assert (model.manifest.config["steps"], model.manifest.config["width"]) == (3, 0.25)
    assert str(drawn) not in json.dumps(model.manifest.to_dict())


def test_calibrating_on_others_keeps_the_seen(model, drawn):
    """Good pictures that were learnt from do not count, and a seen defect is no good picture."""
    of_seen = {p.hash for p in model.manifest.pictures if p.role == "seen"}
    seen = [p for p in list_pictures(drawn / "plate/test") if pixel_hash(decode(p)) in of_seen]
    learnt = [p.name for p in model.manifest.pictures if p.role == "train"][:1]
    good = list_pictures(drawn / "plate/test/good")
    anew = model.calibrate(
        [*good, *seen, *(drawn / "plate/train/good" / name for name in learnt)], force=True
    )
    assert len(seen) == 2
    assert anew.calibration.count == len(good)
    assert roles(anew) == {"train": 9, "calibration": 4, "seen": 2}


def test_overflowing_networks_name_the_precision(fit_small, monkeypatch):
    from flawscope.methods.training.prnet.model import Model

    embed = Model.embed
    monkeypatch.setattr(Model, "embed", lambda self, images: embed(self, images) * torch.nan)
    with pytest.raises(InputError, match="overflow in fp32: choose another --set precision"):
        fit_small(steps=1)


@pytest.fixture(scope="module")
def stopped(fit_small, defects, tmp_path_factory):
    """The checkpoint of `whole`, stopped after step 1 of 3. Copy it."""
    path = tmp_path_factory.mktemp("stopped") / "c.safetensors"

    def step(stage, done, total):
        if stage.startswith("training") and done == 2:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flawscope.fitting.fitting.Budget", functools.partial(Budget, checkpoint_interval=0.0))
        with pytest.raises(KeyboardInterrupt):
            fit_small(seen=defects[:2], checkpoint=path, step=step)
    assert read_checkpoint(path)[1]["done"] == 1
    return path


def test_a_resumed_fit_may_have_other_settings_that_training_does_not_depend_on(
    whole, fit_small, defects, stopped, tmp_path
):
    copy, said = shutil.copy(stopped, tmp_path), []
    resumed = fit_small(
        seen=defects[:2], checkpoint=copy, resume=True, say=said.append, memory=1e-4, steps=None
    )
    assert "goes on after step 1 of 3" in said
    for name, values in whole.artefact.tensors.items():
        np.testing.assert_allclose(resumed.artefact.tensors[name], values, rtol=1e-3, atol=1e-4, err_msg=name)


def moved(pairs):
    return [(picture, np.roll(mask, 3, axis=0)) for picture, mask in pairs]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"extended": 0.25}, "another extended 0.5, this one has 0.25"),
        ({"seen": 1}, "another seen defects: give the same, or remove the checkpoint"),
        ({"seen": "moved"}, "another seen defects: give the same, or remove the checkpoint"),
        ({"roi": np.tri(64, dtype=bool)}, "another region of interest: give the same, or remove"),
    ],
)
def test_only_the_same_run_goes_on(fit_small, defects, stopped, tmp_path, change, text):
    copy = shutil.copy(stopped, tmp_path)
    seen = {1: defects[:1], "moved": moved(defects[:2])}.get(change.get("seen"), defects[:2])
    with pytest.raises(InputError, match=text):
        fit_small(**{"checkpoint": copy, "resume": True, **change, "seen": seen})
    assert Path(copy).read_bytes() == stopped.read_bytes()
