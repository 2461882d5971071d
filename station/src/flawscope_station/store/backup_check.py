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
    """Contents of a backup that is complete and undamaged.

    Attributes:
        files: Number of files.
        inspections: Number of inspections in its database; None: the backup has no database, because the
            station has PostgreSQL.
        missing: Number of pictures and masks that the records name, but the backup does not have.
        settings_file: Whether the backup has the station's settings.
    """

    files: int
    inspections: int | None
    missing: int
    settings_file: bool


def verify(source: str | os.PathLike[str]) -> VerifiedBackup:
    """Check each file of a backup against the hash in its name, and check the database.

    The backup is read from end to end. Only a temporary copy of the database is written.

    Raises:
        InputError: the file is no complete backup, or a file in it is damaged.
    """
    path = Path(source)
    if not path.is_file():
        raise InputError(f"there is no backup {path}: check the path")
    try:
        with tempfile.TemporaryDirectory(suffix=files.PARTIAL_SUFFIX) as folder:
            names = _read_members(path, folder)
            inspection_count = None
            missing_count = 0
            if DATABASE_FILE in names:
                inspection_count, missing_count = _check_records(Path(folder) / DATABASE_FILE, names)
    except (tarfile.TarError, EOFError, sqlite3.Error):
        raise InputError(f"{path} is damaged, or no backup: take another one") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None
    has_settings = any(name.startswith(f"{SETTINGS}/") for name in names)
    return VerifiedBackup(len(names), inspection_count, missing_count, has_settings)


def _read_members(path: Path, folder: str) -> set[str]:
    """Check all files of a backup, copy the database to a folder, and return the names of the files.

    Raises:
        EOFError: the end of the backup is missing.
        InputError: a file does not have the hash in its name.
    """
    names = set[str]()
    with tarfile.open(path, "r:") as tar:
        for member in members_of(tar):
            if not member.isfile():
                continue
            if member.name == DATABASE_FILE:
                tar.extract(member, folder, filter="data")
            elif not _matches_hash(tar, member):
                raise InputError(f"{path}: {member.name} is damaged: take another backup")
            names.add(member.name)
    if IDENTITY_FILE not in names:  # the last file of a backup
        raise EOFError
    return names


def _matches_hash(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bool:
    """Read a file to its end, and return whether its content has the hash that its name states.

    If the name states no hash, the result is True.

    Raises:
        EOFError: the archive ends before the end of the file.
    """
    digest = hashlib.sha256()
    size = 0
    stream = tar.extractfile(member)
    assert stream is not None, member.name
    while block := stream.read(BLOCK_BYTES):
        digest.update(block)
        size += len(block)
    if size != member.size:
        raise EOFError
    inner_path = PurePosixPath(member.name)
    kind = inner_path.parts[0]
    if kind in (PICTURES, MASKS) and _HASH.fullmatch(inner_path.stem):
        return digest.hexdigest() == inner_path.stem
    if kind == MODELS:  # the folder's name is the beginning of the hash
        return digest.hexdigest().startswith(inner_path.parent.name)
    return True


def _check_records(database: Path, names: set[str]) -> tuple[int, int]:
    """Return the number of inspections, and the number of recorded files that are missing in the backup.

    Args:
        database: Path of the copied database.
        names: Names of the files in the backup.
    """
    # folder of the files, and the query of their hashes and suffixes
    queries = (
        (PICTURES, "SELECT DISTINCT hash, suffix FROM pictures WHERE removed_at IS NULL"),
        (MASKS, f"SELECT DISTINCT mask, '{MASK_SUFFIX}' FROM verdicts WHERE mask IS NOT NULL"),
    )
    missing_count = 0
    with closing(sqlite3.connect(database)) as connection:
        check_sqlite(connection)
        (inspection_count,) = connection.execute("SELECT count(*) FROM inspections").fetchone()
        for kind, query in queries:
            for digest, suffix in connection.execute(query):
                # the first three digits of the hash name the folder
                if f"{kind}/{digest[:3]}/{digest}{suffix}" not in names:
                    missing_count += 1
    return inspection_count, missing_count
