"""A correction of pictures knows what white is: a scene in 8, 12 or 16 bits or in floats gives one view."""

import numpy as np
import pytest
from PIL import Image

from flawscope.views.preprocess import CORRECTIONS, Preprocess
from flawscope.views.undistort import Undistortion

SIDE = 48
SCENE = np.random.default_rng(0).integers(5, 250, (6, 6, 3)).repeat(8, 0).repeat(8, 1) / 255.0
WHITES = {"12 bits": 4095.0, "16 bits": 65535.0, "10 bits": 1023.0, "float": 1.0}
# the value that a grey level of 8 bits may be rounded by, in 0..1, and what a curve makes of it
NEAR = 0.006


class ToneCurve:
    """A correction as somebody may add one: a gamma of the whole picture."""

    def __call__(self, picture, divisor, name):
        shares = np.clip(np.asarray(picture, np.float32) / divisor, 0, 1)
        return shares**0.7 * np.float32(divisor)

    def mask(self, mask):
        return mask

    def restored(self, drawn, placed, fill):
        return drawn, placed


def in_type(name):
    """The scene as a camera of this depth gives it."""
    values = SCENE * WHITES[name]
    return values.astype(np.float32) if name == "float" else np.rint(values).astype(np.uint16)


EIGHT_BITS = np.rint(SCENE * 255).astype(np.uint8)
EXAMPLES = {"undistort": Undistortion(40, 40, 24, 24, k1=-0.2, p1=0.01)}


def test_each_correction_has_an_example_here():
    assert EXAMPLES.keys() == CORRECTIONS.keys()


def corrected_by(preprocess, correction):
    preprocess.__dict__["corrections"] = [correction]
    return preprocess


@pytest.mark.parametrize("correction", [*EXAMPLES.values(), ToneCurve()], ids=[*EXAMPLES, "tone curve"])
@pytest.mark.parametrize("depth", WHITES)
def test_a_correction_of_a_scene_is_the_same_in_every_type(depth, correction):
    eight = corrected_by(Preprocess((SIDE, SIDE)), correction)
    expected = eight(EIGHT_BITS)[0]
    assert np.abs(expected - Preprocess((SIDE, SIDE))(EIGHT_BITS)[0]).max() > 0.05, "it changes the view"
    for black in (None, 0.0):
        deep = Preprocess((SIDE, SIDE), white_level=WHITES[depth], black_level=black)
        deep = corrected_by(deep, correction)
        for given in (in_type(depth), EIGHT_BITS, Image.fromarray(EIGHT_BITS)):
            np.testing.assert_allclose(deep(given)[0], expected, atol=NEAR)
            np.testing.assert_allclose(deep.small(np.asarray(given)), eight.small(EIGHT_BITS), atol=NEAR)
