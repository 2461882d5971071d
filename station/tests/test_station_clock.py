"""A wrong clock removes nothing, is told, and changes no order; an honest pause bothers nobody."""

from __future__ import annotations

import re
from itertools import count

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete

from flawscope_station.access import audit
from flawscope_station.client import Client
from flawscope_station.store.clock import Clock
from flawscope_station.store.database import now
from flawscope_station.store.records import Store
from flawscope_station.store.schema import HOUR, inspections
from station_helpers import add_version, taken

DAY = 24 * HOUR
BEGUN = now()


@pytest.fixture
def computer(database):
    """`computer(days)`: the clock of a station that starts when the computer's shows so many days later."""

    def start(days: float) -> Clock:
        clock = Clock(database, lambda: BEGUN + round(days * DAY))
        clock.check()
        return clock

    return start


@pytest.fixture
def record(database):
    """Adds an inspection of so many days later; its number."""
    numbers, store, name = add_version(database), Store(database), count()

    def add(days: float) -> int:
        at = BEGUN + round(days * DAY)
        return store.record([taken(*numbers, at=at, picture=f"{next(name):064}")])[0][0]

    return add


@pytest.mark.parametrize("days", [400, -9000, 22, -0.1])
def test_a_clock_that_cannot_be_right_is_told_until_it_is_set_or_confirmed(computer, days):
    computer(1)
    for _ in range(3):  # also when it is started again and again
        clock = computer(1 + days)
        far = f"{abs(days)} days" if abs(days) > 2 else "2 hours"
        assert f"{far} {'ahead of' if days > 0 else 'behind'}" in clock.problem
    assert computer(1.5).problem == "", "it was set right"
    clock = computer(1 + days)
    clock.confirm()
    assert clock.problem == ""
    assert computer(1.1 + days).problem == "", "it was confirmed"


def test_pauses_and_small_corrections_bother_nobody(computer):
    for days in (0, 0.5, 0.48, 3, 24, 23.97):
        assert computer(days).problem == "", days
    assert computer(23.9).problem


def test_a_wrong_time_makes_no_record_old_and_none_young(computer, record):
    """Records of a clock that was wrong meanwhile, long ago or far ahead, go with those beside them."""
    numbers = [record(days) for days in (0, 9000, 1, -9000, 2, 9000)]
    for days, newest in ((0.9, 0), (1.9, 1), (2.9, 4), (3.9, 5)):
        clock = computer(days)
        assert clock.problem == ""
        assert clock.newest_older_than(DAY) == ([0, *numbers][newest]), days


@given(st.lists(st.integers(-50, 50), min_size=1, max_size=30), st.integers(0, 40), st.integers(1, 30))
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_nothing_that_is_young_is_ever_old(computer, record, database, days, later, age):
    with database.writing() as connection:
        connection.execute(delete(inspections))
    of = {record(day): day for day in days}
    clock = computer(0)
    clock.confirm()
    clock.at = BEGUN + later * DAY
    newest = clock.newest_older_than(age * DAY)
    assert not [n for n, day in of.items() if n <= newest and later - age < day <= later]
    assert newest == 0 or of[newest] <= later - age
    clock.at += 3 * DAY  # asked again, it goes on from where it was, also for a longer and a shorter age
    for other in (age + 2, age, max(1, age - 2)):
        newest = clock.newest_older_than(other * DAY)
        assert not [n for n, day in of.items() if n <= newest and later + 3 - other < day <= later]
        assert newest == 0 or of[newest] <= later + 3 - other


def test_a_jump_is_told_everywhere_and_ends_when_an_engineer_confirms(running, parts, monkeypatch):
    station, clock = running.station, running.station.housekeeping.clock
    said: list[str] = []
    monkeypatch.setattr(station.health._problems, "say", said.append)
    with Client(running.url) as client:
        client.inspect(parts[0], name="before")
        monkeypatch.setattr(clock, "_wall", lambda: now() - 9000 * DAY)
        station.housekeeping.check_clock()
        monkeypatch.setattr("flawscope_station.inspecting.intake.now", lambda: now() - 9000 * DAY)
        client.inspect(parts[1], name="after")
        assert [one.name for one in client.search()] == ["after", "before"], "the order in which they came"
    ready = httpx.get(f"{running.url}/readyz")
    assert (ready.status_code, ready.json()["ready"]) == (200, True), "pictures are inspected"
    assert [one["code"] for one in ready.json()["problems"]] == ["clock"]
    assert any(line.startswith("clock: ") for line in said)
    jump = re.search(r"^flawscope_clock_jump_seconds (\S+)", httpx.get(f"{running.url}/metrics").text, re.M)
    assert jump
    assert float(jump[1]) == pytest.approx(-9000 * 86400, abs=60)
    status = httpx.post(f"{running.url}/api/v1/clock/confirm").json()
    assert status["problems"] == []
    assert said[-1] == "clock: over"


def test_a_clock_that_is_right_is_not_confirmed(running):
    """No entry in the audit of something that did not happen."""
    before = audit.search(running.station.database)
    running.station.housekeeping.confirm_clock("anna")
    assert audit.search(running.station.database) == before
