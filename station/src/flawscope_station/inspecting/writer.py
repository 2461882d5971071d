"""Recorder of judged pictures: several are written in one transaction, before anybody is answered."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field, replace
from queue import Empty, SimpleQueue

from flawscope import Prediction
from flawscope.errors import FlawscopeError
from flawscope_station.background import GuardedThread
from flawscope_station.inspecting.capacity import without_traceback
from flawscope_station.store.insert import NewInspection
from flawscope_station.store.inspection import KeyUsedError
from flawscope_station.store.records import Store
from flawscope_station.store.schema import PRODUCTION

MAX_GROUP = 64  # inspections in a transaction, at most: flushing the disk costs as much for a single one


@dataclass(frozen=True)
class RecordedInspection:
    """Inspection that is on the disk. is_new: False where its key had been taken before."""

    number: int
    inspection: NewInspection
    is_new: bool
    prediction: Prediction | None = field(default=None, repr=False)


class Answer(Future[RecordedInspection]):
    """Answer to a picture. It is decided once whether its sender gets it: it is recorded, or given up."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._why: str | None = None
        self._is_decided = False

    def set_exception(self, exception: BaseException | None) -> None:
        """Fail, unless it is answered: of views of a part each fails with the others."""
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
class JudgedPicture:
    """Judged picture to be recorded. kept: done when the picture's file is on the disk."""

    inspection: NewInspection
    prediction: Prediction
    file_hash: Future[str]
    answer: Answer


class Recorder:
    """Thread that records judged pictures in groups.

    Args:
        announce: gets every new inspection of the production after it was recorded.
        refuse: gets others, the views of a part together, and raises what is answered in their place.
    """

    def __init__(
        self,
        store: Store,
        announce: Callable[[RecordedInspection], None],
        refuse: Callable[[Sequence[RecordedInspection]], None],
    ):
        self.store, self.announce, self.refuse = store, announce, refuse
        self._queue: SimpleQueue[list[JudgedPicture] | None] = SimpleQueue()
        self._ended = threading.Event()
        self.threads = [GuardedThread("recorder", self._work, self._ended)]
        self.threads[0].start()

    def add(self, judged: list[JudgedPicture]) -> None:
        """Record a picture, or all views of a part."""
        self._queue.put(judged)

    def close(self) -> None:
        """Return when all is written."""
        self._queue.put(None)
        self.threads[0].join()

    def _work(self) -> None:
        while self._record_next():
            pass
        self._ended.set()

    def _record_next(self) -> bool:
        """Record the waiting pictures; return False at the end. None is held while the next is waited for."""
        group = [self._queue.get()]
        while len(group) < MAX_GROUP:
            try:
                group.append(self._queue.get_nowait())
            except Empty:
                break
        judged = [one for several in group if several is not None for one in several]
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

    def _record(self, group: list[JudgedPicture]) -> None:
        """Record pictures and answer each. Some libraries' errors are no Exception."""
        ready = []
        for one in group:
            if one.answer.done():  # its sender was told that it failed
                continue
            try:
                picture, unanswered = one.file_hash.result(), one.answer.reason()
                inspection = replace(one.inspection, picture=picture, unanswered=unanswered)
                ready.append(replace(one, inspection=inspection))
            except BaseException as error:
                one.answer.set_exception(without_traceback(error))
        ready = [one for one in ready if not one.answer.done()]  # a part lacks no view
        if not ready:
            return
        try:
            found = self.store.record([one.inspection for one in ready])
        except BaseException as error:
            apart = _by_part(ready)
            if len(apart) == 1 or isinstance(error, FlawscopeError):  # the store's, which all would get
                for one in ready:
                    one.answer.set_exception(without_traceback(error))
                return
            for several in apart:  # an error of one does not harm the others
                self._record(several)
            return
        numbers = {one: number for one, (number, _) in zip(ready, found, strict=True)}
        for several in _by_part([one for one in ready if one.inspection.purpose != PRODUCTION]):
            self._answer_others(several, numbers)
        for one, (number, is_new) in zip(ready, found, strict=True):
            if one.answer.done():
                continue
            if not is_new and (used := self._key_conflict(one.inspection)) is not None:
                one.answer.set_exception(used)
                continue
            inspection = self._with_fate(one, number) if is_new else one.inspection
            recorded = RecordedInspection(number, inspection, is_new, one.prediction)
            with suppress(InvalidStateError):
                one.answer.set_result(recorded)
            if is_new:
                with suppress(Exception):  # a listener's error does not harm the answers
                    self.announce(recorded)

    def _answer_others(self, several: list[JudgedPicture], numbers: dict[JudgedPicture, int]) -> None:
        """Answer pictures, of one part, that are none of the production."""
        found = [RecordedInspection(numbers[one], one.inspection, True, one.prediction) for one in several]
        try:
            self.refuse(found)
            raise RuntimeError(f"nobody answers an inspection with purpose {found[0].inspection.purpose}")
        except Exception as error:
            for one in several:
                one.answer.set_exception(without_traceback(error))

    def _with_fate(self, one: JudgedPicture, number: int) -> NewInspection:
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


def _by_part(pictures: Sequence[JudgedPicture]) -> list[list[JudgedPicture]]:
    """Return the pictures apart, but the views of a part together."""
    apart: dict[object, list[JudgedPicture]] = {}
    for one in pictures:
        apart.setdefault(one.inspection.part_views or one, []).append(one)
    return [*apart.values()]
