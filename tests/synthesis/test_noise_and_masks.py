import math

import numpy as np
import pytest

from flawscope.errors import InputError
from flawscope.synthesis import SCALE_AREAS, DefectScale, fractal_noise, generated_texture
from flawscope.synthesis.masks import allowed_area, blob_mask, islands_mask, line_mask, perlin_mask
from flawscope.synthesis.textures import perlin_noise

SIZES = [(64, 64), (37, 91), (100, 16), (16, 16)]


def literal_perlin(shape, cells, rng):
    """The four-corner sum of Perlin 2002, pixel by pixel, on the same gradients."""
    angle = rng.uniform(0, 2 * np.pi, (cells[1] + 1, cells[0] + 1))
    noise = np.zeros(shape)
    for row in range(shape[0]):
        for column in range(shape[1]):
            y, x = (row + 0.5) * cells[0] / shape[0], (column + 0.5) * cells[1] / shape[1]
            for i in (int(y), int(y) + 1):
                for j in (int(x), int(x) + 1):
                    ty, tx = abs(y - i), abs(x - j)
                    weight = math.prod(1 - (6 * t**5 - 15 * t**4 + 10 * t**3) for t in (ty, tx))
                    slope = math.sin(angle[j, i]) * (y - i) + math.cos(angle[j, i]) * (x - j)
                    noise[row, column] += weight * slope
    return noise * math.sqrt(2)


@pytest.mark.parametrize(("shape", "cells"), [((20, 31), (3, 4)), ((1, 9), (1, 2)), ((16, 7), (16, 1))])
def test_perlin_noise_is_the_literal_sum(shape, cells):
    noise = perlin_noise(shape, cells, np.random.default_rng(3))
    assert noise.dtype == np.float32
    np.testing.assert_allclose(noise, literal_perlin(shape, cells, np.random.default_rng(3)), atol=1e-5)


@pytest.mark.parametrize("shape", [*SIZES, (1, 1)])
def test_fractal_noise_and_textures_take_any_size(shape):
    noise = fractal_noise(shape, (2, 2), np.random.default_rng(0))
    assert noise.shape == shape
    assert np.abs(noise).max() <= 1
    for seed in range(12):
        texture = generated_texture(shape, np.random.default_rng(seed))
        assert texture.shape == (*shape, 3)
        assert texture.dtype == np.uint8


@pytest.mark.parametrize("scale", list(DefectScale))
@pytest.mark.parametrize("shape", [(256, 256), (120, 333)])
def test_blobs_have_the_area_asked_for_and_are_one_piece(shape, scale):
    from scipy import ndimage

    low, high = SCALE_AREAS[scale]
    for seed in range(8):
        mask = blob_mask(np.ones(shape, np.bool_), np.random.default_rng(seed), area=(low, high))
        assert mask.dtype == np.bool_
        assert low <= mask.mean() <= high
        assert ndimage.label(mask)[1] == 1


@pytest.mark.parametrize("shape", SIZES)
def test_masks_are_never_empty_and_stay_in_the_foreground(shape):
    within = np.zeros(shape, np.bool_)
    within[3 : shape[0] // 2 + 1, 4:10] = True
    for seed in range(10):
        rng = np.random.default_rng(seed)
        for mask in (
            perlin_mask(within, rng),
            perlin_mask(within, rng, 5.0),
            islands_mask(within, rng),
            blob_mask(within, rng, area=(0.001, 0.05)),
            line_mask(within, rng, area=(0.0005, 0.002)),
            line_mask(within, rng, area=(0.01, 0.05), jagged=1.5),
        ):
            assert mask.shape == shape
            assert mask.any()
            assert not (mask & ~within).any()


def test_areas_that_do_not_fit():
    within = np.zeros((64, 64), np.bool_)
    within[10:15, 10:15] = True
    assert (blob_mask(within, np.random.default_rng(0), area=(0.1, 0.2)) == within).all()
    assert allowed_area((4, 5), None).all()
    assert allowed_area((4, 5), np.zeros((4, 5), np.bool_)).all()
    with pytest.raises(InputError, match="foreground"):
        allowed_area((32, 32), np.ones((3, 3), np.bool_))


def test_perlin_mask_is_never_empty_where_all_noise_is_below_zero():
    """Small foregrounds lie in the valleys of coarse noise now and then."""
    within = np.zeros((64, 64), np.bool_)
    within[31:34, 30:34] = True
    assert all(perlin_mask(within, np.random.default_rng(k)).any() for k in range(150))


@pytest.mark.parametrize("jagged", [0.0, 2.5])
def test_a_line_is_long_and_thin(jagged):
    whole = np.ones((400, 400), np.bool_)
    low, high = SCALE_AREAS[DefectScale.SMALL]
    for seed in range(10):
        mask = line_mask(whole, np.random.default_rng(seed), area=(low, high), jagged=jagged)
        rows, columns = np.nonzero(mask)
        extent = math.hypot(np.ptp(rows), np.ptp(columns))
        assert mask.sum() < (6 if jagged else 3.5) * extent
        assert low / 3 <= mask.mean() <= 3 * high
