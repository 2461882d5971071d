"""The teacher's file: a PDN's weights and what they were made from. Published checkpoints are read too."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flawscope.artefact import files
from flawscope.artefact import state_file as packed
from flawscope.errors import InputError
from flawscope.methods.efficientad.networks import pdn, width_of
from flawscope.methods.efficientad.recipe import CHANNELS, WIDTHS, Size
from flawscope.methods.efficientad.targets import widened

REMEDY = "copy it again or distil anew"


def read_teacher(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A teacher's weights and the facts about it.

    Reads what `write_teacher` made, and published state dicts (.pth, .pt) in the layout of nelson1425's
    EfficientAD: these are opened without unpickling any code, and their tensors are matched by order and
    shape.

    Returns:
        The state of `pdn(facts["size"])`, float32, and facts with at least `size` ("xs", "s" or "m"),
        `channels`, `backbone` (name, origin, licence) and `origin` (file and hash).

    Raises:
        InputError: one line that says what is wrong with the file.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"there is no teacher {path}: check the path, or make one with `flawscope distill`")
    body = packed.read(path, "teacher")
    origin = f"file {path.name} sha256 {hashlib.sha256(body).hexdigest()}"
    if path.suffix in (".pth", ".pt"):
        state, size = _published(path, body)
        unknown = {"name": "unknown", "origin": "unknown", "licence": "as the file's owner says"}
        return state, {"size": size, "channels": CHANNELS, "backbone": unknown, "origin": origin}
    tensors, facts = packed.unpack(path, body, "teacher", REMEDY)
    kind = facts.get("size")
    wanted = {}
    if kind in WIDTHS and (width := width_of(tensors.get("conv1.weight"), kind)):
        wanted = pdn(kind, width=width).state_dict()
    if not wanted or {k: v.shape for k, v in tensors.items()} != {k: v.shape for k, v in wanted.items()}:
        raise _bad(path, "its tensors are not those of a teacher")
    rank = facts.get("rank", CHANNELS)
    if not isinstance(facts.get("backbone"), dict) or not isinstance(rank, int) or not 1 <= rank <= CHANNELS:
        raise _bad(path, "it does not say what it was made from")
    state = {k: torch.from_numpy(tensors[k]).float() for k in wanted}  # safetensors has its own order
    if not all(bool(v.isfinite().all()) for v in state.values()):
        raise _bad(path, "some of its weights are not finite")
    return state, {**facts, "origin": origin}


def packaged(size: Size) -> Path:
    """The teacher that comes with flawscope."""
    path = Path(__file__).parent / "weights" / f"pdn_{size}.safetensors"
    if not path.exists():
        raise InputError(
            f"no teacher PDN-{size.upper()} comes with flawscope: make one with `flawscope distill`, or name "
            "one with --set teacher=FILE"
        )
    return path


def write_teacher(
    path: str | os.PathLike[str], state: Mapping[str, Tensor], facts: Mapping[str, Any]
) -> None:
    """Write a teacher atomically: fp16 tensors and `facts` as JSON in one safetensors file."""
    packed.pack(path, {k: v.half().cpu().numpy() for k, v in state.items()}, "teacher", facts)


def compact(state: Mapping[str, Tensor], facts: Mapping[str, Any]) -> tuple[dict[str, Tensor], int]:
    """The same teacher without the outputs that are sums of others, and how many are left.

    A teacher of a backbone with fewer than 384 channels was widened (`targets.widened`): turned back, mean
    squared differences stay what they are, and the last layers cost less.
    """
    channels = facts.get("rank", CHANNELS)
    state = dict(state)
    if channels < CHANNELS:
        back = widened(channels).T * (channels / CHANNELS)
        weight, bias = list(state)[-2:]
        state[weight] = torch.einsum("co,oikl->cikl", back, state[weight])
        state[bias] = back @ state[bias]
    return state, channels


def expanded(state: Mapping[str, Tensor], channels: int) -> dict[str, Tensor]:
    """Undo `compact`: 384 outputs of a network with fewer, on the CPU."""
    widen, wide = widened(channels), {k: v.detach().cpu().contiguous() for k, v in state.items()}
    weight, bias = list(wide)[-2:]
    wide[weight] = torch.einsum("oc,cikl->oikl", widen, wide[weight])
    wide[bias] = widen @ wide[bias]
    return wide


# ------------------------------------------------------------------------------------- published checkpoints


def _published(path: Path, body: bytes) -> tuple[dict[str, Tensor], Size]:
    try:
        found = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
        values = [v for v in found.values() if isinstance(v, Tensor)]
    except Exception:  # pickle.UnpicklingError, RuntimeError, EOFError, AttributeError, ...
        raise files.refused(
            path, "it holds more than tensors, or is damaged: give the state dict of a PDN", "teacher"
        ) from None
    sizes: tuple[Size, ...] = ("s", "m")
    for size in sizes:
        wanted = pdn(size).state_dict()
        if [v.shape for v in values] == [v.shape for v in wanted.values()]:
            return {k: v.float() for k, v in zip(wanted, values, strict=True)}, size
    raise files.refused(path, "its tensors are not those of a PDN-S or PDN-M with 384 channels", "teacher")


def _bad(path: Path, reason: str) -> InputError:
    return files.refused(path, f"{reason}; {REMEDY}", "teacher")
