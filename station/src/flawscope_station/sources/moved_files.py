"""Reading and moving of files that other programs write, only as long as they have not changed.

A program that writes pictures under the same name again and again may do so between any two steps. For that
reason a file that is to be moved first gets a hidden name in its folder, in a single step: its present
content stays, and a file written later under the old name is another file, which is not touched.
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

# hidden name of a file that is being moved; few letters are added, for file systems allow 255 bytes
_TAKEN_NAME = re.compile(r"\.(.+)~[0-9a-f]{4}~", re.DOTALL)


def read_unchanged(path: Path, stamp: FileStamp) -> bytes | None:
    """Return the file's bytes; None where it changed or went away.

    Raises:
        OSError: It cannot be read.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(stamp.size + 1)  # one byte more shows that the file has grown
            is_unchanged_file = FileStamp.from_stat(os.fstat(file.fileno())).has_same_times(stamp)
            return data if is_unchanged_file and len(data) == stamp.size else None
    except FileNotFoundError:
        return None


def hash_unchanged(path: Path, stamp: FileStamp) -> bytes | None:
    """Return the SHA-256 of a file; None where it changed or went away.

    Raises:
        OSError: It cannot be read.
    """
    try:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
            is_unchanged_file = FileStamp.from_stat(os.fstat(file.fileno())).has_same_times(stamp)
            return digest if is_unchanged_file else None
    except FileNotFoundError:
        return None


def is_unchanged(path: Path, stamp: FileStamp) -> bool:
    """Return whether the file is there and unchanged."""
    try:
        return FileStamp.from_stat(os.stat(path)).has_same_times(stamp)
    except OSError:
        return False


def move_unchanged(path: Path, stamp: FileStamp, target: Path, digest: bytes | None = None) -> Path | None:
    """Move a file to `target`, or to a free name beside it.

    Args:
        path: Path of the file.
        stamp: Stamp that the file must have.
        target: Path to move the file to; its folder is made.
        digest: SHA-256 of the content, which is compared where the file system rounds times; None: it is not
            compared.

    Returns:
        The new path; None where the file has changed, and stays.

    Raises:
        OSError: The file cannot be moved, and has its name again.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    hidden_path = _take(path, stamp, digest)
    if hidden_path is None:
        return None
    try:
        return _move_hidden(hidden_path, target)
    except OSError:
        give_back(hidden_path)
        raise


def _take(path: Path, stamp: FileStamp, digest: bytes | None) -> Path | None:
    """Give a file a hidden name; return it. None: the file changed or went away."""
    if not is_unchanged(path, stamp):
        return None
    hidden_path = _free_hidden_name(path)
    try:
        path.rename(hidden_path)
    except FileNotFoundError:
        return None
    if _has_kept_content(hidden_path, stamp, digest):
        return hidden_path
    give_back(hidden_path)
    return None


def _free_hidden_name(path: Path) -> Path:
    """Return a hidden name in the file's folder that no file has."""
    while True:
        hidden = path.with_name(f".{path.name}~{secrets.token_hex(2)}~")
        if not os.path.lexists(hidden):
            return hidden


def _has_kept_content(path: Path, stamp: FileStamp, digest: bytes | None) -> bool:
    """Return whether a file with a hidden name has the stamp, or, where times are rounded, the content."""
    is_coarse = stamp.modified_ns % COARSE_NS == 0
    if digest is not None and is_coarse:
        return hash_unchanged(path, stamp) == digest
    return is_unchanged(path, stamp)


def _move_hidden(hidden_path: Path, target: Path) -> Path:
    """Move a file with a hidden name to `target`, or to the first free of `target`-1, `target`-2, ...

    Returns:
        The new path.

    Raises:
        OSError: It cannot be moved.
    """
    candidate = target
    number = 0
    while not _put_at(hidden_path, candidate):
        number += 1
        candidate = target.with_stem(f"{target.stem}-{number}")
    with suppress(OSError):  # not every share can flush a folder
        files.sync_folder(candidate.parent)  # the new name is on the disk before the old name goes
    hidden_path.unlink(missing_ok=True)
    return candidate


def _put_at(path: Path, target: Path) -> bool:
    """Give a file a second name, or copy it; return False where another file has that name.

    Raises:
        OSError: The file cannot be copied.
    """
    if _has_same_content(target, path):  # an earlier try copied the file, but did not remove it
        return True
    try:
        _link_or_copy(path, target)
    except FileExistsError:
        return False
    return True


def is_taken(path: Path) -> bool:
    """Return whether a file has the hidden name of a file that was to be moved."""
    return _TAKEN_NAME.fullmatch(path.name) is not None


def give_back(hidden_path: Path) -> None:
    """Give a file with a hidden name its own name back.

    If another file has that name now, the file stays hidden, and gets its name back later.
    """
    match = _TAKEN_NAME.fullmatch(hidden_path.name)
    assert match is not None, hidden_path
    own_path = hidden_path.with_name(match[1])
    with suppress(OSError):
        rename_without_overwrite(hidden_path, own_path)


def _has_same_content(other: Path, path: Path) -> bool:
    """Return whether another path is a regular file with the same content."""
    return other.is_file() and not other.is_symlink() and filecmp.cmp(path, other, shallow=False)


def _link_or_copy(path: Path, target: Path) -> None:
    """Give a file a second name, or copy it where that is not possible.

    Raises:
        FileExistsError: There is a file of that name.
    """
    try:
        os.link(path, target)
    except FileExistsError:
        raise
    except OSError:  # the target is on another disk, or the disk has no hard links
        partial_path = target.with_name(f".{target.name}{files.PARTIAL_SUFFIX}")
        try:
            shutil.copy2(path, partial_path)
            with open(partial_path, "rb+") as file:
                os.fsync(file.fileno())
            rename_without_overwrite(partial_path, target)
        finally:
            partial_path.unlink(missing_ok=True)
