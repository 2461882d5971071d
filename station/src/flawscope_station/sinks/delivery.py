"""Delivery to a sink: messages are sent one after another, each until it is taken."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from typing_extensions import override

from flawscope.errors import FlawscopeError, message_with_type, pluralize
from flawscope_station.inspecting.renderings import InspectionRenderer
from flawscope_station.monitoring.background import STOP_TIMEOUT, BackgroundThread, Backoff
from flawscope_station.sinks.outbox import MAX_COUNTED, Batch, Message, Outbox
from flawscope_station.store.database import StoreError
from flawscope_station.store.records import NotFoundError

T = TypeVar("T")

PICTURE_SIDE = 1280  # pixels of the longer side of a picture that is sent
PAGE_SIZE = 20  # messages that are read at once; then the sink's cursor is written
POLL_INTERVAL = 60.0  # seconds after which a sink looks for messages of which nobody told it
# seconds before a message is sent again
MIN_RETRY_DELAY = 1.0
MAX_RETRY_DELAY = 300.0
BEHIND_SECONDS = 30.0  # seconds after which messages that wait are a problem
SLOW_TEXT = "it takes them more slowly than they come"
MAX_REFUSALS = 6  # of a message that the other side refuses


class MessagePictures:
    """Pictures of messages; None where there is none: `missing_picture_fields` says why.

    Attributes:
        station: its name.
        sender: begins the ids of its messages.
        problems: returns the present problems, as the API shows them.
        products: numbers of the inspected products, by name; they change.
        removed: names of products that were there before the start, and are no more.
    """

    def __init__(
        self,
        renderings: InspectionRenderer,
        station: str = "station",
        sender: str = "",
        problems: Callable[[], list[dict[str, object]]] = list,
        products: Mapping[str, int] | None = None,
        removed: Sequence[str] = (),
    ):
        self.renderings = renderings
        self.station = station
        self.sender = sender
        self.problems = problems
        self.products: Mapping[str, int] = {} if products is None else products
        self.removed = removed

    def original(self, message: Message, view: str | None = None) -> tuple[bytes, str] | None:
        """Return the file as it came, and its ending; without a view, that of the part's most unusual one."""
        found = _read_or_none(lambda: self.renderings.picture(message.product_id, message.number, view))
        return None if found is None else found[:2]

    def view(self, message: Message) -> bytes | None:
        """Return WebP of the picture."""
        view = self.renderings.view
        number = message.number
        return _read_or_none(lambda: view(message.product_id, number, PICTURE_SIDE, patient=True))

    def overlay(self, message: Message) -> bytes | None:
        """Return WebP with heat map and contours; None for an inconspicuous picture.

        The map of such a picture is not kept, and computing it again would delay inspections.
        """
        if not _is_suspicious(message):
            return None
        overlay = self.renderings.overlay
        number = message.number
        return _read_or_none(lambda: overlay(message.product_id, number, PICTURE_SIDE, patient=True))


def missing_picture_fields(message: Message, found: Mapping[str, str | None]) -> dict[str, str | None]:
    """Return a message's fields about missing pictures; empty where none is missing.

    Args:
        message: that gets the fields.
        found: picture and overlay, as far as they are wanted; None: there is none.
    """
    if None not in found.values():
        return {}
    if ("picture" in found and found["picture"] is None) or _is_suspicious(message):
        return {"picture": None, "missing": "the picture was removed, as `keep` says"}
    return {"missing": "nothing stands out on the picture"}


def _is_suspicious(message: Message) -> bool:
    return message.data["decision"] != "good" or bool(message.data["near"])


def _read_or_none(read: Callable[[], T]) -> T | None:
    try:
        return read()
    except NotFoundError:
        return None
    except StoreError as error:
        if error.code == "file_missing":
            return None
        raise


class UndeliveredError(FlawscopeError):
    """The other side did not take a message.

    Attributes:
        blames_message: the other side refuses this message; others may be taken.
        retry_after: seconds for which the other side asks to wait.
    """

    def __init__(self, text: str, *, blames_message: bool = False, retry_after: float = 0.0):
        super().__init__(text)
        self.blames_message = blames_message
        self.retry_after = retry_after


def _blames_message(error: Exception) -> bool:
    """Whether an error is of this message alone.

    The other side refuses the message, or it cannot be made, such as of a picture that is damaged.
    """
    if isinstance(error, UndeliveredError):
        return error.blames_message
    return isinstance(error, ValueError)


class Sink:
    """Contract of a sink. `send` and `refresh` are called from one thread.

    Attributes, which the station sets:
        kind: as the API names it.
        label: for people, without secrets.
        outboxes: of the products whose inspections it gets, which may grow.
    """

    kind: str
    label: str
    outboxes: Sequence[Outbox]

    def prepare(self, *, is_new: bool) -> None:
        """Get ready at the station's start; nothing was ever delivered where `is_new`.

        InputError where it cannot be used.
        """

    def send(self, message: Message) -> None:
        """Send a message; return when the other side has it. UndeliveredError."""
        raise NotImplementedError

    def refresh(self) -> float:
        """Send states, which are no messages; return the seconds until the next call. UndeliveredError.

        It is called after each page of messages, too.
        """
        return POLL_INTERVAL

    @property
    def remark(self) -> str | None:
        """Words on what a person should see to although messages are taken; None: nothing."""
        return None

    def close(self) -> None:
        """End the connection; nothing is sent any more."""


class Delivery(BackgroundThread):
    """Thread that sends to a sink the messages in the store that it has not had, a page at a time.

    Args:
        outboxes: of the products whose inspections are sent, which may grow.
        report: reports the problem, or its end with None.
        refused: is called with a message that was given up, and the reason.
        tell: gets the sink's remark; None: it has none.

    Attributes:
        error: why the last try failed; None: it went well.
    """

    def __init__(
        self,
        sink: Sink,
        outboxes: list[Outbox],
        report: Callable[[str | None], None],
        refused: Callable[[Message, str], None] = lambda message, why: None,
        tell: Callable[[str | None], None] = lambda why: None,
    ):
        super().__init__(f"sink-{sink.kind}")
        self.sink = sink
        self.outboxes = outboxes
        self.report = report
        self.refused = refused
        self._tell = tell
        self.error: str | None = None
        self._backoff = Backoff(MIN_RETRY_DELAY, MAX_RETRY_DELAY, 0.25)
        self._refusals: dict[str, int] = {}  # id of a message -> number of times that it was refused
        self._behind_since: float | None = None  # time since which messages have always waited
        self._polled_at = time.monotonic()  # when all outboxes were read; a new one is due

    @override
    def stop(self, seconds: float | None = STOP_TIMEOUT) -> None:
        """End; a message that is not taken in these seconds is sent again after the next start."""
        super().stop(seconds)
        self.sink.close()

    def waiting(self) -> int:
        """Count the messages that wait, up to `MAX_COUNTED`. StoreError."""
        return min(MAX_COUNTED, sum(box.waiting() for box in self.outboxes))

    # ---- again and again

    @override
    def _work(self) -> None:
        while not self._ended.is_set():
            requested = 0.0
            try:
                pause = self._deliver_pages()
                self._backoff.reset()
                if pause:
                    self._wait(pause)
                continue
            except UndeliveredError as error:
                requested = error.retry_after
                self._report_error(str(error))
            except Exception as error:  # such as a store that is away: inspections go on
                self._report_error(message_with_type(error))
            self._pause(max(requested, self._backoff.next()))

    def _deliver_pages(self) -> float:
        """Deliver a page of each outbox that may have messages; return the seconds until the next round.

        They are 0 where there are more messages. Every `POLL_INTERVAL`, all outboxes are read: an outbox may
        have messages although nobody woke its sink.
        """
        is_complete = True
        is_poll = time.monotonic() - self._polled_at >= POLL_INTERVAL
        if is_poll:
            self._polled_at = time.monotonic()
        for box in self.outboxes:
            if is_poll or box.is_due:
                is_complete &= self._deliver_page(box)
        with self.threads[0].call():
            pause = self.sink.refresh()
        self._tell(getattr(self.sink, "remark", None))  # a plugin may have none
        if is_complete and not self._ended.is_set():
            self._behind_since = None
            self._report_error(None)
            return pause
        self._tell_if_behind()
        return 0.0

    def _deliver_page(self, box: Outbox) -> bool:
        """Deliver a page of an outbox; return whether it was the last."""
        box.is_due = False  # first: what comes meanwhile is read in the next round
        try:
            self._send_again(box)
            batch = box.read_batch(PAGE_SIZE)
            self._deliver_batch(box, batch)
        except BaseException:  # also errors of libraries that derive from BaseException
            box.is_due = True
            raise
        if not batch.is_last:
            box.is_due = True
        return batch.is_last

    def _send_again(self, box: Outbox) -> None:
        """Send the messages that were refused for good and that a person wants to be sent again."""
        refused = box.undelivered
        while wanted := refused.wanted(PAGE_SIZE):
            for inspection, verdict in wanted:
                if self._ended.is_set():
                    return
                message = box.message(inspection, verdict)
                if message is None:
                    refused.forget(inspection, verdict)
                elif self._send_message(box, message):
                    refused.forget(inspection, verdict)
                    box.advance(box.cursor, delivered=1)
                    box.save()

    def _tell_if_behind(self) -> None:
        """Report that messages have always waited for a while.

        It is called in the midst of a page, too, for each message may take long.
        """
        self._behind_since = self._behind_since or time.monotonic()
        if time.monotonic() - self._behind_since > BEHIND_SECONDS:
            self.report(self._waiting_text(SLOW_TEXT))

    def _deliver_batch(self, box: Outbox, batch: Batch) -> None:
        """Send a page of messages; the first that is not taken begins the next page."""
        try:
            for message in batch.messages:
                if self._ended.is_set():
                    return
                is_taken = self._send_message(box, message)
                self._backoff.reset()
                box.advance(box.cursor_after(message), delivered=int(is_taken), refused=int(not is_taken))
                self._tell_if_behind()
            box.advance(batch.end)
        finally:
            if batch.messages or box.is_behind:  # a start passes over unwanted records again
                box.save()

    def _send_message(self, box: Outbox, message: Message) -> bool:
        """Send a message; return False where it was refused for good. UndeliveredError: try again."""
        try:
            with self.threads[0].call():
                self.sink.send(message)
        except Exception as error:
            box.failed += 1
            if not _blames_message(error):
                raise
            tries = self._refusals[message.id] = self._refusals.get(message.id, 0) + 1
            if tries < MAX_REFUSALS:
                raise
            self.refused(message, str(error))
            box.undelivered.keep(message.number, message.verdict, str(error))
            del self._refusals[message.id]
            return False
        self._refusals.pop(message.id, None)
        if self.error is not None:
            self._report_error(None)
        return True

    # ---- what a person should know

    def _report_error(self, why: str | None) -> None:
        self.error = None if why is None else " ".join(why.split())[:300]
        self.report(None if self.error is None else self._waiting_text(self.error))

    def _waiting_text(self, why: str) -> str:
        """Return how many messages wait, where the store is there, and why."""
        try:
            count = self.waiting()
            text = f"{pluralize(count, 'message')} {'waits' if count == 1 else 'wait'}"
            if count >= MAX_COUNTED:
                text = f"{MAX_COUNTED:,} messages or more wait"
        except StoreError:
            text = "messages wait"
        return f"{text} for {self.sink.label}: {why}"
