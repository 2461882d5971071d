"""Inspections by time, decision, verdict, score: page after page, newest first. Their numbers say which came
later; times may be those of a wrong clock."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Connection, Select, Text, func, literal_column, select

from flawscope.errors import InputError
from flawscope.station.store.database import Database
from flawscope.station.store.records import described, microseconds, shown
from flawscope.station.store.schema import inspections

MOST = 500  # inspections of a page
MANY = 2000  # names or times, beyond which they are not sorted
_WALKED: ColumnElement[int] = literal_column("+inspections.at", BigInteger)  # SQLite takes no index for it
_BEGUN = ("name", "part", "batch")  # filters that may say how a text begins
_CHOICES = {
    "decision": ("good", "anomalous"),
    "verdict": ("good", "defect", "none"),
    "review": ("none", "waiting", "done", "skipped"),
}


@dataclass(frozen=True)
class Filters:
    """What is looked for; None: any.

    since, until: microseconds since 1970; until is exclusive. name: of the picture; `A12*` is any that begins
    with A12, also of part and batch. cursor: where the page before ended.
    """

    since: int | None = None
    until: int | None = None
    decision: str | None = None
    verdict: str | None = None
    review: str | None = None
    score_min: float | None = None
    score_max: float | None = None
    version: int | None = None
    name: str | None = None
    part: str | None = None
    batch: str | None = None
    cursor: str | None = None
    limit: int = 50

    @classmethod
    def from_query(cls, query: Mapping[str, str]) -> Filters:
        """From the texts of an address; empty ones are as if they were not there, others than the fields
        above are passed over. InputError, one line."""
        values: dict[str, Any] = {}
        for name in (field.name for field in fields(cls)):
            if text := query.get(name, "").strip():
                values[name] = _read(name, text)
        return cls(**values)


@dataclass(frozen=True)
class Page:
    inspections: list[dict[str, Any]]
    next: str | None  # cursor of the page after it


def search(database: Database, product_id: int, filters: Filters) -> Page:
    """A page of inspections as the API shows them.

    Raises:
        InputError: the cursor is none.
        StoreError: the data base cannot be used.
    """
    with database.reading() as connection:
        begun = [_named(name, text) for name, text in _texts(filters) if text.endswith("*")]
        walk = _are_common(connection, product_id, begun)
        within = _within(filters, inspections.c.at)
        if _are_common(connection, product_id, within):
            within = _within(filters, _WALKED)
        query = _query(product_id, filters, walk).where(*within)
        rows = connection.execute(query.limit(filters.limit + 1)).all()
        more = len(rows) > filters.limit
        rows = rows[: filters.limit]
        found = described(connection, rows)
    return Page(found, _cursor(rows[-1].id) if more else None)


def every(database: Database, product_id: int, filters: Filters) -> Iterator[dict[str, Any]]:
    """All that are found, without holding them all."""
    cursor: str | None = filters.cursor
    while True:
        page = search(database, product_id, Filters(**{**vars(filters), "cursor": cursor, "limit": MOST}))
        yield from page.inspections
        if (cursor := page.next) is None:
            return


def _are_common(connection: Connection, product_id: int, wanted: list[ColumnElement[bool]]) -> bool:
    """Whether so many are as asked that walking through all of them finds a page sooner than sorting these.
    SQLite knows only how many there are at all, PostgreSQL decides by itself."""
    if not wanted or connection.dialect.name != "sqlite":
        return False
    there = select(inspections.c.id).where(inspections.c.product_id == product_id, *wanted)
    few = there.limit(MANY).subquery()
    return int(connection.execute(select(func.count()).select_from(few)).scalar_one()) == MANY


def _texts(filters: Filters) -> list[tuple[str, str]]:
    """Those of `_BEGUN` that are asked for."""
    return [(name, text) for name in _BEGUN if (text := getattr(filters, name)) is not None]


def _within(filters: Filters, at: ColumnElement[int]) -> list[ColumnElement[bool]]:
    """The times that are asked for."""
    ends = ((filters.since, at.__ge__), (filters.until, at.__lt__))
    return [compare(end) for end, compare in ends if end is not None]


def _query(product_id: int, filters: Filters, walk: bool) -> Select[Any]:
    column = inspections.c
    wanted: list[ColumnElement[bool]] = [column.product_id == product_id]
    if filters.decision is not None:
        wanted.append(column.anomalous.is_(filters.decision == "anomalous"))
    if filters.verdict is not None:
        wanted.append(
            column.verdict.is_(None) if filters.verdict == "none" else column.verdict == filters.verdict
        )
    if filters.review is not None:
        wanted.append(column.review == filters.review)
    if filters.score_min is not None:
        wanted.append(column.score >= filters.score_min)
    if filters.score_max is not None:
        wanted.append(column.score <= filters.score_max)
    if filters.version is not None:
        wanted.append(column.version_id == filters.version)
    wanted += [_named(name, text, walk) for name, text in _texts(filters)]
    if filters.cursor is not None:
        wanted.append(column.id < _place(filters.cursor))
    return shown().where(*wanted).order_by(column.id.desc())


def _named(name: str, text: str, walk: bool = False) -> ColumnElement[bool]:
    column: ColumnElement[str] = inspections.c[name]
    if not text.endswith("*"):
        return column == text
    if walk:
        column = literal_column(f"+inspections.{name}", Text)  # SQLite takes no index for it
    begin = text.rstrip("*")
    beyond = _beyond(begin)
    from_here = column >= begin
    return from_here if beyond is None else from_here & (column < beyond)


def _beyond(begin: str) -> str | None:
    """The first text after all that begin so, by the code of letters; None: there is none."""
    begin = begin.rstrip("\U0010ffff")
    if not begin:
        return None
    code = ord(begin[-1]) + 1
    return begin[:-1] + chr(0xE000 if code == 0xD800 else code)


def _read(name: str, text: str) -> Any:
    if name in _CHOICES:
        if text not in _CHOICES[name]:
            raise InputError(f"{name}={text:.40} is not one of {', '.join(_CHOICES[name])}")
        return text
    if name in ("since", "until"):
        return microseconds(text)
    try:
        if name in ("score_min", "score_max"):
            number = float(text)
            if math.isfinite(number):
                return number
            raise ValueError
        if name == "limit":
            if 1 <= int(text) <= MOST:
                return int(text)
            raise ValueError
        if name == "version":
            return _small(int(text))
    except (ValueError, OverflowError):
        kind = f"a number from 1 to {MOST}" if name == "limit" else "a number"
        raise InputError(f"{name}={text:.40} is not {kind}") from None
    if "\0" in text:
        raise InputError(f"{name} holds a character that no name has")
    if name == "cursor":
        _place(text)  # now: an export has begun when it is used
    return text


def _small(number: int) -> int:
    """What a column can hold."""
    if not 0 <= number < 2**63:
        raise ValueError
    return number


def _cursor(number: int) -> str:
    return base64.urlsafe_b64encode(f"{number}".encode()).decode().rstrip("=")


def _place(cursor: str) -> int:
    try:
        return _small(int(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii")))
    except (ValueError, binascii.Error):
        raise InputError(f"cursor {cursor:.40} is none: take `next` of the page before") from None
