"""The hint at `--align`: where parts surely lie turned or at different places, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from flawscope.pictures.part_places import alignment_needed, poses_needed

SIDE = 160


def draw(number, *, degrees=0.0, shift=0.0, size=(70, 30), ground=60):
    """A part with a mark, turned and moved by up to so much, over a ground with noise."""
    rng = np.random.default_rng(number)
    part = Image.new("RGB", (SIDE, SIDE), (ground,) * 3)
    left, top = (SIDE - size[0]) // 2, (SIDE - size[1]) // 2
    place = ImageDraw.Draw(part)
    place.rounded_rectangle((left, top, left + size[0], top + size[1]), 6, fill=(200, 190, 170))
    place.ellipse((left + 6, top + 6, left + 16, top + 16), fill=(90, 60, 60))
    moved = part.rotate(
        rng.uniform(-degrees, degrees),
        translate=tuple(rng.uniform(-shift, shift, 2)),
        fillcolor=(ground,) * 3,
        resample=Image.Resampling.BILINEAR,
    )
    noisy = np.asarray(moved, np.float64) + rng.normal(0, 3, (SIDE, SIDE, 3))
    return np.asarray(noisy.clip(0, 255), np.uint8)


@pytest.mark.parametrize(
    ("expected", "how"),
    [
        ("turn", {"degrees": 180}),
        ("turn", {"degrees": 180, "shift": 30}),
        ("turn", {"degrees": 180, "size": (90, 20), "ground": 230}),
        ("shift", {"shift": 35}),
        ("shift", {"shift": 40, "size": (30, 30)}),
        ("shift", {"shift": 35, "degrees": 8, "ground": 20}),
        (None, {}),
        (None, {"shift": 4, "degrees": 4}),
        (None, {"degrees": 10}),
        (None, {"degrees": 180, "size": (40, 40)}),
    ],
)
def test_parts_that_lie_turned_or_elsewhere_are_told_and_no_others(expected, how):
    assert poses_needed(draw(k, **how) for k in range(12)) == expected


def test_textures_few_pictures_and_parts_of_several_shapes_say_nothing():
    rng = np.random.default_rng(0)
    assert poses_needed(rng.integers(0, 255, (96, 96, 3), dtype=np.uint8) for _ in range(12)) is None
    assert poses_needed(draw(k, degrees=180) for k in range(7)) is None
    sizes = [(70, 30), (40, 20), (30, 90), (20, 20)]
    assert poses_needed(draw(k, degrees=180, size=sizes[k % 4]) for k in range(12)) is None


def test_the_hint_names_the_option_and_passes_over_what_cannot_be_read(tmp_path):
    paths = [tmp_path / f"{k}.png" for k in range(10)]
    for k, path in enumerate(paths):
        Image.fromarray(draw(k, degrees=180)).save(path)
    (tmp_path / "x.png").write_bytes(b"x")
    assert alignment_needed([*paths, tmp_path / "x.png"]) == "turn"
    assert alignment_needed([]) is None
