"""PatchCore's inference path: embed the patches, find their nearest good ones, score and draw the map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flawscope.methods.detector import Detector, region_of
from flawscope.methods.features.backbone import Backbone, empty_backbone, load_backbone
from flawscope.methods.patchcore import METHOD, Config
from flawscope.methods.patchcore.memory_bank import View, by_view, shallow


class Model(Detector):
    """Roth et al., Towards Total Recall in Industrial Anomaly Detection (CVPR 2022), at one picture size or
    at several, by one backbone or an ensemble of several.

    With several sizes the picture comes at the largest and is reduced here for the others. Every backbone
    sees each size, and each of these views has its own memory bank. Maps are brought to one scale by the mean
    and the spread that good pictures' maps have in that view (`normal`), and fused by the setting `fusion`.
    """

    config: Config
    views: list[View]  # one per backbone and size, the first backbone's first, its smallest size first
    normal: Tensor  # [views, 4]: mean and spread of good pictures' map values, then of their scores

    def __init__(self, config: Config, backbones: Sequence[Backbone], roi: Tensor | None = None):
        """
        Args:
            backbones: in the order of the setting; each sees every size.
            roi: [H, W] bool at the size of the images. None: everywhere.
        """
        super().__init__(config, roi)
        self.backbone: nn.Module = backbones[0] if len(backbones) == 1 else nn.ModuleList(backbones)
        self.views = nn.ModuleList(  # type: ignore[assignment]
            View(config, backbone, s, self.roi) for backbone in backbones for s in config.view_sizes
        )
        self.position = 0  # in a model for one of several positions
        self.register_buffer("normal", torch.tensor([[0.0, 1.0, 0.0, 1.0]]).repeat(len(self.views), 1))
        self.eval()

    @property
    def scores_maximum(self) -> bool:
        return self.config.score == "map"

    @property
    def positions(self) -> int | None:
        return self.views[0].positions

    def at(self, position: int) -> Model:
        one = shallow(self)
        one.views, one.position = nn.ModuleList(view.at(position) for view in self.views), position  # type: ignore[assignment]
        return one

    def own(self, groups: Tensor) -> Tensor:
        """Groups [M] of this model's bank, from the groups of a view in a model file, [M] or [R, M]."""
        return groups if groups.dim() == 1 else groups[self.position]

    def join(self, models: Sequence[Model]) -> None:
        """Take the banks of a model for each position, as `at` gives them."""
        for v, view in enumerate(self.views):
            view.join([model.views[v] for model in models])

    # ---- the two named steps

    def embed(self, images: Tensor) -> Tensor:
        """Turn images `[B, 3, H, W]` into patch features `[B, P, D]` float32 (3.1), size after size."""
        images, parts = self.filled(images), []
        networks = list(self.backbone) if isinstance(self.backbone, nn.ModuleList) else [self.backbone]
        width = max(view.embedding.width for view in self.views)
        for v, view in enumerate(self.views):
            seen = view.resized(images).contiguous(memory_format=torch.channels_last)
            with self.reduced():
                maps = networks[v // len(self.config.view_sizes)](seen)
            part = view.embedding([m.float() for m in maps])
            parts.append(part if part.shape[2] == width else F.pad(part, (0, width - part.shape[2])))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def score(self, features: Tensor, inside: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Turn patch features `[B, P, D]` into scores `[B]` and maps `[B, H, W]`; where positions are told
        apart, those of whole pictures."""
        if self.positions is not None:
            return self.score_at(
                torch.zeros(len(features), dtype=torch.long).to(self.roi.device), features, inside
            )
        scores, distances = [], []
        for view, part in zip(self.views, by_view(features, self.views), strict=True):
            relative, valid_mask = part - view.centre, view.valid_mask(inside)
            distances.append(view.search(relative, valid_mask))
            if self.config.score != "map":
                scores.append(view.image_score(relative, distances[-1], valid_mask))
        return self.combine(scores, distances, inside)

    def score_at(
        self, positions: Tensor | None, features: Tensor, inside: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        if positions is None or self.positions is None:
            return self.score(features, inside)
        parts = zip(self.views, by_view(features, self.views), strict=True)
        distances = [view.search_at(positions, part, view.valid_mask(inside)) for view, part in parts]
        return self.combine([], distances, inside)

    def combine(
        self, scores: list[Tensor], distances: list[Tensor], inside: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Image scores `[B]` and patch distances `[B, P]` of all views to scores `[B]` and maps `[B, H, W]`.
        Image scores are not read where the score is the map's maximum."""
        maps = [view.anomaly_map(d) for view, d in zip(self.views, distances, strict=True)]
        normal = [self.normal[v] for v in range(len(self.views))]
        if len(maps) > 1:
            maps = [(m - n[0]) / n[1] for m, n in zip(maps, normal, strict=True)]
        # pixels that do not count get the lowest value of a map, as if every patch were in the bank
        lowest = self.fuse([-n[0] / n[1] for n in normal]) if len(maps) > 1 else maps[0].new_zeros(())
        drawn = torch.where(self.roi if inside is None else inside, self.fuse(maps), lowest)
        if self.config.score == "map":
            return drawn.flatten(1).amax(1), drawn
        if len(maps) > 1:
            scores = [(s - n[2]) / n[3] for s, n in zip(scores, normal, strict=True)]
        return self.fuse(scores), drawn

    def fuse(self, values: Sequence[Tensor]) -> Tensor:
        """One value of those of all views, which are on one scale."""
        stacked = torch.stack(list(values))
        return stacked.amax(0) if self.config.fusion == "maximum" else stacked.mean(0)

    def descriptor(self, features: Tensor, inside: Tensor | None = None) -> Tensor:
        """The means of the patches that count, of all views together."""
        means = []
        for view, part in zip(self.views, by_view(features, self.views), strict=True):
            valid_mask = view.valid_mask(inside).expand(part.shape[0], -1)  # [B, P]
            total = valid_mask.sum(1, keepdim=True).clamp(min=1)
            means.append((valid_mask[:, None] @ part)[:, 0] / total)
        return F.normalize(torch.cat(means, dim=1), dim=1)

    # ---- calibration and comparison of an exported model

    def for_export(self) -> None:
        for view in self.views:
            view.for_export()

    def left_out(
        self, features: Tensor, group: int, kept: Mapping[str, Tensor], inside: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Score and map by the bank's other elements alone, which stays as poor where the group's own ones
        were. While a model is fitted, `Fitted.left_out` does better."""
        if self.positions is not None:
            return self.at(0).left_out(features, group, kept, inside)
        scores, distances = [], []
        for v, (view, part) in enumerate(zip(self.views, by_view(features, self.views), strict=True)):
            valid_mask, hidden = view.valid_mask(inside).view(-1), self.own(kept[f"bank_groups.{v}"]) == group
            known = view.distances_without(part[0], hidden, valid_mask)
            scores.append(view.score_without(part[0], hidden, valid_mask, known)[None])
            distances.append(known[None])
        return self.combine(scores, distances, inside)

    def ties(self, features: Tensor, inside: Tensor | None = None) -> Tensor:
        """Whether Eq. 6's farthest patch or its nearest element is tied with another one, within 1e-5."""
        if self.config.score == "map":
            return super().ties(features, inside)
        tied = torch.zeros(len(features), dtype=torch.bool)
        for view, part in zip(self.views, by_view(features, self.views), strict=True):
            relative, valid_mask = part - view.centre, view.valid_mask(inside)
            tied |= view.ties(relative, view.search(relative, valid_mask), valid_mask).cpu()
        return tied

    # ---- artefact

    @classmethod
    def rebuild(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> Model:
        typed = METHOD.stored(config)
        roi = region_of(typed, tensors)
        several, backbones = len(typed.backbones) > 1, []
        for i, name in enumerate(typed.backbones):
            prefix = f"backbone.{i}." if several else "backbone."
            own = {key: tensor for key, tensor in tensors.items() if key.startswith(prefix)}
            backbones.append(empty_backbone(name, typed.stages, typed.network_size, own))
        model = cls(typed, backbones, roi)
        for i, view in enumerate(model.views):  # as large as the artefact says
            view.fill(tensors[f"views.{i}.bank"], tensors[f"views.{i}.table"])
        model.fill(tensors)
        return model


def create(config: Config, roi: Tensor | None = None) -> tuple[Model, dict[str, str]]:
    """A model with its backbones and empty memory banks, and the name, origin and licence of the weights."""
    backbones, origin = load_backbones(config)
    return Model(config, backbones, roi), origin


def load_backbones(config: Config) -> tuple[list[Backbone], dict[str, str]]:
    """The setting's backbones, and name, origin and licence of their weights, joined by `+` if several."""
    backbones, origins = zip(
        *(load_backbone(n, config.stages, config.network_size, config.weights) for n in config.backbones),
        strict=True,
    )
    return list(backbones), {key: " + ".join(one[key] for one in origins) for key in origins[0]}
