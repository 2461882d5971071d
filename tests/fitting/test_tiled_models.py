"""Models of large pictures: what is learnt from, what is calibrated, and what a picture's map is."""

import numpy as np
import pytest

from flawscope.errors import InputError
from flawscope.fitting.fitting import fit
from flawscope.fitting.training_views import Reader, TrainingViews
from flawscope.synthesis.demo.dataset import draw_picture
from flawscope.views.preprocess import Preprocess
from tiled_fits import SMALL, parts, spotted, tiled_fixture  # noqa: F401


def test_a_defect_on_a_seam_is_one_region_where_it_lies(tiled):
    grid = tiled.manifest.preprocess.views(parts()[0]).grid
    seam = grid.starts[1][1] + 8  # in the middle of what the first two columns share
    answer = tiled.predict(spotted(parts(1, seed=1)[0], 70, seam - 5))
    assert answer.is_anomalous
    around = [one.box for one in answer.regions if one.box[0] < seam + 20 and one.box[2] > seam - 20]
    ((x0, y0, x1, y1),) = around  # far from it a corner is at the limit, and over it on some processors
    assert x0 < seam < x1
    assert y0 < 75 < y1


def test_a_picture_of_exactly_one_tile_is_judged_as_without_tiles():
    shown = list(parts(6, size=64))
    plain, tiled = (fit(shown, **SMALL, **how) for how in ({"size": "64"}, {"tile": 64}))
    new = draw_picture("plate", np.random.default_rng([5]), "scratch", size=64)[0]
    one, other = plain.predict(new), tiled.predict(new)
    assert one.score == pytest.approx(other.score, rel=1e-6)
    np.testing.assert_allclose(one.map, other.map, rtol=1e-6)
    assert one.score_threshold == pytest.approx(other.score_threshold, rel=1e-6)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"scale": 2}, "give tile as well"),
        ({"tile": 64, "size": "64", "scale": 2}, "leave one of the three out"),
        ({"tile": 64, "crop": 32}, "crop and tile do not go together"),
        ({"tile": 64, "overlap": "90%"}, "overlap must be"),
        ({"tile": 4}, "tile must be at least"),
        ({"tile": "x"}, "setting tile"),
        ({"tile": 64, "scale": "x"}, "scale"),
    ],
)
def test_wrong_settings_are_told_in_one_line(settings, text):
    with pytest.raises(InputError, match=text):
        fit(list(parts()), **SMALL, **settings)


def windows_of(sizes, roi=None, seed=0, tile=32):
    how, pictures = Preprocess((tile, tile), tile=(tile, tile)), [np.zeros((*s, 3), np.uint8) for s in sizes]
    return TrainingViews(Reader(pictures, how, set(), roi=roi), [1] * len(sizes), sizes, seed)


def places_of(windows):
    return [frame.windows for frame in windows.frames]


def test_windows_are_a_picture_as_a_whole_and_places_all_over_it():
    windows = windows_of([(100, 130), (64, 32)])
    covered = np.zeros((100, 130), np.bool_)
    for y, x in places_of(windows)[0]:
        covered[y : y + 32, x : x + 32] = True
    assert covered.all()
    assert places_of(windows) != places_of(windows_of([(100, 130), (64, 32)], seed=1))
    assert [windows.picture_of(k) for k in windows.numbers(1)] == [1] * len(windows.numbers(1))
    assert len(windows) == 2 + sum(map(len, places_of(windows)))


def test_windows_are_learnt_from_where_anything_counts_and_of_many_pictures_some(monkeypatch):
    roi = np.zeros((32, 32), np.bool_)
    roi[:8, :8] = True
    windows = windows_of([(160, 160)], roi=roi)
    assert 0 < len(places_of(windows)[0]) <= 9
    assert windows.judged_count(0) == 1 + len(places_of(windows)[0])
    monkeypatch.setattr("flawscope.fitting.windows.MAX_VIEW_PIXELS", 10 * 32 * 32)
    windows = windows_of([(200, 200)] * 2)
    assert [len(places) for places in places_of(windows)] == [5, 5]
    assert places_of(windows)[0] != places_of(windows)[1]
