"""Migration of the tables to this version.

Whoever changes `schema` adds a step with the tables' next version to the end of `STEPS`; a test compares the
migrated tables with `schema`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlalchemy import Column, Connection, inspect, select, text, update
from sqlalchemy.schema import CreateColumn

from flawscope_station.store.schema import HOUR, REPORT_VIEW, create_view_sql, marks, metadata, revision

Step = Callable[[Connection], None]
DAY = 24 * HOUR  # of a pause that counts, at most
LONGEST_PAUSE = 21 * DAY  # a longer pause looks like a wrong clock, and does not count
_INSPECTIONS_IN_ORDER = text("""
SELECT products.station_id, inspections.id, inspections.at FROM inspections
JOIN products ON products.id = inspections.product_id ORDER BY products.station_id, inspections.id
""").execution_options(yield_per=10_000)


class UnknownVersionError(Exception):
    """The tables were made by a newer flawscope, or by one that is too old."""


class SeveralStationsError(Exception):
    """The tables have the records of several stations, as those of earlier versions could.

    Attributes:
        names: of the stations.
    """

    def __init__(self, names: Sequence[str]):
        super().__init__()
        self.names = names


def is_current(connection: Connection) -> bool:
    """Whether the tables are there and of this version."""
    return _version(connection) == HEAD


def migrate(connection: Connection) -> None:
    """Make the tables, or migrate them to this version.

    Raises:
        UnknownVersionError, SeveralStationsError: nothing has changed.
    """
    current = _version(connection)
    if current is None:
        metadata.create_all(connection, checkfirst=False)
        _create_report_view(connection)
        connection.execute(revision.insert().values(version_num=HEAD))
        return
    if current not in STEPS:
        raise UnknownVersionError
    if len(names := _stations_with_records(connection)) > 1:
        raise SeveralStationsError(names)
    order = list(STEPS)
    for version in order[order.index(current) + 1 :]:
        STEPS[version](connection)
    connection.execute(update(revision).values(version_num=HEAD))


def _version(connection: Connection) -> str | None:
    """Version of the tables; None where there are none."""
    if not inspect(connection).has_table(revision.name):
        return None
    return connection.scalar(select(revision.c.version_num))


def _add_step(indexes: str = "", *, tables: str = "", **columns: str) -> Step:
    """Step that adds tables, columns by table, and indexes as the schema has them."""

    def step(connection: Connection) -> None:
        for table in tables.split():
            metadata.tables[table].create(connection)
        for table, names in columns.items():
            for name in names.split():
                _add_column(connection, metadata.tables[table].c[name])
        every = {str(index.name): index for table in metadata.tables.values() for index in table.indexes}
        for name in indexes.split():
            every[name].create(connection)

    return step


def _add_column(connection: Connection, column: Column[object]) -> None:
    made = str(CreateColumn(column).compile(dialect=connection.dialect))
    for key in column.foreign_keys:
        made += f" CONSTRAINT {column.table.name}_{column.name}_of REFERENCES {key.column.table.name} (id)"
    connection.execute(text(f"ALTER TABLE {column.table.name} ADD COLUMN {made}"))


def _add_marks(connection: Connection) -> None:
    """Add marks, which date records by their order, not by their times; index inspections in that order."""
    marks.create(connection)
    made: dict[tuple[int, int], dict[str, int]] = {}
    station, age, before = 0, 0, 0
    for station_id, number, at in connection.execute(_INSPECTIONS_IN_ORDER):
        if station_id != station:
            station, age, before = station_id, 0, at
        passed = at - before
        age += min(passed, DAY) if 0 <= passed <= LONGEST_PAUSE else 0
        before = at
        place = {"station_id": station, "hour": age // HOUR}
        made[station, age // HOUR] = place | {"age": age, "at": at, "inspection_id": number}
    if made:
        connection.execute(marks.insert(), list(made.values()))
    connection.execute(text("DROP INDEX inspections_product"))
    _add_step("inspections_at")(connection)


def _drop_csrf(connection: Connection) -> None:
    """Drop the secrets of sessions: browsers say themselves when another site sends a request."""
    connection.execute(text("ALTER TABLE sessions DROP COLUMN csrf"))


def _keep_one_station(connection: Connection) -> None:
    """Remove stations without records, and the address at which a station was found from others."""
    for table, column in (("marks", "station_id"), ("stations", "id")):
        connection.execute(
            text(f"DELETE FROM {table} WHERE {column} NOT IN (SELECT station_id FROM products)")
        )
    connection.execute(text("ALTER TABLE stations DROP COLUMN address"))


def _stations_with_records(connection: Connection) -> list[str]:
    query = text("SELECT name FROM stations WHERE id IN (SELECT station_id FROM products) ORDER BY name")
    return list(connection.execute(query).scalars())


def _create_report_view(connection: Connection) -> None:
    """Make the view for other programs, or make it anew."""
    if connection.dialect.name == "sqlite":
        connection.execute(text(f"DROP VIEW IF EXISTS {REPORT_VIEW}"))
    connection.execute(text(create_view_sql(connection.dialect.name)))


def _add_tolerances(connection: Connection) -> None:
    """Add the decision `within tolerance`, also to the index of a search; a later step makes the view."""
    connection.execute(text("DROP INDEX IF EXISTS inspections_search"))
    columns = {"inspections": "tolerated tolerances", "hours": "within_tolerance"}
    _add_step("inspections_search", **columns)(connection)


def _add_unanswered(connection: Connection) -> None:
    """Add why a part's sender got no answer, also to the view."""
    _add_step(inspections="unanswered", hours="unanswered")(connection)
    _create_report_view(connection)


# Versions of the tables in order, each with the step that migrates from the version before
STEPS: dict[str, Step] = {
    "0006": _add_step(),  # earlier tables were never released
    "0009": _add_step(tokens="expires_at", events="address", stations="settings"),  # for the audit
    "0008": _add_marks,
    "0007": _add_step("inspections_part inspections_batch", inspections="part batch request_hash triggers"),
    "0010": _drop_csrf,
    "0011": _add_step(
        "inspections_part_id", tables="parts", inspections="view part_id", deliveries="part_number"
    ),
    "0012": _add_step(products="entry_id", inspections="shows product_p_value part_found"),
    "0013": _add_step(inspections="part_pose"),
    "0014": _add_step(inspections="found_parts"),
    "0015": _add_step(),  # made a view, which a later step makes
    "0016": _add_step(products="made"),
    "0017": _add_step("users_subject", users="subject"),
    "0018": _add_step(stations="made"),
    "0019": _add_step("pictures_there learnt_pixels_pixels", tables="removed_files", pictures="pixels"),
    "0020": _keep_one_station,  # from here on a data base has one station
    "0021": _add_step(inspections="findings"),
    "0022": _add_step(tables="challenge_parts challenges challenge_results"),
    "0023": _add_step(inspections="kind", verdicts="kind"),
    "0024": _add_tolerances,
    "0025": _add_unanswered,
}
HEAD = list(STEPS)[-1]
