import numpy as np
import pytest

from flawscope.views.view_looks import (
    SIDE,
    VIEW_LOOKS_KEY,
    ViewLooks,
    find_identical,
    look_different,
    thumbnail,
)


def seen(view, seed, shift=0.0):
    """A picture [3, 60, 90] of a view: a bright square at another place in each."""
    rng = np.random.default_rng([seed, view])
    image = np.full((3, 60, 90), 0.3, np.float32)
    image[:, 20:40, 10 + 25 * view : 30 + 25 * view] = 0.7
    return np.asarray(image + shift + rng.normal(0, 0.02, image.shape), np.float32)


def learn(views, count=12):
    return ViewLooks.learn({str(v): [thumbnail(seen(v, k)) for k in range(count)] for v in range(views)})


def test_a_thumbnail_is_the_mean_of_its_cells_and_reads_through_padding():
    image = np.random.default_rng(0).random((3, 64, 128), np.float32)
    cells = image.reshape(3, SIDE, 8, SIDE, 16).mean(axis=(2, 4)).ravel()
    assert thumbnail(image) == pytest.approx(cells, abs=1e-6)
    assert thumbnail(-1 - image) == pytest.approx(cells, abs=1e-6)
    assert thumbnail(image[:, :5, :3]).shape == (3 * SIDE * SIDE,)  # smaller than a thumbnail


def test_each_picture_is_told_from_the_other_views_and_good_ones_are_left_alone():
    looks = learn(3)
    looks = ViewLooks.from_facts({VIEW_LOOKS_KEY: looks.to_dict()})
    for view in range(3):
        for k in range(100, 160):
            look = thumbnail(seen(view, k))
            assert looks.shown_instead(str(view), look) is None
            for named in {0, 1, 2} - {view}:
                assert looks.shown_instead(str(named), look) == str(view)
    assert looks.shown_instead("of another name", look) is None


def test_what_resembles_no_view_is_not_called_exchanged():
    looks = learn(2)
    for strange in (np.zeros((3, 60, 90), np.float32), seen(1, 7, shift=0.3), seen(2, 7)):
        assert looks.shown_instead("0", thumbnail(strange)) is None


def test_views_that_look_alike_are_never_called_exchanged():
    same = {name: [thumbnail(seen(0, 50 * v + k)) for k in range(12)] for v, name in enumerate("ab")}
    looks = ViewLooks.learn(same)
    assert all(looks.shown_instead("a", look) is None for look in same["b"])
    assert learn(2, count=3) is None  # too few to know


def test_one_picture_twice_is_found():
    one, two = thumbnail(seen(0, 1)), thumbnail(seen(0, 2))
    assert find_identical({"a": one, "b": two, "c": one.copy()}) == ("a", "c")
    assert find_identical({"a": one, "b": two}) is None


@pytest.mark.parametrize("damage", [{}, {"views": ["a"]}, {"means": [[1.0]]}, {"spread": None}])
def test_damaged_looks_are_none(damage):
    kept = learn(2).to_dict() | damage if damage else None
    assert ViewLooks.from_facts({VIEW_LOOKS_KEY: kept}) is None


def test_views_that_look_different_are_told_apart_and_those_alike_are_not():
    assert learn(2).are_distinct
    assert learn(3).are_distinct
    alike = {name: [thumbnail(seen(0, k + 100 * n)) for k in range(12)] for n, name in enumerate("ab")}
    assert not ViewLooks.learn(alike).are_distinct


def shots(view, first, light=1.0, colours=(1.0, 1.0, 1.0), count=12):
    """Thumbnails of a view's pictures, in another light, or with another white balance."""
    scale = light * np.array(colours, np.float32)[:, None, None]
    return [thumbnail(scale * seen(view, first + k)) for k in range(count)]


@pytest.mark.parametrize("light", [{}, {"light": 0.7}, {"light": 1.3}, {"colours": (1.0, 0.8, 0.7)}])
def test_one_surface_before_two_cameras_looks_alike_whatever_their_light(light):
    assert not look_different({"a": shots(0, 0), "b": shots(0, 50, **light)})


def test_views_look_different_where_every_two_show_other_things():
    assert look_different({"a": shots(0, 0), "b": shots(1, 50)})
    assert look_different({"a": shots(0, 0), "b": shots(1, 50, light=0.8), "c": shots(2, 90)})
    assert not look_different({"a": shots(0, 0), "b": shots(1, 50), "c": shots(0, 90)})  # two look alike
    assert not look_different({"a": shots(0, 0)})
    assert not look_different({"a": shots(0, 0, count=5), "b": shots(1, 50)})  # too few to tell
