"""Sign-ins: guessing passwords is slowed down, for the guesser alone; few passwords are hashed at a time."""

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

MOST = 10_000  # names and addresses that are remembered; the longest unused are forgotten
FORGOTTEN = 3600.0  # seconds after the last failure
# Failures without a wait, and the longest wait in seconds: of a name at an address, of a name anywhere, of an
# address with any names. After the free ones the wait is 1, 2, 4 ... seconds
LIMITS = OF_PAIR, OF_NAME, OF_ADDRESS = (5, 60.0), (20, 60.0), (20, 1.0)


class SignInError(InputError):
    """The sign-in failed.

    Attributes:
        wait: seconds until the next try is allowed; 0: name or password is wrong.
    """

    def __init__(self, text: str, wait: int = 0):
        super().__init__(text)
        self.wait = wait


@dataclass
class _Tries:
    failures: int = 0
    until: float = 0.0  # no try is allowed before


class Attempts:
    """Failed sign-ins by name and address. Thread-safe, in memory: a restart of the station forgets them."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, most: int = MOST):
        self._clock, self._most = clock, most
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[str, str], _Tries] = OrderedDict()  # by name and address, "": any
        self._homes: OrderedDict[tuple[str, str], None] = OrderedDict()  # names, and where they signed in

    def begin(self, name: str, address: str) -> bool:
        """Count a try as a failure until `succeeded`, so that tries at the same time count, too. A name that
        signed in at this address before is held up by its own failures there alone.

        Returns:
            Whether the name signed in at this address before.

        Raises:
            SignInError: the try is too early.
        """
        now, keys = self._clock(), _keys(name, address)
        with self._lock:
            several = [self._tries(key, now) for key in keys]
            is_home = keys[0] in self._homes
            held = several[: 1 if is_home else None]
            wait = math.ceil(max(tries.until for tries in held) - now)
            if wait > 0:
                text = f"too many failed sign-ins: try again in {pluralize(wait, 'second')}"
                raise SignInError(text, wait)
            for tries in several:
                tries.failures += 1
            for tries, (free, longest) in zip(held, LIMITS, strict=False):
                late = tries.failures - free
                tries.until = now + (min(longest, 2.0 ** min(late, 30)) if late >= 0 else 0.0)
        return is_home

    def succeeded(self, name: str, address: str) -> None:
        """Forget the failures of a name; the address only gets back the count of this try."""
        self.take_back(name, address)
        pair, of_name, _ = _keys(name, address)
        with self._lock:
            for key in (pair, of_name):
                self._known.pop(key, None)
            self._homes[pair] = None
            self._homes.move_to_end(pair)
            while len(self._homes) > self._most:
                self._homes.popitem(last=False)

    def take_back(self, name: str, address: str) -> None:
        """Uncount a try that was not made, or was no failure."""
        with self._lock:
            for key in _keys(name, address):
                if tries := self._known.get(key):
                    tries.failures -= 1

    def _tries(self, key: tuple[str, str], now: float) -> _Tries:
        tries = self._known.pop(key, None)
        if tries is None or tries.until + FORGOTTEN < now:
            tries = _Tries(until=now)
        self._known[key] = tries  # the last used is last
        while len(self._known) > self._most:
            self._known.popitem(last=False)
        return tries


def _keys(name: str, address: str) -> tuple[tuple[str, str], tuple[str, str], tuple[str, str]]:
    name, address = name[:64], subnet(address)
    return (name, address), (name, ""), ("", address)


def subnet(address: str) -> str:
    """Return the address, or for version 6 its network of 2^64 addresses, all of which one client has."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    return address if found.version == 4 else str(ipaddress.ip_network((found, 64), strict=False))


SHORTEST, LONGEST = 10, 1000  # characters
AT_ONCE, IN_LINE = 2, 8  # hashed at the same time, 64 MB each; hashed or waiting
MOST_OF_ADDRESS = 4  # hashed or waiting, of an address


class Passwords:
    """Hashes passwords, few at a time: a flood of sign-ins must not take the station's memory and cores, and
    one from an address not the turns of all others. Thread-safe.

    Methods raise SignInError where too many wait. address: of the client, whose turns are bounded; "" for
    clients that are known there.
    """

    def __init__(self) -> None:
        self.hasher = PasswordHasher()
        self._turn, self._counting = threading.Semaphore(AT_ONCE), threading.Lock()
        self.line: Counter[str] = Counter()  # by address
        self._nobodys = ""  # hash of no password, for names that do not exist

    def hash(self, password: str, address: str = "") -> str:
        with self._in_turn(address):
            return self.hasher.hash(_bytes(password))

    def is_right(self, hashed: str | None, password: str, address: str = "") -> bool:
        """Whether the password has this hash. None takes as long, and is wrong."""
        self._nobodys = self._nobodys or self.hash(secrets.token_urlsafe(32), address)
        with self._in_turn(address):
            try:
                return self.hasher.verify(hashed or self._nobodys, _bytes(password))
            except (VerificationError, InvalidHashError):
                return False

    @contextmanager
    def _in_turn(self, address: str) -> Iterator[None]:
        address = subnet(address)
        with self._counting:
            if self.line[address] >= MOST_OF_ADDRESS or self.line.total() >= IN_LINE:
                raise SignInError("too many people are signing in: try again in 2 seconds", 2)
            self.line[address] += 1
        try:
            with self._turn:
                yield
        finally:
            with self._counting:
                self.line[address] -= 1
                self.line += Counter()  # removes addresses with none


def checked(password: str) -> str:
    """Return the password. InputError where it is too short or too long."""
    if not SHORTEST <= len(password) <= LONGEST:
        raise InputError(
            f"the password has {pluralize(len(password), 'character')}: use {SHORTEST} to {LONGEST}"
        )
    return password


def _bytes(password: str) -> bytes:
    """Encode a password in one form: keyboards write the same letter in several ways."""
    return unicodedata.normalize("NFC", password).encode("utf-8", "surrogatepass")
