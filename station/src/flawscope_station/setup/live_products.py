"""New products that go live: their models become the station's."""

from __future__ import annotations

from collections.abc import Collection

from flawscope.errors import InputError
from flawscope_station.core.page_products import MADE_ON_PAGES, page_products
from flawscope_station.settings.station import ProductSettings
from flawscope_station.setup.draft import Draft
from flawscope_station.setup.drafts import Drafts
from flawscope_station.sources import Sources
from flawscope_station.store.addresses import Addresses
from flawscope_station.store.records import REMOVED_EVENT


class LiveProducts:
    """Products that go live on the pages.

    Args:
        with_model: names of products that the settings give a model.
    """

    def __init__(self, with_model: Collection[str], addresses: Addresses, sources: Sources, drafts: Drafts):
        self.with_model, self.addresses = with_model, addresses
        self.sources, self.drafts = sources, drafts
        self.store, self.files = addresses.store, drafts.files

    def begin(self, name: str, who: str) -> Draft:
        """Begin a draft, or return the one of this name. InputError as `Drafts.begin`."""
        configured, made = self.addresses.configured, page_products(self.store, self.files, self.with_model)
        without = [one for one, product in configured.items() if product.model is None]
        known = [one for one in self.addresses.names.values() if one not in made and one not in without]
        return self.drafts.begin(name, who, known)

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
        self.sources.setdefault(name, [])
        version = self.addresses.add_product(name, ProductSettings(str(draft.model)), MADE_ON_PAGES, who)
        draft.change(live={"version": version, "by": who, "learnt": draft.result["asked_at"]})
