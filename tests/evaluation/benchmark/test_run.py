"""The processes of a benchmark: killed at random, interrupted, failing, in each other's way."""

import pytest

from flawscope import machine
from flawscope.errors import InputError
from flawscope.evaluation.benchmark import cell as store
from flawscope.evaluation.benchmark import run as runner
from flawscope.evaluation.benchmark.cell import CellStore
from flawscope.evaluation.benchmark.grid import plan_grid
from flawscope.evaluation.benchmark.run import jobs_and_threads

GIB = 2**30


def test_two_benchmarks_do_not_write_into_one_folder(tmp_path):
    pytest.importorskip("fcntl", reason="Windows locks otherwise: nothing to install")
    store, other = CellStore(tmp_path), CellStore(tmp_path)
    with store.lock(), pytest.raises(InputError, match="another benchmark works in"), other.lock():
        pass
    with store.lock():
        pass


def test_a_cell_of_other_settings_or_a_damaged_one_is_not_taken_for_done(two, tmp_path):
    cell = plan_grid(two, categories="grid").cells[0]
    place = CellStore(tmp_path)
    place.prepare()
    good = {"format": store.DOCUMENT_FORMAT, "identity": cell.identity}
    store.write_json(place.cell_path(cell), good)
    assert place.read_cell(cell) == good
    store.write_json(place.cell_path(cell), {**good, "identity": {**cell.identity, "seed": 5}})
    assert place.read_cell(cell) is None
    place.cell_path(cell).write_text('{"format": 1, "ident', encoding="utf-8")
    assert place.read_cell(cell) is None


@pytest.mark.parametrize(
    ("cells", "threads", "free", "device", "jobs", "reason"),
    [
        (30, 2, 20, "cpu", 1, "keeps 2 busy"),
        (30, 16, 100, "cpu", 8, "keeps 2 busy"),
        (30, 16, 13, "cpu", 3, "13.0 GiB are free"),
        (30, 16, 1, "cpu", 1, "1.0 GiB are free"),
        (2, 16, 100, "cpu", 2, "there are no more"),
        (30, 16, 100, "cuda", 1, "graphics card"),
    ],
)
def test_cells_at_a_time_follow_from_threads_and_memory(
    monkeypatch, cells, threads, free, device, jobs, reason
):
    monkeypatch.setattr(runner, "system_memory", lambda: (200 * GIB, free * GIB))
    found, why = runner.default_jobs(cells, threads, device)
    assert (found, reason in why) == (jobs, True)


def test_threads_are_divided(monkeypatch):
    said = []
    assert jobs_and_threads(9, 3, 7, "cpu", said.append) == (3, 2)
    assert jobs_and_threads(2, 5, 4, "cpu", said.append) == (2, 2)  # there are no more cells
    assert said[0] == "3 cells at a time, 2 threads each: as --jobs says"
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert machine.default_thread_count() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    assert machine.default_thread_count() == machine.usable_cores() >= 1
