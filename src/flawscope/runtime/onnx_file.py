"""Reads and writes the .onnx model file: a network, with the rest of the model in its metadata.

The metadata hold the manifest, the sample pictures, the region of interest, and hashes of these and of the
network.

An .onnx file is one protobuf message, ModelProto. Metadata are its fields 14, each a key (1) and a value (2).
They are read and exchanged without the onnx package: other fields are skipped, and every other byte stays
unchanged, above all the weights. https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import mmap
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import IO, NamedTuple

import numpy as np

from flawscope.artefact import files
from flawscope.artefact.certificate import MAP_STRIDE
from flawscope.artefact.model_file import METADATA_KEY, Artefact, Manifest
from flawscope.errors import InputError
from flawscope.pictures.near_duplicates import SIDE
from flawscope.pictures.table import LOOK_NOISE, LOOK_ROWS, LOOK_TENSORS, LOOKS
from flawscope.runtime import onnx_check
from flawscope.runtime.onnx_check import METADATA_PROPS, Buffer, parse_fields
from flawscope.types import Array

SHA256 = f"{METADATA_KEY}.sha256"
METADATA_SHA256 = f"{METADATA_KEY}.metadata_sha256"
# The artefact's tensors that are needed beside the network, for self-test and new calibration: key of an
# entry of the metadata -> name and type of the tensor
KEPT_TENSORS: dict[str, tuple[str, np.dtype[np.generic]]] = {
    "samples": ("samples", np.dtype(np.uint8)),
    "samples_int16": ("samples", np.dtype(np.int16)),  # where some samples are padded
    "sample_maps": ("sample_maps", np.dtype(np.float32)),
    "roi": ("roi", np.dtype(np.bool_)),
    "region": ("region", np.dtype(np.bool_)),
    "kinds": ("kinds", np.dtype(np.float32)),
    **{name: (name, dtype) for name, dtype in LOOK_TENSORS.items()},
}
_KEY_FIELD = 1  # number of the key's field in an entry of the metadata
_VALUE_FIELD = 2
MAX_PROTOBUF_BYTES = 2**31 - 1  # bytes of a protobuf message
MAX_TENSOR_BYTES = 32 * 2**20  # bytes of one of these tensors; larger ones stay in the .safetensors file


class Member(NamedTuple):
    """File that stands in another file, not compressed.

    Attributes:
        path: The outer file.
        name: The inner file's name.
        start: Where it begins in the outer file, in bytes.
        size: Its length in bytes.
    """

    path: str
    name: str
    start: int
    size: int

    def __str__(self) -> str:
        return f"{self.path} ({self.name})"

    def read(self) -> bytes:
        """Return the inner file's bytes; raise InputError where the outer file is missing or too short."""
        with _memory_map(self) as data:
            return bytes(data)


Place = str | os.PathLike[str] | Member


def read_manifest(path: Place) -> Manifest:
    """Read the manifest alone. Weights are neither read nor checked."""
    with _memory_map(path) as data:
        return _parse_manifest(_read_entries(data, path), path)


def read(path: Place) -> Artefact:
    """Read manifest, sample pictures and region of interest. Weights are checked, but not loaded.

    Raises:
        InputError: The file is missing, damaged or no model; one line names the fault.
    """
    with _memory_map(path) as data:
        entries = _read_entries(data, path)
        manifest = _parse_manifest(entries, path)
        if sha256_hex(without_metadata(data)) != entries.get(SHA256):
            raise files.damaged_error(path, "its network was altered or damaged")
        try:
            onnx_check.check(data)
        except ValueError as error:
            raise files.unusable_file_error(path, f"{error}; export it anew") from None
        tensors = _unpack_tensors(entries, manifest, path)
    try:
        return Artefact.from_stored(manifest, tensors)
    except InputError as error:
        raise files.unusable_file_error(path, str(error)) from None


def write(artefact: Artefact, network: Buffer, path: str | os.PathLike[str]) -> None:
    """Write a network (an .onnx file's bytes) with this artefact's manifest and samples, atomically."""
    with files.atomic_write(path) as file:
        _write_network(artefact, network, file)


def _write_network(artefact: Artefact, network: Buffer, file: IO[bytes]) -> None:
    """Write a network with this artefact's manifest and samples to an open file."""
    entries = _build_entries(artefact, sha256_hex(without_metadata(network)))
    write_entries(file, without_metadata(network), entries)


@dataclass(frozen=True)
class NetworkFile:
    """Network in a file, as it was when a session opened it.

    Attributes:
        path: The file, or its place in a .zip.
        digest: SHA-256 (hex) of the network, which `read` has compared; None: the file has none.
    """

    path: str | Member
    digest: str | None

    @classmethod
    def open(cls, path: Place) -> NetworkFile:
        """Read the digest of a file's network; raise InputError where the file is missing or damaged."""
        with _memory_map(path) as data:
            place = path if isinstance(path, Member) else os.fspath(path)
            return cls(place, _read_entries(data, path).get(SHA256))

    def is_unchanged(self) -> bool:
        """Whether the file still contains the network with this digest."""
        try:
            with _memory_map(self.path) as data:
                return sha256_hex(without_metadata(data)) == self.digest
        except (InputError, ValueError):
            return False

    def save(self, artefact: Artefact, path: str | os.PathLike[str]) -> None:
        """Write the network with another manifest, atomically; weights are copied byte by byte."""
        with files.atomic_write(path) as file:
            self.write_to(file, artefact)

    def write_to(self, file: IO[bytes], artefact: Artefact) -> None:
        """Write the network with another manifest to `file`; raise InputError if the old file has changed."""
        with _memory_map(self.path) as data:
            if sha256_hex(without_metadata(data)) != self.digest:
                raise files.unusable_file_error(
                    self.path, "it has changed since it was opened; open it again"
                )
            _write_network(artefact, data, file)


def sha256_hex(pieces: Iterable[bytes | memoryview]) -> str:
    """Return the SHA-256 (hex) of the pieces in their order."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def metadata_hash(entries: Mapping[str, str]) -> str:
    """Return the SHA-256 (hex) of all entries of the metadata except `METADATA_SHA256`."""
    hashed = {key: value for key, value in entries.items() if key != METADATA_SHA256}
    return sha256_hex([json.dumps(hashed, sort_keys=True).encode()])


@contextmanager
def _memory_map(path: Place) -> Iterator[memoryview]:
    """Yield the bytes of a file, or of a `Member` of a file; raise InputError if the size is impossible."""
    with files.open_file(path.path if isinstance(path, Member) else path) as file:
        file_size = os.fstat(file.fileno()).st_size
        start, size = 0, file_size
        if isinstance(path, Member):
            start, size = path.start, path.size
        if not 0 < size <= MAX_PROTOBUF_BYTES or start + size > file_size:
            raise files.damaged_error(path, "it is empty, or larger than an .onnx file can be")
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        # not closed here: a slice of the map may still be in use, such as by an error's traceback
        yield data[start : start + size]


# ---------------------------------------------------------------------------------------------- the entries


def _build_entries(artefact: Artefact, network_digest: str) -> dict[str, str]:
    """Return the metadata of the file, in ASCII; `network_digest` is the SHA-256 (hex) of the network."""
    stored = artefact.stored_tensors()
    tensor_texts = {}
    for entry, (name, dtype) in KEPT_TENSORS.items():
        tensor = stored.get(name)
        if tensor is None or tensor.dtype != dtype or tensor.nbytes > MAX_TENSOR_BYTES:
            continue
        packed = zlib.compress(tensor.tobytes())
        tensor_texts[f"{METADATA_KEY}.{entry}"] = base64.b64encode(packed).decode("ascii")
    manifest = artefact.manifest
    sample_entries = {f"{METADATA_KEY}.samples", f"{METADATA_KEY}.samples_int16"}
    has_samples = bool(sample_entries & tensor_texts.keys())
    if not has_samples:  # a self-test is impossible: its other data are left out, too
        manifest = replace(manifest, samples=())
        tensor_texts.pop(f"{METADATA_KEY}.sample_maps", None)
    manifest_text = json.dumps(manifest.to_dict(), allow_nan=False)
    entries = {METADATA_KEY: manifest_text, **tensor_texts, SHA256: network_digest}
    return entries | {METADATA_SHA256: metadata_hash(entries)}


def _read_entries(data: memoryview, path: object) -> dict[str, str]:
    try:
        return parse_entries(data)
    except ValueError:
        raise files.damaged_error(path, "it is not a flawscope model, or damaged") from None


def _parse_manifest(entries: Mapping[str, str], path: object) -> Manifest:
    """Read the manifest; raise InputError, with the file's name, if it is missing or was altered."""
    try:
        content = json.loads(entries[METADATA_KEY], parse_constant=files.reject_constant)
        if not isinstance(content, dict):
            raise TypeError
    except (ValueError, KeyError, TypeError, RecursionError):
        raise files.damaged_error(path, "it is not a flawscope model, or damaged") from None
    try:
        manifest = Manifest.from_dict(content)
    except InputError as error:
        raise files.unusable_file_error(path, str(error)) from None
    if metadata_hash(entries) != entries.get(METADATA_SHA256):
        raise files.damaged_error(path, "its manifest was altered or damaged")
    return manifest


def _unpack_tensors(entries: Mapping[str, str], manifest: Manifest, path: object) -> dict[str, Array]:
    """Read the tensors of `KEPT_TENSORS` that the metadata contain; raise InputError if any is damaged."""
    size = manifest.preprocess.network_size
    count = len(manifest.samples)
    map_size = tuple(-(-side // MAP_STRIDE) for side in size)  # side / MAP_STRIDE, rounded up
    shapes = {"samples": (count, 3, *size), "sample_maps": (count, *map_size), "roi": size, "region": size}
    if manifest.kinds is not None:
        shapes["kinds"] = manifest.kinds.shape
    tensors = {}
    try:
        shapes |= _look_shapes(entries)
        for entry, (name, dtype) in KEPT_TENSORS.items():
            text = entries.get(f"{METADATA_KEY}.{entry}")
            if text is not None:
                tensors[name] = _unpack_array(text, shapes[name], dtype)
    except (ValueError, KeyError, zlib.error):
        reason = (
            "its sample pictures, its kinds of defects, its region of interest or the looks of its good "
            "pictures are damaged"
        )
        raise files.damaged_error(path, reason) from None
    return tensors


def _look_shapes(entries: Mapping[str, str]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors of looks; the number of looks follows from the length of `LOOK_ROWS`.

    Raises:
        ValueError, zlib.error: The rows are damaged.
    """
    packed = entries.get(f"{METADATA_KEY}.{LOOK_ROWS}")
    if packed is None:
        return {}
    dtype = LOOK_TENSORS[LOOK_ROWS]
    compressed = base64.b64decode(packed, validate=True)
    data = zlib.decompressobj().decompress(compressed, MAX_TENSOR_BYTES)
    count = len(data) // dtype.itemsize
    return {LOOKS: (count, SIDE, SIDE), LOOK_NOISE: (count,), LOOK_ROWS: (count,)}


def _unpack_array(text: str, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> Array:
    """Unpack an array of this shape and type.

    At most one byte more than expected is unpacked: a hostile file cannot fill the memory, and an array that
    is too long is noticed.

    Raises:
        ValueError, zlib.error: The text is damaged, or contains an array of another size.
    """
    size = math.prod(shape) * dtype.itemsize
    if size > MAX_TENSOR_BYTES:
        raise ValueError
    compressed = base64.b64decode(text, validate=True)
    data = zlib.decompressobj().decompress(compressed, size + 1)
    if dtype == np.bool_:  # only the bytes 0 and 1 are valid values of a bool
        data = (np.frombuffer(data, np.uint8) != 0).tobytes()
    array: Array = np.frombuffer(data, dtype).reshape(shape)
    return array


# ------------------------------------------------------------------------------------- metadata of the format


def parse_entries(data: Buffer) -> dict[str, str]:
    """Return the metadata whose keys are flawscope's; raise ValueError if the file is damaged."""
    return {key: value for key, value, _, _ in _iterate_metadata(data) if key.startswith(METADATA_KEY)}


def without_metadata(data: Buffer) -> Iterator[Buffer]:
    """Yield the parts of a file before, between and after flawscope's metadata, in order."""
    piece_start = 0
    for key, _, start, end in _iterate_metadata(data):
        if key.startswith(METADATA_KEY):
            yield data[piece_start:start]
            piece_start = end
    yield data[piece_start:]


def write_entries(file: IO[bytes], pieces: Iterable[Buffer], entries: Mapping[str, str]) -> None:
    """Write a network's pieces, then the entries of the metadata."""
    for piece in pieces:
        file.write(piece)
    for key, value in entries.items():
        entry = _encode_field(_KEY_FIELD, key.encode()) + _encode_field(_VALUE_FIELD, value.encode())
        file.write(_encode_field(METADATA_PROPS, entry))


def _iterate_metadata(data: Buffer) -> Iterator[tuple[str, str, int, int]]:
    """Yield each entry of the metadata: its key, its value, and where its field begins and ends."""
    for number, start, content_start, end in parse_fields(data):
        if number != METADATA_PROPS:
            continue
        texts = {}  # number of a field in the entry -> its text
        for part_number, _, part_start, part_end in parse_fields(data, content_start, end):
            texts[part_number] = bytes(data[part_start:part_end]).decode()
        yield texts.get(_KEY_FIELD, ""), texts.get(_VALUE_FIELD, ""), start, end


def _encode_field(number: int, content: bytes) -> bytes:
    """Encode a field: its tag, its length in groups of seven bits (lowest first), and its content."""
    remaining = len(content)
    length = b""
    while remaining > 127:
        lowest_bits = remaining & 127
        length += bytes([lowest_bits | 128])  # 128: further groups follow
        remaining >>= 7
    length += bytes([remaining])
    tag = bytes([(number << 3) | 2])  # 2: a field with a length
    return tag + length + content
