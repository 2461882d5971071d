"""Chooses `--align auto`: the alignment that brings left-out good parts nearer and makes defects clearer.

A small PatchCore, whatever method is fitted, learns from some good pictures, unaligned and aligned, and
scores the others, good and with simulated defects. The reference for poses is learnt from the same pictures
as the PatchCore, so that it does not know the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flawscope.errors import InputError, pluralize
from flawscope.methods import registry
from flawscope.methods.detector import embed_pictures
from flawscope.methods.task import Task
from flawscope.pictures.levels import Levels
from flawscope.progress import ProgressCallback
from flawscope.synthesis import DefectScale, Foreground, simulate_defect
from flawscope.views import congealing
from flawscope.views.pose import PoseKind
from flawscope.views.preprocess import Preprocess

KINDS: tuple[PoseKind, ...] = ("shift", "turn")  # the simplest first
MAX_LEARNT, MAX_HELD_OUT = 24, 16  # pictures learnt from, and left out
MIN_PICTURES = 12  # of both together
MAX_SIDE = 512  # pixels that pictures are reduced to
SIZE = 128  # pixels a side that the network sees
BANK_SIZE = 2000  # elements
MIN_DISTANCE_GAIN = 0.03  # share by which the median score of left-out good pictures must fall
MIN_AUROC_GAIN = 0.02  # by which the AUROC must rise; among kinds within half of it the simplest is chosen
STREAM = 38  # of random numbers: part of their seed
Pixels = NDArray[np.uint8]


class Trial(NamedTuple):
    """Median score of left-out good pictures, and AUROC of simulated defects of all sizes against them."""

    kind: PoseKind | None
    score: float
    auroc: float


@dataclass(frozen=True)
class AlignmentTask:
    """Good pictures by which the alignment is chosen.

    decode_picture: gives picture i as `decode` does, or None where it cannot be read.
    count: how many there are. levels: of deep ones.
    """

    decode_picture: Callable[[int], NDArray[Any] | None]
    count: int
    device: torch.device
    levels: Levels | None
    step: ProgressCallback


def choose_alignment(seed: int, task: AlignmentTask, groups: Sequence[int]) -> tuple[PoseKind | None, str]:
    """Chooses how parts are aligned, None: not at all; with a line that gives the numbers.

    Args:
        groups: of every picture; a group is left out as a whole.
    """
    learnt, held_out = _split_pictures(seed, task, groups)
    if (
        len(learnt) + len(held_out) < MIN_PICTURES
        or len(learnt) < congealing.MIN_REFERENCE_PICTURES
        or not held_out
    ):
        few = pluralize(len(learnt) + len(held_out), "good picture")
        return None, f"align auto: none, since {few} are too few to choose by"
    part = Foreground.of(learnt)
    shown = [*held_out, *(_add_defects(held_out, part, seed))]
    trials: list[Trial] = []
    for kind in (None, *KINDS):
        small = Preprocess((SIZE, SIZE))
        try:
            reference = (
                None if kind is None else congealing.learn_reference([*map(small.small, learnt)], kind)
            )
        except InputError:  # no part that is found in most pictures
            continue
        seen = replace(small, reference=reference)
        trials.append(_run_trial(seen, kind, learnt, shown, len(held_out), seed, task))
    plain, *aligned = trials
    if not aligned:
        return None, "align auto: none, since the good pictures show no part that is found in most of them"
    closer = [one for one in aligned if one.score <= (1 - MIN_DISTANCE_GAIN) * plain.score]
    clearer = [one for one in closer if one.auroc >= plain.auroc + MIN_AUROC_GAIN]
    best = max((one.auroc for one in clearer), default=0.0)
    chosen = next((one for one in clearer if one.auroc >= best - MIN_AUROC_GAIN / 2), plain)
    numbers = "; ".join(
        f"{one.kind or 'none'} {one.auroc:.3f}"
        + (f", good ones at {one.score / max(plain.score, 1e-12):.0%} of the distance" if one.kind else "")
        for one in trials
    )
    left = pluralize(len(held_out), "left-out good picture")
    return chosen.kind, (
        f"align auto: {chosen.kind or 'none'}; image AUROC on {left}, with and without simulated defects: "
        f"{numbers}"
    )


def _split_pictures(
    seed: int, task: AlignmentTask, groups: Sequence[int]
) -> tuple[list[Pixels], list[Pixels]]:
    """Pictures to learn from, and to leave out, in whole groups; drawn by the seed."""
    rng, numbers = np.random.default_rng([seed, STREAM]), np.asarray(groups)
    order = [i for group in rng.permutation(np.unique(numbers)) for i in np.flatnonzero(numbers == group)]
    order = order[: MAX_LEARNT + MAX_HELD_OUT]
    first = len(order) - min(MAX_HELD_OUT, len(order) // 3)
    held_out = numbers[order[first:]]
    found: tuple[list[Pixels], list[Pixels]] = ([], [])
    for i in order:
        if (picture := task.decode_picture(int(i))) is not None:
            found[bool(np.isin(numbers[i], held_out))].append(_downscale(picture, task.levels))
    return found


def _downscale(picture: NDArray[Any], levels: Levels | None) -> Pixels:
    """The picture [h, w, 3], its longer side at most `MAX_SIDE` pixels."""
    height, width = picture.shape[:2]
    scale = min(1.0, MAX_SIDE / max(height, width))
    size = max(16, round(height * scale)), max(16, round(width * scale))
    planes = Preprocess.of_levels(levels, size=size)(picture)[0][0]
    return np.asarray(np.rint(planes.transpose(1, 2, 0) * 255).clip(0, 255), np.uint8)


def _add_defects(pictures: Sequence[Pixels], part: Foreground, seed: int) -> Iterator[Pixels]:
    """Every picture with a defect of each scale, on the part."""
    for k, picture in enumerate(pictures):
        within = part.mask(picture)
        for j, scale in enumerate(DefectScale):
            rng = np.random.default_rng([seed, STREAM, k, j])
            yield simulate_defect(picture, rng, scale=scale, foreground=within).picture


def _run_trial(
    preprocess: Preprocess,
    kind: PoseKind | None,
    learnt: Sequence[Pixels],
    shown: Sequence[Pixels],
    good: int,
    seed: int,
    task: AlignmentTask,
) -> Trial:
    """Fits a small PatchCore, and scores the pictures `shown`: first the `good` ones, then the defective."""
    method = registry.method("patchcore")
    config = method.configure(values={"size": str(SIZE), "count": BANK_SIZE, "augment": "none", "seed": seed})
    model, _ = method.create(replace(config, masked=kind is not None), None)
    model = model.to(task.device)
    quiet: ProgressCallback = lambda stage, done, total: task.step(f"align: {kind or 'none'}", done, total)  # noqa: E731

    def load(picture: Pixels) -> Tensor | None:
        views = preprocess.views(picture)
        return torch.from_numpy(views.images([0])[0]) if not views.unusable else None

    count = len(learnt)
    method.fit(
        model, Task(lambda i: load(learnt[i]), range(count), rate=0.05, calibration_pictures=1, step=quiet)
    )
    scores = np.full(len(shown), np.inf)  # of pictures without the part

    def store(index: int, features: Tensor, inside: Tensor | None) -> None:
        scores[index] = float(model.score(features[None], None if inside is None else inside[None])[0])

    embed_pictures(model, lambda i: load(shown[i]), range(len(shown)), store, quiet)
    good_scores, defective_scores = scores[:good], scores[good:, None]
    auroc = float(((defective_scores > good_scores).mean() + (defective_scores >= good_scores).mean()) / 2)
    return Trial(kind, float(np.median(good_scores)), auroc)
