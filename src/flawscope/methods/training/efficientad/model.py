"""EfficientAD's inference path: where teacher, student and autoencoder disagree, a picture is anomalous.

Batzner, Heckler and König, EfficientAD, WACV 2024.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from flawscope.errors import InputError
from flawscope.methods.detector import Detector, stored_region
from flawscope.methods.method import not_in_model_error
from flawscope.methods.patch_detector import smooth_matrix
from flawscope.methods.training.efficientad.networks import (
    Autoencoder,
    compact_teacher,
    normalise,
    packaged_teacher,
    pdn,
    pdn_grid,
    read_teacher,
    replace_last_layer,
    width_of,
)
from flawscope.methods.training.efficientad.record import (
    CHANNELS,
    FIRST_LAYERS,
    GENERATED,
    METHOD,
    NONE,
    STRIDE,
    Config,
    Size,
)
from flawscope.types import Json

MIN_SHARE = 1e-6  # divisor for pixels in which no cell has a part
RECEPTIVE_CENTRE = 16  # pixels from where a PDN's output begins to see to the middle of what it sees


class Model(Detector):
    """The EfficientAD detector (3.1 to 3.4).

    `embed` gives two small maps: differences of the student from the teacher (local) and from the autoencoder
    (global). `score` enlarges them to the picture's size, brings both to the same scale, and averages them.
    """

    calibrated = ("quantiles",)
    config: Config
    mean: Tensor  # [C]: the teacher's outputs on the training pictures
    std: Tensor
    quantiles: Tensor  # [2, 2]: of good pictures' local and global maps, mapped to 0 and 0.1
    rows: Tensor  # [H, h]: from the maps' grid to pixels
    columns: Tensor  # [w, W]
    row_parts: Tensor  # [h, H], 1 where a cell has a part in a pixel; smoothed unless pictures are padded
    column_parts: Tensor  # [W, w]

    def __init__(
        self,
        config: Config,
        network: Size,
        channels: int,
        roi: Tensor | None = None,
        width: int | None = None,
    ):
        """Build the networks, untrained.

        Args:
            config: Settings of the method.
            network: Size of the PDNs, "xs", "s" or "m".
            channels: Number of the teacher's outputs: 384, or fewer from a backbone that has fewer.
            roi: Region of interest, `[H, W]` bool at the size of the images; None: everywhere.
            width: Channels of the PDNs' first layer; None: the size's (`pdn`).
        """
        super().__init__(config, roi)
        self.channels = channels
        self.teacher = replace_last_layer(pdn(network, width=width), channels).requires_grad_(False)
        self.student = replace_last_layer(pdn(network, 2 * CHANNELS, width=width), 2 * channels)
        self.autoencoder = Autoencoder(channels, border=config.border)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))
        self.register_buffer("quantiles", torch.tensor([[0.0, 1.0], [0.0, 1.0]]))
        height, width = (side + 2 * config.border for side in self.size)
        self.grid = pdn_grid((height, width))
        first = RECEPTIVE_CENTRE - config.border
        plain = [interpolation_matrix(s, cells, first) for s, cells in zip(self.size, self.grid, strict=True)]
        rows, columns = (smooth_matrix(matrix, config.sigma) for matrix in plain)
        self.register_buffer("rows", rows.float().contiguous(), persistent=False)
        self.register_buffer("columns", columns.float().T.contiguous(), persistent=False)
        parts = plain if config.pads else (rows, columns)
        self.register_buffer("row_parts", (parts[0].T > 0).float().contiguous(), persistent=False)
        self.register_buffer("column_parts", (parts[1] > 0).float().contiguous(), persistent=False)
        self.eval()

    # ---- the two named steps

    def embed(self, images: Tensor) -> Tensor:
        """Turn images `[B, 3, H, W]` into the local and the global map `[B, 2, h, w]` float32.

        They are squared differences, averaged over the channels.
        """
        return torch.stack([part.square().mean(1) for part in self.differences(images)], 1)

    def residuals(self, images: Tensor) -> Tensor:
        """Return teacher minus student and autoencoder minus student, `[B, 2 C, h, w]`, of images."""
        return torch.cat(self.differences(images), 1)

    def differences(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the differences of the student's outputs on images `[B, 3, H, W]`.

        Returns:
            Teacher minus student, and autoencoder minus student, `[B, C, h, w]` float32 each.
        """
        seen = normalise(self.filled(images)).contiguous(memory_format=torch.channels_last)
        mirrored = mirror_border(seen, self.config.border)
        same = FIRST_LAYERS if self.config.start == "teacher" else 0
        with self.reduced():
            begun = self.teacher[:same](mirrored)
            taught = self.teacher[same:](begun)
            learnt = self.student[same:](begun)
            rebuilt = self.autoencoder(seen)
        taught = self.standardise(taught.float())
        learnt = learnt.float()
        rebuilt = rebuilt.float()
        return taught - learnt[:, : self.channels], rebuilt - learnt[:, self.channels :]

    def score(self, features: Tensor, inside: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Turn local and global maps `[B, 2, h, w]` into scores `[B]` and maps `[B, H, W]`."""
        low, high = self.quantiles.T.view(2, 1, 2, 1, 1)
        drawn = self.enlarge(features, None if inside is None else inside[:, None])
        maps = 0.1 * (drawn - low) / (high - low)
        # pixels that do not count get the lowest value of a map, as if all networks agreed
        lowest = (-0.1 * low / (high - low)).mean()
        drawn = torch.where(self.region(inside), maps.mean(1), lowest)
        return drawn.flatten(1).amax(1), drawn

    # ---- their parts, which training and calibration use too

    def standardise(self, taught: Tensor) -> Tensor:
        """Return the teacher's outputs `[B, C, h, w]` with mean 0 and spread 1 a channel on good pictures."""
        return (taught - self.mean.view(-1, 1, 1)) / self.std.view(-1, 1, 1)

    def enlarge(self, features: Tensor, inside: Tensor | None = None) -> Tensor:
        """Enlarge maps `[..., h, w]` on the PDN's grid bilinearly to `[..., H, W]`, and smooth them.

        Every output stands in the middle of its receptive field. Pixels beyond the outermost outputs have the
        nearest output's value.

        Args:
            features: The maps.
            inside: The pixels that count, `[..., H, W]` bool; cells of others have no part in the result.
        """
        if inside is None:
            return self.rows @ features @ self.columns
        valid_mask = self.valid_mask(inside).to(features.dtype)
        share = self.rows @ valid_mask @ self.columns  # of the cells that count, in each pixel
        return (self.rows @ (features * valid_mask) @ self.columns) / share.clamp(min=MIN_SHARE)

    def valid_mask(self, inside: Tensor | None = None) -> Tensor:
        """Return which cells, `[..., h, w]` bool, have a part in a pixel that counts.

        Args:
            inside: The pixels that count, `[..., H, W]` bool; None: those of the region of interest.
        """
        pixels = self.region(inside)
        return (self.row_parts @ pixels.to(self.row_parts.dtype) @ self.column_parts) > 0

    # ---- artefact

    @classmethod
    def rebuild(cls, config: Json, tensors: dict[str, Tensor]) -> Model:
        """Build the detector of a model file; raise InputError where settings and tensors do not fit."""
        typed = cast(Config, METHOD.parse_stored(config))
        channels = tensors["mean"].numel()
        if typed.network is None or not 1 <= channels <= CHANNELS:
            raise InputError("the model does not say which teacher it has: fit anew")
        width = width_of(tensors["teacher.conv1.weight"], typed.network)
        if width is None:
            raise InputError("the model's teacher is no PDN: fit anew")
        model = cls(typed, typed.network, channels, stored_region(typed, tensors), width)
        model.fill(tensors)
        low, high = model.quantiles.T
        if not (model.mean.isfinite().all() and (model.std > 0).all() and (low < high).all()):
            raise InputError("the model's statistics or quantiles are not finite, or out of range: fit anew")
        return model


def create(config: Config, roi: Tensor | None = None) -> tuple[Model, dict[str, str]]:
    """Build a model with its teacher, else untrained; raise InputError for a wrong teacher.

    Returns:
        The model, and the teacher's name, origin and licence.
    """
    path = config.teacher or packaged_teacher(config.network or "s")
    state, facts = read_teacher(path)
    network: Size = facts["size"]
    if config.network not in (None, network):
        raise InputError(
            f"teacher {path} is a PDN-{network.upper()}, setting network is {config.network}: leave it out"
        )
    state, channels = compact_teacher(state, facts)
    model = Model(
        replace(config, network=network), network, channels, roi, width_of(state["conv1.weight"], network)
    )
    model.teacher.load_state_dict(state)
    source = facts["backbone"]
    return model, {
        "name": f"PDN-{network.upper()} teacher from {source.get('name', 'unknown')}",
        "origin": facts["origin"],
        "licence": source.get("licence", "unknown"),
    }


def create_like(config: Config, roi: Tensor | None, tensors: Mapping[str, Tensor]) -> Model:
    """Build a model with the teacher of a fitted model of the same settings, else untrained.

    Where differences are weighed (`weighed`), the fit changed the last layer of the teacher: then flawscope's
    own teacher is taken.

    Raises:
        InputError: The fitted model learnt with a folder of pictures, or weighed the teacher of a file: its
            own file does not hold these.
    """
    if config.natural not in (GENERATED, NONE):
        raise not_in_model_error("natural", config.natural)
    if config.weighed and config.teacher:
        raise not_in_model_error("teacher", config.teacher)
    if config.weighed:
        return create(config, roi)[0]
    network = config.network
    if network is None:
        raise InputError("the model does not say which teacher it has: fit anew")
    width = width_of(tensors["teacher.conv1.weight"], network)
    model = Model(config, network, tensors["mean"].numel(), roi, width)
    prefix = "teacher."
    model_tensors = {
        key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)
    }
    model.teacher.load_state_dict(model_tensors)
    return model


def mirror_border(images: Tensor, border: int) -> Tensor:
    """Return images `[B, 3, H, W]`, mirrored outwards by `border` pixels.

    Then a PDN's outputs are as near to the picture's edges as to any other place.
    """
    return F.pad(images, (border,) * 4, mode="reflect") if border else images


def interpolation_matrix(side: int, cells: int, first: int) -> Tensor:
    """Return the bilinear weights `[side, cells]` float64 of each cell in each pixel.

    Cell i stands on pixel `first + 4 * i`. Pixels before the first cell have its value, and pixels after the
    last cell have the last one's.
    """
    place = ((torch.arange(side, dtype=torch.float64) - first) / STRIDE).clamp(0, cells - 1)
    distance = (place[:, None] - torch.arange(cells, dtype=torch.float64)).abs()
    return (1 - distance).clamp(min=0)
