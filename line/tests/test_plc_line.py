"""The line of a PLC without a wire: what it reports of the link, and how it loads models."""

from __future__ import annotations

import asyncio
import math
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from flawscope_line.plc import line as line_module
from flawscope_line.plc.handshake import Answer, Code, Inputs, Outputs, Triggered
from flawscope_line.plc.line import DOUBT_SECONDS, PlcLine, TransportError
from flawscope_line.plc.settings import ModbusSettings
from flawscope_line.plc.signals import part_number
from flawscope_station.core.connections import Connections, Timing
from flawscope_station.sources.source import AWAY, FROZEN, RUNNING, State
from flawscope_station.store.open_models import NoModelError
from station_helpers import PATIENCE, ManualClock, until


class Floor:
    """A station for a line. loads: what becomes of each try to open a model, the last one again and again."""

    def __init__(self) -> None:
        self.problems: dict[str, str | None] = {}
        self.told: list[str | None] = []
        self.timing = Timing()
        self.loads: deque[Callable[[], None]] = deque([lambda: None])
        self.begun: list[float] = []
        self.deadlines: dict[str, float] = {}
        self.clock = ManualClock()
        self.room: Callable[[], None] = lambda: None
        self.refused: list[str] = []
        self.refusals: Any = SimpleNamespace(
            note=lambda *told, code="": self.refused.append(code or told[-1])
        )
        self.state = State("camera", "camera1", "here", "trigger", RUNNING)
        models = SimpleNamespace(active={})
        versions = SimpleNamespace(models=models, resume=self._load, joint_entries=())
        self.addresses: Any = SimpleNamespace(address_id=lambda name: 1, versions=versions)
        self.inspector: Any = SimpleNamespace(
            intake=SimpleNamespace(check=lambda *asked: self.room()),
            parts=SimpleNamespace(views=lambda number: []),
        )

    def camera(self, name: str, number: int | None = None) -> Any:
        return SimpleNamespace(state=self.state)

    def cameras(self, name: str, number: int | None = None, owner: str | None = None) -> Any:
        return [self.camera(owner or name, number)]

    def deadline(self, name: str) -> float | None:
        return self.deadlines.get(name)

    def due(self, name: str, deadline: int | None = None) -> float:
        return math.inf

    def report(self, code: str, why: str | None, *, stops: bool = False) -> None:
        self.problems[code] = why
        self.told.append(why)

    def until(self, true: Callable[[], Any]) -> Any:
        """What it gives as soon as that is something; so far, time passes."""

        def later() -> Any:
            self.clock.advance(0.25)
            return true()

        return until(lambda: true() or later())

    def _load(self, number: int) -> int:
        self.begun.append(self.clock.monotonic())
        (self.loads.popleft() if len(self.loads) > 1 else self.loads[0])()
        return 1


class Wire:
    """A PLC that beats, over a wire to cut."""

    every = 0.005

    def __init__(self, handle: Callable[[Inputs | None], Outputs], plc: Plc):
        self._handle, self._plc = handle, plc

    async def open(self) -> None:
        if self._plc.is_cut:
            raise TransportError("no route to host")

    async def exchange(self) -> None:
        await self.open()
        self._plc.beats += self._plc.is_beating
        beats = self._plc.beats
        self._plc.read = self._handle(Inputs(heartbeat=beats, recipe=self._plc.recipe))
        self._plc.exchanges.append(beats)

    async def close(self) -> None:
        pass


class Plc:
    def __init__(self) -> None:
        self.is_cut, self.is_beating, self.beats, self.recipe = False, True, 0, 1
        self.read = Outputs()
        self.exchanges: list[int] = []  # beats that the station was told


@pytest.fixture(name="play")
def play_fixture():
    made: list[PlcLine] = []

    def open_one(
        floor: Floor | None = None, *, until_ready: bool = True, **given: Any
    ) -> tuple[PlcLine, Floor, Plc]:
        plc, floor = Plc(), floor or Floor()
        settings = ModbusSettings({1: "plate", 2: "lid"}, listen="127.0.0.1:1502", **given)
        made.append(PlcLine("modbus", floor, settings, lambda handle: Wire(handle, plc), floor.clock))
        made[-1].start()
        if until_ready:
            floor.until(lambda: plc.read.ready)
        return made[-1], floor, plc

    yield open_one
    for each in made:
        each.stop()


@pytest.mark.parametrize("watchdog", ["30 s", None])
def test_a_break_that_the_watchdog_does_not_notice_is_told_and_over(play, watchdog):
    _, floor, plc = play(watchdog=watchdog)
    for _ in range(2):
        plc.is_cut = True
        until(lambda: "no route" in str(floor.problems.get("plc_away_1_1")))
        plc.is_cut = False
        floor.until(lambda: floor.problems["plc_away_1_1"] is None)


def test_a_break_that_the_watchdog_notices_is_over_when_the_heart_beats_again(play):
    _, floor, plc = play(watchdog="60 s")
    plc.is_cut = True
    until(lambda: floor.problems.get("plc_away_1_1"))
    plc.is_beating = False
    floor.clock.advance(61)
    plc.is_cut = False
    until(lambda: "heartbeat stands still" in str(floor.problems["plc_away_1_1"]))
    plc.is_beating = True
    until(lambda: floor.problems["plc_away_1_1"] is None)


def test_a_heart_that_stops_while_the_wire_is_whole_is_told_once(play):
    _, floor, plc = play(watchdog="60 s")
    plc.is_beating = False
    beats = plc.beats
    until(lambda: plc.exchanges[-1:] == [beats])
    floor.clock.advance(61)
    until(lambda: floor.problems.get("plc_away_1_1"))
    until(lambda: plc.read.code == Code.LINK)
    assert len([why for why in floor.told if why]) == 1


def test_connections_have_problems_of_their_own():
    """Two PLCs with the same first product."""
    floor, plcs = Floor(), [Plc(), Plc()]
    settings = ModbusSettings({1: "plate"}, listen="127.0.0.1:1502")
    plugins: Any = [
        SimpleNamespace(
            values=settings,
            open=lambda floor, given, plc=plc: PlcLine(
                "modbus", floor, given, lambda h: Wire(h, plc), floor.clock
            ),
        )
        for plc in plcs
    ]
    both = Connections(plugins, floor)
    both.start()
    try:
        floor.until(lambda: all(plc.read.ready for plc in plcs))
        for plc in plcs:
            plc.is_cut = True
        codes = {"plc_away_1_1", "plc_away_1_2"}
        until(lambda: {code for code, why in floor.problems.items() if why} == codes)
        plcs[0].is_cut = False
        floor.until(lambda: floor.problems["plc_away_1_1"] is None)
        assert floor.problems["plc_away_1_2"] is not None
    finally:
        both.stop()


def no_model() -> None:
    raise NoModelError()


def test_a_model_that_cannot_be_opened_is_tried_again_less_and_less_often(play):
    floor, most, now = Floor(), [0], [0]
    lock = threading.Lock()

    def slow() -> None:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        begun = floor.clock.monotonic()
        # others would be begun meanwhile
        until(lambda: floor.clock.monotonic() > begun + 2 or floor.loads[0] is not slow)
        with lock:
            now[0] -= 1
        no_model()

    floor.loads = deque([slow])
    play(floor, until_ready=False)
    floor.until(lambda: len(floor.begun) >= 7)
    floor.loads = deque([no_model])
    assert most[0] == 1, "several loads at once"
    pauses = [after - before for before, after in zip(floor.begun, floor.begun[1:], strict=False)]
    assert pauses[5] > 2 * pauses[0], pauses


def test_a_model_that_opens_at_last_is_used_and_another_one_waits_for_nothing(play):
    floor = Floor()
    floor.loads = deque([no_model, no_model, lambda: None])
    _, _, plc = play(floor, until_ready=False)
    until(lambda: plc.read.code == Code.NO_MODEL)
    floor.until(lambda: plc.read.ready)
    plc.recipe = 2
    until(lambda: plc.read.ready and plc.read.recipe == 2)  # no time passes


def test_a_load_without_a_thread_is_tried_again(play, monkeypatch):
    tries = [0]

    async def none(*args: Any) -> None:
        tries[0] += 1
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(asyncio, "to_thread", none)
        _, floor, plc = play(until_ready=False)
        floor.until(lambda: plc.read.code == Code.NO_MODEL and tries[0] > 1)
    floor.until(lambda: plc.read.ready)


@pytest.mark.parametrize("error", [OSError(2, "the folder is gone"), RuntimeError("a bug"), MemoryError()])
def test_a_check_that_fails_is_a_fault_and_no_end(play, error):
    _, floor, plc = play()

    def fail() -> None:
        raise error

    floor.room = fail
    floor.until(lambda: plc.read.error and plc.read.code == Code.REFUSED)
    floor.room = lambda: None
    floor.until(lambda: plc.read.ready)


def test_a_line_whose_thread_fails_is_begun_again(play, monkeypatch):
    """Also while a model is being loaded."""
    line, floor, plc = play()
    go = threading.Event()
    floor.loads = deque([lambda: go.wait(PATIENCE)])
    plc.recipe = 2
    until(lambda: plc.read.code == Code.LOADING)
    with monkeypatch.context() as patch:

        def leave() -> None:
            go.set()
            raise SystemExit(1)

        patch.setattr(line, "_check_readiness", leave)
        until(lambda: line.threads[0].failure)
    assert line.threads[0].failure == "SystemExit: 1"
    floor.until(lambda: plc.read.ready and plc.read.recipe == 2)


def test_ready_falls_at_once_when_a_camera_is_lost(play):
    """Not at the next look at queue and models: no time passes here."""
    _, floor, plc = play()
    for state in (AWAY, FROZEN):
        floor.state.state = state
        until(lambda: not plc.read.ready)
        assert (plc.read.error, plc.read.code) == (True, Code.CAMERA)
        floor.state.state = RUNNING
        until(lambda: plc.read.ready)


def test_a_camera_that_changes_its_state_is_heard_without_a_look(play, monkeypatch):
    """Its thread wakes the line, whose next look would come in an hour."""
    made, floor, plc = play()
    monkeypatch.setattr(line_module, "TICK", 3600.0)
    monkeypatch.setattr(Wire, "every", 3600.0)
    for state in (FROZEN, AWAY):
        floor.state.change(state, "why")
        until(lambda: not plc.read.ready)
        floor.state.change(RUNNING)
        until(lambda: plc.read.ready)
    made.stop()
    floor.state.change(AWAY)  # after its end nobody listens


def test_a_camera_that_failed_a_trigger_gives_a_frame_before_the_next_one(play):
    """Or a second passes: one that only triggers expose cannot show earlier that it is back."""
    line, floor, plc = play()
    for passes in (lambda: setattr(floor.state, "last", 7), lambda: floor.clock.advance(DOUBT_SECONDS)):
        line._post_event(Answer(0, None, Code.CAMERA))
        until(lambda: not plc.read.ready)
        passes()
        until(lambda: plc.read.ready)


@pytest.mark.parametrize(("deadline", "budget"), [(20.0, 20.0), (0.8, 0.8), (None, 5.0)])
def test_a_products_own_deadline_holds_whether_longer_or_shorter_than_the_connections(play, deadline, budget):
    """Large pictures in tiles take longer than the 5 s of the connection."""
    floor = Floor()
    floor.deadlines = {} if deadline is None else {"plate": deadline}
    line, _, _ = play(floor)
    assert line.rules.budgets == {1: budget, 2: 5.0}


@pytest.mark.parametrize(
    ("answer", "triggers"),
    [
        (Answer(1, True), 1),
        (Answer(1, False), 1),
        (Answer(1, None, Code.LATE), 1),
        (Answer(1, None, Code.NOT_READY), 0),
        (Answer(1, None, Code.CAMERA), 0),
        (Answer(1, None, Code.REFUSED), 0),
    ],
)
def test_a_trigger_that_was_refused_says_nothing_of_how_fast_parts_are_judged(play, answer, triggers):
    line, floor, _ = play()
    line.stop()
    line.state = replace(line.state, triggered=Triggered("A47", 1))
    line._note_time(answer, 0.012)
    facts = floor.timing.facts("plate")
    assert (facts or {"triggers": 0})["triggers"] == triggers


def test_a_part_is_recorded_by_its_number_without_the_padding_that_the_plc_gets_back():
    for text in ("4711 ", "  4711", "4711\0\0rest", "4711\r\n"):
        assert part_number(text) == "4711"
    assert part_number(" \0") == ""
