"""Whether a product may answer requests, by the history of its challenges alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from flawscope_station.store.schema import ANOMALOUS, EARLIER_RELEASE, GOOD

PASSED = "passed"  # outcome of a challenge, and of a part
FAILED = "failed"  # outcome of a challenge, and of a part
OVERRIDDEN = "overridden"  # outcome of a challenge
REPLACED = "replaced"  # outcome of a challenge
WRONG_PART = "wrong_part"  # outcome of a part
OLD_PICTURE = "old_picture"  # outcome of a part
# Least resemblance to the stored picture: parts of the same product in the same position have 0.73 and more,
# others 0.61 and less
LEAST = 0.65
CLOCK_TOLERANCE = 60_000_000  # microseconds by which a clock may be set back after a challenge


@dataclass(frozen=True)
class Instant:
    """Time by the wall clock, microseconds since 1970, and by the monotonic clock, seconds."""

    wall: int
    monotonic: float


@dataclass(frozen=True)
class Showing:
    """Showing of a challenge part: the part was inspected and judged.

    Attributes:
        number: Number of the challenge part.
        inspection: Number of the inspection.
        at: Time of the inspection, microseconds since 1970.
        decision: Decision on the part.
        resemblance: Lowest resemblance of its pictures to the stored pictures, -1 to 1.
        is_at_place: Whether a region lies where a stored region does.
        pixels: Hashes of the pixels of its pictures.
        is_copy: Whether a picture had been taken before the challenge.
    """

    number: int
    inspection: int
    at: int
    decision: str
    resemblance: float = 1.0
    is_at_place: bool = True
    pixels: frozenset[str] = frozenset()
    is_copy: bool = False

    def outcome(self, expected: str, earlier: Iterable[Showing] = ()) -> str:
        """Return the outcome of the part: passed, failed, wrong_part or old_picture.

        Args:
            expected: Right decision, good or anomalous.
            earlier: Earlier showings in the same challenge.
        """
        # `pixels` are sets of hashes: a common one is the same picture
        repeats_earlier = any(self.pixels & showing.pixels for showing in earlier)
        if self.is_copy or repeats_earlier:
            return OLD_PICTURE
        if self.resemblance < LEAST:
            return WRONG_PART
        if self.decision != expected:  # also if a defect was decided to be within tolerance
            return FAILED
        if expected == GOOD or self.is_at_place:
            return PASSED
        return WRONG_PART


class RunResult(NamedTuple):
    """Result of a challenge.

    Attributes:
        outcome: passed, failed or overridden; None: the challenge is under way.
        ended_at: Time of the outcome, microseconds since 1970; None: the challenge is under way.
        passed_parts: Numbers of the challenge parts that have passed.
    """

    outcome: str | None
    ended_at: int | None
    passed_parts: frozenset[int]


@dataclass(frozen=True)
class Run:
    """Challenge of a product.

    Attributes:
        judging: Number of the version that judged, and the hash of settings and parts at that time.
        parts: Right decision on each challenge part, by its number.
        begun_at: Time of the beginning, microseconds since 1970.
        cause: Why the challenge was due.
        who: Person who began it.
        reason: Reason of the person who overrode it; None: nobody did.
        showings: Showings of challenge parts, in their order.
    """

    judging: tuple[int, str]
    parts: Mapping[int, str]
    begun_at: int
    cause: str = ""
    who: str = ""
    reason: str | None = None
    showings: tuple[Showing, ...] = ()

    @cached_property  # cached, because each picture of the line asks for it
    def result(self) -> RunResult:
        """Result of the challenge.

        A challenge passes when all of its parts have passed, with good and defective parts among them. It
        fails when one part fails. A person may override it.
        """
        if self.reason is not None:
            return RunResult(OVERRIDDEN, self.begun_at, frozenset())
        has_both_kinds = set(self.parts.values()) == {GOOD, ANOMALOUS}
        passed_parts = set[int]()
        for position, showing in enumerate(self.showings):
            outcome = showing.outcome(self.parts[showing.number], self.showings[:position])
            if outcome == FAILED:
                return RunResult(FAILED, showing.at, frozenset(passed_parts))
            if outcome == PASSED:
                passed_parts.add(showing.number)
            if passed_parts == self.parts.keys() and has_both_kinds:
                return RunResult(PASSED, showing.at, frozenset(passed_parts))
        return RunResult(None, None, frozenset(passed_parts))  # under way: no outcome, no end

    @property
    def outcome(self) -> str | None:
        """Outcome: passed, failed or overridden; None: the challenge is under way."""
        return self.result.outcome


@dataclass(frozen=True)
class History:
    """Challenges of a product as they were read.

    Attributes:
        read: Time at which they were read.
        parts: Names of the product's challenge parts, by number.
        last: Last challenge; None: there was none.
        next_due: Function of a moment, which returns the first later moment at which a challenge is due, both
            in microseconds since 1970; it returns None if no challenge is ever due.
    """

    read: Instant
    parts: Mapping[int, str] = field(default_factory=dict)
    last: Run | None = None
    next_due: Callable[[int], int | None] = lambda at: None

    @property
    def is_under_way(self) -> bool:
        """Whether the last challenge has no outcome yet."""
        return self.last is not None and self.last.outcome is None

    def passed(self) -> frozenset[int]:
        """Return the numbers of the parts that have passed in the challenge under way."""
        if self.last is None or not self.is_under_way:
            return frozenset()
        return self.last.result.passed_parts


@dataclass(frozen=True)
class Readiness:
    """Whether a product may answer requests.

    Attributes:
        cause: Why the product may not answer; None: it may.
        missing: Names of the challenge parts that are still to be shown.
        next_at: Time at which the next challenge is due, microseconds since 1970; None: at no time.
    """

    cause: str | None
    missing: tuple[str, ...] = ()
    next_at: int | None = None


def readiness(history: History, judging: tuple[int | None, str], now: Instant) -> Readiness:
    """Return whether a product may answer requests, as its last challenge shows.

    The last challenge must have passed, or must have been overridden. Version, settings and parts must be the
    same now as in that challenge. No new challenge may be due.

    Args:
        history: Challenges of the product.
        judging: Present number of the version (None: no model is open), and present hash of settings and
            parts.
        now: Present time.
    """
    last_challenge = history.last
    ended_at = None if last_challenge is None else last_challenge.result.ended_at
    due_at = None if ended_at is None else history.next_due(ended_at)
    cause = _cause(last_challenge, judging)
    if cause is None and due_at is not None and ended_at is not None:
        cause = _time_cause(read_at=history.read, ended_at=ended_at, due_at=due_at, now=now)
    if cause is None:
        return Readiness(None, next_at=due_at)
    passed_parts = history.passed()
    missing = [name for number, name in history.parts.items() if number not in passed_parts]
    return Readiness(cause, missing=tuple(missing))


def _cause(last: Run | None, judging: tuple[int | None, str]) -> str | None:
    """Return why the last challenge is no longer valid, apart from its age; None: it is valid.

    Args:
        last: Last challenge; None: there was none.
        judging: Present number of the version, and present hash of settings and parts.
    """
    if last is None:
        return "first"
    if last.outcome is None:
        return last.cause
    if last.outcome == FAILED:
        return FAILED
    challenged_version, challenged_hash = last.judging
    version, state_hash = judging
    if challenged_version != version:
        return "version"
    if challenged_hash == EARLIER_RELEASE:
        return "release"
    if challenged_hash != state_hash:
        return "settings"
    return None


def _time_cause(*, read_at: Instant, ended_at: int, due_at: int, now: Instant) -> str | None:
    """Return why the last challenge is too old: time or clock; None: it is still valid.

    The cause is the clock if the wall clock shows a time before the end of the challenge, or if the next
    challenge is due by the monotonic clock, but not by the wall clock.

    Args:
        read_at: Time at which the history was read.
        ended_at: End of the last challenge, microseconds since 1970.
        due_at: Time of the next challenge, microseconds since 1970.
        now: Present time.
    """
    if now.wall >= due_at:
        return "time"
    is_set_back = now.wall < ended_at - CLOCK_TOLERANCE
    remaining = max(0, due_at - read_at.wall) + CLOCK_TOLERANCE  # microseconds from `read_at` on
    is_due_by_monotonic = now.monotonic >= read_at.monotonic + remaining / 1e6
    if is_set_back or is_due_by_monotonic:
        return "clock"
    return None
