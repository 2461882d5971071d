"""Which backbone a teacher should be distilled from, by synthetic defects on pictures kept from the fit.

    python bench/teachers.py --images FOLDER --minutes 8 --steps 500
    python bench/teachers.py --images FOLDER --backbones tf_efficientnet_lite0,resnet18=WEIGHTS.safetensors

Every backbone is distilled from the same pictures for the same --minutes: one that is slow to compute makes
fewer steps. Then EfficientAD is trained with each teacher for --steps on the good pictures of every
category, a share of which (--tuning) is kept from it, and judged on these with defects and without: the judge
`synthetic` of bench/prnet.py, with the kinds of defects that it names. Test pictures are not opened.

Losses of teachers of different backbones say nothing about which is better: their targets differ.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import common
import prnet


def distil(args: argparse.Namespace, record: common.Record, folder: Path, backbone: str, weights: str) -> Any:
    """The cell of a teacher, and its file."""
    out = folder / f"teacher-{common.slug(backbone)}-{args.minutes:g}.safetensors"
    name = f"teacher/{backbone}/{args.minutes:g} minutes"
    if not out.is_file():
        record.cells.pop(name, None)

    def measure() -> dict[str, Any]:
        from flawscope.methods.efficientad.teacher import read_teacher

        more = ["--weights", weights] if weights else []
        child = common.flawscope(
            *("distill", "--images", args.images, "--backbone", backbone, *more, "--stages", args.stages),
            *("--batch", str(args.batch), "--set", f"rate={args.rate:g}", "--minutes", f"{args.minutes:g}"),
            *("--threads", str(args.threads), "--out", out, "--resume", "--quiet"),
        )
        _, facts = read_teacher(out)
        return {**facts, "seconds": common.sig(child.seconds, 4), "peak_mib": child.peak // common.MIB}

    return record.attempt(name, measure), out


def task_fit(
    root: str, teacher: str, natural: str, steps: int, tuning: float, seed: int, model: str, threads: int
) -> dict[str, Any]:
    """EfficientAD with this teacher, without the pictures that are kept for the judge."""
    import dataclasses

    import torch

    torch.set_num_threads(threads)
    from flawscope.datasets import open_dataset
    from flawscope.fitting.fitting import fit

    dataset = open_dataset(root)
    learnt = prnet.tuning_split(dataset, tuning, seed, 0).learnt
    fitted = fit(
        dataclasses.replace(dataset, train=learnt),
        method="efficientad",
        teacher=teacher,
        natural=natural,
        steps=steps,
        seed=seed,
    )
    fitted.save(model)
    return {"seconds": fitted.manifest.facts["seconds"], "learnt": len(learnt)}


def main() -> int:
    parser = common.parser(__doc__, "teachers")
    parser.add_argument(
        "--images", type=Path, help="of the distillation and of the penalty (default: natural)"
    )
    parser.add_argument("--backbones", default="tf_efficientnet_lite0,resnet18", help="NAME or NAME=WEIGHTS")
    parser.add_argument("--stages", default="2,3", help="of the backbone (default: %(default)s)")
    parser.add_argument("--categories", default=",".join(common.CATEGORIES), help="default: %(default)s")
    parser.add_argument("--minutes", type=float, default=8.0, help="of a distillation (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=4, help="crops a step (default: %(default)s)")
    parser.add_argument(
        "--rate", type=float, default=0.0007, help="of the distillation (default: %(default)s)"
    )
    parser.add_argument("--steps", type=int, default=500, help="of EfficientAD (default: %(default)s)")
    parser.add_argument("--tuning", type=float, default=0.2, help="share of the good pictures for the judge")
    parser.add_argument("--draws", type=int, default=2, help="defects of a size and picture kept")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="default: %(default)s")
    parser.add_argument("--work", type=Path, help="keep teachers and models here")
    args = parser.parse_args()
    if args.task:
        return common.run_task(args.task, TASKS)
    args.images = args.images or common.data_root(args) / "natural"
    record = common.Record(args, "teachers of several backbones, judged by synthetic defects", {})
    common.headline("teachers")
    rows = []
    with common.workspace(args.work) as folder:
        for text in args.backbones.split(","):
            backbone, _, weights = text.partition("=")
            made, teacher = distil(args, record, folder, backbone, weights)
            if made is None:
                continue
            for category in args.categories.split(","):
                root = common.mvtec(args, category)
                if root is None:
                    continue
                cell = judged(args, record, folder, backbone, teacher, category, root)
                if cell is not None:
                    found = cell["judges"]["synthetic"]
                    keys = ("image_auroc", "pixel_auroc", "pixel_ap", "au_pro")
                    rows.append((category, backbone, made["steps"], *(prnet.number(found[k]) for k in keys)))
    header = ("category", "teacher from", "its steps", "image AUROC", "pixel AUROC", "pixel AP", "AU-PRO")
    common.table("synthetic defects on good pictures that were kept", sorted(rows), header)
    return 1 if record.failures else 0


def judged(
    args: argparse.Namespace,
    record: common.Record,
    folder: Path,
    backbone: str,
    teacher: Path,
    category: str,
    root: Path,
) -> Any:
    name = f"judged/{category}/{backbone}/{args.minutes:g} minutes/{args.steps} steps/seed {args.seed}"

    def measure() -> dict[str, Any]:
        model = folder / f"{common.slug(name)}.safetensors"
        same = {
            "root": root,
            "tuning": args.tuning,
            "seed": args.seed,
            "threads": args.threads,
            "model": model,
        }
        fitted = common.task(
            *(__file__, "fit"), **same, teacher=teacher, natural=args.images, steps=args.steps
        ).json
        found = common.task(*(prnet.__file__, "judge"), **same, seen=0, draws=args.draws, device="cpu").json
        return {**found, **fitted}

    return record.attempt(name, measure)


TASKS = {"fit": task_fit}

if __name__ == "__main__":
    sys.exit(main())
