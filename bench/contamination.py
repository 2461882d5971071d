"""Defects among the good pictures: how many does `fit` point out, and what does dropping them save?

    python bench/contamination.py --set size=256

Test defects, drawn by a seed evenly over their types, are mixed into the training pictures until they are 2,
5 or 10 % of them; they leave the test set. Three models are compared on the same remaining test pictures:
fitted on the clean pictures, on the mixture, and on the mixture with `drop_suspects`. One cell is one
category, share and seed. Of the methods those that look for suspicious pictures.
"""

from __future__ import annotations

import dataclasses
import statistics
import sys
from typing import TYPE_CHECKING, Any

import common
from common import Cell, Settings

if TYPE_CHECKING:
    from flawscope.datasets import Dataset, Item

MODELS = ("clean", "mixed", "dropped")


def planted(dataset: Dataset, share: float, seed: int) -> list[Item]:
    """So many test defects that they make up `share` of the mixture, in turn from every type."""
    import numpy as np

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


def mixed(method: str, root: str, share: float, seed: int, settings: Settings) -> Cell:
    """One mixture: what is pointed out, and what the three models find."""
    import numpy as np

    import flawscope
    from flawscope.metrics import auroc

    dataset = flawscope.open_dataset(root)
    bad = planted(dataset, share, seed)
    names = {dataset.relative(item.path) for item in bad}
    rest = dataclasses.replace(dataset, test=tuple(item for item in dataset.test if item not in bad))
    mixture = [item.path for item in (*dataset.train, *bad)]
    options: dict[str, Any] = {"method": method, "samples": 0, "device": "cpu", **settings}
    models = {
        "clean": flawscope.fit(dataset, **options),
        "mixed": flawscope.fit(mixture, **options),
        "dropped": flawscope.fit(mixture, drop_suspects=True, **options),
    }
    whole = models["mixed"]
    suspects = [name for name, _ in whole.suspects]
    name_of = {p.hash: p.name for p in whole.manifest.pictures}
    order = [name_of[h] in names for h in whole.manifest.facts["calibration_pictures"]]
    figures: dict[str, Any] = {}
    for name, model in models.items():
        result = flawscope.evaluate(model, rest)
        keys = ("image_auroc", "pixel_auroc", "au_pro", "image_f1_calibrated")
        measured = {"false_alarms": result.false_alarms["measured"]}
        figures[name] = {k: result.metrics.get(k) for k in keys} | measured
    return {
        "good": len(dataset.train),
        "planted": sorted(names),
        "test_pictures": len(rest.test),
        "found": sum(n in names for n in suspects),
        "false": sum(n not in names for n in suspects),
        "suspects": suspects,
        "planted_auroc": float(auroc(np.array(order), np.array(whole.calibration.scores))),
        "left_out_by_dropping": sum(p.role == "dropped" for p in models["dropped"].manifest.pictures),
        "models": figures,
    }


def summary_of(cells: list[Cell]) -> Cell:
    def mean(values: list[Any]) -> Any:
        known = [v for v in values if v is not None]
        return common.sig(statistics.mean(known), 4) if known else None

    total, hits = (
        sum(values) for values in zip(*((len(c["planted"]), c["found"]) for c in cells), strict=True)
    )
    return {
        "seeds": len(cells),
        "found": f"{hits} of {total}",
        "false": sum(c["false"] for c in cells),
        "good": sum(c["good"] for c in cells),
        "rank AUROC": mean([c["planted_auroc"] for c in cells]),
        **{
            f"{metric}, {model}": mean([c["models"][model][metric] for c in cells])
            for metric in ("image_auroc", "pixel_auroc")
            for model in MODELS
        },
    }


def main() -> int:
    from flawscope.methods import registry

    parser = common.parser(__doc__, "contamination", methods="all")
    parser.add_argument("--shares", type=common.numbers, default=[2, 5, 10], help="percent of the mixture")
    parser.add_argument("--seeds", type=common.numbers, default=[0, 1, 2], help="default: 0,1,2")
    args = common.arguments(parser, threads=2, shares=[10], seeds=[0])
    record = common.Record(args, "defects mixed into the training pictures")
    rows = []
    for _, root, method, name in common.cases(args):
        for share in args.shares if registry.method(method).finds_suspects else ():
            given = {"method": method, "root": root, "settings": common.settings(args, method)}
            work = lambda s, p=share, g=given: common.task(mixed, seed=s, share=p / 100, **g).json  # noqa: E731
            of = f"{name}/{share} %"
            cells = [record.attempt(f"{of}/seed {s}", lambda s=s, w=work: w(s)) for s in args.seeds]
            if done := [cell for cell in cells if cell]:
                rows.append({"model": of, **summary_of(done)})
    common.table("planted defects (AUROC: means over seeds, same test pictures in a row)", rows)
    return record.status()


if __name__ == "__main__":
    sys.exit(common.start(main))
