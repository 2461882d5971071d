"""Exports a joint model: one network for all products, and one for each product's search, in one file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain, zip_longest
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flawscope.artefact import joint_file
from flawscope.artefact.certificate import Certificate
from flawscope.artefact.joint_file import EMBED_GRAPH, SCORE_GRAPH, SUFFIX, JointArtefact
from flawscope.artefact.model_file import Artefact
from flawscope.calibration.recognition import (
    DEFECT_COUNT,
    MAX_GOOD,
    MAX_PER_LIGHT,
    ProductDescriptors,
    Recogniser,
)
from flawscope.errors import FlawscopeError, InputError
from flawscope.export import eight_bits, onnx_graph
from flawscope.export.export import certify_export, check_exportable, engines_for, open_embed
from flawscope.export.recalibrate import ExportPictures, ProbeImages, ReducedModel, add_defect, change_light
from flawscope.methods import registry
from flawscope.pictures.decoding import PictureSource
from flawscope.pictures.light import light_variations
from flawscope.progress import ProgressCallback, ignore_progress
from flawscope.runtime import JointExportedSession, Session, exported_engine
from flawscope.runtime.session import ProductSession
from flawscope.runtime.torch import JointTorchSession
from flawscope.synthesis import DefectScale

KEPT_TENSORS = ("roi", "samples", "sample_maps")  # tensors that are needed beside the networks
Products = Mapping[str, Artefact]


def export_joint(
    model: str | os.PathLike[str] | JointArtefact,
    out: str | os.PathLike[str],
    *,
    precision: str = "fp32",
    pictures: Mapping[str, Sequence[PictureSource]] = MappingProxyType({}),
    failures: list[str] | None = None,
    step: ProgressCallback = ignore_progress,
) -> dict[str, Certificate]:
    """Writes a joint model for ONNX Runtime and OpenVINO, which need no torch: ONNX graphs in a joint model's
    file.

    Args:
        model: a fitted one, or its file.
        precision: as for `export`: the shared network is reduced once, and each product calibrated anew.
        pictures: good ones of the products to compare on; of those without any, the model's own samples. A
            reduced precision needs them of every product, and describes the products by them.
        failures: gets a line for every picture that cannot be read.

    Returns:
        Each product's certificate of the engine that runs the file by default.

    Raises:
        InputError: a package is missing, the model is exported already, or a product lacks pictures.
        FlawscopeError: torch cannot export it, an answer differs beyond the certificate's tolerance, or a
            product is mistaken. No file is written then.
    """
    artefact = model if isinstance(model, JointArtefact) else joint_file.read(model)
    if artefact.is_exported:
        raise InputError("this is an exported model: name the file that it was made from")
    if os.path.splitext(os.fspath(out))[1].lower() != SUFFIX:
        raise InputError(f"an exported joint model is a {SUFFIX} file with the networks in it; name --out so")
    lines, given = [] if failures is None else failures, dict[str, ExportPictures]()
    for name, one in artefact.products.items():
        with _name_product_in_errors(name):
            check_exportable(one, precision, pictures.get(name, ()))
            given[name] = ExportPictures(one, pictures.get(name, ()), lines)
    shown = {name: one.probe_images() for name, one in given.items()}
    trained = JointTorchSession.open(artefact, "cpu")
    embed, scores = _trace_networks(artefact.products, trained, step)
    how = None
    if precision == "int8":
        embed, how = _quantize_shared(embed, scores, given, shown, step)
    graph = _serialize(embed)
    networks = {name: {EMBED_GRAPH: graph, SCORE_GRAPH: _serialize(one)} for name, one in scores.items()}
    opened = replace(artefact, products=_with_networks(artefact.products, networks, precision))
    engines = map(exported_engine, engines_for(precision))
    sessions = [JointExportedSession(engine, opened, "cpu") for engine in engines]
    known = dict(artefact.descriptors)
    if precision != "fp32" and artefact.views is None:  # another network, with descriptors of its own
        known = {name: _describe_product(sessions[0], one) for name, one in given.items()}
    rule, certificates = Recogniser(known), dict[str, Certificate]()
    as_embed, products = open_embed(embed, sessions[0].runtime, precision), dict[str, Artefact]()
    for name, good in given.items():
        own = [session.products[name] for session in sessions]
        line = None if how is None else how.describe()
        made = ReducedModel(precision, own, as_embed, trained.products[name], line)
        with _name_product_in_errors(name):
            mistaken = None if artefact.views else _mistake_counter(trained, rule, name, shown[name])
            products[name], (certificates[name], *_) = certify_export(made, good, shown[name], step, mistaken)
    joint_file.write(replace(artefact, products=_with_networks(products, networks), descriptors=known), out)
    return certificates


@contextmanager
def _name_product_in_errors(product: str) -> Iterator[None]:
    """Names the product in errors."""
    try:
        yield
    except FlawscopeError as error:
        raise type(error)(f"{product}: {error}") from error


def _trace_networks(
    products: Products, trained: JointTorchSession, step: ProgressCallback
) -> tuple[Any, dict[str, Any]]:
    """The shared network, and each product's, as graphs."""
    first, scores = next(iter(products.values())).manifest, dict[str, Any]()
    operators = registry.method(first.method).operators
    translations = {} if operators is None else operators()
    onnx_graph.prepare_trace(trained.first.model)
    embed = onnx_graph.trace_joint_embed(trained.first.model, translations)
    for name, one in trained.products.items():
        step("network", len(scores), len(products))
        onnx_graph.prepare_trace(one.model)
        scores[name] = onnx_graph.trace_score(one.model, translations)
    step("network", len(products), len(products))
    return embed, scores


def _quantize_shared(
    embed: Any,
    scores: Mapping[str, Any],
    given: Mapping[str, ExportPictures],
    shown: Mapping[str, ProbeImages],
    step: ProgressCallback,
) -> tuple[Any, eight_bits.QuantizationSummary]:
    """The shared network in 8 bits, with ranges from all products in turn: as much of it as no product
    forbids."""
    each = [
        eight_bits.QuantizationErrorMeter(embed, scores[name], shown[name], one.artefact.manifest.calibration)
        for name, one in given.items()
    ]

    def worst(made: Any) -> tuple[float, float]:
        found, drawn = zip(*(evidence(made) for evidence in each), strict=True)
        return max(found), max(drawn)

    in_turn = chain.from_iterable(zip_longest(*(one.for_ranges() for one in given.values())))
    return eight_bits.quantize_embed(embed, (image for image in in_turn if image is not None), worst, step)


def _with_networks(
    products: Products, networks: Mapping[str, Mapping[str, NDArray[np.uint8]]], precision: str | None = None
) -> dict[str, Artefact]:
    """The products with their networks instead of what was learnt, and in another precision."""
    made = {}
    for name, one in products.items():
        kept = {key: one.tensors[key] for key in KEPT_TENSORS if key in one.tensors}
        made[name] = replace(one, tensors={**kept, **networks[name]})
        if precision is not None:
            calibration = replace(one.manifest.calibration, precision=precision)
            made[name] = replace(made[name], manifest=replace(one.manifest, calibration=calibration))
    return made


def _describe_product(session: JointExportedSession, given: ExportPictures) -> ProductDescriptors:
    """Describes good pictures, in each light of the range in which the model keeps its rate, and simulated
    defects on them, as the exported network sees them: in their own light."""
    manifest = given.artefact.manifest
    learnt_groups: dict[str, int] = manifest.facts.get("calibration_groups", {})
    plain = replace(manifest, preprocess=replace(manifest.preprocess, normalization=None))
    pictures = replace(
        given,
        artefact=replace(given.artefact, manifest=plain),
        sources=given.sources[:: -(-len(given) // MAX_GOOD)],
        failures=[],
    )
    first_new = 1 + max(learnt_groups.values(), default=0)
    light = manifest.preprocess.normalization
    others = [] if light is None else light_variations(light.share)[1:]
    groups, carriers, groups_shown, lights = dict[str, int](), list[int](), list[int](), list[int]()
    good, defective = list[NDArray[np.float32]](), list[NDArray[np.float32]]()
    rng, sizes = np.random.default_rng(0), [*DefectScale]
    for digest, views in pictures.read():
        if digest in groups:  # of copies one
            continue
        image, groups[digest] = views.images([0]), learnt_groups.get(digest, first_new + len(groups))
        seen = [image, *(change_light(image, one) for one in others if len(groups) <= MAX_PER_LIGHT)]
        good += [session.features(one)[1][0] for one in seen]
        groups_shown += [groups[digest]] * len(seen)
        lights += range(len(seen))
        while len(carriers) * len(pictures) < DEFECT_COUNT * len(groups):
            spoilt = add_defect(image, rng, sizes[len(carriers) % len(sizes)])
            defective.append(session.features(spoilt)[1][0])
            carriers.append(groups[digest])
    width = len(next(iter(good), ()))
    return ProductDescriptors(
        np.array(good, np.float32).reshape(-1, width),
        np.array(groups_shown, np.int32),
        np.array(defective, np.float32).reshape(-1, width),
        np.array(carriers, np.int32),
        np.array(lights if others else [], np.int32),
    )


def _mistake_counter(
    trained: JointTorchSession, rule: Recogniser, product: str, shown: ProbeImages
) -> Callable[[Session], int]:
    """Function that counts a session's mistaken pictures of a product, by the descriptors that `rule` knows.
    A defective one may be none of these: it is anomalous either way."""
    images = np.concatenate([shown.images, shown.with_defects().images])
    expected = [one.product for one in trained.run(images)[0]]
    accepted = [(one,) if k < len(shown.images) else (one, product, None) for k, one in enumerate(expected)]

    def count(session: Session) -> int:
        assert isinstance(session, ProductSession)
        see = session.joint.features
        found = [rule.recognise(see(images[k : k + 1])[1])[0].product for k in range(len(images))]
        return sum(one not in right for one, right in zip(found, accepted, strict=True))

    return count


def _serialize(network: Any) -> NDArray[np.uint8]:
    return np.frombuffer(network.SerializeToString(), np.uint8)
