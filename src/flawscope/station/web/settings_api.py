"""Routes and the page of an administrator: people, tokens, sources and sinks of products that were made on
the pages, and limits, times of keeping and the broker where the settings file leaves them out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import MISSING, asdict, fields
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from fastapi import Request, Response
from pydantic import BaseModel, ConfigDict, Field

from flawscope.config import is_required
from flawscope.errors import InputError
from flawscope.station.access.roles import ADMIN, ROLES
from flawscope.station.settings import plugins
from flawscope.station.settings.sinks import MqttSettings
from flawscope.station.settings.station import Limits, RetentionSettings
from flawscope.station.station import Station
from flawscope.station.store.records import iso
from flawscope.station.web.api import Admin, StationDep, api_router
from flawscope.station.web.pages import Page, html_router
from flawscope.station.web.setup_schemas import SourceEntry

DAY_SECONDS = 86_400.0
MAX_TOKEN_DAYS = 36_500

router = api_router(409, prefix="/api/v1/settings", role=ADMIN)
page_router = html_router(ADMIN)
EntryKind = Literal["sources", "sinks"]
Section = Literal["limits", "keep", "mqtt"]
Value = Annotated[str, Field(max_length=2000)] | bool | int | float | None
Values = Annotated[dict[str, Value], Field(max_length=100)]
_SECRET_FILES = ("password_file", "secret_file")  # settings; a page asks for the secret instead


class _RequestBody(BaseModel):
    model_config = ConfigDict(extra="forbid")


class NewUser(_RequestBody):
    """Person to sign in. role: viewer, operator, engineer or admin."""

    name: str = Field(max_length=200)
    role: str = Field(max_length=20)
    password: str = Field(max_length=2000)


class NewPassword(_RequestBody):
    password: str = Field(max_length=2000)


class NewToken(_RequestBody):
    """Token of a program. role: also sender. days: after which it expires; null: never."""

    name: str = Field(max_length=200)
    role: str = Field(max_length=20)
    days: float | None = Field(None, gt=0, le=MAX_TOKEN_DAYS)


class TokenSecret(BaseModel):
    secret: str = Field(description="which is never shown again")


class _PluginEntry(_RequestBody):
    plugin: str | None = Field(None, max_length=100, description="of an installed package")
    settings: Values = Field({}, description="of the plugin; `password` is kept in a file and never shown")


class NewSource(SourceEntry, _PluginEntry):
    pass


class NewSink(_PluginEntry):
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
    limits: Values
    keep: Values
    mqtt: Values | None
    undo: bool = Field(description="the last change can be undone")


class AllSettings(BaseModel):
    """People, tokens, products, and the station's own settings, without secrets."""

    users: list[dict[str, str | None]]
    tokens: list[dict[str, str | None]]
    products: list[ProductSettings]
    station: StationSettings


@router.get("", response_model=AllSettings)
def settings(station: StationDep) -> Any:
    """List people, tokens, sources and sinks of the products, limits, times of keeping and the broker."""
    return _settings_facts(station)


def _settings_facts(station: Station) -> dict[str, Any]:
    def account_facts(record: Any) -> dict[str, str | None]:
        values = dict(record._mapping)
        return {
            key: value if key in ("name", "role") else value and iso(value) for key, value in values.items()
        }

    access = station.access
    user_rows, token_rows = map(account_facts, access.users()), map(account_facts, access.tokens())
    facts = {
        "users": list(user_rows),
        "tokens": list(token_rows),
        "products": station.page_products.describe_products(),
    }
    return {**facts, "station": _station_settings(station)}


def _station_settings(station: Station) -> dict[str, Any]:
    now, page_settings = station.settings, station.page_settings
    mqtt = now.mqtt and {key: value for key, value in asdict(now.mqtt).items() if key not in _SECRET_FILES}
    values = {"limits": asdict(now.limits), "keep": asdict(now.keep), "mqtt": mqtt}
    return {**values, "by_file": page_settings.by_file, "undo": page_settings.before is not None}


# ---------------------------------------------------------------------------------------- people and tokens


@router.post("/users", status_code=204)
def add_user(body: NewUser, station: StationDep, person: Admin) -> None:
    """Add a person. The first one must be an administrator: from then on everybody signs in."""
    if body.role != ADMIN and not station.access.users():
        raise InputError("the first person must be an administrator: nobody could make others else")
    station.access.add_user(body.name, body.password, body.role, who=person.name)


@router.post("/users/{name}/password", status_code=204)
def set_password(name: str, body: NewPassword, station: StationDep, person: Admin) -> None:
    """Change a person's password, and sign the person out everywhere."""
    station.access.set_password(name, body.password, who=person.name)


@router.delete("/users/{name}", status_code=204)
def remove_user(name: str, station: StationDep, person: Admin) -> None:
    """Remove a person, but not the last administrator."""
    station.access.remove_user(name, who=person.name, allow_last_admin=False)


@router.post("/tokens", status_code=201, response_model=TokenSecret)
def add_token(body: NewToken, station: StationDep, person: Admin) -> Any:
    """Add a token for a program."""
    seconds = None if body.days is None else DAY_SECONDS * body.days
    secret = station.access.add_token(body.name, body.role, expires=seconds, who=person.name)
    return {"secret": secret}


@router.delete("/tokens/{name}", status_code=204)
def remove_token(name: str, station: StationDep, person: Admin) -> None:
    """Remove a token: its program is let in no more."""
    station.access.remove_token(name, who=person.name)


# ---------------------------------------------------------------------------------------- sources and sinks


@router.post("/products/{name}/sources", status_code=204)
def add_source(name: str, body: NewSource, station: StationDep, person: Admin) -> None:
    """Let a product that was made on the pages inspect a further camera or folder, from now on."""
    _add_entry(name, "sources", body, station, person.name)


@router.post("/products/{name}/sinks", status_code=204)
def add_sink(name: str, body: NewSink, station: StationDep, person: Admin) -> None:
    """Deliver the inspections of a product that was made on the pages to a further place, from now on."""
    _add_entry(name, "sinks", body, station, person.name)


def _add_entry(name: str, kind: EntryKind, body: BaseModel, station: Station, who: str) -> None:
    station.product_id(name)
    values = body.model_dump(exclude_none=True)
    plugin, settings = values.pop("plugin", None), values.pop("settings")
    try:
        if plugin is None:
            entry = station.page_products.source_entry(name, values)
        else:
            entry = station.page_products.plugin_entry(name, kind, plugin, settings, **values)
        station.page_products.add(name, kind, entry, who)
    finally:
        station.page_products.remove_unused_secrets(name)  # also a password that was refused


@router.delete("/products/{name}/{kind}/{place}", status_code=204)
def remove_entry(name: str, kind: EntryKind, place: int, station: StationDep, person: Admin) -> None:
    """Remove a source or a sink by its place in the list, from 1."""
    station.page_products.remove(name, kind, place, person.name)


@router.post("/products/{name}/undo", status_code=204)
def undo(name: str, station: StationDep, person: Admin) -> None:
    """Take the last change of sources and sinks back; a second time brings it back."""
    station.page_products.undo(name, person.name)


# -------------------------------------------------------------------------------------------------- station


@router.put("/station/{section}", status_code=204)
def set_section(section: Section, body: Values, station: StationDep, person: Admin) -> None:
    """Set limits, times of keeping or the broker, as in station.yaml; they are used from now on. A password
    of the broker that is left out stays."""
    try:
        station.page_settings.set(section, body, person.name)
    finally:
        station.page_settings.remove_unused_secrets()  # also a password that was refused


@router.delete("/station/{section}", status_code=204)
def reset_section(section: Section, station: StationDep, person: Admin) -> None:
    """Use what holds where nobody sets the section: the defaults, or no broker."""
    station.page_settings.set(section, None, person.name)


@router.post("/station/undo", status_code=204)
def undo_station(station: StationDep, person: Admin) -> None:
    """Take the last change of limits, times of keeping or the broker back; a second time brings it back."""
    station.page_settings.undo(person.name)


# ----------------------------------------------------------------------------------------------------- page


def _form_fields(settings_class: type[Any], current: Any = None) -> Iterator[dict[str, Any]]:
    """Yield the fields of a form for a class of settings. current: values that the form shows; None: it shows
    the defaults as hints."""
    hints = get_type_hints(settings_class)
    for field in fields(settings_class):
        hint = hints[field.name]
        is_secret = field.name in _SECRET_FILES
        yield {
            "name": field.name.removesuffix("_file") if is_secret else field.name,
            "kind": "password" if is_secret else "checkbox" if hint is bool else "text",
            "choices": get_args(hint) if get_origin(hint) is Literal else (),
            "default": field.default if current is None and field.default is not MISSING else None,
            "value": None if is_secret else getattr(current, field.name, None),
            "needed": is_required(field),
        }


def _plugin_forms(group: str) -> dict[str, list[dict[str, Any]]]:
    """Return the form fields of each installed plugin that can be loaded."""
    forms = {}
    for name in plugins.plugin_names(group):
        with suppress(Exception):
            forms[name] = list(_form_fields(plugins.load_plugin(group, name).settings))
    return forms


@page_router.get("/-/settings")
def settings_page(request: Request) -> Response:
    page = Page(request, "settings")
    facts = {"roles": ROLES[1:], "all_roles": ROLES, **_settings_facts(page.station)}
    current = page.station.settings
    facts["forms"] = {
        "limits": list(_form_fields(Limits, current.limits)),
        "keep": list(_form_fields(RetentionSettings, current.keep)),
        "mqtt": list(_form_fields(MqttSettings, current.mqtt)),
    }
    facts["plugins"] = {
        "sources": _plugin_forms(plugins.SOURCE_GROUP),
        "sinks": _plugin_forms(plugins.SINK_GROUP),
    }
    return page.render("settings", sections=("settings",), settings=facts)
