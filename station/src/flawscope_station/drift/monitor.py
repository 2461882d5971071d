"""Drift of all products of a station, followed after each answer in a thread of its own."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, func, select

from flawscope.errors import InputError, message_with_type
from flawscope_station.background import STOP_TIMEOUT, BackgroundThread
from flawscope_station.drift.saved_tests import read_tests, save_tests
from flawscope_station.drift.sequential_tests import LIGHT_CHANGES, SHARE_CHANGES, Change, DriftTests
from flawscope_station.store.database import StoreError
from flawscope_station.store.files import Files
from flawscope_station.store.model_registry import ModelRegistry
from flawscope_station.store.open_models import NoModelError
from flawscope_station.store.records import Store, iso
from flawscope_station.store.schema import inspections

ALARM_EVENT, ACKNOWLEDGED_EVENT = "drift", "drift acknowledged"
NOTICE_EVENT, LIGHT_EVENT = "share of anomalous changed", "light changed"
ROWS_PER_QUERY = 2000  # inspections read at once
SAVED_FOLDER = "drift"  # of tests, below the station's folder
SAVE_INTERVAL = 600.0  # seconds between two files of a product's tests
ROUND_INTERVAL = 1.0  # seconds between two rounds
IDLE_INTERVAL = 5.0  # seconds after which the active versions are read again, even if nothing came
_ACKNOWLEDGED_PATTERN = re.compile(r"after inspection (\d+)")
_CHANGE_PATTERN = re.compile(r"at inspection (\d+):")


class DriftMonitor(BackgroundThread):
    """Reads inspections in the order of their numbers and tests them for drift. The tests are saved now and
    then; after a restart the inspections since are read again, so that the results are the same, bit for bit.

    Args:
        names: names by product.
        report: reports a problem, as `Problems.report`.
        files: where the tests are saved.

    Attributes:
        bounds: bound of the false-alarm probability by product; None: nothing is tested, and the tests
            only tell the camera checks where to begin. Other products are not followed.
        lights: products whose brightness is tested.
    """

    def __init__(
        self,
        store: Store,
        versions: ModelRegistry,
        names: Mapping[int, str],
        report: Callable[[str, str | None], None],
        files: Files,
    ):
        super().__init__("drift")
        self.store, self.versions, self.files = store, versions, files
        self.names, self.bounds, self.lights = names, dict[int, float | None](), set[int]()
        self.report, self.pause = report, ROUND_INTERVAL
        self._tests: dict[int, DriftTests] = {}
        self._ready: set[int] = set()
        self._dirty: set[int] = set()
        self._saved: dict[int, tuple[int, float]] = {}  # by product: its last saved inspection, and when
        self._lock = threading.RLock()  # of all tests
        self.wake()  # inspections recorded before are read at once

    def add_product(self, product_id: int, bound: float | None, light: bool) -> None:
        """Follow a new product; bound, light: as `bounds` and `lights` of the class."""
        self.lights.update([product_id] if light else ())
        self.bounds[product_id] = bound
        self._dirty.add(product_id)

    def mark_new(self, product_id: int) -> None:
        """Mark a product that has a new inspection."""
        if product_id in self.bounds:
            self._dirty.add(product_id)
            self.wake()

    def stop(self, seconds: float | None = STOP_TIMEOUT) -> None:
        """End the thread, and save the tests."""
        super().stop(seconds)
        for product_id, tests in list(self._tests.items()):
            self._save(product_id, tests)

    # ---- in the thread

    def _work(self) -> None:
        while not self._wait(IDLE_INTERVAL):
            trouble = None
            for product_id in list(self.bounds):
                if self._ended.is_set():
                    return
                try:
                    self.update(product_id)
                except Exception as error:  # such as a data base that is away: the rest is read later
                    trouble = message_with_type(error)
                    self._dirty.add(product_id)
            self.report("drift_unknown", f"drift is not followed: {trouble}" if trouble else None)
            self._pause(self.pause)

    def update(self, product_id: int) -> None:
        """Read a product's new inspections and report drift."""
        try:
            version = self.versions.active(product_id)[0]
        except NoModelError:
            return
        tests = self._tests.get(product_id)
        if tests is not None and tests.version == version and product_id not in self._dirty:
            return
        self._dirty.discard(product_id)
        if tests is None or tests.version != version:
            after = self._first_after(product_id, version)
            with self._lock:
                self._ready.discard(product_id)
                saved = self._load(product_id, version, after) if tests is None else None
                tests = saved or self._new_tests(product_id, version, after)
                self._tests[product_id] = tests
        while not self._ended.is_set():
            begun = time.monotonic()
            rows = [] if tests.bound is None else self._read_rows(product_id, tests)
            with self._lock:
                if self._tests[product_id] is not tests:  # acknowledged meanwhile: its alarm is over
                    self._dirty.add(product_id)
                    return
                for row in rows:
                    tests.add(*row)
                if time.monotonic() - self._saved.get(product_id, (0, 0.0))[1] > SAVE_INTERVAL:
                    self._save(product_id, tests)
                if len(rows) < ROWS_PER_QUERY:
                    self._note_changes(product_id, tests)
                    self._ready.add(product_id)
                    self._report_changes(product_id, tests)
                    return
            self._pause(time.monotonic() - begun)  # old inspections leave half of the time to others

    def _new_tests(self, product_id: int, version: int, after: int) -> DriftTests:
        return DriftTests(version, after, self.bounds[product_id], product_id in self.lights)

    def _read_rows(self, product_id: int, tests: DriftTests) -> list[Any]:
        column = inspections.c
        query = (
            select(column.id, column.at, column.score, column.anomalous, column.brightness)
            # expressions, so that no data base takes an index that is not in the order of numbers
            .where(column.id > tests.last, column.product_id + 0 == product_id)
            .where(column.version_id + 0 == tests.version)
            .order_by(column.id)
            .limit(ROWS_PER_QUERY)
        )
        with self.store.database.reading() as connection:
            return [tuple(row) for row in connection.execute(query).all()]

    def _first_after(self, product_id: int, version: int) -> int:
        """Return the inspection after which the tests begin: the last by another version, or acknowledged."""
        last = self._newest(product_id, inspections.c.version_id != version)
        acknowledged = self.store.events(ACKNOWLEDGED_EVENT, product_id)[:1]
        found = _ACKNOWLEDGED_PATTERN.search(acknowledged[0].text) if acknowledged else None
        return max(last, int(found[1]) if found else 0)

    def _newest(self, product_id: int, *wanted: ColumnElement[bool]) -> int:
        """Return the highest number of a product's inspections; 0 where there is none."""
        query = select(func.max(inspections.c.id)).where(inspections.c.product_id == product_id, *wanted)
        with self.store.database.reading() as connection:
            return int(connection.execute(query).scalar_one() or 0)

    def _note_changes(self, product_id: int, tests: DriftTests) -> None:
        """Note changes as events, except those that were noted before a restart."""
        while tests.changes:
            change = tests.changes[0]
            kind = _event_kind(change)
            before = self.store.events(kind, product_id)[:1]
            last = [int(found[1]) for row in before if (found := _CHANGE_PATTERN.match(row.text))]
            if not last or last[0] < change.inspection:
                text = f"at inspection {change.inspection}: {change.describe()}"
                self.store.note_event(kind, "station", text, product_id)
            del tests.changes[0]

    def _report_changes(self, product_id: int, tests: DriftTests) -> None:
        found = {"drift": tests.alarm, "light": tests.light.alarm if tests.light else None}
        for code, change in found.items():
            text = None if change is None else f"{self.names[product_id]}: {change.describe()}"
            self.report(f"{code}_{product_id}", text)

    # ---- over a restart: without the file, or where it is damaged, inspections are read again

    def _path(self, product_id: int) -> Path:
        return self.files.folder / SAVED_FOLDER / f"{product_id}.npz"

    def _save(self, product_id: int, tests: DriftTests) -> None:
        """Save tests that have seen something since; the time counts also where that fails."""
        if tests.bound is None:
            return
        if self._saved.get(product_id, (0, 0.0))[0] != tests.last:
            with suppress(StoreError):  # a full disk
                data = save_tests(tests, self._key(product_id, tests.version))
                self.files.write(self._path(product_id), data, durable=False)
        self._saved[product_id] = tests.last, time.monotonic()

    def _load(self, product_id: int, version: int, after: int) -> DriftTests | None:
        """Return the saved tests; None where there are none, or the data base was restored since."""
        with suppress(Exception):
            data = self._path(product_id).read_bytes()
            tests = read_tests(data, self._key(product_id, version))
            # lower: the last record of another version was removed
            if tests is not None and after <= tests.after and self._is_known(product_id, tests):
                self._saved[product_id] = tests.last, time.monotonic()
                return tests
        return None

    def _key(self, product_id: int, version: int) -> list[Any]:
        return [version, self.bounds[product_id], product_id in self.lights]

    def _is_known(self, product_id: int, tests: DriftTests) -> bool:
        """Whether the last tested inspection is that of the data base, or was removed there by its age."""
        query = select(inspections.c.at).where(
            inspections.c.id == tests.last, inspections.c.product_id == product_id
        )
        with self.store.database.reading() as connection:
            at = connection.scalar(query)
        return self._newest(product_id) > tests.last if at is None else bool(at == tests.last_at)

    # ---- for people

    def acknowledge(self, product_id: int, who: str) -> None:
        """Take the present state as normal: all tests begin anew.

        Raises:
            InputError: the product is not watched, or nothing was seen of it.
        """
        name = self.names[product_id]
        if product_id not in self.bounds:
            raise InputError(
                f"neither drift nor the camera of {name} is watched: give its setting `drift` a bound, as "
                "1 %, or set `camera_checks` to true"
            )
        with self._lock:
            tests = self._tests.get(product_id)
            if tests is None:
                raise InputError(f"nothing of {name} was seen yet: there is nothing to acknowledge")
            last = self._newest(product_id) if tests.bound is None else tests.last
            self.store.note_event(ACKNOWLEDGED_EVENT, who, f"after inspection {last}", product_id)
            self._tests[product_id] = self._new_tests(product_id, tests.version, last)
            self._dirty.add(product_id)
            self._report_changes(product_id, self._tests[product_id])
        self.wake()

    def tests_of(self, product_id: int) -> DriftTests | None:
        return self._tests.get(product_id)

    def facts(self, product_id: int) -> dict[str, Any]:
        """Return the drift of a product, as the API shows it."""
        with self._lock:
            tests = self._tests.get(product_id)
            bound = self.bounds.get(product_id)
            light = {"watched": bound is not None and product_id in self.lights}
            ready = product_id in self._ready
            if tests is None or bound is None:
                return {"watched": bound is not None, "bound": bound, "ready": ready, "light": light}
            good = tests.scores.count
            return {
                "watched": True,
                "bound": bound,
                "ready": ready,
                "version": tests.version,
                "since": None if tests.begun is None else iso(tests.begun),
                "pictures": tests.seen,
                "good": good,
                "value": tests.scores.value,
                "limit": tests.limit,
                "flagged": 1 - good / tests.seen if tests.seen else None,
                "alarm": tests.alarm.to_dict() if tests.alarm else None,
                "notice": tests.notice.to_dict() if tests.notice else None,
                "light": light | tests.light.facts() if tests.light else light,
                "points": [[at, value] for at, value in tests.curve],
            }

    def gauges(self) -> dict[str, tuple[str, dict[str, float]]]:
        """Return Prometheus gauges: name -> help text and values by product name."""
        with self._lock:
            by_name = {self.names[i]: tests for i, tests in self._tests.items() if tests.bound is not None}
            lights = {name: (tests.light, tests.limit) for name, tests in by_name.items() if tests.light}
            normal = "and nobody said that this is normal."
            return {
                "drift": (
                    "Evidence that good parts changed: log of the martingale, 1 where it alarms.",
                    {name: tests.scores.value / tests.limit for name, tests in by_name.items()},
                ),
                "drift_alarm": (
                    f"1 while the scores of good parts have drifted {normal}",
                    {name: float(tests.alarm is not None) for name, tests in by_name.items()},
                ),
                "light": (
                    "Evidence that the light changed: log of the martingale, 1 where it may alarm.",
                    {name: one.test.value / limit for name, (one, limit) in lights.items()},
                ),
                "light_alarm": (
                    f"1 while the brightness of good parts has changed {normal}",
                    {name: float(one.alarm is not None) for name, (one, _) in lights.items()},
                ),
                "share_notice": (
                    "1 while another share of pictures is anomalous than before.",
                    {name: float(tests.notice is not None) for name, tests in by_name.items()},
                ),
            }


def _event_kind(change: Change) -> str:
    """Return the kind of the event that records a change."""
    if change.how in LIGHT_CHANGES:
        return LIGHT_EVENT
    return NOTICE_EVENT if change.how in SHARE_CHANGES else ALARM_EVENT
