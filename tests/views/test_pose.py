"""Poses of drawn parts, which are known; views of them, and the way back."""

import json
import math

import numpy as np

from flawscope.views.geometry import Geometry


def test_a_turned_geometry_is_its_definition():
    """Points go to matrix p + offset and back; maps, masks and boxes lie where their pixels go."""
    cos, sin = 0.8 * math.cos(0.5), 0.8 * math.sin(0.5)
    geometry = Geometry((90, 120), (64, 64), (0.8, 0.8), (3.0, -20.0), (cos, sin, -sin, cos))
    assert Geometry.from_dict(json.loads(json.dumps(geometry.to_dict()))) == geometry
    matrix, offset = np.array([[cos, sin], [-sin, cos]]), np.array([3.0, -20.0])
    y, x = np.mgrid[:90, :120] + 0.5
    seen_y, seen_x = np.tensordot(matrix, np.stack([y, x]), 1) + offset[:, None, None]
    shown = (seen_y >= 0) & (seen_y < 64) & (seen_x >= 0) & (seen_x < 64)
    down = np.mgrid[:64, :64][0] + np.float32(0.5)
    warped = geometry.warp(down.astype(np.float32))
    assert np.array_equal(~np.isnan(warped), shown)
    np.testing.assert_allclose(warped[shown], seen_y[shown].clip(0.5, 63.5), atol=1e-4)
    mask = np.zeros((64, 64), bool)
    mask[25:40, 5:25] = True
    expected = shown & mask[seen_y.astype(int).clip(0, 63), seen_x.astype(int).clip(0, 63)]
    assert np.array_equal(geometry.warp_mask(mask), expected)
    rows, columns = np.nonzero(expected)
    x0, y0, x1, y1 = geometry.box_around(*np.nonzero(mask))
    assert x0 <= columns.min() + 1 <= x0 + 3
    assert x1 - 3 <= columns.max() <= x1
    assert y0 <= rows.min() + 1 <= y0 + 3
    assert y1 - 3 <= rows.max() <= y1
    back = np.linalg.inv(matrix)
    y, x = back @ (np.array([20.5, 10.5]) - offset)
    np.testing.assert_allclose(geometry.to_picture((10.5, 20.5, 10.5, 20.5)), (x, y, x, y), atol=1e-9)
    shown_back = np.tensordot(back, np.mgrid[:64, :64] + 0.5 - offset[:, None, None], 1)
    within = (shown_back[0] >= 0) & (shown_back[0] < 90) & (shown_back[1] >= 0) & (shown_back[1] < 120)
    assert np.array_equal(geometry.visible_mask(), within)
    half = geometry.with_picture_size((45, 60))
    np.testing.assert_allclose(half.to_network((0, 0, 60, 45)), geometry.to_network((0, 0, 120, 90)))
    rows_10 = geometry.window(10, 0, 5, 120).warp(down.astype(np.float32))
    np.testing.assert_allclose(rows_10, warped[10:15], atol=1e-4)
