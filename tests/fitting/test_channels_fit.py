"""A part under several lights is one picture: its worst view decides, and it is calibrated as a whole."""

import numpy as np
import pytest
from scipy import ndimage

import flawscope
from flawscope.errors import InputError

SIDE = 64


def lights(seed, light=None):
    """A part under four lights [H, W, 4], and a spot that one of them shows."""
    rng = np.random.default_rng([5, seed])
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    texture = 8 * ndimage.gaussian_filter(rng.normal(0, 1, (SIDE, SIDE)), 2)
    drawn = []
    for k in range(4):
        angle = k * np.pi / 2
        shown = 120 + 30 * (np.cos(angle) * x + np.sin(angle) * y) / SIDE + texture * np.cos(angle + 0.3)
        shown = shown + np.where(light == k, 60.0 * (np.hypot(x - 5, y) < 6), 0.0)
        drawn.append(shown + rng.normal(0, 3, shown.shape))
    return np.clip(np.rint(np.stack(drawn, 2)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def model():
    good = [lights(k) for k in range(20)]
    return flawscope.fit(good, size="64", channels="all", check=False, group=r"\d+", force=True)


def test_a_defect_under_any_one_light_is_found_where_it_is(model):
    assert len(model.calibration.scores) == 20
    assert model.calibration.promised
    for light in range(4):
        found = model.predict(lights(100 + light, light))
        assert found.is_anomalous
        y, x = np.unravel_index(found.map.argmax(), found.map.shape)
        assert abs(y - SIDE / 2) < 8
        assert abs(x - SIDE / 2 - 5) < 8
    assert found.draw(lights(100)).shape == (SIDE, SIDE, 3)  # the first light
    with pytest.raises(InputError, match="learnt from pictures of 4"):
        model.predict(lights(0)[:, :, :3])
