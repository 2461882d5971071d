"""What happens to a picture's file when its inspection is on the disk: it stays, goes, or is moved.

A crash between the record and this leaves a file whose key is known: the next start does it. A moved file
never takes the place of another; where a crash left both, the second try sees that they are the same.
"""

from __future__ import annotations

import filecmp
import os
import shutil
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from flawscope.progress import counted
from flawscope.station.settings.sources import DELETE, KEEP
from flawscope.station.sources.file_stamp import Mark, mark_of

UNREADABLE = "unreadable"  # folder below the one that pictures are moved to
SHORTEST, LONGEST = 1.0, 300.0  # seconds before it is tried again
REMEMBERED = 60.0  # seconds for which a listing from a cache may still show a file that has gone


@dataclass
class _Again:
    mark: Mark
    at: float
    delay: float
    why: str


class After:
    """Of one folder.

    Args:
        then: as in `FolderOf`.

    Attributes:
        undone: files that could not be removed or moved yet.
    """

    def __init__(self, folder: Path, then: str):
        self.folder, self.then = folder, then
        self.target = None if then in (KEEP, DELETE) else Path(os.path.abspath(then))
        self.undone: dict[Path, _Again] = {}
        self._gone: deque[tuple[float, Path]] = deque()

    def inspected(self, path: Path, mark: Mark) -> None:
        """Its inspection is on the disk."""
        if self.then != KEEP:
            self._try(path, mark)

    def unreadable(self, path: Path, mark: Mark) -> Path:
        """Where the file is from now on: only a folder to move to takes it away."""
        if self.target is None:
            return path
        try:
            return self._move(path, mark, self.target / UNREADABLE) or path
        except OSError as error:
            self._put_off(path, mark, error)
            return path

    def again(self) -> None:
        """Try what could not be done, when it is due."""
        for path, one in list(self.undone.items()):
            if one.at <= time.monotonic():
                self._try(path, one.mark)

    def gone(self) -> Iterator[Path]:
        """Files that went by this a while ago."""
        while self._gone and self._gone[0][0] < time.monotonic() - REMEMBERED:
            yield self._gone.popleft()[1]

    @property
    def problem(self) -> str | None:
        last = next(reversed(list(self.undone.values())), None)
        if last is None:
            return None
        what = "deleted" if self.target is None else f"moved to {self.target}"
        pictures = counted(len(self.undone), "inspected picture")
        return f"{pictures} in {self.folder} cannot be {what}: {last.why}"

    def _try(self, path: Path, mark: Mark) -> None:
        try:
            if self.target is None:
                if mark_of(path) == mark:  # else it was written anew, and that is not inspected yet
                    path.unlink(missing_ok=True)
            else:
                self._move(path, mark, self.target)
        except OSError as error:
            self._put_off(path, mark, error)
            return
        self.undone.pop(path, None)
        self._gone.append((time.monotonic(), path))

    def _put_off(self, path: Path, mark: Mark, error: OSError) -> None:
        before = self.undone.pop(path, None)
        delay = SHORTEST if before is None else min(LONGEST, 2 * before.delay)
        why = error.strerror or type(error).__name__
        self.undone[path] = _Again(mark, time.monotonic() + delay, delay, why)

    def _move(self, path: Path, mark: Mark, target: Path) -> Path | None:
        """Below the target by its path in the folder; None where it is not as it was any more."""
        place = target / path.relative_to(self.folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        for number in count():
            there = place.with_stem(f"{place.stem}-{number}") if number else place
            if mark_of(path) != mark:
                return None
            with suppress(FileExistsError):
                if os.path.lexists(there):
                    if not _same(path, there, mark):
                        continue
                else:
                    _place(path, there)
                _flush(there.parent)
                path.unlink(missing_ok=True)
                return there
        return None


def _same(path: Path, there: Path, mark: Mark) -> bool:
    """Whether an earlier try brought the file there, and ended before it was gone here."""
    if there.is_symlink() or not there.is_file():
        return False
    return there.stat().st_size == mark.size and filecmp.cmp(path, there, shallow=False)


def _place(path: Path, there: Path) -> None:
    """The file under a second name, which must be free. FileExistsError."""
    try:
        os.link(path, there)
    except FileExistsError:
        raise
    except OSError:  # on another disk, or on one that gives a file only one name
        part = there.with_name(f".{there.name}.part")
        shutil.copy2(path, part)
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        try:
            _rename(part, there)
        finally:
            part.unlink(missing_ok=True)


def _rename(part: Path, there: Path) -> None:
    try:
        os.link(part, there)
    except FileExistsError:
        raise
    except OSError:
        if os.path.lexists(there):
            raise FileExistsError(there) from None
        part.rename(there)


def _flush(folder: Path) -> None:
    """So that the new name is on the disk before the old one goes."""
    if os.name != "posix":
        return
    with suppress(OSError):  # not every share can
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
