"""TIFF files as tifffile writes them, each with the values that are in it."""

import io

import numpy as np
import tifffile

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
    **{
        f"{compression} {dtype} of 1 channel, the highest byte first": (
            lambda compression=compression, dtype=dtype: form(
                drawn(dtype), compression=compression, byteorder=">"
            )
        )
        for compression in COMMON
        for dtype in ("int16", "int32", "uint16", "float32")
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
