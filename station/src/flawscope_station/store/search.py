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
MAX_SORTED_MATCHES = 2000  # matches beyond which a search walks in order instead of sorting
Value = int | float | str  # of a filter


def _moment(given: object) -> object:
    return parse_time(given) if isinstance(given, str) else given


def _printed(text: str) -> str:
    if "\0" in text:
        raise InputError("it holds a character that no name has")
    return text


def _checked_cursor(text: str) -> str:
    decode_cursor(text)  # checked now: when an export uses it, the answer has begun
    return text


Moment = Annotated[int, BeforeValidator(_moment)]
Number = Annotated[int, Field(ge=0, lt=2**63)]
Printed = Annotated[str, AfterValidator(_printed)]
LabelText = Annotated[str, AfterValidator(label_text)]
_TYPES: dict[Kind, object] = {
    "since": Moment,
    "until": Moment,
    "least": float,
    "most": float,
    "number": Number,
    "text": Printed,
    "label": LabelText,
}


def _value_type(filter_: Filter) -> object:
    """Return the type of a filter's value, as pydantic reads it."""
    return Literal.__getitem__(filter_.words) if filter_.kind == "choice" else _TYPES[filter_.kind]


class _Read(BaseModel):
    """Values in a search's query; those of `FILTERS` are added below."""

    model_config = CONFIG
    cursor: Annotated[str, AfterValidator(_checked_cursor)] | None = None
    limit: Annotated[int, Field(ge=1, le=MAX_PAGE_SIZE)] = 50


_fields: dict[str, Any] = {filter_.name: (_value_type(filter_), None) for filter_ in FILTERS}
_ReadFilters = create_model("_ReadFilters", __base__=_Read, **_fields)


@dataclass(frozen=True)
class Filters:
    """Search: the wanted values, and the page of its results.

    Attributes:
        wanted: Values by the names of `FILTERS`; a text that ends with a star is the beginning of a text, as
            A12*. Times are microseconds since 1970.
        cursor: `next` of the page before; None: the first page.
        limit: Inspections of a page.
    """

    wanted: Mapping[str, Value] = field(default_factory=dict)
    cursor: str | None = None
    limit: int = 50

    @classmethod
    def from_query(cls, query: Mapping[str, str]) -> Filters:
        """Return the filters in a URL's query; empty values and unknown names are ignored.

        Raises:
            InputError: a value is invalid.
        """
        texts = {name: query.get(name, "").strip(PADDING) for name in _ReadFilters.model_fields}
        read = read_as(_ReadFilters, {name: text for name, text in texts.items() if text}, None)
        wanted = {name: value for name in BY_NAME if (value := getattr(read, name)) is not None}
        return cls(wanted, read.cursor, read.limit)


@dataclass(frozen=True)
class InspectionPage:
    """Page of inspections that a search found, the newest first."""

    inspections: list[InspectionFacts]
    next: str | None  # cursor of the next page


def search(database: Database, product_id: int, filters: Filters) -> InspectionPage:
    """Return a page of inspections as the API shows them, the newest first.

    Raises:
        InputError: the cursor is invalid.
        StoreError: the database cannot be used.
    """
    with database.reading() as connection:
        query = _build_query(connection, product_id, filters)
        rows = connection.execute(query.limit(filters.limit + 1)).all()
        more = len(rows) > filters.limit
        rows = rows[: filters.limit]
        found = describe_inspections(connection, rows)
    return InspectionPage(found, encode_cursor(rows[-1].id) if more else None)


def iterate_pages(database: Database, product_id: int, filters: Filters) -> Iterator[list[InspectionFacts]]:
    """Yield all inspections that match, a page at a time."""
    cursor: str | None = filters.cursor
    while True:
        page = search(database, product_id, replace(filters, cursor=cursor, limit=MAX_PAGE_SIZE))
        yield page.inspections
        cursor = page.next
        if cursor is None:
            return


def _match_many(connection: Connection, product_id: int, wanted: list[ColumnElement[bool]]) -> bool:
    """Return whether `MAX_SORTED_MATCHES` inspections match.

    Then a walk through all inspections finds a page sooner than sorting the matches. SQLite knows only the
    number of all; PostgreSQL decides by itself, and gets False.
    """
    if not wanted or connection.dialect.name != "sqlite":
        return False
    matches = select(inspections.c.id).where(inspections.c.product_id == product_id, *wanted)
    first_matches = matches.limit(MAX_SORTED_MATCHES).subquery()
    count = connection.execute(select(func.count()).select_from(first_matches)).scalar_one()
    return int(count) == MAX_SORTED_MATCHES


def _build_query(connection: Connection, product_id: int, filters: Filters) -> Select[Any]:
    """Build the query of a search.

    Beginnings of texts, and times, have an index of their own; SQLite is kept from it where many match.
    """
    defaults = {filter_.name: filter_.default for filter_ in FILTERS if filter_.default}
    wanted = [(BY_NAME[name], value) for name, value in {**defaults, **filters.wanted}.items()]
    indexed = [
        [(filter_, value) for filter_, value in wanted if filter_.kind in TEXTS and f"{value}".endswith("*")],
        [(filter_, value) for filter_, value in wanted if filter_.kind in ("since", "until")],
    ]
    walked: set[str] = set()  # names of filters
    for group in indexed:
        if _match_many(connection, product_id, [condition(filter_, value) for filter_, value in group]):
            walked.update(filter_.name for filter_, _ in group)
    conditions = [condition(filter_, value, walk=filter_.name in walked) for filter_, value in wanted]
    if filters.cursor is not None:
        conditions.append(inspections.c.id < decode_cursor(filters.cursor))
    query = inspection_query().where(inspections.c.product_id == product_id, *conditions)
    return query.order_by(inspections.c.id.desc())


def condition(filter_: Filter, value: Value, walk: bool = False) -> ColumnElement[bool]:
    """Return the condition of a filter.

    Args:
        filter_: Filter.
        value: Wanted value.
        walk: Keep SQLite from using an index for it.
    """
    if filter_.kind == "choice":
        return next(choice.condition for choice in filter_.choices if choice.word == value)
    column: ColumnElement[Any] = filter_.column
    if walk:
        column = literal_column(
            f"+inspections.{filter_.column.name}", filter_.column.type
        )  # the +: without index
    if filter_.kind in TEXTS:
        return _text_condition(column, str(value))
    if filter_.kind in ("since", "least"):
        return column >= value
    if filter_.kind == "until":
        return column < value
    return column <= value if filter_.kind == "most" else column == value


def _text_condition(column: ColumnElement[Any], text: str) -> ColumnElement[bool]:
    """Return the condition that a column has this text, or begins with it where it ends with a star."""
    if not text.endswith("*"):
        return column == text
    begin = text.rstrip("*")
    beyond = _prefix_end(begin)
    from_here = column >= begin
    return from_here if beyond is None else from_here & (column < beyond)


def _prefix_end(begin: str) -> str | None:
    """Return the first text, by code point, after all that begin with `begin`; None: there is none."""
    begin = begin.rstrip("\U0010ffff")
    if not begin:
        return None
    code = ord(begin[-1]) + 1
    return begin[:-1] + chr(0xE000 if code == 0xD800 else code)


def encode_cursor(number: int) -> str:
    """Return the cursor of the page after the inspection with this number."""
    return base64.urlsafe_b64encode(f"{number}".encode()).decode().rstrip("=")


def decode_cursor(cursor: str) -> int:
    """Return the number in a cursor.

    Raises:
        InputError: the cursor is invalid.
    """
    try:
        number = int(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii"))
        if valid_id_or_zero(number) != number:
            raise ValueError
        return number
    except ValueError:  # also `binascii.Error`
        raise InputError(f"cursor {cursor:.40} is none: take `next` of the page before") from None


# ------------------------------------------------------------------------------------------- scores over time

MAX_POINTS = 2000  # inspections that are shown one by one
MAX_MINUTE_SPAN = 3 * HOUR  # longest period that is counted by inspections; beyond it by `hours`
MAX_HOUR_SPAN = 15 * DAY
COUNT_NAMES = (
    *("inspected", "anomalous", "reviewed", "defects", "false_alarms", "misses", "within_tolerance"),
    "unanswered",
)


Point = list[float | str | None]  # of an inspection: seconds, score, 0 to 2, verdict, id
Bucket = list[float | int]  # of a time: seconds, and what was counted in it


class JudgingVersion(TypedDict):
    """Version that has judged.

    Attributes:
        threshold: Threshold of its scores.
        spread: Spread of its scores, for severities; None for a version from before it was kept.
        since: Beginning of its first hour.
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
        unit: Unit that is counted together: minute, hour or day.
        length: Length of the unit, microseconds.
        first: Begin, microseconds since 1970.
        until: End, microseconds since 1970.
        counts: Query of the counts in it.
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

    Beyond three hours, hours are whole at both ends.

    Args:
        database: Database of the station.
        product_id: Number of the product.
        since: Begin, microseconds since 1970; None: the first inspection.
        until: End, microseconds since 1970; None: now.
        zone: Zone of the days; None: this machine's. An hour of UTC counts to the day in which it begins.

    Returns:
        unit: inspection, minute, hour or day.
        points: of the unit inspection [seconds, score, class (0 good, 1 anomalous, 2 within tolerance),
            verdict, id].
        buckets: of the other units [seconds, inspected, anomalous, lowest, mean and highest score, false
            alarms, misses, within tolerance].
        days: dates of buckets that are days; else empty.
        totals: sums of the counts, and the number of files that were not inspected.
        versions: versions that have judged, with their thresholds.
        threshold: of all versions; None where they differ.
    """
    until = now() if until is None else until
    points: list[Point] = []
    buckets: list[Bucket] = []
    days: list[str] = []
    with database.reading() as connection:
        period = _period_of(product_id, _first_moment(connection, product_id, since, until), until)
        counted = period.counts.subquery()
        totals = _totals(connection, counted)
        shows_points = totals["inspections"] <= MAX_POINTS
        if shows_points:
            points = _points(connection, product_id, period.first, period.until)
        elif period.unit == "day":
            days, buckets = _days(connection, counted, period, zone)
        else:
            buckets = _buckets(connection, counted, period.length)
        shown_versions = _judging_versions(connection, product_id)
        totals["not_inspected"] = _count_uninspected(connection, product_id, since or 0, period.until)
    thresholds = {version["threshold"] for version in shown_versions}
    return {
        "unit": "inspection" if shows_points else period.unit,
        "points": points,
        "buckets": buckets,
        "days": days,
        "totals": totals,
        "versions": shown_versions,
        "threshold": thresholds.pop() if len(thresholds) == 1 else None,
    }


def _first_moment(connection: Connection, product_id: int, since: int | None, until: int) -> int:
    """Return the first moment that has inspections, `since` at the earliest; `until` where none is there."""
    first_hour = select(func.min(hours.c.hour)).where(hours.c.product_id == product_id)
    begun = connection.execute(first_hour).scalar_one()
    return until if begun is None else max(int(begun) * HOUR, since or 0)


def _period_of(product_id: int, first: int, until: int) -> TrendPeriod:
    """Return the period with its unit and its query."""
    if until - first <= MAX_MINUTE_SPAN:
        rows = inspection_counts(product_id)
        unit = "minute"
        length = HOUR // 60
    else:
        rows = _hour_counts(product_id)
        unit, length = ("hour", HOUR) if until - first <= MAX_HOUR_SPAN else ("day", DAY)
        first = first // HOUR * HOUR
        until = -(-until // HOUR) * HOUR
    at = rows.selected_columns.at
    return TrendPeriod(unit, length, first, until, rows.where(at >= first, at < until))


def _count_uninspected(connection: Connection, product_id: int, since: int, until: int) -> int:
    """Return the number of files that were not inspected."""
    uninspected = select(func.count()).where(
        events.c.product_id == product_id,
        events.c.kind.in_(NOT_INSPECTED_EVENTS),
        events.c.at >= since,
        events.c.at < until,
    )
    return int(connection.execute(uninspected).scalar_one())


def _hour_counts(product_id: int) -> Select[tuple[object, ...]]:
    """Return a query of `hours`, with `at` in microseconds."""
    return select((hours.c.hour * HOUR).label("at"), hours).where(hours.c.product_id == product_id)


def inspection_counts(product_id: int) -> Select[tuple[object, ...]]:
    """Return a query of a product's inspections with the columns of `_hour_counts`."""
    column = inspections.c
    anomalous = column.anomalous & ~column.tolerated
    counts = {
        "inspected": true(),
        "anomalous": anomalous,
        "reviewed": column.verdict.is_not(None),
        "defects": column.verdict == DEFECT,
        "false_alarms": anomalous & (column.verdict == GOOD),
        "misses": ~anomalous & (column.verdict == DEFECT),
        "within_tolerance": column.tolerated,
        "unanswered": column.unanswered.is_not(None),
    }
    scores = (column.score.label(f"score_{name}") for name in ("sum", "min", "max"))
    ones = (case((holds, 1), else_=0).label(name) for name, holds in counts.items())
    return select(column.at, *scores, *ones).where(on_line(product_id))


def _totals(connection: Connection, counted: Subquery) -> dict[str, int]:
    sums = (func.coalesce(func.sum(counted.c[name]), 0) for name in COUNT_NAMES)
    row = connection.execute(select(*sums)).one()
    return dict(zip(("inspections", *COUNT_NAMES[1:]), map(int, row), strict=True))


def _buckets(connection: Connection, counted: Subquery, length: int) -> list[Bucket]:
    """Return the counts of each unit that has inspections; a unit has `length` microseconds."""
    unit = counted.c.at.op("/")(length)  # integer division in SQLite and PostgreSQL
    return [[number * length / 1e6, *counts] for number, counts in _counts_by(connection, counted, unit)]


def _days(
    connection: Connection, counted: Subquery, period: TrendPeriod, zone: tzinfo | None
) -> tuple[list[str], list[Bucket]]:
    """Return the dates of the days that have inspections, and their counts, each from midnight on."""
    day = local_day(counted.c.at, zone, period.first, period.until)
    days = list[str]()
    buckets = list[Bucket]()
    for number, counts in _counts_by(connection, counted, day):
        date = date_of(number)
        days.append(date.isoformat())
        buckets.append([midnight(date, zone), *counts])
    return days, buckets


def _counts_by(
    connection: Connection, counted: Subquery, number: ColumnElement[int]
) -> Iterator[tuple[int, Bucket]]:
    """Yield each value of `number` with the counts of its rows, as they follow the time in a bucket."""
    column = counted.c
    unit = number.label("unit")
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
    for at, count, anomalous, lowest, mean, highest, *verdict_counts in connection.execute(query):
        counts: Bucket = [int(count), int(anomalous), float(lowest), float(mean), float(highest)]
        yield int(at), counts + [int(count) for count in verdict_counts]


def _points(connection: Connection, product_id: int, first: int, until: int) -> list[Point]:
    column = inspections.c
    query = select(column.at, column.score, column.anomalous, column.tolerated, column.verdict, column.id)
    query = query.where(on_line(product_id), column.at >= first, column.at < until)
    query = query.order_by(column.at.desc(), column.id.desc()).limit(MAX_POINTS)
    points = []
    for at, score, is_anomalous, is_tolerated, verdict, number in reversed(connection.execute(query).all()):
        points.append([at / 1e6, score, is_anomalous + is_tolerated, verdict, number])
    return points


def _judging_versions(connection: Connection, product_id: int) -> list[JudgingVersion]:
    """Return the versions that have judged."""
    first = select(func.min(hours.c.hour)).where(
        hours.c.product_id == product_id, hours.c.version_id == versions.c.id
    )
    query = (
        select(versions.c.id, versions.c.facts, first.scalar_subquery())
        .where(versions.c.product_id == product_id)
        .order_by(versions.c.id)
    )
    judging: list[JudgingVersion] = []
    for number, stored_facts, hour in connection.execute(query):
        if hour is None:
            continue
        facts = json.loads(stored_facts)
        threshold = facts["score_threshold"]
        spread = facts.get("spread")
        since = iso(int(hour) * HOUR)
        judging.append({"id": number, "threshold": threshold, "spread": spread, "since": since})
    return judging


# ---------------------------------------------------------------------------------------- summary of a time

# pictures that are shown; anomalous ones whose regions are counted
MAX_WORST = 6
MAX_MAPPED = 5000
Box = tuple[float, float, float, float]
_WITH_PICTURE = (pictures.c.product_id == inspections.c.product_id) & (
    pictures.c.hash == inspections.c.picture
)
# anomalous, beyond tolerance, and no person called it good: also where nobody has reviewed it
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
        counts: Counts by `COUNT_NAMES`.
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
    column = inspections.c
    within = on_line(product_id) & (column.at >= since) & (column.at < until)
    with database.reading() as connection:
        counts = inspection_counts(product_id).where(column.at >= since, column.at < until)
        by_hour = _count_by_hour(connection, counts)
        version_ids = select(column.version_id).where(within).distinct().order_by(column.version_id)
        version_numbers = [int(version) for version in connection.scalars(version_ids)]
        boxes, kinds = _map_defects(connection, within)
        tolerated_kinds = _count_tolerated_kinds(connection, within)
        # of inspections whose pictures can be shown
        shown = select(column.id).join_from(inspections, pictures, _WITH_PICTURE).where(within)
        shown = shown.where(pictures.c.removed_at.is_(None))
        worst_first = shown.where(_NOT_CLEARED).order_by(column.severity.desc(), column.id.desc())
        worst = [int(number) for number in connection.scalars(worst_first.limit(MAX_WORST))]
        newest_good = shown.where(~column.anomalous).order_by(column.id.desc()).limit(1)
        good = connection.scalar(newest_good)
    return PeriodSummary(
        counts={name: sum(hour[name] for hour in by_hour) for name in COUNT_NAMES},
        hours=by_hour,
        versions=version_numbers,
        worst=worst,
        good=good,
        boxes=boxes,
        kinds=kinds,
        tolerated_kinds=tolerated_kinds,
    )


def _map_defects(connection: Connection, within: ColumnElement[bool]) -> tuple[list[Box], KindCounts]:
    """Return regions, as shares of the picture's sides, and kinds of the newest anomalous inspections.

    An inspection that a person called good, or that is within tolerance, is left out.
    """
    column = inspections.c
    query = select(column.kind, column.record, pictures.c.width, pictures.c.height)
    query = query.join_from(inspections, pictures, _WITH_PICTURE).where(within, _NOT_CLEARED)
    query = query.order_by(column.id.desc()).limit(MAX_MAPPED)
    boxes: list[Box] = []
    found_kinds = []
    for kind, record, width, height in connection.execute(query):
        regions = json.loads(record)["regions"]
        found_kinds.append((kind, regions))
        for region in regions:
            x0, y0, x1, y1 = region["box"]
            boxes.append((x0 / width, y0 / height, x1 / width, y1 / height))
    return boxes, count_kinds(found_kinds)


def _count_tolerated_kinds(connection: Connection, within: ColumnElement[bool]) -> KindCounts:
    """Count the kinds of the defects of the newest inspections within tolerance."""
    column = inspections.c
    query = select(column.kind, column.record).where(within, column.tolerated)
    query = query.order_by(column.id.desc()).limit(MAX_MAPPED)
    return count_kinds((kind, json.loads(record)["regions"]) for kind, record in connection.execute(query))


def _count_by_hour(connection: Connection, counts: Select[tuple[object, ...]]) -> list[dict[str, int]]:
    """Return the counts of each hour that has inspections, with its beginning as `at`."""
    counted = counts.subquery()
    hour = counted.c.at.op("/")(HOUR).label("hour")  # integer division in SQLite and PostgreSQL
    sums = [func.sum(counted.c[name]) for name in COUNT_NAMES]
    by_hour = []
    for number, *row in connection.execute(select(hour, *sums).group_by("hour").order_by("hour")):
        of_hour = {"at": int(number) * HOUR}
        for name, value in zip(COUNT_NAMES, row, strict=True):
            of_hour[name] = int(value)
        by_hour.append(of_hour)
    return by_hour
