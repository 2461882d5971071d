"""`predict` on a Ray cluster: tasks judge shards of a listing.

The folder of results has `run.json`, the call; `listing.parquet`, the pictures in their order; and `parts/`,
the results, with a row for every input. Each part is written once and whole: a run that was stopped, or that
lost its workers, continues with the missing shards.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import IO

from flawscope.artefact.files import TRAINED_SUFFIX, file_sha256
from flawscope.artefact.model_file import Manifest
from flawscope.cluster import connect, listing, shards
from flawscope.cluster.listing import FileStore, ListingInfo, TruncatedList
from flawscope.cluster.shards import RUN_FILE, Job, Run
from flawscope.errors import (
    Failure,
    FlawscopeError,
    InputError,
    pluralize,
    require_installed,
    unread_failure,
)
from flawscope.machine import LARGE_BATCH, SMALL_BATCH, batch_size_for
from flawscope.pictures.listing import printable
from flawscope.progress import ProgressCallback, Say, discard, ignore_progress
from flawscope.results.prediction import MAX_REMEMBERED, MismatchDetector
from flawscope.results.run import SUMMARY_NAME
from flawscope.types import Facts

SHARD_SIZE = 1_000  # pictures of a shard
# Shards that each worker gets at least, so that all are busy to the end: with few pictures shards are smaller
SHARDS_PER_WORKER = 24
# Most shards, or the number of workers if that is larger: with very many pictures shards are larger
MAX_SHARDS = 2_000
SHARD_RETRIES = 5  # for a shard whose process was lost
MAX_READERS = 16  # shards that are read at a time
MIB = 2**20
PROCESS_MEMORY = 512 * MIB  # of a worker (measured: 373 to 516 MiB with torch, 87 with ONNX Runtime)
GPU_PROCESS_MEMORY = 3 * 1024 * MIB  # of a worker with CUDA's libraries
MODEL_COPIES = 3  # in a worker's memory: as read, as checked, and in use
BYTES_PER_PIXEL = 512  # of a network's input, with all that the network computes from it


@dataclass
class Results:
    """Outcome of a run.

    Attributes:
        totals: Counts, and the latest pictures' mismatch with the model.
        manifest: The model's manifest, with the false-alarm rate of the call.
        side_files: Files beside the pictures, which were not read.
        unjudged: A line for each input that was not judged, with the reason.
    """

    totals: MismatchDetector
    manifest: Manifest
    side_files: TruncatedList = field(default_factory=TruncatedList)
    unjudged: TruncatedList = field(default_factory=TruncatedList)


def predict(
    model: str | os.PathLike[str],
    manifest: Manifest,
    pictures: Sequence[str],
    *,
    where: str = "auto",
    out: str,
    false_alarm_rate: float | str | None = None,
    engine: str | None = None,
    device: str = "auto",
    threads: int = 1,
    stdin: IO[bytes] | None = None,
    step: ProgressCallback = ignore_progress,
    say: Say = discard,
) -> Results:
    """Judge any number of pictures on a cluster.

    The results are rows of Parquet files in `out/parts`, in the listing's order, with each picture's height,
    width and `shifts`. They have the same values as those of `flawscope predict` with the same `threads`.

    A second call with the same arguments continues where the first one stopped: it keeps the listing and
    judges the missing shards. Neither this process nor a worker holds the whole listing in memory.

    Args:
        model: A model file. Nodes need not see it.
        manifest: The manifest of the model.
        pictures: Files, folders, patterns, or `-` alone. All nodes must reach the pictures.
        where: auto, local, or an address, as for `--cluster`.
        out: Folder of the results, which all nodes reach under this name.
        false_alarm_rate: Target rate, such as 0.05 or "5%"; None: the model's.
        engine: The engine of an .onnx model, as for `flawscope.load`.
        device: auto, cpu or cuda; with GPUs each worker has one.
        threads: Threads of a worker, which gets as many cores. Together, workers of one thread are fastest.
        stdin: The list of paths where `pictures` is `-`.
        step: Called with the number of judged inputs.
        say: Called with lines for a person.

    Raises:
        InputError: The call is wrong, the folder holds another run, or a node does not see a folder.
        FlawscopeError: A file could not be read or written, or the cluster was lost.
    """
    connect.check_address(where)
    require_installed("--cluster", "pyarrow", extras="cluster")
    for name in (out, *pictures):
        if "://" in name:
            raise InputError(f"{name} is an address: name a folder that all nodes see under one path")
    if false_alarm_rate is not None:
        manifest = replace(manifest, calibration=manifest.calibration.with_rate(false_alarm_rate))
    store = FileStore(out)
    has_relative_paths = not all(map(os.path.isabs, pictures))
    call = {
        "model": [file_sha256(model)],
        "pictures": list(pictures),
        "folder": str(Path.cwd()) if has_relative_paths else "",  # relative paths begin here
        "false-alarm-rate": None if false_alarm_rate is None else manifest.calibration.rate,
        "engine": engine,
        "device": device,
        "threads": threads,
    }
    earlier_run = _read_earlier_run(store, call, stdin)
    info = earlier_run.listing if earlier_run else listing.write(pictures, store, stdin)
    if earlier_run is not None and not earlier_run.missing_shards(store):
        run = earlier_run
        say(f"{pluralize(run.shards, 'part')} are there: nothing is left to do")
    else:
        with connect.cluster_connection(where):
            run = _judge_missing(store, earlier_run, call, info, model, manifest, step, say)
    return _collect_results(store, run, manifest)


def _read_earlier_run(store: FileStore, call: Mapping[str, object], stdin: IO[bytes] | None) -> Run | None:
    """Read this call's run from the folder of results.

    Args:
        store: The folder of results.
        call: Arguments of the call, by name.
        stdin: The list of paths, where the call names `-`.

    Returns:
        The run; None: the folder has no run yet.

    Raises:
        InputError: The folder has results of another call or command.
    """
    if not store.exists(RUN_FILE):
        for name in (shards.PARTS_FOLDER, SUMMARY_NAME):
            if store.exists(name):
                raise InputError(
                    f"{store.root / name} is there already, and not of a run on a cluster: choose another "
                    "--out"
                )
        return None
    run = Run.read(store)
    # name of the first argument with another value; "": all values are the same
    difference = next((name for name, value in call.items() if run.call.get(name) != value), "")
    listed_digest = run.listing.digest  # of the list on stdin
    if not difference and listed_digest and stdin and listing.stdin_digest(stdin) != listed_digest:
        difference = "list of paths on stdin"
    if difference:
        raise InputError(
            f"--out {store.root} holds a run with another {difference}: give the same call, which goes on "
            "there, or choose another --out"
        )
    return run


def shard_size(input_count: int, worker_count: int, batch_size: int = 1) -> int:
    """Return the number of pictures in a shard.

    The number is `SHARD_SIZE`, with two exceptions: it is smaller where `SHARD_SIZE` gives a worker fewer
    than `SHARDS_PER_WORKER` shards, and larger where it gives more than about `MAX_SHARDS` shards in all.

    Args:
        input_count: Number of inputs.
        worker_count: Number of workers.
        batch_size: Batch size of `flawscope predict`. The shard's size is a multiple of it, so that the same
            pictures are computed together: in another batch the last digits of a score may differ.
    """
    size_for_workers = math.ceil(input_count / (SHARDS_PER_WORKER * worker_count))
    min_size = math.ceil(input_count / max(MAX_SHARDS, worker_count))
    preferred_size = min(size_for_workers, SHARD_SIZE)
    size = max(preferred_size, min_size, 1)
    return math.ceil(size / batch_size) * batch_size


def _worker_memory(manifest: Manifest, model_bytes: int, *, on_gpu: bool) -> int:
    """Return the memory in bytes that a worker is expected to need.

    It is the sum of three parts: for the process, for copies of the model, and for computing a batch.

    Args:
        manifest: The model's manifest.
        model_bytes: Size of the model file.
        on_gpu: Whether the worker computes on a GPU.
    """
    height, width = manifest.preprocess.network_size
    process_bytes = GPU_PROCESS_MEMORY if on_gpu else PROCESS_MEMORY
    batch_bytes = _batch_size(manifest) * height * width * BYTES_PER_PIXEL
    return process_bytes + MODEL_COPIES * model_bytes + batch_bytes


def _batch_size(manifest: Manifest, *, on_gpu: bool = False) -> int:
    """Return the number of pictures that are computed together."""
    largest_batch = LARGE_BATCH if on_gpu else SMALL_BATCH
    return batch_size_for(manifest.preprocess.network_size, largest_batch)


# ------------------------------------------------------------------------------------------- on the cluster


def _judge_missing(
    store: FileStore,
    run: Run | None,
    call: Facts,
    info: ListingInfo,
    model: str | os.PathLike[str],
    manifest: Manifest,
    step: ProgressCallback,
    say: Say,
) -> Run:
    """Judge the missing shards on the cluster.

    Args:
        store: The folder of results.
        run: The run to continue; None: a new run begins, and its file is written.
        call: Arguments of the call, by name.
        info: Facts about the listing.
        model: The model file.
        manifest: The manifest of the model.
        step: Called with the number of judged inputs.
        say: Called with lines for a person.

    Returns:
        The continued or the new run.
    """
    is_exported = not os.fspath(model).lower().endswith(TRAINED_SUFFIX)
    device = call["device"]
    if is_exported and device == "auto":
        device = "cpu"  # as in `predict`: an exported model runs on a GPU only with `--device cuda`
    resources = connect.allocate(connect.list_nodes(), count=1, threads=call["threads"], device=device)
    has_gpu = bool(resources.gpus)
    needed_memory = _worker_memory(manifest, Path(model).stat().st_size, on_gpu=has_gpu)
    memory = min(needed_memory, resources.max_memory)
    worker_count = max(1, resources.max_concurrency(memory))
    device_kind = "cuda" if has_gpu else "cpu"
    if run is None:
        # only torch on a GPU computes larger batches
        batch_size = _batch_size(manifest, on_gpu=has_gpu and not is_exported)
        size = shard_size(info.inputs, worker_count, batch_size)
        run = Run(dict(call), info, size, device_kind)
        run.write(store)
    elif run.device != device_kind:  # the last digits of scores would differ
        raise InputError(
            f"--out {store.root} holds a run that was begun on {run.device}, and this cluster's workers have "
            f"{device_kind}: go on with workers as before, or choose another --out"
        )
    missing = run.missing_shards(store)
    say(
        f"{pluralize(worker_count, 'worker')} on {pluralize(len(resources.nodes), 'node')}, "
        f"{pluralize(resources.threads, 'thread')} each{' and a GPU' if has_gpu else ''}; "
        f"{len(missing):,} of {pluralize(run.shards, 'part')} to judge, up to "
        f"{pluralize(run.size, 'picture')} each"
    )
    task_resources = {"num_cpus": resources.threads, "num_gpus": resources.gpus, "memory": memory}
    counts = judge_shards(Job.upload(str(store.root), model), missing, task_resources)
    _report_progress(counts, run.count_inputs(missing), step)
    return run


def judge_shards(job: Job, missing: Sequence[int], resources: Mapping[str, object]) -> Iterator[int]:
    """Judge shards by tasks. A task waits until a node has room for it; nodes may join later.

    Args:
        job: Arguments of the tasks.
        missing: Numbers of the shards.
        resources: Resources of a task by Ray's names: num_cpus, num_gpus, and memory in bytes.

    Yields:
        Each shard's number of inputs, in the order in which the shards end.

    Raises:
        FlawscopeError: A task failed, or its process ended again and again.
    """
    import ray

    # max_calls=0: a process lives on after a task, and keeps its model for the next
    task = ray.remote(max_calls=0)(shards.judge_shard).options(max_retries=SHARD_RETRIES, **resources)
    waiting_shard_by_ref = {task.remote(job, shard): shard for shard in missing}
    while waiting_shard_by_ref:
        ended_refs, _ = ray.wait([*waiting_shard_by_ref])
        for ref in ended_refs:
            shard = waiting_shard_by_ref.pop(ref)
            try:
                count = connect.task_result(ref)
            except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError):
                raise _crash_error(job, shard) from None
            assert isinstance(count, int)
            yield count


def _crash_error(job: Job, shard: int) -> FlawscopeError:
    """Return the error for a shard whose processes end again and again; it names the shard's pictures."""
    store = FileStore(job.out)
    entries = Run.read(store).entries(store, shard)
    first = printable(entries[0].path)
    last = printable(entries[-1].path)
    return FlawscopeError(
        f"processes that judge part {shard} end again and again: a picture from {first} to {last} does so, "
        "or the node has not enough memory; look for it with `flawscope predict` there"
    )


def _report_progress(counts: Iterator[int], input_count: int, step: ProgressCallback) -> None:
    """Add up the counts of judged inputs, and report the progress.

    Args:
        counts: Number of inputs of each judged shard.
        input_count: Number of inputs of all shards that are to be judged.
        step: Called with the progress.
    """
    done = 0
    try:
        for count in counts:
            done += count
            step("prediction", done, input_count)
    except KeyboardInterrupt:
        progress = f"{done:,} of {pluralize(input_count, 'input')}"
        raise KeyboardInterrupt(f"interrupted after {progress}; {connect.RESUME_HINT}") from None


def _failure(path: str, error: str) -> Failure:
    """Return the failure of an input, from the text of the error that the node wrote.

    A text with the beginning that `unread_failure` writes says that the picture could not be read.
    """
    beginning = unread_failure(path, reason="")
    if error.startswith(beginning):
        return unread_failure(path, error.removeprefix(beginning))
    return Failure(error)


def _collect_results(store: FileStore, run: Run, manifest: Manifest) -> Results:
    """Add up the written shards in their order, so that the totals equal those of a single process."""
    from pyarrow import compute

    totals = MismatchDetector(manifest.calibration.expected_rate)
    results = Results(totals, manifest, side_files=run.listing.beside)
    with ThreadPoolExecutor(MAX_READERS) as pool:
        for table in pool.map(partial(shards.read_shard, store), range(run.shards)):
            errors = table.column("error")
            unjudged = table.filter(compute.not_equal(errors, "")).select(["path", "error"])
            failures = [_failure(**row) for row in unjudged.to_pylist()]
            results.unjudged.add(*failures)
            judged = table.filter(compute.equal(errors, ""))
            totals.count += len(judged)
            totals.anomalous += judged.column("decision").to_pylist().count("anomalous")
            for codes in judged.column("beyond_promise").to_pylist():
                totals.beyond_promise.update(codes or ())
            # `totals` remembers only the latest pictures
            latest = judged.slice(max(0, len(judged) - MAX_REMEMBERED))
            totals.severities.extend(latest.column("severity").to_pylist())
            totals.shifts.extend(tuple(shift) for shift in latest.column("shifts").to_pylist() if shift)
    return results
