"""What do several members cost, and what do they bring? The presets small, default and accurate.

    python bench/accurate.py
    python bench/accurate.py --categories toothbrush --products plate,fabric

The first two presets are PatchCore's, the third is the ensemble's. Each is fitted on real and on drawn
products, tested as `accuracy.py` does it, and one picture is timed: from path to answer by the trained and by
the exported model, processor time on one thread, so that other work on the machine matters little.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path
from typing import Any

import accuracy
import common
import drawn
import models
from common import Args, Cell, Record
from models import Job

PRESETS = {"small": "patchcore", "default": "patchcore", "accurate": "ensemble"}
DRAWN = {"train": 40, "good": 16, "bad": 28, "size": 512}  # of a drawn product


def time_job(files: list[str], root: str, repeats: int) -> Cell:
    """Median milliseconds of processor time for a picture on one thread, by engine."""
    import torch

    from flawscope import open_dataset

    torch.set_num_threads(1)
    paths = [item.path for item in open_dataset(root).test][:repeats]
    found = {}
    for file in files:
        predictor, spent = models.open_model(file, threads=1), []
        predictor.predict(paths[0])
        for path in paths:
            begun = time.process_time()
            predictor.predict(path)
            spent.append(1000 * (time.process_time() - begun))
        found[predictor.session.runtime] = common.round_to(statistics.median(spent))
    return found


def measured(args: Args, record: Record, folder: Path, job: Job) -> Cell | None:
    """The cell of a job: its accuracy and its time for a picture."""

    def measure(model: Path, fit: Cell) -> Cell:
        same: dict[str, Any] = {"device": "cpu", "threads": args.threads}
        tested = common.run_function(accuracy.test_job, model=model, root=job.root, drawn=[0, 0], **same).json
        files = [str(model), str(models.exported(model, "onnxruntime", "fp32", Path(job.root)))]
        spent = common.run_function(time_job, files=files, root=job.root, repeats=args.repeats).json
        return {**tested, "ms": spent, "fit": {"seconds": fit["seconds"], "file_mib": fit["file_mib"]}}

    return models.after_fit(args, record, folder, job, f"{job.category}/{job.preset}", measure)


def row_of(name: str, cell: Cell) -> Cell:
    alarms = {"false alarms": common.false_alarms_text(cell["false_alarms"])}
    spent = {f"ms {k}": v for k, v in cell["ms"].items()}
    metrics = {k: cell["metrics"][k] for k in common.METRICS}
    return {"what": name, **metrics, **alarms, **spent, "fit s": cell["fit"]["seconds"]}


def main() -> int:
    parser = common.make_parser(__doc__, "accurate")
    parser.add_argument(
        "--products", default="plate,fabric,cable,wood", help="drawn ones (default: %(default)s)"
    )
    parser.set_defaults(repeats=12)
    args = common.parse_arguments(parser, products="", repeats=2)
    record, rows = Record(args, "accuracy against time"), []
    with common.workspace(args.work) as folder:
        for category, root in drawn.products(args, folder / "drawn", 3, **DRAWN):
            for preset, method in PRESETS.items():
                job = Job(category, str(root), method, common.QUICK[method] if args.quick else {}, preset)
                if cell := measured(args, record, folder, job):
                    rows.append(row_of(f"{category}, {preset}", cell))
    common.print_table("accuracy and time", rows)
    return record.status()


if __name__ == "__main__":
    sys.exit(common.run_script(main))
