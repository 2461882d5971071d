"""Shards of a run: pieces of its listing, each judged by one task and written as one Parquet file, whole."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import socket
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flawscope._version import __version__
from flawscope.artefact.files import atomic
from flawscope.cluster import listing
from flawscope.cluster.connect import require_version
from flawscope.cluster.listing import Entry, Some, Store, filesystem, is_url, reason
from flawscope.errors import FlawscopeError, InputError
from flawscope.pictures.decoding import cannot, frames, name_of
from flawscope.pictures.listing import printable
from flawscope.results.drawing import save_png
from flawscope.results.folder import Drawn
from flawscope.results.prediction import Prediction
from flawscope.results.table import Row, Unjudged, parquet_schema

if TYPE_CHECKING:
    from flawscope.pictures.decoding import Source

FOLDER, OVERLAYS = "parts", "overlays"
SUMMARY = b"flawscope"  # key of the summary in a shard's metadata
FETCHED = 16  # pictures of an object store that are on their way at a time


@dataclass(frozen=True)
class Model:
    """A model file in Ray's object store, so that no node needs to see the file. digest: SHA-256, hex."""

    name: str
    digest: str
    ref: Any

    @classmethod
    def sent(cls, path: str | os.PathLike[str]) -> Model:
        """Puts the file into the object store of the cluster that this process is connected to."""
        import numpy as np
        import ray

        return cls(Path(path).name, digest_of(path), ray.put(np.fromfile(path, np.uint8)))

    def placed(self) -> Path:
        """Path of the model on this node's disk, written once for each model and user."""
        import ray

        user = getattr(os, "getuid", lambda: "")()
        folder = Path(tempfile.gettempdir()) / f"flawscope-{user}" / self.digest[:32]
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = folder / self.name
        if not path.is_file() or digest_of(path) != self.digest:
            with atomic(path) as file:
                file.write(ray.get(self.ref))
        return path


def digest_of(path: str | os.PathLike[str]) -> str:
    """SHA-256 (hex) of a model file."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"cannot read model {path}: {error.strerror}; check the path") from None


@dataclass(frozen=True)
class Job:
    """A run, as its tasks need to know it.

    out: folder or URL of the results. marker: a file there, by which a node sees that it is the same place.
    size: pictures of a shard. inputs: of the listing. roots: folders on disk that the pictures lie in.
    folder: where relative paths begin.
    """

    out: str
    marker: str
    model: Model
    size: int
    inputs: int
    device: str
    threads: int
    engine: str | None = None
    false_alarm_rate: float | None = None
    overlays: bool = False
    roots: tuple[str, ...] = ()
    folder: str = ""
    version: str = __version__

    def entries(self, store: Store, shard: int) -> list[Entry]:
        """The shard's part of the listing."""
        start = shard * self.size
        return listing.read(store, start, min(start + self.size, self.inputs))


@dataclass
class Summary:
    """Counts of one shard or of several. unjudged: the reasons why inputs were not judged. several: files
    with several pictures. undrawn: judged pictures that were not drawn."""

    inputs: int = 0
    judged: int = 0
    anomalous: int = 0
    unjudged: Some = field(default_factory=Some)
    several: Some = field(default_factory=Some)
    undrawn: Some = field(default_factory=Some)

    def add(self, other: Summary) -> None:
        for name in ("inputs", "judged", "anomalous"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("unjudged", "several", "undrawn"):
            more: Some = getattr(other, name)
            getattr(self, name).add(*more.first, count=more.count)


def name(shard: int) -> str:
    return f"{FOLDER}/part-{shard:06}.parquet"


def number(file: str) -> int:
    """Number of the shard that a file in `FOLDER` holds, by its name; -1: none."""
    found = re.fullmatch(r"part-(\d{6,})\.parquet", file)
    return int(found[1]) if found else -1


def read(store: Store, shard: int, columns: Sequence[str] = ()) -> tuple[Summary, Any]:
    """The summary of a written shard, and these columns of it as a pyarrow table.

    Raises:
        FlawscopeError: it cannot be read.
    """
    from pyarrow import ArrowException, parquet

    data = store.read(name(shard))
    try:
        file = parquet.ParquetFile(io.BytesIO(data))
        facts = json.loads(file.schema_arrow.metadata[SUMMARY])
        facts |= {key: Some(**value) for key, value in facts.items() if isinstance(value, dict)}
        return Summary(**facts), file.read([*columns])
    except (ArrowException, KeyError, TypeError, ValueError) as error:
        raise FlawscopeError(
            f"{store.url}/{name(shard)} is damaged ({reason(error)}): remove it, and the same call judges it "
            "again"
        ) from None


# --------------------------------------------------------------------------------------------------- a task


def judge(job: Job, shard: int) -> Summary:
    """Judges and writes a shard, unless a lost process has written it already. Called as a task; the process
    keeps the model for the next one."""
    try:
        judging = _judging(job)
        if judging.store.exists(name(shard)):
            return read(judging.store, shard)[0]
        return judging.judge(shard)
    except MemoryError:
        raise FlawscopeError("a worker has not enough memory for this model") from None


@lru_cache(maxsize=1)
def _judging(job: Job) -> Judging:
    return Judging(job)


class Judging:
    """State of a run in a node's process, with its model.

    Raises:
        InputError: the node has another version, or does not see a folder that it needs.
    """

    def __init__(self, job: Job):
        from flawscope import load

        self.job, node = job, socket.gethostname()
        require_version(job.version)
        self.store = Store(job.out)
        if not self.store.exists(job.marker):
            raise InputError(
                f"node {node} does not see {job.out}: give an --out that all nodes reach under this name"
            )
        for root in job.roots:
            if not os.path.isdir(root):
                raise InputError(
                    f"node {node} does not see {root}: put the pictures where all nodes reach them, under "
                    "this path"
                )
        self.placed = os.path.isdir(job.folder)
        if self.placed:
            os.chdir(job.folder)
        self.predictor = load(
            job.model.placed(),
            engine=job.engine,
            device=job.device,
            threads=job.threads,
            false_alarm_rate=job.false_alarm_rate,
        )

    def entries(self, shard: int) -> list[Entry]:
        """Inputs of a shard. InputError where they are relative and this node does not see their folder."""
        found = self.job.entries(self.store, shard)
        own = (one.path for one in found if not one.error and not is_url(one.path))
        if not self.placed and not all(map(os.path.isabs, own)):
            raise InputError(
                f"node {socket.gethostname()} does not see {self.job.folder}, where relative paths begin: "
                "give absolute ones that all nodes reach"
            )
        return found

    def judge(self, shard: int) -> Summary:
        """Judges a shard and writes it."""
        summary, rows = Summary(), list[dict[str, Any]]()
        for entry, source, result in self._results(self.entries(shard)):
            summary.inputs += 1
            if isinstance(result, Unjudged):
                summary.unjudged.add(printable(result.error))
            else:
                summary.judged += 1
                summary.anomalous += result.is_anomalous
                if not is_url(entry.path) and (held := frames(entry.path)) > 1:
                    summary.several.add(f"{printable(entry.path)} ({held})")
                if self.job.overlays and result.is_anomalous:
                    self._draw(shard, len(rows), entry, source, result, summary)
            rows.append(_row(result))
        self.store.write(name(shard), packed(rows, summary))
        return summary

    def _results(self, entries: Sequence[Entry]) -> Iterator[tuple[Entry, Source, Prediction | Unjudged]]:
        """Yields each path with its prediction, or the reason why there is none, in `predict`'s order."""
        failed: dict[int, str] = {}
        judged = self.predictor.stream(_sources([e for e in entries if not e.error], failed))
        number = 0
        for entry in entries:
            if entry.error:
                yield entry, entry.path, Unjudged(entry.path, entry.error)
                continue
            source, result = next(judged)
            if isinstance(result, Prediction):
                yield entry, source, replace(result, path=entry.path)
            else:
                text = " ".join((failed.get(number) or str(result)).split())
                if isinstance(source, bytes):
                    text = text.replace(name_of(source), entry.path)
                yield entry, source, Unjudged(entry.path, text)
            number += 1

    def _draw(
        self, shard: int, row: int, entry: Entry, source: Source, result: Prediction, summary: Summary
    ) -> None:
        """Writes the overlay, named by shard, row and file."""
        file = io.BytesIO()
        try:
            save_png(file, Drawn.of(source, result).overlay)
        except (InputError, MemoryError) as error:
            summary.undrawn.add(f"{printable(entry.path)}: {error} (scored, but not drawn)")
            return
        stem = re.sub(r"[^\w.-]+", "_", printable(Path(entry.path).stem))[:80]
        self.store.write(f"{OVERLAYS}/part-{shard:06}/{row:04}-{stem}.png", file.getvalue())


def _sources(entries: Sequence[Entry], failed: dict[int, str]) -> Iterator[Source]:
    """Yields paths as they are, and pictures of an object store, fetched ahead. A picture that cannot be
    fetched is empty, with the reason in `failed` by its number."""
    if not any(is_url(entry.path) for entry in entries):
        yield from (Path(entry.path) for entry in entries)
        return
    with ThreadPoolExecutor(FETCHED) as pool:
        asked = (pool.submit(_fetch, number, entry, failed) for number, entry in enumerate(entries))
        coming: deque[Future[Source]] = deque(islice(asked, FETCHED))
        while coming:
            yield coming.popleft().result()
            coming += islice(asked, 1)


def _fetch(number: int, entry: Entry, failed: dict[int, str]) -> Source:
    if not is_url(entry.path):
        return Path(entry.path)
    files, path = filesystem(entry.path)
    try:
        return bytes(files.cat_file(path))
    except FileNotFoundError:
        failed[number] = str(cannot(entry.path, "there is no such file", "check the path"))
    except Exception as error:  # each library has its own
        failed[number] = str(cannot(entry.path, reason(error), "check the path and the rights"))
    return b""


def _row(result: Prediction | Unjudged) -> dict[str, Any]:
    row = asdict(Row.of(result))
    made = {key: printable(value) if isinstance(value, str) else value for key, value in row.items()}
    if isinstance(result, Prediction):
        height, width = result.geometry.picture_size
        made |= {"height": height, "width": width, "shifts": [*map(float, result.shifts)]}
    return made


def packed(rows: Sequence[dict[str, Any]], summary: Summary) -> bytes:
    """A shard's file: the columns of `predict --out FILE.parquet`, the picture's size in pixels, and how far
    it lies outside of the training pictures as a whole (`appearance.FEATURES`)."""
    import pyarrow
    from pyarrow import parquet

    schema = parquet_schema()
    for column in ("height", "width"):
        schema = schema.append(pyarrow.field(column, pyarrow.int32()))
    schema = schema.append(pyarrow.field("shifts", pyarrow.list_(pyarrow.float64())))
    facts = {SUMMARY: json.dumps(asdict(summary)).encode()}
    file = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist([*rows], schema=schema.with_metadata(facts)), file)
    return file.getvalue()
