"""Throughput of the line: parts a day, and defects that people found among them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import func, select

from flawscope_station.store.database import Database, now
from flawscope_station.store.records import DEFECT
from flawscope_station.store.schema import HOUR, IS_REVIEWED, hours, inspections, on_line

RECENT_DAYS = 7  # days whose parts are counted
MAX_REVIEWED = 1000  # defects that are listed
_DAY = 24 * HOUR  # microseconds


def pictures_a_day(database: Database, product_id: int) -> float | None:
    """Return a product's mean number of parts a day in the last week; None: the line ran less than a day."""
    begin_hour = now() // HOUR - RECENT_DAYS * 24
    query = select(func.coalesce(func.sum(hours.c.inspected), 0), func.min(hours.c.hour))
    query = query.where(hours.c.product_id == product_id, hours.c.hour >= begin_hour)
    with database.reading() as connection:
        part_count, first_hour = connection.execute(query).one()
    if first_hour is None:
        return None
    days = (now() - first_hour * HOUR) / _DAY
    return None if days < 1 else int(part_count) / days


class ReviewedDefect(NamedTuple):
    """Scores of a part that a person called a defect.

    Attributes:
        score: Score of the picture, or of the part's most unusual one.
        p_value: P-value of the decision.
    """

    score: float
    p_value: float


def reviewed_defects(database: Database, product_id: int, versions: Sequence[int]) -> list[ReviewedDefect]:
    """Return the scores of the latest `MAX_REVIEWED` parts that a person called defects.

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
        return [ReviewedDefect(float(score), float(p_value)) for score, p_value in connection.execute(query)]
