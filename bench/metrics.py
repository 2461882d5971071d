"""Time and peak memory of `pixel_metrics` against scikit-learn, each run in a process of its own.

    python bench/metrics.py --out bench/results/metrics.json

The maps are smooth random fields as bilinear enlargement makes them, the masks discs. scikit-learn's
`roc_auc_score`, one metric of the five, gets the same pixels; for the largest set only a stated part of the
pictures, as it needs several times the memory.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

# name: (pictures, side, anomalous: "few" discs or the "most" of every picture, repeats)
CASES = {
    "100 x 256 x 256": (100, 256, "few", 5),
    "20 x 1024 x 1024": (20, 1024, "few", 3),
    "160 x 1024 x 1024": (160, 1024, "few", 3),
    "160 x 1024 x 1024, 70 % anomalous": (160, 1024, "most", 1),
}
REFERENCE_CASES = ("100 x 256 x 256", "20 x 1024 x 1024")
LIMIT_MIB = 2048  # of the largest set, all included


def test_set(pictures: int, side: int, anomalous: str) -> tuple[np.ndarray, np.ndarray]:
    """Maps [N, S, S] float32 and masks [N, S, S] bool; with `few`, every other picture is good."""
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


def measure(case: str, engine: str) -> dict[str, object]:
    """One run in this process: seconds, and the peak of the resident memory before and after, in MiB."""
    pictures, side, anomalous, _ = CASES[case]
    maps, masks = test_set(pictures, side, anomalous)
    if engine == "flawscope":
        from flawscope.metrics import pixel_metrics
    else:
        from sklearn.metrics import roc_auc_score
    before = peak_mib()
    start = time.perf_counter()
    if engine == "flawscope":
        auroc = pixel_metrics(maps, masks).auroc
    else:
        auroc = float(roc_auc_score(masks.ravel(), maps.ravel()))
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "data_mib": before, "peak_mib": peak_mib(), "auroc": auroc}


def peak_mib() -> float:
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS
    return kib / 1024 / (1024 if sys.platform == "darwin" else 1)


def repeat(case: str, engine: str) -> dict[str, object]:
    runs = []
    for _ in range(CASES[case][3]):
        command = [sys.executable, __file__, "--case", case, "--engine", engine]
        runs.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        print(f"{engine}, {case}: {runs[-1]}", file=sys.stderr)
    return {
        "seconds_median": round(statistics.median(run["seconds"] for run in runs), 4),
        "seconds": [round(run["seconds"], 4) for run in runs],
        "data_mib": round(max(run["data_mib"] for run in runs)),
        "peak_mib": round(max(run["peak_mib"] for run in runs)),
        "auroc": runs[0]["auroc"],
    }


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if "model name" in line] if info.exists() else []
    return names[0].split(":", 1)[1].strip() if names else platform.processor()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "metrics.json")
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--engine", choices=("flawscope", "scikit-learn"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(measure(arguments.case, arguments.engine)))
        return 0

    cases: dict[str, dict[str, object]] = {}
    for case in CASES:
        ours = repeat(case, "flawscope")
        cases[case] = {"flawscope": ours}
        if case in REFERENCE_CASES:
            reference = repeat(case, "scikit-learn")
            cases[case]["scikit-learn roc_auc_score alone"] = reference
            cases[case]["ratio_seconds"] = round(reference["seconds_median"] / ours["seconds_median"], 2)
            cases[case]["auroc_difference"] = abs(reference["auroc"] - ours["auroc"])
    result = {
        "command": "python bench/metrics.py",
        "what": "pixel_metrics (AUROC, AP, F1, AU-PRO) of float32 maps; peak_mib is the whole process's, "
        "data_mib what it was before the call",
        "machine": {"cpu": cpu_name(), "cores": os.cpu_count(), "system": platform.system()},
        "load_average_at_end": [round(load, 2) for load in os.getloadavg()],
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("flawscope", "numpy", "scipy", "scikit-learn")},
        },
        "cases": cases,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    largest = max(cases[case]["flawscope"]["peak_mib"] for case in CASES)
    print(f"{arguments.out}: largest peak {largest} MiB of {LIMIT_MIB} MiB", file=sys.stderr)
    return 0 if largest < LIMIT_MIB else 1


if __name__ == "__main__":
    sys.exit(main())
