"""Working a grid off: a process for each cell, some at a time, and tables after each of them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flawscope.benchmark.cell import Task
from flawscope.benchmark.grid import Cell, Grid
from flawscope.benchmark.store import Store
from flawscope.benchmark.tables import METRICS, Results
from flawscope.errors import require_installed
from flawscope.machine import GIB, all_threads, memory
from flawscope.progress import counted, duration

Say = Callable[[str], None]
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
) -> None:
    """Work off what is not done yet.

    One failure does not stop the rest. When this is interrupted, the processes are ended; what is done stays,
    and the next call goes on.

    Args:
        lock: file number that the processes keep open.
        after: called with what is known before the first cell and after each.
    """
    done, failed = finished(grid, store), dict[str, str]()
    after(Results(grid, dict(done), {}))
    processes = _Processes(store, plan, lock, live)
    spent: dict[str, list[float]] = {}  # seconds of cells, by method
    with ThreadPoolExecutor(plan.jobs) as pool:
        futures = {pool.submit(processes.work_off, c): c for c in grid.cells if c.name not in done}
        left = set(futures)
        try:
            while left:
                ended, left = wait(left, TICK, FIRST_COMPLETED)
                live.show()
                for future in ended:
                    cell = futures[future]
                    seconds, reason = future.result()
                    document = store.read(cell)
                    if document is None:
                        failed[cell.name] = reason or "its results could not be read back: try again"
                    else:
                        done[cell.name] = document
                        spent.setdefault(cell.method, []).append(seconds)
                    results = Results(grid, dict(done), dict(failed))
                    text = _line(cell, results) + _left([futures[f] for f in left], spent, plan.jobs)
                    live.line(text, failed=document is None)
                    if document is not None and reason:  # such as a model that could not be kept
                        live.line(f"      {cell.label}: {reason}", failed=True)
                    after(results)
        except BaseException:
            processes.end()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def finished(grid: Grid, store: Store) -> dict[str, dict[str, Any]]:
    """Documents of the cells that are done, by name."""
    found = {cell.name: store.read(cell) for cell in grid.cells}
    return {name: document for name, document in found.items() if document is not None}


# --------------------------------------------------------------------------------------------------- one cell


class _Processes:
    """Those that run. `work_off` is called by threads, `end` by the one that waits for them."""

    def __init__(self, store: Store, plan: Plan, lock: int | None, live: Live):
        self.store, self.plan, self.lock, self.live = store, plan, lock, live
        self.running: dict[str, subprocess.Popen[str]] = {}
        self.ending = threading.Event()

    def end(self) -> None:
        """Kill them: everything they write is whole or not there."""
        self.ending.set()
        for process in list(self.running.values()):
            process.kill()

    def work_off(self, cell: Cell) -> tuple[float, str | None]:
        """Run a cell's process to its end: seconds, and the reason if it failed."""
        began = time.monotonic()
        try:
            reason = self._run(cell)
        except OSError as error:
            where = f" ({error.filename})" if error.filename else ""
            reason = f"its process could not be run: {error.strerror or error}{where}; try again"
        return time.monotonic() - began, reason

    def _run(self, cell: Cell) -> str | None:
        """The reason if it failed; OSError where there is no place for its files, or no process."""
        work = self.store.work(cell)
        work.mkdir(parents=True, exist_ok=True)
        log = work / "log.txt"
        process = self._start(log)
        self.running[cell.name] = process
        if self.ending.is_set():
            process.kill()
        try:
            error = self._listen(process, cell)
        finally:
            code = process.wait()
            self.live.running.pop(cell.label, None)
            del self.running[cell.name]
        return None if code == 0 else error or _ended(code, log)

    def _start(self, log: Path) -> subprocess.Popen[str]:
        threads = {name: str(self.plan.threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        with open(log, "w", encoding="utf-8") as stderr:
            return subprocess.Popen(
                [sys.executable, "-m", "flawscope.benchmark.cell"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env={**os.environ, **threads},
                start_new_session=True,  # Ctrl-C comes to this process alone, which ends the others
                pass_fds=() if self.lock is None else (self.lock,),
            )

    def _listen(self, process: subprocess.Popen[str], cell: Cell) -> str | None:
        """Tell it what to do, and show where it is; the last words of one that failed."""
        error = None
        self.live.running[cell.label] = "starts"
        with suppress(OSError, ValueError), process:  # it may be killed in the middle of a word
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps(asdict(self._task(cell))) + "\n")
            process.stdin.flush()  # and stays open: when this process dies, that one ends
            for line in process.stdout:
                message = json.loads(line)
                error = message.get("error", error)
                if "stage" in message:
                    where = f"{message['stage']} {message['done']} of {message['total']}"
                    self.live.running[cell.label] = where
            process.wait()  # with its stdin open to the end
        return error

    def _task(self, cell: Cell) -> Task:
        return Task(
            root=os.path.abspath(self.plan.root),
            **vars(cell),
            threads=self.plan.threads,
            jobs=self.plan.jobs,
            work=str(self.store.work(cell)),
            out=str(self.store.cell(cell)),
            keep=str(self.store.model(cell)) if self.plan.keep_models else None,
        )


def _ended(code: int, log: Path) -> str:
    """Why a process ended that said nothing."""
    if code == -9:
        return (
            "its process was killed, as systems do when memory runs out: give fewer --jobs or a smaller size"
        )
    if code < 0:
        return f"its process was ended by signal {signal.Signals(-code).name}: try again"
    words = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f"its process ended with code {code}: {words[-1] if words else 'it said nothing'}"


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
