"""Folders: each picture that appears is inspected once, even after a restart, and none is lost.

Every picture is inspected, whatever its name: a mask, too, for masks are for learning. A file that is not
inspected is an event with its name and the reason: it cannot be read, went away, is no picture, or was
inspected before.

A picture's key in the store is its path, time of change and size; its content decides whether it is known. A
crash after a picture was recorded, before its file was moved, leaves a file whose key and content are known:
the next start moves it. Files that are kept are taken as known at a start, and then read again a few at a
time, for they may have been written again meanwhile; files whose times the file system rounds are read again
and again.

Files of a part in views are handed in together, if they were written at most the part's deadline apart;
folders that show a view each are watched together. A part that lacks views, or comes twice, or that a frozen
camera repeats, is reported and given up.
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
FORGET_SECONDS = 86_400.0  # between two times that the keys of files that went away are forgotten
SHOWN = "challenge_part_shown"  # event
POLL_INTERVAL = 0.2  # shortest seconds between two looks
# To spare a network share, the pause between two listings is this many times as long as a listing:
BUSY_RATIO = 4  # while very many files wait
IDLE_RATIO = 10  # at other times
MAX_LOOKED_AT = 1000  # most pictures that are looked at between two listings
CHECK_SECONDS = 0.1  # seconds for which known files are read again in a row
CHECK_RATIO = 20  # the pause after that is this many times as long
NAMED_FILES = 20  # files that are named with the same reason; of further files the number is reported
OVERWRITTEN = "another file came in its place before it was inspected: give each picture a name of its own"
MIN_RETRY_DELAY = 1.0  # seconds before a picture that was put off is tried again
MAX_RETRY_DELAY = 300.0  # seconds before a picture that was put off many times is tried again
HELD_SECONDS = 1.0  # seconds before a picture that an interlock holds back is tried again
PROBLEM_SECONDS = 3600.0  # seconds for which an unreadable picture is a problem; the event stays
WORK_RATIO = 20  # where many pictures wait, they are inspected for this many times as long as a listing takes
CODE_WAITING = "folder_waits"
CODE_UNREADABLE = "folder_unreadable"
CODE_NOT_REMOVED = "folder_then"


@dataclass
class _ProblemFile:
    """File that is tried again and again, or that cannot be read.

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


Known = tuple[Path, bool]  # a picture, and whether the store has its key already, but with other content


class WatchedFolder:
    """Folder with its subfolders: it finds pictures to inspect, and deals with their files afterwards.

    Args:
        line: Access to the station.
        settings: Settings of the folder.
        number: Number of the folder among the product's, from 1.
        excluded: Folders below it that are left out: pictures are moved there.
        thread: Thread that watches the folder.
        clock: Clock by which the thread waits.

    Attributes:
        found: Stamps of the pictures that are whole in this round, by path.
        is_blocked: Whether a picture was put off for a cause that would put off other pictures, too.
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
        self._arrivals: Arrivals | None = None  # None: the folder was never there
        self._problem_files: dict[Path, _ProblemFile] = {}
        self._digests: dict[Path, bytes] = {}  # SHA-256 of the pictures that were read in this round
        self._at_start: set[str] = set()  # paths of files that were there at the first listing
        self._to_check: deque[Path] = deque()  # known files whose content is to be compared
        self._check_at = 0.0  # time of the next check of known files, by `clock`
        self._list_at = 0.0  # time of the next listing, by `clock`
        self._forget_at = 0.0  # time from which on keys are forgotten again, by `clock`
        self._passed_over_counts: Counter[str] = Counter()  # number of files by reason
        self._overwritten_count = 0  # number of files that another file replaced
        self._is_listed = False  # whether this round has listed the folder
        self.found: dict[Path, FileStamp] = {}
        self.is_blocked = False

    def start(self) -> None:
        """Do nothing: the `FolderSource` that watches the folder starts."""

    def stop(self) -> None:
        """Do nothing: the `FolderSource` that watches the folder stops."""

    # ---- a round

    @property
    def arrivals(self) -> Arrivals:
        """Pictures of the folder; `look` must have been called."""
        assert self._arrivals is not None, "`look` comes first"
        return self._arrivals

    def look(self) -> float:
        """List the folder, or look at the files that wait; set `found`.

        Returns:
            Seconds for which pictures may be inspected before the next listing.

        Raises:
            InputError: The folder is away.
        """
        now = self._clock.monotonic()
        self.is_blocked = False
        self.found = {}
        with self._thread.call():  # watched, because a network share may hang
            if self._arrivals is None:
                self._arrivals = Arrivals(self.folder, apart=self._excluded)
                self._at_start = {*self._arrivals.at_start}
            arrivals = self._arrivals
            self._is_listed = now >= self._list_at
            if self._is_listed:
                paths = arrivals.scan(now)
                self._restore_names(arrivals)
            elif arrivals.waiting <= MAX_LOOKED_AT:
                paths = arrivals.look(now)
            else:
                paths = []  # too many wait to look at them between two listings
            self.found = {path: arrivals.stamp(path) for path in paths}
        return max(MIN_RETRY_DELAY, WORK_RATIO * arrivals.took)

    def _restore_names(self, arrivals: Arrivals) -> None:
        """Give hidden files their names back.

        A file is hidden while it is moved. It stays hidden after a crash, or if another file has its name.
        With its name back, it is a picture for the next listing.
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
            # files with problems wait long, and do not make the folder busy
            is_busy = arrivals.waiting > max(MAX_LOOKED_AT, len(self._problem_files))
            ratio = BUSY_RATIO if is_busy else IDLE_RATIO
            self._list_at = self._clock.monotonic() + max(POLL_INTERVAL, ratio * arrivals.took)
        self._check_known_files(arrivals)

    def show_away(self, error: InputError | None) -> None:
        """Report that the folder is away, with the error of `look`; None: it is there."""
        reason = None if error is None else to_utf8(f"{error}; pictures are taken when it is back")
        state_if_there = RUNNING if self.state.taken else WAITING
        self.state.state = state_if_there if reason is None else AWAY
        self.state.why = reason
        self._report("folder_away", reason)

    def show_failure(self, error: Exception) -> None:
        """Report that a round failed, for example because the store is away; the next round tries again."""
        self._report(CODE_WAITING, f"pictures wait in {self.folder}: {message_with_type(error)}")

    # ---- pictures

    def unknown_files(self) -> Iterator[Known]:
        """Yield each picture to inspect, and whether the store has its key already, but with other content.

        Pictures that were inspected before are not yielded, but moved or kept. A picture that is kept, and
        was there at the start, counts as inspected if the store has its key. Its content is compared later.
        """
        arrivals = self.arrivals
        stamps = self.found
        for path, record in self._known.match(stamps):
            if record is None:
                yield path, False
                continue
            number, picture_hash = record
            is_kept = number == GIVEN_UP or self.then == KEEP  # a file that was given up stays where it is
            if is_kept and str(path) in self._at_start:
                self._at_start.discard(str(path))
                self._digests[path] = bytes.fromhex(picture_hash)
                self._finish_file(arrivals, path, is_kept)
                self._to_check.append(path)
                continue
            digest = self._read_digest(arrivals, path, stamps[path])
            if digest is None:
                continue
            if arrivals.content_known(path, digest) or self._known.has(path, stamps[path], digest):
                self._finish_repeated(arrivals, path, stamps[path], digest, is_kept)
            else:
                yield path, True

    def seen_view(self, path: Path, is_known: bool = False) -> SeenView:
        """Return the part and the view that a file shows, as far as its name says.

        Args:
            path: Path of the file.
            is_known: Whether the store has its key already, but with other content.
        """
        label = self._parse_label(self._known.name(path))
        picture = Picture(b"", self._known.name(path), label.view)  # without its content: the name says all
        part = Part(self.line.product_id, (picture,), SOURCE, number=label.part, batch=label.batch)
        if self.line.parts is not None:
            number, view = self.line.parts.label(part)
            part = replace(part, number=number)
            picture = replace(picture, view=view)
        changed_ns = self.found.get(path, NO_STAMP).modified_ns
        return SeenView(
            path=path,
            part=(part.number, part.batch),
            view=picture.view,
            changed_ns=changed_ns,
            is_known=is_known,
        )

    def pending_views(self) -> list[SeenView]:
        """Return part and view of each file that is not whole yet."""
        return [self.seen_view(path) for path in self.arrivals.pending() - self.found.keys()]

    def waits_since(self, path: Path) -> float:
        """Return the time at which a file was last seen to change."""
        return self.arrivals.unchanged_since(path)

    def read_picture(self, path: Path, is_known: bool) -> tuple[Picture, Label] | None:
        """Read a picture with the label in its name; return None if it is not to be inspected, or not now.

        Args:
            path: Path of the picture.
            is_known: Whether the store has its key already, but with other content.

        Raises:
            TooLargeError: The file is larger than `limits: upload`.
            NotReadyError: An interlock holds the part back.
        """
        arrivals = self.arrivals
        stamp = self.found[path]
        name = self._known.name(path)
        label = self._parse_label(name)
        self.line.check(label.part)
        limits = self.line.share.limits
        if stamp.size > limits.upload:
            size = f"{stamp.size / 1e6:.0f} MB"
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
        digest = hashlib.sha256(data).digest()
        self._digests[path] = digest
        if not is_known and (arrivals.content_known(path, digest) or self._known.was_moved(stamp, digest)):
            self._finish_repeated(arrivals, path, stamp, digest)
            return None
        # the content is added to a key that the store has for another content
        key = self._known.key(path, stamp, digest) if is_known else self._known.key(path, stamp)
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
            self._hold_back(arrivals, path, error)
        elif isinstance(error, NotProductionError):
            text = f"{self._known.name(path)}: {error}"
            self.line.store.note_event(SHOWN, SOURCE, text, self.line.product_id)
            self._finish_file(arrivals, path)
        elif error is not None:
            self._retry_later(arrivals, path, CODE_WAITING, message_with_type(error))
        else:
            self.state.taken += 1
            self.state.last = now()
            self._finish_file(arrivals, path)

    def _read_digest(self, arrivals: Arrivals, path: Path, stamp: FileStamp) -> bytes | None:
        """Return the hash of a file's content, and remember it; None: the file cannot be hashed now.

        A file that cannot be read is tried again later. A file that changed or went away meanwhile is left to
        the next look at the folder.
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
        """Read some of the known files again; one whose content has changed becomes a waiting picture."""
        if self._clock.monotonic() < self._check_at:
            return
        started_at = time.monotonic()
        count_left = len(self._to_check)  # each file is read once, even if it is appended again
        while count_left and time.monotonic() - started_at < CHECK_SECONDS:
            path = self._to_check.popleft()
            count_left -= 1
            if (stamp := arrivals.judged_stamp(path)) is None:  # the file went away, or is a new picture
                continue
            try:
                with self._thread.call():
                    digest = hash_unchanged(path, stamp)
            except OSError:
                self._to_check.append(path)
                continue
            # None: the file has just changed or gone away, which the next listing notices
            stays_known = digest is None or arrivals.check(path, digest)
            if stays_known and arrivals.is_coarse(path):
                self._to_check.append(path)
        self._check_at = self._clock.monotonic() + max(SETTLE, CHECK_RATIO * (time.monotonic() - started_at))

    def _finish_file(self, arrivals: Arrivals, path: Path, is_kept: bool | None = None) -> None:
        """Move or keep the file of a recorded picture, as the settings say.

        Args:
            arrivals: Pictures of the folder.
            path: Path of the file.
            is_kept: Whether it is kept; None: as in the settings.
        """
        stamp = arrivals.stamp(path)
        if is_kept is None:
            is_kept = self.then == KEEP
        try:
            with self._thread.call():
                if self.target is not None and not is_kept:
                    target = self.target / path.relative_to(self.folder)
                    digest = self._digests.get(path)
                    move_unchanged(path, stamp, target, digest)
        except OSError as error:
            self._retry_later(arrivals, path, CODE_NOT_REMOVED, error.strerror or type(error).__name__)
            return
        arrivals.done(path, removed=not is_kept, digest=self._digests.pop(path, None))
        self._problem_files.pop(path, None)
        if is_kept and arrivals.is_coarse(path):  # rounded times may not show a later change
            self._to_check.append(path)

    def _finish_repeated(
        self, arrivals: Arrivals, path: Path, stamp: FileStamp, digest: bytes, is_kept: bool | None = None
    ) -> None:
        """Move or keep a file that was inspected before; note an event if it is not the same file."""
        was_touched = arrivals.content_known(path, digest)
        # where inspected files are moved away, a file with the same content cannot be one under a new name
        is_same_file = was_touched or (self.then == KEEP and self._known.was_moved(stamp, digest))
        if not is_same_file:
            self._note(REPEATED, path, stamp, "it was inspected before, and is not inspected again")
        self._finish_file(arrivals, path, is_kept)

    def give_up(self, paths: Sequence[Path], error: FlawscopeError) -> bool:
        """Record that files will not be inspected, and set them aside; no restart reads them again.

        A file that cannot be read now is tried again later. A file that was inspected under another name is
        moved or kept as any inspected file.

        Returns:
            Whether at least one file was recorded.
        """
        arrivals = self.arrivals
        given_up_paths = []
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
            given_up_paths.append(path)
            self._set_aside(arrivals, path, error)
        return bool(given_up_paths)

    def _retry_later(self, arrivals: Arrivals, path: Path, code: str, why: str) -> None:
        """Try a picture again later, less and less often, without an end: the cause is not the picture."""
        # the first failure of a picture to be inspected may mean that the others would fail, too
        if code == CODE_WAITING and path not in self._problem_files:
            self.is_blocked = True
        problem = self._problem(arrivals, path, code)
        problem.why = why
        arrivals.later(path, self._clock.monotonic() + problem.backoff.next())

    def _hold_back(self, arrivals: Arrivals, path: Path, error: NotReadyError) -> None:
        """Try a picture again soon, as an interlock holds it back.

        Meanwhile other pictures are inspected, such as those of challenge parts.
        """
        if isinstance(error, PausedError):  # a pause is no problem
            self._problem_files.pop(path, None)
        else:
            self._problem(arrivals, path, CODE_WAITING).why = str(error)
        arrivals.later(path, self._clock.monotonic() + HELD_SECONDS)

    def _problem(self, arrivals: Arrivals, path: Path, code: str) -> _ProblemFile:
        """Return the problem of a file; it begins now unless the file has a problem with this code."""
        problem = self._problem_files.get(path)
        if problem is None or problem.code != code:
            problem = _ProblemFile(code, arrivals.stamp(path), self._clock.monotonic())
            self._problem_files[path] = problem
        return problem

    def _handle_unreadable(self, arrivals: Arrivals, path: Path, error: FlawscopeError) -> None:
        """Try an unreadable picture again, for it may not be whole yet; after some time set it aside."""
        self._problem_files.pop(path, None)
        if not arrivals.failed(path, self._clock.monotonic()):  # it may still become whole
            return
        self._note(UNREADABLE, path, arrivals.stamp(path), to_utf8(str(error)))
        self._digests.pop(path, None)  # the file was not judged: the same content is no repetition
        self._set_aside(arrivals, path, error)

    def _set_aside(self, arrivals: Arrivals, path: Path, error: FlawscopeError) -> None:
        """Report a file that is not inspected; if files are moved, move it into a folder for such files.

        A picture that a frozen camera repeats stays in its place. The caller records the event before it
        calls this method: if the store is away, the file is not moved, but handled again later.
        """
        place = path
        stamp = arrivals.stamp(path)
        if self.target is not None and not isinstance(error, FrozenError):
            with suppress(OSError):  # a file that cannot be moved stays
                target = self.target / UNREADABLE / path.relative_to(self.folder)
                place = move_unchanged(path, stamp, target) or path  # None: the file has changed, and stays
        arrivals.done(path, digest=self._digests.pop(path, None))
        why = to_utf8(str(error))
        self._problem_files[place] = _ProblemFile(CODE_UNREADABLE, stamp, self._clock.monotonic(), why)

    # ---- names

    def _parse_label(self, name: str) -> Label:
        """Return part, batch and view from a picture's name."""
        match = self.pattern.search(name) if self.pattern is not None else None
        groups = {} if match is None else match.groupdict()
        return make_label(groups.get("part"), groups.get("batch"), groups.get("view") or self.view)

    def _forget_removed(self, arrivals: Arrivals) -> None:
        """Forget, once a day, the keys of files that went away.

        If files are kept and the folder is empty, nothing is forgotten: the share may only be unreachable.
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
        """Report a problem of the folder; None: it is over."""
        self.line.show(code, None if self.number == 1 else self.number, why)

    def _note(self, kind: str, path: Path, stamp: FileStamp, why: str) -> None:
        """Record an event that a file is not inspected, unless there is the same event."""
        texts = [self._describe_file(path, stamp, why)]
        self.line.store.note_new_events(kind, SOURCE, texts, self.line.product_id)

    def _describe_file(self, path: Path, stamp: FileStamp, why: str) -> str:
        """Return the text of an event: name of a file, its time and size, and the reason."""
        if stamp == NO_STAMP:
            return f"{self._known.name(path)}: {why}"
        return f"{self._known.name(path)} of {iso(stamp.modified_ns // 1000)}, {stamp.size} bytes: {why}"

    def _note_passed_over(self, arrivals: Arrivals) -> None:
        """Record the files that are passed over, by reason: the first ones by name, further ones as a number.

        The number is recorded when it is a power of two.
        """
        texts = []
        sample_path_by_reason = dict[str, Path]()
        for path, why in arrivals.passed_over(self._clock.monotonic()).items():
            if is_taken(path):  # the file gets its name back when that is free
                continue
            self._passed_over_counts[why] += 1
            count = self._passed_over_counts[why]
            if count <= NAMED_FILES:
                texts.append(self._describe_file(path, arrivals.other_stamp(path), why))
            elif _is_power_of_two(count):
                sample_path_by_reason[why] = path
        texts += [
            f"{self._passed_over_counts[why]} files so far, {self._known.name(path)} among them: {why}"
            for why, path in sample_path_by_reason.items()
        ]
        self.line.store.note_new_events(PASSED_OVER, SOURCE, texts, self.line.product_id)

    def _note_overwritten(self, arrivals: Arrivals) -> None:
        """Record the pictures that another file replaced: the first ones by name, then their number.

        The number is recorded when it is a power of two.
        """
        texts = []
        for path, stamp in arrivals.overwritten:
            self._overwritten_count += 1
            count = self._overwritten_count
            if count <= NAMED_FILES:
                texts.append(self._describe_file(path, stamp, OVERWRITTEN))
            elif _is_power_of_two(count):
                texts.append(f"{count} files so far, {self._known.name(path)} among them: {OVERWRITTEN}")
        arrivals.overwritten.clear()
        self.line.store.note_events(VANISHED, SOURCE, texts, self.line.product_id)

    def _report_scan(self, arrivals: Arrivals) -> None:
        """Record the pictures that went away before they were inspected, and report problems of files."""
        vanished = [path for path, record in self._known.match(arrivals.gone) if record is None]
        if vanished:
            texts = [f"{self._known.name(path)} went away before being inspected" for path in vanished]
            self.line.store.note_events(VANISHED, SOURCE, texts, self.line.product_id)
        for path, problem in list(self._problem_files.items()):
            age = self._clock.monotonic() - problem.since
            is_old = problem.code == CODE_UNREADABLE and age > PROBLEM_SECONDS
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
            count_text = pluralize(len(reasons), thing)
            text = f"{count_text} in {self.folder} {outcome}: {reasons[-1]}" if reasons else None
            self._report(code, text)


def _is_power_of_two(count: int) -> bool:
    """Return whether a count above `NAMED_FILES` is reported: 32, 64 and so on."""
    return count.bit_count() == 1


class FolderSource(BackgroundThread):
    """Source of the parts in a folder and its subfolders, or in folders that each show a view of a part.

    The oldest parts come first; pictures that are there at the start are included.

    Args:
        line: Access to the station.
        settings: Settings of the folder.
        number: Number of the folder among the product's, from 1.
        excluded: Folders below it that are left out: pictures are moved there.
        clock: Clock by which the thread waits.
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
        self.line = line
        self.folders = list[WatchedFolder]()
        self._in_flight: deque[_InFlight] = deque()  # parts that are handed in, the oldest first
        self.state = self.add_folder(settings, number, excluded).state  # further folders have their own

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
        """Inspect the pictures that are whole by now; return the seconds until the next round."""
        reachable_folders = list[WatchedFolder]()
        work_seconds = MIN_RETRY_DELAY
        if not self._handle_answers(self.folders):  # answers that the last round could not handle
            return MIN_RETRY_DELAY
        for folder in self.folders:
            try:
                work_seconds = max(work_seconds, folder.look())
                reachable_folders.append(folder)
            except InputError as error:
                folder.show_away(error)
            except Exception as error:
                folder.show_failure(error)
        try:
            self._submit_parts(reachable_folders, self._clock.monotonic() + work_seconds)
        except Exception as error:
            for folder in reachable_folders:
                folder.show_failure(error)
            self._handle_answers(reachable_folders)
            return MIN_RETRY_DELAY
        if not self._handle_answers(reachable_folders) or not self._finish_round(reachable_folders):
            return MIN_RETRY_DELAY
        if len(reachable_folders) < len(self.folders):  # a folder that is away is tried less often
            return MIN_RETRY_DELAY
        return POLL_INTERVAL

    def _finish_round(self, folders: Sequence[WatchedFolder]) -> bool:
        """Report the outcomes of the files; return whether all were reported."""
        try:
            for folder in folders:
                folder.finish_round()
                folder.show_away(None)  # it is not away
        except Exception as error:
            for folder in folders:
                folder.show_failure(error)
            return False
        return True

    def _submit_parts(self, folders: Sequence[WatchedFolder], deadline: float) -> None:
        """Hand parts in, without waiting for each answer, and handle the answers that have come."""
        for files in self._parts_of(folders):
            is_blocked = any(folder.is_blocked for folder in folders)
            if self._ended.is_set() or self._clock.monotonic() > deadline or is_blocked:
                break
            if (answer := self._submit_files(files)) is not None:
                self._in_flight.append(_InFlight(files, answer))
            while self._in_flight and self._in_flight[0].answer.done():
                self._handle_first_answer()

    def _handle_answers(self, folders: Sequence[WatchedFolder]) -> bool:
        """Wait for the answers of all parts that are handed in; return whether all of them could be handled.

        An answer that cannot be handled, for example because the store is away, is left to the next round.
        """
        try:
            while self._in_flight:
                self._handle_first_answer()
        except Exception as error:
            for folder in folders:
                folder.show_failure(error)
            return False
        return True

    def _handle_first_answer(self) -> None:
        """Wait for the answer of the oldest part, and deal with its files.

        A file that is dealt with leaves the list: after an error the next round begins with the rest.
        """
        files, answer = self._in_flight[0]
        error = answer.exception()
        while files:
            file = files[0]
            file.folder.handle_answer(file.path, error)
            del files[0]
        self._in_flight.popleft()

    def _parts_of(self, folders: Sequence[WatchedFolder]) -> Iterator[list[_File]]:
        """Yield the files of each part together: a single file, or all views.

        A part that lacks views waits for them, and for files with its number that are not whole. If they do
        not come in time, the part is given up, but not while a folder is away.
        """
        parts = self.line.parts
        views = [] if parts is None else parts.views(self.line.product_id)
        unknown_files = (
            _File(folder, path, is_known) for folder in folders for path, is_known in folder.unknown_files()
        )
        if not views:
            for file in unknown_files:
                yield [file]
            return
        folder_of = dict[Path, WatchedFolder]()
        seen_views = list[SeenView]()
        for file in unknown_files:
            seen = file.folder.seen_view(file.path, file.is_known)
            number, _ = seen.part
            if number is None or seen.view not in views:
                yield [file]  # submitted by itself, it is refused
            else:
                folder_of[file.path] = file.folder
                seen_views.append(seen)
        yield from self._gather_parts(folders, views, folder_of, seen_views)

    def _gather_parts(
        self,
        folders: Sequence[WatchedFolder],
        views: Sequence[str],
        folder_of: Mapping[Path, WatchedFolder],
        seen_views: Sequence[SeenView],
    ) -> Iterator[list[_File]]:
        """Yield the files of parts whose views are all there, and give up parts that stay incomplete.

        Args:
            folders: Folders that can be reached.
            views: Views in which the model judges parts.
            folder_of: Folder of each file.
            seen_views: Files that show a known view of a part.
        """
        # a file of these parts is still being written
        incomplete_parts = {seen.part for folder in folders for seen in folder.pending_views()}
        ready_views = [seen for seen in seen_views if seen.part not in incomplete_parts]
        ready_views.sort(key=lambda seen: (seen.changed_ns, seen.path))
        for group in gather(ready_views, views, self.line.part_seconds):
            files = [_File(folder_of[file.path], file.path, file.is_known) for file in group.files]
            waited_seconds = self._clock.monotonic() - min(
                file.folder.waits_since(file.path) for file in files
            )
            is_over = group.is_over or waited_seconds >= self.line.part_seconds + SETTLE
            is_complete = not group.why
            if is_complete:
                yield files
            # while a folder is away, the missing view may be in it
            elif len(folders) == len(self.folders) and is_over:
                self._give_up(files, FlawscopeError(group.why))

    def _give_up(self, files: Sequence[_File], error: FlawscopeError) -> None:
        """Report a part that is not inspected, and set its files aside."""
        are_recorded = [file.folder.give_up([file.path], error) for file in files]
        if any(are_recorded):
            self.line.refused(error)

    def _submit_files(self, files: Sequence[_File]) -> Future[RecordedInspection] | None:
        """Read the files of a part and submit it; return None where it was not submitted."""
        try:
            results = [file.folder.read_picture(file.path, file.is_known) for file in files]
            pictures_and_labels = [result for result in results if result is not None]
            if len(pictures_and_labels) < len(results):
                return None
            pictures = tuple(picture for picture, _ in pictures_and_labels)
            _, label = pictures_and_labels[0]  # the first picture gives the part its label and key
            key = pictures[0].key
            part = Part(self.line.product_id, pictures, SOURCE, number=label.part, batch=label.batch, key=key)
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
        is_known: Whether the store has its key already, but with other content.
    """

    folder: WatchedFolder
    path: Path
    is_known: bool
