"""Defines the session, an engine with a model's network in it, as a `Predictor` uses it; and the base of the
sessions of exported networks."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from flawscope.artefact import files
from flawscope.artefact.joint_file import JointArtefact, Recognised
from flawscope.artefact.model_file import Artefact
from flawscope.errors import FlawscopeError, one_line
from flawscope.machine import all_threads
from flawscope.runtime.onnx_file import Network

FEW, MANY = 8, 64  # pictures of 256 x 256 pixels: `MANY` for torch on a GPU

Answers = tuple[NDArray[np.float32], NDArray[np.float32]]  # scores `[B]` and maps `[B, H, W]`
Run = Callable[..., Answers]
JointAnswers = tuple[list[Recognised], NDArray[np.float32], NDArray[np.float32]]


class Session(Protocol):
    """Engine as a `Predictor` needs it."""

    runtime: str  # the engine's name
    suffix: str  # of the model files it runs
    size: tuple[int, int]

    @property
    def batch(self) -> int:
        """Number of pictures that are fastest together."""

    @property
    def lanes(self) -> int:
        """Number of calls of `run_alone` that are fastest under way at once; 1: `run` is as fast."""

    def run(self, images: NDArray[np.float32], positions: NDArray[np.int64] | None = None) -> Answers:
        """Runs images `[B, 3, H, W]` float32 in 0..1 to scores `[B]` and maps `[B, H, W]`, float32.

        Args:
            positions: `[B]`, numbers of the views in their pictures, where the model tells them apart; None:
                whole pictures.
        """

    def run_alone(self, images: NDArray[np.float32], positions: NDArray[np.int64] | None = None) -> Answers:
        """Does as `run`, on one core."""

    def save(self, artefact: Artefact, path: str | os.PathLike[str]) -> None:
        """Writes the model file, atomically."""


class JointSession(Protocol):
    """Engine of a joint model as a `JointPredictor` needs it: the network runs once, and then the picture is
    compared with one product."""

    runtime: str
    size: tuple[int, int]

    @property
    def products(self) -> Mapping[str, Session]:
        """A session of each product's model alone."""

    @property
    def batch(self) -> int:
        """Number of pictures that are fastest together."""

    @property
    def lanes(self) -> int:
        """Number of calls of `run_alone` that are fastest under way at once; 1: `run` is as fast."""

    def run(self, images: NDArray[np.float32]) -> JointAnswers:
        """Runs images `[B, 3, H, W]` float32 in 0..1: the product of each, and its score and map by the
        nearest product."""

    def run_alone(self, images: NDArray[np.float32]) -> JointAnswers:
        """Does as `run`, on one core."""

    def save(self, artefact: JointArtefact, path: str | os.PathLike[str]) -> None:
        """Writes the model file, atomically."""


def together(size: tuple[int, int], most: int) -> int:
    """Number of pictures of this height and width that are fastest together; `most` for 256 x 256 pixels."""
    return max(1, min(most, most * 256 * 256 // (size[0] * size[1])))


class ExportedSession(ABC):
    """Session that runs images `[B, 3, H, W]` float32 to scores `[B]` and maps `[B, H, W]` by the network of
    an .onnx file.

    Attributes:
        network: of the file that it was opened from; None: it came from none.
        located: the network is told where in their pictures images lie.
    """

    name: str  # of the engine, for people
    runtime: str
    suffix = ".onnx"

    def __init__(self, size: tuple[int, int], located: bool, on_cpu: bool, threads: int | None):
        self.network: Network | None = None
        self.size, self.located, self.on_cpu = size, located, on_cpu
        self.threads = threads or all_threads()

    def of_file(self, artefact: Artefact, path: str | os.PathLike[str]) -> Self:
        """Returns this session for the artefact that was read from `path`. InputError if they do not fit."""
        how = artefact.manifest.preprocess
        if (self.size, self.located) != (tuple(how.network_size), how.positions is not None):
            raise files.refused(path, "its size or its tiles are not its manifest's; export it anew")
        self.network = Network.of(path)
        return self

    @property
    def batch(self) -> int:
        """Number of pictures that are fastest together here. On a CPU one keeps all threads busy, and more of
        them only take memory (bench/latency.py)."""
        return 1 if self.on_cpu else together(self.size, FEW)

    def run(self, images: NDArray[np.float32], positions: NDArray[np.int64] | None = None) -> Answers:
        return self._answers(False, images, positions)

    def run_alone(self, images: NDArray[np.float32], positions: NDArray[np.int64] | None = None) -> Answers:
        return self._answers(True, images, positions)

    def _answers(
        self, alone: bool, images: NDArray[np.float32], positions: NDArray[np.int64] | None
    ) -> Answers:
        given: dict[str, NDArray[Any]] = {"images": images}
        if self.located:
            given["positions"] = np.zeros(len(images), np.int64) if positions is None else positions
        engine = self._engine(alone)
        try:
            scores, maps = self._computed(engine, given)
        except Exception as error:  # engines have no common class of errors
            raise FlawscopeError(f"{self.name} failed: {one_line(error)}") from None
        if (scores.shape, maps.shape) != ((len(images),), (len(images), *self.size)):
            raise FlawscopeError("the model's results have other shapes than they should: export it anew")
        return scores.astype(np.float32, copy=False), maps.astype(np.float32, copy=False)

    @abstractmethod
    def _engine(self, alone: bool) -> Any:
        """Returns the engine for one call; alone: with one thread."""

    @abstractmethod
    def _computed(self, engine: Any, given: dict[str, NDArray[Any]]) -> Sequence[NDArray[Any]]:
        """Returns the scores and maps of inputs by name."""

    def save(self, artefact: Artefact, path: str | os.PathLike[str]) -> None:
        """Writes this network with the artefact's manifest, atomically."""
        if self.network is None:
            raise FlawscopeError("a network without a file cannot be saved")
        self.network.save(artefact, path)
