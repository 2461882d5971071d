"""Files as they were at one moment, and their names as a data base takes them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple


class Mark(NamedTuple):
    """A file as it was at one moment."""

    changed: int  # ns
    size: int

    @classmethod
    def of(cls, facts: os.stat_result) -> Mark:
        return cls(facts.st_mtime_ns, facts.st_size)

    @property
    def ending(self) -> str:
        """Of the key."""
        return f":{self.changed}:{self.size}"


def mark_of(path: Path) -> Mark | None:
    """None where the file is not there."""
    try:
        return Mark.of(os.stat(path))
    except OSError:
        return None


def read_as(path: Path, mark: Mark) -> bytes | None:
    """The file, if it is as it was and stays so meanwhile; None where it changes or went away."""
    try:
        with open(path, "rb") as file:
            if Mark.of(os.fstat(file.fileno())) != mark:
                return None
            data = file.read(mark.size + 1)
            return data if Mark.of(os.fstat(file.fileno())) == mark and len(data) == mark.size else None
    except FileNotFoundError:
        return None


def plain(text: str) -> str:
    """A file's name can hold bytes that are no letters, which a data base does not take."""
    return text.encode("utf-8", "replace").decode("utf-8")
