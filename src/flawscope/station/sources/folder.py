"""Folders: each picture that appears is inspected once, even after a restart, and none is lost.

A picture's key in the store is its path, time of change and size. A crash after a picture was recorded,
before its file was moved or deleted, leaves a file whose key is known: the next start moves or deletes it.
"""

from __future__ import annotations

import filecmp
import hashlib
import os
import re
import shutil
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from sqlalchemy import select

from flawscope.artefact.files import PART, sync_folder
from flawscope.errors import InputError, pluralize, with_kind
from flawscope.station.background import Background, Backoff
from flawscope.station.inspecting.picture import Picture
from flawscope.station.inspecting.writer import Recorded
from flawscope.station.settings.sources import DELETE, KEEP, FolderOf
from flawscope.station.sources.source import AWAY, RUNNING, WAITING, Line, State, replace_surrogates
from flawscope.station.store.database import now
from flawscope.station.store.files import give_name
from flawscope.station.store.insert import is_of
from flawscope.station.store.inspection import Label, labelled
from flawscope.station.store.records import iso
from flawscope.station.store.schema import inspections
from flawscope.watch import PATIENCE, REST, SETTLE, Arrivals, Stamp

SOURCE = "folder"  # of an inspection
UNREADABLE, VANISHED = "unreadable", "gone"  # events; the first is also a folder below the target
POLL_INTERVAL = 0.2  # seconds between two listings, at least
IDLE_RATIO = 10  # least ratio of that pause to a listing's time while nothing waits
MIN_RETRY_DELAY, MAX_RETRY_DELAY = 1.0, 300.0  # seconds before a picture that was put off is tried again
PROBLEM_SECONDS = 3600.0  # seconds for which an unreadable picture is a problem; the event stays
MAX_KEY_LENGTH = 200  # characters
LOOKUP_BATCH = 256  # keys that are looked up at once
WORK_RATIO = 20  # least ratio of inspecting to listing time where many pictures wait
# Problems with pictures, and their words. `AFTER`: the file of an inspected picture cannot go
CODE_WAITING, CODE_UNREADABLE, CODE_NOT_REMOVED = "folder_waits", "folder_unreadable", "folder_then"


@dataclass
class _ProblemFile:
    """Picture that is tried again, for ever, or that cannot be read. why: the last reason."""

    code: str
    stamp: Stamp
    why: str = ""
    pauses: Backoff = field(default_factory=lambda: Backoff(MIN_RETRY_DELAY, MAX_RETRY_DELAY))
    since: float = field(default_factory=time.monotonic)


class FolderSource(Background):
    """Takes the pictures of a folder and its subfolders, the oldest first, also those that are there already.

    Args:
        number: of the folder among the product's, from 1.
        apart: folders in it that are left out: pictures are moved there.
        poll, patience, settle: seconds; the last two as for `Arrivals`.
    """

    def __init__(
        self,
        line: Line,
        settings: FolderOf,
        number: int,
        apart: Iterable[str] = (),
        *,
        poll: float = POLL_INTERVAL,
        patience: float = PATIENCE,
        settle: float = SETTLE,
    ):
        super().__init__(f"folder-{line.product_id}")
        self.line, self.number, self.then, self.poll = line, number, settings.then, poll
        self.folder = Path(os.path.abspath(settings.folder))
        self.target = None if self.then in (KEEP, DELETE) else Path(os.path.abspath(self.then))
        self.pattern = None if settings.pattern is None else re.compile(settings.pattern)
        self.view = settings.view
        self.state = State(SOURCE, f"folder{number}", replace_surrogates(str(self.folder)), replace_surrogates(self.then))
        apart = [*apart] if self.target is None else [*apart, str(self.target)]
        self._times: dict[str, Any] = {"apart": apart, "patience": patience, "settle": settle}
        # the first one's keys are those of stations that had no other
        own = hashlib.sha256(os.fsencode(self.folder)).hexdigest()[:16]
        self._prefix = f"{SOURCE}:" if number == 1 else f"{SOURCE}@{own}:"
        self._arrivals: Arrivals | None = None
        self._troubles: dict[Path, _ProblemFile] = {}
        self._is_stuck = False  # a picture was put off in this round, and others would be, too

    # ---- again and again

    def _work(self) -> None:
        while not self._ended.is_set():
            pause = MIN_RETRY_DELAY
            try:
                pause = self._round()
                self.state.state, self.state.why = RUNNING if self.state.taken else WAITING, None
                self._show("folder_away", None)
            except InputError as error:
                self.state.state, self.state.why = AWAY, replace_surrogates(f"{error}; pictures are taken when it is back")
                self._show("folder_away", self.state.why)
            except Exception as error:  # such as a store that is away: the next round tries again
                self._show(CODE_WAITING, f"pictures wait in {self.folder}: {with_kind(error)}")
            self._ended.wait(pause)

    def _round(self) -> float:
        """List the folder and take what is whole; return the seconds until the next round."""
        if self._arrivals is None:
            self._arrivals = Arrivals(self.folder, existing=True, **self._times)
        arrivals = self._arrivals
        found = {path: arrivals.stamp(path) for path in arrivals.scan(time.monotonic())}
        self._take(arrivals, found, time.monotonic() + max(MIN_RETRY_DELAY, WORK_RATIO * arrivals.took))
        self._tell(arrivals)
        is_busy = arrivals.waiting > len(self._troubles)
        return max(self.poll, (REST if is_busy else IDLE_RATIO) * arrivals.took)

    # ---- pictures

    def _take(self, arrivals: Arrivals, found: Mapping[Path, Stamp], until: float) -> None:
        """Inspect pictures, several at once, and wait for the answers."""
        flying: deque[tuple[Path, Future[Recorded]]] = deque()
        self._is_stuck = False
        for path, is_known in self._looked_up(found):
            if self._ended.is_set() or time.monotonic() > until or self._is_stuck:
                break
            if is_known:
                self._finish(arrivals, path)
            elif (future := self._send(arrivals, path, found[path])) is not None:
                flying.append((path, future))
            while flying and flying[0][1].done():
                self._answered(arrivals, *flying.popleft())
        for one in flying:
            self._answered(arrivals, *one)

    def _looked_up(self, found: Mapping[Path, Stamp]) -> Iterator[tuple[Path, bool]]:
        """Yield the pictures, and whether each was inspected before."""
        paths = list(found)
        for first in range(0, len(paths), LOOKUP_BATCH):
            keys = {path: self._key(path, found[path]) for path in paths[first : first + LOOKUP_BATCH]}
            known = self.line.store.numbers_of(self.line.product_id, list(keys.values()))
            yield from ((path, key in known) for path, key in keys.items())

    def _send(self, arrivals: Arrivals, path: Path, stamp: Stamp) -> Future[Recorded] | None:
        """Read a picture and submit it; return None where it is not submitted, or not now."""
        limits, size = self.line.share.limits, f"{stamp.size / 1e6:.0f} MB"
        if stamp.size > limits.upload_bytes:
            why = f"{path} has {size}, {limits.upload} are accepted: raise `limits: upload`"
            self._cannot(arrivals, path, InputError(why))
            return None
        try:
            data = read_unchanged(path, stamp)
        except OSError as error:
            self._put_off(arrivals, path, CODE_WAITING, f"cannot read {path}: {error.strerror}")
            return None
        if data is None:
            return None
        if self._was_moved(data, stamp):
            self._finish(arrivals, path)
            return None
        name, key = self._name(path), self._key(path, stamp)
        one = Picture(self.line.product_id, data, name, SOURCE, key, **self._label(name)._asdict())
        return self.line.hand_in(one, self._ended)

    def _answered(self, arrivals: Arrivals, path: Path, future: Future[Recorded]) -> None:
        error = future.exception()
        if isinstance(error, InputError):
            self._cannot(arrivals, path, error)
        elif error is not None:
            self._put_off(arrivals, path, CODE_WAITING, with_kind(error))
        else:
            self.state.taken, self.state.last = self.state.taken + 1, now()
            self._finish(arrivals, path)

    def _finish(self, arrivals: Arrivals, path: Path) -> None:
        """Move, delete or keep the file of a recorded picture, as the settings say."""
        stamp = arrivals.stamp(path)
        try:
            if self.target is not None:
                move_unchanged(path, stamp, self.target / path.relative_to(self.folder))
            elif self.then == DELETE and is_unchanged(path, stamp):  # else it is a new, uninspected file
                path.unlink(missing_ok=True)
        except OSError as error:
            self._put_off(arrivals, path, CODE_NOT_REMOVED, error.strerror or type(error).__name__)
            return
        arrivals.done(path, removed=self.then != KEEP)
        self._troubles.pop(path, None)

    def _put_off(self, arrivals: Arrivals, path: Path, code: str, why: str) -> None:
        """Try a picture again, for ever, less and less often: the cause is not the picture."""
        before = self._troubles.get(path)
        self._is_stuck = self._is_stuck or (before is None and code == CODE_WAITING)
        if before is None or before.code != code:
            before = self._troubles[path] = _ProblemFile(code, arrivals.stamp(path))
        before.why = why
        arrivals.later(path, time.monotonic() + before.pauses.next())

    def _cannot(self, arrivals: Arrivals, path: Path, error: InputError) -> None:
        """Try an unreadable picture again, for it may not be whole yet; at last note it once as an event."""
        self._troubles.pop(path, None)
        stamp, there = arrivals.stamp(path), path
        if not arrivals.failed(path, time.monotonic()):
            return
        if self.target is not None:
            with suppress(OSError):  # it stays
                there = move_unchanged(path, stamp, self.target / UNREADABLE / path.relative_to(self.folder)) or path
        store, product_id, why = self.line.store, self.line.product_id, replace_surrogates(str(error))
        self._troubles[there] = _ProblemFile(CODE_UNREADABLE, stamp, why)
        text = f"{self._name(path)} of {iso(stamp.changed // 1000)}, {stamp.size} bytes: {why}"
        if text not in (row.text for row in store.events(UNREADABLE, product_id)):
            store.note_event(UNREADABLE, SOURCE, text, product_id)

    # ---- names

    def _name(self, path: Path) -> str:
        return replace_surrogates(path.relative_to(self.folder).as_posix())

    def _label(self, name: str) -> Label:
        """Return part, batch and view from a picture's name; none where the store would refuse them."""
        found = self.pattern.search(name) if self.pattern is not None else None
        said = {} if found is None else found.groupdict()
        with suppress(InputError):
            return labelled(said.get("part"), said.get("batch"), said.get("view") or self.view)
        return Label(view=self.view)

    def _key(self, path: Path, stamp: Stamp) -> str:
        name, exact = self._name(path), path.relative_to(self.folder).as_posix()
        ends = f":{stamp.changed}:{stamp.size}"
        key = f"{self._prefix}{name}{ends}"
        if len(key) <= MAX_KEY_LENGTH and name == exact:
            return key
        return f"{self._prefix}#{hashlib.sha256(os.fsencode(exact)).hexdigest()}{ends}"

    def _was_moved(self, data: bytes, stamp: Stamp) -> bool:
        """Whether this file was inspected under another name, now gone: programs sort files into folders."""
        query = select(inspections.c.key).where(
            is_of(self.line.product_id),
            inspections.c.picture == hashlib.sha256(data).hexdigest(),
            inspections.c.source == SOURCE,
        )
        with self.line.store.database.reading() as connection:
            keys = [str(key) for key in connection.execute(query.limit(100)).scalars()]
        begins, ends = self._prefix, f":{stamp.changed}:{stamp.size}"
        own = [key for key in keys if key.startswith(begins) and key.endswith(ends)]
        before = [key[len(begins) : -len(ends)] for key in own]
        return any(not name.startswith("#") and not (self.folder / name).exists() for name in before)

    # ---- what a person should know

    def _show(self, code: str, why: str | None) -> None:
        self.line.show(code, None if self.number == 1 else self.number, why)

    def _tell(self, arrivals: Arrivals) -> None:
        """Note the pictures that went away uninspected, and report the problems with others."""
        gone = [path for path, is_known in self._looked_up(arrivals.gone) if not is_known]
        if gone:
            names = ", ".join(map(self._name, gone[:3])) + ("" if len(gone) <= 3 else ", ...")
            text = f"{pluralize(len(gone), 'picture')} went away before being inspected: {names}"
            self.line.store.note_event(VANISHED, SOURCE, text, self.line.product_id)
        for path, one in list(self._troubles.items()):
            is_old = one.code == CODE_UNREADABLE and time.monotonic() - one.since > PROBLEM_SECONDS
            if path in arrivals.gone or is_old or not is_unchanged(path, one.stamp):
                del self._troubles[path]
        arrivals.gone.clear()
        undone = "deleted" if self.target is None else f"moved to {self.target}"
        for code, thing, what in (
            (CODE_WAITING, "picture", "could not be inspected yet"),
            (CODE_UNREADABLE, "picture", "cannot be read"),
            (CODE_NOT_REMOVED, "inspected picture", f"cannot be {undone}"),
        ):
            reasons = [one.why for one in self._troubles.values() if one.code == code]
            many = pluralize(len(reasons), thing)
            self._show(code, f"{many} in {self.folder} {what}: {reasons[-1]}" if reasons else None)


# ------------------------------------------------------------------------------------------------------ files


def read_unchanged(path: Path, stamp: Stamp) -> bytes | None:
    """Return the file's bytes; None where it changed or went away. OSError."""
    try:
        with open(path, "rb") as file:
            data = file.read(stamp.size + 1)
            is_whole = len(data) == stamp.size and Stamp.of(os.fstat(file.fileno()))[:2] == stamp[:2]
            return data if is_whole else None
    except FileNotFoundError:
        return None


def is_unchanged(path: Path, stamp: Stamp) -> bool:
    """Whether the file is there and unchanged."""
    try:
        return Stamp.of(os.stat(path))[:2] == stamp[:2]
    except OSError:
        return False


def move_unchanged(path: Path, stamp: Stamp, place: Path) -> Path | None:
    """Move a file to this place, or to a free one beside it; None where the file has changed. OSError."""
    place.parent.mkdir(parents=True, exist_ok=True)
    for number in count():
        there = place.with_stem(f"{place.stem}-{number}") if number else place
        if not is_unchanged(path, stamp):
            return None
        with suppress(FileExistsError):
            if not _has_same_content(there, path):  # else an earlier try was cut off before the removal
                _link_or_copy(path, there)
            with suppress(OSError):  # not every share can
                sync_folder(there.parent)  # the new name is on the disk before the old one goes
            path.unlink(missing_ok=True)
            return there
    return None


def _has_same_content(there: Path, path: Path) -> bool:
    return there.is_file() and not there.is_symlink() and filecmp.cmp(path, there, shallow=False)


def _link_or_copy(path: Path, there: Path) -> None:
    """Give the file a second name, which must be free. FileExistsError."""
    try:
        os.link(path, there)
    except FileExistsError:
        raise
    except OSError:  # on another disk, or one without hard links
        part = there.with_name(f".{there.name}{PART}")
        try:
            shutil.copy2(path, part)
            with open(part, "rb+") as file:
                os.fsync(file.fileno())
            give_name(part, there)
        finally:
            part.unlink(missing_ok=True)
