"""The table of a run, `results.csv` or a Parquet file: a row for every input, judged or not."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

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
        """The document that `predict --json` prints."""
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


class Table:
    """A table to write, .csv or .parquet; what was in the file is replaced. In a CSV file a row is there as
    soon as it is added; a Parquet file appears when it is closed.

    Args:
        append: go on at the end of a CSV file that is there.

    Raises:
        InputError: another suffix, or the library for Parquet is missing.
        FlawscopeError: the file cannot be written; also of `add` and `close`.
    """

    def __init__(self, path: str | os.PathLike[str], *, append: bool = False):
        self.path, self.stack, self.waiting = Path(path), ExitStack(), list[Row]()
        suffix = self.path.suffix.lower()
        if suffix not in TABLES or (append and suffix != ".csv"):
            ends = " or ".join(TABLES)
            raise InputError(f"{path}: a table ends in {ends}, and only a .csv goes on at its end")
        if suffix == ".parquet":
            self.schema = parquet_schema()
            from pyarrow import parquet

            whole = self.stack.enter_context(atomic(path))
            self.parquet = self.stack.enter_context(parquet.ParquetWriter(whole, self.schema))
            return
        self.parquet = None
        goes_on = append and os.path.exists(path) and os.path.getsize(path) > 0
        with self._reported():  # a name that is not UTF-8 is written escaped
            mode = "a" if append else "w"
            self.file = open(path, mode, encoding="utf-8", errors="backslashreplace", newline="")  # noqa: SIM115
            self.stack.enter_context(self.file)
        if not goes_on:
            self._write(COLUMNS)

    def add(self, row: Row) -> None:
        if self.parquet is None:
            self._write(astuple(row))
            return
        self.waiting.append(row)
        if len(self.waiting) == GROUP:
            self._write_group()

    def close(self) -> None:
        """There are no more rows."""
        if self.parquet is not None:
            self._write_group()
        with self._reported():
            self.stack.close()

    def _write(self, values: Sequence[str | float | None]) -> None:
        with self._reported():
            csv.writer(self.file, lineterminator="\n").writerow(map(csv_cell, values))
            self.file.flush()

    def _write_group(self) -> None:
        import pyarrow

        rows = [asdict(row) for row in self.waiting]
        self.parquet.write_batch(pyarrow.RecordBatch.from_pylist(rows, schema=self.schema))
        self.waiting = []

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            remedy = "free some space or choose another --out"
            raise FlawscopeError(f"cannot write {self.path}: {error.strerror}; {remedy}") from None


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
