"""The folder that every machine of a run sees, through fsspec, and the list of the pictures to judge.

No process holds the whole list: its writer holds the names of one input, which tell masks from pictures, and
8 bytes for every path.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from glob import has_magic
from itertools import chain, islice
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from flawscope.artefact.files import atomic_write, from_csv_cell
from flawscope.errors import FlawscopeError, InputError, one_line_message
from flawscope.pictures.decoding import is_picture
from flawscope.pictures.listing import (
    COMPANION_SUFFIXES,
    is_ignored,
    iter_inputs,
    natural_key,
    require_picture,
)
from flawscope.pictures.mask_files import find_masks

LISTING = "listing.parquet"
ROW_GROUP_SIZE = 1_000  # paths that are read at a time
STDIN = "-"
TABLE_SUFFIXES = (".parquet", ".csv", ".txt")  # tables of paths, where they are named outright
PATH_COLUMN = "path"  # of a table
MAX_REMEMBERED = 20  # texts that a `TruncatedList` keeps, to be shown to a person
REMEDIES = {
    "read": "check the path, and that it can be reached",
    "write": "free some space, or choose another --out",
}
T = TypeVar("T")


def is_url(text: str) -> bool:
    return "://" in text


def reason(error: BaseException) -> str:
    """Returns the reason of an error, in one line."""
    return (error.strerror if isinstance(error, OSError) else None) or one_line_message(error)


def filesystem(url: str) -> tuple[Any, str]:
    """Returns fsspec's file system, and the path in it, without a request to it. InputError: there is no such
    kind of URL, or the library for it is missing."""
    from fsspec.core import url_to_fs

    try:
        files, path = url_to_fs(url, use_listings_cache=False)
    except (ImportError, ValueError) as error:  # "Install s3fs to access S3"; an unknown kind
        remedy = "name a folder, or a URL such as s3://BUCKET/PATH"
        raise InputError(f"{url}: {reason(error)}; {remedy}") from None
    return files, str(path)


class FileStore:
    """Files below a folder or URL, by names with forward slashes; each is written whole or not at all: on
    disk it is renamed when it is whole, in an object store it appears so.

    on_disk: it is a folder of this machine or one that is mounted here; `url` is then its absolute path.
    """

    def __init__(self, url: str):
        self.files, self.root = filesystem(url.rstrip("/") or url)
        kinds = self.files.protocol
        self.on_disk = "file" in ({kinds} if isinstance(kinds, str) else {*kinds})
        self.url = self.root if self.on_disk else url.rstrip("/")

    def exists(self, name: str) -> bool:
        return self.attempt("read", name, lambda: bool(self.files.exists(f"{self.root}/{name}")))

    def list_names(self, folder: str) -> list[str]:
        """Names of the files in a folder, without order; none where it is not there."""

        def list_folder() -> list[str]:
            try:
                inside = self.files.ls(f"{self.root}/{folder}", detail=False)
            except FileNotFoundError:
                return []
            return [_base_name(str(path)) for path in inside]

        return self.attempt("read", folder, list_folder)

    def open(self, name: str, mode: str = "rb") -> IO[bytes]:
        action = "read" if mode == "rb" else "write"
        opened: IO[bytes] = self.attempt(action, name, lambda: self.files.open(f"{self.root}/{name}", mode))
        return opened

    def read(self, name: str) -> bytes:
        return self.attempt("read", name, lambda: bytes(self.files.cat_file(f"{self.root}/{name}")))

    def write(self, name: str, data: bytes) -> None:
        """FlawscopeError where it cannot be written; an earlier file of this name is then still there."""
        path = f"{self.root}/{name}"
        if self.on_disk:
            self.attempt("write", name, lambda: Path(path).parent.mkdir(parents=True, exist_ok=True))
            with atomic_write(path) as file:
                file.write(data)
        else:
            self.attempt("write", name, lambda: self.files.pipe_file(path, data))

    def attempt(self, action: str, name: str, work: Callable[[], T]) -> T:
        """Calls `work`, which reads or writes a file. FlawscopeError where that fails."""
        try:
            return work()
        except Exception as error:  # each library has its own
            raise FlawscopeError(
                f"cannot {action} {self.url}/{name}: {reason(error)}; {REMEDIES[action]}"
            ) from None

    def is_within(self, folder: str | os.PathLike[str]) -> bool:
        """Whether the store is a folder of the disk, or lies in it."""
        return self.on_disk and Path(self.root).resolve().is_relative_to(Path(folder).resolve())


# ---------------------------------------------------------------------------------------------- the list


class Entry(NamedTuple):
    """Path or URL of a picture. error: the reason why an input is not a picture; else empty."""

    path: str
    error: str = ""


@dataclass
class TruncatedList(Sequence[str]):
    """Counts texts, and keeps only the first `MAX_REMEMBERED`; `len` is the count of all."""

    total: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, *texts: str) -> None:
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

    inputs: number. roots: folders that nodes must see. beside: files beside the pictures. digest: of stdin.
    """

    inputs: int = 0
    roots: list[str] = field(default_factory=list)
    beside: TruncatedList = field(default_factory=TruncatedList)
    digest: str = ""


def write(specs: Sequence[str], store: FileStore, stream: IO[bytes] | None = None) -> ListingInfo:
    """Lists the pictures, in the order in which `predict` judges them, as `LISTING` in the store.

    Each path is listed once, where it comes first; of stdin, as with `predict`, each line. Paths are compared
    by 64-bit hashes: of ten million paths one is lost to a collision once in 400,000 runs.

    Args:
        specs: files, folders, patterns, tables of paths (`TABLE_SUFFIXES`), URLs of these, or `-` alone.
        stream: stdin.

    Raises:
        InputError: no picture is meant, or a table cannot be read.
        FlawscopeError: the store cannot be written.
    """
    import pyarrow
    from pyarrow import parquet

    info, first_error, has_pictures = ListingInfo(), "", False
    schema = pyarrow.schema({"path": pyarrow.binary(), "error": pyarrow.string()})  # names need not be text
    store.write(LISTING, b"")  # makes its folder
    with store.open(LISTING, "wb") as file, parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        entries = _entries(specs, stream, info)
        while chunk := list(islice(entries, ROW_GROUP_SIZE)):
            first_error = first_error or next((one.error for one in chunk if one.error), "")
            has_pictures = has_pictures or not all(one.error for one in chunk)
            columns = [[os.fsencode(one.path) for one in chunk], [one.error for one in chunk]]
            rows = pyarrow.table(columns, schema=schema)
            store.attempt("write", LISTING, partial(writer.write_table, rows))
            info.inputs += len(chunk)
    if not has_pictures:
        raise InputError(first_error or "no pictures given; name a picture, a folder or a table of paths")
    return info


def read(store: FileStore, start: int, stop: int) -> list[Entry]:
    """The entries from `start` to below `stop`."""
    from pyarrow import parquet

    groups = range(start // ROW_GROUP_SIZE, -(-stop // ROW_GROUP_SIZE))
    with store.open(LISTING) as file:
        table = parquet.ParquetFile(file).read_row_groups([*groups])
    table = table.slice(start - groups.start * ROW_GROUP_SIZE, stop - start)
    columns = (table.column(name).to_pylist() for name in ("path", "error"))
    return [Entry(os.fsdecode(path), error) for path, error in zip(*columns, strict=True)]


# --------------------------------------------------------------------------------------- the meant pictures


def _entries(specs: Sequence[str], stream: IO[bytes] | None, info: ListingInfo) -> Iterator[Entry]:
    if list(specs) == [STDIN] and stream is not None:
        yield from map(Entry, _note_roots(_stdin_paths(stream, info), info))
        return
    seen = np.empty(0, np.int64)
    found = _entries_of_specs(specs, info)
    while chunk := list(islice(found, 100 * ROW_GROUP_SIZE)):
        new, seen = _find_new([one.path for one in chunk], seen)
        yield from (one for one, is_new in zip(chunk, new, strict=True) if is_new or one.error)


def _stdin_paths(stream: IO[bytes], info: ListingInfo) -> Iterator[str]:
    """Yields the paths on stdin, one a line, and notes their digest. InputError: it is no text."""
    digest = hashlib.sha256()
    for line in stream:
        digest.update(line)
        if b"\0" in line:
            raise InputError("stdin holds no list of paths; a picture is judged without --cluster")
        if path := line.rstrip(b"\r\n"):
            yield os.fspath(Path(os.fsdecode(path)))
    info.digest = digest.hexdigest()


def _find_new(paths: Sequence[str], seen: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Returns for each path whether it is new, and the sorted hashes of all paths."""
    hashes = np.fromiter(map(hash, paths), np.int64, len(paths))
    new = np.zeros(len(paths), np.bool_)
    new[np.unique(hashes, return_index=True)[1]] = True
    if len(seen):
        new &= seen[np.minimum(np.searchsorted(seen, hashes), len(seen) - 1)] != hashes
    return new, np.sort(np.concatenate([seen, hashes[new]]), kind="stable")  # quick: nearly sorted


def _entries_of_specs(specs: Sequence[str], info: ListingInfo) -> Iterator[Entry]:
    files = (Path(spec) for spec in specs if not is_url(spec) and is_picture(spec) and os.path.isfile(spec))
    masks = {os.fspath(path) for path in find_masks(files)}  # as when a shell expands *.png
    for spec in specs:
        if os.fspath(Path(spec)) in masks:
            info.beside.add(spec)
            continue
        try:
            yield from map(Entry, _note_roots(_paths_of_spec(spec, info), info))
        except InputError as error:  # as in `predict`, the others are judged
            yield Entry(spec, str(error))


def _paths_of_spec(spec: str, info: ListingInfo) -> Iterator[str]:
    if (is_url(spec) or os.path.isfile(spec)) and spec.lower().endswith(TABLE_SUFFIXES):
        yield from _read_table(spec)
        return
    inputs = _list_remote(spec) if is_url(spec) else ((os.fspath(p), side) for p, side in iter_inputs(spec))
    for path, beside in inputs:
        if beside:
            info.beside.add(path)
        else:
            yield path


def _note_roots(paths: Iterator[str], info: ListingInfo) -> Iterator[str]:
    """Yields the paths; notes as roots their common folder, and the working folder for relative ones."""
    common: list[str] = []
    while chunk := list(islice(paths, ROW_GROUP_SIZE)):
        on_disk = [path for path in chunk if not is_url(path)]
        absolute = [path for path in on_disk if os.path.isabs(path)]
        if absolute:  # the first and the last in order decide what they have in common
            common = [os.path.commonpath([*common, min(absolute), max(absolute)])]
        if len(absolute) < len(on_disk) and (here := os.getcwd()) not in info.roots:
            info.roots.append(here)
        yield from chunk
    if common and (root := _nearest_folder(common[0])) not in info.roots:
        info.roots.append(root)


def _nearest_folder(path: str) -> str:
    """Returns the path, or the nearest folder above it that exists."""
    return next(os.fspath(one) for one in (Path(path), *Path(path).parents) if one.is_dir())


def _read_table(spec: str) -> Iterator[str]:
    """Yields the paths in a table, unchanged; relative ones are relative to the working folder."""
    files, path = filesystem(spec if is_url(spec) else os.path.abspath(spec))
    kind = spec.lower().rpartition(".")[2]
    try:
        with files.open(path, "rb") as file:
            if kind == "txt":
                lines = (os.fsdecode(line.rstrip(b"\r\n")) for line in file)
                yield from (line for line in lines if line.strip())
            else:
                yield from (_read_csv_paths if kind == "csv" else _read_parquet_paths)(spec, file)
    except InputError:
        raise
    except Exception as error:  # of fsspec's libraries, and pyarrow's
        raise InputError(f"cannot read table {spec}: {reason(error)}; check it") from None


def _read_csv_paths(spec: str, file: IO[bytes]) -> Iterator[str]:
    rows = csv.reader(io.TextIOWrapper(file, "utf-8-sig", "surrogateescape", newline=""))
    place = _require_column(spec, next(rows, []))
    yield from (from_csv_cell(row[place]) for row in rows if len(row) > place and row[place])


def _read_parquet_paths(spec: str, file: IO[bytes]) -> Iterator[str]:
    from pyarrow import parquet

    table = parquet.ParquetFile(file)
    _require_column(spec, table.schema_arrow.names)
    for batch in table.iter_batches(10 * ROW_GROUP_SIZE, columns=[PATH_COLUMN]):
        yield from map(os.fsdecode, filter(None, batch.column(PATH_COLUMN).to_pylist()))


def _require_column(spec: str, names: list[str]) -> int:
    """Returns the index of the column of paths. InputError: there is none."""
    if PATH_COLUMN not in names:
        raise InputError(
            f"{spec}: it has no column {PATH_COLUMN}, only {', '.join(names)[:200]}; name one so"
        )
    return names.index(PATH_COLUMN)


def _list_remote(spec: str) -> Iterator[tuple[str, bool]]:
    """Yields the inputs of a file, folder or pattern of an object store, as `iter_inputs` of the disk."""
    files, path = filesystem(spec)
    try:
        if files.isdir(path):
            tops, text = [path], f"{spec}: no pictures in this folder"
        elif files.exists(path):
            yield spec, False
            return
        elif has_magic(path):
            tops = [t for t in sorted(files.glob(path), key=natural_key) if not is_ignored(_base_name(t))]
            text = f"{spec}: the pattern matches no picture"
        else:
            raise InputError(f"{spec}: no such file or folder; check the path")
        found = chain.from_iterable(_walk_remote(files, top) if files.isdir(top) else [top] for top in tops)
        every = list(require_picture(found, text))
        # they are not looked into
        masks = find_masks((PurePosixPath(one) for one in every if is_picture(one)), lambda _: None)
        for one in every:
            beside = PurePosixPath(one) in masks or Path(one).suffix.lower() in COMPANION_SUFFIXES
            yield str(files.unstrip_protocol(one)), beside
    except InputError:
        raise
    except Exception as error:  # each library has its own
        raise InputError(f"{spec}: cannot be listed: {reason(error)}; check it, and the rights") from None


def _walk_remote(files: Any, folder: str) -> Iterator[str]:
    """Yields every file below a folder, in natural order; holds the names of one folder at a time."""
    inside = [(str(one["name"]).rstrip("/"), one["type"]) for one in files.ls(folder, detail=True)]
    inside = [(name, kind) for name, kind in inside if not is_ignored(_base_name(name)) and name != folder]
    for name, kind in sorted(inside, key=lambda one: natural_key(_base_name(one[0]))):
        if kind == "directory":
            yield from _walk_remote(files, name)
        else:
            yield name


def _base_name(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]
