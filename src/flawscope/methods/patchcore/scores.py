"""Scores of a picture by its patches' distances to the memory bank: a record for each value of `score`.

Inference, calibration and comparison use the record of the setting `score`. To add a score, add a value of
`Config.score` and a record in `SCORES`; the tests of all methods then run with it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from flawscope.methods.patchcore.record import Config

TIE_TOLERANCE = 1e-5  # relative difference up to which distances are a tie


class MemoryBank(Protocol):
    """Memory bank that a score uses (`model.BankBranch`).

    Attributes:
        config: Settings of the model.
        centre: Mean of the elements, `[D]`.
        bank: Elements relative to the mean, `[M, D]`.
        norms: Squared lengths of the relative elements, `[M]`.
        table: Numbers of the nearest elements of each element, itself first, `[M, b]`.
    """

    config: Config
    centre: Tensor
    bank: Tensor
    norms: Tensor
    table: Tensor


class PictureScore(ABC):
    """Score of pictures, by a memory bank.

    Attributes:
        is_map_maximum: Whether the score is the maximum of the joined map of all banks. If so, a single bank
            has no score.
        needs_table: Whether the score needs the neighbours of bank elements, `MemoryBank.table`.
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
        """Return the score of a picture by a bank without some elements, and with others added.

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
        """Return the score by only the distances `[P]`, for a bank of the picture's own patches."""

    @abstractmethod
    def deciding_patches(self, distances: Tensor) -> Tensor:
        """Return the numbers of the patches that decide the score: only their distances must be exact.

        Args:
            distances: Distances of the picture's patches to the bank, `[P]`.
        """

    @abstractmethod
    def ties(self, branch: MemoryBank, features: Tensor, distances: Tensor, valid_mask: Tensor) -> Tensor:
        """Return `[B]` bool: whether a tie, which only rounding decides, determines a picture's score.

        Arguments as for `of_pictures`.
        """


class MapMaximum(PictureScore):
    """Score that is the maximum of the map."""

    is_map_maximum = True

    def of_pictures(
        self, branch: MemoryBank, features: Tensor, distances: Tensor, valid_mask: Tensor
    ) -> Tensor:
        """Return zeros `[B]`: the score is taken from the joined map."""
        return distances.new_zeros(len(distances))

    def without(
        self,
        branch: MemoryBank,
        features: Tensor,
        hidden: Tensor,
        valid_mask: Tensor,
        distances: Tensor,
        added: Tensor,
    ) -> Tensor:
        """Return 0: the score is taken from the joined map."""
        return distances.new_zeros(())

    def of_distances(self, distances: Tensor) -> Tensor:
        """Return the largest distance."""
        return distances.amax()

    def deciding_patches(self, distances: Tensor) -> Tensor:
        """Return the number of the farthest patch; `settle` adds the patches at the maxima of maps."""
        return distances.argmax()[None]

    def ties(self, branch: MemoryBank, features: Tensor, distances: Tensor, valid_mask: Tensor) -> Tensor:
        """Return False for each picture: no tie changes a maximum."""
        return torch.zeros(len(features), dtype=torch.bool)


class Reweighted(PictureScore):
    """Score of Eq. 6 and 7: the distance of the farthest patch, with a weight.

    The weight depends on how densely the bank is filled around the element nearest to the patch.
    """

    needs_table = True

    def of_pictures(
        self, branch: MemoryBank, features: Tensor, distances: Tensor, valid_mask: Tensor
    ) -> Tensor:
        """Return the scores `[B]` of pictures; the neighbours for the weight are in the bank's table."""
        patch = farthest_patch(features, distances, valid_mask)  # m_t* in the paper, [B, D]
        nearest = torch.addmm(branch.norms, patch, branch.bank.T, alpha=-2).argmin(1)  # m*
        neighbours = branch.bank[branch.table[nearest].long()]  # N_b(m*), m* first: [B, b, D]
        neighbour_distances = torch.linalg.vector_norm(patch[:, None] - neighbours, dim=2)
        # a picture in which no patch counts has score 0
        return reweight(neighbour_distances) * valid_mask.amax(-1)

    def without(
        self,
        branch: MemoryBank,
        features: Tensor,
        hidden: Tensor,
        valid_mask: Tensor,
        distances: Tensor,
        added: Tensor,
    ) -> Tensor:
        """Return the score of a picture.

        The neighbours for the weight are searched for, because the bank's table has the hidden elements, too.
        """
        patch = farthest_patch((features - branch.centre)[None], distances[None], valid_mask)[0]
        # The numbers of the added elements follow those of the bank. The two are not joined to one tensor:
        # every thread would need memory for a copy of the bank
        bank_norms = branch.norms.masked_fill(hidden, torch.inf)
        added_norms = (added * added).sum(1)

        def compare(point: Tensor) -> Tensor:
            """Return |m|² - 2xm of a point x and all elements m; infinite for hidden elements."""
            bank_terms = torch.addmv(bank_norms, branch.bank, point, alpha=-2)
            return torch.cat([bank_terms, torch.addmv(added_norms, added, point, alpha=-2)])

        def element(number: int) -> Tensor:
            bank_size = len(branch.bank)
            return branch.bank[number] if number < bank_size else added[number - bank_size]

        present_count = int(bank_norms.isfinite().sum()) + int(added_norms.isfinite().sum())
        neighbour_count = min(branch.config.neighbours, present_count)
        nearest = int(compare(patch).argmin())
        terms = compare(element(nearest))
        terms[nearest] = -torch.inf  # the element itself comes first
        numbers = terms.topk(neighbour_count, largest=False, sorted=True).indices.tolist()
        neighbours = torch.stack([element(number) for number in numbers])
        neighbour_distances = torch.linalg.vector_norm(patch - neighbours, dim=1)
        # a picture in which no patch counts has score 0
        return reweight(neighbour_distances[None])[0] * valid_mask.amax(-1)

    def of_distances(self, distances: Tensor) -> Tensor:
        """Return the largest distance, without the weight, which is at most 1.

        In a bank of the picture's own patches, the weight would count the patch among its neighbours.
        """
        return distances.amax()

    def deciding_patches(self, distances: Tensor) -> Tensor:
        """Return the number of the farthest patch."""
        return distances.argmax()[None]

    def ties(self, branch: MemoryBank, features: Tensor, distances: Tensor, valid_mask: Tensor) -> Tensor:
        """Return `[B]` bool: whether a picture's farthest patch, or its nearest element, is ambiguous.

        It is ambiguous if another one has the same distance, up to `TIE_TOLERANCE`. Identical patches or
        elements are no tie: they give the same score.
        """
        has_tie = []
        farthest_patches = farthest_patch(features, distances, valid_mask)
        for patches, patch_distances, farthest in zip(features, distances, farthest_patches, strict=True):
            far_limit = patch_distances.max() * (1 - TIE_TOLERANCE)
            far_patches = patches[patch_distances >= far_limit]
            # without matrix products, whose rounding is as large as the tolerance
            element_distances = torch.cdist(
                farthest[None], branch.bank, compute_mode="donot_use_mm_for_euclid_dist"
            )[0]
            near_limit = element_distances.min() * (1 + TIE_TOLERANCE)
            near_elements = branch.bank[element_distances <= near_limit]
            is_patch_tied = bool((far_patches != farthest).any())
            is_element_tied = bool((near_elements != near_elements[:1]).any())
            has_tie.append(is_patch_tied or is_element_tied)
        return torch.tensor(has_tie)


SCORES: Mapping[str, PictureScore] = {"map": MapMaximum(), "reweighted": Reweighted()}


def farthest_patch(features: Tensor, distances: Tensor, valid_mask: Tensor) -> Tensor:
    """Return each picture's farthest patch (Eq. 6) among those that count, `[B, D]`.

    Args:
        features: Patches, `[B, P, D]`.
        distances: Their distances, `[B, P]`.
        valid_mask: Which patches count, 1 or 0.
    """
    index = distances.masked_fill(valid_mask == 0, -1.0).argmax(1)
    return features[torch.arange(features.shape[0], device=features.device), index]


def reweight(distances: Tensor) -> Tensor:
    """Return the scores `[B]` of Eq. 7: s = (1 - w) ||m_t* - m*||, with the weight w = softmax(distances)[0].

    With b = 1 the factor would be 0, and is left out. The softmax subtracts the maximum: distances beyond 88
    do not overflow.

    Args:
        distances: Distances of the farthest patch m_t* to the b neighbours of m*, m* itself first, `[B, b]`.
    """
    if distances.shape[1] == 1:
        return distances[:, 0]
    weights = torch.softmax(distances, dim=1)[:, 0]
    return (1.0 - weights) * distances[:, 0]
