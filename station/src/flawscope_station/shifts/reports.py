"""Contents of a report on a shift, or on any period: counts, rows of its hours, and pictures."""

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

HEAT_MAP_SIDE = 640  # pixels of the longer side of the heat map's picture
OVERLAY_SIDE = 320  # pixels of the longer side of an anomalous part's picture
HEAT_MAP_CELLS = 64  # cells of the heat map along either side


def shift_data(product: str, shift: Shift, summary: PeriodSummary, zone: tzinfo | None) -> dict[str, object]:
    """Return the counts of a shift, as the API shows them.

    Args:
        product: Name of the product.
        shift: Shift.
        summary: Summary of the shift.
        zone: Zone of the times; None: this machine's.
    """
    shift_facts = shift.to_dict(zone)
    return {
        "product": product,
        "shift": shift_facts["name"],
        "since": shift_facts["since"],
        "until": shift_facts["until"],
        **summary.counts,
        "kinds": summary.kinds._asdict(),
        "kinds_within_tolerance": summary.tolerated_kinds._asdict(),
    }


def hourly_rows(summary: PeriodSummary, zone: tzinfo | None) -> list[list[str | int]]:
    """Return the rows of a table: a header, and the counts of each hour.

    Args:
        summary: Summary of the period.
        zone: Zone of the hours' times; None: this machine's.
    """
    rows: list[list[str | int]] = [["hour", *COUNT_NAMES]]
    for hour in summary.hours:
        counts = [hour[name] for name in COUNT_NAMES]
        rows.append([local_time(hour["at"], zone), *counts])
    return rows


def csv_text(rows: Iterable[Iterable[object]]) -> str:
    """Return rows as CSV text, with a line feed after each row."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


class ReportImages(TypedDict):
    """Pictures of a report as data URLs.

    Attributes:
        heat: Heat map; None: there is no picture of a good part to draw it on, or no region.
        worst: Pictures of the most severe anomalous parts, by number of the inspection.
    """

    heat: str | None
    worst: dict[int, str]


def report_images(renderer: InspectionRenderer, product_id: int, summary: PeriodSummary) -> ReportImages:
    """Draw the pictures of a report.

    Args:
        renderer: Renderer of the station's pictures.
        product_id: Number of the product.
        summary: Summary of the period.

    Raises:
        BusyError: The station has no time or memory for the pictures now.
    """
    heat = None
    worst = dict[int, str]()
    if summary.good is not None and summary.boxes:
        with _unless_missing():
            encoded = renderer.view(product_id, summary.good, HEAT_MAP_SIDE)
            picture = np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))
            heat = _data_url(encode_webp(heat_map(picture, summary.boxes)))
    for number in summary.worst:
        with _unless_missing():
            worst[number] = _data_url(_worst_picture(renderer, product_id, number))
    return {"heat": heat, "worst": worst}


@contextmanager
def _unless_missing() -> Iterator[None]:
    """Suppress all errors of the block except BusyError: the picture that the block draws may be gone.

    Raises:
        BusyError: The picture cannot be drawn now, but can be later.
    """
    try:
        yield
    except BusyError:
        raise
    except FlawscopeError:
        pass


def _worst_picture(renderer: InspectionRenderer, product_id: int, number: int) -> bytes:
    """Return the picture of an anomalous part as a WebP file, with contours if its map is stored."""
    try:
        return renderer.overlay(product_id, number, OVERLAY_SIDE)
    except BusyError:  # the map would have to be computed again, and the line leaves no time for that
        return renderer.view(product_id, number, OVERLAY_SIDE)


def heat_map(picture: NDArray[np.uint8], boxes: list[Box]) -> NDArray[np.uint8]:
    """Draw on a picture how many boxes lie at each place.

    Args:
        picture: Picture [H, W, 3] uint8.
        boxes: Boxes x0, y0, x1, y1 as shares of the picture's sides; at least one.
    """
    grid = np.zeros((HEAT_MAP_CELLS, HEAT_MAP_CELLS), np.float32)
    for x0, y0, x1, y1 in boxes:
        grid[_cells_between(y0, y1), _cells_between(x0, x1)] += 1
    height, width = picture.shape[:2]
    values = np.asarray(Image.fromarray(grid).resize((width, height), Image.Resampling.BILINEAR))
    # the place with most boxes gets the colour in the middle of the scale
    return drawing.overlay(picture, values, low=0.0, high=2 * float(grid.max()))


def _cells_between(low: float, high: float) -> slice:
    """Return the slice of the heat map's cells between two shares of a side; it has at least one cell."""
    first = int(low * HEAT_MAP_CELLS)
    end = int(np.ceil(high * HEAT_MAP_CELLS))
    return slice(first, max(first + 1, end))


def _data_url(data: bytes) -> str:
    """Return a WebP file as a data URL."""
    return "data:image/webp;base64," + base64.b64encode(data).decode()
