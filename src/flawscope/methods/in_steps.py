"""Fits of methods that learn in steps: pictures held out, training, calibration by those pictures."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor

from flawscope.artefact.state_file import found_checkpoint
from flawscope.calibration.decision import Calibration, from_values
from flawscope.calibration.hold_out import hold_out
from flawscope.errors import InputError
from flawscope.methods.detector import Detector
from flawscope.methods.extract import BATCH, Store, counting, embed_pictures
from flawscope.methods.picture_cache import GoodPictures
from flawscope.methods.settings import TrainingSettings
from flawscope.methods.task import Task
from flawscope.methods.training import Trainer, arrays, as_json, tensors_of
from flawscope.progress import counted, duration, silent

CHECK = 0.1  # share of the minutes that is set aside for the check, at most
REHEARSED = 2  # pictures by which the time of what comes after the training is measured
FEW = 0.25  # share of a processor's default number of steps below which a training is short
LATER = ("held_out", "memory", "precision")  # settings that training does not depend on
Values = tuple[float, float, float]  # a picture's score, its map's maximum and median


class Run:
    """One fit. Nothing that can be refused at once waits for the pictures: make it first.

    Attributes:
        images: the good pictures.
        used: numbers of those that can be used, after `divide`.
    """

    used: list[int]

    def __init__(self, method: str, model: Detector, task: Task):
        self.method, self.model, self.task = method, model, task
        self.step = task.step
        self.found = found_checkpoint(task.budget.checkpoint, task.budget.resume, task.say)
        assert isinstance(model.config, TrainingSettings)
        self.config: TrainingSettings = model.config
        self.room = int(self.config.memory * 2**30)  # bytes
        self.region = model.roi.cpu()
        self.images = GoodPictures(self._load, task.count, self.room // 2)

    def _load(self, index: int) -> Tensor | None:
        image = self.task.load(index)
        return counting(image, self.region) if self.config.pads else image

    def divide(self, more: int = 0) -> list[list[int]]:
        """Read the pictures; gives those to hold out, as `hold_out` does."""
        task = self.task
        self.used = task.settle(self.images.read(task.step))
        return hold_out(
            self.used,
            [task.groups[i] for i in self.used],
            share=self.config.held_out,
            rate=task.rate,
            seed=self.config.seed,
            method=self.method,
            reserved=task.reserved,
            more=more,
            views=task.views,
        )

    def without(self, held: Iterable[int]) -> list[int]:
        """The pictures to learn from."""
        left_out = {*held}
        return [i for i in self.used if i not in left_out]

    # ---- training

    def train(
        self,
        trainer: Trainer[Any],
        held: Sequence[int],
        calibrate: Callable[[Sequence[int]], object],
        later: Sequence[str] = (),
        **decisive: Any,
    ) -> None:
        """Train, and put the number of steps into the model's settings. Of several processes the first goes
        on from here, and `Left` is raised in the others.

        Args:
            held: pictures that are held out.
            calibrate: what comes after the training, by pictures of these; it may be done more than once.
            later: settings that training does not depend on, beside `LATER`.
            decisive: what decides the result beside the settings.
        """
        identity = {
            **as_json(asdict(self.config), without=(*self.config.PATHS, *LATER, *later)),
            "region of interest": sha256(self.region.numpy().tobytes()).hexdigest(),
            **decisive,
            "precision while it learns": trainer.precision,
        }
        together = self.task.budget.together
        if together.world > 1:  # what was measured may differ in the last digits
            state = together.first(lambda: arrays(self.model.state_dict()))
            self.model.load_state_dict(tensors_of(state))
        trainer.learn(self.task.budget, self.found, identity, lambda: self._rehearse(held, calibrate))
        together.leave()
        self.model.config = replace(self.config, steps=trainer.steps)

    def _rehearse(
        self, held: Sequence[int], calibrate: Callable[[Sequence[int]], object]
    ) -> tuple[float, float]:
        """Seconds that what comes after the training takes, by doing it for a few pictures; and those set
        aside for the check."""
        budget, self.step = self.task.budget, silent
        some = held[:REHEARSED]
        begun = time.monotonic()
        calibrate(some)
        each = (time.monotonic() - begun) / len(some)
        if self.model.roi.device.type == "cpu":  # these few are one thread's
            each /= min(torch.get_num_threads(), -(-len(held) // BATCH))
        self.step = self.task.step
        check = min(each * budget.checked, CHECK * 60 * (budget.minutes or 0))
        return each * (len(held) + budget.later), check

    def facts(self, trainer: Trainer) -> dict[str, Any]:
        """For the manifest."""
        planned = {} if trainer.planned is None else {"planned_steps": trainer.planned}
        world = trainer.together.world
        return {
            "steps": trainer.steps,
            **planned,
            **({} if world == 1 else {"workers": world}),
            **({} if trainer.minutes is None else {"minutes": trainer.minutes}),
            "training_precision": trainer.precision,
            "curve": trainer.curve,
            "training_curve": trainer.log.thinned.to_dict(),
            "seconds": {"training": round(trainer.seconds, 1)},
        }

    def warnings(self, trainer: Trainer[Any]) -> list[str]:
        """Notes for the model: whether the training was short."""
        assert trainer.steps is not None
        if trainer.steps >= FEW * trainer.CPU_STEPS:
            return []
        return [
            f"a short training: {counted(trainer.steps, 'step')}, where {trainer.CPU_STEPS:,} are the "
            "default on a processor; it may not know the product yet: give more --minutes or --steps"
        ]

    def summary(self, trainer: Trainer, learnt: str) -> str:
        text = f"trained {counted(trainer.steps or 0, 'step')} in {duration(trainer.seconds)} on {learnt}"
        if trainer.planned is None:
            return text
        planned = counted(trainer.planned, "step")
        return f"{text}; --minutes {trainer.minutes:g}, by the first steps' time {planned}"

    # ---- calibration by pictures that were held out

    def embed(self, held: Sequence[int], store: Store) -> None:
        """The pictures' features. InputError where they overflow in the model's precision."""

        def checked(index: int, features: Tensor, inside: Tensor | None) -> None:
            if not bool(features.isfinite().all()):
                raise InputError(
                    f"the networks overflow in {self.config.precision}: choose another --set precision, or "
                    "other pretrained weights"
                )
            store(index, features, inside)

        embed_pictures(self.model, self.images.__getitem__, held, checked, self.step, "calibration")

    def values(self, features: Tensor, inside: Tensor | None) -> Values:
        """Of one picture's features; its median is that of the pixels that count."""
        scores, maps = self.model.score(features[None], None if inside is None else inside[None])
        counted = maps[0][self.model.roi if inside is None else inside]
        return float(scores[0]), float(maps.max()), float(counted.median())

    def calibrated(self, values: Sequence[Values]) -> Calibration:
        return from_values(
            *zip(*values, strict=True),
            rate=self.task.rate,
            method="held out",
            precision=self.config.precision,
        )
