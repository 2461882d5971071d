"""The scripts in bench/: what they say of themselves, that they run, and where their results came from."""

import json
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parents[3] / "bench"
SHARED = ("closed_layouts.py", "common.py", "drawn.py", "models.py", "searches.py")
SCRIPTS = sorted(p.name for p in BENCH.glob("*.py") if p.name not in SHARED)


def run(script, *words):
    return subprocess.run([sys.executable, BENCH / script, *words], capture_output=True, text=True)


def test_scripts_say_what_they_ask():
    """One process for all: each parser is made, and prints its help."""
    code = (
        "import importlib, sys\n"
        f"sys.path.insert(0, {str(BENCH)!r})\n"
        "for name in sys.argv[1:]:\n"
        "    module = importlib.import_module(name)\n"
        "    sys.argv = [name, '--help']\n"
        "    try:\n"
        "        module.main()\n"
        "    except SystemExit as end:\n"
        "        assert not end.code, name\n"
    )
    names = [script.removesuffix(".py") for script in SCRIPTS]
    done = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("--quick") >= 2 * len(SCRIPTS)  # in the usage and in the list


def test_a_trial_writes_results_and_says_how_they_were_made(tmp_path):
    out = tmp_path / "out.json"
    words = ("fit.py", "--quick", "--out", str(out), "--only", "data", "--set", "size=64")
    done = run(*words)
    assert done.returncode == 0, done.stderr
    document = json.loads(out.read_text(encoding="utf-8"))
    assert document["script"] == "bench/fit.py"
    assert document["cells"]
    for cell in document["cells"].values():
        assert cell["_"]["command"].startswith("python bench/fit.py --quick")
        assert str(tmp_path) not in cell["_"]["command"]
        assert {"commit", "machine", "versions", "seconds"} <= set(cell["_"])
    before = out.read_bytes()
    assert "taken from out.json" in run(*words).stderr
    assert out.read_bytes() == before


def test_without_data_a_script_says_so(tmp_path):
    done = run("calibration.py", "--data", str(tmp_path), "--out", str(tmp_path / "out.json"))
    assert done.returncode == 0
    assert "skipped: no mvtec/transistor below the data root" in done.stderr


def test_without_a_gpu_its_script_says_so_and_what_it_would_run(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    done = run("gpu.py", "--out", tmp_path / "gpu.json")
    assert done.returncode == 0, done.stderr
    first, *rest = done.stdout.splitlines()
    assert first.startswith("no GPU: torch ")
    assert [line.split(",")[0].strip() for line in rest] == ["tests", "fit", "predict"]
    assert not list(tmp_path.iterdir())
