"""Folders: each picture that appears is inspected once, even after a restart, and none is lost.

A picture's key in the store is its path, time of change and size. The folder is listed again and again, for
only that works everywhere; events of the file system only start a listing sooner. A crash after a picture was
recorded, before its file was moved or deleted, leaves a file whose key is known: the next start moves or
deletes it.
"""

from __future__ import annotations

import filecmp
import hashlib
import os
import re
import shutil
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from itertools import count, islice
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import select

from flawscope.artefact.files import PART, sync_folder
from flawscope.errors import InputError, pluralize, with_kind
from flawscope.station.background import Background, Backoff
from flawscope.station.inspecting.worker import Picture
from flawscope.station.inspecting.writer import Recorded
from flawscope.station.settings.sources import DELETE, KEEP, FolderOf
from flawscope.station.sources.source import AWAY, RUNNING, WAITING, Line, State, plain
from flawscope.station.store.database import now
from flawscope.station.store.files import give_name
from flawscope.station.store.inspection import Label, labelled
from flawscope.station.store.records import iso
from flawscope.station.store.schema import inspections
from flawscope.watch import PATIENCE, REST, SETTLE, Arrivals, Stamp

SOURCE = "folder"  # of an inspection
UNREADABLE, GONE = "unreadable", "gone"  # events; the first is also a folder below the target
WAITS, THEN = "folder_waits", "folder_then"  # problems with pictures that are tried again
POLL, SOON = 5.0, 0.1  # seconds between two listings where no event comes, and while a file is being written
SHORTEST, LONGEST = 1.0, 300.0  # seconds before a picture that was put off is tried again
SHOWN = 3600.0  # seconds for which an unreadable picture is a problem; the event stays
MOST_KEY = 200  # characters
TOGETHER = 256  # keys that are looked up at once
WORK = 20  # least ratio of inspecting to listing time where many pictures wait


class _Later(NamedTuple):
    """Picture that is tried again, for ever: it was not inspected, or its file not moved or deleted."""

    code: str
    pauses: Backoff
    why: str


class _Spoilt(NamedTuple):
    stamp: Stamp
    since: float
    why: str


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
        poll: float = POLL,
        patience: float = PATIENCE,
        settle: float = SETTLE,
    ):
        super().__init__(f"folder-{line.product_id}")
        self.line, self.number = line, number
        self.folder = Path(os.path.abspath(settings.folder))
        self.poll, self.patience, self.settle = poll, patience, settle
        self.after = After(self.folder, settings.then)
        self.pattern = None if settings.pattern is None else re.compile(settings.pattern)
        self.apart = [*apart] if self.after.target is None else [*apart, str(self.after.target)]
        self.state = State(SOURCE, f"folder{number}", plain(str(self.folder)), plain(settings.then))
        # the first one's keys are those of stations that had no other
        own = hashlib.sha256(os.fsencode(self.folder)).hexdigest()[:16]
        self._prefix = f"{SOURCE}:" if number == 1 else f"{SOURCE}@{own}:"
        self._known: Arrivals | None = None
        self._later: dict[Path, _Later] = {}
        self._is_stuck = False  # a picture was put off in this round, and others would be, too
        self._spoilt: dict[Path, _Spoilt] = {}
        self._noted: list[str] | None = None  # texts of earlier events
        self._deaf = threading.Event()
        self._listener = threading.Thread(target=self._hear, name=f"folder-{number}-events", daemon=True)

    def end(self) -> None:
        super().end()
        self._deaf.set()

    # ---- again and again

    def _work(self) -> None:
        self._listener.start()
        while not self._ended.is_set():
            try:
                self._round()
                self.state.state, self.state.why = RUNNING if self.state.taken else WAITING, None
                self._show("folder_away", None)
            except InputError as error:
                self.state.state, self.state.why = AWAY, plain(f"{error}; pictures are taken when it is back")
                self._show("folder_away", self.state.why)
                self._deaf.set()  # the listener needs a new start on the folder that comes back
            except Exception as error:  # such as a store that is away: the next round tries again
                self._show(WAITS, f"pictures wait in {self.folder}: {with_kind(error)}")
                self._ended.wait(self.poll)
            busy = self._known is not None and self._known.waiting > len(self._later)
            if not self._ended.wait(max(SOON, REST * self._known.took if self._known else 0.0)):
                self._wait(0.0 if busy else self.poll)

    def _hear(self) -> None:
        """Wake the thread when the folder changes; without events the listings go on."""
        from watchfiles import watch

        while not self._ended.wait(self.poll if self._deaf.is_set() else 0.0):
            self._deaf.clear()
            if self._ended.is_set():  # `end` set it
                return
            with suppress(Exception):
                how: dict[str, Any] = {"debounce": 200, "step": 20, "stop_event": self._deaf}
                how |= {"watch_filter": None, "force_polling": False, "raise_interrupt": False}
                for _ in watch(self.folder, **how):
                    self.wake()
            self._deaf.set()

    def _round(self) -> None:
        if self._known is None:
            times: dict[str, Any] = {"patience": self.patience, "settle": self.settle}
            self._known = Arrivals(self.folder, existing=True, apart=self.apart, **times)
        found = self._known.scan(time.monotonic())
        self._take(self._known, found, time.monotonic() + max(SHORTEST, WORK * self._known.took))
        self._tell(self._known)

    # ---- pictures

    def _take(self, arrivals: Arrivals, paths: list[Path], until: float) -> None:
        """Inspect pictures, several at once, and wait for the answers."""
        flying: deque[tuple[Path, Future[Recorded]]] = deque()
        self._is_stuck = False
        for path, stamp in self._fresh(arrivals, paths):
            if self._ended.is_set() or time.monotonic() > until or self._is_stuck:
                break
            future = self._send(arrivals, path, stamp)
            if future is not None:
                flying.append((path, future))
            while flying and flying[0][1].done():
                self._answered(arrivals, *flying.popleft())
        for one in flying:
            self._answered(arrivals, *one)

    def _fresh(self, arrivals: Arrivals, paths: list[Path]) -> Iterator[tuple[Path, Stamp]]:
        """Yield the pictures that are not in the store yet."""
        rest = iter(paths)
        while group := list(islice(rest, TOGETHER)):
            keys = {path: self._key(path, arrivals.stamp(path)) for path in group}
            known = self.line.store.numbers_of(self.line.product_id, list(keys.values()))
            for path in group:
                if keys[path] in known:
                    self._settled(arrivals, path)
                else:
                    yield path, arrivals.stamp(path)

    def _send(self, arrivals: Arrivals, path: Path, stamp: Stamp) -> Future[Recorded] | None:
        """Read a picture and submit it; return None where it is not submitted, or not now."""
        limits, size = self.line.share.limits, f"{stamp.size / 1e6:.0f} MB"
        if stamp.size > limits.upload_bytes:
            why = f"{path} has {size}, {limits.upload} are accepted: raise `limits: upload`"
            self._cannot(arrivals, path, InputError(why))
            return None
        try:
            data = read_as(path, stamp)
        except OSError as error:
            self._put_off(arrivals, path, WAITS, f"cannot read {path}: {error.strerror}")
            return None
        if data is None:
            return None
        if self._was_moved(data, stamp):
            self._settled(arrivals, path)
            return None
        name, key = self._name(path), self._key(path, stamp)
        one = Picture(self.line.product_id, data, name, SOURCE, key, **self._label(name)._asdict())
        return self.line.hand_in(one, self._ended)

    def _answered(self, arrivals: Arrivals, path: Path, future: Future[Recorded]) -> None:
        error = future.exception()
        if isinstance(error, InputError):
            self._cannot(arrivals, path, error)
        elif error is not None:
            self._put_off(arrivals, path, WAITS, with_kind(error))
        else:
            self.state.taken, self.state.last = self.state.taken + 1, now()
            self._settled(arrivals, path)

    def _settled(self, arrivals: Arrivals, path: Path) -> None:
        """Finish a recorded picture: move, delete or keep its file as the settings say."""
        try:
            self.after.inspected(path, arrivals.stamp(path))
        except OSError as error:
            self._put_off(arrivals, path, THEN, error.strerror or type(error).__name__)
            return
        arrivals.done(path)
        if not path.exists():
            arrivals.removed(path, time.monotonic())
        self._later.pop(path, None)
        self._spoilt.pop(path, None)

    def _put_off(self, arrivals: Arrivals, path: Path, code: str, why: str) -> None:
        """Try a picture again, for ever, less and less often: the cause is not the picture."""
        before = self._later.get(path)
        pauses = before.pauses if before is not None else Backoff(SHORTEST, LONGEST)
        self._is_stuck = self._is_stuck or (before is None and code == WAITS)
        self._later[path] = _Later(code, pauses, why)
        arrivals.later(path, time.monotonic() + pauses.next())

    def _cannot(self, arrivals: Arrivals, path: Path, error: InputError) -> None:
        """Try an unreadable picture again, for it may not be whole yet; at last note it once as an event."""
        self._later.pop(path, None)
        stamp = arrivals.stamp(path)
        if not arrivals.failed(path, time.monotonic()):
            return
        try:
            there = self.after.unreadable(path, stamp)
        except OSError:
            arrivals.forget(path)  # so that it is tried again
            there = path
        if there != path:
            arrivals.removed(path, time.monotonic())
        why, store, product_id = plain(str(error)), self.line.store, self.line.product_id
        self._spoilt[there] = _Spoilt(stamp, time.monotonic(), why)
        begins = f"{self._name(path)} of {iso(stamp.changed // 1000)}, {stamp.size} bytes: "
        if self._noted is None:
            self._noted = [str(row.text) for row in store.events(UNREADABLE, product_id)]
        if not any(text.startswith(begins) for text in self._noted):
            store.note_event(UNREADABLE, SOURCE, begins + why, product_id)
            self._noted.append(begins + why)

    # ---- names

    def _name(self, path: Path) -> str:
        return plain(path.relative_to(self.folder).as_posix())

    def _label(self, name: str) -> Label:
        """Return part and batch from a picture's name; none where the store would refuse them."""
        found = self.pattern.search(name) if self.pattern is not None else None
        said = {} if found is None else found.groupdict()
        with suppress(InputError):
            return labelled(said.get("part"), said.get("batch"))
        return Label()

    def _key(self, path: Path, stamp: Stamp) -> str:
        name = self._name(path)
        exact = path.relative_to(self.folder).as_posix()
        ends = f":{stamp.changed}:{stamp.size}"
        key = f"{self._prefix}{name}{ends}"
        if len(key) <= MOST_KEY and name == exact:
            return key
        return f"{self._prefix}#{hashlib.sha256(os.fsencode(exact)).hexdigest()}{ends}"

    def _was_moved(self, data: bytes, stamp: Stamp) -> bool:
        """Whether this file was inspected under another name, now gone: programs sort files into folders."""
        query = select(inspections.c.key).where(
            inspections.c.product_id == self.line.product_id,
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
        self.line.show(code, "" if self.number == 1 else f"_{self.number}", why)

    def _tell(self, arrivals: Arrivals) -> None:
        untaken = ((path, self._later.pop(path, None)) for path in arrivals.gone)
        gone = [path for path, one in untaken if one is None or one.code != THEN]
        arrivals.gone.clear()
        if gone:
            names = ", ".join(self._name(path) for path in gone[:3]) + ("" if len(gone) <= 3 else ", ...")
            text = f"{pluralize(len(gone), 'picture')} went away before being inspected: {names}"
            self.line.store.note_event(GONE, SOURCE, text, self.line.product_id)
        for path, spoilt in list(self._spoilt.items()):
            if time.monotonic() - spoilt.since > SHOWN or not is_still(path, spoilt.stamp):
                del self._spoilt[path]
        later = list(self._later.values())
        self._count(WAITS, "picture", "could not be inspected yet", [o.why for o in later if o.code == WAITS])
        self._count("folder_unreadable", "picture", "cannot be read", [o.why for o in self._spoilt.values()])
        undone = [one.why for one in later if one.code == THEN]
        self._count(THEN, "inspected picture", f"cannot be {self.after.words}", undone)

    def _count(self, code: str, thing: str, what: str, reasons: list[str]) -> None:
        many = pluralize(len(reasons), thing)
        self._show(code, f"{many} in {self.folder} {what}: {reasons[-1]}" if reasons else None)


def read_as(path: Path, stamp: Stamp) -> bytes | None:
    """Return the file's bytes; None where it changed or went away. OSError."""
    try:
        with open(path, "rb") as file:
            data = file.read(stamp.size + 1)
            is_whole = len(data) == stamp.size and Stamp.of(os.fstat(file.fileno()))[:2] == stamp[:2]
            return data if is_whole else None
    except FileNotFoundError:
        return None


# ----------------------------------------------------------------------------- what happens to a file then


class After:
    """Deletes or moves the files of one folder, as `FolderOf.then` says; errors are the caller's."""

    def __init__(self, folder: Path, then: str):
        self.folder, self.then = folder, then
        self.target = None if then in (KEEP, DELETE) else Path(os.path.abspath(then))
        self.words = "deleted" if self.target is None else f"moved to {self.target}"

    def inspected(self, path: Path, stamp: Stamp) -> None:
        """Move or delete a file whose inspection is on the disk. OSError: try again."""
        if self.target is not None:
            self._move(path, stamp, self.target)
        elif self.then == DELETE and is_still(path, stamp):  # else it is a new, uninspected file
            path.unlink(missing_ok=True)

    def unreadable(self, path: Path, stamp: Stamp) -> Path:
        """Return the file's path from now on; it is moved only where there is a target. OSError."""
        return path if self.target is None else self._move(path, stamp, self.target / UNREADABLE) or path

    def _move(self, path: Path, stamp: Stamp, target: Path) -> Path | None:
        """Move a file below the target, by its path in the folder; None where it has changed."""
        place = target / path.relative_to(self.folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        for number in count():
            there = place.with_stem(f"{place.stem}-{number}") if number else place
            if not is_still(path, stamp):
                return None
            with suppress(FileExistsError):
                if not _is_same(there, path):  # else an earlier try was cut off before the removal
                    _place(path, there)
                with suppress(OSError):  # not every share can
                    sync_folder(there.parent)  # the new name is on the disk before the old one goes
                path.unlink(missing_ok=True)
                return there
        return None


def is_still(path: Path, stamp: Stamp) -> bool:
    """Whether the file is there and unchanged."""
    try:
        return Stamp.of(os.stat(path))[:2] == stamp[:2]
    except OSError:
        return False


def _is_same(there: Path, path: Path) -> bool:
    return there.is_file() and not there.is_symlink() and filecmp.cmp(path, there, shallow=False)


def _place(path: Path, there: Path) -> None:
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
