"""Exports a joint model: one network for all products, and one for each product's search, in one file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flawscope.artefact import joint_file
from flawscope.artefact.certificate import Certificate
from flawscope.artefact.joint_file import EMBED, SCORE, SUFFIX, JointArtefact
from flawscope.errors import FlawscopeError, InputError, require_installed
from flawscope.export import onnx_graph
from flawscope.export.export import certified, compared
from flawscope.export.recalibrate import Engine, Pictures
from flawscope.methods import registry
from flawscope.pictures.decoding import Source
from flawscope.progress import Step, silent
from flawscope.runtime.torch import TorchSession

KEPT = ("roi", "samples", "sample_maps")  # tensors that are needed beside the networks


def export_joint(
    model: str | os.PathLike[str] | JointArtefact,
    out: str | os.PathLike[str],
    *,
    pictures: Mapping[str, Sequence[Source]] = MappingProxyType({}),
    step: Step = silent,
) -> dict[str, Certificate]:
    """Writes a joint model for ONNX Runtime, which needs no torch: ONNX graphs in a joint model's file.

    Args:
        model: a fitted one, or its file.
        pictures: good ones of the products to compare on; of those without any, the model's own samples.

    Returns:
        Each product's certificate.

    Raises:
        InputError: a package is missing, the model is exported already, or a product has no sample pictures.
        FlawscopeError: torch cannot export it, or an answer differs beyond the certificate's tolerance. No
            file is written then.
    """
    artefact = model if isinstance(model, JointArtefact) else joint_file.read(model)
    if artefact.is_exported:
        raise InputError("this is an exported model: name the file that it was made from")
    if os.path.splitext(os.fspath(out))[1].lower() != SUFFIX:
        raise InputError(f"an exported joint model is a {SUFFIX} file with the networks in it; name --out so")
    first = next(iter(artefact.products.values())).manifest
    if first.calibration.precision != "fp32":
        raise InputError("only models of precision fp32 can be exported: fit with --set precision=fp32")
    require_installed("export", "onnx", "onnxscript", extras="export")
    from flawscope.runtime.onnxruntime import JointOnnxSession

    shown = {
        name: Pictures(one, pictures.get(name, ())).compared() for name, one in artefact.products.items()
    }
    trained = {name: TorchSession.open(one, "cpu") for name, one in artefact.products.items()}
    operators = registry.method(first.method).operators
    translations = {} if operators is None else operators()
    networks: dict[str, NDArray[np.uint8]] = {}
    for done, (name, fitted) in enumerate(trained.items()):
        step("network", done, len(trained))
        onnx_graph.prepare(fitted.model)
        if not networks:
            networks[EMBED] = _bytes(onnx_graph.trace_described(fitted.model, translations))
        networks[name] = _bytes(onnx_graph.trace_score(fitted.model, translations))
    products = {
        name: replace(
            one,
            tensors={
                **{key: one.tensors[key] for key in KEPT if key in one.tensors},
                EMBED: networks[EMBED],
                SCORE: networks[name],
            },
        )
        for name, one in artefact.products.items()
    }
    made = replace(artefact, products=products)
    session, certificates = JointOnnxSession(made, "cpu"), dict[str, Certificate]()
    for name, one in products.items():
        engines = [Engine(session.products[name])]
        [certificate] = compared(one, engines, trained[name], shown[name])
        if not certificate.passed:
            raise FlawscopeError(
                f"{name}: the exported model is not the trained one, nothing written: {certificate.line()}"
            )
        certificates[name], products[name] = certificate, certified(one, [certificate], engines)
    step("network", len(trained), len(trained))
    joint_file.write(replace(made, products=products), out)
    return certificates


def _bytes(network: Any) -> NDArray[np.uint8]:
    return np.frombuffer(network.SerializeToString(), np.uint8)
