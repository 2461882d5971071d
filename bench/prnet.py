"""PRN measured from outside: accuracy beside PatchCore's, its curve, what its parts are worth, times, memory.

    python bench/prnet.py --work FOLDER
    python bench/prnet.py --only accuracy --seen 0,5,10,20 --seeds 0,1,2 --set textures=FOLDER --work FOLDER
    python bench/prnet.py --only curve --steps 250,500,1000,2000 --work FOLDER
    python bench/prnet.py --only ablation --steps 1000 --work FOLDER
    python bench/prnet.py --only step,latency,prototypes

accuracy     one training a cell, in a process of its own, and the final model, as its file is read back, on
             the test pictures, by another process. --seen defects are drawn from the test pictures, with the
             seed of the training. PatchCore (--patchcore: default settings, and one size of 256) is judged on
             the same pictures: those drawn are taken from it too, by their pixels, and both cells hold a hash
             of the list of pictures that were judged; where the two differ, that is a failure. Pixel figures
             are of maps at the network's size, which is not the same for all; --full adds those at the
             pictures' size. Without --steps a training gets --minutes, 14 by default, so that a cell is done
             within 15; the number of steps then depends on what else the machine does, and is told.
curve        the same, of one number of seen defects, at several --steps (or --minutes). The learning rate
             follows from the number of steps, so that every point is a training of its own.
ablation     trainings without one part each, judged without the test's good pictures, and for what is chosen
             by it: a share of the good training pictures (--tuning) is kept from the training, and half of
             the defects drawn. There are three judges, all with the pictures kept as the good ones:
               synthetic  `simulate_defect` on them, at three sizes, of the kinds that PRN does not train on
               seen       the other half of the defects, put on them by `extend_defect`
               real       the pictures of that other half as they are: few, but nothing is simulated
             Give --steps: with --minutes a smaller network gets more steps. What each judge can tell is
             written below, where the judges are.
step         seconds of a whole training step, several kinds in every round (A B C A B C), and of its parts.
             The plain reference is the same network and loss in fp32, eager, contiguous, Adam not fused, and
             prototypes found as public code finds them: features expanded against all prototypes. It is given
             away for less than it is worth: its pictures are at hand, and it takes no picture out of its own
             prototype, while ours are drawn meanwhile by one thread, as in a training.
latency      of one picture, per runtime and precision, interleaved in one process: the session's `run` beside
             the backbone alone in the same runtime; in torch the other parts too. The model is trained for a
             few steps: its numbers do not change what it costs.
prototypes   `cluster` against scikit-learn's KMeans on the same feature maps, each in a process of its own,
             in turn: seconds, memory, and the objective of both, worked out in the same way.

Every cell is written when it is done; a run that was stopped goes on where it was, and with --work in the
middle of a training. Models made with --work are kept. A process that fails is told, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import dataclasses
import hashlib
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import common
import latency as latencies
from efficientad import Stepper, networks_in

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from flawscope.datasets import Dataset, Item
    from flawscope.methods.prnet.trainer import Trainer

# Zhang et al., CVPR 2023: 10 seen defects, ResNet-18, 700 epochs
PAPER = {
    "transistor": {"image_auroc": 0.997, "pixel_auroc": 0.984, "au_pro": 0.948, "pixel_ap": 0.856},
    "toothbrush": {"image_auroc": 1.0, "pixel_auroc": 0.996, "au_pro": 0.956, "pixel_ap": 0.781},
}
COMPARED = ("image_auroc", "image_ap", "pixel_auroc", "pixel_ap", "au_pro", "full_pixel_ap", "full_au_pro")
MINUTES = 14.0  # of a training, so that a cell with its evaluation is done within 15
CURVE = (250, 500, 1000, 2000)
VARIANTS: dict[str, dict[str, Any]] = {
    "whole": {},
    "no extended": {"extended": 0.0},
    "no original": {"original": 0.0},
    "no simulated": {"extended": 1.0},
    "no residuals": {"residuals": False},
    "no attention": {"attention": False},
    "half the rate": {"rate": 5e-4},
    "narrow": {"width": 0.5},
    "no noise": {"noise": 0.0},
    "larger": {"size": "384"},
}
# as public code has it: changes of the program, not settings
ALTERED = {"two classes": 2, "three classes": 3, "own prototypes": 0}
REFERENCE = "patchcore"  # the variant that is no PRN
TRAINED_ON = ("texture", "structure")  # the kinds of `simulate_defect` that PRN's own simulation is of
Args = argparse.Namespace
Record = common.Record
Settings = dict[str, Any]
Work = Callable[[], object]


# ---------------------------------------------------------------------------------------------- trainings


@dataclass(frozen=True)
class Job:
    """One training: of what, with what, for how long."""

    category: str
    root: Path
    method: str
    settings: Settings
    label: str  # of the settings
    preset: str = "default"
    seen: int = 0
    seed: int = 0
    words: str = ""  # of the budget
    minutes: float | None = None
    tuning: float | None = None  # share of the good pictures that is kept from it; None: none
    device: str = "cpu"
    rate: float | None = None
    altered: str = ""  # one of ALTERED
    good: int | None = None  # the first good pictures only; None: all

    @property
    def described(self) -> str:
        """The method and its settings, without what was seen."""
        words = [self.label, self.altered, self.words, "" if self.device == "cpu" else self.device]
        words += [f"false alarms {self.rate:g}"] if self.rate is not None else []
        words += [f"{self.tuning:g} kept"] if self.tuning is not None else []
        words += [f"{self.good} good"] if self.good is not None else []
        return ", ".join([self.method, *filter(None, words)])

    @property
    def name(self) -> str:
        alike = self.method != "prnet" and self.tuning is None  # whatever is drawn
        drawn = "" if alike else f"/{drawn_words(self.seen, self.seed)}"
        return f"fit/{self.category}/{self.described}{drawn}"


def drawn_words(seen: int, seed: int) -> str:
    return f"{seen} seen/seed {seed}"


def budgets(args: Args, settings: Settings, default: Sequence[int] = ()) -> list[tuple[str, Settings, Any]]:
    """Words, settings and minutes of every training that is asked for: --steps, --minutes, --set steps=,
    `default` steps, or else `MINUTES`."""
    several: list[int | None] = list(args.steps or [])
    if not several and not args.minutes:
        several = [int(settings["steps"])] if settings.get("steps") else list(default)
    rest = {k: v for k, v in settings.items() if k != "steps"}
    found: list[tuple[str, Settings, Any]] = [
        (f"{n or 'default'} steps", {**rest, "steps": n} if n else rest, None) for n in several
    ]
    minutes = args.minutes or ([] if found else [MINUTES])
    return found + [(f"{m:g} minutes", rest, m) for m in minutes]


def learning(args: Args, category: str, root: Path, budget: tuple[str, Settings, Any], **more: Any) -> Job:
    """A PRN to be trained."""
    words, settings, minutes = budget
    return Job(
        category=category,
        root=root,
        method="prnet",
        settings=settings,
        label=common.label_of(settings, args.preset),
        preset=args.preset,
        words=words,
        minutes=minutes,
        device=args.device,
        rate=args.false_alarm_rate,
        good=args.good,
        **more,
    )


def alter(how: str) -> None:
    """Changes flawscope, in this process, to what public code does.

    two, three classes: the logit of a defect is worked out of several, of which one is "good": the soft
    maximum of the others less that one. Its probability is 1 - soft-max of "good", as public code has it.
    own prototypes: a training picture's residual is taken from the prototype that it helped to make.
    """
    if not how:
        return
    import torch
    from torch import nn

    from flawscope.methods.prnet import network, trainer

    classes = ALTERED[how]
    if not classes:
        found = trainer.Trainer._residuals

        def plain(self: Trainer, maps: Sequence[Tensor], batch: Any) -> list[Tensor]:
            return found(self, maps, dataclasses.replace(batch, places=[-1] * len(batch.places)))

        trainer.Trainer._residuals = plain  # type: ignore[method-assign]
        return

    class Joined(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            good, *others = x.split(1, 1)
            return torch.cat(others, 1).logsumexp(1, keepdim=True) - good

    build = network.Decoder.__init__

    def several(self: network.Decoder, *values: Any) -> None:
        build(self, *values)
        first = self.head[0]
        assert isinstance(first, nn.Conv2d)
        made = nn.Conv2d(first.in_channels, 4 * classes, 3, padding=1)
        self.head = nn.Sequential(made, nn.PixelShuffle(2), Joined())

    network.Decoder.__init__ = several  # type: ignore[method-assign]


def task_train(
    root: str,
    method: str,
    preset: str,
    settings: Settings,
    seen: int,
    seed: int,
    minutes: float | None,
    tuning: float | None,
    model: str,
    device: str,
    threads: int,
    rate: float | None,
    altered: str,
    good: int | None,
) -> dict[str, Any]:
    """One training, and its model written."""
    import torch

    alter(altered)

    torch.set_num_threads(threads)
    from flawscope.datasets import open_dataset
    from flawscope.fitting.fitting import fit
    from flawscope.synthesis import read_seen

    dataset, given = open_dataset(root), seen
    dataset = dataclasses.replace(dataset, train=dataset.train[:good])
    if tuning is not None:
        split = tuning_split(dataset, tuning, seed, seen)
        dataset = dataclasses.replace(dataset, train=split.learnt)
        given = [(item.path, read_seen(item)[1]) for item in split.defects]  # type: ignore[assignment]
    options = {**settings, **({} if rate is None else {"false_alarm_rate": rate})}
    checkpoint = Path(model).with_suffix(".checkpoint.safetensors")
    if method == "prnet":
        options |= {"seen": given, "seed": seed, "minutes": minutes, "checkpoint": checkpoint, "resume": True}
    resumed = checkpoint.is_file()
    start = time.perf_counter()
    fitted = fit(dataset, method=method, preset=preset, device=device, **options)
    fitted.save(model)
    took = time.perf_counter() - start
    checkpoint.unlink(missing_ok=True)
    manifest = fitted.manifest
    facts = manifest.facts
    roles: dict[str, int] = {}
    for picture in manifest.pictures:
        roles[picture.role] = roles.get(picture.role, 0) + 1
    kept = ("steps", "training_precision", "textures", "prototypes", "curve", "bank", "threads", "device")
    return {k: facts[k] for k in kept if k in facts} | {
        "config": manifest.config,
        "backbone": manifest.backbone,
        "pictures": roles,
        "unusable": list(fitted.failures),
        "resumed": resumed,  # then the seconds of fit are those since then, those of training all of them
        "seconds": {**facts["seconds"], "fit": common.sig(took)},
        "peak_mib": common.own_peak() // common.MIB,
        "device_peak_mib": latencies._device_peak(facts["device"]),
        "file_mib": common.sig(common.file_size(Path(model)) / common.MIB, 4),
    }


def train(args: Args, record: Record, folder: Path, job: Job) -> Path | None:
    """The model of a job: kept from before if its cell is there too, or trained now. None where it failed."""
    model = folder / f"{common.slug(job.name)}.safetensors"

    def measure() -> dict[str, Any]:
        child = common.task(
            *(__file__, "train"),
            root=job.root,
            method=job.method,
            preset=job.preset,
            settings=job.settings,
            seen=job.seen,
            seed=job.seed,
            minutes=job.minutes,
            tuning=job.tuning,
            model=model,
            device=job.device,
            threads=args.threads,
            rate=job.rate,
            altered=job.altered,
            good=job.good,
        )
        found = child.json
        if "steps" in found:
            per_step = found["seconds"]["training"] / found["steps"]
            found["seconds_per_step"] = common.sig(per_step, 4)
        peak = {"process_peak_mib": child.peak // common.MIB, "process_seconds": common.sig(child.seconds, 4)}
        return {**found, **peak, "settings": common.shown(job.settings), "preset": job.preset}

    if not model.is_file():  # what the results tell of a model that is gone would be another's
        record.cells.pop(job.name, None)
    return model if record.attempt(job.name, measure) else None


# ----------------------------------------------------------------------------------------------- accuracy


def task_test(
    model: str, root: str, seen: int, seed: int, device: str, threads: int, full: bool
) -> dict[str, Any]:
    """A model on the test pictures without those that are drawn as seen, which it may have learnt from."""
    from flawscope.datasets import open_dataset
    from flawscope.datasets.seen import draw_seen
    from flawscope.evaluation import evaluate
    from flawscope.pictures.decoding import decode, pixel_hash

    dataset = open_dataset(root)
    drawn = {pixel_hash(decode(item.path)) for item in draw_seen(dataset, seen, seed)}
    predictor = common.open_model(model, device, threads)
    known = {p.hash for p in predictor.manifest.pictures if p.role == "seen"}
    before = len(dataset.test)
    if not known:
        left = tuple(item for item in dataset.test if pixel_hash(decode(item.path)) not in drawn)
        dataset = dataclasses.replace(dataset, test=left)
    elif known != drawn:
        raise SystemExit(f"{Path(model).name} has seen other pictures than those drawn")
    result = evaluate(predictor, dataset, full_resolution=full)
    found = result.to_dict()
    names = sorted(dataset.relative(one.item.path) for one in result.pictures)
    kept = ("metrics", "false_alarms", "kinds", "images", "failures", "labels")
    return {k: found[k] for k in kept} | {
        "left_out": before - found["images"] - len(result.failures),
        "left_out_by_kind": found["left_out_by_kind"],  # by the model itself
        "judged": hashlib.sha256("\n".join(names).encode()).hexdigest(),
        "size": list(predictor.session.size),
        "seconds_evaluate": found["seconds"],
    }


def judged(args: Args, record: Record, folder: Path, job: Job, seen: int, seed: int) -> dict[str, Any] | None:
    """The cell of a model on the test pictures, trained first where it is not there."""
    name = f"accuracy/{job.category}/{job.described}/{drawn_words(seen, seed)}"
    if record.has(name) and args.full and "full_pixel_ap" not in record.cells[name]["metrics"]:
        del record.cells[name]  # measured without --full
    if record.has(name):
        return record.cell(name, dict)
    model = train(args, record, folder, job)
    if model is None:
        return None

    def measure() -> dict[str, Any]:
        child = common.task(
            *(__file__, "test"),
            model=model,
            root=job.root,
            seen=seen,
            seed=seed,
            device=job.device,
            threads=args.threads,
            full=args.full,
        )
        fitted = record.cells[job.name]
        keys = ("steps", "seconds", "process_peak_mib", "process_seconds", "training_precision")
        return {
            "of": {
                "category": job.category,
                "method": job.method,
                "described": job.described,
                "seen": seen,
                "seed": seed,
                "good": job.good,
            },
            **child.json,
            "evaluation_peak_mib": child.peak // common.MIB,
            "fit": {k: fitted[k] for k in keys if k in fitted},
        }

    return record.attempt(name, measure)


def accuracy(args: Args, record: Record, folder: Path) -> None:
    settings = common.settings(args)
    methods = args.methods.split(",")
    for category in args.categories.split(","):
        root = common.mvtec(args, category)
        if root is None:
            continue
        for seed in args.seeds:
            for seen in args.seen:
                if "patchcore" in methods and (seen or seed == args.seeds[0]):  # none seen: no draw
                    for text in args.patchcore.split(","):
                        judged(args, record, folder, peer_of(args, category, root, text), seen, seed)
                if "prnet" in methods:
                    for budget in budgets(args, settings):
                        job = learning(args, category, root, budget, seen=seen, seed=seed)
                        judged(args, record, folder, job, seen, seed)
    show_accuracy(record, args.categories.split(","))
    compare(record, args.seeds[0])


def peer_of(args: Args, category: str, root: Path, text: str, **more: Any) -> Job:
    """The PatchCore of `default` or of one setting, KEY=VALUE."""
    from flawscope.config import parse_assignments

    settings = {} if text == "default" else parse_assignments([text])
    label = common.label_of(settings)
    rate = args.false_alarm_rate
    more |= {"device": args.device, "rate": rate, "good": args.good}
    return Job(category, root, "patchcore", settings, label, **more)


def tested(record: Record) -> list[dict[str, Any]]:
    cells = [cell for name, cell in record.cells.items() if name.startswith("accuracy/")]
    return sorted(cells, key=lambda c: tuple(c["of"][k] for k in ("category", "seen", "seed", "described")))


def show_accuracy(record: Record, categories: Sequence[str]) -> None:
    rows = []
    for cell in tested(record):
        of, alarms, fitted = cell["of"], cell["false_alarms"], cell["fit"]
        if of["category"] not in categories:
            continue
        low, high = alarms["interval"]
        measured = "n/a" if alarms["measured"] is None else f"{alarms['measured']:.1%}"
        training = fitted["seconds"].get("training")
        rows.append(
            (
                *(of[k] for k in ("category", "seen", "seed", "described")),
                fitted.get("steps", ""),
                *(number(cell["metrics"].get(k)) for k in common.METRICS),
                f"{measured} ({low:.1%} to {high:.1%})",
                f"{alarms['target']:.1%}",
                cell["left_out"],
                "" if training is None else common.short(training),
                common.short(fitted["seconds"]["fit"]),
                fitted["process_peak_mib"],
            )
        )
    header = (
        "category",
        "seen",
        "seed",
        "method",
        "steps",
        *common.METRICS.values(),
        "false alarms",
        "target",
    )
    common.table("accuracy", rows, (*header, "left out", "training s", "fit s", "peak MiB"))


def number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.4f}"


def compare(record: Record, first: int) -> None:
    """PRN less PatchCore, on the same pictures."""
    cells = tested(record)
    found: dict[str, Any] = {}
    rows = []
    for cell in (c for c in cells if c["of"]["method"] == "prnet"):
        of = cell["of"]
        for other in (c for c in cells if c["of"]["method"] == "patchcore"):
            theirs = other["of"]
            seed = of["seed"] if of["seen"] else first
            if (theirs["category"], theirs["seen"], theirs["seed"]) != (of["category"], of["seen"], seed):
                continue
            if theirs.get("good") != of.get("good"):
                continue
            name = f"{of['category']}, {drawn_words(of['seen'], of['seed'])}"
            name = f"{name.replace('/', ', ')}: {of['described']} less {theirs['described']}"
            if cell["judged"] != other["judged"]:
                common.say(f"FAILED: {name}: they were judged on different pictures")
                record.failures.append(name)
                continue
            less = {
                k: common.sig(cell["metrics"][k] - other["metrics"][k], 4)
                for k in COMPARED
                if None not in (cell["metrics"].get(k), other["metrics"].get(k))
            }
            good = cell["false_alarms"]["images"]
            pairs = less.get("image_auroc", math.nan) * good * (cell["images"] - good)
            found[name] = {**less, "image_auroc_pairs": common.sig(pairs, 4), "images": cell["images"]}
            if of["seen"] == 10 and of["category"] in PAPER:
                found[name]["of the paper"] = PAPER[of["category"]]
            row = (number(less.get(k)) for k in ("pixel_ap", "full_pixel_ap", "au_pro", "image_auroc"))
            words = (of["category"], of["seen"], of["seed"], of["described"], theirs["described"])
            rows.append((*words, *row, f"{pairs:+.1f}"))
    record.summarise("prnet less patchcore, same pictures", found)
    header = ("category", "seen", "seed", "prnet", "less", "pixel AP", "full pixel AP", "AU-PRO")
    common.table("PRN less PatchCore, same pictures", rows, (*header, "image AUROC", "pairs"))


# -------------------------------------------------------------------------------------------------- curve


def curve(args: Args, record: Record, folder: Path) -> None:
    settings = common.settings(args)
    seed = args.seeds[0]
    points: dict[str, list[dict[str, Any]]] = {}
    rows = []
    for category in args.categories.split(","):
        root = common.mvtec(args, category)
        if root is None:
            continue
        for budget in budgets(args, settings, CURVE):
            job = learning(args, category, root, budget, seen=args.curve_seen, seed=seed)
            cell = judged(args, record, folder, job, args.curve_seen, seed)
            if cell is None:
                continue
            spent = cell["fit"]["seconds"]
            point = {
                "steps": cell["fit"]["steps"],
                "training_minutes": common.sig(spent["training"] / 60, 4),
                "fit_minutes": common.sig(spent["fit"] / 60, 4),
                **{k: cell["metrics"][k] for k in common.METRICS},
            }
            points.setdefault(f"{category}, {args.curve_seen} seen, {job.label}", []).append(point)
            minutes = (point["training_minutes"], point["fit_minutes"])
            values = (number(point[k]) for k in common.METRICS)
            rows.append((category, args.curve_seen, job.label, point["steps"], *minutes, *values))
    record.summarise("accuracy against steps and minutes", points)
    header = ("category", "seen", "settings", "steps", "training min", "fit min", *common.METRICS.values())
    common.table("accuracy against steps: one training a row", rows, header)


# ----------------------------------------------------------------------------------------------- ablation
#
# What the judges can and cannot tell. Every defect is put on a good picture that is judged as good, too: the
# pairs have everything but the defect in common, so that figures are higher than on a real test, and only
# their differences between variants mean something.
#
# synthetic  tells whether a variant finds changes that it was not trained on, of a known size, and whether it
#            stays quiet on good pictures. It cannot tell whether seen defects help with real ones of the same
#            kinds: none of its defects is like them. A variant that learns simulated pictures has learnt
#            something of the same family (a smooth mask, filled with something else), even without the kinds
#            left out here: "no simulated" looks worse to this judge than it may be.
# seen       tells whether a variant recognises other examples of kinds that it has seen. Its defects are real
#            but pasted: a variant trained on extended pictures has learnt the seam and the light of pasting,
#            from the same function, so that "no extended" looks worse than it may be. It cannot tell about
#            kinds that nobody has seen, about what cannot be pasted (a missing or misplaced part), or about
#            false alarms beyond the few good pictures kept.
# real       tells about all kinds, what cannot be pasted included, by pictures that are never part of a test
#            with the same draw. There are only half as many as were drawn: small differences mean nothing.


@dataclass(frozen=True)
class Split:
    """What a training in the ablation learns from, and what it is judged with; no picture is in both."""

    learnt: tuple[Item, ...]
    kept: tuple[Item, ...]  # good
    defects: list[Item]
    other: list[Item]  # defects for the judge


def tuning_split(dataset: Dataset, share: float, seed: int, seen: int) -> Split:
    """Good pictures by a hash of their names, defects as `draw_seen` draws them, every other one."""
    from flawscope.datasets.dataset import held_out
    from flawscope.datasets.seen import draw_seen

    names = [dataset.relative(item.path) for item in dataset.train]
    kept = held_out(names, share, seed)
    drawn = draw_seen(dataset, seen, seed)  # sorted by kind: both halves have all that are drawn twice
    return Split(
        tuple(item for k, item in enumerate(dataset.train) if k not in kept),
        tuple(item for k, item in enumerate(dataset.train) if k in kept),
        drawn[::2],
        drawn[1::2],
    )


def task_judge(
    model: str,
    root: str,
    tuning: float,
    seen: int,
    seed: int,
    draws: int,
    device: str,
    threads: int,
    altered: str,
    good: int | None,
) -> dict[str, Any]:
    """A model on the good pictures kept from it, with defects and without."""
    alter(altered)
    import numpy as np
    import torch

    from flawscope.datasets import open_dataset
    from flawscope.fitting.training_pictures import read_defects
    from flawscope.methods.prnet.training_pictures import _pixels
    from flawscope.synthesis import KINDS, DefectScale, extend_defect, foreground_mask, simulate_defect

    predictor = common.open_model(model, device, threads)
    session, preprocess = predictor.session, predictor.manifest.preprocess
    dataset = open_dataset(root)
    split = tuning_split(dataclasses.replace(dataset, train=dataset.train[:good]), tuning, seed, seen)
    pairs: list[Any] = [(item.path, list(item.masks)) for item in split.other]
    defects = read_defects(pairs, preprocess)[0]
    cuts = [(_pixels(defect.image), defect.mask) for defect in defects]
    kinds = [kind for kind in KINDS if kind not in TRAINED_ON]
    answers = Answers()
    for number, item in enumerate(split.kept):
        image = preprocess(item.path)[0][0]
        pixels = _pixels(torch.from_numpy(image))
        foreground = foreground_mask(pixels)
        answers.add("good", *session.run(image[None]), np.zeros(pixels.shape[:2], np.bool_))

        def show(group: str, made: Any) -> None:
            changed = made.picture.astype(np.float32).transpose(2, 0, 1)[None] / np.float32(255)
            answers.add(group, *session.run(np.ascontiguousarray(changed)), made.mask)

        # drawn from the seed, the picture and the place alone: the same for every variant
        for place, scale in enumerate(DefectScale):
            for draw in range(draws):
                rng = np.random.default_rng([seed, number, place, draw])
                kind = kinds[int(rng.integers(len(kinds)))]
                made = simulate_defect(pixels, rng, kind=kind, scale=scale, foreground=foreground)
                show(scale.value, made)
        for draw in range(draws if cuts else 0):
            rng = np.random.default_rng([seed, number, len(DefectScale), draw])
            defect, mask = cuts[int(rng.integers(len(cuts)))]
            show("seen", extend_defect(pixels, defect, mask, rng, foreground=foreground))
    for defect in defects:
        answers.add("real", *session.run(defect.image.numpy()[None]), defect.mask)
    groups = {"synthetic": [scale.value for scale in DefectScale]}
    groups |= {scale.value: [scale.value] for scale in DefectScale} | (
        {"seen": ["seen"], "real": ["real"]} if cuts else {}
    )
    threshold = predictor.calibration
    alarms = np.array(answers.scores["good"])
    return {
        "judges": {name: answers.judged(parts, threshold.is_anomalous) for name, parts in groups.items()},
        "good": {
            "images": len(alarms),
            "above_threshold": common.sig(float(threshold.is_anomalous(alarms).mean()), 4),
            "target": common.sig(threshold.effective_rate, 4),
        },
        "kinds": kinds,
        "defects_learnt": len(split.defects),
        "defects_judged": len(cuts),
    }


class Answers:
    """Scores, maps and masks by group."""

    def __init__(self) -> None:
        self.scores: dict[str, list[float]] = {}
        self.maps: dict[str, list[Any]] = {}
        self.masks: dict[str, list[Any]] = {}

    def add(self, group: str, scores: Any, maps: Any, mask: Any) -> None:
        self.scores.setdefault(group, []).append(float(scores[0]))
        self.maps.setdefault(group, []).append(maps[0].copy())
        self.masks.setdefault(group, []).append(mask)

    def judged(self, groups: Sequence[str], is_anomalous: Callable[[Any], Any]) -> dict[str, Any]:
        """These groups together against the good pictures."""
        import numpy as np

        from flawscope import metrics

        scores = [s for group in groups for s in self.scores[group]]
        maps = [m for group in ("good", *groups) for m in self.maps[group]]
        masks = [m for group in ("good", *groups) for m in self.masks[group]]
        labels = np.array([False] * len(self.scores["good"]) + [True] * len(scores))
        image = metrics.image_metrics(labels, np.array(self.scores["good"] + scores))
        pixel = metrics.pixel_metrics(maps, masks)
        return {
            "image_auroc": common.sig(image.auroc),
            "image_auroc_of_maximum": common.sig(metrics.auroc(labels, [float(m.max()) for m in maps])),
            "image_ap": common.sig(image.ap),
            "pixel_auroc": common.sig(pixel.auroc),
            "pixel_ap": common.sig(pixel.ap),
            "au_pro": common.sig(pixel.au_pro),
            "above_threshold": common.sig(float(is_anomalous(np.array(scores)).mean()), 4),
            "images": len(scores),
        }


def ablation(args: Args, record: Record, folder: Path) -> None:
    from flawscope import config
    from flawscope.methods.prnet.config import PRESETS, Config

    settings = common.settings(args)
    size = config.build(Config, {**PRESETS[args.preset], **settings}).size
    rows = []
    seen, share = args.ablation_seen, args.tuning
    for category in args.categories.split(","):
        root = common.mvtec(args, category)
        if root is None:
            continue
        for seed in args.seeds:
            jobs = []
            for variant in args.variants.split(","):
                if variant == REFERENCE:
                    text = f"size={size}"
                    jobs.append((variant, peer_of(args, category, root, text, seed=seed, tuning=share)))
                    continue
                for words, rest, minutes in budgets(args, settings):
                    budget = (words, {**rest, **VARIANTS.get(variant, {})}, minutes)
                    altered = variant if variant in ALTERED else ""
                    more = {"seen": seen, "seed": seed, "tuning": share, "altered": altered}
                    job = learning(args, category, root, budget, **more)
                    jobs.append((variant, job))
            for variant, job in jobs:
                cell = judge(args, record, folder, variant, job, seed)
                if cell is None:
                    continue
                for which, found in cell["judges"].items():
                    keys = ("image_auroc", "image_auroc_of_maximum", "pixel_auroc", "pixel_ap", "au_pro")
                    values = (number(found[k]) for k in keys)
                    above = f"{found['above_threshold']:.1%}"
                    of = (category, seed, which, job.words, variant, cell["steps"])
                    rows.append((*of, *values, above, f"{cell['good']['above_threshold']:.1%}"))
    order = {which: k for k, which in enumerate(("synthetic", "small", "medium", "large", "seen", "real"))}
    rows.sort(key=lambda row: (row[0], row[1], order[row[2]], row[3]))  # the variants beneath each other
    header = ("category", "seed", "judge", "budget", "variant", "steps", "image AUROC", "of the maximum")
    more = ("pixel AUROC", "pixel AP", "AU-PRO", "found", "false alarms")
    common.table("without a part, judged on pictures kept from the training", rows, (*header, *more))


def judge(
    args: Args, record: Record, folder: Path, variant: str, job: Job, seed: int
) -> dict[str, Any] | None:
    drawn = f"{args.ablation_seen} drawn, {args.draws} a picture/seed {seed}"
    name = f"ablation/{job.category}/{variant}/{job.described}/{drawn}"
    if record.has(name):
        return record.cell(name, dict)
    model = train(args, record, folder, job)
    if model is None:
        return None

    def measure() -> dict[str, Any]:
        child = common.task(
            *(__file__, "judge"),
            model=model,
            root=job.root,
            tuning=job.tuning,
            seen=args.ablation_seen,
            seed=seed,
            draws=args.draws,
            device=job.device,
            threads=args.threads,
            altered=job.altered,
            good=job.good,
        )
        fitted = record.cells[job.name]
        return {
            **child.json,
            "steps": fitted.get("steps"),
            "seconds": fitted["seconds"],
            "settings": fitted["settings"],
        }

    return record.attempt(name, measure)


# ------------------------------------------------------------------------------------------ a training step


def trainer_for(
    root: str, count: int | None, seen: int, seed: int, settings: Settings, device: str
) -> Trainer:
    """A trainer as `fit` makes it, on the first good pictures, none of them held out."""
    import torch

    from flawscope import config
    from flawscope.datasets import open_dataset
    from flawscope.datasets.seen import draw_seen
    from flawscope.fitting.training_pictures import read_defects
    from flawscope.methods.picture_cache import GoodPictures
    from flawscope.methods.prnet.config import Config
    from flawscope.methods.prnet.feature_cache import Known
    from flawscope.methods.prnet.fit import find_prototypes
    from flawscope.methods.prnet.model import create
    from flawscope.methods.prnet.trainer import Trainer
    from flawscope.methods.prnet.training_pictures import Pictures
    from flawscope.pictures.preprocess import Preprocess
    from flawscope.progress import silent

    built = config.build(Config, settings)
    model, _ = create(built)
    model.to(torch.device(device))
    preprocess = Preprocess(built.sizes[-1], built.keep_aspect, built.crop)
    dataset = open_dataset(root)
    items = dataset.train[:count]
    load = lambda i: torch.from_numpy(preprocess(items[i].path)[0][0])  # noqa: E731
    images = GoodPictures(load, len(items), 2**30)
    learnt = images.read(silent)
    pairs: list[Any] = [(item.path, list(item.masks)) for item in draw_seen(dataset, seen, seed)]
    known = Known(model, images, learnt, 2**30)
    known.measure(silent)
    clusters = find_prototypes(built, known, silent)
    for scale, one in zip(model.scales, clusters, strict=True):
        scale.prototypes = one.prototypes.to(device)
    pictures = Pictures(built, images, learnt, read_defects(pairs, preprocess)[0])
    trainer = Trainer(model, pictures, known, clusters, lambda line: None, silent)
    for network in trainer.networks:
        network.train()
    return trainer


class Parts(Stepper):
    """Steps of a trainer, whole and in parts."""

    trainer: Any

    def __init__(self, trainer: Trainer):
        super().__init__(trainer)  # type: ignore[arg-type]
        self.backbone()
        self.residuals()

    def parts(self) -> dict[str, Work]:
        """In the order of a step: each goes on from what the one before it left."""
        found: dict[str, Work] = {"drawing": self.draw, "backbone": self.backbone}
        if self.trainer.config.residuals:
            found |= {"residuals": self.residuals, "residuals, expanded": self.expanded}
        return found | {"network": self.network, "optimiser": self.optimise}

    def backbone(self) -> None:
        import torch

        images = self.batch.images.to(self.trainer.device)
        with torch.no_grad(), self.trainer.autocast():
            self.maps = self.trainer.model.features(images)
        wait(self.trainer.device)

    def residuals(self) -> None:
        self.found = self.trainer._residuals(self.maps, self.batch)
        wait(self.trainer.device)

    def expanded(self) -> None:
        for scale, maps in zip(self.trainer.model.scales, self.maps, strict=False):
            expanded(maps, scale.prototypes, scale.std)
        wait(self.trainer.device)

    def network(self) -> None:
        """Forwards, loss, backwards."""
        from flawscope.methods.prnet.losses import loss

        trainer = self.trainer
        trainer.optimiser.zero_grad(set_to_none=True)
        with trainer.autocast():
            logits = trainer.model.network(trainer.model.standardised(self.maps), self.found)
        loss(logits.float(), self.batch.masks.to(trainer.device)).backward()
        wait(trainer.device)

    def optimise(self) -> None:
        self.trainer.optimiser.step()
        wait(self.trainer.device)

    def facts(self) -> dict[str, Any]:
        trainer = self.trainer
        return {
            "precision": trainer.precision,
            "batch": trainer.config.batch,
            "width": trainer.config.width,
            "attention": trainer.config.attention,
            "size": list(trainer.model.size),
            "parameters": sum(p.numel() for p in trainer.model.network.parameters()),
            "prototypes": [list(scale.prototypes.shape) for scale in trainer.model.scales],
            "seen_defects": len(trainer.pictures.seen),
        }


def wait(device: Any) -> None:
    """For what a GPU still has to do."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize()


def expanded(features: Tensor, prototypes: Tensor, std: Tensor) -> Tensor:
    """Residuals [B, C, H, W] as public code finds them: every picture against every prototype, element by
    element, B K maps at once."""
    import torch

    with torch.no_grad():
        b, k = len(features), len(prototypes)
        theirs = prototypes[None].expand(b, -1, -1, -1, -1)
        mine = features[:, None].expand(-1, k, -1, -1, -1)
        distances = (mine - theirs).square().sum((2, 3, 4)).sqrt()
        own = prototypes[distances.argmin(1)]
        return ((features - own) / std.view(-1, 1, 1)).square()


class Reference:
    """A step as one would write it."""

    def __init__(self, trainer: Trainer):
        import torch

        self.model = copy.deepcopy(trainer.model).to(memory_format=torch.contiguous_format)
        self.device, self.residuals = trainer.device, trainer.config.residuals
        self.optimiser = torch.optim.Adam(
            self.model.network.parameters(), trainer.config.rate, weight_decay=trainer.config.decay
        )
        self.batches = [trainer.batch(k) for k in range(4)]
        self.done = 0

    def __call__(self) -> float:
        import torch

        from flawscope.methods.prnet.losses import loss

        batch = self.batches[self.done % len(self.batches)]
        self.done += 1
        with torch.no_grad():
            maps = self.model.backbone(batch.images.to(self.device))
        residuals = []
        if self.residuals:
            scales = zip(self.model.scales, maps, strict=False)
            residuals = [expanded(own, scale.prototypes, scale.std) for scale, own in scales]
        logits = self.model.network(self.model.standardised(maps), residuals)
        value = loss(logits, batch.masks.to(self.device))
        self.optimiser.zero_grad()
        value.backward()
        self.optimiser.step()
        return float(value)


def task_steps(
    root: str,
    count: int | None,
    seen: int,
    seed: int,
    variants: dict[str, Settings],
    repeats: int,
    threads: int,
    device: str,
) -> dict[str, Any]:
    """Seconds of steps of several kinds, in turn, beside the plain reference, and of their parts."""
    import torch

    torch.set_num_threads(threads)
    steppers = {k: Parts(trainer_for(root, count, seen, seed, s, device)) for k, s in variants.items()}
    first = next(iter(steppers.values()))
    whole: dict[str, Work] = {"plain reference": Reference(first.trainer)}
    whole |= {name: stepper.whole for name, stepper in steppers.items()}
    times = common.rounds(whole, repeats, warm=2)
    parts = {
        f"{name}/{part}": work for name, stepper in steppers.items() for part, work in stepper.parts().items()
    }
    few = common.rounds(parts, max(2, repeats // 2), warm=1)
    reference = times["plain reference"]
    return {
        "seconds": {name: common.spread(t) for name, t in times.items()},
        "all": {name: [common.sig(x, 4) for x in t] for name, t in times.items()},
        "parts": {name: common.spread(t) for name, t in few.items()},
        "ratio": {name: common.paired(t, reference) for name, t in times.items()},
        "ratio_to": "plain reference",
        "facts": {name: stepper.facts() for name, stepper in steppers.items()},
        "threads": torch.get_num_threads(),
        "device": device,
        "peak_mib": common.own_peak() // common.MIB,
        "device_peak_mib": latencies._device_peak(device),
    }


def step(args: Args, record: Record, folder: Path) -> None:
    from flawscope.methods.prnet.config import PRESETS

    root = common.mvtec(args, args.category)
    where, seen = (args.category, args.step_seen) if root else ("drawn", 0)
    given = common.settings(args)
    own = {**PRESETS[args.preset], **given}
    variants = {name: {**own, "training": name} for name in ("fp32", "bf16")}
    label = (
        f"{where}/{common.label_of(given, args.preset)}, {seen} seen, {args.device}, {args.threads} threads"
    )
    if args.good:
        label += f", {args.good} pictures"

    def measure() -> dict[str, Any]:
        found = common.task(
            *(__file__, "steps"),
            root=root or common.draw(folder, 40, 256),
            count=args.good,
            seen=seen,
            seed=args.seeds[0],
            variants=variants,
            repeats=args.repeats,
            threads=args.threads,
            device=args.device,
        ).json
        return {**found, "settings": common.shown(given)}

    cell = record.attempt(f"step/{label}", measure)
    if cell is None:
        return
    rows = []
    for name, spent in cell["seconds"].items():
        rows.append((name, f"{1000 * spent['median']:.1f}", cell["ratio"][name], spent["repeats"]))
    common.table(f"a training step, {label}", rows, ("step", "ms", "/ reference", "repeats"))
    rows = []
    for name, spent in cell["parts"].items():
        kind, part = name.split("/")
        share = common.ratio(spent["median"], cell["seconds"][kind]["median"])
        rows.append((kind, part, f"{1000 * spent['median']:.1f}", f"{share:.1%}"))
    common.table("its parts; drawing goes on beside the others", rows, ("step", "part", "ms", "of the whole"))


# ------------------------------------------------------------------------------------------------- latency


def task_backbone(model: str, out: str) -> None:
    """The backbone alone as a graph."""
    import torch

    from flawscope.export import onnx_graph

    own: Any = common.open_model(model, "cpu").session.model  # type: ignore[attr-defined]
    own.for_export()
    example = torch.zeros(2, 3, *own.size)
    names = [f"stage{k}" for k in own.config.stages]
    proto = onnx_graph._traced(onnx_graph.Traced(own, "features"), example, "images", names)
    Path(out).write_bytes(proto.SerializeToString())


def task_engine(
    model: str,
    backbone: str | None,
    runtime: str,
    precision: str,
    pictures: list[str],
    repeats: int,
    threads: int,
) -> dict[str, Any]:
    """Seconds of a session's `run` for one picture and of the backbone alone, interleaved; in torch of the
    other parts too."""
    import torch

    predictor = common.open_model(model, "cpu", threads)
    session = predictor.session
    images = predictor.manifest.preprocess(pictures[0])[0]
    works: dict[str, Work] = {"run": lambda: session.run(images)}
    if runtime == "torch":
        works |= torch_parts(session.model, torch.from_numpy(images))  # type: ignore[attr-defined]
    elif backbone:
        works["backbone"] = networks_in(runtime, backbone, precision, images, threads)
    times = common.rounds(works, repeats, warm=3, pause=latencies.REST)
    found: dict[str, Any] = {
        "seconds": {name: common.spread(t) for name, t in times.items()},
        "threads": torch.get_num_threads(),
    }
    if "backbone" in times:
        found["run / backbone"] = common.paired(times["run"], times["backbone"])
    return found


def torch_parts(model: Any, images: Tensor) -> dict[str, Work]:
    """The detector's parts, each on what the one before it gives."""
    import torch

    from flawscope.methods.prnet.model import DTYPES

    dtype = DTYPES.get(model.config.precision)

    def within(work: Work) -> Work:
        def run() -> object:
            with torch.inference_mode(), torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
                return work()

        return run

    def residuals() -> list[Tensor]:
        return [scale.residuals(m) for scale, m in zip(model.scales, maps, strict=False)]

    maps: Any = within(lambda: model.features(images))()
    found: Any = within(residuals)()
    logits: Any = within(lambda: model.logits(maps, found))()
    works: dict[str, Work] = {"backbone": lambda: model.features(images)}
    if model.config.residuals:
        works["residuals"] = residuals
    works |= {
        "network": lambda: model.logits(maps, found),
        "score": lambda: model.score(logits[:, 0].float()),
    }
    return {name: within(work) for name, work in works.items()}


def latency(args: Args, record: Record, folder: Path) -> None:
    given = common.settings(args)
    label = args.model.stem if args.model else common.label_of(given)
    few = [] if "steps" in given else [f"steps={args.latency_steps}"]
    own = argparse.Namespace(**{**vars(args), "method": "prnet", "set": [*args.set, *few]})
    place = folder / f"latency-{common.slug(label)}"
    place.mkdir(exist_ok=True)
    subject = latencies.Subject(own, place)
    rows = []
    for runtime, precision in common.combinations(args):
        name = f"latency/{subject.label}/{label}, {args.threads} threads/{runtime} {precision}"

        def measure(runtime: str = runtime, precision: str = precision) -> dict[str, Any]:
            return engine_cell(args, subject, runtime, precision)

        cell = record.attempt(name, measure)
        if cell is None:
            continue
        keys = ("predict", "run", "backbone", "residuals", "network", "score")
        times = (f"{1000 * cell['seconds'][k]['median']:.2f}" if k in cell["seconds"] else "-" for k in keys)
        size = (cell["peak_mib"], cell["file_mib"])
        rows.append((f"{runtime} {precision}", *times, cell.get("run / backbone", "-"), *size))
    header = ("runtime", "predict ms", "run ms", "backbone", "residuals", "network", "score")
    more = ("run / backbone", "peak MiB", "file MiB")
    common.table(f"one picture of {subject.label}, {args.threads} threads", rows, (*header, *more))


def engine_cell(args: Args, subject: latencies.Subject, runtime: str, precision: str) -> dict[str, Any]:
    model = subject.file(runtime, precision)
    if model is None:
        raise SystemExit(f"there is no {runtime} model of {precision}")
    backbone: Path | None = None
    if runtime != "torch" and precision in ("fp32", "bf16"):  # bf16 is the fp32 graph, computed otherwise
        backbone = subject.trained.with_name(f"{subject.trained.stem}-backbone.onnx")
        if not backbone.is_file():
            common.task(__file__, "backbone", model=subject.trained, out=backbone)
    same = {"model": model, "pictures": subject.pictures, "repeats": args.repeats, "threads": args.threads}
    found = common.task(
        *(__file__, "engine"), **same, backbone=backbone, runtime=runtime, precision=precision
    ).json
    child = common.task(latencies.__file__, "predict", **same, batch=1, device="cpu", stream=False)
    found["seconds"]["predict"] = common.spread(child.json["seconds"])

    from flawscope.artefact.model_file import read_manifest

    manifest = read_manifest(subject.trained)
    return {
        **found,
        "peak_mib": child.peak // common.MIB,
        "file_mib": common.sig(common.file_size(model) / common.MIB, 4),
        "trained_steps": manifest.facts["steps"],
        "prototypes": [one["count"] for one in manifest.facts["prototypes"]],
        "config": {k: manifest.config[k] for k in ("size", "width", "attention", "residuals")},
    }


# ---------------------------------------------------------------------------------------------- prototypes

CLUSTERINGS: dict[str, dict[str, Any]] = {
    "flawscope": {},
    "scikit-learn, 10 restarts": {"n_init": 10},  # what KMeans did by default when the paper was written
    "scikit-learn, 1 restart": {"n_init": 1},  # and does now
}


def task_maps(root: str, settings: Settings, count: int | None, folder: str, threads: int) -> dict[str, Any]:
    """The good pictures' maps of the three scales, fp16, one after another in a file per scale."""
    import torch

    torch.set_num_threads(threads)
    trainer = trainer_for(root, count, 0, 0, settings, "cpu")
    known, files, shapes = trainer.known, [], []
    for scale, shape in enumerate(trainer.model.shapes[:-1]):
        path = Path(folder) / f"maps-{scale}.fp16"
        with path.open("wb") as file:
            for place in range(len(known.learnt)):
                file.write(known[place][scale].numpy().tobytes())
        files.append(str(path))
        shapes.append(list(shape))
    return {"files": files, "shapes": shapes, "pictures": len(known.learnt)}


def task_cluster(
    file: str, shape: list[int], pictures: int, options: dict[str, Any], threads: int
) -> dict[str, Any]:
    """K-means of the maps in a file: by scikit-learn with `options`, or by flawscope if there are none."""
    import numpy as np
    import torch

    from flawscope.methods.prnet.prototypes import cluster, prototypes_for

    torch.set_num_threads(threads)
    length = math.prod(shape)

    def read(place: int) -> np.ndarray:
        return np.fromfile(file, np.float16, length, offset=2 * length * place)

    count = prototypes_for(pictures)
    if options:
        from sklearn.cluster import KMeans
        from threadpoolctl import threadpool_limits

        before, start = common.own_peak(), time.perf_counter()
        points = np.fromfile(file, np.float16).reshape(pictures, length).astype(np.float32)
        with threadpool_limits(threads):
            fitted = KMeans(n_clusters=count, random_state=0, **options).fit(points)
        took, peak = time.perf_counter() - start, common.own_peak()
        centres, iterations = fitted.cluster_centers_, int(fitted.n_iter_)
    else:

        def load(numbers: Tensor) -> Tensor:
            return torch.from_numpy(np.stack([read(int(k)) for k in numbers])).view(-1, *shape)

        before, start = common.own_peak(), time.perf_counter()
        found = cluster(load, pictures)
        took, peak = time.perf_counter() - start, common.own_peak()
        centres, iterations = found.prototypes.flatten(1).numpy(), found.iterations
    centres = centres.astype(np.float64)
    objective = sum(float(((centres - read(k)) ** 2).sum(1).min()) for k in range(pictures))
    return {
        "seconds": took,
        "above_start_mib": (peak - before) / common.MIB,
        "objective": objective,
        "iterations": iterations,
        "count": len(centres),
    }


def prototypes(args: Args, record: Record, folder: Path) -> None:
    settings = {k: v for k, v in common.settings(args).items() if k != "steps"}
    rows = []
    for category in args.categories.split(","):
        root = common.mvtec(args, category)
        if root is None:
            continue
        made: dict[str, Any] = {}
        label = common.label_of(settings) + (f", {args.good} pictures" if args.good else "")
        place = folder / common.slug(f"maps-{category}-{label}")
        for scale in range(3):

            def measure(
                scale: int = scale,
                root: Path = root,
                made: dict[str, Any] = made,
                place: Path = place,
            ) -> dict[str, Any]:
                if not made:
                    place.mkdir(exist_ok=True)
                    given: Settings = {"settings": settings, "count": args.good, "threads": args.threads}
                    made.update(common.task(__file__, "maps", root=root, folder=place, **given).json)
                same = {"file": made["files"][scale], "shape": made["shapes"][scale]}
                return clusterings(args, same | {"pictures": made["pictures"]})

            name = f"prototypes/{category}/{label}, {args.threads} threads/scale {scale}"
            cell = record.attempt(name, measure)
            if cell is None:
                continue
            for which in CLUSTERINGS:
                found = cell[which]
                ours = cell["flawscope"]["objective"]
                shape = "x".join(map(str, cell["shape"]))
                of = (category, shape, cell["pictures"], found["count"], which)
                times = (common.short(found["seconds"]["median"]), found["ratio"])
                memory = f"{found['above_start_mib']:.0f}"
                worse = f"{found['objective'] / ours - 1:+.3%}"
                rows.append((*of, *times, memory, f"{found['objective']:.6g}", worse, found["iterations"]))
        with contextlib.suppress(OSError):
            for file in made.get("files", []):  # hundreds of MiB, quickly made again
                Path(file).unlink()
            place.rmdir()
    header = ("category", "map", "pictures", "K", "by", "seconds", "/ flawscope", "MiB above start")
    common.table("k-means of whole maps", rows, (*header, "objective", "to flawscope's", "iterations"))


def clusterings(args: Args, same: dict[str, Any]) -> dict[str, Any]:
    """All of them in every round."""
    turns: dict[str, list[Any]] = {name: [] for name in CLUSTERINGS}
    peaks = dict.fromkeys(CLUSTERINGS, 0)
    for _ in range(args.rounds):
        for name, options in CLUSTERINGS.items():
            child = common.task(__file__, "cluster", **same, options=options, threads=args.threads)
            turns[name].append(child.json)
            peaks[name] = max(peaks[name], child.peak // common.MIB)
    ours = [turn["seconds"] for turn in turns["flawscope"]]
    found: dict[str, Any] = {k: same[k] for k in ("shape", "pictures")}
    for name, several in turns.items():
        times = [turn["seconds"] for turn in several]
        found[name] = {
            "seconds": common.summary(times),
            "ratio": common.paired(times, ours),
            "above_start_mib": round(statistics.median(turn["above_start_mib"] for turn in several), 1),
            "process_peak_mib": peaks[name],
            "objective": several[0]["objective"],
            "objective_of_all": sorted({turn["objective"] for turn in several}),
            "iterations": several[0]["iterations"],
            "count": several[0]["count"],
        }
    return found


# ---------------------------------------------------------------------------------------------------- main

SECTIONS: dict[str, Callable[[Args, Record, Path], None]] = {
    "accuracy": accuracy,
    "curve": curve,
    "ablation": ablation,
    "step": step,
    "latency": latency,
    "prototypes": prototypes,
}
TASKS: dict[str, Callable[..., Any]] = {
    "train": task_train,
    "test": task_test,
    "judge": task_judge,
    "steps": task_steps,
    "backbone": task_backbone,
    "engine": task_engine,
    "maps": task_maps,
    "cluster": task_cluster,
}


def several_minutes(text: str) -> list[float]:
    return [float(word) for word in text.split(",")]


def main() -> int:
    parser = common.parser(__doc__, "prnet")
    common.add_settings(parser)
    common.add_runtimes(parser)
    parser.set_defaults(precisions="fp32,bf16")
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, by default all")
    parser.add_argument("--preset", default="default", help="of every training")
    parser.add_argument("--categories", default=",".join(common.CATEGORIES), help="default: %(default)s")
    parser.add_argument("--category", default="transistor", help="of step and latency")
    parser.add_argument("--methods", default="prnet,patchcore", help="of accuracy (default: %(default)s)")
    parser.add_argument("--patchcore", default="default,size=256", help="default, or KEY=VALUE, of accuracy")
    parser.add_argument("--seen", type=common.numbers, default=[0, 10], help="of accuracy (default: 0,10)")
    parser.add_argument("--curve-seen", type=int, default=10, help="of curve (default: %(default)s)")
    parser.add_argument("--ablation-seen", type=int, default=10, help="half are learnt, half judged with")
    parser.add_argument("--step-seen", type=int, default=10, help="of step (default: %(default)s)")
    parser.add_argument("--seeds", type=common.numbers, default=[0], help="default: 0")
    parser.add_argument("--steps", type=common.several_steps, help="one training each: 500,1000,default")
    parser.add_argument("--minutes", type=several_minutes, help=f"one training each (default: {MINUTES:g})")
    parser.add_argument("--full", action="store_true", help="pixel figures at the pictures' size too")
    parser.add_argument("--false-alarm-rate", type=float, help="of accuracy (default: flawscope's)")
    parser.add_argument("--variants", default=",".join((*VARIANTS, *ALTERED, REFERENCE)), help="of ablation")
    parser.add_argument("--tuning", type=float, default=0.2, help="share of the good pictures for the judges")
    parser.add_argument("--draws", type=int, default=2, help="defects of a kind and picture kept, for judges")
    parser.add_argument("--device", default="cpu", help="of trainings and step")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="default: %(default)s")
    parser.add_argument("--repeats", type=int, default=20, help="of steps and of single pictures")
    parser.add_argument("--rounds", type=int, default=3, help="of whole processes of prototypes")
    parser.add_argument("--good", type=int, help="the first good pictures only")
    parser.add_argument("--pictures", type=int, default=16, help="of latency, different ones")
    parser.add_argument("--model", type=Path, help="of latency")
    parser.add_argument("--latency-steps", type=int, default=20, help="where no --model is given")
    parser.add_argument("--work", type=Path, help="keep models, exports and checkpoints here")
    args = parser.parse_args()
    if args.task:
        return common.run_task(args.task, TASKS)
    for given, known in (
        (args.only, SECTIONS),
        (args.variants, (*VARIANTS, *ALTERED, REFERENCE)),
        (args.methods, ("prnet", "patchcore")),
    ):
        unknown = set(given.split(",")) - set(known)
        if unknown:
            parser.error(f"choose of {', '.join(known)}, not {', '.join(sorted(unknown))}")
    record = Record(args, "PRN from outside", {})
    common.headline("PRN")
    with common.workspace(args.work) as folder:
        for name in args.only.split(","):
            SECTIONS[name](args, record, folder)
    return 1 if record.failures else 0


if __name__ == "__main__":
    sys.exit(main())
