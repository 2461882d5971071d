"""Backup of a station to one archive: the files that its records name, and SQLite's data base at one moment.

Files are named by their content and never change, so the station keeps running meanwhile. The data base is
copied first and written last, before the folder's identity: where that is there, all is. PostgreSQL's data
base is for pg_dump.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import Connection, select, update

from flawscope.artefact import files
from flawscope.errors import FlawscopeError, InputError, pluralize
from flawscope_station.settings.station import DATABASE_FILE, Settings
from flawscope_station.store.database import Database, StoreError, now
from flawscope_station.store.files import IDENTITY_FILE, MASK_SUFFIX, MASKS, PICTURES, Files
from flawscope_station.store.schema import pictures, verdicts, versions

IGNORED_ENTRIES = {"lost+found"}  # entries that an empty folder may have


@dataclass
class Contents:
    """Contents of a backup. missing: names of files that records name, and that are lost or damaged."""

    files: int = 0
    bytes: int = 0
    missing: list[str] = field(default_factory=list)

    def line(self) -> str:
        return f"{pluralize(self.files, 'file')}; {self.bytes / 1e6:.1f} MB"


def backup(settings: Settings, target: str | os.PathLike[str]) -> Contents:
    """Write a station, which may be running, to a new file; of one with PostgreSQL the files alone.

    Raises:
        InputError: there is no such station, its data base cannot be read, or the file exists.
        FlawscopeError: the file cannot be written.
    """
    path, home = Path(target).absolute(), Path(settings.store)
    if not path.parent.is_dir():
        raise InputError(f"there is no folder {path.parent}: make it first")
    if not home.is_dir() or (settings.database is None and not (home / DATABASE_FILE).is_file()):
        raise InputError(f"there is no station in {home}: name its folder with --station, or --settings FILE")
    if path.exists():
        raise InputError(f"{path} exists, and a backup is never overwritten: choose another name")
    contents, files_of = Contents(), Files(home)
    files_of.identity()
    try:
        with tempfile.TemporaryDirectory(
            dir=path.parent, prefix=".backup-", suffix=files.PARTIAL_SUFFIX
        ) as folder:
            copy, url = Path(folder, DATABASE_FILE), settings.url
            if settings.database is None:
                _copy_sqlite(home / DATABASE_FILE, copy)
                url = f"sqlite:///{copy}"
            with files.atomic_write(path) as file:
                if hasattr(os, "fchmod"):  # it holds password hashes
                    os.fchmod(file.fileno(), 0o600)
                with tarfile.open(fileobj=file, mode="w") as tar:
                    _add_files(tar, files_of, url, contents)
                    if settings.database is None:
                        tar.add(copy, DATABASE_FILE)
                    tar.add(files_of.identity_path, IDENTITY_FILE)
                contents.bytes = file.tell()
    except OSError as error:
        raise FlawscopeError(f"cannot write {path}: {error.strerror or error}; free some space") from None
    files.sync_folder(path.parent)
    return contents


def _add_files(tar: tarfile.TarFile, station: Files, url: str, contents: Contents) -> None:
    """Add the files that the data base names; mark pictures removed, in a copy of it, that are gone."""
    database, gone = Database(url), list[str]()
    try:
        database.check_current()
        with database.reading() as connection:
            for name, digest in _named_files(connection, station):
                try:
                    tar.add(station.folder / name, name)
                    tar.members = []  # type: ignore[attr-defined]  # there may be millions
                    contents.files += 1
                except FileNotFoundError:
                    contents.missing.append(name)
                    gone += [digest] * name.startswith(PICTURES)
        if database.is_sqlite and gone:
            with database.writing() as connection:
                for digest in gone:
                    one = update(pictures).where(pictures.c.hash == digest)
                    connection.execute(one.values(removed_at=now()))
    except StoreError as error:
        raise InputError(f"{error}; check `database` and that it is running") from None
    finally:
        database.close()


def _named_files(connection: Connection, station: Files) -> Iterator[tuple[str, str]]:
    """Name below the station's folder, and hash, of each file that a record names."""
    for (name,) in connection.execute(select(versions.c.file).distinct()).all():
        yield name, ""
        if name.lower().endswith(".xml"):
            yield str(Path(name).with_suffix(".bin")), ""
    there = select(pictures.c.hash, pictures.c.suffix).distinct().where(pictures.c.removed_at.is_(None))
    for digest, suffix in connection.execution_options(yield_per=500).execute(there):
        yield station.path(PICTURES, digest, suffix).relative_to(station.folder).as_posix(), digest
    drawn = select(verdicts.c.mask).where(verdicts.c.mask.is_not(None)).distinct()
    for (digest,) in connection.execute(drawn):
        yield station.path(MASKS, digest, MASK_SUFFIX).relative_to(station.folder).as_posix(), digest


def _copy_sqlite(source: Path, target: Path) -> None:
    """Copy a data base at one moment. InputError where it is damaged."""
    try:
        with (
            closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True)) as original,
            closing(sqlite3.connect(target)) as copy,
        ):
            original.backup(copy)
    except sqlite3.Error as error:
        raise InputError(f"cannot copy {source}: {error}; check the disk, or restore a backup") from None
    _check_sqlite(target)


def _check_sqlite(path: Path) -> None:
    try:
        with closing(sqlite3.connect(path)) as connection:
            (result,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.Error as error:
        result = str(error)
    if result != "ok":
        raise InputError(f"the data base is damaged ({result:.100}): take an older backup")


def restore(source: str | os.PathLike[str], settings: Settings) -> Contents:
    """Restore a station from a backup into an empty folder. Where PostgreSQL has its data base, the files.

    Raises:
        InputError: the file is no whole backup, or the folder is not empty. Nothing is left.
        FlawscopeError: the folder cannot be written. Nothing is left.
    """
    path, home = Path(source), Path(settings.store)
    if not path.is_file():
        raise InputError(f"there is no backup {path}: check the path")
    is_new, folder = not home.exists(), home / f".restored{files.PARTIAL_SUFFIX}"
    try:
        if not is_new and {entry.name for entry in home.iterdir()} - IGNORED_ENTRIES:
            raise InputError(f"{home} is not empty: nothing is overwritten, choose another folder")
        folder.mkdir(mode=0o700, parents=True)
        contents = _unpack(path, folder)
        has_database = (folder / DATABASE_FILE).exists()
        if has_database and settings.database is not None:
            raise InputError(f"{path} is of a station with SQLite: leave `database` out")
        if not has_database and settings.database is None:
            raise InputError(f"{path} is of a station with PostgreSQL: name its `database` with --settings")
        if settings.database is None:
            _check_sqlite(folder / DATABASE_FILE)
        for entry in list(folder.iterdir()):
            entry.rename(home / entry.name)
    except (tarfile.TarError, EOFError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is damaged, or no backup: take another one; nothing was restored") from None
    except OSError as error:
        raise FlawscopeError(f"cannot write {home}: {error.strerror}; nothing was restored") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if is_new:
            with suppress(OSError):  # it was restored
                home.rmdir()
    return contents


def _unpack(path: Path, folder: Path) -> Contents:
    contents = Contents(bytes=path.stat().st_size)
    with tarfile.open(path, "r:") as tar:
        while (part := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]  # there may be millions
            if not part.isreg():
                raise ValueError("it holds a link or a device")
            tar.extract(part, folder, filter="data")
            contents.files += part.name not in (DATABASE_FILE, IDENTITY_FILE)
            if part.name.startswith((PICTURES, MASKS)):
                with open(folder / part.name, "rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
                contents.missing += [part.name] * (digest != Path(part.name).stem)
    if not (folder / IDENTITY_FILE).exists():
        raise ValueError("it ends early")
    return contents
