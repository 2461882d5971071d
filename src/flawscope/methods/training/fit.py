"""Fits of methods that learn in steps: pictures are held out, the rest trains, those held out calibrate."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from flawscope.calibration.rows import Values
from flawscope.errors import pluralize
from flawscope.methods.detector import BATCH, Detector
from flawscope.methods.good_pictures import GoodPictures, HeldOut
from flawscope.methods.patch_detector import PatchDetector
from flawscope.methods.settings import TrainingSettings
from flawscope.methods.task import Fitted, SeenDefect, Task
from flawscope.methods.training.pictures import FeatureCache
from flawscope.methods.training.state import json_settings, network_digest
from flawscope.methods.training.state_file import load_checkpoint
from flawscope.methods.training.trainer import B, Trainer
from flawscope.progress import ProgressCallback, format_duration, ignore_progress

if TYPE_CHECKING:
    from flawscope.types import Json

CHECK_SHARE = 0.1  # largest share of the minutes that is set aside for the check
TIMED_PICTURES = 2  # number of pictures by which the time of the work after the training is measured
SHORT_SHARE = 0.25  # share of a CPU's default number of steps below which a training is short
POST_TRAINING = ("held_out", "memory", "precision")  # settings that training does not depend on
REGION_SETTINGS = ("hidden",)  # settings that follow from the region of interest


class TrainedFit:
    """Fit with a training. Build it before the pictures are read: it reports an unusable checkpoint.

    Attributes:
        images: The good pictures to learn from, after `divide`.
        held: The good pictures that are held out, after `divide`.
    """

    images: GoodPictures
    held: HeldOut

    def __init__(self, method: str, model: Detector, task: Task):
        self.method = method
        self.model = model
        self.task = task
        self.checkpoint = load_checkpoint(task.budget.checkpoint, task.budget.resume, task.say)
        assert isinstance(model.config, TrainingSettings)
        self.config: TrainingSettings = model.config
        self.max_bytes = int(self.config.memory * 2**30)
        self.deciding_facts: Json = {}

    def divide(self, more: int = 0) -> HeldOut:
        """Read the pictures, and hold some out.

        Args:
            more: Number of pictures to hold out beyond the need of the rate, as for `hold_out`.
        """
        share = self.config.held_out
        picture_bytes = self.max_bytes // 2
        self.images, self.held = self.task.divide(
            self.method, self.model, share=share, more=more, room=picture_bytes
        )
        return self.held

    def features(self) -> PatchFeatures:
        """Return the patches of the pictures to learn from; call it after `divide`.

        The model must be a `PatchDetector` with a single picture size. Its backbone and its precision decide
        the result too.
        """
        assert isinstance(self.model, PatchDetector)
        self.deciding_facts = {
            "backbone": network_digest(self.model.backbone),
            "precision": self.config.precision,
        }
        return PatchFeatures(self.model, self.images, self.max_bytes - self.images.bytes, self.task.step)

    @property
    def digest(self) -> str:
        """SHA-256 of the pictures to learn from and of the region of interest."""
        return sha256(f"{self.images.digest} {_tensor_digest(self.model.roi)}".encode()).hexdigest()

    # ---- training

    def train(
        self,
        trainer: Trainer[B],
        calibrate: Callable[[Sequence[int]], object] | None = None,
        later: Sequence[str] = (),
        **decisive: object,
    ) -> None:
        """Train, and put the number of steps into the model's settings.

        Args:
            trainer: Trains the networks.
            calibrate: Does the work after the training for pictures held out, by their numbers, to measure
                its time. None: `HeldOut.values`.
            later: Settings on which training does not depend, in addition to `POST_TRAINING`.
            decisive: Facts that decide the result, in addition to settings, pictures and seen defects.
        """
        ignored_settings = [*self.config.PATHS, *POST_TRAINING, *REGION_SETTINGS, *later]
        defect_digests = "".join(_defect_digest(seen) for seen in self.task.seen)
        identity = json_settings(asdict(self.config), without=ignored_settings)
        identity["region of interest"] = _tensor_digest(self.model.roi)
        identity["training set"] = self.digest
        identity["seen defects"] = sha256(defect_digests.encode()).hexdigest()
        identity |= self.deciding_facts
        identity |= decisive
        identity["precision while it learns"] = trainer.precision
        trainer.learn(
            self.task.budget, self.checkpoint, identity, partial(self._measure_later_work, calibrate)
        )
        self.model.config = replace(self.config, steps=trainer.steps)

    def _measure_later_work(self, calibrate: Callable[[Sequence[int]], object] | None) -> tuple[float, float]:
        """Do the work after the training for a few pictures, and estimate the time for all.

        Args:
            calibrate: Does the work, as for `train`.

        Returns:
            Seconds of the calibration and of all scoring after it; and seconds to set aside for the check.
        """
        budget = self.task.budget
        held_out_numbers = self.held.numbers
        timed_numbers = held_out_numbers[:TIMED_PICTURES]
        self.held.step = ignore_progress
        start = time.monotonic()
        if calibrate is None:
            self.held.values(self.model, timed_numbers)
        else:
            calibrate(timed_numbers)
        picture_seconds = (time.monotonic() - start) / len(timed_numbers)
        self.held.step = self.task.step
        if self.model.roi.device.type == "cpu":
            # a single thread scored these pictures; later, several threads score a block each
            block_count = -(-len(held_out_numbers) // BATCH)  # rounded up
            picture_seconds /= min(torch.get_num_threads(), block_count)
        max_check_seconds = CHECK_SHARE * 60 * (budget.minutes or 0)
        check_seconds = min(picture_seconds * budget.scored_if_time, max_check_seconds)
        later_seconds = picture_seconds * (len(held_out_numbers) + budget.scored_later)
        return later_seconds, check_seconds

    def finish(
        self,
        trainer: Trainer[B],
        learnt: str = "",
        scored: dict[int, Values] | None = None,
    ) -> Fitted:
        """Return the output of the fit, whose calibration uses the pictures held out.

        Args:
            trainer: The trainer that has trained the model.
            learnt: Text that names the training pictures; empty: their number.
            scored: Values of the pictures for the calibration, by their numbers; None: the values of all
                pictures held out are computed.
        """
        numbers = self.images.numbers
        steps = trainer.steps or 0
        facts: Json = {
            "steps": steps,
            "planned_steps": trainer.planned_steps,
            "minutes": trainer.minutes,
            "training_precision": trainer.precision,
            "curve": trainer.curve,
            "seconds": {"training": round(trainer.seconds, 1)},
        }
        learnt_text = learnt or self.task.pluralize(len(numbers))
        duration = format_duration(trainer.seconds)
        summary = f"trained {pluralize(steps, 'step')} in {duration} on {learnt_text}"
        if trainer.planned_steps is not None:
            plan = pluralize(trainer.planned_steps, "step")
            summary += f"; --minutes {trainer.minutes:g}, by the first steps' time {plan}"
        values = self.held.scored(self.model) if scored is None else scored
        fitted = Fitted(scored=values, used=numbers)
        fitted.facts = {name: value for name, value in facts.items() if value is not None}
        fitted.summary = [summary]
        if steps < SHORT_SHARE * trainer.CPU_STEPS:
            fitted.notes.append(
                f"a short training: {pluralize(steps, 'step')}, where {trainer.CPU_STEPS:,} are the default "
                "on a processor; it may not know the product yet: give more --minutes or --steps"
            )
        return fitted


class PatchFeatures(FeatureCache):
    """Patches of training pictures in fp16, for a method with a single picture size.

    Attributes:
        statistics: Moments of the D numbers, over the counted patches of all pictures.
    """

    def __init__(self, model: PatchDetector, images: GoodPictures, room: int, step: ProgressCallback):
        self.model = model
        (self.branch,) = model.branches
        shape = (model.width, *self.branch.grid)
        super().__init__(images, images.numbers, model.roi.device, shapes=[shape], room=max(0, room))
        (self.statistics,) = self.moments(step, "features")

    def compute(self, images: Tensor) -> list[Tensor]:
        """Return the patches of images `[B, 3, H, W]` as a single map `[B, D, h, w]`."""
        return [self.model.embed(images).mT.unflatten(2, self.branch.grid)]

    def valid_cells(self, places: Sequence[int], images: Tensor) -> list[Tensor]:
        """Return which patches of the images count, `[B, h, w]` bool."""
        valid_mask = self.branch.valid_mask(self.model.inside(images.to(self.device))) > 0
        return [valid_mask.view(-1, *self.branch.grid).expand(len(images), -1, -1)]

    def patches(self, place: int) -> Tensor:
        """Return the patches that count of the picture `images.numbers[place]`: `[K, D]` fp16 on the CPU."""
        (features,) = self[place]
        (valid_mask,) = self.valid_cells([place], self.image(place)[None])
        return features.permute(1, 2, 0)[valid_mask[0].cpu()]


def _tensor_digest(values: Tensor) -> str:
    """Return the SHA-256 (hex) of a tensor's values."""
    return sha256(values.cpu().numpy().tobytes()).hexdigest()


def _defect_digest(defect: SeenDefect) -> str:
    """Return the SHA-256 (hex) of a seen defect's picture and mask."""
    return sha256(defect.image.numpy().tobytes() + defect.mask.tobytes()).hexdigest()
