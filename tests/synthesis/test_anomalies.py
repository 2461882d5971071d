"""Simulated and extended anomalies: exact masks, visible, in the foreground, the same for the same seed."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest

from flawscope.errors import InputError
from flawscope.synthesis import (
    ANOMALIES,
    VISIBLE,
    Anomaly,
    changed_appearance,
    extend_defect,
    foreground_mask,
    generated_texture,
    simulate_anomaly,
    to_eight_bits,
)

Make = Callable[..., Anomaly]


def part(height: int = 96, width: int = 128, *, seed: int = 0) -> np.ndarray:
    """A dark part on a light, slightly noisy ground."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    picture = np.full((height, width, 3), 205.0)
    body = (abs(y - height / 2) < 0.3 * height) & (abs(x - width / 2) < 0.3 * width)
    picture[body] = (110, 90, 70)
    return np.clip(np.rint(picture + rng.normal(0, 2, picture.shape)), 0, 255).astype(np.uint8)


def broken(height: int = 96, width: int = 128) -> tuple[np.ndarray, np.ndarray]:
    """The same part with a red spot and a white bar in it, and their mask."""
    picture = part(height, width, seed=1)
    y, x = np.mgrid[:height, :width]
    spot = np.hypot(y - 0.4 * height, x - 0.4 * width) < 0.08 * height
    bar = (abs(y - 0.65 * height) < 2) & (abs(x - 0.6 * width) < 0.1 * width)
    picture[spot], picture[bar] = (200, 30, 30), 250
    return picture, spot | bar


def texture(good: np.ndarray, rng: np.random.Generator, **settings: object) -> Anomaly:
    return simulate_anomaly(good, rng, kind="texture", **settings)  # type: ignore[arg-type]


def structure(good: np.ndarray, rng: np.random.Generator, **settings: object) -> Anomaly:
    return simulate_anomaly(good, rng, kind="structure", **settings)  # type: ignore[arg-type]


def seen(good: np.ndarray, rng: np.random.Generator, **settings: object) -> Anomaly:
    return extend_defect(good, *broken(), rng, **settings)  # type: ignore[arg-type]


ALL = pytest.mark.parametrize("make", [texture, structure, seen])


def check(good: np.ndarray, made: Anomaly, visible: tuple[float, float] = VISIBLE) -> None:
    assert made.picture.dtype == np.uint8
    assert made.picture.shape == good.shape
    assert made.mask.dtype == np.bool_
    difference = np.abs(made.picture.astype(int) - good).max(-1)
    assert ((difference > 0) == made.mask).all()  # there and nowhere else
    assert visible[0] <= difference[made.mask].mean() <= visible[1]
    assert difference[made.mask].mean() == pytest.approx(made.difference, rel=1e-5)


@ALL
def test_the_mask_is_where_the_picture_differs_and_the_change_is_visible(make: Make) -> None:
    good = part()
    before = good.copy()
    for seed in range(25):
        made = make(good, np.random.default_rng(seed))
        check(good, made)
        assert made.kind == make.__name__
    assert (good == before).all()


@ALL
def test_any_range_of_visibility_is_kept(make: Make) -> None:
    good = part()
    for visible in ((50.0, 90.0), (6.0, 30.0)):
        for seed in range(8):
            check(good, make(good, np.random.default_rng(seed), visible=visible), visible)


@ALL
def test_the_same_generator_gives_the_same_defect_and_another_one_another(make: Make) -> None:
    good = part()
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    made = [make(good, np.random.default_rng(seed)) for seed in (3, 3, 4)]
    assert (made[0].picture == made[1].picture).all()
    assert (made[0].mask == made[1].mask).all()
    assert (made[0].mask != made[2].mask).any()
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002


@ALL
@pytest.mark.parametrize("shape", [(16, 16), (16, 200), (61, 43), (33, 300)])
def test_any_size(make: Make, shape: tuple[int, int]) -> None:
    good = part(*shape)
    for seed in range(8):
        check(good, make(good, np.random.default_rng(seed)))


@ALL
@pytest.mark.parametrize("grey", [0, 128, 255])
def test_an_even_picture_still_gets_a_defect(make: Make, grey: int) -> None:
    good = np.full((48, 48, 3), grey, np.uint8)
    for seed in range(5):
        check(good, make(good, np.random.default_rng(seed)))


@ALL
def test_a_grey_picture_stays_grey(make: Make) -> None:
    good = to_eight_bits(part()[..., :1])
    for seed in range(8):
        made = make(good, np.random.default_rng(seed))
        check(good, made)
        assert (made.picture == made.picture[..., :1]).all()


def test_simulated_defects_lie_in_the_foreground() -> None:
    good = part()
    foreground = foreground_mask(good)
    assert foreground.mean() < 0.6
    for kind in ANOMALIES:
        for seed in range(20):
            made = simulate_anomaly(good, np.random.default_rng(seed), kind=kind, foreground=foreground)
            assert not (made.mask & ~foreground).any()


@pytest.mark.parametrize("make", [texture, structure])
def test_on_a_texture_defects_lie_everywhere(make: Make) -> None:
    good = generated_texture((64, 64), np.random.default_rng(3))
    where = np.zeros((64, 64), np.bool_)
    for seed in range(80):
        nowhere = None if seed % 2 else np.zeros((64, 64), np.bool_)
        where |= make(good, np.random.default_rng(seed), foreground=nowhere).mask
    assert where.mean() > 0.9


def test_a_seen_defect_that_fits_stays_and_one_that_does_not_moves_into_the_foreground() -> None:
    good = part()
    defect, mask = broken()
    rows, columns = np.nonzero(mask)
    middle = np.asarray([rows.mean(), columns.mean()])
    body = np.abs(good.astype(int) - (110, 90, 70)).max(-1) < 25
    near = far = 0
    for seed in range(30):
        made = extend_defect(good, defect, mask, np.random.default_rng(seed), foreground=body)
        # pasted in place, up to a third may reach over the edge
        assert (made.mask & body).sum() > 0.6 * made.mask.sum()
        rows, columns = np.nonzero(made.mask)
        near += bool(np.abs((rows.mean(), columns.mean()) - middle).max() < 8)
        corner = np.zeros_like(body)
        corner[:30, :30] = True  # where nothing of it was
        moved = extend_defect(good, defect, mask, np.random.default_rng(seed), foreground=corner)
        assert not (moved.mask & ~corner).any()
        far += moved.kind == "seen"
    assert near > 10
    assert far > 20


def test_parts_that_move_stay_whole_and_inside_the_frame() -> None:
    good = np.full((80, 80, 3), 120, np.uint8)
    defect, mask = good.copy(), np.zeros((80, 80), np.bool_)
    mask[2:10, 2:10] = mask[60:68, 60:68] = True
    defect[mask] = (250, 20, 20)
    edge = np.zeros((80, 80), np.bool_)
    edge[:, -14:] = True
    areas = []
    for seed in range(30):
        made = extend_defect(good, defect, mask, np.random.default_rng(seed), foreground=edge)
        check(good, made)
        assert not (made.mask & ~edge).any()
        areas.append(int(made.mask.sum()))
    assert np.median(areas) > 0.5 * mask.sum()


def test_a_seen_defect_of_another_size_is_stretched() -> None:
    good = part(64, 64)
    for shape in ((32, 50), (200, 150)):
        made = extend_defect(good, *broken(*shape), np.random.default_rng(0))
        check(good, made)
        assert made.kind == "seen"
    mask = np.zeros((96, 128), np.bool_)
    mask[50, 60] = True  # smaller than a pixel of the picture
    check(good, extend_defect(good, part(), mask, np.random.default_rng(0)))


def test_a_defect_that_cannot_be_seen_becomes_a_spot() -> None:
    good = np.zeros((64, 64, 3), np.uint8)
    made = extend_defect(good, good.copy(), np.eye(64, dtype=np.bool_), np.random.default_rng(0))
    assert made.kind in ("seen", "spot")  # noise may have made it visible
    check(good, made)
    # a texture that is the picture
    even = np.full((64, 64, 3), 120, np.uint8)
    made = texture(even, np.random.default_rng(1), textures=lambda rng: even[:1, :1], visible=(60.0, 160.0))
    assert made.kind == "spot"
    check(even, made, (60.0, 160.0))


def test_the_texture_is_what_appears_and_the_opacity_how_much() -> None:
    good = np.full((64, 64, 3), 100, np.uint8)
    white = np.full((5, 9, 3), 250, np.uint8)
    change = {}
    for opacity in (0.2, 1.0):
        made = [
            texture(good, np.random.default_rng(s), textures=lambda rng: white, opacity=(opacity, opacity))
            for s in range(10)
        ]
        assert all(m.picture[m.mask].min() > 100 for m in made)
        change[opacity] = np.mean([m.difference for m in made])
    assert change[0.2] < 0.3 * change[1.0]


def test_masks_differ_in_size_and_number_of_islands() -> None:
    from scipy import ndimage

    good = part(128, 128)
    rng = np.random.default_rng(0)
    masks = [simulate_anomaly(good, rng).mask for _ in range(60)]
    areas = sorted(float(m.mean()) for m in masks)
    assert areas[50] > 8 * areas[10]
    islands = [ndimage.label(m)[1] for m in masks]
    assert sum(n <= 3 for n in islands) > 15
    assert sum(n >= 8 for n in islands) > 5


def test_both_kinds_are_drawn() -> None:
    good, rng = part(48, 48), np.random.default_rng(0)
    assert {simulate_anomaly(good, rng).kind for _ in range(40)} >= set(ANOMALIES)


def test_wrong_calls_are_refused_in_one_line() -> None:
    rng = np.random.default_rng(0)
    defect, mask = broken()
    with pytest.raises(InputError, match="texture, structure"):
        simulate_anomaly(part(), rng, kind="scratch")
    with pytest.raises(InputError, match="opacity"):
        simulate_anomaly(part(), rng, opacity=(0.0, 0.5))
    with pytest.raises(InputError, match="visible"):
        simulate_anomaly(part(), rng, visible=(20.0, 25.0))
    with pytest.raises(InputError, match="16x16"):
        simulate_anomaly(part(15, 40), rng)
    with pytest.raises(InputError, match="uint8"):
        simulate_anomaly(part() / 255, rng)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="uint8"):
        texture(part(), rng, textures=lambda rng: np.ones((8, 8, 3)))
    with pytest.raises(InputError, match="foreground"):
        simulate_anomaly(part(), rng, foreground=mask[:5] | True)
    with pytest.raises(InputError, match="empty"):
        extend_defect(part(), defect, np.zeros_like(mask), rng)
    with pytest.raises(InputError, match="agree"):
        extend_defect(part(), defect, mask[:50], rng)


# ------------------------------------------------------------------------------------------------ appearance


@pytest.mark.parametrize("strong", [False, True])
def test_appearance_changes_and_nothing_moves(strong: bool) -> None:
    good = part()
    for seed in range(20):
        changed = changed_appearance(good, np.random.default_rng(seed), count=1, strong=strong)
        assert changed.dtype == np.uint8
        assert changed.shape == good.shape
        inside, outside = changed[35:60, 50:80].mean((0, 1)), changed[:15].mean((0, 1))
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
