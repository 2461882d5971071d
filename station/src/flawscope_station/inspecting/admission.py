"""Admission of pictures: who is taken, under which key and until when, and what is not answered yet.

A picture that is taken is checked and kept in a thread, and waits to be judged (`judge`). Large pictures are
decoded beside the others, as far as there is memory, before.
"""

from __future__ import annotations

import asyncio
import math
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, ParamSpec, TypeVar

from flawscope.errors import FlawscopeError, InputError, message_with_type
from flawscope.pictures import decoding
from flawscope_station.inspecting.capacity import (
    BusyError,
    MemoryBudget,
    Turns,
    decoding_bytes,
    without_traceback,
)
from flawscope_station.inspecting.job import Job, LateError, ModelError, pass_error_on
from flawscope_station.inspecting.judge import Judge
from flawscope_station.inspecting.picture import Picture, check_picture
from flawscope_station.inspecting.writer import Answer, RecordedInspection
from flawscope_station.settings.station import Limits
from flawscope_station.store.database import StoreError, now
from flawscope_station.store.files import PICTURES, Files
from flawscope_station.store.inspection import UNANSWERED_REQUEST, KeyUsedError
from flawscope_station.store.records import Store
from flawscope_station.store.schema import LATE

T = TypeVar("T")
P = ParamSpec("P")

# seconds after a failure for which nothing can be inspected, unless a picture is; the store is checked, too
FAILING_SECONDS, STORE_FAILING_SECONDS = 60.0, 5.0
RATE_SECONDS = 60.0  # seconds over which a rate is counted


class Inspector:
    """Takes pictures, and answers them when they are judged and recorded.

    Args:
        judge: gets them when they can be judged.
        products: numbers of those that are inspected, which may grow.

    Attributes:
        memory: for decoding large pictures; its turns wait until all pictures are answered.
        interlocks: may hold pictures back.
    """

    def __init__(self, judge: Judge, store: Store, files: Files, limits: Limits, products: Collection[int]):
        self.judge, self.store, self.files, self.limits = judge, store, files, limits
        self.memory = MemoryBudget(limits.decoding_bytes, Turns(wait_idle=self.wait_idle))
        self.interlocks, self._products = judge.interlocks, products
        self._changed = threading.Condition()
        self._unanswered: Counter[int] = Counter()  # by product: pictures that are not answered yet
        self._unanswered_bytes = 0  # of the data of these pictures
        self._by_key: dict[tuple[int, str], tuple[Picture, Answer]] = {}
        self._answer_times: dict[int, deque[float]] = {}  # when, by product
        self._late_times: dict[int, float] = {}  # when, by product
        self._failure = 0.0, ""  # until when pictures fail, and why, unless one is inspected before
        self._ending = False
        self._beside = ThreadPoolExecutor(min(4, os.cpu_count() or 1), "beside")
        self._pool = ThreadPoolExecutor(min(8, 2 + (os.cpu_count() or 1)), "upload")
        self._requests = ThreadPoolExecutor(min(8, 2 + (os.cpu_count() or 1)), "request")
        judge.start(self.backlog)

    # ---- taking

    def submit(self, pictures: Sequence[Picture]) -> list[Future[RecordedInspection]]:
        """Take pictures, all or none; an answer is there when the inspection is on the disk.

        Each future raises InputError where the picture cannot be read, KeyUsedError, ModelError, or
        StoreError.

        Where the model judges parts in views they are the views of one part, and recorded together.

        Raises:
            InputError: they are not all views of one part.
            BusyError: there is no room for all of them.
            NotReadyError: an interlock holds.
            LateError: they cannot be judged in time.
            KeyUsedError: another request under the same key is not answered yet.
        """
        pictures = self.judge.parts.as_part(pictures)
        with self._changed:
            self._check_keys(pictures)
            new = [one for one in pictures if (one.product_id, one.key or "") not in self._by_key]
            size = sum(len(one.data) for one in new)
            full = any(self._is_full(one.product_id, len(new)) for one in new)
            too_large = 0 < self._unanswered_bytes > 4 * self.limits.upload - size
            if self._ending or (new and (full or too_large)):
                raise BusyError(self._retry_seconds())
            for one in new:
                self.interlocks.check(one.product_id, one.part)
                self._check_time(one.product_id, one.due)
            return [self._accept(one) for one in pictures]

    def check_disk(self) -> None:
        """Raise StoreError where no picture could be kept."""
        if full := self.store.database.full:
            raise StoreError(full, "disk_full")
        self.files.check_free_space(self.limits.upload)

    def check_room(self, product_id: int, due: float = math.inf, part: str | None = None) -> None:
        """Check before a picture of a part is read: BusyError where there is no place, NotReadyError where an
        interlock holds, LateError where there is no time, NoModelError where no model is open, StoreError
        where the disk is full."""
        self.check_disk()
        self.judge.versions.models.model_of(product_id)
        self.interlocks.check(product_id, part)
        with self._changed:
            if self._ending or self._is_full(product_id, 1):
                raise BusyError(self._retry_seconds())
            self._check_time(product_id, due)

    def _check_keys(self, pictures: Sequence[Picture]) -> None:
        under_way = {
            (known.product_id, known.request.key): known.request
            for known, _ in self._by_key.values()
            if known.request is not None
        }
        for one in pictures:
            if one.request and under_way.get((one.product_id, one.request.key), one.request) != one.request:
                raise KeyUsedError(UNANSWERED_REQUEST)

    def _is_full(self, product_id: int, count: int) -> bool:
        """Whether `count` more pictures would take places that are reserved for other products."""
        products = list(self._products)  # it may grow meanwhile
        # half of all places are divided among the products
        own = self.limits.queue // (2 * len(products)) if len(products) > 1 else 0
        kept = sum(max(0, own - self._unanswered[one]) for one in products if one != product_id)
        return self.backlog() + count + kept > self.limits.queue

    def _check_time(self, product_id: int, due: float) -> None:
        delay = 0.0 if due == math.inf else self.judge.expected_delay(product_id, self._unanswered)
        left = max(0.0, due - time.monotonic())
        if left <= delay:
            self._late_times[product_id] = time.monotonic()
            raise LateError(f"it would take {delay:.1f} s, and {left:.1f} s are left")

    def abandon(self, answer: Future[RecordedInspection], product_id: int) -> LateError | None:
        """End a picture whose deadline has passed: its place is free again, or its record says so where it is
        being judged. Return the error; None: the answer is there already."""
        if isinstance(answer, Answer) and not answer.give_up(LATE):
            return None
        self._late_times[product_id] = time.monotonic()
        error = LateError("its deadline has passed")
        for job in self.judge.remove(answer):
            job.answer.set_exception(error)
        return error

    def _accept(self, picture: Picture) -> Answer:
        known = (picture.product_id, picture.key) if picture.key else None
        if known in self._by_key:
            return self._by_key[known][1]
        answer = Answer()
        answer.set_running_or_notify_cancel()  # so that a client that goes away does not cancel it
        if picture.set is not None:
            picture.set.join(answer)
        self._unanswered_bytes += len(picture.data)
        self._unanswered[picture.product_id] += 1
        if known:
            self._by_key[known] = picture, answer
        answer.add_done_callback(lambda done: self._release(picture, known, done))
        self._run_for(answer, self._pool, self._receive, picture, answer, now())
        return answer

    def _run_for(
        self,
        answer: Future[RecordedInspection],
        pool: ThreadPoolExecutor,
        work: Callable[..., None],
        *args: Any,
    ) -> None:
        """Run a step of a picture's way in a pool; its error is the picture's answer, whatever it is."""
        try:
            pool.submit(work, *args).add_done_callback(lambda done: pass_error_on(done, answer))
        except RuntimeError as error:  # no thread can be started
            answer.set_exception(without_traceback(error))

    def _release(
        self, picture: Picture, known: tuple[int, str] | None, answer: Future[RecordedInspection]
    ) -> None:
        error = answer.exception()
        product_id = picture.product_id if error else answer.result().inspection.product_id
        if error is None:
            self._failure = 0.0, ""
        elif isinstance(error, LateError):
            self._late_times[product_id] = time.monotonic()
        elif isinstance(error, StoreError):
            self._failure = time.monotonic() + STORE_FAILING_SECONDS, str(error)
        elif isinstance(error, ModelError) or not isinstance(error, FlawscopeError):
            self._failure = time.monotonic() + FAILING_SECONDS, message_with_type(error)
        with self._changed:
            self._unanswered_bytes -= len(picture.data)
            self._unanswered[picture.product_id] -= 1
            if known:
                self._by_key.pop(known, None)
            self._answer_times.setdefault(product_id, deque(maxlen=10_000)).append(time.monotonic())
            self._changed.notify_all()
        if self._ending:
            self.judge.wake()

    def _receive(self, picture: Picture, answer: Answer, at: int) -> None:
        """Check and queue a picture, then write its file while it waits. Runs in a thread of the pool."""
        if answer.done():  # a pool that could start no thread ran it all the same, later
            return
        kept: Future[str] = Future()
        try:
            self.check_disk()
            suffix, about = check_picture(picture.data, picture.name, self.limits)
        except Exception as error:
            answer.set_exception(without_traceback(error))
            return
        job = Job(picture, suffix, kept, answer, at, decoding.HashedPicture(picture.data))
        if memory := decoding_bytes(about):
            self._run_for(answer, self._beside, self._prepare, job, memory)
        else:
            self.judge.put(job)
        try:
            digest = self.files.keep(PICTURES, picture.data, suffix, hold=True, known=picture.hash)
        except BaseException as error:  # the recorder waits for it
            kept.set_exception(without_traceback(error))
            return
        answer.add_done_callback(lambda done: self._release_file(digest, suffix, done))
        kept.set_result(digest)

    def _release_file(self, digest: str, suffix: str, answer: Future[RecordedInspection]) -> None:
        """Release a recorded picture's file; remove a failed one's, unless another inspection has it."""
        self.files.release(digest)
        if answer.exception() is not None:
            path, knows = self.files.path(PICTURES, digest, suffix), self.store.has_picture
            with suppress(FlawscopeError):
                self.files.discard(path, digest, lambda: not knows(digest))

    def _prepare(self, job: Job, memory: int) -> None:
        """Decode a large picture and queue it. Runs in a thread for large pictures."""
        self.memory.acquire(memory)
        job.answer.add_done_callback(lambda _: self.memory.release(memory))
        try:
            if job.picture.due > time.monotonic():
                model = self.judge.versions.models.model_of(job.picture.product_id).model
                job.prepared = model, model.prepare(job.model_input(model))
            self.judge.put(job)
        except InputError as error:
            job.answer.set_exception(job.picture.decoding_error(without_traceback(error)))
        except Exception as error:
            job.answer.set_exception(without_traceback(error))

    async def in_thread(self, function: Callable[P, T], *args: P.args, **given: P.kwargs) -> T:
        """Run a function of a request for an inspection. It waits for no request of another kind, which may
        take all threads of the server."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._requests, partial(function, *args, **given))

    def run_beside(self, function: Callable[P, T], *args: P.args, **given: P.kwargs) -> Future[T]:
        """Run what is not urgent and waits for nothing else that runs here: large pictures are decoded there,
        which may wait until others are judged."""
        return self._beside.submit(function, *args, **given)

    # ---- how it goes

    def wait_idle(self, seconds: float) -> None:
        """Return when all pictures are answered, or after so many seconds."""
        with self._changed:
            self._changed.wait_for(lambda: not self.backlog(), seconds)

    def backlog(self, product_id: int | None = None) -> int:
        """Number of pictures that are not answered yet."""
        return self._unanswered.total() if product_id is None else self._unanswered[product_id]

    def late_products(self, seconds: float) -> list[int]:
        """Return the products of which a picture was not judged in time within the last seconds."""
        since = time.monotonic() - seconds
        return [product for product, at in list(self._late_times.items()) if at >= since]

    def failure(self) -> str | None:
        """Return why the last picture could not be inspected, for a while; None: it could, or that was its
        own fault."""
        until, why = self._failure
        return why if time.monotonic() < until else None

    def rate(self, product_id: int) -> float:
        """Pictures a second that were answered in the last minute."""
        since = time.monotonic() - RATE_SECONDS
        with self._changed:
            return sum(at >= since for at in self._answer_times.get(product_id, ())) / RATE_SECONDS

    def _retry_seconds(self) -> float:
        """Return the seconds until half of the queue is done, at the rate of the last minute."""
        rate = sum(map(self.rate, list(self._answer_times))) or 1.0
        return min(60.0, max(1.0, self.backlog() / 2 / rate))

    def close(self) -> None:
        """Take nothing more; return when all pictures are answered."""
        with self._changed:
            self._ending = True
        self.judge.end()

    def close_pools(self) -> None:
        """Return when what runs beside the pictures is done. Observers of the last ones still need that."""
        for pool in (self._pool, self._beside, self._requests):
            pool.shutdown()
