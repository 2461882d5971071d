"""Messages that the other side refused for good can be sent again, also after a start."""

from types import SimpleNamespace
from typing import Any

import pytest

from flawscope_station.sinks import undelivered as undelivered_module
from flawscope_station.sinks.delivery import MAX_REFUSALS, Delivery, UndeliveredError
from flawscope_station.sinks.outbox import Outbox
from flawscope_station.sinks.undelivered import Undelivered
from flawscope_station.store.database import Database
from flawscope_station.store.records import Store
from station_helpers import NAME, add_version, taken

KEY = "webhook:1:1"


class Hub:
    """Other side that refuses all messages, until it is `open`."""

    kind, label = "webhook", "mes"

    def __init__(self) -> None:
        self.is_open, self.taken = False, list[str]()

    def send(self, message: Any) -> None:
        if not self.is_open:
            raise UndeliveredError("422: no such field", blames_message=True)
        self.taken.append(message.id)

    def refresh(self) -> float:
        return 1.0


def deliver(database: Database, product: int, hub: Hub) -> Outbox:
    """Deliver all that waits, as after a start."""
    box = Outbox(database, product, NAME, KEY, station="s", sender="1", address=None)
    delivery = Delivery(hub, [box], lambda why: None)  # type: ignore[arg-type]
    for _ in range(10 * MAX_REFUSALS):
        try:
            delivery._deliver_pages()
            if not box.is_due:
                return box
        except UndeliveredError:
            continue
    raise AssertionError("it never ends")


@pytest.fixture
def refused(database):
    """A product of which an inspection and a verdict on it were refused, and their receiver."""
    store, hub = Store(database), Hub()
    product, version = add_version(database)
    deliver(database, product, hub)
    ((number, _),) = store.record([taken(product, version)])
    store.add_verdict(product, number, "good", "anna")
    box = deliver(database, product, hub)
    assert (box.delivered, box.refused, hub.taken) == (0, 2, [])
    return SimpleNamespace(database=database, product=product, number=number, hub=hub)


@pytest.mark.both_databases
def test_they_are_told_and_sent_again_when_a_person_wants_it(refused):
    kept = Undelivered(refused.database, refused.product, KEY)
    facts = kept.facts()
    assert {(one["inspection"], one["verdict"], one["again"]) for one in facts} == {
        (refused.number, None, False),
        (refused.number, 1, False),
    }
    assert facts[0]["why"] == "422: no such field"
    refused.hub.is_open = True
    deliver(refused.database, refused.product, refused.hub)
    assert refused.hub.taken == [], "nobody wanted it"
    assert kept.request_again() == 2
    box = deliver(refused.database, refused.product, refused.hub)
    assert sorted(one.partition("-")[0] for one in refused.hub.taken) == ["inspection", "verdict"]
    assert (kept.count(), box.delivered) == (0, 2)


def test_what_is_refused_again_stays_and_keeps_nothing_else_from_being_sent(refused):
    kept = Undelivered(refused.database, refused.product, KEY)
    kept.request_again()
    deliver(refused.database, refused.product, refused.hub)
    assert [one["again"] for one in kept.facts()] == [False, False]


def test_the_latest_are_kept(refused, monkeypatch):
    monkeypatch.setattr(undelivered_module, "MAX_KEPT", 1)
    kept = Undelivered(refused.database, refused.product, KEY)
    kept.request_again()
    deliver(refused.database, refused.product, refused.hub)
    assert kept.count() == 1


def test_a_message_whose_record_is_gone_is_forgotten(refused):
    kept = Undelivered(refused.database, refused.product, KEY)
    kept.keep(999, None, "gone")
    kept.request_again()
    refused.hub.is_open = True
    deliver(refused.database, refused.product, refused.hub)
    assert kept.count() == 0
