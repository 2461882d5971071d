"""Accounts of a station: users, and tokens of programs. Every change is one transaction, with an event.

The database has argon2 hashes of passwords, and the SHA-256 of tokens, which are random: nobody guesses them.
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
_SIMILAR_ALPHABETS = {"LATIN", "CYRILLIC", "GREEK"}  # some of their letters look the same
_TOKEN_PREFIX = "fls_"  # people and scanners recognize a token by it


class Accounts:
    """Accounts of a kind: users, or tokens.

    Methods raise InputError where a request cannot be carried out, StoreError where the database cannot be
    used.

    Args:
        database: Database of the station.
        on_change: Function that is called after each change.

    Attributes:
        table: Table of the accounts.
        listed_columns: Names of the columns that `all` returns.
    """

    table: Table
    listed_columns: tuple[str, ...]

    def __init__(self, database: Database, on_change: Callable[[], None]):
        self.database = database
        self._on_change = on_change

    @property
    def _kind(self) -> str:
        """Kind of the accounts: user or token."""
        return self.table.name.removesuffix("s")

    def all(self) -> Sequence[AccountRow]:
        """Return the columns `listed_columns` of all accounts, in the order of their names."""
        columns = [self.table.c[name] for name in self.listed_columns]
        return self.database.rows(select(*columns).order_by(self.table.c.name))

    def remove(self, name: str, *, who: str = COMMAND_LINE) -> None:
        """Remove an account, with its sessions.

        Args:
            name: Name of the account.
            who: Person who removes it.
        """
        stored_name = check_name(name)
        with self._change(f"{self._kind}_removed", who, f"{self._kind} {stored_name} removed") as connection:
            deletion = delete(self.table).where(self.table.c.name == stored_name)
            removed_id = connection.scalar(deletion.returning(self.table.c.id))
            if removed_id is None:
                raise self._not_found_error(stored_name)

    def _add(self, who: str, expiry_words: str, row: Mapping[str, object]) -> None:
        """Add an account, with an event.

        Args:
            who: Person who adds it.
            expiry_words: Words about the expiry of the account, for the event; "": it does not expire.
            row: Columns of the account.
        """
        text = f"{self._kind} {row['name']} added as {row['role']}{expiry_words}"
        with self._change(f"{self._kind}_added", who, text) as connection:
            self._insert(connection, row)

    def _insert(self, connection: Connection, row: Mapping[str, object]) -> None:
        """Insert an account into the table.

        A user and a token may not have the same name, because a verdict is stored with nothing but the name.

        Args:
            connection: Connection of the transaction.
            row: Columns of the account.

        Raises:
            InputError: the name is taken by a user or a token.
        """
        name = row["name"]
        other_table = tokens if self.table is users else users
        other_id = connection.scalar(select(other_table.c.id).where(other_table.c.name == name))
        if other_id is not None:
            other_kind = other_table.name.removesuffix("s")
            raise _taken_error(other_kind, name)
        insert = upsert(connection.dialect.name, self.table).values(**row).on_conflict_do_nothing()
        inserted_id = connection.scalar(insert.returning(self.table.c.id))
        if inserted_id is None:
            raise _taken_error(self._kind, name)

    @contextmanager
    def _change(self, event: str, who: str, text: str) -> Iterator[Connection]:
        """Open a transaction, add an event at its end, and call `on_change` after the commit.

        Args:
            event: Kind of the event.
            who: Person who makes the change.
            text: Text of the event.
        """
        with self.database.writing() as connection:
            yield connection
            add_event(connection, event, who, text)
        self._on_change()

    def _not_found_error(self, name: str) -> InputError:
        """Return the error that says that an account does not exist."""
        return InputError(f"there is no {self._kind} {name}; see `flawscope station {self._kind} list`")


class Users(Accounts):
    """People, who sign in with a password of the station, or with a company's account."""

    table = users
    listed_columns = ("name", "role", "created_at")

    def __init__(self, database: Database, on_change: Callable[[], None]):
        super().__init__(database, on_change)
        self.passwords = Passwords()

    def add(self, name: str, password: str, role: str, *, who: str = COMMAND_LINE) -> None:
        """Add a person who signs in with a password, of which only the hash is stored.

        Args:
            name: Name of the person.
            password: Password.
            role: Role of the person.
            who: Person who adds the account.

        Raises:
            InputError: the name, the password or the role is not allowed, or the name is taken.
        """
        if role == SENDER:
            raise InputError("a sender is no person: `flawscope station token add` makes one for a program")
        row = {
            "name": check_name(name),
            "password": self.passwords.hash(check_password(password)),
            "role": _check_role(role),
            "created_at": now(),
        }
        self._add(who, expiry_words="", row=row)

    def set_password(self, name: str, password: str, *, who: str = COMMAND_LINE) -> None:
        """Change the password of a user, and end the user's sessions.

        Args:
            name: Name of the user.
            password: New password.
            who: Person who changes it.
        """
        stored_name = check_name(name)
        password_hash = self.passwords.hash(check_password(password))
        with self._change("password_changed", who, f"password of user {stored_name} changed") as connection:
            change = update(users).where(users.c.name == stored_name).values(password=password_hash)
            row = connection.execute(change.returning(users.c.id, users.c.subject)).one_or_none()
            if row is None:
                raise self._not_found_error(stored_name)
            if row.subject is not None:
                raise InputError(
                    f"{stored_name} signs in with the company's account: the password is changed there"
                )
            connection.execute(delete(sessions).where(sessions.c.user_id == row.id))

    def find(self, name: str) -> UserRow | None:
        """Return the user with a name in lower case; None: there is no such user."""
        if not _NAME_PATTERN.fullmatch(name):  # the database fails on some texts, such as with a zero byte
            return None
        return self.database.row(select(users).where(users.c.name == name))

    def confirm(self, connection: Connection, user: UserRow, new_hash: str | None) -> bool:
        """Lock a user if the password is unchanged since `user` was read; store a new hash of the password.

        Args:
            connection: Connection of the transaction.
            user: User as it was read before the transaction.
            new_hash: New hash to store; None: the stored hash stays.

        Returns:
            Whether the user was locked; False: the password was changed or the user removed meanwhile.
        """
        is_unchanged = (users.c.id == user.id) & (users.c.password == user.password)
        unchanged_id = connection.scalar(select(users.c.id).where(is_unchanged).with_for_update())
        if unchanged_id is None:
            return False
        if new_hash:
            connection.execute(update(users).where(users.c.id == user.id).values(password=new_hash))
        return True

    def member(self, connection: Connection, subject: str, name: str, role: str) -> MemberRow:
        """Store the present role of a company's member; return the member's id and name.

        A new member becomes a user with the given name. A member who is a user already keeps the old name.

        Args:
            connection: Connection of the transaction.
            subject: Issuer and ID of the company's account.
            name: Name of a new member.
            role: Present role.

        Raises:
            InputError: the name of a new member is not allowed here, or is taken.
        """
        set_role = update(users).where(users.c.subject == subject).values(role=_check_role(role))
        set_role = set_role.returning(users.c.id, users.c.name)
        user: MemberRow | None = connection.execute(set_role).one_or_none()
        if user is None:
            row = {
                "name": check_name(name),
                "password": "",
                "role": role,
                "created_at": now(),
                "subject": subject,
            }
            self._insert(connection, row)
            user = connection.execute(set_role).one()  # again, for id and name of the new row
        return user


class Tokens(Accounts):
    """Tokens of programs."""

    table = tokens
    listed_columns = ("name", "role", "created_at", "used_at", "expires_at")

    def add(self, name: str, role: str, *, expires: float | None = None, who: str = COMMAND_LINE) -> str:
        """Add a token and return its secret, which is never shown again.

        Args:
            name: Name of the token.
            role: Role of the program that has the token.
            expires: Seconds from now after which the token expires; None: never.
            who: Person who adds it.

        Raises:
            InputError: name, role or time is not allowed, or the name is taken.
        """
        if expires is not None and not 0 < expires <= MAX_TOKEN_SECONDS:
            raise InputError("a token that expires holds for more than nothing and at most 100 years")
        stored_name = check_name(name)
        secret = _TOKEN_PREFIX + secrets.token_urlsafe(32)
        created_at = now()
        expires_at = None
        expiry_words = ""
        if expires is not None:
            expires_at = created_at + round(expires * 1e6)
            last_day = iso(expires_at)[:10]
            expiry_words = f" until {last_day}"
        row = {
            "name": stored_name,
            "hash": digest(secret),
            "role": _check_role(role),
            "created_at": created_at,
            "expires_at": expires_at,
        }
        self._add(who, expiry_words=expiry_words, row=row)
        return secret

    def find(self, secret_hash: str) -> TokenRow | None:
        """Return the token whose secret has this SHA-256, expired or not; None: there is no such token."""
        return self.database.row(select(tokens).where(tokens.c.hash == secret_hash))

    def note_use(self, number: int, at: int) -> None:
        """Record the last use of a token, unless the database cannot be used.

        Args:
            number: Number of the token.
            at: Time of the use, microseconds since 1970.
        """
        with suppress(StoreError), self.database.writing() as connection:
            connection.execute(update(tokens).where(tokens.c.id == number).values(used_at=at))


def _taken_error(kind: str, name: object) -> InputError:
    """Return the error that says that a name is taken.

    Args:
        kind: Kind of the account that has the name: user or token.
        name: Name that is taken.
    """
    remedy = f"choose another name, or first `flawscope station {kind} remove {name}`"
    return InputError(f"there is a {kind} {name} already: {remedy}")


def digest(secret: str) -> str:
    """Return the SHA-256 of a token's or cookie's secret, as hexadecimal digits."""
    return hashlib.sha256(secret.encode()).hexdigest()


def normalize_name(name: str) -> str:
    """Return a name stripped and in lower case, because tablets begin an input with a capital letter."""
    return unicodedata.normalize("NFC", name.strip().lower())


def check_name(name: str) -> str:
    """Return the name of an account in its stored form, which is lower case.

    Raises:
        InputError: the name has characters that are not allowed; or it is too long; or it mixes alphabets
            whose letters look the same; or it is `LOCAL_PERSON`'s, who is everybody on an open station.
    """
    normalized = normalize_name(name)
    if not _NAME_PATTERN.fullmatch(normalized):
        rule = "use letters, digits and . _ - + @, beginning with a letter, 64 at most"
        raise InputError(f"{name!r:.80} cannot be a name: {rule}")
    # the first word of a letter's Unicode name is its alphabet: LATIN SMALL LETTER A
    letters = [character for character in normalized if character.isalpha()]
    alphabets = {unicodedata.name(letter, "").partition(" ")[0] for letter in letters}
    # NFKC replaces letters by others that look the same
    is_ambiguous = unicodedata.normalize("NFKC", normalized) != normalized
    if is_ambiguous or len(alphabets & _SIMILAR_ALPHABETS) > 1:
        raise InputError(f"{name!r:.80} looks like another name: use the letters of one keyboard")
    if normalized == LOCAL_PERSON.name:
        raise InputError(f"{normalized} is everybody on an open station: choose another name")
    return normalized


def _check_role(role: str) -> str:
    """Return a role unchanged; raise InputError if there is no such role."""
    if role not in ROLES:
        raise InputError(f"there is no role {role!r:.80}: choose {', '.join(ROLES[:-1])} or {ROLES[-1]}")
    return role
