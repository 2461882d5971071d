"""The network: sizes, gradients, batches, export, and that it learns."""

from __future__ import annotations

import pytest
import torch

from flawscope.methods.prnet.network import Attention, Network, grids_for, loss
from flawscope.methods.training_state import initialise

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


def small(size=(64, 64), **options) -> Network:
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
    loss(network(features, residuals), masks).backward()
    for name, values in network.named_parameters():
        assert values.grad is not None, name
        strength = values.grad.flatten(1).norm(dim=1) if values.ndim > 1 else values.grad.norm()
        assert (strength > 0).all(), name
        assert values.grad.isfinite().all(), name


def test_attention_is_the_formula():
    """One patch size against plain loops."""
    layer = Attention(8, (4, 6))
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
