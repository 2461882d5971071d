"""Runs one cell: fits, evaluates, writes the results into the benchmark's folder.

Its process can be killed at any time. A work folder is left, from which the next try goes on: a checkpoint of
a method that learns in steps, or the finished model.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from flawscope.artefact.files import atomic_write
from flawscope.datasets import Dataset
from flawscope.errors import CheckpointError, FlawscopeError, InputError
from flawscope.evaluation.benchmark.grid import Cell
from flawscope.machine import machine_info, peak_memory
from flawscope.methods import registry
from flawscope.progress import ProgressCallback, Say
from flawscope.views.light import light_variations

if TYPE_CHECKING:
    from flawscope.predictor import Predictor
    from flawscope.types import Json

DOCUMENT_FORMAT = 1  # of a cell's document


@dataclass(frozen=True)
class RunPlan:
    """Options of running a grid.

    Attributes:
        root: Folder of the data.
        jobs: Number of cells that run at a time.
        threads: Number of threads of each.
        keep_models: Whether the model files are kept.
    """

    root: str
    jobs: int
    threads: int
    keep_models: bool = False


def run_cell(cell: Cell, store: CellStore, plan: RunPlan, step: ProgressCallback) -> Json:
    """Run a cell, in a process of its own.

    A finished cell is only read: after the loss of a node its task may run again. Output of libraries goes to
    the log in the work folder.

    Returns:
        The cell's document.
    """
    if (document := store.read_cell(cell)) is not None:
        return document
    work = store.work_folder(cell)
    try:
        work.mkdir(parents=True, exist_ok=True)
        with open(work / "log.txt", "wb") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
    except OSError as error:
        raise FlawscopeError(f"{work} cannot be made: {error.strerror}; remove it, and try again") from None
    return fit_and_evaluate(cell, store, plan, step, lambda line: print(line, file=sys.stderr, flush=True))


def fit_and_evaluate(cell: Cell, store: CellStore, plan: RunPlan, step: ProgressCallback, say: Say) -> Json:
    """Fit, evaluate the model file, write the cell, remove the work folder."""
    from flawscope.datasets import open_dataset
    from flawscope.evaluation.evaluation import evaluate
    from flawscope.predictor import Predictor
    from flawscope.predictor.router import load

    work = store.work_folder(cell)
    threads = _prepare_work_folder(work, plan.threads)
    dataset = open_dataset(
        plan.root, cell.category, seed=cell.seed, group=cell.shared["group"], good=cell.shared["good"]
    )
    model = work / "model.safetensors"
    fitted = work / "fit.json"
    if not (fitted.is_file() and model.is_file()):
        write_json(fitted, _fit_model(cell, dataset, model, threads, step, say))
    fit = json.loads(fitted.read_text(encoding="utf-8"))
    began = time.perf_counter()
    predictor = load(model, device=cell.shared["device"], threads=threads)
    assert isinstance(predictor, Predictor)
    light = cell.shared["light"]
    lights = () if light is None else light_variations(light)
    found = evaluate(predictor, dataset, robust=lights, step=step)
    seconds = time.perf_counter() - began
    manifest = predictor.manifest
    roles = Counter(picture.role for picture in manifest.pictures)
    document = {
        "format": DOCUMENT_FORMAT,
        "category": cell.category,
        "method": cell.method,
        "seed": cell.seed,
        "evaluation": found.to_dict(),
        "settings": manifest.config,
        "fit": {"seconds": fit["seconds"], "resumed": fit["resumed"]},
        "evaluate": {"seconds": round(seconds, 3)},
        "peak_memory": max(fit["peak_memory"], peak_memory()),
        "model_bytes": model.stat().st_size,
        "pictures": dict(roles),
        "skipped": [*fit["skipped"], *found.failures],
        "notes": list(manifest.notes),
        "backbone": manifest.backbone,
        "threads": threads,
        "jobs": plan.jobs,
        "device": _device_name(manifest.facts["device"]),
        "machine": machine_info(),
        "versions": manifest.versions,
        "identity": cell.identity,
    }
    try:
        if plan.keep_models:
            store.model_path(cell).parent.mkdir(exist_ok=True)
            with open(model, "rb") as source, atomic_write(store.model_path(cell)) as kept:
                shutil.copyfileobj(source, kept)
    finally:
        write_json(store.cell_path(cell), document)  # last: with it the cell is done
    shutil.rmtree(work, ignore_errors=True)
    return document


def _fit_model(
    cell: Cell, dataset: Dataset, model: Path, threads: int, step: ProgressCallback, say: Say
) -> Json:
    """Fit and write the model; return the facts of the fit for the cell's document."""
    from flawscope.artefact.files import checkpoint_path
    from flawscope.fitting.fitting import fit
    from flawscope.methods.threads import reuse_freed_memory, set_thread_count

    set_thread_count(threads)
    reuse_freed_memory()
    checkpoint = checkpoint_path(model)
    if cell.shots:
        dataset = few_shot_dataset(dataset, cell.shots, cell.seed)

    def fit_cell() -> Predictor:
        return fit(
            dataset,
            method=cell.base_method,
            seen=cell.seen,
            checkpoint=checkpoint,
            resume=registry.method(cell.base_method).learns_in_steps,
            check=False,  # real defects follow
            say=say,
            step=step,
            **cell.fit_arguments,
            **cell.options,
        )

    resumed = checkpoint.exists()
    began = time.perf_counter()
    try:
        predictor = fit_cell()
    except CheckpointError as error:
        if not resumed:
            raise
        # such as one by another version: no process is left to remove it
        say(f"the checkpoint is left aside: {error}")
        checkpoint.unlink(missing_ok=True)
        resumed = False
        began = time.perf_counter()
        predictor = fit_cell()
    seconds = time.perf_counter() - began
    predictor.save(model)
    return {
        "seconds": None if resumed else round(seconds, 3),  # the part before the interruption is not known
        "resumed": resumed,
        "skipped": predictor.failures,
        "peak_memory": peak_memory(),
    }


def few_shot_dataset(dataset: Dataset, count: int, seed: int) -> Dataset:
    """Return the data set with `count` good pictures to learn from, drawn by the seed. Test pictures stay.

    The pictures are the first in the drawn order: a larger count includes the pictures of a smaller one.

    Raises:
        InputError: There are fewer.
    """
    train = list(dataset.train)
    if len(train) < count:
        raise InputError(
            f"{dataset.category} has {len(train)} good pictures, not {count}: ask for fewer --shots"
        )
    random.Random(seed).shuffle(train)
    return replace(dataset, train=tuple(train[:count]), validation=())


def _prepare_work_folder(work: Path, threads: int) -> int:
    """Make the work folder, and return the number of threads.

    A resumed training keeps the number that it began with: the order of sums, and so their rounding, depends
    on it.
    """
    work.mkdir(parents=True, exist_ok=True)
    begun_file = work / "begun.json"
    try:
        return int(json.loads(begun_file.read_text(encoding="utf-8"))["threads"])
    except (OSError, ValueError, KeyError, TypeError):
        write_json(begun_file, {"threads": threads})
        return threads


def _device_name(name: str) -> str:
    if name != "cuda":
        return name
    import torch

    return f"cuda ({torch.cuda.get_device_name()})"


# ------------------------------------------------------------------------------------- the benchmark's folder


class CellStore:
    """Paths of a benchmark's files, below the folder `root`."""

    def __init__(self, root: Path):
        self.root = Path(os.path.abspath(root))
        self.cells = self.root / "cells"

    def cell_path(self, cell: Cell) -> Path:
        """Path of the cell's results, written whole or not at all."""
        return self.cells / f"{cell.name}.json"

    def work_folder(self, cell: Cell) -> Path:
        """Folder of a cell that has begun; removed when the cell is done."""
        return self.root / "work" / cell.name

    def remove_work_folder(self, cell: Cell) -> None:
        """Remove the work folder of a finished cell: its process may have been killed before that."""
        shutil.rmtree(self.work_folder(cell), ignore_errors=True)

    def model_path(self, cell: Cell) -> Path:
        """Path of the cell's model file, where models are kept."""
        return self.root / "models" / f"{cell.name}.safetensors"

    def prepare(self) -> None:
        """Make the folders, and remove partial files of killed writers."""
        self.cells.mkdir(parents=True, exist_ok=True)
        for path in self.root.rglob(".*.part"):
            with suppress(OSError):
                path.unlink()

    def read_cell(self, cell: Cell) -> Json | None:
        """Read the document of a finished cell; None where it is not done, or of another version."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            document = json.loads(self.cell_path(cell).read_text(encoding="utf-8"))
            if document["format"] == DOCUMENT_FORMAT and document["identity"] == cell.identity:
                return dict(document)
        return None

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other benchmarks out of this folder. If this process is killed, its cells end with it."""
        try:
            import fcntl
        except ImportError:  # Windows
            yield
            return
        with open(self.root / ".lock", "wb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(
                    f"another benchmark works in {self.root}: wait for it, or choose another --out"
                ) from None
            except OSError:  # a file system without locks
                pass
            yield


def write_json(path: str | os.PathLike[str], document: object) -> None:
    """Write a document whole or not at all."""
    with atomic_write(path) as file:
        file.write(f"{json.dumps(document, indent=1, allow_nan=False)}\n".encode())
