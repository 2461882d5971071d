"""How many missed defects are offered for review as near the threshold, and how many good ones beside them?

    python bench/near.py --data DATA --threads 1

Each product is fitted once on all its good pictures at the default rate. Of its test pictures that are called
good, those with a p-value of at most twice the rate are offered (`calibration.near_threshold`).
"""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import common
from auto import REAL
from common import Cell, Record


def measure(root: Path, settings: dict[str, Any]) -> Cell:
    """P-values of test pictures, and what follows from them."""
    import flawscope
    from flawscope.calibration.near_threshold import near_share

    data = flawscope.open_dataset(root)
    learnt = [item.path for item in data.train]
    model = flawscope.fit(learnt, device="cpu", check=False, samples=0, force=True, **settings)
    found = [model.predict(item.path) for item in data.test]
    bad = np.array([item.anomalous for item in data.test])
    flagged = np.array([one.is_anomalous for one in found])
    near = np.array([one.near for one in found])
    rate = model.calibration.expected_rate
    p_values = np.array([one.p_value for one in found]).round(4)
    return {
        "learnt": len(learnt),
        "rate": round(rate, 4),
        "stated": round(near_share() * rate, 4),
        "good": int((~bad).sum()),
        "false alarms": int((flagged & ~bad).sum()),
        "good offered": int((near & ~bad).sum()),
        "defects": int(bad.sum()),
        "missed": int((~flagged & bad).sum()),
        "missed and offered": int((near & bad).sum()),
        "good p": p_values[~bad].tolist(),
        "defects p": p_values[bad].tolist(),
    }


def main() -> int:
    import torch

    parser = common.make_parser(__doc__, "near")
    parser.add_argument("--products", default=",".join(REAL), help="default: %(default)s")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="setting of the fit")
    args = common.parse_arguments(parser, products="mvtec/plate", set=["size=64"])
    torch.set_num_threads(args.threads)
    record = Record(args, "missed defects among the good ones near the threshold")
    data = Path(args.data or os.environ.get("FLAWSCOPE_DATA") or common.ROOT / "data")
    settings = dict(one.split("=", 1) for one in args.set)
    rows: list[Cell] = []
    for name in args.products.split(","):
        if not (data / name).is_dir():
            continue
        cell = record.attempt(name, partial(measure, data / name, settings))
        if cell is not None:
            shown = [key for key in cell if key != "_" and not key.endswith(" p")]
            rows.append({"product": name, **{key: cell[key] for key in shown}})
    if rows:
        counts = ("good", "false alarms", "good offered", "defects", "missed", "missed and offered")
        rows.append({"product": "all", **{key: sum(row[key] for row in rows) for key in counts}})
    common.print_table("called good, and offered for review", rows)
    return record.status()


if __name__ == "__main__":
    sys.exit(common.run_script(main))
