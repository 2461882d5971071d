"""Exports a fitted model as an .onnx file, and certifies that its engines answer as the model does."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from flawscope.artefact import files, model_file
from flawscope.artefact.certificate import Certificate, certificates_to_facts
from flawscope.artefact.files import ENGINES, EXPORTED_SUFFIX
from flawscope.artefact.model_file import Artefact
from flawscope.errors import FlawscopeError, InputError, require_installed
from flawscope.export import onnx_graph
from flawscope.export.recalibrate import (
    EmbedFn,
    ExportPictures,
    Images,
    ReducedModel,
    certify_session,
    engine_version,
    recalibrate,
    run_one_by_one,
    with_defects,
)
from flawscope.pictures.decoding import PictureSource
from flawscope.progress import ProgressCallback, ignore_progress
from flawscope.runtime import ExportedSession, Session, exported_engine, onnx_check, onnx_file
from flawscope.runtime.torch import TorchSession

if TYPE_CHECKING:
    from onnx import ModelProto


PRECISIONS = ("fp32", "bf16")


def export(
    model: str | os.PathLike[str] | Artefact,
    out: str | os.PathLike[str],
    *,
    precision: str = "fp32",
    pictures: Sequence[PictureSource] = (),
    threads: int | None = None,
    failures: list[str] | None = None,
    step: ProgressCallback = ignore_progress,
) -> Certificate:
    """Write a model of any method as an .onnx file, which ONNX Runtime and OpenVINO run without torch.

    Args:
        model: A .safetensors file, or the artefact read from it.
        out: The .onnx file to write.
        precision: Precision of the features (`embed`): fp32 or bf16. Scores are always computed in fp32.
            Only OpenVINO computes bf16, on CPUs that have it.
        pictures: Good pictures to compare on; by default the model's own samples. A reduced precision is
            another detector, and is calibrated anew on these pictures. Pictures that the model was fitted on
            can be used only if its method can leave a picture out.
        threads: Number of threads that compute; None: as many as there are cores.
        failures: Gets a line for every picture that cannot be read.
        step: Called with the stage, the steps done and the number of steps.

    Returns:
        The certificate of the engine that runs the file by default. Where OpenVINO is installed, the file has
        OpenVINO's certificate too (`certificate.certificates_from_facts`).

    Raises:
        InputError: A package is missing, there are no pictures to compare or calibrate on, or `model` is
            no fitted model.
        FlawscopeError: torch cannot export the model, or an engine differs beyond the certificate's
            tolerance. No file is written then.
    """
    artefact = model if isinstance(model, Artefact) else model_file.read(model)
    path = files.check_writable(out)
    suffix = path.suffix.lower()
    if suffix != EXPORTED_SUFFIX:
        hint = ": OpenVINO runs them too" if suffix == ".xml" else ""
        raise InputError(f"exported models are {EXPORTED_SUFFIX} files{hint}; name --out so")
    check_exportable(artefact, precision, pictures)
    export_pictures = ExportPictures(artefact, pictures, [] if failures is None else failures)
    probe_images = export_pictures.probe_images()
    trained = TorchSession.open(artefact, "cpu", threads)
    if probe_images.shape[1:] != (3, *trained.size):
        raise InputError("the sample pictures do not have the model's size")

    step("network", 0, 2)
    embed, score = onnx_graph.trace(trained.model)
    has_kinds = artefact.manifest.kinds is not None
    residuals = onnx_graph.trace_residuals(trained.model) if has_kinds else None
    step("network", 1, 2)
    network: bytes = onnx_graph.join_graphs(embed, score, residuals).SerializeToString()
    sessions = _open_sessions(network, precision, threads)
    step("network", 2, 2)

    embed_images = open_embed(embed, sessions[0].runtime, precision, threads)
    reduced = ReducedModel(precision, sessions, embed_images, trained)
    exported_artefact, certificates = certify_export(reduced, export_pictures, probe_images, step)
    onnx_file.write(exported_artefact, network, out)
    return certificates[0]


def certify_export(
    reduced: ReducedModel, pictures: ExportPictures, probe_images: Images, step: ProgressCallback
) -> tuple[Artefact, list[Certificate]]:
    """Calibrate the artefact of an exported network for its precision, and certify each engine.

    Args:
        reduced: The exported network in its engines, and the trained model.
        pictures: Pictures on which a reduced precision is calibrated.
        probe_images: Images on which the engines are compared.
        step: Called with the stage, the steps done and the number of steps.

    Returns:
        The artefact to write, and the certificates in the order of the engines.

    Raises:
        FlawscopeError: An engine differs beyond the certificate's tolerance.
    """
    if reduced.precision == "fp32":
        exported_artefact = pictures.artefact
        certificates = _certify_fp32(pictures.artefact, reduced, probe_images)
    else:
        exported_artefact, certificates = recalibrate(reduced, pictures, probe_images, step)
    for certificate in certificates:
        if not certificate.passed:
            raise FlawscopeError(
                f"the exported model is not the trained one, nothing written: {certificate.describe()}"
            )
    manifest = exported_artefact.manifest
    engine_versions = {session.runtime: engine_version(session.runtime) for session in reduced.sessions}
    manifest = replace(
        manifest,
        facts={**manifest.facts, **certificates_to_facts(certificates)},
        versions={**manifest.versions, **engine_versions, "opset": str(onnx_graph.OPSET)},
    )
    return replace(exported_artefact, manifest=manifest), certificates


def check_exportable(artefact: Artefact, precision: str, pictures: Sequence[PictureSource]) -> None:
    """Raise InputError where precision, pictures or installed packages do not allow to export a model."""
    if precision == "int8":
        raise InputError("int8 is gone: leave out --precision; PatchCore and a smaller --size are faster")
    if precision not in PRECISIONS:
        raise InputError(f"no precision {precision}: use one of {', '.join(PRECISIONS)}")
    if artefact.manifest.calibration.precision != "fp32":
        raise InputError("only models of precision fp32 can be exported: fit with --set precision=fp32")
    if precision == "bf16":  # only OpenVINO computes it
        require_installed("export", "onnx", "onnxscript", "openvino", extras="export,openvino")
    else:
        require_installed("export", "onnx", "onnxscript", extras="export")
    if precision != "fp32" and not pictures:
        raise InputError(
            f"{precision} is calibrated anew: give good pictures with --pictures, such as those the model "
            "was fitted on"
        )


def _open_sessions(network: bytes, precision: str, threads: int | None) -> list[Session]:
    """Open the network in the engines that run it, the default engine first.

    Raises:
        FlawscopeError: An engine cannot open it, or it has an operator that `runtime.onnx_check` refuses.
    """
    try:
        onnx_check.check(network)
    except ValueError as error:
        raise FlawscopeError(f"this model cannot be exported: {error}; nothing written") from None
    engines = map(exported_engine, engines_for(precision))
    return [ExportedSession(engine, network, "cpu", threads, precision) for engine in engines]


def engines_for(precision: str) -> list[str]:
    """Return the installed engines that run a file of this precision, the default engine first."""
    candidates = ["openvino"] if precision == "bf16" else ENGINES
    return [engine for engine in candidates if importlib.util.find_spec(engine) is not None]


def open_embed(embed: ModelProto, runtime: str, precision: str, threads: int | None = None) -> EmbedFn:
    """Return an engine's function from images to features, which several threads may call at once.

    Args:
        embed: The graph from images to features.
        runtime: Name of the engine.
        precision: Precision in which it computes.
        threads: Number of threads that compute; None: as many as there are cores.
    """
    graph = exported_engine(runtime).open(embed.SerializeToString(), "cpu", threads, precision)
    index = list(graph.results).index("features")

    def embed_images(images: Images) -> Images:
        return graph.run({"images": images})[index]

    return embed_images


def _certify_fp32(artefact: Artefact, reduced: ReducedModel, probe_images: Images) -> list[Certificate]:
    """Certify each engine in fp32: compare its answers for images, also with simulated defects."""
    model = reduced.trained.model

    def certify_engines(images: Images) -> list[Certificate]:
        """Compare each engine with the trained model on these images."""
        scores, maps = run_one_by_one(reduced.trained, images)
        has_tie = []  # whether the score of each image rests on a tie, which only rounding decides
        with torch.inference_mode():
            for image in torch.from_numpy(images).split(1):
                has_tie.append(model.ties(model.embed(image), model.inside(image)))
        calibration = artefact.manifest.calibration
        ties = torch.cat(has_tie).numpy()
        return [
            certify_session(session, images, scores, maps, calibration, ties=ties)
            for session in reduced.sessions
        ]

    good_certificates = certify_engines(probe_images)
    defect_certificates = certify_engines(with_defects(probe_images))
    return [
        replace(certificate, simulated=defect_certificate.score)
        for certificate, defect_certificate in zip(good_certificates, defect_certificates, strict=True)
    ]
