"""Which backbone should an EfficientAD teacher be distilled from?

    python bench/teachers.py --images FOLDER --minutes 8 --steps 500
    python bench/teachers.py --images FOLDER --backbones tf_efficientnet_lite0,resnet18=WEIGHTS.safetensors

Every backbone is distilled from the same pictures for the same time (--distil): one that is slow to compute
makes fewer steps. Then EfficientAD is trained with each teacher and judged as `ablation.py` does, by
synthetic defects on good pictures kept from the training. Test pictures are not opened. Losses of teachers
of different backbones say nothing about which is better: their targets differ.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import ablation
import common
import models
from common import Args, Cell


def distil(args: Args, out: Path, backbone: str, weights: str) -> Cell:
    from flawscope.methods.efficientad.teacher import read_teacher

    more = ["--weights", weights] if weights else []
    more += ["--set", "steps=2"] if args.quick else ["--minutes", f"{args.distil:g}"]
    child = common.flawscope(
        *("distill", "--images", args.images, "--backbone", backbone, *more, "--stages", args.stages),
        *("--batch", str(args.batch), "--set", f"rate={args.rate:g}", "--threads", str(args.threads)),
        *("--out", out, "--resume", "--quiet"),
    )
    return {**read_teacher(out)[1], **child.facts}


def main() -> int:
    parser = common.parser(__doc__, "teachers", methods="efficientad")
    models.add_budget(parser)
    ablation.add_judge(parser)
    parser.add_argument("--images", type=Path, help="of the distillation and of the penalty")
    parser.add_argument("--backbones", default="tf_efficientnet_lite0", help="NAME or NAME=WEIGHTS, ...")
    parser.add_argument("--stages", default="2,3", help="of the backbone (default: %(default)s)")
    parser.add_argument("--distil", type=float, default=8.0, help="minutes (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=4, help="crops a step (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=0.0007, help="default: %(default)s")
    args = common.arguments(parser, threads=2, draws=1)
    if args.images is None:
        if not args.quick:
            parser.error("--images is needed: a folder of pictures of anything")
        drawn = common.draw(args.data / "images", train=20, size=96)
        args.images = drawn / "train/good"
    record = common.Record(args, "teachers of several backbones, judged by synthetic defects")
    cells = []
    with common.workspace(args.work) as folder:
        for text in args.backbones.split(","):
            backbone, _, weights = text.partition("=")
            out = folder / f"teacher-{common.slug(backbone)}-{args.distil:g}.safetensors"
            name = f"teacher/{backbone}, {args.distil:g} minutes"
            if not out.is_file():
                record.cells.pop(name, None)
            work = lambda o=out, b=backbone, w=weights: distil(args, o, b, w)  # noqa: E731
            if record.attempt(name, work) is None:
                continue
            for category, root in common.roots(args):
                for job in models.jobs(args, category, root, "efficientad", kept=args.kept):
                    own = {"natural": str(args.images), **job.settings, "teacher": str(out)}
                    changed = replace(job, settings=own)
                    if cell := ablation.judged(args, record, folder, changed, f"judged/{changed.name}"):
                        cells.append({**cell, "category": category, "teacher from": backbone})
    ablation.show("by judge", cells, lambda c: {k: c[k] for k in ("category", "teacher from", "steps")})
    return record.status()


if __name__ == "__main__":
    sys.exit(common.start(main))
