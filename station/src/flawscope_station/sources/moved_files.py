"""Files of a folder that other programs write: read, and moved, only as long as they have not changed."""

from __future__ import annotations

import filecmp
import hashlib
import os
import shutil
from contextlib import suppress
from itertools import count
from pathlib import Path

from flawscope.artefact import files
from flawscope_station.sources.arrivals import FileStamp
from flawscope_station.store.files import rename_without_overwrite


def read_unchanged(path: Path, stamp: FileStamp) -> bytes | None:
    """Return the file's bytes; None where it changed or went away. OSError."""
    try:
        with open(path, "rb") as file:
            data = file.read(stamp.size + 1)
            is_whole = (
                len(data) == stamp.size and FileStamp.from_stat(os.fstat(file.fileno()))[:2] == stamp[:2]
            )
            return data if is_whole else None
    except FileNotFoundError:
        return None


def hash_unchanged(path: Path, stamp: FileStamp) -> bytes | None:
    """Return the SHA-256 of a file; None where it changed or went away. OSError."""
    try:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
            return digest if FileStamp.from_stat(os.fstat(file.fileno()))[:2] == stamp[:2] else None
    except FileNotFoundError:
        return None


def is_unchanged(path: Path, stamp: FileStamp) -> bool:
    """Whether the file is there and unchanged."""
    try:
        return FileStamp.from_stat(os.stat(path))[:2] == stamp[:2]
    except OSError:
        return False


def move_unchanged(path: Path, stamp: FileStamp, target: Path) -> Path | None:
    """Move a file to `target`, or to a free name beside it; return None where it has changed. OSError."""
    target.parent.mkdir(parents=True, exist_ok=True)
    for number in count():
        candidate = target.with_stem(f"{target.stem}-{number}") if number else target
        if not is_unchanged(path, stamp):
            return None
        with suppress(FileExistsError):
            if not _has_same_content(candidate, path):  # else an earlier try was cut off before the removal
                _link_or_copy(path, candidate)
            with suppress(OSError):  # not every share can
                files.sync_folder(candidate.parent)  # the new name is on the disk before the old one goes
            path.unlink(missing_ok=True)
            return candidate
    return None


def _has_same_content(other: Path, path: Path) -> bool:
    return other.is_file() and not other.is_symlink() and filecmp.cmp(path, other, shallow=False)


def _link_or_copy(path: Path, target: Path) -> None:
    """Give the file a second name, which must be free. FileExistsError."""
    try:
        os.link(path, target)
    except FileExistsError:
        raise
    except OSError:  # on another disk, or one without hard links
        part = target.with_name(f".{target.name}{files.PARTIAL_SUFFIX}")
        try:
            shutil.copy2(path, part)
            with open(part, "rb+") as file:
                os.fsync(file.fileno())
            rename_without_overwrite(part, target)
        finally:
            part.unlink(missing_ok=True)
