"""Messages that their receiver can never take, and a station that is not alone at its broker."""

import errno
from types import SimpleNamespace
from typing import Any

import pytest

from flawscope.errors import InputError
from flawscope_station.sinks.delivery import MAX_REFUSALS, Delivery, Sink, UndeliveredError
from flawscope_station.sinks.folder import FolderSink, FolderSinkSettings
from flawscope_station.sinks.mqtt import (
    OFFLINE,
    ONLINE,
    OTHER_STATION_SECONDS,
    RENEWAL_SECONDS,
    MqttSettings,
    MqttSink,
)
from flawscope_station.store.database import StoreError


def message(id: str = "s-1-1") -> Any:
    data = {"product": "plate", "views": [], "part": "4711"}
    envelope = lambda **more: {"id": id, **data}  # noqa: E731
    return SimpleNamespace(id=id, type="inspection.made", number=1, at=0, data=data, envelope=envelope)


class Broker:
    """In place of the library's client. cuts: a message of so many bytes ends the connection."""

    def __init__(self, sink: MqttSink, cuts: int = 10**9):
        self.sink, self.cuts, self.taken = sink, cuts, list[tuple[str, bytes]]()
        sink._client = self  # type: ignore[assignment]
        sink._lost_reason = None
        sink._connect = self._connect  # type: ignore[method-assign]

    def _connect(self) -> None:
        self.sink._lost_reason, self.sink._is_cut = None, False

    def publish(self, topic: str, payload: bytes, quality: int, retain: bool) -> Any:
        if len(payload) >= self.cuts:
            self.sink._lost_reason, self.sink._is_cut = "the connection is lost: Unspecified error", True
            return SimpleNamespace(is_published=lambda: False, wait_for_publish=lambda seconds: None)
        self.taken.append((topic, payload))
        return SimpleNamespace(is_published=lambda: True)


@pytest.fixture
def mqtt() -> MqttSink:
    context: Any = SimpleNamespace(
        problems=list, products={}, removed=(), renderings=None, sender="0123", station="line"
    )
    sink = MqttSink(MqttSettings("mqtt://127.0.0.1"), context)
    sink.label, sink.outboxes = sink.settings.label, []
    return sink


def test_a_message_at_which_the_broker_ends_the_connection_is_to_blame(mqtt):
    """The same connection took the station's status before."""
    Broker(mqtt, cuts=10)
    with pytest.raises(UndeliveredError, match=r"at this message of 0\.1 kB: let it take larger") as refused:
        mqtt.send(message())
    assert refused.value.blames_message


def test_a_broker_that_does_not_acknowledge_blames_no_message(mqtt, monkeypatch):
    monkeypatch.setattr("flawscope_station.sinks.mqtt.ANSWER_TIMEOUT", 0.0)
    broker = Broker(mqtt)
    silent = SimpleNamespace(is_published=lambda: False, wait_for_publish=lambda seconds: None)
    monkeypatch.setattr(broker, "publish", lambda *given: silent)
    monkeypatch.setattr(MqttSink._publish, "__defaults__", (False, 0.0))
    with pytest.raises(UndeliveredError, match="does not acknowledge") as refused:
        mqtt.send(message())
    assert not refused.value.blames_message


def test_a_state_that_the_broker_does_not_take_holds_up_no_messages(mqtt):
    broker = Broker(mqtt, cuts=25)
    for _ in range(MAX_REFUSALS):
        with pytest.raises(UndeliveredError):
            mqtt.refresh()
    mqtt.refresh()
    broker.cuts = 10**9
    mqtt.send(message())
    assert [topic for topic, _ in broker.taken] == ["flawscope/line/plate/inspection"]


def heard(sink: MqttSink, payload: str, retain: bool = False) -> None:
    sink._hear_status(None, None, SimpleNamespace(payload=payload.encode(), retain=retain))  # type: ignore[arg-type]


def test_a_station_hears_another_one_of_its_name(mqtt, monkeypatch):
    """As after a copied settings file; the other one hears this one's renewal."""
    broker, time = Broker(mqtt), SimpleNamespace(monotonic=lambda: at[0])
    at = [1000.0]
    monkeypatch.setattr("flawscope_station.sinks.mqtt.time", time)
    mqtt._write_status()
    heard(mqtt, OFFLINE, retain=True)
    heard(mqtt, ONLINE)  # its own
    assert mqtt.remark is None
    heard(mqtt, ONLINE)
    assert "another station writes to flawscope/line/status" in str(mqtt.remark)
    mqtt.refresh()
    status = ("flawscope/line/status", ONLINE.encode())
    assert broker.taken.count(status) == 2, "so that the other one hears it"
    heard(mqtt, ONLINE)  # its own
    heard(mqtt, ONLINE)
    mqtt.refresh()
    assert broker.taken.count(status) == 2, "not each time"
    heard(mqtt, OFFLINE)
    mqtt.refresh()
    assert broker.taken.count(status) == 3, "it is online, whoever has ended"
    at[0] += RENEWAL_SECONDS + OTHER_STATION_SECONDS
    assert mqtt.remark is None, "the other one has gone"


class Picky(Sink):
    """Takes all but the first message."""

    kind, label, remark = "picky", "picky", "mind the gap"  # type: ignore[assignment]

    def __init__(self, error: Exception):
        self.error, self.tries = error, 0

    def send(self, message: Any) -> None:
        self.tries += 1
        raise self.error


@pytest.mark.parametrize(
    ("error", "is_blamed"),
    [
        (UndeliveredError("it answered 422", blames_message=True), True),
        (InputError("the picture is damaged"), True),
        (UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates"), True),
        (UndeliveredError("it cannot be reached"), False),
        (OSError(113, "No route"), False),
        (StoreError("it is away", "store_unreachable"), False),
    ],
)
def test_a_message_that_cannot_be_taken_is_given_up_after_six_tries(error, is_blamed):
    given_up, kept, one = list[str](), list[str](), message()
    one.verdict = None
    undelivered = SimpleNamespace(keep=lambda inspection, verdict, why: kept.append(why))
    box = SimpleNamespace(failed=0, undelivered=undelivered)
    delivery = Delivery(Picky(error), [], lambda why: None, lambda refused, why: given_up.append(why))
    for _ in range(MAX_REFUSALS - 1):
        with pytest.raises(type(error)):
            delivery._send_message(box, one)  # type: ignore[arg-type]
    if is_blamed:
        assert not delivery._send_message(box, one)  # type: ignore[arg-type]
        assert given_up == kept == [str(error)]
    else:
        with pytest.raises(type(error)):
            delivery._send_message(box, one)  # type: ignore[arg-type]
        assert given_up == []


def test_a_sinks_remark_is_told_while_messages_are_taken():
    told = list[str | None]()
    delivery = Delivery(Picky(OSError()), [], lambda why: None, report_remark=told.append)
    delivery._deliver_pages()
    assert told == ["mind the gap"]


@pytest.mark.parametrize(
    ("number", "is_blamed"),
    [(errno.ENAMETOOLONG, True), (errno.EFBIG, True), (errno.ENOSPC, False), (errno.EIO, False)],
)
def test_a_folder_that_takes_no_such_name_blames_the_message(tmp_path, monkeypatch, number, is_blamed):
    sink = FolderSink(FolderSinkSettings(str(tmp_path)), None)  # type: ignore[arg-type]

    def refuse(*given: Any) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr(sink, "_write_message", refuse)
    with pytest.raises(UndeliveredError) as refused:
        sink.send(message())
    assert refused.value.blames_message is is_blamed
