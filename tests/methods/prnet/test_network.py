"""The network: sizes, gradients, batches, export, and that it learns."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from flawscope.errors import InputError
from flawscope.methods.prnet.network import Attention, Network, Up, grids_for, image_score, loss, parts_for
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
    ("channels", "size"),
    [
        (LITE0, (64, 64)),
        (RESNET18, (64, 64)),
        (SMALL, (32, 32)),
        (SMALL, (64, 96)),
        (SMALL, (160, 32)),
        (SMALL, (224, 224)),
        (SMALL, (256, 320)),
    ],
)
def test_one_logit_per_pixel(channels, size):
    with torch.inference_mode():
        logits = Network(channels, size)(*maps_for(channels, size))
    assert logits.shape == (2, 1, *size)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()


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


def test_width_changes_the_channels_inside():
    narrow, plain = Network(RESNET18, (64, 64), width=0.5), Network(RESNET18, (64, 64))
    counts = [sum(p.numel() for p in n.parameters()) for n in (narrow, plain)]
    assert 0.2 < counts[0] / counts[1] < 0.4
    assert narrow(*maps_for(RESNET18, (64, 64))).shape == (2, 1, 64, 64)


@pytest.mark.parametrize("size", [(100, 64), (64, 65), (16, 64), (0, 32)])
def test_sides_that_are_no_multiples_of_32_are_refused(size):
    with pytest.raises(InputError, match=r"multiples of 32.*--size"):
        Network(SMALL, size)


def test_other_than_four_stages_are_refused():
    with pytest.raises(InputError, match="4 stages"):
        Network(SMALL[:3], (64, 64))


@pytest.mark.parametrize("size", [(h, w) for h in (32, 64, 224, 256, 384) for w in (32, 96, 160, 256, 512)])
def test_there_is_never_one_token(size):
    for grid in grids_for(size)[:3]:
        parts = parts_for(grid)
        assert parts  # something to attend with
        assert 1 not in parts
        assert all(side % n == 0 for side in grid for n in parts)
    assert parts_for((64, 64)) == parts_for((16, 16)) == (2, 4, 8)


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


@pytest.mark.parametrize("size", [(64, 64), (256, 256)])
def test_attention_starts_neither_flat_nor_on_one_patch(size):
    """What is divided by the root of the token's length has a spread that soft-max likes, at any size."""
    for channels, grid in zip((48, 80, 224), grids_for(size)[:3], strict=True):
        layer = Attention(channels, grid)
        initialise(layer, torch.Generator().manual_seed(1))
        generator = torch.Generator().manual_seed(2)
        # neighbours resemble each other, and channels have things in common, as in a picture
        x = nn.functional.interpolate(torch.randn(1, channels, 8, 8, generator=generator), size=grid)
        x = x + torch.randn(1, channels, 1, 1, generator=generator)
        with torch.inference_mode():
            for parts, part in zip(
                layer.parts, layer.qkv(layer.norm(x)).chunk(len(layer.parts), 1), strict=True
            ):
                q, k, _ = (layer.tokens(m, parts) for m in part.chunk(3, 1))
                logits = q @ k.transpose(1, 2) / q.shape[2] ** 0.5
                largest = logits.softmax(2).amax(2).mean()
                assert largest < 0.9, (grid, parts)
                assert logits.std(2).mean() > 1e-3, (grid, parts)


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


def test_patches_fold_back():
    layer = Attention(16, (8, 16))
    x = torch.randn(3, layer.inner, 8, 16)
    for parts in layer.parts:
        tokens = layer.tokens(x, parts)
        assert tokens.shape == (3, parts * parts, layer.inner * 8 * 16 // parts**2)
        assert torch.equal(layer.folded(tokens, parts), x)
        assert torch.equal(
            tokens[:, 1].reshape(3, layer.inner, 8 // parts, -1)[..., 0], x[:, :, : 8 // parts, 16 // parts]
        )


def test_a_picture_has_the_same_map_in_any_batch_and_mode():
    features, residuals = maps_for(SMALL, (64, 64), batch=5)
    network = small()
    with torch.no_grad():
        training = network(features, residuals)
        network.eval()
        whole = network(features, residuals)
        assert torch.equal(training, whole)
        for start, stop in ((0, 1), (3, 5)):
            part = network([f[start:stop] for f in features], [r[start:stop] for r in residuals])
            torch.testing.assert_close(part, whole[start:stop], atol=1e-5, rtol=1e-5)


def test_what_there_is_no_normalisation_before():
    """The strength of the residuals reaches the first attention: a defect stays stronger than noise."""
    network = small()
    assert network.residual_fusion is not None
    _, residuals = maps_for(SMALL, (64, 64))
    assert not any(isinstance(m, nn.GroupNorm) for m in network.residual_fusion.modules())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in network.modules())
    assert isinstance(network.decoder.finest, Up)
    weak, strong = (network.residual_fusion([r * s for r in residuals])[0].std() for s in (0.01, 1.0))
    assert strong > 3 * weak


@pytest.mark.slow
def test_it_learns_four_pictures():
    """Squares whose residuals are large, among pictures that are all different."""
    size = (64, 64)
    features, residuals = maps_for(SMALL, size, batch=4)
    masks = torch.zeros(4, 1, *size)
    for i, at in enumerate((8, 24, 40)):  # the last picture is good
        masks[i, :, at : at + 16, 16:40] = 1
    for scale in residuals:
        scale += 20 * nn.functional.interpolate(masks, size=scale.shape[-2:])
    network = small()
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3)
    values = []
    for _ in range(30):
        optimiser.zero_grad()
        value = loss(network(features, residuals), masks)
        value.backward()
        optimiser.step()
        values.append(float(value.detach()))
    assert values[-1] < 0.25 * values[0]
    with torch.no_grad():
        maps = network(features, residuals).sigmoid()[:, 0]
    scores = image_score(maps)
    assert scores[3] < scores[:3].min()
    assert maps[masks[:, 0] == 1].mean() > maps[masks[:, 0] == 0].mean() + 0.3
