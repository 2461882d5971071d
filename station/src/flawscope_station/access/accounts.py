"""Accounts of a station: users, and tokens of programs. Every change is one transaction, with an event.

The store has argon2 hashes of passwords, and SHA-256 of tokens: these are random, and nobody can guess them.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from sqlalchemy import Connection, Table, delete, select, update

from flawscope.errors import InputError
from flawscope_station.access.passwords import Passwords, check_password
from flawscope_station.access.roles import LOCAL_PERSON, ROLES, SENDER
from flawscope_station.store.database import Database, StoreError, now, upsert
from flawscope_station.store.records import add_event, iso
from flawscope_station.store.rows import AccountRow, MemberRow, TokenRow, UserRow
from flawscope_station.store.schema import sessions, tokens, users

COMMAND_LINE = "command line"  # `who` of an event; no user can have this name
MAX_TOKEN_SECONDS = 100 * 365 * 86400.0
_NAME_PATTERN = re.compile(r"\w[\w.@+-]{0,63}")
_ALPHABETS = {"LATIN", "CYRILLIC", "GREEK"}  # whose letters look alike
_TOKEN_PREFIX = "fls_"  # people and scanners recognize a token by it


class Accounts:
    """Users, or tokens.

    Methods raise InputError for what cannot be done, StoreError where the data base cannot be used.

    Args:
        on_change: is called after each change.
    """

    table: Table
    shown: tuple[str, ...]  # columns that `all` returns

    def __init__(self, database: Database, on_change: Callable[[], None]):
        self.database = database
        self._on_change = on_change

    @property
    def _kind(self) -> str:
        return self.table.name[:-1]

    def all(self) -> Sequence[AccountRow]:
        """Return the columns `shown` of all accounts, by name."""
        columns = [self.table.c[name] for name in self.shown]
        return self.database.rows(select(*columns).order_by(self.table.c.name))

    def remove(self, name: str, *, who: str = COMMAND_LINE) -> None:
        """Remove an account, with its sessions."""
        name = check_name(name)
        with self._change(f"{self._kind}_removed", who, f"{self._kind} {name} removed") as connection:
            deletion = delete(self.table).where(self.table.c.name == name).returning(self.table.c.id)
            if connection.scalar(deletion) is None:
                raise self._not_found(name)

    def _add(self, who: str, until: str, row: Mapping[str, object]) -> None:
        text = f"{self._kind} {row['name']} added as {row['role']}{until}"
        with self._change(f"{self._kind}_added", who, text) as connection:
            self._insert(connection, row)

    def _insert(self, connection: Connection, row: Mapping[str, object]) -> None:
        """Insert an account. No name is of both kinds, for verdicts are stored with the name alone."""
        name = row["name"]
        other = tokens if self.table is users else users
        is_taken = connection.scalar(select(other.c.id).where(other.c.name == name)) is not None
        added = upsert(connection.dialect.name, self.table).values(**row).on_conflict_do_nothing()
        if is_taken or connection.scalar(added.returning(self.table.c.id)) is None:
            kind = other.name[:-1] if is_taken else self._kind
            remedy = f"choose another name, or first `flawscope station {kind} remove {name}`"
            raise InputError(f"there is a {kind} {name} already: {remedy}")

    @contextmanager
    def _change(self, event: str, who: str, text: str) -> Iterator[Connection]:
        with self.database.writing() as connection:
            yield connection
            add_event(connection, event, who, text)
        self._on_change()

    def _not_found(self, name: str) -> InputError:
        return InputError(f"there is no {self._kind} {name}; see `flawscope station {self._kind} list`")


class Users(Accounts):
    """People, with their passwords, or with a company's account."""

    table = users
    shown = ("name", "role", "created_at")

    def __init__(self, database: Database, on_change: Callable[[], None]):
        super().__init__(database, on_change)
        self.passwords = Passwords()

    def add(self, name: str, password: str, role: str, *, who: str = COMMAND_LINE) -> None:
        """Add a person who signs in with a password; the store gets its hash alone.

        Raises:
            InputError: the name, the password or the role is not allowed, or the name is taken.
        """
        if role == SENDER:
            raise InputError("a sender is no person: `flawscope station token add` makes one for a program")
        name = check_name(name)
        hashed = self.passwords.hash(check_password(password))
        self._add(who, "", {"name": name, "password": hashed, "role": _check_role(role), "created_at": now()})

    def set_password(self, name: str, password: str, *, who: str = COMMAND_LINE) -> None:
        """Change a password and end the user's sessions."""
        name = check_name(name)
        hashed = self.passwords.hash(check_password(password))
        with self._change("password_changed", who, f"password of user {name} changed") as connection:
            change = update(users).where(users.c.name == name).values(password=hashed)
            row = connection.execute(change.returning(users.c.id, users.c.subject)).one_or_none()
            if row is None:
                raise self._not_found(name)
            if row.subject is not None:
                raise InputError(f"{name} signs in with the company's account: the password is changed there")
            connection.execute(delete(sessions).where(sessions.c.user_id == row.id))

    def find(self, name: str) -> UserRow | None:
        """Return the user of a name in lower case; None where there is none."""
        if not _NAME_PATTERN.fullmatch(name):  # not every text is allowed in the data base
            return None
        return self.database.row(select(users).where(users.c.name == name))

    def confirm(self, connection: Connection, user: UserRow, new_hash: str | None) -> bool:
        """Lock a user within a transaction; return False where user or password was changed meanwhile.

        Args:
            connection: of the transaction.
            user: as it was read before the transaction.
            new_hash: of the same password, which is stored; None: the stored hash stays.
        """
        is_unchanged = (users.c.id == user.id) & (users.c.password == user.password)
        if connection.scalar(select(users.c.id).where(is_unchanged).with_for_update()) is None:
            return False
        if new_hash:
            connection.execute(update(users).where(users.c.id == user.id).values(password=new_hash))
        return True

    def member(self, connection: Connection, subject: str, name: str, role: str) -> MemberRow:
        """Return id and name of a company's member within a transaction, with the role of now.

        A new member becomes a user; one who is known keeps the name. InputError: a new one's name cannot be
        one here, or is another's.
        """
        query = update(users).where(users.c.subject == subject).values(role=_check_role(role))
        query = query.returning(users.c.id, users.c.name)
        user: MemberRow | None = connection.execute(query).one_or_none()
        if user is None:
            row = {"name": check_name(name), "password": "", "role": role, "created_at": now()}
            self._insert(connection, {**row, "subject": subject})
            user = connection.execute(query).one()
        return user


class Tokens(Accounts):
    """Tokens of programs."""

    table = tokens
    shown = ("name", "role", "created_at", "used_at", "expires_at")

    def add(self, name: str, role: str, *, expires: float | None = None, who: str = COMMAND_LINE) -> str:
        """Add a token and return the secret, which is never shown again.

        Args:
            name: of the token.
            role: of its program.
            expires: seconds from now; None: never.
            who: adds it.

        Raises:
            InputError: name, role or time is not allowed, or the name is taken.
        """
        if expires is not None and not 0 < expires <= MAX_TOKEN_SECONDS:
            raise InputError("a token that expires holds for more than nothing and at most 100 years")
        name = check_name(name)
        secret = _TOKEN_PREFIX + secrets.token_urlsafe(32)
        at = now()
        until = None if expires is None else at + round(expires * 1e6)
        row = {"name": name, "hash": digest(secret), "role": _check_role(role), "created_at": at}
        self._add(who, "" if until is None else f" until {iso(until)[:10]}", {**row, "expires_at": until})
        return secret

    def find(self, hashed: str) -> TokenRow | None:
        """Return the token whose secret has this SHA-256, also one that has expired; None: there is none."""
        return self.database.row(select(tokens).where(tokens.c.hash == hashed))

    def note_use(self, number: int, at: int) -> None:
        """Store when a token was last used (microseconds since 1970).

        Nothing is stored where the store cannot be used.
        """
        with suppress(StoreError), self.database.writing() as connection:
            connection.execute(update(tokens).where(tokens.c.id == number).values(used_at=at))


def digest(secret: str) -> str:
    """Return the SHA-256 of a token's or cookie's secret, as hexadecimal digits."""
    return hashlib.sha256(secret.encode()).hexdigest()


def normalize_name(name: str) -> str:
    """Return the name in lower case: tablets like to begin with a capital letter."""
    return unicodedata.normalize("NFC", name.strip().lower())


def check_name(name: str) -> str:
    """Return the name of an account in its stored form, which is lower case.

    Raises:
        InputError: it has other signs or too many, mixes alphabets that look alike, or means everybody.
    """
    normalized = normalize_name(name)
    if not _NAME_PATTERN.fullmatch(normalized):
        rule = "use letters, digits and . _ - + @, beginning with a letter, 64 at most"
        raise InputError(f"{name!r:.80} cannot be a name: {rule}")
    letters = {unicodedata.name(c, "").partition(" ")[0] for c in normalized if c.isalpha()}
    if unicodedata.normalize("NFKC", normalized) != normalized or len(letters & _ALPHABETS) > 1:
        raise InputError(f"{name!r:.80} looks like another name: use the letters of one keyboard")
    if normalized == LOCAL_PERSON.name:
        raise InputError(f"{normalized} is everybody on an open station: choose another name")
    return normalized


def _check_role(role: str) -> str:
    if role not in ROLES:
        raise InputError(f"there is no role {role!r:.80}: choose {', '.join(ROLES[:-1])} or {ROLES[-1]}")
    return role
