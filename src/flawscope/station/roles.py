"""Who somebody is to the station, and what that allows."""

from __future__ import annotations

from dataclasses import dataclass

ROLES = ("operator", "engineer", "admin")  # each may do what those before it may


@dataclass(frozen=True)
class Person:
    """Who sends a request.

    csrf: of the session, to be sent with what changes something; empty for tokens and on an open station.
    """

    name: str
    role: str
    csrf: str = ""


LOCAL = Person("local", "admin")  # everybody, on an open station


def may(person: Person | None, role: str) -> bool:
    """Whether the person has that role or a higher one."""
    return person is not None and ROLES.index(person.role) >= ROLES.index(role)
