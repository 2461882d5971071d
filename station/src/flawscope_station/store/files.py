"""Files of a station: pictures and masks named by their content, models, maps; removal of stray files."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO

from sqlalchemy import select

from flawscope.artefact import files
from flawscope.errors import InputError
from flawscope_station.store.database import Database, StoreError
from flawscope_station.store.schema import IS_KEPT, pictures, verdicts, versions

PICTURES = "pictures"
MASKS = "masks"
MAPS = "maps"
MODELS = "models"
MASK_SUFFIX = ".png"  # suffix of a mask
HASH_DIGITS = 64  # digits of a SHA-256
MODEL_FOLDER_DIGITS = 16  # digits of a hash that name the folder of a model
BACKUP_FILE = ".backup"  # its time of change is the time of the last backup
LOCK_FILE = ".lock"  # locked by the station that runs
PROBE_FILE = ".probe"  # written as a trial, to see whether the folder can be written
IDENTITY_FILE = ".station"  # holds the folder's identity
RESERVED_BYTES = 16 * 1024**2  # must stay free for the database and small files
BLOCK_BYTES = 1 << 20  # read and written at once
STRAY_AGE = 3600.0  # seconds for which a new file may have no record yet
FILES_PER_QUERY = 500
DISK_FULL_ERRORS = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class DiskState:
    """State of the station's disk at its last measurement.

    Attributes:
        free_bytes: Free bytes; None: the folder is gone.
        written: Value of `Files.written` at the measurement.
        error: Why no file can be written; None: files can be written.
        backup_at: Time of the folder's last backup, seconds since 1970; None: not known.
    """

    free_bytes: int | None
    written: int = 0
    error: StoreError | None = None
    backup_at: float | None = None


class Files:
    """Files in the station's folder.

    A file is complete or absent, never half written; it survives a power cut once `keep` has returned.

    Attributes:
        written: Bytes of all picture files that were written since the start.
        disk: State of the disk at its last measurement.

    Raises:
        InputError: the folder cannot be made or written.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        self.folder = Path(folder)
        self._holds: Counter[str] = Counter()  # hash -> number of callers that hold the file
        self._held_sizes: dict[str, int] = {}  # hash of a held new picture -> bytes
        # hash of a file, or the hash's first digits -> number of removals under way; `hold` deletes the entry
        # of the file that it protects, which stops the removals of this file
        self._removals: Counter[str] = Counter()
        self.written = 0
        self._lock = threading.Lock()
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # verdicts and pictures are private
            for name in (PICTURES, MASKS, MAPS, MODELS):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
            probe = self.folder / files.partial_name("probe")
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise InputError(
                f"the station's folder {self.folder} cannot be written: {error.strerror}; choose another "
                "`store`"
            ) from None
        self.disk = self.measure()
        self._opened_at = time.time()

    def lock(self) -> None:
        """Lock the folder until the process ends.

        Raises:
            InputError: another station runs on the folder.
        """
        self._lock_handle = open(self.folder / LOCK_FILE, "a+b")  # noqa: SIM115 (held open)
        try:
            _lock_file(self._lock_handle)
        except OSError:
            self._lock_handle.close()
            raise InputError(
                f"another station runs on {self.folder}: end it, or choose another folder with --station"
            ) from None

    def unlock(self) -> None:
        """Release the folder's lock."""
        self._lock_handle.close()

    @property
    def identity_path(self) -> Path:
        """Path of the file with the folder's identity."""
        return self.folder / IDENTITY_FILE

    def identity(self) -> str:
        """Return the identity by which a database knows the folder, 32 hexadecimal digits.

        If the folder has no identity yet, it gets one.

        Raises:
            InputError: the identity cannot be read, or is damaged.
        """
        path = self.identity_path
        try:
            if not path.exists():
                self.write(path, f"{secrets.token_hex(16)}\n".encode())
            identity = path.read_text("ascii", "replace").strip()
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}") from None
        if not re.fullmatch("[0-9a-f]{32}", identity):
            raise InputError(f"{path} is damaged: it holds {identity!r:.40}, not 32 hexadecimal digits")
        return identity

    def has_files(self, kind: str) -> bool:
        """Return whether there is a complete file of a kind, such as `PICTURES`."""
        return any(not _is_unfinished(path.name) for path in (self.folder / kind).glob("*/*"))

    def path(self, kind: str, digest: str, suffix: str) -> Path:
        """Return the path of the file with this hash; the hash's first three digits name its folder."""
        return self.folder / kind / digest[:3] / f"{digest}{suffix}"

    def map_path(self, picture: str, version: int) -> Path:
        """Return the path of the map that a model version made of a picture."""
        return self.path(MAPS, picture, f".{version}.npz")

    def keep(self, kind: str, data: bytes, suffix: str, *, hold: bool = False, known_hash: str = "") -> str:
        """Write a file unless it exists already; return its SHA-256.

        Args:
            kind: Folder of its kind, such as `PICTURES`.
            data: Content.
            suffix: End of the file's name.
            hold: Whether to protect the file from `discard`, as `Files.hold` does.
            known_hash: SHA-256 of the data; "": not known, so that it is computed here.

        Raises:
            StoreError: the file cannot be written.
        """
        digest = known_hash or hashlib.sha256(data).hexdigest()
        path = self.path(kind, digest, suffix)
        if hold:
            self.hold(digest)
        try:
            with suppress(OSError):  # the file does not exist yet
                if path.stat().st_size == len(data):  # the whole file exists already
                    return digest
            self.write(path, data)
            if kind == PICTURES:
                with self._lock:
                    self.written += len(data)
                    if hold:
                        self._held_sizes[digest] = len(data)
        except BaseException:
            if hold:
                self.release(digest)
            raise
        return digest

    def hold(self, digest: str) -> None:
        """Protect a file from `discard` until `release`, while the database does not know the file yet."""
        with self._lock:
            self._holds[digest] += 1
            prefixes = [prefix for prefix in self._removals if digest.startswith(prefix)]
            for prefix in prefixes:
                del self._removals[prefix]  # `discard` finds no entry, and leaves the file

    def release(self, digest: str) -> None:
        """End the protection by `hold` or `keep`."""
        with self._lock:
            self._holds[digest] -= 1
            if not self._holds[digest]:
                del self._holds[digest]
                self._held_sizes.pop(digest, None)

    def held_bytes(self) -> int:
        """Return the size in bytes of held new pictures, which the database may not know yet."""
        with self._lock:
            return sum(self._held_sizes.values())

    def discard(self, path: Path, digest: str, is_unneeded: Callable[[], bool]) -> bool:
        """Remove a file, or a model's folder, unless it is held or needed; return whether it was removed.

        Args:
            path: Path of the file or folder.
            digest: SHA-256 of the file, or its first digits.
            is_unneeded: Function that asks the database; it returns True if no record needs the file. Other
                threads may hold and release files while it runs.
        """
        with self._lock:
            if self._is_held(digest):
                return False
            self._removals[digest] += 1
        can_remove = False
        try:
            can_remove = is_unneeded()
        finally:
            with self._lock:
                removal_count = self._removals.pop(digest, 0)
                was_held_meanwhile = removal_count == 0  # `hold` has deleted the entry
        if was_held_meanwhile or not can_remove:
            return False
        with self._lock:
            if self._is_held(digest):
                return False
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
            return True

    def _is_held(self, digest: str) -> bool:
        """Return whether any held file has a hash that begins with `digest`; the caller holds the lock."""
        return any(held_hash.startswith(digest) for held_hash in self._holds)

    def model_folder(self, digest: str) -> Path:
        """Return the folder of the model file with this hash."""
        return self.folder / MODELS / digest[:MODEL_FOLDER_DIGITS]

    def write(self, path: Path, data: bytes, *, durable: bool = True) -> None:
        """Write a file.

        Args:
            path: Path of the file; its folder is made.
            data: Content.
            durable: Whether to return only when the file would survive a power cut.

        Raises:
            StoreError: the file cannot be written.
        """
        try:
            is_new_folder = not path.parent.is_dir()
            path.parent.mkdir(parents=True, exist_ok=True)
            if is_new_folder and durable:  # the folder above has a new entry
                files.sync_folder(path.parent.parent)
            with files.replace_file(path, durable=durable) as file:
                file.write(data)
            if durable:
                files.sync_folder(path.parent)
        except OSError as error:
            raise write_error(path, error) from None

    def read(self, kind: str, digest: str, suffix: str) -> bytes:
        """Return the content of a file.

        Args:
            kind: Folder of its kind, such as `PICTURES`.
            digest: SHA-256 of the file.
            suffix: End of the file's name.

        Raises:
            StoreError: the file cannot be read.
        """
        path = self.path(kind, digest, suffix)
        try:
            return path.read_bytes()
        except OSError as error:
            text = f"cannot read {path}: {error.strerror}"
            sender_text = f"a file cannot be read: {error.strerror}"  # without its path
            raise StoreError(text, "file_missing", sender_text) from None

    def copy(self, source: Path, target: Path) -> str:
        """Copy a model file, and return the SHA-256 of the copy; the file is read only once.

        Args:
            source: Path of the model file.
            target: Path of the copy. Its folder is made, and must not exist before.

        Raises:
            InputError: the file cannot be read.
            StoreError: the copy cannot be written.
        """
        digest = hashlib.sha256()
        with files.open_file(source) as file:
            try:
                target.parent.mkdir(mode=0o700, parents=True)
                with open(target, "xb") as copy:
                    while block := file.read(BLOCK_BYTES):
                        digest.update(block)
                        copy.write(block)
                    copy.flush()
                    os.fsync(copy.fileno())
            except OSError as error:
                raise write_error(target, error) from None
        return digest.hexdigest()

    def move(self, source: Path, target: Path) -> None:
        """Move a file within its disk; after the call, the move survives a power cut.

        Args:
            source: Present path.
            target: New path; its folder is made.

        Raises:
            StoreError: the file cannot be moved.
        """
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            source.replace(target)
            files.sync_folder(target.parent)
            files.sync_folder(target.parent.parent)  # the target's folder may be new
        except OSError as error:
            raise write_error(target, error) from None

    def temporary_path(self, name: str) -> Path:
        """Return a new path for a temporary file, in a new folder.

        The caller makes the folder. `remove_temporary` removes both.
        """
        return self.folder / MODELS / files.partial_name(secrets.token_hex(4)) / name

    def remove_temporary(self, temporary: Path) -> None:
        """Remove a temporary file and its folder."""
        shutil.rmtree(temporary.parent, ignore_errors=True)

    def sweep(self) -> None:
        """Remove the unfinished files that an earlier run of the station has left.

        A file stays if this process is writing it, or if it was changed since the start of this process: a
        child process, such as a fit, may be writing it. The walk through all files may take minutes.
        """
        for folder, subfolders, names in os.walk(self.folder):
            for name in [*subfolders, *names]:
                if not _is_unfinished(name):
                    continue
                if name in subfolders:
                    subfolders.remove(name)  # `os.walk` does not go into it
                path = Path(folder) / name
                with suppress(OSError):  # the file was removed meanwhile
                    if files.is_being_written(name) or self._is_of_this_run(path):
                        continue
                    if path.is_dir():
                        shutil.rmtree(path, ignore_errors=True)
                    else:
                        path.unlink(missing_ok=True)

    def _is_of_this_run(self, path: Path) -> bool:
        """Return whether a file was changed since the start of this run.

        A file whose time lies in the future is older than this run: it was written when the clock was ahead.
        """
        return self._opened_at <= path.stat().st_mtime <= time.time()

    def free_bytes(self) -> int:
        """Ask the disk for its free bytes.

        Raises:
            OSError: the folder is not there.
        """
        return shutil.disk_usage(self.folder).free

    def measure(self) -> DiskState:
        """Measure the state of the disk, store it in `disk` and return it.

        If the disk hangs, the call hangs, too. Therefore only one thread calls it, and all others read
        `disk`.
        """
        written = self.written  # before the measurement: what is written during it counts as written later
        free_bytes = None
        error = None
        try:
            free_bytes = self.free_bytes()
            self.check_writable()
        except StoreError as write_failure:
            error = write_failure
        except OSError as disk_failure:
            reason = f"is not there: {disk_failure.strerror}"
            text = f"the station's folder {self.folder} {reason}"
            error = StoreError(text, "disk_full", f"the station's folder {reason}")
        self.disk = DiskState(free_bytes, written, error, self._backup_time())
        return self.disk

    def _backup_time(self) -> float | None:
        """Return the time of the last backup, seconds since 1970; None: not known."""
        try:
            return (self.folder / BACKUP_FILE).stat().st_mtime
        except OSError:
            return None

    def check_writable(self) -> None:
        """Write a tiny file as a trial; raise StoreError if that fails."""
        path = self.folder / PROBE_FILE
        try:
            with files.replace_file(path, durable=False) as file:
                file.write(b"\n")
            path.unlink(missing_ok=True)
        except OSError as error:
            raise write_error(path, error) from None

    def check_free_space(self, size: int) -> None:
        """Raise StoreError if a file of `size` bytes could fill the disk.

        The free space is estimated: that of the last measurement, minus the pictures written since.
        """
        if self.disk.free_bytes is None:  # unknown
            return
        written_since = self.written - self.disk.written
        needed_bytes = size + RESERVED_BYTES
        if self.disk.free_bytes - written_since < needed_bytes:
            shortage = f"less than {needed_bytes / 1024**2:.0f} MB are free on"
            text = f"{shortage} the disk of {self.folder}; free some space"
            sender_text = f"{shortage} the station's disk; free some space"  # without the folder's path
            raise StoreError(text, "disk_full", sender_text)


class StrayFiles:
    """Removal of files that no record needs.

    Args:
        database: Database of the station.
        files: Files of the station.
        pause: Function that lets other work go on between two pieces of the removal; it is called with the
            seconds that the last piece took.
    """

    def __init__(self, database: Database, files: Files, pause: Callable[[float], None]):
        self.database = database
        self.files = files
        self.pause = pause

    def discard(self, kind: str, digest: str, suffix: str) -> bool:
        """Remove a picture with its maps, or a mask; return whether it was removed.

        The file stays if a record needs it, if it is held, or if the disk fails to remove it.

        Args:
            kind: Folder of its kind, such as `PICTURES`.
            digest: SHA-256 of the file.
            suffix: End of the file's name.
        """
        return self._remove(kind, self.files.path(kind, digest, suffix), digest)

    def sweep(self) -> int:
        """Remove all files and model folders that no record needs; return the number of those removed."""
        removed_count = 0
        for kind in (MODELS, PICTURES, MASKS, MAPS):
            old_files = self._old_files(kind)
            while group := list(islice(old_files, FILES_PER_QUERY)):
                start = time.monotonic()
                needed = self.needed_hashes(kind, sorted({digest for _, digest in group}))
                for path, digest in group:
                    if digest not in needed and self._remove(kind, path, digest):
                        removed_count += 1
                self.pause(time.monotonic() - start)
        return removed_count

    def _remove(self, kind: str, path: Path, digest: str) -> bool:
        """Remove a file, and the maps of a picture; return whether it was removed."""
        try:
            is_removed = self.files.discard(path, digest, lambda: not self.needed_hashes(kind, [digest]))
            if is_removed and kind == PICTURES:
                map_folder = self.files.path(MAPS, digest, "").parent
                for map_path in map_folder.glob(f"{digest}.*"):
                    map_path.unlink(missing_ok=True)
            return is_removed
        except OSError:  # the next sweep tries again
            return False

    def _old_files(self, kind: str) -> Iterator[tuple[Path, str]]:
        """Yield path and hash of each file of a kind that is older than `STRAY_AGE`.

        For the kind `MODELS`, the folders of the models are yielded, each with its name, which is the first
        digits of the hash.
        """
        newest_change = time.time() - STRAY_AGE  # files that were changed later are too new
        is_model = kind == MODELS
        for path in (self.files.folder / kind).glob("*" if is_model else "*/*"):
            digest = path.name if is_model else path.name.partition(".")[0]
            with suppress(OSError):  # the file was removed meanwhile
                is_of_station = path.is_dir() if is_model else len(digest) == HASH_DIGITS
                if is_of_station and path.stat().st_mtime < newest_change:
                    yield path, digest

    def needed_hashes(self, kind: str, digests: list[str]) -> set[str]:
        """Return those of `digests` whose files a record needs; the file of a removed picture is not needed.

        Args:
            kind: Folder of their kind, such as `PICTURES`.
            digests: SHA-256 of files; for the kind `MODELS`, names of model folders.
        """
        if kind == MODELS:
            query = select(versions.c.file).where(IS_KEPT)
        elif kind == MASKS:
            query = select(verdicts.c.mask).where(verdicts.c.mask.in_(digests))
        else:
            query = select(pictures.c.hash).where(pictures.c.hash.in_(digests))
            query = query.where(pictures.c.removed_at.is_(None))
        with self.database.reading() as connection:
            needed_values = set(connection.execute(query).scalars())
        if kind == MODELS:
            needed_folders = {Path(file).parent.name for file in needed_values}
            return needed_folders & set(digests)
        return needed_values


def _is_unfinished(name: str) -> bool:
    """Return whether a file or folder of this name is not complete yet."""
    return name.startswith(".") and name.endswith(files.PARTIAL_SUFFIX)


def _lock_file(file: IO[bytes]) -> None:
    """Lock a file until the process ends.

    Raises:
        OSError: another process holds the lock.
    """
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # one byte
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def write_error(path: Path, error: OSError) -> StoreError:
    """Return the StoreError for a file of the station that cannot be written.

    Args:
        path: Path of the file.
        error: Error of the system.
    """
    if error.errno in DISK_FULL_ERRORS:
        sender_text = "the station's disk is full; free some space"
        return StoreError(f"the disk of {path.parent} is full; free some space", "disk_full", sender_text)
    sender_text = f"the station's folder cannot be written: {error.strerror}"
    return StoreError(f"cannot write {path}: {error.strerror}", "store_unreachable", sender_text)


def rename_without_overwrite(source: Path, target: Path) -> None:
    """Rename a file without overwriting another file.

    Args:
        source: Present path.
        target: New path, on the same disk.

    Raises:
        FileExistsError: the new path exists.
        OSError: the file cannot be renamed.
    """
    try:
        os.link(source, target)  # a link overwrites nothing; a renaming would
    except FileExistsError:
        raise
    except OSError:  # many network shares have no links; if something else is wrong, `rename` raises an error
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from None
        source.rename(target)
        return
    source.unlink(missing_ok=True)
