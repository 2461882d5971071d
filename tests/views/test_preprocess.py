"""Geometry and preprocessing against Pillow and literal definitions."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from flawscope.errors import InputError
from flawscope.pictures.decoding import decode
from flawscope.views.geometry import Geometry
from flawscope.views.preprocess import Preprocess
from flawscope.views.roi import read_roi
from flawscope.views.views import remove_padding_marks

BILINEAR = Image.Resampling.BILINEAR
PREPROCESSES = [
    Preprocess(size=(24, 32)),
    Preprocess(size=(24, 32), keep_aspect=True),
    Preprocess(size=(32, 32), crop=(20, 24)),
    Preprocess(size=(32, 32), keep_aspect=True, crop=(21, 24)),
]
GEOMETRIES = [
    preprocess.geometry(size)
    for preprocess in PREPROCESSES
    for size in [(24, 32), (31, 17), (100, 77), (9, 200), (1, 1)]
]


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_boxes_go_there_and_back(geometry):
    height, width = geometry.picture_size
    rng = np.random.default_rng(0)
    for _ in range(20):
        x0, x1 = np.sort(rng.random(2)) * width
        y0, y1 = np.sort(rng.random(2)) * height
        back = geometry.to_picture(geometry.to_network((x0, y0, x1, y1)))
        np.testing.assert_allclose(back, (x0, y0, x1, y1), atol=1e-9)
    assert geometry.to_picture((-1e6, -1e6, 1e6, 1e6)) == (0, 0, width, height)
    assert Geometry.from_dict(json.loads(json.dumps(geometry.to_dict()))) == geometry


def scipys_warp(values, geometry, fill):
    """Bilinear at pixel centres."""
    whole, sides = np.indices(geometry.picture_size) + 0.5, np.reshape(geometry.size, (2, 1, 1))
    places = whole * np.reshape(geometry.scale, (2, 1, 1)) + np.reshape(geometry.offset, (2, 1, 1))
    drawn = ndimage.map_coordinates(values.astype(np.float64), places - 0.5, order=1, mode="nearest")
    return np.where(((places >= 0) & (places < sides)).all(0), drawn, fill)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_warp_is_bilinear(geometry):
    values = np.random.default_rng(0).random(geometry.size, dtype=np.float32)
    got = geometry.warp(values, fill=-7)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, scipys_warp(values, geometry, -7), atol=1e-5)
    other, (height, width) = geometry.with_picture_size((40, 20)), geometry.picture_size
    np.testing.assert_allclose(other.to_network((0, 0, 20, 40)), geometry.to_network((0, 0, width, height)))
    # what the network does not see is unknown, not zero
    np.testing.assert_allclose(other.warp(values), scipys_warp(values, other, np.nan), atol=1e-5)
    np.testing.assert_array_equal(
        other.warp_mask(np.ones(geometry.size, bool)), ~np.isnan(other.warp(values))
    )


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_masks_go_to_the_network_by_nearest(geometry):
    height, width = geometry.picture_size
    mask = np.random.default_rng(0).random((height, width)) > 0.5
    got = geometry.mask_to_network(mask)
    assert got.shape == geometry.size
    for i, j in np.ndindex(*geometry.size):
        y = (i + 0.5 - geometry.offset[0]) / geometry.scale[0]
        x = (j + 0.5 - geometry.offset[1]) / geometry.scale[1]
        if min(abs(y - round(y)), abs(x - round(x))) < 1e-6:
            continue  # on an edge between two pixels rounding decides
        assert got[i, j] == (0 <= y < height and 0 <= x < width and mask[int(y), int(x)])
    np.testing.assert_array_equal(geometry.visible_mask(), geometry.mask_to_network(np.ones_like(mask)))


def test_warp_works_in_blocks_without_seams():
    geometry = Preprocess(size=(16, 16)).geometry((900, 1100))  # several blocks
    ramp = np.broadcast_to(np.arange(16, dtype=np.float32)[:, None], (16, 16))
    got = geometry.warp(ramp)
    expected = np.clip((np.arange(900) + 0.5) * 16 / 900 - 0.5, 0, 15)
    np.testing.assert_allclose(got, np.broadcast_to(expected[:, None], got.shape), atol=1e-4)


def test_wrong_sizes_and_bad_dicts_are_refused(refused):
    geometry = Preprocess().geometry((10, 10))
    refused(lambda: geometry.warp(np.zeros((10, 10), np.float32)), "[256, 256]")
    refused(lambda: geometry.mask_to_network(np.zeros((256, 256), bool)), "[10, 10]")
    good = geometry.to_dict()
    for bad in ({"more": 1}, {"scale": [0, 1]}, {"size": [1.5, 2]}, {"offset": [1]}):
        refused(lambda bad=bad: Geometry.from_dict(good | bad), "geometry")
    refused(lambda: Geometry.from_dict({}), "geometry")


@pytest.mark.parametrize("preprocess", PREPROCESSES, ids=str)
def test_every_kind_of_source_gives_the_identical_tensor(tmp_path, rgb, preprocess):
    for picture in (rgb, np.repeat(rgb[:, :, :1], 3, axis=2)):
        path = tmp_path / "a.png"
        Image.fromarray(picture).save(path)
        expected, geometry = preprocess(path)
        sources = [str(path), path.read_bytes(), Image.open(path), picture, np.asfortranarray(picture)]
        if picture is not rgb:
            sources += [picture[:, :, 0], Image.fromarray(picture[:, :, 0])]
        for source in sources:
            tensor, other = preprocess(source)
            np.testing.assert_array_equal(tensor, expected)
            assert other == geometry
        np.testing.assert_array_equal(preprocess(decode(path))[0], expected)
    assert expected.dtype == np.float32
    assert expected.flags.c_contiguous
    assert expected.flags.writeable
    assert expected.shape == (1, 3, *preprocess.network_size)


def test_stretch_is_pillows_antialiased_bilinear(rgb):
    tensor, _ = Preprocess(size=(16, 24))(rgb)
    expected = np.asarray(Image.fromarray(rgb).resize((24, 16), BILINEAR))
    np.testing.assert_allclose(tensor[0], expected.transpose(2, 0, 1) / 255, atol=1e-7)
    same, _ = Preprocess(size=rgb.shape[:2])(rgb)
    np.testing.assert_allclose(same[0], rgb.transpose(2, 0, 1) / 255, atol=1e-7)


@pytest.mark.parametrize(
    ("preprocess", "resized", "corner"),
    [
        (Preprocess(size=(64, 64), crop=(44, 40)), (64, 64), (10, 12)),
        # the PatchCore paper's way on a picture of 3:4, shorter side 48, so 48 x 64
        (Preprocess(size=(48, 48), keep_aspect=True, crop=(40, 40)), (48, 64), (4, 12)),
    ],
)
def test_crop_is_the_centre_of_the_resized_picture(preprocess, resized, corner):
    smooth = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    whole = np.asarray(Image.fromarray(smooth).resize(resized[::-1], BILINEAR))
    (top, left), (height, width) = corner, preprocess.crop
    got = preprocess(smooth)[0][0] * 255
    assert np.abs(got - whole[top : top + height, left : left + width].transpose(2, 0, 1)).max() <= 1.001


def test_letterbox_repeats_the_edge():
    wide = np.zeros((2, 8, 3), np.uint8)
    wide[0], wide[1] = 51, 204
    tensor, geometry = Preprocess(size=(8, 8), keep_aspect=True)(wide)
    marked = [-1.2] * 3 + [0.2, 0.8] + [-1.8] * 3  # v of the edge as -1 - v
    np.testing.assert_allclose(tensor[0, 0, :, 0], marked)
    plain, inside = remove_padding_marks(tensor)
    np.testing.assert_allclose(plain[0, 0, :, 0], [0.2] * 4 + [0.8] * 4, atol=1e-7)
    np.testing.assert_array_equal(inside[0], geometry.visible_mask())
    assert geometry.scale == (1, 1)
    assert geometry.offset == (3, 0)
    tall, _ = Preprocess(size=(8, 8), keep_aspect=True)(wide.swapaxes(0, 1))
    np.testing.assert_array_equal(tall[0], tensor[0].swapaxes(1, 2))


@pytest.mark.parametrize("crop", [None, (80, 72)])
@pytest.mark.parametrize("keep_aspect", [False, True])
@pytest.mark.parametrize("size", [(120, 200), (200, 120), (40, 50)])
def test_a_marked_spot_comes_back_to_its_place(crop, keep_aspect, size):
    """A bright square near the centre: its centroid in the tensor lies where the geometry says."""
    picture = np.zeros((*size, 3), np.uint8)
    y, x = size[0] // 2 - 9, size[1] // 2 + 6
    picture[y : y + 4, x : x + 5] = 255
    tensor, geometry = Preprocess(size=(96, 96), keep_aspect=keep_aspect, crop=crop)(picture)
    tensor = remove_padding_marks(tensor)[0]
    weight = tensor[0, 1].astype(np.float64)
    rows, columns = (np.arange(length) + 0.5 for length in weight.shape)
    row, column = weight.sum(1) @ rows / weight.sum(), weight.sum(0) @ columns / weight.sum()
    found = geometry.to_picture((column, row, column, row))
    np.testing.assert_allclose(found[:2], (x + 2.5, y + 2), atol=0.15)
    peak = np.unravel_index(np.nanargmax(geometry.warp(tensor[0, 0])), size)
    assert abs(peak[0] - y - 1.5) <= 2
    assert abs(peak[1] - x - 2) <= 2.5


def test_deep_pictures_are_divided_by_the_white_level(encoded):
    deep = np.full((20, 30), 1023, np.uint16)
    deep[:10] = 4095
    twelve_bit, _ = Preprocess(size=(20, 30), white_level=4095)(encoded(deep, "PNG"))
    np.testing.assert_array_equal(twelve_bit[0, :, 0], 1)
    np.testing.assert_allclose(twelve_bit[0, :, 15], 1023 / 4095, rtol=1e-6)
    plain, _ = Preprocess(size=(20, 30))(deep * 16)  # as the 8-bit pictures that the model learnt from
    np.testing.assert_allclose(plain[0, :, 0], round(4095 * 16 * 255 / 65535) / 255, rtol=1e-6)
    assert Preprocess(size=(20, 30), white_level=2000)(deep // 2)[0].max() == 1
    # never per picture: a darker picture stays darker
    assert Preprocess(white_level=4095)(deep // 2)[0].max() < 0.501


def test_deep_and_8_bit_pictures_agree(rgb):
    how, grey = Preprocess(size=(16, 24)), rgb[:, :, 0]
    for picture, sources in (
        (grey, (grey.astype(np.uint16) * 257, grey / 255, (grey / 255).astype(np.float32))),
        (rgb, (rgb.astype(np.uint16) * 257,)),
    ):
        for source in sources:
            np.testing.assert_array_equal(how(source)[0], how(picture)[0])
    for deep, level in ((rgb / 255, 1.0), (rgb.astype(np.uint16) * 257, 65535)):  # a model of deep pictures
        learnt = replace(how, white_level=level)
        for same in (rgb, Image.fromarray(rgb)):
            np.testing.assert_allclose(learnt(same)[0], learnt(deep)[0], atol=1e-6)
    np.testing.assert_allclose(
        replace(how, white_level=4095)(Image.fromarray(grey))[0], how(grey)[0], atol=0.01
    )


def test_float_pictures_far_from_their_white_level_are_refused(refused):
    refused(lambda: Preprocess()(np.full((4, 4), 200.0)), "200", "white level")
    refused(lambda: Preprocess(white_level=4095)(np.full((4, 4), 0.5)), "4095")
    assert Preprocess(white_level=200)(np.full((4, 4), 100.0))[0].max() == np.float32(0.5)
    assert Preprocess(white_level=0.5)(np.full((4, 4), 0.25))[0].max() == np.float32(0.5)
    refused(lambda: Preprocess()(np.full((4, 4), -0.5)), "-0.5", "0 is black")
    refused(lambda: Preprocess(white_level=1)(np.full((4, 4), 200.0)), "200", "white level is 1")
    assert Preprocess()(np.float32([[-1e-4, 1.0005]]))[0].min() == 0  # resampling overshoots


def test_deep_pictures_of_another_depth_are_refused(refused):
    twelve = np.full((4, 4), 3000, np.uint16)
    refused(lambda: Preprocess()(twelve), "3000", "8-bit", "fit on pictures like this one")
    refused(lambda: Preprocess(white_level=4095)(twelve * 16), "4095", "48000")
    hot = twelve.copy()
    hot[0, 0] = 65535  # a single pixel says nothing
    assert Preprocess(size=(4, 4), white_level=4095)(hot)[0].max() == 1
    refused(lambda: Preprocess()(Image.fromarray(np.full((4, 4), 200, np.int32))), "200", "8-bit")
    assert Preprocess()(np.zeros((4, 4), np.uint16))[0].max() == 0  # a black picture is black at any depth


def test_preprocess_goes_through_json():
    tiled = Preprocess((16, 16), tile=(32, 48), overlap=0.5)
    for preprocess in [*PREPROCESSES, Preprocess(white_level=4095), tiled]:
        assert Preprocess.from_dict(json.loads(json.dumps(preprocess.to_dict()))) == preprocess
    assert Preprocess(size=np.array([8, 9])).to_dict()["size"] == [8, 9]
    assert "tile" not in Preprocess().to_dict()


@pytest.mark.parametrize(
    "bad",
    [
        {"sizes": [1, 2]},
        *[{"size": value} for value in (256, [256], [0, 256], [2.5, 3], "ab", [True, True])],
        *[{"crop": value} for value in ([300, 200], [])],
        *[{"keep_aspect": value} for value in ("yes", 1)],
        *[{"white_level": value} for value in (0, float("nan"), True, "4095", [1])],
        *[{"tile": value, "size": [16, 16]} for value in ([0, 4], "x", [1, 1], [16, 16 * 1024 + 1])],
        *[{"overlap": value} for value in (2.0, 0.76, -0.1, True)],
        {"crop": [8, 8], "tile": [16, 16], "size": [16, 16]},
        {"positions": [1, 2], "tile": [96, 96]},  # places were told apart once
    ],
)
def test_bad_preprocess_is_refused(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        Preprocess.from_dict(bad)


@pytest.mark.parametrize(
    "spec", ["0.1,0.25,0.9,0.75", " .1, .25 ,0.90,0.75 ", "20,50,180,150@200x200", "64,120,576,360@640x480"]
)
def test_region_as_fractions_and_as_pixels_agree(spec):
    expected = np.zeros((20, 40), bool)
    expected[5:15, 4:36] = True
    np.testing.assert_array_equal(read_roi(spec, Preprocess(size=(20, 40))), expected)


def test_region_from_masks_through_letterbox_and_crop(tmp_path):
    mask = np.zeros((48, 64), np.uint8)
    mask[:24] = 255
    Image.fromarray(mask).save(tmp_path / "roi.png")
    for spec in (tmp_path / "roi.png", str(tmp_path / "roi.png"), mask, mask > 0):
        roi = read_roi(spec, Preprocess(size=(32, 32)))
        assert roi.dtype == np.bool_
        assert roi[:16].all()
        assert not roi[16:].any()
        letterboxed = read_roi(spec, Preprocess(size=(32, 32), keep_aspect=True))
        assert np.flatnonzero(letterboxed.any(axis=1)).tolist() == list(range(4, 16))
    letterbox = read_roi("0,0,40,20@40x20", Preprocess(size=(40, 40), keep_aspect=True))
    assert np.flatnonzero(letterbox.any(axis=1)).tolist() == list(range(10, 30))
    crop = read_roi("0,0,0.5,1", Preprocess(size=(40, 40), crop=(20, 20)))
    assert np.flatnonzero(crop.any(axis=0)).tolist() == list(range(10))
    assert read_roi("0,0,1,1", Preprocess()).all()


@pytest.mark.parametrize(
    "spec",
    [
        *["0,0,640,480", "0.5,0,0.5,1", "0.9,0,0.1,1", "0,0,20,20@10x10", "0,0,1,1@0x9", "0,0,0.0001,1"],
        *["missing.png", np.zeros((8, 8), bool), np.zeros((8, 8, 3), bool), np.zeros((0, 8), bool)],
    ],
    ids=str,
)
def test_bad_regions_are_refused(spec, refused):
    refused(lambda: read_roi(spec, Preprocess()))


def test_regions_that_need_the_pictures_shape_or_show_nothing_are_refused(refused):
    refused(lambda: read_roi("0,0,0.5,1", Preprocess(keep_aspect=True)), "@WxH")
    outside = "0,0,5,100@100x100"
    refused(lambda: read_roi(outside, Preprocess(size=(40, 40), crop=(20, 20))), "no pixel")
