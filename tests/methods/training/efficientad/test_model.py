"""The inference path against its equations, and where a defect is drawn."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

from flawscope.errors import InputError
from flawscope.methods.training.efficientad.model import compact_teacher, create
from flawscope.methods.training.efficientad.networks import (
    expansion_matrix,
    normalise,
    pdn,
    pdn_grid,
    replace_last_layer,
)
from flawscope.methods.training.efficientad.record import Config

RANK = 8


def random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def model_of(teacher, roi=None, **settings):
    """Untrained networks, with statistics and quantiles that are not neutral."""
    torch.manual_seed(1)
    model, _ = create(Config(teacher=str(teacher), **settings), roi)
    model.mean.copy_(random(RANK, seed=2) - 0.5)
    model.std.copy_(random(RANK, seed=3) + 0.1)
    model.quantiles.copy_(torch.tensor([[0.1, 0.7], [0.2, 0.5]]))
    return model


@pytest.fixture(scope="module")
def plain(teacher_path):
    """256 x 256 pixels, no border. Read only."""
    return model_of(teacher_path, border=0)


@pytest.mark.parametrize("size", ["s", "m"])
def test_a_compact_teacher_tells_apart_what_the_whole_one_does(size):
    torch.manual_seed(4)
    narrow = replace_last_layer(pdn(size), RANK)
    state = narrow.state_dict()
    weight, bias = list(state)[-2:]
    wide = {**state, weight: torch.einsum("oc,cikl->oikl", expansion_matrix(RANK), state[weight])}
    wide[bias] = expansion_matrix(RANK) @ state[bias]
    whole = pdn(size) if size == "s" else nn.Sequential(*pdn(size)[:-1], nn.Conv2d(384, 384, 1))
    whole.load_state_dict(dict(zip(whole.state_dict(), wide.values(), strict=True)))
    found, channels = compact_teacher(wide, {"rank": RANK})
    assert channels == RANK
    narrow.load_state_dict(found)
    images = torch.randn(2, 3, 41, 49, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        a, b = whole(images)
        c, d = narrow(images)
    assert a.shape[0] == 384
    torch.testing.assert_close((c - d).square().mean(0), (a - b).square().mean(0), rtol=1e-4, atol=1e-7)


def test_the_model_says_where_its_teacher_came_from(teacher_path):
    model, origin = create(Config(teacher=str(teacher_path)))
    assert model.config.network == "s"
    assert origin["name"] == "PDN-S teacher from none"
    assert origin["licence"] == "none"
    assert origin["origin"].startswith("file drawn.safetensors sha256 ")
    assert str(teacher_path.parent) not in str(origin)
    with pytest.raises(InputError, match="is a PDN-S, setting network is m: leave it out"):
        create(Config(teacher=str(teacher_path), network="m"))
    with pytest.raises(InputError, match="there is no teacher"):
        create(Config(teacher=str(teacher_path.with_name("none.safetensors"))))


@pytest.mark.parametrize("border", [0, 4, 8, 12, 16])
def test_a_cell_stands_where_the_middle_of_what_it_sees_is(teacher_path, border):
    """Output i sees the 33 pixels from 4 i of the picture with its border; the edges repeat."""
    model = model_of(teacher_path, size="256x301", border=border, sigma=0.0)
    assert model.grid == pdn_grid((256 + 2 * border, 301 + 2 * border))
    features = random(1, 1, *model.grid)
    wanted = features[0, 0].double().numpy()
    for axis, side in enumerate((256, 301)):
        middles = 4 * np.arange(wanted.shape[axis]) + 33 // 2 - border
        pixels = np.arange(side)
        wanted = np.apply_along_axis(
            lambda cells, at=middles, to=pixels: np.interp(to, at, cells), axis, wanted
        )
    np.testing.assert_allclose(model.enlarge(features)[0, 0].numpy(), wanted, rtol=1e-5, atol=1e-6)


def test_maps_are_smoothed_as_scipy_does(teacher_path):
    plain, smooth = (model_of(teacher_path, size="256x301", sigma=sigma) for sigma in (0.0, 3.0))
    features = random(1, 1, *plain.grid)
    wanted = gaussian_filter(plain.enlarge(features)[0, 0].double().numpy(), 3.0, mode="mirror", truncate=4)
    np.testing.assert_allclose(smooth.enlarge(features)[0, 0].numpy(), wanted, rtol=1e-4, atol=1e-5)


def test_the_maps_are_the_equations(plain):
    """Word by word, in float64."""
    images = random(1, 3, 256, 256)
    with torch.inference_mode():
        features = plain.embed(images)
        teacher, student, autoencoder = (
            network.double()(normalise(images.double()))[0]
            for network in (plain.teacher, plain.student, plain.autoencoder)
        )
        for network in (plain.teacher, plain.student, plain.autoencoder):
            network.float()
    mean, std = (v.double()[:, None, None] for v in (plain.mean, plain.std))
    local = ((teacher - mean) / std - student[:RANK]).square().mean(0)
    distant = (autoencoder - student[RANK:]).square().mean(0)
    torch.testing.assert_close(features[0].double(), torch.stack([local, distant]), rtol=1e-4, atol=1e-5)


def test_the_quantiles_become_0_and_a_tenth_and_the_map_is_their_mean(plain):
    (low, high), (low2, high2) = plain.quantiles.tolist()
    for local, distant, expected in (
        (low, low2, 0.0),
        (high, high2, 0.1),
        (high, low2, 0.05),
        (low, high2, 0.05),
        (2 * high - low, low2, 0.1),
        (0.0, 0.0, -0.05 * (low / (high - low) + low2 / (high2 - low2))),
    ):
        constant = torch.tensor([local, distant]).view(1, 2, 1, 1).expand(1, 2, *plain.grid)
        scores, maps = plain.score(constant)
        torch.testing.assert_close(maps, torch.full((1, 256, 256), expected), rtol=1e-4, atol=1e-6)
        assert float(scores) == pytest.approx(expected, rel=1e-4, abs=1e-6)


def left_half():
    roi = torch.zeros(256, 256, dtype=torch.bool)
    roi[:, :128] = True
    return roi


def test_padding_has_no_part_in_the_map(teacher_path):
    """Nor in the pixels beside it, which are smoothed: a constant stays what it is up to the edge."""
    model = model_of(teacher_path, border=0, keep_aspect=True)
    inside = left_half()[None]
    features = torch.full((1, 2, *model.grid), 0.6)
    features[..., 30:] = 100.0  # the cell of pixels 132 to 140, and further
    scores, maps = model.score(features, inside)
    wanted = model.score(torch.full_like(features, 0.6))[1]
    torch.testing.assert_close(maps[:, :, :128], wanted[:, :, :128])
    assert float(scores) == pytest.approx(float(wanted[0, 0, 0]), rel=1e-5)
    lowest = model.score(torch.zeros_like(features))[1].unique()
    torch.testing.assert_close(maps[:, :, 128:].unique(), lowest)
    everywhere = torch.ones_like(inside)  # a picture without padding is seen as ever
    some = random(1, 2, *model.grid)
    torch.testing.assert_close(model.score(some, everywhere), model.score(some), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda tensors, _: tensors.update(mean=tensors["mean"][:7]), "do not fit its configuration"),
        (lambda tensors, _: tensors.update(mean=np.zeros(0, np.float32)), "does not say which teacher"),
        (lambda tensors, _: tensors.update(mean=np.zeros(10**6, np.float32)), "does not say which teacher"),
        (lambda _, config: config.update(network=None), "does not say which teacher"),
        (lambda _, config: config.update(network="m"), "do not fit its configuration"),
        (lambda _, config: config.update(network="l"), "setting network"),
        (lambda _, config: config.update(size="128"), "setting size, or crop, must be between 256"),
    ],
)
def test_a_model_that_fits_nothing_is_one_line(efficientad_path, spoil, text, refusal):
    assert text in refusal(efficientad_path, spoil)
