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

# Rows are written after so many rows or seconds, not at each step: to read a loss, a GPU must wait
FLUSH_ROWS = 64
FLUSH_SECONDS = 2.0


class TrainingLog:
    """CSV file with a row for every step of a training.

    The columns are step, loss, the parts of the loss if there are several, rate (the learning rate), seconds
    (time of training, without interruptions), and values that are measured after some steps only.
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
            path: The CSV file; None: no log is written.
            losses: Names of the parts of the loss.
            measured: Names of the values that are measured after some steps only.
            done: Number of steps done. Rows of later steps are removed: these steps will be done again.

        Raises:
            FlawscopeError: The file cannot be written.
        """
        self.path = path
        self.parts = tuple(losses) if len(losses) > 1 else ()
        self.measured = tuple(measured)
        self.columns = ("step", "loss", *self.parts, "rate", "seconds", *self.measured)
        self._pending: list[tuple[Tensor, dict[str, float]]] = []  # losses and other values of each row
        self._flush_time = time.monotonic()
        if path is not None:
            self._start_file(path, done)

    def add(self, step: int, losses: Tensor, rate: float, seconds: float) -> None:
        """Add the row of a step.

        Args:
            step: Number of the step, from 1.
            losses: The parts of the loss, `[L]`.
            rate: The learning rate.
            seconds: Time of training until now.

        Raises:
            FlawscopeError: The file cannot be written.
        """
        if len(self._pending) >= FLUSH_ROWS or time.monotonic() - self._flush_time >= FLUSH_SECONDS:
            self.flush()
        self._pending.append((losses, {"step": step, "rate": rate, "seconds": seconds}))

    def measure(self, values: Mapping[str, float]) -> None:
        """Add values that were measured after the last step to its row."""
        if self._pending:
            _, row = self._pending[-1]
            row.update(values)

    def flush(self) -> None:
        """Write the rows that are not written yet.

        Raises:
            FlawscopeError: The file cannot be written: the disk is full.
        """
        pending = self._pending
        self._pending = []
        self._flush_time = time.monotonic()
        if not pending:
            return
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        losses_of_rows = torch.stack([losses for losses, _ in pending]).tolist()  # one transfer for all rows
        for losses, (_, row) in zip(losses_of_rows, pending, strict=True):
            row["loss"] = sum(losses)
            row.update(zip(self.parts, losses, strict=False))  # `parts` is empty if there is one loss
            writer.writerow([_format_value(name, row.get(name)) for name in self.columns])
        if self.path is not None:
            try:
                with open(self.path, "a", encoding="utf-8") as file:
                    file.write(text.getvalue())
            except OSError as error:
                raise FlawscopeError(f"cannot write {self.path}: {error.strerror}; free some space") from None

    def close(self) -> None:
        """Write the rows that are not written yet."""
        self.flush()

    def _start_file(self, path: Path, done: int) -> None:
        """Write the header again, and the rows of the first `done` steps unchanged; drop all other rows."""
        done_rows: list[list[str]] = []
        if done and path.is_file():
            with open(path, encoding="utf-8", errors="replace", newline="") as file:
                lines = [*csv.reader(file)]
            header, *rows = lines or [[]]  # an empty file has an empty header
            if tuple(header) == self.columns:
                valid_rows = [row for row in rows if len(row) == len(header) and row[0].isdecimal()]
                done_rows = [row for row in valid_rows if int(row[0]) <= done]
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([self.columns, *done_rows])
        with atomic_write(path) as out:
            out.write(text.getvalue().encode())


def _format_value(name: str, value: float | None) -> str:
    """Return the text of a column's value for the CSV file."""
    if value is None:
        return ""
    if name == "seconds":
        return f"{value:.2f}"
    return str(value) if name == "step" else f"{value:.6g}"
