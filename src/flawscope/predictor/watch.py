"""Pictures that appear in a folder are judged, and a command can be run for the anomalous ones.

`Arrivals` finds the pictures in a folder that are new, and knows when each is whole: for `flawscope watch`
and a station. The folder is listed again and again. File-system events would be faster by a fraction of a
second, but they do not come from network shares, they get lost when too many come at once, and they do not
tell when a file is whole: listings would be needed beside them.
"""

from __future__ import annotations

import hashlib
import os
import queue
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from flawscope import InputError, Prediction, Unjudged
from flawscope.pictures.decoding import is_picture
from flawscope.pictures.listing import (
    folder_error,
    is_hidden_picture,
    is_ignored,
    read_output_list,
    why_passed_over,
)
from flawscope.pictures.mask_files import find_masks

PATIENCE = 30.0  # seconds that a file which cannot be read may still be incomplete
SETTLE = 2.0  # seconds; shares answer from a cache for 1 to 3 s, and copies have their full size at once
MIN_PAUSE_RATIO = 4  # least ratio of the pause between two scans to a scan's time, to spare a network share
# Formats that cannot be read before they are whole; a part of another can look like the whole picture.
SELF_CHECKING = frozenset({".png", ".jpg", ".jpeg", ".jfif", ".gif", ".jp2"})

COMMAND_TIMEOUT = 60.0  # seconds after which a command is ended
MAX_QUEUED_COMMANDS = 100  # commands that may wait; further ones are reported and not run
COMMAND_FIELDS = ("path", "decision", "score", "p_value", "severity", "product_name")


class FileStamp(NamedTuple):
    """Identity of a file, whatever its name. `inode` is 0 where the file system has none."""

    size: int
    modified_ns: int  # ns
    inode: int

    @classmethod
    def from_stat(cls, facts: os.stat_result) -> FileStamp:
        return cls(facts.st_size, facts.st_mtime_ns, facts.st_ino)


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
        skipped: number of pictures that were there before.
        at_start: pictures that were there before, where they are new.
        gone: pictures that went away before they could be judged, with the stamps that they had.
        others: files that are no pictures, masks of pictures, and hidden pictures, by the last scan.
        took: seconds of the last scan.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        existing: bool = False,
        judged: Iterable[str | os.PathLike[str]] = (),
        patience: float = PATIENCE,
        settle: float = SETTLE,
        apart: Iterable[str | os.PathLike[str]] = (),
        masks: bool = True,
    ):
        """List the folder for the first time.

        Args:
            folder: with its subfolders.
            existing: whether pictures that are there already are new.
            judged: pictures that are there and are not new, whatever `existing` says.
            patience: seconds that a file which cannot be read may still be incomplete.
            settle: seconds that a file of a format that is not `SELF_CHECKING` must not have changed.
            apart: folders in it that are left out.
            masks: whether masks of pictures are told from pictures, and are none.

        Raises:
            InputError: there is no such folder, or it cannot be read.
        """
        self.folder, self.patience, self.settle = Path(os.path.abspath(folder)), patience, settle
        self.apart = frozenset(os.path.abspath(one) for one in apart)
        self.tells_masks = masks
        self._done: dict[Path, _DoneFile] = {}
        self._stamps: dict[FileStamp, Path] = {}  # of `_done`: a file that is renamed keeps it
        self._left: set[Path] = set()  # of `_done`: those that went away
        self._identity: tuple[int, int] | None = None  # of the folder; None: it is away
        self._asides: dict[Path, tuple[FileStamp, float]] = {}  # others, and since when they are as they are
        self._told: set[Path] = set()  # of the others
        self._pending: dict[Path, _PendingFile] = {}
        self.gone: dict[Path, FileStamp] = {}
        self.others: list[Path] = []
        self._masks: set[PurePath] = set()  # they stay masks when their pictures are moved away
        self.took = 0.0
        known = {Path(os.path.abspath(path)) for path in judged}
        present = self._list_pictures()
        for path, listed in present.items():
            if not existing or path in known:
                self._remember(path, listed)
        self.skipped = sum(path not in known for path in self._done)
        self.at_start = frozenset(present if existing else ())
        self._told |= set() if existing else {*self._asides}

    @property
    def present(self) -> list[Path]:
        """Pictures that are there, judged or not, by the last scan."""
        return [*self._listed]

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
        return {path: why_passed_over(path) for path in found}

    def other_stamp(self, path: Path) -> FileStamp:
        """Return the stamp of one of `others`."""
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
            if is_regular and is_picture(path) and not is_hidden_picture(path):
                found[path] = listed
            else:
                self._others[path] = listed.stamp
        if self.tells_masks:
            self._masks = {path for path in self._masks if path in found} | find_masks(found).keys()
        for path in found.keys() & self._masks:
            self._others[Path(path)] = found.pop(Path(path)).stamp
            self._pending.pop(Path(path), None)
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
    is a regular file, not a link that leads nowhere. Files that vanish meanwhile are left out. InputError
    where the folder itself cannot be read."""
    folders, seen = [folder], set()
    while folders:
        current = folders.pop()
        try:
            identity = os.stat(current)
            if (identity.st_dev, identity.st_ino) in seen:
                continue
            seen.add((identity.st_dev, identity.st_ino))
            with os.scandir(current) as listing:
                entries = [e for e in listing if not is_ignored(e.name) or is_hidden_picture(e.name)]
        except OSError as error:
            if current == folder or not isinstance(error, FileNotFoundError):
                raise folder_error(current, error) from None
            continue
        own = {os.fspath(current / name) for name in read_output_list(current)}
        for entry in entries:
            with suppress(OSError):  # gone, or a link that leads nowhere
                if entry.is_dir():
                    if entry.path not in apart and not is_ignored(entry.name):
                        folders.append(Path(entry.path))
                elif entry.path not in own:
                    is_regular = entry.is_file()
                    # on Windows entries have no inode
                    facts = os.stat(entry.path, follow_symlinks=is_regular)
                    yield Path(entry.path), _Listed(FileStamp.from_stat(facts), facts.st_ctime_ns), is_regular


def judge(
    arrivals: Arrivals,
    stream: Callable[[list[Path]], Iterator[tuple[Any, Prediction | InputError]]],
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Prediction | Unjudged]:
    """List the folder once, and judge the pictures that are whole by now, several at a time where that is
    faster. A picture counts as judged when the next one is asked for: if the caller fails with its result, it
    is judged again.

    Args:
        stream: of a model, such as `Predictor.stream`.

    Raises:
        InputError: the folder cannot be read at the moment.
    """
    paths = []
    for path in arrivals.scan(clock()):
        digest = arrivals.knows_name(path) and file_digest(path)
        if digest and arrivals.content_known(path, digest):  # it was touched alone
            arrivals.done(path, digest=digest)
        else:
            paths.append(path)
    for path, result in stream(paths):
        assert isinstance(path, Path)
        if not isinstance(result, InputError):
            yield result
            arrivals.done(path, digest=file_digest(path))
        elif arrivals.failed(path, clock()):
            yield Unjudged(str(path), str(result))


def file_digest(path: Path) -> bytes | None:
    """Return the SHA-256 of a file's content; None where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return None


class Commands:
    """Runs a command for one prediction after the other, in a thread of its own, without a shell.

    The command gets the picture's path and the decision as its last two arguments, and FLAWSCOPE_PATH,
    FLAWSCOPE_DECISION, FLAWSCOPE_SCORE, FLAWSCOPE_P_VALUE, FLAWSCOPE_SEVERITY and FLAWSCOPE_PRODUCT_NAME in
    its environment. Its output goes to standard error. It is ended after `timeout` seconds.

    Attributes:
        failures: number of commands that failed, were ended, or could not be run.
    """

    def __init__(self, command: str, say: Callable[[str], None], timeout: float = COMMAND_TIMEOUT):
        """Start the thread.

        Args:
            command: program and arguments, quoted as in a shell.
            say: gets a line for every failure; called from the thread.

        Raises:
            InputError: there is no such program.
        """
        try:
            self.words = shlex.split(command, posix=os.name == "posix")
        except ValueError as error:
            raise InputError(f"--on-anomaly {command!r}: {error}; close the quotes") from None
        program = self.words[0] if self.words else ""
        if shutil.which(program) is None:
            raise InputError(
                f"--on-anomaly {command!r}: there is no program {program!r} that can be run; give its path"
            )
        self.say, self.timeout, self.failures = say, timeout, 0
        self._queue: queue.Queue[Prediction | None] = queue.Queue(MAX_QUEUED_COMMANDS)
        self._thread = threading.Thread(target=self._run_queued, daemon=True)
        self._thread.start()

    def run(self, prediction: Prediction) -> None:
        """Queue the command for a prediction; never waits."""
        try:
            self._queue.put_nowait(prediction)
        except queue.Full:
            self._fail(f"{MAX_QUEUED_COMMANDS} wait already, not run", prediction)

    def close(self, seconds: float = COMMAND_TIMEOUT) -> None:
        """Wait at most so many seconds for the queued commands."""
        left = self._queue.qsize()
        with suppress(queue.Full):
            self._queue.put(None, timeout=seconds)
        self._thread.join(seconds)
        if self._thread.is_alive():
            self.say(f"the command is still busy, up to {left} were not run")

    def _run_queued(self) -> None:
        while (prediction := self._queue.get()) is not None:
            self._run(prediction)

    def _run(self, prediction: Prediction) -> None:
        facts = {name: str(getattr(prediction, name)) for name in COMMAND_FIELDS}
        try:
            code = subprocess.run(
                [*self.words, facts["path"], facts["decision"]],
                env={**os.environ, **{f"FLAWSCOPE_{name.upper()}": value for name, value in facts.items()}},
                stdin=subprocess.DEVNULL,
                stdout=_stderr_descriptor(),
                timeout=self.timeout,
                start_new_session=True,  # Ctrl-C ends the watching, not the command
            ).returncode
        except subprocess.TimeoutExpired:
            self._fail(f"ended after {self.timeout:g} s", prediction)
        except (OSError, ValueError) as error:
            self._fail(getattr(error, "strerror", None) or str(error), prediction)
        else:
            if code:
                self._fail(f"ended with {code}", prediction)

    def _fail(self, why: str, prediction: Prediction) -> None:
        self.failures += 1
        self.say(f"command for {prediction.path}: {why}")


def _stderr_descriptor() -> int:
    """Return the file descriptor of stderr for a command's output; DEVNULL where it has none."""
    try:
        return sys.stderr.fileno()
    except (AttributeError, OSError):
        return subprocess.DEVNULL
