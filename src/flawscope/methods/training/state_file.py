"""Stores tensors and facts that are not a model: teachers, prototypes, checkpoints. No pickle, torch-free."""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from flawscope.artefact import files, model_file
from flawscope.errors import CheckpointError
from flawscope.progress import Say
from flawscope.types import Array, Json

FORMAT = 1  # raised when an older flawscope could not read the file
METADATA_KEY = "flawscope_state"
Arrays = dict[str, Array]
MAX_TEACHER_BYTES = 2**30  # bytes of a teacher, which comes from anywhere; it has 5 to 32 MB


def write_state(
    path: str | os.PathLike[str], tensors: Mapping[str, Array], kind: str, facts: Mapping[str, object]
) -> None:
    """Write tensors, `facts` as JSON and a hash over both to a safetensors file, whole or not at all."""
    from safetensors.numpy import save

    plain = {k: np.asarray(v, order="C") for k, v in sorted(tensors.items())}
    text = json.dumps({**facts, "format": FORMAT, "kind": kind}, allow_nan=False)
    body = save(plain, {METADATA_KEY: text, "sha256": _digest(text, plain)})
    with files.atomic_write(path) as file:
        file.write(body)


def load_checkpoint(path: Path | None, resume: bool, say: Say) -> tuple[Arrays, Json] | None:
    """Return the state from which to continue; None: there is none.

    Args:
        path: The checkpoint; None: there is none.
        resume: Whether to continue was asked for: then an unusable checkpoint is an error, else it is put
            aside.
        say: Called with lines for a person.

    Raises:
        CheckpointError: The checkpoint is unusable, and `resume` is set.
    """
    if path is None or not path.exists():
        if path is not None and resume:
            say(f"there is no {path.name} to go on from: begins at the first step")
        return None
    try:
        return read_checkpoint(path)
    except CheckpointError as error:
        if resume:
            raise
        set_aside_checkpoint(path, str(error), say)
        return None


def set_aside_checkpoint(path: Path, reason: str, say: Say) -> None:
    """Rename a checkpoint from which this run does not continue, and say why."""
    kept = path.with_name(f"{path.stem.removesuffix('.checkpoint')}.earlier{path.suffix}")
    path.replace(kept)
    say(f"{reason}; begins at the first step, and keeps it as {kept.name}")


def checkpoint_progress(checkpoint: Path) -> tuple[int, int] | None:
    """Return the numbers of steps done and of all steps in a checkpoint; None where it cannot be read."""
    try:
        with open(checkpoint, "rb") as file:
            facts = json.loads(_read_header(file)["__metadata__"][METADATA_KEY])
        return int(facts["done"]), int(facts["steps"])
    except (OSError, struct.error, ValueError, KeyError, TypeError):
        return None


def read_checkpoint(path: str | os.PathLike[str]) -> tuple[Arrays, Json]:
    """Read a training's state that `write_state` wrote; raise CheckpointError where it is unusable."""
    path = Path(path)
    return parse_state(path, read_state_bytes(path, "checkpoint"), "checkpoint", "remove it and begin anew")


def read_state_bytes(path: Path, kind: str) -> bytes:
    """Read the whole file, and refuse a file that is far too large.

    A teacher has at most `MAX_TEACHER_BYTES`. Checkpoints and prototypes may have some GiB: a large file must
    have the length that its header declares.
    """
    with files.open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_TEACHER_BYTES and (kind == "teacher" or _declared_size(file) != size):
            raise files.unusable_file_error(path, "it is far too large: name another file", kind)
        file.seek(0)
        return file.read()


def _read_header(file: BinaryIO) -> Json:
    """Read a safetensors file's header up to its end; raise ValueError or struct.error if there is none."""
    (length,) = struct.unpack("<Q", file.read(8))
    if length > model_file.MAX_HEADER_BYTES:
        raise ValueError("a header larger than any")
    return json.loads(file.read(length))


def _declared_size(file: BinaryIO) -> int | None:
    """Return the length in bytes of a safetensors file by its header; None where there is no such header."""
    try:
        tensors = [tensor for name, tensor in _read_header(file).items() if name != "__metadata__"]
        return file.tell() + max([int(tensor["data_offsets"][1]) for tensor in tensors], default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, OverflowError):
        return None


def parse_state(path: Path, body: bytes, kind: str, remedy: str) -> tuple[Arrays, Json]:
    """Return the arrays and facts that `write_state` wrote; raise an error if altered or of another kind."""
    from safetensors.numpy import load

    try:
        tensors = load(body)  # checks header, offsets and sizes; no code
        meta = _read_header(io.BytesIO(body))["__metadata__"]
        text = meta[METADATA_KEY]
        digest = meta["sha256"]
        facts = json.loads(text, parse_constant=files.reject_constant)
        version = facts["format"]
        found = facts["kind"]
    except MemoryError:
        raise
    except Exception:  # safetensors raises its own errors for damaged files
        raise files.unusable_file_error(
            path, f"flawscope wrote no such {kind}, or it is damaged; {remedy}", kind
        ) from None
    if not isinstance(version, int) or version > FORMAT:
        raise files.unusable_file_error(
            path, f"it has format {version!s:.20}, and this one reads up to {FORMAT}: upgrade", kind
        )
    if _digest(text, tensors) != digest:
        raise files.unusable_file_error(path, f"it was altered or damaged; {remedy}", kind)
    if found != kind:
        raise files.unusable_file_error(path, f"it is a {found!s:.20}, not a {kind}: name another file", kind)
    return tensors, facts


def _digest(text: str, tensors: Mapping[str, Array]) -> str:
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        # types are spelled as torch does, which wrote the first of these files
        digest.update(f"{name} torch.{tensor.dtype.name} {list(tensor.shape)}".encode())
        digest.update(tensor.tobytes())
    return digest.hexdigest()
