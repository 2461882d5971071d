"""Good pictures with simulated defects, which the student must not learn to describe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from flawscope.methods.efficientad.model import bordered
from flawscope.methods.efficientad.recipe import RECEPTIVE_FIELD, STRIDE
from flawscope.methods.foreground import Parts, pixels_of
from flawscope.methods.picture_cache import GoodPictures
from flawscope.pictures.views import unmarked
from flawscope.synthesis import DefectScale, simulate_defect

SCALES = tuple(DefectScale)
ON_PART = 0.75  # probability that a picture's defects lie on the part, where most real ones do
LEARNT = 24  # pictures at most that the part is learnt from
MIDDLE = 15  # pixels a side, in the middle of what an output sees: a defect there must be found


@dataclass
class Spoilt:
    """Which outputs `[..., h, w]` bool see simulated defects."""

    anywhere: Tensor  # in what they see
    within: Tensor  # in the middle of it


@dataclass
class Spoiler:
    """Puts defects on the good pictures. Each depends on its own random numbers alone."""

    images: GoodPictures
    training: Sequence[int]
    region: NDArray[np.bool_]  # [H, W]: where anything counts
    count: int  # defects on a picture
    tiled: bool = False  # pictures show different places

    def __post_init__(self) -> None:
        self.parts = Parts(self.images, self.training, 0 if self.tiled else LEARNT, self.region)

    def __call__(self, index: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Picture `[3, H, W]` float32 in 0..1 with defects of any scale, and where they are, [H, W] bool. It
        stays what it is elsewhere, to the last bit."""
        image = self.images[index]
        pixels, inside = pixels_of(image)
        within = self.parts[index] if rng.random() < ON_PART else inside & self.region
        where = np.zeros_like(within)
        for _ in range(self.count):
            scale = SCALES[int(rng.integers(len(SCALES)))]
            made = simulate_defect(pixels, rng, scale=scale, foreground=within)
            pixels, where = made.picture, where | made.mask
        changed = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
        mask = torch.from_numpy(where)
        return torch.where(mask, changed, torch.from_numpy(unmarked(image.numpy())[0])), mask


def outputs_on(defects: Tensor, border: int) -> Spoilt:
    """Which of a PDN's outputs see the defects [H, W] bool of a picture that is mirrored outwards."""
    seen = bordered(defects[None, None].float(), border)
    edge = (RECEPTIVE_FIELD - MIDDLE) // 2
    anywhere = F.max_pool2d(seen, RECEPTIVE_FIELD, STRIDE)[0, 0] > 0
    within = F.max_pool2d(F.pad(seen, (-edge,) * 4), MIDDLE, STRIDE)[0, 0] > 0
    return Spoilt(anywhere, within)
