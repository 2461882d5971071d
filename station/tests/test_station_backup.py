"""A station in one file, and back; and files that are no backup."""

from __future__ import annotations

import hashlib
import io
import json
import stat
import tarfile
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from flawscope.cli import main
from flawscope.errors import FlawscopeError, InputError
from flawscope.predictor import read_manifest
from flawscope_station.access.users import Access
from flawscope_station.settings.station import Settings
from flawscope_station.store import backup as module
from flawscope_station.store import dump
from flawscope_station.store.backup import FACTS_FILE, LIST_FILE, backup, restore
from flawscope_station.store.database import Database
from flawscope_station.store.files import MASKS, PICTURES, Files
from flawscope_station.store.model_registry import ModelRegistry
from flawscope_station.store.records import DEFECT, Store
from flawscope_station.store.schema import metadata, pictures
from station_helpers import failing, taken_file, until

FIXTURES = Path(__file__).parents[2] / "tests/fixtures/models-97f7321"


@pytest.fixture
def filled(database_url, tmp_path):
    """The settings of a store with two products, two models, pictures, a mask and a user."""
    settings = Settings(store=str(tmp_path / "here"), database=database_url)
    files = Files(settings.store)
    database = Database(settings.url)
    database.migrate()
    store, kept = Store(database), ModelRegistry(database, files)
    plate, board = store.add_product("plate"), store.add_product("board")
    one = kept.add(plate, FIXTURES / "patchcore.safetensors", "by hand", "anna")
    kept.add(board, FIXTURES / "patchcore-two-sizes.onnx", "by hand", "anna")
    for k in range(6):
        facts = {"key": f"key {k}", "anomalous": bool(k % 2)}
        store.record([taken_file(files, plate, one, f"picture {k}".encode(), k, **facts)])
    store.add_verdict(plate, 1, DEFECT, "anna", files.keep(MASKS, b"a mask", ".png"))
    Access(database).add_user("anna", "a long password", "admin")
    database.close()
    return settings


@pytest.fixture
def other(database_url, tmp_path, request):
    """An empty place."""
    store = str(tmp_path / "deep/there")
    if database_url is None:
        yield Settings(store=store)
    else:
        with request.getfixturevalue("postgres").database() as url:
            yield Settings(store=store, database=url)


def rows(settings: Settings) -> dict[str, list[tuple[Any, ...]]]:
    """Everything in the data base."""
    database = Database(settings.url)
    with database.reading() as connection:
        found = {
            table.name: sorted((tuple(row) for row in connection.execute(select(table))), key=repr)
            for table in metadata.sorted_tables
        }
    database.close()
    return found


def contents(settings: Settings) -> dict[str, bytes]:
    """Files below the folder, without the data base."""
    home = Path(settings.store)
    files = [path for path in home.rglob("*") if path.is_file() and "sqlite" not in path.name]
    return {path.relative_to(home).as_posix(): path.read_bytes() for path in files}


@pytest.fixture
def made(filled, tmp_path):
    path = tmp_path / "b.tar"
    backup(filled, path)
    return path


# --------------------------------------------------------------------------------------------- there and back


@pytest.mark.both_databases
def test_what_comes_back_is_what_was_there(filled, other, tmp_path):
    path = tmp_path / "b.tar"
    held = backup(filled, path)
    assert (held.products, held.versions, held.inspections, held.pictures, held.users) == (2, 2, 6, 6, 1)
    assert (held.left_out, held.damaged) == (0, [])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir() if "part" in entry.name] == []
    assert restore(path, other) == held
    assert rows(other) == rows(filled)
    assert contents(other) == contents(filled)
    assert len(contents(other)) == 6 + 1 + 2
    kept = ModelRegistry(Database(other.url), Files(other.store))
    assert read_manifest(kept.path(1, 1)).method == "patchcore"
    database = Database(other.url)
    Store(database).record([taken_file(Files(other.store), 1, 1, b"the station goes on", 99)])
    database.close()


@pytest.mark.both_databases
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
        held = backup(filled, tmp_path / "b.tar")
        assert answered[0] > before
    finally:
        ended.set()
        thread.join()
        database.close()
    assert held.damaged == []
    assert 6 + before <= held.inspections == held.pictures
    assert restore(tmp_path / "b.tar", other) == held
    there = rows(other)
    assert len(there["inspections"]) == held.inspections
    names = {Path(name).stem for name in contents(other)}
    assert {row[1] for row in there["pictures"]} <= names


def test_pictures_that_go_meanwhile_are_noted_and_missing_ones_are_a_warning(
    filled, other, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        counted: Callable[..., Any] = module.count_records

        def meanwhile(connection: Any) -> Any:
            """After the data base was copied."""
            gone = hashlib.sha256(b"picture 0").hexdigest()
            database = Database(filled.url)
            with database.writing() as writer:
                writer.execute(update(pictures).where(pictures.c.hash == gone).values(removed_at=7))
            database.close()
            Files(filled.store).path(PICTURES, gone, ".png").unlink()
            return counted(connection)

        patch.setattr(module, "count_records", meanwhile)
        held = backup(filled, tmp_path / "b.tar")
    assert (held.left_out, held.damaged, held.pictures) == (1, [], 5)
    restore(tmp_path / "b.tar", other)
    assert sum(row[-1] is not None for row in rows(other)["pictures"]) == 1
    lost, spoilt = (hashlib.sha256(name).hexdigest() for name in (b"picture 1", b"picture 2"))
    Files(filled.store).path(PICTURES, lost, ".png").unlink()
    Files(filled.store).path(PICTURES, spoilt, ".png").write_bytes(b"picture 9")
    model = next(Path(filled.store).rglob("patchcore.safetensors"))
    model.write_bytes(model.read_bytes()[:-1] + b"?")
    held = backup(filled, tmp_path / "c.tar")
    assert held.pictures == 3
    assert sorted(Path(name).stem for name in held.damaged) == sorted([lost, spoilt, "patchcore"])


# ------------------------------------------------------------------------------------------- never overwrites


def test_nothing_is_overwritten(made, filled, other, tmp_path):
    before = made.read_bytes()
    with pytest.raises(InputError, match="never overwritten"):
        backup(filled, made)
    assert made.read_bytes() == before
    with pytest.raises(InputError, match="is not empty"):
        restore(made, filled)
    Path(other.store).mkdir(parents=True)
    note = Path(other.store) / "note.txt"
    note.write_text("mine")
    with pytest.raises(InputError, match="is not empty"):
        restore(made, other)
    assert [path.name for path in Path(other.store).iterdir()] == ["note.txt"]
    note.unlink()
    (Path(other.store) / "lost+found").mkdir()
    restore(made, other)


@pytest.mark.both_databases
def test_a_data_base_that_is_not_empty_stays(made, filled, other, database_url):
    if database_url is None:
        wrong = replace(other, database="postgresql://nobody@nowhere/none")
        with pytest.raises(InputError, match="leave `database` out"):
            restore(made, wrong)
        return
    before = rows(filled)
    with pytest.raises(InputError, match="is not empty"):
        restore(made, replace(other, database=filled.database))
    assert rows(filled) == before
    with pytest.raises(InputError, match="of PostgreSQL"):
        restore(made, replace(other, database=None))
    assert not Path(other.store).exists()


@pytest.mark.both_databases
def test_a_restore_that_fails_late_leaves_nothing(made, filled, other, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(module, "_open_restored", failing(FlawscopeError("the disk is full")))
        with pytest.raises(FlawscopeError, match="full"):
            restore(made, other)
    assert not Path(other.store).exists()
    restore(made, other)
    assert rows(other) == rows(filled)


def rewritten(
    source: Path, target: Path, change: Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]
) -> Path:
    """A copy whose parts were changed; the list and its hash fit again."""
    with tarfile.open(source) as tar:
        parts = [(part, tar.extractfile(part).read()) for part in tar]
    facts = json.loads(parts.pop()[1])
    parts.pop()
    change(parts)
    named = [[p.name, len(data), hashlib.sha256(data).hexdigest()] for p, data in parts]
    text = "".join(json.dumps(line) + "\n" for line in named).encode()
    facts["list"] = hashlib.sha256(text).hexdigest()
    with tarfile.open(target, "w") as tar:
        for part, data in [
            *parts,
            (tarfile.TarInfo(LIST_FILE), text),
            (tarfile.TarInfo(FACTS_FILE), json.dumps(facts).encode()),
        ]:
            part.size = len(data) if part.isreg() else 0
            tar.addfile(part, io.BytesIO(data))
    return target


def named(name: str, kind: bytes = tarfile.REGTYPE, to: str = "") -> tarfile.TarInfo:
    part = tarfile.TarInfo(name)
    part.type, part.linkname = kind, to
    return part


HOSTILE = {
    "out": named("../out.txt"),
    "absolute": named("/tmp/flawscope-out.txt"),
    "hidden way": named("pictures/../../out.txt"),
    "other file": named("station.yaml"),
    "second data base": named("station.sqlite"),
    "wrong hash": named(f"pictures/000/{'0' * 64}.png"),
    "model's folder": named(f"models/{'0' * 16}/.."),
    "link": named(f"models/{'0' * 16}/link", tarfile.SYMTYPE, "/etc/passwd"),
    "hard link": named(f"models/{'0' * 16}/link", tarfile.LNKTYPE, "station.sqlite"),
    "pipe": named(f"models/{'0' * 16}/pipe", tarfile.FIFOTYPE),
    "folder": named(f"models/{'0' * 16}/folder", tarfile.DIRTYPE),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_no_part_leaves_the_folder(made, other, tmp_path, what):
    part = HOSTILE[what]
    data = b"x" if part.isreg() else b""
    restore(rewritten(made, tmp_path / "good.tar", lambda parts: None), replace(other, store=f"{tmp_path}/x"))
    path = rewritten(made, tmp_path / "bad.tar", lambda parts: parts.insert(3, (part, data)))
    with pytest.raises(InputError, match="is damaged") as caught:
        restore(path, other)
    assert "\n" not in str(caught.value)
    assert not Path(other.store).exists()
    assert not (tmp_path / "deep/out.txt").exists()
    assert not (tmp_path / "out.txt").exists()
    assert not Path("/tmp/flawscope-out.txt").exists()


def test_every_cut_and_every_changed_byte_is_one_line(made, other, tmp_path, capsys):
    data = made.read_bytes()
    path = tmp_path / "bad.tar"

    def spoil(parts: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        part, data = parts[0]
        parts[0] = part, data[:4096] + b"\xff" * (len(data) - 4096)

    with pytest.raises(InputError, match="data base is damaged"):
        restore(rewritten(made, path, spoil), other)
    assert not Path(other.store).exists()
    with tarfile.open(made) as tar:
        last = tar.getmembers()[-1]
        ends = last.offset_data + last.size  # zeros follow
        spoilt = [data[:k] for k in (0, 1, 511, 512, ends - 1, *range(ends // 9, ends, ends // 9))]
        inside = [part.offset_data + min(3, part.size - 1) for part in tar]
        heads = [part.offset for part in tar]
    for place in (*inside, *heads):
        spoilt.append(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    for bad in spoilt:
        path.write_bytes(bad)
        assert main(["station", "restore", str(path), "--station", other.store]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert len(said.err.strip().splitlines()) == 1, said.err
        assert "bad.tar" in said.err
        assert not Path(other.store).exists()


def test_the_commands(filled, other, tmp_path, capsys):
    def words(settings: Settings, name: str) -> list[str]:
        if settings.database is None:
            return ["--station", settings.store]
        path = tmp_path / f"{name}.yaml"
        path.write_text(f"store: {settings.store}\ndatabase: {settings.database}\n")
        return ["--settings", str(path)]

    path = str(tmp_path / "b.tar")
    assert main(["station", "backup", path, *words(filled, "a")]) == 0
    line = "2 products, 2 model versions, 6 inspections, 6 pictures, 1 user; "
    assert capsys.readouterr().out.startswith(f"{path}: {line}")
    assert main(["station", "restore", path, *words(other, "b")]) == 0
    assert capsys.readouterr().out.startswith(f"{other.store}: {line}")
    Files(other.store).path(PICTURES, hashlib.sha256(b"picture 1").hexdigest(), ".png").unlink()
    assert main(["station", "backup", str(tmp_path / "c.tar"), *words(other, "b")]) == 1
    assert "1 file missing or damaged" in capsys.readouterr().err


def test_errors_name_the_remedy(made, filled, tmp_path, capsys, monkeypatch):
    def said(*words: str) -> str:
        assert main(["station", *words]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        return line

    assert "there is no station" in said("backup", str(tmp_path / "x.tar"), "--station", str(tmp_path / "no"))
    assert not (tmp_path / "no").exists()
    assert "make it first" in said("backup", str(tmp_path / "no/x.tar"), "--station", filled.store)
    assert "there is no backup" in said("restore", str(tmp_path / "x.tar"), "--station", str(tmp_path / "no"))
    yaml = tmp_path / "s.yaml"
    yaml.write_text(f"store: {filled.store}\ndatabase: postgresql://a:secret@127.0.0.1:1/b\n")
    assert "secret" not in said("backup", str(tmp_path / "x.tar"), "--settings", str(yaml))
    assert not (tmp_path / "x.tar").exists()
    monkeypatch.setattr(dump.shutil, "which", lambda name: None)
    yaml.write_text(yaml.read_text().replace("/here", "/there"))

    def renamed(parts: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        parts[0] = named(dump.POSTGRES_COPY), parts[0][1]

    path = rewritten(made, tmp_path / "x.tar", renamed)
    assert "pg_restore is not installed: apt-get" in said("restore", str(path), "--settings", str(yaml))
