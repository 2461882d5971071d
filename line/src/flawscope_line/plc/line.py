"""Line of a PLC: its handshake, and the station that inspects for it.

A thread with an event loop of its own runs the handshake over a transport; no inspection, request or page
waits for it.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from typing import Protocol

from flawscope.errors import FlawscopeError, InputError, message_with_type, one_line_message
from flawscope_line.plc.handshake import (
    Answer,
    Code,
    Inputs,
    Kind,
    Observation,
    Outputs,
    Phase,
    RecipeLoaded,
    Rules,
    State,
    outputs,
    step,
)
from flawscope_line.plc.settings import PlcSettings
from flawscope_line.plc.signals import part_number
from flawscope_station.plugins import (
    ANOMALOUS,
    CLOCK,
    LATE,
    WITHDRAWN,
    WITHIN,
    AwayError,
    Backoff,
    BusyError,
    ConnectionContext,
    GuardedThread,
    Label,
    LateError,
    ModelError,
    MonotonicClock,
    NoFrameError,
    NoModelError,
    NotProductionError,
    NotReadyError,
    RecordedInspection,
    RegionFacts,
    StoreError,
    TooLargeError,
    TriggeredSource,
    check_room,
    check_triggers,
    lost_camera,
    make_label,
    shoot,
)

TICK = 0.02  # seconds between two steps, at most
CHECK_INTERVAL = 0.25  # seconds between two checks of queue and models; the camera is looked at always
DOUBT_SECONDS = 1.0  # seconds without Ready after a camera's error, unless it gives a frame before
# seconds before a broken transport is opened anew
MIN_RETRY_DELAY = 0.2
MAX_RETRY_DELAY = 2.0
# seconds before a model that failed to load is tried again
MIN_LOAD_DELAY = 0.25
MAX_LOAD_DELAY = 30.0
STOP_TIMEOUT = 10.0  # seconds
HANGING_SECONDS = 30.0  # seconds without a step after which the line is told to hang
ENDING_OUTPUTS = Outputs(error=True, code=Code.ENDING)

_CODES_OF_ERRORS: tuple[tuple[type[Exception] | tuple[type[Exception], ...], Code], ...] = (
    ((NotReadyError, NotProductionError), Code.NOT_READY),
    (LateError, Code.LATE),
    ((AwayError, NoFrameError), Code.CAMERA),
    ((NoModelError, ModelError), Code.NO_MODEL),
    ((BusyError, StoreError), Code.REFUSED),
    ((InputError, TooLargeError), Code.PICTURE),
)
InputsHandler = Callable[[Inputs | None], Outputs]
TransportFactory = Callable[[InputsHandler], "Transport"]


class TransportError(Exception):
    """Error where the PLC cannot be reached, or the connection is lost."""


class Transport(Protocol):
    """Connection to a PLC by a protocol. All methods are called in the line's event loop.

    Attributes:
        every: Largest time between two exchanges, in seconds.
    """

    every: float

    async def open(self) -> None:
        """Connect, or begin to listen. TransportError where it is not possible."""

    async def exchange(self) -> None:
        """Pass the PLC's inputs to the handler, None where unknown, and write the outputs that it returns.

        Nothing comes in between, and the PLC never reads an answer beside the values of another.

        Raises:
            TransportError: The connection is lost.
        """

    async def close(self) -> None:
        """Close the connection, or stop listening."""


class PlcLine:
    """Connection of a station to one PLC.

    Args:
        name: Name of the protocol.
        context: Services of the station for a connection.
        settings: Settings of the handshake.
        make_transport: Makes the transport, given the handler of the PLC's inputs.
        clock: Clock of all time limits and pauses.

    Attributes:
        number: Number among the station's connections, from 1, which its problems are reported under.

    Raises:
        InputError: The settings name a product or a camera that the station does not have, or a camera that
            does not report the time of an exposure.
    """

    number = 1

    def __init__(
        self,
        name: str,
        context: ConnectionContext,
        settings: PlcSettings,
        make_transport: TransportFactory,
        clock: MonotonicClock = CLOCK,
    ):
        self.name = name
        self.context = context
        self.settings = settings
        self._make_transport = make_transport
        self.clock = clock
        self._loop: asyncio.AbstractEventLoop | None = None  # while it runs
        budgets = {}
        for number, product in settings.recipes.items():
            context.addresses.address_id(product)
            for camera in self._cameras(product):
                check_triggers(camera)
            deadline = context.deadline(product)
            budgets[number] = settings.deadline_seconds if deadline is None else deadline
        self.rules = Rules(budgets, settings.watchdog_seconds)
        self._first = context.addresses.address_id(next(iter(settings.recipes.values())))
        self.state = State(now=self.clock.monotonic())
        self._error: tuple[int, Exception] = 0, FlawscopeError()  # of the last job that failed
        self._events: deque[Answer | RecipeLoaded] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._inspecting: asyncio.Task[None] | None = None  # of the last trigger
        # of queue and models
        self._fault = Code.NONE
        self._last_check = 0.0
        self._doubt: tuple[list[int | None], float] = (
            [],
            0.0,
        )  # last frames at a camera's error, and until when
        self._link_error: str | None = None  # since the last exchange
        self._is_loading = False
        self._load_due = 0.0
        self._load_backoff = Backoff(MIN_LOAD_DELAY, MAX_LOAD_DELAY)
        self._trigger_time: float | None = None  # of the part that is not answered yet
        self._ended = threading.Event()
        self.threads = [GuardedThread(name, self._run_loop, self._ended, clock)]

    def start(self) -> None:
        """Start the thread that runs the handshake."""
        self.threads[0].start()

    def stop(self) -> None:
        """End the handshake: the PLC reads Error with `Code.ENDING`; waits `STOP_TIMEOUT` for the thread."""
        self._ended.set()
        self._wake()
        self.threads[0].join(STOP_TIMEOUT)

    def _cameras(self, product: str) -> Sequence[TriggeredSource]:
        owner = self.settings.camera_product(product)
        found = self.context.cameras(product, self.settings.camera_number, owner)
        for camera in found:
            camera.state.listeners.add(self._wake)  # Ready falls with the camera, not a tick later
        return found

    def _wake(self) -> None:
        """Exchange signals at once; may be called from any thread."""
        with suppress(RuntimeError):  # the loop has ended
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._changed.set)

    # ---- the loop

    def _run_loop(self) -> None:
        """Run the event loop, whose steps are watched: a step that waits stops the whole line."""
        with self.threads[0].call(HANGING_SECONDS):
            asyncio.run(self._run())

    async def _run(self) -> None:
        """Exchange signals over a transport, which is opened anew after a failure, until the end."""
        self._changed, backoff = asyncio.Event(), Backoff(MIN_RETRY_DELAY, MAX_RETRY_DELAY)
        self._loop = asyncio.get_running_loop()
        # of a loop that failed
        self._tasks = set()
        self._is_loading = False
        while not self._ended.is_set():
            transport = self._make_transport(self.handle_inputs)
            try:
                await transport.open()
                backoff.reset()
                while not self._ended.is_set():
                    await self._exchange(transport)
                await transport.exchange()
            except Exception as error:
                text = (
                    one_line_message(error) if isinstance(error, TransportError) else message_with_type(error)
                )
                self._link_error = f"{text}; it is tried again by itself"
                self._report_link()
            finally:
                with suppress(Exception):
                    await transport.close()
            until = self.clock.monotonic() + backoff.next()
            while self.clock.monotonic() < until and not self._ended.is_set():
                self.handle_inputs(None)
                await asyncio.sleep(TICK)
        for task in self._tasks:
            task.cancel()

    async def _exchange(self, transport: Transport) -> None:
        """Exchange signals, and wait for a change or the next exchange."""
        self._changed.clear()
        await transport.exchange()
        if self._link_error is not None:  # also after a break that no watchdog noticed
            self._link_error = None
            self._report_link()
        state = self.state
        if state.phase is Phase.DONE and state.answer is not None and self._trigger_time is not None:
            self._note_time(state.answer, self.clock.monotonic() - self._trigger_time)
            self._trigger_time = None
        left = state.due - self.clock.monotonic() if state.phase is Phase.BUSY else TICK
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, min(transport.every, TICK, left))):
                await self._changed.wait()

    def _note_time(self, answer: Answer, seconds: float) -> None:
        """Note the time from a trigger to its answer.

        Parts that were not judged are passed over, unless the answer came too late: a part that was refused
        at once, or that the camera did not show, does not tell how fast parts are judged.
        """
        is_late = answer.code is Code.LATE
        if answer.good is None and not is_late:
            return
        recipe = self.state.triggered.recipe
        product = self.settings.recipes[recipe]
        budget = self.rules.budgets[recipe]
        self.context.timing.note(product, seconds, missed=is_late, budget=budget)

    def handle_inputs(self, plc: Inputs | None) -> Outputs:
        """Step the handshake, begin the inspections and loads that it requests, and return the outputs."""
        self.threads[0].go_on()
        if self._ended.is_set():
            return ENDING_OUTPUTS
        self._check_readiness()
        while True:
            event = self._events.popleft() if self._events else None
            before = self.state
            answer, loaded = (event, None) if isinstance(event, Answer) else (None, event)
            if answer is not None and answer.code is Code.CAMERA:
                self._doubt_camera()
            fault = self._camera_fault() or self._fault
            observation = Observation(self.clock.monotonic(), plc, answer, loaded, fault)
            self.state = state = step(before, observation, self.rules)
            self._follow_step(before, state, answer)
            if not self._events:
                return outputs(state, self.rules)

    def _follow_step(self, before: State, state: State, answer: Answer | None) -> None:
        """Begin the work that a step asks for: inspect, load, and report parts that ended."""
        if state.job != before.job:
            self._trigger_time = state.now
            recipe = self.settings.recipes[state.recipe]
            part = state.triggered.part
            due = state.due
            self._inspecting = self._spawn(self._inspect_part(state.job, recipe, part, due))
        self._note_refusal(before, state)
        self._give_up_answer(before, state, answer)
        if state.phase is Phase.IDLE:
            self._trigger_time = None  # it was withdrawn
        if state.requested_recipe and state.requested_recipe != before.requested_recipe:
            self._load_due = 0.0
            self._load_backoff.reset()
            self._load_if_due()
        if state.is_alive != before.is_alive:
            self._report_link()

    def _give_up_answer(self, before: State, state: State, answer: Answer | None) -> None:
        """Record that the PLC did not get the answer of a part: it withdrew the part, or it came too late.

        The part is recorded already, or will be.
        """
        why = LATE if state.answer is not None and state.answer.code is Code.LATE else WITHDRAWN
        was_busy = before.phase is Phase.BUSY
        is_busy = state.phase is Phase.BUSY
        if was_busy and not is_busy and answer is None and self._inspecting is not None:
            self._inspecting.cancel(why)
        self._mark_unanswered(answer, state, why)  # it just came
        if before.phase is Phase.DONE and state.phase is Phase.DONE:
            self._mark_unanswered(before.answer, state, why)  # the PLC may not have read it

    def _mark_unanswered(self, answer: Answer | None, state: State, why: str) -> None:
        """Record that the PLC did not get an answer, unless it is the present answer."""
        if answer is None or not answer.inspection or state.answer is answer:
            return
        mark = partial(self.context.store.set_unanswered, answer.inspection, why)
        self._spawn(asyncio.to_thread(mark))

    def _note_refusal(self, before: State, state: State) -> None:
        """Report to the pages a part that this step ended without a judgement."""
        code = _code_of_end(before, state)
        product = self.settings.recipes.get(state.triggered.recipe)
        if not code or product is None:
            return
        job, error = self._error
        known = error if job == state.job and error_code(error) is code else None
        word = "" if known else code.name.lower()
        number = _label_of(state.triggered.part).part
        self.context.refusals.note(product, known or FlawscopeError(word), number, word)

    def _report_link(self) -> None:
        """Report whether the PLC is away: its transport is broken, or its heartbeat stood still."""
        was_alive = math.isfinite(self.state.last_beat) or not self.rules.watchdog
        silent = "the PLC's heartbeat stands still" if was_alive and not self.state.is_alive else None
        why = self._link_error or silent
        self.context.report(
            f"plc_away_{self._first}_{self.number}", None if why is None else f"{self.name}: {why}"
        )

    def _spawn(self, work: Coroutine[object, None, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget_task)
        self._changed.set()
        return task

    def _forget_task(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # of a store that is away: the part stays as it was recorded

    def _post_event(self, event: Answer | RecipeLoaded) -> None:
        self._events.append(event)
        self._changed.set()

    # ---- work that a step requests

    async def _inspect_part(self, job: int, product: str, part: str, due: float) -> None:
        """Inspect the part under the camera, and post the answer to the job."""
        try:
            cameras = partial(self._cameras, product)
            found = await shoot(self.context, product, cameras, _label_of(part), due)
            answer = _answer_of_inspection(job, found)
        except Exception as error:
            self._error, answer = (job, error), Answer(job, None, error_code(error))
        self._post_event(answer)

    async def _load_recipe(self, recipe: int) -> None:
        """Open the model of a recipe, unless it is open."""
        try:
            code = await asyncio.to_thread(self._open_model, self.settings.recipes[recipe])
        except Exception:  # no thread can be started
            code = Code.NO_MODEL
        is_wanted = recipe == self.state.requested_recipe
        self._is_loading = False
        self._load_due = self.clock.monotonic() + self._load_backoff.next() if is_wanted else 0.0
        self._post_event(RecipeLoaded(recipe, code))

    def _load_if_due(self) -> None:
        """Load the requested recipe, unless a recipe is being loaded, or it failed a moment ago."""
        if not self._is_loading and self.clock.monotonic() >= self._load_due:
            self._is_loading = True
            self._spawn(self._load_recipe(self.state.requested_recipe))

    def _open_model(self, product: str) -> Code:
        number = self.context.addresses.address_id(product)
        versions = self.context.addresses.versions
        try:
            is_open = number in versions.models.active or versions.resume(number) is not None
        except Exception:
            return Code.NO_MODEL
        return Code.NONE if is_open else Code.NO_MODEL

    def _check_readiness(self) -> None:
        """Check every `CHECK_INTERVAL` whether a picture could be inspected; load a failed model again."""
        state = self.state
        now = self.clock.monotonic()
        if now - self._last_check < CHECK_INTERVAL:
            return
        self._last_check = now
        if (
            state.requested_recipe
            and state.requested_recipe != state.recipe
            and state.phase is not Phase.BUSY
        ):
            self._load_if_due()
        product = self.settings.recipes.get(state.recipe)
        self._fault = Code.NONE if product is None else self._find_fault(product)

    def _doubt_camera(self) -> None:
        """Clear Ready after a camera failed a trigger, until it gives a frame or `DOUBT_SECONDS` are over."""
        if (product := self.settings.recipes.get(self.state.recipe)) is not None:
            last = [camera.state.last for camera in self._cameras(product)]
            self._doubt = last, self.clock.monotonic() + DOUBT_SECONDS

    def _camera_fault(self) -> Code:
        """Return `Code.CAMERA` where the recipe's camera is lost or failed its last trigger, else `NONE`."""
        product, (last, until) = self.settings.recipes.get(self.state.recipe), self._doubt
        if product is None:
            return Code.NONE
        with suppress(Exception):  # it is found anew when its settings have changed
            states = [camera.state for camera in self._cameras(product)]
            in_doubt = self.clock.monotonic() < until and [state.last for state in states] == last
            return Code.CAMERA if in_doubt or lost_camera(states) else Code.NONE
        return Code.CAMERA

    def _find_fault(self, product: str) -> Code:
        try:
            number = None if self.state.plc is None else _label_of(self.state.plc.part).part
            check_room(self.context, product, number=number)
        except Exception as error:  # also of the disk: it says that no picture can be inspected
            return error_code(error)
        return Code.NONE


def _label_of(part: str) -> Label:
    """Return the label for the records of a part, given the PLC's text of its number."""
    return make_label(part_number(part), None)


def _answer_of_inspection(job: int, inspection: RecordedInspection | int) -> Answer:
    """Return the answer to a job from its recorded inspection."""
    assert isinstance(inspection, RecordedInspection), "a trigger of a PLC has no key"
    outcome = inspection.inspection
    decision = outcome.decision
    regions = len(outcome.regions)
    facts = outcome.score, regions, inspection.number, kind_number(outcome.regions), decision == WITHIN
    return Answer(job, decision != ANOMALOUS, Code.NONE, *facts)


def _code_of_end(before: State, state: State) -> Code:
    """Return the code of a part that a step ended without a judgement; NONE: there is no such part."""
    if before.phase is Phase.BUSY and state.phase is Phase.IDLE:
        return Code.WITHDRAWN
    if state.phase is Phase.DONE and state.answer is not None and state.answer is not before.answer:
        return state.answer.code
    return Code.NONE


def kind_number(regions: Sequence[RegionFacts]) -> int:
    """Return the strongest region's kind: from 1 in the order of the model's kinds, or a `Kind`."""
    if not regions or "kinds" not in regions[0]:
        return Kind.UNKNOWN
    kinds = regions[0]["kinds"]
    names = list(regions[0]["kind_p_values"])
    if len(kinds) != 1:
        return Kind.SEVERAL if kinds else Kind.NEW
    number = 1 + names.index(kinds[0])
    return number if number < Kind.SEVERAL else Kind.UNKNOWN


def error_code(error: Exception) -> Code:
    """Return the code of an error that kept a part from being judged."""
    return next((code for kind, code in _CODES_OF_ERRORS if isinstance(error, kind)), Code.REFUSED)
