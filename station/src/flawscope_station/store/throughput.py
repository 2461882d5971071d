"""Throughput of the line: parts a day, and defects that people found among them."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import func, select

from flawscope_station.store.database import Database, now
from flawscope_station.store.records import DEFECT
from flawscope_station.store.schema import HOUR, IS_REVIEWED, hours, inspections, on_line

RECENT_DAYS = 7  # of which the parts are counted
MAX_REVIEWED = 1000  # defects that are listed
_DAY = 24 * HOUR


def pictures_a_day(database: Database, product_id: int) -> float | None:
    """Return how many parts of a product the line brings a day, by the last week; None: it has not run for a
    day yet."""
    begin = now() // HOUR - RECENT_DAYS * 24
    where = hours.c.product_id == product_id, hours.c.hour >= begin
    query = select(func.coalesce(func.sum(hours.c.inspected), 0), func.min(hours.c.hour)).where(*where)
    with database.reading() as connection:
        count, first = connection.execute(query).one()
    days = 0.0 if first is None else (now() - first * HOUR) / _DAY
    return None if days < 1 else int(count) / days


def reviewed_defects(database: Database, product_id: int, versions: Sequence[int]) -> list[float]:
    """Return the scores that versions gave to pictures which a person called defects, the latest
    `MAX_REVIEWED`."""
    query = (
        select(inspections.c.score)
        .where(on_line(product_id), IS_REVIEWED, inspections.c.verdict == DEFECT)
        .where(inspections.c.version_id.in_(versions))
        .order_by(inspections.c.id.desc())
        .limit(MAX_REVIEWED)
    )
    with database.reading() as connection:
        return [float(score) for score in connection.scalars(query)]
