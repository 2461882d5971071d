"""Slows down who guesses passwords: each failure of a name or an address makes the next wait longer."""

from __future__ import annotations

import ipaddress
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from flawscope.errors import InputError

MOST = 10_000  # names and addresses remembered; beyond that the longest unused are forgotten
FORGOTTEN = 3600.0  # seconds after its last failure


class SignInError(InputError):
    """Nobody was signed in.

    Attributes:
        wait: seconds to wait before it is tried again; 0: name or password is wrong.
    """

    def __init__(self, text: str, wait: int = 0):
        super().__init__(text)
        self.wait = wait


@dataclass(frozen=True)
class Patience:
    """free: failures without a wait; then 1, 2, 4 ... seconds, up to `longest`."""

    free: int
    longest: float

    def after(self, failures: int) -> float:
        late = failures - self.free
        return 0.0 if late < 0 else min(self.longest, 2.0 ** min(late, 30))


# A stranger who knows a name must not be able to keep its owner out for long; many people share an address
OF_NAME, OF_ADDRESS = Patience(5, 60.0), Patience(20, 300.0)


@dataclass
class _Tries:
    failures: int = 0
    until: float = 0.0  # nothing more is tried before


class Attempts:
    """Thread-safe, in memory: who restarts the station has to wait for that, too."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, most: int = MOST):
        self._clock, self._most = clock, most
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[str, str], _Tries] = OrderedDict()

    def begin(self, name: str, address: str) -> None:
        """Counted as a failure until `succeeded`: what is tried at the same time finds it counted.

        Raises:
            SignInError: it is too early.
        """
        now = self._clock()
        with self._lock:
            both = [(self._tries(key, now), key[0]) for key in _keys(name, address)]
            wait = math.ceil(max(tries.until for tries, _ in both) - now)
            if wait > 0:
                unit = "second" if wait == 1 else "seconds"
                raise SignInError(f"too many failed sign-ins: try again in {wait} {unit}", wait)
            for tries, kind in both:
                tries.failures += 1
                tries.until = now + (OF_NAME if kind == "name" else OF_ADDRESS).after(tries.failures)

    def succeeded(self, name: str, address: str) -> None:
        """The name starts anew; the address only gets back what this try took: who has one password must not
        guess others for ever."""
        of_name, of_address = _keys(name, address)
        with self._lock:
            self._known.pop(of_name, None)
            if tries := self._known.get(of_address):
                tries.failures -= 1
                tries.until = 0.0

    def _tries(self, key: tuple[str, str], now: float) -> _Tries:
        tries = self._known.pop(key, None)
        if tries is None or tries.until + FORGOTTEN < now:
            tries = _Tries(until=now)
        self._known[key] = tries  # the last used is last
        while len(self._known) > self._most:
            self._known.popitem(last=False)
        return tries


def _keys(name: str, address: str) -> tuple[tuple[str, str], tuple[str, str]]:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        pass
    else:
        if found.version == 6:  # whoever has one of these has 2^64
            address = str(ipaddress.ip_network((found, 64), strict=False))
    return ("name", name[:64]), ("address", address[:64])
