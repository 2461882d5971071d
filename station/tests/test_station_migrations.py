"""Tables of an earlier version are copied, then migrated; who knows neither is told."""

import ast
import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Column, Connection, Text, inspect, select, text
from sqlalchemy.exc import IntegrityError

from flawscope.errors import InputError
from flawscope_station.cli.check import check_database
from flawscope_station.learning.candidate_records import status_of
from flawscope_station.learning.jobs import Jobs
from flawscope_station.settings.station import Settings
from flawscope_station.store import migrations, schema
from flawscope_station.store.database import Database
from flawscope_station.store.files import Files
from flawscope_station.store.inspection import (
    ENTRY,
    HTTP,
    KeyedRequest,
    KeyUsedError,
    Label,
    request_key,
    trigger_request,
    upload_request,
)
from flawscope_station.store.records import Store
from flawscope_station.store.schema import (
    EARLIER_RELEASE,
    REPORT_VIEW,
    active_version,
    challenges,
    deliveries,
    hours,
    jobs,
    metadata,
    versions,
)
from flawscope_station.store.search import Filters, search
from flawscope_station.store.station_identity import check_owner
from migrations_helpers import missing_step
from station_helpers import add_version, taken

pytestmark = pytest.mark.both_databases


CURRENT = migrations.newest_version()
EARLIER = ("0002", "0005", "0006", "0008", "0009")  # the last is that of today, until there is a next step
ADD_COLUMN = 'op.add_column("products", sa.Column("colour", sa.Text))'


def of_the_next_version(monkeypatch: pytest.MonkeyPatch, folder: Path, *lines: str) -> None:
    """Let there be a further step, which does this."""
    folder.mkdir()
    step = [f'revision = "{int(CURRENT) + 1:04}"', f'down_revision = "{CURRENT}"', "def upgrade():"]
    step += [f"    {one}" for one in lines]
    text_of = "\n".join(["import sqlalchemy as sa", "from alembic import op", *step])
    (folder / "v_next.py").write_text(text_of)
    monkeypatch.setattr(migrations, "STEPS", (*migrations.STEPS, folder))


def names(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return [name for (name,) in connection.execute("SELECT name FROM products ORDER BY id")]


def test_the_tables_are_copied_before_they_change_and_lead_back(database, tmp_path, monkeypatch):
    Store(database).add_product("plate")
    copy = tmp_path / f"station.sqlite.{CURRENT}"
    database.migrate()
    assert not copy.exists(), "nothing was to be done"
    with monkeypatch.context() as patch:
        of_the_next_version(patch, tmp_path / "steps", ADD_COLUMN)
        database.migrate()
        database.migrate()
        with database.writing() as connection:
            connection.execute(text("UPDATE products SET colour = 'blue', name = 'disc'"))
    with pytest.raises(InputError, match="was made by another flawscope: use the flawscope that") as caught:
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


def test_a_migration_that_fails_changes_nothing(database, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        wrong = 'op.execute("UPDATE no_such_table SET x = 1")'
        of_the_next_version(patch, tmp_path / "steps", ADD_COLUMN, wrong)
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
    add_version(database, content="1" * 64)
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
        "UPDATE versions SET state = 'active'",
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


def make_earlier(database: Database, version: str = "0002") -> None:
    """Make the tables of an earlier version, as that version made them."""
    dialect = "sqlite" if database.is_sqlite else "postgresql"
    run_script(database, (Path(__file__).parent / "store" / f"tables-{version}.{dialect}.sql").read_text())


def described(connection: Connection) -> set[str]:
    """All that a database says of its tables: columns, keys, indexes with their conditions, views."""
    if connection.dialect.name == "sqlite":
        rows = connection.exec_driver_sql("SELECT name, sql FROM sqlite_master WHERE sql NOT NULL")
        lines = [f"{name} {line}" for name, sql in rows for line in sql.splitlines()]
        return {re.sub(r'["\s,)]+', " ", line).strip() for line in lines if "alembic_version" not in line}
    queries = (
        "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename <> 'alembic_version'",
        "SELECT conrelid::regclass || conname || pg_get_constraintdef(oid) FROM pg_constraint"
        " WHERE connamespace = 'public'::regnamespace AND conrelid::regclass::text <> 'alembic_version'",
        "SELECT table_name || column_name || data_type || COALESCE(character_maximum_length, 0)"
        " || is_nullable || COALESCE(column_default, '') || COALESCE(collation_name, '')"
        " FROM information_schema.columns"
        " WHERE table_schema = 'public' AND table_name <> 'alembic_version'",
        "SELECT definition FROM pg_views WHERE schemaname = 'public'",
    )
    return {one for query in queries for one in connection.exec_driver_sql(query).scalars()}


@pytest.mark.parametrize("version", EARLIER)
def test_migrated_tables_say_of_themselves_what_new_ones_do(empty_database, version, tmp_path):
    database = empty_database
    make_earlier(database, version)
    database.migrate()
    with database.reading() as connection:
        migrated = described(connection)
        assert migrations.table_version(connection) == CURRENT
        assert missing_step(connection) == ""
    if database.is_sqlite:
        new = Database(f"sqlite:///{tmp_path / 'new.sqlite'}")
    else:
        new = database
        run_script(database, "DROP SCHEMA public CASCADE; CREATE SCHEMA public;")
    new.make_tables()
    with new.reading() as connection:
        assert described(connection) == migrated
    new.close()


def test_no_step_reads_the_tables_of_today():
    for path in migrations.STEPS[0].glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or "."] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.startswith(("flawscope", "."))], path.name


def test_a_column_that_is_added_one_day_is_added_by_its_step_alone(empty_database, tmp_path, monkeypatch):
    """To every table, after which the oldest tables are migrated: no earlier step makes one of that day."""
    database, changed = empty_database, migrations._copied(metadata)
    for table in changed.tables.values():
        table.append_column(Column("later", Text))
    monkeypatch.setattr(migrations, "metadata", changed)
    monkeypatch.setattr(schema, "metadata", changed)
    for name, there in vars(schema).items():
        if getattr(there, "metadata", None) is metadata:
            monkeypatch.setattr(schema, name, changed.tables[there.name])
    migrations._steps.cache_clear()
    added = [f'op.add_column("{name}", sa.Column("later", sa.Text))' for name in changed.tables]
    of_the_next_version(monkeypatch, tmp_path / "steps", *added)
    make_earlier(database)
    database.migrate()
    with database.reading() as connection:
        assert compare_metadata(MigrationContext.configure(connection), changed) == []
        assert "later" in {one["name"] for one in inspect(connection).get_columns("views")}


@pytest.mark.parametrize("version", ["0002"])
def test_a_store_of_an_earlier_version_is_opened_with_all_that_it_had(empty_database, version):
    """A part in two views was an inspection for each; one was good, one flagged and reviewed, one came by a
    folder, one was within tolerance. Beside them are two parts of one picture, and a challenge whose hash
    held all settings."""
    database = empty_database
    make_earlier(database, version)
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
        assert connection.execute(select(versions.c.state)).scalars().all() == ["retired"]
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
    request = KeyedRequest("http:k1", ("http:k1",), "")
    assert [row.id for row in store.find_by_keys(product, request.keys)] == [found["good part"]["id"]]
    assert {*store.known_files(product, ["folder@1:0", "folder@1:1"])} == {"folder@1:0", "folder@1:1"}
    store.add_verdict(product, flagged["id"], "undo", "anna")
    new = taken(product, 1, picture="9" * 64)
    assert store.record([new])[0][0] == 11, "no number is given again"


@pytest.mark.parametrize("version", ["0005", "0006", "0008"])
def test_states_of_versions_are_carried_over(empty_database, version):
    """The first was used before, the second judges, the third waits, the fourth was rejected."""
    database = empty_database
    make_earlier(database, version)
    database.migrate()
    states = select(versions.c.id, versions.c.state).order_by(versions.c.id)
    assert [tuple(row) for row in database.rows(states)] == [
        *((1, "retired"), (2, "active"), (3, "ready"), (4, "ready"), (5, "ready")),
    ]
    candidates = Jobs(database).latest(1)
    assert [status_of(row) for row in reversed(candidates)] == [
        *("live", "ready", "rejected", "rejected", "failed", "removed", "queued"),
    ]
    drafts = select(jobs.c.draft, jobs.c.status).where(jobs.c.kind == "fit").order_by(jobs.c.draft)
    assert [tuple(row) for row in database.rows(drafts)] == [("disc", "done"), ("ring", "stopped")]
    with database.reading() as connection:
        assert connection.execute(select(active_version(1))).scalar_one() == 2
    assert [one["part"] for one in search(database, 1, Filters()).inspections] == [
        "part 2",
        "part 1",
        "part 0",
    ]
    with pytest.raises(IntegrityError), database.writing() as connection:
        connection.execute(versions.update().where(versions.c.id == 1).values(state="active"))


KEYS_STORED_BEFORE = (  # by inspection: key, and hash of its request, as they were written then
    (1, "http:k1", "af311b9e5a7b0c6ed1580c1f308c1d03683c6266c01326ccadad957d4cfd9f1d"),
    (2, "http/0:k2", "5fff5e5b017a230c2608a94b0483d2f630377425a780dbf6a92f2a972db60e1a"),
    (3, "http/1:k2", "5fff5e5b017a230c2608a94b0483d2f630377425a780dbf6a92f2a972db60e1a"),
)
TRIGGERED_BEFORE = (1, "any:k3", "a385adaab6286b092043d15e7f28273be1485dfaab42a15c61890f9762040697")


def test_keys_that_were_stored_before_answer_retries(empty_database):
    """Of a part, of several in a form, of a trigger of an entry; another request under them is refused."""
    database = empty_database
    make_earlier(database, "0008")
    columns = "UPDATE inspections SET key = '{1}', request_hash = '{2}' WHERE id = {0};"
    run_script(database, " ".join(columns.format(*row) for row in KEYS_STORED_BEFORE))
    database.migrate()
    store, first, several = Store(database), request_key(HTTP, "k1"), request_key(HTTP, "k2")
    label, files = Label("4711", "b"), [b"one", b"two"]
    assert store.find_answers(1, upload_request(first, files[:1], False, False, label)) == {0: 1}
    assert store.find_answers(1, upload_request(several, files, True, True, Label())) == {0: 2, 1: 3}
    for other in (
        upload_request(first, files[1:], False, False, label),
        upload_request(first, files, True, True, Label()),
        upload_request(several, files[:1], False, False, Label()),
        trigger_request(first, 1, label),
    ):
        with pytest.raises(KeyUsedError, match=r"inspection [12]"):
            store.find_answers(1, other)
    assert store.find_answers(1, upload_request(request_key(ENTRY, "k1"), files, False, False, label)) == {}
    run_script(database, columns.format(*TRIGGERED_BEFORE))
    assert store.find_answers(1, trigger_request(request_key(ENTRY, "k3"), 1, Label("9"))) == {0: 1}


def test_tables_of_another_version_are_looked_at_and_stay_as_they_are(empty_database):
    """By commands beside a station, which may be an older one that runs."""
    database = empty_database
    assert not database.check_tables()
    make_earlier(database)
    with pytest.raises(InputError, match="is a store of another version of flawscope") as caught:
        database.check_tables()
    assert "\n" not in str(caught.value)
    with database.reading() as connection:
        assert migrations.table_version(connection) == "0002"
    database.migrate()
    assert database.check_tables()


@pytest.mark.parametrize("emptied", ["DROP TABLE alembic_version", "DELETE FROM alembic_version"])
def test_tables_that_say_no_version_are_refused_with_the_remedy(empty_database, emptied):
    """By whoever opens them: a station that begins, commands beside it, `station check`."""
    database = empty_database
    make_earlier(database)
    run_script(database, f"{emptied};")
    with database.reading() as connection:
        before = described(connection)
    asked = (database.migrate, database.make_tables, database.check_tables)
    for ask in (*asked, lambda: check_database(database)):
        with pytest.raises(InputError, match=r"has tables that say no version .*restore a backup") as caught:
            ask()
        assert "\n" not in str(caught.value)
    with database.reading() as connection:
        assert described(connection) == before


def test_tables_of_another_station_are_not_migrated(empty_database, tmp_path):
    """PostgreSQL: a second station that names the database of an older one, which runs."""
    database = empty_database
    make_earlier(database)
    run_script(database, f"UPDATE stations SET folder = '{'a' * 32}';")
    files = Files(tmp_path / "other")
    if database.is_sqlite:  # the folder, which is locked, has its file
        check_owner(database, files)
        return
    with pytest.raises(InputError, match="is the database of another station"):
        check_owner(database, files)
