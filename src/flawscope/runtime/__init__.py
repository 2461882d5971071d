"""Sessions: each imports only its own engine."""

from __future__ import annotations

import os
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from flawscope.artefact import Artefact
from flawscope.errors import InputError


class Session(Protocol):
    """What a `Predictor` needs of an engine."""

    runtime: str
    suffix: str  # of the model files it runs
    size: tuple[int, int]

    @property
    def batch(self) -> int: ...

    def run(self, images: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Images `[B, 3, H, W]` float32 in 0..1 to scores `[B]` and maps `[B, H, W]`, float32."""

    def save(self, artefact: Artefact, path: str | os.PathLike[str]) -> None:
        """Write the model file, atomically."""


def is_onnx(path: str | os.PathLike[str]) -> bool:
    return os.fspath(path).lower().endswith(".onnx")


def open_session(artefact: Artefact, device: str = "auto") -> Session:
    """The session that runs this artefact."""
    try:
        from flawscope.runtime.torch import TorchSession
    except ImportError:
        raise InputError("running a .safetensors model needs torch: pip install 'flawscope[train]'") from None
    return TorchSession.open(artefact, device)
