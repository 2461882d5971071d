"""What a removal costs does not grow with the store."""

from pathlib import Path
from typing import Any

from sqlalchemy import event, text

from flawscope_station.store.database import Database
from flawscope_station.store.files import Files
from flawscope_station.store.model_registry import ModelRegistry
from flawscope_station.store.records import Store
from flawscope_station.store.schema import metadata
from station_helpers import add_version, taken

ROWS_GROW = {"inspections", "pictures", "verdicts", "views", "events"}
STEP = 10  # instructions of SQLite between two counts


def steps_of_a_removal(folder: Path, parts: int) -> int:
    """Counts of `STEP` instructions that SQLite takes to remove a version beside so many parts."""
    database, counted = Database(f"sqlite:///{folder / 'store.sqlite'}"), []
    database.migrate()
    product, judging = add_version(database)
    unused, _ = (add_version(database, content=hash_ * 64)[1] for hash_ in "ab")  # the newest stays
    other = add_version(database, "other")
    Store(database).record([taken(product, judging), taken(*other)])
    columns = "product_id, version_id, picture, at, name, source, score, p_value, severity, score_threshold"
    columns += ", anomalous, tolerated, near, record, review, purpose"
    with database.writing() as connection:
        numbers = "WITH RECURSIVE n(k) AS (SELECT 1 UNION ALL SELECT k + 1 FROM n WHERE k < :parts)"
        new = f"{numbers} INSERT INTO inspections ({columns}) SELECT {columns} FROM inspections, n"
        connection.execute(text(new), {"parts": parts})
        names = "product_id, version_id, hour + k, inspected, anomalous, within_tolerance, unanswered"
        sums = "score_sum, score_min, score_max, reviewed, defects, false_alarms, misses"
        connection.execute(
            text(f"{numbers} INSERT INTO hours SELECT {names}, {sums} FROM hours, n"), {"parts": parts}
        )

    database.tune()

    @event.listens_for(database.engine, "checkout")
    def count(connection: Any, *rest: Any) -> None:
        connection.set_progress_handler(lambda: counted.append(None), STEP)

    assert ModelRegistry(database, Files(folder / "files")).remove(product, unused)
    database.close()
    return len(counted)


def test_a_version_goes_without_a_walk_through_all_parts(tmp_path):
    """SQLite asks each table that may name a row whether it does."""
    few, many = (tmp_path / name for name in ("few", "many"))
    for folder in (few, many):
        folder.mkdir()
    assert steps_of_a_removal(many, 1000) <= steps_of_a_removal(few, 10) + 3


def test_what_names_an_inspection_or_picture_is_found_by_an_index():
    """Retention removes a hundred of them in a transaction, and the database asks for each."""
    for table in (one for one in metadata.sorted_tables if one.name in ROWS_GROW):
        indexes = [[*table.primary_key.columns], *([*one.columns] for one in table.indexes)]
        for key in table.foreign_key_constraints:
            if key.referred_table.name in ("inspections", "pictures"):
                names = {one.name for one in key.columns}
                assert any({one.name for one in own[: len(names)]} == names for own in indexes), table.name
