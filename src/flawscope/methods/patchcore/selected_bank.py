"""A memory bank as it would have been selected without a group: without all pictures of a part.

It is not enough to take the group's elements out of the bank. While they were there, they kept patches of
other pictures out: without both, the bank has holes, and a score would be too high. Therefore the bank is
selected anew where it matters, around the patches of the left-out picture that are farthest from it and
decide the score. Elements that were picked before the group's elements would have been picked without them,
too, and stay (decision 0016).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from flawscope.errors import InputError
from flawscope.methods.patchcore import coreset
from flawscope.methods.patchcore.model import BankBranch
from flawscope.methods.patchcore.patches import nearest_distance
from flawscope.methods.patchcore.scores import SCORES, PictureScore
from flawscope.methods.threads import workers

# The bank is selected anew around some patches of a picture at a time: those that decide, and some more
FARTHEST = 4  # number of the farthest patches that are taken, too
FREED = 8  # number of elements nearest to each patch that may be freed: taken out, to be picked again or not
KEPT_NEIGHBOURS = (
    32  # number of elements nearest to each patch that count; those that stay keep new ones away
)
# Some next elements of every patch are found in advance where an element has so many patches on average
FULL_CELLS = 30
NEXT_ELEMENTS = 3  # number of next elements of a patch
COMPARED_ELEMENTS = 8  # number of elements, near to the patch's nearest one, among which they are searched
BLOCK_ELEMENTS = 512  # number of elements whose neighbours are found at once
ROUNDING = 1e-3  # relative error of distances
STRIDE = 4  # pixels: a coarse map has every fourth row and column of a map
ONE_PART = "leave-one-out needs pictures of at least two parts: give more good pictures"


class SelectedBank:
    """Bank of a branch in the order of picking, with the patches from which it was picked.

    Every patch belongs to the cell of its nearest element.

    Attributes:
        points_by_cell: Numbers of the patches, `[N]`, one cell after the other.
        cell_sizes: Number of patches in the cell of each element, `[M]`.
        cell_starts: Where each element's cell begins in `points_by_cell`, `[M]`.
        next_elements: Numbers of up to K further elements within the radius of each patch, `[N, K]`. They
            cover the patch when its nearest element is gone. M stands for no element. None: they were not
            searched for.
    """

    def __init__(
        self,
        branch: BankBranch,
        groups: Tensor,
        points: Tensor,
        point_groups: Tensor,
        result: coreset.Coreset,
    ):
        """Divide the patches into cells: those of a cell have the same nearest element.

        Args:
            branch: The branch that has the bank.
            groups: Groups of the bank's elements, `[M]`.
            points: Patches, without the branch's centre subtracted, `[N, D]`.
            point_groups: Groups of the patches, `[N]`.
            result: Selection of the bank from the patches, with groups.
        """
        assert result.nearest is not None
        self.branch = branch
        self.groups = groups
        self.points = points
        self.point_groups = point_groups
        self.result = result
        self.radius = result.radius
        self.points_by_cell = result.nearest.argsort()
        self.cell_sizes = torch.bincount(result.nearest, minlength=len(groups))
        self.cell_starts = self.cell_sizes.cumsum(0) - self.cell_sizes
        self.next_elements: Tensor | None = None
        has_full_cells = len(points) >= FULL_CELLS * len(groups)
        if has_full_cells and len(groups) > 1:
            self.next_elements = self._find_next_elements()

    def cell(self, element: int) -> Tensor:
        """Return the numbers of the patches in the cell of an element."""
        start = int(self.cell_starts[element])
        return self.points_by_cell[start : start + int(self.cell_sizes[element])]

    def _find_next_elements(self) -> Tensor:
        """Return the numbers `[N, K]` of further elements within the radius of each patch, nearest first.

        Only elements near to the patch's nearest element are compared. If fewer than K are found, the row is
        filled up with M, the size of the bank.
        """
        bank = self.branch.bank
        norms = self.branch.norms
        no_element = len(bank)
        shape = len(self.points), NEXT_ELEMENTS
        next_elements = torch.full(shape, no_element, dtype=torch.int32, device=bank.device)

        def search(elements: Tensor) -> None:
            # |m|² - 2xm orders elements m as their distances to x do
            terms = torch.addmm(norms, bank[elements], bank.T, alpha=-2)
            terms.scatter_(1, elements[:, None], torch.inf)  # not the element itself
            neighbours = terms.topk(min(COMPARED_ELEMENTS, len(bank) - 1), largest=False).indices
            for element, candidates in zip(elements.tolist(), neighbours, strict=True):
                rows = self.cell(element)
                points = self.points[rows] - self.branch.centre
                point_terms = torch.addmm(norms[candidates], points, bank[candidates].T, alpha=-2)
                nearest = point_terms.topk(min(NEXT_ELEMENTS, len(candidates)), largest=False)
                squares = nearest.values + (points * points).sum(1, keepdim=True)
                is_covering = squares <= self.radius**2
                nearest_count = nearest.indices.shape[1]
                next_elements[rows, :nearest_count] = (
                    candidates[nearest.indices].where(is_covering, no_element).int()
                )

        with workers(bank.device) as map_blocks:
            map_blocks(search, torch.arange(len(bank), device=bank.device).split(BLOCK_ELEMENTS))
        return next_elements

    def without_group(
        self, features: Tensor, group: int, valid_mask: Tensor, distances: Tensor | None = None
    ) -> BankWithout:
        """Return the bank as it would have been selected without a group, for a picture of this group.

        Args:
            features: Absolute patches of the picture, `[P, D]`.
            group: Number of the group.
            valid_mask: Which patches count, `[P]`, 1 or 0.
            distances: Distances to the elements of other groups, `[P]`; None: not known.

        Raises:
            InputError: There is no other group.
        """
        if bool((self.groups == group).all()):
            raise InputError(ONE_PART)
        if distances is None:
            distances = distances_without(self.branch, features, self.groups == group, valid_mask)
        return BankWithout(self, features, group, valid_mask, distances)


class BankWithout:
    """Selected bank as it would have been selected without a group.

    It is selected anew around some patches of a picture of that group (`look_at`).

    Attributes:
        missing: Whether an element is gone, `[M]` bool: it is of the group, or freed.
        added: Patches of other pictures that replace missing elements, `[K, D]`, relative to the branch's
            centre.
        distances: Distances of the picture's patches, `[P]`. They are exact for the patches that were given
            to `look_at`, and for their neighbours; for the others, all elements of other groups count.
        own: Numbers of the group's elements.
    """

    def __init__(
        self, selected: SelectedBank, features: Tensor, group: int, valid_mask: Tensor, distances: Tensor
    ):
        self.selected = selected
        self.branch = selected.branch
        self.group = group
        self.features = features - self.branch.centre
        self.valid_mask = valid_mask
        self.missing = selected.groups == group
        self.own = self.missing.nonzero().flatten()
        self.added = self.features[:0]
        self.distances = distances * valid_mask
        self._is_counted = valid_mask > 0
        # Patches around which the bank may still be selected anew. There are none if the group has no
        # elements: then the group kept no other patch out of the bank
        can_change = len(self.own) > 0 and selected.radius > 0
        self._is_pending = self._is_counted.clone() if can_change else torch.zeros_like(self._is_counted)

    @property
    def picture_score(self) -> PictureScore:
        """Record of the setting `score`."""
        return SCORES[self.branch.config.score]

    def score(self) -> Tensor:
        """Return the image score."""
        features = self.features + self.branch.centre
        return self.picture_score.without(
            self.branch, features, self.missing, self.valid_mask, self.distances, self.added
        )

    def coarse_map(self) -> Tensor:
        """Return the anomaly map `[h, w]` at every `STRIDE`-th row and column, from `STRIDE // 2` on."""
        rows = self.branch.rows[STRIDE // 2 :: STRIDE]
        columns = self.branch.columns[STRIDE // 2 :: STRIDE]
        return rows @ self.distances.view(self.branch.grid) @ columns.T

    def patch_at(self, pixel: Tensor, shape: torch.Size) -> Tensor:
        """Return the number of the patch that covers a pixel of a map.

        Args:
            pixel: Number of the pixel in the map.
            shape: (height, width) of the map.
        """
        height, width = shape
        grid_height, grid_width = self.branch.grid
        pixel_row = pixel // width
        pixel_column = pixel % width
        row = pixel_row * grid_height // height
        column = pixel_column * grid_width // width
        return row * grid_width + column

    def look_at(self, patches: Tensor) -> bool:
        """Select the bank anew around some patches of the picture, and around its farthest patches.

        Patches of earlier calls are skipped. If all given patches are skipped, nothing changes.

        Args:
            patches: Numbers of the patches.

        Returns:
            Whether the bank was selected anew.
        """
        pending = patches[self._is_pending[patches]]
        if not len(pending):
            return False
        # -1 is below all distances
        pending_distances = self.distances.masked_fill(~self._is_pending, -1.0)
        farthest_count = min(FARTHEST, int(self._is_pending.sum()))
        farthest = pending_distances.topk(farthest_count).indices
        examined_patches = torch.cat([pending, farthest]).unique()
        self._is_pending[examined_patches] = False
        freed_elements, added_patches = self._select_again(self.features[examined_patches])
        self.missing = self.missing.index_fill(0, freed_elements, True)
        self.added = torch.cat([self.added, added_patches])
        self.distances = self._update_distances(freed_elements, added_patches) * self.valid_mask
        return True

    def _select_again(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Select the bank anew around patches, without changing this object.

        Elements near to the patches are freed if they were picked after the nearest element of the group.
        Patches that are then farther than the radius from all elements are added by the greedy rule.

        Args:
            patches: Patches of the picture, `[Q, D]`, relative to the centre.

        Returns:
            Numbers of elements to take out, `[L]`, and patches of other groups to add, `[K, D]`.
        """
        bank = self.branch.bank
        own = self.own
        # |m|² - 2xm orders elements m as their distances to x do
        terms = torch.addmm(self.branch.norms, patches, bank.T, alpha=-2)
        own_terms = terms[:, own]
        terms.masked_fill_(self.missing, torch.inf)
        present_count = len(bank) - int(self.missing.sum())
        nearest = terms.topk(min(KEPT_NEIGHBOURS, present_count), largest=False)
        # Of the nearest elements, those that were picked after the nearest own element are freed; numbers of
        # elements rise in the order of picking
        freed = nearest.indices[:, :FREED].unique()
        nearest_own = own[torch.cdist(bank[freed], bank[own]).argmin(1)]
        freed = freed[freed > nearest_own]
        neighbours = nearest.indices.unique()
        staying = neighbours[~torch.isin(neighbours, freed)]
        # an own element leaves a hole only around patches to which it is nearer than their last neighbour
        near_own = own
        if present_count:
            farthest_terms = nearest.values[:, -1:]
            near_own = own[(own_terms <= farthest_terms).any(0)]
        # Freed elements are candidates, too: in a model that is extended, they are no patches of this fit
        candidates = torch.cat([bank[freed], self._uncovered(freed, torch.cat([freed, near_own]))])
        start = torch.cat([bank[staying], self.added])
        return freed, candidates[coreset.cover(candidates, start, self.selected.radius)]

    def _uncovered(self, freed: Tensor, emptied: Tensor) -> Tensor:
        """Return the patches of other groups that may no longer have an element within the radius.

        Args:
            freed: Numbers of elements that are to be taken out.
            emptied: Numbers `[L]` of the elements whose cells are searched.

        Returns:
            Patches `[K, D]`, relative to the centre, without those that a next element is known to cover.
        """
        selected = self.selected
        sizes = selected.cell_sizes[emptied]
        # The cells are joined to one list. Its item k, in cell c, is `points_by_cell[k + offset of c]`
        joined_starts = sizes.cumsum(0) - sizes
        offsets = selected.cell_starts[emptied] - joined_starts
        item_offsets = offsets.repeat_interleave(sizes)
        items = torch.arange(len(item_offsets), device=item_offsets.device)
        rows = selected.points_by_cell[item_offsets + items]
        is_uncovered = selected.point_groups[rows] != self.group
        if selected.next_elements is not None:
            # an entry is appended for the number that stands for no element, which counts as gone
            is_gone = F.pad(self.missing.index_fill(0, freed, True), (0, 1), value=True)
            is_uncovered &= is_gone[selected.next_elements[rows]].all(1)
        return selected.points[rows[is_uncovered]] - self.branch.centre

    def _update_distances(self, freed: Tensor, picks: Tensor) -> Tensor:
        """Return the distances `[P]` after elements were taken out and patches added.

        They are exact for the patches of `look_at` and for their neighbours, over which the map is smoothed.
        For other patches, freed elements count as if they were still in the bank.

        Args:
            freed: Numbers of the elements that were taken out now.
            picks: Patches that were added now, `[K, D]`.
        """
        distances = self.distances.clone()
        features = self.features
        if len(freed):
            examined_map = (self._is_counted & ~self._is_pending).float().view(1, *self.branch.grid)
            exact_map = F.max_pool2d(examined_map, 3, stride=1, padding=1)  # with the neighbours
            exact_patches = exact_map.flatten().nonzero().flatten()
            # patches that are nearer to another element than to a freed one keep their distance
            freed_distances = nearest_distance(features[exact_patches], self.branch.bank[freed])
            exact_patches = exact_patches[freed_distances <= distances[exact_patches] * (1 + ROUNDING)]
            norms = self.branch.norms.masked_fill(self.missing, torch.inf)
            ones_mask = torch.ones(len(exact_patches)).to(distances)  # all these patches count
            exact_distances = self.branch.search(features[None, exact_patches], ones_mask, norms)[0]
            if len(self.added):
                exact_distances = exact_distances.minimum(
                    nearest_distance(features[exact_patches], self.added)
                )
            distances[exact_patches] = exact_distances
        if not len(picks):
            return distances
        return torch.minimum(distances, nearest_distance(features, picks))


def settle(banks: Sequence[BankWithout], join: Callable[[Sequence[Tensor]], Tensor]) -> None:
    """Select a picture's banks anew until the distances of its deciding patches are exact.

    In each branch, the deciding patches are those of its score, the patch at its map's maximum, and the patch
    at the joined map's maximum.

    Args:
        banks: Bank of each branch without the picture's group; they are changed.
        join: Joins the maps of all branches.
    """
    maps = [bank.coarse_map() for bank in banks]
    is_settled = False
    while not is_settled:
        is_settled = True
        joined_peak = join(maps).argmax()
        for v, bank in enumerate(banks):
            peaks = (maps[v].argmax(), joined_peak)
            peak_patches = torch.stack([bank.patch_at(pixel, maps[v].shape) for pixel in peaks])
            score_patches = bank.picture_score.deciding_patches(bank.distances)
            if bank.look_at(torch.cat([score_patches, peak_patches]).unique()):
                maps[v] = bank.coarse_map()
                is_settled = False


def distances_without(branch: BankBranch, features: Tensor, hidden: Tensor, valid_mask: Tensor) -> Tensor:
    """Return the distances `[P]` of a picture's patches to a branch's bank without some elements.

    Args:
        branch: The branch.
        features: Absolute patches, `[P, D]`.
        hidden: Elements to be ignored, `[M]` bool.
        valid_mask: Which patches count, `[P]`, 1 or 0; the others have distance 0.

    Raises:
        InputError: No element is left.
    """
    norms = branch.norms.masked_fill(hidden, torch.inf)
    if not bool(norms.isfinite().any()):
        raise InputError(ONE_PART)
    return branch.search((features - branch.centre)[None], valid_mask, norms)[0]
