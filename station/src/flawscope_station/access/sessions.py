"""Sessions of people who signed in. The store has SHA-256 of their cookies, which are random."""

from __future__ import annotations

import secrets

from sqlalchemy import ColumnElement, Connection, delete, or_, select

from flawscope_station.access.accounts import digest
from flawscope_station.store.database import Database, now
from flawscope_station.store.rows import SessionRow
from flawscope_station.store.schema import sessions, users

SESSION_SECONDS = 12 * 3600
_MAX_SESSION = (SESSION_SECONDS + 3600) * 1_000_000  # microseconds, with an hour for clocks that are set


class Sessions:
    """Sessions in the data base. Methods raise StoreError where it cannot be used."""

    def __init__(self, database: Database):
        self.database = database

    def start(self, connection: Connection, user: int) -> str:
        """Start a session of a user within a transaction, and return its cookie, for SESSION_SECONDS."""
        cookie = secrets.token_urlsafe(32)
        at = now()
        connection.execute(delete(sessions).where(_ended(at)))
        times = {"created_at": at, "expires_at": at + SESSION_SECONDS * 1_000_000}
        connection.execute(sessions.insert().values(hash=digest(cookie), user_id=user, **times))
        return cookie

    def end(self, cookie: str) -> None:
        """Remove the session of a cookie, if there is one."""
        self.database.change(delete(sessions).where(sessions.c.hash == digest(cookie)))

    def remove_ended(self) -> None:
        """Remove sessions that have ended, as every sign-in does."""
        self.database.change(delete(sessions).where(_ended(now())))

    def find(self, hashed: str) -> SessionRow | None:
        """Return name and role of a session's user, and its end; it may have ended."""
        columns = select(users.c.name, users.c.role, sessions.c.expires_at)
        query = columns.join_from(sessions, users).where(sessions.c.hash == hashed)
        return self.database.row(query)


def is_current(until: int) -> bool:
    """Whether a session has not ended. An end too far ahead is of a clock that was set back: it has ended."""
    return 0 < until - now() <= _MAX_SESSION


def _ended(at: int) -> ColumnElement[bool]:
    return or_(sessions.c.expires_at <= at, sessions.c.expires_at > at + _MAX_SESSION)
