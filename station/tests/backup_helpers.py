"""A station to back up, and what is put back from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from flawscope_station.access.authenticator import Access
from flawscope_station.settings.station import Settings
from flawscope_station.store.backup import backup
from flawscope_station.store.database import Database
from flawscope_station.store.files import BACKUP_FILE, MASKS, Files
from flawscope_station.store.model_registry import ModelRegistry
from flawscope_station.store.records import DEFECT, Store
from station_helpers import taken_file

FIXTURES = Path(__file__).parents[2] / "tests/fixtures/models"


@pytest.fixture(name="filled")
def filled_fixture(database_url, tmp_path):
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


@pytest.fixture(name="other")
def other_fixture(tmp_path):
    """An empty place."""
    return Settings(store=str(tmp_path / "deep/there"))


def contents(settings: Settings) -> dict[str, bytes]:
    """Files below the folder, without the database and the time of the last backup."""
    home = Path(settings.store)
    files = [path for path in home.rglob("*") if path.is_file() and "sqlite" not in path.name]
    files = [path for path in files if path.name != BACKUP_FILE]
    return {path.relative_to(home).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(name="made")
def made_fixture(filled, tmp_path):
    path = tmp_path / "b.tar"
    backup(filled, path)
    return path
