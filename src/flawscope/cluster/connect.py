"""Connects a command to a Ray cluster, lists its nodes' resources, and explains its errors."""

from __future__ import annotations

import importlib
import logging
import os
import re
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from flawscope._version import __version__
from flawscope.errors import FlawscopeError, InputError, pluralize, require_installed, with_kind
from flawscope.machine import FIT_THREADS, cores

SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent to anybody
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # Ray warns of a change that does not concern us
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # errors arrive as exceptions, too
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # nodes tell of tasks that are tried again, on stdout
    "RAY_task_oom_retries": "5",  # else a task that takes more memory than there is would begin for ever
}
ON_LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # 0, on every system: Ray listens on 127.0.0.1 alone
PATIENCE = 10.0  # seconds for somebody to answer at an address
TRIES = 5  # for a client of ray:// the head forks a process, which gRPC now and then ends at once
ENDED_AT_ONCE = "Starting Ray client server failed", "psutil.ZombieProcess", "psutil.NoSuchProcess"
REPEAT = "the same call goes on where this one stopped"


def check(where: str) -> None:
    """Raises an InputError for an unknown `--cluster`, or a missing Ray, before anything is loaded."""
    if where not in ("auto", "local") and not re.fullmatch(r"(ray://)?[^\s/:]+:\d+", where):
        raise InputError(
            f"--cluster {where}: write auto (the cluster that runs here), local (this machine alone), or an "
            "address such as ray://HOST:10001 or HOST:6379"
        )
    require_installed("--cluster", "ray", extras="cluster")


@contextmanager
def connected(where: str) -> Iterator[None]:
    """Connects for the length of the block; a cluster of this machine's own ends with it.

    Args:
        where: auto (the cluster that runs on this machine, or that RAY_ADDRESS names), local (one is started
            here, with all cores), or an address.

    Raises:
        InputError: there is no such cluster, or its versions are others.
        FlawscopeError: the cluster was lost.
    """
    check(where)
    for name, value in SETTINGS.items():  # read when Ray is imported
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():  # by the program that calls: not ours to end
        raise InputError("this program is connected to a Ray cluster already: call ray.shutdown() first")
    try:
        _join(where)
        yield
    except (ray.exceptions.RayError, ConnectionError) as error:
        raise FlawscopeError(f"the cluster was lost: {last_line(error)}; {REPEAT}") from None
    finally:
        ray.shutdown()


def _join(where: str) -> None:
    """Connects to the cluster, or starts one of this machine's own. InputError where it cannot."""
    import ray

    own: dict[str, Any] = {"num_cpus": cores(), "include_dashboard": False} if where == "local" else {}
    for left in reversed(range(TRIES)):
        try:
            if ":" in where:  # Ray itself tries for two minutes
                host, port = where.removeprefix("ray://").rsplit(":", 1)
                socket.create_connection((host, int(port)), timeout=PATIENCE).close()
            with _without_stderr(), _on_loopback(where == "local"):
                ray.init(address=where, log_to_driver=False, logging_level=logging.ERROR, **own)
            break
        except (OSError, OverflowError, ValueError, RuntimeError) as error:
            ray.shutdown()
            if not left or not any(sign in str(error) for sign in ENDED_AT_ONCE):
                raise InputError(_refused(where, error)) from None
    # Ray prints on stdout that it begins tasks of lost nodes again, and has no setting for it
    worker: Any = importlib.import_module("ray._private.worker")
    worker.print_to_stdstream = lambda data, ignore_prefix=False: None


def _refused(where: str, error: BaseException) -> str:
    if where == "auto":
        return (
            "--cluster auto: no Ray cluster runs here; start one with `ray start --head`, give its address, "
            "or take --cluster local"
        )
    reason = "its Python or Ray is of another version" if "ersion" in str(error) else last_line(error)
    return f"--cluster {where}: cannot connect: {reason}; check the address, and that it can be reached"


@contextmanager
def _on_loopback(wanted: bool) -> Iterator[None]:
    """Starts a cluster for this machine alone: whoever reaches its ports could run code here."""
    if not wanted:
        yield
        return
    constants: Any = importlib.import_module("ray._private.ray_constants")
    before, known = os.environ.get(ON_LOOPBACK), constants.ENABLE_RAY_CLUSTER
    os.environ[ON_LOOPBACK], constants.ENABLE_RAY_CLUSTER = "0", False  # for Ray's processes, and here
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = known
        del os.environ[ON_LOOPBACK]
        if before is not None:
            os.environ[ON_LOOPBACK] = before


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Silences Ray's own processes while they start."""
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


# ------------------------------------------------------------------------------------------------- its nodes


class Node(NamedTuple):
    """Resources that a machine offers to tasks: `memory` in bytes. id: Ray's."""

    name: str
    cpus: float
    gpus: float
    memory: int
    id: str = ""

    def room(self, threads: int, gpus: int = 0, memory: int = 0) -> int:
        """Number of tasks with so many cores, graphics cards and bytes that fit at once."""
        asked = (self.cpus, threads), (self.gpus, gpus), (self.memory, memory)
        return min(int(has // each) for has, each in asked if each)


class Share(NamedTuple):
    """Resources of one task, threads with a core each and graphics cards; and the nodes that have as many."""

    threads: int
    gpus: int
    nodes: tuple[Node, ...]

    @property
    def most(self) -> int:
        """Bytes of memory that a task can ask for."""
        return max(node.memory for node in self.nodes)

    def at_once(self, peak: int = 0) -> int:
        """Number of tasks of `peak` bytes that fit on the nodes."""
        return sum(node.room(self.threads, self.gpus, min(peak, self.most)) for node in self.nodes)


def nodes() -> list[Node]:
    """The machines of this connection that are alive and take tasks. InputError where there is none."""
    import ray

    found = []
    for node in ray.nodes():
        has = node["Resources"]
        if node["Alive"] and has.get("CPU"):
            memory, name = int(has.get("memory", 0)), node["NodeManagerAddress"]
            found.append(Node(name, has["CPU"], has.get("GPU", 0.0), memory, node["NodeID"]))
    if not found:
        raise InputError("the cluster has no node that takes tasks: add one with a core at least")
    return found


def share(
    found: Sequence[Node], count: int, threads: int | None, device: str, least: int = FIT_THREADS
) -> Share:
    """Divides the nodes among `count` tasks.

    Args:
        found: the nodes that take tasks.
        threads: None: as many as there are cores for when all tasks run at once, `least` at least.
        device: a graphics card goes to each task where it may be one, and some node has one.

    Raises:
        InputError: no node has that.
    """
    gpus = int(device.startswith("cuda") or (device == "auto" and any(node.gpus >= 1 for node in found)))
    usable = [node for node in found if node.gpus >= gpus]
    if not usable:
        raise InputError(f"--device {device}: no node of the cluster has a graphics card; give --device cpu")
    most = max(1, max(int(node.cpus) for node in usable))
    if threads is None:
        more = (n for n in range(most, least, -1) if sum(node.room(n, gpus) for node in usable) >= count)
        threads = next(more, min(least, most))
    if threads > most:
        raise InputError(f"no node has {pluralize(threads, 'core')}: give --threads {most} or fewer")
    return Share(threads, gpus, tuple(node for node in usable if node.room(threads, gpus)))


def require_shared(path: str | os.PathLike[str], remedy: str) -> None:
    """Raises an InputError where a node does not see a file or folder."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    where, there = os.path.abspath(path), nodes()
    sees = ray.remote(num_cpus=0, max_retries=3)(os.path.exists)
    places = [NodeAffinitySchedulingStrategy(node.id, soft=False) for node in there]
    seen = ray.get([sees.options(scheduling_strategy=place).remote(where) for place in places])
    for node in (node for node, found in zip(there, seen, strict=True) if not found):
        raise InputError(f"node {node.name} does not see {where}: {remedy}")


def require_shared_folder(folder: str | os.PathLike[str]) -> None:
    """Raises an InputError where a node does not see this very folder; a file made for a moment tells."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".", suffix=".part") as probe:
        require_shared(probe.name, "give an --out that all nodes see under the same path")


def begin_on_node(version: str, folder: str) -> None:
    """Prepares a node's process for a task: relative paths begin in `folder`, where it is there. InputError
    where the command has another version of flawscope."""
    if version != __version__:
        raise InputError(
            f"node {socket.gethostname()} has flawscope {__version__}, this command {version}: install the "
            "same there"
        )
    with suppress(OSError):  # absolute paths are enough
        os.chdir(folder)


# --------------------------------------------------------------------------------- news and errors of tasks


class News:
    """Ray queue from tasks to this process; it lives on this process's node, and ends with it."""

    def __init__(self) -> None:
        import ray
        from ray.util.queue import Queue
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self.queue: Any = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})

    def put(self, *news: Any) -> None:
        """Sends news, without waiting."""
        self.queue.actor.put_nowait.remote(news)

    def get(self) -> list[tuple[Any, ...]]:
        """Returns all news since the last call; an empty list where the queue is lost."""
        with suppress(Exception):
            return list(self.queue.get_nowait_batch(self.queue.qsize()))
        return []


def value_of(ref: Any) -> Any:
    """The value of a task that has ended. FlawscopeError: its function raised an error.
    ray.exceptions.RayError: its process was lost."""
    import ray

    try:
        return ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        cause = cause_of(error)
        raise cause from (None if cause is error.cause else error)


def cause_of(error: Any) -> FlawscopeError:
    """Error for a person, made from a RayTaskError, which a function raised on a node."""
    cause = error.cause
    if isinstance(cause, FlawscopeError):
        return cause
    if isinstance(cause, ImportError):
        return FlawscopeError(f"a node cannot import a library ({cause}): install flawscope[train] there")
    if isinstance(cause, MemoryError):
        return FlawscopeError("not enough memory: choose a smaller size")
    return FlawscopeError(f"unexpected {with_kind(cause)}")


def last_line(error: BaseException) -> str:
    """The end of an error's text, where Ray names the cause."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = re.sub(r"^\w+(Error|Exception): ", "", lines[-1]) if lines else ""  # of its cause
    return said[:300] or type(error).__name__
