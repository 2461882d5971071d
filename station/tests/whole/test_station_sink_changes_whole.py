"""What waits for a sink when the settings change: all of it is sent, or it is told how much is not."""

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flawscope_station.settings.sinks import SinkSettings
from flawscope_station.sinks import UNDELIVERED, delivery, mqtt, webhook
from flawscope_station.sinks.delivery import UndeliveredError
from flawscope_station.sinks.mqtt import MqttSettings, MqttSink
from flawscope_station.sinks.outbox import INSPECTION, Message
from sink_changes_helpers import (
    MESSAGES,
    NAMED,
    A,
    B,
    SinkTuple,
    floor_fixture,  # noqa: F401
    hook,
    receivers_fixture,  # noqa: F401
)
from sink_helpers import Listener, Mosquitto, make_broker, make_sink, new_folder
from station_helpers import NAME, until


def directory(path: Path, **more: Any) -> SinkSettings:
    return make_sink(folder=str(path), picture="none", **more)


# What the settings say afterwards, from the addresses of three receivers and a folder; and how many sinks are
# told to have gone with what waited for them
WAYS: dict[str, tuple[Callable[[list[str], Path], SinkTuple], int]] = {
    "another token": (lambda to, path: (hook(to[0] + "?token=2"), B, NAMED), 0),
    "another host, port and path": (lambda to, path: (hook(to[0]), B, NAMED), 0),
    "all addresses": (lambda to, path: (hook(to[0]), hook(to[1]), hook(to[2], name="mes")), 0),
    "the named one's address": (lambda to, path: (A, B, hook(to[0], name="mes")), 0),
    "another order": (lambda to, path: (NAMED, B, A), 0),
    "another order and one address": (lambda to, path: (NAMED, hook(to[0]), A), 0),
    "another order and two addresses": (lambda to, path: (hook(to[0]), NAMED, hook(to[1])), 0),
    "one in front": (lambda to, path: (directory(path), A, B, NAMED), 0),
    "one in front and an address": (lambda to, path: (directory(path), hook(to[0]), B, NAMED), 0),
    "one added at the end": (lambda to, path: (A, B, NAMED, hook(to[0], name="new")), 0),
    "the first goes": (lambda to, path: (B, NAMED), 1),
    "the first goes, the second's address changes": (lambda to, path: (hook(to[0]), NAMED), 1),
    "the named one goes": (lambda to, path: (A, B), 1),
    "all go": (lambda to, path: (), 3),
    "it gets a name": (lambda to, path: (replace(A, name="first"), B, NAMED), 0),
    "it loses its name": (lambda to, path: (A, B, hook(to[0])), 0),
    "another name": (lambda to, path: (A, B, replace(NAMED, name="erp")), 1),
    "another kind": (lambda to, path: (directory(path), B, NAMED), 1),
    "only anomalous ones, and signed": (lambda to, path: (hook(to[0], verdicts=False), B, NAMED), 0),
    "nothing": (lambda to, path: (A, B, NAMED), 0),
}


@pytest.mark.parametrize("way", WAYS)
def test_what_waits_is_sent_or_told(way, floor, receivers, tmp_path):
    change, gone = WAYS[way]
    before = floor.open((A, B, NAMED))
    floor.record()
    assert [one["waiting"] for one in before.facts(NAME)] == [MESSAGES] * 3
    after = change([one.url for one in receivers], tmp_path / "out")
    facts = floor.open(after).facts(NAME)
    fresh = ["new" in one["name"] or one["kind"] == "folder" for one in facts]
    fresh = [one or (way == "another name" and facts[at]["name"] == "erp") for at, one in enumerate(fresh)]
    assert [one["waiting"] for one in facts] == [0 if one else MESSAGES for one in fresh]
    assert len(floor.told()) == gone
    assert all(f"{MESSAGES} records" in text for text in floor.told())
    told = [text for code, text in floor.problems.items() if code.startswith(UNDELIVERED) and text]
    assert sum(text.count(f"{MESSAGES} records") for text in told) == gone
    floor.opened[-1].start()
    wanted = [one.address for one in after]
    for receiver in receivers:
        if any(address.startswith(receiver.url) for address in wanted) and way != "one added at the end":
            until(lambda one=receiver: len(one.taken) >= MESSAGES)
            assert len({one.json["id"] for one in receiver.taken}) == MESSAGES


# The same of folders; the first cannot be written. To which folder the messages go; None: they are told
FOLDER_WAYS: dict[str, tuple[Callable[[Path, str], SinkTuple], str | None]] = {
    "another path": (lambda path, to: (directory(path / "new"),), "new"),
    "the same, and it can be written": (lambda path, to: (directory(path / "old"),), "old"),
    "another path and one in front": (lambda path, to: (hook(to), directory(path / "new")), "new"),
    "it gets a name": (lambda path, to: (directory(path / "old", name="archive"),), "old"),
    "a name and another path": (lambda path, to: (directory(path / "new", name="archive"),), None),
    "without verdicts": (lambda path, to: (directory(path / "new", verdicts=False),), "new"),
    "it goes": (lambda path, to: (), None),
    "a webhook in its place": (lambda path, to: (hook(to),), None),
}


@pytest.mark.parametrize("way", FOLDER_WAYS)
def test_what_waits_for_a_folder_is_written_or_told(way, floor, receivers, tmp_path):
    change, folder = FOLDER_WAYS[way]
    floor.open((directory(tmp_path / "old"),))
    floor.record()
    sinks = floor.open(change(tmp_path, receivers[0].url))
    assert [text.count(f"{MESSAGES} records") for text in floor.told()] == ([] if folder else [1])
    sinks.start()
    if folder:
        until(lambda: len([*(tmp_path / folder).rglob("*.json")]) == MESSAGES)
    assert all(one["waiting"] == 0 for one in floor.opened[-1].facts(NAME) if one["kind"] != "folder")


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
