"""Parts of a run: pieces of its listing, each judged by one worker and written as one Parquet file, whole."""

from __future__ import annotations

import io
import json
import os
import re
import secrets
import socket
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from flawscope._version import __version__
from flawscope.cluster import manifest as listing
from flawscope.cluster.connect import require_version
from flawscope.cluster.manifest import Entry
from flawscope.cluster.model_transfer import Sent
from flawscope.cluster.store import Store, filesystem, is_url, reason
from flawscope.datasets.files import printable
from flawscope.errors import FlawscopeError, InputError, one_line
from flawscope.pictures.decoding import cannot, frames, name_of
from flawscope.results.drawing import save_png
from flawscope.results.folder import Drawn
from flawscope.results.prediction import Prediction
from flawscope.results.table import Row, Unjudged, parquet_schema

if TYPE_CHECKING:
    from flawscope.pictures.decoding import Source

FOLDER, OVERLAYS, TRIES = "parts", "overlays", "tries"
RETRIES = 5  # of a part that may have ended the process that judged it; Ray would go on forever
SUMMARY = b"flawscope"  # where the summary lies in a part's metadata
NAMED = 5  # of what a person is told
FETCHED = 16  # pictures of an object store that are on their way at a time


@dataclass(frozen=True)
class Job:
    """What a worker needs to know of the run.

    out: folder or URL of the results. marker: a file there, by which a node sees that it is the same place.
    size: pictures of a part. inputs: of the listing. roots: folders on disk that the pictures lie in.
    folder: where relative paths begin.
    """

    out: str
    marker: str
    model: Sent
    size: int
    inputs: int
    device: str
    threads: int
    false_alarm_rate: float | None = None
    overlays: bool = False
    roots: tuple[str, ...] = ()
    folder: str = ""
    version: str = __version__


@dataclass
class Some:
    """How many there are, and the first of them."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, text: str) -> None:
        self.count += 1
        if len(self.first) < NAMED:
            self.first.append(text)


@dataclass
class Summary:
    """Of a part. size: pictures of a part in its run. several: files with several pictures. undrawn:
    pictures that were judged, but not drawn."""

    size: int
    inputs: int = 0
    judged: int = 0
    anomalous: int = 0
    several: Some = field(default_factory=Some)
    undrawn: Some = field(default_factory=Some)


class Told(NamedTuple):
    """What a worker tells of a part: how many of each. error: why it could not be done; wrong: because of
    the call."""

    part: int
    inputs: int = 0
    judged: int = 0
    anomalous: int = 0
    several: int = 0
    undrawn: int = 0
    error: str = ""
    wrong: bool = False

    @classmethod
    def of(cls, part: int, found: Summary) -> Told:
        counts = found.inputs, found.judged, found.anomalous
        return cls(part, *counts, found.several.count, found.undrawn.count)


def name(part: int) -> str:
    return f"{FOLDER}/part-{part:06}.parquet"


def number(file: str) -> int:
    """The part that a file in `FOLDER` is, by its name; -1: it is none."""
    found = re.fullmatch(r"part-(\d{6,})\.parquet", file)
    return int(found[1]) if found else -1


def read(store: Store, part: int, size: int, columns: Sequence[str] = ()) -> tuple[Summary, Any]:
    """A part that is there: its summary, and these columns of it as a pyarrow table.

    Args:
        size: pictures of a part.

    Raises:
        FlawscopeError: it cannot be read, or parts were of another size when it was written.
    """
    from pyarrow import ArrowException, parquet

    where = f"{store.url}/{name(part)}"
    try:
        file = parquet.ParquetFile(io.BytesIO(store.read(name(part))))
        facts = json.loads(file.schema_arrow.metadata[SUMMARY])
        several, undrawn = (Some(**facts.pop(key)) for key in ("several", "undrawn"))
        found, table = Summary(**facts, several=several, undrawn=undrawn), file.read([*columns])
    except (ArrowException, KeyError, TypeError, ValueError) as error:
        text = f"{where} is damaged ({reason(error)}): remove it, and the same call judges it again"
        raise FlawscopeError(text) from None
    if found.size != size:  # two commands that began in the same moment
        raise FlawscopeError(
            f"{where} is of parts of {found.size:,} pictures, and this run's have {size:,}: remove "
            f"{store.url}/{FOLDER}, and the same call begins anew"
        )
    return found, table


# ------------------------------------------------------------------------------------------------- a worker


class Judge:
    """An actor: holds the model, and judges parts. It raises nothing: what is wrong it tells."""

    def __init__(self, job: Job):
        self.job = job
        self.unfit: Exception | None = None
        try:
            self._begin()
        except Exception as error:
            self.unfit = error

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """`part` [1] int64, the number, to `Told`, each of its fields [1]."""
        part = int(batch["part"][0])
        try:
            if self.unfit is not None:
                raise self.unfit
            if self.store.exists(name(part)):  # by a worker that was lost after it had written
                summary, _ = read(self.store, part, self.job.size)
            else:
                summary = self._tried(part)
            told = Told.of(part, summary)
        except Exception as error:
            text = one_line(error)
            if isinstance(error, MemoryError):
                text = "a worker has not enough memory for this model"
            elif not isinstance(error, FlawscopeError):
                text = f"unexpected {type(error).__name__} on {socket.gethostname()}: {text}"
            told = Told(part, error=text, wrong=isinstance(error, InputError))
        return {key: [value] for key, value in told._asdict().items()}

    def _begin(self) -> None:
        from flawscope.predictor import load

        job, node = self.job, socket.gethostname()
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
        self.again = _takes_over()
        path = job.model.placed()
        self.predictor = load(
            path, device=job.device, threads=job.threads, false_alarm_rate=job.false_alarm_rate
        )

    def _tried(self, part: int) -> Summary:
        """`_judge`. Where this process takes the place of one that was lost, the part may be why: files in
        `TRIES` count how often it was begun then."""
        if not self.again:
            return self._judge(part)
        stem = f"part-{part:06}-"
        before = [one for one in self.store.names(TRIES) if one.startswith(stem)]
        if len(before) >= RETRIES:
            entries = self._entries(part)
            first, last = printable(entries[0].path), printable(entries[-1].path)
            raise FlawscopeError(
                f"processes that judge part {part} end again and again: a picture from {first} to {last} "
                "does so, or the node has not enough memory; look for it with `flawscope predict` there"
            )
        before.append(f"{stem}{secrets.token_hex(4)}")
        self.store.write(f"{TRIES}/{before[-1]}", b"")
        summary = self._judge(part)
        for one in before:
            with suppress(FlawscopeError):  # another process may have done the part, too
                self.store.remove(f"{TRIES}/{one}")
        return summary

    def _entries(self, part: int) -> list[Entry]:
        start = part * self.job.size
        found = listing.read(self.store, start, min(start + self.job.size, self.job.inputs))
        own = (one.path for one in found if not one.error and not is_url(one.path))
        if not self.placed and not all(map(os.path.isabs, own)):
            raise InputError(
                f"node {socket.gethostname()} does not see {self.job.folder}, where relative paths begin: "
                "give absolute ones that all nodes reach"
            )
        return found

    def _judge(self, part: int) -> Summary:
        """Judge a part and write it."""
        job, summary, entries = self.job, Summary(self.job.size), self._entries(part)
        rows: list[dict[str, Any]] = []
        for entry, source, result in self._results(entries):
            if isinstance(result, Prediction):
                summary.judged += 1
                summary.anomalous += result.is_anomalous
                if not is_url(entry.path) and (held := frames(entry.path)) > 1:
                    summary.several.add(f"{printable(entry.path)} ({held})")
                if job.overlays and result.is_anomalous:
                    self._draw(part, len(rows), entry, source, result, summary)
            rows.append(_row(result))
        summary.inputs = len(rows)
        self.store.write(name(part), _packed(rows, summary))
        return summary

    def _results(self, entries: Sequence[Entry]) -> Iterator[tuple[Entry, Source, Prediction | Unjudged]]:
        """As `predict` has them: each path with its prediction, or the reason why there is none."""
        failed: dict[int, str] = {}
        judged = self.predictor.stream(self._sources([e for e in entries if not e.error], failed))
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

    def _sources(self, entries: Sequence[Entry], failed: dict[int, str]) -> Iterator[Source]:
        """Paths as they are; what lies in an object store is fetched ahead. `failed`: why one was not, by
        its number; it is empty then."""
        if not any(is_url(entry.path) for entry in entries):
            yield from (Path(entry.path) for entry in entries)
            return
        left = iter(enumerate(entries))
        with ThreadPoolExecutor(FETCHED) as pool:
            coming: deque[Future[Source]] = deque(
                pool.submit(_fetch, *one, failed) for one in islice(left, FETCHED)
            )
            while coming:
                yield coming.popleft().result()
                coming += (pool.submit(_fetch, *one, failed) for one in islice(left, 1))

    def _draw(
        self, part: int, row: int, entry: Entry, source: Source, result: Prediction, summary: Summary
    ) -> None:
        """The overlay, named by part, row and file."""
        file = io.BytesIO()
        try:
            save_png(file, Drawn.of(source, result).overlay)
        except (InputError, MemoryError) as error:
            summary.undrawn.add(f"{printable(entry.path)}: {error} (scored, but not drawn)")
            return
        stem = re.sub(r"[^\w.-]+", "_", printable(Path(entry.path).stem))[:80]
        self.store.write(f"{OVERLAYS}/part-{part:06}/{row:04}-{stem}.png", file.getvalue())


def _takes_over() -> bool:
    """Whether this actor has lost its process before."""
    import ray

    return ray.is_initialized() and bool(ray.get_runtime_context().was_current_actor_reconstructed)


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


def schema() -> Any:
    """pyarrow's, of a part: the columns of `predict --out FILE.parquet`, the picture's size in pixels, and
    how far it lies outside of the training pictures as a whole (`appearance.FEATURES`)."""
    import pyarrow

    made = parquet_schema()
    for column in ("height", "width"):
        made = made.append(pyarrow.field(column, pyarrow.int32()))
    return made.append(pyarrow.field("shifts", pyarrow.list_(pyarrow.float64())))


def _packed(rows: Sequence[dict[str, Any]], summary: Summary) -> bytes:
    import pyarrow
    from pyarrow import parquet

    facts = {SUMMARY: json.dumps(asdict(summary)).encode()}
    table = pyarrow.Table.from_pylist(list(rows), schema=schema().with_metadata(facts))
    file = io.BytesIO()
    parquet.write_table(table, file)
    return file.getvalue()
