"""Scores of a picture by its patches' distances to the memory bank: a record for each value of `score`.

Inference, calibration and comparison use the record of the setting. A further score is a value of
`Config.score` and a record in `SCORES`; the contract's checks run for each.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from flawscope.methods.patchcore.record import Config

TIE_TOLERANCE = 1e-5  # relative


class MemoryBank(Protocol):
    """Memory bank that a score uses (`model.BankBranch`).

    Attributes:
        config: Settings of the model.
        centre: Mean of the elements, `[D]`.
        bank: Elements relative to the mean, `[M, D]`.
        norms: Squared lengths of these, `[M]`.
        table: Nearest elements of each element, itself first, `[M, b]`.
    """

    config: Config
    centre: Tensor
    bank: Tensor
    norms: Tensor
    table: Tensor


class PictureScore(ABC):
    """Score of pictures, by a memory bank.

    Attributes:
        is_map_maximum: Whether it is the maximum of all banks' joined map; then a bank has no own score.
        needs_table: Whether it needs the neighbours of bank elements.
    """

    is_map_maximum = False
    needs_table = False

    @abstractmethod
    def of_pictures(
        self, branch: MemoryBank, features: Tensor, distances: Tensor, valid_mask: Tensor
    ) -> Tensor:
        """Return the scores `[B]` of pictures.

        Args:
            branch: The memory bank.
            features: Patches `[B, P, D]`, relative to the bank's centre.
            distances: Distances of the patches to the bank, `[B, P]`.
            valid_mask: Which patches count, 1 or 0.
        """

    @abstractmethod
    def without(
        self,
        branch: MemoryBank,
        features: Tensor,
        hidden: Tensor,
        valid_mask: Tensor,
        distances: Tensor,
        added: Tensor,
    ) -> Tensor:
        """Return the score of a picture by a bank with other elements.

        Args:
            branch: The memory bank.
            features: Absolute patches of the picture, `[P, D]`.
            hidden: Elements to be ignored, `[M]` bool.
            valid_mask: Which patches count, `[P]`, 1 or 0.
            distances: Distances of the patches to the remaining and the added elements, `[P]`.
            added: Further elements, `[K, D]`, relative to the centre.
        """

    @abstractmethod
    def of_distances(self, distances: Tensor) -> Tensor:
        """Return the score by distances `[P]` alone, where the bank's elements are of the picture itself."""

    @abstractmethod
    def deciding_patches(self, distances: Tensor) -> Tensor:
        """Return the patches, by number, that decide the score of distances `[P]`: these must be exact."""

    @abstractmethod
    def ties(self, branch: MemoryBank, features: Tensor, distances: Tensor, valid_mask: Tensor) -> Tensor:
        """Return, `[B]` bool, whether rounding alone decides a tie on which a picture's score rests."""


class MapMaximum(PictureScore):
    """Score that is the maximum of the map."""

    is_map_maximum = True

    def of_pictures(
        self, branch: MemoryBank, features: Tensor, distances: Tensor, valid_mask: Tensor
    ) -> Tensor:
        """Return zeros `[B]`: the joined map has the score."""
        return distances.new_zeros(len(distances))  # the joined map has it

    def without(
        self,
        branch: MemoryBank,
        features: Tensor,
        hidden: Tensor,
        valid_mask: Tensor,
        distances: Tensor,
        added: Tensor,
    ) -> Tensor:
        """Return 0: the joined map has the score."""
        return distances.new_zeros(())

    def of_distances(self, distances: Tensor) -> Tensor:
        """Return the largest distance."""
        return distances.amax()

    def deciding_patches(self, distances: Tensor) -> Tensor:
        """Return the number of the farthest patch; patches at the maxima of maps decide too."""
        return distances.argmax()[None]

    def ties(self, branch: MemoryBank, features: Tensor, distances: Tensor, valid_mask: Tensor) -> Tensor:
        """Return False for each picture: no tie changes a maximum."""
        return torch.zeros(len(features), dtype=torch.bool)


class Reweighted(PictureScore):
    """Score of Eq. 6 and 7: the farthest patch's distance, weighted by how crowded its nearest element is."""

    needs_table = True

    def of_pictures(
        self, branch: MemoryBank, features: Tensor, distances: Tensor, valid_mask: Tensor
    ) -> Tensor:
        """Return the scores `[B]` by the farthest patches' nearest elements and the table of neighbours."""
        patch = farthest_patch(features, distances, valid_mask)  # m_t*, [B, D]
        nearest = torch.addmm(branch.norms, patch, branch.bank.T, alpha=-2).argmin(1)  # m*
        neighbours = branch.bank[branch.table[nearest].long()]  # N_b(m*), itself first: [B, b, D]
        return reweight(torch.linalg.vector_norm(patch[:, None] - neighbours, dim=2)) * valid_mask.amax(-1)

    def without(
        self,
        branch: MemoryBank,
        features: Tensor,
        hidden: Tensor,
        valid_mask: Tensor,
        distances: Tensor,
        added: Tensor,
    ) -> Tensor:
        """Return the score of a picture; the neighbours are searched among the present elements."""
        patch = farthest_patch((features - branch.centre)[None], distances[None], valid_mask)[0]
        # the bank is not copied: every thread would need room for another one
        parts = [(branch.bank, branch.norms.masked_fill(hidden, torch.inf)), (added, (added * added).sum(1))]

        def away(point: Tensor) -> Tensor:
            return torch.cat([torch.addmv(norms, bank, point, alpha=-2) for bank, norms in parts])

        def element(index: int) -> Tensor:
            beyond = index - len(branch.bank)
            return branch.bank[index] if beyond < 0 else parts[1][0][beyond]

        present = sum(int(norms.isfinite().sum()) for _, norms in parts)
        b = min(branch.config.neighbours, present)
        nearest = int(away(patch).argmin())
        around = away(element(nearest))
        around[nearest] = -torch.inf
        found = around.topk(b, largest=False, sorted=True).indices.tolist()
        neighbours = torch.stack([element(index) for index in found])
        return reweight(torch.linalg.vector_norm(patch - neighbours, dim=1)[None])[0] * valid_mask.amax(-1)

    def of_distances(self, distances: Tensor) -> Tensor:
        """Return the largest distance, without the weight of at most 1.

        The neighbours for the weight would be of the patch itself.
        """
        return distances.amax()

    def deciding_patches(self, distances: Tensor) -> Tensor:
        """Return the number of the farthest patch."""
        return distances.argmax()[None]

    def ties(self, branch: MemoryBank, features: Tensor, distances: Tensor, valid_mask: Tensor) -> Tensor:
        """Return, `[B]` bool, whether another patch is as far, or another element as near, within 1e-5.

        The patch is compared with the farthest patch, the element with its nearest element; 1e-5 is relative
        to the distance. Equal patches or elements do not count: they give the same score.
        """
        found = []
        patches = farthest_patch(features, distances, valid_mask)
        for branch_features, away, patch in zip(features, distances, patches, strict=True):
            far = branch_features[away >= away.max() * (1 - TIE_TOLERANCE)]
            # not by a product, whose rounding is as large as the differences looked for
            near = torch.cdist(patch[None], branch.bank, compute_mode="donot_use_mm_for_euclid_dist")[0]
            close = branch.bank[near <= near.min() * (1 + TIE_TOLERANCE)]
            found.append(bool((far != patch).any() or (close != close[:1]).any()))
        return torch.tensor(found)


SCORES: Mapping[str, PictureScore] = {"map": MapMaximum(), "reweighted": Reweighted()}


def farthest_patch(features: Tensor, distances: Tensor, valid_mask: Tensor) -> Tensor:
    """Return the patch `[B, D]` with the largest distance (Eq. 6) among those that count."""
    index = distances.masked_fill(valid_mask == 0, -1.0).argmax(1)
    return features[torch.arange(features.shape[0], device=features.device), index]


def reweight(distances: Tensor) -> Tensor:
    """Return Eq. 7: s = (1 - softmax over N_b(m*) of ||m_t* - m||, taken at m*) * ||m_t* - m*||.

    With b = 1 the factor would be 0, and is left out. The softmax subtracts the maximum: distances beyond 88
    do not overflow.

    Args:
        distances: Distances of the farthest patch to N_b(m*), m* itself first, `[B, b]`.
    """
    if distances.shape[1] == 1:
        return distances[:, 0]
    return (1.0 - torch.softmax(distances, dim=1)[:, 0]) * distances[:, 0]
