"""One sink at work: messages are handed over one after another, each until it is taken."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from flawscope.errors import FlawscopeError
from flawscope.progress import counted
from flawscope.station.background import PATIENCE, Background
from flawscope.station.sinks.outbox import MOST_COUNTED, Batch, Message, Outbox, Place

TOGETHER = 20  # messages that are read at once
REST = 60.0  # seconds after which a sink looks by itself
SAVED = 1.0  # seconds between two times that its place is written down
SHORTEST, LONGEST = 1.0, 300.0  # seconds before a message is sent again
BEHIND = 30.0  # seconds after which messages that wait are a problem
SLOW = "it takes them more slowly than they come"
TRIES = 6  # of a message that the other side does not want

Report = Callable[[str | None], None]


class UndeliveredError(FlawscopeError):
    """A message was not taken.

    Attributes:
        blames_message: the other side does not want this one; others may be taken.
        after: seconds for which the other side wants to be left alone.
    """

    def __init__(self, text: str, *, blames_message: bool = False, after: float = 0.0):
        super().__init__(text)
        self.blames_message, self.after = blames_message, after


class Sink(Protocol):
    label: str

    def send(self, message: Message) -> None:
        """Returns when the other side has it. UndeliveredError."""

    def close(self) -> None: ...


@dataclass
class Counts:
    """Since the station started."""

    delivered: int = 0
    failed: int = 0  # tries
    refused: int = 0


class Delivery(Background):
    """A thread that reads from the store what a sink has not had, and holds no more than a page of it.

    Args:
        report: shows what is wrong, or ends it with None.
        refused: is told of a message that was given up, and why.
        shortest: seconds before a message is sent again; later ones are longer.
    """

    def __init__(
        self,
        sink: Sink,
        outbox: Outbox,
        report: Report,
        refused: Callable[[Message, str], None] = lambda message, why: None,
        *,
        shortest: float | None = None,
    ):
        super().__init__(f"sink-{outbox.product_id}")
        self.sink, self.outbox, self.report, self.refused = sink, outbox, report, refused
        self.shortest = SHORTEST if shortest is None else shortest
        self.counts = Counts()
        self.error: str | None = None
        self._idle = True
        self._behind: float | None = None  # since when there was always something to do
        self._dead: int = 0  # of the page, not written down yet
        self._done: int = 0
        self._saved = 0.0

    def stop(self, seconds: float | None = PATIENCE) -> None:
        """What is being sent may take so long, or is sent again after the next start."""
        super().stop(seconds)
        self.sink.close()

    def waiting(self) -> int:
        """Messages. StoreError."""
        return 0 if self._idle and self.error is None else self.outbox.waiting()

    # ---- again and again

    def _work(self) -> None:
        delay = self.shortest
        while not self._ended.is_set():
            try:
                self._round()
                delay = self.shortest
            except Exception as error:  # the store is away for now; inspections say so
                self._say(str(error) if isinstance(error, FlawscopeError) else in_words(error))
                self._ended.wait(spread(delay))
                delay = min(LONGEST, 2 * delay)

    def _round(self) -> None:
        batch = self.outbox.batch(TOGETHER)
        self._idle = not batch.messages
        if self._idle:
            self._behind = None
        else:
            self._behind = self._behind or time.monotonic()
        self._deliver(batch)
        self._tell_backlog()
        if batch.is_last and not self._ended.is_set():
            self._idle, self._behind = True, None
            self._say(None)
            self._wait(REST)

    def _deliver(self, batch: Batch) -> None:
        place = self.outbox.place
        for message in batch.messages:
            if not self._hand_over(message):
                self._save(place)
                return
            place = self.outbox.after(message, place)
            if time.monotonic() - self._saved > SAVED:
                self._save(place)
        self._save(batch.end, anything=bool(batch.messages))

    def _save(self, place: Place, *, anything: bool = True) -> None:
        self.outbox.move(place, self._done, self._dead, save=anything)
        self._done = self._dead = 0
        self._saved = time.monotonic()

    def _hand_over(self, message: Message) -> bool:
        """Until it is taken, or given up; False where the station ends before."""
        delay, tries = self.shortest, 0
        while not self._ended.is_set():
            try:
                self.sink.send(message)
                self.counts.delivered += 1
                self._done += 1
                if self.error is not None:
                    self._say(None)
                return True
            except UndeliveredError as error:
                self.counts.failed += 1
                tries += error.blames_message
                if tries >= TRIES:
                    self._give_up(message, str(error))
                    return True
                self._say(str(error))
                pause = max(error.after, spread(delay))
            except Exception as error:
                self.counts.failed += 1
                self._say(in_words(error))
                pause = spread(delay)
            self._ended.wait(pause)
            delay = min(LONGEST, 2 * delay)
        return False

    def _give_up(self, message: Message, why: str) -> None:
        self.refused(message, why)
        self.counts.refused += 1
        self._dead += 1

    # ---- what a person should know

    def _say(self, why: str | None) -> None:
        self.error = None if why is None else " ".join(why.split())[:300]
        if self.error is None:
            self.report(None)
            return
        self.report(waits(self._left, self.sink.label, self.error))

    def _tell_backlog(self) -> None:
        if self.error is None and self._behind is not None and time.monotonic() - self._behind > BEHIND:
            self.report(waits(self._left, self.sink.label, SLOW))

    def _left(self) -> int:
        return max(1, self.outbox.waiting() - self._done - self._dead)


def waits(number: Callable[[], int], label: str, why: str) -> str:
    """What a person should know of messages that wait; their number where the store tells it."""
    try:
        many = number()
        if many >= MOST_COUNTED:
            found = f"{MOST_COUNTED:,} messages or more wait"
        else:
            found = f"{counted(many, 'message')} {'waits' if many == 1 else 'wait'}"
    except FlawscopeError:
        found = "messages wait"
    return f"{found} for {label}: {why}"


def spread(seconds: float) -> float:
    """So that not everybody who waited comes back at the same moment."""
    return seconds * random.uniform(0.75, 1.25)


def in_words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
