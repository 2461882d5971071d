"""`flawscope benchmark`: what it writes and prints, and how failures and wrong calls are told."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from flawscope.cli import main

Capture = pytest.CaptureFixture[str]
SMALL = ["--set", "patchcore.size=64", "--device", "cpu", "--threads", "1"]


def run(capsys: Capture, *argv: str | Path) -> tuple[int, str, str]:
    code = main(["benchmark", *(str(word) for word in argv)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.slow
def test_a_benchmark_with_a_failure_is_done_apart_from_it_and_then_goes_on(
    capsys: Capture, drawn: Path, tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    root, out = tmp_path / "data", tmp_path / "out"
    shutil.copytree(drawn / "plate", root / "plate")
    shutil.copytree(drawn / "plate", root / "wood")
    for path in (root / "wood/train/good").iterdir():
        path.write_bytes(b"no picture")
    call = ["--data", root, "--categories", "wood,plate,zipper", *SMALL, "--out", out]
    code, printed, err = run(capsys, *call)
    assert code == 1
    assert f"not in {root}, their rows stay blank: zipper" in err
    failures = [line for line in err.splitlines() if "wood patchcore seed 0: failed: " in line]
    assert len(failures) == 1
    assert "Traceback" not in err
    assert "1 cell failed; the same call tries again" in err
    assert [line.split()[0] for line in printed.splitlines()[2:]] == ["wood", "plate"]
    text = (out / "results.md").read_text(encoding="utf-8")
    assert "wood patchcore seed 0 failed: " in text
    cells = {c["category"]: c for c in json.loads((out / "results.json").read_text())["cells"]}
    assert (cells["wood"]["state"], cells["plate"]["state"]) == ("failed", "done")
    # as `evaluate` would have it, of a model that `fit` would make
    model, found = tmp_path / "m.safetensors", cells["plate"]["result"]["evaluation"]["metrics"]
    shared = ["--data", str(root), "--category", "plate", "--quiet"]
    assert main(["fit", *shared, "--size", "64", "--device", "cpu", "--out", str(model)]) == 0
    assert main(["evaluate", str(model), *shared, "--json", "--device", "cpu"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"] == pytest.approx(found, abs=1e-9)
    # mended, the rest is done, and nothing twice
    shutil.rmtree(root / "wood")
    shutil.copytree(drawn / "plate", root / "wood")
    before = next((out / "cells").glob("plate-*")).stat().st_mtime_ns
    code, printed, err = run(capsys, *call, "--json", "--keep-models", "--quiet")
    assert code == 0
    document = json.loads(printed)
    assert document == json.loads((out / "results.json").read_text())
    assert [cell["state"] for cell in document["cells"]] == ["done", "done"]
    assert next((out / "cells").glob("plate-*")).stat().st_mtime_ns == before
    assert [path.name.split("-")[0] for path in (out / "models").iterdir()] == ["wood"]
    assert len(err.splitlines()) == 1  # which categories are missing
    # nothing left to do: at once, and it says what is not there
    code, _, err = run(capsys, *call, "--keep-models")
    assert code == 0
    assert "2 done already" in err
    assert "some were done without --keep-models" in err


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--methods", "nosuch"], "no method called nosuch"),
        (["--seeds", "one"], "not whole numbers"),
        (["--categories", "wood"], "none of --categories wood is there"),
        (["--set", "patchcore.sizee=3"], "did you mean size?"),
        (["--jobs", "0"], "is not a number of cells at a time"),
        (["--steps", "some"], "is not a number of steps"),
        (["--steps", "3", "--minutes", "2"], "not allowed with argument"),
        (["--method", "patchcore"], "there is no option --method: did you mean --methods?"),
    ],
)
def test_wrong_calls_are_one_line_and_make_nothing(
    capsys: Capture, drawn: Path, tmp_path: Path, words: list[str], match: str
) -> None:
    out = tmp_path / "out"
    code, printed, err = run(capsys, "--data", drawn, "--out", out, *words)
    assert (code, printed) == (2, "")
    assert match in err
    assert err.count("\n") == 1
    assert not out.exists()


def test_without_torch_it_says_so_before_it_begins(
    capsys: Capture, drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    code, _, err = run(capsys, "--data", drawn, "--out", tmp_path / "out")
    assert code == 2
    assert "fitting needs timm: pip install " in err
    assert not (tmp_path / "out").exists()
