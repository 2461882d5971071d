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
from typing import TYPE_CHECKING, Any, NamedTuple

from flawscope._version import __version__
from flawscope.errors import FlawscopeError, InputError, message_with_type, pluralize, require_installed
from flawscope.machine import FIT_THREADS, usable_cores

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.exceptions import RayTaskError

    from flawscope.types import Json

RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent to anybody
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # Ray warns of a change that does not concern us
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # errors arrive as exceptions, too
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # nodes tell of tasks that are tried again, on stdout
    "RAY_task_oom_retries": "5",  # else a task that takes more memory than there is would begin for ever
}
CLUSTER_VARIABLE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # 0: listens on 127.0.0.1 alone, on any OS
CONNECT_TIMEOUT = 10.0  # seconds for somebody to answer at an address
CONNECT_ATTEMPTS = 5  # the head forks a process for a ray:// client, which gRPC now and then kills
TRANSIENT_ERRORS = "Starting Ray client server failed", "psutil.ZombieProcess", "psutil.NoSuchProcess"
RESUME_HINT = "the same call goes on where this one stopped"


def check_address(address: str) -> None:
    """Raise InputError for an unknown `--cluster`, or a missing Ray, before anything is loaded."""
    if address not in ("auto", "local") and not re.fullmatch(r"(ray://)?[^\s/:]+:\d+", address):
        raise InputError(
            f"--cluster {address}: write auto (the cluster that runs here), local (this machine alone), or "
            "an address such as ray://HOST:10001 or HOST:6379"
        )
    require_installed("--cluster", "ray", extras="cluster")


@contextmanager
def cluster_connection(address: str) -> Iterator[None]:
    """Connect for the length of the block; a cluster that is started here ends with it.

    Args:
        address: auto (the cluster that runs on this machine, or that RAY_ADDRESS names), local (a cluster is
            started here, with all cores), or an address.

    Raises:
        InputError: There is no such cluster, or it has other versions of Ray or Python.
        FlawscopeError: The cluster was lost.
    """
    check_address(address)
    for name, value in RAY_ENVIRONMENT.items():  # read when Ray is imported
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():  # by the program that calls: not ours to end
        raise InputError("this program is connected to a Ray cluster already: call ray.shutdown() first")
    try:
        _connect(address)
        yield
    except (ray.exceptions.RayError, ConnectionError) as error:
        raise FlawscopeError(f"the cluster was lost: {last_line(error)}; {RESUME_HINT}") from None
    finally:
        ray.shutdown()


def _connect(address: str) -> None:
    """Connect to the cluster, or start a cluster on this machine; raise InputError where that fails."""
    import ray

    options: Json = {}
    if address == "local":
        options = {"num_cpus": usable_cores(), "include_dashboard": False}
    for left in reversed(range(CONNECT_ATTEMPTS)):
        try:
            if ":" in address:  # Ray itself tries for two minutes
                host, port = address.removeprefix("ray://").rsplit(":", 1)
                socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT).close()
            with _silent_stderr(), _loopback_only(address == "local"):
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **options)
            break
        except (OSError, OverflowError, ValueError, RuntimeError) as error:
            ray.shutdown()
            if not left or not any(sign in str(error) for sign in TRANSIENT_ERRORS):
                raise InputError(_connection_error(address, error)) from None
    # Ray prints on stdout that it begins tasks of lost nodes again, and has no setting for it
    worker: Any = importlib.import_module("ray._private.worker")
    worker.print_to_stdstream = lambda data, ignore_prefix=False: None


def _connection_error(address: str, error: BaseException) -> str:
    if address == "auto":
        return (
            "--cluster auto: no Ray cluster runs here; start one with `ray start --head`, give its address, "
            "or take --cluster local"
        )
    reason = "its Python or Ray is of another version" if "ersion" in str(error) else last_line(error)
    return f"--cluster {address}: cannot connect: {reason}; check the address, and that it can be reached"


@contextmanager
def _loopback_only(enabled: bool) -> Iterator[None]:
    """Make Ray listen on 127.0.0.1 alone: anybody who reaches its ports could run code here."""
    if not enabled:
        yield
        return
    constants: Any = importlib.import_module("ray._private.ray_constants")
    before = os.environ.get(CLUSTER_VARIABLE)
    known = constants.ENABLE_RAY_CLUSTER
    os.environ[CLUSTER_VARIABLE], constants.ENABLE_RAY_CLUSTER = ("0", False)  # for Ray's processes, and here
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = known
        del os.environ[CLUSTER_VARIABLE]
        if before is not None:
            os.environ[CLUSTER_VARIABLE] = before


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Discard the output of Ray's processes on stderr while they start."""
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
    """Resources that a machine offers to tasks.

    Attributes:
        name: Its network address.
        cpus: Number of cores.
        gpus: Number of graphics cards.
        memory: Memory in bytes.
        id: Ray's name of the machine.
    """

    name: str
    cpus: float
    gpus: float
    memory: int
    id: str = ""

    def capacity(self, threads: int, gpus: int = 0, memory: int = 0) -> int:
        """Return the number of tasks that fit at once; each needs this many cores, GPUs and bytes."""
        asked = (self.cpus, threads), (self.gpus, gpus), (self.memory, memory)
        return min(int(has // each) for has, each in asked if each)


class TaskResources(NamedTuple):
    """Resources of a task, and the nodes that can run it.

    Attributes:
        threads: Number of threads, with a core each.
        gpus: Number of graphics cards.
        nodes: The machines that have these resources.
    """

    threads: int
    gpus: int
    nodes: tuple[Node, ...]

    @property
    def max_memory(self) -> int:
        """Bytes of memory that a task can ask for."""
        return max(node.memory for node in self.nodes)

    def max_concurrency(self, peak: int = 0) -> int:
        """Return the number of tasks of `peak` bytes that fit on the nodes at once."""
        return sum(node.capacity(self.threads, self.gpus, min(peak, self.max_memory)) for node in self.nodes)


def list_nodes() -> list[Node]:
    """Return the machines of this connection that are alive and take tasks; raise InputError for none."""
    import ray

    found = []
    for node in ray.nodes():
        has = node["Resources"]
        if node["Alive"] and has.get("CPU"):
            memory = int(has.get("memory", 0))
            name = node["NodeManagerAddress"]
            found.append(Node(name, has["CPU"], has.get("GPU", 0.0), memory, node["NodeID"]))
    if not found:
        raise InputError("the cluster has no node that takes tasks: add one with a core at least")
    return found


def allocate(nodes: Sequence[Node], count: int, threads: int | None, device: str) -> TaskResources:
    """Choose the resources of each of `count` tasks.

    Args:
        nodes: The nodes that take tasks.
        count: Number of tasks.
        threads: Threads of a task; None: the most with which all tasks can run at once, but at least
            `FIT_THREADS`.
        device: cuda: each task has a graphics card. auto: likewise, if some node has one.

    Raises:
        InputError: No node has these resources.
    """
    gpus = int(device.startswith("cuda") or (device == "auto" and any(node.gpus >= 1 for node in nodes)))
    usable = [node for node in nodes if node.gpus >= gpus]
    if not usable:
        raise InputError(f"--device {device}: no node of the cluster has a graphics card; give --device cpu")
    max_threads = max(1, max(int(node.cpus) for node in usable))
    if threads is None:
        counts = range(max_threads, FIT_THREADS, -1)
        more = (n for n in counts if sum(node.capacity(n, gpus) for node in usable) >= count)
        threads = next(more, min(FIT_THREADS, max_threads))
    if threads > max_threads:
        raise InputError(f"no node has {pluralize(threads, 'core')}: give --threads {max_threads} or fewer")
    return TaskResources(threads, gpus, tuple(node for node in usable if node.capacity(threads, gpus)))


def require_shared(path: str | os.PathLike[str], remedy: str) -> None:
    """Raise InputError, with a remedy, where a node does not see a file or folder."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    where = os.path.abspath(path)
    nodes = list_nodes()
    sees = ray.remote(num_cpus=0, max_retries=3)(os.path.exists)
    places = [NodeAffinitySchedulingStrategy(node.id, soft=False) for node in nodes]
    seen = ray.get([sees.options(scheduling_strategy=place).remote(where) for place in places])
    for node in (node for node, found in zip(nodes, seen, strict=True) if not found):
        raise InputError(f"node {node.name} does not see {where}: {remedy}")


def require_shared_folder(folder: str | os.PathLike[str]) -> None:
    """Raise InputError where a node does not see a temporary file that is written to this folder."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".", suffix=".part") as probe:
        require_shared(probe.name, "give an --out that all nodes see under the same path")


def prepare_node(version: str, folder: str) -> None:
    """Prepare a node's process for a task: relative paths begin in `folder`, if it exists there.

    Raises:
        InputError: The command has another `version` of flawscope than this node.
    """
    if version != __version__:
        raise InputError(
            f"node {socket.gethostname()} has flawscope {__version__}, this command {version}: install the "
            "same there"
        )
    with suppress(OSError):  # absolute paths are enough
        os.chdir(folder)


# ------------------------------------------------------------------------------- progress and errors of tasks


class ProgressQueue:
    """Ray queue of messages from tasks to this process; it runs on this process's node, and ends with it."""

    def __init__(self) -> None:
        import ray
        from ray.util.queue import Queue
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self.queue: Any = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})

    def put(self, *message: object) -> None:
        """Send a message, without waiting."""
        self.queue.actor.put_nowait.remote(message)

    def get(self) -> list[tuple[str, str, int, int]]:
        """Return all messages since the last call; an empty list where the queue is lost."""
        with suppress(Exception):
            return list(self.queue.get_nowait_batch(self.queue.qsize()))
        return []


def task_result(ref: ObjectRef) -> object:
    """Return the value of a task that has ended.

    Raises:
        FlawscopeError: Its function raised an error.
        ray.exceptions.RayError: Its process was lost.
    """
    import ray

    try:
        return ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        cause = error_of_task(error)
        raise cause from (None if cause is error.cause else error)


def error_of_task(error: RayTaskError) -> FlawscopeError:
    """Make an error for a person from a RayTaskError, whose cause a function raised on a node."""
    cause = error.cause
    if isinstance(cause, FlawscopeError):
        return cause
    if isinstance(cause, ImportError):
        return FlawscopeError(f"a node cannot import a library ({cause}): install flawscope[train] there")
    if isinstance(cause, MemoryError):
        return FlawscopeError("not enough memory: choose a smaller size")
    return FlawscopeError(f"unexpected {message_with_type(cause)}")


def last_line(error: BaseException) -> str:
    """Return the last line of an error's text, where Ray names the cause."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = re.sub(r"^\w+(Error|Exception): ", "", lines[-1]) if lines else ""  # of its cause
    return said[:300] or type(error).__name__
