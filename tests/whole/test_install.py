"""The core, installed without extras into an empty environment: small, quick, and enough to predict. What is
installed is the wheel, made from the source distribution, as `make dist` makes both."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import flawscope

ROOT = Path(__file__).parents[2]
MOST_BYTES = 350 * 2**20


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The interpreter of an environment that has nothing but flawscope and what it asks for."""
    folder = tmp_path_factory.mktemp("install")
    checkout = folder / "checkout"  # setuptools writes beside what it builds
    checkout.mkdir()
    shutil.copytree(
        ROOT / "src", checkout / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
    )
    files = [*("pyproject.toml", "README.md", "LICENSE", "NOTICE", "MANIFEST.in", "CHANGELOG.md")]
    files.append("constraints.txt")
    for name in files:
        shutil.copy(ROOT / name, checkout)
    source = unpacked(build(checkout, "sdist"), folder / "source")
    assert {path.name for path in source.iterdir()} >= {*files, "src"}
    wheel = build(source, "wheel")
    environment = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True, timeout=120)
    python = environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    install = [sys.executable, "-m", "pip", "--python", python, "install"]
    install += ["--quiet", "--no-input", "--retries", "1", "--no-compile"]  # most of it is never imported
    install += ["--disable-pip-version-check", "-c", "constraints.txt", wheel]
    done = subprocess.run(install, cwd=checkout, capture_output=True, text=True, timeout=600)
    lost = [line for line in done.stderr.splitlines() if "connection" in line.lower() or "timed out" in line]
    if done.returncode and lost:
        pytest.skip(f"pip reaches no index: set PIP_INDEX_URL ({lost[0].strip():.200})")
    assert done.returncode == 0, done.stderr
    return python


def build(folder, kind):
    """The source distribution or the wheel of a folder, made by what is installed here."""
    code = f"from setuptools import build_meta; print(build_meta.build_{kind}('dist'))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return folder / "dist" / done.stdout.splitlines()[-1]


def unpacked(archive, folder):
    shutil.unpack_archive(archive, folder, filter="data")
    (source,) = folder.iterdir()
    return source


def run(python, *words, folder):
    """What it prints, in a folder from which nothing is imported by accident."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(
        [python, *words], cwd=folder, env=clean, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_core_alone_predicts_and_calibrates(python, onnx_path, drawn, tmp_path):
    good, bad = drawn / "plate/test/good", drawn / "plate/test/scratch"
    command = python.with_name("flawscope")
    run(command, "calibrate", onnx_path, "--good", good, "--force", "--out", "new.onnx", folder=tmp_path)
    printed = run(command, "predict", "new.onnx", good, bad, "--json", folder=tmp_path)
    found = [json.loads(line) for line in printed.splitlines()]
    model = flawscope.load(tmp_path / "new.onnx")  # with everything that is installed here
    assert len(found) > len(list(bad.iterdir())) > 0
    for line in found:
        expected = model.predict(line["path"])
        assert line["score"] == pytest.approx(expected.score, rel=1e-5)
        assert (line["p_value"], line["is_anomalous"]) == (expected.p_value, expected.is_anomalous)

    code = f"""
import importlib.util, json, sys
import flawscope
model = flawscope.load({str(onnx_path)!r}).calibrate([{found[0]["path"]!r}], force=True)
score = model.predict({found[-1]["path"]!r}).score
names = ("torch", "torchvision", "timm", "onnx", "psutil", "sklearn")
print(json.dumps([score, model.calibration.count, [n for n in names if importlib.util.find_spec(n)],
                  [n for n in names if n in sys.modules], flawscope.__file__]))
"""
    score, count, installed, loaded, where = json.loads(run(python, "-c", code, folder=tmp_path))
    assert score == pytest.approx(found[-1]["score"], rel=1e-5)
    assert count == 1
    assert installed == loaded == []
    assert Path(where).is_relative_to(python.parents[1])


def test_the_core_alone_is_small(python, tmp_path):
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(run(python, "-c", code, folder=tmp_path).strip())
    sizes = {
        part.name: sum(f.stat().st_size for f in [part, *part.rglob("*")] if f.is_file())
        for part in packages.iterdir()
        if not part.name.startswith(("pip", "setuptools", "_distutils_hack", "distutils-precedence"))
    }
    assert sum(sizes.values()) < MOST_BYTES, sizes
