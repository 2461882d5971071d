"""Process that makes candidates. `Worker` is its end in the station; `main` runs in the process, which is
`python -m flawscope.station.learning.process PIXELS`, where PIXELS is the most that a picture may have.

A line of JSON on standard input is a job; lines on standard output tell its progress and its result. The
process is started when it is needed, has the lowest priority, so that inspections go on, and stays for the
next job: torch is loaded then. It ends when no job comes for a while, and when its input ends, even in the
middle of a job: the station is gone.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from flawscope.errors import FlawscopeError, InputError, with_kind
from flawscope.pictures.decoding import allow_pixels, most_pixels

PATIENCE = 10.0  # seconds that the process has to end
IDLE = 600.0  # seconds without a job after which it ends: it holds a few hundred megabytes
OFTEN = 0.25  # seconds between two reports of progress
Tell = Callable[[dict[str, Any]], None]
MODULE = "flawscope.station.learning.process"


class WorkerError(FlawscopeError):
    """The process could not do the job; the text says why."""


class StoppedError(WorkerError):
    """The worker was closed in the middle of a job."""


class Worker:
    """Runs one job at a time in a process of the lowest priority."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._said: IO[bytes] | None = None  # its standard error
        self._lock = threading.Lock()
        self._closed = False

    @property
    def pid(self) -> int | None:
        """Number of the process; None where there is none."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def run(self, job: dict[str, Any], step: Callable[[str, int, int], None]) -> dict[str, Any]:
        """Return the result of `work` for a job.

        Raises:
            WorkerError: the job cannot be done, or the process ended.
            StoreError: the disk is full.
        """
        while True:
            with self._lock:
                if self._closed:
                    raise StoppedError("the station ends")
                process = self._started()
            done = self._asked(process, job, step)
            if done is not None:
                return done

    def _asked(
        self, process: subprocess.Popen[str], job: dict[str, Any], step: Callable[[str, int, int], None]
    ) -> dict[str, Any] | None:
        """Return the result of a job; None where the process, long idle, ended before the job reached it."""
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(OSError, ValueError):  # it has ended, or was ended by `close`
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()
        for line in process.stdout:
            word = json.loads(line)
            if "step" in word:
                step(*word["step"])
            elif "error" in word:
                from flawscope.station.store.database import StoreError  # not loaded in the process itself

                full = word.get("code") == "disk_full"
                raise StoreError(word["error"], "disk_full") if full else WorkerError(word["error"])
            else:
                return dict(word["done"])
        code = process.wait()
        if self._closed:
            raise StoppedError("the station ends")
        if code == 0:
            return None
        killed = code == -9
        why = "it was killed, perhaps for want of memory" if killed else f"it ended with {code}"
        raise WorkerError(f"the process that learns did not finish: {why}{self._last_words()}; learn again")

    def _started(self) -> subprocess.Popen[str]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 (it lives as long as the process)
        self._process = subprocess.Popen(
            [sys.executable, "-m", MODULE, str(most_pixels())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            encoding="utf-8",
            env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"},  # waiting threads leave the processor to others
        )
        return self._process

    def _last_words(self) -> str:
        if self._said is None:
            return ""
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        return f" ({lines[-1][:200]})" if lines else ""

    def close(self) -> None:
        """End the process, even in the middle of a job."""
        with self._lock:
            self._closed = True
            process, self._process = self._process, None
        if process is None:
            return
        with suppress(OSError):
            assert process.stdin is not None
            process.stdin.close()  # `_listen` ends the process then
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


# ----------------------------------------------------------------------------------------- in the process


def main() -> None:
    _lowest_priority()
    allow_pixels(int(sys.argv[1]))
    # what libraries print must not be taken for an answer
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    jobs: queue.Queue[dict[str, Any]] = queue.Queue()
    threading.Thread(target=_listen, args=(jobs,), daemon=True).start()

    def tell(word: dict[str, Any]) -> None:
        answers.write(json.dumps(word) + "\n")
        answers.flush()

    while True:
        try:
            job = jobs.get(timeout=IDLE)
        except queue.Empty:
            os._exit(0)  # as `_listen`, which waits for the input, does
        try:
            tell({"done": work(job, tell)})
        except FlawscopeError as error:
            tell({"error": str(error), "code": getattr(error, "code", "")})
        except MemoryError:
            tell({"error": "there is not enough memory to make a version; learn when there is more"})
        except BrokenPipeError:
            return
        except Exception as error:
            tell({"error": f"it failed: {with_kind(error)}"})


def _listen(jobs: queue.Queue[dict[str, Any]]) -> None:
    for line in sys.stdin:
        jobs.put(json.loads(line))
    os._exit(0)  # nobody waits for an answer


def _lowest_priority() -> None:
    with suppress(OSError, AttributeError):
        os.nice(19)
    with suppress(OSError, AttributeError, PermissionError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def work(job: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """Make a candidate and judge it.

    Args:
        job: `active`, `trained` (None: the same) and `out`, files of models; `how`, `strict`; `pictures`,
            each with the fields of `Reviewed`; `good`, a folder; `engine`, `device`, `threads`.

    Returns:
        The judgement, with the seconds of each step.

    Raises:
        InputError, StoreError: no candidate can be made.
    """
    begun = time.perf_counter()
    from flawscope.artefact import model_file
    from flawscope.fitting.incremental_update import files_in, update
    from flawscope.fitting.update_evaluation import Reviewed, judgement
    from flawscope.methods.threads import use_threads
    from flawscope.predictor import load

    use_threads(job["threads"])
    loaded = time.perf_counter()
    active = load(job["active"], engine=job["engine"], device=job["device"], threads=job["threads"])
    old = active.artefact if job["trained"] is None else model_file.read(job["trained"])
    pictures = [
        Reviewed(**{**one, "before": None if one["before"] is None else tuple(one["before"])})
        for one in job["pictures"]
    ]
    told = [0.0]

    def step(stage: str, done: int, total: int) -> None:
        if time.monotonic() - told[0] > OFTEN:
            told[0] = time.monotonic()
            tell({"step": [stage, done, total]})

    made = update(
        old,
        active,
        pictures,
        how=job["how"],
        strict=job["strict"],
        good=files_in(job["good"], old.manifest.category) if job["good"] else (),
        device=job["device"],
        step=step,
    )
    learnt = time.perf_counter()
    out = Path(job["out"])
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.suffix == made.predictor.session.suffix:
            made.predictor.save(out)
        else:
            _export(made.predictor, out, job, step)
    except (OSError, FlawscopeError) as error:
        from flawscope.station.store.files import unwritable

        reason = error if isinstance(error, OSError) else error.__context__
        said = unwritable(out, reason) if isinstance(reason, OSError) else None
        if said is not None and (error is reason or said.code == "disk_full"):
            raise said from None
        raise
    found = judgement(pictures, made)
    found["seconds"] = {
        "torch": round(loaded - begun, 2),
        "learning and judging": round(learnt - loaded, 2),
        "file": round(time.perf_counter() - learnt, 2),
    }
    return found


def _export(predictor: Any, out: Path, job: dict[str, Any], step: Any) -> None:
    """Export a model to the kind of file that the active version has."""
    from flawscope.export.export import export

    if job["precision"] != "fp32":
        raise InputError(
            f"the active version is of {job['precision']}, which is calibrated apart from the trained model: "
            "use a version of fp32, or export by hand"
        )
    step("export", 0, 1)
    export(predictor.artefact, out)


if __name__ == "__main__":
    main()
