"""Runs exported networks in ONNX Runtime, also those of a joint model."""

from __future__ import annotations

import os
from threading import Lock
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from flawscope.artefact import joint_file
from flawscope.artefact.joint_file import EMBED, SCORE, JointArtefact
from flawscope.artefact.model_file import Artefact
from flawscope.errors import FlawscopeError, InputError, one_line
from flawscope.runtime import onnx_check
from flawscope.runtime.session import FEW, Answers, ExportedSession, JointAnswers, together


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


class JointOnnxSession:
    """Joint session of exported networks: the shared one turns images into features and descriptors, and a
    product's own turns features into scores and maps."""

    runtime = OnnxSession.runtime
    lanes = 1

    def __init__(self, artefact: JointArtefact, device: str = "auto", threads: int | None = None):
        """InputError where a network does something that is not known, or has other inputs and outputs."""
        first = next(iter(artefact.products.values()))
        height, width = first.manifest.preprocess.network_size
        self.size, self.recogniser = (height, width), artefact.recogniser
        self._embed = _checked(first.tensors[EMBED], device, threads, ["features", "descriptors"])
        on_cpu = self._embed.get_providers()[0] == "CPUExecutionProvider"
        self.batch = 1 if on_cpu else together(self.size, FEW)
        self.products = {
            name: ProductSession(self, _checked(one.tensors[SCORE], device, threads, ["scores", "maps"]))
            for name, one in artefact.products.items()
        }

    def features(self, images: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Features [B, P, D] and descriptors [B, D'] of images."""
        features, descriptors = _computed(self._embed, {"images": images})
        return features, descriptors

    def run(self, images: NDArray[np.float32]) -> JointAnswers:
        features, descriptors = self.features(images)
        found = self.recogniser.recognise(descriptors)
        answers = [
            self.products[one.nearest].score(features[k : k + 1], images[k : k + 1])
            for k, one in enumerate(found)
        ]
        scores, maps = (np.concatenate(part) for part in zip(*answers, strict=True))
        return found, scores, maps

    run_alone = run

    def save(self, artefact: JointArtefact, path: str | os.PathLike[str]) -> None:
        joint_file.write(artefact, path)


class ProductSession:
    """Session of one product of an exported joint model."""

    runtime = OnnxSession.runtime
    suffix = joint_file.SUFFIX
    lanes = 1

    def __init__(self, joint: JointOnnxSession, engine: onnxruntime.InferenceSession):
        self.joint, self.engine, self.size, self.batch = joint, engine, joint.size, joint.batch
        self.looks = any(one.name == "images" for one in engine.get_inputs())  # where pictures are padded

    def run(self, images: NDArray[np.float32], positions: NDArray[np.int64] | None = None) -> Answers:
        return self.score(self.joint.features(images)[0], images)

    run_alone = run

    def score(self, features: NDArray[np.float32], images: NDArray[np.float32]) -> Answers:
        """Turns features into scores [B] and maps [B, H, W]."""
        given = {"features": features} | ({"images": images} if self.looks else {})
        scores, maps = _computed(self.engine, given)
        if (scores.shape, maps.shape) != ((len(images),), (len(images), *self.size)):
            raise FlawscopeError("the model's results have other shapes than they should: export it anew")
        return scores, maps

    def save(self, artefact: Artefact, path: str | os.PathLike[str]) -> None:
        raise InputError("a product of an exported joint model is no model by itself: take the fitted one's")


def _checked(
    network: NDArray[np.uint8], device: str, threads: int | None, results: list[str]
) -> onnxruntime.InferenceSession:
    """Opens a network of a joint model, after it has been checked as one in an .onnx file is."""
    data = network.tobytes()
    try:
        onnx_check.check(data)
    except ValueError as error:
        raise InputError(f"cannot use this joint model: {error}; export it anew") from None
    try:
        engine = _opened(data, device, threads)
    except InputError:
        raise
    except Exception as error:  # its exceptions have no common class of their own
        raise InputError(f"ONNX Runtime cannot use this joint model: {one_line(error)}") from None
    if [one.name for one in engine.get_outputs()] != results:
        raise InputError("cannot use this joint model: it has other outputs; export it anew")
    return engine


def _computed(engine: onnxruntime.InferenceSession, given: dict[str, Any]) -> list[NDArray[np.float32]]:
    try:
        found: list[NDArray[np.float32]] = engine.run(None, given)
    except Exception as error:  # its exceptions have no common class of their own
        raise FlawscopeError(f"ONNX Runtime failed: {one_line(error)}") from None
    return found


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
