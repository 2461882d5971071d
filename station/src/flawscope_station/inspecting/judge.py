"""Judging of parts: they wait for the model in a queue in which products take turns."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import NamedTuple, TypeVar

from flawscope import Prediction
from flawscope.errors import FlawscopeError, InputError, message_with_type
from flawscope.pictures import PictureSource
from flawscope.predictor import PartCollector
from flawscope_station.inspecting.interlock import Interlocks
from flawscope_station.inspecting.memory import BusyError, without_traceback
from flawscope_station.inspecting.part_views import PartsCache
from flawscope_station.inspecting.picture import with_views
from flawscope_station.inspecting.queues import FairQueue
from flawscope_station.inspecting.record import DecidedPart, new_inspection
from flawscope_station.inspecting.recorder import Recorder
from flawscope_station.inspecting.ticket import LateError, ModelError, State, Ticket, View
from flawscope_station.inspecting.tolerances import ProductTolerances
from flawscope_station.monitoring.background import GuardedThread
from flawscope_station.store.insert import NewInspection
from flawscope_station.store.model_registry import ModelRegistry
from flawscope_station.store.open_models import AddressModel, Model, ProductModel

T = TypeVar("T")

MAX_PICTURES_PER_TURN = 64  # pictures of one product, at most, before the active model is looked up again
MAX_MODEL_CALLS = 8  # that wait until no part does: further ones are refused


class _Judged(NamedTuple):
    """Part on which a version has decided.

    Attributes:
        product: Product with the version that judged.
        views: Pictures of the part.
        found: Prediction of each picture.
        decided: Decision on several views; None: the part has a single picture.
        rate: False-alarm rate of such decisions.
    """

    product: ProductModel
    views: Sequence[View]
    found: Sequence[Prediction]
    decided: DecidedPart | None = None
    rate: float = 0.0


class Judge:
    """Judges parts in the order in which they came, and hands them to the recorder.

    Args:
        versions: Versions with their models.
        recorder: Gets the judged parts.
        interlocks: May hold answers back.
        near: Setting `near`.
        tolerances: Rules that are applied to predictions.
        report_error: Gets an error of the model; "" when it works again.
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
        self.versions = versions
        self.recorder = recorder
        self.interlocks = interlocks
        self.near = near
        self.tolerances = tolerances
        self.report_error = report_error
        self.parts = PartsCache(versions)
        self._queue: FairQueue[Ticket] = FairQueue()
        self._model_calls: deque[Callable[[], None]] = deque()
        self._changed = threading.Condition()
        self._ending, self._ended = False, threading.Event()
        self._has_failed = False  # the model, and no part has been judged since
        self.threads = [GuardedThread("judge", self._work, self._ended, queue=self._queue)]

    def start(self, backlog: Callable[[], int]) -> None:
        """Start the thread.

        Args:
            backlog: Returns the number of unanswered parts; those that do not wait here yet will come.
        """
        self._backlog = backlog
        self.threads[0].start()

    def put(self, ticket: Ticket) -> None:
        """Queue a part whose pictures were read."""
        with self._changed:
            if ticket.queue():
                self._queue.put(ticket.part.product_id, ticket)
                self._changed.notify_all()

    def remove(self, ticket: Ticket) -> bool:
        """Take a part from the queue; return False where it does not wait."""
        with self._changed:
            return bool(self._queue.remove(lambda waiting: waiting is ticket))

    def expected_delay(self, product_id: int, unanswered: Counter[int]) -> float:
        """Return the seconds until a further part is judged; 0 where no part waits: then it is not known."""
        with self._changed:
            return self._queue.expected_delay(product_id, unanswered)

    def wake(self) -> None:
        """Wake the thread, to see whether it may end."""
        with self._changed:
            self._changed.notify_all()

    def begin_end(self) -> None:
        """Let the thread end when all parts are answered."""
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
        """Judge the waiting parts; return False at the end. It holds no ticket while it waits for more."""
        first = self._next_ticket()
        if first is None:
            return False
        turns = deque([[first]])
        failure = ""
        while turns:
            tickets = turns.popleft()
            try:
                self._judge(tickets, feed=not failure)
            except BaseException as error:  # some engines' errors are no Exception
                failure = f"the model failed: {message_with_type(error)}"
                cause = without_traceback(error) if isinstance(error, FlawscopeError) else ModelError(failure)
                left = [ticket for ticket in tickets if ticket.state is State.QUEUED]
                if len(left) > 1:  # an error of one does not harm the others
                    turns.extend([ticket] for ticket in left)
                elif left:
                    left[0].fail(cause)
        if failure:
            self._has_failed = True
            self.report_error(failure)
        return True

    def _next_ticket(self) -> Ticket | None:
        """Return the oldest part that is in time; None at the end.

        While no part waits, run the functions of `run_between`, and look for a part after each.
        """
        while True:
            with self._changed:
                self._queue.rest()
                if not self._wait_for_work():
                    return None
                ticket = self._queue.pop() if self._queue else None
                call = self._model_calls.popleft() if ticket is None else None
            if call is not None:
                with self.threads[0].call():
                    call()
            elif ticket is not None and self._is_in_time(ticket):
                return ticket

    def _wait_for_work(self) -> bool:
        """Wait for a part or a function; return False at the end. The caller holds the lock."""
        while not self._queue and not self._model_calls:
            if self._ending and not self._backlog():
                return False
            self._changed.wait(0.5)
        return True

    def _is_in_time(self, ticket: Ticket) -> bool:
        if ticket.has_ended:  # the part waited too long
            return False
        if ticket.due_at > time.monotonic():
            return True
        ticket.fail(LateError("others were before it"))
        return False

    def run_between(self, function: Callable[[], T]) -> Future[T]:
        """Run a function that uses a model when no part waits: most engines cannot do two things at once.

        Cancelling the future in time keeps the function from running.

        Raises:
            BusyError: too many functions wait.
        """
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

    def _judge(self, tickets: list[Ticket], *, feed: bool) -> None:
        """Judge parts of the same address together.

        Where `feed` is set, parts of the address that come meanwhile are judged, too, and appended to
        `tickets`. From here on the product of an entry's parts is known.
        """
        address = tickets[0].part.product_id
        begun = time.monotonic()
        works = False
        judging = self.versions.models.active[address]
        fed = list[tuple[Ticket, View]]()
        results = judging.model.stream(
            self._feed(tickets, judging.model, fed, MAX_PICTURES_PER_TURN if feed else 1)
        )
        for number, (_, result) in enumerate(results):
            works |= self._take_result(*fed[number], result, judging)
            self._queue.go_on()  # the model, or an interlock, may hang on the next
        with self._changed:
            self._queue.add_time(address, (time.monotonic() - begun) / len(tickets))
        if works and self._has_failed:
            self._has_failed = False
            self.report_error("")

    def _take_result(
        self, ticket: Ticket, view: View, result: Prediction | InputError, judging: AddressModel
    ) -> bool:
        """Keep the prediction of a picture, and decide on its part after the last one.

        Returns:
            Whether the model works: True where it made the prediction of a part that has not ended.
        """
        if ticket.has_ended:
            return False
        if isinstance(result, InputError):
            ticket.fail(view.picture.decoding_error(without_traceback(result)))
            return False
        view.found = result
        if all(ticket_view.found is not None for ticket_view in ticket.views):
            self._finish(ticket, judging)
        return True

    def _finish(self, ticket: Ticket, judging: AddressModel) -> None:
        """Decide on a part whose pictures are judged, and hand it to the recorder."""
        try:
            record, found = self._decide(ticket, judging)
            record = self.interlocks.release(ticket.part, record)
            if ticket.judge(record, found):
                self.recorder.add(ticket)
        except Exception as error:  # another version judges than when the part came, or it is damaged
            ticket.fail(without_traceback(error))

    def _decide(self, ticket: Ticket, judging: AddressModel) -> tuple[NewInspection, tuple[Prediction, ...]]:
        """Return the record of a judged part, and the predictions of its pictures."""
        found = [view.found for view in ticket.views if view.found is not None]
        parts = self.parts.for_address(ticket.part.product_id)
        if parts is not None:
            judged = self._decide_on_views(ticket, judging, parts, found)
        elif len(found) > 1:
            raise BusyError(1.0, "another kind of model began to judge")
        else:
            product = _matching_product(judging, found[0])
            (judged_by,) = product.model.products.values()
            rate = judged_by.calibration.expected_rate
            judged = _Judged(product, ticket.views, found, rate=rate)
        applied = []
        for view, prediction in zip(judged.views, judged.found, strict=True):
            applied.append(self.tolerances.apply(judged.product, prediction, view.picture.view))
        tolerated, (_, rules) = [rule for rule, _ in applied], applied[0]
        record = new_inspection(
            ticket, judged.views, judged.product, tolerated, self.near, judged.decided, judged.rate, rules
        )
        return record, tuple(tolerated)

    def _decide_on_views(
        self, ticket: Ticket, judging: AddressModel, parts: PartCollector, found: Sequence[Prediction]
    ) -> _Judged:
        """Decide on a part by the predictions of its views, as its product's version decides."""
        ticket.part = with_views(ticket.part, parts)  # another version may judge than when it came
        for view, picture in zip(ticket.views, ticket.part.pictures, strict=True):
            view.picture = picture
        view_of = {str(view.picture.view): view for view in ticket.views}
        said = dict(zip(view_of, found, strict=True))
        data = {name: view.picture.data for name, view in view_of.items()}
        decided = parts.decide(str(ticket.part.number), said, data)
        product = _matching_product(judging, decided.views[decided.worst])
        known_parts = self.parts.for_version(product.product_id, product.number, product.model.facts)
        assert known_parts is not None, "of a joint model all products have views, or none"
        names = sorted(view_of, key=list(known_parts.calibration.views).index)
        predictions = [decided.views.get(name, said[name]) for name in names]
        views = [view_of[name] for name in names]
        return _Judged(product, views, predictions, decided, known_parts.calibration.expected_rate)

    def _feed(
        self, tickets: list[Ticket], model: Model, fed: list[tuple[Ticket, View]], most: int
    ) -> Iterator[PictureSource]:
        """Yield pictures while others are computed: they are decoded meanwhile, a part's pictures in a row.

        It ends when no part waits, when it is another product's turn, and after `most` pictures: another
        model may be active by then.
        """
        for ticket in tickets:  # which grow
            ticket.begun_at = time.monotonic()
            for view in ticket.views:
                if ticket.has_ended:  # of another picture
                    break
                view.found = None
                fed.append((ticket, view))
                yield view.model_input(model)
            while len(fed) < most and ticket is tickets[-1]:
                with self._changed:
                    following = self._queue.pop_same_turn(tickets[0].part.product_id, len(tickets))
                if following is None:
                    return
                if self._is_in_time(following):
                    tickets.append(following)


def _matching_product(judging: AddressModel, result: Prediction) -> ProductModel:
    """Return the product that a picture shows, or resembles most."""
    return judging.products["" if result.recognition is None else result.recognition.nearest]
