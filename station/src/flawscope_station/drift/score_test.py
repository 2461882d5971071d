"""Test of one product's scores under one model version, and the change that it finds."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

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
HIGHER = "higher"
LOWER = "lower"
WIDER = "wider"
NARROWER = "narrower"
_OF_SHIFTS = [HIGHER if shift > 0 else LOWER for shift in SHIFTS]
_OF_SPREADS = [WIDER if spread > 1 else NARROWER for spread in SPREADS]
_CHANGES = (*_OF_SHIFTS, *_OF_SPREADS)  # bet by bet
_PHRASES = {HIGHER: "are higher", LOWER: "are lower", WIDER: "spread more widely", NARROWER: "lie closer"}
_NOTED = re.compile(
    rf"at inspection (?P<at>\d+): scores of good parts (?P<how>{'|'.join(_PHRASES.values())}) "
    r"since about (?P<since>\S+ \S+) UTC \(inspection (?P<first>\d+)\)"
)


class JudgedScore(NamedTuple):
    """Score of an inspection.

    Attributes:
        number: Of the inspection.
        at: Microseconds since 1970.
    """

    number: int
    at: int
    score: float
    is_anomalous: bool


@dataclass(frozen=True)
class Change:
    """Change of the scores of good parts.

    Attributes:
        inspection: At which it was found.
        since: Time of its most likely beginning, microseconds since 1970.
        first: Inspection of its most likely beginning.
        how: Way in which they changed: higher, lower, wider or narrower.
        now: Share of earlier good scores that a new one is above; None: not known any more.
    """

    inspection: int
    since: int
    first: int
    how: str
    now: float | None = None

    def to_dict(self) -> dict[str, object]:
        """Return the change as the API shows it, with `since` in ISO 8601."""
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
    """Return the change of scores that an event notes; None: the event notes something else."""
    if (found := _NOTED.match(text)) is None:
        return None
    how = next(name for name, phrase in _PHRASES.items() if phrase == found["how"])
    since = datetime.fromisoformat(f"{found['since']}+00:00").timestamp()
    return Change(int(found["at"]), round(since * 1e6), int(found["first"]), how)


class ScoreTest:
    """Martingale on the scores of pictures that the model passed.

    These scores stay exchangeable while those of good parts do, whatever the share of defects does.

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
        self._stride = 1
        self._sum = 0.0
        self._ranks, self._capital = Ranks(), Capital(len(_CHANGES))
        self._won: Floats = np.zeros(len(_CHANGES))
        # since when each bet has won: inspection, its time, number and sum of the p-values before it
        self._since: Floats = np.zeros((len(_CHANGES), 4))

    @property
    def value(self) -> float:
        """Logarithm to base 10 of the capital."""
        return self._capital.log / math.log(10)

    def facts(self) -> dict[str, object]:
        """Return the state of the test, as the API shows it."""
        since = None if self.begun is None else iso(self.begun)
        alarm = None if self.alarm is None else self.alarm.to_dict()
        return {
            "version": self.version,
            "since": since,
            "pictures": self.seen,
            "good": self.good,
            "value": self.value,
            "limit": self.limit,
            "flagged": 1 - self.good / self.seen if self.seen else None,
            "alarm": alarm,
            "points": [list(point) for point in self.curve],
        }

    def extend(self, rows: Sequence[JudgedScore]) -> Change | None:
        """Add the next inspections, in the order of numbers; return the change that is certain now."""
        if rows:
            self.begun = rows[0].at if self.begun is None else self.begun
            self.last = rows[-1].number
        finite = [row for row in rows if math.isfinite(row.score)]
        passed = [row for row in finite if not row.is_anomalous]
        self.seen += len(finite)
        p_values = [self._ranks.p_value(row.score, uniform(row.number)) for row in passed]
        before = self.alarm
        log_gains = score_bets(np.array(p_values))  # of all at once: a single one costs as much
        bets = zip(passed, p_values, log_gains, np.exp(log_gains), strict=True)
        for row, p_value, log_gain, gain in bets:
            self._bet(row, p_value, log_gain, gain)
        return None if before is self.alarm else self.alarm

    def _bet(self, row: JudgedScore, p_value: float, log_gain: Floats, gain: Floats) -> None:
        """Bet on the p-value of one passed inspection. log_gain, gain: of each bet [bets]."""
        self._since[self._won <= 0.0] = row.number, row.at, self.good, self._sum
        self._won = np.maximum(self._won, 0.0) + log_gain
        self._capital.stake(gain)
        if self.good % self._stride == 0:
            self._add_point(row.at)
        self.good = self.good + 1
        self._sum = self._sum + p_value
        if self.alarm is None and self.value >= self.limit:
            best = int(np.argmax(self._won))
            first, since, count, earlier = self._since[best].tolist()
            now = 1 - (self._sum - earlier) / (self.good - count)
            self.alarm = Change(row.number, int(since), int(first), _CHANGES[best], now)

    def _add_point(self, at: int) -> None:
        """Add a point to the curve; where there are too many, every second point is kept."""
        self.curve.append((at / 1e6, self.value))
        if len(self.curve) > MAX_POINTS:
            self.curve = self.curve[::2]
            self._stride = 2 * self._stride
