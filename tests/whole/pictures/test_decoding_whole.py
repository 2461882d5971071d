"""Decoding against Pillow and literal definitions, and what is refused."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

H, W = 37, 52


BIG = """
import resource, sys, warnings
warnings.simplefilter("error")
from flawscope.pictures.decoding import decode, pixel_hash
from flawscope.views.preprocess import Preprocess
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
tensor, geometry = Preprocess()(sys.argv[1])
assert geometry.picture_size == (10000, 10000)
assert 0 <= tensor.min() and tensor.max() <= 1 and 0.4 < tensor.mean() < 0.6
pixel_hash(decode(sys.argv[1]))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.parametrize("name", ["large.png", "large.tif"])
def test_100_megapixels_are_silent_and_small(tmp_path, name):
    path = tmp_path / name
    checks = (np.indices((10, 10)).sum(axis=0) % 2).astype(np.uint8) * 255
    Image.fromarray(np.kron(checks, np.ones((1000, 1000), np.uint8))).save(path)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", BIG, str(path)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert float(done.stdout) < 450  # megabytes: two copies of the grey picture; as RGB it would take 700
