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
R = TypeVar("R")

router = api_router()

PLACES = ("places", "largest_px", "largest_mm", "largest_x", "largest_y")  # of all its pictures
FURTHER = further_facts()
COLUMNS = (*Inspection.model_fields, *PLACES, *FURTHER, "more")  # the last: what else the library says
PEOPLE_SAY = ("verdict", "kind", "verdict_by", "note")
_BEFORE_PLACES = ("id", "part", "batch", "path", "decision")
_AFTER_PLACES = ("p_value", "severity", "kinds", "time", "model", "remark", "unanswered")
SHEET_COLUMNS = _BEFORE_PLACES + PLACES + _AFTER_PLACES + PEOPLE_SAY
CSV = "text/csv"
XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
BLOCK_BYTES = 1 << 20


@router.get("/export", response_class=Response, responses={200: {"content": {CSV: {}, XLSX: {}}}})
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

    The workbook for Excel has each place that looks different in a sheet of its own, and a sheet of totals.
    """
    pages = iterate_pages(records.store.database, product_id, filters)
    headers = attachment(f"{name}-inspections.{format}")
    turns = records.turns
    if format == "csv":
        blocks = in_turns(turns, _table_pages(pages), _csv_block)
        # refused before the answer begins, with the mark by which Excel knows UTF-8
        blocks = chain(["\ufeff" + next(blocks)], blocks)
        return StreamingResponse(blocks, media_type=CSV, headers=headers)
    address = f"{request.base_url}{quote(name)}/inspections"
    zone = station_zone(settings.shifts)
    version, _, promise = line_alarms.active_promise(versions, product_id)
    totals: list[tuple[str, object]] = [("Product", name), ("Version in use", version)]
    totals.append(("Promise", None if promise is None else promise.text))
    file = write_workbook(pages, turns, address, zone, totals)
    return StreamingResponse(read_blocks(file), media_type=XLSX, headers=headers)


def in_turns(turns: Turns, items: Iterator[T], work: Callable[[T], R]) -> Iterator[R]:
    """Yield the results of `work`, with a turn for each item.

    An item is read and worked on in its turn: a long export leaves room to others.

    Raises:
        BusyError: before the first result, where no turn is free.
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
    """Yield the rows of each page of inspections; the first page's rows begin with the header."""
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
        turns: Turns in which they are read.
        address: Address of the pages of inspections; names of pictures link below it.
        zone: Zone of times; None: this machine's.
        totals: Rows of the sheet of totals, before the counts.

    Returns:
        The file, at its beginning; closing removes it.

    Raises:
        BusyError: too many wait for a turn.
    """
    book = result_workbook.ResultWorkbook(SHEET_COLUMNS, FURTHER)
    counts = Counter[str]()

    def append(page: list[InspectionFacts]) -> None:
        for inspection in page:
            counts[inspection["decision"]] += 1
            link = f"{address}/{inspection['id']}"
            book.add(_sheet_values(inspection, zone), _places(inspection), link)

    for _ in in_turns(turns, pages, append):
        if book.is_full:
            break
    of_decisions = [(f"of them {decision}", count) for decision, count in counts.items()]
    lines = [*totals, ("Inspections", counts.total()), *of_decisions]
    file = tempfile.TemporaryFile()  # noqa: SIM115 (who sends it closes it)
    with turns.take(patient=True):
        book.save(file, lines)
    file.seek(0)
    return file


def _places(inspection: InspectionFacts) -> list[tuple[str, Region]]:
    """Return the regions of all pictures of an inspection, each with its picture's name."""
    pictures: Sequence[InspectionFacts | ViewFacts] = inspection["views"] or [inspection]
    return [(str(picture["name"]), Region(**region)) for picture in pictures for region in picture["regions"]]


def _measured(inspection: InspectionFacts) -> dict[str, object]:
    """Return the values of the columns `PLACES`."""
    return findings.measure_places([region for _, region in _places(inspection)])


def _sheet_values(inspection: InspectionFacts, zone: tzinfo | None) -> dict[str, object]:
    """Return an inspection's values for the workbook, by name."""
    at = datetime.fromisoformat(inspection["at"]).astimezone(zone).replace(tzinfo=None, microsecond=0)
    kinds = dict.fromkeys(region.kinds_text for _, region in _places(inspection) if region.kinds_text)
    return {
        **inspection,
        **_measured(inspection),
        "path": inspection["name"],
        "time": at,
        "model": f"{inspection['product']}, version {inspection['version']}",
        "kinds": "; ".join(kinds),
        "remark": "; ".join(finding["words"] for finding in inspection["findings"]),
    }


def read_blocks(file: IO[bytes]) -> Iterator[bytes]:
    """Yield a file's content in blocks of `BLOCK_BYTES`, and close it."""
    with file:
        while block := file.read(BLOCK_BYTES):
            yield block


def _cells(inspection: InspectionFacts) -> list[object]:
    """Return an inspection's values in the order of `COLUMNS`."""
    values = [inspection.get(name) for name in Inspection.model_fields]
    measured = _measured(inspection)
    places = [measured.get(name) for name in PLACES]
    more = other_fields(inspection)
    further = [more.pop(name, None) for name in FURTHER]
    return [*values, *places, *further, more or None]


def _text_cell(value: object) -> object:
    """Return a value as a cell of a spreadsheet: a dict or list as JSON, None as ""."""
    if value is None:
        return ""
    return files.csv_cell(json.dumps(value) if isinstance(value, dict | list) else value)


def _csv_block(rows: list[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows(rows)
    return text.getvalue()
