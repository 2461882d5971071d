"""Connections of a station: plugins that request inspections and are answered, such as a PLC.

A source gives pictures of one product, and a sink receives inspections sooner or later. A connection requests
inspections of any product, and each must be answered in time.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypedDict

import numpy as np

from flawscope.errors import InputError
from flawscope_station.core.refusals import Refusals
from flawscope_station.inspecting.inspector import Inspector
from flawscope_station.monitoring.background import GuardedThread, stop_all
from flawscope_station.monitoring.problems import Listener
from flawscope_station.settings.plugins import ConfiguredPlugin
from flawscope_station.sources import find_camera
from flawscope_station.sources.source import ReportProblem, Source, TriggeredSource
from flawscope_station.store.addresses import Addresses
from flawscope_station.store.records import Store

MAX_TIMES = 1000  # latest times of a product, which are kept


class TimingFacts(TypedDict):
    """Times of a product's latest triggers, `MAX_TIMES` at most.

    Attributes:
        triggers: Number of triggers.
        p50_ms: Median of the milliseconds from a trigger to its output.
        p99_ms: 99th percentile of these milliseconds.
        budget_ms: Milliseconds allowed for the last trigger; None: it had no limit.
        missed: Number of triggers since the start that were not answered within the budget.
    """

    triggers: int
    p50_ms: float
    p99_ms: float
    budget_ms: int | None
    missed: int


class Timing:
    """Times from triggers to their outputs, by product."""

    def __init__(self) -> None:
        self._seconds: dict[str, deque[float]] = {}
        self._missed: Counter[str] = Counter()
        self._budgets: dict[str, float | None] = {}

    def note(
        self, product: str, seconds: float, *, missed: bool = False, budget: float | None = None
    ) -> None:
        """Note an answered trigger.

        Args:
            product: Name of the product.
            seconds: Seconds from the trigger to its output.
            missed: Whether the output came after the budget.
            budget: Seconds allowed from the trigger to its output; None: no limit.
        """
        self._seconds.setdefault(product, deque(maxlen=MAX_TIMES)).append(seconds)
        self._missed[product] += int(missed)
        self._budgets[product] = budget

    def facts(self, product: str) -> TimingFacts | None:
        """Return the times of a product as the API shows them; None before its first trigger."""
        seconds = list(self._seconds.get(product, ()))
        if not seconds:
            return None
        p50_seconds = float(np.percentile(seconds, 50))
        p99_seconds = float(np.percentile(seconds, 99))
        budget = self._budgets[product]
        return {
            "triggers": len(seconds),
            "p50_ms": round(1000 * p50_seconds, 1),
            "p99_ms": round(1000 * p99_seconds, 1),
            "budget_ms": None if budget is None else round(1000 * budget),
            "missed": self._missed[product],
        }

    def gauges(self) -> dict[str, tuple[str, dict[str, float]]]:
        """Return Prometheus metrics by name: help text, and values by product; {} before any trigger."""
        if not self._seconds:
            return {}
        seconds_by_product = {name: list(seconds) for name, seconds in list(self._seconds.items())}
        gauges: dict[str, tuple[str, dict[str, float]]] = {}
        for percent in (50, 99):
            help_text = f"From a trigger to its output, {percent} of 100 of the last {MAX_TIMES:,} in less."
            percentiles = {
                name: float(np.percentile(seconds, percent)) for name, seconds in seconds_by_product.items()
            }
            gauges[f"trigger_seconds_p{percent}"] = help_text, percentiles
        missed = {name: float(self._missed[name]) for name in seconds_by_product}
        gauges["missed_deadlines_total"] = "Triggers not answered in time.", missed
        return gauges


@dataclass
class ConnectionContext:
    """Part of a station that inspects on request: for connections, and for requests over HTTP.

    `sources.trigger.shoot` takes a picture and inspects it.

    Attributes:
        addresses: Products and entries.
        inspector: Inspects parts.
        store: Records of the station.
        sources: Sources by product or entry; products may be added.
        timing: Times from triggers to their outputs.
        report: Reports a problem under a code, with its text; None: the problem is over.
        listen: Takes a name and a function. The function is called with each problem that begins or ends, and
            whether it is over, in a thread of its own: for a mail, a lamp, a message.
        refusals: Takes note of each part that is not judged.
    """

    addresses: Addresses
    inspector: Inspector
    store: Store
    sources: Mapping[str, Sequence[Source]]
    timing: Timing
    report: ReportProblem
    listen: Callable[[str, Listener], None]
    refusals: Refusals

    def camera(self, name: str, number: int | None = None) -> TriggeredSource:
        """Return a camera that can be triggered.

        Args:
            name: Name of the product or entry.
            number: Number of the camera among those of the product, from 1; None: its only camera.

        Raises:
            InputError: There is no such camera, or no number chooses among them.
            NotFoundError: There is no such product or entry.
        """
        self.addresses.address_id(name)
        return find_camera(name, self.sources[self.addresses.configured_name(name)], number)

    def cameras(
        self, name: str, number: int | None = None, owner: str | None = None
    ) -> Sequence[TriggeredSource]:
        """Return the cameras that a trigger takes pictures with, in the order of the views.

        Where the product's model judges parts in views, and `number` is None, these are the cameras of all
        views; else it is a single camera.

        Args:
            name: Name of the product whose part is to be inspected.
            number: Number of the camera among those of the owner; None: its only camera, or the cameras of
                all views.
            owner: Name of the product or entry whose settings have the cameras; None: `name`.

        Raises:
            InputError: A view has no camera, or no single camera was chosen.
            NotFoundError: There is no such product.
        """
        owner = owner or name
        parts = self.inspector.judge.parts
        views = parts.views(self.addresses.address_id(name)) if number is None else []
        if not views:
            return [self.camera(owner, number)]
        sources = self.sources[self.addresses.configured_name(owner)]
        cameras = [source for source in sources if isinstance(source, TriggeredSource)]
        camera_by_view = {getattr(camera, "view", None): camera for camera in cameras}
        if missing := [view for view in views if view not in camera_by_view]:
            raise InputError(
                f"{name} has no camera for {', '.join(missing)}: write `view:` below each camera"
            )
        return [camera_by_view[view] for view in views]

    def deadline(self, name: str) -> float | None:
        """Return the seconds in which a product's parts must be answered, by its settings; None: no limit.

        Raises:
            NotFoundError: There is no such product or entry.
        """
        return self.addresses.settings_of(name).deadline

    def due(self, name: str, deadline: int | None = None, since: float | None = None) -> float:
        """Return when an answer must be there, as `Address.due`.

        Raises:
            NotFoundError: There is no such product or entry.
        """
        return self.addresses.find(name).due(deadline, since)


class Connection(Protocol):
    """Requests inspections for another side, such as a PLC, and answers it.

    Attributes:
        number: Number among the station's connections, from 1: the station sets it before `start`, and the
            code of a problem ends with it.
    """

    number: int

    def start(self) -> None:
        """Begin, and return at once: if the other side is away, that is a problem, not an error."""

    def stop(self) -> None:
        """Request nothing more, tell the other side, and return within seconds."""


class Connections:
    """All connections of a station; `start` makes them, for they need the cameras."""

    def __init__(self, plugins: Sequence[ConfiguredPlugin], context: ConnectionContext):
        self._plugins = plugins
        self._context = context
        self._all: list[Connection] = []

    @property
    def threads(self) -> list[GuardedThread]:
        """Threads of the connections; a connection may have none."""
        return [thread for connection in self._all for thread in getattr(connection, "threads", ())]

    def start(self) -> None:
        """Make and start all connections.

        Raises:
            InputError: The settings of a connection do not fit the station.
        """
        self._all = [plugin.open(self._context, plugin.values) for plugin in self._plugins]
        for number, connection in enumerate(self._all, 1):
            connection.number = number
        for connection in self._all:
            connection.start()

    def stop(self) -> None:
        """Stop all connections at once, and return when they have stopped, or after a while."""
        stop_all([connection.stop for connection in self._all])
