"""Find who sends a request, by a session or a token.

A person has a session, a program a token. Where a station has no accounts, the sender is everybody on its
machine.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import exists, or_, select

from flawscope.errors import FlawscopeError
from flawscope_station.access.accounts import Tokens, Users, digest, normalize_name
from flawscope_station.access.passwords import MAX_LENGTH, SignInError, SignInThrottle, subnet
from flawscope_station.access.roles import LOCAL_PERSON, Person
from flawscope_station.access.sessions import Sessions, is_current
from flawscope_station.store.database import Database, StoreError, now
from flawscope_station.store.records import SENDER_ADDRESS, add_event, iso
from flawscope_station.store.rows import UserRow
from flawscope_station.store.schema import tokens, users

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection

SIGN_IN_FAILED = "sign_in_failed"  # event
_USE_INTERVAL = 60_000_000  # microseconds between two writes of a token's last use
CACHE_SECONDS = 3.0  # for which a credential is not looked up again in the data base
KNOWN_SECONDS = 600.0  # for which its owner is remembered, for when the data base does not answer
MAX_CACHED = 4096  # credentials in memory; wrong ones are not kept


class ExpiredError(FlawscopeError):
    """The token has expired."""

    status = 401
    code = "token_expired"


@dataclass(frozen=True)
class _CachedPerson:
    """Owner of a cookie or token, and when it expires (microseconds since 1970)."""

    person: Person | None
    expires_at: int | None = None

    def current_person(self) -> Person | None:
        """Return the person; None where the session has ended. ExpiredError where the token has expired."""
        if self.expires_at is None or self.person is None:
            return self.person
        if not self.person.has_token:
            return self.person if is_current(self.expires_at) else None
        if now() < self.expires_at:
            return self.person
        text = f"token {self.person.name} expired on {iso(self.expires_at)[:10]}: ask for a new one, of "
        raise ExpiredError(text + "`flawscope station token add`")


_CredentialKey = tuple[str, str]  # kind and hash of a credential
_OPEN_KEY: _CredentialKey = ("open", "")


class Access:
    """Users, tokens and sessions, and who sends a request. StoreError where the data base cannot be used.

    Args:
        is_closed: the station is never open, since people sign in with a company's accounts.
    """

    def __init__(self, database: Database, *, is_closed: bool = False):
        self.database = database
        self._is_closed = is_closed
        self.users, self.tokens = Users(database, self._forget), Tokens(database, self._forget)
        self.sessions = Sessions(database)
        # Browsers do not tell ports apart: two stations on a machine need two names
        self.cookie = f"flawscope_{digest(database.engine.url.render_as_string())[:8]}"
        self.throttle = SignInThrottle()
        self.clock = time.monotonic
        self._cache: dict[_CredentialKey, tuple[_CachedPerson, float]] = {}  # owners, and when they were read
        self._last_noted: dict[int | str, int] = {}  # id of a token, or address of an unknown one -> time

    def _forget(self) -> None:
        self._cache = {}  # a new one: what was read before a change is not kept

    # ---- signing in

    def sign_in(self, name: str, password: str, address: str) -> str:
        """Start a session and return its cookie.

        Raises:
            SignInError: name or password is wrong, or there were too many tries; unknown names take as long.
        """
        name = normalize_name(name)
        password = password[: MAX_LENGTH + 1]
        is_known_address = self.throttle.begin(name, address)
        user = self.users.find(name)
        try:
            hashed = None if user is None else user.password
            is_right = self.users.passwords.verify(hashed, password, "" if is_known_address else address)
        except SignInError:
            self.throttle.cancel(name, address)
            raise
        if user is not None and is_right and (cookie := self._start_session(user, password, address)):
            self.throttle.record_success(name, address)
            return cookie
        # an unknown name is left out of the event: it may be a password
        who, subject = ("", "an unknown name") if user is None else (name, f"user {name}")
        self._note_failed_sign_in(who, f"wrong sign-in of {subject}", address=address)
        raise SignInError("name or password is wrong")

    def _start_session(self, user: UserRow, password: str, address: str) -> str | None:
        """Start a session; return its cookie, None where user or password was changed during the check."""
        passwords = self.users.passwords
        needs_rehash = passwords.hasher.check_needs_rehash(user.password)
        new_hash = passwords.hash(password, address) if needs_rehash else None
        with self.database.writing() as connection:
            if not self.users.confirm(connection, user, new_hash):
                return None
            add_event(connection, "sign_in", user.name, f"signed in as {user.role}", address=address)
            return self.sessions.start(connection, user.id)

    def count_member_try(self, address: str) -> None:
        """Count a try to sign in with a company's account as a failure; `sign_in_member` takes that back.

        SignInError: there were too many at this address.
        """
        self.throttle.begin(_member_name(address), address)

    def sign_in_member(self, subject: str, name: str, role: str, address: str) -> str:
        """Start a session of a company's member and return its cookie.

        Args:
            subject: issuer and ID of the account. No name of a provider leads to an account of the station.
            name: of the member; it becomes the user's name at the first sign-in.
            role: of now, which is stored.
            address: of the client, whose try was begun.

        Raises:
            InputError: a new member's name cannot be one here, or is another's.
        """
        with self.database.writing() as connection:
            user = self.users.member(connection, subject, name, role)
            cookie = self.sessions.start(connection, user.id)
            add_event(connection, "sign_in", user.name, f"signed in as {role} with the company's account")
        self.throttle.record_success(_member_name(address), address)
        self._forget()
        return cookie

    def note_refused_member(self, reason: str) -> None:
        """Add an event: a company's account was not let in."""
        self._note_failed_sign_in("", f"the company's account was not let in: {reason}"[:500])

    def _note_failed_sign_in(self, who: str, text: str, address: str | None = None) -> None:
        with suppress(StoreError), self.database.writing() as connection:
            add_event(connection, SIGN_IN_FAILED, who, text, address=address)

    def sign_out(self, request: HTTPConnection) -> None:
        """End the session of the request's cookie, if it has one."""
        if cookie := request.cookies.get(self.cookie):
            self.sessions.end(cookie)
            self._forget()

    # ---- requests

    @property
    def is_open(self) -> bool:
        """Whether there are no users and no tokens."""
        return self._look_up(_OPEN_KEY) is not None

    def authenticate(self, request: HTTPConnection) -> Person | None:
        """Return the sender of a request, at most `CACHE_SECONDS` old. A long stream asks again.

        A token wins over a cookie; ExpiredError where it has expired. On an open station everybody is
        LOCAL_PERSON; the middleware checks that they are on this machine.
        """
        return next(filter(None, map(self._look_up, self._credential_keys(request))), None)

    def authenticate_cached(self, request: HTTPConnection) -> Person | None:
        """Return the sender as `authenticate` does, but from memory alone; None where it is not there."""
        known = self._cached(self._credential_keys(request)[0])
        return None if known is None else known.current_person()

    def authenticate_known(self, request: HTTPConnection) -> Person | None:
        """Return the sender from memory, `KNOWN_SECONDS` old at most; None where it is not there.

        It is for a data base that does not answer.
        """
        known = self._cached(self._credential_keys(request)[0], KNOWN_SECONDS)
        return None if known is None else known.current_person()

    def _credential_keys(self, request: HTTPConnection) -> list[_CredentialKey]:
        scheme, _, secret = request.headers.get("authorization", "").partition(" ")
        cookie = request.cookies.get(self.cookie)
        if scheme.lower() == "bearer":
            return [("token", digest(secret.strip())), _OPEN_KEY]
        return [("session", digest(cookie)), _OPEN_KEY] if cookie else [_OPEN_KEY]

    def _cached(self, key: _CredentialKey, seconds: float = CACHE_SECONDS) -> _CachedPerson | None:
        known, at = self._cache.get(key, (None, 0.0))
        return known if self.clock() - at <= seconds else None

    def _look_up(self, key: _CredentialKey) -> Person | None:
        cache = self._cache
        if (cached := self._cached(key)) is not None:
            return cached.current_person()
        kind, hashed = key
        kinds = {"open": self._look_up_open, "session": self._look_up_session, "token": self._look_up_token}
        found = kinds[kind](hashed)
        if found is None:
            cache.pop(key, None)
            return None
        if len(cache) >= MAX_CACHED:
            cache.clear()
        cache[key] = found, self.clock()
        return found.current_person()

    def _look_up_open(self, hashed: str) -> _CachedPerson:
        if self._is_closed:
            return _CachedPerson(None)
        has_account = select(or_(exists(select(users.c.id)), exists(select(tokens.c.id))))
        with self.database.reading() as connection:
            return _CachedPerson(None if connection.scalar(has_account) else LOCAL_PERSON)

    def _look_up_session(self, hashed: str) -> _CachedPerson | None:
        row = self.sessions.find(hashed)
        if row is not None and not is_current(row.expires_at):
            with suppress(StoreError):
                self.sessions.remove_ended()
            return None
        return None if row is None else _CachedPerson(Person(row.name, row.role), row.expires_at)

    def _look_up_token(self, hashed: str) -> _CachedPerson | None:
        row = self.tokens.find(hashed)
        at = now()
        if row is None or (row.expires_at is not None and row.expires_at <= at):
            self._note_invalid_token("" if row is None else row.name, at)
        elif abs(at - max(row.used_at or 0, self._last_noted.get(row.id, 0))) > _USE_INTERVAL:
            self._last_noted[row.id] = at  # also where writing fails: it is tried again after a minute
            self.tokens.note_use(row.id, at)
        if row is None:
            return None
        return _CachedPerson(Person(row.name, row.role, has_token=True), row.expires_at)

    def _note_invalid_token(self, name: str, at: int) -> None:
        """Add an event of an unknown or expired token, once a minute for each address."""
        address = subnet(SENDER_ADDRESS.get() or "")
        if abs(at - self._last_noted.get(address, 0)) > _USE_INTERVAL:
            if len(self._last_noted) > MAX_CACHED:
                self._last_noted.clear()
            self._last_noted[address] = at
            self._note_failed_sign_in(name, f"token {name} has expired" if name else "an unknown token")


def _member_name(address: str) -> str:
    """Return the name under which tries with a company's account count; no user can have it."""
    return f"a company's member at {subnet(address)}"
