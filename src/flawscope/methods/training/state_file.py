"""Files of tensors and facts that are no model: teachers, prototypes, checkpoints. No pickle, torch-free."""

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

FORMAT = 1  # version of the format; it rises when an older flawscope cannot read the file
METADATA_KEY = "flawscope_state"
Arrays = dict[str, Array]
MAX_TEACHER_BYTES = 2**30  # a teacher has 5 to 32 MB; its file may come from anywhere


def write_state(
    path: str | os.PathLike[str], tensors: Mapping[str, Array], kind: str, facts: Mapping[str, object]
) -> None:
    """Write tensors, `facts` as JSON and a hash over both to a safetensors file, atomically.

    Args:
        path: The file.
        tensors: The tensors, by their names.
        kind: Kind of the state, such as "checkpoint".
        facts: The facts.
    """
    from safetensors.numpy import save

    arrays = {name: np.asarray(tensor, order="C") for name, tensor in sorted(tensors.items())}
    text = json.dumps({**facts, "format": FORMAT, "kind": kind}, allow_nan=False)
    body = save(arrays, {METADATA_KEY: text, "sha256": _digest(text, arrays)})
    with files.atomic_write(path) as file:
        file.write(body)


def load_checkpoint(path: Path | None, resume: bool, say: Say) -> tuple[Arrays, Json] | None:
    """Return the tensors and facts of a checkpoint; None: there is none, or it is unusable.

    Args:
        path: The checkpoint; None: the training has no checkpoint.
        resume: Whether the user wants to continue. If so, an unusable checkpoint is an error; if not, it is
            renamed.
        say: Called with lines for a person.

    Raises:
        CheckpointError: The checkpoint is unusable, and `resume` is set.
    """
    if path is None:
        return None
    if not path.exists():
        if resume:
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
    """Rename a checkpoint from which this run does not continue, and report the reason."""
    new_path = path.with_name(f"{path.stem.removesuffix('.checkpoint')}.earlier{path.suffix}")
    path.replace(new_path)
    say(f"{reason}; begins at the first step, and keeps it as {new_path.name}")


def checkpoint_progress(checkpoint: Path) -> tuple[int, int] | None:
    """Read from a checkpoint how many steps are done, and of how many; None where it cannot be read."""
    try:
        with open(checkpoint, "rb") as file:
            facts = json.loads(_read_header(file)["__metadata__"][METADATA_KEY])
        return int(facts["done"]), int(facts["steps"])
    except (OSError, struct.error, ValueError, KeyError, TypeError):
        return None


def read_checkpoint(path: str | os.PathLike[str]) -> tuple[Arrays, Json]:
    """Read the tensors and facts of a checkpoint; raise CheckpointError where it is unusable."""
    path = Path(path)
    body = read_state_bytes(path, "checkpoint")
    return parse_state(path, body, "checkpoint", remedy="remove it and begin anew")


def read_state_bytes(path: Path, kind: str) -> bytes:
    """Read a file of `write_state`; raise an error for a file that is far too large.

    A teacher has at most `MAX_TEACHER_BYTES`. Checkpoints and prototypes may be larger, but only if the file
    has exactly the length that its header declares.
    """
    with files.open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_TEACHER_BYTES and (kind == "teacher" or _declared_size(file) != size):
            raise files.unusable_file_error(path, "it is far too large: name another file", kind)
        file.seek(0)
        return file.read()


def _read_header(file: BinaryIO) -> Json:
    """Read the header of a safetensors file, and leave the file at the header's end.

    Raises:
        ValueError, struct.error: The file has no header, or one larger than `MAX_HEADER_BYTES`.
    """
    (length,) = struct.unpack("<Q", file.read(8))
    if length > model_file.MAX_HEADER_BYTES:
        raise ValueError("a header larger than any")
    return json.loads(file.read(length))


def _declared_size(file: BinaryIO) -> int | None:
    """Return the size in bytes that a safetensors file declares in its header; None: it has no header."""
    try:
        entries = [entry for name, entry in _read_header(file).items() if name != "__metadata__"]
        data_bytes = max([int(entry["data_offsets"][1]) for entry in entries], default=0)
        return file.tell() + data_bytes  # the data follow the header, after which the file stands now
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, OverflowError):
        return None


def parse_state(path: Path, body: bytes, kind: str, remedy: str) -> tuple[Arrays, Json]:
    """Return the arrays and facts in a file of `write_state`.

    Args:
        path: The file, for messages.
        body: Its content.
        kind: Kind of the state that it must have.
        remedy: Remedy for a damaged file, for messages.

    Raises:
        CheckpointError, InputError: The file is damaged, altered, of another kind or too new: CheckpointError
            for a checkpoint, InputError for other kinds.
    """
    from safetensors.numpy import load

    try:
        tensors = load(body)  # checks header, offsets and sizes; no code
        meta = _read_header(io.BytesIO(body))["__metadata__"]
        text = meta[METADATA_KEY]
        digest = meta["sha256"]
        facts = json.loads(text, parse_constant=files.reject_constant)
        version = facts["format"]
        stored_kind = facts["kind"]
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
    if stored_kind != kind:
        reason = f"it is a {stored_kind!s:.20}, not a {kind}: name another file"
        raise files.unusable_file_error(path, reason, kind)
    return tensors, facts


def _digest(text: str, tensors: Mapping[str, Array]) -> str:
    """Return the SHA-256 (hex) of a file's facts as JSON and of its tensors."""
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        # dtypes have torch's names: earlier versions wrote these files by torch
        digest.update(f"{name} torch.{tensor.dtype.name} {list(tensor.shape)}".encode())
        digest.update(tensor.tobytes())
    return digest.hexdigest()
