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
from flawscope.station.access.roles import ADMIN, LOCAL, ROLES, SENDER, Person
from flawscope.station.access.sign_in import LONGEST, Attempts, Passwords, SignInError, checked, subnet
from flawscope.station.store.database import Database, StoreError, now, upsert
from flawscope.station.store.records import ADDRESS, add_event, iso
from flawscope.station.store.schema import sessions, tokens, users

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection

SESSION_SECONDS = 12 * 3600
_LONGEST_SESSION = (SESSION_SECONDS + 3600) * 1_000_000  # microseconds, with an hour for clocks that are set
COMMAND_LINE = "command line"  # who did something; no user can have this name
FAILED = "sign_in_failed"  # event
_NAME = re.compile(r"\w[\w.@+-]{0,63}")
_TOKEN = "fls_"  # by which people and scanners recognize a token
_USED = 60_000_000  # microseconds between two notes that a token was used
LONGEST_TOKEN = 100 * 365 * 86400.0  # seconds
FRESH = 3.0  # seconds for which a credential is known without another look
MOST = 4096  # credentials that are known; guesses take no room


class ExpiredError(FlawscopeError):
    """The token has expired."""


@dataclass(frozen=True)
class _Known:
    """Owner of a cookie or token, and the end of its time (microseconds since 1970)."""

    person: Person | None
    until: int | None = None

    def now(self) -> Person | None:
        """Return the person, None where a session has ended; ExpiredError where a token has."""
        if self.until is None or self.person is None:
            return self.person
        if not self.person.has_token:
            return self.person if _lasts(self.until) else None
        if now() < self.until:
            return self.person
        text = f"token {self.person.name} expired on {iso(self.until)[:10]}: ask for a new one, of "
        raise ExpiredError(text + "`flawscope station token add`")


_Key = tuple[str, str]  # kind and hash of a credential
_OPEN: _Key = ("open", "")


class Access:
    """Users, sessions and tokens. Every change is one transaction that also notes it as an event.

    Methods raise InputError for what cannot be done, StoreError where the data base cannot be used.

    Args:
        is_closed: people sign in also where there are no users, with a company's accounts.
    """

    def __init__(self, database: Database, *, is_closed: bool = False):
        self.database, self._is_closed = database, is_closed
        # Browsers do not tell ports apart: two stations on a machine need two names
        self.cookie = f"flawscope_{_digest(database.engine.url.render_as_string())[:8]}"
        self.passwords, self._attempts = Passwords(), Attempts()
        self.clock = time.monotonic
        self._memory: dict[_Key, tuple[_Known, float]] = {}  # owners, and when they were read
        self._used: dict[int | str, int] = {}  # token, or address of an unknown one -> time of the last note

    # ---- users

    def users(self) -> list[Row[Any]]:
        """Return name, role and created_at of all users, by name."""
        return self._listed(users, "name", "role", "created_at")

    def add_user(self, name: str, password: str, role: str, *, who: str = COMMAND_LINE) -> None:
        if role == SENDER:
            raise InputError("a sender is no person: `flawscope station token add` makes one for a program")
        name, hashed = _name(name), self.passwords.hash(checked(password))
        row = {"name": name, "password": hashed, "role": _role(role), "created_at": now()}
        with self._changing("user_added", who, f"user {name} added as {role}") as connection:
            _insert(connection, users, row)

    def set_password(self, name: str, password: str, *, who: str = COMMAND_LINE) -> None:
        """Change a password and end the user's sessions."""
        name, hashed = _name(name), self.passwords.hash(checked(password))
        with self._changing("password_changed", who, f"password of user {name} changed") as connection:
            change = update(users).where(users.c.name == name).values(password=hashed)
            row = connection.execute(change.returning(users.c.id, users.c.subject)).one_or_none()
            if row is None:
                raise InputError(_unknown(users, name))
            if row.subject is not None:
                raise InputError(f"{name} signs in with the company's account: the password is changed there")
            connection.execute(delete(sessions).where(sessions.c.user_id == row.id))

    def remove_user(self, name: str, *, who: str = COMMAND_LINE, last: bool = True) -> None:
        """Remove a user and end the user's sessions.

        Args:
            last: also the last administrator; else InputError.
        """
        self._remove(users, name, who, last=last)

    # ---- tokens

    def tokens(self) -> list[Row[Any]]:
        """Return name, role, created_at, used_at and expires_at of all tokens, by name."""
        return self._listed(tokens, "name", "role", "created_at", "used_at", "expires_at")

    def add_token(
        self, name: str, role: str, *, expires: float | None = None, who: str = COMMAND_LINE
    ) -> str:
        """Add a token and return the secret, which is never shown again. expires: seconds; None: never."""
        if expires is not None and not 0 < expires <= LONGEST_TOKEN:
            raise InputError("a token that expires holds for more than nothing and at most 100 years")
        name, secret, at = _name(name), _TOKEN + secrets.token_urlsafe(32), now()
        until = None if expires is None else at + round(expires * 1e6)
        row = {"name": name, "hash": _digest(secret), "role": _role(role), "created_at": at}
        text = f"token {name} added as {role}" + ("" if until is None else f" until {iso(until)[:10]}")
        with self._changing("token_added", who, text) as connection:
            _insert(connection, tokens, {**row, "expires_at": until})
        return secret

    def remove_token(self, name: str, *, who: str = COMMAND_LINE) -> None:
        self._remove(tokens, name, who)

    def _listed(self, table: Table, *names: str) -> list[Row[Any]]:
        query = select(*(table.c[name] for name in names)).order_by(table.c.name)
        with self.database.reading() as connection:
            return list(connection.execute(query))

    @contextmanager
    def _changing(self, kind: str, who: str, text: str) -> Iterator[Connection]:
        """Open a transaction with its event; afterwards nothing that was read before is used."""
        with self.database.writing() as connection:
            yield connection
            add_event(connection, kind, who, text)
        self._memory = {}

    def _remove(self, table: Table, name: str, who: str, *, last: bool = True) -> None:
        name, kind = _name(name), table.name[:-1]
        with self._changing(f"{kind}_removed", who, f"{kind} {name} removed") as connection:
            gone = delete(table).where(table.c.name == name).returning(table.c.id)
            if connection.scalar(gone) is None:
                raise InputError(_unknown(table, name))
            admins = select(users.c.id).where(users.c.role == ADMIN).limit(1)
            if not last and connection.scalar(admins) is None:
                raise InputError(f"{name} is the last administrator: make another one first")

    # ---- sessions

    def sign_in(self, name: str, password: str, address: str) -> str:
        """Start a session and return its cookie, for SESSION_SECONDS.

        Raises:
            SignInError: name or password is wrong, or there were too many tries; unknown names take as long.
        """
        name, password = _folded(name), password[: LONGEST + 1]
        is_home = self._attempts.begin(name, address)
        user = self._user(name)
        try:
            hashed = None if user is None else user.password
            right = self.passwords.is_right(hashed, password, "" if is_home else address)
        except SignInError:
            self._attempts.take_back(name, address)
            raise
        cookie = secrets.token_urlsafe(32)
        if user is not None and right and self._start(user, password, cookie, address):
            self._attempts.succeeded(name, address)
            return cookie
        # an unknown name is not noted: it may be a password
        who, what = ("", "an unknown name") if user is None else (name, f"user {name}")
        self._note_failed(who, f"wrong sign-in of {what}", address=address)
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
            change = update(users).where(users.c.subject == subject).values(role=_role(role))
            change = change.returning(users.c.id, users.c.name)
            user = connection.execute(change).one_or_none()
            if user is None:
                row = {"name": _name(name), "password": "", "role": _role(role), "created_at": at}
                _insert(connection, users, {**row, "subject": subject})
                user = connection.execute(change).one()
            self._add_session(connection, user.id, cookie, at)
            add_event(connection, "sign_in", user.name, f"signed in as {role} with the company's account")
        self._memory = {}
        return cookie

    def note_refused(self, why: str) -> None:
        """Note that a company's account was not let in."""
        self._note_failed("", f"the company's account was not let in: {why}"[:500])

    def _note_failed(self, who: str, text: str, address: str | None = None) -> None:
        with suppress(StoreError), self.database.writing() as connection:
            add_event(connection, FAILED, who, text, address=address)

    def sign_out(self, request: HTTPConnection) -> None:
        """End the session of the request's cookie, if it has one."""
        if cookie := request.cookies.get(self.cookie):
            with self.database.writing() as connection:
                connection.execute(delete(sessions).where(sessions.c.hash == _digest(cookie)))
            self._memory = {}

    def remove_ended(self) -> None:
        """Remove sessions that have ended; every sign-in does so, too."""
        with self.database.writing() as connection:
            connection.execute(delete(sessions).where(_has_ended(now())))

    def _user(self, name: str) -> Row[Any] | None:
        if not _NAME.fullmatch(name):  # not every text is allowed in the data base
            return None
        with self.database.reading() as connection:
            return connection.execute(select(users).where(users.c.name == name)).one_or_none()

    def _start(self, user: Row[Any], password: str, cookie: str, address: str) -> bool:
        """Start a session; return False where the user or the password was changed during the check."""
        is_old = self.passwords.hasher.check_needs_rehash(user.password)
        newer = self.passwords.hash(password, address) if is_old else None
        same = (users.c.id == user.id) & (users.c.password == user.password)
        with self.database.writing() as connection:
            if connection.scalar(select(users.c.id).where(same).with_for_update()) is None:
                return False
            self._add_session(connection, user.id, cookie, now())
            if newer:
                connection.execute(update(users).where(users.c.id == user.id).values(password=newer))
            add_event(connection, "sign_in", user.name, f"signed in as {user.role}", address=address)
        return True

    @staticmethod
    def _add_session(connection: Connection, user: int, cookie: str, at: int) -> None:
        connection.execute(delete(sessions).where(_has_ended(at)))
        times = {"created_at": at, "expires_at": at + SESSION_SECONDS * 1_000_000}
        connection.execute(sessions.insert().values(hash=_digest(cookie), user_id=user, **times))

    # ---- requests

    @property
    def is_open(self) -> bool:
        """Whether there are no users and no tokens."""
        return self._ask(_OPEN) is not None

    def find(self, request: HTTPConnection) -> Person | None:
        """Return the sender of a request, as of the last few seconds. A long stream asks again.

        A token wins over a cookie; ExpiredError where it has expired. On an open station everybody is LOCAL;
        the middleware checks that they are on this machine.
        """
        return next(filter(None, map(self._ask, self._brought(request))), None)

    def _brought(self, request: HTTPConnection) -> list[_Key]:
        scheme, _, secret = request.headers.get("authorization", "").partition(" ")
        cookie = request.cookies.get(self.cookie)
        if scheme.lower() == "bearer":
            return [("token", _digest(secret.strip())), _OPEN]
        return [("session", _digest(cookie)), _OPEN] if cookie else [_OPEN]

    def remembered(self, request: HTTPConnection) -> Person | None:
        """Return the sender as `find` does, where no look into the data base is needed, else None."""
        known = self._at_hand(self._brought(request)[0])
        return None if known is None else known.now()

    def _at_hand(self, key: _Key) -> _Known | None:
        known, at = self._memory.get(key, (None, 0.0))
        return known if self.clock() - at <= FRESH else None

    def _ask(self, key: _Key) -> Person | None:
        memory = self._memory  # another one after a change: what was read before is not kept
        if (fresh := self._at_hand(key)) is not None:
            return fresh.now()
        kind, digest = key
        known = {"open": self._nobody, "session": self._session, "token": self._token}[kind](digest)
        if known is None:
            return None
        if len(memory) >= MOST:
            memory.clear()
        memory[key] = known, self.clock()
        return known.now()

    def _nobody(self, digest: str) -> _Known:
        if self._is_closed:
            return _Known(None)
        anybody = exists(select(users.c.id)) | exists(select(tokens.c.id))
        with self.database.reading() as connection:
            return _Known(None if connection.scalar(select(anybody)) else LOCAL)

    def _session(self, digest: str) -> _Known | None:
        query = select(users.c.name, users.c.role, sessions.c.expires_at)
        query = query.join_from(sessions, users).where(sessions.c.hash == digest)
        with self.database.reading() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            return None
        if not _lasts(row.expires_at):
            with suppress(StoreError):
                self.remove_ended()
            return None
        return _Known(Person(row.name, row.role), row.expires_at)

    def _token(self, digest: str) -> _Known | None:
        with self.database.reading() as connection:
            row = connection.execute(select(tokens).where(tokens.c.hash == digest)).one_or_none()
        at = now()
        if row is None or (row.expires_at is not None and row.expires_at <= at):
            self._note_unknown("" if row is None else row.name, at)
        elif abs(at - max(row.used_at or 0, self._used.get(row.id, 0))) > _USED:
            self._used[row.id] = at  # even if it cannot be written: that is tried once a minute, too
            with suppress(StoreError), self.database.writing() as connection:
                connection.execute(update(tokens).where(tokens.c.id == row.id).values(used_at=at))
        return None if row is None else _Known(Person(row.name, row.role, has_token=True), row.expires_at)

    def _note_unknown(self, name: str, at: int) -> None:
        """Note an unknown or expired token, once a minute from an address."""
        address = subnet(ADDRESS.get() or "")
        if abs(at - self._used.get(address, 0)) > _USED:
            if len(self._used) > MOST:
                self._used.clear()
            self._used[address] = at
            self._note_failed(name, f"token {name} has expired" if name else "an unknown token")


def _lasts(until: int) -> bool:
    """Whether a session lasts. An end too far ahead is from a clock that was set back since: it is over."""
    return 0 < until - now() <= _LONGEST_SESSION


def _has_ended(at: int) -> ColumnElement[bool]:
    return or_(sessions.c.expires_at <= at, sessions.c.expires_at > at + _LONGEST_SESSION)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _folded(name: str) -> str:
    """Return the name in lower case: tablets like to begin with a capital letter."""
    return unicodedata.normalize("NFC", name.strip().lower())


def _name(name: str) -> str:
    folded = _folded(name)
    if not _NAME.fullmatch(folded):
        right = "use letters, digits and . _ - + @, beginning with a letter, 64 at most"
        raise InputError(f"{name!r:.80} cannot be a name: {right}")
    if folded == LOCAL.name:
        raise InputError(f"{folded} is everybody on an open station: choose another name")
    return folded


def _role(role: str) -> str:
    if role not in ROLES:
        raise InputError(f"there is no role {role!r:.80}: choose {', '.join(ROLES[:-1])} or {ROLES[-1]}")
    return role


def _insert(connection: Connection, table: Table, row: dict[str, Any]) -> None:
    """Insert a user or token. A name is never both: it says who gave a verdict."""
    name, other = row["name"], tokens if table is users else users
    is_taken = connection.scalar(select(other.c.id).where(other.c.name == name)) is not None
    added = upsert(connection.dialect.name, table).values(**row).on_conflict_do_nothing()
    if is_taken or connection.scalar(added.returning(table.c.id)) is None:
        kind = (other if is_taken else table).name[:-1]
        remedy = f"choose another name, or first `flawscope station {kind} remove {name}`"
        raise InputError(f"there is a {kind} {name} already: {remedy}")


def _unknown(table: Table, name: str) -> str:
    kind = table.name[:-1]
    return f"there is no {kind} {name}; see `flawscope station {kind} list`"
