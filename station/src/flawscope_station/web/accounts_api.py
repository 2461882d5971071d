"""Routes of users and tokens, for programs that keep many stations; admins alone."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import Depends
from pydantic import BaseModel, ConfigDict, Field

from flawscope_station.access.roles import ADMIN, LOCAL_PERSON, Person
from flawscope_station.settings.values import parse_age
from flawscope_station.store.records import iso
from flawscope_station.store.rows import AccountRow
from flawscope_station.web.api import Answer, api_router, refusals
from flawscope_station.web.components import AccessDep
from flawscope_station.web.errors import RefusedError
from flawscope_station.web.middleware import require_role

router = api_router(prefix="/api/v1", role=ADMIN)
Admin = Annotated[Person, Depends(require_role(ADMIN))]
UserRole = Literal["viewer", "operator", "engineer", "admin"]


class User(BaseModel):
    """Account of a person who may sign in."""

    name: str
    role: str
    created_at: str


class Token(User):
    """Account of a program, with the use and the end of its token."""

    used_at: str | None
    expires_at: str | None = Field(description="end of the token; null: none")


class Users(BaseModel):
    """All accounts of people."""

    users: list[User]


class Tokens(BaseModel):
    """All accounts of programs."""

    tokens: list[Token]


class NewUser(BaseModel):
    """Person who may sign in."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(max_length=64)
    password: str = Field(max_length=1000)
    role: UserRole = "operator"


class NewPassword(BaseModel):
    """New password of a person."""

    model_config = ConfigDict(extra="forbid")
    password: str = Field(max_length=1000)


class NewToken(BaseModel):
    """Token of a program."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"name": "camera1"}})
    name: str = Field(max_length=64)
    role: Literal["sender", UserRole] = "operator"
    expires: str | None = Field(
        None, max_length=40, description="lifetime of the token, such as 90 days; null: no end"
    )


class Secret(BaseModel):
    """New token of a program, in the only answer that shows it."""

    name: str
    token: str = Field(description="the token itself: keep it, for no later answer shows it")


@router.get("/users", response_model=Users)
def users(access: AccessDep) -> Answer:
    """List the accounts of people who may sign in."""
    return {"users": [_account_facts(row) for row in access.users.all()]}


@router.post("/users", status_code=201, response_model=Users, responses=refusals(409))
def add_user(new: NewUser, access: AccessDep, person: Admin) -> Answer:
    """Add a person who may sign in.

    If the station has no users yet, the first one must be an administrator: from then on everybody must sign
    in. Any other role is refused with 409.
    """
    if person == LOCAL_PERSON and new.role != ADMIN:  # there are no users yet
        text = f"from now on everybody signs in, and {new.name} could add nobody: begin with an admin"
        raise RefusedError(409, text, "no_admin")
    access.users.add(new.name, new.password, new.role, who=person.name)
    return users(access)


@router.post("/users/{user}/password", response_model=Users)
def set_password(user: str, new: NewPassword, access: AccessDep, person: Admin) -> Answer:
    """Set a new password for a person, and end the person's sessions."""
    access.users.set_password(user, new.password, who=person.name)
    return users(access)


@router.delete("/users/{user}", response_model=Users)
def remove_user(user: str, access: AccessDep, person: Admin) -> Answer:
    """Remove a person's account, and end the person's sessions."""
    access.users.remove(user, who=person.name)
    return users(access)


@router.get("/tokens", response_model=Tokens)
def tokens(access: AccessDep) -> Answer:
    """List the accounts of programs, without their tokens."""
    return {"tokens": [_account_facts(row) for row in access.tokens.all()]}


@router.post("/tokens", status_code=201, response_model=Secret, responses=refusals(409))
def add_token(new: NewToken, access: AccessDep, person: Admin) -> Answer:
    """Make a token for a program; no later answer shows it.

    A station without users refuses this with 409: add a user first.
    """
    if person == LOCAL_PERSON:  # there are no users
        text = (
            "a token ends the open access, and nobody could sign in at the pages: first add a user, with "
            "POST /users or `flawscope station user add NAME --role admin`"
        )
        raise RefusedError(409, text, "no_users")
    lifetime_seconds = None if new.expires is None else parse_age(new.expires, "expires: ")
    token = access.tokens.add(new.name, new.role, expires=lifetime_seconds, who=person.name)
    return {"name": new.name, "token": token}


@router.delete("/tokens/{token}", response_model=Tokens)
def remove_token(token: str, access: AccessDep, person: Admin) -> Answer:
    """Remove a token: requests with it are refused from now on."""
    access.tokens.remove(token, who=person.name)
    return tokens(access)


def _account_facts(row: AccountRow) -> dict[str, object]:
    """Return an account's columns by name; times are ISO text."""
    facts: dict[str, object] = {}
    for name, value in row._mapping.items():
        is_time = name.endswith("_at") and value is not None
        facts[name] = iso(value) if is_time else value
    return facts
