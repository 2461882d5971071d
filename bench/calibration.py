"""Is the promised false-alarm rate kept?

    python bench/calibration.py

The training pictures of a category are shuffled and split into five parts. Every part is predicted by a
model that was fitted and calibrated on the others; the false alarms of all parts together are given with
their 95 % interval (Clopper-Pearson), beside what the calibrations promise: k/(n + 1) with n calibration
pictures and k = floor(rate (n + 1)), at least 1. Beside it stands the full fit on the test's good pictures.
One fold is one cell.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

import common
from common import Cell, Settings

RATES = (0.01, 0.05, 0.10)


def measure(method: str, preset: str, settings: Settings, paths: dict[str, list[str]], threads: int) -> Cell:
    """A fit on the pictures `learnt`: the calibration's scores, and those of the good pictures `held`."""
    import torch

    import flawscope

    torch.set_num_threads(threads)
    predictor = flawscope.fit(
        paths["learnt"], method=method, preset=preset, samples=0, device="cpu", **settings
    )
    return {
        "calibration": list(predictor.calibration.scores),
        "held_out": [p.score for p in predictor.predict(paths["held"])],
    }


def alarms(cells: Sequence[Cell], rate: float) -> Cell:
    """False alarms of all cells together at a target rate."""
    import numpy as np

    from flawscope.calibration.threshold import Calibration
    from flawscope.evaluation.metrics import confidence_interval_rate

    count, total, promised = 0, 0, 0.0
    for cell in cells:
        scores, held_out = tuple(cell["calibration"]), np.array(cell["held_out"])
        calibration = Calibration(scores, scores, 0.0, rate)  # maps play no part in the decision
        count += int(calibration.is_anomalous(held_out).sum())
        total += len(held_out)
        n = len(scores)
        promised += len(held_out) * max(1, math.floor(rate * (n + 1) + 1e-9)) / (n + 1)
    low, high = confidence_interval_rate(count, total)
    promised /= total
    return {
        "target": rate,
        "promised": common.round_to(promised, 4),
        "alarms": count,
        "pictures": total,
        "measured": common.round_to(count / total, 4),
        "interval": [common.round_to(low, 4), common.round_to(high, 4)],
        "kept": low <= promised <= high or count / total <= promised,
    }


def main() -> int:
    import numpy as np

    parser = common.make_parser(__doc__, "calibration", methods="patchcore")
    parser.set_defaults(folds=5)
    args = common.parse_arguments(parser, threads=2, folds=2)
    record = common.Record(args, "false alarms promised and measured, on good pictures only")
    rows = []
    for _, root, method, name in common.cases(args):
        train, test = (list(map(str, common.pictures_below(root / s / "good"))) for s in ("train", "test"))
        part = np.random.default_rng(0).permutation(len(train)) % args.folds  # [N], 0..folds-1
        splits = {"test": {"learnt": train, "held": test}}
        for fold in range(args.folds):
            halves = {"learnt": part != fold, "held": part == fold}
            chosen = {k: [p for p, f in zip(train, v, strict=True) if f] for k, v in halves.items()}
            splits[f"fold {fold} of {args.folds}, seed 0"] = chosen
        given: dict[str, Any] = {"method": method, "preset": args.preset, "threads": args.threads}
        given["settings"] = common.settings(args, method)
        found = [record.task(f"{name}/{which}", measure, paths=p, **given) for which, p in splits.items()]
        if None in found:
            continue
        for kind, cells in (("folds, held out", found[1:]), ("full fit, test pictures", found[:1])):
            rows += [{"model": name, "of": kind, **alarms(cells, rate)} for rate in RATES]
    common.print_table("false alarms", rows)
    return record.status()


if __name__ == "__main__":
    sys.exit(common.run_script(main))
