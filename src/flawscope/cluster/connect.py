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
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # keep apart the lines of nodes that try tasks again
    "RAY_task_oom_retries": "5",  # by default a task that needs too much memory begins again without end
}
CLUSTER_VARIABLE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # 0: Ray listens on 127.0.0.1 alone, on any OS
CONNECT_TIMEOUT = 10.0  # seconds until an address must answer
CONNECT_ATTEMPTS = 5  # the head forks a process for a ray:// client, which gRPC now and then kills
# Texts of errors of such a process
TRANSIENT_ERRORS = "Starting Ray client server failed", "psutil.ZombieProcess", "psutil.NoSuchProcess"
MAX_ERROR_LENGTH = 300  # characters of a line from Ray
STDERR = 2  # its file descriptor
RESUME_HINT = "the same call goes on where this one stopped"


def check_address(address: str) -> None:
    """Check the value of `--cluster`, before anything is loaded.

    Raises:
        InputError: The value is not valid, or Ray is not installed.
    """
    if address not in ("auto", "local") and not re.fullmatch(r"(ray://)?[^\s/:]+:\d+", address):
        raise InputError(
            f"--cluster {address}: write auto (the cluster that runs here), local (this machine alone), or "
            "an address such as ray://HOST:10001 or HOST:6379"
        )
    require_installed("--cluster", "ray", extras="cluster")


@contextmanager
def cluster_connection(address: str) -> Iterator[None]:
    """Connect to a cluster for the length of the block. A cluster that is started here ends with the block.

    Args:
        address: auto (the cluster that runs on this machine, or that RAY_ADDRESS names), local (a cluster is
            started here, with all cores), or an address.

    Raises:
        InputError: The cluster cannot be reached, or it has other versions of Ray or Python.
        FlawscopeError: The cluster was lost.
    """
    check_address(address)
    for name, value in RAY_ENVIRONMENT.items():  # Ray reads them at its import
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():  # the program that calls this has a connection, which only it may end
        raise InputError("this program is connected to a Ray cluster already: call ray.shutdown() first")
    try:
        _connect(address)
        yield
    except (ray.exceptions.RayError, ConnectionError) as error:
        raise FlawscopeError(f"the cluster was lost: {last_line(error)}; {RESUME_HINT}") from None
    finally:
        ray.shutdown()


def _connect(address: str) -> None:
    """Connect to the cluster, or start a cluster on this machine; try again after transient errors.

    Raises:
        InputError: The connection failed.
    """
    import ray

    is_local = address == "local"
    options: Json = {}
    if is_local:
        options = {"num_cpus": usable_cores(), "include_dashboard": False}
    for attempt in range(1, CONNECT_ATTEMPTS + 1):
        try:
            if ":" in address:  # fail at once if nothing answers: Ray would try for two minutes
                host, port = address.removeprefix("ray://").rsplit(":", 1)
                socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT).close()
            with _silent_stderr(), _loopback_only(enabled=is_local):
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **options)
            break
        except (OSError, OverflowError, ValueError, RuntimeError) as error:
            ray.shutdown()
            is_transient = any(text in str(error) for text in TRANSIENT_ERRORS)
            if attempt == CONNECT_ATTEMPTS or not is_transient:
                raise InputError(_connection_error(address, error)) from None
    # Ray would print on stdout that it restarts tasks of lost nodes; no setting prevents that
    worker: Any = importlib.import_module("ray._private.worker")
    worker.print_to_stdstream = lambda data, ignore_prefix=False: None


def _connection_error(address: str, error: BaseException) -> str:
    """Return the message for a failed connection, with a remedy."""
    if address == "auto":
        return (
            "--cluster auto: no Ray cluster runs here; start one with `ray start --head`, give its address, "
            "or take --cluster local"
        )
    is_version_error = "version" in str(error).lower()
    reason = "its Python or Ray is of another version" if is_version_error else last_line(error)
    return f"--cluster {address}: cannot connect: {reason}; check the address, and that it can be reached"


@contextmanager
def _loopback_only(enabled: bool) -> Iterator[None]:
    """Make Ray, when it starts in the block, listen only on 127.0.0.1; change nothing if not `enabled`.

    Anybody who can reach Ray's ports can run code on this machine.
    """
    if not enabled:
        yield
        return
    constants: Any = importlib.import_module("ray._private.ray_constants")
    old_variable = os.environ.get(CLUSTER_VARIABLE)
    old_constant = constants.ENABLE_RAY_CLUSTER
    os.environ[CLUSTER_VARIABLE] = "0"  # for the processes that Ray starts
    constants.ENABLE_RAY_CLUSTER = False  # for this process, which has read the variable already
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = old_constant
        del os.environ[CLUSTER_VARIABLE]
        if old_variable is not None:
            os.environ[CLUSTER_VARIABLE] = old_variable


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Within the block, discard all output on stderr, also that of Ray's processes."""
    stderr_copy = os.dup(STDERR)
    with open(os.devnull, "wb") as devnull:
        os.dup2(devnull.fileno(), STDERR)
    try:
        yield
    finally:
        os.dup2(stderr_copy, STDERR)
        os.close(stderr_copy)


# ------------------------------------------------------------------------------------------------- its nodes


class Node(NamedTuple):
    """Resources that a machine offers to tasks.

    Attributes:
        name: Network address.
        cpus: Number of cores.
        gpus: Number of GPUs.
        memory: Memory in bytes.
        id: Ray's id of the machine.
    """

    name: str
    cpus: float
    gpus: float
    memory: int
    id: str = ""

    def capacity(self, threads: int, gpus: int = 0, memory: int = 0) -> int:
        """Return the number of tasks that can run on the node at once.

        Args:
            threads: Number of cores for a task, at least 1.
            gpus: Number of GPUs for a task.
            memory: Bytes for a task; 0: memory sets no limit.
        """
        resources = ((self.cpus, threads), (self.gpus, gpus), (self.memory, memory))
        limits = [int(available // needed) for available, needed in resources if needed]
        return min(limits)


class TaskResources(NamedTuple):
    """Resources of a task, and the nodes that can run it.

    Attributes:
        threads: Number of threads, with a core each.
        gpus: Number of GPUs.
        nodes: The machines that have these resources.
    """

    threads: int
    gpus: int
    nodes: tuple[Node, ...]

    @property
    def max_memory(self) -> int:
        """Largest memory in bytes that a task can have: that of the largest node."""
        return max(node.memory for node in self.nodes)

    def max_concurrency(self, peak: int = 0) -> int:
        """Return the number of tasks that can run on all nodes at once.

        Args:
            peak: Bytes for a task; a larger number counts as `max_memory`. 0: memory sets no limit.
        """
        memory = min(peak, self.max_memory)
        return sum(node.capacity(self.threads, self.gpus, memory) for node in self.nodes)


def list_nodes() -> list[Node]:
    """Return the machines of the cluster that are alive and have a core for tasks.

    Raises:
        InputError: There is no such machine.
    """
    import ray

    nodes = []
    for facts in ray.nodes():
        resources = facts["Resources"]
        if not facts["Alive"] or not resources.get("CPU"):
            continue
        nodes.append(
            Node(
                name=facts["NodeManagerAddress"],
                cpus=resources["CPU"],
                gpus=resources.get("GPU", 0.0),
                memory=int(resources.get("memory", 0)),
                id=facts["NodeID"],
            )
        )
    if not nodes:
        raise InputError("the cluster has no node that takes tasks: add one with a core at least")
    return nodes


def allocate(nodes: Sequence[Node], count: int, threads: int | None, device: str) -> TaskResources:
    """Choose the resources of each of `count` tasks.

    Args:
        nodes: The nodes that take tasks.
        count: Number of tasks.
        threads: Threads of a task; None: the largest number with which all tasks can run at once, but at
            least `FIT_THREADS`.
        device: Device of the tasks. With cuda, each task gets a GPU; with auto, if any node has a GPU. With
            any other device, no task gets a GPU.

    Raises:
        InputError: No node has these resources.
    """
    has_gpu_node = any(node.gpus >= 1 for node in nodes)
    needs_gpu = device.startswith("cuda") or (device == "auto" and has_gpu_node)
    gpus = 1 if needs_gpu else 0
    usable_nodes = [node for node in nodes if node.gpus >= gpus]
    if not usable_nodes:
        raise InputError(f"--device {device}: no node of the cluster has a graphics card; give --device cpu")
    max_threads = max(1, max(int(node.cpus) for node in usable_nodes))
    if threads is None:
        threads = _spread_threads(usable_nodes, count, gpus, max_threads)
    if threads > max_threads:
        cores = pluralize(threads, "core")
        raise InputError(f"no node has {cores}: give --threads {max_threads} or fewer")
    fitting_nodes = tuple(node for node in usable_nodes if node.capacity(threads, gpus))
    return TaskResources(threads, gpus, fitting_nodes)


def _spread_threads(nodes: Sequence[Node], count: int, gpus: int, max_threads: int) -> int:
    """Return the largest number of threads with which `count` tasks can run at once.

    The number is at least `FIT_THREADS`, but never more than `max_threads`.
    """
    for threads in range(max_threads, FIT_THREADS, -1):
        if sum(node.capacity(threads, gpus) for node in nodes) >= count:
            return threads
    return min(FIT_THREADS, max_threads)


def require_shared(path: str | os.PathLike[str], remedy: str) -> None:
    """Check that all nodes see a file or folder.

    Raises:
        InputError: A node does not see it; the message ends in `remedy`.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    absolute_path = os.path.abspath(path)
    nodes = list_nodes()
    exists = ray.remote(num_cpus=0, max_retries=3)(os.path.exists)
    strategies = [NodeAffinitySchedulingStrategy(node.id, soft=False) for node in nodes]
    refs = [exists.options(scheduling_strategy=strategy).remote(absolute_path) for strategy in strategies]
    for node, is_seen in zip(nodes, ray.get(refs), strict=True):
        if not is_seen:
            raise InputError(f"node {node.name} does not see {absolute_path}: {remedy}")


def require_shared_folder(folder: str | os.PathLike[str]) -> None:
    """Check that all nodes see this folder, and not another folder of the same name.

    A temporary file in the folder shows which one a node sees.

    Raises:
        InputError: A node does not see this folder.
    """
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".", suffix=".part") as probe:
        require_shared(probe.name, "give an --out that all nodes see under the same path")


def prepare_node(version: str, folder: str) -> None:
    """Prepare a node's process for a task: check its version, and change to the folder of the command.

    Args:
        version: Version of flawscope that the command has.
        folder: Folder where relative paths begin; it need not exist on the node.

    Raises:
        InputError: This node has another version.
    """
    if version != __version__:
        raise InputError(
            f"node {socket.gethostname()} has flawscope {__version__}, this command {version}: install the "
            "same there"
        )
    with suppress(OSError):  # the folder may be missing here: absolute paths still work
        os.chdir(folder)


# ------------------------------------------------------------------------------- progress and errors of tasks


class ProgressQueue:
    """Ray queue of messages from tasks to this process. It runs on the node of this process."""

    def __init__(self) -> None:
        import ray
        from ray.util.queue import Queue
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        node_id = ray.get_runtime_context().get_node_id()
        this_node = NodeAffinitySchedulingStrategy(node_id, soft=False)
        self.queue: Any = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": this_node})

    def put(self, *message: object) -> None:
        """Send a message, without waiting."""
        self.queue.actor.put_nowait.remote(message)

    def get(self) -> list[tuple[str, str, int, int]]:
        """Remove and return all messages: label, stage, done, total; [] if the queue is lost."""
        try:
            return list(self.queue.get_nowait_batch(self.queue.qsize()))
        except Exception:
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
        task_error = error_of_task(error)
        if task_error is error.cause:  # an expected error, whose message is enough
            raise task_error from None
        raise task_error from error  # an unforeseen error: --debug shows the node's traceback


def error_of_task(error: RayTaskError) -> FlawscopeError:
    """Turn an error raised on a node into one with a message for the user.

    Args:
        error: Ray's error; its `cause` is the error that the function raised.
    """
    cause = error.cause
    if isinstance(cause, FlawscopeError):
        return cause
    if isinstance(cause, ImportError):
        return FlawscopeError(f"a node cannot import a library ({cause}): install flawscope[train] there")
    if isinstance(cause, MemoryError):
        return FlawscopeError("not enough memory: choose a smaller size")
    return FlawscopeError(f"unexpected {message_with_type(cause)}")


def last_line(error: BaseException) -> str:
    """Return the last line of an error's text without the name of the error's class.

    Ray names the cause in this line.
    """
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    cause = re.sub(r"^\w+(Error|Exception): ", "", lines[-1])
    return cause[:MAX_ERROR_LENGTH] or type(error).__name__
