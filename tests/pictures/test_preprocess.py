"""Decoding, geometry and preprocessing against Pillow, numpy transposes and literal definitions."""

import hashlib
import io
import json
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin, features

from flawscope.errors import InputError
from flawscope.pictures.decoding import (
    PICTURE_SUFFIXES,
    decode,
    frames,
    is_picture,
    pixel_hash,
    read_labels,
    read_mask,
)
from flawscope.pictures.files import upright_size
from flawscope.pictures.geometry import Geometry
from flawscope.pictures.preprocess import Preprocess, roi_from, white_level_for
from flawscope.pictures.views import unmarked

H, W = 37, 52


@pytest.fixture
def rgb():
    """Smooth in places, noisy in others: [37, 52, 3] uint8."""
    picture = np.random.default_rng(0).integers(0, 256, (H, W, 3), dtype=np.uint8)
    picture[5:20, 10:40] = np.arange(30, dtype=np.uint8)[None, :, None] * 8
    return picture


def encoded(image, file_format, **options):
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


def refused(call, *words):
    """`call` raises InputError in one line that holds the words, a reason and a remedy."""
    with pytest.raises(InputError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    assert "; " in text
    for word in words:
        assert word in text, text


# ---------------------------------------------------------------------------------------------- decoding


def test_suffixes_in_any_case():
    assert all(is_picture(f"folder.txt/a{suffix.upper()}") for suffix in PICTURE_SUFFIXES)
    assert not is_picture("picture.png.txt")
    assert not is_picture("png")


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        ("png", {}),
        ("bmp", {}),
        ("tif", {}),
        ("tiff", {"compression": "tiff_lzw"}),
        ("webp", {"lossless": True}),
    ],
)
def test_lossless_formats_give_the_pixels(tmp_path, rgb, suffix, options):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(rgb).save(path, **options)
    np.testing.assert_array_equal(decode(path), rgb)
    np.testing.assert_array_equal(decode(str(path)), rgb)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "LAB", "HSV", "RGBX"])
def test_opaque_modes_decode_as_pillow_converts_them(rgb, mode):
    if mode == "LAB":
        image = Image.frombytes("LAB", (W, H), rgb.tobytes())
    else:
        image = Image.fromarray(rgb).convert(mode)
    expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(decode(image), expected)
    if mode not in ("HSV", "RGBX", "YCbCr"):  # no file holds these; JPEG converts the last one itself
        tiff = encoded(image, "TIFF", compression="tiff_lzw" if mode in ("L", "P") else None)
        got = decode(tiff)
        assert got.shape == (H, W, 3)
        assert np.abs(got.astype(int) - np.asarray(Image.open(io.BytesIO(tiff)).convert("RGB"))).max() == 0


def test_cmyk_jpeg_has_the_right_polarity():
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    assert (decode(encoded(red, "JPEG", quality=100))[8, 8] // 64 == [3, 0, 0]).all()


def test_grey_becomes_three_equal_channels(rgb):
    grey = rgb[:, :, 0]
    for source in (grey, grey[:, :, None], Image.fromarray(grey), encoded(Image.fromarray(grey), "PNG")):
        np.testing.assert_array_equal(decode(source), np.repeat(grey[:, :, None], 3, axis=2))


def test_alpha_is_composited_over_white(rgb):
    alpha = np.random.default_rng(1).integers(0, 256, (H, W, 1))
    alpha[:5] = 0
    alpha[-5:] = 255
    rgba = np.concatenate([rgb, alpha.astype(np.uint8)], axis=2)
    exact = rgb * (alpha / 255) + 255 * (1 - alpha / 255)
    for source in (rgba, Image.fromarray(rgba), encoded(Image.fromarray(rgba), "PNG")):
        got = decode(source)
        assert np.abs(got - exact).max() <= 1
        assert (got[:5] == 255).all()
        np.testing.assert_array_equal(got[-5:], rgb[-5:])
    la = Image.merge("LA", [Image.fromarray(rgb[:, :, 0]), Image.fromarray(alpha[:, :, 0].astype(np.uint8))])
    assert np.abs(decode(encoded(la, "PNG"))[:, :, 1] - exact[:, :, 0]).max() <= 1
    premultiplied = Image.fromarray(rgba).convert("RGBa")
    np.testing.assert_array_equal(decode(premultiplied), decode(premultiplied.convert("RGBA")))


def test_deep_alpha_is_composited_at_full_depth():
    deep = np.array([[[1000, 2000, 3000, 65535], [1000, 2000, 3000, 0], [0, 0, 0, 32768]]], dtype=np.uint16)
    np.testing.assert_array_equal(decode(deep), [[[1000, 2000, 3000], [65535] * 3, [32767] * 3]])
    np.testing.assert_allclose(decode((deep / 65535).astype(np.float64)), decode(deep) / 65535, atol=1e-5)


def test_opaque_alpha_changes_nothing(rgb):
    rgba = np.dstack([rgb, np.full((H, W), 255, np.uint8)])
    np.testing.assert_array_equal(decode(rgba), rgb)
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(rgba), "PNG")), rgb)


def test_transparent_palette_entries_and_colour_keys_show_white():
    palette = Image.new("P", (4, 2), 1)
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.putpixel((0, 0), 0)
    for transparency in (0, b"\x00\xff"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            got = decode(encoded(palette, "PNG", transparency=transparency))
        assert got[0, 0].tolist() == [255] * 3
        assert got[1, 3].tolist() == [200, 100, 50]
    assert decode(encoded(palette, "PNG"))[0, 0].tolist() == [10, 20, 30]
    keyed = Image.new("RGB", (2, 1), (1, 2, 3))
    keyed.putpixel((1, 0), (9, 9, 9))
    assert decode(encoded(keyed, "PNG", transparency=(1, 2, 3))).tolist() == [[[255] * 3, [9] * 3]]
    grey = Image.new("L", (1, 1), 7)
    assert decode(encoded(grey, "PNG", transparency=7)).tolist() == [[[255] * 3]]


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_its_depth(file_format):
    deep = np.random.default_rng(0).integers(0, 65536, (H, W), dtype=np.uint16)
    got = decode(encoded(Image.fromarray(deep), file_format))
    assert got.dtype == np.uint16
    np.testing.assert_array_equal(got, deep[:, :, None])


def test_deep_modes():
    deep = np.random.default_rng(0).integers(0, 65536, (H, W), dtype=np.uint16)
    big_endian = Image.frombytes("I;16B", (W, H), deep.astype(">u2").tobytes())
    for source in (big_endian, deep.astype(">u2"), Image.fromarray(deep.astype(np.int32)), deep):
        got = decode(source)
        assert got.dtype == np.uint16
        assert got.dtype.isnative
        np.testing.assert_array_equal(got, deep[:, :, None])
    beyond = decode(encoded(Image.fromarray(deep.astype(np.int32) + 70000), "TIFF"))
    assert beyond.dtype == np.float32
    np.testing.assert_array_equal(beyond[:, :, 0], deep + 70000.0)
    floats = np.random.default_rng(0).random((H, W), dtype=np.float32) * 3 - 1
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(floats), "TIFF"))[:, :, 0], floats)
    assert decode(floats.astype(np.float64)).dtype == np.float32


ORIENTED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", ORIENTED)
@pytest.mark.parametrize(
    ("file_format", "options"),
    [
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("JPEG", {}),
    ],
)
def test_exif_orientation(rgb, orientation, file_format, options):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(rgb), file_format, exif=exif, **options)
    plain = decode(encoded(Image.fromarray(rgb), file_format, **options))
    expected = ORIENTED[orientation](plain)
    np.testing.assert_array_equal(decode(data), expected)
    np.testing.assert_array_equal(decode(Image.open(io.BytesIO(data))), expected)
    _, geometry = Preprocess()(data)
    assert geometry.picture_size == expected.shape[:2]


def test_masks_and_deep_pictures_are_turned_too():
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = np.arange(6, dtype=np.uint16).reshape(2, 3) * 9000
    data = encoded(Image.fromarray(deep), "PNG", exif=exif)
    np.testing.assert_array_equal(decode(data)[:, :, 0], np.rot90(deep, -1))
    np.testing.assert_array_equal(read_mask(data), np.rot90(deep, -1) > 0)
    np.testing.assert_array_equal(read_labels(data), np.rot90(deep, -1))


def png_chunks(data):
    chunks, place = [], 8
    while place < len(data):
        size = 12 + int.from_bytes(data[place : place + 4], "big")
        chunks.append(data[place : place + size])
        place += size
    return chunks


@pytest.mark.parametrize("late", [False, True])
def test_the_size_by_the_header_is_that_of_the_upright_picture(rgb, late, monkeypatch):
    """A PNG may say how it is turned before its pixels or after them."""
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(Image.fromarray(rgb), "PNG", exif=exif)
    chunks = png_chunks(data)
    if late:
        turned = next(chunk for chunk in chunks if chunk[4:8] == b"eXIf")
        chunks.remove(turned)
        data = data[:8] + b"".join([*chunks[:-1], turned, chunks[-1]])
    else:
        monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda _: pytest.fail("decoded"))
    with Image.open(io.BytesIO(data)) as image:
        assert upright_size(image) == (rgb.shape[1], rgb.shape[0])
    monkeypatch.undo()
    np.testing.assert_array_equal(decode(data), np.rot90(rgb, -1))


def test_the_size_of_a_png_needs_no_pixels(rgb, monkeypatch):
    data = encoded(Image.fromarray(rgb), "PNG")
    with Image.open(io.BytesIO(data)) as image:
        monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda _: pytest.fail("decoded"))
        assert upright_size(image) == rgb.shape[:2]
        monkeypatch.undo()
        np.testing.assert_array_equal(decode(image), rgb)


def test_orientation_out_of_range_is_ignored(rgb):
    exif = Image.Exif()
    exif[0x0112] = 99
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(rgb), "PNG", exif=exif)), rgb)


@pytest.mark.parametrize("file_format", ["TIFF", "GIF", "WEBP"])
def test_several_frames_give_the_first(rgb, file_format):
    options = {"lossless": True} if file_format == "WEBP" else {}
    frames = [Image.fromarray(rgb), Image.fromarray(255 - rgb)]
    first = decode(encoded(frames[0], file_format, **options))
    both = encoded(frames[0], file_format, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(both)).n_frames == 2
    np.testing.assert_array_equal(decode(both), first)


@pytest.mark.parametrize(
    ("file_format", "options"),
    [
        ("PNG", {}),
        ("JPEG", {"quality": 90}),
        ("JPEG", {"progressive": True}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("WEBP", {"lossless": True}),
    ],
)
def test_truncated_files_are_refused(tmp_path, rgb, file_format, options):
    data = encoded(Image.fromarray(rgb), file_format, **options)
    for kept in {
        1,
        3,
        10,
        30,
        60,
        *(len(data) * part // 20 for part in range(1, 20)),
        len(data) - 2,
        len(data) - 1,
    }:
        path = tmp_path / "broken picture.bin"
        path.write_bytes(data[:kept])
        refused(lambda path=path: decode(path), str(path))
    refused(lambda: Preprocess()(data[: len(data) // 2]), "copy it again")


@pytest.mark.parametrize(
    ("file_format", "options"),
    [("PNG", {}), ("JPEG", {}), ("JPEG", {"progressive": True}), ("TIFF", {"compression": "tiff_lzw"})],
)
def test_transfer_that_left_zeros_is_refused(rgb, file_format, options):
    data = encoded(Image.fromarray(rgb), file_format, **options)
    for part in range(1, 10):
        kept = len(data) * part // 10
        refused(lambda kept=kept: decode(data[:kept] + bytes(len(data) - kept)), "copy it again")


def test_flipped_bit_in_png_is_refused(rgb):
    data = bytearray(encoded(Image.fromarray(rgb), "PNG"))
    data[len(data) // 2] ^= 4
    refused(lambda: decode(bytes(data)), "damaged")


def test_jpeg_with_padding_and_trailing_bytes_is_read(rgb):
    data = encoded(Image.fromarray(rgb), "JPEG")
    np.testing.assert_array_equal(decode(data[:2] + b"\xff" + data[2:]), decode(data))
    np.testing.assert_array_equal(decode(data + b"trailing"), decode(data))


def test_bad_sources_are_named(tmp_path, rgb):
    refused(lambda: decode(tmp_path / "no.png"), "no.png", "no such file")
    refused(lambda: decode(tmp_path), str(tmp_path), "folder")
    (tmp_path / "empty.png").touch()
    refused(lambda: decode(tmp_path / "empty.png"), "empty.png", "empty")
    (tmp_path / "text.png").write_text("not a picture at all")
    refused(lambda: decode(tmp_path / "text.png"), "text.png", "not a picture")
    refused(lambda: decode(b""), "empty")
    refused(lambda: decode(b"text", name="upload 7"), "upload 7")
    refused(lambda: decode("a\0b"))
    refused(lambda: decode(7), "int")
    refused(lambda: decode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "not a picture")
    refused(lambda: decode(Image.open(io.BytesIO(encoded(Image.fromarray(rgb), "PNG")[:2000]))), "truncated")
    refused(lambda: decode(Image.new("RGB", (0, 4))), "no pixels")


@pytest.mark.parametrize(
    ("array", "word"),
    [
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
        (np.zeros((4,), np.uint8), "shape"),
        (np.zeros((2, 4, 4, 3), np.uint8), "shape"),
        (np.zeros((3, 40, 50), np.uint8), "channels last"),
        (np.zeros((4, 4, 3), bool), "bool"),
        (np.zeros((4, 4, 3), np.int64), "int64"),
        (np.zeros((4, 4, 3), np.uint32), "uint32"),
        (np.zeros((4, 4, 3), complex), "complex"),
        (np.array([[0.5, np.nan]]), "finite"),
        (np.array([[0.5, np.inf]], np.float32), "finite"),
        (np.array([[0.5, 1e300]]), "finite"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
def test_bad_arrays_are_refused(array, word):
    refused(lambda: decode(array), word)


def test_float_file_with_nan_is_refused():
    refused(lambda: decode(encoded(Image.fromarray(np.float32([[1, np.nan]])), "TIFF")), "finite")


def test_decompression_bomb_is_one_line(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 89_478_485)
    header = encoded(Image.new("1", (8, 8)), "BMP")
    bomb = header[:18] + (20000).to_bytes(4, "little") * 2 + header[26:]
    refused(lambda: decode(bomb), "178 megapixels", "cut it")


def test_one_pixel(rgb):
    for source in (rgb[:1, :1], encoded(Image.fromarray(rgb[:1, :1]), "PNG")):
        for options in ({}, {"keep_aspect": True}, {"crop": (3, 5)}, {"keep_aspect": True, "crop": (3, 5)}):
            tensor, geometry = Preprocess(size=(8, 8), **options)(source)
            assert geometry.picture_size == (1, 1)
            assert tensor.shape[2:] == Preprocess(size=(8, 8), **options).network_size
            expected = rgb[0, 0].astype(np.float32) / 255
            np.testing.assert_array_equal(
                tensor[0], np.broadcast_to(expected[:, None, None], tensor.shape[1:])
            )


def test_threads_leave_the_warning_filters_alone(rgb):
    data = encoded(Image.fromarray(rgb), "PNG")
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        pictures = list(pool.map(decode, [data] * 200))
    assert warnings.filters == before
    assert all((picture == rgb).all() for picture in pictures)


BIG = """
import resource, sys, time, warnings
warnings.simplefilter("error")
from flawscope.pictures.decoding import decode, pixel_hash
from flawscope.pictures.preprocess import Preprocess
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start = time.perf_counter()
tensor, geometry = Preprocess()(sys.argv[1])
assert geometry.picture_size == (10000, 10000)
assert 0 <= tensor.min() and tensor.max() <= 1 and 0.4 < tensor.mean() < 0.6
seconds = time.perf_counter() - start
pixel_hash(decode(sys.argv[1]))
print(seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["large.png", "large.tif"])
def test_100_megapixels_are_silent_and_small(tmp_path, name):
    path = tmp_path / name
    checks = (np.indices((10, 10)).sum(axis=0) % 2).astype(np.uint8) * 255
    Image.fromarray(np.kron(checks, np.ones((1000, 1000), np.uint8))).save(path)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", BIG, str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    seconds, megabytes = map(float, done.stdout.split())
    assert megabytes < 450  # two copies of the grey picture; as RGB it would take 700
    assert seconds < 30


# -------------------------------------------------------------------------------------------------- hash


def test_hash_is_of_the_pixels(tmp_path, rgb):
    same = set()
    for name, options in [
        ("a.png", {}),
        ("b.png", {"compress_level": 0}),
        ("c.bmp", {}),
        ("d.webp", {"lossless": True}),
    ]:
        Image.fromarray(rgb).save(tmp_path / name, **options)
        same.add(pixel_hash(decode(tmp_path / name)))
    same |= {pixel_hash(rgb), pixel_hash(np.asfortranarray(rgb))}
    assert len(same) == 1
    assert len(same.pop()) == 64
    changed = rgb.copy()
    changed[-1, -1, -1] ^= 1
    different = [changed, rgb[:, ::-1], rgb.reshape(W, H, 3), rgb.astype(np.uint16), rgb[:-1]]
    assert len({pixel_hash(picture) for picture in [rgb, *different]}) == 1 + len(different)


def test_hash_of_grey_saved_as_colour_and_of_any_byte_order(rgb):
    grey = Image.fromarray(rgb[:, :, 0])
    assert pixel_hash(decode(encoded(grey, "PNG"))) == pixel_hash(decode(encoded(grey.convert("RGB"), "PNG")))
    deep = rgb[:, :, :1].astype(np.uint16) * 200
    assert pixel_hash(deep) == pixel_hash(deep.astype(">u2"))


def test_hash_does_not_depend_on_blocks():
    tall = np.random.default_rng(0).integers(0, 256, (5000, 301, 3), dtype=np.uint8)
    assert pixel_hash(tall) == hashlib.sha256(b"(5000, 301, 3) u1" + tall.tobytes()).hexdigest()


# ------------------------------------------------------------------------------------------------- masks


def test_masks_of_every_kind(tmp_path):
    wanted = np.zeros((6, 9), bool)
    wanted[2:4, 3:7] = True
    grey = wanted.astype(np.uint8)
    palette = Image.fromarray(grey).convert("P")
    palette.putpalette([255, 255, 255, 0, 0, 0])  # index 1 is black
    white_alpha = np.dstack([np.full((6, 9, 3), 255, np.uint8), grey * 255])
    black_alpha = np.dstack([np.zeros((6, 9, 3), np.uint8), grey * 9])
    opaque = np.dstack([grey, grey * 0, grey * 0, np.full((6, 9), 255, np.uint8)])
    files = {
        "one.png": Image.fromarray(wanted),
        "dim.png": Image.fromarray(grey),
        "colour.bmp": Image.fromarray(np.dstack([grey * 0, grey * 0, grey])),
        "palette.png": palette,
        "deep.png": Image.fromarray(grey.astype(np.uint16) * 300),
        "float.tif": Image.fromarray(grey.astype(np.float32) * 1e-6),
        "white alpha.png": Image.fromarray(white_alpha),
        "black alpha.png": Image.fromarray(black_alpha),
        "opaque.png": Image.fromarray(opaque),
    }
    for name, image in files.items():
        image.save(tmp_path / name)
        got = read_mask(tmp_path / name)
        assert got.dtype == np.bool_
        np.testing.assert_array_equal(got, wanted, err_msg=name)
    black = np.dstack([grey * 0] * 3 + [grey * 0 + 255])
    assert not read_mask(encoded(Image.fromarray(black), "PNG")).any()
    refused(lambda: read_mask(tmp_path / "none.png"), "none.png")


def test_labels_are_raw_values():
    labels = np.array([[0, 1, 246], [255, 2, 0]], dtype=np.uint8)
    for image in (Image.fromarray(labels), Image.fromarray(labels).convert("RGB")):
        got = read_labels(encoded(image, "PNG"))
        assert got.dtype == np.int32
        np.testing.assert_array_equal(got, labels)
    palette = Image.fromarray(labels).convert("P")
    palette.putpalette([7] * 768)
    np.testing.assert_array_equal(read_labels(palette), labels)
    np.testing.assert_array_equal(
        read_labels(Image.fromarray(labels.astype(np.uint16) * 256)), labels.astype(int) * 256
    )
    refused(lambda: read_labels(Image.new("RGB", (2, 2), (1, 2, 3))), "colours")
    refused(lambda: read_labels(Image.new("F", (2, 2))), "floats")


# ---------------------------------------------------------------------------------------------- geometry

PREPROCESSES = [
    Preprocess(size=(24, 32)),
    Preprocess(size=(24, 32), keep_aspect=True),
    Preprocess(size=(32, 32), crop=(20, 24)),
    Preprocess(size=(32, 32), keep_aspect=True, crop=(21, 24)),
]
PICTURES = [(24, 32), (31, 17), (100, 77), (9, 200), (1, 1)]


@pytest.mark.parametrize("preprocess", PREPROCESSES, ids=str)
@pytest.mark.parametrize("size", PICTURES)
def test_boxes_go_there_and_back(preprocess, size):
    geometry = preprocess.geometry(size)
    rng = np.random.default_rng(0)
    for _ in range(20):
        x0, x1 = np.sort(rng.random(2)) * size[1]
        y0, y1 = np.sort(rng.random(2)) * size[0]
        back = geometry.to_picture(geometry.to_network((x0, y0, x1, y1)))
        np.testing.assert_allclose(back, (x0, y0, x1, y1), atol=1e-9)
    assert geometry.to_picture((-1e6, -1e6, 1e6, 1e6)) == (0, 0, size[1], size[0])
    assert Geometry.from_dict(json.loads(json.dumps(geometry.to_dict()))) == geometry


def literal_warp(values, geometry, fill):
    """Bilinear at pixel centres, one output pixel at a time."""
    (hp, wp), (h, w) = geometry.picture_size, geometry.size
    out = np.full((hp, wp), fill, dtype=np.float64)
    for i in range(hp):
        for j in range(wp):
            y = (i + 0.5) * geometry.scale[0] + geometry.offset[0]
            x = (j + 0.5) * geometry.scale[1] + geometry.offset[1]
            if not (0 <= y < h and 0 <= x < w):
                continue
            y, x = min(max(y - 0.5, 0), h - 1), min(max(x - 0.5, 0), w - 1)
            r, c = int(y), int(x)
            below, beside, a, b = min(r + 1, h - 1), min(c + 1, w - 1), y - r, x - c
            top = (1 - b) * values[r, c] + b * values[r, beside]
            bottom = (1 - b) * values[below, c] + b * values[below, beside]
            out[i, j] = (1 - a) * top + a * bottom
    return out


@pytest.mark.parametrize("preprocess", PREPROCESSES, ids=str)
@pytest.mark.parametrize("size", PICTURES)
def test_warp_is_bilinear(preprocess, size):
    geometry = preprocess.geometry(size)
    values = np.random.default_rng(0).random(geometry.size, dtype=np.float32)
    got = geometry.warp(values, fill=-7)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, literal_warp(values, geometry, -7), atol=1e-5)


@pytest.mark.parametrize("preprocess", PREPROCESSES, ids=str)
@pytest.mark.parametrize("size", PICTURES)
def test_inside_is_where_the_picture_is_shown(preprocess, size):
    geometry = preprocess.geometry(size)
    np.testing.assert_array_equal(geometry.inside(), geometry.mask_to_network(np.ones(size, bool)))


def test_what_the_network_does_not_see_is_unknown_not_zero():
    geometry = Preprocess(size=(40, 40), crop=(20, 20)).geometry((80, 80))
    for size in ((80, 80), (40, 20)):
        warped = geometry.at(size).warp(np.full((20, 20), -3, np.float32))
        assert warped.shape == size
        quarter = tuple(slice(n // 4, 3 * n // 4) for n in size)
        assert (warped[quarter] == -3).all()
        assert np.isnan(warped).sum() == warped.size * 3 // 4


def test_warp_works_in_blocks_without_seams():
    geometry = Preprocess(size=(16, 16)).geometry((900, 1100))  # several blocks
    ramp = np.broadcast_to(np.arange(16, dtype=np.float32)[:, None], (16, 16))
    got = geometry.warp(ramp)
    expected = np.clip((np.arange(900) + 0.5) * 16 / 900 - 0.5, 0, 15)
    np.testing.assert_allclose(got, np.broadcast_to(expected[:, None], got.shape), atol=1e-4)


@pytest.mark.parametrize("preprocess", PREPROCESSES, ids=str)
@pytest.mark.parametrize("size", PICTURES)
def test_masks_go_to_the_network_by_nearest(preprocess, size):
    geometry = preprocess.geometry(size)
    mask = np.random.default_rng(0).random(size) > 0.5
    got = geometry.mask_to_network(mask)
    assert got.shape == geometry.size
    for i in range(geometry.size[0]):
        for j in range(geometry.size[1]):
            y = (i + 0.5 - geometry.offset[0]) / geometry.scale[0]
            x = (j + 0.5 - geometry.offset[1]) / geometry.scale[1]
            if min(abs(y - round(y)), abs(x - round(x))) < 1e-6:
                continue  # on an edge between two pixels rounding decides
            inside = 0 <= y < size[0] and 0 <= x < size[1]
            assert got[i, j] == (inside and mask[int(y), int(x)])


@pytest.mark.parametrize("size", [(48, 64), (31, 17), (100, 77)])
def test_stretched_mask_equals_pillows_nearest(size):
    mask = np.random.default_rng(0).random(size) > 0.5
    expected = Image.fromarray(mask.astype(np.uint8)).resize((32, 24), Image.Resampling.NEAREST)
    np.testing.assert_array_equal(
        Preprocess(size=(24, 32)).geometry(size).mask_to_network(mask), np.asarray(expected) > 0
    )


def test_letterbox_border_and_cropped_margin_are_false():
    wide = Preprocess(size=(32, 32), keep_aspect=True).geometry((20, 40))
    assert (
        wide.mask_to_network(np.ones((20, 40), bool)).any(axis=1).tolist()
        == [False] * 8 + [True] * 16 + [False] * 8
    )
    cropped = Preprocess(size=(40, 40), crop=(20, 20)).geometry((80, 80))
    seen = cropped.warp_mask(np.ones((20, 20), bool))
    assert (np.flatnonzero(seen.any(axis=0)) == np.arange(20, 60)).all()
    assert seen.sum() == 40 * 40


def test_wrong_sizes_and_bad_dicts_are_refused():
    geometry = Preprocess().geometry((10, 10))
    refused(lambda: geometry.warp(np.zeros((10, 10), np.float32)), "[256, 256]")
    refused(lambda: geometry.mask_to_network(np.zeros((256, 256), bool)), "[10, 10]")
    good = geometry.to_dict()
    for bad in (
        {},
        good | {"more": 1},
        good | {"scale": [0, 1]},
        good | {"size": [1.5, 2]},
        good | {"offset": [1]},
    ):
        refused(lambda bad=bad: Geometry.from_dict(bad), "geometry")


# -------------------------------------------------------------------------------------------- preprocess


@pytest.mark.parametrize("preprocess", PREPROCESSES, ids=str)
def test_every_kind_of_source_gives_the_identical_tensor(tmp_path, rgb, preprocess):
    for picture in (rgb, np.repeat(rgb[:, :, :1], 3, axis=2)):
        path = tmp_path / "a.png"
        Image.fromarray(picture).save(path)
        expected, geometry = preprocess(path)
        sources = [str(path), path.read_bytes(), Image.open(path), picture, np.asfortranarray(picture)]
        if (picture[:, :, 0] == picture[:, :, 2]).all():
            sources += [picture[:, :, 0], Image.fromarray(picture[:, :, 0])]
        for source in sources:
            tensor, other = preprocess(source)
            np.testing.assert_array_equal(tensor, expected)
            assert other == geometry
        np.testing.assert_array_equal(preprocess.from_array(decode(path))[0], expected)
    assert expected.dtype == np.float32
    assert expected.flags.c_contiguous
    assert expected.flags.writeable
    assert expected.shape == (1, 3, *preprocess.network_size)


def test_stretch_is_pillows_antialiased_bilinear(rgb):
    tensor, _ = Preprocess(size=(16, 24))(rgb)
    expected = np.asarray(Image.fromarray(rgb).resize((24, 16), Image.Resampling.BILINEAR))
    np.testing.assert_allclose(tensor[0], expected.transpose(2, 0, 1) / 255, atol=1e-7)
    same, _ = Preprocess(size=(H, W))(rgb)
    np.testing.assert_allclose(same[0], rgb.transpose(2, 0, 1) / 255, atol=1e-7)


def test_crop_is_the_centre_of_the_resized_picture():
    smooth = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    image = Image.fromarray(smooth)
    stretched = np.asarray(image.resize((64, 64), Image.Resampling.BILINEAR))[10:54, 12:52]
    got = Preprocess(size=(64, 64), crop=(44, 40))(smooth)[0][0] * 255
    assert np.abs(got - stretched.transpose(2, 0, 1)).max() <= 1.001
    # the PatchCore paper's way on a picture of 3:4, shorter side 48, so 48 x 64
    covering = np.asarray(image.resize((64, 48), Image.Resampling.BILINEAR))[4:44, 12:52]
    got = Preprocess(size=(48, 48), keep_aspect=True, crop=(40, 40))(smooth)[0][0] * 255
    assert np.abs(got - covering.transpose(2, 0, 1)).max() <= 1.001


def test_letterbox_repeats_the_edge():
    wide = np.zeros((2, 8, 3), np.uint8)
    wide[0], wide[1] = 51, 204
    tensor, geometry = Preprocess(size=(8, 8), keep_aspect=True)(wide)
    marked = [-1.2] * 3 + [0.2, 0.8] + [-1.8] * 3  # v of the edge as -1 - v
    np.testing.assert_allclose(tensor[0, 0, :, 0], marked)
    plain, inside = unmarked(tensor)
    np.testing.assert_allclose(plain[0, 0, :, 0], [0.2] * 4 + [0.8] * 4, atol=1e-7)
    np.testing.assert_array_equal(inside[0], geometry.inside())
    before = replace(Preprocess(size=(8, 8), keep_aspect=True), marks_padding=False)(wide)[0]
    np.testing.assert_allclose(plain, before, atol=1e-7)
    assert geometry.scale == (1, 1)
    assert geometry.offset == (3, 0)
    tall, _ = Preprocess(size=(8, 8), keep_aspect=True)(wide.swapaxes(0, 1))
    np.testing.assert_array_equal(tall[0], tensor[0].swapaxes(1, 2))


@pytest.mark.parametrize(
    "preprocess",
    [
        Preprocess(size=(96, 96)),
        Preprocess(size=(96, 96), keep_aspect=True),
        Preprocess(size=(96, 96), crop=(80, 72)),
        Preprocess(size=(96, 96), keep_aspect=True, crop=(80, 72)),
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [(120, 200), (200, 120), (40, 50)])
def test_a_marked_spot_comes_back_to_its_place(preprocess, size):
    """A bright square near the centre: its centroid in the tensor lies where the geometry says."""
    picture = np.zeros((*size, 3), np.uint8)
    y, x = size[0] // 2 - 9, size[1] // 2 + 6
    picture[y : y + 4, x : x + 5] = 255
    tensor, geometry = preprocess(picture)
    tensor = unmarked(tensor)[0]
    weight = tensor[0, 1].astype(np.float64)
    rows, columns = (np.arange(length) + 0.5 for length in weight.shape)
    row, column = weight.sum(1) @ rows / weight.sum(), weight.sum(0) @ columns / weight.sum()
    found = geometry.to_picture((column, row, column, row))
    np.testing.assert_allclose(found[:2], (x + 2.5, y + 2), atol=0.15)
    peak = np.unravel_index(np.nanargmax(geometry.warp(tensor[0, 0])), size)
    assert abs(peak[0] - y - 1.5) <= 2
    assert abs(peak[1] - x - 2) <= 2.5


def test_deep_pictures_are_divided_by_the_white_level():
    deep = np.full((20, 30), 1023, np.uint16)
    deep[:10] = 4095
    twelve_bit, _ = Preprocess(size=(20, 30), white_level=4095)(encoded(Image.fromarray(deep), "PNG"))
    np.testing.assert_array_equal(twelve_bit[0, :, 0], 1)
    np.testing.assert_allclose(twelve_bit[0, :, 15], 1023 / 4095, rtol=1e-6)
    plain, _ = Preprocess(size=(20, 30))(deep)
    np.testing.assert_allclose(plain[0, :, 0], 4095 / 65535, rtol=1e-6)
    clipped, _ = Preprocess(size=(20, 30), white_level=2000)(deep)
    assert clipped.max() == 1
    # never per picture: a darker picture stays darker
    half, _ = Preprocess(white_level=4095)(deep // 2)
    assert half.max() < 0.501


def test_deep_and_8_bit_pictures_agree(rgb):
    grey = rgb[:, :, 0]
    expected, _ = Preprocess(size=(16, 24))(grey)
    for source in (grey.astype(np.uint16) * 257, grey / 255, (grey / 255).astype(np.float32)):
        tensor, _ = Preprocess(size=(16, 24))(source)
        assert np.abs(tensor - expected).max() < 1.01 / 255  # 8-bit resampling rounds twice
    colour, _ = Preprocess(size=(16, 24))(rgb.astype(np.uint16) * 257)
    assert np.abs(colour - Preprocess(size=(16, 24))(rgb)[0]).max() < 1.01 / 255
    same, _ = Preprocess(size=(16, 24), white_level=4095)(grey)
    np.testing.assert_array_equal(same, expected)  # 8-bit pictures are always over 255


def test_float_pictures_far_from_their_white_level_are_refused():
    refused(lambda: Preprocess()(np.full((4, 4), 200.0)), "200", "white level")
    refused(lambda: Preprocess(white_level=4095)(np.full((4, 4), 0.5)), "4095")
    assert Preprocess(white_level=200)(np.full((4, 4), 100.0))[0].max() == np.float32(0.5)
    assert Preprocess()(np.full((4, 4), -0.5))[0].min() == 0


@pytest.mark.parametrize(
    ("maximum", "dtype", "level"),
    [
        (4000, np.uint16, 4095),
        (4095, np.uint16, 4095),
        (4096, np.uint16, 8191),
        (65535, np.uint16, 65535),
        (12, np.uint16, 255),
        (200, np.uint8, 255),
        (0.4, np.float32, 1),
        (1, np.float64, 1),
        (812.5, np.float32, 812.5),
    ],
)
def test_white_level(maximum, dtype, level):
    assert white_level_for(maximum, dtype) == level


def test_white_level_of_nonsense():
    refused(lambda: white_level_for(float("nan"), np.float32))
    refused(lambda: white_level_for(-1, np.uint16))


def test_preprocess_round_trip():
    for preprocess in [*PREPROCESSES, Preprocess(white_level=4095)]:
        assert Preprocess.from_dict(json.loads(json.dumps(preprocess.to_dict()))) == preprocess
    assert Preprocess(size=np.array([8, 9])).to_dict()["size"] == [8, 9]
    assert Preprocess.from_dict({}) == Preprocess(marks_padding=False)  # a model from before it was


@pytest.mark.parametrize(
    "bad",
    [
        {"sizes": [1, 2]},
        {"size": 256},
        {"size": [256]},
        {"size": [0, 256]},
        {"size": [2.5, 3]},
        {"size": "ab"},
        {"size": [True, True]},
        {"crop": [300, 200]},
        {"crop": []},
        {"keep_aspect": "yes"},
        {"keep_aspect": 1},
        {"white_level": 0},
        {"white_level": float("nan")},
        {"white_level": True},
        {"white_level": "4095"},
        {"white_level": [1]},
    ],
)
def test_bad_preprocess_is_refused(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        Preprocess.from_dict(bad)


# ------------------------------------------------------------------------------------ region of interest


def test_region_as_fractions_and_as_pixels_agree():
    preprocess = Preprocess(size=(20, 40))
    expected = np.zeros((20, 40), bool)
    expected[5:15, 4:36] = True
    for spec in (
        "0.1,0.25,0.9,0.75",
        " .1, .25 ,0.90,0.75 ",
        "20,50,180,150@200x200",
        "64,120,576,360@640x480",
    ):
        np.testing.assert_array_equal(roi_from(spec, preprocess), expected)
    assert roi_from("0,0,1,1", preprocess).all()


def test_region_from_masks(tmp_path):
    mask = np.zeros((48, 64), np.uint8)
    mask[:24] = 255
    Image.fromarray(mask).save(tmp_path / "roi.png")
    for spec in (tmp_path / "roi.png", str(tmp_path / "roi.png"), mask, mask > 0):
        roi = roi_from(spec, Preprocess(size=(32, 32)))
        assert roi.dtype == np.bool_
        assert roi[:16].all()
        assert not roi[16:].any()
        letterboxed = roi_from(spec, Preprocess(size=(32, 32), keep_aspect=True))
        assert np.flatnonzero(letterboxed.any(axis=1)).tolist() == list(range(4, 16))


def test_region_through_letterbox_and_crop():
    letterbox = roi_from("0,0,40,20@40x20", Preprocess(size=(40, 40), keep_aspect=True))
    assert np.flatnonzero(letterbox.any(axis=1)).tolist() == list(range(10, 30))
    crop = roi_from("0,0,0.5,1", Preprocess(size=(40, 40), crop=(20, 20)))
    assert np.flatnonzero(crop.any(axis=0)).tolist() == list(range(10))


@pytest.mark.parametrize(
    "spec",
    [
        "0,0,640,480",
        "0.5,0,0.5,1",
        "0.9,0,0.1,1",
        "0,0,20,20@10x10",
        "0,0,1,1@0x9",
        "0,0,0.0001,1",
        "missing.png",
        np.zeros((8, 8), bool),
        np.zeros((8, 8, 3), bool),
        np.zeros((0, 8), bool),
    ],
    ids=str,
)
def test_bad_regions_are_refused(spec):
    refused(lambda: roi_from(spec, Preprocess()))


def test_fractions_with_keep_aspect_are_refused():
    refused(lambda: roi_from("0,0,0.5,1", Preprocess(keep_aspect=True)), "@WxH")
    outside = "0,0,5,100@100x100"
    refused(lambda: roi_from(outside, Preprocess(size=(40, 40), crop=(20, 20))), "no pixel")


# -------------------------------------------------------------------------------------------- other formats


def shades(side: int = 48) -> Image.Image:
    """Brighter to the right and downwards, so that a turn would be seen."""
    y, x = np.mgrid[:side, : 2 * side]
    return Image.fromarray((x + 2 * y + 20).astype(np.uint8)).convert("RGB")


@pytest.mark.parametrize("suffix", [".heic", ".heif", ".avif", ".jp2", ".gif", ".ppm"])
def test_formats_of_telephones_and_others_are_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix.upper()}"
    if suffix.startswith(".hei"):
        pytest.importorskip("pillow_heif").from_pillow(shades()).save(path, format="HEIF", quality=95)
    elif suffix == ".avif" and not features.check("avif"):
        pytest.skip("this Pillow writes no AVIF")
    else:
        shades().save(path)
    assert is_picture(path)
    expected = np.asarray(shades(), np.int16)
    assert np.abs(decode(path).astype(np.int16) - expected).max() < 12


def test_heic_without_its_library_says_what_to_add(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.heic"
    path.write_bytes(b"\0\0\0\x1cftypheic" + bytes(40))
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(InputError, match=r"HEIC needs pillow-heif; pip install .*pillow-heif.*JPEG$"):
        decode(path)


def test_videos_and_raw_files_are_named_as_such(tmp_path: Path) -> None:
    for name, word in (("clip.MP4", "a video"), ("a.cr2", "raw file")):
        shades().save(tmp_path / name, format="TIFF")  # as whose preview Pillow would open a raw file
        with pytest.raises(InputError, match=word):
            decode(tmp_path / name)


def test_the_pictures_in_a_file_are_counted(tmp_path: Path) -> None:
    shades().save(tmp_path / "a.gif", save_all=True, append_images=[shades().rotate(90 * k) for k in (1, 2)])
    shades().save(tmp_path / "b.png")
    (tmp_path / "c.gif").write_bytes(b"GIF89a")
    assert [frames(tmp_path / name) for name in ("a.gif", "b.png", "c.gif", "gone.tif")] == [3, 1, 1, 1]


@pytest.mark.parametrize("given", [bytearray(9999), [[7] * 500] * 9, memoryview(bytes(9999)), {"a": 1}])
def test_what_is_no_picture_is_named_by_its_kind(given):
    with pytest.raises(InputError, match=f"a {type(given).__name__}") as caught:
        decode(given)
    assert len(str(caught.value)) < 120
