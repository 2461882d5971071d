"""What a smaller precision costs in accuracy, per category and runtime.

    python bench/precision.py
    python bench/precision.py --set size=256 --out bench/results/precision-256.json

Everything is compared with torch in fp32 on all test pictures: image AUROC, pixel AUROC and AU-PRO; the
change of image AUROC also in pairs of a good and a defective picture that change their order (times the
number of such pairs); decisions that differ, each model at its own threshold; the file's size. An exported
precision has the calibration that `export` gave it; torch's are fitted anew with `precision`, which
calibrates them. One cell is one category, runtime and precision; a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import common

METRICS = ("image_auroc", "pixel_auroc", "au_pro")


def fitted(args: argparse.Namespace, root: Path, folder: Path, precision: str) -> Path:
    path = folder / f"{root.name}-torch-{precision}.safetensors"
    if not path.is_file():
        common.say(f"fitting {root.name}, {precision} ...")
        pairs = [*args.set, *([f"precision={precision}"] if precision != "fp32" else [])]
        settings = [word for pair in pairs for word in ("--set", pair)]
        common.flawscope("fit", "--data", root, "--out", path, "--quiet", *settings)
    return path


def task_judge(model: str, root: str, threads: int | None) -> dict[str, Any]:
    """Metrics, and every picture's score and decision."""
    import flawscope

    predictor = common.open_model(model, threads=threads)
    dataset = flawscope.open_dataset(root)
    pictures: dict[str, Any] = {}

    def take(item: Any, result: Any) -> None:
        name = str(dataset.relative(item.path))
        pictures[name] = (common.sig(result.score), bool(result.is_anomalous), bool(item.anomalous))

    found = flawscope.evaluate(predictor, dataset, take=take)
    return {
        "metrics": {k: found.metrics[k] for k in METRICS},
        "false_alarms": found.false_alarms["measured"],
        "threshold": common.sig(predictor.calibration.threshold),
        "calibration": f"{predictor.calibration.method}, {predictor.calibration.precision}",
        "file_bytes": common.file_size(Path(model)),
        "pictures": pictures,
    }


def change(cell: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """Against torch in fp32; falling metrics are negative."""
    pictures = [(cell["pictures"][name], base["pictures"][name]) for name in base["pictures"]]
    anomalous = sum(was[2] for _, was in pictures)
    pairs = anomalous * (len(pictures) - anomalous)
    fell = {
        k: None if cell["metrics"][k] is None else round(cell["metrics"][k] - base["metrics"][k], 6)
        for k in METRICS
    }
    lost = None if fell["image_auroc"] is None else fell["image_auroc"] * pairs
    return {
        **fell,
        "pairs": None if lost is None else round(lost, 1),
        "pairs_in_all": pairs,
        "decisions": [
            name for name, (now, was) in zip(base["pictures"], pictures, strict=True) if now[1] != was[1]
        ],
        "score_relative": common.sig(max(abs(n[0] - w[0]) / max(abs(w[0]), 1) for n, w in pictures), 3),
        "file": common.ratio(cell["file_bytes"], base["file_bytes"]),
    }


def main() -> int:
    parser = common.parser(__doc__, "precision")
    common.add_settings(parser)
    common.add_runtimes(parser)
    parser.add_argument("--categories", default=",".join(common.CATEGORIES))
    parser.add_argument("--threads", type=int, help="default: as the sessions choose")
    parser.add_argument("--work", type=Path, help="keep models and exports here")
    args = parser.parse_args()
    if args.task:
        return common.run_task(args.task, {"judge": task_judge})
    record = common.Record(args, "accuracy of smaller precisions", {"set": args.set})
    common.headline("precision")
    rows = []
    with common.workspace(args.work) as folder:
        for category in args.categories.split(","):
            root = common.mvtec(args, category)
            if root is None:
                continue
            base: dict[str, Any] | None = None
            for runtime, precision in [("torch", "fp32"), *common.combinations(args)]:
                name = f"{category}/{runtime} {precision}"
                if base is not None and (runtime, precision) == ("torch", "fp32"):
                    continue
                model: Path | None = None
                if not record.has(name):
                    try:
                        model = fitted(args, root, folder, precision if runtime == "torch" else "fp32")
                    except SystemExit as error:
                        common.say(f"skipped: {name}: {error}")
                        continue
                    model = common.exported(model, runtime, precision, root)
                    if model is None:
                        continue

                def measure(model: Path | None = model, root: Path = root) -> dict[str, Any]:
                    return common.task(__file__, "judge", model=model, root=root, threads=args.threads).json

                cell = record.cell(name, measure)
                base = base or cell
                against = change(cell, base)
                record.summarise(name, against)
                found = cell["metrics"]
                rows.append(
                    (
                        *(category, f"{runtime} {precision}"),
                        *("n/a" if found[k] is None else f"{found[k]:.5f}" for k in METRICS),
                        *("n/a" if against[k] is None else f"{against[k]:+.5f}" for k in METRICS),
                        f"{against['pairs']:+.1f} of {against['pairs_in_all']}",
                        len(against["decisions"]),
                        f"{cell['false_alarms']:.1%}" if cell["false_alarms"] is not None else "n/a",
                        f"{against['score_relative']:.1e}",
                        f"{cell['file_bytes'] / common.MIB:.1f}",
                    )
                )
    short = ("image AUROC", "pixel AUROC", "AU-PRO")
    header = ("category", "model", *short, *("change",) * 3, "pairs", "decisions", "false alarms", "scores")
    common.table("against torch in fp32", rows, (*header, "file MiB"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
