"""Draft of a product: pictures of good parts on the disk, and how far the product is.

Everything lies in the station's folder, below `new/NAME/`: the pictures in a folder of the product's name, as
`flawscope fit` takes it, those that were left out beside it, and the state. A picture is on the disk when
`Draft.add` returns, and is never written twice.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import threading
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

from flawscope.artefact import checkpoint_path, files, rates
from flawscope.datasets.own_folders import refuse_unknown_names
from flawscope.errors import FlawscopeError, InputError
from flawscope.pictures import decoding, listing
from flawscope_station.inspecting.memory import MemoryBudget
from flawscope_station.inspecting.picture import TooLargeError, base_name, check_picture
from flawscope_station.inspecting.renderings import encode_webp, reduce_picture
from flawscope_station.learning.jobs import DONE
from flawscope_station.settings.station import Limits
from flawscope_station.settings.values import size_text
from flawscope_station.setup.other_files import check_zip_entries, other_kind
from flawscope_station.store.files import Files, rename_without_overwrite, write_error
from flawscope_station.store.records import NotFoundError
from flawscope_station.store.schema import QUEUED

DRAFTS_FOLDER = "new"  # of all drafts, in the station's folder
# names that no product can have
STATE_FILE = ".draft.json"
LEFT_OUT_FOLDER = ".left-out"
THUMBNAILS_FOLDER = ".small"
EXAMPLES_FOLDER = ".examples"
MAX_PICTURES = 10_000  # of a product
THUMBNAIL_SIDE = 320  # pixels of the longer side
MAX_NAME_LENGTH = 120  # characters
# of any zip; of a larger one, times its own size
MAX_UNPACKED_BYTES = 256 * 1024**2
MAX_ZIP_RATIO = 50

COLLECTING = "collecting"  # stage of a draft before its first fit
KEPT = ("by", "at", "result")  # keys of a state
OF_LIVE = ("live", "product")  # keys that an earlier flawscope kept there
RefusalCode = Literal["raw", "too_large", "full", "unreadable", "defects", "document", "video", "archive"]


class DraftFullError(InputError):
    """A draft has as many pictures as a product can have."""

    code = "full"


class RawFileError(InputError):
    """A camera's raw file."""

    code = "raw"


class DefectFolderError(InputError):
    """A picture is defective, by its name or that of its folder."""

    code = "defects"


class GoodQuestionError(InputError):
    """Names of the pictures leave open which of them are good."""

    status = 409
    code = "question"


class AddedPicture(NamedTuple):
    """Result of adding a picture.

    Attributes:
        name: As it is kept, or was sent.
        status: known: the same picture was there already.
        error: Why it was refused.
        code: Why it was refused, for a program; None where the reason has no code.
    """

    name: str
    status: Literal["kept", "known", "refused"]
    error: str | None = None
    code: RefusalCode | None = None

    @classmethod
    def refused(
        cls, name: str, error: FlawscopeError, text: str, other_code: RefusalCode | None = None
    ) -> AddedPicture:
        """Return the result of a picture that an error kept out; `other_code` where the error has no code."""
        is_too_large = isinstance(error, TooLargeError)
        return cls(name, "refused", text, "too_large" if is_too_large else getattr(error, "code", other_code))


def refuse_defect_folder(name: str) -> None:
    """Raise DefectFolderError where a picture is defective by its name, or that of a folder on its path."""
    try:
        parts = [part for part in re.split(r"[/\\\\]", name) if part != ".." and ":" not in part]
        usual = "/".join(filter(None, parts))
        refuse_unknown_names("pictures", [usual if decoding.is_picture(usual) else f"{usual}.png"])
    except InputError:
        raise DefectFolderError(
            f"{name} is not good by its name, or its folder's: choose good parts, or, where it is good, give "
            "it another name, without its folder"
        ) from None


class Draft:
    """Pictures and state of a product that is being made. Thread-safe.

    Args:
        limits: of pictures.
        memory: for decoding large ones.

    Attributes:
        folder: of the pictures.
        model: file that is learnt.
        version: grows with each change of the pictures.
    """

    def __init__(self, files: Files, name: str, limits: Limits, memory: MemoryBudget):
        self.files = files
        self.name = name
        self.limits = limits
        self.memory = memory
        self.home = files.folder / DRAFTS_FOLDER / name
        self.folder = self.home / name
        self.left_out_folder = self.home / LEFT_OUT_FOLDER
        self.model = self.home / f"{name}.safetensors"
        self.version = 1
        self._is_gone = False
        self._lock = threading.RLock()
        self._by_size: dict[int, list[Path]] = {}
        self._digests: dict[str, bytes] = {}  # of contents, by name
        for folder in (self.folder, self.left_out_folder):
            for path in folder.glob("*"):
                self._by_size.setdefault(path.stat().st_size, []).append(path)
        try:
            self.state: dict[str, Any] = json.loads((self.home / STATE_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):  # it is new, or its pictures are there all the same
            self.state = {}

    def earlier_job(self) -> tuple[str, dict[str, Any]] | None:
        """Return status and facts of a fit that an earlier flawscope kept in the state, or None."""
        stage = self.state.get("stage", COLLECTING)
        of_result = ["learns_from", "error", "error_options"]
        if stage == COLLECTING:
            return None
        facts: dict[str, Any] = {"learns_from": []}
        facts |= {key: self.state[key] for key in of_result if key in self.state}
        others = {*KEPT, *OF_LIVE, *of_result, "stage", "asked_at"}
        facts["options"] = {key: value for key, value in self.state.items() if key not in others}
        return {"waiting": QUEUED, "learning": QUEUED, "ready": DONE}.get(stage, stage), facts

    def forget_earlier(self, *kept: str) -> None:
        """Drop all keys of an earlier flawscope's state but `KEPT` and these."""
        with self._lock:
            self.state = {key: self.state[key] for key in (*KEPT, *kept) if key in self.state}
            self.change()

    @property
    def result(self) -> dict[str, Any] | None:
        """Return the result of the last learning that ended well; None: there is none yet.

        It has the options, pictures and time of that learning. It stays while something else is learnt, and
        if that fails.
        """
        return self.state.get("result")

    def change(self, **state: object) -> None:
        """Change the state, on the disk first. StoreError."""
        with self._lock:
            new = {**self.state, **state}
            self.files.write(self.home / STATE_FILE, json.dumps(new).encode())
            self.state = new

    def remove(self) -> None:
        """Remove all that belongs to the draft; what went live stays."""
        with self._lock:
            self._is_gone = True
            (self.home / STATE_FILE).unlink(missing_ok=True)
            shutil.rmtree(self.home, ignore_errors=True)

    # ---- the pictures

    def pictures(self) -> list[str]:
        """List the pictures to learn from, in natural order."""
        return _picture_names(self.folder)

    def refuse_unknown(self) -> None:
        """Raise GoodQuestionError where names leave open which of the pictures to learn from are good.

        They leave nothing open where they call all good, or none, as for `fit`.
        """
        try:
            refuse_unknown_names(
                self.name, self.pictures(), remedy="leave out what is not, or say that all are (all_good)"
            )
        except InputError as error:
            raise GoodQuestionError(str(error)) from None

    def left_out(self) -> list[str]:
        """List the pictures that were left out, in natural order."""
        return _picture_names(self.left_out_folder)

    def add(self, data: bytes, name: str) -> AddedPicture:
        """Keep a picture, which is on the disk on return.

        The same content is kept once, also of a picture that was left out.

        Raises:
            InputError: it is no picture, or damaged.
            TooLargeError: it has too many pixels.
            DraftFullError: there are as many pictures as a product takes.
            StoreError: it cannot be written.
        """
        refuse_defect_folder(name)
        if Path(name).suffix.lower() in decoding.RAW_SUFFIXES:
            raise RawFileError(f"{name} is a camera's raw file: convert it to PNG or JPEG")
        suffix, _ = check_picture(data, name, self.limits)
        digest = hashlib.sha256(data).digest()
        # this shows that all of it can be decoded
        with self.memory.turns.take(patient=True):
            small = encode_webp(reduce_picture(data, name, THUMBNAIL_SIDE, self.memory))
        with self._lock:
            if self._is_gone:
                raise NotFoundError(f"{self.name} was removed: begin it again")
            if (there := self._find_same_content(len(data), digest)) is not None:
                return AddedPicture(there.name, "known")
            if sum(map(len, self._by_size.values())) >= MAX_PICTURES:
                text = f"{self.name} has {MAX_PICTURES:,} pictures, which is enough: leave the others away"
                raise DraftFullError(text)
            self.files.check_free_space(len(data))
            path = self._free_path(file_name(name, suffix))
            self.files.write(path, data)
            self._by_size.setdefault(len(data), []).append(path)
            self._digests[path.name] = digest
            self.version += 1
        with suppress(FlawscopeError):  # it can be made again
            self.files.write(self.home / THUMBNAILS_FOLDER / f"{path.name}.webp", small, durable=False)
        return AddedPicture(path.name, "kept")

    def add_all(self, sent: Iterable[tuple[str, bytes | FlawscopeError]]) -> Iterator[AddedPicture]:
        """Keep several pictures; one that is refused does not keep the others out."""
        for name, data in sent:
            try:
                if isinstance(data, bytes):
                    yield self.add(data, name)
                else:
                    yield AddedPicture.refused(name, data, str(data))
            except DraftFullError as error:
                yield AddedPicture.refused(name, error, str(error))
                return
            except (InputError, TooLargeError) as error:
                reason = str(error).replace(f"({len(data)} bytes)", name)  # type: ignore[arg-type]
                yield AddedPicture.refused(name, error, reason, other_kind(name) or "unreadable")

    def _find_same_content(self, size: int, digest: bytes) -> Path | None:
        """Return the picture with this content; None: there is none. A file is read once."""
        candidates = self._by_size.get(size, ())
        for path in candidates:
            if path.name not in self._digests:
                self._digests[path.name] = hashlib.sha256(path.read_bytes()).digest()
        return next((path for path in candidates if self._digests[path.name] == digest), None)

    def _free_path(self, name: str) -> Path:
        """Return the path of a name, or of the nearest one that no picture has."""
        taken = {path.name for paths in self._by_size.values() for path in paths}
        stem = Path(name).stem
        suffix = Path(name).suffix
        number = 1
        while name in taken:
            number += 1
            name = f"{stem}-{number}{suffix}"
        return self.folder / name

    def move(self, names: Iterable[str], *, out: bool) -> None:
        """Leave pictures out, or take them back; those that are there already stay. NotFoundError."""
        source, target = (self.folder, self.left_out_folder) if out else (self.left_out_folder, self.folder)
        with self._lock:
            for name in names:
                path = self.path(name)
                if path.parent != source:
                    continue
                paths = self._by_size[path.stat().st_size]
                try:
                    target.mkdir(exist_ok=True)
                    rename_without_overwrite(path, target / name)
                    files.sync_folder(target)
                    files.sync_folder(source)
                except OSError as error:
                    raise write_error(target / name, error) from None
                paths[paths.index(path)] = target / name
                self.version += 1

    def path(self, name: str) -> Path:
        """Return the path of a picture, left out or not. NotFoundError."""
        for paths in self._by_size.values():
            for path in paths:
                if path.name == name:
                    return path
        raise NotFoundError(f"{self.name} has no picture {name!r:.80}")

    def view(self, name: str, side: int) -> bytes:
        """Return WebP of a picture, upright. NotFoundError."""
        path = self.path(name)
        kept = self.home / THUMBNAILS_FOLDER / f"{name}.webp"
        if side <= THUMBNAIL_SIDE and kept.is_file():
            return kept.read_bytes()
        with self.memory.turns.take():
            return encode_webp(reduce_picture(path.read_bytes(), name, side, self.memory))

    # ---- the model

    def _checkpoints(self) -> list[Path]:
        """List the checkpoints of trainings that were cut off."""
        whole = checkpoint_path(self.model)
        return [path for path in (whole, *checkpoints_of_views(whole)) if path.is_file()]

    @property
    def can_resume(self) -> bool:
        """Whether a training that was cut off can go on."""
        return bool(self._checkpoints())

    def discard_training(self) -> None:
        """Remove the checkpoints of a training; the model that was learnt before stays until the next."""
        for path in self._checkpoints():
            path.unlink(missing_ok=True)

    @property
    def examples(self) -> Path:
        """Folder of pictures with simulated defects."""
        return self.home / EXAMPLES_FOLDER


def checkpoints_of_views(whole: Path) -> list[Path]:
    """List the checkpoints of the models of a part's views, beside `whole`, that of one model for all."""
    return [*whole.parent.glob(f"*-{whole.name}")]


def describe_result(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return a result with `shown`, which has a row for each size of simulated defects.

    A row has the found defects, all defects, and the ends of the 95 % interval of the found share. `shown` is
    empty where too few of a size were tried. A result of an earlier flawscope does not say what its promise
    counts: these are pictures.
    """
    tried = result["found"]
    intervals = {size: rates.found_interval(*counts) for size, counts in tried.items()}
    shown = {size: [*tried[size], *ends] for size, ends in intervals.items() if ends is not None}
    earlier = {"of_parts": False, "several": bool(result.get("options", {}).get("several"))}
    return {**earlier, **result, "shown": shown if len(shown) == len(tried) else {}}


def file_name(name: str, suffix: str) -> str:
    """Return the file name of a picture: the last part of the name that it was sent with, with an ending."""
    last = "".join(c for c in base_name(name) if c not in '<>:"|?*').strip(" .") or "picture"
    given = Path(last).suffix if decoding.is_picture(last) else suffix
    return f"{last.removesuffix(given)[:MAX_NAME_LENGTH]}{given}"


def _picture_names(folder: Path) -> list[str]:
    found = (path.name for path in folder.glob("*") if not path.name.startswith("."))
    return sorted(found, key=listing.natural_key)


# -------------------------------------------------------------------------------------------------- zip files


def read_zip(path: Path, name: str, limits: Limits) -> Iterator[tuple[str, bytes | FlawscopeError]]:
    """Yield each file with its name, or the reason why it is refused; nothing is unpacked to the disk.

    Args:
        path: of the zip.
        name: as its sender calls the zip.
        limits: of the upload, which each file in the zip must keep.

    Raises:
        OtherFileError: it is a document, or a package of a program.
        InputError: it is no zip, unpacks to far more than pictures do, or has folders of which nobody knows
            whether their pictures are good.
    """
    try:
        with zipfile.ZipFile(path) as file:
            files = [entry for entry in file.infolist() if not entry.is_dir()]
            check_zip_entries(name, [entry.filename for entry in files])
            entries = [entry for entry in files if not _is_litter_path(entry.filename)]
            size = sum(entry.file_size for entry in entries)
            if size > max(MAX_UNPACKED_BYTES, MAX_ZIP_RATIO * path.stat().st_size):
                raise InputError(
                    f"{name} unpacks to {size / 1e9:.1f} GB, which pictures do not: pack the pictures alone"
                )
            usual = {e.filename.replace("\\", "/"): e for e in entries}
            read = {inside: partial(_read_list, file, entry, limits) for inside, entry in usual.items()}
            refuse_unknown_names(name, usual, read, "pack the good ones alone")
            for entry in entries:
                yield entry.filename, _read_entry(file, entry, limits)
    except InputError:
        raise
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        raise InputError(f"{name} is no zip file, or damaged: pack the pictures again") from None


def _read_list(file: zipfile.ZipFile, entry: zipfile.ZipInfo, limits: Limits) -> bytes:
    """Read a file that may be a list of pictures; empty where it cannot be read."""
    data = _read_entry(file, entry, limits)
    return data if isinstance(data, bytes) else b""


def _is_litter_path(name: str) -> bool:
    """Whether an operating system put this file beside the others."""
    return any(listing.is_ignored(part) and part not in ("..", ".") for part in PurePosixPath(name).parts)


def _read_entry(file: zipfile.ZipFile, entry: zipfile.ZipInfo, limits: Limits) -> bytes | FlawscopeError:
    name = entry.filename
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
        return InputError(f"{name:.80} leads out of the zip: pack the pictures' folder again")
    if entry.flag_bits & 1:
        return InputError(f"{name:.80} is encrypted: pack the pictures without a password")
    try:
        with file.open(entry) as part:
            data = part.read(limits.upload + 1)  # whatever the zip says of its size
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError, RuntimeError):
        return InputError(f"{name:.80} is damaged in the zip: pack it again")
    if len(data) > limits.upload:
        return TooLargeError(
            f"{name:.80} is larger than {size_text(limits.upload)}: make it smaller, or raise `limits: "
            "upload`"
        )
    return data
