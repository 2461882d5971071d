"""Reads and writes an exported router: a .zip, not compressed, with an ordinary .onnx model of each product,
the network that recognises products, what it knows of them, and a list of all these."""

from __future__ import annotations

import io
import json
import os
import re
import struct
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import BinaryIO, NamedTuple, cast

import numpy as np

from flawscope.artefact import files, router_file
from flawscope.artefact.model_facts import ModelFacts
from flawscope.artefact.model_file import FORMAT, check_format, package_versions
from flawscope.artefact.router_file import GRAPH, MAX_PRODUCTS, DescriptorModel, RouterArtefact
from flawscope.errors import InputError
from flawscope.runtime import onnx_file
from flawscope.runtime.onnx_file import Member, NetworkFile
from flawscope.types import Json

CONTENTS, NETWORK, DESCRIPTORS = "router.json", "recognition.onnx", "recognition.npz"
LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, and the lengths of the name and of what else there is
Path = str | os.PathLike[str]


class Archive(NamedTuple):
    """An exported router: what it says of itself, and where its products' models stand."""

    document: Json
    members: dict[str, Member]


def write(artefact: RouterArtefact, networks: Mapping[str, NetworkFile], path: Path) -> None:
    """Writes a router atomically. networks: of its products."""
    by = artefact.recognition
    names = _file_names(artefact.products)
    document = {
        "format": FORMAT,
        "versions": package_versions(),
        "products": [{"name": name, "file": file} for name, file in names.items()],
        **router_file.facts_of_routing(artefact),
    }
    if by is not None:
        document["recognition"]["known"] = [*by.known]
    with files.atomic_write(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:

        def member(name: str) -> BinaryIO:  # the same bytes whenever they are written
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            return cast(BinaryIO, archive.open(entry, "w", force_zip64=True))

        with member(CONTENTS) as out:
            out.write(json.dumps(document, indent=1, allow_nan=False).encode())
        if by is not None:
            with member(NETWORK) as out:
                out.write(by.tensors[GRAPH].tobytes())
            packed = io.BytesIO()
            np.savez(packed, **by.arrays())  # type: ignore[arg-type]
            with member(DESCRIPTORS) as out:
                out.write(packed.getvalue())
        for name, product in artefact.products.items():
            with member(names[name]) as out:
                networks[name].write_to(out, product)


def _file_names(products: Mapping[str, object]) -> dict[str, str]:
    """A file's name for each product."""
    found: dict[str, str] = {}
    for k, name in enumerate(products):
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-")
        file = f"{plain or k}.onnx"
        taken = file.lower() in (NETWORK, *(one.lower() for one in found.values()))
        found[name] = f"{k}-{file}" if taken else file
    return found


def read(path: Path) -> tuple[RouterArtefact, dict[str, Member]]:
    """Reads and checks a router; returns also where its products' models stand.

    Raises:
        InputError: one line that says what is wrong with the file.
    """
    with _opened(path) as (archive, found):
        products = {name: onnx_file.read(member) for name, member in found.members.items()}
        by, about = None, found.document.get("recognition")
        if about is not None:
            with np.load(io.BytesIO(archive.read(DESCRIPTORS)), allow_pickle=False) as stored:
                arrays = {key: stored[key] for key in stored.files}
            graph = {GRAPH: np.frombuffer(archive.read(NETWORK), np.uint8)}
            names = [str(name) for name in about["known"]]
            by = DescriptorModel.from_arrays(names, about["preprocess"], graph, arrays)
        artefact = RouterArtefact(products, by, router_file.parse_views(found.document, path))
        return artefact, found.members


def read_facts(path: Path) -> ModelFacts:
    """Reads each product's manifest, and the pattern of views. Networks are not checked."""
    with _opened(path) as (_, found):
        manifests = {name: onnx_file.read_manifest(member) for name, member in found.members.items()}
        return ModelFacts(manifests, router_file.parse_views(found.document, path))


@contextmanager
def _opened(path: Path) -> Iterator[tuple[zipfile.ZipFile, Archive]]:
    """Opens an archive. InputError where it is none of a router, or damaged."""
    with files.open_file(path) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                document = json.loads(archive.read(CONTENTS), parse_constant=files.reject_constant)
                check_format(document)
                listed = {str(one["name"]): str(one["file"]) for one in document["products"]}
                if not 0 < len(listed) == len(document["products"]) <= MAX_PRODUCTS:
                    raise ValueError
                members = {name: _member(file, path, archive.getinfo(of)) for name, of in listed.items()}
                yield archive, Archive(document, members)
        except InputError as error:
            text = str(error)
            raise error if text.startswith("cannot") else files.unusable_file_error(path, text) from None
        except (zipfile.BadZipFile, struct.error, OSError, EOFError, NotImplementedError, RuntimeError):
            raise files.damaged_error(path, "it is no model of several products, or damaged") from None
        except (KeyError, ValueError, TypeError, AttributeError):
            raise files.damaged_error(
                path, "it is no model of several products, or what it holds is damaged"
            ) from None


def _member(file: io.BufferedReader, path: Path, info: zipfile.ZipInfo) -> Member:
    """Finds where a file in the archive stands. ValueError where it is compressed."""
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        raise files.unusable_file_error(path, f"{info.filename} in it is compressed: store it as it is")
    file.seek(info.header_offset)
    signature, name, extra = LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))
    if signature != b"PK\x03\x04":
        raise ValueError
    return Member(os.fspath(path), info.filename, info.header_offset + 30 + name + extra, info.file_size)
