"""Step 3: a part in several views is a single inspection, that of its most unusual view.

The new table `views` has all its views.
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
# rows of the tables as they are here, beside what `SELECT *` reads
VIEW_COLUMNS = (
    *("inspection_id", "place", "product_id", "picture", "view", "name", "key", "score", "p_value"),
    *("severity", "score_threshold", "anomalous", "tolerated", "record"),
)
COUNTS = (
    *("inspected", "anomalous", "within_tolerance", "unanswered", "score_sum", "reviewed", "defects"),
    *("false_alarms", "misses"),
)
INSPECTION_COLUMNS = (
    *("id", "anomalous", "tolerated", "p_value", "near", "verdict", "kind", "review", "key", "unanswered"),
    "record",
)
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
    """Merge the inspections of each part's views, also in the sums of the hours and in candidates."""
    first = 0
    merged = dict[int, int]()
    counts = defaultdict[tuple[int, int, int], Counter[str]](Counter)
    while True:
        query = sa.text("SELECT * FROM parts WHERE id > :first ORDER BY id LIMIT :count")
        parts = connection.execute(query, {"first": first, "count": PARTS_PER_QUERY}).all()
        if not parts:
            break
        query = sa.text(
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
        changes = {name: hours.c[name] + count for name, count in change.items() if count}
        place = hours.c.product_id == product_id, hours.c.version_id == version_id, hours.c.hour == hour
        if changes:
            connection.execute(sa.update(hours).where(*place).values(changes))
    if not merged:
        return
    for row in connection.execute(sa.text("SELECT id, facts FROM candidates")).all():
        facts = json.dumps(_renumbered(json.loads(row.facts), merged))
        change_facts = sa.text("UPDATE candidates SET facts = :facts WHERE id = :number")
        connection.execute(change_facts, {"facts": facts, "number": row.id})


def _merge_part(
    connection: Connection,
    part: Row[Any],
    rows: Sequence[Row[Any]],
    counts: dict[tuple[int, int, int], Counter[str]],
) -> dict[int, int]:
    """Merge the inspections of a part's views.

    Args:
        connection: Connection of the migration.
        part: Row of `parts`.
        rows: Inspections of the part's views.
        counts: Gets the changes of the sums of the hours.

    Returns:
        The number of the kept inspection, by each number that it replaces.
    """
    shown = next((row for row in rows if row.view == part.worst), rows[0])
    others = [row.id for row in rows if row is not shown]
    same = [column for column in VIEW_COLUMNS if column in rows[0]._fields]
    columns = [
        {name: getattr(row, name) for name in same}
        | {"inspection_id": shown.id, "place": place, "key": row.key if row.source == "folder" else None}
        for place, row in enumerate(rows)
    ]
    # the view whose verdict holds: a defect first, then the worst view's, then any
    said = next((row for row in rows if row.verdict == "defect"), None)
    said = said or (shown if shown.verdict else next((row for row in rows if row.verdict), None))
    states = {row.review for row in rows}
    if said is not None:
        review = "done"
    elif "waiting" in states and part.decision == "anomalous":
        review = "waiting"
    else:
        review = "skipped" if "skipped" in states else "none"
    values = {
        "anomalous": part.decision != "good",
        "tolerated": part.decision == "within tolerance",
        "p_value": shown.p_value if part.p_value is None else part.p_value,
        "near": shown.near and part.decision == "good",
        "verdict": None if said is None else said.verdict,
        "kind": None if said is None else said.kind,
        "review": review,
        "key": rows[0].key and rows[0].key.replace("/0:", ":", 1),
        "unanswered": next((row.unanswered for row in rows if row.unanswered), None),
        "record": json.dumps(_merged_record(shown, rows)),
    }
    of_others = sa.update(verdicts).where(verdicts.c.inspection_id.in_(others))
    connection.execute(of_others.values(inspection_id=shown.id, key=None))
    connection.execute(sa.delete(inspections).where(inspections.c.id.in_(others)))
    connection.execute(sa.update(inspections).where(inspections.c.id == shown.id).values(values))
    connection.execute(views.insert(), columns)
    if shown.purpose == "production":
        for row in rows:
            _count(counts, row, dict(row._mapping), -1)
        _count(counts, shown, {**shown._mapping, **values}, 1)
    return dict.fromkeys(others, shown.id)


def _merged_record(shown: Row[Any], rows: Sequence[Row[Any]]) -> dict[str, Any]:
    """Return the record of the most unusual view; of a challenge part with the findings of all its views."""
    record: dict[str, Any] = json.loads(shown.record)
    if "challenge" in record:
        facts = [json.loads(row.record)["challenge"] for row in rows]
        at_place = [place["is_at_place"] for place in facts if place["is_at_place"] is not None]
        record["challenge"] = {
            "resemblance": min(place["resemblance"] for place in facts),
            "is_at_place": any(at_place) or not at_place,
            "is_copy": any(place["is_copy"] for place in facts),
        }
    return record


def _count(
    counts: dict[tuple[int, int, int], Counter[str]], place: Row[Any], row: Mapping[str, Any], sign: int
) -> None:
    """Add an inspection to its hour (sign 1), or take it away (sign -1)."""
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


def _renumbered(facts: object, numbers: Mapping[int, int]) -> object:
    """Return facts of a candidate with the present numbers of its inspections."""
    if isinstance(facts, list):
        return [
            numbers.get(fact, fact) if isinstance(fact, int) else _renumbered(fact, numbers) for fact in facts
        ]
    if isinstance(facts, dict):
        return {
            name: numbers.get(fact, fact) if name == "id" else _renumbered(fact, numbers)
            for name, fact in facts.items()
        }
    return facts
