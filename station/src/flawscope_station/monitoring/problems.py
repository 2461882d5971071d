"""Problems that a person should solve now, and who has acknowledged them.

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
LOOK_INTERVAL = 2.0  # seconds between two looks of a listener's thread, for problems that only a check finds
_CODE_PATTERN = re.compile(r"(?P<kind>.+?)(?:_(?P<product>\d+))?(?:_(?P<number>\d+))?")


@dataclass(frozen=True)
class Action:
    """Button beside a problem, for engineers and administrators.

    Attributes:
        route: Route that gets an empty JSON object by POST, such as `/api/v1/clock/confirm`.
        label: Key of the button's text.
    """

    route: str
    label: str


CONFIRM_CLOCK = Action("/api/v1/clock/confirm", "problems.clock_is_right")


@dataclass(frozen=True)
class Problem:
    """Problem that a person should solve.

    Attributes:
        code: Kind of the problem, and the numbers of the product and of the camera, folder or sink concerned,
            if any: `camera_away_1_2`.
        text: Text for engineers.
        since: Time at which it began, microseconds since 1970.
        action: Button beside the problem; None: it has none.
        stops: Whether nothing of the product concerned is inspected, or of any product if it names none.
        acknowledged_by: Name of the person who acknowledged it; None: nobody did.
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
        """Return whether the problem stops a product that has these numbers: its own and its entry's."""
        return self.stops and (self.product is None or self.product in product_ids)

    @property
    def _parts(self) -> re.Match[str]:
        """Parts of the code: `kind`, `product` and `number`."""
        match = _CODE_PATTERN.fullmatch(self.code)
        assert match is not None, self.code
        return match

    def without_text(self) -> dict[str, object]:
        """Return the problem as everybody may see it: without the text, which has names."""
        return {"code": self.code, "kind": self.kind, "since": iso(self.since)}

    def to_dict(self) -> dict[str, object]:
        """Return the problem as the API shows it."""
        return {
            "code": self.code,
            "kind": self.kind,
            "text": self.text,
            "since": iso(self.since),
            "acknowledged_by": self.acknowledged_by,
        }


@dataclass(frozen=True)
class Standstill:
    """Why nothing of a product is judged at the moment.

    Attributes:
        kind: Kind of the problem that people see.
        error: Error with which a part is refused; None: parts are tried, for only a try can show that the
            standstill is over.
    """

    kind: str
    error: FlawscopeError | None = None


# gets a problem, and whether it is over; False: it begins
Listener = Callable[[Problem, bool], object]


class Problems:
    """Present problems. Thread-safe.

    Args:
        say: Gets a line about each problem that begins, changes or ends; its errors are ignored.
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
            code: Code of the problem.
            why: Text for engineers; None or "": the problem is over.
            action: Button beside the problem; None: it has none.
            stops: Whether nothing is inspected meanwhile.
        """
        why = why or None
        with self._lock:
            previous = self._active.get(code)
            if why is None:
                self._active.pop(code, None)
            elif previous is None:
                self._active[code] = Problem(code, why, now(), action, stops)
            else:
                self._active[code] = replace(previous, text=why, action=action, stops=stops)
        self._tell(code, None if previous is None else previous.text, why)

    def _tell(self, code: str, previous_text: str | None, text: str | None) -> None:
        """Say that a problem begins, changes or ends, and wake the listeners.

        Args:
            code: Code of the problem.
            previous_text: Text of the problem before; None: there was no such problem.
            text: Text of the problem now; None: it is over.
        """
        if previous_text != text:
            level = "warning" if text else "info"
            self.say(Said(f"{code}: {text or 'over'}", level, code=code))
        has_begun_or_ended = (previous_text is None) != (text is None)
        if has_begun_or_ended:
            for listener in self._listeners:
                listener.wake()

    def acknowledge(self, code: str, who: str) -> Problem:
        """Acknowledge a problem: the bar on the pages does not show it until it is over.

        Raises:
            NotFoundError: There is no such problem any more.
        """
        with self._lock:
            if code not in self._active:
                raise NotFoundError(f"there is no problem {code!r:.80}: it is over")
            self._active[code] = replace(self._active[code], acknowledged_by=who)
            return self._active[code]

    def all(self) -> list[Problem]:
        """Return the problems in the order of their reports, the oldest first; clocks may jump meanwhile."""
        return list(self._active.copy().values())

    # ---- listeners

    def listen(self, name: str, listener: Listener, problems: Callable[[], list[Problem]]) -> None:
        """Call a listener with each problem that begins or ends, in a thread of its own.

        A slow listener delays nobody. Present problems count as begun now. A problem that comes and goes
        while the listener is busy is left out. If the listener raises an error, it is called with the same
        problem again, after growing pauses. Its thread is then reported as a problem, too.

        Args:
            name: Name of the thread.
            listener: Gets a problem, and whether it is over.
            problems: Checks the station, and returns its problems.
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
        self._reported: dict[str, Problem] = {}  # problems that the listener knows, by code

    def _call_listener(self, problem: Problem, *, is_over: bool) -> None:
        with self.threads[0].call():
            self._listener(problem, is_over)

    @override
    def _work(self) -> None:
        while not self._ended.is_set():
            present_problems = {problem.code: problem for problem in self._problems()}
            ended_codes = [code for code in self._reported if code not in present_problems]
            begun_codes = [code for code in present_problems if code not in self._reported]
            for code in ended_codes:
                self._call_listener(self._reported[code], is_over=True)
                del self._reported[code]
            for code in begun_codes:
                self._call_listener(present_problems[code], is_over=False)
                self._reported[code] = present_problems[code]
            self._wait(LOOK_INTERVAL)
