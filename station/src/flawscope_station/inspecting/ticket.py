"""Ticket of a part: it carries the part through the station, from its place to its end.

A part has one ticket with one state, moved under one lock. The object that moved it last holds it until the
next one moves it. Each step is one object in one file of this folder:

    step    state      by whom, and what happens
    ask                `web.inspect_api` reads a request over HTTP; `answers.Asking` makes parts of it and
                       looks up its key. A trigger or PLC (`sources.trigger.shoot`), a folder and a camera
                       (`sources.source`) make parts themselves
    intake  TAKEN      `intake.Intake.take`: every check that may refuse the part has passed; the part has a
                       place, and its sender a waiter
    read    READ       `inspector.Inspector`, a pool: the headers of the pictures say that they can be judged.
                       Their files are written from now on; memory for large pictures is claimed
    queue   QUEUED     `judge.Judge.put`: the part waits for its product's turn
    judge   JUDGED     `judge.Judge`, a thread: the model has judged, interlocks let the part pass
                       (`interlock.Interlocks`), its record is made (`record.new_inspection`)
    record  RECORDING  `recorder.Recorder`, a thread: the files are there; `store.insert` writes the record
            DONE       the record stands
            FAILED     there is no record, or nobody knows whether there is one
    answer             the step that ends the part calls `inspector.Inspector`, which gives back its place and
                       memory, then each `Waiter`. `answers.describe_recorded` is the API's answer. The
                       recorder hands the record to all listeners, in threads of their own
                       (`core.extension.Observers`), and removes the files of failed parts

Before RECORDING the part may fail at any step: in the pool, in the judge, by a deadline
(`Inspector.abandon`), by the longest wait (`Inspector.end_overdue`), at the end of the station. From
RECORDING on the recorder alone ends it, for it alone knows whether the record stands. Every sender of the
part has a waiter. A deadline ends the wait of its own waiter, and not the waits of others for the same part:
the part is unanswered only if all have left.

A sender's key has one form, made before the part is (`store.inspection.request_key`): the intake compares it,
and the record has it unchanged. A part with the key of a part under way joins its ticket (`Intake._join`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple, cast

from flawscope import Prediction
from flawscope.pictures import PictureSource, decoding
from flawscope.predictor import PictureOf
from flawscope_station.inspecting.picture import Part, Picture
from flawscope_station.store.insert import NewInspection
from flawscope_station.store.inspection import RefusalError
from flawscope_station.store.open_models import Model
from flawscope_station.store.schema import LATE


class State(Enum):
    """State of a ticket."""

    TAKEN = "taken"
    READ = "read"
    QUEUED = "queued"
    JUDGED = "judged"
    RECORDING = "recording"
    DONE = "done"
    FAILED = "failed"


BEFORE_RECORDING = frozenset({State.TAKEN, State.READ, State.QUEUED, State.JUDGED})
ENDS = frozenset({State.DONE, State.FAILED})


class IllegalMoveError(RuntimeError):
    """A ticket was to be moved out of a state in which it is not: a bug."""

    def __init__(self, state: State, after: State):
        super().__init__(f"a ticket that is {state.value} cannot be {after.value}")


class LateError(RefusalError):
    """A part cannot be judged before its deadline, or was not.

    Args:
        why: Reason, for a person.
    """

    status = 504
    code = "late"

    def __init__(self, why: str):
        super().__init__(f"not judged in time: {why}; send fewer at once, or allow more time")


class OverdueError(RefusalError):
    """A part had no answer for as long as `limits: wait` allows."""

    status = 504
    code = "overdue"

    def __init__(self, seconds: float):
        super().__init__(
            f"it was not answered for {seconds:.0f} s (`limits: wait`): see what *Problems* says, and send "
            "it again"
        )


class EndingError(RefusalError):
    """The station ends, and could not answer a part before."""

    code = "ending"

    def __init__(self) -> None:
        super().__init__("the station ends: send the part again when it has started")


class ModelError(RefusalError):
    """The model failed on pictures that can be read."""

    code = "model_failed"


@dataclass(frozen=True)
class RecordedInspection:
    """Inspection that is on the disk.

    Attributes:
        number: Number of the inspection.
        inspection: Record of the inspection.
        is_new: Whether it is new; False where its key had been recorded before.
        predictions: Predictions of its pictures; empty where they are not known any more.
        seconds: Seconds that each stage took, by its name.
    """

    number: int
    inspection: NewInspection
    is_new: bool
    predictions: tuple[Prediction, ...] = field(default=(), repr=False)
    seconds: Mapping[str, float] = field(default_factory=dict, repr=False)


Outcome = RecordedInspection | BaseException


@dataclass
class View:
    """Picture of a part that was read.

    Attributes:
        picture: Picture as it was sent.
        suffix: Suffix of its file.
        source: Its data for the library, with hashes.
        file: SHA-256 of its file; None until that is on the disk.
        prepared: Model and the picture as decoded for it; None: not decoded.
        prediction: Prediction of the picture; None: there is none yet.
    """

    picture: Picture
    suffix: str
    source: decoding.HashedPicture
    file: str | None = None
    prepared: tuple[Model, object] | None = None
    prediction: Prediction | None = None

    def model_input(self, model: Model) -> PictureSource:
        """Return the picture decoded for this model, if it is prepared; else its data, to be decoded."""
        source: object = self.source
        prepared_model, prepared_picture = self.prepared or (None, None)
        if prepared_model is model:
            source = prepared_picture
        elif model.kind == "view":
            source = PictureOf(cast(PictureSource, source), str(self.picture.view))
        return cast(PictureSource, source)


class KeptFile(NamedTuple):
    """File of a picture that is held on the disk until its part has ended."""

    digest: str
    suffix: str


class Waiter(Future[RecordedInspection]):
    """Waiter for a part: a client, a PLC, a folder or a camera.

    It gets the outcome of the part, once, and may leave before.

    Args:
        ticket: Ticket of the part.
        due_at: Deadline of this waiter, as `time.monotonic` counts.

    Attributes:
        has_left: Whether the waiter waits no more.
    """

    has_left = False

    def __init__(self, ticket: Ticket, due_at: float):
        super().__init__()
        self.ticket = ticket
        self.due_at = due_at
        self.set_running_or_notify_cancel()  # a running future cannot be cancelled by a client that goes away

    def leave(self, why: str) -> bool:
        """Stop waiting, for a reason of `schema.UNANSWERED`.

        Returns:
            Whether the waiter has left; False where the part has ended, or is about to: then this waiter gets
            the outcome.
        """
        return self.has_left or self.ticket.leave(self, why)

    def tell(self, outcome: Outcome) -> None:
        """Give the waiter the outcome of the part."""
        if isinstance(outcome, BaseException):
            self.set_exception(outcome)
        else:
            self.set_result(outcome)


class Ticket:
    """Part on its way through the station.

    Args:
        part: Part as it came.
        taken_at_us: Moment at which the part was taken, microseconds since 1970, which no other part has:
            moment, product and picture identify a record.
        on_end: Gets the outcome once, before the waiters get it.

    Attributes:
        state: State, moved under a single lock.
        times: Time of entry into each state, as `time.monotonic` counts.
        begun_at: When the model began with the part, as `time.monotonic` counts; 0: it has not begun.
        due_at: Last deadline of all waiters, as `time.monotonic` counts.
        unanswered: Why nobody waits for the part any more, from the last waiter that left; None: somebody
            waits.
        size: Bytes of the part's pictures, which the ticket drops when the part has ended.
        memory: Bytes of memory that are claimed to decode the pictures.
        views: Pictures, set when they are read.
        files: Files on the disk that are held for the part.
        record: Record, set when the part is judged.
        predictions: Predictions of the pictures, set with the record.
        may_have_record: Whether a record names the part's files, or may do so.
    """

    def __init__(self, part: Part, taken_at_us: int, on_end: Callable[[Ticket, Outcome], object]):
        self.part = part
        self.taken_at_us = taken_at_us
        self.size = part.size
        self._on_end = on_end
        self._changed = threading.Condition(threading.Lock())
        self.state = State.TAKEN
        self.times = {State.TAKEN: time.monotonic()}
        self.begun_at = 0.0
        self.due_at = 0.0
        self._waiters: list[Waiter] = []
        self.unanswered: str | None = None
        self._is_decided = False  # whether `unanswered` is final
        self._answered_count = 0  # waiters that got the answer, and had not left before
        self.memory = 0
        self.views: Sequence[View] = ()
        self.files: list[KeptFile] = []
        self.record: NewInspection | None = None
        self.predictions: tuple[Prediction, ...] = ()
        self.may_have_record = False

    @property
    def has_ended(self) -> bool:
        """Whether the part is done or has failed."""
        return self.state in ENDS

    @property
    def since(self) -> float:
        """Time at which the part was taken, as `time.monotonic` counts."""
        return self.times[State.TAKEN]

    # ---- its way

    def read(self, views: Sequence[View]) -> bool:
        """Enter READ with the readable pictures; return False where the part has failed before."""
        with self._changed:
            if not self._move(State.TAKEN, State.READ):
                return False
            self.views = views
            return True

    def queue(self) -> bool:
        """Enter QUEUED; return False where the part has failed before."""
        with self._changed:
            return self._move(State.READ, State.QUEUED)

    def judge(self, record: NewInspection, predictions: tuple[Prediction, ...]) -> bool:
        """Enter JUDGED with record and predictions; return False where the part has failed before."""
        with self._changed:
            if not self._move(State.QUEUED, State.JUDGED):
                return False
            self.record = record
            self.predictions = predictions
            return True

    def begin_recording(self) -> bool:
        """Enter RECORDING, which the recorder ends; return False where the part has failed before."""
        with self._changed:
            return self._move(State.JUDGED, State.RECORDING)

    def _move(self, source: State, target: State) -> bool:
        """Enter a state from another; return False where the part has failed. The caller holds the lock."""
        if self.state is State.FAILED:
            return False
        if self.state is not source:
            raise IllegalMoveError(self.state, target)
        self._enter(target)
        return True

    def _enter(self, state: State) -> None:
        self.state = state
        self.times[state] = time.monotonic()
        self._changed.notify_all()

    def is_recording(self, max_seconds: float) -> bool:
        """Return whether the recorder has had the part for no longer than `max_seconds`."""
        is_recording = self.state is State.RECORDING
        return is_recording and time.monotonic() < self.times[State.RECORDING] + max_seconds

    # ---- its end

    def fail(self, error: BaseException) -> bool:
        """End the part with an error; return False if it is being recorded, or has ended."""
        with self._changed:
            if self.state not in BEFORE_RECORDING:
                return False
            waiters = self._end(State.FAILED)
        self._tell(waiters, error)
        return True

    def give_up(self, error: BaseException) -> bool:
        """Give all waiters an error, and let them leave.

        The part fails, unless it is being recorded: then only the waiters leave, and the recorder ends the
        part later.

        Returns:
            Whether the waiters got the error. False: the part has ended or is about to end, and the waiters
            get its outcome instead.
        """
        if self.fail(error):
            return True
        with self._changed:
            if self.has_ended or self._is_decided:
                return False
            waiters = self._waiters
            self._waiters = []
            if self.unanswered is None:
                self.unanswered = LATE
        for waiter in waiters:
            waiter.tell(error)
        return True

    def finish(self, recorded: RecordedInspection) -> None:
        """End the part, whose record is stored, and answer its waiters. Only the recorder calls this."""
        with self._changed:
            if self.state is not State.RECORDING:
                raise IllegalMoveError(self.state, State.DONE)
            self.may_have_record = True
            waiters = self._end(State.DONE)
        self._tell(waiters, recorded)

    def fail_recording(self, error: BaseException, *, may_have_record: bool = False) -> None:
        """End a part whose recording failed. Only the recorder calls this.

        Args:
            error: Error that the waiters get.
            may_have_record: Whether the part may be recorded nevertheless.
        """
        with self._changed:
            if self.state is not State.RECORDING:
                raise IllegalMoveError(self.state, State.FAILED)
            self.may_have_record = may_have_record
            waiters = self._end(State.FAILED)
        self._tell(waiters, error)

    def refuse_recorded(self, error: BaseException) -> None:
        """End a part whose record stands, but give its waiters an error in place of the record."""
        self.fail_recording(error, may_have_record=True)

    def _end(self, state: State) -> list[Waiter]:
        """End the part; return the waiters that are to get the outcome. The caller holds the lock."""
        self._enter(state)
        self.part = self.part.without_data()
        self.views = ()
        waiters = self._waiters
        self._waiters = []
        self._answered_count = sum(not waiter.has_left for waiter in waiters)
        return waiters

    def _tell(self, waiters: Sequence[Waiter], outcome: Outcome) -> None:
        """Call `on_end`, then give the waiters the outcome; the caller does not hold the lock."""
        self._on_end(self, outcome)
        for waiter in waiters:
            waiter.tell(outcome)

    # ---- who waits

    def join(self, due_at: float) -> Waiter | None:
        """Return a further waiter, with a deadline of its own; None where the part has ended."""
        with self._changed:
            if self.has_ended:
                return None
            waiter = Waiter(self, due_at)
            self._waiters.append(waiter)
            self.due_at = max(self.due_at, due_at)
            if not self._is_decided:
                self.unanswered = None
            return waiter

    def leave(self, waiter: Waiter, why: str) -> bool:
        """Let a waiter leave; return False where the part has ended, or is about to (`Waiter.leave`)."""
        with self._changed:
            if self._is_decided or self.has_ended:
                return False
            waiter.has_left = True
            if all(other_waiter.has_left for other_waiter in self._waiters):
                self.unanswered = why
            return True

    def note_gone(self, waiter: Waiter) -> bool:
        """Note that a waiter has the outcome, but its sender is gone; return whether all senders are gone."""
        with self._changed:
            if not waiter.has_left:
                self._answered_count -= 1
            waiter.has_left = True
            return self._answered_count == 0

    def decide(self) -> str | None:
        """Return why nobody waits for the part, and let nobody leave from now on; None: somebody waits.

        The recorder calls this before it ends the part.
        """
        with self._changed:
            self._is_decided = True
            return self.unanswered

    # ---- what it holds

    def claim(self, memory: int) -> bool:
        """Note the bytes that are claimed for the part; return False if the part has ended."""
        with self._changed:
            if self.has_ended:
                return False
            self.memory = memory
            return True

    def keep(self, view: View, digest: str) -> bool:
        """Note that the file of a picture is on the disk.

        Returns:
            Whether the part is still under way; False: it has ended, and the recorder must remove the file.
        """
        with self._changed:
            view.file = digest
            self.files.append(KeptFile(digest, view.suffix))
            self._changed.notify_all()
            return not self.has_ended

    def wait_for_files(self) -> bool:
        """Wait until all files are on the disk; return False where the part has failed."""
        with self._changed:
            self._changed.wait_for(lambda: self.has_ended or all(view.file for view in self.views))
            return not self.has_ended

    def take_files(self) -> list[KeptFile]:
        """Return the files that are held for the part; a second call returns none."""
        with self._changed:
            files = self.files
            self.files = []
            return files
