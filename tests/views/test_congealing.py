"""The average of parts that were found in pictures."""

import numpy as np
import pytest

from flawscope.errors import InputError
from flawscope.views import congealing
from flawscope.views.pose import Pose


def test_pictures_without_a_place_in_common_show_no_part():
    """As of a texture: each was found at another end of the picture."""
    picture = np.random.default_rng(0).random((24, 24), np.float32)
    found = [(picture, Pose(0, 0, error=1.0)), (picture, Pose(24, 24, error=1.0))]
    levels = np.linspace(0, 1, 64, dtype=np.float32)
    with pytest.raises(InputError, match="show no part that can be found"):
        congealing._average(found, None, levels)
