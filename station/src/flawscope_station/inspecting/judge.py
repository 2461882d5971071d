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
MAX_MODEL_CALLS = 8  # functions that may wait until no part waits; further ones are refused


class _Judged(NamedTuple):
    """Part on which a version has decided.

    Attributes:
        product: Product with the version that judged.
        views: Pictures of the part.
        predictions: Prediction of each picture.
        decided: Decision on several views; None: the part has a single picture.
        rate: False-alarm rate of such decisions.
    """

    product: ProductModel
    views: Sequence[View]
    predictions: Sequence[Prediction]
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
        self._is_ending = False
        self._ended = threading.Event()
        self._has_failed = False  # whether the model failed, and has judged no part since
        self.threads = [GuardedThread("judge", self._work, self._ended, queue=self._queue)]

    def start(self, backlog: Callable[[], int]) -> None:
        """Start the thread.

        Args:
            backlog: Returns the number of unanswered parts. The thread does not end before it is 0.
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
        """Estimate the seconds until one more part is judged; 0: no part waits.

        Args:
            product_id: Number of the further part's product.
            unanswered: Number of unanswered parts, by product.
        """
        with self._changed:
            return self._queue.expected_delay(product_id, unanswered)

    def wake(self) -> None:
        """Wake the thread, to see whether it may end."""
        with self._changed:
            self._changed.notify_all()

    def begin_end(self) -> None:
        """Let the thread end when all parts are answered."""
        with self._changed:
            self._is_ending = True
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
        """Judge the waiting parts; return False when the thread is to end.

        This is a separate function, so that no local variable keeps a ticket while the thread waits.
        """
        first = self._next_ticket()
        if first is None:
            return False
        batches = deque([[first]])
        failure = ""
        while batches:
            tickets = batches.popleft()
            try:
                # `_judge` appends further waiting parts to `tickets` as long as no part has failed
                self._judge(tickets, takes_more=not failure)
            except BaseException as error:  # some engines' errors are no Exception
                failure = f"the model failed: {message_with_type(error)}"
                cause = without_traceback(error) if isinstance(error, FlawscopeError) else ModelError(failure)
                unjudged_tickets = [ticket for ticket in tickets if ticket.state is State.QUEUED]
                if len(unjudged_tickets) > 1:  # one part may have caused the error: judge each by itself
                    batches.extend([ticket] for ticket in unjudged_tickets)
                elif unjudged_tickets:
                    unjudged_tickets[0].fail(cause)
        if failure:
            self._has_failed = True
            self.report_error(failure)
        return True

    def _next_ticket(self) -> Ticket | None:
        """Return the next part that is in time; None: the thread is to end.

        While no part waits, run the functions of `run_between`, and look for a part after each of them.
        """
        while True:
            with self._changed:
                self._queue.rest()
                if not self._wait_for_work():
                    return None
                ticket = None
                model_call = None
                if self._queue:
                    ticket = self._queue.pop()
                else:
                    model_call = self._model_calls.popleft()
            if model_call is not None:
                with self.threads[0].call():
                    model_call()
            elif ticket is not None and self._is_in_time(ticket):
                return ticket

    def _wait_for_work(self) -> bool:
        """Wait for a part or a function; return False at the end. The caller holds the lock."""
        while not self._queue and not self._model_calls:
            if self._is_ending and not self._backlog():
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
        """Run a function that uses a model, in the judge's thread, as soon as no part waits.

        Most engines cannot do two things at once. A function whose future is cancelled in time does not run.

        Raises:
            BusyError: Too many functions wait.
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
            if self._is_ending or len(self._model_calls) >= MAX_MODEL_CALLS:
                raise BusyError(1.0, "the model is busy")
            self._model_calls.append(run)
            self._changed.notify_all()
        answer.add_done_callback(lambda done: self._forget_cancelled(done, run))
        return answer

    def _forget_cancelled(self, answer: Future[T], run: Callable[[], None]) -> None:
        """Free the place of a function whose answer was cancelled."""
        if answer.cancelled():
            with self._changed, suppress(ValueError):  # the function began before it was cancelled
                self._model_calls.remove(run)

    def _judge(self, tickets: list[Ticket], *, takes_more: bool) -> None:
        """Judge parts of the same address together.

        Args:
            tickets: Parts to judge. With `takes_more`, further waiting parts of the address are appended.
            takes_more: Whether further waiting parts of the address are judged, too.
        """
        address = tickets[0].part.product_id
        started_at = time.monotonic()
        is_working = False
        judging = self.versions.models.active[address]
        fed_pictures = list[tuple[Ticket, View]]()
        max_pictures = MAX_PICTURES_PER_TURN if takes_more else 1  # 1: no further part is taken
        results = judging.model.stream(self._feed(tickets, judging.model, fed_pictures, max_pictures))
        for place, (_, result) in enumerate(results):
            ticket, view = fed_pictures[place]  # `_feed` has appended it: results come in the same order
            is_working |= self._take_result(ticket, view, result, judging)
            self._queue.go_on()  # notes after each picture that neither the model nor an interlock hangs
        with self._changed:
            self._queue.add_time(address, (time.monotonic() - started_at) / len(tickets))
        if is_working and self._has_failed:
            self._has_failed = False
            self.report_error("")

    def _take_result(
        self, ticket: Ticket, view: View, result: Prediction | InputError, judging: AddressModel
    ) -> bool:
        """Keep the prediction of a picture; after the last picture of a part, decide on the part.

        Returns:
            Whether the prediction was kept, which shows that the model works.
        """
        if ticket.has_ended:
            return False
        if isinstance(result, InputError):
            ticket.fail(view.picture.decoding_error(without_traceback(result)))
            return False
        view.prediction = result
        if all(ticket_view.prediction is not None for ticket_view in ticket.views):
            self._finish(ticket, judging)
        return True

    def _finish(self, ticket: Ticket, judging: AddressModel) -> None:
        """Decide on a part whose pictures are judged, and hand it to the recorder."""
        try:
            record, predictions = self._decide(ticket, judging)
            record = self.interlocks.release(ticket.part, record)
            if ticket.judge(record, predictions):  # False: it has ended meanwhile
                self.recorder.add(ticket)
        except Exception as error:  # the version changed since the part came, or is damaged
            ticket.fail(without_traceback(error))

    def _decide(self, ticket: Ticket, judging: AddressModel) -> tuple[NewInspection, tuple[Prediction, ...]]:
        """Return the record of a judged part, and the predictions of its pictures."""
        predictions = [view.prediction for view in ticket.views if view.prediction is not None]
        parts = self.parts.for_address(ticket.part.product_id)
        if parts is not None:
            judged = self._decide_on_views(ticket, judging, parts, predictions)
        elif len(predictions) > 1:
            raise BusyError(1.0, "another kind of model began to judge")
        else:
            product = _matching_product(judging, predictions[0])
            (predictor,) = product.model.products.values()
            rate = predictor.calibration.expected_rate
            judged = _Judged(product, ticket.views, predictions, rate=rate)
        applied = []  # for each picture its prediction, tolerated or not, and the rules
        for view, prediction in zip(judged.views, judged.predictions, strict=True):
            applied.append(self.tolerances.apply(judged.product, prediction, view.picture.view))
        tolerated_predictions = [tolerated for tolerated, _ in applied]
        _, rules = applied[0]  # the rules applied to the first picture are recorded
        record = new_inspection(
            ticket,
            judged.views,
            judged.product,
            tolerated_predictions,
            near=self.near,
            decided=judged.decided,
            rate=judged.rate,
            tolerances=rules,
        )
        return record, tuple(tolerated_predictions)

    def _decide_on_views(
        self, ticket: Ticket, judging: AddressModel, parts: PartCollector, predictions: Sequence[Prediction]
    ) -> _Judged:
        """Decide on a part in several views, from the predictions of the views.

        Args:
            ticket: Ticket of the part; its pictures get their views.
            judging: Model that judged, with its products.
            parts: Collector that decides; it belongs to the product's version, or to the joint model.
            predictions: Prediction of each picture, in the order of the ticket's views.
        """
        ticket.part = with_views(ticket.part, parts)  # the version may have changed since the part came
        for view, picture in zip(ticket.views, ticket.part.pictures, strict=True):
            view.picture = picture
        view_by_name = {str(view.picture.view): view for view in ticket.views}
        prediction_by_name = dict(zip(view_by_name, predictions, strict=True))
        data_by_name = {name: view.picture.data for name, view in view_by_name.items()}
        decided = parts.decide(str(ticket.part.number), prediction_by_name, data_by_name)
        product = _matching_product(judging, decided.views[decided.worst])
        product_parts = self.parts.for_version(product.product_id, product.number, product.model.facts)
        assert product_parts is not None, "either all products of a joint model have views, or none has"
        model_views = list(product_parts.calibration.views)
        ordered_names = sorted(view_by_name, key=model_views.index)
        # the decision may have changed the prediction of a view
        ordered_predictions = [decided.views.get(name, prediction_by_name[name]) for name in ordered_names]
        views = [view_by_name[name] for name in ordered_names]
        return _Judged(product, views, ordered_predictions, decided, product_parts.calibration.expected_rate)

    def _feed(
        self, tickets: list[Ticket], model: Model, fed_pictures: list[tuple[Ticket, View]], max_pictures: int
    ) -> Iterator[PictureSource]:
        """Yield the pictures of parts, part by part; later pictures are decoded while the model computes.

        After `tickets`, take further parts of the product from the queue, until none waits, it is another
        product's turn, or `max_pictures` pictures were yielded. The maximum lets the caller look up again
        which model is active.

        Args:
            tickets: Parts to judge; the further parts are appended.
            model: Model that judges.
            fed_pictures: List to which each yielded picture is appended, with its part.
            max_pictures: Number of pictures after which no further part is taken.
        """
        for ticket in tickets:  # the list grows below
            ticket.begun_at = time.monotonic()
            for view in ticket.views:
                if ticket.has_ended:  # another picture of the part could not be judged
                    break
                view.prediction = None
                fed_pictures.append((ticket, view))
                yield view.model_input(model)
            # after the last part of the list, look for another one; a part that is late is passed over
            while len(fed_pictures) < max_pictures and ticket is tickets[-1]:
                with self._changed:
                    following = self._queue.pop_same_turn(
                        tickets[0].part.product_id, taken_count=len(tickets)
                    )
                if following is None:
                    return
                if self._is_in_time(following):
                    tickets.append(following)


def _matching_product(judging: AddressModel, result: Prediction) -> ProductModel:
    """Return the product that a picture shows, or resembles most."""
    name = "" if result.recognition is None else result.recognition.nearest
    return judging.products[name]
