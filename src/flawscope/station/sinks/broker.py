"""A connection to the broker, in which every message comes back to its sender.

A publisher that is killed cannot know what the broker had taken: an acknowledgement may have been on its way.
So the station also subscribes to what it publishes, in a session that the broker keeps. What the broker hands
to others it puts into that session in the same step; the station takes it out when its own records say so.
After any cut it first asks what is in there, and sends the rest.
"""

from __future__ import annotations

import json
import secrets
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from flawscope.errors import FlawscopeError, InputError, one_line
from flawscope.station.settings.sinks import MqttSettings
from flawscope.station.sinks.topics import MOST_ID, OFFLINE, Topics

KEEPALIVE = 20  # seconds after which a broker that is silent is asked
PATIENCE = 15.0  # seconds that the broker may take for an answer
EXACTLY, AT_LEAST = 2, 1  # quality of service
_CONNECTING = 5.0


class BrokerError(FlawscopeError):
    """The broker is away, or does not do what it should."""


Key = tuple[str, str]  # topic and id of a message


class Link:
    """Two clients: one publishes, the other one gets what was published.

    Args:
        watched: topics of messages that come back.
        is_done: whether the station has noted this message as delivered.
        heard: gets what comes in other topics, which `also` names.

    Raises:
        BrokerError: it cannot be reached, or does not let the station do this.
        InputError: files that the settings name cannot be read.
    """

    def __init__(
        self,
        settings: MqttSettings,
        topics: Topics,
        sender: str,
        watched: Iterable[str],
        is_done: Callable[[str, dict[str, Any]], bool],
        also: Iterable[str] = (),
        heard: Callable[[str, bytes], None] = lambda topic, data: None,
    ):
        self.settings, self.topics = settings, topics
        self.watched, self.is_done, self.also, self.heard = list(watched), is_done, list(also), heard
        self._changed = threading.Condition()
        self._back: dict[Key, int] = {}  # what came back -> its number in the session
        self._words: set[str] = set()
        self._lost: str | None = None
        self._answers: dict[int, list[Any]] = {}
        self._publisher = self._client(f"flawscope-{sender}"[:MOST_ID], clean=True)
        self._watcher = self._client(f"flawscope-{sender}"[: MOST_ID - 1] + "e", clean=False)
        self._publisher.will_set(topics.status, OFFLINE, AT_LEAST, retain=True)
        self._watcher.on_message = self._came
        self._publisher.on_message = lambda client, data, one: self.heard(one.topic, bytes(one.payload))

    def open(self) -> None:
        """Afterwards `came_back` knows all that the broker had taken before."""
        for client in (self._watcher, self._publisher):
            self._connect(client)
        self._subscribe(self._watcher, [*self.watched, self.topics.echo], AT_LEAST)
        if self.also:
            self._subscribe(self._publisher, self.also, AT_LEAST)
        word = secrets.token_hex(8)  # comes after all that was in the session
        self._publisher.publish(self.topics.echo, word, AT_LEAST)
        why = f"it does not hand back what is sent to {self.topics.echo}: may the station read and write it?"
        self._wait(lambda: word in self._words, why)

    def close(self, *, politely: bool = False) -> None:
        if politely and self._lost is None:
            with suppress(RuntimeError, ValueError):  # else the broker will say so itself
                self.hold(self.topics.status, OFFLINE).wait_for_publish(2.0)
        for client in (self._publisher, self._watcher):
            client.on_disconnect = None
            client.disconnect() if politely else _cut(client)
            client.loop_stop()

    def check(self) -> None:
        """BrokerError where the connection is lost."""
        if self._lost is not None:
            raise BrokerError(self._lost)

    # ---- what is sent

    def hold(self, topic: str, payload: str) -> paho.MQTTMessageInfo:
        """A retained message, which the broker keeps; "" removes it."""
        return self._publish(topic, payload, AT_LEAST, True)

    def send(self, messages: dict[Key, str]) -> None:
        """Returns when the broker has handed all of them on. Those that it had already are not sent again."""
        for key, payload in messages.items():
            if not self.came_back(key):
                self._publish(key[0], payload, EXACTLY, False)
        topic = next(iter(messages))[0]
        why = f"it took a message and did not hand it back: may the station read and write {topic}?"
        self._wait(lambda: all(key in self._back for key in messages), why)

    def came_back(self, key: Key) -> bool:
        with self._changed:
            return key in self._back

    def settle(self, keys: Iterable[Key]) -> None:
        """The station's records have them: the broker need not keep them any more."""
        with self._changed:
            numbers = [self._back.pop(key) for key in keys if key in self._back]
        for number in numbers:
            self._watcher.ack(number, AT_LEAST)

    def _publish(self, topic: str, payload: str, quality: int, retain: bool) -> paho.MQTTMessageInfo:
        self.check()
        return self._publisher.publish(topic, payload.encode(), quality, retain)

    # ---- what comes

    def _came(self, client: paho.Client, data: Any, one: paho.MQTTMessage) -> None:
        if one.topic == self.topics.echo:
            with self._changed:
                self._words.add(one.payload.decode("ascii", "replace"))
                self._changed.notify_all()
            client.ack(one.mid, one.qos)
            return
        key, is_done = self._read(one)
        if is_done:  # noted before the broker heard so, or not ours
            client.ack(one.mid, one.qos)
            return
        with self._changed:
            before = self._back.get(key)
            self._back[key] = one.mid
            self._changed.notify_all()
        if before is not None and before != one.mid:
            client.ack(before, one.qos)

    def _read(self, one: paho.MQTTMessage) -> tuple[Key, bool]:
        try:
            envelope = json.loads(one.payload)
            return (one.topic, str(envelope["id"])), self.is_done(one.topic, envelope)
        except (ValueError, KeyError, TypeError, RecursionError):
            return (one.topic, ""), True

    # ---- clients

    def _client(self, name: str, *, clean: bool) -> paho.Client:
        """MQTT 3.1.1, which every broker speaks; nothing of MQTT 5 is needed."""
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            name,
            clean_session=clean,
            protocol=paho.MQTTv311,
            reconnect_on_failure=False,
            manual_ack=not clean,
        )
        client.connect_timeout = _CONNECTING
        client.on_connect = self._connected
        client.on_disconnect = self._disconnected
        client.on_subscribe = self._subscribed
        settings = self.settings
        if settings.user is not None:
            client.username_pw_set(settings.user, settings.password())
        if settings.place[2]:
            client.tls_set_context(tls_of(settings))
        return client

    def _connect(self, client: paho.Client) -> None:
        host, port, _ = self.settings.place
        with self._changed:
            self._answers.pop(id(client), None)
        try:
            client.connect(host, port, KEEPALIVE)
        except (OSError, ValueError) as error:
            raise BrokerError(f"it cannot be reached: {_words_of(error)}") from None
        client.loop_start()
        self._wait(lambda: id(client) in self._answers, "it does not answer")
        (reason,) = self._answers[id(client)]
        if reason.is_failure:
            raise BrokerError(f"it refuses the station: {reason}")

    def _subscribe(self, client: paho.Client, topics: list[str], quality: int) -> None:
        error, number = client.subscribe([(topic, quality) for topic in topics])
        if number is None:
            raise BrokerError(f"it cannot be subscribed to: {paho.error_string(error)}")
        self._wait(lambda: -number in self._answers, "it does not answer a subscription")
        for topic, reason in zip(topics, self._answers.pop(-number), strict=False):
            if reason.is_failure and topic not in self.also:
                raise BrokerError(f"it does not let the station read {topic}: give it the right to")

    def _connected(self, client: paho.Client, data: Any, flags: Any, reason: Any, properties: Any) -> None:
        with self._changed:
            self._answers[id(client)] = [reason]
            self._changed.notify_all()

    def _subscribed(self, client: paho.Client, data: Any, number: int, reasons: list[Any], more: Any) -> None:
        with self._changed:
            self._answers[-number] = reasons
            self._changed.notify_all()

    def _disconnected(self, client: paho.Client, data: Any, flags: Any, reason: Any, properties: Any) -> None:
        with self._changed:
            self._lost = self._lost or f"the connection is lost: {reason}"
            self._changed.notify_all()

    def _wait(self, condition: Callable[[], bool], why: str) -> None:
        ends = time.monotonic() + PATIENCE
        with self._changed:
            while not condition():
                left = ends - time.monotonic()
                if self._lost is not None or left <= 0:
                    raise BrokerError(self._lost or why)
                self._changed.wait(left)


def tls_of(settings: MqttSettings) -> ssl.SSLContext:
    """InputError where certificates cannot be read."""
    context = ssl.create_default_context()
    try:
        if settings.ca_file is not None:
            context.load_verify_locations(settings.ca_file)
        if settings.certificate_file is not None:
            context.load_cert_chain(settings.certificate_file, settings.key_file)
    except (OSError, ssl.SSLError) as error:
        named = settings.ca_file if settings.certificate_file is None else settings.certificate_file
        raise InputError(f"mqtt: cannot read certificates from {named}: {_words_of(error)}") from None
    return context


def _cut(client: paho.Client) -> None:
    """Without a word: what the broker has to say about a station that is gone, it says."""
    found = client.socket()
    if found is not None:
        found.close()


def _words_of(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or one_line(error)
