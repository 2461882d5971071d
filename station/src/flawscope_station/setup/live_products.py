"""New products that go live: their models become the station's, and so does the camera of each.

The password of a camera is no part of what is kept in the data base: it lies in a file of the station's
folder.
"""

from __future__ import annotations

import json
import re
import secrets
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from sqlalchemy import update

from flawscope.errors import FlawscopeError, InputError
from flawscope_station.access.audit import SETTINGS_CHANGED
from flawscope_station.page_products import MADE_ON_PAGES, PageProducts, RawDict
from flawscope_station.settings.sources import redact_camera_address
from flawscope_station.settings.station import ProductSettings
from flawscope_station.settings.values import with_password
from flawscope_station.setup.draft import Draft
from flawscope_station.setup.drafts import Drafts
from flawscope_station.sources import Sources
from flawscope_station.store.addresses import Addresses
from flawscope_station.store.records import REMOVED_EVENT
from flawscope_station.store.schema import products

SECRETS_FOLDER = "secrets"  # folder of passwords, below the station's
ADDRESS_HINT = "password: write the address as rtsp://USER@HOST/PATH"
_USER_AND_PASSWORD = re.compile(r"([a-z+]+://[^:/@?]+):([^/?]*)@")  # in an address, with its password


class LiveProducts:
    """Products that go live on the pages, each with at most one camera."""

    def __init__(self, page_products: PageProducts, addresses: Addresses, sources: Sources, drafts: Drafts):
        self.page_products, self.addresses = page_products, addresses
        self.sources, self.drafts = sources, drafts
        self.store, self.files = page_products.store, page_products.files
        self._lock = threading.RLock()

    # ---- drafts

    def begin(self, name: str, who: str) -> Draft:
        """Begin a draft, or return the one of this name. InputError as `Drafts.begin`."""
        made = self.page_products.all()
        return self.drafts.begin(name, who, [one for one in self.addresses.names.values() if one not in made])

    def remove(self, name: str, who: str) -> None:
        """Remove a draft with its pictures. What went live stays."""
        self.drafts.remove(name)
        self.remove_unused_secrets(name)
        self.store.note_event(REMOVED_EVENT, who, f"pictures of the new product {name}")

    def set_source(self, draft: Draft, given: Mapping[str, Any]) -> None:
        """Set the source of a draft's pictures; empty: none. given: an entry of `sources` in `station.yaml`,
        whose password goes into a file. InputError."""
        try:
            self.drafts.captures.set_source(draft, self._source_entry(draft.name, given))
        finally:
            self.remove_unused_secrets(draft.name)  # also a password that was refused

    def go_live(self, name: str, who: str) -> None:
        """Let the model of a draft inspect from now on, as a product of the station: its open questions are
        accepted by that. InputError where nothing was learnt, or the model cannot be opened."""
        draft = self.drafts.draft(name)
        if draft.result is None:
            raise InputError(f"{name} has no model yet: let it learn first")
        for question in draft.accept_questions():
            self.store.note_event(SETTINGS_CHANGED, who, f"{name}: accepted: {question}")
        camera = self.drafts.captures.take_live_camera(draft)
        self.sources.setdefault(name, [])
        version = self.addresses.add_product(name, ProductSettings(str(draft.model)), MADE_ON_PAGES, who)
        if camera is not None:
            self.set_camera(name, camera, who)
        draft.change(live={"version": version, "by": who, "learnt": draft.result["asked_at"]}, source=None)
        self.drafts.captures.close(draft)  # somebody may have looked through it meanwhile

    # ---- cameras and their passwords

    def set_camera(self, name: str, camera: Mapping[str, Any], who: str) -> None:
        """Let a product inspect what a camera shows, in the place of the one before, from now on and after
        a restart.

        Args:
            camera: as an entry of `sources` in `station.yaml`.

        Raises:
            InputError: it cannot be used; all stays as it was.
            StoreError: it cannot be kept; all stays as it was.
        """
        with self._lock:
            raw = {"sources": [dict(camera)]}
            made = self.page_products.all()[name]
            if made.raw_settings == raw:
                return  # a station that was killed between two steps of going live
            number, before = self.addresses.product_id(name), self.addresses.configured[name]
            try:
                self._use(name, number, self.page_products.read(name, made.model, raw))
                with self.store.database.writing() as connection:
                    change = update(products).where(products.c.id == number)
                    connection.execute(change.values(made=json.dumps({"now": raw})))
            except Exception:
                self._use(name, number, before)
                raise
            with suppress(FlawscopeError):  # it is done
                self.store.note_event(SETTINGS_CHANGED, who, f"camera of {name} changed", number)
        self.remove_unused_secrets(name)

    def _use(self, name: str, number: int, product: ProductSettings) -> None:
        before = self.addresses.configured[name]
        self.addresses.configured[name] = self.addresses.settings[name] = product
        if product.all_sources != before.all_sources:
            self.sources.restart(name, product, number)

    def _source_entry(self, name: str, given: Mapping[str, Any]) -> RawDict:
        """Return an entry as `station.yaml` would have it: a password goes into a file, also one in the
        address of a camera. InputError where a password has no user, or a path is not whole."""
        entry, password, camera = dict(given), given.get("password"), str(given.get("camera", "rtsp://"))
        folder = given.get("folder")
        if folder and not Path(str(folder)).is_absolute():
            raise InputError(
                f"{redact_camera_address(str(folder))} is no whole path: write where it lies on the "
                "station's computer"
            )
        entry.pop("password", None)
        if match := _USER_AND_PASSWORD.match(camera):
            entry["camera"] = f"{match[1]}@{camera[match.end() :]}"
            password = password or unquote(match[2])
        if password is not None:
            with_password(str(entry.get("camera", "")), "", ADDRESS_HINT)
            file = f"{SECRETS_FOLDER}/{name}~{secrets.token_hex(8)}"  # no product has a tilde in its name
            self.files.write(self.files.folder / file, f"{password}\n".encode())
            entry["password_file"] = file
        return entry

    def remove_unused_secrets(self, name: str) -> None:
        """Remove the passwords that neither the product of this name nor its draft needs any more."""
        if name in self.page_products.by_file:
            return  # the file may name them
        draft = next((one.state.get("source") for one in self.drafts if one.name == name), None)
        with self._lock:  # else that of a change under way
            made = self.page_products.all().get(name)
            named = json.dumps([draft, made and made.raw_settings])
            for path in (self.files.folder / SECRETS_FOLDER).glob(f"{name}~*"):
                if path.name not in named:
                    path.unlink(missing_ok=True)
