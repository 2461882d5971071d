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
from flawscope.methods.training.efficientad.presets import NONE
from flawscope.methods.training.efficientad.record import (
    CHANNELS,
    FIRST_LAYERS,
    GENERATED,
    METHOD,
    STRIDE,
    Config,
    Size,
)
from flawscope.types import Json

MIN_SHARE = 1e-6  # smallest divisor, for pixels to which no cell contributes
RECEPTIVE_CENTRE = 16  # pixels from the edge of an output's receptive field to its middle


class Model(Detector):
    """The EfficientAD detector (3.1 to 3.4).

    `embed` gives two small maps: differences of the student from the teacher (local) and from the autoencoder
    (global). `score` enlarges them to the picture's size, brings both to the same scale, and averages them.

    Attributes:
        mean: Mean of the teacher's outputs on the training pictures, `[C]`.
        std: Standard deviation of these outputs, `[C]`.
        quantiles: Quantiles of good pictures' local map (row 0) and global map (row 1), `[2, 2]`, which
            `score` maps to 0 and 0.1.
        rows: `[H, h]`: rows of the maps' grid to rows of pixels.
        columns: `[w, W]`: the same for columns.
        row_parts: `[h, H]`, 1 where a row of cells contributes to a row of pixels, else 0; by `rows`, or
            without the smoothing where pictures are padded.
        column_parts: `[W, w]`: the same for columns.
    """

    calibrated = ("quantiles",)
    config: Config
    mean: Tensor
    std: Tensor
    quantiles: Tensor
    rows: Tensor
    columns: Tensor
    row_parts: Tensor
    column_parts: Tensor

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
            width: Channels of the PDNs' first layer; None: as usual for `network` (`pdn`).
        """
        super().__init__(config, roi)
        self.channels = channels
        self.teacher = replace_last_layer(pdn(network, width=width), channels).requires_grad_(False)
        self.student = replace_last_layer(pdn(network, 2 * CHANNELS, width=width), 2 * channels)
        self.autoencoder = Autoencoder(channels, border=config.border)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))
        # the values that become 0 and 0.1, in the local and in the global map; the fit sets them
        self.register_buffer("quantiles", torch.tensor([[0.0, 1.0], [0.0, 1.0]]))
        height, width = (side + 2 * config.border for side in self.size)
        self.grid = pdn_grid((height, width))
        first_pixel = RECEPTIVE_CENTRE - config.border
        plain_rows, plain_columns = (
            interpolation_matrix(side, cells, first_pixel)
            for side, cells in zip(self.size, self.grid, strict=True)
        )
        rows = smooth_matrix(plain_rows, config.sigma)
        columns = smooth_matrix(plain_columns, config.sigma)
        self.register_buffer("rows", rows.float().contiguous(), persistent=False)
        self.register_buffer("columns", columns.float().T.contiguous(), persistent=False)
        # which cells contribute to which pixels; smoothing does not count if pictures are padded
        if config.pads:
            row_parts, column_parts = plain_rows, plain_columns
        else:
            row_parts, column_parts = rows, columns
        self.register_buffer("row_parts", (row_parts.T > 0).float().contiguous(), persistent=False)
        self.register_buffer("column_parts", (column_parts > 0).float().contiguous(), persistent=False)
        self.eval()

    # ---- the two named steps

    def embed(self, images: Tensor) -> Tensor:
        """Turn images `[B, 3, H, W]` into the local and the global map `[B, 2, h, w]` float32.

        They are squared differences, averaged over the channels.
        """
        return torch.stack([difference.square().mean(1) for difference in self.differences(images)], 1)

    def residuals(self, images: Tensor) -> Tensor:
        """Return teacher minus student and autoencoder minus student of images, joined: `[B, 2 C, h, w]`."""
        return torch.cat(self.differences(images), 1)

    def differences(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the differences of the student's outputs on images `[B, 3, H, W]`.

        Returns:
            Teacher minus student, and autoencoder minus student, `[B, C, h, w]` float32 each.
        """
        inputs = normalise(self.filled(images)).contiguous(memory_format=torch.channels_last)
        mirrored = mirror_border(inputs, self.config.border)
        # a student that started as the teacher has the teacher's first layers
        shared_layers = FIRST_LAYERS if self.config.start == "teacher" else 0
        with self.reduced():
            shared_maps = self.teacher[:shared_layers](mirrored)
            teacher_outputs = self.teacher[shared_layers:](shared_maps)
            student_outputs = self.student[shared_layers:](shared_maps)
            autoencoder_outputs = self.autoencoder(inputs)
        teacher_outputs = self.standardise(teacher_outputs.float())
        student_outputs = student_outputs.float()
        autoencoder_outputs = autoencoder_outputs.float()
        local_differences = teacher_outputs - student_outputs[:, : self.channels]
        global_differences = autoencoder_outputs - student_outputs[:, self.channels :]
        return local_differences, global_differences

    def score(self, features: Tensor, inside: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Turn local and global maps `[B, 2, h, w]` into scores `[B]` and maps `[B, H, W]`."""
        low, high = self.quantiles.T.view(2, 1, 2, 1, 1)  # `[1, 2, 1, 1]` each, for local and global map
        enlarged = self.enlarge(features, None if inside is None else inside[:, None])
        local_and_global = 0.1 * (enlarged - low) / (high - low)  # quantiles become 0 and 0.1, as published
        # pixels that do not count get the value of differences of 0, as if all networks agreed
        lowest = (-0.1 * low / (high - low)).mean()
        maps = torch.where(self.region(inside), local_and_global.mean(1), lowest)
        return maps.flatten(1).amax(1), maps

    # ---- parts of these steps, which training and calibration use too

    def standardise(self, teacher_outputs: Tensor) -> Tensor:
        """Return the teacher's outputs `[B, C, h, w]` with mean 0 and spread 1 a channel on good pictures."""
        return (teacher_outputs - self.mean.view(-1, 1, 1)) / self.std.view(-1, 1, 1)

    def enlarge(self, features: Tensor, inside: Tensor | None = None) -> Tensor:
        """Enlarge maps `[..., h, w]` on the PDN's grid bilinearly to `[..., H, W]`, and smooth them.

        Every output stands in the middle of its receptive field. Pixels beyond the outermost outputs have the
        nearest output's value.

        Args:
            features: The maps.
            inside: The pixels that count, `[..., H, W]` bool; cells without such a pixel do not contribute.
                None: all cells contribute.
        """
        if inside is None:
            return self.rows @ features @ self.columns
        valid_mask = self.valid_mask(inside).to(features.dtype)
        share = self.rows @ valid_mask @ self.columns  # in each pixel, the share of the cells that count
        return (self.rows @ (features * valid_mask) @ self.columns) / share.clamp(min=MIN_SHARE)

    def valid_mask(self, inside: Tensor | None = None) -> Tensor:
        """Return which cells, `[..., h, w]` bool, contribute to a pixel that counts.

        Args:
            inside: The pixels that count, `[..., H, W]` bool; None: those of the region of interest.
        """
        pixels = self.region(inside)
        return (self.row_parts @ pixels.to(self.row_parts.dtype) @ self.column_parts) > 0

    # ---- artefact

    @classmethod
    def rebuild(cls, config: Json, tensors: dict[str, Tensor]) -> Model:
        """Build the detector of a model file; raise InputError where settings and tensors do not fit."""
        settings = cast(Config, METHOD.parse_stored(config))
        channels = tensors["mean"].numel()
        if settings.network is None or not 1 <= channels <= CHANNELS:
            raise InputError("the model does not say which teacher it has: fit anew")
        width = width_of(tensors["teacher.conv1.weight"], settings.network)
        if width is None:
            raise InputError("the model's teacher is no PDN: fit anew")
        roi = stored_region(settings, tensors)
        model = cls(settings, settings.network, channels, roi=roi, width=width)
        model.fill(tensors)
        low, high = model.quantiles.T
        if not (model.mean.isfinite().all() and (model.std > 0).all() and (low < high).all()):
            raise InputError("the model's statistics or quantiles are not finite, or out of range: fit anew")
        return model


def create(config: Config, roi: Tensor | None = None) -> tuple[Model, dict[str, str]]:
    """Build a model with its teacher, and with an untrained student and autoencoder.

    Raises:
        InputError: The teacher cannot be read, or has another size than the settings say.

    Returns:
        The model, and the teacher's name, origin and licence.
    """
    path = config.teacher or packaged_teacher(config.network or "s")
    state, facts = read_teacher(path)
    size: Size = facts["size"]
    if config.network not in (None, size):
        raise InputError(
            f"teacher {path} is a PDN-{size.upper()}, setting network is {config.network}: leave it out"
        )
    state, channels = compact_teacher(state, facts)
    width = width_of(state["conv1.weight"], size)
    model = Model(replace(config, network=size), size, channels, roi=roi, width=width)
    model.teacher.load_state_dict(state)
    backbone = facts["backbone"]
    return model, {
        "name": f"PDN-{size.upper()} teacher from {backbone.get('name', 'unknown')}",
        "origin": facts["origin"],
        "licence": backbone.get("licence", "unknown"),
    }


def create_like(config: Config, roi: Tensor | None, tensors: Mapping[str, Tensor]) -> Model:
    """Build a model with the teacher of a fitted model of the same settings; the rest is untrained.

    A fit with the setting `weighed` changes the teacher's last layer. For a model with this setting,
    flawscope's own teacher is read again.

    Raises:
        InputError: The fitted model learnt with a folder of pictures, or has `weighed` and a teacher from a
            file: the model's file contains neither the folder nor the teacher's file.
    """
    if config.natural not in (GENERATED, NONE):
        raise not_in_model_error("natural", config.natural)
    if config.weighed and config.teacher:
        raise not_in_model_error("teacher", config.teacher)
    if config.weighed:
        return create(config, roi)[0]
    size = config.network
    if size is None:
        raise InputError("the model does not say which teacher it has: fit anew")
    width = width_of(tensors["teacher.conv1.weight"], size)
    model = Model(config, size, channels=tensors["mean"].numel(), roi=roi, width=width)
    prefix = "teacher."
    model_tensors = {
        name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)
    }
    model.teacher.load_state_dict(model_tensors)
    return model


def mirror_border(images: Tensor, border: int) -> Tensor:
    """Return images `[B, 3, H, W]` with a border of `border` pixels, in which they are mirrored.

    A PDN does not pad its input: without the border it has no outputs near the picture's edges.
    """
    return F.pad(images, (border,) * 4, mode="reflect") if border else images


def interpolation_matrix(side: int, cells: int, first: int) -> Tensor:
    """Return the bilinear weights `[side, cells]` float64 of each cell in each pixel.

    Pixels before the first cell get the first cell's value, pixels after the last cell the last cell's value.

    Args:
        side: Number of pixels.
        cells: Number of cells.
        first: Pixel on which the first cell stands; each further cell stands `STRIDE` pixels further.
    """
    position = ((torch.arange(side, dtype=torch.float64) - first) / STRIDE).clamp(0, cells - 1)  # in cells
    distance = (position[:, None] - torch.arange(cells, dtype=torch.float64)).abs()
    return (1 - distance).clamp(min=0)
