"""Files of a station: pictures and masks named by their content, models, maps; and the removal of orphans,
which no record needs."""

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
from itertools import islice
from pathlib import Path
from typing import IO

from sqlalchemy import ColumnElement, and_, delete, exists, or_, select

from flawscope.artefact.files import PART as PART
from flawscope.artefact.files import replacing, sync_folder
from flawscope.errors import InputError
from flawscope.station.store.database import Database, StoreError
from flawscope.station.store.schema import inspections, learnt, pictures, verdicts, versions

PICTURES, MASKS, MAPS, MODELS = "pictures", "masks", "maps", "models"
MASK = ".png"  # suffix of a mask
SHORT = 16  # digits of a hash that name the folder of a model
LOCK = ".lock"  # locked by the station that runs
IDENTITY = ".station"  # file with the folder's identity
ROOM = 16 * 1024**2  # bytes that must stay free for the data base and the rest
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Files:
    """Files in the station's folder. A file is there whole or not at all, and survives a power cut once
    `keep` has returned.

    Raises:
        InputError: the folder cannot be made or written.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        self.folder = Path(folder)
        self._held: Counter[str] = Counter()
        self._lock = threading.Lock()
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # verdicts and pictures are private
            for name in (PICTURES, MASKS, MAPS, MODELS):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
            probe = self.folder / f".{secrets.token_hex(4)}{PART}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise InputError(
                f"the station's folder {self.folder} cannot be written: {error.strerror}; choose another "
                "`store`"
            ) from None

    def claim(self) -> None:
        """Lock the folder until the process ends. InputError where another station runs on it."""
        self._claim = open(self.folder / LOCK, "a+b")  # noqa: SIM115 (held open)
        try:
            _lock(self._claim)
        except OSError:
            self._claim.close()
            raise InputError(
                f"another station runs on {self.folder}: end it, or choose another folder with --station"
            ) from None

    def give_up(self) -> None:
        """Release the lock of `claim`."""
        self._claim.close()

    @property
    def identity_path(self) -> Path:
        return self.folder / IDENTITY

    def identity(self) -> str:
        """Identity of the folder for a data base, 32 hexadecimal digits. InputError where unreadable."""
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

    def has(self, kind: str) -> bool:
        """Whether there is a file of this kind."""
        return any(
            True for folder in (self.folder / kind).iterdir() if folder.is_dir() and any(folder.iterdir())
        )

    def path(self, kind: str, digest: str, suffix: str) -> Path:
        """Path of the file with this hash. Folders named by its first three digits stay small."""
        return self.folder / kind / digest[:3] / f"{digest}{suffix}"

    def map_path(self, picture: str, version: int) -> Path:
        """Path of the map that a model version made of a picture."""
        return self.path(MAPS, picture, f".{version}.npz")

    def keep(self, kind: str, data: bytes, suffix: str, *, hold: bool = False, known: str = "") -> str:
        """Write a file unless it is there already; return its SHA-256.

        Args:
            hold: call `hold` as well.
            known: SHA-256 of the data, where it was computed before.

        Raises:
            StoreError: the file cannot be written.
        """
        digest = known or hashlib.sha256(data).hexdigest()
        if hold:
            self.hold(digest)
        path = self.path(kind, digest, suffix)
        try:
            with suppress(OSError):
                if path.stat().st_size == len(data):
                    return digest
            self.write(path, data)
        except StoreError:
            if hold:
                self.release(digest)
            raise
        return digest

    def hold(self, digest: str) -> None:
        """Protect a file from `discard` until `release`: the data base does not know the file yet."""
        with self._lock:
            self._held[digest] += 1

    def release(self, digest: str) -> None:
        """End a `hold`, or the hold of `keep`."""
        with self._lock:
            self._held[digest] -= 1
            if not self._held[digest]:
                del self._held[digest]

    def discard(self, kind: str, digest: str, suffix: str, settle: Callable[[], bool | None]) -> bool:
        """Call `settle`, which updates the data base, and remove a file. False, with nothing removed, where
        the file is held or `settle` returns False."""
        with self._lock:
            if digest in self._held:
                return False
            if settle() is False:
                return False
            self.path(kind, digest, suffix).unlink(missing_ok=True)
            return True

    def model_folder(self, digest: str) -> Path:
        """Folder of the model file with this hash."""
        return self.folder / MODELS / digest[:SHORT]

    def discard_model(self, folder: Path, settle: Callable[[], bool]) -> bool:
        """Remove a folder of a model, as `discard` removes a file."""
        with self._lock:
            if any(digest[:SHORT] == folder.name for digest in self._held) or not settle():
                return False
            shutil.rmtree(folder, ignore_errors=True)
            return True

    def write(self, path: Path, data: bytes, *, durable: bool = True) -> None:
        """Write a file. durable: the file is on the disk on return. StoreError where it cannot be written."""
        try:
            _make(path.parent, durable)
            with replacing(path, durable=durable) as file:
                file.write(data)
            if durable:
                sync_folder(path.parent)
        except OSError as error:
            raise unwritable(path, error) from None

    def read(self, kind: str, digest: str, suffix: str) -> bytes:
        """Read a file. StoreError where it cannot be read."""
        path = self.path(kind, digest, suffix)
        try:
            return path.read_bytes()
        except OSError as error:
            raise StoreError(f"cannot read {path}: {error.strerror}", "file_missing") from None

    def temporary(self, name: str) -> Path:
        """Path of a temporary file, in a folder of its own that the caller makes; `drop` removes both."""
        return self.folder / MODELS / f".{secrets.token_hex(8)}{PART}" / name

    def drop(self, temporary: Path) -> None:
        shutil.rmtree(temporary.parent, ignore_errors=True)

    def sweep(self) -> None:
        """Remove unfinished files of an earlier run that was cut off."""
        for left in list(self.folder.rglob(f".*{PART}")):
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)

    def free_bytes(self) -> int:
        return shutil.disk_usage(self.folder).free

    def check_room(self, size: int) -> None:
        """Raise StoreError where a file of `size` bytes could fill the disk."""
        if self.free_bytes() < size + ROOM:
            least = f"{(size + ROOM) / 1024**2:.0f} MB"
            text = f"less than {least} are free on the disk of {self.folder}; free some space"
            raise StoreError(text, "disk_full")


def _lock(file: IO[bytes]) -> None:
    """Lock a file until the process ends. OSError where another process holds the lock."""
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def unwritable(path: Path, error: OSError) -> StoreError:
    if error.errno in _FULL:
        return StoreError(f"the disk of {path.parent} is full; free some space", "disk_full")
    return StoreError(f"cannot write {path}: {error.strerror}", "store_unreachable")


def _make(folder: Path, durable: bool) -> None:
    if folder.is_dir():
        return
    folder.mkdir(parents=True, exist_ok=True)
    if durable:
        sync_folder(folder.parent)


def give_name(part: Path, path: Path) -> None:
    """Rename a file without overwriting another: FileExistsError where there is one; OSError."""
    try:
        os.link(part, path)  # unlike a renaming, it overwrites nothing
    except FileExistsError:
        raise
    except OSError:  # many network shares have no links; `rename` finds other faults
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        os.rename(part, path)
        return
    part.unlink(missing_ok=True)


# ----------------------------------------------------------------------------------- files that nobody needs

YOUNG = 3600.0  # seconds for which a new file may have no record yet
TOGETHER = 500  # files of one query
_NAME = re.compile(r"([0-9a-f]{64})((?:\.\w+)+)")


class Orphans:
    """Removes files that no record needs. rest: called with the seconds that a piece of work took."""

    def __init__(self, database: Database, files: Files, rest: Callable[[float], None]):
        self.database, self.files, self.rest = database, files, rest

    def discard(self, kind: str, digest: str, suffix: str) -> bool:
        """Remove a picture with its maps, or a mask. False where a record needs the file by now."""
        try:
            removed = self.files.discard(kind, digest, suffix, lambda: not self._needed(kind, [digest]))
        except OSError:  # the next sweep tries again
            return False
        if removed and kind == PICTURES:
            for cached in self.files.path(MAPS, digest, "").parent.glob(f"{digest}.*"):
                with suppress(OSError):
                    cached.unlink()
        return removed

    def sweep(self, at: int) -> int:
        """Remove all files that no record needs; return their number.

        Args:
            at: time now, microseconds since 1970.
        """
        removed = self._models(at)
        for kind in (PICTURES, MASKS, MAPS):
            found = self._files(kind)
            while group := list(islice(found, TOGETHER)):
                begun = time.monotonic()
                known = self._needed(kind, sorted({digest for _, digest, _ in group}))
                for path, digest, suffix in group:
                    if digest not in known and not _is_young(path, at):
                        removed += self._remove(kind, path, digest, suffix)
                self.rest(time.monotonic() - begun)
        return removed

    def _remove(self, kind: str, path: Path, digest: str, suffix: str) -> bool:
        if kind == MAPS:
            with suppress(OSError):
                path.unlink()
                return True
            return False
        removed = self.discard(kind, digest, suffix)
        if removed and kind == PICTURES:  # the row of a picture that no record names goes, too
            row = and_(pictures.c.product_id.in_(self.database.own()), pictures.c.hash == digest)
            with self.database.writing() as connection:
                connection.execute(select(pictures.c.hash).where(row).with_for_update()).all()
                connection.execute(delete(pictures).where(row, ~named()))
        return removed

    def _models(self, at: int) -> int:
        """Remove folders of models whose adding was cut off; return their number."""
        known = self._known_models()
        folders = [one for one in (self.files.folder / MODELS).iterdir() if one.is_dir()]
        left = [one for one in folders if one.name not in known and not _is_young(one, at)]
        return sum(
            self.files.discard_model(one, lambda one=one: one.name not in self._known_models())  # type: ignore[misc]
            for one in left
        )

    def _known_models(self) -> set[str]:
        """Names of the folders of this station's model versions."""
        query = select(versions.c.file).where(versions.c.product_id.in_(self.database.own()))
        with self.database.reading() as connection:
            return {Path(file).parent.name for file in connection.execute(query).scalars()}

    def _needed(self, kind: str, hashes: list[str]) -> set[str]:
        """Hashes of the files that a record of this station names, and whose picture was not removed."""
        own = self.database.own()
        if kind == MASKS:
            query = select(verdicts.c.mask).join(inspections).where(verdicts.c.mask.in_(hashes))
            query = query.where(inspections.c.product_id.in_(own))
        else:
            query = select(pictures.c.hash).where(pictures.c.hash.in_(hashes), pictures.c.product_id.in_(own))
            query = query.where(pictures.c.removed_at.is_(None), named())
        with self.database.reading() as connection:
            return set(connection.execute(query).scalars())

    def _files(self, kind: str) -> Iterator[tuple[Path, str, str]]:
        """Path, hash and suffix of each file of a kind."""
        for folder, _, names in os.walk(self.files.folder / kind):
            for name in names:
                if found := _NAME.fullmatch(name):
                    yield Path(folder, name), found[1], found[2]


def named() -> ColumnElement[bool]:
    """Condition that a picture is named by a record, or by what a model was learnt from."""
    return or_(
        *(
            exists().where(where.c.picture == pictures.c.hash, where.c.product_id == pictures.c.product_id)
            for where in (inspections, learnt)
        )
    )


def _is_young(path: Path, at: int) -> bool:
    try:
        return at / 1e6 - path.stat().st_mtime < YOUNG
    except OSError:
        return True
