"""What lies in a part's frame moves with it: regions of interest and tiles, on drawn parts at any angle."""

import math

import numpy as np
import pytest
from PIL import Image

import flawscope
from brackets import bracket
from flawscope.errors import InputError
from flawscope.fitting.preparation import prepare
from flawscope.fitting.stored_options import refit_options
from flawscope.methods import registry
from flawscope.views.frames import AlignedPart
from flawscope.views.preprocess import Preprocess
from small_network import FILE, SMALL_NETWORK

INSIDE, OUTSIDE = (15.0, 18.0), (-23.0, -12.0)  # of the zone, on the part, in pixels of a picture of 128
REAL = {"align": "turn", "size": "64", "device": "cpu", "check": False}
QUICK = REAL | SMALL_NETWORK


def zone_on(seed, radius=12):
    """A zone around `INSIDE`, drawn on a picture, [H, W] bool."""
    x, y = bracket(seed)[1](INSIDE)
    down, right = np.mgrid[:128, :128] + 0.5
    return np.asarray(np.hypot(right - x, down - y) < radius)


@pytest.fixture(scope="module")
def good():
    return [bracket(seed)[0] for seed in range(12)]


@pytest.fixture(scope="module")
def zoned(good):
    lines = []
    found = flawscope.fit(good, **QUICK, roi=zone_on(0), say=lines.append)
    assert any("drawn on picture 0, and moves with the part" in line for line in lines)
    return found


def judged(model, spot, seeds=range(100, 110)):
    return [model.predict(bracket(seed, spot)[0]).is_anomalous for seed in seeds]


def test_the_zone_moves_with_the_part(zoned):
    assert all(judged(zoned, INSIDE))
    assert judged(zoned, OUTSIDE) == judged(zoned, None)
    for seed in range(100, 104):  # and lies where the part does
        picture, place = bracket(seed)
        found = zoned.predict(picture)
        counted = found.geometry.warp_mask(zoned.valid_mask(found.geometry))
        rows, columns = np.nonzero(counted)
        x, y = place(INSIDE)
        assert math.hypot(columns.mean() + 0.5 - x, rows.mean() + 0.5 - y) < 2
        assert np.count_nonzero(counted) == pytest.approx(math.pi * 12**2, rel=0.15)
        with_defect = zoned.predict(bracket(seed, OUTSIDE)[0])
        assert with_defect.score == pytest.approx(found.score, rel=0.1)  # of the pose, a little


def test_the_zone_stays_in_a_model_that_is_fitted_to_others(zoned, monkeypatch):
    """Whose parts' frame lies a little otherwise."""
    monkeypatch.chdir(FILE.parent)  # a model names its weights without their folder
    others = [bracket(seed)[0] for seed in range(300, 312)]
    model = flawscope.fit(others, check=False, **refit_options(zoned.artefact) | {"device": "cpu"})
    roi = zoned.artefact.tensors["roi"]
    assert model.artefact.tensors["roi"].mean() == pytest.approx(roi.mean(), rel=0.2)
    assert all(judged(model, INSIDE))
    assert judged(model, OUTSIDE) == judged(model, None)


def test_a_zone_is_drawn_on_the_picture_that_it_names(good, tmp_path):
    for k, picture in enumerate([*good, np.full((128, 128, 3), 80, np.uint8)]):
        Image.fromarray(picture).save(tmp_path / f"{k:02d}.png")
    x, y = bracket(5)[1](INSIDE)
    edges = x - 9, y - 9, x + 9, y + 9
    in_pixels, shares = (",".join(f"{edge / by:.4f}" for edge in edges) for by in (1, 128))

    def region(roi):
        options = {"align": "turn", "size": "64", "device": "cpu", "force": True}
        return prepare(tmp_path, registry.method("patchcore"), **options, roi=roi).reader.roi

    drawn = region(f"{in_pixels}@05.png")
    for name in ("05.png", tmp_path / "05.png"):
        assert np.array_equal(region(f"{shares}@{name}"), drawn)
    assert not np.array_equal(region(shares), drawn)  # of 00.png, which lies otherwise
    lost = r"drawn on 12\.png, and its part was not found: name a better"
    for name, said in (("12.png", lost), ("nowhere.png", "nowhere")):
        with pytest.raises(InputError, match=said):
            region(f"{shares}@{name}")


def test_a_part_whose_zone_lies_outside_of_the_picture_is_not_found(zoned):
    picture, place = bracket(7)
    how, beside = zoned.manifest.preprocess, round(place((0, 0))[0]) - 36
    cut = np.ascontiguousarray(picture[:, beside:])
    shown = how.views(cut).valid_mask()
    assert 0 < shown.mean() < 1
    for counted, found in ((shown, True), (~shown, False)):
        pose = how.views(cut, counted=counted).pose
        assert pose.found is found


def test_a_view_of_a_frame_lies_where_frame_and_view_say(good):
    model = flawscope.fit(good, **QUICK, force=True, crop=(48, 40))
    how, picture = model.manifest.preprocess, bracket(50, side=200)[0]
    whole = Preprocess((64, 64), reference=how.reference).views(picture)
    views = how.views(picture)
    np.testing.assert_allclose(views.images([0])[0], whole.images([0])[0][:, 8:56, 12:52], atol=0.01)
    x, y = 20.0, 30.0  # of the crop
    here, there = views.geometry.inverse(), whole.geometry.inverse()
    np.testing.assert_allclose(
        here.to_network((x, y, x, y)), there.to_network((x + 12, y + 8, x + 12, y + 8)), atol=1e-6
    )
    frame = AlignedPart(how.reference).frame(picture, 255.0, (64, 64), views.pose)
    assert frame.size == how.frame_size((200, 200))
    assert frame.place(how.geometry(frame.size)) == views.geometry


LARGE, TINY = 480, {"radius": 2.0, "depth": 50.0}  # a part seen whole is reduced to a fifth


@pytest.fixture(scope="module")
def large():
    return [bracket(seed, side=LARGE)[0] for seed in range(12)]


@pytest.fixture(scope="module")
def tiled(large):
    return flawscope.fit(large, **REAL, force=True, tile=96)


def test_tiny_defects_on_turned_parts_are_found_in_tiles_where_they_lie(tiled, large):
    plain = flawscope.fit(large, **REAL, force=True)
    spots = [bracket(seed, INSIDE, side=LARGE, **TINY) for seed in range(200, 206)]
    clean = [bracket(seed, side=LARGE)[0] for seed in range(210, 216)]
    shown = [[picture for picture, _ in spots], clean]
    scores = {m: [np.array([p.score for p in m.predict(one)]) for one in shown] for m in (plain, tiled)}
    auroc = {model: (bad[:, None] > good).mean() for model, (bad, good) in scores.items()}
    assert auroc[plain] < 0.85
    assert auroc[tiled] > 0.95
    for picture, place in spots[:3]:
        found = tiled.predict(picture)
        drawn = found.picture_map()
        assert drawn.shape == (LARGE, LARGE)
        row, column = np.unravel_index(np.nanargmax(drawn), drawn.shape)
        x, y = place(INSIDE)
        assert math.hypot(column + 0.5 - x, row + 0.5 - y) < 6
        assert any(
            x0 - 2 < x < x1 + 2 and y0 - 2 < y < y1 + 2 for x0, y0, x1, y1 in (r.box for r in found.regions)
        )


def test_a_tile_shows_the_part_at_the_needed_resolution(tiled):
    how, (picture, place) = tiled.manifest.preprocess, bracket(230, INSIDE, side=LARGE, depth=170)
    views = how.views(picture)
    frame = how.frame_size((LARGE, LARGE))
    assert views.geometry.size == tuple(round(side * 64 / 96) for side in frame)
    x, y = views.geometry.to_network((*place(INSIDE), *place(INSIDE)))[:2]
    number = views.grid.tiles_at(round(y), round(x))[0]
    top, left = views.grid.corner(number)
    tile = views.images([number + 1])[0]
    row, column = np.unravel_index(np.where(tile[0] < 0, 1, tile[0]).argmin(), tile[0].shape)
    assert math.hypot(left + column + 0.5 - x, top + row + 0.5 - y) < 4


def test_what_lies_outside_of_the_picture_counts_in_no_tile(tiled):
    picture, place = bracket(7, side=LARGE)
    beside = round(place((0, 0))[0]) - 130
    cut = np.ascontiguousarray(picture[:, beside:])
    found = tiled.predict(cut)
    assert found.part_found
    valid = tiled.valid_mask(found.geometry)
    views = tiled.manifest.preprocess.views(cut)
    assert not valid.all()
    assert np.array_equal(valid, views.valid_mask())
    assert np.array_equal(valid, found.geometry.visible_mask())
    assert found.map[~valid].max() <= found.map[valid].min()


def test_the_smallest_defect_is_measured_in_the_frame(large):
    lines = []
    how = {"align": "turn", "device": "cpu", "force": True, "say": lines.append}
    tiles = {
        smallest: prepare(large, registry.method("patchcore"), **how, min_defect=smallest)
        for smallest in (14, 8)
    }
    # in the whole picture a defect of 14 px would have 11 at the network
    assert tiles[14].reader.preprocess.tile is None
    assert any("defects of 14 px and more are large enough without tiles" in line for line in lines)
    preprocess = tiles[8].reader.preprocess
    assert preprocess.tile[0] <= preprocess.frame_size((LARGE, LARGE))[0]
