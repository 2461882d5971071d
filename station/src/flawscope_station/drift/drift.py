"""Drift of good parts and faults of the camera, of all products whose settings ask for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from flawscope_station.drift.camera_monitor import CameraMonitor
from flawscope_station.drift.forms import FormCheck
from flawscope_station.drift.monitor import DriftMonitor
from flawscope_station.inspecting.capacity import MemoryBudget
from flawscope_station.inspecting.writer import RecordedInspection
from flawscope_station.settings.station import ProductSettings
from flawscope_station.store.files import Files
from flawscope_station.store.model_registry import ModelRegistry
from flawscope_station.store.records import Store


class Drift:
    """Drift tests and camera checks, which begin anew together.

    Args:
        settings: by number of the product. names: by number, which may grow.
        report: reports a problem, as `Problems.report`.
    """

    def __init__(
        self,
        settings: Mapping[int, ProductSettings],
        store: Store,
        versions: ModelRegistry,
        files: Files,
        names: Mapping[int, str],
        report: Callable[[str, str | None], None],
        memory: MemoryBudget,
    ):
        def levels(product_id: int) -> tuple[float, float] | None:
            return versions.active(product_id)[1].manifest.preprocess.levels

        self.monitor = DriftMonitor(store, versions, names, report, files)
        self.cameras = CameraMonitor(files, self.monitor.tests_of, report, memory, levels)
        self.forms = FormCheck(store, self.cameras.names, report)
        for product_id, product in settings.items():
            self.add_product(product_id, names[product_id], product)

    def add_product(self, product_id: int, name: str, product: ProductSettings) -> None:
        if product.drift or product.camera_checks:
            self.monitor.add_product(product_id, product.drift_bound, product.light)
        if product.camera_checks:
            self.cameras.names[product_id] = name

    def observe(self, recorded: RecordedInspection) -> None:
        self.monitor.mark_new(recorded.inspection.product_id)
        self.cameras.enqueue(recorded)
        self.forms.observe(recorded)

    def acknowledge(self, product_id: int, who: str) -> None:
        """Take the present state as normal. InputError as `DriftMonitor.acknowledge`."""
        self.monitor.acknowledge(product_id, who)
        self.cameras.reset(product_id)

    def facts(self, product_id: int) -> dict[str, Any]:
        """Return the drift of good parts and the faults of the camera, as the API shows them."""
        return {**self.monitor.facts(product_id), "camera": self.cameras.facts(product_id)}
