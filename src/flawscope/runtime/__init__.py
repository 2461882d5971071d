"""Sessions and the model files they run: each imports only its own engine, and only when it is needed."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from flawscope.artefact import files
from flawscope.artefact.model_file import Artefact, Manifest
from flawscope.errors import InputError

FEW, MANY = 8, 64  # pictures of 256 x 256 pixels: `MANY` for torch on a GPU


def together(size: tuple[int, int], most: int) -> int:
    """Pictures of this height and width that are fastest together, where those of 256 x 256 pixels are
    `most`."""
    return max(1, min(most, most * 256 * 256 // (size[0] * size[1])))


Run = Callable[..., tuple[NDArray[np.float32], NDArray[np.float32]]]


class Session(Protocol):
    """What a `Predictor` needs of an engine."""

    runtime: str
    suffix: str  # of the model files it runs
    size: tuple[int, int]

    @property
    def batch(self) -> int: ...

    @property
    def lanes(self) -> int:
        """Calls of `run_alone` that are fastest under way at once; 1: `run` is as fast."""

    def run_alone(
        self, images: NDArray[np.float32], positions: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """As `run`, on one core."""

    def run(
        self, images: NDArray[np.float32], positions: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Images `[B, 3, H, W]` float32 in 0..1 to scores `[B]` and maps `[B, H, W]`, float32.

        Args:
            positions: `[B]`, which views of their pictures they are, where the model tells them apart; None:
                whole pictures.
        """

    def save(self, artefact: Artefact, path: str | os.PathLike[str]) -> None:
        """Write the model file, atomically."""


def inputs(
    images: NDArray[np.float32], positions: NDArray[np.int64] | None, located: bool
) -> dict[str, NDArray[Any]]:
    """What an exported network is given, by name.

    Args:
        located: it is told where in their pictures images lie.
    """
    if not located:
        return {"images": images}
    return {
        "images": images,
        "positions": np.zeros(len(images), np.int64) if positions is None else positions,
    }


class Format(Protocol):
    """A module for one kind of model file."""

    def read_manifest(self, path: str | os.PathLike[str]) -> Manifest:
        """The manifest alone. Weights are neither read nor checked."""

    def read(self, path: str | os.PathLike[str]) -> Artefact:
        """Everything that is checked and held in memory. InputError: one line on what is wrong."""

    def open_session(
        self,
        artefact: Artefact,
        path: str | os.PathLike[str],
        device: str = "auto",
        threads: int | None = None,
    ) -> Session:
        """The session of the artefact that was read from `path`."""


FORMATS = {
    ".safetensors": "flawscope.runtime.safetensors",
    ".onnx": "flawscope.runtime.onnx",
    ".xml": "flawscope.runtime.openvino",
}
TRAINED = ".safetensors"  # of what was fitted; the others are made from it


def suffix_of(path: str | os.PathLike[str]) -> str:
    """Which of `FORMATS` a model file is, from its name. InputError if it is none."""
    suffix = os.path.splitext(os.fspath(path))[1].lower()
    if suffix not in FORMATS:
        with files.opened(path):  # that there is no such file, or that it is a folder, says more
            pass
        *others, last = FORMATS
        raise files.refused(path, f"models are {', '.join(others)} or {last} files; name one of these")
    return suffix


def format_of(path: str | os.PathLike[str]) -> Format:
    """The module that reads this model file."""
    return cast(Format, import_module(FORMATS[suffix_of(path)]))


def check_threads(threads: int | None) -> None:
    if threads is not None and threads < 1:
        raise InputError(f"cannot compute with {threads} threads: give 1 or more")
