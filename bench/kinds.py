"""Does a model name kinds of defects as it promises, from few examples, and does it notice a kind never seen?

    python bench/kinds.py --data DATA

Of each product a model is fitted and its defects are found once. Then kinds are learnt from examples drawn at
random, 3, 5 or 10 of each, and tried on the other pictures; each kind is also left out in turn, and its
pictures must be something new. Everything was chosen on the drawn products plate, fabric, gear and wood,
which are not measured here.
"""

from __future__ import annotations

import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import common
import drawn
from common import Args, Cell

SEED = 11
PRODUCTS = "painted,nearer"  # 7 and 5 kinds


def descriptors(args: Args, folder: Path, work: Path) -> tuple[Any, list[str]]:
    """Descriptors [N, C] of the regions of a product's defects, and their kinds; stored in `work`."""
    import numpy as np
    import torch

    import flawscope
    from flawscope.datasets.masks import union_masks
    from flawscope.predictor.kinds import Example, LabelledRegions

    if not (path := work / f"{folder.name}.npz").is_file():
        torch.set_num_threads(args.threads)
        sizes = {} if args.size is None else {"size": args.size}
        model = flawscope.fit(folder, check=False, device="cpu", samples=0, **sizes)
        regions = LabelledRegions()
        for item in flawscope.open_dataset(str(folder)).test:
            if item.anomalous:
                regions.add(model, Example(item.path, item.kind, partial(union_masks, item.masks)))
        np.savez(path, descriptors=np.array(regions.descriptors), kinds=np.array(regions.kinds))
    with np.load(path) as found:
        return found["descriptors"], found["kinds"].tolist()


def measured(args: Args, found: tuple[Any, list[str]], examples: int) -> Cell:
    """Answers on pictures that were not learnt from, over all draws."""
    import numpy as np

    from flawscope.calibration import kinds
    from flawscope.evaluation.metrics import confidence_interval_rate

    values, labels = found[0], np.array(found[1])
    names = [name for name in sorted({*labels}) if (labels == name).sum() > examples]
    answers: list[tuple[str, tuple[str, ...]]] = []
    unseen, held, nearest = [], [], []
    for draw in range(args.draws):
        rng = np.random.default_rng([SEED, draw, examples])
        learnt = np.zeros(len(labels), bool)
        for name in names:
            learnt[rng.permutation(np.flatnonzero(labels == name))[:examples]] = True
        tested = ~learnt & np.isin(labels, names)
        classifier = kinds.learn(values[learnt], labels[learnt].tolist(), args.error)
        said = classifier.classify(values[tested])
        answers += zip(labels[tested].tolist(), (one.kinds for one in said), strict=True)
        held.append(classifier.kinds.effective_error)
        nearest += [
            max(one.kind_p_values, key=one.kind_p_values.get) == label
            for one, label in zip(said, labels[tested], strict=True)
        ]
        for name in names if len(names) > 2 else ():
            without = kinds.learn(
                values[learnt & (labels != name)], labels[learnt & (labels != name)].tolist(), args.error
            )
            unseen += [not one.kinds for one in without.classify(values[tested & (labels == name)])]
    count = len(answers)
    lacks = sum(label not in told for label, told in answers)
    pictures = int(np.isin(labels, names).sum())
    low, high = confidence_interval_rate(round(lacks / count * pictures), pictures)
    holding = {name: np.mean([name in told for label, told in answers if label == name]) for name in names}
    worst = min(names, key=lambda name: holding[name])
    return {
        "kinds": len(names),
        "pictures": pictures,
        "draws": args.draws,
        "promised": round(float(np.mean(held)), 4),
        "lacks the true kind": round(lacks / count, 4),
        "interval": [round(low, 4), round(high, 4)],
        "single and right": round(sum(told == (label,) for label, told in answers) / count, 4),
        "single and wrong": round(sum(len(t) == 1 and t != (label,) for label, t in answers) / count, 4),
        "known, called new": round(sum(not told for _, told in answers) / count, 4),
        "unseen, called new": round(float(np.mean(unseen)), 4) if unseen else None,
        "worst kind": f"{worst}: lacks it {1 - holding[worst]:.3f}",
    }


def main() -> int:
    parser = common.make_parser(__doc__, "kinds")
    parser.set_defaults(categories="transistor")
    parser.add_argument("--products", default=PRODUCTS, help="drawn (default: %(default)s)")
    parser.add_argument("--size", help="of the models (default: the method's)")
    parser.add_argument("--examples", default="3,5,10", help="of each kind (default: %(default)s)")
    parser.add_argument("--draws", type=int, default=20, help="of examples (default: %(default)s)")
    parser.add_argument("--error", type=float, default=0.1, help="asked for (default: %(default)s)")
    parser.add_argument("--bad", type=int, default=22, help="defects of each kind (default: %(default)s)")
    args = common.parse_arguments(parser, products="fabric", size="64", draws=2, bad=6, examples="3")
    record, rows = common.Record(args, "kinds of defects, named from few examples"), []
    with tempfile.TemporaryDirectory() as temporary:
        work = args.work or Path(temporary)
        for name, folder in _folders(args, work):
            found = None
            for examples in common.ints(args.examples):
                label = f"{name}/{examples}, error {args.error:g}"

                def work_of(examples: int = examples, folder: Path = folder) -> Cell:
                    nonlocal found
                    found = found or descriptors(args, folder, work)
                    return measured(args, found, examples)

                if cell := record.attempt(label, work_of):
                    rows.append({"product": name, "examples": examples, **common.without_metadata(cell)})
    common.print_table("answers on pictures that were not learnt from", rows)
    return record.status()


def _folders(args: Args, work: Path) -> Any:
    counts = {"train": 16, "good": 2, "size": 96} if args.quick else {"train": 50, "good": 2, "size": 320}
    yield from common.category_folders(args)
    kinds = {"painted": 7}
    for name in filter(None, args.products.split(",")):
        yield name, drawn.product(work, name, seed=SEED, bad=args.bad * kinds.get(name, 5), **counts)


if __name__ == "__main__":
    sys.exit(common.run_script(main))
