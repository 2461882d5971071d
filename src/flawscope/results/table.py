"""The table of a run, `results.csv` or a Parquet file: a row for every input, judged or not."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

from flawscope.artefact.files import atomic
from flawscope.artefact.files import csv_cell as csv_cell
from flawscope.artefact.files import from_csv_cell as from_csv_cell
from flawscope.errors import FlawscopeError, InputError, needs
from flawscope.results.prediction import Prediction

TABLES = (".csv", ".parquet")  # what `--out` may end in for a table alone
GROUP = 10_000  # rows that are collected for a part of a Parquet file


class Unjudged(NamedTuple):
    """An input that there is no prediction for, and the reason in one line."""

    path: str
    error: str

    def to_dict(self) -> dict[str, Any]:
        """What `predict --json` prints."""
        return {"path": self.path, "decision": None, "error": self.error}


@dataclass(frozen=True)
class Row:
    """One input. Of an unjudged one only the path and the error are known.

    decision: good or anomalous. threshold: the score threshold. regions: boxes in the picture's pixels,
    x0 y0 x1 y1, the strongest first, with semicolons between them.
    """

    path: str
    score: float | None = None
    p_value: float | None = None
    severity: float | None = None
    decision: str = ""
    threshold: float | None = None
    regions: str = ""
    error: str = ""

    @classmethod
    def of(cls, result: Prediction | Unjudged) -> Row:
        if isinstance(result, Unjudged):
            return cls(result.path, error=result.error)
        return cls(
            path=result.path or "",
            score=result.score,
            p_value=result.p_value,
            severity=result.severity,
            decision=result.decision,
            threshold=result.score_threshold,
            regions="; ".join(" ".join(f"{v:.5g}" for v in region.box) for region in result.regions),
        )

    @property
    def boxes(self) -> list[tuple[float, ...]]:
        """The regions' boxes as numbers."""
        return [tuple(map(float, box.split())) for box in self.regions.split(";") if box.strip()]


COLUMNS = tuple(field.name for field in fields(Row))
NUMBERS = ("score", "p_value", "severity", "threshold")


class Table(Protocol):
    """Rows are added one by one; `close` when there are no more."""

    def add(self, row: Row) -> None: ...
    def close(self) -> None: ...


def open_table(path: str | os.PathLike[str], *, append: bool = False) -> Table:
    """A table to write, .csv or .parquet; what was in the file is replaced.

    Args:
        append: go on at the end of a CSV file that is there.

    Raises:
        InputError: another suffix, or the library for Parquet is missing.
        FlawscopeError: the file cannot be written.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".csv":
        return _Csv(path, append)
    if suffix == ".parquet" and not append:
        return _Parquet(path)
    raise InputError(f"{path}: a table ends in {' or '.join(TABLES)}, and only a .csv goes on at its end")


class _Csv:
    """Every row is in the file as soon as it is added."""

    def __init__(self, path: str | os.PathLike[str], append: bool):
        self.path = path
        goes_on = append and os.path.exists(path) and os.path.getsize(path) > 0
        try:
            # a name that is not UTF-8 is written escaped
            self.file: IO[str] = open(  # noqa: SIM115 (closed by `close`)
                path, "a" if append else "w", encoding="utf-8", errors="backslashreplace", newline=""
            )
        except OSError as error:
            raise _cannot_write(path, error) from None
        if not goes_on:
            self._write(COLUMNS)

    def add(self, row: Row) -> None:
        self._write(astuple(row))

    def close(self) -> None:
        try:
            self.file.close()
        except OSError as error:
            raise _cannot_write(self.path, error) from None

    def _write(self, values: Sequence[str | float | None]) -> None:
        try:
            csv.writer(self.file, lineterminator="\n").writerow(map(csv_cell, values))
            self.file.flush()
        except OSError as error:
            raise _cannot_write(self.path, error) from None


def parquet_schema() -> Any:
    """pyarrow's, of the columns of a row.

    Raises:
        InputError: pyarrow is missing.
    """
    try:
        import pyarrow
    except ImportError:
        raise needs("writing .parquet", "pyarrow", extras="parquet") from None
    kinds = {name: pyarrow.float64() if name in NUMBERS else pyarrow.string() for name in COLUMNS}
    return pyarrow.schema(list(kinds.items()))


class _Parquet:
    """Appears when it is closed: its end says where everything is."""

    def __init__(self, path: str | os.PathLike[str]):
        self.schema = parquet_schema()
        import pyarrow
        from pyarrow import parquet

        self.batch, self.waiting = pyarrow.RecordBatch, list[Row]()
        self.whole = atomic(path)
        self.writer = parquet.ParquetWriter(self.whole.__enter__(), self.schema)

    def add(self, row: Row) -> None:
        self.waiting.append(row)
        if len(self.waiting) == GROUP:
            self._write()

    def close(self) -> None:
        self._write()
        self.writer.close()
        self.whole.__exit__(None, None, None)

    def _write(self) -> None:
        rows = [asdict(row) for row in self.waiting]
        self.writer.write_batch(self.batch.from_pylist(rows, schema=self.schema))
        self.waiting = []


def read_table(path: str | os.PathLike[str]) -> list[Row]:
    """The rows of a `results.csv`, as they were written.

    Raises:
        InputError: there is no such file, or it is no table of results.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            found = csv.DictReader(file)
            if not set(COLUMNS) <= set(found.fieldnames or ()):
                raise InputError(f"{path} is no table of results: its columns are not {', '.join(COLUMNS)}")
            return [_row(values) for values in found]
    except FileNotFoundError:
        raise InputError(
            f"there is no {path}: `predict --out DIR` and `evaluate --out DIR` write it"
        ) from None
    except (OSError, UnicodeDecodeError, csv.Error, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"cannot read {path}: {error}; run `predict --out` again") from None


def _row(values: dict[str, str | None]) -> Row:
    numbers = {name: float(text) if (text := values[name]) else None for name in NUMBERS}
    texts = {name: from_csv_cell(values[name] or "") for name in COLUMNS if name not in NUMBERS}
    return Row(**texts, **numbers)  # type: ignore[arg-type]


def _cannot_write(path: str | os.PathLike[str], error: OSError) -> FlawscopeError:
    return FlawscopeError(f"cannot write {path}: {error.strerror}; free some space or choose another --out")
