"""Work on parts that were taken: a ticket's steps from its place to the judge, and its end.

A part that is taken (`intake`) is checked and kept in a thread, and waits to be judged (`judge`). A part with
large pictures claims memory for all of them at once, and they are decoded in another thread first. Nothing
waits for ever: a part without an answer after `Limits.wait` seconds fails, and so do all that are left when
the station ends.
"""

from __future__ import annotations

import asyncio
import math
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import NamedTuple, ParamSpec, TypeVar

from flawscope.errors import FlawscopeError, InputError, message_with_type
from flawscope.pictures import decoding
from flawscope_station.inspecting.intake import Intake
from flawscope_station.inspecting.judge import Judge
from flawscope_station.inspecting.memory import (
    MemoryBudget,
    Turns,
    decoding_bytes,
    without_traceback,
)
from flawscope_station.inspecting.picture import Part, TooLargeError, check_picture
from flawscope_station.inspecting.ticket import (
    EndingError,
    LateError,
    ModelError,
    Outcome,
    OverdueError,
    RecordedInspection,
    State,
    Ticket,
    View,
    Waiter,
)
from flawscope_station.monitoring.background import STUCK_SECONDS, GuardedThread, WatchedPool
from flawscope_station.monitoring.machine import MachineWatch, silent_error
from flawscope_station.settings.station import Limits
from flawscope_station.store.database import StoreError
from flawscope_station.store.files import PICTURES, Files
from flawscope_station.store.records import Store
from flawscope_station.store.schema import LATE, MISSED

T = TypeVar("T")
P = ParamSpec("P")

# seconds after a failure for which the station counts as failing, unless a part is inspected before
FAILING_SECONDS = 60.0
STORE_FAILING_SECONDS = 5.0
END_SECONDS = 20.0  # time in which parts may still be answered when the station ends
FAILED_SECONDS = 5.0  # time in which the threads of failed parts may end
RECORDING_SECONDS = 30.0  # time for which the recorder may hold a part: longer than the store takes to fail
REQUEST_SECONDS = 15.0  # time for which a request waits for the store, unless its deadline is earlier
UPLOAD_SECONDS = 60.0  # time after which a thread that checks pictures is reported to hang
REQUEST_PATIENCE = 30.0  # seconds after which a thread that asks the store is reported to hang


def retrieve_exception(future: asyncio.Future[T]) -> None:
    """Retrieve the error of a finished future: if nobody did, asyncio would log that."""
    if not future.cancelled():
        future.exception()


class _Failure(NamedTuple):
    """Why the last part could not be inspected.

    Attributes:
        until: Time until which the station counts as failing, as `time.monotonic` counts.
        reason: Reason, for a person.
    """

    until: float
    reason: str


_NO_FAILURE = _Failure(0.0, "")


class Inspector:
    """Takes parts, and answers them when they are judged and recorded.

    Args:
        judge: Gets parts when they can be judged.
        store: Records of the station.
        files: Files of the station.
        machine: Measures disk and database, for `Intake`.
        limits: Limits of the settings.
        products: Numbers by name of products and of entries, for `Intake`.

    Attributes:
        intake: Gives parts their places.
        memory: Memory for decoding large pictures; its turns wait until all parts are answered.
        has_ended: Whether the threads of all pools have ended: the process would wait for them.
    """

    has_ended = False

    def __init__(
        self,
        judge: Judge,
        store: Store,
        files: Files,
        machine: MachineWatch,
        limits: Limits,
        products: Sequence[Mapping[str, int]],
    ):
        self.judge = judge
        self.store = store
        self.files = files
        self.limits = limits
        self.intake = Intake(judge, machine, limits, products)
        self._products = products
        self.memory = MemoryBudget(limits.decoding_bytes, Turns(wait_idle=self.intake.wait_idle))
        self._failure = _NO_FAILURE
        self._ends_at = math.inf  # time at which all parts without an answer fail
        cores = os.cpu_count() or 1
        # threads for work beside the judge, such as decoding large pictures
        self._beside = WatchedPool(min(4, cores), "beside", patience=STUCK_SECONDS + limits.wait)
        # threads that read parts
        self._pool = WatchedPool(min(8, 2 + cores), "upload", patience=UPLOAD_SECONDS)
        # threads for requests that ask the store
        self._requests = WatchedPool(min(8, 2 + cores), "request", patience=REQUEST_PATIENCE)
        judge.start(self.intake.backlog)

    # ---- taking

    def submit(self, part: Part) -> Waiter:
        """Take a part, and return its waiter, which gets the inspection once it is on the disk.

        The waiter may get an error instead: InputError where a picture cannot be read, KeyUsedError,
        ModelError, StoreError, LateError, OverdueError, or EndingError. The call itself raises the errors of
        `Intake.take`.
        """
        return self.submit_all([part])[0]

    def submit_all(self, parts: Sequence[Part]) -> list[Waiter]:
        """Take the parts of a request, all or none, and return a waiter for each; errors as in `submit`."""
        waiters, new_tickets = self.intake.take(parts, self._end)
        for ticket in new_tickets:
            self._run(self._pool, ticket, self._read)
        return waiters

    def abandon(self, waiter: Waiter) -> LateError | None:
        """Let a waiter leave, because its deadline has passed.

        If nobody else waits for the part and its judging has not begun, the part fails, and its place is
        free. If its judging has begun, the part is still recorded, with the reason why nobody waited.

        Returns:
            The error for the sender; None: the answer is there already.
        """
        error = LateError("its deadline has passed")
        ticket = waiter.ticket
        with self.intake.changed:  # nobody joins meanwhile
            if not waiter.leave(LATE):
                return None
            self.intake.note_late(ticket.part.product_id)
            nobody_waits = ticket.unanswered is not None
            if nobody_waits and self.judge.remove(ticket):
                ticket.fail(error)
        return error

    def _run(self, pool: WatchedPool, ticket: Ticket, step: Callable[[Ticket], None]) -> None:
        """Run a step of a part in a pool; any error of the step ends the part."""

        def run() -> None:
            # a pool that could not start a thread may run the step later, after the part has failed
            if ticket.has_ended:
                return
            try:
                step(ticket)
            except BaseException as error:
                ticket.fail(without_traceback(error))

        try:
            pool.submit(run)
        except RuntimeError as error:  # no thread can be started
            ticket.fail(without_traceback(error))

    def _read(self, ticket: Ticket) -> None:
        """Check and queue a part, and write its files while the part waits.

        The call runs in a thread of a pool.
        """
        part = ticket.part
        views = list[View]()
        byte_count = 0  # memory to decode the pictures
        for picture in part.pictures:
            suffix, header = check_picture(picture.data, picture.name, self.limits)
            views.append(View(picture, suffix, decoding.HashedPicture(picture.data)))
            byte_count += decoding_bytes(header)
        if len(views) > 1 and byte_count > self.memory.limit:
            raise TooLargeError(
                f"the {len(views)} pictures of part {part.name} take {byte_count / 1e9:.1f} GB while they "
                f"are decoded, {self.memory.limit / 1e9:.1f} GB are allowed: make them smaller, or raise "
                "`limits: pixels`"
            )
        if not ticket.read(views):  # False: the part has failed meanwhile
            return
        if byte_count:
            self._run(self._beside, ticket, partial(self._decode, byte_count=byte_count))
        else:
            self.judge.put(ticket)
        for view in views:
            self._keep_file(ticket, view)

    def _keep_file(self, ticket: Ticket, view: View) -> None:
        """Write a picture's file; where the part has ended meanwhile, the recorder removes the file."""
        picture = view.picture
        digest = self.files.keep(PICTURES, picture.data, view.suffix, hold=True, known_hash=picture.hash)
        if not ticket.keep(view, digest):
            self.judge.recorder.add(ticket)

    def _decode(self, ticket: Ticket, byte_count: int) -> None:
        """Decode a part's pictures in a thread for large pictures, and queue the part.

        Args:
            ticket: Ticket of the part.
            byte_count: Memory for all pictures of the part, claimed before the first is decoded.
        """
        if not self.memory.acquire(byte_count, is_over=lambda: ticket.has_ended):
            return
        if not ticket.claim(byte_count):  # the part has ended meanwhile
            self.memory.release(byte_count)
            return
        if ticket.due_at > time.monotonic():  # else the part is late, and is not judged
            model = self.judge.versions.models.active[ticket.part.product_id].model
            for view in ticket.views:
                try:
                    view.prepared = model, model.prepare(view.model_input(model))
                except InputError as error:
                    raise view.picture.decoding_error(error) from None
        self.judge.put(ticket)

    # ---- their end

    def _end(self, ticket: Ticket, outcome: Outcome) -> None:
        """Note the outcome of a part, and give back its place, memory and files."""
        self._note_outcome(ticket, outcome)
        self._release(ticket)
        if ticket.files and ticket.state is State.FAILED:  # the recorder removes the files
            self.judge.recorder.add(ticket)
        if self.intake.is_ending:
            self.judge.wake()

    def _note_outcome(self, ticket: Ticket, outcome: Outcome) -> None:
        """Note an outcome for the station's state: why parts fail, and how many are answered a second."""
        product_id = ticket.part.product_id
        now = time.monotonic()
        if isinstance(outcome, RecordedInspection):
            product_id = outcome.inspection.product_id  # a joint model may have found another product
            self._failure = _NO_FAILURE
        elif isinstance(outcome, LateError):
            self.intake.note_late(product_id)
        elif isinstance(outcome, StoreError):
            self._failure = _Failure(now + STORE_FAILING_SECONDS, str(outcome))
        # other errors of flawscope are the sender's: they are no failure of the station
        elif isinstance(outcome, ModelError | OverdueError) or not isinstance(outcome, FlawscopeError):
            self._failure = _Failure(now + FAILING_SECONDS, message_with_type(outcome))
        self.intake.note_answer(product_id)

    def _release(self, ticket: Ticket) -> None:
        """Give back the place and the memory of a part; a second call does nothing."""
        if self.intake.release(ticket) and ticket.memory:
            self.memory.release(ticket.memory)

    # ---- requests

    async def in_thread(self, due: float, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function that may ask the store, in a thread for requests that inspect.

        These requests have a pool of their own, because other requests may take all threads of the server.

        Args:
            due: Deadline of the request, as `time.monotonic` counts.
            function: Function to run.
            *args: Arguments of the function.
            **kwargs: Keyword arguments of the function.

        Returns:
            The function's result.

        Raises:
            LateError: The deadline has passed.
            StoreError: The function has not returned for `REQUEST_SECONDS`: the store hangs.
        """
        call = asyncio.wrap_future(self._requests.submit(function, *args, **kwargs))
        call.add_done_callback(retrieve_exception)
        seconds = min(due - time.monotonic(), REQUEST_SECONDS)
        done, _ = await asyncio.wait([call], timeout=max(0.0, seconds))
        if done:
            try:
                return call.result()
            finally:  # a raised error refers to this frame, so the frame must not refer to the error
                del call, done
        call.cancel()  # where the call still waits for a thread, it is never begun
        if due <= time.monotonic():
            raise LateError("the store did not answer before")
        raise silent_error("the store", REQUEST_SECONDS)

    @property
    def threads(self) -> list[GuardedThread]:
        """Records of the pools' calls, for the thread watch."""
        return [self._beside.calls, self._pool.calls, self._requests.calls]

    def run_beside(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run a function that is not urgent in the pool that decodes large pictures.

        The function must not wait for another function in this pool. It may have to wait for a thread until
        large pictures are judged.
        """
        return self._beside.submit(function, *args, **kwargs)

    # ---- how it goes

    def end_overdue(self) -> None:
        """Fail the parts that have waited too long: free their place and memory, and record an event of each.

        A part that is being recorded is left to the recorder for `RECORDING_SECONDS`.
        """
        now = time.monotonic()
        is_ending = now >= self._ends_at
        for ticket in self.intake.tickets():
            if ticket.is_recording(max_seconds=RECORDING_SECONDS):
                continue
            if not is_ending and now - ticket.since < self.limits.wait:
                continue
            self.judge.remove(ticket)
            error = EndingError() if is_ending else OverdueError(self.limits.wait)
            if not self._give_up(ticket, error):
                continue
            reason = "the station ended" if is_ending else "it was not answered in time"
            with suppress(RuntimeError):  # the pool has ended with the station
                self._beside.submit(self._note_missed, ticket.part, f"part {ticket.part.name}: {reason}")

    def _give_up(self, ticket: Ticket, error: FlawscopeError) -> bool:
        """Let all waiters of a part leave, and free its place, even where the part is still being recorded.

        Returns:
            Whether the waiters got the error; False where they are just getting their answer.
        """
        is_given_up = ticket.give_up(error)
        if is_given_up and not ticket.has_ended:  # else `_end` has noted it
            self._note_outcome(ticket, error)
        self._release(ticket)
        return is_given_up

    def _note_missed(self, part: Part, text: str) -> None:
        with suppress(Exception):  # where the store is away, the part's sender knows all the same
            self.store.note_event(MISSED, part.source, text, self._registered_product(part))

    def _registered_product(self, part: Part) -> int | None:
        """Return the number of a part's product or entry; None where it is not registered any more."""
        is_registered = any(part.product_id in numbers.values() for numbers in self._products)
        return part.product_id if is_registered else None

    def failure(self) -> str | None:
        """Return why the last part could not be inspected, for some seconds after it failed.

        None: the last part was inspected, or the part itself was the cause.
        """
        failure = self._failure
        return failure.reason if time.monotonic() < failure.until else None

    def backlog(self, product_id: int | None = None) -> int:
        """Return the number of parts that are not answered yet, of a product or of all (None)."""
        return self.intake.backlog(product_id)

    def end_soon(self) -> None:
        """Take no more parts; those not answered within `END_SECONDS` fail."""
        with self.intake.changed:
            if self.intake.is_ending:
                return
            self.intake.is_ending = True
            self._ends_at = time.monotonic() + END_SECONDS
        threading.Thread(target=self._end_waiting, name="end", daemon=True).start()

    def _end_waiting(self) -> None:
        """Wait until all parts are answered, `END_SECONDS` at most, and fail those that are left then."""
        self.intake.wait_idle(max(0.0, self._ends_at - time.monotonic()))
        if self.backlog():
            self._ends_at = 0.0
            self.end_overdue()

    def close(self) -> None:
        """Take no more parts; return when all are answered, or have failed."""
        self.end_soon()
        self.judge.begin_end()
        self._end_waiting()
        self.judge.end(FAILED_SECONDS)

    def close_pools(self) -> None:
        """Fail the parts that the recorder has not answered, and wait for the pools' calls to end.

        The wait is `FAILED_SECONDS` at most. The pools end only now, because observers of the last parts use
        them.
        """
        for ticket in self.intake.tickets():
            self._give_up(ticket, EndingError())
        joining = threading.Thread(target=self._join_pools, daemon=True)
        joining.start()
        joining.join(FAILED_SECONDS)
        self.has_ended = not joining.is_alive()

    def _join_pools(self) -> None:
        for pool in (self._pool, self._beside, self._requests):
            pool.shutdown(cancel_futures=True)
