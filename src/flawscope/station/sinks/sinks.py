"""All sinks of a station: where its inspections go."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import delete, func, select

from flawscope.station.inspecting.renderings import Shown
from flawscope.station.settings.sinks import SinkSettings
from flawscope.station.settings.station import Settings
from flawscope.station.sinks.delivery import Counts, Delivery
from flawscope.station.sinks.folder import FolderSink
from flawscope.station.sinks.mqtt import Mqtt
from flawscope.station.sinks.outbox import Message, Outbox, forget_others, key_of
from flawscope.station.sinks.pictures import Pictures
from flawscope.station.sinks.webhook import Webhook
from flawscope.station.store.database import Database, StoreError, now
from flawscope.station.store.records import Store, described, shown
from flawscope.station.store.schema import HOUR, deliveries, hours, inspections, products
from flawscope.station.store.stations import address_of

WEBHOOK, FOLDER, MQTT = "webhook", "folder", "mqtt"  # kinds
UNDELIVERED = "undelivered"  # event
STATION = "station"  # who noted it
SENDER = 12  # digits of the station in the ids of messages
DAY = 24  # hours
PATIENCE = 10.0  # seconds that all sinks together may take to end


class Sinks:
    """Threads that deliver; nobody waits for them.

    Args:
        identity: of the station's folder; begins the ids of messages.
        products: name -> number.
        report: shows a problem under a code, or ends it with None.
        problems: as they are shown.

    Raises:
        InputError: a file or folder that the settings name cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        identity: str,
        products: dict[str, int],
        store: Store,
        pictures: Shown,
        report: Callable[[str, str | None], None],
        problems: Callable[[], list[Any]],
    ):
        self.settings, self.products, self.store, self.report = settings, products, store, report
        self.database: Database = store.database
        self._sender, self._address = identity[:SENDER], address_of(settings)
        self._pictures = Pictures(pictures)
        self.deliveries: dict[str, list[Delivery]] = {
            name: [self._delivery(name, place, one) for place, one in enumerate(product.sinks, 1)]
            for name, product in settings.products.items()
        }
        gone = self._forget_gone()
        self.mqtt: Mqtt | None = None
        if settings.mqtt is not None:
            wanted = settings.mqtt
            boxes = {
                name: self._outbox(name, key_of(MQTT, wanted.broker), wanted.only, wanted.verdicts)
                for name in products
            }
            for box in boxes.values():
                box.open()
            self.mqtt = Mqtt(
                wanted,
                settings.name,
                self._sender,
                boxes,
                self._state,
                lambda: [one.to_dict() for one in problems()],
                lambda why: report("mqtt_away", why),
                self._address,
                gone,
                self._forget_mqtt,
            )

    def start(self) -> None:
        for one in self._all():
            one.start()

    def wake(self, product_id: int) -> None:
        """Something new is in the store."""
        for several in self.deliveries.values():
            for one in several:
                if one.outbox.product_id == product_id:
                    one.wake()
        if self.mqtt is not None:
            self.mqtt.wake()

    def stop(self) -> None:
        """What is not delivered yet is delivered after the next start."""
        for one in self._all():
            one.end()
        ends = time.monotonic() + PATIENCE
        for one in self._all():
            one.stop(max(0.0, ends - time.monotonic()))

    def _all(self) -> list[Delivery | Mqtt]:
        every: list[Delivery | Mqtt] = [one for several in self.deliveries.values() for one in several]
        return every if self.mqtt is None else [*every, self.mqtt]

    # ---- as they are shown

    def facts(self, name: str) -> list[dict[str, Any]]:
        """Sinks of a product, as the API shows them."""
        found = []
        for one in self.deliveries[name]:
            kind = WEBHOOK if isinstance(one.sink, Webhook) else FOLDER
            found.append(_facts(kind, one.sink.label, one.outbox, one.waiting, one.error))
        if self.mqtt is not None:
            box = self.mqtt.outboxes[name]
            found.append(_facts(MQTT, self.mqtt.label, box, box.waiting, self.mqtt.error))
        return found

    def gauges(self) -> dict[str, tuple[str, dict[tuple[str, str], float]]]:
        """For Prometheus: name -> what it is, value by product and sink."""
        delivered: dict[tuple[str, str], float] = {}
        failed: dict[tuple[str, str], float] = {}
        refused: dict[tuple[str, str], float] = {}
        backlog: dict[tuple[str, str], float] = {}
        for name in self.products:
            several: list[tuple[str, Counts, Callable[[], int]]] = [
                (one.sink.label, one.counts, one.waiting) for one in self.deliveries[name]
            ]
            if self.mqtt is not None:
                waiting = self.mqtt.outboxes[name].waiting
                several.append((self.mqtt.label, self.mqtt.counts[name], waiting))
            for label, counts, waiting in several:
                place = name, label
                delivered[place], failed[place] = counts.delivered, counts.failed
                refused[place], backlog[place] = counts.refused, waiting()
        return {
            "delivered_total": ("Messages that a sink took.", delivered),
            "delivery_failures_total": ("Tries that failed.", failed),
            "undelivered_total": ("Messages that a sink refused for good.", refused),
            "sink_backlog": ("Messages that wait for a sink, counted up to 10,000.", backlog),
        }

    # ---- made from the settings

    def _delivery(self, name: str, place: int, settings: SinkSettings) -> Delivery:
        number = self.products[name]
        code = f"sink_{number}_{place}"
        if settings.webhook is not None:
            sink: Webhook | FolderSink = Webhook(settings, self._pictures)
            before = self.settings.products[name].sinks[: place - 1]
            if alike := sum(one.label == settings.label for one in before):  # on one host
                sink.label += f" ({alike + 1})"
            key = key_of(WEBHOOK, settings.name or settings.webhook)
        else:
            sink = FolderSink(settings, self._pictures)
            key = key_of(FOLDER, settings.name or str(settings.folder))
        box = self._outbox(name, key, settings.only, settings.verdicts)
        box.open()
        if isinstance(sink, FolderSink) and not box.delivered:
            sink.make()

        def refused(message: Message, why: str) -> None:
            text = f"{sink.label} did not take {message.type} {message.number} ({message.id}): {why}"
            self.store.note_event(UNDELIVERED, STATION, text, number)

        return Delivery(sink, box, lambda why: self.report(code, why), refused)

    def _outbox(self, name: str, key: str, only: Any, verdicts: bool) -> Outbox:
        return Outbox(
            self.database,
            self.products[name],
            name,
            key,
            only=only,
            verdicts=verdicts,
            sender=self._sender,
            base={"station": self.settings.name},
            address=self._address,
        )

    def _forget_gone(self) -> dict[int, str]:
        """Places of sinks that are not in the settings any more go; products of which the broker may still
        have something, by number."""
        mqtt = self.settings.mqtt
        known = {
            (one.outbox.product_id, one.outbox.key) for several in self.deliveries.values() for one in several
        }
        gone: dict[int, str] = {}
        if mqtt is not None:
            key = key_of(MQTT, mqtt.broker)
            query = (
                select(products.c.id, products.c.name)
                .join_from(deliveries, products)
                .where(products.c.id.in_(self.database.own()), deliveries.c.sink == key)
                .where(products.c.id.not_in(self.products.values()))
            )
            with self.database.reading() as connection:
                gone = {int(row.id): str(row.name) for row in connection.execute(query)}
            known |= {(number, key) for number in (*self.products.values(), *gone)}
        forget_others(self.database, known)
        return gone

    def _forget_mqtt(self, number: int) -> None:
        with self.database.writing() as connection:
            mine = deliveries.c.product_id == number, deliveries.c.sink.startswith(f"{MQTT}:")
            connection.execute(delete(deliveries).where(*mine))

    def _state(self, number: int) -> dict[str, Any]:
        """Of a product, for the broker: its last inspection, and totals."""
        there = hours.c.product_id == number
        since = now() // HOUR - DAY + 1
        sums = func.coalesce(func.sum(hours.c.inspected), 0), func.coalesce(func.sum(hours.c.anomalous), 0)
        last = shown().where(inspections.c.product_id == number).order_by(inspections.c.id.desc()).limit(1)
        active = select(products.c.active_version_id).where(products.c.id == number)
        with self.database.reading() as connection:
            total, anomalous = connection.execute(select(*sums).where(there)).one()
            day, of_day = connection.execute(select(*sums).where(there, hours.c.hour >= since)).one()
            found = described(connection, connection.execute(last).all())
            version = connection.execute(active).scalar_one_or_none()
        names = ("id", "at", "name", "decision", "score", "p_value", "severity", "score_threshold", "verdict")
        about: dict[str, Any] = {name: found[0][name] if found else None for name in names}
        return {
            **about,
            "version": version,
            "inspections": int(total),
            "anomalous": int(anomalous),
            "inspections_24_hours": int(day),
            "share_24_hours": round(int(of_day) / int(day), 6) if day else None,
        }


def _facts(
    kind: str, label: str, box: Outbox, waiting: Callable[[], int], error: str | None
) -> dict[str, Any]:
    try:
        many = waiting()
    except StoreError as away:
        many, error = 0, str(away)
    return {
        "name": label,
        "kind": kind,
        "delivered": box.delivered,
        "refused": box.refused,
        "waiting": many,
        "error": error,
    }
