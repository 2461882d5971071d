"""A model on its way to the nodes: through Ray's object store, so that no node needs to see the file."""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flawscope.artefact.files import atomic
from flawscope.errors import InputError

CHUNK = 16 * 2**20  # bytes that are hashed at a time


@dataclass(frozen=True)
class Sent:
    """A model's files: their names, the one to open first, SHA-256 (hex) of each, and Ray's references."""

    names: tuple[str, ...]
    digests: tuple[str, ...]
    refs: tuple[Any, ...]

    def placed(self) -> Path:
        """The model on this node's disk, written once for each model and user. To be called by a worker."""
        import ray

        user = getattr(os, "getuid", lambda: "")()
        folder = Path(tempfile.gettempdir()) / f"flawscope-{user}" / self.digests[0][:32]
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, digest, ref in zip(self.names, self.digests, self.refs, strict=True):
            path = folder / name
            if not path.is_file() or digest_of(path) != digest:
                with atomic(path) as file:
                    file.write(ray.get(ref))
        return folder / self.names[0]


def files_of(model: str | os.PathLike[str]) -> list[Path]:
    """The files of a model: an .xml has its weights beside it."""
    path = Path(model)
    return [path, path.with_suffix(".bin")] if path.suffix.lower() == ".xml" else [path]


def digest_of(path: str | os.PathLike[str]) -> str:
    """SHA-256 (hex) of a file."""
    made = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(CHUNK):
                made.update(block)
    except OSError as error:
        raise InputError(f"cannot read model {path}: {error.strerror}; check the path") from None
    return made.hexdigest()


def send(model: str | os.PathLike[str]) -> Sent:
    """Put a model into the object store of the cluster that this process is connected to."""
    import numpy as np
    import ray

    paths = files_of(model)
    refs = tuple(ray.put(np.fromfile(path, np.uint8)) for path in paths)
    return Sent(tuple(path.name for path in paths), tuple(map(digest_of, paths)), refs)
