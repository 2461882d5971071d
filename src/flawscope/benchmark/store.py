"""The folder of a benchmark: finished cells, work that was begun, and who may write."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from flawscope.artefact.files import atomic
from flawscope.benchmark.grid import Cell
from flawscope.errors import InputError

FORMAT = 1


class Store:
    """Where the files of a benchmark lie, below the folder `root`."""

    def __init__(self, root: Path):
        self.root = Path(os.path.abspath(root))
        self.cells = self.root / "cells"

    def cell(self, cell: Cell) -> Path:
        """Its results: there, whole, or not at all."""
        return self.cells / f"{cell.name}.json"

    def work(self, cell: Cell) -> Path:
        """The folder of a cell that has begun; removed when the cell is done."""
        return self.root / "work" / cell.name

    def clear(self, cell: Cell) -> None:
        """Remove the work of a cell that is done; whoever did it may have been killed before that."""
        shutil.rmtree(self.work(cell), ignore_errors=True)

    def model(self, cell: Cell) -> Path:
        return self.root / "models" / f"{cell.name}.safetensors"

    def prepare(self) -> None:
        """Make the folders, and remove what writers that were killed have left."""
        self.cells.mkdir(parents=True, exist_ok=True)
        for path in self.root.rglob(".*.part"):
            with suppress(OSError):
                path.unlink()

    def read(self, cell: Cell) -> dict[str, Any] | None:
        """The document of a finished cell; None where it is not done, or was not written by this program."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            document = json.loads(self.cell(cell).read_text(encoding="utf-8"))
            if document["format"] == FORMAT and document["identity"] == cell.identity:
                return dict(document)
        return None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other benchmarks out of this folder. If this process is killed, its cells end with it."""
        try:
            import fcntl
        except ImportError:  # Windows
            yield
            return
        with open(self.root / ".lock", "wb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(
                    f"another benchmark works in {self.root}: wait for it, or choose another --out"
                ) from None
            except OSError:  # a file system without locks
                pass
            yield


def write_json(path: str | os.PathLike[str], document: Any) -> None:
    """Write it whole or not at all."""
    with atomic(path) as file:
        file.write(f"{json.dumps(document, indent=1, allow_nan=False)}\n".encode())
