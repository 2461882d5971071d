"""What Prometheus reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
Gauges = dict[str, tuple[str, dict[str, float]]]  # name -> what it is, value by product ("": of the station)
OfSinks = dict[str, tuple[str, dict[tuple[str, str], float]]]  # the same by product and sink; _total: counted


class Metrics:
    """Of one station.

    Args:
        gauges: what is measured when somebody asks.
        sinks: the same of sinks.
    """

    def __init__(self, gauges: Callable[[], Gauges], sinks: Callable[[], OfSinks] = dict):
        self.registry = CollectorRegistry()
        self.inspections = Counter(
            "flawscope_inspections", "Pictures judged.", ("product", "decision"), registry=self.registry
        )
        self.refused = Counter(
            "flawscope_refused",
            "Pictures not taken, by reason.",
            ("product", "reason"),
            registry=self.registry,
        )
        self.verdicts = Counter(
            "flawscope_verdicts", "What people said.", ("product", "verdict"), registry=self.registry
        )
        self.seconds = Histogram(
            "flawscope_inspection_seconds",
            "From the whole picture received to the answer.",
            ("product",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.registry.register(_Now(gauges))
        self.registry.register(_Sinks(sinks))

    def text(self) -> bytes:
        return generate_latest(self.registry)


class _Now(Collector):
    def __init__(self, gauges: Callable[[], Gauges]):
        self.gauges = gauges

    def collect(self) -> Iterable[Metric]:
        for name, (what, values) in self.gauges().items():
            labels = [] if "" in values else ["product"]
            family = GaugeMetricFamily(f"flawscope_{name}", what, labels=labels)
            for product, value in values.items():
                family.add_metric([product] if labels else [], value)
            yield family


class _Sinks(Collector):
    def __init__(self, sinks: Callable[[], OfSinks]):
        self.sinks = sinks

    def collect(self) -> Iterable[Metric]:
        for name, (what, values) in self.sinks().items():
            kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            family = kind(f"flawscope_{name}", what, labels=["product", "sink"])
            for labels, value in values.items():
                family.add_metric(list(labels), value)
            yield family
