"""Learning without a model: what a product, the database or the process does to the others and to itself."""

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flawscope_station.learning import candidate_plan as plans
from flawscope_station.learning import process
from flawscope_station.learning.process import (
    FullDiskWorkerError,
    StoppedError,
    Worker,
    WorkerError,
    make_candidate,
)
from flawscope_station.store.records import Store
from learning_helpers import echo, fail_to_write
from learning_steps_helpers import Made
from station_helpers import add_version, taken, until


@pytest.fixture
def spawned(monkeypatch):
    """Processes are started as in the station: else they are forked from one that has loaded torch."""
    monkeypatch.setattr(process, "SPAWN_CONTEXT", multiprocessing.get_context("spawn"))


@pytest.fixture
def made(monkeypatch, tmp_path, database):
    return Made(monkeypatch, tmp_path, database)


@pytest.fixture
def worker(monkeypatch):
    """Whose process gives back what it is given."""
    monkeypatch.setattr(process, "run_jobs", echo)
    made = Worker()
    yield made
    made.close()


def test_a_process_stays_for_the_next_job_for_a_while(spawned, worker, monkeypatch):
    steps: list[tuple[str, int, int]] = []
    found = worker.run(make_candidate, {"number": 1}, lambda *step: steps.append(step))
    assert found == {"job": {"number": 1}}
    assert steps == [("echo", 1, 1)]
    first = worker.pid
    assert first is not None
    worker.end_if_idle()
    assert worker.run(make_candidate, {"number": 2}, lambda *step: None) == {"job": {"number": 2}}
    assert worker.pid == first
    monkeypatch.setattr(process, "IDLE_SECONDS", 0.0)
    worker.end_if_idle()
    assert worker.pid is None
    assert worker.run(make_candidate, {"number": 3}, lambda *step: None) == {"job": {"number": 3}}


def test_a_job_that_fails_and_one_that_is_cut_off(worker):
    with pytest.raises(WorkerError, match="this one cannot be done"):
        worker.run(make_candidate, {"fail": True}, lambda *step: None)
    with pytest.raises(WorkerError, match="it was killed, perhaps for want of memory; learn again"):
        worker.run(make_candidate, {"wait": True}, lambda *step: os.kill(worker.pid or 0, signal.SIGKILL))
    with pytest.raises(StoppedError):
        worker.run(make_candidate, {"wait": True}, lambda *step: worker.stop())
    assert worker.run(make_candidate, {}, lambda *step: None) == {"job": {}}
    with pytest.raises(StoppedError):
        worker.run(make_candidate, {"wait": True}, lambda *step: worker.close())
    with pytest.raises(StoppedError):
        worker.run(make_candidate, {}, lambda *step: None)


@pytest.mark.parametrize(
    ("job", "kind"),
    [
        ({"errno": errno.ENOSPC}, FullDiskWorkerError),
        ({"errno": errno.EDQUOT, "path": True}, FullDiskWorkerError),
        ({"errno": errno.EACCES}, WorkerError),
    ],
)
def test_the_process_tells_a_full_disk_by_its_kind(spawned, job, kind):
    """Whatever the words are: a library's own error hides the errno among them."""
    made = Worker()
    try:
        with pytest.raises(WorkerError) as caught:
            made.run(fail_to_write, job, lambda *step: None)
        assert type(caught.value) is kind
    finally:
        made.close()


def test_the_process_ends_with_the_station():
    code = (
        "import os; from flawscope_station.learning.process import Worker; "
        "made = Worker(); made._ensure_started(); print(made.pid, flush=True); os._exit(1)"
    )
    told = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, timeout=60)
    until(lambda: not Path(f"/proc/{told.stdout.strip()}/cmdline").exists())


def test_the_drawn_pictures_are_a_fair_sample(database):
    """False alarms have their share of the line among them, also while some wait for a review."""
    store = Store(database)
    product_id, version = add_version(database)
    made = [taken(product_id, version, picture=f"{k:064}", anomalous=k % 10 == 0) for k in range(1000)]
    numbers = [number for number, _ in store.record(made)]
    flagged = numbers[::10]
    for number in flagged[:50]:  # half of them are reviewed yet
        store.add_verdict(product_id, number, "good", "anna")
    store.add_verdict(product_id, numbers[1], "defect", "anna")
    with database.reading() as connection:
        draws = [plans.draw_good_pictures(connection, product_id, 200, seed) for seed in range(20)]
        rows = [row for drawn in draws for row in drawn]
    assert len(rows) == 20 * 200
    share = sum(row.anomalous for row in rows) / len(rows)
    assert 0.08 < share < 0.12
    assert numbers[1] not in {row.id for row in rows}
    assert not {row.id for row in rows} & set(flagged[50:])
