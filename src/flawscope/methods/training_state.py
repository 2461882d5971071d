"""What a training begins with and what is kept of it: fresh weights, precision, checkpoints."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from flawscope.artefact.state_file import Arrays
from flawscope.errors import CheckpointError, InputError

MOMENTS = ("exp_avg", "exp_avg_sq")  # Adam's, of every parameter
WORKERS = "number of workers"  # in a checkpoint's identity


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


def uploaded(values: Tensor, device: torch.device) -> Tensor:
    """The values on the device. A GPU is not waited for, as it is for a copy from ordinary memory, which
    begins when everything before it is done."""
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
            bound = layer.weight[0].numel() ** -0.5  # kaiming_uniform_ with a = sqrt(5), and the bias's
            for values in (layer.weight, layer.bias):
                if values is not None:
                    drawn = torch.empty_like(values, device="cpu")
                    drawn.uniform_(-bound, bound, generator=generator)
                    with torch.no_grad():
                        values.copy_(drawn)
        elif isinstance(layer, NORMS):
            layer.reset_parameters()
        elif callable(own := getattr(layer, "initialise", None)):
            own(generator)
        elif any(True for _ in layer.parameters(recurse=False)):
            kind = type(layer).__name__
            raise TypeError(
                f"no fresh weights for {name or 'the network'} ({kind}): give {kind} a method `initialise`"
            )


def digest_of(network: nn.Module) -> str:
    """SHA-256 of a network's weights."""
    digest = hashlib.sha256()
    for values in network.state_dict().values():
        digest.update(values.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def adam_state(
    parameters: Iterable[tuple[str, nn.Parameter]], optimiser: torch.optim.Optimizer
) -> dict[str, Tensor]:
    """The parameters and what Adam knows about them, as `restore_adam` takes them: nothing of a parameter
    that has not had a gradient yet."""
    tensors: dict[str, Tensor] = {}
    for name, values in parameters:
        tensors[f"net.{name}"] = values
        tensors |= {f"{key}.{name}": known for key, known in optimiser.state.get(values, {}).items()}
    return tensors


def arrays(tensors: Mapping[str, Tensor]) -> Arrays:
    """Tensors as `state_file` writes them."""
    return {k: v.detach().cpu().contiguous().numpy() for k, v in tensors.items()}


def tensors_of(found: Arrays) -> dict[str, Tensor]:
    """What `state_file` has read."""
    return {k: torch.from_numpy(v) for k, v in found.items()}


@contextmanager
def restoring() -> Iterator[None]:
    """Whatever does not fit while a checkpoint is restored becomes one line."""
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
    """Undo `adam_state`. KeyError or RuntimeError where the tensors are of other networks."""
    # Adam in one kernel counts its steps on the device, else on the CPU
    fused = bool(optimiser.param_groups[0].get("fused"))
    with torch.no_grad():
        for name, values in parameters:
            values.copy_(tensors[f"net.{name}"])
            if not any(f"{key}.{name}" in tensors for key in ("step", *MOMENTS)):
                continue  # it has not had a gradient
            count = tensors[f"step.{name}"].clone()
            # in the layout of the parameter, as the optimiser itself makes them
            optimiser.state[values] = {
                "step": count.to(values.device) if fused else count,
                **{key: torch.empty_like(values).copy_(tensors[f"{key}.{name}"]) for key in MOMENTS},
            }


def another(facts: Mapping[str, Any], identity: Mapping[str, Any]) -> str:
    """What a checkpoint's run has that this one has otherwise, "another rate 0.1, this one has 0.2"; empty
    where nothing differs. Steps and minutes that are not given are the checkpoint's."""
    with restoring():
        theirs = {WORKERS: 1, **facts["identity"]}  # earlier versions knew one alone
    for key, mine in identity.items():
        if theirs.get(key) != mine and not (key in ("steps", "minutes") and mine is None):
            shown = "" if len(str(mine)) > 60 else f" {theirs.get(key)}, this one has {mine}"
            return f"another {key}{shown}"
    return ""


def as_json(settings: Mapping[str, Any], without: Iterable[str]) -> dict[str, Any]:
    """Settings that decide a run, as JSON gives them back."""
    left_out = {*without}
    return {k: list(v) if isinstance(v, tuple) else v for k, v in settings.items() if k not in left_out}
