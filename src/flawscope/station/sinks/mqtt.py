"""MQTT: the station's broker gets inspections and verdicts at least once, present states and problems.

Topics and their contents are listed in docs/station-mqtt.md.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from sqlalchemy import func, select

from flawscope.errors import one_line
from flawscope.station.settings.sinks import MqttSettings
from flawscope.station.settings.values import trusting, error_text
from flawscope.station.sinks.delivery import Sink, UndeliveredError
from flawscope.station.sinks.outbox import Message, Outbox, Place
from flawscope.station.store.database import Database, now
from flawscope.station.store.parts import last_decided
from flawscope.station.store.records import described, shown
from flawscope.station.store.schema import HOUR, hours, inspections, products

ONLINE, OFFLINE = "online", "offline"
AT_LEAST_ONCE = 1  # quality of service
KEEPALIVE = 20  # seconds after which a broker that is silent is asked
CONNECTING, PATIENCE, LEAVING = 5.0, 15.0, 2.0  # seconds to connect, to wait for an answer, to end
LOOK = 2.0  # seconds between two looks at the problems
STATE = 0.5  # seconds between two states of a product, at least
MOST_ID = 23  # characters of a client's name that every broker takes (MQTT 3.1.1, 3.1.3.1)
DAY = 24  # hours
_STATED = ("id", "at", "name", "decision", "score", "p_value", "severity", "score_threshold", "verdict")


class MqttSink(Sink):
    """Connection of a station to its broker, in MQTT 3.1.1, which every broker speaks.

    Args:
        station, sender: the station's name, and its digits.
        outboxes: of all products.
        problems: returns the present problems.
    """

    kind = "mqtt"

    def __init__(
        self,
        settings: MqttSettings,
        station: str,
        sender: str,
        outboxes: list[Outbox],
        problems: Callable[[], list[dict[str, str]]],
    ):
        self.settings, self.outboxes, self.problems = settings, outboxes, problems
        self.label = settings.label
        self._name = f"flawscope-{sender}"[:MOST_ID]
        self._topic = f"{settings.topic}/{station}"
        self._client: paho.Client | None = None
        self._lost: str | None = "it is not connected"  # why; None: there is a connection
        self._retained: dict[str, str] = {}  # topic -> what the broker keeps
        self._stated: dict[str, tuple[float, Place]] = {}  # by product: time and place of the last state

    @property
    def is_connected(self) -> bool:
        return self._lost is None

    def send(self, message: Message) -> None:
        self._connect()
        kind = message.type.partition(".")[0]  # inspection, verdict, part
        text = json.dumps(message.envelope(), ensure_ascii=False, separators=(",", ":"))
        self._publish(f"{self._topic}/{message.data['product']}/{kind}", text)

    def refresh(self) -> float:
        """Renew the messages that the broker keeps: states and problems."""
        self._connect()
        late = False
        for box in self.outboxes:
            when, what = self._stated.get(box.product, (0.0, None))
            if what == box.place:
                continue
            if time.monotonic() - when < STATE:
                late = True
                continue
            self._stated[box.product] = time.monotonic(), box.place
            self._retain(f"{box.product}/state", json.dumps(_state(box), ensure_ascii=False))
        problems = self.problems()
        text = json.dumps({"count": len(problems), "problems": problems}, ensure_ascii=False)
        self._retain("problem", text)
        return STATE if late else LOOK

    def close(self) -> None:
        with suppress(UndeliveredError):  # else the broker publishes the will
            if self.is_connected:
                self._publish(f"{self._topic}/status", OFFLINE, retain=True, patience=LEAVING)
        if self._client is not None:
            self._client.disconnect()
            self._client.loop_stop()

    # ---- messages

    def _retain(self, topic: str, payload: str) -> None:
        """Publish a message that the broker keeps, unless the broker has it already."""
        if self._retained.get(topic) != payload:
            self._publish(f"{self._topic}/{topic}", payload, retain=True)
            self._retained[topic] = payload

    def _publish(self, topic: str, payload: str, *, retain: bool = False, patience: float = PATIENCE) -> None:
        """Publish a message; return when the broker acknowledged it. UndeliveredError."""
        assert self._client is not None
        ends = time.monotonic() + patience
        try:
            sent = self._client.publish(topic, payload.encode(), AT_LEAST_ONCE, retain)
            while not sent.is_published():
                if time.monotonic() > ends:
                    self._lost = self._lost or "it does not acknowledge a message"
                if self._lost is not None:
                    raise UndeliveredError(self._lost)
                sent.wait_for_publish(0.5)
        except (RuntimeError, ValueError) as error:  # of the library: the connection went away meanwhile
            self._lost = self._lost or one_line(error)
            raise UndeliveredError(self._lost) from None

    # ---- the connection

    def _connect(self) -> None:
        """Connect, unless there is a connection. UndeliveredError."""
        if self._lost is None:
            return
        if self._client is not None:
            self._client.on_disconnect = None
            self._client.disconnect()
            self._client.loop_stop()
        answered = threading.Event()

        def connected(client: paho.Client, data: Any, flags: Any, reason: Any, properties: Any) -> None:
            self._lost = f"it refuses the station: {reason}" if reason.is_failure else None
            answered.set()

        def disconnected(client: paho.Client, data: Any, flags: Any, reason: Any, properties: Any) -> None:
            self._lost = self._lost or f"the connection is lost: {reason}"
            answered.set()

        self._client = self.made()
        self._client.on_connect, self._client.on_disconnect = connected, disconnected
        self._lost = "it does not answer"
        host, port, _ = self.settings.place
        try:
            self._client.connect(host, port, KEEPALIVE)
        except (OSError, ValueError) as error:
            self._lost = f"it cannot be reached: {error_text(error)}"
            raise UndeliveredError(self._lost) from None
        self._client.loop_start()
        answered.wait(PATIENCE)
        if self._lost is not None:
            raise UndeliveredError(self._lost)
        self._retained.clear()  # a broker that was started anew may know nothing
        self._stated.clear()
        self._retain("status", ONLINE)

    def made(self) -> paho.Client:
        """Make a client with password and certificates as they are now. InputError."""
        settings = self.settings
        client = paho.Client(
            CallbackAPIVersion.VERSION2, self._name, protocol=paho.MQTTv311, reconnect_on_failure=False
        )
        client.connect_timeout = CONNECTING
        client.will_set(f"{self._topic}/status", OFFLINE, AT_LEAST_ONCE, retain=True)
        if settings.user is not None:
            client.username_pw_set(settings.user, settings.password())
        if settings.place[2]:
            files = settings.ca_file, settings.certificate_file, settings.key_file
            client.tls_set_context(trusting(*files))
        return client


def _state(box: Outbox) -> dict[str, Any]:
    database: Database = box.database
    number = box.product_id
    there, since = hours.c.product_id == number, now() // HOUR - DAY + 1
    sums = func.coalesce(func.sum(hours.c.inspected), 0), func.coalesce(func.sum(hours.c.anomalous), 0)
    last = shown().where(inspections.c.product_id == number).order_by(inspections.c.id.desc()).limit(1)
    active = select(products.c.active_version_id).where(products.c.id == number)
    with database.reading() as connection:
        total, anomalous = connection.execute(select(*sums).where(there)).one()
        day, of_day = connection.execute(select(*sums).where(there, hours.c.hour >= since)).one()
        found = described(connection, connection.execute(last).all())
        version = connection.execute(active).scalar_one_or_none()
    return {
        **{name: found[0][name] if found else None for name in _STATED},
        "last_part": last_decided(database, number),
        "version": version,
        "inspections": int(total),
        "anomalous": int(anomalous),
        "inspections_24_hours": int(day),
        "share_24_hours": round(int(of_day) / int(day), 6) if day else None,
    }
