"""Whether a product may answer, by the challenge parts that were shown: functions of the history alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from flawscope_station.store.schema import ANOMALOUS, EARLIER_RELEASE, GOOD

# outcomes of a challenge
PASSED = "passed"
FAILED = "failed"
OVERRIDDEN = "overridden"
REPLACED = "replaced"
# outcomes of a part, beside passed and failed
WRONG_PART = "wrong_part"
OLD_PICTURE = "old_picture"
LEAST = 0.65  # resemblance: parts of one product that lie alike have 0.73 and more, others 0.61 and less
CLOCK_TOLERANCE = 60_000_000  # microseconds by which a clock may be set back after a challenge


@dataclass(frozen=True)
class Instant:
    """Time by the wall clock, microseconds since 1970, and by the monotonic clock, seconds."""

    wall: int
    monotonic: float


@dataclass(frozen=True)
class Shown:
    """Challenge part as it was shown and judged.

    Attributes:
        number: Of the challenge part.
        inspection: Number of the record.
        at: Microseconds since 1970.
        decision: On the part.
        resemblance: Of its pictures to the stored ones, the lowest, -1 to 1.
        is_at_place: A region lies where a stored one does.
        pixels: Hashes of its pictures.
        is_copy: Some pictures had been taken before the challenge.
    """

    number: int
    inspection: int
    at: int
    decision: str
    resemblance: float = 1.0
    is_at_place: bool = True
    pixels: frozenset[str] = frozenset()
    is_copy: bool = False

    def outcome(self, expected: str, before: Iterable[Shown] = ()) -> str:
        """Return passed, failed, wrong_part or old_picture.

        Args:
            expected: good or anomalous.
            before: parts that were shown before in the same challenge.
        """
        if self.is_copy or any(self.pixels & other.pixels for other in before):
            return OLD_PICTURE
        if self.resemblance < LEAST:
            return WRONG_PART
        if self.decision != expected:  # a defect within tolerance was not found
            return FAILED
        return PASSED if expected == GOOD or self.is_at_place else WRONG_PART


@dataclass(frozen=True)
class Run:
    """Challenge of a product.

    Attributes:
        judging: Number of the version that judges, and a hash of settings and parts.
        parts: Expected decision of each challenge part, by its number.
        begun_at: Microseconds since 1970.
        cause: Why it was due.
        who: Began it.
        reason: Of the person who overrode it; None: nobody did.
        shown: Challenge parts in the order in which they were shown.
    """

    judging: tuple[int, str]
    parts: Mapping[int, str]
    begun_at: int
    cause: str = ""
    who: str = ""
    reason: str | None = None
    shown: tuple[Shown, ...] = ()

    @cached_property  # each picture of the line asks
    def result(self) -> tuple[str | None, int | None, frozenset[int]]:
        """The outcome, when it came, and the numbers of the parts that have passed; None: it is under way."""
        passed = set[int]()
        if self.reason is not None:
            return OVERRIDDEN, self.begun_at, frozenset()
        for place, inspection in enumerate(self.shown):
            outcome = inspection.outcome(self.parts[inspection.number], self.shown[:place])
            if outcome == FAILED:
                return FAILED, inspection.at, frozenset(passed)
            passed |= {inspection.number} if outcome == PASSED else set()
            if passed == {*self.parts} and {*self.parts.values()} == {GOOD, ANOMALOUS}:
                return PASSED, inspection.at, frozenset(passed)
        return None, None, frozenset(passed)

    @property
    def outcome(self) -> str | None:
        """passed, failed or overridden; None: it is under way."""
        return self.result[0]


@dataclass(frozen=True)
class History:
    """Challenges of a product as they were read.

    Attributes:
        read: When.
        parts: Names of its challenge parts, by number.
        last: The last challenge; None: there was none.
        next_due: Returns the first moment after another at which a challenge is due (microseconds since
            1970); None: there is none.
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
        return self.last.result[2] if self.last is not None and self.is_under_way else frozenset()


@dataclass(frozen=True)
class Readiness:
    """Whether a product may answer.

    Attributes:
        cause: Why it may not; None: it may.
        missing: Names of the challenge parts that are still to be shown.
        next_at: When the next challenge is due (microseconds since 1970); None: at no time.
    """

    cause: str | None
    missing: tuple[str, ...] = ()
    next_at: int | None = None


def readiness(history: History, judging: tuple[int | None, str], now: Instant) -> Readiness:
    """Return whether a product may answer by its last challenge.

    That challenge must have passed, or was overridden, with the version, settings and parts that judge now,
    and none may be due since.

    Args:
        history: challenges of the product.
        judging: number of the version and hash of settings and parts, as they are now.
        now: the present time.
    """
    last = history.last
    outcome, ended, _ = (None, None, None) if last is None else last.result
    due = None if ended is None else history.next_due(ended)
    cause = _cause(last, outcome, judging)
    if cause is None and due is not None and ended is not None:
        # the clock was set back, or stands
        left = max(0, due - history.read.wall) + CLOCK_TOLERANCE
        is_wrong = now.wall < ended - CLOCK_TOLERANCE
        is_wrong |= now.monotonic >= history.read.monotonic + left / 1e6
        cause = "time" if now.wall >= due else "clock" if is_wrong else None
    if cause is None:
        return Readiness(None, next_at=due)
    passed = history.passed()
    return Readiness(cause, tuple(name for number, name in history.parts.items() if number not in passed))


def _cause(last: Run | None, outcome: str | None, judging: tuple[int | None, str]) -> str | None:
    """Return why a product may not answer, whatever the time is."""
    if last is None:
        return "first"
    if outcome is None:
        return last.cause
    if outcome == FAILED:
        return FAILED
    if last.judging[0] != judging[0]:
        return "version"
    if last.judging[1] == EARLIER_RELEASE:
        return "release"
    return "settings" if last.judging[1] != judging[1] else None
