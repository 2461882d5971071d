"""Distil a teacher: a PDN learns to say in 33 pixels what a backbone says of the place (Batzner et al., 3.1
and A.1).

It is trained on unpadded crops. The detector's PDN is not padded either, and what a padded one learns at the
border it says nowhere else. Crops are aligned with the targets exactly; see `targets`.
"""

from __future__ import annotations

import copy
import math
import os
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flawscope.artefact.state_file import Arrays, checkpoint_of, found_checkpoint, pack
from flawscope.artefact.versions import versions
from flawscope.errors import CheckpointError, FlawscopeError, InputError
from flawscope.features.backbone import Backbone, load_backbone
from flawscope.methods.detector import device_for
from flawscope.methods.efficientad.networks import initialise, narrowed, normalised, pdn
from flawscope.methods.efficientad.recipe import CHANNELS, DEFAULT_STEPS, Recipe
from flawscope.methods.efficientad.targets import SIDE, Pictures, Pool, Source, Target, View, widened
from flawscope.methods.efficientad.teacher import compact, read_teacher, write_teacher
from flawscope.methods.task import EVERY
from flawscope.methods.training import (
    adam_state,
    arrays,
    on_device,
    precision_for,
    rate_share,
    restore_adam,
    restoring,
    tensors_of,
)
from flawscope.progress import Step, duration, silent

FEWEST = 20  # pictures: one of them is held out
MOST_HELD_OUT = 256
SPLIT, ORDER, VIEW, STEP, START = range(5)  # what a random number is for: no two uses share a stream


def distill(
    paths: Sequence[Path],
    recipe: Recipe,
    out: str | os.PathLike[str],
    *,
    weights: str | None = None,
    start: str | os.PathLike[str] | None = None,
    minutes: float | None = None,
    resume: bool = False,
    device: str = "auto",
    every: float = EVERY,
    say: Callable[[str], None] = lambda line: None,
    step: Step = silent,
) -> tuple[dict[str, Any], list[str]]:
    """Make a teacher and write it to `out`.

    A run that is stopped, in whatever way, leaves a checkpoint beside `out` at most `every` seconds old; with
    `resume` it goes on from there to the same result, bit for bit with the same number of threads.

    Args:
        paths: pictures of anything, the more various the better; 20 at least.
        recipe: the settings.
        out: the file to write, .safetensors.
        weights: the backbone's, if they are not at hand: a safetensors file or a checkpoint.
        start: a teacher of the same backbone to begin with, instead of random weights: a few more hours for
            what another run made. Choose a lower `rate` then.
        minutes: the time it may take, from now; the number of steps follows from the first ones' time, and
            is kept when the run is resumed.
        resume: go on where an earlier run stopped; from the start if there was none.
        device: auto, cpu, cuda or mps.
        every: seconds between checkpoints.
        say, step: get lines for a person and progress.

    Returns:
        What stands in the file beside the weights, and one line for every picture that could not be read.

    Raises:
        InputError: too few pictures, no such backbone or weights, or a checkpoint of another run.
        FlawscopeError: the loss is no number any more, or the file cannot be written.
    """
    begun, where = time.monotonic(), device_for(device)
    recipe = replace(recipe, precision=precision_for(recipe.precision, where))
    store = checkpoint_of(out)
    found = found_checkpoint(store, resume)
    backbone, origin = load_backbone(recipe.backbone, recipe.stages, (SIDE, SIDE), weights)
    pictures = Pictures.find(paths, step)
    if len(pictures.paths) < FEWEST:
        unreadable = f" ({len(pictures.failures)} cannot be read)" if pictures.failures else ""
        raise InputError(
            f"{len(pictures.paths)} different pictures{unreadable} are too few to distil a teacher from: "
            f"give {FEWEST} at least, better thousands"
        )
    run = Run(recipe, pictures, backbone, origin, where, say, step)
    if start is not None:
        run.start_from(start)
    if found is None:
        run.begin()
    else:
        run.restore(*found)
    if run.steps is None:
        run.fix_steps(None if minutes is None else begun + 60 * minutes - time.monotonic())
    facts = run.finish(store, out, every)
    return facts, pictures.failures


class Run:
    """One distillation. Every random number comes from the seed and from what it is for, the step's or the
    view's number: so a resumed run needs no generator's state."""

    def __init__(
        self,
        recipe: Recipe,
        pictures: Pictures,
        backbone: Backbone,
        origin: dict[str, str],
        device: torch.device,
        say: Callable[[str], None],
        step: Step,
    ):
        self.recipe, self.pictures, self.origin, self.device = recipe, pictures, origin, device
        self.say, self.step = say, step
        self.dtype = torch.bfloat16 if recipe.precision == "bf16" else torch.float32
        self.target = Target(backbone, recipe.neighbourhood, self.dtype).to(device)
        self.source = Source(pictures, self.target, device)
        order = self.rng(SPLIT).permutation(len(pictures.paths)).tolist()
        count = min(max(1, round(recipe.held_out * len(order))), MOST_HELD_OUT)
        self.kept, self.training = order[:count], order[count:]
        self.net = narrowed(pdn(recipe.size), self.target.channels)
        initialise(self.net, torch.Generator().manual_seed(int(self.rng(START).integers(2**62))))
        on_device(self.net, device)
        self.optimiser = torch.optim.Adam(self.net.parameters(), recipe.rate, weight_decay=recipe.decay)
        self.started_from: str | None = None
        self.steps = None if recipe.steps is None else int(recipe.steps)
        self.done = 0
        self.pool: Pool | None = None
        self.filled = -1  # how often others took the views' place
        self.curve: list[dict[str, float]] = []
        # of losses since the last check; MPS has no float64
        self.total = torch.zeros((), dtype=torch.float64, device="cpu" if device.type == "mps" else device)
        self.since = 0
        self.seconds = 0.0

    def rng(self, purpose: int, *numbers: int) -> np.random.Generator:
        return np.random.default_rng([self.recipe.seed, purpose, *numbers])

    # ---- before the first step

    def start_from(self, path: str | os.PathLike[str]) -> None:
        """Take over a teacher's weights."""
        state, facts = read_teacher(path)
        state, channels = compact(state, facts)
        known = facts["backbone"]
        wanted = (self.recipe.size, self.target.channels, self.origin["name"])
        if (facts["size"], channels, known["name"]) != wanted:
            raise InputError(
                f"{path} is a PDN-{facts['size'].upper()} from {known['name']}: begin with a teacher of the "
                "same size and backbone"
            )
        self.net.load_state_dict(state)
        self.started_from = facts["origin"]

    def begin(self) -> None:
        self.source.measure(self.training[: self.recipe.statistics], self.step)
        self._keep()

    def _keep(self) -> None:
        views = [View.whole(i, self.pictures.sizes[i]) for i in self.kept]
        self.held_out = self.source.pool(views, self.step, "held-out targets")

    def fix_steps(self, seconds: float | None) -> None:
        """As many as fit into `seconds`, by the time that a few of them take; the default number if None."""
        if seconds is None:
            self.steps = DEFAULT_STEPS
            return
        begun = time.perf_counter()
        views = self._views(range(min(2 * self.source.block, len(self.training))))
        pool = self.source.pool(views, self.step)
        per_view = (time.perf_counter() - begun) / len(views)
        net, trial = copy.deepcopy(self.net), []
        optimiser = torch.optim.Adam(net.parameters(), self.recipe.rate)
        for k in range(8):
            start = time.perf_counter()
            self._learn(net, optimiser, pool, self.rng(STEP, k)).item()
            trial.append(time.perf_counter() - start)
        start = time.perf_counter()
        self._measure(self.net, self.held_out)
        checks = self.recipe.checks * (time.perf_counter() - start)
        per_step = statistics.median(trial[2:]) + per_view * self.recipe.batch / self.recipe.reuse
        left = seconds - checks - (time.perf_counter() - begun)
        self.steps = int(left / per_step)
        if self.steps < 1:
            raise InputError("the minutes are over before the first step: give more --minutes, or --steps")
        self.say(f"{self.steps} steps of {per_step:.2f} s fit into the time")

    # ---- training

    def finish(self, store: Path, out: str | os.PathLike[str], every: float) -> dict[str, Any]:
        assert self.steps is not None
        per_view, views, rounds = self._plan()
        self.say(
            f"PDN-{self.recipe.size.upper()}, {self.steps} steps of {self.recipe.batch} crops, "
            f"{len(self.training)} pictures to learn from and {len(self.kept)} held out; "
            f"{views} views at a time, {(views + len(self.kept)) * per_view / 2**30:.2f} GiB"
            + (f", {rounds} times" if rounds > 1 else "")
        )
        first, saved = self.done, time.monotonic()
        self.seconds -= time.monotonic()
        checks = [-(-k * self.steps // self.recipe.checks) for k in range(1, self.recipe.checks + 1)]
        while self.done < self.steps:
            self._refill(views, -(-self.steps // rounds))
            self._set_rate(self.done)
            loss = self._learn(self.net, self.optimiser, self.pool, self.rng(STEP, self.done))
            self.total += loss.to(self.total.device)
            self.done, self.since = self.done + 1, self.since + 1
            if self.done in checks:
                self._check()
            if self.device.type == "cpu" or self.done % 16 == 0 or self.done == self.steps:
                self.step(f"distilling{self._loss()}", self.done - first, self.steps - first)
            if time.monotonic() - saved >= every and self.done < self.steps:
                self._save(store)
                saved = time.monotonic()
        self.seconds += time.monotonic()
        facts = self._write(out)
        with suppress(OSError):
            store.unlink()
        return facts

    def _plan(self) -> tuple[int, int, int]:
        """Bytes of a view, views at a time, and how often others take their place: evenly many each time."""
        assert self.steps is not None
        per_view = Pool.bytes_per_view(self.target.channels)
        most = max(1, int(self.recipe.memory * 2**30) // per_view)
        needed = -(-self.steps * self.recipe.batch // self.recipe.reuse)
        rounds = min(-(-needed // most), self.steps)
        return per_view, min(-(-needed // rounds), most), rounds

    def _refill(self, views: int, steps: int) -> None:
        """The pool of the next step: others take the views' place every so many `steps`."""
        wanted = self.done // steps
        if wanted == self.filled:
            return
        quiet = self.filled >= 0  # a new stage would start the remaining time anew
        self.pool = None  # before the next one is made, not beside it
        self.pool = self.source.pool(
            self._views(range(wanted * views, (wanted + 1) * views)), silent if quiet else self.step
        )
        self.filled = wanted

    def _views(self, numbers: Sequence[int]) -> list[View]:
        """Views number so and so: every picture once, in random order, before any comes again."""
        count = len(self.training)
        orders = {e: self.rng(ORDER, e).permutation(count) for e in sorted({v // count for v in numbers})}
        views = []
        for v in numbers:
            picture = self.training[int(orders[v // count][v % count])]
            views.append(View.drawn(picture, self.pictures.sizes[picture], self.recipe, self.rng(VIEW, v)))
        return views

    def _learn(
        self, net: nn.Module, optimiser: torch.optim.Optimizer, pool: Pool | None, rng: np.random.Generator
    ) -> Tensor:
        assert pool is not None
        pixels, targets = pool.crops(self.recipe.batch, self.recipe.crop, rng)
        loss = F.mse_loss(self._run(net, pixels), targets)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        return loss.detach()

    def _run(self, net: nn.Module, pixels: Tensor) -> Tensor:
        images = normalised(pixels.float() / 255).contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            described: Tensor = net(images)  # [B, C, n, n]
        return described.float()

    def _set_rate(self, step: int) -> None:
        assert self.steps is not None
        share = rate_share(self.recipe.schedule, step, self.steps)
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.rate * share

    # ---- held-out loss

    def _measure(self, net: nn.Module, pool: Pool, widen: Tensor | None = None) -> float:
        """Mean square error over whole pictures."""
        total, block = 0.0, 8
        with torch.no_grad():
            for start in range(0, len(pool.pictures), block):
                targets = pool.targets[start : start + block].float()
                if widen is not None:
                    targets = torch.einsum("oc,bchw->bohw", widen, targets)
                error = self._run(net, pool.pictures[start : start + block]) - targets
                total += float(error.square().mean()) * len(targets)
        return total / len(pool.pictures)

    def _check(self) -> None:
        held_out, training = self._measure(self.net, self.held_out), float(self.total) / self.since
        if not math.isfinite(held_out + training):
            raise FlawscopeError(
                f"the loss is no number any more after {self.done} steps: distil anew with a lower --set rate"
            )
        self.curve.append({"step": self.done, "held_out": held_out, "training": training})
        self.total.zero_()
        self.since = 0
        self.say(f"step {self.done} of {self.steps}: held-out loss {held_out:.4f}, training {training:.4f}")

    def _loss(self) -> str:
        if self.since:
            return f", loss {float(self.total) / self.since:.3f}"
        return f", loss {self.curve[-1]['training']:.3f}" if self.curve else ""

    # ---- files

    def _facts(self) -> dict[str, Any]:
        return {
            "size": self.recipe.size,
            "backbone": {**self.origin, "stages": list(self.recipe.stages)},
            "pictures": {
                "training": len(self.training),
                "held_out": len(self.kept),
                "unreadable": len(self.pictures.failures),
                "sha256": self.pictures.sha256,
            },
            "recipe": asdict(replace(self.recipe, steps=self.steps)),
            "steps": self.done,
            "curve": self.curve,
            "started_from": self.started_from,
            "device": self.device.type,
            "threads": torch.get_num_threads(),
            "versions": versions(),
        }

    def _save(self, path: Path) -> None:
        tensors = {
            **{"target.mean": self.target.mean, "target.std": self.target.std},
            **adam_state(self.net.named_parameters(), self.optimiser),
        }
        spent = self.seconds + time.monotonic()
        rest = {"total": float(self.total), "since": self.since, "seconds": spent}
        pack(path, arrays(tensors), "checkpoint", {**self._facts(), **rest})

    def restore(self, found: Arrays, facts: dict[str, Any]) -> None:
        """Go on from what `_save` wrote, if it belongs to this run."""
        tensors = tensors_of(found)
        with restoring():
            self._same(facts)
            self.target.mean.copy_(tensors["target.mean"])
            self.target.std.copy_(tensors["target.std"])
            restore_adam(self.net.named_parameters(), self.optimiser, tensors)
            self.steps, self.done = int(facts["recipe"]["steps"]), int(facts["steps"])
            self.curve, self.seconds = list(facts["curve"]), float(facts["seconds"])
            self.total.fill_(float(facts["total"]))
            self.since = int(facts["since"])
        self.say(f"goes on after step {self.done} of {self.steps}")
        self._keep()

    def _same(self, facts: dict[str, Any]) -> None:
        """Only the same pictures, weights and settings make the same teacher."""
        asked = asdict(self.recipe)
        for key, value in facts["recipe"].items():
            mine = list(asked[key]) if isinstance(asked[key], tuple) else asked[key]
            if mine != value and not (key == "steps" and mine is None):
                raise CheckpointError(
                    f"the checkpoint is of a run with {key} {value}, this one has {mine}: give the same "
                    "settings, or remove the checkpoint"
                )
        if facts.get("started_from") != self.started_from:
            raise CheckpointError("the checkpoint is of a run with another --start: give the same")
        theirs, mine = facts["backbone"]["origin"], self.origin["origin"]
        if theirs != mine or facts["pictures"]["sha256"] != self.pictures.sha256:
            what = "pictures" if theirs == mine else "weights of the backbone"
            raise CheckpointError(
                f"the checkpoint is of a run with other {what}: give the same, or remove the checkpoint"
            )

    def _write(self, out: str | os.PathLike[str]) -> dict[str, Any]:
        """The teacher in fp16 with 384 outputs, and its loss as it is written."""
        widen = widened(self.target.channels)
        state = {k: v.detach().cpu().contiguous() for k, v in self.net.state_dict().items()}
        last = [k.removesuffix(".weight") for k in state if k.endswith(".weight")][-1]
        state[f"{last}.weight"] = torch.einsum("oc,cikl->oikl", widen, state[f"{last}.weight"])
        state[f"{last}.bias"] = widen @ state[f"{last}.bias"]
        state = {k: v.half() for k, v in state.items()}
        teacher = pdn(self.recipe.size)
        teacher.load_state_dict(state)
        on_device(teacher, self.device)
        facts = {
            **self._facts(),
            "channels": CHANNELS,
            "rank": min(CHANNELS, self.target.channels),
            "loss": self._measure(teacher, self.held_out, widen.to(self.device)),
            "seconds": round(self.seconds, 1),
        }
        write_teacher(out, state, facts)
        self.say(
            f"held-out loss {facts['loss']:.4f} (1 is what the mean picture gets), {duration(self.seconds)}"
        )
        return facts
