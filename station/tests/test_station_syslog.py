"""Events go to a syslog server, each once and in their order, whatever the server does meanwhile."""

import json
import logging

import pytest

from flawscope.errors import InputError
from flawscope_station.core.syslog import EventForwarder
from flawscope_station.settings.values import split_host_port
from flawscope_station.store.files import Files
from flawscope_station.store.records import Store


@pytest.fixture
def forwarder(database, tmp_path):
    """It sends to a list; `sent.error` is raised instead."""

    def make() -> EventForwarder:
        made = EventForwarder("127.0.0.1:9", "line3", database, Files(tmp_path / "store"), lambda *_: None)
        made._handler = Sent()  # type: ignore[assignment]
        return made

    return make


class Sent:
    """In the place of a handler."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.error: Exception | None = None

    def emit(self, record: logging.LogRecord) -> None:
        if self.error is not None:
            raise self.error
        self.lines.append(record.getMessage())

    def close(self) -> None:
        pass


def texts(sent: Sent) -> list[str]:
    return [json.loads(line)["text"] for line in sent.lines]


def test_events_are_sent_from_the_first_start_on_also_those_of_a_pause(database, forwarder):
    store, one = Store(database), forwarder()
    product = store.add_product("plate")
    store.note_event("x", "anna", "before", product)
    sent = one._handler
    one.forward()
    store.note_event("x", "anna", "first\nline %s", product)
    one.forward()
    assert texts(sent) == [], "a transaction that began before may end after"
    one.forward()
    one.forward()
    assert texts(sent) == ["first\nline %s"]
    assert "\n" not in sent.lines[0]
    known = json.loads(sent.lines[0])
    assert (known["station"], known["who"], known["product"], known["kind"]) == (
        "line3",
        "anna",
        "plate",
        "x",
    )
    store.note_event("x", "anna", "while it stood still")
    again = forwarder()
    sent = again._handler
    again.forward()
    again.forward()
    assert texts(sent) == ["while it stood still"]


def test_what_could_not_be_sent_is_sent_again(database, forwarder, monkeypatch):
    store, one = Store(database), forwarder()
    one.forward()
    store.note_event("x", "anna", "lost?")
    one.forward()
    one._handler.error = OSError("unreachable")
    with pytest.raises(OSError, match="unreachable"):
        one.forward()
    one._handler = Sent()
    one.forward()
    assert texts(one._handler) == ["lost?"]


@pytest.mark.parametrize(
    "text", ["log.example", "log.example:0", "udp://log:514", "a:b@log:514", "log:99999", ":5"]
)
def test_what_is_no_server_is_refused(text):
    with pytest.raises(InputError, match="syslog"):
        split_host_port(text, "syslog")
    assert split_host_port("[::1]:514", "syslog") == ("::1", 514)
