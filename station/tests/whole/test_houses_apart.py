"""Each house alone: the library without the station, and all three from their wheels."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
BLOCKED = """
import sys
for name in ("flawscope_station", "flawscope_line", "fastapi", "sqlalchemy", "uvicorn"):
    sys.modules[name] = None  # as if it were not installed
import importlib.metadata as metadata
metadata.entry_points = lambda **chosen: ()
from flawscope.cli import main
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", BLOCKED + code], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("command", "package"),
    [("serve", "flawscope-station"), ("station", "flawscope-station"), ("plc-table", "flawscope-line")],
)
def test_without_the_station_its_commands_say_how_to_install_it(command, package):
    done = run(f"raise SystemExit(main([{command!r}, '--help']))")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(
        f"flawscope: {command} is a command of {package}, which is not installed: install it: pip install ./"
    )


def test_without_the_station_the_library_lists_its_own_commands_and_imports_whole():
    done = run(
        "import pkgutil, flawscope, importlib\n"
        "for info in pkgutil.walk_packages(flawscope.__path__, 'flawscope.'):\n"
        "    if not info.name.endswith('__main__') and '.cluster' not in info.name:\n"
        "        importlib.import_module(info.name)\n"
        "raise SystemExit(main(['--help']))"
    )
    assert done.returncode == 0, done.stderr
    assert "  fit " in done.stdout
    assert "  serve " not in done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the wheels of the three houses, unpacked as pip does it."""
    folder, checkout = tmp_path_factory.mktemp("houses"), tmp_path_factory.mktemp("checkout")
    for house in ("", "station", "line"):  # setuptools writes beside what it builds
        ignored = shutil.ignore_patterns("build", "*.egg-info", "__pycache__")
        shutil.copytree(ROOT / house / "src", checkout / house / "src", ignore=ignored)
        for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
            shutil.copy(ROOT / house / name, checkout / house)
        words = ["--quiet", "--no-deps", "--no-build-isolation", "--no-compile", "--target", folder]
        command = [sys.executable, "-m", "pip", "install", *words, checkout / house]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
    return folder


def test_tests_pass_with_the_installed_wheels(installed):
    """What a checkout has beside a wheel is not needed: pages, texts, weights, entry points are in it."""
    tests = ("tests/results/test_prediction.py", "station/tests/test_station_pages.py")
    tests += ("line/tests/test_plc_line.py",)
    environment = {**os.environ, "PYTHONPATH": str(installed), "DURATIONS": str(installed / "durations.tsv")}
    environment = {name: value for name, value in environment.items() if not name.startswith("PYTEST")}
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-3000:]
    where = [sys.executable, "-c", "import flawscope, flawscope_station; print(flawscope_station.__file__)"]
    found = subprocess.run(where, cwd=installed, env=environment, capture_output=True, text=True, timeout=60)
    assert found.stdout.startswith(str(installed))
