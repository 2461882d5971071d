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

SETTINGS = "settings"  # folder in a backup: the settings file and the files that it includes
REPLACED_TABLES = "tables-"  # prefix of the folder into which a restore moves the present tables
# Beginnings of the names that `_add_files` leaves out: files that are added apart (database, identity,
# settings), that can be made again (maps), and that are of no use in a backup
OMITTED_PREFIXES = (DATABASE_FILE, IDENTITY_FILE, LOCK_FILE, MAPS, BACKUP_FILE, REPLACED_TABLES, SETTINGS)
IGNORED_ENTRIES = {"lost+found"}  # entries that a folder may have and still count as empty


def backup(
    settings: Settings,
    target: str | os.PathLike[str],
    *,
    tables_only: bool = False,
    settings_files: Sequence[Path] = (),
) -> int:
    """Back up a station, which may be running, to a new file.

    If the station has PostgreSQL, the backup does not contain its tables.

    Args:
        settings: Settings of the station.
        target: Path of the new file.
        tables_only: Whether to copy only SQLite's database. This is enough before an upgrade, which changes
            no pictures and no models.
        settings_files: Settings files of the station; the first includes the others. Passwords are in other
            files, which are not copied.

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
    Files(home).identity()  # makes the identity if it is missing: the backup needs it
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".", suffix=files.PARTIAL_SUFFIX) as folder:
            copy = Path(folder, DATABASE_FILE)
            if has_database:
                _copy_sqlite(home / DATABASE_FILE, copy)
            database = copy if has_database else None
            size = _write(path, home, database, tables_only=tables_only, settings_files=settings_files)
    except OSError as error:
        raise FlawscopeError(f"cannot write {path}: {error.strerror or error}; free some space") from None
    files.sync_folder(path.parent)
    if not tables_only:
        with suppress(OSError):
            (home / BACKUP_FILE).touch()
    return size


def _write(
    path: Path, home: Path, database: Path | None, *, tables_only: bool, settings_files: Sequence[Path]
) -> int:
    """Write the archive; return its size in bytes.

    Args:
        path: Path of the archive.
        home: Folder of the station.
        database: Path of a copy of SQLite's database; None: the station has PostgreSQL.
        tables_only: Whether to leave the files of the station's folder out.
        settings_files: Settings files of the station.
    """
    with files.atomic_write(path) as file:
        if hasattr(os, "fchmod"):  # the archive holds password hashes: only its owner may read it
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
    """Raise InputError if there is no station in the folder `home`, or if `path` cannot be its backup.

    Args:
        path: Path of the new backup.
        home: Folder of the station.
        has_database: Whether the station has SQLite, so that its database lies in the folder.
    """
    if not path.parent.is_dir():
        raise InputError(f"there is no folder {path.parent}: make it first")
    if not home.is_dir() or (has_database and not (home / DATABASE_FILE).is_file()):
        raise InputError(f"there is no station in {home}: name its folder with --station, or --settings FILE")
    if path.exists():
        raise InputError(f"{path} exists, and a backup is never overwritten: choose another name")
    if home.resolve() in path.resolve().parents:
        raise InputError(f"{path} lies in the station's folder, which it is a copy of: choose another folder")


def _add_files(tar: tarfile.TarFile, home: Path) -> None:
    """Add the files of a station's folder to an archive, except those of `OMITTED_PREFIXES`."""
    for path in home.rglob("*"):
        relative_path = path.relative_to(home)
        if relative_path.parts[0].startswith(OMITTED_PREFIXES):
            continue
        with suppress(FileNotFoundError):  # the running station may have removed the file
            tar.add(path, relative_path, recursive=False)
        tar.members = []  # type: ignore[attr-defined]  # tarfile remembers each file; there may be millions


def _add_settings(tar: tarfile.TarFile, settings_files: Sequence[Path]) -> None:
    """Add the settings files to an archive.

    All names except the first get a number, because two files may have the same name.
    """
    for number, file in enumerate(settings_files):
        name = f"{number}-{file.name}" if number else file.name
        tar.add(file, f"{SETTINGS}/{name}")


def _copy_sqlite(source: Path, target: Path) -> None:
    """Copy an SQLite database in its state at one moment, and check the copy.

    Raises:
        InputError: the database is damaged.
        OSError: the disk has no room for the copy.
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
    """Raise sqlite3.Error where a database is damaged."""
    (result,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if result != "ok":
        raise sqlite3.DatabaseError(f"it is damaged ({result:.100})")


def restore_tables(source: str | os.PathLike[str], settings: Settings) -> Path:
    """Replace a station's tables by those of its backup; the station must not run.

    The present tables, and their copies from before migrations, are moved to a new folder. If earlier calls
    have made such folders, they are removed.

    Args:
        source: Backup of the same station.
        settings: Settings of the station.

    Returns:
        The folder of the tables that were replaced.

    Raises:
        InputError: the file is no backup of this station, or another station runs on the folder; nothing has
            changed.
        FlawscopeError: the folder cannot be written.
    """
    home = Path(settings.store)
    files_of_station = Files(home)
    files_of_station.lock()
    try:
        with tempfile.TemporaryDirectory(dir=home, prefix=".", suffix=files.PARTIAL_SUFFIX) as unpacked:
            with tarfile.open(source, "r:") as tar:
                tar.extract(DATABASE_FILE, unpacked, filter="data")
                tar.extract(IDENTITY_FILE, unpacked, filter="data")
            if (Path(unpacked) / IDENTITY_FILE).read_bytes() != (home / IDENTITY_FILE).read_bytes():
                raise InputError(f"{source} is of another station: name a backup of this one")
            with closing(sqlite3.connect(Path(unpacked) / DATABASE_FILE)) as connection:
                check_sqlite(connection)
            replaced_folder = Path(tempfile.mkdtemp(dir=home, prefix=REPLACED_TABLES, suffix=""))
            for path in home.glob(f"{DATABASE_FILE}*"):
                path.rename(replaced_folder / path.name)
            for earlier_folder in home.glob(f"{REPLACED_TABLES}*"):
                if earlier_folder != replaced_folder:
                    shutil.rmtree(earlier_folder, ignore_errors=True)
            (Path(unpacked) / DATABASE_FILE).rename(home / DATABASE_FILE)
    except (tarfile.TarError, KeyError, EOFError, sqlite3.Error):  # KeyError: the archive lacks a file
        raise InputError(
            f"{source} is damaged, or no backup: take another one; nothing was restored"
        ) from None
    except OSError as error:
        raise FlawscopeError(f"cannot write {home}: {error.strerror}") from None
    finally:
        files_of_station.unlock()
    files.sync_folder(home)
    return replaced_folder


def members_of(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the members of an archive in order.

    Tarfile's own list of members is emptied meanwhile, because it would grow to millions of entries.
    """
    while (member := tar.next()) is not None:
        tar.members = []  # type: ignore[attr-defined]
        yield member


def restore(source: str | os.PathLike[str], settings: Settings) -> int:
    """Restore a station from a backup into an empty folder.

    If the station has PostgreSQL, only its files are restored.

    Args:
        source: Backup file.
        settings: Settings of the station.

    Returns:
        The size of the backup in bytes.

    Raises:
        InputError: the file is no complete backup, or the folder is not empty. Nothing is restored.
        FlawscopeError: the folder cannot be written. Nothing is restored.
    """
    path = Path(source)
    home = Path(settings.store)
    if not path.is_file():
        raise InputError(f"there is no backup {path}: check the path")
    is_new_home = not home.exists()
    unpacked_folder = home / f".restored{files.PARTIAL_SUFFIX}"
    try:
        existing_names: set[str] = set() if is_new_home else {entry.name for entry in home.iterdir()}
        if existing_names - IGNORED_ENTRIES:
            raise InputError(f"{home} is not empty: nothing is overwritten, choose another folder")
        unpacked_folder.mkdir(mode=0o700, parents=True)
        _unpack(path, unpacked_folder)
        _check_unpacked(path, unpacked_folder, settings)
        for entry in list(unpacked_folder.iterdir()):
            entry.rename(home / entry.name)
    except (tarfile.TarError, EOFError, sqlite3.Error):
        raise InputError(f"{path} is damaged, or no backup: take another one; nothing was restored") from None
    except OSError as error:
        raise FlawscopeError(f"cannot write {home}: {error.strerror}; nothing was restored") from None
    finally:
        shutil.rmtree(unpacked_folder, ignore_errors=True)
        if is_new_home:
            with suppress(OSError):  # after a success the folder is not empty: `rmdir` fails, and it stays
                home.rmdir()
    return path.stat().st_size


def _unpack(path: Path, folder: Path) -> None:
    """Unpack a backup into a folder.

    Raises:
        EOFError: the end of the backup is missing.
    """
    with tarfile.open(path, "r:") as tar:
        for member in members_of(tar):
            tar.extract(member, folder, filter="data")
    if not (folder / IDENTITY_FILE).exists():  # the last file of a backup
        raise EOFError


def _check_unpacked(path: Path, folder: Path, settings: Settings) -> None:
    """Check that an unpacked backup fits the settings of the station.

    Args:
        path: Backup, for messages.
        folder: Folder into which it was unpacked.
        settings: Settings of the station.

    Raises:
        InputError: the backup is of a station with another kind of database than the settings name.
        sqlite3.Error: the database in the backup is damaged.
    """
    has_database = (folder / DATABASE_FILE).exists()
    if has_database and settings.database is not None:
        raise InputError(f"{path} is of a station with SQLite: leave `database` out")
    if not has_database and settings.database is None:
        raise InputError(f"{path} is of a station with PostgreSQL: name its `database` with --settings")
    if has_database:
        with closing(sqlite3.connect(folder / DATABASE_FILE)) as connection:
            check_sqlite(connection)
