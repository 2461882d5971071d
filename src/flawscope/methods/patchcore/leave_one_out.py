"""Leave-one-out: each good picture against the memory banks as if its group had never been there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import itemgetter

import numpy as np
import torch
from torch import Tensor

from flawscope.calibration.rows import Values
from flawscope.calibration.threshold import upper_fence
from flawscope.methods.patchcore.model import BankBranch, Model
from flawscope.methods.patchcore.patches import FitJob, Patches, to_grid
from flawscope.methods.patchcore.selected_bank import (
    STRIDE,
    BankWithout,
    SelectedBank,
    distances_without,
    settle,
)
from flawscope.methods.task import LeaveOut, LeftOut
from flawscope.methods.threads import workers
from flawscope.progress import ProgressCounter

SPREAD_QUANTILE = 0.99  # of good pictures' map values: how far it lies above their mean is the maps' scale
SAMPLED = 5  # of so many pixels of a coarse map, one is looked at for it: no column is left out
FIRST_PICTURES = 32  # that a first scale is taken from, by which maps are joined before
ONE_PART_METHOD = "compared with itself elsewhere"  # how one part alone is calibrated
SURROUNDINGS = 1 / 8  # of a side: what is nearer to a patch in its own picture shows the same
BLOCK_ROWS = 512  # patches compared at once
# Tensors of a model file: how much higher `left_out` puts the score and the map's maximum of a group's
# pictures than the fit does, [K, 2], and the numbers of these groups, [K]
EXCESS, EXCESS_GROUPS = "left_out_excess", "left_out_groups"


def left_out_excess(model: Model, group: int, kept: Mapping[str, Tensor]) -> tuple[float, float]:
    """Tells how much higher `left_out` puts score and map's maximum of a group's pictures than a fit, which
    selects the bank anew; of a group that was not compared the median of the others, of older files 0.
    """
    excess, groups = kept.get(EXCESS), kept.get(EXCESS_GROUPS)
    if excess is None or groups is None or not len(excess):
        return 0.0, 0.0
    own = excess[groups == group]
    of_score, of_map = (own[0] if len(own) else excess.median(0).values).tolist()
    return of_score, of_map


def measured_excess(good: GoodValues, groups: Sequence[int], kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of `left_out_excess`, of the pictures of a fit in these groups [N]: the mean of each group.
    kept: tensors of the model that is extended, whose other groups keep theirs.
    """
    by_group: dict[int, list[tuple[float, float]]] = {}
    for group, (score, maximum), values in zip(groups, good.poorer, good.values, strict=True):
        by_group.setdefault(group, []).append((score - values.score, maximum - values.maximum))
    found = {group: np.mean(several, axis=0) for group, several in by_group.items()}
    if EXCESS in kept:
        earlier = zip(kept[EXCESS_GROUPS].tolist(), kept[EXCESS].numpy(), strict=True)
        found = {group: one for group, one in earlier if group not in found} | found
    excess = np.array(list(found.values()), np.float32).reshape(-1, 2)
    numbers = torch.tensor(list(found), dtype=torch.int32)
    return {EXCESS: torch.from_numpy(excess), EXCESS_GROUPS: numbers}


def left_out(
    model: Model, features: Tensor, group: int, kept: Mapping[str, Tensor], inside: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Score and map by the bank's other elements alone, which stays as poor where the group's own ones were.

    While a model is fitted, `LeaveOutOfBanks` does better.
    """
    scores, distances = [], []
    for v, (branch, part) in enumerate(zip(model.branches, model.parts(features), strict=True)):
        valid_mask = branch.valid_mask(inside).view(-1)
        hidden = kept[f"bank_groups.{v}"] == group
        known = distances_without(branch, part[0], hidden, valid_mask)
        score = model.picture_score.without(branch, part[0], hidden, valid_mask, known, branch.bank[:0])
        scores.append(score[None])
        distances.append(known[None])
    return model.combine(scores, distances, inside)


# -------------------------------------------------------------------------------------------------- pictures


@dataclass(frozen=True)
class LeftOutPicture:
    """Image score and patch distances [P] of every branch; the pixels [H, W] that count, None: the region.

    poorer: the branches by the banks' other elements alone, as `left_out` has them; empty: not known.
    """

    branches: Sequence[tuple[Tensor, Tensor]]
    inside: Tensor | None
    poorer: Sequence[tuple[Tensor, Tensor]] = ()

    @classmethod
    def settled(cls, model: Model, banks: Sequence[BankWithout], inside: Tensor | None) -> LeftOutPicture:
        """The picture of these banks, which look at what decides."""
        poorer = [(bank.score(), bank.distances) for bank in banks]
        settle(banks, model.join)
        return cls([(bank.score(), bank.distances) for bank in banks], inside, poorer)

    def combine(self, model: Model) -> tuple[Tensor, Tensor]:
        """Score [1] and map [1, H, W]."""
        scores = [score[None] for score, _ in self.branches]
        distances = [distance[None] for _, distance in self.branches]
        return model.combine(scores, distances, None if self.inside is None else self.inside[None])

    def combine_poorer(self, model: Model) -> tuple[float, float] | None:
        """Score and map's maximum by the banks' other elements alone; None: not known."""
        if not self.poorer:
            return None
        score, drawn = replace(self, branches=self.poorer).combine(model)
        return float(score), float(drawn.max())


class LeaveOutOfBanks(LeaveOut):
    """Leaves groups out of the banks by selecting these anew. selections: of each branch's bank."""

    has_bound = True
    model: Model
    selections: Sequence[SelectedBank]

    def score(self, group: int, features: Tensor, inside: Tensor | None) -> LeftOut | None:
        if group not in self.learnt:
            return self.bound(group, features, inside)
        model = self.model
        return score_left_out(model, self.selections, features, group, inside).combine(model)


@dataclass(frozen=True)
class GoodValues:
    """Leave-one-out values of the good pictures [N].

    strengths: [N, sizes], each size's own score. poorer: score and map's maximum of each by the banks' other
    elements alone, where that is known.
    """

    values: list[Values]
    strengths: np.ndarray
    poorer: list[tuple[float, float]]

    @property
    def scores(self) -> np.ndarray:
        return np.array([one.score for one in self.values])


def leave_one_out(
    job: FitJob, patches: Patches, selections: Sequence[SelectedBank], chosen: Sequence[int]
) -> GoodValues:
    """Calibrate on the pictures `chosen`, each against the banks as if its group had never been there."""
    distances = distances_to_others(patches, selections)
    advance = ProgressCounter(job.task.step, "leave-one-out", len(chosen))

    def known(i: int) -> list[Tensor]:
        pairs = zip(distances, selections, strict=True)
        return [to_grid(one[i], selected.branch.inside.bool()) for one, selected in pairs]

    def raw(i: int) -> LeftOutPicture:
        found = left_out_picture(job.model, patches, i, selections, known(i))
        advance()
        return found

    with workers(job.device) as each:
        some = [(known(i), patches.pixel_mask(i)) for i in chosen[:: -(-len(chosen) // FIRST_PICTURES)]]
        set_scales(job, [LeftOutPicture([(d.amax(), d) for d in away], seen) for away, seen in some])
        return calibrate(job, each(raw, chosen))


def scores_above(
    limit: float, model: Model, patches: Patches, selections: Sequence[SelectedBank], rows: Sequence[int]
) -> dict[int, float]:
    """Scores beyond a limit, by number, of left-out pictures in `rows`.

    The elements of other groups in the banks as they are give a score that is hardly ever lower, in a
    fraction of the time.
    """
    known = distances_to_others(patches, selections)

    def score(i: int) -> float:
        away = [to_grid(own[i], one.branch.inside.bool()) for own, one in zip(known, selections, strict=True)]
        inside = patches.pixel_mask(i)
        if model.score_is_map_maximum:
            found = LeftOutPicture([(one.amax(), one) for one in away], inside).combine(model)[0]
            if float(found) <= limit:
                return float(found)
        return float(left_out_picture(model, patches, i, selections, away).combine(model)[0])

    with workers(model.roi.device) as each:
        found = zip(rows, each(score, rows), strict=True)
    return {patches.numbers[i]: one for i, one in found if one > limit}


def distances_to_others(patches: Patches, selections: Sequence[SelectedBank]) -> list[Tensor]:
    """Distances [N, P] to the elements of other groups, per branch, known from selecting the banks."""
    known = [selection.result.leave_out for selection in selections]
    return [patches.scatter_values(v, values) for v, values in enumerate(known) if values is not None]


def bank_without(
    patches: Patches, i: int, v: int, selection: SelectedBank, distances: Tensor | None = None
) -> BankWithout:
    """Branch v's bank as if the group of picture i had never been there (`SelectedBank.without_group`)."""
    branch = selection.branch
    features = to_grid(patches.features[v][i], branch.inside.bool())
    valid_mask = patches.pixel_mask(i)
    return selection.without_group(
        features, int(patches.groups[i]), valid_mask_of(branch, valid_mask), distances
    )


def distances_in_branch(patches: Patches, i: int, v: int, selection: SelectedBank) -> Tensor:
    """Distances [P] of picture i to the bank of branch v alone (`bank_without`)."""
    bank = bank_without(patches, i, v, selection)
    settle([bank], itemgetter(0))
    return bank.distances


def left_out_picture(
    model: Model,
    patches: Patches,
    i: int,
    selections: Sequence[SelectedBank],
    distances: Sequence[Tensor | None],
) -> LeftOutPicture:
    """Compare picture i with the banks as if its group had never been there. distances: [P] of each branch,
    to the elements of other groups, where they are known.
    """
    pairs = zip(selections, distances, strict=True)
    banks = [bank_without(patches, i, v, *pair) for v, pair in enumerate(pairs)]
    return LeftOutPicture.settled(model, banks, patches.pixel_mask(i))


def score_left_out(
    model: Model, selections: Sequence[SelectedBank], features: Tensor, group: int, inside: Tensor | None
) -> LeftOutPicture:
    """Compare a picture, its features [P of all branches, D] absolute, with the banks as if its group had
    never been there. inside: [H, W] bool, the pixels that count; None: the region of interest.
    """
    parts = features.split([selection.branch.inside.numel() for selection in selections])
    pairs = [
        (one, part[:, : one.branch.embedding.width]) for one, part in zip(selections, parts, strict=True)
    ]
    banks = [one.without_group(part, group, valid_mask_of(one.branch, inside)) for one, part in pairs]
    return LeftOutPicture.settled(model, banks, inside)


def valid_mask_of(branch: BankBranch, inside: Tensor | None) -> Tensor:
    """The patches [P] of one picture that count."""
    return branch.valid_mask(None if inside is None else inside[None]).view(-1)


def set_scales(job: FitJob, raw: Sequence[LeftOutPicture]) -> np.ndarray:
    """Bring the maps of all branches to one scale, unless an earlier fit has done it; return each branch's
    own scores [N, branches], distances: good pictures spread alike in their units.
    """
    model, found = job.model, list[tuple[float, ...]]()
    of_map = model.score_is_map_maximum

    def look(v: int, picture: LeftOutPicture) -> tuple[float, np.ndarray, float, float]:
        """The mean of a picture's map values in one branch, some of them, their maximum, and the branch's own
        score.
        """
        score, distances = picture.branches[v]
        drawn = model.branches[v].anomaly_map(distances[None])[0]
        values = some_pixels(drawn, model.region(picture.inside)).cpu()
        peak = float(drawn.where(model.region(picture.inside), 0.0).max())
        strength = peak if of_map else float(score)
        return float(values.double().mean()), values[::SAMPLED].clone().numpy(), peak, strength

    with workers(job.device) as each:
        for v in range(len(model.normal)):
            means, samples, peaks, of_branch = zip(*each(partial(look, v), raw), strict=True)
            found.append(of_branch)
            if len(model.normal) > 1 and job.existing_banks is None:
                mean = float(np.mean(means))
                spread = max(0.0, float(np.quantile(np.concatenate(samples), SPREAD_QUANTILE)) - mean)
                if model.branches[v].second:
                    spread = float(np.median(peaks)) - mean
                scores = np.zeros(1) if of_map else np.array(of_branch)
                # the scores of one picture have no spread: on the scale of its map
                of_scores = (float(scores.mean()), float(scores.std())) if len(scores) > 1 else (mean, spread)
                pairs = (mean, spread), of_scores
                numbers = [x for m, s in pairs for x in (m, max(s, 1e-6 * abs(m) + 1e-12))]
                model.normal[v] = torch.tensor(numbers)
    return np.array(found).T


def some_pixels(values: Tensor, region: Tensor) -> Tensor:
    """Values [H, W] at every `STRIDE`-th pixel, of those in a region; all of these in a tiny one."""
    some = (slice(STRIDE // 2, None, STRIDE),) * 2
    return values[some][region[some]] if bool(region[some].any()) else values[region]


def calibrate(job: FitJob, raw: Sequence[LeftOutPicture]) -> GoodValues:
    """Bring the sizes to one scale, unless an earlier fit has done it, and combine them."""
    model, strengths = job.model, set_scales(job, raw)

    def join(picture: LeftOutPicture) -> tuple[Values, tuple[float, float]]:
        found, whole = picture.combine(model)
        of_good = some_pixels(whole[0], model.region(picture.inside))
        values = Values(float(found), float(whole.max()), float(of_good.median()))
        return values, picture.combine_poorer(model) or (values.score, values.maximum)

    with workers(job.device) as each:
        values, poorer = zip(*each(join, raw), strict=True)
        return GoodValues([*values], strengths, [*poorer])


def suspicion_fence(model: Model, strengths: np.ndarray) -> float:
    """The maps' fences, joined as the maps are, from strengths `[N, maps]`: beyond it a picture is far out in
    any.
    """
    limits = [upper_fence(column) for column in strengths.T]
    if len(limits) == 1:
        return limits[0]
    part = slice(0, 2) if model.score_is_map_maximum else slice(2, 4)
    normal = model.normal[:, part].double().cpu()
    return float(model.fuse([(f - n[0]) / n[1] for f, n in zip(limits, normal, strict=True)]))


# ------------------------------------------------------------------------------------------- one part alone


def calibrate_one_part(job: FitJob, patches: Patches, selections: Sequence[SelectedBank]) -> GoodValues:
    """Calibrate where all pictures show one part: each against the banks as if it had never been there.

    The only one is compared with its elements elsewhere, and no patch is nearer than to the whole bank.
    """
    patches = replace(patches, groups=torch.tensor(patches.numbers, device=patches.groups.device))
    banks = []
    for v, selection in enumerate(selections):
        points, groups = patches.points(v)
        chosen = groups[selection.result.indices]
        banks.append(SelectedBank(selection.branch, chosen, points, groups, selection.result))

    def raw(i: int) -> LeftOutPicture:
        inside, found = patches.pixel_mask(i), []
        for v, bank in enumerate(banks):
            if bool((bank.groups == patches.groups[i]).all()):
                region = bank.branch.inside.bool()
                chosen = patches.place(v, i, bank.result.indices)
                away = distances_elsewhere(patches.features[v][i], chosen, bank.branch.grid, region)
                known = to_grid(patches.scatter_values(v, bank.result.distances)[i], region)
                away = torch.maximum(away, known) * valid_mask_of(bank.branch, inside)
            else:
                away = distances_in_branch(patches, i, v, bank)
            found.append((job.model.picture_score.of_distances(away), away))
        return LeftOutPicture(found, inside)

    with workers(job.device) as each:
        return calibrate(job, each(raw, range(len(patches.pictures))))


def distances_elsewhere(features: Tensor, chosen: Tensor, grid: tuple[int, int], region: Tensor) -> Tensor:
    """Distances [P] from each patch of a picture to the nearest of some of its patches that is not around it;
    0 outside the region, and where there is none.

    Args:
        features: [K, D], of the patches in the region.
        chosen: [M], numbers of some of them.
        grid: patches in a column and in a row.
        region: [P] bool.
    """
    places = region.nonzero().flatten()
    at = torch.stack([places // grid[1], places % grid[1]], 1)
    reach = torch.tensor([side * SURROUNDINGS for side in grid], device=at.device)
    found = []
    for rows in torch.arange(len(at), device=at.device).split(BLOCK_ROWS):
        around = ((at[rows, None] - at[chosen]).abs() <= reach).all(2)
        found.append(torch.cdist(features[rows], features[chosen]).masked_fill(around, torch.inf).amin(1))
    whole = torch.zeros(len(region), device=at.device)
    whole[region] = torch.cat(found).nan_to_num(posinf=0.0)
    return whole
