"""A station from a backup. What is restored is what was kept, or nothing is."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import select, update

from flawscope.errors import FlawscopeError, InputError
from flawscope.station.settings.station import DATABASE, Settings
from flawscope.station.store import dump
from flawscope.station.store.backup import BLOCK, CONTENT, FACTS, FORMAT, LIST, MODEL, Held, counted_in
from flawscope.station.store.database import Database, now
from flawscope.station.store.files import IDENTITY, MAPS, MASKS, MODELS, PART, PICTURES, Files
from flawscope.station.store.schema import pictures
from flawscope.station.store.stations import taken_over

MOST_FACTS, MOST_LINE = 1 << 20, 1 << 13  # bytes
TOGETHER = 500
IGNORED = {"lost+found"}  # in a folder that is empty
OWN = (PICTURES, MASKS, MAPS, MODELS, DATABASE, IDENTITY)  # what a restored folder holds


@dataclass(frozen=True)
class _End:
    """What the end of a backup says. start, size: of the list, in the file. bytes: of all that is listed."""

    start: int
    size: int
    copy: str
    bytes: int


def restore(source: str | os.PathLike[str], settings: Settings) -> Held:
    """Make a station from a backup, in a folder and a data base that are empty; what it holds.

    Raises:
        InputError: the file is no backup or damaged, or the station's place is not empty. Nothing is left.
        FlawscopeError: the place cannot be written. Nothing is left.
    """
    path, home = Path(source), Path(settings.store)
    end = _looked_through(path)
    dump.check_empty(settings, end.copy)
    with _whole_or_nothing(home):
        if shutil.disk_usage(home).free < end.bytes:
            raise InputError(f"{path} needs {end.bytes / 1e6:.0f} MB, and the disk of {home} has less")
        _extract(path, end, home)
        if hasattr(os, "sync"):
            os.sync()
        dump.restored(settings, home / _beginning(end.copy))
        try:
            held = _opened_again(settings)
        except BaseException:
            dump.emptied(settings)
            raise
    held.bytes = end.bytes
    return held


# --------------------------------------------------------------------------------------------------- the file


@contextmanager
def _opened(path: Path) -> Iterator[tarfile.TarFile]:
    """InputError where it cannot be read, whatever the reason."""
    try:
        if not path.is_file():
            raise InputError(f"there is no backup {path}: check the path")
        with tarfile.open(path, "r:") as tar:
            yield tar
    except (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise _damaged(path, "it ends early, or is no backup") from None


def _damaged(path: Path, why: str) -> InputError:
    return InputError(f"{path} is damaged ({why}): copy it again, or take another one; nothing was restored")


def _looked_through(path: Path) -> _End:
    """The end, checked against itself; the parts before it are passed over."""
    with _opened(path) as tar:
        listed = last = None
        while (part := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]  # there may be millions
            listed, last = last, part
        if listed is None or last is None or (listed.name, last.name) != (LIST, FACTS):
            raise _damaged(path, "its end is missing")
        if not (_is_plain(listed) and _is_plain(last) and last.size <= MOST_FACTS):
            raise _damaged(path, "its end is not what it was")
        text = tar.extractfile(last)
        assert text is not None
        try:
            facts = json.loads(text.read())
            made, digest, by = facts["format"], facts["list"], facts["flawscope"]
        except (ValueError, KeyError, TypeError):
            raise _damaged(path, "its end is not what it was") from None
    if made != FORMAT:
        raise InputError(f"{path} was made by flawscope {by!s:.20}: restore it with that one")
    found = hashlib.sha256()
    with open(path, "rb") as file:
        file.seek(listed.offset_data)
        left = listed.size
        while block := file.read(min(left, BLOCK)):
            found.update(block)
            left -= len(block)
    if found.hexdigest() != digest:
        raise _damaged(path, "its list is not what it was")
    lines = _listed(path, listed.offset_data, listed.size)
    name, size, _ = next(lines, ("", 0, ""))
    if name not in dump.COPIES:
        raise _damaged(path, "it begins with no data base")
    return _End(listed.offset_data, listed.size, name, size + sum(size for _, size, _ in lines))


def _is_plain(part: tarfile.TarInfo) -> bool:
    """A file: no link, device or hole."""
    return part.isreg() and not part.issparse()


def _listed(path: Path, start: int, size: int) -> Iterator[tuple[str, int, str]]:
    """Name, bytes and hash of each part, in order."""
    with open(path, "rb") as file:
        file.seek(start)
        while file.tell() < start + size:
            try:
                name, count, digest = json.loads(file.readline(MOST_LINE))
            except (ValueError, TypeError):
                raise _damaged(path, "its list cannot be read") from None
            known = isinstance(name, str) and isinstance(count, int) and isinstance(digest, str)
            if not known or count < 0:
                raise _damaged(path, "its list cannot be read")
            yield name, count, digest


def _beginning(copy: str) -> str:
    """Of the data base, until all is there: without it the folder is no station."""
    return f".{copy}{PART}"


def _place(path: Path, name: str, digest: str, is_first: bool) -> str:
    """Where a part goes, below the station's folder. Only names that a station itself gives are taken: none
    leads out of it."""
    if is_first:
        return _beginning(name)
    content, model = CONTENT.fullmatch(name), MODEL.fullmatch(name)
    inside = model is not None and model[1] not in (".", "..")
    if not inside and (content is None or content[2] != digest):
        raise _damaged(path, f"{name!r:.60} is no part of a station")
    return name


def _extract(path: Path, end: _End, home: Path) -> None:
    with _opened(path) as tar:
        is_first = True
        for name, size, digest in _listed(path, end.start, end.size):
            part = tar.next()
            tar.members = []  # type: ignore[attr-defined]
            if part is None or part.name != name or part.size != size or not _is_plain(part):
                raise _damaged(path, f"{name!r:.60} is not what it was")
            target = home / _place(path, name, digest, is_first)
            is_first = False
            data, found = tar.extractfile(part), hashlib.sha256()
            assert data is not None
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(target, "xb") as file:
                while block := data.read(BLOCK):
                    found.update(block)
                    file.write(block)
            if found.hexdigest() != digest:
                raise _damaged(path, f"{name!r:.60} is not what it was")
        part = tar.next()
        if part is None or part.name != LIST:
            raise _damaged(path, "it holds what its list does not name")


# -------------------------------------------------------------------------------------------------- the place


@contextmanager
def _whole_or_nothing(home: Path) -> Iterator[None]:
    """Files are made in a folder that is empty, or not there; if that fails it is so again."""
    new = not home.exists()
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        there = {entry.name for entry in home.iterdir()} - IGNORED
    except OSError as error:
        raise InputError(f"{home} cannot be made: {error.strerror}; choose another folder") from None
    if there:
        raise InputError(f"{home} is not empty: nothing is overwritten, choose another folder")
    try:
        yield
    except BaseException as error:
        for name in (*OWN, *map(_beginning, dump.COPIES), *(f"{DATABASE}{end}" for end in ("-wal", "-shm"))):
            shutil.rmtree(home / name, ignore_errors=True)
            with suppress(OSError):
                (home / name).unlink()
        if new:
            with suppress(OSError):
                home.rmdir()
        if isinstance(error, OSError):
            raise FlawscopeError(f"cannot write {home}: {error.strerror}; nothing was restored") from None
        raise


def _opened_again(settings: Settings) -> Held:
    """What the new station holds. Pictures that the backup does not have are written down as removed."""
    files, database = Files(settings.store), Database(settings.url, settings.name)
    try:
        database.migrate()
        taken_over(database, files)
        own = database.own()
        last = ""
        while rows := _some_pictures(database, last):
            last = rows[-1].hash
            gone = [row.hash for row in rows if not files.path(PICTURES, row.hash, row.suffix).exists()]
            if gone:
                with database.writing() as connection:
                    theirs = pictures.c.hash.in_(gone), pictures.c.product_id.in_(own)
                    connection.execute(update(pictures).where(*theirs).values(removed_at=now()))
        with database.reading() as connection:
            return counted_in(connection, own)
    finally:
        database.close()


def _some_pictures(database: Database, after: str) -> list[Any]:
    query = (
        select(pictures.c.hash, pictures.c.suffix)
        .distinct()
        .where(
            pictures.c.hash > after,
            pictures.c.removed_at.is_(None),
            pictures.c.product_id.in_(database.own()),
        )
    )
    with database.reading() as connection:
        return list(connection.execute(query.order_by(pictures.c.hash).limit(TOGETHER)))
