"""The gate behind the camera: nothing passes that was not judged good, whatever comes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flawscope_line.plc import gate
from flawscope_line.plc.gate import COUNT_MODULUS, Gate
from flawscope_line.plc.handshake import (
    Answer,
    Code,
    Inputs,
    Observation,
    Phase,
    RecipeLoaded,
    Rules,
    State,
    step,
)

RULES = Rules({1: 5.0}, watchdog=2.0)
ANSWERS = ("good", "bad", "error")
RARE = ("beat", "silence", "unseen part", *ANSWERS, "read", "reset", "restart")
EVENTS = (*RARE, *["move"] * 6, *["part"] * 6, *["whole part"] * 6)


@dataclass
class Belt:
    """A belt with a handshake and a gate. parts: where each lies, and whether it was judged good."""

    distance: int
    width: int
    at: int = 0
    zero: int = 0  # where the count is 0
    now: float = 0.0
    parts: list[tuple[int, bool]] = field(default_factory=list)
    said: Inputs = field(default_factory=Inputs)
    lies: int = -1  # which part the trigger is about

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self.state, self.gate = State(now=self.now), Gate(self.distance, self.width)
        self.hear()
        self.hear()
        self.hear(RecipeLoaded(1))

    def hear(self, event: Answer | RecipeLoaded | None = None, *, beats: bool = True) -> None:
        self.now += 0.1
        beat = (self.said.heartbeat + beats) % 1000
        self.said = replace(self.said, heartbeat=beat, recipe=1, count=(self.at - self.zero) % COUNT_MODULUS)
        answer, loaded = (event, None) if isinstance(event, Answer) else (None, event)
        before, seen = self.state, Observation(self.now, self.said, answer, loaded)
        self.state = step(before, seen, RULES)
        self.gate = gate.step(self.gate, before, self.state)
        if self.gate.may_pass:
            here = [good for at, good in self.parts if abs(self.at - at - self.distance) <= self.width]
            assert here, "there is no part, or none that is known"
            assert all(here), "a part that was not judged good"

    def live(self, kind: str, many: int) -> bool:
        """Whether something passed."""
        if kind == "whole part":
            for one in ("part", (*ANSWERS, "good")[many - 1], "read"):
                self.live(one, 1)
        elif kind == "silence":
            for _ in range(8 * many):
                self.hear(beats=False)
        elif kind == "move":
            for _ in range(many):  # in whatever steps the PLC counts
                self.at += 1
                self.hear()
        elif kind in ("part", "unseen part"):
            if any(abs(self.at - at) <= 2 * self.width for at, _ in self.parts):
                return self.gate.may_pass  # no part lies on another, or so near
            self.parts.append((self.at, False))
            if kind == "part" and not self.said.trigger:
                self.lies, self.said = len(self.parts) - 1, replace(self.said, trigger=True)
            self.hear()
        elif kind in ANSWERS:
            if self.state.phase is Phase.BUSY:
                good = {"good": True, "bad": False}.get(kind)
                self.parts[self.lies] = self.parts[self.lies][0], good is True
                self.hear(Answer(self.state.job, good, Code.NONE if good is not None else Code.CAMERA))
        elif kind == "read":
            self.said = replace(self.said, trigger=False)
            self.hear()
        elif kind == "reset":
            self.zero = self.at
            self.hear()
        elif kind == "restart":
            self.restart()
        else:
            self.hear()
        return self.gate.may_pass


@settings(max_examples=400, deadline=None)
@given(
    st.integers(1, 5),
    st.integers(0, 1),
    st.lists(st.tuples(st.sampled_from(EVENTS), st.integers(1, 4)), min_size=20, max_size=80),
)
def test_nothing_passes_that_was_not_judged_good(distance, width, events):
    belt = Belt(distance, min(width, distance - 1), zero=-7)
    for event in events:
        belt.live(*event)


@pytest.mark.parametrize("first", [0, COUNT_MODULUS - 3])
def test_good_parts_pass_and_others_do_not(first):
    belt, passed = Belt(3, 0, zero=-first), []
    for number in range(8):
        belt.live("part", 1)
        belt.live("good" if number % 3 else "bad", 1)
        belt.live("read", 1)
        belt.live("move", 1)
        passed.append(belt.gate.may_pass)
    assert passed == [False, False, *(bool(number % 3) for number in range(6))]
    belt.live("part", 1)
    belt.live("good", 1)
    for _ in range(3):
        assert not belt.live("move", 1) or belt.gate.count != (first + 11) % COUNT_MODULUS
    assert not belt.gate.may_pass, "its answer was not read"
