"""The folder for MVTec AD 2's evaluation server."""

import runpy
import struct
from pathlib import Path

import numpy as np
from PIL import Image

from brightness import draw, model

FILE = Path(__file__).parents[2] / "examples/submission.py"


def test_maps_and_masks_lie_where_the_server_looks(tmp_path):
    write_submission = runpy.run_path(str(FILE))["write_submission"]
    root, out, predictor = tmp_path / "can", tmp_path / "out", model()
    names = ("test_private/000.png", "test_private_mixed/000_shift_1.png")
    for name in names:
        (root / name).parent.mkdir(parents=True)
        draw(root / name, 0.9)
    write_submission(predictor, root, out)
    for name in names:
        found = predictor.predict(root / name)
        data = (out / "anomaly_images/can" / name).with_suffix(".tiff").read_bytes()
        height, width = found.picture_map().shape
        count = struct.unpack_from("<H", data, 8)[0]
        tags = {tag: value for tag, _, _, value in struct.iter_unpack("<HHII", data[10 : 10 + 12 * count])}
        size = {256: width, 257: height, 279: 2 * width * height}
        assert (size | {258: 16, 259: 1, 339: 3}).items() <= tags.items()
        values = np.frombuffer(data[tags[273] :], "<f2").reshape(height, width)
        assert np.array_equal(values, found.picture_map().astype(np.float16))
        marked = np.asarray(Image.open(out / "anomaly_images_thresholded/can" / name))
        assert np.array_equal(marked, found.picture_mask() * np.uint8(255))
        assert marked.any()
    assert len([path for path in out.rglob("*") if path.is_file()]) == 4
