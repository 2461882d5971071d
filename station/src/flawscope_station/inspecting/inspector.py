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
from typing import ParamSpec, TypeVar

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

# seconds after a failure for which nothing can be inspected, unless a part is; the store is checked, too
FAILING_SECONDS = 60.0
STORE_FAILING_SECONDS = 5.0
END_SECONDS = 20.0  # in which parts may still be answered when the station ends
FAILED_SECONDS = 5.0  # in which threads may end whose parts have failed
RECORDING_SECONDS = 30.0  # for which the recorder may hold a part: longer than the store takes to fail
REQUEST_SECONDS = 15.0  # that a request waits for what it asks the store, where its deadline is not earlier
# after which a thread that checks or asks is told to hang
UPLOAD_SECONDS = 60.0
REQUEST_PATIENCE = 30.0


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
        has_ended: Whether all threads have ended, for which the process would wait.
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
        self._failure = 0.0, ""  # until when parts fail, and why, unless one is inspected before
        self._ends_at = math.inf  # when all fail that are not answered
        cores = os.cpu_count() or 1
        self._beside = WatchedPool(min(4, cores), "beside", STUCK_SECONDS + limits.wait)
        self._pool = WatchedPool(min(8, 2 + cores), "upload", UPLOAD_SECONDS)
        self._requests = WatchedPool(min(8, 2 + cores), "request", REQUEST_PATIENCE)
        judge.start(self.intake.backlog)

    # ---- taking

    def submit(self, part: Part) -> Waiter:
        """Take a part; its waiter gets the inspection when that is on the disk.

        The waiter may get an error instead: InputError where a picture cannot be read, KeyUsedError,
        ModelError, StoreError, LateError, OverdueError, or EndingError. The call itself raises the errors of
        `Intake.take`.
        """
        return self.submit_all([part])[0]

    def submit_all(self, parts: Sequence[Part]) -> list[Waiter]:
        """Take the parts of a request, all or none; errors are those of `submit`."""
        waiters, taken = self.intake.take(parts, self._end)
        for ticket in taken:
            self._run(self._pool, ticket, self._read)
        return waiters

    def abandon(self, waiter: Waiter) -> LateError | None:
        """Let a waiter leave whose deadline has passed.

        Where nobody else waits for the part, its place is free again; a part that is being judged gets the
        reason into its record.

        Returns:
            The error for the sender; None: the answer is there already.
        """
        error = LateError("its deadline has passed")
        ticket = waiter.ticket
        with self.intake.changed:  # nobody joins meanwhile
            if not waiter.leave(LATE):
                return None
            self.intake.note_late(ticket.part.product_id)
            if ticket.unanswered is not None and self.judge.remove(ticket):
                ticket.fail(error)
        return error

    def _run(self, pool: WatchedPool, ticket: Ticket, step: Callable[[Ticket], None]) -> None:
        """Run a step of a part in a pool; any error of the step ends the part."""

        def run() -> None:
            if ticket.has_ended:  # a pool that could start no thread runs it all the same, later
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
        """Check and queue a part, then write its files while it waits. Runs in a thread of the pool."""
        part = ticket.part
        views = list[View]()
        memory = 0
        for picture in part.pictures:
            suffix, about = check_picture(picture.data, picture.name, self.limits)
            views.append(View(picture, suffix, decoding.HashedPicture(picture.data)))
            memory += decoding_bytes(about)
        if len(views) > 1 and memory > self.memory.limit:
            raise TooLargeError(
                f"the {len(views)} pictures of part {part.name} take {memory / 1e9:.1f} GB while they "
                f"are decoded, {self.memory.limit / 1e9:.1f} GB are allowed: make them smaller, or raise "
                "`limits: pixels`"
            )
        if not ticket.read(views):
            return
        if memory:
            self._run(self._beside, ticket, partial(self._decode, memory=memory))
        else:
            self.judge.put(ticket)
        for view in views:
            self._keep_file(ticket, view)

    def _keep_file(self, ticket: Ticket, view: View) -> None:
        """Write a picture's file; the recorder waits for it."""
        picture = view.picture
        digest = self.files.keep(PICTURES, picture.data, view.suffix, hold=True, known=picture.hash)
        if not ticket.keep(view, digest):
            self.judge.recorder.add(ticket)

    def _decode(self, ticket: Ticket, memory: int) -> None:
        """Decode a part's pictures, with memory claimed for all at once, and queue the part.

        Runs in a thread for large pictures.
        """
        if not self.memory.acquire(memory, is_over=lambda: ticket.has_ended):
            return
        if not ticket.claim(memory):
            self.memory.release(memory)
            return
        if ticket.due_at > time.monotonic():
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
        if ticket.files and ticket.state is State.FAILED:
            self.judge.recorder.add(ticket)
        if self.intake.is_ending:
            self.judge.wake()

    def _note_outcome(self, ticket: Ticket, outcome: Outcome) -> None:
        """Note an outcome for the station's state: why parts fail, and how many a second are answered."""
        product_id = ticket.part.product_id
        at = time.monotonic()
        if isinstance(outcome, RecordedInspection):
            product_id = outcome.inspection.product_id
            self._failure = 0.0, ""
        elif isinstance(outcome, LateError):
            self.intake.note_late(product_id)
        elif isinstance(outcome, StoreError):
            self._failure = at + STORE_FAILING_SECONDS, str(outcome)
        elif isinstance(outcome, ModelError | OverdueError) or not isinstance(outcome, FlawscopeError):
            self._failure = at + FAILING_SECONDS, message_with_type(outcome)
        self.intake.note_answer(product_id)

    def _release(self, ticket: Ticket) -> None:
        """Give back the place and the memory of a part, once."""
        if self.intake.release(ticket) and ticket.memory:
            self.memory.release(ticket.memory)

    # ---- requests

    async def in_thread(self, due: float, function: Callable[P, T], *args: P.args, **given: P.kwargs) -> T:
        """Run a function of a request for an inspection in a thread; it may ask the store.

        Its threads are its own: requests of other kinds may take all threads of the server.

        Args:
            due: Deadline of the request, as `time.monotonic` counts.
            function: Function to run.
            *args: Arguments of the function.
            **given: Keyword arguments of the function.

        Returns:
            The function's result.

        Raises:
            LateError: the deadline has passed.
            StoreError: the function has not returned for `REQUEST_SECONDS`: the store hangs.
        """
        running = asyncio.wrap_future(self._requests.submit(function, *args, **given))
        running.add_done_callback(lambda done: done.cancelled() or done.exception())  # where nobody waits
        seconds = min(due - time.monotonic(), REQUEST_SECONDS)
        done, _ = await asyncio.wait([running], timeout=max(0.0, seconds))
        if done:
            try:
                return running.result()
            finally:  # an error holds this frame: it must not hold the error in turn
                del running, done
        running.cancel()  # it is not begun where it still waits for a thread
        if due <= time.monotonic():
            raise LateError("the store did not answer before")
        raise silent_error("the store", REQUEST_SECONDS)

    @property
    def threads(self) -> list[GuardedThread]:
        """Calls of the pools, for the thread watch."""
        return [self._beside.calls, self._pool.calls, self._requests.calls]

    def run_beside(self, function: Callable[P, T], *args: P.args, **given: P.kwargs) -> Future[T]:
        """Run a function that is not urgent, beside the parts, in the pool that decodes large pictures.

        It must not wait for another function that runs here. It may have to wait until other pictures are
        judged.
        """
        return self._beside.submit(function, *args, **given)

    # ---- how it goes

    def end_overdue(self) -> None:
        """Fail the parts that have waited too long: their places and memory are free, and an event says so.

        Parts that are being recorded belong to the recorder for as long as a transaction may take.
        """
        at = time.monotonic()
        is_over = time.monotonic() >= self._ends_at
        for ticket in self.intake.tickets():
            if ticket.is_recording(RECORDING_SECONDS):
                continue
            if not is_over and at - ticket.since < self.limits.wait:
                continue
            self.judge.remove(ticket)
            if not self._give_up(ticket, EndingError() if is_over else OverdueError(self.limits.wait)):
                continue
            text = f"part {ticket.part.name}: "
            text += "the station ended" if is_over else "it was not answered in time"
            with suppress(RuntimeError):  # the station has ended
                self._beside.submit(self._note_missed, ticket.part, text)

    def _give_up(self, ticket: Ticket, error: FlawscopeError) -> bool:
        """Let all waiters of a part leave, and free its place, even where the part is still being recorded.

        Returns:
            False where the waiters are just getting their answer.
        """
        is_given_up = ticket.give_up(error)
        if is_given_up and not ticket.has_ended:
            self._note_outcome(ticket, error)
        self._release(ticket)
        return is_given_up

    def _note_missed(self, part: Part, text: str) -> None:
        with suppress(Exception):  # a store that is away: its sender knows
            self.store.note_event(MISSED, part.source, text, self._known_product(part))

    def _known_product(self, part: Part) -> int | None:
        is_known = any(part.product_id in numbers.values() for numbers in self._products)
        return part.product_id if is_known else None

    def failure(self) -> str | None:
        """Return why the last part could not be inspected, for some seconds after it failed.

        None where it could be inspected, or the fault was its own.
        """
        until, why = self._failure
        return why if time.monotonic() < until else None

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
        """Wait until the work beside the parts is done, for a few seconds at most.

        Observers of the last parts still need it. Parts that the recorder has not answered fail.
        """
        for ticket in self.intake.tickets():
            self._give_up(ticket, EndingError())
        ends = threading.Thread(target=self._join_pools, daemon=True)
        ends.start()
        ends.join(FAILED_SECONDS)
        self.has_ended = not ends.is_alive()

    def _join_pools(self) -> None:
        for pool in (self._pool, self._beside, self._requests):
            pool.shutdown(cancel_futures=True)
