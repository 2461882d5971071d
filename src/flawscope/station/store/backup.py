"""A station in one file: the data base as it was at one moment, then the files that it names.

Files are known by their content and never change, so the station goes on meanwhile. The end of a backup lists
all its parts with sizes and hashes, in their order: what is restored is what was kept, or it is refused.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, BinaryIO

from sqlalchemy import ColumnElement, Connection, Select, Table, func, select

from flawscope._version import __version__
from flawscope.artefact.files import atomic
from flawscope.errors import FlawscopeError, InputError
from flawscope.progress import counted
from flawscope.station.settings.station import DATABASE, Settings
from flawscope.station.store import dump
from flawscope.station.store.database import Database, now
from flawscope.station.store.files import MASK, MASKS, MODELS, PART, PICTURES, Files, sync_folder
from flawscope.station.store.records import iso
from flawscope.station.store.schema import inspections, pictures, products, users, verdicts, versions

FORMAT = 1
LIST, FACTS = "list.jsonl", "backup.json"  # the last two parts
BLOCK = 1 << 20
TOGETHER = 500
CONTENT = re.compile(rf"(?:{PICTURES}|{MASKS})/([0-9a-f]{{3}})/(\1[0-9a-f]{{61}})\.[a-z0-9]{{1,7}}")
MODEL = re.compile(rf"{MODELS}/[0-9a-f]{{16}}/([^/\\\0]{{1,255}})")


@dataclass
class Held:
    """What a backup holds.

    Attributes:
        files: pictures that are there.
        left_out: files that the data base names and that are not in the backup: their pictures were removed
            meanwhile, as `keep` says.
        damaged: those that are missing, or not what they were.
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
        return f"{', '.join(counted(n, thing) for thing, n in counts.items())}; {self.bytes / 1e6:.1f} MB"


# ----------------------------------------------------------------------------------------------------- making


def backup(settings: Settings, target: str | os.PathLike[str]) -> Held:
    """Write a station, which may be running, to a file that is not there yet.

    Raises:
        InputError: there is no such station, or the file exists.
        FlawscopeError: it cannot be written.
    """
    path, home = Path(target).absolute(), Path(settings.store)
    if not path.parent.is_dir():
        raise InputError(f"there is no folder {path.parent}: make it first")
    if not home.is_dir() or (settings.database is None and not (home / DATABASE).is_file()):
        raise InputError(f"there is no station in {home}: name its folder with --station, or --settings FILE")
    _check_new(path)
    try:
        with (
            tempfile.TemporaryDirectory(dir=path.parent, prefix=".backup-", suffix=PART) as near,
            dump.copied(settings, Path(near)) as (copy, connection, own),
            atomic(path) as file,
        ):
            if hasattr(os, "fchmod"):  # it holds what passwords are compared with
                os.fchmod(file.fileno(), 0o600)
            held = _write(file, settings, copy, connection, own)
            _check_new(path)
    except OSError as error:
        raise FlawscopeError(f"cannot write {path}: {error.strerror or error}; free some space") from None
    sync_folder(path.parent)
    return held


def _check_new(path: Path) -> None:
    if path.exists():
        raise InputError(f"{path} exists, and a backup is never overwritten: choose another name")


def _write(file: BinaryIO, settings: Settings, copy: Path, connection: Connection, own: Own) -> Held:
    held = counted_in(connection, own)
    held.pictures, missing = 0, list[tuple[str, str]]()
    files = Files(settings.store)
    with tempfile.TemporaryFile() as lines, tarfile.open(fileobj=file, mode="w") as tar:

        def add(source: Path, name: str, digest: str | None = None) -> bool:
            """False where the file is not there, or has another content."""
            try:
                with open(source, "rb") as data:
                    found = hashlib.file_digest(data, "sha256").hexdigest()
                    if digest not in (None, found):
                        return False
                    size = data.tell()
                    data.seek(0)
                    tar.addfile(_part(name, size), data)
            except FileNotFoundError:
                return False
            lines.write(json.dumps([name, size, found]).encode() + b"\n")
            held.bytes += size
            return True

        add(copy, copy.name)
        for model, digest in _models(connection, own):
            parts = [files.folder / model]
            if parts[0].suffix.lower() == ".xml":
                parts.append(parts[0].with_suffix(".bin"))
            if _hash_of(parts) != digest:
                held.damaged.append(model)
                continue
            for part in parts:
                add(part, part.relative_to(files.folder).as_posix())
        for kind, digest, suffix in _contents(connection, own):
            source = files.path(kind, digest, suffix)
            name = source.relative_to(files.folder).as_posix()
            if not add(source, name, digest):
                missing.append((digest, name))
            elif kind == PICTURES:
                held.pictures += 1
        removed = _removed(settings, [digest for digest, _ in missing])
        held.left_out = sum(digest in removed for digest, _ in missing)
        held.damaged += [name for digest, name in missing if digest not in removed]
        _finish(tar, lines, held)
    return held


def _finish(tar: tarfile.TarFile, lines: IO[bytes], held: Held) -> None:
    size = lines.tell()
    lines.seek(0)
    digest = hashlib.sha256()
    while block := lines.read(BLOCK):
        digest.update(block)
    lines.seek(0)
    tar.addfile(_part(LIST, size), lines)
    facts = {"format": FORMAT, "flawscope": __version__, "made_at": iso(now()), "list": digest.hexdigest()}
    text = json.dumps({**facts, "holds": asdict(held)}).encode()
    tar.addfile(_part(FACTS, len(text)), io.BytesIO(text))


def _part(name: str, size: int) -> tarfile.TarInfo:
    part = tarfile.TarInfo(name)
    part.size, part.mode, part.mtime = size, 0o600, now() // 1_000_000
    return part


def _hash_of(parts: list[Path]) -> str | None:
    """Of files one after the other, as `versions` has it."""
    digest = hashlib.sha256()
    try:
        for part in parts:
            with open(part, "rb") as file:
                while block := file.read(BLOCK):
                    digest.update(block)
    except FileNotFoundError:
        return None
    return digest.hexdigest()


# ------------------------------------------------------------------------------------- what a data base names


Own = Select[Any]  # numbers of the products of this station


def counted_in(connection: Connection, own: Own) -> Held:
    """What a data base says."""

    def rows(table: Table, *where: ColumnElement[bool]) -> int:
        return int(connection.execute(select(func.count()).select_from(table).where(*where)).scalar_one())

    there = select(pictures.c.hash).distinct().where(_there(own)).subquery()
    return Held(
        products=rows(products, products.c.id.in_(own)),
        versions=rows(versions, versions.c.product_id.in_(own)),
        inspections=rows(inspections, inspections.c.product_id.in_(own)),
        users=rows(users),
        pictures=int(connection.execute(select(func.count()).select_from(there)).scalar_one()),
    )


def _there(own: Own) -> ColumnElement[bool]:
    """A picture that this station has."""
    return pictures.c.removed_at.is_(None) & pictures.c.product_id.in_(own)


def _drawn(own: Own) -> Select[Any]:
    """Masks that this station has."""
    return select(verdicts.c.mask).join(inspections).where(inspections.c.product_id.in_(own)).distinct()


def _models(connection: Connection, own: Own) -> list[tuple[str, str]]:
    """File and hash; products may share one."""
    query = select(versions.c.file, versions.c.hash).distinct().where(versions.c.product_id.in_(own))
    return [(row.file, row.hash) for row in connection.execute(query.order_by(versions.c.file))]


def _contents(connection: Connection, own: Own) -> Iterator[tuple[str, str, str]]:
    """Kind, hash and ending of pictures and masks."""
    there = select(pictures.c.hash, pictures.c.suffix).distinct().where(_there(own))
    streamed = connection.execution_options(yield_per=TOGETHER)
    for row in streamed.execute(there.order_by(pictures.c.hash)):
        yield PICTURES, row.hash, row.suffix
    drawn = _drawn(own).where(verdicts.c.mask.is_not(None)).order_by(verdicts.c.mask)
    for mask in connection.execute(drawn).scalars().all():
        yield MASKS, mask, MASK


def _removed(settings: Settings, hashes: list[str]) -> set[str]:
    """Of pictures and masks that the copy names, those that the station does not name any more."""
    named: set[str] = set()
    database = Database(settings.url, settings.name)
    own = database.own()
    try:
        for start in range(0, len(hashes), TOGETHER):
            some = hashes[start : start + TOGETHER]
            there = select(pictures.c.hash).where(pictures.c.hash.in_(some), _there(own))
            drawn = _drawn(own).where(verdicts.c.mask.in_(some))
            with database.reading() as connection:
                named |= {*connection.execute(there).scalars(), *connection.execute(drawn).scalars()}
    finally:
        database.close()
    return set(hashes) - named
