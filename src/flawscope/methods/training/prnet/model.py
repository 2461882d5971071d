"""PRN's inference path: features, residuals to the nearest prototypes, the network's map, its score."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flawscope.errors import InputError
from flawscope.methods.detector import Detector, autocast, stored_region
from flawscope.methods.features.backbone import Backbone, empty_backbone, load_backbone, stored_backbone
from flawscope.methods.method import not_in_model_error
from flawscope.methods.training.prnet.network import Network, grids_for, image_score
from flawscope.methods.training.prnet.prototypes import Prototypes, Standardise
from flawscope.methods.training.prnet.record import GENERATED, METHOD, STRIDES, Config
from flawscope.types import Json


class Model(Detector):
    """The PRN detector: Zhang et al., Prototypical Residual Networks for Anomaly Detection and Localization.

    CVPR 2023. The entire backbone is frozen, also its last stage: prototypes and features do not change.

    Attributes:
        scales: Prototypes of the scales, at strides 4, 8 and 16.
        last: Standardises the maps of the last stage, at stride 32.
    """

    config: Config
    scales: list[Prototypes]

    def __init__(
        self, config: Config, backbone: Backbone, roi: Tensor | None = None, counts: Sequence[int] = (1, 1, 1)
    ):
        """Build the networks, untrained; `counts` are the numbers of prototypes at strides 4, 8 and 16."""
        super().__init__(config, roi)
        self.backbone = backbone
        self.shapes = backbone.shapes_at(self.size)
        grids = grids_for(self.size)
        if [shape[1:] for shape in self.shapes] != grids:
            raise InputError(
                f"stages {','.join(map(str, config.stages))} of backbone {config.backbone} do not have "
                f"strides {','.join(map(str, STRIDES))}: choose others, --set stages=..., or a --backbone"
            )
        self.scales = nn.ModuleList(  # type: ignore[assignment]
            Prototypes(count, shape) for count, shape in zip(counts, self.shapes[:-1], strict=True)
        )
        self.last = Standardise(self.shapes[-1][0])
        self.network = Network(
            [shape[0] for shape in self.shapes],
            self.size,
            width=config.width,
            attention=config.attention,
            residuals=config.residuals,
        )
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.eval()

    def train(self, mode: bool = True) -> Model:
        """Stay in eval mode: the backbone is frozen, and no other layer depends on the mode."""
        return super().train(False)

    @property
    def score_is_map_maximum(self) -> bool:
        """False: a score is the mean of the map's largest pixels."""
        return False

    # ---- the two named steps

    def embed(self, images: Tensor) -> Tensor:
        """Turn images `[B, 3, H, W]` into the network's logits `[B, H, W]` float32."""
        with self.reduced():
            maps, residuals = self._compare_scales(images, Prototypes.residuals)
            logits = self.logits(maps, residuals)
        return logits[:, 0].float()

    def residuals(self, images: Tensor) -> Tensor:
        """Return features at strides 4, 8 and 16 minus their nearest prototypes, on the grid of stride 8."""
        with self.reduced():
            _, (fine, middle, coarse) = self._compare_scales(images, Prototypes.differences)
        grid = (middle.shape[2], middle.shape[3])
        reduced_fine = F.adaptive_avg_pool2d(fine, grid)
        enlarged_coarse = F.interpolate(coarse, grid, mode="bilinear")
        return torch.cat([reduced_fine, middle, enlarged_coarse], 1)

    def _compare_scales(
        self, images: Tensor, compare: Callable[[Prototypes, Tensor, Tensor | None], Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Compare images with the prototypes of each scale.

        Args:
            images: Images `[B, 3, H, W]`.
            compare: Compares a scale's prototypes with its maps, given the cells that count.

        Returns:
            The maps of the four stages, and the results of the three scales.
        """
        inside = self.inside(images)
        maps = self.features(self.filled(images))
        # in fp32: squared distances of entire maps overflow fp16, and the first prototype would always win
        with autocast(images.device, dtype=None):
            maps, valid_masks = self.mask_uncounted(maps, inside)
            # the last stage has no prototypes: it is left out
            results = [
                compare(prototypes, scale_maps, valid_mask)
                for prototypes, scale_maps, valid_mask in zip(self.scales, maps, valid_masks, strict=False)
            ]
            return maps, results

    def score(self, features: Tensor, inside: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Turn logits `[B, H, W]` into scores `[B]` and maps `[B, H, W]`, probabilities of a defect 0..1."""
        maps = torch.where(self.region(inside), features.sigmoid(), features.new_zeros(()))
        return image_score(maps, self.config.top), maps

    # ---- parts of these steps, which training uses too

    def features(self, images: Tensor) -> list[Tensor]:
        """Return the four stages' maps `[B, C_j, H_j, W_j]`, float32."""
        maps = self.backbone(images.contiguous(memory_format=torch.channels_last))
        return [stage_maps.float() for stage_maps in maps]

    def mask_uncounted(
        self, maps: Sequence[Tensor], inside: Tensor | None
    ) -> tuple[list[Tensor], Sequence[Tensor | None]]:
        """Set the cells of the stages' maps in which no pixel counts to the means of their channels.

        Args:
            maps: The stages' maps `[B, C_j, H_j, W_j]`.
            inside: The pixels that count, `[B, H, W]` bool; None: pictures are not padded.

        Returns:
            The filled maps, and per stage a mask `[B, 1, H_j, W_j]` float32, 1 where a cell counts, else 0;
            None where pictures are not padded.
        """
        if inside is None:
            return list(maps), [None] * len(maps)
        valid_masks = valid_cells(inside)
        filled_maps = [
            stage.fill_with_mean(stage_maps, valid_mask)
            for stage, stage_maps, valid_mask in zip(
                [*self.scales, self.last], maps, valid_masks, strict=True
            )
        ]
        return filled_maps, [valid_mask.float() for valid_mask in valid_masks]

    def standardise(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return the stages' maps with mean 0 and spread 1 a channel on good pictures."""
        stages = [*self.scales, self.last]
        return [stage(stage_maps) for stage, stage_maps in zip(stages, maps, strict=True)]

    def logits(self, maps: Sequence[Tensor], residuals: Sequence[Tensor]) -> Tensor:
        """Return the logits `[B, 1, H, W]` of a defect, from the stages' maps and the scales' residuals."""
        logits: Tensor = self.network(self.standardise(maps), residuals)
        return logits

    # ---- artefact

    @classmethod
    def rebuild(cls, config: Json, tensors: dict[str, Tensor]) -> Model:
        """Build the detector of a model file; raise InputError where settings and tensors do not fit."""
        settings = cast(Config, METHOD.parse_stored(config))
        roi = stored_region(settings, tensors)
        backbone = empty_backbone(settings.backbone, settings.stages, settings.network_size, tensors)
        # 0 rows are refused here; `numel` is 1 for a scalar, which has no rows and is refused by `fill`
        row_counts = [tensors[f"scales.{i}.prototypes"].shape[:1].numel() for i in range(len(STRIDES) - 1)]
        if 0 in row_counts:
            raise InputError("the model has no prototypes: fit anew")
        # one prototype a scale, until the right number is known to fit
        model = cls(settings, backbone, roi, counts=[1] * len(row_counts))
        for i, scale in enumerate(model.scales):
            prototypes = tensors[f"scales.{i}.prototypes"]
            # no memory is allocated for other shapes, which `fill` refuses
            if prototypes.shape[1:] == scale.prototypes.shape[1:]:
                scale.prototypes = torch.empty_like(prototypes)
        model.fill(tensors)
        learnt_tensors = [
            tensor for name, tensor in model.state_dict().items() if not name.startswith("backbone.")
        ]
        is_finite = all(bool(tensor.isfinite().all()) for tensor in learnt_tensors)
        has_spreads = all(bool((stage.std > 0).all()) for stage in (*model.scales, model.last))
        if not is_finite or not has_spreads:
            raise InputError("the model's tensors are not finite, or out of range: fit anew")
        return model


def valid_cells(inside: Tensor) -> list[Tensor]:
    """Return the cells of the four stages, `[B, 1, H_j, W_j]` bool, in which a pixel of `inside` counts."""
    return [F.max_pool2d(inside[:, None].float(), stride) > 0 for stride in STRIDES]


def create(config: Config, roi: Tensor | None = None) -> tuple[Model, dict[str, str]]:
    """Build a model with its pretrained backbone; the rest is untrained.

    Returns:
        The model, and the name, origin and licence of the weights.
    """
    backbone, origin = load_backbone(config.backbone, config.stages, config.network_size, config.weights)
    return Model(config, backbone, roi), origin


def create_like(config: Config, roi: Tensor | None, tensors: Mapping[str, Tensor]) -> Model:
    """Build a model with the backbone of a fitted model of the same settings; the rest is untrained.

    Raises:
        InputError: The fitted model learnt with a folder of textures, which its file does not hold.
    """
    if config.textures != GENERATED:
        raise not_in_model_error("textures", config.textures)
    backbone = stored_backbone(config.backbone, config.stages, config.network_size, tensors)
    return Model(config, backbone, roi)
