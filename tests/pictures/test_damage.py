"""Pictures whose pixels are not all there are refused, and good ones of many writers are not."""

import io

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageDraw

from flawscope.pictures.damage import has_cut
from flawscope.pictures.decoding import decode

SIDE = 96
BASELINE = {"quality": 90}
JPEGS = {
    "baseline": BASELINE,
    "progressive": {"quality": 90, "progressive": True},
    "restarts": {"quality": 90, "restart_marker_rows": 1},
    "a restart each block": {"quality": 90, "restart_marker_blocks": 1},
    "grey": {"quality": 75, "mode": "L"},
    "CMYK": {"quality": 75, "mode": "CMYK"},
    "4:4:4": {"quality": 97, "subsampling": 0, "optimize": True},
    "4:2:2": {"quality": 60, "subsampling": 1},
}


@pytest.fixture(scope="module")
def picture():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE]
    ground = (
        90 + 40 * np.sin(x / 9)[..., None] + 30 * np.cos(y / 7)[..., None] + rng.normal(0, 6, (SIDE, SIDE, 3))
    )
    return Image.fromarray(ground.clip(1, 254).astype(np.uint8))


def jpeg(picture, mode="RGB", **how):
    file = io.BytesIO()
    picture.convert(mode).save(file, "JPEG", **how)
    return file.getvalue()


def height_told(data, height):
    at = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2")) + 5
    return data[:at] + height.to_bytes(2, "big") + data[at + 2 :]


DAMAGES = {
    "half and an end mark": lambda data: data[: len(data) // 2] + b"\xff\xd9",
    "zeros up to the end mark": lambda data: data[: len(data) * 2 // 3] + bytes(len(data) // 3) + b"\xff\xd9",
    "rows more than the header tells": lambda data: height_told(data, SIDE - 32),
    "rows fewer than the header tells": lambda data: height_told(data, SIDE + 32),
}


@pytest.mark.parametrize("how", JPEGS)
def test_a_jpeg_with_pixels_missing_is_refused_and_whatever_lies_around_a_good_one_is_not(
    picture, how, refused
):
    data = jpeg(picture, **JPEGS[how])
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(image.convert("RGB"))
    for around in (data, data + bytes(32), data + b"\xff\xd8\xff\xd9", data[:-2] + b"\xff\xff" + data[-2:]):
        np.testing.assert_array_equal(decode(around), expected)
    for damage in DAMAGES.values():
        refused(lambda damage=damage: decode(damage(data)), "copy it again")


def test_scans_holes_and_restart_markers_that_are_missing_are_seen(picture, refused):
    progressive, restarts, plain = (
        jpeg(picture, **JPEGS[n]) for n in ("progressive", "restarts", "baseline")
    )
    while (begin := progressive.rfind(b"\xff\xda")) > progressive.find(b"\xff\xda"):
        progressive = progressive[:begin] + b"\xff\xd9"
        refused(lambda data=progressive: decode(data), "some of its pixels are missing")
    middle = len(plain) * 2 // 3
    refused(lambda: decode(plain[:middle] + plain[middle + 200 :]), "damaged")
    at = len(restarts) - 2
    last = bytes([0xFF, 0xD0 + (SIDE // 16 - 1) % 8])
    np.testing.assert_array_equal(decode(restarts[:at] + last + restarts[at:]), decode(restarts))
    at, to = (restarts.find(bytes([0xFF, 0xD0 + k])) for k in (1, 2))
    refused(lambda: decode(restarts[:at] + restarts[to:]), "some of its pixels are missing")


@pytest.mark.parametrize(
    ("kind", "how"),
    [("BMP", {}), ("PPM", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("WEBP", {}),
     ("WEBP", {"lossless": True}), ("PNG", {}), ("JPEG2000", {})],
)  # fmt: skip
def test_where_a_transfer_ended_in_another_file_it_is_refused(picture, encoded, refused, kind, how):
    data = encoded(picture, kind, **how)
    kept = len(data) // 2 + 137
    for filled in (bytes(len(data) - kept), b"\xff" * (len(data) - kept)):
        refused(lambda filled=filled: decode(data[:kept] + filled), "copy it again")


def lost(data, begin, count, fill=b"\0"):
    return data[:begin] + fill * count + data[begin + count :]


HOLES = [(20_000, 200), (20_001, 200), (20_480, 512), (8192, 4096), (20_000, 1501)]  # begin, bytes


@pytest.mark.parametrize("kind", ["BMP", "PPM", "TIFF"])
@pytest.mark.parametrize("mode", ["RGB", "grey as RGB", "L"])
def test_a_stretch_of_bytes_that_was_lost_is_seen(picture, encoded, refused, kind, mode):
    """Within pixels of colour anywhere; of grey ones where sectors of a disk begin and end."""
    shown = picture if mode == "RGB" else picture.convert("L")
    data = encoded(shown if mode == "L" else shown.convert("RGB"), kind)
    decode(data)
    for begin, count in [(2560, 512), (4096, 4096)] if mode == "L" else HOLES:
        for fill in (b"\0", b"\xff"):
            refused(lambda b=begin, c=count, f=fill: decode(lost(data, b, c, f)), "copy it again")


@pytest.mark.parametrize("kind", ["BMP", "PPM", "TIFF"])
@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 0, 255), (0, 7, 0)])
@pytest.mark.parametrize("ground", ["picture", "grey", "white"])
def test_what_is_drawn_in_a_picture_is_none(picture, encoded, kind, colour, ground):
    """Lines, boxes, text and bands begin and end with pixels, whatever their colours."""
    shown = {"picture": picture, "grey": picture.convert("L").convert("RGB")}.get(ground)
    shown = Image.new("RGB", picture.size, "white") if shown is None else shown.copy()
    draw = ImageDraw.Draw(shown)
    draw.line((3, 40, 90, 40), colour)
    draw.rectangle((10, 50, 70, 60), outline=colour)
    draw.rectangle((0, 80, 95, 95), (0, 0, 0))
    draw.text((5, 5), "part 12", colour)
    draw.line((2, 70, 92, 71), (0, 0, 0))
    if ground != "white":  # there it is a pixel of which two channels were lost
        draw.point((1, 70), colour)
    np.testing.assert_array_equal(decode(encoded(shown, kind)), np.asarray(shown))


def test_a_jpeg_in_a_tiff_is_looked_at_too(picture, encoded, refused):
    data = encoded(picture.resize((512, 512)), "TIFF", compression="jpeg", quality=90)
    decode(data)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        begin, count = file.pages[0].dataoffsets[-1], file.pages[0].databytecounts[-1]
    middle = begin + count // 2
    for changed in (lost(data, middle, count // 3), lost(data, middle, 2, b"\xff\xd9")):
        refused(lambda changed=changed: decode(changed), "copy it again")


@pytest.mark.parametrize("kind", ["BMP", "PPM", "TIFF", "TIFF by tifffile"])
def test_rows_more_than_the_header_tells_are_refused(picture, encoded, refused, kind):
    data = encoded(picture, kind.split()[0])
    if kind == "BMP":
        data = data[:22] + (SIDE - 8).to_bytes(4, "little") + data[26:]
    elif kind == "PPM":
        data = data.replace(b"96 96", b"96 88", 1)
    else:
        file = io.BytesIO(encoded(picture, "TIFF"))
        with tifffile.TiffFile(file, mode="r+b") as opened:
            opened.pages[0].tags["ImageLength"].overwrite(SIDE - 8)
        data = file.getvalue()
    refused(lambda: decode(data), "more than its pixels")


def stored(picture, change):
    values = np.asarray(picture).copy()
    change(values)
    return values


def black(begin, end=None):
    """Values from one place to another in the order of the file."""
    return lambda values: values.reshape(-1, 3).__setitem__(slice(begin, end), 0)


@pytest.mark.parametrize(
    ("change", "cut"),
    {
        "to the end": (black(40 * SIDE + 33), True),
        "a stripe": (black(40 * SIDE + 33, 44 * SIDE + 50), True),
        "from the beginning": (black(0, 40 * SIDE + 33), True),
        "a band": (black(40 * SIDE), False),
        "a band above": (black(0, 40 * SIDE), False),
        "a band in the middle": (black(40 * SIDE, 50 * SIDE), False),
        "a line": (black(40 * SIDE + 10, 40 * SIDE + 80), False),
        "a frame": (lambda v: [side.fill(0) for side in (v[:9], v[-9:], v[:, :9], v[:, -9:])], False),
        "a mask's steps": (lambda v: [v[k:, max(0, 620 - 9 * k) :].fill(0) for k in range(60, 70)], False),
        "a box on a ground": (lambda v: [v[:30].fill(7), v[60:].fill(7), v[:, :20].fill(7)], False),
        "all": (black(0), False),
        "drawn": (lambda v: [v.fill(255), black(40 * SIDE + 33)(v)], False),
    }.values(),
)  # fmt: skip
def test_a_cut_is_told_from_what_pictures_show(picture, change, cut):
    values = stored(picture, change)
    assert has_cut(values) is cut
    assert has_cut(values[:, :, 0]) is cut
    assert has_cut(values.astype(np.uint16) * 257) is cut
