"""The simulator: exact masks, visible, in the foreground, of the size asked for, the same for one seed."""

from functools import partial
from itertools import pairwise

import numpy as np
import pytest

from flawscope.errors import InputError
from flawscope.pictures.decoding import to_eight_bits
from flawscope.synthesis import (
    KINDS,
    PAPER_KINDS,
    SCALE_AREAS,
    DefectScale,
    extend_defect,
    foreground_mask,
    generated_texture,
    simulate_defect,
)
from flawscope.synthesis.materials import change_appearance
from flawscope.synthesis.simulate import VISIBLE_CHANGE, VISIBLE_LEVEL


def part(height=96, width=128, *, seed=0):
    """A dark part on a light, slightly noisy ground."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    picture = np.full((height, width, 3), 205.0)
    body = (abs(y - height / 2) < 0.3 * height) & (abs(x - width / 2) < 0.3 * width)
    picture[body] = (110, 90, 70)
    return np.clip(np.rint(picture + rng.normal(0, 2, picture.shape)), 0, 255).astype(np.uint8)


def broken(height=96, width=128):
    """The same part with a red spot and a white bar in it, and their mask."""
    picture = part(height, width, seed=1)
    y, x = np.mgrid[:height, :width]
    spot = np.hypot(y - 0.4 * height, x - 0.4 * width) < 0.08 * height
    bar = (abs(y - 0.65 * height) < 2) & (abs(x - 0.6 * width) < 0.1 * width)
    picture[spot], picture[bar] = (200, 30, 30), 250
    return picture, spot | bar


def check(good, made):
    from scipy import ndimage

    assert made.picture.dtype == np.uint8
    assert made.picture.shape == good.shape
    assert made.mask.dtype == np.bool_
    difference = np.abs(made.picture.astype(int) - good).max(-1)
    assert ((difference > 0) == made.mask).all()  # there and nowhere else
    assert VISIBLE_CHANGE[0] <= difference[made.mask].mean() <= VISIBLE_CHANGE[1]
    assert difference[made.mask].mean() == pytest.approx(made.difference, rel=1e-5)
    assert ndimage.maximum_filter(difference, 3)[made.mask].min() >= VISIBLE_LEVEL


def test_what_prn_is_trained_on_is_what_97f7321_drew():
    """Kinds, areas, differences and the state of the generator after six draws of one, written down there."""
    good, rng = part(), np.random.default_rng(0)
    foreground = foreground_mask(good)
    made = [simulate_defect(good, rng, foreground=foreground) for _ in range(4)]
    made += [extend_defect(good, *broken(), rng, foreground=foreground) for _ in range(2)]
    assert [m.kind for m in made] == ["structure", "texture", "structure", "structure", "seen", "seen"]
    assert [int(m.mask.sum()) for m in made] == pytest.approx([609, 52, 585, 244, 347, 207], rel=0.01)
    expected = [73.77, 28.17, 89.37, 23.72, 132.90, 115.97]
    assert [m.difference for m in made] == pytest.approx(expected, rel=0.01)
    assert int(rng.integers(1 << 30)) == 210543381


DRAWN = {  # pixels of the mask and its difference, of each kind, large, drawn with seed 7 on `part()`
    "texture": (521, 80.43),
    "structure": (521, 34.96),
    "paste": (441, 55.67),
    "shift": (482, 38.51),
    "blur": (131, 13.02),
    "dark": (521, 26.76),
    "bright": (521, 27.44),
    "colour": (521, 25.88),
    "missing": (437, 18.60),
    "scratch": (253, 36.00),
    "crack": (226, 51.90),
    "spot": (521, 124.71),
}


def test_every_kind_is_drawn_as_it_was():
    assert DRAWN.keys() == KINDS.keys()
    for kind, (pixels, difference) in DRAWN.items():
        made = simulate_defect(part(), np.random.default_rng(7), kind=kind, scale="large")
        assert made.kind == kind
        assert (int(made.mask.sum()), made.difference) == pytest.approx((pixels, difference), rel=0.01), kind


@pytest.mark.parametrize("scale", list(DefectScale))
@pytest.mark.parametrize("kind", list(KINDS))
def test_a_scale_is_kept_and_the_mask_is_exactly_what_changed(kind, scale):
    good = part()
    before = good.copy()
    low, high = SCALE_AREAS[scale]
    for seed in range(4):
        made = simulate_defect(good, np.random.default_rng(seed), kind=kind, scale=scale)
        check(good, made)
        assert max(4, low / 2 * made.mask.size) <= made.mask.sum() <= high * made.mask.size
    assert (good == before).all()


def makes():
    """Every way to a defect: each kind without a scale and with one, any kind, and a seen defect."""
    found = {"seen": lambda good, rng: extend_defect(good, *broken(), rng)}
    for kind in (*KINDS, None):
        for scale in (None, "medium"):
            found[f"{kind}, {scale}"] = partial(simulate_defect, kind=kind, scale=scale)
    return found


@pytest.mark.parametrize("name", makes())
def test_any_way_to_a_defect_on_any_picture(name):
    """Of any size, even, grey: the mask is exactly what changed, and it depends on the generator alone."""
    make, state = makes()[name], np.random.get_state()[1].copy()  # noqa: NPY002
    for seed, shape in enumerate([(96, 128), (16, 16), (16, 200), (61, 43), (33, 300)] * 2):
        good = part(*shape)
        before = good.copy()
        check(good, make(good, np.random.default_rng(seed)))
        assert (good == before).all()
    for grey in (0, 128, 255):
        good = np.full((48, 48, 3), grey, np.uint8)
        made = make(good, np.random.default_rng(grey))
        check(good, made)
        # what cannot be seen on it becomes a spot, and says so
        assert made.kind == "spot" or name.split(",")[0] not in {"blur", "shift", "missing", "paste"}
    good = to_eight_bits(part()[..., :1])
    made = make(good, np.random.default_rng(0))
    check(good, made)
    assert (made.picture == made.picture[..., :1]).all()
    one, same, other = (make(part(), np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert (one.picture == same.picture).all()
    assert (one.mask == same.mask).all()
    assert (one.mask != other.mask).any()
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002


def test_the_kind_asked_for_is_the_kind_made_where_it_can_be_seen():
    good = generated_texture((96, 96), np.random.default_rng(5))
    rng = np.random.default_rng(0)
    assert {simulate_defect(part(64, 64), rng, scale="large").kind for _ in range(120)} == set(KINDS)
    assert set(PAPER_KINDS) <= {simulate_defect(part(64, 64), rng).kind for _ in range(30)}
    for kind in KINDS:
        for seed in range(4):
            assert simulate_defect(good, np.random.default_rng(seed), kind=kind, scale="large").kind == kind


@pytest.mark.parametrize("strong", [False, True])
def test_appearance_changes_and_nothing_moves(strong):
    good = part()
    for seed in range(20):
        changed = change_appearance(good, np.random.default_rng(seed), count=1, strong=strong)
        assert changed.dtype == np.uint8
        assert changed.shape == good.shape
        inside, outside = changed[32:38, 45:80].mean((0, 1)), changed[:15].mean((0, 1))
        assert np.abs(inside - outside).max() > 5  # the part is still there
    many = [change_appearance(good, np.random.default_rng(s), strong=strong) for s in range(4)]
    assert all((a != b).any() for a, b in pairwise(many))
    assert (change_appearance(good, np.random.default_rng(0), count=0) == good).all()


@pytest.mark.parametrize("scale", [None, *DefectScale])
def test_simulated_defects_lie_in_the_foreground(scale):
    good = part()
    foreground = foreground_mask(good)
    assert foreground.mean() < 0.6
    for seed in range(40):
        made = simulate_defect(good, np.random.default_rng(seed), scale=scale, foreground=foreground)
        assert not (made.mask & ~foreground).any()


def test_a_seen_defect_that_fits_stays_and_one_that_does_not_moves_into_the_foreground():
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


def test_parts_that_move_stay_whole_and_inside_the_frame():
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


def test_a_seen_defect_of_another_size_is_stretched():
    good = part(64, 64)
    for shape in ((32, 50), (200, 150)):
        made = extend_defect(good, *broken(*shape), np.random.default_rng(0))
        check(good, made)
        assert made.kind == "seen"
    mask = np.zeros((96, 128), np.bool_)
    mask[50, 60] = True  # smaller than a pixel of the picture
    check(good, extend_defect(good, part(), mask, np.random.default_rng(0)))


def test_wrong_calls_are_refused_in_one_line():
    rng = np.random.default_rng(0)
    defect, mask = broken()
    with pytest.raises(InputError, match=r"'graze': choose of texture, structure"):
        simulate_defect(part(), rng, kind="graze")
    with pytest.raises(InputError, match="small, medium, large"):
        simulate_defect(part(), rng, scale="huge")
    with pytest.raises(InputError, match=r"40x15.*16x16"):
        simulate_defect(part(15, 40), rng)
    with pytest.raises(InputError, match=r"picture is .*uint8"):
        simulate_defect(part() / 255, rng)
    with pytest.raises(InputError, match=r"texture is .*uint8"):
        simulate_defect(part(), rng, kind="texture", textures=lambda rng: np.ones((8, 8, 3)))
    with pytest.raises(InputError, match="foreground"):
        simulate_defect(part(), rng, foreground=mask[:5] | True)
    with pytest.raises(InputError, match="empty"):
        extend_defect(part(), defect, np.zeros_like(mask), rng)
    with pytest.raises(InputError, match="agree"):
        extend_defect(part(), defect, mask[:50], rng)


@pytest.mark.parametrize("contrast", [5.0, 10.0, 25.0, 60.0])
@pytest.mark.parametrize("grey", [False, True])
def test_a_defect_has_the_contrast_asked_for(contrast, grey):
    rng = np.random.default_rng(8)
    good = rng.integers(90, 160, (96, 96, 1 if grey else 3)).astype(np.uint8).repeat(3 if grey else 1, axis=2)
    for kind in KINDS:
        made = simulate_defect(good, np.random.default_rng(4), kind=kind, scale="large", contrast=contrast)
        apart = np.abs(made.picture.astype(int) - good).max(axis=2)
        assert ((apart > 0) == made.mask).all(), kind
        assert made.difference == pytest.approx(apart[made.mask].mean()), kind
        assert made.difference == pytest.approx(contrast, rel=0.3, abs=1), (
            kind
        )  # it may end at black or white
        plain = simulate_defect(good, np.random.default_rng(4), kind=kind, scale="large")
        assert (made.mask <= plain.mask).all(), kind  # the same shape and place
        assert not grey or (made.picture == made.picture[..., :1]).all()
