"""The files of a results folder that flawscope wrote: only these are ever replaced or removed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from flawscope.datasets.files import OWN_LIST, own_files
from flawscope.errors import FlawscopeError, InputError
from flawscope.progress import counted


class OwnFiles:
    """The files of a folder, by the list `OWN_LIST` in it. A file is listed before it is written, so that the
    next run also knows those of a run that was interrupted. Pictures that are listed are nobody's input:
    `datasets.files.walked` passes them over."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.known = set(own_files(folder))

    def begin(self, say: Callable[[str], None]) -> None:
        """Remove what an earlier run wrote; `say` gets a line where the folder is not empty."""
        removed, others = self.clear()
        if removed:
            say(f"{self.folder}: {counted(removed, 'file')} of an earlier run removed")
        if others:
            say(f"{self.folder}: {counted(others, 'other file')} left alone")

    def clear(self) -> tuple[int, int]:
        """Remove what an earlier run wrote: how many files, and how many others are there.

        Raises:
            InputError: they cannot be removed.
        """
        removed = 0
        for name in sorted(self.known):
            try:
                (self.folder / name).unlink()
                removed += 1
            except FileNotFoundError:
                pass
            except OSError as error:
                raise InputError(
                    f"cannot remove {self.folder / name} of an earlier run: {error.strerror}; "
                    "choose another --out"
                ) from None
        folders = {parent for name in self.known for parent in Path(name).parents} - {Path()}
        for folder in sorted(folders, key=lambda folder: -len(folder.parts)):
            with suppress(OSError):  # something else lies in it
                (self.folder / folder).rmdir()
        with suppress(FileNotFoundError):
            (self.folder / OWN_LIST).unlink()
        self.known = set()
        others = sum(len(files) for _, _, files in os.walk(self.folder))
        return removed, others

    def refuse_foreign(self, name: str) -> None:
        """InputError if a file of this name is there that flawscope did not write."""
        if name not in self.known and os.path.lexists(self.folder / name):
            raise InputError(
                f"{self.folder / name} is there already, and no list says that flawscope wrote it: move it, "
                "or choose another --out"
            )

    def path(self, name: str) -> Path:
        """The path to write a file of this name (with forward slashes) to; its folder is made.

        Raises:
            InputError: a file is there that flawscope did not write.
            FlawscopeError: the disk is full, or the folder cannot be written.
        """
        path = self.folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if name not in self.known:
                self.refuse_foreign(name)
                with open(self.folder / OWN_LIST, "a", encoding="ascii") as file:
                    file.write(json.dumps(name) + "\n")
                self.known.add(name)
        except OSError as error:
            raise cannot_write(self.folder, error) from None
        return path


def cannot_write(folder: Path, error: OSError) -> FlawscopeError:
    return FlawscopeError(f"cannot write to {folder}: {error.strerror}; free some space")
