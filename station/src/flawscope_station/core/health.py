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
STORE_PROBLEMS = (SILENT, "disk_full", "store_unreachable")  # kinds: no part can be recorded


class Health:
    """Checks of a station, which are made when somebody asks for its problems, and each second.

    None asks the disk or the data base: `MachineWatch` does, and says what it found.

    Args:
        threads: returns all threads, and whether pictures cannot be inspected without it.
        sources: by product, which may grow.

    Attributes:
        watch: looks at all threads, also when nobody asks.
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
        """Tell of a disk or a data base that cannot be used, and end what has waited too long."""
        self._report_machine()
        self.inspector.end_overdue()

    def _report_machine(self) -> None:
        """Report why no part can be recorded, each reason as a problem of its own."""
        stop = self._store_standstill()
        why = "" if stop is None else str(stop.error or self.database.failure)
        for kind in STORE_PROBLEMS:
            self.report(kind, why if stop is not None and stop.kind == kind else None, stops=True)

    def _store_standstill(self) -> Standstill | None:
        """Return why no part can be recorded."""
        return self.machine.standstill(self.inspector.limits.upload)

    def _check(self) -> None:
        self._report_machine()
        numbers = self.addresses.configured_numbers()
        models = self.addresses.versions.models
        for name, number in numbers.items():
            why = None if number in models.active else f"no model is open for {name}"
            self.report(f"no_model_{number}", why, stops=True)
        late = self.inspector.intake.late_products(LATE_SECONDS)
        for number, name in list(self.addresses.names.items()):
            why = f"parts of {name} are not judged in time: send fewer at once, or allow more time"
            self.report(f"late_{number}", why if number in late else None)
        is_waiting = self.oldest_seconds() > WAITING_SECONDS
        why = (
            f"parts have waited for more than {WAITING_SECONDS:.0f} s for their answer: the model, the disk "
        )
        why += f"or the data base is slow, or hangs; after {self.inspector.limits.wait:.0f} s they fail"
        self.report("waiting", why if is_waiting else None)

    def state_of(
        self, name: str, number: str | None = None, cameras: Sequence[State] | None = None
    ) -> Standstill | None:
        """Return why nothing of a product is judged; None: it is judged.

        `/readyz`, pages and metrics all show this answer. It asks `Intake`, as requests, triggers and PLCs
        do. NotFoundError.

        Args:
            name: of the product, or of an entry that finds it.
            number: of the part that is asked about, for those that interlocks let pass.
            cameras: that are all to show the part; None: the product's own, of which one is enough where its
                parts have one view.
        """
        product_id = self.addresses.address_id(name)
        entry = self.addresses.configured_name(name)
        stop = self.inspector.intake.standstill(product_id, number)
        if stop is not None:
            return stop
        has_camera = cameras is not None
        if cameras is None:
            cameras, has_camera = self._needed_cameras(product_id, entry)
        lost = lost_camera(cameras)
        if lost is not None:
            return lost
        # a part's product is found later
        own_ids = {product_id, self.addresses.entries.get(entry, product_id)}
        for problem in self._problems.all():
            is_of_other_camera = problem.kind in CAMERA_PROBLEMS and problem.number and has_camera
            if problem.stops_product(own_ids) and not is_of_other_camera:
                return Standstill(problem.kind)
        return None

    def _needed_cameras(self, product_id: int, entry: str) -> tuple[Sequence[State], bool]:
        """Return the cameras that all have to show a part, and whether any of the product's shows one.

        Where parts have one view, one camera is enough.
        """
        cameras = [source.state for source in self.sources.get(entry, ()) if source.state.kind == CAMERA]
        has_camera = any(not state.is_lost for state in cameras)
        has_views = bool(self.inspector.judge.parts.views(product_id))
        return ([] if has_camera and not has_views else cameras), has_camera

    def is_ready(self) -> bool:
        """Whether parts of all products that nobody paused are judged, as was found out last."""
        if any(problem.stops and problem.product is None for problem in self._problems.all()):
            return False
        return not any(self._is_stopped(name) for name in self.addresses.configured_numbers())

    def _is_stopped(self, name: str) -> bool:
        with suppress(NotFoundError):  # it is being removed
            found = self.state_of(name)
            return found is not None and found.kind != PAUSED  # a pause is wanted, and no fault
        return False

    def oldest_seconds(self) -> float:
        """Return the seconds for which the oldest part that is not answered has waited; 0: none waits."""
        oldest = self.inspector.intake.oldest()
        return 0.0 if oldest is None else time.monotonic() - oldest.since

    def _failure(self) -> str | None:
        """Return why parts fail at the moment, or nobody knows; None: they do not."""
        return self.inspector.failure() or self._check_failure

    def acknowledge(self, code: str, who: str) -> Problem:
        """Acknowledge a problem: the bar on the pages does not show it until it is over. NotFoundError."""
        problem = self._problems.acknowledge(code, who)
        with suppress(FlawscopeError):  # so that a data base that is away can be acknowledged
            product = problem.product if problem.product in self.addresses.names else None
            self.store.note_event(PROBLEM_ACKNOWLEDGED, who, code, product)
        return problem

    def listen(self, name: str, listener: Listener) -> None:
        """Tell a listener of each problem that begins and ends (`Problems.listen`)."""
        self._problems.listen(name, listener, self.problems)
