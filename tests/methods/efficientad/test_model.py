"""The inference path against its equations, and where a defect is drawn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from torch import nn

from flawscope.artefact.model_file import read
from flawscope.config import build, parse_assignments
from flawscope.errors import InputError
from flawscope.methods.efficientad import PRESETS, Config
from flawscope.methods.efficientad.model import CENTRE, Model, compact, create, interpolation
from flawscope.methods.efficientad.networks import (
    narrowed,
    normalised,
    pdn,
    pdn_grid,
    read_teacher,
    widened,
    write_teacher,
)
from flawscope.runtime.torch import TorchSession

RANK = 8


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def model_of(teacher: Path, roi: torch.Tensor | None = None, **settings: Any) -> Model:
    """Untrained networks, with statistics and quantiles that are not neutral."""
    torch.manual_seed(1)
    model, _ = create(Config(teacher=str(teacher), **settings), roi)
    model.mean.copy_(random(RANK, seed=2) - 0.5)
    model.std.copy_(random(RANK, seed=3) + 0.1)
    model.quantiles.copy_(torch.tensor([[0.1, 0.7], [0.2, 0.5]]))
    return model


@pytest.fixture(scope="module")
def plain(teacher_path: Path) -> Model:
    """256 x 256 pixels, no border. Read only."""
    return model_of(teacher_path, border=0)


# ----------------------------------------------------------------------------------------------- a teacher


@pytest.mark.parametrize("size", ["s", "m"])
def test_a_compact_teacher_tells_apart_what_the_whole_one_does(size: str) -> None:
    torch.manual_seed(4)
    narrow = narrowed(pdn(size), RANK)
    state = narrow.state_dict()
    weight, bias = list(state)[-2:]
    wide = {**state, weight: torch.einsum("oc,cikl->oikl", widened(RANK), state[weight])}
    wide[bias] = widened(RANK) @ state[bias]
    whole = pdn(size) if size == "s" else nn.Sequential(*pdn(size)[:-1], nn.Conv2d(384, 384, 1))
    whole.load_state_dict(dict(zip(whole.state_dict(), wide.values(), strict=True)))
    found, channels = compact(wide, {"rank": RANK})
    assert channels == RANK
    narrow.load_state_dict(found)
    images = torch.randn(2, 3, 41, 49, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        a, b = whole(images)
        c, d = narrow(images)
    assert a.shape[0] == 384
    torch.testing.assert_close((c - d).square().mean(0), (a - b).square().mean(0), rtol=1e-4, atol=1e-7)


def test_a_teacher_of_384_channels_stays_as_it_is() -> None:
    state = pdn("s").state_dict()
    for facts in ({}, {"rank": 384}):
        found, channels = compact(state, facts)
        assert channels == 384
        assert all(torch.equal(found[k], state[k]) for k in state)


def test_the_model_says_where_its_teacher_came_from(teacher_path: Path) -> None:
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


def test_a_published_teacher_says_384_things(tmp_path: Path) -> None:
    torch.save(nn.Sequential(*pdn("s")).state_dict(), tmp_path / "published.pth")
    model, origin = create(Config(teacher=str(tmp_path / "published.pth")))
    assert model.channels == 384
    assert model.student[-1].out_channels == 768
    assert origin["licence"] == "as the file's owner says"


# ----------------------------------------------------------------------------------------------- resizing


@pytest.mark.parametrize(("cells", "side"), [(5, 20), (64, 256), (7, 26)])
def test_interpolation_is_torchs_with_cells_in_its_places(cells: int, side: int) -> None:
    """torch's cell i is centred on pixel 4 i + 1.5, its edges repeat."""
    values = random(2, 1, cells, cells)
    expected = F.interpolate(values, scale_factor=4, mode="bilinear", align_corners=False)
    expected = F.pad(expected, (0, side - 4 * cells) * 2, mode="replicate")
    spread = interpolation(side, cells, 1.5).float()  # type: ignore[arg-type]
    torch.testing.assert_close(spread @ values @ spread.T, expected)


@pytest.mark.parametrize("first", [0, 4, 12, 16])
@pytest.mark.parametrize(("side", "cells"), [(256, 56), (259, 65), (40, 1)])
def test_a_cell_stands_on_its_pixel_and_the_edges_repeat(first: int, side: int, cells: int) -> None:
    spread = interpolation(side, cells, first).float()
    assert spread.dtype == torch.float32
    torch.testing.assert_close(spread.sum(1), torch.ones(side))  # a constant stays what it is
    values = random(cells)
    pixels = spread @ values
    places = [(i, first + 4 * i) for i in range(cells) if first + 4 * i < side]
    for i, place in places:
        assert float(pixels[place]) == float(values[i])
    for i, place in places[:-1]:
        if i + 1 < cells and place + 2 < side:
            assert float(pixels[place + 2]) == pytest.approx(float(values[i : i + 2].mean()))
    assert bool((pixels[:first] == values[0]).all())
    assert bool((pixels[first + 4 * (cells - 1) :] == values[-1]).all())


@pytest.mark.parametrize("border", [0, 4, 8, 12, 16])
def test_a_cell_stands_where_the_middle_of_what_it_sees_is(teacher_path: Path, border: int) -> None:
    """Output i sees the 33 pixels from 4 i of the picture with its border."""
    model = model_of(teacher_path, size="256x301", border=border, sigma=0.0)
    assert model.grid == pdn_grid((256 + 2 * border, 301 + 2 * border))
    features = random(1, 1, *model.grid)
    drawn = model.enlarged(features)[0, 0]
    assert drawn.shape == (256, 301)
    for i, j in ((0, 0), (20, 5), (model.grid[0] - 1, model.grid[1] - 1)):
        seen = [range(4 * k - border, 4 * k - border + 33) for k in (i, j)]
        y, x = (part[len(part) // 2] for part in seen)
        assert y == CENTRE - border + 4 * i
        assert float(drawn[y, x]) == pytest.approx(float(features[0, 0, i, j]), rel=1e-6)


def test_maps_are_smoothed_as_scipy_does(teacher_path: Path) -> None:
    plain, smooth = (model_of(teacher_path, size="256x301", sigma=sigma) for sigma in (0.0, 3.0))
    features = random(1, 1, *plain.grid)
    wanted = gaussian_filter(plain.enlarged(features)[0, 0].double().numpy(), 3.0, mode="mirror", truncate=4)
    np.testing.assert_allclose(smooth.enlarged(features)[0, 0].numpy(), wanted, rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------------------- the two steps


@pytest.mark.parametrize(
    ("size", "border"),
    [
        ("256", 0),
        ("256", 4),
        ("257x300", 0),
        ("257x300", 16),
    ],
)
def test_shapes(teacher_path: Path, size: str, border: int) -> None:
    model = model_of(teacher_path, size=size, border=border)
    height, width = model.size
    with torch.inference_mode():
        features = model.embed(random(1, 3, height, width))
        scores, maps = model.score(features)
    grid = pdn_grid((height + 2 * border, width + 2 * border))
    assert features.shape == (1, 2, *grid)
    assert features.dtype == maps.dtype == scores.dtype == torch.float32
    assert (scores.shape, maps.shape) == ((1,), (1, height, width))
    assert bool(maps.isfinite().all())


def test_the_maps_are_the_equations(plain: Model) -> None:
    """Word by word, in float64."""
    images = random(1, 3, 256, 256)
    with torch.inference_mode():
        features = plain.embed(images)
        teacher, student, autoencoder = (
            network.double()(normalised(images.double()))[0]
            for network in (plain.teacher, plain.student, plain.autoencoder)
        )
        for network in (plain.teacher, plain.student, plain.autoencoder):
            network.float()
    mean, std = (v.double()[:, None, None] for v in (plain.mean, plain.std))
    local = ((teacher - mean) / std - student[:RANK]).square().mean(0)
    distant = (autoencoder - student[RANK:]).square().mean(0)
    torch.testing.assert_close(features[0].double(), torch.stack([local, distant]), rtol=1e-4, atol=1e-5)


def test_the_quantiles_become_0_and_a_tenth_and_the_map_is_their_mean(plain: Model) -> None:
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


def test_the_score_is_the_maps_maximum(plain: Model) -> None:
    scores, maps = plain.score(random(3, 2, *plain.grid))
    assert torch.equal(scores, maps.amax((1, 2)))
    assert len(set(scores.tolist())) == 3


def left_half() -> torch.Tensor:
    roi = torch.zeros(256, 256, dtype=torch.bool)
    roi[:, :128] = True
    return roi


def test_nothing_outside_the_region_is_drawn_or_counts(teacher_path: Path) -> None:
    """What the networks find there; the autoencoder looks at the whole picture all the same."""
    model, whole = (model_of(teacher_path, roi=roi, border=0, sigma=0.0) for roi in (left_half(), None))
    features = random(2, 2, *model.grid, seed=7)
    changed = features.clone()
    changed[..., 30:] += 100  # on pixels 136 and further: 132 and less do not know of them
    (scores, maps), (scores2, maps2) = model.score(features), model.score(changed)
    assert torch.equal(scores, scores2)
    assert torch.equal(maps, maps2)
    lowest = whole.score(torch.zeros(1, 2, *model.grid))[1].unique()
    torch.testing.assert_close(maps[:, :, 128:].unique(), lowest)
    assert torch.equal(maps[:, :, :128], whole.score(features)[1][:, :, :128])
    assert bool((maps[:, :, :128] > lowest).all())
    changed = features.clone()
    changed[..., 10, 10] += 100
    assert bool((model.score(changed)[0] > scores + 1).all())


def test_padding_has_no_part_in_the_map(teacher_path: Path) -> None:
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


class Brightness:
    """Networks with which the local map rises where it is bright: the teacher averages, the others see
    nothing."""

    @staticmethod
    def of(model: Model) -> Model:
        with torch.no_grad():
            for network in (model.student, model.autoencoder):
                for values in network.parameters():
                    values.zero_()
            for values in model.teacher.parameters():
                values.fill_(1 / values[0].numel() if values.ndim == 4 else 0.0)
        model.mean.zero_()
        model.std.fill_(1.0)
        model.quantiles.copy_(torch.tensor([[0.0, 1.0], [0.0, 1.0]]))
        return model


@pytest.mark.parametrize(
    ("border", "places"),
    [
        (16, [(128, 128), (131, 66), (3, 3), (252, 4), (100, 251)]),
        (0, [(128, 128), (20, 235)]),
        (4, [(129, 127), (18, 239)]),
    ],
)
def test_a_bright_square_is_found_where_it_is(
    teacher_path: Path, border: int, places: list[tuple[int, int]]
) -> None:
    """Also at the edges, as far as the border allows."""
    model = Brightness.of(model_of(teacher_path, border=border, sigma=0.0))
    images = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1).repeat(len(places), 1, 256, 256)
    for image, (y, x) in zip(images, places, strict=True):
        image[:, max(0, y - 3) : y + 4, max(0, x - 3) : x + 4] = 1.0
    with torch.inference_mode():
        scores, maps = model(images)
    for score, drawn, (y, x) in zip(scores, maps, places, strict=True):
        assert float(score) > 0
        row, column = divmod(int(drawn.argmax()), 256)
        assert abs(row - y) <= 4
        assert abs(column - x) <= 4


# ------------------------------------------------------------------------------------------------ artefact


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("another width", "do not fit its configuration"),
        ("an empty mean", "does not say which teacher"),
        ("a wide mean", "does not say which teacher"),
        ("no network", "does not say which teacher"),
        ("another network", "do not fit its configuration"),
        ("an unknown network", "setting network"),
        ("a small size", "setting size, or crop, must be between 256"),
    ],
)
def test_a_model_that_fits_nothing_is_one_line(efficientad_path: Path, what: str, text: str) -> None:
    artefact = read(efficientad_path)
    tensors, config = dict(artefact.tensors), dict(artefact.manifest.config)
    if what == "another width":
        tensors["mean"] = tensors["mean"][:7]
    elif what == "an empty mean":
        tensors["mean"] = np.zeros(0, np.float32)
    elif what == "a wide mean":
        tensors["mean"] = np.zeros(10**6, np.float32)
    else:
        key = what.rsplit(" ", 1)[1]
        config[key] = {"no network": None, "another network": "m", "an unknown network": "l"}.get(what, "128")
    manifest = replace(artefact.manifest, config=config)
    with pytest.raises(InputError, match=text) as caught:
        TorchSession.open(replace(artefact, manifest=manifest, tensors=tensors), "cpu")
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------------ settings


@pytest.mark.parametrize(
    ("assignment", "text"),
    [
        ("size=255", "size, or crop, must be between 256 and 4096"),
        ("size=256x128", "size, or crop, must be between 256 and 4096"),
        ("size=5000", "size, or crop, must be between 256 and 4096"),
        ("crop=200", "size, or crop, must be between 256 and 4096"),
        ("crop=300", "crop must be no larger than size"),
        ("size=256+384", "is not N or HxW"),
        ("border=2", "border must be 0, 4, 8, 12 or 16"),
        ("border=20", "border must be"),
        ("window=32", "window must be at least 33"),
        ("hard=1", "hard must be"),
        ("natural=' '", "natural must be a folder, generated or none"),
        ("quantiles=0.9,0.9", "quantiles must be two rising shares"),
        ("quantiles=0.9,1.1", "quantiles must be two rising shares"),
        ("memory=0", "memory must be"),
        ("network=l", "network"),
        ("precision=int8", "precision"),
        ("backbone=resnet18", "unknown setting backbone"),
    ],
)
def test_wrong_settings_are_told(assignment: str, text: str) -> None:
    with pytest.raises(InputError, match=text) as caught:
        build(Config, parse_assignments([assignment]))
    assert "\n" not in str(caught.value)


def test_the_papers_settings_are_a_preset() -> None:
    paper = build(Config, PRESETS["paper"])
    assert (paper.steps, paper.batch, paper.rate, paper.decay) == (70_000, 1, 1e-4, 1e-5)
    assert (paper.schedule, paper.window, paper.border, paper.hard) == ("drop", None, 0, 0.999)
    assert (paper.quantiles, paper.held_out, paper.size) == ((0.9, 0.995), 0.1, "256")


@pytest.mark.parametrize("rank", [0, -1, "many", None])
def test_a_teacher_with_a_senseless_rank_is_told(teacher_path: Path, tmp_path: Path, rank: Any) -> None:
    state, facts = read_teacher(teacher_path)
    write_teacher(tmp_path / "t.safetensors", state, {**facts, "rank": rank})
    with pytest.raises(InputError):
        create(Config(teacher=str(tmp_path / "t.safetensors")))
