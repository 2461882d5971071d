"""Model file: tensors and a JSON manifest in a safetensors file.

It has no pickle and no code, is written whole or not at all, and is checked before memory is allocated.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import platform
import struct
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib import metadata
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flawscope._version import __version__
from flawscope.artefact.files import (
    atomic_write,
    damaged_error,
    open_file,
    reject_constant,
    several_products_error,
    unusable_file_error,
)
from flawscope.artefact.kinds import Kinds
from flawscope.calibration.outliers import SUSPECTS, Suspect
from flawscope.calibration.rows import calibrate
from flawscope.calibration.threshold import Calibration
from flawscope.errors import FlawscopeError, InputError
from flawscope.pictures.table import (
    LOOK_TENSORS,
    Picture,
    looks_to_tensors,
    rows_from_table,
    rows_to_table,
    with_looks,
)
from flawscope.types import Json
from flawscope.views.preprocess import Preprocess
from flawscope.views.tiles import Fusion

# Increased when an older flawscope could not read the file. 5: good pictures are one table. 6: the table has
# their looks
FORMAT = 6
OLDEST_FORMAT = 5  # every later version reads it
METADATA_KEY = "flawscope"
# Facts of the run, not of the model. They have a place of their own in the file, so that two fits with the
# same seed, pictures and CPU write all other parts of it identically, byte for byte.
RUN_KEY = "flawscope_run"
TIME_FACTS = ("seconds", "seconds_total", "seconds_view")
MEMORY_FACTS = ("memory_peak", "memory_predicted")
ASKED_CALL = "asked_call"  # digest of the call that left open questions: the same call with --force accepts
RUN_FACTS = ("summary", *TIME_FACTS, *MEMORY_FACTS, "shards", "device", "threads", ASKED_CALL)
CERTIFICATE_KEYS = "certificate", "certificate_openvino"  # among the facts of an exported model
QUESTIONS = "questions"  # among the facts: open questions
KEEPS_LOOKS = "keeps_looks"  # among the facts: False where looks of good pictures must not be kept
MAX_HEADER_BYTES = 64 * 2**20
PACKAGES = ("torch", "timm", "numpy", "pillow")  # whose versions decide a score
MAX_DIMENSIONS = 32  # numpy 1.26 can have no more
DTYPES = {
    "BOOL": np.dtype(np.bool_),
    **{f"F{8 * size}": np.dtype(f"f{size}") for size in (2, 4, 8)},
    **{f"{sign}{8 * size}": np.dtype(f"{sign.lower()}{size}") for sign in "IU" for size in (1, 2, 4, 8)},
}


def package_versions() -> dict[str, str]:
    """Return the versions of flawscope, Python, and the installed packages among `PACKAGES`."""
    versions = {"flawscope": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


@dataclass(frozen=True)
class Manifest:
    """Facts of a model apart from its tensors."""

    method: str
    config: dict[str, Any]
    preprocess: Preprocess
    calibration: Calibration
    backbone: dict[str, str] = field(default_factory=dict)
    category: str = ""
    pictures: tuple[Picture, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)  # seconds, covering radius, peak memory, ...
    notes: tuple[str, ...] = ()
    samples: tuple[dict[str, Any], ...] = ()  # name, score, map_maximum of each picture in tensor "samples"
    versions: dict[str, str] = field(default_factory=dict)
    kinds: Kinds | None = None  # of defects that it names, with tensor "kinds"; None: none
    fusion: Fusion | None = None  # of the maps of a picture's tiles; None: pictures have no tiles

    @property
    def suspicious_above(self) -> float | None:
        """Score above which a good training picture is suspicious; None: there are too few pictures."""
        limit = self.facts.get("suspicious_above")
        return None if limit is None else float(limit)

    @property
    def is_exported(self) -> bool:
        """Whether the model is an exported one, whose networks are in the file's graph alone."""
        return any(key in self.facts for key in CERTIFICATE_KEYS)

    @property
    def suspects(self) -> tuple[Suspect, ...]:
        """Good pictures that deserve a look, most suspicious first."""
        return tuple(Suspect(*row) for row in self.facts.get(SUSPECTS, ()))

    @property
    def keeps_looks(self) -> bool:
        """Whether a file keeps the looks of the good pictures, by which they are recognised later."""
        return self.facts.get(KEEPS_LOOKS) is not False

    @property
    def questions(self) -> tuple[str, ...]:
        """Open questions, which a person may accept: lines on pictures with which the model may be wrong."""
        return tuple(map(str, self.facts.get(QUESTIONS, ())))

    def asking(self, *lines: str | None) -> Manifest:
        """Return the manifest with further open questions.

        Args:
            lines: The questions; None is ignored.
        """
        questions = list(dict.fromkeys([*self.questions, *filter(None, lines)]))
        if not questions:
            return self
        return replace(self, facts={**self.facts, QUESTIONS: questions})

    def accepted(self) -> Manifest:
        """Return the manifest with its open questions turned into notes."""
        facts = {key: value for key, value in self.facts.items() if key not in (QUESTIONS, ASKED_CALL)}
        accepted_questions = tuple(f"accepted: {line}" for line in self.questions)
        return replace(self, facts=facts, notes=(*self.notes, *accepted_questions))

    def to_dict(self) -> dict[str, Any]:
        """Return the document for a file.

        Raises:
            FlawscopeError: The rows of `pictures` give another calibration than `calibration`.
        """
        calibration_arguments = self.calibration.to_dict()
        if calibrate(self.pictures, **calibration_arguments) != self.calibration:
            raise FlawscopeError("the calibration is not that of the model's pictures")
        document = {
            "format": FORMAT,
            "method": self.method,
            "config": self.config,
            "backbone": self.backbone,
            "category": self.category,
            "preprocess": self.preprocess.to_dict(),
            "calibration": calibration_arguments,
            "pictures": rows_to_table(self.pictures),
            "facts": self.facts,
            "notes": list(self.notes),
            "samples": list(self.samples),
            "versions": self.versions,
        }
        if self.fusion is not None:
            document["fusion"] = self.fusion.to_dict()
        if self.kinds is not None:
            document["kinds"] = self.kinds.to_dict()
        return document

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Manifest:
        """Read the document of a file.

        Raises:
            InputError: The document is damaged, or its format is unknown.
        """
        check_format(data)
        try:
            rows = rows_from_table(data["pictures"])
            manifest = cls(
                method=str(data["method"]),
                config=dict(data["config"]),
                preprocess=Preprocess.from_dict(data["preprocess"]),
                calibration=calibrate(rows, **Calibration.read_how(data["calibration"])),
                backbone=dict(data["backbone"]),
                category=str(data["category"]),
                pictures=rows,
                facts=_parse_facts(data["facts"]),
                notes=tuple(map(str, data["notes"])),
                samples=tuple(dict(sample) for sample in data["samples"]),
                versions=dict(data["versions"]),
                fusion=Fusion.from_dict(data["fusion"]) if "fusion" in data else None,
                kinds=Kinds.from_dict(data["kinds"]) if "kinds" in data else None,
            )
            has_fusion = manifest.fusion is not None
            has_tiles = manifest.preprocess.tile is not None
            if has_fusion != has_tiles:
                raise ValueError("a model with tiles has a fusion, and no other one")
            return manifest
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise InputError(f"its manifest is damaged ({error!s:.80})") from None


def _parse_facts(data: Mapping[str, Any]) -> dict[str, Any]:
    """Read the facts, and check the types of those that all pages and commands show.

    Raises:
        ValueError: One of these facts has the wrong type, or a time is out of range.
    """
    facts = dict(data)
    for name in ("summary", QUESTIONS):
        lines = facts.get(name, [])
        if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
            raise ValueError(name)
    for name in ("seconds_total", "seconds_view"):
        seconds = facts.get(name, 0)
        if not isinstance(seconds, int | float) or not 0 <= seconds < 1e9:
            raise ValueError(name)
    return facts


def check_format(data: Mapping[str, Any]) -> None:
    """Raise an InputError where this version of flawscope cannot read the format."""
    version = data.get("format")
    if type(version) is not int or version < 1:
        raise InputError("it has no format version")
    if version > FORMAT:
        versions = data.get("versions")
        writer_version = versions.get("flawscope") if isinstance(versions, dict) else None
        writer = f"flawscope {writer_version!s:.40}" if writer_version else "a newer flawscope"
        raise InputError(f"it has format {version}, made by {writer}, and this one reads {FORMAT}: upgrade")
    if version < OLDEST_FORMAT:
        raise InputError(
            f"it has format {version}, of before a release, and this one reads {FORMAT}: fit anew"
        )


@dataclass(frozen=True)
class Artefact:
    """Manifest of a model and its tensors, as numpy arrays."""

    manifest: Manifest
    tensors: dict[str, NDArray[Any]]

    def __post_init__(self) -> None:
        """Raise an InputError where the tensor "kinds" or "region" does not fit the manifest."""
        if self.manifest.kinds is not None:
            self.manifest.kinds.check(self.tensors.get("kinds"))
        region = self.tensors.get("region")
        preprocess = self.manifest.preprocess
        if region is None:
            return
        is_valid = (
            preprocess.tile is not None
            and region.dtype == np.bool_
            and region.shape == tuple(preprocess.network_size)
            # only a network of this setting can skip pixels outside the region, which are marked as padding
            and self.manifest.config.get("masked") is True
            and region.any()
        )
        if not is_valid:
            raise InputError("the model's region of interest does not fit its tiles: fit anew")

    @classmethod
    def from_stored(cls, manifest: Manifest, tensors: Mapping[str, NDArray[Any]]) -> Artefact:
        """Build the artefact from a file's manifest and tensors.

        Raises:
            InputError: The manifest and the tensors do not fit each other.
        """
        try:
            pictures = with_looks(manifest.pictures, tensors)
        except ValueError:
            raise InputError("the looks of its good pictures are damaged") from None
        model_tensors = {name: tensor for name, tensor in tensors.items() if name not in LOOK_TENSORS}
        return cls(replace(manifest, pictures=pictures), model_tensors)

    def stored_tensors(self) -> dict[str, NDArray[Any]]:
        """Return the tensors for a file, including the looks of the good pictures if these may be kept."""
        if not self.manifest.keeps_looks:
            return dict(self.tensors)
        return {**self.tensors, **looks_to_tensors(self.manifest.pictures)}

    @property
    def counted(self) -> NDArray[Any] | None:
        """Region of interest [H, W] bool in the view of the whole frame; None: not known."""
        return self.tensors.get("region", self.tensors.get("roi"))


# ------------------------------------------------------------------------------------------------- writing


def write(artefact: Artefact, path: str | os.PathLike[str]) -> None:
    """Write a model atomically.

    Raises:
        FlawscopeError: The file cannot be written; an existing file stays unchanged.
    """
    document, run_facts = split_run_facts(artefact.manifest)
    write_contents(document, run_facts, artefact.stored_tensors(), path)


def split_run_facts(manifest: Manifest) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the manifest's document without the facts of the run, and the facts of the run."""
    document = manifest.to_dict()
    facts = document["facts"]
    document["facts"] = {name: fact for name, fact in facts.items() if name not in RUN_FACTS}
    run_facts = {name: facts[name] for name in RUN_FACTS if name in facts}
    return document, run_facts


def write_contents(
    document: dict[str, Any],
    run: dict[str, Any],
    tensors: Mapping[str, NDArray[Any]],
    path: str | os.PathLike[str],
) -> None:
    """Write a model file atomically.

    Args:
        document: The manifest, without facts of the run.
        run: Facts of the run.
        tensors: Tensors by name.
        path: The file.
    """
    from safetensors.numpy import save

    # A safetensors file: length of the header in 8 bytes, header in JSON, data. safetensors lays out the
    # tensors; its header is replaced below by one that also holds the document.
    content = save({name: np.asarray(tensor, order="C") for name, tensor in sorted(tensors.items())})
    (header_length,) = struct.unpack("<Q", content[:8])
    data = memoryview(content)[8 + header_length :]
    header = json.loads(content[8 : 8 + header_length])
    document_text = json.dumps(document, allow_nan=False)
    run_text = json.dumps(run, allow_nan=False)
    header["__metadata__"] = {
        METADATA_KEY: document_text,
        "sha256": hashlib.sha256(data).hexdigest(),
        "header_sha256": _header_hash(document_text, header),
        RUN_KEY: run_text,
        "run_sha256": hashlib.sha256(run_text.encode()).hexdigest(),
    }
    header_bytes = json.dumps(header, separators=(",", ":")).encode()
    header_bytes += b" " * (-len(header_bytes) % 8)  # the data begin at a multiple of 8 bytes
    with atomic_write(path) as file:
        file.write(struct.pack("<Q", len(header_bytes)))
        file.write(header_bytes)
        file.write(data)


# ------------------------------------------------------------------------------------------------- reading


def read_manifest(path: str | os.PathLike[str]) -> Manifest:
    """Read the manifest alone: fast, whatever the size of the model. Tensor data are not checked."""
    with open_file(path) as file:
        return _parse_manifest(read_header(file, path), path)


def read(path: str | os.PathLike[str]) -> Artefact:
    """Read and check a model file.

    Raises:
        InputError: The file cannot be used; the message is one line with the reason.
    """
    with open_file(path) as file:
        header = read_header(file, path)
        manifest = _parse_manifest(header, path)
        tensors = read_tensors(file, header, path)
    try:
        return Artefact.from_stored(manifest, tensors)
    except InputError as error:
        raise unusable_file_error(path, str(error)) from None


TensorEntry = tuple[str, tuple[int, ...], int, int]


class Header(NamedTuple):
    """Header of a model file.

    Attributes:
        document: The manifest, without facts of the run.
        run: Facts of the run.
        entries: The tensors by name, each with dtype, shape, and the offsets of its data's begin and end.
        start: Offset in the file where the tensors' data start.
        digest: SHA-256 (hex) of these data.
    """

    document: dict[str, Any]
    run: dict[str, Any]
    entries: dict[str, TensorEntry]
    start: int
    digest: str


def _parse_manifest(header: Header, path: object) -> Manifest:
    """Return the manifest with the facts of the run.

    Raises:
        InputError: The header is damaged.
    """
    try:
        facts = {**header.document["facts"], **header.run}
    except (KeyError, TypeError):
        raise damaged_error(path, "its manifest is damaged (facts)") from None
    try:
        return Manifest.from_dict({**header.document, "facts": facts})
    except InputError as error:
        raise damaged_error(path, str(error)) from None


def read_tensors(file: io.BufferedReader, header: Header, path: object) -> dict[str, NDArray[Any]]:
    """Read and check the tensors of a file.

    Args:
        file: The file, at the position at which `read_header` left it.
        header: Header of the file.
        path: Path of the file, for errors.

    Raises:
        InputError: The tensors are damaged.
    """
    digest = hashlib.file_digest(file, "sha256").hexdigest()  # of all from the position to the end
    if digest != header.digest:
        raise damaged_error(path, "its tensors were altered or damaged")
    tensors = {}
    for name, (dtype, shape, begin, end) in header.entries.items():
        file.seek(header.start + begin)
        data = np.fromfile(file, dtype=np.uint8, count=end - begin)
        if dtype == "BOOL" and data.max(initial=0) > 1:
            raise damaged_error(path, f"tensor {name!s:.40} is not made of true and false")
        try:
            tensors[name] = data.view(DTYPES[dtype]).reshape(shape)
        except ValueError:  # such as [0, 2^40, 2^40]
            raise damaged_error(path, f"tensor {name!s:.40} has no sensible shape") from None
    return tensors


def _header_hash(text: str, entries: Mapping[str, Any]) -> str:
    """Return the SHA-256 (hex) of the manifest and the tensors' entries.

    It can be checked without reading the tensors' data.

    Args:
        text: The manifest's JSON.
        entries: Entries of a safetensors header; its metadata are left out.
    """
    tensor_entries = {name: entry for name, entry in entries.items() if name != "__metadata__"}
    return hashlib.sha256(json.dumps([text, tensor_entries], sort_keys=True).encode()).hexdigest()


def read_header(file: io.BufferedReader, path: object, several: bool = False) -> Header:
    """Read and check the header, and leave `file` at the start of the tensors' data.

    Args:
        file: The file, at its beginning.
        path: Path of the file, for errors.
        several: Whether the file may hold a router, which has several products.

    Raises:
        InputError: The file is damaged, has another format, or holds a router while `several` is False.
    """
    size = os.fstat(file.fileno()).st_size
    length_bytes = file.read(8)
    if len(length_bytes) < 8:
        raise damaged_error(path, "it is empty or cut short")
    (header_length,) = struct.unpack("<Q", length_bytes)
    if not 2 <= header_length <= min(MAX_HEADER_BYTES, size - 8):
        raise damaged_error(path, "it is not a safetensors file, or cut short")
    try:
        stored = _parse_header(file.read(header_length))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise damaged_error(path, "it is not a flawscope model, or its header is damaged") from None
    try:
        check_format(stored.data)  # first, since another format may have other entries
    except InputError as error:
        raise unusable_file_error(path, str(error)) from None
    if "products" in stored.data and not several:
        raise several_products_error(path)
    if stored.is_altered:
        raise damaged_error(path, "its header was altered or damaged")
    try:
        run_facts = dict(stored.run_facts)
        entries = {str(name): _parse_entry(entry) for name, entry in stored.entries.items()}
    except (ValueError, KeyError, TypeError):
        raise damaged_error(path, "its list of tensors is damaged") from None
    data_start = 8 + header_length
    if data_start + _end_of_tensors(entries.values(), path) != size:
        raise damaged_error(path, "it is cut short or has extra data at the end")
    return Header(
        document=stored.data,
        run=run_facts,
        entries=entries,
        start=data_start,
        digest=str(stored.digest),
    )


class _StoredHeader(NamedTuple):
    """Header of a model file before its format is checked.

    Attributes:
        data: The manifest, without facts of the run.
        run_facts: Facts of the run.
        entries: The tensors by name, unchecked.
        digest: SHA-256 (hex) of the tensors' data.
        is_altered: Whether its hashes show that the header was altered.
    """

    data: Json
    run_facts: Json
    entries: Json
    digest: object
    is_altered: bool


def _parse_header(raw: bytes) -> _StoredHeader:
    """Parse a header, and compare its hashes.

    Raises:
        ValueError, KeyError, TypeError, AttributeError, RecursionError: It is not the header of a model.
    """
    header = json.loads(raw)
    metadata_entry = header.pop("__metadata__")  # the entries of the tensors remain in `header`
    document_text = metadata_entry[METADATA_KEY]
    digest = metadata_entry["sha256"]
    document = json.loads(document_text, parse_constant=reject_constant)
    if not isinstance(document, dict):
        raise TypeError
    is_altered = _header_hash(document_text, header) != metadata_entry.get("header_sha256")
    run_text = metadata_entry.pop(RUN_KEY, "{}")
    is_altered |= hashlib.sha256(run_text.encode()).hexdigest() != metadata_entry.pop("run_sha256", None)
    # the keys of the run are popped above; the other keys must be exactly these
    is_altered |= metadata_entry.keys() != {METADATA_KEY, "sha256", "header_sha256"}
    return _StoredHeader(
        data=document,
        run_facts=json.loads(run_text, parse_constant=reject_constant),
        entries=header,
        digest=digest,
        is_altered=is_altered,
    )


def _end_of_tensors(entries: Iterable[TensorEntry], path: object) -> int:
    """Return the end of the last tensor in the file's data.

    Raises:
        InputError: The tensors overlap or leave gaps; safetensors writes them one after another.
    """
    position = 0
    for begin, end in sorted((begin, end) for _, _, begin, end in entries):
        if begin != position or end < begin:
            raise damaged_error(path, "its tensors overlap or leave gaps")
        position = end
    return position


def _parse_entry(value: Mapping[str, Any]) -> TensorEntry:
    """Read the entry of a tensor in a header.

    Raises:
        ValueError, KeyError, TypeError: The entry is damaged.
    """
    dtype = value["dtype"]
    shape = tuple(value["shape"])
    begin, end = value["data_offsets"]
    if len(shape) > MAX_DIMENSIONS:
        raise ValueError
    # the limit keeps sizes far from the largest integer of numpy
    if not all(type(number) is int and 0 <= number < 2**48 for number in (*shape, begin, end)):
        raise ValueError
    if math.prod(shape) * DTYPES[dtype].itemsize != end - begin:
        raise ValueError
    return dtype, shape, begin, end


# ------------------------------------------------------------------------------------------ sample pictures


def pack_images(images: NDArray[np.float32]) -> NDArray[np.uint8] | NDArray[np.int16] | NDArray[np.float32]:
    """Pack images into integers if no value changes by that.

    Values are in 0..1; a value v of a pixel of padding is given as -1 - v. So k/255 becomes the integer k,
    and in padding -1 - k/255 becomes -1 - k.

    Args:
        images: Images of any shape.

    Returns:
        The packed images: uint8, or int16 if any pixel is padding. Images that cannot be packed without loss
        are returned unchanged.
    """
    is_padding = images < 0
    levels = np.rint(np.where(is_padding, -1 - images, images) * np.float32(255))
    if not np.all((levels >= 0) & (levels <= 255)):  # NaN fails, too
        return images
    if is_padding.any():
        packed: NDArray[Any] = np.where(is_padding, -1 - levels, levels).astype(np.int16)
    else:
        packed = levels.astype(np.uint8)
    return packed if np.array_equal(unpack_images(packed), images) else images


def unpack_images(packed: NDArray[Any]) -> NDArray[np.float32]:
    """Return the float32 images that `pack_images` packed; padding with the value v is again -1 - v."""
    if packed.dtype == np.uint8:
        return packed.astype(np.float32) / np.float32(255)
    if packed.dtype != np.int16:
        return packed.astype(np.float32, copy=False)
    is_padding = packed < 0
    levels = np.where(is_padding, -1 - packed, packed)
    values = levels.astype(np.float32) / np.float32(255)
    return np.where(is_padding, -1 - values, values)
