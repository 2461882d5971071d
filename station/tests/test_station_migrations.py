"""Tables of an earlier version are copied, then migrated; who knows neither is told."""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, select, text
from sqlalchemy.exc import IntegrityError

from flawscope.errors import InputError
from flawscope_station.settings.station import Settings
from flawscope_station.store import migrations
from flawscope_station.store.database import Database
from flawscope_station.store.files import Files
from flawscope_station.store.inspection import KeyedRequest
from flawscope_station.store.records import Store
from flawscope_station.store.schema import (
    EARLIER_RELEASE,
    REPORT_VIEW,
    challenges,
    deliveries,
    hours,
    jobs,
    metadata,
    products,
)
from flawscope_station.store.search import Filters, search
from flawscope_station.store.station_identity import check_owner
from station_helpers import add_version, taken

pytestmark = pytest.mark.both_databases


CURRENT = [*migrations.STEPS][-1]


def of_the_next_version(monkeypatch: pytest.MonkeyPatch, step: Callable[[Connection], object]) -> None:
    monkeypatch.setattr(migrations, "STEPS", {**migrations.STEPS, f"{int(CURRENT) + 1:04}": step})


def add_column(connection: Connection) -> None:
    connection.execute(text("ALTER TABLE products ADD COLUMN colour TEXT"))


def names(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return [name for (name,) in connection.execute("SELECT name FROM products ORDER BY id")]


def test_the_tables_are_copied_before_they_change_and_lead_back(database, tmp_path, monkeypatch):
    Store(database).add_product("plate")
    copy = tmp_path / f"station.sqlite.{CURRENT}"
    database.migrate()
    assert not copy.exists(), "nothing was to be done"
    with monkeypatch.context() as patch:
        of_the_next_version(patch, add_column)
        database.migrate()
        database.migrate()
        with database.writing() as connection:
            connection.execute(text("UPDATE products SET colour = 'blue', name = 'disc'"))
    with pytest.raises(InputError, match="was made by another flawscope: use that one") as caught:
        database.migrate()
    assert "\n" not in str(caught.value)
    if database.is_sqlite:
        database.close()
        assert names(tmp_path / "station.sqlite") == ["disc"]
        assert names(copy) == ["plate"]
        for left in tmp_path.glob("station.sqlite-*"):
            left.unlink()
        copy.replace(tmp_path / "station.sqlite")
        database.migrate()
        assert Store(database).add_product("plate") == 1


def test_a_migration_that_fails_changes_nothing(database, monkeypatch):
    def fail(connection: Connection) -> None:
        add_column(connection)
        connection.execute(text("UPDATE no_such_table SET x = 1"))

    with monkeypatch.context() as patch:
        of_the_next_version(patch, fail)
        with pytest.raises(InputError) as caught:
            database.migrate()
        assert "\n" not in str(caught.value)
    database.migrate()
    with database.reading() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_the_tables_are_those_of_the_schema_and_hold_what_they_promise(database):
    product, version = add_version(database)
    rows = [taken(product, version, picture=f"{k:064}", anomalous=k == 1) for k in range(3)]
    Store(database).record(rows)
    with database.reading() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
        query = text(f"SELECT product, decision FROM {REPORT_VIEW} ORDER BY inspection")
        found = [tuple(row) for row in connection.execute(query)]
        assert found == [("plate", "good"), ("plate", "anomalous"), ("plate", "good")], "others read by SQL"
        if database.is_sqlite:
            query = text("SELECT sql FROM sqlite_master WHERE name = 'inspections_waiting'")
            assert "WHERE review = 'waiting'" in connection.execute(query).scalar_one()
            assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar_one() == 1
    for wrong in (
        f"UPDATE inspections SET picture = '{'a' * 64}' WHERE id = 3",
        "UPDATE products SET station_id = 99 WHERE id = 1",
        "UPDATE products SET active_version_id = 99 WHERE id = 1",
        "DELETE FROM pictures",
    ):
        with pytest.raises(IntegrityError), database.writing() as connection:
            connection.exec_driver_sql(wrong)


@pytest.fixture(name="empty_database")
def empty_database_fixture(database_url, tmp_path):
    made = Database(Settings(store=str(tmp_path), database=database_url).url)
    yield made
    made.close()


def run_script(database: Database, text_of: str) -> None:
    """Make the tables of an earlier version, with what they held."""
    with closing(database.engine.raw_connection()) as raw:
        connection: Any = raw.driver_connection
        if database.is_sqlite:
            connection.executescript(f"PRAGMA foreign_keys = OFF;\n{text_of}\nPRAGMA foreign_keys = ON;")
        else:
            connection.execute(text_of)
            connection.commit()


@pytest.mark.parametrize("version", ["0002"])
def test_a_store_of_an_earlier_version_is_opened_with_all_that_it_had(empty_database, version):
    """A part in two views was an inspection for each; one was good, one flagged and reviewed, one came by a
    folder, one was within tolerance. Beside them are two parts of one picture, and a challenge whose hash
    held all settings."""
    database = empty_database
    dialect = "sqlite" if database.is_sqlite else "postgresql"
    run_script(database, (Path(__file__).parent / "store" / f"tables-{version}.{dialect}.sql").read_text())
    run_script(
        database,
        "INSERT INTO challenges (product_id, version_id, state_hash, parts, cause, who, begun_at, reason)"
        " VALUES (1, 1, 'all settings', '{}', 'first', 'anna', 0, 'none is here');"
        " UPDATE products SET active_version_id = 99;",  # which was removed while it was activated
    )
    database.migrate()
    store, product = Store(database), 1
    with database.reading() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
        if database.is_sqlite:
            assert connection.exec_driver_sql("PRAGMA foreign_key_check").all() == []
            assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar_one() == 1
        facts = json.loads(
            connection.execute(select(jobs.c.facts).filter_by(kind="corrections")).scalar_one()
        )
        assert connection.execute(select(deliveries.c.inspection_id)).scalar_one() == 9
        assert connection.execute(select(products.c.active_version_id)).scalars().all() == [None]
        counted = connection.execute(select(hours)).mappings().one()
        assert connection.execute(select(challenges.c.state_hash)).scalar_one() == EARLIER_RELEASE
    found = {one["part"]: one for one in search(database, product, Filters()).inspections}
    assert {name: (one["decision"], one["verdict"], one["review"]) for name, one in found.items()} == {
        "single": ("good", None, "none"),
        "good part": ("good", None, "none"),
        "flagged": ("anomalous", "defect", "done"),
        "of a folder": ("anomalous", None, "waiting"),
        "tolerated": ("within tolerance", None, "none"),
        "last": ("anomalous", None, "waiting"),
    }
    for name, one in found.items():
        seen = [view["view"] for view in one["views"]]
        assert (seen, one["view"]) == ((["a", "b"], "b") if name not in ("single", "last") else ([], None))
    flagged = found["flagged"]
    assert (flagged["kind"], flagged["p_value"], flagged["name"]) == ("dent", 0.05, "21.png")
    assert facts["learnt"] == [flagged["id"]] == [facts["corrections"][0]["id"]]
    counts = {"inspected": 6, "anomalous": 3, "within_tolerance": 1, "reviewed": 1, "defects": 1, "misses": 0}
    assert {name: counted[name] for name in counts} == counts
    request = KeyedRequest("k1", "", ("", ""))
    assert [row.id for row in store.find_by_keys(product, request.part_keys())] == [found["good part"]["id"]]
    assert {*store.known_files(product, ["folder@1:0", "folder@1:1"])} == {"folder@1:0", "folder@1:1"}
    store.add_verdict(product, flagged["id"], "undo", "anna")
    new = taken(product, 1, picture="9" * 64)
    assert store.record([new])[0][0] == 11, "no number is given again"


def test_tables_of_another_version_are_looked_at_and_stay_as_they_are(empty_database):
    """By commands beside a station, which may be an older one that runs."""
    database = empty_database
    assert not database.check_tables()
    dialect = "sqlite" if database.is_sqlite else "postgresql"
    run_script(database, (Path(__file__).parent / "store" / f"tables-0002.{dialect}.sql").read_text())
    with pytest.raises(InputError, match="is a store of another version of flawscope") as caught:
        database.check_tables()
    assert "\n" not in str(caught.value)
    with database.reading() as connection:
        assert migrations.table_version(connection) == "0002"
    database.migrate()
    assert database.check_tables()


def test_tables_of_another_station_are_not_migrated(empty_database, tmp_path):
    """PostgreSQL: a second station that names the data base of an older one, which runs."""
    database = empty_database
    dialect = "sqlite" if database.is_sqlite else "postgresql"
    run_script(database, (Path(__file__).parent / "store" / f"tables-0002.{dialect}.sql").read_text())
    run_script(database, f"UPDATE stations SET folder = '{'a' * 32}';")
    files = Files(tmp_path / "other")
    if database.is_sqlite:  # the folder, which is locked, has its file
        check_owner(database, files)
        return
    with pytest.raises(InputError, match="is the data base of another station"):
        check_owner(database, files)
