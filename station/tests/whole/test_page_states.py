"""The states of the pages, without a browser: their machines are tested in Node, by the files of `web/`."""

import shutil
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "web"
NODE = shutil.which("node")


@pytest.mark.smoke
@pytest.mark.skipif(NODE is None, reason="no Node: apt-get install nodejs")
@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("*.test.mjs")))
def test_the_machine_of_a_page(name):
    ended = subprocess.run(
        [str(NODE), "--test", name], cwd=FOLDER, capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
