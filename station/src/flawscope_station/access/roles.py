"""Persons and their roles.

A request of a person without the role is refused in `web.middleware.require_role`.
"""

from __future__ import annotations

from dataclasses import dataclass

SENDER, VIEWER, OPERATOR, ENGINEER, ADMIN = ROLES = ("sender", "viewer", "operator", "engineer", "admin")


@dataclass(frozen=True)
class Person:
    """Sender of a request.

    Attributes:
        name: Of the user or the token.
        role: One of `ROLES`.
        has_token: It is a program, in whose name no web site can send requests.
    """

    name: str
    role: str
    has_token: bool = False


PERSON_KEY = "flawscope.person"  # key of an ASGI scope: the person whom the middleware found
LOCAL_PERSON = Person("local", "admin")  # sender of every request to an open station


def has_role(person: Person | None, role: str) -> bool:
    """Whether the person has that role or a higher one.

    A sender only sends, a viewer only looks; from operator on each role includes those before it.
    """
    if person is None or person.role not in ROLES:
        return False
    return person.role == role or ROLES.index(person.role) >= max(ROLES.index(role), ROLES.index(OPERATOR))
