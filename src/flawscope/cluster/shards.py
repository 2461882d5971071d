"""A run of `predict` on a cluster, and its shards.

A shard is a range of the listing. A task judges it, and writes its results as one Parquet file.
"""

from __future__ import annotations

import io
import json
import math
import os
import socket
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from flawscope._version import __version__
from flawscope.artefact.files import atomic_write, file_sha256
from flawscope.cluster import listing
from flawscope.cluster.connect import prepare_node
from flawscope.cluster.listing import Entry, FileStore, ListingInfo, TruncatedList
from flawscope.errors import FlawscopeError, InputError, one_line_message
from flawscope.pictures.listing import printable
from flawscope.results.prediction import Prediction, codes_beyond_promise
from flawscope.results.table import FLOAT_COLUMNS, ResultRow, Unjudged, table_columns

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from pyarrow import Table
    from ray import ObjectRef

    from flawscope.predictor import Predictor
    from flawscope.types import Json

RUN_FILE = "run.json"
PARTS_FOLDER = "parts"


@dataclass(frozen=True)
class Run:
    """Contents of `run.json` in a folder of results. Tasks read it, and so does a call that continues a run.

    Attributes:
        call: Arguments of the call, by name.
        listing: Facts about the listing.
        size: Number of pictures in a shard.
        device: Kind of device that all scores are computed on, cpu or cuda.
    """

    call: Json
    listing: ListingInfo
    size: int
    device: str

    @classmethod
    def read(cls, store: FileStore) -> Run:
        """Read the run from `run.json`.

        Raises:
            InputError: The file is not of a run on a cluster.
        """
        try:
            document = json.loads(store.read(RUN_FILE))
            document["listing"]["beside"] = TruncatedList(**document["listing"]["beside"])
            document["listing"] = ListingInfo(**document["listing"])
            return cls(**document)
        except (ValueError, KeyError, TypeError):
            raise InputError(
                f"{store.root / RUN_FILE} is not of a run on a cluster: choose another --out"
            ) from None

    def write(self, store: FileStore) -> None:
        """Write the run to `run.json`; raise FlawscopeError if that fails."""
        store.write(RUN_FILE, f"{json.dumps(asdict(self), indent=1)}\n".encode())

    @property
    def shards(self) -> int:
        """Number of all shards."""
        return math.ceil(self.listing.inputs / self.size)

    def entries(self, store: FileStore, shard: int) -> list[Entry]:
        """Read the inputs of a shard from the listing."""
        start = shard * self.size
        return listing.read(store, start, min(start + self.size, self.listing.inputs))

    def count_inputs(self, shards: Sequence[int]) -> int:
        """Return the number of inputs in these shards."""
        return sum(min(self.size, self.listing.inputs - shard * self.size) for shard in shards)

    def missing_shards(self, store: FileStore) -> list[int]:
        """Return the numbers of the shards that are not written."""
        written_names = set(store.list_names(PARTS_FOLDER))
        return [shard for shard in range(self.shards) if Path(shard_path(shard)).name not in written_names]


def shard_path(shard: int) -> str:
    """Return the name of a shard's file in the store."""
    return f"{PARTS_FOLDER}/part-{shard:06}.parquet"


def read_shard(store: FileStore, shard: int) -> Table:
    """Read a written shard as a pyarrow table with a row for each input.

    Rows that describe one of several parts in a picture are left out. The columns are path, decision,
    severity, error, shifts, and `beyond_promise`: codes of the findings for which the false-alarm rate does
    not hold.

    Raises:
        FlawscopeError: The file cannot be read, or is damaged.
    """
    from pyarrow import ArrowException, parquet

    data = store.read(shard_path(shard))
    try:
        file = parquet.ParquetFile(io.BytesIO(data))
        columns = ["path", "decision", "severity", "error", "shifts", "beyond_promise", "part_index"]
        table = file.read(columns)
        if "part_index" in table.column_names:
            table = table.filter(table["part_index"].is_null())  # null: not the row of a part
        return table
    except (ArrowException, KeyError, TypeError, ValueError) as error:
        raise FlawscopeError(
            f"{store.root / shard_path(shard)} is damaged ({one_line_message(error)}): remove it, and the "
            "same call judges it again"
        ) from None


# --------------------------------------------------------------------------------------------------- a task


@dataclass(frozen=True)
class Job:
    """Arguments of a run's tasks. The model is in Ray's object store: no node needs to see its file.

    Attributes:
        out: Folder of the results.
        model: Name of the model file, without its folder.
        digest: SHA-256 (hex) of the model file.
        content: The model file's bytes in Ray.
        version: Version of flawscope that the tasks need.
    """

    out: str
    model: str
    digest: str
    content: ObjectRef[NDArray[np.uint8]]
    version: str = __version__

    @classmethod
    def upload(cls, out: str, model: str | os.PathLike[str]) -> Job:
        """Put the model file into the object store of the cluster to which this process is connected."""
        import numpy as np
        import ray

        digest = file_sha256(model)
        content = ray.put(np.fromfile(model, np.uint8))
        return cls(out, Path(model).name, digest, content)

    def local_model(self) -> Path:
        """Return the path of a copy of the model on this node's disk; write the copy if it is missing."""
        import ray

        user = os.getuid() if hasattr(os, "getuid") else ""  # Windows has no user ids
        folder = Path(tempfile.gettempdir()) / f"flawscope-{user}" / self.digest[:32]
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = folder / self.model
        has_copy = path.is_file() and file_sha256(path) == self.digest
        if not has_copy:
            with atomic_write(path) as file:
                file.write(ray.get(self.content).data)
        return path


def judge_shard(job: Job, shard: int) -> int:
    """Judge a shard and write it, unless its file exists.

    The file exists if an earlier process was lost after writing it. This function runs as a task; the
    process keeps the model for the next task.

    Returns:
        The number of inputs in the shard.
    """
    try:
        store, run, predictor = _open_run(job)
        entries = run.entries(store, shard)
        if not store.exists(shard_path(shard)):
            _judge_entries(store, predictor, shard, entries)
        return len(entries)
    except MemoryError:
        raise FlawscopeError("a worker has not enough memory for this model") from None


@lru_cache(maxsize=1)
def _open_run(job: Job) -> tuple[FileStore, Run, Predictor]:
    """Open a run on a node, and return its folder of results, its `run.json`, and its model.

    Raises:
        InputError: The node has another version, or does not see a folder that the run needs.
    """
    from flawscope.predictor import Predictor
    from flawscope.predictor.router import load

    prepare_node(job.version, ".")  # the version is checked before a file of the run is read
    store = FileStore(job.out)
    node = socket.gethostname()
    if not store.exists(RUN_FILE):
        raise InputError(
            f"node {node} does not see {job.out}: give an --out that all nodes reach under this name"
        )
    run = Run.read(store)
    for root in run.listing.roots:
        if not os.path.isdir(root):
            raise InputError(
                f"node {node} does not see {root}: put the pictures where all nodes reach them, under this "
                "path"
            )
    prepare_node(job.version, run.call["folder"])  # relative paths of the call begin there
    predictor = load(
        job.local_model(),
        engine=run.call["engine"],
        device="cuda" if run.device == "cuda" else run.call["device"],
        threads=run.call["threads"],
        false_alarm_rate=run.call["false-alarm-rate"],
    )
    assert isinstance(predictor, Predictor)  # a run has the model of one product
    return store, run, predictor


def _judge_entries(store: FileStore, predictor: Predictor, shard: int, entries: Sequence[Entry]) -> None:
    """Judge the inputs of a shard, and write its file."""
    rows: list[Json] = []
    # an input that is no picture is replaced by empty bytes, for which the stream yields an error
    sources = [b"" if entry.error else Path(entry.path) for entry in entries]
    for entry, (_, result) in zip(entries, predictor.stream(sources), strict=True):
        path = printable(entry.path)
        if isinstance(result, Prediction):
            rows += _prediction_rows(replace(result, path=path))
        else:
            text = entry.error or str(result)
            reason = printable(" ".join(text.split()))
            row = ResultRow.from_result(Unjudged(path, reason))
            rows.append(asdict(row))
    manifest = predictor.manifest
    columns = table_columns(
        kinds=manifest.kinds is not None, aligned=manifest.preprocess.reference is not None
    )
    store.write(shard_path(shard), encode_shard(rows, columns))


def _prediction_rows(prediction: Prediction) -> list[Json]:
    """Return the row of a picture, with the columns of a shard, then a row for each of several parts."""
    picture_row, *part_rows = map(asdict, ResultRow.rows(prediction))
    picture_row["height"], picture_row["width"] = prediction.geometry.picture_size
    picture_row["shifts"] = [*map(float, prediction.shifts)]
    picture_row["beyond_promise"] = codes_beyond_promise(prediction)
    return [picture_row, *part_rows]


def encode_shard(rows: Sequence[Json], columns: Sequence[str]) -> bytes:
    """Encode a shard's Parquet file.

    The file has the columns of `predict --out FILE.csv`, and four more: height and width of the picture in
    pixels; `shifts`, the picture's distances from the training pictures (`appearance.FEATURES`); and
    `beyond_promise`, for a good picture the codes of findings for which the false-alarm rate does not hold.

    Args:
        rows: Rows by column; a missing value is null.
        columns: Columns of the table `predict --out FILE.csv`.
    """
    import pyarrow
    from pyarrow import parquet

    type_by_column = {
        name: pyarrow.float64() if name in FLOAT_COLUMNS else pyarrow.string() for name in columns
    }
    type_by_column |= {
        "height": pyarrow.int32(),
        "width": pyarrow.int32(),
        "shifts": pyarrow.list_(pyarrow.float64()),
        "beyond_promise": pyarrow.list_(pyarrow.string()),
    }
    schema = pyarrow.schema(list(type_by_column.items()))
    file = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist([*rows], schema=schema), file)
    return file.getvalue()
