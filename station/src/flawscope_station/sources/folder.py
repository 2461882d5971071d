"""Folders: each picture that appears is inspected once, even after a restart, and none is lost.

Every picture is inspected, whatever its name: masks are for learning. What is not inspected is an event with
its name: a file that cannot be read, that went away, that is no picture, or that was inspected before.

A picture's key in the store is its path, time of change and size. A crash after a picture was recorded,
before its file was moved or deleted, leaves a file whose key is known: the next start moves or deletes it. A
file that comes with a known key later is the same again, or another of that name, time and size, which is
inspected.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from sqlalchemy import select

from flawscope.errors import FlawscopeError, InputError, message_with_type, pluralize
from flawscope_station.background import CLOCK, BackgroundThread, Backoff, MonotonicClock
from flawscope_station.inspecting.interlock import NotProductionError, NotReadyError
from flawscope_station.inspecting.picture import Picture, TooLargeError
from flawscope_station.inspecting.writer import RecordedInspection
from flawscope_station.settings.sources import DELETE, KEEP, FolderSourceSettings
from flawscope_station.settings.values import size_text
from flawscope_station.sources.arrivals import MIN_PAUSE_RATIO, NO_STAMP, Arrivals, FileStamp
from flawscope_station.sources.moved_files import is_unchanged, move_unchanged, read_unchanged
from flawscope_station.sources.source import AWAY, RUNNING, WAITING, SourceContext, State, to_utf8
from flawscope_station.store.database import now
from flawscope_station.store.insert import is_at_address
from flawscope_station.store.inspection import FOLDER, Label, make_label
from flawscope_station.store.records import iso
from flawscope_station.store.removed_files import find_file_keys, forget_file_keys
from flawscope_station.store.schema import (
    PASSED_OVER,
    REPEATED,
    UNREADABLE,
    VANISHED,
    inspections,
    removed_files,
)

SOURCE = FOLDER
FORGET_SECONDS = 86_400.0  # until the keys of files that went away are forgotten again
SHOWN = "challenge_part_shown"  # event
POLL_INTERVAL = 0.2  # seconds between two listings, at least
IDLE_RATIO = 10  # least ratio of the pause to a listing's time while nothing waits
MIN_RETRY_DELAY, MAX_RETRY_DELAY = 1.0, 300.0  # seconds before a picture that was put off is tried again
HELD_SECONDS = 1.0  # before a picture that an interlock holds back is tried again
PROBLEM_SECONDS = 3600.0  # seconds for which an unreadable picture is a problem; the event stays
MAX_KEY_LENGTH = 200  # characters
LOOKUP_BATCH = 256  # keys that are looked up at once
WORK_RATIO = 20  # least ratio of inspecting to listing time where many pictures wait
CODE_WAITING, CODE_UNREADABLE, CODE_NOT_REMOVED = "folder_waits", "folder_unreadable", "folder_then"


@dataclass
class _ProblemFile:
    """File that is tried again, for ever, or that cannot be read. why: the last reason."""

    code: str
    stamp: FileStamp
    since: float
    why: str = ""
    backoff: Backoff = field(default_factory=lambda: Backoff(MIN_RETRY_DELAY, MAX_RETRY_DELAY))


class FolderSource(BackgroundThread):
    """Source of the pictures of a folder and its subfolders, the oldest first, those already there included.

    Args:
        number: of the folder among the product's, from 1.
        excluded: folders below it that are left out: pictures are moved there.
        clock: of its waits.
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
        self.line, self.number, self.then = line, number, settings.then
        self.folder = Path(os.path.abspath(settings.folder))
        self.target = None if self.then in (KEEP, DELETE) else Path(os.path.abspath(self.then))
        self.pattern = None if settings.pattern is None else re.compile(settings.pattern)
        self.view = settings.view
        self.state = State(SOURCE, f"folder{number}", to_utf8(str(self.folder)), to_utf8(self.then))
        self._excluded = [*excluded] if self.target is None else [*excluded, str(self.target)]
        own = hashlib.sha256(os.fsencode(self.folder)).hexdigest()[:16]
        self._key_prefix = f"{SOURCE}@{own}:"
        self._arrivals: Arrivals | None = None
        self._problem_files: dict[Path, _ProblemFile] = {}
        self._digests: dict[Path, bytes] = {}  # of the pictures at hand
        self._at_start: set[Path] = set()  # files that were there at the first listing
        self._waiting_since: dict[tuple[str | None, str | None], float] = {}  # by part and batch
        self._forget_at = 0.0
        self._is_blocked = False  # the cause that put off a picture would put off others, too

    # ---- loop

    def _work(self) -> None:
        while not self._pause(self.work_once()):
            pass

    def work_once(self) -> float:
        """Work off what is whole by now; return the seconds until the next round."""
        pause = MIN_RETRY_DELAY
        try:
            pause = self._scan()
            self.state.state, self.state.why = RUNNING if self.state.taken else WAITING, None
            self._report("folder_away", None)
        except InputError as error:
            why = to_utf8(f"{error}; pictures are taken when it is back")
            self.state.state, self.state.why = AWAY, why
            self._report("folder_away", why)
        except Exception as error:  # such as a store that is away: the next round tries again
            self._report(CODE_WAITING, f"pictures wait in {self.folder}: {message_with_type(error)}")
        return pause

    def _scan(self) -> float:
        """List the folder and inspect its whole files; return the seconds until the next round."""
        with self.threads[0].call():  # a share may hang
            if self._arrivals is None:
                self._arrivals = Arrivals(self.folder, apart=self._excluded)
                self._at_start = {*self._arrivals.at_start}
            arrivals = self._arrivals
            found = {path: arrivals.stamp(path) for path in arrivals.scan(self._clock.monotonic())}
        seconds = max(MIN_RETRY_DELAY, WORK_RATIO * arrivals.took)
        self._inspect_files(arrivals, found, self._clock.monotonic() + seconds)
        self._report_scan(arrivals)
        self._note_passed_over(arrivals)
        self._forget_removed(arrivals)
        is_busy = arrivals.waiting > len(self._problem_files)
        return max(POLL_INTERVAL, (MIN_PAUSE_RATIO if is_busy else IDLE_RATIO) * arrivals.took)

    # ---- pictures

    def _inspect_files(self, arrivals: Arrivals, found: Mapping[Path, FileStamp], deadline: float) -> None:
        """Inspect pictures, several at once, and wait for the answers."""
        in_flight: deque[tuple[Path, Future[RecordedInspection]]] = deque()
        self._is_blocked = False
        for several in self._parts_of(arrivals, found):
            if self._ended.is_set() or self._clock.monotonic() > deadline or self._is_blocked:
                break
            path, is_known = several[0]
            if is_known and self.then == KEEP and path in self._at_start:
                self._finish_file(arrivals, path)  # it is there since an earlier start
            else:
                in_flight += self._submit_files(arrivals, several, found)
            while in_flight and in_flight[0][1].done():
                self._handle_answer(arrivals, *in_flight.popleft())
        for one in in_flight:
            self._handle_answer(arrivals, *one)

    def _parts_of(
        self, arrivals: Arrivals, found: Mapping[Path, FileStamp]
    ) -> Iterator[list[tuple[Path, bool]]]:
        """Yield the files of each part together, each with whether the store has its key: one, or all views.
        Those of a part that lacks views wait, which is told after a time."""
        parts = self.line.parts
        views = [] if parts is None else parts.views(self.line.product_id)
        waiting: dict[tuple[str | None, str | None], dict[str | None, Path]] = {}
        for path, is_known in self._match_known_keys(found):
            picture = self._unread_picture(path)
            if not views or parts is None or is_known:
                yield [(path, is_known)]
                continue
            with suppress(InputError):  # its name tells no part: it is refused alone
                picture = parts.named(picture)
            of_part = waiting.setdefault((picture.part, picture.batch), {})
            of_part.setdefault(picture.view, path)  # one that comes again is of the next part of this number
            if picture.part is None or picture.view not in views:
                yield [(of_part.pop(picture.view), False)]
            elif len(of_part) == len(views):
                yield [(of_part.pop(view), False) for view in views]
        left = {key: of_part for key, of_part in waiting.items() if of_part}
        at = self._clock.monotonic()
        self._waiting_since = {key: self._waiting_since.get(key, at) for key in left}
        for key, of_part in left.items():
            if at - self._waiting_since[key] >= self.line.part_seconds:
                why = f"part {key[0]} lacks {', '.join(view for view in views if view not in of_part)}"
                if not any(path in self._problem_files for path in of_part.values()):
                    self.line.refused(FlawscopeError(why))
                for path in of_part.values():
                    problem = _ProblemFile(CODE_WAITING, arrivals.stamp(path), self._waiting_since[key], why)
                    self._problem_files.setdefault(path, problem)

    def _match_known_keys(self, found: Mapping[Path, FileStamp]) -> Iterator[tuple[Path, bool]]:
        """Yield each picture, and whether the store has its key, that is, it was inspected before."""
        paths = list(found)
        for first in range(0, len(paths), LOOKUP_BATCH):
            batch = paths[first : first + LOOKUP_BATCH]
            keys = {path: self._picture_key(path, found[path]) for path in batch}
            known = self.line.store.numbers_by_key(self.line.product_id, list(keys.values()))
            yield from ((path, key in known) for path, key in keys.items())

    def _submit_files(
        self,
        arrivals: Arrivals,
        several: Sequence[tuple[Path, bool]],
        found: Mapping[Path, FileStamp],
    ) -> list[tuple[Path, Future[RecordedInspection]]]:
        """Read the files of a part and submit them; return none where they are not submitted, or not now."""
        paths = [path for path, _ in several]
        pictures = []
        try:
            for path, is_known in several:
                picture = self._read_picture(arrivals, path, found[path], is_known)
                if picture is None:
                    return []
                pictures.append(picture)
            answers = self.line.hand_in(pictures, self._ended)
        except NotReadyError as error:
            for path in paths:
                self._hold(arrivals, path, error)
            return []
        except (InputError, TooLargeError) as error:
            for path in paths:
                self._handle_unreadable(arrivals, path, error)
            return []
        return [] if answers is None else [*zip(paths, answers, strict=True)]

    def _unread_picture(self, path: Path) -> Picture:
        name = self._picture_name(path)
        return Picture(self.line.product_id, b"", name, SOURCE, **self._parse_label(name)._asdict())

    def _read_picture(
        self, arrivals: Arrivals, path: Path, stamp: FileStamp, is_known: bool
    ) -> Picture | None:
        """Read a picture; return None where it is not to be inspected, or not now. is_known: the store has
        its key.

        Raises:
            TooLargeError. NotReadyError: an interlock holds.
        """
        key, unread = self._picture_key(path, stamp), self._unread_picture(path)
        self.line.check(unread.part)
        limits, size = self.line.share.limits, f"{stamp.size / 1e6:.0f} MB"
        if stamp.size > limits.upload:
            error = TooLargeError(
                f"{path} has {size}, {size_text(limits.upload)} are accepted: raise `limits: upload`"
            )
            self.line.refused(error)
            raise error
        try:
            with self.threads[0].call():
                data = read_unchanged(path, stamp)
        except OSError as error:
            self._retry_later(arrivals, path, CODE_WAITING, f"cannot read {path}: {error.strerror}")
            return None
        if data is None:
            return None
        digest = self._digests[path] = hashlib.sha256(data).digest()
        if arrivals.content_known(path, digest) or (self.then == KEEP and self._was_moved(data, stamp)):
            self._finish_file(arrivals, path)
            return None
        if (is_known and self._has_content(key, digest)) or (not is_known and self._was_moved(data, stamp)):
            self._note(REPEATED, path, stamp, "it was inspected before, and is not inspected again")
            self._finish_file(arrivals, path)
            return None
        if is_known:
            key = self._picture_key(path, stamp, digest)
        return replace(unread, data=data, key=key)

    def _handle_answer(self, arrivals: Arrivals, path: Path, future: Future[RecordedInspection]) -> None:
        error = future.exception()
        if isinstance(error, InputError | TooLargeError):
            self._handle_unreadable(arrivals, path, error)
        elif isinstance(error, NotReadyError):
            self._hold(arrivals, path, error)
        elif isinstance(error, NotProductionError):
            text = f"{self._picture_name(path)}: {error}"
            self.line.store.note_event(SHOWN, SOURCE, text, self.line.product_id)
            self._finish_file(arrivals, path)
        elif error is not None:
            self._retry_later(arrivals, path, CODE_WAITING, message_with_type(error))
        else:
            self.state.taken, self.state.last = self.state.taken + 1, now()
            self._finish_file(arrivals, path)

    def _finish_file(self, arrivals: Arrivals, path: Path) -> None:
        """Move, delete or keep the file of a recorded picture, as the settings say."""
        stamp = arrivals.stamp(path)
        try:
            with self.threads[0].call():
                if self.target is not None:
                    move_unchanged(path, stamp, self.target / path.relative_to(self.folder))
                elif self.then == DELETE and is_unchanged(path, stamp):  # else it is a new, uninspected file
                    path.unlink(missing_ok=True)
        except OSError as error:
            self._retry_later(arrivals, path, CODE_NOT_REMOVED, error.strerror or type(error).__name__)
            return
        self._at_start.discard(path)
        arrivals.done(path, removed=self.then != KEEP, digest=self._digests.pop(path, None))
        self._problem_files.pop(path, None)

    def _retry_later(self, arrivals: Arrivals, path: Path, code: str, why: str) -> None:
        """Try a picture again, for ever, less and less often: the cause is not the picture."""
        problem = self._problem_files.get(path)
        self._is_blocked = self._is_blocked or (problem is None and code == CODE_WAITING)
        if problem is None or problem.code != code:
            problem = self._problem_files[path] = _ProblemFile(
                code, arrivals.stamp(path), self._clock.monotonic()
            )
        problem.why = why
        arrivals.later(path, self._clock.monotonic() + problem.backoff.next())

    def _hold(self, arrivals: Arrivals, path: Path, error: NotReadyError) -> None:
        """Keep a picture that an interlock holds back for later, and go on: challenge parts may be behind."""
        if (problem := self._problem_files.get(path)) is None or problem.code != CODE_WAITING:
            stamp, since = arrivals.stamp(path), self._clock.monotonic()
            problem = self._problem_files[path] = _ProblemFile(CODE_WAITING, stamp, since)
        problem.why = str(error)
        arrivals.later(path, self._clock.monotonic() + HELD_SECONDS)

    def _handle_unreadable(self, arrivals: Arrivals, path: Path, error: FlawscopeError) -> None:
        """Try an unreadable picture again, for it may not be whole yet; at last note it once as an event."""
        self._problem_files.pop(path, None)
        stamp, place = arrivals.stamp(path), path
        if not arrivals.failed(path, self._clock.monotonic()):
            return
        if self.target is not None:
            with suppress(OSError):  # it stays
                target = self.target / UNREADABLE / path.relative_to(self.folder)
                place = move_unchanged(path, stamp, target) or path
        why = to_utf8(str(error))
        self._problem_files[place] = _ProblemFile(CODE_UNREADABLE, stamp, self._clock.monotonic(), why)
        self._note(UNREADABLE, path, stamp, why)

    # ---- names

    def _picture_name(self, path: Path) -> str:
        return to_utf8(path.relative_to(self.folder).as_posix())

    def _parse_label(self, name: str) -> Label:
        """Return part, batch and view from a picture's name."""
        found = self.pattern.search(name) if self.pattern is not None else None
        groups = {} if found is None else found.groupdict()
        return make_label(groups.get("part"), groups.get("batch"), groups.get("view") or self.view)

    def _picture_key(self, path: Path, stamp: FileStamp, digest: bytes = b"") -> str:
        """Return the key of a picture. digest: of its content, where another has its name, time and size."""
        name, exact = self._picture_name(path), path.relative_to(self.folder).as_posix()
        ends = _key_ending(stamp)
        key = f"{self._key_prefix}{name}{ends}"
        if len(key) <= MAX_KEY_LENGTH and name == exact and not digest:
            return key
        return f"{self._key_prefix}#{hashlib.sha256(os.fsencode(exact) + digest).hexdigest()}{ends}"

    def _has_content(self, key: str, digest: bytes) -> bool:
        """Whether the picture that was inspected under this key has this content."""
        store, product_id = self.line.store, self.line.product_id
        removed = find_file_keys(store.database, product_id, removed_files.c.key == key)
        rows = [*store.find_by_keys(product_id, [key]), *removed]
        return digest.hex() in {row.picture for row in rows}

    def _was_moved(self, data: bytes, stamp: FileStamp) -> bool:
        """Whether this file was inspected under another name, now gone: programs sort files into folders."""
        query = select(inspections.c.key).where(
            is_at_address(self.line.product_id),
            inspections.c.picture == hashlib.sha256(data).hexdigest(),
            inspections.c.source == SOURCE,
        )
        database, digest = self.line.store.database, hashlib.sha256(data).hexdigest()
        removed = find_file_keys(database, self.line.product_id, removed_files.c.picture == digest)
        with database.reading() as connection:
            keys = [str(key) for key in connection.execute(query.limit(100)).scalars()]
        keys += [str(row.key) for row in removed]
        begins, ends = self._key_prefix, _key_ending(stamp)
        own = [key for key in keys if key.startswith(begins) and key.endswith(ends)]
        before = [key[len(begins) : -len(ends)] for key in own]
        return any(not name.startswith("#") and not (self.folder / name).exists() for name in before)

    def _forget_removed(self, arrivals: Arrivals) -> None:
        """Forget once a day the keys of files that went away after their records did. A file that was moved
        is there. An empty folder whose files are kept is no evidence: a share that is away looks like one."""
        is_busy = arrivals.waiting > len(self._problem_files)
        if is_busy or self._clock.monotonic() < self._forget_at:
            return
        there = {_key_ending(stamp) for stamp in arrivals.stamps()}
        if there or self.then != KEEP:
            forget_file_keys(self.line.store.database, self.line.product_id, self._key_prefix, there)
            self._forget_at = self._clock.monotonic() + FORGET_SECONDS

    # ---- reports

    def _report(self, code: str, why: str | None) -> None:
        self.line.show(code, None if self.number == 1 else self.number, why)

    def _note(self, kind: str, path: Path, stamp: FileStamp, why: str) -> None:
        """Note once that a file is not inspected."""
        texts = [self._describe_file(path, stamp, why)]
        self.line.store.note_new_events(kind, SOURCE, texts, self.line.product_id)

    def _describe_file(self, path: Path, stamp: FileStamp, why: str) -> str:
        if stamp == NO_STAMP:
            return f"{self._picture_name(path)}: {why}"
        return f"{self._picture_name(path)} of {iso(stamp.modified_ns // 1000)}, {stamp.size} bytes: {why}"

    def _note_passed_over(self, arrivals: Arrivals) -> None:
        texts = [
            self._describe_file(path, arrivals.other_stamp(path), why)
            for path, why in arrivals.passed_over(self._clock.monotonic()).items()
        ]
        self.line.store.note_new_events(PASSED_OVER, SOURCE, texts, self.line.product_id)

    def _report_scan(self, arrivals: Arrivals) -> None:
        """Note the pictures that went away uninspected, and report the problems with others."""
        vanished = [path for path, is_known in self._match_known_keys(arrivals.gone) if not is_known]
        if vanished:
            texts = [f"{self._picture_name(path)} went away before being inspected" for path in vanished]
            for text in texts:
                self.line.store.note_event(VANISHED, SOURCE, text, self.line.product_id)
        for path, one in list(self._problem_files.items()):
            is_old = one.code == CODE_UNREADABLE and self._clock.monotonic() - one.since > PROBLEM_SECONDS
            if path in arrivals.gone or is_old or not is_unchanged(path, one.stamp):
                del self._problem_files[path]
        arrivals.gone.clear()
        removal = "deleted" if self.target is None else f"moved to {self.target}"
        for code, thing, outcome in (
            (CODE_WAITING, "picture", "could not be inspected yet"),
            (CODE_UNREADABLE, "picture", "cannot be read"),
            (CODE_NOT_REMOVED, "inspected picture", f"cannot be {removal}"),
        ):
            reasons = [one.why for one in self._problem_files.values() if one.code == code]
            many = pluralize(len(reasons), thing)
            self._report(code, f"{many} in {self.folder} {outcome}: {reasons[-1]}" if reasons else None)


def _key_ending(stamp: FileStamp) -> str:
    return f":{stamp.modified_ns}:{stamp.size}"
