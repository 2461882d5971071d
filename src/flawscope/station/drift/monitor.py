"""Drift of all products of a station, followed after each answer in a thread of its own."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from sqlalchemy import ColumnElement, func, select

from flawscope.errors import InputError, with_kind
from flawscope.station.background import Background
from flawscope.station.drift.sequential_tests import BRIGHTER, DARKER, FEWER, MORE, Change, Run, described
from flawscope.station.store.model_registry import Versions
from flawscope.station.store.open_models import NoModelError
from flawscope.station.store.records import Store, iso
from flawscope.station.store.schema import inspections

ALARM, NOTICE, ACKNOWLEDGED = "drift", "share of anomalous changed", "drift acknowledged"  # events
LIGHT = "light changed"  # event
TOGETHER = 2000  # inspections read at once
PAUSE = 1.0  # seconds between two rounds
IDLE = 5.0  # seconds after which the active versions are read again, even if nothing came
_LAST, _AT = re.compile(r"after inspection (\d+)"), re.compile(r"at inspection (\d+):")


class Drifts(Background):
    """Reads inspections in the order of their numbers and tests them for drift. Inspections from before a
    restart are read again, so that the results are the same, bit for bit.

    Args:
        bounds: bound of the false-alarm probability by product; None: nothing is tested, and the run only
            tells the camera checks where to begin. Other products are not followed.
        names: names by product.
        report: reports a problem, as `Station.report`.
        renewed: called with a product whose drift was acknowledged.
        lights: products whose brightness is tested.
    """

    def __init__(
        self,
        store: Store,
        versions: Versions,
        bounds: Mapping[int, float | None],
        names: Mapping[int, str],
        report: Callable[[str, str | None], None],
        renewed: Callable[[int], None] = lambda product_id: None,
        lights: Collection[int] = (),
    ):
        super().__init__("drift")
        self.store, self.versions = store, versions
        self.bounds, self.names, self.report, self.renewed = dict(bounds), names, report, renewed
        self.lights = set(lights)
        self.pause = PAUSE
        self._runs: dict[int, Run] = {}
        self._ready: set[int] = set()
        self._dirty: set[int] = set(bounds)
        self._lock = threading.RLock()  # of all runs
        self.wake()  # what was recorded before is read at once

    def follow_also(self, product_id: int, bound: float | None, light: bool) -> None:
        """Follow a further product, as the arguments of the class say."""
        self.lights.update([product_id] if light else ())
        self.bounds[product_id] = bound

    def note(self, product_id: int) -> None:
        """Mark a product that has a new inspection."""
        if product_id in self.bounds:
            self._dirty.add(product_id)
            self.wake()

    # ---- in the thread

    def _work(self) -> None:
        while not self._wait(IDLE):
            trouble = None
            for product_id in list(self.bounds):
                if self._ended.is_set():
                    return
                try:
                    self.follow(product_id)
                except Exception as error:  # such as a data base that is away: the rest is read later
                    trouble = with_kind(error)
                    self._dirty.add(product_id)
            self.report("drift_unknown", f"drift is not followed: {trouble}" if trouble else None)
            self._ended.wait(self.pause)

    def follow(self, product_id: int) -> None:
        """Read a product's new inspections and report drift."""
        try:
            version = self.versions.active(product_id)[0]
        except NoModelError:
            return
        run = self._runs.get(product_id)
        if run is not None and run.version == version and product_id not in self._dirty:
            return
        self._dirty.discard(product_id)
        if run is None or run.version != version:
            after = self._after(product_id, version)
            with self._lock:
                self._ready.discard(product_id)
                run = self._runs[product_id] = self._begun(product_id, version, after)
        while not self._ended.is_set():
            begun = time.monotonic()
            rows = [] if run.bound is None else self._rows(product_id, run)
            with self._lock:
                if self._runs[product_id] is not run:  # acknowledged meanwhile: its alarm is over
                    self._dirty.add(product_id)
                    return
                for row in rows:
                    run.add(*row)
                if len(rows) < TOGETHER:
                    self._tell(product_id, run)
                    self._ready.add(product_id)
                    self._show(product_id, run)
                    return
            self._ended.wait(time.monotonic() - begun)  # old inspections leave half of the time to others

    def _begun(self, product_id: int, version: int, after: int) -> Run:
        return Run(version, after, self.bounds[product_id], product_id in self.lights)

    def _rows(self, product_id: int, run: Run) -> list[Any]:
        column = inspections.c
        query = (
            select(column.id, column.at, column.score, column.anomalous, column.brightness)
            # expressions, so that no data base takes an index that is not in the order of numbers
            .where(column.id > run.last, column.product_id + 0 == product_id)
            .where(column.version_id + 0 == run.version)
            .order_by(column.id)
            .limit(TOGETHER)
        )
        with self.store.database.reading() as connection:
            return [tuple(row) for row in connection.execute(query).all()]

    def _after(self, product_id: int, version: int) -> int:
        """Return the last inspection by another version, or the last acknowledged one if that is later."""
        last = self._newest(product_id, inspections.c.version_id != version)
        said = self.store.events(ACKNOWLEDGED, product_id)[:1]
        found = _LAST.search(said[0].text) if said else None
        return max(last, int(found[1]) if found else 0)

    def _newest(self, product_id: int, *wanted: ColumnElement[bool]) -> int:
        """Return the highest number of a product's inspections; 0 where there is none."""
        query = select(func.max(inspections.c.id)).where(inspections.c.product_id == product_id, *wanted)
        with self.store.database.reading() as connection:
            return int(connection.execute(query).scalar_one() or 0)

    def _tell(self, product_id: int, run: Run) -> None:
        """Note changes as events, except those that were noted before a restart."""
        while run.told < len(run.found):
            change = run.found[run.told]
            kind = _kind(change)
            before = self.store.events(kind, product_id)[:1]
            last = [int(found[1]) for row in before if (found := _AT.match(row.text))]
            if not last or last[0] < change.inspection:
                text = f"at inspection {change.inspection}: {described(change)}"
                self.store.note_event(kind, "station", text, product_id)
            run.told += 1

    def _show(self, product_id: int, run: Run) -> None:
        found = {"drift": run.alarm, "light": run.light.alarm if run.light else None}
        for code, change in found.items():
            text = None if change is None else f"{self.names[product_id]}: {described(change)}"
            self.report(f"{code}_{product_id}", text)

    # ---- what a person says and sees

    def acknowledge(self, product_id: int, who: str) -> None:
        """Take the present state as normal: all tests and the camera checks begin anew.

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
            run = self._runs.get(product_id)
            if run is None:
                raise InputError(f"nothing of {name} was seen yet: there is nothing to acknowledge")
            last = self._newest(product_id) if run.bound is None else run.last
            self.store.note_event(ACKNOWLEDGED, who, f"after inspection {last}", product_id)
            self._runs[product_id] = self._begun(product_id, run.version, last)
            self._dirty.add(product_id)
            self._show(product_id, self._runs[product_id])
        self.renewed(product_id)
        self.wake()

    def run_of(self, product_id: int) -> Run | None:
        return self._runs.get(product_id)

    def facts(self, product_id: int) -> dict[str, Any]:
        """Return the drift of a product, as the API shows it."""
        with self._lock:
            run = self._runs.get(product_id)
            bound = self.bounds.get(product_id)
            light = {"watched": bound is not None and product_id in self.lights}
            ready = product_id in self._ready
            if run is None or bound is None:
                return {"watched": bound is not None, "bound": bound, "ready": ready, "light": light}
            good = run.scores.count
            return {
                "watched": True,
                "bound": bound,
                "ready": ready,
                "version": run.version,
                "since": None if run.begun is None else iso(run.begun),
                "pictures": run.seen,
                "good": good,
                "value": run.scores.value,
                "limit": run.limit,
                "flagged": 1 - good / run.seen if run.seen else None,
                "alarm": run.alarm.to_dict() if run.alarm else None,
                "notice": run.notice.to_dict() if run.notice else None,
                "light": light | run.light.facts() if run.light else light,
                "points": [[at, value] for at, value in run.curve],
            }

    def gauges(self) -> dict[str, tuple[str, dict[str, float]]]:
        """Return Prometheus gauges: name -> help text and values by product name."""
        with self._lock:
            runs = {self.names[number]: run for number, run in self._runs.items() if run.bound is not None}
            lights = {name: (run.light, run.limit) for name, run in runs.items() if run.light}
            normal = "and nobody said that this is normal."
            return {
                "drift": (
                    "Evidence that good parts changed: log of the martingale, 1 where it alarms.",
                    {name: run.scores.value / run.limit for name, run in runs.items()},
                ),
                "drift_alarm": (
                    f"1 while the scores of good parts have drifted {normal}",
                    {name: float(run.alarm is not None) for name, run in runs.items()},
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
                    {name: float(run.notice is not None) for name, run in runs.items()},
                ),
            }


def _kind(change: Change) -> str:
    """Return the kind of the event that records a change."""
    if change.how in (BRIGHTER, DARKER):
        return LIGHT
    return NOTICE if change.how in (MORE, FEWER) else ALARM
