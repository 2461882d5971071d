"""Process that makes models, beside the station.

Torch is loaded there alone, and it has a low priority, so that inspections go on. It stays for the next job
until `IDLE_SECONDS`, and ends with the station.
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

IDLE_SECONDS = 600.0  # seconds without a job after which it is ended: it holds a few hundred megabytes
PROGRESS_INTERVAL = 0.25  # seconds between two reports of progress
STEP_SECONDS = 3600.0  # in which a job must say how far it is
LEARNING_NICENESS = 19  # the lowest priority: on a busy machine it gets a seventieth of a core
TRIAL_NICENESS = 5  # a person waits: a quarter of a core at least
ProgressCallback = Callable[[str, int, int], None]
T = TypeVar("T")
JobFunction = Callable[[dict[str, Any], ProgressCallback], T]
SPAWN_CONTEXT = multiprocessing.get_context("spawn")


class WorkerError(FlawscopeError):
    """The process could not do the job; the text says why."""


class FullDiskWorkerError(WorkerError):
    """The process found no room on the disk."""


class StoppedError(WorkerError):
    """The worker was closed, or stopped in the middle of a job."""


# ------------------------------------------------------------------------------------------ in the station


class Worker:
    """Runs one job at a time in a process of its own. All but `stop` and `close` is called by one thread.

    Args:
        niceness: of the process, 0 to 19.
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
        """Number of the process; None where there is none."""
        process = self._process
        return process.pid if process is not None and process.is_alive() else None

    def run(self, work: JobFunction[T], job: dict[str, Any], step: ProgressCallback) -> T:
        """Return the result of a job, which the process does.

        Args:
            work: a function of a module, which the process calls.
            job: the function's first argument.
            step: gets the name of a stage, the steps that are done, and the steps in all.

        Raises:
            WorkerError: the job cannot be done, or the process ended.
        """
        try:
            pipe = self._ensure_started()
            pipe.send((work, job))
            while True:
                kind, found = pipe.recv()
                if kind == "step":
                    step(*found)
                elif kind == "done":
                    result: T = found
                    return result
                elif kind == "full":
                    raise FullDiskWorkerError(found)
                else:
                    raise WorkerError(found)
        except (EOFError, OSError):
            code = self._end(timeout=1.0)  # the process has ended
            if self._closed or self._stopped:
                raise StoppedError("the station ends") from None
            why = "it was killed, perhaps for want of memory" if code == -9 else f"it ended with {code}"
            raise WorkerError(f"the process that learns did not finish: {why}; learn again") from None
        finally:
            self._last_used = time.monotonic()
            self._stopped = False

    def _ensure_started(self) -> Connection:
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
        """End a process that has had no job for a while."""
        if self._process is not None and time.monotonic() - self._last_used > IDLE_SECONDS:
            self._end()

    def interrupt(self, stages: str) -> None:
        """Interrupt the job that runs at its next step of a stage whose name begins with `stages`.

        It gets a KeyboardInterrupt, as from Ctrl-C. At other stages it goes on.
        """
        with self._lock, suppress(OSError):
            if self._pipe is not None:
                self._pipe.send(stages)

    def stop(self) -> None:
        """End the job that runs; the next one begins in a new process."""
        self._stopped = True
        self._end()

    def close(self) -> None:
        """End the process, even in the middle of a job, and begin none."""
        with self._lock:
            self._closed = True
        self._end()

    def _end(self, timeout: float = 0.0) -> int | None:
        """End the process after at most `timeout` seconds; return its exit code, None: there was none."""
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
    """Answer jobs until the station ends.

    Args:
        pipe: to the station.
        pixels: number of pixels of a picture at most.
        niceness: of this process, 0 to 19.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the station, which ends this process
    os.dup2(2, 1)  # output of libraries goes to the log
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # waiting threads leave the CPU to others
    with suppress(OSError, AttributeError):
        os.nice(niceness)
    if niceness == LEARNING_NICENESS:
        with suppress(OSError, AttributeError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    decoding.raise_pixel_limit(pixels)
    threading.Thread(target=_end_with_station, daemon=True).start()
    with suppress(EOFError, OSError):
        while True:
            job = pipe.recv()
            if isinstance(job, str):
                continue  # an interrupt that came after its job had ended
            work, given = job
            pipe.send(_run_job(work, given, pipe))


def _end_with_station() -> None:
    station = multiprocessing.parent_process()
    assert station is not None
    station.join()
    os._exit(1)


def _run_job(work: JobFunction[object], job: dict[str, Any], pipe: Connection) -> tuple[str, object]:
    """Return the outcome, its name first.

    An interrupt ends a search as Ctrl-C does: the work catches it and keeps the best.
    """
    last_report = 0.0
    stages_to_stop = list[str]()  # beginnings of their names, as `Worker.interrupt` got them
    lock = threading.Lock()

    def step(stage: str, done: int, total: int) -> None:
        nonlocal last_report
        with lock:
            if time.monotonic() - last_report > PROGRESS_INTERVAL:
                last_report = time.monotonic()
                pipe.send(("step", (stage, done, total)))
                if pipe.poll():
                    stages_to_stop.append(pipe.recv())
            if any(stage.startswith(prefix) for prefix in stages_to_stop):
                stages_to_stop.clear()
                raise KeyboardInterrupt

    try:
        return "done", work(job, step)
    except MemoryError:
        return "error", "there is not enough memory to learn; learn when there is more"
    except Exception as error:
        return "full" if files.is_full_disk(error) else "error", message_with_type(error)


def make_candidate(job: dict[str, Any], step: ProgressCallback) -> judgements.Judgement:
    """Make a candidate's model file, and return its judgement.

    It is made and compared in `flawscope.fitting.candidate`.

    Args:
        job: arguments of `flawscope.fitting.make_candidate` by name.
        step: gets the name of a stage, the steps that are done, and the steps in all.

    Raises:
        InputError: no candidate can be made.
    """
    from flawscope import fitting  # torch

    return fitting.make_candidate(**job, step=step)
