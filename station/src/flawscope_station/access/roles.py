"""Persons and their roles.

A request of a person without the role is refused in `web.middleware.require_role`.
"""

from __future__ import annotations

from dataclasses import dataclass

SENDER = "sender"
VIEWER = "viewer"
OPERATOR = "operator"
ENGINEER = "engineer"
ADMIN = "admin"
ROLES = (SENDER, VIEWER, OPERATOR, ENGINEER, ADMIN)


@dataclass(frozen=True)
class Person:
    """Sender of a request.

    Attributes:
        name: Name of the user or the token.
        role: Role, in `ROLES`.
        has_token: Whether the sender is a program with a token. Unlike a browser with its cookie, it sends no
            requests that another web site has caused.
    """

    name: str
    role: str
    has_token: bool = False


PERSON_KEY = "flawscope.person"  # key of an ASGI scope, under which the middleware puts the sender
LOCAL_PERSON = Person("local", "admin")  # sender of every request to an open station


def has_role(person: Person | None, role: str) -> bool:
    """Return whether a person has a role, or a role that includes it.

    Operator and the roles after it in `ROLES` include all roles before them. A sender and a viewer have no
    other role than their own.

    Args:
        person: Sender of a request; None: unknown, without any role.
        role: Role, in `ROLES`.
    """
    if person is None or person.role not in ROLES:
        return False
    rank = ROLES.index(person.role)
    includes_lower_roles = rank >= ROLES.index(OPERATOR)
    return person.role == role or (includes_lower_roles and rank >= ROLES.index(role))
