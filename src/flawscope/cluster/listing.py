"""The folder that every machine of a run sees, through fsspec, and the list of the pictures to judge.

Nobody holds the list whole: its writer needs the names in one folder, and 8 bytes for every path.
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
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from flawscope.artefact.files import atomic, from_csv_cell
from flawscope.errors import FlawscopeError, InputError, one_line
from flawscope.pictures.listing import SIDE_SUFFIXES, is_litter, iter_inputs, natural_key, with_pictures

NAME = "listing.parquet"
GROUP = 1_000  # paths that are read at a time
PIPED = "-"
TABLES = (".parquet", ".csv", ".txt")  # tables of paths, where they are named outright
COLUMN = "path"  # of a table
FIRST = 20  # names that are remembered for a person
REMEDIES = {
    "read": "check the path, and that it can be reached",
    "write": "free some space, or choose another --out",
}
T = TypeVar("T")


def is_url(text: str) -> bool:
    return "://" in text


def reason(error: BaseException) -> str:
    """The reason of an error, in one line."""
    return (error.strerror if isinstance(error, OSError) else None) or one_line(error)


def filesystem(url: str) -> tuple[Any, str]:
    """fsspec's file system, and the path in it; nothing is asked of it yet. InputError: there is no such
    kind, or the library for it is missing."""
    from fsspec.core import url_to_fs

    try:
        files, path = url_to_fs(url, use_listings_cache=False)
    except (ImportError, ValueError) as error:  # "Install s3fs to access S3"; an unknown kind
        remedy = "name a folder, or a URL such as s3://BUCKET/PATH"
        raise InputError(f"{url}: {reason(error)}; {remedy}") from None
    return files, str(path)


class Store:
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

    def names(self, folder: str) -> list[str]:
        """Names of the files in a folder, without order; none where it is not there."""

        def found() -> list[str]:
            try:
                inside = self.files.ls(f"{self.root}/{folder}", detail=False)
            except FileNotFoundError:
                return []
            return [_last(str(path)) for path in inside]

        return self.attempt("read", folder, found)

    def open(self, name: str, mode: str = "rb") -> IO[bytes]:
        what = "read" if mode == "rb" else "write"
        opened: IO[bytes] = self.attempt(what, name, lambda: self.files.open(f"{self.root}/{name}", mode))
        return opened

    def read(self, name: str) -> bytes:
        return self.attempt("read", name, lambda: bytes(self.files.cat_file(f"{self.root}/{name}")))

    def write(self, name: str, data: bytes) -> None:
        """FlawscopeError where it cannot be written; an earlier file of this name is then still there."""
        path = f"{self.root}/{name}"
        if self.on_disk:
            self.attempt("write", name, lambda: Path(path).parent.mkdir(parents=True, exist_ok=True))
            with atomic(path) as file:
                file.write(data)
        else:
            self.attempt("write", name, lambda: self.files.pipe_file(path, data))

    def attempt(self, what: str, name: str, work: Callable[[], T]) -> T:
        """Calls `work`, which reads or writes a file. FlawscopeError where that fails."""
        try:
            return work()
        except Exception as error:  # each library has its own
            raise FlawscopeError(
                f"cannot {what} {self.url}/{name}: {reason(error)}; {REMEDIES[what]}"
            ) from None

    def lies_in(self, folder: str | os.PathLike[str]) -> bool:
        """Whether the store is a folder of the disk, or lies in it."""
        return self.on_disk and Path(self.root).resolve().is_relative_to(Path(folder).resolve())


# ---------------------------------------------------------------------------------------------- the list


class Entry(NamedTuple):
    """Path or URL of a picture. error: the reason why a word means no picture."""

    path: str
    error: str = ""


@dataclass
class Some(Sequence[str]):
    """Texts of which only the first few are held: as long as all of them."""

    total: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, *texts: str) -> None:
        self.total += len(texts)
        self.first += texts[: FIRST - len(self.first)]

    def __len__(self) -> int:
        return self.total

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        return self.first[index]


@dataclass
class Listing:
    """Facts about a listing.

    roots: folders on disk that a node must see. beside: files beside the pictures. digest: of stdin.
    """

    inputs: int = 0
    roots: list[str] = field(default_factory=list)
    beside: Some = field(default_factory=Some)
    digest: str = ""


def write(specs: Sequence[str], store: Store, stream: IO[bytes] | None = None) -> Listing:
    """Lists the pictures, in the order in which `predict` judges them, as `NAME` in the store.

    Each path stands once, where it comes first; of those on stdin, as with `predict`, each line. Two paths
    are told apart by 64 bits: one of ten million is taken for another, and missing, once in 400,000 runs.

    Args:
        specs: files, folders, patterns, tables of paths (`TABLES`), URLs of these, or `-` alone.
        stream: stdin.

    Raises:
        InputError: no picture is meant, or a table cannot be read.
        FlawscopeError: the store cannot be written.
    """
    import pyarrow
    from pyarrow import parquet

    made, wrong, pictures = Listing(), "", False
    schema = pyarrow.schema({"path": pyarrow.binary(), "error": pyarrow.string()})  # names need not be text
    store.write(NAME, b"")  # makes its folder
    with store.open(NAME, "wb") as file, parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        entries = _entries(specs, stream, made)
        while chunk := list(islice(entries, GROUP)):
            wrong = wrong or next((one.error for one in chunk if one.error), "")
            pictures = pictures or not all(one.error for one in chunk)
            columns = [[os.fsencode(one.path) for one in chunk], [one.error for one in chunk]]
            rows = pyarrow.table(columns, schema=schema)
            store.attempt("write", NAME, partial(writer.write_table, rows))
            made.inputs += len(chunk)
    if not pictures:
        raise InputError(wrong or "no pictures given; name a picture, a folder or a table of paths")
    return made


def read(store: Store, start: int, stop: int) -> list[Entry]:
    """The entries from `start` to below `stop`."""
    from pyarrow import parquet

    groups = range(start // GROUP, -(-stop // GROUP))
    with store.open(NAME) as file:
        table = parquet.ParquetFile(file).read_row_groups([*groups])
    table = table.slice(start - groups.start * GROUP, stop - start)
    columns = (table.column(name).to_pylist() for name in ("path", "error"))
    return [Entry(os.fsdecode(path), error) for path, error in zip(*columns, strict=True)]


# --------------------------------------------------------------------------------------- the meant pictures


def _entries(specs: Sequence[str], stream: IO[bytes] | None, made: Listing) -> Iterator[Entry]:
    if list(specs) == [PIPED] and stream is not None:
        yield from map(Entry, _rooted(_lines(stream, made), made))
        return
    seen = np.empty(0, np.int64)
    found = _meant_or_wrong(specs, made)
    while chunk := list(islice(found, 100 * GROUP)):
        new, seen = _new([one.path for one in chunk], seen)
        yield from (one for one, is_new in zip(chunk, new, strict=True) if is_new or one.error)


def _lines(stream: IO[bytes], made: Listing) -> Iterator[str]:
    """Yields the paths on stdin, one a line, and notes their digest. InputError: it is no text."""
    taken = hashlib.sha256()
    for line in stream:
        taken.update(line)
        if b"\0" in line:
            raise InputError("stdin holds no list of paths; a picture is judged without --cluster")
        if path := line.rstrip(b"\r\n"):
            yield os.fspath(Path(os.fsdecode(path)))
    made.digest = taken.hexdigest()


def _new(paths: Sequence[str], seen: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Returns for each path whether it is new, and the sorted hashes of all paths."""
    hashes = np.fromiter(map(hash, paths), np.int64, len(paths))
    new = np.zeros(len(paths), np.bool_)
    new[np.unique(hashes, return_index=True)[1]] = True
    if len(seen):
        new &= seen[np.minimum(np.searchsorted(seen, hashes), len(seen) - 1)] != hashes
    return new, np.sort(np.concatenate([seen, hashes[new]]), kind="stable")  # quick: nearly sorted


def _meant_or_wrong(specs: Sequence[str], made: Listing) -> Iterator[Entry]:
    for spec in specs:
        try:
            yield from map(Entry, _rooted(_meant(spec, made), made))
        except InputError as error:  # as in `predict`, the others are judged
            yield Entry(spec, str(error))


def _meant(spec: str, made: Listing) -> Iterator[str]:
    if (is_url(spec) or os.path.isfile(spec)) and spec.lower().endswith(TABLES):
        yield from _tabled(spec)
        return
    inputs = _remote(spec) if is_url(spec) else ((os.fspath(p), beside) for p, beside in iter_inputs(spec))
    for path, beside in inputs:
        if beside:
            made.beside.add(path)
        else:
            yield path


def _rooted(paths: Iterator[str], made: Listing) -> Iterator[str]:
    """Passes paths on. The folder that holds all absolute ones becomes a root of the listing, and for
    relative ones the folder where they begin."""
    common: list[str] = []
    while chunk := list(islice(paths, GROUP)):
        on_disk = [path for path in chunk if not is_url(path)]
        absolute = [path for path in on_disk if os.path.isabs(path)]
        if absolute:  # the first and the last in order decide what they have in common
            common = [os.path.commonpath([*common, min(absolute), max(absolute)])]
        if len(absolute) < len(on_disk) and (here := os.getcwd()) not in made.roots:
            made.roots.append(here)
        yield from chunk
    if common and (root := _folder_of(common[0])) not in made.roots:
        made.roots.append(root)


def _folder_of(path: str) -> str:
    """The path, or the nearest folder above it that is there."""
    return next(os.fspath(one) for one in (Path(path), *Path(path).parents) if one.is_dir())


def _tabled(spec: str) -> Iterator[str]:
    """The paths in a table, as they stand there; a relative one begins where the command is run."""
    files, path = filesystem(spec if is_url(spec) else os.path.abspath(spec))
    kind = spec.lower().rpartition(".")[2]
    try:
        with files.open(path, "rb") as file:
            if kind == "txt":
                lines = (os.fsdecode(line.rstrip(b"\r\n")) for line in file)
                yield from (line for line in lines if line.strip())
            else:
                yield from (_of_csv if kind == "csv" else _of_parquet)(spec, file)
    except InputError:
        raise
    except Exception as error:  # of fsspec's libraries, and pyarrow's
        raise InputError(f"cannot read table {spec}: {reason(error)}; check it") from None


def _of_csv(spec: str, file: IO[bytes]) -> Iterator[str]:
    rows = csv.reader(io.TextIOWrapper(file, "utf-8-sig", "surrogateescape", newline=""))
    place = _require_column(spec, next(rows, []))
    yield from (from_csv_cell(row[place]) for row in rows if len(row) > place and row[place])


def _of_parquet(spec: str, file: IO[bytes]) -> Iterator[str]:
    from pyarrow import parquet

    table = parquet.ParquetFile(file)
    _require_column(spec, table.schema_arrow.names)
    for batch in table.iter_batches(10 * GROUP, columns=[COLUMN]):
        yield from map(os.fsdecode, filter(None, batch.column(COLUMN).to_pylist()))


def _require_column(spec: str, names: list[str]) -> int:
    """Place of the column of paths. InputError: there is none."""
    if COLUMN not in names:
        raise InputError(f"{spec}: it has no column {COLUMN}, only {', '.join(names)[:200]}; name one so")
    return names.index(COLUMN)


def _remote(spec: str) -> Iterator[tuple[str, bool]]:
    """Lists the inputs, as `iter_inputs`, of a file, folder or pattern of an object store."""
    files, path = filesystem(spec)
    try:
        if files.isdir(path):
            tops, text = [path], f"{spec}: no pictures in this folder"
        elif files.exists(path):
            yield spec, False
            return
        elif has_magic(path):
            tops = [top for top in sorted(files.glob(path), key=natural_key) if not is_litter(_last(top))]
            text = f"{spec}: the pattern matches no picture"
        else:
            raise InputError(f"{spec}: no such file or folder; check the path")
        found = chain.from_iterable(_below(files, top) if files.isdir(top) else [top] for top in tops)
        for one in with_pictures(found, text):
            yield str(files.unstrip_protocol(one)), Path(one).suffix.lower() in SIDE_SUFFIXES
    except InputError:
        raise
    except Exception as error:  # each library has its own
        raise InputError(f"{spec}: cannot be listed: {reason(error)}; check it, and the rights") from None


def _below(files: Any, folder: str) -> Iterator[str]:
    """Every file below a folder, in natural order; the names of one folder at a time are held."""
    inside = [(str(one["name"]).rstrip("/"), one["type"]) for one in files.ls(folder, detail=True)]
    inside = [(name, kind) for name, kind in inside if not is_litter(_last(name)) and name != folder]
    for name, kind in sorted(inside, key=lambda one: natural_key(_last(one[0]))):
        if kind == "directory":
            yield from _below(files, name)
        else:
            yield name


def _last(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]
