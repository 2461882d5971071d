"""Commands called in this process."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flawscope.cli import main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """`run(*words)`: the exit code of `flawscope WORDS`, what is on stdout, and on stderr."""

    def call(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(word) for word in words])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


@pytest.fixture
def mixed(drawn: Path, tmp_path: Path) -> Path:
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
