"""Recorder of judged pictures: several are written in one transaction, before anybody is answered."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field, replace
from queue import Empty, SimpleQueue

from flawscope.errors import FlawscopeError
from flawscope.results.prediction import Prediction
from flawscope.station.inspecting.capacity import light
from flawscope.station.store.insert import Taken
from flawscope.station.store.inspection import KeyUsedError
from flawscope.station.store.records import Store

TOGETHER = 64  # inspections in a transaction, at most: a flush of the disk costs as much for one


@dataclass(frozen=True)
class Recorded:
    """Inspection that is on the disk. is_new: False where its key had been taken before."""

    number: int
    taken: Taken
    is_new: bool
    prediction: Prediction | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Judged:
    """Judged picture to be recorded. kept: done when the picture's file is on the disk."""

    taken: Taken
    prediction: Prediction
    kept: Future[str]
    answer: Future[Recorded]


class Recorder:
    """Thread that records judged pictures in groups.

    Args:
        announce: gets every new inspection after it was recorded.
    """

    def __init__(self, store: Store, announce: Callable[[Recorded], None]):
        self.store, self.announce = store, announce
        self._waiting: SimpleQueue[Judged | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="recorder", daemon=True)
        self._thread.start()

    def add(self, judged: Judged) -> None:
        self._waiting.put(judged)

    def close(self) -> None:
        """Return when all is written."""
        self._waiting.put(None)
        self._thread.join()

    def _work(self) -> None:
        while self._turn():
            pass

    def _turn(self) -> bool:
        """Record what waits; return False at the end. No picture is held while the next is waited for."""
        group = [self._waiting.get()]
        while len(group) < TOGETHER:
            try:
                group.append(self._waiting.get_nowait())
            except Empty:
                break
        self._record([one for one in group if one is not None])
        return None not in group

    def _record(self, group: list[Judged]) -> None:
        ready = []
        for one in group:
            try:
                ready.append(replace(one, taken=replace(one.taken, picture=one.kept.result())))
            except Exception as error:
                one.answer.set_exception(light(error))
        if not ready:
            return
        try:
            found = self.store.record([one.taken for one in ready])
        except FlawscopeError as error:
            for one in ready:
                one.answer.set_exception(light(error))
            return
        except Exception as error:
            if len(ready) == 1:
                ready[0].answer.set_exception(light(error))
                return
            for one in ready:  # an error of one does not harm the others
                self._record([one])
            return
        for one, (number, is_new) in zip(ready, found, strict=True):
            if not is_new and (used := self._used(one.taken)) is not None:
                one.answer.set_exception(used)
                continue
            recorded = Recorded(number, one.taken, is_new, one.prediction)
            one.answer.set_result(recorded)
            if is_new:
                with suppress(Exception):  # a listener's error does not harm the answers
                    self.announce(recorded)

    def _used(self, taken: Taken) -> Exception | None:
        """Return an error where the key is another request's, recorded while this one was under way."""
        try:
            rows = self.store.under(taken.address or taken.product_id, [taken.key or ""])
        except Exception as error:
            return light(error)
        if all(row.request_hash == taken.request_hash for row in rows):
            return None
        return KeyUsedError(f"request, inspection {rows[0].id}")
