"""PaDiM's inference path: features of every position, and how far they are from the Gaussian there."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from flawscope.errors import InputError
from flawscope.methods.features.backbone import Backbone
from flawscope.methods.patch_detector import PatchDetector
from flawscope_padim import METHOD, Config


class Model(PatchDetector):
    """A Gaussian of d features at each of the P positions of the finest grid, h x w."""

    METHOD = METHOD
    config: Config
    chosen: Tensor  # [d]: the features that were drawn
    mean: Tensor  # [P, d]
    whitening: Tensor  # [P, d, d]: the covariance's eigenvectors as rows, each over its eigenvalue's root
    count: Tensor  # [P]: pictures that the Gaussian is of; of fewer than three it is not judged by

    def __init__(self, config: Config, backbone: Backbone, roi: Tensor | None = None):
        super().__init__(config, backbone, roi)
        (p,), d = self.patches, config.dimensions
        if d > self.width:
            raise InputError(f"setting dimensions must be at most {self.width}, what these stages have")
        drawn = torch.randperm(self.width, generator=torch.Generator().manual_seed(config.seed))
        self.register_buffer("chosen", drawn[:d].sort().values)
        for name, shape in {"mean": (p, d), "whitening": (p, d, d), "count": (p,)}.items():
            self.register_buffer(name, torch.zeros(shape))

    def embed(self, images: Tensor) -> Tensor:
        """Images `[B, 3, H, W]` to features `[B, P, d]`."""
        return super().embed(images)[:, :, self.chosen]

    def judge(self, patches: Tensor) -> Tensor:
        """Features to distances `[B, P]` (3.3)."""
        away = (patches - self.mean).permute(1, 2, 0)  # [P, d, B]
        return (self.whitening @ away).square().sum(1).sqrt().T

    def valid_mask(self, inside: Tensor | None) -> Tensor:
        """`[B, P]`, 1 for positions that see a pixel which counts."""
        return self.branches[0].valid_mask(self.roi[None] if inside is None else inside)

    def left_out(
        self, features: Tensor, group: int, kept: Mapping[str, Tensor], inside: Tensor | None = None
    ) -> tuple[Tensor, Tensor] | None:
        if int((kept["groups"] == group).sum()) != 1:
            return None  # the other pictures of its part would be needed
        valid_mask = self.valid_mask(inside)
        away = (features - self.mean) * valid_mask[..., None]
        return self.drawn(without(away, valid_mask, self.whitening, self.count, self.config.ridge), inside)

    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        super().fill(tensors)
        if not 0 <= int(self.chosen.min()) <= int(self.chosen.max()) < self.width:
            raise InputError("the model names features that its backbone does not have: fit anew")


def without(away: Tensor, valid_mask: Tensor, whitening: Tensor, count: Tensor, ridge: float) -> Tensor:
    """Mahalanobis distances [g, P] of a part's pictures to the Gaussians of all others, exactly.

    Let D have a column x_i - m for each of the g pictures, and n be how many are left. Their mean is m - D
    1/n and their scatter S - D M D', M = I + 11'/n; so their covariance is B - D K D', with K = M / (n - 1)
    and B = S / (n - 1) + ridge I, which has the eigenvectors of the covariance of all. x_i less their mean is
    D t, t a column of M. By Woodbury's identity the squared distance is t' (I - G K)^-1 G t, G = D' B^-1 D:
    of a single picture, the rank-one downdate of Sherman and Morrison.

    away: [g, P, d], x_i - m; 0 where the picture does not count. counted: [g, P], 1 where it does.
    """
    left = count.double() - valid_mask.sum(0)  # [P]
    n = left.clamp(min=2)[:, None]
    rows = whitening.double()
    values = 1 / rows.square().sum(2).clamp(min=1e-300)  # eigenvalues of the covariance of all, [P, d]
    others = (values - ridge).clamp(min=0) * (count[:, None] - 1) / (n - 1) + ridge  # of B
    inner = rows @ away.double().permute(1, 2, 0)  # [P, d, g]
    gram = (inner * (values / others)[..., None]).mT @ inner
    eye = torch.eye(len(away), dtype=gram.dtype, device=gram.device)
    ones = eye + 1 / n[..., None]  # M
    solved = torch.linalg.solve(eye - gram @ ones / (n[..., None] - 1), gram @ ones)
    squared = (ones * solved).sum(1).clamp(min=0)  # [P, g]
    return torch.where(left[:, None] >= 2, squared, 0.0).sqrt().T.float() * valid_mask
