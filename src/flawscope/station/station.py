"""A station: its store, its models, its sources, and its state."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import text

from flawscope.errors import FlawscopeError, InputError
from flawscope.machine import usable_cores
from flawscope.pictures.decoding import raise_pixel_limit
from flawscope.station.access.audit import note_changed_settings
from flawscope.station.access.users import Access
from flawscope.station.connections import Connections, Timing
from flawscope.station.drift.camera_monitor import CameraMonitor
from flawscope.station.drift.monitor import DriftMonitor
from flawscope.station.housekeeping import Housekeeping
from flawscope.station.inspecting.capacity import MemoryBudget
from flawscope.station.inspecting.parts import PartDeadlines
from flawscope.station.inspecting.renderings import InspectionRenderer
from flawscope.station.inspecting.worker import Inspector
from flawscope.station.inspecting.writer import RecordedInspection, Recorder
from flawscope.station.learning.learning import Learning
from flawscope.station.live import EventBroadcaster, Gauges, Metrics, ReviewLeases
from flawscope.station.page_settings import MADE_ON_PAGES, MQTT, PageProducts, PageSettings
from flawscope.station.problems import PROBLEM_ACKNOWLEDGED, Problem, Problems
from flawscope.station.settings.station import ProductSettings, Settings
from flawscope.station.setup.draft import READY
from flawscope.station.setup.drafts import Drafts
from flawscope.station.shifts.reports import ShiftReporter
from flawscope.station.sinks import BROKER_KEY, Sinks
from flawscope.station.sources import Sources, find_camera
from flawscope.station.sources.source import AWAY, Line, State, TriggeredSource
from flawscope.station.store.addresses import STATION_USER, Addresses
from flawscope.station.store.database import Database, StoreError
from flawscope.station.store.files import Files
from flawscope.station.store.model_registry import ModelRegistry
from flawscope.station.store.records import Store, describe_new
from flawscope.station.store.search import Filters, InspectionPage, search, trends
from flawscope.station.store.station_identity import CLOCK_CONFIRMED, claim_identity, public_address

LATE_SECONDS = 600.0  # seconds for which a late picture is reported as a problem
CHECK_INTERVAL = 2.0  # least seconds between two checks of the data base


class Station:
    """Station without its pages and its API, which call it.

    Args:
        say: gets a line for the person who started the station.

    Raises:
        InputError: the folder, the data base or a model cannot be used.
    """

    def __init__(self, settings: Settings, say: Callable[[str], None] = lambda line: None):
        self.settings, self.say = settings, say
        self._problems = Problems(say)
        self.report = self._problems.report
        self._last_check = 0.0
        self._open_store()
        self._wire()

    def _open_store(self) -> None:
        settings = self.settings
        self.files = Files(settings.store)
        self.files.lock()
        self.files.sweep()
        self.database = Database(settings.url, settings.name)
        self.database.migrate()
        claim_identity(self.database, self.files, public_address(settings))
        note_changed_settings(self.database, settings, STATION_USER)
        self.access = Access(self.database, is_closed=settings.openid is not None)
        self.store = Store(self.database)
        self.page_settings = PageSettings(self.store, self.files, settings, self.say)
        self.page_settings.use = self.apply_settings
        settings = self.page_settings.settings()
        # of judging; one core is left for requests, for which computing threads would wait
        threads = settings.threads or max(1, usable_cores() - 1)
        self.versions = ModelRegistry(self.database, self.files, settings.device, threads, settings.engine)
        self.page_products = PageProducts(self.store, self.files, settings.products.keys(), self.say)
        with_made = replace(settings, products={**self.page_products.products(), **settings.products})
        self.addresses = Addresses(with_made, self.store, self.versions, self.say)
        self.products, self._names = self.addresses.products, self.addresses.names
        self.settings = replace(settings, products=self.addresses.settings)

    def _wire(self) -> None:
        """Make the parts above the store, each with those that it calls."""
        settings, limits = self.settings, self.settings.limits
        given = {self.products[name]: product for name, product in settings.products.items()}
        raise_pixel_limit(limits.pixels)
        memory = MemoryBudget(limits.decoding_bytes)
        self.recorder = Recorder(self.store, self._on_recorded)
        names, trouble = self._names, partial(self.report, "model_failed")
        self.inspector = Inspector(
            self.versions, self.recorder, self.files, limits, settings.near, names.keys(), memory, trouble
        )
        seconds = {number: one.part_seconds for number, one in given.items()}
        self.part_deadlines = PartDeadlines(self.database, self.inspector.parts, seconds, self._on_decision)
        # showing and telling
        self.renderer = InspectionRenderer(self.store, self.inspector)
        self.live, self.timing = EventBroadcaster(), Timing()
        self._leases = ReviewLeases()
        by_pages = {*self.page_products.all(), *(() if MQTT in self.page_settings.by_file else (BROKER_KEY,))}
        wired = self.products, self.store, self.renderer, self.report
        self.sinks = Sinks(settings, self.files.identity(), *wired, self.problems, by_pages)
        self.shifts = None if settings.shifts is None else ShiftReporter(settings.shifts, *wired)
        self.metrics = Metrics(self._gauges, self.sinks.gauges)
        # watching for drift
        bounds = {n: one.drift_bound for n, one in given.items() if one.drift or one.camera_checks}
        lights = [number for number, one in given.items() if one.light]
        self.drift_monitor = DriftMonitor(
            self.store, self.versions, bounds, names, self.report, lights=lights
        )
        watched, run_of = [n for n, one in given.items() if one.camera_checks], self.drift_monitor.tests_of
        self.camera_monitor = CameraMonitor(
            self.files, watched, names, run_of, self.report, memory, self._white_level
        )
        self.drift_monitor.on_acknowledged = self.camera_monitor.reset
        # learning and housekeeping
        learns = {name: product.learn for name, product in settings.products.items()}
        self.learning = Learning(self.versions, self.products, learns, self.report, self.say)
        self.sources = Sources(self.inspector.submit, self.report, self.store, limits)
        self.sources.update({name: [] for name in self.addresses.configured})
        self.housekeeping = Housekeeping(self.store, self.files, settings.keep, self.access, self.report)
        line = Line(0, self.inspector.submit, lambda code, why: None, self.store, self.sources.share)
        self.drafts = Drafts(
            self.files, limits, memory, settings.device, lambda: bool(self.products), self.say, line
        )
        self.page_products.addresses, self.page_products.drafts = self.addresses, self.drafts
        self.page_products.sources, self.page_products.sinks = self.sources, self.sinks
        self.connections: Connections | None = None  # made by `start`, with the cameras

    def start(self) -> None:
        """Open the models, then take pictures. InputError where a model in the settings cannot be used."""
        self.addresses.open()
        self.drift_monitor.start()
        self.camera_monitor.start()
        self.sinks.start()
        self.part_deadlines.start()
        numbers = {**self.products, **self.addresses.entries}
        self.sources.open(self.addresses.configured, numbers, self.page_products.all())
        self.connections = Connections(self.settings.connections, self)
        self.connections.start()
        self.learning.start()
        self.drafts.start()
        if self.shifts is not None:
            self.shifts.start()
        self.housekeeping.start()

    def close(self) -> None:
        """Take nothing more, answer all pictures, end."""
        self.housekeeping.end()
        self.live.close()
        if self.connections is not None:
            self.connections.stop()
        self.sources.stop()
        self.learning.stop(None)
        self.drafts.stop(None)
        if self.shifts is not None:
            self.shifts.stop()
        self.inspector.close()
        self.recorder.close()
        self.part_deadlines.stop(None)
        self.camera_monitor.stop(None)
        self.drift_monitor.stop(None)
        self.sinks.stop()
        self.renderer.close()
        self.housekeeping.stop()
        self.database.close()
        self.files.unlock()

    def apply_settings(self, found: Settings) -> None:
        """Use other limits, times of keeping and broker. InputError: the broker's files cannot be read."""
        limits, keep, mqtt = found.limits, found.keep, found.mqtt
        settings = replace(self.settings, limits=limits, keep=keep, mqtt=mqtt)
        if mqtt != self.settings.mqtt:
            self.sinks.replace_broker(settings)
        if keep != self.settings.keep:
            self.housekeeping.set_retention(keep)
        raise_pixel_limit(limits.pixels)
        self.inspector.memory.limit = limits.decoding_bytes
        self.inspector.limits = self.sources.share.limits = limits
        self.drafts.set_limits(limits)
        self.settings = settings

    # ---- products

    def product_id(self, name: str) -> int:
        """Return the number of a product. NotFoundError names the products that there are."""
        return self.addresses.product_id(name)

    def add_version(self, name: str, model: Path, origin: str, who: str) -> dict[str, Any]:
        """Keep a model file as a version, and return it, as the API shows it. New products of a joint model
        are the station's from then on."""
        before = set(self._names)
        number = self.addresses.add_version(name, model, origin, who)
        self._watch_new_products(before)
        return self.versions.version(self.product_id(name), number)

    def go_live(self, name: str, who: str) -> dict[str, Any]:
        """Let the model of a new product inspect from now on, as a product of the station, and return
        the product. InputError where nothing was learnt, or the model cannot be opened."""
        draft = self.drafts.draft(name)
        if draft.stage != READY:
            raise InputError(f"{name} has no model yet: let it learn first")
        before, camera = set(self._names), self.drafts.captures.take_live_camera(draft)
        self.sources.setdefault(name, [])
        version = self.addresses.add_product(name, ProductSettings(str(draft.model)), MADE_ON_PAGES, who)
        self._watch_new_products(before)
        if camera is not None:
            self.page_products.add(name, "sources", camera, who)
        draft.change(live={"version": version, "by": who, "learnt": draft.state["asked_at"]}, source=None)
        self.drafts.captures.close(draft)  # somebody may have looked through it meanwhile
        return self.product_facts(name)

    def _watch_new_products(self, before: set[int]) -> None:
        """Watch the products that are not among `before`, and deliver their inspections."""
        for product_id in self._names.keys() - before:
            new = self._names[product_id]
            product = self.settings.products[new]
            self.part_deadlines.add_product(product_id, product.part_seconds)
            if product.drift is not None or product.camera_checks:
                self.drift_monitor.add_product(product_id, product.drift_bound, product.light)
            if product.camera_checks:
                self.camera_monitor.names[product_id] = new
            self.sinks.add(new)

    def due(self, name: str, deadline: int | None = None) -> float:
        """Return when a request must be answered, as `time.monotonic` counts; deadline: milliseconds."""
        product = self.addresses.configured[self.addresses.configured_name(name)]
        seconds = product.deadline_seconds if deadline is None else deadline / 1000
        return math.inf if seconds is None else time.monotonic() + seconds

    def product_facts(self, name: str) -> dict[str, Any]:
        """Return a product as the API shows it."""
        number = self.product_id(name)
        listed = self.versions.list_versions(number)
        active: dict[str, Any] = next((one for one in listed["versions"] if one["active"]), {})
        entry = self.addresses.configured_name(name)
        return {
            "name": name,
            "version": listed["active"],
            **{key: active.get(key) for key in ("method", "file", "score_threshold", "false_alarm_rate")},
            **self.store.totals(number),
            **self.current_state(name),
            "folder": self.addresses.configured[entry].folder,
            "found_at": None if entry == name else entry,
            "sinks": self.sinks.facts(name),
        }

    def current_state(self, name: str) -> dict[str, Any]:
        """Return backlog, rate, problems and sources of a product at the moment."""
        number, entry, problems = self.product_id(name), self.addresses.configured_name(name), self.problems()
        waiting = {number, self.addresses.entries.get(entry, number)}  # a picture's product is not known yet
        return {
            "backlog": sum(map(self.inspector.backlog, waiting)),
            "rate": round(self.inspector.rate(number), 2),
            "views": self.inspector.parts.views(number),
            "problem": problems[0].text if problems else None,
            "problems": [one.kind for one in problems if one.acknowledged_by is None],
            "sources": [source.state.to_dict() for source in self.sources[entry]],
            "timing": self.timing.facts(entry),
        }

    def camera(self, name: str, number: int | None = None) -> TriggeredSource:
        """Return a camera that can be triggered, by its number among the product's; None: the only one."""
        self.addresses.address_id(name)
        return find_camera(name, self.sources[self.addresses.configured_name(name)], number)

    # ---- queries of pages and API

    def search(self, name: str, filters: Filters) -> InspectionPage:
        return search(self.database, self.product_id(name), filters)

    def inspection(self, name: str, number: int) -> dict[str, Any]:
        return self.store.inspection(self.product_id(name), number)

    def waiting(self, name: str, limit: int = 20, after: int = 0, reader: str = "") -> dict[str, Any]:
        last = self._leases.leased_to_others(reader) if reader else ()
        found = self.store.waiting(self.product_id(name), limit, after, last)
        if reader:
            self._leases.lease(reader, (one["id"] for one in found["inspections"]))
        return found

    def note_verdict(self, product_id: int) -> None:
        """Wake learning and sinks after a verdict."""
        self.learning.wake()
        self.sinks.wake(product_id)

    def trends(self, name: str, since: int | None = None, until: int | None = None) -> dict[str, Any]:
        return trends(self.database, self.product_id(name), since, until)

    def drift(self, name: str) -> dict[str, Any]:
        """Return the drift of good parts and the faults of the camera, as the API shows them."""
        number = self.product_id(name)
        return {**self.drift_monitor.facts(number), "camera": self.camera_monitor.facts(number)}

    def _white_level(self, product_id: int) -> float | None:
        return self.versions.active(product_id)[1].manifest.preprocess.white_level

    # ---- events and state

    def _on_recorded(self, recorded: RecordedInspection) -> None:
        taken = recorded.inspection
        name = self._names[taken.product_id]
        self.metrics.inspections.labels(name, "anomalous" if taken.anomalous else "good").inc()
        self.housekeeping.count_bytes(recorded)
        self.renderer.keep_map(recorded)
        self.sinks.wake(taken.product_id)
        if taken.parts is not None:
            self.part_deadlines.wake()
        if self.live.listeners:
            alone = taken.parts is None  # else the store knows whether the part is decided on
            item = (
                describe_new(recorded.number, taken, name)
                if alone
                else self.inspection(name, recorded.number)
            )
            self.live.publish(taken.product_id, item)
        self.drift_monitor.mark_new(taken.product_id)
        self.camera_monitor.enqueue(recorded)

    def _on_decision(self, product_id: int, part: dict[str, Any]) -> None:
        self.metrics.parts.labels(self._names[product_id], part["decision"]).inc()
        self.sinks.wake(product_id)
        self.live.publish(product_id, part, "part")

    def confirm_clock(self, who: str) -> None:
        """Note that a person took the computer's clock as right. StoreError."""
        self.store.note_event(CLOCK_CONFIRMED, who, self.housekeeping.clock.problem)
        self.housekeeping.clock.confirm()
        self.report("clock", None)

    def acknowledge(self, code: str, who: str) -> Problem:
        """Acknowledge a problem: the bar on the pages does not show it until it is over. NotFoundError."""
        found = self._problems.acknowledge(code, who)
        with suppress(FlawscopeError):  # so that a data base that is away can be acknowledged
            product = found.product if found.product in self._names else None
            self.store.note_event(PROBLEM_ACKNOWLEDGED, who, code, product)
        return found

    def problems(self) -> list[Problem]:
        """Check the station, and return its problems, the oldest first."""
        if time.monotonic() - self._last_check > CHECK_INTERVAL:
            self._last_check = time.monotonic()
            self._check()
        try:
            self.inspector.check_disk()  # now, as for pictures
            self.report("disk_full", None)
        except StoreError as error:
            self.report("disk_full", str(error))
        return self._problems.all()

    def _check(self) -> None:
        try:
            with self.database.reading() as connection:
                connection.execute(text("SELECT 1"))
            self.report("store_unreachable", None)
        except FlawscopeError as error:
            self.report("store_unreachable", str(error))
        if self.database.full:  # the next write tells whether it still is
            self.housekeeping.wake()
        numbers = {name: self.addresses.address_id(name) for name in list(self.addresses.configured)}
        closed = [name for name, number in numbers.items() if not self.versions.models.is_open(number)]
        late = self.inspector.late_products(LATE_SECONDS)
        for number, name in list(self._names.items()):
            why = f"pictures of {name} are not judged in time: send fewer at once, or allow more time"
            self.report(f"late_{number}", why if number in late else None)
        self.report("no_model", f"no model is open for {', '.join(closed)}" if closed else None)

    def _gauges(self) -> Gauges:
        backlog = {name: float(self.inspector.backlog(i)) for i, name in list(self._names.items())}
        gauges: Gauges = {
            "backlog": ("Pictures not answered yet.", backlog),
            "problems": ("Shown on the page.", {"": float(len(self.problems()))}),
            "disk_free_bytes": ("Where the station keeps its files.", {"": float(self.files.free_bytes())}),
            "listeners": ("Pages that are open.", {"": float(self.live.listeners)}),
            "clock_jump_seconds": (
                "The computer's clock, less what it should be; 0 where it can be right.",
                {"": self.housekeeping.clock.jump / 1e6},
            ),
            **self.drift_monitor.gauges(),
            **self.timing.gauges(),
        }
        states = {n: [one.state for one in several] for n, several in self.sources.items() if several}
        counted: dict[str, tuple[str, Callable[[State], int]]] = {
            "frames_dropped": ("Frames that came while others were inspected.", lambda state: state.dropped),
            "frames_broken": ("Frames that could not be decoded or were refused.", lambda one: one.broken),
            "sources_away": ("Folders and cameras that cannot be reached.", lambda one: one.state == AWAY),
        }
        for name, (what, count) in counted.items() if states else ():
            gauges[name] = what, {n: float(sum(map(count, several))) for n, several in states.items()}
        with suppress(FlawscopeError):
            products = list(self.products.items())
            waiting = {n: float(self.store.waiting_count(i)) for n, i in products}
            active = {n: float(self.versions.list_versions(i)["active"] or 0) for n, i in products}
            gauges["review_waiting"] = ("Pictures to be reviewed.", waiting)
            gauges["version"] = ("The model that judges.", active)
        return gauges
