"""`benchmark --cluster`: the results of one machine, on nodes that come and go."""

import csv
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from functools import partial

import psutil
import pytest

from flawscope.cli import main
from flawscope.cluster.connect import Node, allocate
from flawscope.errors import InputError
from flawscope.evaluation.benchmark.cell import DOCUMENT_FORMAT, CellStore, RunPlan, run_cell, write_json
from flawscope.evaluation.benchmark.grid import plan_grid
from small_network import SMALL_FLAGS

# what depends on when and where a cell ran
PASSING = {"fit_seconds", "evaluate_seconds", "peak_memory_mib", "jobs"}


def words(data, out):
    call = ["benchmark", "--data", str(data), "--out", str(out), "--set", "patchcore.size=64"]
    call += [word if word == "--set" else f"patchcore.{word}" for word in SMALL_FLAGS]
    return [*call, "--device", "cpu", "--threads", "1"]


def rows(out):
    with open(out / "results.csv", encoding="utf-8-sig") as file:
        return [{k: v for k, v in row.items() if k not in PASSING} for row in csv.DictReader(file)]


def writers(out):
    """Processes of cells that work in this folder."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if "ray::" in " ".join(process.info["cmdline"] or ()):
            with suppress(psutil.Error):  # it has ended
                if any(file.path.startswith(str(out)) for file in process.open_files()):
                    found.append(process)
    return found


def test_a_grid_that_is_interrupted_and_loses_a_node_has_the_results_of_one_machine(two, cluster, tmp_path):
    out = tmp_path / "cluster"

    def start():
        call = [sys.executable, "-m", "flawscope", *words(two, out), "--cluster", cluster.address]
        # a shell that runs the tests in the background has its children ignore the interrupt
        heard = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
        return subprocess.Popen(
            call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heard
        )

    first = start()
    cluster.until(lambda: writers(out))
    first.send_signal(signal.SIGINT)
    printed, said = first.communicate(timeout=120)
    assert (first.returncode, printed) == (130, ""), said
    assert "of 2 cells done; the same call goes on from there" in said
    assert "Traceback" not in said
    cluster.until(lambda: not writers(out), 20)

    shutil.rmtree(out / "work")
    second = start()
    begun = cluster.until(lambda: list(out.glob("work/plate*/begun.json")))  # the other one ends at once
    lost = writers(begun[0].parent)[0]
    cluster.lose(next(node for node in cluster.workers if lost.pid in cluster.processes(node=node)))
    cluster.restore()
    printed, said = second.communicate(timeout=300)
    assert second.returncode == 1, said  # for the cell that cannot be done
    assert printed.startswith("category  method")  # and nothing of Ray's
    assert not lost.is_running()
    assert "2 cells at a time on 2 nodes, 1 thread each, 0." in said
    reasons = [line for line in said.splitlines() if "broken patchcore seed 0: failed: none of the" in line]
    assert len(reasons) == 1
    assert not list(out.rglob("*.part"))

    assert main([*words(two, tmp_path / "plain"), "--categories", "plate", "--quiet"]) == 1  # one is torn
    assert [row["state"] for row in rows(out)] == ["failed", "done"]
    assert rows(out)[1:] == rows(tmp_path / "plain")


def test_a_cell_that_was_done_when_its_node_was_lost_is_not_done_again(two, tmp_path):
    cell = plan_grid(two, categories="plate").cells[0]
    store = CellStore(tmp_path)
    store.prepare()
    document = {"format": DOCUMENT_FORMAT, "identity": cell.identity}
    write_json(store.cell_path(cell), document)
    assert run_cell(cell, store, RunPlan(str(two), 1, 1), lambda *step: None) == document
    assert not store.work_folder(cell).exists()


@pytest.mark.parametrize(
    ("count", "threads", "each", "at_once"),
    [(100, None, 2, 14), (3, None, 8, 3), (1, None, 17, 1), (100, 1, 1, 29), (100, 5, 5, 4)],
)
def test_threads_and_room_follow_from_the_nodes(count, threads, each, at_once):
    nodes = [Node(f"{cores}", cores, 0, 2**34) for cores in (4.0, 8.0, 17.0)]
    found = allocate(nodes, count, threads, "auto")
    assert (found.threads, found.gpus, found.max_concurrency()) == (each, 0, at_once)
    assert found.max_concurrency(2**33) <= 2 * len(found.nodes)
    assert found.max_concurrency(2**40) == len(found.nodes)  # no node has so much: one a node


def test_a_graphics_card_goes_to_each_task_where_there_are_some():
    nodes = [Node("a", 8, 0, 2**34), Node("b", 8, 2, 2**34)]
    assert allocate(nodes, 9, None, "auto").max_concurrency() == 2
    assert allocate(nodes, 9, None, "cpu").max_concurrency() == 8
    with pytest.raises(InputError, match="no node of the cluster has a graphics card"):
        allocate(nodes[:1], 9, None, "cuda")
    with pytest.raises(InputError, match="no node has 9 cores: give --threads 8 or fewer"):
        allocate(nodes, 1, 9, "cpu")
