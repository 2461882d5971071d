"""PGM and PPM of more than 8 bits hold a camera's values: the same in every file, as in TIFF and PNG."""

import io

import numpy as np
import pytest
import tifffile

from deep_files import deep_png
from flawscope.pictures.decoded import DecodedPictures
from flawscope.pictures.decoding import decode, read_picture_header
from flawscope.views.preprocess import Preprocess

SIZE = (13, 11)
KINDS = {"P5": 1, "P6": 3, "P2": 1, "P3": 3}


def values_of(largest, channels):
    return np.random.default_rng(largest).integers(0, largest + 1, (*SIZE, channels)).astype(np.uint16)


def netpbm(kind, largest, values, remark=""):
    height, width, _ = values.shape
    head = f"{kind}\n{remark}{width} {height}\n{largest}\n".encode()
    if kind in ("P2", "P3"):
        return head + b"\n".join(b" ".join(b"%d" % one for one in row.ravel()) for row in values) + b"\n"
    return head + values.astype(">u2").tobytes()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("largest", [256, 1023, 4095, 16383, 65535])
def test_values_are_those_in_the_file(kind, largest):
    values = values_of(largest, KINDS[kind])
    for remark in ("", "# by a camera\n"):
        data = netpbm(kind, largest, values, remark)
        got = decode(data)
        assert got.dtype == np.uint16
        np.testing.assert_array_equal(got, values)
        assert read_picture_header(data, "a.pgm")[1:3] == SIZE


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_of_12_bits_is_seen_alike_in_every_format(channels, tmp_path):
    values = values_of(4095, channels)
    values[0, 0] = 4095
    tiff = io.BytesIO()
    stored = values[:, :, 0] if channels == 1 else values
    tifffile.imwrite(tiff, stored, photometric="minisblack" if channels == 1 else "rgb")
    kinds = [kind for kind, number in KINDS.items() if number == channels]
    files = [tiff.getvalue(), deep_png(values), *(netpbm(kind, 4095, values) for kind in kinds)]
    paths = []
    for number, data in enumerate(files):
        paths.append(tmp_path / f"{number}.png")  # the beginning tells the format, not the name
        paths[-1].write_bytes(data)
    for learnt in paths:
        levels = DecodedPictures([learnt]).survey().levels
        assert levels == (0, 4095)
        how = Preprocess.of_levels(levels, size=SIZE)
        first, *others = (how(path)[0] for path in paths)
        assert all(np.array_equal(first, other) for other in others)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_whole_is_refused(kind, refused):
    values = values_of(4095, KINDS[kind])
    data = netpbm(kind, 4095, values)
    refused(lambda: decode(data[:-8]), "truncated or damaged")
    refused(lambda: decode(netpbm(kind, 4095, np.full_like(values, 5000))), "truncated or damaged")
    refused(lambda: decode(data + netpbm(kind, 4095, values)), "holds more than its pixels")


@pytest.mark.parametrize("kind", ["P5", "P6"])
def test_a_stretch_that_a_transfer_left_empty_is_seen(kind, refused):
    rows, columns = np.mgrid[:40, :60]
    slope = np.repeat((rows * 31 + columns * 17 + 40)[:, :, None], KINDS[kind], 2)
    shown = (slope + np.random.default_rng(0).integers(0, 9, slope.shape)).astype(np.uint16)
    assert decode(netpbm(kind, 4095, shown)).shape == shown.shape
    shown[20, 30:] = shown[21:] = 0
    refused(lambda: decode(netpbm(kind, 4095, shown)), "a stretch of its pixels is empty")
