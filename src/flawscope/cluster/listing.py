"""The folder of results that every machine of a run sees, and the list of the pictures to judge.

The list is written and read in pieces: no worker holds the whole of it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, NamedTuple, overload

from flawscope.artefact.files import atomic_write, write_error
from flawscope.errors import FlawscopeError, InputError
from flawscope.pictures.decoding import is_picture
from flawscope.pictures.listing import iter_inputs
from flawscope.pictures.mask_files import find_masks
from flawscope.pictures.text_files import text_lines, unquoted

LISTING = "listing.parquet"
ROW_GROUP_SIZE = 1_000  # paths that are read at a time
STDIN = "-"
MAX_REMEMBERED = 20  # texts that a `TruncatedList` keeps, to be shown to a person


class FileStore:
    """Files below a folder, by names with forward slashes; each is written whole or not at all."""

    def __init__(self, root: str | os.PathLike[str]):
        self.root = Path(os.path.abspath(root))

    def exists(self, name: str) -> bool:
        """Whether there is a file or folder of this name."""
        return (self.root / name).exists()

    def list_names(self, folder: str) -> list[str]:
        """Return the names of the files in a folder, without order; none where the folder is missing."""
        with self._report_errors(folder):
            return os.listdir(self.root / folder) if self.exists(folder) else []

    def read(self, name: str) -> bytes:
        """Return a file's bytes; raise FlawscopeError where it cannot be read."""
        with self._report_errors(name):
            return (self.root / name).read_bytes()

    def write(self, name: str, data: bytes) -> None:
        """Write a file; raise FlawscopeError where that fails, and keep an earlier file of this name."""
        with self.create(name) as file:
            file.write(data)

    @contextmanager
    def create(self, name: str) -> Iterator[IO[bytes]]:
        """Open a file that exists once the block ends; raise FlawscopeError where it cannot be written."""
        path = self.root / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_error(path, error) from None
        with atomic_write(path) as file:
            yield file

    def is_within(self, folder: str | os.PathLike[str]) -> bool:
        """Whether the store lies in a folder, or is it."""
        return self.root.resolve().is_relative_to(Path(folder).resolve())

    @contextmanager
    def _report_errors(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            where = self.root / name
            raise FlawscopeError(
                f"cannot read {where}: {error.strerror}; check that it can be reached"
            ) from None


# ---------------------------------------------------------------------------------------------- the list


class Entry(NamedTuple):
    """Input of a run.

    Attributes:
        path: Path of the picture.
        error: The reason why an input is not a picture; else empty.
    """

    path: str
    error: str = ""


@dataclass
class TruncatedList(Sequence[str]):
    """List that counts texts and keeps only the first `MAX_REMEMBERED`; `len` is the count of all."""

    total: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, *texts: str) -> None:
        """Count the texts, and keep them while there is room."""
        self.total += len(texts)
        self.first += texts[: MAX_REMEMBERED - len(self.first)]

    def __len__(self) -> int:
        return self.total

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        return self.first[index]


@dataclass
class ListingInfo:
    """Facts about a listing, stored in `run.json`.

    Attributes:
        inputs: Number of inputs.
        roots: Folders that nodes must see.
        beside: Files beside the pictures, such as masks, which are not judged.
        digest: SHA-256 (hex) of the list of paths on stdin; empty: the inputs were named in the call.
    """

    inputs: int = 0
    roots: list[str] = field(default_factory=list)
    beside: TruncatedList = field(default_factory=TruncatedList)
    digest: str = ""


def write(specs: Sequence[str], store: FileStore, stream: IO[bytes] | None = None) -> ListingInfo:
    """List the pictures, in the order in which `predict` judges them, as `LISTING` in the store.

    Each path is listed once, where it comes first. Of stdin each line is listed, as with `predict`.

    Args:
        specs: Files, folders, patterns, or `-` alone.
        store: The folder of results.
        stream: Stdin.

    Raises:
        InputError: There is no picture among the inputs.
        FlawscopeError: The store cannot be written.
    """
    import pyarrow
    from pyarrow import parquet

    info = ListingInfo()
    first_error = ""
    has_pictures = False
    schema = pyarrow.schema({"path": pyarrow.binary(), "error": pyarrow.string()})  # names need not be text
    with store.create(LISTING) as file, parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        entries = _entries(specs, stream, info)
        while chunk := list(islice(entries, ROW_GROUP_SIZE)):
            first_error = first_error or next((row.error for row in chunk if row.error), "")
            has_pictures = has_pictures or not all(row.error for row in chunk)
            columns = [[os.fsencode(row.path) for row in chunk], [row.error for row in chunk]]
            writer.write_table(pyarrow.table(columns, schema=schema))
            info.inputs += len(chunk)
        if not has_pictures:
            raise InputError(first_error or "no pictures given; name a picture or a folder")
    return info


def read(store: FileStore, start: int, stop: int) -> list[Entry]:
    """Read the entries `start` to `stop`, exclusive, of the listing in the store."""
    from pyarrow import parquet

    groups = range(start // ROW_GROUP_SIZE, -(-stop // ROW_GROUP_SIZE))
    with open(store.root / LISTING, "rb") as file:
        table = parquet.ParquetFile(file).read_row_groups([*groups])
    table = table.slice(start - groups.start * ROW_GROUP_SIZE, stop - start)
    columns = (table.column(name).to_pylist() for name in ("path", "error"))
    return [Entry(os.fsdecode(path), error) for path, error in zip(*columns, strict=True)]


# --------------------------------------------------------------------------------------- the meant pictures


def _entries(specs: Sequence[str], stream: IO[bytes] | None, info: ListingInfo) -> Iterator[Entry]:
    if list(specs) == [STDIN] and stream is not None:
        yield from map(Entry, _note_roots(_stdin_paths(stream, info), info))
        return
    files = (Path(spec) for spec in specs if is_picture(spec) and os.path.isfile(spec))
    masks = {os.fspath(path) for path in find_masks(files)}  # as when a shell expands *.png
    seen = set[str]()
    for spec in specs:
        if os.fspath(Path(spec)) in masks:
            info.beside.add(spec)
            continue
        try:
            for path in _note_roots(_paths_of_spec(spec, info), info):
                if path not in seen:
                    seen.add(path)
                    yield Entry(path)
        except InputError as error:  # as in `predict`, the others are judged
            yield Entry(spec, str(error))


def stdin_digest(stream: IO[bytes]) -> str:
    """Return the SHA-256 (hex) of the list of paths on stdin."""
    digest = hashlib.sha256()
    for line in text_lines(stream):
        digest.update(line)
    return digest.hexdigest()


def _stdin_paths(stream: IO[bytes], info: ListingInfo) -> Iterator[str]:
    """Yield the paths on stdin, one a line, and note their digest; raise InputError if it is no text."""
    digest = hashlib.sha256()
    for line in text_lines(stream):
        digest.update(line)
        if b"\0" in line:
            raise InputError(
                "stdin holds no list of paths in UTF-8; save a list as UTF-8, or judge a picture "
                "without --cluster"
            )
        if path := line.rstrip(b"\r\n"):
            yield os.fspath(Path(unquoted(os.fsdecode(path))))
    info.digest = digest.hexdigest()


def _paths_of_spec(spec: str, info: ListingInfo) -> Iterator[str]:
    for path, is_beside in iter_inputs(spec):
        if is_beside:
            info.beside.add(os.fspath(path))
        else:
            yield os.fspath(path)


def _note_roots(paths: Iterator[str], info: ListingInfo) -> Iterator[str]:
    """Yield the paths; note as roots their common folder, and the working folder for relative paths."""
    common: list[str] = []
    while chunk := list(islice(paths, ROW_GROUP_SIZE)):
        absolute = [path for path in chunk if os.path.isabs(path)]
        if absolute:  # the first and the last in order decide what they have in common
            common = [os.path.commonpath([*common, min(absolute), max(absolute)])]
        if len(absolute) < len(chunk) and (here := str(Path.cwd())) not in info.roots:
            info.roots.append(here)
        yield from chunk
    if common and (root := _nearest_folder(common[0])) not in info.roots:
        info.roots.append(root)


def _nearest_folder(path: str) -> str:
    """Return the path, or the nearest folder above it that exists."""
    return next(os.fspath(folder) for folder in (Path(path), *Path(path).parents) if folder.is_dir())
