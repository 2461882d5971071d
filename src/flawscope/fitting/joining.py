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

# Size of pictures and stage (stride 8) of the network for recognition. Of the sizes and stages that
# docs/decisions/0027-joint.md compares, these cost the least and distinguish products best.
SIZE = "128"
STAGE = 2
# Settings that the network for recognition takes from a product's model, whose network it then shares
NETWORK_SETTINGS = ("backbone", "neighbourhood")
MAX_GOOD = 300  # good pictures whose descriptors a model keeps
MAX_PER_LIGHT = 50  # good pictures whose descriptors a model keeps in each further light of its range
DEFECT_COUNT = 36  # simulated defects of all sizes whose descriptors a model keeps
PART_LEARNING_SECONDS = 3.0  # for finding the part on which simulated defects lie
LEARNT_ROLES = (TRAIN, CALIBRATION)  # roles of the pictures that a product is recognised by
Model = str | os.PathLike[str] | Artefact | Predictor | Router


class Described(NamedTuple):
    """Descriptors that a product is recognised by, and its `DescriptorModel.samples`."""

    descriptors: ProductDescriptors
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

    Each model keeps its own settings, thresholds and answers, bit for bit.

    Args:
        models: Models, of any methods and settings, by the name of the product or the view.
        pictures: Good pictures that each model was fitted on, as `fit` takes them; products are recognised by
            their descriptors. For models of views: good pictures by which it is recognised that views were
            exchanged.
        part: Regular expression on file names that finds the part, as in `fit`. The models are then those of
            views, which were fitted without `part`.
        view: Regular expression on file names that finds the view.
        device: Device, such as "cpu", "cuda" or "auto".
        step: Gets progress.

    Raises:
        InputError: A product has too few pictures, some models decide on parts in views and others do not, or
            the names of a view's pictures state no part.
    """
    artefacts = {name: _open_single(name, model) for name, model in models.items()}
    if part is not None:
        joined = open_joined(ModelMapping(artefacts, views=PartPattern(part, view)), device)
        sources_by_view = {}
        for name, view_pictures in (pictures or {}).items():
            sources_by_view[name], _, _ = split_sources(view_pictures, None)  # None: no category
        return joined.with_looks_of_views(sources_by_view)
    if pictures is None or models.keys() != pictures.keys():
        raise InputError("join takes good pictures of each model: give both by the products' names")
    network = descriptor_model(artefacts)
    described = {
        name: describe_product(network, artefact, pictures[name], device=device, step=step)
        for name, artefact in artefacts.items()
    }
    return open_joined(ModelMapping(artefacts, with_products(network, described)), device)


def _open_single(name: str, model: Model) -> Artefact:
    """Return the fitted model of one product.

    Raises:
        InputError: The model is a mapping of several models, or no fitted model.
    """
    is_router_file = isinstance(model, str | os.PathLike) and is_router(model)
    if isinstance(model, Router) or is_router_file:
        raise InputError(
            f"{name} has several models itself, and a joint model has one for each name: fit it with "
            "each_view=False, or join its models by their names"
        )
    return fitted_artefact(model)


def with_products(network: DescriptorModel, described: Mapping[str, Described]) -> DescriptorModel:
    """Add descriptors of new products, or of new pictures of known products, to a network.

    Args:
        network: Network by which products are recognised.
        described: The new descriptors, and samples for a new product, by the product's name.
    """
    descriptors = dict(network.known)
    samples = dict(network.samples)
    for name, new in described.items():
        if name in descriptors:
            descriptors[name] = descriptors[name].merged(new.descriptors)
        else:
            descriptors[name] = new.descriptors
        if len(new.samples):
            samples.setdefault(name, new.samples)
    return replace(network, known=descriptors, samples=samples)


def descriptor_model(products: Mapping[str, Artefact]) -> DescriptorModel:
    """Return a network for recognising products, which knows no product yet.

    The network has the backbone of the first model that has a backbone, or the default backbone.
    """
    with_backbone = (product for product in products.values() if _has_backbone(product.manifest))
    first = next(with_backbone, None)
    settings: dict[str, Any] = {"size": SIZE, "stages": (STAGE,)}
    if first is not None:
        patch_config = first.manifest.config
        settings |= {key: patch_config[key] for key in NETWORK_SETTINGS if key in patch_config}
        deepest_stage = max(patch_config["stages"])
        settings["stages"] = (min(STAGE, deepest_stage),)
        # a transformer may work only at the size of its position embeddings: the model's own size is used
        if patch_in_name(patch_config["backbone"]) is not None:
            settings["size"] = "x".join(map(str, first.manifest.preprocess.network_size))
            settings["stages"] = tuple(patch_config["stages"])
    config = DescriptorSettings.parse_stored(settings)
    if first is None:
        network, _ = DescriptorNetwork.create(config)
        tensors = {name: values.numpy() for name, values in network.state_dict().items()}
    else:
        tensors = {name: values for name, values in first.tensors.items() if name.startswith("backbone.")}
        tensors["roi"] = np.ones(config.network_size, np.bool_)
    product_levels = [product.manifest.preprocess.levels for product in products.values()]
    levels = widest([levels for levels in product_levels if levels is not None])
    preprocess = Preprocess.of_levels(levels, size=config.network_size)
    return DescriptorModel(asdict(config), preprocess, tensors, {})


def _has_backbone(manifest: Manifest) -> bool:
    """Whether a model's method compares patches of a pretrained network, the backbone."""
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
    """Compute the descriptors that a product is recognised by, from the good pictures its model has learnt.

    Pictures are described unchanged, in each further light in which the model keeps its false-alarm rate, and
    with simulated defects.

    Args:
        network: Network by which products are recognised.
        model: Model of the product.
        images: Pictures that include the learnt ones, which are recognised by their pixels.
        described: Hashes of pictures that have descriptors already, and are left out.
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
    hidden = opened.config.hidden
    reader = Reader(sources, network.preprocess, known=set(), roi=roi, hidden=hidden, nearest=nearest)
    unit_by_hash = {row.hash: row.unit for row in manifest.pictures if row.role in LEARNT_ROLES}
    hashes_to_describe = unit_by_hash.keys() - {*described}
    lights = manifest.preprocess.lights
    count = len(sources)

    # Pictures in lights are numbered by light number * count + index. Light 0 is the picture's own.

    def load(number: int) -> Tensor | None:
        """Load a picture in a light; None: it is unreadable, not learnt, or described already."""
        light_number, index = divmod(number, count)
        if light_number:
            image = reader.load_in_light(index, lights[light_number])
        else:
            image = reader.load(index)
        if image is None or reader.hashes[index] not in hashes_to_describe:
            return None
        return image

    # If some pictures are described already, a subsample of the files might contain few new ones. So all
    # files are read then; `load` returns None for those that are not new.
    candidates = range(count) if described else _subsample(range(count), MAX_GOOD)
    all_by_index = _descriptors(opened, load, candidates, step, "recognition")
    descriptors = {index: all_by_index[index] for index in _subsample([*all_by_index], MAX_GOOD)}
    # number of the first copy by hash; reversed, because later items overwrite earlier ones
    first_index_by_hash = {reader.hashes[index]: index for index in reversed(descriptors)}
    good_indices = [index for index in descriptors if first_index_by_hash[reader.hashes[index]] == index]
    indices_for_lights = _subsample(good_indices, MAX_PER_LIGHT)
    numbers_in_lights = [
        count * light_number + index for light_number in range(1, len(lights)) for index in indices_for_lights
    ]
    if numbers_in_lights:
        descriptors |= _descriptors(opened, load, numbers_in_lights, step, "recognition in each light")
    numbers = [number for number in (*good_indices, *numbers_in_lights) if number in descriptors]
    defective: dict[int, NDArray[np.float32]] = {}
    carriers: list[int] = []
    if good_indices:
        defective, carriers = _defect_descriptors(opened, load, good_indices, step)
    descriptor_length = len(next(iter(descriptors.values()), ()))
    # near-duplicates have the same unit
    units = np.array([unit_by_hash.get(reader.hashes.get(index, ""), -1) for index in range(count)], np.int32)
    number_array = np.array(numbers, np.int32)
    indices = number_array % count
    light_numbers = number_array // count if numbers_in_lights else np.zeros(0, np.int32)
    good_descriptors = np.array([descriptors[number] for number in numbers], np.float32)
    defect_descriptors = np.array([*defective.values()], np.float32)
    product = ProductDescriptors(
        good=good_descriptors.reshape(len(numbers), descriptor_length),
        groups=units[indices],
        defective=defect_descriptors.reshape(len(defective), descriptor_length),
        carriers=units[carriers],
        lights=light_numbers,
    )
    sample_images = [load(index) for index in good_indices[: len(manifest.samples)]]
    samples = [image.numpy() for image in sample_images if image is not None]
    return Described(product, pack_images(np.array(samples, np.float32)))


def _defect_descriptors(
    network: DescriptorNetwork, load: LoadPicture, good: Sequence[int], step: ProgressCallback
) -> tuple[dict[int, NDArray[np.float32]], list[int]]:
    """Compute the descriptors of good pictures with simulated defects.

    Returns:
        The descriptors, by the defect's number; and in the same order the number of the picture that carries
        each defect.
    """
    defects = SimulatedDefects(network, load, good, has_ladder=False)
    defects.learn_part(PART_LEARNING_SECONDS)
    stage = "recognition of defective parts"
    descriptors = _descriptors(network, defects.load, range(DEFECT_COUNT), step, stage)
    return descriptors, [defects.picture_of(number) for number in descriptors]


def _subsample(numbers: Sequence[int], max_count: int) -> list[int]:
    """Return at most `max_count` of the numbers, evenly spaced."""
    places = np.linspace(0, len(numbers) - 1, min(len(numbers), max_count)).round().astype(int)
    return [numbers[place] for place in np.unique(places)]


def _descriptors(
    network: DescriptorNetwork, load: LoadPicture, numbers: Sequence[int], step: ProgressCallback, stage: str
) -> dict[int, NDArray[np.float32]]:
    """Return descriptors of the pictures that can be loaded, by their numbers."""
    descriptors: dict[int, NDArray[np.float32]] = {}

    def store(number: int, features: Tensor, inside: Tensor | None) -> None:
        descriptor = network.describe(features[None], None if inside is None else inside[None])
        descriptors[number] = descriptor[0].float().cpu().numpy()

    embed_pictures(network, load, numbers, store, step, stage)
    return dict(sorted(descriptors.items()))
