"""What happens to a picture's file when its inspection is on the disk: it stays, goes, or is moved.

A crash between the record and this leaves a file whose key is known: the next start does it. A moved file
never takes the place of another; where a crash left both, the second try sees that they are the same.
"""

from __future__ import annotations

import filecmp
import os
import shutil
from contextlib import suppress
from itertools import count
from pathlib import Path

from flawscope.artefact.files import PART, sync_folder
from flawscope.station.settings.sources import DELETE, KEEP
from flawscope.station.store.files import give_name
from flawscope.watch import Stamp

UNREADABLE = "unreadable"  # folder below the one that pictures are moved to


class After:
    """Deletes or moves the files of one folder; errors of the file system are the caller's.

    Args:
        then: as in `FolderOf`.
    """

    def __init__(self, folder: Path, then: str):
        self.folder, self.then = folder, then
        self.target = None if then in (KEEP, DELETE) else Path(os.path.abspath(then))
        self.words = "deleted" if self.target is None else f"moved to {self.target}"

    def inspected(self, path: Path, stamp: Stamp) -> None:
        """Do what is to be done: the inspection is on the disk. OSError: try again."""
        if self.target is not None:
            self._move(path, stamp, self.target)
        elif self.then == DELETE and is_still(path, stamp):  # else it was written anew: not inspected yet
            path.unlink(missing_ok=True)

    def unreadable(self, path: Path, stamp: Stamp) -> Path:
        """Return where the file is from now on: only a folder to move to takes it away. OSError."""
        return path if self.target is None else self._move(path, stamp, self.target / UNREADABLE) or path

    def _move(self, path: Path, stamp: Stamp, target: Path) -> Path | None:
        """Move it below the target, by its path in the folder; None where it is not as it was any more."""
        place = target / path.relative_to(self.folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        for number in count():
            there = place.with_stem(f"{place.stem}-{number}") if number else place
            if not is_still(path, stamp):
                return None
            with suppress(FileExistsError):
                if not _is_copy(
                    there, path, stamp
                ):  # else an earlier try ended before the file was gone here
                    _place(path, there)
                with suppress(OSError):  # not every share can
                    sync_folder(there.parent)  # the new name is on the disk before the old one goes
                path.unlink(missing_ok=True)
                return there
        return None


def is_still(path: Path, stamp: Stamp) -> bool:
    """Say whether the file is there as it was."""
    try:
        return Stamp.of(os.stat(path))[:2] == stamp[:2]
    except OSError:
        return False


def _is_copy(there: Path, path: Path, stamp: Stamp) -> bool:
    if there.is_symlink() or not there.is_file() or there.stat().st_size != stamp.size:
        return False
    return filecmp.cmp(path, there, shallow=False)


def _place(path: Path, there: Path) -> None:
    """Give the file a second name, which must be free. FileExistsError."""
    try:
        os.link(path, there)
    except FileExistsError:
        raise
    except OSError:  # on another disk, or on one that gives a file only one name
        part = there.with_name(f".{there.name}{PART}")
        try:
            shutil.copy2(path, part)
            with open(part, "rb+") as file:
                os.fsync(file.fileno())
            give_name(part, there)
        finally:
            part.unlink(missing_ok=True)
