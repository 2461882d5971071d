"""Limits of sign-ins: after failures a name and an address wait, so that guessing a password takes long."""

from __future__ import annotations

import ipaddress
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

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
        failures of this name at this address delay the try, not those of other names or at other addresses.

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
        """Take a try's count back, forget the failures of the name, and remember the address as known."""
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
