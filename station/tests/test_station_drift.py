"""Drift in a station: from what is recorded to what a person sees, over restarts, and what drift and a person
do to each other."""

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from flawscope_station.drift import monitor as drifts
from flawscope_station.drift.monitor import DriftMonitor
from flawscope_station.drift.score_test import Change, ScoreTest
from flawscope_station.store.database import StoreError
from station_helpers import PATIENCE


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """As often as a test looks."""
    monkeypatch.setattr(drifts, "ROUND_INTERVAL", 0.02)
    monkeypatch.setattr(drifts, "IDLE_INTERVAL", 0.2)


Told = list[tuple[str, str | None]]


def drifts_of(bounds: dict[int, float], told: Told) -> DriftMonitor:
    """Whose store is empty."""
    store: Any = SimpleNamespace(database=None, events=lambda *asked: [], note_event=lambda *event: None)
    versions: Any = SimpleNamespace(active=lambda product_id: (1, None))
    names = {number: f"product {number}" for number in bounds}
    made = DriftMonitor(store, versions, names, lambda *report: told.append(report))
    for number, bound in bounds.items():
        made.add_product(number, bound)
    made._begin = lambda product_id, version: ScoreTest(version, 0, bounds[product_id])
    made._read_rows = lambda product_id, run: []
    return made


def test_an_alarm_that_is_acknowledged_while_it_is_told_does_not_come_again():
    told: Told = []
    drifts = drifts_of({1: 0.01}, told)
    run = drifts._tests[1] = ScoreTest(1, 0, 0.01)
    run.alarm = Change(5, 0, 1, "higher", 0.9)
    tell, person = drifts._report_alarm, threading.Thread(target=drifts.acknowledge, args=(1, "anna"))

    def meanwhile(product_id: int, alarm: Change | None) -> None:
        if not person.is_alive() and person.ident is None:
            person.start()
            person.join(0.2)  # a person does not get in between; where one does, it is over by now
        tell(product_id, alarm)

    drifts._report_alarm = meanwhile
    drifts.update(1)
    person.join(PATIENCE)
    alarms = [why for code, why in told if code == "drift_1"]
    assert alarms[0] is not None
    assert alarms[1:] == [None]


def test_an_alarm_that_was_acknowledged_before_it_is_told_is_not_told():
    told: Told = []
    drifts = drifts_of({1: 0.01}, told)
    run = drifts._tests[1] = ScoreTest(1, 0, 0.01)
    run.alarm = Change(5, 0, 1, "higher", 0.9)
    free, events = drifts._lock, []

    class Lock:
        """A person is quicker."""

        def __enter__(self) -> None:
            drifts._lock = free
            drifts.acknowledge(1, "anna")
            events.append("acknowledged")
            free.acquire()

        def __exit__(self, *error: Any) -> None:
            free.release()

    drifts._lock = Lock()
    drifts.update(1)
    drifts._lock = free
    assert [why for code, why in told if code == "drift_1"] == [None]
    assert events == ["acknowledged"]
    assert 1 in drifts._dirty, "what came since is counted at the next look"


def test_the_trouble_of_one_product_is_not_the_others():
    told: Told = []
    drifts = drifts_of({1: 0.01, 2: 0.01}, told)

    def follow(product_id: int) -> None:
        drifts._dirty.discard(product_id)
        if product_id == 1:
            raise StoreError("it is away", "store_unreachable")

    drifts.update = follow
    waits = iter([False])
    drifts._wait = lambda seconds=None: next(waits, True)
    drifts.pause = 0.0
    drifts._work()
    assert drifts._dirty == {1}
    assert told == [("drift_unknown", "drift is not followed: it is away")]


def test_where_there_is_nothing_to_acknowledge_nothing_is_noted():
    drifts, noted = drifts_of({1: 0.01}, []), []
    drifts.store = SimpleNamespace(note_event=lambda *event: noted.append(event))
    test = drifts._tests[1] = ScoreTest(1, 0, 0.01)
    drifts.acknowledge(1, "anna")
    assert (noted, drifts._tests[1] is test) == ([], True)
    test.alarm = Change(5, 0, 1, "higher", 0.9)
    drifts.acknowledge(1, "anna")
    assert [event[:2] for event in noted] == [("drift acknowledged", "anna")]
