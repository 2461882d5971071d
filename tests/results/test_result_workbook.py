"""What a quality engineer opens: a row for each picture, its places in a sheet of their own, totals."""

import csv
import os
import time
from datetime import datetime

import numpy as np
import pytest
from openpyxl import load_workbook
from PIL import Image

from flawscope.errors import InputError
from flawscope.results.prediction import Prediction, ScoreLevels
from flawscope.results.result_workbook import ExcelTable, run_totals
from flawscope.results.table import TableWriter, Unjudged, read_table
from flawscope.views.geometry import Geometry

TAKEN = datetime(2026, 11, 22, 14, 30)


def prediction(path, mm=None):
    """Two places: one of 15 x 3 pixels, and a stronger one of 3 x 2."""
    values = np.zeros((30, 40), np.float32)
    values[3:6, 5:20], values[20:22, 30:33] = 2.0, 3.0
    geometry = Geometry((30, 40), (30, 40), (1.0, 1.0), (0.0, 0.0), mm_per_pixel=mm)
    return Prediction(
        2.0, 0.01, 1.5, True, values, geometry, ScoreLevels(1.0, 1.0, (0.0, 3.0)), path=str(path)
    )


def rows(sheet):
    header, *found = sheet.iter_rows(values_only=True)
    return [dict(zip(header, row, strict=True)) for row in found]


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "new pictures" / "A#12.png"
    path.parent.mkdir()
    Image.new("L", (40, 30)).save(path)
    os.utime(path, (TAKEN.timestamp(),) * 2)
    return path


def test_the_workbook_has_a_row_for_each_picture_and_each_place(picture, tmp_path):
    table = ExcelTable(tmp_path / "t.xlsx", model="part.onnx")
    table.add_result(prediction(picture, mm=0.1))
    table.add_result(Unjudged("broken.png", "broken.png is empty"))
    table.close([("Promise", "5 % of good parts")])
    book = load_workbook(tmp_path / "t.xlsx")
    judged, unjudged = rows(book["Judged"])
    assert judged == {
        "Part": "A#12",
        "File": str(picture),
        "Verdict": "anomalous",
        "Places": 2,
        "Largest, px": 15,
        "Largest, mm": pytest.approx(1.5),
        "at x, px": 12.5,
        "at y, px": 4.5,
        "p": 0.01,
        "Severity": 1.5,
        "Time": TAKEN,
        "Model": "part.onnx",
        "Remark": None,
    }
    assert (unjudged["Verdict"], unjudged["Remark"]) == ("not judged", "broken.png is empty")
    strongest, largest = rows(book["Places"])
    assert [one["Place"] for one in (strongest, largest)] == [1, 2]
    assert (largest["x, px"], largest["Width, px"], largest["Height, px"]) == (12.5, 15, 3)
    assert (largest["Area, px²"], largest["Length, mm"]) == (45, pytest.approx(1.5))
    for sheet in ("Judged", "Places"):
        link = book[sheet]["B2"].hyperlink.target
        assert link == "new%20pictures/A%2312.png"
    assert {"Item": "Promise", "Value": "5 % of good parts"} in rows(book["Totals"])


def test_the_table_has_the_same_facts_and_seven_digits(picture, tmp_path):
    table = TableWriter(tmp_path / "t.csv", model="part.onnx", part_of=lambda path: "4711")
    table.add_result(prediction(picture, mm=1 / 7))
    table.close()
    with open(tmp_path / "t.csv", encoding="utf-8-sig", newline="") as file:
        (row,) = csv.DictReader(file)
    facts = ("part", "places", "largest_px", "largest_mm", "largest_x", "largest_y", "time", "model")
    assert [row[name] for name in facts] == [
        *("4711", "2", "15.0", "2.142857", "12.5", "4.5", f"{TAKEN:%Y-%m-%d %H:%M:%S}", "part.onnx")
    ]
    assert read_table(tmp_path / "t.csv")[0].places == 2


def test_parts_in_several_views_come_first(tmp_path):
    table = ExcelTable(tmp_path / "t.xlsx")
    table.close(parts=[("part", "decision"), ("4711", "anomalous")])
    book = load_workbook(tmp_path / "t.xlsx")
    assert book.sheetnames == ["Parts", "Judged", "Places", "Totals"]
    assert rows(book["Parts"]) == [{"part": "4711", "decision": "anomalous"}]


def test_totals_say_the_promise_and_each_product():
    facts = {"judged": 10, "anomalous": 3, "within_tolerance": 1, "unjudged": 2, "promise": "4.8 %"}
    facts |= {"products": {"plate": {"pictures": 6, "anomalous": 1}}}
    assert run_totals(facts) == [
        ("Judged", 10),
        ("Good", 6),
        ("Anomalous", 3),
        ("Within tolerance", 1),
        ("Not judged", 2),
        ("Promise", "4.8 %"),
        ("Product plate", "1 of 6 anomalous"),
    ]


def test_a_thousand_pictures_cost_seconds_at_most(picture, tmp_path):
    table, found = ExcelTable(tmp_path / "t.xlsx"), prediction(picture)
    began = time.process_time()
    for _ in range(30):
        table.add_result(found)
    assert time.process_time() - began < 0.2, "a picture's rows take less than its judgement by far"


def test_a_table_of_fewer_columns_is_read_and_of_no_results_is_refused(tmp_path):
    """Of an earlier version, or kept by hand: `review` and `agreement` need four of them."""
    table = tmp_path / "results.csv"
    table.write_text("path,score,severity,decision\na.png,0.5,0.9,anomalous\nb.png,,,\n", encoding="utf-8")
    rows = read_table(table)
    assert [(row.path, row.score, row.decision) for row in rows] == [
        ("a.png", 0.5, "anomalous"),
        ("b.png", None, ""),
    ]
    table.write_text("path,score,severity\na.png,0.5,0.9\n", encoding="utf-8")
    with pytest.raises(InputError, match="is no table of results"):
        read_table(table)
