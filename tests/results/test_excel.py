"""Tables that an Excel of any language opens: workbooks, and CSV with decimal commas."""

import io

import pytest
from openpyxl import load_workbook

from flawscope.results import excel
from flawscope.results.excel import Column, Link, Workbook, encode_workbook


def read(book):
    file = io.BytesIO()
    book.save(file)
    return load_workbook(file)


def test_evaluate_writes_a_workbook(run, onnx_path, drawn, tmp_path):
    assert run("evaluate", onnx_path, "--data", drawn, "--out", tmp_path / "t.XLSX", "--quiet")[0] == 0
    book = load_workbook(tmp_path / "t.XLSX")
    header, *rows = book["Judged"].iter_rows(values_only=True)
    assert {row[header.index("Verdict")] for row in rows} <= {"good", "anomalous"}
    assert [book["Totals"].cell(row, 1).value for row in (2, 3, 4, 5)] == [
        *("Model", "Method", "Product", "Pictures")
    ]


@pytest.mark.parametrize("out", [None, "t.xlsx"])
def test_decimal_commas_are_for_csv(out, run, onnx_path, drawn, tmp_path):
    words = ["--out", tmp_path / out] if out else []
    code, _, err = run("predict", onnx_path, drawn / "plate/test/scratch", "--decimal-comma", *words)
    assert code == 2
    assert "--decimal-comma is for CSV" in err


def test_a_workbook_computes_no_text_and_holds_any_name():
    data = encode_workbook([("path", "score"), ("=1+1", 0.5), ("a\x07\udcff.png", float("inf"))])
    sheet = load_workbook(io.BytesIO(data)).active
    assert [*sheet.iter_rows(min_row=2, values_only=True)] == [("=1+1", 0.5), ("a\\udcff.png", "inf")]
    assert (sheet["A2"].data_type, sheet["A2"].quotePrefix) == ("s", True), "nor when somebody edits it"


@pytest.mark.parametrize("part", ["=1+1", "-01", "+4711", "0007", "@x", "'=1"])
def test_a_part_s_number_is_the_same_text_in_a_workbook(part):
    sheet = load_workbook(io.BytesIO(encode_workbook([("part",), (part,)]))).active
    assert (sheet["A2"].value, sheet["A2"].data_type) == (part, "s")


def test_a_sheet_has_a_filter_widths_colours_and_links():
    book = Workbook({"parts": (Column("File", 40), Column("Verdict", 12), Column("p", 9, "0.000"))})
    for verdict in ("good", "anomalous", "within tolerance", "not judged"):
        book.add("parts", (Link("a#1.png", "o/a%231.png"), verdict, 0.25))
    sheet = read(book)["parts"]
    assert (sheet.auto_filter.ref, sheet.freeze_panes) == ("A1:C5", "A2")
    assert sheet.column_dimensions["A"].width == 40
    assert sheet["A1"].font.bold
    assert (sheet["A2"].value, sheet["A2"].hyperlink.target) == ("a#1.png", "o/a%231.png")
    assert sheet["C2"].number_format == "0.000"
    colours = [sheet.cell(row, 2).fill.start_color.rgb for row in range(2, 6)]
    assert len({*colours}) == 4


def test_a_full_sheet_says_so_and_excels_limit_of_links_is_kept(monkeypatch):
    monkeypatch.setattr(excel, "MAX_ROWS", 3)
    monkeypatch.setattr(excel, "MAX_LINKS", 2)
    book = Workbook({"parts": (Column("File", 40),)})
    for number in range(9):
        book.add("parts", (Link(str(number), "x"),))
    assert book.is_full("parts")
    sheet = read(book)["parts"]
    texts = [row[0].value for row in sheet.iter_rows()]
    assert texts == ["File", "0", "1", "2", "there are more: a sheet holds no more rows; take CSV"]
    assert [bool(sheet.cell(row, 1).hyperlink) for row in (2, 3, 4)] == [True, True, False]
