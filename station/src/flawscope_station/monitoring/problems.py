"""Problems that a person should see to at the moment, and who has acknowledged them.

The pages name a kind of problem, and say who does what about it, in the words of the shop floor: a title
below `wrong` and a text below `remedy` in `web/assets/texts`. A kind without texts is shown as `other`.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from typing_extensions import override

from flawscope.errors import FlawscopeError
from flawscope_station.monitoring.background import BackgroundThread, GuardedThread, Said, stop_all, unfailing
from flawscope_station.store.database import now
from flawscope_station.store.records import NotFoundError, iso

PROBLEM_ACKNOWLEDGED = "problem acknowledged"  # an event
LOOK_INTERVAL = 2.0  # seconds between two looks of who listens, for problems that only a check finds
_CODE_PATTERN = re.compile(r"(?P<kind>.+?)(?:_(?P<product>\d+))?(?:_(?P<number>\d+))?")


@dataclass(frozen=True)
class Action:
    """Button beside a problem, for engineers and administrators.

    Attributes:
        route: Gets an empty JSON object by POST, as `/api/v1/clock/confirm`.
        label: Key of its text.
    """

    route: str
    label: str


CONFIRM_CLOCK = Action("/api/v1/clock/confirm", "problems.clock_is_right")


@dataclass(frozen=True)
class Problem:
    """Problem that a person should see to.

    Attributes:
        code: The kind, and the numbers of the product and of the camera, folder or sink concerned, if any:
            `camera_away_1_2`.
        text: For engineers.
        since: Microseconds since 1970.
        action: Button beside it; None: it has none.
        stops: Nothing is inspected, of the product concerned or of all.
        acknowledged_by: Who acknowledged it; None: nobody.
    """

    code: str
    text: str
    since: int
    action: Action | None = None
    stops: bool = False
    acknowledged_by: str | None = None

    @property
    def kind(self) -> str:
        """Return the code without numbers, such as `camera_away`."""
        return self._parts["kind"]

    @property
    def product(self) -> int | None:
        """Return the number of the product concerned; None: the problem is the station's."""
        return int(self._parts["product"]) if self._parts["product"] else None

    @property
    def number(self) -> int | None:
        """Return the number of the product's camera, folder or sink concerned; None: it is of none."""
        return int(self._parts["number"]) if self._parts["number"] else None

    def stops_product(self, product_ids: Collection[int]) -> bool:
        """Whether nothing of a product is inspected, which has its own number and that of its entry."""
        return self.stops and (self.product is None or self.product in product_ids)

    @property
    def _parts(self) -> re.Match[str]:
        found = _CODE_PATTERN.fullmatch(self.code)
        assert found is not None, self.code
        return found

    def without_text(self) -> dict[str, object]:
        """Return the problem as anybody may know it: without names."""
        return {"code": self.code, "kind": self.kind, "since": iso(self.since)}

    def to_dict(self) -> dict[str, object]:
        """Return the problem as the API shows it."""
        shown = {"code": self.code, "kind": self.kind, "text": self.text}
        return {**shown, "since": iso(self.since), "acknowledged_by": self.acknowledged_by}


@dataclass(frozen=True)
class Standstill:
    """Why nothing of a product is judged at the moment.

    Attributes:
        kind: Of the problem that people see.
        error: With which a part is refused; None: a part is tried, for only that can show that it is over.
    """

    kind: str
    error: FlawscopeError | None = None


Listener = Callable[[Problem, bool], object]  # a problem, and whether it is over: it begins otherwise


class Problems:
    """Present problems. Thread-safe.

    Args:
        say: gets a line about each problem that begins, changes or ends; its errors harm nobody.
    """

    def __init__(self, say: Callable[[str], None]):
        self.say = unfailing(say)
        self._active: dict[str, Problem] = {}
        self._lock = threading.Lock()
        self._listeners: list[_ListenerThread] = []

    def report(
        self, code: str, why: str | None, action: Action | None = None, *, stops: bool = False
    ) -> None:
        """Report that a problem begins, goes on, or is over.

        Args:
            code: of the problem.
            why: text for engineers; None or empty: it is over.
            action: button beside it.
            stops: nothing is inspected meanwhile.
        """
        why = why or None
        with self._lock:
            before = self._active.get(code)
            if why is None:
                self._active.pop(code, None)
            elif before is None:
                self._active[code] = Problem(code, why, now(), action, stops)
            else:
                self._active[code] = replace(before, text=why, action=action, stops=stops)
        self._tell(code, None if before is None else before.text, why)

    def _tell(self, code: str, before: str | None, why: str | None) -> None:
        """Say that a problem begins, changes or ends, and wake the listeners.

        Args:
            code: of the problem.
            before: its text before; None: there was no such problem.
            why: its text now; None: it is over.
        """
        if before != why:
            level = "warning" if why else "info"
            self.say(Said(f"{code}: {why or 'over'}", level, code=code))
        if (before is None) != (why is None):
            for listener in self._listeners:
                listener.wake()

    def acknowledge(self, code: str, who: str) -> Problem:
        """Acknowledge a problem: the bar on the pages does not show it until it is over. NotFoundError."""
        with self._lock:
            if code not in self._active:
                raise NotFoundError(f"there is no problem {code!r:.80}: it is over")
            self._active[code] = replace(self._active[code], acknowledged_by=who)
            return self._active[code]

    def all(self) -> list[Problem]:
        """Return the problems, the oldest first: in the order of reports, for clocks jump."""
        return list(self._active.copy().values())

    # ---- who is told

    def listen(self, name: str, listener: Listener, problems: Callable[[], list[Problem]]) -> None:
        """Call a listener with each problem that begins or ends, in a thread of its own.

        A slow listener delays nobody. Problems that are there already begin now. A problem that comes and
        goes while the listener is busy is left out. Where the listener raises, it is called with the same
        problem again, with growing pauses, and the thread that failed is a problem itself.

        Args:
            name: of the thread.
            listener: gets a problem, and whether it is over.
            problems: checks the station, and returns its problems.
        """
        thread = _ListenerThread(name, listener, problems)
        self._listeners.append(thread)
        thread.start()

    @property
    def threads(self) -> list[GuardedThread]:
        """Threads of the listeners."""
        return [thread for listener in self._listeners for thread in listener.threads]

    def stop(self) -> None:
        """Call the listeners no more; return when their threads have ended, or after a while."""
        stop_all([listener.stop for listener in self._listeners])


class _ListenerThread(BackgroundThread):
    """Thread that calls a listener with each problem that has begun or ended since the last look."""

    def __init__(self, name: str, listener: Listener, problems: Callable[[], list[Problem]]):
        super().__init__(name)
        self._listener = listener
        self._problems = problems
        self._reported: dict[str, Problem] = {}

    @override
    def _work(self) -> None:
        while not self._ended.is_set():
            present = {problem.code: problem for problem in self._problems()}
            over = [(problem, True) for code, problem in self._reported.items() if code not in present]
            begun = [(problem, False) for code, problem in present.items() if code not in self._reported]
            for problem, is_over in over + begun:
                with self.threads[0].call():
                    self._listener(problem, is_over)
                if is_over:
                    del self._reported[problem.code]
                else:
                    self._reported[problem.code] = problem
            self._wait(LOOK_INTERVAL)
