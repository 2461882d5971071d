"""Settings that are made on the station's pages, while it runs: sources and sinks of products that were made
there, and limits, times of keeping and the broker of the station.

They are kept as they would stand in `station.yaml`, so they are read and checked by the same code. Passwords
are no part of them: they lie in files of the station's folder.
"""

from __future__ import annotations

import json
import re
import secrets
import threading
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

from sqlalchemy import select, update

from flawscope.config import build_config
from flawscope.errors import FlawscopeError, InputError
from flawscope.station.access.audit import SETTINGS_CHANGED
from flawscope.station.settings.plugins import SINK_GROUP, SOURCE_GROUP, load_plugin
from flawscope.station.settings.sinks import read_mqtt
from flawscope.station.settings.sources import (
    VIDEO,
    CameraSourceSettings,
    FolderSourceSettings,
    SourceSettings,
    address_kind,
    redact_camera_address,
)
from flawscope.station.settings.station import ProductSettings, Settings, check_settings, read_product
from flawscope.station.settings.values import with_password
from flawscope.station.setup.drafts import Drafts, NameTakenError
from flawscope.station.sinks import Sinks
from flawscope.station.sources import Sources
from flawscope.station.store.addresses import Addresses
from flawscope.station.store.database import Database
from flawscope.station.store.files import Files
from flawscope.station.store.records import NotFoundError, Store
from flawscope.station.store.schema import products, stations, versions

MADE_ON_PAGES = "made on the station's pages"  # origin of versions whose product no settings need to name
SECRETS_FOLDER = "secrets"  # folder of passwords, below the station's
RawDict = dict[str, Any]  # settings as in `station.yaml`: a station's, or below a product's name
PLUGIN_GROUPS = {"sources": SOURCE_GROUP, "sinks": SINK_GROUP}  # groups of plugins
KEEP, MQTT = "keep", "mqtt"
SECTIONS = ("limits", KEEP, MQTT)  # of the station's settings, which pages change
ADDRESS_HINT = "password: write the address as rtsp://USER@HOST/PATH"
_USER_AND_PASSWORD = re.compile(r"([a-z+]+://[^:/@?]+):([^/?]*)@")  # in an address, with its password


class PageProduct(NamedTuple):
    """Product that was made here. model: file of the latest version that went live on the pages. lines: its
    settings; before: those until the last change, which can be undone; None: there was none."""

    model: Path
    raw_settings: RawDict
    before: RawDict | None


class PageProducts:
    """Products that were made on the pages, and their settings from there.

    Args:
        by_file: products that `station.yaml` names: no page changes them.

    Attributes:
        addresses, drafts, sources, sinks: of the station, which sets them before something is changed.
    """

    addresses: Addresses
    drafts: Drafts
    sources: Sources
    sinks: Sinks

    def __init__(self, store: Store, files: Files, by_file: Collection[str], say: Callable[[str], None]):
        self.store, self.files, self.by_file, self.say = store, files, by_file, say
        self._folder = Path(files.folder).absolute()
        self._lock = threading.RLock()

    def all(self) -> dict[str, PageProduct]:
        """Return the products that went live on the pages, which may change them."""
        query = (
            select(products.c.name, versions.c.file, products.c.made)
            .join(versions, versions.c.product_id == products.c.id)
            .join(stations, stations.c.id == products.c.station_id)
            .where(stations.c.name == self.store.database.station)
            .where(versions.c.origin == MADE_ON_PAGES, products.c.active_version_id.is_not(None))
            .where(products.c.name.not_in(self.by_file))
            .order_by(versions.c.id)
        )
        with self.store.database.reading() as connection:
            rows = connection.execute(query).all()
        home = self.files.folder
        return {name: PageProduct(home / file, *_parse_settings(kept)) for name, file, kept in rows}

    def products(self) -> dict[str, ProductSettings]:
        """Return the settings of these products; those that are not allowed any more are left out."""
        found = {}
        for name, product in self.all().items():
            try:
                found[name] = self._read_product(name, product, product.raw_settings)
            except InputError as error:
                self.say(f"{name}: {error}; its settings from the pages are left out")
                found[name] = ProductSettings(str(product.model))
        return found

    def _page_product(self, name: str) -> PageProduct:
        found = self.all().get(name)
        if found is not None:
            return found
        self.addresses.product_id(name)
        raise NameTakenError(f"{name} was not made on these pages: change it in the settings file")

    def _read_product(self, name: str, product: PageProduct, raw: RawDict) -> ProductSettings:
        return read_product(name, {"model": str(product.model), **raw}, self._folder)

    def plugin_entry(
        self, name: str, kind: str, wanted: str, given: Mapping[str, Any], **more: Any
    ) -> RawDict:
        """Return a plugin's entry for `station.yaml`. more: keys beside the plugin's settings. InputError."""
        check_absolute(*(given.get(path) for path in load_plugin(PLUGIN_GROUPS[kind], wanted).paths))
        return {wanted: move_secrets_to_files(self.files, name, given), **more}

    def source_entry(self, name: str, given: Mapping[str, Any]) -> RawDict:
        """Return an entry as `station.yaml` would have it: a password goes into a file, also one in the
        address of a camera. InputError where a password has no user, or a path is not whole."""
        entry, password, camera = dict(given), given.get("password"), str(given.get("camera", "rtsp://"))
        check_absolute(camera if address_kind(camera) == VIDEO else given.get("folder"))
        entry.pop("password", None)
        entry = move_secrets_to_files(self.files, name, entry)
        if found := _USER_AND_PASSWORD.match(camera):
            entry["camera"] = f"{found[1]}@{camera[found.end() :]}"
            password = password or unquote(found[2])
        if password is not None:
            with_password(str(entry.get("camera", "")), "", ADDRESS_HINT)
            entry["password_file"] = write_secret(self.files, name, password)
        return entry

    def describe_products(self) -> list[dict[str, Any]]:
        """Return all products of the station with their sources and sinks, without secrets, for a page."""
        made = self.all()
        return [
            {
                "name": name,
                "by_file": name not in made,
                "sources": [describe_source(one) for one in self.addresses.configured[name].sources],
                "sinks": [one.label for one in self.addresses.configured[name].sinks],
                "undo": name in made and made[name].before is not None,
            }
            for name in sorted(self.addresses.configured)
        ]

    # ---- changes

    def add(self, name: str, kind: str, entry: Mapping[str, Any], who: str) -> None:
        """Add an entry to a product's `sources` or `sinks`, a source once. Errors as of `_change`."""
        with self._lock:
            raw = self._page_product(name).raw_settings
            if kind == "sources" and dict(entry) in raw.get(kind, []):
                return  # a station that was killed between two steps of going live
            self._change(name, {**raw, kind: [*raw.get(kind, []), dict(entry)]}, who)

    def remove(self, name: str, kind: str, position: int, who: str) -> None:
        """Remove the entry at a place, from 1. NotFoundError; errors as of `_change`."""
        with self._lock:
            raw = self._page_product(name).raw_settings
            entries = raw.get(kind, [])
            if not 0 < position <= len(entries):
                raise NotFoundError(f"{name} has no {position} among its {kind}: look at the page again")
            self._change(name, {**raw, kind: [*entries[: position - 1], *entries[position:]]}, who)

    def undo(self, name: str, who: str) -> None:
        """Take the last change back; a second time brings it back. InputError where nothing was changed."""
        with self._lock:
            before = self._page_product(name).before
            if before is None:
                raise InputError(f"nothing of {name} was changed: there is nothing to undo")
            self._change(name, before, who)

    def _change(self, name: str, raw: RawDict, who: str) -> None:
        """Use other settings from now on, and after a restart.

        Raises:
            InputError: they are not allowed, or cannot be used; all stays as it was.
            StoreError: they cannot be kept; all stays as it was.
        """
        made, before = self._page_product(name), self.addresses.configured[name]
        number, product = self.addresses.product_id(name), self._read_product(name, made, raw)
        try:
            self._apply(name, number, product)
            save_settings(self.store.database, number, raw, made.raw_settings)
        except Exception:  # also one of a plugin
            self._apply(name, number, before, told=True)
            raise
        changed = " and ".join(kind for kind in PLUGIN_GROUPS if raw.get(kind) != made.raw_settings.get(kind))
        with suppress(FlawscopeError):  # it is done
            self.store.note_event(SETTINGS_CHANGED, who, f"{changed or 'nothing'} of {name} changed", number)
        self.remove_unused_secrets(name)

    def remove_unused_secrets(self, name: str) -> None:
        """Remove the passwords that neither the product of this name nor its draft needs any more."""
        draft = next((one.state.get("source") for one in self.drafts if one.name == name), None)
        with self._lock:  # else that of a change under way
            remove_unused_secrets(self.files, name, self.all().get(name, ())[1:], draft)

    def _apply(self, name: str, number: int, product: ProductSettings, *, told: bool = False) -> None:
        before = self.addresses.configured[name]
        self.addresses.configured[name] = self.addresses.settings[name] = product
        if product.sinks != before.sinks:
            self.sinks.restart(name, told=told)
        if product.all_sources != before.all_sources:
            self.sources.restart(name, product, number)


class PageSettings:
    """Sections of the station's settings that were set on the pages. Those that `station.yaml` names are
    changed there.

    Args:
        given: the settings that the station was started with.

    Attributes:
        by_file: sections that no page changes.
        use: lets the station use other settings, which sets it before something is changed.
    """

    use: Callable[[Settings], None]

    def __init__(self, store: Store, files: Files, given: Settings, say: Callable[[str], None]):
        self.store, self.files, self.started_with = store, files, given
        # a section that nobody named is the default itself; one of the same values was named
        self.by_file = [one for one in SECTIONS if getattr(given, one) is not getattr(Settings, one)]
        self.raw_settings, self.before = read_station_settings(store.database)
        self._lock = threading.RLock()
        for section in list(self.raw_settings):
            try:
                self.settings({section: self.raw_settings[section]})
            except InputError as error:  # of an earlier version
                say(f"{section}: {error}; what the pages say of it is left out")
                del self.raw_settings[section]

    def settings(self, raw: RawDict | None = None) -> Settings:
        """Return the settings with the sections from the pages, or with `raw` in their place. InputError."""
        found, home = self.started_with, Path(self.files.folder).absolute()
        for section, section_settings in (self.raw_settings if raw is None else raw).items():
            if section not in self.by_file:
                read: Any = (
                    read_mqtt(section_settings, home)
                    if section == MQTT
                    else getattr(build_config(Settings, {section: section_settings}), section)
                )
                found = replace(found, **{section: read})
        return check_settings(found)

    def set(self, section: str, given: Mapping[str, Any] | None, who: str) -> None:
        """Set a section, as it would stand in `station.yaml`; None: remove it. A password goes into
        a file; without one, that of the same user and broker stays.

        Raises:
            TakenError: the settings file names the section.
            InputError: it is not allowed, or cannot be used; all stays as it was.
            StoreError: it cannot be kept; all stays as it was.
        """
        with self._lock:
            if section in self.by_file:
                raise NameTakenError(f"{section} stands in the settings file: change it there")
            raw = {one: kept for one, kept in self.raw_settings.items() if one != section}
            if given is not None:
                raw[section] = self._entry(section, given)
            self._change(raw, who)

    def _entry(self, section: str, given: Mapping[str, Any]) -> RawDict:
        entry = {key: one for key, one in given.items() if one is not None or section == KEEP}
        if section != MQTT:
            return entry
        check_absolute(*(entry.get(f"{one}_file") for one in ("ca", "certificate", "key")))
        entry, kept = move_secrets_to_files(self.files, "", entry), self.raw_settings.get(MQTT, {})
        same = all(entry.get(key) == kept.get(key) for key in ("broker", "user"))
        return {**{key: one for key, one in kept.items() if same and key == "password_file"}, **entry}

    def undo(self, who: str) -> None:
        """Take the last change back; a second time brings it back. Errors as of `set`."""
        with self._lock:
            if self.before is None:
                raise InputError("nothing of the station was changed: there is nothing to undo")
            self._change(self.before, who)

    def _change(self, raw: RawDict, who: str) -> None:
        found, before = self.settings(raw), self.raw_settings
        try:
            self.use(found)
            save_settings(self.store.database, None, raw, before)
        except Exception:
            self.use(self.settings())
            raise
        self.raw_settings, self.before = raw, before
        changed = [
            f"{section}.{key}"
            for section in SECTIONS
            for now, then in [(raw.get(section, {}), before.get(section, {}))]
            for key in sorted(now.keys() | then.keys())
            if now.get(key, ...) != then.get(key, ...)  # null is a value, too
        ]
        with suppress(FlawscopeError):  # it is done
            self.store.note_event(SETTINGS_CHANGED, who, f"{', '.join(changed) or 'nothing'} changed")
        self.remove_unused_secrets()

    def remove_unused_secrets(self) -> None:
        """Remove the passwords that are not needed any more."""
        with self._lock:  # else that of a change under way
            remove_unused_secrets(self.files, "", self.raw_settings, self.before)


def check_absolute(*paths: Any) -> None:
    """Raise InputError where a path that was given is not whole."""
    for path in paths:
        if path and not Path(str(path)).is_absolute():
            raise InputError(
                f"{redact_camera_address(str(path))} is no whole path: write where it lies on the station's "
                "computer"
            )


def move_secrets_to_files(files: Files, name: str, given: Mapping[str, Any]) -> RawDict:
    """Return settings with a password or secret in a file of its own. InputError where they name a file."""
    entry = dict(given)
    for key in ("password", "secret"):
        if f"{key}_file" in entry:
            raise InputError(
                f"{key}_file does not stand here: write the {key} itself, which is kept in a file"
            )
        if (value := entry.pop(key, None)) is not None:
            entry[f"{key}_file"] = write_secret(files, name, str(value))
    return entry


def describe_source(source: SourceSettings) -> str:
    """Return a source's folder, address or name, without secrets."""
    if isinstance(source, FolderSourceSettings):
        return source.folder
    return (
        f"{source.display_name} ({source.every})" if isinstance(source, CameraSourceSettings) else source.name
    )


# ---------------------------------------------------------------------------------------------- as it is kept


def read_station_settings(database: Database) -> tuple[RawDict, RawDict | None]:
    """Return the station's settings from the pages, and those before the last change, None without one."""
    query = select(stations.c.made).where(stations.c.name == database.station)
    with database.reading() as connection:
        return _parse_settings(connection.execute(query).scalar_one_or_none())


def _parse_settings(made: str | None) -> tuple[RawDict, RawDict | None]:
    kept = json.loads(made or "{}")
    return kept.get("now", {}), kept.get("before")


def save_settings(database: Database, product_id: int | None, raw: RawDict, previous: RawDict) -> None:
    """Keep the settings of a product, None: of the station, and those until now. StoreError."""
    kept = json.dumps({"now": raw, "before": previous})
    change = update(products).where(products.c.id == product_id)
    if product_id is None:
        change = update(stations).where(stations.c.name == database.station)
    with database.writing() as connection:
        connection.execute(change.values(made=kept))


def write_secret(files: Files, product: str, password: str) -> str:
    """Write a password into a file of its own; return its path below the station's folder. StoreError.

    Args:
        product: "": the station's own.
    """
    name = f"{SECRETS_FOLDER}/{product}~{secrets.token_hex(8)}"  # no product has a tilde in its name
    files.write(files.folder / name, f"{password}\n".encode())
    return name


def remove_unused_secrets(files: Files, product: str, *lines: object) -> None:
    """Remove the passwords of a product that do not stand in these settings."""
    named = json.dumps(lines)
    for path in (files.folder / SECRETS_FOLDER).glob(f"{product}~*"):
        if path.name not in named:
            path.unlink(missing_ok=True)
