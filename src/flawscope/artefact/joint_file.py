"""Writes and reads a joint model: several products, or views of a part, in one file with one backbone.

The layout is a model file's. The document holds a manifest for each product; tensors that all products share,
those of the backbone, stand once (`shared.NAME`), the others by the product's number (`products.K.NAME`), and
the descriptors by which it is recognised (`recognition.K.NAME`). A product's part is the model of that
product alone, bit for bit. Where the products are views, the document has `views`, the pattern that tells
them from a picture's name, and there are no descriptors.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import Any

from numpy.typing import NDArray

from flawscope.artefact.files import damaged_error, open_file, unusable_file_error
from flawscope.artefact.model_file import (
    JOINT_FORMAT,
    Artefact,
    Manifest,
    package_versions,
    read_header,
    read_tensors,
    split_run_facts,
    write_contents,
)
from flawscope.calibration.parts import PartPattern
from flawscope.calibration.recognition import ProductDescriptors
from flawscope.calibration.recognition import Recogniser as Recogniser
from flawscope.calibration.recognition import Recognition as Recognition
from flawscope.errors import InputError

BACKBONE_PREFIX = "backbone."  # how the names of the tensors that products share begin
EMBED_GRAPH, SCORE_GRAPH = "network.embed", "network.score"  # ONNX graphs of an exported model, [N] uint8
# Settings that decide what the network sees and what comes out of it
SHARED_SETTINGS = (
    *("backbone", "stages", "final_norm", "size", "keep_aspect", "crop", "neighbourhood", "dimensions"),
    *("distance", "layers", "precision"),
)
MAX_PRODUCTS = 10_000
MAX_NAME_LENGTH = 200
SUFFIX = ".safetensors"


@dataclass(frozen=True, eq=False)
class JointArtefact:
    """Models of several products that see pictures alike, and what each product is recognised by. Both have
    the products' names in the same order.

    views: pattern that tells a part's view from the name of a picture; the products are these views then, and
        nothing is recognised. None: they are products.
    """

    products: Mapping[str, Artefact]
    descriptors: Mapping[str, ProductDescriptors]
    views: PartPattern | None = None

    def __post_init__(self) -> None:
        """InputError where the models do not see pictures alike."""
        if not self.products or [*self.descriptors] != ([*self.products] if self.views is None else []):
            raise InputError("a joint model needs a model and good pictures of each product")
        if not all(0 < len(name) <= MAX_NAME_LENGTH for name in self.products):
            raise InputError(f"each {self.kind} of a joint model needs a name")
        (first, one), *others = self.products.items()
        for name, other in others:
            if (what := _find_mismatch(one, other)) is not None:
                raise InputError(
                    f"{first} and {name} cannot share a model: their {what} differ; fit them with the same "
                    "settings"
                )
        if one.manifest.preprocess.tile is not None:
            raise InputError("a joint model has no tiles: fit without --tile and --min-defect")
        _ = self.recogniser

    @property
    def is_exported(self) -> bool:
        """Whether the products are exported networks."""
        return EMBED_GRAPH in next(iter(self.products.values())).tensors

    @cached_property
    def recogniser(self) -> Recogniser:
        return Recogniser(self.descriptors)

    @property
    def kind(self) -> str:
        """The word for each of `products`: product or view."""
        return "product" if self.views is None else "view"

    def product(self, name: str) -> Artefact:
        """The model of one product, as it was fitted. InputError where there is no such product."""
        if name not in self.products:
            known = ", ".join(self.products)
            raise InputError(f"the model has no {self.kind} {name!s:.60}: it knows {known}")
        return self.products[name]


def _find_mismatch(one: Artefact, other: Artefact) -> str | None:
    """Says what keeps two models from sharing a backbone; None: nothing."""
    a, b = one.manifest, other.manifest
    if a.method != b.method:
        return "methods"
    for key in SHARED_SETTINGS:
        values = (one.config.get(key) for one in (a, b))
        if len({tuple(v) if isinstance(v, list) else v for v in values}) > 1:  # JSON has no tuples
            return f"settings of {key}"
    if a.calibration.precision != b.calibration.precision:
        return "precisions"
    if replace(a.preprocess, normalization=None) != replace(b.preprocess, normalization=None):
        return "preprocessing (white level, size or alignment)"
    if a.facts.get("part") != b.facts.get("part"):
        return "patterns of parts and views"
    if not _arrays_equal(one.tensors.get("roi"), other.tensors.get("roi")):
        return "regions of interest"
    first, second = ({k for k in x.tensors if _is_shared(k)} for x in (one, other))
    if first != second or not all(_arrays_equal(one.tensors[k], other.tensors[k]) for k in first):
        return "backbones' weights"
    return None


def _is_shared(name: str) -> bool:
    return name.startswith(BACKBONE_PREFIX) or name == EMBED_GRAPH


def _arrays_equal(a: NDArray[Any] | None, b: NDArray[Any] | None) -> bool:
    if a is None or b is None or a is b:
        return a is b
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def write(artefact: JointArtefact, path: str | os.PathLike[str]) -> None:
    """Writes a joint model atomically. FlawscopeError if it cannot be written; an old file stays then."""
    tensors: dict[str, NDArray[Any]] = {}
    parts, runs = [], []
    for k, (name, product) in enumerate(artefact.products.items()):
        document, run = split_run_facts(product.manifest)
        parts.append({"name": name, "manifest": document})
        runs.append(run)
        for key, values in product.tensors.items():
            tensors[f"shared.{key}" if _is_shared(key) else f"products.{k}.{key}"] = values
        for one in fields(ProductDescriptors) if name in artefact.descriptors else ():
            tensors[f"recognition.{k}.{one.name}"] = getattr(artefact.descriptors[name], one.name)
    document = {"format": JOINT_FORMAT, "versions": package_versions(), "products": parts}
    if artefact.views is not None:
        document["views"] = asdict(artefact.views)
    write_contents(document, {"products": runs}, tensors, path)


def is_joint(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a joint model. InputError where it is missing or damaged."""
    if not os.fspath(path).lower().endswith(SUFFIX):
        return False
    with open_file(path) as file:
        return "products" in read_header(file, path, JOINT_FORMAT).document


def read_manifests(path: str | os.PathLike[str]) -> dict[str, Manifest]:
    """Reads each product's manifest alone. Tensor data are not checked."""
    with open_file(path) as file:
        header = read_header(file, path, JOINT_FORMAT)
        return _parse_manifests(header.document, header.run, path)


def read_views(path: str | os.PathLike[str]) -> PartPattern | None:
    """Reads the pattern of views alone; None: the model is of products."""
    with open_file(path) as file:
        return _parse_views(read_header(file, path, JOINT_FORMAT).document, path)


def read(path: str | os.PathLike[str]) -> JointArtefact:
    """Reads and checks a joint model.

    Raises:
        InputError: one line that says what is wrong with the file.
    """
    with open_file(path) as file:
        header = read_header(file, path, JOINT_FORMAT)
        manifests = _parse_manifests(header.document, header.run, path)
        views = _parse_views(header.document, path)
        tensors = read_tensors(file, header, path)
    shared: dict[str, NDArray[Any]] = {}
    own: list[dict[str, NDArray[Any]]] = [{} for _ in manifests]
    recognition: list[dict[str, NDArray[Any]]] = [{} for _ in manifests]
    try:
        for key, values in tensors.items():
            kind, _, name = key.partition(".")
            if kind == "shared" and _is_shared(name):
                shared[name] = values
                continue
            number, _, name = name.partition(".")
            {"products": own, "recognition": recognition}[kind][_parse_number(number)][name] = values
        products = {
            name: Artefact(manifest, {**shared, **tensors})
            for (name, manifest), tensors in zip(manifests.items(), own, strict=True)
        }
        described = zip(manifests, recognition, strict=True)
        known = {name: ProductDescriptors(**one) for name, one in described if one or views is None}
        return JointArtefact(products, known, views)
    except InputError as error:
        raise unusable_file_error(path, str(error)) from None
    except (KeyError, IndexError, ValueError, TypeError):
        raise damaged_error(path, "its tensors are not those of its products") from None


def _parse_number(text: str) -> int:
    """A product's number. ValueError for other spellings of it."""
    number = int(text)
    if number < 0 or str(number) != text:
        raise ValueError
    return number


def _parse_views(document: Mapping[str, Any], path: Any) -> PartPattern | None:
    try:
        return None if (known := document.get("views")) is None else PartPattern(**known)
    except (TypeError, InputError):
        raise damaged_error(path, "its pattern of views is damaged") from None


def _parse_manifests(document: Mapping[str, Any], run: Mapping[str, Any], path: Any) -> dict[str, Manifest]:
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
