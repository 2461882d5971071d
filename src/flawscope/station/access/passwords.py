"""Hashes of passwords, by argon2, a few at a time."""

from __future__ import annotations

import secrets
import threading
import time
import unicodedata
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from flawscope.errors import InputError
from flawscope.progress import counted
from flawscope.station.access.login_throttle import SignInError, subnet

SHORTEST, LONGEST = 10, 1000  # characters
AT_ONCE, IN_LINE = 2, 8  # hashed at the same time, 64 MB each; and these with those that wait
OF_ADDRESS = 4  # of these


class Passwords:
    """Hashing takes memory and all cores: a flood of sign-ins must not take the station's, and one that comes
    from an address not the turns of all others. Thread-safe.

    Methods raise SignInError where too many wait. address: whose turn it is; "" for whoever is known there.
    """

    def __init__(self) -> None:
        self.hasher, self.sleep = PasswordHasher(), time.sleep
        self._turn, self._counting = threading.Semaphore(AT_ONCE), threading.Lock()
        self.line: Counter[str] = Counter()  # by address
        self._nobodys = ""  # hash of no password, for names that do not exist

    def hash(self, password: str, address: str = "") -> str:
        with self._in_turn(address):
            return self.hasher.hash(_bytes(password))

    def is_right(self, hashed: str | None, password: str, address: str = "", rest: float = 0.0) -> bool:
        """Whether the password has this hash; as long without one, which is wrong.

        Args:
            rest: seconds before it is checked.
        """
        self._nobodys = self._nobodys or self.hash(secrets.token_urlsafe(32), address)
        with self._in_turn(address, rest):
            try:
                return self.hasher.verify(hashed or self._nobodys, _bytes(password))
            except (VerificationError, InvalidHashError):
                return False

    @contextmanager
    def _in_turn(self, address: str, rest: float = 0.0) -> Iterator[None]:
        address = subnet(address)
        with self._counting:
            if self.line[address] >= OF_ADDRESS or self.line.total() >= IN_LINE:
                raise SignInError("too many people are signing in: try again in 2 seconds", 2)
            self.line[address] += 1
        try:
            if rest:
                self.sleep(rest)
            with self._turn:
                yield
        finally:
            with self._counting:
                self.line[address] -= 1
                self.line += Counter()  # removes those that have none


def checked(password: str) -> str:
    """The password. InputError where it is too short or too long."""
    if not SHORTEST <= len(password) <= LONGEST:
        raise InputError(
            f"the password has {counted(len(password), 'character')}: use {SHORTEST} to {LONGEST}"
        )
    return password


def _bytes(password: str) -> bytes:
    """Keyboards write the same letter in several ways."""
    return unicodedata.normalize("NFC", password).encode("utf-8", "surrogatepass")
