"""Passwords, and limits on sign-ins: who guesses has to wait, and few passwords are hashed at a time."""

from __future__ import annotations

import ipaddress
import math
import secrets
import threading
import time
import unicodedata
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from flawscope.errors import InputError, pluralize

MAX_ENTRIES = 10_000  # names and addresses in memory; the longest unused are forgotten
_Key = tuple[str, str]  # name and address; "" stands for all
FORGET_SECONDS = 3600.0  # from a wait's end until its failures are forgotten
# Failures without a wait, and the longest wait in seconds: of a name at one address, of a name at all
# addresses, of an address with all names. Further failures wait 1, 2, 4 ... seconds
LIMITS = PAIR_LIMIT, NAME_LIMIT, ADDRESS_LIMIT = (5, 60.0), (20, 60.0), (20, 1.0)


class SignInError(InputError):
    """The sign-in failed.

    Attributes:
        wait: seconds until the next try is allowed; 0: name or password is wrong.
    """

    def __init__(self, text: str, wait: int = 0):
        super().__init__(text)
        self.wait = wait


@dataclass
class _Failures:
    count: int = 0
    blocked_until: float = 0.0  # time of the clock


class SignInThrottle:
    """Makes sign-ins wait after failures. Thread-safe, in memory: a restart of the station forgets them."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, max_entries: int = MAX_ENTRIES):
        self._clock = clock
        self._max_entries = max_entries
        self._lock = threading.Lock()
        self._failures: OrderedDict[_Key, _Failures] = OrderedDict()
        self._known_addresses: OrderedDict[_Key, None] = OrderedDict()  # where each name has signed in

    def begin(self, name: str, address: str) -> bool:
        """Count a try as a failure until `record_success`, so that tries at the same time count, too.

        A name that signed in at this address before waits only for its own failures there.

        Returns:
            Whether the name signed in at this address before.

        Raises:
            SignInError: the try is too early.
        """
        now = self._clock()
        keys = _throttle_keys(name, address)
        with self._lock:
            all_failures = [self._failures_of(key, now) for key in keys]
            is_known_address = keys[0] in self._known_addresses
            limiting = all_failures[: 1 if is_known_address else None]
            wait = math.ceil(max(failures.blocked_until for failures in limiting) - now)
            if wait > 0:
                text = f"too many failed sign-ins: try again in {pluralize(wait, 'second')}"
                raise SignInError(text, wait)
            for failures in all_failures:
                failures.count += 1
            for failures, (free, longest) in zip(limiting, LIMITS, strict=False):
                excess = failures.count - free
                failures.blocked_until = now + (min(longest, 2.0 ** min(excess, 30)) if excess >= 0 else 0.0)
        return is_known_address

    def record_success(self, name: str, address: str) -> None:
        """Forget the failures of the name; of the address only this try, which was none."""
        self.cancel(name, address)
        pair_key, name_key, _ = _throttle_keys(name, address)
        with self._lock:
            for key in (pair_key, name_key):
                self._failures.pop(key, None)
            self._known_addresses[pair_key] = None
            self._known_addresses.move_to_end(pair_key)
            while len(self._known_addresses) > self._max_entries:
                self._known_addresses.popitem(last=False)

    def cancel(self, name: str, address: str) -> None:
        """Take back the count of a try that was not made, or was no failure."""
        with self._lock:
            for key in _throttle_keys(name, address):
                if failures := self._failures.get(key):
                    failures.count -= 1

    def _failures_of(self, key: _Key, now: float) -> _Failures:
        failures = self._failures.pop(key, None)
        if failures is None or failures.blocked_until + FORGET_SECONDS < now:
            failures = _Failures(blocked_until=now)
        self._failures[key] = failures  # the last used is last
        while len(self._failures) > self._max_entries:
            self._failures.popitem(last=False)
        return failures


def _throttle_keys(name: str, address: str) -> tuple[_Key, _Key, _Key]:
    name = name[:64]
    address = subnet(address)
    return (name, address), (name, ""), ("", address)


def subnet(address: str) -> str:
    """Return the address; of IPv6 its /64 network, all of whose addresses one client can have."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    return address if ip.version == 4 else str(ipaddress.ip_network((ip, 64), strict=False))


# characters of a password
MIN_LENGTH = 10
MAX_LENGTH = 1000
# passwords being hashed, 64 MB each; being hashed or waiting
MAX_CONCURRENT = 2
MAX_PENDING = 8
MAX_PENDING_PER_ADDRESS = 4  # of MAX_PENDING, from one address


class Passwords:
    """Hashes and verifies passwords, few at a time. Thread-safe.

    A flood of sign-ins must not take the station's memory and cores, and a flood from one address must not
    keep all others out. Methods raise SignInError where too many wait. Their `address` is the client's, and
    "" where the user has signed in from it before.
    """

    def __init__(self) -> None:
        self.hasher = PasswordHasher()
        self._slots, self._lock = threading.Semaphore(MAX_CONCURRENT), threading.Lock()
        self.pending: Counter[str] = Counter()  # by address
        self._dummy_hash = ""  # of a random password, for names that do not exist

    def hash(self, password: str, address: str = "") -> str:
        """Return the argon2 hash of a password, with its salt and parameters. SignInError: too many wait."""
        with self._slot(address):
            return self.hasher.hash(_encode(password))

    def verify(self, hashed: str | None, password: str, address: str = "") -> bool:
        """Whether the password has this hash. The hash None is always wrong, and takes as long."""
        self._dummy_hash = self._dummy_hash or self.hash(secrets.token_urlsafe(32), address)
        with self._slot(address):
            try:
                return self.hasher.verify(hashed or self._dummy_hash, _encode(password))
            except (VerificationError, InvalidHashError):
                return False

    @contextmanager
    def _slot(self, address: str) -> Iterator[None]:
        address = subnet(address)
        with self._lock:
            if self.pending[address] >= MAX_PENDING_PER_ADDRESS or self.pending.total() >= MAX_PENDING:
                raise SignInError("too many people are signing in: try again in 2 seconds", 2)
            self.pending[address] += 1
        try:
            with self._slots:
                yield
        finally:
            with self._lock:
                self.pending[address] -= 1
                self.pending += Counter()  # drops addresses with a count of 0


def check_password(password: str) -> str:
    """Return the password. InputError where it is too short or too long."""
    if not MIN_LENGTH <= len(password) <= MAX_LENGTH:
        raise InputError(
            f"the password has {pluralize(len(password), 'character')}: use {MIN_LENGTH} to {MAX_LENGTH}"
        )
    return password


def _encode(password: str) -> bytes:
    """Encode a password in the normal form NFC, since keyboards write the same letter in several ways."""
    return unicodedata.normalize("NFC", password).encode("utf-8", "surrogatepass")
