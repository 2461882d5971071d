"""TIFF files as tifffile writes them are read right, or refused in a line; damaged ones always the latter."""

import io

import numpy as np
import pytest
import tifffile
from PIL import Image

from flawscope.errors import InputError
from flawscope.pictures.channels import read_channels
from flawscope.pictures.decoding import decode, read_picture_header
from flawscope.pictures.picture_count import describe_pages
from tiff_forms import FORMS, GREY, RGB, SIZE, drawn, form, written


@pytest.mark.parametrize("name", [name for name in FORMS if name != "1 bit"])  # which is a palette
def test_all_channels_have_the_values_that_were_written(name):
    data, values = FORMS[name]()
    np.testing.assert_array_equal(read_channels(data, name)[0], values.astype(np.float32))


@pytest.mark.parametrize("name", FORMS)
def test_a_picture_is_read_right_or_refused(name):
    data, values = FORMS[name]()
    several = describe_pages(io.BytesIO(data))
    alpha = values.shape[2] in (2, 4)
    if several or alpha or values.shape[2] > 4:
        with pytest.raises(
            InputError, match=several or ("its alpha goes" if alpha else "neither colour nor alpha")
        ):
            decode(data)
        return
    got = decode(data)
    np.testing.assert_array_equal(got, np.broadcast_to(values, got.shape).astype(np.float32))


def test_signed_values_below_0_are_neither_wrapped_nor_cut():
    for dtype in (np.int8, np.int16, np.int32):
        values = drawn(dtype)
        values[3, 4] = -7
        got = decode(written(values[:, :, 0], **GREY))
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, values)
    assert decode(written(drawn(np.int8)[:, :, 0], **GREY)).dtype == np.uint8
    huge = drawn("uint32") * 60_000
    np.testing.assert_array_equal(decode(written(huge[:, :, 0], **GREY)), huge.astype(np.float32))


def test_sub_directories_and_smaller_copies_are_no_channels():
    file, values = io.BytesIO(), drawn("uint16", 2)
    with tifffile.TiffWriter(file) as writer:
        writer.write(values[:, :, 0], subifds=2, **GREY)
        for step in (2, 4):
            writer.write(values[::step, ::step, 0], subfiletype=1, **GREY)
        writer.write(values[:, :, 1], **GREY)
    np.testing.assert_array_equal(read_channels(file.getvalue(), "a.tif")[0], values)


def test_what_pillow_reads_right_stays_byte_for_byte(encoded):
    rng = np.random.default_rng(0)
    pictures = {
        mode: Image.fromarray(rng.integers(0, 256, (*SIZE, 3), np.uint8)).convert(mode)
        for mode in ("RGB", "L", "1", "P", "CMYK", "YCbCr")
    }
    for mode, image in pictures.items():
        for compression in (None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
            if compression == "jpeg" and mode in ("1", "P"):
                continue
            data = encoded(image, "TIFF", **({"compression": compression} if compression else {}))
            opened = Image.open(io.BytesIO(data))
            np.testing.assert_array_equal(
                decode(data), opened.convert("RGB"), err_msg=str((mode, compression))
            )
    sixteen = rng.integers(0, 65536, SIZE).astype(np.uint16)
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(sixteen), "TIFF"))[:, :, 0], sixteen)


@pytest.mark.parametrize("how", [{}, {"tile": (16, 16)}])
def test_colour_packed_as_webp_is_read(how):
    rgb = drawn("uint8", 3)
    data = written(rgb, compression="webp", compressionargs={"level": 100}, **RGB, **how)
    assert np.abs(decode(data) - rgb.astype(float)).mean() < 20


def test_what_would_be_guessed_is_refused(refused):
    rgba = drawn("uint16", 4)
    refused(lambda: decode(form(rgba, extrasamples=["assocalpha"])[0]), "multiplied by its alpha")
    volume = written(np.moveaxis(rgba, 2, 0), volumetric=True, **GREY)
    refused(lambda: decode(volume), "4 slices")
    signed = written(drawn("int16")[:, :, 0], photometric="miniswhite")
    refused(lambda: decode(signed), "signed values of 16 bits, whose white is 0")
    complex_values = written(drawn("float32")[:, :, 0].astype(np.complex64), **GREY)
    refused(lambda: decode(complex_values), "complex values of 64 bits")


def test_hostile_files_are_refused_before_memory_is_taken(refused):
    data = bytearray(form(drawn("uint16", 3))[0])
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as file:
        tags = {code: file.pages[0].tags[code] for code in (256, 257, 273)}
    for code in (256, 257):
        at = tags[code].offset + 8
        data[at : at + 4] = (60000).to_bytes(4, "little") if tags[code].dtype == 4 else b"\x60\xea\0\0"
    refused(lambda: decode(bytes(data)), "megapixels")
    refused(lambda: read_channels(bytes(data), "a.tif"), "cut it into parts")
    torn = bytearray(form(drawn("uint16", 3))[0])
    torn[tags[273].offset + 2] = 2  # offsets as text
    refused(lambda: decode(bytes(torn)), "copy it again")
    ring = bytearray(written(np.moveaxis(drawn("uint16", 2), 2, 0), **GREY))
    with tifffile.TiffFile(io.BytesIO(bytes(ring))) as file:
        last = file.pages[1]
        at = last.offset + 2 + 12 * len(last.tags)
        ring[at : at + 4] = file.pages[0].offset.to_bytes(4, "little")
    assert read_channels(bytes(ring), "a.tif")[0].shape == (*SIZE, 2)


@pytest.mark.parametrize("seed", range(4))
def test_damaged_files_are_read_or_refused_in_one_line(seed):
    rng = np.random.default_rng(seed)
    files, lines = [FORMS[name]()[0] for name in list(FORMS)[seed::8]], []
    for _ in range(150):
        data = bytearray(files[rng.integers(len(files))])
        for _ in range(rng.integers(1, 5)):
            data[rng.integers(min(len(data), 420))] = rng.choice([0, 1, 2, 3, 255, rng.integers(256)])
        if rng.random() < 0.2:
            data = data[: rng.integers(9, len(data))]
        for read in (decode, lambda one: read_channels(one, "a"), lambda one: read_picture_header(one, "a")):
            try:
                read(bytes(data))
            except InputError as error:
                lines.append(str(error))
    assert lines
    assert not any("\n" in line for line in lines)
