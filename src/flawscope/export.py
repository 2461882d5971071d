"""A fitted model as one .onnx file, with a certificate that it answers as the trained one does."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import os
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from flawscope import artefact as artefacts
from flawscope.artefact import Artefact
from flawscope.certificate import Certificate
from flawscope.detector import Detector
from flawscope.errors import FlawscopeError, InputError
from flawscope.runtime import Session, onnx_metadata
from flawscope.runtime.onnx import OnnxSession
from flawscope.runtime.onnx import write as write_onnx
from flawscope.runtime.torch import TorchSession

BATCHES = (1, 3)
OPSET, IR = 18, 8  # the file format that came with the operators: ONNX Runtime 1.17 reads it


def export(
    model: str | os.PathLike[str] | Artefact,
    out: str | os.PathLike[str],
    *,
    samples: NDArray[Any] | None = None,
) -> Certificate:
    """Write `model` as an .onnx file that ONNX Runtime runs without torch, whatever its method.

    Args:
        model: a .safetensors file or what was read from one.
        samples: pictures to compare on, `[N, 3, H, W]`, uint8 or float32 in 0..1. None: the model's own.

    Raises:
        InputError: a package is missing, there is nothing to compare on, or the model is of no such kind.
        FlawscopeError: torch cannot export it, or what it exported differs beyond the certificate's
            tolerance. No file is written then.
    """
    artefact = model if isinstance(model, Artefact) else artefacts.read(model)
    artefacts.check_writable(out, ".onnx")
    if artefact.manifest.calibration.precision != "fp32":
        raise InputError("only models of precision fp32 can be exported: fit with --set precision=fp32")
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"export needs {' and '.join(missing)}: pip install 'flawscope[export]'")
    samples = artefact.tensors.get("samples") if samples is None else samples
    if samples is None or not len(samples):
        raise InputError("the model holds no sample pictures to compare on: give some with --pictures")
    images = samples.astype(np.float32) / 255.0 if samples.dtype == np.uint8 else samples
    session = TorchSession.open(artefact, "cpu")
    if images.shape[1:] != (3, *session.size):
        raise InputError("the sample pictures do not have the model's size")

    network = to_onnx(session.model)
    certificate = compare(session, OnnxSession(network, "cpu"), artefact, images)
    if not certificate.passed:
        raise FlawscopeError(
            f"the exported model is not the trained one, nothing written: {certificate.line()}"
        )
    manifest = replace(
        artefact.manifest,
        facts={**artefact.manifest.facts, "certificate": certificate.to_dict()},
        versions={**artefact.manifest.versions, "onnxruntime": onnxruntime.__version__, "opset": str(OPSET)},
    )
    write_onnx(replace(artefact, manifest=manifest), network, out)
    return certificate


def to_onnx(model: Detector) -> bytes:
    """The detector's `forward` as one .onnx message: pictures of its size, any number of them at once."""
    held = {id(t): t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers())}
    if sum(held.values()) > onnx_metadata.LIMIT * 0.9:
        raise InputError(
            f"the model has {sum(held.values()) / 2**30:.1f} GiB and an .onnx file holds 2: "
            "fit with a smaller memory bank"
        )
    example = torch.zeros(2, 3, *model.size)
    try:
        with _quiet(), torch.no_grad():
            program: Any = torch.onnx.export(
                model,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=["images"],
                output_names=["scores", "maps"],
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
                external_data=False,
                verbose=False,
            )
            proto = program.model_proto
            _forget_origin(proto)
            proto.ir_version = IR
            network: bytes = proto.SerializeToString()
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:  # the exporter wraps the reason several times
            cause = cause.__cause__
        reason = " ".join(str(cause).split()) or type(cause).__name__
        raise FlawscopeError(f"torch {torch.__version__} cannot export this model: {reason:.200}") from error
    return network


def compare(
    trained: Session, exported: Session, artefact: Artefact, images: NDArray[np.float32]
) -> Certificate:
    """Both models on the same pictures, in batches of every size; a batch that is not full takes the first
    pictures again."""
    count = len(images)
    parts = [trained.run(images[k : k + 1]) for k in range(count)]
    scores, maps = (np.concatenate(part) for part in zip(*parts, strict=True))
    calibration = artefact.manifest.calibration
    score = map_ = 0.0
    changed: set[int] = set()
    for batch in BATCHES:
        for start in range(0, count, batch):
            chosen = np.arange(start, start + batch) % count
            found, drawn = exported.run(np.ascontiguousarray(images[chosen]))
            score = max(score, _difference(found, scores[chosen]))
            map_ = max(map_, _difference(drawn, maps[chosen]))
            other = calibration.is_anomalous(found) != calibration.is_anomalous(scores[chosen])
            changed |= set(chosen[other].tolist())
    runtime = f"{exported.runtime} {onnxruntime.__version__}"
    return Certificate(count, BATCHES, score, map_, len(changed), runtime)


def _difference(found: NDArray[Any], expected: NDArray[Any]) -> float:
    away = np.abs(found.astype(np.float64) - expected) / np.maximum(np.abs(expected), 1.0)
    return float(np.nan_to_num(away, nan=np.inf).max())


def _forget_origin(proto: Any) -> None:
    """The exporter notes at every step which source line it came from, with this machine's paths."""
    graphs = [proto.graph]
    for part in (proto.graph, *proto.functions):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")
    while graphs:
        graph = graphs.pop()
        for entry in (*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
            entry.ClearField("doc_string")
            entry.ClearField("metadata_props")
        graphs += [a.g for node in graph.node for a in node.attribute if a.HasField("g")]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter prints and warns about its own insides."""
    before = logging.root.manager.disable
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)
