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

# Raised when an older flawscope could not read the file. 5: good pictures are one table. 6: with their looks
FORMAT = 6
OLDEST_FORMAT = 5  # that opens for ever
METADATA_KEY = "flawscope"
# Facts of the run, not of the model. They stand apart in the file: all else is the same, byte for byte, after
# two fits with the same seed, pictures and processor.
RUN_KEY = "flawscope_run"
TIME_FACTS = ("seconds", "seconds_total", "seconds_view")
MEMORY_FACTS = ("memory_peak", "memory_predicted")
ASKED_CALL = "asked_call"  # digest of the call whose result is open: the same call with --force accepts it
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
    found = {"flawscope": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


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
        """Score beyond which a good training picture is suspicious; None: too few pictures to tell."""
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
        """Whether a file keeps the looks of the good pictures, by which they are known again."""
        return self.facts.get(KEEPS_LOOKS) is not False

    @property
    def questions(self) -> tuple[str, ...]:
        """Open questions: lines on pictures with which the model may be wrong, until they are accepted."""
        return tuple(map(str, self.facts.get(QUESTIONS, ())))

    def asking(self, *lines: str | None) -> Manifest:
        """Return the manifest with further open questions; None among `lines` is passed over."""
        asked = list(dict.fromkeys([*self.questions, *filter(None, lines)]))
        return replace(self, facts={**self.facts, QUESTIONS: asked}) if asked else self

    def accepted(self) -> Manifest:
        """Return the manifest with its open questions turned into notes."""
        facts = {key: value for key, value in self.facts.items() if key not in (QUESTIONS, ASKED_CALL)}
        notes = (*self.notes, *(f"accepted: {line}" for line in self.questions))
        return replace(self, facts=facts, notes=notes)

    def to_dict(self) -> dict[str, Any]:
        """Return the document for a file. FlawscopeError where the rows give another calibration."""
        how = self.calibration.to_dict()
        if calibrate(self.pictures, **how) != self.calibration:
            raise FlawscopeError("the calibration is not that of the model's pictures")
        return {
            "format": FORMAT,
            **{k: getattr(self, k) for k in ("method", "config", "backbone", "category")},
            "preprocess": self.preprocess.to_dict(),
            "calibration": how,
            "pictures": rows_to_table(self.pictures),
            "facts": self.facts,
            "notes": list(self.notes),
            "samples": list(self.samples),
            "versions": self.versions,
            **({} if self.fusion is None else {"fusion": self.fusion.to_dict()}),
            **({} if self.kinds is None else {"kinds": self.kinds.to_dict()}),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Manifest:
        """Read the document of a file. InputError where it is damaged, or of a format that is not known."""
        check_format(data)
        try:
            rows = rows_from_table(data["pictures"])
            found = cls(
                method=str(data["method"]),
                config=dict(data["config"]),
                preprocess=Preprocess.from_dict(data["preprocess"]),
                calibration=calibrate(rows, **Calibration.read_how(data["calibration"])),
                backbone=dict(data["backbone"]),
                category=str(data["category"]),
                pictures=rows,
                facts=_parse_facts(data["facts"]),
                notes=tuple(map(str, data["notes"])),
                samples=tuple(dict(s) for s in data["samples"]),
                versions=dict(data["versions"]),
                fusion=Fusion.from_dict(data["fusion"]) if "fusion" in data else None,
                kinds=Kinds.from_dict(data["kinds"]) if "kinds" in data else None,
            )
            if (found.fusion is None) != (found.preprocess.tile is None):
                raise ValueError("a model with tiles has a fusion, and no other one")
            return found
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise InputError(f"its manifest is damaged ({error!s:.80})") from None


def _parse_facts(data: Mapping[str, Any]) -> dict[str, Any]:
    """Read the facts. ValueError where a fact that every reader shows has the wrong type."""
    found = dict(data)
    for name in ("summary", QUESTIONS):
        lines = found.get(name, [])
        if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
            raise ValueError(name)
    for name in ("seconds_total", "seconds_view"):
        seconds = found.get(name, 0)
        if not isinstance(seconds, int | float) or not 0 <= seconds < 1e9:
            raise ValueError(name)
    return found


def check_format(data: Mapping[str, Any]) -> None:
    """Raise an InputError where this version of flawscope cannot read the format."""
    version = data.get("format")
    if type(version) is not int or version < 1:
        raise InputError("it has no format version")
    versions = data.get("versions")
    of = versions.get("flawscope") if isinstance(versions, dict) else None
    if version > FORMAT:
        by = f"flawscope {of!s:.40}" if of else "a newer flawscope"
        raise InputError(f"it has format {version}, made by {by}, and this one reads {FORMAT}: upgrade")
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
        """Raise an InputError where region of interest and tiles, or kinds and their tensor, do not fit."""
        if self.manifest.kinds is not None:
            self.manifest.kinds.check(self.tensors.get("kinds"))
        region = self.tensors.get("region")
        how = self.manifest.preprocess
        if region is None:
            return
        fits = region.dtype == np.bool_ and region.shape == tuple(how.network_size)
        fits = fits and self.manifest.config.get("masked") is True  # else marks would be taken for pixels
        if how.tile is None or not fits or not region.any():
            raise InputError("the model's region of interest does not fit its tiles: fit anew")

    @classmethod
    def from_stored(cls, manifest: Manifest, tensors: Mapping[str, NDArray[Any]]) -> Artefact:
        """Build the artefact of a file's manifest and tensors. InputError where they do not fit."""
        try:
            pictures = with_looks(manifest.pictures, tensors)
        except ValueError:
            raise InputError("the looks of its good pictures are damaged") from None
        model_tensors = {name: tensor for name, tensor in tensors.items() if name not in LOOK_TENSORS}
        return cls(replace(manifest, pictures=pictures), model_tensors)

    def stored_tensors(self) -> dict[str, NDArray[Any]]:
        """Return the tensors for a file, with the good pictures' looks unless these must not be kept."""
        if not self.manifest.keeps_looks:
            return dict(self.tensors)
        return {**self.tensors, **looks_to_tensors(self.manifest.pictures)}

    @property
    def counted(self) -> NDArray[Any] | None:
        """Region of interest [H, W] bool in the view of the whole frame; None: not known."""
        return self.tensors.get("region", self.tensors.get("roi"))


# ------------------------------------------------------------------------------------------------- writing


def write(artefact: Artefact, path: str | os.PathLike[str]) -> None:
    """Write a model atomically. FlawscopeError if it cannot be written; an existing file stays unchanged."""
    write_contents(*split_run_facts(artefact.manifest), artefact.stored_tensors(), path)


def split_run_facts(manifest: Manifest) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the manifest's document without the facts of the run, and the facts of the run."""
    document = manifest.to_dict()
    facts = document["facts"]
    document["facts"] = {k: v for k, v in facts.items() if k not in RUN_FACTS}
    return document, {k: facts[k] for k in RUN_FACTS if k in facts}


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

    # safetensors lays out the tensors; its header is replaced below by one with the document
    body = save({k: np.asarray(v, order="C") for k, v in sorted(tensors.items())})
    (length,) = struct.unpack("<Q", body[:8])
    data = memoryview(body)[8 + length :]
    header = json.loads(body[8 : 8 + length])
    text, facts = (json.dumps(value, allow_nan=False) for value in (document, run))
    header["__metadata__"] = {
        METADATA_KEY: text,
        "sha256": hashlib.sha256(data).hexdigest(),
        "header_sha256": _header_hash(text, header),
        RUN_KEY: facts,
        "run_sha256": hashlib.sha256(facts.encode()).hexdigest(),
    }
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with atomic_write(path) as file:
        file.write(struct.pack("<Q", len(encoded)))
        file.write(encoded)
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
        entries: The tensors by name, each with dtype, shape, and the begin and end of its data.
        start: Offset in the file where the tensors' data start.
        digest: SHA-256 (hex) of these data.
    """

    document: dict[str, Any]
    run: dict[str, Any]
    entries: dict[str, TensorEntry]
    start: int
    digest: str


def _parse_manifest(header: Header, path: object) -> Manifest:
    try:
        facts = {**header.document["facts"], **header.run}
    except (KeyError, TypeError):
        raise damaged_error(path, "its manifest is damaged (facts)") from None
    try:
        return Manifest.from_dict({**header.document, "facts": facts})
    except InputError as error:
        raise damaged_error(path, str(error)) from None


def read_tensors(file: io.BufferedReader, header: Header, path: object) -> dict[str, NDArray[Any]]:
    """Read and check the tensors of a file, whose position is where `read_header` left it."""
    found = hashlib.file_digest(file, "sha256").hexdigest()  # from here to the end
    if found != header.digest:
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
    """Return the hash of manifest and tensor entries, which is checked without reading the tensors."""
    entries = {k: v for k, v in entries.items() if k != "__metadata__"}
    return hashlib.sha256(json.dumps([text, entries], sort_keys=True).encode()).hexdigest()


def read_header(file: io.BufferedReader, path: object, several: bool = False) -> Header:
    """Read and check the header, and leave `file` at the start of the tensors' data.

    Args:
        file: The file, at its beginning.
        path: Path of the file, for errors.
        several: Whether the file of a router may be read, too.

    Raises:
        InputError: The file is damaged, has another format, or is that of a router and `several` is False.
    """
    size = os.fstat(file.fileno()).st_size
    prefix = file.read(8)
    if len(prefix) < 8:
        raise damaged_error(path, "it is empty or cut short")
    (length,) = struct.unpack("<Q", prefix)
    if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
        raise damaged_error(path, "it is not a safetensors file, or cut short")
    try:
        stored = _parse_header(file.read(length))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise damaged_error(path, "it is not a flawscope model, or its header is damaged") from None
    try:
        check_format(stored.data)  # before entries that other versions may read otherwise
    except InputError as error:
        raise unusable_file_error(path, str(error)) from None
    if "products" in stored.data and not several:
        raise several_products_error(path)
    if stored.is_altered:
        raise damaged_error(path, "its header was altered or damaged")
    try:
        run_facts = dict(stored.run_facts)
        entries = {str(k): _parse_entry(v) for k, v in stored.entries.items()}
    except (ValueError, KeyError, TypeError):
        raise damaged_error(path, "its list of tensors is damaged") from None
    if 8 + length + _end_of_tensors(entries.values(), path) != size:
        raise damaged_error(path, "it is cut short or has extra data at the end")
    return Header(stored.data, run_facts, entries, 8 + length, str(stored.digest))


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
    """Parse a header. ValueError, KeyError and others where it is not that of a model."""
    header = json.loads(raw)
    meta = header.pop("__metadata__")
    text = meta[METADATA_KEY]
    digest = meta["sha256"]
    data = json.loads(text, parse_constant=reject_constant)
    if not isinstance(data, dict):
        raise TypeError
    altered = _header_hash(text, header) != meta.get("header_sha256")
    run = meta.pop(RUN_KEY, "{}")
    altered |= hashlib.sha256(run.encode()).hexdigest() != meta.pop("run_sha256", None)
    altered |= meta.keys() != {METADATA_KEY, "sha256", "header_sha256"}
    run_facts = json.loads(run, parse_constant=reject_constant)
    return _StoredHeader(data, run_facts, header, digest, altered)


def _end_of_tensors(entries: Iterable[TensorEntry], path: object) -> int:
    """Return the end of the tensors in the file's data, where they lie one after another.

    Raises:
        InputError: They overlap or leave gaps, unlike those that safetensors writes.
    """
    position = 0
    for _, _, begin, end in sorted(entries, key=lambda e: (e[2], e[3])):
        if begin != position or end < begin:
            raise damaged_error(path, "its tensors overlap or leave gaps")
        position = end
    return position


def _parse_entry(value: Mapping[str, Any]) -> TensorEntry:
    dtype = value["dtype"]
    shape = tuple(value["shape"])
    begin, end = value["data_offsets"]
    if len(shape) > MAX_DIMENSIONS:
        raise ValueError
    if not all(type(n) is int and 0 <= n < 2**48 for n in (*shape, begin, end)):
        raise ValueError
    if math.prod(shape) * DTYPES[dtype].itemsize != end - begin:
        raise ValueError
    return dtype, shape, begin, end


# ------------------------------------------------------------------------------------------ sample pictures


def pack_images(images: NDArray[np.float32]) -> NDArray[np.uint8] | NDArray[np.int16] | NDArray[np.float32]:
    """Pack images of any shape, float32 in 0..1, a value v of padding marked as -1 - v.

    k/255 becomes k, padding -1 - k: uint8, or int16 where a pixel is padded. Images that this would change
    are returned as they are.
    """
    padded = images < 0
    levels = np.rint(np.where(padded, -1 - images, images) * np.float32(255))
    if not np.all((levels >= 0) & (levels <= 255)):  # NaN too
        return images
    if padded.any():
        packed: NDArray[Any] = np.where(padded, -1 - levels, levels).astype(np.int16)
    else:
        packed = levels.astype(np.uint8)
    return packed if np.array_equal(unpack_images(packed), images) else images


def unpack_images(packed: NDArray[Any]) -> NDArray[np.float32]:
    """Return the images that `pack_images` packed, float32."""
    if packed.dtype == np.uint8:
        return packed.astype(np.float32) / np.float32(255)
    if packed.dtype != np.int16:
        return packed.astype(np.float32, copy=False)
    padded = packed < 0
    images = np.where(padded, -1 - packed, packed).astype(np.float32) / np.float32(255)
    return np.where(padded, -1 - images, images)
