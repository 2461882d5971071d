"""Passwords, and limits of sign-ins: guessing takes long, and few passwords are hashed at a time."""

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
from typing import NamedTuple

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from flawscope.errors import InputError, pluralize

MAX_ENTRIES = 10_000  # names and addresses in memory; those unused for longest are forgotten
_Key = tuple[str, str]  # name and address; "" stands for all names, or all addresses
MAX_KEY_LENGTH = 64  # characters of a name or an address in a key
MAX_EXPONENT = 30  # of the growing wait: far beyond the longest one, and no number overflows
FORGET_SECONDS = 3600.0  # time from the end of a wait until its failures are forgotten


class ThrottleLimit(NamedTuple):
    """Number of failures without a wait, and the longest wait; further failures wait 1, 2, 4 ... seconds."""

    free_failures: int
    max_wait: float  # seconds


PAIR_LIMIT = ThrottleLimit(5, 60.0)  # of a name at one address
NAME_LIMIT = ThrottleLimit(20, 60.0)  # of a name at all addresses
ADDRESS_LIMIT = ThrottleLimit(20, 1.0)  # of an address with all names
LIMITS = (PAIR_LIMIT, NAME_LIMIT, ADDRESS_LIMIT)  # in the order of `_throttle_keys`


class SignInError(InputError):
    """The sign-in failed.

    Attributes:
        wait: Seconds until the next try is allowed; 0: name or password is wrong.
    """

    def __init__(self, text: str, wait: int = 0):
        super().__init__(text)
        self.wait = wait


@dataclass
class _Failures:
    """Failed sign-ins of a name, an address or both, and the time until which further tries wait."""

    count: int = 0
    blocked_until: float = 0.0  # time of the throttle's clock, seconds


class SignInThrottle:
    """Throttle that lets sign-ins wait after failures; thread-safe.

    The failures are in memory alone: a restart of the station forgets them.

    Args:
        clock: Function that returns a time in seconds.
        max_entries: Largest number of names and addresses in memory.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, max_entries: int = MAX_ENTRIES):
        self._clock = clock
        self._max_entries = max_entries
        self._lock = threading.Lock()
        self._failures: OrderedDict[_Key, _Failures] = OrderedDict()  # the latest used is last
        # ordered set of the names and addresses with a sign-in, the latest last
        self._known_addresses: OrderedDict[_Key, None] = OrderedDict()

    def begin(self, name: str, address: str) -> bool:
        """Count a try as a failure in advance; `record_success` or `cancel` takes that back.

        In this way, simultaneous tries count, too. If the name has signed in at this address before, only
        failures of this name at this address make it wait, not those of other names or at other addresses.

        Args:
            name: Name of the user.
            address: IP address of the client.

        Returns:
            Whether the name has signed in at this address before.

        Raises:
            SignInError: the wait after earlier failures is not over; the try is not counted.
        """
        now = self._clock()
        keys = _throttle_keys(name, address)
        with self._lock:
            all_failures = [self._failures_of(key, now) for key in keys]
            pair_key, _, _ = keys
            is_known_address = pair_key in self._known_addresses
            limits_in_force = (PAIR_LIMIT,) if is_known_address else LIMITS
            # at a known address, `zip` takes the failures of the pair only
            failures_and_limits = list(zip(all_failures, limits_in_force, strict=False))
            blocked_until = max(failures.blocked_until for failures, _ in failures_and_limits)
            wait = math.ceil(blocked_until - now)
            if wait > 0:
                text = f"too many failed sign-ins: try again in {pluralize(wait, 'second')}"
                raise SignInError(text, wait)
            for failures in all_failures:
                failures.count += 1
            for failures, limit in failures_and_limits:
                failures.blocked_until = now + _wait_after(failures.count, limit)
        return is_known_address

    def record_success(self, name: str, address: str) -> None:
        """Forget the failures of the name, and count this try at the address as no failure."""
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
        """Take back the count of a try by `begin`, because it was not made or did not fail."""
        with self._lock:
            for key in _throttle_keys(name, address):
                failures = self._failures.get(key)
                if failures is not None:
                    failures.count -= 1

    def _failures_of(self, key: _Key, now: float) -> _Failures:
        """Return the failures under a key, without old ones, and mark the key as the latest used."""
        failures = self._failures.pop(key, None)
        if failures is None or failures.blocked_until + FORGET_SECONDS < now:
            failures = _Failures(blocked_until=now)
        self._failures[key] = failures  # at the end, as the latest used
        while len(self._failures) > self._max_entries:
            self._failures.popitem(last=False)
        return failures


def _wait_after(failure_count: int, limit: ThrottleLimit) -> float:
    """Return the seconds to wait: 0 below `limit.free_failures` failures, from then on 1, 2, 4 ..."""
    excess = failure_count - limit.free_failures
    if excess < 0:
        return 0.0
    return min(limit.max_wait, 2.0 ** min(excess, MAX_EXPONENT))


def _throttle_keys(name: str, address: str) -> tuple[_Key, _Key, _Key]:
    """Return the keys of a name at an address, of the name alone, and of the address alone."""
    short_name = name[:MAX_KEY_LENGTH]
    network = subnet(address)
    return (short_name, network), (short_name, ""), ("", network)


def subnet(address: str) -> str:
    """Return the network of an address; all addresses of a network count as one client.

    An IPv4 address is returned unchanged. For an IPv6 address, the /64 network is returned, because one
    client may use all addresses of it. A text that is no address is cut off at `MAX_KEY_LENGTH` characters.
    """
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address[:MAX_KEY_LENGTH]
    if ip.version == 4:
        return address
    return str(ipaddress.ip_network((ip, 64), strict=False))


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
