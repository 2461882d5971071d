"""Recorder of judged parts: several are written in one transaction, before anybody is answered."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field, replace
from queue import Empty, SimpleQueue
from typing import Any

from flawscope import Prediction
from flawscope.errors import FlawscopeError
from flawscope_station.inspecting.capacity import without_traceback
from flawscope_station.monitoring.background import STOP_TIMEOUT, GuardedThread
from flawscope_station.store.insert import NewInspection
from flawscope_station.store.inspection import KeyUsedError
from flawscope_station.store.records import Store
from flawscope_station.store.schema import CHALLENGE, PRODUCTION

FILE_INTERVAL = 0.5  # seconds between two looks at whether a part still waits for its files
MAX_GROUP = 64  # inspections in a transaction, at most: flushing the disk costs as much for a single one


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
    """Answer to a part. It is decided once whether its sender gets it: it is recorded, or given up."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._why: str | None = None
        self._is_decided = False

    def set_exception(self, exception: BaseException | None) -> None:
        """Fail, unless it is answered: it may have waited too long."""
        with suppress(InvalidStateError):
            super().set_exception(exception)

    def give_up(self, why: str) -> bool:
        """Say why nobody waits for it any more; return False where it is there already. Thread-safe."""
        with self._lock:
            self._why = self._why if self._is_decided else self._why or why
            return not self._is_decided

    def reason(self) -> str | None:
        """Why it was given up; None: it was not."""
        return self._why

    def decide(self) -> str | None:
        """Return why it was given up, and let it not be given up any more."""
        with self._lock:
            self._is_decided = True
            return self._why


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


class Recorder:
    """Thread that records judged parts in groups.

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
        group = [self._queue.get()]
        while len(group) < MAX_GROUP:
            try:
                group.append(self._queue.get_nowait())
            except Empty:
                break
        judged = [one for one in group if one is not None]
        try:
            with self.threads[0].call():
                self._record(judged)
        except BaseException as error:
            for one in judged:
                if not one.answer.done():
                    one.answer.set_exception(without_traceback(error))
            if None in group:
                self._queue.put(None)
            raise  # the thread is begun again, and people are told
        return None not in group

    def _record(self, group: list[JudgedPart]) -> None:
        """Record parts and answer each. Some libraries' errors are no Exception."""
        ready = list[JudgedPart]()
        for one in group:
            try:
                if (whole := one.with_files()) is not None:  # else its sender was told that it failed
                    ready.append(whole)
            except BaseException as error:
                one.answer.set_exception(without_traceback(error))
        ready = [one for one in ready if not one.answer.done()]
        if not ready:
            return
        try:
            found = self.store.record([one.inspection for one in ready])
        except BaseException as error:
            if len(ready) == 1 or isinstance(error, FlawscopeError):  # the store's, which all would get
                for one in ready:
                    one.answer.set_exception(without_traceback(error))
                return
            for one in ready:  # an error of one does not harm the others
                self._record([one])
            return
        for one, (number, is_new) in zip(ready, found, strict=True):
            if not is_new and (used := self._key_conflict(one.inspection)) is not None:
                one.answer.set_exception(used)
                continue
            inspection = self._with_fate(one, number) if is_new else one.inspection
            recorded = RecordedInspection(number, inspection, is_new, one.predictions, one.seconds())
            if inspection.purpose == CHALLENGE:
                self._answer_other(one.answer, recorded)
                continue
            with suppress(InvalidStateError):
                one.answer.set_result(recorded)
            if is_new and inspection.purpose == PRODUCTION:
                with suppress(Exception):  # a listener's error does not harm the answers
                    self.announce(recorded)

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
