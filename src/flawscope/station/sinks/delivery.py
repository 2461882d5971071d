"""A sink at work: messages are handed over one after another, each until it is taken."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from flawscope.errors import FlawscopeError, InputError, one_line, pluralize, with_kind
from flawscope.station.background import PATIENCE, Background, Backoff
from flawscope.station.inspecting.renderings import Shown
from flawscope.station.sinks.outbox import MOST_COUNTED, Batch, Message, Outbox
from flawscope.station.store.database import StoreError
from flawscope.station.store.records import NotFoundError

T = TypeVar("T")

SIDE = 1280  # pixels of the longer side
TOGETHER = 20  # messages that are read at once
IDLE = 60.0  # seconds after which a sink looks for messages though nothing woke it
SAVED = 1.0  # seconds between two times that the place of a sink is written down
PASSED = 60.0  # the same while nothing is sent and unwanted records are passed over
SHORTEST, LONGEST = 1.0, 300.0  # seconds before a message is sent again
BEHIND = 30.0  # seconds after which messages that wait are a problem
SLOW = "it takes them more slowly than they come"
TRIES = 6  # of a message that the other side does not want


class Pictures:
    """None where there is no picture, or nothing was found on it: `lack` says why."""

    def __init__(self, shown: Shown):
        self.shown = shown

    def original(self, message: Message) -> tuple[bytes, str] | None:
        """The file as it came, and its ending."""
        found = _there(lambda: self.shown.picture(message.product_id, message.number))
        return None if found is None else found[:2]

    def view(self, message: Message) -> bytes | None:
        """WebP."""
        return _there(lambda: self.shown.view(message.product_id, message.number, SIDE))

    def overlay(self, message: Message) -> bytes | None:
        """WebP with heat map and outlines. Of what stands out alone: maps of others are not kept, and to
        compute them again would hold up inspections."""
        if not _stands_out(message):
            return None
        return _there(lambda: self.shown.overlay(message.product_id, message.number, SIDE))


def lack(message: Message, found: dict[str, Any]) -> dict[str, Any]:
    """What a message says of pictures that do not go along: nothing where all of them do.

    Args:
        found: picture and overlay, as far as they are wanted; None: there is none.
    """
    if None not in found.values():
        return {}
    if ("picture" in found and found["picture"] is None) or _stands_out(message):
        return {"picture": None, "missing": "the picture was removed, as `keep` says"}
    return {"missing": "nothing stands out on the picture"}


def _stands_out(message: Message) -> bool:
    return message.data["decision"] == "anomalous" or bool(message.data["near"])


def _there(read: Callable[[], T]) -> T | None:
    try:
        return read()
    except NotFoundError:
        return None
    except StoreError as error:
        if error.code == "file_missing":
            return None
        raise


class UndeliveredError(FlawscopeError):
    """A message was not taken.

    Attributes:
        blames_message: the other side does not want this one; others may be taken.
        after: seconds for which the other side wants to be left alone.
    """

    def __init__(self, text: str, *, blames_message: bool = False, after: float = 0.0):
        super().__init__(text)
        self.blames_message, self.after = blames_message, after


class Sink:
    """The contract of everything that inspections are sent to. All is called from one thread, but `close`.

    Attributes:
        kind: as the API names it.
        label: for people, without secrets.
    """

    kind: str
    label: str

    def send(self, message: Message) -> None:
        """Hand a message over; return when the other side has it. UndeliveredError."""
        raise NotImplementedError

    def refresh(self) -> float:
        """Show what is no message, such as a state; called after each page of messages, and when the seconds
        that it returned are over. UndeliveredError."""
        return IDLE

    def close(self) -> None:
        """End the connection; nothing is sent any more."""


class Delivery(Background):
    """A thread that reads from the store what a sink has not had, and holds no more than a page of it.

    Args:
        outboxes: of the products whose inspections go there.
        report: shows what is wrong, or ends it with None.
        refused: is told of a message that was given up, and why.

    Attributes:
        error: why the last try failed; None: it went well.
    """

    def __init__(
        self,
        sink: Sink,
        outboxes: Sequence[Outbox],
        report: Callable[[str | None], None],
        refused: Callable[[Message, str], None] = lambda message, why: None,
    ):
        super().__init__(f"sink-{sink.kind}")
        self.sink, self.outboxes, self.report, self.refused = sink, list(outboxes), report, refused
        self.error: str | None = None
        self._backoff = Backoff(SHORTEST, LONGEST, 0.25)
        self._refusals: dict[str, int] = {}  # id of a message -> how often it was refused for itself
        self._behind: float | None = None  # since when there was always something to do

    def stop(self, seconds: float | None = PATIENCE) -> None:
        """End; what is being sent may take so long, or is sent again after the next start."""
        super().stop(seconds)
        self.sink.close()

    def waiting(self) -> int:
        """Count the messages that wait, up to 10,000. StoreError."""
        return min(MOST_COUNTED, sum(box.waiting() for box in self.outboxes))

    # ---- again and again

    def _work(self) -> None:
        while not self._ended.is_set():
            wish = 0.0
            try:
                pause = self._round()
                self._backoff.reset()
                if pause:
                    self._wait(pause)
                continue
            except UndeliveredError as error:
                wish = error.after
                self._say(str(error))
            except Exception as error:  # the store is away, say: inspections go on
                self._say(with_kind(error))
            self._ended.wait(max(wish, self._backoff.next()))

    def _round(self) -> float:
        """Deliver a page of each outbox; return the seconds until the next round, 0 where there is more."""
        is_last = True
        for box in self.outboxes:
            batch = box.batch(TOGETHER)
            self._deliver(box, batch)
            is_last = is_last and batch.is_last
        pause = self.sink.refresh()
        if is_last and not self._ended.is_set():
            self._behind = None
            self._say(None)
            return pause
        self._behind = self._behind or time.monotonic()
        if time.monotonic() - self._behind > BEHIND:
            self.report(self._waits(SLOW))
        return 0.0

    def _deliver(self, box: Outbox, batch: Batch) -> None:
        """Hand over a page of messages; the first that is not taken begins the next page."""
        try:
            for message in batch.messages:
                if self._ended.is_set():
                    return
                is_taken = self._send(box, message)
                self._backoff.reset()
                box.move(box.after(message), SAVED, delivered=int(is_taken), refused=int(not is_taken))
            box.move(batch.end, SAVED if batch.messages else PASSED)
        finally:
            if batch.messages:
                box.save()

    def _send(self, box: Outbox, message: Message) -> bool:
        """Hand over a message; return False where it was refused for good. UndeliveredError: try again."""
        try:
            self.sink.send(message)
        except Exception as error:
            box.failed += 1
            if not isinstance(error, UndeliveredError) or not error.blames_message:
                raise
            tries = self._refusals[message.id] = self._refusals.get(message.id, 0) + 1
            if tries < TRIES:
                raise
            self.refused(message, str(error))
            del self._refusals[message.id]
            return False
        self._refusals.pop(message.id, None)
        if self.error is not None:
            self._say(None)
        return True

    # ---- what a person should know

    def _say(self, why: str | None) -> None:
        self.error = None if why is None else " ".join(why.split())[:300]
        self.report(None if self.error is None else self._waits(self.error))

    def _waits(self, why: str) -> str:
        """Say how many messages wait, where the store tells it, and why."""
        try:
            many = self.waiting()
            found = f"{pluralize(many, 'message')} {'waits' if many == 1 else 'wait'}"
            if many >= MOST_COUNTED:
                found = f"{MOST_COUNTED:,} messages or more wait"
        except StoreError:
            found = "messages wait"
        return f"{found} for {self.sink.label}: {why}"


def trusting(
    ca_file: str | None, certificate_file: str | None = None, key_file: str | None = None
) -> ssl.SSLContext:
    """TLS that trusts the usual certificates and those of a file, and shows one of its own. InputError."""
    context = ssl.create_default_context()
    try:
        if (file := ca_file) is not None:
            context.load_verify_locations(file)
        if (file := certificate_file) is not None:
            context.load_cert_chain(file, key_file)
    except (OSError, ssl.SSLError) as error:
        raise InputError(f"cannot read certificates from {file}: {words_of(error)}") from None
    return context


def words_of(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or one_line(error)
