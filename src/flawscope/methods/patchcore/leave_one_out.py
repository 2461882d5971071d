"""Leave-one-out: each good picture against the memory banks as if it had never been there.

To take a picture's own elements out of the bank is not enough. They kept patches of other pictures out, so
that there are holes where they were, which a picture that was never there does not meet. Therefore the bank
is selected anew where it matters: around the patches of the left-out picture that are farthest from it. What
was picked before the picture's own elements would have been picked without them, and stays (decision 0016).

All pictures of one part, a group, are left out together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from flawscope.calibration.threshold import fence
from flawscope.errors import InputError
from flawscope.methods.patchcore import coreset
from flawscope.methods.patchcore.memory_bank import ONE_PART, View
from flawscope.methods.patchcore.model import Model, hundredth, top
from flawscope.methods.patchcore.patches import Job, Patches, placed
from flawscope.methods.threads import workers
from flawscope.progress import Advance

FARTHEST = 16  # patches of a picture around which the bank is selected anew; as many more until they suffice
FREED = 8  # elements nearest to each of them: those picked after the picture's own one nearby are freed
AROUND = 128  # elements nearest to each of them, which else stay and keep new ones away


# ------------------------------------------------------------------------------------ a bank without a group


class Selection:
    """A view's bank, in the order in which its elements were picked, and the patches that it is picked from.

    Every patch belongs to the cell of the element that is nearest to it. Methods are asked about one picture:
    its features [P, D], absolute; its group; its valid_mask [P], 1 where a patch counts; and the distances
    [P] of its patches to the elements of other groups.
    """

    def __init__(
        self, view: View, groups: Tensor, points: Tensor, groups_of_points: Tensor, result: coreset.Coreset
    ):
        """
        Args:
            groups: [M], of the bank's elements.
            points, groups_of_points: [N, D], absolute, and [N].
            result: of selecting the bank from them, with groups.
        """
        assert result.nearest is not None
        self.view, self.groups, self.points, self.groups_of_points = view, groups, points, groups_of_points
        self.result, self.radius = result, result.radius
        self.by_cell = result.nearest.argsort()
        counts = torch.bincount(result.nearest, minlength=len(groups))
        self.starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)]).tolist()

    def without(
        self, features: Tensor, group: int, valid_mask: Tensor, distances: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The image score of a picture, and its patch distances [P], as if its group had never been there."""
        if distances is None:
            distances = self.view.distances_without(features, self.groups == group, valid_mask)
        hidden, added, distances = self.absence(features, group, distances, valid_mask)
        missing = torch.zeros_like(self.groups, dtype=torch.bool).index_fill_(0, hidden, True)
        return self.view.score_without(features, missing, valid_mask, distances, added), distances

    def absence(
        self, features: Tensor, group: int, distances: Tensor, valid_mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The bank without `group`: numbers [L] of the elements that are missing; patches [K, D] of other
        pictures that take their place, relative to the centre; its distances [P] to a picture of the group.
        InputError where there is no other group."""
        own = (self.groups == group).nonzero().flatten()
        if len(own) == len(self.groups):
            raise InputError(ONE_PART)
        distances = distances * valid_mask
        if not len(own) or not self.radius > 0:  # nothing was kept out
            return own, self.points[:0], distances
        features, most = features - self.view.centre, int(valid_mask.sum())
        far = distances.topk(min(FARTHEST, most)).indices
        while True:
            hidden, added = self._anew(features[far], group, own)
            exact = self._with_neighbours(far)
            found = self._distances(features, exact, hidden, added, distances) * valid_mask
            deciding = self._deciding(found)
            if len(far) >= most or torch.isin(deciding, far).all():
                return hidden, added, found
            # the farthest patches now: some of the first ones have come nearer
            further = found.topk(min(FARTHEST, most)).indices
            far = torch.cat([far, further, deciding]).unique()

    def _anew(self, far: Tensor, group: int, own: Tensor) -> tuple[Tensor, Tensor]:
        """Find what is missing and what is added around patches [Q, D] of the group with elements `own`."""
        bank = self.view.bank
        square = torch.addmm(self.view.norms, far, bank.T, alpha=-2)  # but for |x|², which changes no order
        to_own = square[:, own]
        square[:, own] = torch.inf
        near = square.topk(min(AROUND, len(bank) - len(own)), largest=False)
        freed = near.indices[:, :FREED].unique()
        freed = freed[freed > own[torch.cdist(bank[freed], bank[own]).argmin(1)]]
        around = near.indices.unique()
        around = around[~torch.isin(around, freed)]
        lost = own[(to_own <= near.values[:, -1:]).any(0)]  # those farther off leave no hole here
        emptied = torch.cat([freed, lost]).tolist()
        rows = torch.cat([own[:0], *(self.by_cell[self.starts[e] : self.starts[e + 1]] for e in emptied)])
        rows = rows[self.groups_of_points[rows] != group]
        # with the elements themselves: those of a model that is extended have no patch here
        candidates = torch.cat([bank[freed], self.points[rows] - self.view.centre])
        if not len(candidates):
            return own, candidates
        start = bank[around] if len(around) else None
        picked = coreset.select(candidates, len(candidates), start=start, until=self.radius)
        return torch.cat([own, freed]), candidates[picked.indices]

    def _with_neighbours(self, patches: Tensor) -> Tensor:
        """Numbers of the patches and of those beside them, which the map is smoothed over."""
        mask = torch.zeros(1, *self.view.grid).to(self.view.bank.device)
        mask.view(-1)[patches] = 1
        return max_pool2d(mask, 3, stride=1, padding=1).flatten().nonzero().flatten()

    def _distances(
        self, features: Tensor, exact: Tensor, hidden: Tensor, added: Tensor, distances: Tensor
    ) -> Tensor:
        """Distances [P], right for the patches `exact`; elsewhere freed elements still count."""
        norms, found = self.view.norms.index_fill(0, hidden, torch.inf), distances.clone()
        found[exact] = self.view.search(features[None, exact], torch.ones(len(exact)).to(distances), norms)[0]
        return torch.minimum(found, nearest_distance(features, added)) if len(added) else found

    def _deciding(self, distances: Tensor) -> Tensor:
        """Numbers of the patches that decide the score: the farthest one, or the farthest hundredth, and the
        cell with the map's maximum, or those of its highest hundredth."""
        drawn = self.view.anomaly_map(self.view.values(distances)[None])[0]
        (height, width), (h, w) = drawn.shape, self.view.grid
        score = self.view.config.score
        pixels = drawn.flatten().topk(hundredth(drawn.numel()) if score == "map_top" else 1).indices
        cells = (pixels // width * h // height) * w + pixels % width * w // width
        patches = distances.topk(hundredth(len(distances)) if score == "top" else 1).indices
        return torch.cat([patches, cells]).unique()


def nearest_distance(features: Tensor, elements: Tensor) -> Tensor:
    """Distances [P] from features [P, D] to the nearest of elements [K, D]."""
    square = torch.addmm((elements * elements).sum(1), features, elements.T, alpha=-2).amin(1)
    return (square + (features * features).sum(1)).clamp(min=0).sqrt()


# -------------------------------------------------------------------------------------------------- pictures


@dataclass(frozen=True)
class Raw:
    """A picture that was left out: every view's image score and patch distances [P], and the pixels [H, W]
    that count (None: the region of interest)."""

    found: Sequence[tuple[Tensor, Tensor]]
    inside: Tensor | None

    def combined(self, model: Model) -> tuple[Tensor, Tensor]:
        """Score [1] and map [1, H, W]."""
        scores, distances = ([one[None] for one in part] for part in zip(*self.found, strict=True))
        return model.combine(scores, distances, None if self.inside is None else self.inside[None])


@dataclass(frozen=True)
class Good:
    """Values of the good pictures, [N] each, and the score beyond which a picture is suspicious."""

    scores: np.ndarray
    maxima: np.ndarray
    medians: np.ndarray
    fence: float


def leave_one_out(job: Job, patches: Patches, selections: Sequence[Selection], chosen: Sequence[int]) -> Good:
    """Calibrate on the pictures `chosen`, each against the banks as if its group had never been there."""
    distances = to_others(patches, selections)
    advance = Advance(job.task.step, "leave-one-out", len(chosen))

    def raw(i: int) -> Raw:
        found = [
            without(patches, i, v, selection, placed(distances[v][i], selection.view.inside.bool()))
            for v, selection in enumerate(selections)
        ]
        advance()
        return Raw(found, patches.inside_of(i))

    with workers(job.device) as each:
        return calibrate(job, each(raw, chosen))


def to_others(patches: Patches, selections: Sequence[Selection]) -> list[Tensor]:
    """Per view the distances [N, P] to the elements of other groups, as selecting has found them."""
    known = [selection.result.leave_out for selection in selections]
    return [patches.spread(v, values) for v, values in enumerate(known) if values is not None]


def without(
    patches: Patches, i: int, v: int, selection: Selection, distances: Tensor
) -> tuple[Tensor, Tensor]:
    """`Selection.without` of picture i in one view."""
    view = selection.view
    features = placed(patches.features[v][i], view.inside.bool())
    return selection.without(
        features, int(patches.groups[i]), valid_mask_of(view, patches.inside_of(i)), distances
    )


def left_out(selections: Sequence[Selection], features: Tensor, group: int, inside: Tensor | None) -> Raw:
    """Compare one picture with the banks as if its group had never been there.

    Args:
        features: [P of all views, D], absolute.
        inside: [H, W] bool, the pixels that count; None: those of the region of interest.
    """
    parts = features.split([selection.view.inside.numel() for selection in selections])
    pairs = zip(selections, parts, strict=True)
    return Raw([one.without(part, group, valid_mask_of(one.view, inside)) for one, part in pairs], inside)


def valid_mask_of(view: View, inside: Tensor | None) -> Tensor:
    """The patches [P] of one picture that count."""
    return view.valid_mask(None if inside is None else inside[None]).view(-1)


def calibrate(job: Job, raw: Sequence[Raw]) -> Good:
    """Bring the sizes to one scale, unless an earlier fit has done it, and combine them."""
    model, score = job.model, job.config.score
    of_map = score in ("map", "map_top")

    def values_of(picture: Raw, v: int) -> tuple[View, Tensor]:
        return model.by_size([away[None] for _, away in picture.found])[v]

    def drawn(picture: Raw, v: int) -> Tensor:
        """Map values of one size, those that count."""
        view, values = values_of(picture, v)
        return view.anomaly_map(values)[0][model.region(picture.inside)]

    def moments(v: int, picture: Raw) -> Tensor:
        values = drawn(picture, v).cpu().double()  # not every device has float64
        return torch.stack([values.mean(), (values * values).mean()])

    def strength(picture: Raw, v: int) -> float:
        """The size's own score, a distance: good pictures spread alike in its units."""
        if of_map:
            values = drawn(picture, v)
            return float(values.max() if score == "map" else top(values[None]))
        return float(top(values_of(picture, v)[1]) if score == "top" else picture.found[v][0])

    def one(picture: Raw) -> list[float]:
        found, whole = picture.combined(model)
        median = whole[0][model.region(picture.inside)].median()
        strengths = [strength(picture, v) for v in range(len(model.normal))]
        return [float(found), float(whole.max()), float(median), *strengths]

    with workers(job.device) as each:
        for v in range(len(model.normal) if len(model.normal) > 1 and job.starts is None else 0):
            mean, square = torch.stack(each(partial(moments, v), raw)).mean(0).tolist()
            scores = torch.tensor([0.0 if of_map else strength(picture, v) for picture in raw]).double()
            spread = max(0.0, square - mean * mean) ** 0.5  # rounding may bring it below 0
            pairs = (mean, spread), (float(scores.mean()), float(scores.std(correction=0)))
            model.normal[v] = torch.tensor([x for m, s in pairs for x in (m, max(s, 1e-6 * abs(m) + 1e-12))])
        values = np.array(each(one, raw))
    return Good(values[:, 0], values[:, 1], values[:, 2], _fence(model, values[:, 3:]))


def _fence(model: Model, strengths: np.ndarray) -> float:
    """The highest of the sizes' fences on the scale of the scores, from strengths `[N, sizes]`: beyond it a
    picture is far out at any size."""
    limits = [fence(column) for column in strengths.T]
    if len(limits) == 1:
        return limits[0]
    part = slice(0, 2) if model.config.score in ("map", "map_top") else slice(2, 4)
    return max((f - float(n[0])) / float(n[1]) for f, n in zip(limits, model.normal[:, part], strict=True))
