"""Handshake with a PLC as a state machine, the same for every protocol. Pure: no clock, no threads, no store.

`step` takes the observations since the last step, and returns the next state; `outputs` returns the signals
of a state that the PLC reads. OK is set only in an answer that meets all of these conditions:

- The answer is to the trigger that is still set, and came in time.
- The picture was taken for this trigger.
- The picture was judged good, or within a person's tolerances, by the model of the recipe that the PLC still
  asks for.
- The PLC's heartbeat beats.

In every other case Error is set, or nothing at all. docs/station-plc.md has a diagram.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum, StrEnum
from typing import NamedTuple

HEARTBEATS_PER_SECOND = 4  # by which the station's heartbeat counts


class Phase(StrEnum):
    """Phase of a part. In WAITING the PLC's heartbeat does not beat."""

    WAITING = "waiting"
    IDLE = "idle"
    BUSY = "busy"
    DONE = "done"


class Code(IntEnum):
    """Reason why Error is set, or Ready is not."""

    NONE = 0
    LINK = 1  # the PLC's heartbeat stands still
    NO_RECIPE = 2  # Recipe is 0, and there is more than one recipe
    UNKNOWN_RECIPE = 3  # no product has this number
    LOADING = 4  # the recipe's model is being loaded, or Trigger rose before it was
    NO_MODEL = 5  # the recipe's model cannot be opened, failed, or judges parts in several views
    CAMERA = 6  # the camera is away, or gave no frame
    REFUSED = 7  # the station has no room: its queue or its disk is full, or its database is away
    PICTURE = 8  # the picture cannot be read or kept
    LATE = 9  # the part was not judged within the product's deadline
    CHANGED = 10  # Recipe or Part changed before Trigger fell
    WITHDRAWN = 11  # Trigger fell while Busy: no answer is given
    UNKNOWN_PART = 12  # Trigger stood already when the station started, or the PLC came back
    ENDING = 13  # the station ends
    NOT_READY = 14  # challenge parts have not passed, or this part was a challenge part


class Kind(IntEnum):
    """Number of a defect's kind that is not a single kind of the model; the model's kinds count from 1."""

    UNKNOWN = 0  # there is no defect, or the model names no kinds
    SEVERAL = 254  # more than one kind of the model fits
    NEW = 255  # no kind of the model fits


@dataclass(frozen=True)
class Inputs:
    """Signals from the PLC to the station; `TO_STATION` of `signals` says what each means."""

    trigger: bool = False
    heartbeat: int = 0
    recipe: int = 0
    part: str = ""


@dataclass(frozen=True)
class Outputs:
    """Signals from the station to the PLC; `TO_PLC` of `signals` says what each means.

    Attributes:
        result: 0 none, 1 good, 2 anomalous, 3 not judged, 4 within tolerance.
        kind: Kind of the defect on an anomalous or tolerated part (`Kind`).
        tolerated: Whether the part is within tolerance; set beside OK.
    """

    ready: bool = False
    busy: bool = False
    done: bool = False
    ok: bool = False
    nok: bool = False
    error: bool = False
    heartbeat: int = 0
    recipe: int = 0
    result: int = 0
    code: int = 0
    regions: int = 0
    score: float = 0.0
    inspection: int = 0
    part: str = ""
    kind: int = 0
    tolerated: bool = False


@dataclass(frozen=True)
class Answer:
    """Answer to a trigger.

    Attributes:
        job: Number of the trigger.
        good: Whether the part may pass; None: it was not judged.
        code: Reason why it was not judged; NONE: it was.
        score: Score of the part.
        regions: Number of anomalous regions.
        inspection: Number of the inspection in the station's records; 0: there is none.
        kind: Kind of the defect on an anomalous or tolerated part (`Kind`).
        tolerated: Whether the part may pass because it is within tolerance.
    """

    job: int
    good: bool | None
    code: Code = Code.NONE
    score: float = 0.0
    regions: int = 0
    inspection: int = 0
    kind: int = Kind.UNKNOWN
    tolerated: bool = False


@dataclass(frozen=True)
class RecipeLoaded:
    """Recipe whose model was opened, or cannot be opened, with the reason in `code`."""

    recipe: int
    code: Code = Code.NONE


@dataclass(frozen=True)
class Observation:
    """Observations since the last step.

    Attributes:
        now: Seconds of a monotonic clock.
        plc: Signals of the PLC; None: they could not be read.
        answer: Answer of an inspection that ended; None: none ended.
        loaded: Recipe whose model was loaded, or failed to load; None: there is none.
        fault: Reason why no picture could be inspected at the moment; NONE: one could.
    """

    now: float
    plc: Inputs | None = None
    answer: Answer | None = None
    loaded: RecipeLoaded | None = None
    fault: Code = Code.NONE


@dataclass(frozen=True)
class Rules:
    """Time limits of a line, in seconds.

    Attributes:
        budgets: Longest time from trigger to answer, by recipe.
        watchdog: Time after which the PLC counts as away if its heartbeat stands still; 0: the heartbeat is
            not watched.
    """

    budgets: Mapping[int, float]
    watchdog: float = 2.0

    @property
    def only_recipe(self) -> int:
        """Number of the recipe if there is a single recipe; else 0."""
        return next(iter(self.budgets)) if len(self.budgets) == 1 else 0


class Triggered(NamedTuple):
    """Part of a trigger, and the recipe by which it is judged."""

    part: str = ""
    recipe: int = 0


@dataclass(frozen=True)
class State:
    """State of the handshake.

    Attributes:
        phase: Phase of the part.
        now: Time of the last step, in seconds of a monotonic clock.
        plc: Last signals of the PLC; None: none were read yet.
        last_beat: Time of the last change of the PLC's heartbeat.
        is_alive: Whether the PLC's heartbeat beats.
        fault: Reason why no picture could be inspected at the moment; NONE: one could.
        recipe: Recipe whose model is loaded; 0: none.
        requested_recipe: Last recipe whose model was to be loaded; 0: none.
        load_error: Reason why that model could not be loaded; NONE: it was, or is being loaded.
        job: Number of the last accepted trigger.
        due: Time at which the answer to that trigger is due.
        triggered: Part and recipe of the last trigger.
        answer: Answer to the last trigger; None: there is none.
        last_code: Code of the last trigger if it was withdrawn; else NONE.
    """

    phase: Phase = Phase.WAITING
    now: float = 0.0
    plc: Inputs | None = None
    last_beat: float = -math.inf
    is_alive: bool = False
    fault: Code = Code.NONE
    recipe: int = 0
    requested_recipe: int = 0
    load_error: Code = Code.NONE
    job: int = 0
    due: float = math.inf
    triggered: Triggered = field(default_factory=Triggered)
    answer: Answer | None = None
    last_code: Code = Code.NONE

    @property
    def is_triggered(self) -> bool:
        """Whether the PLC's Trigger is set."""
        return self.plc is not None and self.plc.trigger


def step(state: State, observation: Observation, rules: Rules) -> State:
    """Return the next state.

    The caller inspects a part when `job` is new, and loads a recipe when `requested_recipe` is new and not 0.
    An answer that comes when its part is not Busy any more is ignored.
    """
    state = _apply_observation(state, observation, rules)
    if not state.is_alive:
        return _withdraw_part(state)
    if not state.is_triggered:
        return _request_recipe(_end_trigger(state), rules)
    if state.phase is Phase.WAITING:
        return _end_unjudged(_note_trigger(state, rules), Code.UNKNOWN_PART)
    if state.phase is Phase.IDLE:
        return _accept_trigger(state, rules)
    assert state.plc is not None, "its Trigger is set"
    if state.triggered != (state.plc.part, _requested_recipe(state, rules)):
        return _end_unjudged(state, Code.CHANGED)
    if state.phase is Phase.BUSY:
        return _apply_answer(state, observation.answer)
    return state


def _end_trigger(state: State) -> State:
    """Return the state without a trigger: a part that was being judged is withdrawn."""
    if state.phase is Phase.IDLE:
        return state
    code = Code.WITHDRAWN if state.phase is Phase.BUSY else Code.NONE
    return replace(state, phase=Phase.IDLE, answer=None, last_code=code)


def outputs(state: State, rules: Rules) -> Outputs:
    """Return the signals that the PLC reads."""
    answer = state.answer if state.phase is Phase.DONE else None
    base_outputs = _outputs_without_answer(state, answer, rules)
    return base_outputs if answer is None else _with_answer(base_outputs, answer)


def _outputs_without_answer(state: State, answer: Answer | None, rules: Rules) -> Outputs:
    """Return the signals that do not depend on the content of an answer."""
    blocking_code = Code.LINK if not state.is_alive else _blocking_code(state, rules)
    is_idle = state.phase in (Phase.IDLE, Phase.WAITING)
    shows_triggered_recipe = state.phase is Phase.BUSY or (answer is not None and answer.good is not None)
    is_error = blocking_code not in (Code.NONE, Code.LOADING, Code.NO_RECIPE)
    return Outputs(
        ready=state.phase is Phase.IDLE and not blocking_code and not state.is_triggered,
        busy=state.phase is Phase.BUSY,
        heartbeat=int(state.now * HEARTBEATS_PER_SECOND) % 2**16,
        recipe=state.triggered.recipe if shows_triggered_recipe else state.recipe,
        error=is_idle and is_error,
        code=(blocking_code or state.last_code) if is_idle else Code.NONE,
        part=state.triggered.part if state.phase in (Phase.BUSY, Phase.DONE) else "",
    )


def _with_answer(base_outputs: Outputs, answer: Answer) -> Outputs:
    """Return the signals with an answer, which the PLC reads while Done is set."""
    tolerated = answer.good is True and answer.tolerated
    result = {True: 1, False: 2, None: 3}[answer.good]  # as `Outputs.result` says
    return replace(
        base_outputs,
        done=True,
        ok=answer.good is True,
        nok=answer.good is False,
        error=answer.good is None,
        result=4 if tolerated else result,
        code=answer.code,
        regions=answer.regions,
        score=answer.score,
        inspection=answer.inspection,
        kind=answer.kind if answer.good is False or tolerated else Kind.UNKNOWN,
        tolerated=tolerated,
    )


def _apply_observation(state: State, observation: Observation, rules: Rules) -> State:
    """Note the PLC's signals, whether its heartbeat beats, and whether a model was loaded."""
    now = max(state.now, observation.now)
    plc = observation.plc or state.plc
    has_beaten = plc is not None and state.plc is not None and plc.heartbeat != state.plc.heartbeat
    last_beat = now if has_beaten else state.last_beat
    if rules.watchdog:
        is_alive = now - last_beat <= rules.watchdog
    else:  # the heartbeat is not watched
        is_alive = observation.plc is not None
    state = replace(state, now=now, plc=plc, last_beat=last_beat, is_alive=is_alive, fault=observation.fault)
    if observation.loaded is None or observation.loaded.recipe != state.requested_recipe:
        return state
    code = observation.loaded.code
    return replace(state, recipe=0 if code else state.requested_recipe, load_error=code)


def _withdraw_part(state: State) -> State:
    """End the present part unjudged, because the PLC is away; without a part, wait for the PLC."""
    if state.phase in (Phase.BUSY, Phase.DONE):
        return _end_unjudged(state, Code.LINK)
    return replace(state, phase=Phase.WAITING)


def _requested_recipe(state: State, rules: Rules) -> int:
    """Return the recipe that the PLC requests; where it requests none, the only recipe; else 0."""
    plc_recipe = 0 if state.plc is None else state.plc.recipe
    return plc_recipe or rules.only_recipe


def _blocking_code(state: State, rules: Rules) -> Code:
    """Return why a trigger cannot be accepted; NONE: it can."""
    wanted_recipe = _requested_recipe(state, rules)
    if not wanted_recipe:
        return Code.NO_RECIPE
    if wanted_recipe not in rules.budgets:
        return Code.UNKNOWN_RECIPE
    if wanted_recipe == state.recipe:
        return state.fault
    has_failed = wanted_recipe == state.requested_recipe and bool(state.load_error)
    return state.load_error if has_failed else Code.LOADING


def _accept_trigger(state: State, rules: Rules) -> State:
    """Begin the job of a trigger, or end its part unjudged where it cannot be accepted."""
    state = _note_trigger(state, rules)
    if code := _blocking_code(state, rules):
        return _end_unjudged(state, code)
    due = state.now + rules.budgets[state.recipe]
    return replace(state, phase=Phase.BUSY, job=state.job + 1, due=due)


def _note_trigger(state: State, rules: Rules) -> State:
    """Note the part of a trigger, and the recipe by which it is judged."""
    assert state.plc is not None
    triggered = Triggered(state.plc.part, _requested_recipe(state, rules))
    return replace(state, triggered=triggered, last_code=Code.NONE)


def _request_recipe(state: State, rules: Rules) -> State:
    """Begin to load the recipe that the PLC asks for, unless it is loaded."""
    wanted_recipe = _requested_recipe(state, rules)
    if wanted_recipe in (state.recipe, state.requested_recipe):
        return state
    loadable_recipe = wanted_recipe if wanted_recipe in rules.budgets else 0
    return replace(state, recipe=0, requested_recipe=loadable_recipe, load_error=Code.NONE)


def _apply_answer(state: State, answer: Answer | None) -> State:
    """End a part that is being judged, with its answer or because it is late; else return the same state."""
    if state.now >= state.due:
        return _end_unjudged(state, Code.LATE)
    if answer is None or answer.job != state.job:
        return state
    return replace(state, phase=Phase.DONE, answer=answer)


def _end_unjudged(state: State, code: Code) -> State:
    """End a part without a judgement; a part that has ended so already keeps its first reason."""
    if state.answer is not None and state.answer.good is None:
        return state
    return replace(state, phase=Phase.DONE, answer=Answer(state.job, good=None, code=code))
