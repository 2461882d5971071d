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

PART_PICTURES = 40  # largest number of pictures from which the foreground is learnt
ORIGINAL = "original"
EXTENDED = "extended"
SIMULATED = "simulated"
GOOD = "good"


class TrainingPicture(NamedTuple):
    """Picture of a batch, and its defect's mask.

    Attributes:
        image: The picture, `[3, H, W]` float32 in 0..1, padding marked.
        mask: `[1, H, W]` float32, 1 where the defect is, else 0.
        place: Index, among the pictures learnt from, of the good picture on which the defect was put; -1:
            there is no such picture.
        kind: `GOOD`, `SIMULATED`, `EXTENDED` or `ORIGINAL`.
    """

    image: Tensor
    mask: Tensor
    place: int
    kind: str


@dataclass
class TrainingPictures:
    """Source of the pictures of a training. A picture depends only on the random numbers of its call.

    Attributes:
        config: Settings of the method.
        images: The good pictures.
        learnt: Numbers of the good pictures to learn from.
        seen: Seen defects.
        within: `[H, W]`: where defects may lie; None or all False: everywhere.
    """

    config: Config
    images: GoodPictures
    learnt: Sequence[int]
    seen: Sequence[SeenDefect]
    within: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        folder = None if self.config.textures == GENERATED else TextureFolder(self.config.textures)
        self.draw_texture = folder.draw if folder else None
        self.textures = _name_textures(folder) if folder else "generated textures"
        self.skipped = folder.skipped if folder else ()  # a line for each texture that cannot be read
        max_pictures = PART_PICTURES if self.config.tile is None else 0
        self.parts = PartMasks(self.images, self.learnt, max_pictures, self.within)

    def good(self, place: int) -> TrainingPicture:
        """Return good picture `place` without a defect."""
        image = self.images[self.learnt[place]]
        no_defect = torch.zeros(1, *image.shape[1:])
        return TrainingPicture(image, mask=no_defect, place=place, kind=GOOD)

    def defective(self, place: int, extended: bool, rng: np.random.Generator) -> TrainingPicture:
        """Return a defective picture.

        Args:
            place: Index, among the pictures learnt from, of the good picture on which a defect is put.
            extended: Whether the defect is a seen one. If so, the result is sometimes the seen defect's own
                picture, and the good picture is not used. If not, the defect is simulated.
            rng: Random numbers.
        """
        if extended and rng.random() < self.config.original:
            defect = self.seen[int(rng.integers(len(self.seen)))]
            seen_mask = _mask_tensor(defect.mask)
            return TrainingPicture(defect.image, seen_mask, place=-1, kind=ORIGINAL)  # on no good picture
        image = self.images[self.learnt[place]]
        pixels, inside = to_pixels(image)
        foreground = self.parts[self.learnt[place]]
        if extended:
            defect = self.seen[int(rng.integers(len(self.seen)))]
            defect_pixels, _ = to_pixels(defect.image)
            simulation = extend_defect(pixels, defect_pixels, defect.mask, rng, foreground=foreground)
        else:
            simulation = simulate_defect(pixels, rng, textures=self.draw_texture, foreground=foreground)
        changed = torch.from_numpy(simulation.picture).permute(2, 0, 1).float() / 255
        mask = simulation.mask & inside
        # outside the defect no bit of the picture changes, not even in a picture with 16 bits
        defective = torch.where(torch.from_numpy(mask), changed, image)
        kind = EXTENDED if extended else SIMULATED
        return TrainingPicture(defective, _mask_tensor(mask), place=place, kind=kind)


def _name_textures(folder: TextureFolder) -> str:
    """Name the textures of a folder, with a digest: a training does not continue with other textures."""
    digest = hashlib.sha256()
    for picture in folder.pictures:
        digest.update(np.ascontiguousarray(picture).tobytes())
    return f"{len(folder)} textures ({digest.hexdigest()[:12]})"


def _mask_tensor(mask: NDArray[np.bool_]) -> Tensor:
    return torch.from_numpy(mask)[None].float()


class ScaleFeatureCache(FeatureCache):
    """Maps of the three scales with prototypes. Cells that do not count hold their channel's mean."""

    def __init__(self, model: Model, images: GoodPictures, learnt: Sequence[int], room: int):
        super().__init__(images, learnt, model.roi.device, shapes=model.shapes[:-1], room=room)
        self.model = model
        self.all_cells_count = not model.config.pads and bool(model.roi.all())

    def measure(self, step: ProgressCallback) -> None:
        """Set the model's means and spreads, and keep as many maps as there is room for."""
        stages = [*self.model.scales, self.model.last]
        for stage, moments in zip(stages, self.moments(step, "features"), strict=True):
            stage.set_moments(moments)
        for place, maps in self.packed_maps.items():
            self.packed_maps[place] = self._fill_with_means(place, maps)

    def maps(self, numbers: Tensor, scale: int) -> Tensor:
        """Return maps `[b, C, H, W]` fp16 on the CPU.

        Args:
            numbers: Places of the pictures, `[b]` int64.
            scale: Number of the scale, 0, 1 or 2.
        """
        return torch.stack([self[int(place)][scale] for place in numbers])

    def compute(self, images: Tensor) -> list[Tensor]:
        """Return the four stages' maps `[B, C_j, H_j, W_j]` float32 of images `[B, 3, H, W]`."""
        with without_tf32(images.device):
            return self.model.features(self.model.filled(images))

    def valid_cells(self, places: Sequence[int], images: Tensor) -> list[Tensor] | None:
        """Return which cells of each stage count, `[B, H_j, W_j]` bool; None: all of them."""
        if self.all_cells_count:
            return None
        inside = self.model.inside(images.to(self.device))
        region = self.model.region(inside).expand(len(images), -1, -1)
        return [cells[:, 0] for cells in valid_cells(region)]

    def finish_maps(self, place: int, maps: list[Tensor]) -> list[Tensor]:
        """Return a picture's maps with means in cells that do not count; maps in memory have them already."""
        return maps if place in self.packed_maps else self._fill_with_means(place, maps)

    def _fill_with_means(self, place: int, maps: list[Tensor]) -> list[Tensor]:
        """Return a picture's maps with channels' means in cells that do not count."""
        valid_masks = self.valid_cells([place], self.image(place)[None])
        if valid_masks is None:
            return maps
        # `maps` and `valid_masks` may have the last stage, too, which has no prototypes
        return [
            scale.fill_with_mean(feature_map, valid_mask.cpu())
            for scale, feature_map, valid_mask in zip(self.model.scales, maps, valid_masks, strict=False)
        ]
