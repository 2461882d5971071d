"""A station in one file, and back; and files that are no backup."""

from __future__ import annotations

import io
import stat
import tarfile
import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from backup_helpers import contents, filled_fixture, made_fixture, other_fixture  # noqa: F401
from flawscope.cli import main
from flawscope.errors import InputError
from flawscope.predictor import read_manifest
from flawscope_station.settings.station import Settings
from flawscope_station.store.backup import backup, restore
from flawscope_station.store.database import Database
from flawscope_station.store.files import Files
from flawscope_station.store.model_registry import ModelRegistry
from flawscope_station.store.records import Store
from flawscope_station.store.schema import metadata
from station_helpers import taken_file, until


def rows(settings: Settings) -> dict[str, list[tuple[Any, ...]]]:
    """Everything in the database."""
    database = Database(settings.url)
    with database.reading() as connection:
        found = {
            table.name: sorted((tuple(row) for row in connection.execute(select(table))), key=repr)
            for table in metadata.sorted_tables
        }
    database.close()
    return found


# --------------------------------------------------------------------------------------------- there and back


def test_what_comes_back_is_what_was_there(filled, other, tmp_path):
    path = tmp_path / "b.tar"
    draft = Path(filled.store) / "new/bolt/bolt/1.png"  # a product that is being made
    draft.parent.mkdir(parents=True)
    draft.write_bytes(b"a picture")
    assert backup(filled, path) == path.stat().st_size
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir() if "part" in entry.name] == []
    assert restore(path, other) == path.stat().st_size
    assert rows(other) == rows(filled)
    assert contents(other) == contents(filled)
    kept = ModelRegistry(Database(other.url), Files(other.store))
    assert read_manifest(kept.path(1, 1)).method == "patchcore"
    database = Database(other.url)
    Store(database).record([taken_file(Files(other.store), 1, 1, b"the station goes on", 99)])
    database.close()


def test_a_busy_stations_backup_is_of_one_moment(filled, other, tmp_path):
    """Every record in it has its picture, and those that were answered before it began are in it."""
    database, files = Database(filled.url), Files(filled.store)
    store, ended, answered = Store(database), threading.Event(), [0]

    def work() -> None:
        while not ended.is_set():
            answered[0] += 1
            store.record([taken_file(files, 1, 1, f"more {answered[0]}".encode(), 10 + answered[0])])

    thread = threading.Thread(target=work)
    thread.start()
    try:
        until(lambda: answered[0] >= 20)
        before = answered[0] - 1
        backup(filled, tmp_path / "b.tar")
        assert answered[0] > before
    finally:
        ended.set()
        thread.join()
        database.close()
    restore(tmp_path / "b.tar", other)
    there = rows(other)
    assert len(there["inspections"]) >= 6 + before
    names = {Path(name).stem for name in contents(other)}
    assert {row[1] for row in there["pictures"]} <= names


def named(name: str, kind: bytes = tarfile.REGTYPE, to: str = "") -> tarfile.TarInfo:
    part = tarfile.TarInfo(name)
    part.type, part.linkname = kind, to
    return part


@pytest.mark.parametrize(
    "part",
    [
        named("../out.txt"),
        named("pictures/../../out.txt"),
        named(f"models/{'0' * 16}/link", tarfile.SYMTYPE, "/etc/passwd"),
        named(f"models/{'0' * 16}/pipe", tarfile.FIFOTYPE),
    ],
)
def test_no_part_leaves_the_folder(made, other, tmp_path, part):
    with tarfile.open(made, "a") as tar:
        part.size = 1 if part.isreg() else 0
        tar.addfile(part, io.BytesIO(b"x"))
    with pytest.raises(InputError, match="is damaged") as caught:
        restore(made, other)
    assert "\n" not in str(caught.value)
    assert not Path(other.store).exists()
    assert not list(tmp_path.rglob("out.txt"))


def test_every_cut_is_one_line_and_leaves_nothing(made, other, tmp_path, capsys):
    data = made.read_bytes()
    with tarfile.open(made) as tar:
        parts = tar.getmembers()
    last, stored = parts[-1], parts[-2]
    ends = last.offset_data + last.size  # zeros follow
    spoilt = [data[:k] for k in (0, 1, 511, 512, ends - 1, last.offset, *range(ends // 9, ends, ends // 9))]
    middle = stored.offset_data + 4096
    spoilt.append(data[:middle] + b"\xff" * 8192 + data[middle + 8192 :])
    path = tmp_path / "bad.tar"
    for bad in spoilt:
        path.write_bytes(bad)
        assert main(["station", "restore", str(path), "--station", other.store]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert len(said.err.strip().splitlines()) == 1, said.err
        assert "damaged" in said.err
        assert not Path(other.store).exists()
