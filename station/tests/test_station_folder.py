"""Pictures that appear in a folder: each once, none lost, and nobody else harmed."""

import errno
import hashlib
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from sqlalchemy import select

from flawscope.errors import InputError
from flawscope_station.background import CLOCK
from flawscope_station.inspecting.capacity import BusyError
from flawscope_station.inspecting.job import ModelError
from flawscope_station.inspecting.picture import Picture
from flawscope_station.inspecting.writer import RecordedInspection
from flawscope_station.settings.sources import FolderSourceSettings
from flawscope_station.settings.station import Limits
from flawscope_station.sources import folder as module
from flawscope_station.sources.arrivals import FileStamp
from flawscope_station.sources.folder import MAX_RETRY_DELAY, FolderSource
from flawscope_station.sources.source import QueueShare, SourceContext
from flawscope_station.store.database import Database, StoreError
from flawscope_station.store.files import PICTURES, Files
from flawscope_station.store.records import Store
from flawscope_station.store.schema import PASSED_OVER, REPEATED, UNREADABLE, VANISHED, inspections
from flawscope_station.store.search import trends
from station_helpers import PATIENCE, ManualClock, add_version, everything, failing, taken, until

MINUTE = 60.0  # seconds: after it nothing more comes
SIZE = 100  # bytes of a picture


def picture(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (shade, 2 * shade % 256, 0)).save(buffer, "PNG")
    return buffer.getvalue().ljust(SIZE, b"\0")


def bare_picture(shade: int) -> bytes:
    """Of one length, and with nothing behind its end: a part of it cannot be read."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 0, 0)).save(buffer, "PNG", compress_level=0)
    return buffer.getvalue()


@dataclass
class Line:
    """A station's parts around the folder: a store, and an inspector that judges nothing."""

    store: Store
    files: Files
    product: int
    version: int
    folder: Path
    problems: dict[str, str] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    tried: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    most: int = 0  # pictures at once
    flying: int = 0
    hurdle: Callable[[Picture], BaseException | None] = lambda one: None
    gate: threading.Event | None = None  # pictures are answered by threads when it is open
    sources: list[FolderSource] = field(default_factory=list)
    clock: ManualClock = field(default_factory=ManualClock)

    def submit(self, pictures: Sequence[Picture]) -> list[Future[RecordedInspection]]:
        (one,) = pictures
        self.tried.append(one.name)
        error = self.hurdle(one)
        if isinstance(error, BusyError):
            raise error
        answer: Future[RecordedInspection] = Future()
        self.flying += 1
        self.most = max(self.most, self.flying)
        if self.gate is None:
            self._answer(one, error, answer)
        else:
            threading.Thread(target=self._answer, args=(one, error, answer), daemon=True).start()
        return [answer]

    def _answer(self, one: Picture, error: BaseException | None, answer: Future[RecordedInspection]) -> None:
        if self.gate is not None:
            self.gate.wait(PATIENCE)
        try:
            Image.open(io.BytesIO(one.data)).load()
        except (OSError, SyntaxError):
            error = error or InputError(f"{one.name}: it is truncated")
        self.flying -= 1
        if error is not None:
            answer.set_exception(error)
            return
        facts = {"name": one.name, "source": one.source, "key": one.key}
        facts["picture"] = self.files.keep(PICTURES, one.data, ".png")
        judged = taken(one.product_id, self.version, **facts)
        ((number, is_new),) = self.store.record([judged])
        answer.set_result(RecordedInspection(number, judged, is_new))

    def report(self, code: str, why: str | None, *, stops: bool = False) -> None:
        code = code.removesuffix(f"_{self.product}")
        if why is None:
            self.problems.pop(code, None)
        elif self.problems.get(code) != why:
            self.problems[code] = why
            self.said.append(why)

    def open(
        self, share: QueueShare | None = None, then: str = "keep", number: int = 1, start: bool = False
    ) -> FolderSource:
        """A source that works when `run` or `until` is called, or by itself."""
        line = SourceContext(
            self.product,
            self.submit,
            self.report,
            self.store,
            share or QueueShare(Limits()),
            lambda error: self.refused.append(str(error)),
        )
        said = FolderSourceSettings(str(self.folder), then)
        source = FolderSource(line, said, number, clock=CLOCK if start else self.clock)
        if start:
            source.start()
        self.sources.append(source)
        return source

    def run(self, seconds: float) -> None:
        """Let the sources work for so long."""
        end = self.clock.monotonic() + seconds
        self.until(lambda: self.clock.monotonic() >= end)

    def until(self, true: Callable[[], Any]) -> Any:
        """What it gives as soon as that is something."""
        for _ in range(2000):
            if found := true():
                return found
            self.clock.advance(min(source.work_once() for source in self.sources))
        raise AssertionError("it did not come true")

    def put(self, name: str, data: bytes, age: float = 0.0) -> Path:
        """A file that appears whole."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        hidden = path.parent / f".{path.name}"
        hidden.write_bytes(data)
        if age:
            os.utime(hidden, (time.time() - age,) * 2)
        hidden.rename(path)
        return path

    def names(self) -> list[str]:
        """What was inspected, in order."""
        query = select(inspections.c.name).order_by(inspections.c.id)
        with self.store.database.reading() as connection:
            return list(connection.execute(query).scalars())

    def texts(self, kind: str) -> list[str]:
        return [row.text for row in self.store.events(kind, self.product)]


@pytest.fixture
def line(tmp_path):
    database = Database(f"sqlite:///{tmp_path / 'station.sqlite'}")
    database.migrate()
    folder = tmp_path / "camera"
    folder.mkdir()
    made = Line(Store(database), Files(tmp_path / "files"), *add_version(database), folder)
    yield made
    if made.gate is not None:
        made.gate.set()
    for source in made.sources:
        source.stop()
        assert source.threads[0]._thread is None or not source.threads[0]._thread.is_alive()
    database.close()


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


def test_names_that_a_data_base_cannot_take(line):
    deep = "/".join(["a long name of a folder"] * 12) + "/a.png"
    line.put(deep, picture(1))
    (line.folder / os.fsdecode(b"\xe9.png")).write_bytes(picture(2))
    line.open()
    line.until(lambda: len(line.names()) == 2)
    line.sources.pop().stop()
    line.tried.clear()
    line.open()
    line.run(MINUTE)
    assert line.tried == []
    assert deep in line.names()
    with line.store.database.reading() as connection:
        assert all(len(key) <= 200 for key in connection.execute(select(inspections.c.key)).scalars())


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


@pytest.mark.parametrize("error", [StoreError("full", "disk_full"), ModelError("it failed"), OSError("odd")])
def test_what_is_not_the_pictures_fault_is_tried_until_it_works(line, error):
    broken = [True]
    line.hurdle = lambda one: error if broken else None
    for k in range(3):
        line.put(f"{k}.png", picture(k), age=10 - k)
    line.open()
    line.until(lambda: "folder_waits" in line.problems)
    line.run(MINUTE)
    assert line.names() == []
    assert line.texts(UNREADABLE) == []
    broken.clear()
    line.until(lambda: sorted(line.names()) == ["0.png", "1.png", "2.png"])
    line.until(lambda: line.problems == {})


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


def files_of(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_files_are_deleted_when_they_were_inspected(line):
    line.put("a.png", picture(1))
    line.put("deep/b.png", picture(2))
    line.put("bad.png", picture(3)[:40])
    (line.folder / "notes.txt").write_text("no picture")
    line.open(then="delete")
    line.until(lambda: files_of(line.folder) == ["bad.png", "notes.txt"])
    assert sorted(line.names()) == ["a.png", "deep/b.png"]
    line.until(lambda: "folder_unreadable" in line.problems)
    before = line.put("a.png", picture(4)).stat().st_mtime_ns
    line.until(lambda: len(line.names()) == 3)
    line.until(lambda: files_of(line.folder) == ["bad.png", "notes.txt"])
    assert line.texts(VANISHED) == []
    state = line.sources[0].state
    assert (state.taken, state.takes, state.state) == (3, "delete", "running")
    # the same one once more is what was inspected, and goes, too
    os.utime(line.put(".a.png", picture(4)), ns=(before, before))
    (line.folder / ".a.png").rename(line.folder / "a.png")
    line.until(lambda: files_of(line.folder) == ["bad.png", "notes.txt"])


def test_a_file_goes_only_when_its_inspection_is_on_the_disk_and_it_is_as_it_was(line, monkeypatch):
    path, anew = line.put("a.png", picture(1), age=9), line.put("b.png", picture(3))
    record, is_there = line.store.record, list[bool]()

    def record_slowly(judged: Any) -> Any:
        is_there.append(path.exists())
        if judged[0].name == "b.png" and len(is_there) == 2:
            line.put("b.png", picture(2) + b"anew")  # it was read, and is not recorded yet
        return record(judged)

    monkeypatch.setattr(line.store, "record", record_slowly)
    line.open(then="delete")
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


@pytest.mark.parametrize("then", ["delete", "done"])
def test_what_a_crash_left_is_done_at_the_next_start(line, then, tmp_path, monkeypatch):
    """Between the record and the file's end, and between the two names of a file that is moved."""
    then = str(tmp_path / then) if then == "done" else then
    for shade in range(3):
        line.put(f"{shade}.png", picture(shade))
    with monkeypatch.context() as patch:
        patch.setattr(FolderSource, "_finish_file", lambda self, arrivals, path: arrivals.done(path))
        line.open(then=then)
        line.until(lambda: len(line.names()) == 3)
        line.sources.pop().stop()
    assert len(files_of(line.folder)) == 3
    if then != "delete":
        (tmp_path / "done").mkdir()
        os.link(line.folder / "0.png", tmp_path / "done/0.png")
        shutil.copy2(line.folder / "1.png", tmp_path / "done/1.png")
    line.tried.clear()
    line.open(then=then)
    line.until(lambda: files_of(line.folder) == [])
    assert line.tried == []
    if then != "delete":
        assert files_of(tmp_path / "done") == ["0.png", "1.png", "2.png"]


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


# As cameras, scanners, programs and people name pictures, and other files that lie beside them
STEMS_TEXT = (
    "IMG_0001|DSC00042|DSCN1234|P1010001|100_0815|_MG_2210|20240501_101530|2024-05-01 10.15.30|Scan 1|"
    "scan0001|Image_20240501101530123|Basler_acA1300_0001|cam1-000123|frame_000001|000001|1|a|x_gt|"
    "q1_seg1|4712_gt|GOPR0042|WIN_20240501_10_15_30_Pro|Screenshot 2024-05-01|PXL_20240501_101530|"
    "Snap_00012|Bild 3|Bild_003_links|vlcsnap-2024|IMAGE0001_01|A12-7_top|A12-7_bottom|pcb1_mask_top|"
    "pcb7_soldermask|part_label|a_mask|mask|mask_7|target_3|truth|ground truth 4|seg_1|annotated|maske|"
    "masque 2|Bild (1)|Bild - Kopie|Prüfteil 7|pièce n°3|pieza ñ|部品1|деталь|ok|nok|niO 4|defekt|"
    "schlecht_1|#1|50%|a&b|a+b|a,b|[1]|{1}|a'b|~temp|$1|@1|-dash|--all|a..b|trailing.|UPPER|e\u0301|"
    "overlay|results|map_1|depth_2|thumb|copy of 7"
)
STEMS = STEMS_TEXT.split("|")
PICTURE_NAMES = [
    f"{stem}.{suffix}"
    for k, stem in enumerate(STEMS)
    for suffix in ("png", ("PNG", "Png")[k % 2], *(("masks.png",) if k % 3 == 0 else ()))
] + [
    *("masks/9.png", "mask/1.png", "ground_truth/1.png", "SegmentationClass/2.png", "labels/3.png"),
    *("images/1.png", "bad/1.png", "good/1.png", "gt/5.png", "train/masks/7.png", "a_masks/1.png"),
]
OTHER_NAMES = (
    *("notes.txt", "labels.json", "IMG_0001.xml", "IMG_0001.CR2.xmp", "table.csv", "video.mp4", "scan.pdf"),
    *("raw.dng", "a.png.part", "b.png.tmp", "c.png~", "noending", "archive.zip", ".hidden.png", "x.svg"),
    *(
        "d.png.crdownload",
        "e.png_old",
        "f.png 1",
        "g.docx",
        "h.psd",
        ".i.png.x7Gq",
        ".~lock.j.png#",
        ".nfs0001",
    ),
    *(
        "~$k.xlsx",
        "l.jpg.filepart",
        "m.jpg!ut",
        "Unconfirmed 1.download",
        "n",
        "o.",
        ".p",
        "q.png.",
        "r.png ",
    ),
)
# Of these only the name counts: systems write them again and again
SYSTEM_NAMES = ("Thumbs.db", "sub/Thumbs.db", "desktop.ini", ".DS_Store", "._alone.png")
UNSEEN_FOLDERS = ("@eaDir", ".trash", "$RECYCLE.BIN", "__MACOSX")


@pytest.mark.slow
def test_names_of_cameras_scanners_and_people_are_inspected_or_told(line):
    """A picture is inspected whatever its name: masks are for learning."""
    assert len(PICTURE_NAMES) + len(OTHER_NAMES) >= 200
    for k, name in enumerate(PICTURE_NAMES):
        path = line.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(k % 256) + bytes(k))
    for name in (*OTHER_NAMES, *SYSTEM_NAMES, *(f"{folder}/1.png" for folder in UNSEEN_FOLDERS)):
        (line.folder / name).parent.mkdir(exist_ok=True)
        (line.folder / name).write_bytes(b"no picture")
    (line.folder / "._a.png").write_bytes(b"what macOS notes beside a picture that is inspected")
    (line.folder / "lost.png").symlink_to(line.folder / "nowhere")
    line.open()
    line.run(2 * MINUTE)
    assert sorted(line.names()) == sorted(PICTURE_NAMES)
    told = [re.split(r" of 20|: it is", text)[0] for text in line.texts(PASSED_OVER)]
    wanted = [*OTHER_NAMES, *SYSTEM_NAMES, *UNSEEN_FOLDERS, "lost.png"]
    assert sorted(told) == sorted(wanted)
    line.sources.pop().stop()
    for name in SYSTEM_NAMES[:4]:
        (line.folder / name).write_bytes(b"written anew by the system")
    line.open()
    line.run(2 * MINUTE)  # nothing is told twice
    assert len(line.texts(PASSED_OVER)) == len(wanted)
    assert trends(line.store.database, line.product)["totals"]["not_inspected"] == len(wanted)


Way = tuple[list[bytes], dict[str, list[str]]]
FIRST, SECOND = (bare_picture(shade) for shade in (1, 2))


def slowly(line: Line) -> Way:
    with open(line.folder / "a.png", "wb", buffering=0) as file:
        for start in range(0, len(FIRST), 60):  # the last piece holds pixels
            file.write(FIRST[start : start + 60])
            line.run(1)
    return [FIRST], {}


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
    if line.sources[0].then == "delete":  # then the second one is the first, moved
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
    if path.exists():  # else it was deleted
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


@pytest.mark.parametrize("then", ["keep", "delete"])
@pytest.mark.parametrize("way", WAYS)
def test_however_a_file_is_written_it_is_inspected_or_told(line, way, then):
    line.open(then=then)
    line.run(5)
    contents, told = way(line)
    line.run(2 * MINUTE)
    with line.store.database.reading() as connection:
        found = [*connection.execute(select(inspections.c.picture)).scalars()]
    assert sorted(found) == sorted(hashlib.sha256(data).hexdigest() for data in contents)
    for kind in (PASSED_OVER, UNREADABLE, VANISHED, REPEATED):
        names = {re.split(r" of \d{4}-| went away|: it is", text)[0] for text in line.texts(kind)}
        assert names == {*told.get(kind, [])}, kind


@pytest.mark.parametrize("then", ["keep", "delete", "move"])
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


def test_two_folders_of_a_product_do_not_know_each_others_files(line):
    """The same name, time and size."""
    other = replace(line, folder=line.folder.with_name("other"))
    other.submit = line.submit
    for one, shade in ((line, 1), (other, 2)):
        os.utime(one.put("a.png", picture(shade)), (1e9, 1e9))
    line.open(then="delete")
    other.open(number=2, then="delete")
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


WRITER = """
import os, pathlib, sys, time
folder, source, count = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]).read_bytes(), int(sys.argv[3])
for number in range(count):
    data = source + b"%d" % number  # what follows a PNG is not read
    name = folder / f"{number:04d}.png"
    if number % 3 == 0:  # slowly, under its own name
        with open(name, "wb", buffering=0) as file:
            for start in range(0, len(data), max(1, len(data) // 4)):
                file.write(data[start : start + len(data) // 4])
                time.sleep(0.005)
    else:  # under another one first
        hidden = folder / f".{number}"
        hidden.write_bytes(data)
        hidden.rename(name)
    print(number, flush=True)
    time.sleep(0.01)
with open(folder / "half.png", "wb", buffering=0) as file:
    file.write(source[: len(source) // 2])
    print("half", flush=True)
    time.sleep(60)
"""


def test_another_process_writes_while_the_station_is_killed(serve, model_file, parts, tmp_path):
    """It writes slowly, renames, and is killed half-way: nothing is lost, nothing is twice, and no file goes
    that was not inspected."""
    folder, count = tmp_path / "camera", 100
    folder.mkdir()
    (tmp_path / "part").write_bytes(parts[0])
    served = serve({"model": str(model_file), "sources": [{"folder": "camera", "then": "./done"}]})
    command = [sys.executable, "-c", WRITER, str(folder), str(tmp_path / "part"), str(count)]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        for _ in range(2):
            served.start()
            until(lambda: len(everything(served.url)) > 20)
            assert served.kill() == -signal.SIGKILL
        assert any(said == "half\n" for said in writer.stdout)
    finally:
        writer.kill()
        writer.wait()
        writer.stdout.close()
    served.start()
    until(lambda: files_of(folder) == ["half.png"])
    found = {one["name"]: one["picture"] for one in everything(served.url)}
    assert len(everything(served.url)) == len(found) == count
    for number in range(count):
        data = parts[0] + b"%d" % number
        assert found[f"{number:04d}.png"] == hashlib.sha256(data).hexdigest()
    assert files_of(tmp_path / "done") == [f"{number:04d}.png" for number in range(count)]
