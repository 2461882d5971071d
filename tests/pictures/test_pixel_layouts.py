"""Files whose pixels Pillow would cut or drop are read whole, or refused by name."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from deep_files import deep_png, tiff
from flawscope.pictures.decoded import DecodedPictures
from flawscope.pictures.decoding import decode
from flawscope.pictures.masks import read_mask
from flawscope.views.preprocess import Preprocess


@pytest.fixture
def deep():
    return np.random.default_rng(0).integers(0, 65536, (11, 9, 4)).astype(np.uint16)


def encodings(values):
    yield "png", deep_png(values)
    yield "interlaced", deep_png(values, interlaced=True)
    alpha = (2,) if values.shape[2] in (2, 4) else ()
    if values.shape[2] > 2:
        for order in "<>":
            for compression in (1, 8):
                for planar in (False, True):
                    how = {"order": order, "extra": alpha, "compression": compression, "planar": planar}
                    yield f"tiff {how}", tiff(values, **how)
    if values.shape[2] == 3:
        height, width, _ = values.shape
        yield "ppm", b"P6\n# drawn\n%d %d\n65535\n" % (width, height) + values.astype(">u2").tobytes()


def test_colour_of_16_bits_keeps_its_depth(deep, tmp_path):
    for name, data in encodings(deep[:, :, :3]):
        got = decode(data)
        assert got.dtype == np.uint16, name
        np.testing.assert_array_equal(got, deep[:, :, :3], err_msg=name)
    (tmp_path / "a.png").write_bytes(data)
    np.testing.assert_array_equal(decode(tmp_path / "a.png"), deep[:, :, :3])


def test_transparency_of_16_bits_is_composited_over_white(deep):
    deep[:, :, 3] = np.where(deep[:, :, 3] > 30000, 65535, 0)
    clear = deep[:, :, 3] == 0
    for name, data in encodings(deep):
        got = decode(data)
        assert (got[clear] == 65535).all(), name
        np.testing.assert_array_equal(got[~clear], deep[:, :, :3][~clear], err_msg=name)
    grey = deep_png(deep[:, :, 2:])
    assert decode(grey).shape == (11, 9, 1)
    np.testing.assert_array_equal(decode(grey)[:, :, 0], np.where(clear, 65535, deep[:, :, 2]))
    key = deep[3, 4, :3]
    keyed = decode(deep_png(deep[:, :, :3], (b"tRNS", key.astype(">u2").tobytes())))
    assert keyed[3, 4].tolist() == [65535] * 3
    np.testing.assert_array_equal(keyed[0], deep[0, :, :3])


def test_turned_and_damaged_files_of_16_bits(deep, refused):
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = deep_png(deep[:, :, :3], (b"eXIf", exif.tobytes()[6:]))
    np.testing.assert_array_equal(decode(turned), np.rot90(deep[:, :, :3], -1))
    refused(lambda: decode(turned[:-40]), "truncated")
    refused(lambda: decode(Image.open(io.BytesIO(turned))), "16-bit colour", "path or bytes")
    assert read_mask(deep_png(np.zeros((3, 4, 3), np.uint16))).any() == False  # noqa: E712


def test_twelve_bits_in_sixteen_are_seen_by_their_white_level(deep, tmp_path):
    twelve = deep[:, :, :3] // 16
    path = tmp_path / "a.png"
    path.write_bytes(deep_png(twelve))
    levels = DecodedPictures([path]).survey().levels
    assert levels == (0, 4095)
    seen = Preprocess.of_levels(levels, size=(11, 9))(path)[0][0]
    np.testing.assert_allclose(seen.transpose(1, 2, 0), twelve / 4095, atol=1e-6)


@pytest.mark.parametrize("order", ["<", ">"])
def test_layouts_that_pillow_does_not_read_are_named(order, refused):
    def values(channels, dtype=np.uint8):
        return np.full((4, 5, channels), 9, dtype)

    for data, *words in (
        (tiff(values(3, np.uint64), kind=6, order=order), "3 channels with complex values of 64 bits"),
        (tiff(values(4, np.uint16), order=order, photometric=5), "4 channels CMYK with values of 16 bits"),
        (tiff(values(1, np.uint16), order=order, photometric=3), "1 channel of a palette"),
        (tiff(values(1, np.int16), order=order, photometric=0), "signed values of 16 bits, whose white is 0"),
    ):
        refused(lambda data=data: decode(data), *words, "store it as grey or RGB")
    mosaic = tiff(values(1, np.uint16), order=order).replace(
        struct.pack(f"{order}HHIH", 262, 3, 1, 1), struct.pack(f"{order}HHIH", 262, 3, 1, 32803)
    )
    refused(lambda: decode(mosaic), "Bayer mosaic", "camera's software")


def test_floating_point_colour_and_grey_whose_white_is_0(tmp_path):
    floats = np.random.default_rng(0).random((4, 5, 3)).astype(np.float32)
    (tmp_path / "a.tif").write_bytes(tiff(floats * 300))
    assert DecodedPictures([tmp_path / "a.tif"]).survey().levels == (0, float((floats * 300).max()))
    grey = np.arange(20, dtype=np.uint16).reshape(4, 5, 1) * 3000
    field = struct.pack("<HHI", 262, 3, 1)
    swapped = tiff(grey).replace(field + b"\1", field + b"\0")
    np.testing.assert_array_equal(decode(swapped), 65535 - grey)
    mask = tiff(np.where(grey == 0, 0, 65535).astype(np.uint16)).replace(field + b"\1", field + b"\0")
    assert read_mask(mask).sum() == 1


def test_an_alpha_that_a_file_names_is_composited_and_another_channel_refused(refused):
    rgba = np.dstack([np.full((4, 5, 3), 9, np.uint8), np.uint8([[0, 255, 255, 255, 255]] * 4)])
    assert decode(tiff(rgba, extra=(2,)))[0, :2, 0].tolist() == [255, 9]
    refused(lambda: decode(tiff(rgba, extra=(0,))), "4 channels")


def test_colour_that_other_formats_would_cut_is_refused(refused):
    deep = np.full((8, 8, 3), 3000, np.uint16)
    np.testing.assert_array_equal(decode(b"P6 8 8 4095\n" + deep.astype(">u2").tobytes()), deep)
    assert decode(b"P6 8 8 255\n" + bytes([7]) * 192).max() == 7
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (1, 2, 3)).save(stream, "JPEG2000")
    eight = stream.getvalue()
    assert decode(eight).shape == (8, 8, 3)
    at = eight.index(b"\xff\x4f\xff\x51") + 42
    twelve = bytearray(eight)
    twelve[at : at + 9 : 3] = bytes([11]) * 3
    refused(lambda: decode(bytes(twelve)), "12 bits")
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "JPEG")
    jpeg = bytearray(stream.getvalue())
    jpeg[jpeg.index(b"\xff\xc0") + 4] = 12
    refused(lambda: decode(bytes(jpeg)), "JPEG of 12 bits")


@pytest.mark.parametrize("alpha", [0, 1, 128, 255])
def test_alpha_that_is_the_same_everywhere_is_left_out(alpha, rgb, encoded):
    rgba = np.dstack([rgb, np.full(rgb.shape[:2], alpha, np.uint8)])
    for source in (rgba, Image.fromarray(rgba), *(encoded(rgba, kind) for kind in ("PNG", "TIFF", "WEBP"))):
        if not (
            isinstance(source, bytes) and source.startswith(b"RIFF")
        ):  # WebP is lossy, and may clear pixels
            np.testing.assert_array_equal(decode(source), rgb)
    with_alpha = encoded(rgba, "BMP")  # Pillow writes 32 bits with a mask of alpha
    np.testing.assert_array_equal(decode(with_alpha), rgb)
    grey = np.dstack([rgb[:, :, 0], rgba[:, :, 3]])
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(grey), "PNG"))[:, :, 0], rgb[:, :, 0])
    deep = np.dstack([rgb.astype(np.uint16) * 16, np.full(rgb.shape[:2], alpha, np.uint16)])
    np.testing.assert_array_equal(decode(deep), deep[:, :, :3])
    floats = np.dstack([rgb / 255, np.full(rgb.shape[:2], float(alpha))]).astype(np.float32)
    np.testing.assert_array_equal(decode(floats), floats[:, :, :3])


def test_alpha_on_another_scale_is_refused(refused):
    for dtype, levels in ((np.uint16, (0, 255)), (np.float32, (0, 255)), (np.float32, (-1, 1))):
        rgba = np.zeros((2, 2, 4), dtype)
        rgba[:, 0, 3], rgba[:, 1, 3] = levels
        refused(lambda rgba=rgba: decode(rgba), "alpha", f"{levels[1]}")
