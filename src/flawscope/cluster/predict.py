"""`predict` on a Ray cluster: tasks judge shards of a listing.

The folder of results has `run.json`, the call; `listing.parquet`, the pictures in their order; and `parts/`,
the results, with a row for every input. Each part is written once and whole: a run that was stopped, or that
lost its workers, continues with the missing shards.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import IO

from flawscope.artefact.files import file_sha256
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
SHARDS_PER_WORKER = 24  # of few pictures: many small shards keep all workers busy to the end
MAX_SHARDS = 2_000  # or the number of workers, if that is larger; of more pictures shards grow
SHARD_RETRIES = 5  # of a shard whose process was lost
MAX_READERS = 16  # shards that are read at a time
MIB = 2**20
PROCESS_MEMORY = 512 * MIB  # of a worker (measured: 373 to 516 MiB with torch, 87 with ONNX Runtime)
GPU_PROCESS_MEMORY = 3 * 1024 * MIB  # with CUDA's libraries
BYTES_PER_PIXEL = 512  # of a network's input, with all that the network computes from it


@dataclass
class Results:
    """Outcome of a run.

    Attributes:
        totals: Counts, and the latest pictures' mismatch with the model.
        manifest: The model's manifest, with the false-alarm rate of the call.
        side_files: Files beside the pictures, not read.
        unjudged: Reasons why inputs were not judged.
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

    The rows have the same values as those of `flawscope predict` with the same `threads`. `out/parts` holds
    them as Parquet, in the listing's order, with each picture's height, width and `shifts`.

    A second call with the same arguments continues where the first one stopped: it keeps the listing and
    judges the missing shards. Neither this process nor a worker holds more than a part of the listing.

    Args:
        model: A model file. Nodes need not see it.
        manifest: The manifest of the model.
        pictures: Files, folders, patterns, or `-` alone. All nodes must reach the pictures.
        where: auto, local, or an address, as for `--cluster`.
        out: Folder of the results, which all nodes reach under this name.
        false_alarm_rate: Another target than the model's, 0.05 or "5%".
        engine: The engine of an .onnx model, as for `flawscope.load`.
        device: auto, cpu or cuda; with GPUs each worker has one.
        threads: Threads of a worker, which has as many cores. One scales best.
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
    relative = not all(map(os.path.isabs, pictures))
    call = {
        "model": [file_sha256(model)],
        "pictures": list(pictures),
        "folder": str(Path.cwd()) if relative else "",  # elsewhere these would be other pictures
        "false-alarm-rate": None if false_alarm_rate is None else manifest.calibration.rate,
        "engine": engine,
        "device": device,
        "threads": threads,
    }
    run = _read_earlier_run(store, call, stdin)
    info = run.listing if run else listing.write(pictures, store, stdin)
    if run is None or run.missing_shards(store):
        with connect.cluster_connection(where):
            run = _judge_missing(store, run, call, info, model, manifest, step, say)
    else:
        say(f"{pluralize(run.shards, 'part')} are there: nothing is left to do")
    return _collect_results(
        store, run, Results(MismatchDetector(manifest.calibration.expected_rate), manifest)
    )


def _read_earlier_run(store: FileStore, call: Mapping[str, object], stdin: IO[bytes] | None) -> Run | None:
    """Read this call's run from the folder, None if there is none; raise InputError for another run."""
    if not store.exists(RUN_FILE):
        for name in (shards.PARTS_FOLDER, SUMMARY_NAME):
            if store.exists(name):
                raise InputError(
                    f"{store.root / name} is there already, and not of a run on a cluster: choose another "
                    "--out"
                )
        return None
    run = Run.read(store)
    other = [name for name, value in call.items() if run.call.get(name) != value]
    if not other and run.listing.digest and stdin:
        other = ["list of paths on stdin"] * (listing.stdin_digest(stdin) != run.listing.digest)
    for name in other:
        raise InputError(
            f"--out {store.root} holds a run with another {name}: give the same call, which goes on there, "
            "or choose another --out"
        )
    return run


def shard_size(inputs: int, workers: int, batch: int = 1) -> int:
    """Return the number of pictures in a shard.

    It is `SHARD_SIZE`, or less to give each worker `SHARDS_PER_WORKER` shards, or more to have at most about
    `MAX_SHARDS` shards. It is a multiple of `batch`, the batch size of `flawscope predict`: pictures that are
    computed together there are computed together here, else the last digits of a score may differ.
    """
    few = -(-inputs // (SHARDS_PER_WORKER * workers))
    wanted = max(min(few, SHARD_SIZE), -(-inputs // max(MAX_SHARDS, workers)), 1)
    return -(-wanted // batch) * batch


def _worker_memory(manifest: Manifest, model_bytes: int, gpu: bool) -> int:
    """Return the bytes that a worker is expected to need.

    They are its process, three copies of the model (read, checked, held), and the computation of a batch.

    Args:
        manifest: The model's manifest.
        model_bytes: Size of the model file.
        gpu: Whether the worker computes on a graphics card.
    """
    height, width = manifest.preprocess.network_size
    process = GPU_PROCESS_MEMORY if gpu else PROCESS_MEMORY
    return process + 3 * model_bytes + _batch_size(manifest) * height * width * BYTES_PER_PIXEL


def _batch_size(manifest: Manifest, *, on_gpu: bool = False) -> int:
    """Return the number of pictures that are computed together."""
    return batch_size_for(manifest.preprocess.network_size, LARGE_BATCH if on_gpu else SMALL_BATCH)


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
    """Judge the missing shards on the cluster; first write the run's file if there is none."""
    is_exported = not os.fspath(model).lower().endswith(".safetensors")
    device = call["device"]
    if is_exported and device == "auto":
        device = "cpu"  # an exported model runs there unless a GPU is asked for
    resources = connect.allocate(connect.list_nodes(), count=1, threads=call["threads"], device=device)
    memory = min(
        _worker_memory(manifest, Path(model).stat().st_size, bool(resources.gpus)), resources.max_memory
    )
    workers = max(1, resources.max_concurrency(memory))
    device_kind = "cuda" if resources.gpus else "cpu"
    if run is None:
        # larger batches are torch's alone
        batch = _batch_size(manifest, on_gpu=bool(resources.gpus) and not is_exported)
        run = Run(dict(call), info, shard_size(info.inputs, workers, batch), device_kind)
        run.write(store)
    elif run.device != device_kind:  # the last digits of scores would differ
        raise InputError(
            f"--out {store.root} holds a run that was begun on {run.device}, and this cluster's workers have "
            f"{device_kind}: go on with workers as before, or choose another --out"
        )
    missing = run.missing_shards(store)
    say(
        f"{pluralize(workers, 'worker')} on {pluralize(len(resources.nodes), 'node')}, "
        f"{pluralize(resources.threads, 'thread')} each{' and a GPU' if resources.gpus else ''}; "
        f"{len(missing):,} of {pluralize(run.shards, 'part')} to judge, up to "
        f"{pluralize(run.size, 'picture')} each"
    )
    needs = {"num_cpus": resources.threads, "num_gpus": resources.gpus, "memory": memory}
    counts_as_they_end = judge_shards(Job.upload(str(store.root), model), missing, needs)
    _report_progress(counts_as_they_end, run.count_inputs(missing), step)
    return run


def judge_shards(job: Job, missing: Sequence[int], resources: Mapping[str, object]) -> Iterator[int]:
    """Judge shards by tasks, which wait for room on the nodes, also on nodes that join later.

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

    task = ray.remote(max_calls=0)(shards.judge_shard).options(max_retries=SHARD_RETRIES, **resources)
    waiting = {task.remote(job, shard): shard for shard in missing}
    while waiting:
        for ref in ray.wait([*waiting])[0]:
            shard = waiting.pop(ref)
            try:
                count = connect.task_result(ref)
                assert isinstance(count, int)
                yield count
            except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError):
                store = FileStore(job.out)
                entries = Run.read(store).entries(store, shard)
                first = printable(entries[0].path)
                last = printable(entries[-1].path)
                raise FlawscopeError(
                    f"processes that judge part {shard} end again and again: a picture from {first} to "
                    f"{last} does so, or the node has not enough memory; look for it with `flawscope "
                    "predict` there"
                ) from None


def _report_progress(counts: Iterator[int], inputs: int, step: ProgressCallback) -> None:
    """Add up the counts of judged inputs, and report the progress; `inputs` is the number of all."""
    done = 0
    try:
        for count in counts:
            done += count
            step("prediction", done, inputs)
    except KeyboardInterrupt:
        of = f"{done:,} of {pluralize(inputs, 'input')}"
        raise KeyboardInterrupt(f"interrupted after {of}; {connect.RESUME_HINT}") from None


def _failure(path: str, error: str) -> Failure:
    """Return the reason why an input was not judged, of the kind that the writing node recorded."""
    beginning = unread_failure(path, "")
    return unread_failure(path, error[len(beginning) :]) if error.startswith(beginning) else Failure(error)


def _collect_results(store: FileStore, run: Run, results: Results) -> Results:
    """Add up the written shards in order; the totals are the same as those of a single process."""
    from pyarrow import compute

    results.side_files = run.listing.beside
    with ThreadPoolExecutor(MAX_READERS) as pool:
        for table in pool.map(partial(shards.read_shard, store), range(run.shards)):
            errors = table.column("error")
            totals = results.totals
            unjudged = table.filter(compute.not_equal(errors, "")).select(["path", "error"])
            results.unjudged.add(*(_failure(**row) for row in unjudged.to_pylist()))
            judged = table.filter(compute.equal(errors, ""))
            totals.count += len(judged)
            totals.anomalous += judged.column("decision").to_pylist().count("anomalous")
            for codes in judged.column("beyond_promise").to_pylist():
                totals.beyond_promise.update(codes or ())
            judged = judged.slice(max(0, len(judged) - MAX_REMEMBERED))
            totals.severities.extend(judged.column("severity").to_pylist())
            totals.shifts.extend(tuple(shift) for shift in judged.column("shifts").to_pylist() if shift)
    return results
