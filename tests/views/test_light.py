"""Changes of light, against their definitions."""

import numpy as np
import pytest

from flawscope.views.light import Light


@pytest.mark.parametrize(("dtype", "white"), [(np.uint8, 255), (np.uint16, 65535), (np.float32, 1.0)])
def test_each_change_is_its_definition_in_every_depth(dtype, white):
    values = np.random.default_rng(0).uniform(0.2, 0.7, (12, 16, 3))
    picture = (values * white).astype(dtype)
    given = picture.astype(np.float64)
    mean = given.mean((0, 1))
    expected = {
        Light(): given,
        Light(brightness=1.2): given * 1.2,
        Light(contrast=0.8): mean + (given - mean) * 0.8,
        Light(white_balance=0.05): given * [1.05, 1, 0.95],
        Light(brightness=3.0): given * 3,  # clipped where the type has an end
    }
    for light, wanted in expected.items():
        changed = light(picture)
        assert changed.dtype == dtype
        limit = np.inf if dtype is np.float32 else white
        np.testing.assert_allclose(changed, wanted.clip(0, limit), atol=0.51 if white > 1 else 1e-6)
    np.testing.assert_array_equal(picture, given.astype(dtype))  # the given one is not written into


def test_blur_spreads_a_point_by_a_share_of_the_side():
    point = np.zeros((101, 101, 3), np.float32)
    point[50, 50] = 1.0
    seen = Light(blur=0.02)(point)[:, :, 0]
    assert seen.sum() == pytest.approx(1, abs=1e-3)
    columns = (seen.sum(0) * (np.arange(101) - 50.0) ** 2).sum()
    assert columns**0.5 == pytest.approx(0.02 * 101, rel=0.01)


def test_grey_has_no_white_balance():
    grey = np.full((4, 4, 1), 100, np.uint8)
    np.testing.assert_array_equal(Light(white_balance=0.1)(grey), grey)
