"""Search of inspections, page by page; scores over time; summaries of a period, such as a shift."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, tzinfo
from typing import Annotated, Any, Literal, NamedTuple, TypedDict

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, create_model
from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    Subquery,
    case,
    func,
    literal_column,
    select,
    true,
)

from flawscope.errors import InputError
from flawscope_station.settings.values import CONFIG, read_as
from flawscope_station.store.database import Database, now
from flawscope_station.store.filters import BY_NAME, FILTERS, TEXTS, Filter, Kind
from flawscope_station.store.inspection import PADDING, InspectionFacts, label_text
from flawscope_station.store.kinds import KindCounts, count_kinds
from flawscope_station.store.local_days import DAY, date_of, local_day, midnight
from flawscope_station.store.records import (
    DEFECT,
    GOOD,
    describe_inspections,
    inspection_query,
    iso,
    parse_time,
    valid_id_or_zero,
)
from flawscope_station.store.schema import (
    HOUR,
    NOT_INSPECTED_EVENTS,
    events,
    hours,
    inspections,
    on_line,
    pictures,
    versions,
)

MAX_PAGE_SIZE = 500  # inspections of a page
MAX_SORTED_MATCHES = 2000  # with more matches, a search walks through all inspections instead of sorting
Value = int | float | str  # value of a filter


def _parse_moment(value: object) -> object:
    """Return the time in a text as microseconds since 1970; return a value of another type unchanged."""
    return parse_time(value) if isinstance(value, str) else value


def _check_name_text(text: str) -> str:
    """Return a text unchanged; raise InputError if it has a zero byte, which no name has."""
    if "\0" in text:
        raise InputError("it holds a character that no name has")
    return text


def _check_cursor(text: str) -> str:
    """Return a cursor unchanged; raise InputError if it is invalid.

    The cursor is checked here because an export decodes it too late: its answer has begun by then.
    """
    decode_cursor(text)
    return text


Moment = Annotated[int, BeforeValidator(_parse_moment)]
Number = Annotated[int, Field(ge=0, lt=2**63)]
NameText = Annotated[str, AfterValidator(_check_name_text)]
LabelText = Annotated[str, AfterValidator(label_text)]
_TYPES: dict[Kind, object] = {
    "since": Moment,
    "until": Moment,
    "least": float,
    "most": float,
    "number": Number,
    "text": NameText,
    "label": LabelText,
}


def _value_type(filter_: Filter) -> object:
    """Return the type of a filter's value, as pydantic reads it."""
    if filter_.kind == "choice":
        return Literal.__getitem__(filter_.words)  # one of these words
    return _TYPES[filter_.kind]


class _Page(BaseModel):
    """Parameters of a search's query that choose the page; `_Query` adds those of `FILTERS`."""

    model_config = CONFIG
    cursor: Annotated[str, AfterValidator(_check_cursor)] | None = None
    limit: Annotated[int, Field(ge=1, le=MAX_PAGE_SIZE)] = 50


_filter_fields: dict[str, Any] = {filter_.name: (_value_type(filter_), None) for filter_ in FILTERS}
_Query = create_model("_Query", __base__=_Page, **_filter_fields)


@dataclass(frozen=True)
class Filters:
    """Values of a search's filters, and the page of its results.

    Attributes:
        values: Values by the names of `FILTERS`. A text that ends with a star stands for all texts with this
            beginning, as A12*. Times are microseconds since 1970.
        cursor: Value of `next` on the page before; None: the first page.
        limit: Largest number of inspections on the page.
    """

    values: Mapping[str, Value] = field(default_factory=dict)
    cursor: str | None = None
    limit: int = 50

    @classmethod
    def from_query(cls, query: Mapping[str, str]) -> Filters:
        """Return the filters in a URL's query; empty values and unknown names are ignored.

        Raises:
            InputError: a value is invalid.
        """
        text_by_name = {name: query.get(name, "").strip(PADDING) for name in _Query.model_fields}
        parsed = read_as(_Query, {name: text for name, text in text_by_name.items() if text}, home=None)
        value_by_name: dict[str, Value] = {}
        for name in BY_NAME:
            value = getattr(parsed, name)
            if value is not None:
                value_by_name[name] = value
        return cls(value_by_name, parsed.cursor, parsed.limit)


@dataclass(frozen=True)
class InspectionPage:
    """Page of inspections that a search found, the newest first."""

    inspections: list[InspectionFacts]
    next: str | None  # cursor of the next page


def search(database: Database, product_id: int, filters: Filters) -> InspectionPage:
    """Return a page of the inspections that match, as the API shows them, the newest first.

    Args:
        database: Database of the station.
        product_id: Number of the product.
        filters: Values of the filters, and the page.

    Raises:
        InputError: the cursor is invalid.
        StoreError: the database cannot be used.
    """
    with database.reading() as connection:
        query = _build_query(connection, product_id, filters)
        rows = connection.execute(query.limit(filters.limit + 1)).all()
        page_rows = rows[: filters.limit]
        page_inspections = describe_inspections(connection, page_rows)
    has_next_page = len(rows) > filters.limit
    next_cursor = encode_cursor(page_rows[-1].id) if has_next_page else None
    return InspectionPage(page_inspections, next_cursor)


def iterate_pages(database: Database, product_id: int, filters: Filters) -> Iterator[list[InspectionFacts]]:
    """Yield all inspections that match, in lists of `MAX_PAGE_SIZE` at most; `filters.limit` is ignored."""
    cursor: str | None = filters.cursor
    while True:
        page = search(database, product_id, replace(filters, cursor=cursor, limit=MAX_PAGE_SIZE))
        yield page.inspections
        cursor = page.next
        if cursor is None:
            return


def _has_many_matches(connection: Connection, product_id: int, conditions: list[ColumnElement[bool]]) -> bool:
    """Return whether at least `MAX_SORTED_MATCHES` inspections meet all conditions; PostgreSQL: always False.

    With so many matches, walking through all inspections in order is faster than sorting the matches. SQLite
    cannot estimate their number: they are counted here. PostgreSQL estimates it, and decides by itself.
    """
    if not conditions or connection.dialect.name != "sqlite":
        return False
    matches = select(inspections.c.id).where(inspections.c.product_id == product_id, *conditions)
    first_matches = matches.limit(MAX_SORTED_MATCHES).subquery()
    count = connection.execute(select(func.count()).select_from(first_matches)).scalar_one()
    return int(count) == MAX_SORTED_MATCHES


def _build_query(connection: Connection, product_id: int, filters: Filters) -> Select[Any]:
    """Build the query of a search, the newest inspections first.

    SQLite may find times and beginnings of texts by an index, but must then sort the matches. If there are
    too many, the query keeps SQLite from using the index.
    """
    default_by_name = {filter_.name: filter_.default for filter_ in FILTERS if filter_.default}
    value_by_name = {**default_by_name, **filters.values}
    beginning_names = [
        name
        for name, value in value_by_name.items()
        if BY_NAME[name].kind in TEXTS and str(value).endswith("*")
    ]
    time_names = [name for name in value_by_name if BY_NAME[name].kind in ("since", "until")]
    names_without_index: set[str] = set()
    for names in (beginning_names, time_names):
        indexed_conditions = [condition(BY_NAME[name], value_by_name[name]) for name in names]
        if _has_many_matches(connection, product_id, indexed_conditions):
            names_without_index.update(names)
    conditions = [
        condition(BY_NAME[name], value, avoids_index=name in names_without_index)
        for name, value in value_by_name.items()
    ]
    if filters.cursor is not None:
        conditions.append(inspections.c.id < decode_cursor(filters.cursor))
    query = inspection_query().where(inspections.c.product_id == product_id, *conditions)
    return query.order_by(inspections.c.id.desc())


def condition(filter_: Filter, value: Value, avoids_index: bool = False) -> ColumnElement[bool]:
    """Return the condition of a filter with a value.

    Args:
        filter_: Filter.
        value: Value to compare with.
        avoids_index: Whether SQLite must walk through all inspections instead of using an index.
    """
    if filter_.kind == "choice":
        return next(choice.condition for choice in filter_.choices if choice.word == value)
    column: ColumnElement[Any] = filter_.column
    if avoids_index:  # SQLite uses no index for an expression with a plus
        column = literal_column(f"+inspections.{filter_.column.name}", filter_.column.type)
    if filter_.kind in TEXTS:
        return _text_condition(column, str(value))
    if filter_.kind in ("since", "least"):
        return column >= value
    if filter_.kind == "until":
        return column < value
    if filter_.kind == "most":
        return column <= value
    return column == value


def _text_condition(column: ColumnElement[Any], text: str) -> ColumnElement[bool]:
    """Return the condition that a column equals a text, or, for BEGINNING*, that it begins with BEGINNING."""
    if not text.endswith("*"):
        return column == text
    prefix = text.rstrip("*")
    end = _prefix_end(prefix)
    if end is None:
        return column >= prefix
    return (column >= prefix) & (column < end)


def _prefix_end(prefix: str) -> str | None:
    """Return the first text, in the order of code points, after all texts that begin with `prefix`.

    If the prefix is empty, or consists of nothing but the last code point, U+10FFFF, there is no such text:
    the result is None.
    """
    incrementable = prefix.rstrip("\U0010ffff")
    if not incrementable:
        return None
    next_code = ord(incrementable[-1]) + 1
    if next_code == 0xD800:  # U+D800 to U+DFFF are surrogates, which no text has
        next_code = 0xE000
    return incrementable[:-1] + chr(next_code)


def encode_cursor(number: int) -> str:
    """Return the cursor of the page after the inspection with this number."""
    return base64.urlsafe_b64encode(f"{number}".encode()).decode().rstrip("=")


def decode_cursor(cursor: str) -> int:
    """Return the number in a cursor.

    Raises:
        InputError: the cursor is invalid.
    """
    padding = "=" * (-len(cursor) % 4)  # base64 needs a multiple of 4 characters
    try:
        number = int(base64.urlsafe_b64decode(cursor + padding).decode("ascii"))
        is_valid = valid_id_or_zero(number) == number
        if not is_valid:
            raise ValueError
        return number
    except ValueError:  # `b64decode` raises its subclass `binascii.Error`
        raise InputError(f"cursor {cursor:.40} is none: take `next` of the page before") from None


# ------------------------------------------------------------------------------------------- scores over time

MAX_POINTS = 2000  # inspections that are shown one by one; more are shown in buckets
MAX_MINUTE_SPAN = 3 * HOUR  # longest period in minutes, from `inspections`; longer ones are read from `hours`
MAX_HOUR_SPAN = 15 * DAY  # longest period in hours; longer ones are in days
COUNT_NAMES = (
    "inspected",
    "anomalous",
    "reviewed",
    "defects",
    "false_alarms",
    "misses",
    "within_tolerance",
    "unanswered",
)


# an inspection: seconds since 1970, score, class (0 good, 1 anomalous, 2 within tolerance), verdict, id
Point = list[float | str | None]
# a time: seconds since 1970, inspected, anomalous, lowest, mean and highest score, false alarms, misses,
# within tolerance
Bucket = list[float | int]


class JudgingVersion(TypedDict):
    """Version that has judged.

    Attributes:
        id: Number of the version.
        threshold: Threshold of its scores.
        spread: Spread of its scores, for severities; None: it was not recorded when the version was added.
        since: Beginning of the first hour in which the version judged.
    """

    id: int
    threshold: float
    spread: float | None
    since: str


class Trends(TypedDict):
    """Scores and counts between two times, as `trends` returns them."""

    unit: str
    points: list[Point]
    buckets: list[Bucket]
    days: list[str]
    totals: dict[str, int]
    versions: list[JudgingVersion]
    threshold: float | None


class TrendPeriod(NamedTuple):
    """Period of trends.

    Attributes:
        unit: Unit of time of a bucket: minute, hour or day.
        length: Length of the unit, microseconds.
        first: Begin, microseconds since 1970.
        until: End, microseconds since 1970.
        counts: Query of rows with a time and the columns `COUNT_NAMES`.
    """

    unit: str
    length: int
    first: int
    until: int
    counts: Select[tuple[object, ...]]


def trends(
    database: Database,
    product_id: int,
    since: int | None = None,
    until: int | None = None,
    zone: tzinfo | None = UTC,
) -> Trends:
    """Return scores and counts between two times.

    A period of more than three hours is extended to full hours at both ends.

    Args:
        database: Database of the station.
        product_id: Number of the product.
        since: Begin, microseconds since 1970; None: the first inspection.
        until: End, microseconds since 1970; None: now.
        zone: Zone of the days; None: this machine's. An hour of UTC counts to the day in which it begins.

    Returns:
        `unit`: inspection, minute, hour or day.
        `points`: for the unit inspection, a point for each inspection; else empty.
        `buckets`: for the other units, a bucket for each time that has inspections; else empty.
        `days`: dates of the buckets if the unit is a day; else empty.
        `totals`: sums of the counts, and the number of files that were not inspected.
        `versions`: versions that have judged, with their thresholds.
        `threshold`: threshold of all versions; None: their thresholds differ.
    """
    end = now() if until is None else until
    points: list[Point] = []
    buckets: list[Bucket] = []
    days: list[str] = []
    with database.reading() as connection:
        begin = _first_moment(connection, product_id, since, end)
        period = _period_of(product_id, begin, end)
        counted = period.counts.subquery()  # `counts` is a query
        totals = _totals(connection, counted)
        shows_points = totals["inspections"] <= MAX_POINTS
        if shows_points:
            points = _points(connection, product_id, period.first, period.until)
        elif period.unit == "day":
            days, buckets = _days(connection, counted, period, zone)
        else:
            buckets = _buckets(connection, counted, period.length)
        judging_versions = _judging_versions(connection, product_id)
        totals["not_inspected"] = _count_uninspected(connection, product_id, since or 0, period.until)
    thresholds = {version["threshold"] for version in judging_versions}
    return {
        "unit": "inspection" if shows_points else period.unit,
        "points": points,
        "buckets": buckets,
        "days": days,
        "totals": totals,
        "versions": judging_versions,
        "threshold": thresholds.pop() if len(thresholds) == 1 else None,
    }


def _first_moment(connection: Connection, product_id: int, since: int | None, until: int) -> int:
    """Return the beginning of the first hour with inspections, or `since` if that is later.

    Without inspections, `until` is returned: the period is empty. All times are microseconds since 1970.
    """
    query = select(func.min(hours.c.hour)).where(hours.c.product_id == product_id)
    first_hour = connection.execute(query).scalar_one()
    if first_hour is None:
        return until
    return max(int(first_hour) * HOUR, since or 0)


def _period_of(product_id: int, begin: int, end: int) -> TrendPeriod:
    """Return the period between two times, microseconds since 1970, with its unit and its query."""
    span = end - begin
    if span <= MAX_MINUTE_SPAN:
        row_query = inspection_counts(product_id)
        unit, length = "minute", HOUR // 60
        first, until = begin, end
    else:
        row_query = _hour_counts(product_id)
        unit, length = ("hour", HOUR) if span <= MAX_HOUR_SPAN else ("day", DAY)
        first = begin // HOUR * HOUR
        until = -(-end // HOUR) * HOUR  # rounded up
    at = row_query.selected_columns.at
    return TrendPeriod(unit, length, first, until, row_query.where(at >= first, at < until))


def _count_uninspected(connection: Connection, product_id: int, since: int, until: int) -> int:
    """Return the number of files that were not inspected between two times."""
    query = select(func.count()).where(
        events.c.product_id == product_id,
        events.c.kind.in_(NOT_INSPECTED_EVENTS),
        events.c.at >= since,
        events.c.at < until,
    )
    return int(connection.execute(query).scalar_one())


def _hour_counts(product_id: int) -> Select[tuple[object, ...]]:
    """Return a query of a product's rows of `hours`; `at` is the beginning, microseconds since 1970."""
    return select((hours.c.hour * HOUR).label("at"), hours).where(hours.c.product_id == product_id)


def inspection_counts(product_id: int) -> Select[tuple[object, ...]]:
    """Return a query of a product's inspections that has the columns of `_hour_counts`.

    Each row is one inspection: its counts are 1 or 0, and its score is the sum, minimum and maximum of the
    scores.
    """
    inspection = inspections.c
    is_anomalous = inspection.anomalous & ~inspection.tolerated
    condition_by_name = {
        "inspected": true(),
        "anomalous": is_anomalous,
        "reviewed": inspection.verdict.is_not(None),
        "defects": inspection.verdict == DEFECT,
        "false_alarms": is_anomalous & (inspection.verdict == GOOD),
        "misses": ~is_anomalous & (inspection.verdict == DEFECT),
        "within_tolerance": inspection.tolerated,
        "unanswered": inspection.unanswered.is_not(None),
    }
    scores = [inspection.score.label(f"score_{name}") for name in ("sum", "min", "max")]
    counts = [case((condition, 1), else_=0).label(name) for name, condition in condition_by_name.items()]
    return select(inspection.at, *scores, *counts).where(on_line(product_id))


def _totals(connection: Connection, counted: Subquery) -> dict[str, int]:
    """Return the sums of all counts by the names of `COUNT_NAMES`; `inspected` is called `inspections`."""
    sums = [func.coalesce(func.sum(counted.c[name]), 0) for name in COUNT_NAMES]
    row = connection.execute(select(*sums)).one()
    totals: dict[str, int] = {}
    for name, total in zip(COUNT_NAMES, row, strict=True):
        shown_name = "inspections" if name == "inspected" else name
        totals[shown_name] = int(total)
    return totals


def _buckets(connection: Connection, counted: Subquery, length: int) -> list[Bucket]:
    """Return a `Bucket` for each unit of time that has inspections.

    Args:
        connection: Connection to the database.
        counted: Rows with a time and counts.
        length: Length of the unit, microseconds.
    """
    unit_number = counted.c.at.op("/")(length)  # integer division in SQLite and PostgreSQL
    buckets: list[Bucket] = []
    for number, counts in _counts_by(connection, counted, unit_number):
        begin_seconds = number * length / 1e6
        buckets.append([begin_seconds, *counts])
    return buckets


def _days(
    connection: Connection, counted: Subquery, period: TrendPeriod, zone: tzinfo | None
) -> tuple[list[str], list[Bucket]]:
    """Return the dates of all days that have inspections, and a `Bucket` for each of these days."""
    day_number = local_day(counted.c.at, zone, period.first, period.until)
    days = list[str]()
    buckets = list[Bucket]()
    for day, counts in _counts_by(connection, counted, day_number):
        date = date_of(day)
        days.append(date.isoformat())
        buckets.append([midnight(date, zone), *counts])
    return days, buckets


def _counts_by(
    connection: Connection, counted: Subquery, unit_number: ColumnElement[int]
) -> Iterator[tuple[int, Bucket]]:
    """Group rows by the SQL expression `unit_number`; yield each of its values, and the counts of its group.

    The counts are the values of a `Bucket` after its first value, the time.
    """
    column = counted.c
    unit = unit_number.label("unit")
    inspected = func.sum(column.inspected)
    query = select(
        unit,
        inspected,
        func.sum(column.anomalous),
        func.min(column.score_min),
        func.sum(column.score_sum) / inspected,
        func.max(column.score_max),
        func.sum(column.false_alarms),
        func.sum(column.misses),
        func.sum(column.within_tolerance),
    )
    query = query.group_by("unit").order_by("unit")
    for value, inspected_count, anomalous, lowest, mean, highest, *other_counts in connection.execute(query):
        counts: Bucket = [int(inspected_count), int(anomalous), float(lowest), float(mean), float(highest)]
        yield int(value), counts + [int(count) for count in other_counts]


def _points(connection: Connection, product_id: int, first: int, until: int) -> list[Point]:
    """Return a `Point` for each inspection between two times, the oldest first.

    If there are more than `MAX_POINTS`, only the latest are returned.
    """
    inspection = inspections.c
    query = select(
        inspection.at,
        inspection.score,
        inspection.anomalous,
        inspection.tolerated,
        inspection.verdict,
        inspection.id,
    )
    query = query.where(on_line(product_id), inspection.at >= first, inspection.at < until)
    query = query.order_by(inspection.at.desc(), inspection.id.desc()).limit(MAX_POINTS)
    points = []
    for at, score, is_anomalous, is_tolerated, verdict, number in reversed(connection.execute(query).all()):
        class_number = is_anomalous + is_tolerated  # 0, 1 or 2: a tolerated inspection is anomalous, too
        points.append([at / 1e6, score, class_number, verdict, number])
    return points


def _judging_versions(connection: Connection, product_id: int) -> list[JudgingVersion]:
    """Return the versions of a product that have judged, in the order of their numbers."""
    first_hour = select(func.min(hours.c.hour)).where(
        hours.c.product_id == product_id, hours.c.version_id == versions.c.id
    )
    query = (
        select(versions.c.id, versions.c.facts, first_hour.scalar_subquery())
        .where(versions.c.product_id == product_id)
        .order_by(versions.c.id)
    )
    judging: list[JudgingVersion] = []
    for version_id, stored_facts, hour in connection.execute(query):
        if hour is None:  # the version has not judged
            continue
        facts = json.loads(stored_facts)
        threshold = facts["score_threshold"]
        spread = facts.get("spread")
        since = iso(int(hour) * HOUR)
        judging.append({"id": version_id, "threshold": threshold, "spread": spread, "since": since})
    return judging


# --------------------------------------------------------------------------------------- summary of a period

MAX_WORST = 6  # most anomalous inspections of a summary
MAX_MAPPED = 5000  # inspections whose regions and kinds are collected
Box = tuple[float, float, float, float]
_WITH_PICTURE = (pictures.c.product_id == inspections.c.product_id) & (
    pictures.c.hash == inspections.c.picture
)
# anomalous, beyond tolerance, and not called good by a person; inspections without a review count, too
_NOT_CLEARED = (
    inspections.c.anomalous
    & ~inspections.c.tolerated
    & (inspections.c.verdict.is_(None) | (inspections.c.verdict != GOOD))
)


@dataclass(frozen=True)
class PeriodSummary:
    """Inspections between two times.

    Regions and kinds are those of the newest `MAX_MAPPED` inspections.

    Attributes:
        counts: Counts of the period, by `COUNT_NAMES`.
        hours: Counts of each hour, with its beginning as `at`, microseconds since 1970.
        versions: Numbers of the versions that judged.
        worst: Numbers of the anomalous inspections farthest above the threshold, unless a person called them
            good.
        good: Number of an inspection of a good part; None: there is none.
        boxes: x0, y0, x1, y1 of the regions of anomalous inspections, as shares of the picture's sides.
        kinds: Kinds of the defects of anomalous inspections.
        tolerated_kinds: Kinds of the defects within tolerance.
    """

    counts: dict[str, int]
    hours: list[dict[str, int]]
    versions: list[int]
    worst: list[int]
    good: int | None
    boxes: list[Box]
    kinds: KindCounts
    tolerated_kinds: KindCounts


def summarize_period(database: Database, product_id: int, since: int, until: int) -> PeriodSummary:
    """Sum up the inspections from `since` to below `until`, microseconds since 1970.

    Raises:
        StoreError: the database cannot be used.
    """
    inspection = inspections.c
    is_in_period = on_line(product_id) & (inspection.at >= since) & (inspection.at < until)
    with database.reading() as connection:
        count_query = inspection_counts(product_id).where(inspection.at >= since, inspection.at < until)
        counts_by_hour = _count_by_hour(connection, count_query)
        version_ids = (
            select(inspection.version_id).where(is_in_period).distinct().order_by(inspection.version_id)
        )
        version_numbers = [int(version) for version in connection.scalars(version_ids)]
        boxes, kinds = _map_defects(connection, is_in_period)
        tolerated_kinds = _count_tolerated_kinds(connection, is_in_period)
        with_picture_query = select(inspection.id).join_from(inspections, pictures, _WITH_PICTURE)
        with_picture_query = with_picture_query.where(is_in_period, pictures.c.removed_at.is_(None))
        worst_first = with_picture_query.where(_NOT_CLEARED).order_by(
            inspection.severity.desc(), inspection.id.desc()
        )
        worst_numbers = [int(number) for number in connection.scalars(worst_first.limit(MAX_WORST))]
        newest_good = with_picture_query.where(~inspection.anomalous).order_by(inspection.id.desc()).limit(1)
        good_number = connection.scalar(newest_good)
    return PeriodSummary(
        counts={name: sum(hour[name] for hour in counts_by_hour) for name in COUNT_NAMES},
        hours=counts_by_hour,
        versions=version_numbers,
        worst=worst_numbers,
        good=good_number,
        boxes=boxes,
        kinds=kinds,
        tolerated_kinds=tolerated_kinds,
    )


def _map_defects(connection: Connection, is_in_period: ColumnElement[bool]) -> tuple[list[Box], KindCounts]:
    """Return boxes of regions and counts of kinds, from the newest `MAX_MAPPED` anomalous inspections.

    Inspections within tolerance are left out, and so are those that a person called good. A box is given in
    shares of the picture's sides.
    """
    inspection = inspections.c
    query = select(inspection.kind, inspection.record, pictures.c.width, pictures.c.height)
    query = query.join_from(inspections, pictures, _WITH_PICTURE).where(is_in_period, _NOT_CLEARED)
    query = query.order_by(inspection.id.desc()).limit(MAX_MAPPED)
    boxes: list[Box] = []
    kind_rows = []
    for kind, record, width, height in connection.execute(query):
        regions = json.loads(record)["regions"]
        kind_rows.append((kind, regions))
        for region in regions:
            x0, y0, x1, y1 = region["box"]
            boxes.append((x0 / width, y0 / height, x1 / width, y1 / height))
    return boxes, count_kinds(kind_rows)


def _count_tolerated_kinds(connection: Connection, is_in_period: ColumnElement[bool]) -> KindCounts:
    """Count the newest `MAX_MAPPED` inspections within tolerance by the kinds of their defects."""
    inspection = inspections.c
    query = select(inspection.kind, inspection.record).where(is_in_period, inspection.tolerated)
    query = query.order_by(inspection.id.desc()).limit(MAX_MAPPED)
    rows = connection.execute(query)
    return count_kinds((kind, json.loads(record)["regions"]) for kind, record in rows)


def _count_by_hour(connection: Connection, counts: Select[tuple[object, ...]]) -> list[dict[str, int]]:
    """Return a dictionary of counts for each hour that has inspections.

    Its keys are `COUNT_NAMES`, and `at` for the beginning of the hour, microseconds since 1970.

    Args:
        connection: Connection to the database.
        counts: Query from `inspection_counts`.
    """
    counted = counts.subquery()
    hour_number = counted.c.at.op("/")(HOUR).label("hour")  # integer division in SQLite and PostgreSQL
    sums = [func.sum(counted.c[name]) for name in COUNT_NAMES]
    by_hour = []
    for hour, *values in connection.execute(select(hour_number, *sums).group_by("hour").order_by("hour")):
        hour_counts = {"at": int(hour) * HOUR}
        for name, value in zip(COUNT_NAMES, values, strict=True):
            hour_counts[name] = int(value)
        by_hour.append(hour_counts)
    return by_hour
