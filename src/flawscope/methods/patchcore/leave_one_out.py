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
EXCESS = "left_out_excess"
EXCESS_GROUPS = "left_out_groups"


def left_out_excess(model: Model, group: int, kept: Mapping[str, Tensor]) -> tuple[float, float]:
    """Return by how much `left_out` overestimates the score and the map's maximum of a group's pictures.

    It is compared with a fit, which selects the bank anew. A group that was not compared has the median of
    the others. Older files give 0.
    """
    excess = kept.get(EXCESS)
    groups = kept.get(EXCESS_GROUPS)
    if excess is None or groups is None or not len(excess):
        return 0.0, 0.0
    group_excess = excess[groups == group]
    of_score, of_map = (group_excess[0] if len(group_excess) else excess.median(0).values).tolist()
    return of_score, of_map


def measured_excess(good: GoodValues, groups: Sequence[int], kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors for `left_out_excess`: the mean of each group's pictures.

    Args:
        good: Leave-one-out values of the pictures.
        groups: Groups of the pictures, `[N]`.
        kept: Tensors of the model that is extended, whose other groups keep their values; empty: there is
            none.
    """
    by_group: dict[int, list[tuple[float, float]]] = {}
    for group, (score, maximum), values in zip(groups, good.poorer, good.values, strict=True):
        by_group.setdefault(group, []).append((score - values.score, maximum - values.maximum))
    found = {group: np.mean(several, axis=0) for group, several in by_group.items()}
    if EXCESS in kept:
        earlier = zip(kept[EXCESS_GROUPS].tolist(), kept[EXCESS].numpy(), strict=True)
        found = {group: value for group, value in earlier if group not in found} | found
    excess = np.array(list(found.values()), np.float32).reshape(-1, 2)
    numbers = torch.tensor(list(found), dtype=torch.int32)
    return {EXCESS: torch.from_numpy(excess), EXCESS_GROUPS: numbers}


def left_out(
    model: Model, features: Tensor, group: int, kept: Mapping[str, Tensor], inside: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return score `[1]` and map `[1, H, W]` by the bank's other elements alone.

    The bank has holes where the group's own elements were. While a model is fitted, `LeaveOutOfBanks` is more
    exact.
    """
    scores = []
    distances = []
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
    """Picture that was compared with banks without its group.

    Attributes:
        branches: Image score and patch distances `[P]` of every branch.
        inside: The pixels `[H, W]` that count; None: the region of interest.
        poorer: The same by the banks' other elements alone (`left_out`); empty: not known.
    """

    branches: Sequence[tuple[Tensor, Tensor]]
    inside: Tensor | None
    poorer: Sequence[tuple[Tensor, Tensor]] = ()

    @classmethod
    def settled(cls, model: Model, banks: Sequence[BankWithout], inside: Tensor | None) -> LeftOutPicture:
        """Return the picture of these banks, after they are exact around the patches that decide."""
        poorer = [(bank.score(), bank.distances) for bank in banks]
        settle(banks, model.join)
        return cls([(bank.score(), bank.distances) for bank in banks], inside, poorer)

    def combine(self, model: Model) -> tuple[Tensor, Tensor]:
        """Return score `[1]` and map `[1, H, W]`."""
        scores = [score[None] for score, _ in self.branches]
        distances = [distance[None] for _, distance in self.branches]
        return model.combine(scores, distances, None if self.inside is None else self.inside[None])

    def combine_poorer(self, model: Model) -> tuple[float, float] | None:
        """Return score and map's maximum by the banks' other elements alone; None: not known."""
        if not self.poorer:
            return None
        score, drawn = replace(self, branches=self.poorer).combine(model)
        return float(score), float(drawn.max())


class LeaveOutOfBanks(LeaveOut):
    """Scorer that leaves groups out of the banks by selecting these anew.

    Attributes:
        selections: The selected bank of each branch.
    """

    has_bound = True
    model: Model
    selections: Sequence[SelectedBank]

    def score(self, group: int, features: Tensor, inside: Tensor | None) -> LeftOut | None:
        """Return score `[1]` and map `[1, H, W]` of an image as if its group had not been learnt from."""
        if group not in self.learnt:
            return self.bound(group, features, inside)
        model = self.model
        return score_left_out(model, self.selections, features, group, inside).combine(model)


@dataclass(frozen=True)
class GoodValues:
    """Leave-one-out values of N good pictures.

    Attributes:
        values: Values of each picture.
        strengths: Each branch's own score, `[N, branches]`.
        poorer: Score and map's maximum of each by the banks' other elements alone; the values themselves
            where that is not known.
    """

    values: list[Values]
    strengths: np.ndarray
    poorer: list[tuple[float, float]]

    @property
    def scores(self) -> np.ndarray:
        """Score of each picture, `[N]`."""
        return np.array([value.score for value in self.values])


def leave_one_out(
    job: FitJob, patches: Patches, selections: Sequence[SelectedBank], chosen: Sequence[int]
) -> GoodValues:
    """Calibrate on the pictures `chosen`, each against the banks as if its group had never been there."""
    distances = distances_to_others(patches, selections)
    advance = ProgressCounter(job.task.step, "leave-one-out", len(chosen))

    def known(i: int) -> list[Tensor]:
        pairs = zip(distances, selections, strict=True)
        return [to_grid(values[i], selected.branch.inside.bool()) for values, selected in pairs]

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
    """Return the scores beyond a limit of left-out pictures in `rows`, by their numbers.

    The elements of other groups in the present banks give a score that is hardly ever lower, in a fraction of
    the time: pictures below the limit by it are not compared further.
    """
    known = distances_to_others(patches, selections)

    def score(i: int) -> float:
        away = [
            to_grid(distances[i], selected.branch.inside.bool())
            for distances, selected in zip(known, selections, strict=True)
        ]
        inside = patches.pixel_mask(i)
        if model.score_is_map_maximum:
            found = LeftOutPicture([(distances.amax(), distances) for distances in away], inside).combine(
                model
            )[0]
            if float(found) <= limit:
                return float(found)
        return float(left_out_picture(model, patches, i, selections, away).combine(model)[0])

    with workers(model.roi.device) as each:
        found = zip(rows, each(score, rows), strict=True)
    return {patches.numbers[i]: value for i, value in found if value > limit}


def distances_to_others(patches: Patches, selections: Sequence[SelectedBank]) -> list[Tensor]:
    """Return the distances `[N, P]` to elements of other groups, per branch, known from the selection."""
    known = [selection.result.leave_out for selection in selections]
    return [patches.scatter_values(v, values) for v, values in enumerate(known) if values is not None]


def bank_without(
    patches: Patches, i: int, v: int, selection: SelectedBank, distances: Tensor | None = None
) -> BankWithout:
    """Return branch v's bank as if picture i's group had never been there (`SelectedBank.without_group`)."""
    branch = selection.branch
    features = to_grid(patches.features[v][i], branch.inside.bool())
    valid_mask = patches.pixel_mask(i)
    return selection.without_group(
        features, int(patches.groups[i]), valid_mask_of(branch, valid_mask), distances
    )


def distances_in_branch(patches: Patches, i: int, v: int, selection: SelectedBank) -> Tensor:
    """Return the distances `[P]` of picture i to the bank of branch v alone (`bank_without`)."""
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
    """Compare picture i with the banks as if its group had never been there.

    Args:
        model: The model.
        patches: Patches of the pictures.
        i: Row of the picture.
        selections: The selected bank of each branch.
        distances: Distances `[P]` of each branch to the elements of other groups; None: not known.
    """
    pairs = zip(selections, distances, strict=True)
    banks = [bank_without(patches, i, v, *pair) for v, pair in enumerate(pairs)]
    return LeftOutPicture.settled(model, banks, patches.pixel_mask(i))


def score_left_out(
    model: Model, selections: Sequence[SelectedBank], features: Tensor, group: int, inside: Tensor | None
) -> LeftOutPicture:
    """Compare a picture with the banks as if its group had never been there.

    Args:
        model: The model.
        selections: The selected bank of each branch.
        features: Absolute features of all branches' patches, `[P, D]`.
        group: The group.
        inside: The pixels that count, `[H, W]` bool; None: the region of interest.
    """
    parts = features.split([selection.branch.inside.numel() for selection in selections])
    pairs = [
        (selected, part[:, : selected.branch.embedding.width])
        for selected, part in zip(selections, parts, strict=True)
    ]
    banks = [
        selected.without_group(part, group, valid_mask_of(selected.branch, inside))
        for selected, part in pairs
    ]
    return LeftOutPicture.settled(model, banks, inside)


def valid_mask_of(branch: BankBranch, inside: Tensor | None) -> Tensor:
    """Return which patches `[P]` of a picture count, 1 or 0."""
    return branch.valid_mask(None if inside is None else inside[None]).view(-1)


def set_scales(job: FitJob, raw: Sequence[LeftOutPicture]) -> np.ndarray:
    """Bring the maps of all branches to the same scale, unless an earlier fit has done it.

    On this scale good pictures' values spread alike.

    Returns:
        Each branch's own scores, `[N, branches]`, which are distances.
    """
    model = job.model
    found = list[tuple[float, ...]]()
    of_map = model.score_is_map_maximum

    def look(v: int, picture: LeftOutPicture) -> tuple[float, np.ndarray, float, float]:
        """Return mean, sample and maximum of a branch's map values, and the branch's own score."""
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
    """Return values `[H, W]` of a region at every `STRIDE`-th pixel; all values of a tiny region."""
    some = (slice(STRIDE // 2, None, STRIDE),) * 2
    return values[some][region[some]] if bool(region[some].any()) else values[region]


def calibrate(job: FitJob, raw: Sequence[LeftOutPicture]) -> GoodValues:
    """Bring the branches to the same scale, unless an earlier fit has done it, and combine them."""
    model = job.model
    strengths = set_scales(job, raw)

    def join(picture: LeftOutPicture) -> tuple[Values, tuple[float, float]]:
        found, whole = picture.combine(model)
        of_good = some_pixels(whole[0], model.region(picture.inside))
        values = Values(float(found), float(whole.max()), float(of_good.median()))
        return values, picture.combine_poorer(model) or (values.score, values.maximum)

    with workers(job.device) as each:
        values, poorer = zip(*each(join, raw), strict=True)
        return GoodValues([*values], strengths, [*poorer])


def suspicion_fence(model: Model, strengths: np.ndarray) -> float:
    """Return the fence of good pictures' scores: the maps' own fences, joined as the maps are.

    Beyond it, a picture is far out in some map.

    Args:
        model: The model.
        strengths: Each map's own scores, `[N, maps]`.
    """
    limits = [upper_fence(column) for column in strengths.T]
    if len(limits) == 1:
        return limits[0]
    part = slice(0, 2) if model.score_is_map_maximum else slice(2, 4)
    normal = model.normal[:, part].double().cpu()
    return float(model.fuse([(f - n[0]) / n[1] for f, n in zip(limits, normal, strict=True)]))


# ------------------------------------------------------------------------------------------- one part alone


def calibrate_one_part(job: FitJob, patches: Patches, selections: Sequence[SelectedBank]) -> GoodValues:
    """Calibrate where all pictures show a single part: each against the banks as if it had never been there.

    A single picture is compared with its elements elsewhere, and no patch is nearer than to the whole bank.
    """
    patches = replace(patches, groups=torch.tensor(patches.numbers, device=patches.groups.device))
    banks = []
    for v, selection in enumerate(selections):
        points, groups = patches.points(v)
        chosen = groups[selection.result.indices]
        banks.append(SelectedBank(selection.branch, chosen, points, groups, selection.result))

    def raw(i: int) -> LeftOutPicture:
        inside = patches.pixel_mask(i)
        found = []
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
    """Return each patch's distance `[P]` to the nearest chosen patch of the same picture elsewhere.

    Chosen patches around it do not count. It is 0 outside the region, and where there is no such patch.

    Args:
        features: Features of the patches in the region, `[K, D]`.
        chosen: Numbers of the chosen patches among these, `[M]`.
        grid: Number of patches in a column and in a row.
        region: Which patches lie in the region, `[P]` bool.
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
