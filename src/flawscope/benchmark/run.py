"""Runs a grid: each cell in a process of its own, some at a time, and tables after each of them."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import statistics
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

from flawscope.benchmark.cell import Plan, Store, run_cell
from flawscope.benchmark.grid import Cell, Grid
from flawscope.benchmark.tables import METRICS, Results
from flawscope.errors import FlawscopeError, pluralize, with_kind
from flawscope.machine import FIT_MEMORY, FIT_THREADS, GIB, all_threads, memory
from flawscope.progress import Running, duration

Say = Callable[[str], None]
SPAWN = multiprocessing.get_context("spawn")
TICK = 0.5  # seconds between looks at the processes' messages


def run(
    grid: Grid, store: Store, plan: Plan, pool: Pool, live: Running, after: Callable[[Results], None]
) -> None:
    """Runs the cells that are not done yet.

    One failure does not stop the rest. An interrupt ends the running cells; finished ones stay, and the next
    call goes on.

    Args:
        after: called with the results before the first cell and after each.
    """
    done, failed = finished(grid, store), dict[str, str]()
    for cell in grid.cells:
        if cell.name in done:
            store.clear(cell)
    after(Results(grid, dict(done), {}))
    spent: dict[str, list[float]] = {}  # seconds of cells, by method
    waiting, running = deque(c for c in grid.cells if c.name not in done), dict[str, tuple[Cell, float]]()
    try:
        while waiting or running:
            while waiting and len(running) < pool.most:
                cell = waiting.popleft()
                running[cell.label] = cell, time.monotonic()
                pool.start(cell.label, run_cell, cell, store, plan)
            for label, found in pool.ended(TICK):
                cell, began = running.pop(label)
                live.jobs.pop(label, None)
                reason = str(found) if isinstance(found, FlawscopeError) else None
                document = store.read(cell) if reason else found
                if document is None:
                    failed[cell.name] = reason or ""
                else:
                    done[cell.name] = document
                    spent.setdefault(cell.method, []).append(time.monotonic() - began)
                results = Results(grid, dict(done), dict(failed))
                rest = [*(one for one, _ in running.values()), *waiting]
                live.line(_line(cell, results) + _left(rest, spent, plan.jobs), failed=document is None)
                if document is not None and reason:  # such as a model that could not be kept
                    live.line(f"      {cell.label}: {reason}", failed=True)
                after(results)
            live.show()
    except BaseException:
        pool.stop()
        raise


def finished(grid: Grid, store: Store) -> dict[str, dict[str, Any]]:
    """Documents of the cells that are done, by name."""
    found = {cell.name: store.read(cell) for cell in grid.cells}
    return {name: document for name, document in found.items() if document is not None}


def _line(cell: Cell, results: Results) -> str:
    """The outcome of a cell."""
    count = f"[{len(results.done) + len(results.failed)}/{len(results.grid.cells)}] {cell.label}"
    document = results.document(cell)
    if document is None:
        return f"{count}: failed: {' '.join(results.failed[cell.name].split())}"
    found = document["evaluation"]["metrics"]
    parts = [f"{METRICS[k]} {found[k]:.4f}" for k in ("image_auroc", "pixel_auroc") if found[k] is not None]
    fit = document["fit"]["seconds"]
    parts.append("fit resumed" if fit is None else f"fit {duration(fit)}")
    parts.append(f"evaluate {duration(document['evaluate']['seconds'])}")
    parts.append(f"{document['peak_memory'] / GIB:.1f} GiB")
    return f"{count}: {', '.join(parts)}"


def _left(rest: Sequence[Cell], spent: Mapping[str, Sequence[float]], jobs: int) -> str:
    """Text with the time left, where a cell of each method that is left has been timed; else empty."""
    if not rest or not all(cell.method in spent for cell in rest):
        return ""
    seconds = sum(statistics.fmean(spent[cell.method]) for cell in rest) / jobs
    return f"; about {duration(seconds)} left"


def default_jobs(cells: int, threads: int, device: str) -> tuple[int, str]:
    """Returns the number of cells at a time, and its reason."""
    if device not in ("auto", "cpu") or (device == "auto" and shutil.which("nvidia-smi")):
        return 1, "they share a graphics card"
    total = memory()
    free = GIB if total is None else total[1]
    by_threads, by_memory = threads // FIT_THREADS, free // FIT_MEMORY
    jobs = max(1, min(cells, by_threads, by_memory))
    if jobs == cells:
        return jobs, "there are no more"
    if by_memory < by_threads:
        return jobs, f"{free / GIB:.1f} GiB are free, and a cell may take {FIT_MEMORY // GIB}"
    return jobs, f"of {pluralize(threads, 'thread')} in all, a cell keeps {FIT_THREADS} busy"


def jobs_and_threads(
    cells: int, jobs: int | None, threads: int | None, device: str, say: Say
) -> tuple[int, int]:
    """Returns the number of cells at a time and the threads of each, and reports them with the reason."""
    total = threads or all_threads()
    if jobs is None:
        jobs, reason = default_jobs(cells, total, device)
    else:
        jobs, reason = min(jobs, max(cells, 1)), "as --jobs says"
    each = max(1, total // jobs)
    say(f"{pluralize(jobs, 'cell')} at a time, {pluralize(each, 'thread')} each: {reason}")
    return jobs, each


# ---------------------------------------------------------------------------------- processes of this machine


class Pool(Protocol):
    """Processes, here or on a cluster. most: how many calls are begun before one has ended."""

    most: int

    def start(self, label: str, function: Callable[..., Any], *given: Any) -> None:
        """Has `function(*given, tell)` called. `tell` takes texts such as "features 3 of 10"."""

    def ended(self, seconds: float) -> list[tuple[str, Any]]:
        """Waits so many seconds for calls to end. Returns their labels, each with the function's value, or
        with a FlawscopeError that says why there is none."""

    def stop(self) -> None:
        """Ends all calls."""


class Processes:
    """Processes of this machine; they end with this one, however it ends.

    Args:
        most: how many run at a time.
        threads: of each.
        tell: gets a label and where its call is.
    """

    def __init__(self, most: int, threads: int, tell: Callable[[str, str], None]):
        self.most, self.threads, self.tell = most, threads, tell
        self.running: dict[Connection, tuple[str, BaseProcess]] = {}
        self.refused: list[tuple[str, Any]] = []  # calls that no process could be started for

    def start(self, label: str, function: Callable[..., Any], *given: Any) -> None:
        ours, theirs = SPAWN.Pipe(duplex=False)
        process = SPAWN.Process(target=_call, args=(theirs, function, given), name=label)
        try:
            with _started_for(self.threads):
                process.start()
        except OSError as error:  # such as too little memory
            text = f"its process could not be run: {error.strerror or error}; try again"
            self.refused.append((label, FlawscopeError(text)))
            return
        theirs.close()
        self.running[ours] = label, process
        self.tell(label, "starts")

    def ended(self, seconds: float) -> list[tuple[str, Any]]:
        found, self.refused = self.refused, []
        for connection in wait([*self.running], 0 if found else seconds):
            assert isinstance(connection, Connection)
            label, process = self.running[connection]
            try:
                is_over, news = connection.recv()
            except (EOFError, OSError):
                process.join()
                is_over, news = True, FlawscopeError(_why(process.exitcode or 0))
            if is_over:
                del self.running[connection]
                process.join()
                found.append((label, news))
            else:
                self.tell(label, news)
        return found

    def stop(self) -> None:
        for _, process in self.running.values():
            process.kill()
        for _, process in self.running.values():
            process.join()


@contextmanager
def _started_for(threads: int) -> Iterator[None]:
    """Lets a process inherit the number of threads, and no Ctrl-C, which comes to this process alone."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, str(threads)))
    masks = hasattr(signal, "pthread_sigmask")  # Windows has none
    kept = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if masks else None
    try:
        yield
    finally:
        if kept is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, kept)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _call(connection: Connection, function: Callable[..., Any], given: tuple[Any, ...]) -> None:
    """Calls the function in the worker process, and sends its result or error."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    found: Any
    try:
        found = function(*given, lambda text: connection.send((False, text)))
    except FlawscopeError as error:
        found = FlawscopeError(str(error))
    except MemoryError:
        found = FlawscopeError("not enough memory: choose fewer --jobs or a smaller size")
    except Exception as error:
        traceback.print_exc()
        found = FlawscopeError(f"unexpected {with_kind(error)}")
    with suppress(OSError):  # nobody waits any more
        connection.send((True, found))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _why(code: int) -> str:
    """Reason why a process ended without a result, by its exit code."""
    if code == -9:
        return (
            "its process was killed, as systems do when memory runs out: give fewer --jobs or a smaller size"
        )
    if code < 0:
        return f"its process was ended by signal {signal.Signals(-code).name}: try again"
    return f"its process ended with code {code}: look into its log"
