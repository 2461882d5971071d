"""Which picture size finds synthetic defects best? The evidence behind the default and `--size auto`.

    python bench/sizes.py

Training pictures only: some are held out, synthetic defects of three scales are put on them, and every size
or pair of sizes has to tell them from the untouched ones (image AUROC). Two categories of the reference data
and two drawn ones, several seeds. No test picture is read. One cell is one category and seed.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

import common
from common import Cell

CANDIDATES = ((256,), (320,), (384,), (512,), (256, 384), (256, 512))
DRAWN = ("plate", "fabric")


def compare(paths: list[str], seed: int, candidates: list[list[int]]) -> Cell:
    from flawscope.features.backbone import load_backbone
    from flawscope.methods.patchcore import size
    from flawscope.methods.patchcore.config import Config
    from flawscope.methods.task import SizeTask
    from flawscope.pictures.decoding import decode

    config = Config(seed=seed)
    backbone, _ = load_backbone(config.backbone, config.stages, (512, 512))
    task = SizeTask(lambda i: decode(paths[i]), len(paths))
    pictures = size.sample(task.decoded, len(paths), seed)
    held = pictures[: min(size.HOLD, len(pictures) // 3)]
    learnt = pictures[len(held) :]
    trials = size.compare(config, backbone, learnt, held, [tuple(c) for c in candidates], task)
    return {
        "held_out": len(held),
        "learnt": len(learnt),
        "trials": {
            t.name: {"mean": common.sig(t.auroc), "by_scale": [common.sig(a) for a in t.by_scale]}
            for t in trials
        },
    }


def main() -> int:
    from flawscope.demo.dataset import draw_dataset

    parser = common.parser(__doc__, "sizes")
    parser.add_argument("--seeds", type=common.numbers, default=[0, 1, 2], help="default: 0,1,2")
    parser.add_argument("--drawn", default=",".join(DRAWN), help="default: %(default)s")
    args = common.arguments(parser, seeds=[0], drawn="")
    candidates = [(64,), (96,)] if args.quick else CANDIDATES
    record = common.Record(args, "sizes compared by synthetic defects on good pictures")
    rows = []
    with common.workspace(args.work) as folder:
        cases = list(common.roots(args))
        for name in filter(None, args.drawn.split(",")):
            if not (folder / name).is_dir():
                draw_dataset(folder, category=name, train=60, good=2, bad_per_kind=1, size=512, seed=1)
            cases.append((name, folder / name))
        for name, root in cases:
            paths = list(map(str, common.pictures_below(Path(root) / "train")))
            work = lambda seed, p=paths: common.task(compare, paths=p, seed=seed, candidates=candidates).json  # noqa
            found = [record.cell(f"{name}/{seed}", lambda s=seed, w=work: w(s)) for seed in args.seeds]
            means = {k: statistics.mean(f["trials"][k]["mean"] for f in found) for k in found[0]["trials"]}
            rows.append({"category": name, "held out": found[0]["held_out"], **means})
    common.table(f"mean image AUROC on synthetic defects, {len(args.seeds)} seeds", rows)
    return record.status()


if __name__ == "__main__":
    sys.exit(common.start(main))
