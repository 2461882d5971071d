"""Camera checks after the answer, in a thread of its own: a few pictures a second, others are skipped."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from flawscope.errors import message_with_type
from flawscope.pictures import decoding, displayed
from flawscope_station.background import BackgroundThread
from flawscope_station.drift import camera_faults
from flawscope_station.drift.camera_faults import (
    FAULT_KINDS,
    REFERENCE,
    CameraCheck,
    PictureMeasurements,
    Reference,
)
from flawscope_station.drift.sequential_tests import DriftTests
from flawscope_station.inspecting.capacity import BusyError, MemoryBudget
from flawscope_station.inspecting.writer import RecordedInspection
from flawscope_station.store.database import StoreError
from flawscope_station.store.files import PICTURES, Files

REFERENCE_FOLDER = "cameras"  # of references, below the station's folder
MIN_INTERVAL = 0.25  # least seconds between two checked pictures of a product
MAX_CPU_SHARE = 0.1  # of one processor that the checks take, at most
ReferenceKey = tuple[int, int]  # version, and the inspection after which its tests began


class CameraMonitor(BackgroundThread):
    """Checks the newest pictures of products for faults of the camera.

    Args:
        tests_of: returns a product's drift tests, with which the camera checks begin anew.
        report: reports a problem, as `Problems.report`.
        levels_of: returns the levels of a product's deep pictures, for `measure_picture`.

    Attributes:
        names: names of the products that are checked, by number.
    """

    def __init__(
        self,
        files: Files,
        tests_of: Callable[[int], DriftTests | None],
        report: Callable[[str, str | None], None],
        memory: MemoryBudget,
        levels_of: Callable[[int], tuple[float, float] | None],
    ):
        super().__init__("camera")
        self.files, self.tests_of, self.report, self.levels_of = files, tests_of, report, levels_of
        self.memory = memory
        self.names: dict[int, str] = {}
        self.min_interval = MIN_INTERVAL
        self._checks: dict[int, tuple[ReferenceKey, CameraCheck]] = {}
        self._newest: dict[int, RecordedInspection] = {}  # the newest one of each product
        self._checked_at: dict[int, float] = {}

    def enqueue(self, recorded: RecordedInspection) -> None:
        """Queue the picture of an inspection, unless one was checked a moment ago."""
        product_id = recorded.inspection.product_id
        since = time.monotonic() - self._checked_at.get(product_id, -MIN_INTERVAL)
        if product_id in self.names and since >= self.min_interval:
            self._newest[product_id] = recorded
            self.wake()

    def reset(self, product_id: int) -> None:
        """Take the present state as normal: forget the reference and the faults."""
        self._checks.pop(product_id, None)
        for kind in FAULT_KINDS:
            self.report(f"camera_{kind}_{product_id}", None)

    # ---- in the thread

    def _work(self) -> None:
        while not self._wait():
            for product_id in list(self._newest):
                begun = self._checked_at[product_id] = time.monotonic()
                self._check(product_id, self._newest.pop(product_id))
                self._pause((time.monotonic() - begun) * (1 / MAX_CPU_SHARE - 1))

    def _check(self, product_id: int, recorded: RecordedInspection) -> None:
        """Check a picture and report the faults, or why it cannot be checked."""
        name = self.names[product_id]
        try:
            tests = self.tests_of(product_id)
            if tests is None or recorded.inspection.version_id != tests.version:
                return
            check = self._add_to_check(product_id, (tests.version, tests.after), recorded)
        except (StoreError, BusyError):
            return  # a removed file, or large pictures before it, say nothing about the camera
        except Exception as error:
            why = f"{name}: the camera is not checked: {message_with_type(error)}"
            self.report(f"camera_unknown_{product_id}", why)
            return
        self.report(f"camera_unknown_{product_id}", None)
        for kind in FAULT_KINDS:
            shift = check.faults.get(kind)
            fault = None if shift is None else f"{name}: {camera_faults.describe_fault(kind, shift)}"
            self.report(f"camera_{kind}_{product_id}", fault)

    def _add_to_check(self, product_id: int, key: ReferenceKey, recorded: RecordedInspection) -> CameraCheck:
        measurements, taken = self._measure(recorded), recorded.inspection
        if product_id not in self._checks or self._checks[product_id][0] != key:
            self._checks[product_id] = key, CameraCheck(self._load_reference(product_id, key))
        check = self._checks[product_id][1]
        shifts = recorded.prediction.shifts if recorded.prediction is not None else ()
        learning = check.reference is None
        check.add(measurements, taken.at / 1e6, not taken.anomalous, shifts)
        if learning and check.reference is not None:
            self._save_reference(product_id, key, check.reference)
        return check

    def _measure(self, recorded: RecordedInspection) -> PictureMeasurements:
        data = self.files.read(PICTURES, recorded.inspection.picture, recorded.inspection.suffix)
        with decoding.without_warnings():  # about large pictures: they were accepted
            try:
                image: Image.Image = Image.open(io.BytesIO(data))
            except UnidentifiedImageError:  # more channels or deeper ones than Pillow knows
                image = Image.fromarray(displayed(data))
        # only large pictures share their memory with the inspections
        with image, self.memory.hold(data, "the picture"):
            return camera_faults.measure_picture(image, self.levels_of(recorded.inspection.product_id))

    # ---- over a restart: without the file, or where it is damaged, a new reference is begun

    def _path(self, product_id: int) -> Path:
        return self.files.folder / REFERENCE_FOLDER / f"{product_id}.npz"

    def _save_reference(self, product_id: int, key: ReferenceKey, reference: Reference) -> None:
        buffer, numbers = io.BytesIO(), [one[:-1] for one in reference.looks]
        with suppress(Exception):
            smalls = np.stack([one.small for one in reference.looks])
            np.savez_compressed(buffer, key=np.array(key), numbers=np.array(numbers), smalls=smalls)
            self.files.write(self._path(product_id), buffer.getvalue(), durable=False)

    def _load_reference(self, product_id: int, key: ReferenceKey) -> Reference | None:
        with suppress(Exception), np.load(self._path(product_id), allow_pickle=False) as kept:
            if tuple(kept["key"]) == key:
                rows = zip(kept["numbers"].tolist(), kept["smalls"], strict=True)
                return Reference([PictureMeasurements._make([*numbers, small]) for numbers, small in rows])
        return None

    # ---- as the API shows it

    def facts(self, product_id: int) -> dict[str, Any]:
        check = self._checks.get(product_id, (None, CameraCheck()))[1]
        reference = check.reference
        return {
            "watched": product_id in self.names,
            "first_pictures": REFERENCE if reference is not None else len(check.first_pictures),
            "wanted_pictures": REFERENCE,
            "still": None if reference is None else reference.is_still,
            "problems": [kind for kind in FAULT_KINDS if kind in check.faults],
        }
