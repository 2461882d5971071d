"""Tables that an Excel of any language opens: workbooks, and CSV with decimal commas."""

import csv
import json

import pytest
from openpyxl import load_workbook

from flawscope.results.table import read_table


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
    header, *rows = load_workbook(tmp_path / "t.xlsx")["Judged"].iter_rows(values_only=True)
    assert header[:4] == ("Part", "File", "Verdict", "Places")
    assert [row[header.index("Severity")] for row in rows] == pytest.approx(
        [one["severity"] for one in found]
    )
    assert run(*given, "--out", tmp_path / "t.csv", "--decimal-comma")[0] == 0
    assert {path.name for path in tmp_path.iterdir()} == {"t.xlsx", "t.csv"}  # tables alone
    text = (tmp_path / "t.csv").read_text(encoding="utf-8-sig")
    assert text.startswith("path;score;p_value;")
    scores = pytest.approx([one["score"] for one in found], rel=1e-6)  # seven digits
    assert [float(row["score"]) for row in german(tmp_path / "t.csv")] == scores
    # it stays so for this file
    assert run(*given, "--out", tmp_path / "t.csv")[0] == 0
    assert (tmp_path / "t.csv").read_text(encoding="utf-8-sig") == text
    # what reads tables reads both forms
    assert [row.score for row in read_table(tmp_path / "t.csv")] == scores
    assert run(*given, "--out", tmp_path / "folder", "--decimal-comma")[0] == 0
    assert (tmp_path / "folder/report.html").is_file()
    assert [row.score for row in read_table(tmp_path / "folder/results.csv")] == scores
    judged = load_workbook(tmp_path / "folder/results.xlsx")["Judged"]
    links = [judged.cell(row, 2).hyperlink.target for row in range(2, judged.max_row + 1)]
    assert len(links) == len(found)
    assert all((tmp_path / "folder" / link).is_file() for link in links), "each opens its overlay"
