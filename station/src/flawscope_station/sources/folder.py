"""Folders: each picture that appears is inspected once, even after a restart, and none is lost.

Every picture is inspected, whatever its name: masks are for learning. A file that is not inspected is an
event with its name: it cannot be read, went away, is no picture, or was inspected before.

A picture's key in the store is its path, time of change and size; its content decides whether it is known. A
crash after a picture was recorded, before its file was moved, leaves a file whose key and content are known:
the next start moves it. Files that are kept are taken as known at a start, and read again in turn, a little
at a time, for they may have been written again meanwhile; files whose times the file system rounds are read
again for ever.

Files of a part in views are handed in together, where they were written at most the part's deadline apart;
folders that show a view each are watched together. A part that lacks views, or comes twice, and a part that a
frozen camera repeats, are reported and done with.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from typing_extensions import override

from flawscope.errors import FlawscopeError, InputError, message_with_type, pluralize
from flawscope_station.inspecting.interlock import FrozenError, NotProductionError, NotReadyError, PausedError
from flawscope_station.inspecting.picture import Part, Picture, TooLargeError
from flawscope_station.inspecting.ticket import RecordedInspection
from flawscope_station.monitoring.background import (
    CLOCK,
    BackgroundThread,
    Backoff,
    GuardedThread,
    MonotonicClock,
)
from flawscope_station.settings.sources import KEEP, FolderSourceSettings
from flawscope_station.settings.values import size_text
from flawscope_station.sources.arrivals import NO_STAMP, SETTLE, Arrivals, FileStamp
from flawscope_station.sources.gathering import SeenView, gather
from flawscope_station.sources.known_files import KnownFiles
from flawscope_station.sources.moved_files import (
    give_back,
    hash_unchanged,
    is_taken,
    is_unchanged,
    move_unchanged,
    read_unchanged,
)
from flawscope_station.sources.source import AWAY, RUNNING, WAITING, SourceContext, State, to_utf8
from flawscope_station.store.database import now
from flawscope_station.store.inspection import FOLDER, Label, make_label
from flawscope_station.store.records import iso
from flawscope_station.store.removed_files import GIVEN_UP
from flawscope_station.store.schema import (
    MISSED,
    PASSED_OVER,
    REPEATED,
    UNREADABLE,
    VANISHED,
)

SOURCE = FOLDER
FORGET_SECONDS = 86_400.0  # until the keys of files that went away are forgotten again
SHOWN = "challenge_part_shown"  # event
POLL_INTERVAL = 0.2  # seconds between two looks, at least
# Least ratio of the pause between two listings to a listing's time, to spare a network share: while very many
# files wait, and else
BUSY_RATIO = 4
IDLE_RATIO = 10
MAX_LOOKED_AT = 1000  # pictures that are looked at between two listings, at most
# seconds of reading known files again at once; least ratio of the pause
CHECK_SECONDS = 0.1
CHECK_RATIO = 20
NAMED_FILES = 20  # files that are passed over for the same reason and named; of more, the number is told
OVERWRITTEN = "another file came in its place before it was inspected: give each picture a name of its own"
# seconds before a picture that was put off is tried again
MIN_RETRY_DELAY = 1.0
MAX_RETRY_DELAY = 300.0
HELD_SECONDS = 1.0  # before a picture that an interlock holds back is tried again
PROBLEM_SECONDS = 3600.0  # seconds for which an unreadable picture is a problem; the event stays
WORK_RATIO = 20  # least ratio of inspecting to listing time where many pictures wait
CODE_WAITING = "folder_waits"
CODE_UNREADABLE = "folder_unreadable"
CODE_NOT_REMOVED = "folder_then"


@dataclass
class _ProblemFile:
    """File that is tried again, for ever, or that cannot be read.

    Attributes:
        code: Code of the problem.
        stamp: Stamp of the file when the problem began.
        since: Begin of the problem, as `time.monotonic` counts.
        why: Last reason.
    """

    code: str
    stamp: FileStamp
    since: float
    why: str = ""
    backoff: Backoff = field(default_factory=lambda: Backoff(MIN_RETRY_DELAY, MAX_RETRY_DELAY))


Known = tuple[Path, bool]  # a picture, and whether the store has its key, of another content


class WatchedFolder:
    """Folder with its subfolders: it finds pictures to inspect, and deals with their files afterwards.

    Args:
        line: Access to the station.
        settings: Settings of the folder.
        number: Number of the folder among the product's, from 1.
        excluded: Folders below it that are left out: pictures are moved there.
        thread: Thread that watches it.
        clock: Clock of its waits.
    """

    def __init__(
        self,
        line: SourceContext,
        settings: FolderSourceSettings,
        number: int,
        excluded: Iterable[str],
        thread: GuardedThread,
        clock: MonotonicClock,
    ):
        self.line = line
        self.number = number
        self.then = settings.then
        self._thread = thread
        self._clock = clock
        self.folder = Path(os.path.abspath(settings.folder))
        self.target = None if self.then == KEEP else Path(os.path.abspath(self.then))
        self.pattern = None if settings.pattern is None else re.compile(settings.pattern)
        self.view = settings.view
        self.state = State(SOURCE, f"folder{number}", to_utf8(str(self.folder)), to_utf8(self.then))
        self._excluded = [*excluded] if self.target is None else [*excluded, str(self.target)]
        self._known = KnownFiles(line.store, line.product_id, self.folder)
        self._arrivals: Arrivals | None = None  # None: it was never there
        self._problem_files: dict[Path, _ProblemFile] = {}
        self._digests: dict[Path, bytes] = {}  # of the pictures at hand
        self._at_start: set[str] = set()  # files that were there at the first listing
        self._to_check: deque[Path] = deque()  # known files whose content is to be compared
        self._check_at = self._list_at = self._forget_at = 0.0
        self._passed_over: Counter[str] = Counter()  # files, by reason
        self._overwritten = 0  # files
        self._is_listed = False  # in this round
        self.found: dict[Path, FileStamp] = {}  # pictures that are whole in this round
        self.is_blocked = False  # the cause that put off a picture would put off others, too

    def start(self) -> None:
        """Do nothing: the source that watches it starts."""

    def stop(self) -> None:
        """Do nothing: the source that watches it stops."""

    # ---- a round

    @property
    def arrivals(self) -> Arrivals:
        """Pictures of the folder; it was looked for before."""
        assert self._arrivals is not None, "it is looked for first"
        return self._arrivals

    def look(self) -> float:
        """List the folder, or look at the files that wait; return the seconds for inspecting its pictures.

        Raises:
            InputError: the folder is away.
        """
        at = self._clock.monotonic()
        self.is_blocked = False
        self.found = {}
        with self._thread.call():  # a share may hang
            if self._arrivals is None:
                self._arrivals = Arrivals(self.folder, apart=self._excluded)
                self._at_start = {*self._arrivals.at_start}
            arrivals = self._arrivals
            self._is_listed = at >= self._list_at
            if self._is_listed:
                paths = arrivals.scan(at)
                self._give_back(arrivals)
            else:
                paths = arrivals.look(at) if arrivals.waiting <= MAX_LOOKED_AT else []
            self.found = {path: arrivals.stamp(path) for path in paths}
        return max(MIN_RETRY_DELAY, WORK_RATIO * arrivals.took)

    def _give_back(self, arrivals: Arrivals) -> None:
        """Give files their names back that were hidden to be moved.

        A crash, or another file that was written under their name meanwhile, left them hidden. They are
        pictures at the next listing.
        """
        for path in arrivals.others:
            if is_taken(path):
                give_back(path)

    def finish_round(self) -> None:
        """Report the outcomes of the files, and read some of the known ones again."""
        arrivals = self.arrivals
        if self._is_listed:
            self._report_scan(arrivals)
            self._note_passed_over(arrivals)
            self._forget_removed(arrivals)
            is_busy = arrivals.waiting > max(MAX_LOOKED_AT, len(self._problem_files))
            ratio = BUSY_RATIO if is_busy else IDLE_RATIO
            self._list_at = self._clock.monotonic() + max(POLL_INTERVAL, ratio * arrivals.took)
        self._check_known_files(arrivals)

    def show_away(self, error: InputError | None) -> None:
        """Report that the folder is away; None: it is there."""
        why = None if error is None else to_utf8(f"{error}; pictures are taken when it is back")
        state_if_there = RUNNING if self.state.taken else WAITING
        self.state.state = state_if_there if why is None else AWAY
        self.state.why = why
        self._report("folder_away", why)

    def show_failure(self, error: Exception) -> None:
        """Report that a round failed, such as for a store that is away; the next round tries again."""
        self._report(CODE_WAITING, f"pictures wait in {self.folder}: {message_with_type(error)}")

    # ---- pictures

    def unknown_files(self) -> Iterator[Known]:
        """Yield each picture that was not inspected, and whether the store has its key, with another content.

        Files that were inspected are done with; a file that is kept since an earlier start is read later.
        """
        arrivals = self.arrivals
        found = self.found
        for path, known in self._known.match(found):
            if known is None:
                yield path, False
                continue
            number, picture = known
            stays = number == GIVEN_UP or self.then == KEEP
            if stays and str(path) in self._at_start:
                self._at_start.discard(str(path))
                self._digests[path] = bytes.fromhex(picture)
                self._finish_file(arrivals, path, stays)
                self._to_check.append(path)
            elif (digest := self._read_digest(arrivals, path, found[path])) is None:
                continue
            elif arrivals.content_known(path, digest) or self._known.has(path, found[path], digest):
                self._finish_repeated(arrivals, path, found[path], digest, stays)
            else:
                yield path, True

    def seen_view(self, path: Path, is_known: bool = False) -> SeenView:
        """Return the part and the view that a file shows, as far as its name says."""
        label = self._parse_label(self._known.name(path))
        picture = Picture(b"", self._known.name(path), label.view)
        part = Part(self.line.product_id, (picture,), SOURCE, label.part, label.batch)
        if self.line.parts is not None:
            number, view = self.line.parts.label(part)
            part = replace(part, number=number)
            picture = replace(picture, view=view)
        changed = self.found.get(path, NO_STAMP).modified_ns
        return SeenView(path, (part.number, part.batch), picture.view, changed, is_known)

    def pending_views(self) -> list[SeenView]:
        """Return the parts and views that files show which are not whole yet."""
        return [self.seen_view(path) for path in self.arrivals.pending() - self.found.keys()]

    def waits_since(self, path: Path) -> float:
        """Return the time at which a file was last seen to change."""
        return self.arrivals.unchanged_since(path)

    def read_picture(self, path: Path, is_known: bool) -> tuple[Picture, Label] | None:
        """Read a picture with the label in its name; return None where it is not inspected, or not now.

        Args:
            path: Path of the picture.
            is_known: Whether the store has its key, with another content.

        Raises:
            TooLargeError: the file is larger than `limits: upload`.
            NotReadyError: an interlock holds.
        """
        arrivals = self.arrivals
        stamp = self.found[path]
        key = self._known.key(path, stamp)
        name = self._known.name(path)
        label = self._parse_label(name)
        self.line.check(label.part)
        limits = self.line.share.limits
        size = f"{stamp.size / 1e6:.0f} MB"
        if stamp.size > limits.upload:
            error = TooLargeError(
                f"{path} has {size}, {size_text(limits.upload)} are accepted: raise `limits: upload`"
            )
            self.line.refused(error)
            raise error
        try:
            with self._thread.call():
                data = read_unchanged(path, stamp)
        except OSError as error:
            self._retry_later(arrivals, path, CODE_WAITING, f"cannot read {path}: {error.strerror}")
            return None
        if data is None:
            return None
        digest = self._digests[path] = hashlib.sha256(data).digest()
        if not is_known and (arrivals.content_known(path, digest) or self._known.was_moved(stamp, digest)):
            self._finish_repeated(arrivals, path, stamp, digest)
            return None
        if is_known:
            key = self._known.key(path, stamp, digest)
        return Picture(data, name, label.view, key), label

    def handle_answer(self, path: Path, error: BaseException | None) -> None:
        """Deal with a file after the answer to its part.

        Args:
            path: Path of the file.
            error: Error of the part; None: it is recorded.
        """
        arrivals = self.arrivals
        if isinstance(error, InputError | TooLargeError):
            self._handle_unreadable(arrivals, path, error)
        elif isinstance(error, FrozenError):
            self.give_up([path], error)
        elif isinstance(error, NotReadyError):
            self._hold(arrivals, path, error)
        elif isinstance(error, NotProductionError):
            text = f"{self._known.name(path)}: {error}"
            self.line.store.note_event(SHOWN, SOURCE, text, self.line.product_id)
            self._finish_file(arrivals, path)
        elif error is not None:
            self._retry_later(arrivals, path, CODE_WAITING, message_with_type(error))
        else:
            self.state.taken, self.state.last = self.state.taken + 1, now()
            self._finish_file(arrivals, path)

    def _read_digest(self, arrivals: Arrivals, path: Path, stamp: FileStamp) -> bytes | None:
        """Return the hash of a file's content, and remember it.

        None where the file cannot be read now, and is tried again later; also where it changed or went away
        meanwhile: the next look at the folder finds it as it is then.
        """
        try:
            with self._thread.call():
                digest = hash_unchanged(path, stamp)
        except OSError as error:
            self._retry_later(arrivals, path, CODE_WAITING, f"cannot read {path}: {error.strerror}")
            return None
        if digest is not None:
            self._digests[path] = digest
        return digest

    def _check_known_files(self, arrivals: Arrivals) -> None:
        """Read some of the known files again; files with another content are pictures that wait."""
        if self._clock.monotonic() < self._check_at:
            return
        begun = time.monotonic()
        left = len(self._to_check)
        while left and time.monotonic() - begun < CHECK_SECONDS:
            path = self._to_check.popleft()
            left = left - 1
            if (stamp := arrivals.judged_stamp(path)) is None:
                continue
            try:
                with self._thread.call():
                    digest = hash_unchanged(path, stamp)
            except OSError:
                self._to_check.append(path)
                continue
            is_same = digest is None or arrivals.check(path, digest)
            if is_same and arrivals.is_coarse(path):
                self._to_check.append(path)
        self._check_at = self._clock.monotonic() + max(SETTLE, CHECK_RATIO * (time.monotonic() - begun))

    def _finish_file(self, arrivals: Arrivals, path: Path, stays: bool | None = None) -> None:
        """Move or keep the file of a recorded picture, as the settings say.

        Args:
            arrivals: Pictures of the folder.
            path: Path of the file.
            stays: Whether it is kept; None: as in the settings.
        """
        stamp = arrivals.stamp(path)
        stays = self.then == KEEP if stays is None else stays
        try:
            with self._thread.call():
                if self.target is not None and not stays:
                    target = self.target / path.relative_to(self.folder)
                    digest = self._digests.get(path)
                    move_unchanged(path, stamp, target, digest)
        except OSError as error:
            self._retry_later(arrivals, path, CODE_NOT_REMOVED, error.strerror or type(error).__name__)
            return
        arrivals.done(path, removed=not stays, digest=self._digests.pop(path, None))
        self._problem_files.pop(path, None)
        if stays and arrivals.is_coarse(path):
            self._to_check.append(path)

    def _finish_repeated(
        self, arrivals: Arrivals, path: Path, stamp: FileStamp, digest: bytes, stays: bool | None = None
    ) -> None:
        """Be done with a file that was inspected before; note an event unless it was touched or renamed."""
        is_there = arrivals.content_known(path, digest)
        if not is_there and (self.then != KEEP or not self._known.was_moved(stamp, digest)):
            self._note(REPEATED, path, stamp, "it was inspected before, and is not inspected again")
        self._finish_file(arrivals, path, stays)

    def give_up(self, paths: Sequence[Path], error: FlawscopeError) -> bool:
        """Note files of a part that is not inspected, and be done with them, also after a restart.

        A file that was inspected under another name is not noted.

        Returns:
            Whether a file was noted.
        """
        arrivals = self.arrivals
        given_up = []
        for path in paths:
            stamp = arrivals.stamp(path)
            digest = self._digests.get(path) or self._read_digest(arrivals, path, stamp)
            if digest is None:
                continue
            if self._known.was_moved(stamp, digest):
                self._finish_file(arrivals, path)
                continue
            self._note(MISSED, path, stamp, to_utf8(str(error)))
            self._known.give_up(path, stamp, digest)
            given_up.append(path)
            self._set_aside(arrivals, path, error)
        return bool(given_up)

    def _retry_later(self, arrivals: Arrivals, path: Path, code: str, why: str) -> None:
        """Try a picture again, for ever, less and less often: the cause is not the picture."""
        self.is_blocked |= code == CODE_WAITING and path not in self._problem_files
        problem = self._problem(arrivals, path, code)
        problem.why = why
        arrivals.later(path, self._clock.monotonic() + problem.backoff.next())

    def _hold(self, arrivals: Arrivals, path: Path, error: NotReadyError) -> None:
        """Keep a picture that an interlock holds back, and go on: challenge parts may come after it."""
        if isinstance(error, PausedError):
            self._problem_files.pop(path, None)
        else:
            self._problem(arrivals, path, CODE_WAITING).why = str(error)
        arrivals.later(path, self._clock.monotonic() + HELD_SECONDS)

    def _problem(self, arrivals: Arrivals, path: Path, code: str) -> _ProblemFile:
        """Return the problem of a file; it begins now unless the file has a problem with this code."""
        if (known := self._problem_files.get(path)) is None or known.code != code:
            stamp = arrivals.stamp(path)
            since = self._clock.monotonic()
            known = self._problem_files[path] = _ProblemFile(code, stamp, since)
        return known

    def _handle_unreadable(self, arrivals: Arrivals, path: Path, error: FlawscopeError) -> None:
        """Try an unreadable picture again, for it may not be whole yet; at last note an event, once."""
        self._problem_files.pop(path, None)
        if not arrivals.failed(path, self._clock.monotonic()):
            return
        self._note(UNREADABLE, path, arrivals.stamp(path), to_utf8(str(error)))
        self._digests.pop(path, None)  # the file was not judged: the same file again is no repeated one
        self._set_aside(arrivals, path, error)

    def _set_aside(self, arrivals: Arrivals, path: Path, error: FlawscopeError) -> None:
        """Be done with a file that is not inspected, and move it beside those that are.

        A picture that a frozen camera repeats stays in its place. The event is noted before: where the store
        is away, all is done again.
        """
        place = path
        stamp = arrivals.stamp(path)
        if self.target is not None and not isinstance(error, FrozenError):
            with suppress(OSError):  # a file that cannot be moved stays
                target = self.target / UNREADABLE / path.relative_to(self.folder)
                place = move_unchanged(path, stamp, target) or path
        arrivals.done(path, digest=self._digests.pop(path, None))
        why = to_utf8(str(error))
        self._problem_files[place] = _ProblemFile(CODE_UNREADABLE, stamp, self._clock.monotonic(), why)

    # ---- names

    def _parse_label(self, name: str) -> Label:
        """Return part, batch and view from a picture's name."""
        found = self.pattern.search(name) if self.pattern is not None else None
        groups = {} if found is None else found.groupdict()
        return make_label(groups.get("part"), groups.get("batch"), groups.get("view") or self.view)

    def _forget_removed(self, arrivals: Arrivals) -> None:
        """Forget once a day the keys of files that went away.

        An empty folder whose files are kept is no evidence: a share that is away looks like one.
        """
        is_busy = arrivals.waiting > len(self._problem_files)
        if is_busy or self._clock.monotonic() < self._forget_at:
            return
        stamps = arrivals.stamps()
        if stamps or self.then != KEEP:
            self._known.forget(stamps)
            self._forget_at = self._clock.monotonic() + FORGET_SECONDS

    # ---- reports

    def _report(self, code: str, why: str | None) -> None:
        self.line.show(code, None if self.number == 1 else self.number, why)

    def _note(self, kind: str, path: Path, stamp: FileStamp, why: str) -> None:
        """Note, once, that a file is not inspected."""
        texts = [self._describe_file(path, stamp, why)]
        self.line.store.note_new_events(kind, SOURCE, texts, self.line.product_id)

    def _describe_file(self, path: Path, stamp: FileStamp, why: str) -> str:
        if stamp == NO_STAMP:
            return f"{self._known.name(path)}: {why}"
        return f"{self._known.name(path)} of {iso(stamp.modified_ns // 1000)}, {stamp.size} bytes: {why}"

    def _note_passed_over(self, arrivals: Arrivals) -> None:
        """Name the first files that are passed over for a reason; then report their number now and then."""
        texts = []
        more = dict[str, Path]()
        for path, why in arrivals.passed_over(self._clock.monotonic()).items():
            if is_taken(path):  # the file gets its name back when that is free
                continue
            self._passed_over[why] += 1
            count = self._passed_over[why]
            if count <= NAMED_FILES:
                texts.append(self._describe_file(path, arrivals.other_stamp(path), why))
            elif count.bit_count() == 1:  # 32, 64 and so on
                more[why] = path
        texts += [
            f"{self._passed_over[why]} files so far, {self._known.name(path)} among them: {why}"
            for why, path in more.items()
        ]
        self.line.store.note_new_events(PASSED_OVER, SOURCE, texts, self.line.product_id)

    def _note_overwritten(self, arrivals: Arrivals) -> None:
        """Name the first pictures that another file replaced; after that report their number now and then."""
        texts = []
        for path, stamp in arrivals.overwritten:
            self._overwritten += 1
            if self._overwritten <= NAMED_FILES:
                texts.append(self._describe_file(path, stamp, OVERWRITTEN))
            elif self._overwritten.bit_count() == 1:  # 32, 64 and so on
                texts.append(
                    f"{self._overwritten} files so far, {self._known.name(path)} among them: {OVERWRITTEN}"
                )
        arrivals.overwritten.clear()
        self.line.store.note_events(VANISHED, SOURCE, texts, self.line.product_id)

    def _report_scan(self, arrivals: Arrivals) -> None:
        """Note the pictures that went away uninspected, and report the problems with others."""
        vanished = [path for path, known in self._known.match(arrivals.gone) if known is None]
        if vanished:
            texts = [f"{self._known.name(path)} went away before being inspected" for path in vanished]
            self.line.store.note_events(VANISHED, SOURCE, texts, self.line.product_id)
        for path, problem in list(self._problem_files.items()):
            is_old = (
                problem.code == CODE_UNREADABLE and self._clock.monotonic() - problem.since > PROBLEM_SECONDS
            )
            if path in arrivals.gone or is_old or not is_unchanged(path, problem.stamp):
                del self._problem_files[path]
        arrivals.gone.clear()
        self._note_overwritten(arrivals)
        for code, thing, outcome in (
            (CODE_WAITING, "picture", "could not be inspected yet"),
            (CODE_UNREADABLE, "picture", "not inspected"),
            (CODE_NOT_REMOVED, "inspected picture", f"cannot be moved to {self.target}"),
        ):
            reasons = [problem.why for problem in self._problem_files.values() if problem.code == code]
            many = pluralize(len(reasons), thing)
            self._report(code, f"{many} in {self.folder} {outcome}: {reasons[-1]}" if reasons else None)


class FolderSource(BackgroundThread):
    """Source of the parts in a folder and its subfolders, or in several folders with a view of each part.

    The oldest parts come first; pictures that are there at the start are included.

    Args:
        line: Access to the station.
        settings: Settings of the folder.
        number: Number of the folder among the product's, from 1.
        excluded: Folders below it that are left out: pictures are moved there.
        clock: Clock of its waits.
    """

    def __init__(
        self,
        line: SourceContext,
        settings: FolderSourceSettings,
        number: int,
        excluded: Iterable[str] = (),
        clock: MonotonicClock = CLOCK,
    ):
        super().__init__(f"folder-{line.product_id}", clock)
        self.line, self.folders = line, list[WatchedFolder]()
        self._in_flight: deque[_InFlight] = deque()  # parts that are handed in, the oldest first
        self.state = self.add_folder(settings, number, excluded).state  # others have their own

    def add_folder(
        self, settings: FolderSourceSettings, number: int, excluded: Iterable[str] = ()
    ) -> WatchedFolder:
        """Watch a further folder; to be called before the start."""
        folder = WatchedFolder(self.line, settings, number, excluded, self.threads[0], self._clock)
        self.folders.append(folder)
        return folder

    @override
    def _work(self) -> None:
        while not self._pause(self.work_once()):
            pass

    def work_once(self) -> float:
        """Work off the pictures that are whole by now; return the seconds until the next round."""
        reachable_folders = list[WatchedFolder]()
        seconds = MIN_RETRY_DELAY
        if not self._handle_answers(self.folders):  # of a round that failed
            return MIN_RETRY_DELAY
        for folder in self.folders:
            try:
                seconds = max(seconds, folder.look())
                reachable_folders.append(folder)
            except InputError as error:
                folder.show_away(error)
            except Exception as error:
                folder.show_failure(error)
        try:
            self._submit_parts(reachable_folders, self._clock.monotonic() + seconds)
        except Exception as error:
            for folder in reachable_folders:
                folder.show_failure(error)
            self._handle_answers(reachable_folders)
            return MIN_RETRY_DELAY
        if not self._handle_answers(reachable_folders) or not self._finish_round(reachable_folders):
            return MIN_RETRY_DELAY
        return POLL_INTERVAL if len(reachable_folders) == len(self.folders) else MIN_RETRY_DELAY

    def _finish_round(self, there: Sequence[WatchedFolder]) -> bool:
        """Report the outcomes of the files; return whether that could be done."""
        try:
            for folder in there:
                folder.finish_round()
                folder.show_away(None)
        except Exception as error:
            for folder in there:
                folder.show_failure(error)
            return False
        return True

    def _submit_parts(self, there: Sequence[WatchedFolder], deadline: float) -> None:
        """Hand parts in, several at once, and work off the answers that are there."""
        for files in self._parts_of(there):
            is_blocked = any(folder.is_blocked for folder in there)
            if self._ended.is_set() or self._clock.monotonic() > deadline or is_blocked:
                break
            if (answer := self._submit_files(files)) is not None:
                self._in_flight.append(_InFlight(files, answer))
            while self._in_flight and self._in_flight[0].answer.done():
                self._handle_first_answer()

    def _handle_answers(self, there: Sequence[WatchedFolder]) -> bool:
        """Wait for the answers of all parts that are handed in; return whether all could be worked off.

        An answer that could not, such as for a store that is away, is worked off in the next round.
        """
        try:
            while self._in_flight:
                self._handle_first_answer()
        except Exception as error:
            for folder in there:
                folder.show_failure(error)
            return False
        return True

    def _handle_first_answer(self) -> None:
        files, answer = self._in_flight[0]
        error = answer.exception()
        while files:
            files[0].folder.handle_answer(files[0].path, error)
            del files[0]
        self._in_flight.popleft()

    def _parts_of(self, there: Sequence[WatchedFolder]) -> Iterator[list[_File]]:
        """Yield the files of each part together: a single file, or all views.

        A part that lacks views waits for them, or for files with its number that are not whole, and is then
        given up; while a folder is away all parts wait.
        """
        parts = self.line.parts
        views = [] if parts is None else parts.views(self.line.product_id)
        unknown = (_File(folder, *found) for folder in there for found in folder.unknown_files())
        if not views:
            yield from ([unknown_file] for unknown_file in unknown)
            return
        folder_of = dict[Path, WatchedFolder]()
        seen = list[SeenView]()
        for file in unknown:
            view = file.folder.seen_view(file.path, file.is_known)
            if view.part[0] is None or view.view not in views:
                yield [file]  # the file is refused alone
            else:
                folder_of[file.path] = file.folder
                seen.append(view)
        yield from self._gather_parts(there, views, folder_of, seen)

    def _gather_parts(
        self,
        there: Sequence[WatchedFolder],
        views: Sequence[str],
        folder_of: Mapping[Path, WatchedFolder],
        seen: Sequence[SeenView],
    ) -> Iterator[list[_File]]:
        """Yield the files of parts whose views are all there, and give up the parts that are over."""
        not_whole = {view.part for folder in there for view in folder.pending_views()}
        ready = [view for view in seen if view.part not in not_whole]
        ready.sort(key=lambda view: (view.changed_ns, view.path))
        for group in gather(ready, views, self.line.part_seconds):
            files = [_File(folder_of[file.path], file.path, file.is_known) for file in group.files]
            waits = self._clock.monotonic() - min(file.folder.waits_since(file.path) for file in files)
            is_over = group.is_over or waits >= self.line.part_seconds + SETTLE
            if not group.why:
                yield files
            elif len(there) == len(self.folders) and is_over:
                self._give_up(files, FlawscopeError(group.why))

    def _give_up(self, files: Sequence[_File], error: FlawscopeError) -> None:
        """Report a part that is not inspected, and be done with its files."""
        noted = [file.folder.give_up([file.path], error) for file in files]
        if any(noted):
            self.line.refused(error)

    def _submit_files(self, files: Sequence[_File]) -> Future[RecordedInspection] | None:
        """Read the files of a part and submit it; return None where it is not submitted, or not now."""
        try:
            read = [file.folder.read_picture(file.path, file.is_known) for file in files]
            known = [picture for picture in read if picture is not None]
            if len(known) < len(read):
                return None
            pictures = tuple(picture for picture, _ in known)
            label = known[0][1]
            key = pictures[0].key
            part = Part(self.line.product_id, pictures, SOURCE, label.part, label.batch, key)
            return self.line.hand_in(part, self._ended)
        except (NotReadyError, InputError, TooLargeError) as error:
            for file in files:
                file.folder.handle_answer(file.path, error)
            return None


class _InFlight(NamedTuple):
    """Part that is handed in.

    Attributes:
        files: Files whose answer is not worked off yet.
        answer: Answer to the part.
    """

    files: list[_File]
    answer: Future[RecordedInspection]


class _File(NamedTuple):
    """Picture of a watched folder.

    Attributes:
        folder: Folder that has it.
        path: Path of the picture.
        is_known: Whether the store has its key, with another content.
    """

    folder: WatchedFolder
    path: Path
    is_known: bool
