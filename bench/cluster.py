"""More than one machine: is the work shared out well, are the results the same, and is nothing lost?

    python bench/cluster.py --only predict,kill
    python bench/cluster.py --only listing --paths 1000000,10000000

The machines are nodes of Ray's own test cluster, processes of this machine; each has one core, to which it is
bound with all that it starts. The head, which takes no work, and the command itself have the cores that are
left over, as far as there are any.

predict     the plain command on one core, and the same on clusters of one and more nodes: seconds, rows. The
            seconds of a command are those of the whole process. `start` is the command with as many pictures
            as there are nodes: connecting, and the workers' start. Nodes run before any of it begins.
kill        nodes are lost in the middle, one after the other, and others join; then the command itself is
            killed and called again: rows, and the parts that were done twice
listing     a table of paths that lead nowhere, listed and read by workers that open no picture: seconds, and
            the most memory that the command and a worker hold
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import common
from common import Args, Cell, Record

STORE = 100 * common.MIB  # bytes of shared memory that each node sets aside
BROKEN = 50  # one of so many pictures is cut short
PATIENCE = 1800.0  # seconds for a part to be done
SHOWN = ("seconds", "start", "pictures_per_second", "efficiency", "efficiency_without_start", "same_rows")


# --------------------------------------------------------------------------------------------------- cluster


@contextmanager
def on_cores(cores: set[int]) -> Iterator[None]:
    """What is started inside has these only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def cores() -> list[int]:
    return sorted(os.sched_getaffinity(0))


class Nodes:
    """A cluster whose nodes have one core each: node k has the core k, as far as there are so many."""

    def __init__(self, count: int):
        from ray.cluster_utils import Cluster

        self.cores, self.added = cores(), 0
        left = set(self.cores[count:]) or set(self.cores)
        with on_cores(left):
            self.ray = Cluster(
                initialize_head=True,
                head_node_args={"num_cpus": 0, "object_store_memory": STORE, "include_dashboard": False},
            )
        self.others = left
        self.nodes = [self.add() for _ in range(count)]
        self.ray.wait_for_nodes()

    def add(self) -> Any:
        with on_cores({self.cores[self.added % len(self.cores)]}):
            node = self.ray.add_node(num_cpus=1, object_store_memory=STORE)
        self.added += 1
        return node

    def lose(self) -> None:
        """The oldest node, at once, with all that runs on it; another one joins on its core."""
        node = self.nodes.pop(0)
        self.ray.remove_node(node, allow_graceful=False)
        self.nodes.append(self.add())


@contextmanager
def nodes(count: int) -> Iterator[Nodes]:
    made = Nodes(count)
    try:
        yield made
    finally:
        made.ray.shutdown()


# --------------------------------------------------------------------------------------------------- predict


def material(args: Args, work: Path) -> tuple[Path, Path]:
    """A model, and a folder of pictures, some of which are broken or copies."""
    folder = work / f"drawn-{args.pictures}"
    drawn = common.draw(folder, train=args.train, good=args.pictures, bad=1, size=args.size)
    model = work / f"cluster-{args.size}.safetensors"
    if not model.is_file():
        more = ["--set", f"size={args.network}"] if args.network else []
        words = ["--data", drawn.parent, "--category", drawn.name, "--out", model, "--device", "cpu", *more]
        common.flawscope("fit", *words)
    folder = work / f"pictures-{args.pictures}"
    if not folder.is_dir():
        draft = folder.with_suffix(".draft")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        found = common.pictures_below(drawn / "test" / "good")[: args.pictures]
        for k, path in enumerate(found):
            data = (found[k - 1] if k % BROKEN == 2 else path).read_bytes()
            (draft / f"{k:05}.png").write_bytes(data[: len(data) // 2] if k % BROKEN == 1 else data)
        draft.rename(folder)
    return model, folder


def rows(out: Path) -> list[dict[str, Any]]:
    """Of a plain table, or of a run on a cluster in the order of its parts: the columns that both have."""
    from pyarrow import parquet

    from flawscope.results.table import COLUMNS

    files = sorted((out / "parts").glob("*.parquet")) if out.is_dir() else [out]
    return [row for f in files for row in parquet.read_table(f, columns=list(COLUMNS)).to_pylist()]


def called(model: Path, pictures: Path, out: Path, *more: str) -> list[str]:
    words = ["predict", model, pictures, "--out", out, "--threads", "1", "--quiet", *more]
    return [sys.executable, "-m", "flawscope", *map(os.fspath, words)]


def timed(words: Sequence[str]) -> Cell:
    """Seconds of a process, and those that its processors were busy."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    done = subprocess.run(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    took = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode not in (0, 1):  # 1: some pictures are broken
        raise SystemExit(f"predict failed with {done.returncode}: {done.stderr[-500:]}")
    busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": common.sig(took), "busy_seconds": common.sig(busy, 4)}


def predict(args: Args, record: Record, work: Path) -> list[Cell]:
    model, pictures = material(args, work)
    few = work / f"few-{max(args.nodes)}"
    if not few.is_dir():
        few.mkdir()
        for path in common.pictures_below(pictures)[2 : 2 + max(args.nodes)]:
            shutil.copy(path, few)
    table = work / f"plain-{args.pictures}.parquet"
    plain_cells, found = [], []
    for turn in range(args.rounds):
        name = f"predict/{args.pictures}/plain/{turn}"
        if cell := record.attempt(name, lambda: plain(model, pictures, few, table)):
            plain_cells.append(cell)
        if not table.is_file():
            plain(model, pictures, few, table)
        for count in args.nodes:
            name = f"predict/{args.pictures}/{count}/{turn}"
            out = work / f"out-{count}"
            if cell := record.attempt(
                name, lambda o=out, c=count: on_nodes(c, model, pictures, few, o, table)
            ):
                found.append({"nodes": count, "turn": turn, **cell})
    shown: list[Cell] = []
    for cell in found:
        base = plain_cells[min(cell["turn"], len(plain_cells) - 1)]
        whole = base["seconds"] / (cell["nodes"] * cell["seconds"])
        work_done = (base["seconds"] - base["start"]) / (cell["nodes"] * (cell["seconds"] - cell["start"]))
        values = {**cell, "efficiency": whole, "efficiency_without_start": work_done}
        values["pictures_per_second"] = args.pictures / cell["seconds"]
        shown.append({"nodes": cell["nodes"], **{k: values[k] for k in SHOWN}})
    return shown


def plain(model: Path, pictures: Path, few: Path, table: Path) -> Cell:
    """The plain command on one core, with all pictures and with few."""
    with on_cores({cores()[0]}):
        start = timed(called(model, few, table))["seconds"]
        return {**timed(called(model, pictures, table)), "start": start}


def on_nodes(count: int, model: Path, pictures: Path, few: Path, out: Path, table: Path) -> Cell:
    with nodes(count) as cluster, on_cores(cluster.others):
        cells = []
        for shown in (few, pictures):
            shutil.rmtree(out, ignore_errors=True)
            cells.append(timed(called(model, shown, out, "--cluster", cluster.ray.address)))
        parts = len(list((out / "parts").iterdir()))
        return {
            **cells[1],
            "start": cells[0]["seconds"],
            "parts": parts,
            "same_rows": rows(out) == rows(table),
        }


# ------------------------------------------------------------------------------------------------------ kill


def kill(args: Args, record: Record, work: Path) -> list[Cell]:
    model, pictures = material(args, work)
    table = work / f"plain-{args.pictures}.parquet"
    if not table.is_file():
        timed(called(model, pictures, table))
    most, out = max(args.nodes), work / "out-kill"
    found = record.attempt(
        f"kill/{args.pictures}/{most}", lambda: losses(args, most, model, pictures, out, table)
    )
    return [{k: v for k, v in found.items() if k != "_"}] if found else []


def losses(args: Args, count: int, model: Path, pictures: Path, out: Path, table: Path) -> Cell:
    shutil.rmtree(out, ignore_errors=True)
    kept: dict[str, int] = {}  # when each part was written
    changed = 0
    with nodes(count) as cluster, on_cores(cluster.others):
        words = called(model, pictures, out, "--cluster", cluster.ray.address)
        began = time.perf_counter()
        run = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(args.losses):
            wait_for(len(kept) + args.between, out, run)
            kept |= stamps(out)
            cluster.lose()
        wait_for(len(kept) + args.between, out, run)
        run.send_signal(signal.SIGKILL)
        run.wait()
        time.sleep(5)  # until Ray has noticed
        kept |= stamps(out)
        there = len(kept)
        again = timed(words)
        after = stamps(out)
        changed = sum(after[name] != stamp for name, stamp in kept.items())
        took = time.perf_counter() - began
    made = rows(out)
    return {
        "seconds": common.sig(took),
        "again": again,
        "nodes_lost": args.losses,
        "parts": len(after),
        "parts_when_killed": there,
        "parts_written_twice": changed,
        "same_rows": made == rows(table),
        "rows": len(made),
    }


def stamps(out: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in out.glob("parts/*.parquet")}


def wait_for(parts: int, out: Path, run: Any) -> None:
    until = time.monotonic() + PATIENCE
    while len(stamps(out)) < parts:
        if run.poll() is not None:
            raise SystemExit("the command was through before all was lost that was to be: give more pictures")
        if time.monotonic() > until:
            raise SystemExit(f"{parts} parts were not done in {PATIENCE:.0f} seconds")
        time.sleep(0.1)


# --------------------------------------------------------------------------------------------------- listing


def listing(args: Args, record: Record, work: Path) -> list[Cell]:
    shown = []
    for count in args.paths:
        found = record.attempt(
            f"listing/{count}/{args.part}",
            lambda c=count: common.task(listed, work=work, count=c, part=args.part, nodes=2).json,
        )
        if found:
            shown.append({"paths": count, **{k: v for k, v in found.items() if k != "_"}})
    return shown


def listed(work: str, count: int, part: int, nodes: int) -> Cell:
    """What the command does, with workers that open no picture."""
    from flawscope.cluster import connect, listing, predict, shards
    from flawscope.cluster.listing import Store
    from flawscope.cluster.shards import Job, Run
    from flawscope.machine import peak_memory

    def read(job: Job, shard: int) -> tuple[int, int]:
        """In place of `judge`: the number of inputs, and the process's memory in MiB."""
        store = Store(job.out)
        return len(Run.read(store).entries(store, shard)), peak_memory() // common.MIB

    table = Path(work) / f"paths-{count}.parquet"
    common.task(generated, path=table, count=count)
    out = Path(work) / f"listed-{count}"
    shutil.rmtree(out, ignore_errors=True)
    store = Store(str(out))
    before, began = peak_memory(), time.perf_counter()
    made = listing.write([str(table)], store)
    took, after = time.perf_counter() - began, peak_memory()
    run = Run({}, made, part, "cpu")
    run.write(store)
    size, job = run.shards, Job(store.url, "", "", None)
    shards.judge = read  # type: ignore[assignment]
    total, worker = 0, 0
    with _cluster(nodes) as address, connect.connected(address):
        began = time.perf_counter()
        busy = time.process_time()
        first = 0.0
        needs = {"num_cpus": 1}
        found: Any = predict.judged(job, range(size), needs)
        for inputs, memory in found:
            first = first or time.perf_counter() - began
            total, worker = total + inputs, max(worker, memory)
        flowed = time.perf_counter() - began
        busy = time.process_time() - busy
    shutil.rmtree(out)
    if total != count:
        raise SystemExit(f"{total} of {count} paths were read")
    return {
        "listing_seconds": common.sig(took, 4),
        "parts": size,
        "first_part_seconds": common.sig(first, 4),
        "parts_seconds": common.sig(flowed, 4),
        "driver_busy_ms_a_part": common.sig(1000 * busy / size, 3),
        "memory_before_mib": before // common.MIB,
        "memory_listed_mib": after // common.MIB,
        "memory_mib": peak_memory() // common.MIB,
        "worker_memory_mib": worker,
    }


@contextmanager
def _cluster(count: int) -> Iterator[str]:
    with nodes(count) as made:
        yield made.ray.address


def generated(path: str, count: int) -> Cell:
    """A table of so many paths, as long as paths are."""
    import pyarrow
    from pyarrow import parquet

    if not Path(path).is_file():
        draft = Path(path).with_suffix(".draft")
        kinds = pyarrow.schema([("path", pyarrow.string())])
        with parquet.ParquetWriter(draft, kinds) as writer:
            for start in range(0, count, 100_000):
                names = [
                    f"/archive/line-{k % 7}/2024/{k % 365:03}/camera-{k % 5}/part-{k:09}.png"
                    for k in range(start, min(start + 100_000, count))
                ]
                writer.write_table(pyarrow.table({"path": names}, schema=kinds))
        draft.rename(path)
    return {}


def main() -> int:
    parser = common.parser(__doc__, "cluster", data=False)
    parser.add_argument("--only", default="predict,kill,listing", help="default: %(default)s")
    parser.add_argument("--pictures", type=int, default=2000, help="default: %(default)s")
    parser.add_argument("--nodes", type=common.numbers, default=[1, 2, 3, 4], help="default: 1,2,3,4")
    parser.add_argument("--size", type=int, default=256, help="pixels a side of a picture (%(default)s)")
    parser.add_argument("--network", type=int, help="pixels a side that the model sees (default: its own)")
    parser.add_argument("--train", type=int, default=24, help="good pictures to learn from (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--losses", type=int, default=3, help="nodes that are lost (%(default)s)")
    parser.add_argument("--between", type=int, default=4, help="parts between two losses (%(default)s)")
    parser.add_argument(
        "--paths", type=common.numbers, default=[1_000_000, 10_000_000], help="default: 1000000,10000000"
    )
    parser.add_argument("--part", type=int, default=1000, help="paths of a part (%(default)s)")
    args = common.arguments(
        parser, pictures=160, nodes=[1, 2], size=96, network=64, train=12, rounds=1, losses=1, between=1,
        paths=[20_000],
    )  # fmt: skip
    record = Record(args, "more than one machine")
    steps = {"predict": predict, "kill": kill, "listing": listing}
    with common.workspace(args.work) as work:
        for name in args.only.split(","):
            common.table(name, steps[name](args, record, work))
    return record.status()


if __name__ == "__main__":
    sys.exit(common.start(main))
