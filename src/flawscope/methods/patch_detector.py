"""PatchDetector: a detector that judges the patches of a frozen backbone, at one picture size or several.

Feature maps become patches as in PatchCore, 3.1. Matrices bring values of patches to pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Self, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flawscope.methods.detector import Detector, fill_with_lowest, stored_region
from flawscope.methods.features.backbone import Backbone, empty_backbone, load_backbone, stored_backbone
from flawscope.methods.method import WeightsOrigin
from flawscope.methods.settings import BranchSpec, PatchSettings
from flawscope.types import Json

PREFIXES = ("backbone.", "second_backbone.")  # of the backbones' tensors in a model file
T = TypeVar("T")


class PatchEmbedding(nn.Module):
    """Module that turns maps `[B, C_j, H_j, W_j]` into patches `[B, H*W, D]` on the finest grid.

    Every position takes in its p x p neighbourhood (stride 1, zero padded), the coarser maps are resized
    bilinearly to the finest map, and the channels are joined.

    Without `dimensions` the neighbourhood is averaged and the channels are concatenated: D = sum of C_j.
    With it, the result equals the authors' pipeline of unfolding, adaptive average pooling of each layer's
    C_j * p² numbers to `dimensions`, stacking, and adaptive pooling of the stack to `dimensions`. The
    unfolded tensor is never built: adaptive pooling is linear, and a convolution a layer is enough.
    """

    def __init__(self, shapes: list[tuple[int, int, int]], neighbourhood: int, dimensions: int | None):
        super().__init__()
        self.shapes = shapes
        self.neighbourhood = neighbourhood
        self.dimensions = dimensions
        self.grid = max(((h, w) for _, h, w in shapes), key=lambda g: g[0] * g[1])
        self.width = dimensions or sum(c for c, _, _ in shapes)
        self.spans: list[tuple[int, int]] = []  # the outputs that layer j takes part in
        if dimensions:
            for j, (kernel, low) in enumerate(
                pooling_kernels([c for c, _, _ in shapes], neighbourhood, dimensions)
            ):
                groups = block_groups(kernel, shapes[j][0])
                self.spans.append((low, low + len(kernel)))
                self.register_buffer(f"kernel{j}", pack_groups(kernel, groups), persistent=False)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Return the patches `[B, H*W, D]` of a map for each layer."""
        p = self.neighbourhood
        if self.dimensions is None:
            pooled = [F.avg_pool2d(m, p, stride=1, padding=p // 2) for m in maps]
            merged = torch.cat([self._to_grid(m) for m in pooled], dim=1)
        else:
            parts = []
            for j, m in enumerate(maps):
                kernel = getattr(self, f"kernel{j}")
                groups = m.shape[1] // kernel.shape[1]
                part = self._to_grid(F.conv2d(m, kernel, padding=p // 2, groups=groups))
                low, high = self.spans[j]
                parts.append(F.pad(part, (0, 0, 0, 0, low, self.dimensions - high)))
            merged = torch.stack(parts).sum(0)  # [B, D, H, W]
        return merged.permute(0, 2, 3, 1).flatten(1, 2)  # [B, H*W, D]

    def _to_grid(self, m: Tensor) -> Tensor:
        if tuple(m.shape[-2:]) == self.grid:
            return m
        return F.interpolate(m, size=self.grid, mode="bilinear", align_corners=False)


class PatchBranch(nn.Module):
    """Branch of a detector: sees the image at `size` as P patches of D numbers.

    It turns values of patches into maps of the image's own size.

    Attributes:
        size: (H, W) at which it sees the image.
        stages: Stages of the backbone, whose maps it joins.
        second: Whether it is of the second backbone.
        grid: (h, w) of its patches, P = h w.
    """

    inside: Tensor  # [P], 1 where a patch counts
    rows: Tensor  # [H, h]
    columns: Tensor  # [W, w]
    down_rows: Tensor  # [h of this size, H], where it is not the image's
    down_columns: Tensor
    row_windows: Tensor  # [h, H], 1 where a cell sees a pixel
    column_windows: Tensor

    def __init__(
        self,
        config: PatchSettings,
        backbone: Backbone,
        spec: BranchSpec,
        roi: Tensor,
        dimensions: int | None,
    ):
        """Set up the embedding, and the matrices between pixels and patches.

        Args:
            config: Settings of the method.
            backbone: The backbone that `spec` names.
            spec: Size and stages.
            roi: Region of interest, `[H, W]` bool at the size of the images.
            dimensions: D of the patches; None: the sum of the stages' channels (`PatchEmbedding`).
        """
        super().__init__()
        size = spec.size
        self.size = size
        self.stages = spec.stages
        self.second = spec.second
        given = spec.stages if spec.second else config.backbone_stages
        self.places = [given.index(stage) for stage in spec.stages]
        image = (roi.shape[0], roi.shape[1])
        shapes = self.select_stages(backbone.shapes_at(size))
        # a token has seen all of the picture
        self.embedding = PatchEmbedding(shapes, 1 if spec.second else config.neighbourhood, dimensions)
        self.grid = self.embedding.grid  # (h, w), P = h w
        self.resizes = size != image
        for name, whole, cells, seen in zip(("row", "column"), image, self.grid, size, strict=True):
            # sigma is in pixels of this size
            smoothing = smoothing_matrix(whole, cells, config.sigma * whole / seen)
            self.register_buffer(f"{name}s", smoothing, persistent=False)
            self.register_buffer(f"{name}_windows", cell_windows(whole, cells), persistent=False)
            if self.resizes:
                self.register_buffer(f"down_{name}s", reducing_matrix(seen, whole), persistent=False)
        self.register_buffer("inside", patches_in_region(roi, self.grid), persistent=False)

    def select_stages(self, of_stages: Sequence[T]) -> list[T]:
        """Return the items of this branch's stages, from an item for each stage of the backbone."""
        return [of_stages[place] for place in self.places]

    def patches(self, maps: Sequence[Tensor]) -> Tensor:
        """Turn the maps of all stages into patches `[B, P, D]` float32."""
        return self.embedding([m.float() for m in self.select_stages(maps)])

    def resize(self, images: Tensor) -> Tensor:
        """Return the images at this branch's size: antialiased bilinear, as two products."""
        if not self.resizes:
            return images
        # as single planes: OpenVINO joins a product of four dimensions with the normalisation, and fails
        planes = self.down_rows @ images.flatten(0, 1) @ self.down_columns.T
        return planes.view(-1, images.shape[1], *self.size)

    def valid_mask(self, inside: Tensor | None) -> Tensor:
        """Return which patches count, 1 or 0: `[P]`, or `[B, P]` where pictures are padded.

        Args:
            inside: The pixels that count, `[B, H, W]` bool; None: those of the region of interest.
        """
        if inside is None:
            return self.inside
        seen = self.row_windows @ inside.to(self.row_windows.dtype) @ self.column_windows.T  # [B, h, w]
        return (seen > 0).to(self.row_windows.dtype).flatten(1)

    def anomaly_map(self, values: Tensor) -> Tensor:
        """Return maps `[B, H, W]` of patches' values `[B, P]`: bilinear resize and Gaussian."""
        return self.rows @ values.view(-1, *self.grid) @ self.columns.T


class _SecondBackboneSettings(Protocol):
    """Settings of a method with a branch of a second backbone."""

    second_backbone: str
    second_weights: str | None


class PatchDetector(Detector):
    """Detector that turns images into patches, and the patches' values into maps; it reads its model files.

    A method with one picture size adds its tensors or networks in `__init__`, and `judge`. A method with
    several sizes overrides `score`.

    Attributes:
        patches: P of each branch.
        width: The largest D of all branches; patches of the others end in zeros.
    """

    config: PatchSettings

    def __init__(
        self,
        config: PatchSettings,
        backbone: Backbone,
        roi: Tensor | None = None,
        second_backbone: Backbone | None = None,
    ):
        super().__init__(config, roi)
        self.backbone = backbone
        self.second_backbone = second_backbone
        # the name of their tensors in files
        self.views = nn.ModuleList(map(self.branch, config.branch_specs))
        self.patches = [branch.inside.numel() for branch in self.branches]
        self.width = max(branch.embedding.width for branch in self.branches)

    @property
    def branches(self) -> Sequence[Any]:
        """Branches of `config.branch_specs`, smallest size first: `PatchBranch` or the method's own class."""
        return cast(Sequence[Any], self.views)

    @property
    def backbones(self) -> list[Backbone]:
        """The backbone, and the second backbone if there is one."""
        return [self.backbone] if self.second_backbone is None else [self.backbone, self.second_backbone]

    def branch(self, spec: BranchSpec) -> PatchBranch:
        """Build a branch as the settings describe it."""
        return PatchBranch(self.config, self.backbones[spec.second], spec, self.roi, dimensions=None)

    def judge(self, patches: Tensor) -> Tensor:
        """Return values `[B, P]` float32 of patches `[B, P, D]` float32; higher is more anomalous."""
        raise NotImplementedError

    def embed(self, images: Tensor) -> Tensor:
        """Turn images `[B, 3, H, W]` into patches `[B, P, D]` float32, branch after branch."""
        images = self.filled(images)
        parts = []
        maps = None
        for i, branch in enumerate(self.branches):
            before = self.branches[i - 1]
            # branches of one size and backbone share its maps
            if maps is None or (branch.size, branch.second) != (before.size, before.second):
                seen = branch.resize(images).contiguous(memory_format=torch.channels_last)
                with self.reduced():
                    maps = self.backbones[branch.second](seen)
            patches = branch.patches(maps)
            more = self.width - patches.shape[2]
            parts.append(F.pad(patches, (0, more)) if more else patches)
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def parts(self, features: Tensor) -> list[Tensor]:
        """Split the patches of all branches, `[..., P, D]` from `embed`, into those of each branch."""
        split = features.split(self.patches, dim=-2)
        return [
            part if branch.embedding.width == self.width else part[..., : branch.embedding.width]
            for branch, part in zip(self.branches, split, strict=True)
        ]

    def score(self, features: Tensor, inside: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Turn patches `[B, P, D]` into scores `[B]` and maps `[B, H, W]`, by `judge`."""
        return self.drawn(self.judge(features), inside)

    def drawn(self, values: Tensor, inside: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Turn patches' values `[B, P]` into scores `[B]`, the maxima of the maps, and maps `[B, H, W]`.

        Patches that do not count have the lowest value of those that do: they raise no score.
        """
        values = fill_with_lowest(values, self.branches[0].valid_mask(inside) > 0)
        maps = self.bounded(self.branches[0].anomaly_map(values), inside)
        return maps.amax((1, 2)), maps

    # ---- made, and read from a model file

    @staticmethod
    def _backbones_of(
        config: PatchSettings,
    ) -> list[tuple[str, tuple[int, ...], tuple[int, int], str | None]]:
        """Return name, stages, size and weights of each backbone: the arguments of `load_backbone`."""
        found = [(config.backbone, config.backbone_stages, config.network_size, config.weights)]
        for branch in config.branch_specs:
            if branch.second:
                second = cast(_SecondBackboneSettings, config)
                found.append((second.second_backbone, branch.stages, branch.size, second.second_weights))
        return found

    @classmethod
    def create(cls, config: PatchSettings, roi: Tensor | None = None) -> tuple[Self, WeightsOrigin]:
        """Build a detector with its backbone, not fitted; return it with the weights' origin.

        Returns:
            The detector, and the name, origin and licence of the weights.
        """
        loaded = [load_backbone(*backbone) for backbone in cls._backbones_of(config)]
        origin = {key: " + ".join(about[key] for _, about in loaded) for key in loaded[0][1]}
        return cls(config, loaded[0][0], roi, *(backbone for backbone, _ in loaded[1:])).eval(), origin

    @classmethod
    def create_like(cls, config: PatchSettings, roi: Tensor | None, tensors: Mapping[str, Tensor]) -> Self:
        """Build a detector, not fitted, with the backbones of a fitted model of the same settings."""
        described = zip(cls._backbones_of(config), PREFIXES, strict=False)
        stored = [
            stored_backbone(name, stages, size, tensors, prefix)
            for (name, stages, size, _), prefix in described
        ]
        return cls(config, stored[0], roi, *stored[1:]).eval()

    @classmethod
    def rebuild(cls, config: Json, tensors: dict[str, Tensor]) -> Self:
        """Build the detector of a model file; raise InputError where settings and tensors do not fit."""
        typed = cls.METHOD.parse_stored(config)
        roi = stored_region(typed, tensors)
        empty = [
            empty_backbone(name, stages, size, tensors, prefix)
            for (name, stages, size, _), prefix in zip(cls._backbones_of(typed), PREFIXES, strict=False)
        ]
        model = cls(typed, empty[0], roi, *empty[1:])
        model.fill(tensors)
        return model.eval()


# ------------------------------------------------------------------------------- matrices of the embedding


def pooling_kernels(channels: list[int], p: int, dimensions: int) -> list[tuple[Tensor, int]]:
    """Return each layer's convolution `[n, C, p, p]` that equals both poolings, and its first output."""
    inner = adaptive_windows(len(channels) * dimensions, dimensions)
    kernels = []
    for j, c in enumerate(channels):
        layer = adaptive_windows(c * p * p, dimensions)
        rows: dict[int, Tensor] = {}
        for out, (start, stop) in enumerate(inner):
            for k in range(max(start, j * dimensions), min(stop, (j + 1) * dimensions)):
                a, b = layer[k - j * dimensions]
                row = rows.setdefault(out, torch.zeros(c * p * p, dtype=torch.float64))
                row[a:b] += 1.0 / ((b - a) * (stop - start))
        low = min(rows)
        stacked = torch.stack([rows[out] for out in sorted(rows)])
        kernels.append((stacked.view(-1, c, p, p).float(), low))
    return kernels


def adaptive_windows(length: int, outputs: int) -> list[tuple[int, int]]:
    """Return the windows of adaptive average pooling: output k averages inputs start..stop of `length`."""
    return [(k * length // outputs, -(-(k + 1) * length // outputs)) for k in range(outputs)]


def block_groups(kernel: Tensor, channels: int) -> int:
    """Return the largest number of groups for which the convolution is block-diagonal: it becomes cheap."""
    outputs = len(kernel)
    most = math.gcd(len(kernel), channels)
    used = kernel.flatten(2).abs().sum(2) > 0  # [n, C]
    for groups in (n for n in range(most, 1, -1) if most % n == 0):
        block = torch.block_diag(*[torch.ones(outputs // groups, channels // groups)] * groups).bool()
        if not bool((used & ~block).any()):
            return groups
    return 1


def pack_groups(kernel: Tensor, groups: int) -> Tensor:
    """Return the weights `[n, C / groups, p, p]` of a block-diagonal convolution, as torch takes groups."""
    n, c = len(kernel) // groups, kernel.shape[1] // groups
    return torch.cat([kernel[g * n : (g + 1) * n, g * c : (g + 1) * c] for g in range(groups)])


def smooth_matrix(matrix: Tensor, sigma: float) -> Tensor:
    """Return a matrix `[size, cells]` float64 from cells to pixels, followed by a Gaussian of `sigma` pixels.

    Both are linear and separable: a matrix a side holds them exactly. The kernel reaches four sigma and is
    mirrored at the border.
    """
    if sigma <= 0:
        return matrix
    reach = min(int(4 * sigma + 0.5), len(matrix) - 1)
    x = torch.arange(-reach, reach + 1, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (x / sigma) ** 2)
    padded = F.pad(matrix.T[:, None], (reach, reach), mode="reflect")
    return F.conv1d(padded, (kernel / kernel.sum()).view(1, 1, -1))[:, 0].T


def smoothing_matrix(size: int, grid: int, sigma: float) -> Tensor:
    """Return the matrix `[size, grid]` of a bilinear resize from `grid` to `size`, then a Gaussian.

    `sigma` of the Gaussian is in pixels.
    """
    identity = torch.eye(grid, dtype=torch.float64)[None]  # one column a grid cell
    resized = F.interpolate(identity, size=size, mode="linear", align_corners=False)[0]  # [grid, size]
    return smooth_matrix(resized.T, sigma).float().contiguous()


def cell_windows(size: int, grid: int) -> Tensor:
    """Return a matrix `[grid, size]`: 1 where a pixel lies in a cell's window of adaptive pooling."""
    pixels = torch.arange(size)
    cells = torch.arange(grid)[:, None]
    first = cells * size // grid
    end = -(-(cells + 1) * size // grid)
    return ((pixels >= first) & (pixels < end)).float()


def patches_in_region(roi: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return a mask `[P]` float: 1 where a patch's cell touches the region of interest."""
    return F.adaptive_max_pool2d(roi[None].float(), grid).flatten()


def reducing_matrix(size: int, whole: int) -> Tensor:
    """Return the matrix `[size, whole]` of Pillow's antialiased bilinear resize from `whole` to `size`."""
    factor = whole / size
    reach = max(factor, 1.0)
    centres = (torch.arange(size, dtype=torch.float64) + 0.5) * factor
    pixels = torch.arange(whole, dtype=torch.float64) + 0.5
    weights = (1.0 - (pixels[None] - centres[:, None]).abs() / reach).clamp(min=0)
    return (weights / weights.sum(1, keepdim=True)).float()
