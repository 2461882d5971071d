"""Step 3: a part in several views becomes a single inspection, that of its most unusual view.

Before, each view was an inspection, and the table `parts` joined them. The new table `views` has all views of
a part.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy import Connection, Row

revision = "0003"
down_revision = "0002"

PARTS_PER_QUERY = 500
HOUR = 3_600_000_000  # microseconds
KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")
NAME = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
# Columns that this step writes
VIEW_COLUMNS = (
    "inspection_id",
    "place",
    "product_id",
    "picture",
    "view",
    "name",
    "key",
    "score",
    "p_value",
    "severity",
    "score_threshold",
    "anomalous",
    "tolerated",
    "record",
)
COUNTS = (
    "inspected",
    "anomalous",
    "within_tolerance",
    "unanswered",
    "score_sum",
    "reviewed",
    "defects",
    "false_alarms",
    "misses",
)
INSPECTION_COLUMNS = (
    "id",
    "anomalous",
    "tolerated",
    "p_value",
    "near",
    "verdict",
    "kind",
    "review",
    "key",
    "unanswered",
    "record",
)
HourKey = tuple[int, int, int]  # product, version, hours since 1970
views = sa.table("views", *map(sa.column, VIEW_COLUMNS))
hours = sa.table("hours", *map(sa.column, ("product_id", "version_id", "hour", *COUNTS)))
inspections = sa.table("inspections", *map(sa.column, INSPECTION_COLUMNS))
verdicts = sa.table("verdicts", *map(sa.column, ("inspection_id", "key")))

TIME_SQL = {
    "sqlite": "strftime('%Y-%m-%dT%H:%M:%fZ', inspections.at / 1000000.0, 'unixepoch')",
    "postgresql": "to_timestamp(inspections.at / 1000000.0)",
}
REPORT_VIEW = """
CREATE VIEW inspection_report AS SELECT
    inspections.id AS inspection, stations.name AS station, products.name AS product, {at} AS at,
    CASE WHEN inspections.tolerated THEN 'within tolerance'
        WHEN inspections.anomalous THEN 'anomalous' ELSE 'good' END AS decision,
    inspections.score AS score, inspections.score_threshold AS threshold, inspections.p_value AS p_value,
    inspections.severity AS severity, inspections.verdict AS verdict, inspections.part AS part,
    inspections.batch AS batch, inspections.view AS view, inspections.name AS picture,
    inspections.source AS source, versions.id AS version, versions.file AS model,
    inspections.unanswered AS unanswered
FROM inspections JOIN products ON products.id = inspections.product_id
JOIN stations ON stations.id = products.station_id JOIN versions ON versions.id = inspections.version_id
WHERE inspections.purpose = 'production'
"""
INDEXES = (
    "UNIQUE INDEX inspections_by_key ON inspections (product_id, key) WHERE key IS NOT NULL",
    "INDEX inspections_reviewed ON inspections (product_id, id) WHERE verdict IS NOT NULL",
    "INDEX hours_hour ON hours (product_id, hour)",
    "INDEX events_kind ON events (product_id, kind, id)",
    "INDEX events_product ON events (product_id, id)",
)


def upgrade() -> None:
    """Make the table `views`, and merge the inspections of each part."""
    connection = op.get_bind()
    op.execute("DROP VIEW inspection_report")
    _make_views()
    _merge_parts(connection)
    op.drop_index("inspections_part_id", "inspections")
    op.drop_column("deliveries", "part_number")
    with op.batch_alter_table("inspections") as table:
        table.drop_constraint("inspections_part_id_of", type_="foreignkey")
        table.drop_constraint("inspections_product_id_once", type_="unique")
        table.drop_column("part_id")
    op.drop_table("parts")
    for index in INDEXES:
        op.execute(f"CREATE {index}")
    connection.exec_driver_sql(REPORT_VIEW.format(at=TIME_SQL[connection.dialect.name]))


def _make_views() -> None:
    """Make the table `views` and its indexes."""
    op.create_table(
        "views",
        sa.Column("inspection_id", KEY, autoincrement=False, nullable=False),
        sa.Column("place", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("product_id", KEY, nullable=False),
        sa.Column("picture", sa.String(64), nullable=False),
        sa.Column("view", NAME, nullable=False),
        sa.Column("name", NAME, nullable=False),
        sa.Column("key", sa.String(200)),
        sa.Column("score", sa.Double, nullable=False),
        sa.Column("p_value", sa.Double, nullable=False),
        sa.Column("severity", sa.Double, nullable=False),
        sa.Column("score_threshold", sa.Double, nullable=False),
        sa.Column("anomalous", sa.Boolean, nullable=False),
        sa.Column("tolerated", sa.Boolean, nullable=False),
        sa.Column("record", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("inspection_id", "place", name="views_key"),
        sa.ForeignKeyConstraint(["inspection_id"], ["inspections.id"], name="views_inspection_id_of"),
        sa.ForeignKeyConstraint(["product_id"], ["products.id"], name="views_product_id_of"),
        sa.ForeignKeyConstraint(
            ["product_id", "picture"], ["pictures.product_id", "pictures.hash"], name="views_picture_of"
        ),
    )
    op.execute("CREATE INDEX views_picture ON views (product_id, picture)")
    op.execute("CREATE INDEX views_file ON views (product_id, key) WHERE key IS NOT NULL")


def _merge_parts(connection: Connection) -> None:
    """Merge the inspections of each part's views; update the sums of hours and the facts of candidates."""
    last_part = 0
    new_numbers = dict[int, int]()  # number of a removed inspection -> number of the inspection of its part
    hour_changes = defaultdict[HourKey, Counter[str]](Counter)
    while True:
        query = sa.text("SELECT * FROM parts WHERE id > :after ORDER BY id LIMIT :count")
        parts = connection.execute(query, {"after": last_part, "count": PARTS_PER_QUERY}).all()
        if not parts:
            break
        query = sa.text(
            "SELECT inspections.*, pictures.pixels FROM inspections JOIN pictures"
            " ON pictures.product_id = inspections.product_id AND pictures.hash = inspections.picture"
            " WHERE part_id > :after AND part_id <= :last ORDER BY inspections.id"
        )
        rows_by_part: dict[int, list[Row[Any]]] = defaultdict(list)
        for row in connection.execute(query, {"after": last_part, "last": parts[-1].id}):
            rows_by_part[row.part_id].append(row)
        for part in parts:
            rows = rows_by_part[part.id]
            if rows:
                new_numbers |= _merge_part(connection, part, rows, hour_changes)
        last_part = parts[-1].id
    _update_hours(connection, hour_changes)
    if new_numbers:
        _renumber_candidates(connection, new_numbers)


def _update_hours(connection: Connection, hour_changes: Mapping[HourKey, Mapping[str, float]]) -> None:
    """Add changes to the sums of hours.

    Args:
        connection: Connection of the migration.
        hour_changes: Product, version and hour -> name of a sum -> change.
    """
    for (product_id, version_id, hour), changes in hour_changes.items():
        new_sums = {name: hours.c[name] + change for name, change in changes.items() if change}
        if not new_sums:
            continue
        is_of_version = (hours.c.product_id == product_id) & (hours.c.version_id == version_id)
        connection.execute(sa.update(hours).where(is_of_version, hours.c.hour == hour).values(new_sums))


def _renumber_candidates(connection: Connection, new_numbers: Mapping[int, int]) -> None:
    """Replace the numbers of removed inspections in the facts of candidates."""
    for row in connection.execute(sa.text("SELECT id, facts FROM candidates")).all():
        facts = json.dumps(_renumbered(json.loads(row.facts), new_numbers))
        change_facts = sa.text("UPDATE candidates SET facts = :facts WHERE id = :number")
        connection.execute(change_facts, {"facts": facts, "number": row.id})


def _merge_part(
    connection: Connection,
    part: Row[Any],
    rows: Sequence[Row[Any]],
    hour_changes: dict[HourKey, Counter[str]],
) -> dict[int, int]:
    """Merge the inspections of a part's views into the inspection of its most unusual view.

    Args:
        connection: Connection of the migration.
        part: Row of `parts`.
        rows: Inspections of the part's views.
        hour_changes: Changes of the sums of hours, to which those of this part are added.

    Returns:
        Number of each removed inspection -> number of the remaining inspection.
    """
    worst_row = next((row for row in rows if row.view == part.worst), rows[0])
    removed_numbers = [row.id for row in rows if row is not worst_row]
    verdict_row = _row_with_verdict(worst_row, rows)
    first_key = rows[0].key
    # the part's key is that of its first view, SCHEME/0:KEY, without the view's place
    part_key = first_key and first_key.replace("/0:", ":", 1)
    merged_values = {
        "anomalous": part.decision != "good",
        "tolerated": part.decision == "within tolerance",
        "p_value": worst_row.p_value if part.p_value is None else part.p_value,
        "near": worst_row.near and part.decision == "good",
        "verdict": None if verdict_row is None else verdict_row.verdict,
        "kind": None if verdict_row is None else verdict_row.kind,
        "review": _merged_review(part, rows, has_verdict=verdict_row is not None),
        "key": part_key,
        "unanswered": next((row.unanswered for row in rows if row.unanswered), None),
        "record": json.dumps(_merged_record(worst_row, rows)),
    }
    move_verdicts = sa.update(verdicts).where(verdicts.c.inspection_id.in_(removed_numbers))
    # keys are dropped: they are unique only among the verdicts of one inspection
    connection.execute(move_verdicts.values(inspection_id=worst_row.id, key=None))
    connection.execute(sa.delete(inspections).where(inspections.c.id.in_(removed_numbers)))
    connection.execute(sa.update(inspections).where(inspections.c.id == worst_row.id).values(merged_values))
    connection.execute(views.insert(), _view_rows(worst_row.id, rows))
    if worst_row.purpose == "production":
        for row in rows:
            _count(hour_changes, row, dict(row._mapping), sign=-1)
        _count(hour_changes, worst_row, {**worst_row._mapping, **merged_values}, sign=1)
    return dict.fromkeys(removed_numbers, worst_row.id)


def _view_rows(number: int, rows: Sequence[Row[Any]]) -> list[dict[str, Any]]:
    """Return the rows of `views` for the views of a part, whose inspection is `number`."""
    common_names = [name for name in VIEW_COLUMNS if name in rows[0]._fields]
    view_rows = []
    for place, row in enumerate(rows):
        view_row = {name: getattr(row, name) for name in common_names}
        view_row["inspection_id"] = number
        view_row["place"] = place
        view_row["key"] = row.key if row.source == "folder" else None  # only files keep a key of their view
        view_rows.append(view_row)
    return view_rows


def _row_with_verdict(worst_row: Row[Any], rows: Sequence[Row[Any]]) -> Row[Any] | None:
    """Return the view whose verdict becomes the part's; None: no view has a verdict.

    A defect comes first, then the verdict on the most unusual view, then any verdict.
    """
    for row in rows:
        if row.verdict == "defect":
            return row
    for row in (worst_row, *rows):
        if row.verdict:
            return row
    return None


def _merged_review(part: Row[Any], rows: Sequence[Row[Any]], *, has_verdict: bool) -> str:
    """Return how far a part is reviewed: done, waiting, skipped or none."""
    states = {row.review for row in rows}
    if has_verdict:
        return "done"
    if "waiting" in states and part.decision == "anomalous":
        return "waiting"
    return "skipped" if "skipped" in states else "none"


def _merged_record(worst_row: Row[Any], rows: Sequence[Row[Any]]) -> dict[str, Any]:
    """Return the record of the most unusual view; the results of a challenge are merged from all views."""
    record: dict[str, Any] = json.loads(worst_row.record)
    if "challenge" in record:
        view_facts = [json.loads(row.record)["challenge"] for row in rows]
        places = [facts["is_at_place"] for facts in view_facts if facts["is_at_place"] is not None]
        record["challenge"] = {
            "resemblance": min(facts["resemblance"] for facts in view_facts),
            "is_at_place": any(places) or not places,  # True if it is unknown for all views
            "is_copy": any(facts["is_copy"] for facts in view_facts),
        }
    return record


def _count(
    hour_changes: dict[HourKey, Counter[str]], inspection_row: Row[Any], columns: Mapping[str, Any], sign: int
) -> None:
    """Count an inspection in the changes of its hour's sums, or take it out of them.

    Args:
        hour_changes: Changes of the sums of hours.
        inspection_row: Inspection from which product, version and time are read.
        columns: Values of the inspection to count, by the name of the column.
        sign: 1: add; -1: subtract.
    """
    is_anomalous = bool(columns["anomalous"]) and not columns["tolerated"]
    counted_values = {
        "inspected": 1,
        "anomalous": is_anomalous,
        "within_tolerance": bool(columns["tolerated"]),
        "unanswered": columns["unanswered"] is not None,
        "score_sum": columns["score"],
        "reviewed": columns["verdict"] is not None,
        "defects": columns["verdict"] == "defect",
        "false_alarms": is_anomalous and columns["verdict"] == "good",
        "misses": not is_anomalous and columns["verdict"] == "defect",
    }
    changes_of_hour = hour_changes[
        inspection_row.product_id, inspection_row.version_id, inspection_row.at // HOUR
    ]
    for name, value in counted_values.items():
        changes_of_hour[name] += sign * value


def _renumbered(facts: object, new_numbers: Mapping[int, int]) -> object:
    """Return the facts of a candidate with new numbers of inspections.

    The integers in lists and the values of `id` in dictionaries are numbers of inspections.
    """
    if isinstance(facts, list):
        return [
            new_numbers.get(item, item) if isinstance(item, int) else _renumbered(item, new_numbers)
            for item in facts
        ]
    if isinstance(facts, dict):
        return {
            name: new_numbers.get(value, value) if name == "id" else _renumbered(value, new_numbers)
            for name, value in facts.items()
        }
    return facts
