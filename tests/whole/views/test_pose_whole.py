"""Poses of drawn parts, which are known; views of them, and the way back."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from flawscope.errors import InputError
from flawscope.views.congealing import MIN_REFERENCE_PICTURES, learn_reference
from flawscope.views.pose import SIDE, PoseReference
from flawscope.views.preprocess import Preprocess
from flawscope.views.resampling import small_grey

SIZE = (160, 200)  # of the pictures


def drawn(seed, kind="bracket", mirrored=False, dark=1.0):
    """A part at any place and angle on an uneven ground, [H, W, 3] uint8, and where it lies."""
    rng = np.random.default_rng(seed)
    x, y, angle = rng.uniform(75, 125), rng.uniform(70, 90), rng.uniform(-math.pi, math.pi)
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    cos, sin = math.cos(angle), math.sin(angle)
    u, v = cos * (columns - x) + sin * (rows - y), cos * (rows - y) - sin * (columns - x)
    u = -u if mirrored else u
    box = lambda a, b, across, down: np.maximum(abs(u - a) - across, abs(v - b) - down)  # noqa: E731
    shapes = {
        "bracket": np.minimum(box(0, 25, 40, 8), box(-32, 0, 8, 33)),
        "disc": np.hypot(u, v) - 36,
        "bar": box(0, 0, 60, 8),
        "board": np.maximum(box(0, 0, 76, 62), -box(50, 35, 16, 16)),
    }
    ground = 70 + 12 * ndimage.gaussian_filter(rng.standard_normal(SIZE), 3) * 6
    part = 170 + 4 * rng.standard_normal(SIZE)
    cover = np.clip(0.5 - shapes[kind], 0, 1)
    picture = dark * (ground + cover * (part - ground)) + rng.normal(0, 2, SIZE)
    return np.repeat(picture.clip(0, 255).astype(np.uint8)[..., None], 3, 2), (x, y, angle)


@pytest.fixture(scope="module")
def reference():
    return learn_reference([small_grey(drawn(seed)[0]) for seed in range(12)], "turn")


def off(found, known):
    """Errors of angles, in degrees, and of places, in shares of the longer side, but for the part's place and
    angle in the reference, which nobody has said."""
    turned = np.exp(1j * np.array([p.angle - k[2] for p, k in zip(found, known, strict=True)]))
    angles = np.degrees(np.abs(np.angle(turned / turned.mean())))
    places = [
        complex(p.x / SIDE - k[0] / SIZE[1], p.y / SIDE - k[1] / SIZE[1])
        for p, k in zip(found, known, strict=True)
    ]
    own = np.array(places) * np.exp(-1j * np.array([k[2] for k in known]))
    return angles, np.abs(own - np.median(own.real) - 1j * np.median(own.imag))


def test_new_parts_are_found_within_a_degree_and_a_hundredth_in_any_light(reference):
    pictures = [drawn(seed, dark=0.8 if seed % 2 else 1.0) for seed in range(100, 120)]
    found = [reference.find(small_grey(picture)) for picture, _ in pictures]
    angles, places = off(found, [known for _, known in pictures])
    assert angles.max() < 1
    assert places.max() < 0.01
    assert reference.period == 1
    assert np.mean([reference.p_value(pose.error) for pose in found]) < 0.85  # as far as left-out ones


def test_a_defective_part_is_found_and_an_empty_ground_is_farther_off(reference):
    pictures = [drawn(seed) for seed in range(200, 208)]
    intact = [reference.find(small_grey(picture)) for picture, _ in pictures]
    for (picture, _), pose in zip(pictures, intact, strict=True):
        picture[int(pose.y * 200 / SIDE) :][:12, int(pose.x * 200 / SIDE) :][:, :12] = 20
    found = [reference.find(small_grey(picture)) for picture, _ in pictures]
    for before, after in zip(intact, found, strict=True):
        assert abs(math.remainder(before.angle - after.angle, 2 * math.pi)) < math.radians(1)
        assert math.hypot(before.x - after.x, before.y - after.y) < 0.01 * SIDE
    ground = np.full((*SIZE, 3), 70, np.uint8)
    assert reference.find(small_grey(ground)).error > max(pose.error for pose in intact)
    assert reference.p_value(math.inf) == 1 / (1 + len(reference.errors))


def test_a_part_that_fills_most_of_the_picture_is_framed_and_found():
    pictures = [drawn(seed, "board") for seed in range(14)]
    reference = learn_reference([small_grey(picture) for picture, _ in pictures[:8]], "turn")
    assert 76 < reference.extent * SIZE[1] / SIDE < 94
    found = [reference.find(small_grey(picture)) for picture, _ in pictures[8:]]
    angles, places = off(found, [known for _, known in pictures[8:]])
    assert angles.max() < 1
    assert places.max() < 0.01


@pytest.mark.parametrize(("kind", "period"), [("disc", 0), ("bar", 2)])
def test_angles_that_look_alike_are_not_told_apart(kind, period):
    reference = learn_reference([small_grey(drawn(seed, kind)[0]) for seed in range(8)], "turn")
    assert reference.period == period
    angle = reference.find(small_grey(drawn(50, kind)[0])).angle
    assert abs(angle) <= (math.pi / period + 0.1 if period else 0)


def test_a_wheel_looks_the_same_after_a_tooth():
    """Else the teeth of an average of all angles are blurred, and no part is found."""
    y, x = np.mgrid[:80, :96] - np.array([40, 48])[:, None, None]
    rng = np.random.default_rng(3)

    def wheel():
        edge = 28 + 4 * np.tanh(4 * np.cos(18 * (np.arctan2(y, x) + rng.uniform(0, 2 * np.pi))))
        shown = 60 + 120 * np.clip(edge - np.hypot(y, x) + 0.5, 0, 1) + rng.normal(0, 2, y.shape)
        return np.repeat(shown.clip(0, 255).astype(np.uint8)[..., None], 3, 2)

    reference = learn_reference([small_grey(wheel()) for _ in range(12)], "turn")
    assert reference.period in (9, 18)
    assert all(reference.find(small_grey(wheel())).found for _ in range(6))


def test_mirrored_parts_are_told_from_others():
    pictures = [drawn(seed, mirrored=seed % 2 == 1)[0] for seed in range(8)]
    reference = learn_reference([small_grey(picture) for picture in pictures], "full")
    sides = [reference.find(small_grey(picture)).mirrored for picture in pictures]
    assert len({side == (seed % 2 == 1) for seed, side in enumerate(sides)}) == 1


@pytest.mark.parametrize("kind", ["shift", "turn"])
def test_too_few_pictures_and_pictures_that_are_alike_are_refused(kind):
    one = small_grey(drawn(0)[0])
    with pytest.raises(InputError, match="at least 8 good pictures"):
        learn_reference([one] * (MIN_REFERENCE_PICTURES - 1), kind)
    with pytest.raises(InputError, match="nothing to align"):
        learn_reference([one] * MIN_REFERENCE_PICTURES, kind)


def test_aligned_views_of_a_part_are_alike_in_every_depth(reference):
    how = Preprocess((64, 64), reference=reference)
    assert Preprocess.from_dict(json.loads(json.dumps(how.to_dict()))) == how
    (one, _), (other, _) = (how(drawn(seed)[0]) for seed in (300, 301))
    inside = (one[0] >= 0) & (other[0] >= 0)
    turned = np.abs(one[0] - other[0])[inside].mean()
    plain = np.abs(Preprocess((64, 64))(drawn(300)[0])[0] - Preprocess((64, 64))(drawn(301)[0])[0]).mean()
    assert turned < plain / 2
    deep, _ = Preprocess((64, 64), white_level=255.0, reference=reference)(drawn(300)[0].astype(np.uint16))
    assert np.array_equal(deep < 0, one < 0)
    np.testing.assert_allclose(deep, one, atol=0.02)


def test_the_frame_of_a_part_has_the_shape_that_the_network_sees(reference):
    how = Preprocess((64, 96), keep_aspect=True, tile=(32, 48), reference=reference)
    height, width = how.frame_size((600, 800))
    assert height == round(2 * reference.extent * 800 / 128)
    assert abs(width / height - 1.5) < 0.01
    assert not np.any(how.whole.geometry((height, width)).visible_mask() == 0)  # nothing is fitted in


def test_a_damaged_reference_is_refused(reference):
    lost = replace(reference, errors=(0.5, math.inf))
    assert (
        PoseReference.from_dict(json.loads(json.dumps(lost.to_dict(), allow_nan=False))).errors == lost.errors
    )
    damaged = reference.to_dict() | {"pixels": "AAAA"}
    with pytest.raises(InputError, match="damaged"):
        PoseReference.from_dict(damaged)
