"""Connects a command to a Ray cluster, lists its nodes' resources, and explains its errors."""

from __future__ import annotations

import importlib
import logging
import os
import re
import secrets
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from flawscope._version import __version__
from flawscope.errors import FlawscopeError, InputError, pluralize, require_installed, with_kind
from flawscope.machine import cores

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
REPEAT = "the same call goes on where this one stopped"


class Node(NamedTuple):
    """Resources that a machine offers to tasks: `memory` in bytes."""

    name: str
    cpus: float
    gpus: float
    memory: int

    def room(self, threads: int, gpus: int = 0, memory: int = 0) -> int:
        """Number of tasks with so many cores, graphics cards and bytes that fit at once."""
        asked = (self.cpus, threads), (self.gpus, gpus), (self.memory, memory)
        return min(int(has // each) for has, each in asked if each)


def check(where: str) -> None:
    """Refuses an unknown `--cluster`, or a missing Ray, before anything is loaded.

    Raises:
        InputError: the form is unknown, or Ray is not installed.
    """
    if where not in ("auto", "local") and not re.fullmatch(r"(ray://)?[^\s/:]+:\d+", where):
        raise InputError(
            f"--cluster {where}: write auto (the cluster that runs here), local (this machine alone), or an "
            "address such as ray://HOST:10001 or HOST:6379"
        )
    require_installed("--cluster", "ray", extras="cluster")


# ------------------------------------------------------------------------------------------- the connection


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
    _reach(where)
    for name, value in SETTINGS.items():  # read when Ray is imported
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():  # by the program that calls: not ours to end
        raise InputError("this program is connected to a Ray cluster already: call ray.shutdown() first")
    lost = ray.exceptions
    try:
        _join(where)
        yield
    except lost.RayActorError as error:
        raise FlawscopeError(f"a worker was lost for good: {last_line(error)}; {REPEAT}") from None
    except (lost.RaySystemError, lost.GetTimeoutError, ConnectionError) as error:
        raise FlawscopeError(f"the cluster was lost: {last_line(error)}; {REPEAT}") from None
    except lost.RayError as error:
        raise FlawscopeError(f"a task of the cluster was lost: {last_line(error)}; {REPEAT}") from None
    finally:
        ray.shutdown()


def _join(where: str) -> None:
    """Connects to the cluster, or starts one of this machine's own.

    Raises:
        InputError: that cannot be done.
    """
    import ray

    own: dict[str, Any] = {"num_cpus": cores(), "include_dashboard": False} if where == "local" else {}
    for left in reversed(range(TRIES)):
        try:
            with _without_stderr(), _on_loopback(where == "local"):
                ray.init(address=where, log_to_driver=False, logging_level=logging.ERROR, **own)
            break
        except (ConnectionError, ValueError, RuntimeError) as error:
            ray.shutdown()
            if not left or "Starting Ray client server failed" not in str(error):
                raise InputError(_refused(where, error)) from None
    # Ray prints on stdout that it begins tasks of lost nodes again, and has no setting for it
    worker: Any = importlib.import_module("ray._private.worker")
    worker.print_to_stdstream = lambda data, ignore_prefix=False: None


@contextmanager
def _on_loopback(wanted: bool) -> Iterator[None]:
    """Starts a cluster for this machine alone: whoever reaches its ports could run code here."""
    if not wanted:
        yield
        return
    constants: Any = importlib.import_module("ray._private.ray_constants")
    before = os.environ.get(ON_LOOPBACK)
    os.environ[ON_LOOPBACK] = "0"  # for Ray's processes
    known, constants.ENABLE_RAY_CLUSTER = constants.ENABLE_RAY_CLUSTER, False
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


def _reach(where: str) -> None:
    """Raises an InputError where nobody answers at an address: Ray itself tries for two minutes."""
    if ":" not in where:
        return
    host, port = where.removeprefix("ray://").rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), timeout=PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise InputError(_refused(where, error)) from None


def _refused(where: str, error: BaseException) -> str:
    if where == "auto":
        return (
            "--cluster auto: no Ray cluster runs here; start one with `ray start --head`, give its address, "
            "or take --cluster local"
        )
    if where == "local":
        return f"--cluster local: Ray could not be started: {last_line(error)}"
    reason = "its Python or Ray is of another version" if "ersion" in str(error) else last_line(error)
    return f"--cluster {where}: cannot connect: {reason}; check the address, and that it can be reached"


# ------------------------------------------------------------------------------------------------- its nodes


def nodes() -> list[Node]:
    """The machines of this connection that are alive and take tasks.

    Raises:
        InputError: there is none.
    """
    import ray

    alive = [(node["NodeManagerAddress"], node["Resources"]) for node in ray.nodes() if node["Alive"]]
    found = [
        Node(name, has["CPU"], has.get("GPU", 0.0), int(has.get("memory", 0)))
        for name, has in alive
        if has.get("CPU")
    ]
    if not found:
        raise InputError("the cluster has no node that takes tasks: add one with a core at least")
    return found


def require_threads(found: Sequence[Node], threads: int) -> None:
    """Raises an InputError where no node has so many cores."""
    most = max(int(node.cpus) for node in found)
    if threads > most:
        raise InputError(f"no node has {pluralize(threads, 'core')}: give --threads {max(most, 1)} or fewer")


def require_shared(path: str | os.PathLike[str], remedy: str) -> None:
    """Looks for a file or folder from every node.

    Raises:
        InputError: a node does not see it.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    where = os.path.abspath(path)
    alive = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    there = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in alive]
    sees = ray.remote(num_cpus=0, max_retries=3)(os.path.exists)
    asked = [sees.options(scheduling_strategy=one).remote(where) for one in there]
    for node, seen in zip(alive, ray.get(asked), strict=True):
        if not seen:
            raise InputError(f"node {node['NodeManagerAddress']} does not see {where}: {remedy}")


def require_shared_folder(folder: str | os.PathLike[str]) -> None:
    """Raises an InputError where a node does not see this very folder; a file made for a moment tells."""
    probe = os.path.join(folder, f".{secrets.token_hex(4)}.part")  # its name says that it may go
    with open(probe, "xb"):
        pass
    try:
        require_shared(probe, "give an --out that all nodes see under the same path")
    finally:
        os.unlink(probe)


def require_version(version: str) -> None:
    """Raises an InputError, on a node, where the command has another version of flawscope."""
    if version != __version__:
        raise InputError(
            f"node {socket.gethostname()} has flawscope {__version__}, this command {version}: install the "
            "same there"
        )


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
    """The value of a task that has ended.

    Raises:
        FlawscopeError: its function raised an error. ray.exceptions.RayError: its process was lost.
    """
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
