"""New products that go live: the models of their drafts become versions of the station's products."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress

from flawscope.errors import InputError
from flawscope_station.core.health import Health
from flawscope_station.core.page_products import MADE_ON_PAGES, page_products
from flawscope_station.settings.station import ProductSettings
from flawscope_station.setup.draft import OLD_LIVE_KEYS, Draft
from flawscope_station.setup.drafts import Drafts, LiveFacts, NameTakenError
from flawscope_station.sources import Sources
from flawscope_station.store.addresses import Addresses
from flawscope_station.store.database import StoreError
from flawscope_station.store.model_registry import DRAFT, DraftMark, MadeVersion
from flawscope_station.store.records import REMOVED_EVENT, parse_time
from flawscope_station.store.schema import ACTIVE, RETIRED


class LiveProducts:
    """Products that a person lets go live, and removes, on the pages.

    Args:
        with_model: Names of the products whose model file is named in the settings.
        asked_for: Names of the products that are used by connections in the settings.
        addresses: Products of the station.
        sources: Sources of pictures, by the product's name.
        drafts: Drafts of all new products.
        health: Problems of the station.
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
        self.with_model = with_model
        self.asked_for = asked_for
        self.addresses = addresses
        self.sources = sources
        self.drafts = drafts
        self.health = health
        self.store = addresses.store
        self.files = drafts.files
        self.versions = addresses.versions
        drafts.live_of = self.live_of
        for draft in drafts:
            if not draft.state.keys().isdisjoint(OLD_LIVE_KEYS):
                with suppress(StoreError):  # the disk is full: the next start tries again
                    self._mark_old_versions(draft)

    def _mark_old_versions(self, draft: Draft) -> None:
        """Store a mark, the facts about a draft, with each version that was made from the draft.

        Earlier releases stored the live version in the draft's state, from which it is removed here.
        """
        live = draft.state.get("live") or {}
        product_id = draft.state.get("product", self.addresses.products.get(draft.name))
        if product_id is not None:
            for version in self.versions.made_as(product_id, MADE_ON_PAGES):
                is_live = version["id"] == live.get("version")
                fit_request_time = live.get("learnt") if is_live else None
                mark = self._mark(draft, live.get("by", ""), fit_request_time)
                self.versions.note_draft(version["id"], mark)
        draft.forget_earlier()

    @staticmethod
    def _mark(draft: Draft, who: str, fit_request_time: int | None) -> DraftMark:
        """Return the facts about a draft that are stored with each version made from the draft.

        Args:
            draft: Draft of the version.
            who: User who let it go live.
            fit_request_time: Time at which its fit was requested, in microseconds since 1970; None: unknown.
        """
        # the time at which a draft was begun distinguishes it from a later draft of the same name
        return {"begun": draft.state.get("at"), "by": who, "learnt": fit_request_time}

    def live_of(self, draft: Draft) -> LiveFacts | None:
        """Return the facts of a draft's latest version that is or was active; None: the draft is not live."""
        product_id = self.addresses.products.get(draft.name)
        if product_id is None:
            return None
        for version in self._versions_of(draft, product_id):
            if version["state"] in (ACTIVE, RETIRED):
                mark = version["draft"]
                return {"version": version["id"], "by": mark["by"], "learnt": mark["learnt"]}
        return None

    def _versions_of(self, draft: Draft, product_id: int) -> list[MadeVersion]:
        """Return the versions of a product that were made from a draft, the newest first."""
        page_versions = self.versions.made_as(product_id, MADE_ON_PAGES)
        begun = draft.state.get("at")
        return [
            version for version in page_versions if "draft" in version and version["draft"]["begun"] == begun
        ]

    def begin(self, name: str, who: str) -> Draft:
        """Return the draft called `name`; if there is none, begin one.

        A draft may have the name of a product that was made on the pages or that has no model yet.

        Raises:
            InputError: The name is invalid, or another product has it.
        """
        configured = self.addresses.configured
        page_made = page_products(self.store, self.files, self.with_model)
        without_model = [other for other, product in configured.items() if product.model is None]
        replaceable_names = {*page_made, *without_model}
        product_names = [*self.addresses.products, *self.addresses.entries]
        reserved_names = [
            product_name for product_name in product_names if product_name not in replaceable_names
        ]
        return self.drafts.begin(name, who, product_names, reserved_names)

    def remove(self, name: str, who: str) -> None:
        """Remove a draft with its pictures; a product that went live stays."""
        self.drafts.remove(name)
        self.store.note_event(REMOVED_EVENT, who, f"pictures of the new product {name}")

    def go_live(self, name: str, who: str) -> None:
        """Make a draft a product of the station, which is inspected with the draft's model from now on.

        The open questions of the model count as accepted.

        Raises:
            InputError: The draft has no model, or the model cannot be opened.
        """
        draft = self.drafts.draft(name)
        if draft.result is None:
            raise InputError(f"{name} has no model yet: let it learn first")
        self._free_name(draft, who)
        self.sources.setdefault(name, [])  # it has no folders and cameras, unless the settings name some
        facts = {DRAFT: self._mark(draft, who, draft.result["asked_at"])}
        product = ProductSettings(str(draft.model))
        self.addresses.add_product(name, product, MADE_ON_PAGES, who, facts)

    def _free_name(self, draft: Draft, who: str) -> None:
        """Free a draft's name: rename a removed product of this name, together with its records.

        If the removed product was made from this draft, it keeps the name: the draft goes live again as the
        same product.
        """
        if draft.name in self.addresses.products:  # it was not removed
            return
        removed_product = self.store.find_product(draft.name)
        if removed_product is None or self._versions_of(draft, removed_product.id):
            return
        # Versions of an earlier release are not marked with their draft. If none is marked, the product
        # counts as made from this draft if the draft was begun before the product.
        begun = draft.state.get("at")
        page_versions = self.versions.made_as(removed_product.id, MADE_ON_PAGES)
        has_mark = any(DRAFT in version for version in page_versions)
        if not has_mark and begun is not None and parse_time(begun) <= removed_product.created_at:
            return
        self.addresses.names[removed_product.id] = self.store.free_name(draft.name, who)

    def is_removable(self, name: str) -> bool:
        """Whether a product can be removed: it was made on the pages, and no setting uses it."""
        product = self.addresses.configured.get(name)
        has_model = product is not None and product.model is not None
        return has_model and name not in self.with_model and name not in self.asked_for

    def remove_live(self, name: str, who: str) -> None:
        """Remove a product that was made on the pages: it is not inspected any more.

        Its records are kept, and its draft can go live again.

        Raises:
            NotFoundError: There is no such product.
            NameTakenError: A setting uses it.
        """
        product_id = self.addresses.product_id(name)
        if not self.is_removable(name):
            raise NameTakenError(f"the settings name {name}: take it out there, and start the station anew")
        self.addresses.remove_product(name, who)
        for problem in self.health.problems():
            if problem.product == product_id:
                self.health.report(problem.code, None)  # the problem is over
