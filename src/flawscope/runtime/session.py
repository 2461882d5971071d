"""The session: an engine with a model's network in it, as a `Predictor` uses it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from flawscope.artefact.model_file import Artefact
from flawscope.errors import FlawscopeError

FEW, MANY = 8, 64  # pictures of 256 x 256 pixels: `MANY` for torch on a GPU

Answers = tuple[NDArray[np.float32], NDArray[np.float32]]  # scores `[B]` and maps `[B, H, W]`
Run = Callable[..., Answers]


class Session(Protocol):
    """What a `Predictor` needs of an engine."""

    runtime: str  # the engine's name
    suffix: str  # of the model files it runs
    size: tuple[int, int]

    @property
    def batch(self) -> int:
        """Pictures that are fastest together."""

    @property
    def lanes(self) -> int:
        """Calls of `run_alone` that are fastest under way at once; 1: `run` is as fast."""

    def run(self, images: NDArray[np.float32], positions: NDArray[np.int64] | None = None) -> Answers:
        """Images `[B, 3, H, W]` float32 in 0..1 to scores `[B]` and maps `[B, H, W]`, float32.

        Args:
            positions: `[B]`, which views of their pictures they are, where the model tells them apart; None:
                whole pictures.
        """

    def run_alone(self, images: NDArray[np.float32], positions: NDArray[np.int64] | None = None) -> Answers:
        """As `run`, on one core."""

    def save(self, artefact: Artefact, path: str | os.PathLike[str]) -> None:
        """Write the model file, atomically."""


def together(size: tuple[int, int], most: int) -> int:
    """Pictures of this height and width that are fastest together, where those of 256 x 256 pixels are
    `most`."""
    return max(1, min(most, most * 256 * 256 // (size[0] * size[1])))


def inputs(
    images: NDArray[np.float32], positions: NDArray[np.int64] | None, located: bool
) -> dict[str, NDArray[Any]]:
    """The inputs of an exported network by name; `positions` (0 by default) where it is `located`, that is,
    told where in their pictures images lie."""
    if not located:
        return {"images": images}
    return {
        "images": images,
        "positions": np.zeros(len(images), np.int64) if positions is None else positions,
    }


def checked(
    scores: NDArray[np.float32], maps: NDArray[np.float32], count: int, size: tuple[int, int]
) -> Answers:
    """An exported network's answers for `count` pictures. FlawscopeError if they have other shapes than they
    should."""
    if (scores.shape, maps.shape) != ((count,), (count, *size)):
        raise FlawscopeError("the model's results have other shapes than they should: export it anew")
    return scores.astype(np.float32, copy=False), maps.astype(np.float32, copy=False)
