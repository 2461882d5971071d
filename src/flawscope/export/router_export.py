"""Exports a router: a .zip with an .onnx model of each product and the network that recognises products."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType

import numpy as np
import torch

from flawscope.artefact import files
from flawscope.artefact.certificate import Certificate
from flawscope.artefact.descriptors import GRAPH, DescriptorModel
from flawscope.artefact.files import ARCHIVE_SUFFIX, EXPORTED_SUFFIX
from flawscope.artefact.model_file import unpack_images
from flawscope.artefact.model_mapping import ModelMapping
from flawscope.errors import FlawscopeError, InputError
from flawscope.export import onnx_graph
from flawscope.export.export import check_exportable, engines_for, export
from flawscope.methods.descriptors import DescriptorNetwork
from flawscope.methods.good_pictures import add_defect
from flawscope.pictures.decoding import PictureSource
from flawscope.predictor.recognition import Recogniser
from flawscope.progress import ProgressCallback, ignore_progress
from flawscope.runtime import exported_engine, model_files, onnx_file
from flawscope.runtime.onnx_file import NetworkFile
from flawscope.runtime.session import ExportedDescriptors
from flawscope.runtime.torch import Describing

TOLERANCE = 1e-3  # largest difference of a descriptor's numbers between engines; its length is 1


def export_router(
    model: str | os.PathLike[str] | ModelMapping,
    out: str | os.PathLike[str],
    *,
    precision: str = "fp32",
    only: str | None = None,
    pictures: Mapping[str, Sequence[PictureSource]] = MappingProxyType({}),
    threads: int | None = None,
    failures: list[str] | None = None,
    step: ProgressCallback = ignore_progress,
) -> dict[str, Certificate]:
    """Write a router as a .zip, which ONNX Runtime and OpenVINO run without torch.

    Args:
        model: A fitted router, or its file.
        out: The .zip to write.
        precision: Precision of the products' features: fp32 or bf16. Products are recognised in fp32.
        only: The product that has this precision, while the others have fp32; None: all.
        pictures: Good pictures of each product, by its name, to compare and calibrate on, as for `export`.
        threads: Number of threads that compute; None: as many as there are cores.
        failures: Gets a line for every picture that cannot be read.
        step: Called with the stage, the steps done and the number of steps.

    Returns:
        Each product's certificate of the engine that runs it by default.

    Raises:
        InputError: A product cannot be exported; its name precedes the message of `export`.
        FlawscopeError: An export failed, or an engine recognises another product than the model. No file is
            written then.
    """
    mapping = model if isinstance(model, ModelMapping) else model_files.read_fitted(model)
    path = files.check_writable(out, ARCHIVE_SUFFIX)
    precisions = {}
    for name in mapping.products:
        has_precision = only is None or name == only
        precisions[name] = precision if has_precision else "fp32"
    if only not in (None, *precisions):
        raise InputError(f"the model has no product {only!s:.60}: it knows {', '.join(precisions)}")
    certificates = {}
    # name of a product -> its exported network, and its exported artefact
    networks = dict[str, NetworkFile]()
    products = {}
    recognition = None
    if mapping.recognition is not None:
        recognition = _export_recognition(mapping.recognition, threads)
    with TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        for number, (name, product) in enumerate(mapping.products.items()):
            exported_path = Path(folder) / f"{number}{EXPORTED_SUFFIX}"
            product_pictures = pictures.get(name, ())
            try:
                check_exportable(product, precisions[name], product_pictures)
                certificates[name] = export(
                    product,
                    exported_path,
                    precision=precisions[name],
                    pictures=product_pictures,
                    threads=threads,
                    failures=failures,
                    step=step,
                )
            except FlawscopeError as error:
                raise type(error)(f"{name}: {error}") from error
            networks[name] = NetworkFile.open(exported_path)
            products[name] = onnx_file.read(exported_path)
        model_files.write(replace(mapping, products=products, recognition=recognition), path, networks)
    return certificates


def _export_recognition(recognition: DescriptorModel, threads: int | None) -> DescriptorModel:
    """Return the network that recognises products as an ONNX graph, after a check of all installed engines.

    Raises:
        FlawscopeError: An engine recognises another product than torch, or its descriptors differ.
    """
    network = DescriptorNetwork.open(recognition, "cpu")
    onnx_graph.prepare_trace(network)
    example = {"images": torch.zeros(2, 3, *network.size)}
    graph = onnx_graph.trace_module(network, example, ["descriptors"]).SerializeToString()
    images = [unpack_images(packed) for packed in recognition.samples.values()]
    rng = np.random.default_rng(0)
    images.append(rng.random((1, 3, *network.size), np.float32))  # noise, for models without samples
    images += [add_defect(product_images[:1], rng) for product_images in images]
    describe_by_torch = Describing(network)
    recogniser = Recogniser(recognition.known)
    for engine in map(exported_engine, engines_for("fp32")):
        describe = ExportedDescriptors(engine, graph, "cpu", threads)
        for image in np.concatenate(images)[:, None]:  # each as a batch of one
            expected = describe_by_torch(image)
            descriptor = describe(image)
            expected_product = recogniser.recognise(expected)[0].nearest
            is_same_product = recogniser.recognise(descriptor)[0].nearest == expected_product
            is_near = np.abs(descriptor - expected).max() <= TOLERANCE  # False for NaN
            if not (is_same_product and is_near):
                raise FlawscopeError(f"{engine.name} recognises products otherwise, nothing written")
    return replace(recognition, tensors={GRAPH: np.frombuffer(graph, np.uint8)})
