"""Is the promised false-alarm rate kept? Refits on four fifths of the good pictures, measured on the fifth.

    python bench/calibration.py

The training pictures of a category are shuffled by --seed and split into --folds parts. Every part is
predicted by a model that was fitted and calibrated on the others; the false alarms of all parts together
are given with their 95 % interval (Clopper-Pearson), beside what the calibrations promise: k/(n + 1) with n
calibration pictures and k = floor(rate (n + 1)), at least 1. Beside it stands the full fit on the test's
good pictures. One fold is one cell of the results; a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import common

RATES = (0.01, 0.05, 0.10)


def measure(train: Sequence[Path], held_out: Sequence[Path], settings: dict[str, Any]) -> dict[str, Any]:
    """Fit on `train`: the calibration's scores, and those of the held-out good pictures."""
    import flawscope

    predictor = flawscope.fit(list(train), samples=0, **settings)
    return {
        "calibration": list(predictor.calibration.scores),
        "held_out": [p.score for p in predictor.predict(list(held_out))],
        "names": [p.name for p in held_out],
        "bank": predictor.manifest.facts["bank"],
    }


def alarms(cells: Sequence[dict[str, Any]], rate: float) -> dict[str, Any]:
    """False alarms of all cells together at a target rate."""
    from flawscope.calibration.decision import Calibration
    from flawscope.metrics import confidence_interval_rate

    count, total, promised = 0, 0, 0.0
    for cell in cells:
        scores = tuple(cell["calibration"])
        calibration = Calibration(scores, scores, 0.0, rate)  # maps play no part in the decision
        held_out = np.array(cell["held_out"])
        count += int(calibration.is_anomalous(held_out).sum())
        total += len(held_out)
        n = len(scores)
        promised += len(held_out) * max(1, math.floor(rate * (n + 1) + 1e-9)) / (n + 1)
    return {
        "target": rate,
        "promised": common.sig(promised / total, 4),
        "alarms": count,
        "pictures": total,
        "measured": common.sig(count / total, 4),
        "interval": [common.sig(v, 4) for v in confidence_interval_rate(count, total)],
    }


def main() -> int:
    parser = common.parser(__doc__, "calibration")
    common.add_settings(parser)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--categories", default=",".join(common.CATEGORIES))
    args: argparse.Namespace = parser.parse_args()
    settings = {"folds": args.folds, "seed": args.seed, "set": args.set}
    record = common.Record(args, "false alarms promised and measured, on good pictures only", settings)
    common.headline("calibration")
    rows = []
    for category in args.categories.split(","):
        root = common.mvtec(args, category)
        if root is None:
            continue
        train = common.pictures_below(root / "train" / "good")
        part = np.random.default_rng(args.seed).permutation(len(train)) % args.folds  # [N], 0..folds-1
        options = common.settings(args)
        folds = [
            record.cell(
                f"{category}/fold {fold}",
                lambda fold=fold, train=train, part=part, options=options: measure(
                    [p for p, f in zip(train, part, strict=True) if f != fold],
                    [p for p, f in zip(train, part, strict=True) if f == fold],
                    options,
                ),
            )
            for fold in range(args.folds)
        ]
        test = common.pictures_below(root / "test" / "good")
        full = record.cell(
            f"{category}/test",
            lambda train=train, test=test, options=options: measure(train, test, options),
        )
        for name, cells in ((f"{args.folds} folds, held out", folds), ("full fit, test pictures", [full])):
            found = [alarms(cells, rate) for rate in RATES]
            record.summarise(f"{category}: {name}", found)
            for one in found:
                low, high = one["interval"]
                kept = "yes" if low <= one["promised"] else "NO"
                rows.append(
                    (
                        category,
                        name,
                        f"{one['target']:.0%}",
                        f"{one['promised']:.1%}",
                        f"{one['alarms']}/{one['pictures']}",
                        f"{one['measured']:.1%}",
                        f"{low:.1%} to {high:.1%}",
                        kept,
                    )
                )
    header = ("category", "pictures", "target", "promised", "alarms", "measured", "95 % interval", "kept")
    common.table("false alarms", rows, header)
    return 0


if __name__ == "__main__":
    sys.exit(main())
