"""A fit and a grid on several machines: how long do they take, and are the results those of one machine?

    python bench/cluster_fit.py --only fit
    python bench/cluster_fit.py --only grid

The machines are nodes of Ray's own test cluster, processes of this machine with one core each, as in
cluster.py.

fit     PatchCore with the same shards: streamed by one process on one core, and on one and more nodes:
        seconds, and whether bank, radius and calibration are equal byte for byte
grid    `benchmark` of drawn products: on one core, on the nodes, and on the nodes with one that is killed in
        the middle: seconds, and whether results.csv is the same but for times
"""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import common
from cluster import cores, nodes, on_cores, timed
from common import Args, Cell, Record

PASSING = {"fit_seconds", "evaluate_seconds", "peak_memory_mib", "jobs"}  # depend on when and where


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "flawscope", *map(os.fspath, map(str, words))]


# ------------------------------------------------------------------------------------------------------- fit


def fit(args: Args, record: Record, work: Path) -> list[Cell]:
    data = common.draw(work / "fit", train=args.pictures, good=2, bad=1, size=256)
    words = ["fit", "--data", data, "--device", "cpu", "--threads", 1, "--quiet", "--no-check"]
    words += ["--set", f"shards={args.shards}", "--set", f"size={args.network}"]
    plain, shown = work / "plain.safetensors", []

    def alone() -> Cell:
        with on_cores({cores()[0]}):
            return timed(command(*words, "--out", plain))

    found = record.attempt(f"fit/{args.pictures}/{args.shards}/plain", alone)
    if found:
        shown.append({"nodes": "plain", "seconds": found["seconds"]})
    if not plain.is_file():
        alone()
    for count in args.nodes:
        out = work / f"nodes-{count}.safetensors"

        def there(count: int = count, out: Path = out) -> Cell:
            with nodes(count) as cluster, on_cores(cluster.others):
                cell = timed(command(*words, "--out", out, "--cluster", cluster.ray.address))
            return {**cell, "same": common.task(equal, one=str(plain), other=str(out)).json}

        cell = record.attempt(f"fit/{args.pictures}/{args.shards}/{count}", there)
        if cell:
            shown.append({"nodes": count, "seconds": cell["seconds"], **cell["same"]})
    return shown


def equal(one: str, other: str) -> Cell:
    """Whether the models' tensors, radii and calibrations are equal. What the model said of its samples is
    the caller's, which has other threads than a worker."""
    from flawscope.artefact import model_file

    a, b = model_file.read(one), model_file.read(other)
    radius = a.manifest.facts["covering_radius"] == b.manifest.facts["covering_radius"]
    names = a.tensors.keys() == b.tensors.keys()
    return {
        "tensors": names
        and all(a.tensors[k].tobytes() == b.tensors[k].tobytes() for k in a.tensors if k != "sample_maps"),
        "radius": radius,
        "calibration": a.manifest.calibration == b.manifest.calibration,
        "bank": a.manifest.facts["bank"],
        "shards": a.manifest.facts["shards"],
    }


# ------------------------------------------------------------------------------------------------------ grid


def grid(args: Args, record: Record, work: Path) -> list[Cell]:
    from flawscope.demo.dataset import draw_dataset

    root = work / "products"
    for k in range(args.products):
        if not (root / f"plate{k}").is_dir():
            draw_dataset(root / ".draft", train=args.train, good=6, bad_per_kind=1, size=128, seed=k)
            (root / ".draft" / "plate").rename(root / f"plate{k}")
            shutil.rmtree(root / ".draft")
    words = ["benchmark", "--data", root, "--seeds", "0,1", "--device", "cpu", "--threads", 1, "--quiet"]
    words += ["--set", f"patchcore.size={args.network}"]
    most, plain, shown = max(args.nodes), work / "grid-plain", []

    def alone() -> Cell:
        shutil.rmtree(plain, ignore_errors=True)
        with on_cores({cores()[0]}):
            return timed(command(*words, "--jobs", 1, "--out", plain))

    def there(lost: bool) -> Cell:
        out = work / f"grid-{lost}"
        shutil.rmtree(out, ignore_errors=True)
        with nodes(most) as cluster, on_cores(cluster.others):
            call = command(*words, "--out", out, "--cluster", cluster.ray.address)
            began = time.perf_counter()
            run = subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            if lost:
                while not any(out.glob("cells/*.json")) and run.poll() is None:
                    time.sleep(0.1)
                cluster.lose()
            _, said = run.communicate()
            if run.returncode:
                raise SystemExit(f"benchmark failed with {run.returncode}: {said[-500:]}")
            took = time.perf_counter() - began
        return {"seconds": common.sig(took), "same_rows": table(out) == table(plain), "rows": len(table(out))}

    cells = {"plain": alone, f"{most}": lambda: there(False), f"{most}/killed": lambda: there(True)}
    for name, measure in cells.items():
        if name != "plain" and not (plain / "results.csv").is_file():
            alone()
        if cell := record.attempt(f"grid/{args.products}/{name}", measure):
            shown.append({"nodes": name, **{k: v for k, v in cell.items() if k != "_"}})
    return shown


def table(out: Path) -> list[dict[str, Any]]:
    with open(out / "results.csv", encoding="utf-8") as file:
        return [{k: v for k, v in row.items() if k not in PASSING} for row in csv.DictReader(file)]


def main() -> int:
    parser = common.parser(__doc__, "cluster_fit", data=False)
    parser.add_argument("--only", default="fit,grid", help="default: %(default)s")
    parser.add_argument("--pictures", type=int, default=800, help="of the fit (%(default)s)")
    parser.add_argument("--shards", type=int, default=8, help="of the fit (%(default)s)")
    parser.add_argument("--network", type=int, default=256, help="pixels a side (%(default)s)")
    parser.add_argument("--nodes", type=common.numbers, default=[1, 4], help="default: 1,4")
    parser.add_argument("--products", type=int, default=6, help="of the grid (%(default)s)")
    parser.add_argument("--train", type=int, default=60, help="good pictures of a product (%(default)s)")
    args = common.arguments(
        parser, pictures=40, shards=4, network=64, nodes=[2], products=2, train=8
    )  # fmt: skip
    record = Record(args, "a fit and a grid on several machines")
    steps = {"fit": fit, "grid": grid}
    with common.workspace(args.work) as work:
        for name in args.only.split(","):
            common.table(name, steps[name](args, record, work))
    return record.status()


if __name__ == "__main__":
    sys.exit(common.start(main))
