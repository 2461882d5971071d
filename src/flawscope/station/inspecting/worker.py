"""Inspection of pictures: they wait in a bounded queue, are judged, and are answered when they are recorded.

Large pictures are decoded beside the others, as far as there is memory, before they wait to be judged.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from typing import TypeVar, cast

from flawscope.errors import FlawscopeError, InputError, with_kind
from flawscope.pictures.decoding import Header, Source, header
from flawscope.predictor import Predictor, Prepared
from flawscope.results.prediction import Prediction
from flawscope.station.inspecting.capacity import BusyError, FairQueue, Memory, large, light, share
from flawscope.station.inspecting.writer import Judged, Recorded, Recorder
from flawscope.station.settings.station import Limits
from flawscope.station.store.database import StoreError, now
from flawscope.station.store.files import PICTURES, Files
from flawscope.station.store.insert import Taken
from flawscope.station.store.inspection import Request
from flawscope.station.store.model_registry import Versions

T = TypeVar("T")

SUFFIXES = {
    **{"PNG": ".png", "JPEG": ".jpg", "MPO": ".jpg", "TIFF": ".tif", "BMP": ".bmp", "DIB": ".bmp"},
    **{"WEBP": ".webp", "GIF": ".gif", "PPM": ".ppm", "JPEG2000": ".jp2", "AVIF": ".avif", "HEIF": ".heic"},
}
ROUND = 64  # pictures of one product, at most, before the active model is looked up again
RECENT = 60.0  # seconds over which a rate is counted


class LateError(FlawscopeError):
    """A picture cannot be judged before its deadline, or was not."""


class ModelError(FlawscopeError):
    """The model failed on pictures that can be read."""


class TooLargeError(InputError):
    """A picture with more pixels than are accepted."""


@dataclass(frozen=True)
class Picture:
    """Picture to be inspected, as it came.

    key: a picture with the same key is taken once. part, batch: part that it shows.
    request: where its sender gave a key. hash: SHA-256 of the data, where it is known.
    triggers: number that the frame answers. due: deadline of the answer, as `time.monotonic` counts.
    """

    product_id: int
    data: bytes = field(repr=False)
    name: str
    source: str
    key: str | None = None
    part: str | None = None
    batch: str | None = None
    request: Request | None = None
    hash: str = ""
    triggers: int | None = None
    due: float = math.inf


# fields of a picture that are recorded as they came
_AS_IT_CAME = {one.name for one in fields(Picture)} & {one.name for one in fields(Taken)}


@dataclass
class _Job:
    picture: Picture
    suffix: str
    kept: Future[str]
    answer: Future[Recorded]
    at: int
    prepared: tuple[Predictor, Prepared] | None = None
    is_judged: bool = False


class Inspector:
    """Judges pictures in the order in which they came; several products take turns.

    Args:
        products: that are inspected.
        memory: for decoding large pictures.
        near: as in `Settings`.
        trouble: gets an error of the model, "" when it works again.
    """

    def __init__(
        self,
        versions: Versions,
        recorder: Recorder,
        files: Files,
        limits: Limits,
        near: float,
        products: Collection[int],
        memory: Memory,
        trouble: Callable[[str], None] = lambda text: None,
    ):
        self.versions, self.recorder, self.files = versions, recorder, files
        self.limits, self.near, self.trouble = limits, near, trouble
        self.memory, self._products = memory, products
        self._share = share(limits.queue, products)
        self._queue: FairQueue[_Job] = FairQueue()
        self._asides: deque[Callable[[], None]] = deque()
        self._changed = threading.Condition()
        self._places = 0  # taken by pictures that wait, are judged or being recorded
        self._bytes = 0
        self._by_key: dict[tuple[int, str], tuple[Picture, Future[Recorded]]] = {}
        self._claims: list[tuple[int, Request]] = []
        self._of_product: Counter[int] = Counter()
        self._done: dict[int, deque[float]] = {}  # when, by product
        self._late: dict[int, float] = {}  # when, by product
        self._ending = False
        self._large = ThreadPoolExecutor(min(4, os.cpu_count() or 1), "large")
        self._pool = ThreadPoolExecutor(min(8, 2 + (os.cpu_count() or 1)), "upload")
        self._thread = threading.Thread(target=self._work, name="inspector", daemon=True)
        self._thread.start()

    # ---- taking

    def submit(self, pictures: Sequence[Picture]) -> list[Future[Recorded]]:
        """Take pictures, all or none; an answer is there when the inspection is on the disk.

        Each future raises InputError where the picture cannot be read, ModelError, or StoreError.

        Raises:
            BusyError: there is no room for all of them.
            LateError: they cannot be judged in time.
        """
        with self._changed:
            fresh = [one for one in pictures if (one.product_id, one.key or "") not in self._by_key]
            size = sum(len(one.data) for one in fresh)
            full = any(self._is_full(one.product_id, len(fresh)) for one in fresh)
            heavy = self._places and self._bytes + size > 4 * self.limits.upload_bytes
            if self._ending or (fresh and (full or heavy)):
                raise BusyError(self._wait())
            for one in fresh:
                self._check_time(one.product_id, one.due)
            return [self._take(one) for one in pictures]

    @contextmanager
    def claimed(self, product_id: int, request: Request | None) -> Iterator[bool]:
        """Reserve a request's key while the request is looked up in the store and submitted. Yields False
        where another request has the key: then pictures that are not in the store yet must be refused."""
        if request is None:
            yield True
            return
        claim = product_id, request
        with self._changed:
            known = [*self._claims, *((one.product_id, one.request) for one, _ in self._by_key.values())]
            is_free = not any(
                other is not None and (number, other.key) == (product_id, request.key) and other != request
                for number, other in known
            )
            if is_free:
                self._claims.append(claim)
        try:
            yield is_free
        finally:
            if is_free:
                with self._changed:
                    self._claims.remove(claim)

    def check_disk(self) -> None:
        """Raise StoreError where no picture could be kept."""
        if full := self.recorder.store.database.full:
            raise StoreError(full, "disk_full")
        self.files.check_room(self.limits.upload_bytes)

    def check_room(self, product_id: int, due: float = math.inf) -> None:
        """Check before a picture is read: BusyError where there is no place, LateError where there is no
        time, StoreError where the disk is full."""
        self.check_disk()
        with self._changed:
            if self._ending or self._is_full(product_id, 1):
                raise BusyError(self._wait())
            self._check_time(product_id, due)

    def _is_full(self, product_id: int, count: int) -> bool:
        """Whether so many more would take places that are reserved for other products."""
        others = (one for one in self._products if one != product_id)
        kept = sum(max(0, self._share - self._of_product[one]) for one in others)
        return self._places + count + kept > self.limits.queue

    def _check_time(self, product_id: int, due: float) -> None:
        delay = 0.0 if due == math.inf else self._queue.delay(product_id, self._of_product)
        left = max(0.0, due - time.monotonic())
        if left <= delay:
            raise self._was_late(product_id, f"it would take {delay:.1f} s, and {left:.1f} s are left")

    def give_up(self, answer: Future[Recorded], product_id: int) -> LateError:
        """End a picture whose deadline has passed; its place is free again unless it is being judged."""
        with self._changed:
            jobs = self._queue.remove(lambda job: job.answer is answer)
        error = self._was_late(product_id, "its deadline has passed")
        for job in jobs:
            job.answer.set_exception(error)
        return error

    def _was_late(self, product_id: int, why: str) -> LateError:
        self._late[product_id] = time.monotonic()
        return LateError(f"not judged in time: {why}; send fewer at once, or allow more time")

    def late(self, seconds: float) -> list[int]:
        """Return the products of which a picture was not judged in time within the last seconds."""
        since = time.monotonic() - seconds
        return [product for product, at in list(self._late.items()) if at >= since]

    def _take(self, picture: Picture) -> Future[Recorded]:
        known = (picture.product_id, picture.key) if picture.key else None
        if known in self._by_key:
            return self._by_key[known][1]
        answer: Future[Recorded] = Future()
        answer.set_running_or_notify_cancel()  # so that a client that goes away does not cancel it
        self._places += 1
        self._bytes += len(picture.data)
        self._of_product[picture.product_id] += 1
        if known:
            self._by_key[known] = picture, answer
        answer.add_done_callback(lambda _: self._release(picture, known))
        self._pool.submit(self._receive, picture, answer, now())
        return answer

    def _release(self, picture: Picture, known: tuple[int, str] | None) -> None:
        with self._changed:
            self._places -= 1
            self._bytes -= len(picture.data)
            self._of_product[picture.product_id] -= 1
            if known:
                self._by_key.pop(known, None)
            self._done.setdefault(picture.product_id, deque(maxlen=10_000)).append(time.monotonic())
            self._changed.notify_all()

    def _receive(self, picture: Picture, answer: Future[Recorded], at: int) -> None:
        """Check and queue a picture, then write its file while it waits. Runs in a thread of the pool."""
        kept: Future[str] = Future()
        try:
            self.check_disk()
            suffix, about = checked(picture.data, picture.name, self.limits)
            answer.add_done_callback(lambda done: self._let_go(kept, done, suffix))
            job = _Job(picture, suffix, kept, answer, at)
            if memory := large(about):
                self._large.submit(self._prepare, job, memory)
            else:
                self._put(job)
        except Exception as error:
            answer.set_exception(light(error))
            return
        try:
            kept.set_result(self.files.keep(PICTURES, picture.data, suffix, hold=True, known=picture.hash))
        except Exception as error:
            kept.set_exception(light(error))

    def _put(self, job: _Job) -> None:
        with self._changed:
            self._queue.put(job.picture.product_id, job)
            self._changed.notify_all()

    def _prepare(self, job: _Job, memory: int) -> None:
        """Decode a large picture and queue it. Runs in a thread for large pictures."""
        self.memory.take(memory)
        job.answer.add_done_callback(lambda _: self.memory.give(memory))
        try:
            if job.picture.due > time.monotonic():
                _, predictor = self.versions.active(job.picture.product_id)
                job.prepared = predictor, predictor.prepare(job.picture.data)
            self._put(job)
        except InputError as error:
            job.answer.set_exception(_named(light(error), job.picture))
        except Exception as error:
            job.answer.set_exception(light(error))

    def _let_go(self, kept: Future[str], answer: Future[Recorded], suffix: str) -> None:
        """Release the picture's file, which is in the data base by now; remove it after an error."""
        in_vain = answer.exception() is not None  # read here: a function with both futures would be a circle

        def release(done: Future[str]) -> None:
            if done.exception() is None:
                self.files.release(done.result())
                if in_vain:
                    self._drop(done.result(), suffix)

        kept.add_done_callback(release)

    def _drop(self, digest: str, suffix: str) -> None:
        """Remove the file of a picture that was not judged, unless another inspection has it."""
        with suppress(FlawscopeError):
            knows = self.recorder.store.knows
            self.files.discard(PICTURES, digest, suffix, lambda: not knows(digest))

    # ---- judging

    def _work(self) -> None:
        while self._turn():
            pass

    def _turn(self) -> bool:
        """Judge what waits; return False at the end. No picture is held while the next is waited for."""
        first = self._next()
        if first is None:
            return False
        jobs = [first]
        try:
            self._judge(jobs)
        except Exception as error:
            text = f"the model failed: {with_kind(error)}"
            said = light(error) if isinstance(error, FlawscopeError) else ModelError(text)
            self.trouble(str(said))
            for job in jobs:
                if not job.is_judged:
                    job.answer.set_exception(said)
        return True

    def _next(self) -> _Job | None:
        """Return the oldest job that is in time, after running the functions of `aside`; None at the end."""
        while True:
            with self._changed:
                while not self._queue and not self._asides:
                    if self._ending and not self._places:
                        return None
                    self._changed.wait(0.5)
                job = None if self._asides else self._queue.pop()
                look = self._asides.popleft() if job is None else None
            if job is not None and self._is_in_time(job):
                return job
            if look is not None:
                look()

    def _is_in_time(self, job: _Job) -> bool:
        """Whether a picture can be answered in time. The expected time, which may be wrong, counts only while
        others wait."""
        product, begun = job.picture.product_id, time.monotonic()
        least = self._queue.latency(product) if self._queue else 0.0
        if job.picture.due > begun + least:
            job.answer.add_done_callback(lambda _: self._queue.answered(product, time.monotonic() - begun))
            return True
        job.answer.set_exception(self._was_late(product, "others were before it"))
        return False

    def aside(self, look: Callable[[], T]) -> Future[T]:
        """Run a function that uses a model, between two pictures: most engines do one thing at a time."""
        answer: Future[T] = Future()

        def run() -> None:
            try:
                answer.set_result(look())
            except Exception as error:
                answer.set_exception(light(error))

        with self._changed:
            if self._ending:
                raise BusyError(self._wait())
            self._asides.append(run)
            self._changed.notify_all()
        return answer

    def _judge(self, jobs: list[_Job]) -> None:
        """Judge a picture, and those of its product that come meanwhile: they are appended to `jobs`."""
        number, predictor = self.versions.active(jobs[0].picture.product_id)
        worked, begun = False, time.monotonic()
        for place, (_, result) in enumerate(predictor.stream(self._feed(jobs, predictor))):
            job = jobs[place]
            job.is_judged = True
            if isinstance(result, InputError):
                job.answer.set_exception(_named(light(result), job.picture))
                continue
            worked = True
            self.recorder.add(
                Judged(self._taken(job, number, predictor, result), result, job.kept, job.answer)
            )
        with self._changed:
            self._queue.took(jobs[0].picture.product_id, (time.monotonic() - begun) / len(jobs))
        if worked:
            self.trouble("")

    def _feed(self, jobs: list[_Job], predictor: Predictor) -> Iterator[Source]:
        """Yield pictures while others are computed, so that they are decoded meanwhile. Ends when none waits,
        when it is another product's turn, and after `ROUND`, for another model may be active."""
        yield _given(jobs[0], predictor)
        while len(jobs) < ROUND:
            with self._changed:
                job = None
                if not self._asides:
                    job = self._queue.pop_of(jobs[0].picture.product_id, len(jobs))
            if job is None:
                return
            if self._is_in_time(job):
                jobs.append(job)
                yield _given(job, predictor)

    def _taken(self, job: _Job, number: int, predictor: Predictor, result: Prediction) -> Taken:
        picture, calibration = job.picture, predictor.calibration
        height, width = result.geometry.picture_size
        return Taken(
            **{name: getattr(picture, name) for name in _AS_IT_CAME},
            version_id=number,
            picture="",
            suffix=job.suffix,
            bytes=len(picture.data),
            width=width,
            height=height,
            at=job.at,
            score=result.score,
            p_value=result.p_value,
            severity=result.severity,
            score_threshold=result.score_threshold,
            anomalous=result.is_anomalous,
            near=not result.is_anomalous and result.p_value <= self.near * calibration.expected_rate,
            regions=[region.to_dict() for region in result.regions],
            brightness=result.brightness,
            request_hash=None if picture.request is None else picture.request.hash,
        )

    # ---- how it goes

    def backlog(self, product_id: int | None = None) -> int:
        """Number of pictures that are not answered yet."""
        return self._places if product_id is None else self._of_product[product_id]

    def rate(self, product_id: int) -> float:
        """Pictures a second that were answered in the last minute."""
        with self._changed:
            done = self._done.get(product_id, deque())
            since = time.monotonic() - RECENT
            while done and done[0] < since:
                done.popleft()
            return len(done) / RECENT

    def _wait(self) -> float:
        """Seconds until half of the queue is done, at the rate of the last minute."""
        rate = sum(self.rate(product_id) for product_id in list(self._done)) or 1.0
        return min(60.0, max(1.0, self._places / 2 / rate))

    def close(self) -> None:
        """Take nothing more; return when all pictures are answered."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()
        self._thread.join()
        self._pool.shutdown()
        self._large.shutdown()


def _given(job: _Job, predictor: Predictor) -> Source:
    """Return the picture as decoded for this model, else its data."""
    if job.prepared is not None and job.prepared[0] is predictor:
        return cast(Source, job.prepared[1])
    return job.picture.data


def checked(data: bytes, name: str, limits: Limits) -> tuple[str, Header]:
    """Return the ending of the kept file, and the picture's header; nothing is decoded.

    Raises:
        InputError: the data is no picture.
        TooLargeError: it has too many pixels.
    """
    about = header(data, name)
    if (pixels := about.height * about.width) > limits.pixels:
        raise TooLargeError(
            f"{name} has {pixels / 1e6:.0f} megapixels, {limits.pixels / 1e6:.0f} are accepted: make "
            "it smaller, or raise `limits: pixels`"
        )
    return SUFFIXES.get(about.kind, ".bin"), about


def _named(error: InputError, picture: Picture) -> InputError:
    """Return the error with the sender's name of the picture."""
    return InputError(str(error).replace(f"({len(picture.data)} bytes)", picture.name))
