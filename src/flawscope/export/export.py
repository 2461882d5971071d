"""A fitted model for another engine, with a certificate that it answers as the trained one does."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from flawscope.artefact import files, model_file
from flawscope.artefact.certificate import Certificate, compare
from flawscope.artefact.model_file import Artefact
from flawscope.errors import FlawscopeError, InputError, require_installed
from flawscope.export import eight_bits, onnx_graph
from flawscope.export.engines import Engine, open_embed, open_engine
from flawscope.export.pictures import Compared, Pictures
from flawscope.export.recalibrate import Reduced, one_by_one, recalibrated
from flawscope.methods import registry
from flawscope.pictures.decoding import Source
from flawscope.progress import Step, silent
from flawscope.runtime import openvino as openvino_files
from flawscope.runtime.torch import TorchSession

if TYPE_CHECKING:
    from onnx import ModelProto

    from flawscope.methods.detector import Detector

PRECISIONS = {".onnx": ("fp32", "fp16", "int8"), ".xml": ("fp32", "fp16", "bf16", "int8")}
NEEDED = {".onnx": ("onnx", "onnxscript"), ".xml": ("onnx", "onnxscript", "openvino")}
EXTRAS = {".onnx": "export", ".xml": "export,openvino"}


def export(
    model: str | os.PathLike[str] | Artefact,
    out: str | os.PathLike[str],
    *,
    precision: str = "fp32",
    pictures: Sequence[Source] = (),
    failures: list[str] | None = None,
    step: Step = silent,
) -> Certificate:
    """Write `model` for ONNX Runtime (.onnx) or OpenVINO (.xml, and .bin beside it), which then run it
    without torch, whatever its method.

    Args:
        model: a .safetensors file or what was read from one.
        precision: of `embed`; `score` is always computed in fp32. fp16: weights and memory bank are rounded
            to it and stored in it, and computed with in fp32; bf16 (.xml): computed in it, on processors that
            have it; int8: convolutions are computed in it.
        pictures: good ones to compare on; by default the model's own samples. A reduced precision is another
            detector and is calibrated anew, on these: those the model was fitted on will do if its method can
            leave a picture out, others always.
        failures: gets a line for every picture that cannot be read.

    Raises:
        InputError: a package is missing, there is nothing to compare or calibrate on, or the model is of no
            such kind.
        FlawscopeError: torch cannot export it, or what it exported differs beyond the certificate's
            tolerance. No file is written then.
    """
    artefact = model if isinstance(model, Artefact) else model_file.read(model)
    path = files.check_writable(out)
    suffix = path.suffix.lower()
    weights = openvino_files.weights_of(path)
    if suffix == ".xml" and weights.exists() and not path.exists():
        raise InputError(f"{weights} is there already and belongs to no model: choose another --out")
    _check(artefact, suffix, precision, pictures)
    given = Pictures(artefact, pictures, [] if failures is None else failures)
    shown = given.compared()
    trained = TorchSession.open(artefact, "cpu")
    if shown.images.shape[1:] != (3, *trained.size):
        raise InputError("the sample pictures do not have the model's size")

    step("network", 0, 2)
    rounded = TorchSession.open(_rounded(artefact), "cpu") if precision == "fp16" else trained
    embed, score = traced(artefact.manifest.method, rounded.model)
    step("network", 1, 2)
    how = None
    if precision == "int8":
        evidence = eight_bits.Evidence(embed, score, shown, artefact.manifest.calibration)
        embed, how = eight_bits.reduced(embed, given.for_ranges(), evidence, step)
    engine = open_engine(onnx_graph.join(embed, score), suffix, precision)
    step("network", 2, 2)

    if precision == "fp32":
        exported, certificate = artefact, _compared(artefact, engine, trained, shown)
    else:
        as_embed = open_embed(embed, suffix, precision)
        reduced = Reduced(precision, engine, as_embed, rounded.model, how)
        exported, certificate = recalibrated(trained, trained.model, reduced, given, shown, step)
    if not certificate.passed:
        raise FlawscopeError(
            f"the exported model is not the trained one, nothing written: {certificate.line()}"
        )
    engine.write(_certified(exported, certificate, engine), out)
    return certificate


def traced(method: str, model: Detector) -> tuple[ModelProto, ModelProto]:
    """`embed` and `score` of a method's model as graphs, with the method's own operators (`onnx_graph`)."""
    operators = registry.method(method).operators
    return onnx_graph.trace(model, {} if operators is None else operators())


def _certified(artefact: Artefact, certificate: Certificate, engine: Engine) -> Artefact:
    manifest = artefact.manifest
    made = {engine.session.runtime: engine.version, "opset": str(onnx_graph.OPSET)}
    manifest = replace(
        manifest,
        facts={**manifest.facts, "certificate": certificate.to_dict()},
        versions={**manifest.versions, **made},
    )
    return replace(artefact, manifest=manifest)


def _check(artefact: Artefact, suffix: str, precision: str, pictures: Sequence[Source]) -> None:
    if suffix not in PRECISIONS:
        raise InputError("exported models are .onnx (ONNX Runtime) or .xml (OpenVINO) files: name --out so")
    if precision not in PRECISIONS[suffix]:
        raise InputError(
            f"no precision {precision} in {suffix} files: use one of {', '.join(PRECISIONS[suffix])}"
        )
    if artefact.manifest.calibration.precision != "fp32":
        raise InputError("only models of precision fp32 can be exported: fit with --set precision=fp32")
    require_installed("export", *NEEDED[suffix], extras=EXTRAS[suffix])
    if precision != "fp32" and not pictures:
        raise InputError(
            f"{precision} is calibrated anew: give good pictures with --pictures, such as those the model "
            "was fitted on"
        )


def _rounded(artefact: Artefact) -> Artefact:
    """Its large tensors as fp16 has them."""

    def rounded(name: str, tensor: NDArray[Any]) -> NDArray[Any]:
        if tensor.dtype != np.float32 or tensor.size < onnx_graph.WORTH_HALVING:
            return tensor
        with np.errstate(over="ignore"):
            halves = tensor.astype(np.float16)
        if not np.isfinite(halves).all():
            raise FlawscopeError(f"numbers of {name} are too large for fp16: choose another --precision")
        return halves.astype(np.float32)

    return replace(artefact, tensors={k: rounded(k, v) for k, v in artefact.tensors.items()})


def _compared(artefact: Artefact, engine: Engine, trained: TorchSession, shown: Compared) -> Certificate:
    """In fp32: the same answers for the same pictures, and for some with simulated defects."""
    good, defective = (_same(artefact, engine, trained, those) for those in (shown, shown.spoilt()))
    return replace(good, simulated=defective.score)


def _same(artefact: Artefact, engine: Engine, trained: TorchSession, shown: Compared) -> Certificate:
    scores, maps = one_by_one(trained, shown)
    model, ties = trained.model, []
    with torch.inference_mode():
        for image in torch.from_numpy(shown.images).split(1):
            ties.append(model.ties(model.embed(image), model.inside(image)))
    return compare(
        engine.session,
        shown.images,
        scores,
        maps,
        calibration=artefact.manifest.calibration,
        runtime=engine.name,
        ties=torch.cat(ties).numpy(),
        positions=shown.positions,
    )
