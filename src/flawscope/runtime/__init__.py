"""Opens model files in the engines that run them. An engine is imported when a session is opened in it."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

from flawscope.artefact import model_file
from flawscope.artefact.files import ENGINES, TRAINED_SUFFIX, suffix_of
from flawscope.artefact.joint_file import JointArtefact
from flawscope.artefact.model_file import Artefact, Manifest
from flawscope.errors import InputError, missing_library_error
from flawscope.runtime import onnx_file
from flawscope.runtime.session import (
    Engine,
    ExportedSession,
    JointExportedSession,
    JointSession,
    Run,
    Runner,
    Session,
)


def read_manifest(path: str | os.PathLike[str]) -> Manifest:
    """Reads the manifest of a model file of either kind. Weights are neither read nor checked."""
    return (
        model_file.read_manifest(path) if suffix_of(path) == TRAINED_SUFFIX else onnx_file.read_manifest(path)
    )


def read(path: str | os.PathLike[str]) -> Artefact:
    """Reads and checks a model file; the network of an .onnx file is not loaded.

    Raises:
        InputError: one line that says what is wrong with the file.
    """
    return model_file.read(path) if suffix_of(path) == TRAINED_SUFFIX else onnx_file.read(path)


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
    precision = artefact.manifest.calibration.precision
    if (
        chosen := _choose_engine(f"model {path}", suffix_of(path) == TRAINED_SUFFIX, precision, engine)
    ) == "torch":
        return _import_torch_runtime().TorchSession.open(artefact, device, threads)  # type: ignore[no-any-return]
    return ExportedSession.from_file(exported_engine(chosen), artefact, path, device, threads, precision)


def open_joint_session(
    artefact: JointArtefact, engine: str | None = None, device: str = "auto", threads: int | None = None
) -> JointSession:
    """Opens a session for a joint model, as `open_session` does for a model of one product."""
    precision = next(iter(artefact.products.values())).manifest.calibration.precision
    if (chosen := _choose_engine("this joint model", not artefact.is_exported, precision, engine)) == "torch":
        return _import_torch_runtime().JointTorchSession.open(artefact, device, threads)  # type: ignore[no-any-return]
    return JointExportedSession(exported_engine(chosen), artefact, device, threads)


def _import_torch_runtime() -> Any:
    try:
        return import_module("flawscope.runtime.torch")
    except ImportError:
        raise missing_library_error("running a .safetensors model", "torch", extras="train") from None


def exported_engine(name: str) -> Engine:
    """The engine of this name, one of `ENGINES`. InputError where it is not installed."""
    if name == "openvino":
        from flawscope.runtime.openvino import OpenVino

        return OpenVino()
    from flawscope.runtime.onnxruntime import OnnxRuntime

    return OnnxRuntime()


def _choose_engine(model: str, trained: bool, precision: str, engine: str | None) -> str:
    """The engine that runs a model, `engine` where it is given. InputError where that does not run it."""
    if engine not in (None, *(["torch"] if trained else ENGINES)):
        runs = "torch runs it; export it first" if trained else f"use one of {', '.join(ENGINES)}"
        raise InputError(f"cannot run {model} with engine {engine!s:.20}: {runs}")
    if trained:
        return "torch"
    chosen = engine or ("openvino" if precision == "bf16" else ENGINES[0])
    if precision == "bf16" and chosen != "openvino":
        raise InputError(f"cannot run {model} with engine {chosen}: its bf16 is OpenVINO's alone")
    return chosen


def check_threads(threads: int | None) -> None:
    """InputError if the number of threads is below 1."""
    if threads is not None and threads < 1:
        raise InputError(f"cannot compute with {threads} threads: give 1 or more")


__all__ = [
    "ENGINES",
    "ExportedSession",
    "JointExportedSession",
    "JointSession",
    "Run",
    "Runner",
    "Session",
    "check_threads",
    "exported_engine",
    "open_joint_session",
    "open_session",
    "read",
    "read_manifest",
]
