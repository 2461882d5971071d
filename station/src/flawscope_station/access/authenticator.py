"""Authentication: who sends a request, by a session or a token.

A person has a session, a program a token. A station without accounts is open: everybody on its machine is the
same sender.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import exists, or_, select

from flawscope.errors import FlawscopeError
from flawscope_station.access.accounts import Tokens, Users, digest, normalize_name
from flawscope_station.access.passwords import MAX_LENGTH
from flawscope_station.access.roles import LOCAL_PERSON, Person
from flawscope_station.access.sessions import Sessions, is_current
from flawscope_station.access.sign_in_throttle import SignInError, SignInThrottle, subnet
from flawscope_station.store.database import Database, StoreError, now
from flawscope_station.store.records import SENDER_ADDRESS, add_event, iso
from flawscope_station.store.rows import UserRow
from flawscope_station.store.schema import tokens, users

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection

SIGN_IN_FAILED = "sign_in_failed"  # kind of an event
_NOTE_INTERVAL = 60_000_000  # microseconds between two records of a token's use, or of an invalid token
CACHE_SECONDS = 3.0  # time for which a credential is not looked up again in the database
KNOWN_SECONDS = 600.0  # time for which an owner is remembered, in case the database does not answer
MAX_CACHED = 4096  # credentials in memory; wrong credentials are not remembered
MAX_REASON_LENGTH = 500  # characters of an event about a refused account


class ExpiredError(FlawscopeError):
    """The token has expired."""

    status = 401
    code = "token_expired"


@dataclass(frozen=True)
class _CachedPerson:
    """Owner of a cookie or token.

    Attributes:
        person: Owner; None: nobody, because the station is not open.
        expires_at: End of the session or token, microseconds since 1970; None: it has no end.
    """

    person: Person | None
    expires_at: int | None = None

    def current_person(self) -> Person | None:
        """Return the owner; None: the session has ended, or there is no owner.

        Raises:
            ExpiredError: the token has expired.
        """
        if self.person is None:
            return None
        if self.expires_at is None:
            return self.person
        if not self.person.has_token:  # a session: it ends without an error
            return self.person if is_current(self.expires_at) else None
        if now() < self.expires_at:
            return self.person
        day = iso(self.expires_at)[:10]
        raise ExpiredError(
            f"token {self.person.name} expired on {day}: ask for a new one, of `flawscope station token add`"
        )


_CredentialKey = tuple[str, str]  # kind of a credential, and the SHA-256 of its secret
_OPEN_KEY: _CredentialKey = ("open", "")  # stands for no credential: everybody on an open station


class Access:
    """Users, tokens and sessions, and the senders of requests.

    Methods raise StoreError where the database cannot be used.

    Args:
        database: Database of the station.
        is_closed: Whether the station is never open, because people sign in with a company's accounts.

    Attributes:
        users: Accounts of people.
        tokens: Accounts of programs.
        sessions: Sessions of people.
        cookie: Name of the cookie of a session.
        throttle: Throttle of sign-ins.
        clock: Function that returns the time of the cache, seconds.
    """

    def __init__(self, database: Database, *, is_closed: bool = False):
        self.database = database
        self._is_closed = is_closed
        self.users = Users(database, self._forget)
        self.tokens = Tokens(database, self._forget)
        self.sessions = Sessions(database)
        # browsers send a cookie to all ports of a machine: two stations on it need two names
        self.cookie = f"flawscope_{digest(database.engine.url.render_as_string())[:8]}"
        self.throttle = SignInThrottle()
        self.clock = time.monotonic
        # credential -> owner, and time at which the owner was read
        self._cache: dict[_CredentialKey, tuple[_CachedPerson, float]] = {}
        # number of a token, or address of an invalid one -> time of its last record, microseconds since 1970
        self._last_noted: dict[int | str, int] = {}

    def _forget(self) -> None:
        """Replace the cache by a new dictionary after a change of accounts.

        A look-up under way may have read the accounts before the change. It adds its result to the old
        dictionary, which is no longer used.
        """
        self._cache = {}

    # ---- signing in

    def sign_in(self, name: str, password: str, address: str) -> str:
        """Start a session of a person, and return its cookie.

        The check of an unknown name takes as long as that of a user's password.

        Args:
            name: Name of the user, in upper or lower case.
            password: Password.
            address: IP address of the client.

        Raises:
            SignInError: name or password is wrong, or there were too many tries.
        """
        normalized_name = normalize_name(name)
        # a password that is too long is wrong: one character beyond the limit is enough to find that out
        checked_password = password[: MAX_LENGTH + 1]
        is_known_address = self.throttle.begin(normalized_name, address)
        user = self.users.find(normalized_name)
        try:
            password_hash = None if user is None else user.password
            limited_address = "" if is_known_address else address  # "": all known addresses share a limit
            is_right = self.users.passwords.verify(password_hash, checked_password, limited_address)
        except SignInError:
            self.throttle.cancel(normalized_name, address)
            raise
        cookie = None  # stays None if the sign-in is wrong, or if the user was changed meanwhile
        if user is not None and is_right:
            cookie = self._start_session(user, checked_password, address)
        if cookie is not None:
            self.throttle.record_success(normalized_name, address)
            return cookie
        if user is None:  # the unknown name is left out of the event, because it may be a password
            self._note_failed_sign_in("", "wrong sign-in of an unknown name", address=address)
        else:
            text = f"wrong sign-in of user {normalized_name}"
            self._note_failed_sign_in(normalized_name, text, address=address)
        raise SignInError("name or password is wrong")

    def _start_session(self, user: UserRow, password: str, address: str) -> str | None:
        """Start a session of a user.

        If argon2's parameters have changed, the password is also hashed anew.

        Args:
            user: User as it was read before the password was verified.
            password: Right password.
            address: IP address of the client.

        Returns:
            The cookie of the session; None: the user was changed or removed during the check.
        """
        passwords = self.users.passwords
        needs_rehash = passwords.hasher.check_needs_rehash(user.password)
        new_hash = passwords.hash(password, address) if needs_rehash else None
        with self.database.writing() as connection:
            if not self.users.confirm(connection, user, new_hash):
                return None
            add_event(connection, "sign_in", user.name, f"signed in as {user.role}", address=address)
            return self.sessions.start(connection, user.id)

    def count_member_try(self, address: str) -> None:
        """Count a try to sign in with a company's account as a failure in advance.

        `sign_in_member` takes the count back.

        Raises:
            SignInError: there were too many tries at this address.
        """
        self.throttle.begin(_member_name(address), address)

    def sign_in_member(self, subject: str, name: str, role: str, address: str) -> str:
        """Start a session of a company's member, and return its cookie.

        Args:
            subject: Issuer and ID of the company's account, by which the member is recognised. The name is no
                proof, because a user of the station may have the same.
            name: Name of the member; a new user gets it.
            role: Present role of the member.
            address: IP address of the client; `count_member_try` was called with it before.

        Raises:
            InputError: the name of a new member is not allowed here, or is taken.
        """
        with self.database.writing() as connection:
            user = self.users.member(connection, subject, name, role)
            cookie = self.sessions.start(connection, user.id)
            add_event(connection, "sign_in", user.name, f"signed in as {role} with the company's account")
        self.throttle.record_success(_member_name(address), address)
        self._forget()
        return cookie

    def note_refused_member(self, reason: str) -> None:
        """Record an event about a company's account that was not let in."""
        text = f"the company's account was not let in: {reason}"
        self._note_failed_sign_in("", text[:MAX_REASON_LENGTH])

    def _note_failed_sign_in(self, who: str, text: str, address: str | None = None) -> None:
        """Record an event about a failed sign-in, unless the database cannot be used."""
        with suppress(StoreError), self.database.writing() as connection:
            add_event(connection, SIGN_IN_FAILED, who, text, address=address)

    def sign_out(self, request: HTTPConnection) -> None:
        """End the session of a request's cookie, if the request has a cookie."""
        cookie = request.cookies.get(self.cookie)
        if cookie:
            self.sessions.end(cookie)
            self._forget()

    # ---- requests

    @property
    def is_open(self) -> bool:
        """Whether the station has no users and no tokens, and may be open."""
        return self._look_up(_OPEN_KEY) is not None

    def authenticate(self, request: HTTPConnection) -> Person | None:
        """Return the sender of a request; None: unknown.

        If a request has a token and a cookie, the token counts. On an open station everybody is LOCAL_PERSON;
        the middleware checks that the request comes from this machine. The answer may be `CACHE_SECONDS` old:
        a long stream has to ask again.

        Raises:
            ExpiredError: the token has expired.
        """
        for key in self._credential_keys(request):
            person = self._look_up(key)
            if person is not None:
                return person
        return None

    def authenticate_cached(self, request: HTTPConnection) -> Person | None:
        """Return the sender as `authenticate` does, from memory alone; None: unknown, or not in memory."""
        return self._person_in_memory(request, CACHE_SECONDS)

    def authenticate_known(self, request: HTTPConnection) -> Person | None:
        """Return the sender from memory, for times when the database does not answer; None: not in memory.

        The answer may be `KNOWN_SECONDS` old.
        """
        return self._person_in_memory(request, KNOWN_SECONDS)

    def _person_in_memory(self, request: HTTPConnection, seconds: float) -> Person | None:
        """Return the sender of a request from memory; None: unknown, or read more than `seconds` ago."""
        first_key = self._credential_keys(request)[0]
        cached = self._cached(first_key, seconds)
        return None if cached is None else cached.current_person()

    def _credential_keys(self, request: HTTPConnection) -> list[_CredentialKey]:
        """Return the keys under which to look for the sender of a request, in the order of the look-ups."""
        scheme, _, secret = request.headers.get("authorization", "").partition(" ")
        cookie = request.cookies.get(self.cookie)
        if scheme.lower() == "bearer":
            return [("token", digest(secret.strip())), _OPEN_KEY]
        if cookie:
            return [("session", digest(cookie)), _OPEN_KEY]
        return [_OPEN_KEY]

    def _cached(self, key: _CredentialKey, seconds: float = CACHE_SECONDS) -> _CachedPerson | None:
        """Return the owner of a credential from memory; None: not in memory, or read too long ago."""
        cached, read_at = self._cache.get(key, (None, 0.0))
        return cached if self.clock() - read_at <= seconds else None

    def _look_up(self, key: _CredentialKey) -> Person | None:
        """Return the owner of a credential, from memory or the database; None: it is not valid."""
        cache = self._cache  # held from here on, because `_forget` may replace it meanwhile
        cached = self._cached(key)
        if cached is not None:
            return cached.current_person()
        kind, secret_hash = key
        if kind == "session":
            owner = self._look_up_session(secret_hash)
        elif kind == "token":
            owner = self._look_up_token(secret_hash)
        else:  # `_OPEN_KEY`: the request has no credential
            owner = self._look_up_open()
        if owner is None:
            cache.pop(key, None)
            return None
        if len(cache) >= MAX_CACHED:
            cache.clear()
        cache[key] = owner, self.clock()
        return owner.current_person()

    def _look_up_open(self) -> _CachedPerson:
        """Return LOCAL_PERSON as the owner if the station is open; None as the owner otherwise."""
        if self._is_closed:
            return _CachedPerson(None)
        account_query = select(or_(exists(select(users.c.id)), exists(select(tokens.c.id))))
        with self.database.reading() as connection:
            has_account = connection.scalar(account_query)
        return _CachedPerson(None if has_account else LOCAL_PERSON)

    def _look_up_session(self, cookie_hash: str) -> _CachedPerson | None:
        """Return the owner of a session; None: there is no such session, or it has ended."""
        row = self.sessions.find(cookie_hash)
        if row is None:
            return None
        if not is_current(row.expires_at):
            with suppress(StoreError):  # if it fails, the next sign-in removes the ended sessions
                self.sessions.remove_ended()
            return None
        return _CachedPerson(Person(row.name, row.role), row.expires_at)

    def _look_up_token(self, secret_hash: str) -> _CachedPerson | None:
        """Return the owner of a token, even if it has expired; None: there is no such token.

        The use of a token, valid or not, is recorded at most once a minute.
        """
        row = self.tokens.find(secret_hash)
        at = now()
        if row is None:
            self._note_invalid_token("", at)
            return None
        if row.expires_at is not None and row.expires_at <= at:
            self._note_invalid_token(row.name, at)
        else:
            last_noted = max(row.used_at or 0, self._last_noted.get(row.id, 0))
            if abs(at - last_noted) > _NOTE_INTERVAL:  # `abs`: the clock may have been set back
                self._last_noted[row.id] = at  # before the write: if it fails, the next try is a minute later
                self.tokens.note_use(row.id, at)
        return _CachedPerson(Person(row.name, row.role, has_token=True), row.expires_at)

    def _note_invalid_token(self, name: str, at: int) -> None:
        """Record an event about an invalid token, at most once a minute for each address.

        Args:
            name: Name of a token that has expired; "": the token is unknown.
            at: Present time, microseconds since 1970.
        """
        address = subnet(SENDER_ADDRESS.get() or "")
        # `abs`: the clock may have been set back
        if abs(at - self._last_noted.get(address, 0)) > _NOTE_INTERVAL:
            if len(self._last_noted) > MAX_CACHED:
                self._last_noted.clear()
            self._last_noted[address] = at
            text = f"token {name} has expired" if name else "an unknown token"
            self._note_failed_sign_in(name, text)


def _member_name(address: str) -> str:
    """Return the name under which tries with a company's account are counted; no user can have this name."""
    return f"a company's member at {subnet(address)}"
