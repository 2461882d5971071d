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

    A failed cell does not stop the others. An interrupt ends the running cells. The results of finished cells
    are kept, and the next call runs only the other cells.

    Args:
        grid: Cells to run.
        store: Files of the benchmark.
        plan: Options of running the grid.
        pool: Processes that run the cells.
        live: Shows the progress.
        on_update: Called with the results before the first cell, and after each cell.
    """
    report = _Report(grid, done=finished_cells(grid, store), jobs=plan.jobs, live=live)
    for cell in grid.cells:
        if cell.name in report.done:
            store.remove_work_folder(cell)
    on_update(report.results())
    waiting = [cell for cell in grid.cells if cell.name not in report.done]
    running: dict[str, Cell] = {}  # label -> cell
    try:
        while waiting or running:
            while waiting and len(running) < pool.most:
                next_cell = waiting.pop(0)
                running[next_cell.label] = next_cell
                pool.start(next_cell.label, run_cell, next_cell, store, plan)
            for label, result in pool.ended(POLL_INTERVAL):
                cell = running.pop(label)
                live.job_stages.pop(label, None)
                report.add(cell, store, result, unfinished=[*running.values(), *waiting])
                on_update(report.results())
            live.show()
    except BaseException:
        pool.stop()
        raise


@dataclass
class _Report:
    """Cells that have ended, in this run or before; prints a line on each cell that ends in this run.

    Attributes:
        grid: All cells.
        done: Documents of finished cells, by the cells' names.
        jobs: Number of cells that run at a time.
        live: Prints the lines.
        failed: Reasons of failed cells, by the cells' names.
        finished_now: Cells that were finished in this run.
    """

    grid: Grid
    done: dict[str, Json]
    jobs: int
    live: JobsProgress
    failed: dict[str, str] = field(default_factory=dict)
    finished_now: list[Cell] = field(default_factory=list)

    def results(self) -> Results:
        """Return a copy of the results up to now: later cells do not change it."""
        return Results(self.grid, dict(self.done), dict(self.failed))

    def add(self, cell: Cell, store: CellStore, result: object, unfinished: Sequence[Cell]) -> None:
        """Add a cell that has ended, and print its line.

        Args:
            cell: The cell.
            store: Files of the benchmark.
            result: Document of the cell, or a FlawscopeError. After some errors the document is stored, too.
            unfinished: Cells that have not ended.
        """
        reason = str(result) if isinstance(result, FlawscopeError) else ""
        document = result if isinstance(result, dict) else store.read_cell(cell)
        if document is None:
            self.failed[cell.name] = reason
        else:
            self.done[cell.name] = document
            self.finished_now.append(cell)
        results = self.results()
        time_left = _time_left(unfinished, results, self.finished_now, self.jobs)
        self.live.print_line(_cell_line(cell, results) + time_left, failed=document is None)
        if document is not None and reason:  # for example the model could not be kept
            self.live.print_line(f"      {cell.label}: {reason}", failed=True)


def finished_cells(grid: Grid, store: CellStore) -> dict[str, Json]:
    """Return the documents of the cells that are done, by the cells' names."""
    documents = {}
    for cell in grid.cells:
        document = store.read_cell(cell)
        if document is not None:
            documents[cell.name] = document
    return documents


def _cell_line(cell: Cell, results: Results) -> str:
    """Return a line on a cell that has ended: its figures and costs, or why it failed."""
    ended_count = len(results.done) + len(results.failed)
    title = f"[{ended_count}/{len(results.grid.cells)}] {cell.label}"
    document = results.document(cell)
    if document is None:
        reason_in_one_line = " ".join(results.failed[cell.name].split())
        return f"{title}: failed: {reason_in_one_line}"
    parts = []
    for name in ("image_auroc", "pixel_auroc"):
        value = document["evaluation"]["metrics"][name]
        if value is not None:
            parts.append(f"{METRICS[name]} {value:.4f}")
    fit_seconds = document["fit"]["seconds"]
    parts.append("fit resumed" if fit_seconds is None else f"fit {format_duration(fit_seconds)}")
    parts.append(f"evaluate {format_duration(document['evaluate']['seconds'])}")
    parts.append(f"{document['peak_memory'] / GIB:.1f} GiB")
    return f"{title}: {', '.join(parts)}"


def _time_left(unfinished: Sequence[Cell], results: Results, timed: Sequence[Cell], jobs: int) -> str:
    """Return a text with the time that the unfinished cells may take.

    The text is empty if every cell has ended, or if `timed` lacks the method of an unfinished cell.

    Args:
        unfinished: Cells that have not ended.
        results: The results so far.
        timed: Cells that were finished in this run; their times are used.
        jobs: Number of cells that run at a time.
    """
    seconds_of_method: dict[str, list[float]] = {}
    for cell in timed:
        document = results.done[cell.name]
        seconds = (document["fit"]["seconds"] or 0.0) + document["evaluate"]["seconds"]
        seconds_of_method.setdefault(cell.method, []).append(seconds)
    if not unfinished or not all(cell.method in seconds_of_method for cell in unfinished):
        return ""
    seconds_left = sum(statistics.fmean(seconds_of_method[cell.method]) for cell in unfinished)
    return f"; about {format_duration(seconds_left / jobs)} left"


def default_jobs(cells: int, threads: int, device: str) -> tuple[int, str]:
    """Return the number of cells at a time, and the reason in words.

    Args:
        cells: Number of cells to run.
        threads: Number of threads in all.
        device: Device of the cells.
    """
    may_find_gpu = device == "auto" and shutil.which("nvidia-smi")
    if device not in ("auto", "cpu") or may_find_gpu:
        return 1, "they share a graphics card"
    memory = system_memory()
    available_bytes = GIB  # a guess for systems that do not say how much memory is free
    if memory is not None:
        _, available_bytes = memory
    by_threads = threads // FIT_THREADS
    by_memory = available_bytes // FIT_MEMORY_LIMIT
    jobs = max(1, min(cells, by_threads, by_memory))
    if jobs == cells:
        return jobs, "there are no more"
    if by_memory < by_threads:
        return (
            jobs,
            f"{available_bytes / GIB:.1f} GiB are free, and a cell may take {FIT_MEMORY_LIMIT // GIB}",
        )
    return jobs, f"of {pluralize(threads, 'thread')} in all, a cell keeps {FIT_THREADS} busy"


def jobs_and_threads(
    cells: int, jobs: int | None, threads: int | None, device: str, say: Say
) -> tuple[int, int]:
    """Return the number of cells at a time, and the number of threads of each cell; report both.

    Args:
        cells: Number of cells to run.
        jobs: Largest number of cells at a time; None: it is chosen here.
        threads: Number of threads in all; None: as many as the machine has.
        device: Device of the cells.
        say: Called with a line for a person: both numbers, and why.
    """
    total_threads = threads or default_thread_count()
    if jobs is None:
        job_count, reason = default_jobs(cells, total_threads, device)
    else:
        job_count = min(jobs, max(cells, 1))
        reason = "as --jobs says"
    threads_each = max(1, total_threads // job_count)
    say(f"{pluralize(job_count, 'cell')} at a time, {pluralize(threads_each, 'thread')} each: {reason}")
    return job_count, threads_each


# ---------------------------------------------------------------------------------- processes of this machine


class Pool(Protocol):
    """Runs calls of functions, each in a process of its own, here or on a cluster.

    Attributes:
        most: Largest number of calls that run at a time.
    """

    most: int

    def start(self, label: str, function: Callable[..., object], *given: object) -> None:
        """Start a call of `function(*given, step)` in a process of its own; `label` names it in `ended`."""

    def ended(self, seconds: float) -> list[tuple[str, object]]:
        """Wait at most `seconds` for a call to end.

        Returns:
            The label of each call that has ended, with the function's return value, or with a FlawscopeError
            if there is none.
        """

    def stop(self) -> None:
        """End all calls."""


class Processes:
    """Processes of this machine; they end when this process ends, for whatever reason.

    Args:
        max_started: Largest number of processes that run at a time.
        threads: Number of threads of each process.
        step: Called with the progress of a call, as `step(label, stage, done, total)`.
    """

    def __init__(self, max_started: int, threads: int, step: Callable[[str, str, int, int], None]):
        self.most = max_started
        self.step = step
        variables = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        self.environment = {**os.environ, **dict.fromkeys(variables, str(threads))}
        self.waiters = ThreadPoolExecutor(max_started)  # a thread for each process waits for its end
        self.running: dict[Future[object], str] = {}  # label of each call
        self.processes: list[Popen[bytes]] = []
        self.stopped = False

    def start(self, label: str, function: Callable[..., object], *given: object) -> None:
        """Start a process that calls `function`; `label` names the call in `ended` and `step`."""
        call = pickle.dumps((function, given))
        future = self.waiters.submit(self._run_process, label, call)
        self.running[future] = label

    def ended(self, seconds: float) -> list[tuple[str, object]]:
        """Wait up to `seconds` for a call to end; return label and result of each call that has ended."""
        done, _ = wait(self.running, seconds, FIRST_COMPLETED)
        return [(self.running.pop(future), future.result()) for future in done]

    def stop(self) -> None:
        """Kill all processes, and wait for their threads."""
        self.stopped = True  # `_run_process` kills a process that is just being started
        for process in [*self.processes]:
            process.kill()
        self.waiters.shutdown()

    def _run_process(self, label: str, call: bytes) -> object:
        """Run a call in a process of its own, and pass on its progress; Ctrl-C does not reach the process.

        Args:
            label: Label of the call.
            call: The function and its arguments, pickled.

        Returns:
            The function's return value, or a FlawscopeError if there is none.
        """
        code = "from flawscope.evaluation.benchmark.run import child_main; child_main()"
        command = [sys.executable, "-P", "-c", code]
        try:
            with Popen(command, stdin=PIPE, stdout=PIPE, env=self.environment, process_group=0) as process:
                self.processes.append(process)
                if self.stopped:  # `stop` ran before this process was in the list
                    process.kill()
                assert process.stdin
                assert process.stdout
                process.stdin.write(call)
                process.stdin.flush()
                with suppress(EOFError, pickle.UnpicklingError):
                    while True:
                        is_result, message = pickle.load(process.stdout)
                        if is_result:
                            return message
                        stage, done, total = message
                        self.step(label, stage, done, total)
        except OSError as error:  # for example too little memory
            return FlawscopeError(f"its process could not be run: {error.strerror or error}; try again")
        return FlawscopeError(_exit_reason(process.returncode))


def child_main() -> None:
    """Run a call in a child process: read it from stdin, write its progress and its result to stdout."""
    function, arguments = pickle.load(sys.stdin.buffer)
    to_parent = os.fdopen(os.dup(1), "wb")  # the stdout of this process, which the parent reads
    os.dup2(2, 1)  # what libraries print to stdout goes to stderr
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def send(message: object, is_result: bool = False) -> None:
        """Send the parent a message: progress, or the result."""
        with suppress(OSError):  # the parent has ended
            pickle.dump((is_result, message), to_parent)
            to_parent.flush()

    result: object
    try:
        result = function(*arguments, throttled(lambda *progress: send(progress)))
    except FlawscopeError as error:
        result = FlawscopeError(str(error))
    except MemoryError:
        result = FlawscopeError("not enough memory: choose fewer --jobs or a smaller size")
    except Exception as error:
        traceback.print_exc()
        result = FlawscopeError(f"unexpected {message_with_type(error)}")
    send(result, is_result=True)


def _end_with_parent() -> None:
    """End this process when its parent ends."""
    os.read(0, 1)  # returns when the other side of stdin is closed
    os._exit(1)


def _exit_reason(code: int) -> str:
    """Return why a process ended without a result, by its exit code."""
    if code == -signal.SIGKILL:
        return (
            "its process was killed, as systems do when memory runs out: give fewer --jobs or a smaller size"
        )
    cause = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with code {code}"
    return f"its process ended {cause}: look into its log, and try again"
