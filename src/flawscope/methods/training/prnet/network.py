r"""The trained part of PRN: from features and residuals of a picture to a logit of a defect at each pixel.

Zhang et al., Prototypical Residual Networks for Anomaly Detection and Localization, CVPR 2023, sections 3.3
and 3.4.

    features  -> fusion \
                          concatenated -> 3 x multi-size attention -> fusion -> decoder -> logits
    residuals -> fusion /

Normalisation is over a whole picture and all its channels: it is the same in training and in use, whatever
the batch. It comes only after features and residuals are joined: alone, the weak residuals of a good picture
would be raised to the strength of a defect's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flawscope.methods.training.prnet.record import STRIDES

# patches along each side of a map, where they divide it. With 1 there is one token, and nothing to attend to
PATCHES_PER_SIDE = (2, 4, 8)
ATTENTION_LAYERS = 3
CHANNEL_DIVISOR = 4  # a patch size gets a quarter of the channels

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
            width: Channels inside, relative to the backbone's; computing time grows with its square.
            attention: Whether there is attention; the residual blocks behind it always stay.
            residuals: Whether it takes residuals; without them, it has half as many channels.
        """
        super().__init__()
        *grids, _ = grids_for(size)
        *inputs, last = channels
        inside = [c if width == 1 else max(8, round(c * width / 8) * 8) for c in inputs]
        joined = [c * (1 + residuals) for c in inside]
        self.feature_fusion = MultiScaleFusion(inputs, inside, grids)
        self.residual_fusion = MultiScaleFusion(inputs, inside, grids) if residuals else None
        self.layers = nn.ModuleList()
        for _ in range(ATTENTION_LAYERS):
            layer = nn.ModuleList()
            for c, grid in zip(joined, grids, strict=True):
                blocks: list[nn.Module] = [MultiSizeAttention(c, grid)] if attention else []
                layer.append(nn.Sequential(*blocks, ResidualBlock(c)))
            self.layers.append(layer)
        self.fusion = MultiScaleFusion(joined, joined, grids)
        self.decoder = Decoder(last, joined, inside, grids, size)

    def forward(self, features: Sequence[Tensor], residuals: Sequence[Tensor] = ()) -> Tensor:
        """Compute the logits of a batch.

        Args:
            features: Four maps `[B, C_j, H_j, W_j]`, standardised.
            residuals: Three maps like the first three features, 0 or more; unused if the network takes none.

        Returns:
            Logits `[B, 1, H, W]`.
        """
        *maps, last = (_to_autocast_dtype(x) for x in features)
        maps = self.feature_fusion(maps)
        if self.residual_fusion is not None:
            # half of the squares are below 0.1, and a few above 50: those few must not drown the others
            others = self.residual_fusion([_to_autocast_dtype(r.log1p()) for r in residuals])
            maps = [torch.cat(pair, 1) for pair in zip(maps, others, strict=True)]
        for layer in self.layers:
            assert isinstance(layer, nn.ModuleList)
            maps = [part(x) for part, x in zip(layer, maps, strict=True)]
        logits: Tensor = self.decoder(last, self.fusion(maps))
        return logits


class MultiScaleFusion(nn.Module):
    """Module that adds to every scale the maps of all others (3.3), as in HRNet."""

    def __init__(self, inputs: Sequence[int], outputs: Sequence[int], grids: Sequence[Grid]):
        super().__init__()
        scales = range(len(inputs))
        self.paths = nn.ModuleList(
            nn.ModuleList(_scale_path(inputs[j], outputs[i], i - j, grids[i]) for j in scales) for i in scales
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return for each scale the sum of all scales' maps, brought to its channels and size."""
        fused = []
        for paths in self.paths:
            assert isinstance(paths, nn.ModuleList)
            first, *others = (path(x) for path, x in zip(paths, maps, strict=True))
            for other in others:
                first = first + other
            fused.append(first)
        return fused


def _scale_path(inputs: int, outputs: int, down: int, grid: Grid) -> nn.Module:
    """Return layers from a scale to another that is halved `down` times, or doubled where negative."""
    if down < 0:
        return nn.Sequential(nn.Conv2d(inputs, outputs, 1), _upsample(grid))
    if down == 0:
        return nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)
    layers: list[nn.Module] = []
    for _ in range(down - 1):
        layers += [nn.Conv2d(inputs, inputs, 3, stride=2, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(inputs, outputs, 3, stride=2, padding=1))


class MultiSizeAttention(nn.Module):
    """Multi-size self-attention (3.3) among the patches of a map.

    The map is cut into patches of several sizes. At each size every patch attends to all others.
    """

    def __init__(self, channels: int, grid: Grid):
        super().__init__()
        self.grid, self.parts = grid, tuple(n for n in PATCHES_PER_SIDE if grid[0] % n == 0 == grid[1] % n)
        self.inner = max(4, channels // CHANNEL_DIVISOR)
        self.norm = PictureNorm(channels)
        # No bias: one of k adds the same to all logits of a patch, and the soft-max takes it out again.
        self.qkv = nn.Conv2d(channels, 3 * self.inner * len(self.parts), 1, bias=False)
        self.merge = nn.Conv2d(self.inner * len(self.parts), channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return maps `[B, C, h, w]`, to which the attention of each patch size is added."""
        seen = []
        sizes = self.qkv(self.norm(x)).split(3 * self.inner, 1)
        for parts, maps in zip(self.parts, sizes, strict=True):
            q, k, v = (self.to_tokens(part, parts) for part in maps.split(self.inner, 1))
            weights = (q * q.shape[2] ** -0.5 @ k.transpose(1, 2)).softmax(2)  # [B, parts², parts²]
            seen.append(self.from_tokens(weights @ v, parts))
        merged: Tensor = self.merge(torch.cat(seen, 1))
        return x + merged

    def to_tokens(self, maps: Tensor, parts: int) -> Tensor:
        """Cut maps `[B, c, h, w]` into patches `[B, parts², d]`, d = c h w / parts²."""
        h, w = self.grid[0] // parts, self.grid[1] // parts
        cut = maps.reshape(-1, self.inner, parts, h, parts, w)
        return cut.permute(0, 2, 4, 1, 3, 5).reshape(-1, parts * parts, self.inner * h * w)

    def from_tokens(self, tokens: Tensor, parts: int) -> Tensor:
        """Put tokens back into maps `[B, c, h, w]`."""
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
        """Return maps `[B, C, h, w]` with the block's own map added."""
        added: Tensor = self.conv(self.norm(x).relu())
        return x + added


class Decoder(nn.Module):
    """Module that enlarges the last stage's map to the picture's size; fused maps join it (3.4)."""

    def __init__(
        self, last: int, skips: Sequence[int], outputs: Sequence[int], grids: Sequence[Grid], size: Grid
    ):
        super().__init__()
        steps = []
        inputs = last
        for skip, channels, grid in reversed(list(zip(skips, outputs, grids, strict=True))):
            steps.append(UpBlock(inputs, skip, channels, grid))
            inputs = channels
        self.steps = nn.ModuleList(steps)
        half = (size[0] // 2, size[1] // 2)
        self.finest = UpBlock(inputs, 0, inputs, half)
        # four logits at half the size become two by two pixels: a fifth of a step's time would go into
        # enlarging all channels first
        self.head = nn.Sequential(nn.Conv2d(inputs, 4, 3, padding=1), nn.PixelShuffle(2))

    def forward(self, last: Tensor, maps: Sequence[Tensor]) -> Tensor:
        """Return logits `[B, 1, H, W]` of the last stage's map and the fused maps, largest first."""
        x = last
        for step, skip in zip(self.steps, reversed(maps), strict=True):
            x = step(x, skip)
        logits: Tensor = self.head(self.finest(x))
        return logits


class UpBlock(nn.Module):
    """Module that doubles a map's size, and joins the skip connection's map where there is one."""

    def __init__(self, inputs: int, skip: int, outputs: int, grid: Grid):
        super().__init__()
        self.up = nn.Sequential(nn.Conv2d(inputs, outputs, 1), _upsample(grid))
        self.conv = nn.Sequential(
            nn.Conv2d(outputs + skip, outputs, 3, padding=1, bias=False), PictureNorm(outputs), nn.ReLU()
        )

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """Return a map `[B, C, 2 h, 2 w]` of a map `[B, c, h, w]` and a skip connection of the new size."""
        x = self.up(x)
        grown: Tensor = self.conv(x if skip is None else torch.cat([x, skip], 1))
        return grown


class PictureNorm(nn.GroupNorm):
    """Normalisation over a whole picture and all its channels.

    Sums are in fp32 for any input, and the result has the input's dtype. Autocast would return fp32, and then
    round it for the next convolution.
    """

    def __init__(self, channels: int):
        super().__init__(1, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return maps `[B, C, h, w]`, normalised over all but the batch."""
        if not torch.is_autocast_enabled(x.device.type):
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x)


def _to_autocast_dtype(x: Tensor) -> Tensor:
    """Cast `x` to autocast's dtype where autocast is on: else sums with fp32 maps would be fp32 again."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


def _upsample(grid: Grid) -> nn.Upsample:
    return nn.Upsample(size=grid, mode="bilinear", align_corners=False)


LAMBDA = 5.0  # weight of the focal part
ALPHA = 0.5
GAMMA = 4.0
TOP_PIXELS = 100  # pixels that make the score


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
    """Return the mean over all pixels of -a (1 - p)^`GAMMA` log p (Lin et al., 2017).

    p is the probability of the right answer; a is `ALPHA` on defects, 1 - `ALPHA` elsewhere. It is computed
    from logits, and exact also where p is 0 or 1 to the last digit. The paper: Focal Loss for Dense Object
    Detection.
    """
    right = logits * (2 * masks - 1)  # logit of p
    weight = ALPHA * masks + (1 - ALPHA) * (1 - masks)
    return (weight * (-right).sigmoid().pow(GAMMA) * F.softplus(-right)).mean()


def image_score(maps: Tensor, top: int = TOP_PIXELS) -> Tensor:
    """Return the mean `[B]` of the `top` largest pixels of maps `[B, H, W]`; of all if there are fewer."""
    pixels = maps.flatten(1)
    if top == 1:
        return pixels.amax(1)
    return pixels.topk(min(top, pixels.shape[1]), dim=1).values.mean(1)
