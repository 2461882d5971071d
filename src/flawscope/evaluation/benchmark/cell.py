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
        threads: Number of threads of each cell.
        keep_models: Whether the model files are kept.
    """

    root: str
    jobs: int
    threads: int
    keep_models: bool = False


def run_cell(cell: Cell, store: CellStore, plan: RunPlan, step: ProgressCallback) -> Json:
    """Run a cell in a process of its own, and return the cell's document.

    From now on, all that this process prints goes to the log in the work folder. The document of a finished
    cell is only read: a cluster that lost a node may run a task a second time.

    Args:
        cell: The cell.
        store: The benchmark's folder.
        plan: Options of the run.
        step: Called with the progress.

    Raises:
        FlawscopeError: The cell fails, or the work folder cannot be made.
    """
    document = store.read_cell(cell)
    if document is not None:
        return document
    work = store.work_folder(cell)
    try:
        work.mkdir(parents=True, exist_ok=True)
        with open(work / "log.txt", "wb") as log:
            os.dup2(log.fileno(), 1)  # stdout
            os.dup2(log.fileno(), 2)  # stderr
    except OSError as error:
        raise FlawscopeError(f"{work} cannot be made: {error.strerror}; remove it, and try again") from None
    return fit_and_evaluate(cell, store, plan, step, lambda line: print(line, file=sys.stderr, flush=True))


def fit_and_evaluate(cell: Cell, store: CellStore, plan: RunPlan, step: ProgressCallback, say: Say) -> Json:
    """Fit and evaluate a model, write the cell's document, and return it.

    If an earlier try wrote the model file, that file is used. The work folder is removed at the end.

    Args:
        cell: The cell.
        store: The benchmark's folder.
        plan: Options of the run.
        step: Called with the progress.
        say: Called with lines for a person.
    """
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
    fit_file = work / "fit.json"
    is_fitted = fit_file.is_file() and model.is_file()
    if not is_fitted:
        new_facts = _fit_model(cell, dataset, model, threads, step, say)
        write_json(fit_file, new_facts)
    fit_facts = json.loads(fit_file.read_text(encoding="utf-8"))  # facts of this try or an earlier one
    start = time.perf_counter()
    predictor = load(model, device=cell.shared["device"], threads=threads)
    assert isinstance(predictor, Predictor)
    light = cell.shared["light"]
    lights = () if light is None else light_variations(light)
    evaluation = evaluate(predictor, dataset, robust=lights, step=step)
    seconds = time.perf_counter() - start
    manifest = predictor.manifest
    roles = Counter(picture.role for picture in manifest.pictures)
    document = {
        "format": DOCUMENT_FORMAT,
        "category": cell.category,
        "method": cell.method,
        "seed": cell.seed,
        "evaluation": evaluation.to_dict(),
        "settings": manifest.config,
        "fit": {"seconds": fit_facts["seconds"], "resumed": fit_facts["resumed"]},
        "evaluate": {"seconds": round(seconds, 3)},
        "peak_memory": max(fit_facts["peak_memory"], peak_memory()),
        "model_bytes": model.stat().st_size,
        "pictures": dict(roles),
        "skipped": [*fit_facts["skipped"], *evaluation.failures],
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
            with open(model, "rb") as source, atomic_write(store.model_path(cell)) as target:
                shutil.copyfileobj(source, target)
    finally:
        write_json(store.cell_path(cell), document)  # written last: now the cell counts as done
    shutil.rmtree(work, ignore_errors=True)
    return document


def _fit_model(
    cell: Cell, dataset: Dataset, model: Path, threads: int, step: ProgressCallback, say: Say
) -> Json:
    """Fit the model, from a checkpoint if there is one, and write it; return facts for the cell's document.

    Args:
        cell: The cell.
        dataset: Data set of the cell.
        model: Path of the model file.
        threads: Number of threads.
        step: Called with the progress.
        say: Called with lines for a person.
    """
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
            check=False,  # simulated defects are not needed: real ones are tested
            say=say,
            step=step,
            **cell.fit_arguments,
            **cell.options,
        )

    is_resumed = checkpoint.exists()
    start = time.perf_counter()
    try:
        predictor = fit_cell()
    except CheckpointError as error:
        if not is_resumed:
            raise
        # nothing else would remove the checkpoint, for example one of another version
        say(f"the checkpoint is left aside: {error}")
        checkpoint.unlink(missing_ok=True)
        is_resumed = False
        start = time.perf_counter()
        predictor = fit_cell()
    seconds = time.perf_counter() - start
    predictor.save(model)
    return {
        "seconds": None if is_resumed else round(seconds, 3),  # the time before the interruption is unknown
        "resumed": is_resumed,
        "skipped": predictor.failures,
        "peak_memory": peak_memory(),
    }


def few_shot_dataset(dataset: Dataset, count: int, seed: int) -> Dataset:
    """Return the data set with only `count` good pictures to learn from, and the same test pictures.

    The good pictures are shuffled with the seed, and the first `count` are taken: so the pictures of a
    smaller count are among those of a larger one.

    Raises:
        InputError: The data set has fewer good pictures.
    """
    train = list(dataset.train)
    if len(train) < count:
        raise InputError(
            f"{dataset.category} has {len(train)} good pictures, not {count}: ask for fewer --shots"
        )
    random.Random(seed).shuffle(train)
    return replace(dataset, train=tuple(train[:count]), validation=())


def _prepare_work_folder(work: Path, threads: int) -> int:
    """Make the work folder, and return the number of threads that the cell uses.

    The number is `threads`, or the number that an earlier try wrote into the folder: a resumed training must
    keep the number that it began with, because the rounding of sums depends on it.
    """
    work.mkdir(parents=True, exist_ok=True)
    start_file = work / "begun.json"
    try:
        return int(json.loads(start_file.read_text(encoding="utf-8"))["threads"])
    except (OSError, ValueError, KeyError, TypeError):
        write_json(start_file, {"threads": threads})
        return threads


def _device_name(name: str) -> str:
    """Return the name of a device; for "cuda", the name of the GPU is added."""
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
        """Return the path of the cell's document; the file is there only when the cell is done."""
        return self.cells / f"{cell.name}.json"

    def work_folder(self, cell: Cell) -> Path:
        """Return the folder of a cell that has begun; it is removed when the cell is done."""
        return self.root / "work" / cell.name

    def remove_work_folder(self, cell: Cell) -> None:
        """Remove the work folder of a finished cell, whose process may have been killed before it did so."""
        shutil.rmtree(self.work_folder(cell), ignore_errors=True)

    def model_path(self, cell: Cell) -> Path:
        """Return the path of the cell's model file, for benchmarks that keep models."""
        return self.root / "models" / f"{cell.name}.safetensors"

    def prepare(self) -> None:
        """Make the folders, and remove partial files of killed writers."""
        self.cells.mkdir(parents=True, exist_ok=True)
        for path in self.root.rglob(".*.part"):
            with suppress(OSError):
                path.unlink()

    def read_cell(self, cell: Cell) -> Json | None:
        """Read the document of a finished cell.

        The result is None if the cell is not done, or the document is of another version or other settings.
        """
        with suppress(OSError, ValueError, KeyError, TypeError):
            document = json.loads(self.cell_path(cell).read_text(encoding="utf-8"))
            if document["format"] == DOCUMENT_FORMAT and document["identity"] == cell.identity:
                return dict(document)
        return None

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other benchmarks out of this folder during a `with` block.

        On Windows, and on file systems without locks, this does nothing.

        Raises:
            InputError: Another benchmark works in the folder.
        """
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
    """Write a document; if the process is killed meanwhile, the file stays as it was before."""
    with atomic_write(path) as file:
        file.write(f"{json.dumps(document, indent=1, allow_nan=False)}\n".encode())
