"""Defines sessions, which run a model's network in an engine, and the session of exported networks.

A `Predictor` uses any session; `ExportedSession` is the same for all engines of exported networks.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from threading import Lock
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from flawscope.artefact import files
from flawscope.artefact.model_file import Artefact
from flawscope.errors import ExcludedPictureError, FlawscopeError, InputError, one_line_message
from flawscope.machine import SMALL_BATCH, batch_size_for
from flawscope.runtime import onnx_check
from flawscope.runtime.onnx_file import Member, NetworkFile
from flawscope.types import Array

Answers = tuple[NDArray[np.float32], NDArray[np.float32]]  # scores `[B]` and maps `[B, H, W]`
Run = Callable[..., Answers]
Describe = Callable[
    [NDArray[np.float32]], NDArray[np.float32]
]  # images `[B, 3, H, W]` to descriptors `[B, D]`


class Runner(Protocol):
    """Engine with a network in it."""

    runtime: str  # the engine's name
    size: tuple[int, int]

    @property
    def batch(self) -> int:
        """Batch size that is fastest."""

    @property
    def lanes(self) -> int:
        """Number of concurrent calls of `run_alone` that is fastest; 1: `run` is as fast."""

    @property
    def run(self) -> Callable[..., Any]:
        """Function that runs a batch of images on all threads."""

    @property
    def run_alone(self) -> Callable[..., Any]:
        """Function with the arguments and results of `run` that computes on one core."""


class Session(Runner, Protocol):
    """Engine as a `Predictor` needs it."""

    suffix: str  # of the model files it runs

    def run(self, images: NDArray[np.float32]) -> Answers:
        """Return scores `[B]` and maps `[B, H, W]`, float32, of images `[B, 3, H, W]` float32 in 0..1."""

    def residuals(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the differences `[B, C, h, w]` float32 between images `[B, 3, H, W]` and good images.

        Raises:
            InputError: The network does not compute differences.
        """

    def run_without(self, artefact: Artefact, unit: int) -> Run:
        """Return a `run` of the model as it would be without the training pictures of a unit.

        The returned function raises ExcludedPictureError where these pictures cannot be left out.
        """

    def save(self, artefact: Artefact, path: str | os.PathLike[str]) -> None:
        """Write the model file, atomically."""


# ------------------------------------------------------------------------------------------ exported networks

RESULTS = ["scores", "maps"]  # results of an exported model
RESIDUALS = "residuals"  # further result of a model that names kinds of defects, computed separately
Inputs = Mapping[str, Array]
Compute = Callable[[Inputs], Sequence[Array]]  # inputs by name to the results, in their order


class Graph(NamedTuple):
    """Exported network, opened in an engine.

    Attributes:
        inputs: Type, f32 or i64, and shape of each input, by its name; a side of None may have any length.
        results: Names of the results, without `RESIDUALS`.
        on_cpu: Whether it runs on the CPU.
        run: Computes the results.
        lanes: Number of concurrent calls that is fastest, each on one core; 1: `run` is as fast.
        open_alone: Opens the network for calls on one core.
        open_residuals: Opens the part that computes `RESIDUALS`; None: the network has none.
    """

    inputs: Mapping[str, tuple[str, Sequence[int | None]]]
    results: Sequence[str]
    on_cpu: bool
    run: Compute
    lanes: int = 1
    open_alone: Callable[[], Compute] | None = None
    open_residuals: Callable[[], Compute] | None = None


class Engine(ABC):
    """Engine of exported networks.

    Attributes:
        runtime: The engine's name in options, one of `ENGINES`.
        name: The engine's name in messages.
    """

    runtime: str
    name: str

    @abstractmethod
    def open(
        self, network: str | bytes, device: str = "auto", threads: int | None = None, precision: str = "fp32"
    ) -> Graph:
        """Open an .onnx file, or its bytes.

        Args:
            network: Path of the file, or its bytes.
            device: Name of a device of this engine; auto: the CPU.
            threads: Number of threads that compute one picture; None: as many as there are cores.
            precision: The precision that the model was calibrated in: fp32, int8 or bf16.

        Raises:
            InputError: The engine lacks the device or the precision, or cannot use the network.
            Exception: Any error of the engine itself.
        """

    def open_checked(
        self,
        network: str | bytes,
        what: str,
        results: Sequence[str],
        device: str = "auto",
        threads: int | None = None,
        precision: str = "fp32",
    ) -> Graph:
        """Open a network and check the names of its results; turn errors of the engine into InputError.

        Args:
            network: Path of an .onnx file, or its bytes.
            what: Name of the network for errors, such as `model part.onnx`.
            results: Names that the network's results must have, in this order. The network may have
                `RESIDUALS` in addition.
            device: Name of a device of this engine; auto: the CPU.
            threads: Number of threads that compute one picture; None: as many as there are cores.
            precision: The precision that the model was calibrated in: fp32, int8 or bf16.

        Raises:
            InputError: The network cannot be used, or has other results.
        """
        try:
            graph = self.open(network, device, threads, precision)
        except InputError as error:
            raise InputError(f"cannot use {what}: {error}") from None
        except Exception as error:  # engines have no common class of errors
            raise InputError(f"{self.name} cannot use {what}: {one_line_message(error)}") from None
        if list(graph.results) != list(results):
            raise mismatch_error(what)
        return graph

    def run_checked(self, run: Compute, inputs: Inputs) -> Sequence[NDArray[np.float32]]:
        """Return a network's results as float32; raise FlawscopeError where the engine fails."""
        try:
            return [array.astype(np.float32, copy=False) for array in run(inputs)]
        except Exception as error:  # engines have no common class of errors
            raise FlawscopeError(f"{self.name} failed: {one_line_message(error)}") from None

    def score(self, run: Compute, inputs: Inputs, count: int, size: tuple[int, int]) -> Answers:
        """Return scores `[count]` and maps `[count, *size]`; raise FlawscopeError for other shapes."""
        scores, maps = self.run_checked(run, inputs)
        has_shapes = scores.shape == (count,) and maps.shape == (count, *size)
        if not has_shapes:
            raise FlawscopeError("the model's results have other shapes than they should: export it anew")
        return scores, maps


def mismatch_error(what: str) -> InputError:
    """Return the error for a network, named by `what`, whose inputs or outputs are not the expected ones."""
    return InputError(f"cannot use {what}: it has other inputs and outputs; export it anew")


class ExportedSession:
    """Session of an exported network, from an .onnx file or its bytes, in any engine.

    Images `[B, 3, H, W]` float32 become scores `[B]` and maps `[B, H, W]`.

    Args:
        engine: The engine that runs the network.
        model: Path of the .onnx file, or its bytes.
        device: Name of a device of the engine; auto: the CPU.
        threads: Number of threads that compute one picture; None: as many as there are cores.
        precision: The precision that the model was calibrated in: fp32, int8 or bf16.

    Attributes:
        network: The network in its file; None: it was opened from bytes.
        graph: The network as the engine has opened it.
        size: Height and width of its images, in pixels.
    """

    suffix = ".onnx"

    def __init__(
        self,
        engine: Engine,
        model: str | os.PathLike[str] | bytes,
        device: str = "auto",
        threads: int | None = None,
        precision: str = "fp32",
    ):
        network = model if isinstance(model, bytes) else os.fspath(model)
        name = "model the exported network" if isinstance(network, bytes) else f"model {network}"
        self.engine = engine
        self.runtime = engine.runtime
        self._open_arguments = (device, threads, precision)
        self.network: NetworkFile | None = None
        self.graph = engine.open_checked(network, name, RESULTS, device, threads, precision)
        inputs = dict(self.graph.inputs)
        dtype, shape = inputs.pop("images", ("", ()))
        has_other_inputs = bool(inputs)
        if dtype != "f32" or len(shape) != 4 or has_other_inputs:
            raise mismatch_error(name)
        batch, channels, height, width = shape
        # a side of None may have any length: only the batch may be such a side
        if batch is not None or channels != 3 or not height or not width:
            raise mismatch_error(name)
        self.size = (int(height), int(width))
        self._run_alone: Compute | None = None  # opened by the first call
        self._residuals: Compute | None = None  # opened by the first call
        self._opening_lock = Lock()

    @classmethod
    def from_file(
        cls,
        engine: Engine,
        artefact: Artefact,
        path: str | os.PathLike[str] | Member,
        device: str = "auto",
        threads: int | None = None,
        precision: str = "fp32",
    ) -> Self:
        """Open the session of a model file.

        Args:
            engine: The engine that runs the network.
            artefact: The model, as read from `path`.
            path: The model file.
            device: Name of a device of the engine; auto: the CPU.
            threads: Number of threads that compute one picture; None: as many as there are cores.
            precision: The precision that the model was calibrated in: fp32, int8 or bf16.

        Raises:
            InputError: The network cannot be used, or does not fit the artefact's manifest.
        """
        network = path.read() if isinstance(path, Member) else path
        session = cls(engine, network, device, threads, precision)
        if session.size != tuple(artefact.manifest.preprocess.network_size):
            raise files.unusable_file_error(path, "its size is not its manifest's; export it anew")
        session.network = NetworkFile.open(path)
        return session

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the path of the network, not the network: another process opens the file again."""
        if self.network is None:
            raise FlawscopeError("a network without a file cannot be pickled")
        return _open_again, (type(self.engine), self.network, *self._open_arguments)

    def __deepcopy__(self, _: object) -> Self:
        return self  # a network is only read, and several threads may

    @property
    def batch(self) -> int:
        """Batch size that is fastest.

        On a CPU it is 1: one picture keeps all threads busy, and larger batches only take more memory
        (bench/latency.py).
        """
        return 1 if self.graph.on_cpu else batch_size_for(self.size, SMALL_BATCH)

    @property
    def lanes(self) -> int:
        """Number of concurrent calls of `run_alone` that is fastest; 1: `run` is as fast."""
        return self.graph.lanes

    def run(self, images: NDArray[np.float32]) -> Answers:
        """Return scores `[B]` and maps `[B, H, W]` of images `[B, 3, H, W]`, on the session's threads."""
        return self._answers(self.graph.run, images)

    def run_alone(self, images: NDArray[np.float32]) -> Answers:
        """Return scores `[B]` and maps `[B, H, W]` of images `[B, 3, H, W]`, on one core.

        The first call opens the network a second time for one core. Where that is impossible, the images are
        run on all threads.
        """
        with self._opening_lock:
            if self._run_alone is None:
                # the second session reads the file again: a changed file would contain another network
                can_open = self.network is None or self.network.is_unchanged()
                if can_open and self.lanes > 1 and self.graph.open_alone is not None:
                    self._run_alone = self.graph.open_alone()
                else:
                    self._run_alone = self.graph.run
        return self._answers(self._run_alone, images)

    def residuals(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the differences `[B, C, h, w]` between images and good images.

        Raises:
            InputError: The network does not compute differences.
        """
        if self.graph.open_residuals is None:
            raise InputError(
                "this exported model does not say how pictures differ: `flawscope kinds` takes the "
                ".safetensors model; export it then"
            )
        with self._opening_lock:
            if self._residuals is None:
                self._residuals = self.graph.open_residuals()
        (differences,) = self.engine.run_checked(self._residuals, {"images": images})
        return differences

    def run_without(self, artefact: Artefact, unit: int) -> Run:
        """Return a function that raises ExcludedPictureError: an exported network cannot be changed."""

        def refuse(images: NDArray[np.float32]) -> Answers:
            raise ExcludedPictureError("an exported network cannot leave out what it has learnt from")

        return refuse

    def _answers(self, run: Compute, images: NDArray[np.float32]) -> Answers:
        """Return scores and maps of images, computed by `run`."""
        return self.engine.score(run, {"images": images}, len(images), self.size)

    def save(self, artefact: Artefact, path: str | os.PathLike[str]) -> None:
        """Write this network with the artefact's manifest, atomically."""
        if self.network is None:
            raise FlawscopeError("a network without a file cannot be saved")
        self.network.save(artefact, path)


def _open_again(
    engine: type[Engine], network: NetworkFile, device: str, threads: int | None, precision: str
) -> ExportedSession:
    """Open a pickled session again; raise InputError if its file is missing or has changed."""
    if not network.is_unchanged():
        raise files.unusable_file_error(network.path, "it is gone or has changed since; load it again")
    path = network.path
    model = path.read() if isinstance(path, Member) else path
    session = ExportedSession(engine(), model, device, threads, precision)
    session.network = network
    return session


class ExportedDescriptors:
    """Exported descriptor network of a router, as a function: images `[B, 3, H, W]` to descriptors `[B, D]`.

    Args:
        engine: The engine that runs the network.
        graph: The network, as bytes of an .onnx file.
        device: Name of a device of the engine; auto: the CPU.
        threads: Number of threads that compute one picture; None: as many as there are cores.

    Raises:
        InputError: The network has unknown operations, or other outputs.
    """

    def __init__(self, engine: Engine, graph: bytes, device: str = "auto", threads: int | None = None):
        what = "this router's recognition"
        try:
            onnx_check.check(graph)
        except ValueError as error:
            raise InputError(f"cannot use {what}: {error}; export it anew") from None
        self._engine = engine
        self._arguments = (graph, device, threads)
        self._run = engine.open_checked(graph, what, ["descriptors"], device, threads).run

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return descriptors `[B, D]` of images `[B, 3, H, W]`; raise FlawscopeError if the engine fails."""
        return self._engine.run_checked(self._run, {"images": images})[0]

    def __reduce__(self) -> tuple[object, ...]:
        return ExportedDescriptors, (self._engine, *self._arguments)

    def __deepcopy__(self, _: object) -> Self:
        return self
