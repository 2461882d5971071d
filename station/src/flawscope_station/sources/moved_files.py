"""Files of a folder that other programs write: read, and moved, only as long as they have not changed.

A program that writes pictures under the same name again and again may do so between any two steps. So a file
that is to be moved first gets a hidden name in its folder, in a single step: its present content stays, and a
file written under the old name later is another file, which is not touched.
"""

from __future__ import annotations

import filecmp
import hashlib
import os
import re
import secrets
import shutil
from contextlib import suppress
from pathlib import Path

from flawscope.artefact import files
from flawscope_station.sources.arrivals import COARSE_NS, FileStamp
from flawscope_station.store.files import rename_without_overwrite

_TAKEN_NAME = re.compile(r"\.(.+)~[0-9a-f]{4}~", re.DOTALL)  # short: file systems allow 255 bytes


def read_unchanged(path: Path, stamp: FileStamp) -> bytes | None:
    """Return the file's bytes; None where it changed or went away.

    Raises:
        OSError: it cannot be read.
    """
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
    """Return the SHA-256 of a file; None where it changed or went away.

    Raises:
        OSError: it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
            return digest if FileStamp.from_stat(os.fstat(file.fileno()))[:2] == stamp[:2] else None
    except FileNotFoundError:
        return None


def is_unchanged(path: Path, stamp: FileStamp) -> bool:
    """Return whether the file is there and unchanged."""
    try:
        return FileStamp.from_stat(os.stat(path))[:2] == stamp[:2]
    except OSError:
        return False


def move_unchanged(path: Path, stamp: FileStamp, target: Path, digest: bytes | None = None) -> Path | None:
    """Move a file to `target`, or to a free name beside it.

    Args:
        path: Path of the file.
        stamp: Stamp that it must have.
        target: Path to move it to; its folder is made.
        digest: SHA-256 of its content, which is compared where the file system rounds times.

    Returns:
        The new path; None where the file has changed, and stays.

    Raises:
        OSError: it cannot be moved, and has its name again.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    taken = _take(path, stamp, digest)
    if taken is None:
        return None
    try:
        return _move_taken(taken, target)
    except OSError:
        give_back(taken)
        raise


def _take(path: Path, stamp: FileStamp, digest: bytes | None) -> Path | None:
    """Give a file a hidden name; return it. None: the file changed or went away."""
    if not is_unchanged(path, stamp):
        return None
    taken = _free_hidden_name(path)
    try:
        path.rename(taken)
    except FileNotFoundError:
        return None
    if _is_the_same(taken, stamp, digest):
        return taken
    give_back(taken)
    return None


def _free_hidden_name(path: Path) -> Path:
    """Return a hidden name in the file's folder that no file has."""
    while True:
        hidden = path.with_name(f".{path.name}~{secrets.token_hex(2)}~")
        if not os.path.lexists(hidden):
            return hidden


def _is_the_same(path: Path, stamp: FileStamp, digest: bytes | None) -> bool:
    is_coarse = stamp.modified_ns % COARSE_NS == 0
    if digest is not None and is_coarse:
        return hash_unchanged(path, stamp) == digest
    return is_unchanged(path, stamp)


def _move_taken(taken: Path, target: Path) -> Path:
    """Move a file with a hidden name to `target`, or to the first free of `target`-1, `target`-2, ...

    Returns:
        The new path.

    Raises:
        OSError: it cannot be moved.
    """
    candidate = target
    number = 0
    while not _put_at(taken, candidate):
        number += 1
        candidate = target.with_stem(f"{target.stem}-{number}")
    with suppress(OSError):  # not every share can
        files.sync_folder(candidate.parent)  # the new name is on the disk before the old one goes
    taken.unlink(missing_ok=True)
    return candidate


def _put_at(path: Path, target: Path) -> bool:
    """Give a file a second name, or copy it; return False where another file has that name.

    Raises:
        OSError: the file cannot be copied.
    """
    already_copied = _has_same_content(target, path)  # an earlier try was cut off before the removal
    if already_copied:
        return True
    try:
        _link_or_copy(path, target)
    except FileExistsError:
        return False
    return True


def is_taken(path: Path) -> bool:
    """Return whether a file has the hidden name of a file that was to be moved."""
    return _TAKEN_NAME.fullmatch(path.name) is not None


def give_back(taken: Path) -> None:
    """Give a file with a hidden name its own name back.

    Where another file has that name by now, it stays hidden, to be given back later.
    """
    match = _TAKEN_NAME.fullmatch(taken.name)
    assert match is not None, taken
    with suppress(OSError):
        rename_without_overwrite(taken, taken.with_name(match[1]))


def _has_same_content(other: Path, path: Path) -> bool:
    return other.is_file() and not other.is_symlink() and filecmp.cmp(path, other, shallow=False)


def _link_or_copy(path: Path, target: Path) -> None:
    """Give a file a second name, or copy it where that is not possible.

    Raises:
        FileExistsError: there is a file of that name.
    """
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
