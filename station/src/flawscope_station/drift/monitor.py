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

ALARM_EVENT = "drift"
ACKNOWLEDGED_EVENT = "drift acknowledged"
# newest inspections that are read again after a restart: of a product, and about so many of all
HISTORY = 20_000
HISTORY_OF_ALL = 200_000
ROWS_PER_QUERY = 2000  # inspections read at once
ROUND_INTERVAL = 1.0  # seconds between two rounds
IDLE_INTERVAL = 5.0  # seconds after which the active versions are read again, even if nothing came
_ACKNOWLEDGED_PATTERN = re.compile(r"after inspection (?P<inspection>\d+)")


class DriftMonitor(BackgroundThread):
    """Reads inspections in the order of their numbers and tests them for drift.

    After a restart it begins with the newest of them (`HISTORY`), and with the alarm that was noted and not
    acknowledged.

    Args:
        names: names by product.
        report: reports a problem, as `Problems.report`.

    Attributes:
        bounds: bound of the false-alarm probability by product. Other products are not followed.
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
        self.names, self.bounds = names, dict[int, float]()
        self.report = report
        self.pause = ROUND_INTERVAL
        self._tests: dict[int, ScoreTest] = {}
        self._ready: set[int] = set()
        self._dirty: set[int] = set()
        self._lock = threading.RLock()  # of all tests
        self.wake()  # inspections recorded before are read at once

    def add_product(self, product_id: int, bound: float) -> None:
        """Follow a new product."""
        self.bounds[product_id] = bound
        self._dirty.add(product_id)

    def mark_new(self, product_id: int) -> None:
        """Mark a product that has a new inspection."""
        if product_id in self.bounds:
            self._dirty.add(product_id)
            self.wake()

    # ---- in the thread

    @override
    def _work(self) -> None:
        while not self._wait(IDLE_INTERVAL):
            trouble = None
            for product_id in list(self.bounds):
                if self._ended.is_set():
                    return
                try:
                    with self.threads[0].call():
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
        test = self._tests.get(product_id)
        is_known = test is not None and test.version == version
        if is_known and product_id not in self._dirty:
            return
        self._dirty.discard(product_id)
        if test is None or not is_known:
            test = self._begin(product_id, version)
            with self._lock:
                self._ready.discard(product_id)
                self._tests[product_id] = test
        while not self._ended.is_set():
            self.threads[0].go_on()
            begun = time.monotonic()
            if self._read_more(product_id, test):
                return
            self._pause(time.monotonic() - begun)  # old inspections leave half of the time to others

    def _read_more(self, product_id: int, test: ScoreTest) -> bool:
        """Add the next inspections to a test; return whether all is read."""
        rows = self._read_rows(product_id, test)
        with self._lock:
            if self._tests[product_id] is not test:  # acknowledged meanwhile: its alarm is over
                self._dirty.add(product_id)
                return True
            found = test.extend(rows)
            if found is not None:
                self.store.note_event(ALARM_EVENT, "station", found.note, product_id)
            if len(rows) == ROWS_PER_QUERY:
                return False
            self._ready.add(product_id)
            self._report_alarm(product_id, test.alarm)
            return True

    def _read_rows(self, product_id: int, test: ScoreTest) -> list[JudgedScore]:
        column = inspections.c
        query = (
            select(column.id, column.at, column.score, column.anomalous)
            .where(on_line(product_id), column.id > test.last, column.version_id == test.version)
            .order_by(column.id)
            .limit(ROWS_PER_QUERY)
        )
        with self.store.database.reading() as connection:
            return [JudgedScore(*row) for row in connection.execute(query)]

    def _begin(self, product_id: int, version: int) -> ScoreTest:
        """Return the test of a version.

        It reads the newest inspections, at most `HISTORY`, from the last on that another version judged or
        that was acknowledged. An alarm noted since then stays.
        """
        column = inspections.c
        mine = on_line(product_id)
        most = min(HISTORY, HISTORY_OF_ALL // len(self.bounds))
        old = select(column.id).where(mine).order_by(column.id.desc()).offset(most).limit(1)
        with self.store.database.reading() as connection:
            oldest = connection.scalar(old) or 0
            last = select(func.max(column.id)).where(mine, column.id > oldest, column.version_id != version)
            other = connection.scalar(last) or 0
        acknowledged = self.store.events(ACKNOWLEDGED_EVENT, product_id)[:1]
        found = _ACKNOWLEDGED_PATTERN.search(acknowledged[0].text) if acknowledged else None
        after = max(other, int(found["inspection"]) if found else 0)
        test = ScoreTest(version, max(after, oldest), self.bounds[product_id])
        for row in self.store.events(ALARM_EVENT, product_id)[:1]:
            noted = read_note(row.text)
            test.alarm = noted if noted is not None and noted.inspection > after else None
        return test

    def _report_alarm(self, product_id: int, alarm: Change | None) -> None:
        text = None if alarm is None else f"{self.names[product_id]}: {alarm.describe()}"
        self.report(f"drift_{product_id}", text)

    # ---- for people

    def acknowledge(self, product_id: int, who: str) -> None:
        """Take a change as normal: the test begins anew. Without an alarm nothing is done.

        Raises:
            InputError: the product is not watched, or nothing was seen of it.
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
            self._tests[product_id] = ScoreTest(test.version, test.last, self.bounds[product_id])
            self._dirty.add(product_id)
            self._report_alarm(product_id, None)
        self.wake()

    def facts(self, product_id: int) -> dict[str, object]:
        """Return the drift of a product, as the API shows it."""
        with self._lock:
            test = self._tests.get(product_id)
            bound = self.bounds.get(product_id)
            is_ready = product_id in self._ready
            watched: dict[str, object] = {"watched": bound is not None, "bound": bound, "ready": is_ready}
            if test is None or bound is None:
                return watched
            return watched | test.facts()

    def gauges(self) -> dict[str, tuple[str, dict[str, float]]]:
        """Return Prometheus gauges: name -> help text and values by product name."""
        with self._lock:
            by_name = {self.names[number]: test for number, test in self._tests.items()}
            return {
                "drift": (
                    "Evidence that good parts changed: log of the martingale, 1 where it alarms.",
                    {name: test.value / test.limit for name, test in by_name.items()},
                ),
                "drift_alarm": (
                    "1 while the scores of good parts have drifted and nobody said that this is normal.",
                    {name: float(test.alarm is not None) for name, test in by_name.items()},
                ),
            }
