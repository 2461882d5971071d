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
        triggers: Their number.
        p50_ms: Median of the milliseconds from a trigger to its output.
        p99_ms: 99th percentile of these milliseconds.
        budget_ms: Of the last trigger; None: it had none.
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
        """Note an answered trigger; missed: not within its budget. seconds and budget: from the trigger."""
        self._seconds.setdefault(product, deque(maxlen=MAX_TIMES)).append(seconds)
        self._missed[product] += missed
        self._budgets[product] = budget

    def facts(self, product: str) -> TimingFacts | None:
        """Return the times of a product as the API shows them; None before its first trigger."""
        times = list(self._seconds.get(product, ()))
        if not times:
            return None
        p50, p99 = (round(1000 * float(np.percentile(times, share)), 1) for share in (50, 99))
        budget = self._budgets[product]
        return {
            "triggers": len(times),
            "p50_ms": p50,
            "p99_ms": p99,
            "budget_ms": None if budget is None else round(1000 * budget),
            "missed": self._missed[product],
        }

    def gauges(self) -> dict[str, tuple[str, dict[str, float]]]:
        """Return Prometheus metrics: name -> help text and values by product."""
        if not self._seconds:
            return {}
        times = {name: list(measured) for name, measured in list(self._seconds.items())}
        found: dict[str, tuple[str, dict[str, float]]] = {
            f"trigger_seconds_p{share}": (
                f"From a trigger to its output, {share} of 100 of the last {MAX_TIMES:,} in less.",
                {name: float(np.percentile(measured, share)) for name, measured in times.items()},
            )
            for share in (50, 99)
        }
        missed = {name: float(self._missed[name]) for name in times}
        return {**found, "missed_deadlines_total": ("Triggers not answered in time.", missed)}


@dataclass
class ConnectionContext:
    """Part of a station that inspects on request: for connections, and for requests over HTTP.

    `sources.trigger.shoot` takes a picture and inspects it.

    Attributes:
        sources: By product, which may grow.
        timing: Times from triggers to their outputs.
        report: Reports a problem under a code; None: it is over.
        listen: Gets a name and a function. The function is called with each problem that begins or ends, and
            whether it is over, in a thread of its own: for a mail, a lamp, a message.
        refusals: Take note of each part that is not judged.
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
        """Return a camera that can be triggered, by its number among the product's; None: the only one.

        InputError, NotFoundError.
        """
        self.addresses.address_id(name)
        return find_camera(name, self.sources[self.addresses.configured_name(name)], number)

    def cameras(
        self, name: str, number: int | None = None, owner: str | None = None
    ) -> Sequence[TriggeredSource]:
        """Return the cameras that a trigger takes pictures with, in the order of the views.

        Where the product's model judges parts in views, and no number is given, these are the cameras of all
        views; else it is a single camera.

        Args:
            name: of the product.
            number: of the camera among the owner's; None: its only one, or those of all views.
            owner: product or entry that has the cameras; None: the product.

        Raises:
            InputError: a view has no camera, or no single camera was chosen.
            NotFoundError: there is no such product.
        """
        owner = owner or name
        parts = self.inspector.judge.parts
        views = [] if number is not None else parts.views(self.addresses.address_id(name))
        if not views:
            return [self.camera(owner, number)]
        sources = self.sources[self.addresses.configured_name(owner)]
        by_view = {
            getattr(source, "view", None): source for source in sources if isinstance(source, TriggeredSource)
        }
        if missing := [view for view in views if view not in by_view]:
            raise InputError(
                f"{name} has no camera for {', '.join(missing)}: write `view:` below each camera"
            )
        return [by_view[view] for view in views]

    def deadline(self, name: str) -> float | None:
        """Return the seconds in which a product's parts must be answered, by its settings; None: no limit.

        NotFoundError.
        """
        return self.addresses.settings_of(name).deadline

    def due(self, name: str, deadline: int | None = None, since: float | None = None) -> float:
        """Return when an answer must be there, as `Address.due`. NotFoundError."""
        return self.addresses.find(name).due(deadline, since)


class Connection(Protocol):
    """Requests inspections for another side, such as a PLC, and answers it.

    Attributes:
        number: among the station's connections, from 1: the station sets it before `start`, and the code of a
            problem ends with it.
    """

    number: int

    def start(self) -> None:
        """Begin, and return at once: another side that is away is a problem, not an error."""

    def stop(self) -> None:
        """Ask for nothing more, tell the other side, and return within seconds."""


class Connections:
    """All connections of a station, which `start` makes: their cameras are there by then."""

    def __init__(self, plugins: Sequence[ConfiguredPlugin], context: ConnectionContext):
        self._plugins = plugins
        self._context = context
        self._all: list[Connection] = []

    @property
    def threads(self) -> list[GuardedThread]:
        """Threads of the connections, which may have none."""
        return [thread for source in self._all for thread in getattr(source, "threads", ())]

    def start(self) -> None:
        """Make and start them. InputError where the settings do not fit the station."""
        self._all = [plugin.open(self._context, plugin.values) for plugin in self._plugins]
        for number, connection in enumerate(self._all, 1):
            connection.number = number
        for connection in self._all:
            connection.start()

    def stop(self) -> None:
        """Stop all connections at once, and return when they have stopped, or after a while."""
        stop_all([connection.stop for connection in self._all])
