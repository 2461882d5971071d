"""Brings the tables of an earlier version up to date; a new data base gets those of `schema` at once.

Whoever changes `schema` adds the step that does the same to the tables of before, with the tables' next
version, to the end of `STEPS`; a test compares what the steps lead to with `schema`.
"""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations

from flawscope.station.store.schema import metadata, revision

HOUR = 3_600_000_000  # microseconds
DAY = 24 * HOUR  # counts between two records, at most
PAUSE = 21 * DAY  # beyond it a clock may have jumped, and nothing counts
GIVEN = """
SELECT products.station_id, inspections.id, inspections.at FROM inspections
JOIN products ON products.id = inspections.product_id ORDER BY products.station_id, inspections.id
"""


class UnknownVersionError(Exception):
    """The tables were made by a newer flawscope, or by one that is too old."""


def version_of(connection: sa.Connection) -> str | None:
    """Version of the tables; None where there are none."""
    if not sa.inspect(connection).has_table(revision.name):
        return None
    return connection.scalar(sa.select(revision.c.version_num))


def upgrade(connection: sa.Connection) -> None:
    """Make the tables, or bring them to this version. UnknownVersionError."""
    there = version_of(connection)
    if there is None:
        metadata.create_all(connection, checkfirst=False)
        connection.execute(revision.insert().values(version_num=HEAD))
        return
    if there not in STEPS:
        raise UnknownVersionError
    operations = Operations(MigrationContext.configure(connection))
    order = list(STEPS)
    for version in order[order.index(there) + 1 :]:
        STEPS[version](operations)
    connection.execute(sa.update(revision).values(version_num=HEAD))


def _first(op: Operations) -> None:
    """Earlier tables were never released."""


def _audit(op: Operations) -> None:
    """Tokens that expire; from which address something was done; which settings were in use."""
    op.add_column("tokens", sa.Column("expires_at", sa.BigInteger()))
    op.add_column("events", sa.Column("address", sa.String(64)))
    op.add_column("stations", sa.Column("settings", sa.Text()))


def _marks(op: Operations) -> None:
    """Records are as old as their order says, not their times, and are found in it."""
    marks = op.create_table(
        "marks",
        sa.Column("station_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=False),
        sa.Column("hour", sa.BigInteger(), autoincrement=False),
        sa.Column("age", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("inspection_id", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["station_id"], ["stations.id"], name="marks_station_id_of"),
        sa.PrimaryKeyConstraint("station_id", "hour", name="marks_key"),
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
        connection.execute(marks.insert(), list(made.values()))
    op.drop_index("inspections_search", "inspections")
    op.drop_index("inspections_product", "inspections")
    columns = ["product_id", "id", "at", "anomalous", "verdict", "review", "score", "version_id"]
    op.create_index("inspections_search", "inspections", columns)
    op.create_index("inspections_at", "inspections", ["product_id", "at"])


def _parts(op: Operations) -> None:
    """Parts have a number and a batch, a key names one request, and a frame counts its triggers."""
    name = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
    for column in ("part", "batch"):
        op.add_column("inspections", sa.Column(column, name))
        given = sa.text(f"{column} IS NOT NULL")
        op.create_index(
            f"inspections_{column}",
            "inspections",
            ["product_id", column, "id"],
            sqlite_where=given,
            postgresql_where=given,
        )
    op.add_column("inspections", sa.Column("request_hash", sa.String(64)))
    op.add_column("inspections", sa.Column("triggers", sa.Integer()))


def _sessions(op: Operations) -> None:
    """Other sites are known by what browsers say, not by a secret of each session."""
    op.drop_column("sessions", "csrf")


# Versions of the tables in their order, each with the step that leads to it from the one before
STEPS: dict[str, Callable[[Operations], None]] = {
    "0006": _first,
    "0009": _audit,
    "0008": _marks,
    "0007": _parts,
    "0010": _sessions,
}
HEAD = list(STEPS)[-1]
