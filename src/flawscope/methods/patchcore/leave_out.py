"""Calibration that spends no good picture: each one against the banks as if it had never been there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from flawscope.calibration.decision import fence
from flawscope.methods.patchcore import coreset
from flawscope.methods.patchcore.loo_bank import Selection
from flawscope.methods.patchcore.memory_bank import View
from flawscope.methods.patchcore.model import Model
from flawscope.methods.patchcore.selection import Job, Patches
from flawscope.methods.threads import workers
from flawscope.progress import Advance


@dataclass(frozen=True)
class Raw:
    """A picture that was left out: every view's image score and patch distances [P], and the pixels [H, W]
    that count (None: the region of interest)."""

    scores: list[Tensor]
    distances: list[Tensor]
    inside: Tensor | None


@dataclass(frozen=True)
class Good:
    """What calibration needs of the good pictures, [N] each, the score beyond which one is suspicious, and
    the pictures as they were left out."""

    scores: np.ndarray
    maxima: np.ndarray
    medians: np.ndarray
    fence: float
    raw: list[Raw]


def leave_one_out(
    job: Job,
    patches: Patches,
    selections: list[Selection],
    results: list[coreset.Coreset],
    chosen: Sequence[int],
) -> Good:
    """These of the pictures against the banks as if their own groups had never been there."""
    distances = to_others(patches, results)
    advance = Advance(job.task.step, "leave-one-out", len(chosen))

    def raw(i: int) -> Raw:
        inside = None if patches.inside is None else patches.inside[i]
        found = [
            without(patches, i, v, selection, placed(distances[v][i], selection.view.inside.bool()))
            for v, selection in enumerate(selections)
        ]
        advance()
        return Raw([score for score, _ in found], [away for _, away in found], inside)

    with workers(job.device) as each:
        return calibrate(job, each(raw, chosen))


def left_out_of(
    selections: list[Selection], features: Tensor, group: int, inside: Tensor | None
) -> tuple[list[Tensor], list[Tensor]]:
    """Per view the score and the patch distances [P] of one picture, against the bank as if its group had
    never been there.

    Args:
        features: [P of all views, D], absolute.
        inside: [H, W] bool, the pixels that count; None: those of the region of interest.
    """
    parts = features.split([selection.view.inside.numel() for selection in selections])
    found = [
        _without(selection, part, group, counted_of(selection.view, inside))
        for selection, part in zip(selections, parts, strict=True)
    ]
    return [score for score, _ in found], [away for _, away in found]


def to_others(patches: Patches, results: list[coreset.Coreset]) -> list[Tensor]:
    """Per view the distances [N, P] to the elements of other groups, as selecting has found them."""
    found = []
    for v, result in enumerate(results):
        assert result.leave_out is not None
        found.append(patches.spread(v, result.leave_out))
    return found


def without(
    patches: Patches, i: int, v: int, selection: Selection, distances: Tensor
) -> tuple[Tensor, Tensor]:
    """The image score of picture i in one view, and its patch distances [P], against the bank as if its group
    had never been there.

    Args:
        distances: [P], to the elements of other groups.
    """
    view, inside = selection.view, None if patches.inside is None else patches.inside[i]
    features = placed(patches.features[v][i], view.inside.bool())
    return _without(selection, features, int(patches.groups[i]), counted_of(view, inside), distances)


def _without(
    selection: Selection, features: Tensor, group: int, counted: Tensor, distances: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The image score of one picture in one view, and its patch distances [P]."""
    if distances is None:
        distances = selection.view.distances_without(features, selection.groups == group, counted)
    absence, distances = selection.absence(features, group, distances, counted)
    hidden = torch.zeros_like(selection.groups, dtype=torch.bool).index_fill_(0, absence.hidden, True)
    return selection.view.score_without(features, hidden, counted, distances, absence.added), distances


def counted_of(view: View, inside: Tensor | None) -> Tensor:
    """The patches [P] of one picture that count."""
    return view.counted(None if inside is None else inside[None]).view(-1)


def placed(values: Tensor, mask: Tensor) -> Tensor:
    """Values of the patches inside the region, back at their places; 0 elsewhere."""
    if len(values) == len(mask):
        return values
    whole = values.new_zeros(len(mask), *values.shape[1:])
    whole[mask] = values
    return whole


def calibrate(job: Job, raw: list[Raw]) -> Good:
    """Bring the views to one scale, unless an earlier fit has done it, and combine them."""
    model = job.model

    with workers(job.device) as each:
        if len(job.views) > 1 and job.starts is None:
            for v, view in enumerate(job.views):
                moments = each(partial(_moments, model, view, v), raw)
                mean, square = torch.stack(moments).mean(0).tolist()
                scores = torch.stack([r.scores[v] for r in raw]).cpu().double()
                pairs = [
                    (mean, max(0.0, square - mean * mean) ** 0.5),  # rounding may bring it below 0
                    (float(scores.mean()), float(scores.std(correction=0))),
                ]
                model.normal[v] = torch.tensor(
                    [x for m, s in pairs for x in (m, max(s, 1e-6 * abs(m) + 1e-12))]
                )

        def one(picture: Raw) -> list[float]:
            inside = None if picture.inside is None else picture.inside[None]
            scores, distances = ([x[None] for x in part] for part in (picture.scores, picture.distances))
            score, drawn = model.combine(scores, distances, inside)
            values = drawn[0][model.region(picture.inside)]
            strengths = [strength(v, picture) for v in range(len(job.views))]
            return [float(score), float(drawn.max()), float(values.median()), *strengths]

        def strength(v: int, picture: Raw) -> float:
            """The view's own score, a distance: in those units good pictures spread alike."""
            if job.config.score != "map":
                return float(picture.scores[v])
            drawn = job.views[v].anomaly_map(picture.distances[v][None])[0]
            return float(drawn[model.region(picture.inside)].max())

        values = np.array(each(one, raw))
    return Good(values[:, 0], values[:, 1], values[:, 2], _fence(model, values[:, 3:]), raw)


def _fence(model: Model, strengths: np.ndarray) -> float:
    """Every view's fence `[N, views]` brought to the scale of the scores; what passes the highest is far out
    at any size."""
    limits = [fence(column) for column in strengths.T]
    if len(limits) == 1:
        return limits[0]
    part = slice(0, 2) if model.config.score == "map" else slice(2, 4)
    return max((f - float(n[0])) / float(n[1]) for f, n in zip(limits, model.normal[:, part], strict=True))


def _moments(model: Model, view: View, v: int, picture: Raw) -> Tensor:
    """Mean and mean square of the values of a picture's map at one size, inside the region."""
    drawn = view.anomaly_map(picture.distances[v][None])[0]
    values = drawn[model.region(picture.inside)].cpu().double()  # not every device has float64
    return torch.stack([values.mean(), (values * values).mean()])
