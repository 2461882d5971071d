"""`predict` on a Ray cluster: shards of a listing are judged by tasks.

Below the folder of results: `run.json`, the call; `listing.parquet`, which pictures, in which order;
`parts/`, the results, a row for every input; `overlays/`, if asked for. Each part is written once and whole,
so that a run that was stopped, or that lost its workers, goes on with the shards that are missing.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import IO, Any

from flawscope.artefact.files import digest_of
from flawscope.artefact.model_file import Manifest
from flawscope.cluster import connect, listing, shards
from flawscope.cluster.listing import Listing, Some, Store, is_url
from flawscope.cluster.shards import RUN, Job, Run
from flawscope.errors import FlawscopeError, InputError, pluralize, require_installed
from flawscope.pictures.listing import printable
from flawscope.progress import Step, silent
from flawscope.results.prediction import REMEMBERED, Mismatch
from flawscope.results.run import FACTS

PART = 1_000  # pictures of a shard
EACH = 24  # shards a worker, where there are few pictures: at the end all have something to do
MOST = 2_000  # shards, and one for each worker: beyond it they are larger
RETRIES = 5  # of a shard whose process was lost
READERS = 16  # shards that are read at a time
MIB = 2**20
PROCESS = 512 * MIB  # a worker with its engine (measured: 373 to 516 MiB with torch, 87 with ONNX Runtime)
GPU_PROCESS = 3 * 1024 * MIB  # with CUDA's libraries
A_PIXEL = 512  # bytes of a network's input pixel, with all that the network computes of it


@dataclass
class Results:
    """Outcome of a run. together: counts, and the latest pictures' mismatch with the model. manifest: of the
    model, with the false-alarm rate that it was called with. unjudged: reasons
    why inputs were not judged. several: files with several pictures. undrawn: judged pictures that were not
    drawn. beside: files beside the pictures."""

    together: Mismatch
    manifest: Manifest
    beside: Some = field(default_factory=Some)
    unjudged: Some = field(default_factory=Some)
    several: Some = field(default_factory=Some)
    undrawn: Some = field(default_factory=Some)


def predict(
    model: str | os.PathLike[str],
    pictures: Sequence[str],
    *,
    where: str = "auto",
    out: str,
    false_alarm_rate: float | str | None = None,
    engine: str | None = None,
    device: str = "auto",
    threads: int = 1,
    overlays: bool = False,
    stdin: IO[bytes] | None = None,
    step: Step = silent,
    say: Callable[[str], None] = lambda line: None,
) -> Results:
    """Judges any number of pictures on a cluster. The rows are those of `flawscope predict` with the same
    `threads`, value for value; `out/parts` holds them as Parquet, in the listing's order, with the picture's
    height and width and its `shifts` beside them.

    Called again with the same arguments it goes on where it stopped: with the listing that is there, and the
    shards that are not. Neither this process nor a worker holds more than a part of the listing.

    Args:
        model: a model file. Nodes need not see it.
        pictures: files, folders, patterns, tables with a column `path` (.parquet, .csv) or a path a line
            (.txt), URLs of these, or `-` alone. All nodes must reach the pictures.
        where: auto, local, or an address, as `--cluster` takes it.
        out: folder or URL of the results, which all nodes reach under this name.
        false_alarm_rate: another target than the model's, 0.05 or "5%".
        engine: that runs an .onnx model, as `flawscope.load` takes it.
        device: auto, cpu or cuda; with GPUs each worker has one.
        threads: of a worker, which has as many cores. One scales best.
        overlays: write overlays of anomalous pictures, too.
        stdin: read where the pictures are `-`.
        step: told how many pictures are done. say: gets lines for a person.

    Raises:
        InputError: the call is wrong, the folder holds another run, or a node does not see a folder.
        FlawscopeError: a file could not be read or written, or the cluster was lost.
    """
    from flawscope.runtime import read_manifest

    connect.check(where)
    require_installed("--cluster", "pyarrow", "fsspec", extras="cluster")
    facts = read_manifest(model)
    if false_alarm_rate is not None:
        facts = replace(facts, calibration=facts.calibration.with_rate(false_alarm_rate))
    store = Store(out)
    if overlays:
        _refuse_among_pictures(store, out, pictures)
    relative = any(spec.lower().endswith(listing.TABLES) or not _is_placed(spec) for spec in pictures)
    call = {
        "model": [digest_of(model)],
        "pictures": list(pictures),
        "folder": os.getcwd() if relative else "",  # elsewhere these would be other pictures
        "false-alarm-rate": None if false_alarm_rate is None else facts.calibration.rate,
        "engine": engine,
        "device": device,
        "threads": threads,
        "overlays": overlays,
    }
    run = _found(store, call, stdin)
    listed = run.listing if run else listing.write(pictures, store, stdin)
    if run is None or run.missing(store):
        with connect.connected(where):
            run = _judge(store, run, call, listed, model, facts, step, say)
    else:
        say(f"{pluralize(run.shards, 'part')} are there: nothing is left to do")
    return _collected(store, run, Results(Mismatch(facts.calibration.expected_rate), facts))


def _is_placed(spec: str) -> bool:
    return is_url(spec) or os.path.isabs(spec)


def _refuse_among_pictures(store: Store, out: str, pictures: Sequence[str]) -> None:
    """Raises an InputError where the overlays would be pictures of the next run."""
    for spec in pictures:
        if not is_url(spec) and os.path.isdir(spec) and store.lies_in(spec):
            raise InputError(
                f"--out {out} lies among the pictures, and a later run would judge its overlays: choose an "
                f"--out outside of {spec}"
            )


def _found(store: Store, call: Mapping[str, Any], stdin: Any) -> Run | None:
    """Reads this call's run in the folder; None where there is none. InputError: it has another one."""
    if not store.exists(RUN):
        for name in (shards.FOLDER, shards.OVERLAYS, FACTS):
            if store.exists(name):
                raise InputError(
                    f"{store.url}/{name} is there already, and not of a run on a cluster: choose another "
                    "--out"
                )
        return None
    run = Run.read(store)
    other = [name for name, value in call.items() if run.call.get(name) != value]
    if not other and run.listing.digest and stdin:
        other = ["list of paths on stdin"] * (
            hashlib.file_digest(stdin, "sha256").hexdigest() != run.listing.digest
        )
    for name in other:
        raise InputError(
            f"--out {store.url} holds a run with another {name}: give the same call, which goes on there, or "
            "choose another --out"
        )
    return run


def shard_size(inputs: int, workers: int, batch: int = 1) -> int:
    """Number of pictures in a shard: `PART`, or fewer so that each worker gets `EACH` shards, or more so that
    there are about `MOST` shards.

    A shard ends where a batch of `flawscope predict` ends, so that the same pictures are computed together:
    else the last digits of a score may differ.
    """
    few = -(-inputs // (EACH * workers))
    wanted = max(min(few, PART), -(-inputs // max(MOST, workers)), 1)
    return -(-wanted // batch) * batch


def _memory(facts: Manifest, held: int, gpu: bool) -> int:
    """Bytes that a worker is expected to need: its process, the model as it is read, checked and held, and
    the computation of a batch. held: bytes of the model file."""
    height, width = facts.preprocess.network_size
    return (GPU_PROCESS if gpu else PROCESS) + 3 * held + _batch(facts) * height * width * A_PIXEL


def _batch(facts: Manifest, *, on_gpu: bool = False) -> int:
    """Number of pictures that are computed together."""
    from flawscope.runtime.session import FEW, MANY, together

    return together(facts.preprocess.network_size, MANY if on_gpu else FEW)


# ------------------------------------------------------------------------------------------- on the cluster


def _judge(
    store: Store,
    run: Run | None,
    call: Mapping[str, Any],
    listed: Listing,
    model: str | os.PathLike[str],
    facts: Manifest,
    step: Step,
    say: Callable[[str], None],
) -> Run:
    """Has the shards judged that are missing; writes the run's file first where there is none."""
    exported = not os.fspath(model).lower().endswith(".safetensors")  # `auto` is then the CPU
    device = "cpu" if call["device"] == "auto" and exported else call["device"]
    each = connect.share(connect.nodes(), 1, call["threads"], device)
    need = min(_memory(facts, os.path.getsize(model), bool(each.gpus)), each.most)
    workers, kind = max(1, each.at_once(need)), "cuda" if each.gpus else "cpu"
    if run is None:
        batch = _batch(facts, on_gpu=bool(each.gpus) and not exported)
        run = Run(dict(call), listed, shard_size(listed.inputs, workers, batch), kind)
        run.write(store)
    elif run.device != kind:  # the last digits of scores would differ
        raise InputError(
            f"--out {store.url} holds a run that was begun on {run.device}, and this cluster's workers have "
            f"{kind}: go on with workers as before, or choose another --out"
        )
    missing = run.missing(store)
    say(
        f"{pluralize(workers, 'worker')} on {pluralize(len(each.nodes), 'node')}, "
        f"{pluralize(each.threads, 'thread')} each{' and a GPU' if each.gpus else ''}; "
        f"{len(missing):,} of {pluralize(run.shards, 'part')} to judge, up to "
        f"{pluralize(run.size, 'picture')} each"
    )
    needs = {"num_cpus": each.threads, "num_gpus": each.gpus, "memory": need}
    _follow(judged(Job.sent(store.url, model), missing, needs), run.inputs(missing), step)
    return run


def judged(job: Job, missing: Sequence[int], needs: Mapping[str, Any]) -> Iterator[int]:
    """Has shards judged by tasks. All tasks wait for room on the nodes, also on those that join later.

    Args:
        needs: of a task: num_cpus, num_gpus, memory in bytes.

    Yields:
        Each shard's number of inputs, in the order in which they end.
    """
    import ray

    task = ray.remote(max_calls=0)(shards.judge).options(max_retries=RETRIES, **needs)
    waiting = {task.remote(job, shard): shard for shard in missing}
    while waiting:
        for ref in ray.wait([*waiting])[0]:
            shard = waiting.pop(ref)
            try:
                yield connect.value_of(ref)
            except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError):
                store = Store(job.out)
                entries = Run.read(store).entries(store, shard)
                first, last = printable(entries[0].path), printable(entries[-1].path)
                raise FlawscopeError(
                    f"processes that judge part {shard} end again and again: a picture from {first} to "
                    f"{last} does so, or the node has not enough memory; look for it with `flawscope "
                    "predict` there"
                ) from None


def _follow(found: Iterator[int], inputs: int, step: Step) -> None:
    """Tells how many inputs have been judged of those that are left."""
    now = 0
    try:
        for judged in found:
            now += judged
            step("prediction", now, inputs)
    except KeyboardInterrupt:
        of = f"{now:,} of {pluralize(inputs, 'input')}"
        raise KeyboardInterrupt(f"interrupted after {of}; {connect.REPEAT}") from None


def _collected(store: Store, run: Run, found: Results) -> Results:
    """Adds up the written shards; the pictures together, as one process would."""
    from pyarrow import compute

    found.beside = run.listing.beside
    with ThreadPoolExecutor(READERS) as pool:
        for table, remarks in pool.map(partial(shards.read, store), range(run.shards)):
            errors, together = table.column("error"), found.together
            found.unjudged.add(*errors.filter(compute.not_equal(errors, "")).to_pylist())
            found.several.add(*remarks["several"])
            found.undrawn.add(*remarks["undrawn"])
            judged = table.filter(compute.equal(errors, ""))
            together.count += len(judged)
            together.anomalous += judged.column("decision").to_pylist().count("anomalous")
            judged = judged.slice(max(0, len(judged) - REMEMBERED))
            together.severities.extend(judged.column("severity").to_pylist())
            together.shifts.extend(tuple(one) for one in judged.column("shifts").to_pylist() if one)
    return found
