"""Training the student and the autoencoder (Batzner, Heckler and König, EfficientAD, 3.2, 3.3 and A.1)."""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flawscope.efficientad.config import PAPER_STEPS, Config
from flawscope.efficientad.model import Model, bordered
from flawscope.efficientad.networks import initialise, normalised
from flawscope.efficientad.pictures import GoodPictures, Other, Taught, recoloured
from flawscope.efficientad.recipe import RECEPTIVE_FIELD, STRIDE
from flawscope.efficientad.targets import outputs_of
from flawscope.efficientad.teacher import pack
from flawscope.efficientad.training import adam_state, precision_for, rate_share, restore_adam
from flawscope.errors import FlawscopeError, InputError
from flawscope.progress import Step, duration

CPU_STEPS = 6000
CHECKS = 20  # points of the loss curve
TRIALS = 8  # steps that are timed before the first
FIRST_WEIGHTS, ORDER, STEP, DROPOUT = range(10, 14)  # what a random number is for: no two share a stream
LOSSES = ("hard", "penalty", "autoencoder", "student_autoencoder")


@dataclass
class Batch:
    """What a step learns from."""

    images: Tensor  # [B, 3, H, W] float32 in 0..1
    recoloured: Tensor  # the same in other colours
    taught: Tensor  # [B, C, n, m] fp16: what the teacher says of the windows, not standardised
    other: Tensor | None  # [B, 3, h, w] uint8, of the window's size
    cells: list[tuple[int, int]]  # where each window begins, in outputs


class Trainer:
    """One training. Every random number comes from the seed and from what it is for, such as a step's number:
    so a resumed run needs no generator's state."""

    def __init__(
        self,
        model: Model,
        images: GoodPictures,
        taught: Taught,
        other: Other | None,
        say: Callable[[str], None],
        step: Step,
    ):
        self.model, self.images, self.taught, self.other = model, images, taught, other
        self.config, self.training, self.device = model.config, taught.training, model.mean.device
        self.say, self.step = say, step
        self.dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
        self.window = _window(self.config, model.grid)  # cells
        generator = torch.Generator().manual_seed(int(self.rng(FIRST_WEIGHTS).integers(2**62)))
        for network in self.networks:
            initialise(network, generator)
        self.optimiser = self._adam(self.networks)
        self.steps = self.config.steps
        self.done, self.seconds = 0, 0.0
        self.curve: list[dict[str, float]] = []
        self.total = torch.zeros(len(LOSSES), device=self.device)  # since the last check
        self.since = 0

    @property
    def precision(self) -> str:
        return precision_for(self.config.training, self.device)

    @property
    def networks(self) -> tuple[nn.Module, nn.Module]:
        return self.model.student, self.model.autoencoder

    def rng(self, purpose: int, *numbers: int) -> np.random.Generator:
        return np.random.default_rng([self.config.seed, purpose, *numbers])

    def _adam(self, networks: Sequence[nn.Module]) -> torch.optim.Optimizer:
        values = [v for network in networks for v in network.parameters()]
        fused = self.device.type in ("cpu", "cuda")
        return torch.optim.Adam(values, self.config.rate, weight_decay=self.config.decay, fused=fused)

    def _parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        names = ("student", "autoencoder")
        for name, network in zip(names, self.networks, strict=True):
            for key, values in network.named_parameters():
                yield f"{name}.{key}", values

    # ---- how many steps

    def fix_steps(self, seconds: float | None) -> None:
        """As many as fit into `seconds`, by the time that a few of them take; the device's
        default if None."""
        begun = time.perf_counter()
        per_step = self._trial()
        if seconds is None:
            self.steps = CPU_STEPS if self.device.type == "cpu" else PAPER_STEPS
        else:
            self.steps = int((seconds - (time.perf_counter() - begun)) / per_step)
        if self.steps < 1:
            raise InputError("the minutes are over before the first step: give more --minutes, or --steps")
        self.say(f"{self.steps} steps of {per_step:.2f} s: about {duration(self.steps * per_step)}")

    def _trial(self) -> float:
        """Seconds of a step, by a few on copies of the networks."""
        networks = copy.deepcopy(self.networks)
        optimiser, trial = self._adam(networks), []
        for k in range(TRIALS):
            start = time.perf_counter()
            self._learn(networks, optimiser, self.batch(k), k).sum().item()
            trial.append(time.perf_counter() - start)
        return statistics.median(trial[2:])

    # ---- training

    def run(self, checkpoint: Path | None, every: float, identity: dict[str, Any]) -> None:
        """Go on from step `done` to the last one."""
        assert self.steps is not None
        first, begun, saved = self.done, time.monotonic(), time.monotonic()
        self.seconds -= begun
        checks = {-(-k * self.steps // CHECKS) for k in range(1, CHECKS + 1)}
        for network in self.networks:
            network.train()
        with ThreadPoolExecutor(1) as ahead:
            waiting = ahead.submit(self.batch, self.done)
            while self.done < self.steps:
                batch = waiting.result()
                if self.done + 1 < self.steps:
                    waiting = ahead.submit(self.batch, self.done + 1)
                for group in self.optimiser.param_groups:
                    share = rate_share(self.config.schedule, self.done, self.steps)
                    group["lr"] = self.config.rate * share
                self.total += self._learn(self.networks, self.optimiser, batch, self.done)
                self.done, self.since = self.done + 1, self.since + 1
                if self.done in checks:
                    self._check()
                if self.device.type == "cpu" or self.done % 64 == 0 or self.done == self.steps:
                    self.step(f"training{self._loss()}", self.done - first, self.steps - first)
                if checkpoint and time.monotonic() - saved >= every and self.done < self.steps:
                    self.save(checkpoint, identity)
                    saved = time.monotonic()
        for network in self.networks:
            network.eval()
        self.seconds += time.monotonic()

    def batch(self, step: int) -> Batch:
        """Step number so and so: every picture once, in random order, before any comes again."""
        rng, count = self.rng(STEP, step), len(self.training)
        images, changed, taught, other, cells = [], [], [], [], []
        for number in range(step * self.config.batch, (step + 1) * self.config.batch):
            order = self.rng(ORDER, number // count).permutation(count)
            index = self.training[int(order[number % count])]
            image = self.images[index]
            y, x = (
                starts[int(rng.integers(len(starts)))]
                for starts in (_starts(n, m) for n, m in zip(self.model.grid, self.window, strict=True))
            )
            images.append(image)
            changed.append(recoloured(image, int(rng.integers(3)), float(rng.uniform(0.8, 1.2))))
            taught.append(self.taught[index][:, y : y + self.window[0], x : x + self.window[1]])
            cells.append((y, x))
            if self.other is not None:
                other.append(torch.from_numpy(self.other.draw(self._pixels(), rng)).permute(2, 0, 1))
        return Batch(
            torch.stack(images),
            torch.stack(changed),
            torch.stack(taught),
            torch.stack(other) if other else None,
            cells,
        )

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

    def _learn(
        self, networks: Sequence[nn.Module], optimiser: torch.optim.Optimizer, batch: Batch, step: int
    ) -> Tensor:
        """One step; its four losses [4]."""
        losses = torch.stack(self.losses(networks, batch, step))
        optimiser.zero_grad(set_to_none=True)
        losses.sum().backward()
        optimiser.step()
        return losses.detach()

    def losses(self, networks: Sequence[nn.Module], batch: Batch, step: int) -> list[Tensor]:
        """The hard-feature loss, the penalty, the autoencoder's loss, and the student's against it: each
        enters with the same weight."""
        student, autoencoder = networks
        channels, count = self.model.channels, len(batch.images)
        images = normalised(batch.images.to(self.device))
        changed = normalised(batch.recoloured.to(self.device))
        windows, changed_windows = (self._cut(part, batch.cells) for part in (images, changed))
        seen = [windows]
        if batch.other is not None:
            seen.append(normalised(batch.other.to(self.device).float() / 255))
        together = torch.cat([*seen, changed_windows]).contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16):
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
        hard = _hardest((taught - first[:count].float()).square(), self.config.hard)
        penalty = first[count:].float().square().mean() if batch.other is not None else hard.new_zeros(())
        height, width = self.window
        rebuilt = torch.stack(
            [one[:, y : y + height, x : x + width] for one, (y, x) in zip(rebuilt, batch.cells, strict=True)]
        ).float()
        of_autoencoder = F.mse_loss(rebuilt, standardised(changed_taught.float()))
        of_student = F.mse_loss(second.float(), rebuilt)  # which the autoencoder feels too, as published
        return [hard, penalty, of_autoencoder, of_student]

    def _rebuilt(self, autoencoder: nn.Module, images: Tensor, step: int) -> Tensor:
        """Its dropout depends on the step alone, and on nobody else's random numbers."""
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(int(self.rng(DROPOUT, step).integers(2**62)))
            rebuilt: Tensor = autoencoder(images.contiguous(memory_format=torch.channels_last))
        return rebuilt

    def _check(self) -> None:
        means = (self.total / self.since).tolist()
        if not all(map(math.isfinite, means)):
            raise FlawscopeError(
                f"the loss is no number any more after {self.done} steps: fit anew with a lower --set rate"
            )
        self.curve.append({"step": self.done, **dict(zip(LOSSES, means, strict=True))})
        self.total.zero_()
        self.since = 0

    def _loss(self) -> str:
        if self.device.type == "cpu" and self.since:
            return f", loss {float(self.total.sum()) / self.since:.3f}"
        return f", loss {sum(self.curve[-1][k] for k in LOSSES):.3f}" if self.curve else ""

    # ---- checkpoints

    def save(self, path: Path, identity: dict[str, Any]) -> None:
        facts = {
            "identity": identity,
            "steps": self.steps,
            "done": self.done,
            "since": self.since,
            "total": self.total.tolist(),
            "curve": self.curve,
            "seconds": self.seconds + time.monotonic(),
        }
        pack(path, adam_state(self._parameters(), self.optimiser), "checkpoint", facts)

    def restore(self, tensors: dict[str, Tensor], facts: dict[str, Any], identity: dict[str, Any]) -> None:
        """Go on from what `save` wrote, if it belongs to this run."""
        try:
            theirs = dict(facts["identity"])
            for key, mine in identity.items():
                if theirs.get(key) != mine and not (key == "steps" and mine is None):
                    shown = "" if len(str(mine)) > 60 else f" {theirs.get(key)}, this one has {mine}"
                    raise InputError(
                        f"the checkpoint is of a run with another {key}{shown}: give the same, or remove the "
                        "checkpoint"
                    )
            restore_adam(self._parameters(), self.optimiser, tensors)
            self.steps, self.done, self.since = int(facts["steps"]), int(facts["done"]), int(facts["since"])
            self.total.copy_(torch.tensor(facts["total"]))
            self.curve, self.seconds = list(facts["curve"]), float(facts["seconds"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                "the checkpoint does not fit this version of flawscope: remove it and begin anew"
            ) from None


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


def _hardest(squares: Tensor, share: float) -> Tensor:
    """The mean of the values at or above their `share`-quantile (3.2), which no limit of elements stops."""
    values = squares.flatten()
    count = values.numel() - math.ceil(share * (values.numel() - 1))
    return values.topk(max(1, count), sorted=False).values.mean()
