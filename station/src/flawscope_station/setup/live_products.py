"""New products that go live: their models become the station's."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress

from flawscope.errors import InputError
from flawscope_station.core.health import Health
from flawscope_station.core.page_products import MADE_ON_PAGES, page_products
from flawscope_station.settings.station import ProductSettings
from flawscope_station.setup.draft import OF_LIVE, Draft
from flawscope_station.setup.drafts import Drafts, LiveFacts, NameTakenError
from flawscope_station.sources import Sources
from flawscope_station.store.addresses import Addresses
from flawscope_station.store.database import StoreError
from flawscope_station.store.model_registry import DRAFT, DraftMark, MadeVersion
from flawscope_station.store.records import REMOVED_EVENT, parse_time
from flawscope_station.store.schema import ACTIVE, RETIRED


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
            if not draft.state.keys().isdisjoint(OF_LIVE):
                with suppress(StoreError):  # a full disk: the next start tries again
                    self._note_earlier(draft)

    def _note_earlier(self, draft: Draft) -> None:
        """Note with the versions what a draft of an earlier flawscope went live as, which it said itself."""
        live = draft.state.get("live") or {}
        product = draft.state.get("product", self.addresses.products.get(draft.name))
        if product is not None:
            for version in self.versions.made_as(product, MADE_ON_PAGES):
                is_live = version["id"] == live.get("version")
                learnt = live.get("learnt") if is_live else None
                self.versions.note_draft(version["id"], self._mark(draft, live.get("by", ""), learnt))
        draft.forget_earlier()

    @staticmethod
    def _mark(draft: Draft, who: str, learnt: int | None) -> DraftMark:
        """Return the fact that is stored with a version that a draft went live as.

        It has the time at which the draft was begun, which distinguishes it from a later draft of the same
        name, and the time at which its learning was asked for.
        """
        return {"begun": draft.state.get("at"), "by": who, "learnt": learnt}

    def live_of(self, draft: Draft) -> LiveFacts | None:
        """Return version, person and time of learning of what went live last; None: nothing inspects."""
        number = self.addresses.products.get(draft.name)
        made = [] if number is None else self._made_of(draft, number)
        used = [version for version in made if version["state"] in (ACTIVE, RETIRED)]
        if not used:
            return None
        mark = used[0]["draft"]
        return {"version": used[0]["id"], "by": mark["by"], "learnt": mark["learnt"]}

    def _made_of(self, draft: Draft, product: int) -> list[MadeVersion]:
        """Return the versions of a product that a draft went live as, the newest first."""
        made = self.versions.made_as(product, MADE_ON_PAGES)
        begun = draft.state.get("at")
        return [version for version in made if "draft" in version and version["draft"]["begun"] == begun]

    def begin(self, name: str, who: str) -> Draft:
        """Begin a draft, or return the one of this name. InputError as `Drafts.begin`."""
        configured = self.addresses.configured
        made = page_products(self.store, self.files, self.with_model)
        without = [product_name for product_name, product in configured.items() if product.model is None]
        known_names = [*self.addresses.products, *self.addresses.entries]
        taken = [
            product_name
            for product_name in known_names
            if product_name not in made and product_name not in without
        ]
        return self.drafts.begin(name, who, known_names, taken)

    def remove(self, name: str, who: str) -> None:
        """Remove a draft with its pictures. What went live stays."""
        self.drafts.remove(name)
        self.store.note_event(REMOVED_EVENT, who, f"pictures of the new product {name}")

    def go_live(self, name: str, who: str) -> None:
        """Let the model of a draft inspect from now on, as a product of the station.

        Its open questions are accepted by that. InputError where nothing was learnt, or the model cannot be
        opened.
        """
        draft = self.drafts.draft(name)
        if draft.result is None:
            raise InputError(f"{name} has no model yet: let it learn first")
        self._free_name(draft, who)
        self.sources.setdefault(name, [])
        facts = {DRAFT: self._mark(draft, who, draft.result["asked_at"])}
        product = ProductSettings(str(draft.model))
        self.addresses.add_product(name, product, MADE_ON_PAGES, who, facts)

    def _free_name(self, draft: Draft, who: str) -> None:
        """Rename a product that was removed, with its records, where a draft of another part takes its name.

        The draft that made the product goes live again as the same product, under its name.
        """
        before = None if draft.name in self.addresses.products else self.store.find_product(draft.name)
        if before is None or self._made_of(draft, before.id):
            return
        # versions of an earlier release do not say what made them: it was begun before the product was there
        begun = draft.state.get("at")
        is_recorded = any(DRAFT in facts for facts in self.versions.made_as(before.id, MADE_ON_PAGES))
        if not is_recorded and begun is not None and parse_time(begun) <= before.created_at:
            return
        self.addresses.names[before.id] = self.store.free_name(draft.name, who)

    def is_removable(self, name: str) -> bool:
        """Whether a product was made on the pages alone: the settings name it nowhere."""
        product = self.addresses.configured.get(name)
        is_made = product is not None and product.model is not None and name not in self.with_model
        return is_made and name not in self.asked_for

    def remove_live(self, name: str, who: str) -> None:
        """Remove a product that was made on the pages: it is inspected no more.

        Its records are kept, and its draft can go live again. NotFoundError; NameTakenError where the
        settings name it.
        """
        number = self.addresses.product_id(name)
        if not self.is_removable(name):
            raise NameTakenError(f"the settings name {name}: take it out there, and start the station anew")
        self.addresses.remove_product(name, who)
        for problem in self.health.problems():
            if problem.product == number:
                self.health.report(problem.code, None)
