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
_SHIFT_CHANGES = [HIGHER if shift > 0 else LOWER for shift in SHIFTS]
_SPREAD_CHANGES = [WIDER if spread > 1 else NARROWER for spread in SPREADS]
_CHANGES = (*_SHIFT_CHANGES, *_SPREAD_CHANGES)  # change on which each bet of `score_bets` is placed
_PHRASES = {HIGHER: "are higher", LOWER: "are lower", WIDER: "spread more widely", NARROWER: "lie closer"}
_NOTE_PATTERN = re.compile(
    rf"at inspection (?P<at>\d+): scores of good parts (?P<how>{'|'.join(_PHRASES.values())}) "
    r"since about (?P<since>\S+ \S+) UTC \(inspection (?P<first>\d+)\)"
)


class JudgedScore(NamedTuple):
    """Score of an inspection.

    Attributes:
        number: Number of the inspection.
        at: Time of the inspection, microseconds since 1970.
        score: Score of the picture.
        is_anomalous: Whether the model called it anomalous.
    """

    number: int
    at: int
    score: float
    is_anomalous: bool


@dataclass(frozen=True)
class Change:
    """Change of the scores of good parts.

    Attributes:
        inspection: Number of the inspection at which the change was found.
        since: Time of its most likely beginning, microseconds since 1970.
        first: Number of the inspection of its most likely beginning.
        how: Kind of the change: higher, lower, wider or narrower.
        now: Share of the earlier good scores below the average new score; None: not known any more.
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
        """Return one line about the change, with the remedy."""
        # date, hour and minute
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
        """Text of the event that records the change, which `read_note` reads."""
        return f"at inspection {self.inspection}: {self.describe()}"


def read_note(text: str) -> Change | None:
    """Return the change that `Change.note` has written as text; None: the text is no such note."""
    match = _NOTE_PATTERN.match(text)
    if match is None:
        return None
    how_by_phrase = {phrase: how for how, phrase in _PHRASES.items()}
    since_seconds = datetime.fromisoformat(f"{match['since']}+00:00").timestamp()
    return Change(
        inspection=int(match["at"]),
        since=round(since_seconds * 1e6),
        first=int(match["first"]),
        how=how_by_phrase[match["how"]],
    )


class ScoreTest:
    """Martingale on the scores of pictures that the model passed.

    These scores stay exchangeable as long as those of good parts do, even if the share of defects changes.

    The beginning of a change is estimated by maximum likelihood (Page 1954): of all beginnings, it is the one
    from which on the most successful bet has won most.

    Args:
        version: Number of the model version.
        after: Number of the inspection after which the test begins.
        bound: Largest probability that the test ever raises an alarm although nothing changes.

    Attributes:
        limit: Value at which the test raises an alarm.
        last: Number of the last inspection that was added.
        begun: Time of the first inspection, microseconds since 1970; None: no inspection was added yet.
        seen: Number of inspections with a finite score.
        good: Number of inspections among them that the model passed.
        alarm: Change that was found; None: no change was found.
        curve: Points of the martingale: seconds since 1970, and `value` at that time.
    """

    def __init__(self, version: int, after: int, bound: float):
        self.version = version
        self.after = after
        self.limit = -math.log10(bound)
        self.last = after
        self.begun: int | None = None
        self.seen = 0
        self.good = 0
        self.alarm: Change | None = None
        self.curve: list[tuple[float, float]] = []
        self._stride = 1  # passed inspections for each point of the curve
        self._p_value_sum = 0.0
        self._ranks = Ranks()
        self._capital = Capital(len(_CHANGES))
        # logarithm of each bet's gain since its best beginning
        self._gains: Floats = np.zeros(len(_CHANGES))
        # best beginning of each bet [bets, 4]: number and time of its inspection, number of the passed
        # inspections before that one, and the sum of their p-values
        self._beginnings: Floats = np.zeros((len(_CHANGES), 4))

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
        """Add the next inspections, in the order of their numbers.

        Returns:
            The change, if these inspections raise the alarm; else None.
        """
        if rows:
            if self.begun is None:
                self.begun = rows[0].at
            self.last = rows[-1].number
        finite_rows = [row for row in rows if math.isfinite(row.score)]
        passed_rows = [row for row in finite_rows if not row.is_anomalous]
        self.seen += len(finite_rows)
        p_values = [self._ranks.p_value(row.score, uniform(row.number)) for row in passed_rows]
        alarm_before = self.alarm
        # computed for all rows at once, which takes no longer than for one row
        log_factors = score_bets(np.array(p_values))
        factors = np.exp(log_factors)
        for row, p_value, row_log_factors, row_factors in zip(
            passed_rows, p_values, log_factors, factors, strict=True
        ):
            self._bet(row, p_value, row_log_factors, row_factors)
        return None if alarm_before is self.alarm else self.alarm

    def _bet(self, row: JudgedScore, p_value: float, log_factors: Floats, factors: Floats) -> None:
        """Bet on the p-value of a passed inspection, and raise an alarm if the martingale reaches the limit.

        Args:
            row: Inspection.
            p_value: P-value of its score.
            log_factors: Logarithms of the factors of the bets [bets].
            factors: Factors of the bets [bets].
        """
        has_lost = self._gains <= 0.0  # a bet that has lost since its best beginning begins again here
        # inspection's number and time, number of passed inspections before it, and sum of their p-values
        self._beginnings[has_lost] = row.number, row.at, self.good, self._p_value_sum
        self._gains = np.maximum(self._gains, 0.0) + log_factors
        self._capital.stake(factors)
        if self.good % self._stride == 0:  # a point for each `_stride` passed inspections
            self._add_point(row.at)
        self.good += 1
        self._p_value_sum += p_value
        if self.alarm is None and self.value >= self.limit:
            best_bet = int(np.argmax(self._gains))
            first, since, good_before, sum_before = self._beginnings[best_bet].tolist()
            mean_p_value = (self._p_value_sum - sum_before) / (self.good - good_before)
            self.alarm = Change(
                inspection=row.number,
                since=int(since),
                first=int(first),
                how=_CHANGES[best_bet],
                now=1 - mean_p_value,  # a high score has a small p-value
            )

    def _add_point(self, at: int) -> None:
        """Add a point to the curve; if it then has more than `MAX_POINTS`, drop every second point."""
        self.curve.append((at / 1e6, self.value))
        if len(self.curve) > MAX_POINTS:
            self.curve = self.curve[::2]
            self._stride = 2 * self._stride
