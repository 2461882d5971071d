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
        """Return the time at which an answer must be there, as `time.monotonic` counts; infinity: never.

        Args:
            deadline: Milliseconds from the request; None: as in the settings.
            since: Time of the request, as `time.monotonic` counts; None: now.
        """
        seconds = self.deadline if deadline is None else deadline / 1000
        since = time.monotonic() if since is None else since
        return math.inf if seconds is None else since + seconds


class Addresses:
    """Products and entries by name, and the versions of their models.

    Args:
        settings: Settings of the station.
        store: Records of the station.
        versions: Versions of models.
        say: Gets a line for the person who started the station.

    Attributes:
        configured: Blocks of the settings by name: products, and entries.
        settings: Settings of each product, by name.
        products: Numbers of products, by name.
        entries: Numbers of entries, by name.
        names: Names of both by number, and of products that were removed since the start.
        on_added: Functions that get number, name and settings of a product that is added later.

    Raises:
        InputError: the joint models and the settings do not fit each other.
    """

    def __init__(self, settings: Settings, store: Store, versions: ModelRegistry, say: Callable[[str], None]):
        self.store = store
        self.versions = versions
        self.say = say
        self.configured = dict(settings.products)
        self.settings: dict[str, ProductSettings] = {}
        self.products: dict[str, int] = {}
        self.entries: dict[str, int] = {}
        self.names: dict[int, str] = {}
        self.on_added: list[Callable[[int, str, ProductSettings], object]] = []
        self._entry_of: dict[str, str] = {}  # entry by product
        self._changing = threading.Lock()  # products are added and removed one after another
        self._added: dict[str, tuple[bool, int]] = {}  # by entry: whether its version is new, the version
        numbers = {name: store.add_product(name) for name in self.configured}
        joint = {name for name, number in numbers.items() if self._is_joint(name, number)}
        rates = {number: self.configured[name].false_alarm_rate for name, number in numbers.items()}
        versions.rates = {number: rate for number, rate in rates.items() if rate is not None}
        for name, number in numbers.items():
            self.names[number] = name
            if name in joint:
                self._add_joint_products(name, number)
            else:
                self.products[name], self.settings[name] = number, self.configured[name]

    def _is_joint(self, name: str, number: int) -> bool:
        if (model := self.configured[name].model) is None:
            return False
        try:
            return router.read_facts(model).is_joint
        except InputError:  # without the file the last version goes on
            return is_of_joint_model(self.versions.active_facts(number))

    def _add_joint_products(self, name: str, number: int) -> None:
        """Add the products of an entry's joint model to the station."""
        product = self.configured[name]
        if product.learn is not None:
            raise InputError(f"product {name}: {CANNOT_LEARN}; leave out `learn`")
        if product.false_alarm_rate is not None:
            raise InputError(
                f"product {name}: a joint model has its false-alarm rate from its fit; leave out "
                "`false_alarm_rate`"
            )
        if self.store.totals(number)["inspections"]:
            raise InputError(
                f"product {name} has inspections of its own, and {product.model} has several products: give "
                "the joint model another name in the settings"
            )
        self.entries[name] = number
        self.versions.joint_entries.add(number)
        try:
            self._added[name] = self._add_model(name)
        except InputError:
            if not is_of_joint_model(self.versions.active_facts(number)):
                raise
        self._load_products(name)

    def _add_model(self, name: str) -> tuple[bool, int]:
        """Keep the model file of the settings; return whether it is new, and its version."""
        number = self.address_id(name)
        model = self.configured[name].model
        assert model is not None
        before = {version["id"] for version in self.versions.list_versions(number)["versions"]}
        origin = os.path.abspath(model)
        if name in self.entries:
            names = self._product_names(name, model)
            added = self.versions.add_joint(number, model, names, origin, STATION_USER)[number]
        else:
            added = self.versions.add(number, model, origin, STATION_USER)
        return added not in before, added

    def _product_names(self, entry: str, model: str | os.PathLike[str]) -> dict[str, str]:
        """Return the station's names of a joint model's products, by their names in the model.

        Raises:
            InputError: a name is taken, or the model is of a single product.
        """
        facts = router.read_facts(model)
        if not facts.is_joint:
            raise InputError(f"cannot use {model}: it is a model of one product, and {entry} has several")
        found: dict[str, str] = {}
        for name in facts.manifests:
            station_name = suggest_product_name(name)
            known = station_name in found.values() or station_name in self.configured
            if known or self._entry_of.get(station_name, entry) != entry:
                raise InputError(
                    f"{entry}: the model's product {name} would be {station_name} at the station, where "
                    f"there is another {station_name}: rename one of them"
                )
            found[name] = station_name
        return found

    def _load_products(self, entry: str) -> None:
        """Add the recorded products of an entry that are not loaded yet, also those of earlier models."""
        query = select(products.c.id, products.c.name).where(products.c.entry_id == self.entries[entry])
        for row in self.store.database.rows(query.order_by(products.c.id)):
            number = row.id
            name = row.name
            if name not in self.products:
                self.settings[name] = replace(self.configured[entry], folder=None, sources=())
                self._entry_of[name], self.names[number] = entry, name
                self.products[name] = number
                self._tell_added(name)

    # ---- the models

    def open(self) -> None:
        """Activate each model file that is new, else resume the active version, even where its file is gone.

        Raises:
            InputError: a model in the settings cannot be used.
        """
        for name, product in self.configured.items():
            self._open(name, product)

    def _open(self, name: str, product: ProductSettings) -> None:
        number = self.address_id(name)
        if product.model is None:  # it is made on the pages
            self.versions.resume(number)
            return
        try:
            is_new, added = self._added.get(name) or self._add_model(name)
        except InputError as error:
            resumed = self.versions.resume(number)
            if resumed is None:
                raise
            self.say(f"{name}: {error}; version {resumed} goes on")
            return
        resumed = None
        if not is_new:
            try:
                resumed = self.versions.resume(number)
            except InputError as error:
                self.say(f"{name}: {error}; going on with {product.model}")
        if resumed is None:
            self.versions.activate(number, added, STATION_USER)
        elif resumed != added:
            self.say(f"{name}: version {resumed} goes on, as it was activated; {product.model} is {added}")

    def add_version(self, name: str, model: str | os.PathLike[str], origin: str, who: str) -> int:
        """Keep a model file as a version of a product; return the product's version.

        A joint model becomes a version of each of its products.

        Args:
            name: Name of the product.
            model: Path of the model file.
            origin: Where the file came from, for a person.
            who: Person who adds it.

        Raises:
            InputError: the file is no model of the kind that the settings name.
        """
        product_id = self.product_id(name)
        entry = self._entry_of.get(name)
        if entry is None:
            return self.versions.add(product_id, model, origin, who)
        names = self._product_names(entry, model)
        if name not in names.values():
            raise InputError(
                f"{model} has no product {name}: send it to one that it has, {', '.join(names.values())}"
            )
        added = self.versions.add_joint(self.entries[entry], model, names, origin, who)
        self._load_products(entry)
        return added[product_id]

    def add_product(
        self,
        name: str,
        product: ProductSettings,
        origin: str,
        who: str,
        facts: Mapping[str, object] = MappingProxyType({}),
    ) -> int:
        """Add a product with its model, which judges from now on, or a further version of a product.

        Open questions of the fit are accepted by that.

        Args:
            name: Name of the product.
            product: Settings of the product.
            origin: Where the model came from, for a person.
            who: Person who adds it.
            facts: Facts of the version, beside those of the file.

        Returns:
            The number of the version.

        Raises:
            InputError: the model cannot be opened.
        """
        with self._changing:
            return self._add_product(name, product, origin, who, facts)

    def _add_product(
        self, name: str, product: ProductSettings, origin: str, who: str, facts: Mapping[str, object]
    ) -> int:
        number = self.store.add_product(name)
        assert product.model is not None
        version = self.versions.add(number, product.model, origin, who, facts)
        version = self.versions.accept_questions(number, version, who)
        self.versions.activate(number, version, who, goes_live=True)
        if name not in self.products:
            is_known = number in self.names  # it was removed since the start, and is watched all the same
            self.configured[name] = self.settings[name] = product
            self.names[number] = name
            self.products[name] = number  # now it is found
            if not is_known:
                self._tell_added(name)
        return version

    def remove_product(self, name: str, who: str) -> None:
        """Let a product be found no more, and its model judge no more.

        It keeps its number and its records. The latter is the removal: a product of the pages without a model
        is none at the next start. NotFoundError; StoreError: it stays.
        """
        with self._changing:
            number = self.product_id(name)
            self.versions.deactivate(number, who, f"product {name}; its records are kept")
            del self.products[name]
            self.configured.pop(name, None)

    def is_removed(self, number: int) -> bool:
        """Return whether this is the number of a product that was removed since the start."""
        return number in self.names and number not in self.numbers()

    def _tell_added(self, name: str) -> None:
        for tell in self.on_added:
            tell(self.products[name], name, self.settings[name])

    # ---- names

    def __contains__(self, name: object) -> bool:
        return name in self.entries or name in self.products

    def numbers(self) -> list[int]:
        """Return the numbers of the products and entries at which pictures are taken now."""
        return [*list(self.products.values()), *list(self.entries.values())]

    def configured_numbers(self) -> dict[str, int]:
        """Return the numbers of the addresses that the settings or the pages name, by name."""
        found = {name: self.entries.get(name, self.products.get(name)) for name in list(self.configured)}
        return {name: number for name, number in found.items() if number is not None}

    def settings_of(self, name: str) -> ProductSettings:
        """Return the settings of a product, or of its entry.

        Raises:
            NotFoundError: there is no such product, or it was removed.
        """
        configured = self.configured.get(self.configured_name(name))
        if configured is None:
            self.product_id(name)
            raise NotFoundError(f"product {name} is removed")
        return configured

    def removed(self) -> dict[str, int]:
        """Return the numbers, by name, of removed products that have records."""
        return self.store.removed_products(self.numbers())

    def records_id(self, name: str) -> int:
        """Return the number of a product, inspected or removed, for reading its records.

        Raises:
            NotFoundError: there is no such product.
        """
        if name not in self and (number := self.removed().get(name)) is not None:
            return number
        return self.product_id(name)

    def product_id(self, name: str) -> int:
        """Return the number of a product.

        Raises:
            NotFoundError: there is no such product; the text names those that there are.
        """
        if name in self.entries:
            addresses = ", ".join(address for address, entry in list(self._entry_of.items()) if entry == name)
            raise NotFoundError(
                f"{name} finds the product of a picture and is none itself: ask for one of {addresses}"
            )
        number = self.products.get(name)  # asked once: it may be removed at any moment
        if number is None:
            raise NotFoundError(
                f"there is no product {name!r:.80}: {suggest_name(name, list(self.products))}"
            )
        return number

    def address_id(self, name: str) -> int:
        """Return the number of a product or an entry.

        Raises:
            NotFoundError: there is no such address.
        """
        return self.entries[name] if name in self.entries else self.product_id(name)

    def find(self, name: str) -> Address:
        """Return the address of a request, by the name of its product or entry.

        Raises:
            NotFoundError: there is no such address.
        """
        number = self.address_id(name)
        deadline = self.settings_of(name).deadline
        return Address(name, number, ENTRY if name in self.entries else HTTP, deadline)

    def configured_name(self, name: str) -> str:
        """Return the name in the settings: a product's own, or that of its entry."""
        return self._entry_of.get(name, name)


CANNOT_LEARN = (
    "a joint model does not learn from corrections: add the pictures to it with `flawscope fit --update`, "
    "and use the new file"
)
