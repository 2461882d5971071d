"""Sessions of people who signed in. The database has the SHA-256 of their cookies, which are random."""

from __future__ import annotations

import secrets

from sqlalchemy import ColumnElement, Connection, delete, or_, select

from flawscope_station.access.accounts import digest
from flawscope_station.store.database import Database, now
from flawscope_station.store.rows import SessionRow
from flawscope_station.store.schema import sessions, users

SESSION_SECONDS = 12 * 3600
# microseconds to the end of a session that is believed: an hour more, because a clock may be set back
_MAX_SESSION = (SESSION_SECONDS + 3600) * 1_000_000


class Sessions:
    """Sessions in the database. Methods raise StoreError where the database cannot be used."""

    def __init__(self, database: Database):
        self.database = database

    def start(self, connection: Connection, user_id: int) -> str:
        """Start a session of a user within a transaction, and return its cookie.

        The cookie is valid for SESSION_SECONDS. The ended sessions of all users are removed.
        """
        cookie = secrets.token_urlsafe(32)
        created_at = now()
        connection.execute(delete(sessions).where(_has_ended(created_at)))
        row = {
            "hash": digest(cookie),
            "user_id": user_id,
            "created_at": created_at,
            "expires_at": created_at + SESSION_SECONDS * 1_000_000,
        }
        connection.execute(sessions.insert().values(row))
        return cookie

    def end(self, cookie: str) -> None:
        """Remove the session of a cookie, if there is one."""
        self.database.change(delete(sessions).where(sessions.c.hash == digest(cookie)))

    def remove_ended(self) -> None:
        """Remove the sessions that have ended, as every sign-in does."""
        self.database.change(delete(sessions).where(_has_ended(now())))

    def find(self, cookie_hash: str) -> SessionRow | None:
        """Return name and role of a session's user, and the end of the session, which may be past.

        Args:
            cookie_hash: SHA-256 of the cookie.

        Returns:
            The row; None: there is no such session.
        """
        columns = select(users.c.name, users.c.role, sessions.c.expires_at)
        query = columns.join_from(sessions, users).where(sessions.c.hash == cookie_hash)
        return self.database.row(query)


def is_current(expires_at: int) -> bool:
    """Return whether a session is still valid.

    A session whose end is too far ahead is not valid: the clock was set back after its start.

    Args:
        expires_at: End of the session, microseconds since 1970.
    """
    return 0 < expires_at - now() <= _MAX_SESSION


def _has_ended(at: int) -> ColumnElement[bool]:
    """Return the SQL condition that a session is no longer valid at a time, by the rules of `is_current`."""
    return or_(sessions.c.expires_at <= at, sessions.c.expires_at > at + _MAX_SESSION)
