"""`evaluate`: its figures, its files, and several categories each by their own model."""

import csv
import json
import re
import shutil
from pathlib import Path
from statistics import fmean
from unittest.mock import Mock

import pytest

from flawscope.cli.evaluate import _categories_text
from flawscope.errors import FlawscopeError
from flawscope.results.folder import PictureWriter
from flawscope.results.table import read_table

PLAIN = ["--maps", "none"]
DATA = ("bottle", "cable", "carpet", "plate")
FULL = FlawscopeError("cannot write to it: No space left on device; free some space")


def test_one_document_is_printed_and_written_beside_the_report(run, answer, model_path, drawn, tmp_path):
    out, call = tmp_path / "results", ("evaluate", model_path, "--data", drawn)
    report = f"report: {out / 'report.html'}"
    document = json.loads(answer(*call, "--json", "--robustness", "--out", out, said=report))
    keys = "category method metrics false_alarms images left_out seconds"
    assert set(keys.split()) <= set(document)
    assert document["mismatch"] is None
    assert document["kinds"]["good"]["median_severity"] < 0
    unchanged = document["robustness"][0]
    assert unchanged["name"] == "unchanged"
    assert unchanged["found"] == sum(k["anomalous"] for n, k in document["kinds"].items() if n != "good")
    assert json.loads((out / "results.json").read_text()) == document
    (out / "results.json").write_text(json.dumps({**document, "product": "lids"}))
    said = "holds results of lids, the model is of plate"
    answer(*call, "--out", out, code=2, said=said)
    (out / "results.json").write_text(json.dumps(document))
    test = list(drawn.glob("plate/test/*/*.png"))
    assert document["images"] == len(list((out / "overlays").rglob("*.png"))) == len(test)

    text = (out / "report.html").read_text(encoding="utf-8")
    assert "white balance +5%" in text
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    pictures = json.loads(data)
    assert len(pictures) == len(test)
    assert all(p["layers"]["photo"] for p in pictures)
    assert sum(p["called"] for p in pictures) == sum(k["anomalous"] for k in document["kinds"].values())
    for name in ("image_auroc", "pixel_auroc", "au_pro"):
        assert f"{document['metrics'][name]:.4f}" in text
    assert not [path for path in (drawn, out) if str(path) in text]
    assert not list(out.glob(".*.part"))

    table = tmp_path / "x.csv"
    code, printed, err = run(*call, "--out", table, "--quiet")
    assert (code, err) == (0, "")
    for words in ("metric, 1 at best", "image AUROC", "(test labels)", "severity (anomalous: above 0)"):
        assert words in printed
    assert [bool(row.decision) for row in read_table(table)] == [True] * len(test)


def test_figures_come_before_what_may_fail_and_name_what_they_leave_out(
    run, model_path, drawn, tmp_path, monkeypatch
):
    monkeypatch.setattr(PictureWriter, "add", Mock(side_effect=FULL))
    root, out = tmp_path / "data", tmp_path / "out"
    shutil.copytree(drawn / "plate", root)
    (root / "test/good/broken.png").write_bytes(b"")
    shutil.copy(root / "train/good/000.png", root / "test/good/learnt.png")
    code, printed, err = run("evaluate", model_path, "--data", root, "--out", out, *PLAIN, "--json")
    assert (code, "it: No space left" in err, "could not be written" in err) == (1, True, True)
    assert (out / "report.html").is_file()  # the others are written
    document = json.loads(printed)
    assert (document["left_out"], len(document["failures"])) == (1, 1)
    assert json.loads((out / "results.json").read_text()) == document
    rows = read_table(out / "results.csv")
    assert len(rows) == len(list(root.glob("test/*/*.png")))
    why = {Path(row.path).stem: row.error for row in rows if row.error}
    assert "it is empty" in why["broken"]
    assert why["learnt"] == "left out: the model was fitted or calibrated on it"
    assert len([row for row in rows if not row.error]) == document["images"]
    assert len(list((out / "predictions").rglob("*.json"))) == len(rows)
    code, printed, err = run("evaluate", model_path, "--data", root)
    assert (code, "left out" in printed, "skipped: " in err) == (1, True, True)


@pytest.fixture
def root(drawn, tmp_path):
    """Cables lack their masks."""
    for name in DATA:
        shutil.copytree(drawn / "plate", tmp_path / "data" / name)
    shutil.rmtree(tmp_path / "data/cable/ground_truth")
    return tmp_path / "data"


@pytest.fixture
def models(model_path, tmp_path):
    """One for each but the carpet."""
    (tmp_path / "models").mkdir()
    for name in DATA:
        if name != "carpet":
            shutil.copy(model_path, tmp_path / "models" / f"{name}.safetensors")
    return tmp_path / "models"


def test_the_mean_stands_below_the_categories_and_a_failure_does_not_stop_the_others(
    answer, root, models, tmp_path
):
    out = tmp_path / "results.csv"
    call = ["evaluate", models, "--data", root, "--category", "all", "--out", out, "--json"]
    document = json.loads(answer(*call, code=1, said="carpet: failed: "))
    assert list(document["failed"]) == ["carpet"]
    found = {name: one["metrics"] for name, one in document["categories"].items()}
    assert list(found) == ["bottle", "cable", "plate"]
    mean = fmean(one["image_auroc"] for one in found.values())
    assert document["mean"]["image_auroc"] == pytest.approx(mean)
    assert found["cable"]["au_pro"] is None
    measured = fmean(found[name]["au_pro"] for name in ("bottle", "plate"))
    assert document["mean"]["au_pro"] == pytest.approx(measured)
    text = _categories_text(document, "category")
    (mean_line,) = re.findall("^mean of 3.*", text, re.M)
    assert f"{measured:.4f}" in mean_line
    assert re.search("^category.*false alarms  defects found$", text, re.M)
    defects = document["categories"]["bottle"]["defects"]
    assert f"{defects['found']} of {defects['images']}" in text
    without = document["categories"]["cable"]["without_mask"]
    assert f"cable: {without} of {without} defective" in text

    with out.open(encoding="utf-8-sig", newline="") as lines:
        rows = {row["category"]: row for row in csv.DictReader(lines)}
    assert list(rows) == [*found, "mean of 3"]
    counted = [rows["bottle"][name] for name in ("defects_found", "defective_pictures")]
    assert counted == [str(defects[name]) for name in ("found", "images")]
    assert rows["cable"]["au_pro"] == ""
    assert float(rows["mean of 3"]["image_auroc"]) == pytest.approx(mean)
    single, made = models / "plate.safetensors", tmp_path / "m.safetensors"
    for command in (["evaluate", single], ["fit", "--out", made], ["data", "check"]):  # which is asked for
        assert answer(*command, "--data", root, code=2, said="bottle, cable") == ""


def test_a_folder_gets_each_category_and_the_table(run, root, models, tmp_path):
    out = tmp_path / "results"
    call = ["evaluate", models, "--data", root, "--category", "plate,bottle", "--out", out, *PLAIN]
    code, printed, _ = run(*call)
    assert code == 0
    table, _, remarks = printed.partition("\n\n")
    assert all(line.startswith(("plate: ", "bottle: ")) for line in remarks.splitlines() if line)
    first = [line.split("  ")[0] for line in table.splitlines()]
    assert first[2:] == ["bottle", "plate", "mean of 2"]
    assert (out / "results.csv").is_file()
    assert {path.parent.name for path in out.glob("*/report.html")} == {"bottle", "plate"}
    assert run(*call, "--quiet")[0] == 0  # over its own files
