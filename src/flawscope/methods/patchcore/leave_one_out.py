"""Leave-one-out: each good picture against the memory banks as if it had never been there.

To take a picture's own elements out of the bank is not enough. They kept patches of other pictures out, so
that there are holes where they were, which a picture that was never there does not meet. Therefore the bank
is selected anew where it matters: around the patches of the left-out picture that are farthest from it. What
was picked before the picture's own elements would have been picked without them, and stays (decision 0016).

All pictures of one part, a group, are left out together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from flawscope.calibration.threshold import upper_fence
from flawscope.errors import InputError
from flawscope.methods.patchcore import coreset
from flawscope.methods.patchcore.model import BankView, Model, farthest_patch, reweight
from flawscope.methods.patchcore.patches import FitJob, Patches, nearest_distance, to_grid
from flawscope.methods.task import Fitted, LeaveOut, LeftOut
from flawscope.methods.threads import workers
from flawscope.progress import ProgressCounter

FARTHEST = 16  # patches of a picture around which the bank is selected anew; as many more until they suffice
FREED = 8  # elements nearest to each of them: those picked after the picture's own one nearby are freed
SPREAD_QUANTILE = 0.99  # of good pictures' map values: how far it lies above their mean is the maps' scale
SAMPLED = 61  # of so many pixels, one is looked at for it: a prime, so that no column is left out
ONE_PART = "leave-one-out needs pictures of at least two parts: give more good pictures"
ONE_PART_METHOD = "compared with itself elsewhere"  # how one part alone is calibrated
SURROUNDINGS = 1 / 8  # of a side: what is nearer to a patch in its own picture shows the same
BLOCK_ROWS = 512  # patches compared at once
COMPARED_ELEMENTS = 8  # with which a patch is compared before all others: most are near to one of them
NEXT_ELEMENTS = 3  # known of each patch where cells are full
FULL_CELLS = 30  # patches to an element
FEW_CANDIDATES = 1000  # patches that are compared with all at once
ROUNDING = 1e-3  # relative, of distances
KEPT_NEIGHBOURS = 128  # elements nearest to each of them, which else stay and keep new ones away


# ------------------------------------------------------------------------------------ a bank without a group


class SelectedBank:
    """A view's bank, in the order in which its elements were picked, and the patches that it is picked from.

    Every patch belongs to the cell of the element that is nearest to it. Methods are asked about one picture:
    its features [P, D], absolute; its group; its valid_mask [P], 1 where a patch counts; and the distances
    [P] of its patches to the elements of other groups.
    """

    def __init__(
        self, view: BankView, groups: Tensor, points: Tensor, point_groups: Tensor, result: coreset.Coreset
    ):
        """
        Args:
            groups: [M], of the bank's elements.
            points, point_groups: [N, D], absolute, and [N].
            result: of selecting the bank from them, with groups.
        """
        assert result.nearest is not None
        self.view, self.groups, self.points, self.point_groups = view, groups, points, point_groups
        self.result, self.radius = result, result.radius
        self.points_by_cell = result.nearest.argsort()
        self.cell_sizes = torch.bincount(result.nearest, minlength=len(groups))
        self.cell_starts = self.cell_sizes.cumsum(0) - self.cell_sizes
        self.next_elements: tuple[Tensor, Tensor] | None = None
        if len(points) >= FULL_CELLS * len(groups) > FULL_CELLS:
            self.next_elements = self._find_next_elements()

    def _cell(self, element: int) -> Tensor:
        """Rows of the patches that are nearest to an element."""
        first = int(self.cell_starts[element])
        return self.points_by_cell[first : first + int(self.cell_sizes[element])]

    def _find_next_elements(self) -> tuple[Tensor, Tensor]:
        """Numbers [N, K] of further elements near each patch, and their squared distances."""
        bank, norms, shape = self.view.bank, self.view.norms, (len(self.points), NEXT_ELEMENTS)
        numbers, squares = norms.new_zeros(shape, dtype=torch.int32), norms.new_full(shape, torch.inf)

        def search(elements: Tensor) -> None:
            away = torch.addmm(norms, bank[elements], bank.T, alpha=-2).scatter_(
                1, elements[:, None], torch.inf
            )
            near = away.topk(min(COMPARED_ELEMENTS, len(bank) - 1), largest=False).indices
            for element, others in zip(elements.tolist(), near, strict=True):
                rows = self._cell(element)
                points = self.points[rows] - self.view.centre
                away = torch.addmm(norms[others], points, bank[others].T, alpha=-2)
                found = away.topk(min(NEXT_ELEMENTS, len(others)), largest=False)
                count = found.indices.shape[1]
                numbers[rows, :count] = others[found.indices].int()
                squares[rows, :count] = found.values + (points * points).sum(1, keepdim=True)

        with workers(bank.device) as each:
            each(search, torch.arange(len(bank), device=bank.device).split(BLOCK_ROWS))
        return numbers, squares

    def score_without_group(
        self, features: Tensor, group: int, valid_mask: Tensor, distances: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The image score of a picture, and its patch distances [P], as if its group had never been there."""
        if distances is None:
            distances = distances_without(self.view, features, self.groups == group, valid_mask)
        hidden, added, distances = self.bank_without_group(features, group, distances, valid_mask)
        missing = torch.zeros_like(self.groups, dtype=torch.bool).index_fill_(0, hidden, True)
        return score_without(self.view, features, missing, valid_mask, distances, added), distances

    def bank_without_group(
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
            freed, added = self._select_again(features[far], group, own)
            exact = self._add_neighbours(far)
            found = self._distances(features, exact, own, freed, added, distances) * valid_mask
            deciding = self._deciding_patches(found)
            if len(far) >= most or torch.isin(deciding, far).all():
                return torch.cat([own, freed]), added, found
            # the farthest patches now: some of the first ones have come nearer
            further = found.topk(min(FARTHEST, most)).indices
            far = torch.cat([far, further, deciding]).unique()

    def _select_again(self, far: Tensor, group: int, own: Tensor) -> tuple[Tensor, Tensor]:
        """Further elements [L] missing and patches [K, D] added around patches [Q, D] of the group with
        `own`."""
        bank = self.view.bank
        square = torch.addmm(self.view.norms, far, bank.T, alpha=-2)  # but for |x|², which changes no order
        to_own = square[:, own]
        square[:, own] = torch.inf
        near = square.topk(min(KEPT_NEIGHBOURS, len(bank) - len(own)), largest=False)
        freed = near.indices[:, :FREED].unique()
        freed = freed[freed > own[torch.cdist(bank[freed], bank[own]).argmin(1)]]
        around = near.indices.unique()
        around = around[~torch.isin(around, freed)]
        lost = own[(to_own <= near.values[:, -1:]).any(0)]  # those farther off leave no hole here
        emptied = torch.cat([own, freed]), torch.cat([freed, lost])
        # with the elements themselves: those of a model that is extended have no patch here
        candidates = torch.cat([bank[freed], self._uncovered(*emptied, around, group)])
        return freed, candidates[coreset.cover(candidates, bank[around], self.radius)]

    def _uncovered(self, gone: Tensor, emptied: Tensor, around: Tensor, group: int) -> Tensor:
        """Patches [K, D], relative to the centre, of other groups in the cells of the elements `emptied`, but
        for most of those within the radius of elements that are not `gone`, which are never picked."""
        bank, sizes = self.view.bank, self.cell_sizes[emptied]
        cell = torch.arange(len(emptied), device=bank.device).repeat_interleave(sizes)
        first = (self.cell_starts[emptied] - (sizes.cumsum(0) - sizes))[cell]
        rows = self.points_by_cell[first + torch.arange(len(cell), device=bank.device)]
        wanted = self.point_groups[rows] != group
        if self.next_elements is not None:
            numbers, squares = (one[rows] for one in self.next_elements)
            missing = torch.zeros_like(self.groups, dtype=torch.bool).index_fill_(0, gone, True)
            wanted &= ((squares > self.radius**2) | missing[numbers]).all(1)
        points, cell = self.points[rows[wanted]] - self.view.centre, cell[wanted]
        square = torch.addmm(self.view.norms[around], bank[emptied], bank[around].T, alpha=-2)
        near = around[square.topk(min(COMPARED_ELEMENTS, len(around)), largest=False).indices]
        for elements in near.T:  # nearest to the cells' own first
            if len(points) <= FEW_CANDIDATES:
                break
            far = (points - bank[elements[cell]]).square().sum(1) > self.radius**2
            points, cell = points[far], cell[far]
        return points

    def _add_neighbours(self, patches: Tensor) -> Tensor:
        """Numbers of the patches and of those beside them, which the map is smoothed over."""
        mask = torch.zeros(1, *self.view.grid).to(self.view.bank.device)
        mask.view(-1)[patches] = 1
        return max_pool2d(mask, 3, stride=1, padding=1).flatten().nonzero().flatten()

    def _distances(
        self, features: Tensor, exact: Tensor, own: Tensor, freed: Tensor, added: Tensor, distances: Tensor
    ) -> Tensor:
        """Distances [P], exact for the patches numbered `exact`; elsewhere freed elements still count."""
        found, bank, norms = distances.clone(), self.view.bank, self.view.norms
        if len(freed):  # patches that are nearer to another element keep their distance
            near = nearest_distance(features[exact], bank[freed])
            exact = exact[near <= found[exact] * (1 + ROUNDING)]
            norms = norms.index_fill(0, torch.cat([own, freed]), torch.inf)
            found[exact] = self.view.search(features[None, exact], torch.ones(len(exact)).to(found), norms)[0]
        return torch.minimum(found, nearest_distance(features, added)) if len(added) else found

    def _deciding_patches(self, distances: Tensor) -> Tensor:
        """Numbers of the patches that decide the score: the farthest, and the cell with the map's maximum."""
        drawn = self.view.anomaly_map(distances[None])[0]
        (height, width), (h, w) = drawn.shape, self.view.grid
        pixel = drawn.argmax()
        cell = (pixel // width * h // height) * w + pixel % width * w // width
        return torch.stack([distances.argmax(), cell]).unique()


def distances_without(view: BankView, features: Tensor, hidden: Tensor, valid_mask: Tensor) -> Tensor:
    """Distances `[P]` of one picture's patches `[P, D]`, absolute, to a view's bank as if its `hidden` [M]
    elements were not there; 0 where `valid_mask` [P] is."""
    norms = view.norms.masked_fill(hidden, torch.inf)
    if not bool(norms.isfinite().any()):
        raise InputError(ONE_PART)
    return view.search((features - view.centre)[None], valid_mask, norms)[0]


def score_without(
    view: BankView,
    features: Tensor,
    hidden: Tensor,
    valid_mask: Tensor,
    distances: Tensor,
    added: Tensor,
) -> Tensor:
    """The image score of one picture as if the `hidden` [M] elements were not there, and `added` [K, D],
    relative to the centre, were; 0 where the score is of the map.

    Args:
        features, valid_mask: as for `distances_without`.
        distances: `[P]`, to the elements that are there.
    """
    if view.config.score == "map":
        return distances.new_zeros(())
    patch = farthest_patch((features - view.centre)[None], distances[None], valid_mask)[0]
    # the bank is not copied: every thread would need room for another one
    parts = [(view.bank, view.norms.masked_fill(hidden, torch.inf)), (added, (added * added).sum(1))]

    def away(point: Tensor) -> Tensor:
        return torch.cat([torch.addmv(norms, bank, point, alpha=-2) for bank, norms in parts])

    def element(index: int) -> Tensor:
        beyond = index - len(view.bank)
        return view.bank[index] if beyond < 0 else parts[1][0][beyond]

    present = sum(int(norms.isfinite().sum()) for _, norms in parts)
    b = min(view.config.neighbours, present)
    nearest = int(away(patch).argmin())
    around = away(element(nearest))
    around[nearest] = -torch.inf
    found = around.topk(b, largest=False, sorted=True).indices.tolist()
    neighbours = torch.stack([element(index) for index in found])
    return reweight(torch.linalg.vector_norm(patch - neighbours, dim=1)[None])[0] * valid_mask.amax(-1)


def left_out(
    model: Model, features: Tensor, group: int, kept: Mapping[str, Tensor], inside: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Score and map by the bank's other elements alone, which stays as poor where the group's own ones
    were. While a model is fitted, `LeaveOutOfBanks` does better."""
    if model.positions is not None:
        return left_out(model.at_position(0), features, group, kept, inside)
    scores, distances = [], []
    for v, (view, part) in enumerate(zip(model.views, model.parts(features), strict=True)):
        valid_mask = view.valid_mask(inside).view(-1)
        hidden = model.own_groups(kept[f"bank_groups.{v}"]) == group
        known = distances_without(view, part[0], hidden, valid_mask)
        scores.append(score_without(view, part[0], hidden, valid_mask, known, view.bank[:0])[None])
        distances.append(known[None])
    return model.combine(scores, distances, inside)


# -------------------------------------------------------------------------------------------------- pictures


@dataclass(frozen=True)
class LeftOutPicture:
    """Image score and patch distances [P] of every view; the pixels [H, W] that count, None: the region."""

    views: Sequence[tuple[Tensor, Tensor]]
    inside: Tensor | None

    def combine(self, model: Model) -> tuple[Tensor, Tensor]:
        """Score [1] and map [1, H, W]."""
        scores, distances = ([one[None] for one in part] for part in zip(*self.views, strict=True))
        return model.combine(scores, distances, None if self.inside is None else self.inside[None])


class LeaveOutOfBanks(LeaveOut):
    """Leaves groups out of the banks by selecting these anew. selections: of each view's bank, by position,
    or of position 0 alone; scored: by number, what was left out already."""

    has_bound = True
    model: Model

    def __init__(
        self,
        job: FitJob,
        fitted: Fitted,
        selections: Mapping[int, Sequence[SelectedBank]],
        scored: Mapping[int, LeftOutPicture],
    ):
        super().__init__(job.model, fitted, job.task.groups, job.first_group)
        self.selections, self.scored, self.located = selections, scored, job.model.positions is not None
        self.exact_positions = [*selections] if self.located else []

    def score(self, group: int, features: Tensor, inside: Tensor | None, position: int = 0) -> LeftOut | None:
        selections = self.selections.get(position if self.located else 0)
        if selections is None or group not in self.learnt:
            return self.bound(group, features, inside, position)
        return score_left_out(selections, features, self.first_group + group, inside).combine(self.model)

    def score_number(self, number: int) -> LeftOut | None:
        picture = self.scored.get(number)
        return None if picture is None else picture.combine(self.model)


@dataclass(frozen=True)
class GoodValues:
    """Leave-one-out values of the good pictures, [N] each. strengths: [N, sizes], each size's own score."""

    scores: np.ndarray
    maxima: np.ndarray
    medians: np.ndarray
    strengths: np.ndarray


def leave_one_out(
    job: FitJob, patches: Patches, selections: Sequence[SelectedBank], chosen: Sequence[int]
) -> GoodValues:
    """Calibrate on the pictures `chosen`, each against the banks as if its group had never been there."""
    distances = distances_to_others(patches, selections)
    advance = ProgressCounter(job.task.step, "leave-one-out", len(chosen))

    def raw(i: int) -> LeftOutPicture:
        found = [
            score_in_view(patches, i, v, selection, to_grid(distances[v][i], selection.view.inside.bool()))
            for v, selection in enumerate(selections)
        ]
        advance()
        return LeftOutPicture(found, patches.pixel_mask(i))

    with workers(job.device) as each:
        return calibrate(job, each(raw, chosen))


def scores_above(
    limit: float, model: Model, patches: Patches, selections: Sequence[SelectedBank], rows: Sequence[int]
) -> dict[int, float]:
    """Scores beyond a limit, by number, of left-out pictures in `rows`. The elements of other groups in the
    banks as they are give a score that is hardly ever lower, in a fraction of the time."""
    known = distances_to_others(patches, selections)

    def score(i: int) -> float:
        away = [to_grid(own[i], one.view.inside.bool()) for own, one in zip(known, selections, strict=True)]
        inside = patches.pixel_mask(i)
        if model.config.score == "map":
            found = LeftOutPicture([(one.amax(), one) for one in away], inside).combine(model)[0]
            if float(found) <= limit:
                return float(found)
        views = [score_in_view(patches, i, v, one, away[v]) for v, one in enumerate(selections)]
        return float(LeftOutPicture(views, inside).combine(model)[0])

    with workers(model.roi.device) as each:
        found = zip(rows, each(score, rows), strict=True)
    return {patches.numbers[i]: one for i, one in found if one > limit}


def distances_to_others(patches: Patches, selections: Sequence[SelectedBank]) -> list[Tensor]:
    """Distances [N, P] to the elements of other groups, per view, known from selecting the banks."""
    known = [selection.result.leave_out for selection in selections]
    return [patches.scatter_values(v, values) for v, values in enumerate(known) if values is not None]


def score_in_view(
    patches: Patches, i: int, v: int, selection: SelectedBank, distances: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Image score and patch distances [P] of picture i in view v (`SelectedBank.score_without_group`)."""
    view = selection.view
    features = to_grid(patches.features[v][i], view.inside.bool())
    return selection.score_without_group(
        features, int(patches.groups[i]), valid_mask_of(view, patches.pixel_mask(i)), distances
    )


def score_left_out(
    selections: Sequence[SelectedBank], features: Tensor, group: int, inside: Tensor | None
) -> LeftOutPicture:
    """Compare a picture, its features [P of all views, D] absolute, with the banks as if its group had never
    been there. inside: [H, W] bool, the pixels that count; None: the region of interest."""
    parts = features.split([selection.view.inside.numel() for selection in selections])
    pairs = [(one, part[:, : one.view.embedding.width]) for one, part in zip(selections, parts, strict=True)]
    views = [one.score_without_group(part, group, valid_mask_of(one.view, inside)) for one, part in pairs]
    return LeftOutPicture(views, inside)


def valid_mask_of(view: BankView, inside: Tensor | None) -> Tensor:
    """The patches [P] of one picture that count."""
    return view.valid_mask(None if inside is None else inside[None]).view(-1)


def calibrate(job: FitJob, raw: Sequence[LeftOutPicture]) -> GoodValues:
    """Bring the sizes to one scale, unless an earlier fit has done it, and combine them."""
    model, of_map = job.model, job.config.score == "map"

    def look(v: int, picture: LeftOutPicture) -> tuple[float, np.ndarray, float]:
        """The mean of a picture's map values in one view, some of them, and the view's own score, a distance:
        good pictures spread alike in its units."""
        score, distances = picture.views[v]
        values = model.views[v].anomaly_map(distances[None])[0][model.region(picture.inside)].cpu()
        strength = float(values.max() if of_map else score)
        return float(values.double().mean()), values[::SAMPLED].clone().numpy(), strength

    def join(picture: LeftOutPicture) -> tuple[float, float, float]:
        found, whole = picture.combine(model)
        return float(found), float(whole.max()), float(whole[0][model.region(picture.inside)].median())

    strengths = []
    with workers(job.device) as each:
        for v in range(len(model.normal)):
            means, samples, of_view = zip(*each(partial(look, v), raw), strict=True)
            strengths.append(of_view)
            if len(model.normal) > 1 and job.existing_banks is None:
                mean = float(np.mean(means))
                spread = max(0.0, float(np.quantile(np.concatenate(samples), SPREAD_QUANTILE)) - mean)
                scores = np.zeros(1) if of_map else np.array(of_view)
                # the scores of one picture have no spread: on the scale of its map
                of_scores = (float(scores.mean()), float(scores.std())) if len(scores) > 1 else (mean, spread)
                pairs = (mean, spread), of_scores
                numbers = [x for m, s in pairs for x in (m, max(s, 1e-6 * abs(m) + 1e-12))]
                model.normal[v] = torch.tensor(numbers)
        scores, maxima, medians = np.array(each(join, raw)).T
    return GoodValues(scores, maxima, medians, np.array(strengths).T)


def suspicion_fence(model: Model, strengths: np.ndarray) -> float:
    """The maps' fences, joined as the maps are, from strengths `[N, maps]`: beyond it a picture is far out in
    any."""
    limits = [upper_fence(column) for column in strengths.T]
    if len(limits) == 1:
        return limits[0]
    part = slice(0, 2) if model.config.score == "map" else slice(2, 4)
    normal = model.normal[:, part].double().cpu()
    return float(model.fuse([(f - n[0]) / n[1] for f, n in zip(limits, normal, strict=True)]))


# ------------------------------------------------------------------------------------------- one part alone


def calibrate_one_part(job: FitJob, patches: Patches, selections: Sequence[SelectedBank]) -> GoodValues:
    """Calibrate where all pictures show one part: each against the banks as if it had never been there. The
    only one is compared with its elements elsewhere, and no patch is nearer than to the whole bank."""
    patches = replace(patches, groups=torch.tensor(patches.numbers, device=patches.groups.device))
    banks = []
    for v, selection in enumerate(selections):
        points, groups = patches.points(v)
        chosen = groups[selection.result.indices]
        banks.append(SelectedBank(selection.view, chosen, points, groups, selection.result))

    def raw(i: int) -> LeftOutPicture:
        inside, found = patches.pixel_mask(i), []
        for v, bank in enumerate(banks):
            if bool((bank.groups == patches.groups[i]).all()):
                region, chosen = bank.view.inside.bool(), patches.place(v, i, bank.result.indices)
                away = distances_elsewhere(patches.features[v][i], chosen, bank.view.grid, region)
                known = to_grid(patches.scatter_values(v, bank.result.distances)[i], region)
                away = torch.maximum(away, known) * valid_mask_of(bank.view, inside)
            else:
                away = score_in_view(patches, i, v, bank)[1]
            # without Eq. 7's weight, which is at most 1: its neighbours would be of the patch itself
            found.append((away.amax(), away))
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
