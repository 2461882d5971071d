"""Views and targets: where they lie over each other, what they are scaled to, and what they must not depend
on."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2] / "bench" / "teacher"))
from distill import Recipe
from targets import PictureSet, PictureView, Renderer, TargetFeatures, ViewPool

from flawscope.methods.efficientad.networks import count_outputs, expansion_matrix
from flawscope.methods.features.backbone import Backbone, load_backbone
from flawscope.methods.features.weights import PACKAGED
from flawscope.methods.good_pictures import Moments

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    if PACKAGED["tf_efficientnet_lite0"].find() is None:
        pytest.skip("the package with EfficientNet-Lite0's weights is not installed")
    return load_backbone("tf_efficientnet_lite0", (2, 3), (512, 512))[0]


class CellMeans(nn.Module):
    """A target whose answer is known: the mean grey level of every cell."""

    channels = 3

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(pixels.float(), 8)


def ramp(path: Path) -> None:
    """Red rises with x, green with y: the mean of any part says where its centre is."""
    picture = np.zeros((64, 128, 3), np.uint8)
    picture[:, :, 0] = 2 * np.arange(128)
    picture[:, :, 1] = 4 * np.arange(64)[:, None]
    Image.fromarray(picture).save(path)


@pytest.mark.parametrize("crop", [33, 49, 157, 158, 252])
@pytest.mark.parametrize("box", [None, (3, 10, 90, 60)])
@pytest.mark.parametrize("mirrored", [False, True])
def test_what_an_output_sees_is_centred_on_its_target(tmp_path, crop, box, mirrored):
    """Shifted by one pixel of 256 the two would differ by a grey level."""
    ramp(tmp_path / "ramp.png")
    pictures = PictureSet.read([tmp_path / "ramp.png"])
    view = PictureView(0, box or (0, 0, 128, 64), mirrored=mirrored)
    pool = Renderer(pictures, CellMeans(), CPU).pool([view])
    rng = np.random.default_rng(crop)
    for _ in range(3):
        pixels, targets = pool.crops(4, crop, rng)
        seen = F.avg_pool2d(pixels.float(), 33, stride=4)  # a PDN that means what it sees
        assert seen.shape == targets.shape == (4, 3, count_outputs(crop), count_outputs(crop))
        # the mean of 33 pixels of a ramp is its value in the middle
        assert float((seen - targets).abs().max()) < 0.35
        assert float((seen - targets).mean(dim=(0, 2, 3)).abs().max()) < 0.2


def test_without_colours_both_pictures_are():
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    for plain, grey in zip(
        *(PictureView(0, (2, 3, 22, 18), grey=g).render(picture) for g in (False, True)), strict=True
    ):
        assert (grey == grey[:, :, :1]).all()
        luma = plain @ (0.299, 0.587, 0.114)
        assert np.abs(grey[:, :, 0] - luma).max() < 2


def test_drawn_views_lie_in_the_picture_and_follow_the_recipe():
    recipe = Recipe(zoom=0.5, grey=0.3)
    views = [PictureView.draw(4, (40, 61), recipe, np.random.default_rng(k)) for k in range(400)]
    for view in views:
        x0, y0, x1, y1 = view.box
        assert 0 <= x0 < x1 <= 61
        assert 0 <= y0 < y1 <= 40
        assert x1 - x0 >= 30
        assert y1 - y0 >= 20
    assert np.mean([v.grey for v in views]) == pytest.approx(0.3, abs=0.07)
    assert np.mean([v.mirrored for v in views]) == pytest.approx(0.5, abs=0.08)
    assert len({v.box for v in views}) > 350
    assert not any(
        PictureView.draw(0, (9, 9), Recipe(flip=False), np.random.default_rng(k)).mirrored for k in range(9)
    )


@pytest.mark.parametrize("blocks", [[1000], [1, 999], [400, 1, 7, 592]])
def test_moments_where_sums_of_squares_cancel(blocks):
    rng = np.random.default_rng(1)
    values = rng.standard_normal((1000, 3)) * [1e-3, 1.0, 5.0] + [1e4, -3.0, 0.0]
    values = torch.from_numpy(values).float()
    moments = Moments()
    for part in values.split(blocks):
        moments.add(part)
    exact = values.double().numpy()
    np.testing.assert_allclose(moments.mean.numpy(), exact.mean(0), rtol=1e-9)
    np.testing.assert_allclose(moments.std().numpy(), exact.std(0), rtol=1e-7)


def test_targets_of_the_measured_pictures_are_standardised(photographs, backbone):
    pictures = PictureSet.read(sorted(photographs.iterdir())[:6])
    target = TargetFeatures(backbone, 3, torch.float32)
    renderer = Renderer(pictures, target, CPU)
    renderer.measure(range(6), lambda *_: None)
    with torch.inference_mode():
        large = [
            PictureView.whole(i, pictures.sizes[i]).render(np.asarray(Image.open(pictures.paths[i])))[0]
            for i in range(6)
        ]
        found = target(torch.from_numpy(np.stack(large)).permute(0, 3, 1, 2))
    assert found.shape == (6, 152, 64, 64)
    assert float(found.mean(dim=(0, 2, 3)).abs().max()) < 1e-3
    assert float((found.std(dim=(0, 2, 3), correction=0) - 1).abs().max()) < 1e-3


@pytest.mark.parametrize("channels", [40, 152, 384])
def test_widening_keeps_every_distance(channels):
    matrix = expansion_matrix(channels)
    a, b = torch.randn(2, 50, channels, generator=torch.Generator().manual_seed(2))
    wide = (a - b) @ matrix.T
    assert wide.shape == (50, 384)
    torch.testing.assert_close(wide.square().mean(1), (a - b).square().mean(1), rtol=1e-5, atol=0)
    if channels == 384:
        assert torch.equal(matrix, torch.eye(384))
    assert torch.equal(matrix, expansion_matrix(channels))


def test_a_pool_does_not_depend_on_the_threads(photographs, backbone):
    pictures = PictureSet.read(sorted(photographs.iterdir()))
    renderer = Renderer(pictures, TargetFeatures(backbone, 3, torch.float32), CPU)
    views = [PictureView.whole(i, pictures.sizes[i]) for i in range(5)]  # more than a block
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(renderer.pool(views))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0].targets, found[1].targets)
    assert torch.equal(found[0].pictures, found[1].pictures)
    view = found[0].targets[0].nbytes + found[0].pictures[0].nbytes
    assert ViewPool.bytes_per_view(152) == view


def test_pictures_are_known_by_content(photographs, tmp_path):
    """Other names and copies make no other set; what cannot be read is named."""
    for k, path in enumerate(sorted(photographs.iterdir())):
        shutil.copy(path, tmp_path / f"{99 - k}.png")
    shutil.copy(tmp_path / "99.png", tmp_path / "copy.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "99.png").read_bytes()[:300])
    Image.fromarray(np.zeros((40, 40), np.uint16)).save(tmp_path / "deep.png")
    here, there = PictureSet.read(sorted(photographs.iterdir())), PictureSet.read(sorted(tmp_path.iterdir()))
    assert here.sha256 == there.sha256
    assert here.sizes == there.sizes
    assert len(there.paths) == 24
    assert here.failures == []
    assert ["broken.png" in there.failures[0], "8 bits" in there.failures[1]] == [True, True]
    assert PictureSet.read(here.paths[1:]).sha256 != here.sha256
