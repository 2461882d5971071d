from __future__ import annotations

import numpy as np
import pytest

from flawscope.errors import InputError
from flawscope.synthesis import (
    KINDS,
    SCALE_AREAS,
    VISIBLE_LEVEL,
    VISIBLE_MEAN,
    DefectScale,
    Simulated,
    cut_paste,
    fill_from_surroundings,
    foreground_mask,
    generated_texture,
    local_shift,
    paste_texture,
    shuffle_patches,
    simulate_defect,
)


def scene(height: int = 96, width: int = 128, seed: int = 0) -> np.ndarray:
    """A grey part with a dark hole on a light, noisy ground."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    picture = np.full((height, width, 3), 205.0)
    body = (abs(y - height / 2) < 0.3 * height) & (abs(x - width / 2) < 0.3 * width)
    picture[body] = (110, 90, 70)
    picture[np.hypot(y - height / 2, x - width / 2) < 0.1 * height] = 30
    return np.clip(np.rint(picture + rng.normal(0, 3, picture.shape)), 0, 255).astype(np.uint8)


def check(good: np.ndarray, made: Simulated) -> None:
    from scipy import ndimage

    assert made.picture.dtype == np.uint8
    assert made.picture.shape == good.shape
    assert made.mask.dtype == np.bool_
    assert made.mask.any()
    assert (made.picture[~made.mask] == good[~made.mask]).all()
    difference = np.abs(made.picture.astype(int) - good).max(-1)
    assert difference[made.mask].mean() >= VISIBLE_MEAN
    assert ndimage.maximum_filter(difference, 3)[made.mask].min() >= VISIBLE_LEVEL


@pytest.mark.parametrize("scale", list(DefectScale))
@pytest.mark.parametrize("kind", list(KINDS))
def test_the_mask_is_exactly_what_changed(kind: str, scale: DefectScale) -> None:
    good = scene()
    before = good.copy()
    for seed in range(4):
        made = simulate_defect(good, np.random.default_rng(seed), kind=kind, scale=scale)
        check(good, made)
        assert made.scale is scale
        low, high = SCALE_AREAS[scale]
        assert max(4, int(low / 2 * made.mask.size)) <= made.mask.sum() <= high * made.mask.size
    assert (good == before).all()


@pytest.mark.parametrize("shape", [(16, 16), (16, 200), (61, 43), (33, 512)])
def test_any_size(shape: tuple[int, int]) -> None:
    good = scene(*shape)
    for seed in range(25):
        check(good, simulate_defect(good, np.random.default_rng(seed)))


def test_the_kind_asked_for_is_the_kind_made_where_it_can_be_seen() -> None:
    good = generated_texture((128, 128), np.random.default_rng(5))
    for kind in KINDS:
        kinds = [
            simulate_defect(good, np.random.default_rng(s), kind=kind, scale="large").kind for s in range(4)
        ]
        assert kinds == [kind] * 4


@pytest.mark.parametrize("grey", [0, 128, 255])
def test_an_even_picture_still_gets_a_defect(grey: int) -> None:
    good = np.full((48, 48, 3), grey, np.uint8)
    for kind in KINDS:
        made = simulate_defect(good, np.random.default_rng(1), kind=kind)
        check(good, made)
        if kind in {"blur", "shift", "missing", "paste"}:
            assert made.kind == "spot"  # nothing to see in it, and it says so


def test_same_generator_state_same_defect_and_no_global_state() -> None:
    good = scene()
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    for kind in [*KINDS, None]:
        first = simulate_defect(good, np.random.default_rng(9), kind=kind)
        again = simulate_defect(good, np.random.default_rng(9), kind=kind)
        assert (first.picture == again.picture).all()
        assert (first.mask == again.mask).all()
        assert first[2:] == again[2:]
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002


def test_all_kinds_and_scales_are_drawn() -> None:
    good = scene(64, 64)
    rng = np.random.default_rng(0)
    made = [simulate_defect(good, rng) for _ in range(250)]
    assert {m.kind for m in made} == set(KINDS)
    assert {m.scale for m in made} == set(DefectScale)


def test_defects_stay_in_the_foreground() -> None:
    good = scene()
    foreground = foreground_mask(good)
    for seed in range(40):
        mask = simulate_defect(good, np.random.default_rng(seed), foreground=foreground).mask
        assert not (mask & ~foreground).any()


def test_the_texture_is_what_appears() -> None:
    good = scene()
    red = np.zeros((300, 200, 3), np.uint8)
    red[..., 0] = 255
    mask = np.zeros(good.shape[:2], np.bool_)
    mask[20:50, 30:70] = True
    rng = np.random.default_rng(0)
    opaque = paste_texture(good, mask, red, 1.0, rng)
    assert (opaque[30:40, 40:60] == (255, 0, 0)).all()
    half = paste_texture(good, mask, red, 0.5, rng)
    np.testing.assert_allclose(half[30:40, 40:60], (good[30:40, 40:60] / 2.0) + (127.5, 0, 0), atol=1)
    for changed in (opaque, half):
        assert (changed[~mask] == good[~mask]).all()
    tiny = paste_texture(good, mask, red[:2, :3], 1.0, rng)  # a texture smaller than the defect
    assert (tiny[35, 50] == (255, 0, 0)).all()


def test_a_texture_in_another_scale_is_refused() -> None:
    good = scene()
    mask = np.ones(good.shape[:2], np.bool_)
    with pytest.raises(InputError, match="uint8"):
        paste_texture(good, mask, np.ones((8, 8, 3), np.float32), 0.5, np.random.default_rng(0))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="opacity"):
        paste_texture(good, mask, good, 0.0, np.random.default_rng(0))


def test_shuffling_only_moves_pixels_of_the_picture() -> None:
    good = np.arange(64 * 48 * 3, dtype=np.uint32).reshape(64, 48, 3).astype(np.uint8)
    everywhere = np.ones((64, 48), np.bool_)
    mixed = shuffle_patches(good, everywhere, np.random.default_rng(0))
    assert (np.sort(mixed.reshape(-1, 3), 0) == np.sort(good.reshape(-1, 3), 0)).all()
    assert (mixed != good).any()
    assert shuffle_patches(good[:5, :3], everywhere[:5, :3], np.random.default_rng(0)).shape == (5, 3, 3)


def test_effects_leave_all_outside_alone() -> None:
    good = scene()
    for seed in range(10):
        rng = np.random.default_rng(seed)
        changed, mask = cut_paste(good, rng, area=(0.01, 0.05))
        assert (changed[~mask] == good[~mask]).all()
        assert (local_shift(good, mask, rng)[~mask] == good[~mask]).all()
        assert (fill_from_surroundings(good, mask, rng)[~mask] == good[~mask]).all()


def test_a_missing_part_looks_like_its_surroundings() -> None:
    good = np.full((80, 80, 3), (40, 120, 200), np.uint8)
    good[30:50, 30:50] = 0
    mask = np.zeros((80, 80), np.bool_)
    mask[28:52, 28:52] = True
    filled = fill_from_surroundings(good, mask, np.random.default_rng(0))
    assert np.abs(filled.astype(int) - (40, 120, 200)).max() <= 2
    whole = fill_from_surroundings(good, np.ones((80, 80), np.bool_), np.random.default_rng(0))
    assert whole.std((0, 1)).max() == 0


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


def test_wrong_calls_are_refused_in_one_line() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match="scratch"):
        simulate_defect(scene(), rng, kind="graze")
    with pytest.raises(InputError, match="medium"):
        simulate_defect(scene(), rng, scale="huge")
    with pytest.raises(InputError, match="16x16"):
        simulate_defect(scene(15, 40), rng)
    with pytest.raises(InputError, match="uint8"):
        simulate_defect(scene().astype(np.float32) / 255, rng)  # type: ignore[arg-type]
