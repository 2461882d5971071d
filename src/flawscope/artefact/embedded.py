"""What an exported model carries beside its network: the manifest, the sample pictures, the region of
interest, and hashes of all this and of the network. As text, key by key: where it stands is the format's
business.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flawscope.artefact import files
from flawscope.artefact.certificate import STRIDE
from flawscope.artefact.model_file import KEY, Artefact, Manifest
from flawscope.errors import InputError

SHA256, METADATA_SHA256 = f"{KEY}.sha256", f"{KEY}.metadata_sha256"
FOREIGN = "it is not a flawscope model, or damaged"
# Of the artefact's tensors only what is needed beside the network: self-test, new calibration
KEPT: dict[str, tuple[str, np.dtype[Any]]] = {  # entry: tensor and type
    "samples": ("samples", np.dtype(np.uint8)),
    "samples_int16": ("samples", np.dtype(np.int16)),  # some of them are padded
    "sample_maps": ("sample_maps", np.dtype(np.float32)),
    "roi": ("roi", np.dtype(np.bool_)),
    "region": ("region", np.dtype(np.bool_)),
}
MOST_BYTES = 32 * 2**20  # of one of them; larger ones stay in the .safetensors file


def pack(artefact: Artefact, hashes: Mapping[str, str]) -> dict[str, str]:
    """Everything but the network, which `hashes` are of. ASCII only."""
    tensors = {
        f"{KEY}.{entry}": _pack(tensor)
        for entry, (name, kind) in KEPT.items()
        if (tensor := artefact.tensors.get(name)) is not None
        and tensor.dtype == kind
        and tensor.nbytes <= MOST_BYTES
    }
    manifest = artefact.manifest
    if not {f"{KEY}.samples", f"{KEY}.samples_int16"} & tensors.keys():  # then nothing is compared with them
        manifest = replace(manifest, samples=())
        tensors.pop(f"{KEY}.sample_maps", None)
    entries = {KEY: json.dumps(manifest.to_dict(), allow_nan=False), **tensors}
    entries |= hashes
    return entries | {METADATA_SHA256: metadata_hash(entries)}


def manifest(entries: Mapping[str, str], path: Any) -> Manifest:
    """InputError, naming the file, if there is none or it was altered."""
    try:
        content = json.loads(entries[KEY], parse_constant=files.no_constant)
        if not isinstance(content, dict):
            raise TypeError
    except (ValueError, KeyError, TypeError, RecursionError):
        raise files.bad(path, FOREIGN) from None
    try:
        found = Manifest.from_dict(content)
    except InputError as error:
        raise files.refused(path, str(error)) from None
    if metadata_hash(entries) != entries.get(METADATA_SHA256):
        raise files.bad(path, "its manifest was altered or damaged")
    return found


def tensors(entries: Mapping[str, str], manifest: Manifest, path: Any) -> dict[str, NDArray[Any]]:
    """Sample pictures and region of interest, where they are kept."""
    size = manifest.preprocess.network_size
    count, grid = len(manifest.samples), tuple(-(-side // STRIDE) for side in size)
    shapes = {"samples": (count, 3, *size), "sample_maps": (count, *grid), "roi": size, "region": size}
    try:
        return {
            name: _unpack(entries[f"{KEY}.{entry}"], shapes[name], kind)
            for entry, (name, kind) in KEPT.items()
            if f"{KEY}.{entry}" in entries
        }
    except (ValueError, zlib.error):
        raise files.bad(path, "its sample pictures or its region of interest are damaged") from None


def digest(pieces: Iterable[bytes | memoryview]) -> str:
    found = hashlib.sha256()
    for piece in pieces:
        found.update(piece)
    return found.hexdigest()


def metadata_hash(entries: Mapping[str, str]) -> str:
    ours = {k: v for k, v in entries.items() if k != METADATA_SHA256}
    return digest([json.dumps(ours, sort_keys=True).encode()])


def _pack(pixels: NDArray[Any]) -> str:
    return base64.b64encode(zlib.compress(pixels.tobytes())).decode("ascii")


def _unpack(text: str, shape: tuple[int, ...], kind: np.dtype[Any]) -> NDArray[Any]:
    """ValueError or zlib.error if it has another size; no more is unpacked than that."""
    size = math.prod(shape) * kind.itemsize
    if size > MOST_BYTES:
        raise ValueError
    data = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), size + 1)
    if kind == np.bool_:  # any other byte than 0 and 1 would be no bool
        kind, data = np.dtype(np.bool_), (np.frombuffer(data, np.uint8) != 0).tobytes()
    found: NDArray[Any] = np.frombuffer(data, kind).reshape(shape)
    return found
