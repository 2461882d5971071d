"""PRN's inference path: sizes, the score, the region of interest, batches, and what an artefact may hold."""

import numpy as np
import pytest
import torch

from flawscope.errors import InputError
from flawscope.methods.task import Budget
from flawscope.methods.training.prnet.model import create
from flawscope.methods.training.prnet.prototypes import residual
from flawscope.methods.training.prnet.record import Config
from flawscope.methods.training.state import initialise


def random(*shape, seed=1):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def model_of(roi=None, **settings):
    """Drawn weights, and the maps of two random pictures as prototypes."""
    model, _ = create(Config(**{"size": "64", "width": 0.25, **settings}), roi)
    initialise(model.network, torch.Generator().manual_seed(0))
    with torch.inference_mode():
        *maps, last = model.features(random(2, 3, *model.size, seed=9))
    for scale, own in zip(model.scales, maps, strict=True):
        scale.prototypes = own.clone()
        scale.std.fill_(float(own.std()))
    model.last.std.fill_(float(last.std()))
    return model


@pytest.fixture(scope="module")
def model():
    """64 x 64. Read only."""
    return model_of()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_residuals_are_computed_in_fp32_whatever_the_precision(precision, monkeypatch):
    """Distances of whole maps are larger than fp16 can tell: every prototype would be the first."""
    model = model_of(precision=precision)
    maps = []
    for scale in model.scales:
        scale.prototypes = random(8, *scale.prototypes.shape[1:], seed=2) * 40
        p = scale.prototypes - scale.prototypes.mean(0)
        maps.append(scale.prototypes.mean(0) + 3 * p[[5, 6]] + 2.5 * p[[2, 1]])
    last = model.features(random(2, 3, 64, 64))[-1]
    given = []

    def logits(maps, residuals):
        given.extend(residuals)
        return torch.zeros(2, 1, 64, 64)

    monkeypatch.setattr(model, "features", lambda images: [*maps, last])
    monkeypatch.setattr(model, "logits", logits)
    with torch.inference_mode():
        model.embed(random(2, 3, 64, 64))
        for scale, own, found in zip(model.scales, maps, given, strict=True):
            nearest = scale.prototypes[[5, 6]]
            assert torch.equal(found, ((own - nearest) / scale.std.view(-1, 1, 1)).square())


def test_the_logits_are_the_networks_of_standardised_maps_and_residuals(model):
    """Part by part, as the paper has them."""
    images = random(2, 3, 64, 64, seed=4)
    with torch.inference_mode():
        maps = model.backbone(images)
        features = [
            (m - part.mean[:, None, None]) / part.std[:, None, None]
            for m, part in zip(maps, [*model.scales, model.last], strict=True)
        ]
        others = [residual(m, s.prototypes, s.std) for m, s in zip(maps, model.scales, strict=False)]
        wanted = model.network(features, others)[:, 0]
        torch.testing.assert_close(model.embed(images), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("stages", [(0, 1, 2, 3), (1, 1, 2, 3)])
def test_stages_of_other_strides_are_refused(stages):
    with pytest.raises(InputError, match="do not have strides 4,8,16,32: choose others, --set stages"):
        create(Config(size="64", stages=stages))


def test_the_backbone_stays_what_it_was_while_the_network_learns(trainer_of):
    modes = set()

    def step(stage, done, total):
        modes.update(part.training for part in (trainer.model, *trainer.model.backbone.modules()))

    trainer = trainer_of(pictures=2, steps=2, decay=0.5, rate=0.1, step=step)
    states = {}
    for when in ("before", "after"):
        states[when] = {k: v.numpy().tobytes() for k, v in trainer.model.state_dict().items()}
        if when == "before":
            trainer.learn(Budget(), None, {})
    assert modes == {False}
    changed = {k for k, v in states["before"].items() if states["after"][k] != v}
    assert changed
    assert all(k.startswith("network.") for k in changed)
    assert {k for k in states["before"] if k.startswith("network.")} == changed
    assert all(p.grad is None and not p.requires_grad for p in trainer.model.backbone.parameters())


UNFIT, SENSELESS = "do not fit its configuration", "are not finite, or out of range"


def changed(name, change):
    return lambda tensors, config: tensors.update({name: change(tensors[name])})


def setting(name, value):
    return lambda tensors, config: config.update({name: value})


def filled(value):
    def fill(values):
        values = values.copy()
        values.flat[0] = value
        return values

    return fill


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (setting("size", "96"), "region of interest does not fit"),
        (changed("scales.0.std", filled(0.0)), SENSELESS),
        (changed("scales.1.std", filled(np.inf)), SENSELESS),
        (changed("scales.1.prototypes", filled(np.inf)), SENSELESS),
        (changed("network.decoder.head.0.weight", filled(np.nan)), SENSELESS),
        (changed("scales.0.prototypes", lambda v: v[:0]), "has no prototypes"),
        (changed("scales.0.prototypes", lambda v: np.float32(1)), UNFIT),
        (changed("scales.0.prototypes", lambda v: v[..., :-1]), UNFIT),
        # a few bytes that would ask for hundreds of gigabytes
        (changed("scales.0.prototypes", lambda v: np.zeros((10**7, 0, 1, 1), np.float32)), UNFIT),
        (lambda tensors, config: tensors.pop("scales.2.prototypes"), UNFIT),
        (setting("width", 0.5), UNFIT),
        (setting("attention", False), UNFIT),
        (setting("stages", [0, 1, 2, 3]), "do not have strides"),
        (setting("stages", [1, 2, 3, 9]), "cannot give stages 1,2,3,9"),
        (setting("backbone", "resnet18"), "too few for its backbone resnet18"),
        (setting("backbone", "resnet17"), "needs backbone resnet17"),
        (setting("batch", 1), "batch must be at least 2"),
    ],
)
def test_a_model_that_fits_nothing_is_one_line(prnet_path, spoil, text, refusal):
    assert text in refusal(prnet_path, spoil)


def test_residuals_lie_on_the_grid_of_stride_8_and_are_0_for_a_prototype(model):
    images = random(2, 3, 64, 64, seed=9)
    with torch.inference_mode():
        same, other = model.residuals(images), model.residuals(random(2, 3, 64, 64))
        middle = residual(model.features(images.flip(3))[1], model.scales[1].prototypes, model.scales[1].std)
        found = model.residuals(images.flip(3))
    channels = [shape[0] for shape in model.shapes[:3]]
    assert same.shape == (2, sum(channels), 8, 8)
    assert float(same.abs().max()) < 1e-4 < float(other.abs().max())
    torch.testing.assert_close(found[:, channels[0] : sum(channels[:2])].square(), middle)
