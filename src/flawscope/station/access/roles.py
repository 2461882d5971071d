"""Persons and their roles, and a short memory of those that were recognized."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

SENDER, VIEWER, OPERATOR, ENGINEER, ADMIN = ROLES = ("sender", "viewer", "operator", "engineer", "admin")


@dataclass(frozen=True)
class Person:
    """Sender of a request. has_token: a program; no other site can send requests in its name."""

    name: str
    role: str
    has_token: bool = False


SCOPE = "flawscope.person"  # key in an ASGI scope of the person whom the middleware found
LOCAL = Person("local", "admin")  # everybody, on an open station


def may(person: Person | None, role: str) -> bool:
    """Whether the person has that role or a higher one. A sender only sends, a viewer only looks; from
    operator on each role includes those before it."""
    if person is None or person.role not in ROLES:
        return False
    return person.role == role or ROLES.index(person.role) >= max(ROLES.index(role), ROLES.index(OPERATOR))


T = TypeVar("T")

FRESH = 3.0  # seconds for which a value is used without another look
MOST = 4096  # values


class Recall(Generic[T]):
    """Remembers for `FRESH` seconds what was read; failed look-ups, such as guesses, take no room.
    Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str], tuple[T, float]] = {}
        self._cleared = 0  # number of times

    def at_hand(self, key: tuple[str, str]) -> T:
        """Return a remembered value. KeyError where it must be read."""
        with self._lock:
            value, at = self._known[key]
        if self._clock() - at > FRESH:
            raise KeyError(key)
        return value

    def ask(self, key: tuple[str, str], read: Callable[[], T | None]) -> T | None:
        """Return the remembered value, else what `read` finds."""
        before = self._cleared
        try:
            return self.at_hand(key)
        except KeyError:
            found = read()
        with self._lock:
            self._known.pop(key, None)
            if found is not None and before == self._cleared:  # else it may be from before a change
                while len(self._known) >= MOST:
                    del self._known[next(iter(self._known))]
                self._known[key] = found, self._clock()
        return found

    def clear(self) -> None:
        with self._lock:
            self._known.clear()
            self._cleared += 1
