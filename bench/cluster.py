"""More than one machine: is the work shared out well, are the results the same, and is nothing lost?

    python bench/cluster.py
    python bench/cluster.py --only predict --nodes 4 --rounds 1

The machines are nodes of Ray's own test cluster, processes of this machine; each has one core, to which it is
bound with all that it starts. The head, which takes no work, and the command itself have the cores that are
left over, as far as there are any.

predict     the plain command on one core, and the same on clusters of one and more nodes: seconds, rows. The
            seconds of a command are those of the whole process. `start` is the command with as many pictures
            as there are nodes: connecting, and the workers' start. Nodes run before any of it begins.
kill        nodes are lost in the middle, one after the other, and others join; then the command itself is
            killed and called again: rows, and the parts that were done twice
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
LOSSES, BETWEEN = 3, 4  # nodes that are lost; parts between two losses
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
        self.others = set(self.cores[count:]) or set(self.cores)
        head = {"num_cpus": 0, "object_store_memory": STORE, "include_dashboard": False}
        with on_cores(self.others):
            self.ray = Cluster(initialize_head=True, head_node_args=head)
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
    drawn = common.draw_plates(folder, train=args.train, good=args.pictures, bad=1, size=args.size)
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

    from flawscope.results.table import COLUMNS, read_table

    if out.is_file():
        return [{name: getattr(row, name) for name in COLUMNS} for row in read_table(out)]
    files = sorted((out / "parts").glob("*.parquet"))
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
    return {"seconds": common.round_to(took), "busy_seconds": common.round_to(busy, 4)}


def predict(args: Args, record: Record, work: Path) -> list[Cell]:
    model, pictures = material(args, work)
    few = work / f"few-{max(args.nodes)}"
    if not few.is_dir():
        few.mkdir()
        for path in common.pictures_below(pictures)[2 : 2 + max(args.nodes)]:
            shutil.copy(path, few)
    table, shown = work / f"plain-{args.pictures}.csv", list[Cell]()
    for turn in range(args.rounds):
        name = f"predict/{args.pictures}/plain/{turn}"
        base = record.cell(name, lambda: plain(model, pictures, few, table))
        if not table.is_file():
            plain(model, pictures, few, table)
        for count in args.nodes:
            name, out = f"predict/{args.pictures}/{count}/{turn}", work / f"out-{count}"
            shared = lambda o=out, c=count: on_nodes(c, model, pictures, few, o, table)  # noqa: E731
            if cell := record.attempt(name, shared):
                computed = (base["seconds"] - base["start"]) / (count * (cell["seconds"] - cell["start"]))
                values = {**cell, "efficiency": base["seconds"] / (count * cell["seconds"])}
                values["efficiency_without_start"] = computed
                values["pictures_per_second"] = args.pictures / cell["seconds"]
                shown.append({"nodes": count, **{k: values[k] for k in SHOWN}})
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
        start, parts = cells[0]["seconds"], len(list((out / "parts").iterdir()))
        return {**cells[1], "start": start, "parts": parts, "same_rows": rows(out) == rows(table)}


# ------------------------------------------------------------------------------------------------------ kill


def kill(args: Args, record: Record, work: Path) -> list[Cell]:
    model, pictures = material(args, work)
    table = work / f"plain-{args.pictures}.csv"
    if not table.is_file():
        timed(called(model, pictures, table))
    most, out = max(args.nodes), work / "out-kill"
    name = f"kill/{args.pictures}/{most}"
    found = record.attempt(name, lambda: losses(args, most, model, pictures, out, table))
    return [common.without_metadata(found)] if found else []


def losses(args: Args, count: int, model: Path, pictures: Path, out: Path, table: Path) -> Cell:
    shutil.rmtree(out, ignore_errors=True)
    kept: dict[str, int] = {}  # when each part was written
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
        again, after = timed(words), stamps(out)
        took = time.perf_counter() - began
    made = rows(out)
    return {
        "seconds": common.round_to(took),
        "again": again,
        "nodes_lost": args.losses,
        "parts": len(after),
        "parts_when_killed": len(kept),
        "parts_written_twice": sum(after[name] != stamp for name, stamp in kept.items()),
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


def main() -> int:
    parser = common.make_parser(__doc__, "cluster", data=False)
    parser.add_argument("--only", default="predict,kill", help="default: %(default)s")
    parser.add_argument("--pictures", type=int, default=2000, help="default: %(default)s")
    parser.add_argument("--nodes", type=common.ints, default=[1, 2, 3, 4], help="default: 1,2,3,4")
    parser.add_argument("--network", type=int, help="pixels a side that the model sees (default: its own)")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.set_defaults(losses=LOSSES, between=BETWEEN, size=256, train=24)
    quick = {"losses": 1, "between": 1, "size": 96, "train": 12}
    args = common.parse_arguments(parser, pictures=160, nodes=[1, 2], network=64, rounds=1, **quick)
    record = Record(args, "more than one machine")
    steps = {"predict": predict, "kill": kill}
    with common.workspace(args.work) as work:
        for name in args.only.split(","):
            common.print_table(name, steps[name](args, record, work))
    return record.status()


if __name__ == "__main__":
    sys.exit(common.run_script(main))
