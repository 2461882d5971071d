"""The foreground of a product: parts on drawn patterned grounds whose true masks are known."""

from functools import cache

import numpy as np
import pytest
from PIL import Image, ImageDraw

from flawscope.synthesis import Foreground, foreground_mask

SIDE = 256


def board(draw, rng):
    """Copper strips with holes."""
    draw.rectangle([0, 0, 3 * SIDE, 3 * SIDE], fill=(176, 110, 84))
    right, down = rng.normal(0, 4, 2) + 100
    for x in range(0, 3 * SIDE, 56):
        draw.rectangle([x + right - 5, 0, x + right + 5, 3 * SIDE], fill=(48, 32, 26))
        for y in range(0, 3 * SIDE, 56):
            middle = x + right + 28, y + down
            draw.ellipse([*(m - 10 for m in middle), *(m + 10 for m in middle)], fill=(34, 30, 32))


def grid(draw, rng):
    """Bars at any offset."""
    draw.rectangle([0, 0, 3 * SIDE, 3 * SIDE], fill=(60, 66, 80))
    right, down = rng.uniform(0, 36, 2)
    for k in range(0, 3 * SIDE, 36):
        draw.rectangle([k + right - 3, 0, k + right + 3, 3 * SIDE], fill=(170, 176, 180))
        draw.rectangle([0, k + down - 3, 3 * SIDE, k + down + 3], fill=(150, 156, 160))


def chip(draw, c):
    """Dark as the holes of the board, on three bright leads."""
    for k in (-1, 0, 1):
        draw.line([c + 28 * k, c, c + 42 * k, c + 45, c + 42 * k, c + 85], fill=(190, 190, 186, 255), width=9)
    draw.rectangle([c - 52, c - 75, c + 52, c + 25], fill=(14, 14, 16, 255))


def bracket(draw, c):
    corners = [(-70, -70), (-30, -70), (-30, 30), (75, 30), (75, 70), (-70, 70)]
    draw.polygon([(c + x, c + y) for x, y in corners], fill=(210, 170, 60, 255))


PRODUCTS = {"chip": (board, chip, 4.0), "bracket": (grid, bracket, 360.0)}  # the last: degrees turned at most


@cache
def drawn(name, count, part=True):
    """Good pictures of a product, each in other light, and the true masks."""
    ground, shape, degrees = PRODUCTS[name]
    pairs = []
    for index in range(count):
        rng = np.random.default_rng([5, index])
        picture = Image.new("RGB", (2 * SIDE, 2 * SIDE))
        ground(ImageDraw.Draw(picture), rng)
        layer = Image.new("RGBA", picture.size, (0, 0, 0, 0))
        shape(ImageDraw.Draw(layer), SIDE)
        move = tuple(rng.normal(0, 3, 2).tolist())
        layer = layer.rotate(float(rng.uniform(0, degrees)), Image.Resampling.BICUBIC, translate=move)
        if part:
            picture.paste(layer, (0, 0), layer)
        middle = (slice(SIDE // 2, SIDE // 2 + SIDE),) * 2
        light = rng.normal(1, 0.08) * (1 + rng.normal(0, 0.02, 3))
        noisy = np.asarray(picture)[middle] * light + rng.normal(0, 4, (SIDE, SIDE, 3))
        pairs.append((np.clip(noisy, 0, 255).astype(np.uint8), np.asarray(layer)[middle][..., 3] > 127))
    return pairs


@cache
def learnt(name):
    return Foreground.of(picture for picture, _ in drawn(name, 11)[:8])


def overlap(found, true):
    return float((found & true).sum() / (found | true).sum())


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_part_on_a_patterned_ground_is_found(name):
    """Also where it is turned, and in other light than in the pictures learnt from."""
    unseen = drawn(name, 11)[8:]
    assert min(overlap(learnt(name).mask(picture), true) for picture, true in unseen) > 0.8
    assert min(overlap(foreground_mask(picture), true) for picture, true in unseen) < 0.3


def test_the_ground_alone_and_a_part_in_a_single_picture_are_texture():
    for name in PRODUCTS:
        pictures = [picture for picture, _ in drawn(name, 8, part=False)]
        foreground = Foreground.of(pictures)
        assert all(foreground.mask(picture).all() for picture in pictures)
    odd, _ = drawn("bracket", 11)[0]
    pictures = [odd, *(picture for picture, _ in drawn("bracket", 8, part=False)[1:])]
    assert Foreground.of(pictures).mask(odd).all()


def test_grey_pictures_and_other_sizes():
    pictures = [picture for picture, _ in drawn("bracket", 11)]
    grey = [np.repeat(picture[..., 1:2], 3, 2) for picture in pictures]
    foreground = Foreground.of(grey[:8])
    assert min(overlap(foreground.mask(grey[k]), drawn("bracket", 11)[k][1]) for k in (8, 10)) > 0.8

    larger, true = (np.repeat(np.repeat(both, 2, 0), 2, 1) for both in drawn("chip", 11)[10])
    assert overlap(learnt("chip").mask(larger), true) > 0.8
    cut = [np.ascontiguousarray(picture[8:, :-24]) for picture in pictures]
    mixed = [*pictures[:4], *cut[4:8], cut[10]]
    found = Foreground.of(mixed[:8]).mask(mixed[8])
    assert overlap(found, drawn("bracket", 11)[10][1][8:, :-24]) > 0.8


def test_narrow_pictures_and_parts_that_fill_the_frame_are_judged_one_by_one():
    """Its border is like nothing far from it, and so no ground."""
    layout = np.random.default_rng(3)
    base = np.asarray(Image.fromarray(layout.integers(0, 256, (9, 9, 3), np.uint8)).resize((128, 128)))
    noise = [np.random.default_rng(k).normal(0, 3, base.shape) for k in range(10)]
    pictures = [np.clip(base + one, 0, 255).astype(np.uint8) for one in noise]
    foreground = Foreground.of(pictures)
    assert all((foreground.mask(picture) == foreground_mask(picture)).all() for picture in pictures)
    narrow = [picture[:16] for picture, _ in drawn("chip", 11)[:8]]
    assert (Foreground.of(narrow).mask(narrow[0]) == foreground_mask(narrow[0])).all()
    assert learnt("chip").mask(narrow[0]).all()
