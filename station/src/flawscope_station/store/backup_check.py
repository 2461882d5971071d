"""Check of a backup without restoring it: its files are complete and undamaged."""

from __future__ import annotations

import hashlib
import os
import re
import sqlite3
import tarfile
import tempfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from flawscope.artefact import files
from flawscope.errors import InputError
from flawscope_station.settings.station import DATABASE_FILE
from flawscope_station.store.backup import SETTINGS, check_sqlite, members_of
from flawscope_station.store.files import BLOCK_BYTES, IDENTITY_FILE, MASK_SUFFIX, MASKS, MODELS, PICTURES

_HASH = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class VerifiedBackup:
    """Contents of a backup that is whole.

    Attributes:
        files: Number of files.
        inspections: Inspections in its database; None: it has none, as of a station with PostgreSQL.
        missing: Pictures and masks that the records name, but the backup does not have.
        settings_file: Whether it has the station's settings.
    """

    files: int
    inspections: int | None
    missing: int
    settings_file: bool


def verify(source: str | os.PathLike[str]) -> VerifiedBackup:
    """Read a whole backup: files named by a hash must have it, and the database must be whole.

    Nothing is written but a temporary copy of the database.

    Raises:
        InputError: it is no whole backup, or a file in it is damaged.
    """
    path = Path(source)
    if not path.is_file():
        raise InputError(f"there is no backup {path}: check the path")
    try:
        with tempfile.TemporaryDirectory(suffix=files.PARTIAL_SUFFIX) as folder:
            names = _read_members(path, folder)
            inspections = None
            missing = 0
            if DATABASE_FILE in names:
                inspections, missing = _check_records(Path(folder) / DATABASE_FILE, names)
    except (tarfile.TarError, EOFError, sqlite3.Error):
        raise InputError(f"{path} is damaged, or no backup: take another one") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None
    has_settings = any(name.startswith(f"{SETTINGS}/") for name in names)
    return VerifiedBackup(len(names), inspections, missing, has_settings)


def _read_members(path: Path, folder: str) -> set[str]:
    """Read all files of a backup, and return their names; the database is copied to a folder.

    Raises:
        EOFError: the backup was cut off.
        InputError: a file does not have the hash in its name.
    """
    names = set[str]()
    with tarfile.open(path, "r:") as tar:
        for part in members_of(tar):
            if not part.isfile():
                continue
            if part.name == DATABASE_FILE:
                tar.extract(part, folder, filter="data")
            elif not _is_right(tar, part):
                raise InputError(f"{path}: {part.name} is damaged: take another backup")
            names.add(part.name)
    if IDENTITY_FILE not in names:
        raise EOFError
    return names


def _is_right(tar: tarfile.TarFile, part: tarfile.TarInfo) -> bool:
    """Read a file to its end; return whether it has the hash in its name, where that is a hash."""
    digest = hashlib.sha256()
    size = 0
    content = tar.extractfile(part)
    assert content is not None, part.name
    while block := content.read(BLOCK_BYTES):
        digest.update(block)
        size += len(block)
    if size != part.size:
        raise EOFError
    place = PurePosixPath(part.name)
    kind = place.parts[0]
    if kind in (PICTURES, MASKS) and _HASH.fullmatch(place.stem):
        return digest.hexdigest() == place.stem
    if kind == MODELS:
        return digest.hexdigest().startswith(place.parent.name)
    return True


def _check_records(database: Path, names: set[str]) -> tuple[int, int]:
    """Return the number of inspections, and of files that the records name but the backup does not have."""
    wanted = (
        (PICTURES, "SELECT DISTINCT hash, suffix FROM pictures WHERE removed_at IS NULL"),
        (MASKS, f"SELECT DISTINCT mask, '{MASK_SUFFIX}' FROM verdicts WHERE mask IS NOT NULL"),
    )
    missing = 0
    with closing(sqlite3.connect(database)) as connection:
        check_sqlite(connection)
        (inspections,) = connection.execute("SELECT count(*) FROM inspections").fetchone()
        for kind, query in wanted:
            for digest, suffix in connection.execute(query):
                missing += f"{kind}/{digest[:3]}/{digest}{suffix}" not in names
    return inspections, missing
