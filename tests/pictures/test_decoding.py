"""Decoding against Pillow and literal definitions, and what is refused."""

import hashlib
import io
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tifffile
from PIL import Image, PngImagePlugin, features

from flawscope.errors import InputError
from flawscope.pictures.decoding import (
    PICTURE_SUFFIXES,
    decode,
    is_picture,
    pixel_hash,
    to_eight_bits,
)
from flawscope.pictures.files import upright_size
from flawscope.pictures.levels import Levels
from flawscope.pictures.masks import read_labels
from flawscope.views.preprocess import Preprocess

H, W = 37, 52
LOSSLESS = [
    ("PNG", {}),
    ("BMP", {}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("WEBP", {"lossless": True}),
    ("GIF", {}),
]
LOSSY = [("JPEG", {}), ("JPEG", {"progressive": True})]
SEVERAL = [LOSSLESS[0], LOSSLESS[2], *LOSSLESS[4:], ("MPO", {})]


def shades(side=48):
    """Brighter to the right and downwards, so that a turn would be seen."""
    y, x = np.mgrid[:side, : 2 * side]
    return Image.fromarray((x + 2 * y + 20).astype(np.uint8)).convert("RGB")


def test_suffixes_in_any_case():
    assert all(is_picture(f"folder.txt/a{suffix.upper()}") for suffix in PICTURE_SUFFIXES)
    assert not is_picture("picture.png.txt")
    assert not is_picture("png")


@pytest.mark.parametrize(("file_format", "options"), LOSSLESS[:-1])
def test_lossless_formats_give_the_pixels(tmp_path, rgb, file_format, options):
    path = tmp_path / "a.png"  # whatever it is called
    Image.fromarray(rgb).save(path, file_format, **options)
    for source in (path, str(path)):
        np.testing.assert_array_equal(decode(source), rgb)


@pytest.mark.parametrize("suffix", [".heic", ".heif", ".avif", ".jp2", ".gif", ".ppm"])
def test_formats_of_telephones_and_others_are_read(tmp_path, suffix):
    path = tmp_path / f"a{suffix.upper()}"
    if suffix.startswith(".hei"):
        heif = pytest.importorskip("pillow_heif", reason='no HEIF: pip install "flawscope[heic]"')
        heif.from_pillow(shades()).save(path, format="HEIF", quality=95)
    elif suffix == ".avif" and not features.check("avif"):
        pytest.skip("this Pillow writes no AVIF: pip install --upgrade pillow")
    else:
        shades().save(path)
    assert np.abs(decode(path).astype(np.int16) - np.asarray(shades(), np.int16)).max() < 12


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "LAB", "HSV", "RGBX"])
def test_opaque_modes_decode_as_pillow_converts_them(rgb, encoded, mode):
    if mode == "LAB":
        image = Image.frombytes("LAB", (W, H), rgb.tobytes())
    else:
        image = Image.fromarray(rgb).convert(mode)
    np.testing.assert_array_equal(decode(image), np.asarray(image.convert("RGB")))
    if mode not in ("HSV", "RGBX", "YCbCr"):  # no file holds these; JPEG converts the last one itself
        tiff = encoded(image, "TIFF", compression="tiff_lzw" if mode in ("L", "P") else None)
        np.testing.assert_array_equal(decode(tiff), Image.open(io.BytesIO(tiff)).convert("RGB"))


def test_alpha_is_composited_over_white_at_any_depth(rgb, encoded):
    alpha = np.random.default_rng(1).integers(0, 256, (H, W, 1))
    alpha[:5], alpha[-5:] = 0, 255
    rgba = np.concatenate([rgb, alpha.astype(np.uint8)], axis=2)
    exact = rgb * (alpha / 255) + 255 * (1 - alpha / 255)
    for source in (rgba, Image.fromarray(rgba), encoded(rgba, "PNG")):
        got = decode(source)
        assert np.abs(got - exact).max() <= 1
        assert (got[:5] == 255).all()
        np.testing.assert_array_equal(got[-5:], rgb[-5:])
    la = Image.merge("LA", [Image.fromarray(rgb[:, :, 0]), Image.fromarray(alpha[:, :, 0].astype(np.uint8))])
    assert np.abs(decode(encoded(la, "PNG"))[:, :, 1] - exact[:, :, 0]).max() <= 1
    premultiplied = Image.fromarray(rgba).convert("RGBa")
    np.testing.assert_array_equal(decode(premultiplied), decode(premultiplied.convert("RGBA")))
    opaque = np.dstack([rgb, np.full((H, W), 255, np.uint8)])
    np.testing.assert_array_equal(decode(opaque), rgb)
    deep = np.array([[[1000, 2000, 3000, 65535], [1000, 2000, 3000, 0], [0, 0, 0, 32768]]], dtype=np.uint16)
    np.testing.assert_array_equal(decode(deep), [[[1000, 2000, 3000], [65535] * 3, [32767] * 3]])
    np.testing.assert_allclose(decode((deep / 65535).astype(np.float64)), decode(deep) / 65535, atol=1e-5)


def test_transparent_palette_entries_and_colour_keys_show_white(encoded):
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
    grey = Image.fromarray(np.array([[7, 9]], np.uint8))
    assert decode(encoded(grey, "PNG", transparency=7)).tolist() == [[[255] * 3, [9] * 3]]


def test_deep_modes_keep_their_depth(encoded):
    deep = np.random.default_rng(0).integers(0, 65536, (H, W), dtype=np.uint16)
    big_endian = Image.frombytes("I;16B", (W, H), deep.astype(">u2").tobytes())
    files = (encoded(deep, "PNG"), encoded(deep, "TIFF"))
    for source in (*files, big_endian, deep.astype(">u2"), Image.fromarray(deep.astype(np.int32)), deep):
        got = decode(source)
        assert got.dtype == np.uint16
        assert got.dtype.isnative
        np.testing.assert_array_equal(got, deep[:, :, None])
    beyond = decode(encoded(deep.astype(np.int32) + 70000, "TIFF"))
    assert beyond.dtype == np.float32
    np.testing.assert_array_equal(beyond[:, :, 0], deep + 70000.0)
    floats = np.random.default_rng(0).random((H, W), dtype=np.float32) * 3 - 1
    np.testing.assert_array_equal(decode(encoded(floats, "TIFF"))[:, :, 0], floats)
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


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("orientation", ORIENTED)
@pytest.mark.parametrize(("file_format", "options"), [LOSSLESS[0], *LOSSLESS[2:5], LOSSY[0]])
def test_exif_orientation(rgb, encoded, orientation, file_format, options):
    data = encoded(rgb, file_format, exif=turned(orientation), **options)
    expected = ORIENTED[orientation](decode(encoded(rgb, file_format, **options)))
    np.testing.assert_array_equal(decode(data), expected)
    np.testing.assert_array_equal(decode(Image.open(io.BytesIO(data))), expected)
    assert Preprocess()(data)[1].picture_size == expected.shape[:2]


def test_labels_and_deep_pictures_are_turned_too_and_a_number_out_of_range_is_ignored(rgb, encoded):
    np.testing.assert_array_equal(decode(encoded(rgb, "PNG", exif=turned(99))), rgb)
    deep = np.arange(6, dtype=np.uint16).reshape(2, 3) * 9000
    data = encoded(deep, "PNG", exif=turned(6))
    np.testing.assert_array_equal(decode(data)[:, :, 0], np.rot90(deep, -1))
    np.testing.assert_array_equal(read_labels(data), np.rot90(deep, -1))


@pytest.mark.parametrize("place", ["before", "after", "none"])
def test_the_size_by_the_header_is_that_of_the_upright_picture(rgb, encoded, place, monkeypatch):
    """A PNG may say how it is turned before its pixels or after them; only then are they decoded for it."""
    data = encoded(rgb, "PNG", **({} if place == "none" else {"exif": turned(6)}))
    if place == "after":
        chunks, at = [], 8
        while at < len(data):
            end = at + 12 + int.from_bytes(data[at : at + 4], "big")
            chunks.append(data[at:end])
            at = end
        exif = next(chunk for chunk in chunks if chunk[4:8] == b"eXIf")
        chunks.remove(exif)
        data = data[:8] + b"".join([*chunks[:-1], exif, chunks[-1]])
    else:
        monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda _: pytest.fail("decoded"))
    with Image.open(io.BytesIO(data)) as image:
        assert upright_size(image) == (rgb.shape[:2] if place == "none" else rgb.shape[1::-1])
        monkeypatch.undo()
        np.testing.assert_array_equal(decode(image), rgb if place == "none" else np.rot90(rgb, -1))


@pytest.mark.parametrize(("file_format", "options"), SEVERAL)
def test_several_pictures_in_a_file_are_refused(rgb, encoded, refused, file_format, options):
    pictures = [Image.fromarray(rgb), Image.fromarray(255 - rgb)]
    data = encoded(pictures[0], file_format, save_all=True, append_images=pictures[1:], **options)
    refused(lambda: decode(data), "it holds 2 pictures", "store them one by one")


def test_what_a_telephone_or_camera_stores_beside_a_photograph_is_no_second_one(rgb, encoded, refused):
    photograph, small = Image.fromarray(rgb), Image.fromarray(rgb[::2, ::2])
    with_preview = encoded(photograph, "MPO", save_all=True, append_images=[small], quality=95)
    np.testing.assert_array_equal(decode(with_preview), decode(encoded(photograph, "JPEG", quality=95)))
    map_of_lights = {"xmp": b"http://ns.adobe.com/hdr-gain-map/1.0/"}
    decode(encoded(photograph, "MPO", save_all=True, append_images=[photograph], **map_of_lights))
    for order, words in ((0, ""), (1, "a preview")):  # a smaller copy in a TIFF says so
        pages = [(rgb, {}), (rgb[::2, ::2].copy(), {"subfiletype": 1})]
        file = io.BytesIO()
        with tifffile.TiffWriter(file) as writer:
            for values, how in pages[:: -1 if order else 1]:
                writer.write(values, photometric="rgb", metadata=None, **how)
        if words:
            refused(lambda file=file: decode(file.getvalue()), words)
        else:
            np.testing.assert_array_equal(decode(file.getvalue()), rgb)


@pytest.mark.parametrize(("file_format", "options"), [*LOSSLESS[:-1], *LOSSY])
def test_truncated_files_are_refused(tmp_path, rgb, encoded, refused, file_format, options):
    data, path = encoded(rgb, file_format, **options), tmp_path / "broken picture.bin"
    parts = (len(data) * part // 20 for part in range(1, 20))
    for kept in {1, 3, 10, 30, 60, *parts, len(data) - 2, len(data) - 1}:
        path.write_bytes(data[:kept])
        refused(lambda: decode(path), str(path))
    refused(lambda: Preprocess()(data[: len(data) // 2]), "copy it again")


@pytest.mark.parametrize(("file_format", "options"), [LOSSLESS[0], LOSSLESS[3], *LOSSY])
def test_transfer_that_left_zeros_is_refused(rgb, encoded, refused, file_format, options):
    data = encoded(rgb, file_format, **options)
    for part in range(1, 10):
        kept = len(data) * part // 10
        refused(lambda kept=kept: decode(data[:kept] + bytes(len(data) - kept)), "copy it again")


def test_a_flipped_bit_in_a_png_is_refused_and_bytes_around_a_jpeg_are_not(rgb, encoded, refused):
    data = bytearray(encoded(rgb, "PNG"))
    data[len(data) // 2] ^= 4
    refused(lambda: decode(bytes(data)), "damaged")
    jpeg = encoded(rgb, "JPEG")
    for other in (jpeg[:2] + b"\xff" + jpeg[2:], jpeg + b"trailing"):
        np.testing.assert_array_equal(decode(other), decode(jpeg))


def test_bad_sources_are_named(tmp_path, rgb, encoded, refused, monkeypatch):
    refused(lambda: decode(tmp_path / "no.png"), "no.png", "no such file")
    refused(lambda: decode(tmp_path), str(tmp_path), "folder")
    for name, content, words in (
        ("empty.png", b"", ("empty",)),
        ("text.png", b"not a picture at all", ("not a picture",)),
        ("clip.MP4", encoded(rgb, "TIFF"), ("a video",)),
        ("a.cr2", encoded(rgb, "TIFF"), ("raw file",)),  # as whose preview Pillow would open it
        ("list.txt", b"a.png\nb.png\n", ("a text", "`predict MODEL - < list.txt`")),
        ("list.XLSX", b"PK\3\4", ("a table", "`predict MODEL - < list.txt`")),
        ("parts.zip", b"PK\3\4", ("an archive", "unpack it")),
        ("part.jpg.lnk", b"L", ("a shortcut", "the pictures themselves")),
        ("part.pdf", b"%PDF", ("a document", "store the pictures in it as PNG")),
    ):
        (tmp_path / name).write_bytes(content)
        refused(lambda name=name: decode(tmp_path / name), name, *words)
    (tmp_path / "really.txt").write_bytes(encoded(rgb, "PNG"))  # what it holds decides
    assert decode(tmp_path / "really.txt").shape == rgb.shape
    refused(lambda: decode(b""), "empty")
    refused(lambda: decode(b"text", name="upload 7"), "upload 7")
    refused(lambda: decode("a\0b"))
    refused(lambda: decode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "PostScript")
    refused(lambda: decode(Image.open(io.BytesIO(encoded(rgb, "PNG")[:2000]))), "truncated")
    refused(lambda: decode(Image.new("RGB", (0, 4))), "no pixels")
    refused(lambda: decode(encoded(np.float32([[1, np.nan]]), "TIFF")), "finite")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 89_478_485)
    header = encoded(Image.new("1", (8, 8)), "BMP")
    bomb = header[:18] + (20000).to_bytes(4, "little") * 2 + header[26:]
    refused(lambda: decode(bomb), "178 megapixels", "cut it")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    refused(lambda: decode(b"\0\0\0\x1cftypheic" + bytes(40)), "HEIC needs pillow-heif", "pip install")


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
def test_bad_arrays_are_refused(refused, array, word):
    refused(lambda: decode(array), word)


@pytest.mark.parametrize("given", [7, bytearray(9999), [[7] * 500] * 9, memoryview(bytes(9999)), {"a": 1}])
def test_what_is_no_picture_is_named_by_its_kind(given):
    with pytest.raises(InputError, match=f"it is 7;|a {type(given).__name__}") as caught:
        decode(given)
    assert len(str(caught.value)) < 120


def test_threads_leave_the_warning_filters_alone(rgb, encoded):
    data = encoded(rgb, "PNG")
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        pictures = list(pool.map(decode, [data] * 200))
    assert warnings.filters == before
    assert all((picture == rgb).all() for picture in pictures)


def test_hash_is_of_the_pixels_whatever_the_file(rgb, encoded):
    files = [encoded(rgb, "PNG", compress_level=0), encoded(rgb, "BMP")]
    assert {pixel_hash(one) for one in (*map(decode, files), np.asfortranarray(rgb))} == {pixel_hash(rgb)}
    changed = rgb.copy()
    changed[-1, -1, -1] ^= 1
    different = [changed, rgb[:, ::-1], rgb.reshape(W, H, 3), rgb.astype(np.uint16), rgb[:-1]]
    assert len({pixel_hash(picture) for picture in [rgb, *different]}) == 1 + len(different)
    grey = Image.fromarray(rgb[:, :, 0])
    assert pixel_hash(decode(encoded(grey, "PNG"))) == pixel_hash(decode(encoded(grey.convert("RGB"), "PNG")))
    deep = rgb[:, :, :1].astype(np.uint16) * 200
    assert pixel_hash(deep) == pixel_hash(deep.astype(">u2"))
    tall = np.random.default_rng(0).integers(0, 256, (5000, 301, 3), dtype=np.uint8)  # several blocks
    assert pixel_hash(tall) == hashlib.sha256(b"(5000, 301, 3) u1" + tall.tobytes()).hexdigest()


def test_deep_and_grey_pictures_become_eight_bits():
    deep = np.asarray([[[0], [2048], [4095]]], np.uint16)
    assert to_eight_bits(deep, Levels(0, 4095))[0, :, 0].tolist() == [0, 128, 255]
    assert to_eight_bits(deep).shape == (1, 3, 3)
    assert to_eight_bits(deep, Levels(0, 2048))[0, :, 2].tolist() == [0, 255, 255]
    floats = np.asarray([[[0.0, 0.5, 1.0]]], np.float32)
    assert to_eight_bits(floats, Levels(0, 1)).tolist() == [[[0, 128, 255]]]
    view = np.broadcast_to(np.zeros((4, 4, 1), np.uint8), (4, 4, 3))
    assert to_eight_bits(view).flags.c_contiguous


def test_labels_are_raw_values(encoded, refused):
    labels = np.array([[0, 1, 246], [255, 2, 0]], dtype=np.uint8)
    palette = Image.fromarray(labels).convert("P")
    palette.putpalette([7] * 768)
    for source in (encoded(labels, "PNG"), encoded(Image.fromarray(labels).convert("RGB"), "PNG"), palette):
        got = read_labels(source)
        assert got.dtype == np.int32
        np.testing.assert_array_equal(got, labels)
    deep = labels.astype(np.uint16) * 256
    np.testing.assert_array_equal(read_labels(Image.fromarray(deep)), deep)
    refused(lambda: read_labels(Image.new("RGB", (2, 2), (1, 2, 3))), "colours")
    refused(lambda: read_labels(Image.new("F", (2, 2))), "floats")
