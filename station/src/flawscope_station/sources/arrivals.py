"""Pictures that appear in a folder: which are new, and when each file is whole.

The folder is listed again and again. File-system events would be faster by a fraction of a second, but they
do not come from network shares, they get lost when too many come at once, and they do not say when a file is
whole: listings would be needed beside them. A folder's own time of change is a hint to look for new names.

Names, inodes and times decide which files are read, but never that a picture is known: only its content does.
To keep a listing short, it asks for the times of only a share of the known files, another share each time.
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
STATS_PER_LISTING = 2000  # most known files whose times a listing asks for
COARSE_NS = 10_000_000  # ns; times that are multiples of it are of a file system that rounds them
# Formats that cannot be read before they are whole; a part of a file in another format may look whole.
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

    def has_same_times(self, other: FileStamp) -> bool:
        """Return whether size and time of change are the same, whatever the inodes."""
        return (self.size, self.modified_ns) == (other.size, other.modified_ns)


# stamp of a folder, and of a system's file, which is written again and again
NO_STAMP = FileStamp(0, 0, 0)


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
        """Read stamp and times of a file; the entries of `os.scandir` have no inode on Windows.

        Raises:
            OSError: The file is gone, or its times cannot be read.
        """
        facts = os.stat(path, follow_symlinks=follow)
        return cls(FileStamp.from_stat(facts), facts.st_ctime_ns)


class _DoneFile(NamedTuple):
    """Picture that was judged.

    Attributes:
        listed: File as it was when it was judged.
        digest: SHA-256 of the content; None: nobody read it.
    """

    listed: _Listed
    digest: bytes | None


@dataclass
class _PendingFile:
    """Picture that waits.

    Attributes:
        listed: File as it was listed last.
        changed_at: Time at which it was last seen to change.
        retry_at: Time before which it is not given out.
    """

    listed: _Listed
    changed_at: float
    retry_at: float


class _OtherFile(NamedTuple):
    """File that is not given out.

    Attributes:
        stamp: Identity of the file.
        unchanged_since: Time since which it has this stamp.
    """

    stamp: FileStamp
    unchanged_since: float


class Arrivals:
    """Pictures that appear below a folder, each given out once, when it is whole.

    `scan` lists the folder; `look` looks for new names, and at the pictures that wait. A picture is given out
    when two looks have seen the same size and time of change; a picture in a format that does not show
    whether it is whole must also have been the same for `settle` seconds. The order is that of the times of
    change.

    The caller answers with `done`, with `failed` where the picture cannot be read, or with `later`. A picture
    that failed is given out again, less and less often, until it has not changed for `patience` seconds. A
    file with another name, inode or time than the judged file is given out, even if it was only renamed or
    touched. Whether the picture is known, `content_known` and the caller's store decide.

    Attributes:
        at_start: Paths of the pictures that were there at the first listing.
        gone: Pictures that went away before they could be judged, with their last stamps.
        overwritten: Pictures that another file replaced before they could be judged, with their stamps.
        took: Seconds that the last scan took.
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
            apart: Folders below it that are left out.

        Raises:
            InputError: There is no such folder, or it cannot be read.
        """
        self.folder = Path(os.path.abspath(folder))
        self.patience = patience
        self.settle = settle
        self.apart = frozenset(os.path.abspath(path) for path in apart)
        self._done: dict[str, _DoneFile] = {}
        self._absent: set[str] = set()  # paths in `_done` whose files went away
        self._identity: tuple[int, int] | None = None  # device and inode of the folder; None: it is away
        self._other_files: dict[str, _OtherFile] = {}  # files that are not given out, by path
        self._reported: set[str] = set()  # paths of other files that `passed_over` has returned
        self._written: set[str] = set()  # paths of files that flawscope wrote
        self._pending: dict[str, _PendingFile] = {}
        self._turn = 0  # number of listings; selects the known files whose times a listing reads
        self.gone: dict[Path, FileStamp] = {}
        self.overwritten: list[tuple[Path, FileStamp]] = []
        self.took = 0.0
        self._list_files()
        self.at_start = frozenset(self._present)

    @property
    def waiting(self) -> int:
        """Number of pictures that are in the folder and not judged yet."""
        return len(self._pending)

    @property
    def others(self) -> list[Path]:
        """Files that are no pictures, and hidden or systems' files and folders, by the last scan."""
        return [Path(path) for path in self._others]

    def scan(self, now: float) -> list[Path]:
        """List the folder; return the pictures that are whole by now, in the order of their times of change.

        Args:
            now: Seconds on a clock that never goes back.

        Raises:
            InputError: The folder cannot be read at the moment.
        """
        try:
            self._list_files()
        except InputError:
            self._identity = None  # when the folder is back, `_recognise_folder` compares its files
            raise
        self._recognise_folder()
        ready = [
            path
            for path, listed in self._fresh.items()
            if not self._is_done(path, listed) and self._is_whole(path, listed, now)
        ]
        self._forget_gone()
        # an unchanged file keeps its entry, which has the time since which it is unchanged
        other_files = dict[str, _OtherFile]()
        for path, stamp in self._others.items():
            other_file = self._other_files.get(path)
            if other_file is None or other_file.stamp != stamp:
                other_file = _OtherFile(stamp, now)
            other_files[path] = other_file
        self._other_files = other_files
        return self._sort_by_time(ready)

    def look(self, now: float) -> list[Path]:
        """Look at waiting pictures and at new names, and return the pictures that are whole by now.

        The next scan finds new files that a folder's time of change does not show.
        """
        for folder in self._folders:
            with suppress(OSError):
                self._take_new_names(folder, now)
        ready = []
        for path in [*self._pending]:
            try:
                listed = _Listed.of(path)
            except OSError:
                self._drop_renamed(path)
                continue
            self._present[path] = listed
            if self._is_whole(path, listed, now):
                ready.append(path)
        return self._sort_by_time(ready)

    def _drop_renamed(self, path: str) -> None:
        """Drop a waiting picture that is gone, if it waits under another name; else leave it to `scan`."""
        stamp = self._pending[path].listed.stamp
        stamps = [pending.listed.stamp for name, pending in self._pending.items() if name != path]
        if _is_among(stamp, stamps):
            del self._pending[path]

    def passed_over(self, now: float) -> dict[Path, str]:
        """Return files that are not given out (`others`), with the reason; each file is returned once.

        A file is returned only after it has not changed for `patience` seconds, as it may be a picture that
        has another name while it is written.
        """
        new_paths = [
            path
            for path, other_file in self._other_files.items()
            if path not in self._reported and now - other_file.unchanged_since >= self.patience
        ]
        still_there = {path for path in self._reported if path in self._other_files}
        self._reported = still_there | {*new_paths}
        reasons = dict[Path, str]()
        for path in new_paths:
            reasons[Path(path)] = WRITTEN if path in self._written else listing.reason_not_judged(path)
        return reasons

    def other_stamp(self, path: Path) -> FileStamp:
        """Return the stamp of a file in `others`; `NO_STAMP`: its name alone counts."""
        return self._other_files[str(path)].stamp

    def content_known(self, path: Path, digest: bytes) -> bool:
        """Return whether a picture that was given out was judged with this content, name and time."""
        done_file = self._done.get(str(path))
        if done_file is None or done_file.digest != digest:
            return False
        return done_file.listed.stamp.has_same_times(self.stamp(path))

    def stamp(self, path: Path) -> FileStamp:
        """Return the last stamp of a picture that was given out and not answered."""
        return self._pending[str(path)].listed.stamp

    def unchanged_since(self, path: Path) -> float:
        """Return when a picture that was given out and not answered was last seen to change."""
        return self._pending[str(path)].changed_at

    def pending(self) -> set[Path]:
        """Return the pictures that are in the folder and not judged yet."""
        return {Path(path) for path in self._pending}

    def done(self, path: Path, *, removed: bool = False, digest: bytes | None = None) -> None:
        """Note that a picture was judged, with the stamp that it had last.

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
        """Return the stamp of a picture that was judged and is in the folder; None for another file."""
        name = str(path)
        if name not in self._done or name in self._absent:
            return None
        return self._done[name].listed.stamp

    def check(self, path: Path, digest: bytes) -> bool:
        """Compare the content of a judged picture; a picture with another content is given out again.

        Returns:
            Whether the picture stays judged. False: its content is another one than before.
        """
        done_file = self._done[str(path)]
        has_other_content = done_file.digest is not None and done_file.digest != digest
        if has_other_content:
            self._forget_done(str(path))
            return False
        self._done[str(path)] = done_file._replace(digest=digest)
        return True

    def is_coarse(self, path: Path) -> bool:
        """Return whether the times of a judged picture look rounded by the file system.

        Such times do not show that the file was written again.
        """
        done_file = self._done.get(str(path))
        return done_file is not None and done_file.listed.touched_ns % COARSE_NS == 0

    def stamps(self) -> set[FileStamp]:
        """Return the stamps of all pictures in the folder, and of some that went away."""
        judged_stamps = {arrival.listed.stamp for arrival in self._done.values()}
        return judged_stamps | {arrival.listed.stamp for arrival in self._pending.values()}

    def later(self, path: Path, again: float) -> None:
        """Answer that a picture is to be given out again, but not before the time `again`."""
        self._pending[str(path)].retry_at = again

    def failed(self, path: Path, now: float) -> bool:
        """Note that a picture cannot be read, and let it wait for another try.

        Returns:
            Whether the caller should give the picture up: it had time to become whole.
        """
        pending_file = self._pending[str(path)]
        unchanged_seconds = now - pending_file.changed_at
        if unchanged_seconds >= self.patience:
            return True
        # the pause doubles at each failure, up to the end of the patience
        self.later(path, min(now + unchanged_seconds, pending_file.changed_at + self.patience))
        return False

    # ---- files of the folder

    def _is_done(self, path: str, listed: _Listed) -> bool:
        """Return whether a picture was judged as it is; forget that if another file is in its place."""
        done_file = self._done.get(path)
        if done_file is None:
            return False
        if path not in self._absent and done_file.listed == listed:
            return True
        if path in self._absent or done_file.listed.stamp.inode != listed.stamp.inode:
            self._forget_done(path)
        # a changed file with the same inode stays known: it may have the same content (`content_known`)
        return False

    def _is_whole(self, path: str, listed: _Listed, now: float) -> bool:
        """Return whether a picture that is not judged is whole by now.

        A new or changed picture waits, at least until the next look: at first it is never whole.
        """
        pending_file = self._pending.get(path)
        if pending_file is not None and pending_file.listed.stamp == listed.stamp:  # it has not changed
            pending_file.listed = listed
            return now >= pending_file.retry_at
        if pending_file is not None and _is_replaced(pending_file.listed.stamp, listed.stamp):
            self.overwritten.append((Path(path), pending_file.listed.stamp))
        _, suffix = os.path.splitext(path)
        retry_at = now if suffix.lower() in SELF_CHECKING else now + self.settle
        self._pending[path] = _PendingFile(listed, now, retry_at)
        return False

    def _take_new_names(self, folder: str, now: float) -> None:
        """Note pictures that came to a folder since it was listed, if its time of change shows new names."""
        modified_ns = os.stat(folder).st_mtime_ns
        if modified_ns == self._folders[folder]:
            return
        names = {*os.listdir(folder)}
        new_names = names - self._names[folder]
        self._folders[folder] = modified_ns
        self._names[folder] = names
        if new_names:  # they may be results of flawscope, which writes their list before the files
            for parent in (folder, *self._parents(folder)):
                self._written.update(_written_below(parent))
        for name in new_names:
            path = os.path.join(folder, name)
            is_picture = decoding.is_picture(path) and not listing.is_ignored(name)
            if is_picture and path not in self._written and path not in self.apart and os.path.isfile(path):
                listed = _Listed.of(path)
                self._present[path] = listed
                if not self._is_done(path, listed):
                    self._is_whole(path, listed, now)  # a new picture: from now on it waits

    def _parents(self, folder: str) -> list[str]:
        """Return the folders between the watched one and a folder in it, the watched one included."""
        root = os.fspath(self.folder)
        return [os.fspath(parent) for parent in Path(folder).parents if parent.is_relative_to(root)]

    def _sort_by_time(self, ready: list[str]) -> list[Path]:
        """Return pictures in the order of their times of change."""
        paths = sorted(ready, key=lambda path: (self._present[path].stamp.modified_ns, path))
        return [Path(path) for path in paths]

    def _recognise_folder(self) -> None:
        """Recognise the judged files of a folder that was away and is back.

        On a network share they may have other inodes now, so path, size and time of change count. The
        content of the files is compared later.
        """
        identity = _identity(self.folder)
        # an empty folder may be a share that cannot be reached
        if identity == self._identity or not self._present:
            return
        self._identity = identity
        for path, listed in self._present.items():
            done_file = self._done.get(path)
            if done_file is not None and done_file.listed.stamp.has_same_times(listed.stamp):
                self._absent.discard(path)
                self._done[path] = done_file._replace(listed=listed)

    def _forget_done(self, path: str) -> None:
        """Forget that a picture was judged."""
        self._absent.discard(path)
        self._done.pop(path, None)

    def _forget_gone(self) -> None:
        """Forget files that are gone, but judged files only if the folder is the same as before.

        A network share that cannot be reached looks like another, empty folder.
        """
        present = self._present
        if gone_paths := self._pending.keys() - present.keys():
            stamps = {listed.stamp for listed in present.values()}
            for path in gone_paths:
                stamp = self._pending.pop(path).listed.stamp
                was_renamed = _is_among(stamp, stamps)
                if not was_renamed:
                    self.gone[Path(path)] = stamp
        is_same_folder = self._identity is not None and _identity(self.folder) == self._identity
        # a judged file is in the folder, or known to be absent, or has gone away since the last listing
        accounted_count = self._present_done_count + len(self._absent)
        more_are_absent = accounted_count < len(self._done)
        if is_same_folder and more_are_absent:
            self._absent |= self._done.keys() - present.keys()
        if present and len(self._done) > 2 * len(present):  # rarely, for it takes long
            self._done = {path: done_file for path, done_file in self._done.items() if path in present}
            self._absent &= self._done.keys()

    def _list_files(self) -> None:
        """List the folder and its subfolders, unsorted, for there may be very many files.

        Each listing reads the times of only some known files, and the next listing those of others.

        Raises:
            InputError: The folder, or a folder below it that is still there, cannot be read.
        """
        started_at = time.monotonic()
        self._present: dict[str, _Listed] = {}  # pictures by path
        self._fresh: dict[str, _Listed] = {}  # pictures in `_present` whose times this listing asked for
        self._present_done_count = 0  # files in `_done` that are in the folder
        self._others: dict[str, FileStamp] = {}  # stamps of all other files by path
        self._folders: dict[str, int] = {}  # times of change of the folders by path, ns
        self._names: dict[str, set[str]] = {}  # names of the entries of each folder
        previously_written = self._written
        self._written = set()
        folders = [os.fspath(self.folder)]
        seen_folders = set()
        while folders:
            current = folders.pop()
            try:
                status = os.stat(current)
                if (status.st_dev, status.st_ino) in seen_folders:
                    continue
                seen_folders.add((status.st_dev, status.st_ino))
                with os.scandir(current) as scanned:
                    entries = list(scanned)
            except OSError as error:
                if current == os.fspath(self.folder) or not isinstance(error, FileNotFoundError):
                    raise listing.folder_error(Path(current), error) from None
                continue  # a subfolder that vanished meanwhile
            self._folders[current] = status.st_mtime_ns
            names = {entry.name for entry in entries}
            self._names[current] = names
            if listing.OUTPUT_LIST in names or names.issuperset(listing.RESULTS):
                self._written |= _written_below(current)
            folders += self._sort_entries(current, entries)
        # a picture that flawscope's list named, and names no more, is an ordinary picture again
        self._reported -= previously_written - self._written
        self._turn += 1
        self.took = time.monotonic() - started_at

    def _sort_entries(self, folder: str, entries: list[os.DirEntry[str]]) -> list[str]:
        """Sort the entries of a folder into pictures and others; return its subfolders.

        Two kinds of files are left out: files that vanish meanwhile, and the file `._NAME` that macOS keeps
        beside a file `NAME`.
        """
        folders: list[str] = []
        names = self._names[folder]
        for entry in self._pass_known(entries):
            path = entry.path
            if path in self._written:  # of flawscope's files, only pictures and folders are reported
                if decoding.is_picture(path) or entry.is_dir():
                    self._others[path] = NO_STAMP
            elif path in self._reported and path in self._other_files:  # its times are not read again
                self._others[path] = self._other_files[path].stamp
            elif path not in self.apart:
                is_of_macos = entry.name.startswith("._") and entry.name.removeprefix("._") in names
                if not is_of_macos:
                    with suppress(OSError):  # the file is gone
                        self._sort_entry(entry, folders)  # appends a subfolder
        return folders

    def _pass_known(self, entries: list[os.DirEntry[str]]) -> list[os.DirEntry[str]]:
        """Take most known files as unchanged, for there may be very many; return the remaining entries.

        The remaining entries are unknown files, and one group of the known files: this listing reads their
        times. The hash of its path decides to which group a file belongs, and groups take turns.
        """
        done = self._done
        present = self._present
        turn = self._turn
        unsettled = self._pending.keys() | self._absent
        group_count = 1 + len(done) // STATS_PER_LISTING  # one group of known files is read in each listing
        remaining_entries = []
        for entry in entries:
            path = entry.path
            done_file = done.get(path)
            if done_file is not None:
                self._present_done_count += 1
                is_read_now = (hash(path) + turn) % group_count == 0
                if not is_read_now and path not in unsettled:
                    present[path] = done_file.listed
                    continue
            remaining_entries.append(entry)
        return remaining_entries

    def _sort_entry(self, entry: os.DirEntry[str], folders: list[str]) -> None:
        """Sort an entry into pictures or others; append a subfolder to `folders`.

        Raises:
            OSError: The file is gone.
        """
        path = entry.path
        is_ignored = listing.is_ignored(entry.name)
        is_folder = entry.is_dir()
        if is_folder and not is_ignored:
            folders.append(path)
        elif is_folder or entry.name.casefold() in listing.IGNORED_NAMES:  # its name alone counts
            self._others[path] = NO_STAMP
        else:
            is_regular = entry.is_file() and not is_ignored  # False: hidden, or a link that leads nowhere
            listed = _Listed.of(path, follow=is_regular)
            if is_regular and (path in self._done or decoding.is_picture(path)):
                self._present[path] = listed
                self._fresh[path] = listed
            else:
                self._others[path] = listed.stamp


def _written_below(folder: str) -> set[str]:
    """Return the paths below a folder that flawscope wrote, its list included."""
    return {
        os.fspath(path) for path in (Path(folder, listing.OUTPUT_LIST), *listing.written_below(Path(folder)))
    }


def _is_among(stamp: FileStamp, stamps: Collection[FileStamp]) -> bool:
    """Return whether a file that went away is among other files, that is, under another name.

    False where times are rounded: another file may have the same inode, size and time by chance.
    """
    return bool(stamp.inode) and stamp.modified_ns % COARSE_NS != 0 and stamp in stamps


def _is_replaced(previous: FileStamp, current: FileStamp) -> bool:
    """Return whether another file replaced a file that was not empty.

    False where the file was written in place, or its file system has no inodes.
    """
    is_another = previous.inode != current.inode and 0 not in (previous.inode, current.inode)
    return is_another and not previous.has_same_times(current) and previous.size > 0


def _identity(folder: Path) -> tuple[int, int] | None:
    """Return device and inode of a folder; None: it is not there."""
    try:
        status = os.stat(folder)
    except OSError:
        return None
    return status.st_dev, status.st_ino
