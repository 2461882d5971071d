"""TIFF files as tifffile writes them are read right, or refused in a line; damaged ones always the latter."""

import io
import os
import subprocess
import sys

import numpy as np
import pytest
import tifffile
from PIL import Image

from flawscope.errors import InputError
from flawscope.pictures.channels import read_channels
from flawscope.pictures.decoding import decode, read_picture_header
from flawscope.pictures.frames import describe_pages

SIZE = (37, 29)
GREY, RGB = {"photometric": "minisblack"}, {"photometric": "rgb"}
COMMON = ("lzw", "zlib", "packbits", "lzma", "zstd")  # compressions
ALPHA, SPARE = "unassalpha", "unspecified"


def written(values, **how):
    file = io.BytesIO()
    tifffile.imwrite(file, values, **how)
    return file.getvalue()


def drawn(dtype, channels=1, seed=0):
    """Values [H, W, C] that are not negative."""
    rng, kind = np.random.default_rng(seed), np.dtype(dtype)
    if kind.kind == "f":
        return rng.random((*SIZE, channels)).astype(kind)
    return rng.integers(0, min(np.iinfo(kind).max, 65535), (*SIZE, channels), endpoint=True).astype(kind)


def form(values, **how):
    """A file of values [H, W, C], and these."""
    channels = values.shape[2]
    extra = {2: [ALPHA], 4: [ALPHA]}.get(channels, [SPARE] * (channels - 3 if channels > 3 else 0))
    how = {**(RGB if channels > 2 else GREY), **({"extrasamples": extra} if extra else {}), **how}
    stored = values[:, :, 0] if channels == 1 else values
    if how.get("planarconfig") == "separate":
        stored = np.moveaxis(values, 2, 0)
    elif channels == 2:
        how["planarconfig"] = "contig"
    return written(stored, **how), values


def packed(bits):
    values = (drawn("u4").astype(np.int64) << 8 >> 24 - bits).astype("u1" if bits < 9 else "u2")
    assert values.max() < 1 << bits
    seen = values if bits > 8 else values.astype(int) * 255 // ((1 << bits) - 1)
    return form(values, bitspersample=bits)[0], seen


FORMS = {
    **{
        f"{dtype}, {channels} channels, {'Big' if big else 'classic'} {order}": (
            lambda dtype=dtype, channels=channels, big=big, order=order: form(
                drawn(dtype, channels), bigtiff=big, byteorder=order
            )
        )
        for dtype, channels, big, order in [
            *(("uint16", 3, big, order) for big in (False, True) for order in "<>"),
            *(("uint8", channels, True, order) for channels in (1, 3, 8) for order in "<>"),
            *((kind, 1, False, "<") for kind in ("int8", "int16", "int32", "uint32")),
            *((f"float{bits}", channels, True, ">") for bits in (16, 32, 64) for channels in (1, 3, 5)),
            *(("uint16", channels, False, ">") for channels in (2, 4, 5, 6, 7, 8)),
        ]
    },
    **{f"{bits} bits": lambda bits=bits: packed(bits) for bits in (2, 3, 4, 6, 7, 9, 10, 12, 14)},
    "1 bit": lambda: (
        written((drawn("u1")[:, :, 0] > 99), **GREY),
        np.where(drawn("u1") > 99, 255, 0).astype(np.uint8),
    ),
    **{
        f"white is 0, {dtype}": (
            lambda dtype=dtype: (
                written(drawn(dtype)[:, :, 0], photometric="miniswhite"),
                (1 if dtype == "float32" else np.iinfo(dtype).max) - drawn(dtype),
            )
        )
        for dtype in ("uint8", "uint16", "uint32", "float32")
    },
    **{
        f"{compression} {dtype} {how}": (
            lambda compression=compression, dtype=dtype, how=how: form(
                drawn(dtype, 3), compression=compression, **how
            )
        )
        for compression in COMMON
        for dtype in ("uint8", "uint16", "float32")
        for how in (
            {"predictor": True, "tile": (16, 16)},
            {"predictor": True, "rowsperstrip": 10, "planarconfig": "separate"},
            {"tile": (32, 16), "planarconfig": "separate"},
        )
    },
    "ImageJ": lambda: (
        written(np.moveaxis(drawn("uint16", 4), 2, 0), imagej=True, metadata={"axes": "CYX"}),
        drawn("uint16", 4),
    ),
    "OME": lambda: (
        written(np.moveaxis(drawn("uint16", 4), 2, 0), ome=True, metadata={"axes": "CYX"}, **GREY),
        drawn("uint16", 4),
    ),
    "several pages": lambda: (
        written(np.moveaxis(drawn("uint16", 4), 2, 0), bigtiff=True, **GREY),
        drawn("uint16", 4),
    ),
    "a turned picture": lambda: (
        written(drawn("uint16", 3), extratags=[(274, "H", 1, 6, True)], **RGB),
        np.rot90(drawn("uint16", 3), -1),
    ),
}


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


def test_what_would_be_guessed_is_refused(refused):
    rgba = drawn("uint16", 4)
    refused(lambda: decode(form(rgba, extrasamples=["assocalpha"])[0]), "multiplied by its alpha")
    volume = written(np.moveaxis(rgba, 2, 0), volumetric=True, **GREY)
    refused(lambda: decode(volume), "4 slices")
    signed = written(drawn("int16")[:, :, 0], photometric="miniswhite")
    refused(lambda: decode(signed), "signed values of 16 bits, whose white is 0")
    complex_values = written(drawn("float32")[:, :, 0].astype(np.complex64), **GREY)
    refused(lambda: decode(complex_values), "complex values of 64 bits")


@pytest.mark.parametrize("missing", ["jpeg of 5 channels", "12 bits", "floats as differences"])
def test_a_missing_codec_is_named_with_the_command_that_brings_it(missing, tmp_path):
    five = np.full((16, 16, 5), 90, np.uint8)
    path = tmp_path / "a.tif"
    path.write_bytes(
        {
            "jpeg of 5 channels": lambda: written(
                np.moveaxis(five, 2, 0), planarconfig="separate", compression="jpeg", **GREY
            ),
            "12 bits": lambda: packed(12)[0],
            "floats as differences": lambda: form(drawn("float32", 3), compression="zlib", predictor=True)[0],
        }[missing]()
    )
    code = (
        "import sys; sys.modules['imagecodecs'] = None\n"
        "from flawscope.pictures.channels import read_channels\n"
        f"read_channels({str(path)!r}, 'a.tif')"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    last = run.stderr.strip().splitlines()[-1]
    assert "needs imagecodecs; pip install " in last, last


def test_common_compressions_of_16_bits_need_no_codec(tmp_path):
    names = [name for name in FORMS if name.startswith(tuple(f"{one} uint16" for one in COMMON))]
    for k, name in enumerate(names):
        data, values = FORMS[name]()
        (tmp_path / f"{k}.tif").write_bytes(data)
        np.save(tmp_path / f"{k}.npy", values)
    code = (
        "import sys; sys.modules['imagecodecs'] = None\n"
        "import numpy as np\nfrom flawscope.pictures.decoding import decode\n"
        f"for k in range({len(names)}):\n"
        "    np.testing.assert_array_equal(decode(f'{k}.tif'), np.load(f'{k}.npy'))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env={**os.environ})


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
