"""What a fitted model would miss: simulated defects on good pictures that it has not learnt from."""

from __future__ import annotations

import time

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flawscope.calibration.simulated import Simulated
from flawscope.fitting.unlearnt import Unlearnt
from flawscope.methods.detector import Detector
from flawscope.methods.extract import BATCH, GPU_BATCH, embed_pictures
from flawscope.methods.parts import unpadded
from flawscope.methods.task import Fitted, Task
from flawscope.synthesis import DefectScale, Foreground, simulate_defect

STREAM = 50  # of random numbers
SIZES = tuple(DefectScale)
MOST = 40  # defects of a size
SHARE = 1 / 9  # of the time of the fit until then, so that the check is at most a tenth of it all
MARGIN = 1.25  # what a block may take, in times of the one before
LEARN, TIMES = 8, 3  # pictures that the part is learnt from, and how much longer each takes than finding it
SMALLEST = 16  # pixels a side that a defect needs
Box = tuple[slice, slice]


def finds(model: Detector, fitted: Fitted, task: Task, began: float) -> Simulated | None:
    """Scores of simulated defects on the good pictures that the model was calibrated on: they were held out,
    or are left out once more. None where the method cannot leave out what it has learnt from.

    How many defects there are follows from the time that the first ones take: one of each size at least.

    Args:
        began: when the fit began, on `time.monotonic`'s clock.
    """
    begun = time.monotonic()
    until = begun + SHARE * (begun - began)
    if task.budget.until is not None:
        until = min(until, task.budget.until)
    defects, done, count = _Defects(model, fitted, task), 0, len(SIZES)
    defects.learn_part(until - begun)
    while count:
        start = time.monotonic()
        embed_pictures(model, defects.load, range(done, done + count), defects.store)
        done, now = done + count, time.monotonic()
        took = (now - start) / min(count, BATCH)  # of one, one after the other
        count = _next(int((until - now) / (MARGIN * took)), MOST * len(SIZES) - done, model.roi.device)
        task.step("simulated defects", done, done + count)
    return defects.result(done, time.monotonic() - begun)


def _next(fit: int, left: int, device: torch.device) -> int:
    """How many of the defects that are left come next, if so many fit into the time one after the other:
    evenly many of each size. On a CPU the threads take a batch each, at the same time."""
    if device.type != "cpu":
        fit = min(fit, GPU_BATCH)
    elif fit >= BATCH:
        fit = BATCH * torch.get_num_threads()
    count = max(0, min(fit, left))
    return count - count % len(SIZES)


class _Defects:
    """Defect number so and so: the sizes in turn, then the next picture. Each depends on its number alone."""

    def __init__(self, model: Detector, fitted: Fitted, task: Task):
        self.model, self.task = model, task
        self.answer = Unlearnt(model, fitted, fitted.used, task.groups)
        self.calibration = fitted.calibration
        own = self.calibration.scores[-len(fitted.pictures) :]  # an extended model has the old ones before
        # what would be called anomalous without a defect says nothing
        quiet = [i for i, s in zip(fitted.pictures, own, strict=True) if s < self.calibration.threshold]
        self.seed = model.config.seed
        order = np.random.default_rng([self.seed, STREAM]).permutation(quiet or fitted.pictures)
        self.pictures: list[int] = order.tolist()
        self.part = Foreground()
        self.scores: dict[int, float] = {}

    def learn_part(self, seconds: float) -> None:
        """Where the part is: by what good pictures have in common, if a third of the time is enough to learn
        that, else by each picture alone."""
        begun = time.monotonic()
        shown = [image for image in map(self.task.load, self.pictures[:1]) if image is not None]
        for image in shown:
            self.part.mask(unpadded(image)[0])
        took = time.monotonic() - begun
        alike = self.model.config.tile is None  # tiles show different places
        if alike and len(self.pictures) >= LEARN and LEARN * TIMES * took < seconds / 3:
            shown += [image for image in map(self.task.load, self.pictures[1:LEARN]) if image is not None]
            self.part = Foreground.of(unpadded(image)[0] for image in shown)

    def picture(self, number: int) -> int:
        return self.pictures[number // len(SIZES) % len(self.pictures)]

    def load(self, number: int) -> Tensor | None:
        """[3, H, W] float32 in 0..1, padding marked: exact outside the defect, with 16 bits too."""
        image = self.task.load(self.picture(number))
        if image is None:
            return None
        picture, box = unpadded(image)
        if min(picture.shape[:2]) < SMALLEST:
            return None
        made = simulate_defect(
            picture,
            np.random.default_rng([self.seed, STREAM, number]),
            scale=SIZES[number % len(SIZES)],
            foreground=self._within(picture, image[0, *box] >= 0, box),
        )
        changed = torch.from_numpy(made.picture).permute(2, 0, 1).float() / 255
        shown, part = image.clone(), (slice(None), *box)
        shown[part] = torch.where(torch.from_numpy(made.mask), changed, image[part])
        return shown

    def _within(self, picture: NDArray[np.uint8], shown: Tensor, box: Box) -> NDArray[np.bool_]:
        """Where a defect may lie, [h, w]: on the part where any of it counts, else wherever anything does.
        What is not `shown` [h, w] does not count."""
        counted: NDArray[np.bool_] = self.model.roi.cpu().numpy()[box] & shown.numpy()
        part = self.part.mask(picture) & counted
        return part if part.any() else counted

    def store(self, number: int, features: Tensor, inside: Tensor | None) -> None:
        picture, positions = self.picture(number), self.task.positions
        position = positions[picture] if len(positions) else 0
        found = self.answer(picture, features, inside, position=position)
        if found is not None:
            # NaN is anomalous, and unknown to JSON
            self.scores[number] = float(found[0][0].nan_to_num(torch.finfo(torch.float32).max))

    def result(self, count: int, seconds: float) -> Simulated | None:
        """Of the first `count`, evenly many of each size; less those whose picture can no longer be read."""
        numbers = sorted(n for n in self.scores if n < count)
        by_size = {
            str(size): tuple(self.scores[n] for n in numbers if n % len(SIZES) == k)
            for k, size in enumerate(SIZES)
        }
        if not all(by_size.values()):
            return None
        return Simulated(
            by_size,
            pictures=len({self.picture(n) for n in numbers}),
            seconds=seconds,
            rate=self.calibration.effective_rate,
            threshold=self.calibration.threshold,
            precision=self.calibration.precision,
        )
