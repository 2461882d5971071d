r"""The trained part of PRN: from features and residuals of a picture to a logit of a defect at each pixel.

Zhang et al., Prototypical Residual Networks for Anomaly Detection and Localization, CVPR 2023, sections 3.3
and 3.4.

    features  -> fusion \
                          concatenated -> 3 x multi-size attention -> fusion -> decoder -> logits
    residuals -> fusion /

Normalisation is over an entire picture and all its channels: it is the same in training and in use, whatever
the batch. It comes after features and residuals are joined: if residuals were normalised by themselves, the
weak residuals of a good picture would become as strong as those of a defect.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flawscope.methods.training.prnet.record import STRIDES

# Numbers of patches along each side of a map; only those are used that divide the map's sides. A single patch
# would have nothing to attend to
PATCHES_PER_SIDE = (2, 4, 8)
ATTENTION_LAYERS = 3
CHANNEL_DIVISOR = 4  # each number of patches gets a quarter of the channels

Grid = tuple[int, int]


def grids_for(size: Grid) -> list[Grid]:
    """Return (H_j, W_j) of the four stages for pictures of (H, W), multiples of 32."""
    return [(size[0] // stride, size[1] // stride) for stride in STRIDES]


class Network(nn.Module):
    """Network from the stages' features and the residuals of three scales to logits `[B, 1, H, W]`."""

    def __init__(
        self,
        channels: Sequence[int],
        size: Grid,
        *,
        width: float = 1.0,
        attention: bool = True,
        residuals: bool = True,
    ):
        """Build the layers.

        Args:
            channels: Channels of the backbone's stages at strides 4, 8, 16 and 32.
            size: (H, W) of the pictures, multiples of 32.
            width: Number of the network's channels, relative to the backbone's; the time grows with the
                square of it.
            attention: Whether there is attention; without it, there are only residual blocks.
            residuals: Whether the network takes residuals; without them, it has half as many channels.
        """
        super().__init__()
        *grids, _ = grids_for(size)
        *scale_channels, last_channels = channels
        if width == 1:
            inner_channels = scale_channels
        else:
            inner_channels = [max(8, round(count * width / 8) * 8) for count in scale_channels]
        # features and residuals are joined
        joined_channels = [count * 2 if residuals else count for count in inner_channels]
        self.feature_fusion = MultiScaleFusion(scale_channels, inner_channels, grids)
        self.residual_fusion = MultiScaleFusion(scale_channels, inner_channels, grids) if residuals else None
        self.layers = nn.ModuleList()
        for _ in range(ATTENTION_LAYERS):
            layer = nn.ModuleList()
            for count, grid in zip(joined_channels, grids, strict=True):
                blocks: list[nn.Module] = [MultiSizeAttention(count, grid)] if attention else []
                layer.append(nn.Sequential(*blocks, ResidualBlock(count)))
            self.layers.append(layer)
        self.fusion = MultiScaleFusion(joined_channels, joined_channels, grids)
        self.decoder = Decoder(last_channels, joined_channels, inner_channels, grids, size)

    def forward(self, features: Sequence[Tensor], residuals: Sequence[Tensor] = ()) -> Tensor:
        """Compute the logits of a batch.

        Args:
            features: Four maps `[B, C_j, H_j, W_j]`, standardised.
            residuals: Three maps, in the shapes of the first three features, with values of at least 0; a
                network without residuals does not use them.

        Returns:
            Logits `[B, 1, H, W]`.
        """
        *scale_features, last_features = (_to_autocast_dtype(feature) for feature in features)
        maps = self.feature_fusion(scale_features)
        if self.residual_fusion is not None:
            # Half of the residuals are below 0.1, and a few above 50: without the logarithm these few would
            # hide the others
            log_residuals = [_to_autocast_dtype(residual.log1p()) for residual in residuals]
            residual_maps = self.residual_fusion(log_residuals)
            maps = [torch.cat(pair, 1) for pair in zip(maps, residual_maps, strict=True)]
        for layer in self.layers:
            assert isinstance(layer, nn.ModuleList)
            maps = [block(scale_map) for block, scale_map in zip(layer, maps, strict=True)]
        logits: Tensor = self.decoder(last_features, self.fusion(maps))
        return logits


class MultiScaleFusion(nn.Module):
    """Module that adds the maps of all other scales to every scale (3.3), as in HRNet."""

    def __init__(self, input_channels: Sequence[int], output_channels: Sequence[int], grids: Sequence[Grid]):
        super().__init__()
        scales = range(len(input_channels))
        self.paths = nn.ModuleList(
            nn.ModuleList(
                _scale_path(input_channels[j], output_channels[i], down=i - j, grid=grids[i]) for j in scales
            )
            for i in scales
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return for each scale the sum of all scales' maps, brought to its channels and size."""
        fused_maps = []
        for paths in self.paths:
            assert isinstance(paths, nn.ModuleList)
            contributions = [path(scale_map) for path, scale_map in zip(paths, maps, strict=True)]
            fused_maps.append(reduce(torch.add, contributions))
        return fused_maps


def _scale_path(input_channels: int, output_channels: int, down: int, grid: Grid) -> nn.Module:
    """Return layers that bring the map of a scale to another scale.

    Args:
        input_channels: Number of channels of the map.
        output_channels: Number of channels of the result.
        down: How often the map's sides are halved; below 0, they are enlarged.
        grid: (h, w) of the result.
    """
    if down < 0:
        return nn.Sequential(nn.Conv2d(input_channels, output_channels, 1), _upsample(grid))
    if down == 0:
        if input_channels == output_channels:
            return nn.Identity()
        return nn.Conv2d(input_channels, output_channels, 1)
    layers: list[nn.Module] = []
    for _ in range(down - 1):
        layers += [nn.Conv2d(input_channels, input_channels, 3, stride=2, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(input_channels, output_channels, 3, stride=2, padding=1))


class MultiSizeAttention(nn.Module):
    """Multi-size self-attention (3.3) among the patches of a map.

    The map is cut into patches of several sizes. At each size every patch attends to all patches.

    Attributes:
        parts: Numbers of patches along a side, one for each size.
        inner: Channels of each size.
    """

    def __init__(self, channels: int, grid: Grid):
        super().__init__()
        self.grid = grid
        self.parts = tuple(
            count for count in PATCHES_PER_SIDE if grid[0] % count == 0 and grid[1] % count == 0
        )
        self.inner = max(4, channels // CHANNEL_DIVISOR)
        self.norm = PictureNorm(channels)
        # No bias: a bias of the keys adds the same number to all logits of a patch, which softmax cancels
        self.qkv = nn.Conv2d(channels, 3 * self.inner * len(self.parts), 1, bias=False)
        self.merge = nn.Conv2d(self.inner * len(self.parts), channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return maps `[B, C, h, w]`, to which the attention of each patch size is added."""
        attended_maps = []
        maps_of_sizes = self.qkv(self.norm(x)).split(3 * self.inner, 1)
        for parts, size_maps in zip(self.parts, maps_of_sizes, strict=True):
            q, k, v = (self.to_tokens(maps, parts) for maps in size_maps.split(self.inner, 1))
            scaled_q = q * q.shape[2] ** -0.5
            weights = (scaled_q @ k.transpose(1, 2)).softmax(2)  # [B, parts², parts²]
            attended_maps.append(self.from_tokens(weights @ v, parts))
        attention: Tensor = self.merge(torch.cat(attended_maps, 1))
        return x + attention

    def to_tokens(self, maps: Tensor, parts: int) -> Tensor:
        """Cut maps `[B, c, h, w]` into patches `[B, parts², d]`, d = c h w / parts²."""
        h, w = self.grid[0] // parts, self.grid[1] // parts
        cut = maps.reshape(-1, self.inner, parts, h, parts, w)
        return cut.permute(0, 2, 4, 1, 3, 5).reshape(-1, parts * parts, self.inner * h * w)

    def from_tokens(self, tokens: Tensor, parts: int) -> Tensor:
        """Put patches `[B, parts², d]` back into maps `[B, c, h, w]`."""
        h, w = self.grid[0] // parts, self.grid[1] // parts
        cut = tokens.reshape(-1, parts, parts, self.inner, h, w)
        return cut.permute(0, 3, 1, 4, 2, 5).reshape(-1, self.inner, *self.grid)


class ResidualBlock(nn.Module):
    """Residual block behind the attention."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = PictureNorm(channels)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return maps `[B, C, h, w]`, to which the output of the convolution is added."""
        output: Tensor = self.conv(self.norm(x).relu())
        return x + output


class Decoder(nn.Module):
    """Module that enlarges the last stage's map to the picture's size; fused maps join it (3.4)."""

    def __init__(
        self,
        last_channels: int,
        skip_channels: Sequence[int],
        output_channels: Sequence[int],
        grids: Sequence[Grid],
        size: Grid,
    ):
        super().__init__()
        steps = []
        input_channels = last_channels
        scales = list(zip(skip_channels, output_channels, grids, strict=True))
        for skip_count, output_count, grid in reversed(scales):  # from coarse to fine
            steps.append(UpBlock(input_channels, skip_count, output_count, grid))
            input_channels = output_count
        self.steps = nn.ModuleList(steps)
        half = (size[0] // 2, size[1] // 2)
        self.finest = UpBlock(input_channels, skip_channels=0, output_channels=input_channels, grid=half)
        # four logits of a pixel at half the size become two by two pixels: to enlarge all channels first
        # would take a fifth of a step's time
        self.head = nn.Sequential(nn.Conv2d(input_channels, 4, 3, padding=1), nn.PixelShuffle(2))

    def forward(self, last: Tensor, maps: Sequence[Tensor]) -> Tensor:
        """Return logits `[B, 1, H, W]` of a defect.

        Args:
            last: Map of the last stage.
            maps: The fused maps, largest first.
        """
        enlarged = last
        for step, skip in zip(self.steps, reversed(maps), strict=True):
            enlarged = step(enlarged, skip)
        logits: Tensor = self.head(self.finest(enlarged))
        return logits


class UpBlock(nn.Module):
    """Module that doubles a map's size, and joins the skip connection's map where there is one."""

    def __init__(self, input_channels: int, skip_channels: int, output_channels: int, grid: Grid):
        super().__init__()
        self.up = nn.Sequential(nn.Conv2d(input_channels, output_channels, 1), _upsample(grid))
        joined_channels = output_channels + skip_channels
        self.conv = nn.Sequential(
            nn.Conv2d(joined_channels, output_channels, 3, padding=1, bias=False),
            PictureNorm(output_channels),
            nn.ReLU(),
        )

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """Return a map `[B, C, 2 h, 2 w]` from a map `[B, c, h, w]`.

        Args:
            x: The map.
            skip: The skip connection's map, of the new size; None: there is none.
        """
        enlarged = self.up(x)
        output: Tensor = self.conv(enlarged if skip is None else torch.cat([enlarged, skip], 1))
        return output


class PictureNorm(nn.GroupNorm):
    """Normalisation over an entire picture and all its channels.

    Sums are in fp32 for any input, and the result has the input's dtype. Autocast would return fp32, which
    would be rounded for the next convolution.
    """

    def __init__(self, channels: int):
        super().__init__(num_groups=1, num_channels=channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return maps `[B, C, h, w]`, normalised over all but the batch."""
        if not torch.is_autocast_enabled(x.device.type):
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x)


def _to_autocast_dtype(x: Tensor) -> Tensor:
    """Return `x` in autocast's dtype if autocast is on, because a sum with an fp32 map would be fp32."""
    device_type = x.device.type
    if not torch.is_autocast_enabled(device_type):
        return x
    return x.to(torch.get_autocast_dtype(device_type))


def _upsample(grid: Grid) -> nn.Upsample:
    return nn.Upsample(size=grid, mode="bilinear", align_corners=False)


LAMBDA = 5.0  # weight of the focal loss
ALPHA = 0.5  # weight of defects in the focal loss
GAMMA = 4.0  # exponent of the focal loss
TOP_PIXELS = 100  # number of pixels whose mean is the score


def prn_loss(logits: Tensor, masks: Tensor, valid_mask: Tensor | None = None) -> Tensor:
    """Return SmoothL1 between the map and the mask, plus `LAMBDA` times the focal loss; a scalar.

    Args:
        logits: Logits `[B, 1, H, W]`, floating point.
        masks: Masks `[B, 1, H, W]`: 1 where there is a defect, else 0.
        valid_mask: The pixels that count, `[B, H, W]` bool; None: all of them.
    """
    masks = masks.to(logits.dtype)
    if valid_mask is not None:
        logits = logits[:, 0][valid_mask]
        masks = masks[:, 0][valid_mask]
    return F.smooth_l1_loss(logits.sigmoid(), masks) + LAMBDA * focal_loss(logits, masks)


def focal_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Return the mean over all pixels of -a (1 - p)^`GAMMA` log p.

    p is the probability of the right answer; a is `ALPHA` on defects, 1 - `ALPHA` elsewhere. The computation
    from logits is exact also where p is 0 or 1 to the last digit. Source: Lin et al., Focal Loss for Dense
    Object Detection, 2017.

    Args:
        logits: Logits of a defect.
        masks: 1 where there is a defect, else 0, of the same shape.
    """
    right_logits = logits * (2 * masks - 1)  # logits of p
    weights = ALPHA * masks + (1 - ALPHA) * (1 - masks)
    # 1 - p is the sigmoid of -logit, and -log p its softplus
    return (weights * (-right_logits).sigmoid().pow(GAMMA) * F.softplus(-right_logits)).mean()


def image_score(maps: Tensor, top: int = TOP_PIXELS) -> Tensor:
    """Return the mean `[B]` of the `top` largest pixels of maps `[B, H, W]`; of all if there are fewer."""
    pixels = maps.flatten(1)
    if top == 1:
        return pixels.amax(1)
    return pixels.topk(min(top, pixels.shape[1]), dim=1).values.mean(1)
