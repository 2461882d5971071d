"""Parts that are seen in several views: which models judge them, and decisions at the deadline.

A view joins its part's round, and the last one decides it, in the transaction that records the view
(`store.insert`). Rounds that stay open are closed here. Their time is counted
by a monotonic clock, after a restart anew.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from flawscope.artefact import Manifest
from flawscope.errors import FlawscopeError, InputError
from flawscope.predictor import PartCollector
from flawscope_station.background import BackgroundThread
from flawscope_station.inspecting.picture import Picture, with_part_and_view
from flawscope_station.inspecting.writer import RecordedInspection
from flawscope_station.settings.station import ProductSettings
from flawscope_station.store.database import Database
from flawscope_station.store.insert import DEADLINE, decide_part, lock_products
from flawscope_station.store.model_registry import ModelRegistry
from flawscope_station.store.parts import decisions, last_decision_numbers, open_rounds

CACHE_SIZE = 32  # versions whose calibration is in memory
RETRY_SECONDS = 1.0  # seconds until another try where the store is away
MAX_PAUSE = 3600.0  # seconds of a pause


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
        """Return the views in which the active version judges parts; none where it judges single pictures."""
        with suppress(FlawscopeError):  # no model is open
            judge = self.for_active_version(product_id)
            return [] if judge is None else list(judge.calibration.views)
        return []

    def check(self, picture: Picture) -> None:
        """Check part and view of a picture before it is judged, unless its product is yet to be recognised.
        InputError as `with_part_and_view`."""
        if picture.product_id not in self.versions.joint_entries:
            with_part_and_view(picture, self.for_active_version(picture.product_id))


class PartDeadlines(BackgroundThread):
    """Decides on parts whose deadline has passed, and announces all decisions in their order.

    Args:
        deadlines: seconds by product.
        announce: gets the product's number and each part that was decided on, as the API shows it.
    """

    def __init__(
        self,
        database: Database,
        parts: PartsCache,
        deadlines: Mapping[int, float],
        announce: Callable[[int, dict[str, Any]], None],
    ):
        super().__init__("parts")
        self.database, self.parts, self.deadlines, self.announce = database, parts, dict(deadlines), announce
        self._due: dict[int, float] = {}  # by round, as `time.monotonic` counts
        self._announced: dict[int, int] = {}  # by product: number of the last announced decision

    def add_product(self, product_id: int, name: str, product: ProductSettings) -> None:
        """Decide on the parts of a new product, too."""
        last = last_decision_numbers(self.database, [product_id]).get(product_id, 0)
        self._announced = {product_id: last, **self._announced}
        self.deadlines = {**self.deadlines, product_id: product.part_seconds}

    def observe(self, recorded: RecordedInspection) -> None:
        """Look at the parts where a view of one was inspected."""
        if recorded.inspection.parts is not None:
            self.wake()

    def start(self) -> None:
        last = last_decision_numbers(self.database, self.deadlines)
        self._announced = dict.fromkeys(self.deadlines, 0) | last
        super().start()

    def _work(self) -> None:
        pause: float | None = 0.0
        while not self._wait(None if pause is None else min(pause, MAX_PAUSE)):
            try:
                pause = self._decide_due()
            except Exception:  # a store that is away is reported by the check of the station
                pause = RETRY_SECONDS

    def _decide_due(self) -> float | None:
        """Decide on the parts that are due; return the seconds until the next one is due, None: none is."""
        now, due, failed = time.monotonic(), dict[int, float](), False
        for row in open_rounds(self.database, self.deadlines):
            due[row.id] = self._due.get(row.id, now + self.deadlines[row.product_id])
            if due[row.id] <= now:
                try:
                    self._decide(row.id, row.product_id, row.version_id)
                except Exception:  # tried again; other products' parts do not wait for it
                    failed = True
        self._due = due
        for product_id, number, part in decisions(self.database, self._announced):
            self._announced[product_id] = number
            self.announce(product_id, part)
        if failed:
            return RETRY_SECONDS
        next_due = min((one for one in due.values() if one > now), default=None)
        return None if next_due is None else max(0.0, next_due - time.monotonic())

    def _decide(self, number: int, product_id: int, version: int) -> None:
        judge = None
        with suppress(InputError):  # the version's file is lost
            judge = self.parts.for_version(product_id, version)
        with self.database.writing() as connection:
            lock_products(connection, [product_id])
            decide_part(connection, number, judge, DEADLINE)
