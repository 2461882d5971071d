"""Judging of pictures: they wait in a queue, in which several products take turns, for the model."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from itertools import count
from typing import Any, TypeVar

from flawscope import Prediction
from flawscope.errors import FlawscopeError, InputError, message_with_type
from flawscope_station.background import GuardedThread
from flawscope_station.inspecting.capacity import BusyError, FairQueue, without_traceback
from flawscope_station.inspecting.interlock import Interlocks
from flawscope_station.inspecting.job import Job, LateError, ModelError
from flawscope_station.inspecting.parts import PartsCache
from flawscope_station.inspecting.picture import new_inspection
from flawscope_station.inspecting.tolerances import ProductTolerances
from flawscope_station.inspecting.writer import JudgedPicture, RecordedInspection, Recorder
from flawscope_station.store.model_registry import ModelRegistry
from flawscope_station.store.open_models import Model

T = TypeVar("T")

MAX_PICTURES_PER_TURN = 64  # pictures of one product, at most, before the active model is looked up again
MAX_MODEL_CALLS = 8  # that wait until no picture does: further ones are refused


class Judge:
    """Judges pictures in the order in which they came, and hands them to the recorder.

    Args:
        interlocks: may hold answers back.
        near: as in `Settings`.
        tolerances: rules that are applied to what the models say.
        report_error: gets an error of the model, "" when it works again.
    """

    def __init__(
        self,
        versions: ModelRegistry,
        recorder: Recorder,
        interlocks: Interlocks,
        near: float,
        tolerances: ProductTolerances,
        report_error: Callable[[str], None] = lambda text: None,
    ):
        self.versions, self.recorder, self.interlocks, self.near = versions, recorder, interlocks, near
        self.tolerances, self.report_error = tolerances, report_error
        self.parts = PartsCache(versions)
        self._queue: FairQueue[Job] = FairQueue()
        self._model_calls: deque[Callable[[], None]] = deque()
        self._changed = threading.Condition()
        self._ending, self._ended = False, threading.Event()
        self.threads = [GuardedThread("judge", self._work, self._ended)]

    def start(self, backlog: Callable[[], int]) -> None:
        """Begin. backlog: number of pictures that are not answered; those that are not here yet will come."""
        self._backlog = backlog
        self.threads[0].start()

    def put(self, job: Job) -> None:
        """Let a picture wait."""
        with self._changed:
            self._queue.put(job.picture.product_id, job)
            self._changed.notify_all()

    def remove(self, answer: Future[RecordedInspection]) -> list[Job]:
        """Take back the pictures of an answer that wait."""
        with self._changed:
            return self._queue.remove(lambda job: job.answer is answer)

    def expected_delay(self, product_id: int, unanswered: Counter[int]) -> float:
        """Return the seconds until a further picture is judged; 0 where none waits: then it is not known."""
        with self._changed:
            return self._queue.expected_delay(product_id, unanswered)

    def wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def end(self) -> None:
        """Return when all pictures are answered."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()
        self.threads[0].join()

    # ---- judging

    def _work(self) -> None:
        while self._judge_next():
            pass
        self._ended.set()

    def _judge_next(self) -> bool:
        """Judge the waiting pictures; return False at the end. None is held while the next is waited for."""
        first = self._next_job()
        if first is None:
            return False
        turns, failure = deque([[first]]), ""
        while turns:
            jobs = turns.popleft()
            try:
                self._judge(jobs, feed=not failure)
            except BaseException as error:  # some engines' errors are no Exception
                failure = f"the model failed: {message_with_type(error)}"
                own = without_traceback(error) if isinstance(error, FlawscopeError) else ModelError(failure)
                left = [job for job in jobs if not (job.is_judged or job.answer.done())]
                if len(left) > 1:  # an error of one does not harm the others
                    turns.extend([job] for job in left)
                elif left:
                    left[0].answer.set_exception(own)
        if failure:
            self.report_error(failure)
        return True

    def _next_job(self) -> Job | None:
        """Return the oldest job that is in time; None at the end. While no picture waits, run the functions
        of `run_between`, and look after each whether one has come."""
        while True:
            with self._changed:
                while not self._queue and not self._model_calls:
                    if self._ending and not self._backlog():
                        return None
                    self._changed.wait(0.5)
                job = self._queue.pop() if self._queue else None
                call = self._model_calls.popleft() if job is None else None
            if call is not None:
                with self.threads[0].call():
                    call()
            elif job is not None and self._is_in_time(job):
                return job

    def _is_in_time(self, job: Job) -> bool:
        if job.answer.done():  # another view of its part could not be judged
            return False
        if job.picture.due > time.monotonic():
            return True
        job.answer.set_exception(LateError("others were before it"))
        return False

    def run_between(self, function: Callable[[], T]) -> Future[T]:
        """Run a function that uses a model as soon as no picture waits: most engines do one thing at a time.
        A future that is cancelled by then is not run. BusyError where too many wait."""
        answer: Future[T] = Future()

        def run() -> None:
            if not answer.set_running_or_notify_cancel():
                return
            try:
                answer.set_result(function())
            except BaseException as error:
                answer.set_exception(without_traceback(error))

        with self._changed:
            if self._ending or len(self._model_calls) >= MAX_MODEL_CALLS:
                raise BusyError(1.0, "the model is busy")
            self._model_calls.append(run)
            self._changed.notify_all()
        answer.add_done_callback(lambda done: self._forget_call(run) if done.cancelled() else None)
        return answer

    def _forget_call(self, run: Callable[[], None]) -> None:
        """Free the place of a function that was cancelled."""
        with self._changed, suppress(ValueError):
            self._model_calls.remove(run)

    def _judge(self, jobs: list[Job], *, feed: bool) -> None:
        """Judge a picture, and where `feed` is set those of its address that come meanwhile: they are
        appended to `jobs`. The product of an entry's pictures is known from here on."""
        address, begun, works = jobs[0].picture.product_id, time.monotonic(), False
        judging = self.versions.models.model_of(address)
        model, most = judging.model, MAX_PICTURES_PER_TURN if feed else 1
        for job, result in self._results(jobs, model, most):
            if isinstance(result, InputError):
                job.answer.set_exception(job.picture.decoding_error(without_traceback(result)))
                continue
            works = True
            try:
                product = judging.matching_product(result)
                parts = self.parts.for_version(product.product_id, product.number, product.predictor.manifest)
                found, rules = self.tolerances.apply(product, result)
                judged_by = product, found, self.near, parts, rules
                record = new_inspection(job.picture, job.suffix, job.at, *judged_by)
                part = None if parts is None else self.parts.part_of(job.picture, parts)
                record = replace(record, pixels=job.source.pixels, part_views=part)
                with self.threads[0].call():  # an interlock may hang, too
                    record = self.interlocks.release(job.picture, record)
                judged = JudgedPicture(record, found, job.file_hash, job.answer)
                whole = [judged] if part is None else part.collect(judged)
            except Exception as error:  # another version judges than when the picture came, or it is damaged
                job.answer.set_exception(without_traceback(error))
                continue
            if whole:
                self.recorder.add(whole)
            job.is_judged = True
        with self._changed:
            self._queue.add_time(address, (time.monotonic() - begun) / len(jobs))
        if works:
            self.report_error("")

    def _results(
        self, jobs: list[Job], model: Model, most: int
    ) -> Iterator[tuple[Job, Prediction | InputError]]:
        """Yield each picture with its result; the model is told where it hangs on one."""
        results = model.stream(self._feed(jobs, model, most))
        for number in count():
            with self.threads[0].call():
                found = next(results, None)
            if found is None:
                return
            yield jobs[number], found[1]

    def _feed(self, jobs: list[Job], model: Model, most: int) -> Iterator[Any]:
        """Yield pictures while others are computed, so that they are decoded meanwhile. Ends when none waits,
        when it is another product's turn, and after `most`: another model may be active."""
        yield jobs[0].model_input(model)
        while len(jobs) < most:
            with self._changed:
                job = self._queue.pop_same_turn(jobs[0].picture.product_id, len(jobs))
            if job is None:
                return
            if self._is_in_time(job):
                jobs.append(job)
                yield job.model_input(model)
