"""Seams of a station, at which a feature adds itself that the core does not know; `assembly` lists them.

A feature is made when the core is there, of the parts of the core that it needs. Sources, sinks and
connections of other packages have seams of their own (`plugins`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from flawscope.errors import message_with_type
from flawscope_station.background import BackgroundThread
from flawscope_station.inspecting.interlock import Interlock
from flawscope_station.inspecting.writer import RecordedInspection
from flawscope_station.live import Gauges
from flawscope_station.settings.station import ProductSettings

Observer = Callable[[RecordedInspection], object]


@dataclass(frozen=True)
class Extension:
    """Parts, threads and functions that a feature adds to a station.

    parts: that its routes ask for, each by its class.
    threads: are started in this order when pictures come, all asked to end before the last picture is
    answered, and watched meanwhile.
    observers: get every new inspection after it was recorded and answered, in the recorder's thread.
    interlocks: may hold pictures back.
    on_verdict: get the number of a product when somebody gave a verdict.
    on_added: get number, name and settings of a product that the station has from now on.
    gauges: return metrics.
    routers: of the API and of pages, in the order in which they are asked.
    menu: names of a product's pages that its menu lists.
    request_enders: end what requests wait for, when the server ends.
    """

    parts: Sequence[object] = ()
    threads: Sequence[BackgroundThread] = ()
    observers: Sequence[Observer] = ()
    interlocks: Sequence[Interlock] = ()
    on_verdict: Sequence[Callable[[int], object]] = ()
    on_added: Sequence[Callable[[int, str, ProductSettings], object]] = ()
    gauges: Sequence[Callable[[], Gauges]] = ()
    routers: Sequence[Any] = ()
    menu: Sequence[str] = ()
    request_enders: Sequence[Callable[[], object]] = ()


class Observers(list[Observer]):
    """Observers of recorded inspections: one that fails harms no other, and is a problem until it works.

    Args:
        report: reports a problem under a code; None: it is over.
    """

    def __init__(self, report: Callable[[str, str | None], None]):
        super().__init__()
        self._report = report
        self._failures: dict[Observer, str] = {}

    def __call__(self, recorded: RecordedInspection) -> None:
        before = self._failures.copy()
        for observe in self:
            self._failures.pop(observe, None)
            try:
                observe(recorded)
            except Exception as error:
                self._failures[observe] = (
                    f"{getattr(observe, '__qualname__', observe)}: {message_with_type(error)}"
                )
        if self._failures != before:
            told = "; ".join(self._failures.values())
            self._report("observer_failed", told and f"not everybody hears of inspections: {told}")
