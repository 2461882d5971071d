"""Routes and the page of an administrator: people, tokens, sources and sinks of products that were made on
the pages, and limits, times of keeping and the broker where the settings file leaves them out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import MISSING, asdict, fields
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from fastapi import Request, Response
from pydantic import BaseModel, ConfigDict, Field

from flawscope.config import is_needed
from flawscope.errors import InputError
from flawscope.station.access.roles import ADMIN, ROLES
from flawscope.station.settings import plugins
from flawscope.station.settings.sinks import MqttSettings
from flawscope.station.settings.station import Keep, Limits
from flawscope.station.station import Station
from flawscope.station.store.records import iso
from flawscope.station.web.api import Admin, Here, routes
from flawscope.station.web.pages import Shown, pages_for
from flawscope.station.web.setup_schemas import WhereFrom

DAY = 86_400.0  # seconds
MOST_DAYS = 36_500

router = routes(409, prefix="/api/v1/settings", role=ADMIN)
page = pages_for(ADMIN)
Kind = Literal["sources", "sinks"]
Section = Literal["limits", "keep", "mqtt"]
Value = Annotated[str, Field(max_length=2000)] | bool | int | float | None
Lines = Annotated[dict[str, Value], Field(max_length=100)]
_SECRETS = ("password_file", "secret_file")  # settings in whose place a page asks for the secret itself


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


class _OfPlugin(_Sent):
    plugin: str | None = Field(None, max_length=100, description="of an installed package")
    settings: Lines = Field({}, description="of the plugin; `password` is kept in a file and never shown")


class NewSource(WhereFrom, _OfPlugin):
    pass


class WhereTo(_OfPlugin):
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


class StationSettings(BaseModel):
    """Limits, times of keeping and the broker, as in station.yaml."""

    by_file: list[Section] = Field(description="sections of the settings file, which are changed there")
    limits: Lines
    keep: Lines
    mqtt: Lines | None
    undo: bool = Field(description="the last change can be undone")


class AllSettings(BaseModel):
    """People, tokens, products, and the station's own settings, without secrets."""

    users: list[dict[str, str | None]]
    tokens: list[dict[str, str | None]]
    products: list[ProductSettings]
    station: StationSettings


@router.get("", response_model=AllSettings)
def settings(station: Here) -> Any:
    """List people, tokens, sources and sinks of the products, limits, times of keeping and the broker."""
    return _shown(station)


def _shown(station: Station) -> dict[str, Any]:
    def row(one: Any) -> dict[str, str | None]:
        told = dict(one._mapping)
        return {
            key: value if key in ("name", "role") else value and iso(value) for key, value in told.items()
        }

    access = station.access
    people, programs = map(row, access.users()), map(row, access.tokens())
    shown = {"users": list(people), "tokens": list(programs), "products": station.made.shown()}
    return {**shown, "station": _of_station(station)}


def _of_station(station: Station) -> dict[str, Any]:
    now, made = station.settings, station.made_settings
    mqtt = now.mqtt and {key: one for key, one in asdict(now.mqtt).items() if key not in _SECRETS}
    told = {"limits": asdict(now.limits), "keep": asdict(now.keep), "mqtt": mqtt}
    return {**told, "by_file": made.by_file, "undo": made.before is not None}


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
    station.access.remove_user(name, who=person.name, allow_last_admin=False)


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
def add_source(name: str, wanted: NewSource, station: Here, person: Admin) -> None:
    """Let a product that was made on the pages inspect a further camera or folder, from now on."""
    _add(name, "sources", wanted, station, person.name)


@router.post("/products/{name}/sinks", status_code=204)
def add_sink(name: str, wanted: WhereTo, station: Here, person: Admin) -> None:
    """Deliver the inspections of a product that was made on the pages to a further place, from now on."""
    _add(name, "sinks", wanted, station, person.name)


def _add(name: str, kind: Kind, wanted: BaseModel, station: Station, who: str) -> None:
    station.product_id(name)
    given = wanted.model_dump(exclude_none=True)
    plugin, settings = given.pop("plugin", None), given.pop("settings")
    try:
        if plugin is None:
            entry = station.made.entry(name, given)
        else:
            entry = station.made.plugged(name, kind, plugin, settings, **given)
        station.made.add(name, kind, entry, who)
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


# -------------------------------------------------------------------------------------------------- station


@router.put("/station/{section}", status_code=204)
def set_section(section: Section, wanted: Lines, station: Here, person: Admin) -> None:
    """Set limits, times of keeping or the broker, as in station.yaml; they are used from now on. A password
    of the broker that is left out stays."""
    try:
        station.made_settings.set(section, wanted, person.name)
    finally:
        station.made_settings.tidy()  # also a password that was refused


@router.delete("/station/{section}", status_code=204)
def leave_section(section: Section, station: Here, person: Admin) -> None:
    """Use what holds where nobody sets the section: the defaults, or no broker."""
    station.made_settings.set(section, None, person.name)


@router.post("/station/undo", status_code=204)
def undo_station(station: Here, person: Admin) -> None:
    """Take the last change of limits, times of keeping or the broker back; a second time brings it back."""
    station.made_settings.undo(person.name)


# ----------------------------------------------------------------------------------------------------- page


def _form(kind: type[Any], now: Any = None) -> Iterator[dict[str, Any]]:
    """Yield the fields of a form from a record of settings. now: its values at the moment, which are shown;
    without, defaults are hints."""
    hints = get_type_hints(kind)
    for one in fields(kind):
        hint = hints[one.name]
        secret = one.name in _SECRETS
        yield {
            "name": one.name.removesuffix("_file") if secret else one.name,
            "kind": "password" if secret else "checkbox" if hint is bool else "text",
            "choices": get_args(hint) if get_origin(hint) is Literal else (),
            "default": one.default if now is None and one.default is not MISSING else None,
            "value": None if secret else getattr(now, one.name, None),
            "needed": is_needed(one),
        }


def _plugins(group: str) -> dict[str, list[dict[str, Any]]]:
    """Return forms of the plugins that are installed and can be loaded."""
    found = {}
    for name in plugins.names(group):
        with suppress(Exception):
            found[name] = list(_form(plugins.plugin(group, name).settings))
    return found


@page.get("/-/settings")
def settings_page(request: Request) -> Response:
    asked = Shown(request, "settings")
    facts = {"roles": ROLES[1:], "all_roles": ROLES, **_shown(asked.station)}
    now = asked.station.settings
    facts["forms"] = {
        "limits": list(_form(Limits, now.limits)),
        "keep": list(_form(Keep, now.keep)),
        "mqtt": list(_form(MqttSettings, now.mqtt)),
    }
    facts["plugins"] = {"sources": _plugins(plugins.SOURCES), "sinks": _plugins(plugins.SINKS)}
    return asked.page_of("settings", words=("settings",), settings=facts)
