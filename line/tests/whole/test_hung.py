"""A disk that hangs, and a database that takes what it is sent and says nothing, under a station that gets
parts by HTTP, a folder, a camera and PLCs: each request has its answer in time, Ready falls, people are told,
and all goes on when it is over."""

from __future__ import annotations

import re

import pytest

from hung_helpers import READY_SECONDS, Trial, hanging_disk, hanging_postgres, run_hang, running_line
from plc_helpers import WIRES
from station_helpers import Unavailable

HANG_SECONDS = 12.0
# what is said of a server: first by its age, then by each try to connect
SILENT = "the database has not answered for|cannot be used: (connection timeout|the server has not answered)"


def check(trial: Trial, told: str) -> None:
    """told: what people read."""
    line = trial.line
    assert line.not_ready.keys() == {*WIRES}
    assert max(line.not_ready.values()) < READY_SECONDS
    assert line.outcomes["during-opcua"] == "fault"
    # each request has its answer
    assert trial.late() == []
    assert [f"{one.what} {one.seconds:.1f} s" for one in trial.looks if not one.status] == []
    # it is told
    assert 0 < trial.told_after < READY_SECONDS + 2
    assert {one.status for one in trial.looks if one.what == "/readyz"} >= {503}
    page, problems_page, metrics = trial.looks[-3:]
    assert page.status == 503
    assert re.search(told, page.text), page.text
    assert re.search(told, problems_page.text), problems_page.text
    assert 'flawscope_problem{code="store_silent"' in metrics.text
    # nothing is lost, and nothing is there twice
    recorded = trial.recorded()
    assert {part for part in line.answered if recorded[part] != 1} == set()
    assert {part for part, count in recorded.items() if count > 1 and part != "None"} == set()
    for wire in WIRES:
        assert recorded[f"before-{wire}"] == recorded[f"after-{wire}"] == 1


def test_a_disk_that_hangs(plugins, model_file, parts, tmp_path):
    try:
        with (
            hanging_disk(tmp_path) as (disk, what),
            running_line(tmp_path, disk, model_file, parts[:1], str(plugins)) as line,
        ):
            check(run_hang(line, what, HANG_SECONDS), "the disk has not answered for")
    except Unavailable as error:
        pytest.skip(str(error))


def test_a_data_base_that_takes_all_and_says_nothing(plugins, model_file, parts, own_postgres, tmp_path):
    with (
        own_postgres.database() as url,
        running_line(tmp_path, tmp_path, model_file, parts[:1], str(plugins), url) as line,
    ):
        check(run_hang(line, hanging_postgres(own_postgres), HANG_SECONDS), SILENT)
