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
MODEL_FOLDER_DIGITS = 16  # digits of a hash that name the folder of a model
BACKUP_FILE = ".backup"  # is touched at each backup
LOCK_FILE = ".lock"  # locked by the station that runs
PROBE_FILE = ".probe"  # written to see whether files can be
IDENTITY_FILE = ".station"  # file with the folder's identity
RESERVED_BYTES = 16 * 1024**2  # bytes that must stay free for the data base and the rest
BLOCK_BYTES = 1 << 20  # bytes that are copied at once
STRAY_AGE = 3600.0  # seconds for which a new file may have no record yet
FILES_PER_QUERY = 500  # files of one query
DISK_FULL_ERRORS = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class DiskState:
    """State of the station's disk at its last measurement.

    Attributes:
        free_bytes: Free bytes; None: the folder is gone.
        written: `Files.written` at that time.
        error: Why no file can be written; None: files can be written.
        backup_at: Time of the folder's last backup, seconds since 1970; None: not known.
    """

    free_bytes: int | None
    written: int = 0
    error: StoreError | None = None
    backup_at: float | None = None


class Files:
    """Files in the station's folder.

    A file is there whole or not at all, and survives a power cut once `keep` has returned.

    Attributes:
        written: bytes of all picture files that were written since the start.
        disk: as it was measured last.

    Raises:
        InputError: the folder cannot be made or written.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        self.folder = Path(folder)
        self._held: Counter[str] = Counter()
        self._held_sizes: dict[str, int] = {}  # of held pictures
        self._leaving: Counter[str] = Counter()  # hashes, or how they begin, that are being removed
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
        """Return the folder's identity for a database, 32 hexadecimal digits; make it where there is none.

        Raises:
            InputError: it cannot be read, or is damaged.
        """
        path = self.identity_path
        try:
            if not path.exists():
                self.write(path, f"{secrets.token_hex(16)}\n".encode())
            found = path.read_text("ascii", "replace").strip()
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}") from None
        if not re.fullmatch("[0-9a-f]{32}", found):
            raise InputError(f"{path} is damaged: it holds {found!r:.40}, not 32 hexadecimal digits")
        return found

    def has_files(self, kind: str) -> bool:
        """Return whether there is a file of this kind."""
        return any(not _is_unfinished(path.name) for path in (self.folder / kind).glob("*/*"))

    def path(self, kind: str, digest: str, suffix: str) -> Path:
        """Return the path of the file with this hash, in a folder named by its first three digits."""
        return self.folder / kind / digest[:3] / f"{digest}{suffix}"

    def map_path(self, picture: str, version: int) -> Path:
        """Return the path of the map that a model version made of a picture."""
        return self.path(MAPS, picture, f".{version}.npz")

    def keep(self, kind: str, data: bytes, suffix: str, *, hold: bool = False, known: str = "") -> str:
        """Write a file unless it is there already; return its SHA-256.

        Args:
            kind: Folder of its kind, such as `PICTURES`.
            data: Content.
            suffix: End of the file's name.
            hold: Also protect the file as `Files.hold` does.
            known: SHA-256 of the data, where it was computed before.

        Raises:
            StoreError: the file cannot be written.
        """
        digest = known or hashlib.sha256(data).hexdigest()
        path = self.path(kind, digest, suffix)
        if hold:
            self.hold(digest)
        try:
            with suppress(OSError):
                if path.stat().st_size == len(data):
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
            self._held[digest] += 1
            for prefix in [prefix for prefix in self._leaving if digest.startswith(prefix)]:
                del self._leaving[prefix]  # the file stays

    def release(self, digest: str) -> None:
        """End the protection by `hold` or `keep`."""
        with self._lock:
            self._held[digest] -= 1
            if not self._held[digest]:
                del self._held[digest]
                self._held_sizes.pop(digest, None)

    def held_bytes(self) -> int:
        """Return the bytes of held new pictures, which the database may not know yet."""
        with self._lock:
            return sum(self._held_sizes.values())

    def discard(self, path: Path, digest: str, is_unneeded: Callable[[], bool]) -> bool:
        """Remove a file, or a model's folder, unless it is held or needed; return whether it was removed.

        Args:
            path: Path of the file or folder.
            digest: SHA-256 of the file, or its first digits.
            is_unneeded: Asks the database, while others hold and release files.
        """
        with self._lock:
            if any(held.startswith(digest) for held in self._held):
                return False
            self._leaving[digest] += 1
        unneeded = False
        try:
            unneeded = is_unneeded()
        finally:
            with self._lock:
                still = self._leaving.pop(digest, 0) > 0  # else it was held meanwhile
        if not (still and unneeded):
            return False
        with self._lock:
            if any(held.startswith(digest) for held in self._held):
                return False
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
            return True

    def model_folder(self, digest: str) -> Path:
        """Return the folder of the model file with this hash."""
        return self.folder / MODELS / digest[:MODEL_FOLDER_DIGITS]

    def write(self, path: Path, data: bytes, *, durable: bool = True) -> None:
        """Write a file.

        Args:
            path: Path of the file; its folder is made.
            data: Content.
            durable: Return only when the file is on the disk.

        Raises:
            StoreError: it cannot be written.
        """
        try:
            is_new = not path.parent.is_dir()
            path.parent.mkdir(parents=True, exist_ok=True)
            if is_new and durable:
                files.sync_folder(path.parent.parent)
            with files.replace_file(path, durable=durable) as file:
                file.write(data)
            if durable:
                files.sync_folder(path.parent)
        except OSError as error:
            raise write_error(path, error) from None

    def read(self, kind: str, digest: str, suffix: str) -> bytes:
        """Return the content of a file.

        Raises:
            StoreError: it cannot be read.
        """
        path = self.path(kind, digest, suffix)
        try:
            return path.read_bytes()
        except OSError as error:
            text = f"cannot read {path}: {error.strerror}"
            raise StoreError(text, "file_missing", f"a file cannot be read: {error.strerror}") from None

    def copy(self, source: Path, target: Path) -> str:
        """Copy a model file into a new folder, in one read; return the SHA-256 of the copy.

        Raises:
            InputError: it cannot be read.
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
        """Move a file that is on the disk to its place, durably.

        Raises:
            StoreError: it cannot be moved.
        """
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            source.replace(target)
            files.sync_folder(target.parent)
            files.sync_folder(target.parent.parent)
        except OSError as error:
            raise write_error(target, error) from None

    def temporary_path(self, name: str) -> Path:
        """Return a new path for a temporary file, in a folder of its own that the caller makes.

        `remove_temporary` removes both.
        """
        return self.folder / MODELS / files.partial_name(secrets.token_hex(4)) / name

    def remove_temporary(self, temporary: Path) -> None:
        """Remove a temporary file and its folder."""
        shutil.rmtree(temporary.parent, ignore_errors=True)

    def sweep(self) -> None:
        """Remove unfinished files of an earlier run that was cut off.

        These are files that neither this process nor a process that it started, such as for a fit, has
        written since the start. The walk through the whole store may take minutes.
        """
        for folder, folders, names in os.walk(self.folder):
            for name in [*folders, *names]:
                left = Path(folder) / name
                with suppress(OSError):  # the file was removed meanwhile
                    if not _is_unfinished(name):
                        continue
                    if name in folders:
                        folders.remove(name)
                    if files.is_being_written(name) or self._is_of_this_run(left):
                        continue
                    if left.is_dir():
                        shutil.rmtree(left, ignore_errors=True)
                    else:
                        left.unlink(missing_ok=True)

    def _is_of_this_run(self, path: Path) -> bool:
        """Return whether a file was changed since the start.

        A file with a time in the future is older than the start: the clock was ahead when it was written.
        """
        return self._opened_at <= path.stat().st_mtime <= time.time()

    def free_bytes(self) -> int:
        """Ask the disk for its free bytes.

        Raises:
            OSError: the folder is not there.
        """
        return shutil.disk_usage(self.folder).free

    def measure(self) -> DiskState:
        """Ask the disk for its state, and keep it as `disk`.

        It may hang with the disk: only the thread that measures the computer calls it; everybody else reads
        `disk`.
        """
        written = self.written
        free = None
        error = None
        try:
            free = self.free_bytes()
            self.check_writable()
        except StoreError as refused:
            error = refused
        except OSError as gone:
            text = f"the station's folder {self.folder} is not there: {gone.strerror}"
            error = StoreError(text, "disk_full", f"the station's folder is not there: {gone.strerror}")
        self.disk = DiskState(free, written, error, self._last_backup())
        return self.disk

    def _last_backup(self) -> float | None:
        try:
            return (self.folder / BACKUP_FILE).stat().st_mtime
        except OSError:
            return None

    def check_writable(self) -> None:
        """Raise StoreError where no file can be written, however much room there is."""
        path = self.folder / PROBE_FILE
        try:
            with files.replace_file(path, durable=False) as file:
                file.write(b"\n")
            path.unlink(missing_ok=True)
        except OSError as error:
            raise write_error(path, error) from None

    def check_free_space(self, size: int) -> None:
        """Raise StoreError where a file of `size` bytes could fill the disk, by its last measurement."""
        if self.disk.free_bytes is None:
            return  # nobody knows
        written_since = self.written - self.disk.written
        if self.disk.free_bytes - written_since < size + RESERVED_BYTES:
            least = f"{(size + RESERVED_BYTES) / 1024**2:.0f} MB"
            text = f"less than {least} are free on the disk of {self.folder}; free some space"
            sender_text = f"less than {least} are free on the station's disk; free some space"
            raise StoreError(text, "disk_full", sender_text)


class StrayFiles:
    """Removal of files that no record needs.

    Args:
        database: Database of the station.
        files: Files of the station.
        pause: Called with the seconds that a piece of work took.
    """

    def __init__(self, database: Database, files: Files, pause: Callable[[float], None]):
        self.database = database
        self.files = files
        self.pause = pause

    def discard(self, kind: str, digest: str, suffix: str) -> bool:
        """Remove a picture with its maps, or a mask; return False where a record needs the file by now."""
        return self._remove(kind, self.files.path(kind, digest, suffix), digest)

    def sweep(self) -> int:
        """Remove all files, and folders of models, that no record needs; return their number."""
        removed = 0
        for kind in (MODELS, PICTURES, MASKS, MAPS):
            found = self._old_files(kind)
            while group := list(islice(found, FILES_PER_QUERY)):
                begun = time.monotonic()
                known = self.needed_hashes(kind, sorted({digest for _, digest in group}))
                left = [(path, digest) for path, digest in group if digest not in known]
                removed += sum(self._remove(kind, path, digest) for path, digest in left)
                self.pause(time.monotonic() - begun)
        return removed

    def _remove(self, kind: str, path: Path, digest: str) -> bool:
        try:
            removed = self.files.discard(path, digest, lambda: not self.needed_hashes(kind, [digest]))
            if removed and kind == PICTURES:
                for cached in self.files.path(MAPS, digest, "").parent.glob(f"{digest}.*"):
                    cached.unlink(missing_ok=True)
            return removed
        except OSError:  # the next sweep tries again
            return False

    def _old_files(self, kind: str) -> Iterator[tuple[Path, str]]:
        """Yield path and hash of each file that is older than `STRAY_AGE`.

        Models are folders, named by the first digits of the hash.
        """
        youngest = time.time() - STRAY_AGE
        of_model = kind == MODELS
        for path in (self.files.folder / kind).glob("*" if of_model else "*/*"):
            digest = path.name if of_model else path.name.partition(".")[0]
            with suppress(OSError):
                is_ours = path.is_dir() if of_model else len(digest) == 64
                if is_ours and path.stat().st_mtime < youngest:
                    yield path, digest

    def needed_hashes(self, kind: str, digests: list[str]) -> set[str]:
        """Return the hashes among `digests` that a record needs; a removed picture is not needed."""
        if kind == MODELS:
            query = select(versions.c.file).where(IS_KEPT)
        elif kind == MASKS:
            query = select(verdicts.c.mask).where(verdicts.c.mask.in_(digests))
        else:
            query = select(pictures.c.hash).where(pictures.c.hash.in_(digests))
            query = query.where(pictures.c.removed_at.is_(None))
        with self.database.reading() as connection:
            found = set(connection.execute(query).scalars())
        return {Path(file).parent.name for file in found} & set(digests) if kind == MODELS else found


def _is_unfinished(name: str) -> bool:
    return name.startswith(".") and name.endswith(files.PARTIAL_SUFFIX)


def _lock_file(file: IO[bytes]) -> None:
    """Lock a file until the process ends.

    Raises:
        OSError: another process holds the lock.
    """
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def write_error(path: Path, error: OSError) -> StoreError:
    """Return the StoreError for a file of the station that cannot be written."""
    if error.errno in DISK_FULL_ERRORS:
        sender_text = "the station's disk is full; free some space"
        return StoreError(f"the disk of {path.parent} is full; free some space", "disk_full", sender_text)
    sender_text = f"the station's folder cannot be written: {error.strerror}"
    return StoreError(f"cannot write {path}: {error.strerror}", "store_unreachable", sender_text)


def rename_without_overwrite(part: Path, path: Path) -> None:
    """Rename a file without overwriting another.

    Raises:
        FileExistsError: there is a file of that name.
        OSError: it cannot be renamed.
    """
    try:
        os.link(part, path)  # unlike a renaming, it overwrites nothing
    except FileExistsError:
        raise
    except OSError:  # many network shares have no links; `rename` finds other faults
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        part.rename(path)
        return
    part.unlink(missing_ok=True)
