"""Addresses of a station: its products, and the entries of the settings with a joint model.

A joint model is a model of several products: it finds the product that a picture shows, and judges the
picture with that product's model (`ModelFacts.is_joint`). The entry is the block of the settings that names
the joint model. Each product of the joint model is a product of the station, with records and versions of its
own; its row in `products` names the entry. The entry has a row there, too, and versions of the same files,
but its name is an address for pictures alone: nothing is recorded under it.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import NamedTuple

from sqlalchemy import select

from flawscope.errors import InputError, suggest_name
from flawscope.predictor import router
from flawscope_station.settings.station import ProductSettings, Settings, suggest_product_name
from flawscope_station.store.inspection import ENTRY, HTTP
from flawscope_station.store.model_registry import ModelRegistry, is_of_joint_model
from flawscope_station.store.records import NotFoundError, Store
from flawscope_station.store.schema import products

STATION_USER = "station"  # who did something that no person did


class Address(NamedTuple):
    """Product or entry to which a request goes.

    Attributes:
        name: Name of the product or entry.
        number: Its number in `products`.
        scheme: Prefix of the keys of its requests in the store.
        deadline: Seconds in which its settings want parts answered; None: no limit.
    """

    name: str
    number: int
    scheme: str
    deadline: float | None

    def due(self, deadline: int | None = None, since: float | None = None) -> float:
        """Return the time by which a request must be answered, as `time.monotonic` counts; infinity: never.

        Args:
            deadline: Milliseconds from the request; None: as in the settings.
            since: Time of the request, as `time.monotonic` counts; None: now.
        """
        seconds = self.deadline if deadline is None else deadline / 1000
        if seconds is None:
            return math.inf
        start = time.monotonic() if since is None else since
        return start + seconds


class Addresses:
    """Products and entries by name, and the versions of their models.

    Args:
        settings: Settings of the station.
        store: Records of the station.
        versions: Versions of models.
        say: Function that gets a line for the person who started the station.

    Attributes:
        configured: Blocks of the settings by name: products, and entries.
        settings: Settings of each product, by name.
        products: Numbers of products, by name.
        entries: Numbers of entries, by name.
        names: Names of products and entries by number, with products that were removed since the start.
        on_added: Functions that are called with number, name and settings of each product added later.

    Raises:
        InputError: the settings do not suit a joint model, or it cannot be used.
    """

    def __init__(self, settings: Settings, store: Store, versions: ModelRegistry, say: Callable[[str], None]):
        self.store = store
        self.versions = versions
        self.say = say
        self.configured = dict(settings.products)
        self.settings: dict[str, ProductSettings] = {}  # name of a product -> its settings
        self.products: dict[str, int] = {}  # name of a product -> its number
        # name of an entry -> its number; an entry is a block of the settings that names a joint model
        self.entries: dict[str, int] = {}
        self.names: dict[int, str] = {}  # number of a product or entry -> its name
        self.on_added: list[Callable[[int, str, ProductSettings], object]] = []
        self._entry_of: dict[str, str] = {}  # name of a product -> name of its entry
        self._product_lock = threading.Lock()  # products are added and removed one after another
        # name of an entry -> whether the version of its file is new, and the version's number
        self._added_versions: dict[str, tuple[bool, int]] = {}
        number_by_name = {name: store.add_product(name) for name in self.configured}
        joint_names = {name for name, number in number_by_name.items() if self._is_joint(name, number)}
        rate_by_number = {
            number: self.configured[name].false_alarm_rate for name, number in number_by_name.items()
        }
        versions.rates = {number: rate for number, rate in rate_by_number.items() if rate is not None}
        for name, number in number_by_name.items():
            self.names[number] = name
            if name in joint_names:
                self._add_joint_products(name, number)
            else:
                self.products[name] = number
                self.settings[name] = self.configured[name]

    def _is_joint(self, name: str, number: int) -> bool:
        """Return whether an address of the settings names a joint model.

        If the model file cannot be read, the active version decides, because the station goes on with that
        version.

        Args:
            name: Name of the address.
            number: Number of the address in `products`.
        """
        model = self.configured[name].model
        if model is None:
            return False
        try:
            return router.read_facts(model).is_joint
        except InputError:
            return is_of_joint_model(self.versions.active_facts(number))

    def _add_joint_products(self, name: str, number: int) -> None:
        """Add an entry, and the products of its joint model, to the station.

        An entry is a block of the settings that names a joint model, which has several products.

        Args:
            name: Name of the entry.
            number: Number of the entry in `products`.

        Raises:
            InputError: the settings of the entry do not suit a joint model, or its model cannot be used and
                no version of a joint model is active.
        """
        entry_settings = self.configured[name]
        if entry_settings.learn is not None:
            raise InputError(f"product {name}: {CANNOT_LEARN}; leave out `learn`")
        if entry_settings.false_alarm_rate is not None:
            raise InputError(
                f"product {name}: a joint model has its false-alarm rate from its fit; leave out "
                "`false_alarm_rate`"
            )
        if self.store.totals(number)["inspections"]:
            raise InputError(
                f"product {name} has inspections of its own, and {entry_settings.model} has several "
                "products: give the joint model another name in the settings"
            )
        self.entries[name] = number
        self.versions.joint_entries.add(number)
        try:
            self._added_versions[name] = self._add_model(name)
        except InputError:
            if not is_of_joint_model(self.versions.active_facts(number)):
                raise  # else the station goes on with the active version of the joint model
        self._load_products(name)

    def _add_model(self, name: str) -> tuple[bool, int]:
        """Add the configured model file of an address as a version.

        Returns:
            Whether the version is new, and the number of the version.
        """
        address_id = self.address_id(name)
        model = self.configured[name].model
        assert model is not None
        earlier_ids = {version["id"] for version in self.versions.list_versions(address_id)["versions"]}
        origin = os.path.abspath(model)
        if name in self.entries:
            names = self._product_names(name, model)
            version_id = self.versions.add_joint(address_id, model, names, origin, STATION_USER)[address_id]
        else:
            version_id = self.versions.add(address_id, model, origin, STATION_USER)
        return version_id not in earlier_ids, version_id

    def _product_names(self, entry: str, model: str | os.PathLike[str]) -> dict[str, str]:
        """Return a dictionary: name of a product in a joint model -> its name at the station.

        Args:
            entry: Name of the entry.
            model: Path of the model file.

        Raises:
            InputError: a name is taken, or the model is of a single product.
        """
        facts = router.read_facts(model)
        if not facts.is_joint:
            raise InputError(f"cannot use {model}: it is a model of one product, and {entry} has several")
        station_names: dict[str, str] = {}
        for name in facts.manifests:
            station_name = suggest_product_name(name)
            is_taken = station_name in station_names.values() or station_name in self.configured
            existing_entry = self._entry_of.get(station_name)
            is_of_other_entry = existing_entry not in (None, entry)
            if is_taken or is_of_other_entry:
                raise InputError(
                    f"{entry}: the model's product {name} would be {station_name} at the station, where "
                    f"there is another {station_name}: rename one of them"
                )
            station_names[name] = station_name
        return station_names

    def _load_products(self, entry: str) -> None:
        """Load all recorded products of an entry that are not loaded yet, also those of its earlier models.

        Args:
            entry: Name of the entry, a block of the settings that names a joint model.
        """
        query = select(products.c.id, products.c.name).where(products.c.entry_id == self.entries[entry])
        for row in self.store.database.rows(query.order_by(products.c.id)):
            product_id = row.id
            name = row.name
            if name not in self.products:
                # folder and sources send their pictures to the entry
                self.settings[name] = replace(self.configured[entry], folder=None, sources=())
                self._entry_of[name] = entry
                self.names[product_id] = name
                self.products[name] = product_id
                self._announce_product(name)

    # ---- the models

    def open(self) -> None:
        """Activate a version of each product and entry in the settings.

        If the settings name a new model file, it is activated. Otherwise the version that was active last is
        resumed, even if the file in the settings no longer exists.

        Raises:
            InputError: a model in the settings cannot be used, and there is no version to resume.
        """
        for name, product in self.configured.items():
            self._open(name, product)

    def _open(self, name: str, product: ProductSettings) -> None:
        """Activate or resume a version of one product or entry, as `open` does for all."""
        address_id = self.address_id(name)
        if product.model is None:  # the model is made on the station's pages
            self.versions.resume(address_id)
            return
        try:
            if name in self._added_versions:  # an entry, whose model was added at the start
                is_new, version = self._added_versions[name]
            else:
                is_new, version = self._add_model(name)
        except InputError as error:
            resumed = self.versions.resume(address_id)
            if resumed is None:
                raise
            self.say(f"{name}: {error}; version {resumed} goes on")
            return
        resumed = None
        if not is_new:  # a new model file is activated; otherwise the last active version is resumed
            try:
                resumed = self.versions.resume(address_id)
            except InputError as error:
                self.say(f"{name}: {error}; going on with {product.model}")
        if resumed is None:
            self.versions.activate(address_id, version, STATION_USER)
        elif resumed != version:
            self.say(f"{name}: version {resumed} goes on, as it was activated; {product.model} is {version}")

    def add_version(self, name: str, model: str | os.PathLike[str], origin: str, who: str) -> int:
        """Keep a model file as a version of a product; return the number of the version.

        A joint model also becomes a version of each other product that it has.

        Args:
            name: Name of the product.
            model: Path of the model file.
            origin: Where the file came from, for a person.
            who: Person who adds it.

        Raises:
            InputError: the settings name a joint model and the file is of a single product, or vice versa; or
                the joint model does not have the product.
        """
        product_id = self.product_id(name)
        entry = self._entry_of.get(name)
        if entry is None:
            return self.versions.add(product_id, model, origin, who)
        station_names = self._product_names(entry, model)
        if name not in station_names.values():
            existing_names = ", ".join(station_names.values())
            raise InputError(f"{model} has no product {name}: send it to one that it has, {existing_names}")
        version_ids = self.versions.add_joint(self.entries[entry], model, station_names, origin, who)
        self._load_products(entry)
        return version_ids[product_id]

    def add_product(
        self,
        name: str,
        product: ProductSettings,
        origin: str,
        who: str,
        facts: Mapping[str, object] = MappingProxyType({}),
    ) -> int:
        """Add a product with its model, or a new version to an existing product.

        The model judges from now on. The open questions of its fit are accepted in the name of `who`.

        Args:
            name: Name of the product.
            product: Settings of the product.
            origin: Where the model came from, for a person.
            who: Person who adds it.
            facts: Facts to record of the version, beside those in the model file.

        Returns:
            The number of the version.

        Raises:
            InputError: the model cannot be opened.
        """
        with self._product_lock:
            return self._add_product(name, product, origin, who, facts)

    def _add_product(
        self, name: str, product: ProductSettings, origin: str, who: str, facts: Mapping[str, object]
    ) -> int:
        """Add a product or a version as `add_product` does; the caller holds the lock."""
        product_id = self.store.add_product(name)
        assert product.model is not None
        added_version = self.versions.add(product_id, product.model, origin, who, facts)
        version = self.versions.accept_questions(product_id, added_version, who)
        self.versions.activate(product_id, version, who, goes_live=True)
        if name not in self.products:
            is_announced = product_id in self.names  # `names` keeps products removed since the start
            self.configured[name] = self.settings[name] = product
            self.names[product_id] = name
            self.products[name] = product_id  # last, because requests find the product from here on
            if not is_announced:
                self._announce_product(name)
        return version

    def remove_product(self, name: str, who: str) -> None:
        """Remove a product: requests no longer find it, and its model no longer judges.

        The product keeps its number and its records. Its model is deactivated, so that the removal outlasts a
        restart: the station takes up a product that was added on the pages only if it has an active model.

        Args:
            name: Name of the product.
            who: Person who removes it.

        Raises:
            NotFoundError: there is no such product.
            StoreError: the removal cannot be recorded; the product stays.
        """
        with self._product_lock:
            product_id = self.product_id(name)
            self.versions.deactivate(product_id, who, f"product {name}; its records are kept")
            del self.products[name]
            self.configured.pop(name, None)

    def is_removed(self, number: int) -> bool:
        """Return whether the product of this number was removed since the start."""
        return number in self.names and number not in self.numbers()

    def _announce_product(self, name: str) -> None:
        """Call the functions of `on_added` for a product."""
        for callback in self.on_added:
            callback(self.products[name], name, self.settings[name])

    # ---- names

    def __contains__(self, name: object) -> bool:
        return name in self.entries or name in self.products

    def numbers(self) -> list[int]:
        """Return the numbers of the products and entries at which pictures are taken now."""
        return list(self.products.values()) + list(self.entries.values())

    def configured_numbers(self) -> dict[str, int]:
        """Return a dictionary name -> number of the addresses from the settings and from the pages."""
        number_by_name = {**self.products, **self.entries}
        return {name: number_by_name[name] for name in list(self.configured) if name in number_by_name}

    def settings_of(self, name: str) -> ProductSettings:
        """Return the settings of a product; a product of a joint model has those of the entry.

        Raises:
            NotFoundError: there is no such product, or it was removed.
        """
        configured = self.configured.get(self.configured_name(name))
        if configured is None:
            self.product_id(name)  # raises NotFoundError if there was no such product
            raise NotFoundError(f"product {name} is removed")
        return configured

    def removed(self) -> dict[str, int]:
        """Return the numbers of removed products that have records, by name."""
        return self.store.removed_products(self.numbers())

    def records_id(self, name: str) -> int:
        """Return the number of a present or removed product, to read its records.

        Raises:
            NotFoundError: there is no such product.
        """
        if name not in self:
            removed_number = self.removed().get(name)
            if removed_number is not None:
                return removed_number
        return self.product_id(name)

    def product_id(self, name: str) -> int:
        """Return the number of a product.

        Raises:
            NotFoundError: there is no such product; the text names the existing products.
        """
        if name in self.entries:
            product_names = ", ".join(
                product_name for product_name, entry in list(self._entry_of.items()) if entry == name
            )
            raise NotFoundError(
                f"{name} finds the product of a picture and is none itself: ask for one of {product_names}"
            )
        number = self.products.get(name)  # a single look-up: another thread may remove the product
        if number is None:
            raise NotFoundError(
                f"there is no product {name!r:.80}: {suggest_name(name, list(self.products))}"
            )
        return number

    def address_id(self, name: str) -> int:
        """Return the number of a product, or of an entry: the address of a joint model.

        Raises:
            NotFoundError: there is no such address.
        """
        return self.entries[name] if name in self.entries else self.product_id(name)

    def find(self, name: str) -> Address:
        """Return the address of a request, by the name of its product or entry.

        Raises:
            NotFoundError: there is no such address.
        """
        address_id = self.address_id(name)
        deadline = self.settings_of(name).deadline
        # the scheme keeps the senders' keys of entries and of products apart
        scheme = ENTRY if name in self.entries else HTTP
        return Address(name, address_id, scheme, deadline)

    def configured_name(self, name: str) -> str:
        """Return the name under which a product's settings stand: its own name, or that of its entry."""
        return self._entry_of.get(name, name)


CANNOT_LEARN = (
    "a joint model does not learn from corrections: add the pictures to it with `flawscope fit --update`, "
    "and use the new file"
)
