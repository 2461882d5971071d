"""The folder of results that every machine of a run sees, and the list of the pictures to judge.

The list is written and read in parts, so that no process holds the whole list.
"""

from __future__ import annotations

import hashlib
import math
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
        """Return whether there is a file or folder of this name."""
        return (self.root / name).exists()

    def list_names(self, folder: str) -> list[str]:
        """Return the names of the files in a folder, unordered; [] if the folder is missing."""
        with self._report_errors(folder):
            return os.listdir(self.root / folder) if self.exists(folder) else []

    def read(self, name: str) -> bytes:
        """Return a file's bytes; raise FlawscopeError if it cannot be read."""
        with self._report_errors(name):
            return (self.root / name).read_bytes()

    def write(self, name: str, data: bytes) -> None:
        """Write a file. If that fails, raise FlawscopeError, and keep an earlier file of this name."""
        with self.create(name) as file:
            file.write(data)

    @contextmanager
    def create(self, name: str) -> Iterator[IO[bytes]]:
        """Open a file to write; it gets its name when the block has ended without an error.

        Raises:
            FlawscopeError: The file cannot be written.
        """
        path = self.root / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_error(path, error) from None
        with atomic_write(path) as file:
            yield file

    def is_within(self, folder: str | os.PathLike[str]) -> bool:
        """Return whether the store's root is this folder, or lies in it."""
        return self.root.resolve().is_relative_to(Path(folder).resolve())

    @contextmanager
    def _report_errors(self, name: str) -> Iterator[None]:
        """Replace an OSError in the block by a FlawscopeError: the file `name` cannot be read."""
        try:
            yield
        except OSError as error:
            path = self.root / name
            raise FlawscopeError(
                f"cannot read {path}: {error.strerror}; check that it can be reached"
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
    """List that counts all texts and keeps only the first `MAX_REMEMBERED`.

    `len()` counts all texts; indices and slices reach only the kept ones.

    Attributes:
        total: Number of all texts.
        first: The first texts.
    """

    total: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, *texts: str) -> None:
        """Count the texts, and keep them while there are fewer than `MAX_REMEMBERED`."""
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
        digest: SHA-256 (hex) of the list of paths on stdin; empty: the paths are in the call, not on stdin.
    """

    inputs: int = 0
    roots: list[str] = field(default_factory=list)
    beside: TruncatedList = field(default_factory=TruncatedList)
    digest: str = ""


def write(specs: Sequence[str], store: FileStore, stream: IO[bytes] | None = None) -> ListingInfo:
    """Write the list of the inputs to `LISTING` in the store, in the order in which `predict` judges them.

    A path that the call names twice is listed once. A path that stands twice on stdin is listed twice, as
    `predict` judges it twice.

    Args:
        specs: Files, folders, patterns, or `-` alone.
        store: The folder of results.
        stream: Stdin; None: it is not read.

    Raises:
        InputError: There is no picture among the inputs.
        FlawscopeError: The store cannot be written.
    """
    import pyarrow
    from pyarrow import parquet

    info = ListingInfo()
    first_error = ""
    has_pictures = False
    # paths are bytes: a file name may hold bytes that are no text
    schema = pyarrow.schema({"path": pyarrow.binary(), "error": pyarrow.string()})
    with store.create(LISTING) as file, parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        entries = _list_entries(specs, stream, info)
        while chunk := list(islice(entries, ROW_GROUP_SIZE)):
            paths = [os.fsencode(entry.path) for entry in chunk]
            errors = [entry.error for entry in chunk]
            if not first_error:
                first_error = next((error for error in errors if error), "")
            if not all(errors):  # the error of a picture is ""
                has_pictures = True
            writer.write_table(pyarrow.table([paths, errors], schema=schema))
            info.inputs += len(chunk)
        if not has_pictures:
            raise InputError(first_error or "no pictures given; name a picture or a folder")
    return info


def read(store: FileStore, start: int, stop: int) -> list[Entry]:
    """Read the entries of the listing in the store from `start` to before `stop`."""
    from pyarrow import parquet

    first_group = start // ROW_GROUP_SIZE
    end_group = math.ceil(stop / ROW_GROUP_SIZE)
    with open(store.root / LISTING, "rb") as file:
        table = parquet.ParquetFile(file).read_row_groups([*range(first_group, end_group)])
    first_row = start - first_group * ROW_GROUP_SIZE
    rows = table.slice(first_row, length=stop - start)
    paths = rows.column("path").to_pylist()
    errors = rows.column("error").to_pylist()
    return [Entry(os.fsdecode(path), error) for path, error in zip(paths, errors, strict=True)]


# --------------------------------------------------------------------------------------- the meant pictures


def _list_entries(specs: Sequence[str], stream: IO[bytes] | None, info: ListingInfo) -> Iterator[Entry]:
    """Yield the inputs that the arguments mean; fill in `roots`, `beside` and `digest` of `info`."""
    if list(specs) == [STDIN] and stream is not None:
        yield from map(Entry, _note_roots(_stdin_paths(stream, info), info))
        return
    # masks may be among the arguments, as when a shell expands *.png
    files = (Path(spec) for spec in specs if is_picture(spec) and os.path.isfile(spec))
    masks = {os.fspath(path) for path in find_masks(files)}
    listed_paths = set[str]()
    for spec in specs:
        if os.fspath(Path(spec)) in masks:  # `masks` has paths as Path writes them: a.png for ./a.png
            info.beside.add(spec)
            continue
        try:
            for path in _note_roots(_paths_of_spec(spec, info), info):
                if path not in listed_paths:
                    listed_paths.add(path)
                    yield Entry(path)
        except InputError as error:  # as in `predict`, the other arguments are judged
            yield Entry(spec, str(error))


def stdin_digest(stream: IO[bytes]) -> str:
    """Return the SHA-256 (hex) of the list of paths on stdin."""
    digest = hashlib.sha256()
    for line in text_lines(stream):
        digest.update(line)
    return digest.hexdigest()


def _stdin_paths(stream: IO[bytes], info: ListingInfo) -> Iterator[str]:
    """Yield the paths on stdin, one from each line; at the end, set `info.digest`.

    Raises:
        InputError: Stdin holds bytes that are no text.
    """
    digest = hashlib.sha256()
    for line in text_lines(stream):
        digest.update(line)
        if b"\0" in line:
            raise InputError(
                "stdin holds no list of paths in UTF-8; save a list as UTF-8, or judge a picture "
                "without --cluster"
            )
        path = line.rstrip(b"\r\n")
        if path:
            text = unquoted(os.fsdecode(path))
            yield os.fspath(Path(text))
    info.digest = digest.hexdigest()


def _paths_of_spec(spec: str, info: ListingInfo) -> Iterator[str]:
    """Yield the pictures that an argument means; add the files beside them to `info.beside`."""
    for path, is_beside in iter_inputs(spec):
        if is_beside:
            info.beside.add(os.fspath(path))
        else:
            yield os.fspath(path)


def _note_roots(paths: Iterator[str], info: ListingInfo) -> Iterator[str]:
    """Yield the paths, and add the folders that nodes must see to `info.roots`.

    The folders are the common folder of the absolute paths, and the working folder if a path is relative.
    """
    common_path = ""
    while chunk := list(islice(paths, ROW_GROUP_SIZE)):
        absolute_paths = [path for path in chunk if os.path.isabs(path)]
        if absolute_paths:
            # in sorted order, a prefix common to the first and the last path is common to all
            outermost_paths = [min(absolute_paths), max(absolute_paths)]
            if common_path:  # of the earlier chunks
                outermost_paths.insert(0, common_path)
            common_path = os.path.commonpath(outermost_paths)
        if len(absolute_paths) < len(chunk):
            _add_root(info, str(Path.cwd()))
        yield from chunk
    if common_path:
        _add_root(info, _nearest_folder(common_path))


def _add_root(info: ListingInfo, root: str) -> None:
    """Add a folder to `info.roots`, once."""
    if root not in info.roots:
        info.roots.append(root)


def _nearest_folder(path: str) -> str:
    """Return the path, or the nearest folder above it that exists."""
    folders = (Path(path), *Path(path).parents)
    return next(os.fspath(folder) for folder in folders if folder.is_dir())
