"""`predict` on a Ray cluster: shards of a listing are judged by tasks.

Below the folder of results: `run.json`, the call; `listing/`, which pictures, in which order; `parts/`, the
results, a row for every input; `overlays/`, if asked for. Each file is written once and whole, so that a run
that was stopped, or that lost its workers, goes on with the shards that are missing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import IO, Any

from flawscope.artefact.model_file import Manifest
from flawscope.calibration.threshold import Calibration, Rate, rate_of
from flawscope.cluster import connect, listing, shards, tasks
from flawscope.cluster.listing import Listing, Some, Store, is_url
from flawscope.cluster.shards import Job, Model, Summary
from flawscope.errors import FlawscopeError, InputError, pluralize, require_installed
from flawscope.pictures.listing import printable
from flawscope.progress import Step, silent
from flawscope.results.prediction import REMEMBERED, Mismatch
from flawscope.results.run import FACTS

RUN = "run.json"
PART = 1_000  # pictures of a shard
EACH = 24  # shards a worker, where there are few pictures: at the end all have something to do
MOST = 2_000  # shards, about: beyond it they are larger
RETRIES = 5  # of a shard whose process was lost
READERS = 16  # shards that are read at a time, of a run that goes on
MIB = 2**20
PROCESS = 512 * MIB  # a worker with its engine (measured: 373 to 516 MiB with torch, 87 with ONNX Runtime)
GPU_PROCESS = 3 * 1024 * MIB  # with CUDA's libraries
A_PIXEL = 512  # bytes of a network's input pixel, with all that the network computes of it

Say = Callable[[str], None]


@dataclass
class Results:
    """Outcome of a run: counts, files beside the pictures, and the latest pictures' mismatch with the
    model."""

    summary: Summary
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
    engine: str | None = None,
    device: str = "auto",
    threads: int = 1,
    overlays: bool = False,
    stdin: IO[bytes] | None = None,
    step: Step = silent,
    say: Say = lambda line: None,
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
    rate = None if false_alarm_rate is None else rate_of(false_alarm_rate)
    calibration = facts.calibration if rate is None else facts.calibration.with_rate(rate)
    store = Store(out)
    if overlays:
        _refuse_among_pictures(store, pictures)
    call = {
        "model": [shards.digest_of(model)],
        "pictures": list(pictures),
        "folder": os.getcwd() if any(map(_may_be_relative, pictures)) else "",
        "false-alarm-rate": rate,
        "engine": engine,
        "device": device,
        "threads": threads,
        "overlays": overlays,
    }
    run = Run.opened(store, call, pictures, stdin)
    done = _written(run, say)
    if not run.size or len(done) < run.shards:
        with connect.connected(where):
            exported = not os.fspath(model).lower().endswith(".safetensors")  # `auto` is then the CPU
            asked = "cpu" if device == "auto" and exported else device
            each = tasks.share(connect.nodes(), 1, threads, asked)
            need = min(_memory(facts, os.path.getsize(model), bool(each.gpus)), each.most)
            workers = max(1, each.at_once(need))
            batch = _batch(facts, on_gpu=bool(each.gpus) and not exported)
            run.fix(shard_size(run.listing.inputs, workers, batch), each.gpus)
            missing = [shard for shard in range(run.shards) if shard not in done]
            say(
                f"{pluralize(workers, 'worker')} on {pluralize(len(each.nodes), 'node')}, "
                f"{pluralize(threads, 'thread')} each{' and a GPU' if each.gpus else ''}; "
                f"{pluralize(len(missing), 'part')} of up to {pluralize(run.size, 'picture')}"
            )
            job = Job(
                out=store.root if store.on_disk else store.url,
                marker=RUN,
                model=Model.sent(model),
                size=run.size,
                inputs=run.listing.inputs,
                engine=engine,
                device="cuda" if each.gpus else asked,
                threads=threads,
                false_alarm_rate=rate,
                overlays=overlays,
                roots=tuple(run.listing.roots),
                folder=os.getcwd(),
            )
            needs = {"num_cpus": threads, "num_gpus": each.gpus, "memory": need}
            _follow(judged(job, missing, needs), done, job.inputs, step)
    total = Summary()
    for shard in sorted(done):
        total.add(done[shard])
    return Results(total, run.listing.beside, _together(run, total, calibration), facts, calibration)


def _may_be_relative(spec: str) -> bool:
    """Whether another working folder would give other pictures."""
    return spec.lower().endswith(listing.TABLES) or not (is_url(spec) or os.path.isabs(spec))


def _refuse_among_pictures(store: Store, pictures: Sequence[str]) -> None:
    """Raises an InputError where the overlays would be pictures of the next run."""
    for spec in pictures:
        if not is_url(spec) and os.path.isdir(spec) and store.lies_in(spec):
            raise InputError(
                f"--out {store.url} lies among the pictures, and a later run would judge its overlays: "
                f"choose an --out outside of {spec}"
            )


# ----------------------------------------------------------------------------------------------- the run file


@dataclass
class Run:
    """`run.json` in a folder of results: the call that wrote there, so that the same one goes on.

    call: by the names of its parts. size: pictures of a shard; 0: nothing has been judged. device: cpu or
    cuda.
    """

    store: Store
    call: dict[str, Any]
    listing: Listing = field(default_factory=Listing)
    size: int = 0
    device: str = ""

    @classmethod
    def opened(
        cls, store: Store, call: dict[str, Any], pictures: Sequence[str], stdin: IO[bytes] | None
    ) -> Run:
        """Opens this call's run in the folder, or begins it. InputError where the folder holds another
        run."""
        run = cls._found(store, call)
        if not run.size:
            run._write()
            run.listing = listing.write(pictures, store, stdin)
        elif run.listing.digest and stdin and listing.digest(stdin) != run.listing.digest:
            raise InputError(
                f"--out {store.url} holds a run with other paths on stdin: give the same again, or choose "
                "another --out"
            )
        return run

    @classmethod
    def _found(cls, store: Store, call: dict[str, Any]) -> Run:
        if not store.exists(RUN):
            for name in (shards.FOLDER, listing.FOLDER, shards.OVERLAYS, FACTS):
                if store.exists(name):
                    raise InputError(
                        f"{store.url}/{name} is there already, and not of a run on a cluster: choose another "
                        "--out"
                    )
            return cls(store, call)
        try:
            document = json.loads(store.read(RUN))
            document["listing"]["beside"] = Some(**document["listing"]["beside"])
            run = cls(store, **{**document, "listing": Listing(**document["listing"])})
        except (ValueError, KeyError, TypeError):
            raise InputError(
                f"{store.url}/{RUN} is not of a run on a cluster: choose another --out"
            ) from None
        if not run.size:
            return cls(store, call)
        for name, value in call.items():
            if run.call.get(name) != value:
                raise InputError(
                    f"--out {store.url} holds a run with another {name}: give the same call, which goes on "
                    "there, or choose another --out"
                )
        return run

    def _write(self) -> None:
        document = {key: getattr(self, key) for key in ("call", "size", "device")}
        document["listing"] = asdict(self.listing)
        self.store.write(RUN, f"{json.dumps(document, indent=1)}\n".encode())

    def fix(self, size: int, gpus: int) -> None:
        """Sets the number of pictures in a shard, unless it is set. InputError where workers now have GPUs
        and had none, or the other way round: the last digits of scores would differ."""
        device = "cuda" if gpus else "cpu"
        if not self.size:
            self.size, self.device = size, device
            self._write()
        elif self.device != device:
            raise InputError(
                f"--out {self.store.url} holds a run that was begun on {self.device}, and this cluster's "
                f"workers have {device}: go on with workers as before, or choose another --out"
            )

    @property
    def shards(self) -> int:
        """Number of shards; 0: not known yet."""
        return -(-self.listing.inputs // self.size) if self.size else 0


def _written(run: Run, say: Say) -> dict[int, Summary]:
    """Summaries of the written shards, by number."""
    numbers = map(shards.number, run.store.names(shards.FOLDER))
    there = sorted(shard for shard in numbers if 0 <= shard < run.shards)
    with ThreadPoolExecutor(READERS) as pool:
        found = pool.map(lambda shard: shards.read(run.store, shard)[0], there)
        done = dict(zip(there, found, strict=True))
    if done:
        left = "the others are judged" if len(done) < run.shards else "nothing is left to do"
        say(f"{len(done):,} of {pluralize(run.shards, 'part')} are there: {left}")
    return done


# ------------------------------------------------------------------------------------------- on the cluster


def judged(job: Job, missing: Sequence[int], needs: Mapping[str, Any]) -> Iterator[tuple[int, Summary]]:
    """Has shards judged by tasks. All tasks wait for room on the nodes, also on those that join later.

    Args:
        needs: of a task: num_cpus, num_gpus, memory in bytes.

    Yields:
        Each shard with its summary, in the order in which they end.
    """
    import ray

    task = ray.remote(max_calls=0)(shards.judge).options(max_retries=RETRIES, **needs)
    waiting = {task.remote(job, shard): shard for shard in missing}
    while waiting:
        for ref in ray.wait([*waiting])[0]:
            shard = waiting.pop(ref)
            try:
                yield shard, connect.value_of(ref)
            except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError):
                entries = job.entries(Store(job.out), shard)
                first, last = printable(entries[0].path), printable(entries[-1].path)
                raise FlawscopeError(
                    f"processes that judge part {shard} end again and again: a picture from {first} to "
                    f"{last} does so, or the node has not enough memory; look for it with `flawscope "
                    "predict` there"
                ) from None


def _follow(found: Iterator[tuple[int, Summary]], done: dict[int, Summary], inputs: int, step: Step) -> None:
    """Collects judged shards into `done`."""
    before = sum(summary.inputs for summary in done.values())
    now = 0
    try:
        for shard, summary in found:
            done[shard] = summary
            now += summary.inputs
            step("prediction", now, inputs - before)  # of the shards left, for the time left
    except KeyboardInterrupt:
        of = f"{before + now:,} of {pluralize(inputs, 'input')}"
        raise KeyboardInterrupt(f"interrupted after {of}; {connect.REPEAT}") from None


def _memory(facts: Manifest, held: int, gpu: bool) -> int:
    """Bytes that a worker is expected to need: its process, the model as it is read, checked and held, and
    the computation of a batch. held: bytes of the model file."""
    height, width = facts.preprocess.network_size
    return (GPU_PROCESS if gpu else PROCESS) + 3 * held + _batch(facts) * height * width * A_PIXEL


def _batch(facts: Manifest, *, on_gpu: bool = False) -> int:
    """Number of pictures that are computed together."""
    from flawscope.runtime.session import FEW, MANY, together

    return together(facts.preprocess.network_size, MANY if on_gpu else FEW)


def shard_size(inputs: int, workers: int, batch: int = 1) -> int:
    """Number of pictures in a shard: `PART`, or fewer so that each worker gets `EACH` shards, or more so that
    there are at most about `MOST` shards. No worker is without one, unless there are too few batches.

    A shard ends where a batch of `flawscope predict` ends, so that the same pictures are computed together:
    else the last digits of a score may differ.
    """
    rounds = max(1, round(MOST / workers))  # whole ones: in a broken one some workers would only wait
    few = -(-inputs // (EACH * workers))
    wanted = max(min(few, PART), -(-inputs // (rounds * workers)), 1)
    return min(-(-wanted // batch), max(inputs // workers // batch, 1)) * batch


def _together(run: Run, total: Summary, calibration: Calibration) -> Mismatch:
    """Measures how unlike the training pictures the last pictures are, as one process would."""
    severities: list[float] = []
    shifts: list[tuple[float, ...]] = []
    for shard in reversed(range(run.shards)):
        table = shards.read(run.store, shard, ("severity", "shifts"))[1]
        severities[:0] = [value for value in table.column("severity").to_pylist() if value is not None]
        shifts[:0] = [tuple(value) for value in table.column("shifts").to_pylist() if value]
        if len(severities) >= REMEMBERED:
            break
    made = Mismatch(calibration.expected_rate, count=total.judged, anomalous=total.anomalous)
    made.severities.extend(severities)
    made.shifts.extend(shifts)
    return made
