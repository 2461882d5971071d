"""Opens model files in the engines that run them. An engine is imported when a session is opened in it."""

from __future__ import annotations

import os

from flawscope.artefact import files, model_file
from flawscope.artefact.joint_file import JointArtefact
from flawscope.artefact.model_file import Artefact, Manifest
from flawscope.errors import InputError, needs
from flawscope.runtime import onnx_file
from flawscope.runtime.session import JointSession, Run, Session

TRAINED, EXPORTED = ".safetensors", ".onnx"
SUFFIXES = (TRAINED, EXPORTED)  # of model files
ENGINES = ("onnxruntime", "openvino")  # that run exported files; torch runs the others


def suffix_of(path: str | os.PathLike[str]) -> str:
    """Returns the suffix of a model file, one of `SUFFIXES`. InputError if it has another."""
    suffix = os.path.splitext(os.fspath(path))[1].lower()
    if suffix not in SUFFIXES:
        with files.opened(path):  # that there is no such file, or that it is a folder, says more
            pass
        if suffix == ".xml":
            raise files.refused(
                path, "OpenVINO runs .onnx models now; export the .safetensors model as .onnx"
            )
        raise files.refused(path, f"models are {' or '.join(SUFFIXES)} files; name one of these")
    return suffix


def read_manifest(path: str | os.PathLike[str]) -> Manifest:
    """Reads the manifest of a model file of either kind. Weights are neither read nor checked."""
    return model_file.read_manifest(path) if suffix_of(path) == TRAINED else onnx_file.read_manifest(path)


def read(path: str | os.PathLike[str]) -> Artefact:
    """Reads and checks a model file; the network of an .onnx file is not loaded.

    Raises:
        InputError: one line that says what is wrong with the file.
    """
    return model_file.read(path) if suffix_of(path) == TRAINED else onnx_file.read(path)


def open_session(
    artefact: Artefact,
    path: str | os.PathLike[str],
    engine: str | None = None,
    device: str = "auto",
    threads: int | None = None,
) -> Session:
    """Opens a session for the artefact that was read from `path`.

    Args:
        engine: one of `ENGINES` for an .onnx model; None: ONNX Runtime, or OpenVINO for a model in bf16.

    Raises:
        InputError: the engine does not run such a file or is not installed, or it cannot use this model.
    """
    trained, precision = suffix_of(path) == TRAINED, artefact.manifest.calibration.precision
    if engine not in (None, *(["torch"] if trained else ENGINES)):
        runs = "torch runs it; export it as .onnx" if trained else f"use one of {', '.join(ENGINES)}"
        raise InputError(f"cannot run model {path} with engine {engine!s:.20}: {runs}")
    if trained:
        try:
            from flawscope.runtime.torch import TorchSession
        except ImportError:
            raise needs("running a .safetensors model", "torch", extras="train") from None
        return TorchSession.open(artefact, device, threads)
    if (engine or ("openvino" if precision == "bf16" else None)) == "openvino":
        from flawscope.runtime.openvino import OpenVinoSession

        return OpenVinoSession.open(artefact, path, device, threads)
    if precision == "bf16":
        raise InputError(f"cannot run model {path} with engine onnxruntime: its bf16 is OpenVINO's alone")
    from flawscope.runtime.onnxruntime import OnnxSession

    return OnnxSession.open(artefact, path, device, threads)


def open_joint_session(
    artefact: JointArtefact, engine: str | None = None, device: str = "auto", threads: int | None = None
) -> JointSession:
    """Opens a session for a joint model: in torch, or of an exported one in ONNX Runtime. InputError: the
    engine does not run it, or is not installed."""
    runs = "onnxruntime" if artefact.is_exported else "torch"
    if engine not in (None, runs):
        raise InputError(f"cannot run this joint model with engine {engine!s:.20}: {runs} runs it")
    if artefact.is_exported:
        from flawscope.runtime.onnxruntime import JointOnnxSession

        return JointOnnxSession(artefact, device, threads)
    try:
        from flawscope.runtime.torch import JointTorchSession
    except ImportError:
        raise needs("running a .safetensors model", "torch", extras="train") from None
    return JointTorchSession.open(artefact, device, threads)


def check_threads(threads: int | None) -> None:
    """InputError if the number of threads is below 1."""
    if threads is not None and threads < 1:
        raise InputError(f"cannot compute with {threads} threads: give 1 or more")


__all__ = [
    "ENGINES",
    "EXPORTED",
    "SUFFIXES",
    "TRAINED",
    "JointSession",
    "Run",
    "Session",
    "check_threads",
    "open_joint_session",
    "open_session",
    "read",
    "read_manifest",
    "suffix_of",
]
