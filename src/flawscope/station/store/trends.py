"""Scores over time: single inspections where they are few, else minutes, hours or days."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import ColumnElement, Connection, case, func, select

from flawscope.station.store.database import Database, now
from flawscope.station.store.records import DEFECT, GOOD, iso
from flawscope.station.store.schema import HOUR, hours, inspections, versions

MOST_POINTS = 2000  # inspections that are shown one by one
BY_MINUTES = 3 * HOUR  # up to here minutes are counted, beyond it there are the hours
BY_HOURS = 15 * 24 * HOUR
MINUTE = HOUR // 60
_SUMS = ("inspected", "anomalous", "reviewed", "defects", "false_alarms", "misses")


def trends(
    database: Database, product_id: int, since: int | None = None, until: int | None = None
) -> dict[str, Any]:
    """What happened between two times, in microseconds since 1970; None: from the beginning, until now.

    Returns:
        unit: inspection, minute, hour or day. points: of inspections [seconds, score, anomalous 0 or 1,
        verdict, id]. buckets: of longer units [seconds, inspected, anomalous, lowest, mean and highest score,
        false alarms, misses]. totals; versions with their thresholds. Beyond three hours, hours are whole at
        both ends.
    """
    until = now() if until is None else until
    with database.reading() as connection:
        begun = connection.execute(
            select(func.min(hours.c.hour)).where(hours.c.product_id == product_id)
        ).scalar_one()
        first = until if begun is None else max(int(begun) * HOUR, since or 0)
        span = until - first
        if span > BY_MINUTES:
            first, until = first // HOUR * HOUR, -(-until // HOUR) * HOUR
            totals = _totals(connection, product_id, first, until)
        else:
            totals = _exact_totals(connection, product_id, first, until)
        answer: dict[str, Any] = {"points": [], "buckets": []}
        if totals["inspections"] <= MOST_POINTS:
            answer |= {"unit": "inspection", "points": _points(connection, product_id, first, until)}
        elif span <= BY_MINUTES:
            answer |= {"unit": "minute", "buckets": _minutes(connection, product_id, first, until)}
        else:
            unit = "hour" if span <= BY_HOURS else "day"
            length = 1 if unit == "hour" else 24
            answer |= {"unit": unit, "buckets": _hours(connection, product_id, first, until, length)}
        answer["totals"] = totals
        answer["versions"] = _versions(connection, product_id)
    thresholds = {version["threshold"] for version in answer["versions"]}
    answer["threshold"] = thresholds.pop() if len(thresholds) == 1 else None
    return answer


def _within(product_id: int, first: int, until: int) -> tuple[Any, ...]:
    return hours.c.product_id == product_id, hours.c.hour >= first // HOUR, hours.c.hour * HOUR < until


def _totals(connection: Connection, product_id: int, first: int, until: int) -> dict[str, int]:
    sums = [func.coalesce(func.sum(hours.c[name]), 0).label(name) for name in _SUMS]
    row = connection.execute(select(*sums).where(*_within(product_id, first, until))).one()
    found = {name: int(value) for name, value in row._mapping.items()}
    return {"inspections": found.pop("inspected"), **found}


def _points(connection: Connection, product_id: int, first: int, until: int) -> list[list[Any]]:
    column = inspections.c
    query = (
        select(column.at, column.score, column.anomalous, column.verdict, column.id)
        .where(column.product_id == product_id, column.at >= first, column.at < until)
        .order_by(column.at.desc(), column.id.desc())
        .limit(MOST_POINTS)
    )
    rows = connection.execute(query).all()
    return [
        [at / 1e6, score, int(bad), verdict, number] for at, score, bad, verdict, number in reversed(rows)
    ]


def _exact_totals(connection: Connection, product_id: int, first: int, until: int) -> dict[str, int]:
    column = inspections.c
    sums = {
        "inspections": func.count(),
        "anomalous": _number_of(column.anomalous),
        "reviewed": _number_of(column.verdict.is_not(None)),
        "defects": _number_of(column.verdict == DEFECT),
        "false_alarms": _number_of(column.anomalous & (column.verdict == GOOD)),
        "misses": _number_of(~column.anomalous & (column.verdict == DEFECT)),
    }
    query = select(*(value.label(name) for name, value in sums.items())).where(
        column.product_id == product_id, column.at >= first, column.at < until
    )
    row = connection.execute(query).one()
    return {name: int(value) for name, value in row._mapping.items()}


def _number_of(condition: ColumnElement[bool]) -> ColumnElement[int]:
    """How many rows it holds for."""
    return func.coalesce(func.sum(case((condition, 1), else_=0)), 0)


def _minutes(connection: Connection, product_id: int, first: int, until: int) -> list[list[Any]]:
    column = inspections.c
    unit = column.at.op("/")(MINUTE)  # of whole numbers, as both data bases divide them
    query = (
        select(
            unit.label("unit"),
            func.count(),
            _number_of(column.anomalous),
            func.min(column.score),
            func.avg(column.score),
            func.max(column.score),
            _number_of(column.anomalous & (column.verdict == GOOD)),
            _number_of(~column.anomalous & (column.verdict == DEFECT)),
        )
        .where(column.product_id == product_id, column.at >= first, column.at < until)
        .group_by("unit")
        .order_by("unit")
    )
    return [[row[0] * MINUTE / 1e6, *_plain(row[1:])] for row in connection.execute(query)]


def _hours(connection: Connection, product_id: int, first: int, until: int, length: int) -> list[list[Any]]:
    unit = hours.c.hour.op("/")(length)
    query = (
        select(
            unit.label("unit"),
            func.sum(hours.c.inspected),
            func.sum(hours.c.anomalous),
            func.min(hours.c.score_min),
            func.sum(hours.c.score_sum) / func.sum(hours.c.inspected),
            func.max(hours.c.score_max),
            func.sum(hours.c.false_alarms),
            func.sum(hours.c.misses),
        )
        .where(*_within(product_id, first, until))
        .group_by("unit")
        .order_by("unit")
    )
    return [[row[0] * length * HOUR / 1e6, *_plain(row[1:])] for row in connection.execute(query)]


def _plain(row: Any) -> list[float | int]:
    count, anomalous, low, mean, high, alarms, misses = row
    return [int(count), int(anomalous), float(low), float(mean), float(high), int(alarms), int(misses)]


def _versions(connection: Connection, product_id: int) -> list[dict[str, Any]]:
    """Those that have judged something, with the threshold and since when."""
    query = (
        select(versions.c.id, versions.c.facts, func.min(hours.c.hour))
        .join_from(versions, hours, hours.c.version_id == versions.c.id)
        .where(versions.c.product_id == product_id)
        .group_by(versions.c.id, versions.c.facts)
        .order_by(versions.c.id)
    )
    return [
        {"id": number, "threshold": json.loads(facts)["score_threshold"], "since": iso(int(hour) * HOUR)}
        for number, facts, hour in connection.execute(query)
    ]
