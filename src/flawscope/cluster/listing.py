"""The folder that every machine of a run sees, through fsspec, and the list of the pictures to judge.

Nobody holds the list whole: its writer needs the names in one folder, and 8 bytes for every path.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from glob import has_magic
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from flawscope.artefact.files import atomic, from_csv_cell
from flawscope.errors import FlawscopeError, InputError
from flawscope.pictures.listing import SIDE_SUFFIXES, is_litter, iter_inputs, natural_key, with_pictures

FOLDER = "listing"
GROUP = 1_000  # paths that are read at a time
FILE = 100 * GROUP  # in a file
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


def filesystem(url: str) -> tuple[Any, str]:
    """fsspec's file system, and the path in it. Nothing is asked of it yet.

    Raises:
        InputError: there is no such kind, or the library for it is missing.
    """
    from fsspec.core import url_to_fs

    try:
        files, path = url_to_fs(url, use_listings_cache=False)
    except ImportError as error:  # "Install s3fs to access S3"
        raise InputError(f"{url}: {reason(error)}") from None
    except ValueError as error:  # an unknown kind
        raise InputError(
            f"{url}: {reason(error)}; name a folder, or a URL such as s3://BUCKET/PATH"
        ) from None
    return files, str(path)


def reason(error: BaseException) -> str:
    """The reason of an error, in one line."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return " ".join(text.split())[:300]


class Store:
    """Files below a folder or URL, by names with forward slashes; each is written whole or not at all: on
    disk it is renamed when it is whole, in an object store it appears so.

    on_disk: it is a folder, `root`, of this machine or one that is mounted here.
    """

    def __init__(self, url: str):
        self.url = url.rstrip("/") or url
        self.files, self.root = filesystem(self.url)
        kinds = self.files.protocol
        self.on_disk = "file" in ({kinds} if isinstance(kinds, str) else {*kinds})

    def exists(self, name: str) -> bool:
        return self._try("read", name, lambda: bool(self.files.exists(f"{self.root}/{name}")))

    def names(self, folder: str) -> list[str]:
        """Names of the files in a folder, without order; none where it is not there."""

        def found() -> list[str]:
            try:
                inside = self.files.ls(f"{self.root}/{folder}", detail=False)
            except FileNotFoundError:
                return []
            return [str(path).rstrip("/").rpartition("/")[2] for path in inside]

        return self._try("read", folder, found)

    def open(self, name: str) -> IO[bytes]:
        opened: IO[bytes] = self._try("read", name, lambda: self.files.open(f"{self.root}/{name}", "rb"))
        return opened

    def read(self, name: str) -> bytes:
        return self._try("read", name, lambda: bytes(self.files.cat_file(f"{self.root}/{name}")))

    def write(self, name: str, data: bytes) -> None:
        """FlawscopeError where it cannot be written; an earlier file of this name is then still there."""
        path = f"{self.root}/{name}"
        if self.on_disk:
            self._try("write", name, lambda: Path(path).parent.mkdir(parents=True, exist_ok=True))
            with atomic(path) as file:
                file.write(data)
        else:
            self._try("write", name, lambda: self.files.pipe_file(path, data))

    def _try(self, what: str, name: str, work: Callable[[], T]) -> T:
        try:
            return work()
        except Exception as error:  # each library has its own
            raise FlawscopeError(
                f"cannot {what} {self.url}/{name}: {reason(error)}; {REMEDIES[what]}"
            ) from None

    def lies_in(self, folder: str | os.PathLike[str]) -> bool:
        """Whether the store is a folder of the disk, or lies in it."""
        if not self.on_disk:
            return False
        top = os.path.realpath(folder)
        return (os.path.realpath(self.root) + os.sep).startswith(top.rstrip(os.sep) + os.sep)


# ---------------------------------------------------------------------------------------------- the list


class Entry(NamedTuple):
    """Path or URL of a picture. error: the reason why a word means no picture."""

    path: str
    error: str = ""


@dataclass
class Some:
    """Count of texts, and the first few of them."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, *texts: str, count: int | None = None) -> None:
        """Adds texts. count: their number, where it is larger than that of the texts given."""
        self.count += len(texts) if count is None else count
        self.first = [*self.first, *texts][:FIRST]


@dataclass
class Listing:
    """Facts about a listing.

    roots: folders on disk in which the pictures lie. beside: files beside the pictures. digest: of stdin.
    """

    inputs: int = 0
    roots: list[str] = field(default_factory=list)
    beside: Some = field(default_factory=Some)
    digest: str = ""


def write(specs: Sequence[str], store: Store, stream: IO[bytes] | None = None) -> Listing:
    """Lists the pictures, in the order in which `predict` judges them, below `FOLDER` of the store.

    Each path stands once, where it comes first; of those on stdin, as with `predict`, each line. Two paths
    are told apart by 64 bits: one of ten million is taken for another, and missing, once in 400,000 runs.

    Args:
        specs: files, folders, patterns, tables of paths (`TABLES`), URLs of these, or `-` alone.
        stream: stdin.

    Raises:
        InputError: no picture is meant, or a table cannot be read.
        FlawscopeError: the store cannot be written.
    """
    made, wrong, pictures = Listing(), "", False
    entries = _entries(specs, store, stream, made)
    while chunk := list(islice(entries, FILE)):
        wrong = wrong or next((one.error for one in chunk if one.error), "")
        pictures = pictures or not all(one.error for one in chunk)
        store.write(_name(made.inputs // FILE), _packed(chunk))
        made.inputs += len(chunk)
    if not pictures:
        raise InputError(wrong or "no pictures given; name a picture, a folder or a table of paths")
    return made


def read(store: Store, start: int, stop: int) -> list[Entry]:
    """The entries from `start` to below `stop`."""
    from pyarrow import parquet

    found: list[Entry] = []
    for number in range(start // FILE, -(-stop // FILE)):
        begin, end = max(start - number * FILE, 0), min(stop - number * FILE, FILE)
        groups = range(begin // GROUP, -(-end // GROUP))
        with store.open(_name(number)) as file:
            table = parquet.ParquetFile(file).read_row_groups([*groups])
        table = table.slice(begin - groups.start * GROUP, end - begin)
        columns = (table.column(name).to_pylist() for name in ("path", "error"))
        found += [Entry(os.fsdecode(path), error) for path, error in zip(*columns, strict=True)]
    return found


def digest(stream: IO[bytes]) -> str:
    """SHA-256 (hex) of the paths on stdin."""
    made = hashlib.sha256()
    for _ in _lines(stream, made):
        pass
    return made.hexdigest()


def _lines(stream: IO[bytes], taken: Any) -> Iterator[str]:
    """Yields paths, one a line, and adds each line to the hash `taken`. InputError: it is no text."""
    for line in stream:
        taken.update(line)
        if b"\0" in line:
            raise InputError("stdin holds no list of paths; a picture is judged without --cluster")
        if path := line.rstrip(b"\r\n"):
            yield os.fspath(Path(os.fsdecode(path)))


def _name(number: int) -> str:
    return f"{FOLDER}/{number:05}.parquet"


def _packed(chunk: list[Entry]) -> bytes:
    """Content of a file of the list; names need not be text."""
    import pyarrow
    from pyarrow import parquet

    columns = {
        "path": pyarrow.array([os.fsencode(one.path) for one in chunk], pyarrow.binary()),
        "error": pyarrow.array([one.error for one in chunk], pyarrow.string()),
    }
    file = io.BytesIO()
    parquet.write_table(
        pyarrow.table(columns), file, row_group_size=GROUP, use_dictionary=["error"], compression="zstd"
    )
    return file.getvalue()


# --------------------------------------------------------------------------------------- the meant pictures


def _entries(specs: Sequence[str], store: Store, stream: IO[bytes] | None, made: Listing) -> Iterator[Entry]:
    if list(specs) == [PIPED] and stream is not None:
        taken = hashlib.sha256()
        yield from map(Entry, _rooted(_lines(stream, taken), made))
        made.digest = taken.hexdigest()
        return
    seen = np.empty(0, np.int64)
    found = _meant_or_wrong(specs, store, made)
    while chunk := list(islice(found, FILE)):
        new, seen = _new([one.path for one in chunk], seen)
        yield from (one for one, is_new in zip(chunk, new, strict=True) if is_new or one.error)


def _new(paths: Sequence[str], seen: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Returns for each path whether it is new, and the sorted hashes of all paths."""
    hashes = np.fromiter(map(hash, paths), np.int64, len(paths))
    new = np.zeros(len(paths), np.bool_)
    new[np.unique(hashes, return_index=True)[1]] = True
    if len(seen):
        new &= seen[np.minimum(np.searchsorted(seen, hashes), len(seen) - 1)] != hashes
    return new, np.sort(np.concatenate([seen, hashes[new]]), kind="stable")  # quick: nearly sorted


def _meant_or_wrong(specs: Sequence[str], store: Store, made: Listing) -> Iterator[Entry]:
    for spec in specs:
        try:
            yield from map(Entry, _meant(spec, store, made))
        except InputError as error:  # as in `predict`, the others are judged
            yield Entry(spec, str(error))


def _meant(spec: str, store: Store, made: Listing) -> Iterator[str]:
    if (is_url(spec) or os.path.isfile(spec)) and spec.lower().endswith(TABLES):
        yield from _rooted(_tabled(spec), made)
        return
    own = ""
    if is_url(spec):
        inputs: Iterable[tuple[str, bool]] = _remote(spec)
    else:
        root = os.path.abspath(_root(spec))
        if root not in made.roots:
            made.roots.append(root)
        own = store.root + os.sep if store.lies_in(root) else ""
        inputs = ((os.fspath(path), beside) for path, beside in iter_inputs(spec))
    for path, beside in inputs:
        if own and os.path.abspath(path).startswith(own):  # written by this run
            continue
        if beside:
            made.beside.add(path)
        else:
            yield path


def _rooted(paths: Iterator[str], made: Listing) -> Iterator[str]:
    """Passes paths on; the folder of all absolute ones becomes a root of the listing."""
    some: list[str] = []
    for path in paths:
        if os.path.isabs(path):
            some.append(path)
            if len(some) == GROUP:
                some = [_common(some)]
        yield path
    if some and (root := _root(_common(some))) not in made.roots:
        made.roots.append(root)


def _common(paths: list[str]) -> str:
    """Folder that holds all absolute paths: the first and the last in order decide it."""
    return os.path.commonpath([min(paths), max(paths)])


def _root(spec: str) -> str:
    """The folder in which the pictures of a file, folder or pattern lie."""
    path = Path(spec)
    while not path.is_dir() and path != path.parent:
        path = path.parent
    return os.fspath(path)


def _tabled(spec: str) -> Iterator[str]:
    """The paths in a table, as they stand there; a relative one begins where the command is run."""
    files, path = filesystem(spec if is_url(spec) else os.path.abspath(spec))
    try:
        with files.open(path, "rb") as file:
            if spec.lower().endswith(".txt"):
                lines = (line.rstrip(b"\r\n") for line in file)
                yield from (os.fsdecode(line) for line in lines if line.strip())
            else:
                yield from _column(spec, file)
    except InputError:
        raise
    except Exception as error:  # of fsspec's libraries, and pyarrow's
        raise InputError(f"cannot read table {spec}: {reason(error)}; check it") from None


def _column(spec: str, file: IO[bytes]) -> Iterator[str]:
    """The column of paths of a .csv or .parquet."""
    import pyarrow
    from pyarrow import csv, parquet

    if is_csv := spec.lower().endswith(".csv"):
        kinds = {COLUMN: pyarrow.binary()}
        table = csv.open_csv(file, convert_options=csv.ConvertOptions(column_types=kinds))
        names, batches = table.schema.names, iter(table)
    else:
        table = parquet.ParquetFile(file)
        names, batches = table.schema_arrow.names, table.iter_batches(10 * GROUP, columns=[COLUMN])
    if COLUMN not in names:
        raise InputError(f"{spec}: it has no column {COLUMN}, only {', '.join(names)[:200]}; name one so")
    for batch in batches:
        values = batch.column(COLUMN)
        if not (pyarrow.types.is_binary(values.type) or pyarrow.types.is_large_binary(values.type)):
            values = values.cast(pyarrow.large_string())
        for path in filter(None, values.to_pylist()):
            yield from_csv_cell(os.fsdecode(path)) if is_csv else os.fsdecode(path)


def _remote(spec: str) -> Iterator[tuple[str, bool]]:
    """Lists the inputs, as `iter_inputs`, of a file, folder or pattern of an object store."""
    files, path = filesystem(spec)
    try:
        if files.isdir(path):
            inside = with_pictures(_below(files, path), f"{spec}: no pictures in this folder")
        elif files.exists(path):
            yield spec, False
            return
        elif has_magic(path):
            tops = [top for top in sorted(files.glob(path), key=natural_key) if not is_litter(_last(top))]
            found = chain.from_iterable(_below(files, top) if files.isdir(top) else [top] for top in tops)
            inside = with_pictures(found, f"{spec}: the pattern matches no picture")
        else:
            raise InputError(f"{spec}: no such file or folder; check the path")
        for one in inside:
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
