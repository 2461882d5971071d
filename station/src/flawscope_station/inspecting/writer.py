"""Recorder of judged parts: several are written in one transaction, before anybody is answered."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field, replace
from queue import Empty, SimpleQueue
from typing import Any

from flawscope import Prediction
from flawscope.errors import FlawscopeError
from flawscope_station.inspecting.capacity import without_traceback
from flawscope_station.monitoring.background import STOP_TIMEOUT, GuardedThread
from flawscope_station.store.database import StoreError
from flawscope_station.store.insert import NewInspection
from flawscope_station.store.inspection import KeyUsedError
from flawscope_station.store.purposes import CHALLENGE, PRODUCTION
from flawscope_station.store.records import Store
from flawscope_station.store.schema import LATE

FILE_INTERVAL = 0.5  # seconds between two looks at whether a part still waits for its files
LOOK_SECONDS = 4.0  # for which the recorder looks whether a record stands, before its sender is refused
LOOK_INTERVAL = 0.5  # seconds between two such looks
RESENT_SECONDS = 60.0  # for which a part whose sender was refused though its record stands is known again
MAX_GROUP = 64  # inspections in a transaction, at most: flushing the disk costs as much for a single one


Release = Callable[[bool], object]


@dataclass(frozen=True)
class RecordedInspection:
    """Inspection that is on the disk. is_new: False where its key had been taken before. predictions: of its
    pictures, where they are still known. seconds: that each stage took."""

    number: int
    inspection: NewInspection
    is_new: bool
    predictions: tuple[Prediction, ...] = field(default=(), repr=False)
    seconds: Mapping[str, float] = field(default_factory=dict, repr=False)


class Answer(Future[RecordedInspection]):
    """Answer to a part, for all who wait for it: a sender, and whoever sent the same again under its key.
    It is decided once whether one of them gets it: it is recorded, or all have left before.

    From `begin_recording` on the recorder holds the part: what becomes of its record and its files is known
    when it has let go of it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._present = 1  # who had it made
        self._why: str | None = None  # of the last who left
        self._is_decided = False
        self._recording_since: float | None = None  # as `time.monotonic` counts; None: nobody records it
        self._has_record = False
        self._releases: list[Release] = []

    def set_exception(self, exception: BaseException | None) -> None:
        """Fail, unless it is answered: it may have waited too long."""
        with suppress(InvalidStateError):
            super().set_exception(exception)

    # ---- who waits

    def join(self) -> None:
        """Count one more who waits."""
        with self._lock:
            self._present += 1

    def leave(self, why: str) -> bool:
        """Say why one of those who wait does so no more; return False where the answer is there already."""
        with self._lock:
            if self._is_decided:
                return False
            self._present = max(0, self._present - 1)
            self._why = why
            return True

    def give_up(self, why: str) -> bool:
        """Say why nobody waits any more; return False where the answer is there already."""
        with self._lock:
            if self._is_decided:
                return False
            if self._present:
                self._present, self._why = 0, why
            return True

    def reason(self) -> str | None:
        """Return why nobody waits for it any more; None: somebody does."""
        return None if self._present else self._why

    def decide(self) -> str | None:
        """Return why nobody waits for it, and let nobody leave any more."""
        with self._lock:
            self._is_decided = True
            return self.reason()

    # ---- who records it

    def begin_recording(self) -> bool:
        """Let the recorder hold the part; return False where it has failed already."""
        with self._lock:
            if self.done():
                return False
            self._recording_since = time.monotonic()
            return True

    def end_recording(self, has_record: bool) -> None:
        """Let the recorder go of the part. has_record: the part has one, or may have one."""
        with self._lock:
            self._recording_since, self._has_record = None, has_record
        self._run_releases()

    def is_recording(self, seconds: float) -> bool:
        """Whether the recorder has held the part for no longer than so many seconds."""
        since = self._recording_since
        return since is not None and time.monotonic() < since + seconds

    def release_later(self, release: Release) -> None:
        """Call a function when it is known whether the part's files are needed, with whether they are."""
        with self._lock:
            self._releases.append(release)
        self.add_done_callback(_run_releases_of)  # it holds no answer, which would hold itself

    def _run_releases(self) -> None:
        with self._lock:
            if not self.done() or self._recording_since is not None:
                return
            releases, self._releases = self._releases, []
        is_needed = self._has_record or self.exception() is None
        for release in releases:
            release(is_needed)


def _run_releases_of(answer: Future[RecordedInspection]) -> None:
    if isinstance(answer, Answer):
        answer._run_releases()


class Waiter:
    """Somebody who waits for an answer, and may leave once."""

    def __init__(self, answer: Answer):
        self.answer, self._has_left = answer, False

    def leave(self, why: str) -> bool:
        """Say why this one waits no more; return False where the answer is there already."""
        if self._has_left:
            return True
        self._has_left = self.answer.leave(why)
        return self._has_left


@dataclass(frozen=True, eq=False)
class JudgedPart:
    """Judged part to be recorded. predictions: of its pictures. file_hashes: done when their files are on the
    disk. moments: when it was taken, begun and judged, as `time.monotonic` counts."""

    inspection: NewInspection
    predictions: tuple[Prediction, ...]
    file_hashes: tuple[Future[str], ...]
    answer: Answer
    moments: tuple[float, float, float]

    def seconds(self) -> dict[str, float]:
        """Return what each stage of a part took that is recorded now."""
        taken, begun, judged = self.moments
        return {"wait": begun - taken, "judge": judged - begun, "record": time.monotonic() - judged}

    def with_files(self) -> JudgedPart | None:
        """Return the part with the hashes of its files, as soon as they are on the disk; None where it has
        failed meanwhile. Errors of writing them."""
        digests = list[str]()
        for one in self.file_hashes:
            while not self.answer.done():
                with suppress(TimeoutError):
                    digests.append(one.result(FILE_INTERVAL))
                    break
        if self.answer.done():
            return None
        whole = self.inspection
        of_view = dict(zip([one.view for one in whole.pictures], digests, strict=True))
        views = tuple(replace(one, picture=of_view[one.view]) for one in whole.views)
        changed: dict[str, Any] = {"picture": of_view[whole.view], "unanswered": self.answer.reason()}
        return replace(self, inspection=replace(whole, **changed, views=views))


@dataclass(frozen=True, eq=False)
class Doubt:
    """Part whose sender was refused while nobody knew whether its record stands. number: of the record; None:
    not known yet. since: as `time.monotonic` counts."""

    part: JudgedPart
    since: float
    number: int | None = None

    def is_sent_again(self, inspection: NewInspection) -> bool:
        """Whether a part is this one, sent again: the same files and labels, without a key."""
        return inspection.key is None and _content(inspection) == _content(self.part.inspection)


def _content(one: NewInspection) -> tuple[object, ...]:
    """Return what its sender knows of a part."""
    seen = tuple((view.view, view.picture, view.name) for view in one.pictures)
    return one.product_id, one.address, one.source, one.purpose, one.part, one.batch, seen


class Recorder:
    """Thread that records judged parts in groups.

    The answer to a COMMIT may be lost with the connection: then the record of a part is looked for, by its
    own product, time and picture, before its sender is refused; and later, where the data base is away.

    Args:
        announce: gets every new inspection of the production after it was recorded.
        refuse: gets those of challenges, and raises what is answered in their place.
    """

    def __init__(
        self,
        store: Store,
        announce: Callable[[RecordedInspection], None],
        refuse: Callable[[RecordedInspection], None],
    ):
        self.store, self.announce, self.refuse = store, announce, refuse
        self._queue: SimpleQueue[JudgedPart | None] = SimpleQueue()
        self._doubts: list[Doubt] = []
        self._ended = threading.Event()
        self.threads = [GuardedThread("recorder", self._work, self._ended)]
        self.threads[0].start()

    def add(self, judged: JudgedPart) -> None:
        self._queue.put(judged)

    def close(self) -> None:
        """Return when all is written, or after a while: a disk may hang."""
        self._queue.put(None)
        self.threads[0].join(STOP_TIMEOUT)

    def _work(self) -> None:
        while self._record_next():
            pass
        self._ended.set()

    def _record_next(self) -> bool:
        """Record the waiting parts; return False at the end. None is held while the next is waited for."""
        group = self._next_group()
        judged = [one for one in group if one is not None]
        try:
            with self.threads[0].call():
                self._settle_doubts()
                self._record(judged)
        except BaseException as error:
            for one in judged:
                if not one.answer.done():
                    one.answer.set_exception(without_traceback(error))
            if None in group:
                self._queue.put(None)
            raise  # the thread is begun again, and people are told
        return None not in group

    def _next_group(self) -> list[JudgedPart | None]:
        """Return the parts that wait, and None at the end; nothing where doubts are to be settled before one
        comes."""
        try:
            group = [self._queue.get(timeout=LOOK_INTERVAL if self._doubts else None)]
        except Empty:
            return []
        while len(group) < MAX_GROUP:
            try:
                group.append(self._queue.get_nowait())
            except Empty:
                break
        return group

    def _record(self, group: list[JudgedPart]) -> None:
        """Record parts and answer each. Some libraries' errors are no Exception."""
        ready = list[JudgedPart]()
        for one in group:
            try:
                whole = one.with_files()  # None: its sender was told that it failed
                if whole is not None and not self._answer_resent(whole) and whole.answer.begin_recording():
                    ready.append(whole)
            except BaseException as error:
                one.answer.set_exception(without_traceback(error))
        if ready:
            self._record_ready(ready)

    def _record_ready(self, ready: list[JudgedPart]) -> None:
        """Record parts whose files are there, in one transaction, and answer each."""
        is_in_doubt = False
        found: Sequence[tuple[int, bool] | None]
        try:
            found = [*self.store.record([one.inspection for one in ready])]
        except StoreError as error:
            nothing: list[tuple[int, bool] | None] = [None] * len(ready)
            standing = self._find_standing(ready) if error.is_in_doubt else nothing
            is_in_doubt, found = standing is None, standing or [*nothing]
            for one, record in zip(ready, found, strict=True):
                if record is None:
                    one.answer.set_exception(without_traceback(error))
        except BaseException as error:
            self._record_each(ready, error)
            return
        try:
            for one, record in zip(ready, found, strict=True):
                if record is not None:
                    self._answer(one, *record)
        finally:
            for one, record in zip(ready, found, strict=True):
                one.answer.end_recording(has_record=is_in_doubt or record is not None)

    def _record_each(self, ready: list[JudgedPart], error: BaseException) -> None:
        """Record parts one after another, which failed together: an error of one does not harm the others."""
        for one in ready:
            if len(ready) == 1 or isinstance(error, FlawscopeError):
                one.answer.set_exception(without_traceback(error))
            one.answer.end_recording(has_record=False)
            if not one.answer.done():
                self._record([one])

    def _answer(self, one: JudgedPart, number: int, is_new: bool) -> None:
        """Answer a part that is recorded, and tell who listens."""
        if not is_new and (used := self._key_conflict(one.inspection)) is not None:
            one.answer.set_exception(used)
            return
        inspection = self._with_fate(one, number) if is_new else one.inspection
        recorded = RecordedInspection(number, inspection, is_new, one.predictions, one.seconds())
        if inspection.purpose == CHALLENGE:
            self._answer_other(one.answer, recorded)
            return
        with suppress(InvalidStateError):
            one.answer.set_result(recorded)
        if is_new and inspection.purpose == PRODUCTION:
            with suppress(Exception):  # a listener's error does not harm the answers
                self.announce(recorded)

    # ---- the answer to COMMIT was lost

    def _find_standing(self, ready: list[JudgedPart]) -> Sequence[tuple[int, bool] | None] | None:
        """Return what `Store.record` would have returned, for each part whose record stands: all or none do.
        None for one that has none, or had one under its key before: who sends that again gets it. None in
        place of all where that cannot be known soon; then the parts are remembered."""
        ends = time.monotonic() + LOOK_SECONDS
        while True:
            try:
                numbers = self.store.find_recorded([one.inspection for one in ready])
                return [None if number is None else (number, True) for number in numbers]
            except StoreError:
                if time.monotonic() > ends:
                    self._doubts += [Doubt(one, time.monotonic()) for one in ready]
                    return None
            time.sleep(LOOK_INTERVAL)

    def _settle_doubts(self) -> None:
        """Look whether records stand of which nobody knew, and say that their senders were refused."""
        since = time.monotonic() - RESENT_SECONDS
        self._doubts = [one for one in self._doubts if one.number is None or one.since > since]
        open_doubts = [one for one in self._doubts if one.number is None]
        if not open_doubts:
            return
        try:
            numbers = self.store.find_recorded([one.part.inspection for one in open_doubts])
        except StoreError:  # it is away still
            return
        for doubt, number in zip(open_doubts, numbers, strict=True):
            self._doubts.remove(doubt)
            if number is None:
                continue
            self._doubts.append(replace(doubt, number=number, since=time.monotonic()))
            inspection = replace(doubt.part.inspection, unanswered=LATE)
            recorded = RecordedInspection(number, inspection, True, doubt.part.predictions)
            with suppress(Exception):  # the store is away again
                self.store.set_unanswered(number, LATE)
            if inspection.purpose == PRODUCTION:
                with suppress(Exception):
                    self.announce(recorded)

    def _answer_resent(self, one: JudgedPart) -> bool:
        """Answer a part that its sender sends again because it was refused, though its record stands; return
        whether it is one."""
        for doubt in self._doubts:
            if doubt.number is None or not doubt.is_sent_again(one.inspection):
                continue
            why = one.answer.decide()
            if why is None:
                self.store.set_unanswered(doubt.number, None)
            self._doubts.remove(doubt)
            inspection = replace(doubt.part.inspection, unanswered=why)
            with suppress(InvalidStateError):
                one.answer.set_result(RecordedInspection(doubt.number, inspection, False, one.predictions))
            return True
        return False

    def _answer_other(self, answer: Answer, recorded: RecordedInspection) -> None:
        """Answer a part that is none of the production."""
        try:
            self.refuse(recorded)
            raise RuntimeError(f"nobody answers an inspection with purpose {recorded.inspection.purpose}")
        except Exception as error:
            answer.set_exception(without_traceback(error))

    def _with_fate(self, one: JudgedPart, number: int) -> NewInspection:
        """Return the inspection with what became of its answer, which may have been given up meanwhile."""
        why = one.answer.decide()
        if why == one.inspection.unanswered:
            return one.inspection
        with suppress(Exception):  # the store is away again: the answer says it all the same
            self.store.set_unanswered(number, why)
        return replace(one.inspection, unanswered=why)

    def _key_conflict(self, taken: NewInspection) -> Exception | None:
        """Return an error where the key is another request's, recorded while this one was under way."""
        try:
            rows = self.store.find_by_keys(taken.address or taken.product_id, [taken.key or ""])
        except Exception as error:
            return without_traceback(error)
        if all(row.request_hash == taken.request_hash for row in rows):
            return None
        return KeyUsedError(f"request, inspection {rows[0].id}")
