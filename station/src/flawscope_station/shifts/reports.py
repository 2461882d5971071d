"""Reports of shifts: written when one has ended, for each product, into a folder and to a webhook."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from flawscope.artefact import files
from flawscope.errors import FlawscopeError, message_with_type
from flawscope.results import drawing
from flawscope_station.inspecting.capacity import BusyError
from flawscope_station.inspecting.renderings import InspectionRenderer, encode_webp
from flawscope_station.monitoring.background import BackgroundThread
from flawscope_station.settings.shifts import ShiftSettings
from flawscope_station.shifts import Shift, ended_shifts
from flawscope_station.sinks.outbox import Message
from flawscope_station.sinks.webhook import Webhook, WebhookSettings
from flawscope_station.store.database import now
from flawscope_station.store.records import Store, iso
from flawscope_station.store.search import COUNT_NAMES, Box, PeriodSummary, summarize_period

MESSAGE_TYPE, EVENT_KIND, STATION_USER = "shift.ended", "shift", "station"
CHECK_INTERVAL, RETRY_INTERVAL = 30.0, 300.0  # seconds between two checks, and after a failure
HEAT_MAP_SIDE, OVERLAY_SIDE = 640, 320  # pixels of the heat map's picture, and of others
HEAT_MAP_CELLS = 64  # fields of the heat map, to either side

Render = Callable[[str, str, int, Shift, PeriodSummary, dict[str, Any]], str]


class ShiftReporter(BackgroundThread):
    """Thread that reports shifts.

    Args:
        products: name -> number.
        report: reports a problem, as `Problems.report`.
        sender: distinguishes the ids of messages from those of other stations.
        render: makes the HTML of a report.
    """

    def __init__(
        self,
        settings: ShiftSettings,
        products: Mapping[str, int],
        store: Store,
        pictures: InspectionRenderer,
        report: Callable[[str, str | None], None],
        sender: str,
        render: Render,
    ):
        super().__init__("shifts")
        self.settings, self.products, self.store, self.sender = settings, products, store, sender
        self.pictures, self.report, self.render = pictures, report, render
        self._done: set[tuple[int, Shift]] = set()  # products and their shifts that are reported, or empty

    def _work(self) -> None:
        pause = CHECK_INTERVAL
        while not self._wait(pause):
            with self.threads[0].call():
                pause = CHECK_INTERVAL if self.report_ended(now()) else RETRY_INTERVAL

    def report_ended(self, at: int) -> bool:
        """Report the shifts that ended by `at`, microseconds since 1970; False: some could not be."""
        why: str | None = None
        shifts = ended_shifts(self.settings, at)
        self._done = {(number, shift) for number, shift in self._done if shift in shifts}
        for product, number in list(self.products.items()):  # one may be added meanwhile
            if not (left := [shift for shift in shifts if (number, shift) not in self._done]):
                continue
            try:
                reported = {row.text for row in self.store.events(EVENT_KIND, number)}
                for shift in left:
                    key = f"{shift.name} {iso(shift.since)}"
                    self.threads[0].go_on()
                    if key not in reported and self._report(product, number, shift):
                        self.store.note_event(EVENT_KIND, STATION_USER, key, number)
                    self._done.add((number, shift))
            except Exception as error:  # the other products' reports do not wait for it
                why = f"{product}: the report of a shift waits: {message_with_type(error)}"
        self.report("shifts", why)
        return why is None

    def _report(self, product: str, number: int, shift: Shift) -> bool:
        """Whether there was something to report."""
        with self.pictures.turns.take(patient=True):
            found = summarize_period(self.store.database, number, shift.since, shift.until)
        if not found.counts["inspected"]:
            return False
        if self.settings.folder is not None:
            folder = Path(self.settings.folder)
            folder.mkdir(parents=True, exist_ok=True)
            day = datetime.fromtimestamp(shift.since / 1e6, UTC).astimezone(self.settings.tz).date()
            name, drawn = f"{day}-{shift.name}-{product}", report_images(self.pictures, number, found)
            page = self.render(self.settings.language, product, number, shift, found, drawn)
            for suffix, text in ((".csv", hourly_csv(found)), (".html", page)):
                with files.atomic_write(folder / f"{name}{suffix}") as file:
                    file.write(text.encode())
        if self.settings.webhook is not None:
            signed = self.settings.secret_file, self.settings.ca_file
            webhook = Webhook(WebhookSettings(self.settings.webhook, "none", *signed))
            try:
                webhook.send(shift_message(self.sender, product, number, shift, found))
            finally:
                webhook.close()
        return True


def shift_message(sender: str, product: str, number: int, shift: Shift, found: PeriodSummary) -> Message:
    """Message about a shift, with the same id whenever it is sent again; sender: begins the station's ids."""
    known = f"shift-{sender}-{number}-{shift.name}-{shift.since}"
    return Message(known, MESSAGE_TYPE, shift.until, number, 0, None, shift_data(product, shift, found))


def shift_data(product: str, shift: Shift, found: PeriodSummary) -> dict[str, Any]:
    """Content of a message about a shift."""
    told = shift.to_dict()
    kinds = {"kinds": found.kinds, "kinds_within_tolerance": found.tolerated_kinds}
    counts = {**found.counts, **{name: counted._asdict() for name, counted in kinds.items()}}
    return {"product": product, "shift": told.pop("name"), **told, **counts}


def hourly_rows(found: PeriodSummary) -> list[list[Any]]:
    """Counts of each hour, below a header."""
    hours = ([iso(hour["at"]), *(hour[name] for name in COUNT_NAMES)] for hour in found.hours)
    return [["hour", *COUNT_NAMES], *hours]


def hourly_csv(found: PeriodSummary) -> str:
    """Counts of each hour as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(hourly_rows(found))
    return text.getvalue()


def report_images(pictures: InspectionRenderer, product_id: int, found: PeriodSummary) -> dict[str, Any]:
    """Pictures of a report as data URLs: `heat`, None where no part is there to draw it on, and `worst`, by
    the numbers of their inspections."""
    heat, worst = None, dict[int, str]()
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


def heat_map(picture: Any, boxes: list[Box]) -> Any:
    """Draw how often boxes lie where on a picture [H, W, 3] uint8; x0 y0 x1 y1 are shares of its sides."""
    grid = np.zeros((HEAT_MAP_CELLS, HEAT_MAP_CELLS), np.float32)
    for x0, y0, x1, y1 in boxes:
        rows, columns = (
            slice(int(low), max(int(low) + 1, int(np.ceil(high))))
            for low, high in (np.array([[y0, y1], [x0, x1]]) * HEAT_MAP_CELLS).tolist()
        )
        grid[rows, columns] += 1
    height, width = picture.shape[:2]
    values = np.asarray(Image.fromarray(grid).resize((width, height), Image.Resampling.BILINEAR))
    return drawing.overlay(picture, values, 0.0, 2 * float(grid.max()))  # the most is the middle of its scale


def _data_url(data: bytes) -> str:
    return "data:image/webp;base64," + base64.b64encode(data).decode()
