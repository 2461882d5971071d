"""The handshake with a PLC: whatever happens, OK stands for a part that was judged good, and for no other."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flawscope_line.plc.handshake import (
    Answer,
    Code,
    Inputs,
    Observation,
    Outputs,
    RecipeLoaded,
    Rules,
    State,
    outputs,
    step,
)

RULES = Rules({1: 0.5, 2: 0.5}, watchdog=2.0)


class Played:
    """A PLC and a station, step by step."""

    def __init__(self, rules: Rules = RULES) -> None:
        self.rules, self.state, self.now, self.plc = rules, State(), 0.0, Inputs()
        self.go()
        self.go(recipe=1)
        self.go()
        self.go(loaded=RecipeLoaded(1))

    def go(self, seconds: float = 0.1, *, beats: bool = True, **given: object) -> Outputs:
        seen = {name: given.pop(name) for name in ("answer", "loaded", "fault") if name in given}
        self.now += seconds
        beat = (self.plc.heartbeat + beats) % 65536
        self.plc = replace(self.plc, heartbeat=beat, **given)
        self.state = step(self.state, Observation(self.now, self.plc, **seen), self.rules)
        return outputs(self.state, self.rules)

    def judged(self, good: bool | None = True) -> Answer:
        return Answer(self.state.job, good, Code.NONE, 3.5, 2, 17, kind=3)


def test_a_part_is_judged():
    played = Played()
    assert played.go().ready
    shown = played.go(trigger=True, part="4711")
    assert (shown.busy, shown.ready, shown.part) == (True, False, "4711")
    shown = played.go(answer=played.judged())
    assert (shown.done, shown.ok, shown.nok, shown.error, shown.busy) == (True, True, False, False, False)
    assert (shown.result, shown.score, shown.regions, shown.inspection) == (1, 3.5, 2, 17)
    assert shown.kind == 0, "a good part has none"
    assert (shown.part, shown.recipe) == ("4711", 1)
    assert played.go(5, beats=True).ok, "a Trigger that is held keeps its answer, and starts no other part"
    assert played.state.job == 1
    shown = played.go(trigger=False)
    assert (shown.ready, shown.done, shown.ok, shown.result) == (True, False, False, 0)
    played.go(trigger=True)
    shown = played.go(answer=played.judged(False))
    assert (shown.nok, shown.kind) == (True, 3)
    assert played.go(trigger=False).kind == 0
    played.go(trigger=True)
    assert played.go(trigger=False).code == Code.WITHDRAWN


@pytest.mark.parametrize(
    ("happens", "code"),
    [
        ({"seconds": 0.6, "answer": True}, Code.LATE),
        ({"answer": None}, Code.NONE),
        ({"recipe": 2}, Code.CHANGED),
        ({"part": "other"}, Code.CHANGED),
        ({"seconds": 2.1, "beats": False}, Code.LINK),
    ],
)
def test_what_goes_wrong_while_busy_is_an_error(happens, code):
    played = Played()
    played.go(trigger=True)
    if "answer" in happens:
        good = happens["answer"]
        happens = {**happens, "answer": played.judged(good)}
    shown = played.go(**happens)
    assert (shown.done, shown.error, shown.ok, shown.code) == (True, True, False, code)
    assert not played.go(answer=Answer(1, True)).ok, "what comes afterwards is of no use"
    assert played.go(trigger=False, recipe=1, part="").done is False


def test_a_trigger_that_stands_when_the_station_starts_is_answered_with_an_error():
    state, rules = State(), RULES
    for beat in range(3):
        state = step(state, Observation(beat * 0.1, Inputs(trigger=True, heartbeat=beat, recipe=1)), rules)
    shown = outputs(state, rules)
    assert (shown.done, shown.error, shown.code) == (True, True, Code.UNKNOWN_PART)


def test_a_recipe_is_shown_when_its_model_is_loaded():
    played = Played()
    assert played.go().recipe == 1
    shown = played.go(recipe=2)
    assert (shown.recipe, shown.ready, shown.code, shown.error) == (0, False, Code.LOADING, False)
    assert played.go(trigger=True).code == Code.LOADING, "too early"
    played.go(trigger=False)
    assert played.go(loaded=RecipeLoaded(1)).recipe == 0, "another one"
    assert played.go(loaded=RecipeLoaded(2)).ready
    shown = played.go(recipe=9)
    assert (shown.ready, shown.error, shown.code, shown.recipe) == (False, True, Code.UNKNOWN_RECIPE, 0)
    played.go(recipe=1)
    shown = played.go(loaded=RecipeLoaded(1, Code.NO_MODEL))
    assert (shown.ready, shown.error, shown.code) == (False, True, Code.NO_MODEL)
    assert played.go(loaded=RecipeLoaded(1)).ready, "it could be loaded later"
    assert played.go(recipe=0).code == Code.NO_RECIPE
    assert Played(Rules({1: 0.5}, 2.0)).go(recipe=0).ready, "where there is one alone"


def test_a_clock_that_goes_back_changes_nothing():
    played = Played()
    played.go(trigger=True)
    assert played.go(-1e9).busy
    assert played.go(answer=played.judged()).ok
    assert played.go(3e9, beats=False).error


def test_a_watchdog_that_is_off_leaves_a_plc_that_can_be_read():
    rules = Rules({1: 0.5}, watchdog=0.0)
    state = step(State(), Observation(0.0, Inputs()), rules)
    state = step(state, Observation(0.1, Inputs(), loaded=RecipeLoaded(1)), rules)
    assert outputs(state, rules).ready
    assert outputs(step(state, Observation(0.2, None), rules), rules).error
