"""`flawscope benchmark`: what it writes and prints, and how failures and wrong calls are told."""

import json
import shutil

import pytest

from small_network import SMALL_FLAGS

SMALL = ["--set", "patchcore.size=64", "--device", "cpu", "--threads", "1"]
SMALL += [word if word == "--set" else f"patchcore.{word}" for word in SMALL_FLAGS]


def test_a_benchmark_with_a_failure_is_done_apart_from_it_and_then_goes_on(run, answer, drawn, tmp_path):
    root, out = tmp_path / "data", tmp_path / "out"
    shutil.copytree(drawn / "plate", root / "plate")
    shutil.copytree(drawn / "plate", root / "wood")
    for path in (root / "wood/train/good").iterdir():
        path.write_bytes(b"no picture")
    call = ["--data", root, "--categories", "wood,plate,zipper", *SMALL, "--out", out]
    code, printed, err = run("benchmark", *call)
    assert code == 1
    assert f"not in {root}, their rows stay blank: zipper" in err
    assert err.count("wood patchcore seed 0: failed: ") == 1
    assert ("Traceback" in err, "1 cell failed; the same call tries again" in err) == (False, True)
    assert [line.split()[0] for line in printed.splitlines()[2:]] == ["wood", "plate"]
    text = (out / "results.md").read_text(encoding="utf-8")
    assert "wood patchcore seed 0 failed: " in text
    cells = {c["category"]: c for c in json.loads((out / "results.json").read_text())["cells"]}
    assert (cells["wood"]["state"], cells["plate"]["state"]) == ("failed", "done")
    # as `evaluate` would have it, of a model that `fit` would make
    model, found = tmp_path / "m.safetensors", cells["plate"]["result"]["evaluation"]["metrics"]
    shared = ["--data", str(root), "--category", "plate", "--quiet"]
    answer("fit", *shared, "--size", "64", *SMALL_FLAGS, "--device", "cpu", "--out", model)
    own = json.loads(answer("evaluate", model, *shared, "--json", "--device", "cpu"))
    assert own["metrics"] == pytest.approx(found, abs=1e-9)
    # mended, the rest is done, and nothing twice
    shutil.rmtree(root / "wood")
    shutil.copytree(drawn / "plate", root / "wood")
    before = next((out / "cells").glob("plate-*")).stat().st_mtime_ns
    code, printed, err = run("benchmark", *call, "--json", "--keep-models", "--quiet")
    assert code == 0
    document = json.loads(printed)
    assert document == json.loads((out / "results.json").read_text())
    assert [cell["state"] for cell in document["cells"]] == ["done", "done"]
    assert next((out / "cells").glob("plate-*")).stat().st_mtime_ns == before
    assert [path.name.split("-")[0] for path in (out / "models").iterdir()] == ["wood"]
    assert len(err.splitlines()) == 1  # which categories are missing
    # nothing left to do: at once, and it says what is not there
    done = ["2 done already", "some were done without --keep-models"]
    answer("benchmark", *call, "--keep-models", said=done)
