"""MQTT: the station's broker gets each inspection and verdict at least once, present states and problems.

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
KEEPALIVE_SECONDS = 20  # seconds after which a silent broker is asked whether it is there
CONNECT_TIMEOUT = 5.0  # seconds to open a connection
ANSWER_TIMEOUT = 15.0  # seconds to wait for an answer of the broker
DISCONNECT_TIMEOUT = 2.0  # seconds to wait for the last message's acknowledgement
PROBLEMS_INTERVAL = 2.0  # seconds between two looks at the problems
OTHER_STATION_SECONDS = 90.0  # seconds for which another station of this name is reported after its message
RENEWAL_SECONDS = 30.0  # shortest seconds between two answers to `online` from another station
STATE_INTERVAL = 0.5  # shortest seconds between two states of a product
MAX_CLIENT_ID = 23  # characters of a client's name that every broker takes (MQTT 3.1.1, 3.1.3.1)
DAY = 23 * HOUR  # the present hour and the 23 hours before it are the last day
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
        broker: Address of the broker: `mqtt://host:1883`, or `mqtts://host:8883` with TLS.
        user: Name of the station at the broker; None: the broker asks for none.
        password_file: File with the user's password.
        ca_file: File with certificates to trust beside the usual.
        certificate_file: File with the station's own certificate.
        key_file: File with the key of that certificate.
        topic: Beginning of all topics.
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
        """Raise InputError where credentials or certificates contradict each other or the address."""
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
        """Return the line in `password_file`; None: there is no such setting.

        Raises:
            InputError: The file cannot be read.
        """
        return None if self.password_file is None else secret(self.password_file, "mqtt: password_file")


class MqttSink(Sink):
    """Sink that publishes to the station's broker in MQTT 3.1.1, which every broker knows."""

    def __init__(self, settings: MqttSettings, context: MessagePictures):
        self.settings = settings
        self.problems = context.problems
        self._products = context.products
        self._removed = context.removed  # names of removed products that the broker served
        self._renderings = context.renderings
        self._client_id = f"flawscope-{context.sender}"[:MAX_CLIENT_ID]
        self._base_topic = f"{settings.topic}/{context.station}"
        self._client: paho.Client | None = None
        # why there is no connection; None: there is one
        self._lost_reason: str | None = "it is not connected"
        self._is_cut = False  # whether the broker ended the connection
        self._retained: dict[str, str] = {}  # messages that the broker keeps, by topic
        self._cut_counts: Counter[str] = Counter()  # by topic: times that the broker cut the connection at it
        self._own_status_count = 0  # messages `online` of this connection that did not come back yet
        self._must_renew_status = False  # whether another station has written to this station's topic
        self._heard_at = -math.inf  # when the other station was heard last, as `time.monotonic` counts
        self._renewed_at = -math.inf  # when `online` was written in answer, as `time.monotonic` counts
        # by product: time and cursor of the last state that was sent
        self._sent_states: dict[str, tuple[float, Cursor]] = {}

    @override
    def prepare(self, *, is_new: bool) -> None:
        """Check that password and certificates can be read.

        Raises:
            InputError: One of these files cannot be read.
        """
        self.make_client()

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection to the broker."""
        return self._lost_reason is None

    @override
    def send(self, message: Message) -> None:
        """Publish a message below its product's topic; return when the broker has it.

        Raises:
            UndeliveredError: The broker did not take the message.
        """
        self._connect()
        kind = message.type.partition(".")[0]  # the word before the dot: inspection or verdict
        text = json.dumps(message.envelope(), ensure_ascii=False, separators=(",", ":"))
        try:
            self._publish(f"{self._base_topic}/{message.data['product']}/{kind}", text)
        except UndeliveredError as error:
            if not self._is_cut:
                raise
            # the broker took the status on this connection before: the size of the message must be the reason
            size_text = f"this message of {len(text.encode()) / 1000:.1f} kB"
            why = f"the broker ends the connection at {size_text}: let it take larger ones ({error})"
            raise UndeliveredError(why, blames_message=True) from None

    @override
    def refresh(self) -> float:
        """Renew the states and problems that the broker keeps; return the seconds until the next call.

        Raises:
            UndeliveredError: The broker did not take a message.
        """
        self._connect()
        self._renew_status()
        has_waiting_state = False
        self._clear_removed()
        for box in self.outboxes:
            # the product may have been removed, and another product may have its name
            if self._products.get(box.product) != box.product_id:
                continue
            sent_at, sent_cursor = self._sent_states.get(box.product, (0.0, None))
            if sent_cursor == box.cursor:
                continue
            if time.monotonic() - sent_at < STATE_INTERVAL:
                has_waiting_state = True
                continue
            self._sent_states[box.product] = time.monotonic(), box.cursor
            self._retain(f"{box.product}/state", json.dumps(self._product_state(box), ensure_ascii=False))
        problems = self.problems()
        text = json.dumps({"count": len(problems), "problems": problems}, ensure_ascii=False)
        self._retain("problem", text)
        return STATE_INTERVAL if has_waiting_state else PROBLEMS_INTERVAL

    def _clear_removed(self) -> None:
        """Let the broker forget the states of products that are not inspected any more."""
        for name in {*self._removed, *(box.product for box in self.outboxes)}:
            if name not in self._products:
                self._retain(f"{name}/state", "")
                self._sent_states.pop(name, None)

    @property
    @override
    def remark(self) -> str | None:
        """Problem that another station with this name uses the broker; None: none was heard lately."""
        if time.monotonic() > self._heard_at + OTHER_STATION_SECONDS:
            return None
        return (
            f"another station writes to {self._base_topic}/status at {self.settings.label}: two stations "
            "have one name; give one of them another `name`"
        )

    def _hear_status(self, client: paho.Client, data: object, message: paho.MQTTMessage) -> None:
        """Note a message on the topic of the station's status.

        The message is from this station, or from another one with the same name.
        """
        if message.retain:  # it was written before this connection
            return
        is_online = message.payload == ONLINE.encode()
        if is_online and self._own_status_count:
            self._own_status_count -= 1
            return
        self._heard_at = time.monotonic()
        # `online` is answered at intervals: two stations that always answer would answer each other forever
        is_due = self._heard_at > self._renewed_at + RENEWAL_SECONDS
        if is_due or not is_online:
            self._must_renew_status = True

    def _renew_status(self) -> None:
        """Write `online` again if another station has written its status, so that it hears of this one."""
        if self._must_renew_status:
            self._must_renew_status = False
            self._renewed_at = time.monotonic()
            self._write_status()

    def _write_status(self) -> None:
        """Publish that the station is online."""
        self._own_status_count += 1
        self._publish(f"{self._base_topic}/status", ONLINE, retain=True)

    @override
    def close(self) -> None:
        """Publish that the station is offline, and end the connection."""
        with suppress(UndeliveredError):  # without this message the broker publishes the will
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
        day_counts = store.counts_since(product_id, now() - DAY)
        query = inspection_query().where(on_line(product_id))
        latest_query = query.order_by(inspections.c.id.desc()).limit(1)
        with box.database.reading() as connection:
            descriptions = describe_inspections(connection, connection.execute(latest_query).all())
            version = connection.scalar(select(active_version(product_id)))
        inspection: Mapping[str, object] = descriptions[0] if descriptions else {}
        day_total = day_counts["inspected"]
        state = {name: inspection.get(name) for name in _STATE_FIELDS}
        return {
            **state,
            "version": version,
            "inspections": counts["inspected"],
            "anomalous": counts["anomalous"],
            "within_tolerance": counts["within_tolerance"],
            "unanswered": counts["unanswered"],
            "inspections_24_hours": day_total,
            "share_24_hours": round(day_counts["anomalous"] / day_total, 6) if day_total else None,
        }

    # ---- messages

    def _retain(self, topic: str, payload: str) -> None:
        """Publish a message that the broker keeps, unless the broker has it already.

        A topic at which the broker ended the connection `MAX_REFUSALS` times is left out: the broker may take
        other topics.

        Raises:
            UndeliveredError: The broker did not take the message.
        """
        if self._retained.get(topic) == payload or self._cut_counts[topic] >= MAX_REFUSALS:
            return
        try:
            self._publish(f"{self._base_topic}/{topic}", payload, retain=True)
        except UndeliveredError:
            if self._is_cut:
                self._cut_counts[topic] += 1
            raise
        self._cut_counts.pop(topic, None)
        self._retained[topic] = payload

    def _publish(self, topic: str, text: str, retain: bool = False, timeout: float = ANSWER_TIMEOUT) -> None:
        """Publish a message; return when the broker acknowledged it.

        Args:
            topic: Topic of the message.
            text: Content of the message.
            retain: Whether the broker keeps the message for later readers of the topic.
            timeout: Seconds to wait for the acknowledgement.

        Raises:
            UndeliveredError: The broker did not acknowledge the message.
        """
        assert self._client is not None
        deadline = time.monotonic() + timeout
        try:
            publication = self._client.publish(topic, text.encode(), AT_LEAST_ONCE, retain)
            while not publication.is_published():
                if time.monotonic() > deadline:
                    self._lost_reason = self._lost_reason or "it does not acknowledge a message"
                if self._lost_reason is not None:
                    raise UndeliveredError(self._lost_reason)
                publication.wait_for_publish(0.5)
        except ValueError as error:  # the library refuses the message: no broker would take it
            raise UndeliveredError(one_line_message(error), blames_message=True) from None
        except RuntimeError as error:  # the library says that the connection was lost meanwhile
            self._lost_reason = self._lost_reason or one_line_message(error)
            raise UndeliveredError(self._lost_reason) from None

    # ---- the connection

    def _connect(self) -> None:
        """Connect, unless there is a connection.

        Raises:
            UndeliveredError: There is no connection.
        """
        if self._lost_reason is None:
            return
        if self._client is not None:
            # the old connection ends on purpose, which must not be reported as a loss of the new one
            self._client.on_disconnect = None
            self._client.disconnect()
            self._client.loop_stop()
        answered = threading.Event()

        def on_connect(
            client: paho.Client, data: object, flags: object, reason: ReasonCode, properties: object
        ) -> None:
            self._lost_reason = f"it refuses the station: {reason}" if reason.is_failure else None
            answered.set()

        def on_disconnect(
            client: paho.Client, data: object, flags: object, reason: ReasonCode, properties: object
        ) -> None:
            self._is_cut = self._lost_reason is None
            self._lost_reason = self._lost_reason or f"the connection is lost: {reason}"
            answered.set()

        self._client = self.make_client()
        self._client.on_connect = on_connect
        self._client.on_disconnect = on_disconnect
        self._client.on_message = self._hear_status
        self._lost_reason = "it does not answer"
        self._is_cut = False
        self._own_status_count = 0
        self._open_connection(self._client)
        self._client.loop_start()
        answered.wait(ANSWER_TIMEOUT)
        if self._lost_reason is not None:
            raise UndeliveredError(self._lost_reason)
        self._retained.clear()  # a broker that was started again may have forgotten all messages
        self._sent_states.clear()
        with suppress(ValueError):  # the connection was lost meanwhile, which the next line reports
            self._client.subscribe(f"{self._base_topic}/status", AT_LEAST_ONCE)
        self._write_status()

    def _open_connection(self, client: paho.Client) -> None:
        """Open the connection, TLS included, within `ANSWER_TIMEOUT` for all its steps together.

        Raises:
            UndeliveredError: The connection cannot be opened.
        """
        host, port, _ = self.settings.connection
        opening: Future[None] = Future()

        def connect() -> None:
            try:
                client.connect(host, port, KEEPALIVE_SECONDS)
            except Exception as error:  # passed on
                opening.set_exception(error)
            else:
                opening.set_result(None)

        threading.Thread(target=connect, name="mqtt-connect", daemon=True).start()
        try:
            opening.result(ANSWER_TIMEOUT)
        except TimeoutError:  # the reason is the one that `_connect` has set: it does not answer
            raise UndeliveredError(str(self._lost_reason)) from None
        except (OSError, ValueError) as error:
            self._lost_reason = f"it cannot be reached: {error_text(error)}"
            raise UndeliveredError(self._lost_reason) from None

    def make_client(self) -> paho.Client:
        """Make a client with password and certificates as they are now.

        Raises:
            InputError: The file of the password or of a certificate cannot be read.
        """
        settings = self.settings
        client = paho.Client(
            CallbackAPIVersion.VERSION2, self._client_id, protocol=paho.MQTTv311, reconnect_on_failure=False
        )
        client.connect_timeout = CONNECT_TIMEOUT
        client.will_set(f"{self._base_topic}/status", OFFLINE, AT_LEAST_ONCE, retain=True)
        if settings.user is not None:
            client.username_pw_set(settings.user, settings.password())
        _, _, has_tls = settings.connection
        if has_tls:
            context = tls_context(settings.ca_file, settings.certificate_file, settings.key_file)
            client.tls_set_context(context)
        return client


PLUGIN = Plugin(
    "mqtt", MqttSettings, MqttSink, paths=("password_file", "ca_file", "certificate_file", "key_file")
)
