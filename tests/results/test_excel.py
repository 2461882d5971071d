"""Tables that an Excel of any language opens: workbooks, and CSV with decimal commas."""

import pytest

from flawscope.results.excel import write_workbook


def sheet(path):
    openpyxl = pytest.importorskip("openpyxl", reason='no openpyxl: pip install "flawscope[report]"')
    return list(openpyxl.load_workbook(path).active.iter_rows(values_only=True))


def test_evaluate_writes_a_workbook(run, onnx_path, drawn, tmp_path):
    assert run("evaluate", onnx_path, "--data", drawn, "--out", tmp_path / "t.XLSX", "--quiet")[0] == 0
    header, *rows = sheet(tmp_path / "t.XLSX")
    assert "decision" in header
    assert {row[header.index("decision")] for row in rows} <= {"good", "anomalous"}


@pytest.mark.parametrize("out", [None, "t.xlsx"])
def test_decimal_commas_are_for_csv(out, run, onnx_path, drawn, tmp_path):
    words = ["--out", tmp_path / out] if out else []
    code, _, err = run("predict", onnx_path, drawn / "plate/test/scratch", "--decimal-comma", *words)
    assert code == 2
    assert "--decimal-comma is for CSV" in err


def test_a_workbook_computes_no_text_and_holds_any_name(tmp_path):
    write_workbook(tmp_path / "t.xlsx", [("path", "score"), ("=1+1", 0.5), ("a\x07\udcff.png", None)])
    assert sheet(tmp_path / "t.xlsx")[1:] == [("'=1+1", 0.5), ("a\\udcff.png", None)]
