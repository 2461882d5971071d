"""Training pictures of PRN (3.4): good pictures, simulated defects, and seen defects on good pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flawscope.methods.detector import without_tf32
from flawscope.methods.good_pictures import GoodPictures, to_pixels
from flawscope.methods.task import SeenDefect
from flawscope.methods.training.pictures import FeatureCache, PartMasks
from flawscope.methods.training.prnet.model import Model, valid_cells
from flawscope.methods.training.prnet.record import GENERATED, Config
from flawscope.progress import ProgressCallback
from flawscope.synthesis import TextureFolder, extend_defect, simulate_defect

PART_PICTURES = 40  # that the foreground is learnt from, at most
ORIGINAL = "original"
EXTENDED = "extended"
SIMULATED = "simulated"
GOOD = "good"


class TrainingPicture(NamedTuple):
    """Picture of a batch, and its defect's mask."""

    image: Tensor  # [3, H, W] float32 in 0..1, padding marked
    mask: Tensor  # [1, H, W] float32: 1 where the defect is
    place: int  # of the good picture under it, among those learnt from; -1: none
    kind: str


@dataclass
class TrainingPictures:
    """Source of the pictures of a training. Each depends on its own random numbers alone."""

    config: Config
    images: GoodPictures
    learnt: Sequence[int]  # numbers of the good pictures
    seen: Sequence[SeenDefect]
    within: NDArray[np.bool_] | None = None  # [H, W]: where defects are put; None or empty: everywhere

    def __post_init__(self) -> None:
        folder = None if self.config.textures == GENERATED else TextureFolder(self.config.textures)
        self.draw_texture = folder.draw if folder else None
        self.textures = _name_textures(folder) if folder else "generated textures"
        self.skipped = folder.skipped if folder else ()  # a line for each texture that cannot be read
        most = PART_PICTURES if self.config.tile is None else 0
        self.parts = PartMasks(self.images, self.learnt, most, self.within)

    def good(self, place: int) -> TrainingPicture:
        """Return good picture `place` without a defect."""
        image = self.images[self.learnt[place]]
        return TrainingPicture(image, torch.zeros(1, *image.shape[1:]), place, GOOD)

    def defective(self, place: int, extended: bool, rng: np.random.Generator) -> TrainingPicture:
        """Return good picture `place` with a simulated or a seen defect, or a seen defect's own picture."""
        if extended and rng.random() < self.config.original:
            defect = self.seen[int(rng.integers(len(self.seen)))]
            return TrainingPicture(defect.image, _mask_tensor(defect.mask), -1, ORIGINAL)
        image = self.images[self.learnt[place]]
        pixels, inside = to_pixels(image)
        foreground = self.parts[self.learnt[place]]
        if extended:
            defect = self.seen[int(rng.integers(len(self.seen)))]
            made = extend_defect(pixels, to_pixels(defect.image)[0], defect.mask, rng, foreground=foreground)
        else:
            made = simulate_defect(pixels, rng, textures=self.draw_texture, foreground=foreground)
        # where there is no defect the picture stays what it is to the last bit, with 16 bits too
        changed = torch.from_numpy(made.picture).permute(2, 0, 1).float() / 255
        mask = made.mask & inside
        shown = torch.where(torch.from_numpy(mask), changed, image)
        return TrainingPicture(shown, _mask_tensor(mask), place, EXTENDED if extended else SIMULATED)


def _name_textures(folder: TextureFolder) -> str:
    """Name the textures with a digest: a run does not continue with others."""
    digest = hashlib.sha256()
    for picture in folder.pictures:
        digest.update(np.ascontiguousarray(picture).tobytes())
    return f"{len(folder)} textures ({digest.hexdigest()[:12]})"


def _mask_tensor(mask: NDArray[np.bool_]) -> Tensor:
    return torch.from_numpy(mask)[None].float()


class ScaleFeatureCache(FeatureCache):
    """Maps of the three scales with prototypes. Cells that do not count hold their channel's mean."""

    def __init__(self, model: Model, images: GoodPictures, learnt: Sequence[int], room: int):
        super().__init__(images, learnt, model.roi.device, model.shapes[:-1], room)
        self.model = model
        self.all_cells_count = not model.config.pads and bool(model.roi.all())

    def measure(self, step: ProgressCallback) -> None:
        """Set the model's means and spreads, and keep as many maps as there is room for."""
        for scale, feature_map in zip(
            [*self.model.scales, self.model.last], self.moments(step, "features"), strict=True
        ):
            scale.set_moments(feature_map)
        for place, maps in self.kept.items():
            self.kept[place] = self._fill_with_means(place, maps)

    def maps(self, numbers: Tensor, scale: int) -> Tensor:
        """Return maps `[b, C, H, W]` fp16 on the CPU, of scale 0, 1 or 2, of pictures `[b]` int64."""
        return torch.stack([self[int(k)][scale] for k in numbers])

    def compute(self, images: Tensor) -> list[Tensor]:
        """Return the four stages' maps `[B, C_j, H_j, W_j]` float32 of images `[B, 3, H, W]`."""
        with without_tf32(images.device):
            return self.model.features(self.model.filled(images))

    def valid_cells(self, places: Sequence[int], images: Tensor) -> list[Tensor] | None:
        """Return which cells of each stage count, `[B, H_j, W_j]` bool; None: all of them."""
        if self.all_cells_count:
            return None
        inside = self.model.inside(images.to(self.device))
        return [c[:, 0] for c in valid_cells(self.model.region(inside).expand(len(images), -1, -1))]

    def finish_maps(self, place: int, maps: list[Tensor]) -> list[Tensor]:
        """Return a picture's maps with means in cells that do not count; kept maps have them already."""
        return maps if place in self.kept else self._fill_with_means(place, maps)

    def _fill_with_means(self, place: int, maps: list[Tensor]) -> list[Tensor]:
        cells = self.valid_cells([place], self.image(place)[None])
        if cells is None:
            return maps
        each = zip(self.model.scales, maps, cells, strict=False)
        return [
            scale.fill_with_mean(feature_map, valid_mask.cpu()) for scale, feature_map, valid_mask in each
        ]
