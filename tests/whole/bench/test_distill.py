"""Distilling: it learns, it goes on where it stopped, and what it writes is what it learnt."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[3] / "bench" / "teacher"))
import distill as module
from distill import Recipe, distill

from flawscope.artefact.files import checkpoint_path
from flawscope.methods.features.weights import PACKAGED
from flawscope.methods.training.efficientad.networks import expansion_matrix, normalise, pdn, read_teacher

with_lite0 = pytest.mark.skipif(
    PACKAGED["tf_efficientnet_lite0"].find() is None,
    reason="no weights of EfficientNet-Lite0: pip install ./weights",
)


class Colours(nn.Module):
    """A backbone that costs nothing: mixtures of the mean colours of 8 x 8 and 16 x 16 pixels."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        for stride, channels in ((8, 8), (16, 16)):
            self.register_buffer(f"mix{stride}", torch.randn(channels, 3, 1, 1, generator=generator))

    def shapes_at(self, size):
        return [(8, size[0] // 8, size[1] // 8), (16, size[0] // 16, size[1] // 16)]

    def forward(self, images):
        return [F.conv2d(F.avg_pool2d(images, n), getattr(self, f"mix{n}")) for n in (8, 16)]


@pytest.fixture
def quick(monkeypatch):
    origin = {"name": "colours", "origin": "here", "licence": "none"}
    monkeypatch.setattr("distill.load_backbone", lambda *_: (Colours(), origin))


TINY = Recipe(steps=6, batch=2, crop=41, checks=2, reuse=4, precision="fp32", width=16)


def pictures(folder):
    return sorted(folder.iterdir())


@with_lite0
def test_distilling_lowers_the_held_out_loss(photographs, tmp_path):
    alike = Recipe(zoom=1.0, flip=False, grey=0.0, held_out=0.2, reuse=8, precision="fp32")
    recipe = replace(alike, steps=60, batch=4, crop=49, checks=3, width=64)
    facts, failures = distill(pictures(photographs), recipe, tmp_path / "t.safetensors")
    losses = [point["held_out"] for point in facts["curve"]]
    assert failures == []
    assert [point["step"] for point in facts["curve"]] == [20, 40, 60]
    assert losses[2] < min(losses[0], 0.95)
    assert facts["loss"] == pytest.approx(losses[2], rel=2e-3)  # in fp16, with 384 outputs
    state, stored = read_teacher(tmp_path / "t.safetensors")
    told = {"curve": facts["curve"], "loss": facts["loss"], "steps": 60, "rank": 152}
    assert told.items() <= stored.items()
    assert (stored["pictures"]["training"], stored["pictures"]["held_out"]) == (19, 5)
    assert stored["backbone"]["licence"] == "Apache-2.0"
    assert "579344248a93" in stored["backbone"]["origin"]
    assert stored["recipe"]["steps"] == 60
    assert str(photographs) not in str(stored)
    assert not checkpoint_path(tmp_path / "t.safetensors").exists()
    # 384 outputs that span 152 dimensions, and those that were promised
    teacher = pdn("s", width=64)
    teacher.load_state_dict(state)
    with torch.no_grad():
        said = teacher(normalise(torch.rand(1, 3, 120, 120)))[0].flatten(1)  # [384, N]
    span = expansion_matrix(152)
    outside = said - span @ (span.T @ said) * (152 / 384)
    assert float(outside.norm() / said.norm()) < 2e-3


@pytest.mark.usefixtures("quick")
def test_a_held_out_picture_is_never_trained_on(photographs, tmp_path, monkeypatch):
    seen = []
    pool = module.Renderer.pool

    def watched(self, views, step=lambda *_: None, stage="targets"):
        seen.append((stage, {view.picture for view in views}))
        return pool(self, views, step, stage)

    measure = module.Renderer.measure

    def measured(self, chosen, step):
        seen.append(("statistics", set(chosen)))
        measure(self, chosen, step)

    monkeypatch.setattr(module.Renderer, "pool", watched)
    monkeypatch.setattr(module.Renderer, "measure", measured)
    recipe = replace(TINY, steps=40, batch=1, crop=33, reuse=1, held_out=0.25)
    distill(pictures(photographs), recipe, tmp_path / "t.safetensors")
    held_out = set().union(*(numbers for stage, numbers in seen if stage == "held-out targets"))
    trained = set().union(*(numbers for stage, numbers in seen if stage != "held-out targets"))
    assert len(held_out) == 6
    assert len(trained) == 18
    assert not held_out & trained
