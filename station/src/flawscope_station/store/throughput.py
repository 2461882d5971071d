"""Throughput of the line: parts a day, and defects that people found among them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import func, select

from flawscope_station.store.database import Database, now
from flawscope_station.store.records import DEFECT
from flawscope_station.store.schema import HOUR, IS_REVIEWED, hours, inspections, on_line

RECENT_DAYS = 7  # of which the parts are counted
MAX_REVIEWED = 1000  # defects that are listed
_DAY = 24 * HOUR


def pictures_a_day(database: Database, product_id: int) -> float | None:
    """Return a product's parts a day, by the last week; None: the line has not run for a day yet."""
    begin = now() // HOUR - RECENT_DAYS * 24
    where = hours.c.product_id == product_id, hours.c.hour >= begin
    query = select(func.coalesce(func.sum(hours.c.inspected), 0), func.min(hours.c.hour)).where(*where)
    with database.reading() as connection:
        count, first = connection.execute(query).one()
    days = 0.0 if first is None else (now() - first * HOUR) / _DAY
    return None if days < 1 else int(count) / days


class ReviewedDefect(NamedTuple):
    """Scores of a part that a person called a defect.

    Attributes:
        score: Score of the picture, or of the part's most unusual one.
        p_value: p-value of the decision.
    """

    score: float
    p_value: float


def reviewed_defects(database: Database, product_id: int, versions: Sequence[int]) -> list[ReviewedDefect]:
    """Return scores of parts that a person called defects, the latest `MAX_REVIEWED`.

    Args:
        database: Database of the station.
        product_id: Number of the product.
        versions: Numbers of the versions that judged the parts.
    """
    query = (
        select(inspections.c.score, inspections.c.p_value)
        .where(on_line(product_id), IS_REVIEWED, inspections.c.verdict == DEFECT)
        .where(inspections.c.version_id.in_(versions))
        .order_by(inspections.c.id.desc())
        .limit(MAX_REVIEWED)
    )
    with database.reading() as connection:
        return [ReviewedDefect(float(score), float(p)) for score, p in connection.execute(query)]
