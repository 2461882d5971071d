"""What is each part of a method worth? Fits without one part each, judged without the test's good pictures.

    python bench/ablation.py --methods prnet --seen 10 --steps 400 --draws 6
    python bench/ablation.py --methods efficientad --variants whole,"no border" --steps 1000

A share of the good training pictures (--kept) is kept from the fit, and half of the defects drawn. All
judges have the pictures kept as the good ones, and every defect is put on a picture that is judged as good,
too: pairs have everything but the defect in common, so that figures are higher than on a real test, and only
their differences between variants mean something.

synthetic  `simulate_defect` on them, at three sizes, of the kinds that no method trains on. Tells whether a
           variant finds changes of a known size that it was not trained on. A variant that learns simulated
           pictures has learnt something of the same family, so that one without looks worse than it may be.
seen       the other half of the defects, put on them by `extend_defect`. Tells whether a variant recognises
           other examples of kinds that it has seen. PRN learns the seam of pasting from the same function.
real       the pictures of that other half as they are: few, so that small differences mean nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import common
import models
from common import Args, Cell, Record
from models import Job

VARIANTS: dict[str, dict[str, Any]] = {
    "patchcore": {"one size": {"size": "256"}, "no smoothing": {"sigma": 0.0}},
    "efficientad": {
        "no border": {"border": 0},
        "no penalty": {"natural": "none"},
        "no smoothing": {"sigma": 0.0},
        "whole pictures": {"window": None},
    },
    "prnet": {
        "no extended": {"extended": 0.0},
        "no original": {"original": 0.0},
        "no simulated": {"extended": 1.0},
        "no residuals": {"residuals": False},
        "no attention": {"attention": False},
        "no noise": {"noise": 0.0},
        "half the rate": {"rate": 5e-4},
        "narrow": {"width": 0.5},
        "larger": {"size": "384"},
    },
}
FIGURES = ("image_auroc", "image_auroc_of_maximum", "pixel_auroc", "pixel_ap", "au_pro", "above_threshold")


class Answers:
    """Scores, maps and masks by group."""

    def __init__(self, session: Any, calibration: Any):
        self.session, self.calibration = session, calibration
        self.known: dict[str, list[tuple[float, Any, Any]]] = {}

    def add(self, group: str, image: Any, mask: Any) -> None:
        """image: [3, H, W] float32 in 0..1. mask: [H, W] bool."""
        score, drawn = self.session.run(image[None])
        self.known.setdefault(group, []).append((float(score[0]), drawn[0].copy(), mask))

    def above(self, *groups: str) -> Any:
        """The share of them above the threshold."""
        import numpy as np

        scores = np.array([score for group in groups for score, _, _ in self.known[group]])
        return common.sig(float(self.calibration.is_anomalous(scores).mean()), 4)

    def judged(self, *groups: str) -> Cell:
        """These groups together against the good pictures."""
        import numpy as np

        from flawscope import metrics

        scores, maps, masks = zip(*(one for g in ("good", *groups) for one in self.known[g]), strict=True)
        labels = np.arange(len(scores)) >= len(self.known["good"])
        image, pixel = metrics.image_metrics(labels, np.array(scores)), metrics.pixel_metrics(maps, masks)
        return {
            "image_auroc": common.sig(image.auroc),
            "image_auroc_of_maximum": common.sig(metrics.auroc(labels, [float(m.max()) for m in maps])),
            "pixel_auroc": common.sig(pixel.auroc),
            "pixel_ap": common.sig(pixel.ap),
            "au_pro": common.sig(pixel.au_pro),
            "above_threshold": self.above(*groups),
            "images": int(labels.sum()),
        }


def eight_bits(image: Any) -> Any:
    """What the network sees, [3, H, W] float32, as [H, W, 3] uint8; padding has its filling."""
    from flawscope.pictures.eight_bits import to_eight_bits
    from flawscope.pictures.preprocess import unmarked

    return to_eight_bits(unmarked(image)[0].transpose(1, 2, 0), white=1.0)


def judge(model: str, root: str, of: dict[str, Any], draws: int, threads: int) -> Cell:
    """A model on the good pictures kept from it, with defects and without. `of`: what its job has."""
    import numpy as np

    from flawscope import open_dataset
    from flawscope.fitting.training_pictures import read_defects
    from flawscope.synthesis import KINDS, PAPER_KINDS, DefectScale, extend_defect, foreground_mask
    from flawscope.synthesis import simulate_defect as simulate

    predictor, dataset, seed = models.open_model(model, threads=threads), open_dataset(root), of["seed"]
    preprocess = predictor.manifest.preprocess
    dataset = replace(dataset, train=dataset.train[: of["good"]])
    split = models.divided(dataset, of["kept"], seed, of["seen"])
    pairs: Any = [(item.path, list(item.masks)) for item in split.other]
    defects = [shown for views in read_defects(pairs, preprocess)[0].values() for shown in views]
    cuts = [(eight_bits(one.image.numpy()), one.mask) for one in defects]
    kinds = [kind for kind in KINDS if kind not in PAPER_KINDS]
    answers = Answers(predictor.session, predictor.calibration)

    def show(group: str, made: Any) -> None:
        image = made.picture.astype(np.float32).transpose(2, 0, 1) / np.float32(255)
        answers.add(group, np.ascontiguousarray(image), made.mask)

    for number, item in enumerate(split.kept):
        image = preprocess(item.path)[0][0]
        pixels = eight_bits(image)
        foreground = foreground_mask(pixels)
        answers.add("good", image, np.zeros(pixels.shape[:2], np.bool_))
        for draw in range(draws):
            for place, scale in enumerate(DefectScale):  # the same for every variant
                rng = np.random.default_rng([seed, number, place, draw])
                kind = kinds[int(rng.integers(len(kinds)))]
                options: dict[str, Any] = {"kind": kind, "scale": scale, "foreground": foreground}
                show(scale.value, simulate(pixels, rng, **options))
            if cuts:
                rng = np.random.default_rng([seed, number, len(DefectScale), draw])
                cut = cuts[int(rng.integers(len(cuts)))]
                show("seen", extend_defect(pixels, *cut, rng, foreground=foreground))
    for defect in defects:
        answers.add("real", defect.image.numpy(), defect.mask)
    groups = {"synthetic": [s.value for s in DefectScale], **{s.value: [s.value] for s in DefectScale}}
    groups |= {name: [name] for name in ("seen", "real") if cuts}
    return {
        "judges": {name: answers.judged(*parts) for name, parts in groups.items()},
        "false_alarms": answers.above("good"),
        "kept": len(split.kept),
        "defects_learnt": len(split.defects),
        "defects_judged": len(cuts),
    }


def judged(args: Args, record: Record, folder: Path, job: Job, name: str) -> Cell | None:
    """The cell of a job before the judges."""

    def measure(model: Path, fit: Cell) -> Cell:
        of = {k: getattr(job, k) for k in ("kept", "seen", "seed", "good")}
        limits = {"draws": args.draws, "threads": args.threads}
        child = common.task(judge, model=model, root=job.root, of=of, **limits)
        return {**child.json, "steps": fit["facts"].get("steps"), "seconds_fit": fit["seconds"]}

    return models.after_fit(args, record, folder, job, name, measure)


def add_judge(parser: Any) -> None:
    parser.add_argument("--kept", type=float, default=0.2, help="share of the good pictures for the judges")
    parser.add_argument("--draws", type=int, default=2, help="defects of a kind and picture kept")


def show(title: str, rows: Sequence[Cell], of: Callable[[Cell], Cell]) -> None:
    """The variants beneath each other, by judge."""
    judges = ("synthetic", "small", "medium", "large", "seen", "real")
    found = []
    for judge_, row in ((j, row) for j in judges for row in rows if j in row["judges"]):
        figures = {k: row["judges"][judge_][k] for k in FIGURES}
        found.append({"judge": judge_, **of(row), **figures, "false alarms": row["false_alarms"]})
    common.table(title, found)


def main() -> int:
    parser = common.parser(__doc__, "ablation", methods="all")
    models.add_budget(parser)
    add_judge(parser)
    parser.add_argument("--variants", help="`whole` and some of the method's, by default all")
    quick = {"methods": "prnet", "variants": "whole,no residuals", "seen": [4]}
    args = common.arguments(parser, threads=2, draws=1, **quick)
    record = Record(args, "without a part each, judged on pictures kept from the fit")
    cells = []
    with common.workspace(args.work) as folder:
        for category, root in common.roots(args):
            for method in common.methods(args):
                known = {"whole": {}, **VARIANTS.get(method, {})}
                for variant in args.variants.split(",") if args.variants else known:
                    for seed, seen in ((a, b) for a in args.seeds for b in args.seen):
                        same: dict[str, Any] = {"seed": seed, "seen": seen, "kept": args.kept}
                        for job in models.jobs(args, category, root, method, **same):
                            if variant not in known:
                                continue
                            changed = replace(job, settings={**job.settings, **known[variant]})
                            name = f"judged/{changed.name}, {args.draws} draws/{variant}"
                            if cell := judged(args, record, folder, changed, name):
                                cells.append({**cell, "variant": variant, "of": job.name})
    show("by judge", cells, lambda c: {"of": c["of"], "variant": c["variant"], "steps": c["steps"]})
    return record.status()


if __name__ == "__main__":
    sys.exit(common.start(main))
