"""Records whose fate is not known at once: the answer to COMMIT was lost, or a wait ended meanwhile."""

import math
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from flawscope.pictures.decoding import HashedPicture
from flawscope_station.inspecting import recorder as recording
from flawscope_station.inspecting.picture import Part, Picture
from flawscope_station.inspecting.recorder import Recorder
from flawscope_station.inspecting.ticket import OverdueError, RecordedInspection, State, Ticket, View, Waiter
from flawscope_station.store.database import Database, StoreError
from flawscope_station.store.files import PICTURES, Files
from flawscope_station.store.insert import NewInspection
from flawscope_station.store.records import Store
from flawscope_station.store.schema import ABANDONED, LATE
from station_helpers import add_version, failing, taken, until


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


class Sent(NamedTuple):
    """A part and who waits for it."""

    ticket: Ticket
    waiter: Waiter


class Line:
    """A recorder, and what it announces."""

    def __init__(self, database: Database, folder: Path):
        self.store = Away(Store(database))
        self.product, self.version = add_version(database)
        self.announced = list[RecordedInspection]()
        self.files = Files(folder)
        self.recorder = Recorder(
            self.store,  # type: ignore[arg-type]
            self.files,
            self.announced.append,
            lambda found: None,
        )
        self._count = 0

    def part(self, number: str = "4711", **given: Any) -> Sent:
        """A part that is judged, and whose file is on the disk."""
        self._count += 1
        judged = taken(self.product, self.version, at=self._count, part=number, **given)
        picture = Picture(b"", judged.name)
        ticket = Ticket(Part(self.product, (picture,), "http", number), self._count, self._ended)
        waiter = ticket.join(math.inf)
        assert waiter is not None
        view = View(picture, ".png", HashedPicture(b""))
        assert ticket.read([view])
        digest = self.files.keep(PICTURES, number.encode(), ".png", hold=True)
        assert ticket.keep(view, digest)
        assert ticket.queue()
        assert ticket.judge(judged, ())
        return Sent(ticket, waiter)

    def _ended(self, ticket: Ticket, outcome: object) -> None:
        """As the inspector does."""
        if ticket.state is State.FAILED:
            self.recorder.add(ticket)

    def sends(self, part: Sent) -> Waiter:
        self.recorder.add(part.ticket)
        return part.waiter

    def kept(self) -> int:
        """Number of pictures' files."""
        return len(list((self.files.folder / PICTURES).glob("*/*.png")))

    def rows(self) -> list[tuple[int, str | None]]:
        with self.store.database.reading() as connection:
            found = connection.exec_driver_sql("SELECT id, unanswered FROM inspections ORDER BY id").all()
        return [(row[0], row[1]) for row in found]


@pytest.fixture
def line(tmp_path, monkeypatch) -> Iterator[Line]:
    monkeypatch.setattr(recording, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(recording, "LOOK_INTERVAL", 0.01)
    database = Database(f"sqlite:///{tmp_path / 'station.sqlite'}")
    database.migrate()
    made = Line(database, tmp_path)
    yield made
    made.recorder.close()
    database.close()


def test_a_part_whose_record_stands_is_answered_though_the_answer_to_commit_was_lost(line):
    line.store.loses = True
    parts = [line.part(str(number)) for number in range(3)]
    for one in parts:
        line.sends(one)
    found = [one.waiter.result(60) for one in parts]
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
    with pytest.raises(StoreError):  # `find_recorded` is still away, and so is the database
        line.store.find_recorded([])
    line.store.is_away = False
    assert line.sends(line.part()).result(60).number == 1
    assert len(line.rows()) == 1


def test_a_keyed_part_sent_again_before_anybody_knows_is_answered(line):
    """Its record is found by its key before the recorder finds it, and is not marked afterwards."""
    line.store.loses = line.store.is_away = True
    with pytest.raises(StoreError):
        line.sends(line.part(key="http:k")).result(60)
    line.recorder.note_answered(1)  # as `answers.describe_again` does
    line.store.loses = line.store.is_away = False
    until(lambda: line.announced, "who listens is told")
    assert line.announced[0].inspection.unanswered is None
    assert line.rows() == [(1, None)]
    line.sends(line.part("other")).result(60)
    until(lambda: line.recorder.threads[0].calling_since is None, "it waits")
    line.recorder.note_answered(1)
    assert not line.recorder._answered, "nothing is open"


def test_a_retry_that_finds_a_record_whose_fate_is_open_is_answered(line, monkeypatch):
    """Its first sender leaves while the transaction is committed, and the retry has the record at once."""
    part = line.part(key="http:k")

    def record(several: Sequence[NewInspection]) -> Any:
        found = [*line.store._store.record(several)]
        part.waiter.leave(ABANDONED)
        line.recorder.note_answered(1)  # as `answers.describe_again` does
        return found

    monkeypatch.setattr(line.store, "record", record)
    assert line.sends(part).result(60).inspection.unanswered is None
    assert line.rows() == [(1, None)]


def test_a_retry_that_finds_the_record_of_one_who_left_is_answered(line):
    """It came while the first was being recorded, looked for a record before there was one, and was judged
    itself."""
    line.store.going.clear()
    first = line.part(key="http:k")
    line.sends(first)
    assert line.store.begun.wait(60)
    first.waiter.leave(ABANDONED)
    again = line.part(key="http:k")
    line.sends(again)
    line.store.going.set()
    found = again.waiter.result(60)
    assert (found.number, found.is_new, found.inspection.unanswered) == (1, False, None)
    assert line.rows() == [(1, None)]


def test_a_retry_whose_answer_cannot_be_written_down_is_not_answered(line, monkeypatch):
    line.sends(line.part(key="http:k")).result(60)
    monkeypatch.setattr(line.store, "set_unanswered", failing(lost_answer()), raising=False)
    with pytest.raises(StoreError):
        line.sends(line.part(key="http:k")).result(60)
    assert line.kept() == 1, "the first one's"


def test_one_who_leaves_does_not_give_up_the_answer_of_another(line):
    """A retry under the same key waits for the same answer."""
    line.store.going.clear()
    part = line.part(key="http:k")
    second = part.ticket.join(math.inf)
    line.sends(part)
    assert line.store.begun.wait(60)
    part.waiter.leave(ABANDONED)
    line.store.going.set()
    assert second.result(60).inspection.unanswered is None
    assert line.rows() == [(1, None)]
    assert not second.leave(LATE), "it has its answer"


def test_all_who_have_left_are_written_down(line):
    line.store.going.clear()
    part = line.part()
    line.sends(part)
    assert line.store.begun.wait(60)
    part.waiter.leave(ABANDONED)
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
    assert new.waiter.result(60).inspection.part == "3"
    with pytest.raises(StoreError):
        again.waiter.result(60)
    assert new.waiter.result().number == 3
    assert (earlier.number, line.rows()) == (1, [(1, None), (2, None), (3, None)])


def test_the_files_of_a_part_that_is_given_up_while_it_is_recorded_stay(line):
    """Its wait ends while its transaction waits: it has a record all the same."""
    line.store.going.clear()
    part = line.part()
    line.sends(part)
    assert line.store.begun.wait(60)
    assert part.ticket.is_recording(60.0)
    assert not part.ticket.fail(OverdueError(1.0)), "the recorder alone ends it"
    assert part.ticket.give_up(OverdueError(1.0))
    with pytest.raises(OverdueError):
        part.waiter.result(0)
    line.store.going.set()
    until(lambda: part.ticket.state is State.DONE)
    assert line.rows() == [(1, LATE)]
    until(lambda: not line.files.held_bytes())
    assert line.kept() == 1, "a record names it"
    assert not part.ticket.is_recording(60.0)


def test_the_files_of_a_part_that_failed_are_removed(line):
    failed = line.part()
    assert failed.ticket.fail(OverdueError(1.0))
    until(lambda: line.kept() == 0)
    assert line.rows() == []
    late = line.part()
    late.ticket.fail(OverdueError(1.0))
    until(lambda: line.kept() == 0)
    view = View(Picture(b"", "a"), ".png", HashedPicture(b""))
    digest = line.files.keep(PICTURES, b"late", ".png", hold=True)
    assert not late.ticket.keep(view, digest), "the file comes when the part has failed"
    line.recorder.add(late.ticket)
    until(lambda: line.kept() == 0)


@pytest.mark.parametrize(("stands", "left"), [(False, 0), (True, 1)])
def test_files_of_a_part_in_doubt_stay(line, stands, left):
    line.store.loses, line.store.stands, line.store.is_away = True, stands, stands
    part = line.part()
    with pytest.raises(StoreError):
        line.sends(part).result(60)
    until(lambda: not line.files.held_bytes())
    until(lambda: line.kept() == left)


def test_a_part_is_known_by_the_moment_in_which_it_was_taken(line):
    first = line.part()
    record = line.sends(first).result(60).inspection
    twin = replace(record, at=record.at + 1)
    assert line.store.find_recorded([record, twin]) == [1, None]


def test_parts_in_doubt_are_bounded(line, monkeypatch):
    monkeypatch.setattr(recording, "MAX_DOUBTS", 3)
    line.store.loses = line.store.is_away = True
    for number in range(5):
        with pytest.raises(StoreError):
            line.sends(line.part(str(number))).result(60)
    line.store.loses = line.store.is_away = False
    until(lambda: [why for _, why in line.rows()] == [None, None, LATE, LATE, LATE])
