"""How long do pixel metrics take, and how much memory? Against scikit-learn.

    python bench/metrics.py

Each run is a process of its own. The maps are smooth random fields as bilinear enlargement makes them, the
masks discs. scikit-learn's `roc_auc_score`, one metric of the five, gets the same pixels, but not those of
the largest sets: it needs several times the memory.
"""

from __future__ import annotations

import sys
from typing import Any

import common
from common import Cell

# name: pictures, side, whether "few" pixels are anomalous or "most", repeats
CASES = {
    "100 x 256 x 256": (100, 256, "few", 5),
    "20 x 1024 x 1024": (20, 1024, "few", 3),
    "160 x 1024 x 1024": (160, 1024, "few", 3),
    "160 x 1024 x 1024, 70 % anomalous": (160, 1024, "most", 1),
}
LIMIT_MIB = 2048  # of the largest set, all included
ENGINES, KEPT = ("flawscope", "scikit-learn"), ("data_mib", "peak_mib", "auroc")


def maps_and_masks(pictures: int, side: int, anomalous: str) -> Any:
    """Maps [N, S, S] float32 and masks [N, S, S] bool; with `few`, every other picture is good."""
    import numpy as np

    rng = np.random.default_rng(0)
    coarse = side // 8
    position = np.linspace(0, coarse - 1, side)
    enlarge = np.maximum(0, 1 - abs(position[:, None] - np.arange(coarse))).astype(np.float32)  # bilinear
    y, x = np.ogrid[:side, :side]
    maps = np.empty((pictures, side, side), dtype=np.float32)
    masks = np.zeros((pictures, side, side), dtype=bool)
    for i in range(pictures):
        maps[i] = enlarge @ rng.standard_normal((coarse, coarse), dtype=np.float32) @ enlarge.T
        if anomalous == "most":
            masks[i, : round(0.7 * side)] = True
        elif i % 2:
            for radius in (side / 12, side / 24):
                cy, cx = rng.uniform(0, side, size=2)
                masks[i] |= (y - cy) ** 2 + (x - cx) ** 2 < radius**2
        maps[i] += masks[i]
    return maps, masks


def measure(of: tuple[int, int, str], engine: str) -> Cell:
    """One run in this process: seconds, and the peak of the resident memory before and after, in MiB."""
    from flawscope.machine import peak_memory

    maps, masks = maps_and_masks(*of)
    found: list[float] = []
    if engine == "flawscope":
        from flawscope.evaluation.metrics import pixel_metrics

        work = lambda: found.append(pixel_metrics(maps, masks).auroc)  # noqa: E731
    else:
        from sklearn.metrics import roc_auc_score

        work = lambda: found.append(float(roc_auc_score(masks.ravel(), maps.ravel())))  # noqa: E731
    before = peak_memory() // common.MIB
    took = common.seconds(work)
    return {"seconds": took, "data_mib": before, "peak_mib": peak_memory() // common.MIB, "auroc": found[0]}


def main() -> int:
    parser = common.make_parser(__doc__, "metrics", data=False)
    args = common.parse_arguments(parser)
    cases: Any = {"4 x 64 x 64": (4, 64, "few", 1)} if args.quick else CASES
    record = common.Record(args, "pixel_metrics (AUROC, AP, F1, AU-PRO) of float32 maps")
    rows = []
    for name, (*of, repeats) in cases.items():
        for engine in ENGINES if of[0] * of[1] ** 2 < 10**8 else ENGINES[:1]:

            def work(of: Any = of, repeats: int = repeats, engine: str = engine) -> Cell:
                runs = [common.run_function(measure, of=of, engine=engine).json for _ in range(repeats)]
                peaks = {k: max(run[k] for run in runs) for k in KEPT}
                return {"seconds": common.summary([run["seconds"] for run in runs]), **peaks}

            cell = record.cell(f"{name}/{engine}", work)
            kept = {k: cell[k] for k in KEPT}
            rows.append({"maps": name, "by": engine, "seconds": cell["seconds"]["median"], **kept})
    common.print_table("peak_mib is the whole process's, data_mib what it was before the call", rows)
    return 0 if max(row["peak_mib"] for row in rows if row["by"] == "flawscope") < LIMIT_MIB else 1


if __name__ == "__main__":
    sys.exit(common.run_script(main))
