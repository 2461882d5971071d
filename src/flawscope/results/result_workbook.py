"""Writes results as a workbook for people, with sheets of the judged pictures, their places, and totals."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from functools import cached_property
from pathlib import Path, PurePath
from typing import IO, Unpack
from urllib.parse import quote

from flawscope.artefact.files import atomic_write, write_error
from flawscope.results.excel import TIME_FORMAT, Column, Link, Workbook, fitting_columns
from flawscope.results.prediction import Prediction
from flawscope.results.region import Region
from flawscope.results.table import (
    EXCEL_SUFFIX,
    PartOf,
    ResultRow,
    TableForm,
    TableWriter,
    Unjudged,
    file_stem,
    table_columns,
)
from flawscope.types import Facts

PIXELS = "0.0"
MILLIMETRES = "0.00"
P_VALUE = "0.000"
SEVERITY = "+0.0;-0.0;0.0"
# Columns of the sheet of judged pictures, by the name of a value; a sheet has those whose values are known
COLUMNS = {
    "id": Column("No.", 9),
    "part": Column("Part", 20),
    "batch": Column("Batch", 14),
    "path": Column("File", 42),
    "decision": Column("Verdict", 16),
    "places": Column("Places", 9, "0"),
    "largest_px": Column("Largest, px", 13, PIXELS),
    "largest_mm": Column("Largest, mm", 13, MILLIMETRES),
    "largest_x": Column("at x, px", 11, PIXELS),
    "largest_y": Column("at y, px", 11, PIXELS),
    "p_value": Column("p", 9, P_VALUE),
    "severity": Column("Severity", 11, SEVERITY),
    "kinds": Column("Kind", 22),
    "product": Column("Product", 16),
    "time": Column("Time", 20, TIME_FORMAT),
    "model": Column("Model", 24),
    "remark": Column("Remark", 44),
    "verdict": Column("A person says", 16),
    "kind": Column("Kind, by a person", 18),
    "verdict_by": Column("Who", 14),
    "note": Column("Note", 30),
    "unanswered": Column("No answer", 13),
    "part_index": Column("Part in picture", 16, "0"),
    "part_count": Column("Parts found", 13, "0"),
}
PLACE_COLUMNS = (
    Column("Part", 20),
    Column("File", 42),
    Column("Place", 9, "0"),
    Column("x, px", 11, PIXELS),
    Column("y, px", 11, PIXELS),
    Column("Width, px", 12, PIXELS),
    Column("Height, px", 12, PIXELS),
    Column("Area, px²", 12, "0"),
    Column("Length, mm", 13, MILLIMETRES),
    Column("Width, mm", 13, MILLIMETRES),
    Column("Area, mm²", 13, MILLIMETRES),
    Column("Kind", 22),
)
MEANING = {
    "Places": "connected places that look different; good ones may have some, too",
    "Largest": "the longer side of the box around the largest place, its length in mm where --scale-mm gave "
    "the scale, and its centre, from the picture's upper left corner",
    "p": "the share of good pictures that score as high",
    "Severity": "above 0 is anomalous, 3 is clear",
}
JUDGED = "Judged"
PLACES = "Places"
TOTALS = "Totals"
PARTS = "Parts"
Totals = Iterable[tuple[str, object]]


class ResultWorkbook:
    """Workbook of results, for `predict` and for a station's export.

    Args:
        names: Names of the values that are known; those that are in `COLUMNS` have columns.
        more: Names of further values; their columns follow.
    """

    def __init__(self, names: Iterable[str], more: Iterable[str] = ()):
        wanted_names = {*names}
        self.names = [name for name in COLUMNS if name in wanted_names]
        self.more = [*more]

    @cached_property
    def book(self) -> Workbook:
        """The workbook, made when it is first needed: once made, it must be saved."""
        judged_columns = [COLUMNS[name] for name in self.names]
        judged_columns += [Column(name.replace("_", " ").capitalize(), 14) for name in self.more]
        totals_columns = Column("Item", 26), Column("Value", 90)
        return Workbook({JUDGED: judged_columns, PLACES: PLACE_COLUMNS, TOTALS: totals_columns})

    def add(self, values: Mapping[str, object], places: Iterable[tuple[str, Region]], link: str = "") -> None:
        """Add the row of a judged picture, and the rows of its places.

        Args:
            values: Values by their names.
            places: Regions of the picture, each with the path of the picture's file.
            link: Target that a click on the picture's name opens; empty: the name is no link.
        """
        linked_values = {**values, "path": _link_text(values.get("path"), link)}
        self.book.add(JUDGED, [linked_values.get(name) for name in (*self.names, *self.more)])
        for number, (path, region) in enumerate(places, start=1):
            x0, y0, x1, y1 = region.box
            row = [
                values.get("part"),
                _link_text(path, link),
                number,
                *region.centroid,
                x1 - x0,
                y1 - y0,
                region.area,
                region.length_mm,
                region.width_mm,
                region.area_mm2,
                region.kinds_text,
            ]
            self.book.add(PLACES, row)

    @property
    def is_full(self) -> bool:
        """Whether no more pictures can be added."""
        return self.book.is_full(JUDGED)

    def save(self, file: IO[bytes], totals: Totals, parts: Sequence[Sequence[object]] = ()) -> None:
        """Write the workbook; a second call is an error.

        Args:
            file: File to write to.
            totals: Totals by their names.
            parts: Rows of the sheet on parts in several views, the heading first; empty: there is no sheet.
        """
        if parts:
            self.book.add_sheet(PARTS, fitting_columns(parts), place=0)
            _, *rows = parts  # the columns of the sheet have the heading
            for row in rows:
                self.book.add(PARTS, row)
        for name, value in (*totals, *MEANING.items()):
            self.book.add(TOTALS, (name, value))
        self.book.save(file)


def _link_text(text: object, link: str) -> object:
    return Link(str(text), link) if link else text


def file_link(path: str, folder: Path) -> str:
    """Return the link from a workbook in a folder to a file; empty where the file does not exist.

    The link is relative where possible, so that workbook and file can be moved together.
    """
    if not path or not os.path.lexists(path):
        return ""
    try:
        return quote(PurePath(os.path.relpath(path, folder)).as_posix())
    except ValueError:  # on another drive
        return Path(path).absolute().as_uri()


class ExcelTable:
    """Writes a table, .xlsx, when it is closed; the arguments are those of `TableWriter`."""

    def __init__(
        self, path: str | os.PathLike[str], *, part_of: PartOf = file_stem, model: str = "", **columns: bool
    ):
        self.path = Path(path)
        self.part_of = part_of
        self.model = model
        self.book = ResultWorkbook((*table_columns(model=model, **columns), "remark"))

    def add_result(self, result: Prediction | Unjudged, link: str = "") -> None:
        """Add the row of an input, the rows of its places, and the rows of parts if several were searched.

        Args:
            result: The input's prediction, or why it was not judged.
            link: Target that a click on the input's name opens, relative to the table; empty: the click opens
                the input.
        """
        target = link or file_link(result.path or "", self.path.parent)
        places = []
        if isinstance(result, Prediction):
            places = [(result.path or "", region) for region in result.regions]
        try:
            for row in ResultRow.rows(result, part_of=self.part_of, model=self.model):
                values = asdict(row)
                values["time"] = datetime.fromisoformat(row.time) if row.time else None
                if row.error:
                    values |= {"decision": "not judged", "remark": row.error}
                self.book.add(values, places, target)
                places = []  # already added with the first row, that of the input; rows of parts follow
        except OSError as error:  # openpyxl keeps rows in temporary files
            raise write_error(self.path, error) from None

    def close(self, totals: Totals = (), parts: Sequence[Sequence[object]] = ()) -> None:
        """Write the file; `totals` and `parts` are those of `ResultWorkbook.save`."""
        with atomic_write(self.path) as file:
            self.book.save(file, totals, parts)


def open_table(path: str, *, decimal_comma: bool, **form: Unpack[TableForm]) -> TableWriter | ExcelTable:
    """Open a table of results, .csv or .xlsx, to write.

    Args:
        path: File of the table.
        decimal_comma: Whether a .csv has decimal commas; Excel shows an .xlsx in its own language.
        form: Columns, as `TableWriter` takes them.
    """
    if path.lower().endswith(EXCEL_SUFFIX):
        return ExcelTable(path, **form)
    return TableWriter(path, decimal_comma=decimal_comma, **form)


# Facts of a run (`results.json`) with their titles in the totals
FACTS = {
    "model": "Model",
    "method": "Method",
    "category": "Product",
    "inputs": "Files",
    "judged": "Judged",
    "good": "Good",
    "anomalous": "Anomalous",
    "within_tolerance": "Within tolerance",
    "unjudged": "Not judged",
    "promise": "Promise",
    "warning": "Warning",
    "flawscope": "flawscope",
}


def run_totals(facts: Facts) -> list[tuple[str, object]]:
    """Return the titles and values of the totals of a run, from the facts of its summary (`results.json`)."""
    flagged_count = facts["anomalous"] + facts.get("within_tolerance", 0)
    all_facts = {**facts, "good": facts["judged"] - flagged_count}
    totals = [(title, all_facts[name]) for name, title in FACTS.items() if all_facts.get(name) is not None]
    for name, product_facts in facts.get("products", {}).items():
        if "pictures" in product_facts:
            words = f"{product_facts['anomalous']} of {product_facts['pictures']} anomalous"
            totals.append((f"Product {name}", words))
    return totals
