"""New products that go live: their models become the station's."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress

from flawscope.errors import InputError
from flawscope_station.core.health import Health
from flawscope_station.core.page_products import MADE_ON_PAGES, page_products
from flawscope_station.settings.station import ProductSettings
from flawscope_station.setup.draft import Draft
from flawscope_station.setup.drafts import Drafts, NameTakenError
from flawscope_station.sources import Sources
from flawscope_station.store.addresses import Addresses
from flawscope_station.store.database import StoreError
from flawscope_station.store.records import REMOVED_EVENT, parse_time


class LiveProducts:
    """Products that go live on the pages.

    Args:
        with_model: names of products that the settings give a model.
        asked_for: names of products that connections of the settings ask for.
    """

    def __init__(
        self,
        with_model: Collection[str],
        asked_for: Collection[str],
        addresses: Addresses,
        sources: Sources,
        drafts: Drafts,
        health: Health,
    ):
        self.with_model, self.asked_for, self.addresses = with_model, asked_for, addresses
        self.sources, self.drafts, self.health = sources, drafts, health
        self.store, self.files = addresses.store, drafts.files
        for draft in drafts:  # a removal that was cut off left it so
            if draft.state.get("live") and draft.name not in addresses.products:
                with suppress(StoreError):  # a full disk: the next start tries again
                    draft.change(live=None)

    def begin(self, name: str, who: str) -> Draft:
        """Begin a draft, or return the one of this name. InputError as `Drafts.begin`."""
        configured, made = self.addresses.configured, page_products(self.store, self.files, self.with_model)
        without = [one for one, product in configured.items() if product.model is None]
        there = [*self.addresses.products, *self.addresses.entries]
        taken = [one for one in there if one not in made and one not in without]
        return self.drafts.begin(name, who, there, taken)

    def remove(self, name: str, who: str) -> None:
        """Remove a draft with its pictures. What went live stays."""
        self.drafts.remove(name)
        self.store.note_event(REMOVED_EVENT, who, f"pictures of the new product {name}")

    def go_live(self, name: str, who: str) -> None:
        """Let the model of a draft inspect from now on, as a product of the station: its open questions are
        accepted by that. InputError where nothing was learnt, or the model cannot be opened."""
        draft = self.drafts.draft(name)
        if draft.result is None:
            raise InputError(f"{name} has no model yet: let it learn first")
        self._free_name(draft, who)
        self.sources.setdefault(name, [])
        version = self.addresses.add_product(name, ProductSettings(str(draft.model)), MADE_ON_PAGES, who)
        live = {"version": version, "by": who, "learnt": draft.result["asked_at"]}
        draft.change(live=live, product=self.addresses.product_id(name))

    def _free_name(self, draft: Draft, who: str) -> None:
        """Let a product that was removed keep its records for itself, where another part gets its name. The
        draft that made it goes live again as the same product."""
        before = None if draft.name in self.addresses.products else self.store.find_product(draft.name)
        if before is None or draft.state.get("product") == before.id:
            return
        # drafts of an earlier release do not say what they made: it was begun before that was there
        begun = draft.state.get("at")
        if "product" not in draft.state and begun is not None and parse_time(begun) <= before.created_at:
            return
        self.addresses.names[before.id] = self.store.free_name(draft.name, who)

    def is_removable(self, name: str) -> bool:
        """Whether a product was made on the pages alone: the settings name it nowhere."""
        product = self.addresses.configured.get(name)
        is_made = product is not None and product.model is not None and name not in self.with_model
        return is_made and name not in self.asked_for

    def remove_live(self, name: str, who: str) -> None:
        """Inspect a product no more that was made on the pages. Its records are kept, and its draft can go
        live again. NotFoundError; NameTakenError where the settings name it."""
        number = self.addresses.product_id(name)
        if not self.is_removable(name):
            raise NameTakenError(f"the settings name {name}: take it out there, and start the station anew")
        self.addresses.remove_product(name, who)
        for problem in self.health.problems():
            if problem.product == number:
                self.health.report(problem.code, None)
        for draft in self.drafts:
            if draft.name == name:
                draft.change(live=None)
