"""The teacher's file: a PDN's weights and what they were made from. Published checkpoints are read too."""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flawscope import artefact as artefacts
from flawscope.efficientad.networks import Size, pdn
from flawscope.efficientad.recipe import CHANNELS
from flawscope.efficientad.targets import widened
from flawscope.errors import InputError

FORMAT = 1  # raised when an older flawscope could not read the file
KEY = "flawscope_teacher"
LARGEST = 2**30  # bytes; a teacher has 5 to 32 MB, a checkpoint of one 100 MB at most


def read_teacher(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A teacher's weights and the facts about it.

    Reads what `write_teacher` made, and published state dicts (.pth, .pt) in the layout of nelson1425's
    EfficientAD: these are opened without unpickling any code, and their tensors are matched by order and
    shape.

    Returns:
        The state of `pdn(facts["size"])`, float32, and facts with at least `size` ("s" or "m"), `channels`,
        `backbone` (name, origin, licence) and `origin` (file and hash).

    Raises:
        InputError: one line that says what is wrong with the file.
    """
    path = Path(path)
    body = _body(path)
    origin = f"file {path.name} sha256 {hashlib.sha256(body).hexdigest()}"
    if path.suffix in (".pth", ".pt"):
        state, size = _published(path, body)
        unknown = {"name": "unknown", "origin": "unknown", "licence": "as the file's owner says"}
        return state, {"size": size, "channels": CHANNELS, "backbone": unknown, "origin": origin}
    tensors, facts = unpack(path, body, "teacher")
    kind = facts.get("size")
    wanted = pdn(kind).state_dict() if kind in ("s", "m") else {}
    if not wanted or {k: v.shape for k, v in tensors.items()} != {k: v.shape for k, v in wanted.items()}:
        raise _bad(path, "its tensors are not those of a teacher")
    rank = facts.get("rank", CHANNELS)
    if not isinstance(facts.get("backbone"), dict) or not isinstance(rank, int) or not 1 <= rank <= CHANNELS:
        raise _bad(path, "it does not say what it was made from")
    state = {k: tensors[k].float() for k in wanted}  # safetensors has its own order
    if not all(bool(v.isfinite().all()) for v in state.values()):
        raise _bad(path, "some of its weights are no finite numbers")
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
    pack(path, {k: v.half() for k, v in state.items()}, "teacher", facts)


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


# ------------------------------------------------------------------------------------------ tensors and facts


def pack(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], kind: str, facts: Mapping[str, Any]
) -> None:
    """Tensors, and `facts` as JSON with a hash over both, in a safetensors file that is written whole or not
    at all."""
    from safetensors.torch import save

    plain = {k: v.detach().cpu().contiguous() for k, v in sorted(tensors.items())}
    text = json.dumps({**facts, "format": FORMAT, "kind": kind}, allow_nan=False)
    body = save(plain, {KEY: text, "sha256": _digest(text, plain)})
    with artefacts.atomic(path) as file:
        file.write(body)


def read_packed(path: str | os.PathLike[str], kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `pack` wrote. InputError says what is wrong with the file."""
    return unpack(Path(path), _body(Path(path)), kind)


def unpack(path: Path, body: bytes, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors.torch import load

    try:
        tensors = load(body)  # checks header, offsets and sizes; no code
        (length,) = struct.unpack("<Q", body[:8])
        meta = json.loads(body[8 : 8 + length])["__metadata__"]
        text, digest = meta[KEY], meta["sha256"]
        facts = json.loads(text, parse_constant=artefacts.no_constant)
        version = facts["format"]
        found = facts["kind"]
    except Exception:  # safetensors raises its own errors for damaged files
        raise _bad(path, "it is no teacher that flawscope wrote, or it is damaged") from None
    if not isinstance(version, int) or version > FORMAT:
        raise artefacts.refused(
            path, f"it has format {version!s:.20}, and this one reads up to {FORMAT}: upgrade"
        )
    if _digest(text, tensors) != digest:
        raise _bad(path, "it was altered or damaged")
    if found != kind:
        raise artefacts.refused(path, f"it is a {found!s:.20}, not a {kind}: name another file")
    return tensors, facts


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _body(path: Path) -> bytes:
    if not path.exists():
        raise InputError(f"there is no teacher {path}: check the path, or make one with `flawscope distill`")
    with artefacts.opened(path) as file:
        if os.fstat(file.fileno()).st_size > LARGEST:
            raise artefacts.refused(path, "it is far too large for a teacher: name another file")
        return file.read()


def _bad(path: Path, reason: str) -> InputError:
    return artefacts.refused(path, f"{reason}; copy it again or distil anew")


# ------------------------------------------------------------------------------------- published checkpoints


def _published(path: Path, body: bytes) -> tuple[dict[str, Tensor], Size]:
    try:
        found = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
        values = [v for v in found.values() if isinstance(v, Tensor)]
    except Exception:  # pickle.UnpicklingError, RuntimeError, EOFError, AttributeError, ...
        raise artefacts.refused(
            path, "it holds more than tensors, or is damaged: give the state dict of a PDN"
        ) from None
    sizes: tuple[Size, ...] = ("s", "m")
    for size in sizes:
        wanted = pdn(size).state_dict()
        if [v.shape for v in values] == [v.shape for v in wanted.values()]:
            return {k: v.float() for k, v in zip(wanted, values, strict=True)}, size
    raise artefacts.refused(path, "its tensors are not those of a PDN-S or PDN-M with 384 channels")
