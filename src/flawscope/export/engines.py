"""An exported network in the engine that will run it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from flawscope.artefact.model_file import Artefact
from flawscope.errors import FlawscopeError, one_line
from flawscope.export import onnx_graph
from flawscope.runtime import Session, onnx_check
from flawscope.runtime import onnx as onnx_files
from flawscope.runtime import openvino as openvino_files

if TYPE_CHECKING:
    from onnx import ModelProto
    from openvino import Model as OpenVinoModel

Embed = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True)
class Engine:
    """A network in its engine, and how it is written."""

    session: Session
    write: Callable[[Artefact, str | os.PathLike[str]], None]

    @property
    def version(self) -> str:
        """Of the engine itself: packages of several names bring it. OpenVINO's goes on with its commit."""
        return str(import_module(self.session.runtime).__version__).partition("-")[0]

    @property
    def name(self) -> str:
        return f"{self.session.runtime} {self.version}"


def open_engine(network: ModelProto, suffix: str, precision: str) -> Engine:
    """The engine of this kind of file.

    Raises:
        FlawscopeError: the network has an operator that the loader of model files would refuse, or the engine
            cannot convert it.
    """
    if suffix == ".onnx" and precision == "fp16":
        onnx_graph.halve(network)
    data: bytes = network.SerializeToString()
    try:
        onnx_check.check(data)
    except ValueError as error:
        raise FlawscopeError(f"this model cannot be exported: {error}; nothing written") from None
    if suffix == ".onnx":
        session = onnx_files.OnnxSession(data, "cpu")
        return Engine(session, lambda artefact, path: onnx_files.write(artefact, data, path))
    model = _openvino(data)
    if precision == "fp16":
        _halve(model)
    return Engine(
        openvino_files.OpenVinoSession(model, "cpu", precision=precision),
        lambda artefact, path: openvino_files.write(artefact, model, path),
    )


def open_embed(embed: ModelProto, suffix: str, precision: str) -> Embed:
    """Images to features, as the exported network computes them; several threads may ask at once."""
    data: bytes = embed.SerializeToString()
    if suffix == ".onnx":
        import onnxruntime

        engine = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
        return lambda images: engine.run(["features"], {"images": images})[0]
    hint = {"INFERENCE_PRECISION_HINT": openvino_files.HINTS[precision]}
    compiled = openvino_files.core().compile_model(_openvino(data), "CPU", hint)
    ask = compiled.create_infer_request
    return lambda images: np.array(ask().infer({"images": images})["features"], np.float32)


def _openvino(data: bytes) -> OpenVinoModel:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        path.write_bytes(data)
        try:  # read, not converted: converting makes constants of what is made of the memory bank, too
            return openvino_files.core().read_model(path)
        except Exception as error:
            raise FlawscopeError(f"OpenVINO cannot convert this model: {one_line(error)}") from None


def _halve(model: OpenVinoModel) -> None:
    """As `onnx_graph.halve`, for OpenVINO, whose converter undoes that."""
    ov = openvino_files.engine()
    for constant in model.get_ops():
        if constant.get_type_name() != "Constant" or constant.get_element_type() != ov.Type.f32:
            continue
        halves = onnx_graph.as_halves(constant.get_data())
        if halves is not None:
            wide = ov.opset13.convert(ov.opset13.constant(halves), "f32")
            for target in constant.output(0).get_target_inputs():
                target.replace_source_output(wide.output(0))
