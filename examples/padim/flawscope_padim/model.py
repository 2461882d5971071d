"""PaDiM's inference path: features of every position, and how far they are from the Gaussian there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from flawscope.errors import InputError
from flawscope.methods.detector import Detector, region_of
from flawscope.methods.features.backbone import Backbone, empty_backbone, load_backbone
from flawscope.methods.features.embedding import PatchEmbedding, smoothing_matrix, windows
from flawscope_padim import METHOD, Config


class Model(Detector):
    """A Gaussian of d features at each of the P positions of the finest grid, h x w."""

    config: Config
    chosen: Tensor  # [d]: the features that were drawn
    mean: Tensor  # [P, d]
    whitening: Tensor  # [P, d, d]: the covariance's eigenvectors as rows, each over its eigenvalue's root
    count: Tensor  # [P]: pictures that the Gaussian is of; of fewer than three it is not judged by

    def __init__(self, config: Config, backbone: Backbone, roi: Tensor | None = None):
        super().__init__(config, roi)
        self.backbone = backbone
        self.embedding = PatchEmbedding(backbone.shapes_at(self.size), config.neighbourhood, None)
        self.grid, width, d = self.embedding.grid, self.embedding.width, config.dimensions
        if d > width:
            raise InputError(f"setting dimensions must be at most {width}, what these stages have")
        drawn = torch.randperm(width, generator=torch.Generator().manual_seed(config.seed))
        self.register_buffer("chosen", drawn[:d].sort().values)
        p = self.grid[0] * self.grid[1]
        for name, shape in {"mean": (p, d), "whitening": (p, d, d), "count": (p,)}.items():
            self.register_buffer(name, torch.zeros(shape))
        for name, side, cells in zip(("rows", "columns"), self.size, self.grid, strict=True):
            self.register_buffer(name, smoothing_matrix(side, cells, config.sigma), persistent=False)
            self.register_buffer(f"{name}_of", windows(side, cells), persistent=False)
        self.eval()

    def embed(self, images: Tensor) -> Tensor:
        """Images `[B, 3, H, W]` to features `[B, P, d]`."""
        with self.reduced():
            maps = self.backbone(self.filled(images).contiguous(memory_format=torch.channels_last))
        features: Tensor = self.embedding([m.float() for m in maps])
        return features[:, :, self.chosen]

    def score(self, features: Tensor, inside: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Features to scores `[B]`, the maxima of the maps, and maps `[B, H, W]` (3.3)."""
        away = (features - self.mean).permute(1, 2, 0)  # [P, d, B]
        return self.drawn((self.whitening @ away).square().sum(1).sqrt().T, inside)

    def drawn(self, distances: Tensor, inside: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Distances `[B, P]` to scores and maps: 0, the lowest a distance can be, where nothing counts."""
        maps = self.rows @ (distances * self.valid_mask(inside)).view(-1, *self.grid) @ self.columns.T
        maps = torch.where(self.region(inside), maps, 0.0)
        return maps.flatten(1).amax(1), maps

    def valid_mask(self, inside: Tensor | None) -> Tensor:
        """`[B, P]`, 1 for positions that see a pixel which counts."""
        region = (self.roi[None] if inside is None else inside).float()
        return (self.rows_of @ region @ self.columns_of.T > 0).float().flatten(1)

    def left_out(
        self, features: Tensor, group: int, kept: Mapping[str, Tensor], inside: Tensor | None = None
    ) -> tuple[Tensor, Tensor] | None:
        if int((kept["groups"] == group).sum()) != 1:
            return None  # the other pictures of its part would be needed
        valid_mask = self.valid_mask(inside)
        away = (features - self.mean) * valid_mask[..., None]
        return self.drawn(without(away, valid_mask, self.whitening, self.count, self.config.ridge), inside)

    @classmethod
    def rebuild(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> Model:
        typed = METHOD.stored(config)
        roi = region_of(typed, tensors)
        model = cls(typed, empty_backbone(typed.backbone, typed.stages, typed.network_size, tensors), roi)
        model.fill(tensors)
        if not 0 <= int(model.chosen.min()) <= int(model.chosen.max()) < model.embedding.width:
            raise InputError("the model names features that its backbone does not have: fit anew")
        return model


def create(config: Config, roi: Tensor | None = None) -> tuple[Model, dict[str, str]]:
    backbone, origin = load_backbone(config.backbone, config.stages, config.network_size, config.weights)
    return Model(config, backbone, roi), origin


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
