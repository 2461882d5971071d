"""Pictures of more than three channels become views of one or three."""

import io

import numpy as np
import pytest
from PIL import Image

from deep_files import tiff
from flawscope.calibration.parts import PartPattern
from flawscope.errors import InputError
from flawscope.pictures.channels import Channels, read_channels
from flawscope.pictures.decoding import HashedPicture, decode, pixel_hash
from flawscope.views.preprocess import Preprocess

RNG = np.random.default_rng(0)
VALUES = {dtype: RNG.integers(0, 200, (6, 7, 5)).astype(dtype) for dtype in (np.uint8, np.uint16)}


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("planar", [False, True])
def test_all_channels_of_a_file_are_read_and_colours_go_together(dtype, planar, tmp_path):
    values = VALUES[dtype]
    five = tiff(values, extra=(0, 0), planar=planar)
    got, groups = read_channels(five, "five")
    np.testing.assert_array_equal(got, values)
    assert groups == ((0, 1, 2), (3,), (4,))
    (tmp_path / "a.npy").write_bytes(b"")
    np.save(tmp_path / "a.npy", values)
    got, groups = read_channels(tmp_path / "a.npy", "a")
    np.testing.assert_array_equal(got, values)
    assert groups == tuple((k,) for k in range(5))
    hashed = HashedPicture(five)
    assert pixel_hash(read_channels(hashed, "five")[0]) == hashed.pixels


def test_pages_and_transparency_are_channels():
    pages = [Image.fromarray(VALUES[np.uint8][:, :, k]) for k in range(4)]
    stream = io.BytesIO()
    pages[0].save(stream, "TIFF", save_all=True, append_images=[*pages[1:], Image.new("L", (2, 2))])
    got, groups = read_channels(stream.getvalue(), "pages")
    np.testing.assert_array_equal(got, VALUES[np.uint8][:, :, :4])
    assert groups == ((0,), (1,), (2,), (3,))
    with pytest.raises(InputError, match=r"it holds 5 pictures; .*--channels all"):
        decode(stream.getvalue())
    for kind in ("PNG", "TIFF"):
        stream = io.BytesIO()
        Image.fromarray(VALUES[np.uint8][:, :, :4]).save(stream, kind)
        got, groups = read_channels(stream.getvalue(), kind)
        np.testing.assert_array_equal(got, VALUES[np.uint8][:, :, :4])
        assert groups == ((0, 1, 2), (3,))


def test_views_are_those_of_the_channels_alone():
    values = VALUES[np.uint8]
    channels = Channels.of("1-3,5", [b"no picture", values])
    assert channels == Channels(5, ((0, 1, 2), (4,)))
    how = Preprocess((6, 7), channels=channels)
    assert Preprocess.from_dict(how.to_dict()) == how
    views, plain = how.views(values), Preprocess((6, 7))
    assert len(views) == 2
    for view, alone in zip(views.frames, (values[:, :, :3], values[:, :, 4]), strict=True):
        np.testing.assert_array_equal(view.images([0]), plain(np.ascontiguousarray(alone))[0])
    scores, maps = np.array([3.0, 5.0], np.float32), np.zeros((2, 6, 7), np.float32)
    maps[0, 1, 2], maps[1, 3, 4] = 3, 5
    score, drawn = views.predict(lambda images: (scores, maps), None, batch=2)
    assert score == 5
    assert (drawn[1, 2], drawn[3, 4], drawn.sum()) == (3, 5, 8)
    tiled = Preprocess((3, 4), tile=(3, 4), channels=channels).views(values)
    assert len(tiled) == 2 * len(tiled.frames[0])


def test_channels_that_are_not_there_are_refused(refused):
    values = VALUES[np.uint8]
    refused(lambda: Channels.of("1-3,6", [values]), "channel 6", "have 5, from 1 on")
    refused(lambda: Channels.of("1-2", [values]), "of one channel or of three")
    refused(lambda: Channels.of("1-99999999999", [values]), "of one channel or of three")
    refused(lambda: Channels.of("0-2", [values]), "names channel 0; the pictures have")
    refused(lambda: Channels.of("red", [values]), "'red'", "all", "{part}_{light}.png")
    refused(lambda: Channels.of("all", [b"no"]), "not a picture")
    refused(lambda: Channels.of("all", [values]).read(values[:, :, :3], "b.tif"), "b.tif", "learnt from", "5")
    with pytest.raises(InputError, match="fit anew"):
        Channels.from_dict({"count": 3})
    refused(lambda: decode(tiff(values, extra=(0, 0))), "--channels all")


def test_names_of_files_tell_part_and_light():
    pattern = PartPattern.from_template("{part}_{light}.png")
    assert pattern.parse("bad/a_07_left.png") == ("a_07", "left")
    folders = PartPattern.from_template("{light}/{part}.tif")
    assert folders.parse("good/left/07.tif") == ("07", "left")
    for wrong in ("{part}.png", "{a}_{b}.png", "{part}_{a}_{b}.png", "{}"):
        with pytest.raises(InputError, match="one more field"):
            PartPattern.from_template(wrong)
