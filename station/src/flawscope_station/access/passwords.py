"""Passwords: their hashes, of which few are computed at a time."""

from __future__ import annotations

import secrets
import threading
import unicodedata
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from flawscope.errors import InputError, pluralize
from flawscope_station.access.sign_in_throttle import SignInError, subnet

MIN_LENGTH = 10  # characters of a password
MAX_LENGTH = 1000  # characters of a password
MAX_CONCURRENT = 2  # passwords that are hashed at the same time, with 64 MB each
MAX_PENDING = 8  # passwords that are hashed or wait
MAX_PENDING_PER_ADDRESS = 4  # passwords from one address that are hashed or wait


class Passwords:
    """Hashing and verification of passwords, few at a time; thread-safe.

    A flood of sign-ins must not take the station's memory and cores, and a flood from one address must not
    keep all others out. Methods raise SignInError where too many passwords wait. Their `address` is the
    client's; it is "" for a user who has signed in from the client's address before.

    Attributes:
        hasher: Hasher with the parameters of argon2.
        pending: Number of passwords that are hashed or wait, by address.
    """

    def __init__(self) -> None:
        self.hasher = PasswordHasher()
        self._slots = threading.Semaphore(MAX_CONCURRENT)
        self._lock = threading.Lock()
        self.pending: Counter[str] = Counter()
        self._dummy_hash = ""  # hash of a random password, against which unknown names are verified

    def hash(self, password: str, address: str = "") -> str:
        """Return the argon2 hash of a password, with its salt and parameters."""
        with self._slot(address):
            return self.hasher.hash(_encode(password))

    def verify(self, password_hash: str | None, password: str, address: str = "") -> bool:
        """Return whether a password matches a hash.

        Args:
            password_hash: Hash of the right password; None: no password is right. The answer then takes as
                long as with a hash, so that nobody finds out which names exist.
            password: Password to verify.
            address: Address of the client; "": the user has signed in from this address before.
        """
        if not self._dummy_hash:
            self._dummy_hash = self.hash(secrets.token_urlsafe(32), address)
        with self._slot(address):
            try:
                return self.hasher.verify(password_hash or self._dummy_hash, _encode(password))
            except (VerificationError, InvalidHashError):
                return False

    @contextmanager
    def _slot(self, address: str) -> Iterator[None]:
        """Wait until a password from an address may be hashed, and hold one of the slots during the block.

        Raises:
            SignInError: too many passwords wait already.
        """
        network = subnet(address)
        with self._lock:
            if self.pending[network] >= MAX_PENDING_PER_ADDRESS or self.pending.total() >= MAX_PENDING:
                raise SignInError("too many people are signing in: try again in 2 seconds", 2)
            self.pending[network] += 1
        try:
            with self._slots:
                yield
        finally:
            with self._lock:
                self.pending[network] -= 1
                self.pending += Counter()  # adding a counter removes entries that are 0


def check_password(password: str) -> str:
    """Return a password unchanged; raise InputError if it is too short or too long."""
    if not MIN_LENGTH <= len(password) <= MAX_LENGTH:
        raise InputError(
            f"the password has {pluralize(len(password), 'character')}: use {MIN_LENGTH} to {MAX_LENGTH}"
        )
    return password


def _encode(password: str) -> bytes:
    """Encode a password in the normal form NFC: keyboards encode the same letter in different ways."""
    return unicodedata.normalize("NFC", password).encode("utf-8", "surrogatepass")
