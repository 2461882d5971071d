"""The built distributions: each holds its licence, its notice and what belongs there, and nothing else."""

import importlib
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILD = """
import os, sys
sys.path.insert(0, os.getcwd())
try:
    import collect as backend
except ImportError:
    from setuptools import build_meta as backend
out = sys.argv[1]  # setuptools changes sys.argv
backend.build_sdist(out)
backend.build_wheel(out)
"""


@pytest.fixture(scope="module")
def built_files():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "deploy"))
        yield importlib.import_module("built_files")


@pytest.fixture(scope="module")
def dist(built_files, tmp_path_factory):
    """A folder with all wheels and source distributions, built from a copy of what git would hold."""
    checkout, out = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("dist")
    ignored = shutil.ignore_patterns(
        *(".git", ".venv", "build", "dist", "demo", "site", "*.egg-info", "__pycache__", "bench", "docs")
    )
    shutil.copytree(ROOT, checkout, ignore=ignored, dirs_exist_ok=True)
    for distribution in built_files.DISTRIBUTIONS:
        done = subprocess.run(
            [sys.executable, "-c", BUILD, out],
            cwd=checkout / distribution.folder,
            capture_output=True,
            text=True,
            timeout=300,
        )
        if done.returncode and "cannot be fetched" in done.stderr:
            pytest.skip("pip reaches no index: set PIP_INDEX_URL")
        assert done.returncode == 0, done.stderr[-3000:]
    return out


def test_every_distribution_is_whole(built_files, dist):
    assert built_files.faults_of(dist) == []


def test_a_release_wants_addresses_that_work_on_an_index(built_files, dist):
    faults = built_files.faults_of(dist, released=True)
    assert any("flawscope-0.1.0" in fault and "no URLs" in fault for fault in faults)
    assert any("flawscope_station" in fault and "relative links" in fault for fault in faults)


def changed(wheel, folder, name, content):
    """A copy of a wheel in which one file holds something else, or is new; None takes it out."""
    copy = folder / wheel.name
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(copy, "w") as new:
        for entry in old.namelist():
            if entry != name:
                new.writestr(entry, old.read(entry))
        if content is not None:
            new.writestr(name, content)
    return copy


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("flawscope_line-0.1.0.dist-info/licenses/LICENSE", b"../LICENSE", "another LICENSE than LICENSE"),
        ("flawscope_line-0.1.0.dist-info/licenses/NOTICE", None, "no NOTICE"),
        ("flawscope_line/test_line.py", b"", "flawscope_line/test_line.py is a test"),
        ("tests/conftest.py", b"", "tests/conftest.py lies outside the package"),
        ("flawscope_line/model.onnx", b"", "is of a kind that does not belong there"),
        ("flawscope_line/big.py", b"#" * 1_000_001, "has 1,000,001 bytes"),
        ("flawscope_line/py.typed", None, "no py.typed"),
    ],
)
def test_what_does_not_belong_into_a_wheel_is_a_fault(built_files, dist, tmp_path, name, content, fault):
    (line,) = [one for one in built_files.DISTRIBUTIONS if one.name == "flawscope-line"]
    (wheel,) = dist.glob("flawscope_line-*.whl")
    faults = built_files.wheel_faults(changed(wheel, tmp_path, name, content), line)
    assert [one for one in faults if fault in one], faults
