"""Migration of the tables to this version.

Whoever changes `schema` adds a step with the tables' next version to the end of `STEPS`; a test compares the
migrated tables with `schema`, and migrates a store of each version before. The tables are copied before
(`Database.migrate`).
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, MetaData, Row, Table, delete, inspect, select, text, update
from sqlalchemy.schema import CreateTable

from flawscope_station.store.purposes import PRODUCTION
from flawscope_station.store.schema import (
    ANOMALOUS,
    EARLIER_RELEASE,
    GOOD,
    HOUR,
    REPORT_VIEW,
    WITHIN,
    challenges,
    create_view_sql,
    hours,
    inspections,
    jobs,
    metadata,
    revision,
    verdicts,
    views,
)

PARTS_PER_QUERY = 500


class UnknownVersionError(Exception):
    """The tables were made by another flawscope."""


def table_version(connection: Connection) -> str | None:
    """Version of the tables; None where there are none.

    Raises:
        UnknownVersionError: this flawscope does not know it.
    """
    if not inspect(connection).has_table(revision.name):
        return None
    version: str | None = connection.scalar(select(revision.c.version_num))
    if version not in STEPS:
        raise UnknownVersionError
    return version


def is_current(connection: Connection) -> bool:
    """Whether the tables are there and of this version. UnknownVersionError."""
    return table_version(connection) == list(STEPS)[-1]


def migrate(connection: Connection) -> None:
    """Make the tables, or migrate them to this version. UnknownVersionError: nothing has changed."""
    current, order = table_version(connection), list(STEPS)
    if current is None:
        _copied(metadata).create_all(connection, checkfirst=False)
        connection.execute(text(create_view_sql(connection.dialect.name)))
        connection.execute(revision.insert().values(version_num=order[-1]))
        return
    for version in order[order.index(current) + 1 :]:
        STEPS[version](connection)
    connection.execute(update(revision).values(version_num=order[-1]))


def _copied(tables: MetaData) -> MetaData:
    """Return a copy of the tables. In PostgreSQL a key between two tables that name each other is added when
    both are there, and SQLAlchemy makes no table with it any more, which SQLite needs."""
    copy = MetaData(naming_convention=tables.naming_convention)
    for table in tables.tables.values():
        table.to_metadata(copy)
    return copy


def _rebuild(connection: Connection, table: Table) -> None:
    """Copy the rows of an SQLite table into one as `schema` has it: SQLite drops no column of a foreign
    key."""
    there = [one["name"] for one in inspect(connection).get_columns(table.name)]
    columns = ", ".join(f'"{one}"' for one in there if one in table.c)
    made = str(CreateTable(table).compile(dialect=connection.dialect))
    connection.execute(text("PRAGMA legacy_alter_table = ON"))  # others go on to name the table
    connection.execute(text(made.replace(f"CREATE TABLE {table.name}", f"CREATE TABLE new_{table.name}", 1)))
    connection.execute(text(f"INSERT INTO new_{table.name} ({columns}) SELECT {columns} FROM {table.name}"))
    connection.execute(text(f"DROP TABLE {table.name}"))
    connection.execute(text(f"ALTER TABLE new_{table.name} RENAME TO {table.name}"))
    connection.execute(text("PRAGMA legacy_alter_table = OFF"))
    for index in table.indexes:
        index.create(connection)


# --------------------------------------------------------------------- 0003: a part in several views is a row


def _one_row_for_a_part(connection: Connection) -> None:
    """Make one inspection of a part's, that of its most unusual view, and views of all of them."""
    is_sqlite = connection.dialect.name == "sqlite"
    connection.execute(text(f"DROP VIEW {REPORT_VIEW}"))
    views.create(connection)
    first, merged, counts = 0, dict[int, int](), defaultdict[tuple[int, int, int], Counter[str]](Counter)
    while True:
        query = text("SELECT * FROM parts WHERE id > :first ORDER BY id LIMIT :count")
        parts = connection.execute(query, {"first": first, "count": PARTS_PER_QUERY}).all()
        if not parts:
            break
        query = text(
            "SELECT inspections.*, pictures.pixels FROM inspections JOIN pictures"
            " ON pictures.product_id = inspections.product_id AND pictures.hash = inspections.picture"
            " WHERE part_id > :first AND part_id <= :last ORDER BY inspections.id"
        )
        seen: dict[int, list[Row[Any]]] = defaultdict(list)
        for row in connection.execute(query, {"first": first, "last": parts[-1].id}):
            seen[row.part_id].append(row)
        for part in parts:
            if rows := seen[part.id]:
                merged |= _merge_part(connection, part, rows, counts)
        first = parts[-1].id
    for (product_id, version_id, hour), change in counts.items():
        place = {"product_id": product_id, "version_id": version_id, "hour": hour}
        changes = {name: hours.c[name] + count for name, count in change.items() if count}
        if changes:
            connection.execute(update(hours).filter_by(**place).values(changes))
    if merged:
        for row in connection.execute(text("SELECT id, facts FROM candidates")).all():
            facts = json.dumps(_renumbered(json.loads(row.facts), merged))
            query = text("UPDATE candidates SET facts = :facts WHERE id = :number")
            connection.execute(query, {"facts": facts, "number": row.id})
    connection.execute(text("DROP INDEX inspections_part_id"))
    connection.execute(text("ALTER TABLE deliveries DROP COLUMN part_number"))
    if is_sqlite:
        _rebuild(connection, inspections)
    else:
        connection.execute(text("ALTER TABLE inspections DROP COLUMN part_id"))
        connection.execute(text("ALTER TABLE inspections DROP CONSTRAINT inspections_product_id_once"))
    connection.execute(text("DROP TABLE parts"))
    for table in (inspections, hours, metadata.tables["events"]):
        there = {one["name"] for one in inspect(connection).get_indexes(table.name)}
        for index in table.indexes:
            if index.name not in there:
                index.create(connection)
    connection.execute(text(create_view_sql(connection.dialect.name)))


def _merge_part(
    connection: Connection,
    part: Row[Any],
    rows: Sequence[Row[Any]],
    counts: dict[tuple[int, int, int], Counter[str]],
) -> dict[int, int]:
    """Make one of the inspections of a part's views; return the others' numbers, each with its number.

    Args:
        counts: gets the changes of the sums of the hours.
    """
    shown = next((row for row in rows if row.view == part.worst), rows[0])
    others = [row.id for row in rows if row is not shown]
    same = [one for one in views.c.keys() if one in rows[0]._fields]  # noqa: SIM118
    own = [
        {name: getattr(row, name) for name in same}
        | {"inspection_id": shown.id, "place": place, "key": row.key if row.source == "folder" else None}
        for place, row in enumerate(rows)
    ]
    said = next((row for row in rows if row.verdict == "defect"), None)
    said = said or (shown if shown.verdict else next((row for row in rows if row.verdict), None))
    states = {row.review for row in rows}
    if said is not None:
        review = "done"
    elif "waiting" in states and part.decision == ANOMALOUS:
        review = "waiting"
    else:
        review = "skipped" if "skipped" in states else "none"
    values = {
        "anomalous": part.decision != GOOD,
        "tolerated": part.decision == WITHIN,
        "p_value": shown.p_value if part.p_value is None else part.p_value,
        "near": shown.near and part.decision == GOOD,
        "verdict": None if said is None else said.verdict,
        "kind": None if said is None else said.kind,
        "review": review,
        "key": rows[0].key and rows[0].key.replace("/0:", ":", 1),
        "unanswered": next((row.unanswered for row in rows if row.unanswered), None),
        "record": json.dumps(_merged_record(shown, rows)),
    }
    connection.execute(
        update(verdicts).where(verdicts.c.inspection_id.in_(others)).values(inspection_id=shown.id, key=None)
    )
    connection.execute(delete(inspections).where(inspections.c.id.in_(others)))
    connection.execute(update(inspections).where(inspections.c.id == shown.id).values(values))
    connection.execute(views.insert(), own)
    if shown.purpose == PRODUCTION:
        for row in rows:
            _count(counts, row, dict(row._mapping), -1)
        _count(counts, shown, {**shown._mapping, **values}, 1)
    return dict.fromkeys(others, shown.id)


def _merged_record(shown: Row[Any], rows: Sequence[Row[Any]]) -> dict[str, Any]:
    """Record of the most unusual view; of a challenge part with what was found of all of its views."""
    record: dict[str, Any] = json.loads(shown.record)
    if "challenge" in record:
        facts = [json.loads(row.record)["challenge"] for row in rows]
        at_place = [one["is_at_place"] for one in facts if one["is_at_place"] is not None]
        record["challenge"] = {
            "resemblance": min(one["resemblance"] for one in facts),
            "is_at_place": any(at_place) or not at_place,
            "is_copy": any(one["is_copy"] for one in facts),
        }
    return record


def _count(
    counts: dict[tuple[int, int, int], Counter[str]], place: Row[Any], row: Mapping[str, Any], sign: int
) -> None:
    """Count an inspection in its hour, or no longer."""
    is_anomalous = bool(row["anomalous"]) and not row["tolerated"]
    change = {
        "inspected": 1,
        "anomalous": is_anomalous,
        "within_tolerance": bool(row["tolerated"]),
        "unanswered": row["unanswered"] is not None,
        "score_sum": row["score"],
        "reviewed": row["verdict"] is not None,
        "defects": row["verdict"] == "defect",
        "false_alarms": is_anomalous and row["verdict"] == "good",
        "misses": not is_anomalous and row["verdict"] == "defect",
    }
    hour = counts[place.product_id, place.version_id, place.at // HOUR]
    for name, value in change.items():
        hour[name] += sign * value


def _renumbered(facts: Any, numbers: Mapping[int, int]) -> Any:
    """Facts of a candidate, with the numbers that its inspections have now."""
    if isinstance(facts, list):
        return [numbers.get(one, one) if isinstance(one, int) else _renumbered(one, numbers) for one in facts]
    if isinstance(facts, dict):
        return {
            name: numbers.get(one, one) if name == "id" else _renumbered(one, numbers)
            for name, one in facts.items()
        }
    return facts


# ---------------------------------------------------------------- 0004: models in the making are jobs; a hash


def _candidates_are_jobs(connection: Connection) -> None:
    jobs.create(connection)
    same = "id, product_id, start_version_id, version_id, status, who, created_at, changed_at, facts"
    query = f"INSERT INTO jobs (kind, {same}) SELECT 'corrections', {same} FROM candidates"
    connection.execute(text(query))
    connection.execute(text("DROP TABLE candidates"))
    connection.execute(update(challenges).values(state_hash=EARLIER_RELEASE))  # it hashed all settings
    if connection.dialect.name == "postgresql":
        last = "(SELECT COALESCE(MAX(id), 0) + 1 FROM jobs)"
        connection.execute(text(f"SELECT setval(pg_get_serial_sequence('jobs', 'id'), {last}, false)"))


# ------------------------------------------------------------------- 0005: a verdict has its product's number


def _verdicts_of_products(connection: Connection) -> None:
    kind = "INTEGER" if connection.dialect.name == "sqlite" else "BIGINT"
    connection.execute(text(f"ALTER TABLE verdicts ADD COLUMN product_id {kind}"))
    of_inspection = select(inspections.c.product_id).where(inspections.c.id == verdicts.c.inspection_id)
    connection.execute(update(verdicts).values(product_id=of_inspection.scalar_subquery()))
    if connection.dialect.name == "sqlite":
        return _rebuild(connection, verdicts)
    connection.execute(text("ALTER TABLE verdicts ALTER COLUMN product_id SET NOT NULL"))
    key = "verdicts_product_id_of FOREIGN KEY (product_id) REFERENCES products (id)"
    connection.execute(text(f"ALTER TABLE verdicts ADD CONSTRAINT {key}"))
    next(index for index in verdicts.indexes if index.name == "verdicts_product").create(connection)


# ------------------------------------- 0006: the version that judges is there; files are found by their hash

PRODUCTS_0006 = """
CREATE TABLE new_products (
    id INTEGER NOT NULL,
    station_id INTEGER NOT NULL,
    name VARCHAR(64) NOT NULL,
    created_at BIGINT NOT NULL,
    active_version_id INTEGER,
    entry_id INTEGER,
    CONSTRAINT products_key PRIMARY KEY (id),
    CONSTRAINT products_station_id_once UNIQUE (station_id, name),
    CONSTRAINT products_station_id_of FOREIGN KEY(station_id) REFERENCES stations (id),
    CONSTRAINT products_active_version_id_of FOREIGN KEY(active_version_id)
        REFERENCES versions (id) ON DELETE RESTRICT
)
"""


def _active_versions_are_there(connection: Connection) -> None:
    gone = "active_version_id NOT IN (SELECT id FROM versions)"
    connection.execute(text(f"UPDATE products SET active_version_id = NULL WHERE {gone}"))
    if connection.dialect.name == "sqlite":
        columns = "id, station_id, name, created_at, active_version_id, entry_id"
        connection.execute(text("PRAGMA legacy_alter_table = ON"))  # others go on to name the table
        connection.execute(text(PRODUCTS_0006))
        connection.execute(text(f"INSERT INTO new_products ({columns}) SELECT {columns} FROM products"))
        connection.execute(text("DROP TABLE products"))
        connection.execute(text("ALTER TABLE new_products RENAME TO products"))
        connection.execute(text("PRAGMA legacy_alter_table = OFF"))
    else:
        key = "products_active_version_id_of FOREIGN KEY (active_version_id)"
        key += " REFERENCES versions (id) ON DELETE RESTRICT"
        connection.execute(text(f"ALTER TABLE products ADD CONSTRAINT {key}"))
    connection.execute(text("CREATE INDEX pictures_hash ON pictures (hash)"))
    connection.execute(
        text("CREATE INDEX IF NOT EXISTS verdicts_mask ON verdicts (mask) WHERE mask IS NOT NULL")
    )
    trials = "ON inspections (product_id, id) WHERE purpose = 'trial'"
    connection.execute(text(f"CREATE INDEX IF NOT EXISTS inspections_trial {trials}"))


# Versions of the tables in order, each with the step that migrates from the version before
STEPS: dict[str, Callable[[Connection], None]] = {
    "0002": lambda connection: None,
    "0003": _one_row_for_a_part,
    "0004": _candidates_are_jobs,
    "0005": _verdicts_of_products,
    "0006": _active_versions_are_there,
}
