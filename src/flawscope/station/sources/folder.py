"""Pictures that appear in a folder are inspected: each once, whatever ends in between, and none is lost.

What was taken is known by its key in the store: path, time of change and size. The folder is listed again and
again, for that alone works everywhere; events of the file system only make it happen sooner.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from sqlalchemy import select

from flawscope.errors import FlawscopeError, InputError
from flawscope.progress import counted
from flawscope.station.background import Background
from flawscope.station.inspecting.worker import Picture
from flawscope.station.inspecting.writer import Recorded
from flawscope.station.settings.sources import KEEP
from flawscope.station.settings.station import Limits
from flawscope.station.sources.file_stamp import Mark, mark_of, plain, read_as
from flawscope.station.sources.post_actions import After
from flawscope.station.sources.queue_quota import Share
from flawscope.station.sources.source import AWAY, RUNNING, WAITING, Report, State, Submit, handed_in
from flawscope.station.store.database import StoreError, now
from flawscope.station.store.identity import Label, labelled
from flawscope.station.store.records import Store, iso
from flawscope.station.store.schema import inspections
from flawscope.watch.arrivals import PATIENCE, SETTLE, Arrivals

SOURCE = "folder"  # of an inspection
UNREADABLE, GONE = "unreadable", "gone"  # events
POLL = 5.0  # seconds between two looks where no event comes
SOON = 0.1  # and while a file is being written
REST = 4  # times as long as a look takes, at least, comes before the next one: a share is not kept busy
SHORTEST, LONGEST = (
    1.0,
    300.0,
)  # seconds before a picture is tried again that could be read, but not inspected
SHOWN = 3600.0  # seconds for which an unreadable picture is a problem; the event stays
MOST_KEY = 200  # characters
TOGETHER = 256  # keys that are looked up at once
WORK = 20  # times as long as a look takes, at least, until the next one where many pictures wait


@dataclass
class _Later:
    """Of a picture that could not be inspected through no fault of its own."""

    again: float
    delay: float
    why: str


@dataclass
class _Spoilt:
    mark: Mark
    since: float
    why: str


class FolderSource(Background):
    """Takes the pictures of a folder and its subfolders, the oldest first, those that are there already, too.

    Args:
        submit: the inspector's.
        report: shows a problem under a code, or ends it with None.
        store: knows what was taken before.
        share: of the queue; the same one for all folders of a station.
        then: what happens to a file that was inspected, as in `FolderOf`.
        pattern: what the path of a picture says of its part, as in `FolderOf`.
        number: which one it is of the product's folders.
        apart: folders in it that are not looked into: what pictures are moved to.
        poll, patience, settle: seconds; the last two as for `Arrivals`.
    """

    def __init__(
        self,
        product_id: int,
        folder: str | os.PathLike[str],
        submit: Submit,
        report: Report,
        store: Store,
        share: Share | None = None,
        *,
        then: str = KEEP,
        pattern: str | None = None,
        number: int = 1,
        apart: Iterable[str | os.PathLike[str]] = (),
        poll: float = POLL,
        patience: float = PATIENCE,
        settle: float = SETTLE,
    ):
        super().__init__(f"folder-{product_id}")
        self.product_id, self.folder = product_id, Path(os.path.abspath(folder))
        self.submit, self.report, self.store = submit, report, store
        self.share = share or Share(Limits())
        self.poll, self.patience, self.settle = poll, patience, settle
        self.number, self.after = number, After(self.folder, then)
        self.pattern = None if pattern is None else re.compile(pattern)
        self.apart = [Path(os.path.abspath(one)) for one in (*apart, *filter(None, [self.after.target]))]
        # the first one's keys are those of stations that had no other
        own = hashlib.sha256(os.fsencode(self.folder)).hexdigest()[:16]
        self._prefix = f"{SOURCE}:" if number == 1 else f"{SOURCE}@{own}:"
        self._taken, self._away = 0, ""
        self._last: int | None = None
        self._arrivals: Arrivals | None = None
        self._later: dict[Path, _Later] = {}
        self._spoilt: dict[Path, _Spoilt] = {}
        self._noted: list[str] | None = None  # texts of earlier events
        self._deaf = threading.Event()
        self._listener: threading.Thread | None = None

    def end(self) -> None:
        super().end()
        self._deaf.set()

    def state(self) -> State:
        state = AWAY if self._away else RUNNING if self._taken else WAITING
        return State(
            kind=SOURCE,
            name=f"folder{self.number}",
            place=plain(str(self.folder)),
            takes=plain(self.after.then),
            state=state,
            why=self._away or None,
            last=self._last,
            taken=self._taken,
        )

    # ---- again and again

    def _work(self) -> None:
        while not self._ended.is_set():
            took = 0.0
            try:
                took = self._round()
                self._away = ""
                self._show("folder_away", None)
            except InputError as error:
                self._away = f"{error}; pictures are taken when it is back"
                self._show("folder_away", self._away)
                self._deaf.set()  # what comes back is another folder to the listener
            except StoreError as error:
                self._show("folder_waits", f"pictures wait in {self.folder}: {error}")
            except Exception as error:  # one picture more or less: the next round tries again
                self._show("folder_waits", f"pictures wait in {self.folder}: {type(error).__name__}: {error}")
                self._ended.wait(self.poll)
            self._pause(took)

    def _pause(self, took: float) -> None:
        """Until something happened; soon while files are being written."""
        busy = self._arrivals is not None and self._arrivals.waiting > len(self._later)
        if not self._ended.wait(max(SOON, REST * took)):
            self._wait(0.0 if busy else self.poll)

    def _round(self) -> float:
        """Take what is whole by now; the seconds that the look at the folder took."""
        begun = time.monotonic()
        if self._arrivals is None:
            self._arrivals = Arrivals(
                self.folder,
                existing=True,
                patience=self.patience,
                settle=self.settle,
                apart=self.apart,
            )
        found = self._arrivals.scan(begun)
        took = time.monotonic() - begun
        self._listen()
        self._take(found, time.monotonic() + max(SHORTEST, WORK * took))
        self._tell()
        return took

    def _listen(self) -> None:
        """Wake up when something changes."""
        if self._listener is None or self._deaf.is_set():
            self._deaf = threading.Event()
            self._listener = threading.Thread(
                target=self._hear, args=(self._deaf,), name="folder-events", daemon=True
            )
            self._listener.start()
        if self._ended.is_set():
            self._deaf.set()

    def _hear(self, deaf: threading.Event) -> None:
        from watchfiles import watch

        try:
            for _ in watch(
                self.folder,
                watch_filter=None,
                stop_event=deaf,
                debounce=200,
                step=20,
                force_polling=False,
                raise_interrupt=False,
            ):
                self.wake()
        except Exception:
            return  # no more watches to be had, or no such thing here: listing goes on

    # ---- pictures

    def _take(self, paths: list[Path], until: float) -> None:
        """Inspect pictures, several at once, and wait for the answers."""
        assert self._arrivals is not None
        flying: deque[tuple[Path, Mark, Future[Recorded]]] = deque()
        before = len(self._later)
        for path, mark in self._fresh(paths):
            if self._ended.is_set() or time.monotonic() > until or len(self._later) > before:
                break
            future = self._send(path, mark)
            if future is not None:
                flying.append((path, mark, future))
            while flying and flying[0][2].done():
                self._answered(*flying.popleft())
        for one in flying:
            self._answered(*one)

    def _fresh(self, paths: list[Path]) -> Iterator[tuple[Path, Mark]]:
        """Those that are not in the store yet, and have not to wait."""
        assert self._arrivals is not None
        at = time.monotonic()
        due = (path for path in paths if path not in self._later or self._later[path].again <= at)
        while group := list(islice(due, TOGETHER)):
            marks = {path: mark for path in group if (mark := mark_of(path)) is not None}
            keys = {path: self._key(path, mark) for path, mark in marks.items()}
            known = self.store.numbers_of(self.product_id, list(keys.values()))
            for path, mark in marks.items():
                if keys[path] in known:
                    self._settled(path, mark)
                else:
                    yield path, mark

    def _send(self, path: Path, mark: Mark) -> Future[Recorded] | None:
        """Read a picture and hand it in; None where that is not to be, or not now."""
        assert self._arrivals is not None
        limits = self.share.limits
        if mark.size > limits.upload_bytes:
            why = f"{path} has {mark.size / 1e6:.0f} MB, {limits.upload} are accepted: raise `limits: upload`"
            self._cannot(path, mark, InputError(why))
            return None
        if not self.share.take(mark.size, self._ended):
            return None
        future = None
        try:
            data = read_as(path, mark)
            if data is not None and self._was_moved(data, mark):
                self._settled(path, mark)
            elif data is not None:
                name = self._name(path)
                key, label = self._key(path, mark), self._label(name)
                one = Picture(self.product_id, data, name, SOURCE, key, **label._asdict())
                future = handed_in(one, self.submit, self._ended)
        except OSError as error:
            self._put_off(path, f"cannot read {path}: {error.strerror}")
        finally:
            if future is None:
                self.share.give(mark.size)
        if future is not None:
            future.add_done_callback(lambda _: self.share.give(mark.size))
        return future

    def _answered(self, path: Path, mark: Mark, future: Future[Recorded]) -> None:
        assert self._arrivals is not None
        error = future.exception()
        if isinstance(error, InputError):
            self._cannot(path, mark, error)
        elif error is not None:
            self._put_off(path, str(error) if isinstance(error, FlawscopeError) else repr(error))
        else:
            self._taken, self._last = self._taken + 1, now()
            self._settled(path, mark)

    def _settled(self, path: Path, mark: Mark) -> None:
        """Its inspection is on the disk."""
        assert self._arrivals is not None
        self._arrivals.done(path)
        self._later.pop(path, None)
        self._spoilt.pop(path, None)
        self.after.inspected(path, mark)

    def _put_off(self, path: Path, why: str) -> None:
        """The picture is not to blame: it is tried for ever, less and less often."""
        before = self._later.get(path)
        delay = SHORTEST if before is None else min(LONGEST, 2 * before.delay)
        self._later[path] = _Later(time.monotonic() + delay, delay, why)

    def _cannot(self, path: Path, mark: Mark, error: InputError) -> None:
        """The picture cannot be read. It may not be whole yet; else a person is told, once."""
        assert self._arrivals is not None
        self._later.pop(path, None)
        if not self._arrivals.failed(path, time.monotonic()):
            return
        why = plain(str(error))
        there = self.after.unreadable(path, mark)
        self._spoilt[there] = _Spoilt(mark, time.monotonic(), why)
        begins = f"{self._name(path)} of {iso(mark.changed // 1000)}, {mark.size} bytes: "
        if self._noted is None:
            self._noted = [str(row.text) for row in self.store.events(UNREADABLE, self.product_id)]
        if not any(text.startswith(begins) for text in self._noted):
            self.store.note_event(UNREADABLE, SOURCE, begins + why, self.product_id)
            self._noted.append(begins + why)

    # ---- names

    def _name(self, path: Path) -> str:
        return plain(path.relative_to(self.folder).as_posix())

    def _label(self, name: str) -> Label:
        """What a picture's name says of its part; nothing where that could not be kept."""
        found = self.pattern.search(name) if self.pattern is not None else None
        if found is None:
            return Label()
        try:
            said = found.groupdict()
            return labelled(said.get("part"), said.get("batch"))
        except InputError:
            return Label()

    def _key(self, path: Path, mark: Mark) -> str:
        name = self._name(path)
        exact = path.relative_to(self.folder).as_posix()
        key = f"{self._prefix}{name}{mark.ending}"
        if len(key) <= MOST_KEY and name == exact:
            return key
        return f"{self._prefix}#{hashlib.sha256(os.fsencode(exact)).hexdigest()}{mark.ending}"

    def _was_moved(self, data: bytes, mark: Mark) -> bool:
        """Whether this very file was taken under another name, which is not there any more: programs sort
        pictures into subfolders."""
        query = select(inspections.c.key).where(
            inspections.c.product_id == self.product_id,
            inspections.c.picture == hashlib.sha256(data).hexdigest(),
            inspections.c.source == SOURCE,
        )
        with self.store.database.reading() as connection:
            keys = [str(key) for key in connection.execute(query.limit(100)).scalars()]
        own = [key for key in keys if key.startswith(self._prefix) and key.endswith(mark.ending)]
        before = [key[len(self._prefix) : -len(mark.ending)] for key in own]
        return any(not name.startswith("#") and not (self.folder / name).exists() for name in before)

    # ---- what a person should know

    def _show(self, code: str, why: str | None) -> None:
        which = "" if self.number == 1 else f"_{self.number}"
        self.report(f"{code}_{self.product_id}{which}", None if why is None else plain(why))

    def _tell(self) -> None:
        assert self._arrivals is not None
        if gone := self._arrivals.gone:
            names = ", ".join(self._name(path) for path in gone[:3])
            text = f"{counted(len(gone), 'picture')} went away before being inspected: {names}"
            self.store.note_event(GONE, SOURCE, text + ("" if len(gone) <= 3 else ", ..."), self.product_id)
            for path in gone:
                self._later.pop(path, None)
            gone.clear()
        for path in self.after.gone():
            self._arrivals.forget(path)
        for path, spoilt in list(self._spoilt.items()):
            if time.monotonic() - spoilt.since > SHOWN or mark_of(path) != spoilt.mark:
                del self._spoilt[path]
        self._count("folder_waits", self._later, "could not be inspected yet")
        self._count("folder_unreadable", self._spoilt, "cannot be read")
        self.after.again()
        self._show("folder_then", self.after.problem)

    def _count(self, code: str, several: Mapping[Path, _Later | _Spoilt], what: str) -> None:
        last = next(reversed(list(several.values())), None)
        many = counted(len(several), "picture")
        self._show(code, None if last is None else f"{many} in {self.folder} {what}: {last.why}")
