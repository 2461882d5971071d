"""What a person decided, in a file that is complete after every decision."""

from __future__ import annotations

import csv
import io
import os
import time
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from flawscope.errors import FlawscopeError, InputError
from flawscope.results.table import csv_cell, from_csv_cell

FINE, DEFECT, UNDONE = "good", "defect", "undone"


@dataclass(frozen=True)
class Decision:
    """A line of the file. copy: name of the picture's copy. severity, score: when it was judged."""

    time: str
    path: str
    decision: str
    copy: str
    severity: str = ""
    score: str = ""


COLUMNS = tuple(field.name for field in fields(Decision))


class Decisions:
    """The file `review.csv`: lines are only ever added, and are on the disk when `add` returns. Of several
    about one picture the last one holds; `undone` takes the one before back.

    Raises:
        InputError: the file cannot be read, or is another one.
    """

    def __init__(self, path: Path):
        self.path = path
        self.lines: list[Decision] = []
        if not path.exists():
            return
        try:
            text = path.read_bytes().decode("utf-8", "surrogateescape")
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}; choose another --out") from None
        rows = list(csv.reader(io.StringIO(text)))
        if rows and tuple(rows[0]) != COLUMNS:
            raise InputError(f"{path} is not a file of decisions: move it, or choose another --out")
        # a line that was being written when the power failed is passed over
        whole = [row for row in rows[1:] if len(row) == len(COLUMNS) and row[2] in (FINE, DEFECT, UNDONE)]
        self.lines = [Decision(*map(from_csv_cell, row)) for row in whole]

    @property
    def current(self) -> dict[str, Decision]:
        """What holds, by path, the latest decision last."""
        return {one.path: one for one in self._stack()}

    @property
    def last(self) -> Decision | None:
        """What `undo` would take back."""
        return next(reversed(self._stack()), None)

    def copy_of(self, path: str) -> str | None:
        """The name that the picture's copy has had before."""
        return next((one.copy for one in reversed(self.lines) if one.path == path), None)

    @property
    def copies(self) -> dict[str, str]:
        """Names of copies, and whose they are."""
        return {one.copy: one.path for one in self.lines}

    def add(self, path: str, decision: str, copy: str, severity: str = "", score: str = "") -> None:
        """FlawscopeError where it cannot be written: then it does not hold."""
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        line = Decision(now, path, decision, copy, severity, score)
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        try:
            with open(self.path, "ab+") as file:
                size = file.seek(0, os.SEEK_END)
                if not size:
                    rows.writerow(COLUMNS)
                elif file.seek(size - 1) is not None and file.read(1) != b"\n":  # the power failed there
                    text.write("\n")
                rows.writerow(map(csv_cell, astuple(line)))
                file.write(text.getvalue().encode("utf-8", "surrogateescape"))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise FlawscopeError(f"cannot write {self.path}: {error.strerror}; free some space") from None
        self.lines.append(line)

    def _stack(self) -> list[Decision]:
        """What holds, in the order in which it was decided."""
        stack: list[Decision] = []
        for line in self.lines:
            stack = [one for one in stack if one.path != line.path]
            if line.decision != UNDONE:
                stack.append(line)
        return stack
