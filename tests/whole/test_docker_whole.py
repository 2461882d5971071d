"""The Dockerfile: what an image must and must not be, and that its steps work, without a Docker daemon."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def check():
    """docker/check.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "docker")
        return importlib.import_module("check")


def test_the_steps_of_the_small_image_make_one_that_predicts(
    check, onnx_path, drawn, tmp_path, capsys, monkeypatch
):
    """Its train twin takes gigabytes: `python docker/check.py train` by hand."""
    monkeypatch.setenv("PIP_RETRIES", "1")
    monkeypatch.setenv("PIP_COMPILE", "0")  # most of what is installed is never imported here
    try:
        programs = check.build("runtime", tmp_path)
    except subprocess.CalledProcessError:
        probe = [sys.executable, "-m", "pip", "download", "--no-deps", "-q", "-d", tmp_path, "PyYAML"]
        if subprocess.run(probe, capture_output=True, timeout=300).returncode:
            pytest.skip("pip reaches no index: set PIP_INDEX_URL")
        raise
    pictures = [str(drawn / "plate/test/good")]
    check.try_out("runtime", programs, str(onnx_path), pictures, tmp_path)
    out = capsys.readouterr().out
    assert "4 pictures predicted" in out
    assert "torch" not in out
