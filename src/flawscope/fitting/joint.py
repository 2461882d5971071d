"""Joins the models of several products into one, which recognises the product of a picture by itself."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from flawscope.artefact.joint_file import JointArtefact
from flawscope.artefact.model_file import Artefact
from flawscope.calibration.recognition import DEFECTS, MOST, Known
from flawscope.datasets import group_numbers, open_dataset
from flawscope.errors import InputError
from flawscope.fitting.simulated_defects import Defects
from flawscope.fitting.training_pictures import Images, Reader, sources_of
from flawscope.methods import registry
from flawscope.methods.detector import Detector
from flawscope.methods.extract import Load, embed_pictures
from flawscope.predictor import Predictor, trained
from flawscope.predictor.joint import JointPredictor
from flawscope.progress import Step, silent
from flawscope.runtime.torch import JointTorchSession, TorchSession

SECONDS = 3.0  # for finding the part on which they lie
LEARNT = ("train", "calibration")  # roles of the pictures that a product is recognised by
Model = str | os.PathLike[str] | Artefact | Predictor


def check_joins(method: str) -> None:
    """InputError where models of several products cannot share what this method learns."""
    if not registry.method(method).joins:
        able = ", ".join(one.name for one in registry.loadable() if one.joins)
        raise InputError(
            f"{method} learns its networks anew for each product, so that products cannot share a model: "
            f"leave out --joint, or take --method {able}"
        )


def join(
    models: Mapping[str, Model], pictures: Mapping[str, Images], *, device: str = "auto", step: Step = silent
) -> JointPredictor:
    """Joins fitted models into one of several products. Each product's part is its model, bit for bit.

    Args:
        models: by the product's name, each fitted with the same settings.
        pictures: the good pictures that each was fitted on, as `fit` takes them: descriptors of them tell
            the products apart.

    Raises:
        InputError: the models see pictures differently, their method has no descriptors, or a product has
            too few pictures.
    """
    if models.keys() != pictures.keys():
        raise InputError("join takes good pictures of each model: give both by the products' names")
    artefacts = {name: trained(model) for name, model in models.items()}
    known = {name: known_of(one, pictures[name], device=device, step=step) for name, one in artefacts.items()}
    return joined(artefacts, known, device)


def joined(
    products: Mapping[str, Artefact], known: Mapping[str, Known], device: str = "auto"
) -> JointPredictor:
    """A joint model of products and of what they are recognised by. InputError as of `join`."""
    artefact = JointArtefact(dict(products), dict(known))
    return JointPredictor(artefact, JointTorchSession.open(artefact, device))


def with_product(
    joint: JointArtefact, name: str, product: Artefact, known: Known, device: str = "auto"
) -> JointPredictor:
    """The joint model with another product, or with a new model of one of its products, whose further
    pictures are in `known`. Nothing about other products changes."""
    if name in joint.known:
        known = joint.known[name].joined(known)
    return joined({**joint.products, name: product}, {**joint.known, name: known}, device)


def known_of(
    model: Artefact,
    images: Images,
    *,
    but: Collection[str] = (),
    device: str = "auto",
    step: Step = silent,
) -> Known:
    """Describes the good pictures that a model has learnt, as they are and with simulated defects.

    Args:
        images: among which the learnt ones are found by their pixels.
        but: hashes of pictures that are described already.

    Raises:
        InputError: the method has no descriptors.
    """
    manifest = model.manifest
    check_joins(manifest.method)
    if isinstance(images, str | os.PathLike):
        images = open_dataset(os.fspath(images))
    sources, _, _ = sources_of(images, None)
    detector = TorchSession.open(model, device).model
    reader = Reader(
        sources,
        manifest.preprocess,
        set(),
        roi=detector.roi.cpu().numpy(),
        hidden=detector.config.hidden,
        nearest=None if detector.nearest is None else detector.nearest.cpu().numpy(),
    )
    learnt = {picture.hash for picture in manifest.pictures if picture.role in LEARNT} - {*but}

    def load(index: int) -> Tensor | None:
        image = reader.load(index)
        return image if image is not None and reader.hashes[index] in learnt else None

    chosen = np.unique(np.linspace(0, len(sources) - 1, min(len(sources), MOST)).round().astype(int)).tolist()
    found = _described(detector, load, chosen, step, "recognition")
    first = {reader.hashes[index]: index for index in reversed(found)}  # of copies one
    good = [index for index in found if first[reader.hashes[index]] == index]
    groups = np.array(group_numbers(reader.names, manifest.facts.get("group")), np.int32)
    defective: dict[int, NDArray[np.float32]] = {}
    carriers: list[int] = []
    if good:
        defects = Defects(detector, load, good)
        defects.learn_part(SECONDS)
        defective = _described(detector, defects.load, range(DEFECTS), step, "recognition of defective parts")
        carriers = [defects.picture(number) for number in defective]
    width = len(next(iter(found.values()), ()))
    return Known(
        np.array([found[index] for index in good], np.float32).reshape(-1, width),
        groups[good],
        np.array([*defective.values()], np.float32).reshape(-1, width),
        groups[carriers],
    )


def _described(
    detector: Detector, load: Load, numbers: Sequence[int], step: Step, stage: str
) -> dict[int, NDArray[np.float32]]:
    """Descriptors of the pictures that can be loaded, by their numbers."""
    found: dict[int, NDArray[np.float32]] = {}

    def store(number: int, features: Tensor, inside: Tensor | None) -> None:
        one = detector.descriptor(features[None], None if inside is None else inside[None])
        found[number] = one[0].float().cpu().numpy()

    embed_pictures(detector, load, numbers, store, step, stage)
    return dict(sorted(found.items()))
