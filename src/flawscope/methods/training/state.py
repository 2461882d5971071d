"""State of a training: fresh weights, precision, checkpoints; its pace, also where it ends at a time whatever
the machine's speed, and the learning rate that follows from it.
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
WARM_UP, FIRST_SHARE, LAST_SHARE = 0.3, 1 / 25, 1 / 25 / 1e4  # of one cycle's steps, and of its largest rate
DROP_AT, DROP = 0.95, 0.1  # Batzner et al., A.1


def pick_precision(asked: Literal["auto", "fp32", "bf16"], device: torch.device) -> Literal["fp32", "bf16"]:
    """bf16 where the device computes with it, unless something was asked for."""
    if asked != "auto":
        return asked
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported()
    else:  # elsewhere on a CPU bf16 is imitated, and slower
        names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        native = device.type == "cpu" and any(getattr(torch.cpu, name, bool)() for name in names)
    return "bf16" if native else "fp32"


def upload(values: Tensor, device: torch.device) -> Tensor:
    """The values on the device. A GPU gets them from pinned memory, so that the CPU does not wait."""
    if device.type != "cuda" or values.device.type != "cpu":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


LAYERS = (nn.Linear, nn.modules.conv._ConvNd)
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)


def initialise(network: nn.Module, generator: torch.Generator) -> None:
    """Fresh weights as torch draws them, from `generator`, which is the CPU's, instead of the process's.

    Norms scale by 1. A module with parameters of another kind has a method `initialise(generator)` itself.

    Raises:
        TypeError: a module has none.
    """
    for name, layer in network.named_modules():
        if isinstance(layer, LAYERS):
            _draw_weights(layer, generator)
        elif isinstance(layer, NORMS):
            layer.reset_parameters()
        elif callable(own := getattr(layer, "initialise", None)):
            own(generator)
        elif any(True for _ in layer.parameters(recurse=False)):
            kind = type(layer).__name__
            raise TypeError(
                f"no fresh weights for {name or 'the network'} ({kind}): give {kind} a method `initialise`"
            )


def _draw_weights(layer: nn.Linear | nn.modules.conv._ConvNd, generator: torch.Generator) -> None:
    """Draw weights and bias as `kaiming_uniform_` with a = sqrt(5) does, and torch for the bias."""
    bound = layer.weight[0].numel() ** -0.5
    for values in (layer.weight, layer.bias):
        if values is None:
            continue
        drawn = torch.empty_like(values, device="cpu")
        drawn.uniform_(-bound, bound, generator=generator)
        with torch.no_grad():
            values.copy_(drawn)


def network_digest(network: nn.Module) -> str:
    """SHA-256 of a network's weights."""
    digest = hashlib.sha256()
    for values in network.state_dict().values():
        digest.update(values.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@contextmanager
def checkpoint_errors() -> Iterator[None]:
    """Context that turns errors of a checkpoint that does not fit into a one-line CheckpointError."""
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
    """Load parameters and Adam's state of `save`. KeyError or RuntimeError where they do not fit."""
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
    """Describe the first difference between a checkpoint's run and this one, "another rate 0.1, this one has
    0.2"; empty where nothing differs. Steps and minutes that are not given are the checkpoint's.
    """
    with checkpoint_errors():
        theirs = dict(facts["identity"])
    for key, mine in identity.items():
        if theirs.get(key) != mine and not (key in ("steps", "minutes") and mine is None):
            shown = "" if len(str(mine)) > 60 else f" {theirs.get(key)}, this one has {mine}"
            return f"another {key}{shown}"
    return ""


def json_settings(settings: Mapping[str, object], without: Iterable[str]) -> Json:
    """Settings but for those `without`, as they come back from JSON."""
    left_out = {*without}
    return {k: list(v) if isinstance(v, tuple) else v for k, v in settings.items() if k not in left_out}


class Pace:
    """The share of a training's time that is used, and whether it is over.

    The work after the training is counted in steps: a machine that becomes slower takes longer for both.

    Attributes:
        share: of the time of the training that is used, 0..1.
        per_step: seconds of a step, the mean of this run's.
    """

    def __init__(self, until: float, after: float, per_step: float, used: float = 0.0):
        """Args:
        until: when all must be done, on `time.monotonic`'s clock.
        after: seconds of the work after the training, at the present speed.
        per_step: seconds of a step, at the present speed.
        used: seconds of training in earlier runs.
        """
        self.deadline, self.spent, self.per_step = until, used, per_step
        self.steps_after = after / per_step
        self.begin()

    def begin(self) -> None:
        """Start the clock of the first step."""
        self.begun, self.steps = time.monotonic(), 0
        self.share = self.spent / (self.spent + max(self.seconds_left(), self.per_step))

    def seconds_left(self) -> float:
        """Seconds of training that are left; below 0 where it should have ended."""
        return self.deadline - time.monotonic() - self.steps_after * self.per_step

    def tick(self) -> None:
        """Count a step that has been done."""
        self.steps += 1
        self.per_step = (time.monotonic() - self.begun) / self.steps
        state = self.state()
        self.share = state["used"] / (state["used"] + state["left"])

    @property
    def is_over(self) -> bool:
        """Whether the time is nearer without another step than with one."""
        return self.seconds_left() < self.per_step / 2

    def state(self) -> dict[str, float]:
        """Seconds of training so far and to come, for a checkpoint."""
        return {"used": self.spent + time.monotonic() - self.begun, "left": max(self.seconds_left(), 0.0)}


def one_cycle(step: int, steps: int) -> float:
    """The share of the largest learning rate in step 0, 1, ... of `steps`: torch's `OneCycleLR`, a cosine up
    over 30 % of the steps and one down. Adam's momentum is left alone.
    """
    top, last = WARM_UP * steps - 1, steps - 1

    def between(a: float, b: float, share: float) -> float:
        return b + (a - b) / 2 * (1 + math.cos(math.pi * share))

    if step <= top:
        return between(FIRST_SHARE, 1.0, step / top if top else 1.0)
    return between(1.0, LAST_SHARE, (step - top) / (last - top) if last > top else 1.0)


def learning_rate_share(schedule: str, step: int, steps: int) -> float:
    """The share of the largest learning rate in a step. `drop`: a tenth after 95 % of the steps."""
    if schedule == "one_cycle":
        return one_cycle(step, steps)
    return DROP if schedule == "drop" and step >= DROP_AT * steps else 1.0


class TrainingState:
    """State of a training as in a checkpoint: its networks, the optimiser's state and the losses so far."""

    NETWORKS: ClassVar[tuple[str, ...]]  # their names in a checkpoint
    LOSSES: ClassVar[tuple[str, ...]]
    DECOUPLED_DECAY: ClassVar[bool] = False  # weight decay apart from the gradients, as AdamW has it
    FUSED_ADAM: ClassVar[bool] = True  # Adam in one kernel, where the device has it

    def __init__(self, networks: Sequence[nn.Module], settings: TrainingFields, device: torch.device):
        """Args:
        settings: a `TrainingSettings`, or what has the same fields for training.
        """
        self.networks, self.settings, self.device = tuple(networks), settings, device
        self.precision = pick_precision(settings.training, device)
        self.optimiser = self._make_adam(self.networks)
        self.steps: int | None = settings.steps
        self.pace: Pace | None = None  # of a training that ends at a time
        self.minutes: float | None = None  # asked for
        self.planned_steps: int | None = None  # steps that would have fitted by the first ones' time
        self.done, self.seconds = 0, 0.0
        self.curve: list[dict[str, float]] = []
        self.log = TrainingLog(None, self.LOSSES)
        # since the last check; MPS has no float64
        kind = torch.float32 if device.type == "mps" else torch.float64
        self.loss_sums = torch.zeros(len(self.LOSSES), dtype=kind, device=device)
        self.steps_since_check = 0

    def state(self) -> Mapping[str, Tensor]:
        """Tensors that a checkpoint holds beside the networks; restored in place."""
        return {}

    def rng(self, purpose: int, *numbers: int) -> np.random.Generator:
        """Generator of a `Stream`, or of a purpose that another package has numbered by itself."""
        return np.random.default_rng([self.settings.seed, purpose, *numbers])

    def drawn(self, purpose: int, number: int, count: int) -> int:
        """Item `number` of a sequence that shows all of `count` once, in random order, before any again."""
        return int(self.rng(purpose, number // count).permutation(count)[number % count])

    def torch_seed(self, purpose: int, *numbers: int) -> int:
        return int(self.rng(purpose, *numbers).integers(2**62))

    def initialise(self, purpose: int) -> None:
        """Give the networks fresh weights."""
        generator = torch.Generator().manual_seed(self.torch_seed(purpose))
        for network in self.networks:
            initialise(network, generator)

    def groups(self, networks: Sequence[nn.Module]) -> list[Json]:
        """Parameter groups of these networks, or copies, as `torch.optim` takes them.

        A group's `lr` is its largest learning rate; without it the settings' rate is.
        """
        return [{"params": [v for network in networks for v in network.parameters()]}]

    def _make_adam(self, networks: Sequence[nn.Module]) -> torch.optim.Optimizer:
        fused = (self.FUSED_ADAM and self.device.type in ("cpu", "cuda")) or None
        kind = torch.optim.AdamW if self.DECOUPLED_DECAY else torch.optim.Adam
        groups, rate = self.groups(networks), self.settings.rate
        groups = [{"initial_lr": group.get("lr", rate), **group} for group in groups]
        return kind(groups, rate, weight_decay=self.settings.decay, fused=fused)

    def _parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        for name, network in zip(self.NETWORKS, self.networks, strict=True):
            for key, values in network.named_parameters():
                if values.requires_grad:
                    yield f"{name}.{key}", values

    def _other_tensors(self) -> dict[str, Tensor]:
        """Tensors of a checkpoint that are no parameters: buffers such as running means, and `state`."""
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
        """Go on from a checkpoint of `save`, if it belongs to this run. Returns the state of the pace."""
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
            self.steps, self.done = int(facts["steps"]), int(facts["done"])
            self.steps_since_check = int(facts["since"])
            self.loss_sums.copy_(torch.tensor(facts["total"], dtype=self.loss_sums.dtype))
            self.curve, self.seconds = list(facts["curve"]), float(facts["seconds"])
            self.minutes, kept = theirs.get("minutes"), facts.get("pace")
            self.planned_steps = facts.get("planned")
            if kept is None:
                return None
            self.planned_steps = self.steps
            return {key: float(kept[key]) for key in ("used", "left")}
