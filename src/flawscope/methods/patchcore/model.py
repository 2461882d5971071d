"""PatchCore's inference path: embed the patches, find their nearest good ones, score and draw the map."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flawscope.methods.features.backbone import Backbone
from flawscope.methods.method import deferred
from flawscope.methods.patch_detector import PatchDetector
from flawscope.methods.patchcore import METHOD, Config
from flawscope.methods.patchcore.memory_bank import BankView, shallow_copy
from flawscope.methods.patchcore.quantized_search import onnx_translations


class Model(PatchDetector):
    """Roth et al., Towards Total Recall in Industrial Anomaly Detection (CVPR 2022), at one picture size or
    at several, by one memory bank a size or, at larger ones, one for each stage of the backbone.

    With several sizes the picture comes at the largest and is reduced here for the others. The map of each
    bank is brought to one scale by the mean and the spread of good pictures' maps (`normal`), and all are
    joined (`fuse`).
    """

    METHOD = METHOD
    config: Config
    views: list[BankView]
    # [maps, 4]: mean of good pictures' map values and how far the highest 1 % lie above it; mean and standard
    # deviation of their scores
    normal: Tensor

    def __init__(self, config: Config, backbone: Backbone, roi: Tensor | None = None):
        super().__init__(config, backbone, roi)
        self.position = 0  # in a model for one of several positions
        self.register_buffer("normal", torch.tensor([[0.0, 1.0, 0.0, 1.0]]).repeat(len(self.views), 1))
        self.eval()

    def view(self, size: tuple[int, int], stage: int | None = None) -> BankView:
        return BankView(self.config, self.backbone, size, self.roi, stage)

    @property
    def score_is_map_maximum(self) -> bool:
        return self.config.score == "map"

    @property
    def positions(self) -> int | None:
        return self.views[0].positions

    def at_position(self, position: int) -> Model:
        one = shallow_copy(self)
        one.views, one.position = nn.ModuleList(view.at(position) for view in self.views), position  # type: ignore[assignment]
        return one

    def own_groups(self, groups: Tensor) -> Tensor:
        """Groups [M] of this model's bank, from the groups of a view in a model file, [M] or [R, M]."""
        return groups if groups.dim() == 1 else groups[self.position]

    def join_banks(self, models: Sequence[Model]) -> None:
        """Take the banks of a model for each position, as `at` gives them."""
        for v, view in enumerate(self.views):
            view.join_banks([model.views[v] for model in models])

    # ---- scores

    def score(self, features: Tensor, inside: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Turn patch features `[B, P, D]` into scores `[B]` and maps `[B, H, W]`; where positions are told
        apart, those of whole pictures."""
        return self.score_at(None, features, inside)

    def residuals(self, images: Tensor, positions: Tensor | None = None) -> Tensor:
        """Patches of the largest size less their nearest bank elements, on the finest grid of that size."""
        pairs = zip(self.views, self.parts(self.embed(images)), strict=True)
        largest = [(view, part) for view, part in pairs if view.size == self.views[-1].size]
        grid, cells = max((view.grid for view, _ in largest), key=math.prod), []
        for view, part in largest:
            away = (part - view.nearest(part, positions)).transpose(1, 2).unflatten(2, view.grid)
            cells.append(away if view.grid == grid else F.interpolate(away, grid, mode="bilinear"))
        return torch.cat(cells, 1)

    def score_at(
        self, positions: Tensor | None, features: Tensor, inside: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        scores, distances = [], []
        for view, part in zip(self.views, self.parts(features), strict=True):
            valid_mask = view.valid_mask(inside)
            distances.append(view.distances(part, valid_mask, positions))
            if self.config.score == "reweighted":
                scores.append(view.image_score(part - view.centre, distances[-1], valid_mask))
        return self.combine(scores, distances, inside)

    def combine(
        self, scores: list[Tensor], distances: list[Tensor], inside: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Image scores `[B]` and patch distances `[B, P]` of all views to scores `[B]` and maps `[B, H, W]`.
        Image scores are read with `score: reweighted` alone."""
        maps = [view.anomaly_map(d) for view, d in zip(self.views, distances, strict=True)]
        normal = [self.normal[v] for v in range(len(maps))]
        drawn, lowest = maps[0], maps[0].new_zeros(())
        if len(maps) > 1:
            drawn = self.fuse([(m - n[0]) / n[1] for m, n in zip(maps, normal, strict=True)])
            # pixels that do not count get the lowest value of a map, as if every patch were in the bank
            lowest = self.fuse([-n[0] / n[1] for n in normal])
        drawn = torch.where(self.roi if inside is None else inside, drawn, lowest)
        if self.config.score == "map":
            return drawn.flatten(1).amax(1), drawn
        if len(maps) > 1:
            scores = [(s - n[2]) / n[3] for s, n in zip(scores, normal, strict=True)]
        return torch.stack(scores).amax(0), drawn

    def fuse(self, maps: Sequence[Tensor]) -> Tensor:
        """Join the maps of all banks, on one scale: the largest value counts, or the root of the sum of
        squares of what lies above an ordinary good picture's."""
        if self.config.fusion == "maximum":
            return torch.stack(list(maps)).amax(0)
        return torch.stack(list(maps)).clamp(min=0).square().sum(0).sqrt()

    choose = deferred("flawscope.methods.patchcore.auto_settings:choose")

    # ---- calibration and comparison of an exported model

    def for_export(self) -> None:
        for view in self.views:
            view.for_export()

    def operators(self) -> dict[Any, Any]:
        return onnx_translations()

    def left_out(
        self, features: Tensor, group: int, kept: Mapping[str, Tensor], inside: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Score and map by the bank's other elements alone, which stays as poor where the group's own ones
        were. While a model is fitted, `LeaveOutOfBanks` does better."""
        if self.positions is not None:
            return self.at_position(0).left_out(features, group, kept, inside)
        scores, distances = [], []
        for v, (view, part) in enumerate(zip(self.views, self.parts(features), strict=True)):
            valid_mask = view.valid_mask(inside).view(-1)
            hidden = self.own_groups(kept[f"bank_groups.{v}"]) == group
            known = view.distances_without(part[0], hidden, valid_mask)
            scores.append(view.score_without(part[0], hidden, valid_mask, known)[None])
            distances.append(known[None])
        return self.combine(scores, distances, inside)

    def ties(self, features: Tensor, inside: Tensor | None = None) -> Tensor:
        """Whether Eq. 6's farthest patch or its nearest element is tied with another one, within 1e-5."""
        if self.config.score == "map":
            return super().ties(features, inside)
        tied = torch.zeros(len(features), dtype=torch.bool)
        for view, part in zip(self.views, self.parts(features), strict=True):
            relative, valid_mask = part - view.centre, view.valid_mask(inside)
            tied |= view.ties(relative, view.search(relative, valid_mask), valid_mask).cpu()
        return tied

    # ---- artefact

    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        for i, view in enumerate(self.views):  # as large as the artefact says
            view.load_bank(tensors[f"views.{i}.bank"], tensors[f"views.{i}.table"])
        super().fill(tensors)
