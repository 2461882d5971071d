"""Events of a station: who did something, when and from where. They can be searched, and their number is
bounded.

The bound is a number of records and no age: a clock that jumps removes none. Failed sign-ins have a bound of
their own, so that guesses do not push out other events.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from sqlalchemy import delete, or_, select, update

from flawscope.errors import InputError
from flawscope.station.access.users import FAILED
from flawscope.station.settings.station import Settings
from flawscope.station.store.database import Database
from flawscope.station.store.model_registry import ACTIVATED, ADDED
from flawscope.station.store.records import REMOVED, VERDICT, add_event, iso
from flawscope.station.store.schema import events, products, stations
from flawscope.station.store.station_identity import CONFIRMED

CHANGED = "settings_changed"  # event
ABOUT = {  # subject of a search -> kinds of events
    "sign-ins": ("sign_in", FAILED),
    "users": ("user_added", "password_changed", "user_removed"),
    "tokens": ("token_added", "token_removed"),
    "settings": (CHANGED, CONFIRMED),
    "versions": (ADDED, ACTIVATED),
    "verdicts": (VERDICT,),
    "deletions": (REMOVED,),
}
KEPT_FAILED, KEPT = 100_000, 500_000  # records of failed sign-ins, and of other events
MOST_KEYS = 20  # named by a record of changed settings
# Events of versions are kept for ever: they tell the station when each was in use
_BOUNDED = [kind for about, kinds in ABOUT.items() if about != "versions" for kind in kinds if kind != FAILED]


def search(
    database: Database,
    *,
    text: str = "",
    about: str = "",
    since: int | None = None,
    until: int | None = None,
    before: int | None = None,
    limit: int = 50,
) -> list[dict[str, Any]]:
    """Return events as records, newest first.

    Args:
        text: part of who, the address, the kind or the text, whatever its case.
        about: a key of `ABOUT`; "": everything.
        since, until: microseconds since 1970.
        before: number of a record; only older ones are returned.

    Raises:
        InputError: the text or `about` is not allowed.
        StoreError: the data base cannot be used.
    """
    if about and about not in ABOUT:
        raise InputError(f"about: {about!r:.40} is none of {', '.join(ABOUT)}")
    if not (text.isprintable() and len(text) <= 200):
        raise InputError("text: use letters and signs that can be seen, 200 at most")
    there = events.c
    query = select(events, products.c.name.label("product")).select_from(events.outerjoin(products))
    if text:
        columns = there.who, there.address, there.kind, there.text
        query = query.where(or_(*(column.icontains(text, autoescape=True) for column in columns)))
    if about:
        query = query.where(there.kind.in_(ABOUT[about]))
    ends = (since, there.at.__ge__), (until, there.at.__lt__), (before, there.id.__lt__)
    query = query.where(*(compare(end) for end, compare in ends if end is not None))
    with database.reading() as connection:
        rows = connection.execute(query.order_by(there.id.desc()).limit(limit)).all()
    names = ("id", "kind", "who", "address", "product", "text")
    return [{"at": iso(row.at), **{name: getattr(row, name) for name in names}} for row in rows]


def trim(database: Database) -> None:
    """Remove the oldest records beyond the bounds."""
    for kinds, most in (([FAILED], KEPT_FAILED), (_BOUNDED, KEPT)):
        of_kinds = events.c.kind.in_(kinds)
        query = select(events.c.id).where(of_kinds).order_by(events.c.id.desc()).offset(most).limit(1)
        with database.reading() as connection:
            last = connection.execute(query).scalar_one_or_none()
        if last is not None:
            with database.writing() as connection:
                connection.execute(delete(events).where(of_kinds, events.c.id <= last))


def note_settings(database: Database, settings: Settings, who: str) -> None:
    """Note which settings differ from those at the station's last start. The store has only 16 bits of a hash
    of each value, from which nobody gets a password."""
    values = dict(_flat(asdict(settings)))
    found = {
        key: hashlib.sha256(f"{key}={value!r}".encode()).hexdigest()[:4] for key, value in values.items()
    }
    here = stations.c.name == database.station
    with database.writing() as connection:
        kept = connection.execute(select(stations.c.settings).where(here)).scalar_one_or_none()
        before = found if kept is None else json.loads(kept)
        changed = sorted(key for key in before.keys() | found.keys() if before.get(key) != found.get(key))
        if changed:
            more = f" and {len(changed) - MOST_KEYS} more" if len(changed) > MOST_KEYS else ""
            text = f"settings of {database.station} changed: {', '.join(changed[:MOST_KEYS])}{more}"
            add_event(connection, CHANGED, who, text)
        connection.execute(update(stations).where(here).values(settings=json.dumps(found)))


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield single values with their places, such as `products.plate.sinks.1.webhook`."""
    if isinstance(value, Mapping):
        inside = {str(key): one for key, one in value.items()}
    elif isinstance(value, list | tuple):
        inside = {str(place): one for place, one in enumerate(value, 1)}
    elif callable(value):  # of a plugin
        return
    else:
        yield path, value
        return
    for key, one in inside.items():
        yield from _flat(one, f"{path}.{key}" if path else key)
