"""Calibration that spends no good picture: each one against the memory banks without its own part."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from flawscope.calibration.decision import fence
from flawscope.methods.patchcore import coreset
from flawscope.methods.patchcore.memory_bank import View
from flawscope.methods.patchcore.model import Model
from flawscope.methods.patchcore.selection import Job, Patches
from flawscope.methods.threads import workers


@dataclass(frozen=True)
class Raw:
    """A picture that was left out: every view's image score and patch distances [P], and the pixels [H, W]
    that count (None: the region of interest)."""

    scores: list[Tensor]
    distances: list[Tensor]
    inside: Tensor | None


@dataclass(frozen=True)
class Good:
    """What calibration needs of the good pictures, [N] each, and the score beyond which one is suspicious."""

    scores: np.ndarray
    maxima: np.ndarray
    medians: np.ndarray
    fence: float


def leave_one_out(
    job: Job, patches: Patches, results: list[coreset.Coreset], bank_groups: list[Tensor]
) -> Good:
    """Every picture against the banks without its own group's elements.

    The patch distances come from the coresets, which kept them beside their own; what is left is Eq. 7 for
    one patch a picture.
    """
    distances = []
    for v, result in enumerate(results):
        assert result.leave_out is not None
        distances.append(patches.spread(v, result.leave_out))

    def raw(i: int) -> Raw:
        found = []
        inside = None if patches.inside is None else patches.inside[i]
        for v, view in enumerate(job.views):
            region, counted = view.inside.bool(), counted_of(view, inside)
            features = _placed(patches.features[v][i], region)
            ignored = bank_groups[v] == patches.groups[i]
            found.append(view.without(features, ignored, counted, _placed(distances[v][i], region)))
        return Raw([score for score, _ in found], [known for _, known in found], inside)

    with workers(job.device) as each:
        return calibrate(job, each(raw, range(len(patches.pictures))))


def counted_of(view: View, inside: Tensor | None) -> Tensor:
    """The patches [P] of one picture that count."""
    return view.counted(None if inside is None else inside[None]).view(-1)


def _placed(values: Tensor, mask: Tensor) -> Tensor:
    """Values of the patches inside the region, back at their places; 0 elsewhere."""
    if len(values) == len(mask):
        return values
    whole = values.new_zeros(len(mask), *values.shape[1:])
    whole[mask] = values
    return whole


def calibrate(job: Job, raw: list[Raw]) -> Good:
    """Bring the views to one scale, unless an earlier fit has done it, and combine them."""
    model = job.model

    def region(picture: Raw) -> Tensor:
        return model.roi if picture.inside is None else picture.inside

    with workers(job.device) as each:
        if len(job.views) > 1 and job.starts is None:
            for v, view in enumerate(job.views):
                moments = each(lambda r, v=v, view=view: _moments(view, r.distances[v], region(r)), raw)  # type: ignore[misc]
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
            values = drawn[0][region(picture)]
            strengths = [strength(v, picture) for v in range(len(job.views))]
            return [float(score), float(drawn.max()), float(values.median()), *strengths]

        def strength(v: int, picture: Raw) -> float:
            """The view's own score, a distance: in those units good pictures spread alike."""
            if job.config.score != "map":
                return float(picture.scores[v])
            return float(job.views[v].anomaly_map(picture.distances[v][None])[0][region(picture)].max())

        values = np.array(each(one, raw))
    return Good(values[:, 0], values[:, 1], values[:, 2], _fence(model, values[:, 3:]))


def _fence(model: Model, strengths: np.ndarray) -> float:
    """Every view's fence `[N, views]` brought to the scale of the scores; what passes the highest is far out
    at any size."""
    limits = [fence(column) for column in strengths.T]
    if len(limits) == 1:
        return limits[0]
    part = slice(0, 2) if model.config.score == "map" else slice(2, 4)
    return max((f - float(n[0])) / float(n[1]) for f, n in zip(limits, model.normal[:, part], strict=True))


def _moments(view: View, distances: Tensor, roi: Tensor) -> Tensor:
    """Mean and mean square of a map's values inside the region."""
    values = view.anomaly_map(distances[None])[0][roi].cpu().double()  # not every device has float64
    return torch.stack([values.mean(), (values * values).mean()])
