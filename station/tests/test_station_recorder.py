"""Records whose fate is not known at once: the answer to COMMIT was lost, or a wait ended meanwhile."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import pytest

from flawscope_station.inspecting import writer
from flawscope_station.inspecting.job import OverdueError
from flawscope_station.inspecting.writer import Answer, JudgedPart, RecordedInspection, Recorder, Waiter
from flawscope_station.store.database import Database, StoreError
from flawscope_station.store.insert import NewInspection
from flawscope_station.store.records import Store
from flawscope_station.store.schema import ABANDONED, LATE
from station_helpers import add_version, taken, until


def lost_answer(is_in_doubt: bool = True) -> StoreError:
    error = StoreError("the connection is lost", "store_unreachable")
    error.is_in_doubt = is_in_doubt
    return error


class Away:
    """A store whose answers to COMMIT can be lost. stands: whether what was written is there all the same.
    is_away: whether it answers nothing."""

    def __init__(self, store: Store):
        self._store = store
        self.loses, self.stands, self.is_away = False, True, False
        self.begun, self.going = threading.Event(), threading.Event()
        self.going.set()

    def record(self, several: Sequence[NewInspection]) -> Any:
        self.begun.set()
        assert self.going.wait(60)
        if not self.loses:
            return self._store.record(several)
        if self.stands:
            self._store.record(several)
        raise lost_answer()

    def find_recorded(self, several: Sequence[NewInspection]) -> Any:
        if self.is_away:
            raise lost_answer(is_in_doubt=False)
        return self._store.find_recorded(several)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


class Line:
    """A recorder, and what it announces."""

    def __init__(self, database: Database):
        self.store = Away(Store(database))
        self.product, self.version = add_version(database)
        self.announced = list[RecordedInspection]()
        self.recorder = Recorder(self.store, self.announced.append, lambda found: None)  # type: ignore[arg-type]
        self._count = 0

    def part(self, number: str = "4711", **given: Any) -> JudgedPart:
        self._count += 1
        judged = taken(self.product, self.version, at=self._count, part=number, **given)
        return JudgedPart(judged, (), (_done(judged.picture),), Answer(), (0.0, 0.0, 0.0))

    def sends(self, part: JudgedPart) -> Answer:
        self.recorder.add(part)
        return part.answer

    def rows(self) -> list[tuple[int, str | None]]:
        with self.store.database.reading() as connection:
            found = connection.exec_driver_sql("SELECT id, unanswered FROM inspections ORDER BY id").all()
        return [(row[0], row[1]) for row in found]


def _done(digest: str) -> Future[str]:
    done: Future[str] = Future()
    done.set_result(digest)
    return done


@pytest.fixture
def line(tmp_path, monkeypatch) -> Iterator[Line]:
    monkeypatch.setattr(writer, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(writer, "LOOK_INTERVAL", 0.01)
    database = Database(f"sqlite:///{tmp_path / 'station.sqlite'}")
    database.migrate()
    made = Line(database)
    yield made
    made.recorder.close()
    database.close()


def test_a_part_whose_record_stands_is_answered_though_the_answer_to_commit_was_lost(line):
    line.store.loses = True
    parts = [line.part(str(number)) for number in range(3)]
    for one in parts:
        line.sends(one)
    found = [one.answer.result(60) for one in parts]
    assert [one.number for one in found] == [1, 2, 3]
    assert all(one.is_new for one in found)
    assert [one.number for one in line.announced] == [1, 2, 3], "sinks hear of them"
    assert line.rows() == [(1, None), (2, None), (3, None)]
    assert line.store.counts(line.product)["inspected"] == 3


def test_a_part_whose_record_does_not_stand_is_refused(line):
    line.store.loses, line.store.stands = True, False
    with pytest.raises(StoreError):
        line.sends(line.part()).result(60)
    line.store.loses = False
    assert line.sends(line.part()).result(60).number == 1
    assert line.rows() == [(1, None)]


def test_a_part_sent_again_after_a_refusal_that_was_wrong_has_one_record(line):
    """Without a key: the sender did what a 503 asks for."""
    line.store.loses = line.store.is_away = True
    with pytest.raises(StoreError):
        line.sends(line.part()).result(60)
    line.store.loses = line.store.is_away = False
    until(lambda: line.rows() == [(1, LATE)], "it is marked as not answered")
    assert [(one.number, one.inspection.unanswered) for one in line.announced] == [(1, LATE)]
    other = line.sends(line.part("4712")).result(60)
    assert other.number == 2, "another part is another record"
    again = line.sends(line.part()).result(60)
    assert (again.number, again.is_new, again.inspection.unanswered) == (1, False, None)
    assert line.rows() == [(1, None), (2, None)]
    assert line.sends(line.part()).result(60).number == 3, "once more, it is a part of its own"


def test_a_part_is_sent_again_before_anybody_knows(line):
    line.store.loses = line.store.is_away = True
    with pytest.raises(StoreError):
        line.sends(line.part()).result(60)
    line.store.loses = False
    with pytest.raises(StoreError):  # `find_recorded` is still away, and so is the data base
        line.store.find_recorded([])
    line.store.is_away = False
    assert line.sends(line.part()).result(60).number == 1
    assert len(line.rows()) == 1


def test_one_who_leaves_does_not_give_up_the_answer_of_another(line):
    """A retry under the same key waits for the same answer."""
    line.store.going.clear()
    part = line.part(key="http:k")
    part.answer.join()
    first, second = Waiter(part.answer), Waiter(part.answer)
    line.sends(part)
    assert line.store.begun.wait(60)
    first.leave(ABANDONED)
    line.store.going.set()
    assert part.answer.result(60).inspection.unanswered is None
    assert line.rows() == [(1, None)]
    assert not second.leave(LATE), "it has its answer"


def test_all_who_have_left_are_written_down(line):
    line.store.going.clear()
    part = line.part()
    line.sends(part)
    assert line.store.begun.wait(60)
    Waiter(part.answer).leave(ABANDONED)
    line.store.going.set()
    until(lambda: line.rows() == [(1, ABANDONED)])


def test_a_part_that_had_a_record_under_its_key_gets_no_other_ones(line):
    """Of a group whose answer to COMMIT was lost, only new records are found by the moment of the part."""
    earlier = line.sends(line.part("1", key="http:k")).result(60)
    line.store.going.clear()
    line.store.begun.clear()
    line.sends(line.part("2"))
    assert line.store.begun.wait(60)
    again, new = line.part("1", key="http:k"), line.part("3")
    line.sends(again)
    line.sends(new)
    line.store.loses = True
    line.store.going.set()
    assert new.answer.result(60).inspection.part == "3"
    with pytest.raises(StoreError):
        again.answer.result(60)
    assert new.answer.result().number == 3
    assert (earlier.number, line.rows()) == (1, [(1, None), (2, None), (3, None)])


def test_files_are_released_when_the_recorder_has_let_go_of_the_part(line):
    """A part whose wait ends while its transaction waits has a record all the same."""
    line.store.going.clear()
    part, released = line.part(), list[bool]()
    part.answer.release_later(released.append)
    line.sends(part)
    assert line.store.begun.wait(60)
    assert part.answer.is_recording(60.0)
    part.answer.give_up(LATE)
    part.answer.set_exception(OverdueError(1.0))
    assert released == [], "nobody knows yet"
    line.store.going.set()
    until(lambda: line.rows() == [(1, LATE)])
    until(lambda: released)
    assert released == [True], "a record names them"
    assert not part.answer.is_recording(60.0)


@pytest.mark.parametrize(("stands", "needed"), [(False, False), (True, True)])
def test_files_of_a_part_in_doubt_stay(line, stands, needed):
    line.store.loses, line.store.stands, line.store.is_away = True, stands, stands
    part, released = line.part(), list[bool]()
    part.answer.release_later(released.append)
    with pytest.raises(StoreError):
        line.sends(part).result(60)
    until(lambda: released)
    assert released == [needed]
    part.answer.release_later(released.append)
    assert len(released) == 2, "also one that is written late"


def test_a_part_is_known_by_the_moment_in_which_it_was_taken(line):
    first = line.part()
    line.sends(first).result(60)
    twin = replace(first.inspection, at=first.inspection.at + 1)
    assert line.store.find_recorded([first.inspection, twin]) == [1, None]
