"""Queries of people and programs: records of inspections, and how each product is at the moment."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import tzinfo
from typing import TypedDict

from flawscope_station.core.connections import ConnectionContext
from flawscope_station.core.health import Health
from flawscope_station.core.metrics import Gauges, LabelledKey
from flawscope_station.core.pauses import Pauses
from flawscope_station.core.review_leases import ReviewLeases
from flawscope_station.inspecting.memory import Turns
from flawscope_station.monitoring.problems import Problem
from flawscope_station.settings.shown import hash_settings, mask_settings, with_products
from flawscope_station.sinks import Sinks
from flawscope_station.store.inspection import InspectionFacts
from flawscope_station.store.line_alarms import active_promise_facts, compare_false_alarm_rates
from flawscope_station.store.product_facts import Product, ProductState
from flawscope_station.store.records import Store, WaitingInspections, iso
from flawscope_station.store.search import Filters, InspectionPage, Trends, search, trends

PROMISE_INTERVAL = 600.0  # seconds between two counts of a product's false alarms


class Records:
    """Inspections, and verdicts on them.

    Attributes:
        turns: Turns of drawing and counting for people.
        on_verdict: Functions that get the number of a product when somebody gave a verdict.
    """

    def __init__(self, store: Store, turns: Turns):
        self.store = store
        self.turns = turns
        self.on_verdict: list[Callable[[int], object]] = []
        self._leases = ReviewLeases()

    def search(self, product_id: int, filters: Filters) -> InspectionPage:
        """Wait for a turn, and return a page of a product's inspections that match the filters."""
        with self.turns.take():
            return search(self.store.database, product_id, filters)

    def trends(self, product_id: int, zone: tzinfo | None, since: int | None, until: int | None) -> Trends:
        """Wait for a turn, and return scores and counts of a product between two times.

        Args:
            product_id: Number of the product.
            zone: Time zone whose days are counted; None: this machine's.
            since: Begin, microseconds since 1970; None: from the first inspection.
            until: End, microseconds since 1970; None: until now.
        """
        with self.turns.take():
            return trends(self.store.database, product_id, since, until, zone)

    def waiting(
        self, product_id: int, limit: int = 20, after: int = 0, reader: str = ""
    ) -> WaitingInspections:
        """Return inspections to be reviewed, and lease them to a reader.

        Inspections that are leased to other readers are left out. If few remain, the reader gets half of
        them, so that the next reader has work, too.

        Args:
            product_id: Number of the product.
            limit: Largest number of inspections.
            after: Number of the inspection after which the list begins.
            reader: Page that shows them; "": none, and nothing is leased.
        """
        if not reader:
            return self.store.waiting(product_id, limit, after)
        with self._leases.choosing():
            ids_of_others = self._leases.leased_to_others(reader)
            own_ids = self._leases.leased_to(reader)
            # twice the limit, since `_fair_share` leaves half of them to the next reader
            page = self.store.waiting(product_id, 2 * limit, after, ids_of_others)
            page["inspections"] = _fair_share(page["inspections"], own_ids, limit)
            new_ids = [
                inspection["id"] for inspection in page["inspections"] if inspection["id"] not in own_ids
            ]
            self._leases.lease(reader, new_ids)
        return page

    def release(self, reader: str) -> None:
        """End all leases of a reader, so that others get the pictures."""
        self._leases.release(reader)

    def note_verdict(self, product_id: int, number: int, reader: str = "") -> None:
        """Call `on_verdict`, end the lease of the inspection, and renew the reader's other leases.

        Args:
            product_id: Number of the product.
            number: Number of the inspection.
            reader: Page on which the verdict was given; "": none.
        """
        self._leases.end(number)
        if reader:
            self._leases.renew(reader)
        for on_verdict in self.on_verdict:
            on_verdict(product_id)


def _fair_share(
    inspections: Sequence[InspectionFacts], leased: Collection[int], limit: int
) -> list[InspectionFacts]:
    """Return the inspections that a reader gets, in their order.

    These are the inspections that are leased to the reader, and the first half of the others, rounded up.

    Args:
        inspections: Up to twice as many inspections as the limit.
        leased: Numbers of those that are leased to the reader.
        limit: Number of inspections at most.
    """
    free_ids = [inspection["id"] for inspection in inspections if inspection["id"] not in leased]
    half = math.ceil(len(free_ids) / 2)
    chosen_ids = {*leased, *free_ids[:half]}
    return [inspection for inspection in inspections if inspection["id"] in chosen_ids][:limit]


class SettingsInForce(TypedDict):
    """Settings in force with masked secrets, and the hash of the settings with their secrets."""

    hash: str
    settings: object


class Overview:
    """State of the products, as API and metrics show it."""

    def __init__(self, context: ConnectionContext, sinks: Sinks, health: Health, pauses: Pauses):
        self.context = context
        self.sinks = sinks
        self.health = health
        self.pauses = pauses
        self.addresses = context.addresses
        self.store = context.store
        self.inspector = context.inspector
        self.versions = context.addresses.versions
        # by product: time of the last comparison as `time.monotonic` counts, and its state
        self._rate_comparisons: dict[str, tuple[float, str]] = {}

    def facts(self, name: str) -> Product:
        """Return a product as the API shows it.

        Raises:
            NotFoundError: There is no such product.
        """
        product_id = self.addresses.product_id(name)
        version_list = self.versions.list_versions(product_id)
        active = next((version for version in version_list["versions"] if version["active"]), None)
        configured_name = self.addresses.configured_name(name)
        totals = self.store.totals(product_id)
        facts = {
            **self._state(name),
            "name": name,
            "version": version_list["active"],
            "method": None if active is None else active.get("method"),
            "file": None if active is None else active["file"],
            "score_threshold": None if active is None else active.get("score_threshold"),
            "false_alarm_rate": None if active is None else active.get("false_alarm_rate"),
            "inspections": totals["inspections"],
            "waiting": totals["waiting"],
            "folder": self.addresses.settings_of(name).folder,
            "found_at": None if configured_name == name else configured_name,
            "tolerances": self.inspector.judge.tolerances.in_force(product_id),
            "sinks": self.sinks.facts(name),
        }
        return Product.model_validate(facts)

    def settings(self) -> SettingsInForce:
        """Return the settings in force with masked secrets, and their hash, as the API shows them."""
        values = self._settings()
        return {"hash": hash_settings(values), "settings": mask_settings(values)}

    def settings_hash(self) -> str:
        """Return the hash of the settings in force."""
        return hash_settings(self._settings())

    def _settings(self) -> dict[str, object]:
        """Return the settings in force, with the products that were added since the start."""
        return with_products(self.sinks.settings, self.addresses.configured)

    def state(self, name: str) -> ProductState:
        """Return backlog, rate, problems and sources of a product at the moment.

        Raises:
            NotFoundError: There is no such product.
        """
        return ProductState.model_validate(self._state(name))

    def _state(self, name: str) -> dict[str, object]:
        """Return the values of `ProductState`.

        Raises:
            NotFoundError: There is no such product.
        """
        product_id = self.addresses.product_id(name)
        configured_name = self.addresses.configured_name(name)
        problems = self.health.problems()
        open_problems = [problem for problem in problems if problem.acknowledged_by is None]
        problem_kinds = [problem.kind for problem in open_problems]
        problem_products = [self._problem_product(problem) for problem in open_problems]
        standstill = self.health.state_of(name)
        pause = self.pauses.of(product_id)
        paused = None if pause is None else pause.to_dict()
        sources = [source.state.to_dict() for source in self.context.sources[configured_name]]
        # parts that came by the entry count, too: their product is not known yet
        waiting_ids = {product_id, self.addresses.entries.get(configured_name, product_id)}
        backlog = sum(self.inspector.backlog(waiting_id) for waiting_id in waiting_ids)
        return {
            "backlog": backlog,
            "rate": round(self.inspector.intake.rate(product_id), 2),
            "views": self.inspector.judge.parts.views(product_id),
            "problem": problems[0].text if problems else None,
            "problems": problem_kinds,
            "problem_products": problem_products,
            "stopped": None if standstill is None else standstill.kind,
            "paused": paused,
            "refused": self.context.refusals.last(product_id),
            "started": iso(self.context.refusals.since),
            "sources": sources,
            "timing": self.context.timing.facts(configured_name),
            "promised": active_promise_facts(self.versions, product_id),
        }

    def _problem_product(self, problem: Problem) -> str | None:
        """Return the product of a problem; None: it is the station's, or there is a single product."""
        if len(self.addresses.products) < 2:
            return None
        return self.addresses.names.get(problem.product or 0)

    def gauges(self) -> Gauges:
        """Return metrics that are known without asking the store; the key "" is for the whole station."""
        name_by_id = self.addresses.names
        problems = self.health.problems()
        backlog = {
            name: float(self.inspector.backlog(product_id)) for product_id, name in list(name_by_id.items())
        }
        return {
            "oldest_waiting_seconds": (
                "For which the oldest part that is not answered has waited.",
                {"": self.health.oldest_seconds()},
            ),
            "backlog": ("Parts not answered yet.", backlog),
            "problems": ("Shown on the page.", {"": float(len(problems))}),
            "problem": (
                "Problems, by code and product.",
                {_problem_labels(problem, name_by_id): 1.0 for problem in problems},
            ),
            "settings": (
                "Hash of the settings that hold.",
                {(("hash", self.settings_hash()),): 1.0},  # the key has a single pair of label and value
            ),
            "ready": ("1 where parts of all products are judged.", {"": float(self.health.is_ready())}),
            "clock_jump_seconds": (
                "The computer's clock, less what it should be; 0 where it can be right.",
                {"": self.health.housekeeping.clock.jump / 1e6},
            ),
            **self.context.timing.gauges(),
            **self._source_gauges(),
            **self._machine_gauges(),
        }

    def _source_gauges(self) -> Gauges:
        """Return counts of the sources by product; {} where no product has a source."""
        # by name of the product
        dropped_counts = dict[str, float]()
        broken_counts = dict[str, float]()
        away_counts = dict[str, float]()
        for name, sources in self.context.sources.items():
            if not sources:
                continue
            states = [source.state for source in sources]
            dropped_counts[name] = float(sum(state.dropped for state in states))
            broken_counts[name] = float(sum(state.broken for state in states))
            away_counts[name] = float(sum(state.is_lost for state in states))
        if not dropped_counts:  # no product has a source
            return {}
        return {
            "frames_dropped": ("Frames that came while others were inspected.", dropped_counts),
            "frames_broken": ("Frames that could not be decoded or were refused.", broken_counts),
            "sources_away": (
                "Folders and cameras that cannot be reached, and cameras that repeat a frame.",
                away_counts,
            ),
        }

    def _machine_gauges(self) -> Gauges:
        """Return metrics of disk, memory and backup, by the key "" (the station), without unknown values."""
        gauges: Gauges = {}
        state = self.inspector.intake.machine.state
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
        """Return the metrics that are read from the store.

        Raises:
            StoreError: The store cannot be used.
        """
        # by name of the product
        waiting_counts = dict[str, float]()
        version_numbers = dict[str, float]()
        last_times = dict[str, float]()
        # by name of the product and the pair of label and hash; the value is always 1
        hashes = dict[LabelledKey, float]()
        for name, product_id in list(self.addresses.products.items()):
            waiting_counts[name] = float(self.store.waiting_count(product_id))
            row = self.versions.active_row(product_id)
            version_numbers[name] = 0.0 if row is None else float(row.id)
            if row is not None:
                hashes[name, ("hash", row.hash)] = 1.0
            last_at = self.store.last_at(product_id)
            if last_at is not None:
                last_times[name] = last_at / 1e6
        return {
            "review_waiting": ("Pictures to be reviewed.", waiting_counts),
            "version": ("The model that judges.", version_numbers),
            "model": ("SHA-256 of the file of the model that judges.", hashes),
            "last_inspection_timestamp_seconds": ("Of the last part recorded.", last_times),
            "store_bytes": ("Of the database.", {"": float(self.store.database.size())}),  # "": the station
            "promise_kept": ("1 where the false-alarm rate is kept on the line.", self._promises()),
        }

    def _promises(self) -> dict[str, float]:
        """Return for each product 1 if its false-alarm rate is kept on the line, 0 if it is not.

        A comparison reads thousands of records. For that reason a call compares the rate of one product at
        most, and a product's rate is compared once in `PROMISE_INTERVAL` at most.
        """
        due_before = time.monotonic() - PROMISE_INTERVAL
        for name, product_id in list(self.addresses.products.items()):
            compared_at, _ = self._rate_comparisons.get(name, (-math.inf, ""))
            if compared_at < due_before:
                comparison = compare_false_alarm_rates(self.versions, product_id)
                state = comparison["state"] if comparison else ""
                self._rate_comparisons[name] = time.monotonic(), state
                break  # the other products have their turns at the next calls
        gauge_by_state = {"kept": 1.0, "broken": 0.0}
        gauges = {}
        for name, (_, state) in list(self._rate_comparisons.items()):
            if name in self.addresses.products and state in gauge_by_state:
                gauges[name] = gauge_by_state[state]
        return gauges


def _problem_labels(problem: Problem, names: Mapping[int, str]) -> LabelledKey:
    """Return the labels of a problem: its product's name ("": the station's problem) and its kind."""
    return names.get(problem.product or 0, ""), ("code", problem.kind)
