"""Metrics of a station for Prometheus."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from typing_extensions import override

from flawscope import __version__
from flawscope_station.monitoring.background import GuardedThread, WatchedPool

SCRAPE_SECONDS = 2.0  # in which values are returned, whatever the store does
SCRAPE_PATIENCE = 60.0  # seconds after which a query for metrics is reported to hang
_BUCKETS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)  # seconds, of histograms
LabelledKey = tuple[str, tuple[str, str]]  # product, and a further label with its value
# Key of a value: a product ("": the station), a product and a sink, or pairs of a label and its value.
GaugeKey = str | tuple[str | tuple[str, str], ...]
# By name of the metric (`_total` at its end: a counter): help text, and values by `GaugeKey`. The keys' type
# is `Any`, because a dictionary has keys of a single type.
Gauges = dict[str, tuple[str, dict[Any, float]]]


class Metrics(Collector):
    """Prometheus metrics of one station.

    Attributes:
        gauges: Functions that return values at once, from memory.
        store_gauges: Functions that ask the store, which may take long. The values of a function that fails
            are left out.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.gauges: list[Callable[[], Gauges]] = []
        self.store_gauges: list[Callable[[], Gauges]] = []
        self._stored: dict[Callable[[], Gauges], Gauges] = {}  # last result of each of `store_gauges`
        self._pool = WatchedPool(1, "metrics", SCRAPE_PATIENCE)
        self._store_call: Future[None] | None = None  # last call of `_ask_store`
        self._lock = threading.Lock()

        def counter(name: str, help_text: str, label: str) -> Counter:
            return Counter(f"flawscope_{name}", help_text, ("product", label), registry=self.registry)

        self.inspections = counter("inspections", "Parts judged.", "decision")
        self.unanswered = counter("unanswered", "Parts recorded whose senders got no answer.", "reason")
        self.refused = counter("refused", "Parts not taken, by reason.", "reason")
        self.verdicts = counter("verdicts", "What people said.", "verdict")

        def histogram(name: str, help_text: str, label: str) -> Histogram:
            labels = "product", label
            return Histogram(
                f"flawscope_{name}_seconds", help_text, labels, buckets=_BUCKETS, registry=self.registry
            )

        self.seconds = histogram("inspection", "From the picture to the answer.", "source")
        self.stages = histogram("stage", "That a part waits, is judged, is recorded.", "stage")
        build = Gauge("flawscope_build", "Version of the program.", ("version",), registry=self.registry)
        build.labels(__version__).set(1.0)
        self.registry.register(self)

    def text(self) -> bytes:
        """Return the present values, however long that takes."""
        self._ask_store()
        return generate_latest(self.registry)

    async def scrape(self) -> bytes:
        """Return the values within `SCRAPE_SECONDS`; where the store does not answer, its last values."""
        with self._lock:
            if self._store_call is None or self._store_call.done():
                self._store_call = self._pool.submit(self._ask_store)
            store_call = self._store_call
        await asyncio.wait([asyncio.wrap_future(store_call)], timeout=SCRAPE_SECONDS)
        return generate_latest(self.registry)

    @property
    def threads(self) -> list[GuardedThread]:
        """Records of the calls that ask the store, for the thread watch."""
        return [self._pool.calls]

    def _ask_store(self) -> None:
        """Call all of `store_gauges`, and keep their results."""
        for gauges in list(self.store_gauges):
            try:
                self._stored[gauges] = gauges()
            except Exception:  # the store is away; the other metrics are needed all the more
                self._stored.pop(gauges, None)

    @override
    def collect(self) -> Iterable[Metric]:
        """Yield the present values, and the last known values of the store; the registry calls this."""
        present = [gauges() for gauges in self.gauges]
        for family_values in (*present, *self._stored.copy().values()):
            for name, (help_text, values) in family_values.items():
                labelled = {_labels(key): value for key, value in values.items()}
                yield _metric_family(name, help_text, labelled)


def _labels(key: GaugeKey) -> tuple[tuple[str, str], ...]:
    """Split a gauge's key into pairs of a label's name and text."""
    if key == "":
        return ()
    parts = (key,) if isinstance(key, str) else key
    labels = []
    # A pair has its own label; a text gets the label of its position in the key. The third and the fourth
    # part can only be pairs.
    for part, default_label in zip(parts, ("product", "sink", "", ""), strict=False):
        labels.append(part if isinstance(part, tuple) else (default_label, part))
    return tuple(labels)


def _metric_family(name: str, help_text: str, values: Mapping[tuple[tuple[str, str], ...], float]) -> Metric:
    """Return a metric for Prometheus.

    Args:
        name: Name of the metric, without `flawscope_`.
        help_text: Explanation of the metric.
        values: Values of the metric by their labels, which are pairs of a label's name and text (`_labels`).
    """
    family_class = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
    first_pairs = next(iter(values), ())  # the labels are the same for all values
    label_names = [label_name for label_name, _ in first_pairs]
    family = family_class(f"flawscope_{name}", help_text, labels=label_names)
    for pairs, value in values.items():
        family.add_metric([label_text for _, label_text in pairs], value)
    return family
