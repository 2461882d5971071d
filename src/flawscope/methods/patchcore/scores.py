"""Scores of a picture, by its patches' distances to the memory bank: one record for each value of the setting
`score`, which inference, calibration and comparison ask.

A further score is a value of `Config.score` and a record in `SCORES`; the contract's checks run for each.
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
    """Memory bank as a score asks it (`model.BankBranch`).

    centre: [D], the mean of its elements. bank, norms: [M, D] relative to it, and their squared lengths [M].
    table: [M, b], the nearest elements of each, itself first.
    """

    config: Config
    centre: Tensor
    bank: Tensor
    norms: Tensor
    table: Tensor


class PictureScore(ABC):
    """A score of pictures, by one memory bank.

    is_map_maximum: it is the maximum of all banks' joined map, so that a bank has none of its own.
    needs_table: it asks for the neighbours of bank elements.
    """

    is_map_maximum = False
    needs_table = False

    @abstractmethod
    def of_pictures(
        self, branch: MemoryBank, features: Tensor, distances: Tensor, valid_mask: Tensor
    ) -> Tensor:
        """Scores `[B]` of patches `[B, P, D]`, relative to the bank's centre, at these distances `[B, P]`."""

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
        """Score of one picture as if the `hidden` [M] elements were not there, and `added` [K, D], relative
        to the centre, were.

        Args:
            features: [P, D], absolute.
            distances: [P], to the elements that are there.
        """

    @abstractmethod
    def of_distances(self, distances: Tensor) -> Tensor:
        """Score by distances [P] alone, where the bank's elements are of the picture itself."""

    @abstractmethod
    def deciding_patches(self, distances: Tensor) -> Tensor:
        """Numbers of the patches that decide it, by their distances [P]: these have to be exact."""

    @abstractmethod
    def ties(self, branch: MemoryBank, features: Tensor, distances: Tensor, valid_mask: Tensor) -> Tensor:
        """Whether the score of each picture, `[B]` bool, rests on a tie that rounding alone decides."""


class MapMaximum(PictureScore):
    """The maximum of the map."""

    is_map_maximum = True

    def of_pictures(
        self, branch: MemoryBank, features: Tensor, distances: Tensor, valid_mask: Tensor
    ) -> Tensor:
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
        return distances.new_zeros(())

    def of_distances(self, distances: Tensor) -> Tensor:
        return distances.amax()

    def deciding_patches(self, distances: Tensor) -> Tensor:
        return distances.argmax()[None]  # beside those at the maxima of maps

    def ties(self, branch: MemoryBank, features: Tensor, distances: Tensor, valid_mask: Tensor) -> Tensor:
        return torch.zeros(len(features), dtype=torch.bool)


class Reweighted(PictureScore):
    """Eq. 6 and 7: the farthest patch's distance, weighted by how crowded its nearest element is."""

    needs_table = True

    def of_pictures(
        self, branch: MemoryBank, features: Tensor, distances: Tensor, valid_mask: Tensor
    ) -> Tensor:
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
        return distances.amax()  # without the weight, at most 1: the neighbours would be of the patch itself

    def deciding_patches(self, distances: Tensor) -> Tensor:
        return distances.argmax()[None]

    def ties(self, branch: MemoryBank, features: Tensor, distances: Tensor, valid_mask: Tensor) -> Tensor:
        """Pictures with another patch as far as the farthest, or another element as near to it as the
        nearest, within 1e-5 of the distance. Equal ones are no choice: they give the same score.
        """
        found, patches = [], farthest_patch(features, distances, valid_mask)
        for own, away, patch in zip(features, distances, patches, strict=True):
            far = own[away >= away.max() * (1 - TIE_TOLERANCE)]
            # not by a product, whose rounding is as large as the differences looked for
            near = torch.cdist(patch[None], branch.bank, compute_mode="donot_use_mm_for_euclid_dist")[0]
            close = branch.bank[near <= near.min() * (1 + TIE_TOLERANCE)]
            found.append(bool((far != patch).any() or (close != close[:1]).any()))
        return torch.tensor(found)


SCORES: Mapping[str, PictureScore] = {"map": MapMaximum(), "reweighted": Reweighted()}


def farthest_patch(features: Tensor, distances: Tensor, valid_mask: Tensor) -> Tensor:
    """The patch `[B, D]` with the largest distance (Eq. 6), of those that count."""
    index = distances.masked_fill(valid_mask == 0, -1.0).argmax(1)
    return features[torch.arange(features.shape[0], device=features.device), index]


def reweight(distances: Tensor) -> Tensor:
    """Eq. 7: s = (1 - softmax over N_b(m*) of ||m_t* - m||, taken at m*) * ||m_t* - m*||.

    Args:
        distances: [B, b], of the farthest patch to N_b(m*), m* itself first.

    With b = 1 the factor would be 0 and is left out. The softmax subtracts the maximum, so that distances
    beyond 88 do not overflow.
    """
    if distances.shape[1] == 1:
        return distances[:, 0]
    return (1.0 - torch.softmax(distances, dim=1)[:, 0]) * distances[:, 0]
