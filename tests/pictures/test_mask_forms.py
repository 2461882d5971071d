"""The table of forms in which masks are stored: each is read as it was drawn, or refused by name."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from deep_files import deep_png, tiff
from flawscope.errors import InputError
from flawscope.pictures.masks import marks_most, read_mask
from flawscope.views.preprocess import Preprocess
from flawscope.views.roi import describe_roi, read_roi

SIDE = 128
RED, BLUE, BORDER = (128, 0, 0), (0, 0, 128), (224, 224, 192)


def drawn():
    """A blob, a scratch, and a spot of 3 x 3."""
    canvas = Image.new("1", (SIDE, SIDE))
    draw = ImageDraw.Draw(canvas)
    draw.ellipse((20, 30, 61, 58), fill=1)
    draw.line((80, 20, 110, 90), fill=1, width=4)
    draw.rectangle((30, 100, 32, 102), fill=1)
    return np.asarray(canvas, np.bool_)


TRUE = drawn()
ON = TRUE.astype(np.uint8)
CLASSES = ON * np.where(np.arange(SIDE)[None] < 70, 1, 2).astype(np.uint8)  # 0, 1, 2


def encode(image, file_format="PNG", **options):
    stream = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(stream, file_format, **options)
    return stream.getvalue()


def palette(indices, *colours, file_format="PNG", **options):
    image = Image.fromarray(indices, "P")
    image.putpalette([channel for colour in colours for channel in colour])
    return encode(image, file_format, **options)


def coloured(*colours, classes=CLASSES):
    return np.array(colours, np.uint8)[classes]


def smooth(scale=4, peak=255):
    """As a tool draws it that smooths edges: each pixel is the share of it that is marked."""
    large = Image.fromarray(ON * 255).resize((SIDE * scale, SIDE * scale), Image.Resampling.BICUBIC)
    shares = (np.asarray(large) > 127).reshape(SIDE, scale, SIDE, scale).mean((1, 3))
    return np.rint(shares * peak).astype(np.uint8)


def voc():
    """VOC: classes in their colours, and around them a border of one pixel, which is marked too."""
    marked = Image.fromarray(ON)
    inner = np.asarray(marked.resize(marked.size)).copy()
    edge = np.zeros_like(inner)
    core = inner.astype(bool)
    for axis, step in ((0, 1), (0, -1), (1, 1), (1, -1)):
        edge |= inner & ~np.roll(core, step, axis).astype(np.uint8)
    return coloured((0, 0, 0), RED, BORDER, classes=inner + (edge & 1))


def deep(*channels):
    return np.dstack([channel * np.ones((SIDE, SIDE), np.uint16) for channel in channels])


FULL = np.full((SIDE, SIDE), 255, np.uint8)
STRIPES = 24000 + np.arange(SIDE)[:, None] // 4  # numbers of class and object, as Cityscapes has them
EXACT = {
    "1 bit": lambda: encode(TRUE),
    "8 bits, 255": lambda: encode(ON * 255),
    "8 bits, 128": lambda: encode(ON * 128),
    "8 bits, 1": lambda: encode(ON),
    "class ids": lambda: encode(CLASSES),
    "LOCO: 1, 7, 255": lambda: encode(np.array([0, 1, 255], np.uint8)[CLASSES] | (ON * (CLASSES == 1) * 6)),
    "ids from 1 on": lambda: encode(CLASSES + 1),
    "1 outside, 255": lambda: encode(np.where(TRUE, 255, 1).astype(np.uint8)),
    "128 outside, 255": lambda: encode(np.where(TRUE, 255, 128).astype(np.uint8)),
    "instances 1..40": lambda: encode(
        np.add.outer(np.arange(SIDE) // 8, np.arange(SIDE) // 8 + 10).astype(np.uint8) * ON
    ),
    "16 bits, 65535": lambda: encode(ON.astype(np.uint16) * 65535),
    "16 bits, 1": lambda: encode(ON.astype(np.uint16)),
    "16 bits, 256 outside": lambda: encode(ON.astype(np.uint16) * 256 + 256),
    "16 bits, TIFF": lambda: encode(ON.astype(np.uint16) * 300, "TIFF"),
    "32 bits, TIFF": lambda: encode(ON.astype(np.int32) * 70000, "TIFF"),
    "colour of 16 bits, 1": lambda: deep_png(deep(ON, ON, ON)),
    "colour of 16 bits, 200 of red": lambda: deep_png(deep(ON * 200, 0, 0)),
    "colour of 16 bits, opaque": lambda: deep_png(deep(ON, ON, ON, 65535)),
    "colour of 16 bits, transparent outside": lambda: deep_png(deep(9, 300, 0, ON * np.uint16(257))),
    "grey of 16 bits, opaque": lambda: deep_png(deep(ON, 65535)),
    "grey of 16 bits, transparent outside": lambda: deep_png(deep(0, ON * np.uint16(65535))),
    "TIFF, colour of 16 bits": lambda: tiff(deep(ON, 0, ON)),
    "few and many objects": lambda: encode((np.where(CLASSES == 1, 7, STRIPES) * ON).astype(np.uint16)),
    "objects, 300 and more": lambda: tiff((STRIPES * 11 % 400 * ON).astype(np.uint16)[:, :, None]),
    "floats, TIFF": lambda: encode(ON.astype(np.float32) * 1e-6, "TIFF"),
    "TIFF, packed bits": lambda: encode(ON * 255, "TIFF", compression="packbits"),
    "TIFF, fax": lambda: encode(TRUE, "TIFF", compression="group4"),
    "BMP": lambda: encode(ON * 255, "BMP"),
    "BMP, 1 bit": lambda: encode(TRUE, "BMP"),
    "BMP, colour": lambda: encode(coloured((0, 0, 0), RED, BLUE), "BMP"),
    "GIF": lambda: encode(ON * 255, "GIF"),
    "GIF, classes": lambda: encode(Image.fromarray(CLASSES * 60), "GIF"),
    "PGM": lambda: encode(ON * 255, "PPM"),
    "WebP, lossless": lambda: encode(Image.fromarray(ON * 255).convert("RGB"), "WEBP", lossless=True),
    "WebP, lossless classes": lambda: encode(Image.fromarray(CLASSES).convert("RGB"), "WEBP", lossless=True),
    "palette, black first": lambda: palette(ON, (0, 0, 0), (255, 255, 255)),
    "palette, white first": lambda: palette(1 - ON, (255, 255, 255), (0, 0, 0)),
    "palette, VOC": lambda: palette(CLASSES, (0, 0, 0), RED, (0, 128, 0)),
    "palette, all alike": lambda: palette(CLASSES, *[(9, 9, 9)] * 3),
    "palette, no black": lambda: palette(CLASSES, (31, 119, 180), (255, 127, 14), (44, 160, 44)),
    "palette, quantised": lambda: encode(Image.fromarray(coloured((0, 0, 0), RED, BLUE)).quantize(8)),
    "palette, BMP": lambda: palette(1 - ON, (255, 255, 255), (0, 0, 0), file_format="BMP"),
    "palette, transparent outside": lambda: palette(
        CLASSES, (255, 255, 255), RED, BLUE, transparency=bytes([0, 255, 255])
    ),
    "CVAT, colours": lambda: encode(coloured((0, 0, 0), (250, 50, 83), (50, 183, 250))),
    "dark colours": lambda: encode(coloured((0, 0, 0), (1, 0, 0), (0, 0, 1))),
    "VOC, colours with a border": lambda: encode(voc()),
    "red and blue on grey": lambda: encode(coloured((128,) * 3, (255, 0, 0), (0, 0, 255))),
    "red on white": lambda: encode(coloured((255, 255, 255), (255, 0, 0), (255, 0, 0))),
    "white, transparent outside": lambda: encode(np.dstack([FULL, FULL, FULL, ON * 255])),
    "black, transparent outside": lambda: encode(np.dstack([ON * 0, ON * 0, ON * 0, ON * 255])),
    "half transparent red": lambda: encode(np.dstack([FULL, ON * 0, ON * 0, ON * 100])),
    "red, white where transparent": lambda: encode(
        np.dstack([FULL, FULL * (1 - ON), FULL * (1 - ON), ON * 255])
    ),
    "opaque": lambda: encode(np.dstack([ON, ON * 0, ON * 0, FULL])),
    "all transparent": lambda: encode(np.dstack([ON * 255, ON * 255, ON * 255, FULL * 0])),
    "grey and alpha": lambda: encode(np.dstack([ON * 255, FULL])),
    "grey, transparent outside": lambda: encode(np.dstack([FULL, ON * 255])),
    "grey, one value transparent": lambda: encode(np.where(TRUE, 200, 90).astype(np.uint8), transparency=90),
    "WebP, transparent outside": lambda: encode(
        np.dstack([FULL, ON * 0, ON * 0, ON * 255]), "WEBP", lossless=True
    ),
    "CMYK": lambda: encode(Image.fromarray(ON * 255).convert("RGB").convert("CMYK"), "TIFF"),
    "smoothed": lambda: encode(smooth()),
    "smoothed, few values": lambda: encode(smooth(2)),
    "smoothed, colour": lambda: encode(np.dstack([smooth(), ON * 0, ON * 0])),
    "smoothed alpha": lambda: encode(np.dstack([FULL, FULL, FULL, smooth()])),
}


@pytest.mark.parametrize("form", EXACT)
def test_what_was_drawn_is_read(form):
    got = read_mask(EXACT[form]())
    assert got.dtype == np.bool_
    np.testing.assert_array_equal(got, TRUE)


def noise(image, quality, file_format="JPEG", **options):
    return encode(image, file_format, quality=quality, **options)


def as_png(data):
    return encode(Image.open(io.BytesIO(data)))


TOUCHING = ON + ON * (abs(np.arange(SIDE)[None] - 55) > 15).astype(np.uint8)  # classes side by side
LOSSY = {
    "JPEG": lambda q: noise(ON * 255, q),
    "JPEG, 128": lambda q: noise(ON * 128, q),
    "JPEG, colour": lambda q: noise(coloured((0, 0, 0), (250, 50, 83), (50, 183, 250)), q),
    "JPEG, red on white": lambda q: noise(coloured((255,) * 3, (255, 0, 0), (255, 0, 0)), q, subsampling=0),
    "JPEG, smoothed": lambda q: noise(smooth(), q),
    "JPEG, stored as PNG": lambda q: as_png(noise(ON * 255, q)),
    "JPEG, stored as GIF": lambda q: encode(Image.open(io.BytesIO(noise(ON * 255, q))), "GIF"),
    "JPEG, faint beside bright": lambda q: noise(np.array([0, 80, 255], np.uint8)[TOUCHING], q),
    "WebP": lambda q: noise(Image.fromarray(ON * 255).convert("RGB"), q, "WEBP"),
    "TIFF with JPEG in it": lambda q: encode(ON * 255, "TIFF", compression="jpeg", quality=q),
}


@pytest.mark.parametrize("quality", [60, 75, 95])
@pytest.mark.parametrize("form", LOSSY)
def test_noise_is_not_marked(form, quality):
    """A few pixels of the edge may differ, where colour has half the resolution."""
    got = read_mask(LOSSY[form](quality))
    assert (got & TRUE).sum() / (got | TRUE).sum() > (0.9 if "colour" in form or "WebP" in form else 0.97)


REFUSED = {
    "JPEG of 1": lambda: encode(ON, "JPEG"),
    "JPEG of classes": lambda: encode(CLASSES * 10, "JPEG"),
    "JPEG of faint and bright marks": lambda: encode(np.array([0, 16, 255], np.uint8)[CLASSES], "JPEG"),
    "a photograph": lambda: encode(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)),
    "a heat map": lambda: encode(np.hypot(*np.mgrid[:200, :200]).astype(np.uint8)),
    "a heat map of few values": lambda: encode((np.hypot(*np.mgrid[:200, :200]) / 5).astype(np.uint8)),
    "a map of distances": lambda: encode(np.hypot(*np.mgrid[:90, :90]).astype(np.float32), "TIFF"),
    "red and black pens on paper": lambda: encode(coloured((255,) * 3, (255, 0, 0), (0, 0, 0))),
    "red and black pens on paper, JPEG": lambda: noise(coloured((255,) * 3, (255, 0, 0), (0, 0, 0)), 80),
    "grey paper, index 0": lambda: palette(ON, (255, 255, 255), (254, 254, 254)),
    "transparent and black": lambda: encode(
        np.dstack([ON * 255, ON * 0, ON * 0, np.where(np.arange(SIDE)[:, None] < 9, 0, FULL)])
    ),
    "two blacks": lambda: palette(CLASSES, (0, 0, 0), (255, 0, 0), (0, 0, 0)),
    "white paper, index 0": lambda: palette(ON, (255, 255, 255), (0, 0, 0)),
    "no black, no background": lambda: encode(
        coloured(
            (9, 0, 0), (0, 9, 0), (0, 0, 9), classes=np.arange(SIDE * 2, dtype=np.uint8)[:, None] // 3 % 3
        )
    ),
}


@pytest.mark.parametrize("form", REFUSED)
def test_a_doubt_is_refused(form, tmp_path):
    path = tmp_path / "a_mask.png"
    path.write_bytes(REFUSED[form]())
    with pytest.raises(InputError) as caught:
        read_mask(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"cannot tell what mask {path} marks: ")


@pytest.mark.parametrize("suffix", ["tif", "gif", "webp"])
def test_a_file_of_several_masks_is_refused(suffix, tmp_path):
    path = tmp_path / f"a_mask.{suffix}"
    further = [Image.fromarray(ON * 255), Image.fromarray(255 - ON)]
    Image.fromarray(ON * 0).save(path, save_all=True, append_images=further)
    for source in (path, path.read_bytes()):
        with pytest.raises(InputError, match="it holds 3 pictures"):
            read_mask(source)


@pytest.mark.parametrize(
    ("image", "marked"),
    [
        (np.zeros((4, 4), np.uint8), False),
        (np.full((4, 4), 255, np.uint8), True),
        (np.full((4, 4), 3, np.uint8), True),
        (np.full((4, 4, 3), (9, 0, 0), np.uint8), True),
        (np.zeros((4, 4, 4), np.uint8) + np.array([0, 0, 0, 255], np.uint8), False),
        (np.ones((4, 4), np.uint16), True),
    ],
)
def test_one_value_everywhere(image, marked):
    got = read_mask(encode(image))
    assert got.all() if marked else not got.any()


def test_single_pixels_and_thin_rings_are_marked():
    mask = np.zeros((40, 40), np.uint8)
    mask[3, 5], mask[20:30, 20] = 1, 2
    np.testing.assert_array_equal(read_mask(encode(mask)), mask > 0)
    assert not read_mask(encode(ON * 0, "JPEG")).any()


def test_a_mask_is_turned_as_its_metadata_say():
    exif = Image.Exif()
    exif[0x0112] = 6
    wide = ON[:64] * 255
    for data in (encode(wide, exif=exif), encode(wide, "JPEG", exif=exif, quality=95)):
        got = read_mask(data)
        assert (got == np.rot90(TRUE[:64], -1)).mean() > 0.995


def test_a_mask_that_marks_most_is_told():
    assert marks_most(~TRUE) == "marks 92% of its picture: is it inverted? White is the defect"
    assert marks_most(TRUE) == ""


@pytest.mark.parametrize("form", ["palette, white first", "1 outside, 255", "white, transparent outside"])
def test_regions_of_interest_are_read_alike_and_told(form, tmp_path):
    path = tmp_path / "roi.png"
    path.write_bytes(EXACT[form]())
    roi = read_roi(path, Preprocess(size=(SIDE, SIDE)))
    np.testing.assert_array_equal(roi, TRUE)
    assert describe_roi(path, roi) == f"region of interest {path}: 8% of the picture counts"
    assert "92% of the picture counts; if that is the wrong side, invert the mask" in describe_roi(path, ~roi)
    assert describe_roi("0,0,0.5,1", roi) == ""
