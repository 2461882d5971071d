"""Sinks of a station: threads that deliver its inspections, each from its cursor in the data base."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Any

from flawscope.errors import InputError
from flawscope.station.inspecting.renderings import InspectionRenderer
from flawscope.station.settings.sinks import MqttSettings, PluginSinkSettings, SinkSettings
from flawscope.station.settings.station import Settings
from flawscope.station.sinks.delivery import Delivery, MessagePictures, Sink
from flawscope.station.sinks.folder import FolderSink
from flawscope.station.sinks.mqtt import MqttSink
from flawscope.station.sinks.outbox import Message, Outbox, cursor_key, delete_other_cursors
from flawscope.station.sinks.webhook import Webhook
from flawscope.station.store.database import StoreError
from flawscope.station.store.records import Store
from flawscope.station.store.station_identity import public_address

UNDELIVERED = "undelivered"  # event
EVENT_SOURCE = "station"  # who notes the event
BROKER_KEY = "~broker"  # stands for the broker among names of products; none can be called so
SENDER_DIGITS = 12  # of the station's identity in the ids of messages
STOP_TIMEOUT = 10.0  # seconds in which all sinks together must end


class Sinks:
    """Threads that deliver; nobody waits for them.

    Args:
        identity: of the station's folder; begins the ids of messages.
        products: name -> number.
        report: reports a problem under a code, or with None its end.
        problems: returns the problems as they are shown.
        by_pages: products, and BROKER, with settings from the pages: an error in these is reported there.

    Raises:
        InputError: a file or folder that the settings name cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        identity: str,
        products: dict[str, int],
        store: Store,
        pictures: InspectionRenderer,
        report: Callable[[str, str | None], None],
        problems: Callable[[], list[Any]],
        by_pages: Collection[str] = (),
    ):
        self.settings, self.products, self.store, self.report = settings, products, store, report
        self._sender_id, self._problems = identity[:SENDER_DIGITS], problems
        self._pictures = MessagePictures(pictures)
        self._problem_codes: dict[str, set[str]] = {}  # by product
        self.deliveries, cursors = list[Delivery](), set[tuple[int, str]]()
        for name, product in settings.products.items():
            self.deliveries += self._make_deliveries(name, told=name in by_pages)
            cursors |= {(products[name], cursor_key(one.kind, one.cursor_name)) for one in product.sinks}
        if settings.mqtt is not None:
            self.deliveries.append(self._make_mqtt_delivery(settings.mqtt, check=BROKER_KEY not in by_pages))
            cursors |= {(outbox.product_id, outbox.key) for outbox in self.deliveries[-1].outboxes}
        delete_other_cursors(store.database, cursors)

    def start(self) -> None:
        for one in self.deliveries:
            one.start()

    def add(self, name: str) -> None:
        """Start the sinks of a product that was added to the settings; report those that cannot be used."""
        self._start_deliveries(name, told=True)
        for broker in self.deliveries:
            if isinstance(broker.sink, MqttSink) and self.settings.mqtt is not None:
                key = cursor_key(MqttSink.kind, self.settings.mqtt.broker)
                outbox = self._make_outbox(name, key, self.settings.mqtt)
                broker.outboxes.append(outbox)
                broker.sink.outboxes.append(outbox)

    def restart(self, name: str, *, told: bool = False) -> None:
        """Replace the sinks of a product by those of the present settings. InputError where one cannot be
        used; told: it is reported as a problem instead, and the others deliver."""
        self._stop_deliveries(
            [one for one, _ in self.for_product(name) if not isinstance(one.sink, MqttSink)]
        )
        for code in self._problem_codes.pop(name, ()):
            self.report(code, None)
        self._start_deliveries(name, told=told)

    def replace_broker(self, settings: Settings) -> None:
        """Deliver to the broker of new settings, or to none. InputError where its files cannot be read."""
        if settings.mqtt is not None:
            self._make_mqtt_delivery(settings.mqtt, check=True)
        self._stop_deliveries([one for one in self.deliveries if isinstance(one.sink, MqttSink)])
        self.settings = settings
        if settings.mqtt is not None:  # with the products that are there by now
            self.deliveries.append(made := self._make_mqtt_delivery(settings.mqtt, check=False))
            made.start()

    def _stop_deliveries(self, old: list[Delivery]) -> None:
        for one in old:
            one.stop(STOP_TIMEOUT)
            one.report(None)
        self.deliveries = [one for one in self.deliveries if one not in old]

    def _start_deliveries(self, name: str, *, told: bool) -> None:
        started = self._make_deliveries(name, told=told)
        self.deliveries += started
        for one in started:
            one.start()

    def wake(self, product_id: int) -> None:
        """Wake the sinks of a product that has a new inspection or verdict."""
        for one in self.deliveries:
            if any(outbox.product_id == product_id for outbox in one.outboxes):
                one.wake()

    def stop(self) -> None:
        """End; messages that are not delivered yet are delivered after the next start."""
        for one in self.deliveries:
            one.end()
        deadline = time.monotonic() + STOP_TIMEOUT
        for one in self.deliveries:
            one.stop(max(0.0, deadline - time.monotonic()))

    # ---- reports

    def for_product(self, name: str) -> list[tuple[Delivery, Outbox]]:
        """Return the sinks of a product, in the order of the settings, the broker last."""
        return [(one, outbox) for one in self.deliveries for outbox in one.outboxes if outbox.product == name]

    def facts(self, name: str) -> list[dict[str, Any]]:
        """Return the sinks of a product, as the API shows them."""
        return [_delivery_facts(one, box) for one, box in self.for_product(name)]

    def gauges(self) -> dict[str, tuple[str, dict[tuple[str, str], float]]]:
        """Return Prometheus metrics: name -> help text and values by product and sink."""
        outboxes = {(box.product, one.sink.label): box for one in self.deliveries for box in one.outboxes}
        counts: dict[str, tuple[str, Callable[[Outbox], int]]] = {
            "delivered_total": ("Messages that a sink took.", lambda box: box.delivered),
            "delivery_failures_total": ("Tries that failed.", lambda box: box.failed),
            "undelivered_total": ("Messages that a sink refused for good.", lambda box: box.refused),
            "sink_backlog": ("Messages that wait for a sink, counted up to 10,000.", Outbox.waiting),
        }
        return {
            name: (what, {place: float(count(box)) for place, box in outboxes.items()})
            for name, (what, count) in counts.items()
        }

    # ---- made from the settings

    def _make_deliveries(self, name: str, *, told: bool) -> list[Delivery]:
        """Make the sinks of a product. told: one that cannot be used is reported, not raised (InputError)."""
        made = []
        for position, one in enumerate(self.settings.products[name].sinks, 1):
            try:
                made.append(self._make_delivery(name, position, one))
            except InputError as error:
                if not told:
                    raise
                code = f"sink_{self.products[name]}_{position}"
                self._problem_codes.setdefault(name, set()).add(code)
                self.report(code, f"{one.label}: {error}")
        return made

    def _make_delivery(
        self, name: str, position: int, settings: SinkSettings | PluginSinkSettings
    ) -> Delivery:
        number = self.products[name]
        sink = self._make_sink(settings)
        key = cursor_key(sink.kind, settings.cursor_name)
        if isinstance(sink, Webhook):
            before = self.settings.products[name].sinks[: position - 1]
            if same_label := sum(one.label == settings.label for one in before):  # on one host
                sink.label += f" ({same_label + 1})"
        outbox = self._make_outbox(name, key, settings)
        if isinstance(sink, FolderSink) and not outbox.delivered:
            sink.make_folder()

        def refused(message: Message, why: str) -> None:
            text = f"{sink.label} did not take {message.type} {message.number} ({message.id}): {why}"
            self.store.note_event(UNDELIVERED, EVENT_SOURCE, text, number)

        return Delivery(sink, [outbox], lambda why: self.report(f"sink_{number}_{position}", why), refused)

    def _make_sink(self, settings: SinkSettings | PluginSinkSettings) -> Sink:
        if isinstance(settings, PluginSinkSettings):
            assert settings.plugin is not None
            sink: Sink = settings.plugin.open(settings.plugin.values, self._pictures)
            sink.kind, sink.label = settings.plugin.name, settings.label
            return sink
        return Webhook(settings, self._pictures) if settings.webhook else FolderSink(settings, self._pictures)

    def _make_mqtt_delivery(self, settings: MqttSettings, *, check: bool) -> Delivery:
        key = cursor_key(MqttSink.kind, settings.broker)
        outboxes = [self._make_outbox(name, key, settings) for name in self.products]

        def problems() -> list[dict[str, str]]:
            return [one.to_dict() for one in self._problems()]

        sink = MqttSink(settings, self.settings.name, self._sender_id, outboxes, problems)
        if check:
            sink.make_client()
        return Delivery(sink, outboxes, lambda why: self.report("mqtt_away", why))

    def _make_outbox(
        self, name: str, key: str, settings: SinkSettings | PluginSinkSettings | MqttSettings
    ) -> Outbox:
        return Outbox(
            self.store.database,
            self.products[name],
            name,
            key,
            settings,
            station=self.settings.name,
            sender=self._sender_id,
            address=public_address(self.settings),
        )


def _delivery_facts(delivery: Delivery, outbox: Outbox) -> dict[str, Any]:
    waiting, error = 0, delivery.error
    try:
        waiting = outbox.waiting()
    except StoreError as away:
        error = str(away)
    return {
        "name": delivery.sink.label,
        "kind": delivery.sink.kind,
        "delivered": outbox.delivered,
        "refused": outbox.refused,
        "waiting": waiting,
        "error": error,
    }
