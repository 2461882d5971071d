"""Working a grid off: each cell in a process of its own, some at a time, and tables after each of them."""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from flawscope.benchmark.cell import Task
from flawscope.benchmark.grid import Cell, Grid
from flawscope.benchmark.process import Process
from flawscope.benchmark.store import Store
from flawscope.benchmark.tables import METRICS, Results
from flawscope.errors import require_installed
from flawscope.machine import GIB, all_threads, memory
from flawscope.progress import counted, duration

Say = Callable[[str], None]
Ended = tuple[float, str | None]  # seconds that a cell took, and the reason if it failed
TICK = 0.5  # seconds between looks at what the processes say
CELL_MEMORY = 4 * GIB  # what a cell may take; those of the methods that come along stay below
CELL_THREADS = 2  # with fewer, reading pictures and computing wait for each other
QUIET = 60.0  # seconds after which a long cell is heard of again where there is no terminal


@dataclass(frozen=True)
class Plan:
    """How the grid is worked off: `jobs` cells at a time with `threads` threads each."""

    root: str
    jobs: int
    threads: int
    keep_models: bool = False


class Live:
    """Where each running cell is: on a terminal one line that is rewritten, elsewhere a line a minute.

    say: gets lines that may be left out. warn: gets those that may not.
    """

    def __init__(self, say: Say, warn: Say, terminal: bool):
        self.say, self.warn, self.terminal = say, warn, terminal
        self.running: dict[str, str] = {}
        self.said = time.monotonic()

    def show(self) -> None:
        if not self.running:
            return
        text = "; ".join(f"{label}: {where}" for label, where in list(self.running.items()))
        if self.terminal:
            width = shutil.get_terminal_size().columns - 1
            sys.stderr.write(f"\r\x1b[K{text[:width]}")
            sys.stderr.flush()
        elif time.monotonic() - self.said >= QUIET:
            self.said = time.monotonic()
            self.say(f"      {text}")

    def line(self, text: str, *, failed: bool) -> None:
        """A line that stays."""
        if self.terminal:
            sys.stderr.write("\r\x1b[K")
        self.said = time.monotonic()
        (self.warn if failed else self.say)(text)


def run(
    grid: Grid,
    store: Store,
    plan: Plan,
    lock: int | None,
    live: Live,
    after: Callable[[Results], None],
    workers: Workers | None = None,
) -> None:
    """Work off what is not done yet.

    One failure does not stop the rest. When this is interrupted, the cells are ended; what is done stays,
    and the next call goes on.

    Args:
        lock: file number that the processes keep open.
        after: called with what is known before the first cell and after each.
        workers: None: processes of this machine.
    """
    done, failed = finished(grid, store), dict[str, str]()
    for cell in grid.cells:
        if cell.name in done:
            store.clear(cell)
    after(Results(grid, dict(done), {}))
    workers = workers or Here(store, plan, lock, live)
    spent: dict[str, list[float]] = {}  # seconds of cells, by method
    waiting, left = deque(c for c in grid.cells if c.name not in done), dict[Future[Ended], Cell]()
    with ThreadPoolExecutor(workers.most) as pool:
        try:
            while waiting or left:
                while waiting and len(left) < workers.most:
                    cell = waiting.popleft()
                    left[pool.submit(workers.begin(cell))] = cell
                ended, _ = wait(left, TICK, FIRST_COMPLETED)
                live.show()
                for future in ended:
                    cell = left.pop(future)
                    seconds, reason = future.result()
                    document = store.read(cell)
                    if document is None:
                        failed[cell.name] = reason or "its results could not be read back: try again"
                    else:
                        done[cell.name] = document
                        spent.setdefault(cell.method, []).append(seconds)
                    results = Results(grid, dict(done), dict(failed))
                    text = _line(cell, results) + _left([*left.values(), *waiting], spent, plan.jobs)
                    live.line(text, failed=document is None)
                    if document is not None and reason:  # such as a model that could not be kept
                        live.line(f"      {cell.label}: {reason}", failed=True)
                    after(results)
        except BaseException:
            workers.end()
            raise


def finished(grid: Grid, store: Store) -> dict[str, dict[str, Any]]:
    """Documents of the cells that are done, by name."""
    found = {cell.name: store.read(cell) for cell in grid.cells}
    return {name: document for name, document in found.items() if document is not None}


# ------------------------------------------------------------------------------------------- where cells run


class Workers(Protocol):
    """Where cells are worked off.

    most: how many cells are begun before one has ended.
    """

    most: int

    def begin(self, cell: Cell) -> Callable[[], Ended]:
        """Called for one cell after the other. What it gives is called by a thread, and waits for the end."""

    def end(self) -> None:
        """Stop them: everything they write is whole or not there."""


class Here:
    """Processes of this machine."""

    def __init__(self, store: Store, plan: Plan, lock: int | None, live: Live):
        self.store, self.plan, self.lock, self.live = store, plan, lock, live
        self.most = plan.jobs
        self.running: dict[str, Process] = {}
        self.ending = False

    def begin(self, cell: Cell) -> Callable[[], Ended]:
        return partial(self._work_off, cell)

    def end(self) -> None:
        self.ending = True
        for process in list(self.running.values()):
            process.kill()

    def _work_off(self, cell: Cell) -> Ended:
        began = time.monotonic()

        def tell(where: str) -> None:
            self.live.running[cell.label] = where

        self.running[cell.name] = process = Process(task_of(cell, self.store, self.plan), tell, self.lock)
        if self.ending:
            process.kill()
        try:
            reason = process.run()
        finally:
            self.live.running.pop(cell.label, None)
            del self.running[cell.name]
        return time.monotonic() - began, reason


def task_of(cell: Cell, store: Store, plan: Plan) -> Task:
    """What a cell's process has to do, and where its files are."""
    return Task(
        root=os.path.abspath(plan.root),
        **vars(cell),
        threads=plan.threads,
        jobs=plan.jobs,
        work=str(store.work(cell)),
        out=str(store.cell(cell)),
        keep=str(store.model(cell)) if plan.keep_models else None,
    )


# ---------------------------------------------------------------------------------------------- messages


def _line(cell: Cell, results: Results) -> str:
    """What came out of a cell."""
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
    """How long the rest will take, where a cell of each of its methods is known."""
    if not rest or not all(cell.method in spent for cell in rest):
        return ""
    seconds = sum(statistics.fmean(spent[cell.method]) for cell in rest) / jobs
    return f"; about {duration(seconds)} left"


def default_jobs(cells: int, threads: int, device: str) -> tuple[int, str]:
    """How many cells at a time, and why."""
    if device not in ("auto", "cpu") or (device == "auto" and shutil.which("nvidia-smi")):
        return 1, "they share a graphics card"
    total = memory()
    free = GIB if total is None else total[1]
    by_threads, by_memory = threads // CELL_THREADS, free // CELL_MEMORY
    jobs = max(1, min(cells, by_threads, by_memory))
    if jobs == cells:
        return jobs, "there are no more"
    if by_memory < by_threads:
        return jobs, f"{free / GIB:.1f} GiB are free, and a cell may take {CELL_MEMORY // GIB}"
    return jobs, f"of {counted(threads, 'thread')} in all, a cell keeps {CELL_THREADS} busy"


def jobs_and_threads(
    cells: int, jobs: int | None, threads: int | None, device: str, say: Say
) -> tuple[int, int]:
    """How many cells at a time and with how many threads each, reported with the reason."""
    total = threads or all_threads()
    if jobs is None:
        jobs, reason = default_jobs(cells, total, device)
    else:
        jobs, reason = min(jobs, max(cells, 1)), "as --jobs says"
    each = max(1, total // jobs)
    say(f"{counted(jobs, 'cell')} at a time, {counted(each, 'thread')} each: {reason}")
    return jobs, each


def refuse_without_torch() -> None:
    """InputError where no cell could be worked off."""
    require_installed("fitting", "torch", "timm", extras="train")
