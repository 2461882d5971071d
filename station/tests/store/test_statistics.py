"""Statistics by which SQLite chooses an index: there from the first day, renewed where a table grew."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text

from flawscope_station.store.database import Database

ADD = text(
    "WITH RECURSIVE n(k) AS (SELECT 1 UNION ALL SELECT k + 1 FROM n WHERE k < :count)"
    " INSERT INTO events (at, kind, who, text) SELECT k, 'kind', 'who', 'text' FROM n"
)


@pytest.fixture(name="open_one")
def open_one_fixture(tmp_path: Path):
    made: list[Database] = []

    def open_one() -> tuple[Database, Callable[[], set[str]]]:
        """A database, and what renews its statistics and returns the indexes of which it did."""
        database, asked = Database(f"sqlite:///{tmp_path / 'store.sqlite'}"), list[str]()
        made.append(database)
        database.migrate()

        @event.listens_for(database.engine, "before_cursor_execute")
        def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
            if statement.startswith("ANALYZE"):
                asked.append(statement.split('"')[1])

        def renewed() -> set[str]:
            asked.clear()
            database.tune()
            assert len(asked) == len(set(asked))
            return set(asked)

        return database, renewed

    yield open_one
    for database in made:
        database.close()


def indexes(database: Database, where: str = "") -> set[str]:
    found = database.rows(text(f"SELECT name FROM sqlite_master WHERE type = 'index' {where}"))
    return {row.name for row in found}


def test_statistics_are_renewed_of_tables_that_grew_by_a_tenth(open_one):
    database, renewed = open_one()
    assert renewed() == indexes(database), "from the first day"
    of_events = indexes(database, "AND tbl_name = 'events'")
    for count, grew in ((1, True), (99, True), (0, False), (10, False), (1, True), (11, False), (2, True)):
        with database.writing() as connection:
            connection.execute(ADD, {"count": count}) if count else None
        assert renewed() == (of_events if grew else set()), count
    assert {row.idx for row in database.rows(text("SELECT idx FROM sqlite_stat1"))} >= of_events
    again, renewed = open_one()
    assert renewed() == indexes(again), "an upgrade may have made new ones"


def test_connections_see_new_statistics_and_stay_open_without(open_one):
    """One reads them when it is opened."""
    database, renewed = open_one()
    renewed()
    database.rows(text("SELECT 1"))
    before = database.engine.pool
    renewed()
    assert database.engine.pool is before
    with database.writing() as connection:
        connection.execute(ADD, {"count": 1})
    renewed()
    assert database.engine.pool is not before
