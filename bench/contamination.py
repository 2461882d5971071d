"""Defects among the good pictures: how many does `fit` name, and what does dropping them save?

    python bench/contamination.py

Test defects, drawn by a seed evenly over their types, are mixed into the training pictures until they are 2,
5 or 10 % of them; they leave the test set. Three models are compared on the same remaining test pictures:
fitted on the clean pictures, on the mixture, and on the mixture with `drop_suspects`. One cell of the
results is one category, share and seed; a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

import common

if TYPE_CHECKING:
    from flawscope.datasets import Dataset, Item
    from flawscope.predictor import Predictor


def planted(dataset: Dataset, share: float, seed: int) -> list[Item]:
    """So many test defects that they make up `share` of the mixture, in turn from every type."""
    count = max(1, round(share * len(dataset.train) / (1 - share)))
    rng = np.random.default_rng([seed, round(1000 * share)])
    queues = []
    for kind in (k for k in dataset.kinds if any(i.kind == k and i.anomalous for i in dataset.test)):
        of_kind = [item for item in dataset.test if item.kind == kind]
        queues.append([of_kind[i] for i in rng.permutation(len(of_kind))])
    turn = rng.permutation(len(queues))
    chosen: list[Item] = []
    while len(chosen) < count and any(queues):
        chosen += [queues[k].pop() for k in turn if queues[k]]
    return chosen[:count]


def figures(predictor: Predictor, dataset: Dataset) -> dict[str, Any]:
    from flawscope.evaluation import evaluate

    result = evaluate(predictor, dataset)
    keys = ("image_auroc", "pixel_auroc", "au_pro", "image_f1_calibrated")
    return {k: result.metrics.get(k) for k in keys} | {"false_alarms": result.false_alarms["measured"]}


def cell(
    dataset: Dataset, share: float, seed: int, clean: Predictor, settings: dict[str, Any]
) -> dict[str, Any]:
    import flawscope
    from flawscope.metrics import auroc

    bad = planted(dataset, share, seed)
    names = {dataset.relative(item.path) for item in bad}
    rest = dataclasses.replace(dataset, test=tuple(item for item in dataset.test if item not in bad))
    mixture = [item.path for item in (*dataset.train, *bad)]
    models = {
        "clean": clean,
        "mixed": flawscope.fit(mixture, samples=0, **settings),
        "dropped": flawscope.fit(mixture, samples=0, drop_suspects=True, **settings),
    }
    mixed = models["mixed"]
    suspects = [name for name, _ in mixed.suspects]
    name_of = {p.hash: p.name for p in mixed.manifest.pictures}
    order = [name_of[h] in names for h in mixed.manifest.facts["calibration_pictures"]]
    return {
        "good": len(dataset.train),
        "planted": sorted(names),
        "test_pictures": len(rest.test),
        "found": sum(n in names for n in suspects),
        "false": sum(n not in names for n in suspects),
        "suspects": suspects,
        "planted_auroc": float(auroc(np.array(order), np.array(mixed.calibration.scores))),
        "left_out_by_dropping": sum(p.role == "dropped" for p in models["dropped"].manifest.pictures),
        "models": {name: figures(model, rest) for name, model in models.items()},
    }


def mean(values: list[float | None]) -> str:
    known = [v for v in values if v is not None]
    return f"{statistics.mean(known):.4f}" if known else "n/a"


def show(found: dict[tuple[str, float], list[dict[str, Any]]], record: common.Record) -> None:
    rows = []
    for (category, share), cells in found.items():
        total = sum(len(c["planted"]) for c in cells)
        hits = sum(c["found"] for c in cells)
        row: dict[str, Any] = {
            "planted": total,
            "found": hits,
            "recall": common.sig(hits / total, 4),
            "false": sum(c["false"] for c in cells),
            "good": sum(c["good"] for c in cells),
        }
        for metric in ("image_auroc", "pixel_auroc"):
            for model in ("clean", "mixed", "dropped"):
                row[f"{metric}, {model}"] = mean([c["models"][model][metric] for c in cells])
        row["planted_auroc"] = mean([c["planted_auroc"] for c in cells])
        record.summarise(f"{category}, {share:.0%}", {"seeds": len(cells)} | row)
        rows.append(
            (
                category,
                f"{share:.0%}",
                len(cells),
                f"{hits}/{total}",
                f"{row['recall']:.0%}",
                row["false"],
                *tuple(
                    row[f"{metric}, {model}"]
                    for metric in ("image_auroc", "pixel_auroc")
                    for model in ("clean", "mixed", "dropped")
                ),
                row["planted_auroc"],
            )
        )
    header = (
        *("category", "share", "seeds", "found", "recall", "false", "image: clean", "mixed", "dropped"),
        *("pixel: clean", "mixed", "dropped", "rank AUROC"),
    )
    common.table("planted defects (AUROC: means over seeds, same test pictures in a row)", rows, header)


def main() -> int:
    parser = common.parser(__doc__, "contamination")
    common.add_settings(parser)
    parser.add_argument("--categories", default=",".join(common.CATEGORIES))
    parser.add_argument("--shares", default="2,5,10", help="percent of the mixture")
    parser.add_argument("--seeds", type=int, default=3)
    args: argparse.Namespace = parser.parse_args()
    record = common.Record(args, "defects mixed into the training pictures", {"set": args.set})
    common.headline("contamination")
    settings = common.settings(args)
    found: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for category in args.categories.split(","):
        root = common.mvtec(args, category)
        if root is None:
            continue
        import flawscope
        from flawscope.datasets import open_dataset

        dataset = open_dataset(str(root))
        fitted: list[Any] = []  # on the clean pictures, made when the first cell needs it

        def clean(dataset: Dataset = dataset, fitted: list[Any] = fitted) -> Predictor:
            if not fitted:
                fitted.append(flawscope.fit(dataset, samples=0, **settings))
            return fitted[0]

        for share in (float(s) / 100 for s in args.shares.split(",")):
            for seed in range(args.seeds):

                def measure(
                    share: float = share, seed: int = seed, dataset: Dataset = dataset
                ) -> dict[str, Any]:
                    return cell(dataset, share, seed, clean(), settings)

                name = f"{category}/{share:.0%}/seed {seed}"
                found.setdefault((category, share), []).append(record.cell(name, measure))
    show(found, record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
