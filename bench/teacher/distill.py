"""Distil a teacher: a PDN learns to predict from 33 pixels a backbone's features at their place (Batzner et
al., 3.1 and A.1).

The PDN is trained on unpadded crops, since the detector's PDN is not padded either. Crops are aligned with
the targets exactly; see `targets`.

    python bench/teacher/distill.py --images FOLDER --minutes 46 --out teacher.safetensors
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from targets import BACKBONE_SIDE, PDN_SIDE, PictureSet, PictureView, Renderer, TargetFeatures, ViewPool
from torch import Tensor, nn

from flawscope.artefact.files import checkpoint_path
from flawscope.artefact.model_file import package_versions
from flawscope.config import build_config, parse_assignments
from flawscope.datasets import list_pictures
from flawscope.errors import FlawscopeError, InputError, pluralize
from flawscope.methods.detector import resolve_device
from flawscope.methods.features.backbone import Backbone, load_backbone
from flawscope.methods.features.weights import DEFAULT_BACKBONE
from flawscope.methods.settings import Rule, check_rules, training_rules
from flawscope.methods.task import CHECKPOINT_INTERVAL, Budget
from flawscope.methods.training.efficientad.networks import (
    compact_teacher,
    expand_teacher,
    expansion_matrix,
    normalise,
    pdn,
    read_teacher,
    replace_last_layer,
    write_teacher,
)
from flawscope.methods.training.efficientad.record import CHANNELS, RECEPTIVE_FIELD, WIDTHS, Size
from flawscope.methods.training.state import json_settings, pick_precision
from flawscope.methods.training.state_file import load_checkpoint
from flawscope.methods.training.trainer import Trainer
from flawscope.progress import ProgressCallback, format_duration, ignore_progress

DEFAULT_STEPS = 6000
MIN_PICTURES = 20  # pictures: one of them is held out
MAX_HELD_OUT = 256
SPLIT, ORDER, VIEW, STEP, START = range(5)  # RNG streams, one for each purpose


@dataclass(frozen=True)
class Recipe:
    """Settings of a teacher. Section numbers are those of Batzner et al., EfficientAD (WACV 2024)."""

    size: Size = "s"
    width: int | None = None  # channels of the first layer, half of those that follow; None: the size's
    backbone: str = DEFAULT_BACKBONE
    stages: tuple[int, ...] = (2, 3)  # strides 8 and 16, as PatchCore's
    neighbourhood: int = 3  # patches of p x p features are averaged, as PatchCore's
    steps: int | None = None  # None: DEFAULT_STEPS, or what --minutes allows
    batch: int = 8
    crop: int = 157  # pixels a side, 32 x 32 outputs; without padding every output counts in full
    rate: float = 1e-3  # Adam's largest learning rate
    schedule: Literal["one_cycle", "constant"] = "one_cycle"
    decay: float = 1e-5  # Adam's weight decay
    grey: float = 0.1  # probability that a picture loses its colours (A.1)
    zoom: float = 0.7  # a view shows at least this share of each side of the picture
    flip: bool = True  # half of the views are mirrored
    reuse: int = 16  # crops cut from a view before it is replaced
    memory: float = 2.0  # GiB of views kept at a time
    statistics: int = 10_000  # pictures for the targets' mean and spread, at most
    held_out: float = 0.05  # share of pictures never trained on
    checks: int = 20  # measurements of the held-out loss, evenly spaced
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        check_rules((*training_rules(self), *self.rules()))

    def rules(self) -> Iterable[Rule]:
        most = WIDTHS[self.size]
        yield self.width is None or 1 <= self.width <= most, f"width must be between 1 and {most} channels"
        yield bool(self.stages) and min(self.stages) >= 0, "stages must be feature indices such as 2,3"
        odd = self.neighbourhood >= 1 and self.neighbourhood % 2 == 1
        yield odd, "neighbourhood must be odd: 1, 3, 5"
        fits = RECEPTIVE_FIELD <= self.crop <= PDN_SIDE
        yield fits, f"crop must be between {RECEPTIVE_FIELD} and {PDN_SIDE} pixels"
        yield 0 <= self.grey <= 1, "grey must be a probability"
        yield 0.1 <= self.zoom <= 1, "zoom must be between 0.1 and 1"
        yield self.reuse >= 1, "reuse must be at least 1"
        yield 0.01 <= self.memory <= 4096, "memory must be a number of GiB, 0.01 at least"
        yield self.statistics >= 1, "statistics must be at least 1"
        yield self.checks >= 1, "checks must be at least 1"
        yield self.seed >= 0, "seed must be at least 0"

    @property
    def training(self) -> Literal["auto", "fp32", "bf16"]:
        """The setting `precision` under the name that other methods' settings have."""
        return self.precision


RECIPES: dict[str, dict[str, Any]] = {
    # for a CPU, measured with EfficientNet-Lite0 on 1,000 photographs
    "default": {},
    # 3.1 and A.1, on ImageNet: whole pictures, each seen once before the next ones. Unpadded all the same
    "paper": {
        "backbone": "wide_resnet101_2",
        "steps": 60_000,
        "batch": 16,
        "crop": PDN_SIDE,
        "rate": 1e-4,
        "schedule": "constant",
        "zoom": 1.0,
        "flip": False,
        "reuse": 1,
    },
}


def make_recipe(preset: str, values: Mapping[str, Any]) -> Recipe:
    """Settings of the preset, then `values`. InputError names what is wrong."""
    if preset not in RECIPES:
        raise InputError(f"there is no preset {preset}: choose of {', '.join(RECIPES)}")
    return build_config(Recipe, {**RECIPES[preset], **values})


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
    every: float = CHECKPOINT_INTERVAL,
    say: Callable[[str], None] = lambda line: None,
    step: ProgressCallback = ignore_progress,
) -> tuple[dict[str, Any], list[str]]:
    """Make a teacher and write it to `out`.

    A run that is stopped, in whatever way, leaves a checkpoint beside `out` at most `every` seconds old; with
    `resume` it goes on from there to the same result, bit for bit with the same number of threads.

    Args:
        paths: pictures of anything, the more various the better; 20 at least.
        recipe: the settings.
        out: the file to write, .safetensors.
        weights: of the backbone, a safetensors file or a checkpoint; None: those at hand (`locate`).
        start: a teacher of the same size and backbone to begin with, instead of random weights. Choose a
            lower `rate` then.
        minutes: the time it may take, from now. A resumed run learns for the time that it had left.
        resume: go on where an earlier run stopped; from the start if there was none.
        device: auto, cpu, cuda or mps.
        every: seconds between checkpoints.
        say, step: get lines for a person and progress.

    Returns:
        The facts in the file beside the weights, and one line for every picture that could not be read.

    Raises:
        InputError: too few pictures, no such backbone or weights, or a checkpoint of another run.
        FlawscopeError: NaN loss, or the file cannot be written.
    """
    where = resolve_device(device)
    recipe = replace(recipe, precision=pick_precision(recipe.precision, where))
    store = checkpoint_path(out)
    budget = Budget(minutes, store, resume, every)
    found = load_checkpoint(store, resume, say)
    backbone, origin = load_backbone(recipe.backbone, recipe.stages, (BACKBONE_SIDE, BACKBONE_SIDE), weights)
    pictures = PictureSet.read(paths, step)
    if len(pictures.paths) < MIN_PICTURES:
        unreadable = f" ({len(pictures.failures)} cannot be read)" if pictures.failures else ""
        raise InputError(
            f"{pluralize(len(pictures.paths), 'different picture')}{unreadable}, too few to distil a teacher "
            f"from: give {MIN_PICTURES} at least, better thousands"
        )
    run = Distillation(recipe, pictures, backbone, origin, where, say=say, step=step)
    if start is not None:
        run.start_from(start)
    run.learn(budget, found, run.identity())
    facts = run.write(out)
    with suppress(OSError):
        store.unlink()
    return facts, pictures.failures


class Distillation(Trainer[tuple[Tensor, Tensor]]):
    """Trains a PDN on crops [B, 3, crop, crop] uint8 and their targets [B, C, n, n]."""

    NETWORKS, LOSSES, MEASUREMENTS = ("pdn",), ("training",), ("held_out",)
    CPU_STEPS = GPU_STEPS = DEFAULT_STEPS
    FUSED_ADAM = False
    STAGE = "distilling"

    def __init__(
        self,
        recipe: Recipe,
        pictures: PictureSet,
        backbone: Backbone,
        origin: dict[str, str],
        device: torch.device,
        *,
        say: Callable[[str], None],
        step: ProgressCallback,
    ):
        self.recipe, self.pictures, self.origin = recipe, pictures, origin
        dtype = torch.bfloat16 if recipe.precision == "bf16" else torch.float32
        self.target = TargetFeatures(backbone, recipe.neighbourhood, dtype).to(device)
        self.renderer = Renderer(pictures, self.target, device)
        self.net = replace_last_layer(pdn(recipe.size, width=recipe.width), self.target.channels)
        super().__init__([self.net], recipe, device, say, step)
        self.initialise(START)
        self.net.to(device).to(memory_format=torch.channels_last)
        self.checks = recipe.checks
        order = self.rng(SPLIT).permutation(len(pictures.paths)).tolist()
        count = min(max(1, round(recipe.held_out * len(order))), MAX_HELD_OUT)
        self.held_out_numbers, self.learnt = order[:count], order[count:]
        self.started_from: str | None = None
        self.pool: ViewPool | None = None
        self.current_round = -1  # the round of views at hand

    def start_from(self, path: str | os.PathLike[str]) -> None:
        """Take over a teacher's weights."""
        state, facts = read_teacher(path)
        state, channels = compact_teacher(state, facts)
        known = facts["backbone"]
        wanted = (self.recipe.size, self.target.channels, self.origin["name"])
        if (facts["size"], channels, known["name"]) != wanted:
            raise InputError(
                f"{path} is a PDN-{facts['size'].upper()} from {known['name']}: begin with a teacher of the "
                "same size and backbone"
            )
        self.net.load_state_dict(state)
        self.started_from = facts["origin"]

    def identity(self) -> dict[str, Any]:
        """Settings, pictures and weights that decide the teacher."""
        return {
            **json_settings(asdict(self.recipe), without=()),
            "set of pictures": self.pictures.sha256,
            "file of backbone weights": self.origin["origin"],
            "--start": self.started_from,
        }

    def state(self) -> dict[str, Tensor]:
        return {"target.mean": self.target.mean, "target.std": self.target.std}

    def prepare(self, resumed: bool) -> None:
        if not resumed:
            self.renderer.measure(self.learnt[: self.recipe.statistics], self.step)
        learnt, kept = pluralize(len(self.learnt), "picture"), len(self.held_out_numbers)
        self.say(f"PDN-{self.recipe.size.upper()}: {learnt} to learn from and {kept} held out")
        views = [PictureView.whole(i, self.pictures.sizes[i]) for i in self.held_out_numbers]
        self.held_out = self.renderer.pool(views, self.step, "held-out targets")

    # ---- how many steps

    def measure_step_time(self) -> float:
        begun = time.monotonic()
        views = self._views(range(min(2 * self.renderer.block, len(self.learnt))))
        self.pool = self.renderer.pool(views, self.step)
        per_view = (time.monotonic() - begun) / len(views)
        steps, self.steps = self.steps, None
        per_step = super().measure_step_time()
        self.steps = steps
        return per_step + per_view * self.recipe.batch / self.recipe.reuse

    def _rounds(self) -> tuple[int, int]:
        """Views kept at a time, and the number of rounds of views, all of the same size."""
        assert self.steps is not None
        most = max(1, int(self.recipe.memory * 2**30) // ViewPool.bytes_per_view(self.target.channels))
        needed = -(-self.steps * self.recipe.batch // self.recipe.reuse)
        rounds = min(-(-needed // most), self.steps)
        return min(-(-needed // rounds), most), rounds

    # ---- a step

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        if self.steps is not None:  # else the trial's views will do
            self._refill(step)
        assert self.pool is not None
        return self.pool.crops(self.recipe.batch, self.recipe.crop, self.rng(STEP, step))

    def _refill(self, step: int) -> None:
        """Replace the views at hand where the step begins a new round."""
        assert self.steps is not None
        views, rounds = self._rounds()
        wanted = min(step // -(-self.steps // rounds), rounds - 1)
        if wanted != self.current_round:
            self.pool = None  # freed before the next one is made
            chosen = self._views(range(wanted * views, (wanted + 1) * views))
            # a new stage would start the remaining time anew
            self.pool = self.renderer.pool(chosen, ignore_progress if self.current_round >= 0 else self.step)
            self.current_round = wanted

    def _views(self, numbers: Sequence[int]) -> list[PictureView]:
        """Views `numbers` of a sequence that shows every picture once, in random order, before any again."""
        count = len(self.learnt)
        orders = {e: self.rng(ORDER, e).permutation(count) for e in sorted({v // count for v in numbers})}
        chosen = [(v, self.learnt[int(orders[v // count][v % count])]) for v in numbers]
        sizes = self.pictures.sizes
        return [PictureView.draw(k, sizes[k], self.recipe, self.rng(VIEW, v)) for v, k in chosen]

    def losses(self, networks: Sequence[nn.Module], batch: tuple[Tensor, Tensor], step: int) -> list[Tensor]:
        pixels, targets = batch
        return [F.mse_loss(self._forward(networks[0], pixels), targets)]

    def _forward(self, net: nn.Module, pixels: Tensor) -> Tensor:
        images = normalise(pixels.float() / 255).contiguous(memory_format=torch.channels_last)
        with self.autocast():
            described: Tensor = net(images)  # [B, C, n, n]
        return described.float()

    # ---- held-out loss

    def _mean_square_error(self, net: nn.Module, widen: Tensor | None = None) -> float:
        """Mean square error over the pictures held out, as wholes."""
        total, pool = 0.0, self.held_out
        with torch.no_grad():
            for pictures, kept in zip(pool.pictures.split(8), pool.targets.split(8), strict=True):
                targets = kept.float()
                if widen is not None:
                    targets = torch.einsum("oc,bchw->bohw", widen, targets)
                error = self._forward(net, pictures) - targets
                total += float(error.square().mean()) * len(targets)
        return total / len(pool.pictures)

    def measurements(self) -> dict[str, float]:
        return {"held_out": self._mean_square_error(self.net)}

    # ---- the teacher

    def write(self, out: str | os.PathLike[str]) -> dict[str, Any]:
        """Write the teacher in fp16 with 384 outputs, and return its facts with the loss after rounding."""
        whole = expand_teacher(self.net.state_dict(), self.target.channels)
        state = {k: v.half() for k, v in whole.items()}
        teacher = pdn(self.recipe.size, width=self.recipe.width)
        teacher.load_state_dict(state)
        teacher.to(self.device).to(memory_format=torch.channels_last)
        facts = {
            "size": self.recipe.size,
            "channels": CHANNELS,
            "rank": min(CHANNELS, self.target.channels),
            "loss": self._mean_square_error(teacher, expansion_matrix(self.target.channels).to(self.device)),
            "backbone": {**self.origin, "stages": list(self.recipe.stages)},
            "pictures": {
                "training": len(self.learnt),
                "held_out": len(self.held_out_numbers),
                "unreadable": len(self.pictures.failures),
                "sha256": self.pictures.sha256,
            },
            "recipe": asdict(replace(self.recipe, steps=self.steps)),
            "steps": self.done,
            "curve": self.curve,
            "started_from": self.started_from,
            "seconds": round(self.seconds, 1),
            "device": self.device.type,
            "threads": torch.get_num_threads(),
            "versions": package_versions(),
        }
        write_teacher(out, state, facts)
        took = format_duration(self.seconds)
        self.say(f"held-out loss {facts['loss']:.4f} (1 is what the mean picture gets), {took}")
        return facts


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--images", required=True, help="folder of pictures of anything, the more various the better"
    )
    parser.add_argument("--out", required=True, help="file to write, .safetensors")
    parser.add_argument("--preset", default="default", help="default or paper")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of `Recipe`"
    )
    parser.add_argument("--minutes", type=float, help="as many steps as fit into the time")
    parser.add_argument("--weights", help="the backbone's weights: safetensors or a checkpoint")
    parser.add_argument("--start", help="teacher of the same size and backbone to begin with")
    parser.add_argument("--resume", action="store_true", help="go on where a run that was stopped left off")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    args = parser.parse_args()

    def say(line: str) -> None:
        print(line, file=sys.stderr)

    try:
        recipe = make_recipe(args.preset, parse_assignments(args.set))
        paths, how = list_pictures(args.images), {"minutes": args.minutes, "resume": args.resume}
        how |= {"weights": args.weights, "start": args.start, "device": args.device}
        _, failures = distill(paths, recipe, args.out, say=say, **how)
    except FlawscopeError as error:
        say(f"error: {error}")
        return 2
    for line in failures:
        say(f"skipped: {line}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
