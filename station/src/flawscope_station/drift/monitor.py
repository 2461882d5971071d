"""Drift of all products of a station, followed after each answer in a thread of its own."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping

from sqlalchemy import func, select
from typing_extensions import override

from flawscope.errors import InputError, message_with_type
from flawscope_station.drift.score_test import Change, JudgedScore, ScoreTest, read_note
from flawscope_station.monitoring.background import BackgroundThread
from flawscope_station.store.model_registry import ModelRegistry
from flawscope_station.store.open_models import NoModelError
from flawscope_station.store.records import Store
from flawscope_station.store.schema import inspections, on_line

ALARM_EVENT = "drift"  # kind of an event
ACKNOWLEDGED_EVENT = "drift acknowledged"  # kind of an event
HISTORY = 20_000  # newest inspections of a product that are read again after a restart
HISTORY_OF_ALL = 200_000  # newest inspections of all products together that are read again, roughly
ROWS_PER_QUERY = 2000  # inspections that one query reads
ROUND_INTERVAL = 1.0  # seconds between two rounds through the products
IDLE_INTERVAL = 5.0  # seconds after which a round begins even without a new inspection: versions may change
_ACKNOWLEDGED_PATTERN = re.compile(r"after inspection (?P<inspection>\d+)")


class DriftMonitor(BackgroundThread):
    """Thread that reads inspections in the order of their numbers, and tests their scores for drift.

    After a restart it begins with the newest `HISTORY` inspections of a product, and with an alarm that was
    recorded and not acknowledged.

    Args:
        store: Records of the station.
        versions: Model versions.
        names: Names of products, by number.
        report: Function that reports a problem by its code and text, as `Problems.report`; with None as text
            the problem is over.

    Attributes:
        bounds: Bound of the false-alarm probability, by product; other products are not followed.
    """

    def __init__(
        self,
        store: Store,
        versions: ModelRegistry,
        names: Mapping[int, str],
        report: Callable[[str, str | None], None],
    ):
        super().__init__("drift")
        self.store = store
        self.versions = versions
        self.names = names
        self.bounds: dict[int, float] = {}
        self.report = report
        self.pause = ROUND_INTERVAL
        self._tests: dict[int, ScoreTest] = {}  # by product
        self._ready: set[int] = set()  # products whose inspections have all been read once
        self._dirty: set[int] = set()  # products that may have inspections to read
        self._lock = threading.RLock()  # for all tests
        self.wake()  # inspections that are recorded already are read at once

    def add_product(self, product_id: int, bound: float) -> None:
        """Follow the scores of a product.

        Args:
            product_id: Number of the product.
            bound: Largest probability that its test ever raises an alarm although nothing changes.
        """
        self.bounds[product_id] = bound
        self._dirty.add(product_id)

    def mark_new(self, product_id: int) -> None:
        """Have the thread read the new inspections of a product."""
        if product_id in self.bounds:
            self._dirty.add(product_id)
            self.wake()

    # ---- in the thread

    @override
    def _work(self) -> None:
        """Update all products in rounds, until the station ends."""
        while True:
            is_ended = self._wait(IDLE_INTERVAL)
            if is_ended:
                return
            failure = None
            for product_id in list(self.bounds):
                if self._ended.is_set():
                    return
                try:
                    with self.threads[0].call():
                        self.update(product_id)
                except Exception as error:  # such as an unreachable database: the next round tries again
                    failure = message_with_type(error)
                    self._dirty.add(product_id)
            self.report("drift_unknown", f"drift is not followed: {failure}" if failure else None)
            self._pause(self.pause)

    def update(self, product_id: int) -> None:
        """Read a product's new inspections and report drift."""
        try:
            version, _ = self.versions.active(product_id)
        except NoModelError:
            return
        test = self._tests.get(product_id)
        is_test_current = test is not None and test.version == version
        if is_test_current and product_id not in self._dirty:
            return
        self._dirty.discard(product_id)
        if test is None or not is_test_current:
            test = self._begin(product_id, version)
            with self._lock:
                self._ready.discard(product_id)
                self._tests[product_id] = test
        while not self._ended.is_set():
            self.threads[0].go_on()
            start = time.monotonic()
            is_done = self._read_more(product_id, test)
            if is_done:
                return
            # a pause as long as the reading: half of the time is left to other work
            self._pause(time.monotonic() - start)

    def _read_more(self, product_id: int, test: ScoreTest) -> bool:
        """Add the next inspections to a test.

        Returns:
            True if the test has nothing more to read; False if further inspections are waiting.
        """
        rows = self._read_rows(product_id, test)
        with self._lock:
            if self._tests[product_id] is not test:  # acknowledged meanwhile: another test has begun
                self._dirty.add(product_id)
                return True
            change = test.extend(rows)
            if change is not None:
                self.store.note_event(ALARM_EVENT, "station", change.note, product_id)
            if len(rows) == ROWS_PER_QUERY:
                return False
            self._ready.add(product_id)
            self._report_alarm(product_id, test.alarm)
            return True

    def _read_rows(self, product_id: int, test: ScoreTest) -> list[JudgedScore]:
        """Return the next inspections for a test, `ROWS_PER_QUERY` at most, in the order of their numbers."""
        inspection = inspections.c
        query = (
            select(inspection.id, inspection.at, inspection.score, inspection.anomalous)
            .where(on_line(product_id), inspection.id > test.last, inspection.version_id == test.version)
            .order_by(inspection.id)
            .limit(ROWS_PER_QUERY)
        )
        with self.store.database.reading() as connection:
            return [JudgedScore(*row) for row in connection.execute(query)]

    def _begin(self, product_id: int, version: int) -> ScoreTest:
        """Return a new test of a version.

        The test begins after the newest of three inspections: the last one of another version, the one at
        which an alarm was acknowledged last, and the last one before the newest `HISTORY`. A recorded alarm
        stays if it came after the first two of them.
        """
        inspection = inspections.c
        is_on_line = on_line(product_id)
        history_length = min(HISTORY, HISTORY_OF_ALL // len(self.bounds))
        newest_first = select(inspection.id).where(is_on_line).order_by(inspection.id.desc())
        with self.store.database.reading() as connection:
            last_before_history = connection.scalar(newest_first.offset(history_length).limit(1)) or 0
            is_of_other_version = (inspection.id > last_before_history) & (inspection.version_id != version)
            last_of_other_query = select(func.max(inspection.id)).where(is_on_line, is_of_other_version)
            last_of_other_version = connection.scalar(last_of_other_query) or 0
        last_reset = max(last_of_other_version, self._last_acknowledged(product_id))
        last_left_out = max(last_reset, last_before_history)
        test = ScoreTest(version, after=last_left_out, bound=self.bounds[product_id])
        alarm_events = self.store.events(ALARM_EVENT, product_id)
        # the newest event comes first
        alarm = read_note(alarm_events[0].text) if alarm_events else None
        if alarm is not None and alarm.inspection > last_reset:
            test.alarm = alarm
        return test

    def _last_acknowledged(self, product_id: int) -> int:
        """Return the number of the inspection after which an alarm was acknowledged last; 0: never."""
        acknowledged_events = self.store.events(ACKNOWLEDGED_EVENT, product_id)
        if not acknowledged_events:
            return 0
        # the newest event comes first
        match = _ACKNOWLEDGED_PATTERN.search(acknowledged_events[0].text)
        return int(match["inspection"]) if match else 0

    def _report_alarm(self, product_id: int, alarm: Change | None) -> None:
        """Report an alarm of a product; with None, report that the alarm is over."""
        text = None if alarm is None else f"{self.names[product_id]}: {alarm.describe()}"
        self.report(f"drift_{product_id}", text)

    # ---- for people

    def acknowledge(self, product_id: int, who: str) -> None:
        """Accept a change as normal: the test begins anew. If there is no alarm, nothing is done.

        Args:
            product_id: Number of the product.
            who: Person who accepts it.

        Raises:
            InputError: the product is not watched, or has no test yet.
        """
        name = self.names[product_id]
        if product_id not in self.bounds:
            raise InputError(f"drift of {name} is not watched: give its setting `drift` a bound, as 1 %")
        with self._lock:
            test = self._tests.get(product_id)
            if test is None:
                raise InputError(f"nothing of {name} was seen yet: there is nothing to acknowledge")
            if test.alarm is None:
                return
            self.store.note_event(ACKNOWLEDGED_EVENT, who, f"after inspection {test.last}", product_id)
            self._tests[product_id] = ScoreTest(test.version, after=test.last, bound=self.bounds[product_id])
            self._dirty.add(product_id)
            self._report_alarm(product_id, None)
        self.wake()

    def facts(self, product_id: int) -> dict[str, object]:
        """Return the drift of a product, as the API shows it."""
        with self._lock:
            test = self._tests.get(product_id)
            bound = self.bounds.get(product_id)
            is_ready = product_id in self._ready
            facts: dict[str, object] = {"watched": bound is not None, "bound": bound, "ready": is_ready}
            if test is None or bound is None:
                return facts
            return facts | test.facts()

    def gauges(self) -> dict[str, tuple[str, dict[str, float]]]:
        """Return Prometheus gauges by name, each with a help text and the values by product name."""
        with self._lock:
            test_by_name = {self.names[number]: test for number, test in self._tests.items()}
            return {
                "drift": (
                    "Evidence that good parts changed: log of the martingale, 1 where it alarms.",
                    {name: test.value / test.limit for name, test in test_by_name.items()},
                ),
                "drift_alarm": (
                    "1 while the scores of good parts have drifted and nobody said that this is normal.",
                    {name: float(test.alarm is not None) for name, test in test_by_name.items()},
                ),
            }
