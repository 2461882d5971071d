"""A station in one file, and back; and files that are no backup."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from flawscope.cli import main
from flawscope.errors import InputError
from flawscope_station.access.authenticator import Access
from flawscope_station.settings.station import Settings
from flawscope_station.store.backup import backup, restore
from flawscope_station.store.database import Database
from flawscope_station.store.files import MASKS, Files
from flawscope_station.store.model_registry import ModelRegistry
from flawscope_station.store.records import DEFECT, Store
from station_helpers import taken_file

FIXTURES = Path(__file__).parents[2] / "tests/fixtures/models"


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
    Access(database).users.add("anna", "a long password", "admin")
    database.close()
    return settings


@pytest.fixture
def other(tmp_path):
    """An empty place."""
    return Settings(store=str(tmp_path / "deep/there"))


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


@pytest.mark.both_databases
def test_files_of_a_station_with_postgresql_come_back_without_its_data_base(
    filled, other, tmp_path, database_url
):
    path = tmp_path / "b.tar"
    backup(filled, path)
    if database_url is None:
        with pytest.raises(InputError, match="is of a station with SQLite: leave `database` out"):
            restore(path, replace(other, database="postgresql://nobody@nowhere/none"))
        assert not Path(other.store).exists()
        return
    with pytest.raises(InputError, match="is of a station with PostgreSQL: name its `database`"):
        restore(path, other)
    assert not Path(other.store).exists()
    restore(path, replace(other, database=filled.database))
    assert contents(other) == contents(filled)


# ------------------------------------------------------------------------------------------- never overwrites


def test_nothing_is_overwritten(made, filled, other):
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


def test_errors_name_the_remedy(filled, tmp_path, capsys):
    def said(*words: str) -> str:
        assert main(["station", *words]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        return line

    assert "there is no station" in said("backup", str(tmp_path / "x.tar"), "--station", str(tmp_path / "no"))
    assert not (tmp_path / "no").exists()
    assert "make it first" in said("backup", str(tmp_path / "no/x.tar"), "--station", filled.store)
    assert "choose another folder" in said("backup", f"{filled.store}/x.tar", "--station", filled.store)
    assert "there is no backup" in said("restore", str(tmp_path / "x.tar"), "--station", str(tmp_path / "no"))
