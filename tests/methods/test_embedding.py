"""The cheap embedding against the authors' pipeline of unfolding and pooling twice, written out here."""

import pytest
import torch
import torch.nn.functional as F

from flawscope.methods.patch_detector import PatchEmbedding


def authors(maps, p, dimensions, grid):
    """patchcore-inspection: PatchMaker, bilinear resize of the patches, Preprocessing, Aggregator."""
    layers = []
    for m in maps:
        b, c, h, w = m.shape
        patches = F.unfold(m, p, padding=p // 2).view(b, c * p * p, h, w)
        if (h, w) != grid:
            patches = F.interpolate(patches, size=grid, mode="bilinear", align_corners=False)
        flat = patches.permute(0, 2, 3, 1).reshape(-1, 1, c * p * p)
        layers.append(F.adaptive_avg_pool1d(flat, dimensions).squeeze(1))
    stacked = torch.stack(layers, dim=1).flatten(1)[:, None]  # [B*P, 1, layers * dimensions]
    return F.adaptive_avg_pool1d(stacked, dimensions).view(maps[0].shape[0], -1, dimensions)


def random_maps(shapes, batch=2):
    generator = torch.Generator().manual_seed(sum(map(sum, shapes)))
    return [torch.randn(batch, *shape, generator=generator) for shape in shapes]


@pytest.mark.parametrize(
    ("shapes", "p", "dimensions"),
    [
        ([(512, 7, 7), (1024, 4, 4)], 3, 1024),  # WideResNet-50, stages 2 and 3
        ([(256, 6, 6), (512, 3, 3), (1024, 2, 2)], 3, 1024),  # three stages: windows across layers
        ([(40, 6, 5), (112, 3, 3)], 3, 64),
        ([(40, 6, 6), (112, 3, 3)], 3, 100),  # nothing divides anything
        ([(13, 5, 4), (29, 3, 2)], 5, 17),
        ([(7, 5, 5)], 3, 50),
        ([(3, 5, 5), (5, 3, 3)], 3, 96),  # more outputs than numbers in a patch
        ([(6, 4, 4), (8, 4, 4)], 1, 7),
    ],
)
def test_equals_the_authors_pipeline(shapes, p, dimensions):
    maps = random_maps(shapes)
    embedding = PatchEmbedding(shapes, p, dimensions)
    found = embedding(maps)
    expected = authors([m.double() for m in maps], p, dimensions, shapes[0][1:])
    assert found.shape == (2, shapes[0][1] * shapes[0][2], embedding.width)
    assert float((found - expected).abs().max()) <= 1e-5


def test_convolutions_are_in_as_many_groups_as_can_be():
    """That is what makes it cheap."""
    embedding = PatchEmbedding([(512, 4, 4), (1024, 2, 2)], 3, 1024)
    assert embedding.kernel0.shape == (512, 1, 3, 3)
    assert embedding.kernel1.shape == (512, 2, 3, 3)


@pytest.mark.parametrize("p", [1, 3, 5])
def test_default_is_average_resize_concatenate(p):
    shapes = [(5, 6, 8), (7, 3, 4)]
    maps = random_maps(shapes)
    pooled = [F.avg_pool2d(m, p, stride=1, padding=p // 2, count_include_pad=True) for m in maps]
    expected = torch.cat(
        [pooled[0], F.interpolate(pooled[1], size=(6, 8), mode="bilinear", align_corners=False)], dim=1
    )
    found = PatchEmbedding(shapes, p, None)(maps)
    for row in range(6):
        for column in range(8):
            torch.testing.assert_close(found[:, row * 8 + column], expected[:, :, row, column])
