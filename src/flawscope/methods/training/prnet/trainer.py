"""Training PRN's network (Zhang et al., CVPR 2023, 3.4 and 3.5)."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from flawscope.calibration.streams import Stream
from flawscope.methods.task import Task
from flawscope.methods.training import state, trainer
from flawscope.methods.training.prnet.model import Model
from flawscope.methods.training.prnet.network import prn_loss
from flawscope.methods.training.prnet.prototypes import KMeansResult, leave_one_out_residual
from flawscope.methods.training.prnet.training_pictures import (
    ScaleFeatureCache,
    TrainingPicture,
    TrainingPictures,
)


@dataclass
class Batch:
    """Training data of a step: as many good pictures as defective pictures."""

    images: Tensor  # [B, 3, H, W] float32 in 0..1, padding marked
    masks: Tensor  # [B, 1, H, W] float32: 1 on defects
    places: list[int]  # of the good picture under each; -1: none
    originals: list[Tensor]  # per scale the maps [b, C, H, W] of these good pictures, as k-means saw them


class Trainer(trainer.Trainer[Batch]):
    """Trainer of the network; prototypes, backbone and spreads do not change.

    Several processes divide a batch: nothing in the network depends on the other pictures, and the loss is a
    mean over the pixels that count.
    """

    NETWORKS = ("network",)
    LOSSES = ("loss",)
    CPU_STEPS = 3000
    GPU_STEPS = 4400
    DECOUPLED_DECAY = True

    def __init__(
        self,
        model: Model,
        pictures: TrainingPictures,
        features: ScaleFeatureCache,
        clusters: Sequence[KMeansResult],
        task: Task,
    ):
        self.model = model
        self.pictures = pictures
        self.features = features
        self.config = model.config
        count = len(features.learnt)
        self.assignments = []
        self.cluster_sizes = []
        for found in clusters:
            assignment = torch.full((count,), -1)  # those that k-means did not look at belong to none
            assignment[found.pictures] = found.assignment
            self.assignments.append(assignment)
            self.cluster_sizes.append(torch.bincount(found.assignment, minlength=len(found.prototypes)))
        super().__init__((model.network,), model.config, model.roi.device, task.say, task.step)
        self.initialise(Stream.PRNET_WEIGHTS)

    # ---- a step

    def batch(self, step: int) -> Batch:
        """Make the batch of a step. Good pictures come once each, in random order, before any comes again."""
        size = self.config.batch
        good = size // 2
        if self.device.type == "cpu":  # the processor is busy learning
            shown = [self._draw_picture(step, k, good) for k in range(size)]
        else:
            with ThreadPoolExecutor() as pool:
                shown = list(pool.map(lambda k: self._draw_picture(step, k, good), range(size)))
        places = [picture.place for picture in shown]
        maps = [self.features[place] for place in places if place >= 0]
        images = torch.stack([picture.image for picture in shown])
        masks = torch.stack([picture.mask for picture in shown])
        features = [torch.stack(of_scale) for of_scale in zip(*maps, strict=True)]
        return Batch(images, masks, places, features)

    def _draw_picture(self, step: int, k: int, good: int) -> TrainingPicture:
        count = len(self.features.learnt)
        if k < good:
            number = step * good + k
            return self.pictures.good(self.drawn(Stream.PRNET_ORDER, number, count))
        number = step * (self.config.batch - good) + k - good
        # spread evenly: of the first n defective pictures, n times the share
        share = self.config.extended if self.pictures.seen else 0.0
        extended = int((number + 1) * share) > int(number * share)
        place = self.drawn(Stream.PRNET_BASE, number, count)
        return self.pictures.defective(place, extended, self.rng(Stream.PRNET_DRAW, number))

    def losses(self, networks: Sequence[nn.Module], batch: Batch, step: int) -> list[Tensor]:
        """Return the loss of the map, SmoothL1 and focal (3.5)."""
        (network,) = networks
        images, masks = (state.upload(part, self.device) for part in (batch.images, batch.masks))
        inside = self.model.inside(images)
        with self.autocast():
            with torch.no_grad():
                maps = self.model.features(self.model.filled(images))
                maps, valid_mask = self.model.mask_uncounted(maps, inside)
            residuals = self._residuals(maps, valid_mask, batch)
            logits = network(self._add_noise(maps, step), residuals)
        if inside is None and not self.features.all_cells_count:
            inside = self.model.roi.expand(len(images), -1, -1)
        return [prn_loss(logits.float(), masks, inside)]

    def _add_noise(self, maps: Sequence[Tensor], step: int) -> list[Tensor]:
        """Return standardised features with noise.

        Without noise the network would learn a few dozen good pictures by heart, and take the normal
        variation of new pictures for defects.
        """
        features = self.model.standardise(maps)
        if not self.config.noise:
            return features
        generator = torch.Generator(self.device).manual_seed(self.torch_seed(Stream.PRNET_NOISE, step))
        for feature in features:
            drawn = torch.randn(feature.shape, generator=generator, device=self.device)
            feature.add_(drawn, alpha=self.config.noise)
        return features

    def _residuals(
        self, maps: Sequence[Tensor], valid_mask: Sequence[Tensor | None], batch: Batch
    ) -> list[Tensor]:
        """Return the residuals of the maps, as if k-means had not used any of the pictures."""
        if not self.config.residuals:
            return []
        based = torch.tensor(batch.places)
        found = []
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            for scale, (prototypes, assignment) in enumerate(
                zip(self.model.scales, self.assignments, strict=True)
            ):
                cells = valid_mask[scale]
                plain = prototypes.residuals(maps[scale], cells)
                clusters = torch.where(based >= 0, assignment[based.clamp(min=0)], -1)
                mine = clusters >= 0
                if mine.any():
                    originals = batch.originals[scale][mine[based >= 0]]
                    rows = state.upload(mine.nonzero()[:, 0], self.device)
                    plain[rows] = leave_one_out_residual(
                        maps[scale][rows],
                        prototypes.prototypes,
                        prototypes.std,
                        state.upload(originals, self.device).float(),
                        state.upload(clusters[mine], self.device),
                        state.upload(self.cluster_sizes[scale], self.device),
                        valid_mask=None if cells is None else cells[rows],
                    )
                found.append(plain)
        return found
