"""Events of a station, for a search: who did something, when and from where. Their number is bounded.

The bound is a number of records and no age: a clock that jumps removes none. Failed sign-ins, and what the
station notes by itself, such as files that were not inspected, have bounds of their own, so that they push
out nothing that people did.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict

from sqlalchemy import ColumnElement, delete, func, or_, select, update
from typing_extensions import TypedDict  # that of Python is read by pydantic from Python 3.12 on

from flawscope.errors import InputError
from flawscope_station.access.authenticator import SIGN_IN_FAILED
from flawscope_station.settings.shown import hash_values
from flawscope_station.settings.station import Settings
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
from flawscope_station.store.station_identity import CLOCK_CONFIRMED

SETTINGS_CHANGED = "settings_changed"  # event
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
# events that are kept
MAX_FAILED_SIGN_INS = 100_000
MAX_EVENTS = 500_000
MAX_NOTES = 100_000
DELETED_AT_ONCE = 500  # events that one transaction removes
MAX_NAMED = 20  # settings that one event of changed settings names
# Events of versions are kept for ever: they tell the station when each was in use; so are those of pauses,
# which tell whether a product is paused
FOREVER = ("versions", "pauses")
_DONE = [kind for about, kinds in SUBJECTS.items() if about not in FOREVER for kind in kinds]
_KEPT = [kind for about in FOREVER for kind in SUBJECTS[about]]
_DONE.remove(SIGN_IN_FAILED)
_BOUNDS = (
    (events.c.kind == SIGN_IN_FAILED, MAX_FAILED_SIGN_INS),
    (events.c.kind.in_(_DONE), MAX_EVENTS),
    (events.c.kind.not_in([SIGN_IN_FAILED, *_DONE, *_KEPT]), MAX_NOTES),
)


class AuditEvent(TypedDict):
    """Event of the audit, as the API shows it.

    Attributes:
        at: Time in ISO 8601.
        who: User, token, `command line`, `station`, or empty where nobody is known.
        address: Of the request's sender; None where no request caused the event.
        product: Its name; None where the event is of no product.
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
    """Return events as records, newest first.

    Args:
        database: of the station.
        text: part of the event's who, address, kind or text, in any case.
        about: a key of `SUBJECTS`; "": all events.
        since: microseconds since 1970, of the earliest event.
        until: microseconds since 1970; events from then on are left out.
        before: number of a record; only older ones are returned.
        limit: number of records at most.

    Raises:
        InputError: the text or `about` is not allowed.
        StoreError: the data base cannot be used.
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
    """Return the conditions of a search for a text and a subject. InputError where one is not allowed."""
    if about and about not in SUBJECTS:
        raise InputError(f"about: {about!r:.40} is none of {', '.join(SUBJECTS)}")
    if not (text.isprintable() and len(text) <= 200):
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
    """Return the events after the one of this number, up to the last one, oldest first. StoreError."""
    query = select(events, products.c.name.label("product")).select_from(events.outerjoin(products))
    query = query.where(events.c.id > number, events.c.id <= last).order_by(events.c.id)
    return [_describe(row) for row in database.rows(query.limit(limit))]


def newest_event(database: Database) -> int:
    """Return the number of the newest event; 0: there is none. StoreError."""
    with database.reading() as connection:
        return int(connection.scalar(select(func.max(events.c.id))) or 0)


def _describe(row: ShownEventRow) -> AuditEvent:
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
    """Remove the oldest records beyond the bounds, a few at a time.

    Args:
        database: of the station.
        bounds: condition of some kinds of events, and the number of them that is kept.
        pause: is called between two transactions, each of which removes `DELETED_AT_ONCE` at most.
    """
    for is_of_kinds, limit in bounds:
        query = select(events.c.id).where(is_of_kinds).order_by(events.c.id.desc()).offset(limit).limit(1)
        with database.reading() as connection:
            last = connection.execute(query).scalar_one_or_none()
        oldest = select(events.c.id).where(is_of_kinds, events.c.id <= (last or 0))
        oldest = oldest.order_by(events.c.id).limit(DELETED_AT_ONCE)
        while last is not None:
            with database.writing() as connection:
                gone = connection.execute(delete(events).where(events.c.id.in_(oldest))).rowcount
            if gone < DELETED_AT_ONCE:
                break
            pause()


def note_changed_settings(database: Database, settings: Settings, who: str) -> None:
    """Add an event that names the settings that have changed since the station's last start.

    The store has only 16 bits of a hash of each value, from which nobody gets a password.
    """
    hashes = hash_values(asdict(settings))
    with database.writing() as connection:
        stored = connection.execute(select(stations.c.settings)).scalar_one_or_none()
        previous = hashes if stored is None else json.loads(stored)
        changed = sorted(key for key in previous | hashes if previous.get(key) != hashes.get(key))
        if changed:
            more = f" and {len(changed) - MAX_NAMED} more" if len(changed) > MAX_NAMED else ""
            text = f"settings of {settings.name} changed: {', '.join(changed[:MAX_NAMED])}{more}"
            add_event(connection, SETTINGS_CHANGED, who, text)
        connection.execute(update(stations).values(settings=json.dumps(hashes)))
