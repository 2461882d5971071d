"""Commands called in this process."""

import shutil

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def mixed(drawn, tmp_path):
    """A folder as it comes: good, defective, several in a file, a video, a note, and what has no suffix."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    good = drawn / "plate/train/good/000.png"
    shutil.copy(good, folder / "a.png")
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "b.png")
    with Image.open(good) as first:
        first.save(folder / "c.gif", save_all=True, append_images=[first.rotate(90)])
    (folder / "d.mp4").write_bytes(b"\0\0\0\x18ftypmp42")
    (folder / "e.txt").write_text("a note")
    shutil.copy(good, folder / "f")
    return folder
