"""Search of a station's events: who did something, when and from where. Their number is bounded.

The bound is a number of events and not an age, so that a clock that jumps removes no events. Failed sign-ins
have a bound of their own, and so have notes of the station itself, such as of files that were not inspected:
they never push out actions of people.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict

from sqlalchemy import ColumnElement, delete, func, or_, select, update
from typing_extensions import TypedDict  # pydantic reads Python's own TypedDict from Python 3.12 on

from flawscope.errors import InputError, join_names
from flawscope_station.access.authenticator import SIGN_IN_FAILED
from flawscope_station.settings.shown import hash_values
from flawscope_station.settings.station import Settings
from flawscope_station.store.clock import CLOCK_CONFIRMED
from flawscope_station.store.database import Database
from flawscope_station.store.model_registry import QUESTION_ACCEPTED, VERSION_ACTIVATED, VERSION_ADDED
from flawscope_station.store.records import (
    PAUSED_EVENT,
    REMOVED_EVENT,
    RESUMED_EVENT,
    TOLERANCES_EVENT,
    VERDICT_EVENT,
    add_event,
    iso,
)
from flawscope_station.store.retention import KEEP_CONFIRMED
from flawscope_station.store.rows import ShownEventRow
from flawscope_station.store.schema import events, products, stations

SETTINGS_CHANGED = "settings_changed"  # kind of an event
SUBJECTS = {  # subject of a search -> kinds of its events
    "sign-ins": ("sign_in", SIGN_IN_FAILED),
    "users": ("user_added", "password_changed", "user_removed"),
    "tokens": ("token_added", "token_removed"),
    "settings": (SETTINGS_CHANGED, CLOCK_CONFIRMED, KEEP_CONFIRMED, TOLERANCES_EVENT),
    "versions": (VERSION_ADDED, VERSION_ACTIVATED, QUESTION_ACCEPTED),
    "verdicts": (VERDICT_EVENT,),
    "deletions": (REMOVED_EVENT,),
    "pauses": (PAUSED_EVENT, RESUMED_EVENT),
}
# Bounds of the number of events
MAX_FAILED_SIGN_INS = 100_000
MAX_EVENTS = 500_000  # actions of people
MAX_NOTES = 100_000  # notes of the station itself
DELETED_AT_ONCE = 500  # events that one transaction removes
MAX_NAMED = 20  # settings that one event of changed settings names
MAX_TEXT_LENGTH = 200  # characters of a searched text
# Subjects whose events are never removed: from these events the station reads when a version was in use, and
# whether a product is paused
PERMANENT_SUBJECTS = ("versions", "pauses")
_PERMANENT_KINDS = [kind for subject in PERMANENT_SUBJECTS for kind in SUBJECTS[subject]]
_ACTION_KINDS = [
    kind
    for kinds in SUBJECTS.values()
    for kind in kinds
    if kind not in _PERMANENT_KINDS and kind != SIGN_IN_FAILED
]
_BOUNDS = (
    (events.c.kind == SIGN_IN_FAILED, MAX_FAILED_SIGN_INS),
    (events.c.kind.in_(_ACTION_KINDS), MAX_EVENTS),
    (events.c.kind.not_in([SIGN_IN_FAILED, *_ACTION_KINDS, *_PERMANENT_KINDS]), MAX_NOTES),
)


class AuditEvent(TypedDict):
    """Event of the audit, as the API shows it.

    Attributes:
        id: Number of the event.
        at: Time in ISO 8601.
        kind: Kind of the event.
        who: User, token, `command line` or `station`; empty: unknown.
        address: IP address of the request's sender; None: no request caused the event.
        product: Name of the product; None: the event is about no product.
        text: Text of the event.
    """

    id: int
    at: str
    kind: str
    who: str
    address: str | None
    product: str | None
    text: str


def search(
    database: Database,
    *,
    text: str = "",
    about: str = "",
    since: int | None = None,
    until: int | None = None,
    before: int | None = None,
    limit: int = 50,
) -> list[AuditEvent]:
    """Return events that match, the newest first.

    Args:
        database: Database of the station.
        text: Text that occurs in who, address, kind or text of the event, in upper or lower case; "": any
            event.
        about: Subject of the events, a key of `SUBJECTS`; "": all subjects.
        since: Time of the earliest event, microseconds since 1970; None: no limit.
        until: Exclusive end of the period, microseconds since 1970; None: no limit.
        before: Number of an event; only events before it are returned. None: no limit.
        limit: Largest number of events.

    Raises:
        InputError: the text is not allowed, or there is no such subject.
        StoreError: the database cannot be used.
    """
    event = events.c
    query = select(events, products.c.name.label("product")).select_from(events.outerjoin(products))
    query = query.where(*_conditions(text, about))
    if since is not None:
        query = query.where(event.at >= since)
    if until is not None:
        query = query.where(event.at < until)
    if before is not None:
        query = query.where(event.id < before)
    return [_describe(row) for row in database.rows(query.order_by(event.id.desc()).limit(limit))]


def _conditions(text: str, about: str) -> list[ColumnElement[bool]]:
    """Return the SQL conditions of a search; `text` and `about` are those of `search`.

    Raises:
        InputError: the text is not allowed, or there is no such subject.
    """
    if about and about not in SUBJECTS:
        raise InputError(f"about: {about!r:.40} is none of {', '.join(SUBJECTS)}")
    if len(text) > MAX_TEXT_LENGTH or not text.isprintable():
        raise InputError("text: use letters and signs that can be seen, 200 at most")
    event = events.c
    conditions: list[ColumnElement[bool]] = []
    if text:
        columns = event.who, event.address, event.kind, event.text
        matches = [column.icontains(text, autoescape=True) for column in columns]
        conditions.append(or_(*matches))
    if about:
        conditions.append(event.kind.in_(SUBJECTS[about]))
    return conditions


def events_after(database: Database, number: int, last: int, limit: int) -> list[AuditEvent]:
    """Return the events with the numbers from `number` + 1 to `last`, the oldest first.

    Args:
        database: Database of the station.
        number: Number of the event before the first one to return.
        last: Number of the last event to return.
        limit: Largest number of returned events.

    Raises:
        StoreError: the database cannot be used.
    """
    query = select(events, products.c.name.label("product")).select_from(events.outerjoin(products))
    query = query.where(events.c.id > number, events.c.id <= last).order_by(events.c.id)
    return [_describe(row) for row in database.rows(query.limit(limit))]


def newest_event(database: Database) -> int:
    """Return the number of the newest event; 0: there is no event.

    Raises:
        StoreError: the database cannot be used.
    """
    with database.reading() as connection:
        return int(connection.scalar(select(func.max(events.c.id))) or 0)


def _describe(row: ShownEventRow) -> AuditEvent:
    """Return an event as the API shows it."""
    return {
        "id": row.id,
        "at": iso(row.at),
        "kind": row.kind,
        "who": row.who,
        "address": row.address,
        "product": row.product,
        "text": row.text,
    }


def trim_events(
    database: Database,
    bounds: Sequence[tuple[ColumnElement[bool], int]] = _BOUNDS,
    pause: Callable[[], object] = lambda: None,
) -> None:
    """Remove the oldest events beyond the bounds, `DELETED_AT_ONCE` in a transaction.

    Args:
        database: Database of the station.
        bounds: For each group of events, its SQL condition and the largest number of events to keep.
        pause: Function that is called between two transactions.
    """
    for is_in_group, max_count in bounds:
        newest_first = select(events.c.id).where(is_in_group).order_by(events.c.id.desc())
        first_beyond_bound = newest_first.offset(max_count).limit(1)
        with database.reading() as connection:
            newest_excess = connection.execute(first_beyond_bound).scalar_one_or_none()
        if newest_excess is None:
            continue
        excess = select(events.c.id).where(is_in_group, events.c.id <= newest_excess)
        oldest_excess = excess.order_by(events.c.id).limit(DELETED_AT_ONCE)
        while True:
            with database.writing() as connection:
                deletion = delete(events).where(events.c.id.in_(oldest_excess))
                deleted_count = connection.execute(deletion).rowcount
            if deleted_count < DELETED_AT_ONCE:
                break
            pause()


def note_changed_settings(database: Database, settings: Settings, who: str) -> None:
    """Add an event that names the settings that have changed since the station's last start.

    The database stores only 16 bits of a hash of each value: no password can be found from them.

    Args:
        database: Database of the station.
        settings: Present settings.
        who: Person or program that starts the station.
    """
    hash_by_setting = hash_values(asdict(settings))
    with database.writing() as connection:
        stored = connection.execute(select(stations.c.settings)).scalar_one_or_none()
        previous_hashes = hash_by_setting if stored is None else json.loads(stored)  # first start: no change
        keys = previous_hashes.keys() | hash_by_setting.keys()
        changed_keys = sorted(key for key in keys if previous_hashes.get(key) != hash_by_setting.get(key))
        if changed_keys:
            text = f"settings of {settings.name} changed: {join_names(changed_keys, MAX_NAMED)}"
            add_event(connection, SETTINGS_CHANGED, who, text)
        connection.execute(update(stations).values(settings=json.dumps(hash_by_setting)))
