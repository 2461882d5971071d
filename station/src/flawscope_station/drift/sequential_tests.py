"""Test of one product's scores under one model version, and the change that it finds."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np

from flawscope_station.drift.martingale import (
    SHIFTS,
    SPREADS,
    Capital,
    Floats,
    Ranks,
    score_bets,
    uniform,
)
from flawscope_station.store.records import iso

MAX_POINTS = 800  # points of the curve
HIGHER, LOWER, WIDER, NARROWER = "higher", "lower", "wider", "narrower"
_CHANGES = tuple(HIGHER if d > 0 else LOWER for d in SHIFTS) + tuple(
    WIDER if c > 1 else NARROWER for c in SPREADS
)  # bet by bet
_PHRASES = {HIGHER: "are higher", LOWER: "are lower", WIDER: "spread more widely", NARROWER: "lie closer"}
_NOTED = re.compile(
    rf"at inspection (?P<at>\d+): scores of good parts (?P<how>{'|'.join(_PHRASES.values())}) "
    r"since about (?P<since>\S+ \S+) UTC \(inspection (?P<first>\d+)\)"
)


class StreamPosition(NamedTuple):
    """Inspection in the stream: its number and time; of the tested ones before it their number, and the sum
    of their p-values."""

    number: int
    at: int
    before: int
    sum: float


@dataclass(frozen=True)
class Change:
    """Change of the scores of good parts.

    inspection: at which it was found.
    since, first: time (microseconds since 1970) and inspection of its most likely beginning.
    how: way in which they changed.
    now: share of earlier good scores that a new one is above; None: not known any more.
    """

    inspection: int
    since: int
    first: int
    how: str
    now: float | None = None

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self), "since": iso(self.since)}

    def describe(self) -> str:
        """Return one line on the change, and what to look at."""
        since = f"{iso(self.since)[:16].replace('T', ' ')} UTC (inspection {self.first})"
        text = f"scores of good parts {_PHRASES[self.how]} since about {since}"
        if self.now is not None and self.how in (HIGHER, LOWER):
            word, share = ("above", self.now) if self.now >= 0.5 else ("below", 1 - self.now)
            text += f": the average one is {word} {100 * share:.0f} % of the earlier ones"
        return (
            f"{text}; look at light, lens and part, then calibrate anew, or take it as the new normal (page "
            "Trends)"
        )

    @property
    def note(self) -> str:
        """Text of the event."""
        return f"at inspection {self.inspection}: {self.describe()}"


def read_note(text: str) -> Change | None:
    """Return the change that an event notes; None: it is none of scores."""
    if (found := _NOTED.match(text)) is None:
        return None
    how = next(name for name, phrase in _PHRASES.items() if phrase == found["how"])
    since = datetime.fromisoformat(f"{found['since']}+00:00").timestamp()
    return Change(int(found["at"]), round(since * 1e6), int(found["first"]), how)


class ScoreTest:
    """Martingale on the scores of pictures that the model passed: whatever the share of defects does, these
    stay exchangeable while the good parts do.

    The beginning of a change is the maximum-likelihood estimate: the place after which the bet that won most
    has won most (Page 1954).

    Args:
        version: of the model.
        after: the inspection after which the test begins.
        bound: bound of the probability that it ever reports while nothing changes.
    """

    def __init__(self, version: int, after: int, bound: float):
        self.version, self.after, self.limit = version, after, -math.log10(bound)
        self.last = after
        self.begun: int | None = None  # when, in microseconds since 1970
        self.seen = self.good = 0
        self.alarm: Change | None = None
        self.curve: list[tuple[float, float]] = []  # seconds since 1970, `value` then
        self._stride, self._sum = 1, 0.0
        self._ranks, self._capital = Ranks(), Capital(len(_CHANGES))
        self._won: Floats = np.zeros(len(_CHANGES))
        self._since = [StreamPosition(0, 0, 0, 0.0)] * len(_CHANGES)

    @property
    def value(self) -> float:
        """Logarithm to base 10 of the capital."""
        return float(self._capital.log[0]) / math.log(10)

    def add(self, number: int, at: int, score: float, anomalous: bool) -> Change | None:
        """Add the next inspection, in the order of numbers; return the change at which it is certain."""
        self.last = number
        self.begun = at if self.begun is None else self.begun
        if not math.isfinite(score):
            return None
        self.seen += 1
        if anomalous:
            return None
        p = self._ranks.p_value(score, uniform(number))
        log_gains = score_bets(np.array(p))
        position = StreamPosition(number, at, self.good, self._sum)
        for place in np.flatnonzero(self._won <= 0.0):
            self._since[place] = position
        self._won = np.maximum(self._won, 0.0) + log_gains
        self._capital.stake(np.exp(log_gains)[None])
        self.good, self._sum = self.good + 1, self._sum + p
        if (self.good - 1) % self._stride == 0:
            self.curve.append((at / 1e6, self.value))
            if len(self.curve) > MAX_POINTS:
                self.curve, self._stride = self.curve[::2], 2 * self._stride
        if self.alarm is not None or self.value < self.limit:
            return None
        best = int(np.argmax(self._won))
        since = self._since[best]
        now = 1 - (self._sum - since.sum) / (self.good - since.before)
        self.alarm = Change(number, since.at, since.number, _CHANGES[best], now)
        return self.alarm
