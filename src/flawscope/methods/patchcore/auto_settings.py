"""Settings that are `auto`, decided by the good pictures, since test pictures must not decide.

`--size auto`: does a second, finer look at the picture find more defects in this product? Synthetic defects
of three scales are put on good pictures that were held out, and the sizes are compared by how well they tell
them from the good ones.

`--positions auto`: are left-out tiles nearer to banks of their own places than to a shared one?
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from flawscope.errors import InputError, pluralize
from flawscope.methods.extract import embed_pictures
from flawscope.methods.features.backbone import Backbone, load_backbone
from flawscope.methods.patchcore import Config, coreset
from flawscope.methods.patchcore.bank_selection import bank_size
from flawscope.methods.patchcore.fit import fit
from flawscope.methods.patchcore.leave_one_out import nearest_distance
from flawscope.methods.patchcore.model import Model
from flawscope.methods.patchcore.patches import FitJob, collect_patches, to_grid
from flawscope.methods.settings import PATCH_SIZE_IN_NAME
from flawscope.methods.task import AutoSettingsTask, Task
from flawscope.metrics import auroc
from flawscope.pictures.preprocess import Preprocess
from flawscope.pictures.roi import read_roi
from flawscope.synthesis import DefectScale, Foreground, simulate_defect
from flawscope.synthesis.masks import bounding_box

CANDIDATE_SIDES = (256, 384, 512)
# The smallest is always in. Synthetic defects are local, and by them alone the finest size wins nearly
# everywhere, although parts that are bent or out of place need a coarse look (docs/decisions/0007).
CANDIDATES = ((256,), (256, 384), (256, 512))
MAX_LEARNT, MAX_HELD_OUT, MIN_PICTURES = 40, 20, 12  # pictures; the last one altogether
TRIAL_SIDE = 1024  # pixels that trial pictures are reduced to
TRIAL_BANK_SIZE = 4000  # elements of each size's trial bank
MARGIN = 0.01  # a cheaper size wins if it is this close to the best
RNG_STREAM = 62
COMPARED_POSITIONS = 8  # compared by `prefers_own_banks`
COMPARED_PICTURES = 16  # whose tiles at those places are compared
Pixels = NDArray[Any]


def choose(config: Config, undecided: AutoSettingsTask) -> Config:
    """The settings with `size`, or, where there is a detector, with `positions` decided."""
    if undecided.model is None or undecided.task is None:
        return replace(config, size=choose_size(config, undecided))
    assert isinstance(undecided.model, Model)
    each = prefers_own_banks(undecided.model, undecided.task)
    return replace(config, positions="each" if each else "shared")


# ------------------------------------------------------------------------------------------------------ size


class Sample(NamedTuple):
    """A good picture [H, W, 3] to try sizes on; a side of the user's picture is `reduced` times as long."""

    pixels: Pixels
    reduced: float


@dataclass(frozen=True)
class Trial:
    """A candidate and its image AUROC on small, medium and large synthetic defects."""

    sizes: tuple[int, ...]
    by_scale: tuple[float, ...]

    @property
    def auroc(self) -> float:
        """The mean over the scales."""
        return float(np.mean(self.by_scale))

    @property
    def name(self) -> str:
        return "+".join(map(str, self.sizes))

    @property
    def cost(self) -> int:
        return sum(size * size for size in self.sizes)


def choose_size(config: Config, task: AutoSettingsTask) -> str:
    """Choose the best `size` by simulated defects in the region of interest, and say why in one line."""
    if PATCH_SIZE_IN_NAME.match(config.backbone):
        raise InputError(f"size: auto is for convolutional backbones: give --size for {config.backbone}")
    backbone, _ = load_backbone(config.backbone, config.stages, config.sizes[-1], config.weights)
    backbone = backbone.to(task.device)
    if backbone.fixed:
        raise InputError(f"backbone {backbone.name} takes one picture size only: give --size instead of auto")
    pictures = draw_samples(task.decode_picture, task.count, config.seed)
    default = Config().size
    few = len(pictures) < MIN_PICTURES
    if few or any(p.pixels.dtype != np.uint8 for p in pictures):
        why = f"only {pluralize(len(pictures), 'picture')}" if few else "deep pictures"
        task.say(f"size {default}, the default: too little to choose by ({why})")
        return default
    shorter = min(round(min(p.pixels.shape[:2]) * p.reduced) for p in pictures)
    sizes = tuple(s for s in CANDIDATE_SIDES if s <= shorter) or CANDIDATE_SIDES[:1]
    if len(sizes) == 1:
        task.say(
            f"size {sizes[0]}: the pictures are {shorter} px on their shorter side, larger ones add nothing"
        )
        return str(sizes[0])
    count = min(MAX_HELD_OUT, len(pictures) // 3)
    held, learnt = pictures[:count], [p.pixels for p in pictures[count:]]
    defects, smallest = simulate_defects(config, held, learnt, task)
    shown = [*(p.pixels for p in held), *defects]
    candidates = [c for c in CANDIDATES if set(c) <= set(sizes)]
    trials = [try_sizes(c, config, backbone, learnt, shown, count, task) for c in candidates]
    best = max(trials, key=lambda trial: trial.auroc)
    chosen = min((t for t in trials if t.auroc >= best.auroc - MARGIN), key=lambda trial: trial.cost)
    others = ", ".join(f"{t.name} {t.auroc:.3f}" for t in trials if t is not chosen)
    line = (
        f"size {chosen.name}: image AUROC {chosen.auroc:.3f} on {pluralize(count, 'good picture')} held "
        f"out, with {len(defects)} synthetic defects ({others}; the cheapest within {MARGIN} of the best)"
    )
    if any(p.reduced > 1 for p in pictures):  # smaller defects were not simulated
        line += (
            f"; judged by simulated defects of {smallest:.0f} px and more in these pictures; "
            "smaller ones: --min-defect"
        )
    task.say(line)
    return chosen.name


def draw_samples(decoded: Callable[[int], Pixels | None], count: int, seed: int) -> list[Sample]:
    """Up to `MAX_LEARNT` + `MAX_HELD_OUT` pictures, drawn by the seed; the first are to be held out."""
    order = np.random.default_rng(seed).permutation(count)[: MAX_LEARNT + MAX_HELD_OUT]
    return [_reduce(p) for p in (decoded(int(i)) for i in order) if p is not None]


def _reduce(picture: Pixels) -> Sample:
    """Reduce a picture to `TRIAL_SIDE` pixels: twice the largest size shows all that a size can see."""
    height, width = picture.shape[:2]
    reduced = max(height, width) / TRIAL_SIDE
    if reduced <= 1 or picture.dtype != np.uint8:
        return Sample(np.ascontiguousarray(picture), 1.0)
    size = (max(1, round(width / reduced)), max(1, round(height / reduced)))
    image = Image.fromarray(np.ascontiguousarray(picture)).resize(size, Image.Resampling.BOX)
    return Sample(np.asarray(image), reduced)


def simulate_defects(
    config: Config, held: Sequence[Sample], learnt: Sequence[Pixels], task: AutoSettingsTask
) -> tuple[list[Pixels], float]:
    """Put a defect of each scale on every picture held out, on the part and in the region of interest.
    Return these pictures, and the longer side of the smallest defect in pixels of the user's pictures."""
    foreground, defects, smallest = Foreground.of(learnt), [], float("inf")
    for k, (picture, reduced) in enumerate(held):
        within = foreground.mask(picture)
        if task.roi is not None:
            preprocess = Preprocess((CANDIDATE_SIDES[-1],) * 2, config.keep_aspect, None, task.white_level)
            geometry = preprocess.geometry((picture.shape[0], picture.shape[1]))
            inside = geometry.warp_mask(read_roi(task.roi, preprocess))
            within = within & inside if (within & inside).any() else inside
        for j, scale in enumerate(DefectScale):
            rng = np.random.default_rng([config.seed, k, j])
            made = simulate_defect(picture, rng, scale=scale, foreground=within)
            defects.append(made.picture)
            sides = bounding_box(made.mask)
            smallest = min(smallest, reduced * max(side.stop - side.start for side in sides))
    return defects, smallest


def try_sizes(
    sizes: tuple[int, ...],
    config: Config,
    backbone: Backbone,
    learnt: Sequence[Pixels],
    shown: Sequence[Pixels],
    held: int,
    task: AutoSettingsTask,
) -> Trial:
    """Fit a model of these sizes and measure how well it tells good pictures from defective ones. `shown`:
    uint8, first those held out, then the same with a defect of each scale in turn."""
    trial = replace(config, size="+".join(map(str, sizes)), count=TRIAL_BANK_SIZE, memory=None)
    preprocess = Preprocess(trial.sizes[-1], trial.keep_aspect, None, task.white_level)
    region = None if task.roi is None else torch.from_numpy(read_roi(task.roi, preprocess))
    model = Model(trial, backbone, region).to(backbone.mean.device)

    def tensors(pictures: Sequence[Pixels]) -> Callable[[int], Tensor]:
        return lambda i: torch.from_numpy(preprocess.from_array(pictures[i])[0][0])

    def step(stage: str, done: int, total: int) -> None:
        task.step(f"choosing a size: {trial.size}", done, total)

    fit(model, Task(tensors(learnt), len(learnt), rate=0.05, step=step))
    scores = np.zeros(len(shown))

    def store(index: int, features: Tensor, inside: Tensor | None) -> None:
        scores[index] = float(model.score(features[None], None if inside is None else inside[None])[0])

    embed_pictures(model, tensors(shown), range(len(shown)), store, step)
    good, bad = scores[:held], scores[held:].reshape(held, -1)
    labels = np.repeat([False, True], held)
    return Trial(sizes, tuple(float(auroc(labels, np.concatenate([good, column]))) for column in bad.T))


# ------------------------------------------------------------------------------------------------- positions


def prefers_own_banks(model: Model, task: Task) -> bool:
    """Decide whether left-out tiles are nearer to banks of their own places than to a shared one.

    A place's bank is selected from a part of the shared bank's patches, so defects are no nearer to it; the
    question is whether good tiles are. At some places half of the pictures are compared with the other half:
    by the bank of their place, and by one for all these places that is as dense as a shared one.
    """
    assert task.tile_positions is not None
    job, where = FitJob(model, replace(task, settle=list)), np.asarray(task.tile_positions.position_of)
    rng = np.random.default_rng([job.config.seed, RNG_STREAM])
    tiles, groups = np.unique(where[where > 0]), np.asarray(task.groups)
    places = np.sort(rng.permutation(tiles)[:COMPARED_POSITIONS])
    chosen = rng.permutation(np.unique(groups))[:COMPARED_PICTURES]
    numbers = np.flatnonzero(np.isin(where, places) & np.isin(groups, chosen)).tolist()
    patches = collect_patches(job, numbers, "places")
    lying, group = where[patches.numbers], groups[patches.numbers]

    def points(rows: Any, v: int) -> Tensor:
        return patches.select(np.flatnonzero(rows).tolist()).points(v)[0]

    def highest(rows: Any, v: int, bank: Tensor) -> list[float]:
        """The largest value of each tile's map."""
        left, centre, view = patches.select(np.flatnonzero(rows).tolist()), bank.mean(0), job.views[v]
        away = left.scatter_values(v, nearest_distance(left.points(v)[0] - centre, bank - centre))
        drawn = (view.anomaly_map(view.map_values(to_grid(one, view.inside.bool()))[None]) for one in away)
        return [float(one.max()) for one in drawn]

    found: list[tuple[float, float]] = []
    for half in (chosen[::2], chosen[1::2]):
        learnt = np.isin(group, half)
        for v in range(len(job.views) if learnt.any() else 0):
            part = points(learnt, v)
            whole = bank_size(job.config, v, len(part) * len(tiles) // len(places))
            common = _select_bank(part, whole * len(places) // len(tiles))
            for place in places:
                here, left = learnt & (lying == place), ~learnt & (lying == place)
                if here.any() and left.any():
                    part = points(here, v)
                    near = _select_bank(part, bank_size(job.config, v, len(part), len(tiles)))
                    found += zip(highest(left, v, near), highest(left, v, common), strict=True)
    if not found:
        return False
    of_own, of_shared = np.mean(found, axis=0).tolist()
    which, count = "each" if of_own < of_shared else "shared", pluralize(len(found), "left-out tile")
    task.say(
        f"positions: {which}, since {count} are {of_own:.4g} away from banks of their own places, "
        f"{of_shared:.4g} from a shared one"
    )
    return which == "each"


def _select_bank(points: Tensor, count: int) -> Tensor:
    return points[coreset.select(points, max(1, min(count, len(points)))).indices]
