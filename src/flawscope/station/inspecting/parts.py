"""Parts that are seen in several views: which models judge them, and decisions at the deadline.

A view joins its part's round, and the last one decides it, in the transaction that records the view
(`store.insert`). Rounds that stay open are closed here. Their time is counted by a clock that nobody sets,
after a restart anew.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from flawscope.artefact.model_file import Manifest
from flawscope.errors import FlawscopeError, InputError
from flawscope.predictor.parts import Parts, pattern_of
from flawscope.station.background import Background
from flawscope.station.inspecting.picture import Picture, seen
from flawscope.station.store.database import Database
from flawscope.station.store.insert import DEADLINE, close, lock
from flawscope.station.store.model_registry import Versions
from flawscope.station.store.parts import decided, last_numbers, open_rounds

KNOWN = 32  # versions whose calibration is in memory
AGAIN = 1.0  # seconds until another try where the store is away
LONGEST = 3600.0  # seconds of a pause


class KnownParts:
    """Knows which versions judge parts, and by what."""

    def __init__(self, versions: Versions):
        self.versions = versions
        self._lock = threading.Lock()
        self._known: OrderedDict[int, Parts | None] = OrderedDict()

    def of(self, product_id: int, version: int, manifest: Manifest | None = None) -> Parts | None:
        """Return how a version decides on parts; None where it judges single pictures.

        Args:
            manifest: of the version; None: its model is opened.

        Raises:
            InputError: the version's parts are damaged.
        """
        with suppress(KeyError):
            return self._known[version]
        manifest = manifest or self.versions.open(product_id, version).manifest
        found = None if pattern_of(manifest) is None else Parts(manifest)
        with self._lock:
            self._known[version] = found
            while len(self._known) > KNOWN:
                self._known.popitem(last=False)
        return found

    def active(self, product_id: int) -> Parts | None:
        """Return how the version that judges decides on parts. NoModelError; InputError as `of`."""
        number, predictor = self.versions.active(product_id)
        return self.of(product_id, number, predictor.manifest)

    def views(self, product_id: int) -> list[str]:
        """Return the views in which the active version judges parts; none where it judges single pictures."""
        with suppress(FlawscopeError):  # no model is open
            judge = self.active(product_id)
            return [] if judge is None else list(judge.calibration.views)
        return []

    def check(self, picture: Picture) -> None:
        """Check part and view of a picture before it is judged; where the product is still to be found, not.
        InputError as `seen`."""
        if picture.product_id not in self.versions.entries:
            seen(picture, self.active(picture.product_id))


class Rounds(Background):
    """Decides on parts whose deadline has passed, and tells of all decisions in their order.

    Args:
        deadlines: seconds by product.
        tell: gets the product's number and each part that was decided on, as the API shows it.
    """

    def __init__(
        self,
        database: Database,
        known: KnownParts,
        deadlines: Mapping[int, float],
        tell: Callable[[int, dict[str, Any]], None],
    ):
        super().__init__("parts")
        self.database, self.known, self.deadlines, self.tell = database, known, dict(deadlines), tell
        self._due: dict[int, float] = {}  # by round, as `time.monotonic` counts
        self._told: dict[int, int] = {}  # by product: number of the last decision that was told of

    def follow_also(self, product_id: int, seconds: float) -> None:
        """Decide on the parts of a further product, too."""
        last = last_numbers(self.database, [product_id]).get(product_id, 0)
        self._told = {product_id: last, **self._told}
        self.deadlines = {**self.deadlines, product_id: seconds}

    def start(self) -> None:
        self._told = dict.fromkeys(self.deadlines, 0) | last_numbers(self.database, self.deadlines)
        super().start()

    def _work(self) -> None:
        pause: float | None = 0.0
        while not self._wait(None if pause is None else min(pause, LONGEST)):
            try:
                pause = self._round()
            except Exception:  # a store that is away is reported by the check of the station
                pause = AGAIN

    def _round(self) -> float | None:
        """Close what is due, tell of decisions; return the seconds until the next is due, None: none is."""
        now, due, failed = time.monotonic(), dict[int, float](), False
        for row in open_rounds(self.database, self.deadlines):
            due[row.id] = self._due.get(row.id, now + self.deadlines[row.product_id])
            if due[row.id] <= now:
                try:
                    self._close(row.id, row.product_id, row.version_id)
                except Exception:  # tried again; other products' parts do not wait for it
                    failed = True
        self._due = due
        for product_id, number, part in decided(self.database, self._told):
            self._told[product_id] = number
            self.tell(product_id, part)
        if failed:
            return AGAIN
        next_due = min((one for one in due.values() if one > now), default=None)
        return None if next_due is None else max(0.0, next_due - time.monotonic())

    def _close(self, number: int, product_id: int, version: int) -> None:
        judge = None
        with suppress(InputError):  # the version's file is lost
            judge = self.known.of(product_id, version)
        with self.database.writing() as connection:
            lock(connection, [product_id])
            close(connection, number, judge, DEADLINE)
