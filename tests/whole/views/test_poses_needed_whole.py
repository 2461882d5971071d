"""How parts lie: told where good pictures show it, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from flawscope.datasets import open_dataset
from flawscope.evaluation.next_steps import advise_before
from flawscope.views import congealing
from flawscope.views.congealing import learn_reference, poses_needed
from flawscope.views.pose import PoseReference
from flawscope.views.resampling import small_grey

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


def needed(pictures):
    lying = poses_needed([small_grey(one) for one in pictures])
    return None if lying is None else lying.kind


@pytest.mark.parametrize(
    ("expected", "how"),
    [
        ("turn", {"degrees": 180, "shift": 30}),
        ("turn", {"degrees": 180, "size": (90, 20), "ground": 230}),
        ("turn", {"degrees": 180, "size": (40, 40)}),  # as wide as long: its mark shows the angle
        ("shift", {"shift": 40, "size": (30, 30)}),
        ("shift", {"shift": 35, "degrees": 4, "ground": 20}),
        (None, {}),
        (None, {"shift": 4, "degrees": 4}),
    ],
)
def test_parts_that_lie_turned_or_elsewhere_are_told_and_no_others(expected, how):
    assert needed(draw(k, **how) for k in range(8)) == expected


def test_what_was_learnt_to_tell_is_the_reference(monkeypatch):
    """It is not learnt again, and is that of these pictures alone."""
    small = [small_grey(draw(k, shift=40, size=(30, 30))) for k in range(12)]
    lying = poses_needed(small)
    assert lying is not None
    alone = learn_reference(small, lying.kind)
    monkeypatch.setattr(congealing, "_align_all", lambda *_: pytest.fail("learnt again"))
    assert learn_reference(small, lying.kind, lying.learnt) == alone


@pytest.mark.parametrize(
    ("how", "most"),
    [
        ({}, 0),  # nothing differs but noise
        ({"degrees": 180, "shift": 30}, 5 * 10),
        ({"degrees": 4, "shift": 4}, 6 * 10),
    ],
)
def test_few_pictures_tell_where_all_lie_alike_or_turned(how, most, monkeypatch):
    """It is asked before every fit, and takes a tenth of the time that learning a reference takes."""
    asked, find = list[object](), PoseReference.find
    monkeypatch.setattr(congealing, "_align_all", lambda *_: pytest.fail("learnt"))
    monkeypatch.setattr(PoseReference, "find", lambda *given: asked.append(given) or find(*given))
    needed(draw(k, **how) for k in range(10))
    assert len(asked) <= most


NOISE = np.random.default_rng(0).integers(0, 255, (9, 96, 96, 3), dtype=np.uint8)
WAVES = np.sin(np.arange(400) / 6)[:, None] + np.cos(np.arange(400) / 9)


def piece_of_texture(number):
    """The same texture, seen at another place."""
    y, x = np.random.default_rng(number).integers(0, 240, 2)
    return np.repeat((110 + 40 * WAVES[y : y + SIDE, x : x + SIDE, None]).astype(np.uint8), 3, 2)


@pytest.mark.parametrize(
    ("draw_one", "count"),
    [(NOISE.__getitem__, 9), (piece_of_texture, 8), (lambda k: draw(k, degrees=180), 7)],
    ids=["noise", "texture", "few pictures"],
)
def test_what_shows_no_one_part_says_nothing(draw_one, count):
    assert needed(map(draw_one, range(count))) is None


def test_advice_names_the_option_and_passes_over_what_cannot_be_read(tmp_path):
    for k in range(9):
        Image.fromarray(draw(k, degrees=180)).save(tmp_path / f"{k}.png")
    assert [one.step for one in advise_before(open_dataset(tmp_path))] == ["--align turn"]
    (tmp_path / "0.png").write_bytes(b"x")
    assert [one.step for one in advise_before(open_dataset(tmp_path))] == ["--align turn"]
    (tmp_path / "1.png").write_bytes(b"x")
    assert not advise_before(open_dataset(tmp_path))
