"""The process that makes candidates: `python -m flawscope.station.learning.worker PIXELS`, as
many as a picture may have.

A line of JSON on its standard input is a job; lines on its standard output say how far it is, and what came
of it. It has the lowest priority, so that inspections go on, and stays for the next job: torch is loaded
then. It ends when no job comes for a while, and when its input does, in the middle of a job too: whoever
asked is gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flawscope.errors import FlawscopeError, InputError, with_kind
from flawscope.pictures.decoding import allow_pixels

Tell = Callable[[dict[str, Any]], None]
IDLE = 600.0  # seconds after which it ends
OFTEN = 0.25  # seconds between two words on how far it is


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
    with contextlib.suppress(OSError, AttributeError):
        os.nice(19)
    with contextlib.suppress(OSError, AttributeError, PermissionError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def work(job: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """Make a candidate and judge it.

    Args:
        job: `active`, `trained` (None: the same) and `out`, files of models; `how`, `strict`; `pictures`,
            each as `Reviewed` has it; `good`, a folder; `engine`, `device`, `threads`.

    Returns:
        The judgement, with the seconds that each step took.

    Raises:
        InputError, StoreError: why there is no candidate.
    """
    begun = time.perf_counter()
    from flawscope.artefact import model_file
    from flawscope.fitting.incremental_update import files_in, update
    from flawscope.fitting.update_evaluation import Reviewed, judgement
    from flawscope.predictor import load
    from flawscope.runtime.torch import use_threads

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
    """As the active model is: its kind of file and its precision."""
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
