"""Queries of people and programs: records of inspections, and how each product is at the moment."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from flawscope_station.core.connections import ConnectionContext
from flawscope_station.core.health import Health
from flawscope_station.core.live import Gauges, ReviewLeases
from flawscope_station.inspecting.capacity import Turns
from flawscope_station.monitoring.problems import Problem
from flawscope_station.sinks import Sinks
from flawscope_station.sources.source import State
from flawscope_station.store.line_alarms import hold_promise, promise_facts
from flawscope_station.store.records import Store, iso
from flawscope_station.store.search import Filters, InspectionPage, search, trends

PROMISE_INTERVAL = 600.0  # seconds between two counts of a product's false alarms


class Records:
    """Inspections, and verdicts on them.

    Attributes:
        turns: of what is drawn or counted for people.
        on_verdict: functions that get the number of a product when somebody gave a verdict.
    """

    def __init__(self, store: Store, turns: Turns):
        self.store, self.turns = store, turns
        self.on_verdict: list[Callable[[int], object]] = []
        self._leases = ReviewLeases()

    def search(self, product_id: int, filters: Filters) -> InspectionPage:
        with self.turns.take():
            return search(self.store.database, product_id, filters)

    def trends(self, product_id: int, since: int | None = None, until: int | None = None) -> dict[str, Any]:
        with self.turns.take():
            return trends(self.store.database, product_id, since, until)

    def waiting(self, product_id: int, limit: int = 20, after: int = 0, reader: str = "") -> dict[str, Any]:
        """Return inspections to be reviewed, and lease them to a reader; "": to nobody. Those that are leased
        to others are left out. Of the last ones a reader gets half, so that there is work for the next."""
        if not reader:
            return self.store.waiting(product_id, limit, after)
        with self._leases.choosing():
            others, own = self._leases.leased_to_others(reader), self._leases.leased_to(reader)
            page = self.store.waiting(product_id, 2 * limit, after, others)
            page["inspections"] = _fair_share(page["inspections"], own, limit)
            new = [one["id"] for one in page["inspections"] if one["id"] not in own]
            self._leases.lease(reader, new)
        return page

    def release(self, reader: str) -> None:
        """Give what is leased to a reader to others."""
        self._leases.release(reader)

    def note_verdict(self, product_id: int, number: int, reader: str = "") -> None:
        """Tell those who wait for a verdict, and end the lease of the inspection. reader: who gave it."""
        self._leases.end(number)
        if reader:
            self._leases.renew(reader)
        for tell in self.on_verdict:
            tell(product_id)


def _fair_share(waiting: list[dict[str, Any]], own: Collection[int], limit: int) -> list[dict[str, Any]]:
    """Return the inspections that a reader gets, in their order: those of `own`, and of the others at most
    half, rounded up. waiting: up to twice as many as the limit."""
    free = [one["id"] for one in waiting if one["id"] not in own]
    given = {*own, *free[: -(-len(free) // 2)]}
    return [one for one in waiting if one["id"] in given][:limit]


class Overview:
    """State of the products, as API and metrics show it.

    Attributes:
        menu: names of the pages of a product that features add; its text `NAME.title` names each.
    """

    def __init__(self, floor: ConnectionContext, sinks: Sinks, health: Health):
        self.floor, self.sinks, self.health = floor, sinks, health
        self.addresses, self.store, self.inspector = floor.addresses, floor.store, floor.inspector
        self.versions = floor.addresses.versions
        self.menu: list[str] = []
        self._promised: dict[str, tuple[float, str]] = {}  # by product: when it was held, and the state

    def facts(self, name: str) -> dict[str, Any]:
        """Return a product as the API shows it. NotFoundError."""
        number = self.addresses.product_id(name)
        listed = self.versions.list_versions(number)
        active: dict[str, Any] = next((one for one in listed["versions"] if one["active"]), {})
        entry = self.addresses.configured_name(name)
        return {
            "name": name,
            "version": listed["active"],
            **{key: active.get(key) for key in ("method", "file", "score_threshold", "false_alarm_rate")},
            **self.store.totals(number),
            **self.state(name),
            "folder": self.addresses.settings_of(name).folder,
            "found_at": None if entry == name else entry,
            "tolerances": self.inspector.judge.tolerances.in_force(number),
            "sinks": self.sinks.facts(name),
        }

    def state(self, name: str) -> dict[str, Any]:
        """Return backlog, rate, problems and sources of a product at the moment. NotFoundError."""
        number, entry = self.addresses.product_id(name), self.addresses.configured_name(name)
        problems = self.health.problems()
        names = self.addresses.names if len(self.addresses.products) > 1 else {}  # else it is known
        open_problems = [problem for problem in problems if problem.acknowledged_by is None]
        waiting = {number, self.addresses.entries.get(entry, number)}  # a picture's product is not known yet
        return {
            "backlog": sum(map(self.inspector.backlog, waiting)),
            "rate": round(self.inspector.intake.rate(number), 2),
            "views": self.inspector.judge.parts.views(number),
            "problem": problems[0].text if problems else None,
            "problems": [problem.kind for problem in open_problems],
            "problem_products": [names.get(problem.product or 0) for problem in open_problems],
            "stopped": None if (stop := self.health.state_of(name)) is None else stop.kind,
            "refused": self.floor.refusals.last(number),
            "started": iso(self.floor.refusals.since),
            "sources": [source.state.to_dict() for source in self.floor.sources[entry]],
            "timing": self.floor.timing.facts(entry),
            "promised": promise_facts(self.versions, number),
        }

    def gauges(self) -> Gauges:
        """Return metrics that are known without asking the store."""
        known, problems = self.addresses.names, self.health.problems()
        names = list(known.items())
        state = self.inspector.intake.machine.state
        gauges: Gauges = {
            "oldest_waiting_seconds": (
                "For which the oldest part that is not answered has waited.",
                {"": self.health.oldest_seconds()},
            ),
            "backlog": (
                "Parts not answered yet.",
                {name: float(self.inspector.backlog(number)) for number, name in names},
            ),
            "problems": ("Shown on the page.", {"": float(len(problems))}),
            "problem": ("Problems, by code and product.", {_place(one, known): 1.0 for one in problems}),
            "ready": ("1 where parts of all products are judged.", {"": float(self.health.is_ready())}),
            "clock_jump_seconds": (
                "The computer's clock, less what it should be; 0 where it can be right.",
                {"": self.health.housekeeping.clock.jump / 1e6},
            ),
            **self.floor.timing.gauges(),
        }
        states = {n: [one.state for one in several] for n, several in self.floor.sources.items() if several}
        counted: dict[str, tuple[str, Callable[[State], int]]] = {
            "frames_dropped": ("Frames that came while others were inspected.", lambda state: state.dropped),
            "frames_broken": ("Frames that could not be decoded or were refused.", lambda one: one.broken),
            "sources_away": (
                "Folders and cameras that cannot be reached, and cameras that repeat a frame.",
                lambda one: one.is_lost,
            ),
        }
        for name, (what, count) in counted.items() if states else ():
            gauges[name] = what, {n: float(sum(map(count, several))) for n, several in states.items()}
        if state.disk.free_bytes is not None:
            free = {"": float(state.disk.free_bytes)}
            gauges["disk_free_bytes"] = "Where the station keeps its files.", free
        if state.available_bytes is not None:
            available = {"": float(state.available_bytes)}
            gauges["memory_available_bytes"] = "Of the computer's memory.", available
        if state.disk.backup_at is not None:
            gauges["last_backup_timestamp_seconds"] = "Of the last backup.", {"": state.disk.backup_at}
        return gauges

    def store_gauges(self) -> Gauges:
        """Return metrics for which the store is asked. StoreError."""
        products = list(self.addresses.products.items())
        active = {name: self.versions.active_row(number) for name, number in products}
        hashes = {(name, ("hash", row.hash)): 1.0 for name, row in active.items() if row is not None}
        latest = {name: self.store.last_at(number) for name, number in products}
        return {
            "review_waiting": (
                "Pictures to be reviewed.",
                {name: float(self.store.waiting_count(number)) for name, number in products},
            ),
            "version": (
                "The model that judges.",
                {name: 0.0 if row is None else float(row.id) for name, row in active.items()},
            ),
            "model": ("SHA-256 of the file of the model that judges.", hashes),
            "last_inspection_timestamp_seconds": (
                "Of the last part recorded.",
                {name: at / 1e6 for name, at in latest.items() if at is not None},
            ),
            "store_bytes": ("Of the data base.", {"": float(self.store.database.size())}),
            "promise_kept": ("1 where the false-alarm rate is kept on the line.", self._promises()),
        }

    def _promises(self) -> dict[str, float]:
        """Return what is known of each product's promise. One at a time is held against the line anew, and
        none more than every ten minutes, for that reads thousands of records."""
        before = time.monotonic() - PROMISE_INTERVAL
        products = self.addresses.products.items()
        due = ((n, i) for n, i in list(products) if self._promised.get(n, (-math.inf, ""))[0] < before)
        if (first := next(due, None)) is not None:
            found = hold_promise(self.versions, first[1])
            self._promised[first[0]] = time.monotonic(), found["state"] if found else ""
        told, there = {"kept": 1.0, "broken": 0.0}, set(self.addresses.products)
        known = [(name, state) for name, (_, state) in list(self._promised.items()) if name in there]
        return {name: told[state] for name, state in known if state in told}


def _place(problem: Problem, names: Mapping[int, str]) -> tuple[str | tuple[str, str], ...]:
    """Return the labels of a problem."""
    return names.get(problem.product or 0, ""), ("code", problem.kind)
