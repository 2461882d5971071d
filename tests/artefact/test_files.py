"""Cells of a CSV that people open in a spreadsheet."""

import csv
import io
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flawscope.artefact.files import csv_cell, from_csv_cell
from flawscope.pages.review.session import DEFECT, DecisionLog
from flawscope.results.table import ResultRow, TableWriter, read_table

# computes nothing
NUMBER = re.compile(r"[+-]\d+([.,]\d+)?(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
SIGNS = "=+-@\t\r\n\uff1d\uff0b\uff0d\uff20"


@settings(deadline=None)
@given(st.text(alphabet=SIGNS + "'a1", max_size=6) | st.text(max_size=6))
def test_no_text_begins_with_a_sign_and_each_is_read_as_it_was(text):
    cell = csv_cell(text)
    assert cell[:1] not in tuple(SIGNS) or NUMBER.fullmatch(cell)
    assert from_csv_cell(cell) == text


@pytest.mark.parametrize("number", ["-0.6959", "-0,6959", "+5", "-01", "1e-5", "-2.5E+03"])
def test_a_number_stays_a_number_and_those_of_earlier_files_are_read(number):
    assert csv_cell(number) == number == from_csv_cell(number)
    assert number[0] not in SIGNS or from_csv_cell(f"'{number}") == number


@pytest.mark.parametrize("text", ["-1+1", "+49 30", "-", "--1", "-1-", "+1|x", "-1%", "=1", "-１"])
def test_what_is_more_than_a_number_is_no_formula_either(text):
    assert csv_cell(text) == f"'{text}"


@pytest.mark.parametrize("sign", SIGNS.replace("\r", "").replace("\n", ""))
def test_tables_of_results_and_of_reviews_are_escaped_and_read_back(tmp_path, sign):
    name = f"{sign}cmd|' /C calc'!A0.png"
    table, path = TableWriter(tmp_path / "results.csv"), tmp_path / "review.csv"
    table.add(ResultRow(name, score=-1.0, decision="good"))
    table.close()
    DecisionLog(path).add(name, DEFECT, "copy.png")
    for file in (tmp_path / "results.csv", path):
        cells = [cell for row in csv.reader(io.StringIO(file.read_text("utf-8"))) for cell in row]
        assert not [cell for cell in cells if cell.startswith(tuple(SIGNS)) and cell != "-1.0"]
    assert [row.path for row in read_table(tmp_path / "results.csv")] == [name]
    assert list(DecisionLog(path).current) == [name]
    assert [csv_cell(value) for value in (-1.5, 0, None, True)] == [-1.5, 0, None, True]
