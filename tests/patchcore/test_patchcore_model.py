"""The inference path against the paper's equations, written out here in float64."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from flawscope.errors import InputError
from flawscope.features.backbone import load_backbone
from flawscope.patchcore.config import Config
from flawscope.patchcore.model import (
    BLOCK,
    Model,
    eq7,
    nearest_table,
    patches_inside,
    smoothing_matrix,
)


class Pixels(nn.Module):
    """A backbone whose only map is the picture at an eighth of its size: receptive field 8."""

    def __init__(self, size=(32, 48)):
        super().__init__()
        self.size = size
        self.shapes = [(3, size[0] // 8, size[1] // 8)]

    def forward(self, images):
        return [F.avg_pool2d(images, 8)]


CONFIG = Config(size=(32, 48), neighbourhood=1)  # 4 x 6 patches of 3 numbers


def model_with(bank: torch.Tensor, roi: torch.Tensor | None = None, **options) -> Model:
    return Model(replace(CONFIG, **options), Pixels(), bank, roi)


def random(*shape: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def literal_score(patches: torch.Tensor, bank: torch.Tensor, b: int) -> float:
    """Eq. 6 and 7 for one picture [P, D], word by word."""
    patches, bank = patches.double(), bank.double()
    distances = torch.cdist(patches, bank)
    test_patch = distances.amin(1).argmax()
    nearest = distances[test_patch].argmin()
    around = torch.cdist(bank[nearest][None], bank)[0].argsort()[: min(b, len(bank))]
    if len(around) == 1:
        return float(distances[test_patch, nearest])
    weights = torch.softmax(distances[test_patch, around], 0)
    return float((1 - weights[around.tolist().index(int(nearest))]) * distances[test_patch, nearest])


@pytest.mark.parametrize("bank", [1, 2, 5, 9, 40])
@pytest.mark.parametrize("b", [1, 2, 9])
def test_equation_7(bank, b):
    features, elements = random(4, 24, 3, seed=1, scale=2), random(bank, 3, seed=bank)
    scores, _ = model_with(elements, neighbours=b).score(features)
    expected = [literal_score(picture, elements, b) for picture in features]
    assert scores.tolist() == pytest.approx(expected, rel=1e-5)


def test_equation_7_by_hand():
    # m* = (0, 0, 0); its neighbours at 0, 3 and 4 from it lie 1, 2 and 5 from the patch at (1, 0, 0)
    bank = torch.tensor([[0.0, 0, 0], [3, 0, 0], [-4, 0, 0], [90, 90, 90]])
    features = torch.tensor([1.0, 0, 0]).expand(1, 24, 3)
    e = torch.exp(torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64))
    scores, _ = model_with(bank, neighbours=3).score(features)
    assert float(scores) == pytest.approx(float(1 - e[0] / e.sum()), rel=1e-6)
    scores, _ = model_with(bank, score="maximum").score(features)
    assert float(scores) == pytest.approx(1.0, rel=1e-6)


def test_huge_distances_neither_overflow_nor_vanish():
    bank = random(12, 3, seed=2)
    features = random(2, 24, 3, seed=3)
    features[0, 5] = torch.tensor([1e4, -1e4, 3e3])
    scores, maps = model_with(bank).score(features)
    assert bool(scores.isfinite().all())
    assert bool(maps.isfinite().all())
    assert float(scores[0]) == pytest.approx(literal_score(features[0], bank, 9), rel=1e-4)
    assert eq7(torch.tensor([[1e4, 1e4, 1e4, 1e4]])).item() == pytest.approx(7.5e3)


@pytest.mark.parametrize("elements", [3, BLOCK, BLOCK + 1, 2 * BLOCK + 77])
def test_search_is_the_nearest_distance(elements):
    bank = random(elements, 3, seed=4) + 50  # far from zero: the centre must take that away
    model = model_with(bank)
    features = random(3, 24, 3, seed=5) + 50
    expected = torch.cdist(features.double(), bank.double()).amin(2)
    found = model.search(features - model.centre)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-3)


def test_an_element_of_the_bank_is_at_distance_zero():
    bank = random(50, 3, seed=6) + 20
    scores, maps = model_with(bank).score(bank[:24][None])
    assert float(scores) < 2e-3
    assert float(maps.max()) < 2e-3


@pytest.mark.parametrize("elements", [1, 2, 9, 31, 32, 33, 700])
@pytest.mark.parametrize("b", [1, 4, 9])
def test_nearest_table(elements, b):
    bank = torch.randint(-60, 61, (elements, 4), generator=torch.Generator().manual_seed(elements)).float()
    b = min(b, elements)
    table = nearest_table(bank, b)
    assert table.shape == (elements, b)
    assert table.dtype == torch.int32
    assert table[:, 0].tolist() == list(range(elements))  # itself first
    assert all(len(set(row)) == b for row in table.tolist())
    distance = torch.cdist(bank.double(), bank.double())
    found = distance.gather(1, table.long())
    torch.testing.assert_close(found, distance.sort(1).values[:, :b], rtol=0, atol=1e-9)  # ties may swap


def test_nearest_table_puts_itself_before_its_twins():
    bank = random(5, 4, seed=7).repeat(20, 1)
    table = nearest_table(bank, 9)
    assert table[:, 0].tolist() == list(range(100))
    assert bool((table % 5 == torch.arange(100)[:, None] % 5).all())


@pytest.mark.parametrize(("grid", "size", "sigma"), [((4, 6), (32, 48), 4.0), ((5, 3), (37, 20), 2.5)])
def test_map_is_bilinear_resize_then_gaussian(grid, size, sigma):
    distances = random(2, *grid, seed=8).abs()
    resized = F.interpolate(distances[:, None], size=size, mode="bilinear", align_corners=False)
    reach = int(4 * sigma + 0.5)
    offsets = torch.arange(-reach, reach + 1).float()
    line = torch.exp(-(offsets**2) / (2 * sigma**2))
    kernel = torch.outer(line, line) / line.sum() ** 2
    padded = F.pad(resized, (reach,) * 4, mode="reflect")
    expected = F.conv2d(padded, kernel[None, None])[:, 0]
    rows, columns = (smoothing_matrix(n, g, sigma) for n, g in zip(size, grid, strict=True))
    torch.testing.assert_close(rows @ distances @ columns.T, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sigma", [0.0, 4.0, 60.0])
def test_smoothing_keeps_a_constant(sigma):
    ones = smoothing_matrix(30, 4, sigma).sum(1)
    torch.testing.assert_close(ones, torch.ones(30))


def test_map_without_smoothing_is_the_resize_alone():
    model = model_with(random(5, 3), sigma=0.0)
    distances = random(1, 24, seed=9).abs()
    expected = F.interpolate(distances.view(1, 1, 4, 6), size=(32, 48), mode="bilinear", align_corners=False)
    torch.testing.assert_close(model.anomaly_map(distances), expected[:, 0])


def left_half() -> torch.Tensor:
    roi = torch.zeros(32, 48, dtype=torch.bool)
    roi[:, :24] = True
    return roi


def test_nothing_outside_the_region_counts():
    model = model_with(random(20, 3, seed=10) * 0.1 + 0.5, left_half())
    images = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(11))
    changed = images.clone()
    changed[:, :, :, 24:] = 1 - changed[:, :, :, 24:]
    changed[:, :, :8, 40:] = 1e3
    (scores, maps), (scores2, maps2) = model(images), model(changed)
    assert torch.equal(scores, scores2)
    assert torch.equal(maps, maps2)
    assert bool((maps[:, :, 24:] == 0).all())
    assert float(maps[:, :, :24].amin()) > 0
    inside = images.clone()
    inside[:, :, :8, :8] = 30.0
    assert bool((model(inside)[0] > 10 * scores).all())


def test_empty_region_scores_zero():
    scores, maps = model_with(random(9, 3), torch.zeros(32, 48, dtype=torch.bool))(torch.rand(1, 3, 32, 48))
    assert (float(scores), float(maps.abs().max())) == (0.0, 0.0)


def test_a_patch_is_inside_when_its_cell_touches_the_region():
    roi = torch.zeros(32, 48, dtype=torch.bool)
    roi[15, 16] = True  # row 1, column 2 of cells of 8 pixels
    assert patches_inside(roi, (4, 6)).nonzero().flatten().tolist() == [1 * 6 + 2]


@pytest.mark.parametrize("score", ["reweighted", "maximum"])
@pytest.mark.parametrize("with_roi", [False, True])
@pytest.mark.parametrize("rest", [1, 3, 30])
def test_score_without_is_the_score_of_a_model_that_never_had_them(score, with_roi, rest):
    bank, features = random(40, 3, seed=12), random(3, 24, 3, seed=13) * 2
    roi = left_half() if with_roi else None
    ignored = torch.ones(40, dtype=torch.bool)
    ignored[torch.randperm(40, generator=torch.Generator().manual_seed(rest))[:rest]] = False
    model = model_with(bank, roi, score=score)
    other = model_with(bank[~ignored], roi, score=score)
    scores, maps = other.score(features)
    for i, picture in enumerate(features):
        found, drawn = model.score_without(picture, ignored)
        assert float(found) == pytest.approx(float(scores[i]), rel=1e-4)
        torch.testing.assert_close(drawn, maps[i], rtol=1e-4, atol=1e-5)
        distances = torch.cdist(picture, bank[~ignored]).amin(1)
        again, _ = model.score_without(picture, ignored, distances)
        assert float(again) == pytest.approx(float(scores[i]), rel=1e-4)


def test_score_without_anything_left():
    model = model_with(random(4, 3))
    with pytest.raises(InputError, match="two groups"):
        model.score_without(random(24, 3), torch.ones(4, dtype=torch.bool))


def test_extended_bank_keeps_its_elements_and_finds_the_new_ones():
    bank, more = random(20, 3, seed=14), random(7, 3, seed=15) + 30
    model = model_with(bank)
    before = model.bank.clone()
    model.extend_bank(more)
    assert torch.equal(model.bank[:20], before)
    assert torch.equal(model.table, nearest_table(model.bank, 9))
    scores, _ = model.score(more[[0, 1, 2, 3, 4, 5] * 4][None])
    assert float(scores) < 1e-3


@pytest.fixture(scope="module")
def real_model() -> tuple[Model, torch.Tensor]:
    config = Config(size=(64, 96))
    backbone, _ = load_backbone(config.backbone, config.stages, config.size)
    model = Model(config, backbone)
    images = torch.rand(8, 3, 64, 96, generator=torch.Generator().manual_seed(16))
    with torch.inference_mode():
        model.set_bank(model.embed(images).flatten(0, 1)[::5] + random(1, model.embedding.width, seed=17))
    return model, images


def test_a_picture_scores_the_same_in_any_batch(real_model):
    model, images = real_model
    with torch.inference_mode():
        alone = [model(image[None]) for image in images]
        for size in (3, 8):
            scores, maps = model(images[:size])
            for i in range(size):
                assert float(scores[i]) == pytest.approx(float(alone[i][0]), rel=1e-5)
                torch.testing.assert_close(maps[i], alone[i][1][0], rtol=1e-5, atol=1e-5)


def test_rebuilt_from_its_tensors_it_is_the_same(real_model):
    model, images = real_model
    other = Model.rebuild(asdict(model.config), {k: v.clone() for k, v in model.state_dict().items()})
    with torch.inference_mode():
        for a, b in zip(model(images), other(images), strict=True):
            assert torch.equal(a, b)
    assert not other.training


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("roi", lambda t: t[:32]),
        ("bank", lambda t: t[:0]),
        ("bank", lambda t: t[:10]),
        ("table", lambda t: t + 10**6),
        ("table", lambda t: -1 - t),
    ],
)
def test_tensors_that_contradict_the_configuration_are_refused(real_model, name, spoil, monkeypatch):
    model, _ = real_model
    monkeypatch.setattr("flawscope.patchcore.model.empty_backbone", lambda *_: model.backbone)  # slow
    tensors = dict(model.state_dict())
    tensors[name] = spoil(tensors[name])
    with pytest.raises(InputError, match="does not fit"):
        Model.rebuild(asdict(model.config), tensors)
