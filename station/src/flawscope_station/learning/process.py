"""The process that makes models.

Torch is loaded only in this process. It has a low priority, so that inspections go on. It waits for another
job for `IDLE_SECONDS`, and ends with the station.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from flawscope.artefact import files
from flawscope.artefact import judgement as judgements
from flawscope.errors import FlawscopeError, message_with_type
from flawscope.pictures import decoding

IDLE_SECONDS = 600.0  # seconds without a job after which the process ends: it holds hundreds of megabytes
PROGRESS_INTERVAL = 0.25  # seconds between two reports of progress
STEP_SECONDS = 3600.0  # longest time between two reports of progress
LEARNING_NICENESS = 19  # the lowest priority: on a busy machine the process gets a seventieth of a core
TRIAL_NICENESS = 5  # for work that a person waits for: at least a quarter of a core
ProgressCallback = Callable[[str, int, int], None]
T = TypeVar("T")
JobFunction = Callable[[dict[str, Any], ProgressCallback], T]
SPAWN_CONTEXT = multiprocessing.get_context("spawn")


class WorkerError(FlawscopeError):
    """The process could not do the job; the text says why."""


class FullDiskWorkerError(WorkerError):
    """The process cannot do the job, because the disk is full."""


class StoppedError(WorkerError):
    """The worker was closed, or was stopped during a job."""


# ------------------------------------------------------------------------------------------ in the station


class Worker:
    """Runs one job at a time in a process of its own.

    Only `interrupt`, `stop` and `close` may be called by other threads than the one that calls `run`.

    Args:
        niceness: Niceness of the process, 0 to 19.
    """

    def __init__(self, niceness: int = LEARNING_NICENESS) -> None:
        self._niceness = niceness
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None
        self._last_used = 0.0
        self._lock = threading.Lock()
        self._closed = self._stopped = False

    @property
    def pid(self) -> int | None:
        """Number of the process; None: there is no process."""
        process = self._process
        return process.pid if process is not None and process.is_alive() else None

    def run(self, work: JobFunction[T], job: dict[str, Any], step: ProgressCallback) -> T:
        """Do a job in the process, and return its result.

        Args:
            work: Function that does the job. It must be defined in a module, as it is pickled by its name.
            job: First argument of the function.
            step: Called with the name of a stage, the number of steps that are done, and the number of all
                steps.

        Raises:
            WorkerError: The job cannot be done, or the process ended.
            StoppedError: Another thread stopped the job or closed the worker.
        """
        try:
            pipe = self._ensure_started()
            pipe.send((work, job))
            while True:
                kind, content = pipe.recv()
                if kind == "step":
                    step(*content)
                elif kind == "done":
                    result: T = content
                    return result
                elif kind == "full":
                    raise FullDiskWorkerError(content)
                else:
                    raise WorkerError(content)
        except (EOFError, OSError):  # the process has ended
            exit_code = self._end(timeout=1.0)
            if self._closed or self._stopped:
                raise StoppedError("the station ends") from None
            if exit_code == -signal.SIGKILL:  # the exit code of a process that a signal ended is negative
                reason = "it was killed, perhaps for want of memory"
            else:
                reason = f"it ended with {exit_code}"
            raise WorkerError(f"the process that learns did not finish: {reason}; learn again") from None
        finally:
            self._last_used = time.monotonic()
            self._stopped = False

    def _ensure_started(self) -> Connection:
        """Return the pipe to the process. If the process is not running, start it."""
        with self._lock:
            if self._closed or self._stopped:
                raise StoppedError("the station ends")
            if self._pipe is None or self.pid is None:
                self._pipe, child_pipe = SPAWN_CONTEXT.Pipe()
                arguments = child_pipe, decoding.max_pixels(), self._niceness
                process = SPAWN_CONTEXT.Process(target=run_jobs, args=arguments, daemon=True)
                process.start()
                self._process = process
                child_pipe.close()
            return self._pipe

    def end_if_idle(self) -> None:
        """End the process if it has had no job for `IDLE_SECONDS`."""
        if self._process is not None and time.monotonic() - self._last_used > IDLE_SECONDS:
            self._end()

    def interrupt(self, stage_prefix: str) -> None:
        """Raise KeyboardInterrupt in the running job, as Ctrl-C does.

        The job raises it at its next step in a stage whose name begins with `stage_prefix`.
        """
        with self._lock, suppress(OSError):
            if self._pipe is not None:
                self._pipe.send(stage_prefix)

    def stop(self) -> None:
        """End the running job with its process; the next job gets a new process."""
        self._stopped = True
        self._end()

    def close(self) -> None:
        """End the process, also during a job, and start no further one."""
        with self._lock:
            self._closed = True
        self._end()

    def _end(self, timeout: float = 0.0) -> int | None:
        """Wait for the process for `timeout` seconds, then kill it.

        Return its exit code; None: there is no process.
        """
        with self._lock:
            process = self._process
            self._process = None
        if process is None:
            return None
        process.join(timeout)
        process.kill()
        process.join()
        return process.exitcode


# ----------------------------------------------------------------------------------------- in the process


def run_jobs(pipe: Connection, pixels: int, niceness: int) -> None:
    """Do the jobs that the station sends, until the station ends.

    Args:
        pipe: Pipe to the station.
        pixels: Largest number of pixels of a picture.
        niceness: Niceness of this process, 0 to 19.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the station, which ends this process
    os.dup2(2, 1)  # output of libraries goes to the log
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # waiting threads leave the CPU to others
    with suppress(OSError, AttributeError):
        os.nice(niceness)
    if niceness == LEARNING_NICENESS:  # a trial, for which a person waits, is not slowed down further
        with suppress(OSError, AttributeError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    decoding.raise_pixel_limit(pixels)
    threading.Thread(target=_end_with_station, daemon=True).start()
    with suppress(EOFError, OSError):
        while True:
            message = pipe.recv()
            if isinstance(message, str):
                continue  # an interrupt that came after its job had ended
            work, job = message
            pipe.send(_run_job(work, job, pipe))


def _end_with_station() -> None:
    """Wait until the station's process has ended, and end this process."""
    station = multiprocessing.parent_process()
    assert station is not None
    station.join()
    os._exit(1)


def _run_job(work: JobFunction[object], job: dict[str, Any], pipe: Connection) -> tuple[str, object]:
    """Do a job, and return the message for `Worker.run`: an outcome and its content.

    The outcomes are `done` with the result, and `error` or `full` (the disk is full) with a message.

    Args:
        work: Function that does the job.
        job: First argument of the function.
        pipe: Pipe to the station, which gets the progress and sends interrupts. An interrupt raises
            KeyboardInterrupt in `work`, which may catch it to end a search early.
    """
    last_report = 0.0  # time of the last report of progress
    interrupted_prefixes = list[str]()  # prefixes of names of stages, from `Worker.interrupt`
    lock = threading.Lock()

    def step(stage: str, done: int, total: int) -> None:
        """Report the progress to the station; raise KeyboardInterrupt if the station interrupts the stage."""
        nonlocal last_report
        with lock:
            if time.monotonic() - last_report > PROGRESS_INTERVAL:
                last_report = time.monotonic()
                pipe.send(("step", (stage, done, total)))
                if pipe.poll():
                    interrupted_prefixes.append(pipe.recv())
            if any(stage.startswith(prefix) for prefix in interrupted_prefixes):
                interrupted_prefixes.clear()
                raise KeyboardInterrupt

    try:
        return "done", work(job, step)
    except MemoryError:
        return "error", "there is not enough memory to learn; learn when there is more"
    except Exception as error:
        outcome = "full" if files.is_full_disk(error) else "error"
        return outcome, message_with_type(error)


def make_candidate(job: dict[str, Any], step: ProgressCallback) -> judgements.Judgement:
    """Make a candidate's model file with `flawscope.fitting.make_candidate`, and return its judgement.

    Args:
        job: Arguments of `flawscope.fitting.make_candidate` by name.
        step: Called with the name of a stage, the number of steps that are done, and the number of all steps.

    Raises:
        InputError: No candidate can be made.
    """
    from flawscope import fitting  # torch

    return fitting.make_candidate(**job, step=step)
