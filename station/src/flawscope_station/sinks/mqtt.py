"""MQTT: the station's broker gets inspections and verdicts at least once, present states and problems.

Topics and their contents are listed in docs/station-mqtt.md.
"""

from __future__ import annotations

import json
import math
import re
import threading
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.reasoncodes import ReasonCode
from sqlalchemy import select
from typing_extensions import override

from flawscope.errors import InputError, one_line_message
from flawscope_station.settings.plugins import Plugin
from flawscope_station.settings.values import error_text, redact_address, secret, split_address, tls_context
from flawscope_station.sinks.delivery import MAX_REFUSALS, MessagePictures, Sink, UndeliveredError
from flawscope_station.sinks.outbox import Cursor, Message, Outbox
from flawscope_station.store.database import now
from flawscope_station.store.records import describe_inspections, inspection_query
from flawscope_station.store.schema import HOUR, active_version, inspections, on_line

ONLINE = "online"
OFFLINE = "offline"
AT_LEAST_ONCE = 1  # quality of service
KEEPALIVE_SECONDS = 20  # after which a broker that is silent is asked
# seconds
CONNECT_TIMEOUT = 5.0
ANSWER_TIMEOUT = 15.0
DISCONNECT_TIMEOUT = 2.0
PROBLEMS_INTERVAL = 2.0  # seconds between two looks at the problems
OTHER_STATION_SECONDS = 90.0  # for which another station of this name is told, after it was heard
RENEWAL_SECONDS = 30.0  # between two times that `online` is written because another one wrote it
STATE_INTERVAL = 0.5  # seconds between two states of a product, at least
MAX_CLIENT_ID = 23  # characters of a client's name that every broker takes (MQTT 3.1.1, 3.1.3.1)
DAY = 23 * HOUR  # before the present hour
DEFAULT_PORTS = {"mqtt": 1883, "mqtts": 8883}
_TOPIC = re.compile(r"[^/+#$\x00-\x1f][^+#\x00-\x1f]*")
_STATE_FIELDS = (
    *("id", "at", "name", "part", "batch", "decision", "score", "p_value", "severity", "score_threshold"),
    "verdict",
)


@dataclass(frozen=True)
class MqttSettings:
    """Settings of the station's broker.

    Attributes:
        broker: `mqtt://host:1883`, or `mqtts://host:8883` with TLS.
        user: Of the station at the broker; None: it has none.
        password_file: Holds the user's password.
        ca_file: Certificates to trust beside the usual.
        certificate_file: The station's own certificate.
        key_file: Key of that certificate.
        topic: Begins all topics.
    """

    broker: str
    user: str | None = None
    password_file: str | None = None
    ca_file: str | None = None
    certificate_file: str | None = None
    key_file: str | None = None
    topic: str = "flawscope"

    def __post_init__(self) -> None:
        self._check_address()
        self._check_credentials()
        if not _TOPIC.fullmatch(self.topic) or self.topic.endswith("/"):
            raise InputError(f"topic: {self.topic!r:.60} cannot begin a topic: leave out +, #, $ and outer /")

    def _check_address(self) -> None:
        """Raise InputError where `broker` is no address of a broker."""
        parts = split_address(self.broker, "broker")
        if parts.username is not None or parts.password is not None:
            raise InputError("broker: write `user` and `password_file` instead of a password in the address")
        if parts.scheme not in DEFAULT_PORTS or not parts.hostname or parts.path.strip("/") or parts.query:
            raise InputError(
                f"broker: {redact_address(self.broker)!r} is not mqtt://host:1883 or mqtts://host:8883"
            )

    def _check_credentials(self) -> None:
        """Raise InputError where credentials or certificates do not fit each other, or the address."""
        if self.password_file is not None and self.user is None:
            raise InputError("password_file wants a `user`")
        if (self.certificate_file is None) != (self.key_file is None):
            raise InputError("certificate_file and key_file belong together: write both, or none")
        has_tls = split_address(self.broker, "broker").scheme == "mqtts"
        if not has_tls and (self.ca_file or self.certificate_file):
            raise InputError("certificates are TLS's: write broker as mqtts://, or leave them out")

    @property
    def address(self) -> str:
        """Return the broker's URL, which holds no password."""
        return self.broker

    @property
    def connection(self) -> tuple[str, int, bool]:
        """Host, port, and whether TLS is used."""
        parts = urlsplit(self.broker)
        return parts.hostname or "", parts.port or DEFAULT_PORTS[parts.scheme], parts.scheme == "mqtts"

    @property
    def label(self) -> str:
        """Return scheme, host and port of the broker."""
        return redact_address(self.broker)

    def password(self) -> str | None:
        """Return the line in `password_file`. InputError."""
        return None if self.password_file is None else secret(self.password_file, "mqtt: password_file")


class MqttSink(Sink):
    """Sink that publishes to the station's broker in MQTT 3.1.1, which every broker speaks."""

    def __init__(self, settings: MqttSettings, context: MessagePictures):
        self.settings = settings
        self.problems = context.problems
        self._products = context.products
        self._removed = context.removed
        self._renderings = context.renderings
        self._client_id = f"flawscope-{context.sender}"[:MAX_CLIENT_ID]
        self._base_topic = f"{settings.topic}/{context.station}"
        self._client: paho.Client | None = None
        self._lost_reason: str | None = "it is not connected"  # None: there is a connection
        self._is_cut = False  # whether the broker ended the connection
        self._retained: dict[str, str] = {}  # topic -> what the broker keeps
        self._cuts: Counter[str] = Counter()  # by topic: how often the broker ended the connection at it
        self._own_statuses = 0  # of this connection, which the broker has not passed back yet
        self._renews_status = False  # another station has written to this one's topic
        self._heard_at = -math.inf  # when it was heard last, as `time.monotonic` counts
        self._renewed_at = -math.inf  # when `online` was written in answer
        self._sent_states: dict[str, tuple[float, Cursor]] = {}  # by product: time and cursor of the last

    @override
    def prepare(self, *, is_new: bool) -> None:
        """Check that password and certificates can be read. InputError."""
        self.make_client()

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection to the broker."""
        return self._lost_reason is None

    @override
    def send(self, message: Message) -> None:
        """Publish a message below its product's topic; return when the broker has it. UndeliveredError."""
        self._connect()
        kind = message.type.partition(".")[0]  # inspection, verdict
        text = json.dumps(message.envelope(), ensure_ascii=False, separators=(",", ":"))
        try:
            self._publish(f"{self._base_topic}/{message.data['product']}/{kind}", text)
        except UndeliveredError as error:
            if not self._is_cut:
                raise
            # it took the station's status on the same connection
            size = f"this message of {len(text.encode()) / 1000:.1f} kB"
            why = f"the broker ends the connection at {size}: let it take larger ones ({error})"
            raise UndeliveredError(why, blames_message=True) from None

    @override
    def refresh(self) -> float:
        """Renew the messages that the broker keeps: states and problems."""
        self._connect()
        self._renew_status()
        late = False
        self._clear_removed()
        for box in self.outboxes:
            if self._products.get(box.product) != box.product_id:  # another product may have its name
                continue
            sent_at, sent_cursor = self._sent_states.get(box.product, (0.0, None))
            if sent_cursor == box.cursor:
                continue
            if time.monotonic() - sent_at < STATE_INTERVAL:
                late = True
                continue
            self._sent_states[box.product] = time.monotonic(), box.cursor
            self._retain(f"{box.product}/state", json.dumps(self._product_state(box), ensure_ascii=False))
        problems = self.problems()
        text = json.dumps({"count": len(problems), "problems": problems}, ensure_ascii=False)
        self._retain("problem", text)
        return STATE_INTERVAL if late else PROBLEMS_INTERVAL

    def _clear_removed(self) -> None:
        """Let the broker forget the states of products that are inspected no more."""
        for name in {*self._removed, *(box.product for box in self.outboxes)}:
            if name not in self._products:
                self._retain(f"{name}/state", "")
                self._sent_states.pop(name, None)

    @property
    @override
    def remark(self) -> str | None:
        """Words on another station of this name, heard at the broker a moment ago; None: there is none."""
        if time.monotonic() > self._heard_at + OTHER_STATION_SECONDS:
            return None
        return (
            f"another station writes to {self._base_topic}/status at {self.settings.label}: two stations "
            "have one name; give one of them another `name`"
        )

    def _hear_status(self, client: paho.Client, data: object, message: paho.MQTTMessage) -> None:
        """Note a message on the station's own topic: one that it has not written is another station's."""
        if message.retain:  # what was there before
            return
        if message.payload == ONLINE.encode() and self._own_statuses:
            self._own_statuses -= 1
            return
        self._heard_at = time.monotonic()
        is_due = self._heard_at > self._renewed_at + RENEWAL_SECONDS
        self._renews_status |= is_due or message.payload != ONLINE.encode()

    def _renew_status(self) -> None:
        """Write `online` again where another station has changed it; so that one hears of this one, too."""
        if self._renews_status:
            self._renews_status = False
            self._renewed_at = time.monotonic()
            self._write_status()

    def _write_status(self) -> None:
        self._own_statuses += 1
        self._publish(f"{self._base_topic}/status", ONLINE, retain=True)

    @override
    def close(self) -> None:
        """Publish that the station is offline, and end the connection."""
        with suppress(UndeliveredError):  # else the broker publishes the will
            if self.is_connected:
                self._publish(f"{self._base_topic}/status", OFFLINE, retain=True, timeout=DISCONNECT_TIMEOUT)
        if self._client is not None:
            self._client.disconnect()
            self._client.loop_stop()

    def _product_state(self, box: Outbox) -> dict[str, object]:
        """Return the state of a product, which the broker keeps."""
        product_id = box.product_id
        store = self._renderings.store
        counts = store.counts(product_id)
        of_day = store.counts_since(product_id, now() - DAY)
        query = inspection_query().where(on_line(product_id))
        latest = query.order_by(inspections.c.id.desc()).limit(1)
        with box.database.reading() as connection:
            found = describe_inspections(connection, connection.execute(latest).all())
            version = connection.scalar(select(active_version(product_id)))
        inspection: Mapping[str, object] = found[0] if found else {}
        total = of_day["inspected"]
        state = {name: inspection.get(name) for name in _STATE_FIELDS}
        return {
            **state,
            "version": version,
            "inspections": counts["inspected"],
            "anomalous": counts["anomalous"],
            "within_tolerance": counts["within_tolerance"],
            "unanswered": counts["unanswered"],
            "inspections_24_hours": total,
            "share_24_hours": round(of_day["anomalous"] / total, 6) if total else None,
        }

    # ---- messages

    def _retain(self, topic: str, payload: str) -> None:
        """Publish a message that the broker keeps, unless the broker has it already.

        A topic at which the broker ended the connection again and again is left out: others may be taken.
        """
        if self._retained.get(topic) == payload or self._cuts[topic] >= MAX_REFUSALS:
            return
        try:
            self._publish(f"{self._base_topic}/{topic}", payload, retain=True)
        except UndeliveredError:
            self._cuts[topic] += self._is_cut
            raise
        del self._cuts[topic]
        self._retained[topic] = payload

    def _publish(self, topic: str, text: str, retain: bool = False, timeout: float = ANSWER_TIMEOUT) -> None:
        """Publish a message; return when the broker acknowledged it. UndeliveredError."""
        assert self._client is not None
        ends = time.monotonic() + timeout
        try:
            sent = self._client.publish(topic, text.encode(), AT_LEAST_ONCE, retain)
            while not sent.is_published():
                if time.monotonic() > ends:
                    self._lost_reason = self._lost_reason or "it does not acknowledge a message"
                if self._lost_reason is not None:
                    raise UndeliveredError(self._lost_reason)
                sent.wait_for_publish(0.5)
        except ValueError as error:  # of the library: no broker takes it
            raise UndeliveredError(one_line_message(error), blames_message=True) from None
        except RuntimeError as error:  # of the library: the connection went away meanwhile
            self._lost_reason = self._lost_reason or one_line_message(error)
            raise UndeliveredError(self._lost_reason) from None

    # ---- the connection

    def _connect(self) -> None:
        """Connect, unless there is a connection. UndeliveredError."""
        if self._lost_reason is None:
            return
        if self._client is not None:
            self._client.on_disconnect = None
            self._client.disconnect()
            self._client.loop_stop()
        answered = threading.Event()

        def connected(
            client: paho.Client, data: object, flags: object, reason: ReasonCode, properties: object
        ) -> None:
            self._lost_reason = f"it refuses the station: {reason}" if reason.is_failure else None
            answered.set()

        def disconnected(
            client: paho.Client, data: object, flags: object, reason: ReasonCode, properties: object
        ) -> None:
            self._is_cut = self._lost_reason is None
            self._lost_reason = self._lost_reason or f"the connection is lost: {reason}"
            answered.set()

        self._client = self.make_client()
        self._client.on_connect = connected
        self._client.on_disconnect = disconnected
        self._client.on_message = self._hear_status
        self._lost_reason = "it does not answer"
        self._is_cut = False
        self._own_statuses = 0
        self._open_connection(self._client)
        self._client.loop_start()
        answered.wait(ANSWER_TIMEOUT)
        if self._lost_reason is not None:
            raise UndeliveredError(self._lost_reason)
        self._retained.clear()  # a broker that was started anew may know nothing
        self._sent_states.clear()
        with suppress(ValueError):  # the connection went away meanwhile, which publishing says
            self._client.subscribe(f"{self._base_topic}/status", AT_LEAST_ONCE)
        self._write_status()

    def _open_connection(self, client: paho.Client) -> None:
        """Open the connection, TLS included, whatever the pieces of it take. UndeliveredError."""
        host, port, _ = self.settings.connection
        opened: Future[None] = Future()

        def connect() -> None:
            try:
                client.connect(host, port, KEEPALIVE_SECONDS)
            except Exception as error:  # passed on
                opened.set_exception(error)
            else:
                opened.set_result(None)

        threading.Thread(target=connect, name="mqtt-connect", daemon=True).start()
        try:
            opened.result(ANSWER_TIMEOUT)
        except TimeoutError:
            raise UndeliveredError(str(self._lost_reason)) from None
        except (OSError, ValueError) as error:
            self._lost_reason = f"it cannot be reached: {error_text(error)}"
            raise UndeliveredError(self._lost_reason) from None

    def make_client(self) -> paho.Client:
        """Make a client with password and certificates as they are now. InputError."""
        settings = self.settings
        client = paho.Client(
            CallbackAPIVersion.VERSION2, self._client_id, protocol=paho.MQTTv311, reconnect_on_failure=False
        )
        client.connect_timeout = CONNECT_TIMEOUT
        client.will_set(f"{self._base_topic}/status", OFFLINE, AT_LEAST_ONCE, retain=True)
        if settings.user is not None:
            client.username_pw_set(settings.user, settings.password())
        if settings.connection[2]:
            files = settings.ca_file, settings.certificate_file, settings.key_file
            client.tls_set_context(tls_context(*files))
        return client


PLUGIN = Plugin(
    "mqtt", MqttSettings, MqttSink, paths=("password_file", "ca_file", "certificate_file", "key_file")
)
