"""Training pictures of the student and the autoencoder, within bounded memory.

They are good pictures with the teacher's outputs, simulated defects, and pictures of other things.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from flawscope.errors import InputError
from flawscope.methods.detector import without_tf32
from flawscope.methods.good_pictures import GoodPictures, to_pixels
from flawscope.methods.training.efficientad.model import Model, mirror_border
from flawscope.methods.training.efficientad.networks import normalise
from flawscope.methods.training.efficientad.record import GENERATED, NONE, RECEPTIVE_FIELD, STRIDE
from flawscope.methods.training.pictures import FeatureCache, PartMasks
from flawscope.pictures.decoding import decode, to_eight_bits
from flawscope.pictures.listing import list_pictures
from flawscope.progress import ProgressCallback
from flawscope.synthesis import DefectScale, fractal_noise, generated_texture, simulate_defect
from flawscope.views.views import remove_padding_marks

Pixels = NDArray[np.uint8]


# ------------------------------------------------------------------------------------- the teacher's outputs


class TeacherOutputs(FeatureCache):
    """The teacher's outputs on training pictures, before they are standardised."""

    def __init__(self, model: Model, images: GoodPictures, training: Sequence[int], room: int):
        device = model.mean.device
        super().__init__(images, training, device, [(model.channels, *model.grid)], room, where=device)
        self.model = model
        # cells that count: per picture where pictures are padded, else for all; None: every cell
        self.padded: dict[int, Tensor] = {}
        self.region = None if model.config.pads or model.roi.all() else model.valid_mask().cpu()

    def measure(self, step: ProgressCallback) -> None:
        """Set the model's teacher statistics (A.1), and keep as many outputs as there is room for."""
        (moments,) = self.moments(step, "teacher statistics")
        self.model.mean.copy_(moments.mean)
        self.model.std.copy_(moments.spread())

    def compute(self, images: Tensor) -> list[Tensor]:
        """Return the teacher's outputs `[B, C, h, w]` on images `[B, 3, H, W]`, as a single map."""
        seen = mirror_border(normalise(self.model.filled(images)), self.model.config.border)
        with without_tf32(images.device):
            return [self.model.teacher(seen).float()]

    def valid_cells(self, places: Sequence[int], images: Tensor) -> list[Tensor] | None:
        """Return which outputs of the pictures count, `[B, h, w]` bool; None: all of them."""
        masks = [mask for mask in map(self.valid_mask, places) if mask is not None]
        return [torch.stack(masks).to(self.device)] if masks else None

    def valid_mask(self, place: int) -> Tensor | None:
        """Return which cells `[h, w]` bool of a picture count; None: all of them."""
        if not self.model.config.pads:
            return self.region
        if place not in self.padded:
            inside = self.model.inside(self.image(place)[None].to(self.device))
            self.padded[place] = self.model.valid_mask(inside)[0].cpu()
        return self.padded[place]


# ------------------------------------------------------------------------------------------- other pictures


def natural_pictures(natural: str) -> GeneratedPictures | NaturalPictures | None:
    """Return the source of the pictures that the student must not learn, by the setting `natural`."""
    if natural == NONE:
        return None
    return GeneratedPictures() if natural == GENERATED else NaturalPictures(natural)


class NaturalPictures:
    """Photographs of a folder, scaled to 512 x 512 pixels, grey with probability 0.3 (A.1).

    The authors cut out the middle; here the place is random, since a few thousand pictures stand for
    ImageNet.
    """

    SIDE = 512
    GREY = 0.3
    TRIES = 20

    def __init__(self, folder: str | os.PathLike[str]):
        self.paths = list_pictures(os.fspath(folder))
        # sizes alone tell folders apart well enough: ImageNet has more than a million files
        sizes = " ".join(str(path.stat().st_size) for path in self.paths)
        digest = hashlib.sha256(sizes.encode()).hexdigest()[:12]
        self.name = f"{len(self.paths)} pictures of folder {Path(folder).name} ({digest})"
        self.draw((1, 1), np.random.default_rng(0))  # an unreadable folder is reported before the training

    def draw(self, side: tuple[int, int], rng: np.random.Generator) -> Pixels:
        """Return a random part `[h, w, 3]` uint8 of a random picture.

        Raises:
            InputError: Many pictures cannot be read.
        """
        for _ in range(self.TRIES):  # a file may be cut short behind its header
            with suppress(InputError):
                return self._part(self.paths[int(rng.integers(len(self.paths)))], side, rng)
        raise InputError("many pictures of setting natural cannot be read: name another folder")

    def _part(self, path: Path, side: tuple[int, int], rng: np.random.Generator) -> Pixels:
        large = max(self.SIDE, *side)
        grey = rng.uniform() < self.GREY
        image = Image.fromarray(to_eight_bits(decode(path)))
        if grey:
            image = image.convert("L").convert("RGB")
        y, x = (int(rng.integers(large - n + 1)) for n in side)
        # only the part is computed
        scale = (image.width / large, image.height / large)
        box = (x * scale[0], y * scale[1], (x + side[1]) * scale[0], (y + side[0]) * scale[1])
        return np.array(image.resize((side[1], side[0]), Image.Resampling.BILINEAR, box=box))


class GeneratedPictures:
    """Stand-in where there are no photographs: patches of a generated texture on another one."""

    name = "generated textures, no photographs"

    def draw(self, side: tuple[int, int], rng: np.random.Generator) -> Pixels:
        """Generate a picture `[h, w, 3]` uint8."""
        first = generated_texture(side, rng)
        second = generated_texture(side, rng)
        cells = (int(rng.integers(2, 6)), int(rng.integers(2, 6)))
        patches = fractal_noise(side, cells, rng, octaves=2) > rng.uniform(-0.2, 0.3)
        return np.where(patches[..., None], first, second)


# ---------------------------------------------------------------------------------------------- augmentation

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow's grey


def recolour(image: Tensor, kind: int, factor: float) -> Tensor:
    """Return a picture `[3, H, W]` in 0..1 with another brightness (kind 0), contrast (1) or saturation (2).

    It is blended by `factor` with black, with its mean grey, or with its own greys (A.1).
    """
    grey = (image * torch.tensor(LUMA, dtype=image.dtype, device=image.device).view(3, 1, 1)).sum(0)
    other = (torch.zeros_like(grey), grey.mean(), grey)[kind]
    return (other + factor * (image - other)).clamp(0, 1)


SCALES = tuple(DefectScale)
ON_PART = 0.75  # probability that a picture's defects lie on the part, where most real ones do
PART_PICTURES = 24  # pictures at most that the part is learnt from
MIDDLE_SIDE = 15  # pixels a side, in the middle of what an output sees: a defect there must be found


@dataclass
class DefectOutputs:
    """Masks `[..., h, w]` bool of the outputs that see simulated defects."""

    anywhere: Tensor  # in their receptive field
    within: Tensor  # in its middle


@dataclass
class DefectSimulator:
    """Simulator of defects on good pictures. Each result depends on its generator alone."""

    images: GoodPictures
    training: Sequence[int]
    region: NDArray[np.bool_]  # [H, W]: where anything counts
    count: int  # defects on a picture
    tiled: bool = False  # pictures show different places

    def __post_init__(self) -> None:
        self.parts = PartMasks(self.images, self.training, 0 if self.tiled else PART_PICTURES, self.region)

    def __call__(self, index: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Put defects of any scale on a picture; elsewhere it is unchanged to the last bit.

        Returns:
            The picture `[3, H, W]` float32 in 0..1, and the defects' mask `[H, W]` bool.
        """
        image = self.images[index]
        pixels, inside = to_pixels(image)
        within = self.parts[index] if rng.random() < ON_PART else inside & self.region
        where = np.zeros_like(within)
        for _ in range(self.count):
            scale = SCALES[int(rng.integers(len(SCALES)))]
            made = simulate_defect(pixels, rng, scale=scale, foreground=within)
            pixels = made.picture
            where = where | made.mask
        changed = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
        mask = torch.from_numpy(where)
        return torch.where(mask, changed, torch.from_numpy(remove_padding_marks(image.numpy())[0])), mask


def outputs_seeing(defects: Tensor, border: int) -> DefectOutputs:
    """Return which PDN outputs see the defects `[H, W]` bool of a picture that is mirrored outwards."""
    seen = mirror_border(defects[None, None].float(), border)
    edge = (RECEPTIVE_FIELD - MIDDLE_SIDE) // 2
    anywhere = F.max_pool2d(seen, RECEPTIVE_FIELD, STRIDE)[0, 0] > 0
    within = F.max_pool2d(F.pad(seen, (-edge,) * 4), MIDDLE_SIDE, STRIDE)[0, 0] > 0
    return DefectOutputs(anywhere, within)
