"""What is learnt from few good pictures, and what the threshold of one is worth?

    python bench/few.py
    python bench/few.py --counts 1 --draws 1 --setting default

Ten drawn products. Each draw takes its good pictures anew and is judged on the same others, good and
defective: image AUROC, and how many of either lie above the threshold that `fit` gives.
"""

from __future__ import annotations

import hashlib
import itertools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

import common
from choose import KINDS
from common import Cell, Record

BEFORE = "size=256+384,layers=joined,fusion=maximum"  # the default until `bench/choose.py`


@contextmanager
def network_once() -> Iterator[None]:
    """Computes the network's features of each picture once, for all fits and settings."""
    import torch

    from flawscope.methods.features.backbone import Backbone

    forward, made = Backbone.forward, {}

    def of_image(network: Backbone, image: torch.Tensor) -> list[torch.Tensor]:
        key = hashlib.sha256(image.contiguous().numpy().tobytes()).digest()
        if key not in made:
            made[key] = forward(network, image[None])
        return made[key]

    def remembered(network: Backbone, images: torch.Tensor) -> list[torch.Tensor]:
        return [torch.cat(maps) for maps in zip(*(of_image(network, i) for i in images), strict=True)]

    Backbone.forward = remembered  # type: ignore[method-assign]
    try:
        yield
    finally:
        Backbone.forward = forward  # type: ignore[method-assign]


def measure(root: Path, count: int, draw: int, setting: str) -> Cell:
    """A model of `count` of the training pictures, those of the draw."""
    import flawscope
    from flawscope.config import parse_assignments
    from flawscope.evaluation.metrics import auroc

    dataset = flawscope.open_dataset(root)
    order = np.random.default_rng(draw).permutation(len(dataset.train))[:count]
    words = [] if setting == "default" else setting.split(",")
    predictor = flawscope.fit(
        [dataset.train[k].path for k in order],
        samples=0, device="cpu", check=False, **parse_assignments(words),
    )  # fmt: skip
    answers = [predictor.predict(item.path) for item in dataset.test]
    bad = np.array([item.anomalous for item in dataset.test])
    above = np.array([answer.is_anomalous for answer in answers])
    return {
        "image_auroc": common.round_to(auroc(bad, np.array([answer.score for answer in answers])), 4),
        "good above": [int(above[~bad].sum()), int((~bad).sum())],
        "bad above": [int(above[bad].sum()), int(bad.sum())],
        "promised": predictor.calibration.promised,
    }


def rows_of(cells: dict[tuple[str, int, int, str], Cell]) -> Iterator[Cell]:
    """Mean image AUROC over products and draws, and what lies above the threshold."""
    for count, setting in dict.fromkeys((count, setting) for _, count, _, setting in cells):
        those = [cell for key, cell in cells.items() if key[1] == count and key[3] == setting]
        good, bad = (np.sum([cell[which] for cell in those], axis=0) for which in ("good above", "bad above"))
        yield {
            "good pictures": count,
            "setting": setting,
            "fits": len(those),
            "image AUROC": round(float(np.mean([cell["image_auroc"] for cell in those])), 4),
            "good above": f"{good[0]} of {good[1]}",
            "bad above": f"{bad[0]} of {bad[1]}",
        }


def main() -> int:
    import torch

    import drawn

    parser = common.make_parser(__doc__, "few", data=False)
    parser.add_argument("--kinds", default=KINDS, help="drawn products (default: %(default)s)")
    parser.add_argument("--counts", type=common.ints, default=[1, 2, 4, 8, 20], help="good pictures")
    parser.add_argument("--draws", type=int, default=2, help="of the pictures (default: %(default)s)")
    parser.add_argument("--setting", action="append", help="of PatchCore (default: today's and the earlier)")
    for name, count in (("learnt", 16), ("good", 10), ("bad", 8), ("side", 256)):
        parser.add_argument(f"--{name}", type=int, default=count, help="drawn (default: %(default)s)")
    args = common.parse_arguments(
        parser, kinds="sheet", counts=[1, 2], draws=1, learnt=2, good=2, bad=4, side=96, setting=["size=64"]
    )
    torch.set_num_threads(args.threads)
    record = Record(args, "what is learnt from few good pictures")
    counts = {"train": args.learnt, "good": args.good, "bad": args.bad, "size": args.side}
    cells = {}
    with common.workspace(args.work) as work:
        for draw, kind in itertools.product(range(args.draws), args.kinds.split(",")):
            root = drawn.product(work, kind, seed=5800, **counts)
            with network_once():
                for count, setting in itertools.product(args.counts, args.setting or ["default", BEFORE]):
                    cell = record.attempt(
                        f"{kind}, {count} pictures, draw {draw}, {setting}",
                        lambda given=(root, count, draw, setting): measure(*given),  # type: ignore[misc]
                    )
                    if cell is not None:
                        cells[kind, count, draw, setting] = cell
    common.print_table("few good pictures", [*rows_of(cells)])
    return record.status()


if __name__ == "__main__":
    sys.exit(common.run_script(main))
