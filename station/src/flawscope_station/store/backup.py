"""Backup of a station to an archive: SQLite's database at one moment, the folder's files, and the settings.

Pictures, masks and models are named by their content and never change, so the station keeps running
meanwhile. The database is copied first and written last, before the folder's identity: an archive with the
identity is complete. A PostgreSQL database needs pg_dump.
"""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path

from flawscope.artefact import files
from flawscope.errors import FlawscopeError, InputError
from flawscope_station.settings.station import DATABASE_FILE, Settings
from flawscope_station.store.files import BACKUP_FILE, IDENTITY_FILE, LOCK_FILE, MAPS, Files

SETTINGS = "settings"  # folder of the settings file and those that it includes, in a backup
KEPT_TABLES = "tables-"  # begins the folder of the tables that others took the place of
# maps can be computed again; -wal and -shm are in the copy; other tables are of earlier
LEFT_OUT = (DATABASE_FILE, IDENTITY_FILE, LOCK_FILE, MAPS, BACKUP_FILE, KEPT_TABLES, SETTINGS)
IGNORED_ENTRIES = {"lost+found"}  # entries that an empty folder may have


def backup(
    settings: Settings,
    target: str | os.PathLike[str],
    *,
    tables_only: bool = False,
    settings_files: Sequence[Path] = (),
) -> int:
    """Write a station, which may be running, to a new file; of a station with PostgreSQL only its files.

    Args:
        settings: Settings of the station.
        target: Path of the new file.
        tables_only: Copy SQLite's database alone, as before an upgrade, which changes no picture and no
            model.
        settings_files: Settings files of the station; the first includes the others. Passwords are in files
            of their own, which are not copied.

    Returns:
        The number of bytes written.

    Raises:
        InputError: there is no such station, its database cannot be read, or the file exists.
        FlawscopeError: the file cannot be written.
    """
    path = Path(target).absolute()
    home = Path(settings.store)
    has_database = settings.database is None
    _check_target(path, home, has_database)
    if tables_only and not has_database:
        raise InputError("the tables of this station are PostgreSQL's: copy them with pg_dump")
    Files(home).identity()
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".", suffix=files.PARTIAL_SUFFIX) as folder:
            copy = Path(folder, DATABASE_FILE)
            if has_database:
                _copy_sqlite(home / DATABASE_FILE, copy)
            size = _write(path, home, copy if has_database else None, tables_only, settings_files)
    except OSError as error:
        raise FlawscopeError(f"cannot write {path}: {error.strerror or error}; free some space") from None
    files.sync_folder(path.parent)
    if not tables_only:
        with suppress(OSError):
            (home / BACKUP_FILE).touch()
    return size


def _write(
    path: Path, home: Path, database: Path | None, tables_only: bool, settings_files: Sequence[Path]
) -> int:
    """Write the archive; return its bytes.

    Args:
        path: Path of the archive.
        home: Folder of the station.
        database: Copy of SQLite's database; None: the station has none.
        tables_only: Leave the files out.
        settings_files: Settings files of the station.
    """
    with files.atomic_write(path) as file:
        if hasattr(os, "fchmod"):  # it holds password hashes
            os.fchmod(file.fileno(), 0o600)
        with tarfile.open(fileobj=file, mode="w") as tar:
            if not tables_only:
                _add_files(tar, home)
            _add_settings(tar, settings_files)
            if database is not None:
                tar.add(database, DATABASE_FILE)
            tar.add(home / IDENTITY_FILE, IDENTITY_FILE)
        return file.tell()


def _check_target(path: Path, home: Path, has_database: bool) -> None:
    """Raise InputError where there is no station, or its backup cannot be this file."""
    if not path.parent.is_dir():
        raise InputError(f"there is no folder {path.parent}: make it first")
    if not home.is_dir() or (has_database and not (home / DATABASE_FILE).is_file()):
        raise InputError(f"there is no station in {home}: name its folder with --station, or --settings FILE")
    if path.exists():
        raise InputError(f"{path} exists, and a backup is never overwritten: choose another name")
    if home.resolve() in path.resolve().parents:
        raise InputError(f"{path} lies in the station's folder, which it is a copy of: choose another folder")


def _add_files(tar: tarfile.TarFile, home: Path) -> None:
    """Add the files of a station's folder, except those that are added apart or can be made again."""
    for path in home.rglob("*"):
        place = path.relative_to(home)
        if place.parts[0].startswith(LEFT_OUT):
            continue
        with suppress(FileNotFoundError):  # removed meanwhile, as `keep` says
            tar.add(path, place, recursive=False)
        tar.members = []  # type: ignore[attr-defined]  # there may be millions


def _add_settings(tar: tarfile.TarFile, settings_files: Sequence[Path]) -> None:
    """Add the settings file and the files that it includes, with numbers: two may have the same name."""
    for number, file in enumerate(settings_files):
        name = f"{number}-{file.name}" if number else file.name
        tar.add(file, f"{SETTINGS}/{name}")


def _copy_sqlite(source: Path, target: Path) -> None:
    """Copy a database as it is at one moment.

    Raises:
        InputError: it is damaged.
        OSError: the copy has no room.
    """
    try:
        with (
            closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True)) as original,
            closing(sqlite3.connect(target)) as copy,
        ):
            original.backup(copy)
            check_sqlite(copy)
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from None
        raise InputError(f"cannot copy {source}: {error}; check the disk, or restore a backup") from None


def check_sqlite(connection: sqlite3.Connection) -> None:
    """Raise sqlite3.Error where a data base is damaged."""
    (result,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if result != "ok":
        raise sqlite3.DatabaseError(f"it is damaged ({result:.100})")


def restore_tables(source: str | os.PathLike[str], settings: Settings) -> Path:
    """Replace a station's tables by those of its backup; the station must not run.

    The present tables are kept, with their copies from before migrations; tables that an earlier restore kept
    are removed.

    Args:
        source: Backup of the same station.
        settings: Settings of the station.

    Returns:
        The folder of the tables that were replaced.

    Raises:
        InputError: the file is no such backup; nothing has changed.
        FlawscopeError: the folder cannot be written.
    """
    home = Path(settings.store)
    files_of_station = Files(home)
    files_of_station.lock()
    try:
        with tempfile.TemporaryDirectory(dir=home, prefix=".", suffix=files.PARTIAL_SUFFIX) as folder:
            with tarfile.open(source, "r:") as tar:
                tar.extract(DATABASE_FILE, folder, filter="data")
                tar.extract(IDENTITY_FILE, folder, filter="data")
            if (Path(folder) / IDENTITY_FILE).read_bytes() != (home / IDENTITY_FILE).read_bytes():
                raise InputError(f"{source} is of another station: name a backup of this one")
            with closing(sqlite3.connect(Path(folder) / DATABASE_FILE)) as connection:
                check_sqlite(connection)
            kept = Path(tempfile.mkdtemp(dir=home, prefix=KEPT_TABLES, suffix=""))
            for path in home.glob(f"{DATABASE_FILE}*"):  # with copies from before migrations: of these tables
                path.rename(kept / path.name)
            for older in home.glob(f"{KEPT_TABLES}*"):
                if older != kept:
                    shutil.rmtree(older, ignore_errors=True)
            (Path(folder) / DATABASE_FILE).rename(home / DATABASE_FILE)
    except (tarfile.TarError, KeyError, EOFError, sqlite3.Error):
        raise InputError(
            f"{source} is damaged, or no backup: take another one; nothing was restored"
        ) from None
    except OSError as error:
        raise FlawscopeError(f"cannot write {home}: {error.strerror}") from None
    finally:
        files_of_station.unlock()
    files.sync_folder(home)
    return kept


def members_of(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the members of an archive in order, without keeping them in memory: there may be millions."""
    while (part := tar.next()) is not None:
        tar.members = []  # type: ignore[attr-defined]
        yield part


def restore(source: str | os.PathLike[str], settings: Settings) -> int:
    """Restore a station from a backup into an empty folder; with PostgreSQL only its files.

    Args:
        source: Backup file.
        settings: Settings of the station.

    Returns:
        The backup's bytes.

    Raises:
        InputError: the file is no whole backup, or the folder is not empty. Nothing is left.
        FlawscopeError: the folder cannot be written. Nothing is left.
    """
    path = Path(source)
    home = Path(settings.store)
    if not path.is_file():
        raise InputError(f"there is no backup {path}: check the path")
    is_new = not home.exists()
    folder = home / f".restored{files.PARTIAL_SUFFIX}"
    try:
        if not is_new and {entry.name for entry in home.iterdir()} - IGNORED_ENTRIES:
            raise InputError(f"{home} is not empty: nothing is overwritten, choose another folder")
        folder.mkdir(mode=0o700, parents=True)
        _unpack(path, folder)
        _check_unpacked(path, folder, settings)
        for entry in list(folder.iterdir()):
            entry.rename(home / entry.name)
    except (tarfile.TarError, EOFError, sqlite3.Error):
        raise InputError(f"{path} is damaged, or no backup: take another one; nothing was restored") from None
    except OSError as error:
        raise FlawscopeError(f"cannot write {home}: {error.strerror}; nothing was restored") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if is_new:
            with suppress(OSError):  # fails, as it should, where the files are in it now
                home.rmdir()
    return path.stat().st_size


def _unpack(path: Path, folder: Path) -> None:
    """Unpack a backup into a folder.

    Raises:
        EOFError: the backup was cut off: its end is missing.
    """
    with tarfile.open(path, "r:") as tar:
        for part in members_of(tar):
            tar.extract(part, folder, filter="data")
    if not (folder / IDENTITY_FILE).exists():
        raise EOFError


def _check_unpacked(path: Path, folder: Path, settings: Settings) -> None:
    """Check that an unpacked backup fits the station.

    Raises:
        InputError: it is of a station with the other kind of database.
        sqlite3.Error: its database is damaged.
    """
    has_database = (folder / DATABASE_FILE).exists()
    if has_database and settings.database is not None:
        raise InputError(f"{path} is of a station with SQLite: leave `database` out")
    if not has_database and settings.database is None:
        raise InputError(f"{path} is of a station with PostgreSQL: name its `database` with --settings")
    if has_database:
        with closing(sqlite3.connect(folder / DATABASE_FILE)) as connection:
            check_sqlite(connection)
