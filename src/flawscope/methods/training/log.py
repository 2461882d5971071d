"""Log of a training: a row for every step."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from flawscope.artefact.files import atomic_write
from flawscope.errors import FlawscopeError

# after which rows are written: reading a loss makes a device wait
FLUSH_ROWS = 64
FLUSH_SECONDS = 2.0


class TrainingLog:
    """CSV file with a row for every step of a training.

    The columns are step, loss, the loss's parts if there are several, rate (the learning rate), seconds (of
    training, without interruptions), and values that are measured at times.
    """

    def __init__(
        self,
        path: Path | None,
        losses: Sequence[str],
        measured: Sequence[str] = (),
        *,
        done: int = 0,
    ):
        """Start the file; a training that continues keeps its rows.

        Args:
            path: The CSV file; None: there is none.
            losses: Names of the parts of the loss.
            measured: Names of the values that are measured at times.
            done: Steps that are done. Rows of later steps, which are done again, are removed.

        Raises:
            FlawscopeError: The file cannot be written.
        """
        self.path, self.parts, self.measured = path, tuple(losses) if len(losses) > 1 else (), tuple(measured)
        self.columns = ("step", "loss", *self.parts, "rate", "seconds", *self.measured)
        self._pending: list[tuple[Tensor, dict[str, float]]] = []  # losses, and the row's others
        self._written = time.monotonic()
        if path is not None:
            self._start_file(path, done)

    def add(self, step: int, losses: Tensor, rate: float, seconds: float) -> None:
        """Add a step; `losses` [L] in the order of their names."""
        if len(self._pending) >= FLUSH_ROWS or time.monotonic() - self._written >= FLUSH_SECONDS:
            self.flush()
        self._pending.append((losses, {"step": step, "rate": rate, "seconds": seconds}))

    def measure(self, values: Mapping[str, float]) -> None:
        """Add values measured after the step that was added last."""
        if self._pending:
            self._pending[-1][1].update(values)

    def flush(self) -> None:
        """Write the rows that wait.

        Raises:
            FlawscopeError: The file cannot be written: the disk is full.
        """
        waiting, self._pending, self._written = self._pending, [], time.monotonic()
        if not waiting:
            return
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        for parts, (_, row) in zip(torch.stack([w[0] for w in waiting]).tolist(), waiting, strict=True):
            row |= {"loss": sum(parts), **dict(zip(self.parts, parts, strict=False))}
            rows.writerow([_format_value(name, row.get(name)) for name in self.columns])
        if self.path is not None:
            try:
                with open(self.path, "a", encoding="utf-8") as file:
                    file.write(text.getvalue())
            except OSError as error:
                raise FlawscopeError(f"cannot write {self.path}: {error.strerror}; free some space") from None

    def close(self) -> None:
        """Write the rows that wait."""
        self.flush()

    def _start_file(self, path: Path, done: int) -> None:
        """Write the header, and the rows of the steps that are done, as they were."""
        kept: list[list[str]] = []
        if done and path.is_file():
            with open(path, encoding="utf-8", errors="replace", newline="") as file:
                header, *rows = [*csv.reader(file)] or [[]]
            if tuple(header) == self.columns:
                kept = [row for row in rows if len(row) == len(header) and row[0].isdecimal()]
                kept = [row for row in kept if int(row[0]) <= done]
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([self.columns, *kept])
        with atomic_write(path) as out:
            out.write(text.getvalue().encode())


def _format_value(name: str, value: float | None) -> str:
    """Return the text of a value for the CSV file."""
    if value is None:
        return ""
    return f"{value:.2f}" if name == "seconds" else str(value) if name == "step" else f"{value:.6g}"
