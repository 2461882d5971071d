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
    assert poses_needed(draw(k, **how) for k in range(9)) == expected


SIZES = [(70, 30), (40, 20), (30, 90), (20, 20)]
NOISE = np.random.default_rng(0).integers(0, 255, (9, 96, 96, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("draw_one", "count"),
    [
        (NOISE.__getitem__, 9),
        (lambda k: draw(k, degrees=180), 7),
        (lambda k: draw(k, degrees=180, size=SIZES[k % 4]), 12),
    ],
    ids=["textures", "few pictures", "several shapes"],
)
def test_what_shows_no_one_part_often_says_nothing(draw_one, count):
    assert poses_needed(map(draw_one, range(count))) is None


def test_the_hint_names_the_option_and_passes_over_what_cannot_be_read(tmp_path):
    paths = [tmp_path / f"{k}.png" for k in range(10)]
    for k, path in enumerate(paths):
        Image.fromarray(draw(k, degrees=180)).save(path)
    (tmp_path / "x.png").write_bytes(b"x")
    assert alignment_needed([*paths, tmp_path / "x.png"]) == "turn"
    assert alignment_needed([]) is None
