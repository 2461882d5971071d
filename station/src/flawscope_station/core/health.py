"""Checks of a station by itself, of its store, its models and its threads; their faults become problems."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress

from flawscope.errors import FlawscopeError, message_with_type
from flawscope_station.core.housekeeping import Housekeeping
from flawscope_station.inspecting.inspector import Inspector
from flawscope_station.inspecting.interlock import PAUSED
from flawscope_station.monitoring.background import GuardedThread, ThreadWatch
from flawscope_station.monitoring.problems import (
    PROBLEM_ACKNOWLEDGED,
    Listener,
    Problem,
    Problems,
    Standstill,
)
from flawscope_station.sources.camera import CAMERA_PROBLEMS
from flawscope_station.sources.camera import SOURCE as CAMERA
from flawscope_station.sources.source import Source, State, lost_camera
from flawscope_station.store.addresses import Addresses
from flawscope_station.store.database import SILENT
from flawscope_station.store.records import NotFoundError, Store

LATE_SECONDS = 600.0  # seconds for which a late part is reported as a problem
WAITING_SECONDS = 60.0  # seconds after which a part that waits for its answer is a problem
# kinds of the problems for which no part can be recorded
STORE_PROBLEMS = (SILENT, "disk_full", "store_unreachable")


class Health:
    """Checks of a station, which run each second, and when somebody asks for its problems.

    No check asks the disk or the database: `MachineWatch` does, and the checks read its state.

    Args:
        problems: Problems of the station.
        store: Records of the station.
        addresses: Products and entries.
        inspector: Inspects parts.
        housekeeping: Housekeeping, whose clock the metrics show.
        threads: Returns all threads, each with a flag: whether no picture can be inspected without it.
        sources: Sources by product or entry; products may be added.

    Attributes:
        watch: Looks at all threads each second.
    """

    def __init__(
        self,
        problems: Problems,
        store: Store,
        addresses: Addresses,
        inspector: Inspector,
        housekeeping: Housekeeping,
        threads: Callable[[], Iterable[tuple[GuardedThread, bool]]],
        sources: Mapping[str, Sequence[Source]],
    ):
        self.sources = sources
        self._problems = problems
        self.report = problems.report
        self.store = store
        self.database = store.database
        self.addresses = addresses
        self.inspector = inspector
        self.housekeeping = housekeeping
        self.machine = inspector.intake.machine
        self.watch = ThreadWatch(threads, self._failure, self.report, self._look)
        self._check_failure: str | None = None

    def problems(self) -> list[Problem]:
        """Check the station, and return its problems, the oldest first."""
        try:
            self._check()
            self._check_failure = None
        except Exception as error:
            self._check_failure = f"the station cannot check itself: {message_with_type(error)}"
        self.watch.check()
        return self._problems.all()

    def _look(self) -> None:
        """Report a disk or a database that cannot be used, and end parts that have waited too long."""
        self._report_machine()
        self.inspector.end_overdue()

    def _report_machine(self) -> None:
        """Report why no part can be recorded, each reason as a problem of its own."""
        standstill = self._store_standstill()
        text = "" if standstill is None else str(standstill.error or self.database.failure)
        for kind in STORE_PROBLEMS:
            is_present = standstill is not None and standstill.kind == kind
            self.report(kind, text if is_present else None, stops=True)

    def _store_standstill(self) -> Standstill | None:
        """Return why no part can be recorded; None: one can."""
        return self.machine.standstill(self.inspector.limits.upload)

    def _check(self) -> None:
        """Report problems of disk, database, models, late parts and waiting parts, or that they are over."""
        self._report_machine()
        configured_numbers = self.addresses.configured_numbers()
        models = self.addresses.versions.models
        for name, product_id in configured_numbers.items():
            model_text = None if product_id in models.active else f"no model is open for {name}"
            self.report(f"no_model_{product_id}", model_text, stops=True)
        late_products = self.inspector.intake.late_products(LATE_SECONDS)
        for product_id, name in list(self.addresses.names.items()):
            late_text = f"parts of {name} are not judged in time: send fewer at once, or allow more time"
            self.report(f"late_{product_id}", late_text if product_id in late_products else None)
        is_waiting = self.oldest_seconds() > WAITING_SECONDS
        waiting_text = (
            f"parts have waited for more than {WAITING_SECONDS:.0f} s for their answer: the model, the disk "
            f"or the database is slow, or hangs; after {self.inspector.limits.wait:.0f} s they fail"
        )
        self.report("waiting", waiting_text if is_waiting else None)

    def state_of(
        self, name: str, number: str | None = None, cameras: Sequence[State] | None = None
    ) -> Standstill | None:
        """Return why no part of a product is judged; None: its parts are judged.

        `/readyz`, pages and metrics all show this answer. The `Intake`, which also refuses the parts of
        requests, triggers and PLCs, is asked first.

        Args:
            name: Name of the product, or of an entry that finds it.
            number: Number of a part, which interlocks may let pass; None: any part.
            cameras: States of the cameras that must all take pictures of the part; None: those of the
                product's cameras. If its parts have one view, one of these is enough.

        Raises:
            NotFoundError: There is no such product or entry.
        """
        product_id = self.addresses.address_id(name)
        entry = self.addresses.configured_name(name)
        standstill = self.inspector.intake.standstill(product_id, number)
        if standstill is not None:
            return standstill
        if cameras is None:
            # if one of the product's cameras works, a problem of a single other camera stops nothing
            cameras, others_may_fail = self._needed_cameras(product_id, entry)
        else:
            others_may_fail = True  # only the cameras that the caller names are needed
        lost_standstill = lost_camera(cameras)
        if lost_standstill is not None:
            return lost_standstill
        # a problem of the entry stops the product, too: which product a part is, the entry finds only later
        product_ids = {product_id, self.addresses.entries.get(entry, product_id)}
        for problem in self._problems.all():
            is_of_one_camera = problem.kind in CAMERA_PROBLEMS and problem.number
            is_ignored = is_of_one_camera and others_may_fail
            if problem.stops_product(product_ids) and not is_ignored:
                return Standstill(problem.kind)
        return None

    def _needed_cameras(self, product_id: int, entry: str) -> tuple[Sequence[State], bool]:
        """Return a pair: the states of the cameras that must all work, and whether any camera works.

        If parts have one view and a camera works, no state is returned: the other cameras may be lost.
        """
        states = [source.state for source in self.sources.get(entry, ()) if source.state.kind == CAMERA]
        any_works = any(not state.is_lost for state in states)
        has_views = bool(self.inspector.judge.parts.views(product_id))
        if any_works and not has_views:
            return [], any_works
        return states, any_works

    def is_ready(self) -> bool:
        """Return whether parts of all products that nobody paused are judged, by the last checks."""
        if any(problem.stops and problem.product is None for problem in self._problems.all()):
            return False
        return not any(self._is_stopped(name) for name in self.addresses.configured_numbers())

    def _is_stopped(self, name: str) -> bool:
        """Return whether nothing of a product is judged, though nobody paused it."""
        with suppress(NotFoundError):  # the product is being removed
            standstill = self.state_of(name)
            return standstill is not None and standstill.kind != PAUSED
        return False

    def oldest_seconds(self) -> float:
        """Return for how many seconds the oldest unanswered part has waited; 0: none waits."""
        oldest = self.inspector.intake.oldest()
        return 0.0 if oldest is None else time.monotonic() - oldest.since

    def _failure(self) -> str | None:
        """Return why parts fail at the moment, or why the station cannot check itself; None: all works."""
        return self.inspector.failure() or self._check_failure

    def acknowledge(self, code: str, who: str) -> Problem:
        """Acknowledge a problem: as long as it lasts, the bar on the pages does not show it any more.

        Raises:
            NotFoundError: There is no such problem any more.
        """
        problem = self._problems.acknowledge(code, who)
        with suppress(FlawscopeError):  # the problem may be that the database is away
            product_id = problem.product if problem.product in self.addresses.names else None
            self.store.note_event(PROBLEM_ACKNOWLEDGED, who, code, product_id)
        return problem

    def listen(self, name: str, listener: Listener) -> None:
        """Call a listener with each problem that begins and ends (`Problems.listen`)."""
        self._problems.listen(name, listener, self.problems)
