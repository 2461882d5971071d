"""Parts that are seen in several views, and the models that judge them.

`store.addresses` explains entries and joint models.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from contextlib import suppress

from flawscope.artefact import ModelFacts
from flawscope.errors import FlawscopeError
from flawscope.predictor import PartCollector
from flawscope_station.inspecting.picture import Part, label_of, with_views
from flawscope_station.store.model_registry import ModelRegistry
from flawscope_station.store.open_models import Model

CACHE_SIZE = 32  # versions whose calibration is in memory


class PartsCache:
    """Cache of the collectors that decide on parts in views."""

    def __init__(self, versions: ModelRegistry):
        self.versions = versions
        self._lock = threading.Lock()
        self._cache: OrderedDict[int, PartCollector | None] = OrderedDict()
        # by number of the entry: the joint model that judged last, and its collector
        self._joint: dict[int, tuple[Model, PartCollector | None]] = {}

    def for_version(
        self, product_id: int, version: int, facts: ModelFacts | None = None
    ) -> PartCollector | None:
        """Return the collector that decides on a version's parts; None: the version judges single pictures.

        Args:
            product_id: Number of the product.
            version: Number of the version.
            facts: Facts of the version's model; None: the model is opened.

        Raises:
            InputError: The version's parts are damaged.
        """
        with suppress(KeyError):
            return self._cache[version]
        facts = facts or self.versions.open(product_id, version).facts
        collector = None if facts.parts is None else PartCollector(facts)
        with self._lock:
            self._cache[version] = collector
            while len(self._cache) > CACHE_SIZE:
                self._cache.popitem(last=False)
        return collector

    def for_address(self, address: int) -> PartCollector | None:
        """Return the collector that decides on an address's parts; None where single pictures are judged.

        A joint model's collector also finds the product of a part. Of such a model, all products have views,
        or none has.

        Raises:
            NoModelError: No model of the address is open.
            InputError: The version's parts are damaged.
        """
        judging = self.versions.models.active[address]
        # the address may be a product of a joint model, not the entry: then the product's own model judges
        if address not in self.versions.joint_entries or not judging.is_joint:
            (product,) = judging.products.values()
            return self.for_version(product.product_id, product.number, product.model.facts)
        if address in self._joint:
            model, collector = self._joint[address]
            if model is judging.model:  # else another model was activated at this entry
                return collector
        collector = judging.model.parts()
        self._joint[address] = judging.model, collector
        return collector

    def views(self, product_id: int) -> list[str]:
        """Return the views in which the active version judges parts.

        The list is empty if the version judges single pictures, if it cannot be used, or if `product_id` is
        an entry with a joint model, which finds the product of each part.
        """
        if product_id in self.versions.joint_entries:
            return []
        with suppress(FlawscopeError):  # no model is open, or its parts are damaged
            collector = self.for_address(product_id)
            return [] if collector is None else list(collector.calibration.views)
        return []

    def label(self, part: Part) -> tuple[str | None, str | None]:
        """Return number and view of a part with a single picture, from the part or the picture's name.

        A number or view that neither of them gives is None.
        """
        with suppress(FlawscopeError):
            if (collector := self.for_address(part.product_id)) is not None:
                return label_of(part, part.pictures[0], collector)
        return part.number, part.pictures[0].view

    def takes_views(self, address: int) -> bool:
        """Return whether the pictures of a request are views of the same part; else each is its own part.

        Raises:
            NoModelError: No model of the address is open.
        """
        return self.for_address(address) is not None

    def named(self, part: Part) -> Part:
        """Return a part with its number and its pictures' views.

        It may raise the errors of `with_views`, and NoModelError.
        """
        return with_views(part, self.for_address(part.product_id))
