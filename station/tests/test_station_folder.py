"""Pictures that appear in a folder: each once, none lost, and nobody else harmed."""

import errno
import hashlib
import os
import re
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from flawscope_station.inspecting.interlock import FrozenError
from flawscope_station.inspecting.memory import BusyError
from flawscope_station.inspecting.picture import Part
from flawscope_station.inspecting.ticket import ModelError
from flawscope_station.settings.station import Limits
from flawscope_station.sources import folder as module
from flawscope_station.sources.arrivals import FileStamp
from flawscope_station.sources.folder import MAX_RETRY_DELAY, WatchedFolder
from flawscope_station.sources.moved_files import move_unchanged
from flawscope_station.sources.source import QueueShare
from flawscope_station.store.database import StoreError
from flawscope_station.store.files import PICTURES
from flawscope_station.store.schema import MISSED, PASSED_OVER, REPEATED, UNREADABLE, VANISHED, inspections
from folder_helpers import (
    FIRST,
    MINUTE,
    SECOND,
    SIZE,
    Line,
    Way,
    files_of,
    line_fixture,  # noqa: F401
    picture,
    slowly,
)
from station_helpers import failing, until


def test_what_is_there_is_taken_oldest_first_then_what_comes(line):
    line.put("b.png", picture(1), age=30)
    line.put("deep/er/a.png", picture(2), age=60)
    line.put("c.png", picture(3), age=10)
    (line.folder / "notes.txt").write_text("no picture")
    line.open()
    line.until(lambda: len(line.names()) == 3)
    assert line.tried == ["deep/er/a.png", "b.png", "c.png"]
    line.put("new/d.png", picture(4))
    line.until(lambda: line.names()[3:] == ["new/d.png"])
    assert line.tried.count("b.png") == 1
    assert sorted(path.name for path in line.folder.rglob("*.*")) == [
        *("a.png", "b.png", "c.png", "d.png", "notes.txt")
    ]
    with line.store.database.reading() as connection:
        rows = connection.execute(select(inspections.c.key, inspections.c.source)).all()
    facts = (line.folder / "b.png").stat()
    key = f":b.png:{facts.st_mtime_ns}:{facts.st_size}"
    assert any(found.endswith(key) and source == "folder" for found, source in rows)
    assert line.problems == {}


def test_a_restart_takes_nothing_twice_and_loses_nothing(line):
    line.put("a.png", picture(1))
    line.put("b.png", picture(2))
    line.put("c.png", picture(3))
    line.open()
    line.until(lambda: len(line.names()) == 3)
    line.sources.pop().stop()
    line.tried.clear()
    (line.folder / "b.png").write_bytes(picture(9))  # anew
    (line.folder / "done").mkdir()
    (line.folder / "c.png").rename(line.folder / "done/c.png")
    line.put("d.png", picture(4))
    line.put("copy.png", picture(1))  # of another time: another picture
    line.open()
    line.until(lambda: len(line.names()) == 6)
    line.run(MINUTE)
    assert line.tried[0] == "b.png"
    assert sorted(line.tried) == ["b.png", "copy.png", "d.png"]
    assert len(line.names()) == 6


def test_a_file_that_changes_before_it_is_read_waits(line, monkeypatch):
    path, anew, read = line.put("a.png", picture(1)), picture(7) + b"more", module.read_unchanged
    once = [True]

    def written_meanwhile(where: Path, mark: FileStamp) -> bytes | None:
        if once:
            once.clear()
            path.write_bytes(anew)
        return read(where, mark)

    monkeypatch.setattr(module, "read_unchanged", written_meanwhile)
    line.open()
    line.until(lambda: line.names() == ["a.png"])
    with line.store.database.reading() as connection:
        (digest,) = connection.execute(select(inspections.c.picture)).scalars()
    assert line.files.path(PICTURES, digest, ".png").read_bytes() == anew


def test_an_unreadable_picture_is_one_event_and_a_problem_until_it_is_mended(line):
    line.put("bad.png", picture(1)[:40])
    line.put("good.png", picture(2))
    line.open()
    line.until(lambda: "folder_unreadable" in line.problems)
    assert "bad.png: it is truncated" in line.problems["folder_unreadable"]
    assert "1 picture in" in line.problems["folder_unreadable"]
    assert line.names() == ["good.png"]
    assert line.tried.count("bad.png") >= 2, "once at the end of the patience"
    (event,) = line.texts(UNREADABLE)
    assert event.startswith("bad.png of 20")
    line.sources.pop().stop()
    line.problems.clear()
    line.open()
    line.until(lambda: "folder_unreadable" in line.problems)
    assert len(line.texts(UNREADABLE)) == 1, "told twice"
    line.put("bad.png", picture(3))
    line.until(lambda: line.names() == ["good.png", "bad.png"])
    line.until(lambda: line.problems == {})


def test_a_picture_that_is_too_large_is_not_read(line):
    line.put("large.png", picture(1) + bytes(3000))
    line.open(QueueShare(Limits(upload="2 KB")))
    line.until(lambda: "folder_unreadable" in line.problems)
    assert "limits: upload" in line.problems["folder_unreadable"]
    assert line.tried == []
    assert "limits: upload" in line.refused[0], "a part came, and was not judged"


def test_a_folder_that_is_away_is_a_problem_until_it_is_back(line):
    shutil.rmtree(line.folder)
    line.open()
    line.until(lambda: "no such folder" in line.problems.get("folder_away", ""))
    line.folder.mkdir()
    line.put("a.png", picture(1))
    line.until(lambda: line.names() == ["a.png"])
    line.until(lambda: line.problems == {})
    away = line.folder.with_name("away")
    line.folder.rename(away)
    line.until(lambda: "folder_away" in line.problems)
    (away / "b.png").write_bytes(picture(2))
    away.rename(line.folder)
    line.until(lambda: line.names() == ["a.png", "b.png"])
    line.until(lambda: line.problems == {})
    line.put("c.png", picture(3))
    line.until(lambda: line.names() == ["a.png", "b.png", "c.png"])


def test_one_that_always_fails_keeps_no_other_waiting(line):
    line.hurdle = lambda one: ModelError("it failed") if one.name == "poison.png" else None
    line.put("poison.png", picture(1), age=99)
    for k in range(5):
        line.put(f"{k}.png", picture(k))
    line.open()
    line.until(lambda: len(line.names()) == 5)
    assert "1 picture in" in line.problems["folder_waits"]
    line.put("late.png", picture(6))
    line.sources[0].work_once()
    line.clock.advance(MAX_RETRY_DELAY)
    line.sources[0].work_once()
    assert line.tried[-2:] == ["poison.png", "late.png"], "it is tried again, and holds up no other"


def test_a_file_goes_only_when_its_inspection_is_on_the_disk_and_it_is_as_it_was(line, tmp_path, monkeypatch):
    path, anew = line.put("a.png", picture(1), age=9), line.put("b.png", picture(3))
    record, is_there = line.store.record, list[bool]()

    def record_slowly(judged: Any) -> Any:
        is_there.append(path.exists())
        if judged[0].name == "b.png" and len(is_there) == 2:
            line.put("b.png", picture(2) + b"anew")  # it was read, and is not recorded yet
        return record(judged)

    monkeypatch.setattr(line.store, "record", record_slowly)
    line.open(then=str(tmp_path / "done"))
    line.until(lambda: len(line.names()) == 2)
    line.until(lambda: line.names() == ["a.png", "b.png", "b.png"])
    line.until(lambda: not path.exists() and not anew.exists())
    assert is_there[0]


def test_files_are_moved_and_none_takes_the_place_of_another(line, tmp_path):
    """Also not one that somebody else put there; what cannot be read is set apart."""
    done = tmp_path / "done"
    done.mkdir()
    (done / "a.png").write_bytes(b"another's")
    for shade in (1, 2):
        line.put("a.png", picture(shade))
        line.put("deep/b.png", picture(shade + 10))
        line.put("bad.png", picture(shade)[:40])
        if shade == 1:
            line.open(then=str(done))
        line.until(lambda shade=shade: len(line.names()) == 2 * shade)
        line.until(lambda: files_of(line.folder) == [])
    assert files_of(done) == [
        *("a-1.png", "a-2.png", "a.png", "deep/b-1.png", "deep/b.png"),
        *("unreadable/bad-1.png", "unreadable/bad.png"),
    ]
    assert (done / "a.png").read_bytes() == b"another's"
    assert (done / "a-2.png").read_bytes() == picture(2)
    assert "bad.png: it is truncated" in line.problems["folder_unreadable"]
    shutil.rmtree(done / "unreadable")
    line.until(lambda: line.problems == {})


def test_a_target_inside_the_folder_is_not_inspected(line):
    line.put("a.png", picture(1))
    line.open(then=str(line.folder / "done"))
    line.until(lambda: files_of(line.folder) == ["done/a.png"])
    line.sources.pop().stop()
    os.utime(line.folder / "done/a.png", (1e9, 1e9))  # not even where it looks like another one
    line.put("b.png", picture(2))
    line.open(then=str(line.folder / "done"))
    line.until(lambda: files_of(line.folder) == ["done/a.png", "done/b.png"])
    line.run(MINUTE)
    assert line.names() == ["a.png", "b.png"]


def test_what_a_crash_left_is_done_at_the_next_start(line, tmp_path, monkeypatch):
    """Between the record and the file's end, and between the names of a file that is moved."""
    then = str(tmp_path / "done")
    for shade in range(4):
        line.put(f"{shade}.png", picture(shade))
    with monkeypatch.context() as patch:
        patch.setattr(WatchedFolder, "_finish_file", lambda self, arrivals, path: arrivals.done(path))
        line.open(then=then)
        line.until(lambda: len(line.names()) == 4)
        line.sources.pop().stop()
    assert len(files_of(line.folder)) == 4
    (tmp_path / "done").mkdir()
    os.link(line.folder / "0.png", tmp_path / "done/0.png")
    shutil.copy2(line.folder / "1.png", tmp_path / "done/1.png")
    (line.folder / "2.png").rename(line.folder / ".2.png~01ab~")
    line.tried.clear()
    line.open(then=then)
    line.until(lambda: files_of(line.folder) == [])
    assert line.tried == []
    assert files_of(tmp_path / "done") == ["0.png", "1.png", "2.png", "3.png"]


def judged_hashes(line: Line) -> list[str]:
    with line.store.database.reading() as connection:
        return [*connection.execute(select(inspections.c.picture)).scalars()]


def test_a_picture_that_takes_the_name_of_one_that_is_moved_is_inspected(line, tmp_path, monkeypatch):
    """A camera writes one name, by renaming: between any two steps of the station a new picture may come."""
    done, begun, rename, link = tmp_path / "done", list[str](), os.rename, os.link

    def write_anew(step: str, shade: int) -> None:
        begun.append(step)
        hidden = line.folder / ".new"
        hidden.write_bytes(picture(shade))
        hidden.replace(line.folder / "a.png")

    def renamed(source: Path, target: Path) -> None:
        if begun == []:
            write_anew("before it gets its hidden name", 2)
        rename(source, target)
        if begun == ["before it gets its hidden name"]:
            write_anew("while it has it, and was not the one that was judged", 3)

    def linked(source: Path, target: Path, **given: Any) -> None:
        link(source, target, **given)
        if len(begun) == 2 and done in Path(target).parents:
            write_anew("after it has its new name", 4)

    line.put("a.png", picture(1), age=9)
    monkeypatch.setattr(os, "rename", renamed)
    monkeypatch.setattr(os, "link", linked)
    line.open(then=str(done))
    line.until(lambda: len(begun) == 3 and files_of(line.folder) == [])
    line.run(MINUTE)
    moved = [(done / name).read_bytes() for name in files_of(done)]
    judged = [line.files.path(PICTURES, digest, ".png").read_bytes() for digest in judged_hashes(line)]
    assert sorted(moved) == sorted(picture(shade) for shade in (2, 3, 4)), "the first was overwritten"
    assert sorted(judged) == sorted(picture(shade) for shade in (1, 2, 3, 4))
    assert line.texts(PASSED_OVER) == []


def test_a_picture_of_the_same_size_and_rounded_time_is_not_moved_for_the_one_that_was_judged(
    line, tmp_path, monkeypatch
):
    """A file system that rounds times to seconds; the camera writes in place."""
    path, submit = line.put("a.png", picture(1)), line.submit
    os.utime(path, (1e9, 1e9))

    def overwritten(part: Part) -> Any:
        answer = submit(part)
        if len(line.tried) == 1:
            path.write_bytes(picture(2))
            os.utime(path, (1e9, 1e9))
        return answer

    monkeypatch.setattr(line, "submit", overwritten)
    line.open(then=str(tmp_path / "done"))
    line.until(lambda: files_of(line.folder) == [])
    assert len(judged_hashes(line)) == 2
    assert [(tmp_path / "done" / name).read_bytes() for name in files_of(tmp_path / "done")] == [picture(2)]


def test_answers_of_a_round_that_failed_are_worked_off_at_the_next(line, tmp_path, monkeypatch):
    """The store goes away while parts are judged: they are not met again as inspected before."""
    for shade in range(3):
        line.put(f"{shade}.png", picture(shade), age=9 - shade)
    tried, submit = list[str](), line.submit

    def submit_two(part: Part) -> Any:
        tried.append(part.pictures[0].name)
        if len(tried) == 3:
            raise StoreError("the database is away", "store_unreachable")
        return submit(part)

    monkeypatch.setattr(line, "submit", submit_two)
    line.open(then=str(tmp_path / "done"))
    line.until(lambda: files_of(tmp_path / "done") == ["0.png", "1.png", "2.png"])
    assert (line.texts(REPEATED), tried) == ([], ["0.png", "1.png", "2.png", "2.png"])


@pytest.mark.parametrize("kind", [UNREADABLE, MISSED])
def test_a_picture_that_is_given_up_while_the_store_is_away_holds_up_no_other(line, monkeypatch, kind):
    """Its event cannot be noted at first; then it is, once."""
    if kind == MISSED:
        line.hurdle = lambda one: FrozenError(f"{one.name}: frozen") if one.name == "bad.png" else None
    line.put("bad.png", picture(1) if kind == MISSED else picture(1)[:40], age=9)
    note, away = line.store.note_new_events, [True, True]

    def note_later(told: str, *given: Any) -> None:
        if told == kind and away:
            away.pop()
            raise StoreError("the database is away", "store_unreachable")
        note(told, *given)

    monkeypatch.setattr(line.store, "note_new_events", note_later)
    line.open()
    line.until(lambda: len(line.texts(kind)) == 1)
    line.put("good.png", picture(2))
    line.until(lambda: line.names() == ["good.png"])
    assert (away, len(line.texts(kind))) == ([], 1)


def test_what_a_frozen_camera_repeats_stays_where_it_is(line, tmp_path):
    line.hurdle = lambda one: FrozenError(f"{one.name}: frozen") if one.name == "b.png" else None
    line.put("a.png", picture(1), age=9)
    line.put("b.png", picture(1))
    line.open(then=str(tmp_path / "done"))
    line.until(lambda: len(line.texts(MISSED)) == 1)
    line.run(MINUTE)
    assert (files_of(line.folder), files_of(tmp_path / "done")) == (["b.png"], ["a.png"])
    assert line.tried == ["a.png", "b.png"]


def test_a_file_is_moved_to_another_disk(line, tmp_path, monkeypatch):
    """Where no file can have a second name, as on many shares."""

    monkeypatch.setattr(os, "link", failing(OSError(errno.EXDEV, os.strerror(errno.EXDEV))))
    done = tmp_path / "done"
    path = line.put("a.png", picture(1), age=50)
    changed = path.stat().st_mtime_ns
    line.open(then=str(done))
    line.until(lambda: files_of(line.folder) == [])
    assert files_of(done) == ["a.png"]
    assert ((done / "a.png").read_bytes(), (done / "a.png").stat().st_mtime_ns) == (picture(1), changed)


def test_files_that_cannot_be_moved_are_a_problem_and_inspections_go_on(line, tmp_path):
    (tmp_path / "done").write_text("a file where the folder should be")
    line.put("a.png", picture(1))
    line.open(then=str(tmp_path / "done"))
    text = line.until(lambda: line.problems.get("folder_then"))
    assert f"1 inspected picture in {line.folder} cannot be moved to {tmp_path / 'done'}: " in text
    line.put("b.png", picture(2))
    line.until(lambda: line.names() == ["a.png", "b.png"])
    line.until(lambda: "2 inspected pictures" in line.problems["folder_then"])
    assert sorted(line.tried) == ["a.png", "b.png"]
    (tmp_path / "done").unlink()
    line.until(lambda: files_of(tmp_path / "done") == ["a.png", "b.png"])
    line.until(lambda: line.problems == {})
    assert len(line.names()) == 2


def with_pauses(line: Line) -> Way:
    """Longer than a file may be incomplete: it is told, and inspected all the same."""
    path = line.folder / "a.png"
    path.write_bytes(FIRST[:50])
    line.run(MINUTE)
    path.write_bytes(FIRST)
    return [FIRST], {UNREADABLE: ["a.png"]}


def two_writers(line: Line) -> Way:
    """Of one file at once: what the last one has written in the end."""
    with open(line.folder / "a.png", "wb", buffering=0) as one, open(line.folder / "a.png", "r+b", 0) as two:
        for file, data in ((one, FIRST[:40]), (two, SECOND[:60]), (one, FIRST[40:90])):
            file.write(data)
            line.run(1)
        two.seek(0)
        two.write(SECOND)
    return [SECOND], {}


def truncated_then_completed(line: Line) -> Way:
    path = line.folder / "a.png"
    path.write_bytes(FIRST)
    os.truncate(path, 30)
    line.run(5)
    path.write_bytes(FIRST)
    return [FIRST], {}


def allocated_first(line: Line) -> Way:
    """As copies over a network are."""
    path = line.folder / "a.png"
    path.write_bytes(bytes(len(FIRST)))
    line.run(5)
    path.write_bytes(FIRST)
    return [FIRST], {}


def replaced(line: Line) -> Way:
    line.put("a.png", FIRST)
    line.run(5)
    line.put("a.png", SECOND)
    return [FIRST, SECOND], {}


def replaced_with_its_time(line: Line) -> Way:
    for data in (FIRST, SECOND):
        line.put("a.png", data)
        os.utime(line.folder / "a.png", (1.7e9, 1.7e9))
        line.run(5)
    return [FIRST, SECOND], {}


def hard_link(line: Line) -> Way:
    os.link(line.put("a.png", FIRST), line.folder / "b.png")
    if line.sources[0].folders[0].then != "keep":  # then the second one is the first, moved
        return [FIRST], {REPEATED: ["b.png"]}
    return [FIRST, FIRST], {}


def symbolic_link(line: Line) -> Way:
    there = line.folder.with_name("elsewhere.png")
    there.write_bytes(FIRST)
    (line.folder / "a.png").symlink_to(there)
    return [FIRST], {}


def from_another_disk(line: Line) -> Way:
    """With its time, under a name of its own until it is whole."""
    there = line.folder.with_name("elsewhere.png")
    there.write_bytes(FIRST)
    os.utime(there, (1e9, 1e9))
    shutil.copy2(there, line.folder / "a.png.part")
    line.run(5)
    (line.folder / "a.png.part").rename(line.folder / "a.png")
    there.unlink()
    return [FIRST], {}


def renamed_before_and_after(line: Line) -> Way:
    path = line.put("a.png", FIRST)
    line.sources[0].work_once()
    path = path.rename(line.folder / "b.png")
    line.run(5)
    if path.exists():  # else it was moved
        path.rename(line.folder / "c.png")
    return [FIRST], {}


def folder_moved_in(line: Line) -> Way:
    there = line.folder.with_name("day")
    there.mkdir()
    for name, data in (("a.png", FIRST), ("b.PNG", SECOND)):
        (there / name).write_bytes(data)
    there.rename(line.folder / "day")
    return [FIRST, SECOND], {}


def copied_to_a_hidden_name_and_left(line: Line) -> Way:
    """The copy broke off."""
    (line.folder / ".a.png.x7Gq").write_bytes(FIRST[:50])
    return [], {PASSED_OVER: [".a.png.x7Gq"]}


def never_completed(line: Line) -> Way:
    (line.folder / "a.png").write_bytes(FIRST[:50])
    (line.folder / "b.png").touch()
    return [], {UNREADABLE: ["a.png", "b.png"]}


def gone_before_it_was_whole(line: Line) -> Way:
    path = line.folder / "a.png"
    path.write_bytes(FIRST[:50])
    line.run(2)
    path.unlink()
    return [], {VANISHED: ["a.png"]}


def of_the_future_and_of_no_time(line: Line) -> Way:
    for name, data, at in (("a.png", FIRST, 4e9), ("b.png", SECOND, 0)):
        line.put(name, data)
        os.utime(line.folder / name, (at, at))
    return [FIRST, SECOND], {}


WAYS = (
    *(slowly, with_pauses, two_writers, truncated_then_completed, allocated_first, replaced),
    *(replaced_with_its_time, hard_link, symbolic_link, from_another_disk, renamed_before_and_after),
    *(folder_moved_in, copied_to_a_hidden_name_and_left, never_completed, gone_before_it_was_whole),
    of_the_future_and_of_no_time,
)


@pytest.mark.parametrize("then", ["keep", "move"])
@pytest.mark.parametrize("way", WAYS)
def test_however_a_file_is_written_it_is_inspected_or_told(line, way, then, tmp_path):
    line.open(then=str(tmp_path / "done") if then == "move" else then)
    line.run(5)
    contents, told = way(line)
    line.run(2 * MINUTE)
    assert sorted(judged_hashes(line)) == sorted(hashlib.sha256(data).hexdigest() for data in contents)
    for kind in (PASSED_OVER, UNREADABLE, VANISHED, REPEATED):
        names = {re.split(r" of \d{4}-| went away|: it is", text)[0] for text in line.texts(kind)}
        assert names == {*told.get(kind, [])}, kind


@pytest.mark.parametrize("then", ["keep", "move"])
def test_the_same_file_again_is_told_and_another_of_its_name_size_and_time_is_inspected(line, then, tmp_path):
    line.open(then=str(tmp_path / "done") if then == "move" else then)
    first, other = picture(1), picture(2)
    original = tmp_path / "a.png"

    def copy(data: bytes, name: str = "a.png") -> None:
        original.write_bytes(data)
        os.utime(original, (1.7e9, 1.7e9))
        shutil.copy2(original, line.folder / name)
        line.run(MINUTE)

    copy(first)
    assert (line.names(), line.texts(REPEATED)) == (["a.png"], [])
    if then == "keep":
        (line.folder / "a.png").chmod(0o600)
        line.run(MINUTE)
        assert line.texts(REPEATED) == [], "it was only touched"
        (line.folder / "a.png").unlink()
        line.run(MINUTE)
    copy(first)
    assert line.names() == ["a.png"]
    (text,) = line.texts(REPEATED)
    assert text.startswith("a.png of 2023-")
    assert text.endswith("bytes: it was inspected before, and is not inspected again")
    copy(other)  # of the same name, size and time
    assert line.names() == ["a.png", "a.png"]
    copy(first, "b.png")
    assert len(line.names()) + len(line.texts(REPEATED)) == 4
    assert (line.folder / "b.png").exists() == (then == "keep")


def test_each_picture_that_went_away_is_named(line):
    line.open()
    line.hurdle = failing(OSError("busy"))
    for k in range(7):
        line.put(f"{k}.png", picture(k))
    line.run(3)
    for k in range(7):
        (line.folder / f"{k}.png").unlink()
    line.run(MINUTE)
    assert sorted(line.texts(VANISHED)) == [f"{k}.png went away before being inspected" for k in range(7)]


def test_pictures_in_whose_place_others_come_before_they_are_read_are_told(line):
    """A camera writes one name more often than the station looks: the first by name, then their number."""
    line.open()
    for k in range(40):
        line.put("a.png", picture(k), age=100 - k)
        line.sources[0].work_once()
        line.clock.advance(0.1)
    line.run(MINUTE)
    texts = line.texts(VANISHED)
    assert len(texts) == 21
    assert texts[-1].startswith("a.png of ")
    assert "another file came in its place before it was inspected" in texts[-1]
    assert texts[0].startswith("32 files so far, a.png among them: ")
    assert line.names() == ["a.png"]


def test_two_folders_of_a_product_do_not_know_each_others_files(line, tmp_path):
    """The same name, time and size."""
    other = replace(line, folder=line.folder.with_name("other"))
    other.submit = line.submit
    for one, shade in ((line, 1), (other, 2)):
        os.utime(one.put("a.png", picture(shade)), (1e9, 1e9))
    line.open(then=str(tmp_path / "done"))
    other.open(number=2, then=str(tmp_path / "others"))
    line.until(lambda: line.names() == ["a.png", "a.png"])
    line.until(lambda: files_of(line.folder) == files_of(other.folder) == [])
    shutil.rmtree(other.folder)
    line.until(lambda: f"folder_away_{line.product}_2" in line.problems)


@pytest.mark.parametrize(
    ("limits", "most"), [(Limits(queue=8), 4), (Limits(queue=64, upload=f"{2 * SIZE} B"), 4)]
)
def test_folders_together_leave_half_of_the_queue_to_others(line, limits, most):
    """By number and by bytes."""
    line.gate = threading.Event()
    share = QueueShare(limits)
    other = replace(line, folder=line.folder.with_name("other"))
    for k in range(8):
        line.put(f"{k}.png", picture(k))
        other.put(f"{k}.png", picture(k))
    other.submit = line.submit
    line.open(share, start=True)
    other.open(share, start=True)
    until(lambda: line.most >= most)
    ended = threading.Event()
    ended.set()
    assert not share.acquire(SIZE, ended), "there is no room for another"
    line.gate.set()
    until(lambda: len(line.names()) == 16)
    assert line.most == most


def test_a_full_queue_is_waited_for_until_the_station_ends(line):
    full = [True]
    line.hurdle = lambda one: BusyError(30.0) if full else None
    line.put("a.png", picture(1))
    source = line.open(start=True)
    until(lambda: len(line.tried) > 2)
    source.stop()
    assert not source.threads[0]._thread.is_alive()
    assert (line.names(), line.problems) == ([], {})
    full.clear()
    line.sources[:] = []
    line.open()
    line.until(lambda: line.names() == ["a.png"])


@pytest.mark.parametrize("length", [244, 248])
def test_a_file_with_a_long_name_is_moved(tmp_path, length):
    """File systems allow 255 bytes."""
    path = tmp_path / f"{'a' * (length - 4)}.png"
    path.write_bytes(b"picture")
    moved = move_unchanged(path, FileStamp.from_stat(path.stat()), tmp_path / "done" / path.name)
    assert moved is not None
    assert (files_of(tmp_path), moved.read_bytes()) == ([f"done/{path.name}"], b"picture")
