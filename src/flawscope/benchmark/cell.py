"""One cell in a process of its own: `python -m flawscope.benchmark.cell`, with the task as a line of JSON.

It can be killed at any time. What is left is a work folder, from which the next try goes on: a checkpoint of
a method that learns in steps, or the finished model.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from flawscope.artefact.files import atomic
from flawscope.benchmark.store import FORMAT, write_json
from flawscope.errors import CheckpointError, FlawscopeError, with_kind
from flawscope.machine import machine, peak_memory
from flawscope.methods import registry
from flawscope.progress import Step

EVERY = 0.5  # seconds between messages about progress


@dataclass(frozen=True)
class Task:
    """What the process has to do. Paths are those of `Store`; `keep` is where the model goes, or None."""

    root: str
    category: str
    method: str
    seed: int
    options: dict[str, Any]
    seen: int | str
    group: str | None
    minutes: float | None
    device: str
    identity: dict[str, Any]
    threads: int
    jobs: int
    work: str
    out: str
    keep: str | None


def work_off(task: Task, step: Step, say: Callable[[str], None]) -> None:
    """Fit, evaluate the model file, write the cell, remove the work folder."""
    from flawscope.datasets import open_dataset
    from flawscope.evaluation import evaluate
    from flawscope.predictor import load

    work = Path(task.work)
    threads = _begin(work, task.threads)
    dataset = open_dataset(task.root, task.category, seed=task.seed, group=task.group)
    model, fitted = work / "model.safetensors", work / "fit.json"
    if not (fitted.is_file() and model.is_file()):
        write_json(fitted, _fit(task, dataset, model, threads, step, say))
    fit = json.loads(fitted.read_text(encoding="utf-8"))
    began = time.perf_counter()
    predictor = load(model, device=task.device, threads=threads)
    evaluation = evaluate(predictor, dataset, step=step)
    seconds = time.perf_counter() - began
    manifest = predictor.manifest
    document = {
        "format": FORMAT,
        "category": task.category,
        "method": task.method,
        "seed": task.seed,
        "evaluation": evaluation.to_dict(),
        "settings": manifest.config,
        "fit": {k: fit[k] for k in ("seconds", "resumed")},
        "evaluate": {"seconds": round(seconds, 3)},
        "peak_memory": max(fit["peak_memory"], peak_memory()),
        "model_bytes": model.stat().st_size,
        "pictures": dict(Counter(p.role for p in manifest.pictures)),
        "skipped": [*fit["skipped"], *evaluation.failures],
        "notes": list(manifest.notes),
        "backbone": manifest.backbone,
        "threads": threads,
        "jobs": task.jobs,
        "device": _device(manifest.facts["device"]),
        "machine": machine(),
        "versions": manifest.versions,
        "identity": task.identity,
    }
    try:
        if task.keep:
            Path(task.keep).parent.mkdir(exist_ok=True)
            with open(model, "rb") as source, atomic(task.keep) as kept:
                shutil.copyfileobj(source, kept)
    finally:
        _write(task.out, document)  # last: with it the cell is done
    shutil.rmtree(work, ignore_errors=True)


def _write(out: str, document: dict[str, Any]) -> None:
    """The cell's results. Where the disk is full, the error has the figures."""
    try:
        write_json(out, document)
    except FlawscopeError as error:
        metrics = document["evaluation"]["metrics"]
        found = ", ".join(f"{k} {v:.4f}" for k, v in metrics.items() if v is not None)
        raise FlawscopeError(f"{error}; measured: {found}") from None


def _fit(
    task: Task, dataset: Any, model: Path, threads: int, step: Step, say: Callable[[str], None]
) -> dict[str, Any]:
    """Fit and write the model; what is known about that."""
    from flawscope.artefact.state_file import checkpoint_of
    from flawscope.fitting import fitting
    from flawscope.runtime.torch import use_threads

    use_threads(threads)
    checkpoint = checkpoint_of(model)

    def fit() -> Any:
        return fitting.fit(
            dataset,
            method=task.method,
            seen=task.seen,
            group=task.group,
            minutes=task.minutes,
            checkpoint=checkpoint,
            resume=registry.method(task.method).learns_in_steps,
            device=task.device,
            check=False,  # real defects follow
            say=say,
            step=step,
            **task.options,
        )

    resumed, began = checkpoint.exists(), time.perf_counter()
    try:
        predictor = fit()
    except CheckpointError as error:
        if not resumed:
            raise
        # such as one by another version: no process is left to remove it
        say(f"the checkpoint is left aside: {error}")
        checkpoint.unlink(missing_ok=True)
        resumed, began = False, time.perf_counter()
        predictor = fit()
    seconds = time.perf_counter() - began
    predictor.save(model)
    return {
        "seconds": None if resumed else round(seconds, 3),  # the part before the interruption is not known
        "resumed": resumed,
        "skipped": predictor.failures,
        "peak_memory": peak_memory(),
    }


def _begin(work: Path, threads: int) -> int:
    """Make the work folder. A training goes on with the threads that it began with: their number decides in
    which order sums are rounded."""
    work.mkdir(parents=True, exist_ok=True)
    begun = work / "begun.json"
    try:
        return int(json.loads(begun.read_text(encoding="utf-8"))["threads"])
    except (OSError, ValueError, KeyError, TypeError):
        write_json(begun, {"threads": threads})
        return threads


def _device(name: str) -> str:
    if name != "cuda":
        return name
    import torch

    return f"cuda ({torch.cuda.get_device_name()})"


# ------------------------------------------------------------------------------------------------ the process


def main() -> int:
    """The exit code: 0 the cell is done; 1 it failed, and the last message says why."""
    task = Task(**json.loads(sys.stdin.readline()))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print goes to the log
    messages = _Messages(channel)
    try:
        work_off(task, messages.step, lambda line: print(line, file=sys.stderr, flush=True))
    except FlawscopeError as error:
        messages.send(error=str(error))
    except MemoryError:
        messages.send(error="not enough memory: choose fewer --jobs or a smaller size")
    except Exception as error:
        traceback.print_exc()
        messages.send(error=f"unexpected {with_kind(error)}")
    else:
        return 0
    return 1


class _Messages:
    """Lines of JSON to the process that waits."""

    def __init__(self, channel: TextIO):
        self.channel, self.sent = channel, 0.0

    def step(self, stage: str, done: int, total: int) -> None:
        if time.monotonic() - self.sent >= EVERY:
            self.sent = time.monotonic()
            self.send(stage=stage, done=done, total=total)

    def send(self, **message: Any) -> None:
        self.channel.write(json.dumps(message) + "\n")
        self.channel.flush()


def _end_with_parent() -> None:
    """The parent holds the other end of stdin as long as it lives: a cell does not outlive its parent."""
    while sys.stdin.read(1):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
