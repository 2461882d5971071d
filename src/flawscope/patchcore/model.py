"""PatchCore's inference path: embed the patches, find their nearest good ones, score and draw the map."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from flawscope import config as settings
from flawscope.detector import Detector
from flawscope.errors import InputError
from flawscope.features.backbone import Backbone, empty_backbone
from flawscope.patchcore.config import Config
from flawscope.patchcore.embedding import PatchEmbedding
from flawscope.workers import workers

BLOCK = 1024  # patches x bank elements multiplied at once: 4 MiB of products, minimum taken in the cache
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Model(Detector):
    """Roth et al., Towards Total Recall in Industrial Anomaly Detection (CVPR 2022).

    The memory bank is kept relative to its mean (`centre`), which keeps fp32 distances accurate, together
    with each element's `neighbours` nearest elements, so that Eq. 7 needs no search of its own.
    """

    # buffers
    centre: Tensor
    bank: Tensor
    norms: Tensor
    table: Tensor
    roi: Tensor
    inside: Tensor
    rows: Tensor
    columns: Tensor

    def __init__(
        self, config: Config, backbone: Backbone, bank: Tensor | None = None, roi: Tensor | None = None
    ):
        """
        Args:
            bank: [M, D] float32 features, absolute. None while features are being collected.
            roi: [H, W] bool, where something counts. None: everywhere.
        """
        super().__init__()
        self.config = config
        self.backbone = backbone
        self.size = backbone.size
        self.embedding = PatchEmbedding(backbone.shapes, config.neighbourhood, config.dimensions)
        self.grid = self.embedding.grid
        rows, columns = (
            smoothing_matrix(n, g, config.sigma) for n, g in zip(self.size, self.grid, strict=True)
        )
        self.register_buffer("rows", rows, persistent=False)  # [H, h]
        self.register_buffer("columns", columns, persistent=False)  # [W, w]
        self.register_buffer("roi", torch.ones(self.size, dtype=torch.bool) if roi is None else roi)  # [H, W]
        self.register_buffer("inside", patches_inside(self.roi, self.grid), persistent=False)  # [P]
        self.register_buffer("centre", torch.zeros(self.embedding.width))
        self.register_buffer("bank", torch.zeros(0, self.embedding.width))
        self.register_buffer("norms", torch.zeros(0), persistent=False)  # |m|²
        self.register_buffer("table", torch.zeros(0, 1, dtype=torch.int32))
        if bank is not None:
            self.set_bank(bank)
        self.eval()

    def set_bank(self, bank: Tensor) -> None:
        """Install a memory bank `[M, D]` of absolute features."""
        self.centre = bank.mean(0)
        self._install(bank - self.centre)

    def extend_bank(self, more: Tensor) -> None:
        """Add absolute features `[K, D]`; the elements already there stay as they are, bit for bit."""
        self._install(torch.cat([self.bank, more - self.centre]))

    def _install(self, bank: Tensor) -> None:
        self.bank, self.norms = bank, (bank * bank).sum(1)
        if self.config.score == "reweighted":
            self.table = nearest_table(bank, min(self.config.neighbours, len(bank)))

    # ---- the two named steps

    def embed(self, images: Tensor) -> Tensor:
        """Images `[B, 3, H, W]` to patch features `[B, P, D]` float32 (3.1)."""
        images = images.contiguous(memory_format=torch.channels_last)
        dtype = DTYPES.get(self.config.precision)
        with torch.autocast(images.device.type, dtype=dtype, enabled=dtype is not None):
            maps = self.backbone(images)
        return self.embedding([m.float() for m in maps])

    def score(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Patch features `[B, P, D]` to scores `[B]` and maps `[B, H, W]`."""
        features = features - self.centre
        distances = self.search(features)
        return self.image_score(features, distances), self.anomaly_map(distances)

    # ---- their parts

    def search(self, features: Tensor, norms: Tensor | None = None) -> Tensor:
        """Distance `[B, P]` of every patch to its nearest bank element; 0 outside the region of interest.

        |x - m|² = |x|² + (|m|² - 2xm): one matrix product and a running minimum, in blocks that stay in the
        processor's cache, so that the [P, M] distances never travel to memory.

        Args:
            features: relative to `centre`.
            norms: |m|² of the bank, infinite for elements to be ignored.
        """
        batch, patches, width = features.shape
        norms = self.norms if norms is None else norms
        rows = []
        for queries in features.reshape(-1, width).split(BLOCK):
            best: Tensor | None = None
            for square, bank in zip(norms.split(BLOCK), self.bank.split(BLOCK), strict=True):
                nearest = torch.addmm(square, queries, bank.T, alpha=-2).amin(1)
                best = nearest if best is None else torch.minimum(best, nearest)
            assert best is not None
            rows.append((best + (queries * queries).sum(1)).clamp(min=0).sqrt())
        return torch.cat(rows).view(batch, patches) * self.inside

    def image_score(self, features: Tensor, distances: Tensor) -> Tensor:
        """Eq. 6 and 7: the farthest patch's distance, weighted by how crowded its nearest element is."""
        patch = farthest(features, distances)  # m_t*, [B, D]
        nearest = torch.addmm(self.norms, patch, self.bank.T, alpha=-2).argmin(1)  # m*
        if self.config.score == "maximum":
            neighbours = self.bank[nearest][:, None]
        else:
            neighbours = self.bank[self.table[nearest].long()]  # N_b(m*), itself first: [B, b, D]
        return eq7(torch.linalg.vector_norm(patch[:, None] - neighbours, dim=2)) * self.inside.amax()

    def score_without(
        self, features: Tensor, ignored: Tensor, distances: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Score and map `[H, W]` of one picture `[P, D]`, as if bank elements `ignored` [M] were not there.

        `distances` [P] to the others may be given where they are known.
        """
        features = (features - self.centre)[None]
        norms = self.norms.masked_fill(ignored, torch.inf)
        distances = self.search(features, norms) if distances is None else distances[None] * self.inside
        if not torch.isfinite(norms).any():
            raise InputError("leave-one-out needs pictures of at least two groups: give more good pictures")
        patch = farthest(features, distances)
        nearest = torch.addmv(norms, self.bank, patch[0], alpha=-2).argmin()
        b = (
            1
            if self.config.score == "maximum"
            else min(self.table.shape[1], int(torch.isfinite(norms).sum()))
        )
        around = torch.addmv(norms, self.bank, self.bank[nearest], alpha=-2)
        around[nearest] = -torch.inf
        neighbours = self.bank[around.topk(b, largest=False, sorted=True).indices]
        score = eq7(torch.linalg.vector_norm(patch - neighbours, dim=1)[None])
        return score[0], self.anomaly_map(distances)[0]

    def anomaly_map(self, distances: Tensor) -> Tensor:
        """Patch distances `[B, P]` to maps `[B, H, W]`: bilinear resize and Gaussian, two products (3.3)."""
        grid = distances.view(-1, *self.grid)
        return (self.rows @ grid @ self.columns.T) * self.roi

    # ---- artefact

    @classmethod
    def rebuild(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> Model:
        typed = settings.build(Config, config)
        backbone = empty_backbone(typed.backbone, typed.stages, typed.crop or typed.size)
        model = cls(typed, backbone, roi=tensors["roi"])
        bank, table = tensors["bank"], tensors["table"]
        if (
            tuple(model.roi.shape) != model.size
            or bank.shape[1:] != model.centre.shape
            or not len(bank)
            or (typed.score == "reweighted" and len(table) != len(bank))
            or (table.numel() and not 0 <= int(table.min()) <= int(table.max()) < len(bank))
        ):
            raise InputError("the model's memory bank does not fit its configuration: fit anew")
        for name in ("bank", "table"):  # their sizes are the artefact's
            setattr(model, name, torch.empty_like(tensors[name]))
        model.load_state_dict({k: v for k, v in tensors.items() if k in model.state_dict()})
        model.norms = (model.bank * model.bank).sum(1)
        return model


def farthest(features: Tensor, distances: Tensor) -> Tensor:
    """The patch `[B, D]` with the largest distance (Eq. 6)."""
    index = distances.argmax(1)
    return features[torch.arange(len(features), device=features.device), index]


def eq7(distances: Tensor) -> Tensor:
    """s = (1 - softmax over N_b(m*) of ||m_t* - m||, taken at m*) * ||m_t* - m*||.

    Args:
        distances: [B, b], of the farthest patch to N_b(m*), m* itself first.

    With b = 1 the factor would be 0 and is left out. The softmax subtracts the maximum, so that distances
    beyond 88 do not overflow.
    """
    if distances.shape[1] == 1:
        return distances[:, 0]
    return (1.0 - torch.softmax(distances, dim=1)[:, 0]) * distances[:, 0]


def nearest_table(bank: Tensor, b: int) -> Tensor:
    """Every bank element's `b` nearest elements, itself first: [M, b] int32.

    The b smallest of a row lie in the b groups of columns with the smallest minima, so that only those are
    sorted.
    """
    total, per_group = len(bank), 32
    padded = F.pad(bank, (0, 0, 0, -total % per_group))
    norms = F.pad((bank * bank).sum(1), (0, len(padded) - total), value=torch.inf)

    def rows(start: int) -> Tensor:
        part = bank[start : start + BLOCK // 4]
        square = torch.addmm(norms, part, padded.T, alpha=-2)
        own = torch.arange(len(part), device=bank.device)
        square[own, own + start] = -torch.inf  # rounding or a twin must not put another first
        groups = square.view(len(part), -1, per_group)
        near = groups.amin(2).topk(min(b, groups.shape[1]), largest=False).indices  # [rows, b]
        candidates = (near[:, :, None] * per_group + torch.arange(per_group, device=bank.device)).flatten(1)
        nearest = square.gather(1, candidates).topk(b, largest=False, sorted=True).indices
        return candidates.gather(1, nearest).int()

    with workers(bank.device) as each:
        return torch.cat(each(rows, range(0, total, BLOCK // 4)))


def smoothing_matrix(size: int, grid: int, sigma: float) -> Tensor:
    """[size, grid]: bilinear resize from `grid` to `size`, then a Gaussian of `sigma` pixels.

    Both are linear and separable, so one matrix a side holds them exactly. The kernel reaches four sigma
    and is mirrored at the border.
    """
    identity = torch.eye(grid, dtype=torch.float64)[None]  # one column a grid cell
    resized = F.interpolate(identity, size=size, mode="linear", align_corners=False)[0]  # [grid, size]
    if sigma > 0:
        reach = min(int(4 * sigma + 0.5), size - 1)
        x = torch.arange(-reach, reach + 1, dtype=torch.float64)
        kernel = torch.exp(-0.5 * (x / sigma) ** 2)
        padded = F.pad(resized[:, None], (reach, reach), mode="reflect")
        resized = F.conv1d(padded, (kernel / kernel.sum()).view(1, 1, -1))[:, 0]
    return resized.T.float().contiguous()


def patches_inside(roi: Tensor, grid: tuple[int, int]) -> Tensor:
    """[P] float, 1 where a patch's cell touches the region of interest."""
    return F.adaptive_max_pool2d(roi[None].float(), grid).flatten()
