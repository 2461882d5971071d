"""A part's ticket: each move, each that is none, who waits, and two threads at once."""

import importlib
import math
import re
import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from flawscope.pictures.decoding import HashedPicture
from flawscope_station.inspecting import ticket as ticket_module
from flawscope_station.inspecting.picture import Part, Picture
from flawscope_station.inspecting.ticket import (
    BEFORE_RECORDING,
    ENDS,
    IllegalMoveError,
    OverdueError,
    RecordedInspection,
    State,
    Ticket,
    View,
    Waiter,
)
from flawscope_station.store.schema import ABANDONED, LATE
from station_helpers import taken

ERROR = OverdueError(1.0)
WAY = (State.TAKEN, State.READ, State.QUEUED, State.JUDGED, State.RECORDING)


def view() -> View:
    return View(Picture(b"data", "a.png"), ".png", HashedPicture(b"data"))


def record() -> RecordedInspection:
    return RecordedInspection(1, taken(1, 1), True)


MOVES: dict[State, Callable[[Ticket], bool]] = {
    State.READ: lambda ticket: ticket.read([view()]),
    State.QUEUED: lambda ticket: ticket.queue(),
    State.JUDGED: lambda ticket: ticket.judge(taken(1, 1), ()),
    State.RECORDING: lambda ticket: ticket.begin_recording(),
}


class Held:
    """A ticket, who waits for it, and what was told of its end."""

    def __init__(self, state: State = State.TAKEN):
        self.ended: list[object] = []
        part = Part(1, (Picture(b"data", "a.png"),), "http", "4711")
        self.ticket = Ticket(part, 1, lambda ticket, outcome: self.ended.append(outcome))
        self.waiter = self.join()
        for one in WAY[1:]:
            if self.ticket.state is state:
                return
            assert MOVES[one](self.ticket)
        if state is State.DONE:
            self.ticket.finish(record())
        elif state is State.FAILED:
            self.ticket.fail_recording(ERROR)

    def join(self, due: float = math.inf) -> Waiter:
        waiter = self.ticket.join(due)
        assert waiter is not None
        return waiter


# --------------------------------------------------------------------------------------------- moves


def test_a_part_goes_its_way_and_is_told_once():
    held = Held(State.RECORDING)
    assert list(held.ticket.times) == list(WAY)
    assert held.ended == []
    answer = record()
    held.ticket.finish(answer)
    assert held.ticket.state is State.DONE
    assert held.ended == [answer]
    assert held.waiter.result(0) is answer


@pytest.mark.parametrize("state", [*WAY, State.DONE])
@pytest.mark.parametrize("after", MOVES)
def test_no_state_is_left_out_or_entered_twice(state, after):
    held = Held(state)
    is_next = state in WAY[:-1] and WAY[WAY.index(state) + 1] is after
    if is_next:
        assert MOVES[after](held.ticket)
        assert held.ticket.state is after
        return
    with pytest.raises(IllegalMoveError):
        MOVES[after](held.ticket)
    assert held.ticket.state is state


@pytest.mark.parametrize("after", MOVES)
def test_one_that_has_failed_moves_no_more_and_whoever_moves_it_knows(after):
    held = Held(State.FAILED)
    assert not MOVES[after](held.ticket)
    assert held.ticket.state is State.FAILED


@pytest.mark.parametrize("state", State)
def test_whoever_finds_a_reason_fails_it_until_the_recorder_has_it(state):
    held = Held(state)
    before = list(held.ended)
    assert held.ticket.fail(ERROR) is (state in BEFORE_RECORDING)
    assert held.ticket.state is (State.FAILED if state in BEFORE_RECORDING else state)
    assert held.ended == ([ERROR] if state in BEFORE_RECORDING else before)


@pytest.mark.parametrize("state", [one for one in State if one is not State.RECORDING])
def test_only_what_is_recorded_is_ended_by_the_recorder(state):
    held = Held(state)
    with pytest.raises(IllegalMoveError):
        held.ticket.finish(record())
    with pytest.raises(IllegalMoveError):
        held.ticket.fail_recording(ERROR)
    with pytest.raises(IllegalMoveError):
        held.ticket.refuse_recorded(ERROR)
    assert held.ticket.state is state


def test_a_part_whose_record_stands_may_be_refused_and_keeps_its_files():
    held, lost = Held(State.RECORDING), Held(State.RECORDING)
    held.ticket.refuse_recorded(ERROR)
    lost.ticket.fail_recording(ERROR)
    for one in (held, lost):
        assert one.ticket.state is State.FAILED
        assert one.waiter.exception(0) is ERROR
    assert held.ticket.may_have_record
    assert not lost.ticket.may_have_record


@pytest.mark.parametrize("state", State)
def test_a_part_that_is_given_up_is_told_at_once_and_ended_by_the_recorder_alone(state):
    held = Held(state)
    assert held.ticket.give_up(ERROR) is (state not in ENDS)
    if state in ENDS:
        return
    assert isinstance(held.waiter.exception(0), OverdueError)
    if state is State.RECORDING:
        assert held.ticket.state is State.RECORDING
        assert held.ticket.decide() == LATE
        held.ticket.finish(record())
    assert len(held.ended) == 1


def test_a_part_about_to_be_answered_is_not_given_up():
    held = Held(State.RECORDING)
    assert held.ticket.decide() is None
    assert not held.ticket.give_up(ERROR)
    assert not held.waiter.leave(LATE)
    held.ticket.finish(record())
    assert held.waiter.result(0).number == 1


# ------------------------------------------------------------------------------------------ who waits


def test_a_part_is_unanswered_when_all_have_left_who_wait():
    held = Held()
    second = held.join()
    assert held.waiter.leave(ABANDONED)
    assert held.waiter.leave(LATE), "it has left already"
    assert held.ticket.unanswered is None, "the other one waits"
    assert second.leave(LATE)
    assert held.ticket.unanswered == LATE, "as the last one said"
    third = held.join()
    assert held.ticket.decide() is None, "a third one came in time"
    assert not third.leave(LATE)


def test_each_who_asks_has_a_deadline_and_the_last_one_counts():
    held = Held()
    due = [held.join(due).due_at for due in (10.0, 30.0, 20.0)]
    assert due == [10.0, 30.0, 20.0]
    assert held.ticket.due_at == math.inf
    only = Ticket(held.ticket.part, 2, lambda ticket, outcome: None)
    for one in (10.0, 30.0, 20.0):
        only.join(one)
    assert only.due_at == 30.0


@pytest.mark.parametrize("state", [State.DONE, State.FAILED])
def test_nobody_joins_a_part_that_has_ended(state):
    assert Held(state).ticket.join(math.inf) is None


def test_all_who_wait_are_told_the_same():
    held = Held(State.RECORDING)
    others = [held.join() for _ in range(3)]
    others[0].leave(ABANDONED)
    held.ticket.finish(record())
    assert {one.result(0).number for one in (held.waiter, *others)} == {1}


def test_the_end_is_known_before_it_is_told():
    """So that a sender who is refused finds its place free."""
    held = Held()
    known: list[bool] = []
    held.waiter.add_done_callback(lambda done: known.append(bool(held.ended)))
    held.ticket.fail(ERROR)
    assert known == [True]


# --------------------------------------------------------------------------------------- what it holds


@pytest.mark.parametrize("state", State)
def test_a_part_that_has_ended_holds_no_pictures_and_takes_no_memory(state):
    held = Held(state)
    has_ended = state in ENDS
    assert held.ticket.claim(5) is not has_ended
    assert held.ticket.size == 4
    assert held.ticket.part.size == (0 if has_ended else 4)
    assert held.ticket.part.name == "4711"
    assert has_ended <= (not held.ticket.views)


def test_the_recorder_waits_for_the_files_of_all_views_or_for_the_end():
    held = Held()
    views = [view(), view()]
    assert held.ticket.read(views)
    known: list[bool] = []
    waits = threading.Thread(target=lambda: known.append(held.ticket.wait_for_files()))
    waits.start()
    assert held.ticket.keep(views[0], "a")
    assert waits.is_alive()
    assert held.ticket.keep(views[1], "b")
    waits.join(30)
    assert known == [True]
    held.ticket.fail(ERROR)
    assert not held.ticket.wait_for_files()
    assert not held.ticket.keep(views[1], "c"), "a file that comes late"
    assert [one.digest for one in held.ticket.take_files()] == ["a", "b", "c"]
    assert held.ticket.take_files() == []


# ---------------------------------------------------------------------------------------- two threads


@pytest.mark.parametrize("state", [State.QUEUED, State.JUDGED, State.RECORDING])
def test_of_two_who_end_it_at_once_one_does(state):
    """A deadline, and whoever has the part: it is ended once, and all who wait are told of that end."""
    for _ in range(50):
        held, start = Held(state), threading.Barrier(2)
        moved: list[bool] = []

        def deadline(held: Held = held, start: threading.Barrier = start) -> None:
            start.wait()
            held.ticket.fail(ERROR)

        def work(held: Held = held, start: threading.Barrier = start, moved: list[bool] = moved) -> None:
            start.wait()
            for after in WAY[WAY.index(state) + 1 :]:
                if not MOVES[after](held.ticket):
                    return
            held.ticket.finish(record())
            moved.append(True)

        threads = [threading.Thread(target=one) for one in (deadline, work)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert held.ticket.state is (State.DONE if moved else State.FAILED)
        assert len(held.ended) == 1
        assert held.waiter.done()
        assert (held.waiter.exception() is None) is bool(moved)


def test_whoever_leaves_while_it_is_decided_has_left_or_is_answered():
    for _ in range(50):
        held, start = Held(State.RECORDING), threading.Barrier(2)
        left: list[bool] = []

        def leave(held: Held = held, start: threading.Barrier = start, left: list[bool] = left) -> None:
            start.wait()
            left.append(held.waiter.leave(ABANDONED))

        leaving = threading.Thread(target=leave)
        leaving.start()
        start.wait()
        why = held.ticket.decide()
        leaving.join(30)
        assert left == [why == ABANDONED]


def test_one_who_is_gone_when_it_is_told_has_no_answer_and_another_may_have_it():
    held = Held(State.RECORDING)
    other = held.join()
    assert held.ticket.decide() is None
    assert not held.waiter.leave(ABANDONED)
    held.ticket.finish(record())
    assert not held.ticket.note_gone(held.waiter)
    assert held.ticket.note_gone(other)


# ------------------------------------------------------------------------------------ a plain model


class Histories(RuleBasedStateMachine):
    """Whatever is done to a ticket, in whatever order: what a plain model says."""

    def __init__(self) -> None:
        super().__init__()
        self.held = Held()
        self.state = State.TAKEN
        self.present = {self.held.waiter}
        self.told: set[Waiter] = set()
        self.why: str | None = None
        self.is_decided = False

    def _end(self, state: State) -> None:
        self.state = state
        self.told |= self.present
        self.present = set()

    @rule(after=st.sampled_from(list(MOVES)))
    def move(self, after: State) -> None:
        try:
            moved = MOVES[after](self.held.ticket)
        except IllegalMoveError:
            moved = False
            assert self.state is not State.FAILED
        is_next = self.state in WAY[:-1] and WAY[WAY.index(self.state) + 1] is after
        assert moved is is_next
        if moved:
            self.state = after

    @rule()
    def fail(self) -> None:
        if self.held.ticket.fail(ERROR):
            assert self.state in BEFORE_RECORDING
            self._end(State.FAILED)
        else:
            assert self.state not in BEFORE_RECORDING

    @rule()
    def decide(self) -> None:
        if self.state is State.RECORDING:
            assert self.held.ticket.decide() == self.why
            self.is_decided = True

    @rule()
    def finish(self) -> None:
        if self.state is not State.RECORDING:
            with pytest.raises(IllegalMoveError):
                self.held.ticket.finish(record())
            return
        self.held.ticket.finish(record())
        self._end(State.DONE)

    @rule(due=st.floats(1.0, 100.0))
    def join(self, due: float) -> None:
        waiter = self.held.ticket.join(due)
        assert (waiter is None) is (self.state in ENDS)
        if waiter is not None:
            self.present.add(waiter)
            self.why = self.why if self.is_decided else None

    @rule(data=st.data(), why=st.sampled_from([LATE, ABANDONED]))
    def leave(self, data: Any, why: str) -> None:
        waiting = [one for one in self.present if not one.has_left]
        if not waiting:
            return
        has_left = data.draw(st.sampled_from(waiting)).leave(why)
        assert has_left is not self.is_decided
        if has_left and all(one.has_left for one in self.present):
            self.why = why

    @invariant()
    def as_the_model_says(self) -> None:
        assert self.held.ticket.state is self.state
        assert len(self.held.ended) == (self.state in ENDS)
        assert all(one.done() for one in self.told)
        assert not any(one.done() for one in self.present)
        if self.state not in ENDS:
            assert self.held.ticket.unanswered == self.why


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=100, stateful_step_count=20, deadline=None)


# ------------------------------------------------------------------------------------------- where it is told


def test_the_head_of_the_file_tells_each_state_and_names_what_there_is():
    told = ticket_module.__doc__ or ""
    assert {state.name for state in State} <= {*re.findall(r"[A-Z]{4,}", told)}
    named = re.findall(r"`([\w.]+)`", told)
    assert len(named) > 10
    for name in named:
        room, *rest = name.split(".")
        files = {"Inspector": "inspector", "Intake": "intake", "Waiter": "ticket"}
        if room in files:
            room, rest = files[room], [room, *rest]
        is_own = room not in ("sources", "core", "store", "web")
        names = ["inspecting", room, *rest] if is_own else [room, *rest]
        found: Any = importlib.import_module(f"flawscope_station.{names[0]}.{names[1]}")
        for attribute in names[2:]:
            found = getattr(found, attribute)
