"""Pictures that appear in a folder: each is judged once, when it is whole. Time is what the test says."""

import functools
import io
import json
import os
import shutil
import signal
import threading
import zipfile
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from brightness import SIDE, model
from flawscope.artefact.router_file import DescriptorModel, RouterArtefact
from flawscope.calibration.recognition import ProductDescriptors
from flawscope.cli import main
from flawscope.cli import watch as command
from flawscope.errors import FlawscopeError, InputError
from flawscope.pictures.listing import OUTPUT_LIST
from flawscope.pictures.preprocess import Preprocess
from flawscope.predictor.router import Router
from flawscope.predictor.watch import Arrivals, Commands, file_digest, judge
from flawscope.results.table import TableWriter, Unjudged, read_table


@pytest.fixture
def predictor():
    return model()


def coloured(*colour):
    file = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), colour).save(file, "png")
    return file.getvalue()


def encoded(level):
    """A PNG of one grey; no two levels are equally long."""
    return coloured(level, level, level) + bytes(level)  # what follows the end of a PNG does not count


def put(path, content, changed):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (changed, changed))
    return path


def test_a_format_that_does_not_show_whether_it_is_whole_must_settle(tmp_path):
    arrivals = Arrivals(tmp_path, settle=2.0)
    raw, checked = put(tmp_path / "a.BMP", b"a" * 9, 1), put(tmp_path / "b.png", b"b", 1)
    given = []
    for tick in range(10):
        if tick == 3:
            put(raw, b"b" * 9, 2)  # of its full size from the first byte on
        for path in arrivals.scan(tick / 2):
            given.append((path.name, tick / 2))
            arrivals.done(path)
    assert given == [(checked.name, 0.5), (raw.name, 3.5)]


def test_each_is_given_out_once_when_it_was_the_same_twice_in_the_order_of_writing(tmp_path):
    old = put(tmp_path / "old.png", b"old", 1)
    assert Arrivals(tmp_path).skipped == 1
    arrivals = Arrivals(tmp_path, existing=True, judged=[old])
    assert arrivals.skipped == 0
    path, first = put(tmp_path / "sub/new.png", b"n", 9), put(tmp_path / "z.png", b"z", 8)
    assert arrivals.scan(0.0) == []
    put(path, b"new", 9)  # it grows
    assert arrivals.scan(0.5) == [first]
    assert arrivals.scan(1.0) == [first, path]
    arrivals.done(first)
    arrivals.done(path)
    assert arrivals.scan(1.5) == []
    put(path, b"another of that name", 10)
    arrivals.scan(2.0)
    assert arrivals.scan(2.5) == [path]


def test_what_cannot_be_read_is_tried_less_and_less_often_and_then_given_up(tmp_path):
    arrivals = Arrivals(tmp_path, patience=30)
    path = put(tmp_path / "half.png", b"half", 1)
    tried = []
    for tick in range(200):
        now = tick / 2
        if arrivals.scan(now):
            tried.append(now)
            if arrivals.failed(path, now):
                break
    assert tried[-1] == 30
    assert len(tried) <= 8
    assert all(arrivals.scan(now) == [] for now in (40, 50))
    put(path, b"whole", 2)  # late, but not too late
    arrivals.scan(60)
    assert arrivals.scan(61) == [path]


def test_a_share_that_was_away_brings_nothing_new(tmp_path):
    folder, elsewhere = tmp_path / "in", tmp_path / "server"
    put(folder / "a.png", b"a", 1)
    arrivals = Arrivals(folder)
    shutil.copytree(folder, elsewhere)  # other inodes
    shutil.rmtree(folder)
    with pytest.raises(InputError, match="no such folder"):
        arrivals.scan(0)
    folder.mkdir()
    assert arrivals.scan(1) == []
    shutil.copytree(elsewhere, folder, dirs_exist_ok=True)
    new = put(folder / "b.png", b"b", 2)
    arrivals.scan(2)
    assert arrivals.scan(3) == [new]


def test_a_picture_that_goes_away_unjudged_is_reported_and_one_that_is_renamed_is_not(tmp_path):
    arrivals = Arrivals(tmp_path)
    lost, renamed = put(tmp_path / "lost.png", b"l", 1), put(tmp_path / "temporary.png", b"r", 1)
    arrivals.scan(0)
    lost.unlink()
    renamed.rename(tmp_path / "final.png")
    arrivals.scan(1)
    assert list(arrivals.gone) == [lost]
    assert arrivals.scan(2) == [tmp_path / "final.png"]


def test_what_flawscope_wrote_and_other_files_are_no_arrivals(tmp_path):
    arrivals = Arrivals(tmp_path)
    put(tmp_path / "results/overlay.png", b"o", 1)
    (tmp_path / "results" / OUTPUT_LIST).write_text('"overlay.png"\n', encoding="ascii")
    put(tmp_path / ".a.png.x7Gq", b"a", 1)  # as rsync writes
    note = put(tmp_path / "note.txt", b"n", 1)
    (tmp_path / "loop").symlink_to(tmp_path)
    assert (arrivals.scan(0), arrivals.scan(1)) == ([], [])
    assert arrivals.others == [note]


class Clock:
    """A folder that is looked at once a second, and what was given out."""

    def __init__(self, folder, **options):
        self.arrivals, self.now = Arrivals(folder, **{"patience": 5, "existing": True, **options}), 0.0

    def look(self, times=4):
        """Returns the names that are given out, which are judged."""
        given = []
        for _ in range(times):
            self.now += 1
            for path in self.arrivals.scan(self.now):
                digest = file_digest(path)
                if not self.arrivals.content_known(path, digest):
                    given.append(path.name)
                self.arrivals.done(path, digest=digest)
        return given


def test_the_same_name_size_and_time_with_another_content_is_new(tmp_path):
    clock = Clock(tmp_path, settle=1)
    put(tmp_path / "shot.bmp", b"a" * 9, 1)
    assert clock.look() == ["shot.bmp"]
    put(tmp_path / "shot.bmp", b"b" * 9, 1)
    assert clock.look() == ["shot.bmp"]
    (tmp_path / "shot.bmp").chmod(0o600)  # it is touched alone
    assert clock.look() == []


def test_a_copy_with_its_time_is_new_and_a_hard_link_is(tmp_path):
    folder, original = tmp_path / "in", put(tmp_path / "a.png", b"a", 1)
    folder.mkdir()
    clock = Clock(folder)
    shutil.copy2(original, folder)
    assert clock.look() == ["a.png"]
    (folder / "a.png").unlink()
    assert clock.look() == []
    shutil.copy2(original, folder)  # copied again
    assert clock.look() == ["a.png"]
    os.link(folder / "a.png", folder / "second name.png")
    assert clock.look() == ["second name.png"]
    (folder / "second name.png").unlink()
    (folder / "a.png").rename(folder / "third name.png")
    assert clock.look() == []
    (folder / "third name.png").rename(folder / "a.png")
    assert clock.look() == []


def test_a_share_that_comes_back_with_other_inodes_brings_nothing_new_that_was_judged(tmp_path):
    folder, elsewhere = tmp_path / "in", tmp_path / "server"
    for k in range(5):
        put(folder / f"{k}.png", b"a", k)
    clock = Clock(folder)
    assert len(clock.look()) == 5
    shutil.copytree(folder, elsewhere)
    shutil.rmtree(folder)
    with pytest.raises(InputError):
        clock.look()
    shutil.copytree(elsewhere, folder)
    assert clock.look() == []


def test_what_is_passed_over_is_named_once_and_when_it_is_whole(tmp_path):
    clock = Clock(tmp_path)
    put(tmp_path / ".hidden.png", b"h", 1)
    put(tmp_path / "._a.png", b"m", 1)
    put(tmp_path / "a.png.part", b"1", 1)
    (tmp_path / "lost.png").symlink_to(tmp_path / "nowhere")
    clock.look(7)
    named = clock.arrivals.passed_over(clock.now)
    assert {path.name: why for path, why in named.items()} == {
        ".hidden.png": "it is hidden: its name begins with a point",
        "a.png.part": ".part is not a picture's ending",
        "lost.png": "it is no file, or a link that leads nowhere",
    }
    (tmp_path / "a.png.part").rename(tmp_path / "a.png")
    put(tmp_path / "b.png.part", b"2", 2)
    assert clock.look(2) == ["a.png"]
    assert clock.arrivals.passed_over(clock.now) == {}
    assert [path.name for path in clock.arrivals.passed_over()] == ["b.png.part"]


def slow_copy(folder, content):
    put(folder / "way.png", content[:9], 1)
    yield
    put(folder / "way.png", content, 2)


def rename_into_place(folder, content):
    put(folder / "way.png.tmp", content, 1)
    yield
    (folder / "way.png.tmp").rename(folder / "way.png")


def hard_link(folder, content):
    os.link(put(folder.parent / "source.png", content, 1), folder / "way.png")
    yield


def symbolic_link(folder, content):
    (folder / "way.png").symlink_to(put(folder.parent / "source.png", content, 1))
    yield


def overwrite(folder, content):
    put(folder / "way.png", encoded(3), 1)
    yield
    put(folder / "way.png", content, 1)


def truncate_and_write(folder, content):
    put(folder / "way.png", encoded(3), 1)
    yield
    os.truncate(folder / "way.png", 0)
    yield
    put(folder / "way.png", content, 3)


def unpack(folder, content):
    with zipfile.ZipFile(folder / "way.zip", "w") as file:
        file.writestr("way.png", content)
    yield
    with zipfile.ZipFile(folder / "way.zip") as file:
        file.extractall(folder)


def same_name_again(folder, content):
    put(folder / "way.png", encoded(3), 1)
    yield
    (folder / "way.png").unlink()
    yield
    put(folder / "way.png", content, 1)


def same_time(folder, content):
    put(folder / "other.png", encoded(3), 7)
    put(folder / "way.png", content, 7)
    yield


def deep_folder(folder, content):
    put(folder / "/".join("abcdefghijklmnopqrst") / "way.png", content, 1)
    yield


def read_only(folder, content):
    put(folder / "way.png", content, 1).chmod(0o400)
    yield


def vanish(folder, content):
    put(folder / "way.png", content, 1)
    yield
    (folder / "way.png").unlink()


WAYS = (
    *(slow_copy, rename_into_place, hard_link, symbolic_link, overwrite, truncate_and_write, unpack),
    *(same_name_again, same_time, deep_folder, read_only, vanish),
)


@pytest.mark.parametrize("way", WAYS)
def test_each_way_of_writing_is_judged_or_told(way, tmp_path, predictor):
    folder, now, level = tmp_path / "in", 0.0, 200
    folder.mkdir()
    arrivals, scores, told = Arrivals(folder, patience=5), [], []

    def look(times):
        nonlocal now
        for _ in range(times):
            now += 1
            for result in judge(arrivals, predictor.stream, functools.partial(float, now)):
                scores.append(None if isinstance(result, Unjudged) else round(result.score * 255))
            told.extend(path.name for path in (*arrivals.gone, *arrivals.passed_over(now)))
            arrivals.gone.clear()

    steps = way(folder, encoded(level))
    while next(steps, way) is not way:
        look(1 if way in (slow_copy, vanish) else 3)
    look(9)
    assert level in scores or told == ["way.png"]
    assert scores.count(level) <= 1


@pytest.mark.parametrize("seed", range(3))
def test_every_whole_picture_is_judged_exactly_once_whatever_happens(seed, tmp_path, predictor):
    """Files come in one piece, in parts, renamed, written anew and left broken, in any order."""
    rng = np.random.default_rng(seed)
    folder, arrivals, now = tmp_path / "in", Arrivals(tmp_path, patience=5), 0.0
    found = []
    expected = []
    broken = []

    def look(times):
        nonlocal now
        for _ in range(times):
            now += 1
            for result in judge(arrivals, predictor.stream, functools.partial(float, now)):
                name = Path(str(result.path)).name
                if isinstance(result, Unjudged):
                    broken.append(name)
                else:
                    found.append((name, round(result.score * 255)))

    for k in range(40):
        level, name = 5 * k + 5, f"{int(rng.integers(8))}.png"
        whole, what = encoded(level), rng.integers(5)
        now += 1
        if what == 0:
            put(folder / name, whole, now)
        elif what == 1:
            put(tmp_path / "elsewhere/x", whole, now).rename(folder / name) if folder.exists() else put(
                folder / name, whole, now
            )
        elif what == 2:  # it stalls halfway, but less long than the patience
            put(folder / name, whole[:40], now)
            look(int(rng.integers(4)))
            put(folder / name, whole, now + 0.5)
        elif what == 3:
            put(folder / f"broken {k}.png", whole[:40], now)
            look(7)
            continue
        elif (folder / name).exists():
            (folder / name).rename(folder / f"moved {k}.png")
            look(1)
            continue
        else:
            continue
        expected.append((name, level))
        look(3)
    look(8)
    assert Counter(found) == Counter(expected)
    assert len(broken) == len({*broken}) == sum(1 for _ in folder.glob("broken*"))


posix = pytest.mark.skipif(os.name != "posix", reason="the test's commands are for a POSIX shell")


@pytest.fixture
def prediction(predictor, tmp_path):
    path = put(tmp_path / "a picture.png", encoded(200), 1)
    return predictor.predict(path)


def noting(folder):
    """A program that writes down what it gets."""
    program = folder / "note it.sh"
    asked = '"$1" "$2" "$FLAWSCOPE_PATH" "$FLAWSCOPE_DECISION" "$FLAWSCOPE_SEVERITY"'
    program.write_text(f"#!/bin/sh\nprintf '%s|' {asked} >> '{folder}/noted'\n", encoding="utf-8")
    program.chmod(0o755)
    return program


@posix
def test_a_command_gets_path_and_decision_and_its_failure_is_reported(prediction, tmp_path):
    said = []
    commands = Commands(f"'{noting(tmp_path)}'", said.append)
    commands.run(prediction)
    commands.close()
    told = [str(prediction.path), "anomalous"] * 2 + [str(prediction.severity)]
    assert (tmp_path / "noted").read_text(encoding="utf-8") == "".join(f"{word}|" for word in told)
    assert (said, commands.failures) == ([], 0)
    for line, timeout in (("false", 9.0), ("sh -c 'sleep 60'", 0.01)):
        commands = Commands(line, said.append, timeout)
        commands.run(prediction)
        commands.close()
        assert commands.failures == 1
    assert "ended with 1" in said[0]
    assert "ended after 0.01 s" in said[1]
    assert all("a picture.png" in line for line in said)


@posix
def test_a_slow_command_does_not_hold_up_and_the_excess_is_reported(prediction, monkeypatch):
    free = threading.Event()
    monkeypatch.setattr(Commands, "_run", lambda self, prediction: free.wait(20))
    said = []
    commands = Commands("true", said.append)
    for _ in range(110):
        commands.run(prediction)
    assert 8 <= commands.failures <= 10
    assert all("not run" in line for line in said)
    free.set()
    commands.close()


class Script(threading.Event):
    """Instead of the clock: between two looks at the folder the next step is done; after the last one it
    ends."""

    def __init__(self, steps):
        super().__init__()
        self.steps = iter(steps)

    def wait(self, timeout=None):
        step = next(self.steps, None)
        if step is None:
            self.set()
        else:
            step()
        return self.is_set()


@pytest.fixture
def scripted(monkeypatch, predictor):
    """`scripted(*steps)`: what happens between the looks of the next call."""

    def prepare(*steps):
        @contextmanager
        def ending():
            yield Script([*steps, *[lambda: None] * 2])

        monkeypatch.setattr(command, "ending", ending)

    monkeypatch.setattr("flawscope.predictor.router.load", lambda *given, **named: predictor)
    return prepare


def test_the_command_prints_writes_and_goes_on_without_judging_twice(scripted, tmp_path, capsys):
    folder, table = tmp_path / "in", tmp_path / "seen.csv"
    put(folder / "old.png", encoded(10), 1)
    call = ["watch", str(folder), "part.safetensors", "--csv", str(table), "--existing"]
    scripted(
        lambda: put(folder / "good.png", encoded(20), 2),
        lambda: put(folder / "bad.png", encoded(200), 3),
        lambda: put(folder / "notes.txt", b"", 3),
    )
    assert main(call) == 0
    out, err = capsys.readouterr()
    assert [line.split()[0] for line in out.splitlines()] == ["good", "good", "anomalous"]
    assert "3 pictures judged, 1 anomalous" in err
    assert "notes.txt: .txt is not a picture's ending" in err
    rows = read_table(table)
    assert [Path(row.path).name for row in rows] == ["old.png", "good.png", "bad.png"]
    assert [row.decision for row in rows] == ["good", "good", "anomalous"]

    with open(table, "a", encoding="utf-8") as file:  # as a power failure leaves it
        file.write(f"{folder / 'cut'}")
    scripted(lambda: put(folder / "cut.png", encoded(30), 4))
    assert main([*call, "--json"]) == 0
    out, err = capsys.readouterr()
    assert [Path(json.loads(line)["path"]).name for line in out.splitlines()] == ["cut.png"]
    assert "3 pictures judged before" in err
    assert [Path(row.path).name for row in read_table(table)] == ["old.png", "good.png", "bad.png", "cut.png"]


def test_a_table_with_decimal_commas_goes_on_with_them_alone(scripted, tmp_path, capsys):
    folder, table = tmp_path / "in", tmp_path / "seen.csv"
    call = ["watch", str(folder), "part.safetensors", "--csv", str(table), "--existing"]
    put(folder / "a.png", encoded(10), 1)
    for name, more in (("b.png", ["--decimal-comma"]), ("c.png", ["--decimal-comma"])):
        scripted(lambda name=name: put(folder / name, encoded(20), 2))
        assert main([*call, *more]) == 0
    assert [Path(row.path).name for row in read_table(table)] == ["a.png", "b.png", "c.png"]
    assert "," not in table.read_text(encoding="utf-8-sig").splitlines()[0]
    scripted(lambda: None)
    assert main(call) == 2
    assert "seen.csv was begun with --decimal-comma" in capsys.readouterr().err
    assert main([*call[:3], "--decimal-comma"]) == 2
    assert "add --csv FILE" in capsys.readouterr().err


def test_rows_that_cannot_be_written_wait_for_space(scripted, tmp_path, capsys, monkeypatch):
    real, full = TableWriter.add, set[str]()

    def add(self, row):
        if full:
            raise FlawscopeError("cannot write to it: No space left on device")
        real(self, row)

    monkeypatch.setattr(TableWriter, "add", add)
    folder, table = tmp_path / "in", tmp_path / "seen.csv"
    put(folder / "a.png", encoded(10), 1)
    call = ["watch", str(folder), "part.safetensors", "--csv", str(table), "--existing"]
    scripted(
        lambda: (full.add("full"), put(folder / "b.png", encoded(20), 2)),
        lambda: put(folder / "c.png", encoded(30), 3),
        lambda: (full.clear(), put(folder / "d.png", encoded(40), 4)),
    )
    assert main(call) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 4
    assert err.count("No space left on device; pictures are judged, and their rows wait") == 1
    assert [Path(row.path).name for row in read_table(table)] == [f"{name}.png" for name in "abcd"]
    scripted(lambda: (full.add("full"), put(folder / "e.png", encoded(20), 5)))
    assert main(call) == 1
    assert "1 row could not be written" in capsys.readouterr().err


@posix
def test_a_broken_picture_is_a_row_with_the_reason_and_the_command_runs_for_anomalies_alone(
    scripted, tmp_path, capsys
):
    folder, table = tmp_path / "in", tmp_path / "seen.csv"
    folder.mkdir()
    levels = {"broken.png": encoded(9)[:30], "good.png": encoded(20), "bad.png": encoded(200)}
    scripted(*(functools.partial(put, folder / name, data, 2) for name, data in levels.items()))
    call = ["watch", str(folder), "m.safetensors", "--csv", str(table), "--patience", "1e-9", "--json"]
    assert main([*call, "--on-anomaly", f"'{noting(tmp_path)}'"]) == 0
    out, err = capsys.readouterr()
    assert "broken.png" in json.loads(out.splitlines()[0])["error"]
    assert "could not be judged: 1 picture" in err
    rows = read_table(table)
    assert [(row.decision, bool(row.error)) for row in rows] == [
        ("", True),
        ("good", False),
        ("anomalous", False),
    ]
    noted = (tmp_path / "noted").read_text(encoding="utf-8")
    assert (noted.count("good.png"), noted.count("bad.png")) == (0, 2)
    put(folder / "broken.png", encoded(9), 3)  # mended while nobody watched
    scripted()
    assert main([*call, "--existing"]) == 0
    assert [row.decision for row in read_table(table)] == ["", "good", "anomalous", "good"]


def test_a_folder_that_goes_away_is_reported_once_and_waited_for(scripted, tmp_path, capsys):
    folder = tmp_path / "in"
    put(folder / "old.png", encoded(10), 1)
    away = tmp_path / "away"
    scripted(
        lambda: folder.rename(away),
        lambda: None,
        lambda: away.rename(folder),
        lambda: put(folder / "new.png", encoded(20), 2),
    )
    assert main(["watch", str(folder), "m.safetensors"]) == 0
    out, err = capsys.readouterr()
    assert "new.png" in out
    assert err.count("trying again") == 1
    assert "can be read again" in err


def test_the_picture_after_which_it_ends_counts_as_judged(monkeypatch, predictor, tmp_path, capsys):
    end = threading.Event()

    @contextmanager
    def ending():
        yield end

    monkeypatch.setattr(command, "ending", ending)
    monkeypatch.setattr("flawscope.predictor.router.load", lambda *given, **named: predictor)
    monkeypatch.setattr("flawscope.cli.output.show_result", lambda *given, **named: end.set())
    for name in ("1.png", "2.png"):
        put(tmp_path / name, encoded(10), 1)
    assert main(["watch", str(tmp_path), "m.safetensors", "--existing", "--interval", "0.01"]) == 0
    err = capsys.readouterr().err
    assert "1 picture judged" in err
    assert "not judged yet: 1 picture" in err


def describe(images):
    """What is red is like `red`, what is dark like `dark`, what is green like none of both."""
    red, green = images[:, 0].max((1, 2)), images[:, 1].max((1, 2))
    return np.eye(3, dtype=np.float32)[np.where(green > 0.5, 2, np.where(red > 0.3, 0, 1))]


@pytest.fixture
def router(predictor):
    vectors, groups = np.eye(3, dtype=np.float32), np.arange(4, dtype=np.int32)
    known = {
        name: ProductDescriptors(np.repeat(vectors[k : k + 1], 4, 0), groups, vectors[:0], groups[:0])
        for k, name in enumerate(("red", "dark"))
    }
    by = DescriptorModel({}, Preprocess((SIDE, SIDE)), {}, known)
    artefact = RouterArtefact(dict.fromkeys(known, predictor.artefact), by)
    return Router(artefact, dict.fromkeys(known, predictor), describe)


def test_a_joint_model_says_which_product_each_picture_shows(scripted, router, monkeypatch, tmp_path, capsys):
    folder, table = tmp_path / "in", tmp_path / "seen.csv"
    put(folder / "1.png", coloured(100, 0, 0), 1)
    put(folder / "2.png", coloured(10, 0, 0), 2)
    put(folder / "3.png", coloured(10, 255, 0), 3)
    call = ["watch", str(folder), "line.safetensors", "--existing"]
    scripted()
    monkeypatch.setattr("flawscope.predictor.router.load", lambda *given, **named: router)
    assert main([*call, "--csv", str(table)]) == 0
    out, err = capsys.readouterr()
    assert [line.rpartition("  ")[2] for line in out.splitlines()] == [
        "(red, p 1.000)",
        "(dark, p 1.000)",
        "(none of these, p 0.200)",
    ]
    assert "3 pictures judged, 1 anomalous: dark 0 of 1, none of these 1, red 0 of 1" in err
    rows = read_table(table)
    assert [row.product for row in rows] == ["red", "dark", "none of these"]
    assert [row.decision for row in rows] == ["good", "good", "anomalous"]
    scripted()
    assert main([*call, "--product", "dark", "--json"]) == 0
    out, _ = capsys.readouterr()
    found = [json.loads(line) for line in out.splitlines()]
    assert [(one["product"], one["decision"]) for one in found] == [("dark", "good")] * 3
    assert main([*call, "--product", "blue"]) == 2
    assert "it knows red, dark" in capsys.readouterr().err


def test_a_table_goes_on_with_a_model_of_its_kind(scripted, router, monkeypatch, tmp_path, capsys):
    put(tmp_path / "in/1.png", coloured(10, 0, 0), 1)
    call = ["watch", str(tmp_path / "in"), "m.safetensors", "--existing", "--csv", str(tmp_path / "seen.csv")]
    scripted()
    assert main(call) == 0
    monkeypatch.setattr("flawscope.predictor.router.load", lambda *given, **named: router)
    assert main(call) == 2
    assert "seen.csv was begun by a model of one product: choose another table" in capsys.readouterr().err


def test_ctrl_c_ends_after_the_picture_at_hand_and_a_second_one_at_once():
    with command.ending() as end:
        signal.raise_signal(signal.SIGINT)
        assert end.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_wrong_calls_are_one_line(tmp_path, capsys):
    model = put(tmp_path / "part.safetensors", b"x", 1)
    for words in (
        [model, tmp_path],
        [tmp_path, model, "--csv", "x.txt"],
        [tmp_path, model, "--interval", "0"],
    ):
        assert main(["watch", *map(str, words)]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    for line in ("", "there-is-no-such-program --x", "sh 'unclosed"):
        with pytest.raises(InputError, match="--on-anomaly"):
            Commands(line, print)
