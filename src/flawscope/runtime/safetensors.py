"""The .safetensors model file, which torch runs: what it knows of torch is how to ask for it."""

from __future__ import annotations

import os

from flawscope.artefact.model_file import Artefact, read, read_manifest
from flawscope.errors import needs
from flawscope.runtime import Session


def open_session(
    artefact: Artefact,
    path: str | os.PathLike[str] | None = None,
    device: str = "auto",
    threads: int | None = None,
) -> Session:
    """The session that runs this artefact; everything is in it, whatever `path` it came from."""
    try:
        from flawscope.runtime.torch import TorchSession
    except ImportError:
        raise needs("running a .safetensors model", "torch", extras="train") from None
    return TorchSession.open(artefact, device, threads)


__all__ = ["open_session", "read", "read_manifest"]
