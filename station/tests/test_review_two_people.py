"""Two people at one review: nobody gets what another one has, and no verdict replaces another's unasked."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from flawscope_station.core.queries import Records
from flawscope_station.core.review_leases import LEASE_SECONDS
from flawscope_station.inspecting.memory import Turns
from flawscope_station.store.records import VERDICT_EVENT, DecidedError
from station_helpers import taken
from store_helpers import BEGIN, Filled, filled_fixture  # noqa: F401

pytestmark = pytest.mark.both_databases


@pytest.fixture(name="waiting")
def waiting_fixture(filled) -> list[int]:
    """Seven parts that wait for a verdict."""
    before = {*filled.rows}
    bad = {"score": 2.0, "severity": 1.0, "score_threshold": 1.0, "anomalous": True}
    filled.add([taken(filled.product, filled.versions[0], at=BEGIN + k, **bad) for k in range(7)])
    for number in before & {one["id"] for one in filled.store.waiting(filled.product, 1000)["inspections"]}:
        filled.store.add_verdict(filled.product, number, "good", "before")
    return sorted({*filled.rows} - before)


class Clocked(Records):
    """Records whose leases have a clock of their own."""

    def __init__(self, filled: Filled):
        super().__init__(filled.store, Turns(2))
        self.product, self.now = filled.product, 0.0
        self._leases._clock = lambda: self.now

    def given(self, reader: str, limit: int = 6) -> list[int]:
        return [one["id"] for one in self.waiting(self.product, limit, reader=reader)["inspections"]]


@pytest.fixture(name="records")
def records_fixture(filled, waiting) -> Clocked:
    return Clocked(filled)


def test_of_a_short_queue_each_reader_gets_other_parts_and_the_last_one_none(records, waiting):
    given = [records.given(name) for name in ("anna", "bob", "carl", "dora")]
    assert given == [waiting[:4], waiting[4:6], waiting[6:], []]
    assert records.waiting(records.product, 6, reader="dora")["waiting"] == 7, "it says that some wait"
    assert records.given("anna") == waiting[:4], "one's own come again"


@pytest.mark.parametrize("count", [1, 2, 3, 20, 21])
def test_whatever_waits_no_two_readers_get_the_same_part(filled, waiting, count):
    more = [
        taken(filled.product, filled.versions[0], at=BEGIN, anomalous=True) for _ in range(max(0, count - 7))
    ]
    filled.add(more)
    for number in waiting[: max(0, 7 - count)]:
        filled.store.add_verdict(filled.product, number, "good", "anna")
    records, given = Clocked(filled), list[int]()
    for reader in map(str, range(count + 2)):
        given += records.given(reader)
    assert len(given) == len({*given}) == count


def test_a_lease_ends_with_the_verdict_with_the_reader_and_with_time(records, waiting):
    assert records.given("anna") == waiting[:4]
    records.store.add_verdict(records.product, waiting[0], "good", "anna")
    records.now = LEASE_SECONDS - 1
    records.note_verdict(records.product, waiting[0], "anna")  # who decides goes on
    records.store.add_verdict(records.product, waiting[0], "undo", "anna")
    assert records.given("bob", 1) == waiting[:1], "what is decided, and taken back, is anybody's"
    records.now += LEASE_SECONDS - 1
    assert waiting[1] not in records.given("carl")
    records.now += 2
    assert records.given("dora", 3) == waiting[:3], "nobody decided for five minutes"
    records.release("dora")
    assert records.given("emil", 3) == waiting[:3]


def decide(filled: Filled, number: int, verdict: str, who: str, **more: Any) -> dict[str, Any]:
    return filled.store.add_verdict(filled.product, number, verdict, who, **more)


def test_a_verdict_that_would_replace_another_persons_is_a_question(filled, waiting):
    number = waiting[0]
    first = decide(filled, number, "defect", "anna", replaces=0)
    for replaces in (0, None):
        with pytest.raises(DecidedError, match="anna said defect on inspection") as caught:
            decide(filled, number, "good", "bob", replaces=replaces)
    assert (caught.value.status, caught.value.code) == (409, "decided")
    held = caught.value.details
    assert (held["verdict"], held["by"], held["verdict_id"]) == ("defect", "anna", first["verdict_id"])
    assert filled.store.inspection(filled.product, number)["verdict"] == "defect", "nothing was replaced"
    assert decide(filled, number, "good", "bob", replaces=held["verdict_id"])["verdict_by"] == "bob"
    (event, *_) = filled.store.events(VERDICT_EVENT, filled.product)
    assert event.text == f"good on inspection {number}, replaces defect by anna"
    with pytest.raises(DecidedError):  # nor is it taken back by another one
        decide(filled, number, "undo", "anna")
    taken_back = decide(filled, number, "undo", "bob")
    assert (taken_back["verdict"], taken_back["verdict_by"]) == ("defect", "anna")


def test_two_windows_of_one_person_are_asked_too(filled, waiting):
    """On a station without users everybody has the same name."""
    decide(filled, waiting[0], "defect", "local", replaces=0)
    with pytest.raises(DecidedError):
        decide(filled, waiting[0], "good", "local", replaces=0)
    assert decide(filled, waiting[0], "good", "local")["verdict"] == "good", "a program's own is replaced"


def test_a_skip_decides_nothing_and_a_request_sent_again_is_no_question(filled, waiting):
    decide(filled, waiting[0], "skip", "anna", replaces=0)
    said = [decide(filled, waiting[0], "defect", "bob", replaces=0, key="k") for _ in range(2)]
    assert said[0] == said[1]
    with pytest.raises(DecidedError):
        decide(filled, waiting[0], "skip", "anna", replaces=0)
    decide(filled, waiting[0], "undo", "bob")
    with pytest.raises(DecidedError, match="has no verdict any more"):
        decide(filled, waiting[0], "good", "carl", replaces=said[0]["verdict_id"])


def test_of_two_verdicts_at_one_moment_one_is_taken_and_one_is_a_question(filled, waiting):
    def say(given: tuple[int, str]) -> bool:
        number, who = given
        try:
            decide(filled, number, "good" if who == "anna" else "defect", who, replaces=0)
        except DecidedError:
            return False
        return True

    rounds = [(number, who) for number in waiting for who in ("anna", "bob")]
    with ThreadPoolExecutor(8) as pool:
        taken_ones = list(pool.map(say, rounds))
    assert [taken_ones[k] + taken_ones[k + 1] for k in range(0, len(rounds), 2)] == [1] * len(waiting)
