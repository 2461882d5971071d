"""`benchmark --cluster`: the cells of a grid as tasks."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from flawscope.benchmark.grid import Cell
from flawscope.benchmark.process import Process
from flawscope.benchmark.run import Ended, Live, Plan, task_of
from flawscope.benchmark.store import Store
from flawscope.cluster.connect import nodes, require_shared
from flawscope.cluster.jobs import Jobs, Tell, memory_line, running, share
from flawscope.cluster.peaks import peaks
from flawscope.errors import FlawscopeError
from flawscope.progress import counted

Say = Callable[[str], None]
SEEN = 60.0  # seconds until a file that a node wrote is seen here: network file systems remember for a while


@contextmanager
def workers(
    cells: Sequence[Cell],
    store: Store,
    root: str,
    live: Live,
    say: Say,
    *,
    jobs: int | None,
    threads: int | None,
    device: str,
    keep_models: bool,
) -> Iterator[tuple[Plan, Cells]]:
    """The nodes of the cluster that this process is connected to, for `benchmark.run.run`.

    Args:
        cells: that are left.
        jobs: cells at a time; None: all, and those that no node has room for wait.
        threads: of a cell; None: see `share`.

    Raises:
        InputError: no node can work on a cell, or not all see the pictures and the store.
    """
    each = share(nodes(), len(cells), threads, device)
    require_shared(root, "put the pictures where every node sees them under this path")
    with running(store.root, each, live) as tasks:
        asked = {_but_for_seed(cell): _fit(cell, root) for cell in cells}
        known = dict(zip(asked, peaks(list(asked.values()), each), strict=True))
        memory = {cell.name: known[_but_for_seed(cell)] for cell in cells}
        at_once = max(1, min(len(cells), jobs or len(cells), each.at_once(max(memory.values()))))
        say(
            f"{counted(at_once, 'cell')} at a time on {counted(len(each.nodes), 'node')}, "
            f"{counted(each.threads, 'thread')} each, {memory_line(list(memory.values()), each)} each"
        )
        plan = Plan(os.path.abspath(root), at_once, each.threads, keep_models)
        yield plan, Cells(tasks, store, plan, min(len(cells), jobs or len(cells)), memory)


class Cells:
    """`benchmark.run.Workers`: each cell is a process on the node that gets it.

    memory: what a cell takes, in bytes, by its name.
    """

    def __init__(self, tasks: Jobs, store: Store, plan: Plan, most: int, memory: dict[str, int]):
        self.tasks, self.plan, self.most, self.memory = tasks, plan, most, memory
        self.store = Store(Path(os.path.abspath(store.root)))

    def begin(self, cell: Cell) -> Callable[[], Ended]:
        given = cell, self.store.root, self.plan
        result = self.tasks.begin(cell.label, self.memory[cell.name], _work_off, *given)
        return partial(self._ended, cell, result, time.monotonic())

    def _ended(self, cell: Cell, result: Callable[[], str | None], began: float) -> Ended:
        try:
            reason = result()
        except FlawscopeError as error:
            reason = str(error)
        seconds = time.monotonic() - began
        while reason is None and self.store.read(cell) is None and time.monotonic() < began + seconds + SEEN:
            os.listdir(self.store.cells)  # has the file system look again
            time.sleep(0.2)
        return seconds, reason

    def end(self) -> None:
        self.tasks.end()


def _work_off(cell: Cell, root: Path, plan: Plan, tell: Tell) -> str | None:
    """On a node: the reason if it failed. The process ends with this one, since its stdin closes."""
    store = Store(root)
    if store.read(cell) is not None:
        return None  # the node was lost when it was done
    return Process(task_of(cell, store, plan), tell).run()


def _but_for_seed(cell: Cell) -> str:
    """Cells that differ in their seed alone take the same."""
    return repr((cell.category, cell.method, {k: v for k, v in cell.options.items() if k != "seed"}))


def _fit(cell: Cell, root: str) -> dict[str, Any]:
    """As `predicted_peak` takes it."""
    return {
        "images": os.path.abspath(root),
        "category": cell.category,
        "method": cell.method,
        "group": cell.group,
        "seen": cell.seen,
        "device": cell.device,
        **cell.options,
    }
