"""Summary of a product's inspections between two times: counts, the worst pictures, where regions lie."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, func, select

from flawscope.station.store.database import Database
from flawscope.station.store.records import GOOD
from flawscope.station.store.schema import HOUR, inspections, pictures
from flawscope.station.store.search import SUMS, each

MOST_WORST, MOST_MAPPED = 6, 5000  # pictures that are shown; anomalous ones whose regions are counted
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Summary:
    """Inspections between two times.

    counts: by the names of `SUMS`. hours: the same of each hour, with its beginning as `at`, microseconds
    since 1970. versions: numbers of those that judged. worst: numbers of the anomalous inspections that are
    farthest above the threshold, without those that a person called good. good: number of one of a good part.
    boxes: x0 y0 x1 y1 of the regions of anomalous ones, as shares of the picture's sides.
    """

    counts: dict[str, int]
    hours: list[dict[str, int]]
    versions: list[int]
    worst: list[int]
    good: int | None
    boxes: list[Box]


def summary(database: Database, product_id: int, since: int, until: int) -> Summary:
    """Sum up what was inspected from `since` to below `until`, microseconds since 1970. StoreError."""
    column = inspections.c
    within = (column.product_id == product_id, column.at >= since, column.at < until)
    with_picture = (pictures.c.product_id == column.product_id) & (pictures.c.hash == column.picture)
    there = pictures.c.removed_at.is_(None)
    confirmed = column.anomalous & (column.verdict.is_(None) | (column.verdict != GOOD))

    def shown(*columns: Any) -> Select[Any]:
        return select(*columns).join_from(inspections, pictures, with_picture).where(*within)

    counted = each(product_id).where(column.at >= since, column.at < until).subquery()
    hour = counted.c.at.op("/")(HOUR).label("hour")  # integer division in SQLite and PostgreSQL
    sums = [func.sum(counted.c[name]) for name in SUMS]
    with database.reading() as connection:
        by_hour = [
            dict(zip(("at", *SUMS), (int(at) * HOUR, *map(int, row)), strict=True))
            for at, *row in connection.execute(select(hour, *sums).group_by("hour").order_by("hour"))
        ]
        judged = select(column.version_id).where(*within).distinct().order_by(column.version_id)
        versions = [int(one) for one in connection.scalars(judged)]
        worst = shown(column.id).where(there, confirmed).order_by(column.severity.desc(), column.id.desc())
        good = shown(column.id).where(there, ~column.anomalous).order_by(column.id.desc())
        marked = shown(column.regions, pictures.c.width, pictures.c.height).where(confirmed)
        rows = connection.execute(marked.order_by(column.id.desc()).limit(MOST_MAPPED)).all()
        boxes = [
            (x0 / width, y0 / height, x1 / width, y1 / height)
            for regions, width, height in rows
            for x0, y0, x1, y1 in (region["box"] for region in json.loads(regions))
        ]
        numbers = [int(one) for one in connection.scalars(worst.limit(MOST_WORST))]
        example = connection.scalar(good.limit(1))
    totals = {name: sum(one[name] for one in by_hour) for name in SUMS}
    return Summary(totals, by_hour, versions, numbers, example, boxes)
