"""Tests of one product under one model version, and the changes that they find."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from flawscope_station.drift.martingale import (
    SHARE_RATIOS,
    SHIFTS,
    SPREADS,
    Capital,
    Floats,
    Ranks,
    flag_bets,
    score_bets,
    shift_bets,
    uniform,
)
from flawscope_station.store.records import iso

NUMBER_OF_TESTS = 3  # share the bound: scores and brightness of good parts, share of flagged pictures
MIN_LIGHT_CHANGE = 0.025  # share of the brightness: a smaller change is never reported, however certain
MIN_PICTURES, MAX_PICTURES = 20, 1000  # good parts by which the size of a change is estimated
STANDARD_ERRORS = 3.0  # half the width of the interval of that size
MAX_POINTS = 800  # points of the curve
HIGHER, LOWER, WIDER, NARROWER, MORE, FEWER = "higher", "lower", "wider", "narrower", "more", "fewer"
BRIGHTER, DARKER = "brighter", "darker"
_SCORE_CHANGES = tuple(HIGHER if d > 0 else LOWER for d in SHIFTS) + tuple(
    WIDER if c > 1 else NARROWER for c in SPREADS
)
LIGHT_CHANGES = tuple(BRIGHTER if d > 0 else DARKER for d in SHIFTS)
SHARE_CHANGES = tuple(MORE if c > 1 else FEWER for c in SHARE_RATIOS)
_PHRASES = {HIGHER: "are higher", LOWER: "are lower", WIDER: "spread more widely", NARROWER: "lie closer"}


class StreamPosition(NamedTuple):
    """Inspection in the stream: its number and time; of the tested ones before it their number, and the sums
    of the counted values and of the brightness."""

    number: int
    at: int
    before: int
    sums: Floats


@dataclass(frozen=True)
class Change:
    """Change that a test found.

    at, inspection: time and inspection at which it was found; times are microseconds since 1970.
    since, first: time and inspection of its most likely beginning.
    pictures: number tested since then.
    how: way in which pictures changed.
    before, now: shares of flagged pictures before and since; of scores: .5, and the share of earlier good
    scores that a new one is above; of light: the brightness, 0..1.
    light: relative change of the brightness of the same pictures; None: not known.
    """

    at: int
    inspection: int
    since: int
    first: int
    pictures: int
    how: str
    before: float
    now: float
    light: float | None = None

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self), "at": iso(self.at), "since": iso(self.since)}

    def describe(self) -> str:
        """Return one line on the change, and what to look at."""
        since = f"{iso(self.since)[:16].replace('T', ' ')} UTC (inspection {self.first})"
        if self.how in LIGHT_CHANGES:
            assert self.light is not None
            return (
                f"pictures of good parts are {_percent(abs(self.light))} {self.how} since about {since}; "
                "look at lamp, exposure and daylight, or take it as the new normal (page Trends)"
            )
        if self.how in SHARE_CHANGES:
            text = f"{self.how} pictures are anomalous since about {since}: {_percent(self.now)} instead of "
            return text + f"{_percent(self.before)}{_light_phrase(self)}; defects, or the camera?"
        rank = self.now if self.now >= 0.5 else 1 - self.now
        word = "above" if self.now >= 0.5 else "below"
        text = f"scores of good parts {_PHRASES[self.how]} since about {since}"
        if self.how in (HIGHER, LOWER):
            text += f": the average one is {word} {_percent(rank)} of the earlier ones"
        return (
            f"{text}{_light_phrase(self)}; look at light, lens and part, then calibrate anew, or take it as "
            "the new normal (page Trends)"
        )


class SequentialTest:
    """Martingale, with the most likely beginning of a change for each of its bets.

    The beginning is the maximum-likelihood estimate: the place after which the bet has won most (Page 1954).

    Args:
        directions: way in which numbers changed if a bet wins, bet by bet.
        limit: logarithm to base 10 of the capital at which a change is certain.
    """

    def __init__(self, directions: tuple[str, ...], limit: float):
        self.directions, self.limit, self.capital, self.count = directions, limit, Capital(len(directions)), 0
        self.sums: Floats = np.zeros(2)
        self._cusum: Floats = np.zeros(len(directions))
        self._since = [StreamPosition(0, 0, 0, self.sums)] * len(directions)

    def add(
        self, number: int, at: int, log_gains: Floats, value: float, brightness: float | None = None
    ) -> Change | None:
        """Add the next number; return the change while it is certain.

        Args:
            log_gains: [bets], logarithms.
            value: `before` and `now` of a change are its means.
        """
        position = StreamPosition(number, at, self.count, self.sums)
        for place in np.flatnonzero(self._cusum <= 0.0):
            self._since[place] = position
        self._cusum = np.maximum(self._cusum, 0.0) + log_gains
        self.capital.stake(np.exp(log_gains)[None])
        self.count += 1
        self.sums = self.sums + np.array((value, math.nan if brightness is None else brightness))
        return None if self.value < self.limit else self._change(number, at)

    @property
    def value(self) -> float:
        """Logarithm to base 10 of the capital."""
        return float(self.capital.log[0]) / math.log(10)

    def _change(self, number: int, at: int) -> Change:
        best = int(np.argmax(self._cusum))
        since = self._since[best]
        pictures = self.count - since.before
        before, brightness_before = (since.sums / max(1, since.before)).tolist()
        now, brightness = ((self.sums - since.sums) / pictures).tolist()
        # NaN: the brightness of some pictures is not known
        is_known = brightness_before > 0 and math.isfinite(brightness)
        light = brightness / brightness_before - 1 if is_known else None
        return Change(at, number, since.at, since.number, pictures, self.directions[best], before, now, light)


class LightTest:
    """Tests the brightness of good parts.

    A certain change is followed until it is clear whether it reaches `MIN_LIGHT_CHANGE`. A smaller one is
    ignored, and the test begins anew among the same earlier pictures. The brightness before the first change
    is kept, so that many small changes are found once they add up to a large one.

    Attributes:
        alarm: change of the light.
        pictures: number tested.
    """

    def __init__(self, limit: float):
        self.test = SequentialTest(LIGHT_CHANGES, limit)
        self.alarm: Change | None = None
        self.pictures = 0
        self._ranks = Ranks()
        self._normal = 0.0  # brightness before the first change; 0: there was no change
        self._last = 0.0
        self._steps = 0.0  # sum of squares from one picture to the next

    def add(self, number: int, at: int, brightness: float) -> bool:
        """Test a picture's brightness; return whether a change of the light is found, then test no more."""
        if self.alarm is not None:
            return False
        self._steps += (brightness - self._last) ** 2 if self.pictures else 0.0
        self._last = brightness
        self.pictures += 1
        p = self._ranks.p_value(brightness, uniform(number, 3))
        found = self.test.add(number, at, shift_bets(np.array(p)), brightness)
        if found is None or found.pictures < MIN_PICTURES:
            return False  # a true change is still certain at the next pictures
        normal = self._normal = self._normal or found.before or found.now
        change = found.now / normal - 1 if normal else 0.0
        size = change if found.how == BRIGHTER else -change
        # half of the mean square step is the variance between parts (von Neumann 1941), whatever light did
        spread = math.sqrt(self._steps / 2 / max(1, self.pictures - 1))
        unsure = STANDARD_ERRORS * spread / math.sqrt(found.pictures) / normal if normal else 0.0
        if abs(size - MIN_LIGHT_CHANGE) < unsure and found.pictures < MAX_PICTURES:
            return False
        if size >= MIN_LIGHT_CHANGE:
            self.alarm = replace(found, before=normal, light=change)
            return True
        self.test = SequentialTest(LIGHT_CHANGES, self.test.limit)
        return False

    def facts(self) -> dict[str, Any]:
        """Return the state of the test, as the API shows it."""
        alarm = self.alarm.to_dict() if self.alarm else None
        return {"pictures": self.pictures, "value": self.test.value, "alarm": alarm}


class DriftTests:
    """Three tests of the results of one version.

    Two are of the scores and of the brightness of pictures that the model passed: whatever the share of
    defects does, these stay exchangeable while the good parts do. The third is of decisions: whether the
    share of flagged pictures is as before. Each test gets an equal part of the bound. A change of the third
    is a notice, not an alarm, and begins that test anew.

    Args:
        version: of the model.
        after: the inspection after which the tests begin.
        bound: bound of the probability that a test ever reports while nothing changes; None: nothing is
            tested.
        light: whether brightness is tested.
    """

    def __init__(self, version: int, after: int, bound: float | None, light: bool = True):
        self.version, self.after, self.bound = version, after, bound
        parts = NUMBER_OF_TESTS if light else NUMBER_OF_TESTS - 1
        self.limit = math.inf if bound is None else math.log10(parts / bound)
        self.last, self.last_at = after, 0
        self.begun: int | None = None  # when, in microseconds since 1970
        self.seen = 0
        self.alarm: Change | None = None
        self.notice: Change | None = None
        self.changes: list[Change] = []  # that are not recorded as events yet
        self.scores = SequentialTest(_SCORE_CHANGES, self.limit)
        self.flags = SequentialTest(SHARE_CHANGES, self.limit)
        self.light = LightTest(self.limit) if light else None
        self._ranks = Ranks()
        self.curve: list[tuple[float, float]] = []  # seconds since 1970, log10 of the capital of `scores`
        self._stride = 1

    def add(
        self, number: int, at: int, score: float, anomalous: bool, brightness: float | None = None
    ) -> None:
        """Add the next inspection, in the order of numbers. brightness: 0..1; None: not known."""
        self.last, self.last_at = number, at
        self.begun = at if self.begun is None else self.begun
        if not math.isfinite(score):
            return
        self.seen += 1
        self._test_share(number, at, anomalous, brightness)
        if not anomalous:
            self._test_score(number, at, score, brightness)
            if self.light and brightness is not None and self.light.add(number, at, brightness):
                self.changes += [self.light.alarm] if self.light.alarm else []

    def _test_score(self, number: int, at: int, score: float, brightness: float | None) -> None:
        p = self._ranks.p_value(score, uniform(number, 1))
        found = self.scores.add(number, at, score_bets(np.array(p)), p, brightness)
        if found is not None and self.alarm is None:
            self.alarm = replace(found, before=0.5, now=1 - found.now)
            self.changes.append(self.alarm)
        if (self.scores.count - 1) % self._stride == 0:
            self.curve.append((at / 1e6, self.scores.value))
            if len(self.curve) > MAX_POINTS:
                self.curve, self._stride = self.curve[::2], 2 * self._stride

    def _test_share(self, number: int, at: int, anomalous: bool, brightness: float | None) -> None:
        before, count = float(self.flags.sums[0]), self.flags.count + 1
        share = (before + 0.5) / count  # of earlier pictures alone
        flagged, u = before + anomalous, uniform(number, 2)
        p = u * flagged / count if anomalous else (flagged + u * (count - flagged)) / count
        log_gains = flag_bets(np.array(p), np.array(share))
        change = self.flags.add(number, at, log_gains, float(anomalous), brightness)
        if change is not None:
            self.changes.append(change)
            self.notice = None if _is_burst_over(self.notice, change) else change
            self.flags = SequentialTest(SHARE_CHANGES, self.limit)


def _is_burst_over(last: Change | None, change: Change) -> bool:
    """Whether a burst is over: the share of flagged pictures is nearer to that before it than during it."""
    if last is None or last.how != MORE or change.how != FEWER:
        return False
    return change.now <= math.sqrt(max(last.before, 0.005) * last.now)


def _light_phrase(change: Change) -> str:
    """Return words on the change of brightness, empty where it is small."""
    if change.light is None or abs(change.light) < MIN_LIGHT_CHANGE:
        return ""
    return f", and pictures are {BRIGHTER if change.light > 0 else DARKER}"


def _percent(share: float) -> str:
    return f"{100 * share:.{1 if share < 0.1 else 0}f} %"
