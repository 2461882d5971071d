"""Writes and reads a router: ordinary models of several products, or of the views of a part, in one file.

The layout is a model file's. The document has a manifest for each product, and the keys of its tensors in the
file: equal ones stand there once. A product's model is the one that was joined, bit for bit. A router of
products has a network beside them, whose descriptors of good pictures tell which product a picture shows; one
of views has `views`, the pattern that tells them from a picture's name.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flawscope.artefact.files import (
    ARCHIVE_SUFFIX,
    damaged_error,
    exported_error,
    open_file,
    unusable_file_error,
)
from flawscope.artefact.model_facts import ModelFacts, check_same_parts
from flawscope.artefact.model_file import (
    FORMAT,
    Artefact,
    Manifest,
    package_versions,
    read_header,
    read_tensors,
    split_run_facts,
    write_contents,
)
from flawscope.calibration.parts import PartPattern
from flawscope.errors import InputError
from flawscope.views.preprocess import Preprocess

MAX_PRODUCTS = 10_000
MAX_NAME_LENGTH = 200
MIN_GROUPS = 4  # groups of good pictures that a product needs to be recognised
GRAPH = "graph"
Tensors = dict[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class ProductDescriptors:
    """Descriptors of one product's pictures: vectors of length 1.

    good: [N, D] float32, of good pictures. groups: [N] int32, their units in the product's model: those of a
        group show one part.
    lights: [N] int32, number of the light that they were changed to (`views.light.lights_within`); empty
        where all are as they came.
    defective: [M, D] float32, of good pictures with a simulated defect. carriers: [M] int32, their groups.
    """

    good: NDArray[np.float32]
    groups: NDArray[np.int32]
    defective: NDArray[np.float32]
    carriers: NDArray[np.int32]
    lights: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))

    def __post_init__(self) -> None:
        """InputError where the descriptors do not fit each other."""
        for vectors, numbers in ((self.good, self.groups), (self.defective, self.carriers)):
            fits = vectors.dtype == np.float32 and vectors.ndim == 2 and numbers.dtype == np.int32
            fits = fits and numbers.shape == vectors.shape[:1] and vectors.shape[1] == self.good.shape[1]
            if not fits or not np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3):  # NaN too
                raise InputError("the descriptors of its good pictures are damaged")
        if self.lights.dtype != np.int32 or self.lights.shape not in ((0,), self.groups.shape):
            raise InputError("the lights of its good pictures are damaged")

    def merged(self, others: ProductDescriptors) -> ProductDescriptors:
        """Returns these pictures and others of the same product."""
        if not len(others.good):
            return self
        return ProductDescriptors(
            np.concatenate([self.good, others.good]),
            np.concatenate([self.groups, others.groups]),
            np.concatenate([self.defective, others.defective]),
            np.concatenate([self.carriers, others.carriers]),
            np.concatenate([self.lights, others.lights]),
        )


DESCRIPTOR_KEYS = tuple(one.name for one in fields(ProductDescriptors))


@dataclass(frozen=True, eq=False)
class DescriptorModel:
    """Network whose descriptors of whole pictures tell products apart, and the descriptors of good ones.

    config, tensors: of the network (`methods.descriptors.DescriptorNetwork`); of an exported one `tensors` is
        its graph, under `GRAPH`.
    preprocess: how it sees pictures: as wholes, in the light in which they come.
    known: each product's descriptors.
    samples: good pictures of products as the network sees them (`pack_images`), for the self-test.
    """

    config: dict[str, Any]
    preprocess: Preprocess
    tensors: Tensors
    known: Mapping[str, ProductDescriptors]
    samples: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """InputError where the products cannot be told apart."""
        for name, one in self.known.items():
            if len(np.unique(one.groups)) < MIN_GROUPS:
                raise InputError(
                    f"{name} can be recognised only by {MIN_GROUPS} good pictures or more, "
                    "of different parts: give more"
                )
        if len({one.good.shape[1] for one in self.known.values()}) > 1:
            raise InputError("the descriptors of its products have different lengths")

    def arrays(self) -> Tensors:
        """Descriptors and samples of all products, by the numbers of these."""
        found: Tensors = {}
        for k, (name, one) in enumerate(self.known.items()):
            found |= {f"{k}.{key}": getattr(one, key) for key in DESCRIPTOR_KEYS}
            found |= {f"{k}.samples": self.samples[name]} if name in self.samples else {}
        return found

    @classmethod
    def from_arrays(
        cls, products: Iterable[str], preprocess: Mapping[str, Any], tensors: Tensors, given: Tensors
    ) -> DescriptorModel:
        """An exported network, and what `arrays` returned. KeyError or InputError where they do not fit."""
        known, samples = {}, {}
        for k, name in enumerate(products):
            known[name] = ProductDescriptors(**{key: given[f"{k}.{key}"] for key in DESCRIPTOR_KEYS})
            if f"{k}.samples" in given:
                samples[name] = given[f"{k}.samples"]
        return cls({}, Preprocess.from_dict(preprocess), tensors, known, samples)


@dataclass(frozen=True, eq=False)
class RouterArtefact:
    """Models by the names of their products, and what tells a picture's product: `recognition`, or for views
    of a part `views`, the pattern of names."""

    products: Mapping[str, Artefact]
    recognition: DescriptorModel | None = None
    views: PartPattern | None = None

    def __post_init__(self) -> None:
        if not self.products or not all(0 < len(name) <= MAX_NAME_LENGTH for name in self.products):
            raise InputError("a router needs models, each with a name")
        if (self.recognition is None) == (self.views is None):
            raise InputError("a router needs good pictures of each product, or a pattern of views")
        if self.recognition is not None and {*self.recognition.known} != {*self.products}:
            raise InputError("a router needs good pictures of each product")
        check_same_parts([one.manifest.facts.get("part") for one in self.products.values()])

    @property
    def facts(self) -> ModelFacts:
        """Facts that the file says of the models."""
        return ModelFacts({name: one.manifest for name, one in self.products.items()}, self.views)


def write(artefact: RouterArtefact, path: str | os.PathLike[str]) -> None:
    """Writes a router atomically. FlawscopeError if it cannot be written; an old file stays then."""
    kept: Tensors = {}

    def store(given: Mapping[str, NDArray[Any]]) -> dict[str, str]:
        keys = {}
        for name, values in given.items():
            about = f"{values.dtype.str} {values.shape}".encode()
            keys[name] = hashlib.sha256(about + np.ascontiguousarray(values).tobytes()).hexdigest()
            kept.setdefault(keys[name], values)
        return keys

    parts, runs = [], []
    for name, product in artefact.products.items():
        document, run = split_run_facts(product.manifest)
        parts.append({"name": name, "manifest": document, "tensors": store(product.stored_tensors())})
        runs.append(run)
    document = {"format": FORMAT, "versions": package_versions(), "products": parts}
    document |= facts_of_routing(artefact)
    if (by := artefact.recognition) is not None:
        document["recognition"] |= {"config": by.config, "tensors": store(by.tensors)}
        document["recognition"]["known"] = {
            name: store({key: getattr(one, key) for key in DESCRIPTOR_KEYS}) for name, one in by.known.items()
        }
        document["recognition"]["samples"] = store(by.samples)
    write_contents(document, {"products": runs}, kept, path)


def facts_of_routing(artefact: RouterArtefact) -> dict[str, Any]:
    """The part of the document that is the same in a fitted and in an exported router."""
    if artefact.recognition is None:
        return {"views": asdict(artefact.views) if artefact.views else None}
    return {"recognition": {"preprocess": artefact.recognition.preprocess.to_dict()}}


def is_router(path: str | os.PathLike[str]) -> bool:
    """Whether a .safetensors file is a router. InputError where it is missing or damaged."""
    with open_file(path) as file:
        return "products" in read_header(file, path, several=True).document


def read_facts(path: str | os.PathLike[str]) -> ModelFacts:
    """Reads each product's manifest, and the pattern of views. Tensor data are not checked."""
    with open_file(path) as file:
        header = read_header(file, path, several=True)
        return ModelFacts(
            _parse_manifests(header.document, header.run, path), parse_views(header.document, path)
        )


def read(path: str | os.PathLike[str]) -> RouterArtefact:
    """Reads and checks a router.

    Raises:
        InputError: one line that says what is wrong with the file.
    """
    if os.fspath(path).lower().endswith(ARCHIVE_SUFFIX):
        raise exported_error(path)
    with open_file(path) as file:
        header = read_header(file, path, several=True)
        document = header.document
        manifests = _parse_manifests(document, header.run, path)
        views = parse_views(document, path)
        tensors = read_tensors(file, header, path)
    try:
        used = {key for keys in _iterate_keys(document) for key in keys.values()}
        if used != tensors.keys():
            raise KeyError

        def find(keys: Mapping[str, str]) -> Tensors:
            return {name: tensors[key] for name, key in keys.items()}

        each = zip(manifests.items(), document["products"], strict=True)
        products = {
            name: Artefact.from_stored(manifest, find(part["tensors"])) for (name, manifest), part in each
        }
        by = None
        if "recognition" in document:
            about = document["recognition"]
            by = DescriptorModel(
                dict(about["config"]),
                Preprocess.from_dict(about["preprocess"]),
                find(about["tensors"]),
                {name: ProductDescriptors(**find(keys)) for name, keys in about["known"].items()},
                find(about["samples"]),
            )
        return RouterArtefact(products, by, views)
    except InputError as error:
        raise unusable_file_error(path, str(error)) from None
    except (KeyError, IndexError, ValueError, TypeError, AttributeError):
        raise damaged_error(path, "its tensors are not those of its products") from None


def _iterate_keys(document: Mapping[str, Any]) -> Iterator[Mapping[str, str]]:
    """Yields each mapping from names to keys of tensors in a document."""
    for part in document["products"]:
        yield part["tensors"]
    if "recognition" in document:
        about = document["recognition"]
        yield from (about["tensors"], about["samples"], *about["known"].values())


def parse_views(document: Mapping[str, Any], path: object) -> PartPattern | None:
    """The pattern of views in a router's document; None: it is of products."""
    try:
        return None if (known := document.get("views")) is None else PartPattern(**known)
    except (TypeError, InputError):
        raise damaged_error(path, "its pattern of views is damaged") from None


def _parse_manifests(
    document: Mapping[str, Any], run: Mapping[str, Any], path: object
) -> dict[str, Manifest]:
    if "products" not in document:
        raise unusable_file_error(path, "it is a model of one product")
    found: dict[str, Manifest] = {}
    try:
        parts, runs = document["products"], run["products"]
        if not (isinstance(parts, list) and 0 < len(parts) <= MAX_PRODUCTS):
            raise ValueError
        for part, facts in zip(parts, runs, strict=True):
            name, manifest = part["name"], part["manifest"]
            if not isinstance(name, str) or name in found:
                raise ValueError
            found[name] = Manifest.from_dict({**manifest, "facts": {**manifest["facts"], **facts}})
    except (KeyError, TypeError, ValueError, AttributeError):
        raise damaged_error(path, "its list of products is damaged") from None
    except InputError as error:
        raise damaged_error(path, str(error)) from None
    return found
