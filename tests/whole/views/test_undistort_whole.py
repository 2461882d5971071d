"""Models that undistort their pictures answer for the pictures as taken."""

import math
from dataclasses import replace

import numpy as np
import pytest

from flawscope.predictor.tolerating import tolerator
from flawscope.results.tolerance import Rule, Tolerances
from flawscope.views.undistort import Undistortion
from lens_helpers import fit_with_lens
from small_network import SMALL_NETWORK


def test_a_model_with_a_lens_answers_for_the_picture_as_taken(tmp_path):
    """Defects far from the middle lie where they were taken; the model and its export keep the lens."""
    import flawscope

    rng, side = np.random.default_rng(3), 160
    rows, columns = np.mgrid[:side, :side]
    ground = 110 + 40 * np.sin(columns / 7) + 30 * np.cos(rows / 9)
    lens = Undistortion(120, 120, 80, 80, k1=-0.3, k2=0.05)

    def part(spot=None):
        shown = ground + rng.normal(0, 4, (side, side))
        if spot is not None:
            shown[np.hypot(rows - spot[0], columns - spot[1]) < 5] = 240
        return np.repeat(shown.clip(0, 255).astype(np.uint8)[..., None], 3, 2)

    zone = np.zeros((side, side), np.bool_)
    zone[:80] = True
    how = {"size": "96", "device": "cpu", "check": False}
    good = [part() for _ in range(8)]
    model = fit_with_lens(good, lens, **how)
    zoned = fit_with_lens(good, lens, **how, roi=lens.mask(zone))
    spot = (25, 120)
    found = model.predict(bad := part(spot))
    drawn = found.picture_map()
    assert drawn.shape == (side, side)
    assert found.is_anomalous
    assert math.dist(np.unravel_index(drawn.argmax(), drawn.shape), spot) < 6
    assert zoned.predict(bad).is_anomalous
    assert zoned.predict(part((130, 120))).score < 0.6 * model.predict(part((130, 120))).score
    counted = zoned.valid_mask(found.geometry)[:, 32:64]  # the lens bends little there
    assert counted[12:46].all()
    assert not counted[50:].any()
    rules = Tolerances("1", "0" * 64, (side, side), (Rule("any", length=1e9),))
    tolerate = tolerator(zoned, rules)
    judged = zoned.with_scale(0.1).predict(bad)
    for row, decision in ((30, "within tolerance"), (45, "anomalous")):  # there the zone ends
        marked = np.zeros_like(judged.map)
        marked[row : row + 3, 40:43] = judged.map.max()
        assert tolerate(replace(judged, map=marked)).decision == decision
    again = zoned.calibrate([part() for _ in range(3)], force=True).calibration
    assert again.map_level == pytest.approx(zoned.calibration.map_level, rel=0.1)
    model.save(tmp_path / "model.safetensors")
    loaded = flawscope.load(tmp_path / "model.safetensors", device="cpu")
    assert loaded.manifest.preprocess.undistort == lens
    assert loaded.predict(bad).score == found.score


def test_with_an_alignment_the_pixels_that_count_are_known_in_the_picture_as_taken():
    """Those of the undistorted picture that the turned frame's region of interest shows."""
    rng, side = np.random.default_rng(5), 160
    lens = Undistortion(120, 120, 80, 80, k1=-0.25, k2=0.03)
    rows, columns = np.mgrid[:side, :side]

    def part(angle):
        u, v = (columns - 80) * math.cos(angle) + (rows - 80) * math.sin(angle), rows - 80
        v = v * math.cos(angle) - (columns - 80) * math.sin(angle)
        shape = np.minimum(np.maximum(abs(u) - 35, abs(v - 18) - 8), np.maximum(abs(u + 26) - 8, abs(v) - 28))
        shown = 80 + np.clip(0.5 - shape, 0, 1) * 100 + rng.normal(0, 3, (side, side))
        return np.repeat(shown.clip(0, 255).astype(np.uint8)[..., None], 3, 2)

    good = [part(angle) for angle in rng.uniform(-0.4, 0.4, 8)]
    how = {"size": "64", "device": "cpu", "check": False, "align": "turn", **SMALL_NETWORK}
    model = fit_with_lens(good, lens, **how, roi=(0.3, 0.2, 0.8, 0.6))
    found = model.predict(part(0.3))
    assert found.part_found
    valid, seen = model.valid_mask(found.geometry), model.manifest.preprocess.views(part(0.3))
    assert valid.shape == found.map.shape
    v, u = np.mgrid[: valid.shape[0], : valid.shape[1]] + 0.5
    v, u = (at / scale for at, scale in zip((v, u), found.geometry.scale, strict=True))
    y, x = seen.geometry.locate(*(at + 0.5 for at in lens._undistorted(v - 0.5, u - 0.5)))
    counted = model.artefact.counted & seen.geometry.visible_mask()
    y, x = np.floor(y).astype(int), np.floor(x).astype(int)
    inside = (y >= 0) & (y < 64) & (x >= 0) & (x < 64)
    expected = inside & counted[y.clip(0, 63), x.clip(0, 63)]
    assert 0.05 < expected.mean() < 0.6
    assert (valid == expected).mean() > 0.98
