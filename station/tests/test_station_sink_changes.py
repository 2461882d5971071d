"""What waits for a sink when the settings change: all of it is sent, or it is told how much is not."""

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import pytest

from flawscope_station.sinks import UNDELIVERED, delivery, mqtt, webhook
from flawscope_station.sinks.delivery import UndeliveredError
from flawscope_station.sinks.mqtt import MqttSettings, MqttSink
from flawscope_station.sinks.outbox import INSPECTION, Message
from sink_changes_helpers import (
    MESSAGES,
    A,
    B,
    floor_fixture,  # noqa: F401
    hook,
    receivers_fixture,  # noqa: F401
)
from sink_helpers import Listener, Mosquitto, make_broker, new_folder
from station_helpers import NAME, until


@pytest.mark.skipif(Mosquitto.program() is None, reason="no Mosquitto: apt-get install mosquitto")
@pytest.mark.parametrize("more", [{}, {"topic": "another/{product}"}])
def test_what_waits_for_a_broker_goes_to_its_new_address(floor, more):
    floor.open((), make_broker(broker="mqtt://192.0.2.1"))
    floor.record()
    broker = Mosquitto(new_folder())
    broker.start()
    listener = Listener(broker.port, "#")
    try:
        sinks = floor.open((), make_broker(broker=broker.url, **more))
        sinks.start()
        numbers = set[int]()

        def all_came() -> bool:
            found = [one for _, one in list(listener.messages) if isinstance(one, dict)]
            numbers.update(one["data"]["id"] for one in found if one.get("type") == INSPECTION)
            return len(numbers) == MESSAGES

        until(all_came)
        assert not floor.told()
    finally:
        listener.close()
        broker.kill()


def test_one_of_several_changed_sinks_loses_nothing(floor):
    """Nobody knows which cursor was its: it goes on from the one that is furthest behind."""
    before = floor.open((A, B))
    floor.record()
    (_, first), (_, second) = before.for_product(NAME)
    first.advance(first.cursor._replace(inspection=90))
    first.save()
    assert (first.waiting(), second.waiting()) == (10, 100)
    (facts,) = floor.open((hook("http://192.0.2.7/b"),)).facts(NAME)
    assert facts["waiting"] == 100


def test_a_broker_that_goes_and_a_product_that_is_renamed_are_told(floor):
    floor.open((A,), make_broker(broker="mqtt://192.0.2.1"))
    floor.record()
    floor.open((A,))
    assert len(floor.told()) == 1
    assert "the mqtt sink of" in floor.told()[0]
    floor.open((A,), name="renamed")
    assert len(floor.told()) == 2
    assert UNDELIVERED in floor.problems, "of a product without pages"


def dripping(prefix: bytes, drop: bytes = b"x") -> tuple[int, Callable[[], None]]:
    """The port of a server that reads, and answers with a drop each tenth of a second, for ever."""
    listener, ended = socket.create_server(("127.0.0.1", 0)), threading.Event()

    def serve(one: socket.socket) -> None:
        with suppress(OSError), one:
            one.recv(65536)
            one.sendall(prefix)
            while not ended.wait(0.1):
                one.sendall(drop)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()

    def close() -> None:
        ended.set()
        listener.close()

    return listener.getsockname()[1], close


MESSAGE = Message(
    "id", "inspection.created", 0, 1, 1, None, {"decision": "good", "near": False, "product": "p"}
)


@pytest.mark.parametrize("begins", [b"", b"HTTP/1.1 2", b"HTTP/1.1 200 OK\r\nX-Slow: "])
def test_a_webhook_that_drips_its_answer_is_given_up(begins, monkeypatch):
    monkeypatch.setattr(webhook, "EXCHANGE_SECONDS", 1.0)
    port, close = dripping(begins)
    sink, begun = webhook.Webhook(webhook.WebhookSettings(f"http://127.0.0.1:{port}/")), time.monotonic()
    with pytest.raises(UndeliveredError):
        sink.send(MESSAGE)
    assert time.monotonic() - begun < 5
    sink.close()
    close()


def test_a_webhook_that_drips_the_body_of_a_good_answer_has_the_message(monkeypatch):
    monkeypatch.setattr(webhook, "MAX_ANSWER_SECONDS", 1.0)
    port, close = dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    sink, begun = webhook.Webhook(webhook.WebhookSettings(f"http://127.0.0.1:{port}/")), time.monotonic()
    for _ in range(2):
        sink.send(MESSAGE)
    assert time.monotonic() - begun < 10
    sink.close()
    close()


def test_a_broker_that_drips_is_given_up(monkeypatch):
    monkeypatch.setattr(mqtt, "ANSWER_TIMEOUT", 1.0)
    port, close = dripping(b"\x16\x03\x03\x40\x00", b"\x02")  # a TLS record that never ends
    sink = MqttSink(
        MqttSettings(f"mqtts://127.0.0.1:{port}"), delivery.MessagePictures(None, sender="f" * 12)
    )
    begun = time.monotonic()
    for _ in range(2):
        with pytest.raises(UndeliveredError, match="it does not answer"):
            sink.send(MESSAGE)
    assert time.monotonic() - begun < 10
    close()


def test_messages_that_each_take_long_are_a_problem_within_a_page(floor, receivers, monkeypatch):
    monkeypatch.setattr(delivery, "BEHIND_SECONDS", 0.5)
    receivers[0].delay = 0.2
    sinks = floor.open((hook(receivers[0].url),))
    floor.record()
    sinks.start()
    until(lambda: delivery.SLOW_TEXT in str([*floor.problems.values()]))
    assert len(receivers[0].taken) < delivery.PAGE_SIZE
