"""A store of an earlier version becomes one of this version, with all that was in it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError

from flawscope.errors import InputError
from flawscope.predictor import read_manifest
from flawscope.station.settings.station import Settings
from flawscope.station.store import dump
from flawscope.station.store.clock import DAY
from flawscope.station.store.database import Database, _scripts
from flawscope.station.store.files import PICTURES, Files
from flawscope.station.store.records import Store
from flawscope.station.store.schema import (
    inspections,
    learnt,
    marks,
    metadata,
    pictures,
    products,
    stations,
    verdicts,
    versions,
)
from flawscope.station.store.stations import claim
from flawscope.station.store.training_provenance import Learnt

BOTH, ONE, REMOVED, LEARNT, NOBODYS = (letter * 64 for letter in "abcde")
on_postgres = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)  # where there are others
ROWS = f"""
INSERT INTO products (id, name, created_at) VALUES (1, 'plate', 5), (2, 'board', 6);
INSERT INTO versions (id, product_id, hash, file, origin, facts, created_at)
    VALUES (1, 1, 'x', 'models/first/part.onnx', 'o', '{{}}', 7), (2, 2, 'y', 'f', 'o', '{{}}', 7);
UPDATE products SET active_version_id = id;
INSERT INTO pictures (hash, suffix, bytes, width, height, created_at, removed_at) VALUES
    ('{BOTH}', '.png', 10, 4, 3, 1, NULL), ('{ONE}', '.jpg', 11, 5, 6, 2, NULL),
    ('{REMOVED}', '.png', 1, 1, 1, 3, 9), ('{LEARNT}', '.png', 1, 1, 1, 3, NULL),
    ('{NOBODYS}', '.png', 1, 1, 1, 3, NULL);
INSERT INTO inspections (id, product_id, version_id, picture, at, name, source, key, score, p_value, severity,
    score_threshold, anomalous, near, regions, verdict, review) VALUES
    (3, 2, 2, '{BOTH}', 10, 'a', 'http', NULL, 1.5, .5, .5, 1, TRUE, FALSE, '[]', NULL, 'waiting'),
    (4, 1, 1, '{BOTH}', 11, 'b', 'http', 'k', 0.5, .5, -.5, 1, FALSE, FALSE, '[]', 'defect', 'done'),
    (5, 1, 1, '{ONE}', 12, 'c', 'folder', NULL, .25, .5, -.5, 1, FALSE, FALSE, '[]', NULL, 'none'),
    (6, 1, 1, '{BOTH}', 13, 'd', 'http', NULL, 0.5, .5, -.5, 1, FALSE, FALSE, '[]', NULL, 'none'),
    (7, 2, 2, '{REMOVED}', 14, 'e', 'http', NULL, 0.5, .5, -.5, 1, FALSE, FALSE, '[]', NULL, 'none');
INSERT INTO verdicts (id, inspection_id, verdict, at, who, mask, note)
    VALUES (1, 4, 'defect', 20, 'anna', NULL, '');
INSERT INTO hours (product_id, version_id, hour, inspected, anomalous, score_sum, score_min, score_max,
    reviewed, defects, false_alarms, misses) VALUES (1, 1, 0, 3, 0, 1.25, .25, .5, 1, 1, 0, 1);
INSERT INTO learnt (version_id, picture) VALUES (2, '{LEARNT}'), (1, '{BOTH}');
INSERT INTO users (id, name, password, role, created_at) VALUES (1, 'anna', 'p', 'admin', 1);
"""


@pytest.fixture
def old(database_url: str | None, tmp_path: Path) -> Iterator[Database]:
    """A filled store with the first tables."""
    made = Database(Settings(store=str(tmp_path), database=database_url).url)
    config, _ = _scripts()
    with made.writing() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        for statement in ROWS.split(";"):
            if statement.strip():
                connection.exec_driver_sql(statement)
    yield made
    made.close()


def everything(database: Database, table: Any) -> list[Any]:
    with database.reading() as connection:
        return [tuple(row) for row in connection.execute(select(table).order_by(*table.primary_key))]


def test_all_that_was_there_is_there(old: Database) -> None:
    later = "brightness", "part", "batch", "request_hash", "triggers"
    known = [column for column in inspections.c if column.name not in later]
    with old.reading() as connection:
        before = connection.execute(select(*known).order_by(inspections.c.id)).all()
    old.migrate()
    assert everything(old, inspections) == [(*row, *[None] * len(later)) for row in before]
    assert len(everything(old, verdicts)) == 1
    assert [row[:2] for row in everything(old, pictures)] == [
        *((1, BOTH), (1, ONE), (2, BOTH), (2, REMOVED), (2, LEARNT))
    ], "one of each product, and none that nobody names"
    with old.reading() as connection:
        row = connection.execute(select(pictures).where(pictures.c.hash == ONE)).one()
        assert tuple(row) == (1, ONE, ".jpg", 11, 5, 6, 2, None)
        gone = select(pictures.c.hash).where(pictures.c.removed_at == 9)
        assert connection.execute(gone).scalars().all() == [REMOVED]
        assert connection.execute(select(stations.c.name, stations.c.folder)).all() == [("station", None)]
        assert connection.execute(select(products.c.active_version_id).order_by(products.c.id)).all() == [
            (1,),
            (2,),
        ]
    assert everything(old, learnt) == [(1, 1, BOTH), (1, 2, BOTH), (2, 2, LEARNT)]
    store = Store(old)
    assert store.inspection(1, 4)["verdict"] == "defect"
    assert [one["id"] for one in store.waiting(2, 10)["inspections"]] == [3]
    assert store.numbers_of(1, ["k"]) == {"k": 4}


def test_records_of_before_are_as_old_as_their_order_says(old: Database) -> None:
    """Times of a clock that was wrong meanwhile make nothing old; a pause counts a day."""
    days = {3: 5000, 4: 5000.5, 5: 4, 6: 5001, 7: 5008}
    with old.writing() as connection:
        for number, day in days.items():
            at = round(day * DAY)
            connection.exec_driver_sql(f"UPDATE inspections SET at = {at} WHERE id = {number}")
    old.migrate()
    with old.reading() as connection:
        found = connection.execute(select(marks.c.inspection_id, marks.c.age).order_by(marks.c.age)).all()
    assert [tuple(row) for row in found] == [(3, 0), (6, DAY // 2), (7, DAY // 2 + DAY)]


def test_the_tables_are_those_of_this_version_and_hold_what_they_promise(old: Database) -> None:
    old.migrate()
    with old.reading() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
        if old.is_sqlite:
            query = text("SELECT sql FROM sqlite_master WHERE name = 'inspections_waiting'")
            assert "WHERE review = 'waiting'" in connection.execute(query).scalar_one()
            assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar_one() == 1
    for wrong in (
        f"UPDATE inspections SET picture = '{NOBODYS}' WHERE id = 3",
        "UPDATE products SET station_id = 99 WHERE id = 1",
        f"DELETE FROM pictures WHERE hash = '{ONE}'",
    ):
        with pytest.raises(IntegrityError), old.writing() as connection:
            connection.exec_driver_sql(wrong)
    before = everything(old, stations)
    old.migrate()
    assert everything(old, stations) == before


def test_the_station_whose_it_was_takes_it_over_whatever_it_is_called(old: Database, tmp_path: Path) -> None:
    old.migrate()
    files = Files(tmp_path / "files")
    files.write(files.path(PICTURES, ONE, ".jpg"), b"a picture")
    files.write(files.folder / "models/first/part.onnx", b"a model")
    if not old.is_sqlite:  # another line may come first, whatever it is called
        for name, why in (("line2", ""), ("station", "has another folder than")):
            old.station = name
            with pytest.raises(InputError, match=why) if why else nullcontext():
                claim(old, Files(tmp_path / name))
    old.station = "line1"
    claim(old, files)
    assert everything(old, stations)[0][1:3] == ("line1", files.identity())
    assert Store(old).add_product("plate") == 1
    with old.reading() as connection:
        known = connection.execute(select(stations.c.name).order_by(stations.c.id)).scalars().all()
    assert known == ["line1"] + ["line2"] * (not old.is_sqlite)


@on_postgres
def test_a_folder_without_its_models_is_not_the_earlier_stations(old: Database, tmp_path: Path) -> None:
    old.migrate()
    files = Files(tmp_path / "files")
    files.write(files.path(PICTURES, ONE, ".jpg"), b"another station's picture")
    old.station = "line1"
    with pytest.raises(InputError, match=r"has pictures that .* does not know"):
        claim(old, files)
    assert everything(old, stations)[0][1:3] == ("station", None)


@on_postgres
def test_what_versions_were_learnt_from_is_told_to_other_stations(
    old: Database, model_file: Path, tmp_path: Path, parts: list[bytes]
) -> None:
    """They keep everything until they know it."""
    old.migrate()
    first, files = Files(tmp_path / "first"), Files(tmp_path / "second")
    first.write(first.folder / "models/first/part.onnx", model_file.read_bytes())
    facts = json.dumps({"pictures": dict(Counter(p.role for p in read_manifest(model_file).pictures))})
    with old.writing() as connection:
        own = versions.c.product_id == 1
        connection.execute(versions.update().where(own).values(facts=facts))
    second = Database(old.url, "line2")
    claim(second, files)
    learnt = Learnt(second, files)
    digest = files.keep(PICTURES, parts[0], ".png")
    with pytest.raises(
        InputError, match=r"what version 1 of the station station was learnt from is not known"
    ):
        learnt.knows(digest, ".png")
    claim(old, first)
    assert Learnt(old, first).tell() == []
    assert learnt.knows(digest, ".png") is False
    assert {one.hash for one in read_manifest(model_file).pictures} <= learnt._pixels
    assert Learnt(old, first).tell() == []
    second.close()


def test_a_store_of_an_earlier_version_is_not_backed_up_by_this_one(
    old: Database, database_url: str | None, tmp_path: Path
) -> None:
    settings = Settings(store=str(tmp_path), database=database_url)
    (tmp_path / "near").mkdir()
    with (
        pytest.raises(InputError, match="are of another version: use the flawscope that made them"),
        dump.copied(settings, tmp_path / "near"),
    ):
        pass
