"""Draft of a product: pictures of good parts on the disk, and the state of its making.

Everything lies in the station's folder, below `new/NAME/`: the pictures in a folder of the product's name,
which `flawscope fit` can read, the left-out pictures in another folder, and the state in a file. A picture is
on the disk when `Draft.add` returns, and no content is written twice.
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

DRAFTS_FOLDER = "new"  # folder of all drafts, in the station's folder
# in a draft's folder; they begin with a dot, as no product's name does
STATE_FILE = ".draft.json"
LEFT_OUT_FOLDER = ".left-out"
THUMBNAILS_FOLDER = ".small"
EXAMPLES_FOLDER = ".examples"
MAX_PICTURES = 10_000  # pictures of a product
THUMBNAIL_SIDE = 320  # pixels of the longer side
MAX_NAME_LENGTH = 120  # characters
MAX_UNPACKED_BYTES = 256 * 1024**2  # a zip may unpack to so many bytes
MAX_ZIP_RATIO = 50  # or to so many times its own size

COLLECTING = "collecting"  # stage of a draft before its first fit
STATE_KEYS = ("by", "at", "result")  # keys of a state
OLD_LIVE_KEYS = ("live", "product")  # keys of a state that an earlier flawscope wrote
RefusalCode = Literal["raw", "too_large", "full", "unreadable", "defects", "document", "video", "archive"]


class DraftFullError(InputError):
    """A draft has as many pictures as a product can have."""

    code = "full"


class RawFileError(InputError):
    """The file is a camera's raw file."""

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
        name: File name of the stored picture; of a refused one, the name that was sent.
        status: `kept`; `known`: the same picture was there already; `refused`.
        error: Reason for a refusal; None: it was not refused.
        code: Reason for a refusal, for programs; None: it was not refused, or the reason has no code.
    """

    name: str
    status: Literal["kept", "known", "refused"]
    error: str | None = None
    code: RefusalCode | None = None

    @classmethod
    def refused(
        cls, name: str, error: FlawscopeError, text: str, other_code: RefusalCode | None = None
    ) -> AddedPicture:
        """Return the result of a refused picture.

        Args:
            name: Name that was sent.
            error: Error that is the reason.
            text: Reason, for people.
            other_code: Code for programs if the error has none; None: no code.
        """
        code = "too_large" if isinstance(error, TooLargeError) else getattr(error, "code", other_code)
        return cls(name, status="refused", error=text, code=code)


def refuse_defect_folder(name: str) -> None:
    """Raise DefectFolderError where the name of a picture, or of a folder on its path, means a defect."""
    # without drive letters and steps to parent folders
    parts = [part for part in re.split(r"[/\\\\]", name) if part not in ("", "..") and ":" not in part]
    relative_path = "/".join(parts)
    if not decoding.is_picture(relative_path):
        relative_path += ".png"  # the check reads only the names of pictures
    try:
        refuse_unknown_names("pictures", [relative_path])
    except InputError:
        raise DefectFolderError(
            f"{name} is not good by its name, or its folder's: choose good parts, or, where it is good, give "
            "it another name, without its folder"
        ) from None


class Draft:
    """Pictures and state of a product that is being made. Thread-safe.

    Args:
        files: Files of the store.
        name: Name of the product.
        limits: Limits of pictures.
        memory: Memory for decoding large pictures.

    Attributes:
        folder: Folder of the pictures to learn from.
        model: Model file that is made from the pictures.
        version: Number that grows with each change of the pictures.
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
        self._is_removed = False
        self._lock = threading.RLock()
        self._by_size: dict[int, list[Path]] = {}  # all pictures, also left-out ones, by the size of the file
        self._digests: dict[str, bytes] = {}  # SHA-256 of the pictures that were read, by file name
        for folder in (self.folder, self.left_out_folder):
            for path in folder.glob("*"):
                self._by_size.setdefault(path.stat().st_size, []).append(path)
        try:
            self.state: dict[str, Any] = json.loads((self.home / STATE_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):  # it is new or damaged; pictures do not need it
            self.state = {}

    def earlier_job(self) -> tuple[str, dict[str, Any]] | None:
        """Return status and facts of the fit that an earlier release stored in the draft's state.

        This release stores them in a job. Return None where the state has no fit.
        """
        stage = self.state.get("stage", COLLECTING)
        if stage == COLLECTING:
            return None
        fact_keys = ["learns_from", "error", "error_options"]
        facts: dict[str, Any] = {"learns_from": []}
        facts |= {key: self.state[key] for key in fact_keys if key in self.state}
        # all other keys of the state are options of the fit
        no_option_keys = {*STATE_KEYS, *OLD_LIVE_KEYS, *fact_keys, "stage", "asked_at"}
        facts["options"] = {key: value for key, value in self.state.items() if key not in no_option_keys}
        status_of_stage = {"waiting": QUEUED, "learning": QUEUED, "ready": DONE}
        return status_of_stage.get(stage, stage), facts  # other stages have the name of the status

    def forget_earlier(self, *old_keys: str) -> None:
        """Remove from the state all keys that only earlier releases write, except for `old_keys`."""
        with self._lock:
            self.state = {key: self.state[key] for key in (*STATE_KEYS, *old_keys) if key in self.state}
            self.change()  # writes the state

    @property
    def result(self) -> dict[str, Any] | None:
        """Result of the last successful fit, with its options, pictures and time; None: there is none yet.

        While another fit runs, or after another fit has failed, this result stays.
        """
        return self.state.get("result")

    def change(self, **values: object) -> None:
        """Set values of the state by their keys, and write the state.

        Raises:
            StoreError: The state cannot be written; it is unchanged.
        """
        with self._lock:
            new_state = {**self.state, **values}
            self.files.write(self.home / STATE_FILE, json.dumps(new_state).encode())
            self.state = new_state

    def remove(self) -> None:
        """Remove all files of the draft; a product that went live stays."""
        with self._lock:
            self._is_removed = True
            (self.home / STATE_FILE).unlink(missing_ok=True)
            shutil.rmtree(self.home, ignore_errors=True)

    # ---- the pictures

    def pictures(self) -> list[str]:
        """List the pictures to learn from, in natural order."""
        return _picture_names(self.folder)

    def refuse_unknown(self) -> None:
        """Raise GoodQuestionError if the names call some of the pictures good, but not all.

        If the names call all pictures good, or none, there is no error. `flawscope fit` has the same rule.
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
        """Store a picture; on return it is on the disk.

        A file with the content of a stored picture, even of one that was left out, is not stored again.

        Args:
            data: Content of the file.
            name: File name that was sent, perhaps with folders.

        Raises:
            InputError: The file is no picture, is damaged, is a raw file, or has a name that means a defect.
            TooLargeError: The picture has too many pixels.
            DraftFullError: There are as many pictures as a product can have.
            NotFoundError: The draft was removed.
            StoreError: The picture cannot be written.
        """
        refuse_defect_folder(name)
        if Path(name).suffix.lower() in decoding.RAW_SUFFIXES:
            raise RawFileError(f"{name} is a camera's raw file: convert it to PNG or JPEG")
        suffix, _ = check_picture(data, name, self.limits)
        digest = hashlib.sha256(data).digest()
        # decodes the whole picture, and so raises where a part of it is damaged
        with self.memory.turns.take(patient=True):
            thumbnail = encode_webp(reduce_picture(data, name, THUMBNAIL_SIDE, self.memory))
        with self._lock:
            if self._is_removed:
                raise NotFoundError(f"{self.name} was removed: begin it again")
            identical_picture = self._find_same_content(len(data), digest)
            if identical_picture is not None:
                return AddedPicture(identical_picture.name, "known")
            picture_count = sum(len(paths) for paths in self._by_size.values())
            if picture_count >= MAX_PICTURES:
                text = f"{self.name} has {MAX_PICTURES:,} pictures, which is enough: leave the others away"
                raise DraftFullError(text)
            self.files.check_free_space(len(data))
            path = self._free_path(file_name(name, suffix))
            self.files.write(path, data)
            self._by_size.setdefault(len(data), []).append(path)
            self._digests[path.name] = digest
            self.version += 1
        with suppress(FlawscopeError):  # `view` makes a missing thumbnail anew
            self.files.write(self.home / THUMBNAILS_FOLDER / f"{path.name}.webp", thumbnail, durable=False)
        return AddedPicture(path.name, "kept")

    def add_all(self, files: Iterable[tuple[str, bytes | FlawscopeError]]) -> Iterator[AddedPicture]:
        """Store pictures, and yield the result of each until the draft is full.

        Args:
            files: Names, each with the content of the file, or with the error that refuses it.
        """
        for name, data in files:
            if isinstance(data, FlawscopeError):
                yield AddedPicture.refused(name, data, str(data))
                continue
            try:
                yield self.add(data, name)
            except DraftFullError as error:
                yield AddedPicture.refused(name, error, str(error))
                return
            except (InputError, TooLargeError) as error:
                # the decoder knows no file name: its errors say "(N bytes)"
                reason = str(error).replace(f"({len(data)} bytes)", name)
                other_code: RefusalCode = other_kind(name) or "unreadable"
                yield AddedPicture.refused(name, error, reason, other_code=other_code)

    def _find_same_content(self, size: int, digest: bytes) -> Path | None:
        """Return the picture with this size and SHA-256; None: there is none.

        A stored picture is read only if its SHA-256 is not known yet.
        """
        for path in self._by_size.get(size, ()):
            if path.name not in self._digests:
                self._digests[path.name] = hashlib.sha256(path.read_bytes()).digest()
            if self._digests[path.name] == digest:
                return path
        return None

    def _free_path(self, name: str) -> Path:
        """Return the path for a new picture; if the name is in use, with a number: `a-2.png`."""
        used_names = {path.name for paths in self._by_size.values() for path in paths}
        stem = Path(name).stem
        suffix = Path(name).suffix
        free_name = name
        number = 1
        while free_name in used_names:
            number += 1
            free_name = f"{stem}-{number}{suffix}"
        return self.folder / free_name

    def move(self, names: Iterable[str], *, out: bool) -> None:
        """Leave pictures out, or take them back.

        Pictures that are in the right folder already are skipped.

        Args:
            names: File names of the pictures.
            out: True: leave the pictures out; False: take them back.

        Raises:
            NotFoundError: There is no such picture.
            StoreError: A picture cannot be moved.
        """
        if out:
            source, target = self.folder, self.left_out_folder
        else:
            source, target = self.left_out_folder, self.folder
        with self._lock:
            for name in names:
                path = self.path(name)
                if path.parent != source:
                    continue
                paths_of_size = self._by_size[path.stat().st_size]
                try:
                    target.mkdir(exist_ok=True)
                    rename_without_overwrite(path, target / name)
                    files.sync_folder(target)
                    files.sync_folder(source)
                except OSError as error:
                    raise write_error(target / name, error) from None
                paths_of_size[paths_of_size.index(path)] = target / name  # the new path in `_by_size`
                self.version += 1

    def path(self, name: str) -> Path:
        """Return the path of a picture, also of one that was left out.

        Raises:
            NotFoundError: There is no such picture.
        """
        for paths in self._by_size.values():
            for path in paths:
                if path.name == name:
                    return path
        raise NotFoundError(f"{self.name} has no picture {name!r:.80}")

    def view(self, name: str, side: int) -> bytes:
        """Return an upright picture as WebP.

        Args:
            name: File name of the picture.
            side: Largest number of pixels of the longer side. Up to `THUMBNAIL_SIDE`, the stored thumbnail is
                returned, which may be larger.

        Raises:
            NotFoundError: There is no such picture.
        """
        path = self.path(name)
        thumbnail = self.home / THUMBNAILS_FOLDER / f"{name}.webp"
        if side <= THUMBNAIL_SIDE and thumbnail.is_file():
            return thumbnail.read_bytes()
        with self.memory.turns.take():
            return encode_webp(reduce_picture(path.read_bytes(), name, side, self.memory))

    # ---- the model

    def _checkpoints(self) -> list[Path]:
        """List the checkpoints of interrupted trainings."""
        checkpoint = checkpoint_path(self.model)
        return [path for path in (checkpoint, *checkpoints_of_views(checkpoint)) if path.is_file()]

    @property
    def can_resume(self) -> bool:
        """Whether an interrupted training can continue."""
        return bool(self._checkpoints())

    def discard_training(self) -> None:
        """Remove the checkpoints of an interrupted training; the last model stays until the next is made."""
        for path in self._checkpoints():
            path.unlink(missing_ok=True)

    @property
    def examples(self) -> Path:
        """Folder of pictures with simulated defects."""
        return self.home / EXAMPLES_FOLDER


def checkpoints_of_views(checkpoint: Path) -> list[Path]:
    """List the checkpoints of models of single views: the files `VIEW-NAME` beside the checkpoint NAME.

    Args:
        checkpoint: Path of the checkpoint that a model without views would have.
    """
    return [*checkpoint.parent.glob(f"*-{checkpoint.name}")]


def describe_result(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return a fit's result with the further key `shown`: a row for each size of simulated defects.

    A row has the number of found defects, the number of all defects, and the low and high end of the 95 %
    interval of the share that is found. If any size has too few defects for an interval, `shown` is empty.
    The results of earlier releases, which count pictures, get the missing keys `of_parts` and `several`.
    """
    counts_by_size = result["found"]  # size -> number of found defects, number of all defects
    row_by_size = {}
    for size, counts in counts_by_size.items():
        interval = rates.found_interval(*counts)
        if interval is not None:
            row_by_size[size] = [*counts, *interval]
    has_all_sizes = len(row_by_size) == len(counts_by_size)
    return {
        "of_parts": False,
        "several": bool(result.get("options", {}).get("several")),
        **result,
        "shown": row_by_size if has_all_sizes else {},
    }


def file_name(name: str, suffix: str) -> str:
    """Return the file name under which a picture is stored.

    Args:
        name: Name that was sent, of which the last part is used.
        suffix: Suffix for a name without a picture's suffix.
    """
    allowed_characters = [character for character in base_name(name) if character not in '<>:"|?*']
    last_part = "".join(allowed_characters).strip(" .") or "picture"
    file_suffix = Path(last_part).suffix if decoding.is_picture(last_part) else suffix
    stem = last_part.removesuffix(file_suffix)[:MAX_NAME_LENGTH]
    return f"{stem}{file_suffix}"


def _picture_names(folder: Path) -> list[str]:
    """List the file names of a folder's pictures, in natural order."""
    names = (path.name for path in folder.glob("*") if not path.name.startswith("."))
    return sorted(names, key=listing.natural_key)


# -------------------------------------------------------------------------------------------------- zip files


def read_zip(path: Path, name: str, limits: Limits) -> Iterator[tuple[str, bytes | FlawscopeError]]:
    """Yield the name of each file in a zip, with the content of the file or the error that refuses it.

    Files that operating systems add are left out. Nothing is unpacked to the disk.

    Args:
        path: Path of the zip.
        name: Name of the zip, for errors.
        limits: Limits of an upload, which apply to each file in the zip.

    Raises:
        OtherFileError: The file is a document, or a package of a program.
        InputError: The file is no zip, or is far larger when unpacked than pictures are, or has a folder
            whose name does not say whether its pictures are good.
    """
    try:
        with zipfile.ZipFile(path) as file:
            all_entries = [entry for entry in file.infolist() if not entry.is_dir()]
            check_zip_entries(name, [entry.filename for entry in all_entries])
            entries = [entry for entry in all_entries if not _is_litter_path(entry.filename)]
            unpacked_bytes = sum(entry.file_size for entry in entries)
            if unpacked_bytes > max(MAX_UNPACKED_BYTES, MAX_ZIP_RATIO * path.stat().st_size):
                raise InputError(
                    f"{name} unpacks to {unpacked_bytes / 1e9:.1f} GB, which pictures do not: pack the "
                    "pictures alone"
                )
            entry_by_path = {entry.filename.replace("\\", "/"): entry for entry in entries}
            # path -> function that reads this file; the check needs it where a file lists the good pictures
            reader_by_path = {
                entry_path: partial(_read_list, file, entry, limits)
                for entry_path, entry in entry_by_path.items()
            }
            refuse_unknown_names(name, entry_by_path, read=reader_by_path, remedy="pack the good ones alone")
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
    """Whether this is the path of a file that an operating system adds, such as `.DS_Store`."""
    parts = [part for part in PurePosixPath(name).parts if part not in ("..", ".")]
    return any(listing.is_ignored(part) for part in parts)


def _read_entry(file: zipfile.ZipFile, entry: zipfile.ZipInfo, limits: Limits) -> bytes | FlawscopeError:
    """Return the content of a file in a zip, or the error that refuses the file."""
    name = entry.filename
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
        return InputError(f"{name:.80} leads out of the zip: pack the pictures' folder again")
    is_encrypted = entry.flag_bits & 1
    if is_encrypted:
        return InputError(f"{name:.80} is encrypted: pack the pictures without a password")
    try:
        with file.open(entry) as content:
            # the size in the zip may be wrong: read a byte more than is allowed, which shows a larger file
            data = content.read(limits.upload + 1)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError, RuntimeError):
        return InputError(f"{name:.80} is damaged in the zip: pack it again")
    if len(data) > limits.upload:
        return TooLargeError(
            f"{name:.80} is larger than {size_text(limits.upload)}: make it smaller, or raise `limits: "
            "upload`"
        )
    return data
