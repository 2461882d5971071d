"""Opens model files in the engines that run them. An engine is imported when a session is opened in it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

from flawscope.artefact import model_file, router_file
from flawscope.artefact.files import (
    ARCHIVE_SUFFIX,
    ENGINES,
    TRAINED_SUFFIX,
    several_products_error,
    suffix_of,
)
from flawscope.artefact.model_facts import ModelFacts
from flawscope.artefact.model_file import Artefact, Manifest
from flawscope.artefact.router_file import GRAPH, RouterArtefact
from flawscope.errors import InputError, missing_library_error
from flawscope.runtime import onnx_file, router_archive
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


def read_manifest(path: str | os.PathLike[str]) -> Manifest:
    """Reads the manifest of a model file of either kind. Weights are neither read nor checked."""
    return model_file.read_manifest(path) if _is_trained(path) else onnx_file.read_manifest(path)


def read(path: str | os.PathLike[str]) -> Artefact:
    """Reads and checks a model file; the network of an .onnx file is not loaded.

    Raises:
        InputError: one line that says what is wrong with the file.
    """
    return model_file.read(path) if _is_trained(path) else onnx_file.read(path)


def _is_trained(path: str | os.PathLike[str]) -> bool:
    """Whether a file of one product's model is a fitted one. InputError for a file of several."""
    if (suffix := suffix_of(path)) == ARCHIVE_SUFFIX:
        raise several_products_error(path)
    return suffix == TRAINED_SUFFIX


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
    if (chosen := _choose_engine(f"model {path}", _is_trained(path), precision, engine)) == "torch":
        return _import_torch_runtime().TorchSession.open(artefact, device, threads)  # type: ignore[no-any-return]
    return ExportedSession.from_file(exported_engine(chosen), artefact, path, device, threads, precision)


class OpenRouter(NamedTuple):
    """Router as it runs. describe: turns images into descriptors; None where nothing is recognised."""

    artefact: RouterArtefact
    sessions: dict[str, Session]
    describe: Describe | None


def open_router(
    path: str | os.PathLike[str] | RouterArtefact,
    engine: str | None = None,
    device: str = "auto",
    threads: int | None = None,
) -> OpenRouter:
    """Opens a router's file, or a fitted one in memory; arguments and errors as of `open_session`."""
    artefact = (
        path if isinstance(path, RouterArtefact) else router_file.read(path) if _is_fitted(path) else None
    )
    if artefact is not None:
        _choose_engine("this router", True, "fp32", engine)
        torch_runtime = _import_torch_runtime()
        opened = {
            name: torch_runtime.TorchSession.open(one, device, threads)
            for name, one in artefact.products.items()
        }
        torch_runtime.share_weights([*opened.values()], [*artefact.products.values()])
        if artefact.recognition is None:
            return OpenRouter(artefact, opened, None)
        network = torch_runtime.DescriptorNetwork.open(artefact.recognition, device)
        return OpenRouter(artefact, opened, torch_runtime.Describing(network))
    assert not isinstance(path, RouterArtefact)
    artefact, members = router_archive.read(path)
    sessions: dict[str, Session] = {}
    for name, one in artefact.products.items():
        precision = one.manifest.calibration.precision
        chosen = exported_engine(_choose_engine(f"model {members[name]}", False, precision, engine))
        sessions[name] = ExportedSession.from_file(chosen, one, members[name], device, threads, precision)
    if (by := artefact.recognition) is None:
        return OpenRouter(artefact, sessions, None)
    chosen = exported_engine(_choose_engine("this router", False, "fp32", engine))
    return OpenRouter(
        artefact, sessions, ExportedDescriptors(chosen, by.tensors[GRAPH].tobytes(), device, threads)
    )


def is_router(path: str | os.PathLike[str]) -> bool:
    """Whether a model file has models of several products or views. InputError: missing or damaged."""
    suffix = os.path.splitext(os.fspath(path))[1].lower()
    return suffix == ARCHIVE_SUFFIX or (suffix == TRAINED_SUFFIX and router_file.is_router(path))


def read_facts(path: str | os.PathLike[str]) -> ModelFacts:
    """Reads what a model file of any kind says of itself. Tensors and networks are not checked."""
    if not is_router(path):
        return ModelFacts.of(read_manifest(path))
    return router_file.read_facts(path) if _is_fitted(path) else router_archive.read_facts(path)


def save_router(
    artefact: RouterArtefact, sessions: Mapping[str, Session], path: str | os.PathLike[str]
) -> None:
    """Writes a router, fitted or exported as its sessions are, atomically. InputError: another suffix."""
    networks = {name: one.network for name, one in sessions.items() if isinstance(one, ExportedSession)}
    suffix = ARCHIVE_SUFFIX if networks else TRAINED_SUFFIX
    if os.path.splitext(os.fspath(path))[1].lower() != suffix:
        raise InputError(f"this router is saved as {suffix}; `flawscope export` makes the other kind")
    if not networks:
        return router_file.write(artefact, path)
    return router_archive.write(artefact, {name: one for name, one in networks.items() if one}, path)


def _is_fitted(path: str | os.PathLike[str]) -> bool:
    return os.path.splitext(os.fspath(path))[1].lower() == TRAINED_SUFFIX


def _import_torch_runtime() -> ModuleType:
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
    "Describe",
    "ExportedSession",
    "OpenRouter",
    "Run",
    "Runner",
    "Session",
    "check_threads",
    "exported_engine",
    "is_router",
    "open_router",
    "open_session",
    "read",
    "read_facts",
    "read_manifest",
    "save_router",
]
