"""Users and their sessions, tokens of programs. A station without users and tokens is open, but only to its
own machine.

The store has argon2 hashes of passwords, and SHA-256 of sessions and tokens: these are random, and nobody can
guess them.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, Connection, Row, Table, delete, exists, or_, select, update

from flawscope.errors import FlawscopeError, InputError
from flawscope_station.access.roles import LOCAL_PERSON, ROLES, SENDER, Person
from flawscope_station.access.sign_in import (
    MAX_LENGTH,
    Passwords,
    SignInError,
    SignInThrottle,
    check_password,
    subnet,
)
from flawscope_station.store.database import Database, StoreError, now, upsert
from flawscope_station.store.records import SENDER_ADDRESS, add_event, iso
from flawscope_station.store.schema import sessions, tokens, users

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection

SESSION_SECONDS = 12 * 3600
_MAX_SESSION = (SESSION_SECONDS + 3600) * 1_000_000  # microseconds, with an hour for clocks that are set
COMMAND_LINE = "command line"  # `who` of an event; no user can have this name
SIGN_IN_FAILED = "sign_in_failed"  # event
_NAME_PATTERN = re.compile(r"\w[\w.@+-]{0,63}")
_TOKEN_PREFIX = "fls_"  # people and scanners recognize a token by it
_USE_INTERVAL = 60_000_000  # microseconds between two writes of a token's last use
MAX_TOKEN_SECONDS = 100 * 365 * 86400.0
CACHE_SECONDS = 3.0  # for which a credential is not looked up again in the data base
MAX_CACHED = 4096  # credentials in memory; wrong ones are not kept


class ExpiredError(FlawscopeError):
    """The token has expired."""


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
            return self.person if _is_current(self.expires_at) else None
        if now() < self.expires_at:
            return self.person
        text = f"token {self.person.name} expired on {iso(self.expires_at)[:10]}: ask for a new one, of "
        raise ExpiredError(text + "`flawscope station token add`")


_CredentialKey = tuple[str, str]  # kind and hash of a credential
_OPEN_KEY: _CredentialKey = ("open", "")


class Access:
    """Users, sessions and tokens. Every change is one transaction that also notes it as an event.

    Methods raise InputError for what cannot be done, StoreError where the data base cannot be used.

    Args:
        is_closed: the station is never open, since people sign in with a company's accounts.
    """

    def __init__(self, database: Database, *, is_closed: bool = False):
        self.database, self._is_closed = database, is_closed
        # Browsers do not tell ports apart: two stations on a machine need two names
        self.cookie = f"flawscope_{_digest(database.engine.url.render_as_string())[:8]}"
        self.passwords, self._throttle = Passwords(), SignInThrottle()
        self.clock = time.monotonic
        self._cache: dict[_CredentialKey, tuple[_CachedPerson, float]] = {}  # owners, and when they were read
        self._last_noted: dict[int | str, int] = {}  # id of a token, or address of an unknown one -> time

    # ---- users

    def users(self) -> list[Row[Any]]:
        """Return name, role and created_at of all users, by name."""
        return self._list_rows(users, "name", "role", "created_at")

    def add_user(self, name: str, password: str, role: str, *, who: str = COMMAND_LINE) -> None:
        if role == SENDER:
            raise InputError("a sender is no person: `flawscope station token add` makes one for a program")
        name, hashed = _check_name(name), self.passwords.hash(check_password(password))
        row = {"name": name, "password": hashed, "role": _check_role(role), "created_at": now()}
        with self._transaction("user_added", who, f"user {name} added as {role}") as connection:
            _insert_unique(connection, users, row)

    def set_password(self, name: str, password: str, *, who: str = COMMAND_LINE) -> None:
        """Change a password and end the user's sessions."""
        name, hashed = _check_name(name), self.passwords.hash(check_password(password))
        with self._transaction("password_changed", who, f"password of user {name} changed") as connection:
            change = update(users).where(users.c.name == name).values(password=hashed)
            row = connection.execute(change.returning(users.c.id, users.c.subject)).one_or_none()
            if row is None:
                raise InputError(_not_found_text(users, name))
            if row.subject is not None:
                raise InputError(f"{name} signs in with the company's account: the password is changed there")
            connection.execute(delete(sessions).where(sessions.c.user_id == row.id))

    def remove_user(self, name: str, *, who: str = COMMAND_LINE) -> None:
        """Remove a user and end the user's sessions."""
        self._remove(users, name, who)

    # ---- tokens

    def tokens(self) -> list[Row[Any]]:
        """Return name, role, created_at, used_at and expires_at of all tokens, by name."""
        return self._list_rows(tokens, "name", "role", "created_at", "used_at", "expires_at")

    def add_token(
        self, name: str, role: str, *, expires: float | None = None, who: str = COMMAND_LINE
    ) -> str:
        """Add a token and return the secret, which is never shown again. expires: seconds; None: never."""
        if expires is not None and not 0 < expires <= MAX_TOKEN_SECONDS:
            raise InputError("a token that expires holds for more than nothing and at most 100 years")
        name, secret, at = _check_name(name), _TOKEN_PREFIX + secrets.token_urlsafe(32), now()
        until = None if expires is None else at + round(expires * 1e6)
        row = {"name": name, "hash": _digest(secret), "role": _check_role(role), "created_at": at}
        text = f"token {name} added as {role}" + ("" if until is None else f" until {iso(until)[:10]}")
        with self._transaction("token_added", who, text) as connection:
            _insert_unique(connection, tokens, {**row, "expires_at": until})
        return secret

    def remove_token(self, name: str, *, who: str = COMMAND_LINE) -> None:
        self._remove(tokens, name, who)

    def _list_rows(self, table: Table, *names: str) -> list[Row[Any]]:
        query = select(*(table.c[name] for name in names)).order_by(table.c.name)
        with self.database.reading() as connection:
            return list(connection.execute(query))

    @contextmanager
    def _transaction(self, event_kind: str, who: str, text: str) -> Iterator[Connection]:
        """Open a transaction that also adds an event; afterwards the cache is empty."""
        with self.database.writing() as connection:
            yield connection
            add_event(connection, event_kind, who, text)
        self._cache = {}

    def _remove(self, table: Table, name: str, who: str) -> None:
        name, kind = _check_name(name), table.name[:-1]
        with self._transaction(f"{kind}_removed", who, f"{kind} {name} removed") as connection:
            deletion = delete(table).where(table.c.name == name).returning(table.c.id)
            if connection.scalar(deletion) is None:
                raise InputError(_not_found_text(table, name))

    # ---- sessions

    def sign_in(self, name: str, password: str, address: str) -> str:
        """Start a session and return its cookie, for SESSION_SECONDS.

        Raises:
            SignInError: name or password is wrong, or there were too many tries; unknown names take as long.
        """
        name, password = _normalize_name(name), password[: MAX_LENGTH + 1]
        is_known_address = self._throttle.begin(name, address)
        user = self._find_user(name)
        try:
            hashed = None if user is None else user.password
            is_right = self.passwords.verify(hashed, password, "" if is_known_address else address)
        except SignInError:
            self._throttle.cancel(name, address)
            raise
        cookie = secrets.token_urlsafe(32)
        if user is not None and is_right and self._start_session(user, password, cookie, address):
            self._throttle.record_success(name, address)
            return cookie
        # an unknown name is left out of the event: it may be a password
        who, subject = ("", "an unknown name") if user is None else (name, f"user {name}")
        self._note_failed_sign_in(who, f"wrong sign-in of {subject}", address=address)
        raise SignInError("name or password is wrong")

    def sign_in_member(self, subject: str, name: str, role: str) -> str:
        """Start a session of a company's member and return its cookie. A new member becomes a user; one who
        is known has the role of now, and keeps the name.

        Args:
            subject: issuer and ID of the account. No name of a provider leads to an account of the station.

        Raises:
            InputError: a new member's name cannot be one here, or is another's.
        """
        cookie, at = secrets.token_urlsafe(32), now()
        with self.database.writing() as connection:
            query = update(users).where(users.c.subject == subject).values(role=_check_role(role))
            query = query.returning(users.c.id, users.c.name)
            user = connection.execute(query).one_or_none()
            if user is None:
                row = {"name": _check_name(name), "password": "", "role": _check_role(role), "created_at": at}
                _insert_unique(connection, users, {**row, "subject": subject})
                user = connection.execute(query).one()
            self._insert_session(connection, user.id, cookie, at)
            add_event(connection, "sign_in", user.name, f"signed in as {role} with the company's account")
        self._cache = {}
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
            with self.database.writing() as connection:
                connection.execute(delete(sessions).where(sessions.c.hash == _digest(cookie)))
            self._cache = {}

    def remove_ended_sessions(self) -> None:
        """Remove sessions that have ended, as every sign-in does."""
        with self.database.writing() as connection:
            connection.execute(delete(sessions).where(_ended_clause(now())))

    def _find_user(self, name: str) -> Row[Any] | None:
        if not _NAME_PATTERN.fullmatch(name):  # not every text is allowed in the data base
            return None
        with self.database.reading() as connection:
            return connection.execute(select(users).where(users.c.name == name)).one_or_none()

    def _start_session(self, user: Row[Any], password: str, cookie: str, address: str) -> bool:
        """Start a session; return False where the user or the password was changed during the check."""
        needs_rehash = self.passwords.hasher.check_needs_rehash(user.password)
        new_hash = self.passwords.hash(password, address) if needs_rehash else None
        is_unchanged = (users.c.id == user.id) & (users.c.password == user.password)
        with self.database.writing() as connection:
            if connection.scalar(select(users.c.id).where(is_unchanged).with_for_update()) is None:
                return False
            self._insert_session(connection, user.id, cookie, now())
            if new_hash:
                connection.execute(update(users).where(users.c.id == user.id).values(password=new_hash))
            add_event(connection, "sign_in", user.name, f"signed in as {user.role}", address=address)
        return True

    @staticmethod
    def _insert_session(connection: Connection, user: int, cookie: str, at: int) -> None:
        connection.execute(delete(sessions).where(_ended_clause(at)))
        times = {"created_at": at, "expires_at": at + SESSION_SECONDS * 1_000_000}
        connection.execute(sessions.insert().values(hash=_digest(cookie), user_id=user, **times))

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

    def _credential_keys(self, request: HTTPConnection) -> list[_CredentialKey]:
        scheme, _, secret = request.headers.get("authorization", "").partition(" ")
        cookie = request.cookies.get(self.cookie)
        if scheme.lower() == "bearer":
            return [("token", _digest(secret.strip())), _OPEN_KEY]
        return [("session", _digest(cookie)), _OPEN_KEY] if cookie else [_OPEN_KEY]

    def authenticate_cached(self, request: HTTPConnection) -> Person | None:
        """Return the sender as `authenticate` does, but from memory alone; None where it is not there."""
        known = self._cached(self._credential_keys(request)[0])
        return None if known is None else known.current_person()

    def _cached(self, key: _CredentialKey) -> _CachedPerson | None:
        known, at = self._cache.get(key, (None, 0.0))
        return known if self.clock() - at <= CACHE_SECONDS else None

    def _look_up(self, key: _CredentialKey) -> Person | None:
        cache = self._cache  # a change replaces it: what was read before the change is not kept
        if (cached := self._cached(key)) is not None:
            return cached.current_person()
        kind, digest = key
        kinds = {"open": self._look_up_open, "session": self._look_up_session, "token": self._look_up_token}
        found = kinds[kind](digest)
        if found is None:
            return None
        if len(cache) >= MAX_CACHED:
            cache.clear()
        cache[key] = found, self.clock()
        return found.current_person()

    def _look_up_open(self, digest: str) -> _CachedPerson:
        if self._is_closed:
            return _CachedPerson(None)
        any_account = exists(select(users.c.id)) | exists(select(tokens.c.id))
        with self.database.reading() as connection:
            return _CachedPerson(None if connection.scalar(select(any_account)) else LOCAL_PERSON)

    def _look_up_session(self, digest: str) -> _CachedPerson | None:
        query = select(users.c.name, users.c.role, sessions.c.expires_at)
        query = query.join_from(sessions, users).where(sessions.c.hash == digest)
        with self.database.reading() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            return None
        if not _is_current(row.expires_at):
            with suppress(StoreError):
                self.remove_ended_sessions()
            return None
        return _CachedPerson(Person(row.name, row.role), row.expires_at)

    def _look_up_token(self, digest: str) -> _CachedPerson | None:
        with self.database.reading() as connection:
            row = connection.execute(select(tokens).where(tokens.c.hash == digest)).one_or_none()
        at = now()
        if row is None or (row.expires_at is not None and row.expires_at <= at):
            self._note_invalid_token("" if row is None else row.name, at)
        elif abs(at - max(row.used_at or 0, self._last_noted.get(row.id, 0))) > _USE_INTERVAL:
            self._last_noted[row.id] = at  # also where writing fails: it is tried again after a minute
            with suppress(StoreError), self.database.writing() as connection:
                connection.execute(update(tokens).where(tokens.c.id == row.id).values(used_at=at))
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


def _is_current(until: int) -> bool:
    """Whether a session has not ended. An end too far ahead is of a clock that was set back: it has ended."""
    return 0 < until - now() <= _MAX_SESSION


def _ended_clause(at: int) -> ColumnElement[bool]:
    return or_(sessions.c.expires_at <= at, sessions.c.expires_at > at + _MAX_SESSION)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _normalize_name(name: str) -> str:
    """Return the name in lower case: tablets like to begin with a capital letter."""
    return unicodedata.normalize("NFC", name.strip().lower())


def _check_name(name: str) -> str:
    normalized = _normalize_name(name)
    if not _NAME_PATTERN.fullmatch(normalized):
        rule = "use letters, digits and . _ - + @, beginning with a letter, 64 at most"
        raise InputError(f"{name!r:.80} cannot be a name: {rule}")
    if normalized == LOCAL_PERSON.name:
        raise InputError(f"{normalized} is everybody on an open station: choose another name")
    return normalized


def _check_role(role: str) -> str:
    if role not in ROLES:
        raise InputError(f"there is no role {role!r:.80}: choose {', '.join(ROLES[:-1])} or {ROLES[-1]}")
    return role


def _insert_unique(connection: Connection, table: Table, row: dict[str, Any]) -> None:
    """Insert a user or token. No name is of both, for verdicts are stored with the name alone."""
    name, other = row["name"], tokens if table is users else users
    is_taken = connection.scalar(select(other.c.id).where(other.c.name == name)) is not None
    added = upsert(connection.dialect.name, table).values(**row).on_conflict_do_nothing()
    if is_taken or connection.scalar(added.returning(table.c.id)) is None:
        kind = (other if is_taken else table).name[:-1]
        remedy = f"choose another name, or first `flawscope station {kind} remove {name}`"
        raise InputError(f"there is a {kind} {name} already: {remedy}")


def _not_found_text(table: Table, name: str) -> str:
    kind = table.name[:-1]
    return f"there is no {kind} {name}; see `flawscope station {kind} list`"
