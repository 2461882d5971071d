"""A memory bank as if a group, all pictures of a part, had never been there.

It is not enough to take a picture's own elements out of the bank. They kept patches of other pictures out,
and leave holes that a picture which was never there does not meet. Therefore the bank is selected anew where
it matters: around the patches of the left-out picture that are farthest from it and decide the score.
Elements picked before the picture's own elements would have been picked without them, and stay (decision
0016).
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

FARTHEST = 4  # patches of a picture around which the bank is selected anew at once, beside those that decide
FREED = 8  # elements nearest to each of them: those picked after the picture's own one nearby are freed
KEPT_NEIGHBOURS = 32  # elements nearest to each of them, which else stay and keep new ones away
FULL_CELLS = 30  # patches to an element, from which on the next elements of each are looked up beforehand
NEXT_ELEMENTS = 3
COMPARED_ELEMENTS = 8  # that these are looked for among
BLOCK_ELEMENTS = 512  # whose neighbours are found at once
ROUNDING = 1e-3  # relative, of distances
STRIDE = 4  # pixels: of so many in a row and in a column, one is looked at for the largest map value
ONE_PART = "leave-one-out needs pictures of at least two parts: give more good pictures"


class SelectedBank:
    """Bank of a branch in the order of picking, with the patches from which it was picked.

    Every patch belongs to the cell of its nearest element.
    """

    def __init__(
        self,
        branch: BankBranch,
        groups: Tensor,
        points: Tensor,
        point_groups: Tensor,
        result: coreset.Coreset,
    ):
        """Divide the patches into cells.

        Args:
            branch: The branch that has the bank.
            groups: Groups of the bank's elements, `[M]`.
            points: Absolute patches, `[N, D]`.
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
        if len(points) >= FULL_CELLS * len(groups) > FULL_CELLS:
            self.next_elements = self._find_next_elements()

    def cell(self, element: int) -> Tensor:
        """Return the rows of the patches whose nearest element this is."""
        first = int(self.cell_starts[element])
        return self.points_by_cell[first : first + int(self.cell_sizes[element])]

    def _find_next_elements(self) -> Tensor:
        """Return numbers `[N, K]` of further elements that cover each patch; M where fewer do."""
        bank = self.branch.bank
        norms = self.branch.norms
        shape = len(self.points), NEXT_ELEMENTS
        numbers = torch.full(shape, len(bank), dtype=torch.int32, device=bank.device)

        def search(elements: Tensor) -> None:
            away = torch.addmm(norms, bank[elements], bank.T, alpha=-2).scatter_(
                1, elements[:, None], torch.inf
            )
            near = away.topk(min(COMPARED_ELEMENTS, len(bank) - 1), largest=False).indices
            for element, others in zip(elements.tolist(), near, strict=True):
                rows = self.cell(element)
                points = self.points[rows] - self.branch.centre
                away = torch.addmm(norms[others], points, bank[others].T, alpha=-2)
                found = away.topk(min(NEXT_ELEMENTS, len(others)), largest=False)
                covers = found.values + (points * points).sum(1, keepdim=True) <= self.radius**2
                count = found.indices.shape[1]
                numbers[rows, :count] = others[found.indices].where(covers, len(bank)).int()

        with workers(bank.device) as each:
            each(search, torch.arange(len(bank), device=bank.device).split(BLOCK_ELEMENTS))
        return numbers

    def without_group(
        self, features: Tensor, group: int, valid_mask: Tensor, distances: Tensor | None = None
    ) -> BankWithout:
        """Return the bank as if a group had never been there, for a picture of the group.

        Args:
            features: Absolute patches of the picture, `[P, D]`.
            group: The group.
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
    """Selected bank as if a group had never been there.

    It is selected anew around some patches of a picture of that group (`look_at`).

    Attributes:
        missing: Elements that are not there, `[M]` bool.
        added: Patches of other pictures that take their place, `[K, D]`, relative to the branch's centre.
        distances: Distances of the picture's patches, `[P]`: exact for patches of `look_at` and beside them,
            elsewhere as if all elements of other groups had stayed.
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
        self._counted = valid_mask > 0
        # patches that were not looked at; without own elements, nothing was kept out
        is_changed = bool(len(self.own)) and selected.radius > 0
        self._left = self._counted.clone() if is_changed else torch.zeros_like(self._counted)

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
        """Return every `STRIDE`-th pixel of the anomaly map, from pixel `STRIDE // 2` on, `[h, w]`."""
        rows, columns = (
            coordinates[STRIDE // 2 :: STRIDE] for coordinates in (self.branch.rows, self.branch.columns)
        )
        return rows @ self.distances.view(self.branch.grid) @ columns.T

    def patch_at(self, pixel: Tensor, shape: torch.Size) -> Tensor:
        """Return the number of the patch at a pixel of a map of this shape."""
        (height, width), (h, w) = shape, self.branch.grid
        return (pixel // width * h // height) * w + pixel % width * w // width

    def look_at(self, patches: Tensor) -> bool:
        """Select the bank anew around some patches, and around those that are farthest now.

        Args:
            patches: Numbers of the patches.

        Returns:
            Whether the bank was not selected anew around some of them before.
        """
        far = patches[self._left[patches]]
        if not len(far):
            return False
        away = self.distances.masked_fill(~self._left, -1.0)
        count = min(FARTHEST, int(self._left.sum()))
        farthest = away.topk(count).indices
        far = torch.cat([far, farthest]).unique()
        self._left[far] = False
        freed, picks = self._select_again(self.features[far])
        self.missing = self.missing.index_fill(0, freed, True)
        self.added = torch.cat([self.added, picks])
        self.distances = self._distances(freed, picks) * self.valid_mask
        return True

    def _select_again(self, far: Tensor) -> tuple[Tensor, Tensor]:
        """Return further missing elements `[L]` and added patches `[K, D]` around patches `[Q, D]`."""
        bank = self.branch.bank
        kept_elements = self.own
        square = torch.addmm(self.branch.norms, far, bank.T, alpha=-2)  # but for |x|², which changes no order
        to_own = square[:, kept_elements]
        square.masked_fill_(self.missing, torch.inf)
        present = len(bank) - int(self.missing.sum())
        near = square.topk(min(KEPT_NEIGHBOURS, present), largest=False)
        freed = near.indices[:, :FREED].unique()
        freed = freed[freed > kept_elements[torch.cdist(bank[freed], bank[kept_elements]).argmin(1)]]
        around = near.indices.unique()
        around = around[~torch.isin(around, freed)]
        # those farther off than all these leave no hole here
        lost = kept_elements[(to_own <= near.values[:, -1:]).any(0)] if present else kept_elements
        # with the elements themselves: those of a model that is extended have no patch here
        candidates = torch.cat([bank[freed], self._uncovered(freed, torch.cat([freed, lost]))])
        start = torch.cat([bank[around], self.added])
        return freed, candidates[coreset.cover(candidates, start, self.selected.radius)]

    def _uncovered(self, freed: Tensor, emptied: Tensor) -> Tensor:
        """Return patches of other groups that may have lost the element that covered them.

        Args:
            freed: Elements that are taken out.
            emptied: Elements whose cells hold the patches, `[L]`.

        Returns:
            Patches `[K, D]`, relative to the centre, without those known to be near to an element that stays.
        """
        selected = self.selected
        sizes = selected.cell_sizes[emptied]
        first = (selected.cell_starts[emptied] - (sizes.cumsum(0) - sizes)).repeat_interleave(sizes)
        rows = selected.points_by_cell[first + torch.arange(len(first), device=first.device)]
        wanted = selected.point_groups[rows] != self.group
        if selected.next_elements is not None:
            gone = F.pad(self.missing.index_fill(0, freed, True), (0, 1), value=True)
            wanted &= gone[selected.next_elements[rows]].all(1)
        return selected.points[rows[wanted]] - self.branch.centre

    def _distances(self, freed: Tensor, picks: Tensor) -> Tensor:
        """Return the distances `[P]` after elements were taken out and others added.

        They are exact for patches of `look_at` and for those beside them, over which the map is smoothed;
        elsewhere freed elements still count.

        Args:
            freed: Elements that were taken out.
            picks: Patches that were added, `[K, D]`.
        """
        found = self.distances.clone()
        features = self.features
        if len(freed):
            looked_at = (self._counted & ~self._left).float().view(1, *self.branch.grid)
            exact = F.max_pool2d(looked_at, 3, stride=1, padding=1).flatten().nonzero().flatten()
            # patches that are nearer to another element keep their distance
            near = nearest_distance(features[exact], self.branch.bank[freed])
            exact = exact[near <= found[exact] * (1 + ROUNDING)]
            norms = self.branch.norms.masked_fill(self.missing, torch.inf)
            away = self.branch.search(features[None, exact], torch.ones(len(exact)).to(found), norms)[0]
            found[exact] = (
                away if not len(self.added) else away.minimum(nearest_distance(features[exact], self.added))
            )
        return torch.minimum(found, nearest_distance(features, picks)) if len(picks) else found


def settle(banks: Sequence[BankWithout], join: Callable[[Sequence[Tensor]], Tensor]) -> None:
    """Select the banks of a picture's branches anew until the deciding patches are exact.

    These are in each branch the patches that decide its score and its map's maximum, and the patch at the
    joined map's maximum.

    Args:
        banks: Bank of each branch without the picture's group.
        join: Joins the maps of all branches.
    """
    maps = [bank.coarse_map() for bank in banks]
    is_settled = False
    while not is_settled:
        joined = join(maps).argmax()
        is_settled = True
        for v, bank in enumerate(banks):
            peaks = [bank.patch_at(pixel, maps[v].shape) for pixel in (maps[v].argmax(), joined)]
            deciding = bank.picture_score.deciding_patches(bank.distances)
            if bank.look_at(torch.cat([deciding, torch.stack(peaks)]).unique()):
                maps[v], is_settled = bank.coarse_map(), False


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
