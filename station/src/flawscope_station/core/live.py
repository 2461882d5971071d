"""Observers of a running station: open pages, reviewers, Prometheus."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from typing_extensions import override

from flawscope import __version__
from flawscope_station.monitoring.background import GuardedThread, WatchedPool

SCRAPE_SECONDS = 2.0  # in which values are returned, whatever the store does
SCRAPE_PATIENCE = 60.0  # seconds after which a query for metrics is reported to hang
MAX_QUEUED_MESSAGES = 50  # messages that may wait for a slow page; beyond that the oldest are dropped
STATE_INTERVAL = 1.0  # seconds between two states


class EventBroadcaster:
    """Sends messages of a product to all its listeners; a slow listener delays nobody."""

    def __init__(self) -> None:
        # by queue of messages: numbers of the products, and the event loop that reads the queue
        self._listeners: dict[
            asyncio.Queue[str | None], tuple[frozenset[int], asyncio.AbstractEventLoop]
        ] = {}
        self._has_ended = False

    def publish(self, product_id: int, data: Mapping[str, object], event: str = "inspection") -> None:
        """Send an inspection, or a refusal, to the listeners of a product. Thread-safe.

        Args:
            product_id: Number of the product.
            data: Data of the message, for JSON.
            event: Kind of the message.
        """
        message: str | None = None
        for queue, (listened_ids, loop) in list(self._listeners.items()):
            if product_id not in listened_ids:
                continue
            if message is None:  # formatted once for all listeners, because the recorder waits for this call
                message = _format_event(event, data)
            _put_soon(loop, queue, message)

    def close(self) -> None:
        """End all streams. Thread-safe."""
        self._has_ended = True
        for queue, (_, loop) in list(self._listeners.items()):
            _put_soon(loop, queue, None)

    async def stream(
        self, product_ids: Iterable[int], states: Callable[[], Sequence[Mapping[str, object]]]
    ) -> AsyncIterator[str]:
        """Yield inspections and refusals of products as they come, and the states every second.

        The stream ends when there are no states any more, or when the broadcaster is closed.

        Args:
            product_ids: Numbers of the products.
            states: Returns the present states of the products; called in a thread.
        """
        queue: asyncio.Queue[str | None] = asyncio.Queue(MAX_QUEUED_MESSAGES)
        loop = asyncio.get_running_loop()
        self._listeners[queue] = frozenset(product_ids), loop
        try:
            next_state_time = 0.0
            while not self._has_ended:
                if loop.time() >= next_state_time:
                    present_states = await asyncio.to_thread(states)
                    if not present_states:
                        return
                    for state in present_states:
                        yield _format_event("state", state)
                    next_state_time = loop.time() + STATE_INTERVAL
                try:
                    timeout = max(0.01, next_state_time - loop.time())
                    message = await asyncio.wait_for(queue.get(), timeout)
                except TimeoutError:
                    continue
                if message is None:
                    return
                yield message
        finally:
            del self._listeners[queue]

    @property
    def listeners(self) -> int:
        """Return the number of open streams."""
        return len(self._listeners)

    def gauges(self) -> Gauges:
        """Return the number of open pages as a metric."""
        return {"listeners": ("Pages that are open.", {"": float(self.listeners)})}


def _put_soon(loop: asyncio.AbstractEventLoop, queue: asyncio.Queue[str | None], message: str | None) -> None:
    """Put a message into a queue of an event loop, from any thread; a full queue loses its oldest message."""

    def put() -> None:
        if queue.full():
            queue.get_nowait()
        queue.put_nowait(message)

    with suppress(RuntimeError):  # the loop has ended
        loop.call_soon_threadsafe(put)


def _format_event(event: str, data: Mapping[str, object]) -> str:
    """Return a server-sent event."""
    return f"event: {event}\ndata: {json.dumps(data)}\n\n"


# -------------------------------------------------------------------------------------------------- reviewers

LEASE_SECONDS = 300.0  # seconds for which a picture is leased to a reader
MAX_LEASES = 5000  # largest number of leases; if there are more, the oldest ones end


class ReviewLeases:
    """Pictures that are leased to reviewers, so that no two judge the same one.

    Thread-safe. A reader is an open page: a person may have two. A lease ends with a verdict, when its reader
    goes, and some minutes after the reader's last verdict.
    """

    def __init__(self) -> None:
        self._clock = time.monotonic
        self._lock = threading.RLock()
        # by number of the picture: reader and time of the lease, the oldest first
        self._leases: dict[int, tuple[str, float]] = {}

    @contextmanager
    def choosing(self) -> Iterator[None]:
        """Hold the leases while a reader chooses and leases pictures, so that no other chooses the same."""
        with self._lock:
            yield

    def leased_to_others(self, reader: str) -> list[int]:
        """Return the pictures that are leased to other readers."""
        with self._lock:
            self._drop_expired()
            return [number for number, (leaseholder, _) in self._leases.items() if leaseholder != reader]

    def leased_to(self, reader: str) -> set[int]:
        """Return the pictures that are leased to a reader."""
        with self._lock:
            self._drop_expired()
            return {number for number, (leaseholder, _) in self._leases.items() if leaseholder == reader}

    def end(self, number: int) -> None:
        """End the lease of a picture that has its verdict."""
        with self._lock:
            self._leases.pop(number, None)

    def release(self, reader: str) -> None:
        """End all leases of a reader that goes."""
        with self._lock:
            for number in self.leased_to(reader):
                del self._leases[number]

    def renew(self, reader: str) -> None:
        """Begin the time of a reader's leases again."""
        with self._lock:
            self.lease(reader, self.leased_to(reader))

    def lease(self, reader: str, numbers: Iterable[int]) -> None:
        """Lease pictures to a reader from now on."""
        with self._lock:
            for number in numbers:
                self._leases.pop(number, None)
                self._leases[number] = reader, self._clock()
            self._drop_expired()

    def _drop_expired(self) -> None:
        """End leases that are too old, or above `MAX_LEASES`; the caller holds the lock."""
        earliest_valid = self._clock() - LEASE_SECONDS
        for number, (_, leased_at) in list(self._leases.items()):
            if leased_at >= earliest_valid and len(self._leases) <= MAX_LEASES:
                return  # all further leases are younger
            del self._leases[number]


# ------------------------------------------------------------------------------------------------- Prometheus

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
    # a pair has its own label; a text gets the label of its position in the key
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
