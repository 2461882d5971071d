"""Content decides whether a file is known: names, inodes and times are hints."""

import os

import pytest

from flawscope_station.sources.arrivals import Arrivals
from folder_parts import BEGIN, Folder

FIRST, SECOND = b"first".ljust(40), b"second".ljust(40)


def overwritten(folder: Folder) -> None:
    folder.put("a.bmp", SECOND)


def overwritten_while_down(folder: Folder) -> None:
    overwritten(folder)
    folder.restart()


def replaced_under_another_name(folder: Folder) -> None:
    """Its inode comes again, as ext4 gives it."""
    path = folder.place / "a.bmp"
    if path.exists():
        path.rename(folder.place / "b.bmp")
    folder.put("b.bmp", SECOND)


def renamed_onto_it(folder: Folder) -> None:
    os.rename(folder.put("b.part", SECOND), folder.place / "a.bmp")


def without_a_change_that_shows(folder: Folder) -> None:
    """On FAT, which has no time but that of the content: only the content tells."""
    before = os.stat

    def stat(path, *given, **more):
        facts = before(path, *given, **more)
        times = [*facts]
        return type(facts)(times, {"st_ctime_ns": facts.st_mtime_ns, "st_mtime_ns": facts.st_mtime_ns})

    folder.patch.setattr(os, "stat", stat)
    folder.restart()
    folder.run(8)
    overwritten(folder)


WAYS = (
    *(overwritten, overwritten_while_down, replaced_under_another_name, renamed_onto_it),
    without_a_change_that_shows,
)


@pytest.mark.parametrize("then", ["keep", "move"])
@pytest.mark.parametrize("way", WAYS)
def test_a_new_picture_of_known_size_and_time_is_inspected(tmp_path, monkeypatch, way, then):
    folder = Folder(tmp_path, then)
    folder.patch = monkeypatch
    folder.put("a.bmp", FIRST)
    folder.run(8)
    way(folder)
    folder.run(30)
    assert folder.singles == [FIRST, SECOND]
    folder.restart()
    folder.run(30)
    assert folder.singles == [FIRST, SECOND]
    folder.database.close()


@pytest.mark.parametrize("at", [BEGIN, BEGIN + 0.25])
def test_a_renamed_file_is_known_also_after_a_restart(tmp_path, at):
    folder = Folder(tmp_path)
    path = folder.put("b.bmp", FIRST, at)
    folder.run(8)
    for name in ("c.bmp", "d.bmp"):
        path = path.rename(folder.place / name)
        folder.run(8)
        if name == "c.bmp":
            folder.restart()
    assert (folder.singles, folder.told()) == ([FIRST], [])
    folder.database.close()


def test_a_listing_asks_for_the_times_of_a_part_of_the_known_files(tmp_path, monkeypatch):
    """And sees all in turn."""
    monkeypatch.setattr("flawscope_station.sources.arrivals.STATS_PER_LISTING", 10)
    for k in range(50):
        (tmp_path / f"{k}.png").write_bytes(b"x")
    arrivals = Arrivals(tmp_path)
    arrivals.scan(0)
    for path in arrivals.scan(1):
        arrivals.done(path, digest=b"x")
    asked, stat = [], os.stat
    monkeypatch.setattr(os, "stat", lambda path, **more: asked.append(str(path)) or stat(path, **more))
    for now in range(2, 8):
        assert arrivals.scan(now) == []
    files = [path for path in asked if path.endswith(".png")]
    assert len({*files}) == 50
    assert len(files) <= 60


def test_files_of_another_ending_are_told_by_name_and_then_by_number(tmp_path):
    folder = Folder(tmp_path)
    for k in range(300):
        folder.put(f"{k:03d}.xml", b"beside each picture")
    folder.run(40)
    texts = sorted(folder.told())
    assert len(texts) == 20 + 1
    assert any(text.startswith("300 files so far, ") for text in texts)
    folder.database.close()
