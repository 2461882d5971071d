"""Records are as old as their order says, not their times, and are found in it."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0009"

HOUR = 3_600_000_000  # microseconds
key = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
DAY = 24 * HOUR  # counts between two records, at most
PAUSE = 21 * DAY  # beyond it a clock may have jumped, and nothing counts
GIVEN = """
SELECT products.station_id, inspections.id, inspections.at FROM inspections
JOIN products ON products.id = inspections.product_id ORDER BY products.station_id, inspections.id
"""


def upgrade() -> None:
    op.create_table(
        "marks",
        sa.Column("station_id", key, autoincrement=False, nullable=False),
        sa.Column("hour", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("age", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("inspection_id", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["station_id"], ["stations.id"], name=op.f("marks_station_id_of")),
        sa.PrimaryKeyConstraint("station_id", "hour", name=op.f("marks_key")),
    )
    connection = op.get_bind()
    made: dict[tuple[int, int], dict[str, int]] = {}
    station, age, before = 0, 0, 0
    for station_id, number, at in connection.execute(sa.text(GIVEN).execution_options(yield_per=10_000)):
        if station_id != station:
            station, age, before = station_id, 0, at
        passed = at - before
        age += min(passed, DAY) if 0 <= passed <= PAUSE else 0
        before = at
        place = {"station_id": station, "hour": age // HOUR}
        made[station, age // HOUR] = place | {"age": age, "at": at, "inspection_id": number}
    if made:
        marks = sa.table("marks", *map(sa.column, ("station_id", "hour", "age", "at", "inspection_id")))
        connection.execute(marks.insert(), list(made.values()))
    op.drop_index("inspections_search", "inspections")
    op.drop_index("inspections_product", "inspections")
    columns = ["product_id", "id", "at", "anomalous", "verdict", "review", "score", "version_id"]
    op.create_index("inspections_search", "inspections", columns)
    op.create_index("inspections_at", "inspections", ["product_id", "at"])
