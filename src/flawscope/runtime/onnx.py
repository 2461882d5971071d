"""The ONNX Runtime session, and the .onnx model file: neither needs torch.

The file's metadata hold what a .safetensors model holds in its header: the manifest, the sample pictures, and
hashes of both and of everything else.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Lock
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from flawscope.artefact import embedded, files
from flawscope.artefact.embedded import SHA256
from flawscope.artefact.model_file import KEY, Artefact, Manifest
from flawscope.errors import FlawscopeError, InputError, one_line
from flawscope.machine import all_threads
from flawscope.runtime import FEW, inputs, onnx_check, together
from flawscope.runtime import onnx_metadata as metadata

# ------------------------------------------------------------------------------------------------- the file


def read_manifest(path: str | os.PathLike[str]) -> Manifest:
    """The manifest alone. Weights are neither read nor checked."""
    with _mapped(path) as data:
        return embedded.manifest(_entries(data, path), path)


def read(path: str | os.PathLike[str]) -> Artefact:
    """Manifest, sample pictures and region of interest. Weights are checked, and stay where they are.

    Raises:
        InputError: one line that says what is wrong with the file.
    """
    with _mapped(path) as data:
        entries = _entries(data, path)
        manifest = embedded.manifest(entries, path)
        if embedded.digest(metadata.body(data, KEY)) != entries.get(SHA256):
            raise files.bad(path, "its network was altered or damaged")
        try:
            onnx_check.check(data)
        except ValueError as error:
            raise files.refused(path, f"{error}; export it anew") from None
        return Artefact(manifest, embedded.tensors(entries, manifest, path))


def write(artefact: Artefact, network: metadata.Buffer, path: str | os.PathLike[str]) -> None:
    """A network (an .onnx file's bytes) with this artefact's manifest and samples, atomically."""
    entries = embedded.pack(artefact, {SHA256: embedded.digest(metadata.body(network, KEY))})
    with files.atomic(path) as file:
        metadata.write(file, metadata.body(network, KEY), entries)


def open_session(
    artefact: Artefact, path: str | os.PathLike[str], device: str = "auto", threads: int | None = None
) -> OnnxSession:
    """The session of the artefact that was read from `path`."""
    return OnnxSession.open(artefact, path, device, threads)


def _entries(data: memoryview, path: Any) -> dict[str, str]:
    try:
        return metadata.read(data, KEY)
    except ValueError:
        raise files.bad(path, embedded.FOREIGN) from None


@contextmanager
def _mapped(path: str | os.PathLike[str]) -> Iterator[memoryview]:
    with files.opened(path) as file:
        if not 0 < os.fstat(file.fileno()).st_size <= metadata.LIMIT:
            raise files.bad(path, "it is empty, or larger than an .onnx file can be")
        with (
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
            memoryview(mapped) as view,
        ):
            yield view


# ---------------------------------------------------------------------------------------------- the session


class OnnxSession:
    """Images `[B, 3, H, W]` float32 to scores `[B]` and maps `[B, H, W]`, on the CPU or with CUDA."""

    runtime = "onnxruntime"
    suffix = ".onnx"

    def __init__(
        self, model: str | os.PathLike[str] | bytes, device: str = "auto", threads: int | None = None
    ):
        """
        Args:
            model: an .onnx file or its bytes.
            device: auto (the CPU), cpu or cuda.
            threads: that compute one picture; None: as many as there are cores.
        """
        self.path = None if isinstance(model, bytes) else os.fspath(model)
        self.digest: str | None = None  # of the file, as it was opened
        self.threads = threads or all_threads()
        name = self.path or "the exported network"
        try:
            self.engine = _engine(self.path or model, device, threads)
        except InputError:
            raise
        except Exception as error:  # its exceptions have no common class of their own
            raise InputError(f"ONNX Runtime cannot use model {name}: {one_line(error)}") from None
        images = {i.name: (i.type, i.shape) for i in self.engine.get_inputs()}
        outputs = [o.name for o in self.engine.get_outputs()]
        kind, shape = images.get("images", ("", []))
        height, width = shape[2:] if len(shape) == 4 else (None, None)
        self.located = images.pop("positions", ("", []))[0] == "tensor(int64)"
        right = len(images) == 1 and kind == "tensor(float)" and shape[1:2] == [3]
        if not (right and isinstance(height, int) and isinstance(width, int)) or outputs != [
            "scores",
            "maps",
        ]:
            raise InputError(f"cannot use model {name}: it has other inputs and outputs; export it anew")
        self.size = (height, width)
        self.on_cpu = self.engine.get_providers()[0] == "CPUExecutionProvider"
        self._single: onnxruntime.InferenceSession | None = None  # computes with one thread; when it is asked
        self._opening = Lock()

    @classmethod
    def open(
        cls,
        artefact: Artefact,
        path: str | os.PathLike[str],
        device: str = "auto",
        threads: int | None = None,
    ) -> OnnxSession:
        """The session of the artefact that was read from `path`."""
        session = cls(path, device, threads)
        if session.size != tuple(artefact.manifest.preprocess.network_size):
            raise InputError(f"cannot use model {path}: its size is not its manifest's; export it anew")
        if session.located != (artefact.manifest.preprocess.positions is not None):
            raise InputError(f"cannot use model {path}: its tiles are not its manifest's; export it anew")
        with _mapped(path) as network:
            session.digest = _entries(network, path).get(SHA256)  # `read` has compared it
        return session

    @property
    def batch(self) -> int:
        """Pictures that are fastest together here. On a CPU one keeps all threads busy, and more of them only
        take memory (bench/latency.py)."""
        return 1 if self.on_cpu else together(self.size, FEW)

    @property
    def lanes(self) -> int:
        """One a thread, where a file holds the network."""
        return self.threads if self.on_cpu and self.digest is not None else 1

    def _alone(self) -> onnxruntime.InferenceSession:
        """The network once more, with one thread: all calls share the threads of a session, and wait for each
        other's. They do where the file has another network by now."""
        if not self.on_cpu or self.path is None:
            return self.engine
        with self._opening:
            if self._single is None:
                self._single = self.engine
                with suppress(InputError, ValueError), _mapped(self.path) as network:
                    if embedded.digest(metadata.body(network, KEY)) == self.digest:
                        self._single = _engine(self.path, "cpu", 1)
            return self._single

    def run_alone(
        self, images: NDArray[np.float32], positions: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return self._run(self._alone(), images, positions)

    def run(
        self, images: NDArray[np.float32], positions: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return self._run(self.engine, images, positions)

    def _run(
        self,
        engine: onnxruntime.InferenceSession,
        images: NDArray[np.float32],
        positions: NDArray[np.int64] | None,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        try:
            scores, maps = engine.run(["scores", "maps"], inputs(images, positions, self.located))
        except Exception as error:
            raise FlawscopeError(f"ONNX Runtime failed: {one_line(error)}") from None
        count = len(images)
        if (scores.shape, maps.shape) != ((count,), (count, *self.size)):
            raise FlawscopeError("the model's results have other shapes than they should: export it anew")
        return scores.astype(np.float32, copy=False), maps.astype(np.float32, copy=False)

    def save(self, artefact: Artefact, path: str | os.PathLike[str]) -> None:
        """This network with the artefact's manifest: weights are copied byte by byte."""
        if self.path is None:
            raise FlawscopeError("a network without a file cannot be saved")
        with _mapped(self.path) as network:
            if embedded.digest(metadata.body(network, KEY)) != self.digest:
                raise files.refused(self.path, "it has changed since it was opened; open it again")
            write(artefact, network, path)


def _engine(
    model: str | bytes | os.PathLike[str], device: str, threads: int | None
) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors come as exceptions; they need not be printed too
    if threads is not None:
        options.intra_op_num_threads = threads
    providers = _providers(device)
    if len(providers) > 1 and hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()  # CUDA as it lies beside torch; what is not there is looked for as ever
    engine = onnxruntime.InferenceSession(model, options, providers=providers)
    if len(providers) > 1 and engine.get_providers() == ["CPUExecutionProvider"]:  # it says nothing of that
        raise InputError(
            "this ONNX Runtime cannot load CUDA: use --device cpu, or install the CUDA and cuDNN that its "
            "onnxruntime-gpu asks for"
        )
    return engine


def _providers(device: str) -> list[Any]:
    kind, _, number = device.partition(":")
    if kind in ("auto", "cpu") and not number:
        return ["CPUExecutionProvider"]
    if kind != "cuda" or (number and not number.isdigit()):
        raise InputError(f"ONNX Runtime has no device {device}: use auto, cpu or cuda")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise InputError("this ONNX Runtime has no CUDA: use --device cpu, or install onnxruntime-gpu")
    return [("CUDAExecutionProvider", {"device_id": number or "0", "use_tf32": "0"}), "CPUExecutionProvider"]
