"""Training the student and the autoencoder (Batzner, Heckler and König, EfficientAD, 3.2, 3.3 and A.1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flawscope.methods import training
from flawscope.methods.efficientad.config import PAPER_STEPS, Config
from flawscope.methods.efficientad.model import Model, bordered
from flawscope.methods.efficientad.networks import normalised
from flawscope.methods.efficientad.recipe import RECEPTIVE_FIELD, STRIDE
from flawscope.methods.efficientad.targets import outputs_of
from flawscope.methods.efficientad.training_pictures import Other, TeacherOutputs, recoloured
from flawscope.methods.picture_cache import GoodPictures
from flawscope.methods.task import Task

FIRST_WEIGHTS, ORDER, STEP, DROPOUT = range(10, 14)  # RNG streams, one for each purpose


@dataclass
class Batch:
    """What a step learns from."""

    images: Tensor  # [B, 3, H, W] float32 in 0..1
    recoloured: Tensor  # the same in other colours
    taught: Tensor  # [B, C, n, m] fp16: the teacher's outputs on the windows, not standardised
    other: Tensor | None  # [B, 3, h, w] uint8, of the window's size
    cells: list[tuple[int, int]]  # where each window begins, in outputs
    counted: Tensor | None  # [B, n, m] bool: the outputs that count; None: all of them


class Trainer(training.Trainer[Batch]):
    """The student and the autoencoder learn together."""

    NETWORKS = ("student", "autoencoder")
    LOSSES = ("hard", "penalty", "autoencoder", "student_autoencoder")
    CPU_STEPS, GPU_STEPS = 6000, PAPER_STEPS

    def __init__(
        self, model: Model, images: GoodPictures, taught: TeacherOutputs, other: Other | None, task: Task
    ):
        self.model, self.images, self.taught, self.other = model, images, taught, other
        self.config, self.training = model.config, taught.training
        self.window = _window(self.config, model.grid)  # cells
        super().__init__(
            (model.student, model.autoencoder), model.config, model.mean.device, task.say, task.step
        )
        self.initialise(FIRST_WEIGHTS)

    # ---- a step

    def batch(self, step: int) -> Batch:
        """Step number so and so: every picture once, in random order, before any comes again."""
        rng, count = self.rng(STEP, step), len(self.training)
        images, changed, taught, other, cells, counted = [], [], [], [], [], []
        for number in range(step * self.config.batch, (step + 1) * self.config.batch):
            order = self.rng(ORDER, number // count).permutation(count)
            index = self.training[int(order[number % count])]
            image, mask = self.model.filled(self.images[index]), self.taught.counted(index)
            y, x = self._place(mask, rng)
            window = (slice(y, y + self.window[0]), slice(x, x + self.window[1]))
            images.append(image)
            changed.append(recoloured(image, int(rng.integers(3)), float(rng.uniform(0.8, 1.2))))
            taught.append(self.taught[index][:, *window])
            cells.append((y, x))
            if mask is not None:
                counted.append(mask[window])
            if self.other is not None:
                other.append(torch.from_numpy(self.other.draw(self._pixels(), rng)).permute(2, 0, 1))
        return Batch(
            torch.stack(images),
            torch.stack(changed),
            torch.stack(taught),
            torch.stack(other) if other else None,
            cells,
            torch.stack(counted) if counted else None,
        )

    def _place(self, counted: Tensor | None, rng: np.random.Generator) -> tuple[int, int]:
        """Where a window begins: one of those in which something counts."""
        ys, xs = (_starts(n, m) for n, m in zip(self.model.grid, self.window, strict=True))
        if counted is None:
            return ys[int(rng.integers(len(ys)))], xs[int(rng.integers(len(xs)))]
        height, width = self.window
        places = [(y, x) for y in ys for x in xs if counted[y : y + height, x : x + width].any()]
        return places[int(rng.integers(len(places)))]

    def _pixels(self) -> tuple[int, int]:
        """(H, W) of a window."""
        height, width = (RECEPTIVE_FIELD + STRIDE * (n - 1) for n in self.window)
        return height, width

    def _cut(self, images: Tensor, cells: list[tuple[int, int]]) -> Tensor:
        """The windows `[B, 3, h, w]` of pictures [B, 3, H, W], as the PDNs see them."""
        seen = bordered(images, self.config.border)
        height, width = self._pixels()
        parts = [
            image[:, STRIDE * y : STRIDE * y + height, STRIDE * x : STRIDE * x + width]
            for image, (y, x) in zip(seen, cells, strict=True)
        ]
        return torch.stack(parts)

    def losses(self, networks: Sequence[nn.Module], batch: Batch, step: int) -> list[Tensor]:
        """The hard-feature loss, the penalty, the autoencoder's loss, and the student's against it."""
        student, autoencoder = networks
        channels, count = self.model.channels, len(batch.images)
        images = normalised(batch.images.to(self.device))
        changed = normalised(batch.recoloured.to(self.device))
        windows, changed_windows = (self._cut(part, batch.cells) for part in (images, changed))
        seen = [windows]
        if batch.other is not None:
            seen.append(normalised(batch.other.to(self.device).float() / 255))
        together = torch.cat([*seen, changed_windows]).contiguous(memory_format=torch.channels_last)
        with self.autocast():
            with torch.no_grad():
                changed_taught = self.model.teacher(together[-count:])
            # the last layer's two halves are needed of different pictures
            *body, last = cast(nn.Sequential, student)
            assert isinstance(last, nn.Conv2d)
            assert last.bias is not None
            described = together
            for layer in body:
                described = layer(described)
            first = F.conv2d(described[:-count], last.weight[:channels], last.bias[:channels])
            second = F.conv2d(described[-count:], last.weight[channels:], last.bias[channels:])
            rebuilt = self._rebuilt(autoencoder, changed, step)
        standardised = self.model.standardised
        taught = standardised(batch.taught.to(self.device).float())
        counted = None if batch.counted is None else batch.counted.to(self.device)
        hard = _hardest(_where((taught - first[:count].float()).square(), counted), self.config.hard)
        penalty = first[count:].float().square().mean() if batch.other is not None else hard.new_zeros(())
        height, width = self.window
        rebuilt = torch.stack(
            [one[:, y : y + height, x : x + width] for one, (y, x) in zip(rebuilt, batch.cells, strict=True)]
        ).float()
        goals = _where(rebuilt, counted)
        of_autoencoder = F.mse_loss(goals, _where(standardised(changed_taught.float()), counted))
        # which the autoencoder feels too, as published
        of_student = F.mse_loss(_where(second.float(), counted), goals)
        return [hard, penalty, of_autoencoder, of_student]

    def _rebuilt(self, autoencoder: nn.Module, images: Tensor, step: int) -> Tensor:
        """With a dropout that depends on the step alone."""
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(self.torch_seed(DROPOUT, step))
            rebuilt: Tensor = autoencoder(images.contiguous(memory_format=torch.channels_last))
        return rebuilt


def _window(config: Config, grid: tuple[int, int]) -> tuple[int, int]:
    """(h, w) in outputs of what a step learns from."""
    if config.window is None:
        return grid
    most = outputs_of(config.window)
    return min(most, grid[0]), min(most, grid[1])


def _starts(cells: int, window: int) -> list[int]:
    """Where windows begin so that they cover all the cells evenly: a PDN does not care where it looks, so
    that more places would only make the outer cells rarer."""
    count = -(-cells // window)
    if count == 1:
        return [0]
    return [round(k * (cells - window) / (count - 1)) for k in range(count)]


def _where(values: Tensor, counted: Tensor | None) -> Tensor:
    """The values [B, C, h, w] where they count ([B, h, w] bool): [N, C]."""
    return values if counted is None else values.permute(0, 2, 3, 1)[counted]


def _hardest(squares: Tensor, share: float) -> Tensor:
    """The mean of the values at or above their `share`-quantile (3.2), which no limit of elements stops."""
    values = squares.flatten()
    count = values.numel() - math.ceil(share * (values.numel() - 1))
    return values.topk(max(1, count), sorted=False).values.mean()
