"""Problems that a person should see to: what is wrong at the moment, and who has acknowledged it.

The pages name a kind of problem, and say who does what about it, in the words of the shop floor: a title
below `wrong` and a text below `remedy` in `web/assets/texts`. A kind without texts is shown as `other`.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

from flawscope_station.background import unfailing
from flawscope_station.store.database import now
from flawscope_station.store.records import NotFoundError, iso

PROBLEM_ACKNOWLEDGED = "problem acknowledged"  # an event
_CODE_PATTERN = re.compile(r"(?P<kind>.+?)(?:_(?P<product>\d+))?(?:_(?P<number>\d+))?")


@dataclass(frozen=True)
class Action:
    """Button beside a problem, for engineers and administrators.

    route: gets an empty JSON object by POST, as `/api/v1/clock/confirm`. label: key of its text.
    """

    route: str
    label: str


@dataclass(frozen=True)
class Problem:
    """Problem that a person should see to.

    code: the kind, and the numbers of the product and of the camera, folder or sink concerned, if any:
    `camera_away_1_2`. text: for engineers. since: microseconds since 1970. stops: nothing is inspected, of
    the product concerned or of all.
    """

    code: str
    text: str
    since: int
    action: Action | None = None
    stops: bool = False
    acknowledged_by: str | None = None

    @property
    def kind(self) -> str:
        return self._parts["kind"]

    @property
    def product(self) -> int | None:
        return int(self._parts["product"]) if self._parts["product"] else None

    @property
    def number(self) -> int | None:
        return int(self._parts["number"]) if self._parts["number"] else None

    def stops_product(self, product_ids: Collection[int]) -> bool:
        """Whether nothing of a product is inspected. product_ids: its number, and that of its entry."""
        return self.stops and (self.product is None or self.product in product_ids)

    @property
    def _parts(self) -> re.Match[str]:
        found = _CODE_PATTERN.fullmatch(self.code)
        assert found is not None, self.code
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return the problem as the API shows it."""
        shown = {"code": self.code, "kind": self.kind, "text": self.text}
        return {**shown, "since": iso(self.since), "acknowledged_by": self.acknowledged_by}


class Problems:
    """Present problems. Thread-safe.

    Args:
        say: gets a line about each problem that begins, changes or ends; its errors harm nobody.
    """

    def __init__(self, say: Callable[[str], None]):
        self.say = unfailing(say)
        self._active: dict[str, Problem] = {}
        self._lock = threading.Lock()

    def report(
        self, code: str, why: str | None, action: Action | None = None, *, stops: bool = False
    ) -> None:
        """Report a problem; None or empty: it is over. stops: nothing is inspected meanwhile."""
        why = why or None
        with self._lock:
            before = self._active.get(code)
            if why is None:
                self._active.pop(code, None)
            elif before is None:
                self._active[code] = Problem(code, why, now(), action, stops)
            else:
                self._active[code] = replace(before, text=why, action=action, stops=stops)
        if (before.text if before else None) != why:
            self.say(f"{code}: {why or 'over'}")

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
