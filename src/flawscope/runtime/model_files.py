"""Writes and reads model files of any kind: of one product, or of several products or views.

The model of one product is a .safetensors or .onnx file: `artefact.model_file` and `onnx_file`. Several
models stand in a .safetensors file where they are fitted, in a .zip where they are exported. Both have a
document of the same form: format, versions, a row of `products` for each model with its name, and
`recognition` or `views` (the pattern of names), which assign a picture to a model. The rest lies elsewhere in
the file:

| | `_TensorFile`, .safetensors | `_Archive`, .zip, not compressed |
|---|---|---|
| a model | its manifest, and the keys of its tensors | the name of an ordinary .onnx file |
| the network that recognises | its settings, and the keys of its tensors | recognition.onnx |
| descriptors and samples | the keys of their tensors | recognition.npz |
| the document | in the header | router.json |

A tensor that several models have stands in a .safetensors file once.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import struct
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import IO, NamedTuple, Protocol

import numpy as np

from flawscope.artefact import files, model_file
from flawscope.artefact.descriptors import GRAPH, DescriptorModel, ProductDescriptors, Tensors
from flawscope.artefact.files import ARCHIVE_SUFFIX, TRAINED_SUFFIX
from flawscope.artefact.model_facts import ModelFacts
from flawscope.artefact.model_file import (
    FORMAT,
    Artefact,
    Manifest,
    check_format,
    package_versions,
    read_header,
    read_tensors,
    split_run_facts,
    write_contents,
)
from flawscope.artefact.model_mapping import ModelMapping, parse_views
from flawscope.errors import InputError
from flawscope.runtime import onnx_file
from flawscope.runtime.onnx_file import Member, NetworkFile, Place
from flawscope.types import Array, Facts, Json

MAX_PRODUCTS = 10_000
CONTENTS = "router.json"
NETWORK = "recognition.onnx"
DESCRIPTORS = "recognition.npz"
LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, and the lengths of the name and of the extra field
Path = str | os.PathLike[str]


class StoredModel(NamedTuple):
    """Model that was read from a file.

    Attributes:
        mapping: The models of all products or views.
        places: Where each model stands, by its name.
    """

    mapping: ModelMapping
    places: dict[str, Place]


def is_fitted(path: Place) -> bool:
    """Whether a model file is fitted; else it is exported."""
    return not isinstance(path, Member) and _suffix(path) == TRAINED_SUFFIX


def is_router(path: Path) -> bool:
    """Whether a model file has several products or views; raise InputError if it is missing or damaged."""
    if _suffix(path) != TRAINED_SUFFIX:
        return _suffix(path) == ARCHIVE_SUFFIX
    with files.open_file(path) as file:
        return "products" in read_header(file, path, several=True).document


# ------------------------------------------------------------------------------------------------- writing


def write(model: ModelMapping, path: Path, networks: Mapping[str, NetworkFile]) -> None:
    """Write the models of several products, or views, atomically: if that fails, an old file stays.

    Args:
        model: The models.
        path: The file to write: a .zip for exported models, a .safetensors file for fitted ones.
        networks: The network of each exported model, by its name; empty for fitted models.

    Raises:
        FlawscopeError: The file cannot be written.
    """
    writer = _ArchiveWriter(networks) if networks else _TensorWriter()
    rows = []
    for name, artefact in model.products.items():
        rows.append({"name": name, **writer.add_model(name, artefact)})
    document: Json = {"format": FORMAT, "versions": package_versions(), "products": rows}
    if model.recognition is None:
        document["views"] = None if model.views is None else asdict(model.views)
    else:
        preprocess = model.recognition.preprocess.to_dict()
        document["recognition"] = {"preprocess": preprocess, **writer.add_recognition(model.recognition)}
    writer.write(document, path)


class _Writer(Protocol):
    """Writer of a file of several models: collects the models, then writes them with their document."""

    def add_model(self, name: str, model: Artefact) -> Json:
        """Add a model, and return its row of the document, without the name."""

    def add_recognition(self, model: DescriptorModel) -> Json:
        """Add the network that recognises products, and return its entry in the document."""

    def write(self, document: Json, path: Path) -> None:
        """Write the document, and everything that was added."""


class _TensorWriter:
    """Writer of a .safetensors file."""

    def __init__(self) -> None:
        self._tensors: Tensors = {}
        self._runs: list[Json] = []  # for each model: facts on its run (`split_run_facts`)

    def add_model(self, name: str, model: Artefact) -> Json:
        document, run = split_run_facts(model.manifest)
        self._runs.append(run)
        return {"manifest": document, "tensors": self._add(model.stored_tensors())}

    def add_recognition(self, model: DescriptorModel) -> Json:
        return {
            "config": model.config,
            "tensors": self._add(model.tensors),
            "known": {name: self._add(product.arrays()) for name, product in model.known.items()},
            "samples": self._add(model.samples),
        }

    def _add(self, tensors: Mapping[str, Array]) -> dict[str, str]:
        """Store tensors under their digests, equal tensors once; return the digests by the tensors' names."""
        digests = {}
        for name, values in tensors.items():
            type_and_shape = f"{values.dtype.str} {values.shape}".encode()
            digest = hashlib.sha256(type_and_shape + np.ascontiguousarray(values).tobytes()).hexdigest()
            digests[name] = digest
            self._tensors.setdefault(digest, values)
        return digests

    def write(self, document: Json, path: Path) -> None:
        write_contents(document, {"products": self._runs}, self._tensors, path)


class _ArchiveWriter:
    """Writer of a .zip; `networks` are the models' networks, by name."""

    def __init__(self, networks: Mapping[str, NetworkFile]):
        self._networks = networks
        self._models: dict[str, tuple[NetworkFile, Artefact]] = {}  # by the file's name in the .zip
        self._recognition: dict[str, bytes] = {}

    def add_model(self, name: str, model: Artefact) -> Json:
        file = self._file_name(name)
        self._models[file] = self._networks[name], model
        return {"file": file}

    def _file_name(self, name: str) -> str:
        """Make a file name from a model's name; no other file of the archive has it."""
        number = len(self._models)
        safe_name = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-")
        file = f"{safe_name or number}.onnx"
        used_names = {NETWORK, *(used.lower() for used in self._models)}
        return f"{number}-{file}" if file.lower() in used_names else file

    def add_recognition(self, model: DescriptorModel) -> Json:
        """Add the network, and a file of the products' arrays, each under "NUMBER OF THE PRODUCT.NAME"."""
        arrays: Tensors = {}
        for number, (name, product) in enumerate(model.known.items()):
            arrays |= {f"{number}.{key}": values for key, values in product.arrays().items()}
            if name in model.samples:
                arrays[f"{number}.samples"] = model.samples[name]
        packed = io.BytesIO()
        np.savez(packed, **arrays)  # type: ignore[arg-type]
        self._recognition = {NETWORK: model.tensors[GRAPH].tobytes(), DESCRIPTORS: packed.getvalue()}
        return {"known": [*model.known]}

    def write(self, document: Json, path: Path) -> None:
        text = json.dumps(document, indent=1, allow_nan=False).encode()
        with files.atomic_write(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name, data in {CONTENTS: text, **self._recognition}.items():
                with _open_member(archive, name) as out:
                    out.write(data)
            for name, (network, artefact) in self._models.items():
                with _open_member(archive, name) as out:
                    network.write_to(out, artefact)


def _open_member(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    """Open a file of an archive for writing; its date is fixed, so that equal models give equal bytes."""
    fixed_date = (1980, 1, 1, 0, 0, 0)
    return archive.open(zipfile.ZipInfo(name, fixed_date), "w", force_zip64=True)


# ------------------------------------------------------------------------------------------------- reading


def read(path: Path) -> StoredModel:
    """Read and check a model file of any kind. Networks of exported models are checked, but not loaded.

    Raises:
        InputError: The file is missing, damaged or no model; one line names the fault.
    """
    if not is_router(path):
        return StoredModel(ModelMapping.of(read_one(path)), {"": path})  # "": the name of a single product
    with _opened(path) as (document, store):
        products = {name: store.read_model(row) for name, row in _rows(document).items()}
        views = parse_views(document)
        recognition_entry = document.get("recognition")
        recognition = None if recognition_entry is None else store.read_recognition(recognition_entry)
        store.check_all_is_used()
        places = {name: store.place(row) for name, row in _rows(document).items()}
        return StoredModel(ModelMapping(products, recognition=recognition, views=views), places)


def read_one(path: Path) -> Artefact:
    """Read and check the model of one product; raise InputError for a damaged file or one of several."""
    if files.suffix_of(path) == ARCHIVE_SUFFIX:
        raise files.several_products_error(path)
    return model_file.read(path) if is_fitted(path) else onnx_file.read(path)


def read_fitted(path: Path) -> ModelMapping:
    """Read and check a fitted model of any kind; raise InputError for a damaged or an exported file."""
    if not is_fitted(path):
        raise files.exported_error(path)
    return read(path).mapping


def read_facts(path: Path) -> ModelFacts:
    """Read the facts of a model file of any kind. Tensors and networks are not checked."""
    if not is_router(path):
        return ModelFacts.of(read_manifest(path))
    with _opened(path) as (document, store):
        manifests = {name: store.read_manifest(row) for name, row in _rows(document).items()}
        return ModelFacts(manifests, parse_views(document))


def read_manifest(path: Path) -> Manifest:
    """Read the manifest of one product's model; raise InputError for a file of several."""
    if files.suffix_of(path) == ARCHIVE_SUFFIX:
        raise files.several_products_error(path)
    return model_file.read_manifest(path) if is_fitted(path) else onnx_file.read_manifest(path)


class _Reader(Protocol):
    """Reader of the models that a document refers to; a wrong reference raises any error (`_opened`)."""

    def read_manifest(self, row: Facts) -> Manifest:
        """Read the manifest of a row's model. Tensors and network are not checked."""

    def read_model(self, row: Facts) -> Artefact:
        """Read and check a row's model."""

    def read_recognition(self, about: Facts) -> DescriptorModel:
        """Read the network that recognises products, from its entry in the document."""

    def place(self, row: Facts) -> Place:
        """Return where a row's model stands."""

    def check_all_is_used(self) -> None:
        """Raise KeyError if the file contains a tensor that has not been read."""


class _TensorFile:
    """Reader of a .safetensors file."""

    def __init__(self, file: io.BufferedReader, path: Path):
        self._file = file
        self._path = path
        self._header = read_header(file, path, several=True)
        self.document = self._header.document
        rows_and_runs = zip(self.document["products"], self._header.run["products"], strict=True)
        # name of a model -> facts on its run
        self._runs = {row["name"]: run for row, run in rows_and_runs}
        self._tensors: Tensors | None = None  # all tensors of the file, by key
        self._used: set[str] = set()  # keys of the tensors that were asked for

    def read_manifest(self, row: Facts) -> Manifest:
        manifest = row["manifest"]
        facts = {**manifest["facts"], **self._runs[row["name"]]}
        return Manifest.from_dict({**manifest, "facts": facts})

    def read_model(self, row: Facts) -> Artefact:
        return Artefact.from_stored(self.read_manifest(row), self._find(row["tensors"]))

    def read_recognition(self, about: Facts) -> DescriptorModel:
        known = {name: ProductDescriptors(**self._find(keys)) for name, keys in about["known"].items()}
        tensors = self._find(about["tensors"])
        samples = self._find(about["samples"])
        return DescriptorModel.from_stored(about, tensors, known, samples)

    def _find(self, keys: Mapping[str, str]) -> Tensors:
        """Read tensors, given as tensor name -> key in the file; return tensor name -> tensor."""
        if self._tensors is None:  # read when first needed: manifests do not need tensors
            self._tensors = read_tensors(self._file, self._header, self._path)
        self._used |= {*keys.values()}
        return {name: self._tensors[key] for name, key in keys.items()}

    def place(self, row: Facts) -> Place:
        return self._path

    def check_all_is_used(self) -> None:
        if self._used != self._header.entries.keys():
            raise KeyError("tensors")


class _Archive:
    """Reader of a .zip."""

    def __init__(self, archive: zipfile.ZipFile, file: io.BufferedReader, path: Path):
        self._archive = archive
        self._file = file
        self._path = path
        self.document: Json = json.loads(archive.read(CONTENTS), parse_constant=files.reject_constant)
        check_format(self.document)

    def read_manifest(self, row: Facts) -> Manifest:
        return onnx_file.read_manifest(self.place(row))

    def read_model(self, row: Facts) -> Artefact:
        return onnx_file.read(self.place(row))

    def read_recognition(self, about: Facts) -> DescriptorModel:
        """Read the network, and the file of the products' arrays, each under "NUMBER OF THE PRODUCT.NAME"."""
        with np.load(io.BytesIO(self._archive.read(DESCRIPTORS)), allow_pickle=False) as stored:
            arrays: Tensors = {key: stored[key] for key in stored.files}
        known = {}
        samples = Tensors()
        for number, name in enumerate(map(str, about["known"])):
            prefix = f"{number}."
            product_arrays = {
                key.removeprefix(prefix): array for key, array in arrays.items() if key.startswith(prefix)
            }
            if "samples" in product_arrays:
                samples[name] = product_arrays.pop("samples")
            known[name] = ProductDescriptors(**product_arrays)
        graph = {GRAPH: np.frombuffer(self._archive.read(NETWORK), np.uint8)}
        return DescriptorModel.from_stored(about, graph, known, samples)

    def place(self, row: Facts) -> Member:
        """Return the place of a file in the archive; raise InputError if the file is compressed."""
        info = self._archive.getinfo(str(row["file"]))
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise files.unusable_file_error(
                self._path, f"{info.filename} in it is compressed: store it as it is"
            )
        self._file.seek(info.header_offset)
        header = self._file.read(LOCAL_HEADER.size)
        signature, name_length, extra_length = LOCAL_HEADER.unpack(header)
        if signature != b"PK\x03\x04":  # the mark of a file in a .zip
            raise ValueError
        start = info.header_offset + LOCAL_HEADER.size + name_length + extra_length
        return Member(os.fspath(self._path), info.filename, start, info.file_size)

    def check_all_is_used(self) -> None:
        """Do nothing: further files in the archive are not read, and do no harm."""


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Json, _Reader]]:
    """Open a file of several models; yield its document, and a reader of what the document refers to.

    Raises:
        InputError: The file is damaged, or no model of several products.
    """
    with files.open_file(path) as file:
        try:
            if is_fitted(path):
                tensors = _TensorFile(file, path)
                yield tensors.document, tensors
                return
            with zipfile.ZipFile(file) as archive:
                store = _Archive(archive, file, path)
                yield store.document, store
        except InputError as error:
            text = str(error)
            if text.startswith("cannot"):  # such an error names the file already
                raise error from None
            raise files.unusable_file_error(path, text) from None
        except (zipfile.BadZipFile, struct.error, OSError, EOFError, NotImplementedError, RuntimeError):
            raise files.damaged_error(path, "it is no model of several products, or damaged") from None
        except (KeyError, IndexError, ValueError, TypeError, AttributeError):
            raise files.damaged_error(
                path, "it is no model of several products, or what it holds is damaged"
            ) from None


def _rows(document: Facts) -> dict[str, Facts]:
    """Return the document's row of each model, by the model's name.

    Raises:
        ValueError, TypeError, KeyError: The list of rows is damaged.
    """
    rows = document["products"]
    if not isinstance(rows, list) or not 0 < len(rows) <= MAX_PRODUCTS:
        raise ValueError
    rows_by_name: dict[str, Facts] = {row["name"]: row for row in rows}
    if len(rows_by_name) != len(rows):  # two rows have the same name
        raise ValueError
    if not all(isinstance(name, str) for name in rows_by_name):
        raise TypeError
    return rows_by_name


def _suffix(path: Path) -> str:
    """Return the suffix of a path, in lower case."""
    return os.path.splitext(os.fspath(path))[1].lower()
