"""Contents of a report of a shift, or of any time: counts, rows of its hours, and pictures."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import tzinfo
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flawscope.errors import FlawscopeError
from flawscope.results import drawing
from flawscope_station.inspecting.memory import BusyError
from flawscope_station.inspecting.renderings import InspectionRenderer, encode_webp
from flawscope_station.shifts.shift import Shift, local_time
from flawscope_station.store.search import COUNT_NAMES, Box, PeriodSummary

# pixels of the heat map's picture, and of others
HEAT_MAP_SIDE = 640
OVERLAY_SIDE = 320
HEAT_MAP_CELLS = 64  # fields of the heat map, to either side


def shift_data(product: str, shift: Shift, found: PeriodSummary, zone: tzinfo | None) -> dict[str, object]:
    """Return the counts of a shift, with its times by the clocks of a zone."""
    times = shift.to_dict(zone)
    return {
        "product": product,
        "shift": times["name"],
        "since": times["since"],
        "until": times["until"],
        **found.counts,
        "kinds": found.kinds._asdict(),
        "kinds_within_tolerance": found.tolerated_kinds._asdict(),
    }


def hourly_rows(found: PeriodSummary, zone: tzinfo | None) -> list[list[str | int]]:
    """Return rows with the counts of each hour by the clocks of a zone, below a header."""
    rows: list[list[str | int]] = [["hour", *COUNT_NAMES]]
    for hour in found.hours:
        counts = [hour[name] for name in COUNT_NAMES]
        rows.append([local_time(hour["at"], zone), *counts])
    return rows


def csv_text(rows: Iterable[Iterable[object]]) -> str:
    """Return rows as CSV, with a line feed after each."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


class ReportImages(TypedDict):
    """Pictures of a report as data URLs.

    Attributes:
        heat: Heat map; None where there is no part to draw it on.
        worst: The most severe anomalous parts, by the number of their inspection.
    """

    heat: str | None
    worst: dict[int, str]


def report_images(pictures: InspectionRenderer, product_id: int, found: PeriodSummary) -> ReportImages:
    """Draw the pictures of a report."""
    heat = None
    worst = dict[int, str]()
    if found.good is not None and found.boxes:
        with _missing_is_left_out():
            part = pictures.view(product_id, found.good, HEAT_MAP_SIDE)
            picture = np.asarray(Image.open(io.BytesIO(part)).convert("RGB"))
            heat = _data_url(encode_webp(heat_map(picture, found.boxes)))
    for number in found.worst:
        with _missing_is_left_out():
            worst[number] = _data_url(_worst_picture(pictures, product_id, number))
    return {"heat": heat, "worst": worst}


@contextmanager
def _missing_is_left_out() -> Iterator[None]:
    """Leave out a picture that was removed meanwhile. BusyError: the report is to be made later."""
    try:
        yield
    except BusyError:
        raise
    except FlawscopeError:
        pass


def _worst_picture(pictures: InspectionRenderer, product_id: int, number: int) -> bytes:
    try:
        return pictures.overlay(product_id, number, OVERLAY_SIDE)
    except BusyError:  # its map is lost, and the line does not rest: without outlines
        return pictures.view(product_id, number, OVERLAY_SIDE)


def heat_map(picture: NDArray[np.uint8], boxes: list[Box]) -> NDArray[np.uint8]:
    """Draw how often boxes lie where on a picture [H, W, 3] uint8; x0 y0 x1 y1 are shares of its sides."""
    grid = np.zeros((HEAT_MAP_CELLS, HEAT_MAP_CELLS), np.float32)
    for x0, y0, x1, y1 in boxes:
        grid[_cells_between(y0, y1), _cells_between(x0, x1)] += 1
    height, width = picture.shape[:2]
    values = np.asarray(Image.fromarray(grid).resize((width, height), Image.Resampling.BILINEAR))
    return drawing.overlay(picture, values, 0.0, 2 * float(grid.max()))  # the most is the middle of its scale


def _cells_between(low: float, high: float) -> slice:
    """Return the cells of the heat map between two shares of a side, one at least."""
    first = int(low * HEAT_MAP_CELLS)
    end = int(np.ceil(high * HEAT_MAP_CELLS))
    return slice(first, max(first + 1, end))


def _data_url(data: bytes) -> str:
    return "data:image/webp;base64," + base64.b64encode(data).decode()
