"""What do more steps bring? Accuracy against the length of a training, of the methods that learn in steps.

    python bench/curve.py --steps 250,500,1000,2000
    python bench/curve.py --methods prnet --seen 10 --minutes 5,15

The learning rate follows from the number of steps, so that every point is a training of its own, measured as
`accuracy.py` does.
"""

from __future__ import annotations

import sys

import accuracy
import common
import models
from common import Record

STEPS = [250, 500, 1000, 2000]


def main() -> int:
    from flawscope.methods import registry

    parser = common.parser(__doc__, "curve", methods="all")
    models.add_budget(parser)
    parser.set_defaults(full=False)
    args = common.arguments(parser, threads=2, steps=[1, 2])
    if not common.cuda_or_cpu(args.device):
        return 0
    if not (args.steps or args.minutes):
        args.steps = STEPS
    record = Record(args, "accuracy against steps and minutes")
    points: dict[str, list[common.Cell]] = {}
    with common.workspace(args.work) as folder:
        for category, root in common.roots(args):
            for method in filter(lambda m: registry.method(m).learns_in_steps, common.methods(args)):
                for seed, seen in ((a, b) for a in args.seeds for b in args.seen):
                    for job in models.jobs(args, category, root, method, seed=seed, seen=seen):
                        cell = accuracy.tested(args, record, folder, job, seen, seed)
                        if cell is not None:
                            curve = f"{category}, {method}, {seen} seen, seed {seed}"
                            points.setdefault(curve, []).append(accuracy.row_of(cell))
    for curve, rows in points.items():
        kept = ("steps", "fit s", *common.METRICS, "false alarms")
        common.table(f"{curve}: one training a row", [{k: row[k] for k in kept} for row in rows])
    return record.status()


if __name__ == "__main__":
    sys.exit(common.start(main))
