"""The states of the pages, without a browser: their machines are tested in Node, by the files beside this."""

import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
NODE = shutil.which("node")


@pytest.mark.skipif(NODE is None, reason="no Node: apt-get install nodejs")
@pytest.mark.parametrize("name", sorted(path.name for path in HERE.glob("*.test.mjs")))
def test_the_machine_of_a_page(name):
    ended = subprocess.run([str(NODE), "--test", name], cwd=HERE, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stdout + ended.stderr
