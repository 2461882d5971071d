"""Functions that run as tasks of the cluster: what each takes of its node, what runs where, how they end.

Ray decides where and when, and begins a task again whose node was lost. Files are those of a folder that all
nodes see; what a task writes there is whole or not there, so that a process that lives on for a while on a
node that was given up does no harm.
"""

from __future__ import annotations

import os
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from flawscope._version import __version__
from flawscope.benchmark.run import CELL_THREADS, TICK, Live
from flawscope.cluster.connect import Node, last_line, require_shared, require_version
from flawscope.errors import FlawscopeError, InputError, with_kind
from flawscope.machine import GIB
from flawscope.progress import counted

Tell = Callable[[str], None]
RETRIES = 5  # of a task whose node or process was lost
EVERY = 1.0  # seconds between two looks at what runs where, and between two messages of a task
STEP = 256 * 2**20  # bytes: tasks that ask for the same are begun in their order
PATIENCE = 30.0  # seconds for an answer of the cluster's, and for tasks that were stopped to end


@dataclass(frozen=True)
class Share:
    """What a task gets of its node: so many threads, each with a core, and graphics cards.

    nodes: those that have it.
    """

    threads: int
    gpus: int
    nodes: tuple[Node, ...]

    @property
    def most(self) -> int:
        """Bytes of memory that a task can ask for."""
        return max(node.memory for node in self.nodes)

    def at_once(self, peak: int = 0) -> int:
        """How many tasks of so many bytes the nodes have room for."""
        return sum(_room(node, self.threads, self.gpus, min(peak, self.most)) for node in self.nodes)


def share(found: Sequence[Node], count: int, threads: int | None, device: str) -> Share:
    """What each of `count` tasks gets.

    found: the nodes that take tasks.
    threads: None: as many as there are cores for when all tasks run at once, `CELL_THREADS` at least.
    device: a graphics card goes to each task where it may be one, and some node has one.

    Raises:
        InputError: no node has that.
    """
    if not found:
        raise InputError("the cluster has no node that takes tasks: add one with a core at least")
    gpus = int(device.startswith("cuda") or (device == "auto" and any(node.gpus >= 1 for node in found)))
    usable = tuple(node for node in found if node.gpus >= gpus)
    if not usable:
        raise InputError(f"--device {device}: no node of the cluster has a graphics card; give --device cpu")
    most = max(1, max(int(node.cpus) for node in usable))
    if threads is None:
        more = (n for n in range(most, CELL_THREADS, -1) if sum(_room(o, n, gpus) for o in usable) >= count)
        threads = next(more, min(CELL_THREADS, most))
    elif threads > most:
        raise InputError(f"no node has {counted(threads, 'core')}: give --threads {most} or fewer")
    return Share(threads, gpus, tuple(node for node in usable if _room(node, threads, gpus)))


def _room(node: Node, threads: int, gpus: int, memory: int = 0) -> int:
    """How many tasks a node has room for."""
    asked = (node.cpus, threads), (node.gpus, gpus), (node.memory, memory)
    return min(int(has // each) for has, each in asked if each)


class Jobs:
    """Tasks, each under a label. Made by `running`, in whose block they run."""

    def __init__(self, share: Share, live: Live, probe: Path, fresh: bool):
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self.share, self.live, self.probe = share, live, probe
        # strictly: it ends with this process, and asks for nothing; a soft wish does not hold for actors
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        board: Any = ray.remote(num_cpus=0, max_restarts=-1)(_Board)
        self.board = board.options(scheduling_strategy=here).remote()
        self.task: Any = ray.remote(max_calls=1)(_work) if fresh else ray.remote(_work)
        self.begun: dict[str, Any] = {}  # what stands for the results
        self.tries: dict[str, int] = {}  # how often each was begun, as far as that was said
        self.closing = threading.Event()
        self.over: Future[None] = Future()
        self.looking = threading.Thread(target=self._look, daemon=True)

    def begin(self, label: str, memory: int, function: Callable[..., Any], *given: Any) -> Callable[[], Any]:
        """Have `function(*given, tell)` called on a node that has `memory` bytes to spare; where no node has
        so many, on one of its own. `tell` takes where it is, such as "features 3 of 10".

        Returns:
            What waits for its end and gives what it gave. It raises a FlawscopeError where the function did,
            or where its process was lost.
        """
        asked = self.task.options(
            name=label,
            num_cpus=self.share.threads,
            num_gpus=self.share.gpus,
            memory=min(-(-memory // STEP) * STEP, self.share.most),
            max_retries=RETRIES,
        )
        ref = asked.remote(function, given, label, self.board, str(self.probe), __version__, os.getcwd())
        self.begun[label] = ref
        return partial(self._result, label, ref)

    def _result(self, label: str, ref: Any) -> Any:
        import ray

        try:
            done = ref.future()
            wait([done, self.over], return_when=FIRST_COMPLETED)
            return done.result(timeout=0)
        except (ray.exceptions.RaySystemError, ray.exceptions.GetTimeoutError, ConnectionError):
            raise  # the cluster itself
        except ray.exceptions.LocalRayletDiedError as error:
            raise ConnectionError(last_line(error)) from None
        except ray.exceptions.RayTaskError as error:
            cause = cause_of(error)
            raise cause from (None if cause is error.cause else error)
        except (ray.exceptions.RayError, TimeoutError) as error:
            raise FlawscopeError(_lost(error)) from None
        finally:
            del self.begun[label]

    def each(
        self,
        function: Callable[..., Any],
        given: Mapping[str, Any],
        memory: Mapping[str, int],
        done: Callable[[str, Any], None],
    ) -> None:
        """Run `function(given[label], tell)` for every label. `done` gets each label with what came out, or
        with the FlawscopeError, in the order in which they end."""
        with ThreadPoolExecutor(len(given)) as pool:
            left: dict[Future[Any], str] = {}
            try:
                for label, one in given.items():
                    left[pool.submit(self.begin(label, memory[label], function, one))] = label
                while left:
                    ended, _ = wait(left, TICK, FIRST_COMPLETED)
                    self.live.show()
                    for future in ended:
                        error = future.exception()
                        if error is not None and not isinstance(error, FlawscopeError):
                            raise error
                        done(left.pop(future), error or future.result())
            except BaseException:
                self.end(PATIENCE)
                raise

    def end(self, patience: float = 0.0) -> None:
        """Stop all tasks.

        patience: so many seconds they have to keep what they have learnt; 0: they are killed.
        """
        import ray

        for force in (False, True) if patience else (True,):
            begun = list(self.begun.values())
            with suppress(ray.exceptions.RayError, ConnectionError):  # where the cluster itself is gone
                for ref in begun:
                    ray.cancel(ref, force=force)
            wait([ref.future() for ref in begun], timeout=patience or PATIENCE)
        if not self.over.done():
            self.over.set_result(None)  # nobody waits any longer

    # ---- what runs where

    def _look(self) -> None:
        """Shows it, until the block ends. Without the board the work goes on unseen."""
        import ray

        while not self.closing.wait(EVERY):
            with suppress(Exception):
                told: dict[str, _Told] = ray.get(self.board.read.remote(), timeout=PATIENCE)
                alive, begun = _addresses(), list(self.begun)
                for label, one in told.items():
                    if one.tries > self.tries.setdefault(label, 1):
                        self.tries[label] = one.tries
                        text = f"{label}: its node or its process was lost; begins again on {one.address}"
                        self.live.line(text, failed=False)
                running = {label: told[label] for label in begun if label in told}
                found = {k: f"{one.text} ({one.address})" for k, one in running.items() if one.node in alive}
                if begun and not found:
                    found = {counted(len(begun), "task"): "waiting for a node"}
                self.live.running = found

    def note(self, label: str) -> Path:
        """A file that a task can leave for its next try. It goes when all have ended."""
        return self.probe.with_name(f"{self.probe.stem}-{label}{self.probe.suffix}")

    def close(self) -> None:
        self.closing.set()
        self.looking.join(PATIENCE)
        self.live.running = {}


@contextmanager
def running(folder: Path, share: Share, live: Live, *, fresh: bool = False) -> Iterator[Jobs]:
    """Tasks that write to a folder.

    Args:
        fresh: a new process for each.

    Raises:
        InputError: not all nodes see the folder.
    """
    probe = Path(os.path.abspath(folder)) / f".{secrets.token_hex(4)}.part"  # its name says that it may go
    probe.touch()
    try:
        require_shared(probe, "give an --out that all nodes see under the same path")
        jobs = Jobs(share, live, probe, fresh)
        jobs.looking.start()
        try:
            yield jobs
        finally:
            jobs.close()
    finally:
        for path in probe.parent.glob(f"{probe.stem}*"):
            path.unlink(missing_ok=True)


def _addresses() -> dict[str, str]:
    """Of the nodes that are alive, by their ids."""
    import ray

    nodes: Any = ray.nodes
    return {node["NodeID"]: node["NodeManagerAddress"] for node in nodes() if node["Alive"]}


# ------------------------------------------------------------------------------------------------- on a node


class _Told(NamedTuple):
    """Where a task is; `tries`: how often it was begun."""

    node: str
    address: str
    text: str
    tries: int


class _Board:
    """What every task told last."""

    def __init__(self) -> None:
        self.told: dict[str, _Told] = {}

    def tell(self, label: str, node: str, address: str, text: str, begins: bool) -> None:
        before = self.told[label].tries if label in self.told else 0
        self.told[label] = _Told(node, address, text, before + begins)

    def read(self) -> dict[str, _Told]:
        return self.told


def _work(
    function: Callable[..., Any],
    given: tuple[Any, ...],
    label: str,
    board: Any,
    probe: str,
    version: str,
    folder: str,
) -> Any:
    import ray

    node = ray.get_runtime_context().get_node_id()
    address = _addresses()[node]
    require_version(version)
    if not os.path.exists(probe):  # one that came later
        raise FlawscopeError(f"node {address} does not see {os.path.dirname(probe)}: mount it there")
    with suppress(OSError):  # paths may be relative; where the folder is not there, absolute ones are enough
        os.chdir(folder)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # how Ray cancels; Python may ignore it
    board.tell.remote(label, node, address, "starts", True)
    told = time.monotonic()

    def tell(text: str) -> None:
        nonlocal told
        if time.monotonic() - told >= EVERY:
            told = time.monotonic()
            board.tell.remote(label, node, address, text, False)

    return function(*given, tell)


def cause_of(error: Any) -> FlawscopeError:
    """What a function raised on a node, of a RayTaskError."""
    cause = error.cause
    if isinstance(cause, FlawscopeError):
        return cause
    if isinstance(cause, ImportError):
        return FlawscopeError(f"a node cannot import what it needs ({cause}): install flawscope[train] there")
    if isinstance(cause, MemoryError):
        return FlawscopeError("not enough memory: choose a smaller size")
    return FlawscopeError(f"unexpected {with_kind(cause)}")


def _lost(error: BaseException) -> str:
    import ray

    if isinstance(error, ray.exceptions.OutOfMemoryError):
        return "its node ran out of memory: choose a smaller size, or give nodes with more"
    if isinstance(error, ray.exceptions.TaskCancelledError | TimeoutError):
        return "it was stopped"
    return f"its process was lost {RETRIES + 1} times: {last_line(error)}; try again"


def memory_line(peaks: Sequence[int], share: Share) -> str:
    """What tasks ask for, in words."""
    low, high = (f"{peak / GIB:.1f}" for peak in (min(peaks), max(peaks)))
    text = f"{high} GiB" if low == high else f"{low} to {high} GiB"
    return text + (f", and no node has more than {share.most / GIB:.1f}" if max(peaks) > share.most else "")
