"""A memory bank as if a group, all pictures of one part, had never been there.

To take a picture's own elements out of the bank is not enough. They kept patches of other pictures out, so
that there are holes where they were, which a picture that was never there does not meet. Therefore the bank
is selected anew where it matters: around the patches of the left-out picture that are farthest from it. What
was picked before the picture's own elements would have been picked without them, and stays (decision 0016).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from flawscope.errors import InputError
from flawscope.methods.patchcore import coreset
from flawscope.methods.patchcore.model import BankView, farthest_patch, reweight
from flawscope.methods.patchcore.patches import nearest_distance
from flawscope.methods.threads import workers

FARTHEST = 16  # patches of a picture around which the bank is selected anew; as many more until they suffice
FREED = 8  # elements nearest to each of them: those picked after the picture's own one nearby are freed
KEPT_NEIGHBOURS = 128  # elements nearest to each of them, which else stay and keep new ones away
COMPARED_ELEMENTS = 8  # with which a patch is compared before all others: most are near to one of them
FEW_CANDIDATES = 1000  # patches that are compared with all at once
FULL_CELLS = 30  # patches to an element, from which on the next elements of each are looked up beforehand
NEXT_ELEMENTS = 3
BLOCK_ELEMENTS = 512  # whose neighbours are found at once
ROUNDING = 1e-3  # relative, of distances
ONE_PART = "leave-one-out needs pictures of at least two parts: give more good pictures"


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
            each(search, torch.arange(len(bank), device=bank.device).split(BLOCK_ELEMENTS))
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
