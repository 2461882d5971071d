"""Two models on the same pictures, each of which sees one channel."""

import csv
import json

import pytest

from flawscope.cli import main


def of(found, name):
    return next(one for one in found.differences if one.name == name)


def test_the_command_compares_a_model_with_its_export(model_path, onnx_path, drawn, tmp_path, capsys):
    call = ["compare", str(model_path), str(onnx_path), "--data", str(drawn), "--quiet"]
    assert main([*call, "--json", "--out", str(tmp_path / "out")]) == 0
    document = json.loads(capsys.readouterr().out)
    assert json.loads((tmp_path / "out/results.json").read_text(encoding="utf-8")) == document
    models = document["models"]
    assert (models["a"]["runtime"], models["b"]["runtime"]) == ("torch", "onnxruntime")
    assert document["changed"] == []
    assert all(abs(one["difference"]) < 1e-3 for one in document["metrics"].values())
    assert len(document["pictures"]) == document["images"]
    with open(tmp_path / "out/pictures.csv", encoding="utf-8-sig", newline="") as file:
        rows = [*csv.DictReader(file)]
    assert [row["path"] for row in rows] == [one["path"] for one in document["pictures"]]
    scores = [one["b"]["score"] for one in document["pictures"]]
    assert [float(row["score_b"]) for row in rows] == pytest.approx(scores, rel=1e-6)  # seven digits
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert "No decision differs" in page
    assert 'data-order="changed"' in page  # the pictures are shown all the same
    assert main(call) == 0
    out = capsys.readouterr().out
    assert "both decide alike on 11 pictures" in out
    assert any(line.startswith("image AUROC") and "+0.0000" in line for line in out.splitlines())
