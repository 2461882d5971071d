"""Opens model files in the engines that run them. Each engine is imported when its first session opens."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

from flawscope.artefact.descriptors import GRAPH
from flawscope.artefact.files import ARCHIVE_SUFFIX, ENGINES, TRAINED_SUFFIX
from flawscope.artefact.model_file import Artefact
from flawscope.artefact.model_mapping import ModelMapping
from flawscope.errors import InputError, missing_library_error
from flawscope.runtime import model_files
from flawscope.runtime.model_files import (
    Path,
    StoredModel,
    is_fitted,
    is_router,
    read_facts,
    read_fitted,
    read_manifest,
    read_one,
)
from flawscope.runtime.onnx_file import Place
from flawscope.runtime.session import (
    Describe,
    Engine,
    ExportedDescriptors,
    ExportedSession,
    Run,
    Runner,
    Session,
)

if TYPE_CHECKING:
    from types import ModuleType


def open_session(
    artefact: Artefact,
    path: Place,
    engine: str | None = None,
    device: str = "auto",
    threads: int | None = None,
) -> Session:
    """Open a session for one product's model.

    Args:
        artefact: The model, as read from `path`.
        path: The model file, or its place in a .zip.
        engine: One of `ENGINES` for an .onnx model; None: ONNX Runtime, or OpenVINO for a model in bf16.
            For a .safetensors model: torch or None.
        device: Name of a device of the engine; auto: torch chooses, the other engines take the CPU.
        threads: Number of CPU threads; None: the engine's default.

    Raises:
        InputError: The engine does not run such a file or is not installed, or it cannot use this model.
    """
    precision = artefact.manifest.calibration.precision
    chosen = _choose_engine(f"model {path}", is_fitted(path), precision, engine)
    if chosen == "torch":
        opened: Session = _import_torch_runtime().TorchSession.open(artefact, device, threads)
        return opened
    return ExportedSession.from_file(exported_engine(chosen), artefact, path, device, threads, precision)


class OpenModel(NamedTuple):
    """Model that is ready to run.

    Attributes:
        mapping: The models of all products or views.
        sessions: The session of each product or view, by its name.
        describe: Turns images into descriptors; None where nothing is recognised.
    """

    mapping: ModelMapping
    sessions: dict[str, Session]
    describe: Describe | None


def open_model(
    model: Path | ModelMapping,
    engine: str | None = None,
    device: str = "auto",
    threads: int | None = None,
) -> OpenModel:
    """Open a model file of any kind, or a fitted model in memory.

    Args:
        model: The model file, or a fitted model.
        engine: One of `ENGINES` for an exported model; None: ONNX Runtime, or OpenVINO for a model in bf16.
            For a fitted model: torch or None.
        device: Name of a device of the engine; auto: torch chooses, the other engines take the CPU.
        threads: Number of CPU threads; None: the engine's default.

    Raises:
        InputError: The file cannot be read, or the engine is not installed or cannot use the model.
    """
    if isinstance(model, ModelMapping):
        stored = StoredModel(model, dict.fromkeys(model.products, f"model{TRAINED_SUFFIX}"))
    else:
        stored = model_files.read(model)
    mapping, places = stored
    sessions = {}
    for name, product in mapping.products.items():
        sessions[name] = open_session(product, places[name], engine, device, threads)
    fitted = all(is_fitted(place) for place in places.values())
    if fitted and len(sessions) > 1:
        _import_torch_runtime().share_weights([*sessions.values()], [*mapping.products.values()])
    by = mapping.recognition
    if by is None:
        return OpenModel(mapping, sessions, describe=None)
    if fitted:
        torch_runtime = _import_torch_runtime()
        describing = torch_runtime.Describing(torch_runtime.DescriptorNetwork.open(by, device))
        return OpenModel(mapping, sessions, describing)
    chosen = exported_engine(_choose_engine("this router", trained=False, precision="fp32", engine=engine))
    graph = by.tensors[GRAPH].tobytes()
    return OpenModel(mapping, sessions, ExportedDescriptors(chosen, graph, device, threads))


def save_router(mapping: ModelMapping, sessions: Mapping[str, Session], path: Path) -> None:
    """Write a router atomically, fitted or exported as its sessions are.

    Raises:
        InputError: The suffix of `path` is not the one of such a router.
    """
    networks = {}
    for name, session in sessions.items():
        if isinstance(session, ExportedSession) and session.network is not None:
            networks[name] = session.network
    suffix = ARCHIVE_SUFFIX if networks else TRAINED_SUFFIX
    if os.path.splitext(os.fspath(path))[1].lower() != suffix:
        raise InputError(f"this router is saved as {suffix}; `flawscope export` makes the other kind")
    model_files.write(mapping, path, networks)


def _import_torch_runtime() -> ModuleType:
    try:
        return import_module("flawscope.runtime.torch")
    except ImportError:
        raise missing_library_error("running a .safetensors model", "torch", extras="train") from None


def exported_engine(name: str) -> Engine:
    """Return the engine of this name, one of `ENGINES`; raise InputError where it is not installed."""
    if name == "openvino":
        from flawscope.runtime.openvino import OpenVino

        return OpenVino()
    from flawscope.runtime.onnxruntime import OnnxRuntime

    return OnnxRuntime()


def _choose_engine(model: str, trained: bool, precision: str, engine: str | None) -> str:
    """Return the name of the engine that runs a model.

    Args:
        model: Names the model in errors.
        trained: Whether it is fitted; else it is exported.
        precision: The precision that it was calibrated in.
        engine: The wanted engine; None: any.

    Raises:
        InputError: The wanted engine does not run the model.
    """
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
    """Raise InputError if the number of threads is below 1."""
    if threads is not None and threads < 1:
        raise InputError(f"cannot compute with {threads} threads: give 1 or more")


__all__ = [
    "ENGINES",
    "Describe",
    "ExportedSession",
    "OpenModel",
    "Run",
    "Runner",
    "Session",
    "check_threads",
    "exported_engine",
    "is_router",
    "open_model",
    "open_session",
    "read_facts",
    "read_fitted",
    "read_manifest",
    "read_one",
    "save_router",
]
