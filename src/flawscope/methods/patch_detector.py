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

    A patch describes the p x p neighbourhood of its position (stride 1, zero padded). The coarser maps are
    resized bilinearly to the finest map, and the channels are joined.

    Without `dimensions` the neighbourhood is averaged and the channels are concatenated: D = sum of C_j.

    With `dimensions`, the result equals the pipeline of PatchCore's authors: unfold the neighbourhoods, pool
    each layer's C_j * p² numbers to `dimensions` (adaptive average pooling), stack the layers, and pool the
    stack to `dimensions`. All steps are linear, so one convolution a layer does them, and the unfolded tensor
    is never built.
    """

    def __init__(self, shapes: list[tuple[int, int, int]], neighbourhood: int, dimensions: int | None):
        """Compute the kernels.

        Args:
            shapes: (C, H, W) of the map of each layer.
            neighbourhood: Side p of the neighbourhood of a patch, in cells.
            dimensions: Number of dimensions of a patch; None: the sum of the layers' channels.
        """
        super().__init__()
        self.shapes = shapes
        self.neighbourhood = neighbourhood
        self.dimensions = dimensions
        self.grid = max(((h, w) for _, h, w in shapes), key=math.prod)
        channels = [c for c, _, _ in shapes]
        self.width = dimensions or sum(channels)
        self.spans: list[tuple[int, int]] = []  # for layer j, the range of outputs to which it contributes
        if dimensions:
            kernels = pooling_kernels(channels, neighbourhood, dimensions)
            for j, (kernel, first_output) in enumerate(kernels):
                groups = block_groups(kernel, channels[j])
                self.spans.append((first_output, first_output + len(kernel)))
                self.register_buffer(f"kernel{j}", pack_groups(kernel, groups), persistent=False)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Return the patches `[B, H*W, D]` of maps `[B, C_j, H_j, W_j]`, one a layer."""
        p = self.neighbourhood
        if self.dimensions is None:
            pooled = [F.avg_pool2d(layer_map, p, stride=1, padding=p // 2) for layer_map in maps]
            merged = torch.cat([self._resize_to_grid(layer_map) for layer_map in pooled], dim=1)
        else:
            contributions = []
            for j, layer_map in enumerate(maps):
                kernel = getattr(self, f"kernel{j}")
                groups = layer_map.shape[1] // kernel.shape[1]  # a kernel has C / groups input channels
                outputs = self._resize_to_grid(F.conv2d(layer_map, kernel, padding=p // 2, groups=groups))
                start, stop = self.spans[j]
                channel_padding = (start, self.dimensions - stop)
                # no padding of width and height
                contributions.append(F.pad(outputs, (0, 0, 0, 0, *channel_padding)))
            merged = torch.stack(contributions).sum(0)  # [B, D, H, W]
        return merged.permute(0, 2, 3, 1).flatten(1, 2)  # [B, H*W, D]

    def _resize_to_grid(self, layer_map: Tensor) -> Tensor:
        if tuple(layer_map.shape[-2:]) == self.grid:
            return layer_map
        return F.interpolate(layer_map, size=self.grid, mode="bilinear", align_corners=False)


class PatchBranch(nn.Module):
    """Branch of a detector: sees the image at `size` as P patches of D numbers.

    It turns values of patches into maps of the image's own size.

    Attributes:
        size: (H, W) at which it sees the image.
        stages: Stages of the backbone, whose maps it joins.
        second: Whether it uses the second backbone.
        grid: (h, w) of its patches, P = h w.
        inside: `[P]`, 1 where a patch counts, else 0.
        rows: `[H, h]`: rows of patches to rows of pixels, smoothed.
        columns: `[W, w]`: columns of patches to columns of pixels, smoothed.
        down_rows: `[height of size, H]`: rows of the image to rows at `size`; only where the sizes differ.
        down_columns: `[width of size, W]`: the same for columns.
        row_windows: `[h, H]`, 1 where a row of patches sees a row of pixels, else 0.
        column_windows: `[w, W]`: the same for columns.
    """

    inside: Tensor
    rows: Tensor
    columns: Tensor
    down_rows: Tensor
    down_columns: Tensor
    row_windows: Tensor
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
            spec: Size and stages of the branch.
            roi: Region of interest, `[H, W]` bool at the size of the images.
            dimensions: Number of dimensions of a patch; None: the sum of the stages' channels
                (`PatchEmbedding`).
        """
        super().__init__()
        size = spec.size
        self.size = size
        self.stages = spec.stages
        self.second = spec.second
        backbone_stages = spec.stages if spec.second else config.backbone_stages
        self.stage_indices = [backbone_stages.index(stage) for stage in spec.stages]
        image_size = (roi.shape[0], roi.shape[1])
        shapes = self.select_stages(backbone.shapes_at(size))
        # A second backbone is meant to be a transformer: a token has seen the entire picture already
        neighbourhood = 1 if spec.second else config.neighbourhood
        self.embedding = PatchEmbedding(shapes, neighbourhood, dimensions)
        self.grid = self.embedding.grid
        self.resizes = size != image_size
        for axis, image_side, cells, branch_side in zip(
            ("row", "column"), image_size, self.grid, size, strict=True
        ):
            # the setting sigma is in pixels at `size`, the matrix in pixels of the image
            smoothing = smoothing_matrix(image_side, cells, config.sigma * image_side / branch_side)
            self.register_buffer(f"{axis}s", smoothing, persistent=False)
            self.register_buffer(f"{axis}_windows", cell_windows(image_side, cells), persistent=False)
            if self.resizes:
                reduction = reducing_matrix(branch_side, image_side)
                self.register_buffer(f"down_{axis}s", reduction, persistent=False)
        self.register_buffer("inside", patches_in_region(roi, self.grid), persistent=False)

    def select_stages(self, stage_items: Sequence[T]) -> list[T]:
        """Return the items of this branch's stages.

        Args:
            stage_items: An item for each stage of the backbone.
        """
        return [stage_items[index] for index in self.stage_indices]

    def patches(self, maps: Sequence[Tensor]) -> Tensor:
        """Turn the maps of all stages of the backbone into patches `[B, P, D]` float32."""
        return self.embedding([stage_map.float() for stage_map in self.select_stages(maps)])

    def resize(self, images: Tensor) -> Tensor:
        """Return images `[B, 3, H, W]` at this branch's size, by an antialiased bilinear resize.

        The resize is two matrix products.
        """
        if not self.resizes:
            return images
        # planes `[B * 3, H, W]`: OpenVINO joins a product of four dimensions to the normalisation, and fails
        planes = self.down_rows @ images.flatten(0, 1) @ self.down_columns.T
        return planes.view(-1, images.shape[1], *self.size)

    def valid_mask(self, inside: Tensor | None) -> Tensor:
        """Return which patches count, 1 or 0: `[P]`, or `[B, P]` where pictures are padded.

        Args:
            inside: The pixels that count, `[B, H, W]` bool; None: those of the region of interest.
        """
        if inside is None:
            return self.inside
        dtype = self.row_windows.dtype
        pixel_counts = self.row_windows @ inside.to(dtype) @ self.column_windows.T  # [B, h, w]
        return (pixel_counts > 0).to(dtype).flatten(1)

    def anomaly_map(self, values: Tensor) -> Tensor:
        """Return maps `[B, H, W]` of patches' values `[B, P]`: resized bilinearly and smoothed."""
        return self.rows @ values.view(-1, *self.grid) @ self.columns.T


class _SecondBackboneSettings(Protocol):
    """Settings of a method with a branch of a second backbone."""

    second_backbone: str
    second_weights: str | None


class PatchDetector(Detector):
    """Detector that turns images into patches, and the patches' values into maps.

    A subclass for one picture size adds tensors or networks in `__init__`, and overrides `judge`. A subclass
    for several sizes overrides `score`.

    Attributes:
        patches: P of each branch.
        width: The largest D of all branches; patches of branches with a smaller D are padded with zeros.
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
        # the attribute's name is part of the names of tensors in files: it stays
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

    def backbone_of(self, branch: BranchSpec | PatchBranch) -> Backbone:
        """Return the backbone that a branch uses."""
        return self.backbones[1 if branch.second else 0]

    def branch(self, spec: BranchSpec) -> PatchBranch:
        """Build a branch as the settings describe it."""
        return PatchBranch(self.config, self.backbone_of(spec), spec, self.roi, dimensions=None)

    def judge(self, patches: Tensor) -> Tensor:
        """Return values `[B, P]` float32 of patches `[B, P, D]` float32; higher is more anomalous."""
        raise NotImplementedError

    def embed(self, images: Tensor) -> Tensor:
        """Turn images `[B, 3, H, W]` into patches `[B, P, D]` float32, branch after branch."""
        images = self.filled(images)
        patches_of_branches = []
        maps = None
        maps_source = None  # size and backbone that gave `maps`
        for branch in self.branches:
            # neighbouring branches of one size and backbone share its maps
            if maps is None or (branch.size, branch.second) != maps_source:
                resized = branch.resize(images).contiguous(memory_format=torch.channels_last)
                with self.reduced():
                    maps = self.backbone_of(branch)(resized)
                maps_source = (branch.size, branch.second)
            patches = branch.patches(maps)
            missing_width = self.width - patches.shape[2]
            patches_of_branches.append(F.pad(patches, (0, missing_width)) if missing_width else patches)
        if len(patches_of_branches) == 1:
            return patches_of_branches[0]
        return torch.cat(patches_of_branches, dim=1)

    def parts(self, features: Tensor) -> list[Tensor]:
        """Split the patches of all branches into the patches of each branch, without padding.

        Args:
            features: Patches `[..., P, D]` from `embed`.
        """
        patches_of_branches = []
        for branch, patches in zip(self.branches, features.split(self.patches, dim=-2), strict=True):
            width = branch.embedding.width
            patches_of_branches.append(patches if width == self.width else patches[..., :width])
        return patches_of_branches

    def score(self, features: Tensor, inside: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Turn patches `[B, P, D]` into scores `[B]` and maps `[B, H, W]`, by `judge`."""
        return self.drawn(self.judge(features), inside)

    def drawn(self, values: Tensor, inside: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Turn patches' values `[B, P]` into maps `[B, H, W]` and scores `[B]`, which are the maps' maxima.

        Patches that do not count get the lowest value of those that do: they raise no score.

        Args:
            values: Values of the patches.
            inside: The pixels that count, from the method `inside`.

        Returns:
            The scores and the maps.
        """
        values = fill_with_lowest(values, self.branches[0].valid_mask(inside) > 0)
        maps = self.bounded(self.branches[0].anomaly_map(values), inside)
        return maps.amax((1, 2)), maps

    # ---- building, also from a model file

    @staticmethod
    def _backbones_of(
        config: PatchSettings,
    ) -> list[tuple[str, tuple[int, ...], tuple[int, int], str | None]]:
        """Return name, stages, size and weights of each backbone: the arguments of `load_backbone`."""
        backbones = [(config.backbone, config.backbone_stages, config.network_size, config.weights)]
        for branch in config.branch_specs:
            if branch.second:
                settings = cast(_SecondBackboneSettings, config)
                backbones.append(
                    (settings.second_backbone, branch.stages, branch.size, settings.second_weights)
                )
        return backbones

    @classmethod
    def create(cls, config: PatchSettings, roi: Tensor | None = None) -> tuple[Self, WeightsOrigin]:
        """Build an unfitted detector with pretrained backbones.

        Returns:
            The detector, and the name, origin and licence of the weights; two backbones' texts are joined by
            " + ".
        """
        backbones = []
        origins = []
        for name, stages, size, weights in cls._backbones_of(config):
            backbone, backbone_origin = load_backbone(name, stages, size, weights)
            backbones.append(backbone)
            origins.append(backbone_origin)
        joined_origin = {key: " + ".join(origin[key] for origin in origins) for key in origins[0]}
        first, *further = backbones
        return cls(config, first, roi, *further).eval(), joined_origin

    @classmethod
    def create_like(cls, config: PatchSettings, roi: Tensor | None, tensors: Mapping[str, Tensor]) -> Self:
        """Build an unfitted detector with the backbones of a fitted model, which has the same settings."""
        # there may be fewer backbones than prefixes
        first, *further = [
            stored_backbone(name, stages, size, tensors, prefix)
            for (name, stages, size, _), prefix in zip(cls._backbones_of(config), PREFIXES, strict=False)
        ]
        return cls(config, first, roi, *further).eval()

    @classmethod
    def rebuild(cls, config: Json, tensors: dict[str, Tensor]) -> Self:
        """Build the detector of a model file; raise InputError where settings and tensors do not fit."""
        settings = cls.METHOD.parse_stored(config)
        roi = stored_region(settings, tensors)
        # there may be fewer backbones than prefixes
        first, *further = [
            empty_backbone(name, stages, size, tensors, prefix)
            for (name, stages, size, _), prefix in zip(cls._backbones_of(settings), PREFIXES, strict=False)
        ]
        model = cls(settings, first, roi, *further)
        model.fill(tensors)
        return model.eval()


# ------------------------------------------------------------------------------- matrices of the embedding


def pooling_kernels(channels: list[int], p: int, dimensions: int) -> list[tuple[Tensor, int]]:
    """Return convolutions that do both poolings of the authors' pipeline (`PatchEmbedding`) at once.

    The first pooling reduces the C p² numbers of a layer to `dimensions` means. The second stacks the means
    of all layers, and pools the stack to `dimensions` outputs.

    Args:
        channels: Number C of channels of each layer.
        p: Side of the neighbourhood.
        dimensions: Number of outputs of each pooling.

    Returns:
        For each layer its kernel `[n, C, p, p]`, which contributes to n neighbouring outputs, and the number
        of the first of these outputs.
    """
    second_windows = adaptive_windows(len(channels) * dimensions, dimensions)
    kernels = []
    for j, c in enumerate(channels):
        first_windows = adaptive_windows(c * p * p, dimensions)
        layer_start = j * dimensions  # where the layer's numbers begin in the stack
        layer_stop = (j + 1) * dimensions
        rows: dict[int, Tensor] = {}  # the kernel's row by the number of its output
        for output, (start, stop) in enumerate(second_windows):
            for k in range(max(start, layer_start), min(stop, layer_stop)):
                input_start, input_stop = first_windows[k - layer_start]
                row = rows.setdefault(output, torch.zeros(c * p * p, dtype=torch.float64))
                # an input's share of a first mean, times that mean's share of a second mean
                row[input_start:input_stop] += 1.0 / ((input_stop - input_start) * (stop - start))
        kernel = torch.stack([rows[output] for output in sorted(rows)])
        first_output = min(rows)
        kernels.append((kernel.view(-1, c, p, p).float(), first_output))
    return kernels


def adaptive_windows(length: int, outputs: int) -> list[tuple[int, int]]:
    """Return the windows (start, stop) of adaptive average pooling from `length` inputs to `outputs`."""
    windows = []
    for k in range(outputs):
        start = k * length // outputs
        stop = -(-(k + 1) * length // outputs)  # rounded up
        windows.append((start, stop))
    return windows


def block_groups(kernel: Tensor, channels: int) -> int:
    """Return the largest number of groups into which a convolution can be divided; groups are faster.

    Args:
        kernel: The convolution `[n, C, p, p]`. If it is block-diagonal in n and C, each block can be a group.
        channels: Number C of its input channels.
    """
    output_count = len(kernel)
    max_groups = math.gcd(output_count, channels)
    is_used = kernel.flatten(2).abs().sum(2) > 0  # [n, C]
    for groups in range(max_groups, 1, -1):
        if max_groups % groups != 0:
            continue
        block = torch.ones(output_count // groups, channels // groups)
        is_in_block = torch.block_diag(*[block] * groups).bool()
        if not bool((is_used & ~is_in_block).any()):
            return groups
    return 1


def pack_groups(kernel: Tensor, groups: int) -> Tensor:
    """Return a grouped convolution's weights: the diagonal blocks of a convolution `[n, C, p, p]`.

    They have the shape `[n, C / groups, p, p]`, as torch wants it.
    """
    blocks = []
    for group, rows in enumerate(kernel.tensor_split(groups)):
        column_groups = rows.tensor_split(groups, dim=1)
        blocks.append(column_groups[group])
    return torch.cat(blocks)


def smooth_matrix(matrix: Tensor, sigma: float) -> Tensor:
    """Return a matrix from cells to pixels that also smooths by a Gaussian.

    The resize and the Gaussian are linear and separable: one matrix for rows and one for columns do both
    exactly. The Gaussian ends at four sigma, and is mirrored at the border.

    Args:
        matrix: Matrix `[size, cells]` float64 from cells to pixels.
        sigma: Standard deviation of the Gaussian in pixels; 0: no smoothing.
    """
    if sigma <= 0:
        return matrix
    reach = min(int(4 * sigma + 0.5), len(matrix) - 1)  # pixels
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    padded = F.pad(matrix.T[:, None], (reach, reach), mode="reflect")
    return F.conv1d(padded, (kernel / kernel.sum()).view(1, 1, -1))[:, 0].T


def smoothing_matrix(size: int, grid: int, sigma: float) -> Tensor:
    """Return the matrix `[size, grid]` of a bilinear resize from `grid` to `size`, then a Gaussian.

    `sigma` of the Gaussian is in pixels.
    """
    identity = torch.eye(grid, dtype=torch.float64)[None]  # resizing each unit vector gives the matrix
    resized = F.interpolate(identity, size=size, mode="linear", align_corners=False)[0]  # [grid, size]
    return smooth_matrix(resized.T, sigma).float().contiguous()


def cell_windows(size: int, grid: int) -> Tensor:
    """Return a matrix `[grid, size]`: 1 where a pixel lies in a cell's window of adaptive pooling, else 0."""
    pixels = torch.arange(size)
    cells = torch.arange(grid)[:, None]
    start = cells * size // grid
    stop = -(-(cells + 1) * size // grid)  # rounded up
    return ((pixels >= start) & (pixels < stop)).float()


def patches_in_region(roi: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return a mask `[P]` float: 1 where a patch's cell touches the region of interest."""
    return F.adaptive_max_pool2d(roi[None].float(), grid).flatten()


def reducing_matrix(size: int, full_size: int) -> Tensor:
    """Return the matrix `[size, full_size]` of Pillow's antialiased bilinear resize to `size` pixels."""
    factor = full_size / size
    reach = max(factor, 1.0)  # half the width of the triangle, in input pixels
    centres = (torch.arange(size, dtype=torch.float64) + 0.5) * factor
    pixels = torch.arange(full_size, dtype=torch.float64) + 0.5
    weights = (1.0 - (pixels[None] - centres[:, None]).abs() / reach).clamp(min=0)
    return (weights / weights.sum(1, keepdim=True)).float()
