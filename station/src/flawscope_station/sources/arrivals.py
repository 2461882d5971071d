"""Pictures that appear in a folder: which are new, and when each is whole.

The folder is listed again and again. File-system events would be faster by a fraction of a second, but they
do not come from network shares, they get lost when too many come at once, and they do not tell when a file is
whole: listings would be needed beside them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from flawscope.errors import InputError
from flawscope.pictures import decoding, listing

PATIENCE = 30.0  # seconds that a file which cannot be read may still be incomplete
SETTLE = 2.0  # seconds; shares answer from a cache for 1 to 3 s, and copies have their full size at once
MIN_PAUSE_RATIO = 4  # least ratio of the pause between two scans to a scan's time, to spare a network share
# Formats that cannot be read before they are whole; a part of another can look like the whole picture.
SELF_CHECKING = frozenset({".png", ".jpg", ".jpeg", ".jfif", ".gif", ".jp2"})


class FileStamp(NamedTuple):
    """Identity of a file, whatever its name. `inode` is 0 where the file system has none."""

    size: int
    modified_ns: int  # ns
    inode: int

    @classmethod
    def from_stat(cls, facts: os.stat_result) -> FileStamp:
        return cls(facts.st_size, facts.st_mtime_ns, facts.st_ino)


NO_STAMP = FileStamp(0, 0, 0)  # of a system's file, which is written again and again, and of a folder


class _Listed(NamedTuple):
    """File of a listing. touched_ns: time of the last change of its content, name or rights, in ns."""

    stamp: FileStamp
    touched_ns: int


class _DoneFile(NamedTuple):
    listed: _Listed
    digest: bytes | None  # of the content; None: nobody read it


@dataclass
class _PendingFile:
    stamp: FileStamp
    changed_at: float  # when it was last seen to change
    retry_at: float  # not tried before


class Arrivals:
    """Pictures that appear below a folder, each given out once, when it is whole.

    `scan` lists the folder. A picture is given out when its size and time of change are the same in two
    scans, and in formats that do not show whether they are whole for `settle` seconds; in the order of the
    times of change. The caller answers with `done`, with `failed` where the picture cannot be read, or with
    `later`. A picture that failed is given out again, less and less often, until it has not changed for
    `patience` seconds. A file that was renamed or moved within the folder is not new; one that was written
    anew is, also under its name and with its time, and so is a second name of a file. A file that was touched
    alone (its rights, an attribute) is given out again where its content is known: `content_known` tells.

    Attributes:
        at_start: pictures that were there before.
        gone: pictures that went away before they could be judged, with the stamps that they had.
        others: files that are no pictures, hidden and systems' files and folders, by the last scan.
        took: seconds of the last scan.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        patience: float = PATIENCE,
        settle: float = SETTLE,
        apart: Iterable[str | os.PathLike[str]] = (),
    ):
        """List the folder for the first time.

        Args:
            folder: with its subfolders.
            patience: seconds that a file which cannot be read may still be incomplete.
            settle: seconds that a file of a format that is not `SELF_CHECKING` must not have changed.
            apart: folders in it that are left out.

        Raises:
            InputError: there is no such folder, or it cannot be read.
        """
        self.folder, self.patience, self.settle = Path(os.path.abspath(folder)), patience, settle
        self.apart = frozenset(os.path.abspath(one) for one in apart)
        self._done: dict[Path, _DoneFile] = {}
        self._stamps: dict[FileStamp, Path] = {}  # of `_done`: a file that is renamed keeps it
        self._left: set[Path] = set()  # of `_done`: those that went away
        self._identity: tuple[int, int] | None = None  # of the folder; None: it is away
        self._asides: dict[Path, tuple[FileStamp, float]] = {}  # others, and since when they are as they are
        self._told: set[Path] = set()  # of the others
        self._pending: dict[Path, _PendingFile] = {}
        self.gone: dict[Path, FileStamp] = {}
        self.others: list[Path] = []
        self.took = 0.0
        self.at_start = frozenset(self._list_pictures())

    @property
    def waiting(self) -> int:
        """Number of pictures that are there and not judged yet."""
        return len(self._pending)

    def scan(self, now: float) -> list[Path]:
        """Return the pictures that are whole by now, in the order of their times of change.

        Args:
            now: seconds on a clock that never goes back.

        Raises:
            InputError: the folder cannot be read at the moment.
        """
        try:
            present = self._list_pictures()
        except InputError:
            self._identity = None
            raise
        self._recognise_folder(present)
        ready = []
        for path, listed in present.items():
            if self._is_done(path, listed, present):
                continue
            stamp = listed.stamp
            pending = self._pending.get(path)
            if pending is None or pending.stamp != stamp:
                checked = path.suffix.lower() in SELF_CHECKING
                self._pending[path] = _PendingFile(stamp, now, now if checked else now + self.settle)
            elif now >= pending.retry_at:
                ready.append(path)
        self._forget(present)
        self._asides = {
            path: kept if (kept := self._asides.get(path, (stamp, now)))[0] == stamp else (stamp, now)
            for path, stamp in self._others.items()
        }
        return sorted(ready, key=lambda path: (present[path].stamp.modified_ns, path))

    def passed_over(self, now: float | None = None) -> dict[Path, str]:
        """Return files that are not given out (`others`), each once, with the reason: those that have not
        changed for `patience` seconds, since pictures may have another name while they are written. Without
        `now` all are."""
        found = [
            path
            for path, (_, since) in self._asides.items()
            if path not in self._told and (now is None or now - since >= self.patience)
        ]
        self._told = {path for path in self._told if path in self._asides} | {*found}
        return {path: listing.why_passed_over(path) for path in found}

    def other_stamp(self, path: Path) -> FileStamp:
        """Return the stamp of one of `others`; `NO_STAMP`: its name alone counts."""
        return self._asides[path][0]

    def knows_name(self, path: Path) -> bool:
        """Whether a picture that was given out was judged under this name, and only touched since then, or
        overwritten with the same size and time."""
        return path in self._done and self._done[path].listed.stamp[:2] == self.stamp(path)[:2]

    def content_known(self, path: Path, digest: bytes) -> bool:
        """Whether a picture that was given out was judged with this content, of this name and time."""
        return self.knows_name(path) and self._done[path].digest == digest

    def stamp(self, path: Path) -> FileStamp:
        """Return the stamp, in the last scan, of a picture that was given out and not answered."""
        return self._pending[path].stamp

    def done(self, path: Path, *, removed: bool = False, digest: bytes | None = None) -> None:
        """Answer that a picture was judged, as it was in the last scan.

        Args:
            removed: so was the file, by the caller: another of the same name is new.
            digest: of the content; without it a change that leaves size and time alone is not seen.
        """
        stamp = self._pending.pop(path).stamp
        if removed:
            if path in self._done:
                self._forget_done(path)
        else:
            self._remember(path, self._listed.get(path, _Listed(stamp, 0)), digest)

    def stamps(self) -> set[FileStamp]:
        """Return the stamps of all pictures that are there, and of some that went away."""
        return {*self._stamps} | {one.stamp for one in self._pending.values()}

    def later(self, path: Path, again: float) -> None:
        """Answer that a picture is to be given out again, not before this moment."""
        self._pending[path].retry_at = again

    def failed(self, path: Path, now: float) -> bool:
        """Answer that a picture cannot be read; return whether it is given up: it had time to become
        whole."""
        pending = self._pending[path]
        if now - pending.changed_at >= self.patience:
            self.done(path)
            return True
        self.later(path, min(now + (now - pending.changed_at), pending.changed_at + self.patience))
        return False

    # ---- what is there

    def _list_pictures(self) -> dict[Path, _Listed]:
        begun = time.monotonic()
        found: dict[Path, _Listed] = {}
        self._others: dict[Path, FileStamp] = {}
        for path, listed, is_regular in _iter_files(self.folder, self.apart):
            if is_regular and decoding.is_picture(path):
                found[path] = listed
            else:
                self._others[path] = listed.stamp
        self.others, self._listed = [*self._others], found
        self.took = time.monotonic() - begun
        return found

    def _recognise_folder(self, present: Mapping[Path, _Listed]) -> None:
        """Take the files of a share that was away for those from before, whatever their inodes are now."""
        identity = _identity(self.folder)
        if identity == self._identity or not present:
            return
        self._identity = identity
        for path, listed in present.items():
            known = self._done.get(path)
            if known is not None and known.listed.stamp[:2] == listed.stamp[:2]:
                self._left.discard(path)
                self._remember(path, listed, known.digest)

    def _is_done(self, path: Path, listed: _Listed, present: Mapping[Path, _Listed]) -> bool:
        stamp, known = listed.stamp, self._done.get(path)
        if known is not None and known.listed.stamp[:2] == stamp[:2]:
            if known.listed == listed or (known.digest is None and path not in self._left):
                self._left.discard(path)
                return True
            is_other = path in self._left or known.listed.stamp.inode != stamp.inode
            if is_other:  # it was copied here again
                self._forget_done(path)
            return False
        before = self._stamps.get(stamp)
        if not stamp.inode or before is None:
            return False
        if (there := present.get(before)) is not None and there.stamp == stamp:
            return False  # a second name of the file
        self._pending.pop(path, None)
        digest = self._forget_done(before)
        self._remember(path, listed, digest)
        return True

    def _remember(self, path: Path, listed: _Listed, digest: bytes | None = None) -> None:
        self._done[path] = _DoneFile(listed, digest)
        self._stamps[listed.stamp] = path

    def _forget_done(self, path: Path) -> bytes | None:
        """Forget a picture; return the digest of its content, if it is known."""
        self._left.discard(path)
        known = self._done.pop(path)
        if self._stamps.get(known.listed.stamp) == path:
            del self._stamps[known.listed.stamp]
        return known.digest

    def _forget(self, present: Mapping[Path, _Listed]) -> None:
        """Forget files that are gone. A folder that is away, or another, is no evidence."""
        inodes = {listed.stamp.inode for listed in present.values()}
        for path in self._pending.keys() - present.keys():
            stamp = self._pending.pop(path).stamp
            if not stamp.inode or stamp.inode not in inodes:  # else it was renamed
                self.gone[path] = stamp
        if self._identity is not None and _identity(self.folder) == self._identity:
            self._left |= self._done.keys() - present.keys()
        if present and len(self._done) > 2 * len(present):  # now and then
            self._done = {path: one for path, one in self._done.items() if path in present}
            self._stamps = {one.listed.stamp: path for path, one in self._done.items()}
            self._left &= self._done.keys()


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(folder)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _iter_files(folder: Path, apart: frozenset[str]) -> Iterator[tuple[Path, _Listed, bool]]:
    """Yield every file of `pictures.listing.walk_files`, unsorted, for there may be very many, and whether it
    is a regular one that may be a picture. Others are hidden and systems' files and folders, and links that
    lead nowhere. Files that vanish meanwhile are left out, and what macOS notes beside a file that is there.
    InputError where the folder itself cannot be read."""
    folders, seen = [folder], set()
    while folders:
        current = folders.pop()
        try:
            identity = os.stat(current)
            if (identity.st_dev, identity.st_ino) in seen:
                continue
            seen.add((identity.st_dev, identity.st_ino))
            with os.scandir(current) as files:
                entries = list(files)
        except OSError as error:
            if current == folder or not isinstance(error, FileNotFoundError):
                raise listing.folder_error(current, error) from None
            continue
        own = {
            os.fspath(current / name) for name in (*listing.read_output_list(current), listing.OUTPUT_LIST)
        }
        names = {entry.name for entry in entries}
        for entry in entries:
            path, is_ignored = entry.path, listing.is_ignored(entry.name)
            if path in own or path in apart or entry.name.removeprefix("._") in names - {entry.name}:
                continue
            with suppress(OSError):  # gone, or a link that leads nowhere
                is_folder = entry.is_dir()
                if is_folder and not is_ignored:
                    folders.append(Path(path))
                elif is_folder or entry.name.casefold() in listing.IGNORED_NAMES:
                    yield Path(path), _Listed(NO_STAMP, 0), False
                else:
                    is_regular = entry.is_file() and not is_ignored
                    # on Windows entries have no inode
                    facts = os.stat(path, follow_symlinks=is_regular)
                    yield Path(path), _Listed(FileStamp.from_stat(facts), facts.st_ctime_ns), is_regular
