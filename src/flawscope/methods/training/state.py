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

MOMENTS = ("exp_avg", "exp_avg_sq")  # names of the tensors that Adam keeps for every parameter
# The schedule "one_cycle", as torch's `OneCycleLR`
WARM_UP = 0.3  # share of the steps in which the rate rises
FIRST_SHARE = 1 / 25  # rate of the first step, as a share of the largest rate
LAST_SHARE = 1 / 25 / 1e4  # rate of the last step, as a share of the largest rate
# The schedule "drop" (Batzner et al., A.1)
DROP_AT = 0.95  # share of the steps after which the rate drops
DROP = 0.1  # rate after it, as a share of the largest rate


def pick_precision(setting: Literal["auto", "fp32", "bf16"], device: torch.device) -> Literal["fp32", "bf16"]:
    """Return the precision of a setting; for auto, bf16 where the device computes with it, else fp32."""
    if setting != "auto":
        return setting
    if device.type == "cuda":
        has_bf16 = torch.cuda.is_bf16_supported()
    elif device.type == "cpu":  # a CPU without these features emulates bf16, which is slower than fp32
        names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        # a torch that lacks one of the functions gets `bool`, which returns False
        has_bf16 = any(getattr(torch.cpu, name, bool)() for name in names)
    else:
        has_bf16 = False
    return "bf16" if has_bf16 else "fp32"


def upload(values: Tensor, device: torch.device) -> Tensor:
    """Return values on a device. They go to a GPU through pinned memory, so that the CPU does not wait."""
    if device.type != "cuda" or values.device.type != "cpu":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


LAYERS = (nn.Linear, nn.modules.conv._ConvNd)
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)


def initialise(network: nn.Module, generator: torch.Generator) -> None:
    """Give a network new random weights, with torch's distributions, from a generator on the CPU.

    Norms get weights 1 and biases 0. A module with other parameters needs a method `initialise(generator)`.

    Raises:
        TypeError: A module with other parameters lacks the method.
    """
    for name, layer in network.named_modules():
        if isinstance(layer, LAYERS):
            _draw_weights(layer, generator)
        elif isinstance(layer, NORMS):
            layer.reset_parameters()
        elif callable(initialise_layer := getattr(layer, "initialise", None)):
            initialise_layer(generator)
        elif any(True for _ in layer.parameters(recurse=False)):  # it has parameters
            kind = type(layer).__name__
            raise TypeError(
                f"no fresh weights for {name or 'the network'} ({kind}): give {kind} a method `initialise`"
            )


def _draw_weights(layer: nn.Linear | nn.modules.conv._ConvNd, generator: torch.Generator) -> None:
    """Draw weights as `kaiming_uniform_` with a = sqrt(5) does, and the bias as torch's layers do."""
    bound = layer.weight[0].numel() ** -0.5  # by the number of an output's inputs
    for parameter in (layer.weight, layer.bias):
        if parameter is None:
            continue
        random_values = torch.empty_like(parameter, device="cpu")
        random_values.uniform_(-bound, bound, generator=generator)
        with torch.no_grad():
            parameter.copy_(random_values)


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
    """Load the parameters and Adam's state from a checkpoint (`TrainingState.save`).

    Args:
        parameters: The parameters with their names; they are changed in place.
        optimiser: Adam, whose state is changed in place.
        tensors: Tensors of the checkpoint.

    Raises:
        KeyError, RuntimeError: The checkpoint does not fit.
    """
    # fused Adam counts its steps on the device; Adam that is not fused counts them on the CPU
    is_fused = bool(optimiser.param_groups[0].get("fused"))
    with torch.no_grad():
        for name, parameter in parameters:
            parameter.copy_(tensors[f"net.{name}"])
            has_state = any(f"{key}.{name}" in tensors for key in ("step", *MOMENTS))
            if not has_state:  # before its first gradient
                continue
            step_count = tensors[f"step.{name}"].clone()
            state = {"step": step_count.to(parameter.device) if is_fused else step_count}
            for key in MOMENTS:
                # in the memory layout of the parameter, as the optimiser itself makes them
                state[key] = torch.empty_like(parameter).copy_(tensors[f"{key}.{name}"])
            optimiser.state[parameter] = state


def describe_difference(facts: Facts, identity: Facts) -> str:
    """Describe the first difference between a checkpoint's run and this run; empty: there is none.

    An example is "another rate 0.1, this one has 0.2". If this run gives no steps or no minutes, it takes
    over the checkpoint's; they do not count as a difference.

    Args:
        facts: Facts of the checkpoint.
        identity: Facts that decide the result of this run.
    """
    with checkpoint_errors():
        checkpoint_identity = dict(facts["identity"])
    for key, value in identity.items():
        checkpoint_value = checkpoint_identity.get(key)
        is_taken_over = key in ("steps", "minutes") and value is None
        if checkpoint_value == value or is_taken_over:
            continue
        is_short = len(str(value)) <= 60  # not a hash, which says nothing to a person
        if is_short:
            return f"another {key} {checkpoint_value}, this one has {value}"
        return f"another {key}"
    return ""


def json_settings(settings: Mapping[str, object], without: Iterable[str]) -> Json:
    """Return settings as they would be read from a JSON file: tuples become lists.

    Args:
        settings: The settings.
        without: Names of settings to leave out.
    """
    excluded = {*without}
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in settings.items()
        if name not in excluded
    }


class Pace:
    """Clock of a training that ends at a given time.

    The time for the work after the training is counted in steps: if the machine becomes slower, the time set
    aside for this work grows as that of a step does.

    Attributes:
        share: Share of the training's time that is used, 0..1.
        per_step: Seconds of a step, the mean of this run's steps.
        steps_after: Number of steps that take as long as the work after the training.
    """

    def __init__(self, until: float, after: float, per_step: float, used: float = 0.0):
        """Start the clock.

        Args:
            until: Time at which all must be done, on the clock `time.monotonic`.
            after: Seconds that the work after the training takes, at the present speed.
            per_step: Seconds that a step takes, at the present speed.
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
        """Return the seconds until the training must end; below 0: it should have ended."""
        return self.deadline - time.monotonic() - self.steps_after * self.per_step

    def tick(self) -> None:
        """Count a step that is done, and update `per_step` and `share`."""
        self.steps += 1
        self.per_step = (time.monotonic() - self.begun) / self.steps
        state = self.state()
        self.share = state["used"] / (state["used"] + state["left"])

    @property
    def is_over(self) -> bool:
        """Whether the training must end: more than half of another step would be too late."""
        return self.seconds_left() < self.per_step / 2

    def state(self) -> dict[str, float]:
        """Return, for a checkpoint, the seconds of training until now (`used`) and to come (`left`)."""
        return {"used": self.spent + time.monotonic() - self.begun, "left": max(self.seconds_left(), 0.0)}


def one_cycle(step: int, steps: int) -> float:
    """Return the learning rate of a step as a share of the largest rate, as torch's `OneCycleLR`.

    The rate rises over 30 % of the steps and then falls, both times along a cosine. Adam's momentum does not
    change.

    Args:
        step: Number of the step, from 0.
        steps: Number of all steps.
    """
    peak_step = WARM_UP * steps - 1
    last_step = steps - 1

    def cosine_between(start: float, end: float, share: float) -> float:
        return end + (start - end) / 2 * (1 + math.cos(math.pi * share))

    if step <= peak_step:
        rise_share = step / peak_step if peak_step else 1.0
        return cosine_between(FIRST_SHARE, 1.0, rise_share)
    fall_share = (step - peak_step) / (last_step - peak_step) if last_step > peak_step else 1.0
    return cosine_between(1.0, LAST_SHARE, fall_share)


def learning_rate_share(schedule: str, step: int, steps: int) -> float:
    """Return the learning rate of a step as a share of the largest rate.

    Args:
        schedule: Name of the schedule: "one_cycle", "drop" or "constant".
        step: Number of the step, from 0.
        steps: Number of all steps.
    """
    if schedule == "one_cycle":
        return one_cycle(step, steps)
    has_dropped = schedule == "drop" and step >= DROP_AT * steps
    return DROP if has_dropped else 1.0


class TrainingState:
    """State of a training that a checkpoint keeps: networks, optimiser, losses up to now.

    Attributes:
        NETWORKS: Names of the networks in a checkpoint.
        LOSSES: Names of the losses.
        DECOUPLED_DECAY: Whether weight decay is apart from the gradients, as in AdamW.
        FUSED_ADAM: Whether Adam computes in one kernel, where the device has it.
        steps: Number of all steps; None: not decided yet.
        pace: Clock of a training that ends at a given time; None: the number of steps decides.
        minutes: Minutes that the user gave; None: none.
        planned_steps: Number of steps that fit into the minutes by the time of the first ones; None: no plan.
        done: Number of steps done.
        seconds: Seconds of training. While it runs, `seconds + time.monotonic()` are the seconds until now.
        curve: Losses and measurements at each check.
        loss_sums: Sum of each loss over the steps since the last check.
        steps_since_check: Number of steps since the last check.
    """

    NETWORKS: ClassVar[tuple[str, ...]]
    LOSSES: ClassVar[tuple[str, ...]]
    DECOUPLED_DECAY: ClassVar[bool] = False
    FUSED_ADAM: ClassVar[bool] = True

    def __init__(self, networks: Sequence[nn.Module], settings: TrainingFields, device: torch.device):
        """Set up the optimiser.

        Args:
            networks: The networks to train, in the order of `NETWORKS`.
            settings: A `TrainingSettings`, or an object with its fields for training.
            device: The device on which they train.
        """
        self.networks = tuple(networks)
        self.settings = settings
        self.device = device
        self.precision = pick_precision(settings.training, device)
        self.optimiser = self._make_adam(self.networks)
        self.steps: int | None = settings.steps
        self.pace: Pace | None = None
        self.minutes: float | None = None
        self.planned_steps: int | None = None
        self.done = 0
        self.seconds = 0.0
        self.curve: list[dict[str, float]] = []
        self.log = TrainingLog(None, self.LOSSES)
        dtype = torch.float32 if device.type == "mps" else torch.float64  # MPS has no float64
        self.loss_sums = torch.zeros(len(self.LOSSES), dtype=dtype, device=device)
        self.steps_since_check = 0

    def state(self) -> Mapping[str, Tensor]:
        """Return further tensors that a checkpoint must hold; they are restored in place."""
        return {}

    def rng(self, purpose: int, *numbers: int) -> np.random.Generator:
        """Return a generator of random numbers that depends only on the seed and the arguments.

        Args:
            purpose: A `Stream`, or a number that another package chose for its purpose.
            numbers: Further numbers, such as the step's.
        """
        return np.random.default_rng([self.settings.seed, purpose, *numbers])

    def drawn(self, purpose: int, number: int, count: int) -> int:
        """Return one item of an endless random sequence of the numbers 0 to `count` - 1.

        Each number comes once, in random order, before any comes again.

        Args:
            purpose: As for `rng`.
            number: Index of the item in the sequence.
            count: Number of different numbers.
        """
        round_number = number // count
        order = self.rng(purpose, round_number).permutation(count)
        return int(order[number % count])

    def torch_seed(self, purpose: int, *numbers: int) -> int:
        """Return a seed for torch's generators, from 0 to 2^62 - 1, by the same arguments as `rng`."""
        return int(self.rng(purpose, *numbers).integers(2**62))

    def initialise(self, purpose: int) -> None:
        """Give the networks new random weights, by the `Stream` or number `purpose`."""
        generator = torch.Generator().manual_seed(self.torch_seed(purpose))
        for network in self.networks:
            initialise(network, generator)

    def groups(self, networks: Sequence[nn.Module]) -> list[Json]:
        """Return the parameter groups of networks for `torch.optim`.

        A group's `lr` is its largest learning rate; a group without it gets the rate of the settings.

        Args:
            networks: The networks, or copies of them.
        """
        return [{"params": [parameter for network in networks for parameter in network.parameters()]}]

    def _make_adam(self, networks: Sequence[nn.Module]) -> torch.optim.Optimizer:
        can_fuse = self.FUSED_ADAM and self.device.type in ("cpu", "cuda")
        adam = torch.optim.AdamW if self.DECOUPLED_DECAY else torch.optim.Adam
        rate = self.settings.rate
        groups = [{"initial_lr": group.get("lr", rate), **group} for group in self.groups(networks)]
        return adam(groups, rate, weight_decay=self.settings.decay, fused=can_fuse or None)

    def _parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the parameters that learn, each with the name of its network and its own name."""
        for network_name, network in zip(self.NETWORKS, self.networks, strict=True):
            for name, parameter in network.named_parameters():
                if parameter.requires_grad:
                    yield f"{network_name}.{name}", parameter

    def _other_tensors(self) -> dict[str, Tensor]:
        """Return the tensors of a checkpoint that are no parameters: buffers, such as means, and `state`."""
        tensors = dict(self.state())
        for network_name, network in zip(self.NETWORKS, self.networks, strict=True):
            parameters = dict(network.named_parameters())
            for name, tensor in network.state_dict(keep_vars=True).items():
                if name not in parameters:
                    tensors[f"buffer.{network_name}.{name}"] = tensor
        return tensors

    def _check_finite(self, losses: Iterable[float]) -> None:
        if not all(map(math.isfinite, losses)):
            steps = pluralize(self.done, "step")
            raise FlawscopeError(f"NaN loss after {steps}: begin anew with a lower --set rate")

    # ---- checkpoints

    def save(self, path: Path, identity: Json, *, over: bool = False) -> None:
        """Write a checkpoint.

        Args:
            path: The checkpoint.
            identity: Facts that decide the result.
            over: Whether the training is over: its last step is done.

        Raises:
            FlawscopeError: The loss is NaN, or a file cannot be written.
        """
        loss_sums = self.loss_sums.tolist()
        self._check_finite(loss_sums)
        self.log.flush()
        facts = {
            "identity": identity,
            "steps": self.done if over else self.steps,
            "planned": self.planned_steps,
            "done": self.done,
            "since": self.steps_since_check,
            "total": loss_sums,
            "curve": self.curve,
            "seconds": self.seconds + time.monotonic(),
            "pace": None if self.pace is None or over else self.pace.state(),
        }
        tensors: dict[str, Tensor] = self._other_tensors()
        for name, parameter in self._parameters():
            tensors[f"net.{name}"] = parameter
            adam_state = self.optimiser.state.get(parameter, {})  # empty before the first gradient
            for key, tensor in adam_state.items():
                tensors[f"{key}.{name}"] = tensor
        arrays = {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in tensors.items()}
        write_state(path, arrays, "checkpoint", facts)

    def restore(self, arrays: Arrays, facts: Json, identity: Json) -> dict[str, float] | None:
        """Restore the state from a checkpoint that `save` wrote.

        Args:
            arrays: Tensors of the checkpoint.
            facts: Facts of the checkpoint.
            identity: Facts that decide the result of this run.

        Returns:
            The state of the checkpoint's pace (`Pace.state`); None: the checkpoint's run was to end after a
            number of steps, not at a given time.

        Raises:
            CheckpointError: The checkpoint is of another run, or does not fit this version.
        """
        with checkpoint_errors():
            difference = describe_difference(facts, identity)
            if difference:
                raise CheckpointError(
                    f"the checkpoint is of a run with {difference}: give the same, or remove the checkpoint"
                )
            checkpoint_identity = dict(facts["identity"])
            tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
            restore_adam(self._parameters(), self.optimiser, tensors)
            for name, tensor in self._other_tensors().items():
                tensor.copy_(tensors[name])
            self.steps = int(facts["steps"])
            self.done = int(facts["done"])
            self.steps_since_check = int(facts["since"])
            self.loss_sums.copy_(torch.tensor(facts["total"], dtype=self.loss_sums.dtype))
            self.curve = list(facts["curve"])
            self.seconds = float(facts["seconds"])
            self.minutes = checkpoint_identity.get("minutes")
            pace_state = facts.get("pace")
            if pace_state is None:
                self.planned_steps = facts.get("planned")
                return None
            self.planned_steps = self.steps  # a run that ends at a given time saves its plan as `steps`
            return {key: float(pace_state[key]) for key in ("used", "left")}
