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
SCRAPE_PATIENCE = 60.0  # seconds after which asking for them is told to hang
MAX_QUEUED_MESSAGES = 50  # messages that may wait for a slow page; beyond that the oldest are dropped
STATE_INTERVAL = 1.0  # seconds between two states


class EventBroadcaster:
    """Sends messages of a product to all its listeners; nobody waits for a slow one."""

    def __init__(self) -> None:
        # queue of messages -> numbers of products, and the loop that reads them
        self._listeners: dict[
            asyncio.Queue[str | None], tuple[frozenset[int], asyncio.AbstractEventLoop]
        ] = {}
        self._ended = False

    def publish(self, product_id: int, found: Mapping[str, object], event: str = "inspection") -> None:
        """Send an inspection, or a refusal, to the listeners of a product. Thread-safe."""
        listeners = [(loop, queue) for queue, (of, loop) in list(self._listeners.items()) if product_id in of]
        message = _format_event(event, found) if listeners else ""  # once: the recorder waits for it
        for loop, queue in listeners:
            _put_soon(loop, queue, message)

    def close(self) -> None:
        """End all streams. Thread-safe."""
        self._ended = True
        for queue, (_, loop) in list(self._listeners.items()):
            _put_soon(loop, queue, None)

    async def stream(
        self, product_ids: Iterable[int], states: Callable[[], Sequence[Mapping[str, object]]]
    ) -> AsyncIterator[str]:
        """Yield inspections and refusals of products as they come, and every second the states.

        It ends when there are no states any more.
        """
        queue: asyncio.Queue[str | None] = asyncio.Queue(MAX_QUEUED_MESSAGES)
        loop = asyncio.get_running_loop()
        self._listeners[queue] = frozenset(product_ids), loop
        try:
            due = 0.0
            while not self._ended:
                if loop.time() >= due:
                    found = await asyncio.to_thread(states)
                    if not found:
                        return
                    for reading in found:
                        yield _format_event("state", reading)
                    due = loop.time() + STATE_INTERVAL
                try:
                    message = await asyncio.wait_for(queue.get(), max(0.01, due - loop.time()))
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
    def put() -> None:
        if queue.full():
            queue.get_nowait()
        queue.put_nowait(message)

    with suppress(RuntimeError):  # the loop has ended
        loop.call_soon_threadsafe(put)


def _format_event(event: str, data: Mapping[str, object]) -> str:
    return f"event: {event}\ndata: {json.dumps(data)}\n\n"


# -------------------------------------------------------------------------------------------------- reviewers

LEASE_SECONDS = 300.0  # seconds for which a picture is leased to a reader
MAX_LEASES = 5000  # pictures that are remembered


class ReviewLeases:
    """Pictures that are leased to reviewers, so that no two judge the same one.

    Thread-safe. A reader is an open page: a person may have two. A lease ends with a verdict, when its reader
    goes, and some minutes after the reader's last verdict.
    """

    def __init__(self) -> None:
        self._clock = time.monotonic
        self._lock = threading.RLock()
        self._leases: dict[int, tuple[str, float]] = {}  # number -> reader and time, the oldest first

    @contextmanager
    def choosing(self) -> Iterator[None]:
        """Let one reader at a time see the leases, choose, and lease: two would choose the same pictures."""
        with self._lock:
            yield

    def leased_to_others(self, reader: str) -> list[int]:
        """Return the pictures that are leased to other readers."""
        with self._lock:
            self._drop_expired()
            return [number for number, (who, _) in self._leases.items() if who != reader]

    def leased_to(self, reader: str) -> set[int]:
        """Return the pictures that are leased to a reader."""
        with self._lock:
            self._drop_expired()
            return {number for number, (who, _) in self._leases.items() if who == reader}

    def end(self, number: int) -> None:
        """End the lease of a picture, which is decided."""
        with self._lock:
            self._leases.pop(number, None)

    def release(self, reader: str) -> None:
        """End all leases of a reader, who goes."""
        with self._lock:
            for number in self.leased_to(reader):
                del self._leases[number]

    def renew(self, reader: str) -> None:
        """Begin the time of a reader's leases anew."""
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
        since = self._clock() - LEASE_SECONDS
        for number, (_, given_at) in list(self._leases.items()):
            if given_at >= since and len(self._leases) <= MAX_LEASES:
                return
            del self._leases[number]


# ------------------------------------------------------------------------------------------------- Prometheus

_BUCKETS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
LabelledKey = tuple[str, tuple[str, str]]  # product, and a further label with its value
# Name (`_total`: a counter) -> help text, and values by product ("": of the station), by product and sink, or
# by pairs of a label and its value
GaugeKey = str | tuple[str | tuple[str, str], ...]
Gauges = dict[str, tuple[str, dict[Any, float]]]  # of a `GaugeKey`; a dict's keys are of one type


class Metrics(Collector):
    """Prometheus metrics of one station.

    Attributes:
        gauges: functions that return values at once, from memory.
        store_gauges: functions that ask the store, which may take long. The values of one that fails are
            left out.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.gauges: list[Callable[[], Gauges]] = []
        self.store_gauges: list[Callable[[], Gauges]] = []
        self._stored: dict[Callable[[], Gauges], Gauges] = {}  # as they were asked last
        self._pool = WatchedPool(1, "metrics", SCRAPE_PATIENCE)
        self._asking: Future[None] | None = None
        self._lock = threading.Lock()

        def counter(name: str, what: str, label: str) -> Counter:
            return Counter(f"flawscope_{name}", what, ("product", label), registry=self.registry)

        self.inspections = counter("inspections", "Parts judged.", "decision")
        self.unanswered = counter("unanswered", "Parts recorded whose senders got no answer.", "reason")
        self.refused = counter("refused", "Parts not taken, by reason.", "reason")
        self.verdicts = counter("verdicts", "What people said.", "verdict")

        def histogram(name: str, what: str, label: str) -> Histogram:
            labels = "product", label
            return Histogram(
                f"flawscope_{name}_seconds", what, labels, buckets=_BUCKETS, registry=self.registry
            )

        self.seconds = histogram("inspection", "From the picture to the answer.", "source")
        self.stages = histogram("stage", "That a part waits, is judged, is recorded.", "stage")
        build = Gauge("flawscope_build", "Version of the program.", ("version",), registry=self.registry)
        build.labels(__version__).set(1.0)
        self.registry.register(self)

    def text(self) -> bytes:
        """Return the present values, however long that takes."""
        self._ask()
        return generate_latest(self.registry)

    async def scrape(self) -> bytes:
        """Return the values in `SCRAPE_SECONDS`: where the store does not answer, the last known of it."""
        with self._lock:
            if self._asking is None or self._asking.done():
                self._asking = self._pool.submit(self._ask)
            asking = self._asking
        await asyncio.wait([asyncio.wrap_future(asking)], timeout=SCRAPE_SECONDS)
        return generate_latest(self.registry)

    @property
    def threads(self) -> list[GuardedThread]:
        """Calls for values, which are watched."""
        return [self._pool.calls]

    def _ask(self) -> None:
        for gauges in list(self.store_gauges):
            try:
                self._stored[gauges] = gauges()
            except Exception:  # the store is away: the others are wanted all the more
                self._stored.pop(gauges, None)

    @override
    def collect(self) -> Iterable[Metric]:
        """Yield the present values and the last known of the store, when the registry asks for them."""
        present = [gauges() for gauges in self.gauges]
        for found in (*present, *self._stored.copy().values()):
            for name, (what, values) in found.items():
                labelled = {_labels(key): value for key, value in values.items()}
                yield _metric_family(name, what, labelled)


def _labels(key: GaugeKey) -> tuple[tuple[str, str], ...]:
    """Return labels with their values, of a key of gauges."""
    if key == "":
        return ()
    names = (key,) if isinstance(key, str) else key
    labels = []
    for name, default_label in zip(names, ("product", "sink", "", ""), strict=False):
        labels.append(name if isinstance(name, tuple) else (default_label, name))
    return tuple(labels)


def _metric_family(name: str, what: str, values: Mapping[tuple[tuple[str, str], ...], float]) -> Metric:
    kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
    labels = [label for label, _ in next(iter(values), ())]
    family = kind(f"flawscope_{name}", what, labels=labels)
    for names, value in values.items():
        family.add_metric([label for _, label in names], value)
    return family
