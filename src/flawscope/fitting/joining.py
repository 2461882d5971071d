"""Joins ordinary models into a router, which recognises the product of a picture by itself."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from flawscope.artefact.descriptors import DescriptorModel, ProductDescriptors
from flawscope.artefact.model_file import Artefact, Manifest, pack_images
from flawscope.artefact.model_mapping import ModelMapping
from flawscope.calibration.parts import PartPattern
from flawscope.datasets import open_dataset
from flawscope.errors import InputError, check_arguments
from flawscope.fitting.simulated_defects import SimulatedDefects
from flawscope.fitting.sources import Images, split_sources
from flawscope.fitting.training_views import Reader
from flawscope.methods import registry
from flawscope.methods.descriptors import DescriptorNetwork, DescriptorSettings
from flawscope.methods.detector import LoadPicture, embed_pictures
from flawscope.methods.settings import PatchSettings, patch_in_name
from flawscope.pictures.levels import widest
from flawscope.pictures.table import CALIBRATION, TRAIN
from flawscope.predictor import Predictor, fitted_artefact
from flawscope.predictor.router import Router, is_router, open_joined
from flawscope.progress import ProgressCallback, ignore_progress
from flawscope.views.preprocess import Preprocess

# Size of pictures and stage (stride 8) of the network for recognition: of those that
# docs/decisions/0027-joint.md compares, they cost the least and distinguish products best
SIZE = "128"
STAGE = 2
# Settings by which the network that recognises is that of a product's model
NETWORK_SETTINGS = ("backbone", "neighbourhood")
MAX_GOOD = 300  # good pictures whose descriptors a model keeps
MAX_PER_LIGHT = 50  # of them in each other light of the range in which it keeps its rate
DEFECT_COUNT = 36  # simulated ones among them, of all sizes
PART_LEARNING_SECONDS = 3.0  # for finding the part on which they lie
LEARNT_ROLES = (TRAIN, CALIBRATION)  # roles of the pictures that a product is recognised by
Model = str | os.PathLike[str] | Artefact | Predictor | Router


class Described(NamedTuple):
    """Descriptors that a product is recognised by, and its `DescriptorModel.samples`."""

    known: ProductDescriptors
    samples: NDArray[Any]


@check_arguments()
def join(
    models: Mapping[str, Model],
    pictures: Mapping[str, Images] | None = None,
    *,
    part: str | None = None,
    view: str | None = None,
    device: str = "auto",
    step: ProgressCallback = ignore_progress,
) -> Router:
    """Join fitted models into a router to several products, or to the views of a part.

    Each keeps its own settings, thresholds and answers, bit for bit.

    Args:
        models: Models, of any methods and settings, by the name of the product or the view.
        pictures: Good pictures that each was fitted on, as `fit` takes them: their descriptors distinguish
            the products. Of views, good pictures by which exchanged pictures are recognised.
        part: Regular expression on file names that finds the part (`fit`): the models are then those of
            views, fitted without it.
        view: Regular expression on file names that finds the view.
        device: Device, such as "cpu", "cuda" or "auto".
        step: Gets progress.

    Raises:
        InputError: A product has too few pictures, some decide on parts in views and others do not, or the
            names of a view's pictures state no part.
    """
    artefacts = {name: _one_model(name, model) for name, model in models.items()}
    if part is not None:
        joined = open_joined(ModelMapping(artefacts, views=PartPattern(part, view)), device)
        shown = {
            name: split_sources(product_pictures, None)[0]
            for name, product_pictures in (pictures or {}).items()
        }
        return joined.with_looks_of_views(shown)
    if pictures is None or models.keys() != pictures.keys():
        raise InputError("join takes good pictures of each model: give both by the products' names")
    network = descriptor_model(artefacts)
    found = {
        name: describe_product(network, artefact, pictures[name], device=device, step=step)
        for name, artefact in artefacts.items()
    }
    return open_joined(ModelMapping(artefacts, with_products(network, found)), device)


def _one_model(name: str, model: Model) -> Artefact:
    """Return the model of one product.

    Raises:
        InputError: It is a mapping itself, or no fitted model.
    """
    is_mapping = is_router(model) if isinstance(model, str | os.PathLike) else isinstance(model, Router)
    if isinstance(model, Router) or is_mapping:
        raise InputError(
            f"{name} has several models itself, and a joint model has one for each name: fit it with "
            "each_view=False, or join its models by their names"
        )
    return fitted_artefact(model)


def with_products(network: DescriptorModel, found: Mapping[str, Described]) -> DescriptorModel:
    """Return the network with descriptors of further products, or of further pictures of one."""
    known = dict(network.known)
    samples = dict(network.samples)
    for name, descriptors in found.items():
        known[name] = known[name].merged(descriptors.known) if name in known else descriptors.known
        if len(descriptors.samples):
            samples.setdefault(name, descriptors.samples)
    return replace(network, known=known, samples=samples)


def descriptor_model(products: Mapping[str, Artefact]) -> DescriptorModel:
    """Make the network by which products are recognised, which knows none yet.

    It has the backbone of the first model that has one, else the default one.
    """
    first = next((product for product in products.values() if _has_backbone(product.manifest)), None)
    settings: dict[str, Any] = {"size": SIZE, "stages": (STAGE,)}
    if first is not None:
        patch_config = first.manifest.config
        settings |= {key: patch_config[key] for key in NETWORK_SETTINGS if key in patch_config}
        settings["stages"] = (min(STAGE, max(patch_config["stages"])),)
        if (
            patch_in_name(patch_config["backbone"]) is not None
        ):  # position embeddings may be those of one size
            settings["size"] = "x".join(map(str, first.manifest.preprocess.network_size))
            settings["stages"] = tuple(patch_config["stages"])
    config = DescriptorSettings.parse_stored(settings)
    if first is None:
        network, _ = DescriptorNetwork.create(config)
        tensors = {name: values.numpy() for name, values in network.state_dict().items()}
    else:
        tensors = {name: values for name, values in first.tensors.items() if name.startswith("backbone.")}
        tensors["roi"] = np.ones(config.network_size, np.bool_)
    levels = [
        levels for product in products.values() if (levels := product.manifest.preprocess.levels) is not None
    ]
    seen = Preprocess.of_levels(widest(levels), size=config.network_size)
    return DescriptorModel(asdict(config), seen, tensors, {})


def _has_backbone(manifest: Manifest) -> bool:
    return issubclass(registry.method(manifest.method).config, PatchSettings)


def describe_product(
    network: DescriptorModel,
    model: Artefact,
    images: Images,
    *,
    described: Collection[str] = (),
    device: str = "auto",
    step: ProgressCallback = ignore_progress,
) -> Described:
    """Describe the good pictures that a model has learnt, for recognising its product.

    They are described as they are, at both ends of the range of light in which the model keeps its rate, and
    with simulated defects.

    Args:
        network: Network by which products are recognised.
        model: Model of the product.
        images: Pictures among which the learnt ones are found by their pixels.
        described: Hashes of pictures that are described already.
        device: Device, such as "cpu", "cuda" or "auto".
        step: Gets progress.

    Raises:
        InputError: The model's pictures have several channels.
    """
    manifest = model.manifest
    if manifest.preprocess.channels is not None:
        raise InputError("models of pictures with several channels are not joined: leave out --channels")
    if isinstance(images, str | os.PathLike):
        images = open_dataset(os.fspath(images))
    sources, _, _ = split_sources(images, category=None)
    opened = DescriptorNetwork.open(network, device)
    roi, nearest = (
        None if tensor is None else tensor.cpu().numpy() for tensor in (opened.roi, opened.nearest)
    )
    reader = Reader(sources, network.preprocess, set(), roi=roi, hidden=opened.config.hidden, nearest=nearest)
    unit_of = {row.hash: row.unit for row in manifest.pictures if row.role in LEARNT_ROLES}
    learnt = unit_of.keys() - {*described}
    lights = manifest.preprocess.lights
    count = len(sources)

    def load(number: int) -> Tensor | None:  # of a picture in a light
        changed, index = divmod(number, count)
        image = reader.load_in_light(index, lights[changed]) if changed else reader.load(index)
        return image if image is not None and reader.hashes[index] in learnt else None

    # of pictures that are described already only the hash is read: a few new ones may lie among many
    found = _descriptors(
        opened, load, range(count) if described else _subsample(range(count), MAX_GOOD), step, "recognition"
    )
    found = {index: found[index] for index in _subsample([*found], MAX_GOOD)}
    first = {reader.hashes[index]: index for index in reversed(found)}  # of copies one
    good = [index for index in found if first[reader.hashes[index]] == index]
    some = _subsample(good, MAX_PER_LIGHT)
    in_lights = [count * changed + index for changed in range(1, len(lights)) for index in some]
    if in_lights:
        found |= _descriptors(opened, load, in_lights, step, "recognition in each light")
    shown = [number for number in (*good, *in_lights) if number in found]
    defective, carriers = _defect_descriptors(opened, load, good, step) if good else ({}, [])
    width = len(next(iter(found.values()), ()))
    # near-duplicates are one unit, as they are everywhere else
    groups = np.array([unit_of.get(reader.hashes.get(index, ""), -1) for index in range(count)], np.int32)
    places = np.array(shown, np.int32)
    lights_shown = places // count if in_lights else np.zeros(0, np.int32)
    known = ProductDescriptors(
        np.array([found[number] for number in shown], np.float32).reshape(len(shown), width),
        groups[places % count],
        np.array([*defective.values()], np.float32).reshape(len(defective), width),
        groups[carriers],
        lights_shown,
    )
    samples = [image for index in good[: len(manifest.samples)] if (image := load(index)) is not None]
    return Described(known, pack_images(np.array([image.numpy() for image in samples], np.float32)))


def _defect_descriptors(
    network: DescriptorNetwork, load: LoadPicture, good: Sequence[int], step: ProgressCallback
) -> tuple[dict[int, NDArray[np.float32]], list[int]]:
    """Return descriptors of good pictures with simulated defects, and which pictures these are."""
    defects = SimulatedDefects(network, load, good, has_ladder=False)
    defects.learn_part(PART_LEARNING_SECONDS)
    stage = "recognition of defective parts"
    found = _descriptors(network, defects.load, range(DEFECT_COUNT), step, stage)
    return found, [defects.picture_of(number) for number in found]


def _subsample(numbers: Sequence[int], most: int) -> list[int]:
    """Choose at most `most` of the numbers, evenly."""
    chosen = np.linspace(0, len(numbers) - 1, min(len(numbers), most)).round().astype(int)
    return [numbers[k] for k in np.unique(chosen)]


def _descriptors(
    network: DescriptorNetwork, load: LoadPicture, numbers: Sequence[int], step: ProgressCallback, stage: str
) -> dict[int, NDArray[np.float32]]:
    """Return descriptors of the pictures that can be loaded, by their numbers."""
    found: dict[int, NDArray[np.float32]] = {}

    def store(number: int, features: Tensor, inside: Tensor | None) -> None:
        descriptor = network.describe(features[None], None if inside is None else inside[None])
        found[number] = descriptor[0].float().cpu().numpy()

    embed_pictures(network, load, numbers, store, step, stage)
    return dict(sorted(found.items()))
