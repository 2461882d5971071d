"""The network: parts, gradients, attention; the loss against its definition in fp64, and the score."""

import math

import pytest
import torch

from flawscope.methods.training.prnet.network import (
    MultiSizeAttention,
    Network,
    focal_loss,
    grids_for,
    image_score,
    prn_loss,
)
from flawscope.methods.training.state import initialise

LITE0, RESNET18, SMALL = (24, 40, 112, 320), (64, 128, 256, 512), (8, 8, 16, 24)


def maps_for(channels, size, batch=2, seed=0):
    """What a backbone and its prototypes would give."""
    generator = torch.Generator().manual_seed(seed)
    features = [
        torch.randn(batch, c, *grid, generator=generator)
        for c, grid in zip(channels, grids_for(size), strict=True)
    ]
    residuals = [torch.randn(f.shape, generator=generator).square() for f in features[:3]]
    return features, residuals


def small(size=(64, 64), **options):
    network = Network(SMALL, size, **options)
    initialise(network, torch.Generator().manual_seed(0))
    return network


@pytest.mark.parametrize(
    "options",
    [{"attention": False}, {"residuals": False}, {"attention": False, "residuals": False}, {"width": 0.5}],
)
def test_parts_can_be_left_out(options):
    network, whole = small(**options), small()
    features, residuals = maps_for(SMALL, (64, 64))
    assert network(features, residuals).shape == (2, 1, 64, 64)
    if "width" not in options:  # here nothing is narrower than 8
        assert sum(p.numel() for p in network.parameters()) < sum(p.numel() for p in whole.parameters())
    if not options.get("residuals", True):
        assert torch.equal(network(features), network(features, residuals))


def test_every_parameter_has_a_gradient():
    """Also q and k, which soft-max over one token would make dead: row by row."""
    network = small()
    features, residuals = maps_for(SMALL, (64, 64))
    masks = torch.zeros(2, 1, 64, 64)
    masks[:, :, 10:30, 20:50] = 1
    prn_loss(network(features, residuals), masks).backward()
    for name, values in network.named_parameters():
        assert values.grad is not None, name
        strength = values.grad.flatten(1).norm(dim=1) if values.ndim > 1 else values.grad.norm()
        assert (strength > 0).all(), name
        assert values.grad.isfinite().all(), name


def test_attention_is_the_formula():
    """One patch size against plain loops."""
    layer = MultiSizeAttention(8, (4, 6))
    assert layer.parts == (2,)
    x = torch.randn(1, 8, 4, 6, generator=torch.Generator().manual_seed(0))
    q, k, v = layer.qkv(layer.norm(x)).chunk(3, 1)
    places = [(slice(a, a + 2), slice(b, b + 3)) for a in (0, 2) for b in (0, 3)]
    expected = torch.zeros(1, layer.inner, 4, 6)
    for mine in places:
        alike = torch.stack([(q[0, :, *mine] * k[0, :, *other]).sum() for other in places])
        weights = (alike / (layer.inner * 6) ** 0.5).softmax(0)
        expected[0, :, *mine] = sum(w * v[0, :, *other] for w, other in zip(weights, places, strict=True))
    torch.testing.assert_close(layer(x), x + layer.merge(expected))


def literal(logits, masks):
    """SmoothL1 and focal, pixel by pixel."""
    smooth = focus = 0.0
    for x, y in zip(logits.flatten().tolist(), masks.flatten().tolist(), strict=True):
        p = 1 / (1 + math.exp(-x))
        apart = abs(p - y)
        smooth += 0.5 * apart**2 if apart < 1 else apart - 0.5
        right = p if y else 1 - p
        focus += -0.5 * (1 - right) ** 4 * math.log(right)
    return smooth / logits.numel(), focus / logits.numel()


def test_the_loss_is_its_definition():
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(2, 1, 5, 7, generator=generator)
    masks = (torch.rand(2, 1, 5, 7, generator=generator) < 0.3).float()
    smooth, focus = literal(logits, masks)
    assert float(focal_loss(logits, masks)) == pytest.approx(focus, rel=1e-5)
    assert float(prn_loss(logits, masks)) == pytest.approx(smooth + 5 * focus, rel=1e-5)
    assert float(prn_loss(logits, masks.bool())) == float(prn_loss(logits, masks))


@pytest.mark.parametrize("logit", [50.0, 1000.0, 1e6])
def test_certain_and_wrong_stays_a_number_with_a_gradient(logit):
    for sign, mask in ((1, 0.0), (-1, 1.0)):
        logits = torch.full((1, 1, 2, 2), sign * logit, requires_grad=True)
        masks = torch.full((1, 1, 2, 2), mask)
        value = prn_loss(logits, masks)
        # the focal part is 0.5 * 1 * |logit| where p is nothing
        assert float(value.detach()) == pytest.approx(0.5 + 5 * 0.5 * logit, rel=1e-6)
        value.backward()
        assert torch.allclose(logits.grad, torch.full_like(logits, sign * 2.5 / 4))


def test_the_score_is_the_mean_of_the_hundred_largest_pixels():
    maps = torch.rand(3, 20, 30, generator=torch.Generator().manual_seed(1))
    expected = [sum(sorted(one.flatten().tolist())[-100:]) / 100 for one in maps]
    assert image_score(maps).tolist() == pytest.approx(expected)
    assert torch.equal(image_score(maps, top=1), maps.amax((1, 2)))
    assert torch.allclose(image_score(maps[:, :4, :5]), maps[:, :4, :5].mean((1, 2)))  # fewer than a hundred


def test_only_the_pixels_that_count():
    generator = torch.Generator().manual_seed(2)
    logits, masks = torch.randn(2, 1, 6, 8, generator=generator), torch.zeros(2, 1, 6, 8)
    masks[:, :, 2:4, 1:3] = 1
    counted = torch.zeros(2, 6, 8, dtype=torch.bool)
    counted[:, :, :4] = True
    other = logits.clone()
    other[..., 4:] = 50.0
    wanted = prn_loss(logits[..., :4], masks[..., :4])
    for given in (logits, other):
        torch.testing.assert_close(prn_loss(given, masks, counted), wanted)
