"""A wrong clock removes nothing, is told, and changes no order; an honest pause bothers nobody."""

from __future__ import annotations

import re

import httpx
import pytest

from flawscope_station.client import Client
from flawscope_station.store.database import Database, now
from flawscope_station.store.records import Store
from flawscope_station.store.schema import HOUR
from flawscope_station.store.station_identity import DAY, LONGEST_PAUSE, SETTLING_TIME, Clock
from station_helpers import add_version, taken

MINUTE = HOUR // 60
BEGUN = now()


class Computer:
    """What a station reads of it: a clock that can be set, and a counter that cannot."""

    def __init__(self, database: Database):
        self.database, self.wall, self.counter = database, BEGUN, 0

    def start(self) -> Clock:
        self.counter = 5_000_000  # it counts from the computer's start
        clock = Clock(self.database, lambda: self.wall, lambda: self.counter)
        clock.check()
        return clock

    def run(self, clock: Clock, microseconds: int) -> Clock:
        for step in [MINUTE] * (microseconds // MINUTE):
            self.wall, self.counter = self.wall + step, self.counter + step
            clock.check()
        return clock


@pytest.fixture
def computer(database):
    return Computer(database)


@pytest.fixture
def record(database):
    """Adds an inspection of this time; its number."""
    numbers = add_version(database)
    return lambda at: Store(database).record([taken(*numbers, at=at, picture=f"{at:064}")])[0][0]


def test_ages_are_those_of_the_counter_whatever_the_clock_does(computer, record):
    clock = computer.start()
    first = record(computer.wall)
    computer.run(clock, 3 * HOUR)
    second = record(computer.wall)
    for jump in (400 * DAY, -9000 * DAY, 2 * HOUR):
        computer.wall += jump
        computer.run(clock, HOUR)
        assert abs(clock.jump) > HOUR, jump
        assert str(abs(jump) // HOUR if abs(jump) < 2 * DAY else abs(jump) // DAY) in clock.problem
        computer.wall -= jump
        computer.run(clock, HOUR)
        assert (clock.jump, clock.problem) == (0, ""), "it is right again"
    assert clock.age == 9 * HOUR
    assert clock.newest_older_than(10 * HOUR) == 0
    assert clock.newest_older_than(8 * HOUR) == first
    assert clock.newest_older_than(5 * HOUR) == second


@pytest.mark.parametrize("days", [400, -9000, 22])
def test_a_clock_wrong_at_the_start_counts_as_nothing(computer, record, days):
    clock = computer.run(computer.start(), HOUR)
    record(computer.wall)
    computer.wall += days * DAY
    for _ in range(3):  # also when it is started again and again
        clock = computer.run(computer.start(), HOUR)
        assert f"{abs(days)} days {'ahead' if days > 0 else 'behind'}" in clock.problem
    assert clock.age == 4 * HOUR
    assert clock.newest_older_than(DAY) == 0
    computer.wall -= days * DAY
    assert computer.run(clock, MINUTE).problem == "", "it was set right"
    computer.wall += days * DAY
    clock.confirm()
    assert clock.problem == ""
    assert computer.run(clock, HOUR).problem == ""
    assert computer.run(computer.start(), HOUR).problem == "", "it was confirmed"
    assert clock.newest_older_than(DAY) == 0


def test_honest_pauses_count_a_day_at_most_and_bother_nobody(computer):
    clock = computer.run(computer.start(), HOUR)
    for pause, counts in ((16 * HOUR, 16 * HOUR), (3 * DAY, DAY), (LONGEST_PAUSE - HOUR, DAY)):
        clock.close()
        computer.wall += pause
        before, clock = clock.age, computer.start()
        computer.run(clock, HOUR)
        assert (clock.problem, clock.age - before) == ("", counts + HOUR)
    clock.close()
    computer.wall += 42 * DAY
    before, clock = clock.age, computer.start()
    assert "42 days ahead" in clock.problem
    clock.confirm()
    assert computer.run(clock, HOUR).age - before == HOUR


def test_a_time_server_may_set_the_clock_right_after_the_start(computer):
    """Small computers have no clock of their own, and go on where they ended."""
    clock = computer.run(computer.start(), HOUR)
    for wrong in (0, 10 * DAY):  # behind the right one by 14 hours, and far ahead of it
        clock.close()
        computer.wall += wrong
        before, clock = clock.age, computer.run(computer.start(), SETTLING_TIME // 2)
        computer.wall += 14 * HOUR - wrong
        computer.run(clock, HOUR)
        assert (clock.problem, clock.age - before) == ("", 14 * HOUR + HOUR + SETTLING_TIME // 2)


def test_a_counter_that_jumps_is_not_believed_either(computer):
    clock = computer.run(computer.start(), HOUR)
    computer.counter += 400 * DAY
    computer.wall += 400 * DAY
    clock.check()
    assert "400 days ahead" in clock.problem
    computer.counter -= 400 * DAY
    clock.check()
    computer.counter += 9 * HOUR  # the computer slept
    computer.wall += 9 * HOUR - 400 * DAY
    clock.check()
    assert (clock.problem, clock.age) == ("", 2 * HOUR)


def test_a_jump_is_told_everywhere_and_ends_when_an_engineer_confirms(running, parts, monkeypatch):
    station, clock = running.station, running.station.housekeeping.clock
    said: list[str] = []
    monkeypatch.setattr(station.health._problems, "say", said.append)
    with Client(running.url) as client:
        client.inspect(parts[0], name="before")
        monkeypatch.setattr(clock, "_wall", lambda: now() - 9000 * DAY)
        station.housekeeping.check_clock()
        monkeypatch.setattr("flawscope_station.inspecting.worker.now", lambda: now() - 9000 * DAY)
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
