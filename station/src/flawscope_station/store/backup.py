"""Backup of a station to one file: a copy of the data base at one moment, then the files that it names.

Files are named by their content and never change, so the station keeps running meanwhile. The end of a backup
lists all its parts in order, with sizes and hashes: a backup is restored whole or not at all.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, BinaryIO

from sqlalchemy import Connection, Subquery, Table, func, select, update

from flawscope import __version__
from flawscope.artefact import files
from flawscope.errors import FlawscopeError, InputError, pluralize
from flawscope_station.settings.station import DATABASE_FILE, Settings
from flawscope_station.store import dump
from flawscope_station.store.database import Database, now
from flawscope_station.store.files import MASK_SUFFIX, MASKS, MODELS, PICTURES, Files, StrayFiles
from flawscope_station.store.records import iso
from flawscope_station.store.schema import inspections, pictures, products, users, verdicts, versions
from flawscope_station.store.station_identity import adopt_identity

FORMAT = 1
LIST_FILE, FACTS_FILE = "list.jsonl", "backup.json"  # the last two parts
MAX_FACTS_BYTES = 1 << 20  # bytes
BLOCK_BYTES = 1 << 20
ROWS_PER_QUERY = 500
IS_PRESENT = pictures.c.removed_at.is_(None)  # condition that a picture was not removed
CONTENT_PATTERN = re.compile(rf"(?:{PICTURES}|{MASKS})/([0-9a-f]{{3}})/(\1[0-9a-f]{{61}})\.[a-z0-9]{{1,7}}")
MODEL_PATTERN = re.compile(rf"{MODELS}/[0-9a-f]{{16}}/(?!\.{{1,2}}$)[^/\\\0]{{1,255}}")
IGNORED_ENTRIES = {"lost+found"}  # entries that an empty folder may have


@dataclass
class Contents:
    """Contents of a backup, counted.

    Attributes:
        pictures: picture files in the backup.
        left_out: files that the data base names and the backup lacks: their pictures were removed meanwhile,
            as the setting `keep` says.
        damaged: names of files that are missing, or whose content has changed.
    """

    products: int = 0
    versions: int = 0
    inspections: int = 0
    users: int = 0
    pictures: int = 0
    bytes: int = 0
    left_out: int = 0
    damaged: list[str] = field(default_factory=list)

    def line(self) -> str:
        counts = {"product": self.products, "model version": self.versions, "inspection": self.inspections}
        counts |= {"picture": self.pictures, "user": self.users}
        return f"{', '.join(pluralize(n, thing) for thing, n in counts.items())}; {self.bytes / 1e6:.1f} MB"


# ----------------------------------------------------------------------------------------------------- backup


def backup(settings: Settings, target: str | os.PathLike[str]) -> Contents:
    """Write a station, which may be running, to a new file.

    Raises:
        InputError: there is no such station, or the file exists.
        FlawscopeError: the file cannot be written.
    """
    path, home = Path(target).absolute(), Path(settings.store)
    if not path.parent.is_dir():
        raise InputError(f"there is no folder {path.parent}: make it first")
    if not home.is_dir() or (settings.database is None and not (home / DATABASE_FILE).is_file()):
        raise InputError(f"there is no station in {home}: name its folder with --station, or --settings FILE")
    _check_absent(path)
    try:
        with (
            tempfile.TemporaryDirectory(
                dir=path.parent, prefix=".backup-", suffix=files.PARTIAL_SUFFIX
            ) as folder,
            dump.copy_database(settings, Path(folder)) as (copy, connection),
            files.atomic_write(path) as file,
        ):
            if hasattr(os, "fchmod"):  # it holds password hashes
                os.fchmod(file.fileno(), 0o600)
            contents = _write(file, settings, copy, connection)
            _check_absent(path)
    except OSError as error:
        raise FlawscopeError(f"cannot write {path}: {error.strerror or error}; free some space") from None
    files.sync_folder(path.parent)
    return contents


def _check_absent(path: Path) -> None:
    if path.exists():
        raise InputError(f"{path} exists, and a backup is never overwritten: choose another name")


def _write(file: BinaryIO, settings: Settings, copy: Path, connection: Connection) -> Contents:
    contents, home = count_records(connection), Path(settings.store)
    contents.pictures, missing = 0, list[tuple[str, str]]()
    with tempfile.TemporaryFile() as lines, tarfile.open(fileobj=file, mode="w") as tar:

        def add(source: Path, name: str, digest: str | None = None) -> bool:
            """Add a file to the backup. False where the file is missing, or has another content."""
            try:
                with open(source, "rb") as data:
                    found = hashlib.file_digest(data, "sha256").hexdigest()
                    if digest not in (None, found):
                        return False
                    size = data.tell()
                    data.seek(0)
                    tar.addfile(_tar_member(name, size), data)
            except FileNotFoundError:
                return False
            lines.write(_list_line(name, size, found))
            contents.bytes += size
            return True

        add(copy, copy.name)
        for model, digest in _model_files(connection):
            parts = [home / model] + [(home / model).with_suffix(".bin")] * model.lower().endswith(".xml")
            if _hash_files(parts) != digest:
                contents.damaged.append(model)
                continue
            for part in parts:
                add(part, part.relative_to(home).as_posix())
        for name, digest in _content_files(connection, Files(home)):
            if not add(home / name, name, digest):
                missing.append((name, digest))
            elif name.startswith(PICTURES):
                contents.pictures += 1
        contents.damaged += sorted(_still_needed(settings, missing)) if missing else []
        contents.left_out = sum(name not in contents.damaged for name, _ in missing)
        size = lines.tell()
        lines.seek(0)
        facts = {"format": FORMAT, "flawscope": __version__, "made_at": iso(now())}
        text = json.dumps({**facts, "list": _hash_and_copy(lines), "holds": asdict(contents)}).encode()
        lines.seek(0)
        tar.addfile(_tar_member(LIST_FILE, size), lines)
        tar.addfile(_tar_member(FACTS_FILE, len(text)), io.BytesIO(text))
    return contents


def _tar_member(name: str, size: int) -> tarfile.TarInfo:
    part = tarfile.TarInfo(name)
    part.size, part.mode, part.mtime = size, 0o600, now() // 1_000_000
    return part


def _list_line(name: str, size: int, digest: str) -> bytes:
    """Line of `list.jsonl` for a part."""
    return json.dumps([name, size, digest]).encode() + b"\n"


def _hash_files(parts: list[Path]) -> str | None:
    """SHA-256 of the files, one after another, as in `versions.hash`; None where a file is missing."""
    with ExitStack() as opened:
        try:
            return _hash_and_copy(*(opened.enter_context(open(part, "rb")) for part in parts))
        except FileNotFoundError:
            return None


def _hash_and_copy(*sources: IO[bytes], target: IO[bytes] | None = None) -> str:
    """SHA-256 of the rest of the sources, one after another, which is copied to the target."""
    digest = hashlib.sha256()
    for source in sources:
        while block := source.read(BLOCK_BYTES):
            digest.update(block)
            if target is not None:
                target.write(block)
    return digest.hexdigest()


# ------------------------------------------------------------------------------------- what a data base names


def count_records(connection: Connection) -> Contents:
    """Count the records in a data base."""

    def rows(table: Table | Subquery) -> int:
        return int(connection.execute(select(func.count()).select_from(table)).scalar_one())

    there = select(pictures.c.hash).distinct().where(IS_PRESENT).subquery()
    return Contents(rows(products), rows(versions), rows(inspections), rows(users), rows(there))


def _model_files(connection: Connection) -> list[tuple[str, str]]:
    """File and hash of each model; products may share one."""
    query = select(versions.c.file, versions.c.hash).distinct()
    return [(row.file, row.hash) for row in connection.execute(query.order_by(versions.c.file))]


def _content_files(connection: Connection, files: Files) -> Iterator[tuple[str, str]]:
    """Name and hash of each picture and mask."""
    there = select(pictures.c.hash, pictures.c.suffix).distinct().where(IS_PRESENT)
    streamed = connection.execution_options(yield_per=ROWS_PER_QUERY)
    for row in streamed.execute(there.order_by(pictures.c.hash)):
        yield files.path(PICTURES, row.hash, row.suffix).relative_to(files.folder).as_posix(), row.hash
    drawn = select(verdicts.c.mask).where(verdicts.c.mask.is_not(None)).distinct().order_by(verdicts.c.mask)
    for mask in connection.execute(drawn).scalars().all():
        yield files.path(MASKS, mask, MASK_SUFFIX).relative_to(files.folder).as_posix(), mask


def _still_needed(settings: Settings, missing: list[tuple[str, str]]) -> set[str]:
    """Return the names of the missing files that the station still needs; the rest were removed meanwhile."""
    database = Database(settings.url)
    try:
        strays = StrayFiles(database, Files(settings.store), lambda seconds: None)
        return {name for name, digest in missing if strays.needed_hashes(name.split("/")[0], [digest])}
    finally:
        database.close()


# ---------------------------------------------------------------------------------------------------- restore


def restore(source: str | os.PathLike[str], settings: Settings) -> Contents:
    """Restore a station from a backup into an empty folder and an empty data base; count what it holds.

    Raises:
        InputError: the file is no backup or damaged, or folder or data base is not empty. Nothing is left.
        FlawscopeError: the folder or data base cannot be written. Nothing is left.
    """
    path = Path(source)
    if not path.is_file():
        raise InputError(f"there is no backup {path}: check the path")
    with _new_folder(Path(settings.store)) as folder:
        new_settings = replace(settings, store=str(folder))
        copy, size = _open_and_unpack(path, new_settings)
        dump.restore_database(new_settings, copy)
        try:
            contents = _open_restored(new_settings)
        except BaseException:
            dump.drop_tables(settings)
            raise
    contents.bytes = size
    return contents


@contextmanager
def _new_folder(home: Path) -> Iterator[Path]:
    """Make a temporary folder in `home`, which is empty or new. When the block ends well, the contents of the
    folder move up to `home`; else all is as it was before."""
    is_new = not home.exists()
    folder = home / f".restored{files.PARTIAL_SUFFIX}"
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        if {entry.name for entry in home.iterdir()} - IGNORED_ENTRIES:
            raise InputError(f"{home} is not empty: nothing is overwritten, choose another folder")
        folder.mkdir(mode=0o700)
    except OSError as error:
        raise InputError(f"{home} cannot be made: {error.strerror}; choose another folder") from None
    try:
        yield folder
        for one in list(folder.iterdir()):
            one.rename(home / one.name)
        if hasattr(os, "sync"):
            os.sync()
    except OSError as error:
        raise FlawscopeError(f"cannot write {home}: {error.strerror}; nothing was restored") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if is_new:
            with suppress(OSError):  # the folder is not empty
                home.rmdir()


def _open_and_unpack(path: Path, settings: Settings) -> tuple[Path, int]:
    """Unpack a backup into the station's folder. Returns the data base's copy, and the bytes of all parts."""
    home = Path(settings.store)
    if shutil.disk_usage(home).free < (size := path.stat().st_size):
        raise InputError(f"{path} needs {size / 1e6:.0f} MB, and the disk of {home.parent} has less")
    try:
        with tarfile.open(path, "r:") as tar:
            return _unpack(path, tar, settings)
    except (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise _damaged_error(path, "it ends early, or is no backup") from None


def _unpack(path: Path, tar: tarfile.TarFile, settings: Settings) -> tuple[Path, int]:
    listed, size = hashlib.sha256(), 0
    copy: Path | None = None
    parts = _tar_members(path, tar)
    for part, data in parts:
        if part.name == LIST_FILE:
            break
        target = Path(settings.store, part.name)
        content = CONTENT_PATTERN.fullmatch(part.name)
        if copy is None:
            if part.name not in dump.COPY_NAMES:
                raise _damaged_error(path, "it begins with no data base")
            dump.check_empty(settings, part.name)
            copy = target = target.with_suffix(files.PARTIAL_SUFFIX)
        elif not (content or MODEL_PATTERN.fullmatch(part.name)):  # only names that a station gives
            raise _damaged_error(path, f"{part.name!r:.60} is no part of a station")
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(target, "xb") as file:
            digest = _hash_and_copy(data, target=file)
        if content and content[2] != digest:
            raise _damaged_error(path, f"{part.name!r:.60} is not what it was")
        listed.update(_list_line(part.name, part.size, digest))
        size += part.size
    else:
        raise _damaged_error(path, "its end is missing")
    kept = _hash_and_copy(data)
    part, data = next(parts, (part, data))
    if copy is None or part.name != FACTS_FILE or part.size > MAX_FACTS_BYTES:
        raise _damaged_error(path, "its end is missing")
    try:
        facts = json.loads(data.read())
        found_format, expected, by = facts["format"], facts["list"], facts["flawscope"]
    except (ValueError, KeyError, TypeError):
        raise _damaged_error(path, "its end is not what it was") from None
    if found_format != FORMAT:
        raise InputError(f"{path} was made by flawscope {by!s:.20}: restore it with that one")
    if not listed.hexdigest() == kept == expected or next(parts, None):
        raise _damaged_error(path, "its parts are not what they were")
    return copy, size


def _tar_members(path: Path, tar: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, IO[bytes]]]:
    """Parts of a backup, each with its data. InputError for links, devices and sparse files."""
    while (part := tar.next()) is not None:
        tar.members = []  # type: ignore[attr-defined]  # there may be millions
        data = tar.extractfile(part) if part.isreg() and not part.issparse() else None
        if data is None:
            raise _damaged_error(path, f"{part.name!r:.60} is no part of a station")
        yield part, data


def _damaged_error(path: Path, why: str) -> InputError:
    return InputError(f"{path} is damaged ({why}): copy it again, or take another one; nothing was restored")


def _open_restored(settings: Settings) -> Contents:
    """Open the restored station and count its records. Pictures that the backup lacks are marked removed."""
    files, database = Files(settings.store), Database(settings.url)
    try:
        database.migrate()
        adopt_identity(database, files)
        with database.writing() as connection:
            query = select(pictures.c.hash, pictures.c.suffix).distinct().where(IS_PRESENT)
            rows = connection.execute(query, execution_options={"yield_per": ROWS_PER_QUERY})
            gone = [row.hash for row in rows if not files.path(PICTURES, *row).exists()]
            for start in range(0, len(gone), ROWS_PER_QUERY):
                change = update(pictures).where(pictures.c.hash.in_(gone[start : start + ROWS_PER_QUERY]))
                connection.execute(change.values(removed_at=now()))
            return count_records(connection)
    finally:
        database.close()
