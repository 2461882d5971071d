"""Queries of people and programs: records of inspections, and how each product is at the moment."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from flawscope.errors import FlawscopeError
from flawscope_station.core.connections import ConnectionContext
from flawscope_station.core.health import Health
from flawscope_station.core.live import Gauges, ReviewLeases
from flawscope_station.inspecting.capacity import Turns
from flawscope_station.sinks import Sinks
from flawscope_station.sources.source import State
from flawscope_station.store.records import Store, iso
from flawscope_station.store.search import Filters, InspectionPage, search, trends


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
        """Return inspections to be reviewed, and lease them to a reader; "": to nobody."""
        if not reader:
            return self.store.waiting(product_id, limit, after)
        with self._leases.choosing():
            last = self._leases.leased_to_others(reader)
            page = self.store.waiting(product_id, limit, after, last)
            self._leases.lease(reader, (inspection["id"] for inspection in page["inspections"]))
        return page

    def note_verdict(self, product_id: int) -> None:
        """Tell those who wait for a verdict."""
        for tell in self.on_verdict:
            tell(product_id)


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
            "folder": self.addresses.configured[entry].folder,
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
            "rate": round(self.inspector.rate(number), 2),
            "views": self.inspector.judge.parts.views(number),
            "problem": problems[0].text if problems else None,
            "problems": [problem.kind for problem in open_problems],
            "problem_products": [names.get(problem.product or 0) for problem in open_problems],
            "stopped": None if (stop := self.health.state_of(name)) is None else stop.kind,
            "refused": self.floor.refusals.last(number),
            "started": iso(self.floor.refusals.since),
            "sources": [source.state.to_dict() for source in self.floor.sources[entry]],
            "timing": self.floor.timing.facts(entry),
        }

    def gauges(self) -> Gauges:
        names = list(self.addresses.names.items())
        free_bytes = self.inspector.files.free_bytes()
        gauges: Gauges = {
            "oldest_waiting_seconds": (
                "For which the oldest part that is not answered has waited.",
                {"": self.health.oldest_seconds()},
            ),
            "backlog": (
                "Parts not answered yet.",
                {name: float(self.inspector.backlog(number)) for number, name in names},
            ),
            "problems": ("Shown on the page.", {"": float(len(self.health.problems()))}),
            "disk_free_bytes": ("Where the station keeps its files.", {"": float(free_bytes)}),
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
        with suppress(FlawscopeError):
            products = list(self.addresses.products.items())
            waiting = {n: float(self.store.waiting_count(i)) for n, i in products}
            active = {n: float(self.versions.list_versions(i)["active"] or 0) for n, i in products}
            gauges["review_waiting"] = ("Pictures to be reviewed.", waiting)
            gauges["version"] = ("The model that judges.", active)
        return gauges
