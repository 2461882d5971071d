"""Export of inspections as a table, for a spreadsheet."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, tzinfo
from itertools import chain
from typing import IO, Literal, TypeVar
from urllib.parse import quote

from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from flawscope import Region
from flawscope.artefact import files
from flawscope.results import findings, result_workbook
from flawscope_station.inspecting.memory import Turns
from flawscope_station.settings.shifts import station_zone
from flawscope_station.store import line_alarms
from flawscope_station.store.filters import further_facts
from flawscope_station.store.inspection import Inspection, InspectionFacts, ViewFacts, other_fields
from flawscope_station.store.search import iterate_pages
from flawscope_station.web.api import Engineer, FiltersDep, api_router, attachment
from flawscope_station.web.components import (
    RecordsDep,
    RecordsId,
    SettingsDep,
    VersionsDep,
)

T = TypeVar("T")
ResultT = TypeVar("ResultT")

router = api_router()

# columns about the regions of all pictures of an inspection
PLACE_COLUMNS = ("places", "largest_px", "largest_mm", "largest_x", "largest_y")
FURTHER_COLUMNS = further_facts()
# `more` has all other facts of an inspection, as JSON
COLUMNS = (*Inspection.model_fields, *PLACE_COLUMNS, *FURTHER_COLUMNS, "more")
VERDICT_COLUMNS = ("verdict", "kind", "verdict_by", "note")
_BEFORE_PLACES = ("id", "part", "batch", "path", "decision")
_AFTER_PLACES = ("p_value", "severity", "kinds", "time", "model", "remark", "unanswered")
SHEET_COLUMNS = _BEFORE_PLACES + PLACE_COLUMNS + _AFTER_PLACES + VERDICT_COLUMNS
CSV = "text/csv"
XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
BLOCK_BYTES = 1 << 20


@router.get(
    "/export",
    response_class=Response,
    responses={200: {"content": {CSV: {}, XLSX: {}}}},
    summary="Export inspections",
)
def export(
    name: str,
    product_id: RecordsId,
    request: Request,
    records: RecordsDep,
    versions: VersionsDep,
    settings: SettingsDep,
    filters: FiltersDep,
    person: Engineer,
    format: Literal["csv", "xlsx"] = "csv",
) -> Response:
    """Export the inspections that a search finds, as a table.

    The workbook for Excel has two further sheets: one of the places that look different, and one of totals.
    """
    pages = iterate_pages(records.store.database, product_id, filters)
    headers = attachment(f"{name}-inspections.{format}")
    turns = records.turns
    if format == "csv":
        blocks = in_turns(turns, _table_pages(pages), _csv_block)
        # The first block is made here, because a BusyError could not be answered after the answer has begun.
        # The block begins with the byte order mark, by which Excel recognises UTF-8.
        first_block = "\ufeff" + next(blocks)
        return StreamingResponse(chain([first_block], blocks), media_type=CSV, headers=headers)
    address = f"{request.base_url}{quote(name)}/inspections"
    zone = station_zone(settings.shifts)
    # number of the active version, and its expected rate of false alarms
    version, _, promise = line_alarms.active_promise(versions, product_id)
    totals: list[tuple[str, object]] = [
        ("Product", name),
        ("Version in use", version),
        ("Promise", None if promise is None else promise.text),
    ]
    file = write_workbook(pages, turns, address, zone, totals)
    return StreamingResponse(read_blocks(file), media_type=XLSX, headers=headers)


def in_turns(turns: Turns, items: Iterator[T], work: Callable[[T], ResultT]) -> Iterator[ResultT]:
    """Yield the result of `work` for each item; each item is read and worked on in a turn of its own.

    Other requests get turns between two items, so that a long export does not keep them waiting.

    Args:
        turns: Turns, which limit how many requests work at a time.
        items: Items.
        work: Function that makes the result of an item.

    Raises:
        BusyError: No turn is free for the first item.
    """
    is_first = True
    while True:
        with turns.take(patient=not is_first):
            item = next(items, None)
            if item is None:
                return
            result = work(item)
        is_first = False
        yield result


def _table_pages(pages: Iterator[list[InspectionFacts]]) -> Iterator[list[Sequence[object]]]:
    """Yield the rows of the table for each page of inspections; the first row of all is the header."""
    header: list[Sequence[object]] = [COLUMNS]
    for page in pages:
        rows = [[_text_cell(value) for value in _cells(inspection)] for inspection in page]
        yield [*header, *rows]
        header = []


def write_workbook(
    pages: Iterator[list[InspectionFacts]],
    turns: Turns,
    address: str,
    zone: tzinfo | None,
    totals: list[tuple[str, object]],
) -> IO[bytes]:
    """Write a workbook of inspections to a temporary file.

    Args:
        pages: Pages of inspections.
        turns: Turns in which the pages are read.
        address: URL below which the station shows each inspection, for links from the pictures' names.
        zone: Time zone of the times; None: this machine's.
        totals: First rows of the sheet of totals, as name and value; the counts follow.

    Returns:
        The file, at its beginning; closing removes it.

    Raises:
        BusyError: Too many wait for a turn.
    """
    book = result_workbook.ResultWorkbook(SHEET_COLUMNS, FURTHER_COLUMNS)
    counts = Counter[str]()

    def append(page: list[InspectionFacts]) -> None:
        for inspection in page:
            counts[inspection["decision"]] += 1
            link = f"{address}/{inspection['id']}"
            book.add(_sheet_values(inspection, zone), _named_regions(inspection), link)

    for _ in in_turns(turns, pages, append):  # each step adds a page to the book
        if book.is_full:
            break
    decision_rows = [(f"of them {decision}", count) for decision, count in counts.items()]
    total_rows = [*totals, ("Inspections", counts.total()), *decision_rows]
    file = tempfile.TemporaryFile()  # noqa: SIM115 (the caller closes it)
    with turns.take(patient=True):
        book.save(file, total_rows)
    file.seek(0)
    return file


def _named_regions(inspection: InspectionFacts) -> list[tuple[str, Region]]:
    """Return the regions of all pictures of an inspection, each with its picture's name."""
    pictures: Sequence[InspectionFacts | ViewFacts] = inspection["views"] or [inspection]
    return [(str(picture["name"]), Region(**region)) for picture in pictures for region in picture["regions"]]


def _place_values(inspection: InspectionFacts) -> dict[str, object]:
    """Return an inspection's values for the columns `PLACE_COLUMNS`, by the columns' names."""
    return findings.measure_places([region for _, region in _named_regions(inspection)])


def _sheet_values(inspection: InspectionFacts, zone: tzinfo | None) -> dict[str, object]:
    """Return an inspection's values for the workbook, by the columns' names."""
    local_time = datetime.fromisoformat(inspection["at"]).astimezone(zone)
    kinds_texts = [region.kinds_text for _, region in _named_regions(inspection) if region.kinds_text]
    distinct_kinds = dict.fromkeys(kinds_texts)
    return {
        **inspection,
        **_place_values(inspection),
        "path": inspection["name"],
        "time": local_time.replace(tzinfo=None, microsecond=0),  # a workbook has no zones and no microseconds
        "model": f"{inspection['product']}, version {inspection['version']}",
        "kinds": "; ".join(distinct_kinds),
        "remark": "; ".join(finding["words"] for finding in inspection["findings"]),
    }


def read_blocks(file: IO[bytes]) -> Iterator[bytes]:
    """Yield a file's content in blocks of `BLOCK_BYTES`, and close it."""
    with file:
        while block := file.read(BLOCK_BYTES):
            yield block


def _cells(inspection: InspectionFacts) -> list[object]:
    """Return an inspection's values in the order of `COLUMNS`."""
    main_values = [inspection.get(name) for name in Inspection.model_fields]
    place_value_by_column = _place_values(inspection)
    place_values = [place_value_by_column.get(name) for name in PLACE_COLUMNS]
    other_facts = other_fields(inspection)
    # what is left in `other_facts` is the column `more`
    further_values = [other_facts.pop(name, None) for name in FURTHER_COLUMNS]
    return [*main_values, *place_values, *further_values, other_facts or None]


def _text_cell(value: object) -> object:
    """Return a value as a cell of a spreadsheet: a dict or list as JSON, None as ""."""
    if value is None:
        return ""
    plain_value = json.dumps(value) if isinstance(value, dict | list) else value
    return files.csv_cell(plain_value)


def _csv_block(rows: list[Sequence[object]]) -> str:
    """Return rows as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows(rows)
    return text.getvalue()
