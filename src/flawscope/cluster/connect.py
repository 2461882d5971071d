"""A command's connection to a Ray cluster: where it is, what its nodes have, and what goes wrong with it."""

from __future__ import annotations

import importlib
import logging
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

from flawscope._version import __version__
from flawscope.errors import FlawscopeError, InputError, require_installed
from flawscope.machine import cores

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent to anybody
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # Ray warns of a change that does not concern us
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # what goes wrong comes as an exception, too
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # nodes tell of tasks that are tried again, on stdout
}
ON_LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # 0, on every system: Ray listens on 127.0.0.1 alone
PATIENCE = 10.0  # seconds for somebody to answer at an address
TRIES = 5  # for a client of ray:// the head forks a process, which gRPC now and then ends at once
REPEAT = "the same call goes on where this one stopped"


class Node(NamedTuple):
    """What one machine offers to tasks: `memory` in bytes."""

    name: str
    cpus: float
    gpus: float
    memory: int


def check(where: str) -> None:
    """Before anything is loaded: is `--cluster` one that we know, and is Ray installed?

    Raises:
        InputError: it is not.
    """
    if where not in ("auto", "local") and not re.fullmatch(r"(ray://)?[^\s/:]+:\d+", where):
        raise InputError(
            f"--cluster {where}: write auto (the cluster that runs here), local (this machine alone), or an "
            "address such as ray://HOST:10001 or HOST:6379"
        )
    require_installed("--cluster", "ray", extras="cluster")


@contextmanager
def connected(where: str) -> Iterator[None]:
    """Be connected inside; a cluster of this machine's own ends with it.

    Args:
        where: auto (the cluster that runs on this machine, or that RAY_ADDRESS names), local (one is started
            here, with all cores), or an address.

    Raises:
        InputError: there is no such cluster, or its versions are others.
        FlawscopeError: the cluster was lost.
    """
    check(where)
    _reach(where)
    for name, value in QUIET.items():  # read when Ray is imported
        os.environ.setdefault(name, value)
    with _on_loopback() if where == "local" else nullcontext():
        yield from _connected(where)


def _connected(where: str) -> Iterator[None]:
    import ray

    try:
        with _without_stderr():
            _join(where)
    except InputError:
        raise
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise InputError(_refused(where, error)) from None
    _keep_off_stdout()
    try:
        yield
    except ray.exceptions.RayActorError as error:
        raise FlawscopeError(f"a worker was lost for good: {last_line(error)}; {REPEAT}") from None
    except (ray.exceptions.RaySystemError, ray.exceptions.GetTimeoutError, ConnectionError) as error:
        raise FlawscopeError(f"the cluster was lost: {last_line(error)}; {REPEAT}") from None
    except ray.exceptions.RayError as error:
        raise FlawscopeError(f"a task of the cluster was lost: {last_line(error)}; {REPEAT}") from None
    finally:
        ray.shutdown()


def _join(where: str) -> None:
    import ray

    if ray.is_initialized():  # by the program that calls: not ours to end
        raise InputError("this program is connected to a Ray cluster already: call ray.shutdown() first")
    for left in reversed(range(TRIES)):
        try:
            ray.init(
                address=where,
                num_cpus=cores() if where == "local" else None,
                include_dashboard=False if where == "local" else None,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
            return
        except RuntimeError as error:
            ray.shutdown()
            if not left or "Starting Ray client server failed" not in str(error):
                raise


@contextmanager
def _on_loopback() -> Iterator[None]:
    """A cluster of this machine's own is for this machine: who reaches its ports could run code here."""
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


def _keep_off_stdout() -> None:
    """Ray prints there that it begins tasks of lost nodes again, among results, and has no setting for it."""
    worker: Any = importlib.import_module("ray._private.worker")
    worker.print_to_stdstream = lambda data, ignore_prefix=False: None


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Ray's own processes say how much they will say."""
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _reach(where: str) -> None:
    """InputError where nobody answers at an address: Ray itself tries for two minutes."""
    if ":" not in where:
        return
    host, port = where.removeprefix("ray://").rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), timeout=PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise InputError(_refused(where, error)) from None


def nodes() -> list[Node]:
    """The machines that are alive and take tasks; those of the connection."""
    import ray

    found = [(node["NodeManagerAddress"], node["Resources"]) for node in ray.nodes() if node["Alive"]]
    return [
        Node(name, has["CPU"], has.get("GPU", 0.0), int(has.get("memory", 0)))
        for name, has in found
        if has.get("CPU")
    ]


def require_version(version: str) -> None:
    """To be called on a node. InputError where the command has another version of flawscope: what it sends
    might mean something else here."""
    if version != __version__:
        raise InputError(
            f"node {socket.gethostname()} has flawscope {__version__}, this command {version}: install the "
            "same there"
        )


def last_line(error: BaseException) -> str:
    """The end of an error's text, where Ray names the cause."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = re.sub(r"^\w+(Error|Exception): ", "", lines[-1]) if lines else ""  # of its cause
    return said[:300] or type(error).__name__


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


def require_shared(path: str | os.PathLike[str], remedy: str) -> None:
    """Look for a file or folder from every node.

    Raises:
        InputError: one does not see it.
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
