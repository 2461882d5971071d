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
from flawscope.methods.training.efficientad.presets import NONE
from flawscope.methods.training.efficientad.record import GENERATED, RECEPTIVE_FIELD, STRIDE
from flawscope.methods.training.pictures import FeatureCache, PartMasks
from flawscope.pictures.decoding import decode, to_eight_bits
from flawscope.pictures.listing import list_pictures
from flawscope.progress import ProgressCallback
from flawscope.synthesis import DefectScale, fractal_noise, generated_texture, simulate_defect
from flawscope.views.views import remove_padding_marks

Pixels = NDArray[np.uint8]


# ------------------------------------------------------------------------------------- the teacher's outputs


class TeacherOutputs(FeatureCache):
    """The teacher's outputs on training pictures, before they are standardised.

    Attributes:
        padded: Which outputs of a padded picture count, by the picture's place.
        region: Which outputs count where pictures are not padded; None: all of them.
    """

    def __init__(self, model: Model, images: GoodPictures, training: Sequence[int], room: int):
        device = model.mean.device
        shape = (model.channels, *model.grid)
        super().__init__(images, training, device, shapes=[shape], room=room, where=device)
        self.model = model
        self.padded: dict[int, Tensor] = {}
        self.region = None if model.config.pads or model.roi.all() else model.valid_mask().cpu()

    def measure(self, step: ProgressCallback) -> None:
        """Set mean and spread of the teacher's outputs in the model (A.1), and keep the outputs that fit."""
        (moments,) = self.moments(step, "teacher statistics")
        self.model.mean.copy_(moments.mean)
        self.model.std.copy_(moments.spread())

    def compute(self, images: Tensor) -> list[Tensor]:
        """Return the teacher's outputs `[B, C, h, w]` on images `[B, 3, H, W]`, as a single map."""
        inputs = mirror_border(normalise(self.model.filled(images)), self.model.config.border)
        with without_tf32(images.device):
            return [self.model.teacher(inputs).float()]

    def valid_cells(self, places: Sequence[int], images: Tensor) -> list[Tensor] | None:
        """Return which outputs of the pictures count, `[B, h, w]` bool; None: all of them."""
        masks = [mask for mask in map(self.valid_mask, places) if mask is not None]
        return [torch.stack(masks).to(self.device)] if masks else None

    def valid_mask(self, place: int) -> Tensor | None:
        """Return which outputs `[h, w]` bool of the picture at a place count; None: all of them."""
        if not self.model.config.pads:
            return self.region
        if place not in self.padded:
            inside = self.model.inside(self.image(place)[None].to(self.device))
            self.padded[place] = self.model.valid_mask(inside)[0].cpu()
        return self.padded[place]


# ------------------------------------------------------------------------------------------- other pictures


def natural_pictures(natural: str) -> GeneratedPictures | NaturalPictures | None:
    """Return the source of the pictures that the student must not learn, by the setting `natural`.

    It is None where there are no such pictures.
    """
    if natural == NONE:
        return None
    return GeneratedPictures() if natural == GENERATED else NaturalPictures(natural)


class NaturalPictures:
    """Photographs of a folder, scaled to 512 x 512 pixels, grey with probability 0.3 (A.1).

    The authors cut out the middle of a picture. Here the place is random, because a few thousand pictures
    must do the work of ImageNet.
    """

    SIDE = 512
    GREY = 0.3
    TRIES = 20

    def __init__(self, folder: str | os.PathLike[str]):
        self.paths = list_pictures(os.fspath(folder))
        # a digest of only the files' sizes: to read the more than a million files of ImageNet takes too long
        sizes = " ".join(str(path.stat().st_size) for path in self.paths)
        digest = hashlib.sha256(sizes.encode()).hexdigest()[:12]
        self.name = f"{len(self.paths)} pictures of folder {Path(folder).name} ({digest})"
        self.draw((1, 1), np.random.default_rng(0))  # an unreadable folder is reported before the training

    def draw(self, size: tuple[int, int], rng: np.random.Generator) -> Pixels:
        """Return a random part `[h, w, 3]` uint8 of a random picture.

        Args:
            size: (h, w) of the part.
            rng: Random numbers.

        Raises:
            InputError: Many pictures cannot be read.
        """
        for _ in range(self.TRIES):  # a file may be damaged after its header: then another is tried
            with suppress(InputError):
                path = self.paths[int(rng.integers(len(self.paths)))]
                return self._draw_part(path, size, rng)
        raise InputError("many pictures of setting natural cannot be read: name another folder")

    def _draw_part(self, path: Path, size: tuple[int, int], rng: np.random.Generator) -> Pixels:
        """Scale a picture to at least `SIDE` pixels a side, and return a random part of it.

        Args:
            path: The picture.
            size: (h, w) of the part.
            rng: Random numbers.
        """
        height, width = size
        full_side = max(self.SIDE, height, width)
        is_grey = rng.uniform() < self.GREY
        image = Image.fromarray(to_eight_bits(decode(path)))
        if is_grey:
            image = image.convert("L").convert("RGB")
        y = int(rng.integers(full_side - height + 1))
        x = int(rng.integers(full_side - width + 1))
        # the part's box in the unscaled picture, because only the part is scaled
        x_scale = image.width / full_side
        y_scale = image.height / full_side
        box = (x * x_scale, y * y_scale, (x + width) * x_scale, (y + height) * y_scale)
        return np.array(image.resize((width, height), Image.Resampling.BILINEAR, box=box))


class GeneratedPictures:
    """Stand-in for photographs: patches of a generated texture on another generated texture."""

    name = "generated textures, no photographs"

    def draw(self, size: tuple[int, int], rng: np.random.Generator) -> Pixels:
        """Generate a picture `[h, w, 3]` uint8."""
        first = generated_texture(size, rng)
        second = generated_texture(size, rng)
        cells = (int(rng.integers(2, 6)), int(rng.integers(2, 6)))
        is_in_patch = fractal_noise(size, cells, rng, octaves=2) > rng.uniform(-0.2, 0.3)
        return np.where(is_in_patch[..., None], first, second)


# ---------------------------------------------------------------------------------------------- augmentation

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow's grey


def recolour(image: Tensor, kind: int, factor: float) -> Tensor:
    """Return a picture in 0..1 with another brightness, contrast or saturation (appendix A.1).

    Args:
        image: The picture, `[3, H, W]` in 0..1.
        kind: 0 for brightness, 1 for contrast, 2 for saturation.
        factor: Factor of the difference from black, from the mean grey, or from the pixels' own greys.
    """
    luma = torch.tensor(LUMA, dtype=image.dtype, device=image.device).view(3, 1, 1)
    grey = (image * luma).sum(0)
    base = (torch.zeros_like(grey), grey.mean(), grey)[kind]
    return (base + factor * (image - base)).clamp(0, 1)


SCALES = tuple(DefectScale)
ON_PART = 0.75  # probability that a picture's defects lie on the part, where most real ones do
PART_PICTURES = 24  # largest number of pictures from which the part is learnt
MIDDLE_SIDE = 15  # pixels a side in the middle of an output's receptive field: a defect there must be found


@dataclass
class DefectOutputs:
    """Masks `[..., h, w]` bool of the outputs that see simulated defects.

    Attributes:
        anywhere: Whether a defect lies in the output's receptive field.
        within: Whether a defect lies in the middle of the receptive field, `MIDDLE_SIDE` pixels a side.
    """

    anywhere: Tensor
    within: Tensor


@dataclass
class DefectSimulator:
    """Simulator of defects on good pictures. A result depends only on the generator of its call.

    Attributes:
        images: The good pictures.
        training: Numbers of the pictures to learn from.
        region: Where pixels count, `[H, W]`.
        count: Number of defects on a picture.
        tiled: Whether pictures show different places.
    """

    images: GoodPictures
    training: Sequence[int]
    region: NDArray[np.bool_]
    count: int
    tiled: bool = False

    def __post_init__(self) -> None:
        max_pictures = 0 if self.tiled else PART_PICTURES
        self.parts = PartMasks(self.images, self.training, max_pictures, self.region)

    def __call__(self, index: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Put defects of any scale on a good picture; no bit changes elsewhere.

        Returns:
            The picture `[3, H, W]` float32 in 0..1, and the defects' mask `[H, W]` bool.
        """
        image = self.images[index]
        pixels, inside = to_pixels(image)
        foreground = self.parts[index] if rng.random() < ON_PART else inside & self.region
        defect_mask = np.zeros_like(foreground)
        for _ in range(self.count):
            scale = SCALES[int(rng.integers(len(SCALES)))]
            defect = simulate_defect(pixels, rng, scale=scale, foreground=foreground)
            pixels = defect.picture
            defect_mask = defect_mask | defect.mask
        changed = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
        mask = torch.from_numpy(defect_mask)
        plain, _ = remove_padding_marks(image.numpy())
        return torch.where(mask, changed, torch.from_numpy(plain)), mask


def outputs_seeing(defects: Tensor, border: int) -> DefectOutputs:
    """Return which outputs of a PDN see the defects of a picture.

    Args:
        defects: Mask of the defects, `[H, W]` bool.
        border: Pixels by which the picture is mirrored outwards.
    """
    mirrored = mirror_border(defects[None, None].float(), border)
    anywhere = F.max_pool2d(mirrored, RECEPTIVE_FIELD, STRIDE)[0, 0] > 0
    edge = (RECEPTIVE_FIELD - MIDDLE_SIDE) // 2  # pixels from a receptive field's edge to its middle part
    cropped = F.pad(mirrored, (-edge,) * 4)  # negative padding cuts off
    within = F.max_pool2d(cropped, MIDDLE_SIDE, STRIDE)[0, 0] > 0
    return DefectOutputs(anywhere, within)
