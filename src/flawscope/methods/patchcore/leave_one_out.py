"""Leave-one-out: each good picture against the memory banks that its group had no part in."""

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

# A map's scale is the distance from the mean of good pictures' map values to this quantile of the values
SPREAD_QUANTILE = 0.99
SAMPLED = 5  # every fifth of the picked pixels is a sample for the quantile; no divisor of usual widths
FIRST_PICTURES = 32  # number of pictures for a first scale, by which the maps of all pictures are joined
ONE_PART_METHOD = "compared with itself elsewhere"  # `Fitted.how` where all pictures show one part
SURROUNDINGS = 1 / 8  # share of a side: patches of a picture that are nearer to each other show the same
BLOCK_ROWS = 512  # number of patches compared at once
# Tensors of a model file: the excess of `left_out` over the fit, for the score and the map's maximum of the
# pictures of K groups, [K, 2], and the numbers of these groups, [K]
EXCESS = "left_out_excess"
EXCESS_GROUPS = "left_out_groups"


def left_out_excess(model: Model, group: int, kept: Mapping[str, Tensor]) -> tuple[float, float]:
    """Return by how much `left_out` overestimates the score and the map's maximum of a group's pictures.

    The fit measured the excess over exact values, for which it selected the bank anew. A group that was not
    measured gets the median of the other groups. Older model files do not contain the excess: it is taken to
    be 0.

    Args:
        model: The model.
        group: Number of the group at fit.
        kept: Tensors of the model file.
    """
    excess = kept.get(EXCESS)
    groups = kept.get(EXCESS_GROUPS)
    if excess is None or groups is None or not len(excess):
        return 0.0, 0.0
    group_rows = excess[groups == group]
    row = group_rows[0] if len(group_rows) else excess.median(0).values
    score_excess, map_excess = row.tolist()
    return score_excess, map_excess


def measured_excess(
    good: GoodValues, groups: Sequence[int], old_tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the tensors for `left_out_excess`: each group's mean excess of the bounds over exact values.

    Args:
        good: Leave-one-out values of the pictures.
        groups: Groups of the pictures, `[N]`.
        old_tensors: Tensors of the model that is extended; groups without a picture in `good` keep their
            excess in them. Empty: the model is new.
    """
    excesses_by_group: dict[int, list[tuple[float, float]]] = {}
    for group, (score_bound, maximum_bound), values in zip(groups, good.bounds, good.values, strict=True):
        picture_excess = (score_bound - values.score, maximum_bound - values.maximum)
        excesses_by_group.setdefault(group, []).append(picture_excess)
    mean_by_group = {group: np.mean(excesses, axis=0) for group, excesses in excesses_by_group.items()}
    if EXCESS in old_tensors:
        old_groups = old_tensors[EXCESS_GROUPS].tolist()
        old_means = zip(old_groups, old_tensors[EXCESS].numpy(), strict=True)
        other_means = {group: mean for group, mean in old_means if group not in mean_by_group}
        mean_by_group = other_means | mean_by_group
    excess = np.array(list(mean_by_group.values()), np.float32).reshape(-1, 2)
    group_numbers = torch.tensor(list(mean_by_group), dtype=torch.int32)
    return {EXCESS: torch.from_numpy(excess), EXCESS_GROUPS: group_numbers}


def left_out(
    model: Model,
    features: Tensor,
    group: int,
    kept: Mapping[str, Tensor],
    inside: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Score a picture by the bank without its group's elements.

    The bank then has holes where these elements were, so that the score may be too high. While a model is
    fitted, `LeaveOutOfBanks` is more exact.

    Args:
        model: The model.
        features: Features of the picture from `embed`, in a batch of one.
        group: Number of the picture's group at fit.
        kept: Tensors of the model file.
        inside: The pixels that count, `[1, H, W]` bool; None: the region of interest.

    Returns:
        Score `[1]` and map `[1, H, W]`.
    """
    scores = []
    distances = []
    for v, (branch, patches) in enumerate(zip(model.branches, model.parts(features), strict=True)):
        picture_patches = patches[0]
        valid_mask = branch.valid_mask(inside).view(-1)
        hidden = kept[f"bank_groups.{v}"] == group
        branch_distances = distances_without(branch, picture_patches, hidden, valid_mask)
        no_elements = branch.bank[:0]
        score = model.picture_score.without(
            branch, picture_patches, hidden, valid_mask, branch_distances, added=no_elements
        )
        scores.append(score[None])
        distances.append(branch_distances[None])
    return model.combine(scores, distances, inside)


# -------------------------------------------------------------------------------------------------- pictures


@dataclass(frozen=True)
class LeftOutPicture:
    """Picture that was compared with banks without its group.

    Attributes:
        branches: Image score and patch distances `[P]` of every branch.
        inside: The pixels `[H, W]` that count; None: the region of interest.
        bounds: Upper bounds of `branches`, as `left_out` computes them: by the other groups' elements, while
            no bank is selected anew. Empty: not known.
    """

    branches: Sequence[tuple[Tensor, Tensor]]
    inside: Tensor | None
    bounds: Sequence[tuple[Tensor, Tensor]] = ()

    @classmethod
    def from_banks(cls, model: Model, banks: Sequence[BankWithout], inside: Tensor | None) -> LeftOutPicture:
        """Select banks anew around the patches that decide (`settle`), and return the picture's result.

        Args:
            model: The model.
            banks: Bank of each branch without the picture's group; they are changed.
            inside: The pixels `[H, W]` that count; None: the region of interest.
        """
        bounds = [(bank.score(), bank.distances) for bank in banks]  # before `settle` changes the banks
        settle(banks, model.join)
        branches = [(bank.score(), bank.distances) for bank in banks]
        return cls(branches, inside=inside, bounds=bounds)

    def combine(self, model: Model) -> tuple[Tensor, Tensor]:
        """Return score `[1]` and map `[1, H, W]`."""
        scores = [score[None] for score, _ in self.branches]
        distances = [branch_distances[None] for _, branch_distances in self.branches]
        batch_inside = None if self.inside is None else self.inside[None]
        return model.combine(scores, distances, batch_inside)

    def combine_bounds(self, model: Model) -> tuple[float, float] | None:
        """Return score and map's maximum as `left_out` gives them; None: not known."""
        if not self.bounds:
            return None
        score, joined_map = replace(self, branches=self.bounds).combine(model)
        return float(score), float(joined_map.max())


class LeaveOutOfBanks(LeaveOut):
    """Scorer that leaves a group out of the banks by selecting the banks anew.

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
        strengths: Score of each picture by each branch alone, `[N, branches]`.
        bounds: Score and map's maximum of each picture as `left_out` gives them; where these are not known,
            those of `values`.
    """

    values: list[Values]
    strengths: np.ndarray
    bounds: list[tuple[float, float]]

    @property
    def scores(self) -> np.ndarray:
        """Score of each picture, `[N]`."""
        return np.array([value.score for value in self.values])


def leave_one_out(
    job: FitJob, patches: Patches, selections: Sequence[SelectedBank], chosen: Sequence[int]
) -> GoodValues:
    """Calibrate by pictures, each compared with the banks that would have been selected without its group.

    Args:
        job: The fit.
        patches: Patches of the pictures.
        selections: The selected bank of each branch.
        chosen: Rows of the pictures to calibrate by.
    """
    other_distances = distances_to_others(patches, selections)
    advance = ProgressCounter(job.task.step, "leave-one-out", len(chosen))

    def distances_of(i: int) -> list[Tensor]:
        pairs = zip(other_distances, selections, strict=True)
        return [to_grid(distances[i], selection.branch.inside.bool()) for distances, selection in pairs]

    def leave_out(i: int) -> LeftOutPicture:
        picture = left_out_picture(job.model, patches, i, selections, distances_of(i))
        advance()
        return picture

    # `leave_out` needs the maps' scales: a few pictures set them first; `calibrate` sets them by all pictures
    first_pictures = []
    step = -(-len(chosen) // FIRST_PICTURES)  # rounded up
    for i in chosen[::step]:
        branches = [(distances.amax(), distances) for distances in distances_of(i)]
        first_pictures.append(LeftOutPicture(branches, inside=patches.pixel_mask(i)))
    with workers(job.device) as map_rows:
        set_scales(job, first_pictures)
        return calibrate(job, map_rows(leave_out, chosen))


def scores_above(
    limit: float, model: Model, patches: Patches, selections: Sequence[SelectedBank], rows: Sequence[int]
) -> dict[int, float]:
    """Return the scores above a limit of left-out pictures, by the pictures' numbers.

    If the score is the map's maximum, a faster score is computed first: the banks are not selected anew, but
    the elements of the picture's group are left out of them. This score is hardly ever too low: if it is not
    above the limit, the exact score is not needed.

    Args:
        limit: The limit.
        model: The model.
        patches: Patches of the pictures.
        selections: The selected bank of each branch.
        rows: Rows of the pictures to score.
    """
    other_distances = distances_to_others(patches, selections)

    def score(i: int) -> float:
        pairs = zip(other_distances, selections, strict=True)
        picture_distances = [
            to_grid(distances[i], selection.branch.inside.bool()) for distances, selection in pairs
        ]
        if model.score_is_map_maximum:
            branches = [(distances.amax(), distances) for distances in picture_distances]
            fast_score, _ = LeftOutPicture(branches, inside=patches.pixel_mask(i)).combine(model)
            if float(fast_score) <= limit:
                return float(fast_score)
        picture = left_out_picture(model, patches, i, selections, picture_distances)
        exact_score, _ = picture.combine(model)
        return float(exact_score)

    with workers(model.roi.device) as map_rows:
        scores = map_rows(score, rows)
    return {patches.numbers[i]: value for i, value in zip(rows, scores, strict=True) if value > limit}


def distances_to_others(patches: Patches, selections: Sequence[SelectedBank]) -> list[Tensor]:
    """Return, for each branch, the distances `[N, P]` of patches to the nearest element of another group.

    The selection has computed them.
    """
    point_distances = [selection.result.leave_out for selection in selections]
    return [
        patches.scatter_values(v, values) for v, values in enumerate(point_distances) if values is not None
    ]


def bank_without(
    patches: Patches, i: int, v: int, selection: SelectedBank, distances: Tensor | None = None
) -> BankWithout:
    """Return branch v's bank as it would have been selected without picture i's group.

    Args:
        patches: Patches of the pictures.
        i: Row of the picture.
        v: Number of the branch.
        selection: The branch's selected bank.
        distances: Distances to the elements of other groups, `[P]`; None: not known.
    """
    branch = selection.branch
    features = to_grid(patches.features[v][i], branch.inside.bool())
    valid_mask = valid_mask_of(branch, patches.pixel_mask(i))
    return selection.without_group(features, int(patches.groups[i]), valid_mask, distances)


def distances_in_branch(patches: Patches, i: int, v: int, selection: SelectedBank) -> Tensor:
    """Return the distances `[P]` of picture i to branch v's bank, as selected without the picture's group.

    Args:
        patches: Patches of the pictures.
        i: Row of the picture.
        v: Number of the branch.
        selection: The branch's selected bank.
    """
    bank = bank_without(patches, i, v, selection)
    settle([bank], join=itemgetter(0))  # the joined map is the only map
    return bank.distances


def left_out_picture(
    model: Model,
    patches: Patches,
    i: int,
    selections: Sequence[SelectedBank],
    distances: Sequence[Tensor | None],
) -> LeftOutPicture:
    """Compare picture i with the banks that would have been selected without its group.

    Args:
        model: The model.
        patches: Patches of the pictures.
        i: Row of the picture.
        selections: The selected bank of each branch.
        distances: Distances `[P]` of each branch to the elements of other groups; None: not known.
    """
    banks = [
        bank_without(patches, i, v, selection, branch_distances)
        for v, (selection, branch_distances) in enumerate(zip(selections, distances, strict=True))
    ]
    return LeftOutPicture.from_banks(model, banks, patches.pixel_mask(i))


def score_left_out(
    model: Model, selections: Sequence[SelectedBank], features: Tensor, group: int, inside: Tensor | None
) -> LeftOutPicture:
    """Compare a picture with the banks that would have been selected without its group.

    Args:
        model: The model.
        selections: The selected bank of each branch.
        features: Absolute features of all branches' patches, `[P, D]`.
        group: Number of the picture's group.
        inside: The pixels that count, `[H, W]` bool; None: the region of interest.
    """
    features_by_branch = features.split([selection.branch.inside.numel() for selection in selections])
    banks = []
    for selection, branch_features in zip(selections, features_by_branch, strict=True):
        branch = selection.branch
        patches = branch_features[:, : branch.embedding.width]
        banks.append(selection.without_group(patches, group, valid_mask_of(branch, inside)))
    return LeftOutPicture.from_banks(model, banks, inside)


def valid_mask_of(branch: BankBranch, inside: Tensor | None) -> Tensor:
    """Return which patches `[P]` of a picture count, 1 or 0, by its pixels `[H, W]` that count."""
    return branch.valid_mask(None if inside is None else inside[None]).view(-1)


def set_scales(job: FitJob, pictures: Sequence[LeftOutPicture]) -> np.ndarray:
    """Set the scales of all branches (`Model.normal`). A model that is extended keeps its scales.

    On these scales, the maps of good pictures have similar values in all branches.

    Args:
        job: The fit, whose model is changed.
        pictures: N left-out good pictures.

    Returns:
        Score of each picture by each branch alone, `[N, branches]`, before it is scaled.
    """
    model = job.model
    scores_by_branch = list[tuple[float, ...]]()
    is_map_score = model.score_is_map_maximum

    def measure(v: int, picture: LeftOutPicture) -> tuple[float, np.ndarray, float, float]:
        """Return mean, sample and maximum of a branch's map values, and the score by the branch alone."""
        score, distances = picture.branches[v]
        branch_map = model.branches[v].anomaly_map(distances[None])[0]
        region = model.region(picture.inside)
        values = pick_pixels(branch_map, region).cpu()
        maximum = float(branch_map.where(region, 0.0).max())
        branch_score = maximum if is_map_score else float(score)
        mean = float(values.double().mean())
        sample = values[::SAMPLED].clone().numpy()
        return mean, sample, maximum, branch_score

    must_set_scales = len(model.normal) > 1 and job.existing_banks is None
    with workers(job.device) as map_pictures:
        for v in range(len(model.normal)):
            measurements = map_pictures(partial(measure, v), pictures)
            means, samples, maxima, branch_scores = zip(*measurements, strict=True)
            scores_by_branch.append(branch_scores)
            if not must_set_scales:
                continue
            mean = float(np.mean(means))
            if model.branches[v].second:
                spread = float(np.median(maxima)) - mean
            else:
                spread = max(0.0, float(np.quantile(np.concatenate(samples), SPREAD_QUANTILE)) - mean)
            score_mean, score_spread = mean, spread
            if not is_map_score and len(branch_scores) > 1:  # the score of one picture has no spread
                score_mean, score_spread = float(np.mean(branch_scores)), float(np.std(branch_scores))
            map_divisor = _positive_spread(mean, spread)
            score_divisor = _positive_spread(score_mean, score_spread)
            model.normal[v] = torch.tensor([mean, map_divisor, score_mean, score_divisor])
    return np.array(scores_by_branch).T


def _positive_spread(mean: float, spread: float) -> float:
    """Return the spread, but at least a tiny number above 0, because values are divided by it."""
    return max(spread, 1e-6 * abs(mean) + 1e-12)


def pick_pixels(values: Tensor, region: Tensor) -> Tensor:
    """Return the values of a map at every `STRIDE`-th pixel of a region; of a tiny region, all values.

    Args:
        values: The map, `[H, W]`.
        region: The region, `[H, W]` bool.
    """
    coarse = slice(STRIDE // 2, None, STRIDE)
    coarse_region = region[coarse, coarse]
    if bool(coarse_region.any()):
        return values[coarse, coarse][coarse_region]
    return values[region]


def calibrate(job: FitJob, pictures: Sequence[LeftOutPicture]) -> GoodValues:
    """Set the scales of all branches (`set_scales`), and return the values of left-out pictures."""
    model = job.model
    strengths = set_scales(job, pictures)

    def measure(picture: LeftOutPicture) -> tuple[Values, tuple[float, float]]:
        """Return the values of a picture, and its score and map's maximum as `left_out` gives them."""
        score, maps = picture.combine(model)
        pixels = pick_pixels(maps[0], model.region(picture.inside))
        values = Values(float(score), float(maps.max()), float(pixels.median()))
        bounds = picture.combine_bounds(model)
        if bounds is None:  # not known: the exact values take their place, so that the excess is 0
            bounds = (values.score, values.maximum)
        return values, bounds

    with workers(job.device) as map_pictures:
        values, bounds = zip(*map_pictures(measure, pictures), strict=True)
        return GoodValues(values=[*values], strengths=strengths, bounds=[*bounds])


def suspicion_fence(model: Model, strengths: np.ndarray) -> float:
    """Return the score beyond which a picture is unusual in some branch's map.

    Each branch has a fence of its own; the fences are scaled and joined as the maps are.

    Args:
        model: The model.
        strengths: Score of each picture by each branch alone, `[N, branches]`.
    """
    fences = [upper_fence(column) for column in strengths.T]
    if len(fences) == 1:
        return fences[0]
    # columns of `Model.normal`: mean and spread of map values, or of scores
    columns = slice(0, 2) if model.score_is_map_maximum else slice(2, 4)
    scales = model.normal[:, columns].double().cpu()
    scaled_fences = [(fence - mean) / spread for fence, (mean, spread) in zip(fences, scales, strict=True)]
    return float(model.fuse(scaled_fences))


# ------------------------------------------------------------------------------------------- one part alone


def calibrate_one_part(job: FitJob, patches: Patches, selections: Sequence[SelectedBank]) -> GoodValues:
    """Calibrate where all pictures show a single part: each picture is left out of the banks as a group.

    If all elements of a bank are from one picture, this picture's patches are compared with its own elements,
    except those near to the compared patch. The distances are then at least those to the entire bank.
    """
    patches = replace(patches, groups=torch.tensor(patches.numbers, device=patches.groups.device))
    banks = []
    for v, selection in enumerate(selections):
        points, groups = patches.points(v)
        element_groups = groups[selection.result.indices]
        bank = SelectedBank(
            selection.branch,
            groups=element_groups,
            points=points,
            point_groups=groups,
            result=selection.result,
        )
        banks.append(bank)

    def distances_in_bank(i: int, v: int, bank: SelectedBank) -> Tensor:
        """Return the distances `[P]` of picture i to branch v's bank without the picture."""
        is_only_picture = bool((bank.groups == patches.groups[i]).all())
        if not is_only_picture:
            return distances_in_branch(patches, i, v, bank)
        region = bank.branch.inside.bool()
        own_elements = patches.place(v, i, bank.result.indices)
        own_distances = distances_elsewhere(patches.features[v][i], own_elements, bank.branch.grid, region)
        bank_distances = to_grid(patches.scatter_values(v, bank.result.distances)[i], region)
        valid_mask = valid_mask_of(bank.branch, patches.pixel_mask(i))
        return torch.maximum(own_distances, bank_distances) * valid_mask

    def leave_out(i: int) -> LeftOutPicture:
        branches = []
        for v, bank in enumerate(banks):
            distances = distances_in_bank(i, v, bank)
            branches.append((job.model.picture_score.of_distances(distances), distances))
        return LeftOutPicture(branches, inside=patches.pixel_mask(i))

    with workers(job.device) as map_rows:
        return calibrate(job, map_rows(leave_out, range(len(patches.pictures))))


def distances_elsewhere(features: Tensor, chosen: Tensor, grid: tuple[int, int], region: Tensor) -> Tensor:
    """Return each patch's distance `[P]` to the nearest element from elsewhere in the same picture.

    Elements in the patch's surroundings do not count. The distance is 0 for a patch outside the region, and
    for a patch if all elements are in its surroundings.

    Args:
        features: Features of the patches in the region, `[K, D]`.
        chosen: Numbers of the elements among these patches, `[M]`.
        grid: Number of rows and of columns of patches.
        region: Which patches lie in the region, `[P]` bool.
    """
    patch_numbers = region.nonzero().flatten()
    _, columns = grid
    positions = torch.stack([patch_numbers // columns, patch_numbers % columns], 1)  # row and column
    reach = torch.tensor([side * SURROUNDINGS for side in grid], device=positions.device)
    blocks = []
    for rows in torch.arange(len(positions), device=positions.device).split(BLOCK_ROWS):
        is_around = ((positions[rows, None] - positions[chosen]).abs() <= reach).all(2)
        distances = torch.cdist(features[rows], features[chosen])
        blocks.append(distances.masked_fill(is_around, torch.inf).amin(1))
    grid_distances = torch.zeros(len(region), device=positions.device)
    grid_distances[region] = torch.cat(blocks).nan_to_num(posinf=0.0)
    return grid_distances
