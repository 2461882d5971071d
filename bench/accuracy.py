"""How well does each method find defects?

    python bench/accuracy.py
    python bench/accuracy.py --methods patchcore --set size=256
    python bench/accuracy.py --methods patchcore,prnet --seen 0,10 --seeds 0,1,2 --steps 2000

Each cell is one fit in a process of its own, and its model file, read back by another process, on the test
pictures. --seen defects are drawn from the test pictures by the seed; methods that cannot learn from them are
tested without them too, so that all are judged on the same pictures. A hash of their names is in each cell,
and where two methods differ in it, that is a failure. Pixel figures are of maps at the network's size, which
is not the same for all.

Every cell is written when it is done. A run that was stopped goes on where it was, with --work even in the
middle of a training.
"""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from pathlib import Path
from typing import Any

import common
import models
from common import METRICS, Args, Cell, Record
from models import Job


def test_job(model: str, root: str, drawn: list[int], device: str, threads: int) -> Cell:
    """A model on the test pictures without those that are drawn as seen, which it may have learnt from."""
    from flawscope import evaluate, open_dataset
    from flawscope.datasets.seen_defects import draw_seen
    from flawscope.pictures.decoding import decode, pixel_hash

    dataset = open_dataset(root)
    left_out = {pixel_hash(decode(item.path)) for item in draw_seen(dataset, *drawn)}
    predictor = models.open_model(model, device, threads)
    known = {p.hash for p in predictor.manifest.pictures if p.role == "seen"}
    if known and known != left_out:
        raise SystemExit(f"{Path(model).name} has seen other pictures than those drawn")
    test = tuple(item for item in dataset.test if pixel_hash(decode(item.path)) not in left_out)
    result = evaluate(predictor, dataclasses.replace(dataset, test=test))
    found = result.to_dict()
    names = sorted(dataset.relative(one.item.path) for one in result.pictures)
    kept = ("metrics", "false_alarms", "kinds", "images", "left_out_by_kind", "failures", "labels")
    return {k: found[k] for k in kept} | {
        "drawn": len(left_out),
        "judged": hashlib.sha256("\n".join(names).encode()).hexdigest(),
        "size": list(predictor.session.size),
        "seconds_evaluate": found["seconds"],
    }


def tested(args: Args, record: Record, folder: Path, job: Job, seen: int, seed: int) -> Cell | None:
    """The cell of a job on the test pictures."""

    def measure(model: Path, fit: Cell) -> Cell:
        own = {"root": job.root, "device": job.device, "threads": args.threads}
        child = common.run_function(test_job, model=model, drawn=[seen, seed], **own)
        spent = {k: fit[k] for k in ("seconds", "process_peak_mib", "file_mib")}
        spent |= {k: fit["facts"][k] for k in ("steps", "bank") if k in fit["facts"]}
        of = {"category": job.category, "seen": seen, "seed": seed, "method": job.described}
        return {"of": of, **child.json, "fit": spent, "evaluate": child.facts}

    name = f"test/{job.category}/{job.described}/{seen} seen, seed {seed}"
    return models.after_fit(args, record, folder, job, name, measure)


def row_of(cell: Cell) -> Cell:
    found, fit = cell["metrics"], cell["fit"]
    return {
        **cell["of"],
        **{k: found[k] for k in METRICS if k in found},
        "false alarms": common.false_alarms_text(cell["false_alarms"]),
        "steps": fit.get("steps"),
        "fit s": fit["seconds"],
        "peak MiB": fit["process_peak_mib"],
    }


def compare(record: Record, cells: list[Cell]) -> None:
    """Each method less the first one, on the same pictures."""
    found: dict[str, Any] = {}
    firsts: dict[tuple[Any, ...], Cell] = {}
    for cell in cells:
        of = cell["of"]
        first = firsts.setdefault((of["category"], of["seen"], of["seed"]), cell)
        if first is cell:
            continue
        where = f"{of['category']}, {of['seen']} seen, seed {of['seed']}"
        name = f"{where}: {of['method']} less {first['of']['method']}"
        if cell["judged"] != first["judged"]:
            common.say(f"FAILED: {name}: they were judged on different pictures")
            record.failures.append(name)
            continue
        pairs = [(k, cell["metrics"].get(k), first["metrics"].get(k)) for k in METRICS]
        less = {k: common.round_to(a - b, 4) for k, a, b in pairs if None not in (a, b)}
        good = cell["false_alarms"]["images"]
        order = less.get("image_auroc", 0.0) * good * (cell["images"] - good)
        found[name] = {**less, "pairs of images": common.round_to(order, 4)}
    common.print_table("on the same pictures", [{"what": k, **v} for k, v in found.items()])


def main() -> int:
    parser = common.make_parser(__doc__, "accuracy", methods="all")
    models.add_budget(parser)
    args = common.parse_arguments(parser, threads=2)
    record = Record(args, "accuracy on the test pictures")
    cells = []
    with common.workspace(args.work) as folder:
        for category, root in common.category_folders(args):
            for seed in args.seeds:
                for seen in args.seen:
                    for method in common.methods(args):
                        for job in models.jobs(args, category, root, method, seed=seed, seen=seen):
                            cells.append(tested(args, record, folder, job, seen, seed))
    done = [cell for cell in cells if cell]
    common.print_table("accuracy", [row_of(cell) for cell in done])
    compare(record, done)
    return record.status()


if __name__ == "__main__":
    sys.exit(common.run_script(main))
