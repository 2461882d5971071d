"""Writes the folder that the evaluation server of MVTec AD 2 takes: maps and marked pixels of the private
test pictures, whose ground truth only the server has.

The tree, the names and the number formats are those that MVTec's public code for the data set checks before
an upload (`check_and_prepare_data_for_upload.py`): anomaly_images/OBJECT/SPLIT/NAME.tiff, one channel in
float16, and anomaly_images_thresholded/OBJECT/SPLIT/NAME.png, one channel of 0 and 255. It does not check the
size; that of the picture is taken.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flawscope import Predictor
from flawscope.errors import FlawscopeError, InputError
from flawscope.pictures.listing import pictures_in
from flawscope.progress import ProgressCallback, ignore_progress

SPLITS = ("test_private", "test_private_mixed")


def write_submission(
    out: Path, predictor: Predictor, root: Path, category: str, step: ProgressCallback = ignore_progress
) -> list[str]:
    """Judges the private pictures in the category's folder `root`; returns those that could not be read.

    Raises:
        InputError: there are none.
        FlawscopeError: a file cannot be written.
    """
    splits = [split for split in SPLITS if (root / split).is_dir()]
    paths = [path for split in splits for path in pictures_in(root / split)]
    if not paths:
        raise InputError(f"{root} has no {' or '.join(SPLITS)}: give a category of MVTec AD 2")
    failures = []
    for done, (path, result) in enumerate(predictor.stream(paths), start=1):
        step("submission", done, len(paths))
        if isinstance(result, InputError):
            failures.append(str(result))
            continue
        name = Path(category, Path(str(path)).relative_to(root))
        values = result.picture_map()
        marked = result.outlined(values)
        values = np.where(np.isfinite(values), values, np.nanmin(values))  # where the network does not look
        tiff = out / "anomaly_images" / name.with_suffix(".tiff")
        png = out / "anomaly_images_thresholded" / name.with_suffix(".png")
        try:
            for place in (tiff, png):
                place.parent.mkdir(parents=True, exist_ok=True)
            tiff.write_bytes(encode_float16_tiff(values))
            Image.fromarray(marked.astype(np.uint8) * np.uint8(255)).save(png)  # one channel
        except OSError as error:  # the server takes no submission with a picture missing
            raise FlawscopeError(f"cannot write {tiff}: {error.strerror}; free some space") from None
    return failures


def encode_float16_tiff(values: NDArray[np.float32]) -> bytes:
    """TIFF file of a map [H, W] in float16, one strip; larger values become the largest of float16."""
    height, width = values.shape
    limit = np.finfo(np.float16).max
    data = np.clip(values, -limit, limit).astype("<f2").tobytes()
    tags = {  # TIFF 6.0: width, length, bits, no compression, grey, strip, samples, rows, bytes, float
        **{256: width, 257: height, 258: 16, 259: 1, 262: 1, 273: 0, 277: 1},
        **{278: height, 279: len(data), 339: 3},
    }
    start = 8 + 2 + 12 * len(tags) + 4
    tags[273] = start
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(4) + data
