"""Runs exported networks in ONNX Runtime, also those of a joint model."""

from __future__ import annotations

import os
from threading import Lock
from typing import Any

import onnxruntime
from numpy.typing import NDArray

from flawscope.artefact.model_file import Artefact
from flawscope.errors import InputError, one_line
from flawscope.runtime.joint import Graph, JointExportedSession
from flawscope.runtime.session import ExportedSession


class OnnxSession(ExportedSession):
    """Session: images `[B, 3, H, W]` float32 to scores `[B]` and maps `[B, H, W]`, on the CPU or with
    CUDA."""

    runtime, name = "onnxruntime", "ONNX Runtime"

    def __init__(
        self, model: str | os.PathLike[str] | bytes, device: str = "auto", threads: int | None = None
    ):
        """
        Args:
            model: an .onnx file or its bytes.
            device: auto (the CPU), cpu or cuda.
            threads: that compute one picture; None: as many as there are cores.
        """
        name = "the exported network" if isinstance(model, bytes) else os.fspath(model)
        try:
            self.engine = _opened(model if isinstance(model, bytes) else name, device, threads)
        except InputError:
            raise
        except Exception as error:  # its exceptions have no common class of their own
            raise InputError(f"ONNX Runtime cannot use model {name}: {one_line(error)}") from None
        images = {i.name: (i.type, i.shape) for i in self.engine.get_inputs()}
        located = images.pop("positions", ("", []))[0] == "tensor(int64)"
        kind, shape = images.get("images", ("", []))
        height, width = shape[2:] if len(shape) == 4 else (None, None)
        right = len(images) == 1 and kind == "tensor(float)" and shape[1:2] == [3]
        right = right and [o.name for o in self.engine.get_outputs()] == ["scores", "maps"]
        if not (right and isinstance(height, int) and isinstance(width, int)):
            raise InputError(f"cannot use model {name}: it has other inputs and outputs; export it anew")
        on_cpu = self.engine.get_providers()[0] == "CPUExecutionProvider"
        super().__init__((height, width), located, on_cpu, threads)
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
        return cls(path, device, threads).of_file(artefact, path)

    @property
    def lanes(self) -> int:
        """Number of threads on a CPU, where a file holds the network; else 1."""
        return self.threads if self.on_cpu and self.network is not None else 1

    def _engine(self, alone: bool) -> onnxruntime.InferenceSession:
        """Returns the engine for one call. alone: a second engine with one thread, because all calls of an
        engine share its threads and wait for each other's; but the first engine where the file has another
        network by now."""
        if not alone or not self.on_cpu or self.network is None:
            return self.engine
        with self._opening:
            if self._single is None:
                unchanged = self.network.is_unchanged()
                self._single = _opened(self.network.path, "cpu", 1) if unchanged else self.engine
            return self._single

    def _computed(self, engine: Any, given: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        found: list[NDArray[Any]] = engine.run(["scores", "maps"], given)
        return found


class JointOnnxSession(JointExportedSession):
    """Joint session in ONNX Runtime, on the CPU or with CUDA."""

    runtime, name = OnnxSession.runtime, OnnxSession.name

    def _opened(self, network: bytes, precision: str) -> Graph:
        engine = _opened(network, self.device, self.threads)
        inputs, results = ([one.name for one in end] for end in (engine.get_inputs(), engine.get_outputs()))
        on_cpu = engine.get_providers()[0] == "CPUExecutionProvider"
        return Graph(inputs, results, on_cpu, lambda given: engine.run(None, given))


def _opened(model: str | bytes, device: str, threads: int | None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors come as exceptions; they need not be printed too
    if threads is not None:
        options.intra_op_num_threads = threads
    providers = _providers(device)
    if len(providers) > 1 and hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()  # CUDA from beside torch, else as usual
    engine = onnxruntime.InferenceSession(model, options, providers=providers)
    if len(providers) > 1 and engine.get_providers() == ["CPUExecutionProvider"]:  # it does not report that
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
