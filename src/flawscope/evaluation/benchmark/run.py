"""Runs a grid: each cell in a process of its own, some at a time, and tables after each of them."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import statistics
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from subprocess import PIPE, Popen
from typing import TYPE_CHECKING, Protocol

from flawscope.errors import FlawscopeError, message_with_type, pluralize
from flawscope.evaluation.benchmark.cell import CellStore, RunPlan, run_cell
from flawscope.evaluation.benchmark.grid import Cell, Grid
from flawscope.evaluation.benchmark.tables import METRICS, Results
from flawscope.machine import FIT_MEMORY_LIMIT, FIT_THREADS, GIB, default_thread_count, system_memory
from flawscope.progress import JobsProgress, Say, format_duration, throttled

if TYPE_CHECKING:
    from flawscope.types import Json

OnUpdate = Callable[[Results], None]
POLL_INTERVAL = 0.5  # seconds between checks of the processes


def run_grid(
    grid: Grid, store: CellStore, plan: RunPlan, pool: Pool, live: JobsProgress, on_update: OnUpdate
) -> None:
    """Run the cells that are not done yet.

    A failure does not stop the rest. An interrupt ends the running cells; finished ones stay, and the next
    call goes on.

    Args:
        grid: Cells to run.
        store: Files of the benchmark.
        plan: Options of running the grid.
        pool: Processes that run the cells.
        live: Shows the progress.
        on_update: Called with the results before the first cell and after each.
    """
    report = _Report(grid, finished_cells(grid, store), plan.jobs, live)
    for cell in grid.cells:
        if cell.name in report.done:
            store.remove_work_folder(cell)
    on_update(report.results())
    waiting = [cell for cell in grid.cells if cell.name not in report.done]
    running: dict[str, Cell] = {}
    try:
        while waiting or running:
            while waiting and len(running) < pool.most:
                ready = waiting.pop(0)
                running[ready.label] = ready
                pool.start(ready.label, run_cell, ready, store, plan)
            for label, found in pool.ended(POLL_INTERVAL):
                cell = running.pop(label)
                live.job_stages.pop(label, None)
                report.add(cell, store, found, [*running.values(), *waiting])
                on_update(report.results())
            live.show()
    except BaseException:
        pool.stop()
        raise


@dataclass
class _Report:
    """Cells of a run that have ended, and a line on each.

    Attributes:
        done: Documents by the cells' names.
        failed: Reasons by the cells' names.
        new: Cells that this run did.
    """

    grid: Grid
    done: dict[str, Json]
    jobs: int
    live: JobsProgress
    failed: dict[str, str] = field(default_factory=dict)
    new: list[Cell] = field(default_factory=list)

    def results(self) -> Results:
        return Results(self.grid, dict(self.done), dict(self.failed))

    def add(self, cell: Cell, store: CellStore, found: object, rest: Sequence[Cell]) -> None:
        """Add a cell that has ended, and print its line.

        Args:
            cell: The cell.
            store: Files of the benchmark.
            found: Its document, or a FlawscopeError, after which the document may be stored all the same.
            rest: Cells that have not ended.
        """
        reason = str(found) if isinstance(found, FlawscopeError) else ""
        document = found if isinstance(found, dict) else store.read_cell(cell)
        if document is None:
            self.failed[cell.name] = reason
        else:
            self.done[cell.name] = document
            self.new.append(cell)
        results = self.results()
        left = _time_left(rest, results, self.new, self.jobs)
        self.live.print_line(_cell_line(cell, results) + left, failed=document is None)
        if document is not None and reason:  # such as a model that could not be kept
            self.live.print_line(f"      {cell.label}: {reason}", failed=True)


def finished_cells(grid: Grid, store: CellStore) -> dict[str, Json]:
    """Documents of the cells that are done, by name."""
    found = {cell.name: store.read_cell(cell) for cell in grid.cells}
    return {name: document for name, document in found.items() if document is not None}


def _cell_line(cell: Cell, results: Results) -> str:
    count = f"[{len(results.done) + len(results.failed)}/{len(results.grid.cells)}] {cell.label}"
    document = results.document(cell)
    if document is None:
        return f"{count}: failed: {' '.join(results.failed[cell.name].split())}"
    found = document["evaluation"]["metrics"]
    parts = [f"{METRICS[k]} {found[k]:.4f}" for k in ("image_auroc", "pixel_auroc") if found[k] is not None]
    fit = document["fit"]["seconds"]
    parts.append("fit resumed" if fit is None else f"fit {format_duration(fit)}")
    parts.append(f"evaluate {format_duration(document['evaluate']['seconds'])}")
    parts.append(f"{document['peak_memory'] / GIB:.1f} GiB")
    return f"{count}: {', '.join(parts)}"


def _time_left(rest: Sequence[Cell], results: Results, new: Sequence[Cell], jobs: int) -> str:
    """Text with the time left, where a cell of each method that is left has been timed; else empty."""
    spent: dict[str, list[float]] = {}
    for cell in new:
        document = results.done[cell.name]
        seconds = (document["fit"]["seconds"] or 0.0) + document["evaluate"]["seconds"]
        spent.setdefault(cell.method, []).append(seconds)
    if not rest or not all(cell.method in spent for cell in rest):
        return ""
    seconds = sum(statistics.fmean(spent[cell.method]) for cell in rest)
    return f"; about {format_duration(seconds / jobs)} left"


def default_jobs(cells: int, threads: int, device: str) -> tuple[int, str]:
    """Return the number of cells at a time, and its reason."""
    if device not in ("auto", "cpu") or (device == "auto" and shutil.which("nvidia-smi")):
        return 1, "they share a graphics card"
    total = system_memory()
    free = GIB if total is None else total[1]
    by_threads = threads // FIT_THREADS
    by_memory = free // FIT_MEMORY_LIMIT
    jobs = max(1, min(cells, by_threads, by_memory))
    if jobs == cells:
        return jobs, "there are no more"
    if by_memory < by_threads:
        return jobs, f"{free / GIB:.1f} GiB are free, and a cell may take {FIT_MEMORY_LIMIT // GIB}"
    return jobs, f"of {pluralize(threads, 'thread')} in all, a cell keeps {FIT_THREADS} busy"


def jobs_and_threads(
    cells: int, jobs: int | None, threads: int | None, device: str, say: Say
) -> tuple[int, int]:
    """Return the number of cells at a time and the threads of each, and report them with the reason."""
    total = threads or default_thread_count()
    if jobs is None:
        jobs, reason = default_jobs(cells, total, device)
    else:
        jobs = min(jobs, max(cells, 1))
        reason = "as --jobs says"
    each = max(1, total // jobs)
    say(f"{pluralize(jobs, 'cell')} at a time, {pluralize(each, 'thread')} each: {reason}")
    return jobs, each


# ---------------------------------------------------------------------------------- processes of this machine


class Pool(Protocol):
    """Processes, here or on a cluster.

    Attributes:
        most: Number of calls that may be started and not ended.
    """

    most: int

    def start(self, label: str, function: Callable[..., object], *given: object) -> None:
        """Start a call of `function(*given, step)` in a process of its own."""

    def ended(self, seconds: float) -> list[tuple[str, object]]:
        """Wait at most so many seconds for calls to end.

        Returns their labels, each with the function's value, or with a FlawscopeError that says why there is
        none.
        """

    def stop(self) -> None:
        """End all calls."""


class Processes:
    """Processes of this machine; they end with this one, however it ends.

    Args:
        max_started: how many run at a time.
        threads: of each.
        step: gets a label and the progress of its call.
    """

    def __init__(self, max_started: int, threads: int, step: Callable[[str, str, int, int], None]):
        self.most = max_started
        self.step = step
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        self.environment = {**os.environ, **dict.fromkeys(names, str(threads))}
        self.waiters = ThreadPoolExecutor(max_started)  # one for each process
        self.running: dict[Future[object], str] = {}
        self.processes: list[Popen[bytes]] = []
        self.stopped = False

    def start(self, label: str, function: Callable[..., object], *given: object) -> None:
        """Start a process that calls `function`; `label` names the call in `ended` and `step`."""
        self.running[self.waiters.submit(self._run_process, label, pickle.dumps((function, given)))] = label

    def ended(self, seconds: float) -> list[tuple[str, object]]:
        """Wait up to `seconds` for a call to end, and return the label and the result of each that has."""
        done, _ = wait(self.running, seconds, FIRST_COMPLETED)
        return [(self.running.pop(future), future.result()) for future in done]

    def stop(self) -> None:
        """Kill all processes, and wait for their threads."""
        self.stopped = True  # for one that is just being started
        for process in [*self.processes]:
            process.kill()
        self.waiters.shutdown()

    def _run_process(self, label: str, call: bytes) -> object:
        """Start a process that Ctrl-C does not reach, pass on its progress, and return its answer."""
        code = "from flawscope.evaluation.benchmark.run import child_main; child_main()"
        command = [sys.executable, "-P", "-c", code]
        try:
            with Popen(command, stdin=PIPE, stdout=PIPE, env=self.environment, process_group=0) as process:
                self.processes.append(process)
                if self.stopped:
                    process.kill()
                assert process.stdin
                assert process.stdout
                process.stdin.write(call)
                process.stdin.flush()
                with suppress(EOFError, pickle.UnpicklingError):
                    while True:
                        is_over, news = pickle.load(process.stdout)
                        if is_over:
                            return news
                        self.step(label, *news)
        except OSError as error:  # such as too little memory
            return FlawscopeError(f"its process could not be run: {error.strerror or error}; try again")
        return FlawscopeError(_exit_reason(process.returncode))


def child_main() -> None:
    """Entry point of a child process: makes the call that comes on stdin, and writes its value to stdout."""
    function, given = pickle.load(sys.stdin.buffer)
    parent = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def send(news: object, is_over: bool = False) -> None:
        with suppress(OSError):  # nobody waits any more
            pickle.dump((is_over, news), parent)
            parent.flush()

    found: object
    try:
        found = function(*given, throttled(lambda *progress: send(progress)))
    except FlawscopeError as error:
        found = FlawscopeError(str(error))
    except MemoryError:
        found = FlawscopeError("not enough memory: choose fewer --jobs or a smaller size")
    except Exception as error:
        traceback.print_exc()
        found = FlawscopeError(f"unexpected {message_with_type(error)}")
    send(found, is_over=True)


def _end_with_parent() -> None:
    os.read(0, 1)  # ends when the other side of stdin is gone
    os._exit(1)


def _exit_reason(code: int) -> str:
    if code == -signal.SIGKILL:
        return (
            "its process was killed, as systems do when memory runs out: give fewer --jobs or a smaller size"
        )
    how = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with code {code}"
    return f"its process ended {how}: look into its log, and try again"
