"""The folder for MVTec AD 2's evaluation server."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from brightness import draw, model
from flawscope import Predictor
from flawscope.errors import InputError
from flawscope.evaluation.submission import encode_float16_tiff, write_submission


def test_maps_and_masks_lie_where_the_server_looks(tmp_path: Path) -> None:
    root, out = tmp_path / "can", tmp_path / "out"
    with pytest.raises(InputError, match="test_private"):
        write_submission(out, model(), root, "can")
    names = ("test_private/000.png", "test_private_mixed/000_shift_1.png")
    for name in names:
        (root / name).parent.mkdir(parents=True)
        draw(root / name, 0.9)
    predictor: Predictor = model()
    assert write_submission(out, predictor, root, "can") == []
    for name in names:
        found = predictor.predict(root / name)
        data = (out / "anomaly_images/can" / name).with_suffix(".tiff").read_bytes()
        height, width = found.picture_map().shape
        values = np.frombuffer(data[-2 * height * width :], "<f2").reshape(height, width)
        assert np.array_equal(values, found.picture_map().astype(np.float16))
        marked = np.asarray(Image.open(out / "anomaly_images_thresholded/can" / name))
        assert np.array_equal(marked, found.picture_mask() * np.uint8(255))
        assert marked.any()
    assert len([path for path in out.rglob("*") if path.is_file()]) == 4


def test_the_tiff_says_what_it_holds() -> None:
    data = encode_float16_tiff(np.array([[1.5, 1e9, -2]], np.float32))
    count = struct.unpack_from("<H", data, 8)[0]
    tags = {}
    for k in range(count):
        tag, _, _, value = struct.unpack_from("<HHII", data, 10 + 12 * k)
        tags[tag] = value
    assert {256: 3, 257: 1, 258: 16, 259: 1, 339: 3, 279: 6}.items() <= tags.items()
    assert [*np.frombuffer(data[tags[273] :], "<f2")] == [1.5, 65504, -2]
