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
    """Training data of a step: half of the pictures are good, half are defective.

    Attributes:
        images: The pictures, `[B, 3, H, W]` float32 in 0..1, padding marked.
        masks: Masks of the defects, `[B, 1, H, W]` float32, 1 on defects, else 0.
        places: For each picture, the place of the good picture on which it is based; -1: there is none.
        originals: Per scale, the maps `[b, C, H, W]` of these b good pictures, as k-means saw them.
    """

    images: Tensor
    masks: Tensor
    places: list[int]
    originals: list[Tensor]


class Trainer(trainer.Trainer[Batch]):
    """Trainer of the network; prototypes, backbone and spreads do not change."""

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
        k_means_results: Sequence[KMeansResult],
        task: Task,
    ):
        self.model = model
        self.pictures = pictures
        self.features = features
        self.config = model.config
        count = len(features.learnt)
        self.assignments = []
        self.cluster_sizes = []
        for result in k_means_results:
            assignment = torch.full((count,), -1)  # -1: a picture that k-means did not use
            assignment[result.pictures] = result.assignment
            self.assignments.append(assignment)
            self.cluster_sizes.append(torch.bincount(result.assignment, minlength=len(result.prototypes)))
        super().__init__((model.network,), model.config, model.roi.device, task.say, task.step)
        self.initialise(Stream.PRNET_WEIGHTS)

    # ---- a step

    def batch(self, step: int) -> Batch:
        """Make the batch of a step. Each good picture comes once, in random order, before any comes again."""
        batch_size = self.config.batch
        good_count = batch_size // 2
        if self.device.type == "cpu":  # no threads: the CPU is busy with the training
            pictures = [self._draw_picture(step, k, good_count) for k in range(batch_size)]
        else:
            with ThreadPoolExecutor() as pool:
                pictures = list(
                    pool.map(lambda k: self._draw_picture(step, k, good_count), range(batch_size))
                )
        places = [picture.place for picture in pictures]
        maps_of_pictures = [self.features[place] for place in places if place >= 0]
        images = torch.stack([picture.image for picture in pictures])
        masks = torch.stack([picture.mask for picture in pictures])
        originals = [torch.stack(scale_maps) for scale_maps in zip(*maps_of_pictures, strict=True)]
        return Batch(images, masks, places, originals)

    def _draw_picture(self, step: int, k: int, good_count: int) -> TrainingPicture:
        """Return picture k of a step's batch; the first `good_count` are good, the others defective."""
        count = len(self.features.learnt)
        if k < good_count:
            number = step * good_count + k
            return self.pictures.good(self.drawn(Stream.PRNET_ORDER, number, count))
        number = step * (self.config.batch - good_count) + k - good_count
        # Seen defects are spread evenly: of the first n defective pictures, share * n have seen defects
        share = self.config.extended if self.pictures.seen else 0.0
        is_extended = int((number + 1) * share) > int(number * share)
        place = self.drawn(Stream.PRNET_BASE, number, count)
        rng = self.rng(Stream.PRNET_DRAW, number)
        return self.pictures.defective(place, extended=is_extended, rng=rng)

    def losses(self, networks: Sequence[nn.Module], batch: Batch, step: int) -> list[Tensor]:
        """Return the losses of the map, SmoothL1 and focal (section 3.5), as one sum."""
        (network,) = networks
        images = state.upload(batch.images, self.device)
        masks = state.upload(batch.masks, self.device)
        inside = self.model.inside(images)
        with self.autocast():
            with torch.no_grad():
                maps = self.model.features(self.model.filled(images))
                maps, valid_masks = self.model.mask_uncounted(maps, inside)
            residuals = self._compute_residuals(maps, valid_masks, batch)
            logits = network(self._add_noise(maps, step), residuals)
        if inside is None and not self.features.all_cells_count:  # without padding, the region decides
            inside = self.model.roi.expand(len(images), -1, -1)
        return [prn_loss(logits.float(), masks, inside)]

    def _add_noise(self, maps: Sequence[Tensor], step: int) -> list[Tensor]:
        """Standardise the maps, and add noise.

        Without noise the network would learn a few dozen good pictures by heart, and take the normal
        variation of new pictures for defects.
        """
        features = self.model.standardise(maps)
        if not self.config.noise:
            return features
        generator = torch.Generator(self.device).manual_seed(self.torch_seed(Stream.PRNET_NOISE, step))
        for feature in features:
            noise = torch.randn(feature.shape, generator=generator, device=self.device)
            feature.add_(noise, alpha=self.config.noise)
        return features

    def _compute_residuals(
        self, maps: Sequence[Tensor], valid_masks: Sequence[Tensor | None], batch: Batch
    ) -> list[Tensor]:
        """Return the residuals of the maps, as if k-means had not used any of the pictures.

        Args:
            maps: Maps of the stages, `[B, C, H, W]` each.
            valid_masks: Per stage, which cells count; None: all of them.
            batch: The batch.
        """
        if not self.config.residuals:
            return []
        places = torch.tensor(batch.places)
        has_original = places >= 0  # -1: based on no good picture
        residuals_of_scales = []
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            for scale, (prototypes, assignment) in enumerate(
                zip(self.model.scales, self.assignments, strict=True)
            ):
                valid_mask = valid_masks[scale]
                residuals = prototypes.residuals(maps[scale], valid_mask)
                clusters = torch.where(has_original, assignment[places.clamp(min=0)], -1)
                was_used = clusters >= 0  # by k-means
                if was_used.any():
                    # `originals` has rows only for pictures that have an original
                    originals = batch.originals[scale][was_used[has_original]]
                    rows = state.upload(was_used.nonzero()[:, 0], self.device)
                    residuals[rows] = leave_one_out_residual(
                        maps[scale][rows],
                        prototypes.prototypes,
                        std=prototypes.std,
                        originals=state.upload(originals, self.device).float(),
                        clusters=state.upload(clusters[was_used], self.device),
                        sizes=state.upload(self.cluster_sizes[scale], self.device),
                        valid_mask=None if valid_mask is None else valid_mask[rows],
                    )
                residuals_of_scales.append(residuals)
        return residuals_of_scales
