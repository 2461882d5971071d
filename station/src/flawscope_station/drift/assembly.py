"""Drift of good parts, and faults of the camera, for all products whose settings ask for these checks."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from flawscope_station.drift.camera_checks import CameraChecks
from flawscope_station.drift.monitor import DriftMonitor
from flawscope_station.inspecting.ticket import RecordedInspection
from flawscope_station.settings.station import ProductSettings
from flawscope_station.store.model_registry import ModelRegistry
from flawscope_station.store.records import Store


class Drift:
    """Test of the scores of each product, and checks of its camera.

    Args:
        settings: Settings of products, by number of the product.
        store: Records of the station.
        versions: Model versions.
        names: Names of products, by number; products may be added.
        report: Function that reports a problem, as `Problems.report` does.
    """

    def __init__(
        self,
        settings: Mapping[int, ProductSettings],
        store: Store,
        versions: ModelRegistry,
        names: Mapping[int, str],
        report: Callable[..., None],
    ):
        # number -> name of each product whose camera is checked; `add_product` adds to it, `camera` reads it
        self._camera_products: dict[int, str] = {}
        self.monitor = DriftMonitor(store, versions, names, report)
        self.camera = CameraChecks(self._camera_products, report)
        for product_id, product in settings.items():
            self.add_product(product_id, names[product_id], product)

    def add_product(self, product_id: int, name: str, product: ProductSettings) -> None:
        """Follow the scores of a product and check its camera, as far as its settings ask for that."""
        if product.drift is not None:
            self.monitor.add_product(product_id, product.drift)
        if product.camera_checks:
            self._camera_products[product_id] = name

    def observe(self, recorded: RecordedInspection) -> None:
        """Check the camera by a recorded inspection; a thread tests its score later."""
        self.monitor.mark_new(recorded.inspection.product_id)
        self.camera.observe(recorded)

    def facts(self, product_id: int) -> dict[str, object]:
        """Return the drift of good parts and the faults of the camera, as the API shows them."""
        return {**self.monitor.facts(product_id), "camera": self.camera.facts(product_id)}
