"""Parts that are seen in several views: which models judge them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from flawscope.artefact import Manifest
from flawscope.errors import FlawscopeError
from flawscope.predictor import PartCollector
from flawscope_station.inspecting.capacity import BusyError
from flawscope_station.inspecting.part_set import PartSet, check_views
from flawscope_station.inspecting.picture import Picture, with_part_and_view
from flawscope_station.store.model_registry import ModelRegistry

CACHE_SIZE = 32  # versions whose calibration is in memory


class PartsCache:
    """Cache of how versions decide on parts, by version; None for those that judge single pictures."""

    def __init__(self, versions: ModelRegistry):
        self.versions = versions
        self._lock = threading.Lock()
        self._cache: OrderedDict[int, PartCollector | None] = OrderedDict()

    def for_version(
        self, product_id: int, version: int, manifest: Manifest | None = None
    ) -> PartCollector | None:
        """Return how a version decides on parts; None where it judges single pictures. InputError where the
        version's parts are damaged. manifest: of the version; None: its model is opened."""
        with suppress(KeyError):
            return self._cache[version]
        manifest = manifest or self.versions.open(product_id, version).manifest
        found = PartCollector.of(manifest)
        with self._lock:
            self._cache[version] = found
            while len(self._cache) > CACHE_SIZE:
                self._cache.popitem(last=False)
        return found

    def for_active_version(self, product_id: int) -> PartCollector | None:
        """Return how the version that judges decides on parts. NoModelError; InputError as `for_version`."""
        number, predictor = self.versions.active(product_id)
        return self.for_version(product_id, number, predictor.manifest)

    def views(self, product_id: int) -> list[str]:
        """Return the views in which the active version judges parts; none where it judges single pictures, or
        finds the product of each."""
        if product_id in self.versions.joint_entries:
            return []
        with suppress(FlawscopeError):  # no model is open
            judge = self.for_active_version(product_id)
            return [] if judge is None else list(judge.calibration.views)
        return []

    def named(self, picture: Picture) -> Picture:
        """Return a picture with its part and view, unless its product is yet to be recognised. InputError as
        `with_part_and_view`."""
        if picture.product_id in self.versions.joint_entries:
            return picture
        return with_part_and_view(picture, self.for_active_version(picture.product_id))

    def as_part(self, pictures: Sequence[Picture]) -> list[Picture]:
        """Return the pictures of a request as those of one part, where the model judges parts. InputError
        where they are not all views of one part; of an entry that is known when they are judged."""
        product_id = pictures[0].product_id if pictures else 0
        views = self.views(product_id)
        if views:
            pictures = [self.named(one) for one in pictures]
            check_views(views, [(one.part, one.view) for one in pictures])
        elif not self._finds_parts(product_id):
            return [self.named(one) for one in pictures]
        part = PartSet(count=len(pictures))
        return [replace(one, set=part) for one in pictures]

    def part_of(self, picture: Picture, judge: PartCollector) -> PartSet:
        """Return the part that a picture shows a view of, with how the version that judges decides on it."""
        if picture.set is None:
            raise BusyError(1.0, "another kind of model began to judge")
        picture.set.judge = judge
        return picture.set

    def _finds_parts(self, address: int) -> bool:
        """Whether a product that an entry may find is judged in views."""
        if address not in self.versions.joint_entries:
            return False
        known = self.versions.models.model_of(address).products.values()
        return any(self.for_version(one.product_id, one.number, one.predictor.manifest) for one in known)
