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
from typing import NamedTuple, Protocol

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

TICK = 0.02  # longest seconds between two steps
CHECK_INTERVAL = 0.25  # seconds between two checks of queue and models; each step checks the camera
DOUBT_SECONDS = 1.0  # seconds without Ready after a camera's error, unless the camera gives a frame earlier
MIN_RETRY_DELAY = 0.2  # seconds before a broken transport is opened again
MAX_RETRY_DELAY = 2.0  # seconds before a transport that broke many times is opened again
MIN_LOAD_DELAY = 0.25  # seconds before a model that failed to load is loaded again
MAX_LOAD_DELAY = 30.0  # seconds before a model that failed many times is loaded again
STOP_TIMEOUT = 10.0  # seconds to wait for the end of the thread
HANGING_SECONDS = 30.0  # seconds without a step after which the line is reported to hang
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
        every: Longest seconds between two exchanges.
    """

    every: float

    async def open(self) -> None:
        """Connect, or begin to listen.

        Raises:
            TransportError: The PLC does not answer, or the address cannot be used.
        """

    async def exchange(self) -> None:
        """Pass the PLC's inputs, None if unknown, to the handler, and write the handler's outputs.

        Exchanges do not overlap, and the PLC never reads an answer together with values of another answer.

        Raises:
            TransportError: The connection is lost.
        """

    async def close(self) -> None:
        """Close the connection, or stop listening."""


class _CameraDoubt(NamedTuple):
    """Doubt about cameras after an error.

    Attributes:
        last_frames: Times of the cameras' last frames at the error; None for a camera without a frame.
        until: End of the doubt, by the line's clock.
    """

    last_frames: list[int | None]
    until: float


class PlcLine:
    """Connection of a station to a PLC.

    Args:
        name: Name of the protocol.
        context: Part of the station that a connection may use.
        settings: Settings of the handshake.
        make_transport: Makes the transport from the handler of the PLC's inputs.
        clock: Clock of all time limits and pauses.

    Attributes:
        number: Number among the station's connections, from 1, in the codes of its problems.
        state: State of the handshake.
        rules: Time limits of the handshake.

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
        self._loop: asyncio.AbstractEventLoop | None = None  # None: it has not run yet
        budgets = {}
        for number, product in settings.recipes.items():
            context.addresses.address_id(product)
            for camera in self._cameras(product):
                check_triggers(camera)
            deadline = context.deadline(product)
            budgets[number] = settings.deadline_seconds if deadline is None else deadline
        self.rules = Rules(budgets, settings.watchdog_seconds)
        first_product = next(iter(settings.recipes.values()))
        self._first_product_id = context.addresses.address_id(first_product)
        self.state = State(now=self.clock.monotonic())
        self._last_error: tuple[int, Exception] = 0, FlawscopeError()  # last job that failed, and its error
        self._events: deque[Answer | RecipeLoaded] = deque()  # not observed yet
        self._tasks: set[asyncio.Task[None]] = set()
        self._inspecting: asyncio.Task[None] | None = None  # task of the last trigger
        self._fault = Code.NONE  # why no part can be inspected, at the last check
        self._last_check = 0.0  # time of the last check, by `clock`
        self._doubt = _CameraDoubt([], until=0.0)
        self._link_error: str | None = None  # why the transport broke; None: it works
        self._is_loading = False  # whether a recipe is being loaded
        self._load_due = 0.0  # time before which no recipe is loaded again, by `clock`
        self._load_backoff = Backoff(MIN_LOAD_DELAY, MAX_LOAD_DELAY)
        self._trigger_time: float | None = None  # of the part under way, by `clock`; None: none
        self._ended = threading.Event()
        self.threads = [GuardedThread(name, self._run_loop, self._ended, clock)]

    def start(self) -> None:
        """Start the thread that runs the handshake."""
        self.threads[0].start()

    def stop(self) -> None:
        """End the handshake, so that the PLC reads Error with `Code.ENDING`, and wait for the thread."""
        self._ended.set()
        self._wake()
        self.threads[0].join(STOP_TIMEOUT)

    def _cameras(self, product: str) -> Sequence[TriggeredSource]:
        """Return the cameras of a product, and let their changes of state wake the line."""
        owner = self.settings.camera_product(product)
        cameras = self.context.cameras(product, self.settings.camera_number, owner)
        for camera in cameras:
            camera.state.listeners.add(self._wake)  # Ready falls at once when the camera is lost
        return cameras

    def _wake(self) -> None:
        """Exchange signals at once; may be called from any thread."""
        with suppress(RuntimeError):  # the loop has ended
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._changed.set)

    # ---- the loop

    def _run_loop(self) -> None:
        """Run the event loop, and watch its steps: a step that hangs stops the line."""
        with self.threads[0].call(HANGING_SECONDS):
            asyncio.run(self._run())

    async def _run(self) -> None:
        """Exchange signals over a transport, which is opened again after a failure, until the end."""
        self._changed = asyncio.Event()
        backoff = Backoff(MIN_RETRY_DELAY, MAX_RETRY_DELAY)
        self._loop = asyncio.get_running_loop()
        # an earlier loop that failed may have left tasks, which do not run any more
        self._tasks = set()
        self._is_loading = False
        while not self._ended.is_set():
            transport = self._make_transport(self.handle_inputs)
            try:
                await transport.open()
                backoff.reset()
                while not self._ended.is_set():
                    await self._exchange(transport)
                await transport.exchange()  # the PLC reads the outputs of the end
            except Exception as error:
                is_expected = isinstance(error, TransportError)
                text = one_line_message(error) if is_expected else message_with_type(error)
                self._link_error = f"{text}; it is tried again by itself"
                self._report_link()
            finally:
                with suppress(Exception):
                    await transport.close()
            retry_time = self.clock.monotonic() + backoff.next()
            while self.clock.monotonic() < retry_time and not self._ended.is_set():
                self.handle_inputs(None)
                await asyncio.sleep(TICK)
        for task in self._tasks:
            task.cancel()

    async def _exchange(self, transport: Transport) -> None:
        """Exchange signals, and wait for a change or the next exchange."""
        self._changed.clear()
        await transport.exchange()
        if self._link_error is not None:  # the transport works again
            self._link_error = None
            self._report_link()
        state = self.state
        if state.phase is Phase.DONE and state.answer is not None and self._trigger_time is not None:
            self._note_time(state.answer, self.clock.monotonic() - self._trigger_time)
            self._trigger_time = None
        seconds_left = state.due - self.clock.monotonic() if state.phase is Phase.BUSY else TICK
        # wait until the next exchange is due, or the time of the part under way is over
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, min(transport.every, TICK, seconds_left))):
                await self._changed.wait()

    def _note_time(self, answer: Answer, seconds: float) -> None:
        """Note the time from a trigger to its answer.

        Parts that were not judged do not count, unless the answer came too late: a part that was refused at
        once, or of which there is no picture, does not show how fast parts are judged.
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
        while True:  # a step observes one event
            event = self._events.popleft() if self._events else None
            previous_state = self.state
            answer = event if isinstance(event, Answer) else None
            loaded = event if isinstance(event, RecipeLoaded) else None
            if answer is not None and answer.code is Code.CAMERA:
                self._doubt_camera()
            fault = self._camera_fault() or self._fault
            observation = Observation(self.clock.monotonic(), plc, answer, loaded, fault)
            self.state = step(previous_state, observation, self.rules)
            self._follow_step(previous_state, self.state, answer)
            if not self._events:
                return outputs(self.state, self.rules)

    def _follow_step(self, previous_state: State, state: State, answer: Answer | None) -> None:
        """Begin the work that a step requests: inspect, load, and report parts that ended."""
        if state.job != previous_state.job:
            self._trigger_time = state.now
            product = self.settings.recipes[state.recipe]
            work = self._inspect_part(state.job, product, state.triggered.part, state.due)
            self._inspecting = self._spawn(work)
        self._note_refusal(previous_state, state)
        self._give_up_answer(previous_state, state, answer)
        if state.phase is Phase.IDLE:
            self._trigger_time = None  # where the part was withdrawn, no time counts
        if state.requested_recipe and state.requested_recipe != previous_state.requested_recipe:
            self._load_due = 0.0
            self._load_backoff.reset()
            self._load_if_due()
        if state.is_alive != previous_state.is_alive:
            self._report_link()

    def _give_up_answer(self, previous_state: State, state: State, answer: Answer | None) -> None:
        """Record that the PLC did not get the answer to a part: the PLC withdrew it, or the answer was late.

        The record of the part is there already, or will be.
        """
        reason = LATE if state.answer is not None and state.answer.code is Code.LATE else WITHDRAWN
        was_busy = previous_state.phase is Phase.BUSY
        is_busy = state.phase is Phase.BUSY
        ended_without_answer = was_busy and not is_busy and answer is None
        if ended_without_answer and self._inspecting is not None:
            self._inspecting.cancel(reason)
        self._mark_unanswered(answer, state, reason)  # an answer that came in this step
        if previous_state.phase is Phase.DONE and state.phase is Phase.DONE:
            # an answer that was replaced: the PLC may not have read it
            self._mark_unanswered(previous_state.answer, state, reason)

    def _mark_unanswered(self, answer: Answer | None, state: State, reason: str) -> None:
        """Record that the PLC did not get an answer, unless it is the present answer."""
        if answer is None or not answer.inspection or state.answer is answer:
            return
        mark = partial(self.context.store.set_unanswered, answer.inspection, reason)
        self._spawn(asyncio.to_thread(mark))

    def _note_refusal(self, previous_state: State, state: State) -> None:
        """Report to the pages that this step ended a part without a judgement."""
        code = _code_of_end(previous_state, state)
        product = self.settings.recipes.get(state.triggered.recipe)
        if not code or product is None:
            return
        number = _label_of(state.triggered.part).part
        job, error = self._last_error
        if job == state.job and error_code(error) is code:
            self.context.refusals.note(product, error, number)
        else:
            code_name = code.name.lower()
            self.context.refusals.note(product, FlawscopeError(code_name), number, code=code_name)

    def _report_link(self) -> None:
        """Report whether the PLC is away: its transport is broken, or its heartbeat stood still."""
        # before the heartbeat's first beat the PLC does not count as away
        was_alive = math.isfinite(self.state.last_beat) or not self.rules.watchdog
        heartbeat_reason = (
            "the PLC's heartbeat stands still" if was_alive and not self.state.is_alive else None
        )
        reason = self._link_error or heartbeat_reason
        text = None if reason is None else f"{self.name}: {reason}"
        self.context.report(f"plc_away_{self._first_product_id}_{self.number}", text)

    def _spawn(self, work: Coroutine[object, None, None]) -> asyncio.Task[None]:
        """Begin work in a task, which is kept until it ends."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget_task)
        self._changed.set()
        return task

    def _forget_task(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            # taken, so that asyncio does not log it: a store may be away, and the record stays as it is
            task.exception()

    def _post_event(self, event: Answer | RecipeLoaded) -> None:
        """Let the next step observe an event."""
        self._events.append(event)
        self._changed.set()

    # ---- work that a step requests

    async def _inspect_part(self, job: int, product: str, part: str, due: float) -> None:
        """Inspect the part under the camera, and post the answer to the job."""
        try:
            find_cameras = partial(self._cameras, product)
            inspection = await shoot(self.context, product, find_cameras, _label_of(part), due)
            answer = _answer_of_inspection(job, inspection)
        except Exception as error:
            self._last_error = job, error
            answer = Answer(job, good=None, code=error_code(error))
        self._post_event(answer)

    async def _load_recipe(self, recipe: int) -> None:
        """Open the model of a recipe, unless it is open."""
        try:
            code = await asyncio.to_thread(self._open_model, self.settings.recipes[recipe])
        except Exception:  # no thread can be started
            code = Code.NO_MODEL
        is_requested = recipe == self.state.requested_recipe
        self._is_loading = False
        self._load_due = self.clock.monotonic() + self._load_backoff.next() if is_requested else 0.0
        self._post_event(RecipeLoaded(recipe, code))

    def _load_if_due(self) -> None:
        """Load the requested recipe, unless a recipe is being loaded, or it failed a moment ago."""
        if not self._is_loading and self.clock.monotonic() >= self._load_due:
            self._is_loading = True
            self._spawn(self._load_recipe(self.state.requested_recipe))

    def _open_model(self, product: str) -> Code:
        """Open a product's model, unless it is open; return NONE, or NO_MODEL where it cannot be opened."""
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
        is_unloaded = state.requested_recipe not in (0, state.recipe)
        if is_unloaded and state.phase is not Phase.BUSY:
            self._load_if_due()
        product = self.settings.recipes.get(state.recipe)
        self._fault = Code.NONE if product is None else self._find_fault(product)

    def _doubt_camera(self) -> None:
        """Clear Ready after a camera failed a trigger, until it gives a frame or `DOUBT_SECONDS` are over."""
        if (product := self.settings.recipes.get(self.state.recipe)) is not None:
            last_frames = [camera.state.last for camera in self._cameras(product)]
            self._doubt = _CameraDoubt(last_frames, until=self.clock.monotonic() + DOUBT_SECONDS)

    def _camera_fault(self) -> Code:
        """Return `Code.CAMERA` where the recipe's camera is lost or failed its last trigger, else `NONE`."""
        product = self.settings.recipes.get(self.state.recipe)
        if product is None:
            return Code.NONE
        try:
            states = [camera.state for camera in self._cameras(product)]
        except Exception:  # the product has no such camera now; its settings may change again
            return Code.CAMERA
        has_same_frames = [state.last for state in states] == self._doubt.last_frames
        is_in_doubt = has_same_frames and self.clock.monotonic() < self._doubt.until
        return Code.CAMERA if is_in_doubt or lost_camera(states) else Code.NONE

    def _find_fault(self, product: str) -> Code:
        """Return why the station could not inspect a part of a product now; NONE: it could."""
        try:
            number = None if self.state.plc is None else _label_of(self.state.plc.part).part
            check_room(self.context, product, number=number)
        except Exception as error:  # any error means that no picture can be inspected
            return error_code(error)
        return Code.NONE


def _label_of(part: str) -> Label:
    """Return the label of a part for the records, from the PLC's text of its number."""
    return make_label(part_number(part), None)


def _answer_of_inspection(job: int, recorded: RecordedInspection | int) -> Answer:
    """Return the answer to a job from its recorded inspection."""
    assert isinstance(recorded, RecordedInspection), "a trigger of a PLC has no key"
    inspection = recorded.inspection
    decision = inspection.decision

    return Answer(
        job,
        good=decision != ANOMALOUS,
        score=inspection.score,
        regions=len(inspection.regions),
        inspection=recorded.number,
        kind=kind_number(inspection.regions),
        tolerated=decision == WITHIN,
    )


def _code_of_end(previous_state: State, state: State) -> Code:
    """Return the code of a part that a step ended without a judgement; NONE: there is no such part."""
    if previous_state.phase is Phase.BUSY and state.phase is Phase.IDLE:
        return Code.WITHDRAWN
    if state.phase is Phase.DONE and state.answer is not None and state.answer is not previous_state.answer:
        return state.answer.code
    return Code.NONE


def kind_number(regions: Sequence[RegionFacts]) -> int:
    """Return the number of the strongest region's kind.

    The number is the kind's place in the model's order, from 1, or a value of `Kind`.
    """
    if not regions or "kinds" not in regions[0]:
        return Kind.UNKNOWN
    kinds = regions[0]["kinds"]
    names = list(regions[0]["kind_p_values"])
    if len(kinds) != 1:
        return Kind.SEVERAL if kinds else Kind.NEW
    number = 1 + names.index(kinds[0])
    # numbers from `Kind.SEVERAL` on have other meanings
    return number if number < Kind.SEVERAL else Kind.UNKNOWN


def error_code(error: Exception) -> Code:
    """Return the code of an error that kept a part from being judged."""
    for error_class, code in _CODES_OF_ERRORS:
        if isinstance(error, error_class):
            return code
    return Code.REFUSED
