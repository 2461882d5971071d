"""Pictures that appear in a folder: which are new, and when each is whole.

The folder is listed again and again. File-system events would be faster by a fraction of a second, but they
do not come from network shares, they get lost when too many come at once, and they do not say when a file is
whole: listings would be needed beside them. A folder's own time of change is a hint to look for new names.

Names, inodes and times decide which files are read, but never that a picture is known: only its content does.
To keep a listing short, it asks for the times of a part of the known files, in turn.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from flawscope.errors import InputError
from flawscope.pictures import decoding, listing

PATIENCE = 30.0  # seconds that a file which cannot be read may still be incomplete
WRITTEN = "flawscope wrote it, among its results"
SETTLE = 2.0  # seconds; shares answer from a cache for 1 to 3 s, and copies have their full size at once
STATS_PER_LISTING = 2000  # files that are known, at most, whose times a listing asks for
COARSE_NS = 10_000_000  # ns; times that are multiples of it are of a file system that rounds them
# Formats that cannot be read before they are whole; a part of another can look like the whole picture.
SELF_CHECKING = frozenset({".png", ".jpg", ".jpeg", ".jfif", ".gif", ".jp2"})


class FileStamp(NamedTuple):
    """Identity of a file, whatever its name; `inode` is 0 where the file system has none."""

    size: int
    modified_ns: int  # ns
    inode: int

    @classmethod
    def from_stat(cls, facts: os.stat_result) -> FileStamp:
        """Return the stamp in the result of `os.stat`."""
        return cls(facts.st_size, facts.st_mtime_ns, facts.st_ino)


NO_STAMP = FileStamp(0, 0, 0)  # of a system's file, which is written again and again, and of a folder


class _Listed(NamedTuple):
    """File of a listing.

    Attributes:
        stamp: Identity of the file.
        touched_ns: Time of the last change of its content, name or rights, in ns.
    """

    stamp: FileStamp
    touched_ns: int

    @classmethod
    def of(cls, path: str, *, follow: bool = True) -> _Listed:
        """Ask for a file's times; a folder's entries have no inode on Windows.

        Raises:
            OSError: the file is gone, or cannot be asked.
        """
        facts = os.stat(path, follow_symlinks=follow)
        return cls(FileStamp.from_stat(facts), facts.st_ctime_ns)


class _DoneFile(NamedTuple):
    listed: _Listed
    digest: bytes | None  # of the content; None: nobody read it


@dataclass
class _PendingFile:
    listed: _Listed
    changed_at: float  # when it was last seen to change
    retry_at: float  # not tried before


class Arrivals:
    """Pictures that appear below a folder, each given out once, when it is whole.

    `scan` lists the folder; `look` looks for new names, and at the pictures that wait. A picture is given out
    when its size and time of change are the same twice, and in formats that do not show whether they are
    whole for `settle` seconds; in the order of the times of change. The caller answers with `done`, with
    `failed` where the picture cannot be read, or with `later`. A picture that failed is given out again, less
    and less often, until it has not changed for `patience` seconds. A file with another name, inode or time
    than the judged one is given out, also after a mere renaming or touch: `content_known`, and the caller's
    store, decide whether the picture is known.

    Attributes:
        at_start: Paths of the pictures that were there before.
        gone: Pictures that went away before they could be judged, with their last stamps.
        overwritten: Pictures that another file replaced before they could be judged, with their stamps.
        took: Seconds of the last scan.
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
            folder: Watched folder, with its subfolders.
            patience: Seconds that a file which cannot be read may still be incomplete.
            settle: Seconds without a change after which a file of a format that is not `SELF_CHECKING` is
                whole.
            apart: Folders in it that are left out.

        Raises:
            InputError: there is no such folder, or it cannot be read.
        """
        self.folder = Path(os.path.abspath(folder))
        self.patience = patience
        self.settle = settle
        self.apart = frozenset(os.path.abspath(path) for path in apart)
        self._done: dict[str, _DoneFile] = {}
        self._left: set[str] = set()  # of `_done`: those that went away
        self._identity: tuple[int, int] | None = None  # of the folder; None: it is away
        self._asides: dict[str, tuple[FileStamp, float]] = {}  # others, and since when they are as they are
        self._reported: set[str] = set()  # of the others
        self._written: set[str] = set()  # of the others: what flawscope wrote
        self._pending: dict[str, _PendingFile] = {}
        self._turn = 0  # of the known files that are looked at
        self.gone: dict[Path, FileStamp] = {}
        self.overwritten: list[tuple[Path, FileStamp]] = []
        self.took = 0.0
        self._list_files()
        self.at_start = frozenset(self._present)

    @property
    def waiting(self) -> int:
        """Number of pictures that are there and not judged yet."""
        return len(self._pending)

    @property
    def others(self) -> list[Path]:
        """Files that are no pictures, hidden and systems' files and folders, by the last scan."""
        return [Path(path) for path in self._others]

    def scan(self, now: float) -> list[Path]:
        """List the folder; return the pictures that are whole by now, in the order of their times of change.

        Args:
            now: seconds on a clock that never goes back.

        Raises:
            InputError: the folder cannot be read at the moment.
        """
        try:
            self._list_files()
        except InputError:
            self._identity = None
            raise
        self._recognise_folder()
        ready = [
            path
            for path, listed in self._asked.items()
            if not self._is_done(path, listed) and self._is_whole(path, listed, now)
        ]
        self._forget()
        self._asides = {
            path: kept if (kept := self._asides.get(path, (stamp, now)))[0] == stamp else (stamp, now)
            for path, stamp in self._others.items()
        }
        return self._in_order(ready)

    def look(self, now: float) -> list[Path]:
        """Return the pictures that are whole by now, among those that wait and new names.

        The next scan finds new files that a folder's time of change does not show.
        """
        for folder in self._folders:
            with suppress(OSError):
                self._take_new_names(folder, now)
        ready = []
        for path in [*self._pending]:
            try:
                listed = self._present[path] = _Listed.of(path)
            except OSError:  # gone: the next scan tells, when it may be done with under another name
                stamp = self._pending[path].listed.stamp
                if _is_among(
                    stamp, [arrival.listed.stamp for key, arrival in self._pending.items() if key != path]
                ):
                    del self._pending[path]
                continue
            if self._is_whole(path, listed, now):
                ready.append(path)
        return self._in_order(ready)

    def passed_over(self, now: float) -> dict[Path, str]:
        """Return files that are not given out (`others`), each once, with the reason.

        They have not changed for `patience` seconds: pictures may have another name while they are written.
        """
        found = [
            path
            for path, (_, since) in self._asides.items()
            if path not in self._reported and now - since >= self.patience
        ]
        self._reported = {path for path in self._reported if path in self._asides} | {*found}
        return {Path(p): WRITTEN if p in self._written else listing.reason_not_judged(p) for p in found}

    def other_stamp(self, path: Path) -> FileStamp:
        """Return the stamp of a file in `others`; `NO_STAMP`: its name alone counts."""
        return self._asides[str(path)][0]

    def content_known(self, path: Path, digest: bytes) -> bool:
        """Return whether a picture that was given out was judged with this content, name and time."""
        known = self._done.get(str(path))
        return known is not None and known.digest == digest and known.listed.stamp[:2] == self.stamp(path)[:2]

    def stamp(self, path: Path) -> FileStamp:
        """Return the last stamp of a picture that was given out and not answered."""
        return self._pending[str(path)].listed.stamp

    def unchanged_since(self, path: Path) -> float:
        """Return when a picture that was given out and not answered was last seen to change."""
        return self._pending[str(path)].changed_at

    def pending(self) -> set[Path]:
        """Return the pictures that are there and not judged yet."""
        return {Path(path) for path in self._pending}

    def done(self, path: Path, *, removed: bool = False, digest: bytes | None = None) -> None:
        """Answer that a picture was judged, as it was at its last stamp.

        Args:
            path: Path of the picture.
            removed: Whether the caller removed the file: another file of its name is new.
            digest: SHA-256 of the content; None: nobody read it.
        """
        name = str(path)
        listed = self._pending.pop(name).listed
        self._forget_done(name)
        if not removed:
            self._done[name] = _DoneFile(listed, digest)

    def judged_stamp(self, path: Path) -> FileStamp | None:
        """Return the stamp of a picture that was judged and is there; None for others."""
        name = str(path)
        return self._done[name].listed.stamp if name in self._done and name not in self._left else None

    def check(self, path: Path, digest: bytes) -> bool:
        """Compare the content of a judged picture; a picture with another content is given out again.

        Returns:
            Whether the content is the same.
        """
        known = self._done[str(path)]
        if known.digest not in (None, digest):
            self._forget_done(str(path))
            return False
        self._done[str(path)] = known._replace(digest=digest)
        return True

    def is_coarse(self, path: Path) -> bool:
        """Return whether the times of a judged picture come from a file system that rounds them.

        Such times do not show that the file was written again.
        """
        known = self._done.get(str(path))
        return known is not None and known.listed.touched_ns % COARSE_NS == 0

    def stamps(self) -> set[FileStamp]:
        """Return the stamps of all pictures that are there, and of some that went away."""
        judged = {arrival.listed.stamp for arrival in self._done.values()}
        return judged | {arrival.listed.stamp for arrival in self._pending.values()}

    def later(self, path: Path, again: float) -> None:
        """Answer that a picture is to be given out again, not before the moment `again`."""
        self._pending[str(path)].retry_at = again

    def failed(self, path: Path, now: float) -> bool:
        """Answer that a picture cannot be read.

        Returns:
            Whether it is to be given up: it had time to become whole.
        """
        pending = self._pending[str(path)]
        if now - pending.changed_at >= self.patience:
            return True
        self.later(path, min(now + (now - pending.changed_at), pending.changed_at + self.patience))
        return False

    # ---- what is there

    def _is_done(self, path: str, listed: _Listed) -> bool:
        known = self._done.get(path)
        if known is None or (known.listed == listed and path not in self._left):
            return known is not None
        if path in self._left or known.listed.stamp.inode != listed.stamp.inode:  # it was copied here again
            self._forget_done(path)
        return False

    def _is_whole(self, path: str, listed: _Listed, now: float) -> bool:
        """Return whether a picture that is not judged is to be given out now."""
        pending = self._pending.get(path)
        if pending is not None and pending.listed.stamp == listed.stamp:
            pending.listed = listed
            return now >= pending.retry_at
        if pending is not None and _came_in_its_place(pending.listed.stamp, listed.stamp):
            self.overwritten.append((Path(path), pending.listed.stamp))
        is_checked = os.path.splitext(path)[1].lower() in SELF_CHECKING
        self._pending[path] = _PendingFile(listed, now, now if is_checked else now + self.settle)
        return False

    def _take_new_names(self, folder: str, now: float) -> None:
        """Let pictures wait that came to a folder since it was listed, as far as its time of change shows."""
        changed = os.stat(folder).st_mtime_ns
        if changed == self._folders[folder]:
            return
        names = {*os.listdir(folder)}
        new = names - self._names[folder]
        self._folders[folder], self._names[folder] = changed, names
        if new:  # among them may be results, which are listed before they are written
            self._written.update(*(_written_below(parent) for parent in (folder, *self._parents(folder))))
        for name in new:
            path = os.path.join(folder, name)
            is_wanted = decoding.is_picture(path) and not listing.is_ignored(name)
            if is_wanted and path not in self._written and path not in self.apart and os.path.isfile(path):
                listed = self._present[path] = _Listed.of(path)
                if not self._is_done(path, listed):
                    self._is_whole(path, listed, now)

    def _parents(self, folder: str) -> list[str]:
        """Return the folders between the watched one and a folder in it, the watched one included."""
        root = os.fspath(self.folder)
        return [os.fspath(parent) for parent in Path(folder).parents if parent.is_relative_to(root)]

    def _in_order(self, ready: list[str]) -> list[Path]:
        paths = sorted(ready, key=lambda path: (self._present[path].stamp.modified_ns, path))
        return [Path(path) for path in paths]

    def _recognise_folder(self) -> None:
        """Take the files of a share that is back as the files from before, whatever their inodes are now.

        Their content is compared later.
        """
        identity = _identity(self.folder)
        if identity == self._identity or not self._present:
            return
        self._identity = identity
        for path, listed in self._present.items():
            known = self._done.get(path)
            if known is not None and known.listed.stamp[:2] == listed.stamp[:2]:
                self._left.discard(path)
                self._done[path] = known._replace(listed=listed)

    def _forget_done(self, path: str) -> None:
        self._left.discard(path)
        self._done.pop(path, None)

    def _forget(self) -> None:
        """Forget files that are gone; a folder that is away, or another in its place, is no evidence."""
        present = self._present
        if gone := self._pending.keys() - present.keys():
            stamps = {listed.stamp for listed in present.values()}
            for path in gone:
                stamp = self._pending.pop(path).listed.stamp
                if not _is_among(stamp, stamps):  # else it was renamed
                    self.gone[Path(path)] = stamp
        is_there = self._identity is not None and _identity(self.folder) == self._identity
        if is_there and self._known_there + len(self._left) < len(self._done):
            self._left |= self._done.keys() - present.keys()
        if present and len(self._done) > 2 * len(present):  # now and then
            self._done = {path: arrival for path, arrival in self._done.items() if path in present}
            self._left &= self._done.keys()

    def _list_files(self) -> None:
        """List the folder, unsorted, for there may be very many files.

        It asks for the times of a part of the known files, in turn.

        Raises:
            InputError: the folder itself cannot be read.
        """
        begun = time.monotonic()
        self._present: dict[str, _Listed] = {}  # pictures
        self._asked: dict[str, _Listed] = {}  # of these, those whose times were asked for
        self._known_there = 0  # of `_done`
        self._others: dict[str, FileStamp] = {}
        self._folders: dict[str, int] = {}  # and their times of change
        self._names: dict[str, set[str]] = {}  # in each folder
        before = self._written
        self._written = set()
        folders = [os.fspath(self.folder)]
        seen = set()
        while folders:
            current = folders.pop()
            try:
                facts = os.stat(current)
                if (facts.st_dev, facts.st_ino) in seen:
                    continue
                seen.add((facts.st_dev, facts.st_ino))
                with os.scandir(current) as files:
                    entries = list(files)
            except OSError as error:
                if current == os.fspath(self.folder) or not isinstance(error, FileNotFoundError):
                    raise listing.folder_error(Path(current), error) from None
                continue
            self._folders[current] = facts.st_mtime_ns
            names = self._names[current] = {entry.name for entry in entries}
            if listing.OUTPUT_LIST in names or names.issuperset(listing.RESULTS):
                self._written |= _written_below(current)
            folders += self._sort_entries(current, entries)
        self._reported -= before - self._written  # their list is gone: they are parts
        self._turn += 1
        self.took = time.monotonic() - begun

    def _sort_entries(self, folder: str, entries: list[os.DirEntry[str]]) -> list[str]:
        """Sort the entries of a folder into pictures and others; return its subfolders.

        Files that vanish meanwhile are left out, and files that macOS keeps beside a file that is there.
        """
        folders: list[str] = []
        names = self._names[folder]
        for entry in self._pass_known(entries):
            path = entry.path
            if path in self._written:
                if decoding.is_picture(path) or entry.is_dir():
                    self._others[path] = NO_STAMP
            elif path in self._reported and path in self._asides:
                self._others[path] = self._asides[path][0]
            elif path not in self.apart and not (
                entry.name.startswith("._") and entry.name.removeprefix("._") in names
            ):
                with suppress(OSError):  # gone
                    self._sort_entry(entry, folders)
        return folders

    def _pass_known(self, entries: list[os.DirEntry[str]]) -> list[os.DirEntry[str]]:
        """Take known files, of which there may be very many, as they were; return the other entries.

        Their times are to be asked for.
        """
        done = self._done
        present = self._present
        turn = self._turn
        unsettled = self._pending.keys() | self._left
        shares = 1 + len(done) // STATS_PER_LISTING
        rest = []
        for entry in entries:
            path = entry.path
            known = done.get(path)
            if known is not None:
                self._known_there += 1
                if (hash(path) + turn) % shares and path not in unsettled:
                    present[path] = known.listed
                    continue
            rest.append(entry)
        return rest

    def _sort_entry(self, entry: os.DirEntry[str], folders: list[str]) -> None:
        path = entry.path
        is_ignored = listing.is_ignored(entry.name)
        is_folder = entry.is_dir()
        if is_folder and not is_ignored:
            folders.append(path)
        elif is_folder or entry.name.casefold() in listing.IGNORED_NAMES:
            self._others[path] = NO_STAMP
        else:
            is_regular = entry.is_file() and not is_ignored  # else hidden, or a link that leads nowhere
            listed = _Listed.of(path, follow=is_regular)
            if is_regular and (path in self._done or decoding.is_picture(path)):
                self._present[path] = self._asked[path] = listed
            else:
                self._others[path] = listed.stamp


def _written_below(folder: str) -> set[str]:
    """Return the paths below a folder that flawscope wrote, its list included."""
    return {
        os.fspath(path) for path in (Path(folder, listing.OUTPUT_LIST), *listing.written_below(Path(folder)))
    }


def _is_among(stamp: FileStamp, others: Collection[FileStamp]) -> bool:
    """Return whether a file that went away is there under another name.

    Where times are rounded, another file may have its inode, size and time.
    """
    return bool(stamp.inode) and stamp.modified_ns % COARSE_NS != 0 and stamp in others


def _came_in_its_place(before: FileStamp, after: FileStamp) -> bool:
    """Return whether another file replaced a file that held something.

    False where the file was written in place, or its file system has no inodes.
    """
    is_another = before.inode != after.inode and 0 not in (before.inode, after.inode)
    return is_another and before[:2] != after[:2] and before.size > 0


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(folder)
    except OSError:
        return None
    return status.st_dev, status.st_ino
