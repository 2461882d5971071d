"""Training data of a teacher: views of pictures, and a backbone's features at every place in them.

Where things lie. A view is a part of a picture. The backbone sees it at 512 x 512 pixels, and its features
stand on a grid of 64 x 64 cells. The PDN sees the same at half that size: in pixels of 256, cell k covers
4 k .. 4 k + 4 and is centred on 4 k + 2. Output i of an unpadded PDN sees the 33 pixels from 4 i and is
centred on 4 i + 16.5. So the PDN's picture begins 1.5 pixels later than the backbone's: in it output i is
centred on 4 i + 18, the middle of cell i + 4, exactly, and so for every crop that begins at a multiple of 4.
With padding, as the authors distil, the two centres are 1.5 pixels apart.

Why targets are kept. The backbone at 512 pixels costs more than a step of the PDN. Its features of a view are
computed once and kept in fp16 until `reuse` crops have been cut from it; then other views follow, so that any
number of pictures and scales goes through a bounded amount of memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from flawscope.errors import InputError
from flawscope.methods.detector import process_blocks
from flawscope.methods.features.backbone import Backbone
from flawscope.methods.patch_detector import PatchEmbedding
from flawscope.methods.threads import workers
from flawscope.methods.training.efficientad.networks import count_outputs
from flawscope.methods.training.efficientad.record import CHANNELS, RECEPTIVE_FIELD, STRIDE
from flawscope.methods.training.pictures import Moments
from flawscope.pictures.decoding import decode
from flawscope.progress import ProgressCallback, ProgressCounter, ignore_progress

if TYPE_CHECKING:
    from distill import Recipe

Pixels = NDArray[np.uint8]

BACKBONE_SIDE = 512  # pixels that the backbone sees
PDN_SIDE = 252  # pixels a side that a PDN sees of a picture of 256
CELLS = 64  # a side
SHIFT = 1.5  # pixels of 256
FIRST_CELL = 4  # the cell under output 0
USED_CELLS = (PDN_SIDE - RECEPTIVE_FIELD) // STRIDE + 1  # 55 cells a side, from FIRST on
BLOCK = 4  # views a thread computes together: fixed, so that results do not depend on the threads
GPU_BLOCK = 32


# -------------------------------------------------------------------------------------------------- pictures


@dataclass(frozen=True)
class PictureSet:
    """The pictures that can be read, each content once."""

    paths: list[Path]
    sizes: list[tuple[int, int]]  # (H, W)
    sha256: str  # of all contents, whatever the files are called
    failures: list[str]

    @classmethod
    def read(cls, paths: Sequence[Path], step: ProgressCallback = ignore_progress) -> PictureSet:
        """Read every file once, and keep the pictures that can be decoded."""
        advance = ProgressCounter(step, "pictures", len(paths))

        def look(path: Path) -> tuple[str, tuple[int, int]] | str:
            try:
                body = path.read_bytes()
                height, width = _decode_eight_bits(path, body).shape[:2]
                return hashlib.sha256(body).hexdigest(), (height, width)
            except InputError as error:
                return str(error)
            except OSError as error:
                return f"cannot read picture {path}: {error.strerror}; check its permissions"
            finally:
                advance()

        with workers() as each:
            looked = each(look, paths)
        failures = [found for found in looked if isinstance(found, str)]
        first: dict[str, tuple[Path, tuple[int, int]]] = {}
        for path, found in zip(paths, looked, strict=True):
            if not isinstance(found, str):
                first.setdefault(found[0], (path, found[1]))
        whole = hashlib.sha256("\n".join(sorted(first)).encode()).hexdigest()
        hashes = sorted(first)  # ordered by content: renamed files make the same teacher
        return cls([first[h][0] for h in hashes], [first[h][1] for h in hashes], whole, failures)


def _decode_eight_bits(path: Path, body: bytes | None = None) -> Pixels:
    picture = decode(path.read_bytes() if body is None else body, name=str(path))
    if picture.dtype != np.uint8:
        raise InputError(f"cannot use picture {path}: it has more than 8 bits a channel; convert it to 8")
    return picture


@dataclass(frozen=True)
class PictureView:
    """A part of a picture (x0, y0, x1, y1 in its pixels), mirrored or not, with or without its colours."""

    picture: int
    box: tuple[int, int, int, int]
    mirrored: bool = False
    grey: bool = False

    @classmethod
    def whole(cls, picture: int, size: tuple[int, int]) -> PictureView:
        return cls(picture, (0, 0, size[1], size[0]))

    @classmethod
    def draw(
        cls, picture: int, size: tuple[int, int], recipe: Recipe, rng: np.random.Generator
    ) -> PictureView:
        shares = rng.uniform(recipe.zoom, 1.0, 2)
        places = rng.uniform(0.0, 1.0, 2)
        coins = rng.uniform(0.0, 1.0, 2)
        h, w = (max(1, round(side * share)) for side, share in zip(size, shares, strict=True))
        y, x = (int(place * (side - n + 1)) for place, side, n in zip(places, size, (h, w), strict=True))
        return cls(
            picture, (x, y, x + w, y + h), recipe.flip and coins[0] < 0.5, bool(coins[1] < recipe.grey)
        )

    def render(self, picture: Pixels) -> tuple[Pixels, Pixels]:
        """Render the view as `[512, 512, 3]` for the backbone and `[252, 252, 3]` for the PDN, both uint8."""
        image = Image.fromarray(np.ascontiguousarray(picture)).crop(self.box)
        if self.mirrored:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self.grey:
            image = image.convert("L").convert("RGB")
        left, right = SHIFT / 256, (SHIFT + PDN_SIDE) / 256
        part = (left * image.width, left * image.height, right * image.width, right * image.height)
        large = image.resize((BACKBONE_SIDE, BACKBONE_SIDE), Image.Resampling.BILINEAR)
        small = image.resize((PDN_SIDE, PDN_SIDE), Image.Resampling.BILINEAR, box=part)
        return np.asarray(large), np.asarray(small)


# --------------------------------------------------------------------------------------------------- targets


class TargetFeatures(nn.Module):
    """PatchCore's patch features of 512 px pictures, standardised: uint8 `[B, 3, 512, 512]` to
    `[B, C, 64, 64]` float32.

    C is 384 where the backbone gives more channels: they are pooled as PatchCore's `dimensions` does. Where
    it gives fewer, C is their number; `widened` says how 384 come from them.
    """

    mean: Tensor  # [C]
    std: Tensor

    def __init__(self, backbone: Backbone, neighbourhood: int, precision: torch.dtype):
        super().__init__()
        shapes = backbone.shapes_at((BACKBONE_SIDE, BACKBONE_SIDE))
        wide = sum(c for c, _, _ in shapes) > CHANNELS
        self.backbone, self.precision = backbone, precision
        self.embedding = PatchEmbedding(shapes, neighbourhood, CHANNELS if wide else None)
        self.channels = self.embedding.width
        self.register_buffer("mean", torch.zeros(self.channels))
        self.register_buffer("std", torch.ones(self.channels))

    def forward(self, pixels: Tensor) -> Tensor:
        return (self.features(pixels) - self.mean.view(-1, 1, 1)) / self.std.view(-1, 1, 1)

    def features(self, pixels: Tensor) -> Tensor:
        """The features `[B, C, 64, 64]` float32 before they are standardised."""
        images = (pixels.float() / 255).contiguous(memory_format=torch.channels_last)
        half = self.precision != torch.float32
        with torch.autocast(pixels.device.type, dtype=torch.bfloat16, enabled=half):
            maps = self.backbone(images)
        patches = self.embedding([m.float() for m in maps])  # [B, h * w, C]
        grid = patches.transpose(1, 2).unflatten(2, self.embedding.grid)
        if self.embedding.grid != (CELLS, CELLS):
            grid = F.interpolate(grid, size=(CELLS, CELLS), mode="bilinear", align_corners=False)
        return grid


# ----------------------------------------------------------------------------------------------------- views


class Renderer:
    """Renders views and computes their targets, in fixed blocks side by side."""

    def __init__(self, pictures: PictureSet, target: TargetFeatures, device: torch.device):
        self.pictures, self.target, self.device = pictures, target, device
        self.block = BLOCK if device.type == "cpu" else GPU_BLOCK

    def _render_blocks(
        self,
        views: Sequence[PictureView],
        compute: Callable[[Tensor], Tensor],
        take: Callable[[slice, Tensor, Tensor], None],
        step: ProgressCallback,
        stage: str,
    ) -> None:
        """Call `take(which, small, computed)` for every block of views: `small` is `[n, 3, 252, 252]` uint8,
        `computed` the result of `compute` on the `[n, 3, 512, 512]` uint8 for the backbone."""

        def rendered(k: int) -> tuple[Pixels, Pixels]:
            return views[k].render(_decode_eight_bits(self.pictures.paths[views[k].picture]))

        def work(block: Sequence[int], drawn: list[tuple[Pixels, Pixels]]) -> tuple[Tensor, Tensor]:
            large, small = (
                torch.from_numpy(np.stack(part)).permute(0, 3, 1, 2) for part in zip(*drawn, strict=True)
            )
            return small, compute(large.to(self.device))

        def store(block: Sequence[int], made: tuple[Tensor, Tensor]) -> None:
            take(slice(block[0], block[-1] + 1), *made)

        process_blocks(range(len(views)), self.block, rendered, work, store, self.device, step, stage)

    def measure(self, chosen: Sequence[int], step: ProgressCallback) -> None:
        """Set the targets' mean and spread to those of these pictures, whole and with their colours."""
        moments = Moments()

        def take(which: slice, small: Tensor, features: Tensor) -> None:
            moments.add(features.permute(0, 2, 3, 1).flatten(0, 2))

        views = [PictureView.whole(i, self.pictures.sizes[i]) for i in chosen]
        self._render_blocks(views, self.target.features, take, step, "target statistics")
        self.target.mean.copy_(moments.mean)
        self.target.std.copy_(moments.spread())

    def pool(
        self, views: Sequence[PictureView], step: ProgressCallback = ignore_progress, stage: str = "targets"
    ) -> ViewPool:
        """Render the views and compute their targets."""
        count, channels, cells = len(views), self.target.channels, USED_CELLS
        pool = ViewPool(
            torch.empty(count, 3, PDN_SIDE, PDN_SIDE, dtype=torch.uint8, device=self.device),
            torch.empty(count, channels, cells, cells, dtype=torch.float16, device=self.device),
        )
        used = slice(FIRST_CELL, FIRST_CELL + USED_CELLS)

        def take(which: slice, small: Tensor, targets: Tensor) -> None:
            pool.pictures[which].copy_(small)
            pool.targets[which].copy_(targets[:, :, used, used])

        self._render_blocks(views, self.target, take, step, stage)
        return pool


@dataclass(frozen=True)
class ViewPool:
    """Rendered views: pictures `[S, 3, 252, 252]` uint8; targets `[S, C, 55, 55]` fp16 from `FIRST_CELL`."""

    pictures: Tensor
    targets: Tensor

    @staticmethod
    def bytes_per_view(channels: int) -> int:
        return 3 * PDN_SIDE * PDN_SIDE + 2 * channels * USED_CELLS * USED_CELLS

    def crops(self, batch: int, crop: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Random crops `[B, 3, crop, crop]` uint8 and their targets `[B, C, n, n]` float32."""
        cells = count_outputs(crop)
        views = rng.integers(len(self.pictures), size=batch)
        places = rng.integers((PDN_SIDE - crop) // STRIDE + 1, size=(batch, 2))
        pictures, targets = [], []
        for view, (y, x) in zip(views.tolist(), places.tolist(), strict=True):
            top, left = STRIDE * y, STRIDE * x
            pictures.append(self.pictures[view, :, top : top + crop, left : left + crop])
            targets.append(self.targets[view, :, y : y + cells, x : x + cells])
        return torch.stack(pictures), torch.stack(targets).float()
