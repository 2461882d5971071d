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
        device: Name of a device of the engine; auto: torch chooses one, the other engines use the CPU.
        threads: Number of CPU threads; None: the engine's default.

    Raises:
        InputError: The engine does not run such files, is not installed, or cannot use this model.
    """
    precision = artefact.manifest.calibration.precision
    engine_name = _choose_engine(f"model {path}", is_fitted(path), precision, engine)
    if engine_name == "torch":
        session: Session = _import_torch_runtime().TorchSession.open(artefact, device, threads)
        return session
    exported = exported_engine(engine_name)
    return ExportedSession.from_file(exported, artefact, path, device, threads, precision)


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
        device: Name of a device of the engine; auto: torch chooses one, the other engines use the CPU.
        threads: Number of CPU threads; None: the engine's default.

    Raises:
        InputError: The file cannot be read, or the engine is not installed or cannot use the model.
    """
    if isinstance(model, ModelMapping):
        # a model in memory has no file: the suffix of its place says that it is fitted
        stored = StoredModel(model, dict.fromkeys(model.products, f"model{TRAINED_SUFFIX}"))
    else:
        stored = model_files.read(model)
    mapping, places = stored
    sessions = {}
    for name, product in mapping.products.items():
        sessions[name] = open_session(product, places[name], engine, device, threads)
    are_fitted = all(is_fitted(place) for place in places.values())
    if are_fitted and len(sessions) > 1:
        _import_torch_runtime().share_weights([*sessions.values()], [*mapping.products.values()])
    recognition = mapping.recognition
    if recognition is None:
        return OpenModel(mapping, sessions, describe=None)
    if are_fitted:
        torch_runtime = _import_torch_runtime()
        network = torch_runtime.DescriptorNetwork.open(recognition, device)
        return OpenModel(mapping, sessions, torch_runtime.Describing(network))
    engine_name = _choose_engine("this router", trained=False, precision="fp32", engine=engine)
    graph = recognition.tensors[GRAPH].tobytes()
    describe = ExportedDescriptors(exported_engine(engine_name), graph, device, threads)
    return OpenModel(mapping, sessions, describe)


def save_router(mapping: ModelMapping, sessions: Mapping[str, Session], path: Path) -> None:
    """Write a router atomically, as a fitted or an exported one, depending on its sessions.

    Args:
        mapping: The models.
        sessions: The session of each product, by its name.
        path: File to write: .safetensors for fitted models, .zip for exported ones.

    Raises:
        InputError: `path` does not have the suffix that the sessions need.
    """
    networks = {}  # network of each exported model, by name
    for name, session in sessions.items():
        if isinstance(session, ExportedSession) and session.network is not None:
            networks[name] = session.network
    suffix = ARCHIVE_SUFFIX if networks else TRAINED_SUFFIX
    if os.path.splitext(os.fspath(path))[1].lower() != suffix:
        raise InputError(f"this router is saved as {suffix}; `flawscope export` makes the other kind")
    model_files.write(mapping, path, networks)


def _import_torch_runtime() -> ModuleType:
    """Return the module `flawscope.runtime.torch`; raise an error where torch is missing."""
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
        model: Name of the model for errors.
        trained: Whether the model is fitted; else it is exported.
        precision: The precision that the model was calibrated in.
        engine: The engine that a user chose; None: any.

    Raises:
        InputError: The chosen engine does not run the model.
    """
    if trained:
        if engine not in (None, "torch"):
            raise InputError(f"cannot run {model} with engine {engine!s:.20}: torch runs it; export it first")
        return "torch"
    if engine not in (None, *ENGINES):
        raise InputError(f"cannot run {model} with engine {engine!s:.20}: use one of {', '.join(ENGINES)}")
    if precision != "bf16":
        return engine or ENGINES[0]
    if engine not in (None, "openvino"):
        raise InputError(f"cannot run {model} with engine {engine}: its bf16 is OpenVINO's alone")
    return "openvino"


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
