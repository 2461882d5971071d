"""`predict` on a Ray cluster: a listing, parts of it judged by actors, and what they say together.

Below the folder of results: `run.json`, the call; `listing/`, which pictures, in which order; `parts/`, the
results, a row for every input; `overlays/`, if asked for. Each file is written once and whole, so that a run
that was stopped, or that lost its workers, goes on with the parts that are missing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from flawscope.artefact.model_file import Manifest
from flawscope.calibration.decision import Calibration, Rate, rate_of
from flawscope.cluster import connect, flow, jobs
from flawscope.cluster import manifest as listing
from flawscope.cluster import shards as parts
from flawscope.cluster.model_transfer import digest_of, files_of, send
from flawscope.cluster.run_file import RUN, RunFile
from flawscope.cluster.shards import Job, Some, Summary, Told
from flawscope.cluster.store import Store, is_url
from flawscope.errors import FlawscopeError, InputError, require_installed
from flawscope.progress import Step, counted, silent
from flawscope.results import distribution_shift
from flawscope.results.distribution_shift import Mismatch

PART = 1_000  # pictures
EACH = 24  # parts a worker, where there are few pictures: at the end all have something to do
MOST = 2_000  # parts, about: this process hands out some 70 a second; beyond it they are larger
NAMED = 20  # inputs that were not judged, by name
READERS = 16  # parts that are read at a time, of a run that goes on
MIB = 2**20
PROCESS = 512 * MIB  # a worker with its engine (measured: 373 to 516 MiB with torch, 87 with ONNX Runtime)
GPU_PROCESS = 3 * 1024 * MIB  # with CUDA's libraries
A_PIXEL = 512  # bytes of a network's input pixel, with what the network computes of it

# What is counted of a part, in the order of `Told`; a part without inputs is missing
COUNTS = slice(1, 6)
INPUTS, JUDGED, ANOMALOUS, SEVERAL, UNDRAWN = range(5)

Say = Callable[[str], None]


@dataclass
class Results:
    """What became of a run.

    inputs, judged, anomalous: how many. unjudged: the reasons why inputs were not judged. several: files
    with several pictures. undrawn: pictures without the overlay that was asked for. beside: files beside the
    pictures. together: what the latest pictures say of the model.
    """

    inputs: int
    judged: int
    anomalous: int
    unjudged: Some
    several: Some
    undrawn: Some
    beside: Some
    together: Mismatch
    manifest: Manifest
    calibration: Calibration


def predict(
    model: str | os.PathLike[str],
    pictures: Sequence[str],
    *,
    where: str = "auto",
    out: str,
    false_alarm_rate: Rate | None = None,
    device: str = "auto",
    threads: int = 1,
    overlays: bool = False,
    size: int | None = None,
    stdin: IO[bytes] | None = None,
    step: Step = silent,
    say: Say = lambda line: None,
) -> Results:
    """Judge any number of pictures on a cluster. The rows are those of `flawscope predict` with the same
    `threads`, value for value; `out/parts` holds them as Parquet, in the listing's order, with the picture's
    height and width and its `shifts` beside them.

    Called again with the same arguments it goes on where it stopped: with the listing that is there, and the
    parts that are not. Neither this process nor a worker holds more than a part of the listing.

    Args:
        model: .safetensors, .onnx or .xml. Nodes need not see it.
        pictures: files, folders, patterns, tables with a column `path` (.parquet, .csv) or a path a line
            (.txt), URLs of these, or `-` alone. All nodes must reach what they name.
        where: auto, local, or an address, as `--cluster` takes it.
        out: folder or URL of the results, which all nodes reach under this name.
        false_alarm_rate: another target than the model's, 0.05 or "5%".
        device: auto, cpu or cuda; with GPUs each worker has one.
        threads: of a worker, which has as many cores. One scales best.
        overlays: write overlays of anomalous pictures, too.
        size: pictures of a part; None: as many as suit the workers. A run keeps it.
        stdin: what `-` reads.
        step: told how many pictures are done. say: gets lines for a person.

    Raises:
        InputError: the call is wrong, the folder holds another run, or a node does not see what it must.
        FlawscopeError: something could not be read or written, or the cluster was lost.
    """
    from flawscope.predictor import read_manifest

    connect.check(where)
    require_installed("--cluster", "pyarrow", "fsspec", extras="cluster")
    manifest = read_manifest(model)
    rate = None if false_alarm_rate is None else rate_of(false_alarm_rate)
    calibration = manifest.calibration if rate is None else manifest.calibration.with_rate(rate)
    store = Store(out)
    if overlays:
        _refuse_among_pictures(store, pictures)
    call = {
        "model": [digest_of(path) for path in files_of(model)],
        "pictures": list(pictures),
        "folder": os.getcwd() if any(map(_may_be_relative, pictures)) else "",
        "false-alarm-rate": rate,
        "device": device,
        "threads": threads,
        "overlays": overlays,
    }
    run = RunFile.begun(store, call)
    run.list(pictures, stdin)
    tally = _Tally(run, step)
    tally.begin(say)
    if not run.size or len(tally.missing):
        with connect.connected(where):
            share = jobs.share(connect.nodes(), 1, threads, _device(model, device))
            need = min(_memory(manifest, files_of(model), bool(share.gpus)), share.most)
            workers = max(1, share.at_once(need))
            if not run.size:
                chosen = size or _size(manifest, model, run.listing.inputs, workers, bool(share.gpus))
                run.fix(chosen, share.gpus)
                tally = _Tally(run, step)
            run.check(share.gpus)
            say(
                f"{counted(workers, 'worker')} on {counted(len(share.nodes), 'node')}, "
                f"{counted(threads, 'thread')} each{' and a GPU' if share.gpus else ''}; "
                f"{counted(len(tally.missing), 'part')} of up to {counted(run.size, 'picture')}"
            )
            job = Job(
                out=store.root if store.on_disk else store.url,
                marker=RUN,
                model=send(model),
                size=run.size,
                inputs=run.listing.inputs,
                device="cuda" if share.gpus else device,
                threads=threads,
                false_alarm_rate=rate,
                overlays=overlays,
                roots=tuple(run.listing.roots),
                folder=os.getcwd(),
            )
            tally.follow(job, {"num_cpus": threads, "num_gpus": share.gpus, "memory": need}, workers)
    return tally.results(manifest, calibration)


def _may_be_relative(spec: str) -> bool:
    """Whether it depends on the working folder which pictures are meant."""
    return spec.lower().endswith(listing.TABLES) or not (is_url(spec) or os.path.isabs(spec))


def _refuse_among_pictures(store: Store, pictures: Sequence[str]) -> None:
    """Overlays there would be pictures of the next run."""
    for spec in pictures:
        if not is_url(spec) and os.path.isdir(spec) and store.lies_in(spec):
            raise InputError(
                f"--out {store.url} lies among the pictures, and a later run would judge its overlays: "
                f"choose an --out outside of {spec}"
            )


def _device(model: str | os.PathLike[str], device: str) -> str:
    """`auto` is the CPU for an exported model, as in `flawscope.load`."""
    exported = os.path.splitext(os.fspath(model))[1].lower() != ".safetensors"
    return "cpu" if device == "auto" and exported else device


def _memory(manifest: Manifest, files: Sequence[os.PathLike[str]], gpu: bool) -> int:
    """Bytes that a worker is expected to need: its process, the model as it is read, checked and held, and
    what is computed of a batch."""
    from flawscope.runtime import FEW, together

    height, width = manifest.preprocess.network_size
    batch = together((height, width), FEW) * height * width * A_PIXEL
    held = 3 * sum(os.path.getsize(path) for path in files)
    return (GPU_PROCESS if gpu else PROCESS) + held + batch


def _size(manifest: Manifest, model: str | os.PathLike[str], inputs: int, workers: int, gpu: bool) -> int:
    """Pictures of a part, for this model."""
    from flawscope.runtime import FEW, MANY, together

    on_torch = os.fspath(model).lower().endswith(".safetensors")
    batch = together(manifest.preprocess.network_size, MANY if gpu and on_torch else FEW)
    return part_size(inputs, workers, batch)


def part_size(inputs: int, workers: int, batch: int = 1) -> int:
    """Pictures of a part: `PART`, fewer where each worker would not get `EACH` parts then, more where there
    would be more than `MOST` parts. No worker is without one, unless there are too few batches.

    A part ends where a batch of `flawscope predict` ends, so that the same pictures are computed together:
    else the last digits of a score may differ.
    """
    rounds = max(1, round(MOST / workers))  # whole ones: in a broken one some workers would only wait
    few = -(-inputs // (EACH * workers))
    wanted = max(min(few, PART), -(-inputs // (rounds * workers)), 1)
    return min(-(-wanted // batch), max(inputs // workers // batch, 1)) * batch


# ---------------------------------------------------------------------------------------- what they have told


class _Tally:
    """What is known of each part."""

    def __init__(self, run: RunFile, step: Step):
        self.run, self.store, self.step = run, run.store, step
        self.counts = np.zeros((run.parts, UNDRAWN + 1), np.int32)

    @property
    def missing(self) -> NDArray[np.int64]:
        return np.flatnonzero(self.counts[:, INPUTS] == 0)

    def begin(self, say: Say) -> None:
        """Count what is there."""
        numbers = map(parts.number, self.store.names(parts.FOLDER))
        there = [part for part in numbers if 0 <= part < len(self.counts)]
        with ThreadPoolExecutor(READERS) as pool:
            for part, found in zip(there, pool.map(self._read, there), strict=True):
                self.counts[part] = Told.of(part, found[0])[COUNTS]
        if there:
            left = "the others are judged" if len(self.missing) else "nothing is left to do"
            say(f"{len(there):,} of {counted(len(self.counts), 'part')} are there: {left}")

    def follow(self, job: Job, needs: Mapping[str, Any], workers: int) -> None:
        """Have the missing parts judged."""
        before = self._sum(INPUTS)
        done, left, rate = 0, job.inputs - before, _Rate()
        try:
            for told in flow.judged(job, self.missing, needs, workers):
                if told.error:
                    raise (InputError if told.wrong else FlawscopeError)(told.error)
                self.counts[told.part] = told[COUNTS]
                done += told.inputs
                # of what is left, and not before workers have started: else the time left would be wrong
                self.step(f"prediction{rate.words(told.inputs)}", done, left)
        except KeyboardInterrupt:
            of = f"{before + done:,} of {counted(job.inputs, 'input')}"
            raise KeyboardInterrupt(f"interrupted after {of}; {connect.REPEAT}") from None
        if lost := len(self.missing):
            raise FlawscopeError(f"{counted(lost, 'part')} came to nothing: {connect.REPEAT}")

    def results(self, manifest: Manifest, calibration: Calibration) -> Results:
        """What is said at the end, from the few parts that are needed for it."""
        inputs, judged, anomalous = map(self._sum, (INPUTS, JUDGED, ANOMALOUS))
        unjudged = Some(inputs - judged)
        for part in np.flatnonzero(self.counts[:, INPUTS] > self.counts[:, JUDGED]):
            errors = self._read(int(part), "error")[1].column("error").to_pylist()
            unjudged.first += [error for error in errors if error]
            if len(unjudged.first) >= NAMED:
                break
        del unjudged.first[NAMED:]
        return Results(
            inputs=inputs,
            judged=judged,
            anomalous=anomalous,
            unjudged=unjudged,
            several=self._named(SEVERAL, "several"),
            undrawn=self._named(UNDRAWN, "undrawn"),
            beside=Some(self.run.listing.beside, self.run.listing.named),
            together=self._together(calibration),
            manifest=manifest,
            calibration=calibration,
        )

    def _named(self, column: int, name: str) -> Some:
        made = Some(self._sum(column))
        for part in np.flatnonzero(self.counts[:, column]):
            made.first += getattr(self._read(int(part))[0], name).first
            if len(made.first) >= parts.NAMED:
                break
        del made.first[parts.NAMED :]
        return made

    def _together(self, calibration: Calibration) -> Mismatch:
        """Of the last pictures, as when one process has judged them all."""
        severities: list[float] = []
        shifts: list[tuple[float, ...]] = []
        for part in np.flatnonzero(self.counts[:, JUDGED])[::-1]:
            table = self._read(int(part), "severity", "shifts")[1]
            severities[:0] = [value for value in table.column("severity").to_pylist() if value is not None]
            shifts[:0] = [tuple(value) for value in table.column("shifts").to_pylist() if value]
            if len(severities) >= distribution_shift.KEPT:
                break
        made = Mismatch(calibration.expected_rate, count=self._sum(JUDGED), anomalous=self._sum(ANOMALOUS))
        made.severities.extend(severities)
        made.shifts.extend(shifts)
        return made

    def _sum(self, column: int) -> int:
        return int(self.counts[:, column].sum(dtype=np.int64))

    def _read(self, part: int, *columns: str) -> tuple[Summary, Any]:
        return parts.read(self.store, part, self.run.size, columns)


class _Rate:
    """Inputs a second, from the first part on: until then workers start."""

    def __init__(self) -> None:
        self.began, self.count = 0.0, 0

    def words(self, more: int) -> str:
        """To follow the stage, when so many more are done."""
        now = time.monotonic()
        if not self.began:
            self.began = now
            return ""
        self.count += more
        return f", {self.count / max(now - self.began, 1e-3):,.1f} a second"
