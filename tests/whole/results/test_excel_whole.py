"""Tables that an Excel of any language opens: workbooks, and CSV with decimal commas."""

import csv
import json

import pytest

from flawscope.results.table import read_table


def sheet(path):
    openpyxl = pytest.importorskip("openpyxl", reason='no openpyxl: pip install "flawscope[report]"')
    return list(openpyxl.load_workbook(path).active.iter_rows(values_only=True))


def german(path):
    """Rows as an Excel with decimal commas reads them: numbers are numbers there."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        return [
            {k: v.replace(",", ".") for k, v in row.items()} for row in csv.DictReader(file, delimiter=";")
        ]


def test_predict_writes_a_workbook_and_csv_with_decimal_commas(run, onnx_path, drawn, tmp_path):
    given = ["predict", onnx_path, drawn / "plate/test/scratch", "--json"]
    code, printed, _ = run(*given, "--out", tmp_path / "t.xlsx")
    found = [json.loads(line) for line in printed.splitlines()]
    assert code == 0
    header, *rows = sheet(tmp_path / "t.xlsx")
    assert header[:3] == ("path", "score", "p_value")
    assert [row[1] for row in rows] == pytest.approx([one["score"] for one in found], rel=1e-12)  # numbers
    assert run(*given, "--out", tmp_path / "t.csv", "--decimal-comma")[0] == 0
    assert {path.name for path in tmp_path.iterdir()} == {"t.xlsx", "t.csv"}  # tables alone
    text = (tmp_path / "t.csv").read_text(encoding="utf-8-sig")
    assert text.startswith("path;score;p_value;")
    assert [float(row["score"]) for row in german(tmp_path / "t.csv")] == [one["score"] for one in found]
    # it stays so for this file
    assert run(*given, "--out", tmp_path / "t.csv")[0] == 0
    assert (tmp_path / "t.csv").read_text(encoding="utf-8-sig") == text
    # what reads tables reads both forms
    assert [row.score for row in read_table(tmp_path / "t.csv")] == [one["score"] for one in found]
    assert run(*given, "--out", tmp_path / "folder", "--decimal-comma")[0] == 0
    assert (tmp_path / "folder/report.html").is_file()
    written = read_table(tmp_path / "folder/results.csv")
    assert [row.score for row in written] == [one["score"] for one in found]
