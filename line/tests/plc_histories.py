"""Histories of a PLC, a station and their faults, and what must hold in each of them: shared by
line/tests/test_plc_handshake.py and bench/plc.py.

A history is a row of bytes, each of which is something that happens: the PLC sets a signal, rightly or not,
its heartbeat stands still, a request fails, an answer comes, also a wrong, late or second one, a model is
loaded or not, time passes.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

from flawscope_line.plc.handshake import (
    Answer,
    Code,
    Inputs,
    Observation,
    Outputs,
    Phase,
    RecipeLoaded,
    Rules,
    State,
    outputs,
    step,
)

RULES = Rules({1: 0.5, 2: 5.0}, watchdog=2.0)
LENGTHS = (30, 60)  # events of a history, at least and at most
PASSES = (0.0, 0.01, 0.01, 0.05, 0.05, 0.3, 0.6, 1.9, 2.1, 6.0, 1e6, -3.0)  # seconds


@dataclass
class Attempt:
    """A part that the station took: what a reader of the rules says about it, from the signals alone."""

    job: int
    recipe: int
    part: str
    due: float
    is_void: bool = False
    good: bool | None = None
    tolerated: bool = False


@dataclass
class World:
    """A PLC and a station, and what was seen of both."""

    rules: Rules = RULES
    plc: Inputs = field(default_factory=Inputs)
    state: State = field(default_factory=State)
    now: float = 100.0
    beat: float | None = None  # when the heartbeat changed last, as the station can know
    heard: Inputs | None = None
    loaded: set[int] = field(default_factory=set)  # recipes whose model was loaded since they were asked for
    attempt: Attempt | None = None
    counts: Counter[str] = field(default_factory=Counter)

    def happen(self, code: int) -> Outputs:
        """What a byte says. A well-behaved part comes in a row of 0s, so that many are judged."""
        what, how = code % 16, code // 16
        seen = Observation(self.now)
        beats, reads = True, True
        if what < 3:
            seen = self._go_on()
        elif what == 3:
            self.plc = replace(self.plc, trigger=bool(how % 2))
        elif what == 4:
            self.plc = replace(self.plc, recipe=how % 4)
        elif what == 5:
            self.plc = replace(self.plc, part=("", "A", "B")[how % 3])
        elif what == 6:
            self.plc = replace(self.plc, trigger=not self.plc.trigger, recipe=1 + how % 2)
        elif what == 7:
            seen = replace(seen, answer=self._answer(0, (True, True, False, None)[how % 4], how >= 8))
        elif what == 8:
            seen = replace(seen, answer=self._answer((-1, 1, -2, 7)[how % 4], True))
        elif what == 9:
            seen = replace(seen, loaded=RecipeLoaded(how % 4, Code.NONE if how < 12 else Code.NO_MODEL))
        elif what == 10:
            seen = replace(seen, fault=Code.CAMERA if how % 2 else Code.NONE)
        elif what == 11:
            beats = False
        elif what == 12:
            reads = False
        elif what == 13:
            self.plc = Inputs()  # it was switched off and on
        elif what == 14:
            beats = False
            self.now += PASSES[how % len(PASSES)]
        else:
            self.now += PASSES[how % len(PASSES)]
        self.now += 0.01
        return self.look(replace(seen, now=self.now), beats=beats, reads=reads)

    def _go_on(self) -> Observation:
        """The next thing that a right PLC and a right station do."""
        shown, seen = outputs(self.state, self.rules), Observation(self.now)
        if self.state.phase is Phase.BUSY:
            return replace(seen, answer=self._answer(0, True))
        if shown.done:
            self.plc = replace(self.plc, trigger=False)
        elif shown.ready:
            self.plc = replace(self.plc, trigger=True)
        elif not self.plc.recipe:
            self.plc = replace(self.plc, recipe=1)
        elif self.state.requested_recipe not in (0, self.state.recipe):
            return replace(seen, loaded=RecipeLoaded(self.state.requested_recipe))
        return seen

    def _answer(self, away: int, good: bool | None, tolerated: bool = False) -> Answer:
        code = Code.NONE if good is not None else Code.CAMERA
        return Answer(self.state.job + away, good, code, 3.5, 2, 17, 5, tolerated)

    def look(self, seen: Observation, *, beats: bool = True, reads: bool = True) -> Outputs:
        """A step, and what the rules say about the outputs."""
        if beats:
            self.plc = replace(self.plc, heartbeat=(self.plc.heartbeat + 1) % 65536)
        seen = replace(seen, plc=self.plc if reads else None)
        before, now = self.state, max(self.state.now, seen.now)
        self.state = step(before, seen, self.rules)
        shown = outputs(self.state, self.rules)
        self._note(before, seen, now)
        self._check(shown)
        return shown

    def _note(self, before: State, seen: Observation, now: float) -> None:
        if seen.plc is not None:
            if self.heard is not None and self.heard.heartbeat != seen.plc.heartbeat:
                self.beat = now
            self.heard = seen.plc
        alive = self.beat is not None and now - self.beat <= self.rules.watchdog
        if seen.loaded is not None:
            (self.loaded.discard if seen.loaded.code else self.loaded.add)(seen.loaded.recipe)
        one = self.attempt
        if one is not None:
            said = self.heard
            assert said is not None
            if not alive or not said.trigger or (said.recipe, said.part) != (one.recipe, one.part):
                one.is_void = True
            answer = seen.answer
            if not one.is_void and one.good is None and answer is not None and answer.job == one.job:
                one.good, one.is_void = answer.good, now >= one.due or answer.good is None
                one.tolerated = answer.good is True and answer.tolerated
            if one.good is None and now >= one.due:
                one.is_void = True
        if self.state.job != before.job:
            said = self.heard
            assert said is not None
            assert said.trigger, "a part without Trigger"
            assert alive, "a part of a PLC that is away"
            assert said.recipe in self.loaded, "a part whose model is not loaded"
            assert not seen.fault, "a part that cannot be inspected"
            assert self.state.job == before.job + 1
            self.attempt = Attempt(
                self.state.job, said.recipe, said.part, now + self.rules.budgets[said.recipe]
            )
            self.counts["parts"] += 1

    def _check(self, shown: Outputs) -> None:
        one, state = self.attempt, self.state
        assert not (shown.ok and shown.nok)
        assert shown.done == (state.phase is Phase.DONE)
        assert sum((shown.ready, shown.busy, shown.done)) <= 1
        assert not shown.done or shown.ok + shown.nok + shown.error == 1
        assert shown.done or not (shown.ok or shown.nok or shown.result or shown.inspection)
        passed = 4 if shown.tolerated else 1
        assert shown.result == (passed if shown.ok else 2 if shown.nok else 3 if shown.done else 0)
        assert shown.ok or not shown.tolerated
        assert shown.kind == (5 if shown.nok or shown.tolerated else 0)
        assert not (shown.done and shown.error) or shown.code, "Error says why"
        if shown.ok or shown.nok:
            assert one is not None
            assert not one.is_void, "an answer that is void"
            assert (one.good, one.tolerated) == (shown.ok, shown.tolerated), "another answer"
            assert (shown.part, shown.recipe, shown.inspection) == (one.part, one.recipe, 17)
            self.counts["tolerated" if shown.tolerated else "ok" if shown.ok else "nok"] += 1
        if shown.done and shown.error:
            self.counts[Code(shown.code).name.lower()] += 1

    def recovers(self) -> bool:
        """Whether a part is judged in the end, when PLC and station do right from now on."""
        self.plc = replace(self.plc, trigger=False, recipe=1, part="C")
        for _ in range(12):
            self.now += 0.01
            shown = self.look(replace(self._go_on(), now=self.now))
            if shown.ok and shown.part == "C":
                return True
        return False


def live(history: bytes) -> Counter[str]:
    """Live through a history. AssertionError: something unsafe is shown, or nothing goes on afterwards."""
    world = World()
    for code in history:
        world.happen(code)
    assert world.recovers(), "it does not go on"
    return world.counts
