"""Interface by which a part adds itself to a station when it is made.

Parts of the core use it, and features that the core does not know, which `assembly` lists. Sources, sinks and
connections of other packages have interfaces of their own (`plugins`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote

from flawscope.errors import message_with_type
from flawscope_station.access.roles import VIEWER, Person, has_role
from flawscope_station.core.metrics import Gauges
from flawscope_station.inspecting.interlock import Gate, Interlock
from flawscope_station.inspecting.queues import GroupQueue
from flawscope_station.inspecting.ticket import RecordedInspection
from flawscope_station.monitoring.background import STOP_TIMEOUT, GuardedThread
from flawscope_station.settings.station import ProductSettings

if TYPE_CHECKING:
    from fastapi import APIRouter

    from flawscope import pages

Observer = Callable[[RecordedInspection], object]
MAX_UNHEARD = 256  # inspections, with their maps, that may wait for the observers; further ones are dropped


class HasThreads(Protocol):
    """Part whose threads are watched; they may change."""

    @property
    def threads(self) -> Sequence[GuardedThread]:
        """Return the threads as they are now."""
        ...


class Service(HasThreads, Protocol):
    """Part that works beside the pictures, such as a `BackgroundThread`."""

    def start(self) -> None:
        """Begin to work in threads of its own, and return at once."""

    def end(self) -> None:
        """Begin nothing more from now on; return at once."""

    def stop(self) -> None:
        """End the work, and return when it has ended."""


class Input(Protocol):
    """Part by which pictures come."""

    def start(self) -> None:
        """Begin to take pictures, and return at once."""

    def stop(self) -> None:
        """Take no more pictures, and return when all that were taken are answered."""


@dataclass(frozen=True)
class MenuLink:
    """Link in the menu of the pages.

    Attributes:
        address: Address of a page. It may have `{product}` in the place of the product's name: then only
            pages of a product show the link.
        title: Key of the link's text, or texts by language; the English text serves where a language is
            missing.
        role: Lowest role of the people who see the link.
    """

    address: str
    title: str | Mapping[str, str]
    role: str = VIEWER

    def is_shown(self, person: Person | None, product: str | None) -> bool:
        """Return whether a person sees the link on a page of `product`; None: on a page of no product."""
        has_full_address = product is not None or "{product}" not in self.address
        return has_full_address and has_role(person, self.role)

    def href(self, product: str | None) -> str:
        """Return the address with the product's name in it, quoted for a URL."""
        return self.address.replace("{product}", quote(product or "", safe=""))

    def text(self, texts: pages.Texts) -> str:
        """Return the title in the language of the texts, in English where it has none in that language."""
        if isinstance(self.title, str):
            return texts(self.title)
        return self.title.get(texts.language, self.title["en"])


class Menu(list[MenuLink]):
    """All links of the menu, which routes get as a component."""


@dataclass(frozen=True)
class Extension:
    """Contribution of a part to a station.

    Attributes:
        components: Objects that routes ask for, each by its class.
        services: Services, started in this order before pictures come, all asked to end before the last
            picture is answered, stopped in the reverse order, and watched meanwhile.
        inputs: Inputs, started after all services, and stopped before any service ends.
        inspecting: Parts whose threads are watched; where a thread fails or hangs, pictures wait.
        watched: Parts whose threads are watched; where a thread fails or hangs, pictures do not wait.
        ends: Functions that end the part, called in the reverse order, after the ends of all extensions that
            were added later.
        observers: Functions that get every new inspection after it was recorded and answered, in a thread of
            their own (`Observers`).
        interlocks: Interlocks that may hold answers back.
        gates: Gates that may refuse a picture before it is taken.
        on_verdict: Functions that get the number of a product when somebody gave a verdict.
        on_added: Functions that get number, name and settings of a product that was added to the station.
        gauges: Functions that return metrics at once, from memory.
        store_gauges: Functions that return metrics, for which they may ask the store.
        routers: Routers of the API and of pages, in the order in which they are asked.
        menu: Links of the menu, in their order.
        request_enders: Functions that end the waits of requests, when the server ends, or soon after.
    """

    components: Sequence[object] = ()
    services: Sequence[Service] = ()
    inputs: Sequence[Input] = ()
    inspecting: Sequence[HasThreads] = ()
    watched: Sequence[HasThreads] = ()
    ends: Sequence[Callable[[], object]] = ()
    observers: Sequence[Observer] = ()
    interlocks: Sequence[Interlock] = ()
    gates: Sequence[Gate] = ()
    on_verdict: Sequence[Callable[[int], object]] = ()
    on_added: Sequence[Callable[[int, str, ProductSettings], object]] = ()
    gauges: Sequence[Callable[[], Gauges]] = ()
    store_gauges: Sequence[Callable[[], Gauges]] = ()
    routers: Sequence[APIRouter] = ()
    menu: Sequence[MenuLink] = ()
    request_enders: Sequence[Callable[[], object]] = ()


class Observers(list[Observer]):
    """Observers of recorded inspections, which are called in a thread of their own.

    An observer that fails harms no other, and is a problem until it works. Where one hangs, neither the
    recorder nor an answer waits for it.

    The order: counts for Prometheus, open pages, housekeeping where space is short, maps to keep, sinks to
    wake; then those of features: drift, and checks of the camera. No observer asks the disk or the database.

    Args:
        report: Reports a problem under a code, with its text; None: the problem is over.
    """

    def __init__(self, report: Callable[[str, str | None], None]):
        super().__init__()
        self._report = report
        self._failures: dict[Observer, str] = {}
        self._reported: str | None = None  # text of the problem as it was reported last; None: no problem
        self._missed_count = 0  # inspections that the observers did not get since the last one that they got
        self._queue: GroupQueue[RecordedInspection | None] = GroupQueue()
        self._ended = threading.Event()
        self.threads = [GuardedThread("observers", self._work, self._ended, queue=self._queue)]
        self.threads[0].start()

    def __call__(self, recorded: RecordedInspection) -> None:
        """Queue an inspection for all observers; where too many wait, no observer gets it."""
        if len(self._queue) < MAX_UNHEARD:
            self._queue.put(recorded)
        else:
            self._missed_count += 1

    def close(self) -> None:
        """Return when the observers have got all recorded inspections, or after `STOP_TIMEOUT` seconds."""
        self._queue.put(None)
        self.threads[0].join(STOP_TIMEOUT)

    def _work(self) -> None:
        while True:
            (recorded,) = self._queue.take(1)
            if recorded is None:
                break
            self._tell(recorded)
        self._ended.set()

    def _tell(self, recorded: RecordedInspection) -> None:
        """Call all observers with an inspection, and report those that fail."""
        for observe in self:
            self._failures.pop(observe, None)
            try:
                observe(recorded)
            except Exception as error:
                name = getattr(observe, "__qualname__", str(observe))
                self._failures[observe] = f"{name}: {message_with_type(error)}"
        if self._failures or self._missed_count or self._reported is not None:
            self._report_failures()

    def _report_failures(self) -> None:
        """Report observers that fail and inspections that were dropped; without any, end the problem."""
        missed_count = self._missed_count
        self._missed_count = 0
        failures = [*self._failures.values()]
        if missed_count:
            failures.append(f"one hung, and {missed_count} inspections passed meanwhile")
        reasons = "; ".join(failures)
        text = f"not everybody hears of inspections: {reasons}" if failures else None
        if text != self._reported:
            self._reported = text
            self._report("observer_failed", text)
