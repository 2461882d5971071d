"""A memory bank as if a group of pictures had never been there.

To take a group's own elements out of the bank is not enough. They kept patches of other pictures out, so that
there are holes where they were, which a picture that was never there does not meet. Therefore the bank is
selected anew where it matters: around the patches of the left-out pictures that are farthest from it. What
was picked before the group's own elements would have been picked without them, and stays.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from flawscope.errors import InputError
from flawscope.methods.patchcore import coreset
from flawscope.methods.patchcore.memory_bank import ONE_PART, View

FARTHEST = 16  # patches of a picture around which the bank is selected anew; as many more until they suffice
FREED = 8  # elements nearest to each of them: those picked after the picture's own one nearby are freed
AROUND = 128  # elements nearest to each of them, which else stay and keep new ones away


@dataclass(frozen=True)
class Absence:
    """What a bank is without a group.

    hidden: [L] int64, its elements that are not there.
    added: [K, D], patches of other pictures that are there instead, relative to the bank's centre.
    """

    hidden: Tensor
    added: Tensor


class Selection:
    """A view's bank, in the order in which its elements were picked, and the patches that it is picked from.

    Every patch belongs to the cell of the element that is nearest to it.
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
        self.radius = result.radius
        self.by_cell = result.nearest.argsort()
        counts = torch.bincount(result.nearest, minlength=len(groups))
        self.starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)]).tolist()

    def absence(
        self, features: Tensor, group: int, distances: Tensor, counted: Tensor
    ) -> tuple[Absence, Tensor]:
        """The bank without `group`, and what it is away from the patches of one picture of the group [P].

        Args:
            features: [P, D], absolute.
            distances: [P], to the elements of other groups.
            counted: [P], 1 where a patch counts.

        Raises:
            InputError: there is no other group.
        """
        own = (self.groups == group).nonzero().flatten()
        if len(own) == len(self.groups):
            raise InputError(ONE_PART)
        distances = distances * counted
        absence = Absence(own, self.points[:0])
        if not len(own) or not self.radius > 0:  # nothing was kept out
            return absence, distances
        features, most = features - self.view.centre, int(counted.sum())
        far = distances.topk(min(FARTHEST, most)).indices
        while True:
            absence = self._anew(features[far], group, own)
            found = self._distances(features, self._with_neighbours(far), absence, distances) * counted
            deciding = self._deciding(found)
            if len(far) >= most or torch.isin(deciding, far).all():
                return absence, found
            # those that are the farthest now: of the first ones some have come nearer
            further = found.topk(min(FARTHEST, most)).indices
            far = torch.cat([far, further, deciding]).unique()

    def _anew(self, far: Tensor, group: int, own: Tensor) -> Absence:
        """The bank around patches [Q, D] of the group, whose elements are `own`."""
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
            return Absence(own, candidates)
        start = bank[around] if len(around) else None
        picked = coreset.select(candidates, len(candidates), start=start, until=self.radius)
        return Absence(torch.cat([own, freed]), candidates[picked.indices])

    def _with_neighbours(self, patches: Tensor) -> Tensor:
        """Numbers of these patches and of those beside them, which the map is smoothed over."""
        mask = torch.zeros(1, *self.view.grid).to(self.view.bank.device)
        mask.view(-1)[patches] = 1
        return max_pool2d(mask, 3, stride=1, padding=1).flatten().nonzero().flatten()

    def _distances(self, features: Tensor, exact: Tensor, absence: Absence, distances: Tensor) -> Tensor:
        """[P], right for the patches `exact`; the others may be farther: freed elements still count there."""
        view = self.view
        norms = view.norms.index_fill(0, absence.hidden, torch.inf)
        found = distances.clone()
        found[exact] = view.search(features[None, exact], torch.ones(len(exact)).to(distances), norms)[0]
        if len(absence.added):
            to_added = nearest_distance(features, absence.added)
            found = torch.minimum(found, to_added)
        return found

    def _deciding(self, distances: Tensor) -> Tensor:
        """Numbers of the patches that decide the score: the farthest one, and the cell with the map's
        maximum."""
        drawn = self.view.anomaly_map(distances[None])[0]
        (height, width), (h, w) = drawn.shape, self.view.grid
        row, column = divmod(int(drawn.argmax()), width)
        cell = (row * h // height) * w + column * w // width
        return torch.stack([distances.argmax(), distances.new_tensor(cell, dtype=torch.long)])


def nearest_distance(features: Tensor, elements: Tensor) -> Tensor:
    """[P] from features [P, D] to the nearest of elements [K, D]."""
    square = torch.addmm((elements * elements).sum(1), features, elements.T, alpha=-2).amin(1)
    return (square + (features * features).sum(1)).clamp(min=0).sqrt()
