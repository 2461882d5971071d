"""Judging of parts: they wait in a queue, in which several products take turns, for the model."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from itertools import count
from typing import Any, TypeVar

from flawscope import Prediction
from flawscope.errors import FlawscopeError, InputError, message_with_type
from flawscope_station.inspecting.capacity import BusyError, FairQueue, without_traceback
from flawscope_station.inspecting.interlock import Interlocks
from flawscope_station.inspecting.job import Job, LateError, ModelError, View, new_inspection
from flawscope_station.inspecting.parts import PartsCache
from flawscope_station.inspecting.picture import with_views
from flawscope_station.inspecting.tolerances import ProductTolerances
from flawscope_station.inspecting.writer import Answer, JudgedPart, Recorder
from flawscope_station.monitoring.background import GuardedThread
from flawscope_station.store.insert import NewInspection
from flawscope_station.store.model_registry import ModelRegistry
from flawscope_station.store.open_models import AddressModel, Model

T = TypeVar("T")

MAX_PICTURES_PER_TURN = 64  # pictures of one product, at most, before the active model is looked up again
MAX_MODEL_CALLS = 8  # that wait until no part does: further ones are refused


class Judge:
    """Judges parts in the order in which they came, and hands them to the recorder.

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
        """Begin. backlog: number of parts that are not answered; those that are not here yet will come."""
        self._backlog = backlog
        self.threads[0].start()

    def put(self, job: Job) -> None:
        """Let a part wait."""
        with self._changed:
            self._queue.put(job.part.product_id, job)
            self._changed.notify_all()

    def remove(self, answer: Answer) -> list[Job]:
        """Take back the part of an answer, if it waits."""
        with self._changed:
            return self._queue.remove(lambda job: job.answer is answer)

    def expected_delay(self, product_id: int, unanswered: Counter[int]) -> float:
        """Return the seconds until a further part is judged; 0 where none waits: then it is not known."""
        with self._changed:
            return self._queue.expected_delay(product_id, unanswered)

    def wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def begin_end(self) -> None:
        """End when all parts are answered."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()

    def end(self, seconds: float) -> None:
        """Return when the thread has ended, or after so many seconds: a model may hang."""
        self.begin_end()
        self.threads[0].join(seconds)

    # ---- judging

    def _work(self) -> None:
        while self._judge_next():
            pass
        self._ended.set()

    def _judge_next(self) -> bool:
        """Judge the waiting parts; return False at the end. None is held while the next is waited for."""
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
        """Return the oldest job that is in time; None at the end. While no part waits, run the functions of
        `run_between`, and look after each whether one has come."""
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
        if job.answer.done():  # it waited too long
            return False
        if job.part.due > time.monotonic():
            return True
        job.answer.set_exception(LateError("others were before it"))
        return False

    def run_between(self, function: Callable[[], T]) -> Future[T]:
        """Run a function that uses a model as soon as no part waits: most engines do one thing at a time.
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
        """Judge a part, and where `feed` is set those of its address that come meanwhile: they are appended
        to `jobs`. The product of an entry's parts is known from here on."""
        address, begun, works = jobs[0].part.product_id, time.monotonic(), False
        judging, fed = self.versions.models.model_of(address), list[tuple[Job, View]]()
        results = judging.model.stream(
            self._feed(jobs, judging.model, fed, MAX_PICTURES_PER_TURN if feed else 1)
        )
        for number in count():
            with self.threads[0].call():  # the model is told where it hangs on one
                result = next(results, None)
            if result is None:
                break
            job, view = fed[number]
            if job.answer.done():
                continue
            if isinstance(result[1], InputError):
                job.answer.set_exception(view.picture.decoding_error(without_traceback(result[1])))
                continue
            works, view.found = True, result[1]
            if all(one.found is not None for one in job.views):
                self._finish(job, judging)
        with self._changed:
            self._queue.add_time(address, (time.monotonic() - begun) / len(jobs))
        if works:
            self.report_error("")

    def _finish(self, job: Job, judging: AddressModel) -> None:
        """Decide on a part whose pictures are judged, and hand it to the recorder."""
        try:
            with self.threads[0].call():  # an interlock may hang, too
                record, found = self._decide(job, judging)
                record = self.interlocks.release(job.part, record)
            hashes = tuple(view.file_hash for view in job.views)
            moments = job.taken, job.begun, time.monotonic()
            self.recorder.add(JudgedPart(record, found, hashes, job.answer, moments))
        except Exception as error:  # another version judges than when the part came, or it is damaged
            job.answer.set_exception(without_traceback(error))
        else:
            job.is_judged = True

    def _decide(self, job: Job, judging: AddressModel) -> tuple[NewInspection, tuple[Prediction, ...]]:
        """Return the record of a judged part, and the predictions of its pictures."""
        found = [view.found for view in job.views if view.found is not None]
        product, decided, rate = judging.matching_product(found[0]), None, 0.0
        if (parts := self.parts.for_address(job.part.product_id)) is not None:
            job.part = with_views(job.part, parts)  # another version may judge than when it came
            for view, one in zip(job.views, job.part.pictures, strict=True):
                view.picture = one
            said = {str(view.picture.view): one for view, one in zip(job.views, found, strict=True)}
            data = {str(view.picture.view): view.picture.data for view in job.views}
            decided = parts.decide(str(job.part.number), said, data)
            product = judging.matching_product(decided.views[decided.worst])
            own = self.parts.for_version(product.product_id, product.number, product.predictor.manifest)
            assert own is not None, "of a joint model all products have views, or none"
            rate, order = own.calibration.expected_rate, list(own.calibration.views)
            job.views = sorted(job.views, key=lambda view: order.index(str(view.picture.view)))
            found = [
                decided.views.get(name, said[name]) for name in (str(one.picture.view) for one in job.views)
            ]
        elif len(found) > 1:
            raise BusyError(1.0, "another kind of model began to judge")
        applied = [self.tolerances.apply(product, one) for one in found]
        found = [one for one, _ in applied]
        return new_inspection(job, product, found, self.near, decided, rate, applied[0][1]), tuple(found)

    def _feed(self, jobs: list[Job], model: Model, fed: list[tuple[Job, View]], most: int) -> Iterator[Any]:
        """Yield pictures while others are computed, so that they are decoded meanwhile, all of a part one
        after another. Ends when none waits, when it is another product's turn, and after `most` pictures:
        another model may be active."""
        for job in jobs:  # which grow
            job.begun = time.monotonic()
            for view in job.views:
                if job.answer.done():  # of another picture
                    break
                view.found = None
                fed.append((job, view))
                yield view.model_input(model)
            while len(fed) < most and job is jobs[-1]:
                with self._changed:
                    following = self._queue.pop_same_turn(jobs[0].part.product_id, len(jobs))
                if following is None:
                    return
                if self._is_in_time(following):
                    jobs.append(following)
