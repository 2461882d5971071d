"""A store that an earlier version wrote becomes one of this version, with all that was in it."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import func, select, text
from sqlalchemy.exc import IntegrityError

from flawscope.errors import InputError
from flawscope_station.settings.station import ProductSettings
from flawscope_station.store import dump
from flawscope_station.store.database import Database
from flawscope_station.store.files import PICTURES, Files
from flawscope_station.store.migrations import DAY
from flawscope_station.store.schema import (
    REPORT_VIEW,
    events,
    hours,
    inspections,
    learnt_pixels,
    marks,
    metadata,
    stations,
    verdicts,
)

pytestmark = pytest.mark.both_databases
FIXTURES = Path(__file__).parents[2] / "tests/fixtures"
WRITTEN = FIXTURES / "station-19cecfd"
MODEL = FIXTURES / "models-97f7321/patchcore-two-sizes.onnx"
FOLDER = "e3884fbfcadd1f9205072bbec1bb6d95"
TOKEN = "fls_C68oOJmabjIgx6zPKx3Xbw7IpVJaenuYEItkJpTRZuU"


@pytest.fixture
def old(settings):
    """The data base that commit 19cecfd wrote, with its files."""
    files = Files(settings.store)
    files.identity_path.write_text(f"{FOLDER}\n")
    for path in (FIXTURES / "models-97f7321/pictures").iterdir():
        files.keep(PICTURES, path.read_bytes(), ".png")
    model = files.model_folder(hashlib.sha256(MODEL.read_bytes()).hexdigest()) / MODEL.name
    model.parent.mkdir()
    shutil.copy(MODEL, model)
    made = Database(settings.url)
    tables = "sqlite.sql" if made.is_sqlite else "postgresql.sql"
    with made.writing() as connection:
        driver: Any = connection.connection.driver_connection
        for script in (WRITTEN / tables, WRITTEN / "rows.sql"):
            for statement in script.read_text().split(";\n"):
                driver.execute(statement)
        if not made.is_sqlite:
            for (sequence,) in connection.exec_driver_sql(
                "SELECT sequence_name FROM information_schema.sequences"
            ).all():
                table = sequence.removesuffix("_id_seq")
                connection.exec_driver_sql(f"SELECT setval('{sequence}', coalesce(max(id), 1)) FROM {table}")
    yield made
    made.close()


def everything(database: Database, table: Any) -> list[Any]:
    with database.reading() as connection:
        return [tuple(row) for row in connection.execute(select(table).order_by(*table.primary_key))]


def test_all_that_was_there_is_there_and_the_station_goes_on(old, open_station, parts):
    wider = (inspections, verdicts)
    people = text("SELECT id, name, password, role, created_at FROM users ORDER BY id")
    counts = text("SELECT hour, inspected, anomalous, reviewed, defects, misses FROM hours ORDER BY hour")
    with old.reading() as connection:
        before = [
            connection.execute(text(f"SELECT * FROM {table.name} ORDER BY id")).mappings().all()
            for table in wider
        ]
        users, counted = (connection.execute(query).all() for query in (people, counts))
    pixels = everything(old, learnt_pixels)
    running = open_station(products={"plate": ProductSettings(str(MODEL))})
    assert everything(old, learnt_pixels) == pixels
    with old.reading() as connection:
        after = [connection.execute(select(table).order_by(table.c.id)).mappings().all() for table in wider]
        assert connection.execute(people).all() == users
        assert connection.execute(counts).all() == counted
        assert connection.execute(select(func.sum(hours.c.within_tolerance))).scalar_one() == 0
    for rows, old_rows in zip(after, before, strict=True):
        assert [{name: row[name] for name in old_rows[0]} for row in rows] == [dict(row) for row in old_rows]
        assert {row["kind"] for row in rows} == {None}
    assert {(row["tolerated"], row["tolerances"]) for row in after[0]} == {(False, None)}
    assert {(row["view"], row["part_id"]) for row in after[0]} == {(None, None)}
    assert [user.name for user in running.station.access.users()] == ["anna", "otto"]
    assert running.station.access.sign_in("anna", "a long password", "here")
    with httpx.Client(base_url=f"{running.url}/api/v1/products/plate") as client:
        assert client.get("/inspections").status_code == 401
        client.headers["Authorization"] = f"Bearer {TOKEN}"
        found = {one["id"]: one for one in client.get("/inspections").json()["inspections"]}
        said = {number: (one["verdict"], one["review"], one["note"]) for number, one in found.items()}
        assert said == {
            1: ("defect", "done", "a scratch"),
            2: (None, "waiting", ""),
            3: (None, "skipped", ""),
            4: ("good", "done", ""),
            **dict.fromkeys((5, 6, 7), (None, "none", "")),
        }
        assert found[2]["decision"] == "anomalous"
        assert found[2]["name"] == "crack-000.png"
        assert {(one["shows"], one["product_p_value"]) for one in found.values()} == {(None, None)}
        assert len(client.get("/inspections/2/picture").content) == 17942
        again = (FIXTURES / "models-97f7321/pictures/crack-000.png").read_bytes()
        sent = {"content": again, "headers": {"Idempotency-Key": "part-1"}}
        assert client.post("/inspections", **sent).json()["id"] == 2, "its key is known"
        new = client.post("/inspections", content=again).json()
        assert (new["id"], new["version"], new["score"]) == (8, 1, pytest.approx(found[2]["score"], rel=1e-6))


def test_records_of_before_are_as_old_as_their_order_says(old):
    """Times of a clock that was wrong meanwhile make nothing old; a pause counts a day."""
    days = {1: 5000, 2: 5000.5, 3: 4, 4: 5001, 5: 5008, 6: 5008, 7: 5008}
    with old.writing() as connection:
        for number, day in days.items():
            at = round(day * DAY)
            connection.exec_driver_sql(f"UPDATE inspections SET at = {at} WHERE id = {number}")
    old.migrate()
    with old.reading() as connection:
        found = connection.execute(select(marks.c.inspection_id, marks.c.age).order_by(marks.c.age)).all()
    assert [tuple(row) for row in found] == [(1, 0), (4, DAY // 2), (7, DAY // 2 + DAY)]


def test_the_tables_are_those_of_this_version_and_hold_what_they_promise(old):
    old.migrate()
    with old.reading() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
        rows = connection.execute(text(f"SELECT * FROM {REPORT_VIEW} ORDER BY inspection")).mappings().all()
        assert [row["inspection"] for row in rows] == [1, 2, 3, 4, 5, 6, 7], "others read them by SQL"
        assert (rows[1]["product"], rows[1]["decision"], rows[3]["verdict"]) == ("plate", "anomalous", "good")
        if old.is_sqlite:
            query = text("SELECT sql FROM sqlite_master WHERE name = 'inspections_waiting'")
            assert "WHERE review = 'waiting'" in connection.execute(query).scalar_one()
            assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar_one() == 1
    for wrong in (
        f"UPDATE inspections SET picture = '{'a' * 64}' WHERE id = 3",
        "UPDATE products SET station_id = 99 WHERE id = 1",
        "DELETE FROM pictures",
    ):
        with pytest.raises(IntegrityError), old.writing() as connection:
            connection.exec_driver_sql(wrong)
    before = everything(old, stations), everything(old, events)
    old.migrate()
    assert (everything(old, stations), everything(old, events)) == before


def test_a_store_of_an_earlier_version_is_not_backed_up_by_this_one(old, settings, tmp_path):
    (tmp_path / "near").mkdir()
    with (
        pytest.raises(InputError, match="are of another version: use the flawscope that made them"),
        dump.copy_database(settings, tmp_path / "near"),
    ):
        pass
