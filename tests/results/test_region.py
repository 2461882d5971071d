"""Sizes of regions: drawn shapes at any angle, in any view of the picture."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flawscope.errors import InputError
from flawscope.results.prediction import Prediction, ScoreLevels
from flawscope.results.region import measure_region, rectangle_sides
from flawscope.views.geometry import Geometry

SIDE = 200


def turned_rectangle(length, width, angle, y, x):
    """Which of these places lie in a rectangle around 0."""
    along = np.cos(angle) * x + np.sin(angle) * y
    across = np.cos(angle) * y - np.sin(angle) * x
    return np.nonzero((abs(along) <= length / 2) & (abs(across) <= width / 2))


@settings(deadline=None)
@given(st.integers(0, 359), st.floats(20, 120), st.floats(4, 18))
def test_a_rectangle_has_its_sides_at_any_angle(degrees, length, width):
    places = np.mgrid[:SIDE, :SIDE] + 0.5 - SIDE / 2
    rows, columns = turned_rectangle(length, width, math.radians(degrees), *places)
    plain = Geometry((SIDE, SIDE), (SIDE, SIDE), (1.0, 1.0), (0.0, 0.0), mm_per_pixel=0.1)
    found = measure_region(rows, columns, plain)
    # too small by what the drawing leaves out, half a pixel at either end; too large by two pixels at most
    for name, true in (("length_mm", length), ("width_mm", width)):
        assert -0.101 <= found[name] - true / 10 <= 0.2
    assert found["area_mm2"] == pytest.approx(len(rows) / 100)


@pytest.mark.parametrize(
    "geometry",
    [
        Geometry((2 * SIDE, 4 * SIDE), (SIDE, SIDE), (0.5, 0.25), (0.0, 0.0)),  # stretched
        Geometry((SIDE, SIDE), (SIDE, SIDE), (0.8, 0.8), (20.0, 20.0)),  # a letterbox
        Geometry((SIDE, SIDE), (SIDE, SIDE), (1.0, 1.0), (59.0, -41.0), (0.8, -0.6, 0.6, 0.8)),  # turned
    ],
)
def test_sizes_are_the_pictures_and_not_the_views(geometry):
    """A rectangle of 60 x 20 pixels of the picture has these sides within what a map's pixel takes up."""
    height, width = geometry.picture_size
    grid = np.mgrid[:SIDE, :SIDE] + 0.5
    y, x = geometry.inverse().locate(grid[0], grid[1])
    rows, columns = turned_rectangle(60, 20, math.radians(30), y - height / 2, x - width / 2)
    found, pixel = measure_region(rows, columns, replace(geometry, mm_per_pixel=2.0)), 1 / min(geometry.scale)
    assert found["length_mm"] / 2 == pytest.approx(60, abs=1.5 * pixel)
    assert found["width_mm"] / 2 == pytest.approx(20, abs=1.5 * pixel)
    assert found["area_mm2"] / 4 == pytest.approx(1200, rel=0.05)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=1, max_size=12))
def test_no_turned_rectangle_is_smaller(corners):
    points = np.array([(x + a, y + b) for x, y in corners for a in (0, 1) for b in (0, 1)], float)
    length, width = rectangle_sides(points)
    assert length >= width > 0
    angles = np.radians(np.arange(0, 180, 0.25))
    axes = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    areas = np.ptp(points @ axes.T, axis=0) * np.ptp(points @ (axes[:, ::-1] * (1, -1)).T, axis=0)
    assert length * width <= areas.min() * (1 + 1e-9)
    off = np.sin(np.radians(0.125))  # the nearest of so many angles is no further from the best
    assert areas.min() <= (length + width * off) * (width + length * off) * (1 + 1e-9)


def test_only_a_model_with_a_scale_has_sizes():
    values = np.zeros((10, 10), np.float32)
    values[2:4, 3:9] = 1
    plain = Geometry((10, 10), (10, 10), (1.0, 1.0), (0.0, 0.0))
    levels = ScoreLevels(0.5, 0.5, (0.0, 1.0))
    without = Prediction(1.0, 0.1, 1.0, True, values, plain, levels)
    (region,) = without.regions
    assert region.length_mm is region.width_mm is region.area_mm2 is None
    assert region.to_dict().keys() == {"box", "area", "peak", "centroid"}
    (region,) = replace(without, geometry=replace(plain, mm_per_pixel=0.5)).regions
    assert (region.length_mm, region.width_mm, region.area_mm2) == pytest.approx((3, 1, 3))
    assert region.to_dict()["length_mm"] == pytest.approx(3)


def test_a_scale_goes_with_the_geometry():
    scaled = Geometry((20, 30), (10, 10), (0.5, 0.3), (0.0, 0.0), mm_per_pixel=0.05)
    assert Geometry.from_dict(scaled.to_dict()) == scaled
    assert "mm_per_pixel" not in replace(scaled, mm_per_pixel=None).to_dict()
    for wrong in (0, -1.0, "0.1", True, float("nan"), float("inf")):
        with pytest.raises(InputError, match="not a geometry"):
            Geometry.from_dict(scaled.to_dict() | {"mm_per_pixel": wrong})
