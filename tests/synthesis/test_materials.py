"""What defects are made of, changes of appearance, and where the object is."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from flawscope.pictures.decoding import to_eight_bits
from flawscope.synthesis import foreground_mask
from flawscope.synthesis.materials import (
    ANY_SIZE,
    Request,
    changed_appearance,
    displaced,
    piece,
    shuffled,
    surroundings,
    texture,
)


def scene(height: int = 96, width: int = 128) -> np.ndarray:
    """A grey part with a dark hole on a light, noisy ground."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    picture = np.full((height, width, 3), 205.0)
    body = (abs(y - height / 2) < 0.3 * height) & (abs(x - width / 2) < 0.3 * width)
    picture[body] = (110, 90, 70)
    picture[np.hypot(y - height / 2, x - width / 2) < 0.1 * height] = 30
    return np.clip(np.rint(picture + rng.normal(0, 3, picture.shape)), 0, 255).astype(np.uint8)


def request_for(
    picture: np.ndarray, texture: np.ndarray | None = None, area: tuple[float, float] = ANY_SIZE
) -> Request:
    within = np.ones(picture.shape[:2], np.bool_)
    return Request(picture, within, area, lambda rng: picture if texture is None else texture)


def test_a_texture_covers_the_picture_or_the_defect() -> None:
    """As published it is stretched over the picture, so that a small defect shows a small part of it."""
    good = scene()
    halves = np.zeros((64, 64, 3), np.uint8)
    halves[32:] = 255
    mask = np.zeros(good.shape[:2], np.bool_)
    mask[40:52, 60:90] = True
    spread = {ANY_SIZE: 0, (0.01, 0.05): 0}
    for area in spread:
        for seed in range(20):
            made = texture(request_for(good, halves, area), mask, np.random.default_rng(seed))
            spread[area] += int(np.ptp(made[mask].astype(int), 0).max() > 100)
    assert spread[ANY_SIZE] < 10
    assert spread[0.01, 0.05] > 8
    assert spread[0.01, 0.05] > spread[ANY_SIZE]


def test_shuffling_only_moves_pixels_of_the_picture() -> None:
    good = np.arange(64 * 48 * 3, dtype=np.uint32).reshape(64, 48, 3).astype(np.uint8)
    everywhere = np.ones((64, 48), np.bool_)
    mixed = shuffled(good, everywhere, np.random.default_rng(0))
    assert (np.sort(mixed.reshape(-1, 3), 0) == np.sort(good.reshape(-1, 3), 0)).all()
    assert (mixed != good).any()
    assert shuffled(good[:5, :3], everywhere[:5, :3], np.random.default_rng(0)).shape == (5, 3, 3)


def test_a_pasted_piece_shows_another_place_of_the_object() -> None:
    good = np.full((80, 80, 3), (200, 200, 200), np.uint8)
    good[10:40, 10:40] = (250, 20, 20)
    within = (good == (250, 20, 20)).all(-1)
    mask = np.zeros((80, 80), np.bool_)
    mask[60:66, 60:66] = True
    request = request_for(good)._replace(within=within)
    red = [(piece(request, mask, np.random.default_rng(s))[mask][:, 1] < 110).mean() for s in range(20)]
    assert np.mean(red) > 0.8


def test_what_is_displaced_does_not_jump_at_the_edge_of_the_mask() -> None:
    y, x = np.mgrid[:90, :90]
    good = np.repeat((2 * x).astype(np.uint8)[..., None], 3, 2)  # a slope: no steps
    mask = np.hypot(y - 45, x - 45) < 20
    for seed in range(10):
        moved = displaced(request_for(good), mask, np.random.default_rng(seed)).astype(int)
        assert (moved != good).any()
        edge = np.hypot(y - 45, x - 45)
        rim = mask & (edge > 18.9)
        assert np.abs(moved - good)[rim].max() <= 6


def test_a_missing_part_looks_like_its_surroundings() -> None:
    good = np.full((80, 80, 3), (40, 120, 200), np.uint8)
    good[30:50, 30:50] = 0
    mask = np.zeros((80, 80), np.bool_)
    mask[28:52, 28:52] = True
    filled = surroundings(request_for(good), mask, np.random.default_rng(0))
    assert np.abs(filled.astype(int) - (40, 120, 200)).max() <= 2
    grainy = good + np.random.default_rng(1).integers(-9, 10, good.shape).astype(np.uint8) * (good > 0)
    filled = surroundings(request_for(grainy), mask, np.random.default_rng(0))
    assert 3 < filled[mask].std(0).mean() < 12  # not smoother than what is around it


@pytest.mark.parametrize("strong", [False, True])
def test_appearance_changes_and_nothing_moves(strong: bool) -> None:
    good = scene()
    for seed in range(20):
        changed = changed_appearance(good, np.random.default_rng(seed), count=1, strong=strong)
        assert changed.dtype == np.uint8
        assert changed.shape == good.shape
        inside, outside = changed[32:38, 45:80].mean((0, 1)), changed[:15].mean((0, 1))
        assert np.abs(inside - outside).max() > 5  # the part is still there
    many = [changed_appearance(good, np.random.default_rng(s), strong=strong) for s in range(4)]
    assert all((a != b).any() for a, b in pairwise(many))
    assert (changed_appearance(good, np.random.default_rng(0), count=0) == good).all()


def test_deep_and_grey_pictures_become_eight_bits() -> None:
    deep = np.asarray([[[0], [2048], [4095]]], np.uint16)
    assert to_eight_bits(deep, 4095)[0, :, 0].tolist() == [0, 128, 255]
    assert to_eight_bits(deep).shape == (1, 3, 3)
    assert to_eight_bits(deep, 2048)[0, :, 2].tolist() == [0, 255, 255]
    floats = np.asarray([[[0.0, 0.5, 1.0]]], np.float32)
    assert to_eight_bits(floats, 1.0).tolist() == [[[0, 128, 255]]]
    view = np.broadcast_to(np.zeros((4, 4, 1), np.uint8), (4, 4, 3))
    assert to_eight_bits(view).flags.c_contiguous


def test_the_foreground_is_the_part() -> None:
    good = scene(200, 240)
    found = foreground_mask(good)
    assert found[70:130, 80:160].all()  # the hole in it too
    assert not found[:35].any()
    assert 0.3 < found.mean() < 0.5


@pytest.mark.parametrize("seed", range(6))
def test_the_foreground_of_a_texture_is_everywhere(seed: int) -> None:
    rng = np.random.default_rng(seed)
    noise = np.clip(rng.normal(120, 20, (150, 150, 3)), 0, 255).astype(np.uint8)
    assert foreground_mask(noise).all()
    assert foreground_mask(np.full((40, 60, 3), 90, np.uint8)).all()
    assert foreground_mask(np.full((4, 4, 3), 90, np.uint8)).all()
