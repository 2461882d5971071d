"""Camera checks after the answer: a few pictures a second, in a thread of its own that skips the rest."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from flawscope.errors import with_kind
from flawscope.pictures.decoding import without_warnings
from flawscope.station.background import Background
from flawscope.station.drift.camera_faults import KINDS, REFERENCE, Look, Reference, Watch, described, look
from flawscope.station.drift.sequential_tests import Run
from flawscope.station.inspecting.capacity import BusyError, Memory
from flawscope.station.inspecting.writer import Recorded
from flawscope.station.store.database import StoreError
from flawscope.station.store.files import PICTURES, Files

FOLDER = "cameras"  # of references, below the station's folder
OFTEN = 0.25  # least seconds between two pictures of a product
SHARE = 0.1  # of one processor that the checks take, at most
Key = tuple[int, int]  # version, and the inspection after which its tests began


class Looks(Background):
    """Checks the newest pictures of products for faults of the camera.

    Args:
        watched: products.
        names: names by product.
        run_of: returns the drift tests of a product: camera and drift begin anew together.
        report: reports a problem, as `Station.report`.
        white_of: returns a product's white level, for `look`.
    """

    def __init__(
        self,
        files: Files,
        watched: Iterable[int],
        names: Mapping[int, str],
        run_of: Callable[[int], Run | None],
        report: Callable[[str, str | None], None],
        memory: Memory,
        white_of: Callable[[int], float | None] = lambda product_id: None,
    ):
        super().__init__("camera")
        self.files, self.run_of, self.report, self.white_of = files, run_of, report, white_of
        self.memory = memory
        self.names = {number: names[number] for number in watched}
        self.often = OFTEN
        self._watches: dict[int, tuple[Key, Watch]] = {}
        self._next: dict[int, Recorded] = {}  # the newest one of each product
        self._seen: dict[int, float] = {}

    def note(self, recorded: Recorded) -> None:
        """Queue the picture of an inspection, unless one was checked a moment ago."""
        product_id = recorded.taken.product_id
        if product_id in self.names and time.monotonic() - self._seen.get(product_id, -OFTEN) >= self.often:
            self._next[product_id] = recorded
            self.wake()

    def renew(self, product_id: int) -> None:
        """Take the present state as normal: forget the reference and the faults."""
        self._watches.pop(product_id, None)
        for kind in KINDS:
            self.report(f"camera_{kind}_{product_id}", None)

    # ---- in the thread

    def _work(self) -> None:
        while not self._wait():
            for product_id in list(self._next):
                begun = self._seen[product_id] = time.monotonic()
                self._try(product_id, self._next.pop(product_id))
                self._ended.wait((time.monotonic() - begun) * (1 / SHARE - 1))

    def _try(self, product_id: int, recorded: Recorded) -> None:
        """Check a picture and report the faults, or why it cannot be checked."""
        name = self.names[product_id]
        try:
            run = self.run_of(product_id)
            if run is None or recorded.taken.version_id != run.version:
                return
            watch = self._watched(product_id, (run.version, run.after), recorded)
        except (StoreError, BusyError):
            return  # a removed file, or large pictures before it, say nothing about the camera
        except Exception as error:
            why = f"{name}: the camera is not checked: {with_kind(error)}"
            self.report(f"camera_unknown_{product_id}", why)
            return
        self.report(f"camera_unknown_{product_id}", None)
        for kind in KINDS:
            by = watch.wrong.get(kind)
            self.report(
                f"camera_{kind}_{product_id}", None if by is None else f"{name}: {described(kind, by)}"
            )

    def _watched(self, product_id: int, key: Key, recorded: Recorded) -> Watch:
        one, taken = self._read(recorded), recorded.taken
        if product_id not in self._watches or self._watches[product_id][0] != key:
            self._watches[product_id] = key, Watch(self._kept(product_id, key))
        watch = self._watches[product_id][1]
        shifts = recorded.prediction.shifts if recorded.prediction is not None else ()
        learning = watch.reference is None
        watch.add(one, taken.at / 1e6, not taken.anomalous, shifts)
        if learning and watch.reference is not None:
            self._keep(product_id, key, watch.reference)
        return watch

    def _read(self, recorded: Recorded) -> Look:
        data = self.files.read(PICTURES, recorded.taken.picture, recorded.taken.suffix)
        with without_warnings():  # about large pictures: they were accepted
            image = Image.open(io.BytesIO(data))
        # only large pictures share their memory with the inspections
        with image, self.memory.hold(data, "the picture"):
            return look(image, self.white_of(recorded.taken.product_id))

    # ---- over a restart: without the file, or where it is damaged, a new reference is begun

    def _path(self, product_id: int) -> Path:
        return self.files.folder / FOLDER / f"{product_id}.npz"

    def _keep(self, product_id: int, key: Key, reference: Reference) -> None:
        buffer, numbers = io.BytesIO(), [one[:-1] for one in reference.looks]
        with suppress(Exception):
            smalls = np.stack([one.small for one in reference.looks])
            np.savez_compressed(buffer, key=np.array(key), numbers=np.array(numbers), smalls=smalls)
            self.files.write(self._path(product_id), buffer.getvalue(), durable=False)

    def _kept(self, product_id: int, key: Key) -> Reference | None:
        with suppress(Exception), np.load(self._path(product_id), allow_pickle=False) as kept:
            if tuple(kept["key"]) == key:
                rows = zip(kept["numbers"].tolist(), kept["smalls"], strict=True)
                return Reference([Look._make([*numbers, small]) for numbers, small in rows])
        return None

    # ---- as the API shows it

    def facts(self, product_id: int) -> dict[str, Any]:
        watch = self._watches.get(product_id, (None, Watch()))[1]
        known = watch.reference
        return {
            "watched": product_id in self.names,
            "first_pictures": REFERENCE if known is not None else len(watch.first),
            "wanted_pictures": REFERENCE,
            "still": None if known is None else known.still,
            "problems": [kind for kind in KINDS if kind in watch.wrong],
        }
