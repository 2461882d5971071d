"""The core of a station: pictures are taken, judged, recorded, shown and delivered.

All other functions of a station are features, built on the core (`features`); the core knows only the
interface by which they add themselves (`extension`). Each part is complete when it is made, from parts that
were made earlier:

    store, models, addresses -> recorder, inspector -> renderer, sources, connections
    -> housekeeping, health -> sinks, metrics -> features

They start from sinks to sources, so that nothing is taken before it can be passed on, and end the other way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from flawscope import machine
from flawscope.pictures import decoding
from flawscope_station.access.audit import note_changed_settings
from flawscope_station.access.authenticator import Access
from flawscope_station.core.connections import ConnectionContext, Connections, Timing
from flawscope_station.core.event_broadcaster import EventBroadcaster
from flawscope_station.core.extension import Extension, HasThreads, Input, Menu, Observers, Service
from flawscope_station.core.health import Health
from flawscope_station.core.housekeeping import Housekeeping
from flawscope_station.core.metrics import Metrics
from flawscope_station.core.page_products import page_products
from flawscope_station.core.pauses import Pauses
from flawscope_station.core.queries import Overview, Records
from flawscope_station.core.refusals import Refusals
from flawscope_station.core.syslog import EventForwarder
from flawscope_station.inspecting.inspector import Inspector
from flawscope_station.inspecting.interlock import Interlocks
from flawscope_station.inspecting.judge import Judge
from flawscope_station.inspecting.recorder import Recorder
from flawscope_station.inspecting.renderings import InspectionRenderer
from flawscope_station.inspecting.ticket import RecordedInspection
from flawscope_station.inspecting.tolerances import ProductTolerances
from flawscope_station.monitoring.background import GuardedThread, unfailing
from flawscope_station.monitoring.machine import MachineWatch
from flawscope_station.monitoring.problems import Problems
from flawscope_station.settings.shifts import REPORT_DAYS
from flawscope_station.settings.station import Settings
from flawscope_station.sinks import Sinks
from flawscope_station.sources import Sources
from flawscope_station.store.addresses import STATION_USER, Addresses
from flawscope_station.store.database import Database
from flawscope_station.store.files import Files
from flawscope_station.store.model_registry import ModelRegistry
from flawscope_station.store.records import Store, describe_new
from flawscope_station.store.station_identity import check_owner, claim_identity

if TYPE_CHECKING:
    from fastapi import APIRouter


class Station:
    """Station without its pages and its API, which ask for its components.

    Args:
        settings: Settings of the station.
        say: Gets a line for the person who started the station.
        features: Functions that make the extensions of features for the core.

    Attributes:
        components: Components by class, for routes.
        routers: Routers of the features.
        menu: Links of the pages.

    Raises:
        InputError: The folder, the database or a model cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        say: Callable[[str], None] = lambda line: None,
        features: Sequence[Callable[[Station], Extension]] = (),
    ):
        self.say = say = unfailing(say)
        self._problems = Problems(say)
        self.report = self._problems.report
        self.components: dict[type, Any] = {}
        self.routers: list[APIRouter] = []
        self.menu = Menu()
        self._services: list[Service] = []
        self._inputs: list[Input] = []
        self._watched: list[tuple[HasThreads, bool]] = []
        self._request_enders: list[Callable[[], object]] = []
        self._ending = ExitStack()
        self._open_store(settings)  # sets `self.settings`
        self._make_components(self.settings)
        self._add_components(self.settings)
        for feature in features:
            self._add(feature(self))

    def _open_store(self, settings: Settings) -> None:
        """Open files, database, models and products; set `self.settings`, the pages' products included."""
        self.files = Files(settings.store)
        self.files.lock()
        self._ending.callback(self.files.unlock)
        self.database = Database(settings.url)
        self._ending.callback(self.database.close)
        check_owner(self.database, self.files)
        self.database.migrate()
        claim_identity(self.database, self.files, settings.name)
        self.access = Access(self.database, is_closed=settings.openid is not None)
        self.store = Store(self.database)
        note_changed_settings(self.database, settings, STATION_USER)
        # one core is left for requests, which would wait for computing threads
        judging_threads = settings.threads or max(1, machine.usable_cores() - 1)
        self.versions = ModelRegistry(
            self.database, self.files, settings.device, judging_threads, settings.engine
        )
        self.versions.remove_unfinished()
        self.with_model = [name for name, product in settings.products.items() if product.model is not None]
        page_settings = page_products(self.store, self.files, settings.products.keys())
        all_settings = replace(settings, products={**page_settings, **settings.products})
        self.addresses = Addresses(all_settings, self.store, self.versions, self.say)
        self.products = self.addresses.products
        self.settings = replace(settings, products=self.addresses.settings)

    def _make_components(self, settings: Settings) -> None:
        """Make the components above the store, each after the components that it calls."""
        decoding.raise_pixel_limit(settings.limits.pixels)
        self._make_housekeeping(settings)
        self._make_inspector(settings)
        self._make_sources(settings)
        self._make_sinks(settings)

    def _make_housekeeping(self, settings: Settings) -> None:
        """Make the watch of the machine, and the housekeeping, which removes old files and rows."""
        # The reports of the last days' shifts need the records of these days, and of one more: the first
        # shift may begin on the day before.
        record_seconds = 0 if settings.shifts is None else (REPORT_DAYS + 1) * 86400
        self.machine = MachineWatch(self.database, self.files, self.report)
        self.housekeeping = Housekeeping(
            self.store,
            self.files,
            settings.keep,
            self.access,
            self.report,
            record_seconds,
            self.machine.jumps,
        )
        self.machine.on_clock_jump.append(self.housekeeping.note_clock_jump)

    def _make_inspector(self, settings: Settings) -> None:
        """Make the components that judge and record parts, and those that may hold an answer back."""
        self.observers = Observers(self.report)
        self.pauses = Pauses(self.store, self.addresses.names)
        self.interlocks = Interlocks()
        self.interlocks.add(answers=[self.pauses], intake=[self.pauses])
        # the answer to a challenge part is an error, which `interlocks.recorded` raises
        self.recorder = Recorder(
            self.store, self.files, announce=self.observers, refuse=self.interlocks.recorded
        )
        self.tolerances = ProductTolerances(self.store, self.versions, self.report)
        for name, product in settings.products.items():
            self.tolerances.add_product(self.products[name], name, product)
        report_model = partial(self.report, "model_failed")
        self.judge = Judge(
            self.versions, self.recorder, self.interlocks, settings.near, self.tolerances, report_model
        )
        # two mappings of a name to its number: of the products, and of the entries
        product_numbers = self.addresses.products, self.addresses.entries
        self.inspector = Inspector(
            self.judge, self.store, self.files, self.machine, settings.limits, product_numbers
        )
        self.renderer = InspectionRenderer(self.store, self.inspector)

    def _make_sources(self, settings: Settings) -> None:
        """Make the sources of pictures, and the checks whether pictures can be inspected."""
        self.live = EventBroadcaster()
        self.records = Records(self.store, self.inspector.memory.turns)
        self.refusals = Refusals(self.addresses, self.live)
        self.sources = Sources(
            submit=self.inspector.submit,
            report=self.report,
            addresses=self.addresses,
            limits=settings.limits,
            refused=self.refusals.note,
            check=self.inspector.intake.check_standstill,
            parts=self.inspector.judge.parts,
        )
        self.health = Health(
            self._problems,
            self.store,
            self.addresses,
            self.inspector,
            self.housekeeping,
            self._threads,
            self.sources,
        )
        self.problems = self.health.problems
        self.context = ConnectionContext(
            self.addresses,
            self.inspector,
            self.store,
            self.sources,
            Timing(),
            self.report,
            self.health.listen,
            self.refusals,
        )
        self.connections = Connections(settings.connections, self.context)

    def _make_sinks(self, settings: Settings) -> None:
        """Make the sinks of results, and the metrics of the station."""
        self.sinks = Sinks(
            settings,
            self.files.identity(),
            self.products,
            self.store,
            self.renderer,
            self.report,
            self.problems,
        )
        self.overview = Overview(self.context, self.sinks, self.health, self.pauses)
        self.metrics = Metrics()
        self.refusals.on_refused.append(
            lambda product, code: self.metrics.refused.labels(product, code).inc()
        )

    def _add_components(self, settings: Settings) -> None:
        """Add the components, in the order in which they start; they end in reverse order."""
        self._add(self._store_extension())
        self._add(Extension(components=(self.machine,), services=(self.machine,)))
        if settings.syslog is not None:
            forwarder = EventForwarder(settings.syslog, settings.name, self.database, self.files, self.report)
            self._add(Extension(services=(forwarder,)))
        self._add(
            Extension(
                components=(self.housekeeping,),
                services=(self.housekeeping,),
                observers=(self.housekeeping.check_space,),
            )
        )
        self._add(self._inspecting_extension())
        self._add(self._sinks_extension())
        self._add(self._live_extension())
        self._add(self._sources_extension())

    def _store_extension(self) -> Extension:
        components = self.settings, self.files, self.database, self.access, self.store, self.versions
        return Extension(
            components=(*components, self.addresses, self.records, self.metrics, self.menu),
            observers=(self._count, self._publish),
            watched=(self.metrics,),
        )

    def _inspecting_extension(self) -> Extension:
        return Extension(
            components=(self.inspector, self.renderer),
            inspecting=(self.judge, self.recorder),
            watched=(self.inspector, self.observers),
            ends=(
                self.inspector.close_pools,
                self.observers.close,
                self.recorder.close,
                self.inspector.close,
            ),
            observers=(self.renderer.keep_map,),
            request_enders=(self.inspector.end_soon,),
        )

    def _sinks_extension(self) -> Extension:
        return Extension(
            services=(self.tolerances, self.sinks),
            observers=(self.sinks.observe,),
            on_verdict=(self.sinks.wake,),
            on_added=(self.sinks.add_product, self.tolerances.add_product),
            gauges=(self.sinks.gauges,),
            store_gauges=(self.sinks.store_gauges,),
        )

    def _live_extension(self) -> Extension:
        return Extension(
            components=(self.live, self.pauses),
            gauges=(self.overview.gauges, self.live.gauges, self.pauses.gauges),
            store_gauges=(self.overview.store_gauges,),
            request_enders=(self.live.close,),
        )

    def _sources_extension(self) -> Extension:
        return Extension(
            components=(self.sources, self.context, self.overview, self.health),
            services=(self.health.watch,),
            inputs=(self.sources, self.connections),
            inspecting=(self.sources, self.connections),
            watched=(self._problems,),
            ends=(self._problems.stop,),
        )

    def _add(self, extension: Extension) -> None:
        """Add an extension's components, services and callbacks to the station."""
        self.components |= {type(component): component for component in extension.components}
        self.routers += extension.routers
        self.menu += extension.menu
        self._services += extension.services
        self._inputs += extension.inputs
        # pairs of an object and whether inspections need its threads
        self._watched += [(owner, True) for owner in extension.inspecting]
        self._watched += [(owner, False) for owner in extension.watched]
        self._watched += [(service, False) for service in extension.services]
        self.observers += extension.observers
        self.interlocks.add(answers=extension.interlocks, intake=extension.gates)
        self.records.on_verdict += extension.on_verdict
        self.addresses.on_added += extension.on_added
        self.metrics.gauges += extension.gauges
        self.metrics.store_gauges += extension.store_gauges
        self._request_enders += extension.request_enders
        stops = [service.stop for service in extension.services]
        for end in (*extension.ends, *stops):
            self._ending.callback(end)

    def start(self) -> None:
        """Open the models, then take pictures.

        Raises:
            InputError: A model in the settings cannot be used.
        """
        self.addresses.open()
        for service in self._services:
            service.start()
        for source in self._inputs:
            self._ending.callback(source.stop)
            source.start()

    def end_requests(self) -> None:
        """End the waits of requests: of open pages for news, and of others for trials or for late parts."""
        for end in self._request_enders:
            end()

    def close(self) -> None:
        """Take nothing more, answer all pictures, end.

        An error of one component keeps no other from ending; the first error is raised at the end.
        """
        # the stack calls first what was added last: requests and services end before components are stopped
        for service in self._services:
            self._ending.callback(service.end)
        self._ending.callback(self.end_requests)
        self._ending.close()

    @property
    def has_ended(self) -> bool:
        """Whether all threads that the process would wait for have ended."""
        return self.inspector.has_ended

    def _threads(self) -> Iterator[tuple[GuardedThread, bool]]:
        """Yield all threads, each with a flag: whether no picture can be inspected without it."""
        for part, is_inspecting in self._watched:
            for thread in part.threads:
                yield thread, is_inspecting

    # ---- observers

    def _count(self, recorded: RecordedInspection) -> None:
        """Count an inspection in the metrics."""
        inspection = recorded.inspection
        name = self.addresses.names[inspection.product_id]
        self.metrics.inspections.labels(name, inspection.decision).inc()
        self.metrics.seconds.labels(name, inspection.source).observe(sum(recorded.seconds.values()))
        for stage, seconds in recorded.seconds.items():
            self.metrics.stages.labels(name, stage).observe(seconds)
        if inspection.unanswered is not None:
            self.metrics.unanswered.labels(name, inspection.unanswered).inc()

    def _publish(self, recorded: RecordedInspection) -> None:
        """Send an inspection to the open pages of its product."""
        product_id = recorded.inspection.product_id
        if self.live.listeners:
            name = self.addresses.names[product_id]
            self.live.publish(product_id, describe_new(recorded.number, recorded.inspection, name))
