"""What do smaller precisions cost in accuracy?

    python bench/precision.py --set size=256
    python bench/precision.py --methods efficientad --runtimes onnxruntime,openvino

Every method's model in torch and fp32, and in every other runtime and precision, on the test pictures, each
after a calibration of its own. `pairs` is the change of image AUROC as pairs of a good and a defective
picture that are in the right order.
"""

from __future__ import annotations

import sys
from typing import Any

import common
import models
from common import MAIN_METRICS, Cell


def judge(model: str, root: str, threads: int) -> Cell:
    """Metrics, and every picture's score, decision and truth."""
    import flawscope

    predictor, dataset = models.open_model(model, threads=threads), flawscope.open_dataset(root)
    pictures: dict[str, Any] = {}

    def take(item: Any, result: Any) -> None:
        answer = (common.round_to(result.score), bool(result.is_anomalous), bool(item.anomalous))
        pictures[str(dataset.relative(item.path))] = answer

    found = flawscope.evaluate(predictor, dataset, take=take)
    calibration = predictor.calibration
    return {
        "metrics": {k: found.metrics[k] for k in MAIN_METRICS},
        "false_alarms": found.false_alarms,
        "threshold": common.round_to(calibration.score_threshold),
        "calibration": f"{calibration.method}, {calibration.precision}",
        "file_mib": common.size_mib(model),
        "pictures": pictures,
    }


def change(cell: Cell, base: Cell) -> Cell:
    """Against torch in fp32; falling metrics are negative."""
    names = list(base["pictures"])
    pictures = [(cell["pictures"][name], base["pictures"][name]) for name in names]
    anomalous = sum(was[2] for _, was in pictures)
    pairs = anomalous * (len(pictures) - anomalous)
    both = [(k, cell["metrics"][k], base["metrics"][k]) for k in MAIN_METRICS]
    less = {k: round(a - b, 6) for k, a, b in both if None not in (a, b)}
    return {
        **less,
        "pairs": round(less.get("image_auroc", 0.0) * pairs, 1),
        "pairs in all": pairs,
        "decisions": [n for n, (now, was) in zip(names, pictures, strict=True) if now[1] != was[1]],
        "score_relative": common.round_to(max(abs(n[0] - w[0]) / max(abs(w[0]), 1) for n, w in pictures), 3),
    }


def main() -> int:
    parser = common.make_parser(__doc__, "precision", methods="all")
    common.add_runtimes(parser)
    quick = {"methods": "patchcore", "runtimes": "openvino", "precisions": "bf16"}
    args = common.parse_arguments(parser, threads=2, **quick)
    record = common.Record(args, "accuracy of smaller precisions")
    rows = []
    with common.workspace(args.work) as folder:
        for category, root, method, name in common.cases(args):
            base: Cell | None = None
            for engine in dict.fromkeys([("torch", "fp32"), *common.combinations(args, method)]):

                def measure(of: Any = (category, root, method), engine: Any = engine) -> Cell:
                    model = models.model_for(args, folder, of, engine)
                    return common.run_function(judge, model=model, root=of[1], threads=args.threads).json

                cell = record.attempt(f"{name}/{' '.join(engine)}", measure)
                base = base or cell
                if cell and base:
                    against = change(cell, base)
                    rows.append(row_of(name, " ".join(engine), cell, against))
    common.print_table("against torch in fp32", rows)
    return record.status()


def row_of(name: str, engine: str, cell: Cell, against: Cell) -> Cell:
    return {
        **{"model": name, "engine": engine, **cell["metrics"]},
        **{f"change of {k}": against.get(k) for k in MAIN_METRICS},
        "pairs": f"{against['pairs']:+.1f} of {against['pairs in all']}",
        "decisions": len(against["decisions"]),
        "false alarms": common.false_alarms_text(cell["false_alarms"]),
        **{"scores": against["score_relative"], "file MiB": cell["file_mib"]},
    }


if __name__ == "__main__":
    sys.exit(common.run_script(main))
