"""The station's broker: inspections and verdicts exactly once, states and problems as they are."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

from flawscope.errors import FlawscopeError, InputError
from flawscope.station.background import Background
from flawscope.station.settings.sinks import MqttSettings
from flawscope.station.sinks.broker import BrokerError, Key, Link, tls_of
from flawscope.station.sinks.delivery import BEHIND, SLOW, Counts, Report, in_words, spread, waits
from flawscope.station.sinks.discovery import birth_topic, device, device_topic
from flawscope.station.sinks.outbox import Outbox
from flawscope.station.sinks.topics import ONLINE, Topics

TOGETHER = 16  # messages on their way: brokers hold 20 for one client unless told otherwise
LOOK = 2.0  # seconds between two looks at the problems
STATE = 0.5  # seconds between two states of a product, at least
SHORTEST, LONGEST = 1.0, 60.0  # seconds before the next try
REMOVED = ""  # a retained message of nothing removes the one before

State = Callable[[int], dict[str, Any]]


class Mqtt(Background):
    """A thread with the only connection of a station to its broker.

    Args:
        outboxes: by product.
        state: of a product, by its number, for people and programs that look at it now and then.
        problems: what a person should see to.
        report: shows what is wrong with the broker, or ends it with None.
        gone: numbers of products that the settings do not name any more, with their names.
        forget: notes that the broker has nothing of such a product any more.

    Raises:
        InputError: the files that the settings name cannot be read.
    """

    def __init__(
        self,
        settings: MqttSettings,
        station: str,
        sender: str,
        outboxes: dict[str, Outbox],
        state: State,
        problems: Callable[[], list[dict[str, str]]],
        report: Report,
        address: str | None = None,
        gone: dict[int, str] | None = None,
        forget: Callable[[int], None] = lambda number: None,
    ):
        super().__init__("mqtt")
        self.settings, self.sender, self.outboxes = settings, sender, outboxes
        self.state, self.problems, self.report, self.address = state, problems, report, address
        self.gone, self.forget = gone or {}, forget
        self.topics = Topics(settings.topic, station)
        self.label = settings.label
        self.counts = {product: Counts() for product in outboxes}
        self.error: str | None = None
        self.is_connected = False
        self._by_topic = {
            self.topics.of(product, type): box
            for product, box in outboxes.items()
            for type in ("inspection.created", "verdict.given")
        }
        self._born = threading.Event()  # Home Assistant has started
        self._behind: float | None = None
        settings.password()
        if settings.place[2]:
            tls_of(settings)

    # ---- again and again

    def _work(self) -> None:
        delay = SHORTEST
        while not self._ended.is_set():
            try:
                self._connected()
                return
            except (BrokerError, InputError) as error:
                self._say(str(error))
            except FlawscopeError as error:
                self._say(f"messages cannot be read: {error}")
            except Exception as error:  # tried again; inspections go on
                self._say(in_words(error))
            delay = SHORTEST if self.is_connected else min(LONGEST, 2 * delay)
            self.is_connected = False
            self._ended.wait(spread(delay))

    def _connected(self) -> None:
        """Until the station ends. BrokerError where the connection is lost."""
        prefix = self.settings.discovery
        also = [] if prefix is None else [birth_topic(prefix)]
        link = Link(self.settings, self.topics, self.sender, self._by_topic, self._is_done, also, self._heard)
        try:
            link.open()
            _Session(self, link).run(self._wait)
            link.close(politely=True)
        except BaseException:
            for counts in self.counts.values():
                counts.failed += 1
            link.close()
            raise

    def _is_done(self, topic: str, envelope: dict[str, Any]) -> bool:
        box = self._by_topic.get(topic)
        if box is None:
            return True
        said = envelope["data"].get("said")
        if said is not None:
            return int(said["id"]) <= box.place.verdict
        return int(envelope["data"]["id"]) <= box.place.inspection

    def _heard(self, topic: str, data: bytes) -> None:
        if data == ONLINE.encode():
            self._born.set()
            self.wake()

    def born(self) -> bool:
        """Whether Home Assistant has started since this was asked."""
        was = self._born.is_set()
        self._born.clear()
        return was

    # ---- what a person should know

    def arrived(self) -> None:
        self.is_connected = True
        self._say(None)

    def is_behind(self, is_behind: bool) -> None:
        """There is more than was read at once."""
        if not is_behind:
            if self._behind is not None and self.error is None:
                self.report(None)
            self._behind = None
        else:
            self._behind = self._behind or time.monotonic()
            if time.monotonic() - self._behind > BEHIND and self.error is None:
                self.report(waits(self._waiting, self.label, SLOW))

    def _say(self, why: str | None) -> None:
        self.error = why
        self.report(None if why is None else waits(self._waiting, self.label, why))

    def _waiting(self) -> int:
        return sum(box.waiting() for box in self.outboxes.values())


class _Session:
    """What is done while there is a connection."""

    def __init__(self, mqtt: Mqtt, link: Link):
        self.mqtt, self.link = mqtt, link
        self.topics = mqtt.topics
        self._shown: dict[str, str] = {}  # retained topic -> payload
        self._changed = set(mqtt.outboxes)  # products whose state may be another one
        self._stated: dict[str, float] = {}  # when, by product
        self._looked = 0.0

    def run(self, wait: Callable[[float], bool]) -> None:
        """Until a wait says that the station ends."""
        self._remove_gone()
        self._introduce()
        self._hold(self.topics.status, ONLINE)
        self.mqtt.arrived()
        pause = 0.0
        while not wait(pause):
            more = [product for product in self.mqtt.outboxes if self._deliver(product)]
            self.mqtt.is_behind(bool(more))
            if self.mqtt.born():
                self._shown = {self.topics.status: ONLINE}
                self._changed = set(self.mqtt.outboxes)
                self._introduce()
            late = self._state()
            self._look()
            self.link.check()
            pause = 0.0 if more else STATE if late else LOOK

    def _deliver(self, product: str) -> bool:
        """The next messages of a product; whether there are more."""
        box = self.mqtt.outboxes[product]
        before = box.place
        batch = box.batch(TOGETHER)
        if batch.messages:
            sent: dict[Key, str] = {
                (self.topics.of(product, one.type), one.id): json.dumps(
                    one.envelope(), ensure_ascii=False, separators=(",", ":")
                )
                for one in batch.messages
            }
            self.link.send(sent)
            box.move(batch.end, delivered=len(sent))
            self.link.settle(sent)
            self.mqtt.counts[product].delivered += len(sent)
        elif batch.end != before:
            box.move(batch.end, save=False)
        if batch.end != before:
            self._changed.add(product)
        return not batch.is_last

    # ---- retained

    def _state(self) -> bool:
        """States that changed; whether there are some for which it is too soon."""
        now = time.monotonic()
        for product in list(self._changed):
            if now - self._stated.get(product, 0.0) >= STATE:
                self._changed.discard(product)
                self._stated[product] = now
                state = self.mqtt.state(self.mqtt.outboxes[product].product_id)
                self._hold(self.topics.state(product), json.dumps(state, ensure_ascii=False))
        return bool(self._changed)

    def _look(self) -> None:
        now = time.monotonic()
        if now - self._looked >= LOOK:
            self._looked = now
            problems = self.mqtt.problems()
            text = json.dumps({"count": len(problems), "problems": problems}, ensure_ascii=False)
            self._hold(self.topics.problem, text)

    def _introduce(self) -> None:
        prefix = self.mqtt.settings.discovery
        if prefix is None:
            return
        for product, box in self.mqtt.outboxes.items():
            about = device(self.topics, product, self.mqtt.sender, box.product_id, self.mqtt.address)
            topic = device_topic(prefix, self.mqtt.sender, box.product_id)
            self._hold(topic, json.dumps(about, ensure_ascii=False))

    def _remove_gone(self) -> None:
        prefix = self.mqtt.settings.discovery
        for number, product in list(self.mqtt.gone.items()):
            topics = [self.topics.state(product)]
            topics += [] if prefix is None else [device_topic(prefix, self.mqtt.sender, number)]
            for topic in topics:
                self.link.hold(topic, REMOVED).wait_for_publish(5.0)
            self.mqtt.forget(number)
            del self.mqtt.gone[number]

    def _hold(self, topic: str, payload: str) -> None:
        if self._shown.get(topic) != payload:
            self.link.hold(topic, payload)
            self._shown[topic] = payload
