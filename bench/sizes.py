"""Which picture size finds synthetic defects best? The evidence behind the default and `--size auto`.

    python bench/sizes.py

Training pictures only: some are held out, synthetic defects of three scales are put on them, and every size
or pair of sizes has to tell them from the untouched ones (image AUROC). Two categories of the reference data
and two drawn ones, several seeds. No test picture is read. One cell is one category and seed; a run that was
stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import common

CANDIDATES = ((256,), (320,), (384,), (512,), (256, 384), (256, 512))
DRAWN = ("plate", "fabric")


def train_pictures(args: argparse.Namespace, category: str, work: Path) -> list[Path] | None:
    from flawscope import open_dataset
    from flawscope.demo.dataset import draw_dataset

    if category in DRAWN:
        draw_dataset(work, category=category, train=60, good=2, bad_per_kind=1, size=512, seed=1)
        folder: Path | None = work / category
    else:
        folder = common.mvtec(args, category)
    return None if folder is None else [item.path for item in open_dataset(folder).train]


def cell(paths: list[Path], seed: int) -> dict[str, Any]:
    from flawscope.features.backbone import load_backbone
    from flawscope.methods.patchcore import size
    from flawscope.methods.patchcore.config import Config
    from flawscope.pictures.decoding import decode

    config = Config(seed=seed)
    backbone, _ = load_backbone(config.backbone, config.stages, (512, 512))
    pictures = size.sample(lambda i: decode(paths[i]), len(paths), seed)
    held = pictures[: min(size.HOLD, len(pictures) // 3)]
    trials = size.compare(config, backbone, pictures[len(held) :], held, CANDIDATES)
    return {
        "held_out": len(held),
        "learnt": len(pictures) - len(held),
        "trials": {
            t.name: {"mean": common.sig(t.auroc), "by_scale": [common.sig(a) for a in t.by_scale]}
            for t in trials
        },
    }


def main() -> int:
    parser = common.parser(__doc__, "sizes")
    parser.add_argument("--seeds", type=common.numbers, default=[0, 1, 2])
    parser.add_argument("--categories", default="transistor,toothbrush,plate,fabric")
    args = parser.parse_args()
    names = ["+".join(map(str, c)) for c in CANDIDATES]
    record = common.Record(args, "sizes", {"candidates": names})
    rows = []
    with tempfile.TemporaryDirectory() as work:
        for category in args.categories.split(","):
            paths = train_pictures(args, category, Path(work))
            if paths is None:
                continue
            found = [
                record.cell(f"{category}/{seed}", lambda p=paths, s=seed: cell(p, s)) for seed in args.seeds
            ]
            means = [statistics.mean(f["trials"][n]["mean"] for f in found) for n in names]
            rows.append((category, found[0]["held_out"], *[f"{m:.3f}" for m in means]))
    common.table(
        f"mean image AUROC on synthetic defects, {len(args.seeds)} seeds",
        rows,
        ("category", "held out", *names),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
