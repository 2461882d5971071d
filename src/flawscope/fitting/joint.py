"""Joins the models of several products into one, which recognises the product of a picture by itself."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from flawscope.artefact.joint_file import JointArtefact
from flawscope.artefact.model_file import Artefact
from flawscope.calibration.parts import PartPattern
from flawscope.calibration.recognition import DEFECT_COUNT, MAX_GOOD, MAX_PER_LIGHT, ProductDescriptors
from flawscope.datasets import group_numbers, open_dataset
from flawscope.errors import InputError
from flawscope.fitting.simulated_defects import SimulatedDefects, open_detector
from flawscope.fitting.training_pictures import Images, Reader, split_sources
from flawscope.methods import registry
from flawscope.methods.detector import Detector
from flawscope.methods.extract import LoadPicture, embed_pictures
from flawscope.pictures.light import Light, light_variations
from flawscope.predictor import Predictor, fitted_artefact
from flawscope.predictor.joint import JointPredictor
from flawscope.predictor.parts import stored_part_pattern
from flawscope.progress import ProgressCallback, ignore_progress
from flawscope.runtime.torch import JointTorchSession

PART_LEARNING_SECONDS = 3.0  # for finding the part on which they lie
LEARNT_ROLES = ("train", "calibration")  # roles of the pictures that a product is recognised by
Model = str | os.PathLike[str] | Artefact | Predictor


def check_joinable(method: str) -> None:
    """InputError where models of several products cannot share what this method learns."""
    if not registry.method(method).supports_joint:
        able = ", ".join(one.name for one in registry.loadable_methods() if one.supports_joint)
        raise InputError(
            f"{method} learns its networks anew for each product, so that products cannot share a model: "
            f"leave out --joint, or take --method {able}"
        )


def join(
    models: Mapping[str, Model],
    pictures: Mapping[str, Images] | None = None,
    *,
    part: str | None = None,
    view: str | None = None,
    device: str = "auto",
    step: ProgressCallback = ignore_progress,
) -> JointPredictor:
    """Joins fitted models into one of several products, or of the views of a part. Each product's part is its
    model, bit for bit.

    Args:
        models: by the name of the product or the view, each fitted with the same settings.
        pictures: the good pictures that each was fitted on, as `fit` takes them: descriptors of them tell
            the products apart. Views need none.
        part, view: regular expressions on file names that tell parts and views apart (`fit`): the models are
            those of views then, fitted without them.

    Raises:
        InputError: the models see pictures differently, their method has no descriptors, a product has too
            few pictures, or the names of a view's pictures tell no part.
    """
    artefacts = {name: fitted_artefact(model) for name, model in models.items()}
    if part is not None:
        return join_artefacts(artefacts, {}, device, PartPattern(part, view))
    if pictures is None or models.keys() != pictures.keys():
        raise InputError("join takes good pictures of each model: give both by the products' names")
    known = {
        name: describe_product(one, pictures[name], device=device, step=step)
        for name, one in artefacts.items()
    }
    return join_artefacts(artefacts, known, device)


def join_artefacts(
    products: Mapping[str, Artefact],
    known: Mapping[str, ProductDescriptors],
    device: str = "auto",
    views: PartPattern | None = None,
) -> JointPredictor:
    """A joint model of products and of what they are recognised by, or of views. InputError as of `join`."""
    for one in products.values():
        check_joinable(one.manifest.method)
    artefact = JointArtefact(dict(products), dict(known), views)
    found = JointPredictor(artefact, JointTorchSession.open(artefact, device))
    found.parts()  # names that tell no part are reported now
    return found


def describe_product(
    model: Artefact,
    images: Images,
    *,
    but: Collection[str] = (),
    device: str = "auto",
    step: ProgressCallback = ignore_progress,
) -> ProductDescriptors:
    """Describes the good pictures that a model has learnt, as they are, at both ends of the range of light in
    which the model keeps its rate, and with simulated defects.

    Args:
        images: among which the learnt ones are found by their pixels.
        but: hashes of pictures that are described already.

    Raises:
        InputError: the method has no descriptors.
    """
    manifest = model.manifest
    check_joinable(manifest.method)
    if isinstance(images, str | os.PathLike):
        images = open_dataset(os.fspath(images))
    sources, _, _ = split_sources(images, None)
    detector, light = open_detector(model, device), manifest.preprocess.normalization
    plain = replace(manifest.preprocess, normalization=None)  # nobody knows yet which product's light it is
    roi, nearest = (None if one is None else one.cpu().numpy() for one in (detector.roi, detector.nearest))
    reader = Reader(sources, plain, set(), roi=roi, hidden=detector.config.hidden, nearest=nearest)
    learnt = {picture.hash for picture in manifest.pictures if picture.role in LEARNT_ROLES} - {*but}
    lights, count = [Light()] if light is None else light_variations(light.share), len(sources)

    def load(number: int) -> Tensor | None:  # of a picture in a light
        changed, index = divmod(number, count)
        image = reader.load_in_light(index, lights[changed]) if changed else reader.load(index)
        return image if image is not None and reader.hashes[index] in learnt else None

    # of pictures that are described already only the hash is read: a few new ones may lie among many
    found = _descriptors(
        detector, load, range(count) if but else _subsample(range(count), MAX_GOOD), step, "recognition"
    )
    found = {index: found[index] for index in _subsample([*found], MAX_GOOD)}
    first = {reader.hashes[index]: index for index in reversed(found)}  # of copies one
    good = [index for index in found if first[reader.hashes[index]] == index]
    some = _subsample(good, MAX_PER_LIGHT)
    in_lights = [count * changed + index for changed in range(1, len(lights)) for index in some]
    if in_lights:
        found |= _descriptors(detector, load, in_lights, step, "recognition in each light")
    shown = [number for number in (*good, *in_lights) if number in found]
    pattern, group = stored_part_pattern(manifest), manifest.facts.get("group")
    groups = np.array(
        pattern.part_numbers(reader.names) if pattern else group_numbers(reader.names, group), np.int32
    )
    defective, carriers = _defect_descriptors(detector, load, good, step) if good else ({}, [])
    width = len(next(iter(found.values()), ()))
    return ProductDescriptors(
        np.array([found[number] for number in shown], np.float32).reshape(len(shown), width),
        groups[[number % count for number in shown]],
        np.array([*defective.values()], np.float32).reshape(len(defective), width),
        groups[carriers],
        np.array([number // count for number in shown if in_lights], np.int32),
    )


def _defect_descriptors(
    detector: Detector, load: LoadPicture, good: Sequence[int], step: ProgressCallback
) -> tuple[dict[int, NDArray[np.float32]], list[int]]:
    """Descriptors of good pictures with simulated defects, and which pictures these are."""
    defects = SimulatedDefects(detector, load, good)
    defects.learn_part(PART_LEARNING_SECONDS)
    stage = "recognition of defective parts"
    found = _descriptors(detector, defects.load, range(DEFECT_COUNT), step, stage)
    return found, [defects.picture_of(number) for number in found]


def _subsample(numbers: Sequence[int], most: int) -> list[int]:
    """Chooses so many of the numbers at most."""
    chosen = np.linspace(0, len(numbers) - 1, min(len(numbers), most)).round().astype(int)
    return [numbers[k] for k in np.unique(chosen)]


def _descriptors(
    detector: Detector, load: LoadPicture, numbers: Sequence[int], step: ProgressCallback, stage: str
) -> dict[int, NDArray[np.float32]]:
    """Descriptors of the pictures that can be loaded, by their numbers."""
    found: dict[int, NDArray[np.float32]] = {}

    def store(number: int, features: Tensor, inside: Tensor | None) -> None:
        one = detector.descriptor(features[None], None if inside is None else inside[None])
        found[number] = one[0].float().cpu().numpy()

    embed_pictures(detector, load, numbers, store, step, stage)
    return dict(sorted(found.items()))
