"""A fitted model for another engine, with a certificate that it answers as the trained one does."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from flawscope.artefact import files, model_file
from flawscope.artefact.certificate import STRIDE, Certificate, compare, of_pairs
from flawscope.artefact.model_file import Artefact, Picture
from flawscope.artefact.samples import unpack_images
from flawscope.calibration.decision import from_values
from flawscope.errors import FlawscopeError, InputError
from flawscope.export import onnx_graph
from flawscope.methods.detector import Detector
from flawscope.pictures.decoding import Source, decode, pixel_hash
from flawscope.pictures.preprocess import unmarked
from flawscope.progress import Step, silent
from flawscope.runtime import Session
from flawscope.runtime import onnx as onnx_files
from flawscope.runtime import openvino as openvino_files
from flawscope.runtime.torch import TorchSession
from flawscope.synthesis import simulate_defect, to_eight_bits

PRECISIONS = {".onnx": ("fp32", "fp16", "int8"), ".xml": ("fp32", "fp16", "bf16", "int8")}
NEEDED = {".onnx": ("onnx", "onnxscript"), ".xml": ("onnx", "onnxscript", "openvino")}
EXTRAS = {".onnx": "export", ".xml": "export,openvino"}
COMPARED = 32  # pictures at most
RANGED = 100  # pictures that the ranges of 8-bit numbers are measured on

Embed = Callable[[NDArray[np.float32]], NDArray[np.float32]]


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
    images = _images(artefact, pictures)
    trained = TorchSession.open(artefact, "cpu")
    if images.shape[1:] != (3, *trained.size):
        raise InputError("the sample pictures do not have the model's size")

    step("network", 0, 2)
    rounded = TorchSession.open(_rounded(artefact), "cpu") if precision == "fp16" else trained
    embed, score = onnx_graph.trace(rounded.model)
    step("network", 1, 2)
    if precision == "int8":
        embed = onnx_graph.quantised(embed, _ranged(artefact, pictures))
    made = _made(onnx_graph.join(embed, score), suffix, precision)
    step("network", 2, 2)

    if precision == "fp32":
        exported = artefact
        certificate = _compared(artefact, made.session, trained, images)
    else:
        run = _runner(embed, suffix, precision)
        exported, certificate = _calibrated(
            *(artefact, precision, pictures, images, made.session, trained, rounded.model, run, step),
            failures=[] if failures is None else failures,
        )
    if not certificate.passed:
        raise FlawscopeError(
            f"the exported model is not the trained one, nothing written: {certificate.line()}"
        )
    manifest = exported.manifest
    manifest = replace(
        manifest,
        facts={**manifest.facts, "certificate": certificate.to_dict()},
        versions={
            **manifest.versions,
            made.session.runtime: _version(made.session),
            "opset": str(onnx_graph.OPSET),
        },
    )
    made.write(replace(exported, manifest=manifest), out)
    return certificate


def _check(artefact: Artefact, suffix: str, precision: str, pictures: Sequence[Source]) -> None:
    if suffix not in PRECISIONS:
        raise InputError("exported models are .onnx (ONNX Runtime) or .xml (OpenVINO) files: name --out so")
    if precision not in PRECISIONS[suffix]:
        raise InputError(
            f"no precision {precision} in {suffix} files: use one of {', '.join(PRECISIONS[suffix])}"
        )
    if artefact.manifest.calibration.precision != "fp32":
        raise InputError("only models of precision fp32 can be exported: fit with --set precision=fp32")
    missing = [name for name in NEEDED[suffix] if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"export needs {' and '.join(missing)}: pip install 'flawscope[{EXTRAS[suffix]}]'")
    if precision != "fp32" and not pictures:
        raise InputError(
            f"{precision} is calibrated anew: give good pictures with --pictures, such as those the model "
            "was fitted on"
        )


# ----------------------------------------------------------------------------------------------- the engines


@dataclass(frozen=True)
class Made:
    """A network in its engine, and how it is written."""

    session: Session
    write: Callable[[Artefact, str | os.PathLike[str]], None]


def _made(network: Any, suffix: str, precision: str) -> Made:
    if suffix == ".onnx":
        if precision == "fp16":
            onnx_graph.halve(network)
        data = network.SerializeToString()
        return Made(
            onnx_files.OnnxSession(data, "cpu"),
            lambda artefact, path: onnx_files.write(artefact, data, path),
        )
    model = _openvino(network.SerializeToString())
    if precision == "fp16":
        _halve(model)
    return Made(
        openvino_files.OpenVinoSession(model, "cpu", precision=precision),
        lambda artefact, path: openvino_files.write(artefact, model, path),
    )


def _openvino(data: bytes) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        path.write_bytes(data)
        try:
            return openvino_files.engine().convert_model(path)
        except Exception as error:
            raise FlawscopeError(f"OpenVINO cannot convert this model: {error!s:.200}") from None


def _halve(model: Any) -> None:
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


def _runner(embed: Any, suffix: str, precision: str) -> Embed:
    """Images to features, as the exported network computes them."""
    data = embed.SerializeToString()
    if suffix == ".onnx":
        import onnxruntime

        engine = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
        return lambda images: engine.run(["features"], {"images": images})[0]
    hint = {"INFERENCE_PRECISION_HINT": openvino_files.HINTS[precision]}
    compiled = openvino_files.engine().Core().compile_model(_openvino(data), "CPU", hint)
    return lambda images: np.array(compiled({"images": images})["features"], np.float32)


# ---------------------------------------------------------------------------------- pictures and calibration


def _read(
    artefact: Artefact, pictures: Sequence[Source], failures: list[str] | None = None
) -> Iterator[tuple[NDArray[Any], NDArray[np.float32]]]:
    """Pictures, decoded and preprocessed. They are read several times; what cannot be read is told once."""
    for source in pictures:
        name = source if isinstance(source, str | os.PathLike) else "a picture"
        try:
            picture = decode(source)
            image = artefact.manifest.preprocess.from_array(picture, os.fspath(name))[0]
        except (InputError, MemoryError) as error:
            if failures is not None:
                few = f"{name}: not enough memory to decode it; make it smaller"
                failures.append(str(error) if isinstance(error, InputError) else few)
            continue
        yield picture, image


def _ranged(artefact: Artefact, pictures: Sequence[Source]) -> Iterator[NDArray[np.float32]]:
    """Pictures to measure the ranges of 8-bit numbers on: good ones, each without and with a simulated
    defect. What is beyond a range is cut off, and one of good pictures alone ends where defects begin."""
    rng = np.random.default_rng(0)
    for _, image in _read(artefact, pictures[:: -(-len(pictures) // RANGED)]):
        yield image
        plain, inside = unmarked(image[0])
        pixels = to_eight_bits(plain.transpose(1, 2, 0), white=1.0)
        changed = simulate_defect(pixels, rng).picture.transpose(2, 0, 1).astype(np.float32) / 255.0
        yield np.where(inside, changed, image[0])[None]


def _images(artefact: Artefact, pictures: Sequence[Source]) -> NDArray[np.float32]:
    """Pictures to compare on, `[N, 3, H, W]`."""
    given = [image for _, image in _read(artefact, pictures[:: -(-len(pictures) // COMPARED) or 1])]
    if given:
        return np.concatenate(given)
    if pictures:
        raise InputError(f"none of the pictures can be read: {pictures[0]!s:.200}")
    samples = artefact.tensors.get("samples")
    if samples is None or not len(samples):
        raise InputError("the model holds no sample pictures to compare on: give some with --pictures")
    return unpack_images(samples)


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


def _answers(session: Session, images: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[Any]]:
    parts = [session.run(images[k : k + 1]) for k in range(len(images))]
    scores, maps = (np.concatenate(part) for part in zip(*parts, strict=True))
    return scores, maps


def _compared(
    artefact: Artefact, session: Session, trained: TorchSession, images: NDArray[np.float32]
) -> Certificate:
    """In fp32: the same answers for the same pictures."""
    scores, maps = _answers(trained, images)
    with torch.inference_mode():
        given = [torch.from_numpy(image[None]) for image in images]
        ties = [trained.model.ties(trained.model.embed(one), trained.model.inside(one)) for one in given]
    calibration = artefact.manifest.calibration
    return compare(
        session,
        images,
        scores,
        maps,
        calibration=calibration,
        runtime=_named(session),
        ties=torch.cat(ties).numpy(),
    )


def _named(session: Session) -> str:
    return f"{session.runtime} {_version(session)}"


def _version(session: Session) -> str:
    """Of the engine itself: packages of several names bring it. OpenVINO's goes on with its commit."""
    return str(import_module(session.runtime).__version__).partition("-")[0]


def _calibrated(
    artefact: Artefact,
    precision: str,
    pictures: Sequence[Source],
    images: NDArray[np.float32],
    session: Session,
    trained: TorchSession,
    model: Detector,
    embed: Embed,
    step: Step,
    failures: list[str],
) -> tuple[Artefact, Certificate]:
    """The artefact with the calibration of another precision, and how far that is from its own: pictures that
    it was fitted on are left out one by one, others are simply scored.

    Args:
        model: scores the features that `embed` gives.
    """
    manifest = artefact.manifest
    before = manifest.calibration
    facts = dict(manifest.facts)
    groups = facts.pop("calibration_groups", {})
    fitted = {p.hash for p in manifest.pictures if p.role != "calibration"}
    kept = {k: torch.from_numpy(v) for k, v in artefact.tensors.items() if k != "samples"}
    found: list[tuple[float, float, float]] = []
    expected: list[tuple[float, float]] = []
    fresh: list[Picture] = []
    hashes: list[str] = []
    for done, (picture, image) in enumerate(_read(artefact, pictures, failures)):
        step("calibration", done, len(pictures))
        digest = pixel_hash(picture)
        if digest in hashes:
            continue
        result = None
        if digest in groups:
            with torch.inference_mode():
                counted = model.inside(torch.from_numpy(image))
                result = model.left_out(torch.from_numpy(embed(image)), groups[digest], kept, counted)
        if result is not None:
            score, drawn = (part.numpy() for part in result)
            with torch.inference_mode():
                own = trained.model.embed(torch.from_numpy(image))
                wanted = trained.model.left_out(own, groups[digest], kept, counted)
            assert wanted is not None
            scores, maps = (part.numpy() for part in wanted)
        elif digest in fitted:
            continue
        else:
            score, drawn = session.run(image)
            scores, maps = trained.run(image)
            fresh.append(Picture(digest, "calibration", f"picture {len(hashes)}"))
        expected.append((float(scores[0]), float(maps.max())))
        hashes.append(digest)
        inside = artefact.tensors["roi"] if "roi" in artefact.tensors else np.ones(drawn[0].shape, bool)
        found.append((float(score[0]), float(drawn.max()), float(np.median(drawn[0][inside]))))
    step("calibration", len(pictures), len(pictures))
    if not found:
        raise InputError(
            f"none of the pictures can calibrate {precision}: the model was fitted on them and cannot leave "
            "them out, or they cannot be read; give good pictures that it has not seen"
        )
    left_out = len(hashes) - len(fresh)
    calibration = from_values(
        *zip(*found, strict=True),
        rate=before.rate,
        method=before.method if left_out else "held out",
        runtime=session.runtime,
        precision=precision,
    )
    note = f"{precision}: calibrated anew on {len(found)} good pictures"
    if fresh and left_out:
        note += f", {left_out} that it was fitted on and left out one by one, {len(fresh)} others"
    if precision == "int8":
        note += "; some of them also gave the ranges of its 8-bit numbers"
    facts["calibration_pictures"] = hashes
    manifest = replace(
        manifest,
        calibration=calibration,
        facts=facts,
        notes=(*manifest.notes, note),
        pictures=(*(p for p in manifest.pictures if p.role != "calibration"), *fresh),
    )
    now, then = np.array(found)[:, :2].T, np.array(expected).T
    scores, maps = _answers(session, images)
    consistency = compare(
        session,
        images,
        scores,
        maps,
        calibration=calibration,
        runtime=_named(session),
    )
    changed = np.count_nonzero(calibration.is_anomalous(now[0]) != before.is_anomalous(then[0]))
    certificate = of_pairs(consistency, before, now[0], then[0], now[1], then[1], int(changed))
    return _with_samples(replace(artefact, manifest=manifest), session), certificate


def _with_samples(artefact: Artefact, session: Session) -> Artefact:
    """What another machine's self-test compares with: what this session says, not the trained model."""
    samples = artefact.tensors.get("samples")
    if samples is None:
        return artefact
    scores, maps = _answers(session, _images(artefact, ()))
    said = zip(artefact.manifest.samples, scores, maps, strict=True)
    kept = tuple({**s, "score": float(x), "map_maximum": float(m.max())} for s, x, m in said)
    tensors = {**artefact.tensors, "sample_maps": np.ascontiguousarray(maps[:, ::STRIDE, ::STRIDE])}
    return Artefact(replace(artefact.manifest, samples=kept), tensors)
