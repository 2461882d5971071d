"""Pictures that appear in a folder: each is given out once, when it is whole. Time is what the test says."""

import hashlib
import json
import math
import os
import shutil

import pytest

from flawscope.errors import InputError
from flawscope.pictures.listing import OUTPUT_LIST
from flawscope_station.sources.arrivals import Arrivals

RESULTS = ("results.csv", "results.json", "predictions")  # beside pictures of results


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
    arrivals = Arrivals(tmp_path)
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
                arrivals.done(path)
                break
    assert tried[-1] == 30
    assert len(tried) <= 8
    assert all(arrivals.scan(now) == [] for now in (40, 50))
    put(path, b"whole", 2)  # late, but not too late
    arrivals.scan(60)
    assert arrivals.scan(61) == [path]


def test_a_share_that_was_away_brings_nothing_new(tmp_path):
    folder, elsewhere = tmp_path / "in", tmp_path / "server"
    there = put(folder / "a.png", b"a", 1)
    arrivals = Arrivals(folder)
    assert [arrivals.scan(-2), arrivals.scan(-1)] == [[], [there]]
    arrivals.done(there)
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


def test_what_flawscope_wrote_and_other_files_are_no_arrivals(tmp_path):
    arrivals = Arrivals(tmp_path)
    hidden = put(tmp_path / ".a.png.x7Gq", b"a", 1)  # as rsync writes: told where it stays so
    note = put(tmp_path / "note.txt", b"n", 1)
    (tmp_path / "loop").symlink_to(tmp_path)
    assert (arrivals.scan(0), arrivals.scan(1)) == ([], [])
    assert sorted(arrivals.others) == [hidden, note]


def write_results(folder, listed=True):
    """A folder of results, with its list or as a copy that lost it; returns the overlay."""
    overlay = put(folder / "overlays/a.png", b"o", 1)
    for name in RESULTS:
        put(folder / name, b"r", 1)
    if listed:
        lines = "".join(f"{json.dumps(name)}\n" for name in ("overlays/a.png", *RESULTS))
        (folder / OUTPUT_LIST).write_text(lines, encoding="ascii")
    return overlay


def test_pictures_of_results_are_told_and_are_parts_once_their_list_is_gone(tmp_path):
    arrivals = Arrivals(tmp_path)
    part = put(tmp_path / "a.png", b"a", 1)
    overlays = {write_results(tmp_path), write_results(tmp_path / "results/of monday")}
    copied = write_results(tmp_path / "copy", listed=False).parent
    assert arrivals.look(0) == arrivals.scan(1) == [part]
    with (tmp_path / OUTPUT_LIST).open(
        "a", encoding="ascii"
    ) as file:  # of another `predict`, between two scans
        file.write('"overlays/b.png"\n')
    overlays.add(put(tmp_path / "overlays/b.png", b"o", 2))
    assert arrivals.look(2) == arrivals.scan(3) == [part]
    told = arrivals.passed_over(99)
    assert {path for path, why in told.items() if "flawscope wrote it" in why} == {*overlays, copied}
    assert arrivals.passed_over(199) == {}
    (tmp_path / OUTPUT_LIST).unlink()
    for name in RESULTS:
        (tmp_path / name).unlink()
    arrivals.scan(200), arrivals.scan(201)
    assert set(arrivals.scan(203)) == {part, *(tmp_path / "overlays").iterdir()}


class Clock:
    """A folder that is looked at once a second, and what was given out."""

    def __init__(self, folder, **options):
        self.arrivals, self.now = Arrivals(folder, **{"patience": 5, **options}), 0.0

    def look(self, times=4):
        """Returns the names that are given out, which are judged."""
        given = []
        for _ in range(times):
            self.now += 1
            for path in self.arrivals.scan(self.now):
                digest = hashlib.sha256(path.read_bytes()).digest()
                if not self.arrivals.content_known(path, digest):
                    given.append(path.name)
                self.arrivals.done(path, digest=digest)
        return given


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
    (folder / "a.png").rename(folder / "third name.png")
    assert clock.look() == ["third name.png"]  # whoever reads it finds that it is known


def test_what_is_passed_over_is_named_once_and_when_it_is_whole(tmp_path):
    clock = Clock(tmp_path)
    put(tmp_path / ".hidden.png", b"h", 1)
    put(tmp_path / "._a.png", b"m", 1)
    put(tmp_path / "._c.png", b"m", 1)  # beside its picture it is nothing of its own
    put(tmp_path / "c.png", b"c", 1)
    put(tmp_path / "a.png.part", b"1", 1)
    (tmp_path / "lost.png").symlink_to(tmp_path / "nowhere")
    clock.look(7)
    named = clock.arrivals.passed_over(clock.now)
    assert {path.name: why for path, why in named.items()} == {
        ".hidden.png": "it is hidden: its name begins with a point",
        "._a.png": "it is hidden, or a file of the system",
        "a.png.part": ".part is not a picture's ending",
        "lost.png": "it is no file, or a link that leads nowhere",
    }
    (tmp_path / "a.png.part").rename(tmp_path / "a.png")
    put(tmp_path / "b.png.part", b"2", 2)
    assert clock.look(2) == ["a.png"]
    assert clock.arrivals.passed_over(clock.now) == {}
    assert [path.name for path in clock.arrivals.passed_over(math.inf)] == ["b.png.part"]
