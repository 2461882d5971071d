"""What both trainings share, the teacher's and the detector's: learning rate, precision, layout in memory,
and the optimiser's state in a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

WARM_UP, FIRST, LAST = 0.3, 1 / 25, 1 / 25 / 1e4  # one cycle: share of the steps, and of the largest rate
DROP_AT, DROP = 0.95, 0.1  # Batzner et al., A.1
MOMENTS = ("exp_avg", "exp_avg_sq")  # Adam's, of every parameter


def one_cycle(step: int, steps: int) -> float:
    """The share of the largest learning rate in step 0, 1, ... of `steps`: torch's `OneCycleLR`, a cosine up
    over 30 % of the steps and one down. Adam's momentum is left alone."""
    top, last = WARM_UP * steps - 1, steps - 1

    def between(a: float, b: float, share: float) -> float:
        return b + (a - b) / 2 * (1 + math.cos(math.pi * share))

    if step <= top:
        return between(FIRST, 1.0, step / top if top else 1.0)
    return between(1.0, LAST, (step - top) / (last - top) if last > top else 1.0)


def rate_share(schedule: str, step: int, steps: int) -> float:
    """The share of the largest learning rate in a step: `one_cycle`, `drop` (a tenth after 95 %) or
    `constant`."""
    if schedule == "one_cycle":
        return one_cycle(step, steps)
    return DROP if schedule == "drop" and step >= DROP_AT * steps else 1.0


def precision_for(asked: Literal["auto", "fp32", "bf16"], device: torch.device) -> Literal["fp32", "bf16"]:
    """bf16 where the device computes with it, unless something was asked for."""
    if asked != "auto":
        return asked
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported()
    else:  # elsewhere on a CPU bf16 is imitated, and slower
        names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        native = device.type == "cpu" and any(getattr(torch.cpu, name, bool)() for name in names)
    return "bf16" if native else "fp32"


def on_device(network: nn.Module, device: torch.device) -> None:
    """With the channels last in memory, which is faster everywhere."""
    network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def adam_state(
    parameters: Iterable[tuple[str, nn.Parameter]], optimiser: torch.optim.Optimizer
) -> dict[str, Tensor]:
    """The parameters and what Adam knows about them, as `restore_adam` takes them; after a step at least."""
    tensors: dict[str, Tensor] = {}
    for name, values in parameters:
        known = optimiser.state[values]
        tensors[f"net.{name}"] = values
        for key in ("step", *MOMENTS):
            tensors[f"{key}.{name}"] = known[key]
    return tensors


def restore_adam(
    parameters: Iterable[tuple[str, nn.Parameter]],
    optimiser: torch.optim.Optimizer,
    tensors: Mapping[str, Tensor],
) -> None:
    """Undo `adam_state`. KeyError or RuntimeError where the tensors are of other networks."""
    with torch.no_grad():
        for name, values in parameters:
            values.copy_(tensors[f"net.{name}"])
            # in the layout of the parameter, as the optimiser itself makes them
            optimiser.state[values] = {
                "step": tensors[f"step.{name}"].clone(),
                **{key: torch.empty_like(values).copy_(tensors[f"{key}.{name}"]) for key in MOMENTS},
            }
