"""State of a training: fresh weights, precision, checkpoints, pace and learning rate.

The pace lets a training end at a given time on a machine of any speed; the learning rate follows from it.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from flawscope.errors import CheckpointError, FlawscopeError, InputError, pluralize
from flawscope.methods.settings import TrainingFields
from flawscope.methods.training.log import TrainingLog
from flawscope.methods.training.state_file import Arrays, write_state
from flawscope.types import Facts, Json

MOMENTS = ("exp_avg", "exp_avg_sq")  # Adam's, of every parameter
# of one cycle's steps, and of its largest rate
WARM_UP = 0.3
FIRST_SHARE = 1 / 25
LAST_SHARE = 1 / 25 / 1e4
# Batzner et al., A.1
DROP_AT = 0.95
DROP = 0.1


def pick_precision(asked: Literal["auto", "fp32", "bf16"], device: torch.device) -> Literal["fp32", "bf16"]:
    """Return the precision asked for; for auto, bf16 where the device computes with it, else fp32."""
    if asked != "auto":
        return asked
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported()
    else:  # elsewhere on a CPU bf16 is imitated, and slower
        names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        native = device.type == "cpu" and any(getattr(torch.cpu, name, bool)() for name in names)
    return "bf16" if native else "fp32"


def upload(values: Tensor, device: torch.device) -> Tensor:
    """Return the values on the device. A GPU gets them from pinned memory: the CPU does not wait."""
    if device.type != "cuda" or values.device.type != "cpu":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


LAYERS = (nn.Linear, nn.modules.conv._ConvNd)
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)


def initialise(network: nn.Module, generator: torch.Generator) -> None:
    """Give a network fresh weights, with torch's distributions, from a generator on the CPU.

    Norms scale by 1. A module with parameters of another kind needs its own method `initialise(generator)`.

    Raises:
        TypeError: Such a module lacks the method.
    """
    for name, layer in network.named_modules():
        if isinstance(layer, LAYERS):
            _draw_weights(layer, generator)
        elif isinstance(layer, NORMS):
            layer.reset_parameters()
        elif callable(initialise := getattr(layer, "initialise", None)):
            initialise(generator)
        elif any(True for _ in layer.parameters(recurse=False)):
            kind = type(layer).__name__
            raise TypeError(
                f"no fresh weights for {name or 'the network'} ({kind}): give {kind} a method `initialise`"
            )


def _draw_weights(layer: nn.Linear | nn.modules.conv._ConvNd, generator: torch.Generator) -> None:
    """Draw weights as `kaiming_uniform_` with a = sqrt(5) does, and the bias as torch's layers do."""
    bound = layer.weight[0].numel() ** -0.5
    for values in (layer.weight, layer.bias):
        if values is None:
            continue
        drawn = torch.empty_like(values, device="cpu")
        drawn.uniform_(-bound, bound, generator=generator)
        with torch.no_grad():
            values.copy_(drawn)


def network_digest(network: nn.Module) -> str:
    """Return the SHA-256 (hex) of a network's weights."""
    digest = hashlib.sha256()
    for values in network.state_dict().values():
        digest.update(values.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@contextmanager
def checkpoint_errors() -> Iterator[None]:
    """Turn errors of a checkpoint that does not fit into a one-line CheckpointError."""
    try:
        yield
    except (InputError, torch.OutOfMemoryError):
        raise
    except (KeyError, TypeError, ValueError, RuntimeError):
        raise CheckpointError(
            "the checkpoint does not fit this version of flawscope: remove it and begin anew"
        ) from None


def restore_adam(
    parameters: Iterable[tuple[str, nn.Parameter]],
    optimiser: torch.optim.Optimizer,
    tensors: Mapping[str, Tensor],
) -> None:
    """Load parameters and Adam's state of `save`; raise KeyError or RuntimeError where they do not fit."""
    # Adam in one kernel counts its steps on the device, else on the CPU
    fused = bool(optimiser.param_groups[0].get("fused"))
    with torch.no_grad():
        for name, values in parameters:
            values.copy_(tensors[f"net.{name}"])
            if not any(f"{key}.{name}" in tensors for key in ("step", *MOMENTS)):
                continue  # it has not had a gradient
            count = tensors[f"step.{name}"].clone()
            # in the layout of the parameter, as the optimiser itself makes them
            state = {"step": count.to(values.device) if fused else count}
            for key in MOMENTS:
                state[key] = torch.empty_like(values).copy_(tensors[f"{key}.{name}"])
            optimiser.state[values] = state


def describe_difference(facts: Facts, identity: Facts) -> str:
    """Describe the first difference between a checkpoint's run and this run; empty where nothing differs.

    An example is "another rate 0.1, this one has 0.2". Steps and minutes that are not given are the
    checkpoint's.
    """
    with checkpoint_errors():
        theirs = dict(facts["identity"])
    for key, mine in identity.items():
        if theirs.get(key) != mine and not (key in ("steps", "minutes") and mine is None):
            shown = "" if len(str(mine)) > 60 else f" {theirs.get(key)}, this one has {mine}"
            return f"another {key}{shown}"
    return ""


def json_settings(settings: Mapping[str, object], without: Iterable[str]) -> Json:
    """Return the settings except those `without`, with the types that JSON gives back."""
    left_out = {*without}
    return {k: list(v) if isinstance(v, tuple) else v for k, v in settings.items() if k not in left_out}


class Pace:
    """Clock of a training that ends at a given time.

    The work after the training is counted in steps: a machine that becomes slower takes longer for both.

    Attributes:
        share: Share of the training's time that is used, 0..1.
        per_step: Seconds of a step, the mean of this run's steps.
    """

    def __init__(self, until: float, after: float, per_step: float, used: float = 0.0):
        """Start the clock.

        Args:
            until: When all must be done, on `time.monotonic`'s clock.
            after: Seconds of the work after the training, at the present speed.
            per_step: Seconds of a step, at the present speed.
            used: Seconds of training in earlier runs.
        """
        self.deadline = until
        self.spent = used
        self.per_step = per_step
        self.steps_after = after / per_step
        self.begin()

    def begin(self) -> None:
        """Start the clock of the first step."""
        self.begun = time.monotonic()
        self.steps = 0
        self.share = self.spent / (self.spent + max(self.seconds_left(), self.per_step))

    def seconds_left(self) -> float:
        """Return the seconds of training that are left; below 0 where it should have ended."""
        return self.deadline - time.monotonic() - self.steps_after * self.per_step

    def tick(self) -> None:
        """Count a step that has been done."""
        self.steps += 1
        self.per_step = (time.monotonic() - self.begun) / self.steps
        state = self.state()
        self.share = state["used"] / (state["used"] + state["left"])

    @property
    def is_over(self) -> bool:
        """Whether the training ends nearer to its time without another step than with it."""
        return self.seconds_left() < self.per_step / 2

    def state(self) -> dict[str, float]:
        """Return the seconds of training so far (`used`) and to come (`left`), for a checkpoint."""
        return {"used": self.spent + time.monotonic() - self.begun, "left": max(self.seconds_left(), 0.0)}


def one_cycle(step: int, steps: int) -> float:
    """Return the share of the largest learning rate in step 0, 1, ... of `steps`, as torch's `OneCycleLR`.

    It rises over 30 % of the steps and then falls, each as a cosine. Adam's momentum does not change.
    """
    top = WARM_UP * steps - 1
    last = steps - 1

    def between(a: float, b: float, share: float) -> float:
        return b + (a - b) / 2 * (1 + math.cos(math.pi * share))

    if step <= top:
        return between(FIRST_SHARE, 1.0, step / top if top else 1.0)
    return between(1.0, LAST_SHARE, (step - top) / (last - top) if last > top else 1.0)


def learning_rate_share(schedule: str, step: int, steps: int) -> float:
    """Return the share of the largest learning rate in a step. `drop`: a tenth after 95 % of the steps."""
    if schedule == "one_cycle":
        return one_cycle(step, steps)
    return DROP if schedule == "drop" and step >= DROP_AT * steps else 1.0


class TrainingState:
    """State of a training for a checkpoint: its networks, the optimiser's state and the losses up to now."""

    NETWORKS: ClassVar[tuple[str, ...]]  # their names in a checkpoint
    LOSSES: ClassVar[tuple[str, ...]]
    DECOUPLED_DECAY: ClassVar[bool] = False  # weight decay apart from the gradients, as AdamW has it
    FUSED_ADAM: ClassVar[bool] = True  # Adam in one kernel, where the device has it

    def __init__(self, networks: Sequence[nn.Module], settings: TrainingFields, device: torch.device):
        """Set up the optimiser.

        Args:
            networks: The networks to train, in the order of `NETWORKS`.
            settings: A `TrainingSettings`, or another class with the same fields for training.
            device: The device on which they train.
        """
        self.networks = tuple(networks)
        self.settings = settings
        self.device = device
        self.precision = pick_precision(settings.training, device)
        self.optimiser = self._make_adam(self.networks)
        self.steps: int | None = settings.steps
        self.pace: Pace | None = None  # of a training that ends at a time
        self.minutes: float | None = None  # asked for
        self.planned_steps: int | None = None  # steps that would have fitted by the first ones' time
        self.done = 0
        self.seconds = 0.0
        self.curve: list[dict[str, float]] = []
        self.log = TrainingLog(None, self.LOSSES)
        # since the last check; MPS has no float64
        kind = torch.float32 if device.type == "mps" else torch.float64
        self.loss_sums = torch.zeros(len(self.LOSSES), dtype=kind, device=device)
        self.steps_since_check = 0

    def state(self) -> Mapping[str, Tensor]:
        """Return the tensors that a checkpoint holds beside the networks; they are restored in place."""
        return {}

    def rng(self, purpose: int, *numbers: int) -> np.random.Generator:
        """Return the generator of a `Stream`, or of a purpose to which another package gave a number."""
        return np.random.default_rng([self.settings.seed, purpose, *numbers])

    def drawn(self, purpose: int, number: int, count: int) -> int:
        """Return item `number` of a sequence: all of `count` come once, in random order, before any again."""
        return int(self.rng(purpose, number // count).permutation(count)[number % count])

    def torch_seed(self, purpose: int, *numbers: int) -> int:
        """Return a seed for torch's generators, from 0 to 2^62 - 1, by the same arguments as `rng`."""
        return int(self.rng(purpose, *numbers).integers(2**62))

    def initialise(self, purpose: int) -> None:
        """Give the networks fresh weights."""
        generator = torch.Generator().manual_seed(self.torch_seed(purpose))
        for network in self.networks:
            initialise(network, generator)

    def groups(self, networks: Sequence[nn.Module]) -> list[Json]:
        """Return the parameter groups of these networks, or of copies, for `torch.optim`.

        A group's `lr` is its largest learning rate; without it, the settings' rate holds.
        """
        return [{"params": [v for network in networks for v in network.parameters()]}]

    def _make_adam(self, networks: Sequence[nn.Module]) -> torch.optim.Optimizer:
        fused = (self.FUSED_ADAM and self.device.type in ("cpu", "cuda")) or None
        kind = torch.optim.AdamW if self.DECOUPLED_DECAY else torch.optim.Adam
        groups = self.groups(networks)
        rate = self.settings.rate
        groups = [{"initial_lr": group.get("lr", rate), **group} for group in groups]
        return kind(groups, rate, weight_decay=self.settings.decay, fused=fused)

    def _parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        for name, network in zip(self.NETWORKS, self.networks, strict=True):
            for key, values in network.named_parameters():
                if values.requires_grad:
                    yield f"{name}.{key}", values

    def _other_tensors(self) -> dict[str, Tensor]:
        """Return the tensors of a checkpoint that are no parameters: buffers, such as means, and `state`."""
        found = dict(self.state())
        for name, network in zip(self.NETWORKS, self.networks, strict=True):
            parameters = dict(network.named_parameters())
            kept = network.state_dict(keep_vars=True).items()
            found |= {f"buffer.{name}.{key}": values for key, values in kept if key not in parameters}
        return found

    def _check_finite(self, losses: Iterable[float]) -> None:
        if not all(map(math.isfinite, losses)):
            after = pluralize(self.done, "step")
            raise FlawscopeError(f"NaN loss after {after}: begin anew with a lower --set rate")

    # ---- checkpoints

    def save(self, path: Path, identity: Json, *, over: bool = False) -> None:
        """Write a checkpoint. `over`: the last step is done."""
        total = self.loss_sums.tolist()
        self._check_finite(total)
        self.log.flush()
        facts = {
            "identity": identity,
            "steps": self.done if over else self.steps,
            "planned": self.planned_steps,
            "done": self.done,
            "since": self.steps_since_check,
            "total": total,
            "curve": self.curve,
            "seconds": self.seconds + time.monotonic(),
            "pace": None if self.pace is None or over else self.pace.state(),
        }
        tensors: dict[str, Tensor] = self._other_tensors()
        for name, values in self._parameters():  # with Adam's state: none before their first gradient
            tensors[f"net.{name}"] = values
            known = self.optimiser.state.get(values, {})
            tensors |= {f"{key}.{name}": of_adam for key, of_adam in known.items()}
        arrays = {k: v.detach().cpu().contiguous().numpy() for k, v in tensors.items()}
        write_state(path, arrays, "checkpoint", facts)

    def restore(self, found: Arrays, facts: Json, identity: Json) -> dict[str, float] | None:
        """Continue from a checkpoint of `save`, and return the state of its pace, or None.

        Raises:
            CheckpointError: The checkpoint is of another run, or does not fit this version.
        """
        with checkpoint_errors():
            if other := describe_difference(facts, identity):
                raise CheckpointError(
                    f"the checkpoint is of a run with {other}: give the same, or remove the checkpoint"
                )
            theirs = dict(facts["identity"])
            tensors = {k: torch.from_numpy(v) for k, v in found.items()}
            restore_adam(self._parameters(), self.optimiser, tensors)
            for name, values in self._other_tensors().items():
                values.copy_(tensors[name])
            self.steps = int(facts["steps"])
            self.done = int(facts["done"])
            self.steps_since_check = int(facts["since"])
            self.loss_sums.copy_(torch.tensor(facts["total"], dtype=self.loss_sums.dtype))
            self.curve = list(facts["curve"])
            self.seconds = float(facts["seconds"])
            self.minutes = theirs.get("minutes")
            kept = facts.get("pace")
            self.planned_steps = facts.get("planned")
            if kept is None:
                return None
            self.planned_steps = self.steps
            return {key: float(kept[key]) for key in ("used", "left")}
