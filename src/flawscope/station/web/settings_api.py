"""Routes and the page of an administrator: people, tokens, and sources and sinks of products that were made
on the pages."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from flawscope.errors import InputError
from flawscope.station.access.roles import ADMIN, ROLES, SCOPE
from flawscope.station.station import Station
from flawscope.station.store.records import iso
from flawscope.station.web.api import Admin, Here, routes
from flawscope.station.web.middleware import check_role
from flawscope.station.web.pages import Shown
from flawscope.station.web.setup_schemas import WhereFrom

DAY = 86_400.0  # seconds
MOST_DAYS = 36_500

router = routes(409, prefix="/api/v1/settings", role=ADMIN)
page = APIRouter(include_in_schema=False)
Kind = Literal["sources", "sinks"]


class _Sent(BaseModel):
    model_config = ConfigDict(extra="forbid")


class NewUser(_Sent):
    """Person to sign in. role: viewer, operator, engineer or admin."""

    name: str = Field(max_length=200)
    role: str = Field(max_length=20)
    password: str = Field(max_length=2000)


class NewPassword(_Sent):
    password: str = Field(max_length=2000)


class NewToken(_Sent):
    """Token of a program. role: also sender. days: after which it expires; null: never."""

    name: str = Field(max_length=200)
    role: str = Field(max_length=20)
    days: float | None = Field(None, gt=0, le=MOST_DAYS)


class Secret(BaseModel):
    secret: str = Field(description="which is never shown again")


class WhereTo(_Sent):
    """Sink, as an entry of `sinks` in station.yaml."""

    webhook: str | None = Field(None, max_length=2000)
    folder: str | None = Field(None, max_length=2000)
    only: str | None = Field(None, max_length=20)
    secret: str | None = Field(None, max_length=200, description="to sign with; it is kept and never shown")


class ProductSettings(BaseModel):
    name: str
    by_file: bool = Field(description="it stands in the settings file, and is changed there")
    sources: list[str]
    sinks: list[str]
    undo: bool = Field(description="the last change can be undone")


class AllSettings(BaseModel):
    """People, tokens and products, without secrets."""

    users: list[dict[str, str | None]]
    tokens: list[dict[str, str | None]]
    products: list[ProductSettings]


@router.get("", response_model=AllSettings)
def settings(station: Here) -> Any:
    """List people, tokens, and sources and sinks of the products."""
    return _shown(station)


def _shown(station: Station) -> dict[str, Any]:
    def row(one: Any) -> dict[str, str | None]:
        told = dict(one._mapping)
        return {
            key: value if key in ("name", "role") else value and iso(value) for key, value in told.items()
        }

    access = station.access
    people, programs = map(row, access.users()), map(row, access.tokens())
    return {"users": list(people), "tokens": list(programs), "products": station.made.shown()}


# ---------------------------------------------------------------------------------------- people and tokens


@router.post("/users", status_code=204)
def add_user(wanted: NewUser, station: Here, person: Admin) -> None:
    """Add a person. The first one must be an administrator: from then on everybody signs in."""
    if wanted.role != ADMIN and not station.access.users():
        raise InputError("the first person must be an administrator: nobody could make others else")
    station.access.add_user(wanted.name, wanted.password, wanted.role, who=person.name)


@router.post("/users/{name}/password", status_code=204)
def set_password(name: str, wanted: NewPassword, station: Here, person: Admin) -> None:
    """Change a person's password, and sign the person out everywhere."""
    station.access.set_password(name, wanted.password, who=person.name)


@router.delete("/users/{name}", status_code=204)
def remove_user(name: str, station: Here, person: Admin) -> None:
    """Remove a person, but not the last administrator."""
    station.access.remove_user(name, who=person.name, last=False)


@router.post("/tokens", status_code=201, response_model=Secret)
def add_token(wanted: NewToken, station: Here, person: Admin) -> Any:
    """Add a token for a program."""
    expires = None if wanted.days is None else DAY * wanted.days
    made = station.access.add_token(wanted.name, wanted.role, expires=expires, who=person.name)
    return {"secret": made}


@router.delete("/tokens/{name}", status_code=204)
def remove_token(name: str, station: Here, person: Admin) -> None:
    """Remove a token: its program is let in no more."""
    station.access.remove_token(name, who=person.name)


# ---------------------------------------------------------------------------------------- sources and sinks


@router.post("/products/{name}/sources", status_code=204)
def add_source(name: str, wanted: WhereFrom, station: Here, person: Admin) -> None:
    """Let a product that was made on the pages inspect a further camera or folder, from now on."""
    _add(name, "sources", wanted, station, person.name)


@router.post("/products/{name}/sinks", status_code=204)
def add_sink(name: str, wanted: WhereTo, station: Here, person: Admin) -> None:
    """Deliver the inspections of a product that was made on the pages to a further place, from now on."""
    _add(name, "sinks", wanted, station, person.name)


def _add(name: str, kind: Kind, wanted: BaseModel, station: Station, who: str) -> None:
    station.product_id(name)
    try:
        station.made.add(name, kind, station.made.entry(name, wanted.model_dump(exclude_none=True)), who)
    finally:
        station.made.tidy(name)  # also a password that was refused


@router.delete("/products/{name}/{kind}/{place}", status_code=204)
def remove_one(name: str, kind: Kind, place: int, station: Here, person: Admin) -> None:
    """Remove a source or a sink by its place in the list, from 1."""
    station.made.remove(name, kind, place, person.name)


@router.post("/products/{name}/undo", status_code=204)
def undo(name: str, station: Here, person: Admin) -> None:
    """Take the last change of sources and sinks back; a second time brings it back."""
    station.made.undo(name, person.name)


# ----------------------------------------------------------------------------------------------------- page


@page.get("/-/settings")
def settings_page(request: Request) -> Response:
    asked = Shown(request, "settings")
    person = request.scope[SCOPE]
    assert person is not None, "the guard lets nobody else in"
    check_role(person, ADMIN)
    facts = {"roles": ROLES[1:], "all_roles": ROLES, **_shown(asked.station)}
    return asked.page_of("settings", words=("settings",), settings=facts)
