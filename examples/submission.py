"""Judge the private test pictures of MVTec AD 2, whose ground truth only its evaluation server has, and write
the folder that the server takes.

    python examples/submission.py models/can.safetensors mvtec_ad_2/can submission

The tree, the names and the number formats are those that MVTec's public code checks before an upload
(`check_and_prepare_data_for_upload.py`): anomaly_images/OBJECT/SPLIT/NAME.tiff, one channel in float16, and
anomaly_images_thresholded/OBJECT/SPLIT/NAME.png, one channel of 0 and 255, at the picture's size.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import flawscope
from flawscope.datasets import list_pictures

SPLITS = ("test_private", "test_private_mixed")


def write_submission(model: flawscope.Predictor, category: Path, out: Path) -> None:
    paths = [
        path for split in SPLITS if (category / split).is_dir() for path in list_pictures(category / split)
    ]
    for path, found in model.stream(paths):
        if isinstance(found, flawscope.InputError):
            raise found  # the server takes no submission with a picture missing
        name = Path(category.name, Path(str(path)).relative_to(category))
        values = found.picture_map()
        values = np.where(np.isfinite(values), values, np.nanmin(values))  # where the network does not look
        tiff = out / "anomaly_images" / name.with_suffix(".tiff")
        png = out / "anomaly_images_thresholded" / name.with_suffix(".png")
        for place in (tiff, png):
            place.parent.mkdir(parents=True, exist_ok=True)
        tiff.write_bytes(encode_float16_tiff(values))
        Image.fromarray(found.picture_mask().astype(np.uint8) * np.uint8(255)).save(png)
    print(f"{len(paths)} pictures in {out}")


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


if __name__ == "__main__":
    predictor = flawscope.load(sys.argv[1])
    assert isinstance(predictor, flawscope.Predictor)
    write_submission(predictor, Path(sys.argv[2]), Path(sys.argv[3]))
