"""Sinks of a station: threads that deliver its inspections, each from its cursor in the database."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from operator import attrgetter

from flawscope.errors import InputError, pluralize
from flawscope_station.inspecting.renderings import InspectionRenderer
from flawscope_station.inspecting.ticket import RecordedInspection
from flawscope_station.monitoring.background import GuardedThread
from flawscope_station.monitoring.problems import Problem
from flawscope_station.settings.sinks import SinkSettings
from flawscope_station.settings.station import ProductSettings, Settings
from flawscope_station.sinks.cursors import StoredCursor, cursor_key, delete_cursors, hand_on_cursors
from flawscope_station.sinks.delivery import Delivery, MessagePictures, Sink
from flawscope_station.sinks.outbox import MAX_COUNTED, Message, Outbox
from flawscope_station.sinks.undelivered import RefusedBySink
from flawscope_station.store.database import StoreError
from flawscope_station.store.records import Store
from flawscope_station.store.station_identity import public_address

UNDELIVERED = "undelivered"  # event, and kind of a problem
SENT_AGAIN = "sent_again"  # event
MQTT_NAME = "mqtt_name"  # kind of a problem: another station has this one's name at the broker
BROKER_PLACE = 0  # place of the station's broker; the places of a product's own sinks begin with 1
EVENT_SOURCE = "station"  # source of the events
SENDER_DIGITS = 12  # first digits of the station's identity, in the ids of messages
SinkGauges = dict[str, tuple[str, dict[tuple[str, str], float]]]
STOP_TIMEOUT = 10.0  # seconds in which all sinks together must end


class Sinks:
    """Threads that deliver; nobody waits for them.

    Args:
        settings: Settings of the station.
        identity: Identity of the station's folder, whose first digits begin the ids of messages.
        products: Numbers of the inspected products by name; products may be added.
        store: Records of the station.
        pictures: Renders the pictures of messages.
        report: Reports a problem under a code, with its text; None: the problem is over.
        problems: Returns the present problems.

    Raises:
        InputError: A file or folder that the settings name cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        identity: str,
        products: dict[str, int],
        store: Store,
        pictures: InspectionRenderer,
        report: Callable[[str, str | None], None],
        problems: Callable[[], list[Problem]],
    ):
        self.settings = settings
        self.products = products
        self.store = store
        self.report = report
        self._sender_id = identity[:SENDER_DIGITS]
        self._problems = problems
        self._broker: Delivery | None = None  # a single sink for all products
        self.deliveries = list[Delivery]()
        broker_settings = settings.mqtt
        # number of a product -> place of a sink -> settings of the sink
        sinks_by_product = {
            products[name]: dict(enumerate(product_settings.sinks, 1))
            for name, product_settings in settings.products.items()
        }
        if broker_settings is not None:
            sinks_by_product = {
                number: {BROKER_PLACE: broker_settings, **sinks_by_product.get(number, {})}
                for number in products.values()
            }
        unmatched_cursors = hand_on_cursors(store.database, sinks_by_product)
        self._context = MessagePictures(
            pictures,
            station=settings.name,
            sender=self._sender_id,
            problems=self._describe_problems,
            products=products,
            removed=self._removed_products(unmatched_cursors),
        )
        for name, product in settings.products.items():
            for place, sink in enumerate(product.sinks, 1):
                self.deliveries.append(self._make_delivery(name, place, sink))
        if broker_settings is not None:
            self._broker = self._open(broker_settings, BROKER_PLACE, names=products, code="mqtt_away")
            self.deliveries.append(self._broker)
        self._delete_cursors(unmatched_cursors)

    def _removed_products(self, unmatched_cursors: Sequence[StoredCursor]) -> list[str]:
        """Return the names of products that the broker served before, by cursors without a sink."""
        numbers = {cursor.row.product_id for cursor in unmatched_cursors if cursor.place == BROKER_PLACE}
        return self.store.product_names(numbers - {*self.products.values()})

    def start(self) -> None:
        """Start all deliveries."""
        for delivery in self.deliveries:
            delivery.start()

    def add_product(self, product_id: int, name: str, product: ProductSettings) -> None:
        """Start the sinks of a product that was added; report those that cannot be used."""
        for place, sink in enumerate(product.sinks, 1):
            try:
                delivery = self._make_delivery(name, place, sink)
            except InputError as error:
                self.report(f"sink_{product_id}_{place}", f"{sink.label}: {error}")
            else:
                self.deliveries.append(delivery)
                delivery.start()
        if self._broker is not None and self.settings.mqtt is not None:
            self._broker.outboxes.append(self._make_outbox(name, BROKER_PLACE, self.settings.mqtt))

    def observe(self, recorded: RecordedInspection) -> None:
        """Wake the sinks of the product of a recorded inspection."""
        self.wake(recorded.inspection.product_id)

    def wake(self, product_id: int) -> None:
        """Wake the sinks of a product that has a new inspection or verdict."""
        for delivery in self.deliveries:
            for outbox in delivery.outboxes:
                if outbox.product_id == product_id:
                    outbox.is_due = True
                    delivery.wake()

    @property
    def threads(self) -> list[GuardedThread]:
        """Threads of all deliveries."""
        return [thread for delivery in self.deliveries for thread in delivery.threads]

    def end(self) -> None:
        """Ask all deliveries to end, and return at once."""
        for delivery in self.deliveries:
            delivery.end()

    def stop(self) -> None:
        """End; messages that are not delivered yet are delivered after the next start."""
        self.end()
        deadline = time.monotonic() + STOP_TIMEOUT
        for delivery in self.deliveries:
            delivery.stop(max(0.0, deadline - time.monotonic()))

    # ---- reports

    def _describe_problems(self) -> list[dict[str, object]]:
        """Return the station's problems, as the API shows them."""
        return [problem.to_dict() for problem in self._problems()]

    def for_product(self, name: str) -> list[tuple[Delivery, Outbox]]:
        """Return the sinks of a product, in the order of the settings, the broker last."""
        return [
            (delivery, outbox)
            for delivery in self.deliveries
            for outbox in delivery.outboxes
            if outbox.product == name
        ]

    def facts(self, name: str) -> list[dict[str, object]]:
        """Return the sinks of a product, as the API shows them."""
        return [_delivery_facts(delivery, box) for delivery, box in self.for_product(name)]

    def undelivered(self, name: str) -> list[RefusedBySink]:
        """Return the messages of a product that were refused for good, each with its sink.

        Raises:
            StoreError: The store cannot be used.
        """
        return [
            {"sink": delivery.sink.label, **message}
            for delivery, box in self.for_product(name)
            for message in box.undelivered.facts()
        ]

    def send_again(self, name: str, who: str) -> int:
        """Send the messages again that were refused for good; return their number.

        Args:
            name: Name of the product.
            who: Person who asked for it.

        Raises:
            StoreError: The store cannot be used.
        """
        count = sum(box.undelivered.request_again() for _, box in self.for_product(name))
        if count:
            event_text = f"{pluralize(count, 'message')} of {name} that were refused are sent again"
            self.store.note_event(SENT_AGAIN, who, event_text, self.products[name])
        self.wake(self.products[name])
        return count

    def gauges(self) -> SinkGauges:
        """Return Prometheus metrics by name: help text, and values by product and sink."""
        delivered = self._count(attrgetter("delivered"))
        failed = self._count(attrgetter("failed"))
        refused = self._count(attrgetter("refused"))
        return {
            "delivered_total": ("Messages that a sink took.", delivered),
            "delivery_failures_total": ("Tries that failed.", failed),
            "undelivered_total": ("Messages that a sink refused for good.", refused),
        }

    def store_gauges(self) -> SinkGauges:
        """Return the metrics for which the store is asked.

        Raises:
            StoreError: The store cannot be used.
        """
        help_text = f"Messages that wait for a sink, up to {MAX_COUNTED:,}."
        return {"sink_backlog": (help_text, self._count(Outbox.waiting))}

    def _count(self, count: Callable[[Outbox], int]) -> dict[tuple[str, str], float]:
        """Return the result of `count` for each outbox, by product and label of the sink."""
        outbox_by_key = {
            (box.product, delivery.sink.label): box
            for delivery in self.deliveries
            for box in delivery.outboxes
        }
        return {key: float(count(box)) for key, box in outbox_by_key.items()}

    # ---- making of deliveries

    def _make_delivery(self, name: str, place: int, settings: SinkSettings) -> Delivery:
        """Make a delivery for one product; a label that another sink of the product has gets a number.

        Args:
            name: Name of the product.
            place: Place of the sink in the settings.
            settings: Settings of the sink.
        """
        code = f"sink_{self.products[name]}_{place}"
        delivery = self._open(settings, place, names=[name], code=code)
        other_labels = [other_delivery.sink.label for other_delivery, _ in self.for_product(name)]
        unnumbered_labels = [label.partition(" (")[0] for label in other_labels]  # "HOST (2)": "HOST"
        same_label_count = unnumbered_labels.count(settings.label)
        if same_label_count:  # other sinks of the product are on the same host
            delivery.sink.label += f" ({same_label_count + 1})"
        return delivery

    def _open(self, settings: SinkSettings, place: int, names: Iterable[str], code: str) -> Delivery:
        """Make a sink and its delivery.

        Args:
            settings: Settings of the sink.
            place: Place among a product's sinks, from 1; `BROKER_PLACE` for the broker.
            names: Names of the products that the sink serves.
            code: Code of the sink's problem.
        """
        sink: Sink = settings.plugin.open(settings.plugin.values, self._context)
        sink.kind = settings.kind
        sink.label = settings.label
        outboxes = [self._make_outbox(name, place, settings) for name in names]
        sink.outboxes = outboxes
        sink.prepare(is_new=not any(box.delivered for box in outboxes))

        def note_refused(message: Message, why: str) -> None:
            event_text = f"{sink.label} did not take {message.type} {message.number} ({message.id}): {why}"
            self.store.note_event(UNDELIVERED, EVENT_SOURCE, event_text, message.product_id)

        def ignore_remark(remark: str | None) -> None:
            """Report nothing: only the broker's sink has remarks that are problems."""

        report_remark = partial(self.report, MQTT_NAME) if place == BROKER_PLACE else ignore_remark
        return Delivery(
            sink,
            outboxes,
            report=lambda why: self.report(code, why),
            note_refused=note_refused,
            report_remark=report_remark,
        )

    def _make_outbox(self, name: str, place: int, settings: SinkSettings) -> Outbox:
        key = cursor_key(settings, place)
        return self._open_outbox(
            self.products[name], name, key, only=settings.only, verdicts=settings.verdicts
        )

    def _open_outbox(
        self, product_id: int, name: str, key: str, only: str = "all", verdicts: bool = True
    ) -> Outbox:
        return Outbox(
            self.store.database,
            product_id,
            name,
            key,
            only=only,
            verdicts=verdicts,
            station=self.settings.name,
            sender=self._sender_id,
            address=public_address(self.settings),
        )

    def _delete_cursors(self, cursors: list[StoredCursor]) -> None:
        """Delete the cursors of sinks that are not in the settings any more, and report unsent records.

        The number of records that such a sink did not get is in an event, in the log, and in a problem until
        the next start.
        """
        name_by_id = {product_id: name for name, product_id in self.products.items()}
        lost_texts: dict[str, list[str]] = {}  # by the problem's code
        for cursor in cursors:
            product_id = cursor.row.product_id
            name = name_by_id.get(product_id, f"product {product_id}")
            count = self._open_outbox(product_id, name, cursor.row.sink).waiting()
            if count:
                place = f" at place {cursor.place}" if cursor.place else ""
                count_text = (
                    f"{count:,} or more records" if count >= MAX_COUNTED else pluralize(count, "record")
                )
                text = (
                    f"the {cursor.kind} sink{place} of {name} is not in the settings any more: {count_text} "
                    "that it had not had are not sent (inspections, verdicts)"
                )
                self.store.note_event(UNDELIVERED, EVENT_SOURCE, text, product_id)
                code = f"{UNDELIVERED}_{product_id}" if product_id in name_by_id else UNDELIVERED
                lost_texts.setdefault(code, []).append(text)
        delete_cursors(self.store.database, cursors)
        for code, texts in lost_texts.items():
            self.report(code, "; ".join(texts))


def _delivery_facts(delivery: Delivery, outbox: Outbox) -> dict[str, object]:
    """Return a product's sink as the API shows it."""
    waiting = 0
    error = delivery.error
    try:
        waiting = outbox.waiting()
    except StoreError as store_error:
        error = str(store_error)
    return {
        "name": delivery.sink.label,
        "kind": delivery.sink.kind,
        "delivered": outbox.delivered,
        "refused": outbox.refused,
        "waiting": waiting,
        "error": error,
    }
